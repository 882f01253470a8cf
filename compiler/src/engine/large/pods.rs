//! Pods whose events wait: what of them counts at once.
//!
//! An address that is new is isolated at once, by a placeholder pod ([`placeholder`]). A label that is taken
//! from a pod counts at once for the policies of other namespaces, which do not wait. All else has its
//! turn with the namespace.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::sync::Arc;

use super::batch::{Batch, ObjectChange, Waiting};
use crate::engine::Engine;
use crate::engine::key::PodKey;
use crate::engine::placeholder;
use crate::engine::store::PodSlot;
use crate::object::{Family, Pod};
use crate::policy::{Direction, Policy};

impl Engine {
    /// Makes, replaces or removes what stands for a pod, and notes its newest labels.
    pub(super) fn update_placeholder(&mut self, namespace: &str, key: &PodKey) {
        let waiting = self.large.waiting.get(namespace).and_then(|waiting| waiting.pod(key)).cloned();
        let known = self.store.find(key);
        if let Some(known) = known {
            self.touch_listed(known);
            self.store.set_newest_labels(known, waiting.as_ref().map(|pod| &pod.labels));
        }
        let placeholder = waiting.and_then(|pod| self.make_placeholder(&pod, known));
        let before = self.large.placeholders.get(namespace).and_then(|placeholders| placeholders.get(key));
        if before == placeholder.as_ref() {
            return;
        }
        self.remove_placeholder(key);
        let Some(placeholder) = placeholder else { return };
        if !self.large.placeholders.contains_key(namespace) {
            for policy in placeholder::policies(namespace) {
                self.groups.set_policy(&Arc::new(Policy::read(&policy).0));
            }
        }
        self.pod(&placeholder);
        self.large.placeholders.entry(namespace.to_owned()).or_default().insert(key.clone(), placeholder);
    }

    /// The same for all pods of a namespace.
    pub(super) fn update_placeholders(&mut self, namespace: &str) {
        let waiting = self.large.waiting.get(namespace).into_iter();
        let pods = waiting.flat_map(|waiting| waiting.batches().flat_map(Batch::pods)).map(PodKey::of);
        let placeholders = self.large.placeholders.get(namespace).into_iter().flat_map(|held| held.keys().cloned());
        for key in pods.chain(placeholders).collect::<BTreeSet<PodKey>>() {
            self.update_placeholder(namespace, &key);
        }
    }

    /// Removes what stands for a pod, if anything does.
    pub(super) fn remove_placeholder(&mut self, key: &PodKey) {
        let before = self.large.placeholders.values_mut().find_map(|placeholders| placeholders.remove(key));
        if let Some(before) = before.and_then(|before| self.store.find(&PodKey::of(&before))) {
            self.remove_pod(before);
        }
    }

    /// Takes the policies of placeholders away where there are none any more.
    pub(super) fn forget_placeholders(&mut self) {
        self.large.placeholders.retain(|namespace, placeholders| {
            if placeholders.is_empty() {
                let of_placeholders = placeholder::namespace_for(namespace);
                for direction in Direction::ALL {
                    self.groups.remove_policy(&of_placeholders, direction.section());
                }
            }
            !placeholders.is_empty()
        });
    }

    /// What stands for a pod that waits, under the addresses that it does not have yet.
    fn make_placeholder(&mut self, pod: &Pod, known: Option<PodSlot>) -> Option<Pod> {
        let is_new = |address: &IpAddr| {
            known.is_none_or(|known| self.store.listed(known, Family::of(address)) != Some(*address))
        };
        let addresses: Vec<IpAddr> = pod.addresses().filter(is_new).collect();
        if addresses.is_empty() || !self.store.is_this_node(pod.node.as_deref()) {
            return None;
        }
        // If a policy waits, or is to be removed by a waiting event, it is not known whether it is
        // in force before the pod is.
        let mut isolated = self.groups.isolates(&pod.namespace, &pod.labels);
        if let Some(waiting) = self.large.waiting.get(&pod.namespace) {
            let by_waiting = waiting.isolates(&pod.labels);
            isolated = Direction::ALL.map(|direction| isolated[direction as usize] || by_waiting[direction as usize]);
        }
        Some(placeholder::placeholder(pod, &addresses, isolated))
    }

    fn touch_listed(&mut self, pod: PodSlot) {
        for family in Family::ALL {
            if let Some(address) = self.store.listed(pod, family) {
                self.touch(address);
            }
        }
    }

    /// What the last commit may have written about pods that wait is compared with what is right now:
    /// the policies that use a set decide by which labels they are in it.
    pub(in crate::engine) fn touch_relabelled(&mut self) {
        for pod in self.store.relabelled().collect::<Vec<PodSlot>>() {
            self.touch_listed(pod);
        }
    }

    /// What stands for pods of this node that are isolated though their events wait.
    pub fn placeholders(&self) -> impl Iterator<Item = &Pod> {
        self.large.placeholders.values().flat_map(|placeholders| placeholders.values())
    }

    /// How many policies isolate placeholders.
    pub(in crate::engine) fn count_of_placeholder_policies(&self) -> usize {
        Direction::ALL.len() * self.large.placeholders.len()
    }

    /// How many endpoints of this node are there twice, as they are known and as what stands for them.
    pub(in crate::engine) fn placeholders_of_known(&self) -> usize {
        let all = self.large.placeholders.values().flat_map(|placeholders| placeholders.keys());
        all.filter(|key| self.store.find(key).is_some_and(|pod| self.store.is_here(pod))).count()
    }
}

impl Waiting {
    /// What the last event about a pod that waits makes of it.
    pub(super) fn pod(&self, key: &PodKey) -> Option<&Pod> {
        self.later.pod(key).or_else(|| self.now.pod(key))
    }
}

impl Batch {
    /// The pods that wait, as they will be.
    pub(super) fn pods(&self) -> impl Iterator<Item = &Pod> {
        self.changes.values().filter_map(|change| match change {
            ObjectChange::Pod(pod) => Some(&**pod),
            ObjectChange::Policy(_) => None,
        })
    }
}
