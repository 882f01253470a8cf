//! What is doubted at the start: a cluster without policies, where the kernel isolates
//! pods since an earlier agent. The kernel is the memory of what was.

use tokio::time::Instant;

use crate::source::held::{Moment, Trust};

/// The doubt of an agent that starts.
#[derive(Debug, Default)]
pub(in super::super) struct Start {
    /// The kernel isolates pods, and no policy was seen.
    may_doubt: bool,
    /// When the list of policies that is coming in began.
    begun: Option<Instant>,
    /// When the first list without policies was complete.
    since: Option<Moment>,
}

impl Start {
    pub(in super::super) fn new(kernel_isolates: bool) -> Self {
        Self { may_doubt: kernel_isolates, ..Self::default() }
    }

    /// Whether the cluster is not to be taken for complete.
    pub(in super::super) fn is_doubted(&self) -> bool {
        self.may_doubt && self.since.is_some()
    }

    /// The doubt begins anew.
    pub(in super::super) fn restart(&mut self, moment: Moment) {
        self.since = self.since.map(|_| moment);
    }

    /// A list of policies begins.
    pub(in super::super) fn begin_list(&mut self, now: Instant) {
        self.begun = Some(now);
    }

    /// Takes in that a list of policies has ended without any policy. Returns whether a doubt begins.
    pub(in super::super) fn listed_none(&mut self, trust: Trust) -> bool {
        if !self.may_doubt {
            return false;
        }
        let Some(since) = self.since else {
            self.since = Some(trust.moment);
            return true;
        };
        let confirms = self.begun.is_some_and(|begun| begun >= since.now + trust.times.confirm_after);
        self.may_doubt = !confirms || !trust.is_own_cluster;
        false
    }

    /// There are policies.
    pub(in super::super) fn has_policies(&mut self) {
        self.may_doubt = false;
    }

    /// Believes what was doubted for the longest time.
    pub(in super::super) fn expire(&mut self, trust: Trust) {
        self.may_doubt &= !self.since.is_some_and(|since| trust.is_expired(since));
    }

    /// When [`Start::expire`] does something.
    pub(in super::super) fn expires(&self, trust: Trust) -> Option<Instant> {
        self.since.filter(|_| self.may_doubt).and_then(|since| trust.expires(since))
    }
}
