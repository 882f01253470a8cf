//! The kernel's answers, and what iptables prints, as any bytes: for fuzzing.
//!
//! Each target takes a datagram as the kernel sends it. The same bytes are then read as the
//! inside of a message, so that a change need not keep netlink's lengths.

use rtnetlink::packet_core::NetlinkBuffer;

use super::{conntrack as flows, conntrack_table, iptables, network, nflog as log, notifications};

/// What `iptables-save` or `iptables -S` prints.
pub(crate) fn listing(listed: &str) {
    iptables::fuzz_listing(listed);
}

/// The list of a set, and what the kernel's ipset says besides.
pub fn ipset(data: &[u8]) {
    super::ipset::fuzz(data);
}

/// Entries of conntrack's table, and its counters.
pub fn conntrack(data: &[u8]) {
    flows::fuzz(data);
    conntrack_table::fuzz(data);
}

/// Chains, rules and notifications of nf_tables.
pub fn nftables(data: &[u8]) {
    iptables::fuzz_native(data);
    notifications::fuzz(data);
    super::bridge::fuzz(data);
}

/// Packets that the kernel logged.
pub fn nflog(data: &[u8]) {
    log::fuzz(data);
}

/// Links, addresses and routes.
pub fn rtnetlink(data: &[u8]) {
    network::fuzz(data);
}

/// What may be the attributes of a message: those of the messages in a datagram, with and
/// without netfilter's header, and the datagram itself.
pub(super) fn attributes(data: &[u8]) -> Vec<&[u8]> {
    const NETFILTER_HEADER: usize = 4;
    let (mut found, mut rest) = (vec![data], data);
    while let Ok(message) = NetlinkBuffer::new_checked(rest) {
        found.push(message.payload());
        found.extend(message.payload().get(NETFILTER_HEADER..));
        let end = usize::try_from(message.length()).unwrap_or(usize::MAX).next_multiple_of(4);
        rest = rest.get(end..).unwrap_or_default();
    }
    found
}

/// A message of this kind, with a header and attributes.
pub(super) fn message(kind: u16, header: &[u8], attributes: &[u8]) -> Vec<u8> {
    const NETLINK_HEADER: usize = 16;
    let length = NETLINK_HEADER + header.len() + attributes.len();
    let mut message = u32::try_from(length).unwrap_or(u32::MAX).to_ne_bytes().to_vec();
    message.extend(kind.to_ne_bytes());
    message.resize(NETLINK_HEADER, 0);
    message.extend_from_slice(header);
    message.extend_from_slice(attributes);
    message
}
