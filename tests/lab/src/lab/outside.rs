//! Addresses of the outside world that are worth a probe: the edges of every
//! `ipBlock` and of every exception, on both sides of each edge.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use k8s_openapi::api::networking::v1::{IPBlock, NetworkPolicyPeer};
use npc_compiler::object::Objects;

/// Addresses that no policy is likely to name.
const FAR: [IpAddr; 2] =
    [IpAddr::V4(Ipv4Addr::new(192, 0, 2, 251)), IpAddr::V6(Ipv6Addr::new(0x2001, 0xdb8, 0xffff, 0, 0, 0, 0, 0x251))];

/// The outside addresses at the edges of blocks, and one of each family that
/// is in none most likely; without those that belong to the cluster.
#[must_use]
pub fn edges(objects: &Objects) -> Vec<IpAddr> {
    let mut found = BTreeSet::from(FAR);
    for text in blocks(objects).flat_map(|block| std::iter::once(block.cidr).chain(block.except.unwrap_or_default())) {
        if let Some((address, length)) = parse(&text) {
            found.extend(around(address, length));
        }
    }
    let taken: BTreeSet<IpAddr> = (objects.nodes.iter().flat_map(|node| node.addresses.iter().copied()))
        .chain(objects.pods.iter().flat_map(npc_compiler::object::Pod::addresses))
        .chain(objects.services.iter().flat_map(|service| service.addresses.iter().copied()))
        .collect();
    found.into_iter().filter(|address| !taken.contains(address) && can_be_outside(*address)).collect()
}

fn blocks(objects: &Objects) -> impl Iterator<Item = IPBlock> {
    let specs = objects.policies.iter().filter_map(|policy| policy.object.spec.as_ref());
    let peers = specs.flat_map(|spec| {
        let from = spec.ingress.iter().flatten().filter_map(|rule| rule.from.clone());
        let to = spec.egress.iter().flatten().filter_map(|rule| rule.to.clone());
        from.chain(to).flatten().collect::<Vec<NetworkPolicyPeer>>()
    });
    peers.filter_map(|peer| peer.ip_block)
}

/// Reads a block. What is not written as today's API demands need not have its
/// edges probed; other tests read it.
fn parse(text: &str) -> Option<(IpAddr, u8)> {
    let (address, length) = text.split_once('/')?;
    let (address, length) = (address.parse::<IpAddr>().ok()?, length.parse().ok()?);
    let most = if address.is_ipv4() { 32 } else { 128 };
    (length <= most).then_some((address, length))
}

/// The first and last address of a block and their neighbours outside it.
fn around(address: IpAddr, length: u8) -> Vec<IpAddr> {
    match address {
        IpAddr::V4(address) => {
            let host = u32::MAX.checked_shr(u32::from(length)).unwrap_or(0);
            let (first, last) = (u32::from(address) & !host, u32::from(address) | host);
            let edges = [first.checked_sub(1), Some(first), Some(last), last.checked_add(1)];
            edges.into_iter().flatten().map(|bits| Ipv4Addr::from(bits).into()).collect()
        }
        IpAddr::V6(address) => {
            let host = u128::MAX.checked_shr(u32::from(length)).unwrap_or(0);
            let (first, last) = (u128::from(address) & !host, u128::from(address) | host);
            let edges = [first.checked_sub(1), Some(first), Some(last), last.checked_add(1)];
            edges.into_iter().flatten().map(|bits| Ipv6Addr::from(bits).into()).collect()
        }
    }
}

/// Whether the kernel routes packets from and to an address as from and to any
/// host on the internet.
fn can_be_outside(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(v4) => {
            let first = v4.octets()[0];
            !(first == 0 || first >= 224 || v4.is_loopback() || v4.is_link_local())
        }
        IpAddr::V6(v6) => {
            let first = v6.segments()[0];
            // Mapped addresses stand for IPv4 ones, multicast for many.
            let plain = v6.to_ipv4_mapped().is_none() && !v6.is_loopback() && !v6.is_unspecified();
            plain && first & 0xff00 != 0xff00 && first & 0xffc0 != 0xfe80
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test may panic")]
mod tests {
    use super::*;

    #[test]
    fn the_edges_of_a_block_are_four_addresses() {
        let texts = |a: &str| {
            let (address, length) = parse(a).unwrap();
            around(address, length).iter().map(ToString::to_string).collect::<Vec<_>>()
        };
        assert_eq!(texts("203.0.113.128/25"), ["203.0.113.127", "203.0.113.128", "203.0.113.255", "203.0.114.0"]);
        assert_eq!(texts("10.0.0.1/32"), ["10.0.0.0", "10.0.0.1", "10.0.0.1", "10.0.0.2"]);
        assert_eq!(texts("0.0.0.0/0"), ["0.0.0.0", "255.255.255.255"]);
        assert_eq!(
            texts("2001:db8::/127"),
            ["2001:db7:ffff:ffff:ffff:ffff:ffff:ffff", "2001:db8::", "2001:db8::1", "2001:db8::2"]
        );
    }

    #[test]
    fn what_no_router_forwards_is_not_outside() {
        for text in ["0.0.0.0", "127.0.0.1", "255.255.255.255", "169.254.1.1", "::", "::1", "fe80::1", "::ffff:1.2.3.4"]
        {
            assert!(!can_be_outside(text.parse().unwrap()), "{text}");
        }
        assert!(can_be_outside("8.8.8.8".parse().unwrap()));
        assert!(can_be_outside("2001:db8::".parse().unwrap()));
    }
}
