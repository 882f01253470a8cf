//! Another program takes half of what is ours out of a kernel, under traffic.
//! What that opens is open until it is repaired. But what passes before and
//! after loses no packet while it is, and what neither lets through stays out:
//! whether a running agent puts it right or one that starts from it.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use npc_agent::dataplane::backend::Backend as AgentBackend;
use npc_agent::dataplane::{Kernel as _, Linux};
use npc_compiler::object::Family;
use npc_compiler::plan::KernelState;
use npc_compiler::ruleset::layout::RulesetOptions;
use npc_compiler::ruleset::node::ChainName;
use npc_tests::lab::{Backend, Enforcer, Lab, Mode};
use npc_tests::soak::{Editor, Load, SoakLab};

/// How often that happens in each lab.
const ROUNDS: u64 = 4;

/// For how long the half that is left is under traffic.
const HALVED: Duration = Duration::from_secs(2);

/// Agents get this long.
const PATIENCE: Duration = Duration::from_secs(60);

const NODE: &str = "node-1";

fn start(backend: Backend, mode: Mode, seed: u64) -> Option<(SoakLab, Editor)> {
    let mut editor = Editor::new(seed);
    let builder = Lab::builder(editor.cluster(4)).mode(mode).backend(backend).enforcer(Enforcer::for_test()?);
    Some((SoakLab::start(builder, Load::default(), seed).unwrap(), editor))
}

/// What a node's kernel holds of ours.
fn held(lab: &Lab) -> KernelState {
    let backend = match lab.backend() {
        Backend::Nft => AgentBackend::Nft,
        Backend::Legacy => AgentBackend::Legacy,
    };
    lab.node(NODE).unwrap().within(|| Linux::open(Some(backend)).unwrap().read().unwrap()).unwrap()
}

/// Every other member of every set is gone, from the first or from the second
/// on, and every other chain of groups and trees is empty.
fn halved(mut state: KernelState, first: usize) -> KernelState {
    let is_of_groups = |name: &ChainName| name.direction_of_group().is_some() || name.is_dispatch();
    for held in [&mut state.v4, &mut state.v6] {
        for (_, members) in held.sets.values_mut() {
            *members = members.iter().skip(first).step_by(2).cloned().collect();
        }
        let chains = held.chains.iter_mut().filter(|(name, _)| is_of_groups(name));
        chains.skip(first).step_by(2).for_each(|(_, lines)| lines.clear());
    }
    state
}

/// Takes away what the one state has and the other has not.
fn take_away(lab: &Lab, before: &KernelState, after: &KernelState) {
    let node = lab.node(NODE).unwrap();
    let mut sets = String::new();
    for family in Family::ALL {
        let (before, after) = (before.family(family), after.family(family));
        for (name, (_, members)) in &before.sets {
            for member in members.difference(&after.sets[name].1) {
                writeln!(sets, "del {name} {member}").unwrap();
            }
        }
        let emptied: BTreeMap<_, _> =
            before.chains.iter().filter(|(name, lines)| after.chains[*name].is_empty() && !lines.is_empty()).collect();
        let mut commit = "*filter\n".to_owned();
        for name in emptied.keys() {
            writeln!(commit, ":{name} - [0:0]").unwrap();
        }
        commit.push_str("COMMIT\n");
        let program = if family == Family::V4 { "iptables" } else { "ip6tables" };
        let program = format!("{program}-{}-restore", lab.backend().as_str());
        node.exec([&program, "--noflush"], &commit).unwrap();
    }
    node.exec(["ipset", "restore"], &sets).unwrap();
}

/// Answers what was there before.
fn halve(soak: &mut SoakLab, round: u64) -> KernelState {
    let before = held(soak.lab());
    let after = halved(before.clone(), usize::from(round % 2 == 1));
    assert_ne!(before, after);
    let does = |lab: &Lab| {
        take_away(lab, &before, &after);
        Ok(())
    };
    soak.interfere(NODE, &after, "another program took half of it away", does).unwrap();
    assert_eq!(held(soak.lab()), after);
    before
}

/// One edit, waited for.
fn edit(soak: &mut SoakLab, editor: &mut Editor) {
    let edit = editor.edit(&soak.objects());
    soak.write(edit.objects, &edit.what).unwrap();
    soak.settle().unwrap();
}

fn all_is_well(soak: SoakLab) {
    let (lab, seen) = soak.finish().unwrap();
    eprintln!("{seen}");
    assert_eq!(seen.violations, 0, "{seen}");
    assert!(seen.passed.in_flight > 10 * ROUNDS && seen.stopped.in_flight > 10 * ROUNDS, "{seen}");
    assert!(seen.streamed.in_flight > 10 * ROUNDS, "{seen}");
    assert_eq!(lab.differences(NODE, &RulesetOptions::default()).unwrap(), Vec::<String>::new());
}

fn an_agent_starts_from_half_a_kernel(backend: Backend, mode: Mode, seed: u64) {
    let Some((mut soak, mut editor)) = start(backend, mode, seed) else { return };
    for round in 0..ROUNDS {
        edit(&mut soak, &mut editor);
        soak.stop_agent(NODE, Signal::SIGTERM).unwrap();
        halve(&mut soak, round);
        soak.wait(HALVED).unwrap();
        // What it finds is not what it is to write, every other time.
        let objects = if round % 2 == 0 { soak.objects() } else { editor.edit(&soak.objects()).objects };
        soak.write(objects, "an agent starts").unwrap();
        soak.start_agent(NODE).unwrap();
        soak.settle().unwrap();
    }
    edit(&mut soak, &mut editor);
    all_is_well(soak);
}

#[test]
fn an_agent_starts_from_half_a_kernel_nft() {
    an_agent_starts_from_half_a_kernel(Backend::Nft, Mode::Routed, 21);
}

#[test]
fn an_agent_starts_from_half_a_kernel_legacy() {
    an_agent_starts_from_half_a_kernel(Backend::Legacy, Mode::Bridge, 22);
}

fn a_running_agent_repairs_half_a_kernel(backend: Backend, mode: Mode, seed: u64) {
    let Some((mut soak, mut editor)) = start(backend, mode, seed) else { return };
    for round in 0..ROUNDS {
        edit(&mut soak, &mut editor);
        // All of it is there to be found when it looks; one that repairs while
        // more is taken away cannot know what a packet meets.
        soak.lab_mut().agent(NODE).unwrap().unwrap().signal(Signal::SIGSTOP).unwrap();
        let before = halve(&mut soak, round);
        soak.wait(HALVED).unwrap();
        let repairs = |soak: &SoakLab| soak.lab().log(NODE).unwrap().matches("drift repaired writes=").count();
        let done = repairs(&soak);
        soak.lab_mut().agent(NODE).unwrap().unwrap().signal(Signal::SIGCONT).unwrap();
        let begun = Instant::now();
        while repairs(&soak) == done {
            assert!(begun.elapsed() < PATIENCE, "it is not repaired: {}", soak.lab().log(NODE).unwrap());
            soak.wait(Duration::from_millis(50)).unwrap();
        }
        eprintln!("repaired within {:?}", begun.elapsed());
        // All at once: what is noticed first is not repaired by itself, but for a
        // group that is empty and may go.
        let after = held(soak.lab());
        assert!(after == before || soak.lab().differences(NODE, &RulesetOptions::default()).unwrap().is_empty());
    }
    edit(&mut soak, &mut editor);
    edit(&mut soak, &mut editor);
    let metric = |name| soak.lab().metric(NODE, name).unwrap();
    let (found, repaired) = (metric("npc_drift_found_total"), metric("npc_drift_repaired_total"));
    assert!(found > 10.0 && (found - repaired).abs() < 0.5, "{found} found, {repaired} repaired");
    let log = soak.lab().log(NODE).unwrap();
    assert!(log.contains("kind=chain") && log.contains("kind=members") && log.contains("missing: "), "{log}");
    all_is_well(soak);
}

#[test]
fn a_running_agent_repairs_half_a_kernel_nft() {
    a_running_agent_repairs_half_a_kernel(Backend::Nft, Mode::Bridge, 23);
}

#[test]
fn a_running_agent_repairs_half_a_kernel_legacy() {
    a_running_agent_repairs_half_a_kernel(Backend::Legacy, Mode::Routed, 24);
}
