//! From two endpoints to the flows between them, and what is said of each.

use std::collections::BTreeSet;

use indexmap::IndexMap;
use npc_compiler::algebra::traffic::Traffic;
use npc_compiler::object::{Family, Protocol, Service, ServicePort, TargetPort};
use npc_compiler::policy::Direction;
use npc_compiler::verdict::explain::{Code, Decision, Party, Question, Verdict};
use npc_compiler::verdict::flow::End;

use super::ends::{Label, Unit, backends, no_such_port, port_name, traffic, units, units_of_pods};
use super::{Context, contests};
use crate::command::Stop;
use crate::command::endpoint::{Port, Resolved, Target};

/// The Service that a flow goes through.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Via {
    pub(super) namespace: String,
    pub(super) name: String,
    pub(super) port: Option<u16>,
    pub(super) target: Option<TargetPort>,
    pub(super) backends: usize,
}

/// A flow and what is said of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Flow {
    pub(super) from: Label,
    pub(super) to: Label,
    pub(super) via: Option<Via>,
    pub(super) family: Option<Family>,
    pub(super) traffic: Traffic,
    pub(super) port_name: Option<String>,
    pub(super) verdict: Verdict,
    /// Why there is no flow at all.
    pub(super) broken: Option<Code>,
    /// Egress and ingress; none where there is no flow.
    pub(super) decisions: Option<[Decision; 2]>,
    /// The source and destination of one of the flows that this stands for.
    pub(super) parties: Option<(Party, Party)>,
}

/// All flows between two endpoints.
#[derive(Debug, Default)]
pub(super) struct Asked {
    pub(super) flows: Vec<Flow>,
    pub(super) warnings: Vec<String>,
}

impl Flow {
    /// Whether this says of one family what another flow says of the other.
    pub(super) fn is_same_in_another_family(&self, other: &Self) -> bool {
        self.family != other.family
            && (&self.from, &self.to, &self.via) == (&other.from, &other.to, &other.via)
            && (&self.traffic, &self.port_name, self.verdict) == (&other.traffic, &other.port_name, other.verdict)
            && (self.broken, &self.decisions) == (other.broken, &other.decisions)
    }
}

impl Asked {
    /// What is said of all flows together.
    pub(super) fn verdict(&self) -> Verdict {
        let has = |verdict| self.flows.iter().any(|flow| flow.verdict == verdict);
        let (allowed, denied) = (has(Verdict::Allowed), has(Verdict::Denied));
        if has(Verdict::Partial) || (allowed && denied) {
            Verdict::Partial
        } else if has(Verdict::Unknown) {
            Verdict::Unknown
        } else if allowed {
            Verdict::Allowed
        } else {
            Verdict::Denied
        }
    }
}

/// A destination, and what is asked about it.
struct Destination {
    unit: Unit,
    traffic: Traffic,
    service_port: Option<(Protocol, u16)>,
}

/// Asks about everything between two endpoints.
pub(super) fn ask(context: &Context<'_>, from: &Resolved, to: &Resolved) -> Result<Asked, Stop> {
    let sources = match &from.target {
        Target::Service(place) => {
            units_of_pods(context, &backends(context, &context.input.loaded.objects.services[*place]))
        }
        _ => units(context, from)?,
    };
    let cluster = &context.input.cluster;
    let mut asked = Asked { flows: Vec::new(), warnings: contests::warnings(cluster, &sources) };
    match &to.target {
        Target::Service(place) => {
            let service = &context.input.loaded.objects.services[*place];
            through_service(context, &sources, service, to.port.as_ref(), &mut asked);
        }
        _ => {
            let destinations = units(context, to)?;
            let known: BTreeSet<String> = asked.warnings.iter().cloned().collect();
            let contests = contests::warnings(cluster, &destinations).into_iter();
            asked.warnings.extend(contests.filter(|warning| !known.contains(warning)));
            let questions = destinations.iter().map(|unit| (unit, traffic(context, unit, to.port.as_ref())));
            let questions: Vec<(&Unit, Option<Traffic>)> = questions.collect();
            if questions.iter().all(|(_, traffic)| traffic.is_none()) {
                return Err(no_such_port(context, to, &destinations));
            }
            for (unit, _) in questions.iter().filter(|(_, traffic)| traffic.is_none()) {
                asked.warnings.push(format!("{} has no such port", unit.label.shown()));
            }
            let destination = |(unit, traffic): (&Unit, Option<Traffic>)| {
                Some(Destination { unit: unit.clone(), traffic: traffic?, service_port: None })
            };
            let destinations: Vec<Destination> = questions.into_iter().filter_map(destination).collect();
            between(context, &sources, &destinations, to.port.as_ref(), None, &mut asked);
        }
    }
    if asked.flows.is_empty() {
        asked.warnings.push("the ends have no address family in common, so nothing can pass".to_owned());
    }
    warn_of_tunnels(context, &mut asked);
    Ok(asked)
}

/// Where a tunnel's port was asked about, and not all ports: policies allow it
/// and the rules may still drop it, which the verdict does not say.
fn warn_of_tunnels(context: &Context<'_>, asked: &mut Asked) {
    let mut warnings = BTreeSet::new();
    for flow in asked.flows.iter().filter(|flow| flow.verdict == Verdict::Allowed) {
        let (Some((from, to)), (first, last)) = (flow.parties, Traffic::PORTS) else { continue };
        if flow.traffic.of(Protocol::Udp).is_range(first, last) {
            continue;
        }
        let (family, traffic) = (flow.family, flow.traffic.clone());
        let question = Question { from, to, family, traffic, service_port: None, replicas: false };
        let kept = question.kept_tunnels(&context.input.cluster, context.groups);
        if !kept.is_none() {
            warnings.insert(format!(
                "{kept} is what tunnels use: policies allow it, but agents drop it where it leaves {}, because no \
                 rule names the port and they run without --allow-tunnels",
                flow.from.shown()
            ));
        }
    }
    asked.warnings.extend(warnings);
}

fn through_service(context: &Context<'_>, sources: &[Unit], service: &Service, port: Option<&Port>, asked: &mut Asked) {
    let backends = units_of_pods(context, &backends(context, service));
    asked.warnings.extend(contests::warnings(&context.input.cluster, &backends));
    let meant = |of: &&ServicePort| match port {
        None => true,
        Some(Port::Numbers(protocol, first, last)) => {
            (*first..=*last).contains(&of.port) && of.protocol == protocol.unwrap_or(Protocol::Tcp)
        }
        Some(Port::Name(name)) => of.name.as_ref() == Some(name),
    };
    let ports: Vec<&ServicePort> = service.ports.iter().filter(meant).collect();
    let broken = |code, port: Option<&ServicePort>| -> Vec<Flow> {
        let via = Via {
            namespace: service.namespace.clone(),
            name: service.name.clone(),
            port: port.map(|port| port.port),
            target: port.map(|port| port.target.clone()),
            backends: if port.is_some() { 0 } else { backends.len() },
        };
        let to = Label {
            kind: "Service".to_owned(),
            namespace: Some(service.namespace.clone()),
            name: service.name.clone(),
            addresses: service.addresses.clone(),
            host_network: false,
        };
        let wholes: BTreeSet<Label> =
            sources.iter().map(|unit| Label { addresses: Vec::new(), ..unit.whole.clone() }).collect();
        let flow = |from: Label| Flow {
            from,
            to: to.clone(),
            via: Some(via.clone()),
            family: None,
            traffic: port.map_or_else(Traffic::none, |port| Traffic::ports(port.protocol, port.port, port.port)),
            port_name: None,
            verdict: Verdict::Denied,
            broken: Some(code),
            decisions: None,
            parties: None,
        };
        wholes.into_iter().map(flow).collect()
    };
    if ports.is_empty() {
        asked.flows.extend(broken(Code::ServicePortUnknown, None));
        let known: Vec<String> = service.ports.iter().map(|port| port.port.to_string()).collect();
        let service = format!("service {}/{}", service.namespace, service.name);
        asked.warnings.push(format!("{service} has no such port; its ports are {}", known.join(", ")));
        return;
    }
    for port in ports {
        let target = |unit: &Unit| match &port.target {
            TargetPort::Number(number) => Some(Traffic::ports(port.protocol, *number, *number)),
            TargetPort::Name(name) => {
                let (Party::End(End::Pod(pod)) | Party::Host(pod)) = unit.party else { return None };
                let pod = context.input.cluster.pod(pod);
                // As the endpoints controller: the first of this name and protocol.
                let found = pod.ports.iter().find(|p| p.name == *name && p.protocol == port.protocol)?;
                Some(Traffic::ports(port.protocol, found.port, found.port))
            }
        };
        let service_port = Some((port.protocol, port.port));
        let destination = |unit: &Unit| Some(Destination { unit: unit.clone(), traffic: target(unit)?, service_port });
        let destinations: Vec<Destination> = backends.iter().filter_map(destination).collect();
        if destinations.is_empty() {
            asked.flows.extend(broken(Code::ServiceNoBackends, Some(port)));
            continue;
        }
        let via = Via {
            namespace: service.namespace.clone(),
            name: service.name.clone(),
            port: Some(port.port),
            target: Some(port.target.clone()),
            backends: destinations.len(),
        };
        between(context, sources, &destinations, None, Some(&via), asked);
    }
}

/// What is said of one pair of ends, by the family that is shown.
type Said = Vec<(Option<Family>, Vec<Flow>)>;

/// Asks about every pair of ends. Where all pairs of two wholes (workloads)
/// get the same answers, they are given once, for the wholes.
fn between(
    context: &Context<'_>,
    sources: &[Unit],
    destinations: &[Destination],
    port: Option<&Port>,
    via: Option<&Via>,
    asked: &mut Asked,
) {
    let name = |unit: &Label| Label { addresses: Vec::new(), ..unit.clone() };
    let mut wholes = IndexMap::<(Label, Label), Vec<(&Unit, &Unit, Said)>>::new();
    for from in sources {
        for destination in destinations {
            let to = &destination.unit;
            // Of what several ends send to themselves, that between them counts.
            if from.party == to.party && sources.len() > 1 && !from.is_template {
                continue;
            }
            let said = pair(context, from, destination, port);
            if !said.is_empty() {
                wholes.entry((name(&from.whole), name(&to.whole))).or_default().push((from, to, said));
            }
        }
    }
    for ((from, to), pairs) in wholes {
        let first = pairs[0].2.clone();
        let uniform = pairs.iter().all(|(_, _, said)| alike(said, &first));
        let mut add = |said: Said, parties: (Party, Party), from: &Label, to: &Label| {
            let flows = said.into_iter().flat_map(|(_, flows)| flows);
            asked.flows.extend(flows.map(|flow| Flow {
                from: from.clone(),
                to: to.clone(),
                via: via.cloned(),
                parties: Some(parties),
                ..flow
            }));
        };
        let all = |mut label: Label, units: &mut dyn Iterator<Item = &Unit>| {
            label.addresses = units.flat_map(|unit| unit.label.addresses.clone()).collect();
            label.addresses.sort_unstable();
            label.addresses.dedup();
            label
        };
        if uniform {
            let parties = (pairs[0].0.party, pairs[0].1.party);
            let from = all(from, &mut pairs.iter().map(|(from, ..)| *from));
            let to = all(to, &mut pairs.iter().map(|(_, to, _)| *to));
            add(first, parties, &from, &to);
        } else {
            for (from, to, said) in joined(pairs) {
                add(said, (from.party, to.party), &from.label, &to.label);
            }
        }
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

/// Pairs of which one end is a part of a prefix: parts of which the same is
/// said become one.
fn joined(pairs: Vec<(&Unit, &Unit, Said)>) -> Vec<(Unit, Unit, Said)> {
    let mut all: Vec<(Unit, Unit, Said)> = Vec::new();
    let join = |into: &mut Unit, part: &Unit, other: bool| {
        let fits = other && into.label.kind == "Block" && part.label.kind == "Block";
        if fits {
            into.label.name = format!("{},{}", into.label.name, part.label.name);
            into.label.addresses.extend(&part.label.addresses);
        }
        fits
    };
    for (from, to, said) in pairs {
        let is_part = [from, to].iter().any(|unit| unit.label.kind == "Block");
        let found = is_part
            && all.iter_mut().any(|(a, b, had)| {
                alike(had, &said) && (join(a, from, b.label == to.label) || join(b, to, a.label == from.label))
            });
        if !found {
            all.push((from.clone(), to.clone(), said));
        }
    }
    all
}

/// What is said of one pair of ends; the flows do not name them, so that
/// equal answers are equal.
fn pair(context: &Context<'_>, from: &Unit, destination: &Destination, port: Option<&Port>) -> Said {
    let Destination { unit: to, traffic, service_port } = destination;
    let (cluster, groups) = (&context.input.cluster, context.groups);
    let has = |unit: &Unit, family: Family| {
        unit.only.is_none_or(|only| only == family) && unit.party.address(cluster, family).is_some()
    };
    let bare = |unit: &Unit| !unit.party.has_address(cluster);
    let mut judged: Vec<Option<Family>> = Vec::new();
    for family in Family::ALL {
        let (a, b) = (has(from, family), has(to, family));
        if (a || bare(from)) && (b || bare(to)) && (a || b) {
            judged.push(Some(family));
        }
    }
    if bare(from) && bare(to) {
        judged.push(None);
    }
    let unknown_family = bare(from) || bare(to);
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
                from: Label::default(),
                to: Label::default(),
                via: None,
                family: family.filter(|_| !unknown_family),
                port_name: port_name(context, to, &part, port),
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
