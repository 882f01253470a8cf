//! The abuse suite: what a tenant who writes only in his own namespace, or sends only from
//! his own pods, does to everyone else on a node. While a case runs, policies and pods of
//! other namespaces come. The suite measures how soon each is in force, and how much memory
//! the agent takes.
//!
//! Each case is a file here and one line in [`CASES`]. The real agent runs in a network
//! namespace, on an API server in this process, with each backend in turn. In each run it is
//! measured first without the abuse, then with it, so that a busy machine is busy for both.
//! Needs root, and the binary: `cargo build --workspace --release --bins`. Arguments choose
//! cases by a part of their names, and backends by `nft` or `legacy`. With `NPC_BENCH_BOTH_WAYS` each
//! case runs twice, with large changes written at once and with them loaded first.
#![allow(clippy::print_stdout, reason = "a bench prints its figures")]

mod agent;
mod aimed;
mod blocks;
mod chains;
mod denied;
mod environment;
mod findings;
mod flips;
mod flows;
mod labels;
mod lists;
mod members;
mod named;
mod ports;
mod requests;
mod rules;
mod scene;
mod sets;
mod splits;
mod wire;

use std::process;
use std::time::Duration;

use npc_agent::dataplane::backend::Backend;
use npc_benches::netns::Netns;
use npc_benches::samples::Samples;

use scene::{Outcome, Scene, Waits};

/// After any failure here there is nothing to measure.
type Result<T> = std::result::Result<T, Box<dyn std::error::Error + Send + Sync>>;

/// One kind of abuse.
#[derive(Debug, Clone, Copy)]
struct Case {
    name: &'static str,
    /// What the tenant does, until [`Scene::is_over`].
    abuse: fn(&Scene) -> Result<()>,
    /// Whether a list of all objects is measured as well, after the abuse. A tenant cannot
    /// cause one; an API server that was away for long does.
    lists: bool,
}

/// All cases.
const CASES: [Case; 22] = [
    Case { name: "nothing", abuse: |_| Ok(()), lists: true },
    Case { name: "labels: 300 pods with 1 MB of labels", abuse: labels::abuse, lists: true },
    Case { name: "named: 300 pods with 1 MB of labels that a policy names", abuse: named::abuse, lists: false },
    Case { name: "lists: 300 policies with 1 MB of values", abuse: lists::abuse, lists: true },
    Case { name: "environment: 400 pods with 1 MB of environment", abuse: environment::abuse, lists: true },
    Case { name: "blocks: a policy with 25,000 ipBlocks", abuse: blocks::abuse, lists: false },
    Case { name: "ports: a policy with 32,000 ports", abuse: ports::abuse, lists: false },
    Case { name: "chains: 32,000 ports in the chains of 100 pods", abuse: chains::abuse, lists: false },
    Case { name: "splits: 5,000 ranges of ports, each in 15,000 pieces", abuse: splits::abuse, lists: false },
    Case { name: "rules: four policies with 8,000 rules", abuse: rules::abuse, lists: false },
    Case { name: "members: 1,000 policies that each admit 20,000 pods", abuse: members::abuse, lists: false },
    Case { name: "findings: 1,000 policies with 100 mistakes", abuse: findings::abuse, lists: false },
    Case { name: "sets: 10 policies with 4,000 rules for no pod", abuse: sets::abuse, lists: false },
    Case {
        name: "flips: labels of a pod, 10 times a second",
        abuse: |scene| {
            flips::abuse(scene);
            Ok(())
        },
        lists: false,
    },
    Case { name: "aimed: 24 policies at each victim", abuse: |scene| aimed::abuse(scene, 24), lists: false },
    Case { name: "aimed: 96 policies at each victim", abuse: |scene| aimed::abuse(scene, 96), lists: false },
    Case { name: "flows: 200,000, and 60 pods replaced", abuse: flows::abuse, lists: false },
    Case { name: "requests: 1,100 that are not finished", abuse: requests::unfinished, lists: false },
    Case { name: "requests: 1,400 with slow heads", abuse: requests::slow, lists: false },
    Case { name: "requests: one behind the other", abuse: requests::pipelined, lists: false },
    Case { name: "denied: flows of twelve groups", abuse: denied::abuse, lists: false },
    Case { name: "nothing, once more", abuse: |_| Ok(()), lists: false },
];

fn main() {
    if Netns::create(&format!("npc-bench-{}", process::id())).is_err() {
        println!("the abuse suite takes root and iproute2; it was left out");
        return;
    }
    let wanted: Vec<String> = std::env::args().skip(1).filter(|arg| !arg.starts_with('-')).collect();
    let is_backend = |arg: &String| Backend::ALL.iter().any(|backend| backend.to_string() == *arg);
    let (backends, names): (Vec<String>, Vec<String>) = wanted.into_iter().partition(is_backend);
    println!("of other namespaces, ms until in force: median/99th percentile, policies; pods");
    for case in CASES {
        if !names.is_empty() && !names.iter().any(|part| case.name.contains(part.as_str())) {
            continue;
        }
        println!("{}", case.name);
        for backend in Backend::ALL {
            if !backends.is_empty() && !backends.contains(&backend.to_string()) {
                continue;
            }
            for loads_first in settings() {
                let way = match loads_first {
                    Some(true) => " loads first",
                    Some(false) => " at once",
                    None => "",
                };
                match Scene::run(case, backend, loads_first) {
                    Ok(outcome) => print(backend, way, &outcome),
                    // The other cases can be measured all the same.
                    Err(error) => println!("  {backend:6}{way} not measured: {error}"),
                }
            }
        }
    }
}

/// How agents treat large changes: as they are shipped, or with each setting in turn.
fn settings() -> Vec<Option<bool>> {
    if std::env::var_os("NPC_BENCH_BOTH_WAYS").is_some() { vec![Some(false), Some(true)] } else { vec![None] }
}

fn print(backend: Backend, way: &str, outcome: &Outcome) {
    let Outcome { before, during, streamed, pages, peak, rules, sets, cpu, loads: [first, last], notes } = outcome;
    println!(
        "  {backend:6}{way} before {}, during {}, {} MB at the peak; {rules} rules, {sets} sets",
        both(before),
        both(during),
        peak >> 20
    );
    println!("         the agent took {cpu:.2} of a processor; load {first:.1} before, {last:.1} after");
    for (how, lists) in [("a streamed list", streamed), ("a list in pages", pages)] {
        if lists.quantile(1_000) > Duration::ZERO {
            println!("         during {how} {} (longest {:.0} ms)", of(lists), millis(lists.quantile(1_000)));
        }
    }
    for note in notes {
        println!("         {note}");
    }
}

fn both(waits: &Waits) -> String {
    format!("{}; {}", of(&waits.policies), of(&waits.pods))
}

fn of(samples: &Samples) -> String {
    format!("{:.0}/{:.0}", millis(samples.median()), millis(samples.quantile(990)))
}

fn millis(time: Duration) -> f64 {
    time.as_secs_f64() * 1e3
}
