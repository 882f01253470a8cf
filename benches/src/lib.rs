//! Workloads: clusters of shapes that others have published, as plain
//! functions of their sizes. The same arguments make the same objects.

#![forbid(unsafe_code)]

use std::net::Ipv4Addr;

use k8s_openapi::api::networking::v1 as api;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{LabelSelector, ObjectMeta};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use npc_compiler::object::{Labels, Namespace, NetworkPolicy, Node, Objects, Pod};

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
        uid: format!("00000000-0000-4000-8000-{number:012x}"),
        namespace: namespace.to_owned(),
        name: format!("pod-{number}"),
        labels,
        workload: None,
        node: Some(node.to_owned()),
        ipv4: Some(address(number)),
        ipv6: None,
        host_addresses: Vec::new(),
        ports: Vec::new(),
        finished: false,
        terminating: false,
        host_network: false,
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

fn app(name: impl Into<String>) -> Labels {
    labels([("app", name.into())])
}

/// Shape 1: namespaces of 4 pods (two of app-1, two of app-2) and 3 policies:
/// deny by default, app-1 from app-1, app-2 from app-2. With 25,000 namespaces
/// it is the large cluster of Antrea's controller tests. The pods are spread
/// over as many nodes.
#[must_use]
pub fn many_namespaces(namespaces: usize, nodes: usize) -> Objects {
    let mut objects = Objects::default();
    for n in 0..namespaces {
        let namespace = format!("ns-{n}");
        objects.namespaces.push(Namespace::new(&namespace, Labels::new()));
        for p in 0..4 {
            let number = n * 4 + p;
            let node = format!("node-{}", number % nodes);
            objects.pods.push(pod(number + 1, &namespace, app(format!("app-{}", p / 2 + 1)), &node));
        }
        objects.policies.push(ingress(&namespace, "default-deny", Labels::new(), Vec::new()));
        for name in ["app-1", "app-2"] {
            let rule = from(vec![own_pods(app(name))], Vec::new());
            objects.policies.push(ingress(&namespace, name, app(name), vec![rule]));
        }
    }
    objects
}

/// Shape 2: one namespace in which every policy selects every pod, as subject
/// and as peer.
#[must_use]
pub fn all_to_all(pods: usize, policies: usize) -> Objects {
    let mut objects = Objects::default();
    objects.namespaces.push(Namespace::new("ns", Labels::new()));
    objects.pods.extend((0..pods).map(|n| pod(n + 1, "ns", app("app"), "node")));
    objects.policies.extend((0..policies).map(|n| {
        let rule = from(vec![own_pods(Labels::new())], Vec::new());
        ingress("ns", &format!("policy-{n}"), Labels::new(), vec![rule])
    }));
    objects
}

/// Shape 3: namespaces of many pods in label groups, each namespace with a
/// policy per group, which lets the group's pods in, and a default deny.
#[must_use]
pub fn label_groups(namespaces: usize, pods: usize, groups: usize) -> Objects {
    let mut objects = Objects::default();
    for n in 0..namespaces {
        let namespace = format!("ns-{n}");
        objects.namespaces.push(Namespace::new(&namespace, Labels::new()));
        for p in 0..pods {
            let node = format!("node-{}", p % 100);
            objects.pods.push(pod(n * pods + p + 1, &namespace, app(format!("app-{}", p % groups)), &node));
        }
        objects.policies.push(ingress(&namespace, "default-deny", Labels::new(), Vec::new()));
        for g in 0..groups {
            let name = format!("app-{g}");
            let rule = from(vec![own_pods(app(&name))], vec![tcp(80)]);
            objects.policies.push(ingress(&namespace, &name, app(&name), vec![rule]));
        }
    }
    objects
}

/// Shape 4: one node's view of a large cluster: remote pods with 15 labels
/// each, 200 local ones, and policies of 5 rules each.
#[must_use]
pub fn one_node(remote: usize, policies: usize) -> Objects {
    const NAMESPACES: usize = 100;
    let mut objects = Objects::default();
    objects.namespaces.extend((0..NAMESPACES).map(|n| Namespace::new(format!("ns-{n}"), Labels::new())));
    objects.nodes.push(Node { name: "local".to_owned(), addresses: Vec::new() });
    for n in 0..remote + 200 {
        let mut labels: Labels = (0..14).map(|i| (format!("label-{i}"), format!("value-{}", n % (i + 2)))).collect();
        labels.insert("app".to_owned(), format!("app-{}", n % 50));
        let node = if n < 200 { "local".to_owned() } else { format!("node-{}", n % 1_000) };
        objects.pods.push(pod(n + 1, &format!("ns-{}", n % NAMESPACES), labels, &node));
    }
    for n in 0..policies {
        let namespace = format!("ns-{}", n % NAMESPACES);
        let rules = (0..5).map(|i| {
            let peer = own_pods(app(format!("app-{}", (n + i) % 50)));
            from(vec![peer], vec![tcp(8_000 + i32::try_from((n + i) % 20).unwrap_or_default())])
        });
        let subject = app(format!("app-{}", n / NAMESPACES % 50));
        objects.policies.push(ingress(&namespace, &format!("policy-{n}"), subject, rules.collect()));
    }
    objects
}

/// Shape 5: one pod and a policy of many ipBlocks with overlapping exceptions.
#[must_use]
pub fn many_blocks(blocks: usize) -> Objects {
    let mut objects = Objects::default();
    objects.namespaces.push(Namespace::new("ns", Labels::new()));
    objects.pods.push(pod(1, "ns", app("app"), "node"));
    let rules = (0..blocks).map(|n| {
        let (a, b) = (n / 256 % 256, n % 256);
        let peer = api::NetworkPolicyPeer {
            ip_block: Some(api::IPBlock {
                cidr: format!("100.{a}.0.0/16"),
                except: Some(vec![format!("100.{a}.{b}.0/24"), format!("100.{a}.{}.0/25", (b + 1) % 256)]),
            }),
            ..Default::default()
        };
        from(vec![peer], vec![tcp(443 + i32::try_from(n % 3).unwrap_or_default())])
    });
    objects.policies.push(ingress("ns", "blocks", Labels::new(), rules.collect()));
    objects
}
