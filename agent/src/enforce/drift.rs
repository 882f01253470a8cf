//! Drift in words and numbers: what other programs did to our rules and sets.

use std::fmt;

use npc_compiler::object::Family;
use npc_compiler::plan::{FamilyState, KernelState, SetDelta};
use npc_compiler::ruleset::node::{ChainName, FORWARD_CHAIN, Rule};
use npc_compiler::ruleset::text::rule_line;
use tracing::warn;

use super::writes::Writes;
use crate::dataplane::Error;
use crate::dataplane::audit::Audit;
use crate::dataplane::iptables::Hook;
use crate::metrics::DriftKind;

/// How many rules or members of one drift are named; the others are counted.
const NAMED: usize = 3;

/// How many finds of one audit get a line of their own in the log.
const LOGGED: usize = 20;

/// One thing that differs from what was written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Drift {
    /// What sort of thing it is.
    pub kind: DriftKind,
    /// In which family.
    pub family: Family,
    /// The name of the chain or set.
    pub name: String,
    /// What was found, in words.
    pub what: String,
    /// The programs that did it, or may have: empty if the kernel names none.
    pub by: String,
}

/// What an audit found, and whether it was repaired.
#[derive(Debug)]
pub struct Repair {
    /// What was found.
    pub found: Vec<Drift>,
    /// What was written to repair it; nothing if that is left to the next pass. An error, if
    /// the repair failed: then the next pass has to do it.
    pub repaired: Result<Option<Writes>, Error>,
}

impl Repair {
    /// How many things of a kind were found.
    #[must_use]
    pub fn count(&self, kind: DriftKind) -> usize {
        self.found.iter().filter(|drift| drift.kind == kind).count()
    }
}

/// What an audit found, where this was to be there.
pub(super) fn found(audit: &Audit, desired: &KernelState) -> Vec<Drift> {
    let by = audit.authors.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ");
    let mut all = Vec::new();
    let mut push = |kind, family, name: &str, what| {
        all.push(Drift { kind, family, name: name.to_owned(), what, by: by.clone() });
    };
    for (family, hook) in &audit.hooks {
        if *hook != Hook::First {
            push(DriftKind::Hook, *family, FORWARD_CHAIN, hook.to_string());
        }
    }
    for family in Family::ALL {
        let (delta, desired) = (audit.family(family), desired.family(family));
        for (chain, rules) in &delta.chains {
            push(DriftKind::Chain, family, chain.as_str(), of_chain(family, chain, rules.as_deref(), desired));
        }
        for (set, change) in &delta.sets {
            match change {
                SetDelta::Changed { added, removed } => {
                    let what = [("foreign", named(added.iter())), ("missing", named(removed.iter()))];
                    push(DriftKind::Members, family, &set.shown(), in_words(what));
                }
                _ => push(DriftKind::Set, family, &set.shown(), "it is gone".to_owned()),
            }
        }
    }
    for (family, set) in &audit.replaced {
        push(DriftKind::Set, *family, &set.shown(), "another program's set has its name".to_owned());
    }
    for (family, set, went) in &audit.unneeded {
        let what = if *went {
            "no policy needs it; it was removed"
        } else {
            "no policy needs it, but a rule uses it; it stays"
        };
        push(DriftKind::Set, *family, &set.shown(), what.to_owned());
    }
    all
}

fn of_chain(family: Family, chain: &ChainName, rules: Option<&[Rule]>, desired: &FamilyState) -> String {
    let Some(rules) = rules else { return "it is gone".to_owned() };
    let Some(desired) = desired.chains.get(chain) else { return "no policy needs it".to_owned() };
    let only_in = |some: &[Rule], others: &[Rule]| {
        let missing = some.iter().filter(|rule| !others.contains(rule));
        named(missing.map(|rule| rule_line(family, chain, rule)))
    };
    match in_words([("foreign", only_in(rules, desired)), ("missing", only_in(desired, rules))]) {
        none if none.is_empty() => "its rules are in another order, or there twice".to_owned(),
        what => what,
    }
}

fn in_words(parts: [(&str, Option<String>); 2]) -> String {
    let some = parts.into_iter().filter_map(|(what, named)| Some(format!("{what}: {}", named?)));
    some.collect::<Vec<_>>().join("; ")
}

/// The first few, and the number of the others.
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

/// Logs what was found, before it is repaired.
pub(super) fn log(found: &[Drift]) {
    for Drift { kind, family, name, what, by } in found.iter().take(LOGGED) {
        let by = if by.is_empty() { "unknown" } else { by };
        warn!(%kind, %family, name, found = what, by, "drift found");
    }
    if found.len() > LOGGED {
        let more = found.len() - LOGGED;
        warn!(more, "more drift found than is logged");
    }
}

/// The ruleset that was found, where this one was to be there.
pub(super) fn as_found(audit: Audit, desired: &KernelState) -> KernelState {
    let mut actual = desired.clone();
    audit.v4.apply(&mut actual.v4);
    audit.v6.apply(&mut actual.v6);
    actual
}

#[cfg(test)]
mod tests {
    use std::collections::{BTreeMap, BTreeSet};

    use npc_compiler::ruleset::node::{Member, SetKind, SetName};
    use npc_compiler::ruleset::text::printed_in;

    use super::*;
    use crate::dataplane::notifications::Author;

    fn member(n: u8) -> Member {
        Member::Address([10, 0, 0, n].into())
    }

    #[test]
    fn what_differs_is_named_and_counted() {
        let (chain, set) = (ChainName::ours("NPC-X").expect("a name of ours"), SetName::new(Family::V4, "p"));
        let rule = |text| printed_in(Family::V4, &chain, text);
        let rules: Vec<Rule> = vec![rule("-j RETURN"), rule("-j DROP")];
        let v4 = FamilyState {
            sets: BTreeMap::from([(set.clone(), (SetKind::HashIp, BTreeSet::from([member(1)])))]),
            chains: BTreeMap::from([(chain.clone(), rules.clone())]),
        };
        let desired = KernelState { v4, v6: FamilyState::default() };
        let mut audit = Audit::default();
        audit.v4.chains.insert(chain.clone(), Some(vec![rules[0].clone(), rule("-j ACCEPT")]));
        let added = (2..9).map(member).collect();
        audit.v4.sets.insert(set, SetDelta::Changed { added, removed: [member(1)].into() });
        audit.hooks.push((Family::V6, Hook::Absent));
        audit.authors.insert(Author { program: "firewalld".to_owned(), process: 7 });
        let drifts = found(&audit, &desired);
        let words: Vec<String> =
            drifts.iter().map(|d| format!("{} {} {} {}", d.kind, d.family, d.name, d.what)).collect();
        assert_eq!(
            words,
            [
                "hook IPv6 NPC-FORWARD the jump from FORWARD is gone",
                "chain IPv4 NPC-X foreign: -A NPC-X -j ACCEPT; missing: -A NPC-X -j DROP",
                "members IPv4 npc4-p foreign: 10.0.0.2, 10.0.0.3, 10.0.0.4 and 4 more; missing: 10.0.0.1",
            ]
        );
        assert!(drifts.iter().all(|drift| drift.by == "firewalld (process 7)"));
        let actual = as_found(audit, &desired);
        assert_eq!(
            (actual.v4.chains[&chain].len(), actual.v4.sets.values().next().map(|set| set.1.len())),
            (2, Some(7))
        );
    }
}
