//! Which attachments had their DEL, and when.

use std::collections::BTreeMap;

use npc_cni::moment::Moment;
use npc_cni::protocol::Attachment;

/// When each attachment had its last DEL.
///
/// A plugin may outlive the runtime that started it. The next runtime removes the sandbox, and the
/// plugin asks on. The specification lets a runtime add the same attachment again after its DEL. So
/// only an ADD that began before the DEL is void. Two that have one moment were in this order,
/// because between a DEL and the next ADD the runtime starts a plugin.
#[derive(Debug, Default)]
pub(super) struct LastDeletes(BTreeMap<Attachment, Moment>);

impl LastDeletes {
    /// An attachment has its DEL.
    pub(super) fn insert(&mut self, attachment: Attachment, moment: Moment) {
        let last = self.0.entry(attachment).or_default();
        *last = moment.max(*last);
    }

    /// Whether an ADD that began at a moment had its DEL after that.
    pub(super) fn is_after(&self, attachment: &Attachment, began: Moment) -> bool {
        self.0.get(attachment).is_some_and(|deleted| *deleted >= began)
    }

    /// Forgets those before a moment: no plugin waits for so long.
    pub(super) fn forget_before(&mut self, moment: Moment) {
        self.0.retain(|_, deleted| *deleted >= moment);
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn a_del_ends_the_adds_that_began_before_it_and_no_later_one() {
        let attachment = Attachment { container_id: "c1".to_owned(), interface: "eth0".to_owned() };
        let other = Attachment { interface: "net1".to_owned(), ..attachment.clone() };
        let [least, second] = [Duration::from_micros(1), Duration::from_secs(1)];
        let after = Moment::now();
        let now = after.before(least);
        let mut deleted = LastDeletes::default();
        deleted.insert(attachment.clone(), now);
        // An older note is read later.
        deleted.insert(attachment.clone(), now.before(second * 9));
        assert!(deleted.is_after(&attachment, now.before(second)) && deleted.is_after(&attachment, now));
        assert!(!deleted.is_after(&attachment, after) && !deleted.is_after(&other, now.before(second)));
        deleted.forget_before(now);
        assert!(deleted.is_after(&attachment, now.before(second)));
        deleted.forget_before(after);
        assert!(!deleted.is_after(&attachment, now.before(second)));
        assert!(Moment::default() < now && Moment::now() >= now);
    }
}
