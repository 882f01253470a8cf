//! Segments in the middle of a TCP connection that no table knows: how one end
//! judges them depends on both of its directions, which change by two writes.

use std::cell::Cell;
use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr};

use k8s_openapi::api::core::v1::PodSpec;
use k8s_openapi::api::networking::v1 as networking;
use npc_compiler::object::{Family, Labels, Namespace, Objects, Pod, Protocol};
use npc_compiler::plan::{Plan, Step};
use npc_compiler::ruleset::layout::RulesetOptions;
use npc_tests::model::Packet;
use npc_tests::random;
use proptest::prelude::*;
use serde_json::{Value, json};

use super::{NODE, cases, ruleset, ruleset_of, watch};

/// This many kinds of isolation a direction has; the next number is none.
const KINDS: usize = 4;

/// What a pod is: how it is isolated for ingress and for egress, and to which team of peers it
/// belongs.
type Role = (usize, usize, bool);

/// What a kind of isolation admits: a named port or all of them, of one team or of
/// everyone.
fn admits(kind: usize, peers: &str) -> Value {
    let mut rule = json!({});
    if kind.is_multiple_of(2) {
        rule["ports"] = json!([{"port": 80}]);
    }
    if kind < 2 {
        rule[peers] = json!([{"podSelector": {"matchLabels": {"team": "red"}}}]);
    }
    json!([rule])
}

/// Pods of one node in these roles, beside one that stays in each.
fn cluster(roles: &[Role], edited: bool) -> Objects {
    let mut objects = Objects::default();
    objects.namespaces.push(Namespace::new("a", Labels::new()));
    let stay = (0..KINDS).map(|kind| (kind, kind, kind == 0));
    for (i, (ingress, egress, is_red)) in stay.chain(roles.iter().copied()).enumerate() {
        let team = if is_red { "red" } else { "blue" };
        let labels = [("in", ingress.to_string()), ("out", egress.to_string()), ("team", team.to_owned())];
        let labels = Labels::from(labels.map(|(key, value)| (key.to_owned(), value)));
        let mut pod = Pod::from_template("a".to_owned(), format!("p{i}"), labels, PodSpec::default());
        pod.node = Some(NODE.to_owned());
        pod.ipv4 = Some(Ipv4Addr::new(10, 0, 0, u8::try_from(i + 1).unwrap()));
        objects.pods.push(pod);
    }
    for kind in 0..KINDS {
        for (way, label, section, peers) in [("Ingress", "in", "ingress", "from"), ("Egress", "out", "egress", "to")] {
            let mut section_rules = admits(kind, peers);
            if edited && kind == 1 {
                section_rules[0]["ports"] = json!([{"port": 81}]);
            }
            let mut spec = json!({"podSelector": {"matchLabels": {label: kind.to_string()}}, "policyTypes": [way]});
            spec[section] = section_rules;
            let policy = json!({"metadata": {"namespace": "a", "name": format!("{label}-{kind}")}, "spec": spec});
            let policy: networking::NetworkPolicy = serde_json::from_value(policy).unwrap();
            objects.policies.push(policy.into());
        }
    }
    objects
}

fn roles() -> impl Strategy<Value = Vec<Role>> {
    proptest::collection::vec((0..=KINDS, 0..=KINDS, any::<bool>()), 3)
}

/// Segments between those that change and one that stays, both ways.
fn segments(family: Family) -> Vec<Packet> {
    let pod = |n: usize| IpAddr::from(Ipv4Addr::new(10, 0, 0, u8::try_from(n + 1).unwrap()));
    let others: BTreeSet<IpAddr> = [pod(0), pod(1), pod(KINDS), [192, 0, 2, 1].into()].into();
    let pairs =
        (KINDS..KINDS + 3).flat_map(|n| others.iter().flat_map(move |other| [(pod(n), *other), (*other, pod(n))]));
    pairs
        .filter(|(source, destination)| family == Family::V4 && source != destination)
        .map(|(source, destination)| Packet { source, destination, port: Some((Protocol::Tcp, 80)) })
        .collect()
}

#[test]
fn isolation_changes_one_direction_after_the_other_and_nothing_slips_between() {
    let mut runner = random::runner(21, cases(300));
    let (by_sets, by_rules) = (Cell::new(0), Cell::new(0));
    runner
        .run(&(roles(), roles()), |(old, new)| {
            let (actual, desired) = (ruleset(&cluster(&old, false)), ruleset(&cluster(&new, false)));
            let has_rules = Plan::between(&actual, &desired).steps.iter().any(|step| matches!(step, Step::Chains(..)));
            let count = if has_rules { &by_rules } else { &by_sets };
            count.set(count.get() + 1);
            watch(&actual, &desired, segments)
        })
        .unwrap();
    assert!(by_sets.get() > 0 && by_rules.get() > 0, "{by_sets:?} by sets, {by_rules:?} by rules");
}

#[test]
fn nothing_slips_through_while_rules_are_held_up() {
    let mut runner = random::runner(22, cases(300));
    runner
        .run(&(roles(), roles()), |(old, new)| {
            let (actual, desired) = (ruleset(&cluster(&old, false)), ruleset(&cluster(&new, true)));
            let ahead = super::ahead::watch_ahead(&actual, &desired, segments)?;
            watch(&ahead, &desired, segments)
        })
        .unwrap();
}

/// Where established flows may go on, nothing judges such segments apart.
#[test]
fn the_choice_to_keep_flows_changes_at_once() {
    let mut runner = random::runner(23, cases(30));
    runner
        .run(&(roles(), roles(), any::<bool>()), |(old, new, keeps)| {
            let options = |keep_established| RulesetOptions { keep_established, ..RulesetOptions::default() };
            let actual = ruleset_of(&cluster(&old, false), &options(keeps));
            let desired = ruleset_of(&cluster(&new, false), &options(!keeps));
            watch(&actual, &desired, segments)
        })
        .unwrap();
}
