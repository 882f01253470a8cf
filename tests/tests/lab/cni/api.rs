//! With an API server whose watches are not ordered.

use serde_json::json;

use npc_compiler::object::Objects;
use npc_tests::apiserver::{Disturbance, Fault, Resource, Server, Verb};
use npc_tests::lab::manifests;

use super::node::{Mode, Node, OUTSIDE};
use super::traffic::{listen, passes, reaches};
use super::{addresses, objects, pod, policy};

/// A node whose agent follows an API server that knows the node and the namespace.
fn with_server() -> Option<(Node, Server)> {
    let node = Node::new(Mode::Routed, "nft")?;
    let server = Server::in_process();
    let netns = node.netns().try_clone().unwrap();
    server.listen(move |port| netns.within(|| std::net::TcpListener::bind(("127.0.0.1", port))).unwrap()).unwrap();
    let kubeconfig = server.write_kubeconfig(node.folder()).unwrap();
    let mut before = objects(&[]);
    before.policies.clear();
    before.nodes.push(npc_compiler::object::Node { name: "n1".to_owned(), addresses: vec![], pod_cidrs: vec![] });
    put(&server, &before);
    node.start_agent_with(&["--kubeconfig", kubeconfig.to_str().unwrap()]);
    node.wait_ready();
    listen(node.outside(), &[8080, 9090]);
    // From now on its watch delivers no policy.
    assert!(server.disturb(Some(Resource::NetworkPolicies), Disturbance::Hang) > 0);
    Some((node, server))
}

pub(super) fn put(server: &Server, objects: &Objects) {
    for object in manifests::list(objects)["items"].as_array().unwrap() {
        server.put(object);
    }
}

fn holds(node: &Node, name: &str) {
    let mut web = node.sandbox(name, json!([]));
    node.add(&mut web).unwrap();
    for to in addresses(OUTSIDE) {
        assert!(!passes(&web.netns, to, 9090), "{to}");
        assert!(reaches(&web.netns, to, 8080), "{to}");
    }
}

/// A policy that is older than the pod holds at ADD, though its watch delivers nothing.
#[test]
fn a_policy_older_than_the_pod_holds_though_its_watch_is_held_back() {
    let Some((node, server)) = with_server() else { return };
    put(&server, &Objects { policies: vec![policy()], ..Objects::default() });
    put(&server, &Objects { pods: vec![pod("late")], ..Objects::default() });
    put(&server, &Objects { pods: vec![pod("web")], ..Objects::default() });
    holds(&node, "web");
    // With the API server away, what is known has to do.
    server.stop();
    holds(&node, "late");
}

/// So it does where the API server has too much to do, or fails, when it is asked for the list.
#[test]
fn a_policy_older_than_the_pod_holds_though_its_list_is_refused_at_first() {
    for fault in [Fault::too_many_requests(1), Fault::internal_error()] {
        let Some((node, server)) = with_server() else { return };
        let refusals = server.inject(fault.on(Resource::NetworkPolicies).verbs(&[Verb::List]).times(1));
        put(&server, &Objects { policies: vec![policy()], ..Objects::default() });
        put(&server, &Objects { pods: vec![pod("web")], ..Objects::default() });
        holds(&node, "web");
        assert_eq!(refusals.met(), 1);
    }
}
