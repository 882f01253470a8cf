//! A node as a network namespace, with an agent, a host outside, and a chain of CNI
//! plugins that is called as a runtime calls it.

use std::collections::BTreeMap;
use std::fs;
use std::io::{BufRead as _, BufReader, Write as _};
use std::net::IpAddr;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use npc_compiler::object::Objects;
use npc_tests::lab::{MachineUse, Netns, Share, can_run, manifests};
use npc_tests::skip::{Lack, skipped};
use serde_json::{Value, json};
use tempfile::TempDir;

use super::objects;

/// Where Debian has the reference plugins.
pub(crate) const REFERENCE: &str = "/usr/lib/cni";

/// How long an event may take that a test waits for.
const PATIENCE: Duration = Duration::from_secs(60);

/// Numbers the nodes of one process.
static NODES: AtomicUsize = AtomicUsize::new(0);

/// How pods hang on a node.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Mode {
    /// A veth and a route for each (`ptp`).
    Routed,
    /// A bridge (`bridge`).
    Bridged,
}

pub(crate) struct Node {
    mode: Mode,
    backend: &'static str,
    name: String,
    netns: Netns,
    outside: Netns,
    folder: TempDir,
    agent: Mutex<Option<Child>>,
    /// The plugin's settings.
    pub(crate) settings: Value,
    /// The version of the CNI specification in which the plugins are called.
    pub(crate) version: &'static str,
    /// Pods get addresses of IPv6 only.
    pub(crate) v6_only: bool,
    /// The plugins between portmap and ours.
    pub(crate) more_plugins: Vec<Value>,
    /// Flags of the agent beside the usual ones.
    pub(crate) flags: Vec<&'static str>,
    /// Variables of the agent's environment.
    pub(crate) variables: Vec<(&'static str, PathBuf)>,
    /// An earlier version of the agent's program. Else it is today's.
    pub(crate) program: Option<PathBuf>,
    /// That version serves the plugin.
    pub(crate) earlier_serves: bool,
    /// An earlier version of our plugin. Else it is today's.
    pub(crate) plugin: Option<PathBuf>,
    /// What the agent's program runs under.
    pub(crate) under: Option<PathBuf>,
    /// Whether the agent is told to keep an index of addresses with flows, or not to; else it does what it does
    /// by itself.
    pub(crate) flow_index: Option<bool>,
    /// The first and the last IPv4 address that pods get.
    pub(crate) range: [String; 2],
    /// The same of IPv6.
    pub(crate) range_v6: [String; 2],
    _share: Arc<Share>,
}

/// A pod that was given a network.
pub(crate) struct Pod {
    name: String,
    /// As the runtime knows it: of a static pod, the hash of its manifest.
    pub(crate) uid: String,
    pub(crate) netns: Netns,
    /// What the plugin is given for its path, if it is another.
    pub(crate) netns_path: Option<PathBuf>,
    /// What the chain answered last, which a runtime keeps.
    pub(crate) result: Value,
    mappings: Value,
}

/// The host outside, and the node's address towards it.
pub(crate) const OUTSIDE: [&str; 2] = ["192.0.2.2", "2001:db8:2::2"];
pub(crate) const OWN: [&str; 2] = ["192.0.2.1", "2001:db8:2::1"];

impl Node {
    /// A node whose agent follows these pods' objects and is ready. `None` where this machine cannot
    /// have it.
    pub(crate) fn ready(mode: Mode, backend: &'static str, pods: &[&str]) -> Option<Self> {
        let node = Self::new(mode, backend)?;
        node.write(&objects(pods));
        node.start_agent();
        node.wait_ready();
        Some(node)
    }

    /// A node without an agent. `None` where this machine cannot have it.
    pub(crate) fn new(mode: Mode, backend: &'static str) -> Option<Self> {
        if !can_run() {
            return None;
        }
        if !Path::new(REFERENCE).join("ptp").exists() {
            let lack = Lack::Program("containernetworking-plugins");
            skipped(lack, &format!("no CNI plugins are in {REFERENCE}; make setup installs them"));
            return None;
        }
        let share = Share::wait(MachineUse::Waiting);
        let name = format!("npc-lab-{}-cni{}", std::process::id(), NODES.fetch_add(1, Ordering::Relaxed));
        let names = ["node", "outside"].map(|part| format!("{name}-{part}"));
        let folder = tempfile::tempdir().unwrap();
        let [netns, outside]: [Netns; 2] = Netns::create(names, folder.path()).unwrap().try_into().unwrap();
        let node = Self {
            mode,
            backend,
            netns,
            outside,
            name,
            folder,
            agent: Mutex::default(),
            settings: json!({"timeoutSeconds": 30}),
            version: "1.0.0",
            v6_only: false,
            more_plugins: Vec::new(),
            flags: Vec::new(),
            variables: Vec::new(),
            program: None,
            earlier_serves: false,
            plugin: None,
            under: None,
            flow_index: None,
            range: ["10.0.0.2", "10.0.255.254"].map(str::to_owned),
            range_v6: ["fd00::2", "fd00::ffff:ffff:ffff:fffe"].map(str::to_owned),
            _share: share,
        };
        node.connect();
        for folder in ["manifests", "cni"] {
            fs::create_dir(node.folder.path().join(folder)).unwrap();
        }
        Some(node)
    }

    fn connect(&self) {
        let (node, outside) = (self.netns.name(), self.outside.name());
        ip(&format!("link add out netns {node} type veth peer name eth0 netns {outside}"));
        let (own, other) = (OWN, OUTSIDE);
        for (netns, link, addresses) in [(node, "out", own), (outside, "eth0", other)] {
            ip(&format!("-n {netns} addr add {}/24 dev {link}", addresses[0]));
            ip(&format!("-n {netns} addr add {}/64 dev {link} nodad", addresses[1]));
            ip(&format!("-n {netns} link set {link} up"));
            ip(&format!("-n {netns} link set lo up"));
        }
        ip(&format!("-n {outside} route add 10.0.0.0/16 via {}", own[0]));
        ip(&format!("-6 -n {outside} route add fd00::/64 via {}", own[1]));
        // The reference plugins do not wait until the node's end has its IPv6 address.
        let sysctls = [
            ("net/ipv4/ip_forward", "1"),
            ("net/ipv6/conf/all/forwarding", "1"),
            ("net/ipv6/conf/default/accept_dad", "0"),
        ];
        for (key, value) in sysctls {
            self.set(key, value);
        }
        if self.mode == Mode::Bridged {
            // Where the kernel lacks br_netfilter the agent is not ready.
            self.set("net/bridge/bridge-nf-call-iptables", "1");
            self.set("net/bridge/bridge-nf-call-ip6tables", "1");
        }
    }

    pub(crate) fn set(&self, key: &str, value: &str) {
        let path = Path::new("/proc/sys").join(key);
        self.netns.within(|| fs::write(path, value)).unwrap().unwrap();
    }

    pub(crate) fn outside(&self) -> &Netns {
        &self.outside
    }

    /// What the names of all its network namespaces begin with.
    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    pub(crate) fn netns(&self) -> &Netns {
        &self.netns
    }

    pub(crate) fn socket(&self) -> PathBuf {
        self.folder.path().join("run/npc/cni.sock")
    }

    /// The folder of manifests, and of files that a test keeps.
    pub(crate) fn folder(&self) -> &Path {
        self.folder.path()
    }

    pub(crate) fn write(&self, objects: &Objects) {
        manifests::write(&self.folder.path().join("manifests"), objects).unwrap();
    }

    /// Starts an agent that follows the manifests.
    pub(crate) fn start_agent(&self) {
        let manifests = self.folder.path().join("manifests").display().to_string();
        self.start_agent_with(&["--manifests", &manifests]);
    }

    pub(crate) fn start_agent_with(&self, source: &[&str]) {
        let log = fs::File::options().create(true).append(true).open(self.log_file()).unwrap();
        let program = self.program.clone().unwrap_or_else(|| binary("npc"));
        let mut command = self.netns.command(self.under.as_ref().unwrap_or(&program));
        if self.under.is_some() {
            command.arg(&program);
        }
        command.args(["agent", "--node", "n1", "--metrics-address", "off", "--backend", self.backend]);
        command.arg("--ready-file").arg(self.ready_file());
        if self.program.is_none() || self.earlier_serves {
            command.arg("--cni-socket").arg(self.socket());
        }
        let child = command
            .args(&self.flags)
            .args(source)
            .envs(self.variables.iter().cloned())
            .envs(self.flow_index.map(|is_on| ("NPC_FLOW_INDEX", if is_on { "1" } else { "0" })))
            .stdin(Stdio::null())
            .stdout(log.try_clone().unwrap())
            .stderr(log)
            .spawn()
            .unwrap();
        *self.agent.lock().unwrap() = Some(child);
    }

    pub(crate) fn wait_ready(&self) {
        wait("the agent is ready", || self.ready_file().exists());
    }

    /// Waits until the agent says that not all is in the kernel.
    pub(crate) fn wait_unready(&self) {
        wait("the agent is not ready", || !self.ready_file().exists());
    }

    /// What the agent answers to this request.
    pub(crate) fn request(&self, request: &Value) -> Value {
        let mut stream = UnixStream::connect(self.socket()).unwrap();
        writeln!(stream, "{request}").unwrap();
        let mut answer = String::new();
        BufReader::new(stream).read_line(&mut answer).unwrap();
        serde_json::from_str(&answer).unwrap()
    }

    /// Kills the agent, as a node that is short of memory does.
    pub(crate) fn kill_agent(&self) {
        self.end_agent(Signal::SIGKILL);
    }

    /// Sends a signal to the agent, if there is one, and waits for its end.
    pub(crate) fn end_agent(&self, signal: Signal) {
        if let Some(mut agent) = self.agent.lock().unwrap().take() {
            send(&agent, signal);
            agent.wait().unwrap();
            // The next one makes it again.
            let _ = fs::remove_file(self.ready_file());
        }
    }

    /// Sends a signal to the agent.
    pub(crate) fn signal_agent(&self, signal: Signal) {
        send(self.agent.lock().unwrap().as_ref().unwrap(), signal);
    }

    fn ready_file(&self) -> PathBuf {
        self.folder.path().join("ready")
    }

    fn log_file(&self) -> PathBuf {
        self.folder.path().join("agent.log")
    }

    pub(crate) fn log(&self) -> String {
        fs::read_to_string(self.log_file()).unwrap_or_default()
    }

    /// The chain: the plugin that gives the network, portmap, and ours.
    pub(crate) fn chain(&self) -> Vec<Value> {
        let range = |subnet: &str, [first, last]: &[String; 2]| json!([{"subnet": subnet, "rangeStart": first, "rangeEnd": last}]);
        let (v4, v6) = (range("10.0.0.0/16", &self.range), range("fd00::/64", &self.range_v6));
        let (mut ranges, mut routes) = (vec![v4, v6], vec!["0.0.0.0/0", "::/0"]);
        if self.v6_only {
            (ranges, routes) = (ranges.split_off(1), routes.split_off(1));
        }
        let routes: Vec<Value> = routes.iter().map(|to| json!({"dst": to})).collect();
        let ipam = json!({
            "type": "host-local", "dataDir": self.folder.path().join("ipam"), "ranges": ranges, "routes": routes,
        });
        let network = match self.mode {
            Mode::Routed => json!({"type": "ptp", "ipam": ipam}),
            Mode::Bridged => {
                json!({"type": "bridge", "bridge": "cni0", "isGateway": true, "hairpinMode": true, "ipam": ipam})
            }
        };
        let mut own = json!({"type": "npc-cni", "socket": self.socket()});
        for (key, value) in self.settings.as_object().unwrap() {
            own[key] = value.clone();
        }
        let portmap = json!({"type": "portmap", "capabilities": {"portMappings": true}});
        [vec![network, portmap], self.more_plugins.clone(), vec![own]].concat()
    }

    /// A network namespace, before any plugin was called for it.
    pub(crate) fn sandbox(&self, name: &str, mappings: Value) -> Pod {
        let netns = Netns::create([format!("{}-{name}", self.name)], self.folder()).unwrap().remove(0);
        ip(&format!("-n {} link set lo up", netns.name()));
        // The reference plugins wait for duplicate address detection, two seconds for each pod.
        netns.within(|| fs::write("/proc/sys/net/ipv6/conf/default/accept_dad", "0")).unwrap().unwrap();
        Pod {
            name: name.to_owned(),
            uid: format!("uid-{name}"),
            netns,
            netns_path: None,
            result: Value::Null,
            mappings,
        }
    }

    /// ADD, by one plugin after another; the error of the one that failed.
    pub(crate) fn add(&self, pod: &mut Pod) -> Result<(), String> {
        self.add_by(pod, self.chain())
    }

    fn add_by(&self, pod: &mut Pod, plugins: Vec<Value>) -> Result<(), String> {
        let mut previous = None;
        for plugin in plugins {
            previous = Some(self.call("ADD", pod, plugin, previous)?);
        }
        pod.result = previous.unwrap_or_default();
        Ok(())
    }

    /// DEL, in the opposite order, with the result that the runtime kept.
    pub(crate) fn delete(&self, pod: &Pod) -> Result<(), String> {
        // Before 0.4.0 a DEL has none.
        let kept = Some(pod.result.clone()).filter(|result| !result.is_null() && !self.version.starts_with("0.3"));
        for plugin in self.chain().into_iter().rev() {
            self.call("DEL", pod, plugin, kept.clone())?;
        }
        Ok(())
    }

    /// ADD of all plugins but ours.
    pub(crate) fn add_others(&self, pod: &mut Pod) -> Result<(), String> {
        let mut others = self.chain();
        others.pop();
        self.add_by(pod, others)
    }

    /// ADD of our plugin only, after the others.
    pub(crate) fn add_own(&self, pod: &mut Pod) -> Result<(), String> {
        let own = self.chain().pop().unwrap_or_default();
        pod.result = self.call("ADD", pod, own, Some(pod.result.clone()))?;
        Ok(())
    }

    /// DEL of our plugin only.
    pub(crate) fn delete_own(&self, pod: &Pod) -> Result<(), String> {
        let own = self.chain().pop().unwrap_or_default();
        self.call("DEL", pod, own, Some(pod.result.clone())).map(drop)
    }

    pub(crate) fn check(&self, pod: &Pod) -> Result<(), String> {
        let own = self.chain().pop().unwrap_or_default();
        self.call("CHECK", pod, own, Some(pod.result.clone())).map(drop)
    }

    fn call(&self, command: &str, pod: &Pod, mut plugin: Value, previous: Option<Value>) -> Result<Value, String> {
        plugin["cniVersion"] = json!(self.version);
        plugin["name"] = json!("net");
        if let Some(previous) = previous {
            plugin["prevResult"] = previous;
        }
        // What a runtime puts in place of the capabilities of a plugin.
        match plugin["type"].as_str() {
            Some("portmap") => plugin["runtimeConfig"] = json!({"portMappings": pod.mappings}),
            Some("bandwidth") => {
                let (rate, burst) = (100_000_000, 10_000_000);
                plugin["runtimeConfig"] = json!({"bandwidth": {
                    "ingressRate": rate, "ingressBurst": burst, "egressRate": rate, "egressBurst": burst,
                }});
            }
            _ => {}
        }
        let kind = plugin["type"].as_str().unwrap_or_default().to_owned();
        let own = || self.plugin.clone().unwrap_or_else(|| binary("npc-cni"));
        let program = if kind == "npc-cni" { own() } else { Path::new(REFERENCE).join(&kind) };
        let mut child = self
            .netns
            .command(program)
            .env("CNI_COMMAND", command)
            .env("CNI_CONTAINERID", format!("container-{}", pod.netns.name()))
            .env("CNI_NETNS", pod.netns_path.clone().unwrap_or_else(|| Path::new("/run/netns").join(pod.netns.name())))
            .env("CNI_IFNAME", "eth0")
            .env("CNI_PATH", REFERENCE)
            .env(
                "CNI_ARGS",
                format!("IgnoreUnknown=1;K8S_POD_NAMESPACE=shop;K8S_POD_NAME={};K8S_POD_UID={}", pod.name, pod.uid),
            )
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        child.stdin.take().unwrap().write_all(plugin.to_string().as_bytes()).unwrap();
        let Output { status, stdout, stderr } = child.wait_with_output().unwrap();
        let (stdout, stderr) = (String::from_utf8_lossy(&stdout), String::from_utf8_lossy(&stderr));
        if !status.success() {
            return Err(format!("{command} by {kind}: {stdout} {stderr}"));
        }
        Ok(if stdout.trim().is_empty() { Value::Null } else { serde_json::from_str(&stdout).unwrap() })
    }
}

impl Pod {
    /// The same sandbox, for a second process about it.
    pub(crate) fn twin(&self) -> Self {
        Self {
            name: self.name.clone(),
            uid: self.uid.clone(),
            netns: self.netns.try_clone().unwrap(),
            netns_path: self.netns_path.clone(),
            result: self.result.clone(),
            mappings: self.mappings.clone(),
        }
    }

    /// Its addresses, IPv4 first.
    pub(crate) fn addresses(&self) -> Vec<IpAddr> {
        let ips = self.result["ips"].as_array().cloned().unwrap_or_default();
        let text = |ip: &Value| ip["address"].as_str().unwrap_or_default().split('/').next().map(str::to_owned);
        let mut addresses: Vec<IpAddr> = ips.iter().filter_map(text).map(|text| text.parse().unwrap()).collect();
        addresses.sort_unstable();
        addresses
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("the agent's log:\n{}", self.log());
        }
        self.kill_agent();
        let list = Command::new("ip").args(["netns", "list"]).output().unwrap();
        let list = String::from_utf8_lossy(&list.stdout).into_owned();
        let own = list.lines().filter_map(|line| line.split(' ').next()).filter(|name| name.starts_with(&self.name));
        for name in own {
            ip(&format!("netns del {name}"));
        }
    }
}

fn send(process: &Child, signal: Signal) {
    kill(Pid::from_raw(process.id().try_into().unwrap()), signal).unwrap();
}

/// One command of ip(8).
pub(crate) fn ip(arguments: &str) {
    let output = Command::new("ip").args(arguments.split(' ')).output().unwrap();
    assert!(output.status.success(), "ip {arguments}: {}", String::from_utf8_lossy(&output.stderr));
}

/// Waits until something is so.
pub(crate) fn wait(what: &str, mut is_so: impl FnMut() -> bool) {
    let begun = Instant::now();
    while !is_so() {
        assert!(begun.elapsed() < PATIENCE, "not within {PATIENCE:?}: {what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// A binary of ours, which lies beside the folder of this test.
pub(crate) fn binary(name: &str) -> PathBuf {
    let own = std::env::current_exe().unwrap();
    let file = own.ancestors().nth(2).unwrap().join(name);
    assert!(file.is_file(), "{} is missing; build it with cargo build --workspace --bins", file.display());
    file
}

/// The members of all sets of ours, by set.
pub(crate) fn sets(netns: &Netns) -> BTreeMap<String, Vec<String>> {
    let text = netns.exec(["ipset", "save"], "").unwrap();
    let mut sets: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for line in text.lines() {
        let words: Vec<&str> = line.split(' ').collect();
        if let ["add", set, member, ..] = words[..] {
            sets.entry(set.to_owned()).or_default().push(member.to_owned());
        }
    }
    sets
}
