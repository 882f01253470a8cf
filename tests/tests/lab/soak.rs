//! Hitless in the kernel: through many edits and restarts of the agents, flows that are allowed throughout lose no packet, and flows that are denied
//! throughout in one direction get none through.
//!
//! `NPC_SOAK_EDITS` says how many edits each of the four clusters sees,
//! `NPC_SOAK_SEED` which, `NPC_SOAK_RESTARTS` in how many of a hundred an agent
//! restarts; `NPC_SOAK_AGENT` is another `npc` to put on trial.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

use std::path::PathBuf;
use std::time::Duration;

use nix::sys::signal::Signal;
use npc_tests::lab::{Backend, Enforcer, Lab, Mode, can_run};
use npc_tests::soak::{Editor, Load, SoakLab};

use crate::{number, sampled};

/// At most this many states may be written before an agent must have followed.
const AHEAD: usize = 12;

fn agents() -> Option<Enforcer> {
    if let Some(path) = std::env::var_os("NPC_SOAK_AGENT") {
        return Some(Enforcer::Agent(PathBuf::from(path)));
    }
    Enforcer::for_test()
}

/// Agents restart with other flags now and then, which change their chains as
/// another version might.
const VERSIONS: [&[&str]; 2] = [&[], &["--allow-tunnels"]];

fn edits_and_restarts(backend: Backend, mode: Mode, seed: u64) {
    if !can_run() {
        return;
    }
    let Some(agents) = agents() else { return };
    let (edits, seed) = (number("NPC_SOAK_EDITS", sampled(30, 200) as u64), number("NPC_SOAK_SEED", 1) + seed);
    let restarted = usize::try_from(number("NPC_SOAK_RESTARTS", 15)).unwrap();
    let mut editor = Editor::new(seed);
    let builder = Lab::builder(editor.cluster(4)).mode(mode).backend(backend).enforcer(agents);
    let mut soak = SoakLab::start(builder, Load::default(), seed).unwrap();
    let nodes = soak.nodes();
    let (mut ahead, mut restarts, mut killed) = (0, 0, 0);
    for _ in 0..edits {
        let edit = editor.edit(&soak.objects());
        soak.write(edit.objects, &edit.what).unwrap();
        ahead += 1;
        if editor.chance(restarted) {
            let node = &nodes[editor.below(nodes.len())];
            // This may be at any point of the update.
            soak.wait(Duration::from_millis(editor.below(200) as u64)).unwrap();
            let kill = editor.chance(60);
            soak.stop_agent(node, if kill { Signal::SIGKILL } else { Signal::SIGTERM }).unwrap();
            restarts += 1;
            killed += usize::from(kill);
            if editor.chance(50) {
                let version = VERSIONS[editor.below(VERSIONS.len())];
                soak.lab_mut().set_agent_arguments(version.iter().map(|&flag| flag.to_owned()).collect());
            }
        }
        if editor.chance(25) && ahead < AHEAD {
            // The next one comes while this one is under way.
            soak.wait(Duration::from_millis(editor.below(120) as u64)).unwrap();
            continue;
        }
        let all = editor.chance(70) || ahead >= AHEAD;
        if all {
            for node in &nodes {
                soak.start_agent(node).unwrap();
            }
            ahead = 0;
        }
        soak.settle().unwrap();
    }
    for node in &nodes {
        soak.start_agent(node).unwrap();
    }
    soak.settle().unwrap();
    let (lab, report) = soak.finish().unwrap();
    let told =
        format!("{backend:?} {mode:?} seed {seed}: {edits} edits, {restarts} restarts ({killed} by force)\n{report}");
    eprintln!("{told}");
    assert_eq!(report.violations, 0, "{told}");
    for node in &nodes {
        let log = std::fs::read_to_string(lab.folder().join(format!("{node}.log"))).unwrap();
        assert!(!log.contains(" ERROR "), "{log}");
    }
    // The test must have seen what it is about.
    assert!(report.passed.in_flight > edits && report.stopped.in_flight > edits, "{told}");
    assert!(report.streams_lived > 0 && report.streamed.in_flight > edits, "{told}");
}

#[test]
fn nft_routed() {
    edits_and_restarts(Backend::Nft, Mode::Routed, 100);
}

#[test]
fn nft_bridged() {
    edits_and_restarts(Backend::Nft, Mode::Bridge, 200);
}

#[test]
fn legacy_routed() {
    edits_and_restarts(Backend::Legacy, Mode::Routed, 300);
}

#[test]
fn legacy_bridged() {
    edits_and_restarts(Backend::Legacy, Mode::Bridge, 400);
}
