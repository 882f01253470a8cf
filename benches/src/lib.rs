//! Workloads: clusters of shapes that others have published, as plain
//! functions of their sizes. The same arguments make the same objects, which
//! come one by one, so that a cluster need not be in memory twice.

#![forbid(unsafe_code)]

pub mod hostile;
pub mod netns;
pub mod resident;
pub mod samples;
pub mod served;
pub mod shape;

use std::net::Ipv4Addr;
use std::path::PathBuf;
use std::{env, io};

use k8s_openapi::api::networking::v1 as api;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{LabelSelector, ObjectMeta};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use npc_compiler::cluster::Cluster;
use npc_compiler::cluster::group::{Atom, Groups};
use npc_compiler::engine::{Engine, Event};
use npc_compiler::object::{Labels, NetworkPolicy, Objects, Pod};
use npc_compiler::ruleset::layout::RulesetOptions;

/// A binary of ours, which lies beside the folder of the bench that runs.
///
/// # Errors
/// If it is missing.
pub fn binary(name: &str) -> io::Result<PathBuf> {
    let own = env::current_exe()?;
    let file = own.ancestors().nth(2).map(|folder| folder.join(name)).filter(|file| file.exists());
    file.ok_or_else(|| {
        io::Error::other(format!("{name} is missing; cargo build --workspace --release --bins makes it"))
    })
}

/// Labels from pairs.
#[must_use]
pub fn labels<const N: usize>(pairs: [(&str, String); N]) -> Labels {
    pairs.into_iter().map(|(key, value)| (key.to_owned(), value)).collect()
}

/// The IPv4 address with this number in 10.0.0.0/8.
#[must_use]
pub fn address(number: usize) -> Ipv4Addr {
    let [_, a, b, c] = u32::try_from(number).unwrap_or(u32::MAX).to_be_bytes();
    Ipv4Addr::new(10, a, b, c)
}

/// A running pod with the address of this number.
#[must_use]
pub fn pod(number: usize, namespace: &str, labels: Labels, node: &str) -> Pod {
    Pod {
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
        uid: format!("00000000-0000-4000-8000-{number:012x}"),
        namespace: namespace.to_owned(),
        name: format!("pod-{number}"),
        labels,
        workload: None,
        node: Some(node.to_owned()),
        ipv4: Some(address(number)),
        ipv6: None,
        is_ipv6_first: false,
        host_addresses: Vec::new(),
        ports: Vec::new(),
        finished: false,
        terminating: false,
        not_ready: false,
        started: None,
        host_network: false,
        config_hash: None,
    }
}

/// A selector by labels.
#[must_use]
pub fn selector(labels: Labels) -> LabelSelector {
    LabelSelector { match_labels: Some(labels), match_expressions: None }
}

/// A peer: pods of the policy's own namespace.
#[must_use]
pub fn own_pods(labels: Labels) -> api::NetworkPolicyPeer {
    api::NetworkPolicyPeer { pod_selector: Some(selector(labels)), ..Default::default() }
}

/// A TCP port.
#[must_use]
pub fn tcp(port: i32) -> api::NetworkPolicyPort {
    api::NetworkPolicyPort { port: Some(IntOrString::Int(port)), ..Default::default() }
}

/// An ingress policy.
#[must_use]
pub fn ingress(
    namespace: &str,
    name: &str,
    subject: Labels,
    rules: Vec<api::NetworkPolicyIngressRule>,
) -> NetworkPolicy {
    NetworkPolicy::from(api::NetworkPolicy {
        metadata: ObjectMeta {
            namespace: Some(namespace.to_owned()),
            name: Some(name.to_owned()),
            ..ObjectMeta::default()
        },
        spec: Some(api::NetworkPolicySpec {
            pod_selector: Some(selector(subject)),
            policy_types: Some(vec!["Ingress".to_owned()]),
            ingress: Some(rules),
            egress: None,
        }),
    })
}

/// An ingress rule.
#[must_use]
pub fn from(peers: Vec<api::NetworkPolicyPeer>, ports: Vec<api::NetworkPolicyPort>) -> api::NetworkPolicyIngressRule {
    api::NetworkPolicyIngressRule { from: Some(peers), ports: Some(ports) }
}

/// The label `app`.
#[must_use]
pub fn app(name: impl Into<String>) -> Labels {
    labels([("app", name.into())])
}

/// The objects all at once.
///
/// # Panics
/// If one of them is gone: nothing here makes such an event.
#[must_use]
pub fn objects(events: impl IntoIterator<Item = Event>) -> Objects {
    let mut objects = Objects::default();
    for event in events {
        match event {
            Event::Namespace(namespace) => objects.namespaces.push(namespace),
            Event::Pod(pod) => objects.pods.push(*pod),
            Event::Policy(policy) => objects.policies.push(*policy),
            gone => unreachable!("{gone:?}"),
        }
    }
    objects
}

/// An engine that has received these objects, and compiled nothing yet.
#[must_use]
pub fn engine(node: &str, events: impl IntoIterator<Item = Event>) -> Engine {
    let mut engine = Engine::new(node, RulesetOptions::default());
    for event in events {
        engine.apply(event);
    }
    engine
}

/// What a controller would work out for the whole cluster: every policy
/// understood, every endpoint in its groups, and for each group the endpoints
/// that each of its peers means. Answers how many these are.
#[must_use]
pub fn everything(objects: &Objects) -> usize {
    let cluster = Cluster::new(objects);
    let groups = Groups::new(&cluster, cluster.endpoints().map(|(id, _)| id));
    let atoms = groups.iter().flat_map(|(_, group)| group.admitted.keys());
    let classes = atoms.flat_map(|atom| match atom {
        Atom::Pods(peer) => cluster.selected(peer),
        Atom::Everyone | Atom::Block(_) => Vec::new(),
    });
    classes.map(|class| cluster.class(class).endpoints.len()).sum()
}
