//! With an API server whose watches are not ordered.

use serde_json::json;

use npc_compiler::object::Objects;
use npc_tests::apiserver::{Disturbance, Resource, Server};
use npc_tests::lab::manifests;

use super::node::{Mode, Node, OUTSIDE};
use super::traffic::{listen, passes, reaches};
use super::{addresses, objects, pod, policy};

/// A policy that is older than the pod holds at ADD, though its watch delivers nothing.
#[test]
fn a_policy_older_than_the_pod_holds_though_its_watch_is_held_back() {
    let Some(node) = Node::new(Mode::Routed, "nft") else { return };
    let server = Server::in_process();
    let netns = node.netns().try_clone().unwrap();
    server.listen(move |port| netns.within(|| std::net::TcpListener::bind(("127.0.0.1", port))).unwrap()).unwrap();
    let kubeconfig = server.write_kubeconfig(node.folder()).unwrap();
    let put = |objects: &Objects| {
        for object in manifests::list(objects)["items"].as_array().unwrap() {
            server.put(object);
        }
    };
    let mut before = objects(&[]);
    before.policies.clear();
    before.nodes.push(npc_compiler::object::Node { name: "n1".to_owned(), addresses: vec![], pod_cidrs: vec![] });
    put(&before);
    node.start_agent_with(&["--kubeconfig", kubeconfig.to_str().unwrap()]);
    node.wait_ready();
    listen(node.outside(), &[8080, 9090]);

    assert!(server.disturb(Some(Resource::NetworkPolicies), Disturbance::Hang) > 0);
    put(&Objects { policies: vec![policy()], ..Objects::default() });
    put(&Objects { pods: vec![pod("late")], ..Objects::default() });
    put(&Objects { pods: vec![pod("web")], ..Objects::default() });
    let holds = |name: &str| {
        let mut web = node.sandbox(name, json!([]));
        node.add(&mut web).unwrap();
        for to in addresses(OUTSIDE) {
            assert!(!passes(&web.netns, to, 9090), "{to}");
            assert!(reaches(&web.netns, to, 8080), "{to}");
        }
    };
    holds("web");
    // With the API server away, what is known has to do.
    server.stop();
    holds("late");
}
