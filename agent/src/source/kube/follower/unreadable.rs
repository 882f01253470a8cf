//! Objects that cannot be read: what follows for each, in the log, a metric and the status.

use std::hash::Hash;

use tracing::error;

use super::{Cluster, Follower};
use crate::source::ObjectKind;
use crate::source::kube::follower::known::{KeptData, KnownObjects};
use crate::source::kube::objects::decode::{Identity, Item};
use crate::status::UnreadableObject;

/// How many objects that cannot be read the status and the log name.
const NAMED_UNREADABLE: usize = 100;

impl Follower {
    /// Counts what cannot be read of a kind, if it is another number than before.
    pub(super) fn is_unreadable(&self, kind: ObjectKind, before: usize) {
        let count = match kind {
            ObjectKind::Pod => self.known.pods.unreadable_count(),
            ObjectKind::Namespace => self.known.namespaces.unreadable_count(),
            ObjectKind::NetworkPolicy => self.known.policies.unreadable_count(),
            ObjectKind::Node => self.known.nodes.unreadable_count(),
        };
        if count == before {
            return;
        }
        self.watches.unreadable(kind, count);
        let Some(status) = &self.status else { return };
        let Cluster { pods, namespaces, policies, nodes } = &self.known;
        let all =
            pods.unreadable().chain(namespaces.unreadable()).chain(policies.unreadable()).chain(nodes.unreadable());
        let mut objects: Vec<UnreadableObject> = all.cloned().collect();
        objects.sort_unstable();
        objects.truncate(NAMED_UNREADABLE);
        status.update(|status| status.unreadable = objects);
    }
}

/// What follows for an object that cannot be read and was not known before.
pub(super) fn effect_of_unreadable(kind: ObjectKind, is_rescued: bool) -> &'static str {
    match kind {
        ObjectKind::NetworkPolicy if is_rescued => "it isolates what its podSelector selects, and allows nothing",
        ObjectKind::NetworkPolicy => "its podSelector cannot be read either, so it isolates no pod",
        ObjectKind::Pod => "no policy isolates this pod, and rules admit nothing because of it",
        ObjectKind::Namespace => "no namespaceSelector selects it",
        ObjectKind::Node => "it exists",
    }
}

/// Notes that an object cannot be read, and logs it if that is news.
pub(super) fn note_unreadable<K: Eq + Hash + Clone, V: KeptData + Default>(
    known: &mut KnownObjects<K, V>,
    key: K,
    object: UnreadableObject,
) {
    let (is_first, copy) = (known.unreadable_count() < NAMED_UNREADABLE, object.clone());
    if known.came_unreadable(key, object) && is_first {
        log_unreadable(&copy);
    }
}

/// Logs an object that cannot be read.
pub(super) fn log_unreadable(object: &UnreadableObject) {
    let UnreadableObject { kind, namespace, name, error, effect } = object;
    error!(kind, namespace, name, error, effect, "cannot read this object as the API server sent it");
}

pub(super) fn unreadable_object<T>(kind: ObjectKind, item: &Item<T>, effect: &str) -> UnreadableObject {
    let error = item.content.as_ref().err().map(String::as_str).unwrap_or_default();
    unreadable_as(kind, &item.identity, error, effect)
}

/// What is said of an object that cannot be read.
pub(super) fn unreadable_as(kind: ObjectKind, identity: &Identity, error: &str, effect: &str) -> UnreadableObject {
    // A text of the object may be in the error.
    let error: String = error.chars().take(300).collect();
    let Identity { namespace, name, .. } = identity;
    let [kind, effect] = [kind.as_str(), effect].map(str::to_owned);
    UnreadableObject { kind, namespace: namespace.clone(), name: name.clone(), error, effect }
}
