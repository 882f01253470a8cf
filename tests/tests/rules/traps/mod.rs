//! The traps of NetworkPolicy, each a test named by the sentence that it
//! proves. The oracle is asked, which was written from the API reference
//! alone, and the compiler has to agree with it about every flow of the
//! cluster in question.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod blocks;
mod pods;
mod ports;
mod selectors;
mod shapes;

use std::net::IpAddr;

use npc_compiler::object::{ContainerPort, Family, Labels, Namespace, NetworkPolicy, Node, Objects, Pod, Protocol};
use npc_tests::agreement;
use npc_tests::oracle::{End, Oracle, Packet, Payload};
use serde_json::{Value, json};

/// A cluster that is being written down.
struct Cluster(Objects);

/// A label map from `key=value` words.
fn labels(text: &str) -> Labels {
    let pairs = text.split_whitespace().map(|pair| pair.split_once('=').unwrap());
    pairs.map(|(key, value)| (key.to_owned(), value.to_owned())).collect()
}

/// A TCP packet.
fn tcp(port: u16) -> Payload {
    Payload::Port(Protocol::Tcp, port)
}

impl Cluster {
    fn new() -> Self {
        Self(Objects::default())
    }

    fn namespace(mut self, name: &str, text: &str) -> Self {
        self.0.namespaces.push(Namespace::new(name, labels(text)));
        self
    }

    /// A pod `NAMESPACE/NAME` on `node-1`, with an address of either family
    /// that ends in its index, counted from 1.
    fn pod(self, name: &str, text: &str) -> Self {
        self.pod_with(name, text, |_| {})
    }

    fn pod_with(mut self, name: &str, text: &str, change: impl FnOnce(&mut Pod)) -> Self {
        let (namespace, name) = name.split_once('/').unwrap();
        let index = self.0.pods.len() + 1;
        let mut pod = Pod {
            uid: format!("uid-{index}"),
            namespace: namespace.to_owned(),
            name: name.to_owned(),
            labels: labels(text),
            workload: None,
            node: Some("node-1".to_owned()),
            ipv4: Some(format!("10.0.0.{index}").parse().unwrap()),
            ipv6: Some(format!("fd00::{index}").parse().unwrap()),
            is_ipv6_first: false,
            host_addresses: Vec::new(),
            ports: Vec::new(),
            finished: false,
            terminating: false,
            not_ready: false,
            started: None,
            host_network: false,
            config_hash: None,
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
        };
        change(&mut pod);
        self.0.pods.push(pod);
        self
    }

    fn node(mut self, name: &str, addresses: &[&str]) -> Self {
        let addresses = addresses.iter().map(|text| text.parse().unwrap()).collect();
        self.0.nodes.push(Node { name: name.to_owned(), addresses, pod_cidrs: Vec::new() });
        self
    }

    /// A policy with this `spec`.
    fn policy(self, namespace: &str, spec: Value) -> Self {
        self.misspelt_policy(namespace, spec, &[])
    }

    fn misspelt_policy(mut self, namespace: &str, spec: Value, unknown_fields: &[&str]) -> Self {
        let name = format!("policy-{}", self.0.policies.len());
        let mut object = json!({"metadata": {"namespace": namespace, "name": name}});
        object["spec"] = spec;
        self.0.policies.push(NetworkPolicy {
            object: serde_json::from_value(object).unwrap(),
            unknown_fields: unknown_fields.iter().map(|&path| path.to_owned()).collect(),
            restriction: None,
        });
        self
    }

    /// Whether the packet arrives, after a look whether the compiler agrees
    /// about every flow of this cluster.
    fn allows_in(&self, family: Family, from: &str, to: &str, payload: Payload) -> bool {
        let addresses: Vec<IpAddr> = [from, to].into_iter().filter_map(|end| end.parse().ok()).collect();
        let differences = agreement::differences(&self.0, &addresses);
        assert!(differences.is_empty(), "the compiler disagrees: {differences:#?}");
        let oracle = Oracle::new(&self.0);
        let packet = Packet { family, payload };
        oracle.allows(&end(&oracle, from), &end(&oracle, to), packet).allowed()
    }

    /// Whether an IPv4 packet arrives.
    fn allows(&self, from: &str, to: &str, payload: Payload) -> bool {
        self.allows_in(Family::V4, from, to, payload)
    }

    /// Whether an IPv6 packet arrives.
    fn allows_v6(&self, from: &str, to: &str, payload: Payload) -> bool {
        self.allows_in(Family::V6, from, to, payload)
    }
}

/// `NAMESPACE/NAME` or an address.
fn end(oracle: &Oracle<'_>, text: &str) -> End {
    match text.parse::<IpAddr>() {
        Ok(address) => End::Address(address),
        Err(_) => text.split_once('/').and_then(|(namespace, name)| oracle.pod(namespace, name)).unwrap(),
    }
}

/// A container port.
fn container_port(name: &str, protocol: Protocol, port: u16) -> ContainerPort {
    ContainerPort { name: name.to_owned(), protocol, port }
}

/// Two namespaces, `web` and `db` in the first, `web` in the second.
fn shop() -> Cluster {
    Cluster::new()
        .namespace("shop", "team=shop")
        .namespace("other", "")
        .pod("shop/db", "app=db")
        .pod("shop/web", "app=web")
        .pod("other/web", "app=web")
}
