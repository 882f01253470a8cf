//! The input of a preview, and what is kept of chains that are expected.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::LocalGroups;
use crate::engine::key::PodKey;
use crate::engine::local::{LocalClass, LocalNamespace, Weight};
use crate::engine::prepared::PreparedGroup;
use crate::engine::preview::{FutureClass, GroupThere, PolicyChange, Preview};
use crate::engine::store::{PodSlot, Store};
use crate::object::{ContainerPort, Family, Labels, Pod};
use crate::policy::{Direction, Policy};
use crate::ruleset::names::hash::Hash;
use crate::ruleset::node::ChainName;

/// Trying so many policies on the labels of pods takes some milliseconds.
const JUDGED: usize = 50_000;

/// Finding out how many pods this many selectors select takes some milliseconds in a large cluster.
const SELECTORS: u64 = 1_000;

/// Policies that change. For each: what it isolates, and an upper bound of what it makes; `None` for a policy that
/// goes.
pub(in crate::engine) type WeighedPolicies<'a> = BTreeMap<&'a str, Option<(&'a Policy, Weight)>>;

/// What is to change in a namespace.
#[derive(Debug, Default)]
pub(in crate::engine) struct ToCome<'a> {
    /// Policies, by their names.
    pub(in crate::engine) policies: Vec<(Arc<str>, PolicyChange)>,
    /// Pods that come, or change.
    pub(in crate::engine) pods: Vec<&'a Pod>,
    /// Which policies are over the bounds is chosen anew.
    pub(in crate::engine) reconsiders_bound: bool,
}

impl LocalGroups {
    /// No namespace can get more by a change that brings it policies of this weight, and so many pods: rules
    /// and sets, and members of these. Nothing if nothing of the namespace is on this node.
    pub(in crate::engine) fn upper_bound(
        &mut self,
        store: &Store,
        namespace: &str,
        weight: Weight,
        pods: usize,
    ) -> (usize, u64) {
        let Self { namespaces, classes, .. } = self;
        let here = namespaces.get_mut(namespace);
        let classes_here =
            here.as_ref().into_iter().flat_map(|here| &here.classes).filter_map(|class| classes.get(class));
        let count = classes_here.map(|class| class.resolutions(store)).sum::<usize>() + pods;
        if count == 0 {
            return (0, 0);
        }
        let Weight { rules, peers } = here.map(LocalNamespace::weighed).unwrap_or_default().plus(weight);
        let rules = rules.saturating_mul(count).saturating_mul(Family::ALL.len());
        // Most groups share sets, so this is far too much. The chains show how much it is.
        let members = peers.saturating_mul(store.size.all()).saturating_mul(u64::try_from(count).unwrap_or(u64::MAX));
        (rules, members)
    }

    /// Whether a pod has the labels and ports of an endpoint of this node, so that no chain is made for it.
    pub(in crate::engine) fn has_kind_of(&self, store: &Store, pod: &Pod) -> bool {
        let class = store.class_of(pod).and_then(|class| self.classes.get(&class));
        class.is_some_and(|class| class.pods.iter().any(|known| store.ports(*known) == &*pod.ports))
    }

    /// Whether it takes long to find out what changes of a namespace make: whether, as the labels of its
    /// endpoints say, their chains may have more rules than this. The members of sets are only counted for
    /// it, so they do not matter, though there may be a hundred thousand.
    pub(in crate::engine) fn takes_long(
        &self,
        store: &Store,
        namespace: &str,
        (changes, pods): (&WeighedPolicies<'_>, &[&Pod]),
        bound: usize,
    ) -> bool {
        let here = self.namespaces.get(namespace);
        let standing = here.into_iter().flat_map(|here| &here.policies);
        let standing = standing.filter(|(name, _)| !changes.contains_key(&***name)).map(|(_, policy)| &**policy);
        let standing = standing.map(|policy| (policy, None));
        let coming = changes.values().flatten().map(|(policy, weight)| (*policy, Some(*weight)));
        let mut policies: Vec<(&Policy, Option<Weight>)> = standing.chain(coming).collect();
        let coming = pods.iter().filter(|pod| store.is_this_node(pod.node.as_deref())).count();
        let classes = here.map_or(0, |here| here.classes.len()) + coming;
        if policies.len().saturating_mul(classes) > JUDGED {
            return true;
        }
        let (mut rules, mut peers) = (0_usize, BTreeSet::new());
        let mut selectors = 0;
        for (class, ports) in self.future_classes(store, namespace, pods) {
            for (place, (policy, weight)) in policies.iter_mut().enumerate() {
                if !class.is_selected_by(policy) {
                    continue;
                }
                let weight = weight.get_or_insert_with(|| Weight::of(policy));
                rules = rules.saturating_add(weight.rules.saturating_mul(ports.len() * Family::ALL.len()));
                if peers.insert(place) {
                    selectors += weight.peers;
                }
                if rules > bound || selectors > SELECTORS {
                    return true;
                }
            }
        }
        false
    }

    /// What decides what these changes of a namespace will make.
    pub(in crate::engine) fn preview(
        &self,
        store: &Store,
        (number, namespace): (u64, &str),
        to_come: ToCome<'_>,
    ) -> Preview {
        let ToCome { policies: changes, pods, reconsiders_bound } = to_come;
        let here = self.namespaces.get(namespace);
        // Those that were edited may come back, or all.
        let anew = self.reconsidered.get(namespace);
        let may_come_back = |name: &Arc<str>| reconsiders_bound || anew.is_some_and(|anew| anew.has(name));
        let over: BTreeSet<Arc<str>> = here.into_iter().flat_map(|here| here.over_bound.keys().cloned()).collect();
        let stay = over.iter().filter(|name| !may_come_back(name)).cloned().collect();
        let there = Direction::ALL.map(|direction| {
            let groups = here.into_iter().flat_map(|here| &here.groups[direction as usize]);
            groups.filter_map(|hash| Some((*hash, self.made_of(direction, *hash)?))).collect()
        });
        Preview {
            number,
            options: self.options.clone(),
            namespace: Arc::from(namespace),
            policies: here.map(|here| here.policies.clone()).unwrap_or_default(),
            changes,
            classes: self.future_classes(store, namespace, &pods),
            over,
            stay,
            there,
            of_all: store.size,
        }
    }

    /// Whether just these policies of a namespace are over the bounds.
    pub(in crate::engine) fn are_over_bound(&self, namespace: &str, over: &BTreeSet<Arc<str>>) -> bool {
        match self.namespaces.get(namespace) {
            Some(here) => here.over_bound.keys().eq(over),
            None => over.is_empty(),
        }
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

    /// What a group has that has its chains, if no policy of it was edited since.
    fn made_of(&self, direction: Direction, hash: Hash) -> Option<GroupThere> {
        let leaves = self.groups[direction as usize].get(&hash)?.leaves.as_ref()?;
        let is_edited = self.edited[direction as usize].contains(&hash);
        (!is_edited).then(|| GroupThere {
            sets: leaves.each_ref().map(|chain| Arc::clone(&chain.sets)),
            rules: leaves.iter().map(|chain| chain.admitting).sum(),
        })
    }

    /// The classes of a namespace on this node, once these pods are there.
    fn future_classes(&self, store: &Store, namespace: &str, pods: &[&Pod]) -> Vec<FutureClass> {
        let here = self.namespaces.get(namespace);
        let changing: BTreeSet<PodSlot> = pods.iter().filter_map(|pod| store.find(&PodKey::of(pod))).collect();
        let mut classes = Vec::new();
        for class in here.iter().flat_map(|here| &here.classes).filter_map(|class| self.classes.get(class)) {
            let stay = class.pods.iter().filter(|pod| !changing.contains(pod));
            let ports: BTreeSet<Vec<ContainerPort>> = stay.map(|pod| store.ports(*pod).to_vec()).collect();
            if !ports.is_empty() {
                classes.push((class.unjudged(), ports));
            }
        }
        let mut by_labels = BTreeMap::<&Labels, BTreeSet<Vec<ContainerPort>>>::new();
        for pod in pods.iter().filter(|pod| store.is_this_node(pod.node.as_deref())) {
            by_labels.entry(&pod.labels).or_default().insert(pod.ports.clone());
        }
        let of_labels = |(labels, ports)| (LocalClass::of_labels(namespace.into(), labels), ports);
        classes.extend(by_labels.into_iter().map(of_labels));
        classes
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
