//! What of a state can be in force before its rules can be written.
//!
//! Another program may keep the lock that writing rules takes. Sets take none, so as
//! much of the next state as the old rules can express goes into sets meanwhile. An
//! endpoint joins a group whose chain and peers are there as they are to be. One that
//! nothing isolates any more leaves. A peer set changes if the rules of all groups that
//! ask it stay. Every other endpoint and set stays as it is.
//!
//! That is a state of its own, in which every packet gets, for each direction,
//! the old verdict or the new one; the plan to it writes sets alone.
//!
//! It serves also while the kernel refuses rules or sets of some pods: what is refused stays as it is,
//! and the sets of others go ahead.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use super::delta::{Delta, SetDelta, StateView};
use super::walk::{Tree, sets_of};
use super::{FamilyState, KernelState};
use crate::object::Family;
use crate::policy::Direction;
use crate::ruleset::node::{ChainName, Member, Rule, SetName};

impl KernelState {
    /// The state nearest to a desired one that has the rules of this one.
    #[must_use]
    pub fn ahead_of_rules(&self, desired: &Self) -> Self {
        let of = |family| {
            let (actual, desired) = (self.family(family), desired.family(family));
            let delta = Delta::between(actual, desired);
            let mut ahead = actual.clone();
            for (name, change) in &delta.sets {
                let is_free = match change {
                    // No rule asks it yet.
                    SetDelta::Created(..) => true,
                    // No verdict of a policy depends on it.
                    SetDelta::Changed { .. } => name.is_own(),
                    SetDelta::Remade(..) | SetDelta::Gone => false,
                };
                if is_free && let Some(set) = desired.sets.get(name) {
                    ahead.sets.insert(name.clone(), set.clone());
                }
            }
            go_ahead(&mut ahead, family, [actual, desired], &delta, &BTreeSet::new());
            ahead
        };
        Self { v4: of(Family::V4), v6: of(Family::V6) }
    }

    /// As [`Self::ahead_of_rules`], without new sets, which no rule asks yet, and with the sets of `refused` as they
    /// are here. The kernel may refuse these writes.
    #[must_use]
    pub fn ahead_without(&self, desired: &Self, refused: &BTreeSet<SetName>) -> Self {
        let of = |family| {
            let (actual, desired) = (self.family(family), desired.family(family));
            let mut ahead = actual.clone();
            go_ahead(&mut ahead, family, [actual, desired], &Delta::between(actual, desired), refused);
            ahead
        };
        Self { v4: of(Family::V4), v6: of(Family::V6) }
    }
}

/// Has peers, and endpoints whose group is there as it is to be, go ahead. No set that is `refused` changes; if
/// one is of those that lead to groups, no endpoint goes ahead.
fn go_ahead(
    ahead: &mut FamilyState,
    family: Family,
    [actual, desired]: [&FamilyState; 2],
    delta: &Delta,
    refused: &BTreeSet<SetName>,
) {
    // Where more changes than groups, an endpoint's verdict is not its group's
    // alone: its packets to itself may need a rule that is not there.
    let is_of_groups = |chain: &ChainName| chain.direction_of_group().is_some() || chain.is_dispatch();
    let is_remade =
        |(name, change): (&SetName, &SetDelta)| name.leads_to_groups() && matches!(change, SetDelta::Remade(..));
    // What sets a foreign rule asks is unknown.
    let is_known = !actual.chains.values().flatten().any(Rule::is_foreign);
    if is_known && delta.chains.keys().all(is_of_groups) && !delta.sets.iter().any(is_remade) {
        let (was, is) = (StateView { family, actual, delta: None }, StateView { family, actual, delta: Some(delta) });
        // How far an endpoint may go in one direction depends on where it is in the other.
        let are_stuck = refused.iter().any(|name| name.family() == family && name.leads_to_groups());
        let peers_change = peers(ahead, [was, is], delta, refused, are_stuck);
        if are_stuck {
            return;
        }
        let sides = Direction::ALL.map(|direction| TreeTransition::new([was, is], direction));
        newcomers(ahead, desired, &sides);
        let [one, other] = &sides;
        endpoints(ahead, desired, [one, other], peers_change);
        endpoints(ahead, desired, [other, one], peers_change);
    }
}

/// Changes peer sets ahead of the rules, and answers whether there are any such sets. Two kinds stay as they are: sets
/// that the old rules of a group ask if its rules change, and sets that a group asks if its endpoints stay although
/// no policy isolates them any more. `are_stuck` if no endpoint goes ahead.
fn peers<'a>(
    ahead: &mut FamilyState,
    [was, is]: [StateView<'_>; 2],
    delta: &'a Delta,
    refused: &BTreeSet<SetName>,
    are_stuck: bool,
) -> bool {
    let mut between = refused.clone();
    for direction in Direction::ALL {
        let other = Tree::new(is, direction.opposite());
        let (was, is) = (Tree::new(was, direction), Tree::new(is, direction));
        for address in was.isolated() {
            let (before, after) = (was.traverse(address).rules, is.traverse(address).rules);
            // One that is isolated no more may have to stay a while, by its old rules: what these ask stays too.
            let keeps_rules =
                if is.is_isolated(address) { before != after } else { are_stuck || other.is_isolated(address) };
            if keeps_rules {
                between.extend(before.iter().flat_map(|rules| sets_of(rules)).cloned());
            }
        }
    }
    let is_peers = |name: &SetName| !name.leads_to_groups() && !name.is_own();
    // A peer that moves from a set that may change to one that may not would be in
    // neither.
    let gains = |(name, change): (&SetName, &'a SetDelta)| match change {
        SetDelta::Remade(_, members) => Some(members),
        SetDelta::Changed { added, .. } => Some(added).filter(|_| between.contains(name)),
        SetDelta::Created(..) | SetDelta::Gone => None,
    };
    let stays = Staying::of(delta.sets.iter().filter(|(name, _)| is_peers(name)).filter_map(gains).flatten());
    let mut changed = false;
    for (name, change) in delta.sets.iter().filter(|(name, _)| is_peers(name) && !between.contains(*name)) {
        let (SetDelta::Changed { added, removed }, Some((_, members))) = (change, ahead.sets.get_mut(name)) else {
            continue;
        };
        members.extend(added.iter().cloned());
        let before = members.len();
        members.retain(|member| !removed.contains(member) || stays.has(member));
        changed |= !added.is_empty() || members.len() < before;
    }
    changed
}

/// Members that have to stay where they are, because they may be what another set is to gain later.
struct Staying {
    addresses: BTreeSet<IpAddr>,
    /// A prefix may cover any of the others.
    are_all: bool,
    is_none: bool,
}

impl Staying {
    fn of<'a>(gained: impl Iterator<Item = &'a Member>) -> Self {
        let mut staying = Self { addresses: BTreeSet::new(), are_all: false, is_none: true };
        for member in gained {
            staying.is_none = false;
            match member {
                Member::Address(address) | Member::AddressPort(address, ..) => drop(staying.addresses.insert(*address)),
                Member::Prefix(_) | Member::PrefixInterface(_) => staying.are_all = true,
            }
        }
        staying
    }

    fn has(&self, member: &Member) -> bool {
        match member {
            Member::Address(address) | Member::AddressPort(address, ..) => {
                self.are_all || self.addresses.contains(address)
            }
            Member::Prefix(_) | Member::PrefixInterface(_) => !self.is_none,
        }
    }
}

/// The tree of a direction, as it is and as it is to be.
struct TreeTransition<'a> {
    isolated: SetName,
    direction: Direction,
    was: Tree<'a>,
    is: Tree<'a>,
    /// By which answers of sets the tree that is there leads to the rules of its groups.
    leaves: BTreeMap<Vec<&'a Rule>, Vec<(&'a SetName, bool)>>,
}

impl<'a> TreeTransition<'a> {
    fn new([was, is]: [StateView<'a>; 2], direction: Direction) -> Self {
        let isolated = SetName::isolated(was.family, direction);
        let (was, is) = (Tree::new(was, direction), Tree::new(is, direction));
        let leaves = was.leaves();
        Self { isolated, direction, was, is, leaves }
    }

    /// The answers of sets that lead to the rules that are to judge an address; none if no path leads to them.
    fn path(&self, address: IpAddr) -> Option<Vec<(&SetName, bool)>> {
        let after = self.is.traverse(address).rules?;
        let answers = self.leaves.get(&after)?;
        // Another's name in the tree is that of a plan that was cut short.
        let is_known = answers.iter().all(|(set, _)| set.is_of(self.direction));
        is_known.then(|| answers.iter().copied().chain([(&self.isolated, true)]).collect())
    }

    /// Whether the address is isolated in a state, and judged by the rules that it is to have and by sets that
    /// answer them as desired.
    fn is_there(&self, ahead: &FamilyState, desired: &FamilyState, address: IpAddr) -> bool {
        let now = Tree::new(StateView { family: Family::of(&address), actual: ahead, delta: None }, self.direction);
        let after = self.is.traverse(address).rules;
        now.is_isolated(address)
            && now.traverse(address).rules == after
            && after.iter().flat_map(|rules| sets_of(rules)).all(|set| answers_as_desired(ahead, desired, set, address))
    }
}

/// Whether a set answers the rules of an address's group as desired. They ask isolated sets about that address alone.
fn answers_as_desired(ahead: &FamilyState, desired: &FamilyState, set: &SetName, address: IpAddr) -> bool {
    if set.is_isolated_set() {
        ahead.has_address(set, address) == desired.has_address(set, address)
    } else {
        ahead.sets.get(set) == desired.sets.get(set)
    }
}

/// Has an address join the groups that are to judge it in these directions, or none of them.
fn join(ahead: &mut FamilyState, desired: &FamilyState, sides: &[&TreeTransition<'_>], address: IpAddr) {
    let paths: Option<Vec<_>> = sides.iter().map(|side| side.path(address)).collect();
    let Some(paths) = paths else { return };
    let steps = paths.into_iter().flatten();
    let before: Vec<(&SetName, bool)> = steps.map(|(set, yes)| (set, put(ahead, set, address, yes))).collect();
    // In a kernel that another program changed, a path can ask one set twice.
    if !sides.iter().all(|side| side.is_there(ahead, desired, address)) {
        // The last first: of a set that was asked twice, that is what it was.
        for (set, was_there) in before.into_iter().rev() {
            put(ahead, set, address, was_there);
        }
    }
}

/// Has endpoints that nothing isolates, and that are to be isolated in both directions, join both groups at once:
/// the rules of each may ask whether the endpoint is isolated in the other direction.
fn newcomers(ahead: &mut FamilyState, desired: &FamilyState, [one, other]: &[TreeTransition<'_>; 2]) {
    let is_new = |address: &IpAddr| {
        other.is.is_isolated(*address) && !one.was.is_isolated(*address) && !other.was.is_isolated(*address)
    };
    for address in one.is.isolated().into_iter().filter(is_new) {
        join(ahead, desired, &[one, other], address);
    }
}

/// Has endpoints leave, and join groups that are there as they are to be.
///
/// How one direction judges a segment in the middle of a TCP connection depends
/// on whether the endpoint is isolated in the other. So one leaves only if it is
/// in the other as it is to be, and changes groups only once it has joined the
/// other; and while peers change, isolation changes only where the other direction
/// has no say.
fn endpoints(
    ahead: &mut FamilyState,
    desired: &FamilyState,
    [side, other]: [&TreeTransition<'_>; 2],
    peers_change: bool,
) {
    let TreeTransition { was, is, isolated, .. } = side;
    let stays_in_other = |address| other.was.is_isolated(address) && other.is.is_isolated(address);
    let may_leave = |ahead: &FamilyState, address| {
        let (before, after) = (other.was.traverse(address).rules, other.is.traverse(address).rules);
        let are_as_desired = || {
            let mut sets = after.iter().flat_map(|rules| sets_of(rules));
            sets.all(|set| answers_as_desired(ahead, desired, set, address))
        };
        !other.is.is_isolated(address)
            || (other.was.is_isolated(address) && !peers_change && before == after && are_as_desired())
    };
    let addresses: BTreeSet<IpAddr> = was.isolated().into_iter().chain(is.isolated()).collect();
    for address in addresses {
        let joins = match (was.is_isolated(address), is.is_isolated(address)) {
            (true, false) => {
                if may_leave(ahead, address) {
                    put(ahead, isolated, address, false);
                }
                continue;
            }
            (false, joins) => {
                joins && !ahead.has_address(isolated, address) && !(peers_change && stays_in_other(address))
            }
            // An endpoint that changes groups while peers change takes rules, too.
            (true, true) => {
                let has_joined = || ahead.has_address(&other.isolated, address);
                !peers_change
                    && was.traverse(address).rules != is.traverse(address).rules
                    && (!other.is.is_isolated(address) || has_joined())
            }
        };
        if joins {
            join(ahead, desired, &[side], address);
        }
    }
}

/// Puts an address into a set, or takes it out. Returns whether it was in the set.
fn put(actual: &mut FamilyState, set: &SetName, address: IpAddr, is_there: bool) -> bool {
    let Some((_, members)) = actual.sets.get_mut(set) else { return false };
    let member = Member::Address(address);
    if is_there { !members.insert(member) } else { members.remove(&member) }
}
