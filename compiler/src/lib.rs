//! From Kubernetes objects to allowed and denied pair sets, to verdicts and
//! their explanations, and to the sets and chains of one node.
//!
//! ```text
//! object ─▶ policy ─▶ cluster ─▶ group ─▶ program ─▶ plan of writes
//!                        └─────────┴─▶ verdict, matrix, explanation
//! ```
//!
//! The crate is pure: no I/O, no async, no clock. What a user wrote never
//! makes it fail; it answers with what it understood and a list of
//! [`finding::Finding`]s about the rest.

#![forbid(unsafe_code)]

/// The `apiVersion` of every JSON document that npc prints.
pub const API_VERSION: &str = "npc.dev/v1alpha1";

pub mod azure;
pub mod cidr;
pub mod cluster;
pub mod engine;
pub mod established;
pub mod explain;
pub mod finding;
pub mod flow;
pub mod group;
pub mod layout;
mod leaf;
pub mod matrix;
pub mod name;
pub mod object;
pub mod pairs;
pub mod parse;
pub mod plan;
pub mod policy;
pub mod program;
pub mod ranges;
#[cfg(test)]
mod sample;
pub mod selector;
mod short;
pub mod spelling;
pub mod text;
pub mod traffic;
pub mod tree;
pub mod tunnel;
