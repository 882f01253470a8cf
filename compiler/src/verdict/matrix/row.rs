//! Rows of the matrix: endpoints, the ends that they stand for, and what
//! passes between two of them.

use std::collections::BTreeMap;
use std::net::IpAddr;

use super::Endpoint;
use super::judge::{KindId, Kinds, PairVerdicts, TrafficId, TrafficTable};
use crate::cluster::{Cluster, PodId};
use crate::object::{Family, Pod};
use crate::verdict::flow::{End, Exemption, exemption};

/// An end as the rules of others see it.
#[derive(Debug)]
pub(super) struct EndKinds {
    pub(super) end: End,
    /// Its kinds, by family, where it has an address.
    kinds: [Option<KindId>; 2],
    /// Its kind where it has no address at all and is judged nonetheless.
    bare: Option<KindId>,
}

/// How many ends of each kind there are.
type Census = BTreeMap<KindId, usize>;

/// The ends behind a row and column.
#[derive(Debug)]
pub(super) struct Row {
    pub(super) views: Vec<EndKinds>,
    pub(super) is_address: bool,
    /// It is one pod that stands for any number of replicas.
    is_template: bool,
    /// Its ends with an address, by family and kind.
    census: [Vec<(KindId, usize)>; 2],
    /// Its ends without one.
    bare: Vec<(KindId, usize)>,
}

impl EndKinds {
    fn new(kinds: &mut Kinds<'_>, end: End, judged_bare: bool) -> Self {
        let seen = Family::ALL.map(|family| {
            let has_address = end.address(kinds.cluster, family).is_some();
            has_address.then(|| kinds.kind(end, Some(family)))
        });
        let is_bare = seen.iter().all(Option::is_none);
        Self { end, kinds: seen, bare: (is_bare && judged_bare).then(|| kinds.kind(end, None)) }
    }
}

impl Row {
    /// A row of these ends. The replicas of a template may talk to each other.
    fn new(views: Vec<EndKinds>, is_template: bool) -> Self {
        let copies = if is_template { 2 } else { 1 };
        let mut census = [Census::new(), Census::new()];
        let mut bare = Census::new();
        for view in &views {
            for (census, kind) in census.iter_mut().zip(view.kinds) {
                if let Some(kind) = kind {
                    *census.entry(kind).or_default() += copies;
                }
            }
            if let Some(kind) = view.bare {
                *bare.entry(kind).or_default() += copies;
            }
        }
        Self {
            views,
            is_template,
            is_address: false,
            census: census.map(|census| census.into_iter().collect()),
            bare: bare.into_iter().collect(),
        }
    }
}

/// What two rows have in common that no rule distinguishes.
#[derive(Debug, PartialEq, Eq, Hash)]
pub(super) struct Likeness {
    census: [Vec<(KindId, usize)>; 3],
    is_template: bool,
    /// The place of a row that has no like: an address, or a pod that an
    /// address or its node's address stands for in another row.
    alone: Option<usize>,
}

impl Row {
    pub(super) fn likeness(&self, cluster: &Cluster, place: usize, addresses: &[End]) -> Likeness {
        let exempt = |view: &EndKinds| addresses.iter().any(|address| exemption(cluster, view.end, *address).is_some());
        let [v4, v6] = self.census.clone();
        Likeness {
            census: [v4, v6, self.bare.clone()],
            is_template: self.is_template,
            alone: (self.is_address || self.views.iter().any(exempt)).then_some(place),
        }
    }
}

/// The addresses that an endpoint has, not only lists.
fn addresses(cluster: &Cluster, pod: PodId) -> impl Iterator<Item = IpAddr> {
    Family::ALL.into_iter().filter_map(move |family| cluster.address(pod, family))
}

/// Each pod is a row.
pub(super) fn pods(kinds: &mut Kinds<'_>) -> Vec<(Endpoint, Row)> {
    let cluster = kinds.cluster;
    let pods: Vec<(PodId, &Pod)> = cluster.named().filter(|(_, pod)| pod.is_endpoint()).collect();
    let mut rows = Vec::with_capacity(pods.len());
    for same in pods.chunk_by(|(_, a), (_, b)| (&a.namespace, &a.name) == (&b.namespace, &b.name)) {
        for (id, pod) in same {
            let Pod { namespace, name, .. } = pod;
            let endpoint = Endpoint {
                id: match &pod.workload {
                    // Only its kind distinguishes it from the pod, or from the
                    // workload of another kind, that has its name.
                    Some(workload) if same.len() > 1 && pod.is_template() => {
                        format!("{namespace}/{}/{name}", workload.kind).into()
                    }
                    _ => format!("{namespace}/{name}").into(),
                },
                kind: "Pod".to_owned(),
                addresses: addresses(cluster, *id).collect(),
                node: pod.node.clone(),
                host_network: false,
            };
            rows.push((endpoint, Row::new(vec![EndKinds::new(kinds, End::Pod(*id), false)], false)));
        }
    }
    rows
}

/// The endpoints by the workload that they belong to; a pod of no workload is
/// one of its own.
pub(super) fn workloads(kinds: &mut Kinds<'_>) -> Vec<(Endpoint, Row)> {
    let cluster = kinds.cluster;
    let mut rows = BTreeMap::<(&str, &str, &str), Vec<PodId>>::new();
    for (id, pod) in cluster.named().filter(|(_, pod)| pod.is_endpoint()) {
        let (kind, name) = match &pod.workload {
            Some(workload) => (workload.kind.as_str(), &workload.name),
            None => ("Pod", &pod.name),
        };
        rows.entry((&pod.namespace, kind, name)).or_default().push(id);
    }
    let row = |((namespace, kind, name), pods): ((&str, &str, &str), Vec<PodId>)| {
        let mut addresses: Vec<IpAddr> = pods.iter().flat_map(|pod| addresses(cluster, *pod)).collect();
        addresses.sort_unstable();
        let is_template = pods.len() == 1 && cluster.pod(pods[0]).is_template() && addresses.is_empty();
        let endpoint = Endpoint {
            id: format!("{namespace}/{kind}/{name}").into(),
            kind: kind.to_owned(),
            addresses,
            node: match pods.as_slice() {
                [pod] => cluster.pod(*pod).node.clone(),
                _ => None,
            },
            host_network: false,
        };
        (
            endpoint,
            Row::new(pods.into_iter().map(|pod| EndKinds::new(kinds, End::Pod(pod), true)).collect(), is_template),
        )
    };
    rows.into_iter().map(row).collect()
}

/// An address is a row. Of a pod that owns it, only this address is meant.
pub(super) fn address(kinds: &mut Kinds<'_>, address: IpAddr) -> (Endpoint, Row) {
    let endpoint = Endpoint {
        id: address.to_string().into(),
        kind: "Address".to_owned(),
        addresses: vec![address],
        node: None,
        host_network: false,
    };
    let end = End::of_address(kinds.cluster, address);
    let mut view = EndKinds { end, kinds: [None; 2], bare: None };
    let family = Family::of(&address);
    view.kinds[family as usize] = Some(kinds.kind(end, Some(family)));
    (endpoint, Row { is_address: true, ..Row::new(vec![view], false) })
}

/// What passes from one row to another: where an end has no address yet, in
/// IPv4, and in IPv6.
pub(super) fn between(
    cluster: &Cluster,
    judge: &PairVerdicts,
    known: &mut TrafficTable,
    from: &Row,
    to: &Row,
    same: bool,
) -> [TrafficId; 3] {
    if from.is_address && to.is_address {
        return [TrafficId::NONE; 3];
    }
    if from.is_address || to.is_address {
        return by_ends(cluster, judge, known, from, to);
    }
    if same && from.views.len() == 1 && !from.is_template {
        // No policy judges what a pod sends to itself.
        let all = |ends: &[(KindId, usize)]| if ends.is_empty() { TrafficId::NONE } else { TrafficId::ALL };
        return [all(&from.bare), all(&from.census[0]), all(&from.census[1])];
    }
    // Ends of two rows are different pods, and only addresses can be nodes:
    // nothing is exempt. Within a row, an end is not its own peer.
    let mut judged = |a: &[(KindId, usize)], b: &[(KindId, usize)]| {
        let mut traffic = TrafficId::NONE;
        for (x, count) in a {
            for (y, _) in b {
                if !(same && x == y && *count == 1) {
                    let verdict = judge.verdict(known, *x, *y);
                    traffic = known.union(traffic, verdict);
                }
            }
        }
        traffic
    };
    let mut bare = judged(&from.bare, &to.bare);
    let families = [judged(&from.census[0], &to.census[0]), judged(&from.census[1], &to.census[1])];
    let mut half_bare = Vec::new();
    for family in 0..2 {
        half_bare.push(judged(&from.bare, &to.census[family]));
        half_bare.push(judged(&from.census[family], &to.bare));
    }
    for traffic in half_bare {
        bare = known.union(bare, traffic);
    }
    [bare, families[0], families[1]]
}

/// The same, pair by pair: an address can be a pod of the other row, or the
/// node of one.
fn by_ends(cluster: &Cluster, judge: &PairVerdicts, known: &mut TrafficTable, from: &Row, to: &Row) -> [TrafficId; 3] {
    let mut all = [TrafficId::NONE; 3];
    for a in &from.views {
        for b in &to.views {
            let exempt = exemption(cluster, a.end, b.end);
            // A workload's traffic is that between its pods.
            if exempt == Some(Exemption::Itself) && from.views.len() + to.views.len() > 2 {
                continue;
            }
            let mut add = |place: usize, x: KindId, y: KindId| {
                let verdict = if exempt.is_some() { TrafficId::ALL } else { judge.verdict(known, x, y) };
                all[place] = known.union(all[place], verdict);
            };
            for family in 0..2 {
                match (a.kinds[family].or(a.bare), b.kinds[family].or(b.bare)) {
                    (Some(x), Some(y)) if a.bare.is_some() || b.bare.is_some() => add(0, x, y),
                    (Some(x), Some(y)) => add(1 + family, x, y),
                    _ => {}
                }
            }
        }
    }
    all
}
