//! When the engine is given events that waited, and how it is found out what they will make.

use super::MEMBERS;
use super::batch::{Batch, Expected, Object, ObjectChange, Progress, Released, Waiting};
use crate::engine::key::PodKey;
use crate::engine::packed::LARGE;
use crate::engine::prepared::PreparedChanges;
use crate::engine::preview::{CountQuestion, Counts, PolicyChange, Preview, Previewed};
use crate::engine::{Engine, Event};
use crate::object::{Family, Pod};
use crate::ruleset::node::ChainName;

impl Engine {
    /// Gives the engine the events whose chains and sets are loaded now. Finds out what the events
    /// that came since the last commit will make.
    pub(in crate::engine) fn give(&mut self) {
        let Some(limit) = self.large.limit else { return };
        let namespaces: Vec<String> = self.large.waiting.keys().cloned().collect();
        for namespace in namespaces {
            let Some(mut waiting) = self.large.waiting.remove(&namespace) else { continue };
            match std::mem::take(&mut waiting.progress) {
                Progress::Expected(expected) if expected.is_whole() => {
                    let (released, prepared) = expected.release();
                    self.large.released.push(released);
                    self.give_batch(&namespace, waiting, prepared);
                }
                Progress::Previewed(outcome) if self.groups.are_over_bound(&namespace, &outcome.over) => {
                    self.decide(&namespace, waiting, outcome.prepared, limit);
                }
                Progress::Previewed(_) => {
                    waiting.begin_anew();
                    self.large.waiting.insert(namespace.clone(), waiting);
                    self.update_placeholders(&namespace);
                }
                Progress::New if self.takes_long(&namespace, &waiting.now) => {
                    waiting.progress = Progress::Due;
                    self.large.waiting.insert(namespace.clone(), waiting);
                    self.update_placeholders(&namespace);
                }
                Progress::New => {
                    let preview = self.preview_of(&namespace, &waiting.now);
                    let Some(Previewed { read, outcome, .. }) = preview.run(&mut |asked| Some(self.count(&asked)))
                    else {
                        unreachable!("every question is answered")
                    };
                    waiting.take_in(read);
                    self.decide(&namespace, waiting, outcome.prepared, limit);
                }
                progress => {
                    waiting.progress = progress;
                    self.large.waiting.insert(namespace, waiting);
                }
            }
        }
        self.forget_placeholders();
    }

    /// Whether it takes long to find out what events make, so that it is found out beside the loop.
    fn takes_long(&self, namespace: &str, batch: &Batch) -> bool {
        let Some(bound) = self.large.beside else { return false };
        let pods: Vec<&Pod> = batch.pods().collect();
        batch.unread() > LARGE || self.groups.takes_long(&self.store, namespace, (&batch.policies(), &pods), bound)
    }

    /// Gives the engine events that make little, and has all others wait until what they make is loaded.
    fn decide(&mut self, namespace: &str, mut waiting: Waiting, prepared: PreparedChanges, limit: usize) {
        if self.costs_at_most(&prepared, limit) {
            self.give_batch(namespace, waiting, prepared);
        } else {
            waiting.progress = Progress::Expected(self.expect(namespace, prepared));
            self.large.waiting.insert(namespace.to_owned(), waiting);
            self.update_placeholders(namespace);
        }
    }

    /// The input of a preview of the next namespace that needs one. [`Preview::run`] may take long, so a
    /// thread runs it, and [`Engine::previewed`] takes its result.
    pub fn preview(&mut self) -> Option<Preview> {
        let due = || self.large.waiting.iter().filter(|(_, waiting)| matches!(waiting.progress, Progress::Due));
        let last = self.large.previewed_last.as_deref();
        let next = due().find(|(name, _)| last.is_none_or(|last| name.as_str() > last)).or_else(|| due().next());
        let namespace = next?.0.clone();
        self.large.previews += 1;
        let waiting = self.large.waiting.get(&namespace)?;
        let preview = self.preview_of(&namespace, &waiting.now);
        if let Some(waiting) = self.large.waiting.get_mut(&namespace) {
            waiting.progress = Progress::Previewing(preview.number);
        }
        self.large.previewed_last = Some(namespace);
        Some(preview)
    }

    fn preview_of(&self, namespace: &str, batch: &Batch) -> Preview {
        self.groups.preview(&self.store, (self.large.previews, namespace), batch.changes_to_come())
    }

    /// How many members selectors and sets make, for a [`Preview`].
    pub fn count(&mut self, asked: &CountQuestion) -> Counts {
        let peers = self.peers.sizes(&mut self.store, asked.peers.iter());
        let sets = asked.sets.iter().map(|name| self.sets.count_of(name).unwrap_or_default());
        Counts { peers, sets: sets.collect() }
    }

    /// Takes in what a [`Preview`] found out. The next commit acts on it. Without a call of this the events
    /// wait for ever.
    pub fn previewed(&mut self, previewed: Previewed) {
        let Previewed { number, namespace, read, outcome } = previewed;
        let is_meant = |waiting: &&mut Waiting| matches!(waiting.progress, Progress::Previewing(of) if of == number);
        if let Some(waiting) = self.large.waiting.get_mut(&*namespace).filter(is_meant) {
            waiting.take_in(read);
            waiting.progress = Progress::Previewed(Box::new(outcome));
        }
    }

    /// Applies the first batch of waiting events. Later events have their turn at the next commit.
    fn give_batch(&mut self, namespace: &str, waiting: Waiting, prepared: PreparedChanges) {
        let Waiting { now, later, .. } = waiting;
        if !later.is_empty() {
            self.large.waiting.insert(namespace.to_owned(), Waiting { now: later, ..Waiting::default() });
        }
        for (object, change) in now.changes {
            match (object, change) {
                (_, ObjectChange::Pod(pod)) => {
                    // Or it would claim the same address for a moment.
                    self.remove_placeholder(&PodKey::of(&pod));
                    self.apply(Event::Pod(pod));
                }
                (_, ObjectChange::Policy(PolicyChange::Read(policy, findings))) => {
                    self.policy(&policy, findings.to_vec());
                }
                // The preview has read it, and what it read took the place of this.
                (_, ObjectChange::Policy(PolicyChange::Unread(policy, _))) => {
                    self.apply(Event::Policy(policy.unpack().into()));
                }
                (Object::Policy(name), ObjectChange::Policy(PolicyChange::Gone)) => {
                    self.apply(Event::PolicyGone(namespace.to_owned(), name));
                }
                (Object::Pod(_), ObjectChange::Policy(PolicyChange::Gone)) => {}
            }
        }
        self.groups.prepare(prepared.groups);
        self.groups.set_over_bound(namespace, &prepared.over);
        // A later event about a pod may wait, and give it an address.
        self.update_placeholders(namespace);
    }

    /// Whether the rules and sets that the state lacks of this are at most so many. Chains of others that are
    /// only expected are not there.
    fn costs_at_most(&self, prepared: &PreparedChanges, limit: usize) -> bool {
        let of_chain = prepared.groups.iter().flat_map(|group| &group.leaves).map(|leaf| {
            let present = self.loaded(leaf);
            leaf.count.saturating_sub(present)
        });
        let sets = prepared.members.iter().filter(|(name, _)| !self.sets.is_whole(name));
        let of_set = sets.map(|(_, members)| 1 + usize::try_from(*members).unwrap_or(usize::MAX) / MEMBERS);
        // What is large is known after its first chain, without a look at its sets.
        of_chain
            .chain(of_set)
            .try_fold(0_usize, |sum, cost| Some(sum.saturating_add(cost)).filter(|sum| *sum <= limit))
            .is_some()
    }

    /// Begins to expect this. Its sets come to be known portion by portion.
    fn expect(&mut self, namespace: &str, prepared: PreparedChanges) -> Expected {
        let expected = Expected::new(namespace, prepared);
        for leaf in expected.leaves() {
            self.groups.expect(leaf.family, &leaf.chain);
        }
        expected
    }

    /// Releases the chains and sets that were expected by namespaces that have their events now.
    /// Answers the chains that no group has.
    pub(in crate::engine) fn release_expected(&mut self) -> Vec<(Family, ChainName)> {
        self.groups.forget_prepared();
        let mut unused = Vec::new();
        for Released { user, sets, chains } in std::mem::take(&mut self.large.released) {
            for name in &sets {
                self.sets.expect_no_more(name, &user);
            }
            for (family, name) in chains {
                if self.groups.expect_no_more(family, &name) {
                    unused.push((family, name));
                }
            }
        }
        unused
    }
}
