//! The ruleset of a kernel: what it holds of ours, or should hold.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use crate::object::Family;
use crate::ruleset::names::seed::Seed;
use crate::ruleset::node::{ChainName, FamilyRuleset, Member, NodeRuleset, Rule, SetKind, SetName};

/// What one family of a kernel holds of ours.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct FamilyState {
    /// The sets: type and members.
    pub sets: BTreeMap<SetName, (SetKind, BTreeSet<Member>)>,
    /// The chains and their rules.
    pub chains: BTreeMap<ChainName, Vec<Rule>>,
}

/// What a kernel holds of ours, in both families.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct KernelState {
    /// IPv4.
    pub v4: FamilyState,
    /// IPv6.
    pub v6: FamilyState,
}

impl FamilyState {
    /// Whether an address is itself a member of a set. One that lies in a prefix of the set is none
    /// ([`Member::holds`]).
    #[must_use]
    pub fn has_address(&self, set: &SetName, address: IpAddr) -> bool {
        self.sets.get(set).is_some_and(|(_, members)| members.contains(&Member::Address(address)))
    }
}

impl KernelState {
    /// The node's secret that it keeps; the first by its text, if there are several.
    #[must_use]
    pub fn seed(&self) -> Option<Seed> {
        self.v4.sets.keys().find_map(SetName::seed_kept)
    }

    /// The part of one family, to be changed.
    pub fn family_mut(&mut self, family: Family) -> &mut FamilyState {
        match family {
            Family::V4 => &mut self.v4,
            Family::V6 => &mut self.v6,
        }
    }

    /// The part of one family.
    #[must_use]
    pub fn family(&self, family: Family) -> &FamilyState {
        match family {
            Family::V4 => &self.v4,
            Family::V6 => &self.v6,
        }
    }
}

impl From<&NodeRuleset> for KernelState {
    fn from(ruleset: &NodeRuleset) -> Self {
        Self { v4: FamilyState::from(&ruleset.v4), v6: FamilyState::from(&ruleset.v6) }
    }
}

impl From<&FamilyRuleset> for FamilyState {
    fn from(ruleset: &FamilyRuleset) -> Self {
        Self {
            sets: ruleset.sets.iter().map(|(name, set)| (name.clone(), (set.kind, set.members.clone()))).collect(),
            chains: ruleset.chains.clone(),
        }
    }
}
