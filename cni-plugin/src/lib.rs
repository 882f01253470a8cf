//! The chained CNI plugin of npc, and the protocol by which it asks the agent.
//!
//! A container runtime starts `npc-cni` as the last plugin of a chain. The plugin
//! reports to the agent which pod got which addresses, and returns when the agent has
//! that pod's rules in the kernel. So no container starts without its rules.
//!
//! ```text
//! runtime ─▶ environment, network configuration ─▶ command ─▶ protocol ─▶ agent
//!                                                     └─▶ note, for an agent that is away
//! ```
//!
//! `docs/cni.md` has the protocol, the settings and the files.

#![forbid(unsafe_code)]

pub mod check;
pub mod client;
pub mod command;
pub mod configuration;
pub mod environment;
pub mod error;
pub mod file;
#[doc(hidden)]
pub mod fuzz;
mod link;
pub mod moment;
mod netlink;
mod netns;
pub mod note;
pub mod previous;
pub mod protocol;
mod route;

pub use error::{Code, Error};
