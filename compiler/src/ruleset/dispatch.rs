//! The tree that leads a first packet to its group: a compressed binary trie
//! over the places of the groups, which are their identities or, with a
//! [`Seed`], what that makes of them.
//!
//! An inner node asks one set whether the packet's address goes left. That
//! set's meaning depends on the node's place alone, never on the other groups:
//! the addresses whose group's place continues with a 0 bit. So a new group
//! brings at most one new set, and changes no other.

use std::collections::BTreeMap;
use std::fmt;

use crate::ruleset::names::hash::Hash;
use crate::ruleset::names::seed::Seed;

/// How many bits of a place the tree distinguishes. nft refuses a hook from which chains nest too
/// deep: below the entry 13 load and 14 do not. Eight inner levels, a list, the chain of several
/// pods that list one address, a group's chain and the two after it are 13. That holds for all
/// groups, so no choice of names or labels deepens the tree.
const DEPTH: usize = 9;

/// The bits that lead to a node, in the tree of a seed.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Path {
    bits: Vec<bool>,
    seed: Option<Seed>,
}

impl fmt::Display for Path {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(seed) = &self.seed {
            f.write_str(&seed.tag())?;
        }
        self.bits.iter().try_for_each(|bit| f.write_str(if *bit { "1" } else { "0" }))
    }
}

/// A node of the tree; the leaves are groups by their identities.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum TreeNode {
    /// Addresses of groups below `path` + 0 go left, others right.
    Inner {
        /// The bits that all groups below have in common.
        path: Path,
        /// Where the next bit is 0.
        left: Box<TreeNode>,
        /// Where the next bit is 1.
        right: Box<TreeNode>,
    },
    /// Groups that agree in all bits that the tree distinguishes, to be tried
    /// in order; at least two.
    List {
        /// Those bits.
        path: Path,
        /// The groups, in the order of their places.
        groups: Vec<Hash>,
    },
    /// One group.
    Leaf(Hash),
}

impl TreeNode {
    /// The tree over these identities; `None` if there are none.
    #[must_use]
    pub fn new(groups: impl IntoIterator<Item = Hash>, seed: Option<Seed>) -> Option<Self> {
        let placed = groups.into_iter().map(|identity| Placed { place: place(&identity, seed), identity });
        let mut groups: Vec<Placed> = placed.collect();
        groups.sort_unstable();
        groups.dedup();
        (!groups.is_empty()).then(|| Self::over(&groups, seed, 0))
    }

    /// The tree over sorted groups, at least one, whose places agree in the bits
    /// before `depth`.
    fn over(groups: &[Placed], seed: Option<Seed>, depth: usize) -> Self {
        if let [group] = groups {
            return Self::Leaf(group.identity);
        }
        let path = |length| Path { bits: (0..length).map(|at| groups[0].place.bit(at)).collect(), seed };
        for at in depth..DEPTH {
            let left = groups.partition_point(|group| !group.place.bit(at));
            if left > 0 && left < groups.len() {
                return Self::Inner {
                    path: path(at),
                    left: Box::new(Self::over(&groups[..left], seed, at + 1)),
                    right: Box::new(Self::over(&groups[left..], seed, at + 1)),
                };
            }
        }
        Self::List { path: path(DEPTH), groups: groups.iter().map(|group| group.identity).collect() }
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
        let seed = match self {
            Self::Inner { path, .. } => path.seed,
            Self::List { .. } | Self::Leaf(_) => None,
        };
        let place = place(group, seed);
        loop {
            node = match node {
                Self::Inner { path, right, .. } if place.bit(path.bits.len()) => right,
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

/// A group and its place.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Placed {
    place: Hash,
    identity: Hash,
}

fn place(identity: &Hash, seed: Option<Seed>) -> Hash {
    seed.map_or(*identity, |seed| seed.place(identity))
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
    use crate::ruleset::names::hash::FieldHasher;

    fn hashes(range: std::ops::Range<u32>) -> Vec<Hash> {
        let hash = |i: u32| {
            let mut fields = FieldHasher::of("test");
            fields.add(i.to_le_bytes());
            fields.finish()
        };
        range.map(hash).collect()
    }

    /// Where a packet of a group's endpoint ends, if sets hold what they mean.
    fn find(node: &TreeNode, group: &Hash) -> Hash {
        match node {
            TreeNode::Leaf(leaf) => *leaf,
            TreeNode::List { groups, .. } => *groups.iter().find(|g| *g == group).unwrap_or(groups.last().unwrap()),
            TreeNode::Inner { path, left, right } => {
                let place = place(group, path.seed);
                let continues = path.bits.iter().enumerate().all(|(i, bit)| place.bit(i) == *bit);
                let goes_left = continues && !place.bit(path.bits.len());
                find(if goes_left { left } else { right }, group)
            }
        }
    }

    #[test]
    fn every_group_is_found_and_the_tree_is_never_too_deep() {
        let seeds = [None, Some(Seed::from_bytes([1; 32]))];
        for (count, seed) in [1, 2, 3, 10, 250, 1_000, 20_000].into_iter().flat_map(|n| seeds.map(|seed| (n, seed))) {
            let all = hashes(0..count);
            let tree = TreeNode::new(all.clone(), seed).unwrap();
            let sets = tree.sets();
            for group in all.iter().take(100) {
                let of: Vec<&DispatchSet> =
                    sets.iter().filter(|(_, of)| of.contains(group)).map(|(set, _)| set).collect();
                let mut asked = tree.sets_of(group);
                asked.sort();
                assert_eq!(asked.iter().collect::<Vec<_>>(), of);
            }
            assert!(all.iter().all(|group| find(&tree, group) == *group));
            assert!(tree.depth() <= DEPTH + 2, "{count} groups make {} levels", tree.depth());
        }
    }

    #[test]
    fn the_shape_depends_on_the_set_of_groups_alone() {
        let all = hashes(0..100);
        let reversed: Vec<Hash> = all.iter().rev().copied().collect();
        for seed in [None, Some(Seed::from_bytes([1; 32]))] {
            assert_eq!(TreeNode::new(all.clone(), seed), TreeNode::new(reversed.clone(), seed));
        }
        assert_eq!(TreeNode::new(Vec::new(), None), None);
    }

    #[test]
    fn a_new_group_changes_the_meaning_of_no_set() {
        for seed in [None, Some(Seed::from_bytes([1; 32]))] {
            let sets = |range| TreeNode::new(hashes(range), seed).unwrap().sets();
            let (old, new) = (sets(0..100), sets(0..101));
            let newcomer = hashes(100..101)[0];
            for (at, groups) in old {
                let mut now = new[&at].clone();
                now.retain(|group| *group != newcomer);
                assert_eq!(now, groups);
            }
        }
    }

    /// The longest list.
    fn longest(tree: &TreeNode) -> usize {
        let mut longest = 0;
        tree.walk(&mut |node| {
            if let TreeNode::List { groups, .. } = node {
                longest = longest.max(groups.len());
            }
        });
        longest
    }

    #[test]
    fn groups_that_are_aimed_at_one_list_are_spread_by_a_seed() {
        let victim = hashes(0..1)[0];
        let shares = |group: &&Hash| (0..DEPTH).all(|at| group.bit(at) == victim.bit(at));
        let aimed: Vec<Hash> = hashes(1..30_000).iter().filter(shares).copied().take(24).collect();
        assert_eq!(aimed.len(), 24);
        let all = || aimed.iter().copied().chain([victim]).chain(hashes(30_000..30_250));
        assert!(longest(&TreeNode::new(all(), None).unwrap()) >= 25);
        // This holds for random places and any choice of names: 275 groups in 512 lists.
        let longest = (0..100).map(|n| longest(&TreeNode::new(all(), Some(Seed::from_bytes([n; 32]))).unwrap())).max();
        assert!(longest < Some(8), "{longest:?}");
    }

    #[test]
    fn no_two_seeds_have_a_set_in_common_but_those_of_groups() {
        let trees = [None, Some(1), Some(2)]
            .map(|n: Option<u8>| TreeNode::new(hashes(0..2_000), n.map(|n| Seed::from_bytes([n; 32]))).unwrap().sets());
        for (a, b) in [(0, 1), (0, 2), (1, 2)] {
            for (set, of) in &trees[a] {
                match set {
                    DispatchSet::Left(_) => assert!(!trees[b].contains_key(set)),
                    DispatchSet::Group(_) => assert!(trees[b].get(set).is_none_or(|other| other == of)),
                }
            }
        }
    }
}
