//! How this node's iptables prints the rules that we write.
//!
//! Most versions print a rule as we spell it, or differ in blanks and quotes, which
//! count for nothing. Where one prints a rule otherwise all the same, comparing
//! texts would find drift for ever. So before a chain counts as changed, the rules
//! that differ are written into a chain that no packet meets, and read back: what
//! is printed there stands for what was written, wherever it is read.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use npc_compiler::object::Family;
use npc_compiler::plan::Held;
use npc_compiler::ruleset::program::ChainName;
use tracing::{debug, warn};

use super::iptables::{Error, Iptables};
use super::probe;

/// So many rules are asked about at once at most. A chain of which more differ is
/// asked about again with the next audit.
const ASKED: usize = 512;

/// More than this is not remembered.
const KNOWN: usize = 100_000;

/// So often a chain is written anew before that is given up for a while, and how
/// long that is at first and at most.
const REPAIRS: u32 = 3;
const PAUSE: (Duration, Duration) = (Duration::from_secs(5 * 60), Duration::from_secs(3600));

/// What is known of how iptables prints rules.
#[derive(Debug, Default)]
pub(super) struct Spellings {
    /// For what is printed, without the chain, what was written.
    printed: BTreeMap<(Family, String), BTreeSet<String>>,
    /// Rules that are printed as they were written.
    plain: BTreeSet<(Family, String)>,
    /// Chains that are not printed as they were written, however often that is.
    stubborn: BTreeMap<(Family, ChainName), Stubborn>,
}

#[derive(Debug)]
struct Stubborn {
    wanted: Vec<String>,
    found: Vec<String>,
    /// So often it was found just so after it was written.
    repairs: u32,
    /// It was written since it was found so last.
    is_written: bool,
    /// It is left alone until then, and how long the next time.
    until: Option<Instant>,
    pause: Duration,
}

/// Whether other programs wrote rules since they were looked at last.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Others {
    /// The kernel reported it.
    Wrote,
    /// Nothing tells.
    MayHaveWritten,
    /// The kernel would have told.
    WroteNothing,
}

/// A chain that is not printed as it was written.
pub(super) struct Differing<'a> {
    /// Its name.
    pub(super) name: &'a ChainName,
    /// Its rules, as they were written.
    pub(super) wanted: &'a [String],
    /// Its rules, as they are printed.
    pub(super) found: &'a [String],
}

impl Spellings {
    /// Whether these are the rules that were written: each the same, or printed as
    /// such a rule is printed.
    pub(super) fn is_same(&self, family: Family, wanted: &[String], found: &[String]) -> bool {
        wanted.len() == found.len()
            && wanted.iter().zip(found).all(|(wanted, found)| wanted == found || self.stands_for(family, found, wanted))
    }

    fn stands_for(&self, family: Family, found: &str, wanted: &str) -> bool {
        let written = self.printed.get(&(family, body(found).to_owned()));
        written.is_some_and(|written| written.contains(body(wanted)))
    }

    /// Says of rules that were read what was written: of a chain that is wanted, what
    /// is wanted, if it is the same; of others, where that is certain.
    pub(super) fn translate(&self, family: Family, wanted: &Held, found: &mut BTreeMap<ChainName, Vec<String>>) {
        if self.printed.is_empty() {
            return;
        }
        for (name, lines) in found {
            if let Some(wanted) = wanted.chains.get(name)
                && self.is_same(family, wanted, lines)
            {
                lines.clone_from(wanted);
                continue;
            }
            for line in lines {
                let written = self.printed.get(&(family, body(line).to_owned()));
                if let Some(written) = written.filter(|written| written.len() == 1).and_then(BTreeSet::first) {
                    *line = format!("-A {name} {written}");
                }
            }
        }
    }

    /// Finds out how rules are printed that were not found as they were written.
    /// Where that cannot be found out, nothing is known.
    pub(super) fn learn(&mut self, table: &Iptables, differing: &[Differing<'_>]) {
        let family = table.family();
        let alike = differing.iter().filter(|chain| chain.wanted.len() == chain.found.len());
        let pairs = alike.flat_map(|chain| chain.wanted.iter().zip(chain.found));
        let unknown: BTreeSet<&str> = pairs
            .filter(|(wanted, found)| wanted != found && !self.stands_for(family, found, wanted))
            .map(|(wanted, _)| body(wanted))
            .filter(|body| !self.plain.contains(&(family, (*body).to_owned())))
            .take(ASKED)
            .collect();
        if unknown.is_empty() {
            return;
        }
        let unknown: Vec<&str> = unknown.into_iter().collect();
        let printed = match ask(table, &unknown) {
            Ok(printed) if printed.len() == unknown.len() => printed,
            Ok(_) => return,
            Err(error) => {
                debug!(%family, %error, "cannot find out how iptables prints these rules");
                return;
            }
        };
        if self.printed.len() + self.plain.len() > KNOWN {
            *self = Self::default();
        }
        let mut otherwise = Vec::new();
        for (written, printed) in unknown.into_iter().zip(printed) {
            if body(&printed) == written {
                self.plain.insert((family, written.to_owned()));
            } else {
                otherwise.push((written, body(&printed).to_owned()));
            }
        }
        if let Some((written, printed)) = otherwise.first() {
            let rules = otherwise.len();
            warn!(
                %family, rules, written, printed,
                "this iptables prints rules otherwise than they were written; they are compared with how it prints them"
            );
        }
        for (written, printed) in otherwise {
            self.printed.entry((family, printed)).or_default().insert(written.to_owned());
        }
    }

    /// Whether a chain that is found to differ is to be written anew. One that is
    /// found just so after each of several repairs is left alone for a while, unless
    /// another program may have changed it.
    pub(super) fn is_to_repair(&mut self, family: Family, chain: &Differing<'_>, by_others: Others) -> bool {
        let Differing { name, wanted, found } = chain;
        let is_plain = |rule: &String| self.plain.contains(&(family, body(rule).to_owned()));
        // Another number of rules, or other rules where iptables prints ours as they
        // are written, is no matter of spelling.
        let is_change = wanted.len() != found.len() || wanted.iter().zip(*found).any(|(a, b)| a != b && is_plain(a));
        let key = (family, (*name).clone());
        if by_others == Others::Wrote || is_change && by_others == Others::MayHaveWritten {
            self.stubborn.remove(&key);
            return true;
        }
        let stubborn = match self.stubborn.get_mut(&key) {
            Some(stubborn) if stubborn.wanted == *wanted && stubborn.found == *found => stubborn,
            _ => {
                let (wanted, found) = (wanted.to_vec(), found.to_vec());
                let first = Stubborn { wanted, found, repairs: 0, is_written: false, until: None, pause: PAUSE.0 };
                self.stubborn.insert(key, first);
                return true;
            }
        };
        if std::mem::take(&mut stubborn.is_written) {
            stubborn.repairs += 1;
        }
        if stubborn.repairs < REPAIRS {
            return true;
        }
        let now = Instant::now();
        match stubborn.until {
            Some(until) if now < until => return false,
            // Once more.
            Some(_) => {
                (stubborn.until, stubborn.repairs) = (None, REPAIRS - 1);
                return true;
            }
            None => {}
        }
        let differs = wanted.iter().zip(*found).find(|(wanted, found)| wanted != found);
        let (written, printed) = differs.map(|(a, b)| (a.as_str(), b.as_str())).unwrap_or_default();
        warn!(
            %family, chain = %name, written, printed, next = ?stubborn.pause,
            "a chain is not printed as it was written, though it was written {REPAIRS} times; until it is written again, \
             only changes to what is printed now count as changes"
        );
        stubborn.until = Some(now + stubborn.pause);
        stubborn.pause = (stubborn.pause * 2).min(PAUSE.1);
        false
    }

    /// A chain was written.
    pub(super) fn is_written(&mut self, family: Family, name: &ChainName) {
        if !self.stubborn.is_empty()
            && let Some(stubborn) = self.stubborn.get_mut(&(family, name.clone()))
        {
            stubborn.is_written = true;
        }
    }

    /// A chain was found as it was written.
    pub(super) fn is_as_written(&mut self, family: Family, name: &ChainName) {
        if !self.stubborn.is_empty() {
            self.stubborn.remove(&(family, name.clone()));
        }
    }
}

/// Writes rules into a chain that no packet meets, and reads them back.
fn ask(table: &Iptables, rules: &[&str]) -> Result<Vec<String>, Error> {
    let chain = probe::scratch_chain();
    let mut text = format!("*filter\n:{chain} - [0:0]\n");
    for rule in rules {
        text.extend(["-A ", chain.as_str(), " ", rule, "\n"]);
    }
    text.push_str("COMMIT\n");
    table.restore(&text)?;
    let printed = table.chain(&chain);
    // Declared again it is empty, and so it can go.
    table.restore(&format!("*filter\n:{chain} - [0:0]\n-X {chain}\nCOMMIT\n"))?;
    Ok(printed?.unwrap_or_default())
}

/// A rule without the chain that it is in.
fn body(line: &str) -> &str {
    line.strip_prefix("-A ").and_then(|rest| rest.split_once(' ')).map_or(line, |(_, body)| body)
}

#[cfg(test)]
mod tests {
    use super::*;

    const WANTED: &str = "-A NPC-X -m conntrack --ctstate RELATED,ESTABLISHED -j RETURN";
    const PRINTED: &str = "-A NPC-X -m conntrack --ctstate ESTABLISHED,RELATED -j RETURN";
    const FOREIGN: &str = "-A NPC-X -j ACCEPT";

    fn lines(lines: &[&str]) -> Vec<String> {
        lines.iter().map(|line| (*line).to_owned()).collect()
    }

    /// Where it was found out that the rule is printed otherwise.
    fn learnt() -> Spellings {
        let mut spellings = Spellings::default();
        let written = BTreeSet::from([body(WANTED).to_owned()]);
        spellings.printed.insert((Family::V4, body(PRINTED).to_owned()), written);
        spellings
    }

    #[test]
    fn what_is_printed_otherwise_is_the_same_in_its_place_and_nowhere_else() {
        let spellings = learnt();
        let wanted = lines(&[WANTED, "-A NPC-X -j DROP"]);
        let same = |family, found: &[&str]| spellings.is_same(family, &wanted, &lines(found));
        assert!(same(Family::V4, &[WANTED, "-A NPC-X -j DROP"]));
        assert!(same(Family::V4, &[PRINTED, "-A NPC-X -j DROP"]));
        assert!(!same(Family::V6, &[PRINTED, "-A NPC-X -j DROP"]));
        assert!(!same(Family::V4, &["-A NPC-X -j DROP", PRINTED]));
        assert!(!same(Family::V4, &[PRINTED]));
        assert!(!same(Family::V4, &[PRINTED, PRINTED]));
        assert!(!same(Family::V4, &[FOREIGN, "-A NPC-X -j DROP"]));
    }

    #[test]
    fn what_is_read_says_what_was_written_where_that_is_certain() {
        let mut spellings = learnt();
        let mut chains = BTreeMap::from([(ChainName::new("X"), lines(&[PRINTED, FOREIGN]))]);
        spellings.translate(Family::V4, &Held::default(), &mut chains);
        assert_eq!(chains[&ChainName::new("X")], [WANTED, FOREIGN]);
        let ambiguous = spellings.printed.get_mut(&(Family::V4, body(PRINTED).to_owned())).expect("it was learnt");
        ambiguous.insert("-j DROP".to_owned());
        let mut chains = BTreeMap::from([(ChainName::new("X"), lines(&[PRINTED]))]);
        spellings.translate(Family::V4, &Held::default(), &mut chains);
        assert_eq!(chains[&ChainName::new("X")], [PRINTED]);
        let wanted = Held { chains: BTreeMap::from([(ChainName::new("X"), lines(&[WANTED]))]), ..Held::default() };
        spellings.translate(Family::V4, &wanted, &mut chains);
        assert_eq!(chains, wanted.chains);
    }

    /// Finds a chain so often, each time written anew, and says when it was to be.
    fn found(spellings: &mut Spellings, found: &[&str], by_others: Others, times: usize) -> Vec<bool> {
        let (name, wanted, found) = (ChainName::new("X"), lines(&[WANTED]), lines(found));
        let chain = Differing { name: &name, wanted: &wanted, found: &found };
        let mut find = || {
            let is_to_repair = spellings.is_to_repair(Family::V4, &chain, by_others);
            if is_to_repair {
                spellings.is_written(Family::V4, &name);
            }
            is_to_repair
        };
        (0..times).map(|_| find()).collect()
    }

    #[test]
    fn repairs_that_do_not_help_are_given_up_for_a_while() {
        let mut spellings = Spellings::default();
        let answers = found(&mut spellings, &[PRINTED], Others::WroteNothing, 5);
        assert_eq!(answers, [true, true, true, false, false]);
        // Anything else is put right, and what was given up is once more.
        assert_eq!(found(&mut spellings, &[FOREIGN], Others::WroteNothing, 1), [true]);
        assert_eq!(found(&mut spellings, &[PRINTED], Others::WroteNothing, 4), [true, true, true, false]);
        let key = (Family::V4, ChainName::new("X"));
        spellings.stubborn.get_mut(&key).expect("it is known").until = Some(Instant::now());
        assert_eq!(found(&mut spellings, &[PRINTED], Others::WroteNothing, 3), [true, false, false]);
        assert_eq!(spellings.stubborn[&key].pause, PAUSE.0 * 4);
    }

    #[test]
    fn what_others_may_have_done_is_always_repaired() {
        let mut spellings = Spellings::default();
        assert_eq!(found(&mut spellings, &[PRINTED], Others::Wrote, 9), [true; 9]);
        assert_eq!(found(&mut spellings, &[FOREIGN, FOREIGN], Others::MayHaveWritten, 9), [true; 9]);
        // The rule is known to be printed as it is written.
        spellings.plain.insert((Family::V4, body(WANTED).to_owned()));
        assert_eq!(found(&mut spellings, &[PRINTED], Others::MayHaveWritten, 9), [true; 9]);
    }
}
