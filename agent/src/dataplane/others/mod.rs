//! What other programs have in this kernel, and what earlier agents of ours left in the other packet
//! filter.
//!
//! ```text
//! other_programs ─▶ other_engines   which other engines have rules here
//!        └────────▶ azure           what Azure NPM left behind, and its removal on request
//! other_backend   rules of ours in the packet filter that we do not write to
//! ```

pub mod azure;
pub(super) mod other_backend;
pub mod other_engines;
pub mod other_programs;
