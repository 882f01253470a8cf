//! Audits, and repairs of what they find.

use npc_compiler::object::Family;
use npc_compiler::plan::{KernelState, Plan};

use super::{WriteFailure, Writer};
use crate::dataplane::audit::{Audit, AuditScope};
use crate::dataplane::{Error, Failures, Kernel};
use crate::enforce::drift::{self, Drift, Repair};
use crate::enforce::sync_state::SyncState;
use crate::enforce::writes::Writes;
use crate::metrics::DriftKind;

/// What is known of the kernel after an audit, and what was found and repaired.
type Audited = (SyncState, Option<Repair>);

impl<K: Kernel> Writer<K> {
    /// Finds drift and repairs it: only what differs, in the order of a plan. Nothing if the
    /// kernel is unknown, because the pass that is due then reads it.
    ///
    /// Denied flows may have begun meanwhile; the next pass judges them.
    ///
    /// # Errors
    /// If the kernel cannot be audited. That a repair failed is in [`Repair::repaired`]; the
    /// next pass has to do it then.
    pub fn audit(&mut self, desired: &KernelState, depth: AuditScope) -> Result<Option<Repair>, Error> {
        let audited = match std::mem::take(&mut self.state) {
            unknown @ SyncState::Unknown { .. } => Ok((unknown, None)),
            SyncState::SetsAhead { actual, is_unhooked } => self.audit_ahead(actual, is_unhooked, depth),
            SyncState::InSync { .. } => self.audit_in_sync(desired, depth),
        };
        let (state, audited) = match audited {
            Ok((state, repair)) => (state, Ok(repair)),
            Err(error) => (SyncState::Unknown { is_unhooked: error.is_unhooked() }, Err(error)),
        };
        self.state = state;
        audited
    }

    /// While rules wait, sets are audited all the same. What differs is left to the next
    /// pass, which reads everything.
    fn audit_ahead(&mut self, actual: KernelState, is_unhooked: bool, depth: AuditScope) -> Result<Audited, Error> {
        let mut audit = self.kernel.audit(&actual, depth)?;
        // The jump goes first once the rules are in. Until then the agent is not ready.
        let is_unhooked = !audit.hooks.is_empty() || is_unhooked && audit.rules_unread;
        audit.hooks.clear();
        if audit.is_clean() {
            return Ok((SyncState::SetsAhead { actual, is_unhooked }, None));
        }
        self.established.rules_were_lost();
        let repair = Repair { found: logged(&audit, &actual), repaired: Ok(None) };
        Ok((SyncState::Unknown { is_unhooked }, Some(repair)))
    }

    fn audit_in_sync(&mut self, desired: &KernelState, depth: AuditScope) -> Result<Audited, Error> {
        let mut audit = self.kernel.audit(desired, depth)?;
        let mut first = None;
        if !(audit.v4.is_empty() && audit.v6.is_empty()) {
            // The program that changed this may have changed more with it. Packets meet only old
            // and new verdicts if the plan knows all that is old.
            self.established.rules_were_lost();
            let whole = match self.kernel.audit(desired, AuditScope::Full) {
                Ok(whole) => whole,
                Err(error) => return Ok(unrepaired(logged(&audit, desired), error.into())),
            };
            let seen = std::mem::replace(&mut audit, whole);
            audit.authors.extend(seen.authors.iter().cloned());
            audit.unneeded.extend(seen.unneeded.iter().cloned());
            first = Some(seen);
        }
        if first.is_none() && audit.is_clean() {
            let is_proved = !audit.rules_unread && depth != AuditScope::Notified;
            return Ok((SyncState::InSync { is_proved }, None));
        }
        // If another program has put it back meanwhile, it was gone all the same.
        let mut found = match &first {
            Some(first) if audit.v4.is_empty() && audit.v6.is_empty() => logged(first, desired),
            _ => logged(&audit, desired),
        };
        self.established.rules_were_lost();
        match self.repair(audit, desired, &mut found) {
            Ok(writes) => {
                Ok((SyncState::InSync { is_proved: true }, Some(Repair { found, repaired: Ok(Some(writes)) })))
            }
            Err(failure) => Ok(unrepaired(found, failure)),
        }
    }

    /// Repairs what an audit found. What is found only now is added to that.
    fn repair(&mut self, audit: Audit, desired: &KernelState, found: &mut Vec<Drift>) -> Result<Writes, WriteFailure> {
        let mut failed = Failures::default();
        let unhooked: Vec<Family> = audit.hooks.iter().map(|(family, _)| *family).collect();
        let actual =
            if audit.replaced.is_empty() { drift::as_found(audit, desired) } else { self.read(desired, &mut failed)? };
        let plan = Plan::between(&actual, desired);
        if !plan.is_empty() {
            self.carry_out(&plan, Some(actual), desired, &mut failed)?;
        }
        if !unhooked.is_empty() {
            // A program that writes to both families may reach the second one after the audit.
            let mut hooks = self.insert_hook(&mut failed);
            hooks.retain(|(family, _)| !unhooked.contains(family));
            found.extend(logged(&Audit { hooks, ..Audit::default() }, desired));
        }
        self.kernel.prove(desired, &mut failed);
        failed.into_result()?;
        Ok(Writes::of(&plan))
    }
}

/// What is known after a repair that failed. A jump that was found missing may be missing still.
fn unrepaired(found: Vec<Drift>, failure: WriteFailure) -> Audited {
    let lacks_hook = found.iter().any(|drift| drift.kind == DriftKind::Hook);
    let (state, error) = failure.into_state(lacks_hook);
    (state, Some(Repair { found, repaired: Err(error) }))
}

/// The drift that an audit found, after it is logged.
fn logged(audit: &Audit, desired: &KernelState) -> Vec<Drift> {
    let found = drift::found(audit, desired);
    drift::log(&found);
    found
}
