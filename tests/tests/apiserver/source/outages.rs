//! An API server that was away is followed again soon, and not by all at once.

use std::time::Duration;

use npc_tests::apiserver::{Disturbance, Resource, Verb};
use tokio::time::{Instant, sleep};

use super::world::{WATCHED, World, policy};

#[tokio::test(start_paused = true)]
async fn watches_are_back_ten_seconds_after_the_api_server() {
    for away in [5, 60, 61, 67, 600, 3600] {
        let world = World::follow(World::server(1));
        world.in_sync().await;
        world.disconnect();
        sleep(Duration::from_secs(away)).await;
        world.reconnect();
        let back = Instant::now();
        world.server.put(&policy("late"));
        world.in_sync().await;
        world.until("the new policy is known", |seen| seen.policies.contains("late")).await;
        let after = back.elapsed();
        assert!(after <= Duration::from_secs(10), "after {away} s away: {after:?}");
        assert_eq!(WATCHED.map(|kind| world.server.full_reads(kind)), [1; 4], "nothing is listed anew");
    }
}

#[tokio::test(start_paused = true)]
async fn while_the_api_server_is_away_one_watch_probes() {
    let world = World::follow(World::server(1));
    world.in_sync().await;
    world.disconnect();
    sleep(Duration::from_secs(60)).await;
    // One try in 6 to 10 s; the others look for themselves once in a while.
    let requests = world.requests_in(120).await;
    assert!((12..=40).contains(&requests), "{requests} requests in two minutes");
}

#[tokio::test(start_paused = true)]
async fn tries_of_several_nodes_fall_apart() {
    let worlds = [World::follow(World::server(1)), World::follow(World::server(1))];
    for world in &worlds {
        world.in_sync().await;
        world.disconnect();
    }
    sleep(Duration::from_secs(60)).await;
    let [one, other] = worlds.each_ref().map(World::requests);
    // Timers have milliseconds, so single tries may meet by chance. Without randomness all would.
    let together = one[5..].iter().filter(|at| other[5..].contains(at)).count();
    assert!(together <= 3, "{together} of {one:?} {other:?}");
    assert!([&one, &other].iter().all(|tries| tries.len() > 10), "{one:?} {other:?}");
}

#[tokio::test(start_paused = true)]
async fn lists_after_a_410_are_spread_over_half_a_minute() {
    let mut delays = Vec::new();
    for _ in 0..12 {
        let world = World::follow(World::server(1));
        world.in_sync().await;
        world.server.disturb(Some(Resource::Pods), Disturbance::Expire);
        let expired = Instant::now();
        let listed = |server: &npc_tests::apiserver::Server| server.count(Resource::Pods, Verb::StreamingList) == 2;
        while !listed(&world.server) {
            sleep(Duration::from_millis(100)).await;
        }
        delays.push(expired.elapsed());
    }
    delays.sort_unstable();
    assert!(delays[11] <= Duration::from_secs(31), "{delays:?}");
    assert!(delays[11] > delays[0] + Duration::from_secs(8), "{delays:?}");
}
