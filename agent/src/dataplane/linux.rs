//! The real kernel, by way of `iptables-restore` and netlink.

use std::collections::BTreeSet;
use std::io;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use npc_compiler::object::Family;
use npc_compiler::plan::{ChainWrites, FamilyState, KernelState, Plan, SetWrite, Step};
use npc_compiler::ruleset::names::seed::Seed;
use npc_compiler::ruleset::node::SetName;
use tracing::{debug, info, warn};

use super::audit::alias::Aliases;
use super::audit::notifications::ChangeWaiter;
use super::audit::{Audit, AuditScope, Auditor};
use super::bridge::{self, BridgeFilter, BridgeTable};
use super::flows::flow_index::{self, Index};
use super::flows::passage::grace;
use super::flows::{CutSupport, Flows, LinuxFlows};
use super::ipset::{self, Ipset, OddSet};
use super::iptables::counters::Counters;
use super::iptables::{self, Hook, Iptables, Restored};
use super::network::links;
use super::others::other_backend::OtherBackend;
use super::programs::backend::Backend;
use super::supported::detect::detect;
use super::supported::probe::{self, Supported};
use super::{Error, Failures, Kernel};
use crate::words::rounded::rounded;

/// How long the xtables lock is waited for at a time. What needs no lock waits
/// meanwhile; so not for long, and again later.
const LOCK_WAIT: Duration = Duration::from_secs(1);

/// How long a set of another kind may stay in use, once the rule that asked it
/// is gone; see [`ipset::PATIENCE`].
const ODD_WAIT: Duration = Duration::from_millis(50);

/// The kernel of the network namespace in which it was opened, and in which
/// the calling threads have to be.
#[derive(Debug)]
pub struct Linux {
    backend: Backend,
    /// One for each family that the kernel has.
    tables: Vec<Iptables>,
    ipset: Ipset,
    aliases: Aliases,
    auditor: Auditor,
    /// Restores of ours that are not reported yet, and their processes.
    restores: Vec<Restored>,
    set_writes: Vec<ipset::TimedWrite>,
    ours: BTreeSet<u32>,
    /// Families to which a child says that it wrote rules, which the kernel has not
    /// confirmed.
    unproven: BTreeSet<Family>,
    /// Since when the xtables lock has been found to be held.
    locked: Option<Instant>,
    /// Rules of ours in the other backend.
    others: OtherBackend,
    /// What was found about the table of flows.
    flows: Arc<CutSupport>,
    index: Arc<Index>,
    bridge: BridgeFilter,
}

impl Linux {
    /// Finds the backend, unless one is given. Nothing is written to the kernel.
    ///
    /// # Errors
    /// If there is no backend, or no ipset.
    pub fn open(backend: Option<Backend>) -> Result<Self, Error> {
        let (backend, reason) = match backend {
            Some(backend) => (backend, "--backend".to_owned()),
            None => detect()?,
        };
        let tables = Self::tables(backend)?;
        let families: Vec<String> = tables.iter().map(|table| table.family().to_string()).collect();
        info!(%backend, reason, families = families.join(" "), "using iptables");
        Ok(Self {
            backend,
            tables,
            ipset: Ipset::open()?,
            aliases: Aliases::default(),
            auditor: Auditor::new(backend),
            restores: Vec::new(),
            set_writes: Vec::new(),
            ours: BTreeSet::new(),
            unproven: BTreeSet::new(),
            locked: None,
            others: OtherBackend::default(),
            flows: Arc::default(),
            index: Arc::default(),
            bridge: BridgeFilter::default(),
        })
    }

    /// Waits until other programs may have written to the filter table; `None`
    /// where nothing reports that.
    ///
    /// # Errors
    /// If there is no other descriptor to be had.
    pub fn change_waiter(&mut self) -> io::Result<Option<ChangeWaiter>> {
        self.auditor.notifications().map(|notifications| notifications.waiter()).transpose()
    }

    /// Notes the last writes as ours, and which of them the kernel has not confirmed.
    fn wrote(&mut self) {
        let restores: Vec<Restored> = self.tables.iter().flat_map(Iptables::take_restores).collect();
        // All of them before any notification is read: what is not known to be ours
        // then counts as another program's.
        self.ours.extend(restores.iter().map(|restored| restored.process));
        for restored in restores.iter().filter(|restored| restored.done) {
            let confirmed = self
                .auditor
                .notifications()
                .is_some_and(|notifications| notifications.saw_commit_of(restored.process, &self.ours));
            if !confirmed {
                self.unproven.insert(restored.family);
            }
        }
        self.restores.extend(restores);
        if let Some(notifications) = self.auditor.notifications() {
            notifications.forget_our_commits();
        }
        // The kernel reported these before they ended. A process of another namespace of
        // processes may have the same number later.
        if self.backend == Backend::Nft {
            self.ours.clear();
        }
    }

    /// Notes since when the lock is held, and for how long the first write
    /// after that has waited.
    fn contended(&mut self, failed: &mut Failures) {
        let mut is_held = false;
        for error in failed.iter_mut() {
            if let Error::Iptables(iptables::Error::Locked { waited, .. }) = error {
                let since = *self.locked.get_or_insert_with(Instant::now);
                *waited = since.elapsed().max(*waited);
                is_held = true;
            }
        }
        if !is_held
            && let Some(first) = self.restores.first_mut()
            && let Some(since) = self.locked.take()
        {
            first.waited = since.elapsed().saturating_sub(first.took);
            info!(waited = ?rounded(first.waited), "got the xtables lock; rules written");
        }
    }

    /// Removes other programs' sets under our names; those that cannot go keep
    /// their names, and npc's sets get another name.
    fn make_room(&mut self, odd: Vec<OddSet>) -> Result<(), Error> {
        self.aliases.clear();
        let names: Vec<SetName> = odd.iter().map(|odd| odd.name.clone()).collect();
        let stuck = self.ipset.destroy(&names, ODD_WAIT)?;
        for OddSet { name, header } in odd {
            match stuck.iter().find(|(stuck, _)| *stuck == name) {
                None => {
                    warn!(set = %name.shown(), header, "removed a set that had one of npc's names and was not made by npc");
                }
                Some((_, error)) => {
                    let Some(instead) = self.aliases.call(&name) else { continue };
                    warn!(
                        set = %name.shown(), header, %error, instead = %instead.shown(),
                        "set name taken by another program; using another until that set is gone"
                    );
                }
            }
        }
        Ok(())
    }

    /// Carries a step out in the families that have not failed.
    fn write(&mut self, step: &Step, failed: &mut Failures) {
        match step {
            Step::Sets(writes) => {
                let families: Vec<Family> = self.tables.iter().map(Iptables::family).collect();
                for family in families.into_iter().filter(|family| !failed.contains(*family)).collect::<Vec<_>>() {
                    let written = self.write_sets(family, writes);
                    failed.take(family, written);
                }
            }
            Step::Chains(family, writes) if !failed.contains(*family) => {
                let written = self.write_chains(*family, writes);
                self.wrote();
                failed.take(*family, written);
            }
            Step::Chains(..) => {}
            Step::Grace => grace(),
        }
    }

    fn write_sets(&mut self, family: Family, writes: &[SetWrite]) -> Result<(), Error> {
        let begun = Instant::now();
        let of_family = |write: &&SetWrite| write.set().family() == family;
        let writes: Vec<_> = writes.iter().filter(of_family).map(|write| self.aliases.write(write)).collect();
        if writes.is_empty() {
            return Ok(());
        }
        let writes: Vec<&SetWrite> = writes.iter().map(AsRef::as_ref).collect();
        let mut written = write_sets(&mut self.ipset, &writes);
        if let Err(ipset::Error::Refused { set: Some(set), .. }) = &mut written {
            self.aliases.as_ours(set);
        }
        self.set_writes.push(ipset::TimedWrite { took: begun.elapsed(), done: written.is_ok() });
        self.auditor.left_sets.extend(written?);
        debug!(%family, writes = writes.len(), took = ?rounded(begun.elapsed()), "wrote sets");
        Ok(())
    }

    fn write_chains(&mut self, family: Family, writes: &ChainWrites) -> Result<(), Error> {
        let begun = Instant::now();
        let Some(table) = self.table(family) else { return Ok(()) };
        let stuck = table.write(&self.aliases.chains(writes))?;
        let written = writes.replace.keys().chain(writes.append.keys());
        written.for_each(|chain| self.auditor.spellings.is_written(family, chain));
        for (chain, error) in stuck {
            warn!(%family, %chain, %error, "cannot delete an unused chain (it is empty)");
            self.auditor.left_chains.insert(family, chain);
        }
        let (replaced, appended, deleted) = (writes.replace.len(), writes.append.len(), writes.delete.len());
        debug!(%family, replaced, appended, deleted, took = ?rounded(begun.elapsed()), "wrote chains");
        Ok(())
    }

    /// Tries again to delete unused chains that could not be deleted.
    fn delete_left(&mut self, now: Instant, desired: &KernelState) {
        let mut left = std::mem::take(&mut self.auditor.left_chains);
        left.retry(now, |family, chain| {
            let Some(table) = self.table(family).filter(|_| !desired.family(family).chains.contains_key(chain)) else {
                return false;
            };
            let deleted = table.delete_empty(chain);
            match &deleted {
                Ok(()) => info!(%family, %chain, "deleted an unused chain that was in use before"),
                Err(error) => debug!(%family, %chain, %error, "cannot delete an unused chain yet"),
            }
            deleted.is_err()
        });
        self.auditor.left_chains = left;
        // No pass depends on these, so they are no failures of writes.
        let restores: Vec<Restored> = self.tables.iter().flat_map(Iptables::take_restores).collect();
        self.ours.extend(restores.iter().map(|restored| restored.process));
        self.wrote();
    }

    /// The packet filter that it writes to.
    #[must_use]
    pub fn backend(&self) -> Backend {
        self.backend
    }

    /// Reads what this kernel has counted, beside writes to it.
    #[must_use]
    pub fn counters(&self) -> Counters {
        Counters::of(&self.tables)
    }

    fn tables(backend: Backend) -> Result<Vec<Iptables>, Error> {
        let mut tables = Vec::new();
        for family in Family::ALL {
            // Without IPv6 in the kernel there are no packets to judge, and
            // ip6tables would only fail.
            if family == Family::V6 && !Path::new("/proc/thread-self/net/if_inet6").exists() {
                info!("this kernel has no IPv6; only IPv4 is enforced");
                continue;
            }
            tables.push(Iptables::new(backend, family)?.with_lock_wait(LOCK_WAIT));
        }
        Ok(tables)
    }

    /// Where the hook stands, in each family, or why that is not known.
    #[must_use]
    pub fn hooks(&self) -> Vec<(Family, Result<Hook, Error>)> {
        self.tables.iter().map(|table| (table.family(), table.hook().map_err(Error::from))).collect()
    }

    fn table(&self, family: Family) -> Option<&Iptables> {
        self.tables.iter().find(|table| table.family() == family)
    }
}

impl Kernel for Linux {
    fn probe_each(&mut self, failed: &mut Failures) -> Option<Supported> {
        let begun = Instant::now();
        let capabilities = probe::probe(&self.tables, &mut self.ipset, failed);
        self.wrote();
        self.contended(failed);
        // What was written for the asking is gone again.
        self.unproven.clear();
        for missing in capabilities.iter().flat_map(|capabilities| &capabilities.missing) {
            warn!("this kernel lacks {missing}");
        }
        debug!(bpf = capabilities.as_ref().is_some_and(|it| it.bpf), took = ?rounded(begun.elapsed()), "probed the kernel");
        capabilities
    }

    fn seed(&mut self) -> Result<Option<Seed>, Error> {
        Ok(self.ipset.heads()?.keys().find_map(SetName::seed_kept))
    }

    fn read_each(&mut self, desired: &KernelState, failed: &mut Failures) -> Result<KernelState, Error> {
        let begun = Instant::now();
        let mut sets = self.ipset.read()?;
        for (there, desired) in [(&mut sets.v4, &desired.v4), (&mut sets.v6, &desired.v6)] {
            there.retain(|name, (kind, _)| {
                let other = desired.sets.get(name).is_some_and(|(desired, _)| desired != kind);
                if other {
                    sets.odd.push(OddSet { name: name.clone(), header: kind.as_str().to_owned() });
                }
                !other
            });
        }
        self.make_room(sets.odd)?;
        let mut state = KernelState {
            v4: FamilyState { sets: sets.v4, ..FamilyState::default() },
            v6: FamilyState { sets: sets.v6, ..FamilyState::default() },
        };
        for table in &self.tables {
            if failed.contains(table.family()) {
                continue;
            }
            let Some(chains) = failed.take(table.family(), table.chains()) else { continue };
            match table.family() {
                Family::V4 => state.v4.chains = chains,
                Family::V6 => state.v6.chains = chains,
            }
        }
        self.aliases.read(&mut state.v4);
        self.aliases.read(&mut state.v6);
        for (family, actual) in [(Family::V4, &mut state.v4), (Family::V6, &mut state.v6)] {
            if let Some(table) = self.tables.iter().find(|table| table.family() == family) {
                self.auditor.as_written(table, &self.aliases, desired.family(family), &mut actual.chains);
            }
        }
        self.wrote();
        self.auditor.is_known();
        // What could not go is there again, and to go again.
        self.auditor.left_chains.clear();
        // What was written before counts only as far as it was found now.
        self.unproven.clear();
        debug!(took = ?rounded(begun.elapsed()), "read what the kernel holds");
        Ok(state)
    }

    fn apply_each(&mut self, plan: &Plan, failed: &mut Failures) -> Instant {
        let (enforcing, clearing) = plan.steps.split_at(plan.enforced_by());
        for step in enforcing {
            self.write(step, failed);
        }
        let enforced = Instant::now();
        for step in clearing {
            self.write(step, failed);
        }
        self.contended(failed);
        enforced
    }

    fn hook_each(&mut self, failed: &mut Failures) -> Vec<(Family, Hook)> {
        let mut found = Vec::new();
        for table in &self.tables {
            let family = table.family();
            if failed.contains(family) {
                continue;
            }
            let unhooked = |error: iptables::Error| Error::Unhooked(Box::new(error.into()));
            match table.hook() {
                Ok(hook) => match table.move_hook(hook) {
                    Ok(()) => found.push((family, hook)),
                    Err(error @ iptables::Error::Locked { .. }) => failed.add(family, error.into()),
                    Err(error) => failed.add(family, unhooked(error)),
                },
                Err(error @ iptables::Error::ForeignForward { .. }) => failed.add(family, unhooked(error)),
                // That FORWARD cannot be read says nothing of the hook.
                Err(error) => failed.add(family, error.into()),
            }
        }
        self.wrote();
        self.contended(failed);
        if !self.others.was_looked_for() && failed.is_empty() {
            self.others.leave(self.backend);
        }
        found
    }

    fn prove(&mut self, desired: &KernelState, failed: &mut Failures) {
        for family in std::mem::take(&mut self.unproven) {
            let Some(table) = self.tables.iter().find(|table| table.family() == family) else { continue };
            if failed.contains(family) {
                continue;
            }
            let proof = self.auditor.prove(table, &self.aliases, desired.family(family));
            failed.take(family, proof);
        }
    }

    fn set_group(&mut self, links: &[u32], group: u32) -> Result<(), Error> {
        links::set_group(links, group)?;
        debug!(?links, group = format!("{group:#x}"), "put network interfaces into a device group");
        Ok(())
    }

    fn set_bridge(&mut self, desired: &BridgeTable) -> Result<bridge::TableWrite, Error> {
        Ok(self.bridge.set(desired)?)
    }

    fn peers(&mut self, ports: &[u32]) -> Vec<(u32, bridge::peer::Peer)> {
        bridge::peer::of(ports).unwrap_or_else(|error| {
            warn!(%error, "cannot read from the kernel which addresses are behind the ports of bridges");
            Vec::new()
        })
    }

    fn wait_for_lock(&mut self) -> Result<(), Error> {
        let waited = self.tables.iter().try_for_each(|table| table.wait_for_lock().map(drop));
        if let Some(notifications) = self.auditor.notifications() {
            notifications.forget_our_commits();
        }
        let Err(error) = waited else { return Ok(()) };
        let mut failed = Failures::default();
        // The families have one lock.
        failed.add(Family::V4, error.into());
        self.contended(&mut failed);
        failed.into_first()
    }

    fn audit(&mut self, desired: &KernelState, depth: AuditScope) -> Result<Audit, Error> {
        if depth == AuditScope::Periodic {
            let now = Instant::now();
            if self.auditor.left_chains.is_due(now) {
                self.delete_left(now, desired);
            }
            self.others.remove_if_due(self.backend);
        }
        let audit = self.auditor.audit((&self.tables, &mut self.ipset, &self.aliases), &self.ours, desired, depth);
        // The kernel's reports of these writes have been read. Those of commands that the audit has run have not.
        self.ours.clear();
        self.wrote();
        audit
    }

    fn take_restores(&mut self) -> Vec<Restored> {
        std::mem::take(&mut self.restores)
    }

    fn take_set_writes(&mut self) -> Vec<ipset::TimedWrite> {
        std::mem::take(&mut self.set_writes)
    }

    fn flows(&self) -> Box<dyn Flows> {
        let families = self.tables.iter().map(Iptables::family).collect();
        Box::new(LinuxFlows { families, facts: Arc::clone(&self.flows), index: Arc::clone(&self.index) })
    }

    fn remove_flow_index(&mut self) -> Result<(), Error> {
        if flow_index::remove()? {
            info!("removed the table inet npc, which an earlier agent kept");
        }
        Ok(())
    }
}

/// Writes to sets; one that another program's rule uses cannot be destroyed, and
/// must not hold up the rest. Empty, it is as good as one that is created later.
/// Answers those.
fn write_sets(ipset: &mut Ipset, writes: &[&SetWrite]) -> Result<Vec<SetName>, ipset::Error> {
    let is_destruction = |write: &SetWrite| matches!(write, SetWrite::Destroy(_));
    let mut left = Vec::new();
    for writes in writes.chunk_by(|a, b| is_destruction(a) == is_destruction(b)) {
        if !writes.iter().any(|write| is_destruction(write)) {
            ipset.write(writes)?;
            continue;
        }
        let gone: Vec<SetName> = writes.iter().map(|write| write.set().clone()).collect();
        for (set, error) in ipset.destroy(&gone, ipset::PATIENCE)? {
            ipset.flush(&set)?;
            warn!(%set, %error, "cannot delete an unused set (it is empty)");
            left.push(set);
        }
    }
    Ok(left)
}
