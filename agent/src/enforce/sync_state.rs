//! What is known of the kernel.

use npc_compiler::plan::KernelState;

/// What is known of the kernel, its rules, its sets and the hook. The writer owns it; any
/// other part of the agent asks the writer.
#[derive(Debug)]
pub(super) enum SyncState {
    /// Nothing, because nothing was read since the agent started. The kernel is read next,
    /// and the jump is put first.
    Unread,
    /// Nothing, because a read, a write, a proof or an audit failed. The kernel is read
    /// next, and the jump is put first.
    Unknown {
        /// One thing is known: the jump to our chains is missing in a family, or is not
        /// first, and the last try could not put it there.
        is_unhooked: bool,
    },
    /// Another program holds the lock that rules need. So the rules are older ones, and
    /// the sets are as far ahead as these allow.
    SetsAhead {
        /// What the kernel holds.
        held: KernelState,
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

impl SyncState {
    /// What is known, which is forgotten until the caller says what is known then. So no
    /// error on the way leaves anything to be believed.
    pub(super) fn forget(&mut self) -> Self {
        let nothing = match self {
            Self::Unread => Self::Unread,
            _ => Self::Unknown { is_unhooked: false },
        };
        std::mem::replace(self, nothing)
    }

    /// A read, write, proof or audit failed; whether the jump is known not to be in its
    /// place. How far ahead sets are stays known.
    pub(super) fn failed(&mut self, is_unhooked: bool) {
        match self {
            Self::SetsAhead { is_unhooked: was, .. } => *was = is_unhooked,
            Self::Unread if !is_unhooked => {}
            _ => *self = Self::Unknown { is_unhooked },
        }
    }

    /// The kernel was read. Answers whether that was for the first time.
    pub(super) fn was_read(&mut self) -> bool {
        let is_first = matches!(self, Self::Unread);
        if is_first {
            *self = Self::Unknown { is_unhooked: false };
        }
        is_first
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_said_again_is_forgotten() {
        for mut state in [
            SyncState::InSync { is_proved: true },
            SyncState::SetsAhead { held: KernelState::default(), is_unhooked: true },
            SyncState::Unknown { is_unhooked: true },
        ] {
            state.forget();
            assert!(matches!(state, SyncState::Unknown { is_unhooked: false }), "{state:?}");
        }
    }

    #[test]
    fn the_first_read_is_the_first_that_succeeds() {
        let mut state = SyncState::Unread;
        state.forget();
        state.failed(false);
        assert!(state.was_read() && !state.was_read());
        state.failed(true);
        assert!(!state.was_read() && matches!(state, SyncState::Unknown { is_unhooked: true }));
    }

    #[test]
    fn a_failure_does_not_forget_how_far_ahead_sets_are() {
        let mut state = SyncState::SetsAhead { held: KernelState::default(), is_unhooked: false };
        state.failed(true);
        assert!(matches!(state, SyncState::SetsAhead { is_unhooked: true, .. }), "{state:?}");
    }
}
