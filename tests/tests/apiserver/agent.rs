//! The real agent follows a real kube-apiserver, as in a pod: by its service
//! account, over TLS.

use std::fs;
use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};
use npc_tests::lab::Enforcer;
use serde_json::json;

use super::endpoint::Endpoint;
use super::real::{Real, TOKEN, assets};

/// Where a pod has its service account.
const ACCOUNT: &str = "/run/secrets/kubernetes.io/serviceaccount";

/// How long something may take.
const PATIENCE: Duration = Duration::from_secs(60);

/// Gives the thread a network of its own and an empty /run, for good.
fn leave() {
    const NONE: Option<&str> = None;
    unshare(CloneFlags::CLONE_NEWNET | CloneFlags::CLONE_NEWNS).unwrap();
    mount(NONE, "/", NONE, MsFlags::MS_REC | MsFlags::MS_PRIVATE, NONE).unwrap();
    mount(Some("tmpfs"), "/run", Some("tmpfs"), MsFlags::empty(), NONE).unwrap();
    // The server refuses to be where there is no default route.
    for words in [
        "link set lo up",
        "link add out0 type veth peer name out1",
        "address add 192.0.2.1/24 dev out0",
        "link set out0 up",
        "link set out1 up",
        "route add default via 192.0.2.2",
    ] {
        assert!(Command::new("ip").args(words.split(' ')).status().unwrap().success(), "ip {words}");
    }
}

/// An agent that ends with its owner.
struct Agent(Child);

impl Drop for Agent {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Polls until something is so; the kernel and Prometheus send no events.
async fn until(what: &str, log: &Path, is_so: impl Fn() -> bool) {
    let begin = Instant::now();
    while !is_so() {
        let log = || fs::read_to_string(log).unwrap_or_default();
        assert!(begin.elapsed() < PATIENCE, "{what} is not so after {PATIENCE:?}:\n{}", log());
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

/// Whether the set of isolated pods holds an address.
fn is_isolated(address: &str) -> bool {
    let save = Command::new("ipset").arg("save").output().unwrap();
    String::from_utf8(save.stdout).unwrap().lines().any(|line| line == format!("add npc4-ingress {address}"))
}

/// When the API server last answered about policies.
fn received() -> Option<f64> {
    let mut stream = TcpStream::connect("127.0.0.1:10901").ok()?;
    stream.write_all(b"GET /metrics HTTP/1.0\r\n\r\n").ok()?;
    let mut text = String::new();
    stream.read_to_string(&mut text).ok()?;
    let name = "npc_watch_last_heard_timestamp_seconds{kind=\"NetworkPolicy\"} ";
    text.lines().find_map(|line| line.strip_prefix(name))?.parse().ok()
}

async fn follows(npc: PathBuf, assets: PathBuf) {
    let real = Arc::new(Real::start(&assets).await);
    let at = Endpoint::real(Arc::clone(&real));
    assert_eq!(at.post("/api/v1/nodes", &json!({"metadata": {"name": "node-1"}})).await.code, 201);
    let shop = at.namespace("shop").await;
    let pod = json!({
        "metadata": {"name": "db", "labels": {"app": "db"}},
        "spec": {"nodeName": "node-1", "containers": [{"name": "main", "image": "none"}]},
    });
    assert_eq!(at.post(&format!("{shop}/pods"), &pod).await.code, 201);
    let status = json!({"status": {"podIP": "10.244.1.1", "podIPs": [{"ip": "10.244.1.1"}]}});
    assert_eq!(at.merge(&format!("{shop}/pods/db/status"), &status).await.code, 200);

    fs::create_dir_all(ACCOUNT).unwrap();
    let write = |name: &str, bytes: &[u8]| fs::write(Path::new(ACCOUNT).join(name), bytes).unwrap();
    write("token", TOKEN.as_bytes());
    write("namespace", b"npc-system");
    write("ca.crt", &fs::read(real.certificate()).unwrap());
    let log = Path::new("/run/agent.log");
    let agent = Command::new(npc)
        .args(["agent", "--node", "node-1", "--backend", "nft", "--watch-timeout", "10"])
        .env_remove("KUBECONFIG")
        .env("HOME", "/run")
        .env("KUBERNETES_SERVICE_HOST", "127.0.0.1")
        .env("KUBERNETES_SERVICE_PORT", real.port().to_string())
        .stdout(Stdio::null())
        .stderr(fs::File::create(log).unwrap())
        .spawn()
        .unwrap();
    let _agent = Agent(agent);
    until("the agent receives of policies", log, || received().is_some()).await;
    assert!(!is_isolated("10.244.1.1"));

    let policies = "/apis/networking.k8s.io/v1/namespaces/shop/networkpolicies";
    let policy = json!({"metadata": {"name": "db"}, "spec": {"podSelector": {"matchLabels": {"app": "db"}}}});
    assert_eq!(at.post(policies, &policy).await.code, 201);
    until("the pod is isolated", log, || is_isolated("10.244.1.1")).await;
    // Nothing changes any more. The watch under way gets a bookmark for the last
    // change; of this release, the next ones have nothing but their ends.
    let later = received().map(|last| last + 15.0);
    until("a quiet watch counts as alive", log, || received() > later).await;
    // A server that restarts changes nothing, and is followed again.
    at.forget().await;
    assert!(is_isolated("10.244.1.1"));
    at.delete(&format!("{policies}/db")).await;
    until("the pod is not isolated", log, || !is_isolated("10.244.1.1")).await;
}

#[test]
fn an_agent_in_a_pod_follows_a_real_server() {
    let Some(Enforcer::Agent(npc)) = Enforcer::for_test() else { return };
    let Some(assets) = assets() else { return };
    let follows = move || {
        leave();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(follows(npc, assets));
    };
    thread::spawn(follows).join().unwrap();
}
