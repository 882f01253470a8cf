//! One endpoint alone: the policies that isolate it, and the traffic that it may exchange with
//! each peer.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use super::not_isolating;
use crate::algebra::traffic::Traffic;
use crate::cluster::backend::BackendEnd;
use crate::cluster::group::Groups;
use crate::cluster::unread::WhyUnread;
use crate::cluster::{ClassId, Cluster, PodId, PolicyId};
use crate::object::{Family, Pod};
use crate::policy::{Direction, PodPeer};
use crate::verdict::explain::answer::{Unanswerable, WarningFact};
use crate::verdict::explain::decision::misleading::MisleadingPolicy;
use crate::verdict::explain::question::name::{EndName, QuestionEnd};
use crate::verdict::explain::question::party::Party;
use crate::verdict::explain::walk::NotForwarded;
use crate::verdict::explain::walk::ends::Finder;
use crate::verdict::flow::End;
use crate::verdict::matrix::{By, EndpointId, Matrix, MatrixFilter, MatrixOptions};
use crate::verdict::outside::{OutsideBounds, outside};

/// What is said of an endpoint.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EndpointExplanation {
    /// What may come to it, and where it may send, in the order of [`Direction::ALL`].
    pub sides: [Side; 2],
    /// What decides nothing and the asker should know.
    pub warnings: Vec<WarningFact>,
    /// Why policies were not read that may select its pods, sorted.
    pub unread_policies: Vec<WhyUnread>,
    /// The namespaces of its pods, sorted.
    pub namespaces: Vec<String>,
    /// The policies that look as if they isolated its pods and do not, each with the first direction in which
    /// it does. An address that is asked about has none, and a part of an endpoint neither.
    pub misleading: Vec<(Direction, MisleadingPolicy)>,
}

/// What is said of one direction of an endpoint.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Side {
    /// The direction.
    pub direction: Direction,
    /// The policies that isolate some of the endpoint's pods, and how many pods.
    pub isolated_by: BTreeMap<PolicyId, usize>,
    /// How many pods the endpoint has; 0 of an address, to which no policy applies.
    pub pods: usize,
    /// Whether policies that were not read, or that select by labels that are not known, may
    /// isolate some of them besides.
    pub may_be_isolated: bool,
    /// Whether rules of the policies that isolate it admit other pods of the input. If no peer is allowed all the
    /// same, policies of these stop it.
    pub admits_others: bool,
    /// The workloads at the other end, by what is allowed with them: their ids in a
    /// [`Matrix`].
    pub peers: BTreeMap<Traffic, Vec<EndpointId>>,
    /// The workloads at the other end, by what is allowed between each pod of both ends.
    pub common_peers: BTreeMap<Traffic, Vec<EndpointId>>,
    /// The workloads at the other end, by what is allowed with some pods only or in one family only, because replicas
    /// or families differ.
    pub differing_peers: BTreeMap<Traffic, Vec<EndpointId>>,
    /// The workloads at the other end, by what may be allowed besides, where the input lacks a fact.
    pub unknown_peers: BTreeMap<Traffic, Vec<EndpointId>>,
    /// What is allowed with addresses outside the cluster.
    pub outside: OutsideBounds,
}

/// At most this many addresses of nodes are explained together: of pods in their networks.
const NODE_ADDRESSES: usize = 1000;

/// At most this many pairs of such an address and a pod are judged.
const JUDGED: usize = 1_000_000;

/// Explains an endpoint; a Service by its backends, an address or a node by the policies of the other ends, and
/// hostNetwork pods as these. The groups are those of all endpoints ([`Groups::of_cluster`]).
///
/// # Errors
/// If no object says an address of the target, or if it has more addresses than can be judged.
pub fn explain_endpoint(
    cluster: &Cluster,
    groups: &Groups,
    target: &QuestionEnd<'_>,
) -> Result<EndpointExplanation, Unanswerable> {
    let pods = pods_of(cluster, target);
    if !pods.is_empty() {
        let is_address = matches!(target, QuestionEnd::Address(_) | QuestionEnd::ServiceAddress(..));
        let misleading = if is_address { Vec::new() } else { not_isolating::of_pods(cluster, groups, &pods) };
        return Ok(EndpointExplanation { misleading, ..of_ends(cluster, groups, &pods, &[]) });
    }
    let addresses = addresses_of(cluster, target);
    let judged = addresses.len().saturating_mul(cluster.endpoints().count());
    if !(1..=NODE_ADDRESSES).contains(&addresses.len()) || judged > JUDGED {
        return Err(Unanswerable::NoEndpoint);
    }
    Ok(of_ends(cluster, groups, &[], &addresses))
}

/// Whether policies may isolate, in a direction, the pods behind a target without an endpoint. That is a Service, if
/// the input does not say where it leads. No policy isolates the other targets without an endpoint: a DNS name, a
/// hostNetwork pod, a node.
#[must_use]
pub fn may_be_isolated(cluster: &Cluster, target: &QuestionEnd<'_>, direction: Direction) -> bool {
    let (QuestionEnd::Service(service) | QuestionEnd::ServiceAddress(service, _)) = target else { return false };
    let isolates = || {
        cluster.has_unread_policies(&service.namespace)
            || cluster.policies_in(&service.namespace).any(|(_, policy)| policy.isolates(direction))
    };
    service.routing.external_name.is_none() && cluster.behind(service).is_none() && isolates()
}

/// The addresses to which no policy applies that a target means.
fn addresses_of(cluster: &Cluster, target: &QuestionEnd<'_>) -> Vec<IpAddr> {
    let of_hosts = |pods: &[PodId]| -> Vec<IpAddr> {
        let hosts = pods.iter().filter(|pod| cluster.pod(**pod).host_network);
        let of_pod = |pod: &PodId| -> Vec<IpAddr> {
            if cluster.pod(*pod).is_on_every_node() {
                return cluster.nodes().values().flatten().copied().collect();
            }
            Family::ALL.into_iter().filter_map(|family| Party::Host(*pod).address(cluster, family)).collect()
        };
        let addresses: BTreeSet<IpAddr> = hosts.flat_map(of_pod).collect();
        addresses.into_iter().collect()
    };
    match target {
        QuestionEnd::Address(address) => vec![*address],
        QuestionEnd::Node { addresses, .. } => addresses.clone(),
        QuestionEnd::Pod(pod) => of_hosts(&[*pod]),
        QuestionEnd::Pods(pods) | QuestionEnd::Namespace { pods, .. } => of_hosts(pods),
        QuestionEnd::Service(_)
        | QuestionEnd::ServiceAddress(..)
        | QuestionEnd::Blocks(_)
        | QuestionEnd::Any
        | QuestionEnd::Outside => Vec::new(),
    }
}

/// A part of an endpoint: pods that are judged alike.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EndpointPart {
    /// The pods.
    pub pods: Vec<PodId>,
    /// What is said of them.
    pub explanation: EndpointExplanation,
}

/// An endpoint with more kinds of pods is not explained by its parts.
const PARTS: usize = 32;

/// Explains a workload or a Service by its parts, where its pods may exchange different traffic
/// with others; none where all may exchange the same.
#[must_use]
pub fn explain_parts(cluster: &Cluster, groups: &Groups, target: &QuestionEnd<'_>) -> Vec<EndpointPart> {
    let pods = pods_of(cluster, target);
    let mut alike = BTreeMap::<_, Vec<PodId>>::new();
    for pod in &pods {
        let kind = (cluster.class_of(*pod), Direction::ALL.map(|direction| groups.of(*pod, direction)));
        alike.entry(kind).or_default().push(*pod);
    }
    // An operator does not expect that all pods of a namespace, or of an address, are judged alike.
    let workload = |pod: &PodId| cluster.pod(*pod).workload.as_ref();
    let is_whole = matches!(target, QuestionEnd::Service(_))
        || pods
            .first()
            .is_some_and(|first| workload(first).is_some() && pods.iter().all(|pod| workload(pod) == workload(first)));
    if !is_whole || !(2..=PARTS).contains(&alike.len()) {
        return Vec::new();
    }
    let own: BTreeSet<EndpointId> = pods.iter().map(|pod| id_of(cluster.pod(*pod))).collect();
    let mut parts: Vec<EndpointPart> = Vec::new();
    for pods in alike.into_values() {
        let explanation = of_ends(cluster, groups, &pods, &[]);
        let same = parts.iter_mut().find(|part| is_same(&part.explanation, &explanation, &own));
        match same {
            Some(part) => part.pods.extend(pods),
            None => parts.push(EndpointPart { pods, explanation }),
        }
    }
    if parts.len() > 1 { parts } else { Vec::new() }
}

/// The id of a pod's workload in a [`Matrix`].
fn id_of(pod: &Pod) -> EndpointId {
    let (kind, name) = pod.shown_as();
    EndpointId::of_workload(&pod.namespace, kind, name)
}

/// Whether two parts may exchange the same with all that is no part of the whole.
fn is_same(one: &EndpointExplanation, other: &EndpointExplanation, own: &BTreeSet<EndpointId>) -> bool {
    let others = |peers: &PeersByTraffic| -> PeersByTraffic {
        let peers = peers.iter().map(|(traffic, ids)| {
            let ids: Vec<EndpointId> = ids.iter().filter(|id| !own.contains(id)).cloned().collect();
            (traffic.clone(), ids)
        });
        peers.filter(|(_, ids)| !ids.is_empty()).collect()
    };
    one.sides.iter().zip(&other.sides).all(|(one, other)| {
        others(&one.peers) == others(&other.peers)
            && others(&one.unknown_peers) == others(&other.unknown_peers)
            && one.outside == other.outside
    })
}

/// The pods of an endpoint to which policies can apply.
fn pods_of(cluster: &Cluster, target: &QuestionEnd<'_>) -> Vec<PodId> {
    let pods: Vec<PodId> = match target {
        QuestionEnd::Pod(pod) => vec![*pod],
        QuestionEnd::Pods(pods) | QuestionEnd::Namespace { pods, .. } => pods.clone(),
        QuestionEnd::Address(address) => cluster.holders(*address, cluster.node_of_contested(*address)).to_vec(),
        QuestionEnd::Service(service) | QuestionEnd::ServiceAddress(service, _) => {
            let pod = |end| if let BackendEnd::Pod(pod) = end { Some(pod) } else { None };
            cluster.behind(service).unwrap_or_default().into_iter().filter_map(pod).collect()
        }
        QuestionEnd::Node { .. } | QuestionEnd::Blocks(_) | QuestionEnd::Any | QuestionEnd::Outside => Vec::new(),
    };
    pods.into_iter().filter(|pod| cluster.class_of(*pod).is_some()).collect()
}

/// What is said of pods, or of addresses to which no policy applies.
fn of_ends(cluster: &Cluster, groups: &Groups, pods: &[PodId], addresses: &[IpAddr]) -> EndpointExplanation {
    let own: BTreeSet<PodId> = pods.iter().copied().collect();
    let is_own = |ends: &[End]| {
        ends.iter().any(|end| match end {
            End::Pod(pod) => own.contains(pod),
            End::Address(address) | End::Unread(address) => addresses.contains(address),
        })
    };
    // One pod is not what its workload is: replicas may differ.
    let by = if is_part(cluster, &own) { By::Pod } else { By::Workload };
    let options = MatrixOptions { by, addresses: addresses.to_vec() };
    let side = |direction| {
        let mut isolated_by = BTreeMap::new();
        for group in pods.iter().filter_map(|pod| groups.of(*pod, direction)) {
            for policy in &groups.get(group).key.policies {
                *isolated_by.entry(cluster.as_written(*policy)).or_default() += 1;
            }
        }
        let addresses = addresses.iter().map(|address| End::of_asked_address(cluster, *address));
        let ends = pods.iter().map(|pod| End::Pod(*pod)).chain(addresses);
        let outside = outside(cluster, groups, ends.clone(), direction);
        let shown = |ends: &[End]| match direction {
            Direction::Egress => (is_own(ends), true),
            Direction::Ingress => (true, is_own(ends)),
        };
        let selection = MatrixFilter { shown: &shown, traffic: Traffic::all() };
        let matrix = Matrix::part(cluster, groups, &options, &selection);
        let [peers, common_peers, differing_peers, unknown_peers] = peers(cluster, &matrix, direction);
        let may_be_isolated = { ends }.any(|end| !end.deciding(cluster, groups, direction, None).is_certain());
        let admits_others = admits_others(cluster, isolated_by.keys(), direction, pods);
        let pods = pods.len();
        Side {
            direction,
            isolated_by,
            pods,
            may_be_isolated,
            admits_others,
            peers,
            common_peers,
            differing_peers,
            unknown_peers,
            outside,
        }
    };
    let ends = Finder { cluster, groups };
    let classes: BTreeSet<ClassId> = pods.iter().filter_map(|pod| cluster.class_of(*pod)).collect();
    let unread = classes.into_iter().flat_map(|class| cluster.unread_policies_of(cluster.class(class)));
    let unread: BTreeSet<&WhyUnread> = unread.collect();
    let unread_policies = unread.into_iter().cloned().collect();
    let (sides, mut warnings) = (Direction::ALL.map(side), ends.contested(&ends.pods(pods)));
    warnings.extend(addresses.iter().filter_map(|address| not_forwarded(groups, *address)));
    let namespaces: BTreeSet<&str> = pods.iter().map(|pod| cluster.pod(*pod).namespace.as_str()).collect();
    let namespaces = namespaces.into_iter().map(str::to_owned).collect();
    EndpointExplanation { unread_policies, namespaces, sides, warnings, misleading: Vec::new() }
}

/// That hosts forward nothing to an address, or nothing from it, or that it is each pod itself.
fn not_forwarded(groups: &Groups, address: IpAddr) -> Option<WarningFact> {
    if address.is_loopback() || address.is_unspecified() {
        return Some(WarningFact::Loopback(address));
    }
    let NotForwarded { is_source, address: what } = NotForwarded::of_address(groups, address)?;
    Some(WarningFact::NotForwarded { end: EndName::of_address(address), is_source, address: what })
}

/// Whether rules of these policies admit pods that are not the endpoint's own.
fn admits_others<'p>(
    cluster: &Cluster,
    policies: impl Iterator<Item = &'p PolicyId>,
    direction: Direction,
    own: &[PodId],
) -> bool {
    let rules = policies.flat_map(|id| cluster.policy(*id).rules(direction));
    let mut rules = rules.filter(|rule| !rule.traffic_to(&[]).is_none());
    let own: BTreeSet<&PodId> = own.iter().collect();
    let has_others = |peer: &PodPeer| {
        let mut pods = cluster.selected(peer).into_iter().flat_map(|class| &cluster.class(class).endpoints);
        pods.any(|pod| !own.contains(pod))
    };
    rules.any(|rule| rule.pod_peers().any(has_others))
}

/// Workloads at the other end, by traffic.
type PeersByTraffic = BTreeMap<Traffic, Vec<EndpointId>>;

/// What is allowed between own pods and those of a workload.
#[derive(Default)]
struct WithPeer {
    traffic: Traffic,
    unknown: Traffic,
    /// What every pair may exchange; none before the first pair.
    common: Option<Traffic>,
}

/// The workloads at the other end, by what is allowed with some pod, with each, with some only,
/// and by what may be allowed besides.
fn peers(cluster: &Cluster, matrix: &Matrix<'_>, direction: Direction) -> [PeersByTraffic; 4] {
    let rows = 0..matrix.endpoints().len();
    let is_own = |row: &usize| match direction {
        Direction::Egress => matrix.is_shown(*row).0,
        Direction::Ingress => matrix.is_shown(*row).1,
    };
    let own: Vec<usize> = rows.clone().filter(is_own).collect();
    let mut by_workload = BTreeMap::<EndpointId, WithPeer>::new();
    for other in rows {
        let workload = workload_id(cluster, matrix, other);
        for own in own.iter().filter(|own| **own != other || matrix.has_replicas(other)) {
            let (from, to) = if direction == Direction::Ingress { (other, *own) } else { (*own, other) };
            let has = |row, family| matrix.ends(row).any(|end| end.address(cluster, family).is_some());
            // In each family that both have, and where an end has no address yet.
            let mut with_all = Family::ALL.map(|of| (has(from, of) && has(to, of)).then(Traffic::none));
            let has_address = |row| Family::ALL.into_iter().any(|family| has(row, family));
            if with_all.iter().all(Option::is_none) && has_address(from) && has_address(to) {
                // Two addresses of other families, as a node of both families has them, do not differ.
                continue;
            }
            let with = by_workload.entry(workload.clone()).or_default();
            let mut pending = Traffic::none();
            for cell in matrix.between(from, to) {
                with.traffic = with.traffic.union(&cell.traffic);
                with.unknown = with.unknown.union(&cell.unknown);
                let with_each = cell.traffic.difference(&cell.differs);
                match cell.family {
                    Some(family) => with_all[family as usize] = Some(with_each),
                    None => pending = pending.union(&with_each),
                }
            }
            let in_all = with_all.into_iter().flatten().reduce(|all, of| all.intersection(&of));
            let with_each = in_all.map_or(pending.clone(), |in_all| in_all.union(&pending));
            with.common = Some(match &with.common {
                Some(common) => common.intersection(&with_each),
                None => with_each,
            });
        }
    }
    let mut peers = [const { PeersByTraffic::new() }; 4];
    for (id, WithPeer { traffic, unknown, common }) in by_workload {
        let unknown = unknown.difference(&traffic);
        let common = common.unwrap_or_default();
        let differs = traffic.difference(&common);
        for (traffic, peers) in [traffic, common, differs, unknown].into_iter().zip(&mut peers) {
            if !traffic.is_none() {
                peers.entry(traffic).or_default().push(id.clone());
            }
        }
    }
    peers
}

/// The id that the workload of a row has in a matrix by workload.
fn workload_id(cluster: &Cluster, matrix: &Matrix<'_>, row: usize) -> EndpointId {
    let endpoint = &matrix.endpoints()[row];
    let Some(End::Pod(pod)) = matrix.ends(row).next().filter(|_| endpoint.kind == "Pod") else {
        return endpoint.id.clone();
    };
    id_of(cluster.pod(pod))
}

/// Whether these pods are a part of a workload only, and few enough to be judged one by one.
fn is_part(cluster: &Cluster, own: &BTreeSet<PodId>) -> bool {
    let workload = |pod: PodId| {
        let pod = cluster.pod(pod);
        pod.workload.as_ref().map(|of| (&pod.namespace, of))
    };
    let workloads: BTreeSet<_> = own.iter().filter_map(|pod| workload(*pod)).collect();
    own.len() <= JUDGED_BY_POD
        && cluster.named().any(|(id, pod)| {
            pod.is_endpoint() && !own.contains(&id) && workload(id).is_some_and(|of| workloads.contains(&of))
        })
}

/// At most this many pods that are a part of a workload are judged one by one.
const JUDGED_BY_POD: usize = 16;
