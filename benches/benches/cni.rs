//! The time that the CNI plugin adds to the start of a pod: from the start of `npc-cni ADD` to
//! its end, in which the real agent writes the pod's rules. For pods one by one and for a
//! burst of 500, 50 at a time; with 10 and 1,000 policies on the node, 100,000 pods in the
//! cluster, and 150,000 flows in the conntrack table; and for pods that have an address of each
//! family. And what the plugin takes to start and to end, without the agent. Needs root, and the binaries:
//! `cargo build --workspace --release --bins`, and the plugin as it is shipped, static, in the
//! variable `NPC_CNI`, as `make bench` has it. The agent's node is a network namespace, and
//! the API server is in this process.
#![allow(clippy::print_stdout, reason = "a bench prints its figures")]

use std::env;
use std::fs;
use std::io::{self, Write as _};
use std::net::{Ipv4Addr, Ipv6Addr, UdpSocket};
use std::path::{Path, PathBuf};
use std::process::{self, Child, Command, Stdio};
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use npc_benches::binary;
use npc_benches::netns::Netns;
use npc_benches::resident::cpu_seconds;
use npc_benches::samples::Samples;
use npc_benches::served::{self, PODS_PER_NODE};
use npc_lab::apiserver::Server;
use serde_json::{Value, json};

/// How many pods start one by one, how many in the burst, and how many of these at once.
const ALONE: usize = 100;
const BURST: usize = 500;
const AT_ONCE: usize = 50;

/// How often the plugin is started for nothing else.
const STARTS: usize = 1_000;

/// How many kinds of pods there are on the node. Each policy selects one.
const KINDS: usize = 10;

/// After any failure here there is nothing to measure.
type Result<T> = std::result::Result<T, Box<dyn std::error::Error + Send + Sync>>;

/// What the node and its cluster have.
#[derive(Debug, Clone, Copy)]
struct Case {
    policies: usize,
    pods: usize,
    flows: usize,
    /// Each pod has an IPv6 address too.
    dual_stack: bool,
}

const CASES: [Case; 7] = [
    Case { policies: 10, pods: 1_000, flows: 0, dual_stack: false },
    Case { policies: 1_000, pods: 1_000, flows: 0, dual_stack: false },
    Case { policies: 10, pods: 100_000, flows: 0, dual_stack: false },
    Case { policies: 10, pods: 1_000, flows: 150_000, dual_stack: false },
    Case { policies: 1_000, pods: 100_000, flows: 150_000, dual_stack: false },
    Case { policies: 10, pods: 1_000, flows: 0, dual_stack: true },
    Case { policies: 10, pods: 1_000, flows: 150_000, dual_stack: true },
];

fn main() -> Result<()> {
    if Netns::create(&format!("npc-bench-{}", process::id())).is_err() {
        println!("the time of the CNI plugin takes root and iproute2; it was left out");
        return Ok(());
    }
    start_plugin()?;
    // Both ways by turns, on request, for those cases in which it matters; else as an agent is shipped.
    let both_ways = env::var_os("NPC_BENCH_BOTH_WAYS").is_some();
    for case in CASES {
        if !both_ways {
            measure(case, None)?;
        } else if case.pods == 1_000 && case.policies == 10 {
            measure(case, Some(false))?;
            measure(case, Some(true))?;
        }
    }
    Ok(())
}

/// How long the plugin takes to start, to answer VERSION, which asks no agent, and to end. A runtime says on standard
/// input which version of the specification it speaks.
fn start_plugin() -> Result<()> {
    let plugin = plugin()?;
    let mut samples = Samples::default();
    let run = || -> Result<()> {
        let mut command = Command::new(&plugin);
        let mut child = command.env("CNI_COMMAND", "VERSION").stdin(Stdio::piped()).stdout(Stdio::null()).spawn()?;
        child.stdin.take().ok_or("no pipe")?.write_all(br#"{"cniVersion": "1.0.0"}"#)?;
        if child.wait()?.success() { Ok(()) } else { Err("npc-cni VERSION fails".into()) }
    };
    for _ in 0..STARTS {
        samples.time(run)?;
    }
    println!("npc-cni VERSION, {} bytes: {samples}", fs::metadata(&plugin)?.len());
    Ok(())
}

/// `flow_index` is `NPC_FLOW_INDEX` of the agent; `None` leaves it unset, as an agent is shipped.
fn measure(case: Case, flow_index: Option<bool>) -> Result<()> {
    let server = Server::in_process();
    for object in served::cluster(case.pods.max(PODS_PER_NODE)) {
        server.put(&object);
    }
    server.put(&json!({
        "apiVersion": "v1", "kind": "Node", "metadata": {"name": served::node_name(0)},
        "spec": {"podCIDR": "10.200.0.0/22", "podCIDRs": ["10.200.0.0/22", "fd00::/112"]},
    }));
    server.put(&json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "bench"}}));
    for number in 0..case.policies {
        server.put(&policy(number));
    }
    let mut node = Node::start(&server, case, flow_index)?;
    node.open_flows(case.flows)?;
    for number in 0..=ALONE + BURST {
        server.put(&pod(number));
    }
    println!("{case:?}, flow_index: {flow_index:?}");
    // The plugin runs where the node's interfaces are. A thread is where the one that started it is.
    node.netns.within(|| add_all(&node))??;

    // The agent ends as in an upgrade, and a pod that starts then waits for the next one.
    let begun = Instant::now();
    kill(Pid::from_raw(i32::try_from(node.agent.id())?), Signal::SIGTERM)?;
    node.agent.wait()?;
    node.agent = start_agent(&node.netns, node.folder.path(), flow_index)?;
    node.netns.within(|| node.add(ALONE + BURST))??;
    println!("  a pod that starts while the agent is replaced: {:?}", begun.elapsed());
    Ok(())
}

/// Adds pods one by one, and then the burst.
fn add_all(node: &Node) -> Result<()> {
    // The first waits for what was put last, and for the rules of the first pod of the node.
    node.add(0)?;

    let mut alone = Samples::default();
    let cpu = cpu_seconds(node.agent.id())?;
    for number in 1..ALONE {
        alone.time(|| node.add(number))?;
    }
    println!("  one by one: {alone}, {}", each(cpu_seconds(node.agent.id())? - cpu, ALONE - 1)?);

    let (next, burst) = (AtomicUsize::new(ALONE), Mutex::new(Samples::default()));
    let (begun, cpu) = (Instant::now(), cpu_seconds(node.agent.id())?);
    thread::scope(|scope| {
        let worker = || -> Result<()> {
            loop {
                let number = next.fetch_add(1, Ordering::Relaxed);
                if number >= ALONE + BURST {
                    return Ok(());
                }
                let begun = Instant::now();
                node.add(number)?;
                burst.lock().map_err(|_| "a thread panicked")?.push(begun.elapsed());
            }
        };
        let workers: Vec<_> = (0..AT_ONCE).map(|_| scope.spawn(worker)).collect();
        workers.into_iter().try_for_each(|worker| worker.join().map_err(|_| "a thread panicked")?)
    })?;
    let burst = burst.into_inner().map_err(|_| "a thread panicked")?;
    let all = begun.elapsed();
    let cpu = each(cpu_seconds(node.agent.id())? - cpu, BURST)?;
    println!("  {BURST}, {AT_ONCE} at a time: {burst}, {cpu}, all in {all:?}");
    Ok(())
}

/// What an ADD took of a processor. On a machine that does other work too, this says more than
/// the time.
fn each(seconds: f64, adds: usize) -> Result<String> {
    Ok(format!("{:.1} ms of a processor in the agent for each", seconds * 1e3 / f64::from(u32::try_from(adds)?)))
}

fn policy(number: usize) -> Value {
    json!({
        "apiVersion": "networking.k8s.io/v1", "kind": "NetworkPolicy",
        "metadata": {"namespace": "bench", "name": format!("policy-{number}")},
        "spec": {
            "podSelector": {"matchLabels": {"kind": format!("kind-{}", number % KINDS)}},
            "policyTypes": ["Ingress", "Egress"],
            "ingress": [{"from": [{"podSelector": {}}], "ports": [{"port": 8000 + number}]}],
        },
    })
}

/// A pod that is bound to the node and not started.
fn pod(number: usize) -> Value {
    let (name, kind) = (format!("pod-{number}"), format!("kind-{}", number % KINDS));
    json!({
        "apiVersion": "v1", "kind": "Pod",
        "metadata": {"namespace": "bench", "name": name, "uid": uid(number), "labels": {"kind": kind}},
        "spec": {"nodeName": served::node_name(0), "containers": [{"name": "main", "image": "app"}]},
        "status": {"phase": "Pending"},
    })
}

fn uid(number: usize) -> String {
    format!("00000000-0000-4000-8000-{number:012}")
}

/// The network namespaces of the pods, which go when this is dropped.
struct Sandboxes;

impl Sandboxes {
    /// Makes them, each with its interface, whose other end is on the node.
    fn create(node: &Netns) -> Result<Self> {
        ip(&[], &Self::lines(|name, _| format!("netns add {name}\n")))?;
        let pair = |name: &str, number| format!("link add veth{number} type veth peer name eth0 netns {name}\n");
        ip(&["-n", node.name()], &Self::lines(pair))?;
        Ok(Self)
    }

    /// A line about each.
    fn lines(line: impl Fn(&str, usize) -> String) -> String {
        (0..=ALONE + BURST).map(|number| line(&Self::name(number), number)).collect::<Vec<_>>().concat()
    }

    fn name(number: usize) -> String {
        format!("npc-bench-{}-{number}", process::id())
    }
}

impl Drop for Sandboxes {
    fn drop(&mut self) {
        // What is left over can be seen by `ip netns` and does no harm.
        let _ = ip(&[], &Self::lines(|name, _| format!("netns del {name}\n")));
    }
}

/// Runs commands of `ip`, a line each.
fn ip(options: &[&str], lines: &str) -> Result<()> {
    let mut ip = Command::new("ip").args(options).args(["-batch", "-"]).stdin(Stdio::piped()).spawn()?;
    ip.stdin.take().ok_or("its standard input is a pipe")?.write_all(lines.as_bytes())?;
    let status = ip.wait()?;
    if status.success() { Ok(()) } else { Err(format!("ip {options:?}: {status}").into()) }
}

/// The node with its agent, which ends when this is dropped.
struct Node {
    netns: Netns,
    _sandboxes: Sandboxes,
    agent: Child,
    folder: tempfile::TempDir,
    dual_stack: bool,
}

impl Node {
    fn start(server: &Server, Case { dual_stack, .. }: Case, flow_index: Option<bool>) -> Result<Self> {
        let netns = Netns::create(&format!("npc-bench-{}", process::id()))?;
        let listener = netns.listen()?;
        server.listen(move |_| listener.try_clone())?;
        // A tmpfs, as /run is on a node.
        let folder = tempfile::tempdir_in("/dev/shm")?;
        server.write_kubeconfig(folder.path())?;
        let ready = folder.path().join("ready");
        let sandboxes = Sandboxes::create(&netns)?;
        let agent = start_agent(&netns, folder.path(), flow_index)?;
        let mut node = Self { netns, _sandboxes: sandboxes, agent, folder, dual_stack };
        while !ready.exists() {
            if let Some(status) = node.agent.try_wait()? {
                let log = fs::read_to_string(node.folder.path().join("log"))?;
                return Err(format!("the agent ended ({status}):\n{log}").into());
            }
            thread::sleep(Duration::from_millis(10));
        }
        Ok(node)
    }

    /// Opens so many flows of UDP through the node's conntrack table.
    fn open_flows(&self, count: usize) -> Result<()> {
        self.netns.within(|| {
            fs::write("/proc/sys/net/netfilter/nf_conntrack_udp_timeout", "3600")?;
            let mut opened = 0;
            while opened < count {
                let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0))?;
                for port in (1..=50_000_u16).take(count - opened) {
                    // An ICMP error that came for an earlier one is no failure of this one.
                    let _ = socket.send_to(b"", (Ipv4Addr::LOCALHOST, port));
                    opened += 1;
                }
            }
            let tracked = fs::read_to_string("/proc/sys/net/netfilter/nf_conntrack_count")?;
            println!("{} flows are tracked", tracked.trim());
            Ok(())
        })?
    }

    /// `npc-cni ADD` for a pod, as the last of a chain.
    fn add(&self, number: usize) -> Result<()> {
        let socket = self.folder.path().join("run/cni.sock");
        let sandbox = format!("/run/netns/{}", Sandboxes::name(number));
        let place = u32::try_from(number)? + 1;
        let mut addresses = vec![format!("{}/32", Ipv4Addr::from(0x0ac8_0000 + place))];
        if self.dual_stack {
            addresses.push(format!("{}/128", Ipv6Addr::from((0xfd00_u128 << 112) + u128::from(place))));
        }
        let ips: Vec<_> = addresses.iter().map(|address| json!({"address": address, "interface": 0})).collect();
        let configuration = json!({
            "cniVersion": "1.0.0", "name": "bench", "type": "npc-cni", "socket": socket, "timeoutSeconds": 60,
            "prevResult": {
                "cniVersion": "1.0.0",
                "interfaces": [{"name": "eth0", "sandbox": sandbox}],
                "ips": ips,
            },
        });
        let arguments = format!("K8S_POD_NAMESPACE=bench;K8S_POD_NAME=pod-{number};K8S_POD_UID={}", uid(number));
        let mut plugin = Command::new(plugin()?)
            .envs([("CNI_COMMAND", "ADD"), ("CNI_NETNS", sandbox.as_str()), ("CNI_IFNAME", "eth0")])
            .env("CNI_CONTAINERID", format!("container-{number}"))
            .env("CNI_ARGS", arguments)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()?;
        plugin.stdin.take().ok_or("its standard input is a pipe")?.write_all(configuration.to_string().as_bytes())?;
        let output = plugin.wait_with_output()?;
        if output.status.success() {
            Ok(())
        } else {
            Err(format!("npc-cni: {}", String::from_utf8_lossy(&output.stdout)).into())
        }
    }
}

fn start_agent(netns: &Netns, folder: &Path, flow_index: Option<bool>) -> Result<Child> {
    let log = fs::File::options().create(true).append(true).open(folder.join("log"))?;
    let agent = Command::new("ip")
        .args(["netns", "exec", netns.name()])
        .arg(binary("npc")?)
        .args(["agent", "--node", &served::node_name(0), "--backend", "nft", "--metrics-address", "off"])
        .args(["--cni-socket".as_ref(), folder.join("run/cni.sock").as_os_str()])
        .args(["--ready-file".as_ref(), folder.join("ready").as_os_str()])
        .args(["--kubeconfig".as_ref(), folder.join("kubeconfig").as_os_str()])
        .envs(flow_index.map(|is_on| ("NPC_FLOW_INDEX", if is_on { "1" } else { "0" })))
        .stderr(log)
        .spawn()?;
    Ok(agent)
}

impl Drop for Node {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.agent.kill();
        let _ = self.agent.wait();
    }
}

/// The plugin as it is shipped, or the one beside this bench, which starts in twice the time
/// because the loader looks for its libraries.
fn plugin() -> io::Result<PathBuf> {
    env::var_os("NPC_CNI").map_or_else(|| binary("npc-cni"), |file| Ok(PathBuf::from(file)))
}
