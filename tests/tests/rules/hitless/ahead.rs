//! While rules are held up, as much of the next state as sets can do by
//! themselves goes ahead.

use std::cell::Cell;
use std::collections::BTreeSet;
use std::net::IpAddr;

use k8s_openapi::api::core::v1::PodSpec;
use k8s_openapi::api::networking::v1 as networking;
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use npc_compiler::object::{Family, Labels, Namespace, Objects, Pod};
use npc_compiler::plan::{KernelState, Plan, Step};
use npc_compiler::policy::Direction;
use npc_compiler::ruleset::layout::{RulesetOptions, SelfMatch};
use npc_compiler::ruleset::node::{Member, SetName};
use npc_tests::model::{Model, Packet, Question};
use npc_tests::random;
use proptest::prelude::*;
use proptest::test_runner::TestCaseError;

use super::moves::{Moves, count_lists, regrouping, relabelling};
use super::{
    NODE, cases, changes_isolation, cut_short, gathered, packets, questions, ruleset, ruleset_of, transition, watch,
    with_half_of_it,
};

/// Has sets go ahead of rules, and watches every packet. Answers what the kernel
/// holds then.
pub(super) fn watch_ahead(
    actual: &KernelState,
    desired: &KernelState,
    packets: impl Fn(Family) -> Vec<Packet> + Copy,
) -> Result<KernelState, TestCaseError> {
    watch_plan_to(actual.ahead_of_rules(desired), actual, desired, packets)
}

/// The same for a state that is ahead of rules.
fn watch_plan_to(
    ahead: KernelState,
    actual: &KernelState,
    desired: &KernelState,
    packets: impl Fn(Family) -> Vec<Packet> + Copy,
) -> Result<KernelState, TestCaseError> {
    let plan = Plan::between(actual, &ahead);
    prop_assert!(!plan.steps.iter().any(|step| matches!(step, Step::Chains(..))), "{:#?}", plan);
    for family in Family::ALL {
        let states = [actual, &ahead, desired].map(|state| Model::new(family, state.family(family)));
        for packet in packets(family) {
            for question in questions(&packet) {
                let [before, now, after] = states.each_ref().map(|model| model.verdict(question, &packet));
                let may_drop = !now && changes_isolation(&states[0], &states[2], question, &packet);
                let is_good = now == before || now == after || may_drop;
                prop_assert!(is_good, "{:?} of {:?}: {} after {:#?}", question, packet, now, plan);
            }
        }
    }
    watch(actual, &ahead, packets)?;
    Ok(ahead)
}

#[test]
fn sets_that_go_ahead_of_rules_show_old_and_new_only() {
    let mut runner = random::runner(10, cases(100));
    let from = (any::<bool>(), any::<prop::sample::Index>());
    runner
        .run(&(transition(), random::objects().prop_map(gathered), from), |((old, new), other, (halved, cut))| {
            let packets = |family| packets(&old, &new, family);
            let mut actual = ruleset(&old);
            if halved {
                actual = with_half_of_it(actual);
            }
            let desired = ruleset(&new);
            let ahead = watch_ahead(&actual, &desired, packets)?;
            // It is free again, or held up once more while the next is desired,
            // or the agent is stopped.
            watch(&ahead, &desired, packets)?;
            let next = ruleset(&other);
            let further = watch_ahead(&ahead, &next, packets)?;
            watch(&further, &next, packets)?;
            let plan = Plan::between(&actual, &desired);
            let reached = cut_short(&actual, &plan, cut.index(plan.steps.len() + 1));
            let ahead = watch_ahead(&reached, &desired, packets)?;
            watch(&ahead, &desired, packets)
        })
        .unwrap();
}

/// Has sets go ahead of some that the kernel refuses to change, and watches every packet. Answers whether any
/// went; nothing if there was none to refuse.
fn watch_ahead_of_refused(
    actual: &KernelState,
    desired: &KernelState,
    refused: &[prop::sample::Index],
    packets: impl Fn(Family) -> Vec<Packet> + Copy,
) -> Result<Option<bool>, TestCaseError> {
    let would_be = actual.ahead_of_rules(desired);
    let differ = |family: Family| {
        let (actual, ahead) = (&actual.family(family).sets, &would_be.family(family).sets);
        ahead.iter().filter(|(name, set)| actual.get(*name) != Some(set)).map(|(name, _)| name.clone())
    };
    let changed: Vec<SetName> = Family::ALL.into_iter().flat_map(differ).collect();
    if changed.is_empty() {
        return Ok(None);
    }
    let refused = refused.iter().map(|index| index.get(&changed).clone()).collect();
    let ahead = watch_plan_to(actual.ahead_without(desired, &refused), actual, desired, packets)?;
    for family in Family::ALL {
        let [actual, ahead] = [actual, &ahead].map(|state| &state.family(family).sets);
        prop_assert!(ahead.keys().eq(actual.keys()), "a set was made");
        prop_assert!(refused.iter().all(|name| ahead.get(name) == actual.get(name)), "{:?}", refused);
    }
    watch(&ahead, desired, packets)?;
    Ok(Some(ahead != *actual))
}

/// The kernel refuses to change some sets, and to make new ones. The others go ahead.
#[test]
fn sets_that_go_ahead_of_refused_ones_show_old_and_new_only() {
    let (went, stayed, beside_lists) = (Cell::new(0), Cell::new(0), Cell::new(0));
    let counted = |has_gone: Option<bool>| {
        let count = if has_gone == Some(true) { &went } else { &stayed };
        count.set(count.get() + usize::from(has_gone.is_some()));
    };
    let refused = || proptest::collection::vec(any::<prop::sample::Index>(), 1..4);
    random::runner(15, cases(100))
        .run(&(transition(), refused()), |((old, new), refused)| {
            let (actual, desired) = (ruleset(&old), ruleset(&new));
            counted(watch_ahead_of_refused(&actual, &desired, &refused, |family| packets(&old, &new, family))?);
            Ok(())
        })
        .unwrap();
    assert!(went.get() > 0 && stayed.get() > 0, "{went:?} went ahead, {stayed:?} did not");
    // The same with many groups, some of them in lists.
    random::runner(17, cases(40))
        .run(&(regrouping(2), refused()), |(moves, refused)| {
            let (actual, desired) = (ruleset(&moves.old), ruleset(&moves.new));
            let has_gone = watch_ahead_of_refused(&actual, &desired, &refused, |family| moves.packets(family))?;
            let has_lists = count_lists(&actual) > 0 && has_gone == Some(true);
            beside_lists.set(beside_lists.get() + usize::from(has_lists));
            Ok(())
        })
        .unwrap();
    assert!(beside_lists.get() > 0, "none went ahead in a tree with lists");
}

/// Groups come and go, and pods move, while rules wait.
#[test]
fn groups_that_come_and_go_show_old_and_new_only_while_rules_wait() {
    let mut runner = random::runner(13, cases(30));
    let (at_once, lists) = (Cell::new(0), Cell::new(0));
    runner
        .run(&regrouping(2), |moves| {
            let (actual, desired) = (ruleset(&moves.old), ruleset(&moves.new));
            let ahead = watch_ahead(&actual, &desired, |family| moves.packets(family))?;
            let went = !Plan::between(&actual, &ahead).is_empty();
            at_once.set(at_once.get() + usize::from(went));
            lists.set(lists.get() + usize::from(went && count_lists(&actual) != count_lists(&desired)));
            watch(&ahead, &desired, |family| moves.packets(family))
        })
        .unwrap();
    assert!(at_once.get() > 0 && lists.get() > 0, "{at_once:?} went ahead, {lists:?} of them where lists changed");
}

/// Pods come and go in groups that stay, while a policy of another is edited.
#[test]
fn a_pod_that_joins_a_group_that_stays_does_not_wait_for_the_rules_of_others() {
    let (at_once, later, beside_lists) = (Cell::new(0), Cell::new(0), Cell::new(0));
    let mut runner = random::runner(11, cases(90));
    // The first two groups are in a list of egress.
    let edited = || prop_oneof![0..2_usize, 0..200_usize];
    runner
        .run(&(relabelling(2), edited()), |(mut moves, edited)| {
            let (groups, edited) = (moves.groups, edited % moves.groups);
            let spec = moves.new.policies[edited].object.spec.as_mut().unwrap();
            spec.egress.as_mut().unwrap()[0].ports.as_mut().unwrap()[0].port = Some(IntOrString::Int(81));
            let (actual, desired) = (ruleset(&moves.old), ruleset(&moves.new));
            let ahead = watch_ahead(&actual, &desired, |family| moves.packets(family))?;
            let group = |pod: &Pod| pod.labels["group"].parse::<usize>().unwrap();
            let places: Vec<_> = moves.movers().map(|(old, new)| (group(old), group(new))).collect();
            let is_isolated_for = |pod: &Pod, direction| {
                let (_, members) = &ahead.v4.sets[&SetName::isolated(Family::V4, direction)];
                members.contains(&Member::Address(pod.address(Family::V4).unwrap()))
            };
            let is_isolated = |pod: &Pod| is_isolated_for(pod, Direction::Egress);
            // Rules for ingress name no port, so they ask whether the pod is isolated for egress.
            let has_joined = |pod: &Pod| is_isolated(pod) && is_isolated_for(pod, Direction::Ingress);
            // Rules that wait are those of the edited policy, and of who goes from
            // one group to another; who is asked about by them waits as well.
            let changes_groups = |(from, to): &(usize, usize)| from != to && *from != groups && *to != groups;
            let is_asked_about = places.iter().any(|(from, to)| from != to && [*from, *to].contains(&(edited / 3)));
            for ((_, pod), (from, to)) in moves.movers().zip(&places) {
                if *to == groups {
                    prop_assert!(!is_isolated(pod), "a pod that leaves has left");
                } else if *from == groups {
                    let count = if has_joined(pod) { &at_once } else { &later };
                    count.set(count.get() + 1);
                    prop_assert!(*to != edited || !is_isolated(pod), "it met rules that are not its own");
                    let may_wait = *to == edited || is_asked_about || places.iter().any(changes_groups);
                    prop_assert!(may_wait || has_joined(pod), "nothing held it up: {:?}, {} edited", places, edited);
                    beside_lists.set(beside_lists.get() + usize::from(edited < 2 && has_joined(pod)));
                }
            }
            Ok(())
        })
        .unwrap();
    let counts = [at_once.get(), later.get(), beside_lists.get()];
    assert!(counts.iter().all(|count| *count > 0), "joined at once, waited, joined beside an edited list: {counts:?}");
}

/// A pod moves from one peer set to another. The second set has to wait, because an edited policy
/// asks it as well. At each moment the pod is in one of the two sets.
#[test]
fn a_peer_between_a_set_that_waits_and_one_that_does_not_is_in_one_of_them() {
    let peer = |team: &str, first: u16, last: u16| {
        serde_json::json!({"from": [{"podSelector": {"matchLabels": {"team": team}}}],
            "ports": [{"port": first, "endPort": last}]})
    };
    let cluster = |team: &str, edited: u16| {
        let mut objects = Objects::default();
        objects.namespaces.push(Namespace::new("a", Labels::new()));
        for (i, labels) in [[("app", "one")], [("app", "two")], [("team", team)]].into_iter().enumerate() {
            let labels = labels.into_iter().map(|(key, value)| (key.to_owned(), value.to_owned())).collect();
            let mut pod = Pod::from_template("a".to_owned(), format!("p{i}"), labels, PodSpec::default());
            pod.node = Some(NODE.to_owned());
            pod.ipv4 = Some([10, 0, 0, u8::try_from(i).unwrap()].into());
            objects.pods.push(pod);
        }
        let rules =
            [("one", vec![peer("red", 80, 80), peer("blue", 80, 90)]), ("two", vec![peer("blue", edited, edited)])];
        for (app, ingress) in rules {
            let policy = serde_json::json!({"metadata": {"namespace": "a", "name": app},
                "spec": {"podSelector": {"matchLabels": {"app": app}}, "ingress": ingress}});
            objects.policies.push(serde_json::from_value::<networking::NetworkPolicy>(policy).unwrap().into());
        }
        objects
    };
    let (old, new) = (cluster("red", 90), cluster("blue", 91));
    let (actual, desired) = (ruleset(&old), ruleset(&new));
    watch_ahead(&actual, &desired, |family| packets(&old, &new, family)).unwrap();
}

/// Without `xt_bpf` an endpoint's packets to itself need a rule.
#[test]
fn an_endpoint_that_needs_a_rule_of_its_own_waits_for_it() {
    let options = RulesetOptions { self_match: SelfMatch::PerEndpoint, ..RulesetOptions::default() };
    let mut runner = random::runner(12, cases(30));
    let came = Cell::new(0);
    runner
        .run(&relabelling(1), |Moves { groups, mut old, new }| {
            // Nothing isolates it yet.
            old.pods[groups].labels.insert("group".to_owned(), groups.to_string());
            let (actual, desired) = (ruleset_of(&old, &options), ruleset_of(&new, &options));
            let ahead = actual.ahead_of_rules(&desired);
            for direction in Direction::ALL {
                let isolated = |state: &KernelState| state.v4.sets[&SetName::isolated(Family::V4, direction)].1.clone();
                prop_assert!(isolated(&ahead).is_subset(&isolated(&actual)));
                came.set(came.get() + isolated(&desired).difference(&isolated(&actual)).count());
            }
            Ok(())
        })
        .unwrap();
    assert!(came.get() > 0, "no endpoint was to come");
}

/// Whether what agrees on an address, of these pods, judges each of its packets alike, while rules wait or after a
/// plan that was cut short. Answers on how many addresses the states agree, and on how many they do not.
fn watch_agreement(
    [before, desired]: [&KernelState; 2],
    pods: &[Pod],
    (is_ahead, cut): (bool, prop::sample::Index),
    packets: impl Fn(Family) -> Vec<Packet>,
) -> Result<[usize; 2], TestCaseError> {
    let plan = Plan::between(before, desired);
    let actual = if is_ahead {
        before.ahead_of_rules(desired)
    } else {
        cut_short(before, &plan, cut.index(plan.steps.len() + 1))
    };
    if actual == *desired {
        return Ok([0, 0]);
    }
    let pods = pods.iter().filter(|pod| pod.node.as_deref() == Some(NODE));
    let all = pods.flat_map(Pod::addresses).collect();
    let alike = actual.agrees_on(desired, &all);
    for family in Family::ALL {
        let [now, then] = [&actual, desired].map(|state| Model::new(family, state.family(family)));
        for packet in packets(family) {
            for question in questions(&packet) {
                let (Question::First(end) | Question::MidStream(end)) = question;
                let address = match end {
                    Direction::Ingress => packet.destination,
                    Direction::Egress => packet.source,
                };
                let is_alike = now.verdict(question, &packet) == then.verdict(question, &packet);
                prop_assert!(is_alike || !alike.contains(&address), "{:?} of {:?}", question, packet);
            }
        }
    }
    Ok([alike.len(), all.len() - alike.len()])
}

/// While rules wait, and after a plan that was cut short: what agrees on an address says the same
/// of each of its packets.
#[test]
fn states_that_agree_on_an_address_judge_its_packets_alike() {
    let reached = || (any::<bool>(), any::<prop::sample::Index>());
    let counts = Cell::new([0, 0]);
    let counted = |[agreed, others]: [usize; 2]| counts.set([counts.get()[0] + agreed, counts.get()[1] + others]);
    random::runner(14, cases(100))
        .run(&(transition(), reached()), |((old, new), reached)| {
            let states = [ruleset(&old), ruleset(&new)];
            let packets = |family| packets(&old, &new, family);
            counted(watch_agreement(states.each_ref(), &new.pods, reached, packets)?);
            Ok(())
        })
        .unwrap();
    assert!(counts.get().iter().all(|count| *count > 0), "they agreed and did not: {counts:?}");
    // The same with many groups, some of them in lists.
    counts.set([0, 0]);
    random::runner(18, cases(40))
        .run(&(regrouping(2), reached()), |(moves, reached)| {
            let states = [ruleset(&moves.old), ruleset(&moves.new)];
            let found = watch_agreement(states.each_ref(), &moves.new.pods, reached, |family| moves.packets(family))?;
            if states.iter().all(|state| count_lists(state) > 0) {
                counted(found);
            }
            Ok(())
        })
        .unwrap();
    assert!(counts.get().iter().all(|count| *count > 0), "beside lists they agreed and did not: {counts:?}");
}

/// The kernel refuses the rules of many plans, which leave the sets that their rules were to ask. The one whose
/// rules it takes shows old and new only all the same.
#[test]
fn a_plan_after_many_of_which_the_rules_were_refused_shows_old_and_new_only() {
    let mut runner = random::runner(16, cases(60));
    let full = Cell::new(0);
    runner
        .run(&(transition(), random::objects().prop_map(gathered)), |((old, new), other)| {
            let (mut actual, desired, next) = (ruleset(&old), ruleset(&new), ruleset(&other));
            for round in 0..9 {
                let plan = Plan::between(&actual, if round % 2 == 0 { &next } else { &desired });
                let rules = plan.steps.iter().position(|step| matches!(step, Step::Chains(..)));
                actual = cut_short(&actual, &plan, rules.unwrap_or(0));
            }
            let left = |state: &KernelState| state.v4.sets.keys().filter(|name| name.as_str().contains("-z-")).count();
            full.set(full.get() + usize::from(left(&actual) > 0));
            watch(&actual, &desired, |family| packets(&old, &new, family))
        })
        .unwrap();
    assert!(full.get() > 0, "in none were all names taken");
}

/// A peer comes that the kernel refuses to take in, and another goes. Pods that ask neither go on.
#[test]
fn a_peer_leaves_its_sets_though_the_kernel_refuses_another() {
    let cluster = |far: &[u8], near: &[u8]| {
        let mut objects = Objects::default();
        objects.namespaces.push(Namespace::new("a", Labels::new()));
        let subjects = [("one", 1), ("two", 2)].into_iter().map(|(app, last)| (app, last, NODE));
        let far = far.iter().map(|last| ("far", *last, "elsewhere"));
        let near = near.iter().map(|last| ("near", *last, "elsewhere"));
        for (app, last, node) in subjects.chain(far).chain(near) {
            let labels: Labels = [("app".to_owned(), app.to_owned())].into();
            let mut pod = Pod::from_template("a".to_owned(), format!("p{last}"), labels, PodSpec::default());
            pod.node = Some(node.to_owned());
            pod.ipv4 = Some([10, 0, 0, last].into());
            objects.pods.push(pod);
        }
        for (app, peer) in [("one", "far"), ("two", "near")] {
            let policy = serde_json::json!({"metadata": {"namespace": "a", "name": app},
                "spec": {"podSelector": {"matchLabels": {"app": app}},
                    "ingress": [{"from": [{"podSelector": {"matchLabels": {"app": peer}}}]}]}});
            objects.policies.push(serde_json::from_value::<networking::NetworkPolicy>(policy).unwrap().into());
        }
        objects
    };
    let (old, new) = (cluster(&[11], &[21, 22]), cluster(&[11, 12], &[22]));
    let (actual, desired) = (ruleset(&old), ruleset(&new));
    let comes = Member::Address([10, 0, 0, 12].into());
    let grows = |name: &SetName| desired.v4.sets[name].1.contains(&comes);
    let refused = desired.v4.sets.keys().filter(|name| grows(name)).cloned().collect();
    let ahead = watch_plan_to(actual.ahead_without(&desired, &refused), &actual, &desired, |family| {
        packets(&old, &new, family)
    })
    .unwrap();
    let [one, two] = [1, 2].map(|last| IpAddr::from([10, 0, 0, last]));
    assert_eq!(ahead.agrees_on(&desired, &[one, two].into()), [two].into());
}

/// The rules of a policy wait. A pod of another one comes, whom a third one admits in both directions, to all ports.
/// Those that the second and the third one isolate come meanwhile.
#[test]
fn a_pod_that_wide_rules_mean_does_not_wait_for_the_rules_of_others() {
    let cluster = |edited: u16, pods: &[(&str, u8)]| {
        let mut objects = Objects::default();
        objects.namespaces.push(Namespace::new("a", Labels::new()));
        for app in ["web", "cache", "db"] {
            let address = pods.iter().find(|(of, _)| *of == app).map(|(_, last)| [10, 0, 0, *last].into());
            let labels: Labels = [("app".to_owned(), app.to_owned())].into();
            let pod = Pod::from_template("a".to_owned(), app.to_owned(), labels, PodSpec::default());
            objects.pods.push(Pod { node: Some(NODE.to_owned()), ipv4: address, ..pod });
        }
        let all = serde_json::json!([{"podSelector": {}}]);
        for (app, ingress, egress) in [
            ("web", serde_json::json!([{"ports": [{"port": 7000}]}]), serde_json::json!([{"ports": [{"port": 8080}]}])),
            ("cache", serde_json::json!([{"from": all}]), serde_json::json!([{"to": all}])),
            ("db", serde_json::json!([{"ports": [{"port": edited}]}]), serde_json::json!([])),
        ] {
            let policy = serde_json::json!({"metadata": {"namespace": "a", "name": app},
                "spec": {"podSelector": {"matchLabels": {"app": app}}, "policyTypes": ["Ingress", "Egress"],
                    "ingress": ingress, "egress": egress}});
            objects.policies.push(serde_json::from_value::<networking::NetworkPolicy>(policy).unwrap().into());
        }
        objects
    };
    let address = |last: u8| IpAddr::from([10, 0, 0, last]);
    let old = cluster(80, &[]);
    let mut actual = ruleset(&old);
    for pods in [&[("web", 1)][..], &[("web", 1), ("db", 2)], &[("web", 1), ("db", 2), ("cache", 3)]] {
        let new = cluster(81, pods);
        let desired = ruleset(&new);
        // The kernel takes the sets of a plan, and refuses its rules.
        let plan = Plan::between(&actual, &desired);
        let rules = plan.steps.iter().position(|step| matches!(step, Step::Chains(..)));
        actual = cut_short(&actual, &plan, rules.unwrap_or(plan.steps.len()));
        let ahead = actual.ahead_without(&desired, &BTreeSet::new());
        actual = watch_plan_to(ahead, &actual, &desired, |family| packets(&old, &new, family)).unwrap();
        let all = pods.iter().map(|(_, last)| address(*last)).collect();
        let expected: BTreeSet<IpAddr> =
            pods.iter().filter(|(app, _)| *app != "db").map(|(_, last)| address(*last)).collect();
        assert_eq!(actual.agrees_on(&desired, &all), expected, "{pods:?}");
    }
}

/// A state that lacks a pod's own part, or that of its peers, does not agree on it.
#[test]
fn a_pod_agrees_only_with_all_of_its_own() {
    let cluster = |edited: u16, with_new: bool| {
        let pods = [("one", 1), ("two", 2), ("one", 3)];
        let mut objects = Objects::default();
        objects.namespaces.push(Namespace::new("a", Labels::new()));
        for (app, last) in pods.into_iter().take(if with_new { 3 } else { 2 }) {
            let labels: Labels = [("app".to_owned(), app.to_owned())].into();
            let mut pod = Pod::from_template("a".to_owned(), format!("p{last}"), labels, PodSpec::default());
            pod.node = Some(NODE.to_owned());
            pod.ipv4 = Some([10, 0, 0, last].into());
            objects.pods.push(pod);
        }
        for (app, port) in [("one", 80), ("two", edited)] {
            let policy = serde_json::json!({"metadata": {"namespace": "a", "name": app},
                "spec": {"podSelector": {"matchLabels": {"app": app}}, "policyTypes": ["Ingress", "Egress"],
                    "ingress": [{"from": [{"podSelector": {"matchLabels": {"app": app}}}], "ports": [{"port": port}]}]}});
            objects.policies.push(serde_json::from_value::<networking::NetworkPolicy>(policy).unwrap().into());
        }
        objects
    };
    let before = ruleset(&cluster(80, false));
    let desired = ruleset(&cluster(81, true));
    let [one, two, new] = [1, 2, 3].map(|last| IpAddr::from([10, 0, 0, last]));
    let all = [one, two, new].into();
    // The peers of the first group lack the new pod, and the rules of the second differ.
    assert_eq!(before.agrees_on(&desired, &all), [].into());
    let ahead = before.ahead_of_rules(&desired);
    assert_ne!(ahead, desired, "the edited rule waits");
    assert_eq!(ahead.agrees_on(&desired, &all), [one, new].into());
    // A rule that is not there yet names it as a peer: its packets are dropped until then.
    let mut names = cluster(81, true);
    let peer = serde_json::json!({"metadata": {"namespace": "a", "name": "two"},
        "spec": {"podSelector": {"matchLabels": {"app": "two"}}, "policyTypes": ["Ingress", "Egress"],
            "ingress": [{"from": [{"podSelector": {"matchLabels": {"app": "one"}}}], "ports": [{"port": 81}]}]}});
    names.policies[1] = serde_json::from_value::<networking::NetworkPolicy>(peer).unwrap().into();
    let desired_of_peers = ruleset(&names);
    let ahead_of_peers = before.ahead_of_rules(&desired_of_peers);
    assert_eq!(ahead_of_peers.agrees_on(&desired_of_peers, &all), [].into());
    // Without an address, in each set that is asked about the new pod.
    for (name, (_, members)) in &ahead.v4.sets {
        let mut without = ahead.clone();
        if members.contains(&Member::Address(new)) {
            without.v4.sets.get_mut(name).unwrap().1.remove(&Member::Address(new));
            assert!(!without.agrees_on(&desired, &all).contains(&new), "{name}");
        }
    }
}
