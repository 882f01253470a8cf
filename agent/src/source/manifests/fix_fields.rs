//! The fields that a proposed fix needs of an object that is no policy.

use super::field::shared_text_of;
use super::kinds::DocumentKind;
use super::tree::{Value, YamlNode};

/// Where an object has labels that decide: its own, and those of the pods that it makes.
pub(super) const LABELS: [&str; 3] =
    ["metadata.labels", "spec.template.metadata.labels", "spec.jobTemplate.spec.template.metadata.labels"];

/// Drops from an object everything that a proposed fix does not need. Kept are
///
/// - of a workload: its own labels, which its pods do not have, its selector, and how it replaces its pods. Its
///   template too, if that has no labels or shares them by a YAML anchor;
/// - of a Service: its ports, what it selects, its traffic policies and its source ranges;
/// - of any object: that it has no name of its own (`generateName`).
pub(super) fn fix_fields(kind: DocumentKind, mut node: YamlNode) -> YamlNode {
    let has = |key| node.at(&["metadata", key]).and_then(YamlNode::text).is_some_and(|text| !text.is_empty());
    let is_workload = matches!(kind, DocumentKind::Workload | DocumentKind::CronJob);
    let is_unnamed = !has("name") && has("generateName");
    // A change that gives labels to a template without any depends on whether it has metadata.
    let keeps_template = is_workload && {
        let (template, path) = match node.at(&["spec", "template"]) {
            Some(template) => (Some(template), LABELS[1]),
            None => (node.at(&["spec", "jobTemplate", "spec", "template"]), LABELS[2]),
        };
        let labels = template.and_then(|template| template.at(&["metadata", "labels"]));
        let has_labels =
            labels.is_some_and(|of| matches!(&of.resolved().value, Value::Map(labels) if !labels.is_empty()));
        !has_labels || shared_text_of(&node, path).is_some()
    };
    let Value::Map(entries) = &mut node.value else {
        return YamlNode { span: node.span, value: Value::Map(Vec::new()) };
    };
    let kept = |field: &str, key: &str| match (field, key) {
        ("metadata", "labels") | ("spec", "paused" | "updateStrategy") => is_workload,
        ("metadata", "generateName") => is_unnamed,
        ("spec", "template" | "jobTemplate") => keeps_template,
        ("spec", "selector") if is_workload => true,
        // The port whose targetPort may be wrong, and what may lead nowhere.
        (
            "spec",
            "ports" | "selector" | "loadBalancerSourceRanges" | "externalTrafficPolicy" | "internalTrafficPolicy",
        ) => kind == DocumentKind::Service,
        _ => false,
    };
    entries.retain_mut(|field| match &mut field.node.value {
        Value::Map(entries) => {
            entries.retain(|entry| kept(&field.key, &entry.key));
            entries.shrink_to_fit();
            !entries.is_empty()
        }
        _ => false,
    });
    node
}
