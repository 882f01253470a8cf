//! A cluster as it is now, for commands that judge it once, as far as the reader's rights
//! reach.
//!
//! A developer often has rights in one namespace only. Each kind is asked for in all
//! namespaces first. Where that is forbidden, it is asked for in the one namespace, and
//! what is missing is [`Unread`]: a verdict that it may decide is unknown.

use std::fmt::Debug;
use std::time::Duration;

use futures::FutureExt as _;
use futures::future::BoxFuture;
use k8s_openapi::NamespaceResourceScope;
use k8s_openapi::api::core::v1::Service;
use k8s_openapi::api::discovery::v1::EndpointSlice;
use kube::api::ListParams;
use kube::core::DeserializeGuard;
use kube::{Api, Client, Resource, ResourceExt as _};
use npc_compiler::cluster::unread::{Extent, Unread};
use npc_compiler::object::Objects;
use serde::de::DeserializeOwned;
use tokio::time;

use super::{slim, words};
use crate::source::PolicyList;

/// How many objects a page has.
const PAGE: u32 = 500;

/// How a cluster is listed.
#[derive(Debug, Clone)]
pub struct ListSettings {
    /// The namespace to list in where listing in all of them is forbidden.
    pub namespace: String,
    /// How long one answer of the API server may take; without one, as long as the
    /// client waits.
    pub request_timeout: Option<Duration>,
}

/// The objects, and what cannot be read of them, in words.
#[derive(Debug, Default)]
pub struct Listed {
    /// Pods, namespaces, network policies, nodes, services and endpoint slices.
    pub objects: Objects,
    /// What was left out, because npc does not understand what the API server sent.
    pub problems: Vec<String>,
    /// What was left out, for any reason.
    pub unread: Vec<Unread>,
}

/// Why a cluster cannot be read. The text has the cause in it.
#[derive(Debug, thiserror::Error)]
#[error("{message}")]
pub struct Error {
    message: String,
}

/// Why one list cannot be had.
#[derive(Debug)]
enum Failure {
    Request(Box<kube::Error>),
    Silent(Duration),
}

impl Failure {
    fn code(&self) -> Option<u16> {
        match self {
            Self::Request(error) => match &**error {
                kube::Error::Api(status) => Some(status.code),
                _ => None,
            },
            Self::Silent(_) => None,
        }
    }

    /// What happened and what to do, in one sentence.
    fn about<K: Resource<DynamicType = ()>>(&self, settings: &ListSettings) -> Error {
        let what = K::plural(&());
        let message = match self {
            Self::Silent(timeout) => format!(
                "the API server did not answer within {timeout:?}, when asked for {what}; ask again, or wait longer with \
                 --request-timeout"
            ),
            Self::Request(error) => {
                let cause = words(error.as_ref());
                match self.code() {
                    Some(401) => {
                        format!("the API server rejected your credentials: {cause}; log in again, as for kubectl")
                    }
                    Some(403) => format!(
                        "cannot list {what} in all namespaces, nor in namespace {}: {cause}; name a namespace in which \
                         you may list them with -n",
                        settings.namespace
                    ),
                    Some(_) => format!("cannot list {what}: {cause}"),
                    None => match refused(error.as_ref()) {
                        Some(kind) => format!("the API server cannot be reached: {kind}"),
                        None => format!("cannot list {what}: {cause}"),
                    },
                }
            }
        };
        Error { message }
    }
}

/// The error of the operating system at the end of a chain of causes, in its own words.
fn refused(error: &(dyn std::error::Error + 'static)) -> Option<std::io::ErrorKind> {
    let mut cause = Some(error);
    let mut kind = None;
    while let Some(error) = cause {
        if let Some(error) = error.downcast_ref::<std::io::Error>() {
            kind = Some(error.kind());
        }
        cause = error.source();
    }
    // What it does not name is in the text of the error.
    kind.filter(|kind| !matches!(kind, std::io::ErrorKind::Other) && !format!("{kind}").contains("uncategorized"))
}

/// Lists everything that decides about connectivity, as far as the API server allows it.
///
/// The lists are of slightly different moments, as everything is that asks an
/// API server for several kinds.
///
/// # Errors
/// If the API server does not answer, rejects the credentials, or lets neither the pods
/// nor the policies of any namespace be listed.
pub async fn list(client: &Client, settings: &ListSettings) -> Result<Listed, Error> {
    let mut reader = Reader { client, settings, unread: Vec::new() };
    let mut listed = Listed::default();
    let objects = &mut listed.objects;
    objects.namespaces = reader.namespaces().await?.into_iter().map(Into::into).collect();
    objects.nodes = reader.nodes().await?.into_iter().map(Into::into).collect();
    objects.pods = reader.needed::<slim::Pod>().await?.into_iter().map(Into::into).collect();
    objects.services = reader.wanted::<Service>().await?.into_iter().map(Into::into).collect();
    objects.endpoint_slices = reader.wanted::<EndpointSlice>().await?.into_iter().map(Into::into).collect();
    for policy in reader.needed::<DeserializeGuard<slim::Policy>>().await? {
        let (namespace, name) = (policy.namespace().unwrap_or_default(), policy.name_any());
        match policy.0 {
            Ok(policy) => objects.policies.push(policy.into()),
            Err(invalid) => {
                let why = format!(
                    "networkpolicy {namespace}/{name}: cannot be read as the API server sent it, and is left out: {}",
                    invalid.error
                );
                reader.leave_out::<slim::Policy>(Extent::In(namespace), why.clone());
                listed.problems.push(why);
            }
        }
    }
    if reader.unread.iter().any(|unread| unread.kind.as_deref() == Some("Namespace")) {
        // The others exist, and of their labels the one with the name is known.
        objects.declare_namespaces();
    }
    listed.unread = reader.unread;
    Ok(listed)
}

/// Lists one kind after the other.
struct Reader<'a> {
    client: &'a Client,
    settings: &'a ListSettings,
    unread: Vec<Unread>,
}

impl Reader<'_> {
    fn leave_out<K: Resource<DynamicType = ()>>(&mut self, namespace: Extent, why: String) {
        self.unread.push(Unread { kind: Some(K::kind(&()).into_owned()), namespace, why });
    }

    /// The namespaces; where they cannot be listed, the one, if it can be read.
    async fn namespaces(&mut self) -> Result<Vec<slim::Namespace>, Error> {
        let api = Api::<slim::Namespace>::all(self.client.clone());
        let failure = match self.all(&api).await {
            Err(failure) if failure.code() == Some(403) => failure,
            listed => return listed.map_err(|failure| failure.about::<slim::Namespace>(self.settings)),
        };
        // A role in a namespace mostly has the right to read the Namespace itself.
        let here = self.settings.namespace.as_str();
        let read = self.in_time(api.get_opt(here)).await;
        let (read, extent) = match read {
            Ok(Some(namespace)) => (vec![namespace], Extent::AllBut(here.to_owned())),
            Ok(None) | Err(Failure::Request(_)) => (Vec::new(), Extent::Everywhere),
            Err(silent @ Failure::Silent(_)) => return Err(silent.about::<slim::Namespace>(self.settings)),
        };
        self.leave_out::<slim::Namespace>(extent, no_right::<slim::Namespace>(&failure));
        Ok(read)
    }

    async fn nodes(&mut self) -> Result<Vec<slim::Node>, Error> {
        let api = Api::all(self.client.clone());
        match self.all::<slim::Node>(&api).await {
            Err(failure) if failure.code() == Some(403) => {
                self.leave_out::<slim::Node>(Extent::Everywhere, no_right::<slim::Node>(&failure));
                Ok(Vec::new())
            }
            listed => listed.map_err(|failure| failure.about::<slim::Node>(self.settings)),
        }
    }

    /// The objects of a kind without which nothing can be said.
    async fn needed<K>(&mut self) -> Result<Vec<K>, Error>
    where
        K: Resource<DynamicType = (), Scope = NamespaceResourceScope> + Clone + Debug + DeserializeOwned,
    {
        let listed = self.reachable::<K>().await;
        listed.map_err(|failure| failure.about::<K>(self.settings))
    }

    /// The objects of a kind without which most can be said.
    async fn wanted<K>(&mut self) -> Result<Vec<K>, Error>
    where
        K: Resource<DynamicType = (), Scope = NamespaceResourceScope> + Clone + Debug + DeserializeOwned,
    {
        match self.reachable::<K>().await {
            // An old server does not have the kind.
            Err(failure) if matches!(failure.code(), Some(403 | 404)) => {
                self.leave_out::<K>(Extent::Everywhere, no_right::<K>(&failure));
                Ok(Vec::new())
            }
            listed => listed.map_err(|failure| failure.about::<K>(self.settings)),
        }
    }

    /// The objects of all namespaces, else those of the one namespace.
    async fn reachable<K>(&mut self) -> Result<Vec<K>, Failure>
    where
        K: Resource<DynamicType = (), Scope = NamespaceResourceScope> + Clone + Debug + DeserializeOwned,
    {
        let everywhere = Api::<K>::all(self.client.clone());
        let failure = match self.all(&everywhere).await {
            Err(failure) if failure.code() == Some(403) => failure,
            listed => return listed,
        };
        let here = Api::<K>::namespaced(self.client.clone(), &self.settings.namespace);
        let listed = self.all(&here).await?;
        self.leave_out::<K>(Extent::AllBut(self.settings.namespace.clone()), no_right::<K>(&failure));
        Ok(listed)
    }

    async fn all<K>(&self, api: &Api<K>) -> Result<Vec<K>, Failure>
    where
        K: Resource<DynamicType = ()> + Clone + Debug + DeserializeOwned,
    {
        let mut params = ListParams::default().limit(PAGE);
        let mut all = Vec::new();
        loop {
            match self.in_time(api.list(&params)).await {
                Ok(page) => {
                    all.extend(page.items);
                    match page.metadata.continue_.filter(|token| !token.is_empty()) {
                        Some(token) => params.continue_token = Some(token),
                        None => return Ok(all),
                    }
                }
                // It took too long over the pages; then all at once.
                Err(failure) if failure.code() == Some(410) && params.continue_token.is_some() => {
                    all.clear();
                    params = ListParams::default();
                }
                Err(failure) => return Err(failure),
            }
        }
    }

    /// An answer, if it comes within the time that is set.
    async fn in_time<T>(&self, asked: impl Future<Output = kube::Result<T>>) -> Result<T, Failure> {
        let answer = match self.settings.request_timeout {
            None => asked.await,
            Some(timeout) => time::timeout(timeout, asked).await.map_err(|_| Failure::Silent(timeout))?,
        };
        answer.map_err(|error| Failure::Request(Box::new(error)))
    }
}

/// Why a kind was left out.
fn no_right<K: Resource<DynamicType = ()>>(failure: &Failure) -> String {
    match failure.code() {
        Some(404) => format!("the API server has no {}", K::plural(&())),
        _ => format!("no right to list {}", K::plural(&())),
    }
}

/// The policies of a namespace as they are now.
#[must_use]
pub fn policies_of(client: &Client, namespace: &str) -> BoxFuture<'static, Result<PolicyList, String>> {
    let api: Api<DeserializeGuard<slim::Policy>> = Api::namespaced(client.clone(), namespace);
    async move {
        let listed = api.list(&ListParams::default()).await.map_err(|error| words(&error))?;
        let mut list = PolicyList::default();
        for policy in listed.items {
            let name = policy.name_any();
            match policy.0 {
                Ok(policy) => list.policies.push(policy.into()),
                Err(_) => drop(list.unreadable.insert(name)),
            }
        }
        Ok(list)
    }
    .boxed()
}

#[cfg(test)]
mod tests {
    use axum::http::{StatusCode, Uri};
    use axum::response::{IntoResponse as _, Response};
    use axum::{Json, Router};
    use serde_json::{Value, json};

    use super::*;

    fn settings() -> ListSettings {
        ListSettings { namespace: "shop".to_owned(), request_timeout: None }
    }

    /// Lists a cluster that answers so, by path; without an answer, a list is empty.
    async fn listed(answer: fn(&str) -> Option<Response>) -> Result<Listed, Error> {
        let answer = move |uri: Uri| async move {
            answer(uri.path()).unwrap_or_else(|| Json(json!({"metadata": {}, "items": []})).into_response())
        };
        list(&Client::new(Router::new().fallback(answer), "default"), &settings()).await
    }

    fn refused(code: StatusCode) -> Response {
        let reason = code.canonical_reason();
        (code, Json(json!({"status": "Failure", "code": code.as_u16(), "reason": reason, "message": reason})))
            .into_response()
    }

    fn items(items: Value) -> Response {
        Json(json!({"metadata": {}, "items": items})).into_response()
    }

    fn unread(listed: &Listed) -> Vec<(&str, &Extent)> {
        listed.unread.iter().map(|unread| (unread.kind.as_deref().unwrap_or_default(), &unread.namespace)).collect()
    }

    #[tokio::test]
    async fn endpoint_slices_are_read_and_the_right_to_do_so_is_not_needed() {
        let one = listed(|path| {
            (path == "/apis/discovery.k8s.io/v1/endpointslices").then(|| {
                let metadata =
                    json!({"namespace": "shop", "name": "api-1", "labels": {"kubernetes.io/service-name": "api"}});
                let endpoints = json!([{"addresses": ["192.0.2.1"]}]);
                items(json!([{"metadata": metadata, "addressType": "IPv4", "endpoints": endpoints, "ports": []}]))
            })
        });
        let slices = one.await.expect("a list").objects.endpoint_slices;
        assert_eq!(slices.iter().map(|slice| slice.service.as_str()).collect::<Vec<_>>(), ["api"]);
        // An old server has no such version.
        for none in [
            |path: &str| path.contains("endpointslices").then(|| refused(StatusCode::FORBIDDEN)),
            |path: &str| path.contains("endpointslices").then(|| refused(StatusCode::NOT_FOUND)),
        ] {
            let listed = listed(none).await.expect("a list");
            assert_eq!(listed.objects.endpoint_slices, []);
            assert_eq!(unread(&listed), [("EndpointSlice", &Extent::Everywhere)]);
        }
        let rejected = listed(|path| path.contains("endpointslices").then(|| refused(StatusCode::UNAUTHORIZED))).await;
        assert!(rejected.expect_err("no list").to_string().contains("rejected your credentials"));
    }

    #[tokio::test]
    async fn where_all_namespaces_are_forbidden_the_one_is_listed() {
        let listed = listed(|path| match path {
            "/api/v1/namespaces/shop/pods" => Some(items(json!([{"metadata": {"namespace": "shop", "name": "web"}}]))),
            "/apis/networking.k8s.io/v1/namespaces/shop/networkpolicies" | "/api/v1/namespaces/shop/services" => None,
            "/api/v1/namespaces/shop" => {
                Some(Json(json!({"metadata": {"name": "shop", "labels": {"team": "a"}}})).into_response())
            }
            _ => Some(refused(StatusCode::FORBIDDEN)),
        });
        let listed = listed.await.expect("a list");
        assert_eq!(listed.objects.pods.iter().map(|pod| pod.name.as_str()).collect::<Vec<_>>(), ["web"]);
        assert_eq!(listed.objects.namespaces[0].labels.get("team").map(String::as_str), Some("a"));
        let but_shop = Extent::AllBut("shop".to_owned());
        assert_eq!(
            unread(&listed),
            [
                ("Namespace", &but_shop),
                ("Node", &Extent::Everywhere),
                ("Pod", &but_shop),
                ("Service", &but_shop),
                ("EndpointSlice", &Extent::Everywhere),
                ("NetworkPolicy", &but_shop),
            ]
        );
    }

    #[tokio::test]
    async fn a_namespace_that_cannot_be_read_is_known_by_its_name() {
        let listed = listed(|path| match path {
            "/api/v1/pods" => Some(items(json!([{"metadata": {"namespace": "ops", "name": "monitor"}}]))),
            "/api/v1/namespaces" | "/api/v1/namespaces/shop" => Some(refused(StatusCode::FORBIDDEN)),
            _ => None,
        });
        let listed = listed.await.expect("a list");
        let [ops] = listed.objects.namespaces.as_slice() else { panic!("{:?}", listed.objects.namespaces) };
        assert_eq!(ops.labels.get(npc_compiler::object::NAMESPACE_NAME_LABEL).map(String::as_str), Some("ops"));
        assert_eq!(unread(&listed), [("Namespace", &Extent::Everywhere)]);
    }

    #[tokio::test]
    async fn without_pods_and_policies_nothing_can_be_said() {
        for (plural, path) in [("pods", "/pods"), ("networkpolicies", "/networkpolicies")] {
            let error = match plural {
                "pods" => listed(|path| path.ends_with("/pods").then(|| refused(StatusCode::FORBIDDEN))).await,
                _ => listed(|path| path.ends_with("/networkpolicies").then(|| refused(StatusCode::FORBIDDEN))).await,
            };
            let error = error.expect_err(path).to_string();
            let words = format!("cannot list {plural} in all namespaces, nor in namespace shop");
            assert!(error.starts_with(&words) && error.contains("-n"), "{error}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_server_that_does_not_answer_is_waited_for_so_long() {
        let silent = Router::new().fallback(|| async { std::future::pending::<Response>().await });
        let timeout = Duration::from_secs(30);
        let settings = ListSettings { request_timeout: Some(timeout), ..settings() };
        let begun = time::Instant::now();
        let error = list(&Client::new(silent, "default"), &settings).await.expect_err("no answer").to_string();
        assert_eq!(begun.elapsed(), timeout);
        assert!(error.contains("did not answer within 30s") && error.contains("--request-timeout"), "{error}");
    }
}
