//! Label selectors.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{LabelSelector, LabelSelectorRequirement};
use npc_compiler::object::Labels;

/// Whether a peer's selector matches: everything in it must hold, and one
/// requirement that makes no sense makes the whole match nothing.
pub(super) fn matches(selector: &LabelSelector, labels: &Labels) -> bool {
    is_valid(selector) && holds(selector, labels)
}

/// Whether a policy's `podSelector` selects: what makes no sense in it is
/// passed over, so that a mistake never leaves a pod open that a right text
/// could have isolated.
pub(super) fn selects(selector: &LabelSelector, labels: &Labels) -> bool {
    holds(selector, labels)
}

/// Whether the API server would take every requirement.
pub(super) fn is_valid(selector: &LabelSelector) -> bool {
    requirements(selector).iter().all(|requirement| requirement_holds(requirement, &Labels::new()).is_some())
}

fn requirements(selector: &LabelSelector) -> &[LabelSelectorRequirement] {
    selector.match_expressions.as_deref().unwrap_or_default()
}

fn holds(selector: &LabelSelector, labels: &Labels) -> bool {
    let mut equalities = selector.match_labels.iter().flatten();
    equalities.all(|(key, value)| labels.get(key) == Some(value))
        && requirements(selector).iter().all(|requirement| requirement_holds(requirement, labels).unwrap_or(true))
}

/// `None` where the requirement is not a valid one.
fn requirement_holds(requirement: &LabelSelectorRequirement, labels: &Labels) -> Option<bool> {
    let label = labels.get(&requirement.key);
    let values = requirement.values.as_deref().unwrap_or_default();
    let listed = label.is_some_and(|label| values.contains(label));
    match (requirement.operator.as_str(), values.is_empty()) {
        ("In", false) => Some(listed),
        // An absent key is in no list.
        ("NotIn", false) => Some(!listed),
        ("Exists", true) => Some(label.is_some()),
        ("DoesNotExist", true) => Some(label.is_none()),
        _ => None,
    }
}
