//! Whose an address is.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use npc_compiler::object::{Objects, Pod};

/// The owners of all addresses.
#[derive(Debug)]
pub(super) struct Addresses {
    /// The endpoint (index in `Objects::pods`) that owns each address.
    pub(super) of_pods: BTreeMap<IpAddr, usize>,
    /// Pairs of a node's name and an address of it.
    pub(super) of_nodes: BTreeSet<(String, IpAddr)>,
}

impl Addresses {
    pub(super) fn new(objects: &Objects) -> Self {
        let mut of_pods: BTreeMap<IpAddr, usize> = BTreeMap::new();
        for (index, pod) in objects.pods.iter().enumerate() {
            if pod.finished || pod.host_network {
                continue;
            }
            for address in listed(pod) {
                let owner = of_pods.entry(address).or_insert(index);
                if precedence(pod) > precedence(&objects.pods[*owner]) {
                    *owner = index;
                }
            }
        }
        let mut of_nodes = BTreeSet::new();
        for node in &objects.nodes {
            of_nodes.extend(node.addresses.iter().map(|address| (node.name.clone(), *address)));
        }
        for pod in &objects.pods {
            let Some(node) = &pod.node else { continue };
            of_nodes.extend(pod.host_addresses.iter().map(|address| (node.clone(), *address)));
            if pod.host_network && !pod.finished {
                of_nodes.extend(listed(pod).map(|address| (node.clone(), address)));
            }
        }
        Self { of_pods, of_nodes }
    }

    pub(super) fn is_of_node(&self, node: &str, address: IpAddr) -> bool {
        self.of_nodes.iter().any(|(name, of)| name == node && *of == address)
    }
}

fn listed(pod: &Pod) -> impl Iterator<Item = IpAddr> {
    pod.ipv4.map(IpAddr::V4).into_iter().chain(pod.ipv6.map(IpAddr::V6))
}

/// Of two pods that list one address, the one that compares greater owns it: a
/// pod that is going away yields to its successor; beyond that nothing tells
/// who is newer, and the order only has to be a fixed one.
fn precedence(pod: &Pod) -> (bool, &str, &str, &str) {
    (!pod.terminating, &pod.uid, &pod.namespace, &pod.name)
}
