//! What the steps of a plan do to a ruleset.
//!
//! The writer keeps its account of the kernel by this, and the models of kernels in the
//! tests do what it says. So there is one answer to what a write means.

use std::collections::BTreeSet;

use super::{ChainWrites, SetWrite, Step};
use crate::ruleset::node::{ChainName, SetName};
use crate::ruleset::state::{FamilyState, KernelState};

/// The ruleset was not as a write expects it. The write was applied as far as possible, as a kernel does with a
/// redundant write.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[cfg_attr(not(feature = "internals"), non_exhaustive)]
pub enum Unexpected {
    /// A set that was to be created.
    #[error("set {0} is there already")]
    SetThere(SetName),
    /// A set that was written to or destroyed.
    #[error("set {0} is not there")]
    NoSet(SetName),
    /// A member that was to be added.
    #[error("{0} adds nothing")]
    MemberThere(SetWrite),
    /// A member that was to be removed.
    #[error("{0} removes nothing")]
    NoMember(SetWrite),
    /// A chain that was to be deleted, or to get more rules.
    #[error("chain {0} is not there")]
    NoChain(ChainName),
}

impl Step {
    /// Does to a ruleset what the step does to a kernel.
    ///
    /// # Errors
    /// The first write that did not find the ruleset as it takes it to be. All were done.
    pub fn apply(&self, state: &mut KernelState) -> Result<(), Unexpected> {
        let mut done = Ok(());
        match self {
            Self::Sets(writes) => {
                for write in writes {
                    done = done.and(write.apply(state.family_mut(write.set().family())));
                }
            }
            Self::Chains(family, writes) => done = writes.apply(state.family_mut(*family)),
            Self::Grace => {}
        }
        done
    }
}

impl SetWrite {
    /// Does to the ruleset of the set's family what the write does to a kernel.
    ///
    /// # Errors
    /// If the ruleset was not as the write takes it to be.
    pub fn apply(&self, actual: &mut FamilyState) -> Result<(), Unexpected> {
        match self {
            Self::Create(name, _, kind) => {
                if actual.sets.contains_key(name) {
                    return Err(Unexpected::SetThere(name.clone()));
                }
                actual.sets.insert(name.clone(), (*kind, BTreeSet::new()));
            }
            Self::Add(name, member) => {
                let (_, members) = actual.sets.get_mut(name).ok_or_else(|| Unexpected::NoSet(name.clone()))?;
                if !members.insert(member.clone()) {
                    return Err(Unexpected::MemberThere(self.clone()));
                }
            }
            Self::Delete(name, member) => {
                let (_, members) = actual.sets.get_mut(name).ok_or_else(|| Unexpected::NoSet(name.clone()))?;
                if !members.remove(member) {
                    return Err(Unexpected::NoMember(self.clone()));
                }
            }
            Self::Destroy(name) => {
                actual.sets.remove(name).ok_or_else(|| Unexpected::NoSet(name.clone()))?;
            }
        }
        Ok(())
    }
}

impl ChainWrites {
    /// Does to the ruleset of a family what the commit does to a kernel.
    ///
    /// # Errors
    /// If a chain that is deleted, or gets more rules, was not there.
    pub fn apply(&self, actual: &mut FamilyState) -> Result<(), Unexpected> {
        actual.chains.extend(self.replace.iter().map(|(chain, rules)| (chain.clone(), rules.clone())));
        let mut absent = Vec::new();
        for (chain, rules) in &self.append {
            match actual.chains.get_mut(chain) {
                Some(there) => there.extend_from_slice(rules),
                None => absent.push(chain),
            }
        }
        // All are deleted, also those after the first absent chain.
        absent.extend(self.delete.iter().filter(|chain| actual.chains.remove(*chain).is_none()));
        absent.into_iter().cloned().reduce(|first, _| first).map_or(Ok(()), |chain| Err(Unexpected::NoChain(chain)))
    }
}
