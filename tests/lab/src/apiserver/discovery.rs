//! What the server says of itself.

use serde_json::{Value, json};

use super::resource::{Group, Resource};

/// The version that it behaves as.
const VERSION: (&str, &str) = ("1", "36");

pub(crate) fn version() -> Value {
    let (major, minor) = VERSION;
    json!({
        "major": major,
        "minor": minor,
        "gitVersion": format!("v{major}.{minor}.0+npc-lab"),
        "gitCommit": "",
        "gitTreeState": "clean",
        "buildDate": "2026-01-01T00:00:00Z",
        "goVersion": "",
        "compiler": "",
        "platform": "linux/amd64",
    })
}

pub(crate) fn core_versions() -> Value {
    json!({"kind": "APIVersions", "versions": ["v1"], "serverAddressByClientCIDRs": []})
}

pub(crate) fn groups() -> Value {
    let groups = Group::ALL.into_iter().filter(|group| *group != Group::Core).map(body);
    json!({"kind": "APIGroupList", "apiVersion": "v1", "groups": groups.collect::<Vec<Value>>()})
}

pub(crate) fn group(group: Group) -> Value {
    let mut group = body(group);
    group["kind"] = "APIGroup".into();
    group["apiVersion"] = "v1".into();
    group
}

fn body(group: Group) -> Value {
    let version = json!({"groupVersion": group.api_version(), "version": "v1"});
    json!({"name": group.name(), "versions": [version], "preferredVersion": version})
}

pub(crate) fn resources(group: Group) -> Value {
    let verbs = ["create", "delete", "get", "list", "patch", "update", "watch"];
    let entry = |resource: Resource, name: String, verbs: &[&str]| {
        json!({
            "name": name,
            "singularName": resource.kind().to_lowercase(),
            "namespaced": resource.is_namespaced(),
            "kind": resource.kind(),
            "verbs": verbs,
        })
    };
    let mut entries = Vec::new();
    for resource in Resource::ALL.into_iter().filter(|resource| resource.is_in(group)) {
        entries.push(entry(resource, resource.plural().to_owned(), &verbs));
        if resource.has_status() {
            entries.push(entry(resource, format!("{}/status", resource.plural()), &["get", "patch", "update"]));
        }
    }
    json!({
        "kind": "APIResourceList",
        "apiVersion": "v1",
        "groupVersion": group.api_version(),
        "resources": entries,
    })
}
