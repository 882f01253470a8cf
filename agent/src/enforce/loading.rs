//! Which large changes are being loaded, and since when.

use std::collections::BTreeMap;

use k8s_openapi::jiff::Timestamp;
use npc_compiler::engine::{Engine, Wait};
use tracing::info;

use super::pace::Pace;
use crate::status::LoadingNamespace;

/// So many of the objects that wait are named.
const NAMED: usize = 10;

/// The large changes that are being loaded.
#[derive(Debug, Default)]
pub(super) struct Loading {
    /// How much is loaded at once.
    pub(super) pace: Pace,
    /// The namespaces, as the log has them, with the numbers of the oldest events of both turns that
    /// wait, and since when they do.
    namespaces: BTreeMap<String, BTreeMap<u64, Timestamp>>,
}

impl Loading {
    /// Logs which large changes begin to wait, and which are in force.
    pub(super) fn note(&mut self, engine: &Engine) {
        let before = std::mem::take(&mut self.namespaces);
        for Wait { namespace, first, next, rules, .. } in engine.waiting() {
            let known = before.get(namespace);
            if known.is_none() {
                let objects = objects(engine, namespace).join(", ");
                info!(namespace, rules, objects, "loading a large change before it takes effect");
            }
            let since = |number| {
                let known = known.and_then(|known| known.get(&number)).copied();
                (number, known.unwrap_or_else(Timestamp::now))
            };
            self.namespaces
                .insert(namespace.to_owned(), [Some(first), next].into_iter().flatten().map(since).collect());
        }
        for namespace in before.keys().filter(|namespace| !self.namespaces.contains_key(*namespace)) {
            info!(namespace, "a large change was loaded and takes effect");
        }
    }

    /// What is being loaded, for the status.
    pub(super) fn status(&self, engine: &Engine) -> Vec<LoadingNamespace> {
        let of = |Wait { namespace, rules, loaded, .. }: Wait<'_>| {
            let since = *self.namespaces.get(namespace)?.values().min()?;
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
