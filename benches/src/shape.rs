//! The shapes, by their numbers.

use k8s_openapi::api::networking::v1 as api;
use npc_compiler::engine::Event;
use npc_compiler::object::{Labels, Namespace};

use crate::{app, from, ingress, labels, own_pods, pod, selector, tcp};

fn namespace(name: &str) -> Event {
    Event::Namespace(Namespace::new(name, Labels::new()))
}

fn policy(namespace: &str, name: &str, subject: Labels, rules: Vec<api::NetworkPolicyIngressRule>) -> Event {
    Event::Policy(Box::new(ingress(namespace, name, subject, rules)))
}

fn a_pod(number: usize, namespace: &str, labels: Labels, node: &str) -> Event {
    Event::Pod(Box::new(pod(number, namespace, labels, node)))
}

/// Shape 1: namespaces of 4 pods (two of app-1, two of app-2) and 3 policies:
/// deny by default, app-1 from app-1, app-2 from app-2. With 25,000 namespaces
/// it is the large cluster of Antrea's controller tests. The pods are spread
/// over as many nodes.
pub fn many_namespaces(namespaces: usize, nodes: usize) -> impl Iterator<Item = Event> {
    (0..namespaces).flat_map(move |n| {
        let name = format!("ns-{n}");
        let mut events = vec![namespace(&name), policy(&name, "default-deny", Labels::new(), Vec::new())];
        events.extend(["app-1", "app-2"].map(|app_name| {
            let rule = from(vec![own_pods(app(app_name))], Vec::new());
            policy(&name, app_name, app(app_name), vec![rule])
        }));
        events.extend((0..4).map(|p| {
            let number = n * 4 + p;
            a_pod(number + 1, &name, app(format!("app-{}", p / 2 + 1)), &format!("node-{}", number % nodes))
        }));
        events
    })
}

/// Shape 2: one namespace in which every policy selects every pod, as subject
/// and as peer.
pub fn all_to_all(pods: usize, policies: usize) -> impl Iterator<Item = Event> {
    let policies = (0..policies).map(|n| {
        let rule = from(vec![own_pods(Labels::new())], Vec::new());
        policy("ns", &format!("policy-{n}"), Labels::new(), vec![rule])
    });
    let pods = (0..pods).map(|n| a_pod(n + 1, "ns", app("app"), "node"));
    std::iter::once(namespace("ns")).chain(policies).chain(pods)
}

/// Shape 3: namespaces of many pods in label groups, each namespace with a
/// policy per group, which lets the group's pods in, and a default deny.
pub fn label_groups(namespaces: usize, pods: usize, groups: usize) -> impl Iterator<Item = Event> {
    (0..namespaces).flat_map(move |n| {
        let name = format!("ns-{n}");
        let mut events = vec![namespace(&name), policy(&name, "default-deny", Labels::new(), Vec::new())];
        events.extend((0..groups).map(|g| {
            let group = format!("app-{g}");
            let rule = from(vec![own_pods(app(&group))], vec![tcp(80)]);
            policy(&name, &group, app(&group), vec![rule])
        }));
        events.extend((0..pods).map(|p| {
            let node = format!("node-{}", p % 100);
            a_pod(n * pods + p + 1, &name, app(format!("app-{}", p % groups)), &node)
        }));
        events
    })
}

/// How many pods of shape 4 are on the node `local`.
pub const LOCAL: usize = 200;

/// Shape 4: one node's view of a large cluster: remote pods with 15 labels
/// each, [`LOCAL`] local ones, and policies of 5 rules each.
pub fn one_node(remote: usize, policies: usize) -> impl Iterator<Item = Event> {
    const NAMESPACES: usize = 100;
    let namespaces = (0..NAMESPACES).map(|n| namespace(&format!("ns-{n}")));
    let policies = (0..policies).map(|n| {
        let rules = (0..5).map(|i| {
            let peer = own_pods(app(format!("app-{}", (n + i) % 50)));
            from(vec![peer], vec![tcp(8_000 + i32::try_from((n + i) % 20).unwrap_or_default())])
        });
        let subject = app(format!("app-{}", n / NAMESPACES % 50));
        policy(&format!("ns-{}", n % NAMESPACES), &format!("policy-{n}"), subject, rules.collect())
    });
    let pods = (0..remote + LOCAL).map(|n| {
        let mut labels: Labels = (0..14).map(|i| (format!("label-{i}"), format!("value-{}", n % (i + 2)))).collect();
        labels.insert("app".to_owned(), format!("app-{}", n % 50));
        let node = if n < LOCAL { "local".to_owned() } else { format!("node-{}", n % 1_000) };
        a_pod(n + 1, &format!("ns-{}", n % NAMESPACES), labels, &node)
    });
    namespaces.chain(policies).chain(pods)
}

/// Shape 5: one pod and a policy of many ipBlocks with overlapping exceptions.
pub fn many_blocks(blocks: usize) -> impl Iterator<Item = Event> {
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
    let rules = rules.collect();
    [namespace("ns"), policy("ns", "blocks", Labels::new(), rules), a_pod(1, "ns", app("app"), "node")].into_iter()
}

/// Remote pods of so many kinds: pods of one kind have the same labels.
pub fn few_kinds(remote: usize, kinds: usize) -> impl Iterator<Item = Event> {
    (0..remote).map(move |n| {
        let kind = n % kinds;
        a_pod(n + 1, &format!("ns-{}", kind % 100), app(format!("app-{kind}")), &format!("node-{}", n % 1_000))
    })
}

/// Namespaces of many remote pods, each of the team that its namespace says,
/// and 100 local pods with policies that let teams in and out.
pub fn teams(namespaces: usize, pods: usize) -> impl Iterator<Item = Event> {
    let team = |n: usize| labels([("team", format!("team-{}", n % 2))]);
    let known = (0..namespaces).map(move |n| Event::Namespace(Namespace::new(format!("ns-{n}"), team(n))));
    let policies = (0..20).map(move |n| {
        let peer = api::NetworkPolicyPeer { namespace_selector: Some(selector(team(n))), ..Default::default() };
        policy("here", &format!("policy-{n}"), app(format!("app-{}", n % 10)), vec![from(vec![peer], vec![tcp(80)])])
    });
    let local = (0..100).map(|n| a_pod(n + 1, "here", app(format!("app-{}", n % 10)), "local"));
    let remote = (0..namespaces * pods).map(move |n| {
        a_pod(n + 101, &format!("ns-{}", n / pods), app(format!("app-{}", n % 10)), &format!("node-{}", n % 1_000))
    });
    known.chain(policies).chain(local).chain(remote)
}

/// How many namespaces shape 6 has.
pub const BUSY_NAMESPACES: usize = 25;

/// How many apps each of them has.
pub const BUSY_APPS: usize = 5;

/// Shape 6: a node of 250 pods, 1,000 policies, and remote pods. Each namespace
/// has a few apps of two local pods each; a policy lets one app into another.
pub fn busy_node(remote: usize) -> impl Iterator<Item = Event> {
    let name = |n: usize| format!("ns-{}", n % BUSY_NAMESPACES);
    let namespaces = (0..BUSY_NAMESPACES).map(move |n| namespace(&name(n)));
    let pods = (0..250 + remote).map(move |n| {
        let node = if n < 250 { "local".to_owned() } else { format!("node-{}", n % 100) };
        a_pod(n + 1, &name(n), app(format!("app-{}", n / BUSY_NAMESPACES % BUSY_APPS)), &node)
    });
    namespaces.chain((0..1_000).map(|n| busy_policy(n, 0))).chain(pods)
}

/// A policy of shape 6, with some port of its own.
#[must_use]
pub fn busy_policy(number: usize, port: usize) -> Event {
    let of = number / BUSY_NAMESPACES;
    let peer = own_pods(app(format!("app-{}", (of + of / BUSY_APPS) % BUSY_APPS)));
    let port = if port == 0 { 8_000 + of % 20 } else { port };
    let rule = from(vec![peer], vec![tcp(i32::try_from(port).unwrap_or_default())]);
    let namespace = format!("ns-{}", number % BUSY_NAMESPACES);
    // The last app of a namespace is one more than its pods are of.
    policy(&namespace, &format!("policy-{number}"), app(format!("app-{}", of % (BUSY_APPS + 1))), vec![rule])
}
