//! The documents list what there is.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::process::Command;

use serde_json::Value;

use crate::{chart, npc, read, repository, tools, yaml};

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
        let expected = format!("NPC_{}", words.to_uppercase().replace('-', "_"));
        match words {
            // As others call them.
            "node" => assert_eq!(variable, "NODE_NAME"),
            "log-level" => assert_eq!(variable, "NPC_LOG"),
            "once" => assert_eq!(variable, "–"),
            _ => assert_eq!(variable, &expected),
        }
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
    let Some(npc) = npc() else { return };
    let help = tools::run(&npc, [], &["agent", "--help"]);
    let settings = settings();
    let mut flags = 0;
    // A flag's paragraph begins with it and, if there is one, ends with its variable.
    for paragraph in help.split("\n      --").skip(1).chain(help.split("\n  -h, --").skip(1)) {
        let flag = format!("--{}", paragraph.split([' ', '\n']).next().unwrap());
        if flag == "--help" {
            continue;
        }
        let variable = paragraph.split("[env: ").nth(1).map_or("–", |rest| rest.split('=').next().unwrap());
        let row = settings.iter().find(|[name, ..]| name.split(' ').next() == Some(&flag));
        let [_, documented, _] = row.unwrap_or_else(|| panic!("docs/configure.md has no {flag}"));
        assert_eq!(documented, variable, "{flag}");
        flags += 1;
    }
    assert!(flags > 8, "{help}");
}

#[test]
fn variables_without_a_flag_are_documented() {
    let (text, names) = (read("docs/configure.md"), read("agent/tests/cli/names.txt"));
    let variables: Vec<&str> = names
        .lines()
        .filter_map(|name| name.strip_prefix("variable npc ").or_else(|| name.strip_prefix("variable npc-cni ")))
        .collect();
    assert!(variables.contains(&"NPC_FLOW_INDEX") && variables.contains(&"CNI_COMMAND"), "{variables:?}");
    for variable in variables {
        let (alone, with_value) = (format!("`{variable}`"), format!("`{variable}=0`"));
        assert!(text.contains(&alone) || text.contains(&with_value), "docs/configure.md has no {variable}");
    }
}

#[test]
fn the_agent_takes_the_charts_configuration() {
    let Some(npc) = npc() else { return };
    let schema: Value = serde_json::from_str(&read("deploy/chart/values.schema.json")).unwrap();
    let known = schema["properties"]["config"]["properties"].as_object().unwrap();
    let values = chart::values();
    let shipped = values["config"].as_object().unwrap();
    assert!(known.keys().eq(shipped.keys()), "the schema has what values.yaml does not set, or the reverse");
    let folder = tempfile::tempdir().unwrap();
    let says = |config: &Value| {
        let file = folder.path().join("config.yaml");
        fs::write(&file, yaml::text(config)).unwrap();
        // It ends at the kubeconfig, which it reads after the configuration.
        let arguments = [Path::new("agent"), Path::new("--kubeconfig=/nowhere"), Path::new("--config"), &file];
        let output = Command::new(&npc).args(arguments).env("NPC_METRICS_ADDRESS", "off").output().unwrap();
        assert!(!output.status.success());
        String::from_utf8(output.stderr).unwrap()
    };
    let good = says(&values["config"]);
    assert!(!good.contains("config.yaml"), "{good}");
    let bad = says(&serde_json::json!({"backnd": "nft"}));
    assert!(bad.contains("config.yaml") && bad.contains("did you mean backend?"), "{bad}");
}

/// The patch that has the DaemonSet clean up replaces what is there.
#[test]
fn the_patch_to_remove_everything_fits_the_daemonset() {
    let text = read("docs/operate.md");
    let (_, rest) = text.split_once("-p '").expect("the patch was not found");
    let patch: Value = serde_json::from_str(rest.split_once('\'').unwrap().0).unwrap();
    let daemonset = yaml::file(&repository("deploy/kustomize/base/daemonset.yaml")).remove(0);
    for operation in patch.as_array().unwrap() {
        let replaced = daemonset.pointer(operation["path"].as_str().unwrap());
        assert!(operation["op"] == "replace" && replaced.is_some(), "{operation}");
    }
}

#[test]
fn the_configurations_are_of_documented_keys() {
    let keys: BTreeSet<_> = settings().into_iter().map(|[_, _, key]| key).collect();
    let schema: Value = serde_json::from_str(&read("deploy/chart/values.schema.json")).unwrap();
    let systemd = yaml::documents(&read("deploy/systemd/config.yaml")).remove(0);
    let configurations = [&schema["properties"]["config"]["properties"], &systemd];
    for key in configurations.iter().flat_map(|configuration| configuration.as_object().unwrap().keys()) {
        assert!(keys.contains(key), "docs/configure.md has no {key}");
    }
}

/// A restart of the service must not take away what the CNI plugin reported, and no ready
/// file may outlive the agent.
#[test]
fn the_service_keeps_its_folder_and_removes_the_ready_file() {
    let unit = read("deploy/systemd/npc.service");
    let settings: BTreeSet<&str> = unit.lines().collect();
    assert!(settings.contains("RuntimeDirectory=npc") && settings.contains("RuntimeDirectoryPreserve=yes"));
    let configuration = yaml::documents(&read("deploy/systemd/config.yaml")).remove(0);
    let ready = configuration["readyFile"].as_str().unwrap();
    assert!(ready.starts_with("/run/npc/"));
    assert!(settings.contains(&*format!("ExecStopPost=-/bin/rm -f {ready}")));
}

/// Our documents: their paths from the repository's top.
fn documents() -> Vec<String> {
    let mut found = Vec::new();
    for folder in [".", "docs", "docs/adr", "deploy", "benches"] {
        for entry in fs::read_dir(repository(folder)).unwrap() {
            let path = entry.unwrap().path();
            if path.extension().is_some_and(|extension| extension == "md") {
                let name = path.file_name().unwrap().to_str().unwrap();
                found.push(format!("{folder}/{name}").trim_start_matches("./").to_owned());
            }
        }
    }
    assert!(found.len() > 15, "{found:?}");
    found
}

/// The anchors of a document's headings, as GitHub and GitLab make them.
fn anchors(document: &str) -> BTreeSet<String> {
    let mut is_code = false;
    let mut found = BTreeSet::new();
    for line in document.lines() {
        is_code ^= line.starts_with("```");
        if let Some(heading) =
            line.trim_start_matches('#').strip_prefix(' ').filter(|_| line.starts_with('#') && !is_code)
        {
            let kept = heading.chars().filter(|c| c.is_alphanumeric() || [' ', '-', '_'].contains(c));
            found.insert(kept.collect::<String>().to_lowercase().replace(' ', "-"));
        }
    }
    found
}

/// Every relative link of our documents leads to a file, and to a heading in it if it
/// names one.
#[test]
fn links_lead_somewhere() {
    for document in documents() {
        let text = read(&document);
        let folder = repository(&document).parent().unwrap().to_owned();
        for link in text.split("](").skip(1).map(|rest| rest.split(')').next().unwrap()) {
            if link.contains("://") {
                continue;
            }
            let (path, anchor) = link.split_once('#').map_or((link, None), |(path, anchor)| (path, Some(anchor)));
            let target = if path.is_empty() { repository(&document) } else { folder.join(path) };
            assert!(target.exists(), "{document}: {link}");
            if let Some(anchor) = anchor {
                let headings = anchors(&fs::read_to_string(&target).unwrap());
                assert!(headings.contains(anchor), "{document}: {link} is none of {headings:?}");
            }
        }
    }
}
