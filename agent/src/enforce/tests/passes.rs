//! When the agent writes, what, and how often.

use tokio::time;

use super::*;

#[tokio::test(start_paused = true)]
async fn nothing_is_asked_of_the_kernel_before_objects_and_network_are_known() {
    for first in [network(), Input::Objects(objects(&["10.0.0.1"]))] {
        let world = World::new(settings(), 0, vec![first]);
        tokio::time::sleep(Duration::from_secs(3600)).await;
        assert!(world.calls.is_empty());
        world.end().await;
    }
}

/// A part of `objects`, as a list that is not complete.
fn part(known: &mut LastObjects, objects: &Objects) -> Event {
    Event::Changes(Changes { is_part: true, ..known.changes(objects, "node-1") })
}

#[tokio::test(start_paused = true)]
async fn nothing_is_written_for_a_list_before_all_its_parts_are_there() {
    let folder = tempfile::tempdir().expect("a folder");
    let ready = folder.path().join("ready");
    let mut world = World::new(Settings { ready_file: Some(ready.clone()), ..settings() }, 0, vec![network()]);
    for addresses in [&["10.0.0.1"] as &[_], &["10.0.0.1", "10.0.0.2"]] {
        let event = part(&mut world.known, &objects(addresses));
        world.events.send(event).await.expect("the agent listens");
        tokio::time::sleep(Duration::from_secs(3600)).await;
        assert!(world.calls.is_empty());
    }
    // In the last message, only the last pod is new.
    world.send(Input::Objects(objects(&["10.0.0.1", "10.0.0.2", "10.0.0.3"]))).await;
    world.calls([Probe, Read, Apply, Hooked, Cut]).await;
    assert_eq!(world.ingress(), ["10.0.0.1", "10.0.0.2", "10.0.0.3"]);
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert_eq!(fs::read_to_string(&ready).expect("it is ready"), "1\n");
    world.end().await;
}

#[tokio::test(start_paused = true)]
async fn the_jump_goes_in_after_the_chains_and_once() {
    let mut world = World::new(settings(), 0, vec![network(), Input::Objects(objects(&["10.0.0.1"]))]);
    world.calls([Probe, Read, Apply, Hooked, Cut]).await;
    world.send(Input::Objects(objects(&["10.0.0.2"]))).await;
    // What flows the first pod had are not the second one's.
    world.calls([Apply, Cut]).await;
    assert_eq!(world.ingress(), ["10.0.0.2"]);
    world.end().await;
}

#[tokio::test(start_paused = true)]
async fn changes_that_came_while_a_pass_ran_are_one_pass_and_each_counts() {
    let folder = tempfile::tempdir().expect("a folder");
    let ready = folder.path().join("ready");
    let settings = Settings { ready_file: Some(ready.clone()), ..settings() };
    let states = ["10.0.0.1", "10.0.0.2", "10.0.0.3"].map(|address| Input::Objects(objects(&[address])));
    let mut world = World::new(settings, 0, [network()].into_iter().chain(states).collect());
    world.calls([Probe, Read, Apply, Hooked, Cut]).await;
    assert_eq!(world.ingress(), ["10.0.0.3"]);
    // The same again: nothing is written, and it counts as handled.
    world.send(Input::Objects(objects(&["10.0.0.3"]))).await;
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert_eq!(fs::read_to_string(&ready).expect("it is ready"), "4\n");
    world.end().await;
    assert!(ready.exists(), "what is in the kernel stays true");
}

#[tokio::test(start_paused = true)]
async fn a_refusal_is_tried_again_later_and_later_on_what_the_kernel_holds_then() {
    let begun = Instant::now();
    let mut world = World::new(settings(), 3, vec![network(), Input::Objects(objects(&["10.0.0.1"]))]);
    world.calls([Probe, Read, Refused]).await;
    // More to do does not make it hurry.
    world.send(Input::Objects(objects(&["10.0.0.1", "10.0.0.2"]))).await;
    world.calls([Read, Refused, Read, Refused, Read, Apply, Hooked, Cut]).await;
    assert_eq!(begun.elapsed().as_millis(), 250 + 500 + 1000);
    assert_eq!(world.ingress(), ["10.0.0.1", "10.0.0.2"]);
    world.end().await;
}

#[tokio::test(start_paused = true)]
async fn a_pod_in_a_known_group_writes_to_sets_only() {
    let mut world = World::new(settings(), 0, vec![network(), Input::Objects(objects(&["10.0.0.1"]))]);
    world.calls([Probe, Read, Apply, Hooked, Cut]).await;
    world.send(Input::Objects(objects(&["10.0.0.1", "10.0.0.2"]))).await;
    world.calls([Apply, Cut]).await;
    assert_eq!(world.ingress(), ["10.0.0.1", "10.0.0.2"]);
    let plan = world.memory.lock().expect("no thread panicked").plan.clone();
    assert!(plan.steps.iter().all(|step| matches!(step, Step::Sets(_) | Step::Grace)), "{plan:?}");
    world.end().await;
}

#[tokio::test(start_paused = true)]
async fn the_time_of_a_change_ends_when_it_is_in_force_and_not_when_leftovers_are_removed() {
    let settings = settings();
    let metrics = settings.metrics.clone();
    let taken = || {
        let text = crate::metrics::Metrics::text(&metrics.registry()).expect("a String takes it");
        let value = |name: &str| {
            let line = text.lines().find_map(|line| line.strip_prefix(&format!("{name}{{kind=\"Pod\"}} ")));
            line.and_then(|value| value.parse::<f64>().ok()).unwrap_or_default()
        };
        (value("npc_event_to_kernel_seconds_sum"), value("npc_event_to_kernel_seconds_count"))
    };
    let mut world = World::new(settings, 0, vec![network(), Input::Objects(objects(&["10.0.0.1"]))]);
    world.calls([Probe, Read, Apply, Hooked, Cut]).await;
    tokio::time::sleep(Duration::from_secs(1)).await;
    let before = taken();
    // In force at the moment at which the agent got it, with anything that comes then.
    world.memory.lock().expect("no thread panicked").in_force = Some(std::time::Instant::now());
    world.send(Input::Objects(objects(&["10.0.0.1", "10.0.0.2"]))).await;
    world.calls([Apply, Cut]).await;
    tokio::time::sleep(Duration::from_secs(1)).await;
    let after = taken();
    assert!(after.1 > before.1, "{before:?} {after:?}");
    assert!((after.0 - before.0).abs() < f64::EPSILON, "{before:?} {after:?}");
    world.end().await;
}

#[tokio::test(start_paused = true)]
async fn after_a_refusal_the_kernel_gets_to_where_it_would_have_been() {
    let mut world = World::new(settings(), 0, vec![network(), Input::Objects(objects(&["10.0.0.1"]))]);
    world.calls([Probe, Read, Apply, Hooked, Cut]).await;
    world.memory.lock().expect("no thread panicked").refusals = 1;
    let mut edited = objects(&["10.0.0.2"]);
    edited.policies[0].object.metadata.name = Some("another".to_owned());
    let spec = edited.policies[0].object.spec.as_mut().expect("it has one");
    spec.policy_types = Some(vec!["Ingress".to_owned(), "Egress".to_owned()]);
    world.send(Input::Objects(edited.clone())).await;
    world.calls([Refused]).await;
    // What comes in between counts too.
    edited.pods.extend(objects(&["10.0.0.3"]).pods);
    world.send(Input::Objects(edited.clone())).await;
    world.calls([Read, Apply, Hooked, Cut]).await;
    let program = layout::ruleset(&Cluster::new(&edited), "node-1", &layout::RulesetOptions::default());
    assert_eq!(world.memory.lock().expect("no thread panicked").state, KernelState::from(&program));
    world.end().await;
}

#[tokio::test(start_paused = true)]
async fn the_wait_has_an_upper_bound() {
    let begun = Instant::now();
    let mut world = World::new(settings(), 20, vec![network(), Input::Objects(objects(&["10.0.0.1"]))]);
    world.calls([Probe]).await;
    for _ in 0..20 {
        world.calls([Read, Refused]).await;
    }
    world.calls([Read, Apply, Hooked, Cut]).await;
    assert!(begun.elapsed() < Duration::from_secs(20 * 10), "{:?}", begun.elapsed());
    world.end().await;
}

#[tokio::test(start_paused = true)]
async fn audits_do_not_bring_a_retry_forward() {
    let mut world = World::new(settings(), usize::MAX, vec![network(), Input::Objects(objects(&["10.0.0.1"]))]);
    time::sleep(Duration::from_secs(60)).await;
    while world.calls.try_recv().is_ok() {}
    time::sleep(Duration::from_secs(60)).await;
    let mut tries = 0;
    while let Ok(call) = world.calls.try_recv() {
        tries += usize::from(call == Refused);
    }
    assert!((11..=13).contains(&tries), "{tries} tries, one each 5 s");
    world.agent.abort();
}

#[tokio::test(start_paused = true)]
async fn once_waits_until_objects_and_network_are_known() {
    let once = Settings { once: true, ..settings() };
    let mut world = World::new(once, 0, vec![network()]);
    time::sleep(Duration::from_secs(60)).await;
    world.send(Input::Objects(objects(&["10.0.0.1"]))).await;
    world.agent.await.expect("no panic").expect("it went well");
    world.calls.close();
}

#[tokio::test(start_paused = true)]
async fn once_ends_after_one_pass_well_or_not() {
    let once = Settings { once: true, ..settings() };
    let queued = || vec![network(), Input::Objects(objects(&["10.0.0.1"]))];
    let mut world = World::new(once.clone(), 0, queued());
    world.calls([Probe, Read, Apply, Hooked, Cut]).await;
    world.agent.await.expect("no panic").expect("it went well");
    let world = World::new(once, 1, queued());
    let error = world.agent.await.expect("no panic").expect_err("it was refused");
    assert!(matches!(error, Error::Kernel(_)), "{error}");
}

#[tokio::test(start_paused = true)]
async fn an_agent_whose_sources_of_events_ended_ends_with_an_error() {
    let world = World::new(settings(), 0, Vec::new());
    drop(world.events);
    assert!(matches!(world.agent.await.expect("no panic"), Err(Error::NoEvents)));
}
