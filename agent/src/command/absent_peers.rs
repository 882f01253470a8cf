//! What rules admit whose other ends are not in the input.

use npc_compiler::algebra::selector::{Operator, Requirement};
use npc_compiler::algebra::traffic::Traffic;
use npc_compiler::cluster::{Cluster, PolicyId};
use npc_compiler::object::NAMESPACE_NAME_LABEL;
use npc_compiler::policy::{Direction, Namespaces, Peer, Peers, PodPeer, Policy, PolicyRule, PortMatch, Ports};
use serde::Serialize;

use super::rule_text::{self, Style};
use super::words::policy_name;

/// What a rule admits whose other end is not in the input.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub(super) struct Elsewhere {
    /// As tables write them: `8080`, `53/udp`, a name, `*`.
    pub(super) ports: String,
    /// What the ports mean; of a name, all ports of its protocol.
    #[serde(skip)]
    pub(super) traffic: Traffic,
    /// The peer: `app=prometheus in namespace monitoring`.
    pub(super) peer: String,
    /// The policy as `NS/NAME`.
    pub(super) policy: String,
    /// The path of the peer.
    pub(super) path: String,
    /// Why none of its pods is judged.
    pub(super) found: Absent,
}

/// Why the input has none of the pods that a peer means.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "kebab-case")]
pub(super) enum Absent {
    /// There is none.
    None,
    /// They may be there and were not read.
    NotRead,
    /// Those that there are are hostNetwork pods, and no selector means these.
    HostNetwork,
}

impl Absent {
    /// Behind a peer, in brackets.
    pub(super) const fn words(self) -> &'static str {
        match self {
            Self::None => "(none in the input)",
            Self::NotRead => "(not read)",
            Self::HostNetwork => "(only hostNetwork pods have these labels; no selector selects them)",
        }
    }
}

/// What rules of a policy admit whose other ends are not in the input.
pub(super) fn elsewhere(cluster: &Cluster, id: PolicyId, direction: Direction) -> Vec<Elsewhere> {
    let policy = cluster.policy(id);
    let of_rule = |rule: &PolicyRule| -> Vec<Elsewhere> {
        let Peers::AnyOf(peers) = &rule.peers else { return Vec::new() };
        let (ports, traffic) = (rule_text::ports(&rule.ports), meant(&rule.ports));
        let absent = peers.iter().enumerate().filter_map(|(i, peer)| match peer {
            Peer::Pods(of) if is_elsewhere(cluster, policy, of) => Some((i, peer, why_absent(cluster, of))),
            Peer::Pods(_) | Peer::Block(_) | Peer::Nothing => None,
        });
        let absent = absent.map(|(i, peer, found)| Elsewhere {
            found,
            ports: ports.clone(),
            traffic: traffic.clone(),
            peer: rule_text::peer(peer, Style::Short),
            policy: policy_name(cluster, id),
            path: format!("{}.{}[{i}]", rule.path, direction.peers_field()),
        });
        absent.filter(|of| !of.ports.is_empty()).collect()
    };
    policy.rules(direction).iter().flat_map(of_rule).collect()
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
    let has_host = cluster.selected(peer).is_empty() && cluster.host_pods_of(peer).next().is_some();
    if has_host { Absent::HostNetwork } else { Absent::None }
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
