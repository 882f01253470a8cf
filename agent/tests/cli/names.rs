//! Names that operators and scripts see are added, never renamed or taken away: what a
//! release had, the next one has. `names.txt` is that list; the names of chains and sets
//! are held by the compiler's tests.
//!
//! `NPC_GOLDEN=write` in the environment adds the names that are new.

use std::collections::BTreeSet;
use std::path::Path;

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
    for kind in ["metric ", "command ", "flag agent ", "variable agent ", "key flow-explanation "] {
        assert!(golden.lines().any(|name| name.starts_with(kind)), "no {kind}in the list");
    }
}
