//! When the agent writes to the kernel and when it audits it.
//!
//! A plain value: it is given what happened and the time, and answers what is due. It
//! knows neither the kernel nor the cluster, and starts nothing.
//!
//! | what | is due |
//! |---|---|
//! | a pass | at once after a change; after a failure when the wait is over |
//! | the periodic audit | [`AUDIT`] after the last one began, also while changes come |
//! | an audit of what a notification named | at once; while large changes are loaded, [`LOAD_AUDIT`] later |
//! | an audit after a find | soon, then less and less often ([`FollowUp`]) |
//! | the next portion of a large change | when nothing else is due |
//!
//! After a find, each audit waits at least as long as that find took. So a program that
//! undoes each repair costs half of a processor at most.
//!
//! A kernel that refuses is not asked more often because more changes. A change brings
//! the next pass forward in two cases: if only the xtables lock is missing, because sets
//! need no lock; and, a little, if one family failed, because the other takes writes. So does
//! a request that waits for a pass, because what is refused may be of other pods.

use std::time::Duration;

use tokio::time::{self, Instant};

use self::follow_up::FollowUp;
use crate::dataplane::audit::{AuditScope, ROUND};

mod follow_up;
#[cfg(test)]
mod tests;

/// The wait after the first failure. Each wait is twice as long as the one before.
const FIRST_RETRY: Duration = Duration::from_millis(250);

/// The longest wait because of failures alone.
const LAST_RETRY: Duration = Duration::from_secs(5);

/// The longest wait while another program holds the xtables lock.
const LOCK_RETRY: Duration = Duration::from_secs(1);

/// A retry waits at least this many times as long as the last pass took, but no longer
/// than [`LONGEST_SHARE`]: a pass that hung took long, and cost no processor time.
const RETRY_SHARE: u32 = 4;
const LONGEST_SHARE: Duration = Duration::from_secs(10);

/// For this long after a pass, a notification may be of what that pass wrote.
const ECHO: Duration = Duration::from_millis(400);

/// While large changes are loaded, the audit after a notification waits so long. Each portion makes one.
const LOAD_AUDIT: Duration = Duration::from_secs(1);

/// The time between two periodic audits. They find what the kernel sends no
/// notification of.
pub(super) const AUDIT: Duration = ROUND;

/// Waits until then; for ever if there is no such moment.
pub(super) async fn until(moment: Option<Instant>) {
    match moment {
        Some(moment) => time::sleep_until(moment).await,
        None => std::future::pending().await,
    }
}

/// What is due.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Task {
    /// Bring the kernel up to date.
    Pass,
    /// Find drift, and repair it.
    Audit(AuditRequest),
}

/// An audit that is due.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct AuditRequest {
    /// How much it reads.
    pub(super) depth: AuditScope,
    /// A notification has come since the last audit.
    pub(super) is_notified: bool,
}

/// Why a pass or an audit failed, as far as that decides when the next pass comes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum PassFailure {
    /// Another program holds the xtables lock. Sets can be written all the same.
    Locked,
    /// One family is up to date, the other failed.
    OneFamily,
    /// Anything else.
    Other,
}

/// When the next pass is due.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum NextPass {
    /// There is nothing to write.
    NotDue,
    /// There is something to write.
    At(Instant),
    /// The last pass or audit failed in this way.
    RetryAt(Instant, PassFailure),
}

/// When the agent writes to the kernel and when it audits it.
#[derive(Debug)]
pub(super) struct Schedule {
    pass: NextPass,
    /// When the next portion of a large change is to be loaded, which takes a pass.
    load: Option<Instant>,
    /// The wait after the next failure.
    retry: Duration,
    /// How long the last pass took.
    took: Duration,
    /// When the last pass ended.
    ended: Instant,
    /// When the next periodic audit is due.
    periodic: Instant,
    /// The next periodic audit was due when the last audit ended.
    was_overrun: bool,
    /// When a notification came that no audit has followed yet.
    notified: Option<Instant>,
    follow_up: FollowUp,
}

impl Schedule {
    /// Nothing to write, and a periodic audit in [`AUDIT`].
    pub(super) fn new(now: Instant) -> Self {
        Self {
            pass: NextPass::NotDue,
            load: None,
            retry: FIRST_RETRY,
            took: Duration::ZERO,
            ended: now,
            periodic: now + AUDIT,
            was_overrun: false,
            notified: None,
            follow_up: FollowUp::default(),
        }
    }

    /// When [`Schedule::take_due`] has something next, if nothing happens before.
    pub(super) fn next(&self) -> Instant {
        let others = [self.pass_due(), self.load, self.notified_due(), self.follow_up.due()];
        others.into_iter().flatten().fold(self.periodic_due(), Instant::min)
    }

    /// What is due now, most urgent first. The caller does it and reports how it ended.
    ///
    /// The periodic audit comes before a pass: while changes come without a pause, the
    /// kernel is audited all the same. But not twice before a pass that is due: an audit may
    /// take so long that the next one is due at its end.
    pub(super) fn take_due(&mut self, now: Instant) -> Option<Task> {
        let is_due = |at: Option<Instant>| at.is_some_and(|at| at <= now);
        let was_overrun = std::mem::take(&mut self.was_overrun);
        if self.periodic_due() <= now && !(was_overrun && is_due(self.pass_due())) {
            self.periodic = now + AUDIT;
            return Some(self.audit(AuditScope::Periodic));
        }
        if is_due(self.pass_due()) {
            (self.pass, self.load) = (NextPass::NotDue, None);
            return Some(Task::Pass);
        }
        if is_due(self.notified_due()) {
            return Some(self.audit(AuditScope::Notified));
        }
        // Each audit waits for as long as the one before took, so what is loaded has its turns.
        if is_due(self.follow_up.due()) {
            return Some(self.audit(AuditScope::Recheck));
        }
        self.load.take_if(|at| *at <= now).map(|_| Task::Pass)
    }

    fn audit(&mut self, depth: AuditScope) -> Task {
        Task::Audit(AuditRequest { depth, is_notified: self.notified.take().is_some() })
    }

    /// When the next pass is due; `None` if there is nothing to write.
    pub(super) fn pass_due(&self) -> Option<Instant> {
        match self.pass {
            NextPass::NotDue => None,
            NextPass::At(at) | NextPass::RetryAt(at, _) => Some(at),
        }
    }

    fn notified_due(&self) -> Option<Instant> {
        let pause = if self.load.is_some() { LOAD_AUDIT } else { Duration::ZERO };
        self.notified.map(|at| self.after_pause(at + pause))
    }

    /// No more than [`AUDIT`] late, even if passes run meanwhile.
    fn periodic_due(&self) -> Instant {
        self.after_pause(self.periodic).min(self.periodic + AUDIT)
    }

    /// Then, but not right after a find that took long: a program that undoes each repair
    /// must not have all of the processor.
    fn after_pause(&self, at: Instant) -> Instant {
        self.follow_up.not_before().map_or(at, |not_before| at.max(not_before))
    }

    /// The cluster or the node's network changed.
    pub(super) fn changed(&mut self, now: Instant) {
        match self.pass {
            NextPass::RetryAt(_, PassFailure::Locked) => self.pass = NextPass::At(now),
            NextPass::RetryAt(_, PassFailure::OneFamily) => self.bring_forward(now),
            _ => self.request_pass(now),
        }
    }

    /// A request waits for the next pass.
    pub(super) fn waited_for(&mut self, now: Instant) {
        match self.pass {
            NextPass::RetryAt(_, PassFailure::Other) => self.bring_forward(now),
            _ => self.changed(now),
        }
    }

    /// There is something to write from then on, or flows to judge. A pass that is due before stays
    /// when it is due, and so does one that failed.
    pub(super) fn request_pass(&mut self, at: Instant) {
        match &mut self.pass {
            NextPass::NotDue => self.pass = NextPass::At(at),
            NextPass::At(due) => *due = at.min(*due),
            NextPass::RetryAt(..) => {}
        }
    }

    /// The next portion of a large change is to be loaded then, if nothing else is due. A pass that comes
    /// before loads it too, and so does one after a failure, which comes no sooner for this. If a portion
    /// waits for a moment already, it goes on waiting for that.
    pub(super) fn request_load(&mut self, at: Instant) {
        if !matches!(self.pass, NextPass::RetryAt(..)) {
            self.load.get_or_insert(at);
        }
    }

    /// A program wrote to the packet filter, perhaps this agent.
    pub(super) fn notified(&mut self, now: Instant) {
        self.notified.get_or_insert(now);
    }

    /// A pass that took so long has written everything, so no other is due.
    pub(super) fn pass_succeeded(&mut self, now: Instant, took: Duration) {
        (self.pass, self.took, self.ended) = (NextPass::NotDue, took, now);
        if self.retry > FIRST_RETRY {
            // The program that made passes fail may go on.
            self.follow_up.found(now, took);
        }
        self.retry = FIRST_RETRY;
    }

    /// A pass that took so long has failed. Answers how long the next one waits.
    pub(super) fn pass_failed(&mut self, now: Instant, took: Duration, failure: PassFailure) -> Duration {
        (self.took, self.ended) = (took, now);
        self.failed(now, failure)
    }

    /// An audit could not read the kernel, or repair what it found. The next pass reads
    /// everything. Answers how long it waits.
    pub(super) fn failed(&mut self, now: Instant, failure: PassFailure) -> Duration {
        self.load = None;
        // What a pass costs counts from the second failure on: most first ones are over at once.
        let cost = if self.retry > FIRST_RETRY { self.cost() } else { Duration::ZERO };
        let wait = match failure {
            PassFailure::Locked => self.retry.min(LOCK_RETRY),
            PassFailure::OneFamily | PassFailure::Other => self.retry.max(cost),
        };
        self.pass = NextPass::RetryAt(now + wait, failure);
        self.retry = (wait.min(LAST_RETRY) * 2).min(LAST_RETRY);
        wait
    }

    /// An audit that took so long found drift.
    pub(super) fn audit_found(&mut self, now: Instant, took: Duration) {
        self.was_overrun = self.periodic <= now;
        self.follow_up.found(now, took);
    }

    /// What an audit found is repaired. Flows that began meanwhile are judged next.
    pub(super) fn repaired(&mut self, now: Instant) {
        self.pass = NextPass::At(now);
    }

    /// An audit that took so long found no drift.
    pub(super) fn audit_found_nothing(&mut self, now: Instant, depth: AuditScope, took: Duration) {
        self.was_overrun = self.periodic <= now;
        self.follow_up.found_nothing(now, depth, took);
    }

    /// A notification came while the state of the kernel is unknown, so there was nothing
    /// to compare. The program that caused the failure may be done: read the kernel sooner.
    pub(super) fn notified_out_of_sync(&mut self, now: Instant) {
        if now - self.ended > ECHO {
            self.bring_forward(now);
        }
    }

    /// Has a pass that is due come sooner, but not at once: it reads everything.
    fn bring_forward(&mut self, now: Instant) {
        let soon = now + FIRST_RETRY.max(self.cost());
        if let NextPass::At(at) | NextPass::RetryAt(at, _) = &mut self.pass {
            *at = soon.min(*at);
        }
    }

    /// How long the next pass waits because of what the last one cost.
    fn cost(&self) -> Duration {
        (self.took * RETRY_SHARE).min(LONGEST_SHARE)
    }
}
