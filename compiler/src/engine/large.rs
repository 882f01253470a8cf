//! Large changes are loaded first.
//!
//! Events of a namespace that make many rules or large sets wait, and so do all events of that
//! namespace that come after them: the engine is not given them. What they will make is
//! *expected*: chains that no rule leads to, and their sets. These come into the state piece
//! by piece ([`Engine::load`]), and events of other namespaces go on meanwhile. Once all of it
//! is there, the engine is given the events that waited, together. Chains are named by their
//! content, so that commit finds them there and writes little.
//!
//! ```text
//! offer ─▶ small: applied at once
//!      └─▶ large: wait ─▶ foresee: chains, sets ─▶ load … load ─▶ applied together
//! ```
//!
//! So each state is that of events which the engine was given, in the order of their namespace,
//! and of things in the kernel that no packet meets.
//!
//! One kind of event does not wait: that a pod is gone, has ended, or has lost its address.
//! Another pod, of any namespace, may have the address next. And a pod of this node that is new
//! is isolated at once, by the policies that are in force; but no rule admits it as a peer before
//! its event's turn.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

use super::groups::{Foreseen, ToCome};
use super::key::PodKey;
use super::{Engine, Event};
use crate::object::{Family, Pod};
use crate::plan::{ChainWrites, Plan, SetWrite, Step};
use crate::policy::Policy;
use crate::ruleset::node::{ChainName, Rule, SetName};

/// Of the limit of a change that is not large, this part is how many sets may go in one commit.
/// The others go in portions. The kernel looks through all sets for each.
const SWEPT: usize = 4;

/// So many members of a set cost as much as a rule.
const MEMBERS: usize = 20;

/// How much is loaded at once.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[cfg_attr(not(feature = "internals"), non_exhaustive)]
pub struct Portion {
    /// Sets that are created or go. Twenty members of a set count as one.
    pub sets: usize,
    /// Rules.
    pub rules: usize,
}

/// An object of a namespace.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
enum Object {
    Namespace,
    Policy(String),
    Pod(PodKey),
}

/// The last event about each of some objects. The engine is given all of them at once, so
/// their order says nothing, nor do those before them.
type Events = BTreeMap<Object, Event>;

/// A namespace whose events wait.
#[derive(Debug, Default)]
pub(super) struct Waiting {
    events: Events,
    /// What these will make; nothing until the next commit.
    expected: Option<Expected>,
    /// Those that came after it was found out.
    later: Events,
}

/// What events that wait will make, and how much of it is there.
#[derive(Debug)]
struct Expected {
    /// Who uses the sets.
    user: Arc<str>,
    chains: Vec<ExpectedChain>,
    /// The sets of all chains.
    sets: Vec<SetName>,
    /// So many of the sets have all their members, and so many of the chains all rules.
    whole_sets: usize,
    whole_chains: usize,
}

#[derive(Debug)]
struct ExpectedChain {
    family: Family,
    name: ChainName,
    rules: Vec<Rule>,
}

impl Expected {
    fn is_whole(&self) -> bool {
        self.whole_sets == self.sets.len() && self.whole_chains == self.chains.len()
    }
}

/// Whether events wait, and for what.
#[derive(Debug, Default)]
pub(super) struct Large {
    /// A change with more rules and sets than this is large; `None` if no change is.
    limit: Option<usize>,
    waiting: BTreeMap<String, Waiting>,
    /// What was expected by namespaces whose events were given since the last commit.
    released: Vec<Expected>,
    /// The namespace of which something was loaded last.
    last: Option<String>,
}

impl Engine {
    /// Has events that are offered wait if they make more rules and sets than this.
    #[must_use]
    pub fn with_large_changes_first(mut self, limit: usize) -> Self {
        self.large.limit = Some(limit);
        self
    }

    /// As [`Engine::apply`]; but an event that makes much waits, with all events of its
    /// namespace, until what it makes is loaded. Never before the first commit.
    pub fn offer(&mut self, event: Event) {
        let Some(limit) = self.large.limit.filter(|_| !self.is_first) else { return self.apply(event) };
        match event {
            Event::PodGone(key) => self.pod_is_gone(key),
            Event::Pod(pod) if !pod.is_endpoint() => self.pod_is_gone(PodKey::of(&pod)),
            Event::Pod(pod) => {
                let key = PodKey::of(&pod);
                self.is_elsewhere_no_more(&key, &pod.namespace);
                if self.large.waiting.contains_key(&pod.namespace) {
                    if self.loses_address(&pod, &key) {
                        self.pod_is_gone(key.clone());
                    }
                    // What may be small after all is known at the next commit.
                    if self.large.waiting.get(&pod.namespace).is_some_and(|waiting| waiting.expected.is_some()) {
                        self.isolate(&pod, limit);
                    }
                } else if !self.store.is_this_node(pod.node.as_deref())
                    || self.groups.most(&pod.namespace, None, true) <= limit
                {
                    return self.apply(Event::Pod(pod));
                }
                self.wait(pod.namespace.clone(), Object::Pod(key), Event::Pod(pod));
            }
            Event::Policy(policy) => {
                let namespace = policy.namespace();
                if !self.large.waiting.contains_key(namespace) {
                    let (read, findings) = Policy::read(&policy);
                    if self.groups.most(namespace, Some(&read), false) <= limit {
                        return self.policy(read, findings);
                    }
                }
                let (namespace, name) = (namespace.to_owned(), policy.name().to_owned());
                self.wait(namespace, Object::Policy(name), Event::Policy(policy));
            }
            Event::PolicyGone(namespace, name) => {
                let waits = self.large.waiting.contains_key(&namespace);
                if !waits && self.groups.most(&namespace, None, false) <= limit {
                    return self.apply(Event::PolicyGone(namespace, name));
                }
                self.wait(namespace.clone(), Object::Policy(name.clone()), Event::PolicyGone(namespace, name));
            }
            Event::Namespace(namespace) if self.large.waiting.contains_key(&namespace.name) => {
                self.wait(namespace.name.clone(), Object::Namespace, Event::Namespace(namespace));
            }
            Event::NamespaceGone(name) if self.large.waiting.contains_key(&name) => {
                self.wait(name.clone(), Object::Namespace, Event::NamespaceGone(name));
            }
            event => self.apply(event),
        }
    }

    fn wait(&mut self, namespace: String, object: Object, event: Event) {
        let waiting = self.large.waiting.entry(namespace).or_default();
        let events = if waiting.expected.is_some() { &mut waiting.later } else { &mut waiting.events };
        events.insert(object, event);
    }

    fn pod_is_gone(&mut self, key: PodKey) {
        let object = Object::Pod(key.clone());
        for waiting in self.large.waiting.values_mut() {
            waiting.events.remove(&object);
            waiting.later.remove(&object);
        }
        self.apply(Event::PodGone(key));
    }

    /// What waits of a pod under another namespace is past. No API server moves a pod, but files
    /// may seem to.
    fn is_elsewhere_no_more(&mut self, key: &PodKey, namespace: &str) {
        for (_, waiting) in self.large.waiting.iter_mut().filter(|(name, _)| *name != namespace) {
            let object = Object::Pod(key.clone());
            waiting.events.remove(&object);
            waiting.later.remove(&object);
        }
    }

    /// Isolates a pod that is new, of a namespace whose events wait, by the policies that are in
    /// force. No rule admits it as a peer: a policy that came before it may be the one that is
    /// waited for, and admit it no more.
    fn isolate(&mut self, pod: &Pod, limit: usize) {
        let key = PodKey::of(pod);
        if !self.store.is_this_node(pod.node.as_deref()) || self.store.find(&key).is_some() {
            return;
        }
        let to_come = ToCome { pods: vec![pod], ..ToCome::default() };
        let foreseen = self.groups.foresee(&self.store, &pod.namespace, to_come);
        if self.cost(&foreseen) > limit {
            return;
        }
        self.pod(pod);
        if let Some(id) = self.store.find(&key) {
            self.store.is_no_peer_yet(id);
        }
    }

    /// The pods that are isolated and that no rule admits as peers, because their namespaces
    /// wait.
    pub fn pods_without_peers(&self) -> impl Iterator<Item = PodKey> {
        self.store.no_peers()
    }

    /// Whether a pod of a namespace whose events wait lists an address no more that it listed
    /// before, as the last event about it said.
    fn loses_address(&self, pod: &Pod, key: &PodKey) -> bool {
        let object = Object::Pod(key.clone());
        let waiting = self.large.waiting.get(&pod.namespace);
        let before = waiting.and_then(|waiting| waiting.later.get(&object).or_else(|| waiting.events.get(&object)));
        let is_lost = |address: IpAddr| !pod.addresses().any(|still| still == address);
        match (before, self.store.find(key)) {
            (Some(Event::Pod(before)), _) => before.addresses().any(is_lost),
            (_, Some(known)) => {
                Family::ALL.into_iter().filter_map(|family| self.store.listed(known, family)).any(is_lost)
            }
            _ => false,
        }
    }

    /// Whether the events of a namespace wait.
    #[must_use]
    pub fn is_waiting(&self, namespace: &str) -> bool {
        self.large.waiting.contains_key(namespace)
    }

    /// Whether a pod that lists this address is of a namespace whose events wait.
    #[must_use]
    pub fn waits_for(&self, address: IpAddr) -> bool {
        let lists = |event: &Event| matches!(event, Event::Pod(pod) if pod.addresses().any(|listed| listed == address));
        let mut waiting = self.large.waiting.values();
        waiting.any(|waiting| waiting.events.values().chain(waiting.later.values()).any(lists))
            || !self.large.waiting.is_empty()
                && self.owner(address).is_some_and(|[namespace, ..]| self.is_waiting(&namespace))
    }

    /// The namespaces whose events wait, and how many rules are expected of each.
    pub fn waiting(&self) -> impl Iterator<Item = (&str, usize)> {
        self.large.waiting.iter().map(|(namespace, waiting)| {
            let chains = waiting.expected.iter().flat_map(|expected| &expected.chains);
            (namespace.as_str(), chains.map(|chain| chain.rules.len()).sum())
        })
    }

    /// Whether [`Engine::load`] has something to do, or the next commit has.
    #[must_use]
    pub fn is_loading(&self) -> bool {
        self.large.limit.is_some() && (!self.large.waiting.is_empty() || self.sets.has_unused())
    }

    /// How many sets the next commit may take away.
    pub(super) fn swept_at_once(&self) -> usize {
        self.large.limit.map_or(usize::MAX, |limit| limit / SWEPT)
    }

    /// Gives the engine the events that waited for what is loaded now, and finds out what those
    /// will make that came since the last commit.
    pub(super) fn give(&mut self) {
        let Some(limit) = self.large.limit else { return };
        for (namespace, mut waiting) in std::mem::take(&mut self.large.waiting) {
            match waiting.expected.take() {
                Some(expected) if expected.is_whole() => {
                    waiting.events.into_values().for_each(|event| self.apply(event));
                    self.large.released.push(expected);
                    if !waiting.later.is_empty() {
                        let next = Waiting { events: waiting.later, ..Waiting::default() };
                        self.large.waiting.insert(namespace, next);
                    }
                }
                Some(expected) => {
                    waiting.expected = Some(expected);
                    self.large.waiting.insert(namespace, waiting);
                }
                None => {
                    let foreseen = self.foresee(&namespace, &waiting.events);
                    if self.cost(&foreseen) <= limit {
                        waiting.events.into_values().for_each(|event| self.apply(event));
                    } else {
                        let expected = self.expect(&namespace, foreseen);
                        if self.is_over_bound(&expected) {
                            // The bound on set members takes rules away, so little is to be loaded.
                            waiting.events.into_values().for_each(|event| self.apply(event));
                            self.large.released.push(expected);
                            continue;
                        }
                        waiting.expected = Some(expected);
                        for event in waiting.events.values() {
                            if let Event::Pod(pod) = event {
                                self.isolate(pod, limit);
                            }
                        }
                        self.large.waiting.insert(namespace, waiting);
                    }
                }
            }
        }
    }

    fn foresee(&self, namespace: &str, events: &Events) -> Vec<Foreseen> {
        let mut to_come = ToCome::default();
        for (object, event) in events {
            match (object, event) {
                (Object::Policy(name), Event::Policy(policy)) => {
                    to_come.policies.insert(Arc::from(name.as_str()), Some(Policy::read(policy).0));
                }
                (Object::Policy(name), _) => drop(to_come.policies.insert(Arc::from(name.as_str()), None)),
                (_, Event::Pod(pod)) => to_come.pods.push(pod),
                _ => {}
            }
        }
        self.groups.foresee(&self.store, namespace, to_come)
    }

    /// How many rules and sets are new in these chains.
    fn cost(&self, foreseen: &[Foreseen]) -> usize {
        let new = foreseen.iter().filter(|chain| !self.groups.has_chain(chain.family, &chain.chain));
        let of_chain = new.map(|chain| {
            let sets = chain.sets.iter().filter(|(name, _)| !self.sets.is_whole(name));
            chain.rules.len() + sets.map(|(_, set)| 1 + set.prefixes() / MEMBERS).sum::<usize>()
        });
        of_chain.sum()
    }

    /// Whether the sets that are expected of a namespace have more members than its policies may
    /// ask for. They count apart, because the policies in force are not over the bound for it.
    fn is_over_bound(&mut self, expected: &Expected) -> bool {
        self.peers.measure(&self.store);
        self.sets.count(&self.store, &mut self.peers);
        self.sets.total(&expected.user) > self.groups.most_members()
    }

    fn expect(&mut self, namespace: &str, foreseen: Vec<Foreseen>) -> Expected {
        // No namespace has such a name.
        let mut expected = Expected {
            user: Arc::from(format!("{namespace}/expected")),
            chains: Vec::new(),
            sets: Vec::new(),
            whole_sets: 0,
            whole_chains: 0,
        };
        for Foreseen { family, chain, rules, sets } in foreseen {
            for (name, definition) in sets {
                self.sets.keep(&mut self.store, &mut self.peers, (family, &expected.user), &name, &definition);
                self.sets.expect(&name);
                expected.sets.push(name);
            }
            self.groups.expect(family, &chain);
            expected.chains.push(ExpectedChain { family, name: chain, rules });
        }
        expected
    }

    /// Lets go of what was expected by namespaces that have their events now. Answers the chains
    /// that no group has.
    pub(super) fn release_expected(&mut self) -> Vec<(Family, ChainName)> {
        let mut unused = Vec::new();
        for expected in std::mem::take(&mut self.large.released) {
            for name in &expected.sets {
                self.sets.expect_no_more(name, &expected.user);
            }
            for ExpectedChain { family, name, .. } in expected.chains {
                if self.groups.expect_no_more(family, &name) {
                    unused.push((family, name));
                }
            }
        }
        unused
    }

    /// Brings a portion of what is expected into the state, and plans the writes that do so in
    /// the kernel, which holds the state. No packet meets what they write. Nothing while the next
    /// commit has something to do.
    ///
    /// Namespaces take turns. Sets come before the rules that ask them.
    pub fn load(&mut self, portion: Portion) -> Plan {
        // What changes a set by an event would come twice.
        if !self.touched.is_empty() {
            return Plan::default();
        }
        self.peers.settle(&self.store);
        let is_expecting = |waiting: &Waiting| waiting.expected.as_ref().is_some_and(|expected| !expected.is_whole());
        let expecting = || self.large.waiting.iter().filter(|(_, waiting)| is_expecting(waiting)).map(|(name, _)| name);
        let next = expecting().find(|name| self.large.last.as_ref().is_none_or(|last| *name > last));
        let next = next.or_else(|| expecting().next()).cloned();
        let mut plan = Plan::default();
        if let Some(namespace) = next
            && let Some(mut waiting) = self.large.waiting.remove(&namespace)
        {
            if let Some(expected) = &mut waiting.expected {
                plan = self.load_sets(expected, portion.sets);
                if expected.whole_sets == expected.sets.len() && plan.is_empty() {
                    plan = self.load_chains(expected, portion.rules);
                }
            }
            self.large.waiting.insert(namespace.clone(), waiting);
            self.large.last = Some(namespace);
        } else {
            let gone = self.sets.sweep(&mut self.store, &mut self.peers, portion.sets);
            if !gone.is_empty() {
                let writes = gone.into_iter().map(|(_, name)| SetWrite::Destroy(name)).collect();
                plan.steps.extend([Step::Grace, Step::Sets(writes)]);
            }
        }
        for step in &plan.steps {
            // It was made of the state a moment ago.
            let _ = step.apply(&mut self.state);
        }
        plan
    }

    fn load_sets(&mut self, expected: &mut Expected, most: usize) -> Plan {
        let mut writes = Vec::new();
        let mut left = most.max(1);
        while let Some(name) = expected.sets.get(expected.whole_sets).filter(|_| left > 0) {
            let present = self.state.family(name.family()).sets.get(name).map(|(_, members)| members);
            let index = (&self.store, &self.peers);
            let Some(loaded) = self.sets.load(name, index, present, left * MEMBERS) else {
                // Some group asks it meanwhile, or another chain that was expected.
                expected.whole_sets += 1;
                continue;
            };
            left = left.saturating_sub(1 + loaded.added.len() / MEMBERS);
            writes.extend(loaded.created.map(|(family, kind)| SetWrite::Create(name.clone(), family, kind)));
            writes.extend(loaded.removed.into_iter().map(|member| SetWrite::Delete(name.clone(), member)));
            writes.extend(loaded.added.into_iter().map(|member| SetWrite::Add(name.clone(), member)));
            if !loaded.is_whole {
                break;
            }
            expected.whole_sets += 1;
        }
        Plan { steps: if writes.is_empty() { Vec::new() } else { vec![Step::Sets(writes)] } }
    }

    fn load_chains(&mut self, expected: &mut Expected, most: usize) -> Plan {
        let mut writes = [ChainWrites::default(), ChainWrites::default()];
        let mut left = most.max(1);
        while let Some(chain) = expected.chains.get(expected.whole_chains).filter(|_| left > 0) {
            let there = self.state.family(chain.family).chains.get(&chain.name).map(Vec::len);
            let rest = &chain.rules[there.unwrap_or_default().min(chain.rules.len())..];
            let some = &rest[..rest.len().min(left)];
            left -= some.len();
            let writes = &mut writes[chain.family as usize];
            match there {
                None => drop(writes.replace.insert(chain.name.clone(), some.to_vec())),
                Some(_) if some.is_empty() => {}
                Some(_) => drop(writes.append.insert(chain.name.clone(), some.to_vec())),
            }
            if some.len() < rest.len() {
                break;
            }
            expected.whole_chains += 1;
        }
        let some = Family::ALL.into_iter().zip(writes).filter(|(_, writes)| *writes != ChainWrites::default());
        Plan { steps: some.map(|(family, writes)| Step::Chains(family, writes)).collect() }
    }
}
