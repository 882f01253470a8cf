//! Addresses that clusters give to their own.

use std::net::IpAddr;
use std::sync::LazyLock;

use crate::algebra::cidr::{self, Cidr};
use crate::object::Family;

/// The prefixes from which clusters take addresses: private and shared ones, by family.
const OF_CLUSTERS: [&[&str]; 2] = [&["10.0.0.0/8", "100.64.0.0/10", "172.16.0.0/12", "192.168.0.0/16"], &["fc00::/7"]];

/// Whether an address is of the prefixes from which clusters take addresses.
pub(super) fn is_private(address: IpAddr) -> bool {
    static PREFIXES: LazyLock<[Vec<Cidr>; 2]> =
        LazyLock::new(|| OF_CLUSTERS.map(|of| of.iter().filter_map(|text| Cidr::parse(text).ok()).collect()));
    let number = cidr::number(address);
    PREFIXES[Family::of(&address) as usize].iter().any(|of| of.first <= number && number <= of.last)
}
