//! Static pods: the runtime knows one by the hash of its manifest, and its mirror is an object
//! of another UID, which may come late.

use std::net::IpAddr;

use npc_compiler::object::{Objects, Pod};
use serde_json::json;

use super::node::{self, Mode, Node, OUTSIDE, wait};
use super::traffic::{listen, passes, reaches};
use super::{addresses, first, is_isolated, objects};

pub(super) const HASH: &str = "5f0b0d1ea9a7f1d9c8f7a6b5c4d3e2f1";

/// The cluster with the mirror of the static pod.
pub(super) fn with_mirror() -> Objects {
    let mut objects = objects(&["etcd"]);
    let pod = &mut objects.pods[0];
    *pod = Pod { config_hash: Some(HASH.to_owned()), uid: "mirror-1".to_owned(), ..pod.clone() };
    objects
}

/// A node whose agent knows these objects.
fn ready(objects: &Objects) -> Option<Node> {
    let node = Node::new(Mode::Routed, "nft")?;
    node.write(objects);
    node.start_agent();
    node.wait_ready();
    listen(node.outside(), &[8080, 9090]);
    Some(node)
}

/// A static pod that the runtime starts, with a port that policies allow and one that they deny.
fn start(node: &Node) -> node::Pod {
    let mut etcd = node.sandbox("etcd", json!([]));
    HASH.clone_into(&mut etcd.uid);
    listen(&etcd.netns, &[7000, 7001]);
    node.add(&mut etcd).unwrap();
    etcd
}

/// What the policies of its mirror admit and deny.
fn has_its_policies(node: &Node, etcd: &node::Pod) {
    for to in addresses(OUTSIDE) {
        assert!(!passes(&etcd.netns, to, 9090) && reaches(&etcd.netns, to, 8080), "to {to}");
    }
    for to in first() {
        assert!(!passes(node.outside(), to, 7001) && reaches(node.outside(), to, 7000), "to {to}");
        assert!(its_node_reaches(node, to));
    }
}

/// As a probe of the kubelet.
fn its_node_reaches(node: &Node, to: IpAddr) -> bool {
    reaches(node.netns(), to, 7001)
}

#[test]
fn a_static_pod_whose_mirror_is_known_has_its_policies_at_once() {
    let Some(node) = ready(&with_mirror()) else { return };
    let etcd = start(&node);
    has_its_policies(&node, &etcd);
}

#[test]
fn a_static_pod_whose_mirror_comes_late_is_isolated_until_then() {
    let Some(node) = ready(&objects(&[])) else { return };
    let etcd = start(&node);
    for to in first() {
        assert!(is_isolated(&node, to), "{to}");
        assert!(!passes(node.outside(), to, 7000), "nothing is admitted to {to}");
        assert!(its_node_reaches(&node, to), "{to}");
    }
    for to in addresses(OUTSIDE) {
        assert!(!passes(&etcd.netns, to, 8080) && !passes(&etcd.netns, to, 9090), "to {to}");
    }
    node.write(&with_mirror());
    wait("the policies of the mirror admit", || passes(&etcd.netns, addresses(OUTSIDE)[0], 8080));
    has_its_policies(&node, &etcd);
}
