//! Which addresses a state treats as a wanted one does, although the two differ elsewhere.
//!
//! While a change of others cannot be written, what is in the kernel is known and is not what is
//! wanted. A pod whose own part of it is there as wanted need not wait for the rest.

use std::collections::BTreeSet;
use std::net::IpAddr;

use super::delta::{Delta, SetDelta, StateView};
use super::walk::{Tree, sets_of};
use super::{FamilyState, KernelState};
use crate::object::Family;
use crate::policy::Direction;
use crate::ruleset::node::{Member, Rule, SetName};

impl KernelState {
    /// Those of these addresses that this state treats as the wanted one does: the same rules judge
    /// their packets, with the same answers of sets, and each is a peer of others as it is to be. One that a
    /// rule names as a peer which is not there yet does not count, because sets go ahead of rules.
    ///
    /// Where more than the rules of groups differs, no address counts.
    #[must_use]
    pub fn agrees_on(&self, wanted: &Self, addresses: &BTreeSet<IpAddr>) -> BTreeSet<IpAddr> {
        let mut agreed = BTreeSet::new();
        for family in Family::ALL {
            let of_family = addresses.iter().copied().filter(|address| Family::of(address) == family);
            let held = self.family(family);
            let delta = Delta::between(held, wanted.family(family));
            let is_of_groups =
                delta.chains.keys().all(|chain| chain.direction_of_group().is_some() || chain.is_dispatch());
            // What a foreign rule does to whom is unknown.
            let is_known = || !held.chains.values().flatten().any(Rule::is_foreign);
            if delta.is_empty() {
                agreed.extend(of_family);
            } else if is_of_groups && is_known() {
                let was = StateView { family, held, delta: None };
                // What dispatch sets say of an address is where its way leads, whatever else they have.
                let others = || delta.sets.iter().filter(|(name, _)| !name.is_dispatch());
                let trees = Direction::ALL.map(|direction| {
                    [Tree::new(was, direction), Tree::new(StateView { delta: Some(&delta), ..was }, direction)]
                });
                let named = named_by_new_rules(&delta, wanted.family(family), addresses);
                agreed.extend(of_family.filter(|address| {
                    !named.contains(address)
                        && !others().any(|(name, change)| concerns(name, change, was, *address))
                        && trees.iter().all(|[was, is]| judge_alike(was, is, &delta, *address))
                }));
            }
        }
        agreed
    }
}

/// Whether the same rules, with the same sets, judge an address in a direction, before and after.
fn judge_alike(was: &Tree<'_>, is: &Tree<'_>, delta: &Delta, address: IpAddr) -> bool {
    match (was.is_isolated(address), is.is_isolated(address)) {
        (false, false) => true,
        (true, true) => {
            let (before, after) = (was.traverse(address).rules, is.traverse(address).rules);
            // A tree that leads nowhere is that of a kernel which another program changed.
            before == after && after.is_some_and(|rules| sets_of(&rules).all(|set| !delta.sets.contains_key(set)))
        }
        _ => false,
    }
}

/// Those of these addresses that rules which are not there yet name as peers.
fn named_by_new_rules(delta: &Delta, wanted: &FamilyState, addresses: &BTreeSet<IpAddr>) -> BTreeSet<IpAddr> {
    let asked = delta.chains.values().flatten().flatten().flat_map(Rule::sets);
    let asked: BTreeSet<&SetName> = asked.filter(|name| !name.is_dispatch() && !name.is_isolated_set()).collect();
    let members = asked.into_iter().filter_map(|name| wanted.sets.get(name)).flat_map(|(_, members)| members);
    let named = members.filter_map(|member| match member {
        Member::Address(address) | Member::AddressPort(address, ..) => Some(*address),
        Member::PrefixInterface(_) | Member::Prefix(_) => None,
    });
    named.filter(|address| addresses.contains(address)).collect()
}

/// Whether what differs of a set is about an address.
fn concerns(name: &SetName, change: &SetDelta, was: StateView<'_>, address: IpAddr) -> bool {
    let is_about = |member: &Member| match member {
        Member::Address(other) | Member::AddressPort(other, ..) => *other == address,
        Member::PrefixInterface(held) => held.0.contains(address),
        // That of an `ipBlock`, whatever has an address in it.
        Member::Prefix(_) => false,
    };
    let had = || was.held.sets.get(name).is_some_and(|(_, members)| members.iter().any(is_about));
    match change {
        SetDelta::Created(_, members) => members.iter().any(is_about),
        SetDelta::Changed { added, removed } => added.iter().chain(removed).any(is_about),
        SetDelta::Remade(_, members) => had() || members.iter().any(is_about),
        SetDelta::Gone => had(),
    }
}
