//! Events that wait, and what they will make.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::engine::groups::{ToCome, WeighedPolicies};
use crate::engine::key::PodKey;
use crate::engine::peer_sets::expecting;
use crate::engine::prepared::{PreparedChanges, PreparedGroup, PreparedLeaf};
use crate::engine::preview::{PolicyChange, PreviewedChanges, ReadPolicy};
use crate::object::{Family, Labels, Pod};
use crate::policy::{Direction, Policy};
use crate::ruleset::node::{ChainName, SetName};

/// An object of a namespace.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Object {
    Policy(String),
    Pod(PodKey),
}

/// What an event makes of an object. A pod that goes waits for nothing.
#[derive(Debug)]
pub(super) enum ObjectChange {
    Pod(Box<Pod>),
    Policy(PolicyChange),
}

/// The last event about each of some objects. The engine is given all of them at once, so
/// their order says nothing, nor do those before them.
#[derive(Debug, Default)]
pub(super) struct Batch {
    pub(super) changes: BTreeMap<Object, ObjectChange>,
    /// Which policies are over the bound on set members is to be chosen anew.
    pub(super) reconsiders_bound: bool,
    /// The number of the first event, among all that waited.
    pub(super) first: u64,
}

impl Batch {
    pub(super) fn is_empty(&self) -> bool {
        self.changes.is_empty() && !self.reconsiders_bound
    }

    /// The event about a pod.
    pub(super) fn pod(&self, key: &PodKey) -> Option<&Pod> {
        match self.changes.get(&Object::Pod(key.clone())) {
            Some(ObjectChange::Pod(pod)) => Some(pod),
            _ => None,
        }
    }

    /// What is to change in the namespace.
    pub(super) fn changes_to_come(&self) -> ToCome<'_> {
        let mut to_come = ToCome { reconsiders_bound: self.reconsiders_bound, ..ToCome::default() };
        for (object, change) in &self.changes {
            match (object, change) {
                (Object::Policy(name), ObjectChange::Policy(change)) => {
                    to_come.policies.push((Arc::from(name.as_str()), change.clone()));
                }
                (_, ObjectChange::Pod(pod)) => to_come.pods.push(pod),
                (Object::Pod(_), ObjectChange::Policy(_)) => {}
            }
        }
        to_come
    }

    /// The policies of it.
    pub(super) fn policies(&self) -> WeighedPolicies<'_> {
        let policies = self.changes.iter().filter_map(|(object, change)| {
            let (Object::Policy(name), ObjectChange::Policy(change)) = (object, change) else { return None };
            Some((name.as_str(), change.isolates().zip(change.weight())))
        });
        policies.collect()
    }

    /// How many bytes of policies are not read yet.
    pub(super) fn unread(&self) -> usize {
        let bytes = self.changes.values().map(|change| match change {
            ObjectChange::Policy(PolicyChange::Unread(policy, _)) => policy.retained_bytes(),
            ObjectChange::Policy(_) | ObjectChange::Pod(_) => 0,
        });
        bytes.fold(0, usize::saturating_add)
    }

    /// Takes later events in.
    fn extend(&mut self, later: Self) {
        if self.is_empty() {
            self.first = later.first;
        }
        self.changes.extend(later.changes);
        self.reconsiders_bound |= later.reconsiders_bound;
    }
}

/// How far npc is in finding out what waiting events will make.
#[derive(Debug, Default)]
pub(super) enum Progress {
    /// Nothing. The next commit decides how it is found out.
    #[default]
    New,
    /// It is to be found out beside the loop.
    Due,
    /// It is being found out, by the preview of this number.
    Previewing(u64),
    /// It is found out.
    Previewed(Box<PreviewedChanges>),
    /// It is found out, is much, and comes in portions.
    Expected(Expected),
}

/// A namespace whose events wait.
#[derive(Debug, Default)]
pub(super) struct Waiting {
    pub(super) now: Batch,
    /// What these will make.
    pub(super) progress: Progress,
    /// Those that came after that began to be found out.
    pub(super) later: Batch,
}

impl Waiting {
    pub(super) fn batches(&self) -> impl Iterator<Item = &Batch> {
        [&self.now, &self.later].into_iter().filter(|batch| !batch.is_empty())
    }

    /// What is expected, once it is known.
    pub(super) const fn expected(&self) -> Option<&Expected> {
        match &self.progress {
            Progress::Expected(expected) => Some(expected),
            _ => None,
        }
    }

    /// Whether the next commit, or a portion, has something to do for it.
    pub(super) const fn is_ready(&self) -> bool {
        !matches!(self.progress, Progress::Due | Progress::Previewing(_))
    }

    /// What comes next goes here.
    pub(super) fn last(&mut self) -> &mut Batch {
        match self.progress {
            Progress::New | Progress::Due => &mut self.now,
            _ => &mut self.later,
        }
    }

    /// These policies were read.
    pub(super) fn take_in(&mut self, read: Vec<ReadPolicy>) {
        for (name, policy, findings) in read {
            let change = PolicyChange::Read(policy, findings.into());
            self.now.changes.insert(Object::Policy(name.to_string()), ObjectChange::Policy(change));
        }
    }

    /// What was found out does not hold any more. All events are to be found out together then.
    pub(super) fn begin_anew(&mut self) {
        self.progress = Progress::Due;
        self.now.extend(std::mem::take(&mut self.later));
    }

    /// Whether some policy that waits isolates pods with these labels, by direction.
    pub(super) fn isolates(&self, labels: &Labels) -> [bool; 2] {
        let changes = self.batches().flat_map(|batch| batch.changes.values());
        let policies: Vec<&Policy> = changes
            .filter_map(|change| match change {
                ObjectChange::Policy(change) => change.isolates(),
                ObjectChange::Pod(_) => None,
            })
            .collect();
        let isolates = |policy: &&Policy, direction| policy.isolates(direction) && policy.subject.matches(labels);
        Direction::ALL.map(|direction| policies.iter().any(|policy| isolates(policy, direction)))
    }

    /// Forgets what waits of an object. Whether anything did.
    pub(super) fn forget(&mut self, object: &Object) -> bool {
        let (now, later) = (self.now.changes.remove(object), self.later.changes.remove(object));
        now.is_some() || later.is_some()
    }
}

/// How many chains a group has: one in each family.
const LEAVES: usize = Family::ALL.len();

/// What events that wait will make, and how much of it is there.
#[derive(Debug)]
pub(super) struct Expected {
    /// The user of the sets; no namespace has such a name.
    pub(super) user: Arc<str>,
    pub(super) groups: Vec<PreparedGroup>,
    /// The policies that will be over the bound on set members.
    pub(super) over: Vec<Arc<str>>,
    /// The sets of all chains, each with the place of a chain that asks it.
    pub(super) sets: Vec<(usize, SetName)>,
    /// How many of the sets are kept for these chains, how many of these sets have all their members, and how many of
    /// the chains have all their rules.
    pub(super) kept_sets: usize,
    pub(super) whole_sets: usize,
    pub(super) whole_chains: usize,
}

/// What was expected, and is in force now.
#[derive(Debug)]
pub(super) struct Released {
    pub(super) user: Arc<str>,
    pub(super) sets: Vec<SetName>,
    pub(super) chains: Vec<(Family, ChainName)>,
}

impl Expected {
    pub(super) fn new(namespace: &str, prepared: PreparedChanges) -> Self {
        let PreparedChanges { groups, sets, over, .. } = prepared;
        let user = expecting(namespace);
        Self { user, groups, over, sets, kept_sets: 0, whole_sets: 0, whole_chains: 0 }
    }

    /// It is in force from now on.
    pub(super) fn release(self) -> (Released, PreparedChanges) {
        let chains = self.leaves().map(|leaf| (leaf.family, leaf.chain.clone())).collect();
        let sets = self.sets.into_iter().take(self.kept_sets).map(|(_, name)| name).collect();
        let prepared = PreparedChanges { groups: self.groups, over: self.over, ..PreparedChanges::default() };
        (Released { user: self.user, sets, chains }, prepared)
    }

    /// The chain of this place.
    pub(super) fn leaf(&mut self, place: usize) -> Option<&mut PreparedLeaf> {
        self.groups.get_mut(place / LEAVES)?.leaves.get_mut(place % LEAVES)
    }

    pub(super) fn leaves(&self) -> impl Iterator<Item = &PreparedLeaf> {
        self.groups.iter().flat_map(|group| &group.leaves)
    }

    pub(super) fn is_whole(&self) -> bool {
        self.whole_sets == self.sets.len() && self.whole_chains == LEAVES * self.groups.len()
    }
}
