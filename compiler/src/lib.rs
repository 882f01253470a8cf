//! From Kubernetes objects to verdicts and their explanations, and to the iptables chains
//! and ipsets of one node.
//!
//! The crate is pure: no I/O, no async, no clock. What a user wrote never makes it fail;
//! it answers with what it understood and a list of [`Finding`]s about the rest.
//!
//! # The facade
//!
//! | you have | you call | you get |
//! |---|---|---|
//! | Pods, Namespaces, NetworkPolicies, Nodes, Services | [`Objects`], [`Cluster::new`] | a [`Cluster`] and its [`Finding`]s |
//! | a cluster | [`matrix::connectivity`] | every allowed connection |
//! | a cluster, two ends | [`explain::explain`] | whether that flow is allowed, and why |
//! | a cluster, the name of a node | [`node::ruleset`] | the chains and sets of that node |
//! | one change after the other | [`Engine`] | the writes that lead from each state to the next |
//!
//! ```
#![doc = include_str!("../examples/shop.rs")]
//! ```
//!
//! k8s-openapi wants exactly one feature for the version of Kubernetes, and a library
//! must not choose it: a binary that uses this crate depends on k8s-openapi too, with the
//! feature `v1_36` or an earlier one.
//!
//! # Behind the facade
//!
//! ```text
//! object ─▶ algebra ─▶ policy ─▶ cluster ─▶ ruleset ─▶ plan ─▶ engine
//!                                   └─▶ verdict ─▶ azure
//! ```
//!
//! Each folder imports only from those on the way to it. Their modules are public with the
//! feature `internals`, for the other crates of npc's workspace: what is in there changes
//! with every version.
//!
//! | you wonder | look at |
//! |---|---|
//! | what of an object is kept | [`object`] |
//! | how a field of a policy is understood (`except`, `endPort`, an empty `from`) | `policy`, which lists the fields |
//! | which pods a selector means, which policies isolate a pod | `cluster` |
//! | what a group of pods admits | `cluster::group` |
//! | whether a packet passes, and why | `verdict` |
//! | where a Service leads | `cluster::backend` |
//! | what happens when a pod or namespace is relabelled | `engine` |
//! | which rule stands in the kernel for what | `ruleset` |

#![forbid(unsafe_code)]
#![cfg_attr(
    not(feature = "internals"),
    allow(dead_code, unreachable_pub, unused_imports, reason = "much of it is for the crates that use the internals")
)]

/// The `apiVersion` of every JSON document that npc prints.
pub const API_VERSION: &str = "npc.dev/v1alpha1";

pub mod object;

#[cfg(feature = "internals")]
pub mod algebra;
#[cfg(feature = "internals")]
pub mod azure;
#[cfg(feature = "internals")]
pub mod cluster;
#[cfg(feature = "internals")]
pub mod engine;
#[cfg(feature = "internals")]
pub mod plan;
#[cfg(feature = "internals")]
pub mod policy;
#[cfg(feature = "internals")]
pub mod ruleset;
#[cfg(feature = "internals")]
pub mod verdict;

#[cfg(not(feature = "internals"))]
mod algebra;
#[cfg(not(feature = "internals"))]
mod azure;
#[cfg(not(feature = "internals"))]
mod cluster;
#[cfg(not(feature = "internals"))]
mod engine;
#[cfg(not(feature = "internals"))]
mod plan;
#[cfg(not(feature = "internals"))]
mod policy;
#[cfg(not(feature = "internals"))]
mod ruleset;
#[cfg(not(feature = "internals"))]
mod verdict;

#[cfg(test)]
mod sample;
#[cfg(test)]
mod sample_services;

pub use algebra::traffic::Traffic;
pub use cluster::group::Groups;
pub use cluster::{Cluster, PodId, PolicyId};
pub use engine::{Engine, Event, PodKey};
pub use object::Objects;
pub use policy::Direction;
pub use policy::finding::{Effect, Finding, FindingCode};
pub use verdict::{explain, matrix};

/// What one node keeps in its kernel.
pub mod node {
    pub use crate::plan::{ChainWrites, Delta, FamilyState, KernelState, Plan, SetDelta, SetWrite, Step, Unexpected};
    pub use crate::ruleset::layout::{MissingMatches, RulesetOptions, SelfMatch, ruleset};
    pub use crate::ruleset::names::seed::Seed;
    pub use crate::ruleset::node::{
        ChainName, ChainRole, FamilyRuleset, Foreign, InterfaceName, Match, Member, NodeRuleset, Rule, Set, SetField,
        SetKind, SetName, SetRole, Target,
    };
}
