//! However an API server answers, an agent sends it few requests.

use std::time::Duration;

use npc_tests::apiserver::{Fault, Resource, Server, Verb};
use proptest::prelude::*;
use tokio::time::sleep;

use super::world::{WATCHED, World};

/// Not more requests in a minute, of all kinds together, once a fault has lasted.
const LASTING: usize = 60;

/// Not more requests in the first minute.
const FIRST: usize = 150;

/// The fault strikes an agent that runs, and every watch that is open ends.
async fn requests_under(fault: Fault) -> [usize; 2] {
    let world = World::follow(World::server(3));
    world.in_sync().await;
    world.server.inject(fault);
    world.server.disturb(None, npc_tests::apiserver::Disturbance::Break);
    [world.requests_in(60).await, world.requests_in(60).await]
}

/// The fault strikes an agent that starts.
async fn requests_at_start_under(fault: Fault) -> [usize; 2] {
    let server = World::server(3);
    server.inject(fault);
    let world = World::follow(server);
    [world.requests_in(60).await, world.requests_in(60).await]
}

/// Requests under a fault in the first minute, and in a minute later.
fn are_no_storm(name: &str, [first, lasting]: [usize; 2]) {
    assert!(first <= FIRST && lasting <= LASTING, "{name}: {first} requests in a minute, then {lasting}");
}

#[tokio::test(start_paused = true)]
async fn no_fault_makes_a_storm_of_requests() {
    for (name, fault) in Fault::every() {
        are_no_storm(name, requests_under(fault).await);
    }
}

#[tokio::test(start_paused = true)]
async fn no_fault_makes_a_storm_of_requests_at_the_start() {
    for (name, fault) in Fault::every() {
        are_no_storm(name, requests_at_start_under(fault).await);
    }
}

#[tokio::test(start_paused = true)]
async fn a_source_recovers_from_every_fault_that_ends() {
    // What a list without objects takes away is the business of `held`.
    for (name, fault) in Fault::every().into_iter().filter(|(name, _)| *name != "lists nothing") {
        let server = World::server(3);
        let fault = server.inject(fault);
        let world = World::follow(server);
        sleep(Duration::from_secs(60)).await;
        fault.lift();
        world.in_sync().await;
        world.server.put(&super::world::policy("late"));
        world.until(name, |seen| seen.policies.contains("late") && seen.pods.len() == 3).await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_watch_that_ends_at_once_is_counted() {
    let world = World::follow(World::server(1));
    world.in_sync().await;
    let before = world.metric("npc_watch_failures_total");
    let fault = world.server.inject(Fault::empty().on(Resource::Pods).verbs(&[Verb::Watch]));
    world.server.disturb(Some(Resource::Pods), npc_tests::apiserver::Disturbance::End);
    world.server.until("it ends at once", |_| fault.met() >= 4).await.unwrap();
    assert!(world.metric("npc_watch_failures_total") >= before + 3.0);
}

#[tokio::test(start_paused = true)]
async fn retry_after_is_obeyed() {
    let world = World::follow(World::server(1));
    world.in_sync().await;
    let fault = world.server.inject(Fault::too_many_requests(25).times(4));
    world.server.disturb(None, npc_tests::apiserver::Disturbance::Break);
    world.server.until("each watch was refused", |_| fault.met() == 4).await.unwrap();
    let before = world.requests().len();
    sleep(Duration::from_secs(20)).await;
    assert_eq!(world.requests().len(), before, "it asks again before the time that the server named");
    world.in_sync().await;
}

/// Faults one after another, each for a while: the bound holds in every window.
fn bounded(faults: &[(usize, u64, bool)]) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().start_paused(true).build().unwrap();
    let all = Fault::every();
    runtime.block_on(async {
        let world = World::follow(World::server(3));
        let mut names = Vec::new();
        for (index, seconds, breaks) in faults {
            let (name, fault) = &all[index % all.len()];
            names.push(*name);
            let fault = world.server.inject(fault.clone());
            if *breaks {
                world.server.disturb(None, npc_tests::apiserver::Disturbance::Break);
            }
            sleep(Duration::from_secs(*seconds)).await;
            fault.lift();
        }
        let requests = world.requests();
        for (index, begin) in requests.iter().enumerate() {
            let window = requests[index..].iter().take_while(|at| **at < *begin + Duration::from_secs(10)).count();
            assert!(window <= 150, "{window} requests in ten seconds: {names:?}");
        }
        world.in_sync().await;
    });
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn a_bound_holds_over_every_sequence_of_faults(
        faults in prop::collection::vec((0_usize..1000, 1_u64..40, any::<bool>()), 1..8),
    ) {
        bounded(&faults);
    }
}

/// The kinds are those that the agent watches.
#[tokio::test(start_paused = true)]
async fn a_healthy_source_asks_once_for_each_kind() {
    let world = World::follow(World::server(3));
    world.in_sync().await;
    let server: &Server = &world.server;
    let reads = WATCHED.map(|kind| server.full_reads(kind));
    assert_eq!((reads, world.requests().len()), ([1; 4], 5));
    assert_eq!(world.requests_in(100).await, 0);
}
