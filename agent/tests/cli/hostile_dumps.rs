//! What `iptables-save` and `ipset save` printed, broken, and arguments that name nothing: `npc why` and
//! the other commands that take names end with a code of their contract, and in words for people.

use std::process::{Command, Output};

use crate::Files;
use crate::hostile::{DEBUG, mutated};
use crate::why::{CLUSTER, chain, dumps};

/// Arguments that are no name of anything.
const ODD: [&str; 18] = [
    "",
    "-",
    "\u{202e}",
    "denied[",
    "near[near[x]]",
    "%s%n",
    "../../etc/passwd",
    "a/b/c/d/e",
    "10.0.0.0/33",
    "shop/api:99999",
    "svc/",
    "\u{1b}[31m",
    "\n",
    "NPC-",
    "npc4-",
    "-A NPC-X -m set --match-set",
    "-A \"unclosed",
    "18446744073709551616",
];

/// What is wrong with an answer, if anything is.
fn fault(files: &Files, words: &[&str]) -> Option<String> {
    let npc = Command::new(env!("CARGO_BIN_EXE_npc")).args(words).current_dir(files.path()).output();
    let Output { status, stdout, stderr } = npc.unwrap();
    let (out, err) = (String::from_utf8_lossy(&stdout), String::from_utf8_lossy(&stderr));
    let shows = DEBUG.iter().find(|text| out.contains(**text) || err.contains(**text));
    let is_code = status.code().is_some_and(|code| (0..=5).contains(&code));
    let is_silent = status.code() != Some(0) && out.trim().is_empty() && err.trim().is_empty();
    let is_wrong = !is_code || shows.is_some() || is_silent;
    is_wrong.then(|| format!("{words:?}: {status} {shows:?}\n{}", err.chars().take(600).collect::<String>()))
}

#[test]
fn whatever_a_dump_holds_why_ends_in_words_and_with_a_code_of_its_contract() {
    let files = Files::of(CLUSTER);
    let (chain, kernel) = (chain(&files), dumps(&files));
    let things = [chain.as_str(), "10.0.0.1", "npc4-ingress"];
    let mut wrong = Vec::new();
    for number in 0..84 {
        // Each of the three files meets every kind of change.
        let name = ["v4.save", "v6.save", "sets.save"][number / 14 % 3];
        let whole = std::fs::read_to_string(files.path().join(name)).unwrap();
        std::fs::write(files.path().join(name), mutated(&whole, number)).unwrap();
        let words = [&["why", "-f", "in.yaml", "--node", "n1", things[number % 3]], &kernel[..]].concat();
        wrong.extend(fault(&files, &words));
        std::fs::write(files.path().join(name), whole).unwrap();
    }
    assert!(wrong.is_empty(), "{} of them:\n{}", wrong.len(), wrong.join("\n"));
}

#[test]
fn an_argument_that_names_nothing_is_refused_in_words() {
    let files = Files::of(CLUSTER);
    let mut wrong = Vec::new();
    for odd in ODD {
        let commands: [&[&str]; 9] = [
            &["why", "-f", "in.yaml", "--node", "n1", odd],
            &["why", "-f", "in.yaml", "--node", odd, "10.0.0.1"],
            &["why", "-f", "in.yaml", "--node", "n1", "--seed", odd, "10.0.0.1"],
            &["reason", odd],
            &["schema", odd],
            &["explain", "-f", "in.yaml", odd, "shop/api"],
            &["matrix", "-f", "in.yaml", "-n", odd],
            &["migrate", "-f", "in.yaml", "--max-set-members", odd],
            &["explain", "-f", "in.yaml", "--remove", odd, "any", "any"],
        ];
        wrong.extend(commands.iter().filter_map(|words| fault(&files, words)));
    }
    assert!(wrong.is_empty(), "{} of them:\n{}", wrong.len(), wrong.join("\n"));
}
