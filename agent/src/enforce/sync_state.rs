//! What is known of the kernel.

use npc_compiler::plan::KernelState;

/// What is known of the kernel, its rules, its sets and the hook. The writer owns it; any
/// other part of the agent asks the writer.
#[derive(Debug)]
pub(super) enum SyncState {
    /// Nothing, because nothing was read since the agent started, or because a read, a write, a proof or
    /// an audit failed. The kernel is read next, and the jump is put first.
    Unknown {
        /// One thing is known: the jump to our chains is missing in a family, or is not
        /// first, and the last try could not put it there.
        is_unhooked: bool,
    },
    /// Another program holds the lock that rules need. So the rules are older ones, and
    /// the sets are as far ahead as these allow.
    SetsAhead {
        /// What the kernel holds.
        actual: KernelState,
        /// The jump was found missing, or not first. Otherwise it is unknown where it is,
        /// because there is no notification of what that other program writes.
        is_unhooked: bool,
    },
    /// The kernel holds what was to be written last, and the jump is first in FORWARD:
    /// each was read there, or the kernel reported it.
    InSync {
        /// The last call found or made all of it so, the rules too.
        is_proved: bool,
    },
}

impl Default for SyncState {
    /// Nothing is known, as at the start and while the writer works. So after an error in between, nothing counts as
    /// written.
    fn default() -> Self {
        Self::Unknown { is_unhooked: false }
    }
}

impl SyncState {
    /// Whether the jump to our chains is known to be missing, or not to be first, and could not be put in
    /// its place.
    pub(super) const fn is_unhooked(&self) -> bool {
        matches!(self, Self::Unknown { is_unhooked: true } | Self::SetsAhead { is_unhooked: true, .. })
    }
}

/// Whether the kernel was asked what rules may use.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Probed {
    /// It was not, or could not be.
    Not,
    /// In one family it could not be asked, or lacks what policies need. There it is asked
    /// again.
    InPart,
    /// It was, and supports what policies need.
    Whole,
}
