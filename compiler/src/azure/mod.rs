//! What Azure NPM decides, so that an operator who replaces it knows what will differ.
//!
//! Azure NPM (Azure Network Policy Manager, `azure-npm`, v2 on Linux, versions 1.4 to 1.6) programs
//! every policy of the cluster on every node: a chain per policy and direction with one rule per
//! peer and port, in which selectors are matches against ipsets, one set per label, value and
//! namespace. Its rules judge first packets only and end in ACCEPT or DROP.
//!
//! ```text
//! NetworkPolicy ─▶ translate: terms (set matches × ports), or refused
//!                      └─▶ model: what it lets pass ─▶ compare ─▶ differences
//! cluster ─▶ groups: what npc lets pass ─────────────────┘  each with a reason
//! ```
//!
//! Sources: its code (github.com/Azure/azure-container-networking, `npm/`),
//! and what version 1.4.43 wrote for a known cluster, which the tests of
//! `npc-lab` hold this model against.
//!
//! Two things about it are not modelled. Names of its chains and sets are
//! hashes of 32 bits, so two policies or labels can share one; which rules a
//! packet meets then depends on the order of events. And while a policy is
//! edited it is not there at all.

mod compare;
mod model;
mod reason;
mod translate;

pub use compare::{FlowCause, FlowChange, FlowDifference, FlowEnds, Flows, Share, differences};
pub use model::Model;
pub use reason::{AzureReason, NOTES, Note};
pub use translate::{PodSet, Refusal, SetMatch, Term, TermPeer, Translation};

/// Where its jump stands in FORWARD.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum Placement {
    /// Before everything else (`PlaceAzureChainFirst: true`; on AKS since
    /// Kubernetes 1.27 with version 1.4.32).
    First,
    /// Behind kube-proxy's, which accept what they have marked: traffic that
    /// comes by a node's port under externalTrafficPolicy Cluster, and a pod's
    /// own by way of a Service, never meet a policy.
    #[default]
    BehindKubeProxy,
}

#[cfg(test)]
mod tests;
