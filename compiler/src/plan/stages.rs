//! How to get from one state to another without a moment in between.
//!
//! A packet's verdict in a direction depends on the rules, on where the tree
//! leads the endpoint (its *path*), and on the peers in the sets that the
//! group's rules ask. Each kind of change has an order of writes that shows
//! nothing but old and new:
//!
//! - **Peers** come before others go. Rules only ever admit, so a packet finds
//!   what admits it in the old or in the new state.
//! - **A path** is filled below the place where it leaves the old one, then
//!   flipped there by one write, and the old one is cleared after that.
//! - **Rules** change all at once, in one commit.
//! - **Isolation** in a direction comes before other groups do, and goes after
//!   them. A segment in the middle of a TCP connection is judged in one direction
//!   by whether its endpoint is isolated in the other, so between old and new an
//!   endpoint is isolated too much rather than too little.
//!
//! - **Own addresses** of pods' interfaces come before others go, as peers do: they too only ever
//!   let through. No verdict of a direction depends on them, so they never need shadows.
//!
//! Where rules change, the sets of the tree change with them in that same
//! commit: it names *shadows*, sets that hold the new members already. Then
//! the sets proper, which no rule asks now, take their new members, and a
//! second commit, which changes no verdict, names them again. Peers need
//! shadows as well when, at once, some address's membership in a set changes
//! and another endpoint does by whose rules it is asked, because a new peer must
//! not meet old rules.
//!
//! A packet can be between two look-ups at any write. So a set or chain that it may still ask is
//! taken away only after a grace period.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use super::delta::{Delta, SetDelta, StateView};
use super::walk::{Tree, sets_of};
use super::{ChainWrites, FamilyState, SetWrite};
use crate::object::Family;
use crate::policy::Direction;
use crate::ruleset::node::{Member, Rule, SetKind, SetName};

/// The writes of one family, in the order of their stages.
#[derive(Debug, Default)]
pub(super) struct Stages {
    /// New sets, new peers, and what no packet asks yet.
    pub(super) fill: Vec<SetWrite>,
    /// Endpoints that are isolated in a direction from now on.
    pub(super) join: Vec<SetWrite>,
    /// One write for each endpoint whose group changes.
    pub(super) flip: Vec<SetWrite>,
    /// Endpoints that are isolated in a direction no more.
    pub(super) leave: Vec<SetWrite>,
    /// The new rules.
    pub(super) switch: ChainWrites,
    /// After a grace period: new members for the sets that have shadows.
    pub(super) settle: Vec<SetWrite>,
    /// The same rules with the shadows' proper names.
    pub(super) rename: ChainWrites,
    /// After another: what no packet asks any more.
    pub(super) clear: Vec<SetWrite>,
}

/// How the members of a set that stays change.
#[derive(Clone, Copy)]
struct MemberChange<'a> {
    added: &'a BTreeSet<Member>,
    removed: &'a BTreeSet<Member>,
}

impl<'a> MemberChange<'a> {
    fn members(self) -> impl Iterator<Item = &'a Member> {
        self.added.iter().chain(self.removed)
    }

    fn addresses(self) -> impl Iterator<Item = IpAddr> {
        self.members().filter_map(address)
    }

    fn writes(self, name: &SetName) -> impl Iterator<Item = (&'a Member, SetWrite)> {
        let added = self.added.iter().map(|member| (member, SetWrite::Add(name.clone(), member.clone())));
        let removed = self.removed.iter().map(|member| (member, SetWrite::Delete(name.clone(), member.clone())));
        added.chain(removed)
    }
}

type MemberChanges<'a> = BTreeMap<&'a SetName, MemberChange<'a>>;

impl Stages {
    pub(super) fn new(family: Family, old: &FamilyState, delta: &Delta) -> Self {
        let mut stages = Self::default();
        let (mut tree, mut peers) = (MemberChanges::new(), MemberChanges::new());
        let mut remade = BTreeMap::new();
        for (name, change) in &delta.sets {
            match change {
                SetDelta::Created(kind, members) => stages.create(name, family, *kind, members),
                SetDelta::Remade(kind, members) => {
                    remade.insert(name, (*kind, members));
                }
                SetDelta::Changed { added, removed } if name.is_own() => {
                    stages.fill.extend(added.iter().map(|member| SetWrite::Add(name.clone(), member.clone())));
                    stages.clear.extend(removed.iter().map(|member| SetWrite::Delete(name.clone(), member.clone())));
                }
                SetDelta::Changed { added, removed } => {
                    let changes = if name.leads_to_groups() { &mut tree } else { &mut peers };
                    changes.insert(name, MemberChange { added, removed });
                }
                SetDelta::Gone => {}
            }
        }
        let rules_change = !delta.chains.is_empty() || !remade.is_empty();
        let (was, is) =
            (StateView { family, actual: old, delta: None }, StateView { family, actual: old, delta: Some(delta) });
        let shadow_peers = conflict(was, is, &tree, &peers, rules_change);
        let shadow_tree = rules_change || !shadow_peers.is_empty() || leaves_and_moves(was, is, &tree);

        let mut shadows = BTreeMap::new();
        let mut shadow = |stages: &mut Self, name, kind, members: &BTreeSet<Member>| {
            let mut shadow = SetName::shadow(name, |name| old.sets.contains_key(name));
            if old.sets.contains_key(&shadow) {
                // Several plans in a row, whose rules the kernel refused, left all of these names. Rules may ask one,
                // after a plan that was cut short.
                let asks = |name: &SetName| old.chains.values().flatten().flat_map(Rule::sets).any(|set| set == name);
                shadow = SetName::shadow(name, asks);
            }
            match old.sets.get(&shadow) {
                Some((actual, present)) if *actual == kind => {
                    let change = MemberChange {
                        added: &members.difference(present).cloned().collect(),
                        removed: &present.difference(members).cloned().collect(),
                    };
                    stages.fill.extend(change.writes(&shadow).map(|(_, write)| write));
                }
                actual => {
                    stages.fill.extend(actual.map(|_| SetWrite::Destroy(shadow.clone())));
                    stages.create(&shadow, family, kind, members);
                }
            }
            shadows.insert(name, shadow);
        };
        let changed =
            tree.iter().filter(|_| shadow_tree).chain(peers.iter().filter(|(name, _)| shadow_peers.contains(*name)));
        for (name, change) in changed {
            let Some((kind, present)) = old.sets.get(*name) else { continue };
            let members = present.difference(change.removed).chain(change.added).cloned().collect();
            shadow(&mut stages, *name, *kind, &members);
        }
        for (name, (kind, members)) in remade {
            shadow(&mut stages, name, kind, members);
            stages.settle.push(SetWrite::Destroy(name.clone()));
            stages.settle.push(SetWrite::Create(name.clone(), family, kind));
            stages.settle.extend(members.iter().map(|member| SetWrite::Add(name.clone(), member.clone())));
        }

        for (name, change) in &peers {
            for (_, write) in change.writes(name) {
                match write {
                    _ if shadow_peers.contains(name) => stages.settle.push(write),
                    SetWrite::Delete(..) => stages.clear.push(write),
                    _ => stages.fill.push(write),
                }
            }
        }
        if shadow_tree {
            for (name, change) in &tree {
                stages.settle.extend(change.writes(name).map(|(_, write)| write));
            }
        } else {
            stages.tree_paths(was, is, &tree);
        }
        stages.commits(old, delta, &shadows);

        let gone = delta.sets.iter().filter(|(_, change)| **change == SetDelta::Gone).map(|(name, _)| name.clone());
        // A shadow may be one that an earlier plan left.
        let mut cleared = BTreeSet::new();
        let once = shadows.into_values().chain(gone).filter(|name| cleared.insert(name.clone()));
        stages.clear.extend(once.map(SetWrite::Destroy));
        stages
    }

    fn create(&mut self, name: &SetName, family: Family, kind: SetKind, members: &BTreeSet<Member>) {
        self.fill.push(SetWrite::Create(name.clone(), family, kind));
        self.fill.extend(members.iter().map(|member| SetWrite::Add(name.clone(), member.clone())));
    }

    /// The two commits: to the new rules with shadows, and to their names.
    fn commits(&mut self, old: &FamilyState, delta: &Delta, shadows: &BTreeMap<&SetName, SetName>) {
        let unchanged =
            old.chains.iter().filter(|(chain, _)| !shadows.is_empty() && !delta.chains.contains_key(*chain));
        let changed = delta.chains.iter().filter_map(|(chain, rules)| Some((chain, rules.as_ref()?)));
        // Most chains ask no shadow, and one of them may have many rules.
        let asks_shadow = |rules: &[Rule]| rules.iter().flat_map(Rule::sets).any(|set| shadows.contains_key(set));
        let unchanged = unchanged.filter(|(_, rules)| asks_shadow(rules));
        for (chain, rules) in unchanged.chain(changed) {
            if !asks_shadow(rules) {
                if old.chains.get(chain) != Some(rules) {
                    self.switch.replace.insert(chain.clone(), rules.clone());
                }
                continue;
            }
            let shadowed: Vec<Rule> = rules
                .iter()
                .map(|rule| rule.with_sets(|set| shadows.get(set)).unwrap_or_else(|| rule.clone()))
                .collect();
            self.rename.replace.insert(chain.clone(), rules.clone());
            if old.chains.get(chain) != Some(&shadowed) {
                self.switch.replace.insert(chain.clone(), shadowed);
            }
        }
        let gone = delta.chains.iter().filter(|(_, rules)| rules.is_none());
        self.switch.delete = gone.map(|(chain, _)| chain.clone()).collect();
    }

    /// The writes that lead endpoints to other groups by sets alone.
    fn tree_paths(&mut self, was: StateView<'_>, is: StateView<'_>, changes: &MemberChanges<'_>) {
        for direction in Direction::ALL {
            let mut of_address = BTreeMap::<IpAddr, BTreeMap<&SetName, SetWrite>>::new();
            for (name, change) in changes.iter().filter(|(name, _)| name.is_of(direction)) {
                for (member, write) in change.writes(name) {
                    if let Member::Address(address) = member {
                        of_address.entry(*address).or_default().insert(name, write);
                    }
                }
            }
            let isolated = SetName::isolated(was.family, direction);
            let (was, is) = (Tree::new(was, direction), Tree::new(is, direction));
            for (address, mut writes) in of_address {
                let isolated = writes.remove(&isolated);
                let path = is.traverse(address).asked;
                let mut on_path: Vec<SetWrite> = path.into_iter().filter_map(|name| writes.remove(name)).collect();
                match (was.is_isolated(address), is.is_isolated(address)) {
                    // No packet follows its path until it is in the isolated set.
                    (false, _) => {
                        self.fill.append(&mut on_path);
                        self.join.extend(isolated);
                    }
                    (true, false) => {
                        self.leave.extend(isolated);
                        self.clear.append(&mut on_path);
                    }
                    (true, true) => {
                        let mut on_path = on_path.into_iter();
                        self.flip.extend(on_path.next());
                        self.fill.extend(on_path);
                    }
                }
                self.clear.extend(writes.into_values());
            }
        }
    }
}

/// The peer sets in which a new peer could meet old rules, or an old peer new ones: some
/// address's membership in them changes, and so does another endpoint by whose rules they are
/// asked, or its isolation. A set that only rules ask of endpoints that stay as they are needs no
/// shadow, so that one large group is not written anew because of what happens in others.
///
/// An endpoint's directions are one here: a segment in the middle of a connection is judged in one
/// by whether its endpoint is isolated in the other. An endpoint that no policy isolates before, or
/// none after, takes no part, because then all passes in one of both states.
fn conflict<'a>(
    was: StateView<'_>,
    is: StateView<'_>,
    tree: &MemberChanges<'_>,
    peers: &MemberChanges<'a>,
    rules_change: bool,
) -> BTreeSet<&'a SetName> {
    if peers.is_empty() || (tree.is_empty() && !rules_change) {
        return BTreeSet::new();
    }
    let all = || peers.keys().copied().collect();
    // What sets a foreign rule asks, and where it leads, is unknown.
    if rules_change && was.actual.chains.values().flatten().any(Rule::is_foreign) {
        return all();
    }
    let mut moved = peers.values().flat_map(|change| change.members()).map(|member| match member {
        Member::Address(address) | Member::AddressPort(address, ..) => Some(*address),
        Member::Prefix(_) | Member::PrefixInterface(..) => None,
    });
    // All the changed members may be one address.
    let first = moved.next().flatten();
    let only = first.filter(|first| moved.all(|address| address == Some(*first)));
    let trees = [was, is].map(|view| Direction::ALL.map(|direction| Tree::new(view, direction)));
    let endpoints: BTreeSet<IpAddr> = if rules_change {
        trees.iter().flatten().flat_map(Tree::isolated).collect()
    } else {
        tree.values().flat_map(|change| change.addresses()).collect()
    };
    let mut shadowed = BTreeSet::new();
    // Endpoints of one group are alike, and it may have many rules.
    let mut known = BTreeSet::new();
    for endpoint in endpoints.into_iter().filter(|endpoint| Some(*endpoint) != only) {
        let leaf = |tree: &Tree<'_>| tree.is_isolated(endpoint).then(|| tree.leaf(endpoint));
        let leaves = trees.each_ref().map(|trees| trees.each_ref().map(leaf));
        if leaves.iter().any(|directions| directions.iter().all(Option::is_none)) || !known.insert(leaves.clone()) {
            continue;
        }
        let [before, after] = [0, 1].map(|state: usize| {
            let trees = trees[state].iter().zip(&leaves[state]);
            trees.map(|(tree, leaf)| leaf.as_ref().map(|leaf| tree.rules_of(leaf.as_ref()))).collect::<Vec<_>>()
        });
        if before.iter().zip(&after).all(|(before, after)| is_same(before.as_ref(), after.as_ref())) {
            continue;
        }
        for rules in before.into_iter().chain(after).flatten() {
            // Which sets are asked where a path ends nowhere is unknown.
            let Some(rules) = rules else { return all() };
            shadowed.extend(sets_of(&rules).filter_map(|set| peers.get_key_value(set)).map(|(name, _)| *name));
        }
    }
    shadowed
}

/// The rules of an endpoint that is isolated in a direction; those are unknown where its path ends
/// nowhere.
type JudgingRules<'a> = Option<Vec<&'a Rule>>;

/// Whether an endpoint's rules are known and the same. Mostly they are the very same ones, and may
/// be many.
fn is_same(before: Option<&JudgingRules<'_>>, after: Option<&JudgingRules<'_>>) -> bool {
    match (before, after) {
        (None, None) => true,
        (Some(Some(before)), Some(Some(after))) => {
            let is_one = |(one, other): (&&Rule, &&Rule)| std::ptr::eq(*one, *other) || one == other;
            before.len() == after.len() && before.iter().zip(after).all(is_one)
        }
        _ => false,
    }
}

/// Whether some endpoint is isolated no more in a direction, and changes groups
/// in the other: a packet that has met its old group's chain must not find that
/// it has left already.
fn leaves_and_moves(was: StateView<'_>, is: StateView<'_>, changes: &MemberChanges<'_>) -> bool {
    Direction::ALL.into_iter().any(|direction| {
        let Some(change) = changes.get(&SetName::isolated(was.family, direction)) else { return false };
        let (was, is) = (Tree::new(was, direction.opposite()), Tree::new(is, direction.opposite()));
        change.removed.iter().filter_map(address).any(|address| {
            was.is_isolated(address)
                && is.is_isolated(address)
                && was.traverse(address).rules != is.traverse(address).rules
        })
    })
}

/// The address that a member of a tree's set is.
fn address(member: &Member) -> Option<IpAddr> {
    match member {
        Member::Address(address) => Some(*address),
        Member::Prefix(_) | Member::AddressPort(..) | Member::PrefixInterface(..) => None,
    }
}
