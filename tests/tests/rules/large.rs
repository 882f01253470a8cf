//! Large changes of a namespace are loaded first, and events of others go on meanwhile. Every
//! state on the way is one of events that the engine was given, in the order of each namespace.
#![allow(clippy::unwrap_used, reason = "a test that finds nothing has failed")]

mod beside;
mod examples;
mod placeholders;
mod together;

use std::cell::Cell;
use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use npc_compiler::cluster::Cluster;
use npc_compiler::engine::{Engine, Event, PodKey, Portion, Preview, Previewed};
use npc_compiler::object::{Family, Labels, Objects, Pod};
use npc_compiler::plan::{Delta, FamilyState, KernelState, Plan, Step};
use npc_compiler::policy::{Direction, Policy};
use npc_compiler::ruleset::layout::{self, RulesetOptions};
use npc_compiler::ruleset::node::{ChainName, ChainRole, Member, Rule, SetName};
use npc_tests::model::Model;
use npc_tests::random;
use proptest::prelude::*;
use proptest::test_runner::TestCaseError;

use super::engine::{NODE, distinct, follow, fresh, lead};
use super::hitless::{packets, questions, watch};

/// The namespace whose order an event belongs to. Namespaces themselves are the cluster's.
fn namespace_of(event: &Event, pods: &BTreeMap<PodKey, String>) -> Option<String> {
    match event {
        Event::Pod(pod) => Some(pod.namespace.clone()),
        Event::PodGone(key) => pods.get(key).cloned(),
        Event::Policy(policy) => Some(policy.namespace().to_owned()),
        Event::PolicyGone(namespace, _) => Some(namespace.clone()),
        _ => None,
    }
}

/// How many events of each namespace were given to the engine.
type Given = BTreeMap<String, usize>;

/// All events so far.
#[derive(Debug, Default)]
struct History {
    events: Vec<(Option<String>, Event)>,
    pods: BTreeMap<PodKey, String>,
    /// How many of them were given, by namespace. Different numbers may give the same state, because one event may undo
    /// another. These are the smallest: if one is less than another in all namespaces, only the lesser one is kept.
    given: Vec<Given>,
    /// In how many states the labels of events that wait counted for other namespaces.
    relabelled: usize,
}

impl History {
    /// Offers an event to the engine.
    fn offer(&mut self, engine: &mut Engine, event: Event) {
        let namespace = namespace_of(&event, &self.pods);
        if let Event::Pod(pod) = &event {
            self.pods.insert(PodKey::of(pod), pod.namespace.clone());
        }
        self.events.push((namespace, event.clone()));
        engine.offer(event);
    }

    fn count(&self, namespace: &str) -> usize {
        self.events.iter().filter(|(of, _)| of.as_deref() == Some(namespace)).count()
    }

    /// What is there after so many events of some namespaces, and all events of the others. Of those
    /// behind them only that counts which frees an address.
    fn objects(&self, given: &Given) -> Objects {
        let mut objects = Objects::default();
        let mut listed = BTreeMap::<PodKey, BTreeSet<IpAddr>>::new();
        let mut counts = BTreeMap::<&str, usize>::new();
        for (namespace, event) in &self.events {
            let is_given = namespace.as_deref().is_none_or(|namespace| {
                let count = counts.entry(namespace).or_default();
                *count += 1;
                given.get(namespace).is_none_or(|given| *count <= *given)
            });
            let frees = match event {
                Event::PodGone(_) => true,
                Event::Pod(pod) => {
                    let now: BTreeSet<IpAddr> = pod.addresses().collect();
                    let before = listed.insert(PodKey::of(pod), now.clone());
                    !pod.is_endpoint() || before.is_some_and(|before| !before.is_subset(&now))
                }
                _ => false,
            };
            match event {
                event if is_given => follow(&mut objects, event),
                Event::Pod(pod) if frees => follow(&mut objects, &Event::PodGone(PodKey::of(pod))),
                event if frees => follow(&mut objects, event),
                _ => {}
            }
            if let Event::PodGone(key) = event {
                listed.remove(key);
            } else if let Event::Pod(pod) = event
                && !pod.is_endpoint()
            {
                listed.remove(&PodKey::of(pod));
            }
        }
        objects
    }

    /// The state of these events, with what stands for pods of this node that wait; and with the labels of
    /// events that wait, where they count.
    fn desired(&mut self, given: &Given, engine: &Engine, options: &RulesetOptions) -> KernelState {
        let mut objects = self.objects(given);
        let newest: BTreeMap<PodKey, Labels> =
            self.objects(&Given::new()).pods.iter().map(|pod| (PodKey::of(pod), pod.labels.clone())).collect();
        let is_relabelled = |pod: &Pod| newest.get(&PodKey::of(pod)).is_some_and(|labels| *labels != pod.labels);
        objects.pods.extend(engine.placeholders().cloned());
        objects.policies.extend(placeholders::policies(engine.placeholders()));
        let mut state = fresh(&objects, options, engine, &[]);
        if !objects.pods.iter().any(is_relabelled) {
            return state;
        }
        // The same sets, where pods have the newest labels. What has their chains has no address.
        let mut later = objects.clone();
        for pod in later.pods.clone().into_iter().filter(is_relabelled) {
            let uid = format!("{} as it was", pod.uid);
            later.pods.push(Pod { uid, name: format!("{}-was", pod.name), ipv4: None, ipv6: None, ..pod });
        }
        for pod in &mut later.pods {
            if let Some(labels) = newest.get(&PodKey::of(pod)) {
                pod.labels.clone_from(labels);
            }
        }
        let later = fresh(&later, options, engine, &[]);
        let cluster = Cluster::new(&objects);
        let addresses: BTreeSet<IpAddr> = objects.pods.iter().flat_map(Pod::addresses).collect();
        // By sets of namespaces: what their own policies make, and what those of other namespaces make.
        let mut used = BTreeMap::<BTreeSet<&str>, [KernelState; 2]>::new();
        for address in addresses {
            let holders = cluster.holders(address, Some(NODE)).iter().map(|id| cluster.pod(*id));
            let of: BTreeSet<&str> =
                holders.filter(|pod| is_relabelled(pod)).map(|pod| pod.namespace.as_str()).collect();
            if of.is_empty() {
                continue;
            }
            let [own, others] = used.entry(of).or_insert_with_key(|of| {
                [true, false].map(|is_own| {
                    let mut some = objects.clone();
                    some.policies.retain(|policy| of.contains(policy.namespace()) == is_own);
                    let retained: Vec<_> =
                        engine.retained().filter(|group| of.contains(group.namespace.as_str()) == is_own).collect();
                    KernelState::from(&layout::ruleset_with(&Cluster::new(&some), NODE, options, &retained))
                })
            });
            for family in Family::ALL {
                for (name, (_, members)) in &mut state.family_mut(family).sets {
                    if name.leads_to_groups() {
                        continue;
                    }
                    let is_of = |member: &Member| match member {
                        Member::Address(of) | Member::AddressPort(of, ..) => *of == address,
                        _ => false,
                    };
                    let newest: BTreeSet<Member> =
                        later.family(family).sets[name].1.iter().filter(|member| is_of(member)).cloned().collect();
                    let (is_own, is_others) =
                        (own.family(family).sets.contains_key(name), others.family(family).sets.contains_key(name));
                    let before = members.clone();
                    if is_others {
                        members.retain(|member| !is_of(member) || newest.contains(member));
                        if !is_own {
                            members.extend(newest);
                        }
                    }
                    self.relabelled += usize::from(before != *members);
                }
            }
        }
        state
    }

    /// Each address of this node is known, or what stands for its pod has it and is isolated as policies in
    /// force isolate the pod.
    fn check_placeholders(&self, given: &Given, engine: &Engine) -> Result<(), String> {
        let (objects, all) = (self.objects(given), self.objects(&Given::new()));
        let lists = |pods: &[Pod], key: &PodKey, address| {
            pods.iter().any(|pod| PodKey::of(pod) == *key && pod.addresses().any(|listed| listed == address))
        };
        let here = all.pods.iter().filter(|pod| pod.node.as_deref() == Some(NODE) && pod.is_endpoint());
        let mut desired = BTreeSet::new();
        for (pod, address) in here.flat_map(|pod| pod.addresses().map(move |address| (pod, address))) {
            if lists(&objects.pods, &PodKey::of(pod), address) {
                continue;
            }
            desired.insert((pod.namespace.clone(), pod.name.clone(), address));
            let stands = |placeholder: &&Pod| {
                placeholder.name == pod.name
                    && placeholder.namespace.ends_with(&format!("/{}", pod.namespace))
                    && placeholder.addresses().any(|listed| listed == address)
            };
            let placeholder = engine.placeholders().find(stands).ok_or(format!("{address} is known to nothing"))?;
            for policy in objects.policies.iter().filter(|policy| policy.namespace() == pod.namespace) {
                let (policy, _) = Policy::read(policy);
                for direction in Direction::ALL {
                    let isolates = policy.isolates(direction) && policy.subject.matches(&pod.labels);
                    if isolates && !placeholder.labels.contains_key(direction.as_str()) {
                        return Err(format!("{address} is open for {}", direction.as_str()));
                    }
                }
            }
        }
        let is_desired = |placeholder: &Pod| {
            let namespace = placeholder.namespace.rsplit('/').next().unwrap_or_default();
            placeholder
                .addresses()
                .all(|address| desired.contains(&(namespace.to_owned(), placeholder.name.clone(), address)))
        };
        match engine.placeholders().find(|placeholder| !is_desired(placeholder)) {
            Some(placeholder) => Err(format!("{placeholder:?} stands for nothing")),
            None => Ok(()),
        }
    }

    /// Finds which events the engine's state is of: of a namespace that waits, of the first ones, and
    /// no fewer than before.
    fn check(&mut self, engine: &Engine, options: &RulesetOptions) -> Result<(), TestCaseError> {
        let waiting: Vec<String> = engine.waiting().map(|wait| wait.namespace.to_owned()).collect();
        let mut candidates = BTreeSet::<Given>::new();
        for before in self.given.iter().cloned().chain(self.given.is_empty().then(Given::new)) {
            let mut of_this = vec![Given::new()];
            for namespace in &waiting {
                let counts = before.get(namespace).copied().unwrap_or_default()..=self.count(namespace);
                let with = |known: Given| {
                    counts.clone().map(move |count| {
                        let mut with = known.clone();
                        with.insert(namespace.clone(), count);
                        with
                    })
                };
                of_this = of_this.into_iter().flat_map(with).collect();
            }
            candidates.extend(of_this);
        }
        let mut missed = None;
        let mut found = Vec::<Given>::new();
        // In this order none is less in all namespaces than one before it.
        for given in candidates {
            let is_less = |less: &Given| less.iter().all(|(namespace, count)| *count <= given[namespace]);
            if found.iter().any(is_less) {
                continue;
            }
            let desired = self.desired(&given, engine, options);
            let state = match without_expected(engine.state(), &desired) {
                Ok(state) => state,
                Err(other) => {
                    missed.get_or_insert(other);
                    continue;
                }
            };
            let differs = Family::ALL.map(|family| Delta::between(state.family(family), desired.family(family)));
            if !differs.iter().all(Delta::is_empty) {
                missed.get_or_insert_with(|| format!("{differs:#?}"));
            } else if let Err(other) = self.check_placeholders(&given, engine) {
                missed.get_or_insert(other);
            } else {
                found.push(given);
            }
        }
        prop_assert!(
            !found.is_empty(),
            "no state of events in their order: {:?} wait, {}",
            waiting,
            missed.unwrap_or_default()
        );
        let all: BTreeSet<String> = self.events.iter().filter_map(|(namespace, _)| namespace.clone()).collect();
        for given in &mut found {
            for namespace in &all {
                given.entry(namespace.clone()).or_insert_with(|| self.count(namespace));
            }
        }
        self.given = found;
        Ok(())
    }
}

/// A state without what no packet meets: chains of groups to which nothing leads, and the sets
/// that nothing else asks.
fn without_expected(state: &KernelState, desired: &KernelState) -> Result<KernelState, String> {
    let mut state = state.clone();
    for family in Family::ALL {
        let (actual, desired) = (state.family_mut(family), desired.family(family));
        let targets: BTreeSet<ChainName> =
            actual.chains.values().flatten().filter_map(|rule| rule.leads_to().cloned()).collect();
        let extra: Vec<ChainName> =
            actual.chains.keys().filter(|chain| !desired.chains.contains_key(*chain)).cloned().collect();
        for chain in extra {
            let is_of_group = matches!(chain.role(), ChainRole::Group(_));
            if !is_of_group || targets.contains(&chain) {
                return Err(format!("{chain} is there"));
            }
            actual.chains.remove(&chain);
        }
        let asked: BTreeSet<SetName> = actual.chains.values().flatten().flat_map(Rule::sets).cloned().collect();
        actual.sets.retain(|name, _| desired.sets.contains_key(name) || asked.contains(name) || name.leads_to_groups());
    }
    Ok(state)
}

/// What is loaded changes no verdict at any moment.
fn watch_load(
    kernels: &mut [Model; 2],
    plan: &Plan,
    packets: impl Fn(Family) -> Vec<npc_tests::model::Packet>,
) -> Result<(), TestCaseError> {
    for (family, kernel) in Family::ALL.into_iter().zip(kernels) {
        let asked: Vec<_> = packets(family)
            .into_iter()
            .step_by(7)
            .flat_map(|packet| questions(&packet).map(move |question| (packet, question)).collect::<Vec<_>>())
            .collect();
        let before: Vec<bool> = asked.iter().map(|(packet, question)| kernel.verdict(*question, packet)).collect();
        let mut changed = None;
        kernel.apply(plan, |kernel, what, _| {
            let now = asked.iter().map(|(packet, question)| kernel.verdict(*question, packet));
            if changed.is_none() && !now.eq(before.iter().copied()) {
                changed = Some(what.to_owned());
            }
        });
        prop_assert!(changed.is_none(), "a packet met what is loaded: {changed:?}");
    }
    Ok(())
}

/// What a thread beside the loop does, as slowly as the test wants.
#[derive(Debug, Default)]
enum Beside {
    #[default]
    Idle,
    /// It is at work.
    Busy(Box<Preview>),
    /// It is done, and the loop does not know yet.
    Done(Box<Previewed>),
}

impl Beside {
    /// It goes on, if so wanted. Whether the engine has something more.
    fn step(&mut self, engine: &mut Engine, goes_on: bool) -> bool {
        if !goes_on {
            return false;
        }
        match std::mem::take(self) {
            Self::Idle => *self = engine.preview().map_or(Self::Idle, |preview| Self::Busy(Box::new(preview))),
            // Its questions are answered now, also if events came after it began.
            Self::Busy(preview) => {
                let previewed = preview.run(&mut |asked| Some(engine.count(&asked)));
                *self = Self::Done(Box::new(previewed.unwrap()));
            }
            Self::Done(previewed) => {
                engine.previewed(*previewed);
                return true;
            }
        }
        false
    }
}

/// How much the cases had of what they are about.
#[derive(Debug, Default)]
struct Seen {
    previewed_beside: Cell<usize>,
    waited: Cell<usize>,
    others_went_on: Cell<usize>,
    placeholders: Cell<usize>,
    relabelled: Cell<usize>,
    parts: Cell<usize>,
    restarts: Cell<usize>,
}

fn add(count: &Cell<usize>, more: bool) {
    count.set(count.get() + usize::from(more));
}

/// An event that gives a pod other labels and nothing else, if later events say of it what it will be.
fn relabelled(history: &History, later: &[Event], labels: &[Pod], number: usize) -> Option<Event> {
    let keys: BTreeSet<PodKey> = later
        .iter()
        .filter_map(|event| match event {
            Event::Pod(pod) => Some(PodKey::of(pod)),
            Event::PodGone(key) => Some(key.clone()),
            _ => None,
        })
        .collect();
    let objects = history.objects(&Given::new());
    let known = objects.pods.iter().filter(|pod| pod.is_endpoint() && pod.addresses().next().is_some());
    let known: Vec<&Pod> = known.filter(|pod| keys.contains(&PodKey::of(pod))).collect();
    let pod = *known.get(number % known.len().max(1))?;
    let labels = labels.get(number / 7 % labels.len().max(1))?.labels.clone();
    Some(Event::Pod(Box::new(Pod { labels, ..pod.clone() })))
}

fn run(stages: &[Objects], order: &[u32], seen: &Seen) -> Result<(), TestCaseError> {
    let options = RulesetOptions::default();
    let limit = order[0] as usize % 8 + 2;
    let mut engine = Engine::new(NODE, options.clone()).with_large_changes_first(limit);
    if order[1].is_multiple_of(2) {
        engine = engine.with_retained_groups();
    }
    let is_beside = (order[1] >> 1).is_multiple_of(2);
    if is_beside {
        engine.find_out_beside((order[1] >> 2) as usize % 3 * limit);
    }
    let mut beside = Beside::default();
    let mut kernels = Family::ALL.map(|family| Model::new(family, &FamilyState::default()));
    let mut history = History::default();
    let mut was = Objects::default();
    for (i, is) in stages.iter().enumerate() {
        let through = &stages[(i + 1) % stages.len()];
        let in_view = |family| packets(&was, is, family);
        let events = lead(&was, through, is, order);
        for (n, event) in events.iter().enumerate() {
            history.offer(&mut engine, event.clone());
            let number = order[n % order.len()];
            if (number >> 20).is_multiple_of(2)
                && let Some(event) = relabelled(&history, &events[n + 1..], &through.pods, (number >> 21) as usize)
            {
                history.offer(&mut engine, event);
            }
            add(&seen.previewed_beside, beside.step(&mut engine, (number >> 16).is_multiple_of(2)));
            if number.is_multiple_of(3) {
                let before = engine.state().clone();
                let given = history.given.clone();
                let plan = engine.commit();
                for kernel in &mut kernels {
                    kernel.apply(&plan, |_, _, _| {});
                }
                history.check(&engine, &options)?;
                add(&seen.placeholders, engine.placeholders().next().is_some());
                add(&seen.waited, engine.waiting().next().is_some());
                // The state before and this one may each fit several numbers of events. Others went on only
                // if they did for every pair.
                let went_on = |after: &Given, before: &Given| {
                    let mut others = after.iter().filter(|(namespace, _)| !engine.is_waiting(namespace));
                    others.any(|(namespace, count)| before.get(namespace).is_some_and(|before| before < count))
                };
                let others = history.given.iter().all(|after| given.iter().all(|before| went_on(after, before)));
                add(&seen.others_went_on, engine.waiting().next().is_some() && !given.is_empty() && others);
                if (number >> 4).is_multiple_of(3) {
                    watch(&before, engine.state(), in_view)?;
                }
            }
            // Now and then a part of it is loaded, between commits.
            for _ in 0..(number >> 8) % 4 {
                let portion = Portion { sets: 1 + number as usize % 3, rules: 1 + (number >> 2) as usize % 4 };
                let plan = engine.load(portion);
                let appends = |step: &Step| matches!(step, Step::Chains(_, writes) if !writes.append.is_empty());
                add(&seen.parts, plan.steps.iter().any(appends));
                watch_load(&mut kernels, &plan, in_view)?;
                add(&seen.previewed_beside, beside.step(&mut engine, (number >> 17).is_multiple_of(3)));
                for (family, kernel) in Family::ALL.into_iter().zip(&kernels) {
                    prop_assert_eq!(&kernel.actual(), engine.state().family(family));
                }
                // The agent ends here, and another one starts.
                if !plan.is_empty() && (number >> 12).is_multiple_of(5) {
                    add(&seen.restarts, true);
                    let desired =
                        fresh(&history.objects(&BTreeMap::new()), &options, &Engine::new(NODE, options.clone()), &[]);
                    watch(engine.state(), &desired, in_view)?;
                }
            }
        }
        // In the end all has come.
        for _ in 0..1_000 {
            let plan = engine.commit();
            for kernel in &mut kernels {
                kernel.apply(&plan, |_, _, _| {});
            }
            history.check(&engine, &options)?;
            if !engine.is_loading() {
                break;
            }
            watch_load(&mut kernels, &engine.load(Portion { sets: 3, rules: 3 }), in_view)?;
            prop_assert!(is_beside || engine.is_load_due(), "it waits for nothing");
            add(&seen.previewed_beside, beside.step(&mut engine, true));
        }
        prop_assert!(!engine.is_loading(), "it never ends");
        prop_assert!(engine.commit().is_empty(), "a second commit has nothing to do");
        prop_assert_eq!(engine.state(), &fresh(is, &options, &engine, &[]));
        for (family, kernel) in Family::ALL.into_iter().zip(&kernels) {
            prop_assert_eq!(&kernel.actual(), engine.state().family(family));
        }
        was = is.clone();
    }
    seen.relabelled.set(seen.relabelled.get() + history.relabelled);
    Ok(())
}

/// No API server gives pods of two namespaces one UID.
fn of_their_namespaces(mut objects: Objects) -> Objects {
    for pod in objects.pods.iter_mut().filter(|pod| !pod.uid.is_empty()) {
        pod.uid = format!("{}-{}", pod.uid, pod.namespace);
    }
    objects
}

#[test]
fn every_state_while_large_changes_are_loaded_is_of_events_in_the_order_of_their_namespace() {
    // One case here costs what a hundred cost elsewhere.
    let cases = std::env::var("NPC_CASES").ok().and_then(|cases| cases.parse::<u32>().ok()).unwrap_or(0);
    let cases = (cases / 100).max(6);
    let seen = Seen::default();
    let objects = || random::objects().prop_map(distinct).prop_map(of_their_namespaces);
    let order = proptest::collection::vec(any::<u32>(), 16..64);
    random::runner(21, cases)
        .run(&(objects(), objects(), objects(), order), |(a, b, c, order)| run(&[a, b, c], &order, &seen))
        .unwrap();
    // So few cases hardly ever give a pod that waits other labels and nothing else.
    let Seen { previewed_beside, waited, others_went_on, placeholders, parts, restarts, .. } = &seen;
    let counts = [previewed_beside, waited, others_went_on, placeholders, parts, restarts].map(Cell::get);
    assert!(counts.iter().all(|count| *count > 0), "{seen:?}");
}
