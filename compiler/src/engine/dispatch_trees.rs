//! The trees that lead addresses to their groups.

use std::collections::{BTreeMap, BTreeSet};

use crate::object::Family;
use crate::plan::{Delta, KernelState, SetDelta};
use crate::policy::Direction;
use crate::ruleset::dispatch::TreeNode;
use crate::ruleset::layout::{lead, set_at};
use crate::ruleset::names::hash::Hash;
use crate::ruleset::names::seed::Seed;
use crate::ruleset::node::{ChainName, Member, SetKind, SetName};

/// The chain of a group, or of several that decide together, and the addresses
/// that are led there, by family.
#[derive(Debug)]
pub(super) struct Leaves {
    pub(super) chains: [ChainName; 2],
    pub(super) members: [BTreeSet<Member>; 2],
}

/// The trees of both directions, and their chains, at the last commit.
#[derive(Debug)]
struct CommittedTrees {
    trees: [Option<TreeNode>; 2],
    chains: [[BTreeSet<ChainName>; 2]; 2],
}

/// The trees of both directions.
#[derive(Debug, Default)]
pub(super) struct DispatchTrees {
    trees: [Option<TreeNode>; 2],
    /// By what groups stand in the trees.
    seed: Option<Seed>,
    /// The trees as of the last commit, while others are made.
    before: Option<CommittedTrees>,
    /// The chains of the trees, by direction and family.
    chains: [[BTreeSet<ChainName>; 2]; 2],
}

impl DispatchTrees {
    /// Whether there is no tree yet, not even an empty one.
    pub(super) fn is_new(&self) -> bool {
        self.chains[0][0].is_empty()
    }

    /// Places groups by this seed from now on; only before there is a tree.
    pub(super) fn set_seed(&mut self, seed: Option<Seed>) {
        self.seed = seed;
    }

    /// Makes the tree of a direction anew over these groups: its chains, and
    /// the sets that are new in it.
    pub(super) fn rebuild(
        &mut self,
        direction: Direction,
        groups: &BTreeMap<Hash, Leaves>,
        state: &KernelState,
        deltas: &mut [Delta; 2],
    ) {
        let new = || CommittedTrees { trees: self.trees.clone(), chains: self.chains.clone() };
        let before = self.before.get_or_insert_with(new);
        let tree = TreeNode::new(groups.keys().copied(), self.seed);
        let was = before.trees[direction as usize].as_ref().map(TreeNode::sets).unwrap_or_default();
        // What another tree since the last commit was to write or remove is not to be. At first there is none.
        let other =
            self.trees[direction as usize].as_ref().filter(|of| before.trees[direction as usize].as_ref() != Some(*of));
        let undone = other.map(TreeNode::sets).unwrap_or_default();
        let is = tree.as_ref().map(TreeNode::sets).unwrap_or_default();
        for family in Family::ALL {
            let delta = &mut deltas[family as usize];
            for at in undone.keys().chain(was.keys()) {
                delta.sets.remove(&set_at(family, direction, at));
            }
            let old = before.chains[direction as usize][family as usize].clone();
            let current = std::mem::take(&mut self.chains[direction as usize][family as usize]);
            for chain in current.union(&old) {
                delta.chains.remove(chain);
            }
            let leaves = groups.iter().map(|(hash, group)| (*hash, group.chains[family as usize].clone()));
            let rules = lead(family, direction, tree.as_ref(), &leaves.collect());
            for chain in old.iter().filter(|chain| !rules.contains_key(*chain)) {
                delta.chains.insert(chain.clone(), None);
            }
            let actual = &state.family(family).chains;
            self.chains[direction as usize][family as usize] = rules.keys().cloned().collect();
            for (chain, rules) in rules {
                if actual.get(&chain) != Some(&rules) {
                    delta.chains.insert(chain, Some(rules));
                }
            }

            let members = |of: &mut dyn Iterator<Item = &Hash>| -> BTreeSet<Member> {
                let groups = of.filter_map(|hash| groups.get(hash));
                groups.flat_map(|group| &group.members[family as usize]).cloned().collect()
            };
            if old.is_empty() {
                let all = members(&mut groups.keys());
                let isolated = SetName::isolated(family, direction);
                delta.sets.insert(isolated, SetDelta::Created(SetKind::HashIp, all));
            }
            for at in was.keys().filter(|at| !is.contains_key(*at)) {
                delta.sets.insert(set_at(family, direction, at), SetDelta::Gone);
            }
            for (at, of) in is.iter().filter(|(at, _)| !was.contains_key(*at)) {
                let created = SetDelta::Created(SetKind::HashIp, members(&mut of.iter()));
                delta.sets.insert(set_at(family, direction, at), created);
            }
        }
        self.trees[direction as usize] = tree;
    }

    /// Leads an address that was in one group to another, in the sets that
    /// were there and stay.
    pub(super) fn lead(
        &self,
        direction: Direction,
        member: &Member,
        family: Family,
        was: Option<Hash>,
        is: Option<Hash>,
        delta: &mut Delta,
    ) {
        let before = match &self.before {
            None if was == is => return,
            None => &self.trees,
            Some(before) => &before.trees,
        };
        let sets = |tree: &Option<TreeNode>, group: Option<Hash>| -> BTreeSet<SetName> {
            let (Some(tree), Some(group)) = (tree, group) else { return BTreeSet::new() };
            let asked = tree.sets_of(&group).into_iter().map(|at| set_at(family, direction, &at));
            asked.chain([SetName::isolated(family, direction)]).collect()
        };
        let was = sets(&before[direction as usize], was);
        let is = sets(&self.trees[direction as usize], is);
        for (name, comes) in is.difference(&was).map(|n| (n, true)).chain(was.difference(&is).map(|n| (n, false))) {
            let change = delta
                .sets
                .entry(name.clone())
                .or_insert_with(|| SetDelta::Changed { added: BTreeSet::new(), removed: BTreeSet::new() });
            // What was created has its members, and what is gone needs none.
            if let SetDelta::Changed { added, removed } = change {
                if comes {
                    added.insert(member.clone())
                } else {
                    removed.insert(member.clone())
                };
            }
        }
    }

    /// The commit is made.
    pub(super) fn committed(&mut self) {
        self.before = None;
    }
}
