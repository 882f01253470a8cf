//! An object as the server keeps it: its JSON, and what selectors ask of it.

use std::collections::BTreeMap;

use serde_json::{Map, Value};

use super::event;
use super::resource::{Group, Resource};

/// What a store files an object under; ordered as lists are.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Key {
    pub(crate) resource: Resource,
    /// Empty where objects live in no namespace.
    pub(crate) namespace: String,
    pub(crate) name: String,
}

/// A stored object. It never changes: a new version is a new one.
///
/// The JSON is kept as text, as etcd has it: a hundred thousand pods as trees
/// of values would take gigabytes, and a list of them is only this text joined.
#[derive(Debug)]
pub(crate) struct Object {
    resource: Resource,
    version: u64,
    /// The object without `apiVersion` and `kind`; begins with `{`.
    text: Box<str>,
    labels: BTreeMap<String, String>,
    fields: BTreeMap<&'static str, String>,
}

impl Object {
    /// An object of this version. `value` is an object with metadata.
    pub(crate) fn new(resource: Resource, mut value: Value, version: u64) -> Self {
        if let Some(object) = value.as_object_mut() {
            object.remove("apiVersion");
            object.remove("kind");
        }
        value["metadata"]["resourceVersion"] = version.to_string().into();
        let labels = value["metadata"]["labels"].as_object().map(strings).unwrap_or_default();
        let field = |path: &&'static str| {
            let found = value.pointer(&format!("/{}", path.replace('.', "/")))?;
            Some((*path, found.as_str().map_or_else(|| found.to_string(), str::to_owned)))
        };
        let fields = Self::fields(resource).iter().filter_map(field).collect();
        Self { resource, version, text: value.to_string().into_boxed_str(), labels, fields }
    }

    /// The fields that a field selector may name, besides which the real server
    /// knows a few that no agent asks for.
    pub(crate) fn fields(resource: Resource) -> &'static [&'static str] {
        match resource {
            Resource::Pods => &["metadata.name", "metadata.namespace", "spec.nodeName", "status.phase"],
            Resource::Namespaces => &["metadata.name", "status.phase"],
            Resource::Nodes => &["metadata.name", "spec.unschedulable"],
            Resource::Services => &["metadata.name", "metadata.namespace", "spec.clusterIP", "spec.type"],
            Resource::NetworkPolicies => &["metadata.name", "metadata.namespace"],
            Resource::Events => &["metadata.name", "metadata.namespace", "reason", "type"],
        }
    }

    /// Its `metadata.resourceVersion`.
    pub(crate) fn version(&self) -> u64 {
        self.version
    }

    pub(crate) fn label(&self, key: &str) -> Option<&str> {
        self.labels.get(key).map(String::as_str)
    }

    /// A field of those that may be selected by; empty if it is not set.
    pub(crate) fn field(&self, path: &str) -> &str {
        self.fields.get(path).map_or("", String::as_str)
    }

    /// The object as it stands in a list: without `apiVersion` and `kind`.
    pub(crate) fn item(&self, group: Group) -> String {
        match self.resource {
            Resource::Events => event::in_group(group, self.value()).to_string(),
            _ => self.text.to_string(),
        }
    }

    /// The object as it is answered alone.
    pub(crate) fn whole(&self, group: Group) -> String {
        let item = self.item(group);
        format!("{{\"kind\":\"{}\",\"apiVersion\":\"{}\",{}", self.resource.kind(), group.api_version(), &item[1..])
    }

    /// The object as a value, without `apiVersion` and `kind`.
    pub(crate) fn value(&self) -> Value {
        serde_json::from_str(&self.text).unwrap_or_default()
    }

    /// The same object under another version.
    pub(crate) fn at(&self, version: u64) -> Self {
        Self::new(self.resource, self.value(), version)
    }
}

fn strings(map: &Map<String, Value>) -> BTreeMap<String, String> {
    map.iter().map(|(key, value)| (key.clone(), value.as_str().unwrap_or_default().to_owned())).collect()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn an_object_alone_says_what_it_is_and_in_a_list_does_not() {
        let pod = json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "a"}});
        let pod = Object::new(Resource::Pods, pod, 7);
        assert_eq!(pod.item(Group::Core), r#"{"metadata":{"name":"a","resourceVersion":"7"}}"#);
        let whole = r#"{"kind":"Pod","apiVersion":"v1","metadata":{"name":"a","resourceVersion":"7"}}"#;
        assert_eq!(pod.whole(Group::Core), whole);
    }
}
