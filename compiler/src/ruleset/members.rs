//! The bound on the members of the peer sets of one namespace on one node.
//!
//! The kernel keeps each member of a set, so without a bound the owner of one namespace could
//! use up the memory of a node by policies that few bytes describe: a thousand, each with
//! ports of its own, that admit all pods. So the sets that the policies of a namespace need
//! on a node may have only so many members together ([`SetMembers`](super::options::SetMembers)).
//! Beyond that, policies are *over the bound* there: those that name most members first, and
//! of those that name equally many the ones with the last names. They isolate what they
//! select, and allow nothing.
//!
//! What is counted is an upper bound of what sets hold, so that it can be counted before a
//! set is made, and kept up to date without looking at one: each selector of a set counts the
//! addresses of the pods that it selects, in each family that the set is for; each prefix
//! counts one; a set of named ports counts all ports of the pods that it may mean. A set that
//! several groups share counts once. Nothing here depends on what was over before, on the order
//! of objects, or on other namespaces.

use std::collections::{BTreeMap, BTreeSet};

use rustc_hash::FxHashMap;

use crate::cluster::group::{Atom, GroupId, Groups, Resolution};
use crate::cluster::merge::Admission;
use crate::cluster::over_bound::OverBound;
use crate::cluster::{Cluster, PodId, PolicyId};
use crate::object::{Family, Pod};
use crate::policy::finding::{Code, Effect, Finding};
use crate::policy::{Direction, Peer, Peers, PodPeer, Policy, PolicyRule};
use crate::ruleset::group_chain::Leaf;
use crate::ruleset::node::SetName;
use crate::ruleset::options::Options;
use crate::ruleset::set_definition::{Definition, prefixes};

/// In how many sets of a group and family a peer can be at most: for TCP by named ports, for
/// tunnels, for the ports of each of three protocols, for everything, and for named ports.
const SETS_OF_PEER: u64 = 7;

/// How many members some pods make, by family.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Size {
    /// By their addresses.
    pub(crate) addresses: [u64; 2],
    /// By their ports, if all are meant.
    pub(crate) ports: [u64; 2],
}

impl Size {
    /// The size of one pod, from the families in which it has an address, and how many ports.
    pub(crate) fn of_pod(has_address: [bool; 2], ports: usize) -> Self {
        let ports = u64::try_from(ports).unwrap_or(u64::MAX);
        Self { addresses: has_address.map(u64::from), ports: has_address.map(|has| if has { ports } else { 0 }) }
    }

    fn with(self, other: Self, op: impl Fn(u64, u64) -> u64) -> Self {
        let both = |a: [u64; 2], b: [u64; 2]| [op(a[0], b[0]), op(a[1], b[1])];
        Self { addresses: both(self.addresses, other.addresses), ports: both(self.ports, other.ports) }
    }

    /// The size of both together.
    pub(crate) fn plus(self, other: Self) -> Self {
        self.with(other, u64::saturating_add)
    }

    /// The size without the other's.
    pub(crate) fn minus(self, other: Self) -> Self {
        self.with(other, u64::saturating_sub)
    }

    fn all(self) -> u64 {
        self.addresses.into_iter().chain(self.ports).fold(0, u64::saturating_add)
    }
}

/// What tells how many members peers make.
pub(crate) trait Sizes {
    /// The size of the pods that a peer selects.
    fn of_peer(&mut self, peer: &PodPeer) -> Size;
    /// The size of all pods.
    fn of_all(&mut self) -> Size;
}

/// What a set counts in a family.
pub(crate) fn count(definition: &Definition, family: Family, sizes: &mut dyn Sizes) -> u64 {
    match definition {
        Definition::Peers { pods, addresses } => {
            let of_pods = pods.iter().map(|peer| sizes.of_peer(peer).addresses[family as usize]);
            of_pods.fold(count_of_prefixes(family, addresses), u64::saturating_add)
        }
        Definition::NamedPorts(entries) => {
            let mut total = 0_u64;
            let mut is_any = false;
            for atom in entries.keys() {
                match atom {
                    Atom::Pods(peer) => total = total.saturating_add(sizes.of_peer(peer).ports[family as usize]),
                    Atom::Everyone | Atom::Block(_) => is_any = true,
                }
            }
            if is_any { total.saturating_add(sizes.of_all().ports[family as usize]) } else { total }
        }
    }
}

/// What the prefixes of a set count.
pub(crate) fn count_of_prefixes(family: Family, addresses: &crate::algebra::cidr::AddressSet) -> u64 {
    if addresses.is_empty() { 0 } else { prefixes(family, addresses).len() as u64 }
}

/// A group with endpoints on the node, as the bound sees it.
pub(crate) struct Asking<'a> {
    /// Its direction.
    pub(crate) direction: Direction,
    /// Its policies, with their rules.
    pub(crate) policies: Vec<&'a Policy>,
    /// How its endpoints resolve named ports.
    pub(crate) resolution: &'a Resolution,
}

/// The policies of a namespace that are over the bound on a node, by name, from all its groups
/// with endpoints there.
///
/// It takes as many as are needed, and makes the sets of the others again. What policies share
/// goes with the last of them, so where that does not do it takes four times as many each time:
/// the sets of 10,000 policies are made eight times at most.
pub(crate) fn over<'a>(groups: &[Asking<'a>], options: &Options, sizes: &mut dyn Sizes) -> BTreeSet<&'a str> {
    let mut over = BTreeSet::new();
    let mut left: Option<Vec<(u64, &str)>> = None;
    let mut fewest = 1;
    loop {
        let asked = Asked::of(groups, options, &over, sizes);
        let excess = asked.total.saturating_sub(options.set_members.0);
        if excess == 0 {
            return over;
        }
        let left = left.get_or_insert_with(|| by_size(groups, sizes));
        let (mut freed, mut taken) = (0_u64, 0);
        while freed < excess || taken < fewest {
            let Some((_, name)) = left.pop() else { break };
            freed = freed.saturating_add(asked.shares.get(name).copied().unwrap_or_default());
            taken += 1;
            over.insert(name);
        }
        if taken == 0 {
            return over;
        }
        fewest *= 4;
    }
}

/// The same, of groups of which some policies were over the bound before. These stay so unless
/// the others are over it now, and then all are chosen anew.
pub(crate) fn over_from<'a>(
    before: BTreeSet<&'a str>,
    groups: &[Asking<'a>],
    options: &Options,
    sizes: &mut dyn Sizes,
) -> BTreeSet<&'a str> {
    // Mostly policies name far fewer, and no set has to be made to know it.
    let mut named = 0_u64;
    for group in groups {
        for policy in group.policies.iter().filter(|policy| !before.contains(policy.name.as_str())) {
            named = named.saturating_add(size_of(policy, group.direction, sizes));
        }
    }
    if named.saturating_mul(SETS_OF_PEER) <= options.set_members.0
        || Asked::of(groups, options, &before, sizes).total <= options.set_members.0
    {
        return before;
    }
    over(groups, options, sizes)
}

/// What the sets of groups count.
#[derive(Default)]
struct Asked<'a> {
    total: u64,
    /// How much each policy has a part in.
    shares: FxHashMap<&'a str, u64>,
}

impl<'a> Asked<'a> {
    fn of(groups: &[Asking<'a>], options: &Options, over: &BTreeSet<&str>, sizes: &mut dyn Sizes) -> Self {
        let mut counted = BTreeMap::<SetName, u64>::new();
        let mut asked = Self::default();
        for group in groups {
            let policies = || group.policies.iter().filter(|policy| !over.contains(policy.name.as_str()));
            let rules =
                policies().flat_map(|policy| policy.rules(group.direction).iter().map(move |rule| (*policy, rule)));
            let admission = Admission::new(rules, group.direction, group.resolution);
            let mut of_peers = FxHashMap::<PodPeer, u64>::default();
            let mut of_any = 0_u64;
            for family in Family::ALL {
                let leaf = Leaf::new(family, group.direction, options, &admission, []);
                for (name, definition) in &leaf.sets {
                    let count = *counted.entry(name.clone()).or_insert_with(|| count(definition, family, sizes));
                    if count == 0 {
                        continue;
                    }
                    let mut add = |peer: &PodPeer, count: u64| {
                        let total = of_peers.entry(peer.clone()).or_default();
                        *total = total.saturating_add(count);
                    };
                    match definition {
                        Definition::Peers { pods, .. } => {
                            for peer in pods {
                                add(peer, sizes.of_peer(peer).addresses[family as usize]);
                            }
                        }
                        Definition::NamedPorts(entries) => {
                            for atom in entries.keys() {
                                match atom {
                                    Atom::Pods(peer) => add(peer, sizes.of_peer(peer).ports[family as usize]),
                                    Atom::Everyone | Atom::Block(_) => {
                                        of_any = of_any.max(sizes.of_all().ports[family as usize]);
                                    }
                                }
                            }
                        }
                    }
                }
            }
            for policy in policies() {
                let of_rules = policy.rules(group.direction).iter().map(|rule| share(rule, &of_peers, of_any));
                let share = asked.shares.entry(policy.name.as_str()).or_default();
                *share = of_rules.fold(*share, u64::saturating_add);
            }
        }
        asked.total = counted.into_values().fold(0, u64::saturating_add);
        asked
    }
}

/// In how many members of a group's sets a rule has a part.
fn share(rule: &PolicyRule, of_peers: &FxHashMap<PodPeer, u64>, of_any: u64) -> u64 {
    let has_names = rule.named_ports().next().is_some();
    let of_any = if has_names { of_any } else { 0 };
    match &rule.peers {
        Peers::Everyone => of_any,
        Peers::AnyOf(peers) => {
            let of_peer = |peer: &Peer| match peer {
                Peer::Pods(peer) => of_peers.get(peer).copied().unwrap_or_default(),
                Peer::Block(block) => {
                    of_any.saturating_add(count_of_prefixes(block.block.family, &block.block.addresses))
                }
                Peer::Nothing => 0,
            };
            peers.iter().map(of_peer).fold(0, u64::saturating_add)
        }
    }
}

/// The policies of some groups that name members, by how many and then by name: those that go
/// first are last.
fn by_size<'a>(groups: &[Asking<'a>], sizes: &mut dyn Sizes) -> Vec<(u64, &'a str)> {
    let mut ways = BTreeMap::<&str, (&Policy, BTreeSet<Direction>)>::new();
    for group in groups {
        for policy in &group.policies {
            ways.entry(&policy.name).or_insert_with(|| (*policy, BTreeSet::new())).1.insert(group.direction);
        }
    }
    let size = |(name, (policy, ways)): (_, (&Policy, BTreeSet<Direction>))| {
        let all = ways.into_iter().map(|direction| size_of(policy, direction, sizes));
        (all.fold(0, u64::saturating_add), name)
    };
    let mut by_size: Vec<(u64, &str)> = ways.into_iter().map(size).filter(|(size, _)| *size > 0).collect();
    by_size.sort_unstable();
    by_size
}

/// How many members the peers of a policy's rules make in a direction, each rule for itself.
fn size_of(policy: &Policy, direction: Direction, sizes: &mut dyn Sizes) -> u64 {
    let mut total = 0_u64;
    for rule in policy.rules(direction) {
        let has_names = direction == Direction::Egress && rule.named_ports().next().is_some();
        let named = |size: Size| if has_names { size.all() } else { size.addresses.iter().sum() };
        let of_rule = match &rule.peers {
            Peers::Everyone if has_names => sizes.of_all().ports.iter().sum(),
            Peers::Everyone => 0,
            Peers::AnyOf(peers) => {
                let of_peer = |peer: &Peer| match peer {
                    Peer::Pods(peer) => named(sizes.of_peer(peer)),
                    Peer::Block(block) => {
                        let of_all: u64 = if has_names { sizes.of_all().ports.iter().sum() } else { 0 };
                        of_all.saturating_add(count_of_prefixes(block.block.family, &block.block.addresses))
                    }
                    Peer::Nothing => 0,
                };
                peers.iter().map(of_peer).fold(0, u64::saturating_add)
            }
        };
        total = total.saturating_add(of_rule);
    }
    total
}

/// What is said of a policy over the bound to its owner. An agent says it of "a node", and no
/// number that pods change, so that the agents of all nodes make one Event of it.
pub(crate) fn finding(policy: &Policy, options: &Options, place: &str) -> Finding {
    Finding {
        namespace: policy.namespace.clone(),
        name: policy.name.clone(),
        path: "spec".to_owned(),
        code: Code::PolicyTooLarge,
        problem: format!(
            "the policies of this namespace name more than {} members of sets on {place}, and those that name most are \
             left out first; name fewer pods or blocks in it, or in others",
            options.set_members.0
        ),
        effect: Effect::AllowsNothing,
    }
}

/// The sizes of peers in a cluster.
struct InCluster<'a> {
    cluster: &'a Cluster,
    all: Option<Size>,
    known: FxHashMap<PodPeer, Size>,
}

impl<'a> InCluster<'a> {
    fn new(cluster: &'a Cluster) -> Self {
        Self { cluster, all: None, known: FxHashMap::default() }
    }
}

fn size_of_pod(pod: &Pod) -> Size {
    Size::of_pod(Family::ALL.map(|family| pod.address(family).is_some()), pod.ports.len())
}

impl Sizes for InCluster<'_> {
    fn of_peer(&mut self, peer: &PodPeer) -> Size {
        if let Some(known) = self.known.get(peer) {
            return *known;
        }
        let cluster = self.cluster;
        let pods = cluster.selected(peer).into_iter().flat_map(|class| &cluster.class(class).endpoints);
        let size = pods.map(|pod| size_of_pod(cluster.pod(*pod))).fold(Size::default(), Size::plus);
        self.known.insert(peer.clone(), size);
        size
    }

    fn of_all(&mut self) -> Size {
        let all = || self.cluster.endpoints().map(|(_, pod)| size_of_pod(pod)).fold(Size::default(), Size::plus);
        *self.all.get_or_insert_with(all)
    }
}

/// The cluster as agents with these options enforce it: with the policies that are over the
/// bound on some node without their rules there.
#[must_use]
pub fn bounded(cluster: Cluster, options: &Options) -> Cluster {
    let over = over_bound(&cluster, None, options);
    if over.is_empty() {
        return cluster;
    }
    cluster.with_over_bound(over, |cluster, over, id| {
        let mut nodes = over.nodes_of(id);
        let first: Vec<&str> = nodes.by_ref().take(3).collect();
        let more = nodes.count();
        let more = if more > 0 { format!(" and {more} more") } else { String::new() };
        finding(cluster.policy(id), options, &format!("node {}{more}", first.join(", ")))
    })
}

/// Which policies are over the bound on a node, or on each.
pub(crate) fn over_bound(cluster: &Cluster, node: Option<&str>, options: &Options) -> OverBound {
    let mut sizes = InCluster::new(cluster);
    let mut places = BTreeMap::<&str, Vec<(PodId, &str)>>::new();
    for (id, pod) in cluster.endpoints() {
        if let Some(of) = pod.node.as_deref().filter(|of| node.is_none_or(|node| node == *of)) {
            places.entry(pod.namespace.as_str()).or_default().push((id, of));
        }
    }
    let mut over = OverBound::default();
    for (namespace, pods) in places {
        let size = |policy: &Policy, sizes: &mut InCluster<'_>| {
            let all = Direction::ALL.map(|direction| size_of(policy, direction, sizes));
            all.into_iter().fold(0, u64::saturating_add)
        };
        let policies = cluster.policies_in(namespace);
        let named = policies.map(|(_, policy)| size(policy, &mut sizes)).fold(0, u64::saturating_add);
        // Each group has each peer in so many sets at most, and each pod is in a group for each direction.
        let groups = pods.len() as u64;
        if named.saturating_mul(SETS_OF_PEER).saturating_mul(groups) <= options.set_members.0 {
            continue;
        }
        over_in(cluster, namespace, &pods, options, &mut sizes, &mut over);
    }
    over
}

/// Adds the policies of a namespace that are over the bound on the nodes of these pods.
fn over_in(
    cluster: &Cluster,
    namespace: &str,
    pods: &[(PodId, &str)],
    options: &Options,
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
            let asking = |id: &GroupId| {
                let key = &groups.get(*id).key;
                let policies = key.policies.iter().map(|id| cluster.policy(*id)).collect();
                Asking { direction: key.direction, policies, resolution: &key.resolution }
            };
            let here: Vec<Asking<'_>> = here.iter().map(asking).collect();
            over(&here, options, sizes).into_iter().map(|name| places[name]).collect()
        });
        over_bound.add(node, policies.clone());
    }
}
