//! Single cases of large changes that are loaded first.
#![allow(clippy::unwrap_used, reason = "a test that finds nothing has failed")]

use std::net::IpAddr;

use npc_compiler::engine::{Engine, Event, PodKey, Portion};
use npc_compiler::object::{ContainerPort, Family, Namespace, Pod, Protocol};
use npc_compiler::plan::{Plan, Step};
use npc_compiler::policy::Direction;
use npc_compiler::ruleset::layout::{Bounds, RulesetOptions};
use npc_compiler::ruleset::node::{ChainRole, Rule, SetName};
use serde_json::{Value, json};

use crate::engine::NODE;

pub(super) fn pod(namespace: &str, number: u8, app: &str) -> Pod {
    let labels = [("app".to_owned(), app.to_owned())].into();
    let spec = k8s_openapi::api::core::v1::PodSpec::default();
    let pod = Pod::from_template(namespace.to_owned(), format!("p{number}"), labels, spec);
    let uid = format!("00000000-0000-4000-8000-0000000000{number:02x}");
    Pod { uid, node: Some(NODE.to_owned()), ipv4: Some([10, 0, 0, number].into()), ..pod }
}

/// A rule that admits these peers to as many separate ports.
fn rule(from: &Value, ports: usize) -> Value {
    let ports: Vec<_> = (0..ports).map(|port| json!({"port": 1 + 2 * port})).collect();
    json!({"from": from, "ports": ports})
}

/// A policy for the pods that a selector selects.
fn policy_with(namespace: &str, name: &str, subject: &Value, rules: &[Value]) -> Event {
    let policy = json!({
        "metadata": {"namespace": namespace, "name": name},
        "spec": {"podSelector": subject, "policyTypes": ["Ingress"], "ingress": rules},
    });
    let policy = serde_json::from_value::<k8s_openapi::api::networking::v1::NetworkPolicy>(policy).unwrap();
    Event::Policy(Box::new(policy.into()))
}

/// A policy for all pods of a namespace, which admits pods of some kinds to as many separate ports.
pub(super) fn policy(namespace: &str, admits: &[(&str, usize)]) -> Event {
    let rules =
        admits.iter().map(|(app, ports)| rule(&json!([{"podSelector": {"matchLabels": {"app": app}}}]), *ports));
    policy_with(namespace, "np", &json!({}), &rules.collect::<Vec<_>>())
}

/// A policy for the pods of a kind, which admits these peers to as many separate ports.
pub(super) fn policy_for(name: &str, app: &str, from: &Value, ports: usize) -> Event {
    policy_with("large", name, &json!({"matchLabels": {"app": app}}), &[rule(from, ports)])
}

/// An engine to which more than fifty rules and sets are much.
pub(super) fn engine(options: RulesetOptions) -> Engine {
    Engine::new(NODE, options).with_large_changes_first(50)
}

/// Commits, and loads portions of so many rules, until nothing waits. Answers how many.
pub(super) fn load_all(engine: &mut Engine, rules: usize) -> usize {
    let mut loads = 0;
    loop {
        let plan = engine.commit();
        assert!(written(&plan) <= 50, "{} rules at once", written(&plan));
        if !engine.is_waiting("large") {
            return loads;
        }
        assert!(written(&engine.load(Portion { sets: 10, rules })) <= rules);
        loads += 1;
    }
}

pub(super) fn came(pod: Pod) -> Event {
    Event::Pod(Box::new(pod))
}

/// An engine in which a large policy of the namespace `large` waits, and nothing of it is loaded.
fn waiting() -> Engine {
    let mut engine = engine(RulesetOptions::default());
    for event in [came(pod("large", 1, "db")), came(pod("small", 2, "db")), policy("large", &[("web", 1)])] {
        engine.offer(event);
    }
    engine.commit();
    engine.offer(policy("large", &[("other", 3_000)]));
    assert!(engine.commit().is_empty() && engine.is_waiting("large"));
    engine
}

pub(super) fn is_isolated(engine: &Engine, number: u8) -> bool {
    let address = IpAddr::from([10, 0, 0, number]);
    engine.policies_of(address, Direction::Ingress).next().is_some()
}

#[test]
fn a_policy_of_another_namespace_does_not_wait_for_a_large_change() {
    let mut engine = waiting();
    engine.offer(policy("small", &[]));
    engine.offer(came(pod("small", 3, "db")));
    assert!(!engine.commit().is_empty() && engine.is_waiting("large"));
    assert!(is_isolated(&engine, 2) && is_isolated(&engine, 3));
}

#[test]
fn a_pod_gets_its_label_behind_the_policy_that_came_before_it() {
    let mut engine = waiting();
    // By the old policy it would be admitted, and by the new one it is not.
    engine.offer(came(pod("large", 4, "web")));
    engine.commit();
    assert!(is_isolated(&engine, 4), "it is isolated at once, by the old policy");
    let admits = |engine: &Engine| {
        let mut sets = engine.state().v4.sets.iter().filter(|(name, _)| !name.leads_to_groups());
        sets.any(|(_, (_, members))| members.iter().any(|member| member.to_string() == "10.0.0.4"))
    };
    assert!(!admits(&engine));
    let portion = Portion { sets: 10, rules: 100 };
    let mut loads = 0;
    while engine.is_waiting("large") {
        loads += 1;
        engine.load(portion);
        engine.commit();
        assert!(!admits(&engine));
    }
    assert!(loads > 3 && is_isolated(&engine, 4));
}

#[test]
fn an_address_that_a_pod_gave_up_while_its_namespace_waits_is_the_next_pods_alone() {
    for (address, event) in [
        (1, Event::PodGone(PodKey::of(&pod("large", 1, "db")))),
        (1, came(Pod { finished: true, ..pod("large", 1, "db") })),
        (1, came(Pod { ipv4: Some([10, 0, 0, 9].into()), ..pod("large", 1, "db") })),
    ] {
        let mut engine = waiting();
        engine.offer(event);
        engine.offer(came(Pod { ipv4: Some([10, 0, 0, address].into()), ..pod("small", 5, "db") }));
        engine.commit();
        assert_eq!(engine.contests().count(), 0);
        assert_eq!(engine.owner([10, 0, 0, address].into()).unwrap()[0], "small");
    }
}

#[test]
fn a_pod_that_came_and_went_while_its_namespace_waits_does_not_come_back() {
    let mut engine = waiting();
    engine.offer(came(pod("large", 6, "db")));
    engine.offer(Event::PodGone(PodKey::of(&pod("large", 6, "db"))));
    load_all(&mut engine, 1_000);
    assert!(engine.owner([10, 0, 0, 6].into()).is_none());
}

#[test]
fn events_that_come_while_a_large_change_is_loaded_do_not_begin_it_anew() {
    let mut engine = waiting();
    let is_led_to = |engine: &Engine| {
        let chains = &engine.state().v4.chains;
        let large = chains.iter().find(|(_, rules)| rules.len() > 200).map(|(name, _)| name);
        large.is_some() && chains.values().flatten().any(|rule| rule.leads_to() == large)
    };
    let mut versions = 0;
    while !is_led_to(&engine) {
        engine.load(Portion { sets: 10, rules: 50 });
        // Each is another version.
        versions += 1;
        engine.offer(policy("large", &[("other", 2_000 + versions)]));
        engine.commit();
        assert!(versions < 100, "nothing is ever whole");
    }
    assert!(versions > 5 && engine.is_waiting("large"), "the last version waits");
}

/// How many rules a plan writes.
fn written(plan: &Plan) -> usize {
    let of_step = |step: &Step| match step {
        Step::Chains(_, writes) => writes.replace.values().chain(writes.append.values()).map(Vec::len).sum(),
        _ => 0,
    };
    plan.steps.iter().map(of_step).sum()
}

/// An engine with a pod that no policy selects, and with a policy of many rules for pods of
/// another kind: there are none.
fn waiting_for_its_kind() -> Engine {
    let mut engine = engine(RulesetOptions::default());
    let everyone = json!([{"podSelector": {}}]);
    for event in [came(pod("large", 1, "db")), policy_for("np", "web", &everyone, 3_000)] {
        engine.offer(event);
    }
    engine.commit();
    engine
}

#[test]
fn a_pod_that_makes_its_namespace_wait_gives_up_its_address_at_once() {
    let mut engine = waiting_for_its_kind();
    // It is of the kind with many rules now, and under another address.
    engine.offer(came(Pod { ipv4: Some([10, 0, 0, 9].into()), ..pod("large", 1, "web") }));
    engine.commit();
    assert!(engine.is_waiting("large"));
    assert_eq!(engine.owner([10, 0, 0, 1].into()), None, "another pod may have the address next");
    engine.offer(came(Pod { ipv4: Some([10, 0, 0, 1].into()), ..pod("small", 5, "db") }));
    engine.commit();
    assert_eq!(engine.contests().count(), 0);
}

#[test]
fn a_new_pod_for_which_policies_in_force_have_many_rules_is_loaded_first() {
    let mut engine = waiting_for_its_kind();
    engine.offer(came(pod("large", 2, "web")));
    let plan = engine.commit();
    assert!(engine.is_waiting("large") && is_isolated(&engine, 2), "it is isolated at once");
    assert!(written(&plan) <= 50, "{} rules at once", written(&plan));
    assert!(load_all(&mut engine, 50) > 5 && is_isolated(&engine, 2));
}

#[test]
fn a_large_change_beside_a_policy_that_is_over_the_bound_is_loaded_first() {
    let options = RulesetOptions { bounds: Bounds::of_members(20), ..RulesetOptions::default() };
    let mut engine = engine(options);
    // Policy a names more members than the namespace may have, and allows nothing.
    let blocks: Vec<_> = (0..64_u8).map(|n| json!({"ipBlock": {"cidr": format!("192.0.{}.0/25", 2 * n)}})).collect();
    let nodes = json!([{"ipBlock": {"cidr": "192.0.2.0/24"}}]);
    for event in [
        came(pod("large", 1, "db")),
        policy_for("a", "db", &Value::Array(blocks.clone()), 1),
        policy_for("b", "db", &nodes, 1),
    ] {
        engine.offer(event);
    }
    engine.commit();
    assert!(engine.has_policies_over_bound());
    let load = |engine: &mut Engine, event: Event| {
        engine.offer(event);
        load_all(engine, 50)
    };
    assert!(load(&mut engine, policy_for("b", "db", &nodes, 6_000)) > 5);
    assert!(engine.has_policies_over_bound());
    // The policy that is over the bound changes and stays over it: nothing is to be loaded.
    assert_eq!(load(&mut engine, policy_for("a", "db", &Value::Array(blocks), 3_000)), 0);
    assert!(engine.has_policies_over_bound());
    // It is not over the bound any more, and what it allows makes many rules.
    assert!(load(&mut engine, policy_for("a", "db", &json!([{"podSelector": {}}]), 5_000)) > 5);
    assert!(!engine.has_policies_over_bound());
}

#[test]
fn what_a_policy_over_the_bound_allows_is_loaded_before_it_is_given_back() {
    let options = RulesetOptions { bounds: Bounds::of_members(8), ..RulesetOptions::default() };
    let mut engine = engine(options);
    let everyone = json!([{"podSelector": {}}]);
    let others: Vec<Pod> = (10..20).map(|number| pod("large", number, "other")).collect();
    for pod in &others {
        engine.offer(came(Pod { node: Some("elsewhere".to_owned()), ..pod.clone() }));
    }
    engine.offer(came(pod("large", 1, "db")));
    engine.offer(policy_for("np", "db", &everyone, 3_000));
    engine.commit();
    assert!(engine.has_policies_over_bound());
    for pod in &others {
        engine.offer(Event::PodGone(PodKey::of(pod)));
    }
    engine.commit();
    engine.reconsider_bound();
    let loads = load_all(&mut engine, 50);
    assert!(loads > 5 && !engine.has_policies_over_bound(), "{loads}");
}

#[test]
fn the_last_of_many_edits_is_in_force_after_two_loads_of_it_and_none_goes_back() {
    let mut engine = waiting();
    let in_force = |engine: &Engine| {
        let chains = &engine.state().v4.chains;
        let led = chains.values().flatten().filter_map(|rule| rule.leads_to());
        led.filter_map(|chain| chains.get(chain)).map(Vec::len).max().unwrap_or_default()
    };
    // Each version has a rule more than the one before.
    let version = |number: usize| policy("large", &[("other", 3_000 + 15 * number)]);
    let mut last = in_force(&engine);
    let mut step = |engine: &mut Engine| {
        engine.load(Portion { sets: 10, rules: 50 });
        engine.commit();
        let now = in_force(engine);
        assert!(now >= last, "an older version came after a newer one");
        let grew = now > last;
        last = now;
        grew
    };
    let mut versions = 0;
    for number in 1..60 {
        engine.offer(policy("large", &[("other", 5)]));
        engine.offer(version(number));
        versions += usize::from(step(&mut engine));
    }
    assert!(versions > 2, "edits without a pause come into force: {versions}");
    let mut loads = 0;
    while engine.is_waiting("large") {
        step(&mut engine);
        loads += 1;
    }
    // A version has some 220 rules a family: the one that is loaded, and the last.
    assert!(loads <= 2 * (2 * 260_usize).div_ceil(50) + 4, "{loads} loads");
    let mut fresh = waiting();
    load_all(&mut fresh, 1_000);
    fresh.offer(version(59));
    load_all(&mut fresh, 1_000);
    assert_eq!(in_force(&engine), in_force(&fresh));
}

#[test]
fn edits_without_a_pause_do_not_delay_an_add_that_waits_for_earlier_events() {
    let mut engine = waiting();
    let (address, until) = (IpAddr::from([10, 0, 0, 1]), engine.waited());
    assert!(engine.waits_for(address, until) && !engine.waits_for(address, until - 1));
    assert!(!engine.waits_for([10, 0, 0, 2].into(), until), "it is of another namespace");
    let mut edits = 0;
    while engine.waits_for(address, until) {
        edits += 1;
        engine.offer(policy("large", &[("other", 3_000 + 15 * edits)]));
        engine.load(Portion { sets: 10, rules: 50 });
        engine.commit();
        assert!(edits < 20, "it waits for all edits");
    }
    assert!(edits > 5 && engine.waits_for(address, engine.waited()));
}

/// Whether a set of peers has a member.
fn has_peer(engine: &Engine, set: impl Fn(&str) -> bool, member: &str) -> bool {
    let asked = |state: &npc_compiler::plan::FamilyState| {
        let rules = state.chains.values().flatten();
        let of_set =
            rules.filter(|rule| set(&format!("{rule:?}"))).flat_map(Rule::sets).filter(|name| !name.leads_to_groups());
        of_set.cloned().collect::<Vec<_>>()
    };
    let sets = asked(&engine.state().v4);
    sets.iter().any(|name| engine.state().v4.sets[name].1.iter().any(|has| has.to_string() == member))
}

#[test]
fn a_pod_that_gets_its_address_while_its_namespace_waits_is_isolated_at_once_and_from_then_on() {
    let mut engine = engine(RulesetOptions::default());
    engine.offer(came(pod("large", 1, "db")));
    engine.offer(policy("large", &[("web", 1)]));
    // It is known, and has no address yet.
    let unborn = Pod { ipv4: None, ..pod("large", 4, "db") };
    engine.offer(came(unborn.clone()));
    engine.commit();
    engine.offer(policy("large", &[("other", 3_000)]));
    // An event of it without an address waits, and then one with it.
    engine.offer(came(Pod { terminating: false, started: Some(1), ..unborn }));
    engine.commit();
    assert!(engine.is_waiting("large"));
    engine.offer(came(pod("large", 4, "db")));
    let mut loads = 0;
    loop {
        engine.commit();
        assert!(is_isolated(&engine, 4), "it is open after {loads} loads");
        let isolated = SetName::isolated(Family::V4, Direction::Ingress);
        let has = engine.state().v4.sets[&isolated].1.iter().any(|member| member.to_string() == "10.0.0.4");
        assert!(has, "it is open after {loads} loads");
        assert_eq!(engine.owner([10, 0, 0, 4].into()).unwrap()[..2], ["large", "p4"]);
        assert_eq!(engine.local_endpoints(), 2);
        if !engine.is_loading() {
            break;
        }
        engine.load(Portion { sets: 10, rules: 100 });
        loads += 1;
    }
    assert!(loads > 3 && engine.placeholders().next().is_none() && engine.policies() == 1);
}

#[test]
fn a_label_that_a_pod_loses_counts_at_once_for_other_namespaces_and_in_turn_for_its_own() {
    let mut engine = engine(RulesetOptions::default());
    let name = |name: &str| Namespace { name: name.to_owned(), labels: [("name".to_owned(), name.to_owned())].into() };
    engine.offer(Event::Namespace(name("large")));
    let of_other = json!([{"namespaceSelector": {}, "podSelector": {"matchLabels": {"app": "web"}}}]);
    for event in [
        came(pod("large", 1, "db")),
        came(pod("large", 2, "web")),
        came(pod("small", 3, "db")),
        policy("large", &[("web", 1)]),
        policy_with("small", "np", &json!({}), &[rule(&of_other, 1)]),
    ] {
        engine.offer(event);
    }
    engine.commit();
    let of = |namespace: &'static str| move |rule: &str| rule.contains(&format!("{namespace}/np"));
    assert!(has_peer(&engine, of("large"), "10.0.0.2") && has_peer(&engine, of("small"), "10.0.0.2"));
    engine.offer(policy("large", &[("web", 3_000)]));
    engine.commit();
    assert!(engine.is_waiting("large"));
    // It keeps the label in its own namespace until its turn, and loses it for the others.
    engine.offer(came(pod("large", 2, "none")));
    engine.commit();
    assert!(engine.is_waiting("large"));
    assert!(has_peer(&engine, of("large"), "10.0.0.2"), "events of a namespace keep their order");
    assert!(!has_peer(&engine, of("small"), "10.0.0.2"), "it keeps a right because its namespace waits");
    // Another policy of a third namespace comes to ask for the label while it waits.
    engine.offer(came(pod("third", 5, "db")));
    engine.offer(policy_with("third", "np", &json!({}), &[rule(&of_other, 2)]));
    engine.commit();
    let mut rules = engine.state().v4.chains.values().flatten();
    assert!(rules.any(|rule| of("third")(&format!("{rule:?}")) && Rule::sets(rule).next().is_some()), "it is in force");
    assert!(!has_peer(&engine, of("third"), "10.0.0.2"));
    load_all(&mut engine, 1_000);
    load_all(&mut engine, 1_000);
    assert!(!has_peer(&engine, of("large"), "10.0.0.2"));
}

#[test]
fn a_label_that_a_namespace_loses_counts_at_once() {
    let mut engine = engine(RulesetOptions::default());
    let labelled = |labels: &[(&str, &str)]| {
        let labels = labels.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect();
        Event::Namespace(Namespace { name: "large".to_owned(), labels })
    };
    engine.offer(labelled(&[("trusted", "yes")]));
    let trusted = json!([{"namespaceSelector": {"matchLabels": {"trusted": "yes"}}}]);
    for event in [
        came(pod("large", 1, "db")),
        came(pod("small", 3, "db")),
        policy("large", &[("web", 1)]),
        policy_with("small", "np", &json!({}), &[rule(&trusted, 1)]),
    ] {
        engine.offer(event);
    }
    engine.commit();
    let of_small = |rule: &str| rule.contains("small/np");
    assert!(has_peer(&engine, of_small, "10.0.0.1"));
    engine.offer(policy("large", &[("web", 3_000)]));
    engine.commit();
    engine.offer(labelled(&[]));
    engine.commit();
    assert!(engine.is_waiting("large") && !has_peer(&engine, of_small, "10.0.0.1"));
}

#[test]
fn pods_of_one_kind_whose_port_names_mean_different_ports_are_more_than_one_group() {
    let mut engine = engine(RulesetOptions::default());
    let blocks: Vec<_> = (0..8_u8).map(|n| json!({"ipBlock": {"cidr": format!("192.0.{}.0/25", 2 * n)}})).collect();
    let rules = blocks
        .iter()
        .enumerate()
        .map(|(n, block)| json!({"from": [block], "ports": [{"port": "http"}, {"port": 1 + 2 * n}]}));
    let rules: Vec<_> = rules.collect();
    engine.offer(policy_with("large", "np", &json!({}), &rules));
    engine.commit();
    for number in 1..40_u8 {
        let port = ContainerPort { name: "http".to_owned(), protocol: Protocol::Tcp, port: 8_000 + u16::from(number) };
        engine.offer(came(Pod { ports: vec![port], ..pod("large", number, "db") }));
    }
    // The tree that leads to so many groups is written with the change.
    let of_groups = |plan: &Plan| -> usize {
        let of_step = |step: &Step| match step {
            Step::Chains(_, writes) => {
                let of_groups = writes.replace.iter().filter(|(name, _)| matches!(name.role(), ChainRole::Group(_)));
                of_groups.map(|(_, rules)| rules.len()).sum()
            }
            _ => 0,
        };
        plan.steps.iter().map(of_step).sum()
    };
    let mut loads = 0;
    loop {
        let first = of_groups(&engine.commit());
        assert!(first <= 50, "{first} rules at once");
        assert!((1..40).all(|number| is_isolated(&engine, number)), "all are isolated at once");
        if !engine.is_waiting("large") {
            break;
        }
        engine.load(Portion { sets: 10, rules: 50 });
        loads += 1;
    }
    assert!(loads > 5, "{loads}");
}

#[test]
fn sets_that_no_rule_asks_go_though_two_namespaces_write_without_a_pause() {
    let mut engine = engine(RulesetOptions::default());
    engine.offer(came(pod("large", 1, "db")));
    engine.offer(came(pod("other", 2, "db")));
    engine.commit();
    let version = |namespace: &str, version: usize| {
        let rules: Vec<_> = (0..60)
            .map(|rule| {
                let peer = format!("peer-{version}-{rule}");
                json!({"from": [{"podSelector": {"matchLabels": {"app": peer}}}], "ports": [{"port": 1 + 2 * rule}]})
            })
            .collect();
        policy_with(namespace, "np", &json!({}), &rules)
    };
    let mut most = 0;
    for number in 0..400 {
        engine.offer(version("large", number));
        engine.offer(version("other", number));
        engine.commit();
        engine.load(Portion { sets: 30, rules: 30 });
        most = most.max(engine.state().v4.sets.len());
    }
    // What is in force, what is expected, and what both leave behind.
    assert!(most < 900, "{most} sets");
}
