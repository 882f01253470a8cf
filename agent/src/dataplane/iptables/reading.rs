//! Reading a filter table, where any rule may be another program's: our chains
//! by their rules, the others by their names.

use std::collections::{BTreeMap, BTreeSet};

use npc_compiler::object::Family;
use npc_compiler::ruleset::node::{ChainName, Foreign, Rule};
use npc_compiler::ruleset::text::{self, FORWARD};

use super::filter_table::{Jump, Overview};
use super::listing::{self, Listing};
use super::native::{self, Native};
use super::{Error, Iptables, error, lock};
use crate::dataplane::programs::backend::Backend;
use crate::dataplane::programs::process;

/// What was listed of chains.
struct ListedChains {
    /// As `iptables -S` prints them, one after another.
    text: String,
    /// Those that cannot be listed.
    unread: Vec<(ChainName, Unread)>,
}

/// Why nothing of a chain can be listed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Unread {
    Absent,
    /// iptables does not understand a rule in it.
    Unreadable,
    /// One or the other; nft versions of iptables report both alike.
    Either,
}

impl Iptables {
    /// npc's part of the table.
    ///
    /// # Errors
    /// If our chains cannot be read.
    pub fn read(&self) -> Result<Listing, Error> {
        Ok(match self.backend {
            Backend::Nft => Listing { chains: self.chains()?, hook: self.hook() },
            Backend::Legacy => match self.save() {
                Ok(save) => Listing::of_save(self.family, &save),
                Err(Error::Unreadable { printed, .. }) => {
                    Listing { chains: self.chains_declared(&printed)?, hook: self.hook_without_others() }
                }
                Err(error) => return Err(error),
            },
        })
    }

    /// As [`Iptables::read`], our chains alone. It takes no lock, unless a rule of
    /// another program is in the way (legacy).
    ///
    /// # Errors
    /// If the table cannot be read.
    pub fn chains(&self) -> Result<BTreeMap<ChainName, Vec<Rule>>, Error> {
        match self.backend {
            Backend::Nft => {
                let ours = self.native_chains()?;
                self.listed_chains(&ours)
            }
            Backend::Legacy => match self.save() {
                Ok(save) => Ok(text::chains(self.family, &save)),
                Err(Error::Unreadable { printed, .. }) => self.chains_declared(&printed),
                Err(error) => Err(error),
            },
        }
    }

    /// The rules of one chain of ours; `None` if it is not there. It takes as long as the chain is long.
    ///
    /// # Errors
    /// If it cannot be listed.
    pub fn chain(&self, name: &ChainName) -> Result<Option<Vec<Rule>>, Error> {
        Ok(self.listed_chains(std::slice::from_ref(name))?.remove(name))
    }

    /// How many packets the rules of these chains have dropped, each since the
    /// chain was written last. One that is not there, or not as we made it, has no
    /// number.
    ///
    /// With nft only they are listed; with legacy the whole table, but without the
    /// xtables lock, and at once.
    ///
    /// # Errors
    /// If the table cannot be listed.
    pub fn packets(&self, chains: &[ChainName]) -> Result<BTreeMap<ChainName, u64>, Error> {
        let saved = match self.backend {
            Backend::Nft => None,
            Backend::Legacy => match self.save_with(&["-c", "-t", "filter"]) {
                Ok(save) => Some(save),
                Err(Error::Unreadable { .. }) => None,
                Err(error) => return Err(error),
            },
        };
        let listed = saved.map_or_else(|| Ok(self.list(chains, true)?.text), Ok::<_, Error>)?;
        Ok(text::dropped(self.family, &listed, chains))
    }

    /// The chains of all programs, and where FORWARD leads.
    ///
    /// # Errors
    /// If the table cannot be read.
    pub(in super::super) fn overview(&self) -> Result<Overview, Error> {
        if self.backend == Backend::Legacy {
            return Ok(listing::overview(&self.save()?));
        }
        let mut native = self.native()?;
        let chains = native.chains().map_err(|source| self.of_kernel(source))?;
        let rules = native.rules(Some(FORWARD)).map_err(|source| self.of_kernel(source))?;
        let of_filter = || chains.iter().filter(|chain| chain.table == native::FILTER);
        Ok(Overview {
            chains: of_filter().map(|chain| chain.name.clone()).collect(),
            forward: rules.into_iter().filter_map(|rule| Some((Jump::Handle(rule.handle), rule.leads_to?))).collect(),
            drops_by_default: of_filter().any(|chain| chain.name == FORWARD && chain.drops),
        })
    }

    /// The names of all chains, of all programs.
    ///
    /// # Errors
    /// If they cannot be listed.
    pub(in super::super) fn chain_names(&self) -> Result<BTreeSet<String>, Error> {
        if self.backend == Backend::Nft {
            return Ok(self.overview()?.chains);
        }
        match self.save() {
            Ok(printed) | Err(Error::Unreadable { printed, .. }) => {
                Ok(text::declared(&printed).map(str::to_owned).collect())
            }
            Err(error) => Err(error),
        }
    }

    pub(super) fn native(&self) -> Result<Native, Error> {
        Native::open(self.family).map_err(|source| self.of_kernel(source))
    }

    pub(super) fn of_kernel(&self, source: super::super::nftables::Error) -> Error {
        Error::Kernel { family: self.family, source }
    }

    /// The names of our chains, as nf_tables has them.
    fn native_chains(&self) -> Result<Vec<ChainName>, Error> {
        let chains = self.native()?.chains().map_err(|source| self.of_kernel(source))?;
        let of_filter = chains.into_iter().filter(|chain| chain.table == native::FILTER);
        let mut names: Vec<ChainName> = of_filter.filter_map(|chain| ChainName::ours(&chain.name)).collect();
        names.sort_unstable();
        Ok(names)
    }

    /// Our chains among those that a save declared before it broke off. All chains
    /// of a table come before its rules.
    fn chains_declared(&self, printed: &str) -> Result<BTreeMap<ChainName, Vec<Rule>>, Error> {
        let declared: Vec<ChainName> = text::declared(printed).filter_map(ChainName::ours).collect();
        self.listed_chains(&declared)
    }

    /// The rules of these chains of ours, of those that are there.
    ///
    /// # Errors
    /// If they cannot be listed.
    pub fn listed_chains(&self, names: &[ChainName]) -> Result<BTreeMap<ChainName, Vec<Rule>>, Error> {
        if names.is_empty() {
            return Ok(BTreeMap::new());
        }
        let listed = self.list(names, false)?;
        let mut chains = text::chains(self.family, &listed.text);
        let is_doubtful = listed.unread.iter().any(|(_, why)| *why == Unread::Either);
        let there: BTreeSet<ChainName> =
            if is_doubtful { self.native_chains()?.into_iter().collect() } else { BTreeSet::new() };
        for (name, why) in listed.unread {
            // What was printed of it before iptables gave up.
            chains.remove(&name);
            if why == Unread::Unreadable || why == Unread::Either && there.contains(&name) {
                chains.insert(name, vec![Rule::foreign(Foreign::Unprintable)]);
            }
        }
        Ok(chains)
    }

    /// Lists chains by as few processes as can be: a restore carries out `-S`, too,
    /// one for each line, and stops at the first chain with a rule that it does
    /// not understand. The next process goes on behind that chain.
    fn list(&self, names: &[ChainName], with_counters: bool) -> Result<ListedChains, Error> {
        let mut listed = ListedChains { text: String::new(), unread: Vec::new() };
        let mut rest = names;
        while !rest.is_empty() {
            self.wait_for_lock()?;
            let text = text::list_text(rest, with_counters);
            let command = self.commands.restore;
            let output = process::run(command, &["--noflush", "--wait", &self.lock_seconds()], &text)?;
            listed.text.push_str(&output.stdout);
            if output.code == Some(0) {
                break;
            }
            if output.code == Some(error::RESOURCE_PROBLEM) && output.stderr.contains(error::LOCK_WORDS) {
                return Err(Error::Locked { waited: self.lock_wait, holder: lock::holder() });
            }
            let place = error::place(&text, &output.stderr);
            let why = if error::is_unreadable(&output.stderr) {
                if self.backend == Backend::Nft { Unread::Either } else { Unread::Unreadable }
            // Of an absent chain a legacy restore reports the line alone.
            } else if error::is_no_chain(&output.stderr) || self.backend == Backend::Legacy && place.number.is_some() {
                Unread::Absent
            } else {
                return Err(Error::Restore { command, place, message: error::message(&output.stderr) });
            };
            let culprit = culprit(rest, &place, &output);
            listed.unread.push((rest[culprit].clone(), why));
            // What it printed of that chain may be a part, which ends in no line.
            listed.text.push('\n');
            rest = &rest[culprit + 1..];
        }
        Ok(listed)
    }

    /// The whole table, of all programs, as `iptables-save` prints it.
    ///
    /// # Errors
    /// If the table cannot be read.
    fn save(&self) -> Result<String, Error> {
        self.save_with(&["-t", "filter"])
    }

    fn save_with(&self, arguments: &[&str]) -> Result<String, Error> {
        let command = self.commands.save;
        let output = process::run(command, arguments, "")?;
        let message = error::message(&output.stderr);
        if output.code == Some(0) {
            Ok(output.stdout)
        } else if error::is_unreadable(&output.stderr) {
            Err(Error::Unreadable { command, family: self.family, message, printed: output.stdout })
        } else {
            Err(Error::Command { command, arguments: arguments.join(" "), message })
        }
    }
}

/// The place among these chains at which listing them stopped.
fn culprit(names: &[ChainName], place: &error::RefusedLine, output: &process::Output) -> usize {
    let quoted = output.stderr.split(['\'', '`']).find_map(ChainName::ours);
    let by_name = quoted.and_then(|quoted| names.iter().position(|name| *name == quoted));
    // The first line names the table.
    let by_line = || place.number.and_then(|number| number.checked_sub(2)).filter(|place| *place < names.len());
    let by_print = || {
        let last = text::declared(&output.stdout).filter_map(ChainName::ours).last()?;
        names.iter().position(|name| *name == last)
    };
    by_name.or_else(by_line).or_else(by_print).unwrap_or(0)
}

/// Counts what one backend and family hold in all tables of iptables, over netlink.
pub(in super::super) fn native_residents(
    family: Family,
) -> Result<(Vec<native::NativeChain>, Vec<native::NativeRule>), super::super::nftables::Error> {
    let mut native = Native::open(family)?;
    Ok((native.chains()?, native.rules(None)?))
}
