//! A real kube-apiserver and etcd, and the contract that it is held to.

use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use axum::http::Request;
use futures::future::BoxFuture;
use kube::{Client, Config};
use npc_tests::skip::{Lack, skipped};
use tempfile::TempDir;

use super::endpoint::{Endpoint, config};
use super::{requests, watches};

pub(crate) const TOKEN: &str = "npc-contract";
/// How long the server may take to come up.
const PATIENCE: Duration = Duration::from_secs(120);

/// A real API server with an etcd of its own, both on loopback.
pub(crate) struct Real {
    assets: PathBuf,
    etcd_port: u16,
    port: u16,
    server: Mutex<Running>,
    _etcd: Running,
    folder: TempDir,
}

/// A process that ends with its owner.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

impl Real {
    pub(crate) async fn start(assets: &Path) -> Self {
        let folder = TempDir::new().unwrap();
        let (etcd_port, peer, port) = (free_port(), free_port(), free_port());
        let (etcd_url, peer_url) = (format!("http://127.0.0.1:{etcd_port}"), format!("http://127.0.0.1:{peer}"));
        let log = std::fs::File::create(folder.path().join("etcd.log")).unwrap();
        let etcd = Command::new(assets.join("etcd"))
            .arg("--data-dir")
            .arg(folder.path().join("etcd"))
            .args(["--listen-client-urls", &etcd_url, "--advertise-client-urls", &etcd_url])
            .args(["--listen-peer-urls", &peer_url, "--initial-advertise-peer-urls", &peer_url])
            .args(["--initial-cluster", &format!("default={peer_url}")])
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .unwrap();
        let etcd = Running(etcd);
        std::fs::write(folder.path().join("tokens"), format!("{TOKEN},npc,1,\"system:masters\"\n")).unwrap();
        let server = Mutex::new(serve(assets, folder.path(), etcd_port, port));
        let real = Self { assets: assets.to_owned(), etcd_port, port, server, _etcd: etcd, folder };
        real.ready(&Client::try_from(real.config()).unwrap()).await;
        real
    }

    pub(crate) const fn port(&self) -> u16 {
        self.port
    }

    /// What it shows to clients, and its authority behind it.
    pub(crate) fn certificate(&self) -> PathBuf {
        self.folder.path().join("certificates/apiserver.crt")
    }

    pub(crate) fn config(&self) -> Config {
        let mut config = config(&format!("https://127.0.0.1:{}", self.port));
        config.accept_invalid_certs = true;
        config.auth_info.token = Some(TOKEN.to_owned().into());
        config
    }

    /// Ends the server, starts another on the same etcd, and waits for it.
    pub(crate) async fn restart(&self, client: &Client) {
        {
            let mut server = self.server.lock().unwrap_or_else(PoisonError::into_inner);
            server.0.kill().unwrap();
            server.0.wait().unwrap();
            *server = serve(&self.assets, self.folder.path(), self.etcd_port, self.port);
        }
        self.ready(client).await;
    }

    async fn ready(&self, client: &Client) {
        let deadline = Instant::now() + PATIENCE;
        let ready = || client.request_text(Request::get("/readyz").body(Vec::new()).unwrap());
        // Nothing shows when it is ready but asking.
        while let Err(error) = ready().await {
            if Instant::now() > deadline {
                let log = std::fs::read_to_string(self.folder.path().join("apiserver.log")).unwrap_or_default();
                let lines: Vec<&str> = log.lines().collect();
                panic!("kube-apiserver is not ready: {error}\n{}", lines[lines.len().saturating_sub(20)..].join("\n"));
            }
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
    }
}

fn serve(assets: &Path, folder: &Path, etcd_port: u16, port: u16) -> Running {
    let log = std::fs::File::create(folder.join("apiserver.log")).unwrap();
    let certificates = folder.join("certificates");
    // The key that it makes for itself will do for service accounts too.
    let key = certificates.join("apiserver.key");
    let option = |name: &str, value: &Path| format!("--{name}={}", value.display());
    let server = Command::new(assets.join("kube-apiserver"))
        .args([format!("--etcd-servers=http://127.0.0.1:{etcd_port}"), format!("--secure-port={port}")])
        .args(["--bind-address=127.0.0.1", "--service-cluster-ip-range=10.96.0.0/16"])
        .args(["--authorization-mode=AlwaysAllow", "--disable-admission-plugins=ServiceAccount"])
        .arg("--service-account-issuer=https://npc.example")
        .arg(option("cert-dir", &certificates))
        .arg(option("service-account-key-file", &key))
        .arg(option("service-account-signing-key-file", &key))
        .arg(option("token-auth-file", &folder.join("tokens")))
        .stdout(Stdio::null())
        .stderr(log)
        .spawn()
        .unwrap();
    Running(server)
}

type Clause = fn(Endpoint) -> BoxFuture<'static, ()>;

/// Each clause as a test of our server, and all as a list for the real one.
macro_rules! contract {
    ($($module:ident :: $clause:ident),* $(,)?) => {
        $(#[tokio::test]
        async fn $clause() {
            $module::$clause(Endpoint::ours()).await;
        })*

        const CONTRACT: &[(&str, Clause)] = &[$((stringify!($clause), |at| Box::pin($module::$clause(at)))),*];
    };
}

contract![
    requests::an_object_gets_what_a_server_gives,
    requests::failures_are_statuses,
    requests::a_write_with_an_old_version_conflicts,
    requests::the_status_is_written_apart,
    requests::patches_change_a_part,
    requests::a_pod_that_runs_ends_in_its_own_time,
    requests::a_deletion_answers_a_status_and_keeps_its_conditions,
    requests::lists_come_in_pages_of_one_moment,
    requests::a_version_from_the_future_is_refused,
    requests::selectors_select,
    requests::events_have_two_forms,
    requests::a_server_says_what_it_is,
    requests::a_token_that_is_not_known_is_refused,
    watches::a_watch_sends_what_comes_after_its_version,
    watches::a_watch_from_an_earlier_version_catches_up,
    watches::a_watch_without_version_begins_with_what_is_there,
    watches::a_selected_watch_delivers_objects_that_come_and_go,
    watches::a_watch_ends_at_its_time_limit,
    watches::a_quiet_watch_gets_a_bookmark_before_it_ends,
    watches::a_watch_that_has_expired_says_so,
    watches::kube_lists_in_pages_and_watches,
    watches::streaming_lists_end_with_a_bookmark_or_are_refused,
];

/// The folder of a real kube-apiserver and etcd. Where there is none, the calling test is skipped.
pub(crate) fn assets() -> Option<PathBuf> {
    let assets = std::env::var_os("KUBEBUILDER_ASSETS").map(PathBuf::from);
    if assets.is_none() {
        skipped(
            Lack::ApiServer,
            &"KUBEBUILDER_ASSETS does not name a folder with kube-apiserver and etcd; make apiserver makes one",
        );
    }
    assets
}

#[tokio::test]
async fn the_real_server_keeps_the_contract() {
    let Some(assets) = assets() else { return };
    let real = Arc::new(Real::start(&assets).await);
    let mut failed = Vec::new();
    for (name, clause) in CONTRACT {
        if let Err(error) = tokio::spawn(clause(Endpoint::real(Arc::clone(&real)))).await {
            failed.push(format!("{name}: {error}"));
        }
    }
    assert!(failed.is_empty(), "{} of {} clauses:\n{}", failed.len(), CONTRACT.len(), failed.join("\n"));
}
