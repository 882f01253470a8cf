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
    deny: ChainName,
}

/// How an address comes to its group.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Way<'a> {
    /// The sets that are asked, in order.
    pub(super) asked: Vec<SetName>,
    /// The rules of the group and those of the chain to which they lead,
    /// without the chain's name; `None` if the way ends nowhere, in a kernel
    /// that somebody else changed.
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
        Self { view, gate, entry, deny: ChainName::deny(direction) }
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
            let leads_on = |line: &String| goto(line).is_some_and(|chain| chain != self.deny.as_str());
            if !lines.iter().all(leads_on) {
                // What denies may be missing in a kernel that somebody else
                // changed.
                let denies = lines.iter().any(|line| goto(line) == Some(self.deny.as_str()));
                let deny = denies.then(|| self.view.chain(self.deny.as_str())).flatten().unwrap_or_default();
                way.rules = Some(lines.iter().chain(deny).map(|line| without_chain(line)).collect());
                return way;
            }
            let taken = lines.iter().find(|line| {
                asked(self.view, line).is_none_or(|set| {
                    let holds = self.view.holds(&set, address);
                    way.asked.push(set);
                    holds
                })
            });
            match taken.and_then(|line| goto(line)) {
                Some(target) => chain = target,
                None => return way,
            }
        }
        way
    }
}

/// The chain to which a rule line leads for good.
fn goto(line: &str) -> Option<&str> {
    line.rsplit_once(" -g ").map(|(_, chain)| chain)
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
