//! What the engine was given of this node's pods, and what it has to be given so that it knows them
//! as they are now.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use npc_compiler::engine::{Event, PodKey};
use npc_compiler::object::Pod;

use super::endpoints::{deny_all, has_addresses, key_of_unidentified, keys, unidentified_pod, with_addresses};

/// The addresses of this node as they are now.
#[derive(Debug, Default)]
pub(super) struct CurrentAddresses {
    /// Those that are each object's.
    pub(super) of_objects: BTreeMap<PodKey, Vec<IpAddr>>,
    /// Those that are to be isolated without an object.
    pub(super) unidentified: BTreeSet<IpAddr>,
}

/// What the engine was given.
#[derive(Debug, Default)]
pub(super) struct Given {
    /// Of each object.
    pods: BTreeMap<PodKey, Vec<Pod>>,
    /// The objects that are others than when that was given.
    changed: BTreeSet<PodKey>,
    /// The addresses without an object.
    unidentified: BTreeSet<IpAddr>,
    /// It has the policy that isolates these.
    has_policy: bool,
}

impl Given {
    /// An object is another one than the engine was given, or is new.
    pub(super) fn object_changed(&mut self, key: PodKey) {
        self.changed.insert(key);
    }

    /// What the engine has to be given, so that it knows these addresses of these objects, and
    /// no others of this node.
    pub(super) fn update(&mut self, node: &str, objects: &BTreeMap<PodKey, Pod>, now: CurrentAddresses) -> Vec<Event> {
        let CurrentAddresses { of_objects, unidentified } = now;
        let mut different = Vec::new();
        for (key, addresses) in &of_objects {
            let Some(pod) = objects.get(key) else { continue };
            let given = self.pods.get(key);
            // To build a pod and to compare it takes longer than all else here, and an ADD is about
            // one of many.
            let is_given = |given: &Vec<Pod>| !self.changed.contains(key) && has_addresses(given, addresses);
            if given.is_some_and(is_given) {
                continue;
            }
            different.push((key.clone(), with_addresses(pod, addresses)));
        }
        let mut gone = Vec::new();
        self.pods.retain(|key, pods| {
            let is_wanted = of_objects.contains_key(key);
            if !is_wanted {
                gone.extend(keys(pods));
            }
            is_wanted
        });
        gone.extend(self.unidentified.difference(&unidentified).map(|address| key_of_unidentified(*address)));
        let mut pods = Vec::new();
        for (key, pods_now) in different {
            let before = self.pods.insert(key, pods_now.clone()).unwrap_or_default();
            gone.extend(keys(&before).into_iter().skip(pods_now.len()));
            pods.extend(pods_now.into_iter().filter(|pod| !before.contains(pod)));
        }
        let new = unidentified.difference(&self.unidentified);
        pods.extend(new.map(|address| unidentified_pod(node, *address)));
        let mut events = Vec::with_capacity(gone.len() + pods.len());
        if !self.has_policy && !unidentified.is_empty() {
            self.has_policy = true;
            events.push(Event::Policy(Box::new(deny_all())));
        }
        events.extend(gone.into_iter().map(Event::PodGone));
        events.extend(pods.into_iter().map(|pod| Event::Pod(Box::new(pod))));
        self.unidentified = unidentified;
        self.changed.clear();
        events
    }
}
