//! Addresses that two running pods of the node have, as CNI reports it.
//!
//! Mostly the network gave the address to the later one after the earlier one had ended, though no DEL
//! said so. But if the earlier pod is to run, and the node's end of its interface is there, nothing tells
//! which of them has the address. It may be the one that is more isolated.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use npc_compiler::engine::PodKey;
use npc_compiler::object::Pod;

use super::sandbox::Sandbox;

/// The addresses that an earlier pod may have instead of the latest one. Several of the sandboxes have each of
/// `shared`; the sandboxes are in the order of their ADDs.
pub(super) fn contested(
    shared: &BTreeSet<IpAddr>,
    in_order: &[&Sandbox],
    pods: &BTreeMap<PodKey, Pod>,
) -> BTreeSet<IpAddr> {
    let is_contested = |address: &IpAddr| {
        let mut latest_first = in_order.iter().rev().filter(|sandbox| sandbox.add.addresses.contains(address));
        let pod_of = |sandbox: &Sandbox| sandbox.object(pods);
        let latest = latest_first.next().and_then(|sandbox| pod_of(sandbox)).map(PodKey::of);
        latest_first
            .filter(|earlier| earlier.add.host_interface.is_some())
            .filter_map(|earlier| pod_of(earlier))
            .any(|earlier| earlier.is_endpoint() && !earlier.terminating && Some(PodKey::of(earlier)) != latest)
    };
    shared.iter().copied().filter(is_contested).collect()
}
