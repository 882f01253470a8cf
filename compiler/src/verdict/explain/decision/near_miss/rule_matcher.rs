//! What of a rule fails.
//!
//! A rule is an AND of its peer (namespace and pod labels, or a block) and its
//! port (protocol, and number or name). All parts are judged, without stopping
//! at the first that fails.

use std::borrow::Cow;
use std::cell::OnceCell;
use std::cmp::Reverse;
use std::collections::BTreeSet;
use std::net::IpAddr;

use crate::algebra::selector::{Operator, Requirement, Selector};
use crate::algebra::traffic::Traffic;
use crate::algebra::typo::may_mean_namespace;
use crate::cluster::group::{Admitted, Atom, Resolution};
use crate::cluster::selection::UnknownLabels;
use crate::cluster::{Class, ClassId, Cluster};
use crate::object::{ContainerPort, DNS_PORT, Family, Labels, Protocol, controller_labels};
use crate::policy::{Direction, IpBlock, Namespaces, Peer, Peers, PodPeer, PolicyRule, PortMatch, Ports};
use crate::verdict::flow::End;

use super::conjunct::{Conjunct, Part};
use super::item_path::{ItemField, ItemPath};
use super::translated_addresses::Translated;
use super::want_and_got::{Got, Want, WantedPorts};
use crate::verdict::explain::code::Code;
use crate::verdict::explain::decision::mark::{FailedRequirement, Mark};
use crate::verdict::explain::question::Question;
use crate::verdict::explain::question::party::Party;
use crate::verdict::explain::question::would_admit::declared;

/// A question, and what rules are judged by.
pub(in crate::verdict::explain) struct RuleMatcher<'a> {
    /// The namespace of the policies.
    pub(in crate::verdict::explain) namespace: &'a str,
    pub(in crate::verdict::explain) cluster: &'a Cluster,
    pub(in crate::verdict::explain) question: &'a Question,
    pub(in crate::verdict::explain) direction: Direction,
    pub(in crate::verdict::explain) other: Party,
    /// The classes of the endpoints that the other end may be.
    pub(in crate::verdict::explain) classes: &'a [ClassId],
    pub(in crate::verdict::explain) denied: &'a Traffic,
    /// The container ports of the destination, if it is an endpoint.
    pub(in crate::verdict::explain) destination: Option<&'a [ContainerPort]>,
    /// What the named ports of ingress rules mean to the group.
    pub(in crate::verdict::explain) resolution: &'a Resolution,
    /// The ports of Services that lead to the port of the destination that is asked about, once a rule
    /// with another number asks.
    pub(in crate::verdict::explain) service_ports: OnceCell<BTreeSet<(Protocol, u16)>>,
}

/// A part of a rule as it was judged: what of its nearest item fails, and how many items are as near.
pub(in crate::verdict::explain) struct Half {
    /// What fails of the nearest item.
    pub(in crate::verdict::explain) conjuncts: Vec<Conjunct>,
    /// How many labels would have to change.
    pub(in crate::verdict::explain) labels: usize,
    /// The path of the item of `ports` that matches.
    pub(in crate::verdict::explain) matching_port: Option<ItemPath>,
    /// How many items are as near.
    pub(in crate::verdict::explain) equal: usize,
}

/// An item of `from` or `to` as it was judged.
#[derive(Default)]
struct JudgedPeer {
    conjuncts: Vec<Conjunct>,
    /// How many labels would have to change.
    labels: usize,
    /// How many labels that its podSelector asks for are there.
    matching: usize,
}

impl Half {
    /// A half that admits every end, or every port.
    const fn everything() -> Self {
        Self { conjuncts: Vec::new(), labels: 0, matching_port: None, equal: 0 }
    }
}

impl RuleMatcher<'_> {
    /// What fails of the nearest peer; none where the rule has no peer that could mean any end.
    pub(in crate::verdict::explain) fn peers(&self, rule: &PolicyRule) -> Option<Half> {
        let peers = match &rule.peers {
            Peers::Everyone => return Some(Half::everything()),
            Peers::AnyOf(peers) => peers,
        };
        let judged = peers.iter().enumerate().filter_map(|(place, peer)| {
            let path = ItemPath::of_peer(self.direction, place);
            match peer {
                Peer::Nothing => None,
                Peer::Pods(peer) => Some(self.pod_peer(path, peer)),
                Peer::Block(block) => Some(JudgedPeer {
                    conjuncts: self.block(path, block).into_iter().collect(),
                    ..JudgedPeer::default()
                }),
            }
        });
        let judged: Vec<JudgedPeer> = judged.collect();
        // A pod is farther from a block that does not hold its address than from any selector, and an address
        // from any selector than from a block. Of items that miss alike, the one that means the end but for a slip, or has more of its labels, is about it.
        let rank = |JudgedPeer { conjuncts, labels, matching }: &JudgedPeer| {
            let block = block_rank(conjuncts);
            (self.is_far(conjuncts), conjuncts.len(), block, slip_rank(conjuncts), *labels, Reverse(*matching))
        };
        let nearest = judged.iter().map(rank).min()?;
        let equal = judged.iter().filter(|of| rank(of) == nearest).count();
        let JudgedPeer { conjuncts, labels, .. } = judged.into_iter().find(|of| rank(of) == nearest)?;
        Some(Half { conjuncts, labels, matching_port: None, equal })
    }

    /// Whether what fails has nothing to do with the other end: a block where that is a pod whose address it
    /// does not hold, because authors name pods by selectors, and a selector where it is an address.
    pub(in crate::verdict::explain) fn is_far(&self, conjuncts: &[Conjunct]) -> bool {
        (!self.classes.is_empty() && block_rank(conjuncts) > 0) || conjuncts.iter().any(Conjunct::is_of_other_kind)
    }

    fn pod_peer(&self, path: ItemPath, peer: &PodPeer) -> JudgedPeer {
        // Of several pods that hold the address, the one that fails by most.
        let judged = self.classes.iter().map(|class| {
            let (conjuncts, labels) = self.class_peer(path, peer, *class);
            JudgedPeer { conjuncts, labels, matching: matching(peer, &self.cluster.class(*class).labels) }
        });
        let worst = judged.max_by_key(|judged| (judged.conjuncts.len(), judged.labels));
        worst.unwrap_or_else(|| {
            // No selector selects a hostNetwork pod, and its author may not know that.
            let labels = match self.other {
                Party::Host(pod) => Some(&self.cluster.pod(pod).labels),
                Party::End(_) | Party::OtherNode(_) => None,
            };
            let matching = labels.map_or(0, |labels| matching(peer, labels));
            JudgedPeer { conjuncts: vec![self.no_endpoint(path, peer)], labels: 1, matching }
        })
    }

    fn class_peer(&self, path: ItemPath, peer: &PodPeer, class: ClassId) -> (Vec<Conjunct>, usize) {
        let class = self.cluster.class(class);
        let (mut conjuncts, mut labels) = (Vec::new(), 0);
        let peer_conjunct =
            |part, marks: Vec<Mark>, want, got, code| Conjunct::new(path, part, want, got, code).with_marks(marks);
        let marks = |field, selector: &Selector, has: &Labels| -> Vec<Mark> {
            let failed = failing(selector, has).map(|of| FailedRequirement::of(of, has));
            failed.map(|failed| Mark::requirement(path.field(field), failed)).collect()
        };
        match &peer.namespaces {
            Namespaces::Own(own) if *own != class.namespace => {
                labels += 1;
                let (want, got) = (Want::Namespace(own.clone()), Got::Namespace(class.namespace.clone()));
                conjuncts.push(peer_conjunct(Part::Namespace, Vec::new(), want, got, Code::PeerOtherNamespace));
            }
            Namespaces::Own(_) => {}
            Namespaces::Selected(selector) => match self.cluster.namespace(&class.namespace) {
                Some(has) if selector.matches(has) => {}
                has => {
                    let empty = Labels::new();
                    let has = has.unwrap_or(&empty);
                    labels += failing(selector, has).count().max(1);
                    let got = if failing(selector, has).next().is_some() {
                        Got::Labels(values_of(failing(selector, has), has))
                    } else {
                        Got::NamespaceWithoutLabels(class.namespace.clone())
                    };
                    // As two items, the pods of the policy's own namespace would be meant. A selector that selects no
                    // namespace and means this one but for a slip is no AND too much.
                    let is_slip = || {
                        may_mean_namespace(selector, &class.namespace, has)
                            && !self.cluster.has_namespace_with(selector)
                    };
                    let is_and = !peer.pods.is_empty()
                        && peer.pods.matches(&class.labels)
                        && class.namespace == self.namespace
                        && !is_slip();
                    let (want, code) = if is_and {
                        let want = Want::BothLabels { namespaces: selector.clone(), pods: peer.pods.clone() };
                        (want, Code::PeerAndNotOr)
                    } else {
                        (Want::NamespaceLabels(selector.clone()), Code::PeerNamespaceLabel)
                    };
                    let marks = marks(ItemField::NamespaceSelector, selector, has);
                    conjuncts.push(peer_conjunct(Part::Namespace, marks, want, got, code));
                }
            },
        }
        let failing: Vec<&Requirement> = failing(&peer.pods, &class.labels).collect();
        if let Some(first) = failing.first() {
            let has = shown_labels(class);
            labels += failing.len();
            // A label that is absent is said before one that differs.
            let missing = |r: &&Requirement| {
                matches!(r.operator, Operator::In(_) | Operator::Exists) && !has.contains_key(&r.key)
            };
            let code = if missing(first) || failing.iter().all(missing) {
                Code::PeerLabelMissing
            } else {
                Code::PeerLabelValue
            };
            let want = Want::PodLabels(failing.iter().copied().cloned().collect());
            let got = Got::Labels(values_of(failing.iter().copied(), &has));
            let mut marks = marks(ItemField::PodSelector, &peer.pods, &class.labels);
            for failed in marks.iter_mut().filter_map(|mark| mark.requirement.as_mut()) {
                failed.value = has.get(&failed.requirement.key).cloned();
            }
            conjuncts.push(peer_conjunct(Part::Pod, marks, want, got, code));
        }
        (conjuncts, labels)
    }

    /// The other end is no endpoint, so no selector can select it.
    fn no_endpoint(&self, path: ItemPath, peer: &PodPeer) -> Conjunct {
        let is_node = match self.other {
            Party::Host(_) | Party::OtherNode(_) => true,
            Party::End(End::Address(address) | End::Unread(address)) => self.cluster.is_node(address),
            Party::End(End::Pod(_)) => false,
        };
        let (got, code) = if is_node {
            (Got::HostNetworkPod, Code::PeerHostNetwork)
        } else {
            (self.address().map_or(Got::NoPod, Got::Address), Code::IpBlockOutside)
        };
        // The namespaceSelector may be right.
        let of_pods = Mark::field(path.field(ItemField::PodSelector));
        let marks = if peer.pods.is_empty() { Vec::new() } else { vec![of_pods] };
        Conjunct::new(path, Part::Pod, Want::Pods(peer.pods.clone()), got, code).with_marks(marks)
    }

    /// The address of the other end that policies see.
    fn address(&self) -> Option<IpAddr> {
        self.other.address(self.cluster, self.question.family?)
    }

    fn block(&self, path: ItemPath, written: &IpBlock) -> Option<Conjunct> {
        let address = self.address();
        let got = match self.other {
            Party::OtherNode(None) => Got::NodeAddress,
            _ => address.map_or(Got::NoAddress, Got::Address),
        };
        let of_cidr =
            |part, got, code| Conjunct::new(path.field(ItemField::Cidr), part, Want::Block(written.cidr), got, code);
        let is_outside = address.is_none_or(|address| !written.cidr.holds(address));
        // A block of the other family fails by that, whatever else it holds.
        let is_of_family = self.question.family.is_none_or(|family| family == written.cidr.family);
        let translated = || Translated::of_block(written, self.cluster, self.question, self.direction, self.other);
        if let Some(translated) = (is_outside && is_of_family).then(translated).flatten() {
            let holds_asked_node = matches!(translated, Translated::AskedNode(_));
            let got = Got::Translated(translated);
            let conjunct = of_cidr(Part::Block, got, Code::IpBlockIsServiceAddress);
            return Some(Conjunct { holds_asked_node, ..conjunct });
        }
        let family = address.as_ref().map(Family::of).or(self.question.family);
        if family.is_some_and(|family| family != written.cidr.family) {
            return Some(of_cidr(Part::Family, got, Code::IpBlockFamily));
        }
        let Some(address) = address else {
            let seen = self.other.seen(self.cluster, self.question.ends(self.direction).0, self.question.family);
            let is_in = Atom::Block(written.block.clone()).holds(self.cluster, seen);
            return (!is_in).then(|| of_cidr(Part::Block, got, Code::IpBlockOutside));
        };
        if !written.cidr.holds(address) {
            return Some(of_cidr(Part::Block, got, Code::IpBlockOutside));
        }
        let first = written.except.iter().position(|except| except.holds(address))?;
        // Without the first, the others would still leave the address out.
        let holding = written.except.iter().filter(|except| except.holds(address)).copied();
        let (path, want) = (path.field(ItemField::Except(first)), Want::OutsideOf(holding.collect()));
        Some(Conjunct::new(path, Part::Except, want, got, Code::IpBlockExcept))
    }

    /// What fails of the nearest port; none where the rule has no port that could be any.
    pub(in crate::verdict::explain) fn ports(&self, rule: &PolicyRule) -> Option<Half> {
        let ports = match &rule.ports {
            Ports::Everything => return Some(Half::everything()),
            Ports::AnyOf(ports) => ports,
        };
        let judged = ports.iter().enumerate().filter_map(|(place, port)| {
            let path = ItemPath::of_port(place);
            let conjuncts = match port {
                PortMatch::Nothing => return None,
                PortMatch::Range(protocol, first, last) => self.range(path, *protocol, *first, *last, None),
                PortMatch::Named(protocol, name) => self.named(path, *protocol, name),
            };
            Some((conjuncts, path, self.is_outside(port)))
        });
        let judged: Vec<(Vec<Conjunct>, ItemPath, bool)> = judged.collect();
        // A name that the destination gives to another protocol is nearer than a port that is right as it is for
        // the protocol that it names.
        let is_meant_name = |of: &Conjunct| of.code == Code::PortNamedOtherProtocol;
        let rank = |(conjuncts, _, is_outside): &(Vec<Conjunct>, ItemPath, bool)| {
            (conjuncts.len(), *is_outside, slip_rank(conjuncts), !conjuncts.iter().any(is_meant_name))
        };
        let fewest = judged.iter().map(rank).min()?;
        let equal = judged.iter().filter(|of| rank(of) == fewest).count();
        let (nearest, path, _) = judged.into_iter().find(|of| rank(of) == fewest)?;
        // Several items may admit together what none admits alone.
        let match_together = || {
            let admitted = Admitted::of_ports(&rule.ports, self.direction, self.resolution);
            self.denied.difference(&admitted.traffic_to(self.destination.unwrap_or_default())).is_none()
        };
        if nearest.is_empty() || match_together() {
            return Some(Half { equal, matching_port: Some(path), ..Half::everything() });
        }
        Some(Half { conjuncts: nearest, equal, ..Half::everything() })
    }

    /// Whether an item admits none of the ports of a range that was asked for. One that admits some is nearer.
    fn is_outside(&self, port: &PortMatch) -> bool {
        let Some((_, first, last)) = self.question.traffic.single().filter(|(_, first, last)| first < last) else {
            return false;
        };
        let is_all = (first, last) == Traffic::PORTS;
        let item = Ports::AnyOf(vec![port.clone()]);
        let admitted = Admitted::of_ports(&item, self.direction, self.resolution);
        let admitted = admitted.traffic_to(self.destination.unwrap_or_default());
        !is_all && admitted.intersection(&self.question.traffic).is_none()
    }

    /// Whether a number is the port of a Service that leads to the port that is asked about.
    fn is_service_port(&self, protocol: Protocol, number: u16) -> bool {
        if self.question.service_port == Some((protocol, number)) {
            return true;
        }
        let find = || {
            let (Party::End(End::Pod(pod)), Some((_, port, last))) = (self.question.to, self.denied.single()) else {
                return BTreeSet::new();
            };
            let services = self.cluster.services_by_another_port(pod);
            let leading = services.filter(|(_, _, of_pod)| port == last && *of_pod == port);
            leading.map(|(_, port, _)| (port.protocol, port.port)).collect()
        };
        self.service_ports.get_or_init(find).contains(&(protocol, number))
    }

    /// Whether a question about all ports may mean some of these: those that the destination declares. One that
    /// declares none may listen on any, but is hardly a DNS server.
    fn may_be_meant(&self, protocol: Protocol, first: u16, last: u16) -> bool {
        let Party::End(End::Pod(pod)) = self.question.to else { return true };
        let declared = declared(self.cluster.pod(pod));
        if declared.is_none() {
            return (first, last) != (DNS_PORT, DNS_PORT);
        }
        !declared.intersection(&Traffic::ports(protocol, first, last)).is_none()
    }

    fn range(&self, path: ItemPath, protocol: Protocol, first: u16, last: u16, name: Option<&str>) -> Vec<Conjunct> {
        let conjunct = |field, part, want, got, code| {
            let conjunct = Conjunct::new(path, part, want, got, code).with_marks(vec![Mark::field(path.field(field))]);
            Conjunct { number: (first == last).then_some(first), ..conjunct }
        };
        let number = |field, protocol, got, code| {
            let want = Want::Ports(WantedPorts { first, last, name: name.map(str::to_owned), protocol });
            conjunct(field, Part::Number, want, got, code)
        };
        let of_protocol =
            |got| conjunct(ItemField::Protocol, Part::Protocol, Want::Protocol(protocol), got, Code::PortProtocol);
        let mut conjuncts = Vec::new();
        match self.denied.single() {
            Some((asked, low, high)) => {
                if low < first || last < high {
                    let is_service_port = first == last && asked == protocol && self.is_service_port(protocol, first);
                    let holds = |(of, port): (Protocol, u16)| of == protocol && (first..=last).contains(&port);
                    let holds_service_port = asked == protocol && self.question.service_port.is_some_and(holds);
                    let code = match first == last {
                        _ if is_service_port || holds_service_port => Code::PortIsServicePort,
                        true => Code::PortNumber,
                        false => Code::PortRange,
                    };
                    let field = if low >= first && first < last { ItemField::EndPort } else { ItemField::Port };
                    conjuncts.push(number(field, None, Got::Ports(low, high), code));
                }
                if asked != protocol {
                    conjuncts.push(of_protocol(Got::Protocol(asked)));
                }
            }
            // ICMP alone has no port.
            None if self.denied.difference(&Traffic::icmp()).is_none() => conjuncts.push(of_protocol(Got::Icmp)),
            None if !self.denied.difference(&Traffic::ports(protocol, first, last)).is_none() => {
                let of_one = one_protocol(self.denied);
                match of_one {
                    Some(asked) => {
                        let (field, code) = if first < last {
                            (ItemField::EndPort, Code::PortRange)
                        } else {
                            (ItemField::Port, Code::PortNumber)
                        };
                        conjuncts.push(number(field, None, first_ranges(self.denied, asked), code));
                        if asked != protocol {
                            conjuncts.push(of_protocol(Got::Protocol(asked)));
                        }
                    }
                    None => {
                        conjuncts.push(number(ItemField::Port, Some(protocol), Got::OtherTraffic, Code::PortNumber));
                    }
                }
                let is_other_protocol = of_one.is_some_and(|asked| asked != protocol);
                let admits_a_part = !is_other_protocol && self.may_be_meant(protocol, first, last);
                for of in &mut conjuncts {
                    of.admits_a_part = admits_a_part;
                }
            }
            None => {}
        }
        conjuncts
    }

    fn named(&self, path: ItemPath, protocol: Protocol, name: &str) -> Vec<Conjunct> {
        let of_name = |want, got, code| {
            let marks = vec![Mark::field(path.field(ItemField::Port))];
            vec![Conjunct::new(path, Part::Name, want, got, code).with_marks(marks)]
        };
        let unresolved = |got| of_name(Want::PortName(name.to_owned()), got, Code::PortNamedUnresolved);
        let numbers: BTreeSet<u16> = match self.direction {
            Direction::Ingress => self.resolution.get(&(protocol, name.to_owned())).cloned().unwrap_or_default(),
            Direction::Egress => {
                let ports = self.destination.unwrap_or_default().iter();
                ports.filter(|port| port.is_named(protocol, name)).map(|port| port.port).collect()
            }
        };
        let resolved = numbers.into_iter().map(|number| self.range(path, protocol, number, number, Some(name)));
        if let Some(nearest) = resolved.min_by_key(Vec::len) {
            return nearest;
        }
        let Some(ports) = self.destination else {
            return unresolved(Got::NoPodWithPorts);
        };
        match ports.iter().find(|port| port.name == name) {
            Some(port) => {
                let got = Got::NamedPort { name: name.to_owned(), protocol: port.protocol, port: port.port };
                of_name(Want::PortNameAs(name.to_owned(), protocol), got, Code::PortNamedOtherProtocol)
            }
            None if ports.is_empty() => unresolved(Got::NoPortName),
            None => unresolved(Got::PortNames(ports.iter().map(|port| port.name.clone()).collect())),
        }
    }
}

/// The protocol of traffic that is of one protocol alone.
fn one_protocol(traffic: &Traffic) -> Option<Protocol> {
    let mut all = Protocol::ALL.into_iter().filter(|protocol| !traffic.of(*protocol).is_empty());
    let (Some(protocol), None, false) = (all.next(), all.next(), traffic.other) else { return None };
    Some(protocol)
}

/// The first few ranges of a protocol's ports, and how many more there are.
fn first_ranges(traffic: &Traffic, protocol: Protocol) -> Got {
    /// So many ranges are listed.
    const LISTED: usize = 4;
    let mut ranges = traffic.port_ranges(protocol);
    Got::PortRanges(ranges.by_ref().take(LISTED).collect(), ranges.count())
}

/// How far what fails is from a slip of its author, the nearest first: an item that means the same in
/// another way is nearer than one that may be right for others.
pub(in crate::verdict::explain) fn slip_rank(conjuncts: &[Conjunct]) -> u8 {
    let rank = |of: &Conjunct| match of.code {
        Code::PeerAndNotOr | Code::PortIsServicePort => 0,
        Code::PortProtocol | Code::PortNamedOtherProtocol => 1,
        Code::PeerLabelMissing | Code::PeerLabelValue if of.is_slip() => 1,
        Code::PortNamedUnresolved => 2,
        Code::PortRange => 3,
        _ => 4,
    };
    conjuncts.iter().map(rank).min().unwrap_or_default()
}

/// How many of the labels that a podSelector asks for are there.
fn matching(peer: &PodPeer, labels: &Labels) -> usize {
    let is_there = |of: &&Requirement| labels.contains_key(&of.key) && of.matches(labels);
    peer.pods.requirements().filter(is_there).count()
}

/// How far what fails is from an address: an exception of a block that holds it, a block of its family,
/// one of the other family.
pub(in crate::verdict::explain) fn block_rank(conjuncts: &[Conjunct]) -> u8 {
    let rank = |of: &Conjunct| match of.code {
        Code::IpBlockFamily => 2,
        Code::IpBlockOutside | Code::PeerHostNetwork => 1,
        _ => 0,
    };
    conjuncts.iter().map(rank).max().unwrap_or(0)
}

/// The labels of a class, and those that their controller adds for certain, as far as their values are
/// known.
fn shown_labels(class: &Class) -> Cow<'_, Labels> {
    let (UnknownLabels::OfController(workload) | UnknownLabels::OfJobWithoutIndex(workload)) = &class.unknown else {
        return Cow::Borrowed(&class.labels);
    };
    let added = controller_labels(&workload.kind);
    let added = added.filter_map(|label| Some((label.key.to_owned(), label.pattern(workload)?)));
    let mut labels = class.labels.clone();
    labels.extend(added);
    Cow::Owned(labels)
}

fn failing<'a>(selector: &'a Selector, labels: &'a Labels) -> impl Iterator<Item = &'a Requirement> {
    selector.requirements().filter(|requirement| !requirement.matches(labels))
}

/// What labels have for the keys that requirements are about.
fn values_of<'a>(
    requirements: impl Iterator<Item = &'a Requirement>,
    labels: &Labels,
) -> Vec<(String, Option<String>)> {
    requirements.map(|of| (of.key.clone(), labels.get(&of.key).cloned())).collect()
}
