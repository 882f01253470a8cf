//! Whether the objects name the node of an agent, and what operators read if they do not.

use std::collections::BTreeSet;

use crate::words::near;

/// Whether there is a Node of this node's name, or in files a pod on it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum OwnNode {
    /// There is.
    Named,
    /// There is none. Other nodes are named, or the cluster has all of its Nodes.
    Unnamed(UnnamedNode),
}

/// The words of a source for it that no object names this node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UnnamedNode {
    /// Why nothing is written to the kernel, if none ever did.
    pub obstacle: String,
    /// What is logged, if one did before.
    pub gone: &'static str,
}

/// What follows from it at the start.
const EFFECT: &str = "so no pod would be found to be here and nothing would be isolated; nothing is written to the kernel \
                      before there is one. Is --node right?";

impl OwnNode {
    /// Whether an object names it.
    #[must_use]
    pub const fn is_named(&self) -> bool {
        matches!(self, Self::Named)
    }
}

impl UnnamedNode {
    /// A cluster has no Node of this name.
    pub(super) fn in_cluster(node: &str) -> Self {
        Self {
            obstacle: format!("no Node is named {node}, {EFFECT}"),
            gone: "the cluster has no Node of this name now; npc keeps enforcing the policies of its pods",
        }
    }

    /// Files name these other nodes only. In files without Nodes, the last pod of a node may go.
    pub(super) fn in_files(node: &str, others: &BTreeSet<&str>) -> Self {
        let known = near::listed(others.iter().copied());
        let nearest = near::nearest(node, others.iter().copied());
        let meant = nearest.map(|name| format!(" Did you mean {name}?")).unwrap_or_default();
        Self {
            obstacle: format!(
                "no Node is named {node} and no pod names it in spec.nodeName, {EFFECT} The files name {known}.{meant} A \
                 node without pods needs a Node object in the files"
            ),
            gone: "no object names this node now; npc keeps enforcing the policies of its pods",
        }
    }
}
