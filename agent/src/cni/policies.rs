//! Policies as new as a pod.
//!
//! The watches of an API server are not ordered: the one of pods may be ahead of the one
//! of policies. A policy that is older than a pod has to hold when the pod starts. So
//! the API server is asked for the policies of the pod's namespace once more, after the
//! pod's object has come (`policy_lists`). That list may be older or newer than the events of the watch, and
//! the watch may deliver older versions later. Resource versions decide.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use npc_compiler::engine::Event;
use npc_compiler::object::NetworkPolicy;
use tokio::time::Instant;

use crate::source::{Change, PolicyList};

/// How long the watch may take to deliver a policy that a list had. Then the namespace is
/// listed again: a policy that was deleted before a watch began never comes by it.
const OVERDUE: Duration = Duration::from_secs(10);

/// Namespace and name.
type PolicyKey = (String, String);

/// A policy of our own list which the watch has not delivered yet.
#[derive(Debug)]
struct Ahead {
    version: u64,
    /// The moment at which the list came.
    moment: u64,
    /// When its namespace was listed, or to be listed, for the last time because of it.
    asked: Instant,
}

/// Which versions of policies the agent's loop was given.
#[derive(Debug, Default)]
pub(super) struct PolicyVersions {
    /// The newest version of each policy that the watch has delivered.
    seen: BTreeMap<PolicyKey, u64>,
    /// What our own lists had and the watch has not delivered yet.
    ahead: BTreeMap<PolicyKey, Ahead>,
    /// Policies whose deletion the watch delivered while a list was requested, with
    /// the moment.
    gone: BTreeMap<PolicyKey, u64>,
    /// Counts what happens.
    moment: u64,
    /// How many lists are asked for.
    asked: usize,
}

impl PolicyVersions {
    /// Takes a watch event in. Drops it if a list has delivered something newer.
    pub(super) fn watch_event(&mut self, change: Change) -> Option<Change> {
        self.moment += 1;
        match (&change.event, change.event.changed_policy()) {
            (_, Some(policy)) => {
                let (key, version) = (key(policy), version(policy));
                if self.ahead.get(&key).is_some_and(|ahead| version < ahead.version) {
                    return None;
                }
                self.ahead.remove(&key);
                self.gone.remove(&key);
                self.seen.insert(key, version);
            }
            (Event::PolicyGone(namespace, name), _) => {
                let key = (namespace.clone(), name.clone());
                self.seen.remove(&key);
                if self.asked > 0 {
                    self.gone.insert(key.clone(), self.moment);
                }
                // The event is about the policy before, because the watch has not delivered
                // this one yet. What is missing from a list of the watch is gone.
                if self.ahead.contains_key(&key) && change.received.is_some() {
                    return None;
                }
                self.ahead.remove(&key);
            }
            _ => {}
        }
        Some(change)
    }

    /// The moment. What the watch delivered until now came at this one or before.
    pub(super) fn now(&self) -> u64 {
        self.moment
    }

    /// A list is asked for now; the moment.
    pub(super) fn ask(&mut self) -> u64 {
        self.asked += 1;
        self.moment += 1;
        self.moment
    }

    /// What a list of a namespace has that the watch has not delivered yet, and what it lacks
    /// that only a list before it had. `since` is the moment at which it was asked for.
    pub(super) fn listed(&mut self, namespace: &str, since: u64, listed: impl Into<PolicyList>) -> Vec<Event> {
        let listed = listed.into();
        self.moment += 1;
        let mut events = self.lacking(namespace, since, &listed);
        let readable = listed.policies.into_iter().map(|policy| (policy, false));
        for (policy, is_rescued) in readable.chain(listed.rescued.into_iter().map(|policy| (policy, true))) {
            let (key, version) = (key(&policy), version(&policy));
            let is_gone = self.gone.get(&key).is_some_and(|moment| *moment > since);
            let ahead = self.ahead.get(&key).map(|ahead| ahead.version);
            let known = self.seen.get(&key).copied().max(ahead);
            // If one cannot be read, its last readable version stays in force.
            if is_gone || known.is_some_and(|known| is_rescued || known >= version) {
                continue;
            }
            self.ahead.insert(key, Ahead { version, moment: self.moment, asked: Instant::now() });
            events.push(Event::policy(policy));
        }
        self.done();
        events
    }

    /// The policies of a namespace that are gone: a list had them, a later one lacks them.
    /// The end of one that the watch has delivered comes by the watch.
    fn lacking(&mut self, namespace: &str, since: u64, listed: &PolicyList) -> Vec<Event> {
        let mut has: BTreeSet<&str> = listed.policies.iter().map(NetworkPolicy::name).collect();
        has.extend(listed.unreadable.iter().map(String::as_str));
        let is_gone = |(space, name): &PolicyKey, ahead: &Ahead| {
            space == namespace && ahead.moment < since && !has.contains(&**name)
        };
        let gone = self.ahead.iter().filter(|(key, ahead)| is_gone(key, ahead) && !self.seen.contains_key(*key));
        let gone: Vec<PolicyKey> = gone.map(|(key, _)| key.clone()).collect();
        for key in &gone {
            self.ahead.remove(key);
        }
        gone.into_iter().map(|(namespace, name)| Event::PolicyGone(namespace, name)).collect()
    }

    /// The namespaces that are to be listed again now, because the watch has not delivered
    /// what a list had.
    pub(super) fn overdue(&mut self) -> BTreeSet<String> {
        let now = Instant::now();
        let mut namespaces = BTreeSet::new();
        for ((namespace, _), ahead) in &mut self.ahead {
            if now.duration_since(ahead.asked) >= OVERDUE {
                ahead.asked = now;
                namespaces.insert(namespace.clone());
            }
        }
        namespaces
    }

    /// A list that was asked for has come, or will not.
    pub(super) fn done(&mut self) {
        self.asked = self.asked.saturating_sub(1);
        if self.asked == 0 {
            self.gone.clear();
        }
    }
}

fn key(policy: &NetworkPolicy) -> PolicyKey {
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
        let mut policies = PolicyVersions::default();
        assert!(policies.watch_event(came("a", 5)).is_some());
        let since = policies.ask();
        let events = policies.listed("shop", since, vec![policy("a", 5), policy("b", 7)]);
        assert_eq!(events, [Event::Policy(Box::new(policy("b", 7)))]);
        let since = policies.ask();
        assert_eq!(policies.listed("shop", since, vec![policy("b", 7)]), []);
        // The watch catches up: an older version is past, the same one is not.
        assert!(policies.watch_event(came("b", 6)).is_none());
        assert!(policies.watch_event(came("b", 7)).is_some());
        assert!(policies.watch_event(gone("b")).is_some());
    }

    #[test]
    fn a_list_that_is_late_brings_no_policy_back() {
        let mut policies = PolicyVersions::default();
        policies.watch_event(came("a", 5));
        let since = policies.ask();
        policies.watch_event(gone("a"));
        policies.watch_event(came("b", 9));
        assert_eq!(policies.listed("shop", since, vec![policy("a", 5), policy("b", 8)]), []);
        // One made again is another one.
        let since = policies.ask();
        assert_eq!(policies.listed("shop", since, vec![policy("a", 11)]).len(), 1);
    }

    #[test]
    fn the_end_of_an_older_policy_of_the_name_is_past() {
        let mut policies = PolicyVersions::default();
        policies.watch_event(came("a", 5));
        let since = policies.ask();
        assert_eq!(policies.listed("shop", since, vec![policy("a", 9)]).len(), 1);
        assert!(policies.watch_event(gone("a")).is_none(), "the one of version 5 went");
        assert!(policies.watch_event(came("a", 9)).is_some());
        assert!(policies.watch_event(gone("a")).is_some());
        // What a list of the watch's does not have is gone.
        let since = policies.ask();
        assert_eq!(policies.listed("shop", since, vec![policy("a", 12)]).len(), 1);
        assert!(policies.watch_event(Change { received: None, ..gone("a") }).is_some());
    }

    #[test]
    fn only_a_later_list_of_the_namespace_ends_a_policy_and_only_one_that_the_watch_never_delivered() {
        let mut policies = PolicyVersions::default();
        let early = policies.ask();
        let since = policies.ask();
        assert_eq!(policies.listed("shop", since, vec![policy("a", 5), policy("b", 6)]).len(), 2);
        assert!(policies.watch_event(came("b", 6)).is_some());
        assert_eq!(policies.listed("shop", early, vec![]), [], "it began before");
        let since = policies.ask();
        assert_eq!(policies.listed("bank", since, vec![]), [], "another namespace");
        let since = policies.ask();
        let unreadable = PolicyList { unreadable: ["a".to_owned()].into(), ..PolicyList::default() };
        assert_eq!(policies.listed("shop", since, unreadable), [], "its last readable version stays in force");
        let since = policies.ask();
        let rescued = || PolicyList {
            unreadable: ["a".to_owned(), "c".to_owned()].into(),
            rescued: vec![policy("a", 9), policy("c", 9)],
            ..PolicyList::default()
        };
        let [Event::Policy(isolates)] = &policies.listed("shop", since, rescued())[..] else { panic!("one") };
        assert_eq!(isolates.name(), "c", "no version of it is in force");
        let since = policies.ask();
        assert_eq!(policies.listed("shop", since, rescued()), [], "once");
        assert!(policies.watch_event(came("c", 9)).is_some() && policies.watch_event(gone("c")).is_some());
        let since = policies.ask();
        let end = Event::PolicyGone("shop".to_owned(), "a".to_owned());
        assert_eq!(policies.listed("shop", since, vec![]), [end]);
        let since = policies.ask();
        assert_eq!(policies.listed("shop", since, vec![]), [], "once");
        // Where the watch has delivered a version before, it delivers the end too.
        let since = policies.ask();
        assert_eq!(policies.listed("shop", since, vec![policy("b", 9)]).len(), 1);
        let since = policies.ask();
        assert_eq!(policies.listed("shop", since, vec![]), []);
        assert!(policies.watch_event(came("b", 9)).is_some() && policies.watch_event(gone("b")).is_some());
    }
}
