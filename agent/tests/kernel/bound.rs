//! The bound on the members of a namespace's sets, in a real kernel.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::process::Command;

use npc_agent::dataplane::backend::Backend;
use serde_json::Value;

use super::agent::{Agent, Folder};
use super::namespace::{Namespace, output};
use super::{dump, on_both_backends};

on_both_backends!(many_policies_for_many_pods_take_no_more_memory_of_the_kernel_than_their_namespace_may,);

/// A tenant with one pod here and 300 elsewhere.
fn pods() -> String {
    let mut text = "apiVersion: v1\nkind: Namespace\nmetadata: {name: tenant}\n".to_owned();
    for number in 0..=300 {
        let (node, high, low) = (if number == 0 { "node-1" } else { "node-2" }, number / 256, number % 256);
        write!(
            text,
            "---\napiVersion: v1\nkind: Pod\nmetadata: {{name: p{number}, namespace: tenant}}\n\
             spec: {{nodeName: {node}, containers: [{{name: c, image: i}}]}}\n\
             status: {{podIPs: [{{ip: 10.245.{high}.{low}}}]}}\n"
        )
        .unwrap();
    }
    text
}

/// Policies that each admit all pods of the tenant by a selector of their own, on a port of their own.
fn policies(count: u16) -> String {
    let one = |number: u16| {
        format!(
            "apiVersion: networking.k8s.io/v1\nkind: NetworkPolicy\nmetadata: {{name: np-{number:02}, namespace: tenant}}\n\
             spec: {{podSelector: {{}}, ingress: [{{ports: [{{port: {}}}], from: [{{podSelector: {{matchExpressions: \
             [{{key: no-{number}, operator: DoesNotExist}}]}}}}]}}]}}\n",
            1000 + number
        )
    };
    (0..count).map(one).collect::<Vec<_>>().join("---\n")
}

/// The members of the sets of peers in the kernel, apart from those of the shop, whose pods have
/// other addresses.
fn members_of_tenant() -> usize {
    let listed = output("ipset", &["save"]);
    listed.lines().filter(|line| line.starts_with("add npc4-p-") && line.contains(" 10.245.")).count()
}

fn many_policies_for_many_pods_take_no_more_memory_of_the_kernel_than_their_namespace_may(backend: Backend) {
    let _namespace = Namespace::enter();
    let folder = Folder::new();
    let mut agent = Agent::start(&folder, backend, &["--max-set-members", "1000"]);
    agent.wait(1);
    let shop: BTreeSet<String> = dump(backend).into_iter().filter(|line| line.contains("-p-")).collect();
    assert!(shop.iter().any(|line| line.ends_with(" 10.244.1.2")), "{shop:#?}");
    folder.write("tenant.yaml", &(pods() + "---\n" + &policies(20)));
    agent.wait(2);
    // Three fit, of 301 members each.
    assert_eq!(members_of_tenant(), 903);
    let actual = dump(backend);
    let missing: Vec<&String> = shop.iter().filter(|line| !actual.contains(line)).collect();
    assert!(missing.is_empty(), "of another namespace: {missing:#?}");
    assert!(actual.contains(&"add npc4-ingress 10.245.0.0".to_owned()), "the tenant's pod is isolated");
    assert!(actual.contains(&"add npc4-ingress 10.244.1.1".to_owned()), "so is the shop's");
    let port = |number: u16| actual.iter().any(|line| line.contains(&format!("--dport {} ", 1000 + number)));
    assert!(port(2) && !port(3));

    let status = || -> Value {
        let answer = Command::new(env!("CARGO_BIN_EXE_npc")).args(["status", "-o", "json"]).output().unwrap();
        serde_json::from_slice(&answer.stdout).unwrap()
    };
    let rejected: Vec<String> = status()["rejected"].as_array().unwrap().iter().map(ToString::to_string).collect();
    assert_eq!(rejected.len(), 17, "{rejected:#?}");
    let is_named =
        |name: &str| rejected.iter().any(|text| text.contains(name) && text.contains("more than 1000 members"));
    assert!(is_named("np-03") && is_named("np-19") && !is_named("np-02"), "{rejected:#?}");
    assert_eq!(status()["options"]["maxSetMembers"], 1000);

    // A restart chooses the same, and writes nothing.
    agent.end(nix::sys::signal::Signal::SIGTERM);
    let mut agent = Agent::start(&folder, backend, &["--max-set-members", "1000"]);
    assert_eq!(agent.wait(1), "nothing");
    // Fewer policies, and all of them fit.
    folder.write("tenant.yaml", &(pods() + "---\n" + &policies(3)));
    agent.wait(2);
    assert_eq!(members_of_tenant(), 903);
    assert_eq!(status()["rejected"].as_array().unwrap().len(), 0);
    // The next agent has a smaller bound, and brings what it finds within it.
    agent.end(nix::sys::signal::Signal::SIGTERM);
    let mut agent = Agent::start(&folder, backend, &["--max-set-members", "700"]);
    agent.wait(1);
    assert_eq!(members_of_tenant(), 602);
}
