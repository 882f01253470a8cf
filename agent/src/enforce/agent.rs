//! The agent's loop.

use std::collections::BTreeSet;
use std::io;
use std::path::PathBuf;
use std::time::Duration;

use tokio::sync::{mpsc, watch};
use tokio::task::{self, JoinError};
use tokio::time::{self, Instant, MissedTickBehavior};
use tracing::{error, info, warn};

use super::alert::Alert;
use super::bridges::UnfilteredBridge;
use super::denied::DeniedFlows;
use super::drift;
use super::enforcer::Enforcer;
use super::ready::{Readiness, ReadyFile, UNPROVEN, Unready};
use super::report::Report;
use super::takeover::{AzureNpm, Takeover};
use super::view::View;
use crate::dataplane::audit::{Depth, ROUND};
use crate::dataplane::network::Network;
use crate::dataplane::nflog::Heard;
use crate::dataplane::{self, Kernel};
use crate::metrics::{Kind, Metrics};
use crate::near;
use crate::serve::Pulse;
use crate::source::Changes;
use crate::source::kube::Notice;
use crate::status::{AgentStatus, Shared};

/// How long the first retry after a failure waits, and the longest that one
/// ever waits; each waits twice as long as the one before.
const FIRST_RETRY: Duration = Duration::from_millis(250);
const LAST_RETRY: Duration = Duration::from_secs(5);

/// A try waits at least this many times as long as the one before it took, up to a
/// limit: one that hung took long, and cost nothing.
const RETRY_SHARE: u32 = 4;
const LONGEST_SHARE: Duration = Duration::from_secs(10);

/// For how long after a pass the packet filter's notifications may be of what that pass
/// wrote itself.
const ECHO: Duration = Duration::from_millis(400);

/// The longest that one waits while somebody holds the xtables lock.
const LOCK_RETRY: Duration = Duration::from_secs(1);

/// How often the kernel is looked over for what others did to what is ours, and
/// nobody tells of.
pub(super) const AUDIT: Duration = ROUND;

/// What can happen to an agent.
#[derive(Debug)]
pub enum Event {
    /// This changed in the cluster; the first time, this is all there is.
    Changes(Changes),
    /// The network of this node is now this.
    Network(Network),
    /// Somebody, maybe we, wrote to the packet filter.
    Touched,
    /// The rules denied something.
    Denied(Heard),
    /// Leave everything in the kernel as it is, and end.
    Shutdown,
}

/// What an agent is told at its start.
#[derive(Debug, Clone)]
pub struct Settings {
    /// The name of its node.
    pub node: String,
    /// Write the state once and end.
    pub once: bool,
    /// Where to say that the kernel is up to date.
    pub ready_file: Option<PathBuf>,
    /// What to do about what Azure NPM left.
    pub azure_npm: AzureNpm,
    /// Where it counts.
    pub metrics: Metrics,
    /// Where it tells how it is.
    pub status: Shared,
    /// Where it tells that it is alive.
    pub pulse: Pulse,
    /// Who tells the cluster, if there is one.
    pub notices: Option<mpsc::UnboundedSender<Notice>>,
    /// The Nodes that it has to know, because pods of theirs list an address
    /// that others list too; where the source does not have all Nodes.
    pub wanted_nodes: watch::Sender<BTreeSet<String>>,
}

impl Settings {
    /// Those of the agent of a node that follows a source, if nothing else is
    /// asked for.
    #[must_use]
    pub fn new(node: &str, source: &str) -> Self {
        Self {
            node: node.to_owned(),
            once: false,
            ready_file: None,
            azure_npm: AzureNpm::default(),
            metrics: Metrics::default(),
            status: Shared::new(AgentStatus::new(node, source)),
            pulse: Pulse::default(),
            notices: None,
            wanted_nodes: watch::Sender::default(),
        }
    }
}

/// Why an agent ended, other than by being told to.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The ready file cannot be there.
    #[error("cannot write the ready file")]
    Ready(#[source] io::Error),
    /// The kernel refused the state, and there is to be one try only.
    #[error("the policies are not in the kernel")]
    Kernel(#[from] dataplane::Error),
    /// IPVS is in use, and there is to be one try only.
    #[error("{IPVS}")]
    Ipvs,
    /// Nothing has the node's name, and there is to be one try only.
    #[error("{0}")]
    Misnamed(String),
    /// Every source of events ended.
    #[error("nothing tells of changes any more")]
    Deaf,
    /// A pass panicked.
    #[error("a pass over the objects broke off")]
    Broken(#[from] JoinError),
}

const IPVS: &str = "kube-ipvs0 exists: IPVS delivers Services past the FORWARD chain, where policies are enforced, so \
                    traffic through Services is not filtered; run kube-proxy in its iptables or nftables mode";

/// Why nothing is written under a name that nothing bears, where these names are
/// borne.
fn misnamed(node: &str, others: &BTreeSet<String>) -> String {
    let effect = "so no pod would be found to be here and nothing would be isolated; nothing is written to the kernel \
                  before there is one. Is --node right?";
    if others.is_empty() {
        return format!("no Node is named {node}, {effect}");
    }
    let known = near::listed(others.iter().map(String::as_str));
    let nearest = near::nearest(node, others.iter().map(String::as_str));
    let meant = nearest.map(|name| format!(" Did you mean {name}?")).unwrap_or_default();
    format!(
        "no Node is named {node} and no pod names it in spec.nodeName, {effect} The files name {known}.{meant} A node \
         without pods needs a Node object in the files"
    )
}

/// Runs an agent until it is told to end.
///
/// Nothing is written before objects and network were both heard of once. On
/// whatever ends it, the kernel keeps what it has.
///
/// # Errors
/// If it cannot go on, or with [`Settings::once`] if its one try failed.
pub async fn run<K: Kernel>(
    enforcer: Enforcer<K>,
    settings: Settings,
    mut events: mpsc::Receiver<Event>,
) -> Result<(), Error> {
    let mut agent = Agent::new(enforcer, settings)?;
    let mut audit = time::interval_at(Instant::now() + AUDIT, AUDIT);
    audit.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        agent.settings.pulse.beat();
        tokio::select! {
            biased;
            event = events.recv() => {
                let mut next = event.ok_or(Error::Deaf)?;
                // Whatever has come by now is one change.
                loop {
                    if !agent.take(next) {
                        agent.tell_denied(None);
                        info!("ending; the kernel keeps what it has");
                        return Ok(());
                    }
                    match events.try_recv() {
                        Ok(event) => next = event,
                        Err(_) => break,
                    }
                }
                agent.absorb().await?;
            }
            // Before passes: while changes come without a pause, the kernel is looked at all the
            // same.
            _ = audit.tick() => {
                agent.report.lost_lines();
                agent.look_at_bridges();
                // Also while writes fail, and while changes wait for the next pass.
                agent.audit(Depth::Round).await?;
                if agent.in_sync {
                    agent.take_over().await?;
                    agent.retire();
                    agent.report.tell_spoofable();
                }
            }
            () = time::sleep_until(agent.due.unwrap_or_else(Instant::now)), if agent.due.is_some() => {
                agent.pass().await?;
                if agent.settings.once {
                    return if agent.ipvs { Err(Error::Ipvs) } else { Ok(()) };
                }
            }
            () = time::sleep_until(agent.alert.not_before()), if agent.touched => agent.audit(Depth::News).await?,
            () = time::sleep_until(agent.alert.due().unwrap_or_else(Instant::now)), if agent.alert.due().is_some() =>
                agent.audit(Depth::Alert).await?,
            () = time::sleep_until(agent.readiness.expires().unwrap_or_else(Instant::now)),
                if agent.readiness.expires().is_some() => agent.expire(),
            () = time::sleep_until(agent.denied.next_end().unwrap_or_else(Instant::now)),
                if agent.denied.next_end().is_some() => agent.tell_denied(Some(Instant::now())),
        }
    }
}

/// The state that the loop owns.
#[allow(clippy::struct_excessive_bools, reason = "each is a fact that stands by itself")]
struct Agent<K> {
    settings: Settings,
    /// Away while a pass runs.
    enforcer: Option<Enforcer<K>>,
    view: View,
    ready: ReadyFile,
    readiness: Readiness,
    alert: Alert,
    takeover: Option<Takeover>,
    /// How often the cluster was heard to have changed.
    generation: u64,
    /// When the next pass is due, if something is to be done.
    due: Option<Instant>,
    /// How long to wait after the next failure.
    retry: Duration,
    /// The last pass went well, and everything heard of is in the kernel.
    in_sync: bool,
    report: Report,
    /// Somebody may have changed what is ours, and nobody has looked yet.
    touched: bool,
    /// It is only that somebody holds the xtables lock.
    contended: bool,
    /// One family is as it should be, and the other failed.
    halved: bool,
    /// How long the last pass took, and when it ended.
    took: Duration,
    tried: Instant,
    /// The agent was said to be ready.
    was_ready: bool,
    denied: DeniedFlows,
    ipvs: bool,
    misnamed: bool,
}

impl<K: Kernel> Agent<K> {
    fn new(enforcer: Enforcer<K>, settings: Settings) -> Result<Self, Error> {
        Ok(Self {
            enforcer: Some(enforcer),
            view: View::default(),
            ready: ReadyFile::new(settings.ready_file.clone()).map_err(Error::Ready)?,
            readiness: Readiness::new(),
            alert: Alert::default(),
            takeover: Some(Takeover::new(settings.azure_npm, &settings.node)),
            report: Report::new(&settings),
            settings,
            generation: 0,
            due: None,
            retry: FIRST_RETRY,
            in_sync: false,
            touched: false,
            contended: false,
            halved: false,
            took: Duration::ZERO,
            tried: Instant::now(),
            was_ready: false,
            denied: DeniedFlows::default(),
            ipvs: false,
            misnamed: false,
        })
    }

    /// Takes an event in; whether the agent goes on.
    fn take(&mut self, event: Event) -> bool {
        match event {
            Event::Changes(mut changes) => {
                self.generation += u64::from(!changes.is_part);
                if let Some(positions) = changes.positions.take() {
                    self.report.placed(positions);
                }
                for change in &changes.changes {
                    if let Some(takeover) = &mut self.takeover {
                        takeover.hear(&change.event);
                    }
                    self.report.heard(Kind::of(&change.event), change.heard);
                }
                self.view.hear(changes);
                self.say_misnamed();
            }
            Event::Network(network) => self.view.network_is(network),
            Event::Touched => {
                self.touched = true;
                return true;
            }
            Event::Denied(heard) => {
                let names = self.enforcer.as_ref().map(Enforcer::engine);
                self.denied.hear(heard, Instant::now(), &names);
                return true;
            }
            Event::Shutdown => return false,
        }
        self.in_sync = false;
        if self.view.is_complete() || self.settings.once && self.view.waits_for_node() {
            // Not before a retry that is due later: a kernel that refuses is
            // not asked more often because more changes.
            self.due.get_or_insert_with(Instant::now);
            if self.contended {
                // Members of sets need no lock.
                self.due = Some(Instant::now());
            } else if self.halved {
                self.hurry();
            }
        }
        true
    }

    /// Tells how often flows were denied of which the first packet was told.
    fn tell_denied(&mut self, now: Option<Instant>) {
        let names = self.enforcer.as_ref().map(Enforcer::engine);
        self.denied.end(now, &names);
    }

    fn say_misnamed(&mut self) {
        if !self.view.has_cluster() {
            return;
        }
        let was_misnamed = std::mem::replace(&mut self.misnamed, self.view.is_misnamed());
        if was_misnamed || !self.misnamed {
            return;
        }
        if self.view.waits_for_node() {
            let words = misnamed(&self.settings.node, self.view.other_nodes());
            self.report.not_ready(&words);
            error!("{words}");
        } else if !self.view.other_nodes().is_empty() {
            // The last pod of a node whose files have no Nodes has gone.
            info!(node = self.settings.node, "no object names this node any more; its pods are enforced as before");
        } else {
            warn!(node = self.settings.node, "the Node of this name is gone; its pods are enforced as before");
        }
    }

    /// Lets the engine know of what may not be acted on yet, because it keeps
    /// much less of an object than there is of it here.
    async fn absorb(&mut self) -> Result<(), Error> {
        if self.due.is_some_and(|due| due <= Instant::now()) {
            return Ok(());
        }
        let changes = self.view.take_changes();
        if changes.is_empty() { Ok(()) } else { self.blocking(|enforcer| enforcer.hear(changes)).await }
    }

    /// How long the next try waits because of what the last one cost.
    fn pause(&self) -> Duration {
        (self.took * RETRY_SHARE).min(LONGEST_SHARE)
    }

    /// Has a try that is due come earlier, though not at once: it reads everything.
    fn hurry(&mut self) {
        let soon = Instant::now() + FIRST_RETRY.max(self.pause());
        self.due = self.due.map(|due| due.min(soon));
    }

    /// Runs one pass.
    async fn pass(&mut self) -> Result<(), Error> {
        self.due = None;
        let Some((changes, network)) = self.view.take() else {
            let words = || misnamed(&self.settings.node, self.view.other_nodes());
            return if self.settings.once { Err(Error::Misnamed(words())) } else { Ok(()) };
        };
        let begun = Instant::now();
        let network = network.clone();
        let work = move |enforcer: &mut Enforcer<K>| {
            enforcer.hear(changes);
            enforcer.pass(&network)
        };
        let passed = self.blocking(work).await?;
        self.took = begun.elapsed();
        self.tried = Instant::now();
        match passed {
            Ok(pass) => {
                if self.retry > FIRST_RETRY {
                    // What made it fail may go on.
                    self.alert.found(self.took);
                }
                self.retry = FIRST_RETRY;
                self.in_sync = true;
                (self.contended, self.halved) = (false, false);
                self.ipvs = self.view.has_ipvs();
                self.readiness.passed(begun, self.obstacle(&pass.unfiltered_bridges));
                // Who reads of it in the log finds the ready file there.
                self.say_ready();
                self.report.passed(&pass, self.generation);
            }
            Err(error) if self.settings.once => return Err(error.into()),
            Err(error) => {
                let words = self.failed(&error);
                self.readiness.pass_failed(begun, error.is_unhooked(), &words);
                self.say_ready();
            }
        }
        Ok(())
    }

    /// What makes rules that are in the kernel pointless.
    fn obstacle(&self, unfiltered: &BTreeSet<UnfilteredBridge>) -> Option<(Unready, String)> {
        if self.ipvs {
            return Some((Unready::Ipvs, IPVS.to_owned()));
        }
        let UnfilteredBridge { bridge, family, .. } = unfiltered.iter().find(|bridge| bridge.evades_policies())?;
        let words = format!(
            "pods that policies isolate reach each other over the bridge {bridge} past iptables ({family}): load \
             br_netfilter and set net.bridge.bridge-nf-call-iptables and -ip6tables to 1"
        );
        Some((Unready::Bridge, words))
    }

    /// Becomes unready for what was not put right in time.
    fn expire(&mut self) {
        self.readiness.expire();
        self.say_ready();
    }

    /// Looks whether others changed what is ours, and puts it right. Where nothing is
    /// known of the kernel, because writing or reading it failed, the next try does
    /// that; if there is news it comes soon.
    async fn audit(&mut self, depth: Depth) -> Result<(), Error> {
        let has_news = std::mem::take(&mut self.touched);
        let begun = Instant::now();
        let work = move |enforcer: &mut Enforcer<K>| {
            let audited = enforcer.audit(depth);
            (audited, enforcer.audit_bridge(), enforcer.is_in_sync(), enforcer.is_proved())
        };
        let (audited, bridge, is_in_sync, is_proved) = self.blocking(work).await?;
        let is_table_drifted = bridge.is_some_and(|(drifted, state)| {
            self.report.bridge_audited(drifted, &state);
            drifted
        });
        let took = begun.elapsed();
        if is_proved {
            self.readiness.proved(begun);
        }
        let repair = match audited {
            Ok(None) => {
                if is_table_drifted {
                    self.alert.found(took);
                } else {
                    self.alert.found_nothing(depth, took);
                }
                if has_news && !is_in_sync && self.tried.elapsed() > ECHO {
                    self.hurry();
                }
                return Ok(());
            }
            Ok(Some(repair)) => repair,
            Err(error) => {
                self.audit_failed(&error, false);
                return Ok(());
            }
        };
        self.alert.found(took);
        self.report.drifted(&repair);
        let is_unhooked = repair.count(drift::Kind::Hook) > 0;
        match repair.repaired {
            Ok(writes) => {
                if let Some(writes) = writes {
                    info!(%writes, "what others changed is as it was");
                }
                // Flows that came into being meanwhile are judged.
                self.in_sync = false;
                self.due = Some(Instant::now());
            }
            Err(error) => {
                self.audit_failed(&error, is_unhooked);
            }
        }
        Ok(())
    }

    fn audit_failed(&mut self, error: &dataplane::Error, is_unhooked: bool) {
        let words = self.failed(error);
        self.readiness.audit_failed(is_unhooked || error.is_unhooked(), &words);
        self.say_ready();
    }

    /// Looks after what Azure NPM left, while our own rules are known to hold.
    async fn take_over(&mut self) -> Result<(), Error> {
        let Some(mut takeover) = self.takeover.take_if(|takeover| self.in_sync && takeover.is_due()) else {
            return Ok(());
        };
        let work = move |enforcer: &mut Enforcer<K>| {
            takeover.step(|| enforcer.holds());
            takeover
        };
        self.takeover = Some(self.blocking(work).await?);
        Ok(())
    }

    /// Lets go of what is kept in vain, and of flows that are to be judged.
    fn retire(&mut self) {
        let is_due = |enforcer: &Enforcer<K>| enforcer.is_to_retire() || enforcer.is_to_judge();
        if self.in_sync && self.enforcer.as_ref().is_some_and(is_due) {
            self.due.get_or_insert_with(Instant::now);
        }
    }

    /// Looks whether iptables sees what bridges forward. This alone is found out by
    /// asking again and again: for a sysctl the kernel sends no notification.
    fn look_at_bridges(&mut self) {
        let (Some(enforcer), Some(network)) = (&mut self.enforcer, self.view.network()) else { return };
        let unfiltered = enforcer.look_at_bridges(network).clone();
        self.report.bridges(&unfiltered);
        let before = self.readiness.reason().map(str::to_owned);
        self.readiness.obstacle_is(self.obstacle(&unfiltered));
        if self.readiness.reason() != before.as_deref() {
            self.say_ready();
        }
    }

    /// Lets the enforcer work where it may block.
    async fn blocking<T: Send + 'static>(
        &mut self,
        work: impl FnOnce(&mut Enforcer<K>) -> T + Send + 'static,
    ) -> Result<T, Error> {
        let Some(mut enforcer) = self.enforcer.take() else { unreachable!("one pass at a time") };
        let begun = Instant::now();
        let mut was_hanging = false;
        let mut working = task::spawn_blocking(move || {
            let done = work(&mut enforcer);
            let (restores, set_writes) = (enforcer.take_restores(), enforcer.take_set_writes());
            (enforcer, done, restores, set_writes)
        });
        let (enforcer, done, restores, set_writes) = loop {
            // What hangs cannot say so itself.
            let hangs = begun + UNPROVEN;
            let next = self.readiness.expires().map_or(hangs, |expires| expires.min(hangs));
            tokio::select! {
                done = &mut working => break done?,
                () = time::sleep_until(next), if self.was_ready => {
                    if next == hangs {
                        self.readiness.hangs(begun);
                        was_hanging = true;
                    }
                    self.expire();
                }
            }
        };
        self.report.written(&restores, &set_writes);
        self.enforcer = Some(enforcer);
        if was_hanging {
            // Nothing but a pass shows that it is ready again.
            self.due.get_or_insert_with(Instant::now);
        }
        Ok(done)
    }

    /// Something failed, and is tried again; answers the error in words.
    fn failed(&mut self, error: &dataplane::Error) -> String {
        self.in_sync = false;
        (self.contended, self.halved) = (error.is_contention(), error.is_of_one_family());
        let words = with_causes(error);
        // What a try costs counts from the second failure on: most first ones are over at once.
        let cost = if self.retry > FIRST_RETRY { self.pause() } else { Duration::ZERO };
        let retry = if self.contended { self.retry.min(LOCK_RETRY) } else { self.retry.max(cost) };
        if self.contended {
            warn!(error = words, ?retry, "rules have to wait; members of sets do not");
        } else {
            self.report.failed();
            error!(error = words, ?retry, "the kernel is not up to date");
        }
        self.due = Some(Instant::now() + retry);
        self.retry = (retry.min(LAST_RETRY) * 2).min(LAST_RETRY);
        words
    }

    /// Says whether the agent is ready, in the ready file too: that is there, and says
    /// what is in the kernel, only while it is.
    fn say_ready(&mut self) {
        let was_ready = std::mem::replace(&mut self.was_ready, self.readiness.reason().is_none());
        let said = match self.readiness.reason() {
            None => {
                self.report.ready();
                if self.in_sync { self.ready.write(self.generation) } else { Ok(()) }
            }
            Some(reason) => {
                if was_ready || self.report.is_news(reason) && self.in_sync {
                    error!("not ready: {reason}");
                }
                self.report.not_ready(reason);
                self.ready.remove()
            }
        };
        if let Err(error) = said {
            self.report.ready_file_failed();
            error!(%error, "cannot write the ready file, so who waits for it does not learn of this; policies are enforced");
        }
    }
}

/// An error with its causes, in one line.
pub(crate) fn with_causes(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text.push_str(": ");
        text.push_str(&error.to_string());
        cause = error.source();
    }
    text
}
