//! What an agent serves over HTTP: `/metrics`, `/healthz` and `/readyz`, and
//! nothing else. No answer holds anything of the cluster's contents.
//!
//! Every pod reaches the port of `/metrics`, so that port has a thread of its own (`beside`), which must not hold
//! up the agent's others. It takes no lock of theirs, or only once for each change of the status.

mod beside;
mod connections;
mod text;

use std::io;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use axum::Router;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use tokio::net::TcpListener;
use tokio::runtime::Handle;
use tracing::info;

pub use self::beside::run_beside;
use self::connections::ConnectionLimits;
use self::text::SharedText;
use crate::metrics::{self, Metrics};
use crate::status::SharedStatus;
use crate::words::causes::with_causes;
use crate::words::rounded::rounded;

/// How long the agent's loop may be busy with one thing. A restore waits for
/// the lock much less long.
pub(crate) const BUSY: Duration = Duration::from_secs(300);

/// Whether the agent's loop is alive. All clones are one.
#[derive(Debug, Clone)]
pub struct Liveness {
    begun: Instant,
    /// Milliseconds from then to the last beat.
    last: Arc<AtomicU64>,
}

impl Default for Liveness {
    fn default() -> Self {
        Self { begun: Instant::now(), last: Arc::default() }
    }
}

impl Liveness {
    /// Notes that the loop is alive.
    pub fn beat(&self) {
        let since = u64::try_from(self.begun.elapsed().as_millis()).unwrap_or(u64::MAX);
        self.last.store(since, Ordering::Relaxed);
    }

    fn is_alive(&self) -> bool {
        let last = Duration::from_millis(self.last.load(Ordering::Relaxed));
        self.begun.elapsed().saturating_sub(last) < BUSY
    }
}

/// What a listener is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Purpose {
    /// `/metrics`, on an address that pods reach, and `/healthz` and `/readyz` with it.
    Metrics,
    /// `/healthz` and `/readyz` for kubelet, on an address that no pod reaches.
    Health,
}

impl Purpose {
    /// A scraper has one connection, or few.
    const fn limits(self) -> ConnectionLimits {
        match self {
            Self::Metrics => ConnectionLimits { connections: 64, of_one_address: 8 },
            Self::Health => ConnectionLimits { connections: 16, of_one_address: 16 },
        }
    }
}

/// What is served, of one agent.
#[derive(Debug, Clone)]
pub struct Served {
    /// What it counts.
    pub metrics: Metrics,
    /// What it knows of itself.
    pub status: SharedStatus,
    /// Whether its loop is alive.
    pub liveness: Liveness,
    /// Where it does its other work, and makes the text of `/metrics`.
    pub main: Handle,
}

impl Served {
    fn router(self, purpose: Purpose) -> Router {
        let Self { metrics, status, liveness, main } = self;
        let readiness = Arc::new(ReadinessCache::new(status.clone()));
        let router = Router::new()
            .route("/healthz", get(async move || health(&liveness)))
            .route("/readyz", get(async move || readiness.answer()));
        match purpose {
            Purpose::Metrics => {
                let text = Arc::new(SharedText::new(main, &metrics, status));
                router.merge(Router::new().route("/metrics", get(metrics_text)).with_state(text))
            }
            Purpose::Health => router,
        }
    }
}

/// Serves on an address until the process ends.
///
/// # Errors
/// If the kernel does not let the agent listen there.
pub async fn serve(purpose: Purpose, address: SocketAddr, served: Served) -> io::Result<()> {
    let listener = TcpListener::bind(address).await?;
    let address = listener.local_addr()?;
    match purpose {
        Purpose::Metrics => info!(%address, "serving /metrics, /healthz and /readyz"),
        Purpose::Health => info!(%address, "serving /healthz and /readyz"),
    }
    connections::accept(listener, served.router(purpose), purpose.limits()).await;
    Ok(())
}

async fn metrics_text(State(text): State<Arc<SharedText>>) -> Response {
    match text.now().await {
        Ok(text) => ([(header::CONTENT_TYPE, metrics::CONTENT_TYPE)], text).into_response(),
        Err(error) => (StatusCode::INTERNAL_SERVER_ERROR, format!("{}\n", with_causes(&error))).into_response(),
    }
}

fn health(liveness: &Liveness) -> Response {
    if liveness.is_alive() {
        "ok\n".into_response()
    } else {
        (StatusCode::INTERNAL_SERVER_ERROR, format!("the agent has done nothing for {}\n", rounded(BUSY)))
            .into_response()
    }
}

/// Whether the agent is ready. It locks the status once for each change, and not for each request: the agent's loop waits for
/// that lock, and clients may send requests without end.
#[derive(Debug)]
struct ReadinessCache {
    status: SharedStatus,
    /// How often the status had changed, and the answer.
    last: Mutex<Option<(u64, (StatusCode, String))>>,
}

impl ReadinessCache {
    fn new(status: SharedStatus) -> Self {
        Self { status, last: Mutex::default() }
    }

    fn answer(&self) -> (StatusCode, String) {
        let mut last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        let changes = self.status.changes();
        match &*last {
            Some((known, answer)) if *known == changes => answer.clone(),
            _ => {
                let reason = self.status.read(|status| {
                    let is_ready = status.synced.is_some() && status.ready;
                    (!is_ready).then(|| status.reason.clone().unwrap_or_else(|| "not yet in sync".to_owned()))
                });
                let answer = match reason {
                    None => (StatusCode::OK, "ok\n".to_owned()),
                    Some(reason) => (StatusCode::SERVICE_UNAVAILABLE, format!("{reason}\n")),
                };
                *last = Some((changes, answer.clone()));
                answer
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    use tokio::net::TcpStream;

    use super::*;
    use crate::status::AgentStatus;

    async fn ask(address: SocketAddr, path: &str) -> String {
        let mut stream = TcpStream::connect(address).await.expect("it listens");
        let request = format!("GET {path} HTTP/1.1\r\nHost: npc\r\nConnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).await.expect("it reads");
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.expect("it answers");
        answer
    }

    /// An agent's listener, which only this test asks.
    async fn listen(purpose: Purpose, status: &SharedStatus) -> SocketAddr {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = listener.local_addr().expect("it has one");
        accept(purpose, status, listener);
        address
    }

    fn accept(purpose: Purpose, status: &SharedStatus, listener: TcpListener) {
        let served = Served {
            metrics: Metrics::default(),
            status: status.clone(),
            liveness: Liveness::default(),
            main: Handle::current(),
        };
        tokio::spawn(connections::accept(listener, served.router(purpose), purpose.limits()));
    }

    #[tokio::test]
    async fn readiness_follows_the_status_and_nothing_else_is_served() {
        let status = SharedStatus::new(AgentStatus::new("node-1", "cluster"));
        let address = listen(Purpose::Metrics, &status).await;
        assert!(ask(address, "/readyz").await.starts_with("HTTP/1.1 503"));
        assert!(ask(address, "/healthz").await.starts_with("HTTP/1.1 200"));
        status.update(|status| {
            status.ready = true;
            status.synced = Some(status.started);
        });
        assert!(ask(address, "/readyz").await.starts_with("HTTP/1.1 200"));
        let metrics = ask(address, "/metrics").await;
        assert!(metrics.contains("openmetrics-text") && metrics.contains("npc_build_info{"), "{metrics}");
        for path in ["/", "/debug/pprof", "/status"] {
            assert!(ask(address, path).await.starts_with("HTTP/1.1 404"), "{path}");
        }
    }

    #[tokio::test]
    async fn the_listener_for_kubelet_has_no_metrics() {
        let status = SharedStatus::new(AgentStatus::new("node-1", "cluster"));
        let address = listen(Purpose::Health, &status).await;
        assert!(ask(address, "/healthz").await.starts_with("HTTP/1.1 200"));
        assert!(ask(address, "/readyz").await.starts_with("HTTP/1.1 503"));
        assert!(ask(address, "/metrics").await.starts_with("HTTP/1.1 404"));
    }

    #[tokio::test]
    async fn clients_that_finish_no_request_keep_no_other_from_an_answer() {
        let status = SharedStatus::new(AgentStatus::new("node-1", "cluster"));
        let address = listen(Purpose::Metrics, &status).await;
        let most = Purpose::Metrics.limits();
        let mut open = Vec::new();
        // Each from an address of its own, as pods have.
        for last in 2..250 {
            let socket = tokio::net::TcpSocket::new_v4().expect("a socket");
            socket.bind(SocketAddr::from(([127, 0, 0, last], 0))).expect("loopback");
            let mut stream = socket.connect(address).await.expect("it listens");
            let _ = stream.write_all(b"GET /metrics HTTP/1.1\r\nX-").await;
            open.push(stream);
        }
        for _ in 0..3 {
            assert!(ask(address, "/metrics").await.starts_with("HTTP/1.1 200"));
        }
        // The agent has closed all but the newest.
        let mut closed = 0;
        for stream in &mut open[..250 - 2 - most.connections] {
            closed += usize::from(matches!(stream.read(&mut [0]).await, Ok(0) | Err(_)));
        }
        assert_eq!(closed, 250 - 2 - most.connections);
    }

    #[tokio::test]
    async fn one_client_has_few_connections() {
        let status = SharedStatus::new(AgentStatus::new("node-1", "cluster"));
        let address = listen(Purpose::Metrics, &status).await;
        let most = Purpose::Metrics.limits().of_one_address;
        let mut open = Vec::new();
        for _ in 0..=most {
            let mut stream = TcpStream::connect(address).await.expect("it listens");
            stream.write_all(b"GET /metrics HTTP/1.1\r\nX-").await.expect("it reads");
            open.push(stream);
        }
        assert!(matches!(open[0].read(&mut [0]).await, Ok(0) | Err(_)), "the oldest makes room");
        assert!(ask(address, "/healthz").await.starts_with("HTTP/1.1 200"));
    }

    #[tokio::test]
    async fn a_whole_request_is_answered_however_many_come_behind_it_from_its_address() {
        let status = SharedStatus::new(AgentStatus::new("node-1", "cluster"));
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = listener.local_addr().expect("it has one");
        let mut asks = TcpStream::connect(address).await.expect("it listens");
        asks.write_all(b"GET /metrics HTTP/1.0\r\n\r\n").await.expect("it reads");
        let mut behind = Vec::new();
        for _ in 0..100 {
            let mut stream = TcpStream::connect(address).await.expect("it listens");
            stream.write_all(b"GET /metrics HTTP/1.0\r\nX-").await.expect("it reads");
            behind.push(stream);
        }
        // All of them wait before the first is accepted.
        accept(Purpose::Metrics, &status, listener);
        let mut answer = String::new();
        asks.read_to_string(&mut answer).await.expect("it answers");
        assert!(answer.starts_with("HTTP/1.0 200") && answer.ends_with("# EOF\n"), "{answer}");
    }

    #[tokio::test(start_paused = true)]
    async fn requests_of_one_connection_are_answered_one_in_a_while() {
        let status = SharedStatus::new(AgentStatus::new("node-1", "cluster"));
        let address = listen(Purpose::Metrics, &status).await;
        let mut stream = TcpStream::connect(address).await.expect("it listens");
        let begun = tokio::time::Instant::now();
        let requests = "GET /healthz HTTP/1.1\r\nHost: npc\r\n\r\n".repeat(20)
            + "GET /healthz HTTP/1.1\r\nHost: npc\r\nConnection: close\r\n\r\n";
        stream.write_all(requests.as_bytes()).await.expect("it reads");
        let mut answers = String::new();
        stream.read_to_string(&mut answers).await.expect("it answers");
        assert_eq!(answers.matches("HTTP/1.1 200").count(), 21);
        assert!(begun.elapsed() >= Duration::from_secs(2), "{:?}", begun.elapsed());
    }

    #[tokio::test(start_paused = true)]
    async fn an_unfinished_request_is_given_up() {
        let status = SharedStatus::new(AgentStatus::new("node-1", "cluster"));
        let address = listen(Purpose::Metrics, &status).await;
        let mut stream = TcpStream::connect(address).await.expect("it listens");
        stream.write_all(b"GET /metrics HTTP/1.1\r\nX-").await.expect("it reads");
        let mut rest = Vec::new();
        stream.read_to_end(&mut rest).await.expect("it is closed");
    }
}
