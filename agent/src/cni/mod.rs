//! What CNI reports about this node's pods: the plugin `npc-cni` asks here before it lets a
//! container start, and gets its answer when that pod's rules are in the kernel.
//!
//! ```text
//!  source, network ─▶ registry ─▶ Event ─▶ enforce
//!                      │  ▲  └─▶ Waiter, answered by the pass that wrote the rules
//!  npc-cni ─▶ server ──┘  └─ saved: a file for the next agent
//! ```
//!
//! The registry stands between the source of objects and the agent's loop. It gives the
//! loop this node's pods with the addresses that CNI reports ([`sandboxes`]), and policies
//! that are as new as the pod ([`policies`]). `docs/cni.md` has the protocol.

mod contested;
mod ended;
mod endpoints;
mod files;
mod given;
mod last_deletes;
mod links;
mod netns;
mod pending;
mod policies;
mod policy_lists;
mod registry;
mod reserve;
pub mod sandbox;
pub mod sandboxes;
mod saved;
mod server;
mod start;

pub use policy_lists::AskPolicies;
pub use start::{CniOptions, start};
