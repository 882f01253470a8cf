//! What large changes will make is found out beside the loop.
#![allow(clippy::unwrap_used, reason = "a test that finds nothing has failed")]

use npc_compiler::engine::{Engine, Event, Portion, Previewed};
use npc_compiler::object::{Labels, Namespace, Pod};
use npc_compiler::ruleset::layout::{Bounds, RulesetOptions};
use serde_json::json;

use super::examples::{came, engine, is_isolated, pod, policy, policy_for};

/// An engine in which a policy of the namespace `large` waits until it is found out what it makes.
fn waiting(options: RulesetOptions, large: Event) -> Engine {
    let mut engine = engine(options);
    engine.find_out_beside(100);
    for event in [came(pod("large", 1, "db")), came(pod("small", 2, "db")), policy("large", &[("web", 1)])] {
        engine.offer(event);
    }
    engine.commit();
    engine.offer(large);
    assert!(engine.commit().is_empty() && engine.is_waiting("large") && !engine.is_load_due());
    engine
}

/// Finds out what the next namespace's events make. The engine does not know it yet.
fn find_out(engine: &mut Engine) -> Previewed {
    let preview = engine.preview().unwrap();
    assert_eq!(preview.namespace(), "large");
    preview.run(&mut |asked| Some(engine.count(&asked))).unwrap()
}

/// Loads all, and finds out what it has to. Answers how often it had to.
fn finish(engine: &mut Engine) -> usize {
    let mut found_out = 0;
    for _ in 0..1_000 {
        engine.commit();
        if !engine.is_waiting("large") {
            return found_out;
        }
        engine.load(Portion { sets: 100, rules: 1_000 });
        if !engine.is_load_due() {
            let previewed = find_out(engine);
            engine.previewed(previewed);
            found_out += 1;
        }
    }
    panic!("it never ends");
}

#[test]
fn while_it_is_found_out_what_a_change_makes_others_go_on_and_its_own_pods_are_isolated() {
    let mut engine = waiting(RulesetOptions::default(), policy("large", &[("other", 3_000)]));
    // Before the thread has taken it, and after that.
    engine.offer(came(pod("large", 4, "db")));
    engine.commit();
    assert!(is_isolated(&engine, 4));
    let preview = engine.preview().unwrap();
    assert!(engine.preview().is_none(), "it is being found out");
    engine.offer(came(pod("large", 5, "db")));
    engine.offer(policy("small", &[]));
    assert!(!engine.commit().is_empty() && engine.is_waiting("large") && !engine.is_load_due());
    assert!(is_isolated(&engine, 5) && is_isolated(&engine, 2));
    let previewed = preview.run(&mut |asked| Some(engine.count(&asked))).unwrap();
    engine.previewed(previewed);
    assert!(engine.is_load_due());
    finish(&mut engine);
    assert!([1, 2, 4, 5].iter().all(|number| is_isolated(&engine, *number)) && engine.placeholders().next().is_none());
}

#[test]
fn events_that_come_while_it_is_found_out_have_their_turn_behind_it() {
    let mut engine = waiting(RulesetOptions::default(), policy("large", &[("other", 3_000)]));
    let preview = engine.preview().unwrap();
    engine.offer(Event::PolicyGone("large".to_owned(), "np".to_owned()));
    engine.commit();
    let previewed = preview.run(&mut |asked| Some(engine.count(&asked))).unwrap();
    engine.previewed(previewed);
    let mut most = 0;
    for turns in 0.. {
        assert!(turns < 1_000, "it never ends");
        engine.load(Portion { sets: 100, rules: 1_000 });
        engine.commit();
        if !engine.is_waiting("large") {
            break;
        }
        if !engine.is_load_due() {
            let previewed = find_out(&mut engine);
            engine.previewed(previewed);
        }
        let chains = &engine.state().v4.chains;
        let led = chains.values().flatten().filter_map(|rule| rule.leads_to()).filter_map(|to| chains.get(to));
        most = most.max(led.map(Vec::len).max().unwrap_or_default());
    }
    assert!(most > 200, "the first event was never in force");
    assert!(!is_isolated(&engine, 1), "the last event is not in force");
}

#[test]
fn a_change_that_turns_out_to_be_small_does_not_wait_any_longer() {
    // Most of its rules admit pods to ports that another one admits too.
    let rules: Vec<(&str, usize)> = std::iter::repeat_n(("web", 60), 40).collect();
    let mut engine = waiting(RulesetOptions::default(), policy("large", &rules));
    assert_eq!(finish(&mut engine), 1);
    let mut engine = waiting(RulesetOptions::default(), policy("large", &rules));
    let previewed = find_out(&mut engine);
    engine.previewed(previewed);
    assert!(!engine.commit().is_empty() && !engine.is_waiting("large"));
}

#[test]
fn what_was_found_out_is_of_no_use_once_pods_of_others_bring_a_policy_over_the_bound() {
    let options = RulesetOptions { bounds: Bounds::of_members(20), ..RulesetOptions::default() };
    let everyone = json!([{"namespaceSelector": {}}]);
    let named =
        || ["large", "small"].map(|name| Event::Namespace(Namespace { name: name.to_owned(), labels: Labels::new() }));
    let mut engine = engine(options);
    engine.find_out_beside(100);
    for event in named() {
        engine.offer(event);
    }
    for event in [came(pod("large", 1, "db")), came(pod("small", 2, "db")), policy_for("other", "db", &everyone, 1)] {
        engine.offer(event);
    }
    engine.commit();
    engine.offer(policy_for("wide", "db", &everyone, 3_000));
    engine.commit();
    let previewed = find_out(&mut engine);
    // The policy in force admits more pods now than the namespace may have members.
    let others = |number: u8| Pod { node: Some("elsewhere".to_owned()), ..pod("small", number, "web") };
    engine.offer(policy("large", &[("none", 1)]));
    for number in 10..60 {
        engine.offer(came(others(number)));
    }
    engine.commit();
    assert!(engine.has_policies_over_bound());
    engine.previewed(previewed);
    engine.commit();
    assert!(engine.is_waiting("large") && !engine.is_load_due(), "it is found out anew");
    finish(&mut engine);
    engine.reconsider_bound();
    finish(&mut engine);
    // As one that knew all from the beginning.
    let mut fresh = Engine::new(
        crate::engine::NODE,
        RulesetOptions { bounds: Bounds::of_members(20), ..RulesetOptions::default() },
    );
    for event in [
        came(pod("large", 1, "db")),
        came(pod("small", 2, "db")),
        policy("large", &[("none", 1)]),
        policy_for("wide", "db", &everyone, 3_000),
        policy_for("other", "db", &everyone, 1),
    ]
    .into_iter()
    .chain((10..60).map(|number| came(others(number))))
    .chain(named())
    {
        fresh.apply(event);
    }
    fresh.commit();
    assert!(fresh.has_policies_over_bound());
    assert_eq!(engine.findings().collect::<Vec<_>>(), fresh.findings().collect::<Vec<_>>());
    assert_eq!(engine.state(), fresh.state());
}

#[test]
fn a_small_change_in_a_large_cluster_is_not_left_to_the_thread() {
    let mut engine = engine(RulesetOptions::default());
    engine.find_out_beside(100);
    for number in 0..3_000_u16 {
        let [high, low] = number.to_be_bytes();
        let uid = format!("00000000-0000-4000-9000-00000000{number:04x}");
        let other = pod("elsewhere", 0, "web");
        engine.offer(came(Pod {
            uid,
            node: Some("elsewhere".to_owned()),
            ipv4: Some([10, 1, high, low].into()),
            ..other
        }));
    }
    // Each policy is for pods of one kind, and of most kinds there are none here.
    for number in 0..40 {
        engine.offer(policy_for(&format!("np-{number}"), &format!("kind-{number}"), &json!([{"podSelector": {}}]), 1));
    }
    for number in 0..4 {
        engine.offer(came(pod("large", 1 + number, &format!("kind-{number}"))));
    }
    engine.commit();
    let own = json!([{"podSelector": {"matchLabels": {"app": "kind-1"}}}]);
    engine.offer(policy_for("np-0", "kind-0", &own, 2));
    assert!(engine.is_waiting("large"), "it is known only now how little it is");
    assert!(!engine.commit().is_empty() && !engine.is_waiting("large"));
    // And if thousands of pods are meant, only these wait, and not until a thread has time.
    engine.offer(policy_for("np-0", "kind-0", &json!([{"namespaceSelector": {}}]), 2));
    engine.offer(Event::Namespace(Namespace { name: "elsewhere".to_owned(), labels: Labels::new() }));
    assert!(engine.commit().is_empty() && engine.is_waiting("large") && engine.is_load_due());
    assert_eq!(finish(&mut engine), 0);
}

#[test]
fn a_pod_of_a_kind_that_is_here_does_not_wait_though_its_chain_is_large() {
    let mut engine = waiting(RulesetOptions::default(), policy("large", &[("other", 3_000)]));
    finish(&mut engine);
    engine.offer(came(pod("large", 6, "db")));
    assert!(!engine.is_waiting("large"));
    assert!(!engine.commit().is_empty() && is_isolated(&engine, 6));
    // Of another kind, or with ports that names may mean, it may need chains of its own.
    engine.offer(came(pod("large", 7, "web")));
    assert!(engine.is_waiting("large"));
}
