//! As much of an API server as Helm and kubectl need in order to install, change and remove what
//! we ship. It stores any object and knows no type.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use axum::Router;
use axum::body::Bytes;
use axum::extract::State;
use axum::http::{HeaderMap, Method, StatusCode, Uri, header};
use axum::response::{IntoResponse as _, Response};
use k8s_openapi::ByteString;
use prost::Message as _;
use serde_json::{Value, json};
use tokio::net::TcpListener;

use crate::yaml;

/// The token of an administrator.
pub(super) const ADMINISTRATOR: &str = "administrator";
/// The token of the account of npc's pods.
pub(super) const INSTALLER: &str = "npc";

/// Group and version, with plural, kind, and whether objects are in namespaces.
const RESOURCES: [(&str, &str, &str, bool); 14] = [
    ("v1", "namespaces", "Namespace", false),
    ("v1", "nodes", "Node", false),
    ("v1", "pods", "Pod", true),
    ("v1", "secrets", "Secret", true),
    ("v1", "configmaps", "ConfigMap", true),
    ("v1", "serviceaccounts", "ServiceAccount", true),
    ("apps/v1", "daemonsets", "DaemonSet", true),
    ("rbac.authorization.k8s.io/v1", "clusterroles", "ClusterRole", false),
    ("rbac.authorization.k8s.io/v1", "clusterrolebindings", "ClusterRoleBinding", false),
    ("rbac.authorization.k8s.io/v1", "roles", "Role", true),
    ("rbac.authorization.k8s.io/v1", "rolebindings", "RoleBinding", true),
    ("admissionregistration.k8s.io/v1", "validatingadmissionpolicies", "ValidatingAdmissionPolicy", false),
    ("admissionregistration.k8s.io/v1", "validatingadmissionpolicybindings", "ValidatingAdmissionPolicyBinding", false),
    ("monitoring.coreos.com/v1", "podmonitors", "PodMonitor", true),
];

/// What the server has and was asked.
#[derive(Debug, Default)]
struct Store {
    /// The minor version of Kubernetes that it claims.
    minor: u32,
    /// Objects by their paths.
    objects: BTreeMap<String, Value>,
    version: u64,
    /// Writes, in their order, as `DELETE PATH`.
    writes: Vec<String>,
}

/// The server. It ends with the runtime of its test.
#[derive(Clone, Default)]
pub(super) struct Api(Arc<Mutex<Store>>);

impl Api {
    /// Starts one that claims this minor version of Kubernetes, and answers its address.
    pub(super) async fn start(minor: u32) -> (Self, String) {
        let api = Self::default();
        api.store().minor = minor;
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = format!("http://{}", listener.local_addr().unwrap());
        let app = Router::new().fallback(answer).with_state(api.clone());
        tokio::spawn(async move { axum::serve(listener, app).await });
        (api, address)
    }

    fn store(&self) -> std::sync::MutexGuard<'_, Store> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Puts an object at a path.
    pub(super) fn put(&self, path: &str, object: Value) {
        self.store().write(path, object);
    }

    /// The paths of all objects.
    pub(super) fn paths(&self) -> Vec<String> {
        self.store().objects.keys().cloned().collect()
    }

    /// The writes since the last call.
    pub(super) fn take_writes(&self) -> Vec<String> {
        std::mem::take(&mut self.store().writes)
    }
}

impl Store {
    fn write(&mut self, path: &str, mut object: Value) -> Value {
        self.version += 1;
        let version = self.version.to_string();
        object["metadata"]["resourceVersion"] = version.clone().into();
        if object["metadata"]["uid"].is_null() {
            object["metadata"]["uid"] = version.into();
        }
        self.objects.insert(path.to_owned(), object.clone());
        object
    }

    /// Whether the account of npc may ask this. Its token ends with the account.
    fn refusal(&self, path: &str) -> Option<(u16, &'static str)> {
        let has = |path: &str| self.objects.contains_key(path);
        if !has("/api/v1/namespaces/npc-system/serviceaccounts/npc") {
            return Some((401, "Unauthorized"));
        }
        let roles = "/apis/rbac.authorization.k8s.io/v1/namespaces/npc-system";
        let may_read = ["roles", "rolebindings"].iter().all(|kind| has(&format!("{roles}/{kind}/npc-install-cni")));
        (path.contains("/daemonsets/") && !may_read).then_some((403, "Forbidden"))
    }
}

fn status(code: u16, reason: &str) -> Response {
    let outcome = if code < 300 { "Success" } else { "Failure" };
    let status = json!({"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": outcome, "code": code,
        "reason": reason, "message": reason});
    json_of(code, &status)
}

fn json_of(code: u16, value: &Value) -> Response {
    let code = StatusCode::from_u16(code).unwrap();
    (code, [(header::CONTENT_TYPE, "application/json")], value.to_string()).into_response()
}

async fn answer(State(api): State<Api>, method: Method, uri: Uri, headers: HeaderMap, body: Bytes) -> Response {
    let header = |name| headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default();
    let path = uri.path();
    let mut store = api.store();
    if header(header::AUTHORIZATION) == format!("Bearer {INSTALLER}")
        && let Some((code, reason)) = store.refusal(path)
    {
        return status(code, reason);
    }
    if let Some(found) = discovery(path, store.minor) {
        return json_of(200, &found);
    }
    if method != Method::GET {
        store.writes.push(format!("{method} {path}"));
    }
    let known = store.objects.get(path).cloned();
    let sent = || match body.strip_prefix(b"k8s\0") {
        Some(message) => secret(message),
        // JSON is YAML.
        None => yaml::documents(std::str::from_utf8(&body).unwrap()).remove(0),
    };
    match (method.as_str(), known) {
        ("GET", Some(object)) => json_of(200, &object),
        ("GET", None) if RESOURCES.iter().any(|(_, plural, ..)| path.ends_with(&format!("/{plural}"))) => {
            json_of(200, &list(&store, path, uri.query().unwrap_or_default()))
        }
        ("POST", _) => {
            let object = sent();
            let path = format!("{path}/{}", object["metadata"]["name"].as_str().unwrap());
            if store.objects.contains_key(&path) {
                return status(409, "AlreadyExists");
            }
            json_of(201, &store.write(&path, object))
        }
        ("PUT", Some(_)) => json_of(200, &store.write(path, sent())),
        ("PATCH", known) if header(header::CONTENT_TYPE).starts_with("application/apply-patch") => {
            // One manager has all fields, so what it sends is the object.
            let code = if known.is_some() { 200 } else { 201 };
            json_of(code, &store.write(path, sent()))
        }
        ("PATCH", Some(mut object)) if header(header::CONTENT_TYPE).starts_with("application/merge-patch") => {
            json_patch::merge(&mut object, &sent());
            json_of(200, &store.write(path, object))
        }
        ("DELETE", Some(_)) => {
            store.objects.remove(path);
            status(200, "")
        }
        (_, None) => status(404, "NotFound"),
        (other, Some(_)) => {
            store.writes.push(format!("NOT UNDERSTOOD {other} {path} {}", header(header::CONTENT_TYPE)));
            status(415, "UnsupportedMediaType")
        }
    }
}

/// What of a protobuf message of Kubernetes is not its envelope (`runtime.Unknown`).
#[derive(Clone, PartialEq, prost::Message)]
struct Unknown {
    #[prost(bytes = "vec", tag = "2")]
    raw: Vec<u8>,
}

/// As much of `core.v1.Secret` as Helm keeps a release by.
#[derive(Clone, PartialEq, prost::Message)]
struct Secret {
    #[prost(message, optional, tag = "1")]
    metadata: Option<Metadata>,
    #[prost(btree_map = "string, bytes", tag = "2")]
    data: BTreeMap<String, Vec<u8>>,
    #[prost(string, tag = "3")]
    kind: String,
}

/// As much of `meta.v1.ObjectMeta`.
#[derive(Clone, PartialEq, prost::Message)]
struct Metadata {
    #[prost(string, tag = "1")]
    name: String,
    #[prost(btree_map = "string, string", tag = "11")]
    labels: BTreeMap<String, String>,
}

/// Helm sends its Secrets, and nothing else, as protobuf. It takes JSON.
fn secret(message: &[u8]) -> Value {
    let Unknown { raw } = Unknown::decode(message).unwrap();
    let Secret { metadata, data, kind } = Secret::decode(raw.as_slice()).unwrap();
    let Metadata { name, labels } = metadata.unwrap();
    let data: BTreeMap<_, _> = data.into_iter().map(|(key, bytes)| (key, ByteString(bytes))).collect();
    json!({"apiVersion": "v1", "kind": "Secret", "type": kind, "data": data,
        "metadata": {"name": name, "labels": labels}})
}

fn list(store: &Store, path: &str, query: &str) -> Value {
    let selector = query.split('&').find_map(|part| part.strip_prefix("labelSelector=")).unwrap_or_default();
    let selector = selector.replace("%3D", "=").replace("%2C", ",");
    let wanted: Vec<_> = selector.split(',').filter_map(|part| part.split_once('=')).collect();
    let is_selected = |object: &Value| wanted.iter().all(|(key, value)| object["metadata"]["labels"][*key] == **value);
    let items: Vec<_> = store
        .objects
        .iter()
        .filter(|(at, object)| at.rsplit_once('/').is_some_and(|(folder, _)| folder == path) && is_selected(object))
        .map(|(_, object)| object.clone())
        .collect();
    let kind = RESOURCES.iter().find(|(_, plural, ..)| path.ends_with(plural)).map_or("", |(_, _, kind, _)| *kind);
    json!({"kind": format!("{kind}List"), "apiVersion": "v1", "metadata": {"resourceVersion": store.version.to_string()},
        "items": items})
}

/// What the server says of itself, in the form that all clients understand.
fn discovery(path: &str, minor: u32) -> Option<Value> {
    let groups = || {
        let mut groups: Vec<&str> = RESOURCES.iter().map(|(group, ..)| *group).filter(|group| *group != "v1").collect();
        groups.dedup();
        groups.into_iter()
    };
    if path == "/version" {
        let version = format!("v1.{minor}.0");
        return Some(json!({"major": "1", "minor": minor.to_string(), "gitVersion": version, "gitCommit": "",
            "gitTreeState": "", "buildDate": "2026-01-01T00:00:00Z", "goVersion": "", "compiler": "",
            "platform": "linux/amd64"}));
    }
    if path == "/api" {
        return Some(json!({"kind": "APIVersions", "versions": ["v1"], "serverAddressByClientCIDRs": []}));
    }
    if path == "/apis" {
        let groups = groups().map(|group| {
            let version = json!({"groupVersion": group, "version": "v1"});
            json!({"name": group.split('/').next(), "versions": [version], "preferredVersion": version})
        });
        return Some(json!({"kind": "APIGroupList", "apiVersion": "v1", "groups": groups.collect::<Vec<_>>()}));
    }
    let group = path.strip_prefix("/apis/").or_else(|| path.strip_prefix("/api/"))?;
    if group != "v1" && !groups().any(|known| known == group) {
        return None;
    }
    let verbs = ["create", "delete", "get", "list", "patch", "update", "watch"];
    let entries = RESOURCES.iter().filter(|(of, ..)| *of == group).map(|(_, plural, kind, is_namespaced)| {
        json!({"name": plural, "singularName": kind.to_lowercase(), "namespaced": is_namespaced, "kind": kind,
            "verbs": verbs})
    });
    Some(json!({"kind": "APIResourceList", "apiVersion": "v1", "groupVersion": group,
        "resources": entries.collect::<Vec<_>>()}))
}
