//! From Kubernetes objects to allowed and denied pair sets, to verdicts and
//! their explanations, and to the sets and chains of one node.
//!
//! ```text
//! object ─▶ policy ─▶ cluster, groups ─▶ ruleset ─▶ plan of writes ─▶ engine
//!                            └─▶ verdict, azure
//! ```
//!
//! The crate is pure: no I/O, no async, no clock. What a user wrote never
//! makes it fail; it answers with what it understood and a list of
//! [`policy::finding::Finding`]s about the rest.

#![forbid(unsafe_code)]

/// The `apiVersion` of every JSON document that npc prints.
pub const API_VERSION: &str = "npc.dev/v1alpha1";

pub mod algebra;
pub mod azure;
pub mod cluster;
pub mod engine;
pub mod object;
pub mod plan;
pub mod policy;
pub mod ruleset;
#[cfg(test)]
mod sample;
pub mod verdict;
