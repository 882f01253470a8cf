//! The store by hand: objects put in and taken out without a request, as
//! others in a cluster do it.

use std::collections::BTreeMap;

use serde_json::Value;

use super::event;
use super::object::{Key, Object};
use super::resource::{Group, Resource};
use super::store::State;
use super::{Server, defaults};

impl Server {
    /// Stores an object as it is, status included, as a new one or in place of
    /// the old; answers its version. Its namespace need not exist. Watches see
    /// the change; an object that is there already is no change.
    ///
    /// # Panics
    /// When the server does not store objects of its kind.
    pub fn put(&self, object: &Value) -> u64 {
        let version = put(&mut self.shared.store.state(), object);
        self.shared.changes.announce();
        version
    }

    /// Removes an object; answers whether it was there. `namespace` is empty for
    /// an object that lives in none.
    pub fn delete(&self, resource: Resource, namespace: &str, name: &str) -> bool {
        let key = Key { resource, namespace: namespace.to_owned(), name: name.to_owned() };
        let gone = self.shared.store.state().delete(&key).is_some();
        self.shared.changes.announce();
        gone
    }

    /// Makes the store hold exactly these namespaces, nodes, pods, services and
    /// network policies, by one write for each that differs: first what is new
    /// or changed, then what goes. Answers the version after that.
    ///
    /// # Panics
    /// When the server does not store objects of some kind.
    pub fn replace_all(&self, objects: &[Value]) -> u64 {
        let mut state = self.shared.store.state();
        let mut wanted: BTreeMap<Key, &Value> = objects.iter().map(|object| (key(object), object)).collect();
        // A namespace comes before what lives in it, by the order of keys.
        for object in wanted.values() {
            put(&mut state, object);
        }
        wanted.retain(|key, _| key.resource != Resource::Events);
        let mine = Resource::ALL.into_iter().filter(|resource| *resource != Resource::Events).rev();
        let there: Vec<Key> = mine.flat_map(|resource| state.all(resource).map(|(key, _)| key.clone())).collect();
        for key in there.iter().filter(|key| !wanted.contains_key(*key)) {
            state.delete(key);
        }
        let version = state.revision();
        drop(state);
        self.shared.changes.announce();
        version
    }

    /// All objects of a resource, as a client gets them one by one.
    #[must_use]
    pub fn objects(&self, resource: Resource) -> Vec<Value> {
        let group = if resource == Resource::Events { Group::Events } else { resource.group() };
        let state = self.shared.store.state();
        let whole = state.all(resource).map(|(_, object)| object.whole(group));
        whole.map(|text| serde_json::from_str(&text).unwrap_or_default()).collect()
    }
}

fn put(state: &mut State, object: &Value) -> u64 {
    let key = key(object);
    let group = object["apiVersion"].as_str().and_then(Group::of).unwrap_or(Group::Core);
    let mut object = event::as_stored(group, object.clone());
    if let Some(fields) = object.as_object_mut() {
        fields.remove("apiVersion");
        fields.remove("kind");
    }
    defaults::complete(key.resource, &mut object);
    if let Some(current) = state.get(&key) {
        let mut old = current.value();
        let uid = object["metadata"]["uid"].as_str();
        if uid.is_some_and(|uid| old["metadata"]["uid"] != *uid) {
            // Another object under the same name: the old one goes first.
            state.delete(&key);
        } else {
            let version = current.version();
            for field in ["uid", "creationTimestamp", "generation", "resourceVersion"] {
                if object["metadata"][field].is_null() {
                    object["metadata"][field] = old["metadata"][field].take();
                    old["metadata"][field] = object["metadata"][field].clone();
                }
            }
            if without_nulls(&object) == without_nulls(&old) {
                return version;
            }
            if object["spec"] != old["spec"]
                && let Some(generation) = old["metadata"]["generation"].as_u64()
            {
                object["metadata"]["generation"] = (generation + 1).into();
            }
        }
    }
    let made = state.put(key.clone(), |revision| {
        let uid = object["metadata"]["uid"].take();
        if object["metadata"]["creationTimestamp"].is_null() {
            defaults::stamp(key.resource, &mut object, revision);
        }
        if !uid.is_null() {
            object["metadata"]["uid"] = uid;
        }
        Object::new(key.resource, object, revision)
    });
    made.version()
}

/// An object without the metadata that is null, which is the same to clients.
fn without_nulls(object: &Value) -> Value {
    let mut object = object.clone();
    if let Some(metadata) = object["metadata"].as_object_mut() {
        metadata.retain(|_, value| !value.is_null());
    }
    object
}

fn key(object: &Value) -> Key {
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let kind = text(&object["kind"]);
    let resource = Resource::of_kind(&kind);
    let resource = resource.unwrap_or_else(|| panic!("the test API server does not store objects of kind {kind:?}"));
    let namespace = if resource.is_namespaced() { text(&object["metadata"]["namespace"]) } else { String::new() };
    Key { resource, namespace, name: text(&object["metadata"]["name"]) }
}
