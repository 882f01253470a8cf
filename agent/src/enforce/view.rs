//! What the agent was told and has not handed on: the cluster's changes, and
//! the network of its own node.

use std::collections::BTreeSet;

use npc_compiler::engine;

use crate::dataplane::network::Network;
use crate::source::Changes;

/// What was heard, until it is complete enough to act on.
#[derive(Debug, Default)]
pub(super) struct View {
    /// What happened in the cluster since the last pass.
    changes: Vec<engine::Event>,
    /// The source has told what there is.
    has_cluster: bool,
    /// Whether there is a Node of this node's name, if the source knows.
    is_node: Option<bool>,
    /// The nodes that files name instead.
    other_nodes: BTreeSet<String>,
    network: Option<Network>,
    /// A pass was made.
    acted: bool,
}

impl View {
    /// Takes in what the source says.
    pub(super) fn hear(&mut self, changes: Changes) {
        self.changes.extend(changes.changes.into_iter().map(|change| change.event));
        if changes.is_node.is_some() {
            (self.is_node, self.other_nodes) = (changes.is_node, changes.other_nodes);
        }
        self.has_cluster |= !changes.is_part;
    }

    /// What happened in the cluster, whether it may be acted on or not.
    pub(super) fn take_changes(&mut self) -> Vec<engine::Event> {
        std::mem::take(&mut self.changes)
    }

    /// Takes in what the kernel says now.
    pub(super) fn network_is(&mut self, network: Network) {
        self.network = Some(network);
    }

    /// The network as the kernel said last.
    pub(super) fn network(&self) -> Option<&Network> {
        self.network.as_ref()
    }

    /// The nodes that files name, where they do not name this one.
    pub(super) fn other_nodes(&self) -> &BTreeSet<String> {
        &self.other_nodes
    }

    /// What to act on, once everything was heard of. Before the first pass
    /// something has to bear this node's name where nodes are named: otherwise no
    /// pod is found to be here, and all that an earlier agent isolated would be
    /// open.
    pub(super) fn take(&mut self) -> Option<(Vec<engine::Event>, &Network)> {
        if !self.is_complete() {
            return None;
        }
        self.acted = true;
        Some((self.take_changes(), self.network.as_ref()?))
    }

    /// The source has told all there is.
    pub(super) fn has_cluster(&self) -> bool {
        self.has_cluster
    }

    /// Whether there is something to act on.
    pub(super) fn is_complete(&self) -> bool {
        self.has_cluster && self.network.is_some() && (self.acted || !self.is_misnamed())
    }

    /// IPVS delivers Services on this node.
    pub(super) fn has_ipvs(&self) -> bool {
        self.network.as_ref().is_some_and(|network| network.ipvs)
    }

    /// There are nodes, and none has this node's name.
    pub(super) fn is_misnamed(&self) -> bool {
        self.is_node == Some(false)
    }

    /// What is missing was heard of, and nothing was written yet.
    pub(super) fn waits_for_node(&self) -> bool {
        self.has_cluster && !self.acted && self.is_misnamed()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cluster(is_node: Option<bool>) -> Changes {
        Changes { is_node, ..Changes::default() }
    }

    #[test]
    fn a_view_is_complete_once_both_sides_were_heard() {
        let mut view = View::default();
        view.network_is(Network::default());
        assert!(view.take().is_none());
        view.hear(cluster(None));
        assert!(view.take().is_some());
        let mut view = View::default();
        view.hear(cluster(None));
        assert!(view.take().is_none());
    }

    #[test]
    fn nothing_begins_under_a_name_that_no_node_has() {
        let mut view = View::default();
        view.network_is(Network::default());
        view.hear(cluster(Some(false)));
        assert!(view.take().is_none() && view.waits_for_node());
        view.hear(cluster(None));
        assert!(view.take().is_none(), "nothing new of nodes");
        view.hear(cluster(Some(true)));
        assert!(view.take().is_some() && !view.waits_for_node());
        // A Node that is removed later has had its rules.
        view.hear(cluster(Some(false)));
        assert!(view.take().is_some());
    }
}
