//! Lists of container ports, each kept once: all pods of a workload declare
//! the same.

use std::hash::BuildHasher;
use std::num::NonZeroU32;

use hashbrown::HashTable;
use rustc_hash::FxBuildHasher;
use slab::Slab;

use crate::object::ContainerPort;

/// A list that is kept, and not empty.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct PortList(NonZeroU32);

/// The lists, and how many pods have each.
#[derive(Debug, Default)]
pub(super) struct PortLists {
    lists: Slab<(Box<[ContainerPort]>, u32)>,
    by_content: HashTable<PortList>,
}

impl PortList {
    fn place(self) -> usize {
        self.0.get() as usize - 1
    }
}

fn hash(ports: &[ContainerPort]) -> u64 {
    FxBuildHasher.hash_one(ports)
}

impl PortLists {
    /// The number of a list, unless it is empty; kept until it is released as
    /// often as it was asked for here.
    pub(super) fn keep(&mut self, ports: &[ContainerPort]) -> Option<PortList> {
        if ports.is_empty() {
            return None;
        }
        if let Some(known) = self.by_content.find(hash(ports), |list| self.get(*list) == ports).copied() {
            self.lists[known.place()].1 += 1;
            return Some(known);
        }
        let place = self.lists.insert((ports.into(), 1)) + 1;
        let list = PortList(u32::try_from(place).ok().and_then(NonZeroU32::new)?);
        let lists = &self.lists;
        self.by_content.insert_unique(hash(ports), list, |list| hash(&lists[list.place()].0));
        Some(list)
    }

    /// The ports.
    pub(super) fn get(&self, list: PortList) -> &[ContainerPort] {
        &self.lists[list.place()].0
    }

    /// One use less.
    pub(super) fn release(&mut self, list: PortList) {
        let (_, uses) = &mut self.lists[list.place()];
        *uses -= 1;
        if *uses == 0 {
            let (ports, _) = self.lists.remove(list.place());
            if let Ok(found) = self.by_content.find_entry(hash(&ports), |other| *other == list) {
                found.remove();
            }
        }
    }
}
