//! What other programs change is found and repaired.

use super::faults::Fault;
use super::*;

#[tokio::test(start_paused = true)]
async fn drift_is_repaired_and_flows_are_judged_then() {
    let mut world = World::new(settings(), 0, vec![network(), Input::Objects(objects(&["10.0.0.1"]))]);
    world.calls([Probe, Read, Apply, Hooked, Cut]).await;
    let begun = Instant::now();
    world.calls([Audited, Audited]).await;
    assert!(begun.elapsed() <= Duration::from_secs(10));
    *world.memory.lock().expect("no thread panicked") = Memory::default();
    // What was noticed is followed by a look at everything.
    world.calls([Audited, Audited, Apply, Hooked, Cut]).await;
    assert_eq!(world.ingress(), ["10.0.0.1"]);
    world.end().await;
}

#[tokio::test(start_paused = true)]
async fn a_full_audit_that_fails_leads_to_a_read_of_everything() {
    let mut world = World::new(settings(), 0, vec![network(), Input::Objects(objects(&["10.0.0.1"]))]);
    world.calls([Probe, Read, Apply, Hooked, Cut, Audited]).await;
    *world.memory.lock().expect("no thread panicked") = Memory { is_blind: true, ..Memory::default() };
    // The jump is gone as well.
    world.calls([Audited, Audited, Read, Apply, Hooked, Cut]).await;
    assert_eq!(world.ingress(), ["10.0.0.1"]);
    world.end().await;
}

#[tokio::test(start_paused = true)]
async fn flows_are_judged_that_began_while_a_rule_was_gone_that_another_program_put_back() {
    let settings = settings();
    let registry = settings.metrics.registry();
    let mut world = World::new(settings, 0, vec![network(), Input::Objects(objects(&["10.0.0.1"]))]);
    world.calls([Probe, Read, Apply, Hooked, Cut, Audited]).await;
    {
        let mut memory = world.memory.lock().expect("no thread panicked");
        memory.put_back = Some(std::mem::take(&mut memory.state));
    }
    world.calls([Audited, Audited, Cut]).await;
    world.end().await;
    let text = Metrics::text(&registry).expect("a String takes it");
    let count = |line: &str| line.rsplit(' ').next().and_then(|count| count.parse::<u64>().ok());
    let found = text.lines().filter(|line| line.starts_with("npc_drift_found_total{what=\"chain\"}")).find_map(count);
    assert!(found > Some(0), "{text}");
}

#[tokio::test(start_paused = true)]
async fn drift_that_an_audit_could_not_repair_counts_as_repaired_after_the_next_pass() {
    let settings = settings();
    let registry = settings.metrics.registry();
    let sum = |name: &str| {
        let text = Metrics::text(&registry).expect("a String takes it");
        let values = text.lines().filter(|line| line.starts_with(name)).filter_map(|line| line.rsplit(' ').next());
        values.map(|value| value.parse::<u64>().expect("a count")).sum::<u64>()
    };
    let mut world = World::new(settings, 0, vec![network(), Input::Objects(objects(&["10.0.0.1"]))]);
    world.calls([Probe, Read, Apply, Hooked, Cut, Audited]).await;
    *world.memory.lock().expect("no thread panicked") = Memory { refusals: 1, ..Memory::default() };
    world.calls([Audited, Audited, Refused, Read]).await;
    let found = sum("npc_drift_found_total");
    assert!(found > 0);
    world.calls([Apply, Hooked, Cut]).await;
    world.end().await;
    assert_eq!((sum("npc_drift_found_total"), sum("npc_drift_repaired_total")), (found, found));
}

#[tokio::test(start_paused = true)]
async fn a_jump_that_went_between_an_audit_and_the_repair_of_the_other_family_is_reported() {
    let settings = settings();
    let registry = settings.metrics.registry();
    let mut world = World::new(settings, 0, vec![network(), Input::Objects(objects(&["10.0.0.1"]))]);
    world.calls([Probe, Read, Apply, Hooked, Cut, Audited]).await;
    {
        let mut memory = world.memory.lock().expect("no thread panicked");
        memory.hooks[0] = Hook::Absent;
        // Once that is repaired, both jumps go, before the second is looked at.
        memory.fault = Some((0, Fault::DropHook));
    }
    // The first jump is found twice, and so is repaired twice.
    for call in [Hooked, Cut, Hooked, Cut] {
        while world.calls.recv().await != Some(call) {}
    }
    world.end().await;
    let text = Metrics::text(&registry).expect("a String takes it");
    for line in ["npc_drift_found_total{what=\"hook\"} 3", "npc_drift_repaired_total{what=\"hook\"} 3"] {
        assert!(text.lines().any(|found| found == line), "{line}: {text}");
    }
}
