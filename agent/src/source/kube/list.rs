//! A cluster as it is now, for commands that judge it once.

use std::fmt::Debug;

use futures::FutureExt as _;
use futures::future::BoxFuture;
use k8s_openapi::api::core::v1::Service;
use k8s_openapi::api::discovery::v1::EndpointSlice;
use kube::api::ListParams;
use kube::core::DeserializeGuard;
use kube::{Api, Client, Resource, ResourceExt as _};
use npc_compiler::object::Objects;
use serde::de::DeserializeOwned;

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
    cause: Box<kube::Error>,
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
    let objects = &mut listed.objects;
    objects.namespaces = all::<slim::Namespace>(client).await?.into_iter().map(Into::into).collect();
    objects.nodes = all::<slim::Node>(client).await?.into_iter().map(Into::into).collect();
    objects.pods = all::<slim::Pod>(client).await?.into_iter().map(Into::into).collect();
    objects.services = all::<Service>(client).await?.into_iter().map(Into::into).collect();
    objects.endpoint_slices = match all::<EndpointSlice>(client).await {
        Ok(slices) => slices.into_iter().map(Into::into).collect(),
        // Without the right to list them, pods and selectors say where most Services lead;
        // of the others an explanation says that it does not know.
        Err(Error { cause, .. }) if matches!(&*cause, kube::Error::Api(status) if matches!(status.code, 403 | 404)) => {
            Vec::new()
        }
        Err(error) => return Err(error),
    };
    for policy in all::<DeserializeGuard<slim::Policy>>(client).await? {
        let (namespace, name) = (policy.namespace().unwrap_or_default(), policy.name_any());
        match policy.0 {
            Ok(policy) => objects.policies.push(policy.into()),
            Err(invalid) => listed.problems.push(format!(
                "networkpolicy {namespace}/{name}: cannot be read as the API server sent it, and is left out: {}",
                invalid.error
            )),
        }
    }
    Ok(listed)
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

async fn all<K>(client: &Client) -> Result<Vec<K>, Error>
where
    K: Resource<DynamicType = ()> + Clone + Debug + DeserializeOwned,
{
    let api: Api<K> = Api::all(client.clone());
    let mut params = ListParams::default().limit(PAGE);
    let mut all = Vec::new();
    loop {
        match api.list(&params).await {
            Ok(page) => {
                all.extend(page.items);
                match page.metadata.continue_.filter(|token| !token.is_empty()) {
                    Some(token) => params.continue_token = Some(token),
                    None => return Ok(all),
                }
            }
            // It took too long over the pages; then all at once.
            Err(kube::Error::Api(status)) if status.code == 410 && params.continue_token.is_some() => {
                all.clear();
                params = ListParams::default();
            }
            Err(error) => return Err(Error { what: K::plural(&()).into_owned(), cause: Box::new(error) }),
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
