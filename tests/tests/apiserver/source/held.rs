//! A list that lacks much at once is not believed at once.

use std::time::Duration;

use npc_tests::apiserver::{Disturbance, Fault, Resource, Verb};
use serde_json::json;
use tokio::time::{Instant, sleep};

use super::world::{World, address, pod, policy};

const CONFIRM: Duration = Duration::from_secs(30);
const AT_MOST: Duration = Duration::from_secs(120);

/// A source in sync with so many pods.
async fn world(pods: usize) -> World {
    let world = World::follow(World::server(pods));
    world.in_sync().await;
    world
}

/// The next list of a kind, after the watch has expired.
async fn list_anew(world: &World, resource: Resource) {
    let before = world.server.full_reads(resource);
    world.server.disturb(Some(resource), Disturbance::Expire);
    while world.server.full_reads(resource) == before || world.server.watches(resource) == 0 {
        sleep(Duration::from_millis(100)).await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_list_without_policies_is_believed_when_a_second_one_agrees() {
    let world = world(1).await;
    let empty = world.server.inject(Fault::lists_nothing().on(Resource::NetworkPolicies));
    list_anew(&world, Resource::NetworkPolicies).await;
    let (since, clients) = (Instant::now(), world.clients());
    sleep(Duration::from_secs(28)).await;
    assert!(world.seen().policies.contains("deny"));
    assert!((world.metric("npc_source_held") - 1.0).abs() < 0.1);
    assert!(world.seen().is_complete, "a hold makes nothing incomplete");
    world.until("the removal is believed", |seen| seen.policies.is_empty()).await;
    assert!(since.elapsed() >= CONFIRM && since.elapsed() < AT_MOST, "{:?}", since.elapsed());
    assert!(world.clients() > clients, "the second list has connections of its own");
    assert!(world.metric("npc_source_held") < 0.1);
    assert_eq!(empty.met(), 2);
}

#[tokio::test(start_paused = true)]
async fn a_wrong_list_takes_nothing_away() {
    let world = world(30).await;
    for (resource, held) in [(Resource::NetworkPolicies, 1.0), (Resource::Pods, 30.0), (Resource::Nodes, 1.0)] {
        world.server.inject(Fault::lists_nothing().on(resource).times(1));
        list_anew(&world, resource).await;
        sleep(Duration::from_secs(1)).await;
        assert!((world.metric("npc_source_held") - held).abs() < 0.1, "{resource:?}");
        sleep(Duration::from_secs(300)).await;
        let seen = world.seen();
        assert_eq!((seen.policies.len(), seen.pods.len(), seen.is_node), (1, 30, Some(true)), "{resource:?}");
        assert!(world.metric("npc_source_held") < 0.1, "{resource:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn what_is_new_in_a_doubtful_list_applies_at_once() {
    let world = world(1).await;
    // Another cluster's policies: a new one, and none of ours.
    world.server.disturb(Some(Resource::NetworkPolicies), Disturbance::Hang);
    world.server.delete(Resource::NetworkPolicies, "shop", "deny");
    world.server.put(&policy("other"));
    sleep(Duration::from_secs(1)).await;
    world.server.compact();
    world.until("the new policy is known", |seen| seen.policies.contains("other")).await;
    assert!(world.seen().policies.contains("deny"));
}

#[tokio::test(start_paused = true)]
async fn without_a_second_list_it_is_believed_after_two_minutes() {
    let world = world(1).await;
    world.server.inject(Fault::lists_nothing().on(Resource::NetworkPolicies).times(1));
    list_anew(&world, Resource::NetworkPolicies).await;
    let since = Instant::now();
    // The API server answers, but no list of policies is ever complete.
    world.server.inject(Fault::broken_after(0).on(Resource::NetworkPolicies).verbs(&[Verb::StreamingList]));
    world.server.inject(Fault::torn().on(Resource::NetworkPolicies));
    world.until("the removal is believed", |seen| seen.policies.is_empty()).await;
    let after = since.elapsed();
    assert!(AT_MOST <= after + Duration::from_secs(3) && after <= AT_MOST + Duration::from_secs(3), "{after:?}");
}

#[tokio::test(start_paused = true)]
async fn while_the_api_server_is_away_nothing_is_believed() {
    let world = world(30).await;
    world.server.inject(Fault::lists_nothing().on(Resource::NetworkPolicies).times(1));
    world.server.inject(Fault::lists_nothing().on(Resource::Pods).times(1));
    list_anew(&world, Resource::NetworkPolicies).await;
    list_anew(&world, Resource::Pods).await;
    world.disconnect();
    sleep(Duration::from_secs(3600)).await;
    assert_eq!((world.seen().policies.len(), world.seen().pods.len()), (1, 30));
    assert!((world.metric("npc_source_held") - 31.0).abs() < 0.1);
    // It is back, and its lists are right.
    world.reconnect();
    for _ in 0..3000 {
        sleep(Duration::from_millis(100)).await;
        assert_eq!((world.seen().policies.len(), world.seen().pods.len()), (1, 30));
    }
    assert!(world.metric("npc_source_held") < 0.1);
}

#[tokio::test(start_paused = true)]
async fn while_the_api_server_refuses_nothing_is_believed() {
    let world = world(1).await;
    world.server.inject(Fault::lists_nothing().on(Resource::NetworkPolicies).times(1));
    list_anew(&world, Resource::NetworkPolicies).await;
    let forbidden = world.server.inject(Fault::forbidden().on(Resource::NetworkPolicies));
    world.server.disturb(Some(Resource::NetworkPolicies), Disturbance::Break);
    sleep(Duration::from_secs(3600)).await;
    assert_eq!(world.seen().policies.len(), 1);
    forbidden.lift();
    sleep(Duration::from_secs(300)).await;
    assert_eq!(world.seen().policies.len(), 1);
    assert!(world.metric("npc_source_held") < 0.1);
}

#[tokio::test(start_paused = true)]
async fn the_own_cluster_is_found_again_though_nothing_reports_it() {
    let world = world(1).await;
    let system =
        |uid| json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "kube-system", "uid": uid}});
    world.server.put(&system("another"));
    sleep(Duration::from_secs(1)).await;
    world.server.inject(Fault::lists_nothing().on(Resource::NetworkPolicies));
    list_anew(&world, Resource::NetworkPolicies).await;
    sleep(Duration::from_secs(600)).await;
    assert_eq!(world.seen().policies.len(), 1);
    // The load balancer leads to the own cluster again, and the watch of namespaces goes on
    // in silence.
    world.server.disturb(Some(Resource::Namespaces), Disturbance::Hang);
    world.server.put(&system("the-cluster"));
    world.until("the cluster is believed", |seen| seen.policies.is_empty()).await;
}

#[tokio::test(start_paused = true)]
async fn another_cluster_is_asked_for_its_namespaces_again_though_nothing_is_held() {
    let world = world(1).await;
    let system =
        |uid| json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "kube-system", "uid": uid}});
    world.server.put(&system("another"));
    sleep(Duration::from_secs(1)).await;
    world.server.disturb(Some(Resource::Namespaces), Disturbance::Hang);
    let lists = world.server.full_reads(Resource::Namespaces);
    world.server.put(&system("the-cluster"));
    sleep(Duration::from_secs(60)).await;
    assert!(world.server.full_reads(Resource::Namespaces) > lists);
    // And then no more.
    let lists = world.server.full_reads(Resource::Namespaces);
    sleep(Duration::from_secs(3600)).await;
    assert_eq!(world.server.full_reads(Resource::Namespaces), lists);
}

#[tokio::test(start_paused = true)]
async fn while_the_own_node_is_missing_nothing_is_believed() {
    let world = world(1).await;
    let empty = world.server.inject(Fault::lists_nothing());
    list_anew(&world, Resource::Nodes).await;
    list_anew(&world, Resource::NetworkPolicies).await;
    sleep(Duration::from_secs(3600)).await;
    let seen = world.seen();
    assert_eq!((seen.policies.len(), seen.is_node), (1, Some(true)));
    // Lists are asked for less and less often.
    let requests = world.requests_in(3600).await;
    assert!(requests < 200, "{requests}");
    empty.lift();
    // The Node may come back first. What the other kinds' lists lacked before says nothing.
    for _ in 0..9000 {
        sleep(Duration::from_millis(100)).await;
        assert_eq!(world.seen().policies.len(), 1, "the policy exists all the while");
    }
    assert!(world.metric("npc_source_held") < 0.1);
}

#[tokio::test(start_paused = true)]
async fn of_another_cluster_nothing_is_believed() {
    let world = world(30).await;
    let system =
        |uid| json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "kube-system", "uid": uid}});
    // Behind the load balancer is another cluster with a node of this name.
    world.server.disturb(None, Disturbance::Hang);
    world.server.put(&system("another"));
    for number in 1..=30 {
        world.server.delete(Resource::Pods, "shop", &format!("pod-{number}"));
    }
    world.server.delete(Resource::NetworkPolicies, "shop", "deny");
    world.server.skip_versions(1000);
    world.server.compact();
    sleep(Duration::from_secs(3600)).await;
    assert_eq!((world.seen().policies.len(), world.seen().pods.len()), (1, 30));
    // The load balancer leads to the own cluster again.
    world.server.put(&system("the-cluster"));
    world.until("all is believed", |seen| seen.policies.is_empty() && seen.pods.is_empty()).await;
}

#[tokio::test(start_paused = true)]
async fn deletions_that_a_watch_reports_are_never_held() {
    let world = world(25).await;
    world.server.delete(Resource::NetworkPolicies, "shop", "deny");
    for number in 1..=25 {
        world.server.delete(Resource::Pods, "shop", &format!("pod-{number}"));
    }
    let begin = Instant::now();
    world.until("all is gone", |seen| seen.policies.is_empty() && seen.pods.is_empty()).await;
    assert!(begin.elapsed() < Duration::from_secs(1));
}

#[tokio::test(start_paused = true)]
async fn a_list_that_lacks_few_pods_is_believed() {
    let world = world(30).await;
    world.server.disturb(Some(Resource::Pods), Disturbance::Hang);
    for number in 1..=15 {
        world.server.delete(Resource::Pods, "shop", &format!("pod-{number}"));
    }
    world.server.compact();
    world.until("half of them are gone", |seen| seen.pods.len() == 15).await;
    assert!(world.metric("npc_source_held") < 0.1);
}

#[tokio::test(start_paused = true)]
async fn an_address_that_a_new_pod_has_leaves_the_held_one() {
    let world = world(25).await;
    let empty = world.server.inject(Fault::lists_nothing().on(Resource::Pods));
    list_anew(&world, Resource::Pods).await;
    sleep(Duration::from_secs(1)).await;
    let mut successor = pod(100);
    successor["status"] = json!({"phase": "Running", "podIP": address(7), "podIPs": [{"ip": address(7)}]});
    world.server.put(&successor);
    world.until("the new pod is known", |seen| seen.pods.contains("uid-100")).await;
    let pods = world.seen().pods;
    assert!(!pods.contains("uid-7") && pods.len() == 25, "{pods:?}");
    assert!((world.metric("npc_source_held") - 24.0).abs() < 0.1);
    empty.lift();
}

#[tokio::test(start_paused = true)]
async fn at_the_start_the_kernel_is_the_memory() {
    let start = |kernel_isolates| {
        let server = World::server(3);
        server.delete(Resource::NetworkPolicies, "shop", "deny");
        World::follow_as(server, |settings| npc_agent::source::kube::FollowSettings { kernel_isolates, ..settings })
    };
    let begin = Instant::now();
    let fresh = start(false);
    fresh.in_sync().await;
    assert!(begin.elapsed() < Duration::from_secs(1));
    let begin = Instant::now();
    let doubting = start(true);
    doubting.until("it is believed", |seen| seen.is_complete).await;
    assert!(CONFIRM <= begin.elapsed() && begin.elapsed() < AT_MOST, "{:?}", begin.elapsed());
    assert_eq!(doubting.server.full_reads(Resource::NetworkPolicies), 2);
    // A policy that is there after all ends the doubt.
    let begin = Instant::now();
    let doubting = start(true);
    sleep(Duration::from_secs(5)).await;
    assert!(!doubting.seen().is_complete && doubting.metric("npc_source_held") > 0.9);
    doubting.server.put(&policy("deny"));
    doubting.until("all is reported", |seen| seen.is_complete && seen.policies.contains("deny")).await;
    assert!(begin.elapsed() < Duration::from_secs(10));
}

#[tokio::test(start_paused = true)]
async fn an_agent_that_holds_nothing_back_believes_at_once() {
    let hold = npc_agent::source::held::Times { confirm_after: Duration::ZERO, ..Default::default() };
    let world =
        World::follow_as(World::server(1), |settings| npc_agent::source::kube::FollowSettings { hold, ..settings });
    world.in_sync().await;
    world.server.inject(Fault::lists_nothing().on(Resource::NetworkPolicies));
    list_anew(&world, Resource::NetworkPolicies).await;
    world.until("it is believed", |seen| seen.policies.is_empty()).await;
    assert!(world.metric("npc_source_held") < 0.1);
}
