//! Taking everything of ours out of the kernel, and nothing else.

use std::collections::BTreeSet;

use npc_compiler::object::Family;
use npc_compiler::plan::ChainWrites;
use npc_compiler::ruleset::node::{ChainName, SetName};

use super::Error;
use super::bridge;
use super::flows::flow_index;
use super::ipset::{self, Ipset};
use super::iptables::{self, Iptables};
use super::network::links;
use super::programs::backend::Backend;

/// What was removed, and what could not be.
#[derive(Debug, Default)]
pub struct Removed {
    /// The jumps from FORWARD, by backend and family.
    pub jumps: Vec<(Backend, Family)>,
    /// The chains.
    pub chains: Vec<(Backend, Family, ChainName)>,
    /// The sets.
    pub sets: Vec<SetName>,
    /// The network interfaces that are not in the device group of pods any more.
    pub interfaces: Vec<String>,
    /// Whether there was a table in the bridge family.
    pub bridge: bool,
    /// Whether there was a table of addresses that have flows.
    pub flow_index: bool,
    /// What failed; everything else was done all the same.
    pub errors: Vec<Error>,
}

impl Removed {
    /// Whether there was nothing of ours.
    #[must_use]
    pub fn is_nothing(&self) -> bool {
        self.jumps.is_empty()
            && self.chains.is_empty()
            && self.sets.is_empty()
            && self.interfaces.is_empty()
            && !self.bridge
            && !self.flow_index
            && self.errors.is_empty()
    }
}

/// Removes everything of ours from both backends and both families, as far as
/// they are in use in this network namespace.
#[must_use]
pub fn cleanup() -> Removed {
    let mut removed = Removed::default();
    for backend in Backend::ALL {
        for table in tables_in_use(backend, &mut removed) {
            remove(&table, &mut removed);
        }
    }
    // Sets last: rules of either backend may have named them.
    match destroy_sets(&mut removed) {
        // A kernel without ipset holds no sets.
        Ok(()) | Err(ipset::Error::Absent(_)) => {}
        Err(error) => removed.errors.push(error.into()),
    }
    match bridge::remove() {
        Ok(was_there) => removed.bridge = was_there,
        Err(error) => removed.errors.push(error.into()),
    }
    match flow_index::remove() {
        Ok(was_there) => removed.flow_index = was_there,
        Err(error) => removed.errors.push(error.into()),
    }
    if let Err(error) = leave_group(&mut removed) {
        removed.errors.push(error.into());
    }
    removed
}

fn leave_group(removed: &mut Removed) -> Result<(), links::Error> {
    for (index, name) in links::in_pod_group()? {
        match links::set_group(&[index], links::NO_GROUP) {
            Ok(()) => removed.interfaces.push(name),
            Err(error) => removed.errors.push(error.into()),
        }
    }
    Ok(())
}

fn destroy_sets(removed: &mut Removed) -> Result<(), ipset::Error> {
    let mut ipset = Ipset::open()?;
    let names = ipset.names()?;
    let stuck = ipset.destroy(&names, ipset::PATIENCE)?;
    removed.sets = names.into_iter().filter(|name| !stuck.iter().any(|(stuck, _)| stuck == name)).collect();
    removed.errors.extend(stuck.into_iter().map(|(_, error)| error.into()));
    Ok(())
}

/// Removes our jump and our chains from one backend, and no sets. Where none of
/// our chains are, nothing is written.
#[must_use]
pub(super) fn leave(backend: Backend) -> Removed {
    let mut removed = Removed::default();
    for table in tables_in_use(backend, &mut removed) {
        match table.chains() {
            Ok(chains) if chains.is_empty() => {}
            Ok(_) => remove(&table, &mut removed),
            Err(error) => removed.errors.push(error.into()),
        }
    }
    removed
}

/// The filter tables of a backend that are in use in this network namespace.
fn tables_in_use(backend: Backend, removed: &mut Removed) -> Vec<Iptables> {
    let mut tables = Vec::new();
    for table in Iptables::in_use_of(backend) {
        match table {
            Ok(table) => tables.push(table),
            Err(error) => removed.errors.push(error.into()),
        }
    }
    tables
}

fn remove(table: &Iptables, removed: &mut Removed) {
    // First the jump: from then on no packet meets the rest.
    match table.unhook() {
        Ok(true) => removed.jumps.push((table.backend(), table.family())),
        Ok(false) => {}
        Err(error) => removed.errors.push(error.into()),
    }
    if let Err(error) = delete_chains(table, removed) {
        removed.errors.push(error.into());
    }
}

fn delete_chains(table: &Iptables, removed: &mut Removed) -> Result<(), iptables::Error> {
    let delete: BTreeSet<ChainName> = table.chains()?.into_keys().collect();
    if delete.is_empty() {
        return Ok(());
    }
    let writes = ChainWrites { delete, ..ChainWrites::default() };
    let stuck = table.write(&writes)?;
    let gone = writes.delete.into_iter().filter(|chain| !stuck.iter().any(|(stuck, _)| stuck == chain));
    removed.chains.extend(gone.map(|chain| (table.backend(), table.family(), chain)));
    removed.errors.extend(stuck.into_iter().map(|(_, error)| error.into()));
    Ok(())
}
