//! Bursts: much that changes at once is few plans, and one if it is one event.

use std::net::Ipv4Addr;

use k8s_openapi::api::core::v1::PodSpec;
use k8s_openapi::api::networking::v1 as networking;
use nix::sys::signal::Signal;
use npc_compiler::object::{Labels, Namespace, NetworkPolicy, Pod};
use serde_json::json;

use super::small::Small;

/// How many members the passes since then have added.
fn members_added(writes: &[String]) -> usize {
    let words = writes.iter().flat_map(|writes| writes.split(", "));
    let number = |words: &str| {
        let counted = words.strip_suffix(" members added").or_else(|| words.strip_suffix(" member added"));
        counted?.parse::<usize>().ok()
    };
    words.filter_map(number).sum()
}

#[test]
fn a_rollout_of_1000_pods_is_few_plans_and_a_relabelled_namespace_of_them_is_one() {
    const PODS: usize = 1000;
    /// Far fewer than events. An agent plans what has arrived so far, and how much that is depends on the machine: on an idle
    /// one it plans while it still reads, some 150 times.
    const FEW: usize = PODS / 3;
    let Some(mut small) = Small::start() else { return };
    let mut objects = small.lab.cluster().objects.clone();
    let policy = json!({
        "metadata": {"namespace": "shop", "name": "far"},
        "spec": {
            "podSelector": {"matchLabels": {"app": "api"}},
            "ingress": [{"from": [{"namespaceSelector": {"matchLabels": {"team": "b"}}}]}],
        },
    });
    objects.policies.push(NetworkPolicy::from(serde_json::from_value::<networking::NetworkPolicy>(policy).unwrap()));
    let team = |team: &str| Namespace { name: "far".to_owned(), labels: [("team".to_owned(), team.to_owned())].into() };
    objects.namespaces.push(team("b"));
    small.lab.write_manifests(objects.clone()).unwrap();
    small.lab.settle().unwrap();
    small.agent().wait_log("policies=2").unwrap();

    let before = small.writes().len();
    objects.pods.extend((0..PODS).map(|number| {
        let pod = Pod::from_template("far".to_owned(), format!("far-{number}"), Labels::new(), PodSpec::default());
        let ipv4 = Ipv4Addr::from(u32::from(Ipv4Addr::new(10, 99, 0, 0)) + u32::try_from(number).unwrap());
        Pod { uid: format!("far-{number}"), node: Some("elsewhere".to_owned()), ipv4: Some(ipv4), ..pod }
    }));
    // All events wait for the agent: how fast this test makes the pods does not matter.
    small.agent().signal(Signal::SIGSTOP).unwrap();
    small.lab.write_manifests(objects.clone()).unwrap();
    small.agent().signal(Signal::SIGCONT).unwrap();
    small.lab.settle().unwrap();
    objects.namespaces.retain(|namespace| namespace.name != "far");
    objects.namespaces.push(team("a"));
    small.lab.write_manifests(objects).unwrap();
    small.agent().wait_log("1000 members removed").unwrap();
    let mut writes = small.writes().split_off(before);
    // All members were removed, so all had been added. The log may lack some: if the kernel's answer comes too
    // late, no pass logs that write.
    assert_eq!(writes.pop().unwrap(), "1000 members removed");
    let added = members_added(&writes);
    assert!(added > PODS / 2 && added <= PODS, "{added} added: {writes:?}\n{}", small.agent().log().unwrap());
    assert!(writes.len() <= FEW, "{} plans: {writes:?}", writes.len());
    small.lab.settle().unwrap();
}
