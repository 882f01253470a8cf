//! The flows that a lab under traffic may carry, and what the oracle says of
//! each in one state of the cluster.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};

use npc_compiler::object::{Family, Objects, Protocol};
use npc_compiler::plan::KernelState;
use npc_compiler::policy::Direction;

use crate::lab::{Kind, Payload, Place, Probe, judge};
use crate::model::{Model, Packet, Question};

/// One kind of packet: from one place to a port of another.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Flow {
    /// The place that begins it.
    pub from: usize,
    /// The place that answers.
    pub to: usize,
    /// Their names, for people.
    pub name: String,
    /// TCP or UDP.
    pub protocol: Protocol,
    /// The address that it begins at.
    pub source: IpAddr,
    /// Where it leads to.
    pub destination: SocketAddr,
    /// The nodes that judge its egress and its ingress, as places; `None` where
    /// that end is no pod.
    pub judges: [Option<usize>; 2],
    /// The flow of this protocol from the answering end to a port that no
    /// policy names, as the beginning end's is.
    pub back: Option<usize>,
}

/// What policies say of every flow in one state of the cluster.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Verdicts {
    /// Per flow: whether its source may send it, its destination receive it.
    pub(super) of: Vec<[bool; 2]>,
}

/// All flows of a lab.
#[derive(Debug)]
pub struct Flows {
    pub(super) all: Vec<Flow>,
    probes: Vec<Probe>,
}

/// A port that no policy names but those that name all: it stands for the ports
/// that packets are sent from.
pub const UNNAMED_PORT: u16 = 30_000;

impl Flows {
    /// Every pod to every other, and to and from the outside, in both families,
    /// to these ports and, by UDP, to [`UNNAMED_PORT`].
    #[must_use]
    pub fn between(places: &[Place], ports: &[u16]) -> Self {
        let is_pod = |place: &Place| matches!(place.kind, Kind::Pod { .. });
        let ends = || places.iter().enumerate().filter(|(_, place)| place.kind != Kind::Node);
        let udp = ports.iter().copied().chain([UNNAMED_PORT]).map(|port| (Protocol::Udp, port));
        let carried: Vec<_> = ports.iter().map(|port| (Protocol::Tcp, *port)).chain(udp).collect();
        let mut flows = Self { all: Vec::new(), probes: Vec::new() };
        let mut unnamed = BTreeMap::new();
        for (from, sender) in ends() {
            for (to, receiver) in ends().filter(|(to, place)| *to != from && (is_pod(place) || is_pod(sender))) {
                for family in Family::ALL {
                    let (Some(source), Some(destination)) = (sender.address(family), receiver.address(family)) else {
                        continue;
                    };
                    for (protocol, port) in &carried {
                        if *port == UNNAMED_PORT {
                            unnamed.insert((from, to, family), flows.all.len());
                        }
                        flows.all.push(Flow {
                            from,
                            to,
                            name: format!("{} > {} {family} {protocol} {port}", sender.name, receiver.name),
                            protocol: *protocol,
                            source,
                            destination: SocketAddr::new(destination, *port),
                            judges: [sender.node(), receiver.node()],
                            back: None,
                        });
                        let payload = Payload::Port(*protocol, *port);
                        let probe = Probe::new(from, to, destination, payload);
                        flows.probes.push(Probe { source: Some(source), ..probe });
                    }
                }
            }
        }
        for flow in flows.all.iter_mut().filter(|flow| flow.protocol == Protocol::Udp) {
            flow.back = unnamed.get(&(flow.to, flow.from, Family::of(&flow.source))).copied();
        }
        flows
    }

    /// What the oracle says of each in a state of the cluster.
    #[must_use]
    pub fn verdicts(&self, objects: &Objects, places: &[Place]) -> Verdicts {
        // None of the ports is a tunnel's.
        let verdicts = judge::expect_of(objects, places, true, &self.probes);
        Verdicts { of: verdicts.into_iter().map(|verdict| [verdict.egress, verdict.ingress]).collect() }
    }

    /// The same verdicts, but for a node's, whose kernel holds this.
    pub(super) fn verdicts_with(&self, verdicts: &Verdicts, node: usize, held: &KernelState) -> Verdicts {
        let models = Family::ALL.map(|family| Model::new(family, held.family(family)));
        let mut verdicts = verdicts.clone();
        for (flow, verdicts) in self.all.iter().zip(&mut verdicts.of) {
            let packet = Packet {
                source: flow.source,
                destination: flow.destination.ip(),
                port: Some((flow.protocol, flow.destination.port())),
            };
            // Egress first, as the judges are.
            let directions = [Direction::Egress, Direction::Ingress];
            let model = &models[Family::of(&flow.source) as usize];
            // What answers in a connection that is known no more may begin it anew, the
            // other way round; then its packets pass both ways.
            let answer = Packet {
                source: packet.destination,
                destination: packet.source,
                port: Some((flow.protocol, UNNAMED_PORT)),
            };
            let is_of_node = |direction: Direction| flow.judges[1 - direction_index(direction)] == Some(node);
            let answers = flow.protocol == Protocol::Tcp
                && directions
                    .into_iter()
                    .filter(|direction| is_of_node(*direction))
                    .all(|direction| model.verdict(Question::MidStream(direction), &answer));
            let judged =
                directions.into_iter().zip(flow.judges).zip(verdicts).filter(|((_, judge), _)| *judge == Some(node));
            for ((direction, _), verdict) in judged {
                // Of a flow that was denied it may be so; of another, first packets decide.
                let first = model.verdict(Question::First(direction), &packet);
                *verdict = first || answers && !*verdict;
            }
        }
        verdicts
    }

    /// The flows to a port by a protocol, by number.
    pub fn to_port(&self, protocol: Protocol, port: u16) -> impl Iterator<Item = usize> {
        let flows = self.all.iter().enumerate();
        flows.filter(move |(_, flow)| flow.protocol == protocol && flow.destination.port() == port).map(|(n, _)| n)
    }
}

/// The place of a direction among a flow's verdicts and judges.
fn direction_index(direction: Direction) -> usize {
    usize::from(direction == Direction::Ingress)
}

impl Verdicts {
    /// Whether a flow passes.
    #[must_use]
    pub fn allow(&self, flow: usize) -> bool {
        self.of[flow] == [true, true]
    }
}
