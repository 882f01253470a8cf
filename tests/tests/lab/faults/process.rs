//! Faults of the agent's own process: it is killed, its disk is full.

use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use npc_tests::lab::faults::SmallDisk;
use npc_tests::lab::{Backend, Mode};
use npc_tests::soak::Editor;

use super::{PATIENCE, PODS, all_is_well, builder, edit, logs, start};
use crate::sampled;

#[test]
fn killed_at_random_points_through_many_updates() {
    /// At most this many may be written before every agent has to have followed.
    const AHEAD: usize = 10;
    let updates = sampled(80, 200);
    let mut editor = Editor::new(11);
    let Some(builder) = builder(editor.cluster(PODS), Backend::Nft, Mode::Routed) else { return };
    let mut soak = start(builder);
    let nodes = soak.nodes();
    let mut killed = 0;
    for update in 1..=updates {
        let edit = editor.edit(&soak.objects());
        soak.write(edit.objects, &edit.what).unwrap();
        soak.wait(Duration::from_millis(editor.below(60) as u64)).unwrap();
        if editor.chance(30) {
            soak.stop_agent(&nodes[editor.below(nodes.len())], Signal::SIGKILL).unwrap();
            killed += 1;
        }
        if update % AHEAD == 0 || editor.chance(40) {
            for node in &nodes {
                soak.start_agent(node).unwrap();
            }
        }
        if update % AHEAD == 0 {
            soak.settle().unwrap();
        }
    }
    let log = logs(&soak);
    let said = |what: &str| log.matches(what).count();
    let (starts, took_over) = (said("npc agent starts"), said("found the ruleset of an earlier agent"));
    assert!(killed > updates / 5 && starts > killed / 2, "{killed} were killed, {starts} started");
    // Some are killed again before they have read the kernel.
    assert!(took_over > starts / 4, "{took_over} of {starts} took over");
    for node in &nodes {
        assert!(soak.lab().metric(node, "npc_ready").unwrap() > 0.0);
        assert!(soak.lab().log(node).unwrap().contains("found the ruleset of an earlier agent"), "{node}");
    }
    all_is_well(soak);
}

/// Neither logs nor ready files can be written any more.
#[test]
fn the_disk_is_full() {
    const EDITS: usize = 12;
    let mut editor = Editor::new(15);
    let folder = tempfile::tempdir().unwrap();
    let Some(builder) = builder(editor.cluster(PODS), Backend::Nft, Mode::Routed) else { return };
    let disk = SmallDisk::mount(folder.path().to_owned()).unwrap();
    // More is logged than there is room for in the last page of a file.
    let builder = builder.agent_folder(disk.path()).agent_argument("--log-level").agent_argument("debug");
    let mut soak = start(builder).asking();
    edit(&mut soak, &mut editor);
    for number in 0..EDITS {
        // A new agent removes the ready file, and makes room by that.
        disk.fill().unwrap();
        edit(&mut soak, &mut editor);
        if number % 3 == 1 {
            soak.stop_agent("node-2", Signal::SIGKILL).unwrap();
            soak.start_agent("node-2").unwrap();
        }
    }
    for node in soak.nodes() {
        // An agent that has just begun is ready once it has also judged the flows that it found.
        let begun = Instant::now();
        while soak.lab().metric(&node, "npc_ready").unwrap() == 0.0 {
            assert!(begun.elapsed() < PATIENCE, "{node} does not enforce");
            soak.wait(Duration::from_millis(20)).unwrap();
        }
        let metric = |name: &str| soak.lab().metric(&node, name).unwrap();
        let (files, lines) = (metric("npc_ready_file_failures_total"), metric("npc_log_lines_lost_total"));
        assert!(files > 0.0 && lines > 0.0, "{node}: {files} files, {lines} lines");
    }
    disk.empty().unwrap();
    edit(&mut soak, &mut editor);
    for node in soak.nodes() {
        let agent = soak.lab_mut().agent(&node).unwrap().unwrap();
        agent.wait_log("log lines were lost before this one").unwrap();
    }
    all_is_well(soak);
}
