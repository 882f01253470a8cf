//! `npc agent`: keeps the kernel of this node equal to the policies.

mod config;
mod follow;
mod logging;
mod privileges;
mod sole;

use std::fs;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use anyhow::Context as _;
use clap::builder::RangedI64ValueParser;
use npc_agent::dataplane::Linux;
use npc_agent::dataplane::backend::Backend;
use npc_agent::dataplane::surroundings;
use npc_agent::enforce::{self, AzureNpm, Enforcer, Event, Settings};
use npc_agent::serve::Purpose;
use npc_agent::source::kube;
use npc_compiler::ruleset::layout;
use tokio::sync::mpsc;
use tokio::sync::mpsc::error::TrySendError;
use tracing::{info, warn};

use super::Exit;

pub(super) use config::Config;
pub(super) use sole::refuse_beside_one;

/// How long what still runs at the end is waited for.
const SHUTDOWN: Duration = Duration::from_secs(5);

/// How many events may wait while a pass runs; who has more to tell waits too.
const EVENTS: usize = 16;

/// Enforce the policies on this node.
///
/// Programs the kernel of the network namespace it runs in and follows every
/// change. Ending it, in whatever way, leaves the rules in place. A second one
/// in the same network namespace is refused.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// A YAML file of settings, for what neither flags nor environment set: the
    /// flags' names in camelCase, as in `logLevel: debug`.
    #[arg(long, value_name = "FILE", env = "NPC_CONFIG")]
    pub(super) config: Option<PathBuf>,

    /// What was read of that file.
    #[arg(skip)]
    pub(super) file: Config,

    /// Read the objects from the YAML and JSON files of this directory, and
    /// follow its changes, instead of a cluster's.
    #[arg(long, value_name = "DIR", env = "NPC_MANIFESTS", conflicts_with_all = ["kubeconfig", "context"])]
    manifests: Option<PathBuf>,

    /// The kubeconfig of the cluster to follow [default: as kubectl's; in a
    /// pod, its service account].
    #[arg(long, value_name = "FILE", env = "NPC_KUBECONFIG")]
    kubeconfig: Option<PathBuf>,

    /// The context of the kubeconfig.
    #[arg(long, value_name = "NAME", env = "NPC_CONTEXT")]
    context: Option<String>,

    /// How many seconds a watch lasts before it is renewed from where it was;
    /// one that is silent for five more is given up.
    #[arg(long, value_name = "SECONDS", env = "NPC_WATCH_TIMEOUT", default_value_t = *kube::WATCH_SECONDS.end(),
        value_parser = watch_seconds())]
    watch_timeout: u32,

    /// The name of this node, as pods have it in spec.nodeName [default: the
    /// host's name].
    #[arg(long, value_name = "NAME", env = "NODE_NAME")]
    node: Option<String>,

    /// Which iptables to use; auto looks at what lives in the kernel.
    #[arg(long, value_enum, default_value_t, env = "NPC_BACKEND")]
    backend: BackendArg,

    #[command(flatten)]
    enforcement: Enforcement,

    /// Remove the taint npc.dev/agent-not-ready from this node as soon as its
    /// kernel is up to date; takes the right to patch nodes.
    #[arg(long, env = "NPC_REMOVE_STARTUP_TAINT")]
    remove_startup_taint: bool,

    /// What to do about what Azure NPM left in this kernel, its chains and
    /// sets: remove it once no pod of it is on this node, where a cluster
    /// tells of pods (auto); remove it as soon as it is not seen to run; or
    /// keep it.
    #[arg(long, value_enum, default_value_t, env = "NPC_AZURE_NPM")]
    azure_npm: AzureNpmArg,

    /// Program the kernel once and exit.
    #[arg(long)]
    once: bool,

    /// While the kernel is up to date, keep a file here that holds how many
    /// states of the objects went into it.
    #[arg(long, value_name = "PATH", env = "NPC_READY_FILE")]
    ready_file: Option<PathBuf>,

    /// Serve /metrics, /healthz and /readyz here; `off` serves nothing.
    #[arg(long, value_name = "ADDRESS:PORT", env = "NPC_METRICS_ADDRESS", default_value = "127.0.0.1:10901")]
    metrics_address: ListenAddress,

    /// Serve /healthz and /readyz here, for kubelet; `off` serves nothing. Where no pod
    /// reaches it, as on loopback, no pod keeps kubelet from an answer.
    #[arg(long, value_name = "ADDRESS:PORT", env = "NPC_HEALTH_ADDRESS", default_value = "off")]
    health_address: ListenAddress,

    /// What to log: `error`, `warn`, `info`, `debug`, `trace`, or directives as
    /// of RUST_LOG.
    #[arg(long, value_name = "LEVEL", env = "NPC_LOG", default_value = "info")]
    log_level: String,

    /// How to write the log, on standard error.
    #[arg(long, value_enum, default_value_t, env = "NPC_LOG_FORMAT")]
    log_format: LogFormat,
}

/// An address, or none.
#[derive(Debug, Clone, Copy)]
struct ListenAddress(Option<SocketAddr>);

impl FromStr for ListenAddress {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        if text == "off" {
            return Ok(Self(None));
        }
        // A DaemonSet writes $(HOST_IP):PORT, without brackets around an IPv6
        // address.
        let (address, port) = text.rsplit_once(':').ok_or("ADDRESS:PORT or off is wanted")?;
        let address = address.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')).unwrap_or(address);
        let address: IpAddr = address.parse().map_err(|_| "before the port, an IP address is wanted")?;
        let port: u16 = port.parse().map_err(|_| "behind the last colon, a port is wanted")?;
        Ok(Self(Some((address, port).into())))
    }
}

/// How policies are enforced.
#[derive(Debug, clap::Args)]
#[allow(clippy::struct_excessive_bools, reason = "each is a flag")]
struct Enforcement {
    /// Let flows that are established go on under policies that deny them.
    #[arg(long, env = "NPC_KEEP_ESTABLISHED")]
    keep_established: bool,

    /// Let pods that are isolated for egress send IPIP, 6in4 and GRE where a
    /// rule without ports admits it, and VXLAN, Geneve, GUE and GRE in UDP where a
    /// rule admits all of UDP without naming the port.
    #[arg(long, env = "NPC_ALLOW_TUNNELS")]
    allow_tunnels: bool,

    /// Log the flows that policies deny, each once a minute at most, with both
    /// ends and the policies by name.
    #[arg(long, env = "NPC_LOG_DENIED")]
    log_denied: bool,

    /// Drop what leaves a pod's interface with a source address that the node
    /// does not route to that interface.
    #[arg(long, env = "NPC_ANTI_SPOOF")]
    anti_spoof: bool,
}

#[derive(Debug, Clone, Copy, Default, clap::ValueEnum)]
enum BackendArg {
    #[default]
    Auto,
    Nft,
    Legacy,
}

#[derive(Debug, Clone, Copy, Default, clap::ValueEnum)]
enum AzureNpmArg {
    #[default]
    Auto,
    Remove,
    Keep,
}

#[derive(Debug, Clone, Copy, Default, clap::ValueEnum)]
enum LogFormat {
    #[default]
    Text,
    Json,
}

/// Runs the agent until a signal ends it.
pub(super) fn run(args: Args) -> anyhow::Result<Exit> {
    let level = logging::to_stderr(&args.log_level, args.log_format)?;
    privileges::drop_all_others();
    privileges::raise_descriptors();
    // The work is one blocking pass at a time and little beside it.
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    let ended = runtime.block_on(agent(args, level));
    // Not for as long as an iptables hangs that only counts packets.
    runtime.shutdown_timeout(SHUTDOWN);
    ended.map(|()| Exit::Fine)
}

async fn agent(args: Args, level: logging::Level) -> anyhow::Result<()> {
    let node = match args.node {
        Some(node) => node,
        None => hostname().context("cannot tell this node's name; give it with --node")?,
    };
    let source = args.manifests.as_ref().map_or_else(|| "cluster".to_owned(), |folder| folder.display().to_string());
    info!(version = env!("CARGO_PKG_VERSION"), node, source, "npc agent starts");
    let azure_npm = match args.azure_npm {
        // Files need not tell of its pods.
        AzureNpmArg::Auto if args.manifests.is_none() => AzureNpm::WhenGone,
        AzureNpmArg::Auto | AzureNpmArg::Keep => AzureNpm::Keep,
        AzureNpmArg::Remove => AzureNpm::Remove,
    };
    let mut settings =
        Settings { once: args.once, ready_file: args.ready_file, azure_npm, ..Settings::new(&node, &source) };
    settings.metrics = settings.metrics.with_lost_lines(level.lost.clone());
    // The ready file, too, is another agent's if there is one.
    sole::be_the_only_one(settings.status.clone()).await?;
    let (sender, events) = mpsc::channel(EVENTS);
    // By itself it keeps no agent alive that nobody else tells anything.
    let touched = sender.downgrade();
    // Before anything else, so that no signal is lost.
    follow::signals(sender.clone())?;
    for (purpose, address) in [(Purpose::Metrics, args.metrics_address), (Purpose::Health, args.health_address)] {
        if let Some(address) = address.0.filter(|_| !args.once) {
            follow::requests(purpose, address, &settings);
        }
    }
    if let Some(path) = args.config {
        level.follow(path, args.file);
    }
    follow::network(sender.clone()).await?;
    let denied = sender.clone();
    match args.manifests {
        Some(folder) if args.once => follow::manifests_once(sender, folder, &node).await?,
        Some(folder) => follow::manifests(sender, folder, node.clone())?,
        None => {
            let client = kube::connect(args.kubeconfig.as_deref(), args.context).await?;
            let (notices, heard) = mpsc::unbounded_channel();
            settings.notices = Some(notices);
            tokio::spawn(kube::tell(client.clone(), node.clone(), heard, args.remove_startup_taint));
            let wanted = settings.wanted_nodes.subscribe();
            tokio::spawn(kube::look_up(client.clone(), wanted, sender.clone(), Event::Changes));
            let watches = settings.metrics.watches();
            let follow = kube::follow(client, node.clone(), args.watch_timeout, sender, Event::Changes, watches);
            tokio::spawn(follow);
        }
    }

    let backend = match args.backend {
        BackendArg::Auto => None,
        BackendArg::Nft => Some(Backend::Nft),
        BackendArg::Legacy => Some(Backend::Legacy),
    };
    let mut kernel = tokio::task::spawn_blocking(move || Linux::open(backend)).await??;
    look_around();
    let counters = kernel.counters();
    settings.metrics.packets().are_read_by(move || counters.read());
    settings.status.update(|status| status.backend = Some(kernel.backend().to_string()));
    if let Some(bell) = kernel.bell()? {
        bell.ring(move || {
            // Where it is full, more comes, and what was to be heard waits.
            let Some(agent) = touched.upgrade() else { return false };
            !matches!(agent.try_send(Event::Touched), Err(TrySendError::Closed(_)))
        })?;
    }
    let options = layout::Options {
        keep_established: args.enforcement.keep_established,
        allow_tunnels: args.enforcement.allow_tunnels,
        log_denied: args.enforcement.log_denied && follow::denied(denied),
        anti_spoof: args.enforcement.anti_spoof,
        ..layout::Options::default()
    };
    let enforcer = Enforcer::new(kernel, node).with_options(options);
    Ok(enforce::run(enforcer, settings, events).await?)
}

/// Says what else on this node an operator should know of. Beside the start,
/// because a table of others may be long.
fn look_around() {
    if !surroundings::lock_is_shared() {
        warn!(
            "/run/xtables.lock of the node is not mounted into this container, so iptables here and on the node do not \
             take turns and may undo each other's writes; mount it (type FileOrCreate)"
        );
    }
    tokio::task::spawn_blocking(move || match surroundings::other_engines() {
        Ok(engines) => {
            for (engine, has) in engines {
                warn!(
                    engine,
                    has,
                    "another network policy engine has rules or sets in this kernel; a packet has to pass both. To leave Azure \
                     NPM see deploy/aks.md; any other has to be removed from the node"
                );
            }
        }
        Err(error) => warn!(%error, "cannot tell whether another network policy engine has rules in this kernel"),
    });
}

fn watch_seconds() -> RangedI64ValueParser<u32> {
    let (first, last) = kube::WATCH_SECONDS.into_inner();
    RangedI64ValueParser::new().range(i64::from(first)..=i64::from(last))
}

fn hostname() -> io::Result<String> {
    Ok(fs::read_to_string("/proc/sys/kernel/hostname")?.trim().to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_is_read_with_and_without_brackets() {
        for (text, address) in [
            ("127.0.0.1:10901", Some("127.0.0.1:10901")),
            ("[fd00::1]:80", Some("[fd00::1]:80")),
            ("fd00::1:80", Some("[fd00::1]:80")),
            ("off", None),
        ] {
            let read = text.parse::<ListenAddress>().expect(text).0;
            assert_eq!(read, address.map(|address| address.parse().expect(address)), "{text}");
        }
        for text in ["127.0.0.1", "localhost:80", "127.0.0.1:http", "", "on"] {
            assert!(text.parse::<ListenAddress>().is_err(), "{text}");
        }
    }
}
