//! After any sequence of events the engine's state is that of a fresh compile
//! of the final objects, and its plans lead there.
#![allow(clippy::unwrap_used, reason = "a test that finds nothing has failed")]

use std::collections::BTreeMap;

use npc_compiler::cluster::Cluster;
use npc_compiler::engine::{Engine, Event, PodKey};
use npc_compiler::layout::{self, Options, SelfMatch};
use npc_compiler::object::{Family, Objects};
use npc_compiler::plan::{Delta, KernelState};
use npc_lab::model::Model;
use npc_lab::random;
use proptest::prelude::*;
use proptest::test_runner::TestCaseError;

const NODE: &str = "n1";

/// Objects by what tells them apart, each as the event that brings it.
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
    all
}

/// What leads from some objects to others, in the order of these numbers, with
/// some events twice, and with objects in between that come and go.
fn lead(from: &Objects, through: &Objects, to: &Objects, order: &[u32]) -> Vec<Event> {
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

fn distinct(mut objects: Objects) -> Objects {
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

fn check(stages: &[Objects], order: &[u32], options: &Options) -> Result<(), TestCaseError> {
    let mut engine = Engine::new(NODE, options.clone());
    let mut kernels = Family::ALL.map(|family| Model::new(family, &npc_compiler::plan::Held::default()));
    let mut was = Objects::default();
    for (i, is) in stages.iter().enumerate() {
        let through = &stages[(i + 1) % stages.len()];
        for (n, event) in lead(&was, through, is, order).into_iter().enumerate() {
            engine.apply(event);
            // Now and then in the middle, and always at the end.
            if order[n % order.len()].is_multiple_of(5) {
                let plan = engine.commit();
                for kernel in &mut kernels {
                    kernel.apply(&plan, |_, _, _| {});
                }
            }
        }
        let plan = engine.commit();
        let fresh = KernelState::from(&layout::program(&Cluster::new(is), NODE, options));
        for (family, kernel) in Family::ALL.into_iter().zip(&mut kernels) {
            kernel.apply(&plan, |_, _, _| {});
            let missed = Delta::between(engine.state().family(family), fresh.family(family));
            prop_assert!(missed.is_empty(), "stage {i}: the engine missed {missed:#?}");
            let missed = Delta::between(&kernel.held(), fresh.family(family));
            prop_assert!(missed.is_empty(), "stage {i}: the plan missed {missed:#?}");
        }
        prop_assert!(engine.commit().is_empty(), "a second commit has nothing to do");
        was = is.clone();
    }
    Ok(())
}

#[test]
fn any_sequence_of_events_leads_where_a_fresh_compile_does() {
    let cases = std::env::var("NPC_CASES").ok().and_then(|cases| cases.parse().ok()).unwrap_or(1_000);
    let mut runner = random::runner(7, cases);
    let objects = || random::objects().prop_map(distinct);
    let order = proptest::collection::vec(any::<u32>(), 16..64);
    let fallback = proptest::bool::weighted(0.2);
    runner
        .run(&(objects(), objects(), objects(), order, fallback), |(a, b, c, order, fallback)| {
            let self_match = if fallback { SelfMatch::PerEndpoint } else { SelfMatch::Bpf };
            let options = Options { self_match, log_denied: order[0].is_multiple_of(2), ..Options::default() };
            check(&[a, b, c], &order, &options)
        })
        .unwrap();
}
