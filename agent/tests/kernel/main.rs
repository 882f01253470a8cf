//! The dataplane and the agent against the real kernel, with both backends,
//! each test in a network namespace of its own. They need root.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod agent;
mod anti_spoof;
mod azure;
mod bound;
mod bridge;
mod bridges;
mod by_hand;
mod cleanup;
mod comments;
mod config;
mod conntrack;
mod denied;
mod drift;
mod enforce;
mod faults;
mod flow_index;
mod foreign;
mod large;
mod lock;
mod metrics;
mod misnamed;
mod namespace;
mod neighbours;
mod network;
mod nflog;
mod other_backend;
mod other_engines;
mod probing;
mod proof;
mod refusals;
mod requests;
mod rulesets;
mod seed;
mod service;
mod sets;
mod single_instance;
mod spelling;

use npc_agent::dataplane::backend::Backend;

/// Makes a test of each backend from a function that takes one.
macro_rules! on_both_backends {
    ($($test:ident),+ $(,)?) => {
        mod nft {
            $(#[test] fn $test() { super::$test(npc_agent::dataplane::backend::Backend::Nft); })+
        }
        mod legacy {
            $(#[test] fn $test() { super::$test(npc_agent::dataplane::backend::Backend::Legacy); })+
        }
    };
}
use on_both_backends;

/// What a command prints that saves a table. It fails if an agent removes a set between the
/// listing of a rule and the look at its set, and is run again then.
fn saved(program: &str) -> String {
    loop {
        let output = std::process::Command::new(program).output().unwrap();
        if output.status.success() {
            return String::from_utf8(output.stdout).unwrap();
        }
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert!(stderr.contains("in kernel doesn't exist"), "{program}: {stderr}");
    }
}

/// What a backend and ipset hold, as their own tools print it, less what
/// changes by itself: dates, counters and hash seeds.
fn dump(backend: Backend) -> Vec<String> {
    let mut text = String::new();
    for family in ["iptables", "ip6tables"] {
        text.push_str(&saved(&format!("{family}-{backend}-save")));
    }
    text.push_str(&namespace::output("ipset", &["save"]));
    let lines = text.lines().filter(|line| !line.starts_with('#'));
    let lines = lines.map(|line| match line.split_once(" [") {
        Some((chain, _)) if line.starts_with(':') => chain,
        _ => line.split(" initval ").next().unwrap_or_default(),
    });
    lines.map(str::to_owned).collect()
}
