//! After any sequence of events the engine's state is that of a fresh compile
//! of the final objects, and its plans lead there.
#![allow(clippy::unwrap_used, reason = "a test that finds nothing has failed")]

use std::cell::Cell;
use std::collections::BTreeMap;

use ipnetwork::IpNetwork;
use k8s_openapi::api::core::v1::PodSpec;
use k8s_openapi::api::networking::v1 as networking;
use npc_compiler::cluster::Cluster;
use npc_compiler::cluster::group::RetainedGroup;
use npc_compiler::engine::{Engine, Event, PodKey};
use npc_compiler::object::{Family, NetworkPolicy, Objects, Pod};
use npc_compiler::plan::{Delta, KernelState, Plan, SetDelta, Step};
use npc_compiler::policy::Direction;
use npc_compiler::ruleset::layout::{self, Bounds, RulesetOptions, SelfMatch};
use npc_compiler::ruleset::members;
use npc_compiler::ruleset::names::seed::Seed;
use npc_compiler::ruleset::node::{InterfaceName, Member, SetKind, SetName};
use npc_tests::model::Model;
use npc_tests::random;
use proptest::prelude::*;
use proptest::test_runner::TestCaseError;

pub(super) const NODE: &str = "n1";

/// Objects by what distinguishes them, each as the event that brings it.
fn events(objects: &Objects) -> BTreeMap<String, (Event, Event)> {
    let mut all = BTreeMap::new();
    for namespace in &objects.namespaces {
        let gone = Event::NamespaceGone(namespace.name.clone());
        all.insert(format!("namespace {}", namespace.name), (Event::Namespace(namespace.clone()), gone));
    }
    for pod in &objects.pods {
        let key = PodKey::of(pod);
        all.insert(format!("pod {key:?}"), (Event::Pod(Box::new(pod.clone())), Event::PodGone(key)));
    }
    for policy in &objects.policies {
        let gone = Event::PolicyGone(policy.namespace().to_owned(), policy.name().to_owned());
        let name = format!("policy {}/{}", policy.namespace(), policy.name());
        all.insert(name, (Event::Policy(Box::new(policy.clone())), gone));
    }
    for node in &objects.nodes {
        let gone = Event::NodeGone(node.name.clone());
        all.insert(format!("node {}", node.name), (Event::Node(node.clone()), gone));
    }
    all
}

/// What leads from some objects to others, in the order of these numbers, with
/// some events twice, and with objects in between that come and go.
pub(super) fn lead(from: &Objects, through: &Objects, to: &Objects, order: &[u32]) -> Vec<Event> {
    let (from, through, to) = (events(from), events(through), events(to));
    let mut steps = Vec::new();
    let mut order = order.iter().copied().cycle();
    let mut number = || order.next().unwrap_or_default();
    for key in from.keys().chain(through.keys()).chain(to.keys()) {
        let (was, is) = (from.get(key), to.get(key));
        if was == is && through.get(key) == is {
            continue;
        }
        // Of one object the order counts, so its events share the beginning of
        // their place.
        let place = number();
        if let Some((came, gone)) = through.get(key).filter(|_| number().is_multiple_of(2)) {
            steps.push((place, 0, came.clone()));
            if number().is_multiple_of(2) {
                steps.push((place, 1, gone.clone()));
            }
        }
        let last = match (was, is) {
            (_, Some((came, _))) => came.clone(),
            (Some((_, gone)), None) => gone.clone(),
            (None, None) => through[key].1.clone(),
        };
        steps.push((place.wrapping_add(number() % 8), 2, last.clone()));
        if number().is_multiple_of(4) {
            steps.push((place.wrapping_add(8), 3, last));
        }
    }
    // A key that stands in several of the three was visited several times; the
    // last word is always the same.
    steps.sort_by_key(|(place, nth, _)| (*place / 8, *nth));
    let mut sorted: Vec<Event> = steps.into_iter().map(|(.., event)| event).collect();
    let finally = to.iter().filter(|(key, _)| from.get(*key) != to.get(*key) || through.contains_key(*key));
    sorted.extend(finally.map(|(_, (came, _))| came.clone()));
    let gone = from.iter().chain(&through).filter(|(key, _)| !to.contains_key(*key));
    sorted.extend(gone.map(|(_, (_, gone))| gone.clone()));
    sorted
}

/// What is there after an event.
pub(super) fn follow(there: &mut Objects, event: &Event) {
    let gone = |there: &mut Objects, gone: &Event| match gone {
        Event::NamespaceGone(name) => there.namespaces.retain(|namespace| namespace.name != *name),
        Event::PodGone(key) => there.pods.retain(|pod| PodKey::of(pod) != *key),
        Event::PolicyGone(namespace, name) => {
            there.policies.retain(|policy| (policy.namespace(), policy.name()) != (namespace, name));
        }
        Event::NodeGone(name) => there.nodes.retain(|node| node.name != *name),
        _ => {}
    };
    match event {
        Event::Namespace(namespace) => {
            gone(there, &Event::NamespaceGone(namespace.name.clone()));
            there.namespaces.push(namespace.clone());
        }
        Event::Pod(pod) => {
            gone(there, &Event::PodGone(PodKey::of(pod)));
            there.pods.push(Pod::clone(pod));
        }
        Event::Node(node) => {
            gone(there, &Event::NodeGone(node.name.clone()));
            there.nodes.push(node.clone());
        }
        Event::Policy(policy) => {
            gone(there, &Event::PolicyGone(policy.namespace().to_owned(), policy.name().to_owned()));
            there.policies.push(NetworkPolicy::clone(policy));
        }
        event => gone(there, event),
    }
}

pub(super) fn distinct(mut objects: Objects) -> Objects {
    // UIDs are what an API server makes: never given twice.
    for (i, pod) in objects.pods.iter_mut().enumerate() {
        if !pod.uid.is_empty() {
            pod.uid = format!("{}-{i}", pod.uid);
        }
        // Most of them here, so that there is something to group.
        if i % 3 != 2 {
            pod.node = Some(NODE.to_owned());
        }
    }
    objects
}

/// The state that a fresh compile makes of the objects, with the groups that
/// the engine keeps for the next endpoints.
pub(super) fn fresh(
    objects: &Objects,
    options: &RulesetOptions,
    engine: &Engine,
    own: &[(IpNetwork, InterfaceName)],
) -> KernelState {
    let retained: Vec<RetainedGroup> = engine.retained().collect();
    let cluster = Cluster::new(objects);
    let has = |namespace: &str, name: &String| {
        cluster.policies().any(|(_, policy)| policy.namespace == namespace && policy.name == *name)
    };
    // The engine has let go of those whose policies are gone.
    assert!(retained.iter().all(|group| group.policies.iter().all(|name| has(&group.namespace, name))));
    let mut state = KernelState::from(&layout::ruleset_with(&cluster, NODE, options, &retained));
    for (family, actual) in [(Family::V4, &mut state.v4), (Family::V6, &mut state.v6)] {
        if let Some((_, members)) = actual.sets.get_mut(&SetName::own(family)) {
            let own = own.iter().filter(|(prefix, _)| Family::of(&prefix.ip()) == family);
            members.extend(own.map(|(prefix, name)| Member::of_interface(*prefix, *name)));
        }
    }
    state
}

/// Addresses of interfaces as the network reports them; they need not fit the pods.
fn sources(number: u32) -> Vec<(IpNetwork, InterfaceName)> {
    let one = |n: u32| {
        let prefix = if n.is_multiple_of(3) { format!("fd00::{}/128", n % 5) } else { format!("10.0.0.{}/32", n % 7) };
        (prefix.parse().unwrap(), InterfaceName::new(&format!("azv{}", n % 2)).unwrap())
    };
    (0..8).filter(|bit| number >> bit & 1 == 1).map(one).collect()
}

/// How a run of the engine differs from others.
#[derive(Debug, Clone, Copy)]
struct Run {
    self_match: SelfMatch,
    log_denied: bool,
    anti_spoof: bool,
    retains: bool,
    bounds: Bounds,
}

fn check(stages: &[Objects], order: &[u32], run: Run) -> Result<(), TestCaseError> {
    let Run { self_match, log_denied, anti_spoof, bounds, .. } = run;
    let seed = order[0].is_multiple_of(2).then(|| Seed::from_bytes([3; 32]));
    let options = RulesetOptions { self_match, log_denied, anti_spoof, seed, bounds, ..RulesetOptions::default() };
    let mut engine = Engine::new(NODE, options.clone());
    if run.retains {
        engine = engine.with_retained_groups();
    }
    let mut kernels = Family::ALL.map(|family| Model::new(family, &npc_compiler::plan::FamilyState::default()));
    let mut was = Objects::default();
    let mut own = Vec::new();
    let mut there = Objects::default();
    for (i, is) in stages.iter().enumerate() {
        let through = &stages[(i + 1) % stages.len()];
        for (n, event) in lead(&was, through, is, order).into_iter().enumerate() {
            follow(&mut there, &event);
            engine.apply(event);
            // Now and then in the middle, and always at the end.
            if order[n % order.len()].is_multiple_of(5) {
                own = sources(order[n % order.len()] >> 8);
                engine.own(own.clone());
                engine.reconsider_bound();
                let plan = engine.commit();
                let fresh = fresh(&there, &options, &engine, &own);
                for (family, kernel) in Family::ALL.into_iter().zip(&mut kernels) {
                    kernel.apply(&plan, |_, _, _| {});
                    let missed = Delta::between(engine.state().family(family), fresh.family(family));
                    prop_assert!(missed.is_empty(), "stage {i}, after event {n}: the engine missed {missed:#?}");
                    let missed = Delta::between(&kernel.actual(), fresh.family(family));
                    prop_assert!(missed.is_empty(), "stage {i}, after event {n}: the plan missed {missed:#?}");
                }
            }
            if order[n % order.len()].is_multiple_of(7) {
                engine.retire();
            }
        }
        // As it is, and once all groups have had their time.
        for retirements in 0..3 {
            if retirements > 0 {
                engine.retire();
            }
            engine.reconsider_bound();
            let plan = engine.commit();
            prop_assert!(engine.retained().count() == 0 || run.retains && retirements < 2);
            let fresh = fresh(is, &options, &engine, &own);
            for (family, kernel) in Family::ALL.into_iter().zip(&mut kernels) {
                kernel.apply(&plan, |_, _, _| {});
                let missed = Delta::between(engine.state().family(family), fresh.family(family));
                prop_assert!(missed.is_empty(), "stage {i}: the engine missed {missed:#?}");
                let missed = Delta::between(&kernel.actual(), fresh.family(family));
                prop_assert!(missed.is_empty(), "stage {i}: the plan missed {missed:#?}");
            }
            prop_assert!(engine.commit().is_empty(), "a second commit has nothing to do");
        }
        was = is.clone();
    }
    Ok(())
}

#[test]
fn any_sequence_of_events_leads_where_a_fresh_compile_does() {
    let cases = std::env::var("NPC_CASES").ok().and_then(|cases| cases.parse().ok()).unwrap_or(300);
    let mut runner = random::runner(7, cases);
    let objects = || random::objects().prop_map(distinct);
    let order = proptest::collection::vec(any::<u32>(), 16..64);
    let fallback = proptest::bool::weighted(0.2);
    runner
        .run(
            &(objects(), objects(), objects(), order, fallback, any::<bool>()),
            |(a, b, c, order, fallback, retains)| {
                let self_match = if fallback { SelfMatch::PerEndpoint } else { SelfMatch::Bpf };
                let log_denied = order[0].is_multiple_of(2);
                let anti_spoof = order[1].is_multiple_of(2);
                let bounds = Bounds::default();
                check(&[a, b, c], &order, Run { self_match, log_denied, anti_spoof, retains, bounds })
            },
        )
        .unwrap();
}

#[test]
fn any_sequence_of_events_leads_where_a_fresh_compile_does_under_a_small_bound_on_set_members_or_rules() {
    let cases = std::env::var("NPC_CASES").ok().and_then(|cases| cases.parse().ok()).unwrap_or(200);
    let over = Cell::new(0);
    let objects = || random::objects().prop_map(distinct);
    let order = proptest::collection::vec(any::<u32>(), 16..64);
    random::runner(9, cases)
        .run(
            &(objects(), objects(), objects(), order, any::<[bool; 2]>(), 0_u64..12),
            |(a, b, c, order, flags, most)| {
                let [retains, of_rules] = flags;
                let bounds = if of_rules { Bounds::of_rules(4 * most) } else { Bounds::of_members(most) };
                let options = RulesetOptions { bounds, ..RulesetOptions::default() };
                let is_over = members::bounded(Cluster::new(&b), &options).findings() != Cluster::new(&b).findings();
                over.set(over.get() + u32::from(is_over));
                let self_match = SelfMatch::Bpf;
                check(&[a, b, c], &order, Run { self_match, log_denied: false, anti_spoof: false, retains, bounds })
            },
        )
        .unwrap();
    assert!(over.get() * 6 > cases, "only {} of {cases} samples were over the bound", over.get());
}

/// The state of a kernel to which another program did damage: members and rules are lost, and
/// a set is there as another type.
fn damaged(mut state: KernelState, damage: &[prop::sample::Index]) -> KernelState {
    for (n, index) in damage.iter().enumerate() {
        let actual = state.family_mut(if n % 2 == 0 { Family::V4 } else { Family::V6 });
        let (set, chain) = (index.index(actual.sets.len()), index.index(actual.chains.len()));
        match (n % 3, actual.sets.values_mut().nth(set), actual.chains.values_mut().nth(chain)) {
            (0, Some((_, members)), _) => drop(members.pop_first()),
            (1, Some((kind, members)), _) => {
                *kind = if *kind == SetKind::HashNet { SetKind::HashIp } else { SetKind::HashNet };
                members.clear();
            }
            (2, _, Some(rules)) => drop(rules.pop()),
            _ => {}
        }
    }
    state
}

#[test]
fn a_delta_leads_where_the_steps_of_its_plan_do() {
    let cases = std::env::var("NPC_CASES").ok().and_then(|cases| cases.parse().ok()).unwrap_or(100);
    let objects = || random::objects().prop_map(distinct);
    let damage = proptest::collection::vec(any::<prop::sample::Index>(), 0..9);
    let remade = Cell::new(0);
    random::runner(8, cases)
        .run(&(objects(), objects(), damage, any::<bool>()), |(old, new, damage, begins_empty)| {
            let state = |objects: &Objects| {
                KernelState::from(&layout::ruleset(&Cluster::new(objects), NODE, &RulesetOptions::default()))
            };
            let actual = if begins_empty { KernelState::default() } else { damaged(state(&old), &damage) };
            let desired = state(&new);
            let [v4, v6] = Family::ALL.map(|family| Delta::between(actual.family(family), desired.family(family)));
            let is_remade = |delta: &Delta| delta.sets.values().any(|set| matches!(set, SetDelta::Remade(..)));
            remade.set(remade.get() + usize::from(is_remade(&v4) || is_remade(&v6)));
            let plan = Plan::of_deltas(&actual, &v4, &v6);
            let mut by_steps = actual.clone();
            for step in &plan.steps {
                prop_assert_eq!(step.apply(&mut by_steps), Ok(()));
            }
            let mut by_delta = actual;
            v4.apply(by_delta.family_mut(Family::V4));
            v6.apply(by_delta.family_mut(Family::V6));
            for family in Family::ALL {
                let differs = Delta::between(by_delta.family(family), by_steps.family(family));
                prop_assert!(differs.is_empty(), "the delta leads elsewhere than the plan: {differs:#?}");
            }
            Ok(())
        })
        .unwrap();
    assert!(remade.get() > 0, "no set was of another type");
}

/// The only pod of its kind, one after the other under one name, each with an
/// address of its own.
fn alone(number: u8) -> Pod {
    let labels = [("app".to_owned(), "db".to_owned())].into();
    let pod = Pod::from_template("a".to_owned(), "db-0".to_owned(), labels, PodSpec::default());
    let uid = format!("00000000-0000-4000-8000-0000000000{number:02x}");
    Pod { uid, node: Some(NODE.to_owned()), ipv4: Some([10, 0, 0, number].into()), ..pod }
}

/// A policy for the pods of an app.
fn policy(app: &str) -> Event {
    let policy = serde_json::json!({
        "metadata": {"namespace": "a", "name": app},
        "spec": {"podSelector": {"matchLabels": {"app": app}}, "ingress": [{"from": [{"podSelector": {}}]}]},
    });
    Event::Policy(Box::new(serde_json::from_value::<networking::NetworkPolicy>(policy).unwrap().into()))
}

/// Another policy of that name.
fn policy_of_all(name: &str) -> Event {
    let policy = serde_json::json!({"metadata": {"namespace": "a", "name": name}, "spec": {"podSelector": {}}});
    Event::Policy(Box::new(serde_json::from_value::<networking::NetworkPolicy>(policy).unwrap().into()))
}

fn writes_rules(plan: &Plan) -> bool {
    plan.steps.iter().any(|step| matches!(step, Step::Chains(..)))
}

#[test]
fn a_pod_that_replaces_the_only_one_of_its_kind_writes_set_members_only() {
    let mut engine = Engine::new(NODE, RulesetOptions::default()).with_retained_groups();
    let labels = [("app".to_owned(), "web".to_owned())].into();
    let other = Pod { name: "web".to_owned(), labels, ..alone(99) };
    for event in [policy("db"), policy("web"), Event::Pod(Box::new(alone(1))), Event::Pod(Box::new(other))] {
        engine.apply(event);
    }
    assert!(writes_rules(&engine.commit()));
    for number in 1..4 {
        engine.apply(Event::PodGone(PodKey::of(&alone(number))));
        assert!(!writes_rules(&engine.commit()));
        assert_eq!(engine.retained().count(), 1);
        // Once in between is not twice.
        engine.retire();
        engine.apply(Event::Pod(Box::new(alone(number + 1))));
        assert!(!writes_rules(&engine.commit()));
        assert_eq!(engine.retained().count(), 0);
    }
    engine.apply(Event::PodGone(PodKey::of(&alone(4))));
    assert!(!writes_rules(&engine.commit()));
    engine.retire();
    assert!(engine.commit().is_empty());
    engine.retire();
    assert!(writes_rules(&engine.commit()), "it had its time");
    assert_eq!(engine.retained().count(), 0);
}

#[test]
fn an_empty_group_goes_with_its_policies() {
    for change in [policy_of_all("db"), Event::PolicyGone("a".to_owned(), "db".to_owned())] {
        let mut engine = Engine::new(NODE, RulesetOptions::default()).with_retained_groups();
        for event in [policy("db"), Event::Pod(Box::new(alone(1)))] {
            engine.apply(event);
        }
        engine.commit();
        engine.apply(Event::PodGone(PodKey::of(&alone(1))));
        engine.commit();
        assert_eq!(engine.retained().count(), 1);
        engine.apply(change);
        engine.commit();
        assert_eq!(engine.retained().count(), 0);
    }
}

/// A pod of a namespace that the policies of these bits isolate.
fn of_bits(namespace: &str, number: u32) -> Event {
    let labels = (0..8).filter(|bit| number >> bit & 1 == 1).map(|bit| (format!("bit-{bit}"), "yes".to_owned()));
    let pod = Pod::from_template(namespace.to_owned(), "pod".to_owned(), labels.collect(), PodSpec::default());
    let (last, uid) = if namespace == "a" { (1, "1-1") } else { (2, "2-2") };
    Event::Pod(Box::new(Pod {
        uid: uid.to_owned(),
        node: Some(NODE.to_owned()),
        ipv4: Some([10, 0, 0, last].into()),
        ..pod
    }))
}

#[test]
fn a_pod_whose_labels_flip_leaves_few_groups_and_none_of_another_namespace_goes() {
    let options = RulesetOptions::default();
    let mut engine = Engine::new(NODE, options.clone()).with_retained_groups();
    let mut there = Objects::default();
    let mut apply = |engine: &mut Engine, event: Event| {
        follow(&mut there, &event);
        engine.apply(event);
        there.clone()
    };
    for (namespace, bit) in [("a", 0), ("b", 0), ("b", 1)].into_iter().chain((1..8).map(|bit| ("a", bit))) {
        let policy = serde_json::json!({
            "metadata": {"namespace": namespace, "name": format!("np-{bit}")},
            "spec": {
                "podSelector": {"matchLabels": {format!("bit-{bit}"): "yes"}},
                "policyTypes": ["Ingress", "Egress"],
                "ingress": [{"from": [{"podSelector": {"matchLabels": {format!("peer-{bit}"): "yes"}}}]}],
            },
        });
        let policy = serde_json::from_value::<networking::NetworkPolicy>(policy).unwrap();
        apply(&mut engine, Event::Policy(Box::new(policy.into())));
    }
    apply(&mut engine, of_bits("b", 1));
    engine.commit();
    apply(&mut engine, of_bits("b", 2));
    for number in 1..256 {
        let there = apply(&mut engine, of_bits("a", number));
        engine.commit();
        let of_a: Vec<_> = engine.retained().filter(|group| group.namespace == "a").collect();
        for direction in Direction::ALL {
            let count = of_a.iter().filter(|group| group.direction == direction).count();
            assert!(count == 16.min(number as usize - 1), "{count} empty groups after {number} changes");
        }
        let of_b = engine.retained().filter(|group| group.namespace == "b").count();
        assert_eq!(of_b, 2, "another namespace's group stays in each direction");
        if number.is_multiple_of(50) {
            assert_eq!(*engine.state(), fresh(&there, &options, &engine, &[]));
        }
    }
    // Those that lost their endpoint last stay: the pod may go back to them.
    apply(&mut engine, of_bits("a", 255 - 16));
    assert!(!writes_rules(&engine.commit()), "the sixteenth before it is retained");
}
