//! The flows whose verdict changes from Azure NPM to npc, and why.
//!
//! Ends that neither of the two distinguishes are one kind, so the work is
//! that of pairs of kinds, and only where a group judges a kind differently.
//! What the two judge differently in one direction and the other direction
//! denies anyway is no difference.

mod causes;
mod ends;

use std::collections::{BTreeMap, BTreeSet};

use rustc_hash::FxHashMap;

use super::model::{Model, named};
use super::translate::TermPeer;
use super::{AzureReason, Placement};
use crate::algebra::traffic::Traffic;
use crate::cluster::backend::{Backend, BackendEnd};
use crate::cluster::group::{Admitted, GroupId, Groups};
use crate::cluster::{PodId, PolicyId};
use crate::object::{Exposure, Family, Service};
use crate::policy::Direction;
use crate::verdict::flow::End;
use crate::verdict::matrix::judge::{KindId, Kinds, PairVerdicts, TrafficId, TrafficTable};
use crate::verdict::pairs;
use ends::Workloads;

pub use ends::{FlowEnds, Share};

/// What becomes of a flow.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum FlowChange {
    /// Azure NPM denies it and npc allows it.
    NewlyAllowed,
    /// Azure NPM allows it and npc denies it.
    NewlyDenied,
}

/// Flows that change for one reason at one place.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FlowDifference {
    /// Where and why the flows change.
    pub cause: FlowCause,
    /// The flows.
    pub flows: Vec<Flows>,
}

/// Where and why flows change.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct FlowCause {
    /// Why the flows change.
    pub reason: AzureReason,
    /// What becomes of them.
    pub change: FlowChange,
    /// The policies that decide; one where a field is named.
    pub policies: Vec<PolicyId>,
    /// The field (`spec.ingress[1].from[0]`), where it is one field.
    pub path: Option<String>,
    /// The Service (`NS/NAME`) by which they come, where that matters.
    pub service: Option<String>,
    /// The direction that decides; none where both do.
    pub direction: Option<Direction>,
    /// The family.
    pub family: Family,
}

/// Sources × destinations × traffic. A pod is not meant as its own peer,
/// unless it alone is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Flows {
    /// The sources.
    pub from: FlowEnds,
    /// The destinations.
    pub to: FlowEnds,
    /// What is sent, by protocol and destination port.
    pub traffic: Traffic,
    /// Each source sends to itself.
    pub to_itself: bool,
}

/// Every difference, by reason, policies and place.
#[must_use]
pub fn differences(model: &Model<'_>, groups: &Groups, services: &[Service]) -> Vec<FlowDifference> {
    let mut comparison = Comparison::new(model, groups);
    comparison.by_policies();
    for service in services {
        comparison.by_service(service);
    }
    comparison.by_ipv6();
    comparison.finish()
}

/// Flows between kinds, by traffic and source.
type ByKind = BTreeMap<Traffic, BTreeMap<KindId, BTreeSet<KindId>>>;

struct Comparison<'a> {
    model: &'a Model<'a>,
    groups: &'a Groups,
    kinds: Kinds<'a>,
    workloads: Workloads<'a>,
    judge: PairVerdicts,
    known: TrafficTable,
    /// What Azure NPM lets each group exchange with each kind.
    azure: Vec<Vec<TrafficId>>,
    by_kind: BTreeMap<FlowCause, ByKind>,
    flows: BTreeMap<FlowCause, Vec<Flows>>,
}

impl<'a> Comparison<'a> {
    fn new(model: &'a Model<'a>, groups: &'a Groups) -> Self {
        let mut kinds = Kinds::new(model.cluster, groups);
        for (id, _) in model.cluster.policies() {
            for term in model.translation(id).iter().flat_map(|translation| translation.terms.iter().flatten()) {
                if let TermPeer::Block(addresses) = &term.peer {
                    kinds.cut(Family::V4, addresses);
                }
                if named(term).next().is_some() {
                    kinds.distinguish_ports();
                }
            }
        }
        let workloads = Workloads::new(model.cluster, &mut kinds);
        let mut known = TrafficTable::new();
        let judge = kinds.judge(&mut known);
        let azure = azure_admits(model, groups, &kinds, &mut known);
        let (by_kind, flows) = (BTreeMap::new(), BTreeMap::new());
        Self { model, groups, kinds, workloads, judge, known, azure, by_kind, flows }
    }

    /// Flows that are sent straight to an IPv4 address.
    fn by_policies(&mut self) {
        let seen: Vec<_> = self.kinds.iter().map(|(kind, groups, _)| (kind, groups)).collect();
        let mut pairs = BTreeSet::new();
        for direction in Direction::ALL {
            let mut subjects = FxHashMap::<GroupId, Vec<KindId>>::default();
            for (kind, groups) in &seen {
                groups[direction as usize].into_iter().for_each(|group| subjects.entry(group).or_default().push(*kind));
            }
            for (group, subjects) in subjects.iter().collect::<BTreeMap<_, _>>() {
                for (other, _) in &seen {
                    if self.judge.admitted(*group, *other) == self.azure[group.0 as usize][other.index()] {
                        continue;
                    }
                    let other_pods = |subject: &&KindId| **subject != *other || self.workloads.has_several(*other);
                    pairs.extend(subjects.iter().filter(other_pods).map(|subject| match direction {
                        Direction::Ingress => (*other, *subject),
                        Direction::Egress => (*subject, *other),
                    }));
                }
            }
        }
        let groups: Vec<[Option<GroupId>; 2]> = seen.into_iter().map(|(_, groups)| groups).collect();
        let mut causes = FxHashMap::default();
        for (from, to) in pairs {
            self.pair(from, to, &groups, &mut causes);
        }
    }

    /// Two kinds that differ in some direction.
    fn pair(&mut self, from: KindId, to: KindId, groups: &[[Option<GroupId>; 2]], causes: &mut causes::Found) {
        let directions = [(Direction::Ingress, to, from), (Direction::Egress, from, to)];
        let (mut ours, mut theirs) = (TrafficId::ALL, TrafficId::ALL);
        for (direction, subject, other) in directions {
            if let Some(group) = groups[subject.index()][direction as usize] {
                ours = self.known.intersection(ours, self.judge.admitted(group, other));
                theirs = self.known.intersection(theirs, self.azure[group.0 as usize][other.index()]);
            }
        }
        if ours == theirs {
            return;
        }
        let (ours, theirs) = (self.known.traffic(ours), self.known.traffic(theirs));
        for (change, flows) in
            [(FlowChange::NewlyAllowed, ours.difference(&theirs)), (FlowChange::NewlyDenied, theirs.difference(&ours))]
        {
            if flows.is_none() {
                continue;
            }
            for (direction, subject, other) in directions {
                let Some(group) = groups[subject.index()][direction as usize] else { continue };
                let denying = match change {
                    FlowChange::NewlyAllowed => self.azure[group.0 as usize][other.index()],
                    FlowChange::NewlyDenied => self.judge.admitted(group, other),
                };
                let part = flows.difference(&self.known.traffic(denying));
                if part.is_none() {
                    continue;
                }
                let key = (group, other, self.known.id(&part), change);
                let found = causes.entry(key).or_insert_with(|| {
                    causes::of(self.model, self.groups.get(group), self.kinds.other_end(other), &part, change)
                });
                for (cause, traffic) in found {
                    let by_traffic = self.by_kind.entry(cause.clone()).or_default();
                    by_traffic.entry(traffic.clone()).or_default().entry(from).or_default().insert(to);
                }
            }
        }
    }

    /// Flows that come by way of a Service.
    fn by_service(&mut self, service: &Service) {
        let cluster = self.model.cluster;
        let name = service.full_name();
        let mut backends = BTreeMap::<PodId, Traffic>::new();
        for port in &service.ports {
            // No policy applies to a hostNetwork pod, so neither of the two
            // engines denies it anything.
            for Backend { end, port: number, .. } in cluster.backends(service, port).unwrap_or_default() {
                let BackendEnd::Pod(pod) = end else { continue };
                if cluster.class_of(pod).is_none() {
                    continue;
                }
                let targets = backends.entry(pod).or_default();
                *targets = targets.union(&Traffic::ports(port.protocol, number, number));
            }
        }
        let cause = |reason, change, policies, direction| {
            let service = Some(name.clone());
            FlowCause { reason, change, policies, path: None, service, direction, family: Family::V4 }
        };
        let behind = self.model.placement == Placement::BehindKubeProxy;
        // What policies deny each to itself.
        let mut to_itself = BTreeMap::<(BTreeSet<PolicyId>, Traffic), Vec<PodId>>::new();
        // What policies deny to addresses outside, by source.
        let mut by_node_port = BTreeMap::<(Vec<PolicyId>, Traffic), BTreeMap<KindId, BTreeSet<PodId>>>::new();
        for (pod, targets) in backends {
            let denied = targets.difference(&self.model.verdict(End::Pod(pod), End::Pod(pod), Some(Family::V4)));
            if !denied.is_none() {
                let group = |direction| self.groups.of(pod, direction).map(|group| self.groups.get(group));
                let policies = Direction::ALL.into_iter().filter_map(group).flat_map(|group| &group.key.policies);
                to_itself.entry((policies.copied().collect(), denied)).or_default().push(pod);
            }
            let Some(group) = self.groups.of(pod, Direction::Ingress).filter(|_| behind) else { continue };
            if service.exposure != Exposure::AnyNode || self.workloads.kind_of(pod).is_none() {
                continue;
            }
            for from in self.workloads.outside() {
                let ours = self.known.traffic(self.judge.admitted(group, from));
                let denied = targets.difference(&ours);
                if !denied.is_none() {
                    let policies = self.groups.get(group).key.policies.clone();
                    by_node_port.entry((policies, denied)).or_default().entry(from).or_default().insert(pod);
                }
            }
        }
        for ((policies, traffic), by_source) in by_node_port {
            let cause = cause(AzureReason::NodePort, FlowChange::NewlyDenied, policies, Some(Direction::Ingress));
            // Pods, not their kinds: no rule distinguishes a backend from other pods of its kind.
            for (to, from) in joined(by_source) {
                let (from, to) = (self.workloads.of_kinds(from), self.workloads.of_pods(&Vec::from_iter(to)));
                let flows = Flows { from, to, traffic: traffic.clone(), to_itself: false };
                self.flows.entry(cause.clone()).or_default().push(flows);
            }
        }
        for ((policies, traffic), pods) in to_itself {
            let ends = self.workloads.of_pods(&pods);
            let cause =
                cause(AzureReason::SelfByService, FlowChange::NewlyAllowed, policies.into_iter().collect(), None);
            let flows = Flows { from: ends.clone(), to: ends, traffic, to_itself: true };
            self.flows.entry(cause).or_default().push(flows);
        }
    }

    /// Flows over IPv6. Azure NPM lets all of them pass.
    fn by_ipv6(&mut self) {
        let cluster = self.model.cluster;
        let has_address = |pod: &PodId| cluster.address(*pod, Family::V6).is_some();
        let mut subjects = BTreeMap::<GroupId, Vec<PodId>>::new();
        for (pod, _) in cluster.endpoints().filter(|(pod, _)| has_address(pod)) {
            let groups = Direction::ALL.into_iter().filter_map(|direction| self.groups.of(pod, direction));
            groups.for_each(|group| subjects.entry(group).or_default().push(pod));
        }
        for (group, subjects) in subjects {
            let group = self.groups.get(group);
            let cause = FlowCause {
                reason: AzureReason::Ipv6,
                change: FlowChange::NewlyDenied,
                policies: group.key.policies.clone(),
                path: None,
                service: None,
                direction: Some(group.key.direction),
                family: Family::V6,
            };
            for (traffic, region) in pairs::regions(cluster, group, None, Family::V6) {
                let denied = Traffic::all().difference(&traffic);
                let peers = region.pods.into_iter().filter(has_address).filter(|pod| subjects != [*pod]);
                let mut peers = self.workloads.of_pods(&peers.collect::<Vec<_>>());
                peers.outside = region.outside;
                if denied.is_none() || peers.is_empty() {
                    continue;
                }
                let subjects = self.workloads.of_pods(&subjects);
                let (from, to) = match group.key.direction {
                    Direction::Ingress => (peers, subjects),
                    Direction::Egress => (subjects, peers),
                };
                let flows = Flows { from, to, traffic: denied, to_itself: false };
                self.flows.entry(cause.clone()).or_default().push(flows);
            }
        }
    }

    /// All of them, with equal ends joined.
    fn finish(mut self) -> Vec<FlowDifference> {
        for (cause, by_traffic) in std::mem::take(&mut self.by_kind) {
            for (traffic, by_source) in by_traffic {
                for (to, from) in joined(by_source) {
                    let (from, to) = (self.workloads.of_kinds(from), self.workloads.of_kinds(to));
                    let flows = Flows { from, to, traffic: traffic.clone(), to_itself: false };
                    self.flows.entry(cause.clone()).or_default().push(flows);
                }
            }
        }
        let mut all: Vec<FlowDifference> =
            self.flows.into_iter().map(|(cause, flows)| FlowDifference { cause, flows }).collect();
        for difference in &mut all {
            difference.flows.sort_by(|a, b| (&a.from, &a.to, &a.traffic).cmp(&(&b.from, &b.to, &b.traffic)));
        }
        all
    }
}

/// Sources with equal destinations, joined.
fn joined<T: Ord>(by_source: BTreeMap<KindId, BTreeSet<T>>) -> BTreeMap<BTreeSet<T>, Vec<KindId>> {
    let mut joined = BTreeMap::<_, Vec<KindId>>::new();
    for (from, to) in by_source {
        joined.entry(to).or_default().push(from);
    }
    joined
}

/// What Azure NPM lets each group exchange with each kind.
fn azure_admits(
    model: &Model<'_>,
    groups: &Groups,
    kinds: &Kinds<'_>,
    known: &mut TrafficTable,
) -> Vec<Vec<TrafficId>> {
    let count = kinds.iter().count();
    let mut meant_by = FxHashMap::<&TermPeer, Vec<KindId>>::default();
    let mut admits = Vec::new();
    for (_, group) in groups.iter() {
        let isolating = model.isolating(&group.key.policies, group.key.direction);
        if isolating.is_empty() {
            admits.push(vec![TrafficId::ALL; count]);
            continue;
        }
        let mut row = vec![TrafficId::NONE; count];
        for term in isolating.iter().flat_map(|(_, translation)| &translation.terms[group.key.direction as usize]) {
            let admitted = Admitted::of_ports(&term.ports, group.key.direction, &group.key.resolution);
            let plain = known.id(&admitted.traffic);
            let meant = meant_by.entry(&term.peer).or_insert_with(|| {
                kinds.iter().filter(|(_, _, seen)| model.holds(&term.peer, *seen)).map(|(kind, _, _)| kind).collect()
            });
            for kind in meant {
                let more = match kinds.other_end(*kind).ports {
                    [] => plain,
                    ports if admitted.named.is_empty() || ports.is_empty() => plain,
                    ports => known.id(&admitted.traffic_to(ports)),
                };
                row[kind.index()] = known.union(row[kind.index()], more);
            }
        }
        admits.push(row);
    }
    admits
}
