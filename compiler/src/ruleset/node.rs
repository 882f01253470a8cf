//! The ruleset that one node's kernel should hold: sets and chains as plain data with
//! deterministic names.

use std::collections::BTreeMap;

use crate::object::Family;
pub use crate::ruleset::names::{
    CHAIN_PREFIX, ChainName, ChainRole, FORWARD_CHAIN, SET_PREFIX_V4, SET_PREFIX_V6, SetName, SetRole,
};
pub use crate::ruleset::rule::{Foreign, Match, Rule, SetField, Target};
pub use crate::ruleset::set::{InterfaceName, Member, Set, SetKind};

/// Everything of ours in one node's kernel.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NodeRuleset {
    /// IPv4: `iptables`, sets of `family inet`.
    pub v4: FamilyRuleset,
    /// IPv6: `ip6tables`, sets of `family inet6`.
    pub v6: FamilyRuleset,
}

impl NodeRuleset {
    /// The part of one family.
    #[must_use]
    pub fn family(&self, family: Family) -> &FamilyRuleset {
        match family {
            Family::V4 => &self.v4,
            Family::V6 => &self.v6,
        }
    }
}

/// One family's sets and chains.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FamilyRuleset {
    /// The family.
    pub family: Family,
    /// The sets by name.
    pub sets: BTreeMap<SetName, Set>,
    /// The chains of the filter table by name. [`FORWARD_CHAIN`] is always
    /// among them; the jump to it is not part of a ruleset.
    pub chains: BTreeMap<ChainName, Vec<Rule>>,
}
