//! Rules that say which policies they came from, in the real kernel.

use std::fs;
use std::process::Command;

use nix::sys::signal::Signal;
use npc_agent::dataplane::backend::Backend;
use serde_json::Value;

use super::agent::{Agent, Folder};
use super::namespace::{Namespace, feed, output};
use super::{dump, on_both_backends, saved};

on_both_backends!(
    a_policy_is_found_by_its_name_and_its_rules_are_explained,
    comments_that_another_program_took_away_are_written_again_and_the_next_agent_writes_nothing,
);

/// The rules of the kernel that admit something in the chains of groups.
fn admitting(dump: &[String]) -> Vec<&String> {
    let is_of_group = |line: &&String| line.starts_with("-A NPC-I-") || line.starts_with("-A NPC-E-");
    dump.iter().filter(is_of_group).filter(|line| line.ends_with(" -j RETURN")).collect()
}

fn a_policy_is_found_by_its_name_and_its_rules_are_explained(backend: Backend) {
    let folder = Folder::new();
    let _namespace = Namespace::enter();
    let mut agent = Agent::start(&folder, backend, &[]);
    agent.wait(1);
    let actual = dump(backend);
    let rules = admitting(&actual);
    // In each family one, from web pods.
    assert_eq!(rules.len(), 2, "{actual:#?}");
    assert!(rules.iter().all(|rule| rule.contains("-m comment --comment \"shop/db spec.ingress[0]\"")), "{rules:?}");
    let denies = actual.iter().filter(|line| line.contains("--comment \"Ingress isolated by shop/db\""));
    assert_eq!(denies.count(), 2, "{actual:#?}");

    for family in ["iptables", "ip6tables"] {
        fs::write(folder.path(family), saved(&format!("{family}-{backend}-save"))).unwrap();
    }
    fs::write(folder.path("ipset"), output("ipset", &["save"])).unwrap();
    let why = |thing: &str| -> Value {
        let mut command = Command::new(env!("CARGO_BIN_EXE_npc"));
        command.args(["why", thing, "-o", "json", "--node", "node-1", "-f"]).arg(folder.manifests());
        command.arg("--iptables-save").arg(folder.path("iptables"));
        command.arg("--iptables-save").arg(folder.path("ip6tables"));
        command.arg("--ipset-save").arg(folder.path("ipset"));
        let output = command.output().unwrap();
        assert_eq!(output.status.code(), Some(0), "{}", String::from_utf8_lossy(&output.stderr));
        serde_json::from_slice(&output.stdout).unwrap()
    };
    // Each line of a group's chain as this kernel prints it is found in its chain.
    for line in actual.iter().filter(|line| line.starts_with("-A NPC-I-")) {
        let json = why(line);
        assert_eq!((&json["held"], &json["wanted"]), (&true.into(), &true.into()), "{line}: {json}");
        assert!(json["rules"][0]["number"].is_u64(), "{line}: {json}");
        assert_eq!(json["judges"][0]["endpoint"], "shop/db-1", "{line}: {json}");
    }
    // So is each chain and set of ours, and none is left over.
    let names = actual.iter().filter_map(|line| line.strip_prefix(':').or_else(|| line.strip_prefix("create ")));
    let names = names.filter_map(|rest| rest.split(' ').next()).filter(|name| name.to_lowercase().starts_with("npc"));
    let mut asked = 0;
    for name in names {
        let json = why(name);
        assert_eq!((&json["held"], &json["wanted"]), (&true.into(), &true.into()), "{name}: {json}");
        asked += 1;
    }
    assert!(asked > 10, "{actual:#?}");
    let json = why("10.244.1.2");
    let sets = json["sets"].as_array().unwrap();
    assert!(sets.iter().any(|set| set["meaning"] == "pods app=web of namespace shop"), "{json}");
}

/// Drift, found at a start: the chains keep the names of the ruleset with comments. The chains of
/// an earlier agent without comments have other names; taking these over is in the tests of rules
/// (`hitless/takeover.rs`).
fn comments_that_another_program_took_away_are_written_again_and_the_next_agent_writes_nothing(backend: Backend) {
    let folder = Folder::new();
    let _namespace = Namespace::enter();
    let mut agent = Agent::start(&folder, backend, &[]);
    agent.wait(1);
    let enforced = dump(backend);
    agent.end(Signal::SIGTERM);
    // The same chains, by the same names, without the comments of what admits.
    for family in ["iptables", "ip6tables"] {
        let save = saved(&format!("{family}-{backend}-save"));
        let rules = |line: &&str| line.starts_with("-A NPC-I-");
        let chain = save.lines().find(rules).and_then(|line| line.split(' ').nth(1)).unwrap();
        let bare = |line: &str| match line.split_once(" -m comment --comment \"shop/db spec") {
            Some((before, after)) => format!("{before}{}\n", after.split_once('"').unwrap().1),
            None => format!("{line}\n"),
        };
        let rules: String = save.lines().filter(rules).map(bare).collect();
        let restore = format!("{family}-{backend}-restore");
        feed(&restore, &["--noflush"], &format!("*filter\n:{chain} - [0:0]\n{rules}COMMIT\n"));
    }
    let without = dump(backend);
    assert!(admitting(&without).iter().all(|rule| !rule.contains("comment")), "{without:#?}");
    let mut next = Agent::start(&folder, backend, &[]);
    assert_ne!(next.wait(1), "nothing");
    assert_eq!(dump(backend), enforced);
    next.end(Signal::SIGTERM);
    let mut last = Agent::start(&folder, backend, &[]);
    assert_eq!(last.wait(1), "nothing");
    assert_eq!(dump(backend), enforced);
}
