//! The bound on the members of the sets that the policies of a namespace need on a node:
//! which policies are over it, that nothing else is, and that verdicts and rules agree about it.

use std::cell::Cell;
use std::collections::{BTreeMap, BTreeSet};

use k8s_openapi::api::core::v1::PodSpec;
use npc_compiler::cluster::Cluster;
use npc_compiler::cluster::group::{Groups, OtherEnd};
use npc_compiler::engine::{Engine, Event, PodKey};
use npc_compiler::object::{ContainerPort, Family, Labels, Namespace, NetworkPolicy, Objects, Pod, Protocol};
use npc_compiler::plan::KernelState;
use npc_compiler::policy::Direction;
use npc_compiler::policy::finding::{Code, Effect, Finding};
use npc_compiler::ruleset::layout::{self, Options, SetMembers};
use npc_compiler::ruleset::members::bounded;
use npc_compiler::ruleset::node::{Match, Member, SetName};
use npc_tests::model::{Model, Packet, Question};
use npc_tests::random;
use proptest::prelude::*;
use serde_json::{Value, json};

const NODE: &str = "n1";

fn pod(namespace: &str, number: u16, labels: &[(&str, &str)], node: &str) -> Pod {
    let labels: Labels = labels.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect();
    let pod = Pod::from_template(namespace.to_owned(), format!("p{number}"), labels, PodSpec::default());
    let [high, low] = number.to_be_bytes();
    let uid = format!("00000000-0000-4000-8000-00000000{number:04x}");
    Pod { uid, node: Some(node.to_owned()), ipv4: Some([10, 0, high, low].into()), ..pod }
}

fn policy(namespace: &str, name: &str, spec: &Value) -> NetworkPolicy {
    let policy = json!({"metadata": {"namespace": namespace, "name": name}, "spec": spec});
    serde_json::from_value::<k8s_openapi::api::networking::v1::NetworkPolicy>(policy).unwrap().into()
}

/// A policy for all pods of its namespace that admits pods from everywhere by a selector of its
/// own, on a port of its own.
fn admitting(name: &str, number: u16) -> NetworkPolicy {
    let pods = json!({"matchExpressions": [{"key": format!("no-{number}"), "operator": "DoesNotExist"}]});
    let from = json!([{"namespaceSelector": {}, "podSelector": pods}]);
    policy("tenant", name, &json!({"podSelector": {}, "ingress": [{"from": from, "ports": [{"port": 1000 + number}]}]}))
}

/// A tenant with one pod here, `remote` pods elsewhere; and a shop, which has a policy too.
fn world(remote: u16) -> Objects {
    let mut objects = Objects::default();
    for name in ["tenant", "shop"] {
        objects.namespaces.push(Namespace::new(name, Labels::from([("name".to_owned(), name.to_owned())])));
    }
    objects.pods.push(pod("tenant", 1, &[("app", "tenant")], NODE));
    objects.pods.push(pod("shop", 2, &[("app", "db")], NODE));
    objects.pods.push(pod("shop", 3, &[("app", "open")], NODE));
    objects.pods.extend((0..remote).map(|number| pod("tenant", 100 + number, &[("app", "many")], "n2")));
    let from = json!([{"namespaceSelector": {}}]);
    let spec = json!({"podSelector": {"matchLabels": {"app": "db"}}, "ingress": [{"from": from}]});
    objects.policies.push(policy("shop", "db", &spec));
    objects
}

fn options(set_members: u64) -> Options {
    Options { set_members: SetMembers(set_members), ..Options::default() }
}

fn engine_of(objects: &Objects, options: &Options) -> Engine {
    let mut engine = Engine::new(NODE, options.clone()).with_retained_groups();
    for namespace in &objects.namespaces {
        engine.apply(Event::Namespace(namespace.clone()));
    }
    for pod in &objects.pods {
        engine.apply(Event::Pod(Box::new(pod.clone())));
    }
    for policy in &objects.policies {
        engine.apply(Event::Policy(Box::new(policy.clone())));
    }
    engine.commit();
    engine
}

/// The policies of the tenant that are over the bound, as findings name them.
fn over<'a>(findings: impl IntoIterator<Item = &'a Finding>) -> Vec<String> {
    let is_over = |finding: &&Finding| finding.code == Code::PolicyTooLarge && finding.namespace == "tenant";
    let names = findings.into_iter().filter(is_over).map(|finding| {
        assert_eq!((finding.path.as_str(), finding.effect), ("spec", Effect::RulesLeftOut), "{finding}");
        finding.name.clone()
    });
    names.collect()
}

/// The same in a fresh compile for all nodes.
fn over_in(objects: &Objects, options: &Options) -> Vec<String> {
    over(bounded(Cluster::new(objects), options).findings())
}

/// The peer sets and sets of named ports of a state that have members, and how many.
fn sizes(state: &KernelState) -> BTreeMap<SetName, usize> {
    let all = state.v4.sets.iter().chain(&state.v6.sets);
    let of_peers = all.filter(|(name, _)| is_of_peers(name));
    let sizes = of_peers.map(|(name, (_, members))| (name.clone(), members.len()));
    sizes.filter(|(_, size)| *size > 0).collect()
}

fn is_of_peers(name: &SetName) -> bool {
    ["npc4-p-", "npc6-p-", "npc4-n-", "npc6-n-"].iter().any(|prefix| name.as_str().starts_with(prefix))
}

fn names(numbers: std::ops::Range<u16>) -> Vec<String> {
    numbers.map(|number| format!("np-{number:02}")).collect()
}

/// Whether the shop's and the tenant's pod get a first segment from a pod elsewhere.
fn passes(state: &KernelState, to: u8, port: u16) -> bool {
    let packet = Packet {
        source: [10, 0, 0, 101].into(),
        destination: [10, 0, 0, to].into(),
        port: Some((Protocol::Tcp, port)),
    };
    Model::new(Family::V4, &state.v4).verdict(Question::First(Direction::Ingress), &packet)
}

#[test]
fn many_policies_for_many_pods_fill_no_kernel_and_hurt_their_namespace_only() {
    let options = options(1_000);
    let mut objects = world(300);
    objects.policies.extend((0..20).map(|number| admitting(&format!("np-{number:02}"), number)));
    let engine = engine_of(&objects, &options);
    // Each admits 303 pods, so three of them fit: the first by name.
    assert_eq!(over(engine.findings()), names(3..20));
    assert_eq!(over_in(&objects, &options), names(3..20));
    let of_shop = 303;
    let total: usize = sizes(engine.state()).values().sum();
    assert!(total <= 1_000 + of_shop, "{total} members");
    // The tenant's pod is isolated, and what the others admit passes.
    assert!(passes(engine.state(), 1, 1_002) && !passes(engine.state(), 1, 1_003));
    // Nothing changes for the shop, isolated or not.
    assert!(passes(engine.state(), 2, 80) && passes(engine.state(), 3, 80));
    let without = engine_of(&world(300), &options);
    for (name, size) in sizes(without.state()) {
        assert_eq!(sizes(engine.state()).get(&name), Some(&size));
    }
    assert!(engine.state().v4.sets[&SetName::isolated(Family::V4, Direction::Ingress)].1.len() == 2);
}

#[test]
fn the_largest_go_first_and_of_equal_ones_the_last_by_name() {
    let options = options(700);
    let mut objects = world(300);
    let small =
        json!({"podSelector": {}, "ingress": [{"from": [{"podSelector": {"matchLabels": {"app": "tenant"}}}]}]});
    objects.policies.push(policy("tenant", "z-small", &small));
    let large = json!([{"namespaceSelector": {}}, {"ipBlock": {"cidr": "192.0.2.0/31"}}, {"ipBlock": {"cidr": "198.51.100.7/32"}}]);
    let spec = json!({"podSelector": {}, "ingress": [{"from": large, "ports": [{"port": 5}]}]});
    objects.policies.push(policy("tenant", "a-large", &spec));
    objects.policies.extend((0..3).map(|number| admitting(&format!("np-{number:02}"), number)));
    assert_eq!(over(engine_of(&objects, &options).findings()), ["a-large", "np-02"]);
    assert_eq!(over_in(&objects, &options), ["a-large", "np-02"]);
}

/// A policy for the pods of one label, that admits nothing to them. It says nothing of what they send.
fn denying(app: &str) -> NetworkPolicy {
    policy("tenant", &format!("deny-{app}"), &json!({"podSelector": {"matchLabels": {"app": app}}}))
}

#[test]
fn no_more_policies_go_than_have_to() {
    // Each of the tenant's pods here is a group of its own. A set of a policy has all pods, and all groups share it.
    let mut objects = world(100);
    for number in 0..8 {
        objects.pods.push(pod("tenant", 20 + number, &[("app", &format!("app-{number}"))], NODE));
        objects.policies.push(denying(&format!("app-{number}")));
    }
    objects.policies.extend((0..30).map(|number| admitting(&format!("np-{number:02}"), number)));
    let of_each = u64::try_from(objects.pods.len()).unwrap();
    for left in [1, 2, 11, 24, 29, 30] {
        let options = options(of_each * u64::from(left) + of_each - 1);
        assert_eq!(over(engine_of(&objects, &options).findings()), names(left..30), "with room for {left}");
        assert_eq!(over_in(&objects, &options), names(left..30), "with room for {left}");
    }
}

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
fn an_edited_policy_comes_back_at_once_if_it_fits_and_otherwise_the_largest_go() {
    let mut objects = world(100);
    objects.policies.extend((0..4).map(|number| admitting(&format!("np-{number:02}"), number)));
    let options = options(2 * 103);
    let mut engine = engine_of(&objects, &options);
    assert_eq!(over(engine.findings()), names(2..4));
    let own = json!({"matchLabels": {"app": "tenant"}});
    let edited = json!({"podSelector": {}, "ingress": [{"from": [{"podSelector": own}], "ports": [{"port": 1003}]}]});
    engine.apply(Event::Policy(Box::new(policy("tenant", "np-03", &edited))));
    engine.commit();
    // It names one pod now, so the last of the others makes room for it.
    assert_eq!(over(engine.findings()), names(1..3));
    // One that is gone is not over the bound, and what it asked for makes room only when the
    // agent looks again.
    engine.apply(Event::PolicyGone("tenant".to_owned(), "np-01".to_owned()));
    engine.commit();
    assert_eq!(over(engine.findings()), names(2..3));
    engine.reconsider_bound();
    engine.commit();
    assert_eq!(over(engine.findings()), names(2..3));
    engine.apply(Event::PolicyGone("tenant".to_owned(), "np-00".to_owned()));
    engine.commit();
    assert_eq!(over(engine.findings()), names(2..3), "nothing looked again yet");
    engine.reconsider_bound();
    engine.commit();
    assert_eq!(over(engine.findings()), [""; 0]);
}

#[test]
fn what_grows_takes_the_rules_of_others_in_the_order_of_their_sizes() {
    let mut objects = world(100);
    objects.policies.extend((0..4).map(|number| admitting(&format!("np-{number:02}"), number)));
    let options = options(4 * 103);
    let mut engine = engine_of(&objects, &options);
    assert_eq!(over(engine.findings()), [""; 0]);
    for (number, left) in [(300, 3), (301, 3), (302, 3)] {
        engine.apply(Event::Pod(Box::new(pod("tenant", number, &[("app", "many")], "n2"))));
        engine.commit();
        assert_eq!(over(engine.findings()), names(left..4), "after pod {number}");
    }
    // The labels of the pods are such that another policy is the largest now.
    for number in 0..100 {
        let labels = [("app", "many"), ("no-0", "x"), ("no-1", "x")];
        engine.apply(Event::Pod(Box::new(pod("tenant", 400 + number, &labels, "n2"))));
    }
    engine.commit();
    assert_eq!(over(engine.findings()), ["np-02", "np-03"]);
    assert!(sizes(engine.state()).values().sum::<usize>() <= 4 * 103 + 206);
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

#[test]
fn a_word_as_long_as_an_object_is_quoted_in_part() {
    let from = json!([{"ipBlock": {"cidr": "ä".repeat(100_000)}}]);
    let mut objects = world(1);
    objects.policies.push(policy("tenant", "np", &json!({"podSelector": {}, "ingress": [{"from": from}]})));
    let engine = engine_of(&objects, &options(100));
    let [finding] = &engine.findings().collect::<Vec<_>>()[..] else { panic!("one") };
    assert_eq!(finding.code, Code::CidrInvalid);
    assert!(finding.problem.len() < 2_010 && finding.problem.ends_with('…'), "{finding}");
}

#[test]
fn groups_that_are_only_retained_go_before_any_policy() {
    let mut objects = world(300);
    for (number, app) in [(0, "tenant"), (1, "next")] {
        let mut of_app = admitting(&format!("np-{number:02}"), number);
        let selector = json!({"matchLabels": {"app": app}});
        of_app.object.spec.as_mut().unwrap().pod_selector = Some(serde_json::from_value(selector).unwrap());
        objects.policies.push(of_app);
    }
    let mut engine = engine_of(&objects, &options(500));
    assert_eq!((engine.retained().count(), sizes(engine.state()).len()), (0, 2));
    engine.apply(Event::Pod(Box::new(pod("tenant", 1, &[("app", "next")], NODE))));
    engine.commit();
    assert_eq!(over(engine.findings()), [""; 0]);
    assert_eq!((engine.retained().count(), sizes(engine.state()).len()), (0, 2));
    assert!(passes(engine.state(), 1, 1_001) && !passes(engine.state(), 1, 1_000));
}

#[test]
fn pods_of_others_cross_the_bound_at_once_and_a_policy_comes_back_when_it_is_reconsidered() {
    let mut objects = world(10);
    objects.policies = vec![admitting("np-00", 0)];
    let options = options(14);
    let mut engine = engine_of(&objects, &options);
    let another = |number| pod("shop", number, &[], "n2");
    let comes = |engine: &mut Engine, number| engine.apply(Event::Pod(Box::new(another(number))));
    comes(&mut engine, 50);
    engine.commit();
    assert!(over(engine.findings()).is_empty() && passes(engine.state(), 1, 1_000), "14 members are as many as may be");
    for _ in 0..3 {
        comes(&mut engine, 51);
        engine.commit();
        assert_eq!(over(engine.findings()), ["np-00"]);
        assert!(!passes(engine.state(), 1, 1_000));
        engine.apply(Event::PodGone(PodKey::of(&another(51))));
        let plan = engine.commit();
        assert_eq!(over(engine.findings()), ["np-00"], "a pod that comes and goes does not flip it");
        assert!(plan.is_empty(), "no set has a member less: {plan:?}");
    }
    engine.reconsider_bound();
    engine.commit();
    assert!(over(engine.findings()).is_empty() && passes(engine.state(), 1, 1_000));
    // Its owner makes it smaller, and does not wait.
    comes(&mut engine, 51);
    engine.commit();
    assert_eq!(over(engine.findings()), ["np-00"]);
    let own = json!({"podSelector": {}, "ingress": [{"from": [{"podSelector": {}}], "ports": [{"port": 1000}]}]});
    engine.apply(Event::Policy(Box::new(policy("tenant", "np-00", &own))));
    engine.commit();
    assert!(over(engine.findings()).is_empty() && passes(engine.state(), 1, 1_000));
}

#[test]
fn a_policy_over_the_bound_on_one_node_keeps_its_rules_on_another() {
    let mut objects = world(10);
    // The second node has one policy more, for a pod that only it has.
    objects.pods.push(pod("tenant", 60, &[("app", "other")], "n2"));
    objects.policies.push(admitting("np-00", 0));
    let mut more = admitting("np-01", 1);
    let other = json!({"matchLabels": {"app": "other"}});
    more.object.spec.as_mut().unwrap().pod_selector = Some(serde_json::from_value(other).unwrap());
    objects.policies.push(more);
    let cluster = bounded(Cluster::new(&objects), &options(20));
    let groups = Groups::of_cluster(&cluster);
    assert_eq!(over(cluster.findings()), ["np-01"]);
    let finding = cluster.findings().iter().find(|finding| finding.name == "np-01").unwrap();
    assert!(finding.problem.contains("node n2"), "{finding}");
    let passes = |number: u16, port: u16| {
        let named = |wanted: &str| cluster.endpoints().find(|(_, pod)| pod.name == wanted).unwrap().0;
        let (to, from) = (named(&format!("p{number}")), named("p101"));
        let group = groups.get(groups.of(to, Direction::Ingress).unwrap());
        let other = OtherEnd {
            classes: cluster.classes_of(from),
            address: None,
            ports: &[],
            new_family: None,
            is_unread: false,
        };
        group.traffic(&cluster, other).of(Protocol::Tcp).contains(port)
    };
    assert!(passes(1, 1_000) && passes(60, 1_000) && !passes(60, 1_001));
}

/// All pods on two nodes, in their own networks.
fn on_two_nodes(mut objects: Objects) -> Objects {
    for (place, pod) in objects.pods.iter_mut().enumerate() {
        pod.node = Some(if place % 4 == 3 { "n2".to_owned() } else { NODE.to_owned() });
        pod.host_network = false;
    }
    objects
}

/// The names of the sets of peers that a chain asks.
fn asked<'a>(state: &'a npc_compiler::plan::FamilyState, chain: &'a str) -> impl Iterator<Item = &'a SetName> {
    let rules = state.chains.iter().filter(move |(name, _)| name.as_str() == chain).flat_map(|(_, rules)| rules);
    rules.flat_map(|rule| &rule.matches).filter_map(|one| match one {
        Match::Set(name, _) if is_of_peers(name) => Some(name),
        _ => None,
    })
}

#[test]
fn no_namespace_has_more_members_than_the_bound_and_verdicts_are_those_of_the_rules() {
    let cases = std::env::var("NPC_CASES").ok().and_then(|cases| cases.parse().ok()).unwrap_or(150);
    let denied_by_bound = Cell::new(0);
    random::runner(11, cases)
        .run(&(random::objects().prop_map(on_two_nodes), 0_u64..30), |(objects, most)| {
            let options = options(most);
            let plain = Cluster::new(&objects);
            let cluster = bounded(Cluster::new(&objects), &options);
            let (groups, plain_groups) = (Groups::of_cluster(&cluster), Groups::of_cluster(&plain));
            for node in [NODE, "n2"] {
                let state = KernelState::from(&layout::ruleset(&plain, node, &options));
                let mut of_namespaces = BTreeMap::<&str, BTreeSet<(SetName, &Member)>>::new();
                let chains = layout::group_chains(&plain, node, &options, &[]);
                for group in &chains {
                    let namespace = plain.pod(group.pods[0]).namespace.as_str();
                    for (family, chain) in Family::ALL.into_iter().zip(&group.chains) {
                        let held = state.family(family);
                        for name in asked(held, chain.as_str()) {
                            let members = held.sets[name].1.iter().map(|member| (name.clone(), member));
                            of_namespaces.entry(namespace).or_default().extend(members);
                        }
                    }
                }
                for (namespace, members) in of_namespaces {
                    prop_assert!(members.len() as u64 <= most, "{namespace} has {} members on {node}", members.len());
                }
                for family in Family::ALL {
                    let model = Model::new(family, state.family(family));
                    let alone = |id| {
                        let address = cluster.address(id, family)?;
                        (cluster.contest(address).is_none()).then_some(address)
                    };
                    let ends: Vec<_> = cluster.endpoints().filter_map(|(id, _)| Some((id, alone(id)?))).collect();
                    for (subject, address) in &ends {
                        if cluster.pod(*subject).node.as_deref() != Some(node) {
                            continue;
                        }
                        for ((other, other_address), direction) in
                            ends.iter().flat_map(|end| Direction::ALL.map(|direction| (end, direction)))
                        {
                            if other == subject {
                                continue;
                            }
                            let ports = match direction {
                                Direction::Egress => &cluster.pod(*other).ports[..],
                                Direction::Ingress => &[],
                            };
                            let end = OtherEnd {
                                classes: cluster.classes_of(*other),
                                address: Some(*other_address),
                                ports,
                                new_family: None,
                                is_unread: false,
                            };
                            let admits = |cluster: &Cluster, groups: &Groups, port| {
                                let group = groups.of(*subject, direction).map(|group| groups.get(group));
                                group.is_none_or(|group| group.traffic(cluster, end).of(Protocol::Tcp).contains(port))
                            };
                            for port in [80, 443, 8080] {
                                let (source, destination) = match direction {
                                    Direction::Ingress => (*other_address, *address),
                                    Direction::Egress => (*address, *other_address),
                                };
                                let packet = Packet { source, destination, port: Some((Protocol::Tcp, port)) };
                                let verdict = admits(&cluster, &groups, port);
                                prop_assert_eq!(
                                    model.verdict(Question::First(direction), &packet),
                                    verdict,
                                    "{:?}",
                                    packet
                                );
                                let unbounded = admits(&plain, &plain_groups, port);
                                prop_assert!(unbounded || !verdict, "the bound opens {:?}", packet);
                                denied_by_bound.set(denied_by_bound.get() + u32::from(unbounded && !verdict));
                            }
                        }
                    }
                }
            }
            Ok(())
        })
        .unwrap();
    assert!(denied_by_bound.get() > 100, "the bound denied {} flows", denied_by_bound.get());
}
