//! The plan: from what the kernel holds to what it should hold, as an ordered
//! list of writes.
//!
//! Sets are created and filled before a rule names them, additions come before
//! removals, all rules of a family change in one commit, destruction is last.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use crate::object::Family;
use crate::program::{ChainName, FamilyProgram, Member, Program, SetKind, SetName};
use crate::text::{create_line, rule_line};

/// What one family of a kernel holds of ours.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Held {
    /// The sets: type and members.
    pub sets: BTreeMap<SetName, (SetKind, BTreeSet<Member>)>,
    /// The chains: their rules as `iptables-save` prints them.
    pub chains: BTreeMap<ChainName, Vec<String>>,
}

/// What a kernel holds of ours, in both families.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct KernelState {
    /// IPv4.
    pub v4: Held,
    /// IPv6.
    pub v6: Held,
}

impl KernelState {
    /// The part of one family.
    #[must_use]
    pub fn family(&self, family: Family) -> &Held {
        match family {
            Family::V4 => &self.v4,
            Family::V6 => &self.v6,
        }
    }
}

impl From<&Program> for KernelState {
    fn from(program: &Program) -> Self {
        Self { v4: Held::from(&program.v4), v6: Held::from(&program.v6) }
    }
}

impl From<&FamilyProgram> for Held {
    fn from(program: &FamilyProgram) -> Self {
        let lines = |(chain, rules): (&ChainName, &Vec<_>)| {
            (chain.clone(), rules.iter().map(|rule| rule_line(program.family, chain, rule)).collect())
        };
        Self {
            sets: program.sets.iter().map(|(name, set)| (name.clone(), (set.kind, set.members.clone()))).collect(),
            chains: program.chains.iter().map(lines).collect(),
        }
    }
}

/// An ordered list of writes.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Plan {
    /// The steps, each to be finished before the next begins.
    pub steps: Vec<Step>,
}

/// One step of a plan.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Step {
    /// Writes to sets, in this order; one `ipset restore`.
    Sets(Vec<SetWrite>),
    /// Rules of one family, all at once; one `iptables-restore --noflush`.
    Chains(Family, ChainWrites),
}

/// One write to a set; displays as a line of `ipset restore`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SetWrite {
    /// Create an empty set.
    Create(SetName, Family, SetKind),
    /// Add a member.
    Add(SetName, Member),
    /// Remove a member.
    Delete(SetName, Member),
    /// Destroy a set that no rule names any more.
    Destroy(SetName),
}

impl fmt::Display for SetWrite {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Create(name, family, kind) => f.write_str(&create_line(name, *family, *kind)),
            Self::Add(name, member) => write!(f, "add {name} {member}"),
            Self::Delete(name, member) => write!(f, "del {name} {member}"),
            Self::Destroy(name) => write!(f, "destroy {name}"),
        }
    }
}

/// A commit of rules in one family's filter table.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ChainWrites {
    /// Chains to create or to rewrite, with all their rules as restore lines.
    pub replace: BTreeMap<ChainName, Vec<String>>,
    /// Chains to empty and delete; nothing that stays names them.
    pub delete: BTreeSet<ChainName>,
}

impl ChainWrites {
    /// The input of `iptables-restore --noflush`: with that flag a chain's
    /// declaration creates or empties it, and no other chain is touched.
    #[must_use]
    pub fn restore_text(&self) -> String {
        let mut text = String::from("*filter\n");
        for chain in self.replace.keys().chain(&self.delete) {
            text.extend([":", chain.as_str(), " - [0:0]\n"]);
        }
        for line in self.replace.values().flatten() {
            text.push_str(line);
            text.push('\n');
        }
        for chain in &self.delete {
            text.extend(["-X ", chain.as_str(), "\n"]);
        }
        text.push_str("COMMIT\n");
        text
    }
}

impl Plan {
    /// The writes that take a kernel from what it holds to the program.
    #[must_use]
    pub fn new(held: &KernelState, program: &Program) -> Self {
        let wanted = KernelState::from(program);
        let families = Family::ALL.map(|family| (family, held.family(family), wanted.family(family)));
        let mut before = Vec::new();
        let mut commits = Vec::new();
        let mut after = Vec::new();
        let mut last = Vec::new();
        for (family, old, new) in families {
            for (name, (kind, members)) in &new.sets {
                let present = old.sets.get(name).map(|(_, members)| members);
                if present.is_none() {
                    before.push(SetWrite::Create(name.clone(), family, *kind));
                }
                let missing = members.iter().filter(|m| !present.is_some_and(|p| p.contains(m)));
                before.extend(missing.map(|m| SetWrite::Add(name.clone(), *m)));
            }
            for (name, (_, members)) in &old.sets {
                match new.sets.get(name) {
                    None => last.push(SetWrite::Destroy(name.clone())),
                    Some((_, wanted)) => {
                        after.extend(members.difference(wanted).map(|m| SetWrite::Delete(name.clone(), *m)));
                    }
                }
            }
            let replace = new.chains.iter().filter(|(name, lines)| old.chains.get(*name) != Some(lines));
            let writes = ChainWrites {
                replace: replace.map(|(name, lines)| (name.clone(), lines.clone())).collect(),
                delete: old.chains.keys().filter(|name| !new.chains.contains_key(*name)).cloned().collect(),
            };
            if writes != ChainWrites::default() {
                commits.push(Step::Chains(family, writes));
            }
        }
        after.append(&mut last);
        let mut steps = Vec::new();
        if !before.is_empty() {
            steps.push(Step::Sets(before));
        }
        steps.append(&mut commits);
        if !after.is_empty() {
            steps.push(Step::Sets(after));
        }
        Self { steps }
    }

    /// Whether there is nothing to write.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.steps.is_empty()
    }
}
