//! Rows of the matrix: endpoints, the ends that they stand for, and what
//! passes between two of them.

use std::collections::BTreeMap;
use std::hash::Hash;
use std::net::IpAddr;

use indexmap::IndexMap;
use rustc_hash::FxBuildHasher;

use super::Endpoint;
use super::endpoint_id::EndpointId;
use super::judge::{BoundIds, JudgeKinds, KindId, Kinds, Roles, TrafficId, TrafficTable};
use crate::cluster::{Cluster, PodId};
use crate::object::{Family, Pod};
use crate::verdict::flow::{End, Exemption, exemption, may_be_local, may_be_own_node};

/// An endpoint before anything is asked about it: its ends, and what it is.
#[derive(Debug)]
pub(super) struct Unjudged {
    pub(super) endpoint: Endpoint,
    pub(super) ends: Vec<End>,
    /// It is one pod that stands for any number of replicas.
    is_template: bool,
    /// For a pod that owns the address, only this address is meant.
    is_address: bool,
}

impl Unjudged {
    /// The endpoint and its row, asked about in these roles.
    pub(super) fn row(self, kinds: &mut Kinds<'_>, roles: Option<Roles>) -> (Endpoint, Row) {
        if let Some(roles) = roles {
            kinds.ask_as(roles);
        }
        let ends = match self.endpoint.addresses.as_slice() {
            [address] if self.is_address => {
                let end = self.ends[0];
                let mut end_kinds = EndKinds { end, kinds: [None; 2], without_address: None };
                let family = Family::of(address);
                end_kinds.kinds[family as usize] = Some(kinds.kind(end, Some(family)));
                vec![end_kinds]
            }
            _ => self.ends.into_iter().map(|end| EndKinds::new(kinds, end)).collect(),
        };
        (self.endpoint, Row { is_address: self.is_address, ..Row::new(ends, self.is_template) })
    }
}

/// An end as the rules of others match it.
#[derive(Debug)]
pub(super) struct EndKinds {
    pub(super) end: End,
    /// Its kinds, by family, where it has an address.
    kinds: [Option<KindId>; 2],
    /// Its kinds where it has no address at all, by the family of the one that it will have.
    without_address: Option<[KindId; 2]>,
}

/// How many ends of each kind there are.
type KindCounts = BTreeMap<KindId, usize>;

/// The ends behind a row and column.
#[derive(Debug)]
pub(super) struct Row {
    pub(super) ends: Vec<EndKinds>,
    pub(super) is_address: bool,
    /// It is one pod that stands for any number of replicas.
    pub(super) is_template: bool,
    /// Its ends with an address, by family and kind.
    counts: [Vec<(KindId, usize)>; 2],
    /// Its ends without one, by the family that is assumed.
    without_address: [Vec<(KindId, usize)>; 2],
}

impl EndKinds {
    fn new(kinds: &mut Kinds<'_>, end: End) -> Self {
        let seen = Family::ALL.map(|family| {
            let has_address = end.address(kinds.cluster, family).is_some();
            has_address.then(|| kinds.kind(end, Some(family)))
        });
        let lacks_address = seen.iter().all(Option::is_none);
        let without_address = lacks_address.then(|| Family::ALL.map(|family| kinds.kind(end, Some(family))));
        Self { end, kinds: seen, without_address }
    }
}

/// The kinds of the first ends of two rows, by family; none of a family that one of them does not have.
pub(super) fn kind_pairs(a: &Row, b: &Row) -> [Option<(KindId, KindId)>; 2] {
    let kind = |row: &Row, family: usize| {
        let end_kinds = row.ends.first()?;
        end_kinds.kinds[family].or(end_kinds.without_address.map(|kinds| kinds[family]))
    };
    std::array::from_fn(|family| kind(a, family).zip(kind(b, family)))
}

impl Row {
    /// A row of these ends. The replicas of a template may talk to each other.
    fn new(ends: Vec<EndKinds>, is_template: bool) -> Self {
        let copies = if is_template { 2 } else { 1 };
        let mut counts = [KindCounts::new(), KindCounts::new()];
        let mut without_address = [KindCounts::new(), KindCounts::new()];
        for end_kinds in &ends {
            for (counts, kind) in counts.iter_mut().zip(end_kinds.kinds) {
                if let Some(kind) = kind {
                    *counts.entry(kind).or_default() += copies;
                }
            }
            for (counts, kind) in without_address.iter_mut().zip(end_kinds.without_address.into_iter().flatten()) {
                *counts.entry(kind).or_default() += copies;
            }
        }
        Self {
            ends,
            is_template,
            is_address: false,
            counts: counts.map(|counts| counts.into_iter().collect()),
            without_address: without_address.map(|counts| counts.into_iter().collect()),
        }
    }
}

/// What two rows have in common that no rule distinguishes.
#[derive(Debug, PartialEq, Eq, Hash)]
pub(super) struct RowKey {
    counts: [Vec<(KindId, usize)>; 4],
    is_template: bool,
    /// The place of a row that has no like: an address, or a pod that an
    /// address or its node's address stands for in another row.
    unique: Option<usize>,
    /// The input does not say the node of a pod of it, so an address of a node in another row may
    /// be its own node's.
    may_be_own_node: bool,
    /// A pod of it is on every node.
    is_on_every_node: bool,
}

impl Row {
    /// Whether an end of it has no address yet.
    pub(super) fn lacks_address(&self) -> bool {
        self.without_address.iter().any(|without_address| !without_address.is_empty())
    }

    fn key(&self, cluster: &Cluster, place: usize, addresses: &[End]) -> RowKey {
        let exempt = |end_kinds: &EndKinds| {
            addresses.iter().any(|address| exemption(cluster, end_kinds.end, *address).is_some())
        };
        let may_be =
            |end_kinds: &EndKinds| addresses.iter().any(|address| may_be_own_node(cluster, end_kinds.end, *address));
        let judged = self.judged_key(place);
        RowKey {
            unique: judged.unique.or_else(|| self.ends.iter().any(exempt).then_some(place)),
            may_be_own_node: self.ends.iter().any(may_be),
            is_on_every_node: !addresses.is_empty()
                && self.ends.iter().any(|end_kinds| is_on_every_node(cluster, end_kinds.end)),
            ..judged
        }
    }

    /// The same, without what exempts some pods from all policies with an address.
    pub(super) fn judged_key(&self, place: usize) -> RowKey {
        let ([v4, v6], [unaddressed_v4, unaddressed_v6]) = (self.counts.clone(), self.without_address.clone());
        RowKey {
            counts: [v4, v6, unaddressed_v4, unaddressed_v6],
            is_template: self.is_template,
            unique: self.is_address.then_some(place),
            may_be_own_node: false,
            is_on_every_node: false,
        }
    }
}

/// Whether an end stands for the pods of a DaemonSet that has one on every node.
fn is_on_every_node(cluster: &Cluster, end: End) -> bool {
    matches!(end, End::Pod(pod) if cluster.pod(pod).is_on_every_node())
}

/// The rows that no rule distinguishes, by their places, in the order of their first ones; and
/// that are shown alike.
pub(super) fn alike<S: Eq + Hash>(cluster: &Cluster, rows: &[Row], shown: impl Fn(usize) -> S) -> Vec<Vec<usize>> {
    let addresses: Vec<End> = (rows.iter().filter(|row| row.is_address)).map(|row| row.ends[0].end).collect();
    let mut alike = IndexMap::<_, Vec<usize>, FxBuildHasher>::default();
    for (place, row) in rows.iter().enumerate() {
        let key = row.key(cluster, place, &addresses);
        alike.entry((key, shown(place))).or_default().push(place);
    }
    alike.into_values().collect()
}

/// The addresses that an endpoint has, not only lists.
fn addresses(cluster: &Cluster, pod: PodId) -> impl Iterator<Item = IpAddr> {
    Family::ALL.into_iter().filter_map(move |family| cluster.address(pod, family))
}

/// Whether a pod is a row: an endpoint with an object of its own.
fn is_row(pod: &Pod) -> bool {
    pod.is_endpoint() && !pod.only_in_slice
}

/// Whether a pod stands for any number of replicas.
fn stands_for_replicas(pod: &Pod) -> bool {
    pod.is_template() && !pod.is_single
}

/// Each pod is a row.
pub(super) fn pods(cluster: &Cluster) -> Vec<Unjudged> {
    let pods: Vec<(PodId, &Pod)> = cluster.named().filter(|(_, pod)| is_row(pod)).collect();
    let mut rows = Vec::with_capacity(pods.len());
    for same in pods.chunk_by(|(_, a), (_, b)| (&a.namespace, &a.name) == (&b.namespace, &b.name)) {
        for (id, pod) in same {
            let Pod { namespace, name, .. } = pod;
            let endpoint = Endpoint {
                id: match &pod.workload {
                    // Only its kind distinguishes it from the pod, or from the
                    // workload of another kind, that has its name.
                    Some(workload) if same.len() > 1 && pod.is_template() => {
                        EndpointId::of_workload(namespace, &workload.kind, name)
                    }
                    _ => EndpointId::of_pod(namespace, name),
                },
                kind: "Pod".to_owned(),
                addresses: addresses(cluster, *id).collect(),
                node: pod.node.clone(),
                host_network: false,
            };
            let is_template = stands_for_replicas(pod) && pod.addresses().next().is_none();
            rows.push(Unjudged { endpoint, ends: vec![End::Pod(*id)], is_template, is_address: false });
        }
    }
    rows
}

/// The endpoints by the workload that they belong to; a pod of no workload is
/// one of its own, and so is one that was asked for before it exists.
pub(super) fn workloads(cluster: &Cluster) -> Vec<Unjudged> {
    let mut rows = BTreeMap::<(&str, &str, &str), Vec<PodId>>::new();
    for (id, pod) in cluster.named().filter(|(_, pod)| is_row(pod)) {
        let (kind, name) = pod.shown_as();
        rows.entry((&pod.namespace, kind, name)).or_default().push(id);
    }
    let row = |((namespace, kind, name), pods): ((&str, &str, &str), Vec<PodId>)| {
        let mut addresses: Vec<IpAddr> = pods.iter().flat_map(|pod| addresses(cluster, *pod)).collect();
        addresses.sort_unstable();
        let is_template = pods.len() == 1 && stands_for_replicas(cluster.pod(pods[0])) && addresses.is_empty();
        let endpoint = Endpoint {
            id: EndpointId::of_workload(namespace, kind, name),
            kind: kind.to_owned(),
            addresses,
            node: match pods.as_slice() {
                [pod] => cluster.pod(*pod).node.clone(),
                _ => None,
            },
            host_network: false,
        };
        Unjudged { endpoint, ends: pods.into_iter().map(End::Pod).collect(), is_template, is_address: false }
    };
    rows.into_iter().map(row).collect()
}

/// An address is a row.
pub(super) fn address(cluster: &Cluster, address: IpAddr) -> Unjudged {
    let endpoint = Endpoint {
        id: EndpointId::of_address(address),
        kind: "Address".to_owned(),
        addresses: vec![address],
        node: None,
        host_network: false,
    };
    Unjudged { endpoint, ends: vec![End::of_asked_address(cluster, address)], is_template: false, is_address: true }
}

/// What passes from one row to another in one family.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Sum {
    /// What some pair of their ends may exchange for certain.
    pub(super) least: TrafficId,
    /// What some pair may, as far as the input says.
    pub(super) most: TrafficId,
    /// What some pair may and not for certain, though another pair may for certain.
    pub(super) open: TrafficId,
    /// What every pair may for certain; none where there is no pair.
    common: Option<TrafficId>,
    /// What every pair may, as far as the input says.
    common_most: Option<TrafficId>,
}

impl Sum {
    fn add(&mut self, known: &mut TrafficTable, pair: BoundIds) {
        self.least = known.union(self.least, pair.least);
        self.most = known.union(self.most, pair.most);
        let open = known.difference(pair.most, pair.least);
        self.open = known.union(self.open, open);
        self.common = Some(self.common.map_or(pair.least, |common| known.intersection(common, pair.least)));
        self.common_most = Some(self.common_most.map_or(pair.most, |common| known.intersection(common, pair.most)));
    }

    /// Takes over what pairs of another sum exchange.
    fn join(&mut self, known: &mut TrafficTable, other: Self) {
        self.least = known.union(self.least, other.least);
        self.most = known.union(self.most, other.most);
        self.open = known.union(self.open, other.open);
        let mut both = |own: Option<TrafficId>, other: Option<TrafficId>| match (own, other) {
            (Some(own), Some(other)) => Some(known.intersection(own, other)),
            (own, other) => own.or(other),
        };
        self.common = both(self.common, other.common);
        self.common_most = both(self.common_most, other.common_most);
    }

    /// Takes traffic out of what every pair may send, if it is certain that some pair of `other` may not send it.
    fn limit(&mut self, known: &mut TrafficTable, other: Self) {
        if let (Some(own), Some(most)) = (self.common, other.common_most) {
            self.common = Some(known.intersection(own, most));
        }
    }

    /// What every pair may for certain.
    pub(super) fn common(&self) -> TrafficId {
        self.common.unwrap_or_default()
    }
}

/// What passes where an end has no address yet, which is one of either family, and in both families. The
/// replicas of a workload differ also where some have an address and others have none.
fn by_slot(known: &mut TrafficTable, without_address: [Sum; 2], addressed: [Sum; 2]) -> [Sum; 3] {
    let mut all = without_address[0];
    all.join(known, without_address[1]);
    let mut sums = [all, addressed[0], addressed[1]];
    for family in 0..2 {
        sums[0].limit(known, addressed[family]);
        sums[1 + family].limit(known, without_address[family]);
    }
    sums
}

const EVERYTHING: BoundIds = BoundIds { least: TrafficId::ALL, most: TrafficId::ALL };

/// What passes from one row to another: where an end has no address yet, in
/// IPv4, and in IPv6.
pub(super) fn between(
    cluster: &Cluster,
    judge: &impl JudgeKinds,
    known: &mut TrafficTable,
    from: &Row,
    to: &Row,
    same: bool,
) -> [Sum; 3] {
    let mut sums = [Sum::default(); 3];
    if from.is_address && to.is_address {
        return sums;
    }
    if from.is_address || to.is_address {
        return by_ends(cluster, judge, known, from, to);
    }
    if same && from.ends.len() == 1 && !from.is_template {
        // No policy judges what a pod sends to itself.
        for (sum, ends) in sums.iter_mut().zip([&from.without_address[0], &from.counts[0], &from.counts[1]]) {
            if !ends.is_empty() {
                sum.add(known, EVERYTHING);
            }
        }
        return sums;
    }
    // Ends of two rows are different pods, and only addresses can be nodes:
    // nothing is exempt. Within a row, an end is not its own peer.
    let mut judged = |sum: &mut Sum, a: &[(KindId, usize)], b: &[(KindId, usize)]| {
        for (x, count) in a {
            for (y, _) in b {
                if !(same && x == y && *count == 1) {
                    let pair = judge.bounds(known, *x, *y);
                    sum.add(known, pair);
                }
            }
        }
    };
    let (mut without_address, mut addressed) = ([Sum::default(); 2], [Sum::default(); 2]);
    for family in 0..2 {
        if cluster.assigns_family(Family::ALL[family]) {
            judged(&mut without_address[family], &from.without_address[family], &to.without_address[family]);
        }
        judged(&mut without_address[family], &from.without_address[family], &to.counts[family]);
        judged(&mut without_address[family], &from.counts[family], &to.without_address[family]);
        judged(&mut addressed[family], &from.counts[family], &to.counts[family]);
    }
    by_slot(known, without_address, addressed)
}

/// The same, pair by pair: an address can be a pod of the other row, or the
/// node of one.
fn by_ends(cluster: &Cluster, judge: &impl JudgeKinds, known: &mut TrafficTable, from: &Row, to: &Row) -> [Sum; 3] {
    let (mut unaddressed, mut addressed) = ([Sum::default(); 2], [Sum::default(); 2]);
    let leads_on =
        to.ends.iter().any(|end_kinds| matches!(end_kinds.end, End::Address(address) if cluster.is_service(address)));
    for a in &from.ends {
        for b in &to.ends {
            let exempt = exemption(cluster, a.end, b.end);
            // A workload's traffic is that between its pods.
            if exempt == Some(Exemption::Itself) && from.ends.len() + to.ends.len() > 2 {
                continue;
            }
            let may_be_own_node = may_be_own_node(cluster, a.end, b.end);
            let may_be_local = may_be_local(cluster, a.end, b.end);
            for family in 0..2 {
                let without_address = |end_kinds: &EndKinds| end_kinds.without_address.map(|kinds| kinds[family]);
                let Some((x, y)) = a.kinds[family].or(without_address(a)).zip(b.kinds[family].or(without_address(b)))
                else {
                    continue;
                };
                let mut pair = if exempt.is_some() { EVERYTHING } else { judge.bounds(known, x, y) };
                if leads_on {
                    // A node sends it on, so policies judge it where the Service leads.
                    pair = BoundIds { least: TrafficId::NONE, most: TrafficId::ALL };
                }
                let sums = if a.without_address.is_some() || b.without_address.is_some() {
                    &mut unaddressed
                } else {
                    &mut addressed
                };
                if may_be_own_node && (is_on_every_node(cluster, a.end) || is_on_every_node(cluster, b.end)) {
                    // One of its pods is on this node, and the others are not.
                    sums[family].add(known, EVERYTHING);
                } else if may_be_own_node || may_be_local {
                    pair.most = TrafficId::ALL;
                }
                sums[family].add(known, pair);
            }
        }
    }
    by_slot(known, unaddressed, addressed)
}
