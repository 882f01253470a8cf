//! A large change of one namespace, while agents of both versions come and go: the earlier one writes it at once,
//! today's loads it first, and is killed before all of it is there.

use std::path::Path;
use std::time::Duration;

use k8s_openapi::api::networking::v1 as networking;
use nix::sys::signal::Signal;
use npc_compiler::object::{NetworkPolicy, Objects};
use npc_tests::lab::{Backend, Enforcer, Lab, Mode};
use npc_tests::soak::{Editor, Load, PORTS, SoakLab};
use serde_json::json;

use super::{binaries, left};

/// What today's agent logs when it begins to load a large change, and when it is in force.
const BEGINS: &str = "loading a large change";
const ENDS: &str = "a large change was loaded";

/// A policy of so many rules with sets of their own that it is loaded first: 2,400 of both. It admits some pods to
/// even ports, and the pods listen on some of these. It is a new policy each time: an agent that says how many
/// policies are in force shows by that whether this one is.
fn with_large(mut objects: Objects, name: &str) -> Objects {
    let rule = |number: u16| {
        let pods =
            json!({"matchExpressions": [{"key": "app", "operator": "In", "values": ["a", format!("{number}")]}]});
        json!({"from": [{"namespaceSelector": {}, "podSelector": pods}], "ports": [{"port": 8_000 + 2 * number}]})
    };
    let rules: Vec<_> = (0..600).map(rule).collect();
    assert!(PORTS[1..].iter().all(|port| port % 2 == 0 && (8_000..9_200).contains(port)));
    let policy = json!({
        "metadata": {"namespace": "red", "name": name},
        "spec": {"podSelector": {}, "policyTypes": ["Ingress"], "ingress": rules},
    });
    let policy: networking::NetworkPolicy = serde_json::from_value(policy).unwrap();
    objects.policies.push(NetworkPolicy::from(policy));
    objects
}

/// The same objects without it.
fn without_large(mut objects: Objects) -> Objects {
    objects.policies.retain(|policy| !policy.name().starts_with("large"));
    objects
}

/// How often the log of a node's agent has this.
fn count(soak: &SoakLab, node: &str, what: &str) -> usize {
    soak.lab().log(node).unwrap().matches(what).count()
}

/// Waits until today's agent of a node is loading what it was given after it had begun so often.
fn await_loading(soak: &mut SoakLab, node: &str, before: usize) {
    for _ in 0..3_000 {
        if count(soak, node, BEGINS) > before {
            return;
        }
        soak.wait(Duration::from_millis(20)).unwrap();
    }
    panic!("it is not loaded first: {}", soak.lab().log(node).unwrap());
}

fn while_it_is_loaded(backend: Backend, seed: u64) {
    let Some([today, previous]) = binaries() else { return };
    let mut editor = Editor::new(seed);
    let builder = Lab::builder(editor.cluster(4)).mode(Mode::Routed).backend(backend);
    let builder = builder.enforcer(Enforcer::Agent(previous.clone()));
    let mut soak = SoakLab::start(builder, Load::default(), seed).unwrap().with_patience(Duration::from_secs(180));
    let nodes = soak.nodes();
    let first = &nodes[0];
    let replace = |soak: &mut SoakLab, node: &str, npc: &Path, signal| {
        soak.lab_mut().set_agent(npc.to_owned());
        soak.stop_agent(node, signal).unwrap();
        soak.start_agent(node).unwrap();
    };
    let objects = with_large(soak.objects(), "large-0");
    soak.write(objects, "a large policy, for the earlier agents").unwrap();
    soak.settle().unwrap();
    // Today's find it in force, and nothing to load.
    for node in &nodes {
        replace(&mut soak, node, &today, Signal::SIGTERM);
    }
    soak.settle().unwrap();
    assert_eq!(count(&soak, first, BEGINS), 0);
    // It goes, and before the next one is there, the agent is killed, and today's or the earlier one goes on.
    for (round, next) in [&today, &previous].into_iter().enumerate() {
        let objects = without_large(soak.objects());
        soak.write(objects, "the large policy goes").unwrap();
        soak.settle().unwrap();
        let (begun, ended) = (count(&soak, first, BEGINS), count(&soak, first, ENDS));
        let objects = with_large(soak.objects(), &format!("large-{}", round + 1));
        soak.write(objects, "another large policy").unwrap();
        await_loading(&mut soak, first, begun);
        replace(&mut soak, first, next, Signal::SIGKILL);
        soak.settle().unwrap();
        assert_eq!(count(&soak, first, ENDS), ended, "the agent of {first} was not killed before it was there");
        replace(&mut soak, first, &today, Signal::SIGTERM);
        soak.settle().unwrap();
    }
    for node in &nodes {
        soak.stop_agent(node, Signal::SIGTERM).unwrap();
    }
    let (lab, report) = soak.finish().unwrap();
    let told = format!("{backend:?} seed {seed}\n{report}");
    eprintln!("{told}");
    assert_eq!(report.violations, 0, "{told}");
    assert!(report.passed.in_flight > 0 && report.stopped.in_flight > 0 && report.streams_lived > 0, "{told}");
    for node in &nodes {
        let log = lab.log(node).unwrap();
        assert!(!log.contains(" ERROR "), "{log}");
        lab.node(node).unwrap().exec([today.to_str().unwrap(), "cleanup"], "").unwrap();
        assert_eq!(left(&lab, node, backend), "", "what npc cleanup left on {node}");
    }
}

#[test]
fn nft_while_a_large_change_is_loaded() {
    while_it_is_loaded(Backend::Nft, 500);
}

#[test]
fn legacy_while_a_large_change_is_loaded() {
    while_it_is_loaded(Backend::Legacy, 600);
}
