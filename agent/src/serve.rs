//! What an agent serves over HTTP: `/metrics`, `/healthz` and `/readyz`, and
//! nothing else. None of them shows the cluster's contents.

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
use tracing::{info, warn};

use crate::metrics::{self, Metrics, Packets};
use crate::status::SharedStatus;

/// How long the agent's loop may be busy with one thing. A restore waits for
/// the lock much less long.
const BUSY: Duration = Duration::from_secs(300);

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

/// What is served.
#[derive(Clone)]
struct Served {
    registry: Arc<Registry>,
    packets: Packets,
    status: SharedStatus,
    liveness: Liveness,
}

/// Serves on an address until the process ends.
///
/// # Errors
/// If the address cannot be had.
pub async fn serve(address: SocketAddr, metrics: &Metrics, status: SharedStatus, liveness: Liveness) -> io::Result<()> {
    let listener = TcpListener::bind(address).await?;
    info!(address = %listener.local_addr()?, "serving /metrics, /healthz and /readyz");
    let router = router(metrics, status, liveness);
    tokio::spawn(async move {
        // Ends only if the socket does; policies are enforced all the same.
        if let Err(error) = axum::serve(listener, router).await {
            warn!(%error, "the HTTP server ended; policies are enforced all the same");
        }
    });
    Ok(())
}

fn router(metrics: &Metrics, status: SharedStatus, liveness: Liveness) -> Router {
    let served =
        Served { registry: Arc::new(metrics.registry()), packets: metrics.packets().clone(), status, liveness };
    Router::new()
        .route("/metrics", get(metrics_text))
        .route("/healthz", get(health))
        .route("/readyz", get(readiness))
        .with_state(served)
}

async fn metrics_text(State(served): State<Served>) -> Response {
    served.packets.refresh().await;
    match Metrics::text(&served.registry) {
        Ok(text) => ([(header::CONTENT_TYPE, metrics::CONTENT_TYPE)], text).into_response(),
        Err(error) => (StatusCode::INTERNAL_SERVER_ERROR, error.to_string()).into_response(),
    }
}

async fn health(State(served): State<Served>) -> Response {
    if served.liveness.is_alive() {
        "ok\n".into_response()
    } else {
        (StatusCode::INTERNAL_SERVER_ERROR, format!("the agent has done nothing for {BUSY:?}\n")).into_response()
    }
}

async fn readiness(State(served): State<Served>) -> Response {
    let status = served.status.now();
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

    #[tokio::test]
    async fn readiness_follows_the_status_and_nothing_else_is_served() {
        let status = SharedStatus::new(AgentStatus::new("node-1", "cluster"));
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = listener.local_addr().expect("it has one");
        let router = router(&Metrics::default(), status.clone(), Liveness::default());
        tokio::spawn(async move { axum::serve(listener, router).await });
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
}
