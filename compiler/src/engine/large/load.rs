//! What is expected comes into the state, a portion at a time.

use std::sync::Arc;

use super::batch::{Expected, Progress, Waiting};
use super::{MEMBERS, Portion};
use crate::engine::Engine;
use crate::object::Family;
use crate::plan::{ChainWrites, Plan, SetWrite, Step};

impl Engine {
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
        // Sets go in turn with what comes: two namespaces may write large changes without a pause.
        let sweeps_now = self.sets.has_unused() && !std::mem::replace(&mut self.large.has_swept, true);
        let next = if sweeps_now { None } else { self.next_to_load() };
        let mut plan = Plan::default();
        if let Some(namespace) = next
            && let Some(mut waiting) = self.large.waiting.remove(&namespace)
        {
            self.large.has_swept = false;
            if let Progress::Expected(expected) = &mut waiting.progress {
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

    /// The namespace after the one that was loaded from last.
    fn next_to_load(&self) -> Option<String> {
        let is_expecting = |waiting: &Waiting| waiting.expected().is_some_and(|expected| !expected.is_whole());
        let expecting = || self.large.waiting.iter().filter(|(_, waiting)| is_expecting(waiting)).map(|(name, _)| name);
        let next = expecting().find(|name| self.large.last.as_ref().is_none_or(|last| *name > last));
        next.or_else(|| expecting().next()).cloned()
    }

    fn load_sets(&mut self, expected: &mut Expected, most: usize) -> Plan {
        self.keep_sets(expected, most.max(1));
        let mut writes = Vec::new();
        let mut left = most.max(1);
        while let Some((_, name)) = expected.sets[..expected.kept_sets].get(expected.whole_sets).filter(|_| left > 0) {
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

    /// Has the index know the members of the next sets.
    fn keep_sets(&mut self, expected: &mut Expected, most: usize) {
        let mut missing = expected.sets[expected.whole_sets..expected.kept_sets].len();
        let user = Arc::clone(&expected.user);
        while let Some((place, name)) = expected.sets.get(expected.kept_sets).filter(|_| missing < most).cloned() {
            if let Some(leaf) = expected.leaf(place) {
                // From now on the index knows what it is.
                let definition = leaf.sets.get_mut(&name).and_then(Option::take);
                let user = (leaf.family, &user);
                self.sets.keep(&mut self.store, &mut self.peers, user, &name, definition.as_ref());
                self.sets.expect(&name);
            }
            missing += usize::from(!self.sets.is_whole(&name));
            expected.kept_sets += 1;
        }
        self.peers.settle(&self.store);
    }

    fn load_chains(&mut self, expected: &mut Expected, most: usize) -> Plan {
        let mut writes = [ChainWrites::default(), ChainWrites::default()];
        let mut left = most.max(1);
        while let Some(leaf) = expected.leaf(expected.whole_chains).filter(|_| left > 0) {
            let there = self.state.family(leaf.family).chains.get(&leaf.chain).map(Vec::len);
            let some = leaf.take(there.unwrap_or_default(), left);
            left -= some.len();
            let writes = &mut writes[leaf.family as usize];
            match there {
                None => drop(writes.replace.insert(leaf.chain.clone(), some)),
                Some(_) if some.is_empty() => {}
                Some(_) => drop(writes.append.insert(leaf.chain.clone(), some)),
            }
            if !leaf.is_taken() {
                break;
            }
            expected.whole_chains += 1;
        }
        let some = Family::ALL.into_iter().zip(writes).filter(|(_, writes)| *writes != ChainWrites::default());
        Plan { steps: some.map(|(family, writes)| Step::Chains(family, writes)).collect() }
    }
}
