//! Rules and peers in short: `8080 from app=prometheus in namespace monitoring`.

use ipnetwork::IpNetwork;
use npc_compiler::algebra::selector::{Operator, Requirement, Selector};
use npc_compiler::algebra::traffic::Traffic;
use npc_compiler::cluster::{Cluster, PolicyId};
use npc_compiler::object::{NAMESPACE_NAME_LABEL, Protocol};
use npc_compiler::policy::{
    Direction, IpBlock, Namespaces, Peer, Peers, PodPeer, Policy, PolicyRule, PortMatch, Ports,
};
use serde::Serialize;

use super::words::{policy_name, shorten};

/// So many peers of a rule are written out.
const LISTED: usize = 3;

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
    /// Those that there are run in their nodes' networks, and no selector means these.
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
        let (ports, traffic) = (ports(&rule.ports), meant(&rule.ports));
        let absent = peers.iter().enumerate().filter_map(|(i, peer)| match peer {
            Peer::Pods(of) if is_elsewhere(cluster, policy, of) => Some((i, peer, why_absent(cluster, of))),
            Peer::Pods(_) | Peer::Block(_) | Peer::Nothing => None,
        });
        let absent = absent.map(|(i, peer, found)| Elsewhere {
            found,
            ports: ports.clone(),
            traffic: traffic.clone(),
            peer: self::peer(peer),
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

/// A rule: `8080 from app=prometheus in namespace monitoring`.
pub(super) fn rule(rule: &PolicyRule, direction: Direction) -> String {
    let way = direction.peers_field();
    let peers = match &rule.peers {
        Peers::Everyone => "everyone".to_owned(),
        Peers::AnyOf(peers) if peers.is_empty() => self::peer(&Peer::Nothing),
        Peers::AnyOf(peers) => shorten(&peers.iter().map(peer).collect::<Vec<_>>(), LISTED, ", "),
    };
    let ports = match ports(&rule.ports) {
        ports if ports.is_empty() => "no port".to_owned(),
        ports => ports,
    };
    format!("{ports} {way} {peers}")
}

/// Ports as tables write them; `*` for everything, nothing where none is understood.
fn ports(ports: &Ports) -> String {
    match ports {
        Ports::Everything => "*".to_owned(),
        Ports::AnyOf(ports) => ports.iter().filter_map(port).collect::<Vec<_>>().join(","),
    }
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

/// A port as tables write it: `8080`, `53/udp`, a name.
fn port(port: &PortMatch) -> Option<String> {
    let (protocol, text) = match port {
        PortMatch::Range(protocol, 0 | 1, u16::MAX) => (protocol, "*".to_owned()),
        PortMatch::Range(protocol, first, last) if first == last => (protocol, first.to_string()),
        PortMatch::Range(protocol, first, last) => (protocol, format!("{first}-{last}")),
        PortMatch::Named(protocol, name) => (protocol, name.clone()),
        PortMatch::Nothing => return None,
    };
    Some(match protocol {
        Protocol::Tcp => text,
        other => format!("{text}/{}", other.lower()),
    })
}

/// A peer in a few words.
fn peer(peer: &Peer) -> String {
    match peer {
        Peer::Pods(PodPeer { namespaces, pods }) => {
            let pods = if pods.is_empty() { "every pod".to_owned() } else { pods.to_string() };
            match namespaces {
                Namespaces::Own(name) => format!("{pods} in namespace {name}"),
                Namespaces::Selected(selector) if selector.is_empty() => format!("{pods} in every namespace"),
                Namespaces::Selected(selector) => match named(selector) {
                    Some(name) => format!("{pods} in namespace {name}"),
                    None => format!("{pods} in namespaces with {selector}"),
                },
            }
        }
        Peer::Block(block) => block_text(block),
        Peer::Nothing => "a peer that is not understood".to_owned(),
    }
}

/// The one namespace that a selector asks for by its name.
fn named(selector: &Selector) -> Option<&str> {
    let mut requirements = selector.requirements();
    match (requirements.next(), requirements.next()) {
        (Some(one), None) if one.key == NAMESPACE_NAME_LABEL => match &one.operator {
            Operator::In(values) if values.len() == 1 => values.first().map(String::as_str),
            _ => None,
        },
        _ => None,
    }
}

/// An ipBlock as people write it.
pub(super) fn block_text(block: &IpBlock) -> String {
    let mut text = block.cidr.network().to_string();
    if !block.except.is_empty() {
        let except: Vec<String> = block.except.iter().map(|cidr| IpNetwork::to_string(&cidr.network())).collect();
        text.push_str(" except ");
        text.push_str(&except.join(" "));
    }
    text
}
