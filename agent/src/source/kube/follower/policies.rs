//! The policies, within the bound of their namespaces.
//!
//! A policy that is over it is passed on without its rules
//! ([`NetworkPolicy::restricted`]). Which ones are over depends on all policies of the
//! namespace, so a policy may move either way when another one changes.

use std::collections::HashMap;

use k8s_openapi::api::networking::v1 as api;
use npc_compiler::engine;
use npc_compiler::object::{NAMESPACE_POLICY_BYTES, NetworkPolicy, PolicyBudget, over_budget};
use tracing::debug;

use crate::source::kube::objects::decode::Identity;
use crate::source::kube::objects::named::{NamesOf, PolicyNames};
use crate::source::kube::watch::reread::ObjectKey;

/// All policies, as far as the bound needs to know them.
#[derive(Debug)]
pub(in super::super) struct PolicyBudgets {
    named: PolicyNames,
    namespaces: HashMap<String, NamespacePolicies>,
}

#[derive(Debug)]
struct NamespacePolicies {
    budget: PolicyBudget,
    policies: HashMap<String, KeptPolicy>,
}

#[derive(Debug)]
struct KeptPolicy {
    /// It without its rules, as JSON: what is passed on if others push it over the bound.
    restricted: Box<[u8]>,
    /// What the whole one takes.
    bytes: usize,
    names: NamesOf,
    /// Its resourceVersion.
    version: Box<str>,
}

/// What follows from a change of one policy.
#[derive(Debug, Default)]
pub(in super::super) struct Effects {
    /// What is to be passed on, in this order.
    pub(in super::super) events: Vec<engine::Event>,
    /// Policies that are within the bound again.
    pub(in super::super) again: Vec<ObjectKey>,
}

impl PolicyBudgets {
    pub(in super::super) fn new(named: PolicyNames) -> Self {
        Self { named, namespaces: HashMap::new() }
    }

    /// A policy is there, or is different.
    pub(in super::super) fn put(&mut self, policy: NetworkPolicy) -> Effects {
        let (namespace, name) = (policy.namespace().to_owned(), policy.name().to_owned());
        let bytes = policy.retained_bytes();
        let known = self.namespaces.entry(namespace.clone()).or_insert_with(|| NamespacePolicies {
            budget: PolicyBudget::new(NAMESPACE_POLICY_BYTES),
            policies: HashMap::new(),
        });
        let version = policy.object.metadata.resource_version.as_deref().unwrap_or_default().into();
        let moved = known.budget.put(&name, bytes);
        let over = policy.over_budget(NAMESPACE_POLICY_BYTES);
        // JSON of a policy's metadata and selector can always be written.
        let restricted = serde_json::to_vec(&over.object).unwrap_or_default().into();
        let is_over = known.budget.is_over(&name);
        let passed_on = if is_over { over } else { policy };
        let names = self.named.add(&passed_on);
        let before = known.policies.insert(name.clone(), KeptPolicy { restricted, bytes, names, version });
        if let Some(before) = before {
            self.named.remove(&before.names);
        }
        let mut effects = Effects::default();
        for other in moved.over {
            effects.events.extend(known.policies.get_mut(&other).and_then(|policy| restrict(policy, &self.named)));
            // Its finding is a warning; there may be thousands.
            debug!(
                namespace,
                name = other,
                "NetworkPolicy lost its rules: policies of its namespace exceed {} MiB",
                NAMESPACE_POLICY_BYTES >> 20
            );
        }
        effects.events.push(engine::Event::policy(passed_on));
        effects.again = again(&namespace, moved.within);
        effects
    }

    /// Whether a policy that was read again is no older than what is known of it.
    pub(in super::super) fn expects(&self, identity: &Identity) -> bool {
        let known = self.namespaces.get(&identity.namespace).and_then(|known| known.policies.get(&identity.name));
        known.is_some_and(|policy| {
            let version = policy.version.to_string();
            !identity.is_older_than(&Identity { version, ..Identity::default() })
        })
    }

    /// Whether this is the version of a policy that is known.
    pub(in super::super) fn has_version(&self, identity: &Identity) -> bool {
        let known = self.namespaces.get(&identity.namespace).and_then(|known| known.policies.get(&identity.name));
        known.is_some_and(|policy| *policy.version == *identity.version)
    }

    /// A policy is gone.
    pub(in super::super) fn remove(&mut self, namespace: &str, name: &str) -> Vec<ObjectKey> {
        let Some(known) = self.namespaces.get_mut(namespace) else { return Vec::new() };
        if let Some(policy) = known.policies.remove(name) {
            self.named.remove(&policy.names);
        }
        let moved = known.budget.remove(name);
        if known.budget.is_empty() {
            self.namespaces.remove(namespace);
        }
        again(namespace, moved.within)
    }
}

fn again(namespace: &str, names: Vec<String>) -> Vec<ObjectKey> {
    if !names.is_empty() {
        debug!(namespace, policies = names.len(), "NetworkPolicies are within the bound of their namespace again");
    }
    names.into_iter().map(|name| ObjectKey::Policy(namespace.to_owned(), name)).collect()
}

/// The event that takes a policy's rules away.
fn restrict(policy: &mut KeptPolicy, named: &PolicyNames) -> Option<engine::Event> {
    let object: api::NetworkPolicy = serde_json::from_slice(&policy.restricted).ok()?;
    let why = over_budget(policy.bytes, NAMESPACE_POLICY_BYTES);
    let restricted = NetworkPolicy { restriction: Some(why), ..NetworkPolicy::from(object) };
    let before = std::mem::replace(&mut policy.names, named.add(&restricted));
    named.remove(&before);
    Some(engine::Event::Policy(Box::new(restricted)))
}
