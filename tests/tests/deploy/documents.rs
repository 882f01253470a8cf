//! The documents list what there is.

use std::collections::BTreeSet;

use serde_json::Value;

use crate::{read, repository, tools};

/// The rows of the table in docs/configure.md: flag, variable, key.
fn settings() -> Vec<[String; 3]> {
    let text = read("docs/configure.md");
    let rows = text.lines().filter(|line| line.starts_with("| `--"));
    rows.map(|row| {
        let mut cells = row.split('|').skip(1).map(|cell| cell.trim().trim_matches('`').to_owned());
        [cells.next().unwrap(), cells.next().unwrap(), cells.next().unwrap()]
    })
    .collect()
}

#[test]
fn a_flag_a_variable_and_a_key_have_one_name() {
    let settings = settings();
    assert!(settings.len() > 10, "the table was not found");
    for [flag, variable, key] in &settings {
        let words = flag.trim_start_matches('-').split(' ').next().unwrap();
        assert_eq!(variable, &format!("NPC_{}", words.to_uppercase().replace('-', "_")));
        if key == "–" {
            continue;
        }
        let mut camel = String::new();
        for (index, word) in words.split('-').enumerate() {
            let (first, rest) = word.split_at(1);
            camel.push_str(&if index == 0 { first.to_owned() } else { first.to_uppercase() });
            camel.push_str(rest);
        }
        assert_eq!(key, &camel);
    }
}

#[test]
fn the_agents_flags_are_documented() {
    let npc = std::env::current_exe().unwrap().parent().unwrap().join("../npc");
    if !npc.is_file() {
        eprintln!("SKIPPED: there is no {}, so its flags are not compared", npc.display());
        return;
    }
    let documented: BTreeSet<_> =
        settings().into_iter().map(|[flag, ..]| flag.split(' ').next().unwrap().to_owned()).collect();
    let help = tools::run(&npc, [], &["agent", "--help"]);
    let flags = help.lines().filter_map(|line| line.trim_start().trim_start_matches("-h, ").strip_prefix("--"));
    let flags: Vec<_> = flags.map(|flag| format!("--{}", flag.split(' ').next().unwrap())).collect();
    assert!(flags.len() > 5, "{help}");
    for flag in flags.iter().filter(|flag| *flag != "--help") {
        assert!(documented.contains(flag), "docs/configure.md has no {flag}");
    }
}

#[test]
fn the_charts_configuration_is_of_documented_keys() {
    let keys: BTreeSet<_> = settings().into_iter().map(|[_, _, key]| key).collect();
    let schema: Value = serde_json::from_str(&read("deploy/chart/values.schema.json")).unwrap();
    for key in schema["properties"]["config"]["properties"].as_object().unwrap().keys() {
        assert!(keys.contains(key), "docs/configure.md has no {key}");
    }
}

/// Every relative link of our documents leads to a file.
#[test]
fn links_lead_somewhere() {
    let documents = [
        "README.md",
        "ARCHITECTURE.md",
        "deploy/aks.md",
        "docs/install.md",
        "docs/configure.md",
        "docs/operate.md",
        "docs/troubleshoot.md",
        "docs/enforcement.md",
        "docs/limits.md",
        "docs/security.md",
        "docs/comparison.md",
    ];
    for document in documents {
        let folder = repository(document).parent().unwrap().to_owned();
        for link in read(document).split("](").skip(1).map(|rest| rest.split(')').next().unwrap()) {
            let path = link.split('#').next().unwrap();
            if link.contains("://") || path.is_empty() {
                continue;
            }
            assert!(folder.join(path).exists(), "{document}: {link}");
        }
    }
}
