//! Addresses of load balancers: which clients they take (`loadBalancerSourceRanges`), and those that
//! nodes do not take at all (`ipMode: Proxy`).

use std::cell::LazyCell;
use std::net::IpAddr;

use super::entry::Entry;
use crate::algebra::cidr::{AddressSet, Cidr};
use crate::algebra::traffic::Traffic;
use crate::object::{Family, Service};
use crate::policy::Block;
use crate::verdict::explain::answer::Via;
use crate::verdict::explain::code::ReasonCode;
use crate::verdict::explain::question::MissingFact;
use crate::verdict::explain::question::name::QuestionEnd;
use crate::verdict::explain::question::party::Party;
use crate::verdict::explain::walk::ends::Unit;
use crate::verdict::explain::walk::{Destination, Route, Walk};
use crate::verdict::flow::End;

impl Walk<'_> {
    /// Adds the flows to the address of a load balancer that nodes do not take. Returns whether it
    /// is one. What the client's policies deny is denied, and what the load balancer makes of the
    /// rest is not known.
    pub(in crate::verdict::explain) fn by_proxied_balancer(&mut self, sources: &[Unit], address: IpAddr) -> bool {
        let cluster = self.ends.cluster;
        let Some(service) = cluster.service_with_proxied(address) else { return false };
        // What goes to a node's address comes to that node, which knows nothing of the load balancer.
        if cluster.is_of_node_alone(address) {
            return false;
        }
        let (namespace, name) = (service.namespace.clone(), service.name.clone());
        let mut destinations = Vec::new();
        for unit in self.ends.units(&QuestionEnd::Address(address)) {
            let traffic = self.ends.traffic(&unit, self.port);
            destinations.extend(traffic.map(|traffic| Destination::direct(unit, traffic)));
        }
        let fact = [MissingFact::Balancer { address, namespace, name }];
        self.between(sources, &destinations, Route { port: self.port, missing: &fact, ..Route::default() });
        !destinations.is_empty()
    }

    /// The sources that the load balancer's address takes, where they come by one. kube-proxy drops
    /// what comes from elsewhere, from pods and nodes too.
    pub(in crate::verdict::explain) fn taken_by_balancer(
        &mut self,
        sources: &[Unit],
        service: &Service,
        entry: Option<Entry>,
        destinations: &[Destination],
        via: &Via,
    ) -> Vec<Unit> {
        let address = match entry {
            Some(Entry::External(address, _)) if service.routing.balancer_addresses.contains(&address) => address,
            _ => return sources.to_vec(),
        };
        let ranges = source_ranges(service, Family::of(&address));
        if ranges.is_empty() {
            return sources.to_vec();
        }
        let cluster = self.ends.cluster;
        let block = block_of(&ranges, Family::of(&address));
        let (mut taken, mut refused, mut unknown) = (Vec::new(), Vec::new(), Vec::new());
        for unit in &self.cut(sources, &block) {
            let into = match unit.party.address(cluster, Family::of(&address)) {
                Some(own) if are_in(&ranges, own) => &mut taken,
                Some(_) => &mut refused,
                None if unit.party.has_address(cluster) => continue,
                // The ranges may hold the address that it will get, or not.
                None if cluster.holds_each_new_address(&block, unit.party.new_address()) => &mut taken,
                None if !cluster.may_hold_a_new_address(&block, unit.party.new_address()) => &mut refused,
                None => &mut unknown,
            };
            into.push(unit.clone());
        }
        distinguish_parts(&mut taken, &mut refused);
        if let Some((port, of)) = via.port.zip(destinations.first().and_then(|of| of.service_port)) {
            let (traffic, via) =
                (Traffic::ports(of.0, port, port), Via { backends: destinations.len(), ..via.clone() });
            self.broken(&refused, service, Some(ReasonCode::ServiceSourceRanges), &traffic, &via);
        }
        if !unknown.is_empty() {
            let fact = [MissingFact::AddressInSourceRanges(texts(&ranges))];
            let route = Route { via: Some(via), service: &service.addresses, missing: &fact, ..Route::default() };
            self.between(&unknown, destinations, route);
        }
        taken
    }

    /// Those clients outside that a Service's load balancer takes. What becomes of the others is not known:
    /// they may come by another way.
    pub(super) fn taken_outside(
        &mut self,
        outside: Vec<Unit>,
        service: &Service,
        destinations: &[Destination],
        via: &Via,
    ) -> Vec<Unit> {
        let [v4, v6] = Family::ALL.map(|family| source_ranges(service, family));
        if v4.is_empty() && v6.is_empty() {
            return outside;
        }
        let ranges_for = |unit: &Unit| match unit.party {
            Party::End(End::Address(address)) if Family::of(&address) == Family::V4 => &v4,
            _ => &v6,
        };
        let is_refused = |unit: &Unit| match unit.party {
            Party::End(End::Address(address)) => !ranges_for(unit).is_empty() && !are_in(ranges_for(unit), address),
            _ => false,
        };
        let outside = self.cut_by_ranges(&outside, service);
        let (mut refused, mut taken): (Vec<Unit>, Vec<Unit>) = outside.into_iter().partition(is_refused);
        distinguish_parts(&mut taken, &mut refused);
        for ranges in [&v4, &v6] {
            let of_ranges = |unit: &&Unit| std::ptr::eq(ranges_for(unit), ranges);
            let units: Vec<Unit> = refused.iter().filter(of_ranges).cloned().collect();
            if !units.is_empty() {
                let fact = [unknown_range(ranges)];
                let route = Route { via: Some(via), service: &service.addresses, missing: &fact, ..Route::default() };
                self.between(&units, destinations, route);
            }
        }
        taken
    }

    /// The same sources, where prefixes are cut into what is in these ranges and what is not.
    fn cut_by_ranges(&self, sources: &[Unit], service: &Service) -> Vec<Unit> {
        let of_family =
            |sources: Vec<Unit>, family| self.cut(&sources, &block_of(&source_ranges(service, family), family));
        Family::ALL.into_iter().fold(sources.to_vec(), of_family)
    }

    /// The same sources, where prefixes of a block's family are cut into what is in the block and what is
    /// not.
    fn cut(&self, sources: &[Unit], block: &Block) -> Vec<Unit> {
        let taken = LazyCell::new(|| self.ends.taken_of(block.family));
        let cut = |unit: &Unit| {
            if !unit.name.is_part() || unit.only != Some(block.family) {
                return vec![unit.clone()];
            }
            let all = unit.name.addresses_of(block.family);
            let parts = [all.intersection(&block.addresses), all.difference(&block.addresses)];
            if parts.iter().any(AddressSet::is_empty) {
                return vec![unit.clone()];
            }
            parts.iter().filter_map(|part| self.ends.part(unit, part, &taken)).collect()
        };
        sources.iter().flat_map(cut).collect()
    }
}

/// Gives parts of prefixes that the ranges hold and parts that they do not hold names of their own: what
/// is said of one does not hold for the whole.
fn distinguish_parts(taken: &mut [Unit], refused: &mut Vec<Unit>) {
    let is_part = |unit: &Unit| unit.name.is_part();
    if taken.iter().any(is_part) && refused.iter().any(is_part) {
        taken.iter_mut().filter(|unit| is_part(unit)).for_each(|unit| unit.whole = unit.name.clone());
        let (parts, others): (Vec<Unit>, Vec<Unit>) = std::mem::take(refused).into_iter().partition(is_part);
        *refused = others;
        for family in Family::ALL {
            refused.extend(joined(parts.iter().filter(|part| part.only == Some(family)).cloned().collect()));
        }
    }
}

/// Parts of prefixes as one.
fn joined(parts: Vec<Unit>) -> Option<Unit> {
    let mut parts = parts.into_iter();
    let mut all = parts.next()?;
    parts.for_each(|part| all.name.join(&part.name));
    all.whole = all.name.clone();
    Some(all)
}

/// The clients that a Service's load balancer takes by its addresses of a family; all where there are none. kube-proxy
/// of each family applies the ranges of its own family only.
fn source_ranges(service: &Service, family: Family) -> Vec<Cidr> {
    let ranges = service.routing.source_ranges.iter().filter_map(|text| Cidr::parse(text).ok());
    ranges.filter(|of| of.family == family).collect()
}

/// Whether an address is in one of these prefixes.
fn are_in(ranges: &[Cidr], address: IpAddr) -> bool {
    ranges.iter().any(|of| of.holds(address))
}

/// Whether a client is one that the load balancer takes, as a fact that the input lacks.
fn unknown_range(ranges: &[Cidr]) -> MissingFact {
    MissingFact::SourceRanges(texts(ranges))
}

fn texts(ranges: &[Cidr]) -> Vec<String> {
    ranges.iter().map(|of| of.network().to_string()).collect()
}

/// The addresses of a family in some prefixes.
fn block_of(ranges: &[Cidr], family: Family) -> Block {
    let addresses: Vec<AddressSet> = ranges.iter().filter(|of| of.family == family).map(Cidr::addresses).collect();
    Block { family, addresses: AddressSet::union_of(&addresses) }
}
