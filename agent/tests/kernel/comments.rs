//! Rules that say which policies they came from, in the real kernel.

use nix::sys::signal::Signal;
use npc_agent::dataplane::backend::Backend;

use super::agent::{Agent, Folder};
use super::namespace::{Namespace, feed};
use super::{dump, on_both_backends, saved};

on_both_backends!(
    a_policy_is_found_by_its_name,
    a_ruleset_without_comments_gets_them_and_the_next_agent_writes_nothing,
);

/// The rules of the kernel that admit something in the chains of groups.
fn admitting(dump: &[String]) -> Vec<&String> {
    let is_of_group = |line: &&String| line.starts_with("-A NPC-I-") || line.starts_with("-A NPC-E-");
    dump.iter().filter(is_of_group).filter(|line| line.ends_with(" -j RETURN")).collect()
}

fn a_policy_is_found_by_its_name(backend: Backend) {
    let folder = Folder::new();
    let _namespace = Namespace::enter();
    let mut agent = Agent::start(&folder, backend, &[]);
    agent.wait(1);
    let held = dump(backend);
    let rules = admitting(&held);
    // In each family one, from web pods.
    assert_eq!(rules.len(), 2, "{held:#?}");
    assert!(rules.iter().all(|rule| rule.contains("-m comment --comment \"shop/db spec.ingress[0]\"")), "{rules:?}");
    let denies = held.iter().filter(|line| line.contains("--comment \"Ingress isolated by shop/db\""));
    assert_eq!(denies.count(), 2, "{held:#?}");
}

fn a_ruleset_without_comments_gets_them_and_the_next_agent_writes_nothing(backend: Backend) {
    let folder = Folder::new();
    let _namespace = Namespace::enter();
    let mut agent = Agent::start(&folder, backend, &[]);
    agent.wait(1);
    let enforced = dump(backend);
    agent.end(Signal::SIGTERM);
    // The same chains without the comments of what admits.
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
