//! An object that cannot be read hurts only itself, in a streamed list, in pages and in a
//! watch.

use std::time::Duration;

use npc_tests::apiserver::{Disturbance, Fault, Resource, Server};
use serde_json::{Value, json};
use tokio::time::sleep;

use super::world::{NODE, WATCHED, World, pod, policy};

/// An object whose metadata cannot be read, its name aside.
fn odd(mut object: Value) -> Value {
    object["metadata"]["labels"] = json!({"app": {"not": "a text"}});
    object
}

fn objects(odd_too: bool) -> [Value; 4] {
    let namespace = json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "shop", "uid": "shop"}});
    let node = json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": NODE}});
    [pod(7), namespace, policy("deny"), node].map(|object| if odd_too { odd(object) } else { object })
}

/// Whether lists are streamed, or in pages.
fn served(server: Server, streams: bool) -> Server {
    if !streams {
        server.inject(Fault::no_streaming_lists());
    }
    server
}

/// All is there that was there before the objects became odd.
fn is_whole(world: &World) {
    let seen = world.seen();
    assert_eq!((seen.pods.len(), seen.namespaces.len(), seen.policies.len()), (9, 2, 1), "{seen:?}");
    assert_eq!(seen.is_node, Some(true));
    assert!(world.metric("npc_source_held") < 0.1);
    assert!((world.metric("npc_source_unreadable") - 4.0).abs() < 0.1);
}

#[tokio::test(start_paused = true)]
async fn it_keeps_its_last_state_and_hides_no_other() {
    for streams in [true, false] {
        let world = World::follow(served(World::server(8), streams));
        world.in_sync().await;
        for object in objects(true) {
            world.server.put(&object);
        }
        world.server.put(&pod(9));
        world.until("the next pod is known", |seen| seen.pods.contains("uid-9")).await;
        world.until_metric("all four are counted", "npc_source_unreadable", 4.0).await;
        is_whole(&world);
        // And in a list.
        world.server.disturb(None, Disturbance::Expire);
        for kind in WATCHED {
            while world.server.full_reads(kind) < 2 || world.server.watches(kind) == 0 {
                sleep(Duration::from_millis(100)).await;
            }
        }
        sleep(Duration::from_secs(300)).await;
        is_whole(&world);
        // A removal is seen, and what can be read again is read.
        world.server.delete(Resource::Pods, "shop", "pod-7");
        for object in objects(false).into_iter().skip(1) {
            world.server.put(&object);
        }
        world.until("the pod is gone", |seen| !seen.pods.contains("uid-7")).await;
        world.until_metric("all can be read", "npc_source_unreadable", 0.0).await;
    }
}

#[tokio::test(start_paused = true)]
async fn at_the_start_it_is_a_finding_and_a_policy_isolates_what_it_selects() {
    for streams in [true, false] {
        let server = World::server(8);
        for object in objects(true) {
            server.put(&object);
        }
        let world = World::follow(served(server, streams));
        world.in_sync().await;
        let seen = world.seen();
        assert_eq!((seen.pods.len(), seen.is_node), (7, Some(true)), "{seen:?}");
        assert!(seen.restricted["deny"].contains("cannot be read"), "{:?}", seen.restricted);
        assert!((world.metric("npc_source_unreadable") - 4.0).abs() < 0.1);
        for object in objects(false) {
            world.server.put(&object);
        }
        world.until("all is read", |seen| seen.pods.len() == 8 && seen.restricted.is_empty()).await;
        world.until_metric("all can be read", "npc_source_unreadable", 0.0).await;
    }
}
