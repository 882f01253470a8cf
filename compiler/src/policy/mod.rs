//! Policies as the compiler understands them: every selector, prefix and port is read once. A part
//! that was not understood becomes a [`Finding`], and its effect fails safe.
//!
//! | field | is read in | becomes |
//! |---|---|---|
//! | `podSelector` | `read.rs`, `algebra/selector.rs` | [`Policy::subject`] |
//! | `policyTypes` | `read.rs` | [`Policy::isolates`] |
//! | `ingress`, `egress`, `from`, `to` | `read.rs` | [`PolicyRule`], [`Peers`] |
//! | `ipBlock`, `cidr`, `except` | `ip_block.rs`, `algebra/cidr.rs` | [`IpBlock`], [`Block`] |
//! | `ports`, `protocol`, `port`, `endPort` | `port.rs` | [`Ports`], [`PortMatch`] |
//! | names and labels that the API server refuses | `algebra/syntax.rs` | [`Finding`] |
//! | a field that the API does not have | `read.rs`, `spelling.rs` | [`Finding`] |
//!
//! What rules admit together is [`crate::cluster::group`].

pub mod finding;
mod ip_block;
mod port;
mod read;
pub mod spelling;

use std::net::IpAddr;

use crate::algebra::cidr::{self, AddressSet, Cidr};
use crate::algebra::selector::{Operator, Selector};
use crate::object::{Family, NAMESPACE_NAME_LABEL, NetworkPolicy, Protocol};
use crate::policy::finding::Finding;

/// A direction of traffic, seen from the pod that a policy selects.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize, serde::Deserialize)]
pub enum Direction {
    /// To the pod.
    Ingress,
    /// From the pod.
    Egress,
}

impl Direction {
    /// Both of them.
    pub const ALL: [Self; 2] = [Self::Ingress, Self::Egress];

    /// The other one.
    #[must_use]
    pub const fn opposite(self) -> Self {
        match self {
            Self::Ingress => Self::Egress,
            Self::Egress => Self::Ingress,
        }
    }

    /// As policyTypes spells it.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Ingress => "Ingress",
            Self::Egress => "Egress",
        }
    }

    /// The field with a rule's peers: `from` or `to`.
    #[must_use]
    pub const fn peers_field(self) -> &'static str {
        self.fields().1
    }

    /// The section of the spec with its rules: `ingress` or `egress`.
    #[must_use]
    pub const fn section(self) -> &'static str {
        self.fields().0
    }

    /// The section of the spec, and the field with a rule's peers.
    const fn fields(self) -> (&'static str, &'static str) {
        match self {
            Self::Ingress => ("ingress", "from"),
            Self::Egress => ("egress", "to"),
        }
    }
}

/// A network policy, understood.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Policy {
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// The pods of its namespace that it selects.
    pub subject: Selector,
    /// The directions it isolates, in the order of [`Direction::ALL`].
    isolates: [bool; 2],
    /// The rules, in the order of [`Direction::ALL`].
    rules: [Vec<PolicyRule>; 2],
    /// Whether `ingress` or `egress` is written as an empty list.
    has_empty_list: [bool; 2],
    /// What was understood of the items of rules that match nothing because a part of them was not.
    half_read: HalfRead,
}

/// What was understood of items of rules that match nothing because a part of them was not, by the path of the item.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct HalfRead {
    /// The selectors without the requirements that were not understood.
    peers: Vec<(String, PodPeer)>,
    /// The same as their author most likely means them, where that can be told.
    meant_peers: Vec<(String, PodPeer)>,
    /// The prefixes of blocks with an exception that was not understood.
    blocks: Vec<(String, Cidr)>,
    /// The prefixes that the author of a block most likely means that cannot be read.
    meant_blocks: Vec<(String, Vec<Cidr>)>,
    /// The ports that their author most likely means.
    ports: Vec<(String, PortMatch)>,
}

/// One item of `ingress` or `egress`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PolicyRule {
    /// Its path: `spec.ingress[0]`.
    pub path: String,
    /// The ends that it admits.
    pub peers: Peers,
    /// On which ports.
    pub ports: Ports,
}

/// The other ends of a rule.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Peers {
    /// `from` or `to` is absent or empty: everyone.
    Everyone,
    /// Any of these; the index is that in the object.
    AnyOf(Vec<Peer>),
}

impl Peers {
    /// Whether they name some ends, and none of them every pod of a namespace or every address of a family.
    pub(crate) fn is_narrow(&self) -> bool {
        match self {
            Self::Everyone => false,
            Self::AnyOf(peers) => peers.iter().all(|peer| *peer == Peer::Nothing || peer.is_narrow()),
        }
    }
}

/// One item of `from` or `to`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Peer {
    /// Pods by their labels and those of their namespaces.
    Pods(PodPeer),
    /// Addresses.
    Block(IpBlock),
    /// Not understood: it matches no end.
    Nothing,
}

impl Peer {
    /// Whether it names some ends: not every pod of a namespace or of all, nor all but some, and not every address of a
    /// family.
    pub(crate) fn is_narrow(&self) -> bool {
        match self {
            Self::Pods(PodPeer { namespaces, pods }) => {
                names_some(pods) || matches!(namespaces, Namespaces::Selected(of) if names_some(of))
            }
            Self::Block(block) => !cidr::is_everything(block.cidr.family, &block.cidr.addresses()),
            Self::Nothing => false,
        }
    }
}

/// Whether a selector asks for labels that not everything has: one that only leaves some out means all others.
fn names_some(selector: &Selector) -> bool {
    selector.requirements().any(|of| match of.operator {
        Operator::In(_) => true,
        Operator::Exists => of.key != NAMESPACE_NAME_LABEL,
        Operator::NotIn(_) | Operator::DoesNotExist => false,
    })
}

/// Pods by their labels and those of their namespaces.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PodPeer {
    /// The namespaces.
    pub namespaces: Namespaces,
    /// The pods in them.
    pub pods: Selector,
}

/// The namespaces of a [`PodPeer`].
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Namespaces {
    /// No namespaceSelector: the policy's own, this one.
    Own(String),
    /// The namespaces with such labels.
    Selected(Selector),
}

/// An ipBlock as it is written, for explanations.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct IpBlock {
    /// `cidr`
    pub cidr: Cidr,
    /// `except`; the index is that in the object.
    pub except: Vec<Cidr>,
    /// What it means.
    pub block: Block,
}

/// What an ipBlock means: the addresses of `cidr` that are in no `except`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Block {
    /// The family of `cidr`.
    pub family: Family,
    /// The addresses.
    pub addresses: AddressSet,
}

/// The ports of a rule.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Ports {
    /// `ports` is absent or empty: every protocol, with or without ports.
    Everything,
    /// Any of these; the index is that in the object.
    AnyOf(Vec<PortMatch>),
}

/// One item of `ports`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum PortMatch {
    /// A protocol's ports from the first to the last, both included.
    Range(Protocol, u16, u16),
    /// The port with this name on the destination pod.
    Named(Protocol, String),
    /// Not understood: none.
    Nothing,
}

impl PortMatch {
    /// Whether it is every port of its protocol. No packet has port 0.
    #[must_use]
    pub const fn is_whole_protocol(&self) -> bool {
        matches!(self, Self::Range(_, 0 | 1, u16::MAX))
    }
}

impl Policy {
    /// Reads a policy. It never fails: what is not understood is reported and
    /// matches nothing, and pods that the policy was to isolate are isolated.
    #[must_use]
    pub fn read(policy: &NetworkPolicy) -> (Self, Vec<Finding>) {
        let (mut read, findings) = read::read(policy);
        // An agent keeps a hundred thousand policies, and explains none.
        read.half_read = HalfRead::default();
        (read, findings)
    }

    /// Reads a policy. Of a part that was not understood as a whole, it keeps what was understood, which only
    /// explanations need.
    pub(crate) fn read_to_explain(policy: &NetworkPolicy) -> (Self, Vec<Finding>) {
        read::read(policy)
    }

    /// Reads what a policy isolates, and not what it allows. For a large policy that takes much less time.
    pub(crate) fn read_without_rules(policy: &NetworkPolicy) -> Self {
        read::read_without_rules(policy)
    }

    /// Whether it isolates its pods in this direction.
    #[must_use]
    pub fn isolates(&self, direction: Direction) -> bool {
        self.isolates[direction as usize]
    }

    /// Whether the list of rules of a direction is written, and empty. The API server keeps none.
    #[must_use]
    pub fn has_empty_list(&self, direction: Direction) -> bool {
        self.has_empty_list[direction as usize]
    }

    /// What was understood of an item of a rule that matches nothing, because a part of its selectors was not
    /// understood; nothing of a policy that was not read to be explained.
    #[must_use]
    pub fn half_read(&self, path: &str) -> Option<&PodPeer> {
        self.half_read.peers.iter().find(|(of, _)| of == path).map(|(_, peer)| peer)
    }

    /// An item of a rule that matches nothing because a part of its selectors was not understood, as its author most likely
    /// means it.
    #[must_use]
    pub fn meant_peer(&self, path: &str) -> Option<&PodPeer> {
        self.half_read.meant_peers.iter().find(|(of, _)| of == path).map(|(_, peer)| peer)
    }

    /// The prefixes that the author of a block most likely means that cannot be read; empty if nothing tells.
    #[must_use]
    pub fn meant_blocks(&self, path: &str) -> &[Cidr] {
        self.half_read.meant_blocks.iter().find(|(of, _)| of == path).map_or(&[], |(_, blocks)| blocks)
    }

    /// The prefix of a block that matches nothing because another part of it was not understood.
    #[must_use]
    pub fn half_read_block(&self, path: &str) -> Option<&Cidr> {
        self.half_read.blocks.iter().find(|(of, _)| of == path).map(|(_, block)| block)
    }

    /// The ports that an item of `ports` most likely means that was not understood: a protocol in other letters, a
    /// range from its end to its beginning.
    #[must_use]
    pub fn half_read_port(&self, path: &str) -> Option<&PortMatch> {
        self.half_read.ports.iter().find(|(of, _)| of == path).map(|(_, port)| port)
    }

    /// The pods that it selects, as a rule would name them.
    #[must_use]
    pub fn subject_peer(&self) -> PodPeer {
        PodPeer { namespaces: Namespaces::Own(self.namespace.clone()), pods: self.subject.clone() }
    }

    /// This policy without its rules: it isolates the same pods, and allows nothing.
    pub(crate) fn without_rules(&self) -> Self {
        let rules = [Vec::new(), Vec::new()];
        Self {
            rules,
            namespace: self.namespace.clone(),
            name: self.name.clone(),
            subject: self.subject.clone(),
            half_read: HalfRead::default(),
            ..*self
        }
    }

    /// Its rules of a direction; meaningless unless it isolates in it.
    #[must_use]
    pub fn rules(&self, direction: Direction) -> &[PolicyRule] {
        &self.rules[direction as usize]
    }

    /// The directions that it isolates its pods in.
    pub fn isolating(&self) -> impl Iterator<Item = Direction> + use<> {
        let isolates = self.isolates;
        Direction::ALL.into_iter().filter(move |direction| isolates[*direction as usize])
    }

    /// The rules of the directions that it isolates its pods in; other rules have no effect.
    pub fn rules_in_force(&self) -> impl Iterator<Item = (Direction, &PolicyRule)> {
        self.isolating().flat_map(|direction| self.rules(direction).iter().map(move |rule| (direction, rule)))
    }
}

impl Block {
    /// Whether an address is in it.
    #[must_use]
    pub fn holds(&self, address: IpAddr) -> bool {
        self.family == Family::of(&address) && self.addresses.contains(cidr::number(address))
    }
}

impl PolicyRule {
    /// How many peers and how many ports it lists; 1 for everyone, and 1 for everything.
    pub(crate) fn listed(&self) -> [usize; 2] {
        let peers = match &self.peers {
            Peers::Everyone => 1,
            Peers::AnyOf(peers) => peers.len(),
        };
        let ports = match &self.ports {
            Ports::Everything => 1,
            Ports::AnyOf(ports) => ports.len(),
        };
        [peers, ports]
    }

    /// Its peers that are pods.
    pub(crate) fn pod_peers(&self) -> impl Iterator<Item = &PodPeer> {
        let peers = match &self.peers {
            Peers::Everyone => &[][..],
            Peers::AnyOf(peers) => peers,
        };
        peers.iter().filter_map(|peer| match peer {
            Peer::Pods(peer) => Some(peer),
            Peer::Block(_) | Peer::Nothing => None,
        })
    }

    /// Its peers, where all of them are pods; `None` where it admits everyone, or a peer is a block or
    /// was not understood. Some of none if the rule's own fields were not understood.
    #[must_use]
    pub fn only_pod_peers(&self) -> Option<Vec<&PodPeer>> {
        let Peers::AnyOf(peers) = &self.peers else { return None };
        let pods: Vec<&PodPeer> = self.pod_peers().collect();
        (pods.len() == peers.len()).then_some(pods)
    }

    /// Whether it admits everyone on every port.
    #[must_use]
    pub fn admits_everything(&self) -> bool {
        self.peers == Peers::Everyone && self.ports == Ports::Everything
    }

    /// Whether a peer of it was not understood. If a rule's list of peers is empty, its own fields were
    /// not understood.
    #[must_use]
    pub fn has_unread_peers(&self) -> bool {
        matches!(&self.peers, Peers::AnyOf(peers) if peers.is_empty() || peers.contains(&Peer::Nothing))
    }

    /// Whether a port of it was not understood.
    #[must_use]
    pub fn has_unread_ports(&self) -> bool {
        matches!(&self.ports, Ports::AnyOf(ports) if ports.contains(&PortMatch::Nothing))
    }

    /// The named ports that it mentions.
    pub fn named_ports(&self) -> impl Iterator<Item = (Protocol, &str)> {
        let ports = match &self.ports {
            Ports::Everything => &[][..],
            Ports::AnyOf(ports) => ports,
        };
        ports.iter().filter_map(|port| match port {
            PortMatch::Named(protocol, name) => Some((*protocol, name.as_str())),
            PortMatch::Range(..) | PortMatch::Nothing => None,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sample::policy;

    #[test]
    fn what_was_half_understood_is_kept_for_explanations_only() {
        let peer = r#"{"podSelector": {"matchLabels": {"app": "web"}},
            "namespaceSelector": {"matchExpressions": [{"key": "a", "operator": "in"}]}}"#;
        let object = policy(&format!(r#"shop/web {{"podSelector": {{}}, "ingress": [{{"from": [{peer}]}}]}}"#));
        let item = "spec.ingress[0].from[0]";
        let (read, findings) = Policy::read(&object);
        assert_eq!(read.half_read(item), None);
        let (explained, same) = Policy::read_to_explain(&object);
        assert!(explained.half_read(item).is_some_and(|peer| !peer.pods.is_empty()));
        assert_eq!(findings, same);
        let direction = Direction::Ingress;
        assert_eq!(read.rules(direction), explained.rules(direction));
    }
}
