//! From the ruleset that a kernel holds to the one that it should hold.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::time::{Duration, Instant};

use npc_compiler::object::Family;
use npc_compiler::plan::{FamilyState, KernelState, Plan, Step};
use npc_compiler::ruleset::node::SetName;
use tracing::info;

use super::drift::{self, Drift, Repair};
use super::flows::Established;
use super::sync_state::{Probed, SyncState};
use super::writes::Writes;
use crate::dataplane::audit::{Audit, AuditScope};
use crate::dataplane::iptables::Hook;
use crate::dataplane::probe::Supported;
use crate::dataplane::{Error, Failures, Kernel};

/// If the kernel refuses to change more sets than this, pods of that family wait. Each takes a read of the
/// kernel, and a kernel without memory refuses all.
const REFUSED_SETS: usize = 8;

/// So long the agent's loop may be taken to find out which sets the kernel refuses.
const FINDING_REFUSED: Duration = Duration::from_millis(500);

/// Writes rulesets to a kernel, and knows whether it holds the last one.
#[derive(Debug)]
pub struct Writer<K> {
    pub(super) kernel: K,
    /// What is known of the rules and sets that it holds.
    state: SyncState,
    /// Whether it is known what it supports.
    probed: Probed,
    /// Since when the ruleset that was written last is in force for new flows.
    enforced: Instant,
    pub(super) established: Established,
}

/// What a write did, and where the jump was that was not in its place.
type WriteOutcome = (Writes, Vec<(Family, Hook)>);

impl<K: Kernel> Writer<K> {
    /// Will write to this kernel. Nothing is read or written yet.
    pub fn new(kernel: K) -> Self {
        Self {
            kernel,
            state: SyncState::Unread,
            probed: Probed::Not,
            enforced: Instant::now(),
            established: Established::new(),
        }
    }

    /// Carries out writes that no packet meets. They are in the wanted state already, and the
    /// kernel is in sync but for them.
    ///
    /// Families that have failed already are left alone. As after any failure, nothing is known of the
    /// kernel if one fails here, and the next write reads it.
    pub(super) fn load(&mut self, plan: &Plan, failed: &mut Failures) {
        let had_failed = !failed.is_empty();
        self.kernel.apply_each(plan, failed);
        if !had_failed && !failed.is_empty() {
            self.state.failed(failed.iter().any(|(_, error)| error.is_unhooked()));
        }
    }

    /// Whether writes of [`Writer::load`] may go to a family: it holds what is wanted, but for what
    /// failed in the other one, and no other program holds the lock that rules need.
    pub(super) fn can_load(&mut self, failed: &Failures) -> bool {
        if failed.is_empty() {
            self.can_write_rules()
        } else {
            !failed.is_of_all() && self.kernel.wait_for_lock().is_ok()
        }
    }

    /// Asks the kernel what it supports, in the families where that is not known yet. No
    /// sooner than it is needed, because asking writes, if only what no packet meets.
    /// Answers what it supports when it answers first: a family that answers only later
    /// has the rules of the other.
    ///
    /// # Errors
    /// If no family answers.
    pub(super) fn probe(&mut self, failed: &mut Failures) -> Result<Option<Supported>, Error> {
        if self.probed == Probed::Whole {
            return Ok(None);
        }
        let Some(capabilities) = self.kernel.probe_each(failed) else {
            return std::mem::take(failed).into_result().map(|()| None);
        };
        let probed = if failed.is_empty() { Probed::Whole } else { Probed::InPart };
        let before = std::mem::replace(&mut self.probed, probed);
        Ok((before == Probed::Not).then_some(capabilities))
    }

    /// Whether the kernel was asked what it supports, in one family at least. The engine
    /// commits nothing before.
    pub(super) fn is_probed(&self) -> bool {
        self.probed != Probed::Not
    }

    /// Makes the kernel equal to a ruleset. Only the difference is written. The jump goes in
    /// after the chains that it leads to.
    ///
    /// `change` leads to it from the state that was wanted the last time, and
    /// is used if the kernel holds that one; otherwise the kernel is read.
    ///
    /// # Errors
    /// If the kernel cannot be read or written, in a family at least. It may then
    /// hold a part of the change, in the order in which a plan is safe.
    pub fn write(&mut self, change: Plan, wanted: &KernelState) -> Result<WriteOutcome, Error> {
        let mut failed = Failures::default();
        let written = self.write_each(change, wanted, false, &mut failed)?;
        failed.into_result().map(|()| written)
    }

    /// The same, family by family: those that have failed already are left alone,
    /// and what fails in one does not keep the other. While rules are loaded that no packet meets, their proof
    /// waits for the next write.
    ///
    /// # Errors
    /// If it fails in both families at once. As after a failure in one, nothing is
    /// known of the kernel then, and the next call reads it.
    pub(super) fn write_each(
        &mut self,
        change: Plan,
        wanted: &KernelState,
        is_loading: bool,
        failed: &mut Failures,
    ) -> Result<WriteOutcome, Error> {
        let written = self.try_write(change, wanted, is_loading, failed);
        match &written {
            Err(error) => self.state.failed(error.is_unhooked()),
            Ok(_) if failed.is_empty() => self.state = SyncState::InSync { is_proved: true },
            Ok(_) => self.state.failed(failed.iter().any(|(_, error)| error.is_unhooked())),
        }
        written
    }

    fn try_write(
        &mut self,
        change: Plan,
        wanted: &KernelState,
        is_loading: bool,
        failed: &mut Failures,
    ) -> Result<WriteOutcome, Error> {
        let (plan, held) = match self.state.forget() {
            SyncState::InSync { .. } => (change, None),
            state => {
                self.established.rules_were_lost();
                let held = match state {
                    SyncState::SetsAhead { held, .. } => self.after_contention(held, wanted, failed)?,
                    _ => self.read(wanted, failed)?,
                };
                (Plan::between(&held, wanted), Some(held))
            }
        };
        let was_in_sync = held.is_none();
        self.established.planned(&plan);
        self.enforced = Instant::now();
        if !plan.is_empty() {
            self.enforced = self.carry_out(&plan, held, wanted, failed)?;
        }
        let mut rehooked = Vec::new();
        if !was_in_sync {
            rehooked = self.insert_hook(failed);
            self.enforced = Instant::now();
        }
        // With legacy a proof reads the whole table. What was loaded is proved with what leads to it.
        if !(is_loading && was_in_sync && plan.is_empty()) {
            self.kernel.prove(wanted, failed);
        }
        if failed.is_of_all() {
            std::mem::take(failed).into_result()?;
        }
        Ok((Writes::of(&plan), rehooked))
    }

    /// What the kernel holds. A family that failed is left alone: for a plan it is as
    /// wanted.
    fn read(&mut self, wanted: &KernelState, failed: &mut Failures) -> Result<KernelState, Error> {
        let mut held = self.kernel.read_each(wanted, failed)?;
        if failed.is_empty() && self.state.was_read() {
            took_over(&held);
        }
        for family in failed.families() {
            match family {
                Family::V4 => held.v4.clone_from(&wanted.v4),
                Family::V6 => held.v6.clone_from(&wanted.v6),
            }
        }
        Ok(held)
    }

    /// Whether the kernel is known, and no other program holds the lock that rules need.
    pub(super) fn can_write_rules(&mut self) -> bool {
        self.is_in_sync() && self.kernel.wait_for_lock().is_ok()
    }

    /// Whether the kernel is known to hold what was to be written last.
    pub(super) fn is_in_sync(&self) -> bool {
        matches!(self.state, SyncState::InSync { .. })
    }

    /// Whether the last write or audit has shown that. An audit that is due too often
    /// for a large table to be read each time does not.
    pub(super) fn is_proved(&self) -> bool {
        matches!(self.state, SyncState::InSync { is_proved: true })
    }

    /// Whether a jump to our chains is known to be missing, or not to be first, and could
    /// not be put in its place.
    pub(super) fn is_unhooked(&self) -> bool {
        matches!(self.state, SyncState::Unknown { is_unhooked: true } | SyncState::SetsAhead { is_unhooked: true, .. })
    }

    /// Since when every first packet of a flow gets the verdict of what was
    /// written last.
    #[must_use]
    pub fn enforced(&self) -> Instant {
        self.enforced
    }

    /// Carries a plan out, and answers since when it is in force. Sets take no lock: while
    /// another program holds the one that rules take, sets go ahead as far as they can
    /// without the rules.
    fn carry_out(
        &mut self,
        plan: &Plan,
        held: Option<KernelState>,
        wanted: &KernelState,
        failed: &mut Failures,
    ) -> Result<Instant, Error> {
        if plan.steps.iter().any(is_rules)
            && let Err(error) = self.kernel.wait_for_lock()
        {
            if error.is_contention() {
                let held = match held {
                    Some(held) => held,
                    None => self.read(wanted, failed)?,
                };
                let held = self.write_ahead(held, wanted, failed)?;
                if failed.is_empty() {
                    self.state = SyncState::SetsAhead { held, is_unhooked: false };
                }
            }
            return Err(error);
        }
        Ok(self.kernel.apply_each(plan, failed))
    }

    /// What the kernel holds after another program held the lock. If it holds the lock still,
    /// sets go ahead.
    fn after_contention(
        &mut self,
        held: KernelState,
        wanted: &KernelState,
        failed: &mut Failures,
    ) -> Result<KernelState, Error> {
        let held = self.write_ahead(held, wanted, failed)?;
        if !Plan::between(&held, wanted).steps.iter().any(is_rules) {
            return Ok(held);
        }
        match self.kernel.wait_for_lock() {
            // The program that held it may have written after the kernel was read.
            Ok(()) => self.read(wanted, failed),
            Err(error) => {
                if error.is_contention() {
                    self.state = SyncState::SetsAhead { held, is_unhooked: false };
                }
                Err(error)
            }
        }
    }

    /// Writes what sets can do ahead of rules, and answers what the kernel holds
    /// then.
    fn write_ahead(
        &mut self,
        mut held: KernelState,
        wanted: &KernelState,
        failed: &mut Failures,
    ) -> Result<KernelState, Error> {
        let ahead = held.ahead_of_rules(wanted);
        self.write_sets(&mut held, &ahead, failed);
        // The rules of both families wait, so not even the family without a failure is up
        // to date, as an error of families would say.
        std::mem::take(failed).into_first()?;
        Ok(held)
    }

    /// Writes what leads to this state but for rules. `held` is what the kernel holds, before and, of families
    /// that have not failed, afterwards.
    fn write_sets(&mut self, held: &mut KernelState, ahead: &KernelState, failed: &mut Failures) {
        let mut plan = Plan::between(held, ahead);
        let without_rules = plan.steps.iter().position(is_rules).unwrap_or(plan.steps.len());
        plan.steps.truncate(without_rules);
        if !plan.is_empty() {
            self.kernel.apply_each(&plan, failed);
        }
        for step in &plan.steps {
            // It was read a moment ago, or written by us. What another program changed
            // since is found by the next read.
            let _ = step.apply(held);
        }
    }

    /// The last write failed. Those of these addresses whose part of what is wanted is in the kernel
    /// all the same: it is read, because what failed may have been written in part, and a program that
    /// holds the lock writes.
    ///
    /// Sets go ahead as far as they can, as while another program holds the lock. One that the kernel
    /// refuses to change stays as it is, and those of other pods go ahead.
    pub(super) fn in_force(&mut self, wanted: &KernelState, addresses: &BTreeSet<IpAddr>) -> BTreeSet<IpAddr> {
        let mut failed = Failures::default();
        let Ok(mut held) = self.read(wanted, &mut failed) else { return BTreeSet::new() };
        if matches!(&self.state, SyncState::SetsAhead { held: known, .. } if failed.is_empty() && *known != held) {
            // The next pass has to read it, too.
            self.state.forget();
            self.established.rules_were_lost();
        }
        let mut refused = BTreeSet::new();
        let begun = Instant::now();
        loop {
            let unread: BTreeSet<Family> = failed.families().collect();
            let ahead = held.ahead_without(wanted, &refused);
            self.write_sets(&mut held, &ahead, &mut failed);
            let of_writes = failed.iter().filter(|(family, _)| !unread.contains(family));
            let new: Vec<SetName> = of_writes.filter_map(|(_, error)| error.refused_set()).cloned().collect();
            let known = refused.len();
            refused.extend(new);
            if refused.len() == known || known >= REFUSED_SETS || begun.elapsed() >= FINDING_REFUSED {
                break;
            }
            // A part of these writes is in the kernel.
            failed = Failures::default();
            match self.read(wanted, &mut failed) {
                Ok(read) => held = read,
                Err(_) => {
                    self.state.forget();
                    return BTreeSet::new();
                }
            }
        }
        let mut in_force = held.agrees_on(wanted, addresses);
        if !failed.is_empty() {
            self.state.forget();
        } else if let SyncState::SetsAhead { held: known, .. } = &mut self.state {
            *known = held;
        }
        if !in_force.is_empty() {
            self.insert_hook(&mut failed);
        }
        in_force.retain(|address| !failed.contains(Family::of(address)));
        in_force
    }

    fn insert_hook(&mut self, failed: &mut Failures) -> Vec<(Family, Hook)> {
        let mut found = self.kernel.hook_each(failed);
        found.retain(|(_, hook)| *hook != Hook::First);
        if !found.is_empty() {
            self.established.rules_were_lost();
        }
        found
    }

    /// Finds drift and repairs it: only what differs, in the order of a plan. Nothing if the
    /// kernel is unknown, because the pass that is due then reads it.
    ///
    /// Denied flows may have begun meanwhile; the next pass judges them.
    ///
    /// # Errors
    /// If the kernel cannot be audited. That a repair failed is in [`Repair::repaired`]; the
    /// next pass has to do it then.
    pub fn audit(&mut self, wanted: &KernelState, depth: AuditScope) -> Result<Option<Repair>, Error> {
        let audited = match self.state.forget() {
            state @ (SyncState::Unread | SyncState::Unknown { .. }) => {
                self.state = state;
                return Ok(None);
            }
            SyncState::SetsAhead { held, is_unhooked } => self.audit_ahead(held, is_unhooked, depth),
            SyncState::InSync { .. } => self.audit_in_sync(wanted, depth),
        };
        let (lost_hooks, error) = match &audited {
            Ok(Some(repair)) => (repair.count(drift::Kind::Hook), repair.repaired.as_ref().err()),
            Ok(None) => (0, None),
            Err(error) => (0, Some(error)),
        };
        if let Some(error) = error {
            self.state.failed(lost_hooks > 0 || error.is_unhooked());
        }
        audited
    }

    /// While rules wait, sets are audited all the same. What differs is left to the next
    /// pass, which reads everything.
    fn audit_ahead(
        &mut self,
        held: KernelState,
        is_unhooked: bool,
        depth: AuditScope,
    ) -> Result<Option<Repair>, Error> {
        let mut audit = self.kernel.audit(&held, depth)?;
        // The jump goes first once the rules are in. Until then the agent is not ready.
        let is_unhooked = !audit.hooks.is_empty() || is_unhooked && audit.rules_unread;
        audit.hooks.clear();
        if audit.is_clean() {
            self.state = SyncState::SetsAhead { held, is_unhooked };
            return Ok(None);
        }
        self.established.rules_were_lost();
        self.state = SyncState::Unknown { is_unhooked };
        Ok(Some(Repair { found: logged(&audit, &held), repaired: Ok(None) }))
    }

    fn audit_in_sync(&mut self, wanted: &KernelState, depth: AuditScope) -> Result<Option<Repair>, Error> {
        let mut audit = self.kernel.audit(wanted, depth)?;
        let mut first = None;
        if !(audit.v4.is_empty() && audit.v6.is_empty()) {
            // The program that changed this may have changed more with it. Packets meet only old
            // and new verdicts if the plan knows all that is old.
            self.established.rules_were_lost();
            let whole = match self.kernel.audit(wanted, AuditScope::Full) {
                Ok(whole) => whole,
                Err(error) => return Ok(Some(Repair { found: logged(&audit, wanted), repaired: Err(error) })),
            };
            let seen = std::mem::replace(&mut audit, whole);
            audit.authors.extend(seen.authors.iter().cloned());
            audit.unneeded.extend(seen.unneeded.iter().cloned());
            first = Some(seen);
        }
        if first.is_none() && audit.is_clean() {
            self.state = SyncState::InSync { is_proved: !audit.rules_unread && depth != AuditScope::Notified };
            return Ok(None);
        }
        // If another program has put it back meanwhile, it was gone all the same.
        let mut found = match &first {
            Some(first) if audit.v4.is_empty() && audit.v6.is_empty() => logged(first, wanted),
            _ => logged(&audit, wanted),
        };
        self.established.rules_were_lost();
        let repaired = self.repair(audit, wanted, &mut found).map(Some);
        Ok(Some(Repair { found, repaired }))
    }

    /// Repairs what an audit found. What is found only now is added to that.
    fn repair(&mut self, audit: Audit, wanted: &KernelState, found: &mut Vec<Drift>) -> Result<Writes, Error> {
        let mut failed = Failures::default();
        let unhooked: Vec<Family> = audit.hooks.iter().map(|(family, _)| *family).collect();
        let held =
            if audit.replaced.is_empty() { drift::as_found(audit, wanted) } else { self.read(wanted, &mut failed)? };
        let plan = Plan::between(&held, wanted);
        if !plan.is_empty() {
            self.carry_out(&plan, Some(held), wanted, &mut failed)?;
        }
        if !unhooked.is_empty() {
            // A program that writes to both families may reach the second one after the audit.
            let mut hooks = self.insert_hook(&mut failed);
            hooks.retain(|(family, _)| !unhooked.contains(family));
            found.extend(logged(&Audit { hooks, ..Audit::default() }, wanted));
        }
        self.kernel.prove(wanted, &mut failed);
        failed.into_result()?;
        self.state = SyncState::InSync { is_proved: true };
        Ok(Writes::of(&plan))
    }

    /// Puts network interfaces into a device group.
    pub(super) fn set_group(&mut self, links: &[u32], group: u32) -> Result<(), Error> {
        if links.is_empty() { Ok(()) } else { self.kernel.set_group(links, group) }
    }
}

fn is_rules(step: &Step) -> bool {
    matches!(step, Step::Chains(..))
}

/// The drift that an audit found, after it is logged.
fn logged(audit: &Audit, wanted: &KernelState) -> Vec<Drift> {
    let found = drift::found(audit, wanted);
    drift::log(&found);
    found
}

/// Logs what an agent before this one left.
fn took_over(held: &KernelState) {
    let of = |count: fn(&FamilyState) -> usize| {
        Family::ALL.into_iter().map(|family| count(held.family(family))).sum::<usize>()
    };
    let (chains, sets) = (of(|held| held.chains.len()), of(|held| held.sets.len()));
    if chains + sets > 0 {
        let members = of(|held| held.sets.values().map(|(_, members)| members.len()).sum());
        info!(chains, sets, members, "found the ruleset of an earlier agent; writing only the difference");
    }
}
