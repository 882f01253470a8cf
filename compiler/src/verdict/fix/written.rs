//! What the input says of an object and [`Objects`](crate::object::Objects) do not hold.

use serde_json::Value;

use super::object_name::ObjectName;

/// Fields of objects as the input has them written.
pub trait Written {
    /// Whether the input has the object itself, and not only pods that it made.
    fn has(&self, object: &ObjectName) -> bool;

    /// Whether the input has a field of an object, with any value.
    fn has_field(&self, object: &ObjectName, path: &[&str]) -> bool {
        self.text(object, path).is_some()
    }

    /// The text of a field that is no list and no map, by the keys and the indexes that lead to it.
    fn text(&self, object: &ObjectName, path: &[&str]) -> Option<String>;

    /// What a field of a policy holds, whether the API has such a field or not.
    fn value(&self, _: &ObjectName, _path: &[&str]) -> Option<Value> {
        None
    }

    /// The label of this key in the template of a workload that has pods, where the input has both.
    fn template_label(&self, _: &ObjectName, _key: &str) -> Option<String> {
        None
    }

    /// The metadata of an object of a file, all of it as it is written. None where that is not known: the object
    /// was read from a cluster.
    fn metadata(&self, _: &ObjectName) -> Option<Value> {
        None
    }
}

/// Nothing is known beside the objects.
impl Written for () {
    fn has(&self, _: &ObjectName) -> bool {
        false
    }

    fn text(&self, _: &ObjectName, _: &[&str]) -> Option<String> {
        None
    }
}
