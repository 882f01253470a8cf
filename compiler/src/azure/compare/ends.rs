//! Ends of flows by the workloads that they belong to.

use std::collections::{BTreeMap, BTreeSet};

use crate::algebra::cidr::{self, AddressSet};
use crate::algebra::ranges::RangeSet;
use crate::cluster::{Cluster, PodId};
use crate::object::Family;
use crate::verdict::flow::End;
use crate::verdict::matrix::judge::{KindId, Kinds};
use crate::verdict::zone::free_address;

/// One side of some flows.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Default)]
pub struct FlowEnds {
    /// Pods, by workload.
    pub shares: Vec<Share>,
    /// Addresses; those of pods are not meant.
    pub outside: AddressSet,
}

/// Some or all pods of a workload.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Share {
    /// The workload's namespace.
    pub namespace: String,
    /// `Deployment`, `StatefulSet`, …; `Pod` for a pod of none.
    pub kind: String,
    /// The workload's name.
    pub name: String,
    /// How many of its pods are meant.
    pub pods: usize,
    /// How many pods the workload has.
    pub of: usize,
}

impl FlowEnds {
    /// Whether it means no end.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.shares.is_empty() && self.outside.is_empty()
    }
}

/// A workload: its namespace, kind and name.
type WorkloadKey<'a> = (&'a str, &'a str, &'a str);

/// The pods of each workload, and the kinds of all ends.
pub(super) struct Workloads<'a> {
    cluster: &'a Cluster,
    counts: BTreeMap<WorkloadKey<'a>, usize>,
    of_kind: BTreeMap<KindId, BTreeMap<WorkloadKey<'a>, usize>>,
    kind_of: BTreeMap<PodId, KindId>,
    /// Kinds of templates, which stand for several pods.
    templates: BTreeSet<KindId>,
    outside: BTreeMap<KindId, (u128, u128)>,
}

impl<'a> Workloads<'a> {
    pub(super) fn new(cluster: &'a Cluster, kinds: &mut Kinds<'a>) -> Self {
        let mut made = Self {
            cluster,
            counts: BTreeMap::new(),
            of_kind: BTreeMap::new(),
            kind_of: BTreeMap::new(),
            templates: BTreeSet::new(),
            outside: BTreeMap::new(),
        };
        for (id, pod) in cluster.endpoints() {
            let name = name(cluster, id);
            *made.counts.entry(name).or_default() += 1;
            let family = cluster.address(id, Family::V4).map(|_| Family::V4);
            if family.is_none() && cluster.address(id, Family::V6).is_some() {
                continue;
            }
            let kind = kinds.kind(End::Pod(id), family);
            made.kind_of.insert(id, kind);
            *made.of_kind.entry(kind).or_default().entry(name).or_default() += 1;
            if pod.is_template() {
                made.templates.insert(kind);
            }
        }
        let addresses = made.kind_of.keys().filter_map(|pod| cluster.address(*pod, Family::V4)).map(cidr::number);
        let pods = RangeSet::from_ranges(addresses.map(|number| (number, number)));
        let zones: Vec<(u128, u128)> = kinds.zones().ranges(Family::V4).collect();
        for zone in zones {
            if let Some(address) = free_address(Family::V4, zone, &pods) {
                made.outside.insert(kinds.kind(End::Address(address), Some(Family::V4)), zone);
            }
        }
        made
    }

    /// Whether a kind has pods that can be each other's peers.
    pub(super) fn has_several(&self, kind: KindId) -> bool {
        self.templates.contains(&kind) || self.of_kind.get(&kind).is_some_and(|of| of.values().sum::<usize>() > 1)
    }

    pub(super) fn kind_of(&self, pod: PodId) -> Option<KindId> {
        self.kind_of.get(&pod).copied()
    }

    /// The kinds of addresses outside.
    pub(super) fn outside(&self) -> Vec<KindId> {
        self.outside.keys().copied().collect()
    }

    fn ends(&self, counts: BTreeMap<WorkloadKey<'_>, usize>, outside: AddressSet) -> FlowEnds {
        let share = |((namespace, kind, name), pods): (WorkloadKey<'_>, usize)| Share {
            namespace: namespace.to_owned(),
            kind: kind.to_owned(),
            name: name.to_owned(),
            pods,
            of: self.counts.get(&(namespace, kind, name)).copied().unwrap_or(pods),
        };
        FlowEnds { shares: counts.into_iter().map(share).collect(), outside }
    }

    pub(super) fn of_pods(&self, pods: &[PodId]) -> FlowEnds {
        let mut counts = BTreeMap::<WorkloadKey<'_>, usize>::new();
        for pod in pods {
            *counts.entry(name(self.cluster, *pod)).or_default() += 1;
        }
        self.ends(counts, AddressSet::default())
    }

    pub(super) fn of_kinds(&self, kinds: impl IntoIterator<Item = KindId>) -> FlowEnds {
        let mut counts = BTreeMap::<WorkloadKey<'_>, usize>::new();
        let mut outside = Vec::new();
        for kind in kinds {
            outside.extend(self.outside.get(&kind).copied());
            for (name, pods) in self.of_kind.get(&kind).into_iter().flatten() {
                *counts.entry(*name).or_default() += pods;
            }
        }
        self.ends(counts, RangeSet::from_ranges(outside))
    }
}

fn name(cluster: &Cluster, pod: PodId) -> WorkloadKey<'_> {
    let pod = cluster.pod(pod);
    let (kind, name) = match &pod.workload {
        Some(workload) => (workload.kind.as_str(), &workload.name),
        None => ("Pod", &pod.name),
    };
    (&pod.namespace, kind, name)
}
