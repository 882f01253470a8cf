//! Upgrades and rollbacks: the `npc` of an earlier commit, today's, the earlier one
//! again, under traffic and edits. Flows that are allowed throughout lose no packet,
//! flows that are denied throughout get none through, and today's `npc cleanup`
//! removes what either left: at the end one node has today's agent, another has been
//! rolled back.
//!
//! `NPC_PREVIOUS` is the earlier binary, which `deploy/previous.sh` builds;
//! `NPC_UPGRADE_EDITS` says how many edits each agent sees, `NPC_UPGRADE_SEED` which.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod large;

use std::io::{BufRead as _, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use nix::sys::signal::Signal;
use npc_compiler::ruleset::constants::POD_GROUP;
use npc_tests::lab::{Backend, Enforcer, Lab, Mode};
use npc_tests::skip::{Lack, skipped};
use npc_tests::soak::{Editor, Load, SoakLab};

use crate::number;

/// How many edits an agent sees before the other takes over, in `make test`.
const EDITS: u64 = 6;

/// Today's binary and the earlier one.
fn binaries() -> Option<[PathBuf; 2]> {
    let Enforcer::Agent(today) = Enforcer::for_test()? else { return None };
    let Some(previous) = std::env::var_os("NPC_PREVIOUS") else {
        skipped(
            Lack::Previous,
            &"the npc of an earlier commit is missing: NPC_PREVIOUS=$(deploy/previous.sh) names it",
        );
        return None;
    };
    Some([today, PathBuf::from(previous)])
}

/// The earlier agents, today's, the earlier ones, today's; each takes over where the
/// last was ended or killed, some of them in the middle of an update.
fn there_and_back(backend: Backend, mode: Mode, arguments: &[&str], seed: u64) {
    let Some([today, previous]) = binaries() else { return };
    let (edits, seed) = (number("NPC_UPGRADE_EDITS", EDITS), number("NPC_UPGRADE_SEED", 1) + seed);
    let mut editor = Editor::new(seed);
    let builder = Lab::builder(editor.cluster(4)).mode(mode).backend(backend);
    let builder = arguments.iter().fold(builder, |builder, one| builder.agent_argument(*one));
    let mut soak = SoakLab::start(builder.enforcer(Enforcer::Agent(previous.clone())), Load::default(), seed).unwrap();
    let nodes = soak.nodes();
    assert!(nodes.len() > 1, "{nodes:?}");
    let rolled_back = &nodes[1..];
    let rounds =
        [(&previous, &nodes[..]), (&today, &nodes), (&previous, &nodes), (&today, &nodes), (&previous, rolled_back)];
    for (next, nodes) in rounds {
        soak.lab_mut().set_agent(next.clone());
        for node in nodes {
            // This may be at any point of an update.
            soak.wait(Duration::from_millis(editor.below(150) as u64)).unwrap();
            let signal = if editor.chance(50) { Signal::SIGKILL } else { Signal::SIGTERM };
            soak.stop_agent(node, signal).unwrap();
            soak.start_agent(node).unwrap();
        }
        soak.settle().unwrap();
        for _ in 0..edits {
            let edit = editor.edit(&soak.objects());
            soak.write(edit.objects, &edit.what).unwrap();
            if editor.chance(70) {
                soak.settle().unwrap();
            }
        }
    }
    soak.settle().unwrap();
    for node in &nodes {
        soak.stop_agent(node, Signal::SIGTERM).unwrap();
    }
    let (lab, report) = soak.finish().unwrap();
    let told = format!("{backend:?} {mode:?} {arguments:?} seed {seed}\n{report}");
    eprintln!("{told}");
    assert_eq!(report.violations, 0, "{told}");
    // The test must have seen what it is about.
    assert!(report.passed.in_flight > edits && report.stopped.in_flight > edits, "{told}");
    assert!(report.streams_lived > 0, "{told}");
    for node in &nodes {
        let log = std::fs::read_to_string(lab.folder().join(format!("{node}.log"))).unwrap();
        assert!(!log.contains(" ERROR "), "{log}");
        let netns = lab.node(node).unwrap();
        assert_ne!(left(&lab, node, backend), "", "the agent of {node} left nothing to remove");
        netns.exec([today.to_str().unwrap(), "cleanup"], "").unwrap();
        assert_eq!(left(&lab, node, backend), "", "what npc cleanup left on {node}");
    }
}

/// What of ours is in a node's kernel, as others' programs print it.
fn left(lab: &Lab, node: &str, backend: Backend) -> String {
    let netns = lab.node(node).unwrap();
    let mut left = String::new();
    for program in ["iptables", "ip6tables"] {
        let save = netns.exec([format!("{program}-{}-save", backend.as_str())], "").unwrap();
        left.extend(save.lines().filter(|line| line.contains("NPC-")).map(|line| format!("{line}\n")));
    }
    let sets = netns.exec(["ipset", "list", "-name"], "").unwrap();
    left.extend(sets.lines().filter(|name| name.starts_with("npc")).map(|name| format!("{name}\n")));
    let tables = netns.exec(["nft", "list", "tables"], "").unwrap();
    left.extend(tables.lines().filter(|table| table.ends_with(" npc")).map(|table| format!("{table}\n")));
    // One line for each network interface that is still in the device group of pods' interfaces.
    left.push_str(&netns.exec(["ip", "-o", "link", "show", "group", &POD_GROUP.to_string()], "").unwrap());
    left
}

#[test]
fn nft_routed() {
    there_and_back(Backend::Nft, Mode::Routed, &[], 100);
}

#[test]
fn nft_bridged_with_anti_spoof() {
    there_and_back(Backend::Nft, Mode::Bridge, &["--anti-spoof"], 200);
}

#[test]
fn legacy_routed_with_anti_spoof() {
    there_and_back(Backend::Legacy, Mode::Routed, &["--anti-spoof"], 300);
}

#[test]
fn legacy_bridged() {
    there_and_back(Backend::Legacy, Mode::Bridge, &[], 400);
}

/// An agent in the network namespace of the calling thread.
fn agent(npc: &Path, folder: &Path) -> Child {
    let mut command = Command::new(npc);
    command.args(["agent", "--node", "node-1", "--metrics-address", "off", "--backend", "nft", "--manifests"]);
    command.arg(folder).arg("--ready-file").arg(folder.join("ready"));
    command.stderr(Stdio::piped()).spawn().unwrap()
}

/// Both enforce what the other enforces, so only one may run.
#[test]
fn the_earlier_agent_and_todays_exclude_each_other() {
    let Some(binaries) = binaries() else { return };
    let [today, earlier] = &binaries;
    nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWNET).unwrap();
    for (first, second) in [(earlier, today), (today, earlier)] {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("node.yaml"), "apiVersion: v1\nkind: Node\nmetadata: {name: node-1}\n")
            .unwrap();
        let mut running = agent(first, folder.path());
        let mut log = BufReader::new(running.stderr.take().unwrap()).lines();
        // Every agent says something after it has written the file.
        while !folder.path().join("ready").exists() {
            log.next().expect("it runs on").unwrap();
        }
        let refused = agent(second, folder.path()).wait_with_output().unwrap();
        let said = String::from_utf8_lossy(&refused.stderr).into_owned();
        assert_eq!(refused.status.code(), Some(2), "{said}");
        assert!(said.contains("runs in this network namespace already"), "{said}");
        let cleanup = Command::new(today).arg("cleanup").output().unwrap();
        assert_eq!(cleanup.status.code(), Some(2), "{cleanup:?}");
        running.kill().unwrap();
        running.wait().unwrap();
    }
}
