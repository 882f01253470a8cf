//! Policies as new as a pod.
//!
//! The watches of an API server are not ordered: the one of pods may be ahead of the one
//! of policies. A policy that is older than a pod has to hold when the pod starts. So
//! the API server is asked for the policies of the pod's namespace once more, after the
//! ADD has come. That list may be older or newer than the events of the watch, and
//! the watch may deliver older versions later. Resource versions decide.

use std::collections::BTreeMap;

use npc_compiler::engine::Event;
use npc_compiler::object::NetworkPolicy;

use crate::source::Change;

/// Namespace and name.
type Key = (String, String);

/// Which versions of policies the agent's loop was given.
#[derive(Debug, Default)]
pub(super) struct Policies {
    /// The newest version of each policy that the watch has delivered.
    seen: BTreeMap<Key, u64>,
    /// Versions from our own lists which the watch has not delivered yet.
    ahead: BTreeMap<Key, u64>,
    /// Policies whose deletion the watch delivered while a list was requested, with
    /// the moment.
    gone: BTreeMap<Key, u64>,
    /// Counts what happens.
    moment: u64,
    /// How many lists are asked for.
    asked: usize,
}

impl Policies {
    /// Takes a watch event in. Drops it if a list has delivered something newer.
    pub(super) fn watch_event(&mut self, change: Change) -> Option<Change> {
        self.moment += 1;
        match &change.event {
            Event::Policy(policy) => {
                let (key, version) = (key(policy), version(policy));
                if self.ahead.get(&key).is_some_and(|ahead| version < *ahead) {
                    return None;
                }
                self.ahead.remove(&key);
                self.gone.remove(&key);
                self.seen.insert(key, version);
            }
            Event::PolicyGone(namespace, name) => {
                let key = (namespace.clone(), name.clone());
                self.seen.remove(&key);
                if self.asked > 0 {
                    self.gone.insert(key.clone(), self.moment);
                }
                // The event is about the policy before, because the watch has not delivered
                // this one yet. What is missing from a list of the watch is gone.
                if self.ahead.contains_key(&key) && change.heard.is_some() {
                    return None;
                }
                self.ahead.remove(&key);
            }
            _ => {}
        }
        Some(change)
    }

    /// A list is asked for now; the moment.
    pub(super) fn ask(&mut self) -> u64 {
        self.asked += 1;
        self.moment += 1;
        self.moment
    }

    /// What a list has that the watch has not delivered yet. `since` is the moment at which it
    /// was asked for.
    pub(super) fn listed(&mut self, since: u64, listed: Vec<NetworkPolicy>) -> Vec<Event> {
        let mut events = Vec::new();
        for policy in listed {
            let (key, version) = (key(&policy), version(&policy));
            let is_gone = self.gone.get(&key).is_some_and(|moment| *moment > since);
            let known = self.seen.get(&key).max(self.ahead.get(&key));
            if is_gone || known.is_some_and(|known| *known >= version) {
                continue;
            }
            self.ahead.insert(key, version);
            events.push(Event::Policy(Box::new(policy)));
        }
        self.done();
        events
    }

    /// A list that was asked for has come, or will not.
    pub(super) fn done(&mut self) {
        self.asked = self.asked.saturating_sub(1);
        if self.asked == 0 {
            self.gone.clear();
        }
    }
}

fn key(policy: &NetworkPolicy) -> Key {
    (policy.namespace().to_owned(), policy.name().to_owned())
}

/// The resource version, which is a number that grows.
///
/// <https://kubernetes.io/docs/reference/using-api/api-concepts/#resource-versions>
fn version(policy: &NetworkPolicy) -> u64 {
    let version = policy.object.metadata.resource_version.as_deref();
    version.and_then(|version| version.parse().ok()).unwrap_or_default()
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test that finds nothing has failed")]
mod tests {
    use super::*;

    fn policy(name: &str, version: u64) -> NetworkPolicy {
        let mut policy = NetworkPolicy::default();
        policy.object.metadata.namespace = Some("shop".to_owned());
        policy.object.metadata.name = Some(name.to_owned());
        policy.object.metadata.resource_version = Some(version.to_string());
        policy
    }

    fn came(name: &str, version: u64) -> Change {
        Change::now(Event::Policy(Box::new(policy(name, version))))
    }

    fn gone(name: &str) -> Change {
        Change::now(Event::PolicyGone("shop".to_owned(), name.to_owned()))
    }

    #[test]
    fn a_list_adds_what_the_watch_has_not_delivered_and_nothing_twice() {
        let mut policies = Policies::default();
        assert!(policies.watch_event(came("a", 5)).is_some());
        let since = policies.ask();
        let events = policies.listed(since, vec![policy("a", 5), policy("b", 7)]);
        assert_eq!(events, [Event::Policy(Box::new(policy("b", 7)))]);
        let since = policies.ask();
        assert_eq!(policies.listed(since, vec![policy("b", 7)]), []);
        // The watch catches up: an older version is past, the same one is not.
        assert!(policies.watch_event(came("b", 6)).is_none());
        assert!(policies.watch_event(came("b", 7)).is_some());
        assert!(policies.watch_event(gone("b")).is_some());
    }

    #[test]
    fn a_list_that_is_late_brings_no_policy_back() {
        let mut policies = Policies::default();
        policies.watch_event(came("a", 5));
        let since = policies.ask();
        policies.watch_event(gone("a"));
        policies.watch_event(came("b", 9));
        assert_eq!(policies.listed(since, vec![policy("a", 5), policy("b", 8)]), []);
        // One made again is another one.
        let since = policies.ask();
        assert_eq!(policies.listed(since, vec![policy("a", 11)]).len(), 1);
    }

    #[test]
    fn the_end_of_an_older_policy_of_the_name_is_past() {
        let mut policies = Policies::default();
        policies.watch_event(came("a", 5));
        let since = policies.ask();
        assert_eq!(policies.listed(since, vec![policy("a", 9)]).len(), 1);
        assert!(policies.watch_event(gone("a")).is_none(), "the one of version 5 went");
        assert!(policies.watch_event(came("a", 9)).is_some());
        assert!(policies.watch_event(gone("a")).is_some());
        // What a list of the watch's does not have is gone.
        let since = policies.ask();
        assert_eq!(policies.listed(since, vec![policy("a", 12)]).len(), 1);
        assert!(policies.watch_event(Change { heard: None, ..gone("a") }).is_some());
    }
}
