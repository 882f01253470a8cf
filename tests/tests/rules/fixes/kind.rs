//! What kind of change a fix is, by what it writes.

use npc_compiler::verdict::fix::{Change, Edit};
use serde_json::Value;

/// The kind of a change.
pub(super) fn kind(change: &Change) -> &'static str {
    match &change.edit {
        Edit::NewPolicy(_) => "a new policy",
        Edit::MovedPolicy(..) => "a policy's namespace",
        Edit::Labels(..) if change.object.kind == "Namespace" => "a namespace's label",
        Edit::Labels(..) if change.object.kind == "Pod" => "a pod's label",
        Edit::Labels(..) => "a template's label",
        Edit::Policy(_) if !change.adds.gives_up.is_none() => "a Service's port",
        Edit::Policy(patch) => of_patch(&serde_json::to_value(patch).unwrap()),
    }
}

fn of_patch(patch: &Value) -> &'static str {
    let operations = patch.as_array().unwrap();
    let paths: Vec<&str> = operations.iter().map(|of| of["path"].as_str().unwrap()).collect();
    let tokens = |place: usize| paths[place].trim_end_matches("/-").split('/').collect::<Vec<_>>();
    let first = tokens(0);
    let has_types = paths.iter().any(|path| path.starts_with("/spec/policyTypes"));
    match first.as_slice() {
        [_, _, "policyTypes", ..] => "policyTypes",
        [_, _, "ingress" | "egress"] if has_types => "a rule in both directions",
        [_, _, "ingress" | "egress"] => "a rule",
        [_, _, "podSelector", ..] => "a policy's podSelector",
        [.., "except", _] => "an exception",
        [.., "podSelector" | "namespaceSelector"] if paths.last().unwrap().contains("/ports") => {
            "a selector and a port"
        }
        [.., "podSelector"] => "an item's podSelector",
        [.., "namespaceSelector"] if operations[0]["op"] == "replace" => "an item's namespaceSelector",
        [.., "namespaceSelector"] => "an item's namespace",
        [.., "from" | "to"] => "an item",
        [.., "from" | "to" | "ports", _] | [.., "cidr"] => "a part that was not understood",
        [.., "protocol"] => "a protocol",
        [.., "port"] if operations[0]["value"].is_string() => "a port's name",
        [.., "port"] => "a port in quotes",
        [.., "ports"] => "a port",
        _ => panic!("{patch}"),
    }
}
