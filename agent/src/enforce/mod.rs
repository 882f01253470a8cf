//! Making the kernel equal to the objects.
//!
//! ```text
//! source ──┐ Event                       blocking
//! network ─┼───────▶ agent ─▶ view ─▶ │ enforcer: engine, writer │ ─▶ Kernel
//! signals ─┘        (one task)        └──────────────────────────┘
//!                      ├─▶ report (log, metrics, status), ready file
//!                      └─▶ takeover: what Azure NPM left
//! ```
//!
//! One task owns the state and takes events in turn. The work that blocks runs
//! beside it, one pass at a time; what arrives meanwhile waits and is one
//! change.

pub mod agent;
mod alert;
pub mod bridges;
mod denied;
pub mod drift;
pub mod enforcer;
mod established;
mod frames;
mod ready;
mod report;
mod sources;
mod takeover;
#[cfg(test)]
mod tests;
mod view;
pub mod writer;

pub(crate) use agent::with_causes;
pub use agent::{Event, Settings, run};
pub use enforcer::Enforcer;
pub use frames::BridgeState;
pub use takeover::AzureNpm;
pub use writer::Writer;
