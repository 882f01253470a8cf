//! Ends from or to which a node with isolated pods forwards nothing. Policies cannot change that.

use ipnetwork::IpNetwork;

use super::Walk;
use crate::algebra::cidr::Cidr;
use crate::algebra::unforwarded::{self, Unforwarded};
use crate::object::Family;
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
            let address = what(&self.to, unforwarded::destinations)?;
            return Some(NotForwarded { is_source: false, address });
        }
        if is_pod(to) && !is_pod(from) {
            let address = what(&self.from, unforwarded::sources)?;
            return Some(NotForwarded { is_source: true, address });
        }
        None
    }
}

/// What an address is that was asked about, or every address of a prefix.
fn what(end: &EndName, prefixes: fn(Family) -> &'static [(Unforwarded, IpNetwork)]) -> Option<Unforwarded> {
    let of_block = |block: &Cidr| unforwarded::of(prefixes(block.family), block);
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
        // Where nothing is isolated, nodes forward as the kernel does.
        if self.ends.groups.all().next().is_none() {
            return;
        }
        let warning = |flow: &Flow| {
            let NotForwarded { is_source, address } = flow.not_forwarded()?;
            let end = if is_source { &flow.from } else { &flow.to };
            Some(WarningFact::NotForwarded { end: end.clone(), is_source, address })
        };
        let warnings: Vec<WarningFact> = self.explanation.flows.iter().filter_map(warning).collect();
        self.warn(warnings);
    }
}
