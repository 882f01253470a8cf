//! Making the kernel equal to the objects.
//!
//! ```text
//! source ──┐ Event                                blocking
//! network ─┼───────▶ agent ─▶ pending input ─▶ │ enforcer: engine, writer │ ─▶ Kernel
//! signals ─┘        (one task)                 └──────────────────────────┘
//!                      ├─▶ report (log, metrics, status), ready file
//!                      ├─▶ sweeps: cut established flows, beside all this
//!                      ├─▶ previews: find out what large changes make, beside all this
//!                      └─▶ azure_npm: what Azure NPM left
//! ```
//!
//! One task owns the state and takes events in turn. The work that blocks runs
//! beside it, one pass at a time; what arrives meanwhile waits and is one
//! change.

mod agent;
mod anti_spoofing;
mod azure_npm;
mod bridge_table;
pub mod bridges;
mod denied;
mod device_group;
pub mod drift;
pub mod enforcer;
mod flow_index;
mod flows;
mod loading;
mod obstacle;
mod pace;
mod pass;
mod pending_input;
mod pod_interfaces;
mod previews;
mod ready;
mod report;
mod schedule;
mod settings;
mod sweeps;
mod sync_state;
#[cfg(test)]
mod tests;
mod waiters;
pub mod writer;
mod writes;

pub use agent::run;
pub use azure_npm::AzureNpm;
pub use bridge_table::BridgeState;
pub use enforcer::Enforcer;
pub use pass::Pass;
pub use ready::ReadyFileScope;
pub use settings::{Error, Event, Settings};
pub use waiters::Waiter;
pub use writer::Writer;
pub use writes::Writes;
