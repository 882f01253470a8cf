//! The store: objects with one history, as etcd keeps them.
//!
//! Every write makes a new revision of the whole store, and an object's
//! `resourceVersion` is the revision that wrote it. Earlier states can be read,
//! and watches can begin there, until the history before some revision is
//! compacted.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};

use super::fault::Disturbance;
use super::object::{Key, Object};
use super::resource::Resource;

/// A write.
#[derive(Debug)]
pub(crate) struct Change {
    pub(crate) key: Key,
    /// What was there before.
    pub(crate) before: Option<Arc<Object>>,
    /// What is there now; of a deletion, what was there, under the version of
    /// the deletion.
    pub(crate) after: Arc<Object>,
    pub(crate) deleted: bool,
}

impl Change {
    fn revision(&self) -> u64 {
        self.after.version()
    }
}

/// What a watch gets.
#[derive(Debug)]
pub(crate) enum Message {
    Changed(Arc<Change>),
    /// Everything up to this revision was sent.
    Bookmark(u64),
    Disturbed(Disturbance),
}

/// The revision is older than the history.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Compacted {
    /// The oldest revision that can be asked for.
    pub(crate) oldest: u64,
}

#[derive(Debug)]
pub(crate) struct Store {
    state: Mutex<State>,
}

/// The store, locked against other writers.
#[derive(Debug)]
pub(crate) struct State {
    revision: u64,
    /// States before this revision cannot be read any more.
    compacted: u64,
    objects: BTreeMap<Key, Arc<Object>>,
    log: VecDeque<Arc<Change>>,
    watchers: Vec<Watcher>,
    next_watcher: u64,
}

#[derive(Debug)]
struct Watcher {
    id: u64,
    resource: Resource,
    sender: UnboundedSender<Message>,
}

impl Store {
    pub(crate) fn new() -> Self {
        // A new etcd is at revision 1; that of no object is 0.
        let state = State {
            revision: 1,
            compacted: 0,
            objects: BTreeMap::new(),
            log: VecDeque::new(),
            watchers: Vec::new(),
            next_watcher: 0,
        };
        Self { state: Mutex::new(state) }
    }

    /// The store for reading and writing; others wait meanwhile.
    pub(crate) fn state(&self) -> MutexGuard<'_, State> {
        // A test that panicked left a state between two writes, never within one.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    /// The revision of the last write.
    pub(crate) fn revision(&self) -> u64 {
        self.revision
    }

    pub(crate) fn get(&self, key: &Key) -> Option<&Arc<Object>> {
        self.objects.get(key)
    }

    pub(crate) fn has_namespace(&self, name: &str) -> bool {
        let key = Key { resource: Resource::Namespaces, namespace: String::new(), name: name.to_owned() };
        self.objects.contains_key(&key)
    }

    /// The objects of a resource now.
    pub(crate) fn all(&self, resource: Resource) -> impl Iterator<Item = (&Key, &Arc<Object>)> {
        let start = Key { resource, namespace: String::new(), name: String::new() };
        self.objects.range(start..).take_while(move |(key, _)| key.resource == resource)
    }

    /// The objects of a resource as they were at a revision.
    pub(crate) fn all_at(&self, resource: Resource, at: u64) -> Result<Vec<(&Key, &Arc<Object>)>, Compacted> {
        if at < self.compacted {
            return Err(Compacted { oldest: self.compacted });
        }
        let undo = self.log.iter().rev().take_while(|change| change.revision() > at);
        let undo: BTreeMap<&Key, &Option<Arc<Object>>> =
            undo.filter(|change| change.key.resource == resource).map(|change| (&change.key, &change.before)).collect();
        if undo.is_empty() {
            return Ok(self.all(resource).collect());
        }
        let unchanged = self.all(resource).filter(|(key, _)| !undo.contains_key(key));
        let before = undo.iter().filter_map(|(key, before)| Some((*key, before.as_ref()?)));
        let then: BTreeMap<&Key, &Arc<Object>> = unchanged.chain(before).collect();
        Ok(then.into_iter().collect())
    }

    /// Writes an object; `make` is given the revision that it will have.
    pub(crate) fn put(&mut self, key: Key, make: impl FnOnce(u64) -> Object) -> Arc<Object> {
        let after = Arc::new(make(self.revision + 1));
        let before = self.objects.insert(key.clone(), Arc::clone(&after));
        self.commit(Change { key, before, after: Arc::clone(&after), deleted: false });
        after
    }

    /// Removes an object; answers it as the watches see it.
    pub(crate) fn delete(&mut self, key: &Key) -> Option<Arc<Object>> {
        let before = self.objects.remove(key)?;
        let after = Arc::new(before.at(self.revision + 1));
        self.commit(Change { key: key.clone(), before: Some(before), after: Arc::clone(&after), deleted: true });
        Some(after)
    }

    fn commit(&mut self, change: Change) {
        self.revision += 1;
        let change = Arc::new(change);
        self.broadcast(Some(change.key.resource), || Message::Changed(Arc::clone(&change)));
        self.log.push_back(change);
    }

    /// Forgets the history: states and watches before now are expired.
    pub(crate) fn compact(&mut self) {
        self.compacted = self.revision;
        self.log.clear();
    }

    /// Counts the revision on, as if others had written to other kinds.
    pub(crate) fn skip(&mut self, revisions: u64) {
        self.revision += revisions;
    }

    /// Begins a watch after a revision: answers it with the changes since.
    pub(crate) fn watch(&mut self, resource: Resource, after: u64) -> Result<Subscription, Compacted> {
        if after < self.compacted {
            return Err(Compacted { oldest: self.compacted });
        }
        let (sender, receiver) = unbounded_channel();
        let since = self.log.iter().filter(|change| change.key.resource == resource && change.revision() > after);
        for change in since {
            // The receiver is at hand.
            let _ = sender.send(Message::Changed(Arc::clone(change)));
        }
        let id = self.next_watcher;
        self.next_watcher += 1;
        self.watchers.push(Watcher { id, resource, sender });
        Ok(Subscription { id, receiver })
    }

    /// Ends a watch.
    pub(crate) fn unwatch(&mut self, id: u64) {
        self.watchers.retain(|watcher| watcher.id != id);
    }

    /// How many watches are open.
    pub(crate) fn watches(&self, resource: Option<Resource>) -> usize {
        self.watchers.iter().filter(|watcher| resource.is_none_or(|resource| watcher.resource == resource)).count()
    }

    /// Sends watches a message; answers how many.
    pub(crate) fn broadcast(&self, resource: Option<Resource>, message: impl Fn() -> Message) -> usize {
        let asked_for =
            self.watchers.iter().filter(|watcher| resource.is_none_or(|resource| watcher.resource == resource));
        asked_for.filter(|watcher| watcher.sender.send(message()).is_ok()).count()
    }

    /// Sends one watch a bookmark, after all that was sent to it before.
    pub(crate) fn bookmark(&self, id: u64) {
        if let Some(watcher) = self.watchers.iter().find(|watcher| watcher.id == id) {
            // A watch that has ended needs none.
            let _ = watcher.sender.send(Message::Bookmark(self.revision));
        }
    }
}

/// A watch of the store.
#[derive(Debug)]
pub(crate) struct Subscription {
    pub(crate) id: u64,
    pub(crate) receiver: UnboundedReceiver<Message>,
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test may panic")]
mod tests {
    use serde_json::json;

    use super::*;

    fn key(name: &str) -> Key {
        Key { resource: Resource::Nodes, namespace: String::new(), name: name.to_owned() }
    }

    fn put(state: &mut State, name: &str) {
        state.put(key(name), |version| Object::new(Resource::Nodes, json!({"metadata": {"name": name}}), version));
    }

    fn names(state: &State, at: u64) -> String {
        let all = state.all_at(Resource::Nodes, at).unwrap();
        let named: Vec<String> = all.iter().map(|(key, object)| format!("{}@{}", key.name, object.version())).collect();
        named.join(" ")
    }

    #[test]
    fn earlier_states_can_be_read_until_they_are_compacted() {
        let store = Store::new();
        let mut state = store.state();
        put(&mut state, "b"); // 2
        put(&mut state, "a"); // 3
        put(&mut state, "b"); // 4
        state.delete(&key("a")); // 5
        put(&mut state, "a"); // 6
        let states: Vec<String> = (1..=6).map(|at| names(&state, at)).collect();
        assert_eq!(states, ["", "b@2", "a@3 b@2", "a@3 b@4", "b@4", "a@6 b@4"]);
        state.compact();
        assert_eq!(names(&state, 6), "a@6 b@4");
        assert_eq!(state.all_at(Resource::Nodes, 5).unwrap_err().oldest, 6);
    }

    #[test]
    fn a_watch_gets_what_came_after_its_revision_and_nothing_else() {
        let store = Store::new();
        let mut state = store.state();
        put(&mut state, "a"); // 2
        put(&mut state, "b"); // 3
        let mut watch = state.watch(Resource::Nodes, 2).unwrap();
        state.delete(&key("a")); // 4
        let mut told = Vec::new();
        while let Ok(Message::Changed(change)) = watch.receiver.try_recv() {
            told.push((change.key.name.clone(), change.revision(), change.deleted));
        }
        assert_eq!(told, [("b".to_owned(), 3, false), ("a".to_owned(), 4, true)]);
        state.compact();
        assert!(state.watch(Resource::Nodes, 3).is_err());
        assert!(state.watch(Resource::Nodes, 4).is_ok());
    }
}
