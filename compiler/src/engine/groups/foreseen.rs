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
use crate::engine::local::{LocalClass, LocalNamespace, weight};
use crate::engine::peers::PeerIndex;
use crate::engine::store::{PodId, Store};
use crate::object::{ContainerPort, Family, Labels, Pod};
use crate::policy::{Direction, PodPeer, Policy, PolicyRule};
use crate::ruleset::group_chain::Leaf;
use crate::ruleset::layout::{chain_of_leaf, identity};
use crate::ruleset::members::{self, Demand, Size};
use crate::ruleset::name::Hash;
use crate::ruleset::node::{ChainName, Rule, SetName};
use crate::ruleset::set_definition::Definition;

/// A chain that is to come, and the sets that it asks.
#[derive(Debug)]
pub(in crate::engine) struct Foreseen {
    pub(in crate::engine) family: Family,
    pub(in crate::engine) chain: ChainName,
    pub(in crate::engine) rules: Vec<Rule>,
    pub(in crate::engine) sets: BTreeMap<SetName, Definition>,
}

/// What is to change in a namespace.
#[derive(Debug, Default)]
pub(in crate::engine) struct ToCome<'a> {
    /// Policies by their names; `None` for those that go.
    pub(in crate::engine) policies: BTreeMap<Arc<str>, Option<Policy>>,
    /// Pods that come, or change.
    pub(in crate::engine) pods: Vec<&'a Pod>,
    /// Which policies are over the bound on set members is chosen anew.
    pub(in crate::engine) reconsiders_bound: bool,
}

/// Endpoints that will be in one group.
struct Kind {
    direction: Direction,
    /// The names of the policies, sorted.
    own: BTreeSet<Arc<str>>,
    resolution: Resolution,
    hash: Hash,
}

impl LocalGroups {
    /// More rules and sets than a namespace can get by a change that brings it this policy,
    /// or pods; 0 if nothing of the namespace is on this node.
    pub(in crate::engine) fn most(&mut self, namespace: &str, policy: Option<&Policy>, is_pod: bool) -> usize {
        let here = self.namespaces.get_mut(namespace);
        let classes = here.as_ref().map_or(0, |here| here.classes.len()) + usize::from(is_pod);
        if classes == 0 {
            return 0;
        }
        let weight = here.map_or(0, LocalNamespace::weighed) + policy.map_or(0, weight);
        weight.saturating_mul(classes).saturating_mul(Family::ALL.len())
    }

    /// The chains that these changes of a namespace will make and that no group has yet.
    pub(in crate::engine) fn foresee(
        &self,
        (store, peers): (&mut Store, &mut PeerIndex),
        sets: &LiveSets,
        namespace: &str,
        to_come: ToCome<'_>,
    ) -> Vec<Foreseen> {
        let ToCome { policies: versions, pods, reconsiders_bound } = to_come;
        let here = self.namespaces.get(namespace);
        let mut policies = here.map_or_else(Cow::default, |here| Cow::Borrowed(&here.policies));
        let mut changed = BTreeSet::new();
        for (name, policy) in versions {
            let before = match policy {
                Some(policy) if policies.get(&name).is_some_and(|known| **known == policy) => continue,
                Some(policy) => policies.to_mut().insert(Arc::clone(&name), Arc::new(policy)),
                None if policies.contains_key(&name) => policies.to_mut().remove(&name),
                None => None,
            };
            if before.is_some() || policies.contains_key(&name) {
                changed.insert(name);
            }
        }
        let kinds = self.kinds(store, namespace, &pods, &policies, &changed);
        let is_over = |name: &Arc<str>| here.is_some_and(|here| here.over_bound.contains_key(name));
        // Those that were edited may come back, or all.
        let stays = |name: &Arc<str>| is_over(name) && !reconsiders_bound && !changed.contains(name);
        let stay: BTreeSet<&str> = here
            .into_iter()
            .flat_map(|here| here.over_bound.keys())
            .filter(|name| policies.contains_key(*name) && stays(name))
            .map(|name| &**name)
            .collect();
        let is_there = |kind: &Kind, over: &BTreeSet<&str>| {
            let is_same = |name: &Arc<str>| !changed.contains(name) && is_over(name) == over.contains(&**name);
            self.is_as_it_will_be(kind.direction, kind.hash) && kind.own.iter().all(is_same)
        };
        let then = Then { groups: self, namespace, policies: &policies };
        let (there, new): (Vec<&Kind>, Vec<&Kind>) = kinds.iter().partition(|kind| is_there(kind, &stay));
        if new.is_empty() {
            return Vec::new();
        }
        let foreseen = then.chains(&new, &stay);
        let present = there.iter().flat_map(|kind| self.sets_of(kind));
        if then.count(&new, present, &foreseen, (store, peers), sets) <= self.options.set_members.0 {
            return foreseen;
        }
        let demand = |kind| {
            let made = is_there(kind, &stay).then(|| self.sets_of(kind).collect());
            then.demand(kind, made)
        };
        let groups: Vec<Demand<'_>> = kinds.iter().map(demand).collect();
        let known = then.sizes(kinds.iter(), (store, peers));
        let mut sizes = InStore { of_all: store.size, sets, known };
        let over = members::choose_over_bound(&groups, stay.clone(), &self.options, &mut sizes);
        let new: Vec<&Kind> = kinds.iter().filter(|kind| !is_there(kind, &over)).collect();
        then.chains(&new, &over)
    }

    /// The sets that a group has.
    fn sets_of(&self, kind: &Kind) -> impl Iterator<Item = &SetName> {
        let group = self.groups[kind.direction as usize].get(&kind.hash);
        group.and_then(|group| group.leaves.as_ref()).into_iter().flatten().flat_map(|(_, sets)| sets)
    }

    /// The groups of a namespace with these policies, once these pods are there.
    fn kinds(
        &self,
        store: &Store,
        namespace: &str,
        pods: &[&Pod],
        policies: &BTreeMap<Arc<str>, Arc<Policy>>,
        changed: &BTreeSet<Arc<str>>,
    ) -> Vec<Kind> {
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
        let mut kinds = Vec::new();
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
                        kinds.push(Kind { direction, own, resolution, hash });
                    }
                }
            }
        }
        kinds
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
struct Then<'a> {
    groups: &'a LocalGroups,
    namespace: &'a str,
    policies: &'a BTreeMap<Arc<str>, Arc<Policy>>,
}

impl<'a> Then<'a> {
    /// The chains of groups in each family, while some policies are over the bound on set members.
    fn chains(&self, kinds: &[&Kind], over: &BTreeSet<&str>) -> Vec<Foreseen> {
        kinds.iter().flat_map(|kind| self.chains_of(kind, over)).collect()
    }

    fn chains_of(&self, kind: &Kind, over: &BTreeSet<&str>) -> [Foreseen; 2] {
        let Kind { direction, own, resolution, .. } = kind;
        let options = &self.groups.options;
        let within = own.iter().filter(|name| !over.contains(&***name));
        let rules = within.filter_map(|name| self.policies.get(name)).flat_map(|policy| {
            let policy = &**policy;
            policy.rules(*direction).iter().map(move |rule| (policy, rule))
        });
        let admission = Admission::new(rules, *direction, resolution);
        Family::ALL.map(|family| {
            let names = own.iter().map(|name| (self.namespace, &**name));
            let leaf = Leaf::new(family, *direction, options, &admission, names);
            let chain = chain_of_leaf(family, *direction, &leaf);
            Foreseen { family, chain, rules: leaf.rules, sets: leaf.sets }
        })
    }

    /// What the sets of all groups count: those that are there, and those of the new ones.
    fn count<'s>(
        &self,
        new: &[&Kind],
        present: impl Iterator<Item = &'s SetName>,
        foreseen: &'s [Foreseen],
        (store, peers): (&mut Store, &mut PeerIndex),
        sets: &LiveSets,
    ) -> u64 {
        let known = self.sizes(new.iter().copied(), (store, peers));
        let mut sizes = InStore { of_all: store.size, sets, known };
        let mut counts: BTreeMap<&SetName, u64> =
            present.map(|name| (name, sets.count_of(name).unwrap_or_default())).collect();
        for chain in foreseen {
            for (name, definition) in &chain.sets {
                counts.entry(name).or_insert_with(|| members::count(definition, chain.family, &mut sizes));
            }
        }
        let of_sets = members::count_of_sets(u64::try_from(counts.len()).unwrap_or(u64::MAX));
        counts.into_values().fold(of_sets, u64::saturating_add)
    }

    /// How many members the peers of these groups' policies make.
    fn sizes<'k>(
        &self,
        kinds: impl Iterator<Item = &'k Kind>,
        (store, peers): (&mut Store, &mut PeerIndex),
    ) -> FxHashMap<&'a PodPeer, Size> {
        let mut asked = BTreeMap::<(&str, Direction), &'a Policy>::new();
        for Kind { direction, own, .. } in kinds {
            let policies = own.iter().filter_map(|name| self.policies.get_key_value(name));
            asked.extend(policies.map(|(name, policy)| ((&**name, *direction), &**policy)));
        }
        let rules = asked.iter().flat_map(|((_, direction), policy)| policy.rules(*direction));
        peers.sizes_of(store, rules.flat_map(PolicyRule::pod_peers))
    }

    /// A group as the bound sees it.
    fn demand<'d>(&self, kind: &'d Kind, sets: Option<Vec<&'d SetName>>) -> Demand<'d>
    where
        'a: 'd,
    {
        let Kind { direction, own, resolution, .. } = kind;
        let policies = own.iter().filter_map(|name| self.policies.get(name));
        Demand { direction: *direction, policies: policies.map(|policy| &**policy).collect(), resolution, sets }
    }
}
