//! How the members count that a policy would add.

use npc_compiler::engine::Event;
use npc_compiler::object::{ContainerPort, Protocol};
use serde_json::{Value, json};

use super::{
    NODE, admitting, denying, engine_of, is_of_peers, names, options, over, over_in, passes, pod, policy, world,
};

#[test]
fn named_ports_of_both_families_make_room_for_others() {
    let mut objects = world(50);
    for (number, pod) in (0_u16..).zip(&mut objects.pods) {
        pod.ports = vec![ContainerPort { name: "http".into(), protocol: Protocol::Tcp, port: 8080 }];
        pod.ipv6 = Some(format!("fd00::{number:x}").parse().unwrap());
    }
    let named = json!({"podSelector": {}, "policyTypes": ["Egress"], "egress": [{"ports": [{"port": "http"}]}]});
    objects.policies.push(policy("tenant", "a-named", &named));
    let blocks: Vec<Value> = (0..40).map(|n| json!({"ipBlock": {"cidr": format!("192.0.2.{}/32", 2 * n)}})).collect();
    objects.policies.push(policy("tenant", "b-blocks", &json!({"podSelector": {}, "ingress": [{"from": blocks}]})));
    // The named ports count 53 in each family, and without them the blocks fit.
    let options = options(40);
    assert_eq!(over(engine_of(&objects, &options).findings()), ["a-named"]);
    assert_eq!(over_in(&objects, &options), ["a-named"]);
}

#[test]
fn named_ports_make_a_policy_one_of_the_large_ones() {
    let mut objects = world(50);
    for pod in &mut objects.pods {
        let port = |(name, port): (&str, u16)| ContainerPort { name: name.into(), protocol: Protocol::Tcp, port };
        pod.ports = [("http", 80), ("a", 81), ("b", 82), ("c", 83)].map(port).into();
    }
    let to = json!([{"namespaceSelector": {}}]);
    let named =
        json!({"podSelector": {}, "policyTypes": ["Egress"], "egress": [{"to": to, "ports": [{"port": "http"}]}]});
    objects.policies.push(policy("tenant", "a-named", &named));
    let blocks: Vec<Value> = (0..100).map(|n| json!({"ipBlock": {"cidr": format!("192.0.2.{}/32", 2 * n)}})).collect();
    objects.policies.push(policy("tenant", "b-blocks", &json!({"podSelector": {}, "ingress": [{"from": blocks}]})));
    // The ports of 53 pods count 212, which is more than the blocks; either would make room enough.
    let options = options(250);
    assert_eq!(over(engine_of(&objects, &options).findings()), ["a-named"]);
    assert_eq!(over_in(&objects, &options), ["a-named"]);
}

#[test]
fn peers_count_in_each_set_that_groups_make_of_them() {
    let mut objects = world(100);
    objects.pods.push(pod("tenant", 30, &[("app", "other")], NODE));
    let everyone = json!([{"namespaceSelector": {}}]);
    objects.policies.push(policy("tenant", "a", &json!({"podSelector": {}, "ingress": [{"from": everyone}]})));
    let block = json!([{"ipBlock": {"cidr": "192.0.2.1/32"}}]);
    let other = json!({"podSelector": {"matchLabels": {"app": "other"}}, "ingress": [{"from": block}]});
    objects.policies.push(policy("tenant", "b", &other));
    // The other pod's group asks one set of the pods and the block. The policies name 105 members, and
    // their sets have 209.
    for (most, names) in [(208, vec!["a"]), (209, vec![])] {
        assert_eq!(over(engine_of(&objects, &options(most)).findings()), names, "at {most}");
        assert_eq!(over_in(&objects, &options(most)), names, "at {most}");
    }
}

#[test]
fn what_stays_over_the_bound_counts_nothing_in_a_group_that_is_new() {
    let mut objects = world(100);
    objects.policies.extend((0..3).map(|number| admitting(&format!("np-{number:02}"), number)));
    let mut engine = engine_of(&objects, &options(150));
    assert_eq!(over(engine.findings()), names(1..3));
    // The choice is made anew because one of them goes, and meanwhile there is another group.
    engine.apply(Event::PolicyGone("tenant".to_owned(), "np-02".to_owned()));
    engine.apply(Event::Policy(Box::new(denying("new"))));
    engine.apply(Event::Pod(Box::new(pod("tenant", 30, &[("app", "new")], NODE))));
    engine.commit();
    assert_eq!(over(engine.findings()), names(1..2));
    assert!(passes(engine.state(), 30, 1_000) && !passes(engine.state(), 30, 1_001));
}

#[test]
fn what_policies_share_counts_once() {
    let mut objects = world(300);
    let spec = json!({"podSelector": {}, "ingress": [{"from": [{"podSelector": {}}]}]});
    objects.policies.extend((0..500).map(|number| policy("tenant", &format!("np-{number}"), &spec)));
    assert_eq!(over(engine_of(&objects, &options(301)).findings()), [""; 0]);
    assert_eq!(over_in(&objects, &options(301)), [""; 0]);
    // One less, and none of them admits anything.
    assert_eq!(over(engine_of(&objects, &options(300)).findings()).len(), 500);
    assert_eq!(over_in(&objects, &options(300)).len(), 500);
}

#[test]
fn named_ports_blocks_and_both_families_count() {
    let one = |spec: &Value| {
        let mut objects = world(50);
        objects.policies.clear();
        for (number, pod) in (0_u16..).zip(&mut objects.pods) {
            pod.ports = vec![ContainerPort { name: "http".into(), protocol: Protocol::Tcp, port: 8080 }];
            pod.ipv6 = Some(format!("fd00::{number:x}").parse().unwrap());
        }
        objects.policies.push(policy("tenant", "one", spec));
        let fits = |most| {
            let of_engine = over(engine_of(&objects, &options(most)).findings()).is_empty();
            assert_eq!(of_engine, over_in(&objects, &options(most)).is_empty(), "at {most}");
            of_engine
        };
        (1..1_000).find(|most| fits(*most))
    };
    let to = json!([{"namespaceSelector": {}}]);
    let named = |to: &Value| json!({"podSelector": {}, "policyTypes": ["Egress"], "egress": [{"to": to, "ports": [{"port": "http"}]}]});
    assert_eq!(one(&named(&to)), Some(2 * 53), "a port of each pod in each family");
    assert_eq!(one(&named(&json!([]))), Some(2 * 53), "of everyone");
    assert_eq!(one(&named(&json!([{"ipBlock": {"cidr": "10.0.0.0/8"}}]))), Some(53), "in a block");
    let blocks: Vec<Value> = (0..40).map(|n| json!({"ipBlock": {"cidr": format!("192.0.2.{}/32", 2 * n)}})).collect();
    assert_eq!(one(&json!({"podSelector": {}, "ingress": [{"from": blocks}]})), Some(40));
    assert_eq!(one(&json!({"podSelector": {}, "ingress": [{"from": to}]})), Some(2 * 53));
}

#[test]
fn empty_sets_count_when_there_are_very_many() {
    // Rules with peers and ports of their own, which no pod has the labels of.
    let asking = |name: &str, first: u16, rules: u16| {
        let rule = |number: u16| {
            let from = json!([{"podSelector": {"matchLabels": {"app": format!("none-{number}")}}}]);
            json!({"from": from, "ports": [{"port": number}]})
        };
        let rules: Vec<Value> = (first..first + rules).map(rule).collect();
        policy("tenant", name, &json!({"podSelector": {}, "ingress": rules}))
    };
    let mut objects = world(1);
    objects.policies.push(asking("a", 1, 400));
    objects.policies.push(asking("b", 1_001, 300));
    objects.policies.push(asking("c", 2_001, 200));
    // Of both families there are 1,800 sets, and the first 1,000 are free.
    for (most, names) in [(800 * 32, vec![]), (800 * 32 - 1, vec!["a"]), (1, vec!["a"])] {
        let options = options(most);
        let engine = engine_of(&objects, &options);
        assert_eq!(over(engine.findings()), names, "at {most}");
        assert_eq!(over_in(&objects, &options), names, "at {most}");
        let of_peers = engine.state().v4.sets.keys().filter(|name| is_of_peers(name)).count();
        // Those of the rules that are left, and at most one that other policies ask for.
        assert_eq!(of_peers / 100, if names.is_empty() { 9 } else { 5 }, "{of_peers} at {most}");
    }
}
