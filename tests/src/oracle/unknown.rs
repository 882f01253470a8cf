//! Where fields stand that the API does not have.

use npc_compiler::object::NetworkPolicy;

/// Whether some unknown field is at this path or below it.
pub(super) fn at_or_below(policy: &NetworkPolicy, path: &str) -> bool {
    policy.unknown_fields.iter().any(|field| is_at_or_below(field, path))
}

/// Whether some unknown field belongs to the rule itself: below it, but not in
/// one of its peers or ports.
pub(super) fn in_rule(policy: &NetworkPolicy, rule: &str, peers: &str) -> bool {
    policy.unknown_fields.iter().any(|field| {
        let in_list = |list: &str| field.starts_with(&format!("{rule}.{list}["));
        is_at_or_below(field, rule) && !in_list(peers) && !in_list("ports")
    })
}

fn is_at_or_below(field: &str, path: &str) -> bool {
    field.strip_prefix(path).is_some_and(|rest| rest.is_empty() || rest.starts_with(['.', '[']))
}
