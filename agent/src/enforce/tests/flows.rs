//! When established flows are judged.

use super::*;

#[tokio::test(start_paused = true)]
async fn flows_are_judged_at_the_start_and_when_something_may_have_become_narrower() {
    let mut world = World::new(settings(), 0, Vec::new());
    let (one, two, other) = (flow("10.0.0.1"), flow("10.0.0.2"), flow("10.0.0.9"));
    world.flows(&[one, two, other]);
    world.send(network()).await;
    let mut open = objects(&["10.0.0.1", "10.0.0.2"]);
    let policies = std::mem::take(&mut open.policies);
    world.send(Input::Objects(open.clone())).await;
    world.calls([Probe, Read, Apply, Hooked, Cut]).await;
    assert_eq!(world.left(), [one, two, other], "no policy denies anything");
    // A pod that no policy isolates comes: the agent writes nothing, and nothing is narrower.
    let mut more = open.clone();
    more.pods.extend(objects(&["10.0.0.3"]).pods);
    world.send(Input::Objects(more)).await;
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert!(world.calls.is_empty());
    // It goes. Its flows may be the next owner's, until there was none for long.
    world.flows(&[flow("10.0.0.3")]);
    world.send(Input::Objects(open.clone())).await;
    let begun = Instant::now();
    world.cut_between_audits().await;
    assert!(begun.elapsed() >= Duration::from_secs(60), "{:?}", begun.elapsed());
    assert_eq!(world.left(), [one, two, other]);
    let isolated = Objects { policies, ..open.clone() };
    world.send(Input::Objects(isolated.clone())).await;
    world.calls([Apply, Cut]).await;
    assert_eq!(world.left(), [other]);
    world.end().await;
}

#[tokio::test(start_paused = true)]
async fn keep_established_lets_flows_go_on() {
    let options = layout::RulesetOptions { keep_established: true, ..layout::RulesetOptions::default() };
    let queued = vec![network(), Input::Objects(objects(&["10.0.0.1"]))];
    let mut world = World::with_options(settings(), options, 0, queued);
    world.flows(&[flow("10.0.0.1")]);
    world.calls([Probe, Read, Apply, Hooked]).await;
    world.end().await;
}

/// No process of a new sandbox has run yet, so flows of its addresses are another pod's.
#[tokio::test(start_paused = true)]
async fn keep_established_lets_no_flow_of_a_new_sandbox_go_on() {
    let options = layout::RulesetOptions { keep_established: true, ..layout::RulesetOptions::default() };
    let queued = vec![network(), Input::Objects(objects(&["10.0.0.1", "10.0.0.2"]))];
    let mut world = World::with_options(settings(), options, 0, queued);
    let all = [flow("10.0.0.1"), flow("10.0.0.2")];
    world.flows(&all);
    world.calls([Probe, Read, Apply, Hooked]).await;
    for (address, is_new) in [("10.0.0.1", true), ("10.0.0.2", false)] {
        let (reply, answered) = tokio::sync::oneshot::channel();
        let addresses = [address.parse().expect("an address")].into();
        let waiter = super::super::Waiter { families: [Family::V4].into(), addresses, is_new, reply };
        world.events.send(Event::Waiters(vec![waiter])).await.expect("the agent listens");
        answered.await.expect("an answer");
    }
    assert_eq!(world.left(), all[1..]);
}
