//! What a tenant may write that costs the most: policies of the sizes that an API
//! server admits (about 1.5 MB an object), by the number of their items. Each is a node
//! with one pod of the tenant and what else makes the policies expensive.

use k8s_openapi::api::networking::v1 as api;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{LabelSelector, LabelSelectorRequirement};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use npc_compiler::engine::Event;
use npc_compiler::object::{ContainerPort, Labels, Namespace, NetworkPolicy, Protocol};

use crate::{app, from, ingress, labels, own_pods, pod, tcp};

/// The node that all of these are about.
pub const NODE: &str = "node";

/// A workload by its number of items.
pub type Workload = fn(usize) -> Vec<Event>;

/// All hostile workloads. For each: its name, the workload, and the most items that fit the objects
/// which it writes.
pub const ALL: [(&str, Workload, usize); 13] = [
    ("ipBlocks in one rule", blocks_of_one_rule, 32_000),
    ("ipBlocks in rules of their own, each with a port", blocks_with_ports, 8_000),
    ("exceptions of one ipBlock", exceptions, 32_000),
    ("ports in one rule", ports_of_one_rule, 32_000),
    ("ports in rules of their own", rules_of_one_port, 16_000),
    ("ports to everyone, beside as many ports each to one peer", ports_beside_peers, 8_000),
    ("named ports for egress, and as many pods with ports", named_ports, 8_000),
    ("values of an In requirement, and as many kinds of pods", values, 32_000),
    ("policies of one pod, each with a port", policies_of_one_pod, 16_000),
    ("peers, and as many kinds of pods", peers, 8_000),
    ("peers and as many ports of one rule", peers_with_ports, 8_000),
    ("peers and as many named ports of one rule", peers_with_names, 8_000),
    ("unknown fields", unknown_fields, 32_000),
];

fn one(rules: Vec<api::NetworkPolicyIngressRule>) -> Vec<Event> {
    with(ingress("tenant", "policy", Labels::new(), rules))
}

fn with(policy: NetworkPolicy) -> Vec<Event> {
    let mut events = tenant();
    events.push(Event::Policy(Box::new(policy)));
    events
}

fn tenant() -> Vec<Event> {
    let namespace = Namespace::new("tenant", Labels::new());
    vec![Event::Namespace(namespace), Event::Pod(Box::new(pod(1, "tenant", app("subject"), NODE)))]
}

fn port(n: usize) -> i32 {
    i32::try_from(n % 65_535 + 1).unwrap_or(1)
}

fn number(n: usize) -> u32 {
    u32::try_from(n).unwrap_or(u32::MAX)
}

/// Every second address, so that none joins another.
fn block(n: usize) -> api::IPBlock {
    let address = std::net::Ipv4Addr::from(0xac10_0000 + 2 * number(n));
    api::IPBlock { cidr: format!("{address}/32"), except: None }
}

fn block_peer(n: usize) -> api::NetworkPolicyPeer {
    api::NetworkPolicyPeer { ip_block: Some(block(n)), ..Default::default() }
}

fn blocks_of_one_rule(count: usize) -> Vec<Event> {
    one(vec![from((0..count).map(block_peer).collect(), vec![tcp(80)])])
}

fn blocks_with_ports(count: usize) -> Vec<Event> {
    one((0..count).map(|n| from(vec![block_peer(n)], vec![tcp(port(2 * n))])).collect())
}

fn exceptions(count: usize) -> Vec<Event> {
    let except = (0..count).map(|n| block(n).cidr).collect();
    let whole = api::IPBlock { cidr: "0.0.0.0/0".to_owned(), except: Some(except) };
    one(vec![from(vec![api::NetworkPolicyPeer { ip_block: Some(whole), ..Default::default() }], vec![tcp(80)])])
}

fn ports_of_one_rule(count: usize) -> Vec<Event> {
    one(vec![from(vec![own_pods(app("peer"))], (0..count).map(|n| tcp(port(2 * n))).collect())])
}

fn rules_of_one_port(count: usize) -> Vec<Event> {
    one((0..count).map(|n| from(vec![own_pods(app("peer"))], vec![tcp(port(2 * n))])).collect())
}

fn ports_beside_peers(count: usize) -> Vec<Event> {
    let to_all = from(Vec::new(), (0..count).map(|n| tcp(port(2 * n))).collect());
    let to_one = (0..count).map(|n| from(vec![own_pods(app(format!("peer-{n}")))], vec![tcp(port(2 * n + 1))]));
    one(std::iter::once(to_all).chain(to_one).collect())
}

fn name(n: usize) -> String {
    format!("port-{n}")
}

fn peers_with_names(count: usize) -> Vec<Event> {
    egress_by_names(count, Some((0..count).map(|n| own_pods(app(format!("peer-{n}")))).collect()))
}

fn named_ports(count: usize) -> Vec<Event> {
    egress_by_names(count, None)
}

fn egress_by_names(count: usize, to: Option<Vec<api::NetworkPolicyPeer>>) -> Vec<Event> {
    let ports = (0..count).map(|n| api::NetworkPolicyPort { port: Some(IntOrString::String(name(n))), ..tcp(1) });
    let rule = api::NetworkPolicyEgressRule { to, ports: Some(ports.collect()) };
    let mut policy = ingress("tenant", "policy", Labels::new(), Vec::new());
    if let Some(spec) = &mut policy.object.spec {
        spec.policy_types = Some(vec!["Egress".to_owned()]);
        spec.egress = Some(vec![rule]);
    }
    let mut events = with(policy);
    events.extend((0..count).map(|n| {
        let mut pod = pod(n + 2, "tenant", app("listens"), "another");
        pod.ports = vec![ContainerPort { protocol: Protocol::Tcp, name: name(n), port: 8_080 }];
        Event::Pod(Box::new(pod))
    }));
    events
}

fn values(count: usize) -> Vec<Event> {
    let values = (0..count).map(|n| format!("value-{n}")).collect();
    let requirement =
        LabelSelectorRequirement { key: "app".to_owned(), operator: "In".to_owned(), values: Some(values) };
    let selector = LabelSelector { match_expressions: Some(vec![requirement]), match_labels: None };
    let peer = api::NetworkPolicyPeer { pod_selector: Some(selector), ..Default::default() };
    let mut events = one(vec![from(vec![peer], vec![tcp(80)])]);
    events.extend(kinds(count, "value"));
    events
}

/// Pods, each of a kind of its own.
fn kinds(count: usize, name: &str) -> impl Iterator<Item = Event> {
    (0..count).map(move |n| {
        let labels = labels([("app", format!("{name}-{}", 2 * n))]);
        Event::Pod(Box::new(pod(n + 2, "tenant", labels, "another")))
    })
}

fn policies_of_one_pod(count: usize) -> Vec<Event> {
    let mut events = tenant();
    events.extend((0..count).map(|n| {
        let rule = from(vec![own_pods(app("peer"))], vec![tcp(port(2 * n))]);
        Event::Policy(Box::new(ingress("tenant", &format!("policy-{n}"), Labels::new(), vec![rule])))
    }));
    events
}

fn peers(count: usize) -> Vec<Event> {
    let peers = (0..count).map(|n| own_pods(app(format!("peer-{n}")))).collect();
    let mut events = one(vec![from(peers, vec![tcp(80)])]);
    events.extend(kinds(count, "peer"));
    events
}

fn peers_with_ports(count: usize) -> Vec<Event> {
    let peers = (0..count).map(|n| own_pods(app(format!("peer-{n}")))).collect();
    one(vec![from(peers, (0..count).map(|n| tcp(port(2 * n))).collect())])
}

/// Of a manifest: an API server keeps no such fields.
fn unknown_fields(count: usize) -> Vec<Event> {
    let peers = (0..count).map(|n| own_pods(app(format!("peer-{n}")))).collect();
    let mut policy = ingress("tenant", "policy", Labels::new(), vec![from(peers, vec![tcp(80)])]);
    policy.unknown_fields = (0..count).map(|n| format!("spec.ingress[0].from[{n}].podSelectr")).collect();
    with(policy)
}
