//! What the agent knows: the objects of the cluster, and the network of its
//! own node.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::sync::Arc;

use ipnetwork::IpNetwork;
use npc_compiler::object::{Family, Node, Objects};

use crate::dataplane::network::{self, Network};

/// Objects and network as last heard, merged.
#[derive(Debug)]
pub(super) struct View {
    node: String,
    /// The objects, this node's kernel addresses among its own.
    objects: Option<Arc<Objects>>,
    /// The nodes as the objects had them.
    declared: Vec<Node>,
    network: Option<Network>,
}

impl View {
    pub(super) fn new(node: String) -> Self {
        Self { node, objects: None, declared: Vec::new(), network: None }
    }

    /// Takes in what the source says now.
    pub(super) fn objects_are(&mut self, objects: Objects) {
        self.declared.clone_from(&objects.nodes);
        self.objects = Some(Arc::new(objects));
        self.merge();
    }

    /// Takes in what the kernel says now.
    pub(super) fn network_is(&mut self, network: Network) {
        self.network = Some(network);
        self.merge();
    }

    /// The objects, once everything was heard of.
    pub(super) fn complete(&self) -> Option<&Arc<Objects>> {
        self.network.as_ref()?;
        self.objects.as_ref()
    }

    /// IPVS delivers Services on this node.
    pub(super) fn has_ipvs(&self) -> bool {
        self.network.as_ref().is_some_and(|network| network.ipvs)
    }

    /// There are nodes, and none has this node's name.
    pub(super) fn is_misnamed(&self) -> bool {
        !self.declared.is_empty() && !self.declared.iter().any(|node| node.name == self.node)
    }

    /// Bridges behind which pods of this node reach each other past iptables.
    pub(super) fn unfiltered_bridges(&self) -> BTreeSet<(String, Family)> {
        let (Some(objects), Some(network)) = (&self.objects, &self.network) else { return BTreeSet::new() };
        if network.bridged.is_empty() {
            return BTreeSet::new();
        }
        let local = objects.pods.iter().filter(|pod| pod.is_endpoint() && pod.node.as_deref() == Some(&self.node));
        let bridge = |address: IpAddr| Some((network.bridge_of(address)?.to_owned(), Family::of(&address)));
        let mut bridges: BTreeSet<_> =
            local.flat_map(|pod| pod.addresses().filter_map(bridge).collect::<Vec<_>>()).collect();
        bridges.retain(|(_, family)| !network::bridges_are_filtered(*family));
        bridges
    }

    fn merge(&mut self) {
        let (Some(objects), Some(network)) = (&mut self.objects, &self.network) else { return };
        // Shared with a pass only while one runs, and none does here.
        let objects = Arc::make_mut(objects);
        objects.nodes.clone_from(&self.declared);
        let of_kernel = network.addresses.iter().map(IpNetwork::ip);
        match objects.nodes.iter_mut().find(|node| node.name == self.node) {
            Some(node) => {
                node.addresses.extend(of_kernel);
                node.addresses.sort_unstable();
                node.addresses.dedup();
            }
            None => objects.nodes.push(Node { name: self.node.clone(), addresses: of_kernel.collect() }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn network(addresses: &[&str]) -> Network {
        let parsed = addresses.iter().map(|text| text.parse().expect("a prefix"));
        Network { addresses: parsed.collect(), ..Network::default() }
    }

    fn addresses(view: &View) -> Vec<String> {
        let objects = view.complete().expect("both were heard");
        let node = objects.nodes.iter().find(|node| node.name == "n1").expect("the node is there");
        node.addresses.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn a_view_is_complete_once_both_sides_were_heard() {
        let mut view = View::new("n1".to_owned());
        view.network_is(network(&["10.0.0.1/24"]));
        assert!(view.complete().is_none());
        view.objects_are(Objects::default());
        assert_eq!(addresses(&view), ["10.0.0.1"]);
        let mut view = View::new("n1".to_owned());
        view.objects_are(Objects::default());
        assert!(view.complete().is_none());
    }

    #[test]
    fn the_kernels_addresses_join_the_node_objects_and_go_again() {
        let mut view = View::new("n1".to_owned());
        let declared = Node { name: "n1".to_owned(), addresses: vec!["192.0.2.1".parse().expect("an address")] };
        view.objects_are(Objects { nodes: vec![declared], ..Objects::default() });
        view.network_is(network(&["10.0.0.1/24", "192.0.2.1/32"]));
        assert_eq!(addresses(&view), ["10.0.0.1", "192.0.2.1"]);
        view.network_is(network(&["fd00::1/64"]));
        assert_eq!(addresses(&view), ["192.0.2.1", "fd00::1"]);
    }

    #[test]
    fn a_node_is_misnamed_where_others_are_known_and_it_is_not() {
        let mut view = View::new("n1".to_owned());
        view.network_is(network(&["10.0.0.1/24"]));
        view.objects_are(Objects::default());
        assert!(!view.is_misnamed(), "files need not name nodes");
        let node = |name: &str| Node { name: name.to_owned(), addresses: Vec::new() };
        view.objects_are(Objects { nodes: vec![node("n2")], ..Objects::default() });
        assert!(view.is_misnamed());
        view.objects_are(Objects { nodes: vec![node("n2"), node("n1")], ..Objects::default() });
        assert!(!view.is_misnamed());
    }
}
