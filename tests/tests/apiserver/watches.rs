//! The contract: watches.

use std::collections::BTreeMap;

use futures::{StreamExt as _, TryStreamExt as _};
use k8s_openapi::api::core::v1::Pod;
use kube::Api;
use kube::runtime::watcher::{self, Event, watcher};
use serde_json::{Value, json};

use super::endpoint::{Endpoint, Events, next, next_name, pod, version};

async fn pods_with(at: &Endpoint, namespace: &str, names: &[&str]) -> String {
    let pods = format!("{}/pods", at.namespace(namespace).await);
    for name in names {
        assert_eq!(at.post(&pods, &pod(name, "web")).await.code, 201);
    }
    pods
}

async fn label(at: &Endpoint, pod: &str, app: &str) -> Value {
    at.merge(pod, &json!({"metadata": {"labels": {"app": app}}})).await.body
}

async fn watch_from_now(at: &Endpoint, pods: &str, query: &str) -> Events {
    let list = at.get(pods).await.body;
    at.watch(&format!("{pods}?watch=true&resourceVersion={}{query}", version(&list))).await
}

pub(crate) async fn a_watch_sends_what_comes_after_its_version(at: Endpoint) {
    let pods = pods_with(&at, "after", &["old"]).await;
    let mut events = watch_from_now(&at, &pods, "").await;
    let made = at.post(&pods, &pod("new", "web")).await.body;
    let changed = label(&at, &format!("{pods}/new"), "api").await;
    at.delete(&format!("{pods}/new")).await;
    let added = next(&mut events).await.unwrap();
    assert_eq!((&added["type"], &added["object"]), (&json!("ADDED"), &made));
    let modified = next(&mut events).await.unwrap();
    assert_eq!((&modified["type"], &modified["object"]), (&json!("MODIFIED"), &changed));
    // Even a pod that goes at once is asked to end first.
    let ending = next(&mut events).await.unwrap();
    assert_eq!(
        (&ending["type"], &ending["object"]["metadata"]["deletionGracePeriodSeconds"]),
        (&json!("MODIFIED"), &json!(0))
    );
    let deleted = next(&mut events).await.unwrap();
    assert_eq!((&deleted["type"], &deleted["object"]["metadata"]["name"]), (&json!("DELETED"), &json!("new")));
    assert_eq!((&deleted["object"]["kind"], &deleted["object"]["apiVersion"]), (&json!("Pod"), &json!("v1")));
    assert!(version(&deleted["object"]) > version(&ending["object"]), "a deletion has a version of its own");
}

pub(crate) async fn a_watch_from_an_earlier_version_catches_up(at: Endpoint) {
    let pods = pods_with(&at, "earlier", &["a"]).await;
    let then = version(&at.get(&pods).await.body);
    at.post(&pods, &pod("b", "web")).await;
    at.delete(&format!("{pods}/a")).await;
    let mut events = at.watch(&format!("{pods}?watch=1&resourceVersion={then}")).await;
    for wanted in ["ADDED b", "MODIFIED a", "DELETED a"] {
        assert_eq!(next_name(&mut events).await, wanted);
    }
}

pub(crate) async fn a_watch_without_version_begins_with_what_is_there(at: Endpoint) {
    let pods = pods_with(&at, "any", &["a", "b"]).await;
    for query in ["", "&resourceVersion=0"] {
        let mut events = at.watch(&format!("{pods}?watch=true{query}")).await;
        let mut names = [next_name(&mut events).await, next_name(&mut events).await];
        names.sort_unstable();
        assert_eq!(names, ["ADDED a", "ADDED b"]);
        let app = format!("app-{}", query.len());
        label(&at, &format!("{pods}/a"), &app).await;
        assert_eq!(next_name(&mut events).await, "MODIFIED a");
    }
}

pub(crate) async fn a_selected_watch_delivers_objects_that_come_and_go(at: Endpoint) {
    let pods = pods_with(&at, "selected", &["a"]).await;
    let mut events = watch_from_now(&at, &pods, "&labelSelector=app%3Dapi").await;
    label(&at, &format!("{pods}/a"), "api").await;
    let gone = label(&at, &format!("{pods}/a"), "web").await;
    label(&at, &format!("{pods}/a"), "other").await;
    label(&at, &format!("{pods}/a"), "api").await;
    assert_eq!(next_name(&mut events).await, "ADDED a");
    let deleted = next(&mut events).await.unwrap();
    assert_eq!(deleted["type"], "DELETED");
    // As it was when it was last selected, at the version of the change.
    assert_eq!(deleted["object"]["metadata"]["labels"]["app"], "api");
    assert_eq!(version(&deleted["object"]), version(&gone));
    assert_eq!(next_name(&mut events).await, "ADDED a");
    let mut fields = watch_from_now(&at, &pods, "&fieldSelector=spec.nodeName%3Dnode-1").await;
    let mut bound = pod("bound", "web");
    bound["spec"]["nodeName"] = "node-1".into();
    at.post(&pods, &pod("loose", "web")).await;
    at.post(&pods, &bound).await;
    assert_eq!(next_name(&mut fields).await, "ADDED bound");
}

pub(crate) async fn a_watch_ends_at_its_time_limit(at: Endpoint) {
    let pods = pods_with(&at, "limit", &["a"]).await;
    let mut events = watch_from_now(&at, &pods, "&timeoutSeconds=1").await;
    assert_eq!(next(&mut events).await, None);
}

/// One that gets no event, while its kind changes: where that is quiet too,
/// servers before 1.24 may have nothing to say, and only the end is certain.
pub(crate) async fn a_quiet_watch_gets_a_bookmark_before_it_ends(at: Endpoint) {
    let pods = pods_with(&at, "quiet", &["a"]).await;
    let query = "&labelSelector=app%3Dnone&timeoutSeconds=5";
    let mut events = watch_from_now(&at, &pods, &format!("{query}&allowWatchBookmarks=true")).await;
    let mut without = watch_from_now(&at, &pods, query).await;
    let changed = label(&at, &format!("{pods}/a"), "api").await;
    let bookmark = next(&mut events).await.unwrap();
    assert_eq!((&bookmark["type"], &bookmark["object"]["kind"]), (&json!("BOOKMARK"), &json!("Pod")));
    assert!(version(&bookmark["object"]) >= version(&changed));
    assert_eq!(next(&mut events).await, None);
    assert_eq!(next(&mut without).await, None);
}

pub(crate) async fn a_watch_that_has_expired_says_so(at: Endpoint) {
    let pods = pods_with(&at, "expired", &["a"]).await;
    let then = version(&at.get(&pods).await.body);
    label(&at, &format!("{pods}/a"), "api").await;
    at.forget().await;
    let mut events = at.watch(&format!("{pods}?watch=true&resourceVersion={then}")).await;
    let error = next(&mut events).await.unwrap();
    assert_eq!(error["type"], "ERROR");
    let status = &error["object"];
    assert_eq!(
        (&status["kind"], &status["code"], &status["reason"]),
        (&json!("Status"), &json!(410), &json!("Expired"))
    );
    assert!(status["message"].as_str().unwrap().starts_with(&format!("too old resource version: {then} (")));
    assert_eq!(next(&mut events).await, None);
}

/// The names of a namespace's pods as a watcher of kube sees them at the end of
/// each of its reads.
async fn follow(
    at: &Endpoint,
    namespace: &str,
    config: watcher::Config,
    until: impl Fn(&BTreeMap<String, String>) -> bool,
) {
    let api: Api<Pod> = Api::namespaced(at.client.clone(), namespace);
    let mut events = watcher(api, config).boxed();
    let mut seen = BTreeMap::new();
    let entry = |pod: Pod| (pod.metadata.name.unwrap(), pod.metadata.labels.unwrap()["app"].clone());
    let follow = async {
        while let Some(event) = events.try_next().await.unwrap() {
            match event {
                Event::Init => seen.clear(),
                Event::InitApply(pod) | Event::Apply(pod) => seen.extend([entry(pod)]),
                Event::Delete(pod) => drop(seen.remove(&entry(pod).0)),
                Event::InitDone => {}
            }
            if until(&seen) {
                return;
            }
        }
    };
    tokio::time::timeout(std::time::Duration::from_secs(30), follow).await.expect("kube's watcher does not see it");
}

async fn kube_follows(at: &Endpoint, namespace: &str, config: watcher::Config) {
    let pods = pods_with(at, namespace, &["a", "b", "c", "d", "e"]).await;
    let change = async {
        label(at, &format!("{pods}/b"), "api").await;
        at.delete(&format!("{pods}/a")).await;
        at.post(&pods, &pod("f", "web")).await;
    };
    let wanted = BTreeMap::from([("b", "api"), ("c", "web"), ("d", "web"), ("e", "web"), ("f", "web")]);
    let wanted: BTreeMap<String, String> =
        wanted.into_iter().map(|(name, app)| (name.to_owned(), app.to_owned())).collect();
    tokio::join!(follow(at, namespace, config, |seen| *seen == wanted), change);
}

pub(crate) async fn kube_lists_in_pages_and_watches(at: Endpoint) {
    kube_follows(&at, "list-watch", watcher::Config::default().page_size(2)).await;
}

pub(crate) async fn streaming_lists_end_with_a_bookmark_or_are_refused(at: Endpoint) {
    let pods = pods_with(&at, "streaming", &["a", "b"]).await;
    let query = "watch=true&sendInitialEvents=true&resourceVersionMatch=NotOlderThan&allowWatchBookmarks=true";
    // Beta and on by default since 1.32; before 1.27 servers did not know it.
    if at.minor().await < 32 {
        let refused = at.get(&format!("{pods}?{query}")).await;
        assert_eq!((refused.code, &refused.body["reason"]), (422, &json!("Invalid")), "{refused:?}");
        return;
    }
    let mut events = at.watch(&format!("{pods}?{query}")).await;
    assert_eq!([next_name(&mut events).await, next_name(&mut events).await], ["ADDED a", "ADDED b"]);
    let end = next(&mut events).await.unwrap();
    assert_eq!((&end["type"], &end["object"]["kind"]), (&json!("BOOKMARK"), &json!("Pod")));
    assert_eq!(end["object"]["metadata"]["annotations"]["k8s.io/initial-events-end"], "true");
    let made = at.post(&pods, &pod("c", "web")).await.body;
    assert!(version(&end["object"]) < version(&made));
    assert_eq!(next_name(&mut events).await, "ADDED c");
    for wrong in ["sendInitialEvents=true", "resourceVersionMatch=NotOlderThan"] {
        let refused = at.get(&format!("{pods}?watch=true&{wrong}")).await;
        assert_eq!((refused.code, &refused.body["reason"]), (422, &json!("Invalid")), "{wrong}");
    }
    kube_follows(&at, "kube-streaming", watcher::Config::default().streaming_lists()).await;
}
