//! What an agent serves over HTTP: `/metrics`, `/healthz` and `/readyz`, and
//! nothing else. No answer holds anything of the cluster's contents.

mod connections;

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use axum::Router;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use prometheus_client::registry::Registry;
use tokio::net::TcpListener;
use tracing::info;

use crate::metrics::{self, Metrics, Packets};
use crate::status::SharedStatus;
use crate::words::rounded::rounded;
use connections::Limits;

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
    /// The loop is alive.
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
    const fn limits(self) -> Limits {
        match self {
            Self::Metrics => Limits { connections: 64, of_one_address: 8 },
            Self::Health => Limits { connections: 16, of_one_address: 16 },
        }
    }
}

/// Serves on an address until the process ends.
///
/// # Errors
/// If the kernel does not let the agent listen there.
pub async fn serve(
    purpose: Purpose,
    address: SocketAddr,
    metrics: &Metrics,
    status: SharedStatus,
    liveness: Liveness,
) -> io::Result<()> {
    let listener = TcpListener::bind(address).await?;
    let address = listener.local_addr()?;
    let health = health_router(status, liveness);
    let router = match purpose {
        Purpose::Metrics => {
            info!(%address, "serving /metrics, /healthz and /readyz");
            health.merge(metrics_router(metrics))
        }
        Purpose::Health => {
            info!(%address, "serving /healthz and /readyz");
            health
        }
    };
    connections::accept(listener, router, purpose.limits()).await;
    Ok(())
}

fn metrics_router(metrics: &Metrics) -> Router {
    let scraped = Scraped { registry: Arc::new(metrics.registry()), packets: metrics.packets().clone() };
    Router::new().route("/metrics", get(metrics_text)).with_state(scraped)
}

fn health_router(status: SharedStatus, liveness: Liveness) -> Router {
    let health = get(async move || health(&liveness));
    Router::new().route("/healthz", health).route("/readyz", get(async move || readiness(&status)))
}

#[derive(Clone)]
struct Scraped {
    registry: Arc<Registry>,
    packets: Packets,
}

async fn metrics_text(State(scraped): State<Scraped>) -> Response {
    scraped.packets.refresh().await;
    match Metrics::text(&scraped.registry) {
        Ok(text) => ([(header::CONTENT_TYPE, metrics::CONTENT_TYPE)], text).into_response(),
        Err(error) => (StatusCode::INTERNAL_SERVER_ERROR, error.to_string()).into_response(),
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

fn readiness(status: &SharedStatus) -> Response {
    let status = status.now();
    if status.synced.is_some() && status.ready {
        return "ok\n".into_response();
    }
    let reason = status.reason.unwrap_or_else(|| "not yet in sync".to_owned());
    (StatusCode::SERVICE_UNAVAILABLE, format!("{reason}\n")).into_response()
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
        let health = health_router(status.clone(), Liveness::default());
        let router = match purpose {
            Purpose::Metrics => health.merge(metrics_router(&Metrics::default())),
            Purpose::Health => health,
        };
        tokio::spawn(connections::accept(listener, router, purpose.limits()));
        address
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
