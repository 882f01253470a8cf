//! Small clusters for tests, written in a line per object, and random ones.

#![allow(clippy::unwrap_used, reason = "a test that cannot read its own input has failed")]

use std::net::IpAddr;

use k8s_openapi::api::networking::v1 as networking;
use proptest::prelude::*;
use proptest::sample::{select, subsequence};
use serde_json::{Value, json};

use crate::cluster::Cluster;
use crate::object::{ContainerPort, Labels, Namespace, NetworkPolicy, Node, Objects, Pod, Protocol, Workload};

/// A pod from `NS/NAME key=value … ADDRESS … :name=8080 @node Kind/workload`, and the words
/// `hostNetwork`, `terminating`, `not-ready`, `finished` and `single`.
pub(crate) fn pod(text: &str) -> Pod {
    let mut words = text.split(' ');
    let (namespace, name) = words.next().and_then(|name| name.split_once('/')).unwrap();
    let mut pod = Pod::from_template(
        namespace.to_owned(),
        name.to_owned(),
        Labels::new(),
        k8s_openapi::api::core::v1::PodSpec::default(),
    );
    for word in words {
        if let Some(port) = word.strip_prefix(':') {
            let (name, number) = port.split_once('=').unwrap();
            let (number, protocol) = number.split_once('/').unwrap_or((number, "TCP"));
            pod.ports.push(ContainerPort {
                name: name.to_owned(),
                protocol: Protocol::parse(protocol).unwrap(),
                port: number.parse().unwrap(),
            });
        } else if let Some(node) = word.strip_prefix('@') {
            pod.node = Some(node.to_owned());
        } else if let Some((key, value)) = word.split_once('=') {
            pod.labels.insert(key.to_owned(), value.to_owned());
        } else if let Some((kind, name)) = word.split_once('/') {
            pod.workload = Some(Workload { kind: kind.to_owned(), name: name.to_owned() });
        } else if word == "hostNetwork" {
            pod.host_network = true;
        } else if word == "terminating" {
            pod.terminating = true;
        } else if word == "not-ready" {
            pod.not_ready = true;
        } else if word == "finished" {
            pod.finished = true;
        } else if word == "single" {
            pod.is_single = true;
        } else {
            match word.parse().unwrap() {
                IpAddr::V4(address) => pod.ipv4 = Some(address),
                IpAddr::V6(address) => pod.ipv6 = Some(address),
            }
        }
    }
    pod
}

/// A policy from `NS/NAME SPEC`, where SPEC is JSON.
pub(crate) fn policy(text: &str) -> NetworkPolicy {
    let (name, spec) = text.split_once(' ').unwrap();
    let (namespace, name) = name.split_once('/').unwrap();
    let spec: Value = serde_json::from_str(spec).unwrap_or_else(|error| panic!("{error} in {spec}"));
    let object: networking::NetworkPolicy =
        serde_json::from_value(json!({"metadata": {"namespace": namespace, "name": name}, "spec": spec})).unwrap();
    object.into()
}

/// The cluster of these pods and policies.
pub(crate) fn cluster(pods: &[&str], policies: &[&str]) -> Cluster {
    let mut objects = Objects {
        pods: pods.iter().map(|text| pod(text)).collect(),
        policies: policies.iter().map(|text| policy(text)).collect(),
        ..Objects::default()
    };
    objects.declare_namespaces();
    Cluster::new(&objects)
}

fn labels() -> impl Strategy<Value = Value> {
    subsequence(vec![("app", "a"), ("tier", "x"), ("role", "b")], 0..=2)
        .prop_map(|labels| labels.into_iter().map(|(k, v)| (k.to_owned(), json!(v))).collect())
}

fn selector() -> impl Strategy<Value = Value> {
    let expression = (select(vec!["app", "tier"]), select(vec!["In", "NotIn", "Exists", "DoesNotExist"])).prop_map(
        |(key, operator)| match operator {
            "In" | "NotIn" => json!({"key": key, "operator": operator, "values": ["a", "b"]}),
            _ => json!({"key": key, "operator": operator}),
        },
    );
    prop_oneof![
        2 => labels().prop_map(|labels| json!({"matchLabels": labels})),
        1 => expression.prop_map(|expression| json!({"matchExpressions": [expression]})),
        1 => Just(json!({})),
    ]
}

fn peer() -> impl Strategy<Value = Value> {
    let blocks = vec![
        json!({"cidr": "0.0.0.0/0"}),
        json!({"cidr": "::/0"}),
        json!({"cidr": "10.0.0.0/24", "except": ["10.0.0.2/31", "10.0.0.128/25"]}),
        json!({"cidr": "10.0.0.0/30"}),
        json!({"cidr": "192.0.2.0/24"}),
        json!({"cidr": "2001:db8::/64", "except": ["2001:db8::/127"]}),
    ];
    prop_oneof![
        2 => selector().prop_map(|pods| json!({"podSelector": pods})),
        1 => selector().prop_map(|namespaces| json!({"namespaceSelector": namespaces})),
        1 => (selector(), selector()).prop_map(|(n, p)| json!({"namespaceSelector": n, "podSelector": p})),
        2 => select(blocks).prop_map(|block| json!({"ipBlock": block})),
        1 => Just(json!({})),
    ]
}

fn port() -> impl Strategy<Value = Value> {
    select(vec![
        json!({"port": 80}),
        json!({"port": 53, "protocol": "UDP"}),
        json!({"port": 8000, "endPort": 8100}),
        json!({"port": 8080}),
        json!({"port": "http"}),
        json!({"port": "dns", "protocol": "UDP"}),
        json!({"protocol": "SCTP"}),
        json!({"protocol": "TCP"}),
        json!({"port": 80, "endPort": 79}),
    ])
}

fn policies() -> impl Strategy<Value = NetworkPolicy> {
    let rules = |field: &'static str| {
        let rule = (proptest::collection::vec(peer(), 0..3), proptest::collection::vec(port(), 0..3))
            .prop_map(move |(peers, ports)| json!({field: peers, "ports": ports}));
        proptest::collection::vec(rule, 0..3)
    };
    let types = subsequence(vec!["Ingress", "Egress"], 0..=2);
    (0_u8..20, select(vec!["ns", "b"]), selector(), types, rules("from"), rules("to")).prop_map(
        |(number, namespace, subject, types, ingress, egress)| {
            let spec = json!({"podSelector": subject, "policyTypes": types, "ingress": ingress, "egress": egress});
            policy(&format!("{namespace}/p{number} {spec}"))
        },
    )
}

fn pods() -> impl Strategy<Value = Vec<Pod>> {
    let ports = subsequence(vec![":http=80", ":http=8080", ":dns=53/UDP", ":dns=80"], 0..=2);
    let one = (
        select(vec!["ns", "b"]),
        labels(),
        proptest::option::weighted(0.8, select(vec!["10.0.0.1", "10.0.0.2", "10.0.0.3", "10.0.0.200", "10.9.0.1"])),
        proptest::option::weighted(0.4, select(vec!["2001:db8::1", "2001:db8::2", "2001:db8:f::1"])),
        ports,
        proptest::option::of(select(vec!["Deployment/d", "StatefulSet/s", "DaemonSet/t"])),
        prop::bool::weighted(0.1),
        (prop::bool::ANY, prop::bool::weighted(0.2), proptest::option::of(0..3_i64)),
    );
    proptest::collection::vec(one, 1..7).prop_map(|pods| {
        let made = pods.into_iter().enumerate().map(
            |(i, (namespace, labels, v4, v6, ports, owner, host, (first, terminating, started)))| {
                let mut text = format!("{namespace}/p{i} @n{}", u8::from(first));
                for word in [v4, v6, owner].into_iter().flatten().chain(ports) {
                    text.push(' ');
                    text.push_str(word);
                }
                let mut pod = pod(&text);
                pod.host_network = host;
                (pod.terminating, pod.started) = (terminating, started);
                match &mut pod.workload {
                    // A workload whose pods are not there yet.
                    Some(workload) if pod.ipv4.is_none() && pod.ipv6.is_none() => {
                        workload.name = format!("t{i}");
                        pod.name = format!("t{i}");
                        pod.is_single = first && workload.kind != "DaemonSet";
                    }
                    _ => pod.uid = format!("u{i}"),
                }
                let labels = labels.as_object().cloned().unwrap_or_default();
                pod.labels = labels.into_iter().map(|(k, v)| (k, v.as_str().unwrap_or_default().to_owned())).collect();
                pod
            },
        );
        made.collect()
    })
}

/// Clusters of a few pods and policies that have much to do with each other.
pub(crate) fn objects() -> impl Strategy<Value = Objects> {
    let blocks = subsequence(vec!["10.0.0.0/30", "10.9.0.0/16", "2001:db8::/64"], 0..=2);
    (pods(), proptest::collection::vec(policies(), 0..5), blocks).prop_map(|(pods, policies, blocks)| {
        let mut objects = Objects { pods, policies, ..Objects::default() };
        let pod_cidrs = blocks.iter().filter_map(|text| text.parse().ok()).collect();
        objects.nodes.push(Node { name: "n0".to_owned(), addresses: vec![IpAddr::from([192, 0, 2, 1])], pod_cidrs });
        let labels = Labels::from([("app".to_owned(), "a".to_owned())]);
        objects.namespaces.push(Namespace::new("ns", labels));
        objects.declare_namespaces();
        objects
    })
}
