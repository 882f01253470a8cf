//! One endpoint alone: the policies that isolate it, and the traffic that it may exchange with
//! each peer.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::answer::{Unanswerable, Warning};
use super::ends::Finder;
use super::name::Target;
use crate::algebra::traffic::Traffic;
use crate::cluster::backend::BackendEnd;
use crate::cluster::group::Groups;
use crate::cluster::{Cluster, PodId, PolicyId};
use crate::policy::Direction;
use crate::verdict::flow::End;
use crate::verdict::matrix::{By, Matrix, Options, Selection};
use crate::verdict::outside::{Certainty, Outside, outside};

/// What is said of an endpoint.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EndpointExplanation {
    /// What may come to it, and where it may send, in the order of [`Direction::ALL`].
    pub sides: [Side; 2],
    /// What decides nothing and the asker should know.
    pub warnings: Vec<Warning>,
}

/// What is said of one direction of an endpoint.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Side {
    /// The direction.
    pub direction: Direction,
    /// The policies that isolate some of the endpoint's pods, and how many pods.
    pub isolated_by: BTreeMap<PolicyId, usize>,
    /// How many pods the endpoint has.
    pub pods: usize,
    /// The workloads at the other end, by what is allowed with them: their ids in a
    /// [`Matrix`].
    pub peers: BTreeMap<Traffic, Vec<Arc<str>>>,
    /// What is allowed with addresses outside the cluster.
    pub outside: Vec<Outside>,
    /// The same of what may be allowed besides: the input lacks a fact.
    pub unknown_peers: BTreeMap<Traffic, Vec<Arc<str>>>,
    /// What is allowed with addresses outside at most, where that is more.
    pub unknown_outside: Vec<Outside>,
}

/// Explains an endpoint; a Service by its backends. The groups are those of all endpoints ([`Groups::of_cluster`]).
///
/// # Errors
/// If no policy can apply to what the target means.
pub fn explain_endpoint(
    cluster: &Cluster,
    groups: &Groups,
    target: &Target<'_>,
) -> Result<EndpointExplanation, Unanswerable> {
    let pods: Vec<PodId> = match target {
        Target::Pod(pod) => vec![*pod],
        Target::Pods(pods) => pods.clone(),
        Target::Address(address) => cluster.holders(*address, cluster.home(*address)).to_vec(),
        Target::Service(service) => {
            let pod = |end| if let BackendEnd::Pod(pod) = end { Some(pod) } else { None };
            cluster.behind(service).unwrap_or_default().into_iter().filter_map(pod).collect()
        }
        Target::Node { .. } | Target::Blocks(_) | Target::Any | Target::Outside => Vec::new(),
    };
    let pods: Vec<PodId> = pods.into_iter().filter(|pod| cluster.class_of(*pod).is_some()).collect();
    if pods.is_empty() {
        return Err(Unanswerable::NoEndpoint);
    }
    let own: BTreeSet<PodId> = pods.iter().copied().collect();
    let is_own = |ends: &[End]| ends.iter().any(|end| matches!(end, End::Pod(pod) if own.contains(pod)));
    let options = Options { by: By::Workload, addresses: Vec::new() };
    let side = |direction| {
        let mut isolated_by = BTreeMap::new();
        for group in pods.iter().filter_map(|pod| groups.of(*pod, direction)) {
            for policy in &groups.get(group).key.policies {
                *isolated_by.entry(cluster.as_written(*policy)).or_default() += 1;
            }
        }
        let ends = pods.iter().map(|pod| End::Pod(*pod));
        let with_outside = |certainty| outside(cluster, groups, ends.clone(), direction, certainty);
        let outside = with_outside(Certainty::Least);
        let mut unknown_outside = with_outside(Certainty::Most);
        unknown_outside.retain(|entry| !outside.contains(entry));
        let shown = |ends: &[End]| match direction {
            Direction::Egress => (is_own(ends), true),
            Direction::Ingress => (true, is_own(ends)),
        };
        let selection = Selection { shown: &shown, traffic: Traffic::all() };
        let matrix = Matrix::part(cluster, groups, &options, &selection);
        let [peers, unknown_peers] = peers(&matrix, direction);
        Side { direction, isolated_by, pods: pods.len(), peers, outside, unknown_peers, unknown_outside }
    };
    let ends = Finder { cluster, groups };
    Ok(EndpointExplanation { sides: Direction::ALL.map(side), warnings: ends.contested(&ends.pods(&pods)) })
}

/// Workloads at the other end, by traffic.
type Peers = BTreeMap<Traffic, Vec<Arc<str>>>;

/// The workloads at the other end, by what is allowed, and by what may be allowed besides.
fn peers(matrix: &Matrix<'_>, direction: Direction) -> [Peers; 2] {
    let rows = 0..matrix.endpoints().len();
    let is_own = |row: &usize| match direction {
        Direction::Egress => matrix.is_shown(*row).0,
        Direction::Ingress => matrix.is_shown(*row).1,
    };
    let own: Vec<usize> = rows.clone().filter(is_own).collect();
    let mut peers = [Peers::new(), Peers::new()];
    for other in rows {
        let (mut traffic, mut unknown) = (Traffic::none(), Traffic::none());
        for own in own.iter().filter(|own| **own != other || matrix.ends(other).count() > 1) {
            let (from, to) = if direction == Direction::Ingress { (other, *own) } else { (*own, other) };
            for cell in matrix.between(from, to) {
                traffic = traffic.union(&cell.traffic);
                unknown = unknown.union(&cell.unknown);
            }
        }
        let unknown = unknown.difference(&traffic);
        for (traffic, peers) in [traffic, unknown].into_iter().zip(&mut peers) {
            if !traffic.is_none() {
                peers.entry(traffic).or_default().push(Arc::clone(&matrix.endpoints()[other].id));
            }
        }
    }
    peers
}
