//! Faults in the kernel: others flush the agent's rules, hold its lock,
//! and what it asks for fails.

use std::time::{Duration, Instant};

use npc_compiler::ruleset::layout::RulesetOptions;
use npc_tests::lab::faults::{LockHeld, NetlinkFaults, failing_programs};
use npc_tests::lab::{Backend, Mode};
use npc_tests::soak::{Editor, Load, SoakLab};

use super::{PATIENCE, PODS, all_is_well, as_written, builder, edit, logs, metric, start};
use crate::sampled;

fn iptables_is_flushed_by_another(backend: Backend) {
    let mut editor = Editor::new(12);
    let Some(builder) = builder(editor.cluster(PODS), backend, Mode::Routed) else { return };
    let mut soak = start(builder);
    edit(&mut soak, &mut editor);
    // Nothing can be promised of the moment until the agent has noticed.
    soak.excuse();
    for family in ["iptables", "ip6tables"] {
        let program = format!("{family}-{}", backend.as_str());
        let run = |flush| soak.lab().node("node-1").unwrap().exec([&*program, flush], "");
        run("-F").unwrap();
        // An agent that was quicker has rules again that lead to the chains, and then they cannot go.
        let _ = run("-X");
    }
    let begun = Instant::now();
    while !soak.lab().differences("node-1", &RulesetOptions::default()).unwrap().is_empty() {
        assert!(begun.elapsed() < PATIENCE, "what was flushed is not repaired");
        soak.wait(Duration::from_millis(50)).unwrap();
    }
    eprintln!("repaired within {:?}", begun.elapsed());
    // Its chains are there; what began in between is cut a moment later.
    edit(&mut soak, &mut editor);
    soak.excuse_no_more();
    edit(&mut soak, &mut editor);
    let of = |name: &str| soak.lab().metric("node-1", name).unwrap();
    let (found, repaired) = (of("npc_drift_found_total"), of("npc_drift_repaired_total"));
    // One for each jump at least.
    assert!(found >= 2.0, "{found} found");
    assert_eq!(found.to_string(), repaired.to_string(), "all that was found was repaired");
    let log = soak.lab().log("node-1").unwrap();
    assert!(log.contains("drift found"), "{log}");
    if backend == Backend::Nft {
        // There the kernel says which process wrote.
        assert!(log.lines().any(|line| line.contains("drift found") && line.contains("tables")), "{log}");
    }
    all_is_well(soak);
}

#[test]
fn iptables_is_flushed_by_another_nft() {
    iptables_is_flushed_by_another(Backend::Nft);
}

#[test]
fn iptables_is_flushed_by_another_legacy() {
    iptables_is_flushed_by_another(Backend::Legacy);
}

/// Only legacy has a lock.
#[test]
fn the_lock_is_held_for_long() {
    // The agent waits for it again and again, a second or two each time.
    let held_for = Duration::from_secs(sampled(10, 30) as u64);
    let mut editor = Editor::new(13);
    let folder = tempfile::tempdir().unwrap();
    let lock = folder.path().join("xtables.lock");
    let Some(builder) = builder(editor.cluster(PODS), Backend::Legacy, Mode::Bridge) else { return };
    let mut soak = start(builder.agent_variable("XTABLES_LOCKFILE", &lock));
    edit(&mut soak, &mut editor);
    let held = LockHeld::take(&lock).unwrap();
    let begun = Instant::now();
    while begun.elapsed() < held_for {
        let edit = editor.edit(&soak.objects());
        soak.write(edit.objects, &edit.what).unwrap();
        soak.wait(held_for / 5).unwrap();
    }
    drop(held);
    soak.settle().unwrap();
    edit(&mut soak, &mut editor);
    // A node with nothing to write waits for no lock.
    let waited = metric(&soak, "npc_xtables_lock_wait_seconds_sum");
    let log = logs(&soak);
    assert!(log.contains("got the xtables lock"), "{log}");
    assert!(waited > 1.0 && log.contains("for the xtables lock, which"), "waited {waited} s\n{log}");
    all_is_well(soak);
}

/// Sets go by netlink, so no ipset can fail.
#[test]
fn iptables_fails_at_random() {
    const PERCENT: usize = 15;
    let mut editor = Editor::new(14);
    let folder = tempfile::tempdir().unwrap();
    let path = failing_programs(folder.path(), PERCENT).unwrap();
    let Some(builder) = builder(editor.cluster(PODS), Backend::Nft, Mode::Bridge) else { return };
    let mut soak = start(builder.agent_variable("PATH", path));
    // Which calls fail is chance, so there is no number of edits by which enough of them have.
    let mut edits = 0;
    let is_over = |soak: &SoakLab| {
        ["npc_pass_failures_total", "npc_restore_failures_total"].iter().all(|name| metric(soak, name) > 1.0)
    };
    while edits < sampled(8, 20) || !is_over(&soak) {
        assert!(edits < 100, "hardly a call failed\n{}", logs(&soak));
        edit(&mut soak, &mut editor);
        edits += 1;
    }
    let log = logs(&soak);
    assert!(log.contains("ruleset not programmed") && log.contains("injected fault"), "{log}");
    // A chain that could not go, because deleting it failed thrice, goes within
    // a few rounds.
    let begun = Instant::now();
    loop {
        let differences = |node: &String| soak.lab().differences(node, &RulesetOptions::default()).unwrap();
        let differing: Vec<_> = soak.nodes().iter().map(|node| (node.clone(), differences(node))).collect();
        if differing.iter().all(|(_, differences)| differences.is_empty()) {
            break;
        }
        assert!(begun.elapsed() < PATIENCE, "{differing:?}\n{}", logs(&soak));
        soak.wait(Duration::from_secs(1)).unwrap();
    }
    all_is_well(soak);
}

/// A kernel without memory refuses writes to sets, or does a part of them, or
/// does them and cannot say so; and the same with the flows that it knows.
fn sets_fail_at_random(backend: Backend, mode: Mode, seed: u64) {
    const KINDS: [&str; 7] = ["half", "refused", "answer-lost", "answer-late", "not-sent", " list", " flows"];
    const PERCENT: u32 = 5;
    /// More of the flows that a kernel knows last than without faults.
    const SHOTS: [usize; 2] = [5, 3];
    const STREAMS: [usize; 2] = [64, 48];
    let mut editor = Editor::new(seed);
    let folder = tempfile::tempdir().unwrap();
    let Some(builder) = builder(editor.cluster(PODS + 1), backend, mode) else { return };
    let (faults, builder) = NetlinkFaults::inject(builder, folder.path(), seed).unwrap();
    let load = Load { shots: SHOTS, streams: STREAMS, burst: 500, ..Load::default() };
    let mut soak = SoakLab::start(builder, load, 1).unwrap().with_patience(PATIENCE);
    faults.set_percent(PERCENT).unwrap();
    let of = |what: &str| {
        let met = faults.met().unwrap();
        met.iter().filter(|(name, _)| name.contains(what)).map(|(_, count)| count).sum::<usize>()
    };
    let failures =
        |soak: &SoakLab| ["npc_pass_failures_total", "npc_ipset_failures_total"].map(|name| metric(soak, name));
    // Which faults are met is chance, so there is no number of edits by which all of them are.
    let is_over = |soak: &SoakLab| {
        KINDS.into_iter().all(|kind| of(kind) > 0) && failures(soak).into_iter().all(|failures| failures > 1.0)
    };
    let mut number = 0;
    while number < sampled(10, 20) || !is_over(&soak) {
        assert!(number < 100, "{:#?}", faults.met());
        edit(&mut soak, &mut editor);
        assert_eq!(soak.known_but_denied().unwrap(), Vec::<String>::new(), "they pass, whatever the rules say");
        if number % 4 == 3 {
            // What an agent takes for written has to be.
            as_written(&mut soak);
        }
        number += 1;
    }
    let log = logs(&soak);
    // It names the write, and why it was refused.
    let refused = log.lines().filter(|line| line.contains("the kernel refused `"));
    assert!(refused.clone().any(|line| line.contains("Cannot allocate memory")), "{log}");
    faults.set_percent(0).unwrap();
    edit(&mut soak, &mut editor);
    as_written(&mut soak);
    all_is_well(soak);
}

#[test]
fn sets_fail_at_random_nft() {
    sets_fail_at_random(Backend::Nft, Mode::Routed, 18);
}

#[test]
fn sets_fail_at_random_legacy() {
    sets_fail_at_random(Backend::Legacy, Mode::Bridge, 19);
}
