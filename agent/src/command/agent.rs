//! `npc agent`: keeps the kernel of this node equal to the policies.

mod config;
mod follow;
mod key_value;
mod listen_address;
mod logging;
mod privileges;
mod single_instance;
mod standing;
mod threads;

use std::fs;
use std::io;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::Context as _;
use clap::builder::{RangedI64ValueParser, RangedU64ValueParser};
use npc_agent::cni::{self, AskPolicies};
use npc_agent::dataplane::Linux;
use npc_agent::dataplane::backend::Backend;
use npc_agent::dataplane::other_engines;
use npc_agent::enforce::{self, AzureNpm, Enforcer, Event, ReadyFileScope, Settings};
use npc_agent::serve::Purpose;
use npc_agent::service::ServiceManager;
use npc_agent::source::held::Times;
use npc_agent::source::kube;
use npc_agent::tasks::Tasks;
use npc_compiler::ruleset::layout::{self, Bounds};
use tokio::sync::mpsc;
use tokio::sync::mpsc::error::TrySendError;
use tracing::{info, warn};

use super::Exit;
use listen_address::ListenAddress;

pub(super) use config::Config;
pub(super) use logging::to_stderr as log_to_stderr;
pub(super) use single_instance::refuse_beside_agent;

/// How long what still runs at the end is waited for.
const SHUTDOWN: Duration = Duration::from_secs(5);

/// How many events may wait while a pass runs. A sender of more waits too.
const EVENTS: usize = 16;

/// What help begins with.
const EXAMPLES: &str = "\
Examples:
  npc agent --node node-1                            follow the cluster of the kubeconfig, or of the pod
  npc agent --node node-1 --manifests policies/      follow files instead
  npc agent --node node-1 --manifests policies/ --once      program the kernel once, and exit";

/// What help ends with.
const VARIABLES_AND_EXITS: &str = "\
Environment variables without a flag:
  NPC_FLOW_INDEX=0           with --cni-socket: keep no index of addresses that have connections. ADDs of the
                             CNI plugin then wait until the kernel's table of connections is searched
  NPC_LARGE_CHANGES_FIRST=0  write a large change at once. Changes of other namespaces then wait for it
  XTABLES_LOCKFILE=FILE      the lock that iptables takes, if it is not /run/xtables.lock

Exit codes: 0 a signal ended it, or --once is done, 1 it had to end (the log says why), 2 bad flags or manifests,
3 the input has no node of this name, 5 no kubeconfig can be used.";

/// Run the agent, which enforces the policies on this node.
///
/// The agent programs the kernel of the network namespace that it runs in, and
/// follows every change. When it ends, its rules stay in the kernel and enforce. A
/// second agent in the same network namespace does not start.
#[derive(Debug, clap::Args)]
#[command(before_help = EXAMPLES, after_help = VARIABLES_AND_EXITS)]
pub(super) struct Args {
    /// A YAML file of settings. Its keys are the flags in camelCase, such as
    /// `logLevel: debug`. Flags and environment variables override it.
    #[arg(long, value_name = "FILE", env = "NPC_CONFIG")]
    pub(super) config: Option<PathBuf>,

    /// What was read of that file.
    #[arg(skip)]
    pub(super) file: Config,

    /// Read objects from the YAML and JSON files of this directory instead of a
    /// cluster, and follow their changes.
    #[arg(long, help_heading = "Source", value_name = "DIR", env = "NPC_MANIFESTS", conflicts_with_all = ["kubeconfig", "context"])]
    manifests: Option<PathBuf>,

    /// The kubeconfig of the cluster [default: in a pod its service account, else
    /// as kubectl].
    #[arg(long, help_heading = "Source", value_name = "FILE", env = "NPC_KUBECONFIG")]
    kubeconfig: Option<PathBuf>,

    /// The context of the kubeconfig.
    #[arg(long, help_heading = "Source", value_name = "NAME", env = "NPC_CONTEXT")]
    context: Option<String>,

    /// How many seconds a watch lasts before the agent renews it from where it
    /// was: 10 to 110. A watch that is silent for five seconds more is given up.
    #[arg(long, help_heading = "Source", value_name = "SECONDS", env = "NPC_WATCH_TIMEOUT", default_value_t = *kube::WATCH_SECONDS.end(),
        value_parser = watch_seconds())]
    watch_timeout: u32,

    /// After HTTP 410, wait a random time up to so many seconds before listing, so that
    /// nodes do not list at once: 0 to 600.
    #[arg(long, help_heading = "Source", value_name = "SECONDS", env = "NPC_RELIST_SPREAD", default_value_t = 30,
        value_parser = RangedI64ValueParser::<u32>::new().range(0..=600))]
    relist_spread: u32,

    /// If a list lacks all policies, all namespaces, more than half of the pods or this
    /// Node, keep those objects until a list that begins at least SECONDS later agrees.
    /// 0: never hold; 3600 at most.
    #[arg(long, help_heading = "Source", value_name = "SECONDS", env = "NPC_HOLD_REMOVALS", default_value_t = 30,
        value_parser = RangedI64ValueParser::<u32>::new().range(0..=3600))]
    hold_removals: u32,

    /// Once the API server has answered for so many seconds, 1 to 86400, apply removals that were held
    /// back, even if no second list agrees; never if it seems to be of another cluster.
    #[arg(long, help_heading = "Source", value_name = "SECONDS", env = "NPC_HOLD_REMOVALS_AT_MOST", default_value_t = 120,
        value_parser = RangedI64ValueParser::<u32>::new().range(1..=86_400))]
    hold_removals_at_most: u32,

    /// Believe a manifests directory without any object, and enforce no policy.
    /// Otherwise the last objects stay in force.
    #[arg(long, help_heading = "Source", env = "NPC_ALLOW_EMPTY")]
    allow_empty: bool,

    /// The name of this node, as in spec.nodeName of its pods [default: the
    /// host's name].
    #[arg(long, help_heading = "Node", value_name = "NAME", env = "NODE_NAME")]
    node: Option<String>,

    /// Which iptables to use. `auto` takes the one that holds the node's other
    /// rules.
    #[arg(long, help_heading = "Node", value_enum, default_value_t, env = "NPC_BACKEND")]
    backend: BackendArg,

    #[command(flatten)]
    enforcement: Enforcement,

    /// Remove the taint npc.dev/agent-not-ready from this node after the first
    /// sync. The agent needs the right to patch nodes for it.
    #[arg(long, help_heading = "Node", env = "NPC_REMOVE_STARTUP_TAINT")]
    remove_startup_taint: bool,

    /// When to remove the chains and sets that Azure NPM left in this kernel:
    /// once the cluster has no pod of Azure NPM on this node (auto), as soon as
    /// Azure NPM does not run (remove), or never (keep).
    #[arg(long, help_heading = "Node", value_enum, default_value_t, env = "NPC_AZURE_NPM")]
    azure_npm: AzureNpmArg,

    /// Program the kernel once, and exit.
    #[arg(long, help_heading = "Node")]
    once: bool,

    /// Keep a file here while the agent is ready. It holds a number that grows
    /// with each change of the objects that is in the kernel.
    #[arg(long, help_heading = "Reporting", value_name = "PATH", env = "NPC_READY_FILE")]
    ready_file: Option<PathBuf>,

    /// Serve /metrics, /healthz and /readyz here; `off` serves none of them.
    #[arg(
        long,
        help_heading = "Reporting",
        value_name = "ADDRESS:PORT",
        env = "NPC_METRICS_ADDRESS",
        default_value = "127.0.0.1:10901"
    )]
    metrics_address: ListenAddress,

    /// Serve /healthz and /readyz here, for kubelet; `off` serves nothing. Use
    /// loopback, so that pods cannot block kubelet's probes.
    #[arg(
        long,
        help_heading = "Reporting",
        value_name = "ADDRESS:PORT",
        env = "NPC_HEALTH_ADDRESS",
        default_value = "off"
    )]
    health_address: ListenAddress,

    /// Serve the CNI plugin npc-cni on this unix socket, as /run/npc/cni.sock [default:
    /// none]. Its folder is root's alone and holds what the plugin reported.
    #[arg(long, help_heading = "CNI", value_name = "PATH", env = "NPC_CNI_SOCKET")]
    cni_socket: Option<PathBuf>,

    /// Read here what `npc install-cni` reports, and serve it as metrics.
    #[arg(long, help_heading = "CNI", value_name = "FILE", env = "NPC_CNI_REPORT")]
    cni_report: Option<PathBuf>,

    /// The level of npc's own log lines: `error`, `warn`, `info`, `debug`,
    /// `trace`. Lines of a library appear only if a directive as in RUST_LOG names
    /// it: `info,kube=debug`.
    #[arg(long, help_heading = "Reporting", value_name = "LEVEL", env = "NPC_LOG", default_value = "info")]
    log_level: String,

    /// The format of the log, which goes to standard error.
    #[arg(long, help_heading = "Reporting", value_enum, default_value_t, env = "NPC_LOG_FORMAT")]
    log_format: LogFormat,
}

/// How policies are enforced.
#[derive(Debug, clap::Args)]
#[allow(clippy::struct_excessive_bools, reason = "each is a flag")]
struct Enforcement {
    /// Do not cut established flows that policies deny now.
    #[arg(long, help_heading = "Enforcement", env = "NPC_KEEP_ESTABLISHED")]
    keep_established: bool,

    /// Let pods that are isolated for egress send tunnels: IPIP, 6in4 and GRE if a
    /// rule without ports admits them, VXLAN, Geneve, GUE and GRE in UDP if a rule
    /// admits all of UDP.
    #[arg(long, help_heading = "Enforcement", env = "NPC_ALLOW_TUNNELS")]
    allow_tunnels: bool,

    /// Log each flow that policies deny, at most once a minute, with both ends and
    /// the policies by name.
    #[arg(long, help_heading = "Enforcement", env = "NPC_LOG_DENIED")]
    log_denied: bool,

    /// Drop packets from a pod's interface whose source address the node does not
    /// route to that interface.
    #[arg(long, help_heading = "Enforcement", env = "NPC_ANTI_SPOOF")]
    anti_spoof: bool,

    /// How many members the sets of one namespace's policies may have together on this
    /// node. Beyond that, the largest policies admit nothing here.
    #[arg(long, help_heading = "Enforcement", value_name = "COUNT", env = "NPC_MAX_SET_MEMBERS", default_value_t = Bounds::default().set_members,
        value_parser = RangedU64ValueParser::<u64>::new().range(1..))]
    max_set_members: u64,

    /// How many rules that admit something one namespace's policies may have together on
    /// this node. Beyond that, the largest policies admit nothing here.
    #[arg(long, help_heading = "Enforcement", value_name = "COUNT", env = "NPC_MAX_RULES", default_value_t = Bounds::default().rules,
        value_parser = RangedU64ValueParser::<u64>::new().range(1..))]
    max_rules: u64,
}

#[derive(Debug, Clone, Copy, Default, clap::ValueEnum)]
enum BackendArg {
    #[default]
    Auto,
    Nft,
    Legacy,
}

impl BackendArg {
    /// The backend that the operator chose, if one.
    fn chosen(self) -> Option<Backend> {
        match self {
            Self::Auto => None,
            Self::Nft => Some(Backend::Nft),
            Self::Legacy => Some(Backend::Legacy),
        }
    }
}

#[derive(Debug, Clone, Copy, Default, clap::ValueEnum)]
enum AzureNpmArg {
    #[default]
    Auto,
    Remove,
    Keep,
}

impl AzureNpmArg {
    fn meaning(self, has_files: bool) -> AzureNpm {
        match self {
            // Files need not have its pods.
            Self::Auto if !has_files => AzureNpm::WhenGone,
            Self::Auto | Self::Keep => AzureNpm::Keep,
            Self::Remove => AzureNpm::Remove,
        }
    }
}

#[derive(Debug, Clone, Copy, Default, clap::ValueEnum)]
pub(super) enum LogFormat {
    #[default]
    Text,
    Json,
}

/// Runs the agent until a signal ends it.
pub(super) fn run(args: Args) -> anyhow::Result<Exit> {
    let level = logging::to_stderr(&args.log_level, args.log_format)?;
    privileges::drop_all_others();
    privileges::raise_descriptors();
    let runtime = threads::runtime()?;
    let ended = runtime.block_on(agent(args, level));
    // Not for as long as an iptables hangs that only counts packets.
    runtime.shutdown_timeout(SHUTDOWN);
    ended.map(|()| Exit::Fine)
}

async fn agent(args: Args, level: logging::Level) -> anyhow::Result<()> {
    let node = match args.node {
        Some(node) => node,
        None => hostname().context("cannot read this node's name; give it with --node")?,
    };
    let source = args.manifests.as_ref().map_or_else(|| "cluster".to_owned(), |folder| folder.display().to_string());
    info!(version = env!("CARGO_PKG_VERSION"), node, source, "npc agent starts");
    let azure_npm = args.azure_npm.meaning(args.manifests.is_some());
    let mut settings =
        Settings { once: args.once, ready_file: args.ready_file, azure_npm, ..Settings::new(&node, &source) };
    settings.metrics = settings.metrics.with_lost_lines(level.lost.clone());
    settings.service = ServiceManager::from_environment()
        .context("systemd would not learn that the agent starts: cannot connect to NOTIFY_SOCKET")?;
    // The ready file, too, is another agent's if there is one.
    let mut tasks = Tasks::default();
    let _instance = single_instance::claim(settings.status.clone(), &mut tasks).await?;
    let _ready_file = ReadyFileScope::begin(settings.ready_file.clone(), args.once).map_err(enforce::Error::Ready)?;
    let (sender, events) = mpsc::channel(EVENTS);
    // Weak: by itself it does not keep the channel open when all other senders have ended.
    let notified = sender.downgrade();
    // Before anything else, so that no signal is lost.
    follow::signals(sender.clone(), &mut tasks)?;
    for (purpose, address) in [(Purpose::Metrics, args.metrics_address), (Purpose::Health, args.health_address)] {
        if let Some(address) = address.0.filter(|_| !args.once) {
            follow::requests(purpose, address, &settings, &mut tasks)?;
        }
    }
    follow::cni_report(args.cni_report, settings.metrics.cni_installer(), settings.status.clone(), &mut tasks);
    if let Some(path) = args.config {
        level.follow(path, args.file, &mut tasks);
    }
    follow::network(sender.clone(), &mut tasks).await?;
    let denied = sender.clone();
    let connector = match &args.manifests {
        Some(_) => None,
        None => Some(kube::connect(args.kubeconfig.as_deref(), args.context.as_deref())?),
    };
    let client = connector.as_ref().map(kube::Connector::client).transpose()?;
    let has_plugin = args.cni_socket.is_some() && !args.once;
    let sender = match args.cni_socket.filter(|_| has_plugin) {
        Some(socket) => {
            let ask = client.clone().map(|client| AskPolicies::new(move |space| kube::policies_of(&client, &space)));
            let (metrics, status) = (settings.metrics.cni(), settings.status.clone());
            cni::start(cni::CniOptions { socket, node: node.clone(), ask, metrics, status }, sender, &mut tasks)
        }
        None => sender,
    };
    let mut cluster = None;
    match args.manifests {
        Some(folder) if args.once => follow::manifests_once(sender, folder, &node, args.allow_empty).await?,
        Some(folder) => follow::manifests(sender, folder, node.clone(), args.allow_empty, &settings, &mut tasks)?,
        None => {
            let (Some(connector), Some(client)) = (connector, client) else { unreachable!("no manifests") };
            let (notices, received) = mpsc::unbounded_channel();
            settings.notices = Some(notices);
            let write_notices = kube::write_notices(client.clone(), node.clone(), received, args.remove_startup_taint);
            tasks.spawn("writes Events", write_notices);
            let wanted = settings.wanted_nodes.subscribe();
            tasks.spawn("looks up Nodes", kube::look_up(client, wanted, sender.clone(), Event::Changes));
            let seconds = |seconds: u32| Duration::from_secs(seconds.into());
            let follow = kube::FollowSettings {
                watch_seconds: args.watch_timeout,
                relist_spread: seconds(args.relist_spread),
                hold: Times {
                    confirm_after: seconds(args.hold_removals),
                    at_most: seconds(args.hold_removals_at_most),
                },
                status: Some(settings.status.clone()),
                ..kube::FollowSettings::new(&node)
            };
            cluster = Some((connector, follow, sender));
        }
    }

    let backend = args.backend.chosen();
    let mut kernel = tokio::task::spawn_blocking(move || Linux::open(backend)).await??;
    if let Some((connector, mut follow, sender)) = cluster {
        // What an earlier agent isolated, before this one changes anything.
        follow.kernel_isolates = tokio::task::spawn_blocking(follow::kernel_isolates).await?;
        let follow = kube::follow(connector, follow, sender, Event::Changes, settings.metrics.watches());
        tasks.spawn("follows the cluster", follow);
    }
    warn_of_other_engines();
    follow::connections(&settings.metrics, &mut tasks);
    let counters = kernel.counters();
    settings.metrics.packets().are_read_by(move || counters.read());
    settings.status.update(|status| status.backend = Some(kernel.backend().to_string()));
    follow_packet_filter(&mut kernel, notified, &mut tasks)?;
    let log_denied = args.enforcement.log_denied && follow::denied(denied, &mut tasks);
    let options = layout::RulesetOptions { log_denied, ..rules_of(&args.enforcement)? };
    let mut enforcer = Enforcer::new(kernel, node).with_options(options).with_secret_places();
    // Only ADDs of the CNI plugin wait for flows (docs/adr/packets-note-addresses-with-flows.md).
    if has_plugin && std::env::var_os("NPC_FLOW_INDEX").is_none_or(|value| value != "0") {
        enforcer = enforcer.with_flow_index();
    }
    if std::env::var_os("NPC_LARGE_CHANGES_FIRST").is_none_or(|value| value != "0") {
        enforcer = enforcer.with_large_changes_first();
    }
    tokio::select! {
        biased;
        ended = enforce::run(enforcer, settings, events) => Ok(ended?),
        ended = tasks.ended() => Err(ended.into()),
    }
}

/// What the operator chose of the rules, and the secret of the node if one is given. That is
/// for tests, which compare what agents in several kernels write.
fn rules_of(chosen: &Enforcement) -> anyhow::Result<layout::RulesetOptions> {
    let seed = std::env::var("NPC_SEED").ok().filter(|seed| !seed.is_empty());
    Ok(layout::RulesetOptions {
        keep_established: chosen.keep_established,
        allow_tunnels: chosen.allow_tunnels,
        anti_spoof: chosen.anti_spoof,
        bounds: Bounds { set_members: chosen.max_set_members, rules: chosen.max_rules },
        seed: seed.map(|seed| seed.parse()).transpose().context("NPC_SEED")?,
        ..layout::RulesetOptions::default()
    })
}

/// Passes on that a program wrote to the packet filter.
fn follow_packet_filter(
    kernel: &mut Linux,
    notified: mpsc::WeakSender<Event>,
    tasks: &mut Tasks,
) -> anyhow::Result<()> {
    let Some(waiter) = kernel.change_waiter()? else { return Ok(()) };
    tasks.thread("listens for changes to the packet filter", |guard| {
        let pass_on = move || {
            // The thread has this for as long as it runs.
            let _ = &guard;
            // If it is full, the notification stays with the kernel's others, and the next audit
            // reads it.
            let Some(agent) = notified.upgrade() else { return false };
            !matches!(agent.try_send(Event::PacketFilterChanged), Err(TrySendError::Closed(_)))
        };
        waiter.spawn(pass_on).context(threads::NO_THREAD)
    })
}

/// Warns of other network policy engines on this node. This is not done before the start, because
/// other programs' tables may be long.
fn warn_of_other_engines() {
    if !other_engines::lock_is_shared() {
        warn!(
            "/run/xtables.lock of the node is not mounted into this container, so iptables here and on the node do not \
             take turns and may undo each other's writes; mount it (type FileOrCreate)"
        );
    }
    tokio::task::spawn_blocking(move || match other_engines::other_engines() {
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
        Err(error) => warn!(%error, "cannot read whether another network policy engine has rules in this kernel"),
    });
}

fn watch_seconds() -> RangedI64ValueParser<u32> {
    let (first, last) = kube::WATCH_SECONDS.into_inner();
    RangedI64ValueParser::new().range(i64::from(first)..=i64::from(last))
}

fn hostname() -> io::Result<String> {
    Ok(fs::read_to_string("/proc/sys/kernel/hostname")?.trim().to_owned())
}
