//! Where the tree of a state leads an address.

use std::collections::BTreeMap;
use std::net::IpAddr;

use super::delta::View;
use crate::object::Family;
use crate::policy::Direction;
use crate::ruleset::program::{ChainName, SetName};

/// More chains than the tree of a node has, whose groups are of its few hundred
/// endpoints.
const CHAINS: usize = 1 << 14;

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

    /// The family.
    pub(super) fn family(&self) -> Family {
        self.view.family
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
            if !lines.iter().all(|line| self.leads_on(line)) {
                way.rules = Some(self.rules(lines));
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

    /// To which rules the tree leads, as [`Way::rules`] has them, and by which
    /// answers of its sets; one way to each.
    pub(super) fn leaves(&self) -> BTreeMap<Vec<&'a str>, Vec<(SetName, bool)>> {
        let mut leaves = BTreeMap::new();
        let mut open = vec![(self.entry.as_str().to_owned(), Vec::new())];
        let mut visited = 0;
        while let Some((chain, mut answers)) = open.pop() {
            // As above.
            visited += 1;
            if visited > CHAINS || answers.len() > 64 {
                break;
            }
            let Some(lines) = self.view.chain(&chain) else { continue };
            if !lines.iter().all(|line| self.leads_on(line)) {
                leaves.entry(self.rules(lines)).or_insert(answers);
                continue;
            }
            for line in lines {
                let Some(target) = goto(line) else { break };
                let Some(set) = asked(self.view, line) else {
                    open.push((target.to_owned(), answers));
                    break;
                };
                let yes = answers.iter().cloned().chain([(set.clone(), true)]).collect();
                open.push((target.to_owned(), yes));
                answers.push((set, false));
            }
        }
        leaves
    }

    /// Whether a line leads to another chain of the tree, or to a group's.
    fn leads_on(&self, line: &str) -> bool {
        goto(line).is_some_and(|chain| chain != self.deny.as_str())
    }

    /// The rules of a group, and those of the chain to which they lead. Where
    /// several groups decide together, behind each rule that leads to one of
    /// them the rules of that.
    fn rules(&self, lines: &'a [String]) -> Vec<&'a str> {
        let mut all = Vec::with_capacity(lines.len());
        let mut denies = false;
        for line in lines {
            all.push(line);
            match chain_of(line) {
                Some(chain) if chain == self.deny.as_str() => denies = true,
                Some(chain) => {
                    let of_group = self.view.chain(chain).unwrap_or_default();
                    denies |= of_group.iter().any(|line| goto(line) == Some(self.deny.as_str()));
                    all.extend(of_group);
                }
                None => {}
            }
        }
        // What denies may be missing in a kernel that somebody else changed.
        let deny = denies.then(|| self.view.chain(self.deny.as_str())).flatten().unwrap_or_default();
        all.into_iter().chain(deny).map(|line| without_chain(line)).collect()
    }
}

/// The chain to which a rule line leads, for good or to come back.
fn chain_of(line: &str) -> Option<&str> {
    goto(line).or_else(|| line.rsplit_once(" -j ").map(|(_, chain)| chain))
}

/// The chain to which a rule line leads for good.
fn goto(line: &str) -> Option<&str> {
    line.rsplit_once(" -g ").map(|(_, chain)| chain)
}

/// The sets that rules, as [`Way::rules`] has them, ask.
pub(super) fn sets_of(rules: &[&str]) -> impl Iterator<Item = SetName> {
    let set = |rule: &&str| {
        let (_, rest) = rule.split_once("--match-set ")?;
        SetName::ours(rest.split(' ').next()?).map(|(name, _)| name)
    };
    rules.iter().filter_map(set)
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
