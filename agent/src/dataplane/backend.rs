//! Which of the kernel's two packet filters the rules of this node live in,
//! and the programs that speak to it.
//!
//! Legacy and nft rules coexist in one kernel, and a packet meets both. Ours
//! must stand where kubelet's and kube-proxy's stand, or "first in FORWARD"
//! means nothing; so the kernel is asked what lives in it. Asking must change
//! nothing: a legacy command that only lists a table creates it, and an nft
//! command loads nf_tables.

use std::collections::BTreeSet;
use std::fmt;
use std::fs;

use npc_compiler::object::Family;
use npc_compiler::ruleset::node::{ChainName, FORWARD_CHAIN};
use npc_compiler::ruleset::text;

use super::{iptables, nftables, process};

/// One of the two packet filters behind `iptables`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Backend {
    /// nf_tables, through `iptables-nft`.
    Nft,
    /// The original ip_tables, through `iptables-legacy`.
    Legacy,
}

impl Backend {
    /// Both of them.
    pub const ALL: [Self; 2] = [Self::Nft, Self::Legacy];

    /// As in `iptables-nft` and on our command line.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Nft => "nft",
            Self::Legacy => "legacy",
        }
    }

    /// As `iptables --version` names it.
    const fn version_word(self) -> &'static str {
        match self {
            Self::Nft => "(nf_tables)",
            Self::Legacy => "(legacy)",
        }
    }
}

impl fmt::Display for Backend {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// Why no backend, or not this one, can be used.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// None of a backend's commands is installed.
    #[error(
        "no iptables for the {backend} backend: neither {named} nor an iptables of that kind is installed \
         (Debian has both in the package iptables)"
    )]
    Missing {
        /// The backend.
        backend: Backend,
        /// The command that was looked for first.
        named: &'static str,
    },
    /// A command could not be run.
    #[error(transparent)]
    Process(#[from] process::Error),
    /// nf_tables could not be asked.
    #[error("cannot find out which iptables backend this node uses")]
    Kernel(#[from] nftables::Error),
}

/// The commands of one backend and family.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Commands {
    /// `iptables` itself.
    pub iptables: &'static str,
    /// Its `-restore`.
    pub restore: &'static str,
    /// Its `-save`.
    pub save: &'static str,
}

/// The commands by which distributions that ship both backends tell them apart.
const fn named(backend: Backend, family: Family) -> Commands {
    match (backend, family) {
        (Backend::Nft, Family::V4) => {
            Commands { iptables: "iptables-nft", restore: "iptables-nft-restore", save: "iptables-nft-save" }
        }
        (Backend::Nft, Family::V6) => {
            Commands { iptables: "ip6tables-nft", restore: "ip6tables-nft-restore", save: "ip6tables-nft-save" }
        }
        (Backend::Legacy, Family::V4) => {
            Commands { iptables: "iptables-legacy", restore: "iptables-legacy-restore", save: "iptables-legacy-save" }
        }
        (Backend::Legacy, Family::V6) => Commands {
            iptables: "ip6tables-legacy",
            restore: "ip6tables-legacy-restore",
            save: "ip6tables-legacy-save",
        },
    }
}

/// The commands of a distribution that ships one backend only.
const fn plain(family: Family) -> Commands {
    match family {
        Family::V4 => Commands { iptables: "iptables", restore: "iptables-restore", save: "iptables-save" },
        Family::V6 => Commands { iptables: "ip6tables", restore: "ip6tables-restore", save: "ip6tables-save" },
    }
}

impl Commands {
    /// The installed commands for a backend and family.
    ///
    /// # Errors
    /// If there are none.
    pub fn find(backend: Backend, family: Family) -> Result<Self, Error> {
        let suffixed = named(backend, family);
        if process::find(suffixed.iptables).is_some() {
            return Ok(suffixed);
        }
        let plain = plain(family);
        if default_backend(family)? == Some(backend) {
            return Ok(plain);
        }
        Err(Error::Missing { backend, named: suffixed.iptables })
    }
}

/// The backend that plain `iptables` stands for on this system, if there is
/// one. Before 1.8 there was only one, and it did not name it.
fn default_backend(family: Family) -> Result<Option<Backend>, Error> {
    let command = plain(family).iptables;
    if process::find(command).is_none() {
        return Ok(None);
    }
    let version = process::run(command, &["--version"], "")?.stdout;
    let of_version = Backend::ALL.into_iter().find(|backend| version.contains(backend.version_word()));
    Ok(Some(of_version.unwrap_or(Backend::Legacy)))
}

/// Chains that kubelet makes, in one backend only.
const HINTS: [&str; 2] = ["KUBE-IPTABLES-HINT", "KUBE-KUBELET-CANARY"];

/// What lives in one backend.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
struct Residents {
    /// Kubelet's chains are there: it puts them where the node's rules belong,
    /// for others to find.
    hint: bool,
    /// How many rules of others there are, in all tables and both families.
    rules: usize,
    /// Rules of ours are there, from an earlier run.
    ours: bool,
}

impl Residents {
    /// Counts what `iptables-save` printed.
    fn count(&mut self, save: &str) {
        self.hint |= text::declared(save).any(|chain| HINTS.contains(&chain));
        let (ours, others) = text::count_rules(save);
        self.ours |= ours > 0;
        self.rules += others;
    }

    /// Counts what nf_tables lists of the tables of iptables, rules among it that
    /// iptables could not print.
    fn count_native(&mut self, chains: &[iptables::NativeChain], rules: &[iptables::NativeRule]) {
        self.hint |= chains.iter().any(|chain| HINTS.contains(&chain.name.as_str()));
        for rule in rules {
            if ChainName::ours(&rule.chain).is_some() || rule.leads_to.as_deref() == Some(FORWARD_CHAIN) {
                self.ours = true;
            } else {
                self.rules += 1;
            }
        }
    }
}

/// The backend that this node uses, and why npc thinks so, in words.
///
/// # Errors
/// If no backend is installed or a command cannot be run.
pub fn detect() -> Result<(Backend, String), Error> {
    let nft = residents(Backend::Nft)?;
    let legacy = residents(Backend::Legacy)?;
    let default = default_backend(Family::V4)?;
    Ok(choose(nft, legacy, default))
}

fn choose(nft: Residents, legacy: Residents, default: Option<Backend>) -> (Backend, String) {
    match (nft.hint, legacy.hint) {
        (true, false) => return (Backend::Nft, "kubelet's hint chain is there".to_owned()),
        (false, true) => return (Backend::Legacy, "kubelet's hint chain is there".to_owned()),
        _ => {}
    }
    let counts = format!("{} rules there, {} in legacy", nft.rules, legacy.rules);
    match nft.rules.cmp(&legacy.rules) {
        std::cmp::Ordering::Greater => (Backend::Nft, counts),
        std::cmp::Ordering::Less => (Backend::Legacy, format!("{} rules there, {} in nft", legacy.rules, nft.rules)),
        // Where others have nothing to say, to stay is better than to move.
        std::cmp::Ordering::Equal if nft.ours != legacy.ours => {
            (if nft.ours { Backend::Nft } else { Backend::Legacy }, "npc's rules are there".to_owned())
        }
        std::cmp::Ordering::Equal => match default {
            Some(default) => (default, "the system's default".to_owned()),
            None => (Backend::Nft, "neither the kernel nor the system shows which".to_owned()),
        },
    }
}

fn residents(backend: Backend) -> Result<Residents, Error> {
    let mut residents = Residents::default();
    for family in Family::ALL {
        if !is_live(backend, family) {
            continue;
        }
        let commands = match Commands::find(backend, family) {
            Ok(commands) => commands,
            // What cannot be read cannot be counted.
            Err(Error::Missing { .. }) => continue,
            Err(error) => return Err(error),
        };
        match backend {
            Backend::Nft => {
                let (chains, rules) = iptables::native_residents(family)?;
                residents.count_native(&chains, &rules);
            }
            // It stops at a rule whose extension is not installed here; what it
            // printed before counts.
            Backend::Legacy => residents.count(&process::run(commands.save, &[], "")?.stdout),
        }
    }
    Ok(residents)
}

/// Whether a backend holds anything in this network namespace, as far as npc can
/// see without loading its modules.
#[must_use]
pub fn is_live(backend: Backend, family: Family) -> bool {
    match backend {
        Backend::Nft => nf_tables_is_loaded(),
        Backend::Legacy => !legacy_tables(family).is_empty(),
    }
}

/// The same of the filter table alone: with legacy, only to look into one that is
/// not there would create it.
#[must_use]
pub fn has_filter(backend: Backend, family: Family) -> bool {
    match backend {
        Backend::Nft => nf_tables_is_loaded(),
        Backend::Legacy => legacy_tables(family).contains("filter"),
    }
}

/// The legacy tables of this network namespace. The kernel lists those that
/// a program has used, and the file is not there without the module.
fn legacy_tables(family: Family) -> BTreeSet<String> {
    // Of the thread, not of the process: tests enter a namespace per thread.
    let file = match family {
        Family::V4 => "/proc/thread-self/net/ip_tables_names",
        Family::V6 => "/proc/thread-self/net/ip6_tables_names",
    };
    fs::read_to_string(file).unwrap_or_default().lines().map(str::to_owned).collect()
}

/// A kernel without modules has what it has, and asking loads nothing. In one
/// with modules, nf_tables is loaded or built in, or there are no nft rules.
pub(super) fn nf_tables_is_loaded() -> bool {
    let Ok(modules) = fs::read_to_string("/proc/modules") else { return true };
    if modules.lines().any(|line| line.split(' ').next() == Some("nf_tables")) {
        return true;
    }
    let release = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    match fs::read_to_string(format!("/lib/modules/{}/modules.builtin", release.trim())) {
        Ok(built_in) => built_in.lines().any(|line| line.ends_with("/nf_tables.ko")),
        // In a container without the host's /lib/modules: nft has been every
        // distribution's default for years, so asking is the smaller risk.
        Err(_) => true,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn holds(hint: bool, rules: usize) -> Residents {
        Residents { hint, rules, ours: false }
    }

    #[test]
    fn kubelets_hint_outweighs_any_number_of_rules() {
        assert_eq!(choose(holds(true, 1), holds(false, 500), Some(Backend::Legacy)).0, Backend::Nft);
        assert_eq!(choose(holds(false, 500), holds(true, 1), Some(Backend::Nft)).0, Backend::Legacy);
    }

    #[test]
    fn without_a_hint_the_majority_wins_and_then_the_default() {
        assert_eq!(choose(holds(false, 3), holds(false, 2), Some(Backend::Legacy)).0, Backend::Nft);
        assert_eq!(choose(holds(true, 2), holds(true, 3), Some(Backend::Nft)).0, Backend::Legacy);
        assert_eq!(choose(holds(false, 0), holds(false, 0), Some(Backend::Legacy)).0, Backend::Legacy);
        assert_eq!(choose(holds(false, 0), holds(false, 0), None).0, Backend::Nft);
    }

    #[test]
    fn without_rules_of_other_programs_an_agent_keeps_its_backend() {
        let mut ours = Residents::default();
        ours.count("*filter\n-A FORWARD -j NPC-FORWARD\n-A NPC-FORWARD -j RETURN\nCOMMIT\n");
        assert_eq!(ours, Residents { ours: true, ..holds(false, 0) });
        assert_eq!(choose(holds(false, 0), ours, Some(Backend::Nft)).0, Backend::Legacy);
        assert_eq!(choose(ours, holds(false, 1), Some(Backend::Nft)).0, Backend::Legacy);
    }

    #[test]
    fn a_save_is_counted_by_its_rules_and_searched_for_both_hints() {
        let mut residents = Residents::default();
        residents.count("*mangle\n:KUBE-KUBELET-CANARY - [0:0]\nCOMMIT\n*filter\n-A FORWARD -j DROP\nCOMMIT\n");
        assert_eq!(residents, holds(true, 1));
        let mut residents = Residents::default();
        residents.count("*mangle\n:KUBE-IPTABLES-HINTED - [0:0]\nCOMMIT\n");
        assert_eq!(residents, holds(false, 0));
    }
}
