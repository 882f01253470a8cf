//! Which pods' part of a ruleset is in the kernel, although a write failed.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::time::{Duration, Instant};

use npc_compiler::object::Family;
use npc_compiler::plan::KernelState;
use npc_compiler::ruleset::node::SetName;

use super::Writer;
use crate::dataplane::{Error, Failures, Kernel};
use crate::enforce::sync_state::SyncState;

/// If the kernel refuses to change more sets than this, pods of that family wait. Each takes a read of the
/// kernel, and a kernel without memory refuses all.
const REFUSED_SETS: usize = 8;

/// How long the agent's loop may be blocked to find out which sets the kernel refuses.
const FINDING_REFUSED: Duration = Duration::from_millis(500);

impl<K: Kernel> Writer<K> {
    /// Call this after a failed write. Returns those of these addresses whose part of the desired state is in the
    /// kernel all the same. The kernel is read, because the failed write may have been done in part, and a program that
    /// holds the lock may write.
    ///
    /// Sets go ahead as far as they can, as while another program holds the lock. One that the kernel
    /// refuses to change stays as it is, and those of other pods go ahead.
    pub(in crate::enforce) fn in_force(
        &mut self,
        desired: &KernelState,
        addresses: &BTreeSet<IpAddr>,
    ) -> BTreeSet<IpAddr> {
        let mut failed = Failures::default();
        let Ok(actual) = self.read(desired, &mut failed) else { return BTreeSet::new() };
        let before = std::mem::take(&mut self.state);
        // The next pass has to read it then, too.
        let differs =
            matches!(&before, SyncState::SetsAhead { actual: known, .. } if failed.is_empty() && *known != actual);
        if differs {
            self.established.rules_were_lost();
        }
        let written = self.write_unrefused(actual, desired, &mut failed);
        let is_known = !differs && failed.is_empty();
        let mut in_force =
            written.as_ref().map_or_else(|_| BTreeSet::new(), |actual| actual.agrees_on(desired, addresses));
        let mut is_unhooked = before.is_unhooked();
        if !in_force.is_empty() {
            self.insert_hook(&mut failed);
            is_unhooked = is_unhooked && !failed.is_empty() || failed.iter().any(|(_, error)| error.is_unhooked());
        }
        self.state = match (before, written) {
            (SyncState::SetsAhead { .. }, Ok(actual)) if is_known => SyncState::SetsAhead { actual, is_unhooked },
            (before @ SyncState::InSync { .. }, Ok(_)) if is_known && !is_unhooked => before,
            _ => SyncState::Unknown { is_unhooked },
        };
        in_force.retain(|address| !failed.contains(Family::of(address)));
        in_force
    }

    /// Writes the sets that can go ahead of rules and that the kernel does not refuse to change. Answers what
    /// the kernel holds then, but for families that failed.
    ///
    /// # Errors
    /// If the kernel cannot be read after it refused a set.
    fn write_unrefused(
        &mut self,
        mut actual: KernelState,
        desired: &KernelState,
        failed: &mut Failures,
    ) -> Result<KernelState, Error> {
        let mut refused = BTreeSet::new();
        let begun = Instant::now();
        loop {
            let unread: BTreeSet<Family> = failed.families().collect();
            let ahead = actual.ahead_without(desired, &refused);
            self.write_sets(&mut actual, &ahead, failed);
            let of_writes = failed.iter().filter(|(family, _)| !unread.contains(family));
            let new: Vec<SetName> = of_writes.filter_map(|(_, error)| error.refused_set()).cloned().collect();
            let known = refused.len();
            refused.extend(new);
            if refused.len() == known || known >= REFUSED_SETS || begun.elapsed() >= FINDING_REFUSED {
                return Ok(actual);
            }
            // A part of these writes is in the kernel.
            *failed = Failures::default();
            actual = self.read(desired, failed)?;
        }
    }
}
