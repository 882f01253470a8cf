//! Addresses that clusters give to their own.

use std::net::IpAddr;
use std::sync::LazyLock;

use super::Cluster;
use crate::algebra::cidr::{self, Cidr};
use crate::object::Family;

/// The prefixes from which clusters take addresses: private and shared ones, by family.
const OF_CLUSTERS: [&[&str]; 2] = [&["10.0.0.0/8", "100.64.0.0/10", "172.16.0.0/12", "192.168.0.0/16"], &["fc00::/7"]];

static PREFIXES: LazyLock<[Vec<Cidr>; 2]> =
    LazyLock::new(|| OF_CLUSTERS.map(|of| of.iter().filter_map(|text| Cidr::parse(text).ok()).collect()));

/// Whether an address is of the prefixes from which clusters take addresses.
pub(super) fn is_private(address: IpAddr) -> bool {
    let number = cidr::number(address);
    PREFIXES[Family::of(&address) as usize].iter().any(|of| of.first <= number && number <= of.last)
}

impl Cluster {
    /// Whether pods may have addresses of a prefix: those of the input, and others by the prefixes from which
    /// clusters take addresses.
    #[must_use]
    pub fn may_hold_pods(&self, block: &Cidr) -> bool {
        let overlaps = |of: &Cidr| of.first <= block.last && block.first <= of.last;
        let address = |of: IpAddr| Cidr::of_address(of);
        PREFIXES[block.family as usize].iter().any(overlaps)
            || self
                .endpoints()
                .flat_map(|(_, pod)| pod.addresses())
                .any(|of| Family::of(&of) == block.family && overlaps(&address(of)))
    }
}
