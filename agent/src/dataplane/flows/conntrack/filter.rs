//! Lists of the flows of one address, made by the kernel.
//!
//! Since Linux 5.8 a list may carry a tuple and which parts of it an entry has to equal
//! (CTA_FILTER). All parts have to be equal, so one list has the flows that an address sends,
//! and another those that it answers: after translation the end that a flow went to is the
//! source of its answers.
//!
//! Only IPv4 addresses are asked for in this way. For IPv6 kernels up to 6.18 at least list the
//! entries whose address is *not* equal (`ctnetlink_filter_match_tuple` takes the answer of
//! `ipv6_addr_cmp` for its opposite), and a list without entries does not show that.

use std::collections::BTreeSet;
use std::net::IpAddr;

use netlink_packet_netfilter::conntrack::{ConntrackAttribute, IPTuple, Tuple as Part};
use npc_compiler::object::Family;
use npc_compiler::plan::conntrack::FlowKey;
use rtnetlink::packet_core::{DefaultNla, Emitable as _, NLA_F_NESTED};

/// Up to so many addresses are listed one by one. In a table of 150,000 entries a whole list
/// takes as long as some nine walks of the kernel through its table, and each address takes
/// two.
const FEW: usize = 4;

/// Attributes that the crate leaves as they are; see linux/netfilter/nfnetlink_conntrack.h.
const CTA_FILTER: u16 = 25;
const CTA_FILTER_ORIG_FLAGS: u16 = 1;
const CTA_FILTER_REPLY_FLAGS: u16 = 2;

/// The source address of a tuple has to be equal; see net/netfilter/nf_conntrack_netlink.c.
const CTA_FILTER_F_CTA_IP_SRC: u32 = 1;

/// A list to ask the kernel for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct ListRequest(Option<(FlowEnd, IpAddr)>);

/// Which end of a flow.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum FlowEnd {
    Source,
    Destination,
}

/// The lists that have all flows of these addresses, in a family.
pub(super) fn lists(addresses: &BTreeSet<IpAddr>, family: Family) -> Vec<ListRequest> {
    let of_family: Vec<IpAddr> = addresses.iter().copied().filter(|address| Family::of(address) == family).collect();
    if of_family.len() > FEW || family == Family::V6 && !of_family.is_empty() {
        return vec![ListRequest::whole()];
    }
    of_family.into_iter().flat_map(ends).collect()
}

/// The lists that have all flows of an address: those that it sends, and those that it answers.
pub(super) fn ends(address: IpAddr) -> [ListRequest; 2] {
    [FlowEnd::Source, FlowEnd::Destination].map(|end| ListRequest(Some((end, address))))
}

impl ListRequest {
    /// The list of everything.
    pub(super) const fn whole() -> Self {
        Self(None)
    }

    /// Whether it is that.
    pub(super) const fn is_whole(&self) -> bool {
        self.0.is_none()
    }

    /// Whether a flow belongs to it.
    pub(super) fn matches(&self, flow: &FlowKey) -> bool {
        match self.0 {
            Some((FlowEnd::Source, address)) => flow.source == address,
            Some((FlowEnd::Destination, address)) => flow.destination == address,
            None => true,
        }
    }

    /// What asks the kernel for it: a tuple, and what of that an entry has to equal.
    pub(super) fn attributes(&self) -> (Vec<ConntrackAttribute>, Option<DefaultNla>) {
        let Some((end, address)) = self.0 else { return (Vec::new(), None) };
        let tuple = vec![Part::Ip(vec![IPTuple::SourceAddress(address)])];
        let (tuple, original, reply) = match end {
            FlowEnd::Source => (ConntrackAttribute::CtaTupleOrig(tuple), CTA_FILTER_F_CTA_IP_SRC, 0),
            FlowEnd::Destination => (ConntrackAttribute::CtaTupleReply(tuple), 0, CTA_FILTER_F_CTA_IP_SRC),
        };
        let flags = [(CTA_FILTER_ORIG_FLAGS, original), (CTA_FILTER_REPLY_FLAGS, reply)];
        let mut nested = Vec::new();
        for (kind, flags) in flags {
            let attribute = DefaultNla::new(kind, flags.to_ne_bytes().to_vec());
            let begin = nested.len();
            nested.resize(begin + attribute.buffer_len(), 0);
            attribute.emit(&mut nested[begin..]);
        }
        (vec![tuple], Some(DefaultNla::new(CTA_FILTER | NLA_F_NESTED, nested)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn few_addresses_are_listed_by_both_ends_and_many_at_once() {
        let address = |n: u8| IpAddr::from([10, 0, 0, n]);
        let few: BTreeSet<IpAddr> = [address(1), "fd00::1".parse().expect("an address")].into();
        assert_eq!(lists(&few, Family::V4), ends(address(1)));
        assert_eq!(lists(&few, Family::V6), [ListRequest::whole()]);
        let many: BTreeSet<IpAddr> = (0..=4).map(address).collect();
        assert_eq!(lists(&many, Family::V4), [ListRequest::whole()]);
        assert_eq!(lists(&many, Family::V6), []);
    }
}
