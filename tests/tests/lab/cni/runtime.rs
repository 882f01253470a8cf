//! containerd with runc on a [`Node`], spoken to as the kubelet does.

use std::collections::HashMap;
use std::env;
use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::OnceLock;

use npc_tests::lab::write_program;
use npc_tests::skip::{Lack, skipped};
use serde_json::{Value, json};

use super::node::{Node, REFERENCE, binary, wait};
use super::rpc::{self, call};

/// The one image: of each sandbox, and of each container.
const IMAGE: &str = "docker.io/test/hammer:1";

/// The shim that runs a sandbox by runc.
const SHIM: &str = "containerd-shim-runc-v2";

/// Which containerd.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Release {
    /// 1.6, of Debian bookworm, with CNI 1.0.0.
    Bookworm,
    /// 2.1, with CNI 1.1.0 and plugins that speak it.
    Next,
}

impl Release {
    const fn cni_version(self) -> &'static str {
        match self {
            Self::Bookworm => "1.0.0",
            Self::Next => "1.1.0",
        }
    }

    /// That the program is of this release: since 2.1 a containerd asks STATUS, which the tests are about.
    fn check(self, containerd: &Path) {
        let Ok(printed) = Command::new(containerd).arg("--version").output() else { return };
        let printed = String::from_utf8_lossy(&printed.stdout).into_owned();
        let version = printed.split_whitespace().map(|word| word.trim_start_matches('v')).find_map(|word| {
            let (major, rest) = word.split_once('.')?;
            Some((major.parse::<u32>().ok()?, rest.split('.').next()?.parse::<u32>().ok()?))
        });
        let is_right = match self {
            Self::Bookworm => version.is_some_and(|(major, _)| major == 1),
            Self::Next => version.is_some_and(|version| version >= (2, 1)),
        };
        assert!(is_right, "{self:?} is {printed}");
    }
}

/// How often a sandbox is tried again that the plugin ptp could not give its routes.
const PTP_TRIES: usize = 5;

/// A containerd. All of its processes, and what it mounted, go with it.
pub(crate) struct Runtime {
    /// `unshare`, whose end is the end of the process namespace.
    child: Child,
    folder: PathBuf,
    /// The folder of each control group of a sandbox, in each hierarchy.
    cgroup: String,
}

/// A sandbox that runs.
pub(crate) struct Sandbox {
    id: String,
    config: rpc::PodSandboxConfig,
    log: PathBuf,
}

impl Runtime {
    /// Starts one with the node's chain of plugins. `None` where this machine cannot have it.
    pub(crate) fn start(node: &Node, release: Release) -> Option<Self> {
        Self::start_with(node, release, &node.chain(), true)
    }

    /// The folder of the configurations of the one below a node's folder.
    pub(crate) fn conf(node: &Path) -> PathBuf {
        node.join("containerd/net.d")
    }

    /// The folder of its plugins.
    pub(crate) fn bin(node: &Path) -> PathBuf {
        node.join("containerd/cni")
    }

    /// Starts one with another chain, and with our plugin in its folder or not.
    pub(crate) fn start_with(node: &Node, release: Release, chain: &[Value], has_plugin: bool) -> Option<Self> {
        let programs = Programs::find(release)?;
        let image = image()?;
        let folder = node.folder().join("containerd");
        fs::create_dir(&folder).unwrap();
        let at = folder.clone();
        let path = |name: &str| at.join(name).display().to_string();
        fs::create_dir(path("cni")).unwrap();
        for entry in fs::read_dir(&programs.plugins).unwrap() {
            let entry = entry.unwrap();
            symlink(entry.path(), folder.join("cni").join(entry.file_name())).unwrap();
        }
        if has_plugin {
            symlink(binary("npc-cni"), folder.join("cni/npc-cni")).unwrap();
        }
        fs::create_dir(path("net.d")).unwrap();
        let config = format!(
            "version = 2\nroot = {:?}\nstate = {:?}\n[grpc]\n  address = {:?}\n\
             [plugins.\"io.containerd.grpc.v1.cri\"]\n  sandbox_image = {IMAGE:?}\n  disable_apparmor = true\n  \
             restrict_oom_score_adj = true\n  netns_mounts_under_state_dir = true\n  \
             [plugins.\"io.containerd.grpc.v1.cri\".cni]\n    bin_dir = {:?}\n    conf_dir = {:?}\n",
            path("root"),
            path("state"),
            path("socket"),
            path("cni"),
            path("net.d"),
        );
        fs::write(path("config.toml"), config).unwrap();
        // A process namespace of its own, so that no shim outlives it, and a mount namespace
        // whose /sys shows the node's interfaces and the machine's control groups.
        let script = "set -e; mount -t proc proc /proc; mkdir \"$1/cgroup\"; mount --rbind /sys/fs/cgroup \"$1/cgroup\"; \
                      mount -t sysfs sysfs /sys; mount --rbind \"$1/cgroup\" /sys/fs/cgroup; \
                      exec \"$2\" --config \"$1/config.toml\"";
        let log = fs::File::create(folder.join("log")).unwrap();
        let child = Command::new("nsenter")
            .arg(format!("--net=/run/netns/{}", node.netns().name()))
            .args(["unshare", "--mount", "--pid", "--fork", "--kill-child", "sh", "-c", script, "sh"])
            .args([&folder, &programs.containerd])
            .env("PATH", programs.path())
            .stdin(Stdio::null())
            .stdout(log.try_clone().unwrap())
            .stderr(log)
            .spawn()
            .unwrap();
        let runtime = Self { child, folder, cgroup: format!("{}-containers", node.name()) };
        runtime.write_conflist(release, chain);
        wait("containerd answers", || runtime.status().is_ok());
        let ctr = Command::new(&programs.ctr)
            .args(["--address", &path("socket"), "--namespace", "k8s.io", "images", "import"])
            .arg(image)
            .output()
            .unwrap();
        assert!(ctr.status.success(), "{}", String::from_utf8_lossy(&ctr.stderr));
        wait("containerd knows the image", || {
            let asked = rpc::ImageStatus { image: Some(rpc::ImageSpec { image: IMAGE.to_owned() }) };
            runtime.call::<rpc::Found>("ImageService/ImageStatus", &asked).is_ok_and(|found| found.found.is_some())
        });
        Some(runtime)
    }

    /// Writes the configuration of this chain of plugins, which containerd then reads.
    pub(crate) fn write_conflist(&self, release: Release, plugins: &[Value]) {
        let list = json!({"cniVersion": release.cni_version(), "name": "net", "plugins": plugins});
        // In the same folder: containerd 2 does not notice a file that comes from another.
        let half = self.folder.join("net.d/half");
        fs::write(&half, list.to_string()).unwrap();
        fs::rename(half, self.folder.join("net.d/10-net.conflist")).unwrap();
    }

    /// Puts a program in place of `npc-cni`.
    pub(super) fn replace_plugin(&self, script: &str) {
        let half = self.folder.join("half");
        write_program(&half, script).unwrap();
        fs::rename(half, self.folder.join("cni/npc-cni")).unwrap();
    }

    fn call<A: prost::Message + Default>(&self, method: &str, request: &impl prost::Message) -> Result<A, String> {
        call(&self.folder.join("socket"), method, request)
    }

    /// Whether the node has a network, and why not: what the kubelet makes of the node's
    /// condition Ready.
    pub(crate) fn status(&self) -> Result<(), String> {
        let status: rpc::Status = self.call("RuntimeService/Status", &rpc::Empty {})?;
        let conditions = status.status.unwrap_or_default().conditions;
        match conditions.iter().find(|condition| condition.kind == "NetworkReady") {
            Some(condition) if condition.status => Ok(()),
            Some(condition) => Err(format!("{}: {}", condition.reason, condition.message)),
            None => Err("no condition NetworkReady".to_owned()),
        }
    }

    /// Makes the sandbox of a pod, with these host ports of its ports.
    pub(crate) fn run_sandbox(&self, name: &str, ports: &[(i32, i32)]) -> Result<Sandbox, String> {
        let logs = self.folder.join("logs").join(name);
        fs::create_dir_all(&logs).unwrap();
        let port = |&(host_port, container_port): &(i32, i32)| rpc::PortMapping { container_port, host_port };
        let config = rpc::PodSandboxConfig {
            metadata: Some(rpc::PodSandboxMetadata {
                name: name.to_owned(),
                uid: format!("uid-{name}"),
                namespace: "shop".to_owned(),
            }),
            hostname: name.to_owned(),
            log_directory: logs.display().to_string(),
            port_mappings: ports.iter().map(port).collect(),
            linux: Some(rpc::LinuxPodSandboxConfig { cgroup_parent: format!("/{}", self.cgroup) }),
        };
        let request = rpc::RunPodSandbox { config: Some(config.clone()) };
        let mut run: Result<rpc::Id, String> = self.call("RuntimeService/RunPodSandbox", &request);
        // The plugin ptp adds a route from an IPv6 address that on a busy machine is still tentative. It fails then, and
        // kubelet tries again.
        for _ in 0..PTP_TRIES {
            if !run.as_ref().is_err_and(|error| error.contains("plugin type=\"ptp\" failed (add): failed to add route"))
            {
                break;
            }
            run = self.call("RuntimeService/RunPodSandbox", &request);
        }
        Ok(Sandbox { id: run?.id, config, log: logs.join("0.log") })
    }

    /// Starts the container of a sandbox with these arguments.
    pub(super) fn start_container(&self, sandbox: &Sandbox, arguments: &[String]) -> Result<(), String> {
        let config = rpc::ContainerConfig {
            metadata: Some(rpc::ContainerMetadata { name: "hammer".to_owned() }),
            image: Some(rpc::ImageSpec { image: IMAGE.to_owned() }),
            arguments: arguments.to_vec(),
            log_path: "0.log".to_owned(),
        };
        let create = rpc::CreateContainer {
            sandbox: sandbox.id.clone(),
            config: Some(config),
            sandbox_config: Some(sandbox.config.clone()),
        };
        let container: rpc::Id = self.call("RuntimeService/CreateContainer", &create)?;
        self.call("RuntimeService/StartContainer", &container).map(|rpc::Empty {}| ())
    }

    /// Ends a sandbox with all that is in it.
    pub(crate) fn remove(&self, sandbox: &Sandbox) -> Result<(), String> {
        let id = rpc::Id { id: sandbox.id.clone() };
        self.call("RuntimeService/StopPodSandbox", &id).map(|rpc::Empty {}| ())?;
        self.call("RuntimeService/RemovePodSandbox", &id).map(|rpc::Empty {}| ())
    }
}

impl Sandbox {
    /// As the runtime, and so the plugins, know it.
    pub(super) fn id(&self) -> &str {
        &self.id
    }

    /// What the container has printed: each line, with how often.
    pub(super) fn printed(&self) -> HashMap<String, usize> {
        let mut lines = HashMap::new();
        for line in fs::read_to_string(&self.log).unwrap_or_default().lines() {
            // The time, the stream, and whether the line is whole come before.
            let text = line.splitn(4, ' ').nth(3).unwrap_or_default().to_owned();
            *lines.entry(text).or_default() += 1;
        }
        lines
    }

    pub(super) fn has_printed(&self, text: &str) -> bool {
        self.printed().contains_key(text)
    }
}

impl Drop for Runtime {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let log = fs::read_to_string(self.folder.join("log")).unwrap_or_default();
            let of_interest = log.lines().filter(|line| !line.contains("level=info"));
            eprintln!("containerd's log:\n{}", of_interest.collect::<Vec<_>>().join("\n"));
        }
        let _ = self.child.kill();
        let _ = self.child.wait();
        let root = Path::new("/sys/fs/cgroup");
        for hierarchy in fs::read_dir(root).into_iter().flatten().flatten() {
            remove_cgroups(&hierarchy.path().join(&self.cgroup));
        }
        remove_cgroups(&root.join(&self.cgroup));
    }
}

/// Removes a control group with those in it. Its processes have been killed, and the kernel
/// takes a moment for each.
fn remove_cgroups(folder: &Path) {
    let Ok(entries) = fs::read_dir(folder) else { return };
    for entry in entries.flatten().filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir())) {
        remove_cgroups(&entry.path());
    }
    for _ in 0..200 {
        if fs::remove_dir(folder).is_ok() {
            return;
        }
        std::thread::sleep(std::time::Duration::from_millis(10));
    }
    eprintln!("the control group {} cannot be removed", folder.display());
}

struct Programs {
    containerd: PathBuf,
    ctr: PathBuf,
    plugins: PathBuf,
    folders: Vec<PathBuf>,
}

impl Programs {
    fn find(release: Release) -> Option<Self> {
        let [base, ctr, runc] = ["containerd", "ctr", "runc"].map(find);
        let base = base?;
        let next = base.parent()?.join("next");
        let (containerd, plugins, name) = match release {
            Release::Bookworm => (base.clone(), REFERENCE.into(), "containerd"),
            Release::Next => (next.join("containerd"), next.clone(), "containerd-2"),
        };
        let (ctr, runc) = (ctr?, runc?);
        release.check(&containerd);
        let folder = containerd.parent()?.to_owned();
        if !containerd.is_file() || !folder.join(SHIM).is_file() && find(SHIM).is_none() {
            skipped(
                Lack::Program(name),
                &format!("{} or {SHIM} is missing; make tools fetches it", containerd.display()),
            );
            return None;
        }
        // runc puts each container into a control group.
        let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
        if !mounts.contains(" - cgroup") {
            skipped(Lack::ControlGroups, &"no control groups are mounted, so runc starts no container");
            return None;
        }
        Some(Self { ctr, plugins, folders: vec![folder, runc.parent()?.to_owned()], containerd })
    }

    fn path(&self) -> std::ffi::OsString {
        let path = env::var_os("PATH").unwrap_or_default();
        let folders = self.folders.iter().cloned().chain(env::split_paths(&path));
        env::join_paths(folders).unwrap()
    }
}

/// A program on the PATH. Where there is none, the calling test is skipped.
fn find(name: &'static str) -> Option<PathBuf> {
    let path = env::var_os("PATH").unwrap_or_default();
    let found = env::split_paths(&path).map(|folder| folder.join(name)).find(|file| file.is_file());
    if found.is_none() {
        skipped(Lack::Program(name), &format!("{name} is not on the PATH; make tools fetches it"));
    }
    found
}

/// The image of `hammer.rs` as a static binary, made once.
fn image() -> Option<PathBuf> {
    static MADE: OnceLock<Option<tempfile::TempDir>> = OnceLock::new();
    let folder = MADE.get_or_init(|| {
        let rustc = find("rustc")?;
        let folder = tempfile::tempdir().unwrap();
        let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/lab/cni/hammer.rs");
        let program = folder.path().join("npc");
        let options = ["--edition=2024", "-Ctarget-feature=+crt-static", "-Cpanic=abort", "-Cstrip=symbols", "-o"];
        let made = Command::new(rustc).args(options).arg(&program).arg(source).output().unwrap();
        assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
        let root = folder.path().join("root");
        fs::create_dir(&root).unwrap();
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("../deploy/image/tar.sh");
        let (name, file) = (IMAGE.trim_start_matches("docker.io/"), folder.path().join("image.tar"));
        let made = Command::new(script).arg(name).arg(file).arg(program).env("NPC_ROOTFS", root).output().unwrap();
        assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
        Some(folder)
    });
    folder.as_ref().map(|folder| folder.path().join("image.tar"))
}
