//! What the kernel is to have of the groups of this node: their chains, those of several groups that decide
//! together, and where the dispatch trees lead.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

use super::{Age, Joint, LocalGroups, MadeChain, Touched, Wanted};
use crate::engine::dispatch_trees::Leaves;
use crate::engine::peer_sets::PeerSets;
use crate::engine::peers::PeerIndex;
use crate::engine::prepared::PreparedGroup;
use crate::engine::store::Store;
use crate::object::Family;
use crate::plan::{Delta, KernelState};
use crate::policy::{Direction, Policy};
use crate::ruleset::layout::{SelfMatch, forward, joint};
use crate::ruleset::names::hash::Hash;
use crate::ruleset::node::{ChainName, Member};

impl LocalGroups {
    /// Makes the chains of groups that are new or edited, and drops the groups
    /// that have no endpoint and are not to be retained, or are too many. All chains that came or
    /// went are noted. Whether the tree is to lead elsewhere.
    pub(super) fn rewrite(
        &mut self,
        direction: Direction,
        store: &mut Store,
        peers: &mut PeerIndex,
        sets: &mut PeerSets,
        state: &KernelState,
        touched: &mut [Touched; 2],
    ) -> bool {
        let edited = std::mem::take(&mut self.edited[direction as usize]);
        let mut dropped = Vec::new();
        let mut retaining = BTreeSet::new();
        let mut lead_elsewhere = false;
        for hash in std::mem::take(&mut self.changed[direction as usize]) {
            let Some(group) = self.groups[direction as usize].get_mut(&hash) else { continue };
            let is_edited = edited.contains(&hash);
            if group.pods.is_empty() {
                // What another policy makes of it is found when it is needed.
                if self.retains && !is_edited && group.age != Age::Over && group.leaves.is_some() {
                    retaining.insert(Arc::clone(&group.namespace));
                    continue;
                }
                let leaves = self.take_out(direction, hash);
                lead_elsewhere |= leaves.is_some();
                dropped.extend(leaves);
                continue;
            }
            if group.leaves.is_some() && !is_edited {
                continue;
            }
            let Some(here) = self.namespaces.get(&group.namespace) else { continue };
            let policies = group.policies.iter().filter(|name| !here.over_bound.contains_key(*name));
            let policies: Vec<Arc<Policy>> = policies.map(|name| Arc::clone(&here.policies[name])).collect();
            let is_of_use = |prepared: &PreparedGroup| {
                prepared.is_of(&policies) && prepared.is_complete(state, |name| sets.is_known(name))
            };
            let prepared = self.prepared[direction as usize].remove(&hash).filter(is_of_use);
            let PreparedGroup { leaves, .. } = prepared.unwrap_or_else(|| {
                PreparedGroup::new((direction, hash, &group.resolution), policies, &self.options, &group.names())
            });
            let leaves = leaves.map(|mut leaf| {
                let (family, asked) = (leaf.family, std::mem::take(&mut leaf.sets));
                for (name, definition) in &asked {
                    sets.keep(store, peers, (family, &group.namespace), name, definition.as_ref());
                }
                let admitting = leaf.admitting;
                let (chain, rules) = leaf.into_rules();
                *self.uses[family as usize].entry(chain.clone()).or_default() += 1;
                touched[family as usize].insert(chain.clone(), rules.map_or(Wanted::Held, Wanted::Rules));
                sets.add_rules(&group.namespace, admitting);
                MadeChain { name: chain, sets: asked.into_keys().collect(), admitting }
            });
            let namespace = &group.namespace;
            dropped.extend(group.leaves.replace(leaves).map(|leaves| (Arc::clone(namespace), leaves)));
            lead_elsewhere = true;
        }
        let surplus: Vec<Hash> =
            retaining.into_iter().flat_map(|namespace| self.surplus(direction, &namespace)).collect();
        for hash in surplus {
            lead_elsewhere = true;
            dropped.extend(self.take_out(direction, hash));
        }
        for (namespace, leaves) in dropped {
            for (family, chain) in Family::ALL.into_iter().zip(leaves) {
                for name in &*chain.sets {
                    sets.release(name, &namespace);
                }
                sets.remove_rules(&namespace, chain.admitting);
                self.drop_chain(family, chain.name, touched);
            }
        }
        lead_elsewhere
    }

    /// Has groups decide together where pods of several hold one address, and no
    /// longer where they do not. Whether the tree is to lead elsewhere.
    pub(super) fn join(&mut self, direction: Direction, store: &Store, touched: &mut [Touched; 2]) -> bool {
        let mut now = BTreeMap::new();
        let several = store.contests().iter().filter(|(_, contest)| contest.holders.len() > 1);
        for (address, _) in several {
            let deciding = self.deciding_groups(store, *address, direction);
            let Some(deciding) = deciding.filter(|deciding| deciding.groups.len() > 1) else { continue };
            now.entry(deciding.identity).or_insert_with(|| {
                let made = Family::ALL.map(|family| {
                    let chain = |group: &Hash| self.groups[direction as usize].get(group)?.chain(family).cloned();
                    joint(direction, &deciding.groups.iter().map(chain).collect::<Option<Vec<_>>>()?)
                });
                (deciding.groups, made)
            });
        }
        let mut made = BTreeMap::new();
        for (identity, (groups, rules)) in now {
            let [v4, v6] = rules;
            let mut chains = Vec::new();
            for (family, (chain, rules)) in Family::ALL.into_iter().zip([v4, v6].into_iter().flatten()) {
                *self.uses[family as usize].entry(chain.clone()).or_default() += 1;
                touched[family as usize].insert(chain.clone(), Wanted::Rules(rules));
                chains.push(chain);
            }
            made.insert(identity, Joint { groups, chains: chains.try_into().ok() });
        }
        let was = std::mem::replace(&mut self.joints[direction as usize], made);
        let lead_elsewhere = was != self.joints[direction as usize];
        for chains in was.into_values().filter_map(|joint| joint.chains) {
            for (family, chain) in Family::ALL.into_iter().zip(chains) {
                self.drop_chain(family, chain, touched);
            }
        }
        lead_elsewhere
    }

    /// One use less of a chain.
    pub(super) fn drop_chain(&mut self, family: Family, chain: ChainName, touched: &mut [Touched; 2]) {
        let uses = &mut self.uses[family as usize];
        if let Some(count) = uses.get_mut(&chain) {
            *count -= 1;
            if *count == 0 {
                uses.remove(&chain);
            }
        }
        touched[family as usize].entry(chain).or_insert(Wanted::Gone);
    }

    /// Where the tree of a direction is to lead, and which addresses.
    pub(super) fn leaves(&self, direction: Direction, store: &Store) -> BTreeMap<Hash, Leaves> {
        let of_groups = self.groups[direction as usize].iter().filter_map(|(hash, group)| {
            let chains = group.leaves.as_ref()?.each_ref().map(|chain| chain.name.clone());
            Some((*hash, Leaves { chains, members: Default::default() }))
        });
        let joint = self.joints[direction as usize].iter();
        let of_joint = joint.filter_map(|(identity, joint)| {
            Some((*identity, Leaves { chains: joint.chains.clone()?, members: Default::default() }))
        });
        let mut leaves: BTreeMap<Hash, Leaves> = of_groups.chain(of_joint).collect();
        for pod in self.here() {
            for family in Family::ALL {
                let Some(address) = store.address(pod, family) else { continue };
                let deciding = self.deciding_groups(store, address, direction);
                if let Some(leaf) = deciding.and_then(|deciding| leaves.get_mut(&deciding.identity)) {
                    leaf.members[family as usize].insert(Member::Address(address));
                }
            }
        }
        leaves
    }

    /// The first chains, where they change.
    pub(super) fn forward(&self, store: &Store, state: &KernelState, deltas: &mut [Delta; 2]) {
        let pods = || self.groups.iter().flat_map(BTreeMap::values).flat_map(|group| &group.pods);
        let is_isolating = pods().next().is_some();
        for family in Family::ALL {
            let mut isolated = BTreeSet::<IpAddr>::new();
            if self.options.self_match == SelfMatch::PerEndpoint {
                isolated.extend(pods().filter_map(|pod| store.address(*pod, family)));
            }
            for (name, rules) in forward(family, &self.options, is_isolating, &isolated) {
                if state.family(family).chains.get(&name) != Some(&rules) {
                    deltas[family as usize].chains.insert(name, Some(rules));
                }
            }
        }
    }
}
