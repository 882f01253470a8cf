//! From two targets to the flows between their ends, and what is said of each.

use std::collections::BTreeSet;

use indexmap::IndexMap;

use super::answer::{Flow, FlowExplanation, Unanswerable, Via, Warning};
use super::ends::{EndName, Finder, Port, Target, Unit};
use super::near::Code;
use super::question::{Party, Question, Verdict};
use crate::algebra::traffic::Traffic;
use crate::cluster::Cluster;
use crate::cluster::group::Groups;
use crate::object::{Family, Protocol, Service, ServicePort};
use crate::policy::Direction;

/// Explains every flow from one target to another, by a port of the destination or by
/// all. The groups are those of all endpoints ([`Groups::of_cluster`]).
///
/// # Errors
/// If the question means no end, or no port of any.
pub fn explain(
    cluster: &Cluster,
    groups: &Groups,
    from: &Target<'_>,
    to: &Target<'_>,
    port: Option<&Port>,
) -> Result<FlowExplanation, Unanswerable> {
    let ends = Finder { cluster, groups };
    let mut walk = Walk { ends, port, explanation: FlowExplanation::default() };
    let sources = ends.units(from)?;
    walk.warn(ends.contested(&sources));
    match to {
        Target::Service(service) => walk.through(&sources, service),
        _ => walk.directly(&sources, &ends.units(to)?)?,
    }
    if sources.is_empty() && matches!(from, Target::Service(_)) {
        walk.explanation.warn(Warning::SourceWithoutPods);
    } else if walk.explanation.flows.is_empty() {
        walk.explanation.warn(Warning::NoCommonFamily);
    }
    walk.warn_of_tunnels();
    Ok(walk.explanation)
}

/// A question on its way from pair to pair.
struct Walk<'a> {
    ends: Finder<'a>,
    port: Option<&'a Port>,
    explanation: FlowExplanation,
}

/// A destination, and what is asked about it.
struct Destination {
    unit: Unit,
    traffic: Traffic,
    service_port: Option<(Protocol, u16)>,
}

/// What is said of one pair of ends, by the family that is shown.
type Said = Vec<(Option<Family>, Vec<Flow>)>;

impl Walk<'_> {
    fn warn(&mut self, warnings: Vec<Warning>) {
        for warning in warnings {
            self.explanation.warn(warning);
        }
    }

    /// Flows that are sent straight to their destinations.
    fn directly(&mut self, sources: &[Unit], units: &[Unit]) -> Result<(), Unanswerable> {
        self.warn(self.ends.contested(units));
        let mut destinations = Vec::new();
        let mut without_port = Vec::new();
        for unit in units {
            match self.ends.traffic(unit, self.port) {
                Some(traffic) => destinations.push(Destination { unit: unit.clone(), traffic, service_port: None }),
                None => without_port.push(Warning::NoSuchPort(unit.name.clone())),
            }
        }
        if let (Some(Port::Name(name)), true) = (self.port, destinations.is_empty()) {
            let known: BTreeSet<&str> =
                units.iter().flat_map(|unit| self.ends.ports(unit)).map(|port| port.name.as_str()).collect();
            let known = known.into_iter().map(str::to_owned).collect();
            return Err(Unanswerable::NoPortNamed { name: name.clone(), known });
        }
        self.warn(without_port);
        self.between(sources, &destinations, self.port, None);
        Ok(())
    }

    /// Flows through a Service to its backends.
    fn through(&mut self, sources: &[Unit], service: &Service) {
        let cluster = self.ends.cluster;
        let behind = cluster.behind(service).unwrap_or_default();
        self.warn(self.ends.contested(&self.ends.backends(behind.iter().copied())));
        let is_meant = |of: &&ServicePort| match self.port {
            None => true,
            Some(Port::Numbers(protocol, first, last)) => {
                (*first..=*last).contains(&of.port) && of.protocol == protocol.unwrap_or(Protocol::Tcp)
            }
            Some(Port::Name(name)) => of.name.as_ref() == Some(name),
            // A Service's address answers no ICMP.
            Some(Port::Icmp) => false,
        };
        let ports: Vec<&ServicePort> = service.ports.iter().filter(is_meant).collect();
        let via = |port: Option<&ServicePort>, backends| Via {
            namespace: service.namespace.clone(),
            name: service.name.clone(),
            port: port.map(|port| port.port),
            target: port.map(|port| port.target.clone()),
            backends,
        };
        if ports.is_empty() {
            self.broken(sources, service, Some(Code::ServicePortUnknown), &Traffic::none(), &via(None, behind.len()));
            let Service { namespace, name, ports, .. } = service;
            self.explanation.warn(Warning::NoSuchServicePort {
                namespace: namespace.clone(),
                name: name.clone(),
                ports: ports.iter().map(|port| port.port).collect(),
            });
            return;
        }
        for port in ports {
            let backends = cluster.backends(service, port);
            let code = backends.as_ref().map(|_| Code::ServiceNoBackends);
            let backends = backends.unwrap_or_default();
            if backends.is_empty() {
                let traffic = Traffic::ports(port.protocol, port.port, port.port);
                self.broken(sources, service, code, &traffic, &via(Some(port), 0));
                continue;
            }
            let units = self.ends.backends(backends.iter().map(|backend| backend.end)).into_iter().zip(&backends);
            let destinations: Vec<Destination> = units
                .map(|(unit, backend)| Destination {
                    unit,
                    traffic: Traffic::ports(port.protocol, backend.port, backend.port),
                    service_port: Some((port.protocol, port.port)),
                })
                .collect();
            self.between(sources, &destinations, None, Some(&via(Some(port), destinations.len())));
        }
    }

    /// Flows that cannot exist, because the Service leads nowhere; without a code, flows
    /// through a Service of which the input does not say where it leads.
    fn broken(&mut self, sources: &[Unit], service: &Service, code: Option<Code>, traffic: &Traffic, via: &Via) {
        let to = EndName {
            kind: "Service".to_owned(),
            namespace: Some(service.namespace.clone()),
            name: service.name.clone(),
            addresses: service.addresses.clone(),
            host_network: false,
        };
        let wholes: BTreeSet<EndName> = sources.iter().map(|unit| unit.whole.without_addresses()).collect();
        self.explanation.flows.extend(wholes.into_iter().map(|from| Flow {
            from,
            to: to.clone(),
            via: Some(via.clone()),
            family: None,
            traffic: traffic.clone(),
            port_name: None,
            verdict: if code.is_some() { Verdict::Denied } else { Verdict::Unknown },
            broken: code,
            decisions: None,
            parties: None,
        }));
    }

    /// Asks about every pair of ends. Where all pairs of two wholes (workloads)
    /// get the same answers, they are given once, for the wholes.
    fn between(&mut self, sources: &[Unit], destinations: &[Destination], port: Option<&Port>, via: Option<&Via>) {
        let mut wholes = IndexMap::<(EndName, EndName), Vec<(&Unit, &Unit, Said)>>::new();
        for from in sources {
            for destination in destinations {
                let to = &destination.unit;
                // Of what several ends send to themselves, that between them counts.
                if from.party == to.party && sources.len() > 1 && !from.is_template {
                    continue;
                }
                let said = self.pair(from, destination, port);
                if !said.is_empty() {
                    let names = (from.whole.without_addresses(), to.whole.without_addresses());
                    wholes.entry(names).or_default().push((from, to, said));
                }
            }
        }
        for ((from, to), pairs) in wholes {
            let first = pairs[0].2.clone();
            let uniform = pairs.iter().all(|(_, _, said)| alike(said, &first));
            let mut add = |said: Said, parties: (Party, Party), from: &EndName, to: &EndName| {
                let flows = said.into_iter().flat_map(|(_, flows)| flows);
                self.explanation.flows.extend(flows.map(|flow| Flow {
                    from: from.clone(),
                    to: to.clone(),
                    via: via.cloned(),
                    parties: Some(parties),
                    ..flow
                }));
            };
            let all = |mut name: EndName, units: &mut dyn Iterator<Item = &Unit>| {
                name.addresses = units.flat_map(|unit| unit.name.addresses.clone()).collect();
                name.addresses.sort_unstable();
                name.addresses.dedup();
                name
            };
            if uniform {
                let parties = (pairs[0].0.party, pairs[0].1.party);
                let from = all(from, &mut pairs.iter().map(|(from, ..)| *from));
                let to = all(to, &mut pairs.iter().map(|(_, to, _)| *to));
                add(first, parties, &from, &to);
            } else {
                for (from, to, said) in joined(pairs) {
                    add(said, (from.party, to.party), &from.name, &to.name);
                }
            }
        }
    }

    /// What is said of one pair of ends; the flows do not name them, so that
    /// equal answers are equal.
    fn pair(&self, from: &Unit, destination: &Destination, port: Option<&Port>) -> Said {
        let Destination { unit: to, traffic, service_port } = destination;
        let Finder { cluster, groups } = self.ends;
        let has = |unit: &Unit, family: Family| {
            unit.only.is_none_or(|only| only == family) && unit.party.address(cluster, family).is_some()
        };
        let is_bare = |unit: &Unit| !unit.party.has_address(cluster);
        let mut judged: Vec<Option<Family>> = Vec::new();
        for family in Family::ALL {
            let (a, b) = (has(from, family), has(to, family));
            if (a || is_bare(from)) && (b || is_bare(to)) && (a || b) {
                judged.push(Some(family));
            }
        }
        if is_bare(from) && is_bare(to) {
            judged.push(None);
        }
        let unknown_family = is_bare(from) || is_bare(to);
        let mut said = Said::new();
        for family in judged {
            let mut question = Question {
                from: from.party,
                to: to.party,
                family,
                traffic: traffic.clone(),
                service_port: *service_port,
                replicas: from.is_template && to.is_template,
            };
            let bounds = question.passes(cluster, groups);
            let mut flows = Vec::new();
            let parts = [
                (Verdict::Allowed, traffic.intersection(&bounds.least)),
                (Verdict::Unknown, traffic.intersection(&bounds.most.difference(&bounds.least))),
                (Verdict::Denied, traffic.difference(&bounds.most)),
            ];
            for (verdict, part) in parts.into_iter().filter(|(_, part)| !part.is_none()) {
                question.traffic = part.clone();
                let decide = |direction| question.decide(cluster, groups, direction);
                flows.push(Flow {
                    from: EndName::default(),
                    to: EndName::default(),
                    via: None,
                    family: family.filter(|_| !unknown_family),
                    port_name: self.ends.port_name(to, &part, port),
                    traffic: part,
                    verdict,
                    broken: None,
                    decisions: Some([decide(Direction::Egress), decide(Direction::Ingress)]),
                    parties: None,
                });
            }
            said.push((family, flows));
        }
        // An end without an address has no family yet; it matters only where the
        // other end's families get different answers.
        if unknown_family && said.len() == 2 {
            if said[0].1 == said[1].1 {
                said.truncate(1);
            } else {
                for (family, flows) in &mut said {
                    for flow in flows {
                        flow.family = *family;
                    }
                }
            }
        }
        said
    }

    /// Where a tunnel's port was asked about, and not all ports: policies allow it
    /// and the rules may still drop it, which the verdict does not say.
    fn warn_of_tunnels(&mut self) {
        let Finder { cluster, groups } = self.ends;
        let mut found = Vec::new();
        for flow in self.explanation.flows.iter().filter(|flow| flow.verdict == Verdict::Allowed) {
            let (Some((from, to)), (first, last)) = (flow.parties, Traffic::PORTS) else { continue };
            if flow.traffic.of(Protocol::Udp).is_range(first, last) {
                continue;
            }
            let (family, traffic) = (flow.family, flow.traffic.clone());
            let question = Question { from, to, family, traffic, service_port: None, replicas: false };
            let traffic = question.dropped_tunnels(cluster, groups);
            if !traffic.is_none() {
                let from = flow.from.without_addresses();
                found.push(Warning::TunnelDropped { from, traffic });
            }
        }
        self.warn(found);
    }
}

/// Whether the same is said, but for facts about an end that change nothing,
/// as which of its addresses no block holds.
fn alike(a: &Said, b: &Said) -> bool {
    let general = |said: &Said| {
        let mut said = said.clone();
        let decisions =
            said.iter_mut().flat_map(|(_, flows)| flows).filter_map(|flow| flow.decisions.as_mut()).flatten();
        let candidates = decisions.flat_map(|decision| &mut decision.candidates);
        candidates.flat_map(|candidate| &mut candidate.conjuncts).for_each(|conjunct| conjunct.got.clear());
        said
    };
    general(a) == general(b)
}

/// Pairs with one end that is a part of a prefix: parts with equal answers become
/// one.
fn joined(pairs: Vec<(&Unit, &Unit, Said)>) -> Vec<(Unit, Unit, Said)> {
    let mut all: Vec<(Unit, Unit, Said)> = Vec::new();
    let join = |into: &mut Unit, part: &Unit, other: bool| {
        let fits = other && into.name.kind == "Block" && part.name.kind == "Block";
        if fits {
            into.name.name = format!("{},{}", into.name.name, part.name.name);
            into.name.addresses.extend(&part.name.addresses);
        }
        fits
    };
    for (from, to, said) in pairs {
        let is_part = [from, to].iter().any(|unit| unit.name.kind == "Block");
        let found = is_part
            && all.iter_mut().any(|(a, b, had)| {
                alike(had, &said) && (join(a, from, b.name == to.name) || join(b, to, a.name == from.name))
            });
        if !found {
            all.push((from.clone(), to.clone(), said));
        }
    }
    all
}
