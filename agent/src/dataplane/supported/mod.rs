//! What this node's kernel and programs can do, and how they do it, asked at the agent's start.
//!
//! ```text
//! detect    in which packet filter the rules live
//! probe     which matches and types of sets the kernel has
//! spelling  how iptables prints the rules that we write
//! ```

pub mod detect;
pub mod probe;
pub(super) mod spelling;
