//! What a refusal means, in each of its forms.

use std::time::Duration;

use npc_tests::apiserver::{Disturbance, Failure, Fault, Resource, Verb};
use tokio::time::sleep;

use super::world::{World, policy};

#[tokio::test(start_paused = true)]
async fn an_answer_410_to_a_watch_is_followed_by_a_list() {
    let world = World::follow(World::server(1));
    world.in_sync().await;
    let gone = Fault::failure(Failure::expired("too old resource version: 1 (7)"));
    world.server.inject(gone.on(Resource::NetworkPolicies).verbs(&[Verb::Watch]).times(1));
    world.server.disturb(Some(Resource::NetworkPolicies), Disturbance::End);
    world.server.put(&policy("late"));
    world.until("the new policy is known", |seen| seen.policies.contains("late")).await;
    assert_eq!(world.server.full_reads(Resource::NetworkPolicies), 2);
}

#[tokio::test(start_paused = true)]
async fn a_streamed_list_that_is_refused_in_the_stream_is_followed_by_pages() {
    let server = World::server(3);
    server.inject(Fault::refused_in_stream(Failure::internal("etcd lacks RequestWatchProgress")));
    let world = World::follow(server);
    world.in_sync().await;
    assert_eq!(world.seen().pods.len(), 3);
    assert!(world.server.count(Resource::Pods, Verb::List) == 1);
    // Nor is it tried again and again.
    assert_eq!(world.server.count(Resource::Pods, Verb::StreamingList), 1);
}

#[tokio::test(start_paused = true)]
async fn a_streamed_list_that_never_completes_is_followed_by_pages() {
    for fault in [Fault::empty(), Fault::reset(), Fault::broken_after(1), Fault::page_of_html()] {
        let server = World::server(3);
        server.inject(fault.verbs(&[Verb::StreamingList]));
        let world = World::follow(server);
        world.in_sync().await;
        assert_eq!(world.seen().pods.len(), 3);
    }
}

#[tokio::test(start_paused = true)]
async fn an_object_that_cannot_be_read_hides_none_behind_it() {
    let world = World::follow(World::server(1));
    world.in_sync().await;
    let mut odd = super::world::pod(7);
    odd["status"]["podIPs"] = "nonsense".into();
    world.server.put(&odd);
    world.server.put(&super::world::pod(8));
    world.until("the next pod is known", |seen| seen.pods.contains("uid-8")).await;
    sleep(Duration::from_secs(60)).await;
    assert_eq!(world.server.watches(Resource::Pods), 1);
}
