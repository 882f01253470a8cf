//! Objects, and what changes make of them.

use super::change::Change;
use super::object_name::ObjectName;
use super::written::Written;
use crate::cluster::Cluster;
use crate::cluster::group::Groups;
use crate::object::Objects;
use crate::policy::Direction;
use crate::verdict::bounds::Verdict;
use crate::verdict::explain::Pair;

/// The objects, and what they mean.
#[derive(Clone, Copy)]
pub(super) struct View<'a> {
    pub(super) objects: &'a Objects,
    pub(super) cluster: &'a Cluster,
    pub(super) groups: &'a Groups,
    pub(super) written: &'a dyn Written,
    pub(super) bounded: Bounded<'a>,
}

impl View<'_> {
    /// Whether an object has a name by which a patch can mean it. One that has `metadata.generateName`
    /// in its place gets its name from the API server.
    pub(super) fn has_name(self, object: &ObjectName) -> bool {
        let has = |key| self.written.text(object, &["metadata", key]).is_some_and(|text| !text.is_empty());
        has("name") || !has("generateName")
    }

    /// Whether a direction admits all pairs.
    pub(super) fn admits(self, pairs: &[Pair], direction: Direction) -> bool {
        pairs.iter().all(|pair| pair.verdict(self.cluster, self.groups, direction) == Verdict::Allowed)
    }
}

/// A cluster as agents enforce it: without the rules of policies over their bound on set members.
pub type Bounded<'a> = &'a dyn Fn(Cluster) -> Cluster;

/// The same after a change.
pub(super) struct Changed {
    objects: Objects,
    cluster: Cluster,
    groups: Groups,
}

impl Changed {
    pub(super) fn new(before: View<'_>, change: &Change) -> Option<Self> {
        let mut objects = before.objects.clone();
        change.apply(&mut objects)?;
        let cluster = Cluster::new(&objects).with_unread(before.cluster.unread().to_vec());
        let cluster = (before.bounded)(cluster);
        let groups = Groups::of_cluster(&cluster);
        Some(Self { objects, cluster, groups })
    }

    /// The same after several changes, each of what the one before it made.
    pub(super) fn all(before: View<'_>, changes: &[Change]) -> Option<Self> {
        let (first, rest) = changes.split_first()?;
        rest.iter().try_fold(Self::new(before, first)?, |made, change| Self::new(made.view(before), change))
    }

    /// Whether it allows what a pair was asked about.
    pub(super) fn passes(&self, pair: &Pair) -> bool {
        pair.passes(&self.cluster, &self.groups).verdict(&pair.question.traffic) == Verdict::Allowed
    }

    /// This in place of what was before.
    pub(super) const fn view<'a>(&'a self, before: View<'a>) -> View<'a> {
        View { objects: &self.objects, cluster: &self.cluster, groups: &self.groups, ..before }
    }
}
