//! What Azure NPM has in the kernel: chains `AZURE-NPM*` in the filter table of
//! either backend, the jump to them in FORWARD, sets `azure-npm-*`. It leaves
//! all of it behind when it goes. Nothing else is touched here.

use std::collections::BTreeSet;
use std::fs;

use npc_compiler::object::Family;
use npc_compiler::ruleset::node::FORWARD_CHAIN;
use npc_compiler::ruleset::text::others_restore;

use super::other_programs::{AZURE_CHAINS, AZURE_SETS};
use crate::dataplane::Error;
use crate::dataplane::ipset::{self, Ipset};
use crate::dataplane::iptables::{self, Iptables, Jump, Overview};
use crate::dataplane::programs::backend::Backend;

/// What the name of its process is, in /proc.
const PROCESS: &str = "azure-npm";

/// What there is of it.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct AzureLeftovers {
    /// The tables that hold something of it.
    pub tables: Vec<Table>,
    /// Its sets.
    pub sets: BTreeSet<String>,
}

/// What a filter table holds of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Table {
    /// The backend.
    pub backend: Backend,
    /// The family.
    pub family: Family,
    /// Its jumps in FORWARD.
    pub jumps: Vec<Jump>,
    /// Whether kube-proxy's jumps stand before the first of them.
    pub is_behind_kube_proxy: bool,
    /// Its chains.
    pub chains: BTreeSet<String>,
    /// The target of packets that no rule of FORWARD decides about.
    pub drops_by_default: bool,
    /// The jump to our chains stands before everything of it.
    pub is_behind_us: bool,
}

impl AzureLeftovers {
    /// Whether there is nothing.
    #[must_use]
    pub fn is_nothing(&self) -> bool {
        self.tables.is_empty() && self.sets.is_empty()
    }
}

/// What was removed, and what could not be.
#[derive(Debug, Default)]
pub struct AzureRemoved {
    /// What is gone.
    pub gone: AzureLeftovers,
    /// What failed; everything else was done all the same.
    pub errors: Vec<Error>,
}

/// Looks for it in the backends that are in use in this network namespace.
///
/// # Errors
/// If a table or the sets cannot be read.
pub fn find_leftovers() -> Result<AzureLeftovers, Error> {
    let mut leftovers = AzureLeftovers::default();
    for table in Iptables::in_use()? {
        leftovers.tables.extend(read(&table, &table.overview()?));
    }
    leftovers.sets = match Ipset::open().and_then(|mut ipset| ipset.names_with(AZURE_SETS)) {
        Ok(sets) => sets,
        // A kernel without ipset holds no sets.
        Err(ipset::Error::Absent(_)) => BTreeSet::new(),
        Err(error) => return Err(error.into()),
    };
    Ok(leftovers)
}

/// What a table holds of it, if anything.
fn read(table: &Iptables, overview: &Overview) -> Option<Table> {
    let chains: BTreeSet<String> = overview.chains.iter().filter(|chain| is_its(chain)).cloned().collect();
    let forward = &overview.forward;
    let jumps: Vec<Jump> = forward.iter().filter(|(_, to)| is_its(to)).map(|(jump, _)| jump.clone()).collect();
    if chains.is_empty() && jumps.is_empty() {
        return None;
    }
    let first = forward.iter().position(|(_, to)| is_its(to)).unwrap_or(forward.len());
    let before = |is: fn(&str) -> bool| forward[..first].iter().any(|(_, to)| is(to));
    Some(Table {
        backend: table.backend(),
        family: table.family(),
        is_behind_kube_proxy: before(|target| target.starts_with("KUBE-")),
        is_behind_us: before(|target| target == FORWARD_CHAIN),
        drops_by_default: overview.drops_by_default,
        jumps,
        chains,
    })
}

fn is_its(chain: &str) -> bool {
    chain == AZURE_CHAINS || chain.strip_prefix(AZURE_CHAINS).is_some_and(|rest| rest.starts_with('-'))
}

/// Removes it: of each table the jumps and the chains in one commit, so that no
/// packet meets a part of them, and then the sets, which nothing asks any more.
/// What another program's rule or set uses stays, empty, and is answered.
#[must_use]
pub fn remove(leftovers: &AzureLeftovers) -> AzureRemoved {
    let mut removed = AzureRemoved::default();
    for table in &leftovers.tables {
        match remove_table(table) {
            Ok((gone, errors)) => {
                removed.gone.tables.push(gone);
                removed.errors.extend(errors.into_iter().map(Error::from));
            }
            Err(error) => removed.errors.push(error.into()),
        }
    }
    match Ipset::open().and_then(|mut ipset| ipset.destroy_named(&leftovers.sets, ipset::PATIENCE)) {
        Ok(stuck) => {
            let is_stuck = |name: &String| stuck.iter().any(|(stuck, _)| stuck == name);
            removed.gone.sets = leftovers.sets.iter().filter(|name| !is_stuck(name)).cloned().collect();
            removed.errors.extend(stuck.into_iter().map(|(_, error)| error.into()));
        }
        Err(ipset::Error::Absent(_)) if leftovers.sets.is_empty() => {}
        Err(error) => removed.errors.push(error.into()),
    }
    removed
}

fn remove_table(table: &Table) -> Result<(Table, Vec<iptables::Error>), iptables::Error> {
    let iptables = Iptables::new(table.backend, table.family)?;
    // With nft the jumps go first, all of them at once: from then on no packet meets
    // the rest. iptables deletes only rules that it can read.
    let handles = table.jumps.iter().filter_map(|jump| match jump {
        Jump::Handle(handle) => Some(*handle),
        Jump::Rule(_) => None,
    });
    iptables.delete_from_forward(&handles.collect::<Vec<_>>())?;
    let rules = table.jumps.iter().filter_map(|jump| match jump {
        Jump::Rule(rule) => Some(rule.as_str()),
        Jump::Handle(_) => None,
    });
    let jumps: Vec<&str> = rules.collect();
    let chains: Vec<&str> = table.chains.iter().map(String::as_str).collect();
    if jumps.is_empty() && chains.is_empty() {
        return Ok((table.clone(), Vec::new()));
    }
    match iptables.restore(&others_restore(&jumps, &chains, &chains)) {
        Ok(()) => return Ok((table.clone(), Vec::new())),
        Err(iptables::Error::Restore { .. }) if !chains.is_empty() => {}
        Err(error) => return Err(error),
    }
    // Some rule of others leads to one of the chains: they are emptied, and
    // those go that can.
    iptables.restore(&others_restore(&jumps, &chains, &[]))?;
    let (mut gone, mut errors) = (table.clone(), Vec::new());
    for chain in chains {
        if let Err(error) = iptables.restore(&others_restore(&[], &[], &[chain])) {
            gone.chains.remove(chain);
            errors.push(error);
        }
    }
    Ok((gone, errors))
}

/// The processes of that name that can be seen from here: all of the node's
/// where its PIDs are shared, none of others' otherwise.
#[must_use]
pub fn processes() -> Vec<u32> {
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    let pids = entries.filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok());
    let is_its = |pid: &u32| fs::read_to_string(format!("/proc/{pid}/comm")).is_ok_and(|name| name.trim() == PROCESS);
    pids.filter(is_its).collect()
}
