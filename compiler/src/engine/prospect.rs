//! What changes of a namespace will make, before its groups change: chains, and the sets that they ask.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::cluster::group::Resolution;
use crate::cluster::merge::Admission;
use crate::object::Family;
use crate::policy::{Direction, Policy};
use crate::ruleset::group_chain::Leaf;
use crate::ruleset::layout::{Options, chain_of_leaf};
use crate::ruleset::name::Hash;
use crate::ruleset::node::{ChainName, Rule, SetName};
use crate::ruleset::set_definition::Definition;

/// A group's chain in one family, and the sets that it asks.
#[derive(Debug)]
pub(super) struct PreparedLeaf {
    pub(super) family: Family,
    pub(super) chain: ChainName,
    pub(super) rules: Vec<Rule>,
    pub(super) sets: BTreeMap<SetName, Definition>,
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
            let chain = chain_of_leaf(family, direction, &leaf);
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
pub(super) struct Prospect {
    /// The groups whose chains will be other ones.
    pub(super) groups: Vec<PreparedGroup>,
    /// How many members their sets have, or more.
    pub(super) members: BTreeMap<SetName, u64>,
    /// The policies that will be over the bound on set members.
    pub(super) over: Vec<Arc<str>>,
}
