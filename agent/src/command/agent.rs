//! `npc agent`: keeps the kernel of this node equal to the policies.

mod sole;

use std::fs;
use std::io::{self, IsTerminal};
use std::path::PathBuf;
use std::time::Duration;

use anyhow::Context as _;
use npc_agent::dataplane::Linux;
use npc_agent::dataplane::backend::Backend;
use npc_agent::dataplane::network::{self, Follower};
use npc_agent::enforce::{self, Enforcer, Event, Settings};
use npc_agent::source::difference::Known;
use npc_agent::source::manifests::{self, Loaded};
use npc_agent::source::{Changes, directory};
use npc_compiler::layout;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::mpsc;
use tokio::time;
use tracing::{error, info, warn};
use tracing_subscriber::EnvFilter;

use super::Exit;

/// How many events may wait while a pass runs; who has more to tell waits too.
const EVENTS: usize = 16;

/// How long to wait before the kernel's network is asked for anew after its
/// socket was lost.
const NETWORK_RETRY: Duration = Duration::from_secs(1);

/// Enforce the policies on this node.
///
/// Programs the kernel of the network namespace it runs in and follows every
/// change. Ending it, in whatever way, leaves the rules in place. A second one
/// in the same network namespace is refused.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Read the objects from the YAML and JSON files of this directory, and
    /// follow its changes.
    #[arg(long, value_name = "DIR")]
    manifests: PathBuf,

    /// The name of this node, as pods have it in spec.nodeName [default: the
    /// host's name].
    #[arg(long, value_name = "NAME", env = "NODE_NAME")]
    node: Option<String>,

    /// Which iptables to use; auto looks at what lives in the kernel.
    #[arg(long, value_enum, default_value_t)]
    backend: BackendArg,

    /// Let flows that are established go on under policies that deny them.
    #[arg(long)]
    keep_established: bool,

    /// Let pods that are isolated for egress send IPIP, 6in4 and GRE where a
    /// rule without ports admits it.
    #[arg(long)]
    allow_tunnels: bool,

    /// Program the kernel once and exit.
    #[arg(long)]
    once: bool,

    /// While the kernel is up to date, keep a file here that holds how many
    /// states of the objects went into it.
    #[arg(long, value_name = "PATH")]
    ready_file: Option<PathBuf>,

    /// How to write the log, on standard error. NPC_LOG sets what is logged,
    /// as in `NPC_LOG=debug`.
    #[arg(long, value_enum, default_value_t)]
    log_format: LogFormat,
}

#[derive(Debug, Clone, Copy, Default, clap::ValueEnum)]
enum BackendArg {
    #[default]
    Auto,
    Nft,
    Legacy,
}

#[derive(Debug, Clone, Copy, Default, clap::ValueEnum)]
enum LogFormat {
    #[default]
    Text,
    Json,
}

/// Runs the agent until a signal ends it.
pub(super) fn run(args: Args) -> anyhow::Result<Exit> {
    log_to_stderr(args.log_format);
    // The work is one blocking pass at a time and little beside it.
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    runtime.block_on(agent(args))?;
    Ok(Exit::Fine)
}

async fn agent(args: Args) -> anyhow::Result<()> {
    let node = match args.node {
        Some(node) => node,
        None => hostname().context("cannot tell this node's name; give it with --node")?,
    };
    info!(version = env!("CARGO_PKG_VERSION"), node, manifests = %args.manifests.display(), "npc agent starts");
    // The ready file, too, is another agent's if there is one.
    sole::be_the_only_one().await?;
    let (sender, events) = mpsc::channel(EVENTS);
    // Before anything else, so that no signal is lost.
    follow_signals(sender.clone())?;
    follow_network(sender.clone()).await?;
    if args.once {
        read_objects(sender, args.manifests, &node).await?;
    } else {
        follow_objects(sender, args.manifests, node.clone())?;
    }

    let backend = match args.backend {
        BackendArg::Auto => None,
        BackendArg::Nft => Some(Backend::Nft),
        BackendArg::Legacy => Some(Backend::Legacy),
    };
    let kernel = tokio::task::spawn_blocking(move || Linux::open(backend)).await??;
    let options = layout::Options {
        keep_established: args.keep_established,
        allow_tunnels: args.allow_tunnels,
        ..layout::Options::default()
    };
    let enforcer = Enforcer::new(kernel, node.clone()).with_options(options);
    let settings = Settings { node, once: args.once, ready_file: args.ready_file };
    Ok(enforce::run(enforcer, settings, events).await?)
}

fn hostname() -> io::Result<String> {
    Ok(fs::read_to_string("/proc/sys/kernel/hostname")?.trim().to_owned())
}

fn follow_signals(sender: mpsc::Sender<Event>) -> io::Result<()> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    tokio::spawn(async move {
        let signal = tokio::select! {
            _ = terminate.recv() => "SIGTERM",
            _ = interrupt.recv() => "SIGINT",
        };
        info!(signal, "told to end");
        // An agent that does not listen any more has ended.
        let _ = sender.send(Event::Shutdown).await;
    });
    Ok(())
}

async fn follow_network(sender: mpsc::Sender<Event>) -> Result<(), network::Error> {
    let mut follower = Follower::start().await?;
    tokio::spawn(async move {
        let mut network = follower.network().clone();
        while sender.send(Event::Network(network)).await.is_ok() {
            network = loop {
                let lost = match follower.changed().await {
                    Ok(network) => break network.clone(),
                    Err(lost) => lost,
                };
                warn!(error = %lost, "lost sight of this node's addresses; looking again");
                time::sleep(NETWORK_RETRY).await;
                match Follower::start().await {
                    Ok(again) => {
                        follower = again;
                        break follower.network().clone();
                    }
                    Err(error) => error!(%error, "cannot read this node's addresses"),
                }
            };
        }
    });
    Ok(())
}

/// Reads the directory once; what is wrong with it is an error.
async fn read_objects(sender: mpsc::Sender<Event>, folder: PathBuf, node: &str) -> anyhow::Result<()> {
    let load = move || manifests::load(&[folder], &manifests::Options::default());
    let loaded = tokio::task::spawn_blocking(load).await??;
    log_problems(&loaded.problems);
    // The channel has room: nothing else is in it yet.
    Ok(sender.send(changes(&mut Known::default(), loaded, node)).await?)
}

/// Follows the directory.
///
/// What was never understood may be the very policy that denies something, so
/// nothing is told before every file was read well once. Nor is a directory
/// without files a cluster without policies, before any was ever there: more
/// likely it is the wrong one, or not filled yet. Later a bad file keeps its last
/// good objects and the others go on, and who empties the directory means it.
fn follow_objects(sender: mpsc::Sender<Event>, folder: PathBuf, node: String) -> io::Result<()> {
    let mut updates = directory::follow(folder, manifests::Options::default())?;
    tokio::spawn(async move {
        let mut begun = false;
        let mut said_empty = false;
        let mut untold = None;
        let mut known = Known::default();
        while let Some(update) = updates.next().await {
            log_problems(&update.problems);
            untold = update.loaded.or(untold);
            if !begun && update.is_empty {
                if !std::mem::replace(&mut said_empty, true) {
                    warn!(
                        "no *.yaml, *.yml or *.json file is in the directory of manifests; nothing is written to the \
                         kernel before there is one"
                    );
                }
                continue;
            }
            if !begun && !update.never_read.is_empty() {
                let files: Vec<_> = update.never_read.iter().map(|file| file.display().to_string()).collect();
                error!(files = files.join(" "), "nothing is written to the kernel before these files are correct");
                continue;
            }
            let Some(loaded) = untold.take() else { continue };
            begun = true;
            if sender.send(changes(&mut known, loaded, &node)).await.is_err() {
                return;
            }
        }
    });
    Ok(())
}

/// What is different in the files.
fn changes(known: &mut Known, loaded: Loaded, node: &str) -> Event {
    let changes = known.changes(&loaded.objects, node);
    Event::Changes(Changes { positions: Some(loaded.positions), ..changes })
}

fn log_problems(problems: &[manifests::Problem]) {
    for problem in problems {
        match problem.severity {
            manifests::Severity::Warning => warn!("{problem}"),
            manifests::Severity::Error => error!("{problem}"),
        }
    }
}

fn log_to_stderr(format: LogFormat) {
    let filter = EnvFilter::try_from_env("NPC_LOG").unwrap_or_else(|_| EnvFilter::new("info"));
    let log = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(io::stderr)
        .with_target(false)
        // Told on the same standard error, and a panic if nobody reads that
        // any more; policies are enforced all the same.
        .log_internal_errors(false);
    match format {
        LogFormat::Text => log.with_ansi(io::stderr().is_terminal()).init(),
        LogFormat::Json => log.json().flatten_event(true).init(),
    }
}
