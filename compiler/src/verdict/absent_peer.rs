//! What rules admit whose other ends are not in the input.

use serde::Serialize;

use crate::algebra::selector::{Operator, Requirement};
use crate::algebra::traffic::Traffic;
use crate::cluster::{Cluster, PolicyId};
use crate::object::NAMESPACE_NAME_LABEL;
use crate::policy::{Direction, Namespaces, Peer, Peers, PodPeer, Policy, PolicyRule, PortMatch, Ports};

/// A peer of a rule whose pods are not in the input.
#[derive(Debug, Clone)]
pub struct AbsentPeer<'c> {
    /// Its rule.
    pub rule: &'c PolicyRule,
    /// Its place among the peers of the rule.
    pub place: usize,
    /// The peer.
    pub peer: &'c Peer,
    /// What the ports of the rule mean; of a name, all ports of its protocol.
    pub traffic: Traffic,
    /// Whether the input has pods that it means, in the policy's own namespace alone.
    pub is_partly_here: bool,
    /// Why none of its pods is judged.
    pub why: Absent,
}

/// Why the input has none of the pods that a peer means.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "kebab-case")]
#[cfg_attr(not(feature = "internals"), non_exhaustive)]
pub enum Absent {
    /// There is none.
    None,
    /// They may be there and were not read.
    NotRead,
    /// Pods that are there may be these: the input does not say their labels.
    NotKnown,
    /// Those that there are are hostNetwork pods, and no selector means these.
    HostNetwork,
}

/// The peers of a policy's rules of a direction whose pods are not in the input. A rule without a port that is
/// understood admits nothing to them.
#[must_use]
pub fn absent_peers(cluster: &Cluster, policy: PolicyId, direction: Direction) -> Vec<AbsentPeer<'_>> {
    let policy = cluster.policy(policy);
    let mut all = Vec::new();
    for rule in policy.rules(direction) {
        let traffic = meant(&rule.ports);
        let peers = match &rule.peers {
            Peers::AnyOf(peers) if !traffic.is_none() => peers.as_slice(),
            Peers::AnyOf(_) | Peers::Everyone => &[],
        };
        for (place, peer) in peers.iter().enumerate() {
            match peer {
                Peer::Pods(of) if is_elsewhere(cluster, policy, of) => {
                    let (traffic, why) = (traffic.clone(), why_absent(cluster, of));
                    let is_partly_here = !cluster.selected(of).is_empty();
                    all.push(AbsentPeer { rule, place, peer, traffic, is_partly_here, why });
                }
                Peer::Pods(_) | Peer::Block(_) | Peer::Nothing => {}
            }
        }
    }
    all
}

/// Whether the pods that a peer means are not in the input: it selects none there, or the input has
/// the pods of the policy's own namespace alone and the peer means those of other namespaces too.
fn is_elsewhere(cluster: &Cluster, policy: &Policy, peer: &PodPeer) -> bool {
    let selected = cluster.selected(peer);
    if selected.is_empty() {
        return true;
    }
    let Namespaces::Selected(selector) = &peer.namespaces else { return false };
    let is_own_name = |of: &Requirement| {
        of.key == NAMESPACE_NAME_LABEL
            && matches!(&of.operator, Operator::In(names) if names.iter().all(|name| *name == policy.namespace))
    };
    let is_of_own = || cluster.endpoints().all(|(_, pod)| pod.namespace == policy.namespace);
    !selector.requirements().any(is_own_name) && is_of_own()
}

/// Why none of the pods that a peer means is judged.
fn why_absent(cluster: &Cluster, peer: &PodPeer) -> Absent {
    if cluster.may_select_unread(peer) {
        return Absent::NotRead;
    }
    if !cluster.selected(peer).is_empty() {
        return Absent::None;
    }
    if !cluster.possibly_selected(peer).is_empty() {
        return Absent::NotKnown;
    }
    if cluster.host_pods_of(peer).next().is_some() { Absent::HostNetwork } else { Absent::None }
}

/// What ports may mean.
fn meant(ports: &Ports) -> Traffic {
    let Ports::AnyOf(ports) = ports else { return Traffic::all() };
    let (first, last) = Traffic::PORTS;
    let meant = ports.iter().filter_map(|port| match port {
        PortMatch::Range(protocol, first, last) => Some(Traffic::ports(*protocol, *first, *last)),
        PortMatch::Named(protocol, _) => Some(Traffic::ports(*protocol, first, last)),
        PortMatch::Nothing => None,
    });
    meant.fold(Traffic::none(), |all, of| all.union(&of))
}
