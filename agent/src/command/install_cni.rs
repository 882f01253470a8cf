//! `npc install-cni`: keeps the CNI plugin in place on a node.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use clap::builder::RangedU64ValueParser;
use npc_agent::install_cni::decision::PluginSettings;
use npc_agent::install_cni::{self, Ask, InstallOptions, Run};
use npc_agent::source::kube;
use npc_agent::status::AgentStatus;
use npc_cni::configuration::{FailurePolicy, SOCKET};
use tokio::signal::unix::{SignalKind, signal};
use tracing::info;

use super::agent::{LogFormat, log_to_stderr};
use super::{Exit, Stop};

/// What help begins with.
const EXAMPLES: &str = "\
Examples:
  npc install-cni                                    the plugin beside npc, until a signal ends it
  npc install-cni --cni-bin-dir /usr/libexec/cni     where the runtime has its plugins elsewhere
  npc install-cni --daemon-set npc-system/npc --node node-1      remove the plugin once the DaemonSet is gone";

/// What help ends with.
const EXITS: &str = "\
Exit codes: 0 a signal ended it, 1 it could not install or had to end, 2 bad flags, 5 --daemon-set is given and no
kubeconfig can be used.";

/// Put the CNI plugin and its conflist in place on this node, and keep them there.
///
/// The conflist is derived from the runtime's own configuration and follows it. The command
/// runs until it gets a signal to end. Then, with --daemon-set, it asks the API server for that
/// DaemonSet: if it is gone or does not want the plugin here any more, the command removes
/// conflist and plugin. Otherwise both stay.
#[derive(Debug, clap::Args)]
#[command(before_help = EXAMPLES, after_help = EXITS)]
pub(super) struct Args {
    #[command(flatten)]
    places: NodePaths,

    /// The plugin to install [default: npc-cni beside this program].
    #[arg(long, value_name = "FILE", env = "NPC_CNI_PLUGIN")]
    plugin: Option<PathBuf>,

    /// Other folders in which the container runtime finds plugins, separated by commas. They are
    /// only read: npc's conflist does not appear while a plugin that it names is in no folder.
    #[arg(long = "cni-plugin-dirs", value_name = "DIRS", env = "NPC_CNI_PLUGIN_DIRS", value_delimiter = ',')]
    plugin_dirs: Vec<PathBuf>,

    /// The agent's socket on this node.
    #[arg(long, value_name = "PATH", env = "NPC_CNI_SOCKET", default_value = SOCKET)]
    cni_socket: String,

    /// For how many seconds a pod waits for the agent before kubelet tries again: 1 to 100.
    #[arg(long, value_name = "SECONDS", env = "NPC_CNI_TIMEOUT", default_value_t = 30,
        value_parser = RangedU64ValueParser::<u64>::new().range(1..=100))]
    timeout: u64,

    /// What becomes of a pod if the agent does not answer in time.
    #[arg(long, value_enum, default_value_t, env = "NPC_CNI_FAILURE_POLICY")]
    failure_policy: FailurePolicyArg,

    /// Namespaces whose pods start after 2 s if the agent does not answer, separated by commas.
    #[arg(long, value_name = "NAMES", env = "NPC_CNI_OPEN_NAMESPACES", value_delimiter = ',')]
    open_namespaces: Vec<String>,

    /// The DaemonSet that runs this command; at the end it decides whether the plugin stays
    /// [default: none, the plugin stays].
    #[arg(long, value_name = "NAMESPACE/NAME", env = "NPC_CNI_DAEMON_SET", value_parser = daemon_set)]
    daemon_set: Option<(String, String)>,

    /// The name of this command's container in the DaemonSet.
    #[arg(long, value_name = "NAME", env = "NPC_CNI_CONTAINER", default_value = "install-cni")]
    container: String,

    /// The name of this node.
    #[arg(long, value_name = "NAME", env = "NODE_NAME")]
    node: Option<String>,

    /// For how many seconds to ask the API server at the end: 1 to 600. The pod's grace period
    /// has to be longer.
    #[arg(long, value_name = "SECONDS", env = "NPC_CNI_GRACE", default_value_t = 20,
        value_parser = RangedU64ValueParser::<u64>::new().range(1..=600))]
    grace: u64,

    /// The kubeconfig of the cluster [default: in a pod its service account, else as kubectl].
    #[arg(long, value_name = "FILE", env = "NPC_KUBECONFIG")]
    kubeconfig: Option<PathBuf>,

    /// Write the state of the plugin here, for the agent's metrics.
    #[arg(long, value_name = "FILE", env = "NPC_CNI_REPORT")]
    report: Option<PathBuf>,

    /// The level of the log lines: `error`, `warn`, `info`, `debug`, `trace`.
    #[arg(long, value_name = "LEVEL", env = "NPC_LOG", default_value = "info")]
    log_level: String,

    /// The format of the log, which goes to standard error.
    #[arg(long, value_enum, default_value_t, env = "NPC_LOG_FORMAT")]
    log_format: LogFormat,
}

/// Where a node has what the plugin needs.
#[derive(Debug, Clone, clap::Args)]
pub(super) struct NodePaths {
    /// The folder in which the container runtime has its network configurations. It has the
    /// same path on the node and here.
    #[arg(long = "cni-conf-dir", value_name = "DIR", env = "NPC_CNI_CONF_DIR", default_value = "/etc/cni/net.d")]
    pub(super) conf_dir: PathBuf,

    /// The name of npc's conflist there. It has to sort before the runtime's own.
    #[arg(long = "cni-conf-name", value_name = "NAME", env = "NPC_CNI_CONF_NAME", default_value = "05-npc.conflist",
        value_parser = file_name)]
    pub(super) conf_name: String,

    /// The folder of the container runtime's CNI plugins.
    #[arg(long = "cni-bin-dir", value_name = "DIR", env = "NPC_CNI_BIN_DIR", default_value = "/opt/cni/bin")]
    pub(super) bin_dir: PathBuf,

    /// Where runtimes keep the configuration of each sandbox, separated by commas. The plugin
    /// is not removed while a file there names it.
    #[arg(
        long = "cni-cache-dir",
        value_name = "DIRS",
        env = "NPC_CNI_CACHE_DIR",
        value_delimiter = ',',
        default_value = "/var/lib/cni"
    )]
    pub(super) cache_dir: Vec<PathBuf>,
}

#[derive(Debug, Clone, Copy, Default, clap::ValueEnum)]
enum FailurePolicyArg {
    /// The pod does not start, and kubelet tries again.
    #[default]
    Closed,
    /// The pod starts before its policies are enforced.
    Open,
}

fn file_name(text: &str) -> Result<String, &'static str> {
    if text.ends_with(".conflist") && text.len() > ".conflist".len() && !text.contains('/') && !text.starts_with('.') {
        Ok(text.to_owned())
    } else {
        Err("a file name that ends in .conflist is expected, as 05-npc.conflist")
    }
}

fn daemon_set(text: &str) -> Result<(String, String), &'static str> {
    match text.split_once('/') {
        Some((namespace, name)) if !namespace.is_empty() && !name.is_empty() && !name.contains('/') => {
            Ok((namespace.to_owned(), name.to_owned()))
        }
        _ => Err("NAMESPACE/NAME is expected, as npc-system/npc"),
    }
}

impl NodePaths {
    /// What is installed, with settings that matter only to the installer.
    pub(super) fn options(&self) -> InstallOptions {
        let settings = PluginSettings {
            file: self.conf_name.clone(),
            path: self.conf_dir.join(&self.conf_name).display().to_string(),
            socket: SOCKET.to_owned(),
            timeout_seconds: 30,
            failure_policy: FailurePolicy::Closed,
            open_namespaces: Vec::new(),
        };
        InstallOptions {
            conf_dir: self.conf_dir.clone(),
            bin_dir: self.bin_dir.clone(),
            plugin_dirs: Vec::new(),
            cache_dirs: self.cache_dir.clone(),
            plugin: PathBuf::new(),
            settings,
            report: None,
            grace: Duration::ZERO,
            container: String::new(),
            node: String::new(),
        }
    }

    /// Removes conflist and plugin. Answers what was done, in words.
    pub(super) fn remove(&self, purge: bool) -> anyhow::Result<Vec<String>> {
        let options = self.options();
        if !self.conf_dir.is_dir() {
            return Ok(vec![format!("there is no {}", self.conf_dir.display())]);
        }
        let folder = install_cni::folder::Folder::new(&self.conf_dir, &self.conf_name);
        let claimed = folder.claim().with_context(|| format!("cannot lock {}", self.conf_dir.display()))?;
        let Some(_lock) = claimed else {
            let message = format!(
                "an npc install-cni works on {} and would put back at once what is removed; nothing was removed. Set \
                 cni.enabled=false or delete its DaemonSet, or to have no plugin on this node alone: mv {} {}.off",
                self.conf_dir.display(),
                options.settings.path,
                options.settings.path
            );
            return Err(Stop::new(Exit::Input, message).into());
        };
        let removed = install_cni::remove(&options, purge)?;
        let mut words = Vec::new();
        words.extend(removed.conflists.iter().map(|file| format!("removed {}", file.display())));
        let plugin = self.bin_dir.join("npc-cni");
        if removed.plugin {
            words.push(format!("removed {}", plugin.display()));
        }
        if let Some(file) = removed.kept_for.filter(|_| plugin.exists()) {
            words.push(format!(
                "kept {}: a runtime may call it for pods that were started with it, because {} names it; --purge removes it once only files of the cache do",
                plugin.display(),
                file.display()
            ));
        }
        if words.is_empty() {
            words.push("there is nothing of npc in the CNI configuration".to_owned());
        }
        Ok(words)
    }
}

/// Installs until a signal ends it.
pub(super) fn run(args: Args) -> anyhow::Result<Exit> {
    log_to_stderr(&args.log_level, args.log_format)?;
    tokio::runtime::Builder::new_current_thread().enable_all().build()?.block_on(install(args))?;
    Ok(Exit::Fine)
}

async fn install(args: Args) -> anyhow::Result<()> {
    // Before anything else, so that no signal is lost.
    let (mut term, mut interrupt) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
    let plugin = match args.plugin {
        Some(plugin) => plugin,
        None => beside_this_program().context("cannot find npc-cni beside this program; name it with --plugin")?,
    };
    let mut options = args.places.options();
    options.settings = PluginSettings {
        socket: args.cni_socket,
        timeout_seconds: args.timeout,
        failure_policy: match args.failure_policy {
            FailurePolicyArg::Closed => FailurePolicy::Closed,
            FailurePolicyArg::Open => FailurePolicy::Open,
        },
        open_namespaces: args.open_namespaces.into_iter().filter(|name| !name.is_empty()).collect(),
        ..options.settings
    };
    let node = args.node.unwrap_or_default();
    let options = InstallOptions {
        plugin_dirs: args.plugin_dirs.into_iter().filter(|folder| !folder.as_os_str().is_empty()).collect(),
        plugin,
        report: args.report,
        grace: Duration::from_secs(args.grace),
        container: args.container,
        node: node.clone(),
        ..options
    };
    let ask = match args.daemon_set {
        Some((namespace, name)) => {
            if node.is_empty() {
                return Err(Stop::new(Exit::Input, "--daemon-set needs the name of this node: --node").into());
            }
            let connector = kube::connect(args.kubeconfig.as_deref(), None)?;
            let client = connector.client()?;
            Some(Box::new(move || kube::daemon_set(&client, &namespace, &name, &node)) as Ask)
        }
        None => None,
    };
    info!(
        version = env!("CARGO_PKG_VERSION"), conflist = options.settings.path, plugins = %options.bin_dir.display(),
        "npc install-cni starts"
    );
    // With an agent that is ready and does not answer the plugin, no pod would start.
    let agent = Arc::new(|| AgentStatus::ask().is_ok_and(|status| status.lets_pods_start()));
    let stop = async move {
        tokio::select! {
            _ = term.recv() => {}
            _ = interrupt.recv() => {}
        }
    };
    Ok(Run::new(options, agent).until(stop, ask).await?)
}

fn beside_this_program() -> std::io::Result<PathBuf> {
    let own = std::env::current_exe()?;
    let plugin = own.parent().unwrap_or_else(|| Path::new("/")).join("npc-cni");
    std::fs::metadata(&plugin)?;
    Ok(plugin)
}
