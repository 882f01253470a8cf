//! How to get from one state to another without a moment in between.
//!
//! A packet's verdict in a direction depends on the rules, on where the tree
//! leads the endpoint (its *way*), and on the peers in the sets that the
//! group's rules ask. Each kind of change has an order of writes that shows
//! nothing but old and new:
//!
//! - **Peers** come before others go. Rules only ever admit, so a packet finds
//!   what admits it in the old or in the new state.
//! - **A way** is filled below the place where it leaves the old one, then
//!   flipped there by one write, and the old one is cleared after that.
//! - **Rules** change all at once, in one commit.
//!
//! Where rules change, the sets of the tree change with them in that same
//! commit: it names *shadows*, sets that hold the new members already. Then
//! the sets proper, which no rule asks now, take their new members, and a
//! second commit, which changes no verdict, names them again. Peers need
//! shadows as well when, at once, some address's membership changes and
//! another's rules do, because a new peer must not meet old rules.
//!
//! A packet can be between two look-ups at any write; so whatever it may still
//! ask is taken away only after a grace period.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use super::walk::Tree;
use super::{ChainWrites, Held, SetWrite};
use crate::object::Family;
use crate::policy::Direction;
use crate::program::{Member, SetKind, SetName};

/// The writes of one family, in the order of their stages.
#[derive(Debug, Default)]
pub(super) struct Stages {
    /// New sets, new peers, and what no packet asks yet.
    pub(super) fill: Vec<SetWrite>,
    /// One write for each endpoint whose group changes.
    pub(super) flip: Vec<SetWrite>,
    /// The new rules.
    pub(super) switch: ChainWrites,
    /// After a grace period: new members for the sets that have shadows.
    pub(super) settle: Vec<SetWrite>,
    /// The same rules with the shadows' proper names.
    pub(super) rename: ChainWrites,
    /// After another: what no packet asks any more.
    pub(super) clear: Vec<SetWrite>,
}

/// How a set that stays changes.
struct Change<'a> {
    kind: SetKind,
    old: &'a BTreeSet<Member>,
    new: &'a BTreeSet<Member>,
}

impl Change<'_> {
    fn added(&self) -> impl Iterator<Item = Member> + '_ {
        self.new.difference(self.old).copied()
    }

    fn removed(&self) -> impl Iterator<Item = Member> + '_ {
        self.old.difference(self.new).copied()
    }
}

impl Stages {
    pub(super) fn new(family: Family, old: &Held, new: &Held) -> Self {
        let mut stages = Self::default();
        let mut tree = BTreeMap::new();
        let mut peers = BTreeMap::new();
        let mut remade = BTreeMap::new();
        for (name, (kind, members)) in &new.sets {
            match old.sets.get(name) {
                None => stages.create(name, family, *kind, members),
                Some((present, _)) if present != kind => {
                    remade.insert(name, (*kind, members));
                }
                Some((_, present)) if present != members => {
                    let changes = if name.is_of_tree() { &mut tree } else { &mut peers };
                    changes.insert(name, Change { kind: *kind, old: present, new: members });
                }
                Some(_) => {}
            }
        }
        let rules_change = old.chains != new.chains || !remade.is_empty();
        let shadow_peers = conflict(family, old, new, &tree, &peers, rules_change);

        let mut shadows = BTreeMap::new();
        let shadowed = (tree.iter().filter(|_| rules_change || shadow_peers))
            .chain(peers.iter().filter(|_| shadow_peers))
            .map(|(name, change)| (*name, (change.kind, change.new)))
            .chain(remade.iter().map(|(name, set)| (*name, *set)));
        for (name, (kind, members)) in shadowed {
            let shadow = name.shadow(family, |name| old.sets.contains_key(name));
            stages.create(&shadow, family, kind, members);
            shadows.insert(name, shadow);
        }
        for (name, (kind, members)) in &remade {
            stages.settle.push(SetWrite::Destroy((*name).clone()));
            stages.settle.push(SetWrite::Create((*name).clone(), family, *kind));
            stages.settle.extend(members.iter().map(|member| SetWrite::Add((*name).clone(), *member)));
        }

        for (name, change) in &peers {
            let adds = change.added().map(|member| SetWrite::Add((*name).clone(), member));
            let removes = change.removed().map(|member| SetWrite::Delete((*name).clone(), member));
            if shadow_peers {
                stages.settle.extend(adds.chain(removes));
            } else {
                stages.fill.extend(adds);
                stages.clear.extend(removes);
            }
        }
        if rules_change || shadow_peers {
            for (name, change) in &tree {
                stages.settle.extend(change.added().map(|member| SetWrite::Add((*name).clone(), member)));
                stages.settle.extend(change.removed().map(|member| SetWrite::Delete((*name).clone(), member)));
            }
        } else {
            stages.ways(family, old, new, &tree);
        }
        stages.commits(old, new, &shadows);

        stages.clear.extend(shadows.into_values().map(SetWrite::Destroy));
        let gone = old.sets.keys().filter(|name| !new.sets.contains_key(*name));
        stages.clear.extend(gone.cloned().map(SetWrite::Destroy));
        stages
    }

    fn create(&mut self, name: &SetName, family: Family, kind: SetKind, members: &BTreeSet<Member>) {
        self.fill.push(SetWrite::Create(name.clone(), family, kind));
        self.fill.extend(members.iter().map(|member| SetWrite::Add(name.clone(), *member)));
    }

    /// The two commits: to the new rules with shadows, and to their names.
    fn commits(&mut self, old: &Held, new: &Held, shadows: &BTreeMap<&SetName, SetName>) {
        for (chain, lines) in &new.chains {
            let shadowed: Vec<String> = lines.iter().map(|line| with_shadows(line, shadows)).collect();
            if shadowed != *lines {
                self.rename.replace.insert(chain.clone(), lines.clone());
            }
            if old.chains.get(chain) != Some(&shadowed) {
                self.switch.replace.insert(chain.clone(), shadowed);
            }
        }
        let gone = old.chains.keys().filter(|name| !new.chains.contains_key(*name));
        self.switch.delete = gone.cloned().collect();
    }

    /// The writes that lead endpoints to other groups by sets alone.
    fn ways(&mut self, family: Family, old: &Held, new: &Held, changes: &BTreeMap<&SetName, Change<'_>>) {
        for direction in Direction::ALL {
            let mut of_address = BTreeMap::<IpAddr, BTreeMap<SetName, SetWrite>>::new();
            for (name, change) in changes.iter().filter(|(name, _)| name.is_of(direction)) {
                let adds = change.added().map(|member| (member, SetWrite::Add((*name).clone(), member)));
                let removes = change.removed().map(|member| (member, SetWrite::Delete((*name).clone(), member)));
                for (member, write) in adds.chain(removes) {
                    if let Member::Address(address) = member {
                        of_address.entry(address).or_default().insert((*name).clone(), write);
                    }
                }
            }
            let (was, is) = (Tree::new(family, direction, old), Tree::new(family, direction, new));
            let gate = SetName::gate(family, direction);
            for (address, mut writes) in of_address {
                let gate = writes.remove(&gate);
                let way = is.way(address).asked;
                let mut on_way: Vec<SetWrite> = way.iter().filter_map(|name| writes.remove(name)).collect();
                match (was.is_gated(address), is.is_gated(address)) {
                    // Nobody asks for its way until it is in the gate.
                    (false, _) => {
                        self.fill.append(&mut on_way);
                        self.flip.extend(gate);
                    }
                    (true, false) => {
                        self.flip.extend(gate);
                        self.clear.append(&mut on_way);
                    }
                    (true, true) => {
                        let mut on_way = on_way.into_iter();
                        self.flip.extend(on_way.next());
                        self.fill.extend(on_way);
                    }
                }
                self.clear.extend(writes.into_values());
            }
        }
    }
}

/// Whether a new peer could meet old rules, or an old peer new ones: some
/// address's membership in a peer set changes, and the rules of another
/// endpoint do.
fn conflict(
    family: Family,
    old: &Held,
    new: &Held,
    tree: &BTreeMap<&SetName, Change<'_>>,
    peers: &BTreeMap<&SetName, Change<'_>>,
    rules_change: bool,
) -> bool {
    if peers.is_empty() || (tree.is_empty() && !rules_change) {
        return false;
    }
    let members = peers.values().flat_map(|change| change.added().chain(change.removed()));
    let mut moved = members.map(|member| match member {
        Member::Address(address) | Member::AddressPort(address, ..) => Some(address),
        Member::Prefix(_) => None,
    });
    // All the changed members may be one address.
    let first = moved.next().flatten();
    let only = first.filter(|first| moved.all(|address| address == Some(*first)));
    Direction::ALL.into_iter().any(|direction| {
        let (was, is) = (Tree::new(family, direction, old), Tree::new(family, direction, new));
        let stays = |address: &IpAddr| was.is_gated(*address) && is.is_gated(*address);
        let candidates: Vec<IpAddr> = if rules_change {
            is.gated().collect()
        } else {
            let changes = tree.iter().filter(|(name, _)| name.is_of(direction));
            let members = changes.flat_map(|(_, change)| change.added().chain(change.removed()));
            let addresses = members.filter_map(|member| match member {
                Member::Address(address) => Some(address),
                Member::Prefix(_) | Member::AddressPort(..) => None,
            });
            addresses.collect()
        };
        candidates.into_iter().filter(stays).filter(|address| Some(*address) != only).any(|address| {
            let (before, after) = (was.way(address).rules, is.way(address).rules);
            before.is_none() || before != after
        })
    })
}

/// A rule line that asks the shadows instead.
fn with_shadows(line: &str, shadows: &BTreeMap<&SetName, SetName>) -> String {
    let shadow = line.split_once(" --match-set ").and_then(|(before, rest)| {
        let (name, after) = rest.split_once(' ')?;
        let (name, _) = SetName::ours(name)?;
        Some((before, shadows.get(&name)?, after))
    });
    match shadow {
        Some((before, shadow, after)) => format!("{before} --match-set {shadow} {after}"),
        None => line.to_owned(),
    }
}
