//! How soon the kernel is audited again after an audit found drift.
//!
//! A program that undid something of ours may do it again: a script in a loop, a service
//! that is restarted. So the agent audits again soon for a while, and not so often that
//! audits take much of a processor.

use std::time::Duration;

use tokio::time::Instant;

use super::AUDIT;
use crate::dataplane::audit::AuditScope;

/// The wait before the next audit, and for how long after a find it stays so. Then each
/// wait is twice as long as the one before, until it is that of the periodic audit.
const SOON: Duration = Duration::from_millis(100);
const LASTS: Duration = Duration::from_secs(10);

/// An audit waits at least this many times as long as the one before took, though no
/// longer than the periodic one.
const SHARE: u32 = 4;

/// The audits that follow a find.
#[derive(Debug, Default)]
pub(super) struct FollowUp {
    /// When drift was found last.
    found: Option<Instant>,
    /// The wait before the next audit, and when that is due.
    wait: Duration,
    due: Option<Instant>,
    not_before: Option<Instant>,
}

impl FollowUp {
    /// When the next audit is due, if before the periodic one.
    pub(super) fn due(&self) -> Option<Instant> {
        self.due
    }

    /// Until then every other audit waits, because to find and repair took a while.
    pub(super) fn not_before(&self) -> Option<Instant> {
        self.not_before
    }

    /// Drift was found, and repaired as far as that was possible; it took so long.
    pub(super) fn found(&mut self, now: Instant, took: Duration) {
        (self.found, self.wait) = (Some(now), SOON);
        self.not_before = Some(now + took.min(AUDIT));
        self.due = Some(now + self.wait.max(took * SHARE).min(AUDIT));
    }

    /// An audit that took so long found no drift.
    pub(super) fn found_nothing(&mut self, now: Instant, depth: AuditScope, took: Duration) {
        if self.found.is_none() || depth == AuditScope::Notified {
            return;
        }
        if self.found.is_some_and(|found| now >= found + LASTS) {
            self.wait *= 2;
        }
        if self.wait >= AUDIT {
            *self = Self::default();
        } else {
            self.due = Some(now + self.wait.max(took * SHARE).min(AUDIT));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The waits before the audits that follow, if each audit takes so long and finds nothing.
    fn waits(mut follow_up: FollowUp, mut now: Instant, took: Duration) -> Vec<u128> {
        let mut waits = Vec::new();
        while let Some(due) = follow_up.due() {
            waits.push((due - now).as_millis());
            now = due + took;
            follow_up.found_nothing(now, AuditScope::Recheck, took);
        }
        waits
    }

    #[test]
    fn after_a_find_audits_are_soon_for_a_while_and_then_seldom() {
        let (mut follow_up, now) = (FollowUp::default(), Instant::now());
        assert_eq!(follow_up.due(), None);
        follow_up.found(now, Duration::ZERO);
        let waits = waits(follow_up, now, Duration::ZERO);
        let (soon, later) = waits.split_at(waits.len() - 5);
        assert!(soon.len() == 100 && soon.iter().all(|wait| *wait == 100), "{waits:?}");
        assert_eq!(later, [200, 400, 800, 1600, 3200]);
    }

    #[test]
    fn a_costly_audit_is_not_repeated_as_often() {
        let (mut follow_up, now) = (FollowUp::default(), Instant::now());
        let took = Duration::from_millis(500);
        follow_up.found(now, took);
        assert_eq!(follow_up.not_before(), Some(now + took));
        let waits = waits(follow_up, now, took);
        assert!(waits.iter().all(|wait| *wait >= 2000), "{waits:?}");
    }
}
