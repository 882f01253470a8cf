//! Which addresses a state treats as a desired one does, although the two differ elsewhere.
//!
//! While npc cannot write a change of other pods' rules, it knows what the kernel has, and that differs
//! from what is desired. Meanwhile a pod may start if the kernel has that pod's own rules and set entries as desired.

use std::collections::BTreeSet;
use std::net::IpAddr;

use super::delta::{Delta, SetDelta, StateView};
use super::walk::{Tree, sets_of};
use super::{FamilyState, KernelState};
use crate::object::Family;
use crate::policy::Direction;
use crate::ruleset::node::{Member, Rule, SetName};

impl KernelState {
    /// Those of these addresses that this state treats as the desired one does. The same rules judge their packets,
    /// with the same answers of sets, and each is a peer of others as it should be. An address does not count if a
    /// chain that differs names it as a peer.
    ///
    /// Where more than the rules of groups differs, no address counts.
    #[must_use]
    pub fn agrees_on(&self, desired: &Self, addresses: &BTreeSet<IpAddr>) -> BTreeSet<IpAddr> {
        let mut agreed = BTreeSet::new();
        for family in Family::ALL {
            let of_family: BTreeSet<IpAddr> =
                addresses.iter().copied().filter(|address| Family::of(address) == family).collect();
            if of_family.is_empty() {
                continue;
            }
            let (actual, desired) = (self.family(family), desired.family(family));
            let delta = Delta::between(actual, desired);
            let is_of_groups =
                delta.chains.keys().all(|chain| chain.direction_of_group().is_some() || chain.is_dispatch());
            // It is unknown which packets a foreign rule concerns.
            let is_known = || !actual.chains.values().flatten().any(Rule::is_foreign);
            if delta.is_empty() {
                agreed.extend(of_family);
            } else if is_of_groups && is_known() {
                let was = StateView { family, actual, delta: None };
                let trees = Direction::ALL.map(|direction| {
                    [Tree::new(was, direction), Tree::new(StateView { delta: Some(&delta), ..was }, direction)]
                });
                let concerned = concerned(&delta, actual, desired, &of_family);
                agreed.extend(
                    of_family
                        .difference(&concerned)
                        .copied()
                        .filter(|address| trees.iter().all(|[was, is]| judge_alike(was, is, &delta, *address))),
                );
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
            before == after && after.is_some_and(|rules| sets_of(&rules).all(|set| answers_alike(delta, set)))
        }
        _ => false,
    }
}

/// Whether a set that the rules of an address's group ask answers them alike, before and after. They ask isolated
/// sets about that address alone, and each direction says whether that is isolated before and after.
fn answers_alike(delta: &Delta, set: &SetName) -> bool {
    match delta.sets.get(set) {
        None => true,
        Some(SetDelta::Changed { .. }) => set.is_isolated_set(),
        Some(SetDelta::Created(..) | SetDelta::Remade(..) | SetDelta::Gone) => false,
    }
}

/// Those of these addresses that are members of a set that differs, before or after, or of one that a chain asks
/// which differs: sets go ahead of rules, so such a peer may be in its set and be denied all the same.
///
/// Dispatch sets decide where the path of an address leads, which is judged separately.
fn concerned(
    delta: &Delta,
    actual: &FamilyState,
    desired: &FamilyState,
    addresses: &BTreeSet<IpAddr>,
) -> BTreeSet<IpAddr> {
    let mut concerned = BTreeSet::new();
    // If the kernel refused the rules of a plan, the plan leaves sets that no rule asks.
    let has_gone = delta.sets.values().any(|change| *change == SetDelta::Gone);
    let actual_rules = actual.chains.values().flatten().filter(|_| has_gone);
    let asked_before: BTreeSet<&SetName> = actual_rules.flat_map(Rule::sets).collect();
    for (name, change) in delta.sets.iter().filter(|(name, _)| !name.leads_to_groups()) {
        let had = actual.sets.get(name).filter(|_| match change {
            SetDelta::Remade(..) => true,
            SetDelta::Gone => asked_before.contains(name),
            SetDelta::Created(..) | SetDelta::Changed { .. } => false,
        });
        add(&mut concerned, addresses, had.into_iter().flat_map(|(_, members)| members));
        match change {
            SetDelta::Created(_, members) | SetDelta::Remade(_, members) => add(&mut concerned, addresses, members),
            SetDelta::Changed { added, removed } => add(&mut concerned, addresses, added.iter().chain(removed)),
            SetDelta::Gone => {}
        }
    }
    let asked = delta.chains.values().flatten().flatten().flat_map(Rule::sets);
    let asked: BTreeSet<&SetName> = asked.filter(|name| !name.leads_to_groups() && !name.is_isolated_set()).collect();
    let members = asked.into_iter().filter_map(|name| desired.sets.get(name)).flat_map(|(_, members)| members);
    add(&mut concerned, addresses, members);
    concerned
}

/// Adds those of the addresses that members are about.
fn add<'a>(
    concerned: &mut BTreeSet<IpAddr>,
    addresses: &BTreeSet<IpAddr>,
    members: impl IntoIterator<Item = &'a Member>,
) {
    for member in members {
        match member {
            Member::Address(address) | Member::AddressPort(address, ..) => {
                concerned.extend(addresses.get(address));
            }
            Member::PrefixInterface(actual) => {
                concerned.extend(addresses.iter().filter(|address| actual.0.contains(**address)));
            }
            // A prefix of an `ipBlock` is not about one address.
            Member::Prefix(_) => {}
        }
    }
}
