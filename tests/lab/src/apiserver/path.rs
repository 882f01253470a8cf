//! From paths and queries to what is asked for.

use serde::Deserialize;

use super::failure::Failure;
use super::resource::{Group, Resource};

/// What a path names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Path {
    /// `/version`
    Version,
    /// `/healthz`, `/livez`, `/readyz`
    Health,
    /// `/api`
    CoreVersions,
    /// `/apis`
    Groups,
    /// `/apis/networking.k8s.io`
    Group(Group),
    /// `/api/v1`, `/apis/networking.k8s.io/v1`
    Resources(Group),
    Objects(ResourcePath),
}

/// A collection, or one object, or its status.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct ResourcePath {
    pub(crate) group: Group,
    pub(crate) resource: Resource,
    /// Empty for all namespaces, and where there are none.
    pub(crate) namespace: String,
    /// Empty for the collection.
    pub(crate) name: String,
    pub(crate) status: bool,
}

impl Path {
    pub(crate) fn parse(path: &str) -> Option<Self> {
        let segments: Vec<&str> = path.trim_matches('/').split('/').collect();
        let (group, rest) = match segments.as_slice() {
            ["version"] => return Some(Self::Version),
            ["healthz" | "livez" | "readyz", ..] => return Some(Self::Health),
            ["api"] => return Some(Self::CoreVersions),
            ["apis"] => return Some(Self::Groups),
            ["api", "v1", rest @ ..] => (Group::Core, rest),
            ["apis", name, rest @ ..] => {
                let mut groups = Group::ALL.into_iter().filter(|group| *group != Group::Core);
                let group = groups.find(|group| group.name() == *name)?;
                match rest {
                    [] => return Some(Self::Group(group)),
                    ["v1", rest @ ..] => (group, rest),
                    _ => return None,
                }
            }
            _ => return None,
        };
        let (namespace, rest) = match rest {
            [] => return Some(Self::Resources(group)),
            // Below a namespace, "status" is the namespace's own.
            ["namespaces", namespace, rest @ ..] if !rest.is_empty() && rest != ["status"] => (*namespace, rest),
            _ => ("", rest),
        };
        let (resource, name, status) = match rest {
            [resource] => (resource, "", false),
            [resource, name] => (resource, *name, false),
            [resource, name, "status"] => (resource, *name, true),
            _ => return None,
        };
        let resource = Resource::of(group, resource)?;
        let in_place = match (resource.is_namespaced(), namespace.is_empty()) {
            (true, true) => name.is_empty(),
            (namespaced, no_namespace) => namespaced != no_namespace,
        };
        let sound = in_place && (!status || resource.has_status());
        let (namespace, name) = (namespace.to_owned(), name.to_owned());
        sound.then_some(Self::Objects(ResourcePath { group, resource, namespace, name, status }))
    }
}

/// The query of a list or watch, as it stands there.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(crate) struct ListOptions {
    pub(crate) label_selector: String,
    pub(crate) field_selector: String,
    pub(crate) limit: String,
    pub(crate) r#continue: String,
    pub(crate) resource_version: String,
    pub(crate) resource_version_match: String,
    pub(crate) watch: String,
    pub(crate) allow_watch_bookmarks: String,
    pub(crate) send_initial_events: String,
    pub(crate) timeout_seconds: String,
}

impl ListOptions {
    /// Whether a switch is on; a switch without value is.
    pub(crate) fn is_on(switch: &str) -> bool {
        matches!(switch, "true" | "1" | "True" | "TRUE" | "t" | "T")
    }

    /// A number; 0 if there is none.
    pub(crate) fn number(text: &str) -> Result<u64, Failure> {
        if text.is_empty() {
            return Ok(0);
        }
        text.parse().map_err(|_| {
            let parse = format!("strconv.ParseUint: parsing \"{text}\": invalid syntax");
            Failure::bad_request(format!("invalid value: \"{text}\": {parse}"))
        })
    }

    /// A failure about one of the options.
    pub(crate) fn forbidden(field: &str, why: &str) -> Failure {
        let message = format!("Forbidden: {why}");
        Failure::invalid("meta.k8s.io", "ListOptions", "", &[("FieldValueForbidden", message, field)])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn place(path: &str) -> Option<(Resource, String)> {
        match Path::parse(path)? {
            Path::Objects(p) => Some((p.resource, format!("{}|{}|{}", p.namespace, p.name, p.status))),
            _ => None,
        }
    }

    #[test]
    fn paths_name_what_the_api_says() {
        let cases = [
            ("/api/v1/pods", Resource::Pods, "||false"),
            ("/api/v1/namespaces/shop/pods", Resource::Pods, "shop||false"),
            ("/api/v1/namespaces/shop/pods/web", Resource::Pods, "shop|web|false"),
            ("/api/v1/namespaces/shop/pods/web/status", Resource::Pods, "shop|web|true"),
            ("/api/v1/namespaces/shop", Resource::Namespaces, "|shop|false"),
            ("/api/v1/namespaces/shop/status", Resource::Namespaces, "|shop|true"),
            ("/api/v1/nodes/node-1", Resource::Nodes, "|node-1|false"),
            ("/apis/networking.k8s.io/v1/networkpolicies", Resource::NetworkPolicies, "||false"),
            ("/apis/events.k8s.io/v1/namespaces/a/events/b", Resource::Events, "a|b|false"),
            ("/api/v1/namespaces/a/events/b", Resource::Events, "a|b|false"),
        ];
        for (path, resource, rest) in cases {
            assert_eq!(place(path), Some((resource, rest.to_owned())), "{path}");
        }
        let wrong = [
            "/api/v1/pods/web",
            "/api/v1/namespaces/shop/nodes",
            "/api/v1/networkpolicies",
            "/apis/networking.k8s.io/v1beta1/networkpolicies",
            "/apis/networking.k8s.io/v1/namespaces/a/networkpolicies/b/status",
            "/nothing",
        ];
        for path in wrong {
            assert_eq!(Path::parse(path), None, "{path}");
        }
    }
}
