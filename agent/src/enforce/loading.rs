//! Which large changes are being loaded, and since when.

use std::collections::BTreeMap;

use jiff::Timestamp;
use npc_compiler::engine::{Engine, Wait};
use tracing::info;

use super::pace::LoadPace;
use crate::status::LoadingNamespace;

/// At most this many of the objects that wait are named.
const NAMED: usize = 10;

/// The large changes that are being loaded.
#[derive(Debug, Default)]
pub(super) struct Loading {
    /// How much is loaded at once.
    pub(super) pace: LoadPace,
    /// The namespaces.
    namespaces: BTreeMap<String, WaitingNamespace>,
}

/// A namespace whose events wait.
#[derive(Debug, Clone, Default)]
struct WaitingNamespace {
    /// The numbers of the oldest events of both turns that wait, and since when they do.
    since: BTreeMap<u64, Timestamp>,
    /// The log has it. What turns out to be small is in force before it is worth a line.
    is_logged: bool,
}

impl Loading {
    /// Logs which large changes begin to be loaded, and which are in force.
    pub(super) fn note(&mut self, engine: &Engine) {
        let mut before = std::mem::take(&mut self.namespaces);
        for Wait { namespace, first, next, is_previewed, rules, .. } in engine.waiting() {
            let known = before.remove(namespace).unwrap_or_default();
            if is_previewed && !known.is_logged {
                let objects = objects(engine, namespace).join(", ");
                info!(namespace, rules, objects, "loading a large change before it takes effect");
            }
            let since = |number| (number, known.since.get(&number).copied().unwrap_or_else(Timestamp::now));
            let since = [Some(first), next].into_iter().flatten().map(since).collect();
            let is_logged = is_previewed || known.is_logged;
            self.namespaces.insert(namespace.to_owned(), WaitingNamespace { since, is_logged });
        }
        for namespace in before.into_iter().filter(|(_, known)| known.is_logged).map(|(namespace, _)| namespace) {
            info!(namespace, "a large change was loaded and takes effect");
        }
    }

    /// What is being loaded, for the status.
    pub(super) fn status(&self, engine: &Engine) -> Vec<LoadingNamespace> {
        let of = |Wait { namespace, rules, loaded, .. }: Wait<'_>| {
            let since = *self.namespaces.get(namespace)?.since.values().min()?;
            let objects = objects(engine, namespace);
            Some(LoadingNamespace { namespace: namespace.to_owned(), since, objects, rules, rules_loaded: loaded })
        };
        engine.waiting().filter_map(of).collect()
    }
}

/// The first objects of a namespace whose events wait.
fn objects(engine: &Engine, namespace: &str) -> Vec<String> {
    engine.waiting_objects(namespace).take(NAMED).collect()
}

#[cfg(test)]
mod tests {
    use k8s_openapi::api::core::v1::PodSpec;
    use k8s_openapi::api::networking::v1::NetworkPolicy;
    use npc_compiler::engine::{Event, Portion};
    use npc_compiler::object::{Labels, Pod};
    use npc_compiler::ruleset::layout::RulesetOptions;
    use serde_json::json;

    use super::*;

    /// A policy that admits to so many separate ports.
    fn policy(ports: usize) -> Event {
        let ports: Vec<_> = (0..ports).map(|port| json!({"port": 1 + 2 * port})).collect();
        let rule = json!({"from": [{"podSelector": {}}], "ports": ports});
        let policy =
            json!({"metadata": {"namespace": "a", "name": "np"}, "spec": {"podSelector": {}, "ingress": [rule]}});
        Event::Policy(Box::new(serde_json::from_value::<NetworkPolicy>(policy).expect("a policy").into()))
    }

    #[test]
    fn a_change_that_waited_behind_another_waits_since_it_came() {
        let mut engine = Engine::new("node-1", RulesetOptions::default()).with_large_changes_first(10);
        let pod = Pod::from_template("a".to_owned(), "pod".to_owned(), Labels::new(), PodSpec::default());
        let ipv4 = Some([10, 0, 0, 1].into());
        engine.offer(Event::Pod(Box::new(Pod { node: Some("node-1".to_owned()), ipv4, ..pod })));
        engine.commit();
        let mut loading = Loading::default();
        engine.offer(policy(2_000));
        engine.commit();
        loading.note(&engine);
        let first = engine.waiting().next().expect("it waits").first;
        engine.offer(policy(3_000));
        loading.note(&engine);
        let known = loading.namespaces["a"].since.clone();
        assert_eq!((known.len(), known.keys().min()), (2, Some(&first)), "both wait");
        assert_eq!(loading.status(&engine)[0].since, known[&first]);
        while engine.waiting().next().expect("the other waits").first == first {
            engine.load(Portion { sets: 10, rules: 100 });
            engine.commit();
        }
        loading.note(&engine);
        let other = known.iter().find(|(number, _)| **number != first).expect("the other").1;
        assert_eq!(loading.status(&engine)[0].since, *other);
    }
}
