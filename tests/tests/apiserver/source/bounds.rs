//! What one tenant writes takes a bounded part of what an agent keeps.

use std::time::Duration;

use npc_tests::apiserver::{Disturbance, Fault, Resource, Server, Verb};
use serde_json::{Value, json};
use tokio::time::sleep;

use super::world::{World, pod, policy};

/// A pod with a megabyte of labels.
fn large_pod(number: usize) -> Value {
    let mut pod = pod(number);
    let labels = (0..12_000).map(|key| (format!("key-{key}"), json!(format!("{number:060}"))));
    pod["metadata"]["labels"] = Value::Object(labels.collect());
    pod
}

/// A policy that selects by a megabyte of values.
fn large_policy(number: usize) -> Value {
    let mut policy = policy(&format!("large-{number}"));
    let values: Vec<String> = (0..20_000).map(|value| format!("{number}-{value:040}")).collect();
    policy["spec"]["podSelector"] = json!({"matchExpressions": [{"key": "app", "operator": "In", "values": values}]});
    policy
}

fn naming(name: &str, key: &str) -> Value {
    let mut policy = policy(name);
    policy["spec"]["podSelector"] = json!({"matchLabels": {key: "x"}});
    policy
}

fn with_large_pods(streams: bool) -> Server {
    let server = World::server(3);
    if !streams {
        server.inject(Fault::no_streaming_lists());
    }
    for number in 11..=13 {
        server.put(&large_pod(number));
    }
    server
}

#[tokio::test(start_paused = true)]
async fn a_large_pod_keeps_the_labels_that_policies_name() {
    for streams in [true, false] {
        let server = with_large_pods(streams);
        server.put(&naming("first", "key-1"));
        let world = World::follow(server);
        world.in_sync().await;
        let keys = |uid: &str| world.seen().labels[uid].keys().cloned().collect::<Vec<_>>();
        // The first list knew what policies name: no object was read twice.
        assert_eq!(world.server.count(Resource::Pods, if streams { Verb::StreamingList } else { Verb::List }), 1);
        for number in 11..=13 {
            assert_eq!(keys(&format!("uid-{number}")), ["key-1"]);
        }
        let lists = world.server.full_reads(Resource::Pods);
        world.server.put(&naming("second", "key-2"));
        world
            .until("the large pods are read again", |seen| {
                (11..=13).all(|number| seen.labels[&format!("uid-{number}")].len() == 2)
            })
            .await;
        assert_eq!(keys("uid-11"), ["key-1", "key-2"]);
        // A pod that comes later has all that is named.
        world.server.put(&large_pod(14));
        world.until("it is known", |seen| seen.pods.contains("uid-14")).await;
        assert_eq!(keys("uid-14"), ["key-1", "key-2"]);
        let again = world.server.full_reads(Resource::Pods) - lists;
        assert!(again <= 3, "{again} reads beside the three objects");
        // A name that is named already costs nothing.
        let before = world.requests().len();
        world.server.put(&naming("third", "key-2"));
        world.until("it is known", |seen| seen.policies.contains("third")).await;
        sleep(Duration::from_secs(5)).await;
        assert_eq!(world.requests().len(), before);
    }
}

#[tokio::test(start_paused = true)]
async fn a_pod_that_went_while_it_was_read_again_stays_gone() {
    let world = World::follow(with_large_pods(true));
    world.in_sync().await;
    let held = world.server.inject(Fault::held().on(Resource::Pods).verbs(&[Verb::List]));
    world.server.put(&naming("first", "key-1"));
    world.until("it is known", |seen| seen.policies.contains("first")).await;
    world.server.delete(Resource::Pods, "shop", "pod-11");
    world.until("it is gone", |seen| !seen.pods.contains("uid-11")).await;
    held.lift();
    world.until("the others are read", |seen| seen.labels["uid-13"].len() == 1).await;
    sleep(Duration::from_secs(60)).await;
    assert!(!world.seen().pods.contains("uid-11"));
}

#[tokio::test(start_paused = true)]
async fn the_largest_policies_of_a_namespace_lose_their_rules_until_there_is_room() {
    let server = World::server(1);
    for number in 0..30 {
        server.put(&large_policy(number));
    }
    let world = World::follow(server);
    world.in_sync().await;
    let seen = world.seen();
    assert_eq!(seen.policies.len(), 31);
    let over: Vec<&String> = seen.restricted.keys().collect();
    assert!(over.len() > 10 && !over.contains(&&"deny".to_owned()), "{over:?}");
    assert!(seen.restricted.values().all(|why| why.contains("32 MiB")), "{:?}", seen.restricted);
    // A smaller one takes the place of a larger one, and a removal makes room again.
    let before = over.len();
    world.server.put(&{
        let mut policy = large_policy(0);
        policy["metadata"]["name"] = "large-0-smaller".into();
        policy["spec"]["podSelector"]["matchExpressions"][0]["values"].as_array_mut().unwrap().truncate(18_000);
        policy
    });
    world.until("one more is over", |seen| seen.restricted.len() == before + 1).await;
    assert!(!world.seen().restricted.contains_key("large-0-smaller"));
    for number in 0..30 {
        world.server.delete(Resource::NetworkPolicies, "shop", &format!("large-{number}"));
        if number == 20 {
            world.until("the others have their rules again", |seen| seen.restricted.is_empty()).await;
        }
    }
    world.until("all are gone", |seen| seen.policies.len() == 2).await;
}

#[tokio::test(start_paused = true)]
async fn a_pod_that_was_read_again_while_a_list_came_in_is_gone_if_the_list_lacks_it() {
    let world = World::follow(with_large_pods(false));
    world.in_sync().await;
    let held = world.server.inject(Fault::held().on(Resource::Pods).verbs(&[Verb::List]).times(1));
    world.server.disturb(Some(Resource::Pods), Disturbance::Expire);
    while held.met() == 0 {
        sleep(Duration::from_millis(100)).await;
    }
    let lists = world.server.count(Resource::Pods, Verb::List);
    world.server.put(&naming("first", "key-1"));
    while world.server.count(Resource::Pods, Verb::List) < lists + 3 {
        sleep(Duration::from_millis(100)).await;
    }
    world.server.delete(Resource::Pods, "shop", "pod-11");
    held.lift();
    world.until("the others are read", |seen| seen.labels["uid-13"].len() == 1).await;
    world.until("it is gone", |seen| !seen.pods.contains("uid-11")).await;
}

/// A list of many megabytes would take seconds, and what comes behind them waits as long.
#[tokio::test(start_paused = true)]
async fn a_list_reads_only_those_large_policies_that_are_different() {
    for streams in [true, false] {
        let server = World::server(1);
        if !streams {
            server.inject(Fault::no_streaming_lists());
        }
        for number in 0..4 {
            server.put(&large_policy(number));
        }
        let world = World::follow(server);
        world.in_sync().await;
        world.server.put(&large_policy(4));
        world.until("the last one is known", |seen| seen.policies.contains("large-4")).await;
        let reports = |name: &str| world.seen().reports.get(name).copied().unwrap_or_default();
        for changes in 1..=2 {
            let lists = world.server.full_reads(Resource::NetworkPolicies);
            world.disconnect();
            // While the agent sees nothing, one changes, one goes, and one is there anew.
            world.server.put(&{
                let mut policy = large_policy(1);
                policy["spec"]["podSelector"]["matchExpressions"][0]["values"][0] = format!("changed-{changes}").into();
                policy
            });
            world.server.delete(Resource::NetworkPolicies, "shop", "large-2");
            world.server.delete(Resource::NetworkPolicies, "shop", "large-3");
            world.server.put(&large_policy(3));
            world.server.compact();
            world.reconnect();
            world.until("what changed is known", |seen| seen.reports["large-1"] == changes + 1).await;
            world.until("what came anew is known", |seen| seen.reports["large-3"] == changes + 1).await;
            world.until("what went is gone", |seen| !seen.policies.contains("large-2")).await;
            world.in_sync().await;
            assert!(world.server.full_reads(Resource::NetworkPolicies) > lists);
            // Those that the list held as they were are known all the same.
            assert_eq!((reports("large-0"), reports("deny")), (1, changes + 1));
            assert!(
                ["large-0", "large-1", "large-3", "large-4"].iter().all(|name| world.seen().policies.contains(*name))
            );
        }
        // One that it recognised goes like any other.
        world.server.delete(Resource::NetworkPolicies, "shop", "large-0");
        world.until("it is gone", |seen| !seen.policies.contains("large-0")).await;
        world.server.put(&large_policy(0));
        world.until("it is there anew", |seen| seen.policies.contains("large-0")).await;
        assert_eq!(reports("large-0"), 2);
    }
}
