//! Groups without endpoints: which of them are retained for the next ones, and for how long.

use std::sync::Arc;

use super::{Age, LocalGroups, OfFamilies};
use crate::cluster::group::RetainedGroup;
use crate::policy::Direction;
use crate::ruleset::names::hash::Hash;

/// How many empty groups of a namespace are retained in a direction. Those that have been
/// empty for longest go first. Pods whose labels change all the time make a new group with
/// each change, and the owner of one namespace can have them change.
const RETAINED: usize = 16;

impl LocalGroups {
    /// Lets go of the groups that had no endpoint at the last call already,
    /// and have none now; at the next commit.
    pub(in crate::engine) fn retire(&mut self) {
        for direction in Direction::ALL {
            let empty = self.groups[direction as usize].iter_mut().filter(|(_, group)| group.pods.is_empty());
            for (hash, group) in empty {
                if group.age == Age::Fresh {
                    group.age = Age::Old;
                } else {
                    group.age = Age::Over;
                    self.changed[direction as usize].insert(*hash);
                    self.is_stale = true;
                }
            }
        }
    }

    /// The groups without endpoints, as of the last commit.
    pub(in crate::engine) fn retained(&self) -> impl Iterator<Item = RetainedGroup> {
        Direction::ALL.into_iter().flat_map(|direction| {
            let empty = self.groups[direction as usize].values().filter(|group| group.pods.is_empty());
            empty.map(move |group| RetainedGroup {
                direction,
                namespace: group.namespace.to_string(),
                policies: group.policies.iter().map(ToString::to_string).collect(),
                resolution: group.resolution.clone(),
            })
        })
    }

    /// The empty groups of a namespace beyond the [`RETAINED`] that are kept.
    pub(super) fn surplus(&self, direction: Direction, namespace: &str) -> Vec<Hash> {
        let Some(here) = self.namespaces.get(namespace) else { return Vec::new() };
        let groups = &self.groups[direction as usize];
        let of_namespace = here.groups[direction as usize].iter().filter_map(|hash| Some((groups.get(hash)?, *hash)));
        let empty = of_namespace.filter(|(group, _)| group.pods.is_empty());
        let mut empty: Vec<(u64, Hash)> = empty.map(|(group, hash)| (group.emptied, hash)).collect();
        empty.sort_unstable();
        empty.truncate(empty.len().saturating_sub(RETAINED));
        empty.into_iter().map(|(_, hash)| hash).collect()
    }

    /// Takes a group out, and answers what it had in the kernel.
    pub(super) fn take_out(&mut self, direction: Direction, hash: Hash) -> Option<(Arc<str>, OfFamilies)> {
        let group = self.groups[direction as usize].remove(&hash)?;
        self.in_namespace(&group.namespace, |here| here.groups[direction as usize].remove(&hash));
        Some((group.namespace, group.leaves?))
    }
}
