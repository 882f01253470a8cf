// Four pods and one policy: who may reach whom, why one may not, which sets and
// chains a node gets, and which writes one more pod costs.

#![allow(missing_docs, reason = "the comment above says what this is")]

use std::error::Error;

use k8s_openapi::api::core::v1 as core;
use k8s_openapi::api::networking::v1 as networking;
use npc_compiler::explain::{Port, QuestionEnd, Verdict, explain};
use npc_compiler::matrix::{By, MatrixOptions, connectivity};
use npc_compiler::object::{Family, Objects, Pod};
use npc_compiler::{Cluster, Engine, Event, Groups, node};
use serde_json::json;

/// A pod as the API server would have it.
fn pod(name: &str, app: &str, address: &str) -> serde_json::Result<Pod> {
    let pod: core::Pod = serde_json::from_value(json!({
        "metadata": {"namespace": "shop", "name": name, "labels": {"app": app}},
        "spec": {"nodeName": "node-1", "containers": []},
        "status": {"phase": "Running", "podIP": address},
    }))?;
    Ok(pod.into())
}

#[allow(clippy::print_stdout, reason = "an example shows what it found")]
fn main() -> Result<(), Box<dyn Error>> {
    let policy: networking::NetworkPolicy = serde_json::from_value(json!({
        "metadata": {"namespace": "shop", "name": "db"},
        "spec": {
            "podSelector": {"matchLabels": {"app": "db"}},
            "ingress": [{"from": [{"podSelector": {"matchLabels": {"app": "api"}}}], "ports": [{"port": 5432}]}],
        },
    }))?;
    let mut objects = Objects {
        pods: vec![pod("web", "web", "10.0.0.1")?, pod("api", "api", "10.0.0.2")?, pod("db", "db", "10.0.0.3")?],
        policies: vec![policy.into()],
        ..Objects::default()
    };
    // Files often leave the namespaces out.
    objects.declare_namespaces();
    let cluster = Cluster::new(&objects);
    assert_eq!(cluster.findings(), []);

    // Every allowed connection.
    let matrix = connectivity(&cluster, &MatrixOptions { by: By::Pod, ..MatrixOptions::default() });
    for connection in matrix.connections.iter().filter(|connection| connection.from != connection.to) {
        println!("{} -> {}  {} {:?}", connection.from, connection.to, connection.protocol, connection.ports);
    }

    // Why one flow is denied, and which rule comes nearest to admitting it.
    let groups = Groups::of_cluster(&cluster);
    let named = |name: &str| cluster.named().find(|(_, pod)| pod.name == name).map(|(id, _)| QuestionEnd::Pod(id));
    let (web, db) = named("web").zip(named("db")).ok_or("both pods are there")?;
    let explanation = explain(&cluster, &groups, &web, &db, Some(&Port::Numbers(None, 5432, 5432)))?;
    assert_eq!(explanation.verdict(), Verdict::Denied);
    for decision in explanation.flows.iter().filter_map(|flow| flow.decisions.as_ref()).flatten() {
        println!("{:?}: {}", decision.direction, decision.reason.as_str().unwrap_or("unknown"));
        if let Some(nearest) = decision.candidates.first() {
            let miss = &nearest.conjuncts[0];
            println!(
                "  policy {} {}: wants {}, there is {}",
                cluster.policy(nearest.policy).name,
                nearest.path,
                miss.want,
                miss.got
            );
        }
    }

    // What the node of these pods keeps in its kernel.
    let ruleset = node::ruleset(&cluster, "node-1", &node::RulesetOptions::default());
    print!("{}{}", ruleset.family(Family::V4).ipset_text(), ruleset.family(Family::V4).restore_text());

    // The same state, event by event; each commit answers the writes that lead to it.
    let mut engine = Engine::new("node-1", node::RulesetOptions::default());
    let Objects { namespaces, pods, policies, .. } = objects;
    namespaces.into_iter().map(Event::Namespace).for_each(|event| engine.apply(event));
    policies.into_iter().map(|policy| Event::Policy(Box::new(policy))).for_each(|event| engine.apply(event));
    pods.into_iter().map(|pod| Event::Pod(Box::new(pod))).for_each(|event| engine.apply(event));
    engine.commit();
    assert_eq!(*engine.state(), node::KernelState::from(&ruleset));
    // One more pod that the policy admits: a member of a set, and no rule.
    engine.apply(Event::Pod(Box::new(pod("api-2", "api", "10.0.0.4")?)));
    let plan = engine.commit();
    println!("{:?}", plan.steps);
    assert!(plan.steps.iter().all(|step| !matches!(step, node::Step::Chains(..))));
    Ok(())
}
