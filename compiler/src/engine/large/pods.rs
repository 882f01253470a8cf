//! Pods whose events wait: what of them counts at once.
//!
//! An address that is new is isolated at once, by a [stand-in](crate::engine::stand_in). A label that is taken
//! from a pod counts at once for the policies of other namespaces, which do not wait. All else has its
//! turn with the namespace.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::sync::Arc;

use super::batch::{Batch, ObjectChange, Waiting};
use crate::engine::Engine;
use crate::engine::key::PodKey;
use crate::engine::stand_in;
use crate::engine::store::PodSlot;
use crate::object::{Family, Pod};
use crate::policy::{Direction, Policy};

impl Engine {
    /// Makes, replaces or removes what stands for a pod, and notes its newest labels.
    pub(super) fn update_stand_in(&mut self, namespace: &str, key: &PodKey) {
        let waiting = self.large.waiting.get(namespace).and_then(|waiting| waiting.pod(key)).cloned();
        let known = self.store.find(key);
        if let Some(known) = known {
            self.touch_listed(known);
            self.store.set_newest_labels(known, waiting.as_ref().map(|pod| &pod.labels));
        }
        let stand_in = waiting.and_then(|pod| self.make_stand_in(&pod, known));
        let before = self.large.stand_ins.get(namespace).and_then(|stand_ins| stand_ins.get(key));
        if before == stand_in.as_ref() {
            return;
        }
        self.remove_stand_in(key);
        let Some(stand_in) = stand_in else { return };
        if !self.large.stand_ins.contains_key(namespace) {
            for policy in stand_in::policies(namespace) {
                self.groups.set_policy(&Arc::new(Policy::read(&policy).0));
            }
        }
        self.pod(&stand_in);
        self.large.stand_ins.entry(namespace.to_owned()).or_default().insert(key.clone(), stand_in);
    }

    /// The same for all pods of a namespace.
    pub(super) fn update_stand_ins(&mut self, namespace: &str) {
        let waiting = self.large.waiting.get(namespace).into_iter();
        let pods = waiting.flat_map(|waiting| waiting.batches().flat_map(Batch::pods)).map(PodKey::of);
        let stand_ins = self.large.stand_ins.get(namespace).into_iter().flat_map(|held| held.keys().cloned());
        for key in pods.chain(stand_ins).collect::<BTreeSet<PodKey>>() {
            self.update_stand_in(namespace, &key);
        }
    }

    /// Removes what stands for a pod, if anything does.
    pub(super) fn remove_stand_in(&mut self, key: &PodKey) {
        let before = self.large.stand_ins.values_mut().find_map(|stand_ins| stand_ins.remove(key));
        if let Some(before) = before.and_then(|before| self.store.find(&PodKey::of(&before))) {
            self.remove_pod(before);
        }
    }

    /// Takes the policies of stand-ins away where there are none any more.
    pub(super) fn forget_stand_ins(&mut self) {
        self.large.stand_ins.retain(|namespace, stand_ins| {
            if stand_ins.is_empty() {
                let of_stand_ins = stand_in::namespace_for(namespace);
                for direction in Direction::ALL {
                    self.groups.remove_policy(&of_stand_ins, direction.section());
                }
            }
            !stand_ins.is_empty()
        });
    }

    /// What stands for a pod that waits, under the addresses that it does not have yet.
    fn make_stand_in(&mut self, pod: &Pod, known: Option<PodSlot>) -> Option<Pod> {
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
        Some(stand_in::stand_in(pod, &addresses, isolated))
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
    pub fn stand_ins(&self) -> impl Iterator<Item = &Pod> {
        self.large.stand_ins.values().flat_map(|stand_ins| stand_ins.values())
    }

    /// How many policies isolate stand-ins.
    pub(in crate::engine) fn count_of_stand_in_policies(&self) -> usize {
        Direction::ALL.len() * self.large.stand_ins.len()
    }

    /// How many endpoints of this node are there twice, as they are known and as what stands for them.
    pub(in crate::engine) fn stand_ins_of_known(&self) -> usize {
        let all = self.large.stand_ins.values().flat_map(|stand_ins| stand_ins.keys());
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
