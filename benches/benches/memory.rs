//! The memory that it takes to compile: of an engine after the first program and
//! at its peak on the way there, for each remote pod, and of all that a controller
//! works out. Every figure is that of a process of its own, because what one gave
//! back another would use again.
#![allow(clippy::print_stdout, reason = "a bench prints its figures")]

use std::env;
use std::hint::black_box;
use std::process::Command;
use std::time::Instant;

use npc_benches::shape::{all_to_all, few_kinds, label_groups, many_blocks, many_namespaces, one_node};
use npc_benches::{engine, everything, objects, resident};
use npc_compiler::engine::Event;

/// Names the case to the process that is to measure it.
const CASE: &str = "NPC_BENCH_MEMORY";

/// How many remote pods there are, where one is to be told from many.
const REMOTE: usize = 250_000;

/// A name, the node, and the objects.
type Case = (&'static str, &'static str, fn() -> Box<dyn Iterator<Item = Event>>);

const SHAPES: [Case; 6] = [
    ("1: 100,000 pods, 75,000 policies, 1,000 nodes", "node-0", || Box::new(many_namespaces(25_000, 1_000))),
    ("1: the same on one node", "node-0", || Box::new(many_namespaces(25_000, 1))),
    ("2: 10,000 pods, 10,000 policies, all to all", "node", || Box::new(all_to_all(10_000, 10_000))),
    ("3: 100,000 pods in 10,000 groups, 10,100 policies", "node-0", || Box::new(label_groups(100, 1_000, 100))),
    ("4: 200 local and 250,000 remote pods, 10,000 policies", "local", || Box::new(one_node(REMOTE, 10_000))),
    ("5: 1,000 ipBlocks with exceptions", "node", || Box::new(many_blocks(1_000))),
];

/// Shape 1 as a controller works it out, from objects that it has.
const CONTROLLER: &str = "1: everything, with the objects";

/// Remote pods beside the same without them, and how many labels of its own
/// each pod has.
const REMOTES: [(Case, Case, usize); 3] = [
    (
        ("1,000 kinds of labels, no policies", "local", || Box::new(few_kinds(REMOTE, 1_000))),
        ("nothing", "local", || Box::new(few_kinds(0, 1_000))),
        0,
    ),
    (
        ("shape 4 without policies: each its own 15 labels", "local", || Box::new(one_node(REMOTE, 0))),
        ("shape 4 without policies and remote pods", "local", || Box::new(one_node(0, 0))),
        15,
    ),
    (
        ("shape 4: the same, and each a peer of ours", "local", || Box::new(one_node(REMOTE, 10_000))),
        ("shape 4 without remote pods", "local", || Box::new(one_node(0, 10_000))),
        15,
    ),
];

/// What a process measured of itself, in bytes.
struct Measured {
    resident: u64,
    peak: u64,
}

fn main() {
    let remotes = REMOTES.iter().flat_map(|(with, without, _)| [with, without]);
    if let Ok(name) = env::var(CASE) {
        if let Some((_, node, objects)) = SHAPES.iter().chain(remotes).find(|(known, ..)| *known == name) {
            measure(node, objects());
        } else if name == CONTROLLER {
            measure_controller(many_namespaces(25_000, 1_000));
        }
        return;
    }
    println!("first program: resident, peak");
    for name in SHAPES.iter().map(|(name, ..)| *name).chain([CONTROLLER]) {
        let Measured { resident, peak } = ask(name);
        println!("{name:56} {:6} MB {:6} MB", resident >> 20, peak >> 20);
    }
    println!("each of {REMOTE} remote pods: resident, without 8 bytes for each label of its own");
    for ((with, ..), (without, ..), labels) in &REMOTES {
        let each = (ask(with).resident - ask(without).resident) / REMOTE as u64;
        println!("{with:56} {each:6} B  {:6} B", each - 8 * *labels as u64);
    }
}

/// Has a case measured by a process that does nothing else.
fn ask(name: &str) -> Measured {
    let own = env::current_exe().unwrap_or_else(|error| panic!("a process knows its file: {error}"));
    let output = Command::new(own).env(CASE, name).output();
    let output = output.unwrap_or_else(|error| panic!("cannot start the process that measures: {error}"));
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let mut numbers = text.split_whitespace().filter_map(|number| number.parse().ok());
    match (numbers.next(), numbers.next()) {
        (Some(resident), Some(peak)) => Measured { resident, peak },
        _ => panic!("{name} was not measured: {text}{}", String::from_utf8_lossy(&output.stderr)),
    }
}

fn measure_controller(events: impl Iterator<Item = Event>) {
    let before = resident::now();
    let objects = objects(events);
    let (given, begun) = (resident::now().saturating_sub(before), Instant::now());
    black_box(everything(&objects));
    eprintln!("{:?}, {} MB of objects", begun.elapsed(), given >> 20);
    println!("{} {}", resident::now().saturating_sub(before), resident::peak().saturating_sub(before));
}

fn measure(node: &str, objects: impl Iterator<Item = Event>) {
    let before = resident::now();
    let begun = Instant::now();
    let mut engine = engine(node, objects);
    black_box(engine.commit());
    let took = begun.elapsed();
    println!("{} {}", resident::now().saturating_sub(before), resident::peak().saturating_sub(before));
    eprintln!("{took:?}");
    drop(engine);
}
