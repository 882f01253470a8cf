//! A node with a container runtime's folders, an installer of ours, and a runtime that reads
//! the folder as containerd does.

use std::collections::BTreeMap;
use std::fs;
use std::io::Write as _;
use std::net::IpAddr;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use npc_tests::lab::Netns;
use serde_json::{Value, json};

use super::api::{Api, Says};
use crate::cni::node::{Mode, Node, REFERENCE, binary, ip, wait};
use crate::cni::objects;

/// The name of our conflist.
pub(crate) const OWN: &str = "05-npc.conflist";

/// The runtime's own.
pub(crate) const SOURCE: &str = "10-net.conflist";

/// Plugins that pass on what the one before them answered, as istio-cni does.
const PASS_ON: [&str; 2] = ["istio-cni", "linkerd-cni"];

static SANDBOXES: AtomicUsize = AtomicUsize::new(0);

pub(crate) struct Host {
    pub(crate) node: Node,
    pub(crate) api: Api,
    root: PathBuf,
    places: [PathBuf; 3],
}

/// A process of `npc install-cni`.
pub(crate) struct Installer(Option<Child>);

/// A pod's network namespace, and the chain that made it.
pub(crate) struct Sandbox {
    name: String,
    id: String,
    pub(crate) netns: Netns,
    chain: Vec<Value>,
    result: Value,
    /// The chain had our plugin.
    pub(crate) is_ours: bool,
}

impl Host {
    /// With an agent that is ready, and pods `web-0` … that are isolated.
    pub(crate) fn new(pods: usize) -> Option<Self> {
        let host = Self::at(pods, |node| ["net.d", "bin", "cache"].map(|name| node.join("host").join(name)))?;
        for folder in [host.conf(), host.bin(), host.cache()] {
            fs::create_dir_all(folder).unwrap();
        }
        for plugin in fs::read_dir(REFERENCE).unwrap().map(Result::unwrap) {
            symlink(plugin.path(), host.bin().join(plugin.file_name())).unwrap();
        }
        for kind in PASS_ON {
            fs::write(host.bin().join(kind), "a placeholder, which the tests do not run").unwrap();
        }
        Some(host)
    }

    /// The same with a runtime whose folders of configurations, plugins and sandboxes are these,
    /// below the node's folder.
    pub(crate) fn at(pods: usize, places: impl FnOnce(&Path) -> [PathBuf; 3]) -> Option<Self> {
        let node = Node::new(Mode::Routed, "nft")?;
        let names: Vec<String> = (0..pods).map(|n| format!("web-{n}")).collect();
        node.write(&objects(&names.iter().map(String::as_str).collect::<Vec<_>>()));
        node.start_agent();
        node.wait_ready();
        let api = Api::start(node.netns(), node.folder());
        let root = node.folder().join("host");
        fs::create_dir(&root).unwrap();
        let places = places(node.folder());
        Some(Self { node, api, root, places })
    }

    pub(crate) fn conf(&self) -> PathBuf {
        self.places[0].clone()
    }

    pub(crate) fn bin(&self) -> PathBuf {
        self.places[1].clone()
    }

    pub(crate) fn cache(&self) -> PathBuf {
        self.places[2].clone()
    }

    /// The runtime's own configuration, in one of several shapes.
    pub(crate) fn source(&self, variant: usize) -> String {
        let ipam = json!({
            "type": "host-local", "dataDir": self.root.join("ipam"),
            "ranges": [[{"subnet": "10.0.0.0/24"}], [{"subnet": "fd00::/64"}]],
            "routes": [{"dst": "0.0.0.0/0"}, {"dst": "::/0"}],
        });
        let mut plugins = vec![json!({"type": "ptp", "mtu": 1400 + variant, "ipam": ipam})];
        if variant.is_multiple_of(2) {
            plugins.push(json!({"type": "portmap", "capabilities": {"portMappings": true}}));
        }
        json!({"cniVersion": "1.0.0", "name": "net", "plugins": plugins}).to_string()
    }

    pub(crate) fn write_source(&self, variant: usize) {
        let new = self.conf().join("10-net.conflist.new");
        fs::write(&new, self.source(variant)).unwrap();
        fs::rename(new, self.conf().join(SOURCE)).unwrap();
    }

    /// The files of the runtime's folder.
    pub(crate) fn files(&self) -> BTreeMap<String, String> {
        let entries = fs::read_dir(self.conf()).unwrap().map(Result::unwrap);
        entries
            .filter_map(|entry| Some((entry.file_name().into_string().ok()?, fs::read_to_string(entry.path()).ok()?)))
            .collect()
    }

    /// Starts an installer with these arguments besides the usual, until it takes signals.
    pub(crate) fn install(&self, more: &[&str]) -> Installer {
        self.install_in(&self.conf(), more)
    }

    /// The same in another folder of configurations.
    pub(crate) fn install_in(&self, conf: &Path, more: &[&str]) -> Installer {
        let starts = || self.log().matches("npc install-cni starts").count();
        let before = starts();
        let log = fs::File::options().create(true).append(true).open(self.log_file()).unwrap();
        let child = self
            .node
            .netns()
            .command(binary("npc"))
            .arg("install-cni")
            .args(["--node", "n1", "--daemon-set", "npc-system/npc", "--grace", "2"])
            .arg("--cni-conf-dir")
            .arg(conf)
            .arg("--cni-bin-dir")
            .arg(self.bin())
            .arg("--cni-cache-dir")
            .arg(self.cache())
            .arg("--cni-socket")
            .arg(self.node.socket())
            .arg("--kubeconfig")
            .arg(self.api.kubeconfig())
            .arg("--report")
            .arg(self.report_file())
            .args(more)
            .stdin(Stdio::null())
            .stderr(log)
            .spawn()
            .unwrap();
        wait("the installer starts", || starts() > before);
        Installer(Some(child))
    }

    pub(crate) fn report_file(&self) -> PathBuf {
        self.root.join("report.json")
    }

    fn log_file(&self) -> PathBuf {
        self.root.join("installer.log")
    }

    pub(crate) fn log(&self) -> String {
        fs::read_to_string(self.log_file()).unwrap_or_default()
    }

    pub(crate) fn wait_installed(&self) {
        wait("the conflist is there", || self.conf().join(OWN).exists());
    }

    /// A plugin of another release: it does the same, and its file differs.
    pub(crate) fn other_plugin(&self, variant: usize) -> PathBuf {
        let path = self.root.join(format!("npc-cni-{variant}"));
        let mut bytes = fs::read(binary("npc-cni")).unwrap();
        bytes.extend(format!("release {variant}").bytes());
        fs::write(&path, bytes).unwrap();
        path
    }

    /// `npc cleanup --cni` with these arguments besides the folders: its code and what it prints.
    pub(crate) fn cleanup(&self, more: &[&str]) -> (Option<i32>, String) {
        let mut command = self.node.netns().command(binary("npc"));
        command.args(["cleanup", "--cni"]).args(more);
        for (flag, folder) in
            [("--cni-conf-dir", self.conf()), ("--cni-bin-dir", self.bin()), ("--cni-cache-dir", self.cache())]
        {
            command.arg(flag).arg(folder);
        }
        let output = command.output().unwrap();
        (output.status.code(), String::from_utf8_lossy(&output.stdout).into_owned())
    }

    /// Whether a process runs our plugin.
    pub(crate) fn runs_plugin(&self) -> bool {
        let plugin = self.bin().join("npc-cni");
        let processes = fs::read_dir("/proc").unwrap().flatten();
        processes.into_iter().any(|process| fs::read_link(process.path().join("exe")).is_ok_and(|exe| exe == plugin))
    }

    /// Installs, until the installer ends with these words of the API server.
    pub(crate) fn end(&self, installer: Installer, says: Says) {
        self.api.says(says);
        installer.terminate();
    }

    /// What the runtime uses: the first file by name. A file that it cannot read is an error,
    /// as with containerd.
    pub(crate) fn configuration(&self) -> Result<Value, String> {
        let mut files = self.files();
        files.retain(|name, _| [".conf", ".conflist", ".json"].iter().any(|end| name.ends_with(end)));
        let (name, text) = files.into_iter().next().ok_or("no network configuration")?;
        let value: Value = serde_json::from_str(&text).map_err(|error| format!("{name}: {error}"))?;
        // Multus calls the chain of its delegate.
        let value = if value["type"] == "multus" { value["delegates"][0].clone() } else { value };
        if value["plugins"].as_array().is_none_or(Vec::is_empty) {
            return Err(format!("{name} has no plugins"));
        }
        Ok(value)
    }

    /// A sandbox that no plugin was called for yet.
    pub(crate) fn sandbox(&self, name: &str) -> Sandbox {
        let number = SANDBOXES.fetch_add(1, Ordering::Relaxed);
        // With the node's name before it, so that the node removes what is left.
        let own = self.node.netns().name().strip_suffix("-node").unwrap();
        let netns = Netns::create([format!("{own}-s{number}")], self.node.folder()).unwrap().remove(0);
        ip(&format!("-n {} link set lo up", netns.name()));
        // The reference plugins wait for duplicate address detection.
        netns.within(|| fs::write("/proc/sys/net/ipv6/conf/default/accept_dad", "0")).unwrap().unwrap();
        let id = format!("c{number}");
        Sandbox { name: name.to_owned(), id, netns, chain: Vec::new(), result: Value::Null, is_ours: false }
    }

    /// ADD, by the plugins of the configuration that is there now. After an error the runtime
    /// calls DEL.
    pub(crate) fn add(&self, sandbox: &mut Sandbox) -> Result<(), String> {
        let list = self.configuration()?;
        self.add_by(sandbox, &list)
    }

    /// ADD, by the plugins of a configuration that the runtime has read before.
    pub(crate) fn add_by(&self, sandbox: &mut Sandbox, list: &Value) -> Result<(), String> {
        let inject = |plugin: &Value| {
            let mut plugin = plugin.clone();
            plugin["cniVersion"] = list["cniVersion"].clone();
            plugin["name"] = list["name"].clone();
            plugin
        };
        sandbox.chain = list["plugins"].as_array().unwrap().iter().map(inject).collect();
        sandbox.is_ours = sandbox.chain.iter().any(|plugin| plugin["type"] == "npc-cni");
        // As libcni keeps it, though not as base64.
        fs::write(self.cache().join(&sandbox.id), list.to_string()).unwrap();
        let mut previous = Value::Null;
        for plugin in &sandbox.chain {
            match self.call("ADD", sandbox, plugin, &previous) {
                Ok(result) => previous = result,
                Err(error) => {
                    self.delete(sandbox).unwrap();
                    return Err(error);
                }
            }
        }
        sandbox.result = previous;
        Ok(())
    }

    /// DEL, by the chain of ADD, which the runtime kept.
    pub(crate) fn delete(&self, sandbox: &Sandbox) -> Result<(), String> {
        for plugin in sandbox.chain.iter().rev() {
            self.call("DEL", sandbox, plugin, &sandbox.result)?;
        }
        let _ = fs::remove_file(self.cache().join(&sandbox.id));
        Ok(())
    }

    fn call(&self, command: &str, sandbox: &Sandbox, plugin: &Value, previous: &Value) -> Result<Value, String> {
        let kind = plugin["type"].as_str().unwrap();
        if PASS_ON.contains(&kind) {
            return Ok(previous.clone());
        }
        let mut input = plugin.clone();
        if !previous.is_null() {
            input["prevResult"] = previous.clone();
        }
        let mut child = self
            .node
            .netns()
            .command(self.bin().join(kind))
            .env("CNI_COMMAND", command)
            .env("CNI_CONTAINERID", &sandbox.id)
            .env("CNI_NETNS", Path::new("/run/netns").join(sandbox.netns.name()))
            .env("CNI_IFNAME", "eth0")
            .env("CNI_PATH", self.bin())
            .env(
                "CNI_ARGS",
                format!(
                    "IgnoreUnknown=1;K8S_POD_NAMESPACE=shop;K8S_POD_NAME={};K8S_POD_UID=uid-{}",
                    sandbox.name, sandbox.name
                ),
            )
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .map_err(|error| format!("{command} by {kind}: {error}"))?;
        // One that has read enough closes the pipe.
        let _ = child.stdin.take().unwrap().write_all(input.to_string().as_bytes());
        let Output { status, stdout, stderr } = child.wait_with_output().unwrap();
        let (stdout, stderr) = (String::from_utf8_lossy(&stdout), String::from_utf8_lossy(&stderr));
        if !status.success() {
            return Err(format!("{command} by {kind}: {stdout} {stderr}"));
        }
        Ok(if stdout.trim().is_empty() { Value::Null } else { serde_json::from_str(&stdout).unwrap() })
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("the installer's log:\n{}", self.log());
        }
    }
}

impl Sandbox {
    pub(crate) fn addresses(&self) -> Vec<IpAddr> {
        let ips = self.result["ips"].as_array().cloned().unwrap_or_default();
        let address = |ip: &Value| ip["address"].as_str()?.split('/').next()?.parse().ok();
        ips.iter().filter_map(address).collect()
    }

    /// Its network namespace goes, as a runtime removes it.
    pub(crate) fn remove(self) {
        ip(&format!("netns del {}", self.netns.name()));
    }
}

impl Installer {
    /// Ends it as the kubelet does, and waits.
    pub(crate) fn terminate(mut self) {
        let mut child = self.0.take().unwrap();
        let pid = child.id().to_string();
        assert!(Command::new("kill").args(["-TERM", &pid]).status().unwrap().success());
        assert!(child.wait().unwrap().success());
    }

    /// Ends it as a node that is short of memory does.
    pub(crate) fn kill(mut self) {
        let mut child = self.0.take().unwrap();
        child.kill().unwrap();
        child.wait().unwrap();
    }
}

impl Drop for Installer {
    fn drop(&mut self) {
        if let Some(mut child) = self.0.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

/// Keeps an error of one thread for another.
#[derive(Default)]
pub(crate) struct Faults(Mutex<Vec<String>>);

impl Faults {
    pub(crate) fn add(&self, fault: String) {
        self.0.lock().unwrap().push(fault);
    }

    pub(crate) fn assert_none(&self) {
        let faults = self.0.lock().unwrap();
        assert!(faults.is_empty(), "{}", faults.join("\n"));
    }
}
