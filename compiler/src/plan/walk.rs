//! Where the tree of a state leads an address.

use std::collections::BTreeMap;
use std::net::IpAddr;

use super::Held;
use crate::object::Family;
use crate::policy::Direction;
use crate::program::{ChainName, Member, SetName};

/// A rule of the tree: `goto` this chain, if the set holds the address.
type Branch<'a> = (Option<SetName>, &'a str);

/// The tree of one direction, as the rules have it.
#[derive(Debug)]
pub(super) struct Tree<'a> {
    held: &'a Held,
    gate: Option<SetName>,
    entry: ChainName,
    /// The chains whose rules only lead on.
    branches: BTreeMap<&'a str, Vec<Branch<'a>>>,
}

/// How an address comes to its group.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Way<'a> {
    /// The sets that are asked, in order.
    pub(super) asked: Vec<SetName>,
    /// The rules of the group, without the chain's name; `None` if the way
    /// ends nowhere, in a kernel that somebody else changed.
    pub(super) rules: Option<Vec<&'a str>>,
}

impl<'a> Tree<'a> {
    pub(super) fn new(family: Family, direction: Direction, held: &'a Held) -> Self {
        let entry = ChainName::entry(direction);
        let forward = held.chains.get(&ChainName::forward()).map_or(&[][..], Vec::as_slice);
        // The rule in NPC-FORWARD tells which set is the gate: in the middle
        // of a plan it may be another than usual.
        let jump = format!(" -j {entry}");
        let gate = forward.iter().find(|line| line.ends_with(&jump)).and_then(|line| asked(family, line));
        let mut branches = BTreeMap::new();
        for (chain, lines) in &held.chains {
            let leads: Option<Vec<Branch<'a>>> = lines
                .iter()
                .map(|line| {
                    let (_, target) = line.rsplit_once(" -g ")?;
                    Some((asked(family, line), target))
                })
                .collect();
            if let Some(leads) = leads {
                branches.insert(chain.as_str(), leads);
            }
        }
        Self { held, gate, entry, branches }
    }

    fn holds(&self, set: &SetName, address: IpAddr) -> bool {
        self.held.sets.get(set).is_some_and(|(_, members)| members.contains(&Member::Address(address)))
    }

    /// Whether the address is isolated at all.
    pub(super) fn is_gated(&self, address: IpAddr) -> bool {
        self.gate.as_ref().is_some_and(|gate| self.holds(gate, address))
    }

    /// The addresses that are isolated.
    pub(super) fn gated(&self) -> impl Iterator<Item = IpAddr> + '_ {
        let members = self.gate.as_ref().and_then(|gate| self.held.sets.get(gate)).map(|(_, members)| members);
        members.into_iter().flatten().filter_map(|member| match member {
            Member::Address(address) => Some(*address),
            Member::Prefix(_) | Member::AddressPort(..) => None,
        })
    }

    /// The way of an address, gated or not.
    pub(super) fn way(&self, address: IpAddr) -> Way<'a> {
        let mut way = Way { asked: Vec::new(), rules: None };
        let mut chain = self.entry.as_str();
        // A kernel that somebody else changed could lead in a circle.
        for _ in 0..64 {
            let Some(branches) = self.branches.get(chain) else {
                let rules = ChainName::ours(chain).and_then(|name| self.held.chains.get(&name));
                way.rules = rules.map(|rules| rules.iter().map(|line| without_chain(line)).collect());
                return way;
            };
            let mut next = None;
            for (set, target) in branches {
                let taken = set.as_ref().is_none_or(|set| {
                    way.asked.push(set.clone());
                    self.holds(set, address)
                });
                if taken {
                    next = Some(*target);
                    break;
                }
            }
            match next {
                Some(target) => chain = target,
                None => return way,
            }
        }
        way
    }
}

/// The set that a rule line asks.
fn asked(family: Family, line: &str) -> Option<SetName> {
    let (_, rest) = line.split_once(" --match-set ")?;
    let name = rest.split(' ').next()?;
    SetName::ours(name).filter(|(_, of)| *of == family).map(|(name, _)| name)
}

/// A rule line from behind `-A CHAIN`.
fn without_chain(line: &str) -> &str {
    line.splitn(3, ' ').nth(2).unwrap_or_default()
}
