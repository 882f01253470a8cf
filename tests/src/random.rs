//! Random clusters: few names, labels, addresses and ports, so that everything
//! collides with everything, and a fair share of what is legal but odd, and of
//! what is wrong but was stored by some API server or stands in some file.
//!
//! A cluster is decided by its seed, and proptest shrinks the ones that fail.

mod block;
mod boundary;
mod policy;

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use npc_compiler::object::{ContainerPort, Labels, Namespace, Node, Objects, Pod, Protocol};
use proptest::collection::vec;
use proptest::option;
use proptest::prelude::{Just, Strategy, prop_oneof};
use proptest::sample::{select, subsequence};
use proptest::strategy::ValueTree;
use proptest::test_runner::{Config, RngAlgorithm, TestRng, TestRunner};

pub use boundary::{addresses, ports};

/// Namespaces are called as label values are, so that a selector of names is
/// as likely as one of labels.
const NAMESPACES: [&str; 3] = ["a", "b", "c"];
/// Most objects live in the first namespace, where they meet.
fn namespace() -> impl Strategy<Value = &'static str> {
    prop_oneof![5 => Just(NAMESPACES[0]), 2 => Just(NAMESPACES[1]), 1 => Just(NAMESPACES[2])]
}

const LABEL_KEYS: [&str; 2] = ["app", "role"];
const LABEL_VALUES: [&str; 3] = ["a", "b", ""];
const PORT_NAMES: [&str; 3] = ["http", "dns", "80"];
const CONTAINER_PORTS: [u16; 9] = [1, 53, 80, 81, 443, 4789, 6081, 8080, 65535];

/// Addresses of pods: at both sides of the edges of likely blocks, and one
/// (8.0.0.1) that only an octal reading of `010.0.0.0/8` reaches.
const POD_V4: [Ipv4Addr; 10] = [
    Ipv4Addr::new(10, 0, 0, 0),
    Ipv4Addr::new(10, 0, 0, 1),
    Ipv4Addr::new(10, 0, 0, 2),
    Ipv4Addr::new(10, 0, 0, 127),
    Ipv4Addr::new(10, 0, 0, 128),
    Ipv4Addr::new(10, 0, 0, 255),
    Ipv4Addr::new(10, 0, 1, 0),
    Ipv4Addr::new(10, 1, 2, 3),
    Ipv4Addr::new(8, 0, 0, 1),
    Ipv4Addr::new(172, 16, 0, 5),
];
const POD_V6: [Ipv6Addr; 7] = [
    Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0, 1),
    Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0, 2),
    Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0, 0xffff),
    Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 1, 0),
    Ipv6Addr::new(0xfd00, 0, 0, 1, 0, 0, 0, 0),
    Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 7),
    // NAT64, which a program that shortens ::/0 loses.
    Ipv6Addr::new(0x64, 0xff9b, 0, 0, 0, 0, 0xa00, 1),
];
const NODES: [&str; 3] = ["n1", "n2", "n3"];
/// Prefixes of nodes' pods, which hold some of their addresses.
const POD_CIDRS: [&str; 5] = ["10.0.0.0/25", "10.0.0.0/8", "172.16.0.0/16", "fd00::/112", "2001:db8::/32"];
/// Addresses of each node.
const NODE_V4: [[Ipv4Addr; 2]; 3] = [
    [Ipv4Addr::new(192, 168, 0, 1), Ipv4Addr::new(10, 0, 0, 64)],
    [Ipv4Addr::new(192, 168, 0, 2), Ipv4Addr::new(192, 168, 0, 3)],
    [Ipv4Addr::new(192, 168, 1, 0), Ipv4Addr::new(172, 16, 0, 6)],
];
const NODE_V6: [Ipv6Addr; 3] = [
    Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0, 0x40),
    Ipv6Addr::new(0xfd01, 0, 0, 0, 0, 0, 0, 2),
    Ipv6Addr::new(0xfd01, 0, 0, 0, 0, 0, 1, 0),
];
/// Addresses outside.
const OUTSIDE: [IpAddr; 2] =
    [IpAddr::V4(Ipv4Addr::new(203, 0, 113, 9)), IpAddr::V6(Ipv6Addr::new(0x2001, 0xdb8, 1, 0, 0, 0, 0, 9))];

/// A runner whose cases follow from the seed.
#[must_use]
pub fn runner(seed: u64, cases: u32) -> TestRunner {
    let mut bytes = [0; 32];
    bytes[..8].copy_from_slice(&seed.to_le_bytes());
    // Failures are reproduced by their seed; nothing is written to the tree.
    let config = Config { cases, failure_persistence: None, max_shrink_iters: 4096, ..Config::default() };
    TestRunner::new_with_rng(config, TestRng::from_seed(RngAlgorithm::ChaCha, &bytes))
}

/// The cluster of a seed.
///
/// # Panics
/// Never: no strategy here rejects values.
#[must_use]
pub fn cluster(seed: u64) -> Objects {
    match objects().new_tree(&mut runner(seed, 1)) {
        Ok(tree) => tree.current(),
        Err(reason) => panic!("no cluster: {reason}"),
    }
}

/// Random clusters.
pub fn objects() -> impl Strategy<Value = Objects> {
    let namespaces = NAMESPACES.map(|name| {
        option::weighted(0.85, labels()).prop_map(move |labels| labels.map(|labels| Namespace::new(name, labels)))
    });
    let nodes = [node(0), node(1), node(2)];
    (namespaces, nodes, vec(pod(), 1..=7), vec(policy::policy(), 0..=5)).prop_map(
        |(namespaces, nodes, mut pods, mut policies)| {
            for (index, pod) in pods.iter_mut().enumerate() {
                pod.name = format!("p{index}");
            }
            for (index, policy) in policies.iter_mut().enumerate() {
                policy.object.metadata.name = Some(format!("np{index}"));
            }
            Objects {
                namespaces: namespaces.into_iter().flatten().collect(),
                pods,
                policies,
                nodes: nodes.into_iter().flatten().collect(),
                services: Vec::new(),
                endpoint_slices: Vec::new(),
                implied_namespaces: BTreeSet::new(),
            }
        },
    )
}

fn labels() -> impl Strategy<Value = Labels> {
    let maybe = |key: &'static str| {
        option::of(select(&LABEL_VALUES[..])).prop_map(move |value| Some((key.to_owned(), value?.to_owned())))
    };
    LABEL_KEYS.map(maybe).prop_map(|pairs| pairs.into_iter().flatten().collect())
}

/// A node's object, which may be missing or list only some of its addresses.
fn node(index: usize) -> impl Strategy<Value = Option<Node>> {
    let node = (node_addresses(index), subsequence(&POD_CIDRS[..], 0..=2)).prop_map(move |(addresses, prefixes)| {
        let pod_cidrs = prefixes.into_iter().filter_map(|text| text.parse().ok()).collect();
        Node { name: NODES[index].to_owned(), addresses, pod_cidrs }
    });
    option::weighted(0.8, node)
}

fn node_addresses(index: usize) -> impl Strategy<Value = Vec<IpAddr>> {
    let [one, other] = NODE_V4[index];
    let all = vec![IpAddr::V4(one), IpAddr::V4(other), IpAddr::V6(NODE_V6[index])];
    subsequence(all, 0..=3)
}

/// Where a pod runs and what it knows of that node, with the addresses that it
/// would have on the node's network.
fn place() -> impl Strategy<Value = (Option<usize>, Vec<IpAddr>)> {
    (option::weighted(0.9, 0..NODES.len()), node_addresses(0), node_addresses(1), node_addresses(2)).prop_map(
        |(node, first, second, third)| match node {
            None => (None, Vec::new()),
            Some(index) => (node, [first, second, third].into_iter().nth(index).unwrap_or_default()),
        },
    )
}

fn pod() -> impl Strategy<Value = Pod> {
    let flags = (rarely(0.07), rarely(0.15), rarely(0.1), option::weighted(0.8, 0..2_i64));
    let owned = (option::weighted(0.85, select(&POD_V4[..])), option::weighted(0.6, select(&POD_V6[..])));
    let identity = (namespace(), select(vec!["", "1", "2"]), labels());
    (identity, place(), owned, vec(container_port(), 0..=3), flags).prop_map(
        |((namespace, uid, labels), (node, host_addresses), (ipv4, ipv6), mut ports, flags)| {
            ports.sort_unstable();
            ports.dedup();
            let (finished, terminating, host_network, started) = flags;
            let mut pod = Pod {
                host_ports: Box::default(),
                unnamed_ports: Box::default(),
                local_addresses: Box::default(),
                containers_of_ports: Box::default(),
                only_in_slice: false,
                is_single: false,
                is_planned: false,
                has_no_index: false,
                is_on_some_nodes: false,
                dns_name: None,
                uid: uid.to_owned(),
                namespace: namespace.to_owned(),
                name: String::new(),
                labels,
                workload: None,
                node: node.map(|index| NODES[index].to_owned()),
                ipv4,
                ipv6,
                is_ipv6_first: false,
                host_addresses,
                ports,
                finished,
                terminating,
                not_ready: false,
                started,
                host_network,
                config_hash: None,
            };
            if host_network {
                // It shows the node's addresses as its own.
                pod.ipv4 = node.filter(|_| ipv4.is_some()).map(|index| NODE_V4[index][0]);
                pod.ipv6 = node.filter(|_| ipv6.is_some()).map(|index| NODE_V6[index]);
            }
            pod
        },
    )
}

fn rarely(probability: f64) -> impl Strategy<Value = bool> {
    proptest::bool::weighted(probability)
}

fn container_port() -> impl Strategy<Value = ContainerPort> {
    (select(&PORT_NAMES[..]), select(&Protocol::ALL[..]), select(&CONTAINER_PORTS[..]))
        .prop_map(|(name, protocol, port)| ContainerPort { name: name.to_owned(), protocol, port })
}
