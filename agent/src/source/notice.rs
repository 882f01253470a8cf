//! What the agent has to write to its cluster.

use npc_compiler::policy::finding::Finding;

/// What the agent has to write to its cluster.
#[derive(Debug, Clone, PartialEq)]
pub enum Notice {
    /// The kernel holds what the policies ask for, for the first time.
    Ready,
    /// A part of a policy was not understood.
    Finding(Finding),
}
