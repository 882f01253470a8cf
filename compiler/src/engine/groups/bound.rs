//! Which policies of this node's groups are over the bounds
//! ([`crate::ruleset::members`]).

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use rustc_hash::FxHashMap;

use super::{Age, LocalGroups};
use crate::engine::peer_sets::PeerSets;
use crate::engine::peers::PeerIndex;
use crate::engine::store::Store;
use crate::policy::finding::Finding;
use crate::policy::{Direction, PodPeer, Policy, PolicyRule};
use crate::ruleset::members::{self, Demand, MadeChains, MemberCount, Sizes};
use crate::ruleset::names::hash::Hash;
use crate::ruleset::node::SetName;

/// Which of the policies over the bound may come back.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::engine) enum Anew {
    /// All of them.
    All,
    /// Those that were edited; none where the sets of others grew.
    Edited(BTreeSet<Arc<str>>),
}

impl Default for Anew {
    fn default() -> Self {
        Self::Edited(BTreeSet::new())
    }
}

impl Anew {
    pub(super) fn has(&self, name: &Arc<str>) -> bool {
        match self {
            Self::All => true,
            Self::Edited(names) => names.contains(name),
        }
    }

    /// This policy may come back.
    pub(super) fn add(&mut self, name: &Arc<str>) {
        if let Self::Edited(names) = self {
            names.insert(Arc::clone(name));
        }
    }
}

impl LocalGroups {
    /// What is said of policies that are over the bound to their owners.
    pub(in crate::engine) fn over_bound(&self) -> impl Iterator<Item = &Finding> {
        self.namespaces.values().flat_map(|here| here.over_bound.values())
    }

    /// Another number than before if other policies are over the bound.
    pub(in crate::engine) const fn over_bound_version(&self) -> u64 {
        self.over_bound_version
    }

    /// The namespaces where some policies are over the bound, which are to be chosen anew.
    pub(in crate::engine) fn to_reconsider(&self) -> Vec<Arc<str>> {
        let over = self.namespaces.iter().filter(|(_, here)| !here.over_bound.is_empty());
        over.map(|(namespace, _)| Arc::clone(namespace)).collect()
    }

    /// Chooses the policies of a namespace that are over the bound anew, at the next commit.
    pub(in crate::engine) fn reconsider(&mut self, namespace: Arc<str>) {
        self.reconsidered.insert(namespace, Anew::All);
    }

    /// Takes the rules of policies away where a namespace's sets or rules count too much, and gives them
    /// back to others. Whether the groups are to be made anew.
    ///
    /// A group that is only retained goes before any policy is over the bound.
    pub(in crate::engine) fn enforce_bound(
        &mut self,
        store: &mut Store,
        peers: &mut PeerIndex,
        sets: &mut PeerSets,
    ) -> bool {
        let mut choices: BTreeMap<Arc<str>, Anew> = std::mem::take(&mut self.reconsidered);
        let mut is_changed = false;
        for (namespace, need) in sets.take_grown() {
            if self.options.bounds.admit(need) {
                continue;
            }
            if self.let_retained_go(&namespace) {
                is_changed = true;
                // It may still be too much.
                sets.check_again(&namespace);
            } else {
                choices.entry(namespace).or_default();
            }
        }
        for (namespace, anew) in choices {
            is_changed |= self.choose_over_bound(&namespace, &anew, (store, peers), sets);
        }
        self.is_stale |= is_changed;
        is_changed
    }

    /// Lets the empty groups of a namespace go. Whether there were any.
    fn let_retained_go(&mut self, namespace: &str) -> bool {
        let Some(here) = self.namespaces.get(namespace) else { return false };
        let mut were_any = false;
        for direction in Direction::ALL {
            for hash in &here.groups[direction as usize] {
                let group = self.groups[direction as usize].get_mut(hash);
                if let Some(group) = group.filter(|group| group.pods.is_empty()) {
                    group.age = Age::Over;
                    self.changed[direction as usize].insert(*hash);
                    were_any = true;
                }
            }
        }
        were_any
    }

    /// Chooses which policies of a namespace are over the bound. Returns whether they are others than before.
    ///
    /// The chains of all its groups are as the policies that are over the bound now ask. So only
    /// groups in which a policy may come back or go are checked: a tenant could have thousands of
    /// policies in others, and edit one that is alone.
    fn choose_over_bound(
        &mut self,
        namespace: &Arc<str>,
        anew: &Anew,
        (store, peers): (&mut Store, &mut PeerIndex),
        sets: &PeerSets,
    ) -> bool {
        let Some(here) = self.namespaces.get(namespace) else { return false };
        let stays = |name: &&Arc<str>| here.policies.contains_key(*name) && !anew.has(name);
        let stay: BTreeSet<&str> = here.over_bound.keys().filter(stays).map(|name| &**name).collect();
        let mut groups = Vec::new();
        for direction in Direction::ALL {
            let of_direction = &self.groups[direction as usize];
            let living = here.groups[direction as usize].iter().filter_map(|hash| of_direction.get(hash));
            groups.extend(living.filter(|group| !group.pods.is_empty()).map(|group| {
                let policies = group.policies.iter();
                let is_as_now = |name: &Arc<str>| !here.over_bound.contains_key(name) || stay.contains(&**name);
                let leaves = group.leaves.as_ref().filter(|_| policies.clone().all(is_as_now));
                Demand {
                    direction,
                    policies: policies.map(|name| &*here.policies[name]).collect(),
                    resolution: &group.resolution,
                    made: leaves.map(|leaves| MadeChains {
                        sets: leaves.iter().flat_map(|chain| &*chain.sets).collect(),
                        rules: leaves.iter().map(|chain| chain.admitting).sum(),
                    }),
                }
            }));
        }
        // Those that stay over the bound name nothing.
        let mut policies = BTreeMap::<(&str, Direction), &Policy>::new();
        for group in &groups {
            let others = group.policies.iter().filter(|policy| !stay.contains(policy.name.as_str()));
            policies.extend(others.map(|policy| ((policy.name.as_str(), group.direction), *policy)));
        }
        let rules = policies.iter().flat_map(|((_, direction), policy)| policy.rules(*direction));
        let known = peers.sizes_of(store, rules.flat_map(PolicyRule::pod_peers));
        let mut sizes = InStore { of_all: store.size, sets, known };
        let over = members::choose_over_bound(&groups, stay, &self.options, &mut sizes);
        let over = over.into_iter().filter_map(|name| here.policies.get_key_value(name));
        let over: Vec<Arc<str>> = over.map(|(name, _)| Arc::clone(name)).collect();
        self.put_over_bound(namespace, &over)
    }

    /// These policies of a namespace are over the bound, as was found out for what changes in it now.
    pub(in crate::engine) fn set_over_bound(&mut self, namespace: &str, over: &[Arc<str>]) {
        self.reconsidered.remove(namespace);
        self.is_stale |= self.put_over_bound(namespace, over);
    }

    /// Whether others are over the bound than before.
    fn put_over_bound(&mut self, namespace: &str, over: &[Arc<str>]) -> bool {
        let Some(here) = self.namespaces.get_mut(namespace) else { return false };
        if here.over_bound.keys().eq(over) {
            return false;
        }
        let policies = over.iter().filter_map(|name| here.policies.get_key_value(name));
        let found = policies
            .map(|(name, policy)| (Arc::clone(name), members::finding(policy, &self.options, "a node")))
            .collect();
        let before = std::mem::replace(&mut here.over_bound, found);
        self.over_bound_version += 1;
        let moved: BTreeSet<&Arc<str>> = before
            .keys()
            .filter(|name| !here.over_bound.contains_key(*name))
            .chain(here.over_bound.keys().filter(|name| !before.contains_key(*name)))
            .collect();
        for direction in Direction::ALL {
            let groups = &self.groups[direction as usize];
            let is_concerned = |hash: &&Hash| {
                groups.get(*hash).is_some_and(|group| group.policies.iter().any(|name| moved.contains(name)))
            };
            for hash in here.groups[direction as usize].iter().filter(is_concerned) {
                self.changed[direction as usize].insert(*hash);
                self.edited[direction as usize].insert(*hash);
            }
        }
        true
    }
}

/// The sizes of peers among the pods that the engine knows.
pub(super) struct InStore<'a> {
    pub(super) of_all: MemberCount,
    pub(super) sets: &'a PeerSets,
    pub(super) known: FxHashMap<&'a PodPeer, MemberCount>,
}

impl Sizes for InStore<'_> {
    fn of_peer(&mut self, peer: &PodPeer) -> MemberCount {
        // What is counted is an upper bound, so one that was not looked up may be everything.
        self.known.get(peer).copied().unwrap_or(self.of_all)
    }

    fn of_all(&mut self) -> MemberCount {
        self.of_all
    }

    fn of_set(&self, set: &SetName) -> Option<u64> {
        self.sets.count_of(set)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::algebra::selector::Selector;
    use crate::policy::Namespaces;

    #[test]
    fn a_peer_that_was_not_looked_up_counts_as_all_pods() {
        let of_all = MemberCount { addresses: [3, 1], ports: [7, 2] };
        let peer = |name: &str| PodPeer { namespaces: Namespaces::Own(name.to_owned()), pods: Selector::default() };
        let (known, unknown) = (peer("known"), peer("unknown"));
        let sets = PeerSets::default();
        let mut sizes =
            InStore { of_all, sets: &sets, known: [(&known, MemberCount::default())].into_iter().collect() };
        assert_eq!((sizes.of_peer(&known), sizes.of_peer(&unknown)), (MemberCount::default(), of_all));
    }
}
