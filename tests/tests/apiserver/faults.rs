//! Faults on demand, as kube's own watcher meets them.

use std::collections::BTreeSet;
use std::time::Duration;

use futures::stream::BoxStream;
use futures::{FutureExt as _, StreamExt as _};
use k8s_openapi::api::core::v1::Pod;
use kube::runtime::WatchStreamExt as _;
use kube::runtime::watcher::{self, Event, watcher};
use kube::{Api, Client};
use npc_tests::apiserver::{Disturbance, Fault, Resource, Server, Verb};
use serde_json::{Value, json};

use super::endpoint::config;

fn pod(name: &str) -> Value {
    json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"namespace": "shop", "name": name}})
}

fn server(pods: &[&str]) -> Server {
    let server = Server::start().unwrap();
    for name in pods {
        server.put(&pod(name));
    }
    server
}

/// kube's watcher of all pods, and the names that it knows of.
struct Follower {
    events: BoxStream<'static, watcher::Result<Event<Pod>>>,
    names: BTreeSet<String>,
    synced: usize,
    errors: Vec<String>,
}

impl Follower {
    fn new(server: &Server, config: watcher::Config) -> Self {
        let api: Api<Pod> = Api::all(client(server));
        // As default_backoff, without the second that it begins with.
        let events = watcher(api, config).default_backoff().boxed();
        Self { events, names: BTreeSet::new(), synced: 0, errors: Vec::new() }
    }

    async fn step(&mut self) {
        let name = |pod: Pod| pod.metadata.name.unwrap();
        match self.events.next().await.unwrap() {
            Ok(Event::Init) => self.names.clear(),
            Ok(Event::InitApply(pod) | Event::Apply(pod)) => drop(self.names.insert(name(pod))),
            Ok(Event::Delete(pod)) => drop(self.names.remove(&name(pod))),
            Ok(Event::InitDone) => self.synced += 1,
            Err(error) => self.errors.push(error.to_string()),
        }
    }

    async fn until(&mut self, what: &str, is_so: impl Fn(&Self) -> bool) {
        let steps = async {
            while !is_so(self) {
                self.step().await;
            }
        };
        let in_time = tokio::time::timeout(Duration::from_secs(60), steps).await;
        assert!(in_time.is_ok(), "not so: {what}; {:?} {:?}", self.names, self.errors);
    }

    async fn until_names(&mut self, names: &[&str]) {
        let names: BTreeSet<String> = names.iter().map(|name| (*name).to_owned()).collect();
        let what = format!("{names:?}");
        self.until(&what, |follower| follower.synced > 0 && follower.names == names).await;
    }

    /// Follows while something else is awaited.
    async fn meanwhile<T>(&mut self, other: impl Future<Output = T>) -> T {
        let steps = async {
            loop {
                self.step().await;
            }
        };
        tokio::select! {
            done = other => done,
            () = steps => unreachable!("a follower has no end"),
        }
    }

    async fn until_error(&mut self, part: &str) {
        self.until(part, |follower| follower.errors.iter().any(|error| error.contains(part))).await;
    }
}

fn client(server: &Server) -> Client {
    Client::try_from(config(&format!("http://{}", server.address()))).unwrap()
}

/// With the time limit of five seconds, so that hung watches are noticed soon.
fn list_watch() -> watcher::Config {
    watcher::Config::default().timeout(5)
}

fn streaming() -> watcher::Config {
    list_watch().streaming_lists()
}

#[tokio::test]
async fn an_old_server_refuses_streaming_lists() {
    let server = server(&["a"]);
    let fault = server.inject(Fault::no_streaming_lists());
    let mut follower = Follower::new(&server, streaming());
    follower.until_error("sendInitialEvents").await;
    assert!(fault.met() > 0);
    Follower::new(&server, list_watch()).until_names(&["a"]).await;
}

#[tokio::test]
async fn too_many_requests_say_when_to_come_back() {
    let server = server(&["a"]);
    let fault = server.inject(Fault::too_many_requests(1).verbs(&[Verb::List]).times(2));
    let answer = super::endpoint::Endpoint::of(server);
    let refused = answer.get("/api/v1/pods").await;
    assert_eq!((refused.code, refused.retry_after.as_deref()), (429, Some("1")));
    assert_eq!(refused.body["details"]["retryAfterSeconds"], 1);
    assert_eq!(answer.get("/api/v1/nodes").await.code, 429);
    assert_eq!(answer.get("/api/v1/pods").await.code, 200);
    assert_eq!(fault.met(), 2);
}

#[tokio::test]
async fn errors_at_random_only_delay() {
    let server = server(&["a", "b", "c"]);
    server.inject(Fault::internal_error().one_in(2, 7));
    let mut follower = Follower::new(&server, list_watch().page_size(1));
    follower.until_names(&["a", "b", "c"]).await;
    assert!(server.requests().iter().any(|request| request.code == Some(500)));
}

#[tokio::test]
async fn an_expired_watch_is_listed_anew_and_a_page_too() {
    let server = server(&["a", "b"]);
    let mut follower = Follower::new(&server, list_watch().page_size(1));
    follower.until_names(&["a", "b"]).await;
    server.inject(Fault::expired().verbs(&[Verb::Watch]).times(1));
    server.inject(Fault::expired().verbs(&[Verb::Page]).times(1));
    follower.until("an error 410", |follower| !follower.errors.is_empty()).await;
    follower.until("another sync", |follower| follower.synced == 2).await;
    assert!(follower.errors.iter().any(|error| error.contains("too old resource version")), "{:?}", follower.errors);
    assert!(follower.errors.iter().any(|error| error.contains("too old.")), "{:?}", follower.errors);
}

#[tokio::test]
async fn an_open_watch_can_expire() {
    let server = server(&["a"]);
    let mut follower = Follower::new(&server, streaming());
    follower.until_names(&["a"]).await;
    assert_eq!(server.disturb(Some(Resource::Pods), Disturbance::Expire), 1);
    follower.until("another sync", |follower| follower.synced == 2).await;
    assert_eq!(server.full_reads(Resource::Pods), 2);
}

#[tokio::test]
async fn a_watch_that_ends_or_breaks_goes_on_where_it_was() {
    for disturbance in [Disturbance::End, Disturbance::Break, Disturbance::BreakInLine] {
        let server = server(&["a"]);
        let mut follower = Follower::new(&server, streaming());
        follower.until_names(&["a"]).await;
        server.disturb(None, disturbance);
        server.put(&pod("b"));
        server.put(&pod("c"));
        server.delete(Resource::Pods, "shop", "a");
        follower.until_names(&["b", "c"]).await;
        assert_eq!((follower.synced, server.full_reads(Resource::Pods)), (1, 1), "{disturbance:?}");
        assert!(server.count(Resource::Pods, Verb::Watch) >= 1, "{disturbance:?}");
    }
}

#[tokio::test]
async fn a_hung_watch_sends_nothing_and_does_not_end() {
    let server = server(&["a"]);
    let mut follower = Follower::new(&server, streaming());
    follower.until_names(&["a"]).await;
    server.disturb(None, Disturbance::Hang);
    server.put(&pod("b"));
    tokio::task::yield_now().await;
    assert!(follower.step().now_or_never().is_none());
    assert_eq!(server.watches(Resource::Pods), 1);
    // The watcher gives up by itself, five seconds after the limit.
    follower.until_names(&["a", "b"]).await;
    let fault = server.inject(Fault::hung_watch().times(1));
    server.disturb(None, Disturbance::End);
    server.put(&pod("c"));
    follower.until_names(&["a", "b", "c"]).await;
    assert_eq!(fault.met(), 1);
}

#[tokio::test]
async fn a_held_list_is_answered_when_the_fault_is_lifted() {
    let server = server(&["a"]);
    let fault = server.inject(Fault::held().verbs(&[Verb::List]));
    let mut follower = Follower::new(&server, list_watch());
    follower.meanwhile(server.until("the list has come", |_| fault.met() == 1)).await.unwrap();
    assert!(follower.names.is_empty());
    fault.lift();
    follower.until_names(&["a"]).await;
    let slow = server.inject(Fault::slow(Duration::from_millis(20)).verbs(&[Verb::Watch]).times(1));
    server.disturb(None, Disturbance::End);
    server.put(&pod("b"));
    follower.until_names(&["a", "b"]).await;
    assert_eq!(slow.met(), 1);
}

#[tokio::test]
async fn a_stopped_server_refuses_connections_and_comes_back_where_it_was() {
    let server = server(&["a"]);
    let mut follower = Follower::new(&server, streaming());
    follower.until_names(&["a"]).await;
    let (address, version) = (server.address(), server.version());
    server.stop();
    follower.until_error("").await;
    assert!(std::net::TcpStream::connect(address).is_err());
    server.put(&pod("b"));
    server.restart().unwrap();
    assert_eq!((server.address(), server.version()), (address, version + 1));
    follower.until_names(&["a", "b"]).await;
    assert_eq!(server.full_reads(Resource::Pods), 1, "it goes on from its version");
}

#[tokio::test]
async fn what_was_deleted_between_watches_is_gone_after_the_next_list() {
    let server = server(&["a", "b"]);
    let mut follower = Follower::new(&server, list_watch());
    follower.until_names(&["a", "b"]).await;
    server.stop();
    server.delete(Resource::Pods, "shop", "a");
    server.skip_versions(1000);
    server.compact();
    server.restart().unwrap();
    follower.until_names(&["b"]).await;
    assert_eq!(server.full_reads(Resource::Pods), 2);
}

#[tokio::test]
async fn bookmarks_come_and_can_be_withheld() {
    let server = server(&["a"]);
    server.set_bookmark_period(Duration::from_millis(10));
    let endpoint = super::endpoint::Endpoint::of(server);
    let path = "/api/v1/pods?watch=true&allowWatchBookmarks=true&resourceVersion=2";
    let bookmark = super::endpoint::next(&mut endpoint.watch(path).await).await.unwrap();
    assert_eq!(bookmark["type"], "BOOKMARK");
    assert_eq!(bookmark["object"]["metadata"], json!({"resourceVersion": "2"}));
    endpoint.server().inject(Fault::no_bookmarks());
    let mut events = endpoint.watch(path).await;
    endpoint.server().send_bookmarks();
    endpoint.server().put(&pod("b"));
    assert_eq!(super::endpoint::next_name(&mut events).await, "ADDED b");
    let streaming = format!("{path}&sendInitialEvents=true&resourceVersionMatch=NotOlderThan");
    let mut events = endpoint.watch(&streaming).await;
    for wanted in ["ADDED a", "ADDED b", "BOOKMARK -"] {
        assert_eq!(super::endpoint::next_name(&mut events).await, wanted);
    }
}

#[tokio::test]
async fn a_watch_from_the_last_bookmark_survives_a_compaction() {
    let server = server(&["a"]);
    let mut follower = Follower::new(&server, list_watch());
    follower.until_names(&["a"]).await;
    follower.meanwhile(server.until("a watch", |server| server.watches(Resource::Pods) == 1)).await.unwrap();
    server.put(&json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": "node-1"}}));
    server.compact();
    server.send_bookmarks();
    server.put(&pod("b"));
    follower.until_names(&["a", "b"]).await;
    server.disturb(None, Disturbance::End);
    server.put(&pod("c"));
    follower.until_names(&["a", "b", "c"]).await;
    assert_eq!(server.full_reads(Resource::Pods), 1);
}

#[tokio::test]
async fn a_list_or_initial_events_that_break_off_are_read_again() {
    let server = server(&["a", "b", "c"]);
    let torn = server.inject(Fault::torn().times(1));
    Follower::new(&server, list_watch()).until_names(&["a", "b", "c"]).await;
    assert_eq!((torn.met(), server.full_reads(Resource::Pods)), (1, 2));
    let broken = server.inject(Fault::broken_after(2).verbs(&[Verb::StreamingList]).times(1));
    let mut follower = Follower::new(&server, streaming());
    follower.until_names(&["a", "b", "c"]).await;
    assert_eq!((broken.met(), follower.synced, server.count(Resource::Pods, Verb::StreamingList)), (1, 1, 2));
}

#[tokio::test]
async fn one_resource_can_be_forbidden() {
    let endpoint = super::endpoint::Endpoint::of(server(&["a"]));
    endpoint.server().inject(Fault::forbidden().on(Resource::Pods));
    let refused = endpoint.get("/api/v1/pods").await;
    assert_eq!((refused.code, &refused.body["reason"]), (403, &json!("Forbidden")));
    assert_eq!(refused.body["details"], json!({"kind": "pods"}));
    assert_eq!(endpoint.get("/api/v1/nodes").await.code, 200);
    endpoint.server().lift_all();
    assert_eq!(endpoint.get("/api/v1/pods").await.code, 200);
}

#[tokio::test]
async fn a_kubeconfig_leads_to_the_server_and_names_the_token() {
    let server = server(&["a"]);
    let folder = tempfile::tempdir().unwrap();
    server.require_token(Some("first"));
    let file = server.write_kubeconfig(folder.path()).unwrap();
    let kubeconfig = kube::config::Kubeconfig::read_from(file).unwrap();
    let options = kube::config::KubeConfigOptions::default();
    let config = kube::Config::from_custom_kubeconfig(kubeconfig, &options).await.unwrap();
    let client = Client::try_from(config).unwrap();
    let pods: Api<Pod> = Api::all(client);
    assert_eq!(pods.list(&kube::api::ListParams::default()).await.unwrap().items.len(), 1);
    server.require_token(Some("second"));
    let refused = pods.list(&kube::api::ListParams::default()).await.unwrap_err();
    assert!(refused.to_string().contains("Unauthorized"), "{refused}");
}

#[tokio::test]
async fn the_server_can_be_asked_without_a_socket() {
    let server = Server::in_process();
    server.put(&pod("a"));
    let pods: Api<Pod> = Api::all(Client::new(server.router(), "default"));
    assert_eq!(pods.list(&kube::api::ListParams::default()).await.unwrap().items.len(), 1);
}

#[test]
fn a_store_is_replaced_by_as_few_writes_as_differ() {
    let server = server(&["a", "b", "c"]);
    let version = server.version();
    let mut changed = pod("b");
    changed["metadata"]["labels"] = json!({"app": "web"});
    let mut reborn = pod("c");
    reborn["metadata"]["uid"] = "another".into();
    let wanted = [pod("a"), changed, reborn];
    // A change, a deletion and a creation.
    assert_eq!(server.replace_all(&wanted), version + 3);
    assert_eq!(server.replace_all(&wanted), version + 3, "the same again is no write");
    assert_eq!(server.replace_all(&wanted[1..]), version + 4);
    let names: Vec<Value> = server.objects(Resource::Pods).iter().map(|pod| pod["metadata"]["name"].clone()).collect();
    assert_eq!(names, ["b", "c"]);
}
