//! What the agent knows and no pass has written yet: the cluster's changes, and the
//! network of its own node.

use ipnetwork::IpNetwork;
use npc_compiler::engine;

use super::obstacle::NodeName;
use crate::dataplane::network::Network;
use crate::source::{Changes, OwnNode, UnnamedNode};

/// What came from the source and from the kernel, until it is complete enough to act on.
#[derive(Debug, Default)]
pub(super) struct PendingInput {
    /// What happened in the cluster since the last pass.
    changes: Vec<engine::Event>,
    /// How often the cluster changed; 0 until the source has sent all that there is.
    generation: u64,
    /// Whether the objects name this node, if the source knows.
    own_node: Option<OwnNode>,
    /// The networks of this node's pods, if the source has news of them apart from the objects. The flow
    /// index keeps them.
    pod_cidrs: Option<Vec<IpNetwork>>,
    network: Option<Network>,
    /// A pass was begun.
    has_acted: bool,
}

impl PendingInput {
    /// Takes in what the source sends.
    pub(super) fn take(&mut self, changes: Changes) {
        self.changes.extend(changes.changes.into_iter().map(|change| change.event));
        if changes.own_node.is_some() {
            self.own_node = changes.own_node;
        }
        if changes.pod_cidrs.is_some() {
            self.pod_cidrs = changes.pod_cidrs;
        }
        self.generation += u64::from(!changes.is_part);
    }

    /// The networks of this node's pods, if the source has news of them apart from the objects.
    pub(super) fn take_pod_cidrs(&mut self) -> Option<Vec<IpNetwork>> {
        self.pod_cidrs.take()
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

    /// The words of the source for it that no object names this node, where that is so.
    pub(super) fn unnamed_node(&self) -> Option<&UnnamedNode> {
        match &self.own_node {
            Some(OwnNode::Unnamed(words)) => Some(words),
            Some(OwnNode::Named) | None => None,
        }
    }

    /// How often the cluster changed. A list that came in parts is one change.
    pub(super) fn generation(&self) -> u64 {
        self.generation
    }

    /// What to act on, once everything is known. Before the first pass an object has to
    /// name this node, if objects name nodes: otherwise no pod is found to be here, and all
    /// that an earlier agent isolated would be open.
    pub(super) fn start_pass(&mut self) -> Option<(Vec<engine::Event>, &Network)> {
        if !self.is_complete() {
            return None;
        }
        self.has_acted = true;
        Some((self.take_changes(), self.network.as_ref()?))
    }

    /// Whether there is something to act on.
    pub(super) fn is_complete(&self) -> bool {
        self.has_cluster() && self.network.is_some() && self.node_name() != NodeName::Missing
    }

    /// Whether IPVS delivers Services on this node.
    pub(super) fn has_ipvs(&self) -> bool {
        self.network.as_ref().is_some_and(|network| network.ipvs)
    }

    /// Whether the objects know this node.
    pub(super) fn node_name(&self) -> NodeName {
        match self.unnamed_node() {
            Some(_) if !self.has_cluster() => NodeName::Known,
            Some(_) if self.has_acted => NodeName::Gone,
            Some(_) => NodeName::Missing,
            None => NodeName::Known,
        }
    }

    /// Whether the source has sent all that there is.
    fn has_cluster(&self) -> bool {
        self.generation > 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cluster(own_node: Option<OwnNode>) -> Changes {
        Changes { own_node, ..Changes::default() }
    }

    fn unnamed() -> OwnNode {
        OwnNode::Unnamed(UnnamedNode { obstacle: "no Node is named so".to_owned(), gone: "it is gone" })
    }

    #[test]
    fn the_input_is_complete_once_the_objects_and_the_network_are_known() {
        let mut input = PendingInput::default();
        input.network_is(Network::default());
        assert!(input.start_pass().is_none());
        input.take(cluster(None));
        assert!(input.start_pass().is_some());
        let mut input = PendingInput::default();
        input.take(cluster(None));
        assert!(input.start_pass().is_none());
    }

    #[test]
    fn nothing_begins_under_a_name_that_no_node_has() {
        let mut input = PendingInput::default();
        input.network_is(Network::default());
        input.take(cluster(Some(unnamed())));
        assert!(input.start_pass().is_none() && input.node_name() == NodeName::Missing);
        input.take(cluster(None));
        assert!(input.start_pass().is_none(), "nothing new of nodes");
        input.take(cluster(Some(OwnNode::Named)));
        assert!(input.start_pass().is_some() && input.node_name() == NodeName::Known);
        // A Node that is removed later has had its rules.
        input.take(cluster(Some(unnamed())));
        assert!(input.start_pass().is_some() && input.node_name() == NodeName::Gone);
    }
}
