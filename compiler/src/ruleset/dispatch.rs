//! The tree that leads a first packet to its group: a compressed binary trie
//! over the identities of the groups.
//!
//! An inner node asks one set whether the packet's address goes left. That
//! set's meaning depends on the node's place alone, never on the other groups:
//! the addresses whose group's identity continues with a 0 bit. So a new group
//! brings at most one new set, and changes no other.

use std::collections::BTreeMap;
use std::fmt;

use crate::ruleset::name::Hash;

/// How many bits of an identity the tree tells apart. nft refuses a hook from
/// which chains nest too deep: below the entry 13 load and 14 do not. Eight inner
/// levels, a list, the chain of several pods that list one address, a group's chain
/// and the two after it are 13 whatever the groups are, so no choice of names or labels
/// deepens the tree.
pub const DEPTH: usize = 9;

/// The bits that lead to a node.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Path(Vec<bool>);

impl fmt::Display for Path {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|bit| f.write_str(if *bit { "1" } else { "0" }))
    }
}

/// A node of the tree; the leaves are groups by their identities.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Node {
    /// Addresses of groups below `path` + 0 go left, others right.
    Inner {
        /// The bits that all groups below have in common.
        path: Path,
        /// Where the next bit is 0.
        left: Box<Node>,
        /// Where the next bit is 1.
        right: Box<Node>,
    },
    /// Groups that agree in all bits the tree looks at, to be tried in order;
    /// at least two.
    List {
        /// Those bits.
        path: Path,
        /// The groups, sorted.
        groups: Vec<Hash>,
    },
    /// One group.
    Leaf(Hash),
}

impl Node {
    /// The tree over these identities; `None` if there are none.
    #[must_use]
    pub fn new(mut groups: Vec<Hash>) -> Option<Self> {
        groups.sort_unstable();
        groups.dedup();
        (!groups.is_empty()).then(|| Self::over(&groups, 0))
    }

    /// The tree over sorted identities, at least one, that agree in the bits
    /// before `depth`.
    fn over(groups: &[Hash], depth: usize) -> Self {
        if let [group] = groups {
            return Self::Leaf(*group);
        }
        let path = |length| Path((0..length).map(|place| groups[0].bit(place)).collect());
        for place in depth..DEPTH {
            let left = groups.partition_point(|group| !group.bit(place));
            if left > 0 && left < groups.len() {
                return Self::Inner {
                    path: path(place),
                    left: Box::new(Self::over(&groups[..left], place + 1)),
                    right: Box::new(Self::over(&groups[left..], place + 1)),
                };
            }
        }
        Self::List { path: path(DEPTH), groups: groups.to_vec() }
    }

    /// All nodes, this one first.
    pub fn walk(&self, visit: &mut impl FnMut(&Self)) {
        visit(self);
        if let Self::Inner { left, right, .. } = self {
            left.walk(visit);
            right.walk(visit);
        }
    }

    /// How many nodes a packet passes at most, this one included.
    #[must_use]
    pub fn depth(&self) -> usize {
        match self {
            Self::Inner { left, right, .. } => 1 + left.depth().max(right.depth()),
            Self::List { .. } => 2,
            Self::Leaf(_) => 1,
        }
    }

    /// For each set that the tree asks, the groups whose addresses are in it.
    #[must_use]
    pub fn sets(&self) -> BTreeMap<DispatchSet, Vec<Hash>> {
        let mut sets = BTreeMap::new();
        self.walk(&mut |node| match node {
            Self::Inner { path, left, .. } => {
                sets.insert(DispatchSet::Left(path.clone()), left.groups());
            }
            Self::List { groups, .. } => {
                // The last of a list needs no question.
                let asked = &groups[..groups.len() - 1];
                sets.extend(asked.iter().map(|group| (DispatchSet::Group(*group), vec![*group])));
            }
            Self::Leaf(_) => {}
        });
        sets
    }

    /// The sets of the tree that the addresses of one of its groups are in.
    #[must_use]
    pub fn sets_of(&self, group: &Hash) -> Vec<DispatchSet> {
        let mut sets = Vec::new();
        let mut node = self;
        loop {
            node = match node {
                Self::Inner { path, right, .. } if group.bit(path.0.len()) => right,
                Self::Inner { path, left, .. } => {
                    sets.push(DispatchSet::Left(path.clone()));
                    left
                }
                Self::List { groups, .. } => {
                    sets.extend((groups.last() != Some(group)).then_some(DispatchSet::Group(*group)));
                    return sets;
                }
                Self::Leaf(_) => return sets,
            }
        }
    }

    /// All groups below.
    fn groups(&self) -> Vec<Hash> {
        let mut all = Vec::new();
        self.walk(&mut |node| match node {
            Self::Inner { .. } => {}
            Self::List { groups, .. } => all.extend(groups),
            Self::Leaf(group) => all.push(*group),
        });
        all
    }
}

/// A set that the tree asks.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum DispatchSet {
    /// The endpoints that go left at the inner node with this path.
    Left(Path),
    /// The endpoints of this group, in a list.
    Group(Hash),
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test that finds nothing has failed")]
mod tests {
    use super::*;
    use crate::ruleset::name::Fields;

    fn hashes(range: std::ops::Range<u32>) -> Vec<Hash> {
        let hash = |i: u32| {
            let mut fields = Fields::of("test");
            fields.add(i.to_le_bytes());
            fields.finish()
        };
        range.map(hash).collect()
    }

    /// Where a packet of a group's endpoint ends, if sets hold what they mean.
    fn find(node: &Node, group: &Hash) -> Hash {
        match node {
            Node::Leaf(leaf) => *leaf,
            Node::List { groups, .. } => *groups.iter().find(|g| *g == group).unwrap_or(groups.last().unwrap()),
            Node::Inner { path, left, right } => {
                let continues = path.0.iter().enumerate().all(|(i, bit)| group.bit(i) == *bit);
                let goes_left = continues && !group.bit(path.0.len());
                find(if goes_left { left } else { right }, group)
            }
        }
    }

    #[test]
    fn every_group_is_found_and_the_tree_is_never_too_deep() {
        for count in [1, 2, 3, 10, 250, 1_000, 20_000] {
            let all = hashes(0..count);
            let tree = Node::new(all.clone()).unwrap();
            assert!(all.iter().all(|group| find(&tree, group) == *group));
            assert!(tree.depth() <= DEPTH + 2, "{count} groups make {} levels", tree.depth());
        }
    }

    #[test]
    fn the_shape_depends_on_the_set_of_groups_alone() {
        let all = hashes(0..100);
        let reversed = all.iter().rev().copied().collect();
        assert_eq!(Node::new(all), Node::new(reversed));
        assert_eq!(Node::new(Vec::new()), None);
    }

    #[test]
    fn a_new_group_changes_the_meaning_of_no_set() {
        let (old, new) = (Node::new(hashes(0..100)).unwrap().sets(), Node::new(hashes(0..101)).unwrap().sets());
        let newcomer = hashes(100..101)[0];
        for (at, groups) in old {
            let mut now = new[&at].clone();
            now.retain(|group| *group != newcomer);
            assert_eq!(now, groups);
        }
    }
}
