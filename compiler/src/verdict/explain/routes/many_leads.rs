//! Questions about many addresses and ports that lead elsewhere. Each gets an answer of its own, so there are bounds on
//! how many are judged and how many are listed. What is not judged is unknown.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use super::nodes::NodeEnd;
use crate::algebra::traffic::Traffic;
use crate::object::{Family, Protocol, Service, ServicePort};
use crate::verdict::bounds::Verdict;
use crate::verdict::explain::answer::{Flow, WarningFact};
use crate::verdict::explain::question::MissingFact;
use crate::verdict::explain::question::name::EndName;
use crate::verdict::explain::walk::Walk;
use crate::verdict::explain::walk::ends::Unit;

/// At most this many leads are listed that are allowed; more of them are named only.
const LISTED: usize = 16;

/// At most this many are judged. With more sources there are fewer, but never fewer than are listed.
const JUDGED: usize = 64;

/// With more sources than this, fewer leads are judged, because each takes longer.
const SOURCES: usize = 16;

/// The addresses and ports of one question that lead elsewhere.
#[derive(Debug, Default)]
pub(super) struct Leads {
    /// How many more are judged.
    left_to_judge: usize,
    /// How many were listed.
    listed: usize,
    /// What is allowed and not listed.
    allowed: BTreeSet<String>,
    /// How many Services were listed that lack the port.
    listed_without_port: usize,
    /// Those that are not listed.
    without_port: BTreeSet<String>,
    /// What was not judged.
    not_judged: BTreeSet<String>,
    /// The same by addresses of nodes.
    of_nodes: Vec<(NodeEnd, PortRanges)>,
    /// Whether all is allowed through a Service.
    open: BTreeMap<LeadKey, bool>,
}

/// Ports of protocols, from the first to the last of each range.
type PortRanges = Vec<(Protocol, u16, u16)>;

/// A Service's namespace, name and port, and of the address by which it is asked for the family, and whether it
/// is an external one and a load balancer's.
type LeadKey = (String, String, Option<(Protocol, u16)>, Family, bool, bool);

impl Leads {
    pub(super) fn new(sources: &[Unit]) -> Self {
        let left_to_judge = (JUDGED * SOURCES / sources.len().max(1)).clamp(LISTED, JUDGED);
        Self { left_to_judge, ..Self::default() }
    }

    /// For a question about many ports of many nodes, no more are judged than are listed.
    pub(super) fn of_many_ports(mut self) -> Self {
        self.left_to_judge = LISTED;
        self
    }

    /// Whether no more are judged.
    pub(super) const fn is_spent(&self) -> bool {
        self.left_to_judge == 0
    }

    /// Counts a lead whose flows begin at a place. If all are allowed and enough are listed, it is named only.
    pub(super) fn count(&mut self, walk: &mut Walk<'_>, place: usize, names: impl Iterator<Item = String>) {
        self.left_to_judge -= 1;
        self.listed += 1;
        let flows = &walk.explanation.flows[place..];
        if self.listed > LISTED && !flows.is_empty() && flows.iter().all(Flow::is_allowed) {
            walk.explanation.flows.truncate(place);
            walk.host_pairs.retain(|of, _| *of < place);
            self.allowed.extend(names);
        }
    }

    /// Counts Services that lack the port that was asked for, whose flows begin at a place. That is quickly
    /// known of all of them; if enough are listed, they are named only.
    pub(super) fn count_without_port(
        &mut self,
        walk: &mut Walk<'_>,
        place: usize,
        names: impl Iterator<Item = String>,
    ) {
        self.listed_without_port += 1;
        if self.listed_without_port > LISTED {
            walk.explanation.flows.truncate(place);
            self.without_port.extend(names);
        }
    }

    /// Whether all is allowed for certain that goes through some ports of a Service by an address.
    pub(super) fn is_open(
        &mut self,
        walk: &Walk<'_>,
        sources: &[Unit],
        (service, port): (&Service, Option<&ServicePort>),
        address: IpAddr,
    ) -> bool {
        let (namespace, name) = (service.namespace.clone(), service.name.clone());
        let of_port = port.map(|of| (of.protocol, of.port));
        let is_external = service.routing.external_addresses.contains(&address);
        let is_balancer = service.routing.balancer_addresses.contains(&address);
        // All addresses that are not the Service's are those of nodes.
        let is_external = is_external || !service.addresses.contains(&address);
        let key = (namespace, name, of_port, Family::of(&address), is_external, is_balancer);
        let is_meant = |of: &&ServicePort| port.map_or_else(|| walk.asks_for(of), |port| *of == port);
        *self.open.entry(key).or_insert_with(|| walk.leads_openly(sources, service, address, is_meant))
    }

    /// What is allowed as well.
    pub(super) fn pass_over(&mut self, names: impl Iterator<Item = String>) {
        self.allowed.extend(names);
    }

    /// What is not judged.
    pub(super) fn leave(&mut self, names: impl Iterator<Item = String>) {
        self.not_judged.extend(names);
    }

    /// The same at a node's address.
    pub(super) fn leave_at(&mut self, end: &NodeEnd, (protocol, number): (Protocol, u16)) {
        let port = (protocol, number, number);
        // One end has its ports one after the other, or two ends of one node.
        let is_it = |of: &&mut (NodeEnd, _)| of.0.address == end.address && of.0.unit.party == end.unit.party;
        match self.of_nodes.iter_mut().rev().take(2).find(is_it) {
            Some((_, ports)) => ports.push(port),
            None => self.of_nodes.push((end.clone(), vec![port])),
        }
    }
}

impl Walk<'_> {
    /// Adds that the flows that were not judged are unknown, and names those that are allowed and not listed. For a
    /// question about a prefix it does so once for all, with the prefix's name and the traffic that was asked about of
    /// Services.
    pub(super) fn close(&mut self, sources: &[Unit], leads: Leads, prefix: Option<(&EndName, Option<&Traffic>)>) {
        let Leads { allowed, without_port, not_judged, of_nodes, .. } = leads;
        for (verdict, names) in [(Verdict::Allowed, allowed), (Verdict::Denied, without_port)] {
            if !names.is_empty() {
                self.explanation.warn(WarningFact::NotListed(verdict, names.into_iter().collect()));
            }
        }
        if not_judged.is_empty() {
            return;
        }
        let fact = MissingFact::NotJudged(not_judged.into_iter().collect());
        if let Some((to, traffic)) = prefix {
            let of_nodes = || Traffic::of_ranges(of_nodes.iter().flat_map(|(_, ports)| ports).copied());
            let traffic = traffic.cloned().unwrap_or_else(of_nodes);
            self.not_known(sources, to, None, &traffic, &fact);
            return;
        }
        let mut by_traffic = BTreeMap::<(EndName, Traffic), Vec<&NodeEnd>>::new();
        for (end, ports) in &of_nodes {
            let traffic = Traffic::of_ranges(ports.iter().copied());
            by_traffic.entry((end.unit.whole.without_addresses(), traffic)).or_default().push(end);
        }
        for ((_, traffic), ends) in &by_traffic {
            self.unknown(sources, ends, traffic, &fact);
        }
    }
}
