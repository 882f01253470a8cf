//! From the state that a kernel holds to the one that it should hold.

use std::fmt;
use std::time::Instant;

use npc_compiler::engine::Engine;
use npc_compiler::object::Family;
use npc_compiler::plan::{Held, KernelState, Plan, SetWrite, Step};
use tracing::info;

use super::drift::{self, Drift, Repair};
use super::established::Established;
use crate::dataplane::audit::{Audit, Depth};
use crate::dataplane::conntrack::Swept;
use crate::dataplane::iptables::Hook;
use crate::dataplane::network::Network;
use crate::dataplane::{Error, Failures, Kernel};

/// What is known of the kernel.
#[derive(Debug)]
enum SyncState {
    /// Nothing: before it was read, and after any read, write or proof that failed.
    /// It is read next, and the jump is put first.
    Unknown,
    /// Another program keeps the lock that rules need. So the rules are older ones,
    /// and the sets are as far ahead as these allow. This is what it holds. Where the
    /// jump is, is unknown, because of what that program writes comes no word.
    SetsAhead(KernelState),
    /// It holds what was to be written last, and the jump is first in FORWARD: each
    /// was read there, or the kernel reported it.
    InSync,
}

/// Writes states to a kernel, and knows whether it holds the last one.
#[derive(Debug)]
pub struct Writer<K> {
    pub(super) kernel: K,
    state: SyncState,
    /// The last call found or made all of it so: the rules too.
    is_proved: bool,
    /// What an agent before this one left was logged.
    has_taken_over: bool,
    /// Since when the state that was written last is in force for new flows.
    enforced: Instant,
    pub(super) established: Established,
}

/// What a write did, and where the jump was that was not in its place.
type Written = (Writes, Vec<(Family, Hook)>);

impl<K: Kernel> Writer<K> {
    /// Will write to this kernel. Nothing is read or written yet.
    pub fn new(kernel: K) -> Self {
        Self {
            kernel,
            state: SyncState::Unknown,
            is_proved: false,
            has_taken_over: false,
            enforced: Instant::now(),
            established: Established::new(),
        }
    }

    /// Makes the kernel equal to a state; only what differs is written. The
    /// jump goes in after the chains that it leads to.
    ///
    /// `change` leads to it from the state that was wanted the last time, and
    /// is used if the kernel holds that one; otherwise the kernel is read.
    ///
    /// # Errors
    /// If the kernel cannot be read or written, in a family at least. It may then
    /// hold a part of the change, in the order in which a plan is safe.
    pub fn write(&mut self, change: Plan, wanted: &KernelState) -> Result<Written, Error> {
        let mut failed = Failures::default();
        let written = self.write_each(change, wanted, &mut failed)?;
        failed.into_result().map(|()| written)
    }

    /// The same, family by family: those that have failed already are left alone,
    /// and what fails in one does not keep the other.
    ///
    /// # Errors
    /// If it fails in both families at once. As after a failure in one, nothing is
    /// known of the kernel then, and the next call reads it.
    pub(super) fn write_each(
        &mut self,
        change: Plan,
        wanted: &KernelState,
        failed: &mut Failures,
    ) -> Result<Written, Error> {
        self.is_proved = false;
        let (plan, held) = match std::mem::replace(&mut self.state, SyncState::Unknown) {
            SyncState::InSync => (change, None),
            state => {
                self.established.rules_were_lost();
                let held = match state {
                    SyncState::SetsAhead(held) => self.after_contention(held, wanted, failed)?,
                    _ => self.read(wanted, failed)?,
                };
                if failed.is_empty() && !std::mem::replace(&mut self.has_taken_over, true) {
                    took_over(&held);
                }
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
            rehooked = self.put_hook_first(failed);
            self.enforced = Instant::now();
        }
        self.kernel.prove(wanted, failed);
        if failed.is_of_all() {
            std::mem::take(failed).into_result()?;
        }
        if failed.is_empty() {
            (self.state, self.is_proved) = (SyncState::InSync, true);
        }
        Ok((Writes::of(&plan), rehooked))
    }

    /// What the kernel holds. A family that failed is left alone: for a plan it is as
    /// wanted.
    fn read(&mut self, wanted: &KernelState, failed: &mut Failures) -> Result<KernelState, Error> {
        let mut held = self.kernel.read_each(wanted, failed)?;
        for family in failed.families() {
            match family {
                Family::V4 => held.v4.clone_from(&wanted.v4),
                Family::V6 => held.v6.clone_from(&wanted.v6),
            }
        }
        Ok(held)
    }

    /// Whether the kernel is known, and nobody holds the lock that rules need.
    pub(super) fn can_write_rules(&mut self) -> bool {
        self.is_in_sync() && self.kernel.wait_for_lock().is_ok()
    }

    /// Whether the kernel is known to hold what was to be written last.
    pub(super) fn is_in_sync(&self) -> bool {
        matches!(self.state, SyncState::InSync)
    }

    /// Whether the last write or audit has shown that. An audit that is due too often
    /// for a large table to be read each time does not.
    pub(super) fn is_proved(&self) -> bool {
        self.is_proved
    }

    /// Since when every first packet of a flow gets the verdict of what was
    /// written last.
    #[must_use]
    pub fn enforced(&self) -> Instant {
        self.enforced
    }

    /// Carries a plan out, and answers since when it is in force. Sets take no
    /// lock: while somebody keeps the one that rules take, as much as they can do
    /// without the rules is written to sets, and no more.
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
                    self.state = SyncState::SetsAhead(held);
                }
            }
            return Err(error);
        }
        Ok(self.kernel.apply_each(plan, failed))
    }

    /// What the kernel holds after somebody kept the lock, who may keep it still:
    /// then as much is written as sets can do.
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
            // Whoever kept it may have written after it was read.
            Ok(()) => self.read(wanted, failed),
            Err(error) => {
                if error.is_contention() {
                    self.state = SyncState::SetsAhead(held);
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
        let mut plan = Plan::between(&held, &held.ahead_of_rules(wanted));
        let without_rules = plan.steps.iter().position(is_rules).unwrap_or(plan.steps.len());
        plan.steps.truncate(without_rules);
        if !plan.is_empty() {
            self.kernel.apply_each(&plan, failed);
            std::mem::take(failed).into_result()?;
        }
        for step in &plan.steps {
            // It was read a moment ago, or written by us. What another program changed
            // since is found by the next read.
            let _ = step.apply(&mut held);
        }
        Ok(held)
    }

    fn put_hook_first(&mut self, failed: &mut Failures) -> Vec<(Family, Hook)> {
        let mut found = self.kernel.hook_each(failed);
        found.retain(|(_, hook)| *hook != Hook::First);
        if !found.is_empty() {
            self.established.rules_were_lost();
        }
        found
    }

    /// Looks whether the kernel still holds what is known of it, and puts
    /// right what others changed: only that, in the order of a plan. Nothing if
    /// nothing is known, because a pass is due then, which reads it.
    ///
    /// Flows may have been let through meanwhile; the next pass judges them.
    ///
    /// # Errors
    /// If the kernel cannot be looked at. That what was found could not be put
    /// right is told with it; the next pass has to do it then.
    pub fn audit(&mut self, wanted: &KernelState, depth: Depth) -> Result<Option<Repair>, Error> {
        // Whatever fails, everything is forgotten.
        self.is_proved = false;
        match std::mem::replace(&mut self.state, SyncState::Unknown) {
            SyncState::Unknown => Ok(None),
            SyncState::SetsAhead(held) => self.audit_ahead(held, depth),
            SyncState::InSync => self.audit_in_sync(wanted, depth),
        }
    }

    /// While rules wait, sets are looked after all the same. What differs is left to
    /// the next pass, which reads everything.
    fn audit_ahead(&mut self, held: KernelState, depth: Depth) -> Result<Option<Repair>, Error> {
        let mut audit = self.kernel.audit(&held, depth)?;
        // It goes first once the rules are in.
        audit.hooks.clear();
        if audit.is_clean() {
            self.state = SyncState::SetsAhead(held);
            return Ok(None);
        }
        self.established.rules_were_lost();
        Ok(Some(Repair { found: told(&audit, &held), repaired: Ok(None) }))
    }

    fn audit_in_sync(&mut self, wanted: &KernelState, depth: Depth) -> Result<Option<Repair>, Error> {
        let mut audit = self.kernel.audit(wanted, depth)?;
        let mut first = None;
        if !(audit.v4.is_empty() && audit.v6.is_empty()) {
            // Who changed this may have changed more with it. A plan shows nothing
            // but old and new if it knows all that is old.
            self.established.rules_were_lost();
            let whole = match self.kernel.audit(wanted, Depth::Whole) {
                Ok(whole) => whole,
                Err(error) => return Ok(Some(Repair { found: told(&audit, wanted), repaired: Err(error) })),
            };
            let seen = std::mem::replace(&mut audit, whole);
            audit.authors.extend(seen.authors.iter().cloned());
            audit.strangers.extend(seen.strangers.iter().cloned());
            first = Some(seen);
        }
        if first.is_none() && audit.is_clean() {
            (self.state, self.is_proved) = (SyncState::InSync, !audit.rules_unread && depth != Depth::News);
            return Ok(None);
        }
        // Where somebody has put it back meanwhile, it was gone all the same.
        let found = match &first {
            Some(first) if audit.v4.is_empty() && audit.v6.is_empty() => told(first, wanted),
            _ => told(&audit, wanted),
        };
        self.established.rules_were_lost();
        let repaired = self.repair(audit, wanted).map(Some);
        Ok(Some(Repair { found, repaired }))
    }

    fn repair(&mut self, audit: Audit, wanted: &KernelState) -> Result<Writes, Error> {
        let mut failed = Failures::default();
        let is_hooked = audit.hooks.is_empty();
        let held =
            if audit.usurped.is_empty() { drift::as_found(audit, wanted) } else { self.read(wanted, &mut failed)? };
        let plan = Plan::between(&held, wanted);
        if !plan.is_empty() {
            self.carry_out(&plan, Some(held), wanted, &mut failed)?;
        }
        if !is_hooked {
            self.put_hook_first(&mut failed);
        }
        self.kernel.prove(wanted, &mut failed);
        failed.into_result()?;
        (self.state, self.is_proved) = (SyncState::InSync, true);
        Ok(Writes::of(&plan))
    }

    /// Puts network interfaces into a device group.
    pub(super) fn set_group(&mut self, links: &[u32], group: u32) -> Result<(), Error> {
        if links.is_empty() { Ok(()) } else { self.kernel.set_group(links, group) }
    }

    /// Cuts the established flows that the rules which the engine has committed
    /// forbid.
    pub(super) fn cut(&mut self, engine: &Engine, network: &Network) -> Result<Swept, Error> {
        self.established.cut(&mut self.kernel, engine, network)
    }
}

fn is_rules(step: &Step) -> bool {
    matches!(step, Step::Chains(..))
}

/// What an audit found, said in the log.
fn told(audit: &Audit, wanted: &KernelState) -> Vec<Drift> {
    let found = drift::found(audit, wanted);
    drift::log(&found);
    found
}

/// Says what an agent before this one left.
fn took_over(held: &KernelState) {
    let of =
        |count: fn(&Held) -> usize| Family::ALL.into_iter().map(|family| count(held.family(family))).sum::<usize>();
    let (chains, sets) = (of(|held| held.chains.len()), of(|held| held.sets.len()));
    if chains + sets > 0 {
        let members = of(|held| held.sets.values().map(|(_, members)| members.len()).sum());
        info!(
            chains,
            sets, members, "took over what an agent before left in this kernel; only what differs is written"
        );
    }
}

/// How much a plan writes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Writes {
    /// Sets created.
    pub sets_created: usize,
    /// Sets destroyed.
    pub sets_destroyed: usize,
    /// Members added.
    pub members_added: usize,
    /// Members removed.
    pub members_removed: usize,
    /// Chains written.
    pub chains_written: usize,
    /// Their rules.
    pub rules_written: usize,
    /// Chains deleted.
    pub chains_deleted: usize,
}

impl Writes {
    /// Whether there was nothing to write.
    #[must_use]
    pub fn is_nothing(&self) -> bool {
        *self == Self::default()
    }

    /// Counts a plan's writes.
    #[must_use]
    pub fn of(plan: &Plan) -> Self {
        let mut counted = Self::default();
        for step in &plan.steps {
            match step {
                Step::Sets(writes) => {
                    for write in writes {
                        *match write {
                            SetWrite::Create(..) => &mut counted.sets_created,
                            SetWrite::Destroy(_) => &mut counted.sets_destroyed,
                            SetWrite::Add(..) => &mut counted.members_added,
                            SetWrite::Delete(..) => &mut counted.members_removed,
                        } += 1;
                    }
                }
                Step::Chains(_, writes) => {
                    counted.chains_written += writes.replace.len();
                    counted.rules_written += writes.replace.values().map(Vec::len).sum::<usize>();
                    counted.chains_deleted += writes.delete.len();
                }
                Step::Grace => {}
            }
        }
        counted
    }
}

impl fmt::Display for Writes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let counts = [
            (self.chains_written, "chains written"),
            (self.rules_written, "rules in them"),
            (self.chains_deleted, "chains deleted"),
            (self.sets_created, "sets created"),
            (self.sets_destroyed, "sets destroyed"),
            (self.members_added, "members added"),
            (self.members_removed, "members removed"),
        ];
        let mut first = true;
        for (count, what) in counts.into_iter().filter(|(count, _)| *count > 0) {
            write!(f, "{}{count} {what}", if first { "" } else { ", " })?;
            first = false;
        }
        if first { f.write_str("nothing") } else { Ok(()) }
    }
}
