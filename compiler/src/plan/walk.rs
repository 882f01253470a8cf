//! Where the tree of a state leads an address.

use std::net::IpAddr;

use super::delta::View;
use crate::policy::Direction;
use crate::program::{ChainName, SetName};

/// The tree of one direction, as the rules have it.
#[derive(Debug)]
pub(super) struct Tree<'a> {
    view: View<'a>,
    gate: Option<SetName>,
    entry: ChainName,
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
    pub(super) fn new(view: View<'a>, direction: Direction) -> Self {
        let entry = ChainName::entry(direction);
        let forward = view.chain(ChainName::forward().as_str()).unwrap_or_default();
        // The rule in NPC-FORWARD tells which set is the gate: in the middle
        // of a plan it may be another than usual.
        let jump = format!(" -j {entry}");
        let gate = forward.iter().find(|line| line.ends_with(&jump)).and_then(|line| asked(view, line));
        Self { view, gate, entry }
    }

    /// Whether the address is isolated at all.
    pub(super) fn is_gated(&self, address: IpAddr) -> bool {
        self.gate.as_ref().is_some_and(|gate| self.view.holds(gate, address))
    }

    /// The addresses that are isolated.
    pub(super) fn gated(&self) -> Vec<IpAddr> {
        self.gate.as_ref().map(|gate| self.view.addresses(gate)).unwrap_or_default()
    }

    /// The way of an address, gated or not.
    pub(super) fn way(&self, address: IpAddr) -> Way<'a> {
        let mut way = Way { asked: Vec::new(), rules: None };
        let mut chain = self.entry.as_str();
        // A kernel that somebody else changed could lead in a circle.
        for _ in 0..64 {
            let Some(lines) = self.view.chain(chain) else { return way };
            if !lines.iter().all(|line| line.contains(" -g ")) {
                way.rules = Some(lines.iter().map(|line| without_chain(line)).collect());
                return way;
            }
            let taken = lines.iter().find(|line| {
                asked(self.view, line).is_none_or(|set| {
                    let holds = self.view.holds(&set, address);
                    way.asked.push(set);
                    holds
                })
            });
            match taken.and_then(|line| line.rsplit_once(" -g ")) {
                Some((_, target)) => chain = target,
                None => return way,
            }
        }
        way
    }
}

/// The set that a rule line asks.
fn asked(view: View<'_>, line: &str) -> Option<SetName> {
    let (_, rest) = line.split_once(" --match-set ")?;
    let name = rest.split(' ').next()?;
    SetName::ours(name).filter(|(_, of)| *of == view.family).map(|(name, _)| name)
}

/// A rule line from behind `-A CHAIN`.
fn without_chain(line: &str) -> &str {
    line.splitn(3, ' ').nth(2).unwrap_or_default()
}
