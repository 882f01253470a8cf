//! Much at once, and long names.

use std::collections::BTreeMap;
use std::time::Instant;

use k8s_openapi::api::core::v1::PodSpec;
use npc_compiler::object::{Labels, Namespace, NetworkPolicy, Objects, Pod};
use npc_tests::lab::{Backend, Mode};
use npc_tests::soak::{ADMITTED, Editor};
use serde_json::{Value, json};

use super::{PODS, all_is_well, builder, metric, start};
use crate::sampled;

#[test]
fn thousands_of_policies_arrive_at_once() {
    let many = sampled(3_000, 10_000);
    let mut editor = Editor::new(16);
    let Some(builder) = builder(editor.cluster(PODS), Backend::Nft, Mode::Routed) else { return };
    let mut soak = start(builder);
    let before = soak.objects();
    let mut after = before.clone();
    for number in 0..many {
        let mut policy = editor.policy(&format!("many-{number}"));
        // One of eight is of a namespace that has pods here.
        if !number.is_multiple_of(8) {
            policy.object.metadata.namespace = Some(format!("far-{}", number % 100));
        }
        after.policies.push(policy);
    }
    soak.write(after, "many policies").unwrap();
    let begun = Instant::now();
    soak.settle().unwrap();
    eprintln!("in the kernel after {:?}", begun.elapsed());
    for node in soak.nodes() {
        let of = |name: &str| soak.lab().metric(&node, name).unwrap();
        assert!(of("npc_policies") > f64::from(u32::try_from(many).unwrap()) && of("npc_rejected_policies") == 0.0);
        // They merge into few rules.
        assert!(of("npc_rules") > 0.0 && of("npc_set_entries") > 0.0);
        assert!(
            soak.lab().log(&node).unwrap().contains(&format!("policies={}", many / 100)),
            "it says how many there are"
        );
    }
    soak.write(before, "many policies fewer").unwrap();
    soak.settle().unwrap();
    all_is_well(soak);
}

fn policy(namespace: &str, name: &str, spec: &Value) -> NetworkPolicy {
    let object = json!({"metadata": {"namespace": namespace, "name": name}, "spec": spec});
    serde_json::from_value::<k8s_openapi::api::networking::v1::NetworkPolicy>(object).unwrap().into()
}

#[test]
fn a_policy_with_thousands_of_peers() {
    // More than a set has room for at first.
    let most = sampled(2_000, 5_000);
    let mut editor = Editor::new(17);
    let Some(builder) = builder(editor.cluster(PODS), Backend::Legacy, Mode::Routed) else { return };
    let mut soak = start(builder);
    for many in [most, most - 1, most / 2] {
        let peer = |number: usize| match number % 4 {
            0 => json!({"podSelector": {"matchLabels": {"app": format!("app-{number}")}}}),
            1 => json!({"ipBlock": {"cidr": format!("10.{}.{}.0/24", 1 + number / 256, number % 256),
                "except": [format!("10.{}.{}.64/26", 1 + number / 256, number % 256)]}}),
            2 => json!({"ipBlock": {"cidr": format!("fd01:{number:x}::/64")}}),
            _ => json!({"ipBlock": {"cidr": format!("10.244.0.{}/32", number % 64)}}),
        };
        let peers: Vec<Value> = (0..many).map(peer).collect();
        let rule = |direction: &str| json!([{direction: peers, "ports": [{"port": 8080}, {"port": ADMITTED}]}]);
        let spec = json!({"podSelector": {}, "policyTypes": ["Ingress", "Egress"],
            "ingress": rule("from"), "egress": rule("to")});
        let mut objects = soak.objects();
        objects.policies.retain(|policy| policy.name() != "np-of-many-peers");
        objects.policies.push(policy("red", "np-of-many-peers", &spec));
        soak.write(objects, &format!("a policy with {many} peers")).unwrap();
        soak.settle().unwrap();
        for node in soak.nodes() {
            let told = soak.lab().metric(&node, "npc_set_entries").unwrap();
            let sets = soak.lab().node(&node).unwrap().exec(["ipset", "save"], "").unwrap();
            let there = sets.lines().filter(|line| line.starts_with("add npc")).count();
            assert_eq!(told.to_string(), there.to_string(), "{node}");
        }
    }
    assert!(metric(&soak, "npc_set_entries") > 1000.0);
    all_is_well(soak);
}

/// All names differ at their end only.
#[test]
fn names_and_labels_at_their_limits() {
    let long = |length: usize, end: usize| format!("{}{end}", "n".repeat(length - 1));
    let namespace = |end| long(63, end);
    let key = |end| format!("{}.io/{}", "k".repeat(250), long(63, end));
    let labels = |end: usize| Labels::from([(key(end % 2), long(63, end)), (key(2), long(63, end % 2))]);
    let mut objects = Objects::default();
    for n in 0..3 {
        objects.namespaces.push(Namespace::new(namespace(n), labels(n)));
        for p in 0..2 {
            // The lab names a network namespace after it, in at most 255 bytes.
            let mut pod = Pod::from_template(namespace(n), long(150, p), labels(n + p), PodSpec::default());
            pod.node = Some(long(200, (n + p) % 2));
            let port = if p == 0 { 8080 } else { 9090 };
            let protocol = npc_compiler::object::Protocol::Tcp;
            pod.ports = vec![npc_compiler::object::ContainerPort { name: long(15, n), protocol, port }];
            objects.pods.push(pod);
        }
    }
    let spec = |n: usize| {
        let peer = json!({"namespaceSelector": {"matchLabels": {key(n % 2): long(63, n)}},
            "podSelector": {"matchLabels": {key(2): long(63, 1)}}});
        let rule = |direction: &str| {
            json!([
            {direction: [peer], "ports": [{"port": long(15, n)}, {"port": long(15, (n + 1) % 3)}]},
            {"ports": [{"port": ADMITTED}, {"port": ADMITTED, "protocol": "UDP"}]}])
        };
        json!({"podSelector": {"matchLabels": {key(2): long(63, n % 2)}}, "policyTypes": ["Ingress", "Egress"],
            "ingress": rule("from"), "egress": rule("to")})
    };
    for n in 0..3 {
        objects.policies.push(policy(&namespace(n), &long(253, n), &spec(n)));
        objects.policies.push(policy(&namespace(n), &long(253, n + 3), &spec(n + 1)));
    }
    let Some(builder) = builder(objects, Backend::Legacy, Mode::Bridge) else { return };
    let mut soak = start(builder);
    for round in 0..6 {
        let mut objects = soak.objects();
        let pod = round % objects.pods.len();
        objects.pods[pod].labels = labels(round + 1);
        objects.namespaces[round % 3].labels = Namespace::new(namespace(round % 3), labels(round + 1)).labels;
        let specs: BTreeMap<usize, _> =
            (0..6).map(|n| ((n + 1) % 6, objects.policies[n].object.spec.clone())).collect();
        for (n, spec) in specs {
            objects.policies[n].object.spec = spec;
        }
        soak.write(objects, &format!("round {round}")).unwrap();
        soak.settle().unwrap();
    }
    for node in soak.nodes() {
        let of = |name: &str| soak.lab().metric(&node, name).unwrap();
        let policies = soak.lab().cluster().objects.policies.len();
        assert_eq!(of("npc_policies").to_string(), policies.to_string());
        assert!(of("npc_rejected_policies") == 0.0 && of("npc_endpoints") > 0.0 && of("npc_set_entries") > 0.0);
        // Nothing of it was too long for anything.
        let said = soak.lab().log(&node).unwrap();
        assert!(!said.contains(" WARN ") && !said.contains(" ERROR "), "{said}");
    }
    all_is_well(soak);
}
