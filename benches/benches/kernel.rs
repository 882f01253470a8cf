//! What it takes to the real kernel, with both backends, beside a table of
//! others' rules and without: shape 6. Needs root; each case has a network
//! namespace of its own, and they take turns, so that a busy machine is busy
//! for all of them alike.
#![allow(clippy::print_stdout, reason = "a bench prints its figures")]

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::net::Ipv4Addr;
use std::process;
use std::time::Instant;

use npc_agent::dataplane::backend::Backend;
use npc_agent::dataplane::{Kernel as _, Linux};
use npc_benches::netns::Netns;
use npc_benches::samples::Samples;
use npc_benches::shape::{self, BUSY_APPS, BUSY_NAMESPACES};
use npc_benches::{address, app, engine};
use npc_compiler::engine::{Engine, Event, PodKey};
use npc_compiler::object::Pod;
use npc_compiler::plan::{Plan, Step};

/// Rules of others in the filter table.
const FOREIGN: u32 = 50_000;

const ROUNDS: usize = 60;

/// After any failure here there is nothing to measure.
type Result<T> = std::result::Result<T, Box<dyn std::error::Error + Send + Sync>>;

struct Case {
    name: String,
    netns: Netns,
    linux: Linux,
    engine: Engine,
    samples: BTreeMap<&'static str, Figures>,
}

/// What one kind of change takes.
#[derive(Default)]
struct Figures {
    /// Until every packet gets the new verdict.
    in_force: Samples,
    /// Until what no rule refers to now is removed, after a grace period
    /// of the kernel.
    cleared: Samples,
    writes_rules: bool,
}

fn main() -> Result<()> {
    if Netns::create(&format!("npc-bench-{}", process::id())).is_err() {
        println!("shape 6 needs root and iproute2; it was left out");
        return Ok(());
    }
    let mut cases = Vec::new();
    for backend in Backend::ALL {
        for foreign in [0, FOREIGN] {
            cases.push(Case::new(backend, foreign)?);
        }
    }
    for round in 0..ROUNDS {
        for case in &mut cases {
            case.round(round)?;
        }
    }
    println!("shape 6: 250 local pods, 5,000 remote ones, 1,000 policies; to the kernel and back");
    for case in &cases {
        println!("{}", case.name);
        for (what, figures) in &case.samples {
            let rules = if figures.writes_rules { "  (writes rules)" } else { "" };
            println!("  {what:48} in force {}, cleared {}{rules}", figures.in_force, figures.cleared);
        }
    }
    Ok(())
}

impl Case {
    fn new(backend: Backend, foreign: u32) -> Result<Self> {
        let name = format!("npc-bench-{}-{backend}-{foreign}", process::id());
        let netns = Netns::create(&name)?;
        if foreign > 0 {
            netns.exec(&[&format!("iptables-{backend}-restore"), "--noflush"], &others(foreign))?;
        }
        let mut linux = netns.within(|| Linux::open(Some(backend)))??;
        netns.within(|| linux.probe())??;
        let name = format!("iptables-{backend}, {foreign} rules of others");
        let engine = engine("local", shape::busy_node(5_000)).with_retained_groups();
        let mut case = Self { name, netns, linux, engine, samples: BTreeMap::new() };
        case.commit("0 the program from an empty kernel")?;
        case.netns.within(|| case.linux.insert_hook())??;
        Ok(case)
    }

    /// From events to the kernel.
    fn change(&mut self, what: &'static str, events: impl IntoIterator<Item = Event>) -> Result<()> {
        for event in events {
            self.engine.apply(event);
        }
        self.commit(what)
    }

    /// The time of the events themselves is in the figures of `--bench engine`:
    /// microseconds.
    fn commit(&mut self, what: &'static str) -> Result<()> {
        let Self { netns, linux, engine, samples, .. } = self;
        let figures = samples.entry(what).or_default();
        netns.within(|| {
            let begun = Instant::now();
            let mut plan = engine.commit();
            let grace = plan.steps.iter().position(|step| *step == Step::Grace);
            let later = Plan { steps: plan.steps.split_off(grace.unwrap_or(plan.steps.len())) };
            linux.apply(&plan)?;
            figures.in_force.push(begun.elapsed());
            linux.apply(&later)?;
            figures.cleared.push(begun.elapsed());
            figures.writes_rules |= writes_rules(&plan);
            Ok(())
        })?
    }

    fn round(&mut self, round: usize) -> Result<()> {
        let pod = |number: usize, of: usize, uid: usize| -> Pod {
            let namespace = format!("ns-{}", round % BUSY_NAMESPACES);
            let uid = format!("00000000-0000-4000-a000-{uid:012x}");
            Pod { uid, ..npc_benches::pod(number, &namespace, app(format!("app-{of}")), "local") }
        };
        let came = |pod: &Pod| [Event::Pod(Box::new(pod.clone()))];
        let gone = |pod: &Pod| [Event::PodGone(PodKey::of(pod))];
        let local = pod(100_000, 0, 1);
        self.change("1 a local pod comes", came(&local))?;
        self.change("2 it is relabelled, to another known group", came(&pod(100_000, 1, 1)))?;
        self.change("3 it goes", gone(&local))?;
        let remote = Pod { node: Some("elsewhere".to_owned()), ..pod(100_001, 0, 2) };
        self.change("4 a remote pod comes", came(&remote))?;
        self.change("5 it goes", gone(&remote))?;
        let alone = pod(100_002, BUSY_APPS, 3);
        self.change("6 a local pod comes, the first of its kind", came(&alone))?;
        self.change("7 it goes", gone(&alone))?;
        self.change("8 another takes its place", came(&pod(100_003, BUSY_APPS, 4)))?;
        self.engine.apply(Event::PodGone(PodKey::of(&pod(100_003, BUSY_APPS, 4))));
        self.engine.retire();
        self.engine.retire();
        self.commit("9 it goes, and its group is let go of")?;
        self.change("A a policy is edited", [shape::busy_policy(round % 1_000, 10_000 + round)])?;
        self.change("B and edited back", [shape::busy_policy(round % 1_000, 0)])
    }
}

fn writes_rules(plan: &Plan) -> bool {
    plan.steps.iter().any(|step| matches!(step, Step::Chains(..)))
}

/// A table of others, as `iptables-restore` reads it.
fn others(rules: u32) -> String {
    let mut text = String::from("*filter\n:OTHERS - [0:0]\n-A FORWARD -s 192.0.2.0/24 -j OTHERS\n");
    for n in 0..rules {
        let source = Ipv4Addr::from(u32::from(address(0)) + n);
        // Writing to a String cannot fail.
        let _ = writeln!(text, "-A OTHERS -s {source}/32 -p tcp -m tcp --dport {} -j ACCEPT", 1_000 + n % 1_000);
    }
    text.push_str("COMMIT\n");
    text
}
