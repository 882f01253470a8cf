//! Established flows: which of them the policies of a node forbid now.
//!
//! Rules judge the first packet of a flow, and its other packets pass because
//! the kernel knows the flow. So when policies get narrower, what the kernel
//! knows has to be judged again, by the same structures as the rules come from.

use std::collections::BTreeSet;
use std::net::IpAddr;

use rustc_hash::FxHashMap;

use crate::cluster::{Cluster, PodId};
use crate::flow::{self, End};
use crate::group::{GroupId, Groups};
use crate::layout::Options;
use crate::object::{Family, Protocol};
use crate::plan::{Plan, SetWrite, Step};
use crate::policy::Direction;
use crate::program::Member;
use crate::traffic::{TUNNELS, Traffic};

/// A flow as its first packet was when it was forwarded: after the destination
/// was translated (a Service's address is a pod's by then), before the source
/// is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Tuple {
    /// From where.
    pub source: IpAddr,
    /// To where, of the same family.
    pub destination: IpAddr,
    /// The number of its IP protocol.
    pub protocol: u8,
    /// The destination port, of a protocol that has ports.
    pub port: u16,
}

/// Judges flows by the policies of one node at one moment.
#[derive(Debug)]
pub struct Judge<'a> {
    cluster: &'a Cluster,
    node: &'a str,
    groups: Groups,
    allow_tunnels: bool,
    /// Addresses that belonged to an endpoint which does not have them any
    /// more: whatever flows they have are not those of their owner now.
    departed: &'a BTreeSet<IpAddr>,
    /// What a group admits to and from another end. Tables are large, and
    /// their flows are between few.
    known: FxHashMap<(GroupId, End, Family), Traffic>,
}

impl<'a> Judge<'a> {
    /// Will judge by the policies of this node's endpoints.
    #[must_use]
    pub fn new(cluster: &'a Cluster, node: &'a str, options: &Options, departed: &'a BTreeSet<IpAddr>) -> Self {
        let local = cluster.endpoints().filter(|(_, pod)| pod.node.as_deref() == Some(node)).map(|(id, _)| id);
        Self {
            cluster,
            node,
            groups: Groups::new(cluster, local),
            allow_tunnels: options.allow_tunnels,
            departed,
            known: FxHashMap::default(),
        }
    }

    /// Whether the first packet of a flow would be dropped now.
    ///
    /// What is between a pod and its own node is never forwarded, and what a
    /// pod sends to itself is always allowed, so neither is ever forbidden.
    pub fn forbids(&mut self, tuple: &Tuple) -> bool {
        let Tuple { source, destination, .. } = *tuple;
        if self.departed.contains(&source) || self.departed.contains(&destination) {
            return true;
        }
        if source == destination {
            return false;
        }
        let (from, to) = (End::of_address(self.cluster, source), End::of_address(self.cluster, destination));
        if !self.is_local(from) && !self.is_local(to) {
            return false;
        }
        if flow::exemption(self.cluster, from, to).is_some() || source.is_loopback() || destination.is_loopback() {
            return false;
        }
        if is_link_local(source) || is_link_local(destination) {
            // As the rules have it: wherever anything is isolated.
            return self.groups.iter().next().is_some();
        }
        self.forbids_direction(Direction::Egress, from, to, tuple)
            || self.forbids_direction(Direction::Ingress, from, to, tuple)
    }

    fn forbids_direction(&mut self, direction: Direction, from: End, to: End, tuple: &Tuple) -> bool {
        let (subject, other) = match direction {
            Direction::Egress => (from, to),
            Direction::Ingress => (to, from),
        };
        let Some(group) = subject.group(&self.groups, direction) else { return false };
        if direction == Direction::Egress && !self.allow_tunnels && TUNNELS.contains(&tuple.protocol) {
            return true;
        }
        let family = Family::of(&tuple.source);
        let (cluster, groups) = (self.cluster, &self.groups);
        let judged = || flow::directed(cluster, groups, direction, from, to, Some(family));
        let admitted = self.known.entry((group, other, family)).or_insert_with(judged);
        !match Protocol::ALL.into_iter().find(|protocol| protocol.number() == tuple.protocol) {
            Some(protocol) => admitted.of(protocol).contains(tuple.port),
            None => admitted.other,
        }
    }

    fn is_local(&self, end: End) -> bool {
        pod(end).is_some_and(|id| self.cluster.pod(id).node.as_deref() == Some(self.node))
    }

    /// An address by the name of the endpoint that owns it, for people.
    #[must_use]
    pub fn name(&self, address: IpAddr) -> String {
        match pod(End::of_address(self.cluster, address)) {
            Some(id) => format!("{}/{}", self.cluster.pod(id).namespace, self.cluster.pod(id).name),
            None if self.cluster.is_node(address) => format!("node {address}"),
            None => address.to_string(),
        }
    }
}

fn pod(end: End) -> Option<PodId> {
    match end {
        End::Pod(id) => Some(id),
        End::Address(_) => None,
    }
}

fn is_link_local(address: IpAddr) -> bool {
    matches!(address, IpAddr::V6(address) if address.is_unicast_link_local())
}

/// Whether some packet may be dropped after a plan that was let through
/// before it. Of writes to sets alone it is told exactly enough: peers that
/// come and endpoints that are isolated no more, as the most frequent changes
/// are, narrow nothing. New rules may always do.
#[must_use]
pub fn may_narrow(plan: &Plan) -> bool {
    let writes = || {
        plan.steps.iter().flat_map(|step| match step {
            Step::Sets(writes) => writes.as_slice(),
            Step::Chains(..) | Step::Grace => &[],
        })
    };
    let freed: BTreeSet<Member> = writes()
        .filter_map(|write| match write {
            SetWrite::Delete(set, member) if set.is_gate() => Some(*member),
            _ => None,
        })
        .collect();
    let narrows = |write: &SetWrite| match write {
        SetWrite::Add(set, _) if set.is_gate() => true,
        SetWrite::Add(set, member) => set.is_of_tree() && !freed.contains(member),
        SetWrite::Delete(set, _) if set.is_gate() => false,
        SetWrite::Delete(set, member) => !set.is_of_tree() || !freed.contains(member),
        SetWrite::Create(..) | SetWrite::Destroy(_) => false,
    };
    plan.steps.iter().any(|step| matches!(step, Step::Chains(..))) || writes().any(narrows)
}

#[cfg(test)]
#[path = "established/tests.rs"]
mod tests;
