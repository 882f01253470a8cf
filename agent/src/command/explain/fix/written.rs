//! What the input says of objects as they are written.

use npc_agent::source::manifests::{ObjectRef, Positions};
use npc_compiler::object::Workload;
use npc_compiler::verdict::fix::{ObjectName, Written};
use serde_json::Value;

use super::path::field_path;
use crate::command::input::Input;

/// What the files say of objects, and a cluster of the labels that workloads have themselves.
pub(super) struct InInput<'a>(pub(super) &'a Input);

impl InInput<'_> {
    const fn positions(&self) -> &Positions {
        &self.0.loaded.positions
    }
}

impl Written for InInput<'_> {
    fn has(&self, object: &ObjectName) -> bool {
        self.positions().locate_object(&reference(object), "").is_some()
    }

    fn has_field(&self, object: &ObjectName, path: &[&str]) -> bool {
        self.positions().locate_object(&reference(object), &field_path(path)).is_some_and(|place| place.exact)
    }

    fn text(&self, object: &ObjectName, path: &[&str]) -> Option<String> {
        match path {
            ["metadata", "labels", key] if !self.has(object) => {
                let namespace = object.namespace.as_deref().unwrap_or_default();
                let workload = Workload { kind: object.kind.clone(), name: object.name.clone() };
                self.0.cluster.workload_label(namespace, &workload, key).map(str::to_owned)
            }
            _ => self.positions().text(&reference(object), path),
        }
    }

    fn value(&self, object: &ObjectName, path: &[&str]) -> Option<Value> {
        self.positions().value(&reference(object), path)
    }

    fn template_label(&self, object: &ObjectName, key: &str) -> Option<String> {
        let namespace = object.namespace.as_deref().unwrap_or_default();
        let workload = Workload { kind: object.kind.clone(), name: object.name.clone() };
        self.0.cluster.template_label(namespace, &workload, key).map(str::to_owned)
    }

    fn metadata(&self, object: &ObjectName) -> Option<Value> {
        self.positions().metadata(&reference(object))
    }
}

pub(super) fn reference(object: &ObjectName) -> ObjectRef {
    ObjectRef::new(&object.kind, object.namespace.as_deref().unwrap_or_default(), &object.name)
}
