//! The abuse suite: what a tenant who writes only in his own namespace, or sends only from
//! his own pods, does to everyone else on a node. While a case runs, policies of other
//! namespaces come, and the suite measures how soon each is in force and how much memory
//! the agent takes.
//!
//! Each case is a file here and one line in [`CASES`]. The real agent runs in a network
//! namespace, on an API server in this process. Needs root, and the binary:
//! `cargo build --workspace --release --bins`. Arguments name the cases to run, by a part
//! of their names.
#![allow(clippy::print_stdout, reason = "a bench prints its figures")]

mod environment;
mod labels;
mod lists;
mod scene;

use std::process;

use npc_benches::netns::Netns;

use scene::{Outcome, Scene};

/// Whatever fails here leaves nothing to measure.
type Result<T> = std::result::Result<T, Box<dyn std::error::Error + Send + Sync>>;

/// One kind of abuse.
#[derive(Debug, Clone, Copy)]
struct Case {
    name: &'static str,
    /// What the tenant does, from the start of the agent to the last measurement.
    abuse: fn(&Scene),
}

/// All cases.
const CASES: [Case; 4] = [
    Case { name: "nothing", abuse: |_| {} },
    Case { name: "labels: 300 pods with 1 MB of labels", abuse: labels::abuse },
    Case { name: "lists: 300 policies with 1 MB of values", abuse: lists::abuse },
    Case { name: "environment: 400 pods with 1 MB of environment", abuse: environment::abuse },
];

fn main() -> Result<()> {
    if Netns::create(&format!("npc-bench-{}", process::id())).is_err() {
        println!("the abuse suite takes root and iproute2; it was left out");
        return Ok(());
    }
    let wanted: Vec<String> = std::env::args().skip(1).filter(|arg| !arg.starts_with('-')).collect();
    println!(
        "another namespace's default-deny in force after: median, 99th percentile; the agent's memory at its peak"
    );
    for case in CASES {
        if !wanted.is_empty() && !wanted.iter().any(|part| case.name.contains(part.as_str())) {
            continue;
        }
        for streams in [true, false] {
            let Outcome { median, percentile_99, peak } = Scene::run(case.abuse, streams)?;
            let lists = if streams { "streamed" } else { "in pages" };
            println!(
                "{:48} {lists:9} {:7.1} ms {:7.1} ms {:5} MB",
                case.name,
                median.as_secs_f64() * 1e3,
                percentile_99.as_secs_f64() * 1e3,
                peak >> 20
            );
        }
    }
    Ok(())
}
