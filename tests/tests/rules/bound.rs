//! The bound on the members of the sets that the policies of a namespace need on a node:
//! which policies are over it, that nothing else is, and that verdicts and rules agree about it.

mod counting;

use std::cell::Cell;
use std::collections::{BTreeMap, BTreeSet};

use k8s_openapi::api::core::v1::PodSpec;
use npc_compiler::cluster::Cluster;
use npc_compiler::cluster::group::{Groups, OtherEnd};
use npc_compiler::engine::{Engine, Event, PodKey};
use npc_compiler::object::{Family, Labels, Namespace, NetworkPolicy, Objects, Pod, Protocol};
use npc_compiler::plan::KernelState;
use npc_compiler::policy::Direction;
use npc_compiler::policy::finding::{Effect, Finding, FindingCode};
use npc_compiler::ruleset::layout::{self, Bounds, RulesetOptions};
use npc_compiler::ruleset::members::bounded;
use npc_compiler::ruleset::node::{Match, Member, SetName, Target};
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

fn options(set_members: u64) -> RulesetOptions {
    RulesetOptions { bounds: Bounds::of_members(set_members), ..RulesetOptions::default() }
}

fn engine_of(objects: &Objects, options: &RulesetOptions) -> Engine {
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
    let is_over = |finding: &&Finding| finding.code == FindingCode::PolicyTooLarge && finding.namespace == "tenant";
    let names = findings.into_iter().filter(is_over).map(|finding| {
        assert_eq!((finding.path.as_str(), finding.effect), ("spec", Effect::RulesLeftOut), "{finding}");
        finding.name.clone()
    });
    names.collect()
}

/// The same in a fresh compile for all nodes.
fn over_in(objects: &Objects, options: &RulesetOptions) -> Vec<String> {
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

/// The rules of group chains of the tenant and the shop that admit something.
fn admitting_rules(state: &KernelState) -> usize {
    let chains = [&state.v4, &state.v6].into_iter().flat_map(|family| &family.chains);
    let of_groups =
        chains.filter(|(name, _)| ["NPC-I-", "NPC-E-"].iter().any(|prefix| name.as_str().starts_with(prefix)));
    of_groups.flat_map(|(_, rules)| rules).filter(|rule| rule.target == Target::Return).count()
}

#[test]
fn many_ports_in_the_chains_of_many_pods_are_too_many_rules() {
    let mut objects = world(0);
    let port = |number: u16| json!({"port": 1 + 2 * number});
    let ports: Vec<Value> = (0..150).map(port).collect();
    let from = json!([{"podSelector": {"matchLabels": {"app": "many"}}}]);
    let spec = json!({"podSelector": {}, "ingress": [{"from": from, "ports": ports}]});
    objects.policies.push(policy("tenant", "ports", &spec));
    for number in 0..5 {
        let app = format!("app-{number}");
        objects.pods.push(pod("tenant", 10 + number, &[("app", &app)], NODE));
        let spec = json!({"podSelector": {"matchLabels": {"app": app}}, "ingress": [{"ports": [{"port": 80}]}]});
        objects.policies.push(policy("tenant", &app, &spec));
    }
    // Each of six groups has ten rules for the ports in each family, and five have one for their own policies.
    let need = 6 * 10 * 2 + 5 * 2;
    let within = RulesetOptions { bounds: Bounds::of_rules(need), ..RulesetOptions::default() };
    let engine = engine_of(&objects, &within);
    let shop = 2;
    assert_eq!(admitting_rules(engine.state()), usize::try_from(need).unwrap() + shop);
    assert_eq!((over(engine.findings()), over_in(&objects, &within)), (vec![], vec![]));
    let below = RulesetOptions { bounds: Bounds::of_rules(need - 1), ..RulesetOptions::default() };
    let mut engine = engine_of(&objects, &below);
    assert_eq!(over(engine.findings()), ["ports"]);
    assert_eq!(over_in(&objects, &below), ["ports"]);
    assert_eq!(admitting_rules(engine.state()), 10 + shop);
    let packet = |port| Packet {
        source: [10, 0, 0, 2].into(),
        destination: [10, 0, 0, 10].into(),
        port: Some((Protocol::Tcp, port)),
    };
    let verdict = |engine: &Engine, port| {
        Model::new(Family::V4, &engine.state().v4).verdict(Question::First(Direction::Ingress), &packet(port))
    };
    assert!(verdict(&engine, 80) && !verdict(&engine, 81), "the pod's own policy holds");
    // A pod that goes makes room, once it is looked at anew.
    let gone = objects.pods.pop().unwrap();
    engine.apply(Event::PodGone(PodKey::of(&gone)));
    engine.retire();
    engine.retire();
    engine.reconsider_bound();
    engine.commit();
    assert_eq!(over(engine.findings()), Vec::<String>::new());
}

#[test]
fn ports_for_everyone_do_not_divide_the_ranges_of_peers_into_many_rules() {
    let mut objects = world(0);
    let ports: Vec<Value> = (0..1_000).map(|number| json!({"port": 1 + 2 * number})).collect();
    let range = |number: u16| {
        let peer = json!({"podSelector": {"matchLabels": {"app": format!("peer-{number}")}}});
        json!({"from": [peer], "ports": [{"port": 1, "endPort": 20_000 + number}]})
    };
    let rules: Vec<Value> = std::iter::once(json!({"ports": ports})).chain((0..50).map(range)).collect();
    objects.policies.push(policy("tenant", "ports", &json!({"podSelector": {}, "ingress": rules})));
    let engine = engine_of(&objects, &RulesetOptions::default());
    // 67 rules for everyone's ports and one for each peer, in both families.
    assert_eq!(admitting_rules(engine.state()), 2 * (67 + 50) + 2);
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
fn a_word_as_long_as_an_object_is_quoted_in_part() {
    let from = json!([{"ipBlock": {"cidr": "ä".repeat(100_000)}}]);
    let mut objects = world(1);
    objects.policies.push(policy("tenant", "np", &json!({"podSelector": {}, "ingress": [{"from": from}]})));
    let engine = engine_of(&objects, &options(100));
    let [finding] = &engine.findings().collect::<Vec<_>>()[..] else { panic!("one") };
    assert_eq!(finding.code, FindingCode::CidrInvalid);
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
    assert!(denied_by_bound.get() > cases / 2, "the bound denied {} flows", denied_by_bound.get());
}
