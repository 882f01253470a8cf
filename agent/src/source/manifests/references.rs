//! What the API server's validation refuses in a policy's `ownerReferences` and `finalizers`. npc asks for
//! neither.
//!
//! Source: `validateOwnerReference` and `ValidateFinalizerName` in
//! `staging/src/k8s.io/apimachinery/pkg/api/validation/objectmeta.go` of Kubernetes.

use npc_compiler::algebra::syntax::wrong_label_key;

use super::annotations::Wrong;
use super::tree::{Value, YamlNode};

/// What every owner reference has.
const OF_OWNER: [&str; 4] = ["apiVersion", "kind", "name", "uid"];

/// What the API server refuses of them.
pub(super) fn wrong(object: &YamlNode) -> Vec<Wrong> {
    let items = |field: &str| -> Vec<(String, &YamlNode)> {
        let list = object.at(&["metadata", field]).map(|list| &list.resolved().value);
        let Some(Value::List(items)) = list else { return Vec::new() };
        items.iter().enumerate().map(|(place, item)| (format!("metadata.{field}[{place}]"), item)).collect()
    };
    let text = |node: &YamlNode, key: &str| node.at(&[key]).and_then(YamlNode::text).unwrap_or_default().to_owned();
    let owner = |(path, owner): (String, &YamlNode)| {
        let lacks: Vec<&str> = OF_OWNER.into_iter().filter(|key| text(owner, key).is_empty()).collect();
        let message = format!("an owner reference needs {}; the API server refuses the object", lacks.join(", "));
        (!lacks.is_empty()).then_some(Wrong { at: owner.span, path, message, help: "" })
    };
    let finalizer = |(path, finalizer): (String, &YamlNode)| {
        let name = finalizer.text().unwrap_or_default();
        let message = format!(
            "{name:?} is no name of a finalizer: a name of at most 63 letters, digits, \"-\", \"_\" and \".\", after an \
             optional DNS name and \"/\"; the API server refuses the object"
        );
        wrong_label_key(name).is_some().then_some(Wrong { at: finalizer.span, path, message, help: "" })
    };
    let owners = items("ownerReferences").into_iter().filter_map(owner);
    owners.chain(items("finalizers").into_iter().filter_map(finalizer)).collect()
}
