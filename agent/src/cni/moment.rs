//! Moments by the node's own clock, so that those of two agents and a plugin compare.

use std::collections::BTreeMap;
use std::time::Duration;

use npc_cni::protocol::Attachment;
use rustix::time::{ClockId, clock_gettime};
use serde::{Deserialize, Serialize};

/// A moment: microseconds since the node started. An operator who sets the node's clock does not
/// change their order, and a file on tmpfs knows no moment of an earlier start. Only the age of a
/// note (`left_at`) is by the clock that can be set.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Moment(u64);

impl Moment {
    /// Now.
    #[must_use]
    pub fn now() -> Self {
        let now = Duration::try_from(clock_gettime(ClockId::Boottime)).unwrap_or_default();
        Self(u64::try_from(now.as_micros()).unwrap_or(u64::MAX))
    }

    /// So long before this one.
    #[must_use]
    pub fn before(self, time: Duration) -> Self {
        Self(self.0.saturating_sub(u64::try_from(time.as_micros()).unwrap_or(u64::MAX)))
    }
}

/// When each attachment had its last DEL.
///
/// A plugin may outlive the runtime that started it. The next runtime removes the sandbox, and the
/// plugin asks on. The specification lets a runtime add the same attachment again after its DEL. So
/// only an ADD that began before the DEL is void.
#[derive(Debug, Default)]
pub(super) struct Deleted(BTreeMap<Attachment, Moment>);

impl Deleted {
    /// An attachment has its DEL.
    pub(super) fn insert(&mut self, attachment: Attachment, moment: Moment) {
        let last = self.0.entry(attachment).or_default();
        *last = moment.max(*last);
    }

    /// Whether an ADD that began at a moment had its DEL after that.
    pub(super) fn is_after(&self, attachment: &Attachment, began: Moment) -> bool {
        self.0.get(attachment).is_some_and(|deleted| *deleted > began)
    }

    /// Forgets those before a moment: no plugin waits for so long.
    pub(super) fn forget_before(&mut self, moment: Moment) {
        self.0.retain(|_, deleted| *deleted >= moment);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_del_ends_the_adds_that_began_before_it_and_no_later_one() {
        let attachment = Attachment { container_id: "c1".to_owned(), interface: "eth0".to_owned() };
        let other = Attachment { interface: "net1".to_owned(), ..attachment.clone() };
        let now = Moment::now();
        let second = Duration::from_secs(1);
        let mut deleted = Deleted::default();
        deleted.insert(attachment.clone(), now);
        // An older note is read later.
        deleted.insert(attachment.clone(), now.before(second * 9));
        assert!(deleted.is_after(&attachment, now.before(second)));
        assert!(!deleted.is_after(&attachment, now) && !deleted.is_after(&other, now.before(second)));
        deleted.forget_before(now);
        assert!(deleted.is_after(&attachment, now.before(second)));
        deleted.forget_before(Moment(now.0 + 1));
        assert!(!deleted.is_after(&attachment, now.before(second)));
        assert!(Moment::default() < now && Moment::now() >= now);
    }
}
