//! Objects with several pod templates, one for each part of what they run: a master and its workers of
//! Kubeflow, the head and the groups of KubeRay, the tasks of Volcano. The pods of each are an end of their own.

use std::collections::BTreeSet;

use npc_compiler::object::consequence;

use super::pod_template::has_templates_only;
use super::span::Span;
use super::tree::{MappingEntry, Value, YamlNode};

/// A pod template inside an object.
pub(super) struct PodPart<'n> {
    /// How the object calls it, as in the names of pods: `worker`.
    name: String,
    template: &'n YamlNode,
    /// How many pods are made after it.
    replicas: Option<&'n YamlNode>,
}

/// The pod templates of an object of another project, wherever they stand in its spec.
pub(super) fn parts<'n>(api_version: &str, kind: &str, node: &'n YamlNode) -> Vec<PodPart<'n>> {
    let group = api_version.split_once('/').map_or("", |(group, _)| group);
    let mut parts = Vec::new();
    if let Some(spec) = node.get("spec").filter(|_| !has_templates_only(api_version, kind)) {
        // Kinds that npc knows by name fill in what stands in fields of other names.
        let is_known = consequence(group, kind).is_some();
        collect(spec, "", is_known, &mut parts);
    }
    let mut seen = BTreeSet::new();
    for (i, part) in parts.iter_mut().enumerate() {
        if part.name.is_empty() || !seen.insert(part.name.clone()) {
            part.name = if part.name.is_empty() { i.to_string() } else { format!("{}-{i}", part.name) };
            seen.insert(part.name.clone());
        }
    }
    parts
}

/// Adds the pod templates below a node, which the nearest field or item with a name of its own calls `called`.
fn collect<'n>(node: &'n YamlNode, called: &str, is_known: bool, parts: &mut Vec<PodPart<'n>>) {
    match &node.resolved().value {
        // An object inside another one is an object of its own, which something else may make.
        Value::Map(_) if node.get("apiVersion").is_some() && node.get("kind").is_some() => {}
        Value::Map(entries) => {
            for MappingEntry { key, node: child, .. } in entries {
                let own = own_name(key);
                let name = if own.is_empty() { called } else { &own };
                if is_template(key, is_known) && has_containers(child) {
                    parts.push(PodPart { name: name.to_owned(), template: child, replicas: node.get("replicas") });
                } else {
                    collect(child, name, is_known, parts);
                }
            }
        }
        Value::List(items) => {
            for (i, item) in items.iter().enumerate() {
                let given = ["name", "groupName"].iter().find_map(|key| item.get(key)?.text());
                let given = given.map(str::to_lowercase).filter(|name| is_part_of_name(name));
                collect(
                    item,
                    &given.unwrap_or_else(|| format!("{called}-{i}").trim_start_matches('-').to_owned()),
                    is_known,
                    parts,
                );
            }
        }
        Value::Scalar { .. } | Value::Shared(_) => {}
    }
}

fn is_template(key: &str, is_known: bool) -> bool {
    matches!(key, "template" | "leaderTemplate" | "workerTemplate")
        || (!is_known && (key == "podTemplate" || key.ends_with("Template")))
}

fn has_containers(template: &YamlNode) -> bool {
    let containers = template.at(&["spec", "containers"]);
    containers.is_some_and(|containers| matches!(containers.resolved().value, Value::List(_)))
}

fn is_part_of_name(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-')
}

/// What the key of a field says about whose pods stand in it: `headGroupSpec` those of the head, `Worker` those
/// of workers. Empty where it says nothing, as `spec` and `template`.
fn own_name(key: &str) -> String {
    const ENDINGS: [&str; 7] = ["ReplicaSpecs", "GroupSpecs", "GroupSpec", "PodTemplate", "Template", "Specs", "Spec"];
    if matches!(key, "spec" | "template" | "podTemplate" | "jobTemplate") {
        return String::new();
    }
    let stem = ENDINGS.iter().find_map(|ending| key.strip_suffix(ending)).unwrap_or(key);
    let mut name = String::new();
    for letter in stem.chars() {
        if letter.is_ascii_uppercase() && !name.is_empty() && !name.ends_with('-') {
            name.push('-');
        }
        name.push(letter.to_ascii_lowercase());
    }
    if is_part_of_name(&name) { name } else { String::new() }
}

/// An object for each part, as if the object had made a workload for it: with a template where Kubernetes' own
/// have it, and the object as its owner. None where the object has no name to call them by.
pub(super) fn objects(kind: &str, node: &YamlNode, parts: &[PodPart<'_>]) -> Option<Vec<YamlNode>> {
    let name = node.at(&["metadata", "name"]).and_then(YamlNode::text).filter(|name| !name.is_empty())?;
    let one = |part: &PodPart<'_>| {
        let at = part.template.span;
        // One template alone makes the pods of the object.
        let name_of_part = if parts.len() == 1 { name.to_owned() } else { format!("{name}-{}", part.name) };
        let mut metadata = vec![entry("name", text(&name_of_part, at))];
        for key in ["namespace", "labels"] {
            metadata.extend(node.at(&["metadata", key]).map(|value| entry(key, value.clone())));
        }
        if parts.len() > 1 {
            let controls = YamlNode { span: at, value: Value::Scalar { text: "true".into(), plain: true } };
            let owner = [entry("kind", text(kind, at)), entry("name", text(name, at)), entry("controller", controls)];
            let owners = YamlNode { span: at, value: Value::List(vec![map(owner.into(), at)]) };
            metadata.push(entry("ownerReferences", owners));
        }
        let mut spec = vec![entry("template", part.template.clone())];
        spec.extend(part.replicas.map(|replicas| entry("replicas", replicas.clone())));
        map(vec![entry("metadata", map(metadata, at)), entry("spec", map(spec, at))], node.span)
    };
    Some(parts.iter().map(one).collect())
}

fn text(text: &str, span: Span) -> YamlNode {
    YamlNode { span, value: Value::Scalar { text: text.into(), plain: false } }
}

fn map(entries: Vec<MappingEntry>, span: Span) -> YamlNode {
    YamlNode { span, value: Value::Map(entries) }
}

fn entry(key: &str, node: YamlNode) -> MappingEntry {
    MappingEntry { key: key.into(), at: node.span, node }
}

#[cfg(test)]
mod tests {
    use super::own_name;

    #[test]
    fn a_field_says_whose_pods_stand_in_it() {
        for (key, expected) in [
            ("headGroupSpec", "head"),
            ("Master", "master"),
            ("leaderTemplate", "leader"),
            ("pytorchReplicaSpecs", "pytorch"),
            ("taskManager", "task-manager"),
            ("template", ""),
            ("spec", ""),
        ] {
            assert_eq!(own_name(key), expected, "{key}");
        }
    }
}
