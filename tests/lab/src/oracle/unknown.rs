//! Where fields stand that the API does not have.

use npc_compiler::object::NetworkPolicy;

/// Whether some unknown field is at a path or below it. Most policies have none, and need no path.
pub(super) fn at_or_below(policy: &NetworkPolicy, path: impl Fn() -> String) -> bool {
    policy.unknown_fields.iter().any(|field| is_at_or_below(field, &path()))
}

/// Whether some unknown field belongs to the rule itself: below it, but not in
/// one of the peers or ports that it has.
pub(super) fn in_rule(policy: &NetworkPolicy, rule: &str, lists: [(&str, usize); 2]) -> bool {
    policy.unknown_fields.iter().any(|field| {
        let mut items = lists.iter().flat_map(|(list, length)| (0..*length).map(move |index| (list, index)));
        is_at_or_below(field, rule)
            && !items.any(|(list, index)| is_at_or_below(field, &format!("{rule}.{list}[{index}]")))
    })
}

fn is_at_or_below(field: &str, path: &str) -> bool {
    field.strip_prefix(path).is_some_and(|rest| rest.is_empty() || rest.starts_with(['.', '[']))
}
