//! The addresses that pods and nodes without one will have, as far as that decides.

use std::sync::LazyLock;

use super::Cluster;
use super::private::is_private;
use crate::algebra::cidr::{self, AddressSet, Cidr};
use crate::object::{Family, Objects, Pod, Service};
use crate::policy::Block;

/// What will have a new address.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NewAddress {
    /// A pod in its own network. Authors of rules do not know the address that it will get, so a
    /// single public address is not meant for it: that is a server outside.
    OfPod,
    /// A node, or a hostNetwork pod.
    OfNode,
}

/// The prefixes from which no network gives addresses to a pod or a node, by family: those for
/// documentation (RFC 5737, RFC 3849), of loopback, link-local and multicast, and reserved ones.
const OF_NO_POD: [&[&str]; 2] = [
    &["0.0.0.0/8", "192.0.2.0/24", "198.51.100.0/24", "203.0.113.0/24", "127.0.0.0/8", "169.254.0.0/16", "224.0.0.0/3"],
    &["2001:db8::/32", "3fff::/20", "::/127", "fe80::/10", "ff00::/8"],
];

/// A private and a public address of each family. Most blocks lack one of them.
const PROBES: [[&str; 2]; 2] = [["10.0.0.1", "8.8.8.8"], ["fd00::1", "2600::1"]];

impl Cluster {
    /// Whether a block may hold the address that an end without one will have: no such address is a
    /// Service's, and none is of the prefixes that no network gives away.
    #[must_use]
    pub fn may_hold_a_new_address(&self, block: &Block, of: NewAddress) -> bool {
        self.may_hold_new(block.family, &block.addresses, of)
    }

    /// Whether a block holds every address of its family that an end without an address may get.
    #[must_use]
    pub fn holds_each_new_address(&self, block: &Block, of: NewAddress) -> bool {
        static NUMBERS: LazyLock<[Vec<u128>; 2]> = LazyLock::new(|| {
            PROBES.map(|of| of.iter().filter_map(|text| text.parse().ok()).map(cidr::number).collect())
        });
        let holds = |number: &u128| block.addresses.contains(*number);
        // The difference is costly, and a block without these holds not all.
        NUMBERS[block.family as usize].iter().all(holds) && {
            let rest = Cidr::everything(block.family).addresses().difference(&block.addresses);
            !self.may_hold_new(block.family, &rest, of)
        }
    }

    /// Whether some of these addresses may be a new one.
    fn may_hold_new(&self, family: Family, addresses: &AddressSet, of: NewAddress) -> bool {
        static RANGES: LazyLock<[Vec<Cidr>; 2]> = LazyLock::new(|| {
            OF_NO_POD.map(|prefixes| prefixes.iter().filter_map(|text| Cidr::parse(text).ok()).collect())
        });
        let is_of_no_pod = |(first, last): &(u128, u128)| {
            RANGES[family as usize].iter().any(|cidr| cidr.first <= *first && *last <= cidr.last)
        };
        let is_outside = |(first, last): &(u128, u128)| {
            of == NewAddress::OfPod && first == last && !is_private(cidr::address(family, *first))
        };
        let may_be_new = |range: &(u128, u128)| !is_of_no_pod(range) && !is_outside(range);
        match &self.inventory.service_addresses[family as usize] {
            none if none.is_empty() => addresses.ranges().iter().any(may_be_new),
            of_services => addresses.difference(of_services).ranges().iter().any(may_be_new),
        }
    }

    /// Whether pods without an address may get one of this family: of some family that a pod or node
    /// of the input has, or of either where none has any.
    #[must_use]
    pub fn assigns_family(&self, family: Family) -> bool {
        self.inventory.assigned_families[family as usize]
    }
}

/// The family of a Service that names none: that of the API server's own Service, else the first one of
/// pods; none where the input says neither. A pod of both families says which is the first.
pub(super) fn first_family(objects: &Objects, pods: &[Pod]) -> Option<Family> {
    let is_of_server = |of: &&Service| (of.namespace.as_str(), of.name.as_str()) == ("default", "kubernetes");
    // If several have one name, the last counts.
    let of_server = objects.services.iter().rfind(is_of_server).and_then(|of| of.routing.only_family);
    let of_pod = |pod: &Pod| match (pod.ipv4, pod.ipv6) {
        (None, None) => None,
        _ if pod.is_ipv6_first => Some(Family::V6),
        _ => Some(Family::V4),
    };
    let is_of_both = |pod: &&Pod| pod.ipv4.is_some() && pod.ipv6.is_some();
    of_server.or_else(|| pods.iter().filter(is_of_both).chain(pods).find_map(of_pod))
}

/// The families in which pods and nodes have addresses; both where none has any.
pub(super) fn assigned_families(objects: &Objects) -> [bool; 2] {
    let of_pods = objects.pods.iter().flat_map(|pod| pod.addresses().chain(pod.host_addresses.iter().copied()));
    let of_nodes = objects.nodes.iter().flat_map(|node| {
        let prefixes = node.pod_cidrs.iter().map(ipnetwork::IpNetwork::ip);
        node.addresses.iter().copied().chain(prefixes)
    });
    let mut given = [false; 2];
    for address in of_pods.chain(of_nodes) {
        given[Family::of(&address) as usize] = true;
        if given == [true; 2] {
            break;
        }
    }
    if given == [false; 2] { [true; 2] } else { given }
}

#[cfg(test)]
mod tests {
    use std::net::IpAddr;

    use super::*;
    use crate::algebra::ranges::RangeSet;
    use crate::object::{Exposure, Node, Routing, Service};
    use crate::sample::pod;

    fn block(cidr: &str, except: &[&str]) -> Block {
        let parse = |text: &str| Cidr::parse(text).expect("a prefix");
        let cut = RangeSet::union_of(&except.iter().map(|text| parse(text).addresses()).collect::<Vec<_>>());
        Block { family: parse(cidr).family, addresses: parse(cidr).addresses().difference(&cut) }
    }

    fn service() -> Service {
        Service {
            namespace: "ns".to_owned(),
            name: "s".to_owned(),
            selector: None,
            addresses: vec![IpAddr::from([10, 96, 0, 1])],
            ports: Vec::new(),
            exposure: Exposure::Inside,
            routing: Routing::default(),
        }
    }

    fn cluster() -> Cluster {
        Cluster::new(&Objects { services: vec![service()], ..Objects::default() })
    }

    #[test]
    fn a_block_of_all_addresses_that_a_pod_may_get_holds_each_of_them() {
        use NewAddress::{OfNode, OfPod};
        for (cidr, except, of, expected) in [
            ("0.0.0.0/0", &[][..], OfPod, true),
            ("::/0", &[], OfNode, true),
            ("0.0.0.0/0", &["169.254.169.254/32"], OfPod, true),
            ("0.0.0.0/0", &["10.96.0.1/32"], OfPod, true),
            ("0.0.0.0/0", &["1.2.3.4/32"], OfPod, true),
            ("0.0.0.0/0", &["1.2.3.4/32"], OfNode, false),
            ("0.0.0.0/0", &["10.7.0.0/16"], OfPod, false),
            ("0.0.0.0/1", &[], OfPod, false),
            ("10.0.0.0/8", &[], OfPod, false),
            ("fd00::/8", &[], OfPod, false),
            ("2000::/3", &[], OfPod, false),
        ] {
            let block = block(cidr, except);
            assert_eq!(cluster().holds_each_new_address(&block, of), expected, "{cidr} except {except:?}");
            assert!(cluster().may_hold_a_new_address(&block, of), "{cidr}");
        }
    }

    #[test]
    fn a_block_of_services_of_documentation_or_of_one_server_holds_no_new_address_of_a_pod() {
        for (cidr, of_pod, of_node) in [
            ("10.96.0.1/32", false, false),
            ("10.96.0.2/32", true, true),
            ("192.0.2.0/24", false, false),
            ("8.8.8.8/32", false, true),
            ("8.8.8.0/24", true, true),
            ("fe80::/64", false, false),
        ] {
            let may = |of| cluster().may_hold_a_new_address(&block(cidr, &[]), of);
            assert_eq!((may(NewAddress::OfPod), may(NewAddress::OfNode)), (of_pod, of_node), "{cidr}");
        }
    }

    #[test]
    fn the_first_family_is_that_of_pods_of_both_in_whichever_order_the_input_has_them() {
        let one = ["ns/a 10.0.0.1", "ns/b 2001:db8::1"];
        let both = Pod { is_ipv6_first: true, ..pod("ns/c 10.0.0.3 2001:db8::3") };
        let first = |mut pods: Vec<Pod>, is_turned: bool| {
            if is_turned {
                pods.reverse();
            }
            let routing = Routing { is_of_first_family: true, ..Routing::default() };
            let services = vec![Service { routing, addresses: Vec::new(), ..service() }];
            let cluster = Cluster::new(&Objects { pods, services, ..Objects::default() });
            cluster.services().find_map(|service| service.routing.only_family)
        };
        for is_turned in [false, true] {
            let one: Vec<Pod> = one.iter().map(|text| pod(text)).collect();
            assert_eq!(first(one.clone(), is_turned), Some(Family::V4));
            assert_eq!(first([one, vec![both.clone()]].concat(), is_turned), Some(Family::V6));
        }
    }

    #[test]
    fn the_families_of_new_addresses_are_those_that_pods_and_nodes_have() {
        let given = |addresses: &[&str]| {
            let addresses = addresses.iter().map(|text| text.parse().expect("an address")).collect();
            let node = Node { name: "n".to_owned(), addresses, pod_cidrs: Vec::new() };
            let cluster = Cluster::new(&Objects { nodes: vec![node], ..Objects::default() });
            Family::ALL.map(|family| cluster.assigns_family(family))
        };
        assert_eq!(given(&[]), [true, true]);
        assert_eq!(given(&["192.0.2.1"]), [true, false]);
        assert_eq!(given(&["2001:db8::1"]), [false, true]);
        assert_eq!(given(&["192.0.2.1", "2001:db8::1"]), [true, true]);
    }
}
