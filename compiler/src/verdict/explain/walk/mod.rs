//! Walks over all pairs of ends of a question, and says once what is the same of all.

mod apart;
mod by_class;
pub(super) mod ends;
mod families;
mod ineffective;
mod local_address;
mod not_forwarded;
mod pair;
mod unread_pods;
mod unresolved_names;

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use indexmap::IndexMap;

use crate::algebra::traffic::Traffic;
use crate::cluster::Cluster;
use crate::cluster::group::Groups;
use crate::object::{Family, Protocol, Service};
use crate::policy::Direction;
use crate::verdict::bounds::Verdict;
use crate::verdict::explain::answer::{Flow, FlowExplanation, Unanswerable, Via, WarningFact, Way};
use crate::verdict::explain::decision::near_miss::want_and_got::Got;
use crate::verdict::explain::question::name::{EndName, Port, QuestionEnd};
use crate::verdict::explain::question::party::Party;
use crate::verdict::explain::question::{MissingFact, OnNodes, Question};
use crate::verdict::flow::End;
use ends::{Finder, Unit};
pub use not_forwarded::NotForwarded;

/// Questions about more pairs of ends than this are answered by classes. Fewer are answered
/// pair by pair, each with reasons of its own.
const PAIRWISE: usize = 2_500;

/// Questions are also answered by classes if answers pair by pair would judge more rules than
/// this: a denial judges each rule of its policies to find the nearest.
const RULES_JUDGED: usize = 100_000;

/// Explains every flow from one target to another, by a port of the destination or by
/// all. The groups are those of all endpoints ([`Groups::of_cluster`]).
///
/// # Errors
/// If no destination has a port of the name, or the question means too many different ends.
pub fn explain(
    cluster: &Cluster,
    groups: &Groups,
    from: &QuestionEnd<'_>,
    to: &QuestionEnd<'_>,
    port: Option<&Port>,
) -> Result<FlowExplanation, Unanswerable> {
    let ends = Finder { cluster, groups };
    let mut walk = Walk::new(ends, port);
    if walk.of_unaddressed_node(from, to) {
        return Ok(walk.explanation);
    }
    let sources = match from {
        QuestionEnd::ServiceAddress(service, address) => {
            let Service { namespace, name, .. } = service;
            let (address, namespace, name) = (*address, namespace.clone(), name.clone());
            walk.explanation.warn(WarningFact::ServiceAddressAsSource { address, namespace, name });
            ends.units(&QuestionEnd::Address(address))
        }
        QuestionEnd::Outside | QuestionEnd::Blocks(_)
            if matches!(to, QuestionEnd::Outside | QuestionEnd::Blocks(_)) =>
        {
            ends.by_other_addresses(ends.units(from), &ends.units(to))
        }
        from => ends.units(from),
    };
    walk.warn(ends.contested(&sources));
    match (from, to) {
        (QuestionEnd::Service(service), _) if sources.is_empty() => {
            walk.without_source(service, to);
        }
        (_, QuestionEnd::Service(service)) if service.routing.is_headless => walk.by_name(&sources, service)?,
        (_, QuestionEnd::Service(service)) => walk.through(&sources, service, None, None),
        (_, QuestionEnd::ServiceAddress(_, address)) => walk.by_address(&sources, *address)?,
        (_, QuestionEnd::Node { addresses, .. }) if walk.by_node(&sources, to, addresses) => {}
        (_, QuestionEnd::Address(address)) if cluster.services_outside(*address).next().is_some() => {
            walk.by_address(&sources, *address)?;
        }
        (_, QuestionEnd::Address(address)) if walk.by_proxied_balancer(&sources, *address) => {}
        (_, QuestionEnd::Address(address)) if walk.by_loopback(&sources, *address)? => {}
        (_, QuestionEnd::Address(address)) if walk.by_node(&sources, to, &[*address]) => {}
        (_, QuestionEnd::Blocks(blocks)) if walk.by_loopback_prefix(&sources, blocks)? => {}
        (_, QuestionEnd::Blocks(_) | QuestionEnd::Any) => walk.by_prefixes(&sources, to)?,
        (QuestionEnd::Outside, QuestionEnd::Outside) => {
            for [from, to] in ends.two_outside() {
                walk.directly(&[from], &[to])?;
            }
        }
        (_, QuestionEnd::Pod(_) | QuestionEnd::Pods(_) | QuestionEnd::Namespace { .. }) => {
            let units = ends.units(to);
            let left = walk.by_host_pods(&sources, units.clone());
            if !left.is_empty() || units.is_empty() {
                walk.directly(&sources, &left)?;
            }
        }
        _ => walk.directly(&sources, &ends.units(to))?,
    }
    if let Some(refused) = walk.refused {
        return Err(refused);
    }
    if walk.explanation.flows.is_empty() {
        walk.explanation.warn(WarningFact::NoCommonFamily);
    }
    if let QuestionEnd::Service(service) = to {
        walk.warn_of_unresolved_names(&sources, service);
    }
    walk.leave_local_addresses_open();
    walk.warn_of_tunnels();
    walk.warn_of_unforwarded();
    walk.warn_of_service_ports();
    walk.warn_of_other_nodes();
    walk.warn_of_own_nodes();
    let mut explanation = walk.explanation;
    explanation.without_subjects = ineffective::without_subjects(cluster, &explanation);
    explanation.replaced = ineffective::replaced(cluster, &explanation);
    unread_pods::add(cluster, groups, &mut explanation, [from, to]);
    Ok(explanation)
}

/// A question on its way from pair to pair.
pub(in crate::verdict::explain) struct Walk<'a> {
    pub(in crate::verdict::explain) ends: Finder<'a>,
    pub(in crate::verdict::explain) port: Option<&'a Port>,
    pub(in crate::verdict::explain) explanation: FlowExplanation,
    /// Why the question has no answer, where a part of it is too large.
    pub(in crate::verdict::explain) refused: Option<Unanswerable>,
    /// All pairs of the flows with a hostNetwork pod that stand for several, by the places
    /// of the flows.
    pub(in crate::verdict::explain) host_pairs: BTreeMap<usize, Vec<(Party, Party)>>,
}

/// A destination, and what is asked about it.
#[derive(Debug, Clone)]
pub(in crate::verdict::explain) struct Destination {
    pub(in crate::verdict::explain) unit: Unit,
    pub(in crate::verdict::explain) traffic: Traffic,
    pub(in crate::verdict::explain) service_port: Option<(Protocol, u16)>,
    /// The end and traffic by which the source's own node filters, where another node replaces the
    /// destination's address.
    pub(in crate::verdict::explain) before: Option<(Party, Traffic)>,
}

impl Destination {
    /// A destination that the source addresses itself.
    pub(in crate::verdict::explain) const fn direct(unit: Unit, traffic: Traffic) -> Self {
        Self { unit, traffic, service_port: None, before: None }
    }
}

/// What all flows of a walk have in common.
#[derive(Debug, Clone, Copy, Default)]
pub(in crate::verdict::explain) struct Route<'a> {
    pub(in crate::verdict::explain) via: Option<&'a Via>,
    pub(in crate::verdict::explain) way: Option<&'a Way>,
    /// The addresses of the Service.
    pub(in crate::verdict::explain) service: &'a [IpAddr],
    /// The port of the destination that was asked for.
    pub(in crate::verdict::explain) port: Option<&'a Port>,
    /// Facts without which no flow is allowed for certain.
    pub(in crate::verdict::explain) missing: &'a [MissingFact],
    /// Without these facts, nothing is denied for certain either.
    pub(in crate::verdict::explain) may_pass: bool,
    /// What an end sends to itself is meant besides what it sends to others: by a Service, which may
    /// send a client to itself, or of the pods of one workload.
    pub(in crate::verdict::explain) with_itself: bool,
    /// Whether the ends of each pair are on one node.
    pub(in crate::verdict::explain) nodes: OnNodes,
}

/// What is said of one pair of ends, by the family that is shown.
pub(in crate::verdict::explain) type FlowsByFamily = Vec<(Option<Family>, Vec<Flow>)>;

/// A pair of ends and what is said of it.
type PairSaid<'u> = (&'u Unit, &'u Unit, FlowsByFamily);

/// The pairs of two wholes.
#[derive(Default)]
struct Judged<'u> {
    /// What one end sends to a different one.
    others: Vec<PairSaid<'u>>,
    /// What an end sends to itself.
    itself: Vec<PairSaid<'u>>,
}

impl<'a> Walk<'a> {
    pub(in crate::verdict::explain) fn new(ends: Finder<'a>, port: Option<&'a Port>) -> Self {
        let explanation = FlowExplanation::default();
        Self { ends, port, explanation, refused: None, host_pairs: BTreeMap::new() }
    }
}

impl Walk<'_> {
    pub(in crate::verdict::explain) fn warn(&mut self, warnings: Vec<WarningFact>) {
        for warning in warnings {
            self.explanation.warn(warning);
        }
    }

    /// Flows that are sent straight to their destinations.
    pub(in crate::verdict::explain) fn directly(
        &mut self,
        sources: &[Unit],
        units: &[Unit],
    ) -> Result<(), Unanswerable> {
        self.warn(self.ends.contested(units));
        let mut destinations = Vec::new();
        let mut without_port = Vec::new();
        for unit in units {
            match self.ends.traffic(unit, self.port) {
                Some(traffic) => destinations.push(Destination::direct(unit.clone(), traffic)),
                None => without_port.push(WarningFact::NoSuchPort(unit.name.clone())),
            }
        }
        if let (Some(Port::Name(name)), true) = (self.port, destinations.is_empty()) {
            let known: BTreeSet<&str> =
                units.iter().flat_map(|unit| self.ends.ports(unit)).map(|port| port.name.as_str()).collect();
            let known = known.into_iter().map(str::to_owned).collect();
            return Err(Unanswerable::NoPortNamed { name: name.clone(), known });
        }
        self.warn(without_port);
        self.between(sources, &destinations, Route { port: self.port, ..Route::default() });
        Ok(())
    }

    /// The number of rules that answers pair by pair would judge: for each pair, the rules of the
    /// source's egress and of the destination's ingress. It is 0 for a single pair, which needs no
    /// classes.
    fn rules_judged(&self, sources: &[Unit], destinations: &[Destination]) -> usize {
        if sources.len().saturating_mul(destinations.len()) == 1 {
            return 0;
        }
        let (cluster, groups) = (self.ends.cluster, self.ends.groups);
        let of_family = |party: Party, direction, family| -> usize {
            let groups = party.groups(cluster, groups, direction, Some(family)).into_iter();
            let policies = groups.flat_map(|group| &group.key.policies);
            policies.map(|policy| cluster.policy(*policy).rules(direction).len()).sum()
        };
        let of = |unit: &Unit, direction| {
            let families = Family::ALL.into_iter().map(|family| of_family(unit.party, direction, family));
            families.max().unwrap_or(0)
        };
        let egress: usize = sources.iter().map(|unit| of(unit, Direction::Egress)).sum();
        let ingress: usize = destinations.iter().map(|to| of(&to.unit, Direction::Ingress)).sum();
        let [egress, ingress] = [(egress, destinations.len()), (ingress, sources.len())]
            .map(|(rules, others)| rules.saturating_mul(others));
        egress.saturating_add(ingress)
    }

    /// Asks about every pair of ends. Where all pairs of two wholes (workloads)
    /// get the same answers, they are given once, for the wholes. Of very many ends, classes
    /// are asked about.
    pub(in crate::verdict::explain) fn judge(
        &mut self,
        sources: &[Unit],
        destinations: &[Destination],
        route: Route<'_>,
    ) {
        let with_itself = route.via.is_some() || are_one_workload(sources, destinations);
        let route = Route { with_itself, ..route };
        let is_direct = destinations.iter().all(|destination| destination.before.is_none());
        let is_wide = || {
            sources.len().saturating_mul(destinations.len()) > PAIRWISE
                || self.rules_judged(sources, destinations) > RULES_JUDGED
        };
        if is_direct && is_wide() {
            self.by_class(sources, destinations, route);
            return;
        }
        let mut wholes = IndexMap::<(EndName, EndName), Judged<'_>>::new();
        for from in sources {
            for destination in destinations {
                let to = &destination.unit;
                if from.party == to.party && leaves_out(sources, from, route) {
                    continue;
                }
                let said = self.pair(from, destination, route);
                if !said.is_empty() {
                    let names = (from.whole.without_addresses(), to.whole.without_addresses());
                    let judged = wholes.entry(names).or_default();
                    let is_itself = from.party == to.party && !from.is_template;
                    let pairs = if is_itself { &mut judged.itself } else { &mut judged.others };
                    pairs.push((from, to, said));
                }
            }
        }
        for ((from, to), Judged { others, itself }) in wholes {
            let are_allowed = |pairs: &[PairSaid<'_>]| {
                pairs.iter().flat_map(|(.., said)| said).flat_map(|(_, flows)| flows).all(Flow::is_allowed)
            };
            // Where all is allowed anyway, what is special about one pod says nothing.
            let has_both = !others.is_empty() && !itself.is_empty();
            let is_same = has_both && are_allowed(&others) && are_allowed(&itself);
            let is_workload = [&from, &to].iter().any(|end| end.kind != "Pod" && end.namespace.is_some());
            if !others.is_empty() {
                let way = (has_both && !is_same).then_some(Way::OtherReplica);
                self.add((&from, &to), others, route, way.as_ref());
            }
            if !itself.is_empty() && !is_same {
                self.add((&from, &to), itself, route, Some(&Way::Itself).filter(|_| is_workload));
            }
        }
    }

    /// Adds the answers about pairs of two wholes: one for all where they are the same.
    fn add(&mut self, (from, to): (&EndName, &EndName), pairs: Vec<PairSaid<'_>>, route: Route<'_>, way: Option<&Way>) {
        let mut first = pairs[0].2.clone();
        let uniform = pairs.len() == 1 || {
            let first = general(&first);
            pairs[1..].iter().all(|(_, _, said)| general(said) == first)
        };
        let place = self.explanation.flows.len();
        let flows = &mut self.explanation.flows;
        let mut add = |said: FlowsByFamily, parties: (Party, Party), from: &EndName, to: &EndName| {
            let said = said.into_iter().flat_map(|(_, flows)| flows);
            flows.extend(said.map(|flow| Flow {
                from: from.clone(),
                to: to.clone(),
                via: route.via.cloned(),
                way: route.way.or(way).cloned().or(flow.way),
                parties: Some(parties),
                ..flow
            }));
        };
        let all = |name: &EndName, units: &mut dyn Iterator<Item = &Unit>| {
            let mut name = name.clone();
            name.addresses = units.flat_map(|unit| unit.name.addresses.clone()).collect();
            name.addresses.sort_unstable();
            name.addresses.dedup();
            name
        };
        if uniform {
            let parties = (pairs[0].0.party, pairs[0].1.party);
            let from = all(from, &mut pairs.iter().map(|(from, ..)| *from));
            let to = all(to, &mut pairs.iter().map(|(_, to, _)| *to));
            pairs[1..].iter().for_each(|(_, _, said)| join_items(&mut first, said));
            add(first, parties, &from, &to);
            if [parties.0, parties.1].iter().any(|party| matches!(party, Party::Host(_))) && pairs.len() > 1 {
                let all_parties: Vec<(Party, Party)> =
                    pairs.iter().map(|(from, to, _)| (from.party, to.party)).collect();
                let places = place..self.explanation.flows.len();
                self.host_pairs.extend(places.map(|place| (place, all_parties.clone())));
            }
        } else {
            for (from, to, said) in joined(pairs) {
                add(said, (from.party, to.party), &from.name, &to.name);
            }
        }
    }

    /// Where a Service's port was asked for at its pods.
    fn warn_of_service_ports(&mut self) {
        let cluster = self.ends.cluster;
        let of_flow = |flow: &Flow| {
            let (_, Party::End(End::Pod(pod))) = flow.parties? else { return None };
            let (protocol, port, last) = flow.traffic.single().filter(|_| flow.via.is_none() && flow.way.is_none())?;
            let (service, _, of_pods) = cluster.service_with_port(pod, protocol, port).filter(|_| port == last)?;
            // Of a headless Service it is said where it is asked about.
            let (namespace, name) = (service.namespace.clone(), service.name.clone());
            let is_translated = !service.routing.is_headless;
            is_translated.then_some(WarningFact::ServicePort { namespace, name, port, of_pods })
        };
        let found: Vec<WarningFact> = self.explanation.flows.iter().filter_map(of_flow).collect();
        self.warn(found);
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
            let traffic = Question::between(from, to, family, traffic).dropped_tunnels(cluster, groups);
            if !traffic.is_none() {
                let from = flow.from.without_addresses();
                found.push(WarningFact::TunnelDropped { from, traffic });
            }
        }
        self.warn(found);
    }
}

/// Whether the question leaves out what an end sends to itself: one about several ends is about what
/// they send to each other. A template stands for several pods.
pub(in crate::verdict::explain) const fn leaves_out(sources: &[Unit], from: &Unit, route: Route<'_>) -> bool {
    sources.len() > 1 && !from.is_template && !route.with_itself
}

/// Whether all ends are pods of one workload.
fn are_one_workload(sources: &[Unit], destinations: &[Destination]) -> bool {
    let of = |unit: &Unit| (unit.whole.kind.clone(), unit.whole.namespace.clone(), unit.whole.name.clone());
    let Some(first) = sources.first().filter(|first| first.party.pod().is_some()).map(of) else { return false };
    let is_same = |unit: &Unit| {
        let EndName { kind, namespace, name, .. } = &unit.whole;
        (kind, namespace, name) == (&first.0, &first.1, &first.2)
    };
    sources.iter().chain(destinations.iter().map(|to| &to.unit)).all(is_same)
}

/// What is said without facts about an end that change nothing, such as which of its addresses no
/// block holds. If two ends have that in common, one answer holds for both.
fn general(said: &FlowsByFamily) -> FlowsByFamily {
    let mut said = said.clone();
    let decisions = said.iter_mut().flat_map(|(_, flows)| flows).filter_map(|flow| flow.decisions.as_mut()).flatten();
    for decision in decisions {
        decision.items.clear();
        for conjunct in decision.candidates.iter_mut().flat_map(|candidate| &mut candidate.conjuncts) {
            conjunct.got = Got::LeftOut;
            let failed = conjunct.marks.iter_mut().filter_map(|mark| mark.requirement.as_mut());
            failed.for_each(|failed| failed.value = None);
        }
    }
    said
}

/// Takes over the items of rules from what is said alike of other ends.
fn join_items(said: &mut FlowsByFamily, other: &FlowsByFamily) {
    let (flows, others) = (said.iter_mut().flat_map(|(_, flows)| flows), other.iter().flat_map(|(_, flows)| flows));
    flows.zip(others).for_each(|(flow, other)| flow.join(other));
}

/// Pairs with one end that is a part of a prefix, or an address of a node: those with equal answers
/// become one.
fn joined(pairs: Vec<(&Unit, &Unit, FlowsByFamily)>) -> Vec<(Unit, Unit, FlowsByFamily)> {
    // With each pair that has a part, what is said in general.
    let mut all: Vec<((Unit, Unit, FlowsByFamily), Option<FlowsByFamily>)> = Vec::new();
    let join = |into: &mut Unit, part: &Unit, other: bool| {
        let fits = other && into.name.is_part() && part.name.is_part();
        if fits {
            into.name.join(&part.name);
            into.name.addresses.extend(&part.name.addresses);
        }
        fits
    };
    // A node has an answer for each of its addresses, and they mostly are the same.
    let join_addresses = |(a, b): (&mut Unit, &mut Unit), (from, to): (&Unit, &Unit)| {
        let is_same = a.name.is_same_end(&from.name) && b.name.is_same_end(&to.name);
        if is_same {
            for (into, other) in [(a, from), (b, to)] {
                into.name.addresses.extend(&other.name.addresses);
                into.name.addresses.sort_unstable();
                into.name.addresses.dedup();
            }
        }
        is_same
    };
    for (from, to, said) in pairs {
        let is_part = [from, to].iter().any(|unit| unit.name.is_part() || unit.name.kind == "Node");
        let in_general = is_part.then(|| general(&said));
        let found = is_part
            && all.iter_mut().any(|((a, b, had), had_general)| {
                // Names are compared sooner than all that is said.
                let has_names = b.name == to.name
                    || a.name == from.name
                    || (a.name.is_same_end(&from.name) && b.name.is_same_end(&to.name));
                let is_joined = has_names
                    && *had_general == in_general
                    && (join(a, from, b.name == to.name)
                        || join(b, to, a.name == from.name)
                        || join_addresses((&mut *a, &mut *b), (from, to)));
                if is_joined {
                    join_items(had, &said);
                }
                is_joined
            });
        if !found {
            all.push(((from.clone(), to.clone(), said), in_general));
        }
    }
    all.into_iter().map(|(pair, _)| pair).collect()
}
