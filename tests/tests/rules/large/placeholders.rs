//! The policies by which placeholders are isolated, as docs/glossary.md has them.
#![allow(clippy::unwrap_used, reason = "a test that finds nothing has failed")]

use std::collections::BTreeSet;

use k8s_openapi::api::networking::v1 as networking;
use npc_compiler::object::{NetworkPolicy, Pod};
use npc_compiler::policy::Direction;
use serde_json::json;

/// For each namespace of placeholders a policy for each direction, which selects the placeholders that are
/// isolated in that direction and admits nothing.
pub(super) fn policies<'a>(placeholders: impl Iterator<Item = &'a Pod>) -> Vec<NetworkPolicy> {
    let namespaces: BTreeSet<&str> = placeholders.map(|pod| pod.namespace.as_str()).collect();
    let of = |namespace: &str, direction: Direction| {
        let (section, of_type) = match direction {
            Direction::Ingress => ("ingress", "Ingress"),
            Direction::Egress => ("egress", "Egress"),
        };
        let label = json!({"key": of_type, "operator": "Exists"});
        let spec = json!({"podSelector": {"matchExpressions": [label]}, "policyTypes": [of_type]});
        let policy = json!({"metadata": {"namespace": namespace, "name": section}, "spec": spec});
        serde_json::from_value::<networking::NetworkPolicy>(policy).unwrap().into()
    };
    namespaces.into_iter().flat_map(|namespace| Direction::ALL.map(|direction| of(namespace, direction))).collect()
}
