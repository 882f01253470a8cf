//! The layout: from the groups of one node's endpoints to the sets and chains
//! of its kernel.
//!
//! ```text
//! NPC-FORWARD   from a pod's interface with another's source  -j NPC-SPOOF: DROP (if asked for)
//!               established, neighbour discovery, a pod itself by a Service: RETURN
//!               ICMP errors                 goto NPC-RELATED: by sender and length
//!               TCP that opens nothing      -j NPC-STRAY: denied where no rule can judge it
//!               source ∈ npc4-egress        -j NPC-EGRESS
//!               destination ∈ npc4-ingress  -j NPC-INGRESS
//!               TCP that opens nothing      -j NPC-STRAY
//! NPC-INGRESS   a tree of set matches, by goto, to the group of the address
//! NPC-I-…       the group: what is admitted RETURNs to NPC-FORWARD, the rest goes on
//! NPC-DENY-…    DROP: all that is denied ends here, and the kernel counts it
//! ```
//!
//! Rules come from definitions (policies, and the ports that names resolve
//! to); addresses of pods are in sets only. So a pod that comes or goes in a
//! known group writes set members and no rule.

mod forward;
mod group_chains;
mod icmp;

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use rustc_hash::FxHashMap;

use crate::cluster::group::{Group, GroupId, GroupKey, Groups, Resolution, RetainedGroup};
use crate::cluster::{Cluster, PodId, PolicyId};
use crate::object::Family;
use crate::policy::Direction;
use crate::ruleset::dispatch::{DispatchSet, TreeNode};
use crate::ruleset::group_chain::Leaf;
use crate::ruleset::members::over_bound;
use crate::ruleset::names::hash::{FieldHasher, Hash};
use crate::ruleset::node::{
    ChainName, FamilyRuleset, Match, Member, NodeRuleset, Rule, Set, SetField, SetKind, SetName, Target,
};

pub use crate::ruleset::options::{Bounds, MissingMatches, RulesetOptions, SelfMatch};
pub(crate) use forward::forward;
pub use group_chains::{GroupChain, group_chains, origins};

/// The ruleset of one node.
///
/// It isolates the endpoints that are bound to the node; one that has no
/// address yet has its group's chains and sets all the same.
#[must_use]
pub fn ruleset(cluster: &Cluster, node: &str, options: &RulesetOptions) -> NodeRuleset {
    ruleset_with(cluster, node, options, &[])
}

/// The ruleset of one node, with chains and sets for these groups as well,
/// though no endpoint may be in them. One whose policies are gone has none. Policies that are over
/// the bound on set members ([`crate::ruleset::members`]) admit nothing.
#[must_use]
pub fn ruleset_with(
    cluster: &Cluster,
    node: &str,
    options: &RulesetOptions,
    retained: &[RetainedGroup],
) -> NodeRuleset {
    let local = cluster.endpoints().filter(|(_, pod)| pod.node.as_deref() == Some(node));
    let local: Vec<PodId> = local.map(|(id, _)| id).collect();
    let over = over_bound(cluster, Some(node), options);
    let groups = Groups::with(cluster, local.iter().copied(), retained, &over);
    let is_isolating = local.iter().any(|pod| Direction::ALL.iter().any(|way| groups.of(*pod, *way).is_some()));
    let identities: FxHashMap<GroupId, Hash> =
        groups.iter().map(|(id, group)| (id, identity_of(cluster, &group.key))).collect();
    // Where each address of this node is led, by direction.
    let listed = local.iter().flat_map(|pod| cluster.pod(*pod).addresses());
    let addresses: BTreeSet<IpAddr> = listed.collect();
    let ways = Direction::ALL.map(|direction| {
        let way = |address: &IpAddr| {
            let holders = cluster.holders(*address, Some(node)).iter();
            let groups = holders.filter_map(|pod| groups.of(*pod, direction)).map(|group| identities[&group]);
            Some((*address, DecidingGroups::of(direction, groups)?))
        };
        addresses.iter().filter_map(way).collect::<BTreeMap<IpAddr, DecidingGroups>>()
    });
    let family = |family| {
        let mut layout = Layout { cluster, node, options, family, sets: BTreeMap::new(), chains: BTreeMap::new() };
        let mut isolated = BTreeSet::new();
        for (direction, ways) in Direction::ALL.into_iter().zip(&ways) {
            let mut sides = BTreeMap::<Hash, DispatchTarget<'_>>::new();
            for (id, group) in groups.iter().filter(|(_, group)| group.key.direction == direction) {
                sides.insert(identities[&id], DispatchTarget { rules: Rules::Of(group), addresses: BTreeSet::new() });
            }
            for (address, way) in ways {
                let new = || DispatchTarget { rules: Rules::Joint(&way.groups), addresses: BTreeSet::new() };
                let side = sides.entry(way.identity).or_insert_with(new);
                if Family::of(address) == family {
                    side.addresses.insert(Member::Address(*address));
                    isolated.insert(*address);
                }
            }
            layout.direction(direction, &sides);
        }
        layout.chains.extend(forward(family, options, is_isolating, &isolated));
        if options.anti_spoof {
            layout.sets.insert(SetName::own(family), own());
        }
        if let Some(seed) = options.seed.filter(|_| family == Family::V4) {
            layout.sets.insert(SetName::seed(&seed), kept());
        }
        FamilyRuleset { family, sets: layout.sets, chains: layout.chains }
    };
    NodeRuleset { v4: family(Family::V4), v6: family(Family::V6) }
}

/// The names of policies.
fn names<'a>(cluster: &'a Cluster, policies: &'a [PolicyId]) -> impl ExactSizeIterator<Item = (&'a str, &'a str)> {
    policies.iter().map(|id| {
        let policy = cluster.policy(*id);
        (policy.namespace.as_str(), policy.name.as_str())
    })
}

fn identity_of(cluster: &Cluster, key: &GroupKey) -> Hash {
    identity(key.direction, names(cluster, &key.policies), &key.resolution)
}

/// The identity of a group, which does not depend on the content of its policies. The group's place in the tree depends
/// on this and on the node's seed, so an edited policy moves no endpoint.
pub(crate) fn identity<'a>(
    direction: Direction,
    policies: impl ExactSizeIterator<Item = (&'a str, &'a str)>,
    resolution: &Resolution,
) -> Hash {
    let mut fields = FieldHasher::of("group");
    fields.add(direction.as_str());
    fields.count(policies.len());
    for (namespace, name) in policies {
        fields.add(namespace);
        fields.add(name);
    }
    fields.count(resolution.len());
    for ((protocol, name), numbers) in resolution {
        fields.add(protocol.as_str());
        fields.add(name);
        fields.count(numbers.len());
        for number in numbers {
            fields.add(number.to_le_bytes());
        }
    }
    fields.finish()
}

/// Where an address of this node is led in a direction: to the group of the pod that holds it. If
/// several pods of this node hold it, it is led to several groups, and only traffic that the
/// policies of each group admit passes. Pods that no policy isolates do not count.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct DecidingGroups {
    /// What it is in the tree.
    pub(crate) identity: Hash,
    /// The groups, sorted; at least one.
    pub(crate) groups: Vec<Hash>,
}

impl DecidingGroups {
    /// The deciding groups of an address whose holders are of these groups; `None` if there
    /// are none.
    pub(crate) fn of(direction: Direction, groups: impl Iterator<Item = Hash>) -> Option<Self> {
        let mut groups: Vec<Hash> = groups.collect();
        groups.sort_unstable();
        groups.dedup();
        let identity = match groups.as_slice() {
            [] => return None,
            [group] => *group,
            several => {
                let mut fields = FieldHasher::of("joint");
                fields.add(direction.as_str());
                fields.count(several.len());
                for group in several {
                    fields.add(group.bytes());
                }
                fields.finish()
            }
        };
        Some(Self { identity, groups })
    }
}

/// The rules of a joint group, and the chain that they make: what one group's
/// chain admits comes back here, and the last one's verdict stands. `None`
/// where one of them has no chain.
pub(crate) fn joint(direction: Direction, chains: &[ChainName]) -> Option<(ChainName, Vec<Rule>)> {
    let mut fields = FieldHasher::of("joint chain");
    fields.count(chains.len());
    for chain in chains {
        fields.add(chain.as_str());
    }
    let name = ChainName::group(direction, &fields.finish());
    let comment = || Match::Comment("several pods of this node list one address".into());
    let (last, others) = chains.split_last()?;
    let others = others.iter().map(|chain| Target::Jump(chain.clone()));
    let targets = others.chain([Target::Goto(last.clone())]);
    Some((name, targets.map(|target| Rule { matches: vec![comment()], target }).collect()))
}

/// The chain of one group or of several, and the addresses of its endpoints.
struct DispatchTarget<'a> {
    rules: Rules<'a>,
    addresses: BTreeSet<Member>,
}

/// What decides about addresses.
enum Rules<'a> {
    Of(&'a Group),
    Joint(&'a [Hash]),
}

/// Where the address of an isolated endpoint stands in a packet.
const fn field(direction: Direction) -> SetField {
    match direction {
        Direction::Ingress => SetField::Destination,
        Direction::Egress => SetField::Source,
    }
}

/// The set of what may come from the interfaces of pods, as a ruleset has it.
pub(crate) fn own() -> Set {
    Set {
        kind: SetKind::HashNetIface,
        members: BTreeSet::new(),
        meaning: "what may come from the interfaces of pods, by address and interface".to_owned(),
    }
}

/// The set whose name keeps a node's secret, as a ruleset has it.
pub(crate) fn kept() -> Set {
    Set {
        kind: SetKind::HashIp,
        members: BTreeSet::new(),
        meaning: "empty; its name decides where groups stand in the dispatch tree".to_owned(),
    }
}

/// The one rule of a chain in which denied packets end.
fn drop_all() -> Vec<Rule> {
    vec![Rule { matches: Vec::new(), target: Target::Drop }]
}

/// The chains that lead from a direction's entry to the chains of its groups,
/// and the one to which these lead.
pub(crate) fn lead(
    family: Family,
    direction: Direction,
    tree: Option<&TreeNode>,
    groups: &BTreeMap<Hash, ChainName>,
) -> BTreeMap<ChainName, Vec<Rule>> {
    let (entry, deny) = (ChainName::entry(direction), ChainName::deny(direction));
    let mut chains = BTreeMap::from([(deny.clone(), drop_all())]);
    let Some(tree) = tree else {
        // Nothing jumps here, because the isolated set is empty.
        chains.insert(entry, vec![Rule { matches: Vec::new(), target: Target::Goto(deny) }]);
        return chains;
    };
    let goto = |condition: Option<DispatchSet>, chain: ChainName| Rule {
        matches: condition.iter().map(|at| Match::Set(set_at(family, direction, at), field(direction))).collect(),
        target: Target::Goto(chain),
    };
    let chain_of = |node: &TreeNode| match node {
        TreeNode::Leaf(group) => groups[group].clone(),
        TreeNode::Inner { path, .. } => ChainName::dispatch(direction, &path.to_string()),
        TreeNode::List { path, .. } => ChainName::dispatch_list(direction, &path.to_string()),
    };
    tree.walk(&mut |node| {
        let is_root = std::ptr::eq(node, tree);
        let name = if is_root { entry.clone() } else { chain_of(node) };
        let rules = match node {
            // Its chain is the group's own, except at the root.
            TreeNode::Leaf(_) if !is_root => return,
            TreeNode::Leaf(group) => vec![goto(None, groups[group].clone())],
            TreeNode::List { groups: tried, .. } => {
                let last = tried.len() - 1;
                let condition = |place, group: &Hash| (place < last).then_some(DispatchSet::Group(*group));
                tried.iter().enumerate().map(|(i, group)| goto(condition(i, group), groups[group].clone())).collect()
            }
            TreeNode::Inner { path, left, right } => {
                vec![goto(Some(DispatchSet::Left(path.clone())), chain_of(left)), goto(None, chain_of(right))]
            }
        };
        chains.insert(name, rules);
    });
    chains
}

/// The chain of a group, named by its content.
pub(crate) fn chain_of_leaf(direction: Direction, leaf: &Leaf) -> ChainName {
    ChainName::group(direction, &leaf.hash())
}

/// One family's ruleset in the making.
struct Layout<'a> {
    cluster: &'a Cluster,
    node: &'a str,
    options: &'a RulesetOptions,
    family: Family,
    sets: BTreeMap<SetName, Set>,
    chains: BTreeMap<ChainName, Vec<Rule>>,
}

impl Layout<'_> {
    /// The sets and chains of one direction, from its isolated set to its groups.
    fn direction(&mut self, direction: Direction, sides: &BTreeMap<Hash, DispatchTarget<'_>>) {
        let address_set = |members, meaning: &str| Set { kind: SetKind::HashIp, members, meaning: meaning.to_owned() };
        let members = |groups: &[Hash]| groups.iter().flat_map(|group| &sides[group].addresses).cloned().collect();

        let all: Vec<Hash> = sides.keys().copied().collect();
        let isolated = format!("isolated for {}", direction.section());
        let meaning = format!("this node's endpoints that are {isolated}");
        self.sets.insert(SetName::isolated(self.family, direction), address_set(members(&all), &meaning));

        let mut chains = BTreeMap::<Hash, ChainName>::new();
        for (hash, side) in sides {
            if let Rules::Of(group) = side.rules {
                chains.insert(*hash, self.group(direction, group));
            }
        }
        for (hash, side) in sides {
            if let Rules::Joint(groups) = side.rules
                && let Some((name, rules)) =
                    joint(direction, &groups.iter().map(|group| chains[group].clone()).collect::<Vec<_>>())
            {
                chains.insert(*hash, name.clone());
                self.chains.insert(name, rules);
            }
        }
        let tree = TreeNode::new(all, self.options.seed);
        for (at, groups) in tree.iter().flat_map(TreeNode::sets) {
            let which = match &at {
                DispatchSet::Left(_) => "some of them, to tell by halves which group an endpoint is in",
                DispatchSet::Group(_) => "those of one group",
            };
            let meaning = format!("{isolated}: {which}");
            self.sets.insert(set_at(self.family, direction, &at), address_set(members(&groups), &meaning));
        }
        self.chains.extend(lead(self.family, direction, tree.as_ref(), &chains));
    }

    /// The chain of a group and its sets.
    fn group(&mut self, direction: Direction, group: &Group) -> ChainName {
        let policies = names(self.cluster, &group.key.policies);
        let admission = group.admission(self.cluster);
        let leaf = Leaf::new(self.family, direction, self.options, &admission, policies);
        let name = chain_of_leaf(direction, &leaf);
        for (set, definition) in leaf.sets {
            let resolve = || definition.resolve(self.cluster, self.node, self.family);
            self.sets.entry(set).or_insert_with(resolve);
        }
        self.chains.insert(name.clone(), leaf.rules);
        name
    }
}

/// The name of a set that the tree asks.
pub(crate) fn set_at(family: Family, direction: Direction, at: &DispatchSet) -> SetName {
    match at {
        DispatchSet::Left(path) => SetName::dispatch(family, direction, &path.to_string()),
        DispatchSet::Group(group) => SetName::dispatch_group(family, direction, group),
    }
}
