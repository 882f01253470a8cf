//! Events that come together, from a file or a list that is read again.
#![allow(clippy::unwrap_used, reason = "a test that finds nothing has failed")]

use std::net::Ipv4Addr;

use npc_compiler::engine::Engine;
use npc_compiler::object::{Labels, Pod};
use npc_compiler::policy::Direction;
use npc_compiler::ruleset::layout::RulesetOptions;
use serde_json::json;

use super::examples::{came, engine, is_isolated, load_all, pod, policy, policy_for};

/// Each of several policies that come together makes little, and all of them make much.
#[test]
fn policies_that_come_together_are_in_force_together() {
    let mut engine = engine(RulesetOptions::default());
    for event in [came(pod("large", 1, "db")), came(pod("large", 2, "web"))] {
        engine.offer(event);
    }
    engine.commit();
    let policy_of = |number: usize| {
        let from = json!([{"podSelector": {"matchLabels": {"app": format!("web-{number}")}}}]);
        policy_for(&format!("np-{number}"), "db", &from, number + 1)
    };
    engine.offer_all((0..40).map(policy_of).collect());
    engine.commit();
    let in_force = |engine: &Engine| engine.policies_of(Ipv4Addr::new(10, 0, 0, 1).into(), Direction::Ingress).count();
    assert_eq!(in_force(&engine), 0, "some are in force, and others wait");
    assert!(engine.is_waiting("large"));
    load_all(&mut engine, 1_000);
    assert_eq!(in_force(&engine), 40);
    // A pod that makes no chain waits with the policy that came with it.
    let relabelled =
        came(Pod { labels: Labels::from([("app".to_owned(), "db".to_owned())]), ..pod("large", 2, "web") });
    engine.offer_all(vec![relabelled, policy_for("np-last", "db", &json!([{"podSelector": {}}]), 400)]);
    engine.commit();
    assert!(engine.is_waiting("large"));
    assert_eq!(engine.policies_of(Ipv4Addr::new(10, 0, 0, 2).into(), Direction::Ingress).count(), 0);
    load_all(&mut engine, 1_000);
    // Few of them come at once.
    engine.offer_all(vec![policy("small", &[]), came(pod("small", 3, "db"))]);
    engine.commit();
    assert!(!engine.is_waiting("small") && is_isolated(&engine, 3));
}
