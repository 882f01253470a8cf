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
//!      └─▶ large: wait ─▶ preview: chains, sets ─▶ load … load ─▶ applied together
//! ```
//!
//! What takes long to find out is found out [beside the loop](super::preview), one namespace after the other.
//!
//! So each state is that of events which the engine was given, in the order of their namespace,
//! and of things in the kernel that no packet meets.
//!
//! What does not wait:
//!
//! - That a pod is gone, has ended, or has lost its address. Another pod, of any namespace, may have the
//!   address next.
//! - That an address of this node is isolated ([`placeholder`](super::placeholder)). What the rules admit to it waits.
//! - Labels that a pod has no more, for policies of other namespaces ([`pods`]). And labels of
//!   namespaces, which are not the tenant's to write, and change no chain.

mod batch;
mod give;
mod load;
mod pods;

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

use self::batch::{Batch, Expected, Object, ObjectChange, Progress, Released, Waiting};
use super::key::PodKey;
use super::local::Weight;
use super::packed::PackedPolicy;
use super::prepared::PreparedLeaf;
use super::preview::PolicyChange;
use super::{Engine, Event};
use crate::object::{Family, NetworkPolicy, Pod};
use crate::policy::Policy;

/// A commit takes away at most the limit of a change that is not large, divided by this, of the sets that
/// no rule asks. The others go in portions. The kernel looks through all sets for each, and a commit is
/// what others wait for.
const SWEPT: usize = 32;

/// This many members of a set cost as much as a rule.
pub(super) const MEMBERS: usize = 20;

/// How much is loaded at once.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[cfg_attr(not(feature = "internals"), non_exhaustive)]
pub struct Portion {
    /// Sets that are created or go. Twenty members of a set count as one.
    pub sets: usize,
    /// How many rules.
    pub rules: usize,
}

/// What waits of a namespace.
#[derive(Debug, Clone, PartialEq, Eq)]
#[cfg_attr(not(feature = "internals"), non_exhaustive)]
pub struct Wait<'a> {
    /// The namespace.
    pub namespace: &'a str,
    /// The number of its oldest event that waits, in the order of [`Engine::waited`].
    pub first: u64,
    /// The number of the oldest event that waits for the next turn, because what the first events
    /// make is being loaded.
    pub next: Option<u64>,
    /// Whether it is known what the first events make.
    pub is_previewed: bool,
    /// How many rules that is, once it is known.
    pub rules: usize,
    /// How many of them are loaded.
    pub loaded: usize,
}

/// Events of a namespace that came together.
#[derive(Debug, Default)]
struct EventBurst {
    count: usize,
    /// What the policies among them make.
    weight: Weight,
    has_policies: bool,
    /// How many of them are about pods of this node.
    pods: usize,
    /// Whether one is to wait by itself.
    has_large: bool,
}

/// Whether events wait, and for what.
#[derive(Debug, Default)]
pub(super) struct Large {
    /// A change with more rules and sets than this is large; `None` if no change is.
    limit: Option<usize>,
    /// If a change may make more than this, its size is computed beside the loop; `None` if none is.
    beside: Option<usize>,
    /// How many such computations were asked for.
    previews: u64,
    /// The namespace of the last such computation.
    previewed_last: Option<String>,
    waiting: BTreeMap<String, Waiting>,
    /// What stands for pods of this node that wait, by their namespaces and their own keys.
    placeholders: BTreeMap<String, BTreeMap<PodKey, Pod>>,
    /// What was expected by namespaces whose events were given since the last commit.
    released: Vec<Released>,
    /// The namespace that was loaded from last.
    last: Option<String>,
    /// Whether the last portion took away sets that no rule asks.
    has_swept: bool,
    /// How many events have waited so far.
    count: u64,
}

impl Engine {
    /// Has events that are offered wait if they make more rules and sets than this.
    #[must_use]
    pub fn with_large_changes_first(mut self, limit: usize) -> Self {
        self.large.limit = Some(limit);
        self
    }

    /// Has all that may make more rules and sets than this found out by [`Engine::preview`], so that no
    /// commit takes long for it. The caller must then call that after each commit.
    pub fn find_out_beside(&mut self, bound: usize) {
        self.large.beside = Some(bound);
    }

    /// Offers events that came together, each as [`Engine::offer`] does. What they make of a namespace comes together
    /// too. If one of its events has to wait, or all of them together make much, all of them wait.
    ///
    /// Otherwise packets could meet a state of some of them alone, which the cluster may never have had: files change
    /// at once, and a list that is read again says what changed, not in which order.
    pub fn offer_all(&mut self, events: Vec<Event>) {
        let events: Vec<Event> = events.into_iter().map(Event::packed).collect();
        if let Some(limit) = self.large.limit.filter(|_| !self.is_first) {
            for namespace in self.large_together(&events, limit) {
                self.large.waiting.entry(namespace).or_default();
            }
        }
        for event in events {
            self.offer_packed(event);
        }
    }

    /// The namespaces of several of these events whose events are to wait.
    fn large_together(&mut self, events: &[Event], limit: usize) -> Vec<String> {
        let mut together = BTreeMap::<&str, EventBurst>::new();
        for event in events {
            match event {
                Event::Policy(policy) => {
                    let of = together.entry(policy.namespace()).or_default();
                    of.count += 1;
                    of.has_policies = true;
                    of.weight = of.weight.plus(Weight::of_unread(policy));
                }
                Event::PackedPolicy(policy) => {
                    let of = together.entry(policy.without_rules().namespace()).or_default();
                    of.count += 1;
                    of.has_policies = true;
                    of.weight = of.weight.plus(policy.weight());
                    of.has_large |= self.large.beside.is_some();
                }
                Event::PolicyGone(namespace, _) => {
                    let of = together.entry(namespace).or_default();
                    of.count += 1;
                    of.has_policies = true;
                }
                Event::Pod(pod) if pod.is_endpoint() => {
                    let is_here = self.store.is_this_node(pod.node.as_deref());
                    let of = together.entry(&pod.namespace).or_default();
                    of.count += 1;
                    of.pods += usize::from(is_here);
                    of.has_large |= is_here && !self.is_small(pod, limit);
                }
                _ => {}
            }
        }
        let waits = |(namespace, of): &(&str, EventBurst)| {
            of.count > 1 && (of.has_large || of.has_policies && self.upper_bound(namespace, of.weight, of.pods) > limit)
        };
        together.into_iter().filter(waits).map(|(namespace, _)| namespace.to_owned()).collect()
    }

    /// Offers a policy to which no other event of its namespace is ahead.
    fn offer_policy(&mut self, policy: &NetworkPolicy, limit: usize) {
        let (read, findings) = Policy::read(policy);
        if self.upper_bound(&read.namespace, Weight::of(&read), 0) <= limit {
            return self.policy(&Arc::new(read), findings);
        }
        let (namespace, object) = (read.namespace.clone(), Object::Policy(read.name.clone()));
        self.wait(namespace, object, ObjectChange::Policy(PolicyChange::Read(Arc::new(read), findings.into())));
    }

    /// Has a policy wait. It is not read yet, because another version may come before.
    fn policy_waits(&mut self, policy: PackedPolicy) {
        let (namespace, name) =
            (policy.without_rules().namespace().to_owned(), policy.without_rules().name().to_owned());
        self.wait(namespace, Object::Policy(name), ObjectChange::Policy(PolicyChange::unread(policy)));
    }

    /// Applies an event as [`Engine::apply`] does. But an event that makes much waits, with all
    /// events of its namespace, until what it makes is loaded. No event waits before the first
    /// commit.
    pub fn offer(&mut self, event: Event) {
        self.offer_packed(event.packed());
    }

    fn offer_packed(&mut self, event: Event) {
        let Some(limit) = self.large.limit.filter(|_| !self.is_first) else { return self.apply(event) };
        match event {
            Event::PodGone(key) => self.pod_is_gone(key),
            Event::Pod(pod) if !pod.is_endpoint() => self.pod_is_gone(PodKey::of(&pod)),
            Event::Pod(pod) => {
                let key = PodKey::of(&pod);
                self.forget_in_other_namespaces(&key, &pod.namespace);
                let waits = self.large.waiting.contains_key(&pod.namespace);
                let is_here = self.store.is_this_node(pod.node.as_deref());
                if !waits && (!is_here || self.is_small(&pod, limit)) {
                    return self.apply(Event::Pod(pod));
                }
                if self.loses_address(&pod, &key) {
                    self.pod_is_gone(key.clone());
                }
                let namespace = pod.namespace.clone();
                self.wait(namespace.clone(), Object::Pod(key.clone()), ObjectChange::Pod(pod));
                // What may be small after all is known at the next commit.
                let is_new = |waiting: &Waiting| matches!(waiting.progress, Progress::New);
                if self.large.waiting.get(&namespace).is_some_and(|waiting| !is_new(waiting)) {
                    self.update_placeholder(&namespace, &key);
                }
            }
            Event::Policy(policy) if self.large.waiting.contains_key(policy.namespace()) => {
                self.policy_waits(PackedPolicy::new(*policy));
            }
            Event::PackedPolicy(policy)
                if self.large.beside.is_some()
                    || self.large.waiting.contains_key(policy.without_rules().namespace()) =>
            {
                self.policy_waits(*policy);
            }
            Event::Policy(policy) => self.offer_policy(&policy, limit),
            Event::PackedPolicy(policy) => self.offer_policy(&policy.unpack(), limit),
            Event::PolicyGone(namespace, name) => {
                let waits = self.large.waiting.contains_key(&namespace);
                if !waits && self.upper_bound(&namespace, Weight::default(), 0) <= limit {
                    return self.apply(Event::PolicyGone(namespace, name));
                }
                self.wait(namespace, Object::Policy(name), ObjectChange::Policy(PolicyChange::Gone));
            }
            event => self.apply(event),
        }
    }

    /// Whether a pod of this node makes little: another one is of its kind, or policies cannot make more.
    fn is_small(&mut self, pod: &Pod, limit: usize) -> bool {
        self.groups.has_kind_of(&self.store, pod) || self.upper_bound(&pod.namespace, Weight::default(), 1) <= limit
    }

    /// An upper bound of the cost of a change that brings a namespace policies of this weight, and this many pods.
    fn upper_bound(&mut self, namespace: &str, weight: Weight, pods: usize) -> usize {
        let (rules, members) = self.groups.upper_bound(&self.store, namespace, weight, pods);
        rules.saturating_add(usize::try_from(members).unwrap_or(usize::MAX) / MEMBERS)
    }

    fn wait(&mut self, namespace: String, object: Object, change: ObjectChange) {
        drop(self.last_batch(namespace).changes.insert(object, change));
    }

    /// Where the next event of a namespace waits.
    fn last_batch(&mut self, namespace: String) -> &mut Batch {
        self.large.count += 1;
        let batch = self.large.waiting.entry(namespace).or_default().last();
        if batch.is_empty() {
            batch.first = self.large.count;
        }
        batch
    }

    /// At a next commit, chooses anew which policies of some namespaces are over the bound on set
    /// members. What that makes may be much.
    pub(super) fn reconsider_bound_of(&mut self, namespaces: Vec<Arc<str>>) {
        for namespace in namespaces {
            if self.large.limit.is_some() && !self.is_first {
                self.last_batch(namespace.to_string()).reconsiders_bound = true;
            } else {
                self.groups.reconsider(namespace);
            }
        }
    }

    fn pod_is_gone(&mut self, key: PodKey) {
        let object = Object::Pod(key.clone());
        for waiting in self.large.waiting.values_mut() {
            waiting.forget(&object);
        }
        self.remove_placeholder(&key);
        self.apply(Event::PodGone(key));
    }

    /// What waits of a pod under another namespace is past. No API server moves a pod, but files
    /// may seem to.
    fn forget_in_other_namespaces(&mut self, key: &PodKey, namespace: &str) {
        let object = Object::Pod(key.clone());
        let mut is_other = false;
        for (_, waiting) in self.large.waiting.iter_mut().filter(|(name, _)| *name != namespace) {
            is_other |= waiting.forget(&object);
        }
        if is_other {
            self.remove_placeholder(key);
        }
    }

    /// Whether a pod of a namespace whose events wait lists an address no more that it listed
    /// before, as the last event about it said.
    fn loses_address(&self, pod: &Pod, key: &PodKey) -> bool {
        let before = self.large.waiting.get(&pod.namespace).and_then(|waiting| waiting.pod(key));
        let is_lost = |address: IpAddr| !pod.addresses().any(|still| still == address);
        match (before, self.store.find(key)) {
            (Some(before), _) => before.addresses().any(is_lost),
            (_, Some(known)) => {
                Family::ALL.into_iter().filter_map(|family| self.store.listed(known, family)).any(is_lost)
            }
            (None, None) => false,
        }
    }

    /// Whether the events of a namespace wait.
    #[must_use]
    pub fn is_waiting(&self, namespace: &str) -> bool {
        self.large.waiting.contains_key(namespace)
    }

    /// How many events have waited so far, or still do.
    #[must_use]
    pub fn waited(&self) -> u64 {
        self.large.count
    }

    /// Whether a pod that lists this address is of a namespace whose events still wait, if they
    /// were offered when [`Engine::waited`] was no more than this. Later events do not count,
    /// because the edits of a namespace may come without a pause.
    #[must_use]
    pub fn waits_for(&self, address: IpAddr, until: u64) -> bool {
        if self.large.waiting.is_empty() {
            return false;
        }
        let owner = self.owner(address).map(|[owner, ..]| owner);
        let lists = |pod: &Pod| pod.addresses().any(|listed| listed == address);
        let is_meant = |(namespace, waiting): (&String, &Waiting)| {
            waiting.batches().any(|batch| batch.first <= until)
                && (waiting.batches().flat_map(Batch::pods).any(lists) || owner.as_ref() == Some(namespace))
        };
        self.large.waiting.iter().any(is_meant)
    }

    /// The namespaces whose events wait, sorted.
    pub fn waiting(&self) -> impl Iterator<Item = Wait<'_>> {
        self.large.waiting.iter().map(|(namespace, waiting)| {
            let chains = || waiting.expected().into_iter().flat_map(Expected::leaves);
            let mut firsts = waiting.batches().map(|batch| batch.first);
            let (first, next) = (firsts.next().unwrap_or_default(), firsts.next());
            let (rules, loaded) = (chains().map(|chain| chain.count), chains().map(|chain| self.loaded(chain)));
            let is_previewed = waiting.expected().is_some();
            Wait { namespace, first, next, is_previewed, rules: rules.sum(), loaded: loaded.sum() }
        })
    }

    /// The objects of a namespace whose events wait, as `KIND NAME`, sorted.
    pub fn waiting_objects(&self, namespace: &str) -> impl Iterator<Item = String> {
        let batches = self.large.waiting.get(namespace).into_iter().flat_map(Waiting::batches);
        let objects: BTreeMap<&Object, &ObjectChange> = batches.flat_map(|batch| &batch.changes).collect();
        objects.into_iter().map(|(object, change)| match (object, change) {
            (Object::Policy(name), _) => format!("NetworkPolicy {name}"),
            (Object::Pod(_), ObjectChange::Pod(pod)) => format!("Pod {}", pod.name),
            (Object::Pod(_), _) => "Pod".to_owned(),
        })
    }

    /// How many rules of a chain are in the state.
    fn loaded(&self, chain: &PreparedLeaf) -> usize {
        self.state.family(chain.family).chains.get(&chain.chain).map_or(0, Vec::len)
    }

    /// Whether events wait, or sets that no rule asks wait to go; [`Engine::is_load_due`] says whether a load does
    /// something about it now.
    #[must_use]
    pub fn is_loading(&self) -> bool {
        self.large.limit.is_some() && (!self.large.waiting.is_empty() || self.sets.has_unused())
    }

    /// Whether [`Engine::load`] or the next commit has something to do for what waits. Otherwise all of it
    /// waits for a [`Engine::preview`].
    #[must_use]
    pub fn is_load_due(&self) -> bool {
        self.large.limit.is_some() && (self.large.waiting.values().any(Waiting::is_ready) || self.sets.has_unused())
    }

    /// How many sets the next commit may take away.
    pub(super) fn swept_at_once(&self) -> usize {
        self.large.limit.map_or(usize::MAX, |limit| limit / SWEPT)
    }
}
