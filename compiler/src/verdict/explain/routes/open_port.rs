//! Flows to ports of nodes, where the input does not say whether the port leads to a Service. Either Services were not
//! read, or the API server has yet to choose their ports, or no Node says whose the address is.

use std::net::IpAddr;

use super::nodes::NodeEnd;
use crate::algebra::traffic::Traffic;
use crate::cluster::backend::HostPortAt;
use crate::object::{Exposure, Family, Protocol, Service, ServicePort};
use crate::policy::Direction;
use crate::verdict::explain::question::MissingFact;
use crate::verdict::explain::question::name::{EndName, QuestionEnd};
use crate::verdict::explain::walk::ends::{Finder, Unit};
use crate::verdict::explain::walk::{Destination, Route, Walk};

/// The ports of nodes that Services get where their author names none.
const NODE_PORTS: std::ops::RangeInclusive<u16> = 30_000..=32_767;

/// At most this many pairs of ends are checked for whether a Service leads openly.
const PAIRS: usize = 2_500;

impl Walk<'_> {
    /// Adds the flows to ports of a node's addresses that may lead to a Service, where the input does not say which.
    /// Returns whether there are any. `rest` gets what is left to ask about for each address.
    pub(super) fn by_open_ports(&mut self, sources: &[Unit], ends: &[NodeEnd], rest: &mut [Traffic]) -> bool {
        let cluster = self.ends.cluster;
        // No two Services have one port of a protocol.
        let taken = Traffic::of_ranges(cluster.node_ports().map(|(of, number, _)| (of, number, number)));
        let all = Traffic::of_ranges(Protocol::ALL.map(|of| (of, *NODE_PORTS.start(), *NODE_PORTS.end())));
        let all = all.difference(&taken);
        let mut found: Vec<(Traffic, MissingFact, Vec<&NodeEnd>)> = Vec::new();
        for (end, rest) in ends.iter().zip(rest) {
            let open = rest.intersection(&all);
            for (traffic, fact) in self.open_ports(sources, end.address, &open) {
                *rest = rest.difference(&traffic);
                match found.iter_mut().find(|(of, why, _)| (of, why) == (&traffic, &fact)) {
                    Some((.., ends)) => ends.push(end),
                    None => found.push((traffic, fact, vec![end])),
                }
            }
        }
        for (traffic, fact, ends) in &found {
            self.unknown(sources, ends, traffic, fact);
        }
        !found.is_empty()
    }

    /// What of some ports in the range of Services may lead to one, and why that is not known.
    fn open_ports(&self, sources: &[Unit], address: IpAddr, open: &Traffic) -> Vec<(Traffic, MissingFact)> {
        let of_protocol =
            |of: Protocol| Traffic::of_ranges(open.port_ranges(of).map(|(first, last)| (of, first, last)));
        let bounds = |traffic: &Traffic| {
            let ranges = || Protocol::ALL.into_iter().flat_map(|of| traffic.port_ranges(of));
            let first = ranges().map(|(first, _)| first).min()?;
            Some((first, ranges().map(|(_, last)| last).max()?))
        };
        let Some((first, last)) = bounds(open) else { return Vec::new() };
        if self.ends.cluster.has_unread_services() {
            return vec![(open.clone(), MissingFact::NodePort(first, last))];
        }
        let of_services = |of: Protocol| {
            let traffic = of_protocol(of);
            let (first, last) = bounds(&traffic)?;
            let services = self.of_unchosen_port(sources, address, of);
            (!services.is_empty()).then_some((traffic, MissingFact::UnchosenNodePort(first, last, services)))
        };
        Protocol::ALL.into_iter().filter_map(of_services).collect()
    }

    /// The Services to which a port of a node's address may lead because the input does not say their
    /// node ports. Those are left out that make no difference: all is allowed to their pods, and to the
    /// node itself.
    fn of_unchosen_port(&self, sources: &[Unit], address: IpAddr, only: Protocol) -> Vec<String> {
        let is_of_family = |of: &&Service| of.routing.only_family.is_none_or(|only| only == Family::of(&address));
        let may_be = |of: &&Service| of.routing.unchosen_node_ports.contains(&only);
        let found: Vec<&Service> = self.ends.cluster.services().filter(may_be).filter(is_of_family).collect();
        if found.is_empty() {
            return Vec::new();
        }
        let node: Vec<Destination> = (self.ends.units(&QuestionEnd::Address(address)).into_iter())
            .map(|unit| Destination::direct(unit, Traffic::ports(only, *NODE_PORTS.start(), *NODE_PORTS.end())))
            .collect();
        let is_node_open = self.are_allowed(sources, &node, Route::default());
        let is_meant = |port: &&ServicePort| port.protocol == only;
        let is_open = |of: &&Service| is_node_open && self.leads_openly(sources, of, address, is_meant);
        let services = found.into_iter().filter(|of| !is_open(of));
        services.map(Service::full_name).collect()
    }

    /// Whether all traffic through some ports of a Service is allowed for certain. That must hold for every node that
    /// may take it, and for every source address with which the node may send it on.
    pub(super) fn leads_openly(
        &self,
        sources: &[Unit],
        service: &Service,
        address: IpAddr,
        is_meant: impl Fn(&&ServicePort) -> bool,
    ) -> bool {
        let Finder { cluster, .. } = self.ends;
        let routing = &service.routing;
        let family = Family::of(&address);
        let is_external = routing.external_addresses.contains(&address);
        let is_cluster_ip = service.addresses.contains(&address) && !is_external;
        let is_local = if is_cluster_ip { routing.is_node_local } else { service.exposure == Exposure::OwnNode };
        let has_ranges = routing.balancer_addresses.contains(&address) && !routing.source_ranges.is_empty();
        if is_local || has_ranges {
            return false;
        }
        let mut ports = service.ports.iter().filter(is_meant).peekable();
        let are_sources_open = || sources.iter().all(|unit| self.is_open(unit, Direction::Egress));
        ports.peek().is_some()
            && ports.all(|port| {
                let mut backends = cluster.backends(service, port).unwrap_or_default();
                backends.retain(|of| of.family.is_none_or(|of| of == family));
                let units = self.ends.backends(&backends).into_iter().zip(&backends);
                let to: Vec<Destination> = units
                    .map(|(unit, of)| Destination::direct(unit, Traffic::ports(port.protocol, of.port, of.port)))
                    .collect();
                !to.is_empty()
                    && to.iter().all(|to| self.is_open(&to.unit, Direction::Ingress))
                    && (are_sources_open()
                        || (sources.len().saturating_mul(to.len()) <= PAIRS
                            && self.are_allowed(sources, &to, Route::default())))
            })
    }

    /// Whether no policy isolates an end in a direction for certain.
    fn is_open(&self, unit: &Unit, direction: Direction) -> bool {
        let Finder { cluster, groups } = self.ends;
        Family::ALL.into_iter().all(|family| {
            unit.party.groups(cluster, groups, direction, Some(family)).is_empty()
                && unit.party.deciding(cluster, groups, direction, Some(family)).is_nothing()
        })
    }

    /// Adds a flow to a port of an address that may be a node's, where the port leads to a Service or a pod if it is
    /// one. The address may stand for a part of a prefix. Returns whether it is such a port and the nodes are not
    /// known.
    pub(super) fn by_unknown_node(
        &mut self,
        sources: &[Unit],
        to: &EndName,
        address: IpAddr,
        (only, number): (Protocol, u16),
    ) -> bool {
        let cluster = self.ends.cluster;
        if cluster.is_node(address) || cluster.knows_nodes() || !cluster.holders(address, None).is_empty() {
            return false;
        }
        let to_pod = || {
            let mut ports = cluster.host_ports_at(address);
            ports.any(|(_, of, at)| (of.protocol, of.host_port) == (only, number) && at != HostPortAt::OtherAddress)
        };
        let may_be_a_service = || {
            let may = |kind: &str| cluster.unread().iter().any(|of| of.may_be(kind));
            NODE_PORTS.contains(&number) && may("Service") && may("Node")
        };
        let is_known = || cluster.behind_node_port(only, number).is_some();
        let may_be_chosen = || {
            cluster.behind_node_port(only, number).is_none()
                && NODE_PORTS.contains(&number)
                && !self.of_unchosen_port(sources, address, only).is_empty()
        };
        if !is_known() && !to_pod() && !may_be_a_service() && !may_be_chosen() {
            return false;
        }
        let traffic = Traffic::ports(only, number, number);
        self.not_known(sources, to, Some(Family::of(&address)), &traffic, &MissingFact::IsNode(address, number));
        true
    }
}
