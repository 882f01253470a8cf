//! A deliberately naive evaluator of NetworkPolicy v1, written from the API
//! reference alone: for one packet between two ends it loops over all
//! policies, rules, peers and ports. It shares nothing with the compiler but
//! the input types, so that a misreading of the API has to happen twice to go
//! unseen.
//!
//! <https://kubernetes.io/docs/reference/kubernetes-api/policy-resources/network-policy-v1/>

mod addresses;
pub mod cidr;
mod policy;
mod port;
mod selector;
mod unknown;

use std::borrow::Cow;
use std::collections::BTreeSet;
use std::net::IpAddr;

use npc_compiler::object::{Family, Objects, Pod, Protocol};

use addresses::Addresses;
use policy::Direction;

/// One end of a flow.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum End {
    /// A pod, by its index in [`Objects::pods`].
    Pod(usize),
    /// A node, by name, with the address that it uses.
    Node {
        /// Its name.
        name: String,
        /// One of its addresses.
        address: IpAddr,
    },
    /// An address: of the pod that owns it, else of the nodes that list it,
    /// else outside the cluster.
    Address(IpAddr),
}

/// What a packet carries.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Payload {
    /// A segment, datagram or chunk to this port.
    Port(Protocol, u16),
    /// ICMP or ICMPv6 that belongs to no other flow; what holds for it holds
    /// for every protocol that NetworkPolicy does not know.
    Icmp,
}

/// The first packet of a flow, but for its ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Packet {
    /// The family of its addresses.
    pub family: Family,
    /// What it carries.
    pub payload: Payload,
}

/// What policies say of a packet, at either end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Verdict {
    /// The source may send it.
    pub egress: bool,
    /// The destination may receive it.
    pub ingress: bool,
}

/// What a packet has to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Demand {
    /// It has to pass.
    Pass,
    /// It must not.
    Stop,
    /// Either does no harm.
    Free,
}

impl Demand {
    /// What two together demand; each can stop the packet.
    #[must_use]
    pub fn and(self, other: Self) -> Self {
        match (self, other) {
            (Self::Stop, _) | (_, Self::Stop) => Self::Stop,
            (Self::Pass, Self::Pass) => Self::Pass,
            _ => Self::Free,
        }
    }

    /// Whether it is met.
    #[must_use]
    pub fn is_met(self, passes: bool) -> bool {
        match self {
            Self::Pass => passes,
            Self::Stop => !passes,
            Self::Free => true,
        }
    }
}

impl Verdict {
    const YES: Self = Self { egress: true, ingress: true };
    const NO: Self = Self { egress: false, ingress: false };

    /// Whether it arrives.
    #[must_use]
    pub fn allowed(self) -> bool {
        self.egress && self.ingress
    }
}

/// The naive evaluator of one cluster.
#[derive(Debug)]
pub struct Oracle<'a> {
    objects: &'a Objects,
    addresses: Addresses,
    /// The rules of each policy for ingress and for egress, as they are read once.
    rules: Vec<[Vec<policy::Rule<'a>>; 2]>,
    /// For each pod, the policies that isolate it for ingress and for egress, by their indexes.
    isolating: Vec<[Vec<usize>; 2]>,
}

/// An end with its facts: its address of the packet's family and whose it is.
#[derive(Debug, Clone)]
struct Side<'a> {
    address: IpAddr,
    /// The endpoints that may have the address, by their indexes: each of them has to allow.
    pods: Vec<usize>,
    /// The node that judges it.
    judge: Option<&'a str>,
    /// The node that the end was said to be.
    node: Option<&'a str>,
}

impl<'a> Oracle<'a> {
    /// An oracle for these objects.
    #[must_use]
    pub fn new(objects: &'a Objects) -> Self {
        let both = [Direction::Ingress, Direction::Egress];
        let rules = objects.policies.iter().map(|policy| both.map(|direction| policy::rules(policy, direction)));
        let isolating = objects.pods.iter().map(|pod| {
            both.map(|direction| {
                let policies = objects.policies.iter().enumerate();
                let isolating = policies.filter(|(_, policy)| policy::isolates(policy, direction, pod));
                isolating.map(|(index, _)| index).collect()
            })
        });
        let (rules, isolating) = (rules.collect(), isolating.collect());
        Self { objects, addresses: Addresses::new(objects), rules, isolating }
    }

    /// The policies that isolate a pod in a direction.
    fn isolating(&self, direction: Direction, pod: usize) -> &[usize] {
        &self.isolating[pod][direction as usize]
    }

    /// The end that a pod's name stands for.
    #[must_use]
    pub fn pod(&self, namespace: &str, name: &str) -> Option<End> {
        self.objects.pods.iter().position(|p| p.namespace == namespace && p.name == name).map(End::Pod)
    }

    /// The pods that policies are about: not on the host's network, not
    /// finished. Some may have no address yet.
    #[must_use]
    pub fn endpoints(&self) -> Vec<usize> {
        let pods = self.objects.pods.iter().enumerate();
        pods.filter(|(_, pod)| !pod.finished && !pod.host_network).map(|(index, _)| index).collect()
    }

    /// All nodes with their addresses, from every object that names them.
    #[must_use]
    pub fn nodes(&self) -> Vec<(String, IpAddr)> {
        self.addresses.of_nodes.iter().cloned().collect()
    }

    /// The address that an end uses in this family, if it has one.
    #[must_use]
    pub fn address(&self, end: &End, family: Family) -> Option<IpAddr> {
        self.side(end, family).map(|side| side.address)
    }

    /// The endpoints that may have an address as a node sees it, or one that has
    /// none of them.
    #[must_use]
    pub fn holders(&self, address: IpAddr, node: Option<&str>) -> Vec<usize> {
        self.addresses.holders(self.objects, address, node)
    }

    /// The endpoints that list an address.
    #[must_use]
    pub fn claimants(&self, address: IpAddr) -> &[usize] {
        self.addresses.of_pods.get(&address).map_or(&[], Vec::as_slice)
    }

    /// Whether the two ends are a pod and the node that it runs on, whose
    /// traffic no policy judges.
    #[must_use]
    pub fn own_node(&self, one: &End, other: &End, family: Family) -> bool {
        match (self.side(one, family), self.side(other, family)) {
            (Some(one), Some(other)) => self.runs_on(&one, &other) || self.runs_on(&other, &one),
            _ => false,
        }
    }

    /// Whether some policy isolates an end for egress, and for ingress.
    #[must_use]
    pub fn isolated(&self, end: &End, family: Family) -> [bool; 2] {
        let pods = self.side(end, family).map(|side| side.pods).unwrap_or_default();
        [Direction::Egress, Direction::Ingress]
            .map(|direction| pods.iter().any(|pod| !self.isolating(direction, *pod).is_empty()))
    }

    /// Whether some policy isolates a pod in any direction. The pod need not have an address.
    #[must_use]
    pub fn is_isolated(&self, pod: usize) -> bool {
        self.isolating[pod].iter().any(|policies| !policies.is_empty())
    }

    /// Judges a packet. Where an end has no address of the packet's family
    /// there is no such packet, and nothing is allowed.
    #[must_use]
    pub fn allows(&self, from: &End, to: &End, packet: Packet) -> Verdict {
        let (Some(source), Some(destination)) = (self.side(from, packet.family), self.side(to, packet.family)) else {
            return Verdict::NO;
        };
        if source.address == destination.address {
            return Verdict::YES;
        }
        self.allows_forwarded(from, to, packet)
    }

    /// What is left of [`Oracle::allows`] of a packet that comes by a pod's
    /// interface and from no Service: a pod sends none to itself, so one that
    /// claims to is judged as any other.
    #[must_use]
    pub fn allows_forwarded(&self, from: &End, to: &End, packet: Packet) -> Verdict {
        let (Some(source), Some(destination)) = (self.side(from, packet.family), self.side(to, packet.family)) else {
            return Verdict::NO;
        };
        if self.runs_on(&source, &destination) || self.runs_on(&destination, &source) {
            return Verdict::YES;
        }
        Verdict {
            egress: self.direction_allows(Direction::Egress, &source, &destination, |rule, destination| {
                port::admits(rule, packet.payload, destination)
            }),
            ingress: self.direction_allows(Direction::Ingress, &destination, &source, |rule, destination| {
                port::admits(rule, packet.payload, destination)
            }),
        }
    }

    /// What is left of [`Oracle::allows`] where tunnels are kept from pods that
    /// are isolated for egress, which is no part of the API: UDP to a port of
    /// VXLAN, Geneve, GUE or GRE needs a rule that names the port.
    #[must_use]
    pub fn allows_without_tunnels(&self, from: &End, to: &End, packet: Packet) -> Verdict {
        let verdict = self.allows(from, to, packet);
        let is_tunnel = matches!(packet.payload, Payload::Port(Protocol::Udp, 4754 | 4789 | 8472 | 6080 | 6081));
        let (Some(source), Some(destination)) = (self.side(from, packet.family), self.side(to, packet.family)) else {
            return verdict;
        };
        if !is_tunnel || source.address == destination.address || self.own_node(from, to, packet.family) {
            return verdict;
        }
        let is_named = self.direction_allows(Direction::Egress, &source, &destination, |rule, destination| {
            port::names(rule, packet.payload, destination)
        });
        Verdict { egress: is_named, ..verdict }
    }

    /// What an end must do with a TCP segment to this port if no connection of the segment is
    /// known: first the source's end, then the destination's.
    ///
    /// The segment goes to a server, or it is the answer of one; its ports do not
    /// tell which. So it may pass only if either reading is allowed at this end:
    /// as the answer in a connection the other way, its destination port could be
    /// any client's, and its source port any server's. One thing tells that it is
    /// no answer: a rule that admits it and names the port. And where it goes to a
    /// server, is allowed and cannot be an answer that is denied, it has to pass,
    /// or an allowed connection never goes on.
    #[must_use]
    pub fn mid_stream(&self, from: &End, to: &End, family: Family, port: u16) -> [Demand; 2] {
        let (Some(source), Some(destination)) = (self.side(from, family), self.side(to, family)) else {
            return [Demand::Free; 2];
        };
        let at_end = |direction, subject: &Side<'_>, other: &Side<'_>| {
            let payload = Payload::Port(Protocol::Tcp, port);
            let opposite = match direction {
                Direction::Ingress => Direction::Egress,
                Direction::Egress => Direction::Ingress,
            };
            let is_isolated = |direction| subject.pods.iter().any(|pod| !self.isolating(direction, *pod).is_empty());
            let is_admitted = self.direction_allows(direction, subject, other, |rule, destination| {
                port::admits(rule, payload, destination)
            });
            let is_server = is_isolated(direction)
                && self.direction_allows(direction, subject, other, |rule, destination| {
                    port::names_a_server(rule, port, destination)
                });
            let is_any_answer = self.direction_allows(opposite, subject, other, |rule, _| port::admits_all_tcp(rule));
            match (is_admitted, is_isolated(opposite)) {
                (true, false) => Demand::Pass,
                (true, true) if is_server => Demand::Pass,
                (true, true) if is_any_answer => Demand::Free,
                _ => Demand::Stop,
            }
        };
        [at_end(Direction::Egress, &source, &destination), at_end(Direction::Ingress, &destination, &source)]
    }

    /// The ports of a protocol that both directions allow, as sorted, disjoint
    /// ranges: the verdict can only change where some object names a number.
    #[must_use]
    pub fn allowed_ports(&self, from: &End, to: &End, family: Family, protocol: Protocol) -> Vec<(u16, u16)> {
        let mut ranges: Vec<(u16, u16)> = Vec::new();
        let starts: Vec<u16> = self.boundaries().into_iter().collect();
        for (index, &start) in starts.iter().enumerate() {
            let end = starts.get(index + 1).map_or(u16::MAX, |next| next - 1);
            let packet = Packet { family, payload: Payload::Port(protocol, start) };
            if !self.allows(from, to, packet).allowed() {
                continue;
            }
            match ranges.last_mut() {
                Some(last) if last.1 + 1 == start => last.1 = end,
                _ => ranges.push((start, end)),
            }
        }
        ranges
    }

    /// The ports at which a verdict may differ from that of the port before.
    fn boundaries(&self) -> BTreeSet<u16> {
        let mut starts = BTreeSet::from([1]);
        for (first, last) in port::mentioned(self.objects) {
            starts.extend([Some(first), first.checked_add(1), last.checked_add(1)].into_iter().flatten());
        }
        starts.remove(&0);
        starts
    }

    fn side<'s>(&'s self, end: &'s End, family: Family) -> Option<Side<'s>> {
        let objects = self.objects;
        let of_family = |address: &IpAddr| Family::of(address) == family;
        match end {
            End::Pod(index) => {
                let pod = objects.pods.get(*index)?;
                let listed = match family {
                    Family::V4 => pod.ipv4.map(IpAddr::V4),
                    Family::V6 => pod.ipv6.map(IpAddr::V6),
                }?;
                let judge = pod.node.as_deref();
                if pod.host_network && !pod.finished {
                    return Some(Side { address: listed, pods: Vec::new(), judge: None, node: judge });
                }
                let pods = self.holders(listed, judge);
                pods.contains(index).then_some(Side { address: listed, pods, judge, node: None })
            }
            End::Node { name, address } => {
                let side = Side { address: *address, pods: Vec::new(), judge: None, node: Some(name) };
                of_family(address).then_some(side)
            }
            End::Address(address) => {
                let node = |index: &usize| objects.pods[*index].node.as_deref();
                let claimants = self.claimants(*address);
                let is_of_one = claimants.windows(2).all(|two| node(&two[0]) == node(&two[1]));
                let judge = match self.holders(*address, None).as_slice() {
                    [pod] => node(pod),
                    _ => claimants.first().filter(|_| is_of_one).and_then(node),
                };
                let pods = self.holders(*address, judge);
                of_family(address).then_some(Side { address: *address, pods, judge, node: None })
            }
        }
    }

    /// Whether `pod` is a pod and `other` the node that it runs on.
    fn runs_on(&self, pod: &Side<'_>, other: &Side<'_>) -> bool {
        let Some(node) = pod.judge.filter(|_| !pod.pods.is_empty()) else { return false };
        other.pods.is_empty() && (other.node == Some(node) || self.addresses.is_of_node(node, other.address))
    }

    /// One direction at one pod: not isolated, or some rule of a policy that
    /// isolates it admits the other end, and its ports do to a destination.
    fn direction_allows(
        &self,
        direction: Direction,
        subject: &Side<'_>,
        other: &Side<'_>,
        admits: impl Fn(&policy::Rule<'_>, Option<&Pod>) -> bool,
    ) -> bool {
        // What the node of the subject takes the other end for.
        let others = self.holders(other.address, subject.judge);
        let others: Vec<&Pod> = others.iter().map(|index| &self.objects.pods[*index]).collect();
        subject.pods.iter().all(|pod| self.pod_allows(direction, *pod, other.address, &others, &admits))
    }

    fn pod_allows(
        &self,
        direction: Direction,
        pod: usize,
        address: IpAddr,
        others: &[&Pod],
        admits: impl Fn(&policy::Rule<'_>, Option<&Pod>) -> bool,
    ) -> bool {
        let isolating = self.isolating(direction, pod);
        if isolating.is_empty() {
            return true;
        }
        let destination = match (direction, others) {
            (Direction::Ingress, _) => Some(Cow::Borrowed(&self.objects.pods[pod])),
            (Direction::Egress, []) => None,
            (Direction::Egress, [pod]) => Some(Cow::Borrowed(*pod)),
            // A name of a port counts where each of them has it.
            (Direction::Egress, [first, rest @ ..]) => {
                let mut together = Pod::clone(first);
                together.ports.retain(|port| rest.iter().all(|pod| pod.ports.contains(port)));
                Some(Cow::Owned(together))
            }
        };
        let mut rules = isolating.iter().flat_map(|policy| &self.rules[*policy][direction as usize]);
        rules.any(|rule| self.peers_admit(rule, address, others) && admits(rule, destination.as_deref()))
    }

    fn peers_admit(&self, rule: &policy::Rule<'_>, address: IpAddr, others: &[&Pod]) -> bool {
        rule.peers.is_empty()
            || rule.peers.iter().enumerate().any(|(index, peer)| {
                let admits = |pod| policy::peer_admits(self.objects, rule.namespace, peer, address, pod);
                !rule.peer_is_misspelt(index)
                    && if others.is_empty() { admits(None) } else { others.iter().all(|pod| admits(Some(*pod))) }
            })
    }
}
