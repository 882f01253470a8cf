//! What changes of a namespace will make, before its groups change: chains, and the sets that they ask.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;

use crate::cluster::group::Resolution;
use crate::cluster::merge::Admission;
use crate::object::Family;
use crate::plan::KernelState;
use crate::policy::{Direction, Policy};
use crate::ruleset::group_chain::Leaf;
use crate::ruleset::layout::{RulesetOptions, chain_of_leaf};
use crate::ruleset::names::hash::Hash;
use crate::ruleset::node::{ChainName, Rule, SetName};
use crate::ruleset::set_definition::Definition;

/// A group's chain in one family, and the sets that it asks.
///
/// The rules of a chain that is loaded go into the state: thousands of them are not kept twice. The state keeps them as
/// long as the chain is expected.
#[derive(Debug)]
pub(super) struct PreparedLeaf {
    pub(super) family: Family,
    pub(super) chain: ChainName,
    /// How many rules it has.
    pub(super) count: usize,
    /// How many of them admit something.
    pub(super) admitting: u64,
    /// The last of them: those that the state does not have by this.
    rest: VecDeque<Rule>,
    /// What each set is, until the index knows it.
    pub(super) sets: BTreeMap<SetName, Option<Definition>>,
}

impl PreparedLeaf {
    fn new(family: Family, direction: Direction, leaf: Leaf) -> Self {
        let chain = chain_of_leaf(direction, &leaf);
        let sets = leaf.sets.into_iter().map(|(name, definition)| (name, Some(definition))).collect();
        Self { family, chain, count: leaf.rules.len(), admitting: leaf.admitting, rest: leaf.rules.into(), sets }
    }

    /// Takes the next rules out, so many at most. The state has so many of the chain.
    pub(super) fn take(&mut self, there: usize, most: usize) -> Vec<Rule> {
        // Some may have come by another group that has the same chain.
        let by_others = there.saturating_sub(self.count - self.rest.len());
        drop(self.rest.drain(..by_others.min(self.rest.len())));
        let some = self.rest.drain(..most.min(self.rest.len())).collect();
        if self.rest.len() < self.rest.capacity() / 2 {
            self.rest.shrink_to_fit();
        }
        some
    }

    /// Whether all rules were taken out.
    pub(super) fn is_taken(&self) -> bool {
        self.rest.is_empty()
    }

    /// Whether the state has what is not here any more.
    fn is_complete(&self, state: &KernelState) -> bool {
        let is_held =
            || state.family(self.family).chains.get(&self.chain).is_some_and(|actual| actual.len() == self.count);
        self.rest.len() == self.count || is_held()
    }

    /// The chain's name and its rules; no rules if the state has all of them.
    pub(super) fn into_rules(self) -> (ChainName, Option<Vec<Rule>>) {
        (self.chain, (self.rest.len() == self.count).then(|| self.rest.into()))
    }
}

/// The chains of a group, made before its policies are in force. A large one takes long, so it is
/// not made again then.
#[derive(Debug)]
pub(super) struct PreparedGroup {
    pub(super) direction: Direction,
    pub(super) hash: Hash,
    /// The policies that it is made of: those of the group that are not over the bound.
    policies: Vec<Arc<Policy>>,
    /// By family.
    pub(super) leaves: [PreparedLeaf; 2],
}

impl PreparedGroup {
    /// Makes the chains of a group from those of its policies that are not over the bound.
    pub(super) fn new<'n>(
        (direction, hash, resolution): (Direction, Hash, &Resolution),
        policies: Vec<Arc<Policy>>,
        options: &RulesetOptions,
        names: &(impl Iterator<Item = (&'n str, &'n str)> + Clone),
    ) -> Self {
        let rules = policies.iter().flat_map(|policy| {
            let policy = &**policy;
            policy.rules(direction).iter().map(move |rule| (policy, rule))
        });
        let admission = Admission::new(rules, direction, resolution);
        let leaves = Family::ALL.map(|family| {
            PreparedLeaf::new(family, direction, Leaf::new(family, direction, options, &admission, names.clone()))
        });
        drop(admission);
        Self { direction, hash, policies, leaves }
    }

    /// Whether it is made of just these policies, as they are now.
    pub(super) fn is_of(&self, policies: &[Arc<Policy>]) -> bool {
        self.policies.len() == policies.len()
            && self.policies.iter().zip(policies).all(|(made_of, policy)| Arc::ptr_eq(made_of, policy))
    }

    /// Whether the state, and what is known of sets, have all that is not here any more.
    pub(super) fn is_complete(&self, state: &KernelState, is_known: impl Fn(&SetName) -> bool) -> bool {
        let mut sets = self.leaves.iter().flat_map(|leaf| &leaf.sets);
        self.leaves.iter().all(|leaf| leaf.is_complete(state))
            && sets.all(|(name, definition)| definition.is_some() || is_known(name))
    }
}

/// What changes of a namespace will make.
#[derive(Debug, Default)]
pub(super) struct PreparedChanges {
    /// The groups whose chains will be other ones.
    pub(super) groups: Vec<PreparedGroup>,
    /// The sets of their chains, each once, with the place of a chain that asks it.
    pub(super) sets: Vec<(usize, SetName)>,
    /// How many members their sets have, or more.
    pub(super) members: BTreeMap<SetName, u64>,
    /// The policies that will be over the bounds.
    pub(super) over: Vec<Arc<str>>,
}

impl PreparedChanges {
    /// These groups, whose sets have so many members, while these policies are over the bound.
    pub(super) fn new(groups: Vec<PreparedGroup>, members: BTreeMap<SetName, u64>, over: Vec<Arc<str>>) -> Self {
        let mut seen = BTreeSet::new();
        let leaves = groups.iter().flat_map(|group| &group.leaves).enumerate();
        let of_leaves = leaves.flat_map(|(place, leaf)| leaf.sets.keys().map(move |name| (place, name)));
        let once = of_leaves.filter(|(_, name)| seen.insert(*name));
        let sets = once.map(|(place, name)| (place, name.clone())).collect();
        Self { groups, sets, members, over }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::ruleset::names::hash::FieldHasher;
    use crate::sample;

    fn group() -> PreparedGroup {
        let ports: Vec<_> = (0..150).map(|port| json!({"port": 1 + 2 * port})).collect();
        let spec = json!({"podSelector": {}, "ingress": [{"from": [{"podSelector": {}}], "ports": ports}]});
        let (policy, _) = Policy::read(&sample::policy(&format!("shop/np {spec}")));
        let id = (Direction::Ingress, FieldHasher::of("group").finish(), &Resolution::new());
        PreparedGroup::new(id, vec![Arc::new(policy)], &RulesetOptions::default(), &[("shop", "np")].into_iter())
    }

    #[test]
    fn rules_that_were_loaded_are_in_the_state_alone() {
        let (mut group, whole) = (group(), group());
        let [leaf, _] = whole.leaves;
        let Some(rules) = leaf.into_rules().1 else { panic!("nothing was taken") };
        assert!(rules.len() > 10, "{} rules", rules.len());
        let mut state = KernelState::default();
        let chain = group.leaves[0].chain.clone();
        let is_known = |_: &SetName| true;
        assert!(group.is_complete(&state, is_known));
        let first = group.leaves[0].take(0, 3);
        assert_eq!(first, rules[..3]);
        state.v4.chains.insert(chain.clone(), first);
        assert!(!group.is_complete(&state, is_known), "the state has three rules of it");
        // Two more came by another group that has the same chain.
        let rest = group.leaves[0].take(5, 1_000);
        assert_eq!(rest, rules[5..]);
        assert!(group.leaves[0].is_taken() && !group.is_complete(&state, is_known));
        state.v4.chains.insert(chain, rules);
        assert!(group.is_complete(&state, is_known));
        for definition in group.leaves[0].sets.values_mut() {
            *definition = None;
        }
        assert!(!group.is_complete(&state, |_| false), "it is not known what its sets are");
        let [leaf, _] = group.leaves;
        assert!(leaf.into_rules().1.is_none());
    }
}
