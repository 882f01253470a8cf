//! Which pairs of ends a change can affect. Only these are judged again.
//!
//! What one direction of a pair lets pass depends on two things: what the groups of the subject
//! admit, and what their rules match of the other end. Addresses, container ports and nodes are no
//! part of any change. So only labels and the labels of namespaces of the other end can change.
//! Where pods claim one address, any change of labels counts.

use std::collections::BTreeSet;

use rustc_hash::FxHashMap;

use super::changed::View;
use crate::cluster::group::GroupId;
use crate::cluster::{Cluster, PodId};
use crate::object::Family;
use crate::policy::Direction;
use crate::verdict::flow::End;

/// What a change does to an end.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Affected {
    /// Whether a policy isolates it, or may, before or after; in the order of
    /// [`Direction::ALL`].
    isolated: [bool; 2],
    /// Whether its own groups admit something else.
    is_other_subject: [bool; 2],
    /// Whether the rules of others may match it otherwise than before.
    is_other_peer: bool,
}

impl Affected {
    /// Whether it is affected at all. Between two ends that are not, nothing can differ.
    pub(super) fn is_any(self) -> bool {
        self.is_other_peer || self.is_other_subject.contains(&true)
    }

    /// Whether what a direction lets pass between a subject and another end can differ.
    pub(super) const fn can_differ(direction: Direction, subject: Self, other: Self) -> bool {
        let place = direction as usize;
        subject.isolated[place] && (subject.is_other_subject[place] || other.is_other_peer)
    }
}

/// Two views of a cluster, and what was found to differ.
pub(super) struct Views<'a> {
    before: View<'a>,
    after: View<'a>,
    /// The pods that have other labels, or whose namespace has.
    pods: BTreeSet<PodId>,
    /// Whether two groups, of before and after, admit the same.
    same: FxHashMap<(GroupId, GroupId), bool>,
}

impl<'a> Views<'a> {
    pub(super) fn new(before: View<'a>, after: View<'a>) -> Self {
        let mut pods = BTreeSet::new();
        if after.cluster.has_inventory_of(before.cluster) {
            return Self { before, after, pods, same: FxHashMap::default() };
        }
        let mut namespaces = FxHashMap::<&str, bool>::default();
        let mut new = after.cluster.pods();
        for (id, pod) in before.cluster.pods() {
            let labels = |cluster: &'a Cluster| cluster.namespace(&pod.namespace);
            let is_other_namespace =
                *namespaces.entry(&pod.namespace).or_insert_with(|| labels(before.cluster) != labels(after.cluster));
            let is_same = new.next().is_some_and(|(_, new)| {
                new.labels == pod.labels && new.name == pod.name && new.namespace == pod.namespace
            });
            if is_other_namespace || !is_same {
                pods.insert(id);
            }
        }
        Self { before, after, pods, same: FxHashMap::default() }
    }

    /// What the change does to ends of one kind, by one of them and all of them.
    pub(super) fn affected(&mut self, first: End, mut all: impl Iterator<Item = End>) -> Affected {
        let mut affected = Affected { is_other_peer: all.any(|end| self.is_other_peer(end)), ..Affected::default() };
        for direction in Direction::ALL {
            for family in Family::ALL {
                let deciding = |view: View<'_>| first.deciding(view.cluster, view.groups, direction, Some(family));
                let (old, new) = (deciding(self.before), deciding(self.after));
                affected.isolated[direction as usize] |= !old.is_nothing() || !new.is_nothing();
                let is_same = old.is_nothing_certain == new.is_nothing_certain
                    && self.admit_the_same(&old.least, &new.least)
                    && self.admit_the_same(&old.most, &new.most);
                affected.is_other_subject[direction as usize] |= !is_same;
            }
        }
        affected
    }

    fn is_other_peer(&self, end: End) -> bool {
        let cluster = self.before.cluster;
        let is_contested = |address| cluster.contest(address).is_some() || cluster.holders(address, None).len() > 1;
        let mut addresses = Family::ALL.into_iter().filter_map(|family| end.address(cluster, family));
        match end {
            _ if self.pods.is_empty() => false,
            End::Pod(pod) => self.pods.contains(&pod) || addresses.any(is_contested),
            End::Address(address) | End::Unread(address) => {
                is_contested(address) || !cluster.holders(address, None).is_empty()
            }
        }
    }

    fn admit_the_same(&mut self, old: &[GroupId], new: &[GroupId]) -> bool {
        let (before, after) = (self.before.groups, self.after.groups);
        old.len() == new.len()
            && old.iter().zip(new).all(|(old, new)| {
                let same = || before.get(*old).admitted == after.get(*new).admitted;
                *self.same.entry((*old, *new)).or_insert_with(same)
            })
    }
}
