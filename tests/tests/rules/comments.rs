//! The comments of rules tell the truth: what a rule of a group's chain lets through, the
//! policies' rules that its comment names admit alone; and every chain names its policies.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use npc_agent::source::manifests;
use npc_compiler::cluster::Cluster;
use npc_compiler::object::{Family, Objects, Protocol};
use npc_compiler::policy::Direction;
use npc_compiler::ruleset::layout::{self, RulesetOptions};
use npc_compiler::ruleset::node::{ChainRole, NodeRuleset, Rule, Target};
use npc_compiler::ruleset::text::Named;
use npc_tests::interpreter::{self, run};
use npc_tests::oracle::{End, Oracle, Packet, Payload};
use npc_tests::random;

/// A rule of a policy: the policy's namespace and name, and the rule's path.
type Origin = (String, String);

/// The rules that a comment names; nothing if it leaves some out.
fn origins(rule: &Rule) -> Option<BTreeSet<Origin>> {
    let Some(Named::Rules { rules, more }) = Named::of(rule) else { panic!("the comment of {rule:?} names no rule") };
    (more == 0).then(|| rules.into_iter().collect())
}

/// The cluster with all other rules of a direction replaced by one that admits a single
/// address outside.
fn only(objects: &Objects, direction: Direction, named: &BTreeSet<Origin>) -> Objects {
    let mut only = objects.clone();
    for policy in &mut only.policies {
        let name = format!("{}/{}", policy.namespace(), policy.name());
        let Some(spec) = policy.object.spec.as_mut() else { continue };
        let is_named = |field: &str, index: usize| named.contains(&(name.clone(), format!("spec.{field}[{index}]")));
        let one_address = || serde_json::json!([{"ipBlock": {"cidr": "255.255.255.254/32"}}]);
        match direction {
            Direction::Ingress => {
                for (index, rule) in spec.ingress.iter_mut().flatten().enumerate() {
                    if !is_named("ingress", index) {
                        *rule = serde_json::from_value(serde_json::json!({"from": one_address()})).unwrap();
                    }
                }
            }
            Direction::Egress => {
                for (index, rule) in spec.egress.iter_mut().flatten().enumerate() {
                    if !is_named("egress", index) {
                        *rule = serde_json::from_value(serde_json::json!({"to": one_address()})).unwrap();
                    }
                }
            }
        }
    }
    only
}

/// The direction of the rule of a group that let a packet through, and the rules that this
/// rule names.
fn let_through(ruleset: &NodeRuleset, packet: &interpreter::Packet) -> Vec<(Direction, BTreeSet<Origin>)> {
    let chains = &ruleset.family(Family::of(&packet.source)).chains;
    let traced = run(ruleset, packet).trace;
    let of_groups = traced.into_iter().filter_map(|(chain, index)| match chain.role() {
        ChainRole::Group(direction) => Some((direction, &chains[chain][index])),
        _ => None,
    });
    let returned = of_groups.filter(|(_, rule)| rule.target == Target::Return);
    returned.filter_map(|(direction, rule)| Some((direction, origins(rule)?))).collect()
}

#[test]
fn the_rules_that_a_comment_names_admit_what_the_rule_lets_through() {
    let mut asked = 0;
    for seed in 0..40 {
        let objects = random::cluster(seed);
        let cluster = Cluster::new(&objects);
        let oracle = Oracle::new(&objects);
        let addresses = random::addresses(&objects);
        let step = addresses.len().div_ceil(8).max(1);
        let outside = addresses.into_iter().step_by(step).map(End::Address);
        let ends: Vec<End> = oracle.endpoints().into_iter().map(End::Pod).chain(outside).collect();
        let is_clear = |address: IpAddr| oracle.claimants(address).len() < 2;
        let mut to_ask = BTreeMap::<_, Vec<(&End, &End, Packet)>>::new();
        let nodes: BTreeSet<&str> = objects.pods.iter().filter_map(|pod| pod.node.as_deref()).collect();
        for node in nodes {
            let ruleset = layout::ruleset(&cluster, node, &RulesetOptions::default());
            for (from, to) in ends.iter().flat_map(|from| ends.iter().map(move |to| (from, to))) {
                for family in Family::ALL {
                    let address = |end| oracle.address(end, family).filter(|address| is_clear(*address));
                    let (Some(source), Some(destination)) = (address(from), address(to)) else { continue };
                    if source == destination || oracle.own_node(from, to, family) {
                        continue;
                    }
                    let ports = random::ports(&objects).into_iter().step_by(3);
                    let payloads =
                        ports.flat_map(|port| Protocol::ALL.map(|protocol| Some((protocol, port)))).chain([None]);
                    for payload in payloads {
                        let (mine, asked) = match payload {
                            Some((protocol, port)) => {
                                (interpreter::Payload::Port(protocol, port), Payload::Port(protocol, port))
                            }
                            None => (interpreter::Payload::Other, Payload::Icmp),
                        };
                        let packet = interpreter::Packet::first(source, destination, mine);
                        for found in let_through(&ruleset, &packet) {
                            let question = (from, to, Packet { family, payload: asked });
                            to_ask.entry(found).or_default().push(question);
                        }
                    }
                }
            }
        }
        for ((direction, named), questions) in to_ask {
            let only = only(&objects, direction, &named);
            let oracle = Oracle::new(&only);
            for (from, to, packet) in questions {
                let verdict = oracle.allows(from, to, packet);
                let admits = if direction == Direction::Ingress { verdict.ingress } else { verdict.egress };
                assert!(admits, "seed {seed}: {named:?} alone do not admit {packet:?} from {from:?} to {to:?}");
                asked += 1;
            }
        }
    }
    assert!(asked > 1_000, "only {asked} packets");
}

#[test]
fn a_chain_of_a_group_names_the_policies_and_the_rules_that_it_comes_from() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/rules/hitless/takeover/cluster.yaml");
    let objects = manifests::load(&[path.into()], &manifests::ReadOptions::default()).unwrap().objects;
    let ruleset = layout::ruleset(&Cluster::new(&objects), "n1", &RulesetOptions::default());
    let text = ruleset.v4.restore_text();
    let bearing = |name: &str| text.lines().filter(|line| line.contains(name)).count();
    for policy in &objects.policies {
        let name = format!("{}/{}", policy.namespace(), policy.name());
        // A policy of pods elsewhere makes no rule here.
        if bearing(&name) == 0 {
            continue;
        }
        let rules = policy.object.spec.iter().flat_map(|spec| {
            let of = |field: &'static str, count: usize| (0..count).map(move |index| format!("spec.{field}[{index}]"));
            of("ingress", spec.ingress.as_ref().map_or(0, Vec::len))
                .chain(of("egress", spec.egress.as_ref().map_or(0, Vec::len)))
        });
        for rule in rules {
            let is_of = |line: &&str| line.contains(&name) && line.contains(&rule);
            assert!(text.lines().any(|line| is_of(&line)), "no rule bears {name} {rule}:\n{text}");
        }
    }
    assert!(bearing("shop/web") > 1 && bearing("shop/db") > 2, "{text}");
}
