//! Random policies, with every field of the API absent, empty, right and wrong.

use k8s_openapi::api::networking::v1 as networking;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{LabelSelector, LabelSelectorRequirement, ObjectMeta};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use networking::{
    NetworkPolicyEgressRule, NetworkPolicyIngressRule, NetworkPolicyPeer, NetworkPolicyPort, NetworkPolicySpec,
};
use npc_compiler::object::{NAMESPACE_NAME_LABEL, NetworkPolicy};
use proptest::collection::vec;
use proptest::option;
use proptest::prelude::{Just, Strategy, prop_oneof};
use proptest::sample::{Index, select, subsequence};

use super::block::block;
use super::{LABEL_KEYS, LABEL_VALUES, NAMESPACES, PORT_NAMES, namespace};

/// A policy that has no name yet.
pub(super) fn policy() -> impl Strategy<Value = NetworkPolicy> {
    let unknown = prop_oneof![
        12 => Just(Vec::new()),
        1 => vec(proptest::prelude::any::<Index>(), 1..=2),
    ];
    (namespace(), option::weighted(0.97, spec()), unknown).prop_map(|(namespace, spec, unknown)| {
        let mut policy = NetworkPolicy::from(networking::NetworkPolicy {
            metadata: ObjectMeta { namespace: Some(namespace.to_owned()), ..ObjectMeta::default() },
            spec,
        });
        let places = places(&policy);
        policy.unknown_fields = unknown.into_iter().map(|index| index.get(&places).clone()).collect();
        policy
    })
}

fn spec() -> impl Strategy<Value = NetworkPolicySpec> {
    let types = |names: &[&str]| Just(Some(names.iter().map(|&name| name.to_owned()).collect::<Vec<_>>()));
    let types = prop_oneof![
        4 => Just(None),
        1 => types(&[]),
        3 => types(&["Ingress"]),
        3 => types(&["Egress"]),
        4 => types(&["Ingress", "Egress"]),
        1 => select(vec!["ingress", "Both", ""]).prop_map(|name| Some(vec![name.to_owned()])),
        1 => types(&["Egress", "egress"]),
    ];
    let pods = option::weighted(0.95, selector(&LABEL_KEYS, &LABEL_VALUES));
    (pods, types, rules(), rules()).prop_map(|(pod_selector, policy_types, ingress, egress)| NetworkPolicySpec {
        pod_selector,
        policy_types,
        ingress: ingress
            .map(|rules| rules.into_iter().map(|(from, ports)| NetworkPolicyIngressRule { from, ports }).collect()),
        egress: egress
            .map(|rules| rules.into_iter().map(|(to, ports)| NetworkPolicyEgressRule { to, ports }).collect()),
    })
}

fn rules() -> impl Strategy<Value = Option<Vec<Rule>>> {
    prop_oneof![
        1 => Just(None),
        1 => Just(Some(Vec::new())),
        6 => vec(rule(), 1..=3).prop_map(Some),
    ]
}

type Rule = (Option<Vec<NetworkPolicyPeer>>, Option<Vec<NetworkPolicyPort>>);

fn rule() -> impl Strategy<Value = Rule> {
    let ports = prop_oneof![
        3 => Just(Vec::new()),
        20 => vec(port(), 1..=3),
        // More than one multiport match holds.
        1 => vec(many(), 14..=20),
    ];
    let peers = prop_oneof![1 => Just(Vec::new()), 6 => vec(peer(), 1..=3)];
    (option::weighted(0.8, peers), option::weighted(0.85, ports))
}

fn peer() -> impl Strategy<Value = NetworkPolicyPeer> {
    let pods = || selector(&LABEL_KEYS, &LABEL_VALUES);
    let namespaces = || selector(&NAMESPACE_KEYS, &NAMESPACE_VALUES);
    let none = NetworkPolicyPeer::default;
    prop_oneof![
        4 => pods().prop_map(move |pods| NetworkPolicyPeer { pod_selector: Some(pods), ..none() }),
        3 => namespaces().prop_map(move |names| NetworkPolicyPeer { namespace_selector: Some(names), ..none() }),
        3 => (namespaces(), pods()).prop_map(move |(names, pods)| NetworkPolicyPeer {
            namespace_selector: Some(names),
            pod_selector: Some(pods),
            ..none()
        }),
        6 => block().prop_map(move |block| NetworkPolicyPeer { ip_block: Some(block), ..none() }),
        1 => (block(), option::of(pods()), option::of(namespaces())).prop_map(|(block, pods, namespaces)| {
            NetworkPolicyPeer { ip_block: Some(block), pod_selector: pods, namespace_selector: namespaces }
        }),
        1 => Just(none()),
    ]
}

const NAMESPACE_KEYS: [&str; 3] = [LABEL_KEYS[0], LABEL_KEYS[1], NAMESPACE_NAME_LABEL];
const NAMESPACE_VALUES: [&str; 4] = [NAMESPACES[0], NAMESPACES[1], NAMESPACES[2], ""];

fn selector(keys: &'static [&str], values: &'static [&str]) -> impl Strategy<Value = LabelSelector> {
    let equality = (select(keys), select(values)).prop_map(|(key, value)| (key.to_owned(), value.to_owned()));
    let equalities = prop_oneof![
        3 => Just(None),
        2 => vec(equality, 0..=1).prop_map(|pairs| Some(pairs.into_iter().collect())),
    ];
    let requirements = prop_oneof![
        3 => Just(None),
        2 => vec(requirement(keys, values), 0..=2).prop_map(Some),
    ];
    (equalities, requirements)
        .prop_map(|(match_labels, match_expressions)| LabelSelector { match_expressions, match_labels })
}

fn requirement(keys: &'static [&str], values: &'static [&str]) -> impl Strategy<Value = LabelSelectorRequirement> {
    let some_values =
        subsequence(values, 1..=2).prop_map(|values| Some(values.into_iter().map(str::to_owned).collect::<Vec<_>>()));
    let no_values = prop_oneof![Just(None), Just(Some(Vec::new()))];
    let operation = prop_oneof![
        10 => (select(vec!["In", "NotIn"]), some_values.clone()),
        8 => (select(vec!["Exists", "DoesNotExist"]), no_values.clone()),
        // Wrong ones.
        1 => (select(vec!["Exists", "DoesNotExist", "in", "Equals", ""]), some_values),
        1 => (select(vec!["In", "NotIn", "exists"]), no_values),
    ];
    (select(keys), operation).prop_map(|(key, (operator, values))| LabelSelectorRequirement {
        key: key.to_owned(),
        operator: operator.to_owned(),
        values,
    })
}

fn port() -> impl Strategy<Value = NetworkPolicyPort> {
    let protocol = prop_oneof![
        4 => Just(None),
        8 => select(vec!["TCP", "UDP", "SCTP"]).prop_map(Some),
        1 => select(vec!["tcp", "ICMP", ""]).prop_map(Some),
    ];
    let number = prop_oneof![
        6 => select(vec![1, 2, 52, 53, 79, 80, 81, 82, 443, 8080, 65534, 65535]),
        1 => select(vec![4788, 4789, 6081, 8472]),
        2 => 1..=65535,
        1 => select(vec![0, -1, 65536, i32::MIN, i32::MAX]),
    ];
    let end = prop_oneof![
        4 => Just(None),
        3 => (0..=3).prop_map(Some),
        2 => (0..=65535).prop_map(Some),
        1 => (-3..0).prop_map(Some),
    ];
    let name = prop_oneof![8 => select(&PORT_NAMES[..]), 1 => Just("absent")];
    let port = prop_oneof![
        1 => Just((None, None)),
        // All of them, written out, and nearly all.
        1 => (1..=2, 65534..=65535).prop_map(|(first, last)| (Some(IntOrString::Int(first)), Some(last))),
        6 => (number, end).prop_map(|(first, more): (i32, Option<i32>)| {
            (Some(IntOrString::Int(first)), more.map(|more| first.saturating_add(more)))
        }),
        4 => name.prop_map(|name| (Some(IntOrString::String(name.to_owned())), None)),
        // endPort with a name, or with nothing.
        1 => (option::of(select(&PORT_NAMES[..])), 1..=65535).prop_map(|(name, end)| {
            (name.map(|name| IntOrString::String(name.to_owned())), Some(end))
        }),
    ];
    (protocol, port).prop_map(|(protocol, (port, end_port))| NetworkPolicyPort {
        end_port,
        port,
        protocol: protocol.map(str::to_owned),
    })
}

/// One of many ports: seldom the same or beside another, often a range, which
/// takes two places in a match.
fn many() -> impl Strategy<Value = NetworkPolicyPort> {
    let protocol = prop_oneof![4 => Just(None), 1 => Just(Some("UDP".to_owned()))];
    (protocol, 1..=1000, option::of(0..=9)).prop_map(|(protocol, place, more)| NetworkPolicyPort {
        end_port: more.map(|more| 60 * place + more),
        port: Some(IntOrString::Int(60 * place)),
        protocol,
    })
}

/// Paths at which an unknown field of this policy could stand.
fn places(policy: &NetworkPolicy) -> Vec<String> {
    let mut places = vec!["spec.podSelectors".to_owned(), "status".to_owned()];
    let Some(spec) = &policy.object.spec else { return places };
    if spec.pod_selector.is_some() {
        places.push("spec.podSelector.matchLabel".to_owned());
        places.push("spec.podSelector.matchExpressions[0].op".to_owned());
    }
    let ingress = spec.ingress.iter().flatten().map(|rule| (rule.from.as_deref(), rule.ports.as_deref()));
    let egress = spec.egress.iter().flatten().map(|rule| (rule.to.as_deref(), rule.ports.as_deref()));
    let rules = (ingress.enumerate().map(|(index, rule)| (format!("spec.ingress[{index}]"), "from", rule)))
        .chain(egress.enumerate().map(|(index, rule)| (format!("spec.egress[{index}]"), "to", rule)));
    for (path, peers_field, (peers, ports)) in rules {
        places.push(format!("{path}.fromm"));
        places.push(format!("{path}.port"));
        // One key with a dot, and one with brackets.
        places.push(format!("{path}.{peers_field}.podSelector"));
        places.push(format!("{path}.{peers_field}[9]"));
        for index in 0..peers.map_or(0, <[_]>::len) {
            places.push(format!("{path}.{peers_field}[{index}].ipBlok"));
            places.push(format!("{path}.{peers_field}[{index}].ipBlock.excepts"));
        }
        for index in 0..ports.map_or(0, <[_]>::len) {
            places.push(format!("{path}.ports[{index}].number"));
        }
    }
    places
}
