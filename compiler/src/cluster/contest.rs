//! Addresses that several endpoints list, and which of these endpoints hold them.

use std::collections::BTreeMap;
use std::net::IpAddr;

use ipnetwork::IpNetwork;
use rustc_hash::FxHashMap;

use super::claim::{self, Claim, Standing};
use super::{ClassId, PodId, index};
use crate::object::{ContainerPort, Objects, Pod};

/// An address that several endpoints list. Which of them hold it depends on the
/// node that asks: a node knows its own pods.
#[derive(Debug)]
pub struct Contest {
    /// All endpoints that list it, in order.
    pub claimants: Vec<PodId>,
    /// The pods that hold it as seen from each node that has one of them.
    pub(super) here: BTreeMap<String, Holders>,
    /// The pods that hold it as seen from any other node.
    elsewhere: Holders,
}

/// The endpoints that hold an address, at least one, and what all of them have
/// in common as peers.
#[derive(Debug)]
pub(super) struct Holders {
    pub(super) pods: Vec<PodId>,
    pub(super) classes: Vec<ClassId>,
    pub(super) ports: Vec<ContainerPort>,
}

/// The endpoints that list each address: one, or several.
pub(super) fn owners(
    pods: &[Pod],
    class_of: &[Option<ClassId>],
    objects: &Objects,
) -> (FxHashMap<IpAddr, PodId>, BTreeMap<IpAddr, Contest>) {
    let mut owners = FxHashMap::<IpAddr, PodId>::default();
    let mut claimants = BTreeMap::<IpAddr, Vec<PodId>>::new();
    for (i, pod) in pods.iter().enumerate().filter(|(_, pod)| pod.is_endpoint()) {
        let id = PodId(index(i));
        for address in pod.addresses() {
            let first = *owners.entry(address).or_insert(id);
            if first != id {
                claimants.entry(address).or_insert_with(|| vec![first]).push(id);
            }
        }
    }
    let pod_cidrs: BTreeMap<&str, &[IpNetwork]> =
        objects.nodes.iter().map(|node| (node.name.as_str(), node.pod_cidrs.as_slice())).collect();
    let contest = |(address, claimants): (IpAddr, Vec<PodId>)| {
        owners.remove(&address);
        (address, Contest::new(address, claimants, pods, class_of, &pod_cidrs))
    };
    let contests = claimants.into_iter().map(contest).collect();
    (owners, contests)
}

impl Contest {
    fn new(
        address: IpAddr,
        claimants: Vec<PodId>,
        pods: &[Pod],
        class_of: &[Option<ClassId>],
        pod_cidrs: &BTreeMap<&str, &[IpNetwork]>,
    ) -> Self {
        let holders = |held: Vec<PodId>| {
            let mut classes: Vec<ClassId> = held.iter().filter_map(|id| class_of[id.0 as usize]).collect();
            classes.sort_unstable();
            classes.dedup();
            let ports = |id: &PodId| pods[id.0 as usize].ports.as_slice();
            let (first, others) = held.split_first().map_or((&[][..], &[][..]), |(id, others)| (ports(id), others));
            let of_all = |port: &&ContainerPort| others.iter().all(|other| ports(other).contains(port));
            let ports = first.iter().filter(of_all).cloned().collect();
            Holders { classes, ports, pods: held }
        };
        let mut all = Vec::with_capacity(claimants.len());
        let mut by_node = BTreeMap::<&str, Vec<(PodId, Claim)>>::new();
        for id in &claimants {
            let pod = &pods[id.0 as usize];
            let node = pod.node.as_deref();
            let of_node = |node| Standing::of(pod_cidrs.get(node).copied(), address);
            let standing = node.map_or(Standing::Silent, of_node);
            let claim = Claim { terminating: pod.terminating, started: pod.started, standing };
            all.push((*id, claim));
            if let Some(node) = node {
                by_node.entry(node).or_default().push((*id, claim));
            }
        }
        let here = by_node.into_iter().map(|(node, claims)| (node.to_owned(), holders(claim::here(&claims))));
        Self { here: here.collect(), elsewhere: holders(claim::elsewhere(&all)), claimants }
    }

    pub(super) fn seen_from(&self, node: Option<&str>) -> &Holders {
        node.and_then(|node| self.here.get(node)).unwrap_or(&self.elsewhere)
    }

    /// The endpoints that hold the address as seen from each node that has a
    /// claimant, by the node's name.
    pub fn holders_by_node(&self) -> impl Iterator<Item = (&str, &[PodId])> {
        self.here.iter().map(|(node, holders)| (node.as_str(), holders.pods.as_slice()))
    }

    /// The endpoints that hold the address as seen from any other node.
    #[must_use]
    pub fn holders_elsewhere(&self) -> &[PodId] {
        &self.elsewhere.pods
    }
}
