//! Flows to prefixes. Addresses of Services and ports of nodes lead elsewhere, so each gets the answer
//! that it gets alone.

use std::collections::BTreeSet;
use std::net::IpAddr;

use super::many_leads::Leads;
use super::nodes::NodeEnd;
use crate::algebra::cidr::Cidr;
use crate::algebra::traffic::Traffic;
use crate::object::{Family, Protocol, Service};
use crate::verdict::explain::answer::Unanswerable;
use crate::verdict::explain::question::name::{EndName, Port, QuestionEnd};
use crate::verdict::explain::question::party::Party;
use crate::verdict::explain::walk::Walk;
use crate::verdict::explain::walk::ends::Unit;
use crate::verdict::flow::End;

impl Walk<'_> {
    /// Flows to prefixes.
    pub(in crate::verdict::explain) fn by_prefixes(
        &mut self,
        sources: &[Unit],
        to: &QuestionEnd<'_>,
    ) -> Result<(), Unanswerable> {
        let mut units = self.ends.units(to);
        if let QuestionEnd::Blocks(blocks) = to {
            let of_services = self.by_services_within(sources, blocks)?;
            // These are answered for.
            let is_of_service =
                |unit: &Unit| matches!(unit.party, Party::End(End::Address(of)) if of_services.contains(&of));
            units.retain(|unit| unit.name.is_part() || !is_of_service(unit));
            // A prefix of nothing but such addresses has no other one to ask about.
            units.retain(|unit| !unit.name.is_part() || !self.is_all_of_services(unit));
        }
        if let (QuestionEnd::Blocks(_), Some(Port::Numbers(protocol, first, last))) = (to, self.port)
            && first == last
        {
            // An address of it may be a node's, as one that is asked about alone.
            let port = (protocol.unwrap_or(Protocol::Tcp), *first);
            units.retain(|unit| match (unit.party, unit.name.is_part()) {
                (Party::End(End::Address(address)), true) => {
                    let name = EndName { addresses: Vec::new(), ..unit.name.clone() };
                    !self.by_unknown_node(sources, &name, address, port)
                }
                _ => true,
            });
        }
        let is_one_port = matches!(self.port, Some(Port::Numbers(_, first, last)) if first == last);
        // Where all ends of the cluster are meant by all their ports, the pods behind nodes are among them.
        if self.port.is_some() || !matches!(to, QuestionEnd::Any) {
            let leads = Leads::new(sources);
            let mut leads = if is_one_port { leads } else { leads.of_many_ports() };
            let (mut left, mut all_own) = (Vec::new(), Vec::new());
            for unit in units {
                let end: Option<NodeEnd> = self.node_end(unit.clone());
                match end.and_then(|end| self.by_ends(sources, &[end], &mut leads)) {
                    Some(own) => all_own.extend(own),
                    None => left.push(unit),
                }
            }
            let everything = Family::ALL.map(Cidr::everything);
            let to = EndName::of_prefixes(if let QuestionEnd::Blocks(blocks) = to {
                blocks.clone()
            } else {
                everything.into()
            });
            self.close(sources, leads, Some((&to, None)));
            self.between_rest(sources, &all_own);
            units = left;
        }
        if units.is_empty() { Ok(()) } else { self.directly(sources, &units) }
    }

    /// Flows to the addresses of Services in some prefixes; these addresses.
    fn by_services_within(&mut self, sources: &[Unit], blocks: &[Cidr]) -> Result<BTreeSet<IpAddr>, Unanswerable> {
        let cluster = self.ends.cluster;
        let holds = |address: &IpAddr| blocks.iter().any(|of| of.holds(*address));
        // Those that are nodes' too are answered for as nodes, but for ports that have names.
        let is_named = matches!(self.port, Some(Port::Name(_)));
        let is_meant = |address: &IpAddr| holds(address) && (is_named || !cluster.is_of_node_alone(*address));
        let addresses: BTreeSet<IpAddr> =
            cluster.services().flat_map(|service| &service.addresses).copied().filter(is_meant).collect();
        let mut leads = Leads::new(sources);
        for address in &addresses {
            let cluster_ip = cluster.service_of_cluster_ip(*address);
            let services: Vec<&Service> = cluster_ip.into_iter().chain(cluster.services_outside(*address)).collect();
            let names = || services.iter().map(|service| service.full_name());
            let lacks_port = |of: &Service| !of.ports.is_empty() && !of.ports.iter().any(|port| self.asks_for(port));
            let lacks_port = cluster_ip.is_some_and(lacks_port);
            if lacks_port || !leads.is_spent() {
                let place = self.explanation.flows.len();
                let warnings = self.explanation.warnings.len();
                self.by_address(sources, *address)?;
                if lacks_port {
                    // The flows say it.
                    self.explanation.warnings.truncate(warnings);
                    leads.count_without_port(self, place, names());
                } else {
                    leads.count(self, place, names());
                }
                continue;
            }
            let mut is_open = |service: &&Service| {
                self.without_ports_of(&[*service]).is_none() && leads.is_open(self, sources, (*service, None), *address)
            };
            if !cluster.is_node(*address) && services.iter().all(&mut is_open) {
                leads.pass_over(names());
            } else {
                leads.leave(names());
            }
        }
        let to = EndName::of_prefixes(blocks.to_vec());
        let traffic = self.port.and_then(Port::traffic).unwrap_or_else(Traffic::all);
        self.close(sources, leads, Some((&to, Some(&traffic))));
        Ok(addresses)
    }

    /// Whether all addresses of a part of a prefix are those of Services.
    fn is_all_of_services(&self, unit: &Unit) -> bool {
        unit.name.prefixes.iter().all(|prefix| self.ends.cluster.are_of_services(prefix))
    }
}
