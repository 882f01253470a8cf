//! Where verdicts of a cluster can change.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use npc_compiler::object::Objects;

use super::OUTSIDE;
use crate::oracle::cidr::Block;

/// Every port that some object names, the ends of ranges, the ports beside
/// them, and the first and the last port, and those of tunnels.
#[must_use]
pub fn ports(objects: &Objects) -> BTreeSet<u16> {
    let mut named: Vec<i32> = objects.pods.iter().flat_map(|pod| &pod.ports).map(|port| port.port.into()).collect();
    for policy in &objects.policies {
        let Some(spec) = &policy.object.spec else { continue };
        let ingress = spec.ingress.iter().flatten().flat_map(|rule| rule.ports.iter().flatten());
        let egress = spec.egress.iter().flatten().flat_map(|rule| rule.ports.iter().flatten());
        for port in ingress.chain(egress) {
            named.extend(port.end_port);
            if let Some(IntOrString::Int(number)) = port.port {
                named.push(number);
            }
        }
    }
    let beside = named.into_iter().flat_map(|number| [number.checked_sub(1), Some(number), number.checked_add(1)]);
    let mut ports: BTreeSet<u16> = beside.flatten().filter_map(|number| u16::try_from(number).ok()).collect();
    ports.extend([1, u16::MAX]);
    // Here, and not beside, an enforcer may be stricter than the policies.
    ports.extend([4754, 4788, 4789, 6080, 6081, 8472]);
    ports.remove(&0);
    ports
}

/// The edges of every block and every exception, the addresses beside them,
/// and an address of each family that nothing names. Some belong to pods or
/// nodes. IPv4-mapped addresses never stand in a packet and are left out.
#[must_use]
pub fn addresses(objects: &Objects) -> BTreeSet<IpAddr> {
    let mut addresses = BTreeSet::from(OUTSIDE);
    for policy in &objects.policies {
        let Some(spec) = &policy.object.spec else { continue };
        let from = spec.ingress.iter().flatten().flat_map(|rule| rule.from.iter().flatten());
        let to = spec.egress.iter().flatten().flat_map(|rule| rule.to.iter().flatten());
        for block in from.chain(to).filter_map(|peer| peer.ip_block.as_ref()) {
            let texts = std::iter::once(&block.cidr).chain(block.except.iter().flatten());
            for block in texts.filter_map(|text| Block::parse(text)) {
                let (first, last) = (block.first, block.last());
                let edges = [before(first), Some(first), Some(last), after(last)];
                addresses.extend(edges.into_iter().flatten().filter(|address| !is_mapped(*address)));
            }
        }
    }
    addresses
}

fn is_mapped(address: IpAddr) -> bool {
    address.to_canonical() != address
}

fn before(address: IpAddr) -> Option<IpAddr> {
    Some(match address {
        IpAddr::V4(address) => IpAddr::V4(Ipv4Addr::from_bits(address.to_bits().checked_sub(1)?)),
        IpAddr::V6(address) => IpAddr::V6(Ipv6Addr::from_bits(address.to_bits().checked_sub(1)?)),
    })
}

fn after(address: IpAddr) -> Option<IpAddr> {
    Some(match address {
        IpAddr::V4(address) => IpAddr::V4(Ipv4Addr::from_bits(address.to_bits().checked_add(1)?)),
        IpAddr::V6(address) => IpAddr::V6(Ipv6Addr::from_bits(address.to_bits().checked_add(1)?)),
    })
}
