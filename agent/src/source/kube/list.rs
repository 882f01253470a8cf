//! A cluster as it is now, for commands that judge it once.

use std::collections::{BTreeSet, HashMap};

use futures::FutureExt as _;
use futures::future::BoxFuture;
use k8s_openapi::api::core::v1::Service;
use k8s_openapi::api::discovery::v1::EndpointSlice;
use kube::api::ListParams;
use kube::core::Request;
use kube::{Client, Resource};
use npc_compiler::object::{NAMESPACE_POLICY_BYTES, NetworkPolicy, Objects, PolicyBudget};
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
    let read =
        read(client, &path, |(policies, problems): &mut (Bounded, Vec<String>), item: Read<slim::Policy>, bytes| {
            match item {
                Ok(Item { content: Ok(policy), .. }) => policies.push(policy.into()),
                Ok(Item { identity, content: Err(error), .. }) => {
                    // As an agent takes it that has no earlier version of it.
                    let rescued = slim::Policy::rescue(bytes, &identity, &error);
                    let effect = if rescued.is_some() { "counts without its rules" } else { "is left out" };
                    if let Some(policy) = rescued {
                        policies.push(policy);
                    }
                    problems.push(problem::<slim::Policy>(&identity, &error, effect));
                }
                Err(error) => {
                    problems.push(problem::<slim::Policy>(&decode::Identity::default(), &error, "is left out"));
                }
            }
        });
    let (policies, unreadable) = read.await.map_err(Error::of::<slim::Policy>)?;
    objects.policies = policies.policies;
    problems.extend(unreadable);
    Ok(listed)
}

/// The policies of a namespace as they are now, within the bound of the namespace.
#[must_use]
pub fn policies_of(client: &Client, namespace: &str) -> BoxFuture<'static, Result<PolicyList, String>> {
    let (client, path) = (client.clone(), slim::Policy::url_path(&(), Some(namespace)));
    async move {
        let read = read(
            &client,
            &path,
            |(policies, unreadable): &mut (Bounded, BTreeSet<String>), item: Read<slim::Policy>, _| match item {
                Ok(Item { content: Ok(policy), .. }) => policies.push(policy.into()),
                Ok(Item { identity, .. }) => drop(unreadable.insert(identity.name)),
                Err(_) => {}
            },
        );
        let (Bounded { policies, .. }, unreadable) = read.await.map_err(|error| words(&error))?;
        Ok(PolicyList { policies, unreadable })
    }
    .boxed()
}

/// Policies as they come, within the bounds of their namespaces: so there is never more in
/// memory than these and one policy. Which ones lose their rules is what an agent decides
/// by all of them together.
#[derive(Debug, Default)]
struct Bounded {
    policies: Vec<NetworkPolicy>,
    namespaces: HashMap<String, (PolicyBudget, HashMap<String, usize>)>,
}

impl Bounded {
    fn push(&mut self, policy: NetworkPolicy) {
        let (budget, places) = self
            .namespaces
            .entry(policy.namespace().to_owned())
            .or_insert_with(|| (PolicyBudget::new(NAMESPACE_POLICY_BYTES), HashMap::new()));
        let name = policy.name().to_owned();
        let moved = budget.put(&name, policy.retained_bytes());
        let is_over = budget.is_over(&name);
        places.insert(name, self.policies.len());
        self.policies.push(if is_over { policy.over_budget(NAMESPACE_POLICY_BYTES) } else { policy });
        for place in moved.over.iter().filter_map(|name| places.get(name)) {
            let policy = &mut self.policies[*place];
            *policy = policy.over_budget(NAMESPACE_POLICY_BYTES);
        }
    }
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
    let read = read(client, &path, |(all, problems): &mut (Vec<T>, Vec<String>), item: Read<K>, _| match item {
        Ok(Item { content: Ok(object), .. }) => all.push(T::from(object)),
        Ok(Item { identity, content: Err(error), .. }) => {
            problems.push(problem::<K>(&identity, &error, "is left out"));
        }
        Err(error) => problems.push(problem::<K>(&decode::Identity::default(), &error, "is left out")),
    });
    let (all, unreadable) = read.await.map_err(Error::of::<K>)?;
    problems.extend(unreadable);
    Ok(all)
}

/// An object of a list, or why it cannot be read where it shows no name either.
type Read<K> = Result<Item<K>, String>;

/// Reads a list in pages. `take` is given what it made so far, each object, and its bytes.
async fn read<K: DeserializeOwned, A: Default>(
    client: &Client,
    path: &str,
    take: impl Fn(&mut A, Read<K>, &[u8]),
) -> Result<A, Failure> {
    let mut params = ListParams::default().limit(PAGE);
    let (mut buffer, mut all) = (Buffer::default(), A::default());
    loop {
        let request = Request::new(path).list(&params).map_err(kube::Error::BuildRequest)?;
        let body = match client.request_stream(request).await {
            Ok(body) => body,
            // It took too long over the pages; then all at once.
            Err(kube::Error::Api(status)) if status.code == 410 && params.continue_token.is_some() => {
                all = A::default();
                params = ListParams::default();
                continue;
            }
            Err(error) => return Err(error.into()),
        };
        let mut items = Items::new(Box::pin(body));
        while let Some(piece) = items.next(&mut buffer).await.map_err(Failure::of_list)? {
            take(&mut all, decode::item::<K>(&buffer, piece), buffer.bytes());
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

    /// A cluster whose namespace has three policies of 16 MB in memory, and in the
    /// namespace beside it one.
    fn with_large_policies() -> Client {
        let policy = |namespace, name| {
            let rules = vec![json!({}); 100_000];
            json!({"metadata": {"namespace": namespace, "name": name}, "spec": {"podSelector": {}, "ingress": rules}})
        };
        let answer = move |uri: Uri| async move {
            let mut items = Vec::new();
            if uri.path().ends_with("/networkpolicies") {
                items.extend(["c", "a", "b"].map(|name| policy("shop", name)));
            }
            if uri.path() == "/apis/networking.k8s.io/v1/networkpolicies" {
                items.push(policy("other", "z"));
            }
            Json(json!({"metadata": {}, "items": items})).into_response()
        };
        Client::new(Router::new().fallback(answer), "default")
    }

    #[tokio::test]
    async fn policies_over_the_bound_of_their_namespace_come_without_rules() {
        let client = with_large_policies();
        let of = |policies: &[NetworkPolicy]| -> Vec<(String, bool)> {
            policies.iter().map(|policy| (policy.name().to_owned(), policy.restriction.is_some())).collect()
        };
        let wanted = [("c", true), ("a", false), ("b", false), ("z", false)].map(|(name, is)| (name.to_owned(), is));
        let one = policies_of(&client, "shop").await.expect("a list");
        assert_eq!(of(&one.policies), wanted[..3]);
        let all = list(&client).await.expect("a list").objects;
        assert_eq!(of(&all.policies), wanted);
    }
}
