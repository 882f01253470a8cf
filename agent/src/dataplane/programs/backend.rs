//! The kernel's two packet filters, and the programs that speak to them.
//!
//! Asking must change nothing: a legacy command that only lists a table creates it, and an nft
//! command loads nf_tables.

use std::collections::BTreeSet;
use std::fmt;
use std::fs;

use npc_compiler::object::Family;

use super::process;
use crate::dataplane::nftables;
use crate::dataplane::nftables::nf_tables_is_loaded;

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

    /// Its name, as in `iptables-nft` and on our command line.
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

/// The commands by which distributions that ship both backends distinguish them.
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
pub(in super::super) fn default_backend(family: Family) -> Result<Option<Backend>, Error> {
    let command = plain(family).iptables;
    if process::find(command).is_none() {
        return Ok(None);
    }
    let version = process::run(command, &["--version"], "")?.stdout;
    let of_version = Backend::ALL.into_iter().find(|backend| version.contains(backend.version_word()));
    Ok(Some(of_version.unwrap_or(Backend::Legacy)))
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

/// Whether a backend may hold a filter table. With legacy, ask this first, because only reading a
/// table that is not there would create it.
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
