//! All commands that judge take the same input, and end alike where it is wrong.

use std::process::Command;

use crate::{Answer, Files, SHOP};

/// Each command with what it needs besides an input, on which all of these work.
const COMMANDS: [(&str, &[&str]); 6] = [
    ("explain", &["shop/web", "shop/api:8080"]),
    ("matrix", &[]),
    ("lint", &[]),
    ("compile", &[]),
    ("why", &["10.244.9.9", "--node", "n1"]),
    ("migrate", &["--exit-zero"]),
];

/// A node, which `why` needs.
const NODE: &str = "---\napiVersion: v1\nkind: Node\nmetadata: {name: n1}\n";

/// Runs each command with this input and says its name with its answer.
fn of_all(files: &Files, input: &[&str]) -> Vec<(&'static str, Answer)> {
    let run = |(command, words): &(&'static str, &[&str])| (*command, files.run(&[&[*command], input, words].concat()));
    COMMANDS.iter().map(run).collect()
}

/// The exit code of a command whose input is right.
fn right(command: &str) -> i32 {
    match command {
        // The flow is denied, and the shop has a mistake.
        "explain" | "lint" => 1,
        // No object has the address.
        "why" => 3,
        _ => 0,
    }
}

#[test]
fn each_form_of_input_is_taken_by_all_commands() {
    let whole = format!("{SHOP}{NODE}");
    let files = Files::of(&whole);
    files.add("bom.yaml", &format!("\u{feff}{whole}"));
    let (first, second) = whole.split_once("---\n").unwrap();
    files.add("first.yaml", first);
    files.add("second.yaml", second);
    std::fs::create_dir_all(files.path().join("deep/er")).unwrap();
    files.add("deep/first.yaml", first);
    files.add("deep/er/second.yaml", second);
    let pod = |name: &str| {
        format!(
            "{{\"apiVersion\": \"v1\", \"kind\": \"Pod\", \"metadata\": {{\"name\": \"{name}\", \"namespace\": \"more\"}}}}"
        )
    };
    files.add("joined.json", &format!("{}{}\n{}", pod("a"), pod("b"), pod("c")));
    let plain = of_all(&files, &["-f", "in.yaml"]);
    for input in [&["-f", "bom.yaml"][..], &["-f", "first.yaml,second.yaml"], &["-R", "-f", "deep"], &["-f", "deep"]] {
        for ((command, plain), (_, answer)) in plain.iter().zip(of_all(&files, input)) {
            assert_eq!(answer.code, right(command), "{command} {input:?}: {}{}", answer.out, answer.err);
            // Places differ, and nothing else.
            let lines = |of: &Answer| of.out.lines().filter(|line| !line.contains(".yaml:")).count();
            assert_eq!(lines(plain), lines(&answer), "{command} {input:?}: {}", answer.out);
        }
    }
    for (command, answer) in of_all(&files, &["-f", "in.yaml", "-f", "joined.json"]) {
        assert_eq!(answer.code, right(command), "{command}: {}{}", answer.out, answer.err);
    }
    let joined = files.run(&["matrix", "-f", "joined.json", "-o", "json"]).json();
    assert_eq!(joined["endpoints"].as_array().map(Vec::len), Some(3), "{joined}");
}

#[test]
fn each_wrong_input_is_an_error_of_all_commands() {
    let files = Files::of(&format!("{SHOP}{NODE}"));
    files.add("broken.yaml", "apiVersion: v1\nkind: Pod\nmetadata: {name: a\nspec: {}\n");
    files.add("broken.json", "{\"apiVersion\": \"v1\", \"kind\": \"Pod\",\n \"metadata\": 7}");
    for (input, says) in [
        (&["-f", "nowhere.yaml"][..], "nowhere.yaml"),
        (&["-f", "in.yaml,nowhere.yaml"], "nowhere.yaml"),
        (&["-f", "in.yaml", "--overlay", "nowhere.yaml"], "nowhere.yaml"),
        (&["-f", "in.yaml", "--remove", "netpol/shop/nope"], "nope"),
        (&["-f", "https://example.com/a.yaml"], "curl -s"),
        (&["-f", "in.yaml", "--context", "nope"], "kubeconfig"),
    ] {
        for (command, answer) in of_all(&files, input) {
            assert_eq!((answer.code, answer.out.as_str()), (2, ""), "{command} {input:?}: {}", answer.err);
            assert!(answer.err.contains(says), "{command} {input:?}: {}", answer.err);
        }
    }
    for (broken, place) in [("broken.yaml", "broken.yaml:"), ("broken.json", "broken.json:2:")] {
        for (command, answer) in of_all(&files, &["-f", "in.yaml", "-f", broken]) {
            // What is wrong is what lint shows.
            let said = if command == "lint" { &answer.out } else { &answer.err };
            assert_eq!(answer.code, if command == "lint" { 1 } else { 2 }, "{command}: {}{}", answer.out, answer.err);
            assert!(said.contains(place), "{command} {broken}: {}{}", answer.out, answer.err);
        }
        for (command, answer) in of_all(&files, &["-f", "in.yaml", "-f", broken, "--allow-errors"]) {
            assert!(answer.code != 2, "{command} {broken}: {}{}", answer.out, answer.err);
        }
    }
}

#[test]
fn a_kustomization_is_built_for_all_commands_or_none() {
    let files = Files::of(SHOP);
    for (command, words) in COMMANDS {
        let output = Command::new(env!("CARGO_BIN_EXE_npc"))
            .args([&[command, "-k", "prod"], words].concat())
            .env("PATH", "/nowhere")
            .current_dir(files.path())
            .output()
            .unwrap();
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(2), "{command}: {said}");
        assert!(said.contains("kubectl kustomize prod | npc … -f -"), "{command}: {said}");
    }
}

/// They read no objects, so a file of objects is a mistake.
#[test]
fn commands_that_read_no_objects_take_no_files() {
    let files = Files::of(SHOP);
    for command in ["status", "reason", "version"] {
        let answer = files.npc(command, &[]);
        assert_eq!((answer.code, answer.out.as_str()), (2, ""), "{command}: {}", answer.err);
    }
}
