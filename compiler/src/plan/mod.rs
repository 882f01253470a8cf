//! The plan: from what the kernel holds to what it should hold, as an ordered
//! list of writes.
//!
//! After every single write each packet gets, for each direction, the verdict
//! of the old state or that of the new one. How, `stages` has; that it is so,
//! is tested against a model of the kernel.

mod agreement;
mod ahead;
mod apply;
pub mod conntrack;
mod delta;
mod stages;
mod walk;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use crate::object::Family;
use crate::ruleset::node::{ChainName, Member, NodeRuleset, Rule, SetKind, SetName};
pub use crate::ruleset::state::{FamilyState, KernelState};
use crate::ruleset::text::{Restore, add_line, create_line, delete_line, destroy_line};

pub use apply::Unexpected;
pub use delta::{Delta, SetDelta};
use stages::Stages;

/// An ordered list of writes.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Plan {
    /// The steps, each to be finished before the next begins.
    pub steps: Vec<Step>,
}

/// One step of a plan.
#[derive(Debug, Clone, PartialEq, Eq)]
#[cfg_attr(not(feature = "internals"), non_exhaustive)]
pub enum Step {
    /// Writes to sets, in this order.
    Sets(Vec<SetWrite>),
    /// Rules of one family, all at once; one `iptables-restore --noflush`.
    Chains(Family, ChainWrites),
    /// Wait until no packet that entered the rules before the last write is still among them.
    Grace,
}

/// One write to a set; displays as a line of `ipset restore`.
#[derive(Debug, Clone, PartialEq, Eq)]
#[cfg_attr(not(feature = "internals"), non_exhaustive)]
pub enum SetWrite {
    /// Create an empty set.
    Create(SetName, Family, SetKind),
    /// Add a member.
    Add(SetName, Member),
    /// Remove a member.
    Delete(SetName, Member),
    /// Destroy a set that no rule names any more.
    Destroy(SetName),
}

impl SetWrite {
    /// The set that is written to.
    #[must_use]
    pub fn set(&self) -> &SetName {
        match self {
            Self::Create(name, ..) | Self::Add(name, _) | Self::Delete(name, _) | Self::Destroy(name) => name,
        }
    }
}

impl fmt::Display for SetWrite {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Create(name, family, kind) => f.write_str(&create_line(name, *family, *kind)),
            Self::Add(name, member) => f.write_str(&add_line(name, member)),
            Self::Delete(name, member) => f.write_str(&delete_line(name, member)),
            Self::Destroy(name) => f.write_str(&destroy_line(name)),
        }
    }
}

/// A commit of rules in one family's filter table.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ChainWrites {
    /// Chains to create or to rewrite, with all their rules.
    pub replace: BTreeMap<ChainName, Vec<Rule>>,
    /// Rules to add at the end of chains that are there.
    pub append: BTreeMap<ChainName, Vec<Rule>>,
    /// Chains to empty and delete; nothing that stays names them.
    pub delete: BTreeSet<ChainName>,
}

impl ChainWrites {
    /// The input of `iptables-restore --noflush`, of `ip6tables-restore` for IPv6.
    #[must_use]
    pub fn restore_text(&self, family: Family) -> String {
        let mut restore = Restore::of(family, self.replace.keys().chain(&self.delete));
        for (chain, rules) in self.replace.iter().chain(&self.append) {
            restore.rules(chain, rules);
        }
        self.delete.iter().for_each(|chain| restore.delete(chain));
        restore.finish()
    }
}

impl Plan {
    /// The writes that take a kernel from what it holds to a ruleset.
    #[must_use]
    pub fn new(actual: &KernelState, ruleset: &NodeRuleset) -> Self {
        Self::between(actual, &KernelState::from(ruleset))
    }

    /// The writes that take a kernel from one state to another.
    #[must_use]
    pub fn between(actual: &KernelState, desired: &KernelState) -> Self {
        let delta = |family| Delta::between(actual.family(family), desired.family(family));
        Self::of_deltas(actual, &delta(Family::V4), &delta(Family::V6))
    }

    /// The writes that change a kernel by these deltas of IPv4 and IPv6.
    #[must_use]
    pub fn of_deltas(actual: &KernelState, v4: &Delta, v6: &Delta) -> Self {
        let (v4, v6) = (Stages::new(Family::V4, &actual.v4, v4), Stages::new(Family::V6, &actual.v6, v6));
        let mut plan = Self::default();
        plan.sets([v4.fill, v6.fill, v4.join, v6.join, v4.flip, v6.flip, v4.leave, v6.leave]);
        plan.chains([(Family::V4, v4.switch), (Family::V6, v6.switch)]);
        plan.grace();
        plan.sets([v4.settle, v6.settle]);
        plan.chains([(Family::V4, v4.rename), (Family::V6, v6.rename)]);
        plan.grace();
        plan.sets([v4.clear, v6.clear]);
        if plan.steps.last() == Some(&Step::Grace) {
            plan.steps.pop();
        }
        plan
    }

    fn sets<const N: usize>(&mut self, writes: [Vec<SetWrite>; N]) {
        let writes: Vec<SetWrite> = writes.into_iter().flatten().collect();
        if !writes.is_empty() {
            self.steps.push(Step::Sets(writes));
        }
    }

    fn chains(&mut self, writes: [(Family, ChainWrites); 2]) {
        let some = writes.into_iter().filter(|(_, writes)| *writes != ChainWrites::default());
        self.steps.extend(some.map(|(family, writes)| Step::Chains(family, writes)));
    }

    fn grace(&mut self) {
        if !matches!(self.steps.last(), None | Some(Step::Grace)) {
            self.steps.push(Step::Grace);
        }
    }

    /// How many of the steps it takes until every packet gets the new verdict.
    /// Those behind them take away what no packet asks any more.
    ///
    /// What comes before the first grace period leads packets to the new rules
    /// and admits new peers. Old peers lose what they had by the last writes,
    /// unless shadows did that already.
    #[must_use]
    pub fn enforced_by(&self) -> usize {
        let is_peer_gone = |write: &SetWrite| matches!(write, SetWrite::Delete(set, _) if !set.leads_to_groups());
        match self.steps.last() {
            Some(Step::Sets(writes)) if writes.iter().any(is_peer_gone) => self.steps.len(),
            _ => self.steps.iter().position(|step| *step == Step::Grace).unwrap_or(self.steps.len()),
        }
    }

    /// Whether there is nothing to write.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.steps.is_empty()
    }
}
