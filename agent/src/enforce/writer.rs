//! From the state that a kernel holds to the one that it should hold.

use std::fmt;

use npc_compiler::object::Family;
use npc_compiler::plan::{KernelState, Plan, SetWrite, Step};

use super::established::Established;
use crate::dataplane::conntrack::Swept;
use crate::dataplane::iptables::Hook;
use crate::dataplane::network::Network;
use crate::dataplane::{Error, Kernel};

/// Writes states to a kernel, and knows whether it holds the last one.
#[derive(Debug)]
pub struct Writer<K> {
    pub(super) kernel: K,
    /// The kernel holds the state that was to be written last. Not so before it
    /// was first read, and after a failure left it unknown.
    in_step: bool,
    /// The jump to our chains was seen first in FORWARD after they were loaded.
    hooked: bool,
    pub(super) established: Established,
}

impl<K: Kernel> Writer<K> {
    /// Will write to this kernel. Nothing is read or written yet.
    pub fn new(kernel: K) -> Self {
        Self { kernel, in_step: false, hooked: false, established: Established::new() }
    }

    /// Makes the kernel equal to a state; only what differs is written. The
    /// jump goes in after the chains that it leads to.
    ///
    /// `change` leads to it from the state that was wanted the last time, and
    /// is used if the kernel holds that one; otherwise the kernel is read.
    ///
    /// # Errors
    /// If the kernel cannot be read or written. It may then hold a part of the
    /// change, in the order in which a plan is safe.
    pub fn write(&mut self, change: Plan, wanted: &KernelState) -> Result<(Writes, Vec<(Family, Hook)>), Error> {
        let plan = if std::mem::take(&mut self.in_step) {
            change
        } else {
            self.established.rules_were_lost();
            Plan::between(&self.kernel.read()?, wanted)
        };
        self.established.planned(&plan);
        if !plan.is_empty() {
            // A chain that could not be written may be one that somebody took
            // away, the jump with it.
            let was_hooked = std::mem::take(&mut self.hooked);
            self.kernel.apply(&plan)?;
            self.hooked = was_hooked;
        }
        self.in_step = true;
        let rehooked = if self.hooked { Vec::new() } else { self.put_hook_first()? };
        Ok((Writes::of(&plan), rehooked))
    }

    fn put_hook_first(&mut self) -> Result<Vec<(Family, Hook)>, Error> {
        self.hooked = false;
        let mut found = self.kernel.put_hook_first()?;
        self.hooked = true;
        found.retain(|(_, hook)| *hook != Hook::First);
        if !found.is_empty() {
            self.established.rules_were_lost();
        }
        Ok(found)
    }

    /// Puts the jump back in its place if somebody took it away or inserted
    /// rules above it; answers where it was then.
    ///
    /// Who took it away may have taken more, as a flush of the whole table
    /// does; so what the kernel holds is unknown then, as it is after an error,
    /// and another pass is due. So it is where rules were inserted above, which
    /// may have let through what ours deny.
    ///
    /// # Errors
    /// If FORWARD cannot be read or written.
    pub fn check_hook(&mut self) -> Result<Vec<(Family, Hook)>, Error> {
        let found = self.put_hook_first();
        self.in_step &= found.as_ref().is_ok_and(|found| found.iter().all(|(_, hook)| *hook != Hook::Absent));
        found
    }

    /// Cuts the established flows that the rules of this state forbid.
    pub(super) fn cut(&mut self, state: &KernelState, network: &Network) -> Result<Swept, Error> {
        self.established.cut(&mut self.kernel, state, network)
    }
}

/// How much a plan writes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Writes {
    /// Sets created.
    pub sets_created: usize,
    /// Sets destroyed.
    pub sets_destroyed: usize,
    /// Members added.
    pub members_added: usize,
    /// Members removed.
    pub members_removed: usize,
    /// Chains written.
    pub chains_written: usize,
    /// Their rules.
    pub rules_written: usize,
    /// Chains deleted.
    pub chains_deleted: usize,
}

impl Writes {
    /// Whether there was nothing to write.
    #[must_use]
    pub fn is_nothing(&self) -> bool {
        *self == Self::default()
    }

    /// Counts a plan's writes.
    #[must_use]
    pub fn of(plan: &Plan) -> Self {
        let mut counted = Self::default();
        for step in &plan.steps {
            match step {
                Step::Sets(writes) => {
                    for write in writes {
                        *match write {
                            SetWrite::Create(..) => &mut counted.sets_created,
                            SetWrite::Destroy(_) => &mut counted.sets_destroyed,
                            SetWrite::Add(..) => &mut counted.members_added,
                            SetWrite::Delete(..) => &mut counted.members_removed,
                        } += 1;
                    }
                }
                Step::Chains(_, writes) => {
                    counted.chains_written += writes.replace.len();
                    counted.rules_written += writes.replace.values().map(Vec::len).sum::<usize>();
                    counted.chains_deleted += writes.delete.len();
                }
                Step::Grace => {}
            }
        }
        counted
    }
}

impl fmt::Display for Writes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let counts = [
            (self.chains_written, "chains written"),
            (self.rules_written, "rules in them"),
            (self.chains_deleted, "chains deleted"),
            (self.sets_created, "sets created"),
            (self.sets_destroyed, "sets destroyed"),
            (self.members_added, "members added"),
            (self.members_removed, "members removed"),
        ];
        let mut first = true;
        for (count, what) in counts.into_iter().filter(|(count, _)| *count > 0) {
            write!(f, "{}{count} {what}", if first { "" } else { ", " })?;
            first = false;
        }
        if first { f.write_str("nothing") } else { Ok(()) }
    }
}
