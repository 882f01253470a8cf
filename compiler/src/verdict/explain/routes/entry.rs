//! Flows of ends inside the cluster that come to a Service or a pod by a node: by a port of it, or
//! by an external address, which the client's own node takes.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use crate::algebra::traffic::Traffic;
use crate::object::{Family, Protocol, Service};
use crate::policy::Direction;
use crate::verdict::explain::answer::{Flow, Via, Way};
use crate::verdict::explain::question::party::Party;
use crate::verdict::explain::question::{MissingFact, Question};
use crate::verdict::explain::walk::ends::{Finder, Unit};
use crate::verdict::explain::walk::{Destination, Route, Walk};
use crate::verdict::flow::End;
use crate::verdict::zone::Zones;

/// A port of a node by which a flow comes.
#[derive(Debug, Clone, Copy)]
pub(in crate::verdict::explain) struct NodePort {
    pub(in crate::verdict::explain) address: IpAddr,
    pub(in crate::verdict::explain) protocol: Protocol,
    pub(in crate::verdict::explain) number: u16,
    /// The port of the Service that it stands for.
    pub(in crate::verdict::explain) service_port: u16,
}

/// By what a flow comes to a Service that is not its `clusterIP`.
#[derive(Debug, Clone, Copy)]
pub(in crate::verdict::explain) enum Entry {
    /// A port of a node.
    NodePort(NodePort),
    /// An external address, or that of a load balancer, and the port of the Service, where that is not
    /// the one that was asked for. For a pod, its own node takes it.
    External(IpAddr, Option<(Protocol, u16)>),
}

impl Entry {
    pub(in crate::verdict::explain) const fn node_port(self) -> Option<NodePort> {
        match self {
            Self::NodePort(port) => Some(port),
            Self::External(..) => None,
        }
    }

    /// The port of the Service, where it is not the one that was asked for.
    pub(super) const fn service_port(self) -> Option<(Protocol, u16)> {
        match self {
            Self::NodePort(port) => Some((port.protocol, port.service_port)),
            Self::External(_, port) => port,
        }
    }
}

impl Walk<'_> {
    /// Sources by whether they are pods and by their nodes.
    pub(in crate::verdict::explain) fn by_node_of_source(&self, sources: &[Unit]) -> Vec<(bool, Vec<Unit>)> {
        let mut by_node = BTreeMap::<(bool, Option<String>), Vec<Unit>>::new();
        for source in sources {
            let is_pod = matches!(source.party, Party::End(End::Pod(_)));
            let node = self.node_of_source(source).map(str::to_owned);
            by_node.entry((is_pod, node)).or_default().push(source.clone());
        }
        by_node.into_iter().map(|((is_pod, _), sources)| (is_pod, sources)).collect()
    }

    /// Flows of ends of one node inside the cluster by a node: a port of one, or its own for an external address. Where
    /// the client's own node translates the address, its policies judge the backend; where another one does, they judge
    /// the node and its port. If a node replaces the client's address, pods on other nodes get packets from that node.
    pub(in crate::verdict::explain) fn by_entry_node(
        &mut self,
        mut sources: Vec<Unit>,
        destinations: &[Destination],
        (service, via): (&Service, &Via),
        port: Option<NodePort>,
        replaces: bool,
    ) {
        let cluster = self.ends.cluster;
        let own = sources.first().and_then(|source| self.node_of_source(source)).map(str::to_owned);
        let entry_node = match port {
            Some(port) => {
                let of = cluster.nodes().iter().find(|(_, addresses)| addresses.contains(&port.address));
                of.map(|(name, _)| name.clone())
            }
            None => own.clone(),
        };
        let mut destinations = destinations.to_vec();
        // Where the client's own node translates the address, policies never match that address.
        let mut addresses = service.addresses.clone();
        addresses.extend(port.filter(|_| own.is_some() && entry_node == own).map(|port| port.address));
        let missing = match port {
            Some(port) => {
                let asked = (port.address, Traffic::ports(port.protocol, port.number, port.number));
                self.judge_before(&mut sources, &mut destinations, asked)
            }
            None => Vec::new(),
        };
        let mut by_node = BTreeMap::<Option<String>, Vec<Destination>>::new();
        for destination in destinations {
            let node = self.node_of(service, &destination).map(str::to_owned);
            by_node.entry(node).or_default().push(destination);
        }
        for (node, destinations) in by_node {
            let route = Route { via: Some(via), service: &addresses, missing: &missing, ..Route::default() };
            let has_pod = destinations.iter().any(|destination| destination.unit.party.pod().is_some());
            let is_known = node.is_some() && entry_node.is_some();
            if !replaces || !has_pod || (is_known && node == entry_node) {
                self.between(&sources, &destinations, route);
                continue;
            }
            if !is_known {
                let way = Way::OwnNode;
                let route = Route { way: Some(&way), ..route };
                self.between(&sources, &destinations, route);
            }
            let may_be = |name: &String| entry_node.as_ref().is_none_or(|of| of == name) && node.as_ref() != Some(name);
            let others: Vec<_> = cluster.nodes().iter().filter(|(name, _)| may_be(name)).collect();
            self.by_other_nodes(&sources, &destinations, &others, route);
        }
    }

    /// Flows in which these nodes replace the client's address by their own.
    fn by_other_nodes(
        &mut self,
        sources: &[Unit],
        destinations: &[Destination],
        nodes: &[(&String, &BTreeSet<IpAddr>)],
        route: Route<'_>,
    ) {
        let cluster = self.ends.cluster;
        let before = self.explanation.flows.len();
        // No rule distinguishes two nodes of one zone.
        let zones = (nodes.len() > 1).then(|| Zones::of(self.ends.groups));
        for family in Family::ALL {
            let is_of_family = |unit: &&Unit| {
                let has = !unit.party.has_address(cluster) || unit.party.address(cluster, family).is_some();
                has && unit.only.is_none_or(|only| only == family)
            };
            let clients: Vec<&Unit> = sources.iter().filter(is_of_family).collect();
            if clients.is_empty() {
                continue;
            }
            let mut ways = BTreeMap::<usize, (Option<IpAddr>, Vec<String>)>::new();
            for (name, addresses) in nodes {
                if let Some(address) = addresses.iter().find(|address| Family::of(address) == family) {
                    let place = zones.as_ref().map_or(0, |zones| zones.place(*address));
                    ways.entry(place).or_insert_with(|| (Some(*address), Vec::new())).1.push((*name).clone());
                }
            }
            if ways.is_empty() {
                ways.insert(0, (None, Vec::new()));
            }
            for (address, names) in ways.into_values() {
                let seen = |unit: &&Unit| {
                    let node = Party::OtherNode(address);
                    let unit = Unit { only: Some(family), ..(*unit).clone() };
                    match unit.party {
                        Party::End(End::Pod(_)) => Unit { seen_as: Some(node), ..unit },
                        _ => Unit { party: node, ..unit },
                    }
                };
                let seen: Vec<Unit> = clients.iter().map(seen).collect();
                let way = Way::OtherNode(names);
                self.between(&seen, destinations, Route { way: Some(&way), ..route });
            }
        }
        self.merge_from(before);
    }

    /// Keeps one of the flows from a place on that say the same: of both families, where an end has no
    /// address.
    pub(in crate::verdict::explain) fn merge_from(&mut self, place: usize) {
        let mut kept: Vec<Flow> = Vec::new();
        for flow in self.explanation.flows.drain(place..) {
            match kept.iter_mut().find(|other| **other == flow) {
                Some(other) => other.join(&flow),
                None => kept.push(flow),
            }
        }
        self.explanation.flows.extend(kept);
        // What they were about is one flow now.
        self.host_pairs.retain(|of, _| *of < place);
    }

    /// Where another node than that of these clients translates a port of it, their policies judge
    /// that node and its port; the facts that are missing.
    pub(in crate::verdict::explain) fn judge_before(
        &self,
        sources: &mut [Unit],
        destinations: &mut [Destination],
        (address, traffic): (IpAddr, Traffic),
    ) -> Vec<MissingFact> {
        let cluster = self.ends.cluster;
        let own = sources.first().and_then(|source| self.node_of_source(source));
        if own.is_some_and(|own| cluster.nodes().get(own).is_some_and(|of| of.contains(&address))) {
            return Vec::new();
        }
        let is_known = own.is_some();
        for source in &mut *sources {
            source.only = source.only.or(Some(Family::of(&address)));
        }
        let before = (Party::End(End::Address(address)), traffic);
        let mut missing = Vec::new();
        for destination in destinations {
            if !is_known && sources.iter().any(|source| self.differs_before(source, destination, &before)) {
                missing = vec![MissingFact::EntryNode(address)];
            }
            destination.before = Some(before.clone());
        }
        missing
    }

    /// Whether the client's policies judge a node and its port otherwise than the backend.
    fn differs_before(&self, source: &Unit, destination: &Destination, (node, traffic): &(Party, Traffic)) -> bool {
        let Finder { cluster, groups } = self.ends;
        let verdict = |to: Party, traffic: &Traffic| {
            let question = Question::between(source.party, to, source.only, traffic.clone());
            question.bounds(cluster, groups, Direction::Egress).verdict(traffic)
        };
        verdict(*node, traffic) != verdict(destination.unit.party, &destination.traffic)
    }
}
