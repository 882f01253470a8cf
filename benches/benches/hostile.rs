//! What the largest policies that a tenant can write cost, as curves: twice the items
//! should take little more than twice the time.
#![allow(clippy::print_stdout, reason = "a bench prints its figures")]

use std::hint::black_box;
use std::time::Instant;

use npc_benches::hostile::{self, NODE};
use npc_compiler::cluster::Cluster;
use npc_compiler::ruleset::layout::{self, RulesetOptions};

fn main() {
    let wanted: Vec<String> = std::env::args().skip(1).filter(|arg| !arg.starts_with('-')).collect();
    println!("{:9} {:12} {:9} {:12} {:9}", "items", "engine", "an item", "at once", "an item");
    for (name, workload, most) in hostile::ALL {
        if !wanted.is_empty() && !wanted.iter().any(|part| name.contains(part.as_str())) {
            continue;
        }
        println!("{name}");
        for items in [most / 8, most / 4, most / 2, most] {
            let events = workload(items);
            let objects = npc_benches::objects(events.clone());
            let begun = Instant::now();
            let mut engine = npc_benches::engine(NODE, events);
            black_box(engine.commit());
            let by_events = begun.elapsed();
            let begun = Instant::now();
            black_box(layout::ruleset(&Cluster::new(&objects), NODE, &RulesetOptions::default()));
            let at_once = begun.elapsed();
            let each = |took: std::time::Duration| {
                took.as_secs_f64() * 1e6 / f64::from(u32::try_from(items).unwrap_or(u32::MAX))
            };
            println!(
                "{items:9} {:9.1} ms {:6.2} µs {:9.1} ms {:6.2} µs",
                by_events.as_secs_f64() * 1e3,
                each(by_events),
                at_once.as_secs_f64() * 1e3,
                each(at_once)
            );
        }
    }
}
