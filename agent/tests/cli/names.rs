//! Names that operators and scripts see are added, never renamed or taken away: what a
//! release had, the next one has. `names.txt` is that list; the names of chains and sets
//! are held by the compiler's tests.
//!
//! `NPC_GOLDEN=write` in the environment adds the names that are new.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use npc_agent::metrics::Metrics;
use serde_json::Value;

use crate::Files;

const SCHEMAS: [(&str, &str); 7] = [
    ("flow-explanation", include_str!("../../schemas/flow-explanation.json")),
    ("migration-report", include_str!("../../schemas/migration-report.json")),
    ("kernel-explanation", include_str!("../../schemas/kernel-explanation.json")),
    ("connectivity-matrix", include_str!("../../schemas/connectivity-matrix.json")),
    ("finding-report", include_str!("../../schemas/finding-report.json")),
    ("endpoint-explanation", include_str!("../../schemas/endpoint-explanation.json")),
    ("policy-explanation", include_str!("../../schemas/policy-explanation.json")),
];

/// The metrics, as the agent prints them without a value.
fn metrics(names: &mut BTreeSet<String>) {
    let text = Metrics::default().registry();
    let text = Metrics::text(&text).unwrap();
    let types = text.lines().filter_map(|line| line.strip_prefix("# TYPE "));
    names.extend(types.map(|metric| format!("metric {metric}")));
}

/// The commands, and the flags and variables of each.
fn flags(names: &mut BTreeSet<String>) {
    let files = Files::of("");
    let help = |words: &[&str]| {
        let answer = files.run(words);
        assert_eq!(answer.code, 0, "{words:?}: {}", answer.err);
        answer.out
    };
    let all = help(&["--help"]);
    let (_, commands) = all.split_once("Commands:\n").unwrap();
    let commands = commands.lines().take_while(|line| !line.is_empty());
    for command in
        commands.filter_map(|line| line.strip_prefix("  ")?.split(' ').next().filter(|name| !name.is_empty()))
    {
        names.insert(format!("command {command}"));
        for line in help(&[command, "--help"]).lines() {
            let option = line.trim_start();
            if option.starts_with('-') && line.len() - option.len() <= 6 {
                let flags = option.split([' ', ',', '=', '[']).filter(|word| word.starts_with('-'));
                names.extend(flags.map(|flag| format!("flag {command} {flag}")));
            }
            let variables = line.split("[env: ").skip(1).filter_map(|rest| rest.split(['=', ']']).next());
            names.extend(variables.map(|variable| format!("variable {command} {variable}")));
        }
    }
}

/// The variables that programs read themselves, beside those of flags: `npc` and `npc-cni`, by their sources.
fn variables(names: &mut BTreeSet<String>) {
    let repository = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    // The CNI plugin gives its reader of variables a function, so that tests give it others.
    for (program, folder, reads) in [
        ("npc", "agent/src", &["env::var(", "env::var_os("][..]),
        ("npc-cni", "cni-plugin/src", &["env::var(", "env::var_os(", "given("][..]),
    ] {
        let mut files = Vec::new();
        sources(&repository.join(folder), &mut files);
        for file in files {
            let text = std::fs::read_to_string(&file).unwrap();
            // Of a file, its tests come last.
            let text = text.split("#[cfg(test)]\nmod tests {").next().unwrap();
            for argument in reads.iter().flat_map(|call| text.split(*call).skip(1)) {
                match argument.strip_prefix('"').and_then(|rest| rest.split_once('"')) {
                    Some((variable, _)) => drop(names.insert(format!("variable {program} {variable}"))),
                    None => assert!(argument.starts_with("name)"), "{}: name the variable here", file.display()),
                }
            }
        }
    }
    // A library reads it for npc.
    names.insert("variable npc NPC_COMPLETE".to_owned());
}

/// The sources below a folder, without those of tests.
fn sources(folder: &Path, files: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            sources(&path, files);
        } else if path.extension().is_some_and(|extension| extension == "rs") && !path.ends_with("tests.rs") {
            files.push(path);
        }
    }
}

/// The keys of a document, by the schema that ships with it.
fn keys(document: &str, schema: &Value, path: &str, names: &mut BTreeSet<String>) {
    let Some(schema) = schema.as_object() else { return };
    for (word, inner) in schema {
        match (word.as_str(), inner) {
            ("properties" | "$defs", Value::Object(inner)) => {
                for (key, inner) in inner {
                    let path = format!("{path}/{key}");
                    names.insert(format!("key {document} {path}"));
                    keys(document, inner, &path, names);
                }
            }
            (_, Value::Array(all)) => all.iter().for_each(|inner| keys(document, inner, path, names)),
            _ => keys(document, inner, path, names),
        }
    }
}

#[test]
fn names_that_operators_see_stay() {
    let mut names = BTreeSet::new();
    metrics(&mut names);
    flags(&mut names);
    variables(&mut names);
    for (document, schema) in SCHEMAS {
        keys(document, &serde_json::from_str(schema).unwrap(), "", &mut names);
    }
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/cli/names.txt");
    let golden = std::fs::read_to_string(&path).unwrap_or_default();
    if std::env::var_os("NPC_GOLDEN").is_some_and(|what| what == "write") {
        let all: BTreeSet<&str> = golden.lines().chain(names.iter().map(String::as_str)).collect();
        std::fs::write(&path, all.into_iter().flat_map(|name| [name, "\n"]).collect::<String>()).unwrap();
        return;
    }
    let sorted: BTreeSet<&str> = golden.lines().collect();
    assert!(golden.lines().eq(sorted.iter().copied()), "sorted, and each once: NPC_GOLDEN=write");
    let new: Vec<&String> = names.iter().filter(|name| !sorted.contains(name.as_str())).collect();
    assert!(new.is_empty(), "not in the list yet: NPC_GOLDEN=write adds {new:#?}");
    let gone: Vec<&str> = golden.lines().filter(|name| !names.contains(*name)).collect();
    assert!(gone.is_empty(), "scripts and dashboards may use these, and they are gone: {gone:#?}");
    for kind in ["metric ", "command ", "flag agent ", "variable agent ", "variable npc ", "key flow-explanation "] {
        assert!(golden.lines().any(|name| name.starts_with(kind)), "no {kind}in the list");
    }
}
