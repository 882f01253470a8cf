//! Lists of scripted API servers.

use std::time::Duration;

use axum::http::{StatusCode, Uri};
use axum::response::{IntoResponse as _, Response};
use axum::{Json, Router};
use serde_json::{Value, json};
use tokio::time;

use super::*;

fn settings() -> ListSettings {
    ListSettings { namespace: "shop".to_owned(), others: BTreeSet::new(), request_timeout: None }
}

/// Lists a cluster that answers so, by path; without an answer, a list is empty.
async fn listed(answer: fn(&str) -> Option<Response>) -> Result<ListedObjects, Error> {
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

fn items(items: &Value) -> Response {
    Json(json!({"metadata": {}, "items": items})).into_response()
}

fn unread(listed: &ListedObjects) -> Vec<(&str, &Extent)> {
    listed.unread.iter().map(|unread| (unread.kind.as_deref().unwrap_or_default(), &unread.namespace)).collect()
}

#[tokio::test]
async fn endpoint_slices_are_read_and_the_right_to_do_so_is_not_needed() {
    let one = listed(|path| {
        (path == "/apis/discovery.k8s.io/v1/endpointslices").then(|| {
            let metadata =
                json!({"namespace": "shop", "name": "api-1", "labels": {"kubernetes.io/service-name": "api"}});
            let endpoints = json!([{"addresses": ["192.0.2.1"]}]);
            items(&json!([{"metadata": metadata, "addressType": "IPv4", "endpoints": endpoints, "ports": []}]))
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
        "/api/v1/namespaces/shop/pods" => Some(items(&json!([{"metadata": {"namespace": "shop", "name": "web"}}]))),
        "/apis/networking.k8s.io/v1/namespaces/shop/networkpolicies" | "/api/v1/namespaces/shop/services" => None,
        "/api/v1/namespaces/shop" => {
            Some(Json(json!({"metadata": {"name": "shop", "labels": {"team": "a"}}})).into_response())
        }
        _ => Some(refused(StatusCode::FORBIDDEN)),
    });
    let listed = listed.await.expect("a list");
    assert_eq!(listed.objects.pods.iter().map(|pod| pod.name.as_str()).collect::<Vec<_>>(), ["web"]);
    assert_eq!(listed.objects.namespaces[0].labels.get("team").map(String::as_str), Some("a"));
    let but_shop = Extent::all_but(["shop".to_owned()]);
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
        "/api/v1/pods" => Some(items(&json!([{"metadata": {"namespace": "ops", "name": "monitor"}}]))),
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
    assert!(error.contains("did not answer within 30 s") && error.contains("--request-timeout"), "{error}");
}

/// A cluster whose namespace has three policies of 16 MB in memory.
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
    let wanted = [("c", true), ("a", false), ("b", false)].map(|(name, is)| (name.to_owned(), is));
    let one = policies_of(&client, "shop").await.expect("a list");
    assert_eq!(of(&one.policies), wanted);
}

/// As the watch takes an object without a known earlier version.
#[tokio::test]
async fn a_policy_that_cannot_be_read_isolates_what_its_pod_selector_selects() {
    let of = |name: &str, spec: serde_json::Value| json!({"metadata": {"namespace": "shop", "name": name, "resourceVersion": "7"}, "spec": spec});
    let selector = json!({"matchLabels": {"app": "web"}});
    let all = json!([
        of("readable", json!({"podSelector": selector})),
        of("rules", json!({"podSelector": selector, "ingress": "none"})),
        of("nothing", json!({"podSelector": 7})),
    ]);
    let answer = move || {
        let all = all.clone();
        async move { items(&all) }
    };
    let client = Client::new(Router::new().fallback(answer), "default");
    let PolicyList { policies, unreadable, rescued } = policies_of(&client, "shop").await.expect("a list");
    let names = |policies: &[NetworkPolicy]| -> Vec<String> {
        policies.iter().map(|policy| policy.name().to_owned()).collect()
    };
    assert_eq!(names(&policies), ["readable"]);
    assert_eq!(names(&rescued), ["rules"]);
    assert_eq!(rescued[0].object.metadata.resource_version.as_deref(), Some("7"));
    assert_eq!(unreadable, ["nothing".to_owned(), "rules".to_owned()].into());
}

#[tokio::test]
async fn whether_to_ask_again_depends_on_the_answer() {
    for (code, is_passing) in [(429, true), (500, true), (503, true), (401, false), (403, false), (404, false)] {
        let answer = move || async move { refused(StatusCode::from_u16(code).expect("a code")) };
        let client = Client::new(Router::new().fallback(answer), "default");
        let error = policies_of(&client, "shop").await.expect_err("refused");
        assert_eq!(matches!(error, AskError::Passing(_)), is_passing, "{code}: {error:?}");
    }
}
