//! Faults that real agents meet under traffic. After each the kernel
//! holds exactly what the policies ask for, packets are judged accordingly, no
//! denied packet got through while it lasted, and the agents say what happened,
//! in metrics and log.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod api;
mod kernel;
mod process;
mod size;

use std::time::{Duration, Instant};

use npc_compiler::object::Objects;
use npc_compiler::ruleset::layout::RulesetOptions;
use npc_tests::lab::{Backend, Builder, Enforcer, Lab, Mode, report};
use npc_tests::soak::{Editor, Load, SoakLab};

/// Agents that are held up get this long.
const PATIENCE: Duration = Duration::from_secs(180);

/// Two pods in each of three namespaces.
const PODS: usize = 2;

fn builder(objects: Objects, backend: Backend, mode: Mode) -> Option<Builder> {
    let builder = Lab::builder(objects).mode(mode).backend(backend).enforcer(Enforcer::for_test()?);
    Some(builder.patience(PATIENCE))
}

fn start(builder: Builder) -> SoakLab {
    SoakLab::start(builder, Load::default(), 1).unwrap().with_patience(PATIENCE)
}

/// One edit, waited for.
fn edit(soak: &mut SoakLab, editor: &mut Editor) {
    let edit = editor.edit(&soak.objects());
    soak.write(edit.objects, &edit.what).unwrap();
    soak.settle().unwrap();
}

/// What must hold after every fault.
fn all_is_well(soak: SoakLab) -> Lab {
    assert_eq!(soak.known_but_denied().unwrap(), Vec::<String>::new());
    let (mut lab, seen) = soak.finish().unwrap();
    eprintln!("{seen}");
    assert_eq!(seen.violations, 0, "{seen}");
    assert!(seen.passed.settled + seen.passed.in_flight > 0 && seen.stopped.settled + seen.stopped.in_flight > 0);
    as_the_policies_say(&mut lab);
    lab
}

fn as_the_policies_say(lab: &mut Lab) {
    for node in nodes(lab) {
        assert_eq!(lab.differences(&node, &RulesetOptions::default()).unwrap(), Vec::<String>::new(), "{node}");
    }
    let judgement = lab.judge().unwrap();
    let table = report::table(lab, &judgement);
    assert_eq!(judgement.mismatches().count(), 0, "{table}");
}

fn nodes(lab: &Lab) -> Vec<String> {
    lab.cluster().objects.nodes.iter().map(|node| node.name.clone()).collect()
}

/// The sum of a metric over all agents.
fn metric(soak: &SoakLab, name: &str) -> f64 {
    soak.nodes().iter().map(|node| soak.lab().metric(node, name).unwrap()).sum()
}

/// All that was logged by all agents.
fn logs(soak: &SoakLab) -> String {
    soak.nodes().iter().map(|node| soak.lab().log(node).unwrap()).collect()
}

/// Waits until what could not go at once is gone: an audit tries again.
fn as_written(soak: &mut SoakLab) {
    let begun = Instant::now();
    for node in soak.nodes() {
        loop {
            let differences = soak.lab().differences(&node, &RulesetOptions::default()).unwrap();
            if differences.is_empty() {
                break;
            }
            assert!(differences.iter().all(|what| what.ends_with("should not be there")), "{node}: {differences:?}");
            assert!(begun.elapsed() < PATIENCE, "{node}: {differences:?}\n{}", logs(soak));
            soak.wait(Duration::from_millis(200)).unwrap();
        }
    }
}
