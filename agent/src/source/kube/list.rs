//! A cluster as it is now, for commands that judge it once.

use futures::FutureExt as _;
use futures::future::BoxFuture;
use k8s_openapi::api::core::v1::Service;
use k8s_openapi::api::discovery::v1::EndpointSlice;
use kube::api::ListParams;
use kube::core::Request;
use kube::{Client, Resource};
use npc_compiler::object::Objects;
use serde::de::DeserializeOwned;

use super::decode::{self, Item};
use super::failure::Failure;
use super::read::{Buffer, Items};
use super::watched::Watched as _;
use super::{slim, words};
use crate::source::PolicyList;

/// How many objects a page has.
const PAGE: u32 = 500;

/// The objects, and what cannot be read of them, in words.
#[derive(Debug, Default)]
pub struct Listed {
    /// Pods, namespaces, network policies, nodes and services.
    pub objects: Objects,
    /// What was left out.
    pub problems: Vec<String>,
}

/// Why a cluster cannot be read. The text has the cause in it.
#[derive(Debug, thiserror::Error)]
#[error("cannot list {what}: {}", words(cause.as_ref()))]
pub struct Error {
    /// The plural of a kind.
    what: String,
    /// What the API server answered, or why it did not.
    cause: Box<Failure>,
}

/// Lists everything that decides about connectivity.
///
/// The lists are of slightly different moments, as everything is that asks an
/// API server for several kinds.
///
/// # Errors
/// If one of them cannot be had.
pub async fn list(client: &Client) -> Result<Listed, Error> {
    let mut listed = Listed::default();
    let Listed { objects, problems } = &mut listed;
    objects.namespaces = all::<slim::Namespace, _>(client, problems).await?;
    objects.nodes = all::<slim::Node, _>(client, problems).await?;
    objects.pods = all::<slim::Pod, _>(client, problems).await?;
    objects.services = all::<Service, _>(client, problems).await?;
    objects.endpoint_slices = match all::<EndpointSlice, _>(client, problems).await {
        Ok(slices) => slices,
        // Without the right to list them, pods and selectors say where most Services lead;
        // of the others an explanation says that it does not know.
        Err(Error { cause, .. }) if matches!(cause.code(), Some(403 | 404)) => Vec::new(),
        Err(error) => return Err(error),
    };
    let path = slim::Policy::url_path(&(), None);
    let read = read(client, &path, |item: Result<Item<slim::Policy>, String>, bytes| match item {
        Ok(Item { content: Ok(policy), .. }) => (Some(policy.into()), None),
        Ok(Item { identity, content: Err(error), .. }) => {
            // As an agent takes it that has no earlier version of it.
            let rescued = slim::Policy::rescue(bytes, &identity, &error);
            let effect = if rescued.is_some() { "counts without its rules" } else { "is left out" };
            (rescued, Some(problem::<slim::Policy>(&identity, &error, effect)))
        }
        Err(error) => (None, Some(problem::<slim::Policy>(&decode::Identity::default(), &error, "is left out"))),
    });
    for (policy, problem) in read.await.map_err(Error::of::<slim::Policy>)? {
        objects.policies.extend(policy);
        problems.extend(problem);
    }
    objects.bound_policies();
    Ok(listed)
}

/// The policies of a namespace as they are now.
#[must_use]
pub fn policies_of(client: &Client, namespace: &str) -> BoxFuture<'static, Result<PolicyList, String>> {
    let (client, path) = (client.clone(), slim::Policy::url_path(&(), Some(namespace)));
    async move {
        let mut list = PolicyList::default();
        let read = read(&client, &path, |item: Result<Item<slim::Policy>, String>, _| item.ok());
        for item in read.await.map_err(|error| words(&error))?.into_iter().flatten() {
            match item.content {
                Ok(policy) => list.policies.push(policy.into()),
                Err(_) => drop(list.unreadable.insert(item.identity.name)),
            }
        }
        Ok(list)
    }
    .boxed()
}

impl Error {
    fn of<K: Resource<DynamicType = ()>>(cause: Failure) -> Self {
        Self { what: K::plural(&()).into_owned(), cause: Box::new(cause) }
    }
}

/// Says that an object cannot be read.
fn problem<K: Resource<DynamicType = ()>>(identity: &decode::Identity, error: &str, effect: &str) -> String {
    let kind = K::kind(&()).to_lowercase();
    let decode::Identity { namespace, name, .. } = identity;
    let slash = if namespace.is_empty() { "" } else { "/" };
    format!("{kind} {namespace}{slash}{name}: cannot be read as the API server sent it, and {effect}: {error}")
}

/// All objects of a kind that can be read. What cannot is added to `problems`.
async fn all<K, T>(client: &Client, problems: &mut Vec<String>) -> Result<Vec<T>, Error>
where
    K: Resource<DynamicType = ()> + DeserializeOwned,
    T: From<K>,
{
    let path = K::url_path(&(), None);
    let read = read(client, &path, |item: Result<Item<K>, String>, _| match item {
        Ok(Item { content: Ok(object), .. }) => Ok(T::from(object)),
        Ok(Item { identity, content: Err(error), .. }) => Err(problem::<K>(&identity, &error, "is left out")),
        Err(error) => Err(problem::<K>(&decode::Identity::default(), &error, "is left out")),
    });
    let mut all = Vec::new();
    for object in read.await.map_err(Error::of::<K>)? {
        match object {
            Ok(object) => all.push(object),
            Err(problem) => problems.push(problem),
        }
    }
    Ok(all)
}

/// Reads a list in pages. `make` is given each object, or why it cannot be read where it
/// shows no name either, and its bytes.
async fn read<K: DeserializeOwned, T>(
    client: &Client,
    path: &str,
    make: impl Fn(Result<Item<K>, String>, &[u8]) -> T,
) -> Result<Vec<T>, Failure> {
    let mut params = ListParams::default().limit(PAGE);
    let (mut buffer, mut all) = (Buffer::default(), Vec::new());
    loop {
        let request = Request::new(path).list(&params).map_err(kube::Error::BuildRequest)?;
        let body = match client.request_stream(request).await {
            Ok(body) => body,
            // It took too long over the pages; then all at once.
            Err(kube::Error::Api(status)) if status.code == 410 && params.continue_token.is_some() => {
                all.clear();
                params = ListParams::default();
                continue;
            }
            Err(error) => return Err(error.into()),
        };
        let mut items = Items::new(Box::pin(body));
        while let Some(piece) = items.next(&mut buffer).await.map_err(Failure::of_list)? {
            all.push(make(decode::item::<K>(&buffer, piece), buffer.bytes()));
        }
        let metadata = items.envelope().map_err(kube::Error::SerdeError)?.metadata;
        match metadata.r#continue.filter(|token| !token.is_empty()) {
            Some(token) if params.continue_token.as_ref() == Some(&token) => return Err(Failure::Endless),
            Some(token) => params.continue_token = Some(token),
            None => return Ok(all),
        }
    }
}

#[cfg(test)]
mod tests {
    use axum::http::{StatusCode, Uri};
    use axum::response::{IntoResponse as _, Response};
    use axum::{Json, Router};
    use serde_json::json;

    use super::*;

    /// A cluster whose lists are all empty, but for this answer about EndpointSlices.
    async fn listed(slices: fn() -> Response) -> Result<Listed, Error> {
        let answer = move |uri: Uri| async move {
            if uri.path() == "/apis/discovery.k8s.io/v1/endpointslices" {
                slices()
            } else {
                Json(json!({"metadata": {}, "items": []})).into_response()
            }
        };
        list(&Client::new(Router::new().fallback(answer), "default")).await
    }

    fn refused(code: StatusCode) -> Response {
        let reason = code.canonical_reason();
        (code, Json(json!({"status": "Failure", "code": code.as_u16(), "reason": reason, "message": reason})))
            .into_response()
    }

    #[tokio::test]
    async fn endpoint_slices_are_read_and_the_right_to_do_so_is_not_needed() {
        let one = listed(|| {
            let metadata =
                json!({"namespace": "shop", "name": "api-1", "labels": {"kubernetes.io/service-name": "api"}});
            let endpoints = json!([{"addresses": ["192.0.2.1"]}]);
            let slice = json!({"metadata": metadata, "addressType": "IPv4", "endpoints": endpoints, "ports": []});
            Json(json!({"metadata": {}, "items": [slice]})).into_response()
        });
        let slices = one.await.expect("a list").objects.endpoint_slices;
        assert_eq!(slices.iter().map(|slice| slice.service.as_str()).collect::<Vec<_>>(), ["api"]);
        // An old server has no such version.
        for none in [|| refused(StatusCode::FORBIDDEN), || refused(StatusCode::NOT_FOUND)] {
            assert_eq!(listed(none).await.expect("a list").objects.endpoint_slices, []);
        }
        assert!(listed(|| refused(StatusCode::UNAUTHORIZED)).await.is_err());
    }
}
