//! Requests that wait until the events before them are in the kernel.

use std::collections::BTreeSet;

use npc_compiler::object::Family;
use tokio::sync::oneshot;

use crate::dataplane::Error;

/// Waits until the events before it are in the kernel, in these families.
#[derive(Debug)]
pub struct Waiter {
    /// The families that matter to it.
    pub families: BTreeSet<Family>,
    /// Where it waits.
    pub reply: oneshot::Sender<()>,
}

/// All that wait.
#[derive(Debug, Default)]
pub(super) struct Waiters {
    waiting: Vec<Waiter>,
    checking: Vec<oneshot::Sender<bool>>,
}

impl Waiters {
    /// One more waits for the next pass that goes well.
    pub(super) fn add(&mut self, waiter: Waiter) {
        self.waiting.push(waiter);
    }

    /// One more waits for an audit of everything.
    pub(super) fn check(&mut self, reply: oneshot::Sender<bool>) {
        self.checking.push(reply);
    }

    /// Whether an audit of everything is waited for.
    pub(super) fn has_checks(&self) -> bool {
        !self.checking.is_empty()
    }

    /// A pass went well: everything is in the kernel, and the flows that it forbids are
    /// cut.
    pub(super) fn passed(&mut self) {
        answer(self.waiting.drain(..));
    }

    /// A pass failed. What failed in one family only is in the kernel in the other.
    pub(super) fn failed(&mut self, error: &Error) {
        let Error::Families(failures) = error else { return };
        let failed: BTreeSet<Family> = failures.families().collect();
        answer(self.waiting.extract_if(.., |waiter| waiter.families.is_disjoint(&failed)));
    }

    /// An audit of everything is over; whether the kernel held all.
    pub(super) fn checked(&mut self, holds: bool) {
        for reply in self.checking.drain(..) {
            // One that does not wait any more has gone.
            let _ = reply.send(holds);
        }
    }
}

fn answer(waiters: impl Iterator<Item = Waiter>) {
    for waiter in waiters {
        // One that does not wait any more has gone.
        let _ = waiter.reply.send(());
    }
}
