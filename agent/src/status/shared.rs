//! The status of this process's agent, which all its parts write and read.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use super::AgentStatus;

/// The status of an agent as it is now. All clones are one.
#[derive(Debug, Clone)]
pub struct SharedStatus(Arc<StatusCell>);

#[derive(Debug)]
struct StatusCell {
    status: Mutex<AgentStatus>,
    changes: AtomicU64,
}

impl SharedStatus {
    /// Shares the status of an agent that has just started.
    #[must_use]
    pub fn new(status: AgentStatus) -> Self {
        Self(Arc::new(StatusCell { status: Mutex::new(status), changes: AtomicU64::default() }))
    }

    /// A copy of the status as it is now.
    #[must_use]
    pub fn now(&self) -> AgentStatus {
        self.read(AgentStatus::clone)
    }

    /// Reads a part of the status as it is now, because copying a whole status may be costly.
    pub fn read<T>(&self, part: impl FnOnce(&AgentStatus) -> T) -> T {
        part(&self.0.status.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Changes the status.
    pub fn update(&self, change: impl FnOnce(&mut AgentStatus)) {
        change(&mut self.0.status.lock().unwrap_or_else(PoisonError::into_inner));
        self.changed();
    }

    /// The agent has counted something that its status does not have.
    pub(crate) fn changed(&self) {
        self.0.changes.fetch_add(1, Ordering::Release);
    }

    /// How often it was changed. While that is as it was, so is what was read of it.
    #[must_use]
    pub fn changes(&self) -> u64 {
        self.0.changes.load(Ordering::Acquire)
    }
}
