//! How this node's iptables prints the rules that we write.
//!
//! Most versions print a rule as we write it, but for blanks and quotes, which
//! [`npc_compiler::ruleset::text`] reads over. What is printed otherwise is read as another rule,
//! mostly a foreign one, and would count as drift for ever. So before a chain counts as changed,
//! the rules that differ are written into a chain that no packet meets, and read back. The text
//! that is read there stands for the rule that was written, in every chain.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use npc_compiler::object::Family;
use npc_compiler::plan::FamilyState;
use npc_compiler::ruleset::node::{ChainName, Foreign, Rule, Target};
use npc_compiler::ruleset::text::{Restore, printed_in, rule_line, rule_text};
use tracing::{debug, warn};

use super::probe;
use crate::dataplane::iptables::{Error, Iptables};
use crate::words::rounded::rounded;

/// At most so many rules are asked about at once. If more of a chain differ, the next audit asks
/// about it again.
const ASKED: usize = 512;

/// More than this is not remembered.
const KNOWN: usize = 100_000;

/// How often a chain is written anew before the agent pauses, and how long the first and the
/// longest pause are.
const REPAIRS: u32 = 3;
const PAUSE: (Duration, Duration) = (Duration::from_secs(5 * 60), Duration::from_secs(3600));

/// What is known of how iptables prints rules.
#[derive(Debug, Default)]
pub(in super::super) struct PrintedForms {
    /// For what is read, what was written.
    printed: BTreeMap<PrintedPlace, BTreeMap<Rule, BTreeSet<Rule>>>,
    /// Rules that are printed as they were written.
    plain: BTreeSet<(Family, Rule)>,
    /// Chains that are not printed as they were written, however often that is.
    mismatches: BTreeMap<(Family, ChainName), SpellingMismatch>,
}

/// Where a rule is printed so: in a family, and in one chain if the rule's text names the
/// chain.
type PrintedPlace = (Family, Option<ChainName>);

#[derive(Debug)]
struct SpellingMismatch {
    desired: Vec<Rule>,
    found: Vec<Rule>,
    /// How often it was found just so after it was written.
    repairs: u32,
    /// It was written since it was found so last.
    is_written: bool,
    /// It is left alone until then, and how long the next time.
    until: Option<Instant>,
    pause: Duration,
}

/// Whether other programs wrote rules since the last audit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in super::super) enum Others {
    /// The kernel reported it.
    Wrote,
    /// The kernel does not report it.
    MayHaveWritten,
    /// The kernel would have reported it.
    WroteNothing,
}

/// A chain that is not printed as it was written.
pub(in super::super) struct Differing<'a> {
    /// Its name.
    pub(in super::super) name: &'a ChainName,
    /// Its rules, as they were written.
    pub(in super::super) desired: &'a [Rule],
    /// Its rules, as they were read.
    pub(in super::super) found: &'a [Rule],
}

/// Where a rule that was written into a chain is printed in one way.
fn place(family: Family, chain: &ChainName, written: &Rule) -> PrintedPlace {
    (family, (written.target == Target::Log).then(|| chain.clone()))
}

impl PrintedForms {
    /// Whether these are the rules that were written into a chain: each the same, or
    /// printed as such a rule is printed.
    pub(in super::super) fn is_same(
        &self,
        family: Family,
        chain: &ChainName,
        desired: &[Rule],
        found: &[Rule],
    ) -> bool {
        let is_one = |(desired, found)| desired == found || self.stands_for(family, chain, found, desired);
        desired.len() == found.len() && desired.iter().zip(found).all(is_one)
    }

    fn stands_for(&self, family: Family, chain: &ChainName, found: &Rule, desired: &Rule) -> bool {
        let here = self.printed.get(&place(family, chain, desired));
        here.and_then(|here| here.get(found)).is_some_and(|written| written.contains(desired))
    }

    /// Replaces rules that were read by the rules that were written. In a desired chain it takes
    /// the desired rules, if they are the same. In other chains it does so where it is certain.
    pub(in super::super) fn translate(
        &self,
        family: Family,
        desired: &FamilyState,
        found: &mut BTreeMap<ChainName, Vec<Rule>>,
    ) {
        if self.printed.is_empty() {
            return;
        }
        for (name, rules) in found {
            if let Some(desired) = desired.chains.get(name)
                && self.is_same(family, name, desired, rules)
            {
                rules.clone_from(desired);
                continue;
            }
            let places = [(family, None), (family, Some(name.clone()))];
            let here: Vec<_> = places.iter().filter_map(|place| self.printed.get(place)).collect();
            for rule in rules {
                let mut written = here.iter().filter_map(|here| here.get(rule)).flatten();
                if let (Some(only), None) = (written.next(), written.next()) {
                    rule.clone_from(only);
                }
            }
        }
    }

    /// Finds out how rules are printed that were not found as they were written.
    /// Where that cannot be found out, nothing is known.
    pub(in super::super) fn record_printed_forms(&mut self, table: &Iptables, differing: &[Differing<'_>]) {
        let family = table.family();
        let mut unknown = BTreeMap::<(Option<ChainName>, &Rule), &ChainName>::new();
        for chain in differing.iter().filter(|chain| chain.desired.len() == chain.found.len()) {
            let pairs = chain.desired.iter().zip(chain.found);
            let differ = pairs
                .filter(|(desired, found)| desired != found && !self.stands_for(family, chain.name, found, desired));
            for (desired, _) in differ.filter(|(desired, _)| !self.plain.contains(&(family, (*desired).clone()))) {
                let (_, in_chain) = place(family, chain.name, desired);
                if unknown.len() < ASKED {
                    unknown.insert((in_chain, desired), chain.name);
                }
            }
        }
        if unknown.is_empty() {
            return;
        }
        let unknown: Vec<(&ChainName, &Rule)> = unknown.into_iter().map(|((_, rule), chain)| (chain, rule)).collect();
        let printed = match ask(table, &unknown) {
            Ok(printed) if printed.len() == unknown.len() => printed,
            Ok(_) => return,
            Err(error) => {
                debug!(%family, %error, "cannot find out how iptables prints these rules");
                return;
            }
        };
        if self.known() > KNOWN {
            *self = Self::default();
        }
        let mut first = None;
        let mut rules = 0;
        for ((chain, written), printed) in unknown.into_iter().zip(printed) {
            if printed == *written {
                self.plain.insert((family, written.clone()));
                continue;
            }
            rules += 1;
            first.get_or_insert_with(|| [written, &printed].map(|rule| rule_text(family, chain, rule)));
            let here = self.printed.entry(place(family, chain, written)).or_default();
            here.entry(printed).or_default().insert(written.clone());
        }
        if let Some([written, printed]) = first {
            warn!(
                %family, rules, written, printed,
                "this iptables prints some rules differently from how npc wrote them; npc compares with its form"
            );
        }
    }

    /// How many rules are known.
    fn known(&self) -> usize {
        self.printed.values().map(BTreeMap::len).sum::<usize>() + self.plain.len()
    }

    /// Whether a chain that is found to differ is to be written anew. One that is
    /// found just so after each of several repairs is left alone for a while, unless
    /// another program may have changed it.
    pub(in super::super) fn must_repair(&mut self, family: Family, chain: &Differing<'_>, by_others: Others) -> bool {
        let Differing { name, desired, found } = chain;
        let is_plain = |rule: &Rule| self.plain.contains(&(family, rule.clone()));
        // Another number of rules, or other rules where iptables prints ours as they
        // are written, is no matter of spelling.
        let is_change = desired.len() != found.len() || desired.iter().zip(*found).any(|(a, b)| a != b && is_plain(a));
        let key = (family, (*name).clone());
        if by_others == Others::Wrote || is_change && by_others == Others::MayHaveWritten {
            self.mismatches.remove(&key);
            return true;
        }
        let mismatch = match self.mismatches.get_mut(&key) {
            Some(mismatch) if mismatch.desired == *desired && mismatch.found == *found => mismatch,
            _ => {
                let (desired, found) = (desired.to_vec(), found.to_vec());
                let first =
                    SpellingMismatch { desired, found, repairs: 0, is_written: false, until: None, pause: PAUSE.0 };
                self.mismatches.insert(key, first);
                return true;
            }
        };
        if std::mem::take(&mut mismatch.is_written) {
            mismatch.repairs += 1;
        }
        if mismatch.repairs < REPAIRS {
            return true;
        }
        let now = Instant::now();
        match mismatch.until {
            Some(until) if now < until => return false,
            // Once more.
            Some(_) => {
                (mismatch.until, mismatch.repairs) = (None, REPAIRS - 1);
                return true;
            }
            None => {}
        }
        let differs = desired.iter().zip(*found).find(|(desired, found)| desired != found);
        let line = |rule| rule_line(family, name, rule);
        let (written, printed) = differs.map(|(written, printed)| (line(written), line(printed))).unwrap_or_default();
        warn!(
            %family, chain = %name, written, printed, next = ?rounded(mismatch.pause),
            "chain reads back differently after {REPAIRS} writes; the agent waits before the next write"
        );
        mismatch.until = Some(now + mismatch.pause);
        mismatch.pause = (mismatch.pause * 2).min(PAUSE.1);
        false
    }

    /// A chain was written.
    pub(in super::super) fn is_written(&mut self, family: Family, name: &ChainName) {
        if !self.mismatches.is_empty()
            && let Some(mismatch) = self.mismatches.get_mut(&(family, name.clone()))
        {
            mismatch.is_written = true;
        }
    }

    /// A chain was found as it was written.
    pub(in super::super) fn is_as_written(&mut self, family: Family, name: &ChainName) {
        if !self.mismatches.is_empty() {
            self.mismatches.remove(&(family, name.clone()));
        }
    }
}

/// Writes rules into a chain that no packet meets, with the text that they have in their
/// own, and reads them back as rules of that.
fn ask(table: &Iptables, rules: &[(&ChainName, &Rule)]) -> Result<Vec<Rule>, Error> {
    let (family, scratch) = (table.family(), ChainName::probe());
    let mut restore = Restore::of(family, [&scratch]);
    for (chain, rule) in rules {
        restore.rule_as_in(&scratch, chain, rule);
    }
    table.restore(&restore.finish())?;
    let printed = table.chain(&scratch);
    probe::remove(table, &scratch)?;
    let printed = printed?.unwrap_or_default();
    // Another program's probe may have been in the chain meanwhile; what it wrote there
    // stands for none of our rules.
    let is_unprintable = |rule: &Rule| rule.target == Target::Foreign(Foreign::Unprintable);
    if printed.len() != rules.len() || printed.iter().any(is_unprintable) {
        return Ok(Vec::new());
    }
    let printed = printed.into_iter().zip(rules);
    let as_in = |(printed, (chain, _)): (Rule, &(&ChainName, &Rule))| match &printed.target {
        Target::Foreign(Foreign::Line(text)) => printed_in(family, chain, text),
        _ => printed,
    };
    Ok(printed.map(as_in).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    const WANTED: &str = "-m conntrack --ctstate RELATED,ESTABLISHED -j RETURN";
    const PRINTED: &str = "-m conntrack --ctstate ESTABLISHED,RELATED -j RETURN";
    const FOREIGN: &str = "-j ACCEPT";
    const DROP: &str = "-j DROP";

    fn chain() -> ChainName {
        ChainName::ours("NPC-X").expect("a name of ours")
    }

    fn rules(lines: &[&str]) -> Vec<Rule> {
        lines.iter().map(|line| printed_in(Family::V4, &chain(), line)).collect()
    }

    fn rule(line: &str) -> Rule {
        printed_in(Family::V4, &chain(), line)
    }

    /// Where it was found out that the rule is printed otherwise.
    fn learnt() -> PrintedForms {
        let mut spellings = PrintedForms::default();
        let here = spellings.printed.entry((Family::V4, None)).or_default();
        here.insert(rule(PRINTED), [rule(WANTED)].into());
        spellings
    }

    #[test]
    fn what_is_printed_otherwise_is_the_same_in_its_place_and_nowhere_else() {
        let spellings = learnt();
        let desired = rules(&[WANTED, DROP]);
        let same = |family, found: &[&str]| spellings.is_same(family, &chain(), &desired, &rules(found));
        assert!(same(Family::V4, &[WANTED, DROP]));
        assert!(same(Family::V4, &[PRINTED, DROP]));
        assert!(!same(Family::V6, &[PRINTED, DROP]));
        assert!(!same(Family::V4, &[DROP, PRINTED]));
        assert!(!same(Family::V4, &[PRINTED]));
        assert!(!same(Family::V4, &[PRINTED, PRINTED]));
        assert!(!same(Family::V4, &[FOREIGN, DROP]));
    }

    #[test]
    fn what_is_read_says_what_was_written_where_that_is_certain() {
        let mut spellings = learnt();
        let mut chains = BTreeMap::from([(chain(), rules(&[PRINTED, FOREIGN]))]);
        spellings.translate(Family::V4, &FamilyState::default(), &mut chains);
        assert_eq!(chains[&chain()], rules(&[WANTED, FOREIGN]));
        let here = spellings.printed.get_mut(&(Family::V4, None)).expect("it was learnt");
        here.get_mut(&rule(PRINTED)).expect("it was learnt").insert(rule(DROP));
        let mut chains = BTreeMap::from([(chain(), rules(&[PRINTED]))]);
        spellings.translate(Family::V4, &FamilyState::default(), &mut chains);
        assert_eq!(chains[&chain()], rules(&[PRINTED]));
        let desired = FamilyState { chains: BTreeMap::from([(chain(), rules(&[WANTED]))]), ..FamilyState::default() };
        spellings.translate(Family::V4, &desired, &mut chains);
        assert_eq!(chains, desired.chains);
    }

    /// A rule that logs names its chain in its text, so it is printed otherwise in each.
    #[test]
    fn how_a_rule_that_logs_is_printed_is_known_of_its_own_chain_only() {
        let mut spellings = PrintedForms::default();
        let (log, read) = (Rule { matches: Vec::new(), target: Target::Log }, rule("-j NFLOG --other NPC-X"));
        let here = spellings.printed.entry(place(Family::V4, &chain(), &log)).or_default();
        here.insert(read.clone(), [log.clone()].into());
        let is_same = |chain: &ChainName| {
            spellings.is_same(Family::V4, chain, std::slice::from_ref(&log), std::slice::from_ref(&read))
        };
        let other = ChainName::ours("NPC-Y").expect("a name of ours");
        assert_eq!([is_same(&chain()), is_same(&other)], [true, false]);
        for (name, expected) in [(chain(), &log), (other, &read)] {
            let mut chains = BTreeMap::from([(name.clone(), vec![read.clone()])]);
            spellings.translate(Family::V4, &FamilyState::default(), &mut chains);
            assert_eq!(chains[&name], std::slice::from_ref(expected));
        }
    }

    /// Finds a chain so often, each time written anew, and says when it was to be.
    fn found(spellings: &mut PrintedForms, found: &[&str], by_others: Others, times: usize) -> Vec<bool> {
        let (name, desired, found) = (chain(), rules(&[WANTED]), rules(found));
        let chain = Differing { name: &name, desired: &desired, found: &found };
        let mut find = || {
            let must_repair = spellings.must_repair(Family::V4, &chain, by_others);
            if must_repair {
                spellings.is_written(Family::V4, &name);
            }
            must_repair
        };
        (0..times).map(|_| find()).collect()
    }

    #[test]
    fn repairs_that_do_not_help_are_given_up_for_a_while() {
        let mut spellings = PrintedForms::default();
        let answers = found(&mut spellings, &[PRINTED], Others::WroteNothing, 5);
        assert_eq!(answers, [true, true, true, false, false]);
        // Anything else is put right, and what was given up is once more.
        assert_eq!(found(&mut spellings, &[FOREIGN], Others::WroteNothing, 1), [true]);
        assert_eq!(found(&mut spellings, &[PRINTED], Others::WroteNothing, 4), [true, true, true, false]);
        let key = (Family::V4, chain());
        spellings.mismatches.get_mut(&key).expect("it is known").until = Some(Instant::now());
        assert_eq!(found(&mut spellings, &[PRINTED], Others::WroteNothing, 3), [true, false, false]);
        assert_eq!(spellings.mismatches[&key].pause, PAUSE.0 * 4);
    }

    #[test]
    fn what_others_may_have_done_is_always_repaired() {
        let mut spellings = PrintedForms::default();
        assert_eq!(found(&mut spellings, &[PRINTED], Others::Wrote, 9), [true; 9]);
        assert_eq!(found(&mut spellings, &[FOREIGN, FOREIGN], Others::MayHaveWritten, 9), [true; 9]);
        // The rule is known to be printed as it is written.
        spellings.plain.insert((Family::V4, rule(WANTED)));
        assert_eq!(found(&mut spellings, &[PRINTED], Others::MayHaveWritten, 9), [true; 9]);
    }
}
