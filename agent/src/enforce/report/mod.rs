//! What an agent reports of its work: in the log, in metrics, in its status, in the ready
//! file, and to the cluster.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::io;
use std::net::IpAddr;
use std::time::{Duration, Instant};

use npc_compiler::engine::Event;
use npc_compiler::policy::finding::Finding;
use npc_compiler::ruleset::node::InterfaceName;
use tokio::sync::{mpsc, watch};
use tracing::{debug, error, info, warn};

use self::contention::Contention;
use self::findings::Findings;
use super::bridges::UnfilteredBridge;
use super::drift::Repair;
use super::obstacle::NodeName;
use super::pass::Pass;
use super::ready::ReadyFile;
use super::settings::Settings;
use super::sweeps::Passed;
use crate::dataplane::iptables::{Hook, Restored};
use crate::dataplane::{self, CutResult, ipset};
use crate::metrics::{DriftKind, Metrics};
use crate::source::notice::Notice;
use crate::source::{Change, Locate, ObjectKind, UnnamedNode};
use crate::status::{SharedStatus, Spoofable};
use crate::words::causes::with_causes;
use crate::words::rounded::rounded;

mod contention;
mod findings;
mod node;
mod publish;

/// How many changes are timed one by one. More come only while a kernel refuses for long.
const TIMED: usize = 1 << 16;

/// Whether the agent has reported that it is ready.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum LoggedReadiness {
    /// It never has.
    NeverReady,
    Ready,
    /// It has, and is not any more.
    Unready,
}

/// What the log has of the agent becoming ready.
#[derive(Debug, Clone, Copy)]
struct ReadyLine {
    generation: Option<u64>,
}

/// At most this many passes wait for sweeps. With more, the agent logs them without their sweeps.
const UNLOGGED: usize = 256;

/// What the log has of a pass.
#[derive(Debug)]
struct PassLine {
    number: u64,
    generation: u64,
    policies: usize,
    endpoints: usize,
    writes: String,
    is_nothing: bool,
    /// The namespaces whose large changes are not in force yet.
    loading: Option<String>,
    compiled: Duration,
    applied: Duration,
}

impl PassLine {
    fn log(&self) {
        let Self { generation, policies, endpoints, writes, loading, .. } = self;
        let (compiled, applied) = (rounded(self.compiled), rounded(self.applied));
        if self.is_nothing {
            debug!(generation, policies, endpoints, %writes, loading, ?compiled, ?applied, "ruleset unchanged");
        } else {
            info!(generation, policies, endpoints, %writes, loading, ?compiled, ?applied, "programmed ruleset");
        }
    }
}

/// Reports what is new, each thing once while it holds.
#[derive(Debug)]
pub(super) struct Reporter {
    node: String,
    metrics: Metrics,
    status: SharedStatus,
    ready_file: ReadyFile,
    notices: Option<mpsc::UnboundedSender<Notice>>,
    wanted_nodes: watch::Sender<BTreeSet<String>>,
    readiness: LoggedReadiness,
    /// How many passes there were.
    passes: u64,
    /// Those of them that the log does not have yet.
    unlogged: VecDeque<PassLine>,
    /// That the agent became ready, if that is not in the log yet.
    unlogged_ready: Option<ReadyLine>,
    /// The xtables lock that rules wait for.
    contention: Contention,
    /// Why the agent is not ready, as it is in the log.
    logged: Option<String>,
    node_name: NodeName,
    /// How many lost lines of the log it has reported so far.
    lost_lines: u64,
    /// What waits for the kernel, since when, and its namespace if that is known.
    waiting: Vec<(ObjectKind, Instant, Option<String>)>,
    /// The kind of each drift that is not repaired yet.
    unrepaired: Vec<DriftKind>,
    findings: Findings,
    /// Where the objects stand, if they are from files.
    locations: Option<Box<dyn Locate>>,
    bridges: BTreeSet<UnfilteredBridge>,
    unpinned: BTreeMap<InterfaceName, String>,
    /// Addresses that several pods list, and these pods.
    contests: BTreeMap<IpAddr, Vec<[String; 2]>>,
    /// Pods that can forge sources: since when, and whether that was logged.
    spoofable: BTreeMap<Spoofable, (Instant, bool)>,
}

impl Reporter {
    /// Removes the ready file of an earlier agent, which says nothing of this one.
    pub(super) fn new(settings: Settings) -> io::Result<Self> {
        Ok(Self {
            ready_file: ReadyFile::new(settings.ready_file)?,
            node: settings.node,
            metrics: settings.metrics,
            status: settings.status,
            notices: settings.notices,
            wanted_nodes: settings.wanted_nodes,
            readiness: LoggedReadiness::NeverReady,
            passes: 0,
            unlogged: VecDeque::new(),
            unlogged_ready: None,
            contention: Contention::default(),
            logged: None,
            node_name: NodeName::Known,
            lost_lines: 0,
            waiting: Vec::new(),
            unrepaired: Vec::new(),
            findings: Findings::default(),
            locations: None,
            bridges: BTreeSet::new(),
            unpinned: BTreeMap::new(),
            contests: BTreeMap::new(),
            spoofable: BTreeMap::new(),
        })
    }

    /// The objects stand here now.
    pub(super) fn locations_are(&mut self, locations: Box<dyn Locate>) {
        self.locations = Some(locations);
        self.findings.places_changed();
    }

    /// The agent received a change that the kernel is to follow.
    pub(super) fn received(&mut self, change: &Change) {
        if let Some(since) = change.received.filter(|_| self.waiting.len() < TIMED) {
            let namespace = match &change.event {
                Event::Pod(pod) => Some(pod.namespace.clone()),
                Event::PolicyGone(namespace, _) | Event::NamespaceGone(namespace) => Some(namespace.clone()),
                Event::Namespace(namespace) => Some(namespace.name.clone()),
                event => event.changed_policy().map(|policy| policy.namespace().to_owned()),
            };
            self.waiting.push((ObjectKind::of(&change.event), since, namespace));
        }
    }

    /// Whether the objects know this node, and the words of the source if they do not.
    pub(super) fn node_name_is(&mut self, now: NodeName, words: Option<&UnnamedNode>) {
        let was = std::mem::replace(&mut self.node_name, now);
        match (now, words) {
            (NodeName::Missing, Some(words)) if was == NodeName::Known => {
                self.not_ready(&words.obstacle);
                error!("{}", words.obstacle);
                self.logged = Some(words.obstacle.clone());
            }
            (NodeName::Gone, Some(words)) if was == NodeName::Known => warn!(node = self.node, "{}", words.gone),
            (NodeName::Known, _) if was == NodeName::Gone => {
                info!(node = self.node, "the objects name this node again");
            }
            _ => {}
        }
    }

    /// A pass has brought the kernel up to date.
    pub(super) fn passed(&mut self, pass: &Pass, generation: u64) {
        let loading: BTreeSet<&str> = pass.loading.iter().map(|loading| loading.namespace.as_str()).collect();
        let waits = |namespace: &Option<String>| namespace.as_ref().is_some_and(|name| loading.contains(&**name));
        for (kind, since, _) in self.waiting.extract_if(.., |(.., namespace)| !waits(namespace)) {
            self.metrics.reached_kernel(kind, pass.enforced.saturating_duration_since(since));
        }
        // What an audit could not repair, a pass does, which reads the kernel.
        self.repaired();
        self.contention.ended();
        self.bridges(&pass.unfiltered_bridges);
        for (family, found) in &pass.rehooked {
            match found {
                Hook::Absent => info!(%family, "hook inserted"),
                Hook::Displaced(_) | Hook::First => info!(%family, %found, "hook restored"),
            }
        }
        self.take_findings(pass);
        self.bridge_is(&pass.bridge);
        self.unpinned(pass);
        self.spoofable(pass);
        self.contested(pass);
        self.publish(pass, generation);
        let Pass { policies, endpoints, writes, compiled, applied, .. } = pass;
        self.passes += 1;
        self.unlogged.push_back(PassLine {
            number: self.passes,
            generation,
            policies: *policies,
            endpoints: *endpoints,
            writes: writes.to_string(),
            is_nothing: writes.is_nothing(),
            loading: (!loading.is_empty()).then(|| Vec::from_iter(loading).join(", ")),
            compiled: *compiled,
            applied: *applied,
        });
        if self.unlogged.len() > UNLOGGED {
            self.unlogged.pop_front().iter().for_each(PassLine::log);
        }
    }

    /// Logs the passes up to one whose flows are judged too, and then that the agent is ready, if
    /// that came of them. A reader of such a line finds the rest in the metrics.
    pub(super) fn log_passes(&mut self, judged: Option<Passed>) {
        if let Some(judged) = judged {
            self.log_judged(judged);
        }
        if let Some(ReadyLine { generation }) = self.unlogged_ready.take() {
            info!(generation, "ready");
        }
    }

    fn log_judged(&mut self, judged: Passed) {
        // A reader of the line asks for the status, too.
        let flows_judged = judged.number >= self.passes;
        self.status.update(|status| status.flows_judged = flows_judged);
        while let Some(line) = self.unlogged.front().filter(|line| line.number <= judged.number) {
            line.log();
            self.unlogged.pop_front();
        }
    }

    /// The kernel could not be read or written, and the next pass comes after a wait.
    /// Answers the error in words.
    pub(super) fn failed(&mut self, error: &dataplane::Error, retry: Duration) -> String {
        let (words, retry) = (with_causes(error), rounded(retry));
        if error.is_contention() {
            if self.contention.is_news(error, tokio::time::Instant::now()) {
                warn!(error = words, ?retry, "rules wait for the xtables lock; sets do not");
            } else {
                debug!(error = words, ?retry, "rules still wait for the xtables lock");
            }
        } else {
            self.metrics.failed();
            self.status.changed();
            error!(error = words, ?retry, "ruleset not programmed");
        }
        words
    }

    /// A sweep has ended well.
    pub(super) fn cut(&self, CutResult { flows, index }: &CutResult) {
        self.metrics.cni().flow_index_answered(index);
        self.metrics.cut(flows.cut);
        self.status.update(|status| status.flows_cut += flows.cut);
        if flows.cut > 0 {
            info!(cut = flows.cut, judged = flows.judged, "cut established flows that policies deny now");
        }
        if flows.stuck > 0 {
            warn!(
                flows = flows.stuck,
                "flows are offloaded to a flowtable or the network card, and go on although policies deny them now"
            );
        }
    }

    /// The kernel's flows could not be read or cut, and it is tried again after a wait.
    /// Answers the error in words.
    pub(super) fn cut_failed(&self, error: &dataplane::Error, retry: Duration) -> String {
        let words = with_causes(error);
        self.metrics.failed();
        self.status.changed();
        let retry = rounded(retry);
        error!(error = words, ?retry, "established flows that policies deny now were not cut; new flows are judged");
        words
    }

    /// Logs that lines of the log were lost, until that line is not lost itself.
    pub(super) fn lost_lines(&mut self) {
        let lost = self.metrics.lost_lines().get();
        if lost > self.lost_lines {
            warn!(lines = lost - self.lost_lines, "log lines were lost before this one; is the disk of the log full?");
            if self.metrics.lost_lines().get() == lost {
                self.lost_lines = lost;
            }
        }
    }

    /// An audit found drift; what it found is in the log already.
    pub(super) fn drifted(&mut self, repair: &Repair) {
        for drift in &repair.found {
            self.metrics.drifted(drift.kind);
            self.unrepaired.push(drift.kind);
        }
        self.status.changed();
        if let Ok(Some(writes)) = &repair.repaired {
            self.repaired();
            let writes = match (repair.count(DriftKind::Hook), writes.is_nothing()) {
                (0, _) => writes.to_string(),
                (hooks, true) => hooks_restored(hooks),
                (hooks, false) => format!("{}, {writes}", hooks_restored(hooks)),
            };
            info!(writes, "drift repaired");
        }
    }

    /// All drift is repaired.
    fn repaired(&mut self) {
        let repaired = self.unrepaired.len() as u64;
        self.unrepaired.drain(..).for_each(|kind| self.metrics.repaired(kind));
        self.status.update(|status| status.drift_repaired += repaired);
    }

    /// Rules and sets were written.
    pub(super) fn written(&self, restores: &[Restored], set_writes: &[ipset::TimedWrite]) {
        for restored in restores {
            self.metrics.restored(restored.took, restored.waited, restored.done);
        }
        for written in set_writes {
            self.metrics.wrote_sets(written.took, written.done);
        }
    }

    /// Whether the agent is ready, or why not. If the kernel holds all that the agent knows, it
    /// also says which generation of the cluster that is.
    pub(super) fn readiness_is(&mut self, reason: Option<&str>, generation: Option<u64>) {
        let was = self.readiness;
        let written = match reason {
            None => {
                self.readiness = LoggedReadiness::Ready;
                self.logged = None;
                self.ready();
                generation.map_or(Ok(()), |generation| self.ready_file.write(generation))
            }
            Some(reason) => {
                if was == LoggedReadiness::Ready || self.is_news(reason) && generation.is_some() {
                    error!("not ready: {reason}");
                    self.logged = Some(reason.to_owned());
                }
                if was == LoggedReadiness::Ready {
                    self.readiness = LoggedReadiness::Unready;
                }
                // A `ready` line that waits for sweeps would be logged after this one.
                self.unlogged_ready = None;
                self.not_ready(reason);
                self.ready_file.remove()
            }
        };
        if was != self.readiness && self.readiness == LoggedReadiness::Ready {
            self.unlogged_ready = Some(ReadyLine { generation });
            if was == LoggedReadiness::NeverReady {
                self.notify(Notice::Ready);
            }
        }
        if let Err(error) = written {
            self.metrics.ready_file_failed();
            self.status.changed();
            error!(
                %error,
                "cannot write or remove the ready file, so a program that waits for it does not learn whether the agent \
                 is ready; policies are enforced"
            );
        }
    }

    /// The agent ends because it was asked to.
    #[allow(clippy::unused_self, reason = "the log is one of the report's")]
    pub(super) fn ending(&self) {
        info!("agent stopped; its rules stay in the kernel");
    }

    /// Whether the agent did not log this reason last.
    fn is_news(&self, reason: &str) -> bool {
        self.logged.as_deref() != Some(reason)
    }

    fn not_ready(&self, reason: &str) {
        self.metrics.ready_is(false);
        self.status.update(|status| {
            status.ready = false;
            status.reason = Some(reason.to_owned());
        });
    }

    fn ready(&self) {
        self.metrics.ready_is(true);
        self.status.update(|status| {
            status.ready = true;
            status.reason = None;
        });
    }

    fn notify(&self, notice: Notice) {
        if let Some(notices) = &self.notices {
            // Without a receiver the cluster is not followed any more.
            let _ = notices.send(notice);
        }
    }

    fn location(&self, finding: &Finding) -> Option<String> {
        let Finding { namespace, name, path, .. } = finding;
        self.locations.as_ref()?.locate("NetworkPolicy", namespace, name, path)
    }
}

fn hooks_restored(hooks: usize) -> String {
    if hooks == 1 { "hook restored".to_owned() } else { format!("{hooks} hooks restored") }
}
