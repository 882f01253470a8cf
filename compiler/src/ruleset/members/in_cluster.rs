//! Which policies of a cluster are over the bounds, by node.

use std::collections::{BTreeMap, BTreeSet};

use rustc_hash::FxHashMap;

use super::{Demand, MemberCount, Sizes, choose_over_bound, count_of_sets, finding, size_of};
use crate::cluster::group::{GroupId, Groups};
use crate::cluster::over_bound::OverBound;
use crate::cluster::{Cluster, PodId, PolicyId};
use crate::object::{Family, Pod};
use crate::policy::{Direction, PodPeer, PolicyRule};
use crate::ruleset::options::{Need, RulesetOptions};

/// In how many sets of a group and family a peer can be at most: for TCP by named ports, for
/// tunnels, for the ports of each of three protocols, for everything, and for named ports.
const SETS_OF_PEER: u64 = 7;

/// The sizes of peers in a cluster.
struct InCluster<'a> {
    cluster: &'a Cluster,
    all: Option<MemberCount>,
    known: FxHashMap<PodPeer, MemberCount>,
}

impl<'a> InCluster<'a> {
    fn new(cluster: &'a Cluster) -> Self {
        Self { cluster, all: None, known: FxHashMap::default() }
    }
}

fn size_of_pod(pod: &Pod) -> MemberCount {
    MemberCount::of_pod(Family::ALL.map(|family| pod.address(family).is_some()), pod.ports.len())
}

impl Sizes for InCluster<'_> {
    fn of_peer(&mut self, peer: &PodPeer) -> MemberCount {
        if let Some(known) = self.known.get(peer) {
            return *known;
        }
        let cluster = self.cluster;
        let pods = cluster.selected(peer).into_iter().flat_map(|class| &cluster.class(class).endpoints);
        let size = pods.map(|pod| size_of_pod(cluster.pod(*pod))).fold(MemberCount::default(), MemberCount::plus);
        self.known.insert(peer.clone(), size);
        size
    }

    fn of_all(&mut self) -> MemberCount {
        let all = || {
            self.cluster.endpoints().map(|(_, pod)| size_of_pod(pod)).fold(MemberCount::default(), MemberCount::plus)
        };
        *self.all.get_or_insert_with(all)
    }
}

/// The cluster as agents with these options enforce it: with the policies that are over the
/// bound on some node without their rules there.
#[must_use]
pub fn bounded(cluster: Cluster, options: &RulesetOptions) -> Cluster {
    let over = over_bound(&cluster, None, options);
    if over.is_empty() { cluster } else { with_over_bound(cluster, over, options) }
}

/// As [`bounded`], for a cluster that was bounded already before policies of one namespace changed. What is over the
/// bound in other namespaces does not depend on these policies.
#[must_use]
pub fn bounded_in(cluster: Cluster, namespace: &str, options: &RulesetOptions) -> Cluster {
    let mut over = cluster.over_bound().without(|id| cluster.policy(id).namespace == namespace);
    let mut sizes = InCluster::new(&cluster);
    let pods = cluster.endpoints_in(namespace).filter_map(|id| Some((id, cluster.pod(id).node.as_deref()?)));
    add_over_bound(&cluster, namespace, &pods.collect::<Vec<_>>(), options, &mut sizes, &mut over);
    if over.is_empty() && cluster.over_bound().is_empty() { cluster } else { with_over_bound(cluster, over, options) }
}

fn with_over_bound(cluster: Cluster, over: OverBound, options: &RulesetOptions) -> Cluster {
    cluster.with_over_bound(over, |cluster, over, id| {
        let mut nodes = over.nodes_of(id);
        let first: Vec<&str> = nodes.by_ref().take(3).collect();
        let more = nodes.count();
        let more = if more > 0 { format!(" and {more} more") } else { String::new() };
        finding(cluster.policy(id), options, &format!("node {}{more}", first.join(", ")))
    })
}

/// Which policies are over the bound on a node, or on each.
pub(crate) fn over_bound(cluster: &Cluster, node: Option<&str>, options: &RulesetOptions) -> OverBound {
    let mut sizes = InCluster::new(cluster);
    let mut places = BTreeMap::<&str, Vec<(PodId, &str)>>::new();
    for (id, pod) in cluster.endpoints() {
        if let Some(of) = pod.node.as_deref().filter(|of| node.is_none_or(|node| node == *of)) {
            places.entry(pod.namespace.as_str()).or_default().push((id, of));
        }
    }
    let mut over = OverBound::default();
    for (namespace, pods) in places {
        add_over_bound(cluster, namespace, &pods, options, &mut sizes, &mut over);
    }
    over
}

/// Adds the policies of a namespace that are over the bound on the nodes of its pods.
fn add_over_bound(
    cluster: &Cluster,
    namespace: &str,
    pods: &[(PodId, &str)],
    options: &RulesetOptions,
    sizes: &mut InCluster<'_>,
    over: &mut OverBound,
) {
    let (mut named, mut rules, mut matches) = (0_u64, 0_u64, 0_u64);
    for (_, policy) in cluster.policies_in(namespace) {
        for direction in Direction::ALL {
            named = named.saturating_add(size_of(policy, direction, sizes).members);
            rules += policy.rules(direction).len() as u64;
            matches = matches.saturating_add(policy.rules(direction).iter().map(most_matches).sum());
        }
    }
    // Each group has each peer in so many sets at most, and each pod is in a group for each direction.
    let most = |of_group: u64| of_group.saturating_mul(SETS_OF_PEER).saturating_mul(pods.len() as u64);
    let families = Family::ALL.len() as u64;
    let sets = most(rules).saturating_mul(families);
    let members = most(named).saturating_add(count_of_sets(sets));
    // What everyone is admitted to may divide the ports of each peer.
    let rules = most(matches.saturating_mul(matches)).saturating_mul(families);
    if !options.bounds.admit(Need { members, rules }) {
        choose_in(cluster, namespace, pods, options, sizes, over);
    }
}

/// In how many ranges a rule has ports, once for each peer.
fn most_matches(rule: &PolicyRule) -> u64 {
    let [peers, ports] = rule.listed();
    u64::try_from(peers.saturating_mul(ports)).unwrap_or(u64::MAX).max(1)
}

/// The same where the bound may not suffice.
fn choose_in(
    cluster: &Cluster,
    namespace: &str,
    pods: &[(PodId, &str)],
    options: &RulesetOptions,
    sizes: &mut InCluster<'_>,
    over_bound: &mut OverBound,
) {
    let groups = Groups::with(cluster, pods.iter().map(|(pod, _)| *pod), &[], &OverBound::default());
    let mut on_nodes = BTreeMap::<&str, BTreeSet<GroupId>>::new();
    for (pod, node) in pods {
        let of_pod = Direction::ALL.into_iter().filter_map(|direction| groups.of(*pod, direction));
        on_nodes.entry(node).or_default().extend(of_pod);
    }
    let places: BTreeMap<&str, PolicyId> =
        cluster.policies_in(namespace).map(|(id, policy)| (policy.name.as_str(), id)).collect();
    // Most nodes have the same groups.
    let mut known = BTreeMap::<BTreeSet<GroupId>, BTreeSet<PolicyId>>::new();
    for (node, here) in on_nodes {
        let policies = known.entry(here).or_insert_with_key(|here| {
            let demand = |id: &GroupId| {
                let key = &groups.get(*id).key;
                let policies = key.policies.iter().map(|id| cluster.policy(*id)).collect();
                Demand { direction: key.direction, policies, resolution: &key.resolution, made: None }
            };
            let here: Vec<Demand<'_>> = here.iter().map(demand).collect();
            let over = choose_over_bound(&here, BTreeSet::new(), options, sizes);
            over.into_iter().map(|name| places[name]).collect()
        });
        over_bound.add(node, policies.clone());
    }
}
