//! What is to be reported, until the agent takes it.

use std::collections::HashMap;

use npc_compiler::engine;

use crate::source::kube::{GATHERED, GATHERED_BYTES, GATHERED_NEWS};
use crate::source::{Change, Changes};

/// What is to be reported.
#[derive(Debug, Default)]
pub(super) struct Pending {
    pub(super) changes: Changes,
    /// About how many bytes these take.
    pub(super) bytes: usize,
    /// Where among them each policy is.
    policies: HashMap<(String, String), usize>,
}

impl Pending {
    /// Adds a change. What is reported at once is one change, so of two versions of a policy the last one takes the
    /// place of the other. It is as late as that one.
    pub(super) fn push(&mut self, change: Change) {
        let policy = match &change.event {
            engine::Event::Policy(policy) => Some((policy.namespace().to_owned(), policy.name().to_owned())),
            engine::Event::PolicyGone(namespace, name) => Some((namespace.clone(), name.clone())),
            _ => None,
        };
        let changes = &mut self.changes.changes;
        let end = changes.len();
        let place = policy.map_or(end, |policy| *self.policies.entry(policy).or_insert(end));
        let Some(before) = changes.get_mut(place) else {
            changes.push(change);
            return;
        };
        before.received = before.received.or(change.received);
        if let engine::Event::Policy(policy) = std::mem::replace(&mut before.event, change.event) {
            self.bytes = self.bytes.saturating_sub(policy.retained_bytes());
        }
    }

    /// Whether there is so much that it should be reported before anything else is taken in.
    pub(super) fn is_enough(&self, is_news: bool) -> bool {
        // A list has each object once, so nothing in it takes the place of something else.
        let most = if is_news { GATHERED_NEWS } else { GATHERED_BYTES };
        self.changes.changes.len() >= GATHERED || self.bytes >= most
    }
}

#[cfg(test)]
mod tests {
    use npc_compiler::object::NetworkPolicy;
    use serde_json::json;

    use super::*;

    fn policy(name: &str, ports: usize) -> engine::Event {
        let ports: Vec<_> = (1..=ports).map(|port| json!({"port": port})).collect();
        let policy = json!({
            "metadata": {"namespace": "shop", "name": name}, "spec": {"podSelector": {}, "ingress": [{"ports": ports}]},
        });
        let policy: k8s_openapi::api::networking::v1::NetworkPolicy = serde_json::from_value(policy).expect("a policy");
        engine::Event::Policy(Box::new(NetworkPolicy::from(policy)))
    }

    #[test]
    fn the_last_version_of_a_policy_takes_the_place_of_those_before_it_and_their_room() {
        let mut pending = Pending::default();
        let mut push = |event: engine::Event, is_news: bool| {
            if let engine::Event::Policy(policy) = &event {
                pending.bytes += policy.retained_bytes();
            }
            pending.push(Change { received: is_news.then(std::time::Instant::now), event });
        };
        push(policy("first", 10), false);
        push(policy("other", 10), false);
        for ports in 1..1_000 {
            push(policy("first", ports), true);
        }
        push(engine::Event::PodGone(npc_compiler::engine::PodKey::Uid(1)), true);
        push(engine::Event::PolicyGone("shop".to_owned(), "other".to_owned()), true);
        push(policy("first", 7), true);
        let events: Vec<&engine::Event> = pending.changes.changes.iter().map(|change| &change.event).collect();
        let gone = engine::Event::PolicyGone("shop".to_owned(), "other".to_owned());
        let pod = engine::Event::PodGone(npc_compiler::engine::PodKey::Uid(1));
        assert_eq!(events, [&policy("first", 7), &gone, &pod]);
        let engine::Event::Policy(left) = &pending.changes.changes[0].event else { panic!("a policy") };
        assert_eq!(pending.bytes, left.retained_bytes());
        assert!(pending.changes.changes[0].received.is_some() && !pending.is_enough(true));
    }
}
