//! Ends from or to which a node with isolated pods forwards nothing. Policies cannot change that.

use std::net::IpAddr;

use super::Walk;
use crate::algebra::cidr::Cidr;
use crate::algebra::unforwarded::{self, Unforwarded};
use crate::cluster::group::Groups;
use crate::verdict::explain::answer::{Flow, WarningFact};
use crate::verdict::explain::question::name::EndName;
use crate::verdict::explain::question::party::Party;
use crate::verdict::flow::End;

/// An end of a flow from or to which nothing is forwarded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NotForwarded {
    /// Whether it is the source, else the destination.
    pub is_source: bool,
    /// What its address is.
    pub address: Unforwarded,
}

impl Flow {
    /// The end from or to which a node with isolated pods forwards nothing, if the other one is a pod.
    #[must_use]
    pub fn not_forwarded(&self) -> Option<NotForwarded> {
        let is_pod = |party: Party| matches!(party, Party::End(End::Pod(_)));
        let (from, to) = self.parties?;
        if is_pod(from) && !is_pod(to) {
            let address = what(&self.to, unforwarded::of_destination)?;
            return Some(NotForwarded { is_source: false, address });
        }
        if is_pod(to) && !is_pod(from) {
            let address = what(&self.from, unforwarded::of_source)?;
            return Some(NotForwarded { is_source: true, address });
        }
        None
    }
}

impl NotForwarded {
    /// That nothing is forwarded to an address, or from it.
    #[must_use]
    pub fn of_address(groups: &Groups, address: IpAddr) -> Option<Self> {
        let block = Cidr::of_address(address);
        let as_source = || unforwarded::of_source(&block).map(|address| Self { is_source: true, address });
        let found = unforwarded::of_destination(&block).map(|address| Self { is_source: false, address });
        found.or_else(as_source).filter(|found| found.applies(groups))
    }

    /// Whether it does: where nothing is isolated, nodes forward as the kernel does.
    fn applies(self, groups: &Groups) -> bool {
        self.address.is_dropped_by_hosts(self.is_source) || groups.all().next().is_some()
    }
}

/// What an address is that was asked about, or every address of a prefix.
fn what(end: &EndName, of_block: fn(&Cidr) -> Option<Unforwarded>) -> Option<Unforwarded> {
    if end.is_part() {
        let mut of_all = end.prefixes.iter().map(of_block);
        let first = of_all.next()??;
        return of_all.all(|of| of.is_some()).then_some(first);
    }
    let addresses = end.addresses.iter().filter(|_| end.kind == "Address");
    addresses.into_iter().find_map(|address| of_block(&Cidr::of_address(*address)))
}

impl Walk<'_> {
    /// Warns where an end is one from or to which nothing is forwarded. The verdict says what policies allow.
    pub(super) fn warn_of_unforwarded(&mut self) {
        let groups = self.ends.groups;
        let warning = |flow: &Flow| {
            let found = flow.not_forwarded().filter(|found| found.applies(groups));
            let NotForwarded { is_source, address } = found?;
            let end = if is_source { &flow.from } else { &flow.to };
            Some(WarningFact::NotForwarded { end: end.clone(), is_source, address })
        };
        let warnings: Vec<WarningFact> = self.explanation.flows.iter().filter_map(warning).collect();
        self.warn(warnings);
    }
}
