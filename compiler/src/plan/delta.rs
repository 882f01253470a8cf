//! What differs between two states of one family.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use super::FamilyState;
use crate::object::Family;
use crate::ruleset::node::{ChainName, Member, Rule, SetKind, SetName};

/// What differs between two states of one family.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Delta {
    /// The sets that differ.
    pub sets: BTreeMap<SetName, SetDelta>,
    /// The chains that differ, with their new rules; `None` for one that goes.
    pub chains: BTreeMap<ChainName, Option<Vec<Rule>>>,
}

/// What differs of a set.
#[derive(Debug, Clone, PartialEq, Eq)]
#[cfg_attr(not(feature = "internals"), non_exhaustive)]
pub enum SetDelta {
    /// It is new.
    Created(SetKind, BTreeSet<Member>),
    /// Its members differ: these come and those go, and not both are empty.
    Changed {
        /// New members.
        added: BTreeSet<Member>,
        /// Members that go.
        removed: BTreeSet<Member>,
    },
    /// It is there as another type, which only another program can have made.
    Remade(SetKind, BTreeSet<Member>),
    /// It goes.
    Gone,
}

impl SetDelta {
    /// The members of a set change from these to those.
    pub(crate) fn changed(old: &BTreeSet<Member>, new: &BTreeSet<Member>) -> Self {
        Self::Changed { added: new.difference(old).cloned().collect(), removed: old.difference(new).cloned().collect() }
    }
}

impl Delta {
    /// What leads from one state to another.
    #[must_use]
    pub fn between(old: &FamilyState, new: &FamilyState) -> Self {
        let mut delta = Self::default();
        for (name, (kind, members)) in &new.sets {
            let change = match old.sets.get(name) {
                None => SetDelta::Created(*kind, members.clone()),
                Some((present, _)) if present != kind => SetDelta::Remade(*kind, members.clone()),
                Some((_, present)) if present != members => SetDelta::changed(present, members),
                Some(_) => continue,
            };
            delta.sets.insert(name.clone(), change);
        }
        for name in old.sets.keys().filter(|name| !new.sets.contains_key(*name)) {
            delta.sets.insert(name.clone(), SetDelta::Gone);
        }
        delta.chains = Self::chains_between(old, new);
        delta
    }

    /// The chains that differ, with their new rules; `None` for one that goes.
    #[must_use]
    pub fn chains_between(old: &FamilyState, new: &FamilyState) -> BTreeMap<ChainName, Option<Vec<Rule>>> {
        let differ = new.chains.iter().filter(|(name, rules)| old.chains.get(*name) != Some(rules));
        let mut chains: BTreeMap<_, _> = differ.map(|(name, rules)| (name.clone(), Some(rules.clone()))).collect();
        let gone = old.chains.keys().filter(|name| !new.chains.contains_key(*name));
        chains.extend(gone.map(|name| (name.clone(), None)));
        chains
    }

    /// How much differs: rules, members and types of sets that only one of the two states has.
    /// `old` is the state that the delta leads from.
    #[must_use]
    pub fn size(&self, old: &FamilyState) -> usize {
        let only_in = |some: &[Rule], others: &[Rule]| some.iter().filter(|rule| !others.contains(rule)).count();
        let chains = self.chains.iter().map(|(name, rules)| {
            let (was, is) = (old.chains.get(name).map_or(&[][..], Vec::as_slice), rules.as_deref().unwrap_or_default());
            only_in(was, is) + only_in(is, was)
        });
        let sets = self.sets.iter().map(|(name, change)| {
            let was = old.sets.get(name).map(|(_, members)| members);
            match change {
                SetDelta::Created(_, members) => 1 + members.len(),
                SetDelta::Changed { added, removed } => added.len() + removed.len(),
                SetDelta::Remade(_, members) => 1 + was.map_or(0, |was| was.symmetric_difference(members).count()),
                SetDelta::Gone => 1 + was.map_or(0, BTreeSet::len),
            }
        });
        chains.sum::<usize>() + sets.sum::<usize>()
    }

    /// Whether nothing differs.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.sets.is_empty() && self.chains.is_empty()
    }

    /// Turns the old state into the new one.
    pub fn apply(self, actual: &mut FamilyState) {
        // What is new goes in together: trees that are built at once are full.
        let (mut sets, mut chains) = (Vec::new(), Vec::new());
        for (name, change) in self.sets {
            match change {
                SetDelta::Created(kind, members) | SetDelta::Remade(kind, members) => {
                    sets.push((name, (kind, members)));
                }
                SetDelta::Gone => {
                    actual.sets.remove(&name);
                }
                SetDelta::Changed { added, removed } => {
                    if let Some((_, members)) = actual.sets.get_mut(&name) {
                        for member in &removed {
                            members.remove(member);
                        }
                        // One by one: `append` would walk all that stay.
                        members.extend(added);
                    }
                }
            }
        }
        for (name, rules) in self.chains {
            match rules {
                Some(rules) => chains.push((name, rules)),
                None => drop(actual.chains.remove(&name)),
            }
        }
        put(&mut actual.sets, sets);
        put(&mut actual.chains, chains);
    }
}

fn put<K: Ord, V>(map: &mut BTreeMap<K, V>, new: Vec<(K, V)>) {
    if map.is_empty() {
        *map = new.into_iter().collect();
    } else {
        map.extend(new);
    }
}

/// A state, as it is or as a delta will make it.
#[derive(Debug, Clone, Copy)]
pub(super) struct StateView<'a> {
    pub(super) family: Family,
    pub(super) actual: &'a FamilyState,
    pub(super) delta: Option<&'a Delta>,
}

impl<'a> StateView<'a> {
    /// The rules of a chain.
    pub(super) fn chain(&self, name: &ChainName) -> Option<&'a [Rule]> {
        match self.delta.and_then(|delta| delta.chains.get(name)) {
            Some(changed) => changed.as_deref(),
            None => self.actual.chains.get(name).map(Vec::as_slice),
        }
    }

    /// Whether a set holds an address itself.
    pub(super) fn holds(&self, set: &SetName, address: IpAddr) -> bool {
        let member = Member::Address(address);
        let actual = || self.actual.has_address(set, address);
        match self.delta.and_then(|delta| delta.sets.get(set)) {
            None => actual(),
            Some(SetDelta::Created(_, members) | SetDelta::Remade(_, members)) => members.contains(&member),
            Some(SetDelta::Changed { added, removed }) => {
                added.contains(&member) || (actual() && !removed.contains(&member))
            }
            Some(SetDelta::Gone) => false,
        }
    }

    /// The addresses in a set.
    pub(super) fn addresses(&self, set: &SetName) -> Vec<IpAddr> {
        let address = |member: &Member| match member {
            Member::Address(address) => Some(*address),
            Member::Prefix(_) | Member::AddressPort(..) | Member::PrefixInterface(..) => None,
        };
        let actual = self.actual.sets.get(set).into_iter().flat_map(|(_, members)| members);
        match self.delta.and_then(|delta| delta.sets.get(set)) {
            None => actual.filter_map(address).collect(),
            Some(SetDelta::Created(_, members) | SetDelta::Remade(_, members)) => {
                members.iter().filter_map(address).collect()
            }
            Some(SetDelta::Changed { added, removed }) => {
                actual.filter(|member| !removed.contains(member)).chain(added).filter_map(address).collect()
            }
            Some(SetDelta::Gone) => Vec::new(),
        }
    }
}
