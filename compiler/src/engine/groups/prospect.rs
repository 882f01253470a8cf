//! Which chains events of a namespace will make, before its groups change.

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use rustc_hash::FxHashMap;

use super::LocalGroups;
use super::bound::InStore;
use crate::cluster::group::Resolution;
use crate::cluster::merge::Admission;
use crate::engine::key::PodKey;
use crate::engine::live::LiveSets;
use crate::engine::local::{LocalClass, LocalNamespace, Weight};
use crate::engine::peers::PeerIndex;
use crate::engine::store::{PodId, Store};
use crate::object::{ContainerPort, Family, Labels, Pod};
use crate::policy::{Direction, PodPeer, Policy, PolicyRule};
use crate::ruleset::group_chain::Leaf;
use crate::ruleset::layout::{Options, chain_of_leaf, identity};
use crate::ruleset::members::{self, Demand, Size};
use crate::ruleset::name::Hash;
use crate::ruleset::node::{ChainName, Rule, SetName};
use crate::ruleset::set_definition::Definition;

/// A group's chain in one family, and the sets that it asks.
#[derive(Debug)]
pub(in crate::engine) struct PreparedLeaf {
    pub(in crate::engine) family: Family,
    pub(in crate::engine) chain: ChainName,
    pub(in crate::engine) rules: Vec<Rule>,
    pub(in crate::engine) sets: BTreeMap<SetName, Definition>,
}

/// The chains of a group, made before its policies are in force. A large one takes long, so it is
/// not made again then.
#[derive(Debug)]
pub(in crate::engine) struct PreparedGroup {
    direction: Direction,
    hash: Hash,
    /// The policies that it is made of: those of the group that are not over the bound.
    policies: Vec<Arc<Policy>>,
    /// By family.
    pub(in crate::engine) leaves: [PreparedLeaf; 2],
}

impl PreparedGroup {
    /// Makes the chains of a group of which these policies are not over the bound.
    pub(super) fn new<'n>(
        (direction, hash, resolution): (Direction, Hash, &Resolution),
        policies: Vec<Arc<Policy>>,
        options: &Options,
        names: &(impl Iterator<Item = (&'n str, &'n str)> + Clone),
    ) -> Self {
        let rules = policies.iter().flat_map(|policy| {
            let policy = &**policy;
            policy.rules(direction).iter().map(move |rule| (policy, rule))
        });
        let admission = Admission::new(rules, direction, resolution);
        let leaves = Family::ALL.map(|family| {
            let leaf = Leaf::new(family, direction, options, &admission, names.clone());
            let chain = chain_of_leaf(direction, &leaf);
            PreparedLeaf { family, chain, rules: leaf.rules, sets: leaf.sets }
        });
        drop(admission);
        Self { direction, hash, policies, leaves }
    }

    /// Whether it is made of just these policies, as they are now.
    pub(super) fn is_of(&self, policies: &[Arc<Policy>]) -> bool {
        self.policies.len() == policies.len()
            && self.policies.iter().zip(policies).all(|(made_of, policy)| Arc::ptr_eq(made_of, policy))
    }
}

/// What changes of a namespace will make.
#[derive(Debug, Default)]
pub(in crate::engine) struct Prospect {
    /// The groups whose chains will be other ones.
    pub(in crate::engine) groups: Vec<PreparedGroup>,
    /// How many members their sets have, or more.
    pub(in crate::engine) members: BTreeMap<SetName, u64>,
    /// The policies that will be over the bound on set members.
    pub(in crate::engine) over: Vec<Arc<str>>,
}

/// What is to change in a namespace.
#[derive(Debug, Default)]
pub(in crate::engine) struct ToCome<'a> {
    /// Policies by their names; `None` for those that go.
    pub(in crate::engine) policies: BTreeMap<Arc<str>, Option<Arc<Policy>>>,
    /// Pods that come, or change.
    pub(in crate::engine) pods: Vec<&'a Pod>,
    /// Which policies are over the bound on set members is chosen anew.
    pub(in crate::engine) reconsiders_bound: bool,
}

/// A group that will be there.
struct FutureGroup {
    direction: Direction,
    /// The names of the policies, sorted.
    own: BTreeSet<Arc<str>>,
    resolution: Resolution,
    hash: Hash,
}

impl LocalGroups {
    /// No namespace can get more by a change that brings it this policy, or a pod: rules and sets, and
    /// members of these. Nothing if nothing of the namespace is on this node.
    pub(in crate::engine) fn upper_bound(
        &mut self,
        store: &Store,
        namespace: &str,
        policy: Option<&Policy>,
        is_pod: bool,
    ) -> (usize, u64) {
        let Self { namespaces, classes, .. } = self;
        let here = namespaces.get_mut(namespace);
        let classes_here =
            here.as_ref().into_iter().flat_map(|here| &here.classes).filter_map(|class| classes.get(class));
        let count = classes_here.map(|class| class.resolutions(store)).sum::<usize>() + usize::from(is_pod);
        if count == 0 {
            return (0, 0);
        }
        let Weight { rules, peers } =
            here.map(LocalNamespace::weighed).unwrap_or_default().plus(policy.map(Weight::of).unwrap_or_default());
        let rules = rules.saturating_mul(count).saturating_mul(Family::ALL.len());
        // Most groups share sets, so this is far too much. The chains show how much it is.
        let members = peers.saturating_mul(store.size.all()).saturating_mul(u64::try_from(count).unwrap_or(u64::MAX));
        (rules, members)
    }

    /// What these changes of a namespace will make.
    pub(in crate::engine) fn foresee(
        &self,
        (store, peers): (&mut Store, &mut PeerIndex),
        sets: &LiveSets,
        namespace: &str,
        to_come: ToCome<'_>,
    ) -> Prospect {
        let ToCome { policies: versions, pods, reconsiders_bound } = to_come;
        let here = self.namespaces.get(namespace);
        let mut policies = here.map_or_else(Cow::default, |here| Cow::Borrowed(&here.policies));
        let mut changed = BTreeSet::new();
        for (name, policy) in versions {
            let before = match policy {
                Some(policy) if policies.get(&name).is_some_and(|known| *known == policy) => continue,
                Some(policy) => policies.to_mut().insert(Arc::clone(&name), policy),
                None if policies.contains_key(&name) => policies.to_mut().remove(&name),
                None => None,
            };
            if before.is_some() || policies.contains_key(&name) {
                changed.insert(name);
            }
        }
        let groups = self.future_groups(store, namespace, &pods, &policies, &changed);
        let is_over = |name: &Arc<str>| here.is_some_and(|here| here.over_bound.contains_key(name));
        // Those that were edited may come back, or all.
        let anew = self.reconsidered.get(namespace);
        let may_come_back =
            |name: &Arc<str>| reconsiders_bound || changed.contains(name) || anew.is_some_and(|anew| anew.has(name));
        let stays = |name: &Arc<str>| is_over(name) && !may_come_back(name);
        let stay: BTreeSet<&str> = here
            .into_iter()
            .flat_map(|here| here.over_bound.keys())
            .filter(|name| policies.contains_key(*name) && stays(name))
            .map(|name| &**name)
            .collect();
        let is_there = |group: &FutureGroup, over: &BTreeSet<&str>| {
            let is_same = |name: &Arc<str>| !changed.contains(name) && is_over(name) == over.contains(&**name);
            self.is_as_it_will_be(group.direction, group.hash) && group.own.iter().all(is_same)
        };
        let future = FutureNamespace { groups: self, namespace, policies: &policies };
        let (there, new): (Vec<&FutureGroup>, Vec<&FutureGroup>) =
            groups.iter().partition(|group| is_there(group, &stay));
        let prepared = future.prepare(&new, &stay);
        let present = there.iter().flat_map(|group| self.sets_of(group));
        let (total, members) = future.count(&new, present, &prepared, (store, peers), sets);
        if new.is_empty() || total <= self.options.set_members.0 {
            return Prospect { groups: prepared, members, over: future.names(&stay) };
        }
        // They may take a hundred megabytes, and are of no use.
        drop((prepared, members));
        let demand = |group| {
            let made = is_there(group, &stay).then(|| self.sets_of(group).collect());
            future.demand(group, made)
        };
        let demands: Vec<Demand<'_>> = groups.iter().map(demand).collect();
        let known = future.sizes(groups.iter(), (store, peers));
        let mut sizes = InStore { of_all: store.size, sets, known };
        let over = members::choose_over_bound(&demands, stay.clone(), &self.options, &mut sizes);
        let new: Vec<&FutureGroup> = groups.iter().filter(|group| !is_there(group, &over)).collect();
        let prepared = future.prepare(&new, &over);
        let (_, members) = future.count(&new, std::iter::empty(), &prepared, (store, peers), sets);
        Prospect { groups: prepared, members, over: future.names(&over) }
    }

    /// Keeps the chains of groups that come with the next commit.
    pub(in crate::engine) fn prepare(&mut self, groups: Vec<PreparedGroup>) {
        for group in groups {
            self.prepared[group.direction as usize].insert(group.hash, group);
        }
    }

    /// What was prepared is not needed any more, or is of no use.
    pub(in crate::engine) fn forget_prepared(&mut self) {
        self.prepared.iter_mut().for_each(BTreeMap::clear);
    }

    /// The sets that a group has.
    fn sets_of(&self, future: &FutureGroup) -> impl Iterator<Item = &SetName> {
        let group = self.groups[future.direction as usize].get(&future.hash);
        group.and_then(|group| group.leaves.as_ref()).into_iter().flatten().flat_map(|(_, sets)| sets)
    }

    /// The groups of a namespace with these policies, once these pods are there.
    fn future_groups(
        &self,
        store: &Store,
        namespace: &str,
        pods: &[&Pod],
        policies: &BTreeMap<Arc<str>, Arc<Policy>>,
        changed: &BTreeSet<Arc<str>>,
    ) -> Vec<FutureGroup> {
        let here = self.namespaces.get(namespace);
        let changing: BTreeSet<PodId> = pods.iter().filter_map(|pod| store.find(&PodKey::of(pod))).collect();
        let mut classes: Vec<(LocalClass, BTreeSet<Vec<ContainerPort>>)> = Vec::new();
        for class in here.iter().flat_map(|here| &here.classes).filter_map(|class| self.classes.get(class)) {
            let stay = class.pods.iter().filter(|pod| !changing.contains(pod));
            let ports: BTreeSet<Vec<ContainerPort>> = stay.map(|pod| store.ports(*pod).to_vec()).collect();
            if ports.is_empty() {
                continue;
            }
            let mut class = class.without_pods();
            for name in changed {
                class.judge(name, policies.get(name).map(|policy| &**policy));
            }
            classes.push((class, ports));
        }
        let mut by_labels = BTreeMap::<&Labels, BTreeSet<Vec<ContainerPort>>>::new();
        for pod in pods.iter().filter(|pod| store.is_this_node(pod.node.as_deref())) {
            by_labels.entry(&pod.labels).or_default().insert(pod.ports.clone());
        }
        for (labels, ports) in by_labels {
            let mut class = LocalClass::of_labels(namespace.into(), labels);
            for (name, policy) in policies {
                class.judge(name, Some(policy));
            }
            classes.push((class, ports));
        }
        let mut seen = BTreeSet::new();
        let mut groups = Vec::new();
        for (mut class, ports) in classes {
            for direction in Direction::ALL {
                if class.isolating(direction).is_empty() {
                    continue;
                }
                for ports in &ports {
                    let resolution = class.resolve(direction, policies, ports);
                    let own = class.isolating(direction).clone();
                    let hash = identity(direction, own.iter().map(|name| (namespace, &**name)), &resolution);
                    if seen.insert(hash) {
                        groups.push(FutureGroup { direction, own, resolution, hash });
                    }
                }
            }
        }
        groups
    }

    /// Whether a group has its chain, and no policy of it was edited since.
    fn is_as_it_will_be(&self, direction: Direction, hash: Hash) -> bool {
        let group = self.groups[direction as usize].get(&hash);
        group.is_some_and(|group| group.leaves.is_some()) && !self.edited[direction as usize].contains(&hash)
    }

    /// A chain is expected: it stays, whether a group has it or not.
    pub(in crate::engine) fn expect(&mut self, family: Family, chain: &ChainName) {
        *self.uses[family as usize].entry(chain.clone()).or_default() += 1;
        *self.expected[family as usize].entry(chain.clone()).or_default() += 1;
    }

    /// A chain is expected no more. Answers whether nothing has it now.
    pub(in crate::engine) fn expect_no_more(&mut self, family: Family, chain: &ChainName) -> bool {
        let expected = &mut self.expected[family as usize];
        if let Some(count) = expected.get_mut(chain) {
            *count -= 1;
            if *count == 0 {
                expected.remove(chain);
            }
        }
        let mut touched = [BTreeMap::new(), BTreeMap::new()];
        self.drop_chain(family, chain.clone(), &mut touched);
        !self.uses[family as usize].contains_key(chain)
    }
}

/// A namespace with the policies that it will have.
struct FutureNamespace<'a> {
    groups: &'a LocalGroups,
    namespace: &'a str,
    policies: &'a BTreeMap<Arc<str>, Arc<Policy>>,
}

impl<'a> FutureNamespace<'a> {
    /// The chains of groups, while some policies are over the bound on set members.
    fn prepare(&self, groups: &[&FutureGroup], over: &BTreeSet<&str>) -> Vec<PreparedGroup> {
        let prepare = |group: &&FutureGroup| {
            let FutureGroup { direction, own, resolution, hash } = group;
            let within = own.iter().filter(|name| !over.contains(&***name));
            let policies = within.filter_map(|name| self.policies.get(name)).cloned().collect();
            let names = own.iter().map(|name| (self.namespace, &**name));
            PreparedGroup::new((*direction, *hash, resolution), policies, &self.groups.options, &names)
        };
        groups.iter().map(prepare).collect()
    }

    /// Names of policies, as the namespace keeps them.
    fn names(&self, over: &BTreeSet<&str>) -> Vec<Arc<str>> {
        over.iter().filter_map(|name| self.policies.get_key_value(*name)).map(|(name, _)| Arc::clone(name)).collect()
    }

    /// What the sets of all groups count: those that are there, and those of the new ones; and what each
    /// of the new ones counts.
    fn count<'s>(
        &self,
        new: &[&FutureGroup],
        present: impl Iterator<Item = &'s SetName>,
        prepared: &[PreparedGroup],
        (store, peers): (&mut Store, &mut PeerIndex),
        sets: &LiveSets,
    ) -> (u64, BTreeMap<SetName, u64>) {
        let known = self.sizes(new.iter().copied(), (store, peers));
        let mut sizes = InStore { of_all: store.size, sets, known };
        let mut of_new = BTreeMap::new();
        for leaf in prepared.iter().flat_map(|group| &group.leaves) {
            for (name, definition) in &leaf.sets {
                if !of_new.contains_key(name) {
                    of_new.insert(name.clone(), members::count(definition, leaf.family, &mut sizes));
                }
            }
        }
        let others: BTreeSet<&SetName> = present.filter(|name| !of_new.contains_key(*name)).collect();
        let of_sets = members::count_of_sets(u64::try_from(of_new.len() + others.len()).unwrap_or(u64::MAX));
        let of_others = others.into_iter().map(|name| sets.count_of(name).unwrap_or_default());
        (of_others.chain(of_new.values().copied()).fold(of_sets, u64::saturating_add), of_new)
    }

    /// How many members the peers of these groups' policies make.
    fn sizes<'k>(
        &self,
        groups: impl Iterator<Item = &'k FutureGroup>,
        (store, peers): (&mut Store, &mut PeerIndex),
    ) -> FxHashMap<&'a PodPeer, Size> {
        let mut asked = BTreeMap::<(&str, Direction), &'a Policy>::new();
        for FutureGroup { direction, own, .. } in groups {
            let policies = own.iter().filter_map(|name| self.policies.get_key_value(name));
            asked.extend(policies.map(|(name, policy)| ((&**name, *direction), &**policy)));
        }
        let rules = asked.iter().flat_map(|((_, direction), policy)| policy.rules(*direction));
        peers.sizes_of(store, rules.flat_map(PolicyRule::pod_peers))
    }

    /// A group as the bound sees it.
    fn demand<'d>(&self, group: &'d FutureGroup, sets: Option<Vec<&'d SetName>>) -> Demand<'d>
    where
        'a: 'd,
    {
        let FutureGroup { direction, own, resolution, .. } = group;
        let policies = own.iter().filter_map(|name| self.policies.get(name));
        Demand { direction: *direction, policies: policies.map(|policy| &**policy).collect(), resolution, sets }
    }
}
