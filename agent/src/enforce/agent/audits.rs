//! What the agent's loop does by the clock: it looks whether the kernel still holds what was written.

use tokio::time::Instant;

use super::{Agent, failure};
use crate::dataplane::audit::AuditScope;
use crate::dataplane::{self, Kernel};
use crate::enforce::enforcer::Enforcer;
use crate::enforce::schedule::AuditRequest;
use crate::enforce::settings::Error;

impl<K: Kernel> Agent<K> {
    /// The audit that comes by the clock, and all else that does. It comes also while
    /// writes fail, and while changes wait for the next pass.
    pub(super) async fn periodic_audit(&mut self, audit: AuditRequest) -> Result<(), Error> {
        self.report.lost_lines();
        self.report.report_findings();
        self.check_bridges();
        self.audit(audit).await?;
        if self.is_settled() && !self.is_loading() {
            self.take_over().await?;
        }
        if self.is_settled() {
            self.retire();
            self.report.spoofable_for_long();
        }
        Ok(())
    }

    /// Finds and repairs drift. Where the state of the kernel is unknown, because it could
    /// not be written or read, the next pass does that.
    ///
    /// Answers whether the kernel held what was written last; nothing if that is not known.
    pub(super) async fn audit(&mut self, audit: AuditRequest) -> Result<Option<bool>, Error> {
        let begun = Instant::now();
        let work = move |enforcer: &mut Enforcer<K>| (enforcer.audit(audit.depth), enforcer.audit_bridge());
        let (audited, bridge) = self.blocking(work).await?;
        let now = Instant::now();
        let took = now - begun;
        let is_table_drifted = bridge.is_some_and(|(drifted, state)| {
            self.report.bridge_audited(drifted, &state);
            drifted
        });
        if self.enforcer.as_ref().is_some_and(Enforcer::is_proved) {
            self.readiness.proved(begun);
        }
        let held = match audited {
            Ok(None) => {
                if is_table_drifted {
                    self.schedule.audit_found(now, took);
                } else {
                    self.schedule.audit_found_nothing(now, audit.depth, took);
                }
                if audit.is_notified && !self.is_in_sync() {
                    self.schedule.notified_out_of_sync(now);
                }
                if self.is_unhooked() {
                    self.readiness.audit_failed(
                        true,
                        "another program removed the jump from FORWARD, and the rules wait for the xtables lock",
                    );
                    self.report_readiness();
                }
                self.is_in_sync().then_some(!is_table_drifted && !self.is_unhooked())
            }
            Ok(Some(repair)) => {
                self.schedule.audit_found(now, took);
                self.report.drifted(&repair);
                match repair.repaired {
                    Ok(_) => self.schedule.repaired(now),
                    Err(error) => self.audit_failed(&error),
                }
                Some(false)
            }
            Err(error) => {
                self.audit_failed(&error);
                None
            }
        };
        Ok(held)
    }

    /// Answers those that want to know whether the kernel holds everything. While something waits
    /// to be written they wait too, and so they do if the kernel cannot be read. If a pass is due
    /// after the audit, the audit need not have found anything: a pass follows every slow audit.
    pub(super) async fn check(&mut self) -> Result<(), Error> {
        if self.is_settled() && self.waiters.has_checks() {
            let audit = AuditRequest { depth: AuditScope::Full, is_notified: false };
            if let Some(held) = self.audit(audit).await? {
                self.waiters.checked(held);
            }
        }
        Ok(())
    }

    fn audit_failed(&mut self, error: &dataplane::Error) {
        let retry = self.schedule.failed(Instant::now(), failure(error));
        let words = self.report.failed(error, retry);
        self.readiness.audit_failed(self.is_unhooked(), &words);
        self.report_readiness();
    }

    /// Removes what Azure NPM left, once that is safe.
    async fn take_over(&mut self) -> Result<(), Error> {
        let Some(mut npm_removal) = self.npm_removal.take_if(|npm_removal| npm_removal.is_due()) else { return Ok(()) };
        let work = move |enforcer: &mut Enforcer<K>| {
            npm_removal.step(|| enforcer.holds());
            npm_removal
        };
        self.npm_removal = Some(self.blocking(work).await?);
        Ok(())
    }

    /// Requests a pass if empty groups have expired, policies over the bound are to be chosen
    /// anew, or flows are to be judged.
    fn retire(&mut self) {
        let is_due = |enforcer: &Enforcer<K>| enforcer.is_retirement_due() || enforcer.must_check_flows();
        if self.enforcer.as_ref().is_some_and(is_due) {
            self.schedule.request_pass(Instant::now());
        }
    }

    /// Checks whether iptables filters what bridges forward. The agent has to ask for this again
    /// and again, because the kernel sends no notification of a sysctl.
    fn check_bridges(&mut self) {
        let (Some(enforcer), Some(network)) = (&mut self.enforcer, self.pending_input.network()) else { return };
        let unfiltered = enforcer.check_bridges(network).clone();
        self.report.bridges(&unfiltered);
        let before = self.readiness.reason().map(str::to_owned);
        self.readiness.set_obstacle(self.obstacle(&unfiltered));
        if self.readiness.reason() != before.as_deref() {
            self.report_readiness();
            // No pass or sweep follows that would log that the agent is ready.
            self.report.log_passes(self.sweeps.judged());
        }
    }
}
