//! Objects, and what changes make of them.
//!
//! A change of a policy makes anew what depends on it, in one namespace: with 100,000 pods, a copy of all objects and a
//! cluster made of it would take seconds and a gigabyte for each proposal.

use std::sync::Arc;

use super::change::Change;
use super::object_name::ObjectName;
use super::written::Written;
use crate::cluster::Cluster;
use crate::cluster::group::Groups;
use crate::object::{NetworkPolicy, Objects};
use crate::policy::Direction;
use crate::verdict::bounds::Verdict;
use crate::verdict::explain::Pair;

/// The objects, and what they mean.
#[derive(Clone, Copy)]
pub(super) struct View<'a> {
    /// The objects without what changed of policies.
    objects: &'a Objects,
    /// These objects, if labels changed.
    relabelled: Option<&'a Arc<Objects>>,
    /// Policies that changed or are new, one of each name.
    policies: &'a [NetworkPolicy],
    pub(super) cluster: &'a Cluster,
    pub(super) groups: &'a Groups,
    pub(super) written: &'a dyn Written,
    bounded: Bounded<'a>,
}

impl<'a> View<'a> {
    /// The objects before any change.
    pub(super) const fn new(
        objects: &'a Objects,
        (cluster, groups): (&'a Cluster, &'a Groups),
        written: &'a dyn Written,
        bounded: Bounded<'a>,
    ) -> Self {
        Self { objects, relabelled: None, policies: &[], cluster, groups, written, bounded }
    }

    /// The objects, whose policies may have changed since ([`View::policy`]).
    pub(super) const fn objects_but_policies(self) -> &'a Objects {
        self.objects
    }

    /// The policy of a name; of several the last, which counts.
    pub(super) fn policy(self, namespace: &str, name: &str) -> Option<&'a NetworkPolicy> {
        let is_meant = |of: &&NetworkPolicy| of.namespace() == namespace && of.name() == name;
        self.policies.iter().find(is_meant).or_else(|| self.objects.policies.iter().rfind(is_meant))
    }

    /// The names of the policies of a namespace, some of them twice.
    pub(super) fn policy_names(self, namespace: &str) -> impl Iterator<Item = &'a str> {
        let all = self.policies.iter().chain(&self.objects.policies);
        all.filter(move |policy| policy.namespace() == namespace).map(NetworkPolicy::name)
    }

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

/// A cluster as agents enforce it: without the rules of policies over their bound on set members. If a namespace is
/// named, the cluster was so before policies of this namespace changed.
pub type Bounded<'a> = &'a dyn Fn(Cluster, Option<&str>) -> Cluster;

/// The same after a change.
pub(super) struct Changed {
    relabelled: Option<Arc<Objects>>,
    policies: Vec<NetworkPolicy>,
    cluster: Cluster,
    groups: Groups,
}

impl Changed {
    pub(super) fn new(before: View<'_>, change: &Change) -> Option<Self> {
        if change.is_of_labels() {
            let mut objects = before.objects.clone();
            before.policies.iter().cloned().for_each(|policy| put(&mut objects.policies, policy));
            change.relabel(&mut objects)?;
            return Some(Self::anew(before, objects));
        }
        let policy = change.policy(|namespace, name| before.policy(namespace, name))?;
        let Some(cluster) = before.cluster.with_policy(&policy) else {
            let mut objects = before.objects.clone();
            before.policies.iter().cloned().for_each(|policy| put(&mut objects.policies, policy));
            put(&mut objects.policies, policy);
            return Some(Self::anew(before, objects));
        };
        let has_same_ids = cluster.changed_policies(before.cluster).is_some();
        let cluster = (before.bounded)(cluster, has_same_ids.then_some(policy.namespace()));
        let groups = Groups::of_changed(&cluster, before.cluster, before.groups);
        let mut policies = before.policies.to_vec();
        put(&mut policies, policy);
        Some(Self { relabelled: before.relabelled.cloned(), policies, cluster, groups })
    }

    /// All made anew.
    fn anew(before: View<'_>, objects: Objects) -> Self {
        let cluster = Cluster::new(&objects).with_context_of(before.cluster);
        let cluster = (before.bounded)(cluster, None);
        let groups = Groups::of_cluster(&cluster);
        Self { relabelled: Some(Arc::new(objects)), policies: Vec::new(), cluster, groups }
    }

    /// The cluster after several changes; each change is applied to the result of the one before.
    pub(super) fn all(before: View<'_>, changes: &[Change]) -> Option<Self> {
        let (first, rest) = changes.split_first()?;
        rest.iter().try_fold(Self::new(before, first)?, |made, change| Self::new(made.view(before), change))
    }

    /// Whether it allows what a pair was asked about.
    pub(super) fn passes(&self, pair: &Pair) -> bool {
        pair.passes(&self.cluster, &self.groups).verdict(&pair.question.traffic) == Verdict::Allowed
    }

    /// The view of the changed cluster in place of the one before.
    pub(super) fn view<'a>(&'a self, before: View<'a>) -> View<'a> {
        View {
            objects: self.relabelled.as_deref().unwrap_or(before.objects),
            relabelled: self.relabelled.as_ref(),
            policies: &self.policies,
            cluster: &self.cluster,
            groups: &self.groups,
            ..before
        }
    }
}

/// Adds a policy, or puts it in place of the last one of its name.
fn put(policies: &mut Vec<NetworkPolicy>, policy: NetworkPolicy) {
    let is_meant = |of: &NetworkPolicy| of.namespace() == policy.namespace() && of.name() == policy.name();
    match policies.iter().rposition(is_meant) {
        Some(place) => policies[place] = policy,
        None => policies.push(policy),
    }
}

#[cfg(test)]
#[path = "changed_tests.rs"]
mod tests;
