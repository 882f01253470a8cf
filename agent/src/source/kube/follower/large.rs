//! The large objects. The agent keeps only those of their parts that policies name, and reads an
//! object again if policies name more.

use std::collections::HashMap;

use npc_compiler::object;

use super::known::SmallKey;
use crate::source::kube::objects::decode::{Identity, Item};
use crate::source::kube::objects::named::PolicyNames;
use crate::source::kube::objects::watched::{ObjectEvent, Trimmed};
use crate::source::kube::watch::reread::{ObjectKey, Wanted};

/// The large objects that are known. There are few: an ordinary object is none.
#[derive(Debug)]
pub(in super::super) struct Large {
    named: PolicyNames,
    wanted: Wanted,
    /// As they were read last.
    pods: HashMap<SmallKey, Identity>,
    namespaces: HashMap<String, Identity>,
    /// For these names all large objects were read, or are wanted.
    generation: u64,
}

impl Large {
    pub(in super::super) fn new(named: PolicyNames, wanted: Wanted) -> Self {
        Self { named, wanted, pods: HashMap::new(), namespaces: HashMap::new(), generation: 0 }
    }

    /// Notes whether a pod is large.
    pub(in super::super) fn note_pod(&mut self, event: &ObjectEvent<Trimmed<object::Pod>>) {
        let (ObjectEvent::Listed(item) | ObjectEvent::Applied(item)) = event else { return };
        if self.note(item, |identity| ObjectKey::Pod(identity.namespace.clone(), identity.name.clone())) {
            self.pods.insert(SmallKey::of(&item.identity), item.identity.clone());
        } else if item.content.is_ok() && !self.pods.is_empty() {
            self.pods.remove(&SmallKey::of(&item.identity));
        }
    }

    /// Notes whether a namespace is large.
    pub(in super::super) fn note_namespace(&mut self, event: &ObjectEvent<Trimmed<object::Namespace>>) {
        let (ObjectEvent::Listed(item) | ObjectEvent::Applied(item)) = event else { return };
        if self.note(item, |identity| ObjectKey::Namespace(identity.name.clone())) {
            self.namespaces.insert(item.identity.name.clone(), item.identity.clone());
        } else if item.content.is_ok() {
            self.namespaces.remove(&item.identity.name);
        }
    }

    /// Whether an object is large. It is wanted again if it was trimmed by fewer names than
    /// policies have by now.
    fn note<T>(&self, item: &Item<Trimmed<T>>, target: fn(&Identity) -> ObjectKey) -> bool {
        let Ok(Trimmed { generation: Some(generation), .. }) = &item.content else { return false };
        if *generation < self.named.generation() {
            self.wanted.add([target(&item.identity)]);
        }
        true
    }

    pub(in super::super) fn pod_gone(&mut self, key: &SmallKey) {
        self.pods.remove(key);
    }

    pub(in super::super) fn namespace_gone(&mut self, name: &str) {
        self.namespaces.remove(name);
    }

    /// Whether a pod that was read again is no older than what is known of it.
    pub(in super::super) fn expects_pod(&self, key: &SmallKey, identity: &Identity) -> bool {
        self.pods.get(key).is_some_and(|seen| !identity.is_older_than(seen))
    }

    /// As [`Large::expects_pod`].
    pub(in super::super) fn expects_namespace(&self, identity: &Identity) -> bool {
        self.namespaces.get(&identity.name).is_some_and(|seen| !identity.is_older_than(seen))
    }

    /// These are to be read again.
    pub(in super::super) fn read_again(&self, targets: Vec<ObjectKey>) {
        if !targets.is_empty() {
            self.wanted.add(targets);
        }
    }

    /// Policies may name more than before; then all large objects are to be read again.
    pub(in super::super) fn read_for_new_names(&mut self) {
        let generation = self.named.generation();
        if std::mem::replace(&mut self.generation, generation) == generation {
            return;
        }
        let pods = self.pods.values().map(|identity| ObjectKey::Pod(identity.namespace.clone(), identity.name.clone()));
        let namespaces = self.namespaces.keys().cloned().map(ObjectKey::Namespace);
        self.wanted.add(pods.chain(namespaces));
    }
}
