//! What of a rule fails.
//!
//! A rule is an AND of its peer (namespace and pod labels, or a block) and its
//! port (protocol, and number or name). All parts are judged, without stopping
//! at the first that fails.

use std::collections::BTreeSet;

use crate::algebra::cidr;
use crate::algebra::selector::{Operator, Requirement, Selector};
use crate::algebra::traffic::Traffic;
use crate::cluster::group::{Admitted, Resolution};
use crate::cluster::{ClassId, Cluster};
use crate::object::{ContainerPort, Family, Labels, Protocol};
use crate::policy::{Direction, IpBlock, Namespaces, Peer, Peers, PodPeer, PolicyRule, PortMatch, Ports};
use crate::verdict::flow::End;

use super::code::Code;
use super::conjunct::{Conjunct, OTHER_TRAFFIC, Of, Part};
use super::mark::Mark;
use super::party::Party;
use super::question::Question;

/// A question, and what rules are judged by.
pub(super) struct RuleMatcher<'a> {
    /// The namespace of the policies.
    pub(super) namespace: &'a str,
    pub(super) cluster: &'a Cluster,
    pub(super) question: &'a Question,
    pub(super) direction: Direction,
    pub(super) other: Party,
    /// The classes of the endpoints that the other end may be.
    pub(super) classes: &'a [ClassId],
    pub(super) denied: &'a Traffic,
    /// The container ports of the destination, if it is an endpoint.
    pub(super) destination: Option<&'a [ContainerPort]>,
    /// What the named ports of ingress rules mean to the group.
    pub(super) resolution: &'a Resolution,
}

impl RuleMatcher<'_> {
    /// What fails of the nearest peer, how many labels, and how many peers are as near; none where
    /// the rule has no peer that could mean any end.
    pub(super) fn peers(&self, rule: &PolicyRule) -> Option<(Vec<Conjunct>, usize, usize)> {
        let peers = match &rule.peers {
            Peers::Everyone => return Some((Vec::new(), 0, 0)),
            Peers::AnyOf(peers) => peers,
        };
        let field = self.direction.peers_field();
        let judged = peers.iter().enumerate().filter_map(|(i, peer)| {
            let path = format!("{field}[{i}]");
            match peer {
                Peer::Nothing => None,
                Peer::Pods(peer) => Some(self.pod_peer(&path, peer)),
                Peer::Block(block) => Some((self.block(&path, block).into_iter().collect(), 0)),
            }
        });
        let judged: Vec<(Vec<Conjunct>, usize)> = judged.collect();
        let rank = |(conjuncts, labels): &(Vec<Conjunct>, usize)| (conjuncts.len(), *labels);
        let nearest = judged.iter().map(rank).min()?;
        let equal = judged.iter().filter(|of| rank(of) == nearest).count();
        let (conjuncts, labels) = judged.into_iter().find(|of| rank(of) == nearest)?;
        Some((conjuncts, labels, equal))
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
        let peer_conjunct = |part, marks: Vec<Mark>, want, got, code| Conjunct {
            of: Of::Peer,
            path: path.to_owned(),
            marks,
            part,
            want,
            got,
            code,
        };
        let marks = |field: &str, selector: &Selector, has: &Labels| -> Vec<Mark> {
            let selector_path = format!("{path}.{field}");
            failing(selector, has).map(|of| Mark::requirement(&selector_path, of, has)).collect()
        };
        match &peer.namespaces {
            Namespaces::Own(own) if *own != class.namespace => {
                labels += 1;
                let (want, got) = (own.clone(), class.namespace.clone());
                conjuncts.push(peer_conjunct(Part::Namespace, Vec::new(), want, got, Code::PeerOtherNamespace));
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
                    let marks = marks("namespaceSelector", selector, has);
                    conjuncts.push(peer_conjunct(Part::Namespace, marks, want, got, code));
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
            let marks = marks("podSelector", &peer.pods, &class.labels);
            conjuncts.push(peer_conjunct(Part::Pod, marks, want, got, code));
        }
        (conjuncts, labels)
    }

    /// The other end is no endpoint, so no selector can select it.
    fn no_endpoint(&self, path: &str, peer: &PodPeer) -> Conjunct {
        let is_node = match self.other {
            Party::Host(_) | Party::OtherNode(_) => true,
            Party::End(End::Address(address) | End::Unread(address)) => self.cluster.is_node(address),
            Party::End(End::Pod(_)) => false,
        };
        let (got, code) = if is_node {
            ("the network of a node".to_owned(), Code::PeerHostNetwork)
        } else {
            (self.address().unwrap_or_else(|| "no pod".to_owned()), Code::IpBlockOutside)
        };
        let want = if peer.pods.is_empty() { "a pod".to_owned() } else { format!("a pod with {}", peer.pods) };
        Conjunct { of: Of::Peer, path: path.to_owned(), marks: Vec::new(), part: Part::Pod, want, got, code }
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
            Some(Conjunct { of: Of::Peer, path, marks: Vec::new(), part, want, got, code })
        };
        let cidr = written.cidr.network().to_string();
        let is_outside = address.is_none_or(|address| !written.cidr.addresses().contains(cidr::number(address)));
        if let Some(got) = is_outside.then(|| self.translated(written)).flatten() {
            let (path, part, code) = (format!("{path}.ipBlock.cidr"), Part::Block, Code::IpBlockIsServiceAddress);
            return Some(Conjunct { of: Of::Peer, path, marks: Vec::new(), part, want: cidr, got, code });
        }
        let family = address.as_ref().map(Family::of).or(self.question.family);
        if family.is_some_and(|family| family != written.cidr.family) {
            return conjunct(".cidr", Part::Family, cidr, Code::IpBlockFamily);
        }
        let Some(address) = address else { return conjunct(".cidr", Part::Block, cidr, Code::IpBlockOutside) };
        let number = cidr::number(address);
        if !written.cidr.addresses().contains(number) {
            return conjunct(".cidr", Part::Block, cidr, Code::IpBlockOutside);
        }
        let cut = |cidr: &&cidr::Cidr| cidr.family == written.cidr.family && cidr.addresses().contains(number);
        let (i, except) = written.except.iter().enumerate().find(|(_, cidr)| cut(cidr))?;
        conjunct(&format!(".except[{i}]"), Part::Except, format!("not {}", except.network()), Code::IpBlockExcept)
    }

    /// What fails of the nearest port, the path of one that matches, and how many ports are as near;
    /// none where the rule has no port that could be any.
    pub(super) fn ports(&self, rule: &PolicyRule) -> Option<(Vec<Conjunct>, Option<String>, usize)> {
        let ports = match &rule.ports {
            Ports::Everything => return Some((Vec::new(), None, 0)),
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
        let judged: Vec<(Vec<Conjunct>, String)> = judged.collect();
        let fewest = judged.iter().map(|(conjuncts, _)| conjuncts.len()).min()?;
        let equal = judged.iter().filter(|(conjuncts, _)| conjuncts.len() == fewest).count();
        let (nearest, path) = judged.into_iter().find(|(conjuncts, _)| conjuncts.len() == fewest)?;
        // Several items may admit together what none admits alone.
        let match_together = || {
            let admitted = Admitted::of_ports(&rule.ports, self.direction, self.resolution);
            self.denied.difference(&admitted.traffic_to(self.destination.unwrap_or_default())).is_none()
        };
        if nearest.is_empty() || match_together() {
            return Some((Vec::new(), Some(path), equal));
        }
        Some((nearest, None, equal))
    }

    fn range(&self, path: &str, protocol: Protocol, first: u16, last: u16, name: Option<&str>) -> Vec<Conjunct> {
        let mut conjuncts = Vec::new();
        let mut add = |field: &str, part, want: String, got: String, code| {
            let marks = vec![Mark::field(format!("{path}.{field}"))];
            conjuncts.push(Conjunct { of: Of::Port, path: path.to_owned(), marks, part, want, got, code });
        };
        let range = |first: u16, last: u16| match (first, last) {
            (0 | 1, u16::MAX) => "all ports".to_owned(),
            _ if first == last => first.to_string(),
            _ => format!("{first}-{last}"),
        };
        let want = name.map_or_else(|| range(first, last), |name| format!("{name} = {}", range(first, last)));
        match self.denied.single() {
            Some((asked, low, high)) => {
                if low < first || last < high {
                    let is_service_port = self.question.service_port == Some((protocol, first)) && first == last;
                    let code = match (low == high, first == last) {
                        _ if is_service_port => Code::PortIsServicePort,
                        (true, true) => Code::PortNumber,
                        _ => Code::PortRange,
                    };
                    let field = if low >= first && first < last { "endPort" } else { "port" };
                    add(field, Part::Number, want, range(low, high), code);
                }
                if asked != protocol {
                    add("protocol", Part::Protocol, protocol.to_string(), asked.to_string(), Code::PortProtocol);
                }
            }
            // ICMP alone has no port.
            None if self.denied.difference(&Traffic::icmp()).is_none() => {
                add("protocol", Part::Protocol, protocol.to_string(), "ICMP".to_owned(), Code::PortProtocol);
            }
            None if !self.denied.difference(&Traffic::ports(protocol, first, last)).is_none() => {
                add("port", Part::Number, format!("{protocol} {want}"), OTHER_TRAFFIC.to_owned(), Code::PortNumber);
            }
            None => {}
        }
        conjuncts
    }

    fn named(&self, path: &str, protocol: Protocol, name: &str) -> Vec<Conjunct> {
        let unresolved = |got: String, code| {
            let (path, want) = (path.to_owned(), name.to_owned());
            let marks = vec![Mark::field(format!("{path}.port"))];
            vec![Conjunct { of: Of::Port, path, marks, part: Part::Name, want, got, code }]
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
