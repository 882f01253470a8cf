//! When the engine is given events that waited, and how it is found out what they will make.

use super::MEMBERS;
use super::batch::{Batch, Expected, Object, ObjectChange, Progress, Released, Waiting};
use crate::engine::foresight::{CountQuestion, Counts, Foreseen, Foresight, PolicyChange};
use crate::engine::key::PodKey;
use crate::engine::packed::LARGE;
use crate::engine::prospect::Prospect;
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
                    let (released, prospect) = expected.release();
                    self.large.released.push(released);
                    self.give_batch(&namespace, waiting, prospect);
                }
                Progress::Foreseen(outcome) if self.groups.are_over_bound(&namespace, &outcome.over) => {
                    self.decide(&namespace, waiting, outcome.prospect, limit);
                }
                Progress::Foreseen(_) => {
                    waiting.begin_anew();
                    self.large.waiting.insert(namespace.clone(), waiting);
                    self.update_stand_ins(&namespace);
                }
                Progress::New if self.takes_long(&namespace, &waiting.now) => {
                    waiting.progress = Progress::Due;
                    self.large.waiting.insert(namespace.clone(), waiting);
                    self.update_stand_ins(&namespace);
                }
                Progress::New => {
                    let foresight = self.foresight_of(&namespace, &waiting.now);
                    let Some(Foreseen { read, outcome, .. }) = foresight.run(&mut |asked| Some(self.count(&asked)))
                    else {
                        unreachable!("every question is answered")
                    };
                    waiting.take_in(read);
                    self.decide(&namespace, waiting, outcome.prospect, limit);
                }
                progress => {
                    waiting.progress = progress;
                    self.large.waiting.insert(namespace, waiting);
                }
            }
        }
        self.forget_stand_ins();
    }

    /// Whether it takes long to find out what events make, so that it is found out beside the loop.
    fn takes_long(&self, namespace: &str, batch: &Batch) -> bool {
        let Some(bound) = self.large.beside else { return false };
        let pods: Vec<&Pod> = batch.pods().collect();
        batch.unread() > LARGE || self.groups.takes_long(&self.store, namespace, (&batch.policies(), &pods), bound)
    }

    /// Gives the engine events that make little, and has all others wait until what they make is loaded.
    fn decide(&mut self, namespace: &str, mut waiting: Waiting, prospect: Prospect, limit: usize) {
        if self.costs_at_most(&prospect, limit) {
            self.give_batch(namespace, waiting, prospect);
        } else {
            waiting.progress = Progress::Expected(self.expect(namespace, prospect));
            self.large.waiting.insert(namespace.to_owned(), waiting);
            self.update_stand_ins(namespace);
        }
    }

    /// The input of a foresight of the next namespace that needs one. [`Foresight::run`] may take long, so a
    /// thread runs it, and [`Engine::foreseen`] takes its result.
    pub fn foresight(&mut self) -> Option<Foresight> {
        let due = || self.large.waiting.iter().filter(|(_, waiting)| matches!(waiting.progress, Progress::Due));
        let last = self.large.foreseen_last.as_deref();
        let next = due().find(|(name, _)| last.is_none_or(|last| name.as_str() > last)).or_else(|| due().next());
        let namespace = next?.0.clone();
        self.large.foresights += 1;
        let waiting = self.large.waiting.get(&namespace)?;
        let foresight = self.foresight_of(&namespace, &waiting.now);
        if let Some(waiting) = self.large.waiting.get_mut(&namespace) {
            waiting.progress = Progress::Foreseeing(foresight.number);
        }
        self.large.foreseen_last = Some(namespace);
        Some(foresight)
    }

    fn foresight_of(&self, namespace: &str, batch: &Batch) -> Foresight {
        self.groups.foresight(&self.store, (self.large.foresights, namespace), batch.changes_to_come())
    }

    /// How many members selectors and sets make, for a [`Foresight`].
    pub fn count(&mut self, asked: &CountQuestion) -> Counts {
        let peers = self.peers.sizes(&mut self.store, asked.peers.iter());
        let sets = asked.sets.iter().map(|name| self.sets.count_of(name).unwrap_or_default());
        Counts { peers, sets: sets.collect() }
    }

    /// Takes in what a [`Foresight`] found out. The next commit acts on it. Without a call of this the events
    /// wait for ever.
    pub fn foreseen(&mut self, foreseen: Foreseen) {
        let Foreseen { number, namespace, read, outcome } = foreseen;
        let is_meant = |waiting: &&mut Waiting| matches!(waiting.progress, Progress::Foreseeing(of) if of == number);
        if let Some(waiting) = self.large.waiting.get_mut(&*namespace).filter(is_meant) {
            waiting.take_in(read);
            waiting.progress = Progress::Foreseen(Box::new(outcome));
        }
    }

    /// Applies the first batch of waiting events. Later events have their turn at the next commit.
    fn give_batch(&mut self, namespace: &str, waiting: Waiting, prospect: Prospect) {
        let Waiting { now, later, .. } = waiting;
        if !later.is_empty() {
            self.large.waiting.insert(namespace.to_owned(), Waiting { now: later, ..Waiting::default() });
        }
        for (object, change) in now.changes {
            match (object, change) {
                (_, ObjectChange::Pod(pod)) => {
                    // Or it would claim the same address for a moment.
                    self.remove_stand_in(&PodKey::of(&pod));
                    self.apply(Event::Pod(pod));
                }
                (_, ObjectChange::Policy(PolicyChange::Read(policy, findings))) => {
                    self.policy(&policy, findings.to_vec());
                }
                // The foresight has read it, and what it read took the place of this.
                (_, ObjectChange::Policy(PolicyChange::Unread(policy, _))) => {
                    self.apply(Event::Policy(policy.unpack().into()));
                }
                (Object::Policy(name), ObjectChange::Policy(PolicyChange::Gone)) => {
                    self.apply(Event::PolicyGone(namespace.to_owned(), name));
                }
                (Object::Pod(_), ObjectChange::Policy(PolicyChange::Gone)) => {}
            }
        }
        self.groups.prepare(prospect.groups);
        self.groups.set_over_bound(namespace, &prospect.over);
        // A later event about a pod may wait, and give it an address.
        self.update_stand_ins(namespace);
    }

    /// Whether the rules and sets that the state lacks of this are at most so many. Chains of others that are
    /// only expected are not there.
    fn costs_at_most(&self, prospect: &Prospect, limit: usize) -> bool {
        let of_chain = prospect.groups.iter().flat_map(|group| &group.leaves).map(|leaf| {
            let present = self.loaded(leaf);
            leaf.count.saturating_sub(present)
        });
        let sets = prospect.members.iter().filter(|(name, _)| !self.sets.is_whole(name));
        let of_set = sets.map(|(_, members)| 1 + usize::try_from(*members).unwrap_or(usize::MAX) / MEMBERS);
        // What is large is known after its first chain, without a look at its sets.
        of_chain
            .chain(of_set)
            .try_fold(0_usize, |sum, cost| Some(sum.saturating_add(cost)).filter(|sum| *sum <= limit))
            .is_some()
    }

    /// Begins to expect this. Its sets come to be known portion by portion.
    fn expect(&mut self, namespace: &str, prospect: Prospect) -> Expected {
        let expected = Expected::new(namespace, prospect);
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
