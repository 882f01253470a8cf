//! Flows with the pods of a DaemonSet, where the input has the DaemonSet in place of its pods. It has a
//! pod on every node, so between a pod and its own node no policy applies, and between a pod and
//! another node policies do: where the DaemonSet's pods are hostNetwork pods or the other end is
//! a node, both are part of the answer.

use std::collections::BTreeMap;
use std::net::IpAddr;

use super::nodes::is_on_each_node;
use crate::object::Family;
use crate::verdict::explain::answer::{Flow, Way};
use crate::verdict::explain::question::OnNodes;
use crate::verdict::explain::question::party::Party;
use crate::verdict::explain::walk::ends::Unit;
use crate::verdict::explain::walk::{Destination, Route, Walk};
use crate::verdict::flow::End;
use crate::verdict::zone::Zones;

/// Addresses of nodes that no rule distinguishes: one of them, and the names of the nodes. Without
/// an address, the input says none.
type NodesAlike = (Option<IpAddr>, Vec<String>);

impl Walk<'_> {
    /// Asks about every pair of ends, by nodes where an end is on every node.
    pub(in crate::verdict::explain) fn between(
        &mut self,
        sources: &[Unit],
        destinations: &[Destination],
        route: Route<'_>,
    ) {
        if route.way.is_some() {
            self.judge(sources, destinations, route);
            return;
        }
        let is_in = |kind: fn(&Self, &Unit) -> bool, to: bool| {
            if to {
                destinations.iter().any(|to| kind(self, &to.unit))
            } else {
                sources.iter().any(|unit| kind(self, unit))
            }
        };
        let has_pairs = |to| is_in(Self::is_node, to) && is_in(Self::is_pod_of_each_node, !to);
        if !has_pairs(false) && !has_pairs(true) {
            self.between_pods(sources, destinations, route);
            return;
        }
        let (nodes, others): (Vec<Unit>, Vec<Unit>) = sources.iter().cloned().partition(|unit| self.is_node(unit));
        let (pods, others): (Vec<Unit>, Vec<Unit>) =
            others.into_iter().partition(|unit| self.is_pod_of_each_node(unit));
        let to: (Vec<Destination>, Vec<Destination>) =
            destinations.iter().cloned().partition(|to| self.is_node(&to.unit));
        let (to_nodes, (to_pods, to_others)) =
            (to.0, to.1.into_iter().partition::<Vec<_>, _>(|to| self.is_pod_of_each_node(&to.unit)));
        for (sources, destinations) in [(&nodes, &to_pods), (&pods, &to_nodes)] {
            let on_others = Route { nodes: OnNodes::Different, ..route };
            if self.are_allowed(sources, destinations, on_others) {
                self.judge(sources, destinations, on_others);
            } else {
                let way = Way::SameNode;
                self.judge(sources, destinations, Route { way: Some(&way), nodes: OnNodes::One, ..route });
                let way = Way::DifferentNodes(Vec::new());
                self.judge(sources, destinations, Route { way: Some(&way), ..on_others });
            }
        }
        self.judge(&nodes, &to_nodes, route);
        self.judge(&pods, &to_pods, route);
        self.between_pods(&nodes, &to_others, route);
        self.between_pods(&pods, &to_others, route);
        self.between_pods(&others, destinations, route);
    }

    /// The same where no end is a node and the other a pod of a DaemonSet in its own network.
    fn between_pods(&mut self, sources: &[Unit], destinations: &[Destination], route: Route<'_>) {
        let is_everywhere = |unit: &Unit| self.is_everywhere(unit);
        if !(sources.iter().any(is_everywhere) || destinations.iter().any(|to| is_everywhere(&to.unit))) {
            self.judge(sources, destinations, route);
            return;
        }
        let (hosts, rest): (Vec<Unit>, Vec<Unit>) = sources.iter().cloned().partition(is_everywhere);
        let (to_hosts, to_rest): (Vec<Destination>, Vec<Destination>) =
            destinations.iter().cloned().partition(|to| self.is_everywhere(&to.unit));
        self.judge(&rest, &to_rest, route);
        // No policy applies to a node.
        self.judge(&hosts, &to_hosts, route);
        let is_pod = |unit: &Unit| matches!(unit.party, Party::End(End::Pod(_)));
        let (pods, others): (Vec<Unit>, Vec<Unit>) = rest.into_iter().partition(is_pod);
        let (to_pods, to_others): (Vec<Destination>, Vec<Destination>) =
            to_rest.into_iter().partition(|to| is_pod(&to.unit));
        self.judge(&hosts, &to_others, route);
        self.judge(&others, &to_hosts, route);
        for (sources, destinations) in [(&hosts, &to_pods), (&pods, &to_hosts)] {
            if self.are_allowed(sources, destinations, route) {
                self.judge(sources, destinations, route);
            } else {
                self.by_every_node(sources, destinations, route);
            }
        }
    }

    /// Whether an end stands for the hostNetwork pods of a DaemonSet.
    fn is_everywhere(&self, unit: &Unit) -> bool {
        matches!(unit.party, Party::Host(_)) && is_on_each_node(self.ends.cluster, unit)
    }

    /// Whether an end stands for the pods of a DaemonSet in networks of their own.
    pub(in crate::verdict::explain) fn is_pod_of_each_node(&self, unit: &Unit) -> bool {
        let is_pod = matches!(unit.party, Party::End(End::Pod(_))) && unit.party.node(self.ends.cluster).is_none();
        is_pod && is_on_each_node(self.ends.cluster, unit)
    }

    /// Whether an end is one node.
    pub(in crate::verdict::explain) fn is_node(&self, unit: &Unit) -> bool {
        let cluster = self.ends.cluster;
        match unit.party {
            Party::Host(_) => !self.is_everywhere(unit),
            Party::End(End::Address(address)) => cluster.is_of_node_alone(address),
            Party::End(End::Pod(_) | End::Unread(_)) | Party::OtherNode(_) => false,
        }
    }

    /// Whether all pairs are allowed wherever the pods run.
    pub(in crate::verdict::explain) fn are_allowed(
        &self,
        sources: &[Unit],
        destinations: &[Destination],
        route: Route<'_>,
    ) -> bool {
        sources.iter().all(|from| {
            destinations.iter().all(|to| {
                let said = self.pair(from, to, route);
                said.iter().flat_map(|(_, flows)| flows).all(Flow::is_allowed)
            })
        })
    }

    /// Flows with one end that is on every node: on the node of the other end, and between
    /// different nodes.
    fn by_every_node(&mut self, sources: &[Unit], destinations: &[Destination], route: Route<'_>) {
        self.judge(sources, destinations, Route { way: Some(&Way::SameNode), nodes: OnNodes::One, ..route });
        let place = self.explanation.flows.len();
        let units = || sources.iter().chain(destinations.iter().map(|to| &to.unit));
        // A single pod's own node is not another node.
        let pods: Vec<&Unit> = units().filter(|unit| !self.is_everywhere(unit)).collect();
        let own = if let [pod] = pods.as_slice() { pod.party.node(self.ends.cluster).map(str::to_owned) } else { None };
        let on_node = |unit: &Unit, address: Option<IpAddr>| match unit.party {
            Party::Host(_) => {
                let only = address.map(|address| Family::of(&address)).or(unit.only);
                Unit { party: Party::OtherNode(address), only, ..unit.clone() }
            }
            _ => unit.clone(),
        };
        let nodes = self.nodes_alike(own.as_deref());
        let is_single = nodes.len() == 1;
        for (address, names) in nodes {
            let sources: Vec<Unit> = sources.iter().map(|unit| on_node(unit, address)).collect();
            let destinations: Vec<Destination> = (destinations.iter())
                .map(|to| Destination { unit: on_node(&to.unit, address), ..to.clone() })
                .collect();
            let way = Way::DifferentNodes(if is_single { Vec::new() } else { names });
            self.judge(&sources, &destinations, Route { way: Some(&way), nodes: OnNodes::Different, ..route });
        }
        self.merge_from(place);
    }

    /// The nodes but for one, by family and zone.
    fn nodes_alike(&self, but: Option<&str>) -> Vec<NodesAlike> {
        let zones = Zones::of(self.ends.groups);
        let mut alike = BTreeMap::<(Family, usize), NodesAlike>::new();
        let mut has_any = false;
        for (name, addresses) in self.ends.cluster.nodes() {
            for address in addresses {
                has_any = true;
                if Some(name.as_str()) != but {
                    let zone = (Family::of(address), zones.place(*address));
                    let (_, names) = alike.entry(zone).or_insert_with(|| (Some(*address), Vec::new()));
                    if !names.contains(name) {
                        names.push(name.clone());
                    }
                }
            }
        }
        if has_any { alike.into_values().collect() } else { vec![(None, Vec::new())] }
    }
}
