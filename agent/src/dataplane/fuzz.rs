//! The kernel's answers, and what iptables prints, as any bytes: for fuzzing.
//!
//! Each target takes a datagram as the kernel sends it. The same bytes are then read as the
//! inside of a message, so that a change need not keep netlink's lengths.

use super::audit::notifications;
use super::flows::{conntrack as flows, conntrack_table};
use super::netlink::nflog as log;
use super::{iptables, network};

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
    super::flows::flow_index::fuzz(data);
}

/// Packets that the kernel logged.
pub fn nflog(data: &[u8]) {
    log::fuzz(data);
}

/// Links, addresses, routes and neighbours.
pub fn rtnetlink(data: &[u8]) {
    network::fuzz(data);
    super::network::neighbours::fuzz(data);
}
