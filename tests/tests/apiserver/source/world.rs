//! A source that follows a scripted API server, and what it reported.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use http::{Request, Response};
use kube::Client;
use kube::client::Body;
use npc_agent::metrics::Metrics;
use npc_agent::source::{Changes, kube as source};
use npc_compiler::engine::Event;
use npc_tests::apiserver::{Resource, Server};
use serde_json::{Value, json};
use tokio::sync::{Notify, mpsc};
use tokio::time::{Instant, sleep, timeout};
use tower::{ServiceExt as _, service_fn};

pub(crate) const NODE: &str = "node-1";

/// What an agent watches.
pub(crate) const WATCHED: [Resource; 4] =
    [Resource::Pods, Resource::Namespaces, Resource::NetworkPolicies, Resource::Nodes];

/// More requests than any test allows. The network takes no more, so that the clock
/// runs on for a source that never waits.
const MOST: usize = 3000;

/// The objects that the source has reported and not withdrawn.
#[derive(Debug, Default, Clone)]
pub(crate) struct Seen {
    pub(crate) pods: BTreeSet<String>,
    pub(crate) policies: BTreeSet<String>,
    pub(crate) namespaces: BTreeSet<String>,
    /// The labels of pods, by their UIDs.
    pub(crate) labels: BTreeMap<String, BTreeMap<String, String>>,
    /// How often each policy was reported.
    pub(crate) reports: BTreeMap<String, usize>,
    /// The policies whose rules are left out, with why.
    pub(crate) restricted: BTreeMap<String, String>,
    pub(crate) is_node: Option<bool>,
    /// Everything was reported once.
    pub(crate) is_complete: bool,
}

impl Seen {
    fn take(&mut self, changes: Changes) {
        for change in changes.changes {
            if let Some(policy) = change.event.changed_policy() {
                let name = policy.name().to_owned();
                self.restricted.remove(&name);
                self.restricted.extend(policy.restriction.clone().map(|why| (name.clone(), why)));
                *self.reports.entry(name.clone()).or_default() += 1;
                self.policies.insert(name);
            }
            match change.event {
                Event::Pod(pod) => {
                    self.pods.insert(pod.uid.clone());
                    self.labels.insert(pod.uid, pod.labels);
                }
                Event::PodGone(key) => {
                    let gone = format!("{key:?}");
                    self.pods.retain(|uid| !gone.contains(&format!("{uid:?}")));
                }
                Event::PolicyGone(_, name) => {
                    self.restricted.remove(&name);
                    self.policies.remove(&name);
                }
                Event::Namespace(namespace) => drop(self.namespaces.insert(namespace.name)),
                Event::NamespaceGone(name) => drop(self.namespaces.remove(&name)),
                Event::Policy(_) | Event::PackedPolicy(_) | Event::Node(_) | Event::NodeGone(_) => {}
            }
        }
        self.is_node = changes.own_node.map(|node| node.is_named()).or(self.is_node);
        self.is_complete |= !changes.is_part;
    }
}

/// The network between a source and its API server.
#[derive(Debug, Default)]
struct Network {
    /// It refuses connections.
    is_down: AtomicBool,
    clients: AtomicUsize,
    requests: Mutex<Vec<Instant>>,
}

pub(crate) struct World {
    pub(crate) server: Arc<Server>,
    pub(crate) metrics: Metrics,
    network: Arc<Network>,
    seen: Arc<Mutex<Seen>>,
    news: Arc<Notify>,
}

fn client(server: &Server, network: &Arc<Network>) -> Client {
    network.clients.fetch_add(1, Ordering::Relaxed);
    let (router, network) = (server.router(), Arc::clone(network));
    let service = service_fn(move |request: Request<Body>| {
        let (router, network) = (router.clone(), Arc::clone(&network));
        async move {
            let count = {
                let mut requests = network.requests.lock().unwrap();
                requests.push(Instant::now());
                requests.len()
            };
            if count > MOST {
                std::future::pending::<()>().await;
            }
            if network.is_down.load(Ordering::Relaxed) {
                return Err(io::Error::from(io::ErrorKind::ConnectionRefused));
            }
            let response: Response<axum::body::Body> = match router.oneshot(request).await {
                Ok(response) => response,
                Err(never) => match never {},
            };
            Ok(response)
        }
    });
    Client::new(service, "default")
}

impl World {
    /// A cluster of one node, with a policy and some pods.
    pub(crate) fn server(pods: usize) -> Server {
        let server = Server::in_process();
        server.put(&json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": NODE}}));
        for (name, uid) in [("kube-system", "the-cluster"), ("shop", "shop")] {
            server.put(&json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name, "uid": uid}}));
        }
        server.put(&policy("deny"));
        for number in 1..=pods {
            server.put(&pod(number));
        }
        server
    }

    pub(crate) fn follow(server: Server) -> Self {
        Self::follow_as(server, |settings| settings)
    }

    pub(crate) fn follow_as(
        server: Server,
        settings: impl FnOnce(source::FollowSettings) -> source::FollowSettings,
    ) -> Self {
        let (server, network) = (Arc::new(server), Arc::new(Network::default()));
        let metrics = Metrics::default();
        let (sender, mut receiver) = mpsc::channel::<Changes>(4);
        let connector = {
            let (server, network) = (Arc::clone(&server), Arc::clone(&network));
            source::Connector::new(move || Ok(client(&server, &network)))
        };
        let settings = settings(source::FollowSettings::new(NODE));
        tokio::spawn(source::follow(connector, settings, sender, |changes| changes, metrics.watches()));
        let (seen, news) = (Arc::new(Mutex::new(Seen::default())), Arc::new(Notify::new()));
        let world = Self { server, metrics, network, seen: Arc::clone(&seen), news: Arc::clone(&news) };
        tokio::spawn(async move {
            while let Some(changes) = receiver.recv().await {
                seen.lock().unwrap().take(changes);
                news.notify_waiters();
            }
        });
        world
    }

    /// The source has reported everything, and has a watch open of each kind.
    pub(crate) async fn in_sync(&self) {
        self.until("the source is in sync", |seen| seen.is_complete).await;
        let open = |server: &Server| WATCHED.iter().all(|kind| server.watches(*kind) == 1);
        self.server.until("all watches are open", open).await.unwrap();
    }

    pub(crate) fn seen(&self) -> Seen {
        self.seen.lock().unwrap().clone()
    }

    pub(crate) async fn until(&self, what: &str, is_so: impl Fn(&Seen) -> bool) {
        let wait = async {
            loop {
                let news = self.news.notified();
                if is_so(&self.seen.lock().unwrap()) {
                    return;
                }
                news.await;
            }
        };
        let in_time = timeout(Duration::from_secs(900), wait).await;
        assert!(in_time.is_ok(), "not so: {what}\n{:?}", self.seen());
    }

    /// How many requests came in so many seconds from now on.
    pub(crate) async fn requests_in(&self, seconds: u64) -> usize {
        let before = self.requests().len();
        sleep(Duration::from_secs(seconds)).await;
        self.requests().len() - before
    }

    /// When each request came.
    pub(crate) fn requests(&self) -> Vec<Instant> {
        self.network.requests.lock().unwrap().clone()
    }

    /// How many clients were made; each has connections of its own.
    pub(crate) fn clients(&self) -> usize {
        self.network.clients.load(Ordering::Relaxed)
    }

    /// Nothing reaches the API server any more, and its watches break.
    pub(crate) fn disconnect(&self) {
        self.network.is_down.store(true, Ordering::Relaxed);
        self.server.disturb(None, npc_tests::apiserver::Disturbance::Break);
    }

    pub(crate) fn reconnect(&self) {
        self.network.is_down.store(false, Ordering::Relaxed);
    }

    /// Waits until a metric has a value.
    pub(crate) async fn until_metric(&self, what: &str, name: &str, value: f64) {
        let wait = async {
            while (self.metric(name) - value).abs() > 0.1 {
                sleep(Duration::from_millis(100)).await;
            }
        };
        let in_time = timeout(Duration::from_secs(900), wait).await;
        assert!(in_time.is_ok(), "not so: {what}: {name} is {}", self.metric(name));
    }

    /// A metric's value, all labels added up.
    pub(crate) fn metric(&self, name: &str) -> f64 {
        let text = Metrics::text(&self.metrics.registry()).unwrap();
        let lines = text.lines().filter(|line| line.split(['{', ' ']).next() == Some(name));
        lines.filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok()).sum()
    }
}

pub(crate) fn policy(name: &str) -> Value {
    json!({
        "apiVersion": "networking.k8s.io/v1", "kind": "NetworkPolicy",
        "metadata": {"namespace": "shop", "name": name}, "spec": {"podSelector": {}},
    })
}

/// A pod on another node, by its number.
pub(crate) fn pod(number: usize) -> Value {
    json!({
        "apiVersion": "v1", "kind": "Pod",
        "metadata": {"namespace": "shop", "name": format!("pod-{number}"), "uid": format!("uid-{number}")},
        "spec": {"nodeName": "elsewhere", "containers": []},
        "status": {"phase": "Running", "podIP": address(number), "podIPs": [{"ip": address(number)}]},
    })
}

pub(crate) fn address(number: usize) -> String {
    format!("10.1.{}.{}", number / 250, number % 250 + 1)
}
