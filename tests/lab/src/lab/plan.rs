//! Which probes are worth sending: every pair of ends, every address, every port at
//! which a verdict could change, and the packets of forgers.

use std::collections::BTreeSet;
use std::net::IpAddr;

use k8s_openapi::api::networking::v1::NetworkPolicyPort;
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use npc_compiler::object::{Family, Objects, Protocol, TargetPort};

use super::{Kind, Lab, Mode, Payload, Place, Probe, Via, judge};

/// A port that objects hardly name, so that "all ports" differs from a list.
const PLAIN_PORT: u16 = 7777;

/// UDP to this port is kept from pods that are isolated for egress, unless a
/// rule names it.
const VXLAN: u16 = 4789;

/// All probes for a lab: pods, nodes and outside addresses with each other,
/// through Services, with forged sources, and by link-local addresses.
#[must_use]
pub fn all(lab: &Lab) -> Vec<Probe> {
    let payloads = payloads(&lab.cluster().objects);
    let mut probes = direct(lab.places(), &payloads);
    probes.extend(through_services(lab));
    probes.extend(forged(lab, &payloads));
    probes.extend(link_local(lab, &payloads));
    probes
}

/// What is worth sending: to each port that an object names and to its
/// neighbours by the protocol it is named with, to the port itself by the
/// other protocols, to a port that none names, to VXLAN's, and echo requests.
#[must_use]
pub fn payloads(objects: &Objects) -> Vec<Payload> {
    let mut found: BTreeSet<Payload> =
        Protocol::ALL.into_iter().map(|protocol| Payload::Port(protocol, PLAIN_PORT)).collect();
    for (protocol, first, last) in named_ports(objects) {
        for port in [first, last] {
            found.extend(Protocol::ALL.into_iter().map(|any| Payload::Port(any, port)));
        }
        let beside = [first.checked_sub(1), last.checked_add(1)].into_iter().flatten().filter(|port| *port > 0);
        found.extend(beside.map(|port| Payload::Port(protocol, port)));
    }
    found.extend([Payload::Port(Protocol::Udp, VXLAN), Payload::Icmp]);
    found.into_iter().collect()
}

/// The port ranges that policies, containers and Services name.
fn named_ports(objects: &Objects) -> BTreeSet<(Protocol, u16, u16)> {
    let specs = objects.policies.iter().filter_map(|policy| policy.object.spec.as_ref());
    let of_policies = specs.flat_map(|spec| {
        let ingress = spec.ingress.iter().flatten().flat_map(|rule| rule.ports.iter().flatten());
        let egress = spec.egress.iter().flatten().flat_map(|rule| rule.ports.iter().flatten());
        ingress.chain(egress).filter_map(numbers)
    });
    let endpoints = || objects.pods.iter().filter(|pod| pod.is_endpoint());
    let of_pods = endpoints().flat_map(|pod| pod.ports.iter().map(|p| (p.protocol, p.port, p.port)));
    let of_services = objects.services.iter().flat_map(|service| &service.ports).flat_map(|port| {
        let target = match port.target {
            TargetPort::Number(number) => number,
            TargetPort::Name(_) => port.port,
        };
        [port.port, target].map(|number| (port.protocol, number, number))
    });
    of_policies.chain(of_pods).chain(of_services).collect()
}

fn numbers(port: &NetworkPolicyPort) -> Option<(Protocol, u16, u16)> {
    let protocol = Protocol::parse(port.protocol.as_deref().unwrap_or("TCP"))?;
    let valid = |number: i32| u16::try_from(number).ok().filter(|number| *number > 0);
    let Some(IntOrString::Int(first)) = port.port else { return None };
    let first = valid(first)?;
    Some((protocol, first, port.end_port.and_then(valid).filter(|last| *last >= first).unwrap_or(first)))
}

/// Every place to every other, and pods to themselves. Nodes and the outside
/// have nothing to say to each other that a policy could judge.
fn direct(places: &[Place], payloads: &[Payload]) -> Vec<Probe> {
    let mut probes = Vec::new();
    let is_pod = |place: &Place| matches!(place.kind, Kind::Pod { .. });
    for (from, sender) in places.iter().enumerate() {
        for (to, receiver) in places.iter().enumerate() {
            if !is_pod(sender) && !is_pod(receiver) {
                continue;
            }
            for address in &receiver.addresses {
                for source in sources(sender, Family::of(address)) {
                    let probe = |payload: &Payload| Probe { source, ..Probe::new(from, to, *address, *payload) };
                    probes.extend(payloads.iter().map(probe));
                }
            }
        }
    }
    probes
}

/// The addresses to send from: the outside from each of its own, a pod from
/// the one that its kernel chooses, a node from that and from its others.
fn sources(sender: &Place, family: Family) -> Vec<Option<IpAddr>> {
    let own = sender.addresses.iter().copied().filter(|address| Family::of(address) == family);
    match sender.kind {
        Kind::Outside => own.map(Some).collect(),
        Kind::Pod { .. } => own.take(1).map(|_| None).collect(),
        Kind::Node => own.enumerate().map(|(index, address)| (index > 0).then_some(address)).collect(),
    }
}

/// Every pod and node to every backend of every Service, themselves included.
fn through_services(lab: &Lab) -> Vec<Probe> {
    let mut probes = Vec::new();
    let senders = lab.places().iter().enumerate().filter(|(_, place)| place.kind != Kind::Outside);
    for (from, _) in senders.filter(|(_, place)| !place.addresses.is_empty()) {
        for target in lab.targets() {
            let backend = |place: &Place| matches!(place.kind, Kind::Pod { index, .. } if index == target.pod);
            let Some(to) = lab.places().iter().position(backend) else { continue };
            if lab.places()[from].address(Family::of(&target.address)).is_none() {
                continue;
            }
            let payload = Payload::Port(target.protocol, target.backend.port());
            let via = Via { address: target.address, port: target.port, backend: target.number };
            probes.push(Probe { via: Some(via), ..Probe::new(from, to, target.backend.ip(), payload) });
        }
    }
    probes
}

/// From every pod to every other with a source that is not its own: addresses
/// of its node and of the receiver's, and of another pod of its own node and of
/// another node; and with its node's address through Services.
///
/// A source that claims to be the receiver is left out: IPv4 receivers drop it (a martian), also if
/// policies allow it. Tests of their own send it.
fn forged(lab: &Lab, payloads: &[Payload]) -> Vec<Probe> {
    let places = lab.places();
    let datagrams = payloads.iter().filter(|payload| matches!(payload, Payload::Port(Protocol::Udp, _)));
    let datagrams: Vec<Payload> = datagrams.copied().collect();
    let mut probes = Vec::new();
    let pods = || (0..places.len()).filter_map(|index| Some((index, places[index].node()?)));
    for (from, own_node) in pods() {
        for (to, other_node) in pods().filter(|(to, _)| *to != from) {
            for address in &places[to].addresses {
                let family = Family::of(address);
                let other_pod = |local: bool| {
                    let mut others =
                        pods().filter(|(pod, node)| *pod != from && *pod != to && (*node == own_node) == local);
                    others.find_map(|(pod, _)| places[pod].address(family))
                };
                let nodes = [own_node, other_node].into_iter().flat_map(|node| places[node].addresses.iter().copied());
                let nodes = nodes.filter(|address| Family::of(address) == family);
                let pods = [other_pod(true), other_pod(false)].into_iter().flatten();
                let claims: BTreeSet<IpAddr> = nodes.chain(pods).collect();
                for claim in claims {
                    let probe = |payload: &Payload| Probe {
                        source: Some(claim),
                        forged: true,
                        ..Probe::new(from, to, *address, *payload)
                    };
                    probes.extend(datagrams.iter().map(probe));
                }
            }
        }
    }
    let through = through_services(lab)
        .into_iter()
        .filter(|probe| probe.from != probe.to && matches!(probe.payload, Payload::Port(Protocol::Udp, _)));
    probes.extend(through.filter_map(|probe| {
        let claim = places[places[probe.from].node()?].address(probe.family())?;
        Some(Probe { source: Some(claim), forged: true, ..probe })
    }));
    probes
}

/// Bridged pods of one node to each other by link-local addresses, where they
/// may not reach each other by their own. Where they may, an enforcer is free
/// to deny the detour, so there is nothing to judge.
fn link_local(lab: &Lab, payloads: &[Payload]) -> Vec<Probe> {
    if lab.mode() == Mode::Routed {
        return Vec::new();
    }
    let mut probes = Vec::new();
    let pods = || lab.places().iter().enumerate().filter(|(_, place)| place.node().is_some());
    for (from, sender) in pods() {
        for (to, receiver) in pods().filter(|(to, place)| *to != from && place.node() == sender.node()) {
            let both = sender.address(Family::V6).and(receiver.address(Family::V6));
            let Some(address) = both.and(receiver.link_local()) else { continue };
            // Raw SCTP sockets would need the interface, too; the rest will do.
            let carried = payloads.iter().filter(|payload| !matches!(payload, Payload::Port(Protocol::Sctp, _)));
            probes.extend(carried.map(|payload| Probe::new(from, to, address.into(), *payload)));
        }
    }
    let expected = judge::expect(lab, &probes);
    probes.into_iter().zip(expected).filter(|(_, verdict)| !verdict.allowed()).map(|(probe, _)| probe).collect()
}
