//! A change of one object, as a JSON patch against the object as it is written, and the
//! same change in memory.

use json_patch::jsonptr::PointerBuf;
use json_patch::{AddOperation, Patch, PatchOperation, RemoveOperation, ReplaceOperation, TestOperation};
use k8s_openapi::api::networking::v1 as networking;
use serde_json::{Map, Value, json};

use super::added::Added;
pub use super::object_name::ObjectName;
use super::rollout::Rollout;
use crate::object::{Labels, NetworkPolicy, Objects, Pod};
use crate::policy::Direction;
use crate::policy::finding::is_below;

/// A change of one object.
#[derive(Debug, Clone, PartialEq)]
pub struct Change {
    /// The direction that it makes admit the flow.
    pub direction: Direction,
    /// The object.
    pub object: ObjectName,
    /// What changes.
    pub edit: Edit,
    /// What else the pods of a changed template need; none where the workload replaces them.
    pub rollout: Option<Rollout>,
    /// What a change of a policy, or a new policy, adds to rules; nothing if the change is another one.
    pub adds: Added,
}

/// What changes.
#[derive(Debug, Clone, PartialEq)]
#[cfg_attr(not(feature = "internals"), non_exhaustive)]
pub enum Edit {
    /// A policy, by this patch (RFC 6902).
    Policy(Patch),
    /// There is a new policy.
    NewPolicy(Value),
    /// There is a new policy, which stands in another namespace by mistake and selects no pod there.
    MovedPolicy(Value, ObjectName),
    /// A pod template, a pod or a namespace gets labels, by this patch.
    Labels(Labels, Patch, Lacking),
}

/// Which end of a flow lacks labels.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Lacking {
    /// The end that policies select: a policy does not apply to it without them.
    Subject,
    /// The other end: a rule does not mean it without them.
    Peer,
}

impl Change {
    /// The JSON patch; none for an object that is new.
    #[must_use]
    pub const fn patch(&self) -> Option<&Patch> {
        match &self.edit {
            Edit::Policy(patch) | Edit::Labels(_, patch, _) => Some(patch),
            Edit::NewPolicy(_) | Edit::MovedPolicy(..) => None,
        }
    }

    /// The whole new object; none where one changes.
    #[must_use]
    pub const fn new_object(&self) -> Option<&Value> {
        match &self.edit {
            Edit::NewPolicy(document) | Edit::MovedPolicy(document, _) => Some(document),
            Edit::Policy(_) | Edit::Labels(..) => None,
        }
    }

    /// Whether it is a change of this pod, or of the workload that makes it.
    pub(super) fn is_of(&self, pod: &Pod) -> bool {
        let ObjectName { kind, namespace, name } = &self.object;
        let workload = pod.workload.as_ref().filter(|_| kind != "Pod");
        let (of, named) = workload.map_or(("Pod", &pod.name), |of| (of.kind.as_str(), &of.name));
        namespace.as_deref() == Some(pod.namespace.as_str()) && of == kind && named == name
    }

    /// Whether it is one of labels.
    pub(super) const fn is_of_labels(&self) -> bool {
        matches!(self.edit, Edit::Labels(..))
    }

    /// The policy that it makes, of the policy of this namespace and name; none if it does not fit, or makes none.
    pub(super) fn policy<'p>(
        &self,
        find: impl FnOnce(&str, &str) -> Option<&'p NetworkPolicy>,
    ) -> Option<NetworkPolicy> {
        match &self.edit {
            Edit::Policy(patch) => {
                let mut policy = find(self.object.namespace.as_deref()?, &self.object.name)?.clone();
                let mut document = serde_json::to_value(&policy.object).ok()?;
                json_patch::patch(&mut document, patch).ok()?;
                policy.object = serde_json::from_value(document).ok()?;
                // What stands in the place of a part has no field that the API does not have.
                let replaced = patch.0.iter().filter(|of| matches!(of, PatchOperation::Replace(_))).map(field_path);
                let replaced: Vec<String> = replaced.collect();
                policy.unknown_fields.retain(|field| !replaced.iter().any(|path| is_below(field, path)));
                Some(policy)
            }
            // The old one selects nothing, so whether it is still there makes no difference.
            Edit::NewPolicy(document) | Edit::MovedPolicy(document, _) => {
                let object: networking::NetworkPolicy = serde_json::from_value(document.clone()).ok()?;
                Some(NetworkPolicy::from(object))
            }
            Edit::Labels(..) => None,
        }
    }

    /// Adds the labels to the objects; none if it is no such change, or does not fit.
    pub(super) fn relabel(&self, objects: &mut Objects) -> Option<()> {
        let Edit::Labels(labels, ..) = &self.edit else { return None };
        if self.object.kind == "Namespace" {
            let namespace = objects.namespaces.iter_mut().find(|namespace| namespace.name == self.object.name)?;
            namespace.labels.extend(labels.clone());
        } else {
            let pods = objects.pods.iter_mut().filter(|pod| self.is_of(pod));
            pods.for_each(|pod| pod.labels.extend(labels.clone()));
            objects.forget_computed_slices();
        }
        Some(())
    }
}

/// The same changes, where one that changes a policy which another one adds is a part of that one.
pub(super) fn merged(changes: Vec<Change>) -> Vec<Change> {
    let mut all: Vec<Change> = Vec::new();
    for change in changes {
        let added = all.iter_mut().find(|of| of.object == change.object);
        let both = added.and_then(|of| match (&of.edit, &change.edit) {
            (Edit::NewPolicy(document), Edit::Policy(patch)) => {
                let mut document = document.clone();
                json_patch::patch(&mut document, patch).ok()?;
                of.edit = Edit::NewPolicy(document);
                of.adds.join(change.adds.clone());
                Some(())
            }
            _ => None,
        });
        if both.is_none() {
            all.push(change);
        }
    }
    all
}

/// An operation that adds a member or an item, or puts a value in place of one.
pub(super) fn add(path: &[&str], value: Value) -> PatchOperation {
    PatchOperation::Add(AddOperation { path: PointerBuf::from_tokens(path.iter().copied()), value })
}

/// An operation that puts a value in place of one that is there.
pub(super) fn replace(path: &[&str], value: Value) -> PatchOperation {
    PatchOperation::Replace(ReplaceOperation { path: PointerBuf::from_tokens(path.iter().copied()), value })
}

/// An operation that makes the whole patch fail where there is another value.
pub(super) fn test(path: &[&str], value: Value) -> PatchOperation {
    PatchOperation::Test(TestOperation { path: PointerBuf::from_tokens(path.iter().copied()), value })
}

/// An operation that takes a value away.
pub(super) fn remove(path: &[&str]) -> PatchOperation {
    PatchOperation::Remove(RemoveOperation { path: PointerBuf::from_tokens(path.iter().copied()) })
}

/// The path of an operation as findings have it: `spec.ingress[0].ports`.
pub(super) fn field_path(operation: &PatchOperation) -> String {
    operation.path().tokens().fold(String::new(), |path, token| {
        let token = token.decoded();
        let is_index = !token.is_empty() && token.chars().all(|c| c.is_ascii_digit());
        match (path.is_empty(), is_index) {
            (true, _) => token.into_owned(),
            (_, true) => format!("{path}[{token}]"),
            (_, false) => format!("{path}.{token}"),
        }
    })
}

/// The tokens of a path as findings have it: `spec`, `ingress`, `0` of `spec.ingress[0]`.
pub(super) fn pointer(field: &str) -> Vec<String> {
    field.split(['.', '[', ']']).filter(|token| !token.is_empty()).map(str::to_owned).collect()
}

/// The value at a path of a document.
pub(super) fn value_at<'a>(document: &'a Value, path: &[&str]) -> Option<&'a Value> {
    document.pointer(PointerBuf::from_tokens(path.iter().copied()).as_str())
}

/// Adds items to a list of a document. One that is absent, empty or null is written whole: an
/// object in a file may lack it, and `-` needs a list.
pub(super) fn append(document: &Value, list: &[&str], items: Vec<Value>) -> Vec<PatchOperation> {
    match value_at(document, list) {
        Some(Value::Array(has)) if !has.is_empty() => {
            let end = [list, &["-"]].concat();
            items.into_iter().map(|item| add(&end, item)).collect()
        }
        _ => vec![add(list, Value::Array(items))],
    }
}

/// `{matchLabels: {…}}`
pub(super) fn match_labels(labels: &Labels) -> Value {
    let labels: Map<String, Value> = labels.iter().map(|(key, value)| (key.clone(), json!(value))).collect();
    json!({ "matchLabels": labels })
}
