//! What others did to what is ours in the kernel, in words and numbers.

use std::fmt;

use npc_compiler::object::Family;
use npc_compiler::plan::{Held, KernelState, SetDelta};
use npc_compiler::ruleset::program::{ChainName, FORWARD_CHAIN, Rule};
use npc_compiler::ruleset::text::rule_line;
use tracing::warn;

use super::writer::Writes;
use crate::dataplane::Error;
use crate::dataplane::audit::Audit;
use crate::dataplane::iptables::Hook;

/// How many rules or members are named; of more there is only the number.
const NAMED: usize = 3;

/// How many things that drifted at once get a line of their own in the log.
const LOGGED: usize = 20;

/// What drifted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Kind {
    /// The jump from FORWARD to our chains.
    Hook,
    /// The rules of a chain.
    Chain,
    /// A whole set: gone, of another kind, or not ours.
    Set,
    /// Members of a set.
    Members,
    /// The table of the bridge family.
    Bridge,
}

impl Kind {
    /// All of them.
    pub const ALL: [Self; 5] = [Self::Hook, Self::Chain, Self::Set, Self::Members, Self::Bridge];

    /// As in the log and as a label of metrics.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Hook => "hook",
            Self::Chain => "chain",
            Self::Set => "set",
            Self::Members => "members",
            Self::Bridge => "bridge",
        }
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// One thing that was not as it was written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Drift {
    /// What sort of thing.
    pub kind: Kind,
    /// In which family.
    pub family: Family,
    /// Of the chain or set.
    pub name: String,
    /// What was found, in words.
    pub what: String,
    /// Who did it, as far as that is told: one of these.
    pub by: String,
}

/// What an audit found, and what became of it.
#[derive(Debug)]
pub struct Repair {
    /// What was found.
    pub found: Vec<Drift>,
    /// What was written to put it right; nothing where that is left to the next
    /// pass; or why it could not be, and the next pass has to.
    pub repaired: Result<Option<Writes>, Error>,
}

impl Repair {
    /// How many things of a kind were found.
    #[must_use]
    pub fn count(&self, kind: Kind) -> usize {
        self.found.iter().filter(|drift| drift.kind == kind).count()
    }
}

/// Says what an audit found of what was to be there.
pub(super) fn found(audit: &Audit, wanted: &KernelState) -> Vec<Drift> {
    let by = audit.authors.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ");
    let mut all = Vec::new();
    let mut push = |kind, family, name: &str, what| {
        all.push(Drift { kind, family, name: name.to_owned(), what, by: by.clone() });
    };
    for (family, hook) in &audit.hooks {
        let what = match hook {
            Hook::Absent => "the jump from FORWARD is gone".to_owned(),
            Hook::Displaced(1) => "the jump from FORWARD is not its first rule".to_owned(),
            Hook::Displaced(copies) => format!("the jump from FORWARD is there {copies} times"),
            Hook::First => continue,
        };
        push(Kind::Hook, *family, FORWARD_CHAIN, what);
    }
    for family in Family::ALL {
        let (delta, wanted) = (audit.family(family), wanted.family(family));
        for (chain, rules) in &delta.chains {
            push(Kind::Chain, family, chain.as_str(), of_chain(family, chain, rules.as_deref(), wanted));
        }
        for (set, change) in &delta.sets {
            match change {
                SetDelta::Changed { added, removed } => {
                    let what = [("foreign", named(added.iter())), ("missing", named(removed.iter()))];
                    push(Kind::Members, family, set.as_str(), in_words(what));
                }
                _ => push(Kind::Set, family, set.as_str(), "it is gone".to_owned()),
            }
        }
    }
    for (family, set) in &audit.usurped {
        push(Kind::Set, *family, set.as_str(), "a set that we did not make has its name".to_owned());
    }
    for (family, set, went) in &audit.strangers {
        let what =
            if *went { "nobody needs it; it was removed" } else { "nobody needs it, but a rule asks it; it stays" };
        push(Kind::Set, *family, set.as_str(), what.to_owned());
    }
    all
}

fn of_chain(family: Family, chain: &ChainName, rules: Option<&[Rule]>, wanted: &Held) -> String {
    let Some(rules) = rules else { return "it is gone".to_owned() };
    let Some(wanted) = wanted.chains.get(chain) else { return "nobody needs it".to_owned() };
    let only_in = |some: &[Rule], others: &[Rule]| {
        let missing = some.iter().filter(|rule| !others.contains(rule));
        named(missing.map(|rule| rule_line(family, chain, rule)))
    };
    match in_words([("foreign", only_in(rules, wanted)), ("missing", only_in(wanted, rules))]) {
        none if none.is_empty() => "its rules are in another order, or there twice".to_owned(),
        what => what,
    }
}

fn in_words(parts: [(&str, Option<String>); 2]) -> String {
    let some = parts.into_iter().filter_map(|(what, named)| Some(format!("{what}: {}", named?)));
    some.collect::<Vec<_>>().join("; ")
}

/// The first few, and how many more there are.
fn named<T: fmt::Display>(things: impl Iterator<Item = T>) -> Option<String> {
    let mut things = things.map(|thing| thing.to_string());
    let first: Vec<String> = things.by_ref().take(NAMED).collect();
    let more = things.count();
    match (first.is_empty(), more) {
        (true, _) => None,
        (false, 0) => Some(first.join(", ")),
        (false, more) => Some(format!("{} and {more} more", first.join(", "))),
    }
}

/// Logs what was found, before it is put right.
pub(super) fn log(found: &[Drift]) {
    for Drift { kind, family, name, what, by } in found.iter().take(LOGGED) {
        let by = if by.is_empty() { "unknown" } else { by };
        warn!(%kind, %family, name, found = what, by, "somebody changed what is ours in the kernel");
    }
    if found.len() > LOGGED {
        let more = found.len() - LOGGED;
        warn!(more, "somebody changed more of what is ours in the kernel");
    }
}

/// What was there, where it is not what was to be there.
pub(super) fn as_found(audit: Audit, wanted: &KernelState) -> KernelState {
    let mut held = wanted.clone();
    audit.v4.apply(&mut held.v4);
    audit.v6.apply(&mut held.v6);
    held
}

#[cfg(test)]
mod tests {
    use std::collections::{BTreeMap, BTreeSet};

    use npc_compiler::ruleset::program::{Member, SetKind, SetName};
    use npc_compiler::ruleset::text::printed_in;

    use super::*;
    use crate::dataplane::notifications::Author;

    fn member(n: u8) -> Member {
        Member::Address([10, 0, 0, n].into())
    }

    #[test]
    fn what_differs_is_named_and_counted() {
        let (chain, set) = (ChainName::new("X"), SetName::new(Family::V4, "p"));
        let rule = |text| printed_in(Family::V4, &chain, text);
        let rules: Vec<Rule> = vec![rule("-j RETURN"), rule("-j DROP")];
        let v4 = Held {
            sets: BTreeMap::from([(set.clone(), (SetKind::HashIp, BTreeSet::from([member(1)])))]),
            chains: BTreeMap::from([(chain.clone(), rules.clone())]),
        };
        let wanted = KernelState { v4, v6: Held::default() };
        let mut audit = Audit::default();
        audit.v4.chains.insert(chain.clone(), Some(vec![rules[0].clone(), rule("-j ACCEPT")]));
        let added = (2..9).map(member).collect();
        audit.v4.sets.insert(set, SetDelta::Changed { added, removed: [member(1)].into() });
        audit.hooks.push((Family::V6, Hook::Absent));
        audit.authors.insert(Author { program: "firewalld".to_owned(), process: 7 });
        let drifts = found(&audit, &wanted);
        let told: Vec<String> =
            drifts.iter().map(|d| format!("{} {} {} {}", d.kind, d.family, d.name, d.what)).collect();
        assert_eq!(
            told,
            [
                "hook IPv6 NPC-FORWARD the jump from FORWARD is gone",
                "chain IPv4 NPC-X foreign: -A NPC-X -j ACCEPT; missing: -A NPC-X -j DROP",
                "members IPv4 npc4-p foreign: 10.0.0.2, 10.0.0.3, 10.0.0.4 and 4 more; missing: 10.0.0.1",
            ]
        );
        assert!(drifts.iter().all(|drift| drift.by == "firewalld (process 7)"));
        let held = as_found(audit, &wanted);
        assert_eq!((held.v4.chains[&chain].len(), held.v4.sets.values().next().map(|set| set.1.len())), (2, Some(7)));
    }
}
