//! Events that wait, and what they will make.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use crate::engine::Event;
use crate::engine::groups::{PreparedGroup, PreparedLeaf, Prospect, ToCome};
use crate::engine::key::PodKey;
use crate::engine::live::expecting;
use crate::object::{Family, Labels, Pod};
use crate::policy::finding::Finding;
use crate::policy::{Direction, Policy};
use crate::ruleset::node::{ChainName, SetName};

/// An object of a namespace.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Object {
    Policy(String),
    Pod(PodKey),
}

/// What an event makes of an object.
#[derive(Debug)]
pub(super) enum Change {
    Event(Event),
    /// The object is this policy, which was read already: one of a megabyte is read once.
    Policy(Arc<Policy>, Vec<Finding>),
}

/// The last event about each of some objects. The engine is given all of them at once, so
/// their order says nothing, nor do those before them.
#[derive(Debug, Default)]
pub(super) struct Batch {
    pub(super) changes: BTreeMap<Object, Change>,
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
            Some(Change::Event(Event::Pod(pod))) => Some(pod),
            _ => None,
        }
    }

    /// Reads the policies that are not read yet.
    fn read_policies(&mut self) {
        for change in self.changes.values_mut() {
            if let Change::Event(Event::Policy(policy)) = change {
                let (policy, findings) = Policy::read(policy);
                *change = Change::Policy(Arc::new(policy), findings);
            }
        }
    }

    /// What is to change in the namespace. Policies are read.
    pub(super) fn changes_to_come(&mut self) -> ToCome<'_> {
        self.read_policies();
        let mut to_come = ToCome { reconsiders_bound: self.reconsiders_bound, ..ToCome::default() };
        for (object, change) in &self.changes {
            match (object, change) {
                (Object::Policy(name), Change::Policy(policy, _)) => {
                    to_come.policies.insert(Arc::from(name.as_str()), Some(Arc::clone(policy)));
                }
                (Object::Policy(name), Change::Event(_)) => {
                    to_come.policies.insert(Arc::from(name.as_str()), None);
                }
                (_, Change::Event(Event::Pod(pod))) => to_come.pods.push(pod),
                _ => {}
            }
        }
        to_come
    }
}

/// A namespace whose events wait.
#[derive(Debug, Default)]
pub(super) struct Waiting {
    pub(super) now: Batch,
    /// What these will make; nothing until the next commit.
    pub(super) expected: Option<Expected>,
    /// Those that came after it was found out.
    pub(super) later: Batch,
}

impl Waiting {
    pub(super) fn batches(&self) -> impl Iterator<Item = &Batch> {
        [&self.now, &self.later].into_iter().filter(|batch| !batch.is_empty())
    }

    /// What comes next goes here.
    pub(super) fn last(&mut self) -> &mut Batch {
        if self.expected.is_some() { &mut self.later } else { &mut self.now }
    }

    /// Whether some policy that waits isolates pods with these labels, by direction. Policies are read.
    pub(super) fn isolates(&mut self, labels: &Labels) -> [bool; 2] {
        self.now.read_policies();
        self.later.read_policies();
        let policies = || self.batches().flat_map(|batch| batch.changes.values());
        Direction::ALL.map(|direction| {
            policies().any(|change| match change {
                Change::Policy(policy, _) => policy.isolates(direction) && policy.subject.matches(labels),
                Change::Event(_) => false,
            })
        })
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
    /// So many of the sets are kept for these chains, so many of these have all their members, and so
    /// many of the chains all rules.
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
    pub(super) fn new(namespace: &str, prospect: Prospect) -> Self {
        let Prospect { groups, over, .. } = prospect;
        let leaves = groups.iter().flat_map(|group| &group.leaves).enumerate();
        let mut seen = BTreeSet::new();
        let of_leaf = leaves.flat_map(|(place, leaf)| leaf.sets.keys().map(move |name| (place, name)));
        let sets = of_leaf.filter(|(_, name)| seen.insert(*name)).map(|(place, name)| (place, name.clone())).collect();
        let user = expecting(namespace);
        Self { user, groups, over, sets, kept_sets: 0, whole_sets: 0, whole_chains: 0 }
    }

    /// It is in force from now on.
    pub(super) fn release(self) -> (Released, Prospect) {
        let chains = self.leaves().map(|leaf| (leaf.family, leaf.chain.clone())).collect();
        let sets = self.sets.into_iter().take(self.kept_sets).map(|(_, name)| name).collect();
        let prospect = Prospect { groups: self.groups, over: self.over, members: BTreeMap::new() };
        (Released { user: self.user, sets, chains }, prospect)
    }

    /// The chain of this place.
    pub(super) fn leaf(&self, place: usize) -> Option<&PreparedLeaf> {
        self.groups.get(place / LEAVES)?.leaves.get(place % LEAVES)
    }

    pub(super) fn leaves(&self) -> impl Iterator<Item = &PreparedLeaf> {
        self.groups.iter().flat_map(|group| &group.leaves)
    }

    pub(super) fn is_whole(&self) -> bool {
        self.whole_sets == self.sets.len() && self.whole_chains == LEAVES * self.groups.len()
    }
}
