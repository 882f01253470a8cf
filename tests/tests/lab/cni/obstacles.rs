//! What cannot be written for others, and the pods that start meanwhile.

use std::fs::File;
use std::thread;

use nix::fcntl::{Flock, FlockArg};
use npc_compiler::object::{Labels, NetworkPolicy, Objects, Pod};
use serde_json::json;

use super::node::{Mode, Node, OUTSIDE, wait};
use super::traffic::{Pings, listen, passes, reaches};
use super::{addresses, first, objects, pod, policy_of};

/// A pod with this label.
fn pod_of(name: &str, app: &str) -> Pod {
    Pod { labels: Labels::from([("app".to_owned(), app.to_owned())]), ..pod(name) }
}

/// Isolates the pods of the application db, and admits this port.
fn database(port: u16) -> NetworkPolicy {
    let policy: k8s_openapi::api::networking::v1::NetworkPolicy = serde_json::from_value(json!({
        "metadata": {"namespace": "shop", "name": "db"},
        "spec": {"podSelector": {"matchLabels": {"app": "db"}}, "ingress": [{"ports": [{"port": port}]}]},
    }))
    .unwrap();
    policy.into()
}

/// Another program holds the xtables lock, and an edited policy waits for it. Pods of other policies
/// start, and are isolated from the first instant; those of the edited one wait.
#[test]
fn a_pod_whose_rules_are_there_starts_while_those_of_others_wait_for_the_lock() {
    let Some(mut node) = Node::new(Mode::Routed, "legacy") else { return };
    let lock = node.folder().join("xtables.lock");
    node.variables = vec![("XTABLES_LOCKFILE", lock.clone())];
    let cluster = |port: u16| Objects {
        pods: vec![pod_of("web", "web"), pod_of("db", "db")],
        policies: vec![policy_of(&json!({"matchLabels": {"app": "web"}})), database(port)],
        ..objects(&[])
    };
    node.write(&cluster(5432));
    node.start_agent();
    node.wait_ready();
    listen(node.outside(), &[8080, 9090]);
    let held = Flock::lock(File::create(&lock).unwrap(), FlockArg::LockExclusive).unwrap();
    node.write(&cluster(5433));
    wait("the edited policy waits", || node.log().contains("for the xtables lock, which"));
    let pings = first().map(|address| Pings::start(node.outside(), address));
    let mut web = node.sandbox("web", json!([]));
    node.add(&mut web).unwrap();
    let last = pings.each_ref().map(Pings::sent);
    for to in addresses(OUTSIDE) {
        assert!(!passes(&web.netns, to, 9090) && reaches(&web.netns, to, 8080), "{to}");
    }
    for (pings, last) in pings.into_iter().zip(last) {
        wait("pings go on", || pings.sent() > last + 100);
        assert_eq!(pings.answered_after(last), 0, "pings that began before the rules were answered after ADD");
    }
    node.settings = json!({"timeoutSeconds": 3});
    let mut db = node.sandbox("db", json!([]));
    node.add_others(&mut db).unwrap();
    let error = node.add_own(&mut db).unwrap_err();
    assert!(error.contains("cannot bring the rules of this pod into the kernel"), "{error}");
    // It starts with its rules.
    node.settings = json!({"timeoutSeconds": 100});
    thread::scope(|scope| {
        let plugin = scope.spawn(|| node.add_own(&mut db));
        drop(held);
        plugin.join().unwrap().unwrap();
    });
    assert!(!passes(node.outside(), db.addresses()[0], 9090));
}
