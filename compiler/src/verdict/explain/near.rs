//! Near misses: how far each rule is from admitting what was denied.
//!
//! A rule is an AND of its peer (namespace and pod labels, or a block) and its
//! port (protocol, and number or name). All parts are judged, without stopping
//! at the first that fails; the nearest rule is the one with the fewest parts
//! that fail, and of those the one for which fewest labels would have to change.

use std::collections::BTreeSet;
use std::net::IpAddr;

use crate::algebra::cidr;
use crate::algebra::selector::{Operator, Requirement, Selector};
use crate::algebra::traffic::Traffic;
use crate::cluster::group::{Admitted, Group, Resolution};
use crate::cluster::{ClassId, Cluster, PolicyId};
use crate::object::{ContainerPort, Family, Labels, Protocol};
use crate::policy::{Direction, IpBlock, Namespaces, Peer, Peers, PodPeer, PolicyRule, PortMatch, Ports};
use crate::verdict::flow::End;

use super::party::Party;
use super::question::Question;

/// Why a flow is denied; stable codes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[allow(missing_docs, reason = "each is its code, which `npc reason` explains at length")]
#[cfg_attr(not(feature = "internals"), non_exhaustive)]
pub enum Code {
    DefaultDenyOnly,
    PeerLabelMissing,
    PeerLabelValue,
    PeerOtherNamespace,
    PeerNamespaceLabel,
    PeerAndNotOr,
    PeerOrNotAnd,
    PeerHostNetwork,
    IpBlockOutside,
    IpBlockExcept,
    IpBlockFamily,
    IpBlockIsServiceAddress,
    PortNumber,
    PortProtocol,
    PortIsServicePort,
    PortNamedUnresolved,
    PortNamedOtherProtocol,
    PortRange,
    DirectionOther,
    PolicyOtherNamespace,
    SubjectNearMiss,
    PolicyTypesMissing,
    ServiceNoBackends,
    ServicePortUnknown,
}

impl Code {
    /// All of them, in the order in which they are listed.
    pub const ALL: [Self; 24] = [
        Self::DefaultDenyOnly,
        Self::PeerLabelMissing,
        Self::PeerLabelValue,
        Self::PeerOtherNamespace,
        Self::PeerNamespaceLabel,
        Self::PeerAndNotOr,
        Self::PeerOrNotAnd,
        Self::PeerHostNetwork,
        Self::IpBlockOutside,
        Self::IpBlockExcept,
        Self::IpBlockFamily,
        Self::IpBlockIsServiceAddress,
        Self::PortNumber,
        Self::PortProtocol,
        Self::PortIsServicePort,
        Self::PortNamedUnresolved,
        Self::PortNamedOtherProtocol,
        Self::PortRange,
        Self::DirectionOther,
        Self::PolicyOtherNamespace,
        Self::SubjectNearMiss,
        Self::PolicyTypesMissing,
        Self::ServiceNoBackends,
        Self::ServicePortUnknown,
    ];

    /// Its stable text.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::DefaultDenyOnly => "default-deny-only",
            Self::PeerLabelMissing => "peer-label-missing",
            Self::PeerLabelValue => "peer-label-value",
            Self::PeerOtherNamespace => "peer-other-namespace",
            Self::PeerNamespaceLabel => "peer-namespace-label",
            Self::PeerAndNotOr => "peer-and-not-or",
            Self::PeerOrNotAnd => "peer-or-not-and",
            Self::PeerHostNetwork => "peer-hostnetwork",
            Self::IpBlockOutside => "ipblock-outside",
            Self::IpBlockExcept => "ipblock-except",
            Self::IpBlockFamily => "ipblock-family",
            Self::IpBlockIsServiceAddress => "ipblock-is-service-address",
            Self::PortNumber => "port-number",
            Self::PortProtocol => "port-protocol",
            Self::PortIsServicePort => "port-is-service-port",
            Self::PortNamedUnresolved => "port-named-unresolved",
            Self::PortNamedOtherProtocol => "port-named-other-protocol",
            Self::PortRange => "port-range",
            Self::DirectionOther => "direction-other",
            Self::PolicyOtherNamespace => "policy-other-namespace",
            Self::SubjectNearMiss => "subject-near-miss",
            Self::PolicyTypesMissing => "policytypes-missing",
            Self::ServiceNoBackends => "service-no-backends",
            Self::ServicePortUnknown => "service-port-unknown",
        }
    }
}

/// A rule that does not admit what was asked about, and by what it misses.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Candidate {
    /// The policy.
    pub policy: PolicyId,
    /// The rule's path: `spec.ingress[1]`.
    pub path: String,
    /// The parts that fail, those of the peer first; at least one.
    pub conjuncts: Vec<Conjunct>,
    /// The path of the port that matches, if it does and there is one.
    pub matching_port: Option<String>,
    /// How many labels would have to change.
    pub labels: usize,
}

/// A part of a rule that fails.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Conjunct {
    /// Whether it belongs to the peer or the port.
    pub of: Of,
    /// Its path below the rule: `from[0]`, `ports[1]`.
    pub path: String,
    /// The path of the very thing that fails, below the rule, where it is a label.
    pub mark: Option<String>,
    /// Which part.
    pub part: Part,
    /// What the rule asks for.
    pub want: String,
    /// What there is.
    pub got: String,
    /// What kind of miss that is.
    pub code: Code,
}

/// The two halves of a rule.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "lowercase")]
#[allow(missing_docs, reason = "the words of the API")]
pub enum Of {
    Peer,
    Port,
}

/// The parts of a rule that can fail.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "lowercase")]
#[allow(missing_docs, reason = "the words of the API")]
#[cfg_attr(not(feature = "internals"), non_exhaustive)]
pub enum Part {
    Namespace,
    Pod,
    Block,
    Except,
    Family,
    Protocol,
    Number,
    Name,
}

impl Candidate {
    /// The code of its first miss.
    #[must_use]
    pub fn code(&self) -> Option<Code> {
        self.conjuncts.first().map(|conjunct| conjunct.code)
    }
}

/// The rules of a group that miss the traffic by least. Rules that admit
/// no end or no traffic, whatever changes at the other end, are no
/// candidates.
pub(super) fn nearest(
    cluster: &Cluster,
    group: &Group,
    question: &Question,
    other: Party,
    denied: &Traffic,
) -> Vec<Candidate> {
    let mut all = judged(cluster, group, question, other, denied);
    let rank = |candidate: &Candidate| (candidate.conjuncts.len(), candidate.labels);
    all.sort_by_key(rank);
    let fewest = all.first().map_or(0, |candidate| candidate.conjuncts.len());
    all.retain(|candidate| candidate.conjuncts.len() == fewest);
    all
}

/// Every rule that could admit anything, with what of it fails.
pub(super) fn judged(
    cluster: &Cluster,
    group: &Group,
    question: &Question,
    other: Party,
    denied: &Traffic,
) -> Vec<Candidate> {
    let direction = group.key.direction;
    // Names mean ports of the destination. A group's ingress rules mean what all its
    // endpoints resolve them to. Where several pods hold an address, these may be other
    // endpoints than the pod that is asked about.
    let seen = other.seen(cluster, question.ends(direction).0, question.family);
    let destination = match (direction, question.to) {
        (Direction::Egress, Party::End(_)) if !seen.classes.is_empty() => Some(seen.ports),
        (Direction::Ingress, Party::End(End::Pod(pod))) => Some(cluster.pod(pod).ports.as_slice()),
        _ => None,
    };
    let classes = seen.classes;
    let namespace = group.key.policies.first().map(|policy| cluster.policy(*policy).namespace.as_str());
    let judge = RuleMatcher {
        namespace: namespace.unwrap_or_default(),
        cluster,
        question,
        direction,
        other,
        classes,
        denied,
        destination,
        resolution: &group.key.resolution,
    };
    let mut all = Vec::new();
    for policy in &group.key.policies {
        for rule in cluster.policy(*policy).rules(direction) {
            let admitted = Admitted::of_ports(&rule.ports, direction, &group.key.resolution);
            let (Some((mut conjuncts, labels)), Some((ports, matching_port))) =
                (judge.peers(rule), judge.ports(rule, &admitted.traffic_to(destination.unwrap_or_default())))
            else {
                continue;
            };
            conjuncts.extend(ports);
            all.push(Candidate { policy: *policy, path: rule.path.clone(), conjuncts, matching_port, labels });
        }
    }
    all
}

struct RuleMatcher<'a> {
    /// The namespace of the policies.
    namespace: &'a str,
    cluster: &'a Cluster,
    question: &'a Question,
    direction: Direction,
    other: Party,
    /// The classes of the endpoints that the other end may be.
    classes: &'a [ClassId],
    denied: &'a Traffic,
    /// The container ports of the destination, if it is an endpoint.
    destination: Option<&'a [ContainerPort]>,
    /// What the named ports of ingress rules mean to the group.
    resolution: &'a Resolution,
}

impl RuleMatcher<'_> {
    /// What fails of the nearest peer, and how many labels; none where the
    /// rule has no peer that could mean any end.
    fn peers(&self, rule: &PolicyRule) -> Option<(Vec<Conjunct>, usize)> {
        let peers = match &rule.peers {
            Peers::Everyone => return Some((Vec::new(), 0)),
            Peers::AnyOf(peers) => peers,
        };
        let field = match self.direction {
            Direction::Ingress => "from",
            Direction::Egress => "to",
        };
        let judged = peers.iter().enumerate().filter_map(|(i, peer)| {
            let path = format!("{field}[{i}]");
            match peer {
                Peer::Nothing => None,
                Peer::Pods(peer) => Some(self.pod_peer(&path, peer)),
                Peer::Block(block) => Some((self.block(&path, block).into_iter().collect(), 0)),
            }
        });
        judged.min_by_key(|(conjuncts, labels): &(Vec<Conjunct>, usize)| (conjuncts.len(), *labels))
    }

    fn pod_peer(&self, path: &str, peer: &PodPeer) -> (Vec<Conjunct>, usize) {
        // Of several pods that hold the address, the one that fails by most.
        let judged = self.classes.iter().map(|class| self.class_peer(path, peer, *class));
        let worst = judged.max_by_key(|(conjuncts, labels)| (conjuncts.len(), *labels));
        worst.unwrap_or_else(|| (vec![self.no_endpoint(path, peer)], 1))
    }

    fn class_peer(&self, path: &str, peer: &PodPeer, class: ClassId) -> (Vec<Conjunct>, usize) {
        let class = self.cluster.class(class);
        let (mut conjuncts, mut labels) = (Vec::new(), 0);
        let peer_conjunct = |part, mark: Option<String>, want, got, code| Conjunct {
            of: Of::Peer,
            path: path.to_owned(),
            mark,
            part,
            want,
            got,
            code,
        };
        // The line of the label that fails first.
        let mark = |field: &str, selector: &Selector, has: &Labels| {
            let first = failing(selector, has).next().map(|of| of.key.as_str());
            Some(first.map_or(format!("{path}.{field}"), |key| format!("{path}.{field}.matchLabels.{key}")))
        };
        match &peer.namespaces {
            Namespaces::Own(own) if *own != class.namespace => {
                labels += 1;
                let (want, got) = (own.clone(), class.namespace.clone());
                conjuncts.push(peer_conjunct(Part::Namespace, None, want, got, Code::PeerOtherNamespace));
            }
            Namespaces::Own(_) => {}
            Namespaces::Selected(selector) => match self.cluster.namespace(&class.namespace) {
                Some(has) if selector.matches(has) => {}
                has => {
                    let empty = Labels::new();
                    let has = has.unwrap_or(&empty);
                    labels += failing(selector, has).count().max(1);
                    let got = values(selector, has);
                    // As two items, the pods of the policy's own namespace would be meant.
                    let is_and =
                        !peer.pods.is_empty() && peer.pods.matches(&class.labels) && class.namespace == self.namespace;
                    let (want, code) = if is_and {
                        (format!("{selector} and {} together", peer.pods), Code::PeerAndNotOr)
                    } else {
                        (selector.to_string(), Code::PeerNamespaceLabel)
                    };
                    let mark = mark("namespaceSelector", selector, has);
                    conjuncts.push(peer_conjunct(Part::Namespace, mark, want, got, code));
                }
            },
        }
        let failing: Vec<&Requirement> = failing(&peer.pods, &class.labels).collect();
        if let Some(first) = failing.first() {
            labels += failing.len();
            // A label that is absent is said before one that differs.
            let missing = |r: &&Requirement| {
                matches!(r.operator, Operator::In(_) | Operator::Exists) && !class.labels.contains_key(&r.key)
            };
            let code = if missing(first) || failing.iter().all(missing) {
                Code::PeerLabelMissing
            } else {
                Code::PeerLabelValue
            };
            let want = failing.iter().map(ToString::to_string).collect::<Vec<_>>().join(",");
            let got = values_of(failing.iter().map(|r| r.key.as_str()), &class.labels);
            let mark = mark("podSelector", &peer.pods, &class.labels);
            conjuncts.push(peer_conjunct(Part::Pod, mark, want, got, code));
        }
        (conjuncts, labels)
    }

    /// The other end is no endpoint, so no selector can select it.
    fn no_endpoint(&self, path: &str, peer: &PodPeer) -> Conjunct {
        let is_node = match self.other {
            Party::Host(_) | Party::OtherNode(_) => true,
            Party::End(End::Address(address)) => self.cluster.is_node(address),
            Party::End(End::Pod(_)) => false,
        };
        let (got, code) = if is_node {
            ("the network of a node".to_owned(), Code::PeerHostNetwork)
        } else {
            (self.address().unwrap_or_else(|| "no pod".to_owned()), Code::IpBlockOutside)
        };
        let want = if peer.pods.is_empty() { "a pod".to_owned() } else { format!("a pod with {}", peer.pods) };
        Conjunct { of: Of::Peer, path: path.to_owned(), mark: None, part: Part::Pod, want, got, code }
    }

    fn address(&self) -> Option<String> {
        Some(self.other.address(self.cluster, self.question.family?)?.to_string())
    }

    fn block(&self, path: &str, written: &IpBlock) -> Option<Conjunct> {
        let address = self.question.family.and_then(|family| self.other.address(self.cluster, family));
        let conjunct = |field: &str, part, want: String, code| {
            let got = match self.other {
                Party::OtherNode(None) => "the address of a node".to_owned(),
                _ => self.address().unwrap_or_else(|| "no address yet".to_owned()),
            };
            let path = format!("{path}.ipBlock{field}");
            Some(Conjunct { of: Of::Peer, path, mark: None, part, want, got, code })
        };
        let cidr = written.cidr.network().to_string();
        let is_service = |address: &IpAddr| {
            Family::of(address) == written.cidr.family && written.block.addresses.contains(cidr::number(*address))
        };
        let holds_service = self.question.service_addresses.iter().any(is_service);
        let is_outside = address.is_none_or(|address| !written.cidr.addresses().contains(cidr::number(address)));
        if holds_service && is_outside {
            let got = self.question.service_addresses.iter().find(|address| is_service(address));
            let got = got.map_or_else(String::new, |address| format!("the Service's address {address}"));
            let (path, part, code) = (format!("{path}.ipBlock.cidr"), Part::Block, Code::IpBlockIsServiceAddress);
            return Some(Conjunct { of: Of::Peer, path, mark: None, part, want: cidr, got, code });
        }
        let family = address.as_ref().map(Family::of).or(self.question.family);
        if family.is_some_and(|family| family != written.cidr.family) {
            return conjunct(".cidr", Part::Family, cidr, Code::IpBlockFamily);
        }
        let Some(address) = address else { return conjunct("", Part::Block, cidr, Code::IpBlockOutside) };
        let number = cidr::number(address);
        if !written.cidr.addresses().contains(number) {
            return conjunct(".cidr", Part::Block, cidr, Code::IpBlockOutside);
        }
        let cut = |cidr: &&cidr::Cidr| cidr.family == written.cidr.family && cidr.addresses().contains(number);
        let (i, except) = written.except.iter().enumerate().find(|(_, cidr)| cut(cidr))?;
        conjunct(&format!(".except[{i}]"), Part::Except, format!("not {}", except.network()), Code::IpBlockExcept)
    }

    /// What fails of the nearest port, and the path of one that matches; none
    /// where the rule has no port that could be any.
    fn ports(&self, rule: &PolicyRule, together: &Traffic) -> Option<(Vec<Conjunct>, Option<String>)> {
        let ports = match &rule.ports {
            Ports::Everything => return Some((Vec::new(), None)),
            Ports::AnyOf(ports) => ports,
        };
        let judged = ports.iter().enumerate().filter_map(|(i, port)| {
            let path = format!("ports[{i}]");
            let conjuncts = match port {
                PortMatch::Nothing => return None,
                PortMatch::Range(protocol, first, last) => self.range(&path, *protocol, *first, *last, None),
                PortMatch::Named(protocol, name) => self.named(&path, *protocol, name),
            };
            Some((conjuncts, path))
        });
        let (nearest, path) = judged.min_by_key(|(conjuncts, _)| conjuncts.len())?;
        // Several items may admit together what none admits alone.
        if self.denied.difference(together).is_none() {
            return Some((Vec::new(), Some(path)));
        }
        let matching = nearest.is_empty().then_some(path);
        Some((nearest, matching))
    }

    fn range(&self, path: &str, protocol: Protocol, first: u16, last: u16, name: Option<&str>) -> Vec<Conjunct> {
        let mut conjuncts = Vec::new();
        let mut add = |part, want: String, got: String, code| {
            conjuncts.push(Conjunct { of: Of::Port, path: path.to_owned(), mark: None, part, want, got, code });
        };
        let range = |first: u16, last: u16| match (first, last) {
            (0 | 1, u16::MAX) => "all ports".to_owned(),
            _ if first == last => first.to_string(),
            _ => format!("{first}-{last}"),
        };
        let want = name.map_or_else(|| range(first, last), |name| format!("{name} = {}", range(first, last)));
        match self.denied.single() {
            Some((asked, low, high)) => {
                if asked != protocol {
                    add(Part::Protocol, protocol.to_string(), asked.to_string(), Code::PortProtocol);
                }
                if low < first || last < high {
                    let is_service_port = self.question.service_port == Some((protocol, first)) && first == last;
                    let code = match (low == high, first == last) {
                        _ if is_service_port => Code::PortIsServicePort,
                        (true, true) => Code::PortNumber,
                        _ => Code::PortRange,
                    };
                    add(Part::Number, want, range(low, high), code);
                }
            }
            None if !self.denied.difference(&Traffic::ports(protocol, first, last)).is_none() => {
                add(Part::Number, format!("{protocol} {want}"), "other traffic too".to_owned(), Code::PortNumber);
            }
            None => {}
        }
        conjuncts
    }

    fn named(&self, path: &str, protocol: Protocol, name: &str) -> Vec<Conjunct> {
        let unresolved = |got: String, code| {
            let (path, want) = (path.to_owned(), name.to_owned());
            vec![Conjunct { of: Of::Port, path, mark: None, part: Part::Name, want, got, code }]
        };
        let numbers: BTreeSet<u16> = match self.direction {
            Direction::Ingress => self.resolution.get(&(protocol, name.to_owned())).cloned().unwrap_or_default(),
            Direction::Egress => {
                let ports = self.destination.unwrap_or_default().iter();
                ports.filter(|port| port.name == name && port.protocol == protocol).map(|port| port.port).collect()
            }
        };
        let resolved = numbers.into_iter().map(|number| self.range(path, protocol, number, number, Some(name)));
        if let Some(nearest) = resolved.min_by_key(Vec::len) {
            return nearest;
        }
        let Some(ports) = self.destination else {
            return unresolved("no pod that could name a port".to_owned(), Code::PortNamedUnresolved);
        };
        match ports.iter().find(|port| port.name == name) {
            Some(port) => unresolved(format!("{name} = {} {}", port.protocol, port.port), Code::PortNamedOtherProtocol),
            None if ports.is_empty() => unresolved("no named port".to_owned(), Code::PortNamedUnresolved),
            None => {
                let names: Vec<&str> = ports.iter().map(|port| port.name.as_str()).collect();
                unresolved(names.join(", "), Code::PortNamedUnresolved)
            }
        }
    }
}

fn failing<'a>(selector: &'a Selector, labels: &'a Labels) -> impl Iterator<Item = &'a Requirement> {
    selector.requirements().filter(|requirement| !requirement.matches(labels))
}

/// What labels have for the keys that a selector asks about.
fn values(selector: &Selector, labels: &Labels) -> String {
    values_of(failing(selector, labels).map(|requirement| requirement.key.as_str()), labels)
}

fn values_of<'a>(keys: impl Iterator<Item = &'a str>, labels: &Labels) -> String {
    let word = |key: &str| match labels.get(key) {
        Some(value) => format!("{key}={value}"),
        None => format!("no label {key}"),
    };
    keys.map(word).collect::<Vec<_>>().join(",")
}
