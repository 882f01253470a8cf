//! Which object has an address.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use npc_compiler::object::{Objects, Pod};

/// Which object lists which address.
#[derive(Debug)]
pub(super) struct Addresses {
    /// The endpoints (indexes in `Objects::pods`) that list each address.
    pub(super) of_pods: BTreeMap<IpAddr, Vec<usize>>,
    /// Pairs of a node's name and an address of it.
    pub(super) of_nodes: BTreeSet<(String, IpAddr)>,
}

impl Addresses {
    pub(super) fn new(objects: &Objects) -> Self {
        let mut of_pods: BTreeMap<IpAddr, Vec<usize>> = BTreeMap::new();
        for (index, pod) in objects.pods.iter().enumerate() {
            if pod.finished || pod.host_network {
                continue;
            }
            for address in listed(pod) {
                of_pods.entry(address).or_default().push(index);
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

    /// The pods that may have an address, as a node sees it: of its own pods
    /// those that are not going away, and of these the last to start. Where it
    /// has none, those whose node can have it, and of these those that are not
    /// going away.
    pub(super) fn holders(&self, objects: &Objects, address: IpAddr, node: Option<&str>) -> Vec<usize> {
        let all = self.of_pods.get(&address).cloned().unwrap_or_default();
        let pod = |index: &usize| &objects.pods[*index];
        let mut own = all.clone();
        own.retain(|index| node.is_some() && pod(index).node.as_deref() == node);
        if !own.is_empty() {
            stay(&mut own, |index| !pod(index).terminating);
            let last = own.iter().filter_map(|index| pod(index).started).max();
            own.retain(|index| pod(index).started == last);
            return own;
        }
        let mut left = all;
        if left.iter().any(|index| says(objects, pod(index), address) == Some(true)) {
            left.retain(|index| says(objects, pod(index), address) != Some(false));
        }
        stay(&mut left, |index| !pod(index).terminating);
        left
    }
}

/// Only those that meet a condition, if there are any.
fn stay(pods: &mut Vec<usize>, condition: impl Fn(&usize) -> bool) {
    if pods.iter().any(&condition) {
        pods.retain(condition);
    }
}

/// What the node of a pod says of an address, if it says anything.
fn says(objects: &Objects, pod: &Pod, address: IpAddr) -> Option<bool> {
    let name = pod.node.as_deref()?;
    let Some(node) = objects.nodes.iter().find(|node| node.name == name) else { return Some(false) };
    let of_family = || node.pod_cidrs.iter().filter(|cidr| cidr.is_ipv4() == address.is_ipv4());
    of_family().next()?;
    Some(of_family().any(|cidr| cidr.contains(address)))
}

fn listed(pod: &Pod) -> impl Iterator<Item = IpAddr> {
    pod.ipv4.map(IpAddr::V4).into_iter().chain(pod.ipv6.map(IpAddr::V6))
}
