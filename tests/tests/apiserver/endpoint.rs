//! An API server under test: the lab's own or a real kube-apiserver.

use std::sync::Arc;
use std::time::Duration;

use axum::http::{Method, Request};
use futures::io::AsyncBufReadExt as _;
use futures::stream::{BoxStream, StreamExt as _};
use kube::client::Body;
use kube::{Client, Config};
use npc_tests::apiserver::Server;
use serde_json::{Value, json};

use super::real::Real;

/// How long an answer may take before the test gives up.
const PATIENCE: Duration = Duration::from_secs(30);

/// An API server.
pub(crate) struct Endpoint {
    kind: Kind,
    /// A client that does not try again by itself.
    pub(crate) client: Client,
}

enum Kind {
    Ours(Server),
    Real(Arc<Real>),
}

/// A configuration of a client that reports every failure.
pub(crate) fn config(url: &str) -> Config {
    let mut config = Config::new(url.parse().unwrap());
    config.default_retry = false;
    config
}

/// What a server answered.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) code: u16,
    pub(crate) media_type: String,
    pub(crate) retry_after: Option<String>,
    pub(crate) body: Value,
}

/// The objects that a watch sends.
pub(crate) type Events = BoxStream<'static, Value>;

impl Endpoint {
    pub(crate) fn ours() -> Self {
        Self::of(Server::start().unwrap())
    }

    pub(crate) fn of(server: Server) -> Self {
        let client = Client::try_from(config(&format!("http://{}", server.address()))).unwrap();
        Self { kind: Kind::Ours(server), client }
    }

    pub(crate) fn real(real: Arc<Real>) -> Self {
        Self { client: Client::try_from(real.config()).unwrap(), kind: Kind::Real(real) }
    }

    /// The test server.
    pub(crate) fn server(&self) -> &Server {
        match &self.kind {
            Kind::Ours(server) => server,
            Kind::Real(_) => panic!("a real server has no faults on demand"),
        }
    }

    /// The minor version that the server behaves as.
    pub(crate) async fn minor(&self) -> u32 {
        let digits: String = self.get("/version").await.body["minor"].as_str().unwrap().to_owned();
        digits.trim_end_matches('+').parse().unwrap()
    }

    /// Has watches from before now expire.
    pub(crate) async fn forget(&self) {
        match &self.kind {
            Kind::Ours(server) => server.compact(),
            // Its cache of changes begins anew.
            Kind::Real(real) => real.restart(&self.client).await,
        }
    }

    /// A client with a token that the server does not know.
    pub(crate) fn client_with_unknown_token(&self) -> Client {
        let mut config = match &self.kind {
            Kind::Ours(server) => {
                server.require_token(Some("right"));
                config(&format!("http://{}", server.address()))
            }
            Kind::Real(real) => real.config(),
        };
        config.auth_info.token = Some("wrong".to_owned().into());
        Client::try_from(config).unwrap()
    }

    pub(crate) async fn ask(&self, method: Method, path: &str, media_type: &str, body: &Value) -> Answer {
        let body = if body.is_null() { Vec::new() } else { body.to_string().into_bytes() };
        let request = Request::builder().method(method).uri(path).header("content-type", media_type);
        let answer = self.client.send(request.body(Body::from(body)).unwrap()).await.unwrap();
        let (parts, body) = answer.into_parts();
        let header = |name: &str| parts.headers.get(name).map(|value| value.to_str().unwrap().to_owned());
        let (media_type, retry_after) = (header("content-type").unwrap_or_default(), header("retry-after"));
        let bytes = body.collect_bytes().await.unwrap();
        let body = serde_json::from_slice(&bytes).unwrap_or_else(|_| String::from_utf8_lossy(&bytes).into());
        Answer { code: parts.status.as_u16(), media_type, retry_after, body }
    }

    pub(crate) async fn get(&self, path: &str) -> Answer {
        self.ask(Method::GET, path, "application/json", &Value::Null).await
    }

    pub(crate) async fn post(&self, path: &str, body: &Value) -> Answer {
        self.ask(Method::POST, path, "application/json", body).await
    }

    pub(crate) async fn put(&self, path: &str, body: &Value) -> Answer {
        self.ask(Method::PUT, path, "application/json", body).await
    }

    pub(crate) async fn merge(&self, path: &str, body: &Value) -> Answer {
        self.ask(Method::PATCH, path, "application/merge-patch+json", body).await
    }

    /// Deletes at once.
    pub(crate) async fn delete(&self, path: &str) -> Answer {
        self.ask(Method::DELETE, path, "application/json", &json!({"gracePeriodSeconds": 0})).await
    }

    /// Begins a watch.
    pub(crate) async fn watch(&self, path: &str) -> Events {
        let request = Request::get(path).body(Vec::new()).unwrap();
        let lines = self.client.request_stream(request).await.unwrap().lines();
        lines.map(|line| serde_json::from_str(&line.unwrap()).unwrap()).boxed()
    }

    /// Makes a namespace; answers the path of its collection of a resource.
    pub(crate) async fn namespace(&self, name: &str) -> String {
        let made = self.post("/api/v1/namespaces", &json!({"metadata": {"name": name}})).await;
        assert_eq!(made.code, 201, "{made:?}");
        format!("/api/v1/namespaces/{name}")
    }
}

/// The next event of a watch; `None` at its end.
pub(crate) async fn next(events: &mut Events) -> Option<Value> {
    tokio::time::timeout(PATIENCE, events.next()).await.expect("the watch says nothing")
}

/// An event's type and its object's name, as in `ADDED web`.
pub(crate) async fn next_name(events: &mut Events) -> String {
    let event = next(events).await.expect("the watch has ended");
    format!("{} {}", event["type"].as_str().unwrap(), event["object"]["metadata"]["name"].as_str().unwrap_or("-"))
}

/// A pod that a real server accepts.
pub(crate) fn pod(name: &str, app: &str) -> Value {
    json!({
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": name, "labels": {"app": app}},
        "spec": {"containers": [{"name": "main", "image": "none"}]},
    })
}

/// Its version, as a number.
pub(crate) fn version(object: &Value) -> u64 {
    object["metadata"]["resourceVersion"].as_str().unwrap().parse().unwrap()
}
