//! What the agent follows: signals, the network, the objects, and requests over HTTP.

use std::future;
use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::Context as _;
use jiff::Timestamp;
use npc_agent::dataplane::conntrack_table::ConntrackTable;
use npc_agent::dataplane::ipset::Ipset;
use npc_agent::dataplane::network::{self, NetworkFollower};
use npc_agent::dataplane::nflog::{self, PacketReader};
use npc_agent::enforce::{Event, Settings};
use npc_agent::install_cni::report::{self, InstallReport};
use npc_agent::metrics::{self, CniInstaller, Metrics};
use npc_agent::serve::{self, Purpose, Served};
use npc_agent::source::difference::LastObjects;
use npc_agent::source::manifests::{self, Loaded};
use npc_agent::source::watch_metrics::Watches;
use npc_agent::source::{Changes, ObjectKind, directory};
use npc_agent::status::{CniPlugin, HeldRemovals, SharedStatus};
use npc_agent::tasks::Tasks;
use npc_agent::words::rounded::rounded;
use npc_compiler::object::Objects;
use tokio::runtime::Handle;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::mpsc;
use tokio::time;
use tracing::{error, info, warn};

use super::standing;
use super::threads;

use crate::command::{Exit, Stop};

/// How long to wait before the kernel's network is asked for anew after its
/// socket was lost.
const NETWORK_RETRY: Duration = Duration::from_secs(1);

/// How long to wait before an address that could not be had is tried again.
const ADDRESS_RETRY: Duration = Duration::from_secs(10);

/// The time between two reads of the conntrack table's counters.
const CONNTRACK: Duration = Duration::from_secs(10);
/// How often the report of the CNI plugin's installer is read.
const REPORT_PERIOD: Duration = Duration::from_secs(5);

/// Serves what the installer of the CNI plugin reports: metrics, and `npc status`.
pub(super) fn cni_report(path: Option<PathBuf>, metrics: CniInstaller, status: SharedStatus, tasks: &mut Tasks) {
    let Some(path) = path else { return };
    tasks.spawn("reads the report of the CNI plugin's installer", async move {
        // Until the first report the installer counts as silent from the agent's start on.
        let begun = report::now();
        let mut last = None;
        let mut has_failed = false;
        loop {
            match InstallReport::read(&path) {
                Ok(Some(report)) => (last, has_failed) = (Some(report), false),
                Err(error) if !has_failed => {
                    warn!(%error, path = %path.display(), "cannot read the report of the CNI plugin's installer");
                    has_failed = true;
                }
                Ok(None) | Err(_) => {}
            }
            let now = report::now();
            metrics.set(last.as_ref().unwrap_or(&InstallReport { at: begun, ..InstallReport::default() }), now);
            let plugin = CniPlugin::of(last.as_ref(), begun, now);
            status.update(|status| status.cni_plugin = Some(plugin));
            time::sleep(REPORT_PERIOD).await;
        }
    });
}

/// Answers requests. An address that the agent cannot listen on keeps no policy from
/// being enforced. Every pod may ask for metrics, so that has a thread that gives way to all others;
/// kubelet's probes do not wait for it.
pub(super) fn requests(
    purpose: Purpose,
    address: SocketAddr,
    settings: &Settings,
    tasks: &mut Tasks,
) -> anyhow::Result<()> {
    let served = Served {
        metrics: settings.metrics.clone(),
        status: settings.status.clone(),
        liveness: settings.liveness.clone(),
        main: Handle::current(),
    };
    let flag = match purpose {
        Purpose::Metrics => "--metrics-address",
        Purpose::Health => "--health-address",
    };
    let serve = async move {
        while let Err(error) = serve::serve(purpose, address, served.clone()).await {
            error!(%address, %error, flag, retry = ?rounded(ADDRESS_RETRY), "cannot listen on this address; trying again");
            time::sleep(ADDRESS_RETRY).await;
        }
    };
    match purpose {
        Purpose::Metrics => tasks
            .thread("serves metrics over HTTP", |guard| serve::run_beside(guard, serve))
            .context(threads::NO_THREAD)?,
        Purpose::Health => tasks.spawn("serves probes over HTTP", serve),
    }
    Ok(())
}

pub(super) fn signals(sender: mpsc::Sender<Event>, tasks: &mut Tasks) -> io::Result<()> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    tasks.spawn("takes signals", async move {
        let signal = tokio::select! {
            _ = terminate.recv() => "SIGTERM",
            _ = interrupt.recv() => "SIGINT",
        };
        info!(signal, "received a signal to end");
        // Without a receiver the agent has ended.
        let _ = sender.send(Event::Shutdown).await;
        // The agent ends when it takes that.
        future::pending::<()>().await;
    });
    Ok(())
}

/// Reports the packets that the rules drop. Answers whether that is possible; if not,
/// policies are enforced all the same.
pub(super) fn denied(sender: mpsc::Sender<Event>, tasks: &mut Tasks) -> bool {
    let started = PacketReader::open().and_then(|reader| {
        // A thread of its own, which ends with the process: it waits in the
        // kernel.
        let thread = std::thread::Builder::new().name("nflog".to_owned());
        tasks.thread("logs denied flows", |guard| {
            thread.spawn(move || {
                if let Err(error) = read_denied(reader, &sender) {
                    error!(%error, "denied flows are not logged any more");
                }
                guard.may_end();
            })?;
            Ok(())
        })
    });
    if let Err(error) = &started {
        warn!(%error, "denied flows are not logged");
    }
    started.is_ok()
}

/// While the agent is busy this waits too, and the kernel reports that it had no room.
fn read_denied(mut reader: PacketReader, sender: &mpsc::Sender<Event>) -> Result<(), nflog::Error> {
    while sender.blocking_send(Event::Denied(reader.receive()?)).is_ok() {}
    Ok(())
}

/// Watches how full the kernel's connection tracking is.
pub(super) fn connections(metrics: &Metrics, tasks: &mut Tasks) {
    let conntrack = metrics.conntrack().clone();
    tasks.spawn("watches how full the conntrack table is", async move {
        let (mut last, mut fails) = (metrics::Last::default(), false);
        loop {
            match ConntrackTable::read() {
                Ok(table) => {
                    fails = false;
                    let ConntrackTable { entries, limit, .. } = table;
                    match conntrack.is(table, &mut last) {
                        Some(metrics::TableChange::Full) => warn!(
                            entries,
                            limit,
                            "the conntrack table is full; the kernel drops new connections that policies allow, too. \
                             Raise net.netfilter.nf_conntrack_max, or find the pod that opens them"
                        ),
                        Some(metrics::TableChange::HasRoom) => {
                            info!(entries, limit, "the conntrack table has room again");
                        }
                        None => {}
                    }
                }
                Err(error) if !fails => {
                    fails = true;
                    warn!(%error, "cannot read how full the conntrack table is; policies are enforced all the same");
                }
                Err(_) => {}
            }
            time::sleep(CONNTRACK).await;
        }
    });
}

pub(super) async fn network(sender: mpsc::Sender<Event>, tasks: &mut Tasks) -> Result<(), network::Error> {
    let start = || async { Ok(NetworkFollower::start().await?.of_interfaces(true)) };
    let mut follower = start().await?;
    tasks.spawn("follows this node's network", async move {
        let mut network = follower.network().clone();
        while sender.send(Event::Network(network)).await.is_ok() {
            network = loop {
                let lost = match follower.changed().await {
                    Ok(network) => break network.clone(),
                    Err(lost) => lost,
                };
                warn!(error = %lost, "lost the socket that follows this node's network; opening another");
                time::sleep(NETWORK_RETRY).await;
                match start().await {
                    Ok(again) => {
                        follower = again;
                        break follower.network().clone();
                    }
                    Err::<_, network::Error>(error) => error!(%error, "cannot read this node's addresses"),
                }
            };
        }
    });
    Ok(())
}

/// Whether this kernel isolates pods now, since an earlier agent.
pub(super) fn kernel_isolates() -> bool {
    let heads = Ipset::open().and_then(|mut sets| sets.heads());
    match heads {
        Ok(heads) => heads.iter().any(|(name, head)| name.is_isolated_set() && head.members != Some(0)),
        Err(error) => {
            // What cannot be read is doubted: at worst the first list is asked for twice.
            let error = format!("{:#}", anyhow::Error::new(error));
            warn!(error, "cannot read which pods the kernel isolates");
            true
        }
    }
}

/// Why the agent does not apply a directory without any object.
const EMPTY: &str = "the directory of manifests holds no object; if it is meant, give --allow-empty";

/// Reads the directory once; what is wrong with it is an error.
pub(super) async fn manifests_once(
    sender: mpsc::Sender<Event>,
    folder: PathBuf,
    node: &str,
    allow_empty: bool,
) -> anyhow::Result<()> {
    let load = move || match directory::is_empty(&folder) {
        Ok(true) if allow_empty => Ok(Loaded::default()),
        Ok(true) => Err(Stop::new(Exit::Input, EMPTY)),
        _ => manifests::load(&[folder], &manifests::ReadOptions::default())
            .map_err(|errors| Stop::new(Exit::Input, errors.for_agent())),
    };
    let loaded = tokio::task::spawn_blocking(load).await??;
    if is_empty(&loaded.objects) && !allow_empty {
        return Err(Stop::new(Exit::Input, EMPTY.to_owned()).into());
    }
    log_problems(&loaded.problems);
    if let Some(words) = warning_without_nodes(&loaded.objects) {
        warn!("{words}");
    }
    // The channel has room: nothing else is in it yet.
    Ok(sender.send(changes(&mut LastObjects::default(), loaded, node)).await?)
}

/// Follows the directory.
///
/// What was never understood may be the very policy that denies something, so
/// nothing is reported before every file was read well once. Later a bad file keeps its
/// last good objects and the others go on. A directory without any object is no cluster
/// without policies: more likely it is the wrong one, not filled yet, or another was
/// mounted in its place. So it changes nothing, unless the operator allows it.
pub(super) fn manifests(
    sender: mpsc::Sender<Event>,
    folder: PathBuf,
    node: String,
    allow_empty: bool,
    settings: &Settings,
    tasks: &mut Tasks,
) -> anyhow::Result<()> {
    let mut updates = directory::follow(folder, manifests::ReadOptions::default())
        .context("cannot start the thread that follows the directory of manifests")?;
    let watches = settings.metrics.watches();
    let status = settings.status.clone();
    tasks.spawn("follows the directory of manifests", async move {
        let mut begun = false;
        let mut had_errors = false;
        let mut nowhere = None;
        let mut untold = None;
        let mut known = LastObjects::default();
        let mut in_force = Objects::default();
        let mut is_held = false;
        while let Some(update) = updates.next().await {
            let (errors, count) = standing::errors(&update.standing);
            watches.manifest_errors(count);
            status.update(|status| status.manifest_errors = errors);
            log_problems(&update.problems);
            if had_errors && count == 0 {
                info!("all manifests read again");
            }
            had_errors = count > 0;
            untold = update.loaded.or(untold);
            if !begun && !update.never_read.is_empty() {
                let files: Vec<_> = update.never_read.iter().map(|file| file.display().to_string()).collect();
                error!(files = files.join(" "), "nothing is written to the kernel before these files are correct");
                continue;
            }
            let is_empty = update.is_empty || untold.as_ref().is_some_and(|loaded| is_empty(&loaded.objects));
            let holds = is_empty && !allow_empty;
            if holds != std::mem::replace(&mut is_held, holds) {
                report_held(holds.then_some(&in_force), &watches, &status);
            }
            if holds {
                continue;
            }
            let Some(loaded) = untold.take() else { continue };
            begun = true;
            in_force.clone_from(&loaded.objects);
            let was_nowhere = std::mem::replace(&mut nowhere, warning_without_nodes(&loaded.objects));
            if let Some(words) = nowhere.filter(|_| was_nowhere.is_none()) {
                warn!("{words}");
            }
            if sender.send(changes(&mut known, loaded, &node)).await.is_err() {
                return;
            }
        }
    });
    Ok(())
}

/// How many objects of each kind that an agent follows there are.
fn counts(objects: &Objects) -> [(ObjectKind, usize); 4] {
    [
        (ObjectKind::Pod, objects.pods.len()),
        (ObjectKind::Namespace, objects.namespaces.len()),
        (ObjectKind::NetworkPolicy, objects.policies.len()),
        (ObjectKind::Node, objects.nodes.len()),
    ]
}

fn is_empty(objects: &Objects) -> bool {
    counts(objects).iter().all(|(_, count)| *count == 0)
}

/// Says that the directory holds no object while these are in force, or that it holds
/// some again.
fn report_held(in_force: Option<&Objects>, watches: &Watches, status: &SharedStatus) {
    let held = counts(in_force.unwrap_or(&Objects::default()));
    let mut removals = Vec::new();
    for (kind, objects) in held {
        watches.held(kind, objects);
        if objects > 0 {
            let (kind, since) = (kind.as_str().to_owned(), Timestamp::now());
            removals.push(HeldRemovals { kind, objects, since });
        }
    }
    match (in_force, removals.is_empty()) {
        (None, _) => info!("the directory of manifests holds objects again"),
        (_, true) => warn!("{EMPTY}; nothing is written to the kernel before it holds one"),
        (_, false) => error!("{EMPTY}; the last objects stay in force"),
    }
    status.update(|status| status.held_removals = removals);
}

/// A warning if no pod is on any node, as those that workloads stand for are: nothing can be
/// isolated then, here or elsewhere.
fn warning_without_nodes(objects: &Objects) -> Option<&'static str> {
    let is_nowhere = !objects.pods.is_empty() && objects.pods.iter().all(|pod| pod.node.is_none());
    is_nowhere.then_some(
        "no pod in the files says which node it is on (spec.nodeName), so nothing is isolated here; pods of workloads, \
         as a Deployment's, are on none",
    )
}

/// What is different in the files.
fn changes(known: &mut LastObjects, loaded: Loaded, node: &str) -> Event {
    let changes = known.changes(&loaded.objects, node);
    Event::Changes(Changes { positions: Some(Box::new(loaded.positions)), ..changes })
}

fn log_problems(problems: &[manifests::Problem]) {
    for problem in problems {
        match problem.severity() {
            manifests::Severity::Warning => warn!("{}", problem.without_severity()),
            manifests::Severity::Error => error!("{}", problem.without_severity()),
        }
    }
}
