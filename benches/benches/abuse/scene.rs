//! An agent, the API server that it follows, and the namespaces that are not the tenant's.

use std::env;
use std::io::{BufRead as _, BufReader};
use std::net::{Ipv4Addr, TcpListener};
use std::process::{self, Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use npc_benches::netns::Netns;
use npc_benches::resident::Resident;
use npc_lab::apiserver::{Disturbance, Fault, Resource, Server};
use serde_json::{Value, json};

use crate::Result;

/// The agent's node.
const NODE: &str = "node-0";

/// How many other namespaces get a policy, one after the other.
const VICTIMS: usize = 100;

/// What a tenant may do: write in his namespace, [`Scene::TENANT`].
pub(crate) struct Scene {
    pub(crate) server: Server,
    is_over: AtomicBool,
}

/// What was measured.
pub(crate) struct Outcome {
    pub(crate) median: Duration,
    pub(crate) percentile_99: Duration,
    /// The most that was resident of the agent, in bytes.
    pub(crate) peak: u64,
}

impl Scene {
    /// The tenant's namespace.
    pub(crate) const TENANT: &str = "tenant";

    /// Whether all is measured, so that a case that goes on should end.
    #[expect(dead_code, reason = "for cases that go on")]
    pub(crate) fn is_over(&self) -> bool {
        self.is_over.load(Ordering::Relaxed)
    }

    /// Runs a case against an API server that streams lists, or has pages only.
    pub(crate) fn run(abuse: fn(&Self), streams: bool) -> Result<Outcome> {
        let server = Server::in_process();
        if !streams {
            server.inject(Fault::no_streaming_lists());
        }
        server.put(&json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": NODE}}));
        for namespace in ["kube-system", Self::TENANT].map(str::to_owned).into_iter().chain((0..=VICTIMS).map(victim)) {
            server.put(&json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": namespace}}));
        }
        for number in 0..=VICTIMS {
            server.put(&pod(&victim(number), "app", NODE, number));
        }
        let netns = Netns::create(&format!("npc-bench-{}", process::id()))?;
        let agent = Agent::start(&server, &netns)?;
        let scene = Self { server, is_over: AtomicBool::new(false) };
        // The agent's start is no abuse.
        scene.deny(&netns, 0..1)?;
        let mut took = thread::scope(|scope| {
            let abused = scope.spawn(|| abuse(&scene));
            // Some while the tenant begins, and the others while what he wrote stays.
            let mut took = scene.deny(&netns, 1..VICTIMS / 4)?;
            while !abused.is_finished() && took.len() < VICTIMS / 2 {
                let next = took.len() + 1;
                took.extend(scene.deny(&netns, next..next + 1)?);
            }
            // What an agent meets that was away from the server for long.
            scene.server.compact();
            scene.server.disturb(None, Disturbance::Expire);
            took.extend(scene.deny(&netns, took.len() + 1..VICTIMS + 1)?);
            scene.is_over.store(true, Ordering::Relaxed);
            abused.join().map_err(|_| "the case panicked")?;
            Result::Ok(took)
        })?;
        let Resident { peak, .. } = Resident::of(agent.process.id())?;
        took.sort_unstable();
        let at =
            |percent: usize| took.get((took.len() * percent / 100).min(took.len() - 1)).copied().unwrap_or_default();
        Ok(Outcome { median: at(50), percentile_99: at(99), peak })
    }

    /// Gives each of these namespaces a default-deny, and awaits it in the kernel.
    fn deny(&self, netns: &Netns, victims: std::ops::Range<usize>) -> Result<Vec<Duration>> {
        let wait = |number: usize| -> Result<Duration> {
            self.server.put(&json!({
                "apiVersion": "networking.k8s.io/v1", "kind": "NetworkPolicy",
                "metadata": {"namespace": victim(number), "name": "default-deny"},
                "spec": {"podSelector": {}, "policyTypes": ["Ingress"]},
            }));
            let (begun, address) = (Instant::now(), address(number).to_string());
            // The set does not exist before the first pod is isolated.
            while netns.exec(&["ipset", "-q", "test", "npc4-ingress", &address], "").is_err() {
                if begun.elapsed() > Duration::from_secs(300) {
                    return Err("a default-deny is not in force after five minutes".into());
                }
                thread::sleep(Duration::from_millis(2));
            }
            Ok(begun.elapsed())
        };
        victims.map(wait).collect()
    }
}

fn victim(number: usize) -> String {
    format!("victim-{number}")
}

fn address(number: usize) -> Ipv4Addr {
    Ipv4Addr::from(0x0a01_0001 + u32::try_from(number).unwrap_or_default())
}

/// A pod with the address of this number.
pub(crate) fn pod(namespace: &str, name: &str, node: &str, number: usize) -> Value {
    let address = address(number);
    json!({
        "apiVersion": "v1", "kind": "Pod", "metadata": {"namespace": namespace, "name": name, "labels": {"app": name}},
        "spec": {"nodeName": node, "containers": [{"name": "main", "image": "registry.example/app:1"}]},
        "status": {"phase": "Running", "podIP": address, "podIPs": [{"ip": address}]},
    })
}

/// A pod of the tenant's that no node takes.
pub(crate) fn unscheduled(number: usize) -> Value {
    json!({
        "apiVersion": "v1", "kind": "Pod",
        "metadata": {"namespace": Scene::TENANT, "name": format!("pod-{number}"), "labels": {}},
        "spec": {"containers": [{"name": "main", "image": "registry.example/app:1"}]}, "status": {"phase": "Pending"},
    })
}

/// A running agent; ended when this is dropped.
struct Agent {
    process: Child,
    /// Its kubeconfig is in here.
    _folder: tempfile::TempDir,
}

impl Drop for Agent {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

impl Agent {
    fn start(server: &Server, netns: &Netns) -> Result<Self> {
        netns.exec(&["ip", "link", "set", "lo", "up"], "")?;
        let listener = netns.within(|| TcpListener::bind((Ipv4Addr::LOCALHOST, 0)))??;
        server.listen(move |_| listener.try_clone())?;
        let folder = tempfile::tempdir()?;
        let kubeconfig = server.write_kubeconfig(folder.path())?;
        let npc = env::current_exe()?.ancestors().nth(2).ok_or("a bench is in target/release/deps")?.join("npc");
        let mut process = Command::new("ip")
            .args(["netns", "exec", netns.name()])
            .arg(&npc)
            .args([
                "agent",
                "--node",
                NODE,
                "--backend",
                "nft",
                "--metrics-address",
                "off",
                "--relist-spread",
                "0",
                "--kubeconfig",
            ])
            .arg(&kubeconfig)
            .stderr(Stdio::piped())
            .spawn()?;
        let log = BufReader::new(process.stderr.take().ok_or("its log was asked for")?);
        // A pipe that is full would stop the agent.
        thread::spawn(move || log.lines().for_each(drop));
        while server.full_reads(Resource::Pods) == 0 {
            if process.try_wait()?.is_some() {
                return Err("the agent ended (`cargo build --workspace --release --bins` makes it)".into());
            }
            thread::sleep(Duration::from_millis(10));
        }
        Ok(Self { process, _folder: folder })
    }
}
