//! Requests that wait until the events before them are in the kernel.

use std::collections::BTreeSet;
use std::net::IpAddr;

use npc_compiler::object::Family;
use tokio::sync::oneshot;

use crate::dataplane::Error;

/// Waits until the events before it are in the kernel, in these families, and the flows of
/// its addresses that they deny are cut.
#[derive(Debug)]
pub struct Waiter {
    /// The families that matter to it.
    pub families: BTreeSet<Family>,
    /// The addresses whose flows matter to it. It waits for no other flow.
    pub addresses: BTreeSet<IpAddr>,
    /// Whether the addresses are those of a new sandbox: no process of its pod has run yet, so none
    /// of their flows is the pod's own.
    pub is_new: bool,
    /// The channel for the answer on which it waits.
    pub reply: oneshot::Sender<()>,
}

/// All that wait.
#[derive(Debug, Default)]
pub(super) struct Waiters {
    /// Each with how many events had waited for large changes by the first pass after it came, `None`
    /// before that. It waits for events up to that number only.
    waiting: Vec<(Waiter, Option<u64>)>,
    checking: Vec<oneshot::Sender<bool>>,
}

impl Waiters {
    /// One more waits for the next pass that goes well.
    pub(super) fn add(&mut self, waiter: Waiter) {
        self.waiting.push((waiter, None));
    }

    /// One more waits for an audit of everything.
    pub(super) fn check(&mut self, reply: oneshot::Sender<bool>) {
        self.checking.push(reply);
    }

    /// Whether an audit of everything is waited for.
    pub(super) fn has_checks(&self) -> bool {
        !self.checking.is_empty()
    }

    /// A pass went well, and everything is in the kernel but for what `waits` until it is
    /// loaded: of the first events that did, so many as are asked about. `waited` is how many there
    /// are by now. Answers those that waited for it, which may have to wait for flows yet.
    #[must_use]
    pub(super) fn passed(&mut self, waited: u64, waits: impl Fn(&Waiter, u64) -> bool) -> Vec<Waiter> {
        self.extract(waited, waits)
    }

    /// The addresses of all that wait.
    pub(super) fn addresses(&self) -> BTreeSet<IpAddr> {
        self.waiting.iter().flat_map(|(waiter, _)| &waiter.addresses).copied().collect()
    }

    /// A pass failed. What failed in one family only is in the kernel in the other, and of a family
    /// that failed all that concerns the addresses that are `in_force`. Answers those that waited
    /// for that.
    #[must_use]
    pub(super) fn failed(
        &mut self,
        error: &Error,
        in_force: &BTreeSet<IpAddr>,
        waited: u64,
        waits: impl Fn(&Waiter, u64) -> bool,
    ) -> Vec<Waiter> {
        let failed: BTreeSet<Family> = match error {
            Error::Families(failures) => failures.families().collect(),
            _ if in_force.is_empty() => return Vec::new(),
            _ => Family::ALL.into(),
        };
        let is_in_force = |family: &Family, waiter: &Waiter| {
            let mut of_family = waiter.addresses.iter().filter(|address| Family::of(address) == *family).peekable();
            of_family.peek().is_some() && of_family.all(|address| in_force.contains(address))
        };
        self.extract(waited, |waiter, until| {
            !waiter.families.intersection(&failed).all(|family| is_in_force(family, waiter)) || waits(waiter, until)
        })
    }

    fn extract(&mut self, waited: u64, waits: impl Fn(&Waiter, u64) -> bool) -> Vec<Waiter> {
        let is_done = |(waiter, until): &mut (Waiter, Option<u64>)| !waits(waiter, *until.get_or_insert(waited));
        let answered = self.waiting.extract_if(.., is_done).map(|(waiter, _)| waiter).collect();
        // One that does not wait any more has closed its end.
        self.waiting.retain(|(waiter, _)| !waiter.reply.is_closed());
        answered
    }

    /// Ends an audit of everything; `holds` says whether the kernel held all.
    pub(super) fn checked(&mut self, holds: bool) {
        for reply in self.checking.drain(..) {
            // One that does not wait any more has gone.
            let _ = reply.send(holds);
        }
    }
}
