//! The contract: requests and their answers.

use axum::http::Method;
use serde_json::{Value, json};

use super::endpoint::{Answer, Endpoint, pod, version};

/// The parts of a `Status` that clients look at.
fn status(answer: &Answer) -> (u16, &str, &str) {
    assert_eq!(answer.body["kind"], "Status", "{answer:?}");
    assert_eq!(answer.body["status"], "Failure", "{answer:?}");
    assert_eq!(answer.body["code"], answer.code, "{answer:?}");
    assert!(answer.media_type.starts_with("application/json"), "{answer:?}");
    (answer.code, answer.body["reason"].as_str().unwrap_or_default(), answer.body["message"].as_str().unwrap())
}

fn names(list: &Value) -> Vec<&str> {
    list["items"].as_array().unwrap().iter().map(|item| item["metadata"]["name"].as_str().unwrap()).collect()
}

pub(crate) async fn an_object_gets_what_a_server_gives(at: Endpoint) {
    let path = at.namespace("gets").await;
    let made = at.post(&format!("{path}/pods"), &pod("web", "web")).await;
    assert_eq!(made.code, 201);
    let metadata = &made.body["metadata"];
    assert_eq!((&made.body["kind"], &made.body["apiVersion"]), (&json!("Pod"), &json!("v1")));
    assert_eq!(metadata["namespace"], "gets");
    assert_eq!(metadata["uid"].as_str().unwrap().len(), 36);
    assert!(metadata["creationTimestamp"].as_str().unwrap().ends_with('Z'));
    assert!(version(&made.body) > 0);
    assert_eq!(made.body["status"]["phase"], "Pending");
    let read = at.get(&format!("{path}/pods/web")).await;
    assert_eq!((read.code, &read.body), (200, &made.body));
}

pub(crate) async fn failures_are_statuses(at: Endpoint) {
    let path = at.namespace("failures").await;
    at.post(&format!("{path}/pods"), &pod("web", "web")).await;
    let twice = at.post(&format!("{path}/pods"), &pod("web", "web")).await;
    assert_eq!(status(&twice), (409, "AlreadyExists", "pods \"web\" already exists"));
    assert_eq!(twice.body["details"], json!({"name": "web", "kind": "pods"}));
    let policies = "/apis/networking.k8s.io/v1/namespaces/failures/networkpolicies";
    let missing = at.get(&format!("{policies}/web")).await;
    assert_eq!(status(&missing), (404, "NotFound", "networkpolicies.networking.k8s.io \"web\" not found"));
    let details = json!({"name": "web", "group": "networking.k8s.io", "kind": "networkpolicies"});
    assert_eq!(missing.body["details"], details);
    let nowhere = at.post("/api/v1/namespaces/nowhere/pods", &pod("web", "web")).await;
    assert_eq!(status(&nowhere), (404, "NotFound", "namespaces \"nowhere\" not found"));
    let other = at.post(&format!("{path}/services"), &pod("web", "web")).await;
    assert_eq!((other.code, &other.body["reason"]), (400, &json!("BadRequest")));
    let mut pod_of_others = pod("else", "web");
    pod_of_others["metadata"]["namespace"] = "default".into();
    let elsewhere = at.post(&format!("{path}/pods"), &pod_of_others).await;
    assert_eq!(status(&elsewhere).0, 400);
    let unnamed = at.post(&format!("{path}/pods"), &pod("Web", "web")).await;
    assert_eq!((unnamed.code, &unnamed.body["reason"]), (422, &json!("Invalid")));
    assert_eq!(unnamed.body["details"]["causes"][0]["field"], "metadata.name");
    assert_eq!(at.get("/apis/nothing.k8s.io/v1/things").await.code, 404);
    assert_eq!(at.ask(Method::DELETE, "/version", "application/json", &Value::Null).await.code / 100, 4);
}

pub(crate) async fn a_write_with_an_old_version_conflicts(at: Endpoint) {
    let path = format!("{}/pods/web", at.namespace("conflicts").await);
    let old = at.post("/api/v1/namespaces/conflicts/pods", &pod("web", "web")).await.body;
    let mut new = old.clone();
    new["metadata"]["labels"]["app"] = "api".into();
    let updated = at.put(&path, &new).await;
    assert_eq!(updated.code, 200, "{updated:?}");
    assert!(version(&updated.body) > version(&old));
    let conflict = at.put(&path, &new).await;
    let message = "Operation cannot be fulfilled on pods \"web\": the object has been modified; please apply your \
                   changes to the latest version and try again";
    assert_eq!(status(&conflict), (409, "Conflict", message));
    // Without a version the last writer wins, and nothing new is no write.
    new["metadata"].as_object_mut().unwrap().remove("resourceVersion");
    let same = at.put(&path, &new).await;
    assert_eq!((same.code, version(&same.body)), (200, version(&updated.body)));
    new["metadata"]["uid"] = "00000000-0000-0000-0000-000000000000".into();
    assert_eq!(status(&at.put(&path, &new).await).0, 409);
}

pub(crate) async fn the_status_is_written_apart(at: Endpoint) {
    let path = format!("{}/pods/web", at.namespace("status-apart").await);
    let mut pod = at.post("/api/v1/namespaces/status-apart/pods", &pod("web", "web")).await.body;
    pod["status"]["phase"] = "Running".into();
    pod["status"]["podIP"] = "10.0.0.1".into();
    pod["status"]["podIPs"] = json!([{"ip": "10.0.0.1"}]);
    let ignored = at.put(&path, &pod).await;
    assert_eq!((ignored.code, &ignored.body["status"]["phase"]), (200, &json!("Pending")));
    // The owners of fields may have changed, and with them the version.
    pod["metadata"]["resourceVersion"] = ignored.body["metadata"]["resourceVersion"].clone();
    let written = at.put(&format!("{path}/status"), &pod).await;
    assert_eq!((written.code, &written.body["status"]["phase"]), (200, &json!("Running")), "{written:?}");
    let patched = at.merge(&format!("{path}/status"), &json!({"status": {"phase": "Succeeded"}})).await;
    assert_eq!((patched.code, &patched.body["status"]["phase"]), (200, &json!("Succeeded")), "{patched:?}");
    assert_eq!(at.get(&path).await.body["status"]["podIPs"], json!([{"ip": "10.0.0.1"}]));
}

pub(crate) async fn patches_change_a_part(at: Endpoint) {
    let node =
        at.post("/api/v1/nodes", &json!({"metadata": {"name": "patched", "labels": {"a": "1", "b": "2"}}})).await;
    assert_eq!(node.code, 201, "{node:?}");
    let path = "/api/v1/nodes/patched";
    let merged = at.merge(path, &json!({"metadata": {"labels": {"a": null, "c": "3"}}})).await;
    assert_eq!((merged.code, &merged.body["metadata"]["labels"]), (200, &json!({"b": "2", "c": "3"})));
    let stale = at.merge(path, &json!({"metadata": {"resourceVersion": "1", "labels": {"a": "4"}}})).await;
    assert_eq!(status(&stale).0, 409);
    let taints = json!({"spec": {"taints": [{"key": "npc.dev/agent-not-ready", "effect": "NoSchedule"}]}});
    assert_eq!(at.merge(path, &taints).await.code, 200);
    let remove_taint = |key: &str| json!([{"op": "test", "path": "/spec/taints/0/key", "value": key}, {"op": "remove", "path": "/spec/taints/0"}]);
    let json_patch = "application/json-patch+json";
    let other = at.ask(Method::PATCH, path, json_patch, &remove_taint("other")).await;
    assert_eq!((other.code, &other.body["reason"]), (422, &json!("Invalid")));
    let removed = at.ask(Method::PATCH, path, json_patch, &remove_taint("npc.dev/agent-not-ready")).await;
    assert_eq!(removed.code, 200, "{removed:?}");
    assert!(removed.body["spec"]["taints"].as_array().is_none_or(Vec::is_empty));
    assert_eq!(at.ask(Method::PATCH, path, "text/plain", &remove_taint("a")).await.code, 415);
    at.delete(path).await;
}

pub(crate) async fn a_pod_that_runs_ends_in_its_own_time(at: Endpoint) {
    let pods = format!("{}/pods", at.namespace("grace").await);
    let bound = |name: &str| {
        let mut pod = pod(name, "web");
        pod["spec"]["nodeName"] = "node-1".into();
        pod
    };
    at.post(&pods, &bound("web")).await;
    let told = at.ask(Method::DELETE, &format!("{pods}/web"), "application/json", &Value::Null).await;
    assert_eq!((told.code, &told.body["metadata"]["deletionGracePeriodSeconds"]), (200, &json!(30)));
    assert!(told.body["metadata"]["deletionTimestamp"].is_string());
    assert_eq!(at.get(&format!("{pods}/web")).await.code, 200);
    assert_eq!(at.delete(&format!("{pods}/web")).await.code, 200);
    assert_eq!(at.get(&format!("{pods}/web")).await.code, 404);
    // A pod that is bound to no node has nothing to end.
    at.post(&pods, &pod("loose", "web")).await;
    assert_eq!(at.ask(Method::DELETE, &format!("{pods}/loose"), "application/json", &Value::Null).await.code, 200);
    assert_eq!(at.get(&format!("{pods}/loose")).await.code, 404);
}

pub(crate) async fn a_deletion_answers_a_status_and_keeps_its_conditions(at: Endpoint) {
    at.namespace("deletes").await;
    let policies = "/apis/networking.k8s.io/v1/namespaces/deletes/networkpolicies";
    let policy = json!({"metadata": {"name": "deny"}, "spec": {"podSelector": {}}});
    let made = at.post(policies, &policy).await.body;
    assert_eq!(made["spec"]["policyTypes"], json!(["Ingress"]));
    assert_eq!(made["metadata"]["generation"], 1);
    let path = format!("{policies}/deny");
    let wrong = json!({"preconditions": {"uid": "00000000-0000-0000-0000-000000000000"}});
    let refused = at.ask(Method::DELETE, &path, "application/json", &wrong).await;
    assert_eq!(status(&refused).1, "Conflict");
    let gone = at.delete(&path).await;
    assert_eq!((gone.code, &gone.body["status"]), (200, &json!("Success")));
    let uid = &made["metadata"]["uid"];
    let details = json!({"name": "deny", "group": "networking.k8s.io", "kind": "networkpolicies", "uid": uid});
    assert_eq!(gone.body["details"], details);
    assert_eq!(status(&at.delete(&path).await).0, 404);
}

pub(crate) async fn lists_come_in_pages_of_one_moment(at: Endpoint) {
    let pods = format!("{}/pods", at.namespace("pages").await);
    for name in ["a", "b", "c", "d", "e"] {
        at.post(&pods, &pod(name, "web")).await;
    }
    let first = at.get(&format!("{pods}?limit=2")).await.body;
    assert_eq!((&first["kind"], &first["apiVersion"]), (&json!("PodList"), &json!("v1")));
    assert_eq!(names(&first), ["a", "b"]);
    assert_eq!(first["metadata"]["remainingItemCount"], 3);
    assert!(first["items"][0]["kind"].is_null() && first["items"][0]["apiVersion"].is_null());
    at.delete(&format!("{pods}/c")).await;
    at.post(&pods, &pod("bb", "web")).await;
    let token = first["metadata"]["continue"].as_str().unwrap();
    let second = at.get(&format!("{pods}?limit=2&continue={token}")).await.body;
    assert_eq!(names(&second), ["c", "d"], "the page shows what was there at the first");
    assert_eq!(second["metadata"]["resourceVersion"], first["metadata"]["resourceVersion"]);
    let token = second["metadata"]["continue"].as_str().unwrap();
    let third = at.get(&format!("{pods}?limit=2&continue={token}")).await.body;
    assert_eq!(names(&third), ["e"]);
    assert!(third["metadata"]["continue"].as_str().unwrap_or_default().is_empty());
    assert!(third["metadata"]["remainingItemCount"].is_null());
    let cached = at.get(&format!("{pods}?limit=2&resourceVersion=0")).await.body;
    assert_eq!(names(&cached).len(), 5, "the cache makes no pages");
    let version = first["metadata"]["resourceVersion"].as_str().unwrap();
    let then = at.get(&format!("{pods}?resourceVersion={version}&resourceVersionMatch=Exact")).await.body;
    assert_eq!(names(&then), ["a", "b", "c", "d", "e"]);
    let since = at.get(&format!("{pods}?resourceVersion={version}&resourceVersionMatch=NotOlderThan")).await.body;
    let mut since = names(&since);
    // From the cache, which older servers keep in no order.
    since.sort_unstable();
    assert_eq!(since, ["a", "b", "bb", "d", "e"]);
    assert_eq!(status(&at.get(&format!("{pods}?limit=2&continue=nonsense")).await).0, 400);
}

pub(crate) async fn a_version_from_the_future_is_refused(at: Endpoint) {
    let future = at.get("/api/v1/pods?resourceVersion=900000000&resourceVersionMatch=NotOlderThan").await;
    assert_eq!((future.code, &future.body["reason"]), (504, &json!("Timeout")), "{future:?}");
    assert_eq!(future.body["details"]["causes"][0]["reason"], "ResourceVersionTooLarge");
    assert_eq!(status(&at.get("/api/v1/pods?resourceVersionMatch=Exact").await).1, "Invalid");
    assert_ne!(at.get("/api/v1/pods?resourceVersion=old").await.code, 200);
}

pub(crate) async fn selectors_select(at: Endpoint) {
    let pods = format!("{}/pods", at.namespace("selectors").await);
    for (name, app, node) in [("a", "web", "node-1"), ("b", "api", "node-1"), ("c", "web", "node-2")] {
        let mut pod = pod(name, app);
        pod["spec"]["nodeName"] = node.into();
        assert_eq!(at.post(&pods, &pod).await.code, 201);
    }
    for (query, wanted) in [
        ("labelSelector=app%3Dweb", vec!["a", "c"]),
        ("labelSelector=app%20notin%20(web)", vec!["b"]),
        ("labelSelector=!app", vec![]),
        ("fieldSelector=spec.nodeName%3Dnode-1", vec!["a", "b"]),
        ("fieldSelector=metadata.name%3Db", vec!["b"]),
        ("labelSelector=app%3Dweb&fieldSelector=spec.nodeName!%3Dnode-1", vec!["c"]),
    ] {
        assert_eq!(names(&at.get(&format!("{pods}?{query}")).await.body), wanted, "{query}");
    }
    let page = at.get(&format!("{pods}?labelSelector=app%3Dweb&limit=1")).await.body;
    assert_eq!(names(&page), ["a"]);
    assert!(page["metadata"]["continue"].is_string() && page["metadata"]["remainingItemCount"].is_null());
    assert_eq!(at.get(&format!("{pods}?fieldSelector=spec.image%3Da")).await.code, 400);
    assert_eq!(at.get(&format!("{pods}?labelSelector=a%20b")).await.code, 400);
}

pub(crate) async fn events_have_two_forms(at: Endpoint) {
    at.namespace("events").await;
    let events = "/apis/events.k8s.io/v1/namespaces/events/events";
    let event = json!({
        "apiVersion": "events.k8s.io/v1",
        "kind": "Event",
        "metadata": {"name": "web.1"},
        "eventTime": "2026-11-23T12:00:00.000000Z",
        "reportingController": "npc.dev/agent",
        "reportingInstance": "node-1",
        "action": "Compile",
        "reason": "PartlyUnderstood",
        "type": "Warning",
        "note": "spec.ingress[0] is not understood",
        "regarding": {"apiVersion": "networking.k8s.io/v1", "kind": "NetworkPolicy", "namespace": "events", "name": "web"},
    });
    let made = at.post(events, &event).await;
    assert_eq!((made.code, &made.body["note"]), (201, &event["note"]), "{made:?}");
    assert_eq!(status(&at.post(events, &event).await).1, "AlreadyExists");
    let older = at.get("/api/v1/namespaces/events/events/web.1").await.body;
    assert_eq!((&older["message"], &older["involvedObject"]), (&event["note"], &event["regarding"]));
    assert_eq!(older["reportingComponent"], "npc.dev/agent");
    for (field, value) in [
        ("type", json!("Error")),
        ("action", json!("")),
        ("reason", json!(null)),
        ("reportingController", json!("")),
        ("eventTime", json!(null)),
        ("note", json!("n".repeat(1025))),
        ("regarding", json!({"kind": "NetworkPolicy", "name": "web"})),
    ] {
        let mut bad = event.clone();
        bad["metadata"]["name"] = "bad".into();
        bad[field] = value;
        let refused = at.post(events, &bad).await;
        assert_eq!((refused.code, &refused.body["reason"]), (422, &json!("Invalid")), "{field}: {refused:?}");
    }
}

pub(crate) async fn a_server_says_what_it_is(at: Endpoint) {
    assert_eq!(at.get("/readyz").await.body, "ok");
    assert_eq!(at.get("/version").await.body["major"], "1");
    let discovery = kube::discovery::Discovery::new(at.client.clone()).run().await.unwrap();
    for (group, kind) in [("", "Pod"), ("", "Node"), ("networking.k8s.io", "NetworkPolicy"), ("events.k8s.io", "Event")]
    {
        let group = discovery.get(group).unwrap();
        assert!(group.recommended_kind(kind).is_some(), "{kind}");
    }
    if at.minor().await >= 21 {
        let namespace = at.post("/api/v1/namespaces", &json!({"metadata": {"name": "labelled"}})).await.body;
        assert_eq!(namespace["metadata"]["labels"]["kubernetes.io/metadata.name"], "labelled");
    }
}

pub(crate) async fn a_token_that_is_not_known_is_refused(at: Endpoint) {
    let request = axum::http::Request::get("/api/v1/pods").body(kube::client::Body::empty()).unwrap();
    let answer = at.client_with_unknown_token().send(request).await.unwrap();
    assert_eq!(answer.status().as_u16(), 401);
    let status: Value = serde_json::from_slice(&answer.into_body().collect_bytes().await.unwrap()).unwrap();
    let expected = json!({
        "kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure",
        "message": "Unauthorized", "reason": "Unauthorized", "code": 401,
    });
    assert_eq!(status, expected);
}
