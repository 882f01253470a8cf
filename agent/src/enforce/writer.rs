//! From the ruleset that a kernel holds to the one that it should hold.

mod audit;
mod beside_rules;
mod in_force;

use std::time::Instant;

use npc_compiler::object::Family;
use npc_compiler::plan::{FamilyState, KernelState, Plan, Step};
use tracing::info;

use self::beside_rules::BesideRules;
use super::flows::Established;
use super::sync_state::{Probed, SyncState};
use super::writes::Writes;
use crate::dataplane::iptables::Hook;
use crate::dataplane::probe::Supported;
use crate::dataplane::{Error, Failures, Kernel};

/// Writes rulesets to a kernel, and knows whether it holds the last one.
#[derive(Debug)]
pub struct Writer<K> {
    kernel: K,
    /// What is known of the rules and sets that it holds.
    state: SyncState,
    /// It was read since the agent started, so what an earlier agent left is logged.
    was_read: bool,
    beside_rules: BesideRules,
    /// Whether it is known what it supports.
    probed: Probed,
    /// Since when the ruleset that was written last is in force for new flows.
    enforced: Instant,
    pub(super) established: Established,
}

/// What a write did, and where the jump was that was not in its place.
type WriteOutcome = (Writes, Vec<(Family, Hook)>);

/// Why a write ended early, and what is known of the kernel then.
struct WriteFailure {
    error: Error,
    /// What the kernel holds, if sets went ahead of rules that wait for the lock. Otherwise nothing is known.
    sets_ahead: Option<Box<KernelState>>,
}

impl From<Error> for WriteFailure {
    fn from(error: Error) -> Self {
        Self { error, sets_ahead: None }
    }
}

impl WriteFailure {
    /// What is known of the kernel now, if the jump is known to be missing, or if the error says so.
    fn into_state(self, is_unhooked: bool) -> (SyncState, Error) {
        let is_unhooked = is_unhooked || self.error.is_unhooked();
        let state = match self.sets_ahead {
            Some(actual) => SyncState::SetsAhead { actual: *actual, is_unhooked },
            None => SyncState::Unknown { is_unhooked },
        };
        (state, self.error)
    }
}

impl<K: Kernel> Writer<K> {
    /// Will write to this kernel. Nothing is read or written yet.
    pub fn new(kernel: K) -> Self {
        Self {
            kernel,
            state: SyncState::default(),
            was_read: false,
            beside_rules: BesideRules::default(),
            probed: Probed::Not,
            enforced: Instant::now(),
            established: Established::new(),
        }
    }

    /// Carries out writes that no packet meets. They are in the desired state already, and the
    /// kernel is in sync but for them.
    ///
    /// Families that have failed already are left alone. As after any failure, nothing is known of the
    /// kernel if one fails here, and the next write reads it.
    pub(super) fn load(&mut self, plan: &Plan, failed: &mut Failures) {
        let had_failed = !failed.is_empty();
        self.kernel.apply_each(plan, failed);
        if !had_failed && !failed.is_empty() {
            self.state = SyncState::Unknown { is_unhooked: failed.iter().any(|(_, error)| error.is_unhooked()) };
        }
    }

    /// Whether writes of [`Writer::load`] may go to a family: the kernel holds the desired state except for the family
    /// that failed, and no other program holds the lock that rules need.
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
    /// `change` leads to it from the state that was desired the last time, and
    /// is used if the kernel holds that one; otherwise the kernel is read.
    ///
    /// # Errors
    /// If the kernel cannot be read or written, in a family at least. It may then
    /// hold a part of the change, in the order in which a plan is safe.
    pub fn write(&mut self, change: Plan, desired: &KernelState) -> Result<WriteOutcome, Error> {
        let mut failed = Failures::default();
        let written = self.write_each(change, desired, false, &mut failed)?;
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
        desired: &KernelState,
        is_loading: bool,
        failed: &mut Failures,
    ) -> Result<WriteOutcome, Error> {
        let before = std::mem::take(&mut self.state);
        let (state, written) = match self.try_write(before, change, desired, is_loading, failed) {
            Ok(written) if failed.is_empty() => (SyncState::InSync { is_proved: true }, Ok(written)),
            Ok(written) => {
                let is_unhooked = failed.iter().any(|(_, error)| error.is_unhooked());
                (SyncState::Unknown { is_unhooked }, Ok(written))
            }
            Err(failure) => {
                let (state, error) = failure.into_state(false);
                (state, Err(error))
            }
        };
        self.state = state;
        written
    }

    /// `before` is what was known of the kernel.
    fn try_write(
        &mut self,
        before: SyncState,
        change: Plan,
        desired: &KernelState,
        is_loading: bool,
        failed: &mut Failures,
    ) -> Result<WriteOutcome, WriteFailure> {
        let (plan, actual) = match before {
            SyncState::InSync { .. } => (change, None),
            state => {
                self.established.rules_were_lost();
                let actual = match state {
                    SyncState::SetsAhead { actual, .. } => self.after_contention(actual, desired, failed)?,
                    SyncState::Unknown { .. } | SyncState::InSync { .. } => self.read(desired, failed)?,
                };
                (Plan::between(&actual, desired), Some(actual))
            }
        };
        let was_in_sync = actual.is_none();
        self.established.planned(&plan);
        self.enforced = Instant::now();
        if !plan.is_empty() {
            self.enforced = self.carry_out(&plan, actual, desired, failed)?;
        }
        let mut rehooked = Vec::new();
        if !was_in_sync {
            rehooked = self.insert_hook(failed);
            self.enforced = Instant::now();
        }
        // With legacy a proof reads the whole table. What was loaded is proved with what leads to it.
        if !(is_loading && was_in_sync && plan.is_empty()) {
            self.kernel.prove(desired, failed);
        }
        if failed.is_of_all() {
            std::mem::take(failed).into_result()?;
        }
        Ok((Writes::of(&plan), rehooked))
    }

    /// What the kernel holds. A family that failed is left alone: for a plan it is as
    /// wanted.
    fn read(&mut self, desired: &KernelState, failed: &mut Failures) -> Result<KernelState, Error> {
        let mut actual = self.kernel.read_each(desired, failed)?;
        if failed.is_empty() && !self.was_read {
            self.was_read = true;
            log_earlier(&actual);
        }
        for family in failed.families() {
            match family {
                Family::V4 => actual.v4.clone_from(&desired.v4),
                Family::V6 => actual.v6.clone_from(&desired.v6),
            }
        }
        Ok(actual)
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
        self.state.is_unhooked()
    }

    /// Since when every first packet of a flow gets the verdict of the last write.
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
        actual: Option<KernelState>,
        desired: &KernelState,
        failed: &mut Failures,
    ) -> Result<Instant, WriteFailure> {
        if plan.steps.iter().any(is_rules)
            && let Err(error) = self.kernel.wait_for_lock()
        {
            if !error.is_contention() {
                return Err(error.into());
            }
            let actual = match actual {
                Some(actual) => actual,
                None => self.read(desired, failed)?,
            };
            let ahead = self.write_ahead(actual, desired, failed)?;
            return Err(WriteFailure { error, sets_ahead: Some(Box::new(ahead)) });
        }
        Ok(self.kernel.apply_each(plan, failed))
    }

    /// What the kernel holds after another program held the lock. If it holds the lock still,
    /// sets go ahead.
    fn after_contention(
        &mut self,
        actual: KernelState,
        desired: &KernelState,
        failed: &mut Failures,
    ) -> Result<KernelState, WriteFailure> {
        let actual = self.write_ahead(actual, desired, failed)?;
        if !Plan::between(&actual, desired).steps.iter().any(is_rules) {
            return Ok(actual);
        }
        match self.kernel.wait_for_lock() {
            // The program that held it may have written after the kernel was read.
            Ok(()) => Ok(self.read(desired, failed)?),
            Err(error) if error.is_contention() => Err(WriteFailure { error, sets_ahead: Some(Box::new(actual)) }),
            Err(error) => Err(error.into()),
        }
    }

    /// Writes what sets can do ahead of rules, and answers what the kernel holds
    /// then.
    fn write_ahead(
        &mut self,
        mut actual: KernelState,
        desired: &KernelState,
        failed: &mut Failures,
    ) -> Result<KernelState, Error> {
        let ahead = actual.ahead_of_rules(desired);
        self.write_sets(&mut actual, &ahead, failed);
        // The rules of both families wait, so not even the family without a failure is up
        // to date, as an error of families would say.
        std::mem::take(failed).into_first()?;
        Ok(actual)
    }

    /// Writes what leads to this state but for rules. `actual` is what the kernel holds, before and, of families
    /// that have not failed, afterwards.
    fn write_sets(&mut self, actual: &mut KernelState, ahead: &KernelState, failed: &mut Failures) {
        let mut plan = Plan::between(actual, ahead);
        let without_rules = plan.steps.iter().position(is_rules).unwrap_or(plan.steps.len());
        plan.steps.truncate(without_rules);
        if !plan.is_empty() {
            self.kernel.apply_each(&plan, failed);
        }
        for step in &plan.steps {
            // It was read a moment ago, or written by us. What another program changed
            // since is found by the next read.
            let _ = step.apply(actual);
        }
    }

    /// Puts the jump first in FORWARD, and answers where it was not.
    fn insert_hook(&mut self, failed: &mut Failures) -> Vec<(Family, Hook)> {
        let mut found = self.kernel.hook_each(failed);
        found.retain(|(_, hook)| *hook != Hook::First);
        if !found.is_empty() {
            self.established.rules_were_lost();
        }
        found
    }
}

fn is_rules(step: &Step) -> bool {
    matches!(step, Step::Chains(..))
}

/// Logs what an agent before this one left.
fn log_earlier(actual: &KernelState) {
    let of = |count: fn(&FamilyState) -> usize| {
        Family::ALL.into_iter().map(|family| count(actual.family(family))).sum::<usize>()
    };
    let (chains, sets) = (of(|actual| actual.chains.len()), of(|actual| actual.sets.len()));
    if chains + sets > 0 {
        let members = of(|actual| actual.sets.values().map(|(_, members)| members.len()).sum());
        info!(chains, sets, members, "found the ruleset of an earlier agent; writing only the difference");
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::dataplane::iptables;

    fn locked() -> Error {
        iptables::Error::Locked { waited: Duration::ZERO, holder: None }.into()
    }

    #[test]
    fn a_failure_keeps_how_far_ahead_sets_are() {
        let ahead = WriteFailure { error: locked(), sets_ahead: Some(Box::default()) };
        assert!(matches!(ahead.into_state(false).0, SyncState::SetsAhead { is_unhooked: false, .. }));
        let unhooked = Error::Unhooked(Box::new(locked()));
        let ahead = WriteFailure { error: unhooked, sets_ahead: Some(Box::default()) };
        assert!(matches!(ahead.into_state(false).0, SyncState::SetsAhead { is_unhooked: true, .. }));
    }

    #[test]
    fn without_sets_ahead_nothing_is_known_after_a_failure() {
        assert!(matches!(WriteFailure::from(locked()).into_state(false).0, SyncState::Unknown { is_unhooked: false }));
        assert!(matches!(WriteFailure::from(locked()).into_state(true).0, SyncState::Unknown { is_unhooked: true }));
    }
}
