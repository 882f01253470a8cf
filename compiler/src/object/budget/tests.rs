use std::collections::BTreeSet;

use proptest::prelude::*;
use serde_json::{Value, json};

use super::*;
use crate::object::Labels;
use crate::policy::finding::Effect;
use crate::policy::{Direction, Policy};

fn policy(name: &str, spec: &Value) -> NetworkPolicy {
    let object = json!({"metadata": {"namespace": "shop", "name": name}, "spec": spec});
    let object: api::NetworkPolicy = serde_json::from_value(object).expect("a policy");
    object.into()
}

fn ordinary(number: usize) -> NetworkPolicy {
    policy(
        &format!("app-{number}"),
        &json!({
            "podSelector": {"matchLabels": {"app": format!("app-{number}")}}, "policyTypes": ["Ingress"],
            "ingress": [{
                "from": [{"podSelector": {"matchLabels": {"app": format!("app-{}", number + 1)}}}, {"namespaceSelector": {}}],
                "ports": [{"port": "http", "protocol": "TCP"}, {"port": 8443}],
            }],
        }),
    )
}

fn large(name: &str) -> NetworkPolicy {
    let values: Vec<String> = (0..40_000).map(|number| format!("value-{number:012}")).collect();
    policy(name, &json!({"podSelector": {"matchExpressions": [{"key": "app", "operator": "In", "values": values}]}}))
}

#[test]
fn ten_thousand_ordinary_policies_of_one_namespace_take_less_than_half() {
    let bytes: usize = (0..10_000).map(|number| ordinary(number).retained_bytes()).sum();
    assert!(bytes < NAMESPACE_POLICY_BYTES * 2 / 3, "{bytes}");
}

#[test]
fn what_is_over_isolates_what_it_selects_and_is_a_finding() {
    let mut objects = Objects {
        policies: (0..80).map(|number| large(&format!("large-{number:03}"))).collect(),
        ..Objects::default()
    };
    objects.policies.push(ordinary(1));
    objects.bound_policies();
    let over = objects.policies.iter().filter(|policy| policy.restriction.is_some()).count();
    assert!(over > 30, "{over}");
    let kept: usize = objects.policies.iter().map(NetworkPolicy::retained_bytes).sum();
    assert!(kept < NAMESPACE_POLICY_BYTES + over * SELECTOR_BYTES, "{kept}");
    // Equal ones are chosen by their names.
    assert!(objects.policies[0].restriction.is_none() && objects.policies[79].restriction.is_some());
    assert!(objects.policies[80].restriction.is_none(), "the ordinary one is whole");
    let (read, findings) = Policy::read(&objects.policies[79]);
    assert_eq!(findings.len(), 1);
    assert_eq!((findings[0].path.as_str(), findings[0].effect), ("spec", Effect::RulesLeftOut));
    assert!(read.isolates(Direction::Ingress) && !read.isolates(Direction::Egress));
    assert!(read.rules(Direction::Ingress).is_empty());
    // A pod without the key was never selected, and is not now.
    let labels = |key: &str| [(key.to_owned(), "value-000000000007".to_owned())].into();
    assert!(read.subject.matches(&labels("app")) && !read.subject.matches(&labels("other")));
}

#[test]
fn a_restricted_policy_isolates_in_the_directions_of_the_whole_one() {
    for (spec, isolates) in [
        (json!({"podSelector": {}}), [true, false]),
        (json!({"podSelector": {}, "egress": [{}]}), [true, true]),
        (json!({"podSelector": {}, "egress": []}), [true, false]),
        (json!({"podSelector": {}, "policyTypes": ["Egress"]}), [false, true]),
        (json!({"podSelector": {}, "policyTypes": ["Egress", "Ingress"]}), [true, true]),
        (json!({"podSelector": {}, "policyTypes": ["egress"]}), [true, true]),
    ] {
        let whole = policy("p", &spec);
        let restricted = whole.restricted(String::new());
        for read in [Policy::read(&whole).0, Policy::read(&restricted).0] {
            assert_eq!(Direction::ALL.map(|direction| read.isolates(direction)), isolates, "{spec}");
        }
    }
}

#[test]
fn names_of_labels_and_ports_are_found_wherever_they_stand() {
    let selector = |key: &str| json!({"matchExpressions": [{"key": key, "operator": "Exists"}]});
    let peer = |a: &str, b: &str| json!([{"podSelector": selector(a), "namespaceSelector": selector(b)}]);
    let policy = policy(
        "p",
        &json!({
            "podSelector": {
                "matchLabels": {"subject": "web"},
                "matchExpressions": [{"key": "subject", "operator": "NotIn", "values": ["e", "f"]}],
            },
            "ingress": [{"from": peer("a", "b"), "ports": [{"port": "in"}]}],
            "egress": [{"to": peer("c", "d"), "ports": [{"port": "out"}, {"port": 1}]}],
        }),
    );
    let keys: BTreeSet<&str> = policy.label_names().map(|(key, _)| key).collect();
    assert_eq!(keys, ["a", "b", "c", "d", "subject"].into());
    let values: Vec<&str> = policy.label_names().flat_map(|(_, values)| values).collect();
    assert_eq!(values, ["web", "e", "f"]);
    assert_eq!(policy.port_names().collect::<Vec<_>>(), ["in", "out"]);
}

/// A requirement with these values; of an operator that takes none, without them.
fn requirement(key: usize, operator: &str, values: usize) -> Value {
    let key = format!("key-{key:040}");
    match operator {
        "In" | "NotIn" => {
            let values: Vec<String> = (0..values).map(|value| format!("value-{value:030}")).collect();
            json!({"key": key, "operator": operator, "values": values})
        }
        _ => json!({"key": key, "operator": operator}),
    }
}

proptest! {
    /// This holds for a selector of any length, and for each part that can make it long.
    #[test]
    fn a_restricted_policy_selects_all_that_the_whole_one_does_and_is_small(
        labels in prop::collection::btree_set(0_usize..100, 0..80),
        expressions in prop::collection::vec(
            (100_usize..160, prop::sample::select(vec!["In", "NotIn", "Exists", "DoesNotExist"]), 1_usize..300), 0..20),
        absent in prop::collection::btree_set(0_usize..160, 0..2),
    ) {
        let label = |key: usize| (format!("key-{key:040}"), format!("value-{:030}", 0));
        let match_labels: BTreeMap<String, String> = labels.iter().copied().map(label).collect();
        let match_expressions: Vec<Value> =
            expressions.iter().map(|(key, operator, values)| requirement(*key, operator, *values)).collect();
        let selector = json!({"matchLabels": match_labels, "matchExpressions": match_expressions});
        let whole = policy("p", &json!({"podSelector": selector, "policyTypes": ["Ingress"]}));
        let restricted = whole.restricted(String::new());
        let wanted = expressions.iter().filter(|(_, operator, _)| ["In", "Exists"].contains(operator));
        let wanted = labels.iter().copied().chain(wanted.map(|(key, ..)| *key));
        let pod: Labels = wanted.filter(|key| !absent.contains(key)).map(label).collect();
        let [selects, still] = [&whole, &restricted].map(|policy| Policy::read(policy).0.subject.matches(&pod));
        prop_assert!(still || !selects);
        let kept = restricted.object.spec.and_then(|spec| spec.pod_selector).map(|selector| of_selector(&selector));
        prop_assert!(kept.is_some_and(|bytes| bytes <= 2 * SELECTOR_BYTES));
    }

    /// After any sequence, those are over that a fresh choice by size and name puts over;
    /// and the answers say each move.
    #[test]
    fn the_choice_does_not_depend_on_the_order(steps in prop::collection::vec((0_usize..8, 0_usize..60), 1..60)) {
        let limit = 100;
        let mut budget = PolicyBudget::new(limit);
        let mut sizes = BTreeMap::new();
        let mut over = BTreeSet::new();
        for (name, bytes) in steps {
            let name = format!("p{name}");
            let moved = if bytes == 0 {
                sizes.remove(&name);
                over.remove(&name);
                budget.remove(&name)
            } else {
                sizes.insert(name.clone(), bytes);
                budget.put(&name, bytes)
            };
            for name in moved.within {
                prop_assert!(over.remove(&name));
            }
            for name in moved.over {
                prop_assert!(over.insert(name));
            }
            if budget.is_over(&name) { over.insert(name) } else { over.remove(&name) };
            let mut sorted: Vec<(usize, &String)> = sizes.iter().map(|(name, bytes)| (*bytes, name)).collect();
            sorted.sort_unstable();
            let mut sum = 0;
            let within = sorted.iter().take_while(|(bytes, _)| { sum += bytes; sum <= limit }).count();
            let expected: BTreeSet<String> = sorted[within..].iter().map(|(_, name)| (*name).clone()).collect();
            prop_assert_eq!(&over, &expected);
        }
    }
}
