//! A change of one namespace that makes thousands of rules is loaded piece by piece, and others
//! go on meanwhile.

use std::net::Ipv4Addr;

use k8s_openapi::api::core::v1::PodSpec;
use k8s_openapi::api::networking;
use nix::sys::signal::Signal;
use npc_agent::dataplane::Kernel as _;
use npc_agent::dataplane::backend::Backend;
use npc_compiler::object::{Family, Labels, NetworkPolicy, Objects, Pod};
use npc_compiler::plan::KernelState;
use npc_compiler::policy::Direction;
use npc_compiler::ruleset::node::{ChainName, Member, SetName};
use serde_json::json;

use super::agent::{Agent, Folder};
use super::enforce::{EnforcerWithObjects, enforcer};
use super::namespace::Namespace;
use super::{dump, on_both_backends};

on_both_backends!(
    a_policy_of_another_namespace_is_in_force_while_a_large_change_is_loaded,
    an_agent_that_is_killed_while_it_loads_leaves_what_the_next_one_removes,
    an_agent_that_loads_nothing_first_writes_a_large_change_at_once,
);

/// Each second port, so that none joins another; from where they begin.
fn ports(from: u16) -> Vec<serde_json::Value> {
    (0..32_000_u16).map(|number| json!({"port": from + 2 * number})).collect()
}

fn policy(namespace: &str, ports: &[serde_json::Value]) -> NetworkPolicy {
    let rule = json!({"from": [{"podSelector": {}}], "ports": ports});
    let policy = json!({
        "metadata": {"namespace": namespace, "name": "np"},
        "spec": {"podSelector": {}, "policyTypes": ["Ingress"], "ingress": [rule]},
    });
    serde_json::from_value::<networking::v1::NetworkPolicy>(policy).unwrap().into()
}

fn address(number: u8) -> Ipv4Addr {
    Ipv4Addr::new(10, 0, 0, number)
}

/// A pod in each of two namespaces, and policies for them.
fn objects(policies: Vec<NetworkPolicy>) -> Objects {
    let pod = |(namespace, number): (&str, u8)| Pod {
        node: Some("node-1".to_owned()),
        ipv4: Some(address(number)),
        ..Pod::from_template(namespace.to_owned(), "pod".to_owned(), Labels::new(), PodSpec::default())
    };
    let mut objects = Objects { pods: [("large", 1), ("small", 2)].map(pod).into(), policies, ..Objects::default() };
    objects.declare_namespaces();
    objects
}

fn is_isolated(actual: &KernelState, number: u8) -> bool {
    let isolated = &actual.v4.sets[&SetName::isolated(Family::V4, Direction::Ingress)].1;
    isolated.contains(&Member::Address(address(number).into()))
}

/// The chains of groups with more rules than a portion, and whether a rule leads to one.
fn large(actual: &KernelState) -> (Vec<&ChainName>, bool) {
    let chains = actual.v4.chains.iter().filter(|(_, rules)| rules.len() >= 250).map(|(name, _)| name);
    let chains: Vec<&ChainName> = chains.collect();
    let mut targets = actual.v4.chains.values().flatten().filter_map(|rule| rule.leads_to());
    let is_led_to = targets.any(|target| chains.contains(&target));
    (chains, is_led_to)
}

fn a_policy_of_another_namespace_is_in_force_while_a_large_change_is_loaded(backend: Backend) {
    let _namespace = Namespace::enter();
    let EnforcerWithObjects(first, known) = enforcer(backend);
    let mut loading = EnforcerWithObjects(first.with_large_changes_first(), known);
    let few = policy("large", &[json!({"port": 80})]);
    loading.pass(&objects(vec![few])).unwrap();
    let many = policy("large", &ports(1));
    let first = loading.pass(&objects(vec![many.clone()])).unwrap();
    assert!(first.writes.is_nothing(), "the change itself waits: {}", first.writes);
    // The policy of the other namespace comes now.
    let both = objects(vec![many.clone(), policy("small", &[])]);
    loading.pass(&both).unwrap();
    let actual = loading.0.kernel().read().unwrap();
    assert!(is_isolated(&actual, 2), "the other namespace waits");
    assert!(is_isolated(&actual, 1), "the old policy is in force");
    let (chains, is_led_to) = large(&actual);
    assert!(!chains.is_empty() && !is_led_to, "{chains:?} {is_led_to}");
    let mut passes = 0;
    while loading.0.is_loading() {
        passes += 1;
        loading.pass(&both).unwrap();
    }
    assert!(passes > 1, "it came at once");
    let actual = loading.0.kernel().read().unwrap();
    let (chains, is_led_to) = large(&actual);
    assert!(chains.len() == 1 && is_led_to, "{chains:?} {is_led_to}");
    assert!(loading.0.holds().unwrap());
    // Another agent finds nothing to do.
    let other = enforcer(backend).pass(&both).unwrap();
    assert!(other.writes.is_nothing(), "{}", other.writes);
}

/// The policy of a folder, with so many ports that it is a large change.
fn with_many_ports(policy: &str) -> String {
    let many = ports(1).iter().map(ToString::to_string).collect::<Vec<_>>().join(", ");
    let rule = format!("podSelector: {{matchLabels: {{app: web}}}}}}], ports: [{many}]");
    policy.replace("podSelector: {matchLabels: {app: web}}}]", &rule)
}

fn an_agent_that_is_killed_while_it_loads_leaves_what_the_next_one_removes(backend: Backend) {
    let _namespace = Namespace::enter();
    let folder = Folder::new();
    let mut agent = Agent::start(&folder, backend, &[]);
    agent.wait(1);
    let before = dump(backend);
    let text = std::fs::read_to_string(folder.manifests().join("policy.yaml")).unwrap();
    folder.write("policy.yaml", &with_many_ports(&text));
    agent.wait_for("loading a large change");
    // The sets are there by the next pass, and some rules by another.
    agent.wait_for("ruleset unchanged");
    agent.wait_for("ruleset unchanged");
    agent.end(Signal::SIGKILL);
    let half = dump(backend);
    assert!(before.iter().filter(|line| line.starts_with("add ")).all(|line| half.contains(line)), "{half:#?}");
    assert!(half.len() > before.len() + 200, "{} lines, {} before", half.len(), before.len());
    // The change is taken back while no agent runs.
    folder.write("policy.yaml", &text);
    Agent::start(&folder, backend, &[]).wait(1);
    assert_eq!(dump(backend), before);
}

fn an_agent_that_loads_nothing_first_writes_a_large_change_at_once(backend: Backend) {
    let _namespace = Namespace::enter();
    let folder = Folder::new();
    let mut agent = Agent::start_with(&folder, backend, &[], &[("NPC_LARGE_CHANGES_FIRST", "0")]);
    agent.wait(1);
    let text = std::fs::read_to_string(folder.manifests().join("policy.yaml")).unwrap();
    folder.write("policy.yaml", &with_many_ports(&text));
    let writes = agent.wait(2);
    let rules = writes.split(", ").find_map(|part| part.split_once(" rules in")).map(|(count, _)| count.to_owned());
    let rules: String = rules.unwrap_or_default().chars().filter(char::is_ascii_digit).collect();
    assert!(rules.parse::<usize>().is_ok_and(|rules| rules > 4_000), "{writes}");
}
