//! Which chains events of a namespace will make, before its groups change.

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::LocalGroups;
use crate::cluster::group::Resolution;
use crate::cluster::merge::Admission;
use crate::engine::key::PodKey;
use crate::engine::local::LocalClass;
use crate::engine::store::{PodId, Store};
use crate::object::{ContainerPort, Family, Labels, Pod};
use crate::policy::{Direction, Peers, Policy, Ports};
use crate::ruleset::group_chain::Leaf;
use crate::ruleset::layout::{chain_of_leaf, identity};
use crate::ruleset::name::Hash;
use crate::ruleset::node::{ChainName, Rule, SetName};
use crate::ruleset::set_definition::Definition;

/// How many ports one rule takes at least, if none of them joins another.
const PORTS_OF_RULE: usize = 7;

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
}

/// As many rules and sets as a policy makes for one group in one family, or more. Where
/// policies name the same peers, each of these may have rules of its own, with all the ports
/// of the policies; so peers count for each port match, and the sum for policies holds for
/// what they make together.
pub(super) fn weight(policy: &Policy) -> usize {
    let rules = Direction::ALL.into_iter().flat_map(|direction| policy.rules(direction));
    let of_rule = rules.map(|rule| {
        let peers = match &rule.peers {
            Peers::Everyone => 1,
            Peers::AnyOf(peers) => peers.len(),
        };
        let ports = match &rule.ports {
            Ports::Everything => 1,
            Ports::AnyOf(ports) => ports.len().div_ceil(PORTS_OF_RULE),
        };
        2 * peers.saturating_mul(ports) + 2
    });
    1 + of_rule.sum::<usize>()
}

impl LocalGroups {
    /// More rules and sets than a namespace can get by a change that brings it this policy,
    /// or pods; 0 if nothing of the namespace is on this node.
    pub(in crate::engine) fn most(&self, namespace: &str, policy: Option<&Policy>, is_pod: bool) -> usize {
        let here = self.namespaces.get(namespace);
        let classes = here.map_or(0, |here| here.classes.len()) + usize::from(is_pod);
        let weight = here.map_or(0, |here| here.weight) + policy.map_or(0, weight);
        weight.saturating_mul(classes).saturating_mul(Family::ALL.len())
    }

    /// The chains that these changes of a namespace will make and that no group has yet.
    pub(in crate::engine) fn foresee(&self, store: &Store, namespace: &str, to_come: ToCome<'_>) -> Vec<Foreseen> {
        let here = self.namespaces.get(namespace);
        let mut policies = here.map_or_else(Cow::default, |here| Cow::Borrowed(&here.policies));
        let mut changed = BTreeSet::new();
        for (name, policy) in to_come.policies {
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
        let changing: BTreeSet<PodId> = to_come.pods.iter().filter_map(|pod| store.find(&PodKey::of(pod))).collect();
        let mut kinds: Vec<(LocalClass, BTreeSet<Vec<ContainerPort>>)> = Vec::new();
        for class in here.iter().flat_map(|here| &here.classes).filter_map(|class| self.classes.get(class)) {
            let stay = class.pods.iter().filter(|pod| !changing.contains(pod));
            let ports: BTreeSet<Vec<ContainerPort>> = stay.map(|pod| store.ports(*pod).to_vec()).collect();
            if ports.is_empty() {
                continue;
            }
            let mut class = class.without_pods();
            for name in &changed {
                class.judge(name, policies.get(name).map(|policy| &**policy));
            }
            kinds.push((class, ports));
        }
        let mut by_labels = BTreeMap::<&Labels, BTreeSet<Vec<ContainerPort>>>::new();
        for pod in to_come.pods.into_iter().filter(|pod| store.is_this_node(pod.node.as_deref())) {
            by_labels.entry(&pod.labels).or_default().insert(pod.ports.clone());
        }
        for (labels, ports) in by_labels {
            let mut class = LocalClass::of_labels(namespace.into(), labels);
            for (name, policy) in policies.iter() {
                class.judge(name, Some(policy));
            }
            kinds.push((class, ports));
        }
        let mut seen = BTreeSet::new();
        let mut foreseen = Vec::new();
        for (mut class, ports) in kinds {
            for direction in Direction::ALL {
                for ports in &ports {
                    if class.policies[direction as usize].is_empty() {
                        continue;
                    }
                    let resolution = class.resolve(direction, &policies, ports);
                    let names = class.policies[direction as usize].iter().map(|name| (namespace, &**name));
                    let hash = identity(direction, names, &resolution);
                    let is_there = self.is_as_it_will_be(direction, hash)
                        && class.policies[direction as usize].is_disjoint(&changed);
                    if seen.insert(hash) && !is_there {
                        foreseen.extend(self.chains_of(direction, &class, &policies, &resolution));
                    }
                }
            }
        }
        foreseen
    }

    /// Whether a group has its chain, and no policy of it was edited since.
    fn is_as_it_will_be(&self, direction: Direction, hash: Hash) -> bool {
        let group = self.groups[direction as usize].get(&hash);
        group.is_some_and(|group| group.leaves.is_some()) && !self.edited[direction as usize].contains(&hash)
    }

    /// The chain of a group in each family.
    fn chains_of(
        &self,
        direction: Direction,
        class: &LocalClass,
        policies: &BTreeMap<Arc<str>, Arc<Policy>>,
        resolution: &Resolution,
    ) -> [Foreseen; 2] {
        let own = &class.policies[direction as usize];
        let rules = own.iter().filter_map(|name| policies.get(name)).flat_map(|policy| {
            let policy = &**policy;
            policy.rules(direction).iter().map(move |rule| (policy, rule))
        });
        let admission = Admission::new(rules, direction, resolution);
        Family::ALL.map(|family| {
            let names = own.iter().map(|name| (&*class.namespace, &**name));
            let leaf = Leaf::new(family, direction, &self.options, &admission, names);
            let chain = chain_of_leaf(family, direction, &leaf);
            Foreseen { family, chain, rules: leaf.rules, sets: leaf.sets }
        })
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

    /// How many members the sets of a namespace may have.
    pub(in crate::engine) const fn most_members(&self) -> u64 {
        self.options.set_members.0
    }

    /// Whether some group has a chain, or some namespace expects it.
    pub(in crate::engine) fn has_chain(&self, family: Family, chain: &ChainName) -> bool {
        self.uses[family as usize].contains_key(chain)
    }
}
