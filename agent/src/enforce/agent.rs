//! The agent's loop: takes events, and does what is due.

mod audits;

use std::collections::BTreeSet;
use std::time::Duration;

use futures::FutureExt as _;
use tokio::sync::mpsc;
use tokio::task;
use tokio::time::{self, Instant};

use super::azure_npm::NpmRemoval;
use super::bridges::UnfilteredBridge;
use super::denied::DeniedFlows;
use super::enforcer::Enforcer;
use super::obstacle::{self, IPVS, NodeName};
use super::pending_input::PendingInput;
use super::previews::{self, Previews};
use super::ready::{Readiness, UNPROVEN, Unready};
use super::report::Reporter;
use super::schedule::{PassFailure, Schedule, Task, until};
use super::settings::{Error, Event, Settings};
use super::sweeps::{self, FlowBatch, SweepStep, Sweeps, Which};
use super::waiters::{Waiter, Waiters};
use crate::dataplane::audit::AuditScope;
use crate::dataplane::{self, Kernel};
use crate::serve::{BUSY, Liveness};
use crate::service::Watchdog;

/// After a pass, sweeps at work get a quarter of its time, and no more than this.
const SWEEPS_SHARE: Duration = Duration::from_millis(20);

/// How long the next portion of a large change waits if the last one could not be written.
const LOAD_PAUSE: Duration = Duration::from_secs(2);

/// Runs an agent until it is asked to end.
///
/// Nothing is written before the agent knows all objects and the network. When the agent ends, for
/// any reason, the kernel keeps what it has.
///
/// # Errors
/// If it cannot go on, or with [`Settings::once`] if its one try failed.
pub async fn run<K: Kernel>(
    enforcer: Enforcer<K>,
    settings: Settings,
    mut events: mpsc::Receiver<Event>,
) -> Result<(), Error> {
    let service = settings.service.clone();
    let mut agent = Agent::new(enforcer, settings)?;
    service.started();
    loop {
        agent.liveness.beat();
        agent.watchdog.feed();
        tokio::select! {
            biased;
            event = events.recv() => {
                let mut next = event.ok_or(Error::NoEvents)?;
                // All that has come by now is one change.
                loop {
                    if !agent.take(next) {
                        service.ending();
                        agent.end();
                        return Ok(());
                    }
                    match events.try_recv() {
                        Ok(event) => next = event,
                        Err(_) => break,
                    }
                }
                agent.absorb().await?;
                agent.check().await?;
            }
            () = until_due(agent.schedule.next()) => match agent.schedule.take_due(Instant::now()) {
                Some(Task::Pass) => {
                    agent.pass().await?;
                    agent.check().await?;
                    if agent.once && !agent.is_loading() {
                        agent.finish_sweeps().await?;
                        return if agent.pending_input.has_ipvs() { Err(Error::Ipvs) } else { Ok(()) };
                    }
                }
                Some(Task::Audit(audit)) if audit.depth == AuditScope::Periodic => agent.periodic_audit(audit).await?,
                Some(Task::Audit(audit)) => {
                    agent.audit(audit).await?;
                    agent.check().await?;
                }
                None => {}
            },
            next = agent.sweeps.next() => agent.sweep(next)?,
            next = agent.previews.next() => agent.take_preview(next)?,
            () = until(agent.readiness.expires()) => agent.expire(),
            () = until(agent.denied.next_end()) => agent.log_repeated_denials(Some(Instant::now())),
            () = until(agent.watchdog.due()) => {}
        }
    }
}

/// Waits until then, not at all if that is past: a timer takes a millisecond or two all the same, and a pod
/// that starts would wait for it.
async fn until_due(moment: Instant) {
    if moment > Instant::now() {
        time::sleep_until(moment).await;
    }
}

/// What the loop owns.
struct Agent<K> {
    once: bool,
    liveness: Liveness,
    watchdog: Watchdog,
    /// Elsewhere while it works.
    enforcer: Option<Enforcer<K>>,
    pending_input: PendingInput,
    schedule: Schedule,
    readiness: Readiness,
    /// Elsewhere while it works.
    npm_removal: Option<NpmRemoval>,
    report: Reporter,
    denied: DeniedFlows,
    waiters: Waiters,
    sweeps: Sweeps,
    previews: Previews,
}

impl<K: Kernel> Agent<K> {
    fn new(mut enforcer: Enforcer<K>, settings: Settings) -> Result<Self, Error> {
        enforcer.find_out_beside();
        Ok(Self {
            enforcer: Some(enforcer),
            pending_input: PendingInput::default(),
            schedule: Schedule::new(Instant::now()),
            readiness: Readiness::new(),
            npm_removal: Some(NpmRemoval::new(settings.azure_npm, &settings.node)),
            denied: DeniedFlows::default(),
            waiters: Waiters::default(),
            sweeps: Sweeps::new(Instant::now()),
            previews: Previews::new(),
            once: settings.once,
            liveness: settings.liveness.clone(),
            watchdog: Watchdog::new(settings.service.clone()),
            report: Reporter::new(settings).map_err(Error::Ready)?,
        })
    }

    /// Takes an event in. Answers whether the agent goes on.
    fn take(&mut self, event: Event) -> bool {
        let now = Instant::now();
        let is_waited_for = matches!(event, Event::Waiters(_));
        match event {
            Event::Changes(mut changes) => {
                if let Some(locations) = changes.positions.take() {
                    self.report.locations_are(locations);
                }
                for change in &changes.changes {
                    if let Some(npm_removal) = &mut self.npm_removal {
                        npm_removal.take(&change.event);
                    }
                    self.report.received(change);
                }
                self.pending_input.take(changes);
                self.report.node_name_is(self.pending_input.node_name(), self.pending_input.unnamed_node());
            }
            Event::Network(network) => self.pending_input.network_is(network),
            Event::PacketFilterChanged => {
                self.schedule.notified(now);
                return true;
            }
            Event::Denied(received) => {
                let names = self.enforcer.as_ref().map(Enforcer::engine);
                self.denied.take(received, now, &names);
                return true;
            }
            Event::Waiters(waiters) => waiters.into_iter().for_each(|waiter| self.waiters.add(waiter)),
            Event::Check(reply) => {
                self.waiters.check(reply);
                return true;
            }
            Event::Shutdown => return false,
        }
        if self.pending_input.is_complete() || self.once && self.pending_input.node_name() == NodeName::Missing {
            if is_waited_for {
                self.schedule.waited_for(now);
            } else {
                self.schedule.changed(now);
            }
        }
        true
    }

    fn end(&mut self) {
        self.log_repeated_denials(None);
        self.report.ending();
    }

    /// Logs how often flows were denied whose first packet was logged.
    fn log_repeated_denials(&mut self, now: Option<Instant>) {
        let names = self.enforcer.as_ref().map(Enforcer::engine);
        self.denied.end(now, &names);
    }

    /// Gives the engine changes that no pass may act on yet, because it keeps much less of
    /// an object than there is of it here.
    async fn absorb(&mut self) -> Result<(), Error> {
        if self.schedule.pass_due().is_some_and(|due| due <= Instant::now()) {
            return Ok(());
        }
        let changes = self.pending_input.take_changes();
        if changes.is_empty() { Ok(()) } else { self.blocking(|enforcer| enforcer.take(changes)).await }
    }

    /// Runs one pass.
    async fn pass(&mut self) -> Result<(), Error> {
        let Some((changes, network)) = self.pending_input.start_pass() else {
            return match self.pending_input.unnamed_node() {
                Some(words) if self.once => Err(Error::Misnamed(words.obstacle.clone())),
                _ => Ok(()),
            };
        };
        let begun = Instant::now();
        let network = network.clone();
        let pod_cidrs = self.pending_input.take_pod_cidrs();
        let asked = self.waiters.addresses();
        let work = move |enforcer: &mut Enforcer<K>| {
            enforcer.take(changes);
            if let Some(pod_cidrs) = pod_cidrs {
                enforcer.pod_cidrs_are(&pod_cidrs);
            }
            let passed = enforcer.pass(&network);
            let in_force = if passed.is_err() { enforcer.in_force(&asked, &network) } else { BTreeSet::new() };
            (passed, in_force)
        };
        let (passed, in_force) = self.blocking(work).await?;
        let now = Instant::now();
        let enforcer = self.enforcer.as_ref();
        let waited = enforcer.map_or(0, Enforcer::waited);
        let waits =
            |waiter: &Waiter, until| enforcer.is_some_and(|enforcer| enforcer.waits_for(&waiter.addresses, until));
        match passed {
            Ok(pass) => {
                self.schedule.pass_succeeded(now, now - begun);
                if self.is_load_due() {
                    // While another program holds the lock that rules need, each try may wait for it, and
                    // changes of sets behind it.
                    let pause = if pass.is_load_blocked { LOAD_PAUSE } else { Duration::ZERO };
                    self.schedule.request_load(now + pause);
                }
                self.readiness.passed(begun, self.obstacle(&pass.unfiltered_bridges));
                self.sweeps.passed(self.pending_input.generation());
                let waiters = self.waiters.passed(waited, waits);
                self.start_sweeps(waiters);
                // A reader of this pass's line in the log finds the ready file there.
                self.report_readiness();
                self.report.passed(&pass, self.pending_input.generation());
                self.report.log_passes(self.sweeps.judged());
            }
            Err(error) if self.once => return Err(error.into()),
            Err(error) => {
                let waiters = self.waiters.failed(&error, &in_force, waited, waits);
                self.start_sweeps(waiters);
                let retry = self.schedule.pass_failed(now, now - begun, failure(&error));
                let words = self.report.failed(&error, retry);
                self.readiness.pass_failed(begun, self.is_unhooked(), &words);
                self.report_readiness();
            }
        }
        self.start_preview();
        self.share_with_sweeps(now, now - begun).await?;
        self.share_with_preview()
    }

    /// Gives sweeps at work a share of the time of a pass. So neither waits for all of the
    /// others, also if an event comes in each pass. At least one step is made.
    async fn share_with_sweeps(&mut self, now: Instant, took: Duration) -> Result<(), Error> {
        let end = now + (took / 4).min(SWEEPS_SHARE);
        while !self.once
            && self.sweeps.is_running()
            && let Ok(next) = time::timeout_at(end, self.sweeps.next()).await
        {
            self.sweep(next)?;
        }
        Ok(())
    }

    /// Begins to find out what the events of the next namespace will make, if it takes long and that of no
    /// other one is being found out.
    fn start_preview(&mut self) {
        if self.previews.is_running() {
            return;
        }
        if let Some(preview) = self.enforcer.as_mut().and_then(Enforcer::preview) {
            self.previews.start(preview);
        }
    }

    /// Goes on with finding out what a large change will make.
    fn take_preview(&mut self, next: previews::PreviewStep) -> Result<(), Error> {
        let Some(enforcer) = &mut self.enforcer else { return Ok(()) };
        match next {
            previews::PreviewStep::Question(question) => {
                let counts = enforcer.count(&question.asked);
                question.answer(counts);
            }
            previews::PreviewStep::Ended(previewed) => {
                if let Some(previewed) = previewed? {
                    enforcer.previewed(previewed);
                    self.schedule.request_load(Instant::now());
                }
            }
        }
        Ok(())
    }

    /// After a pass, one question about a large change has its turn, also if an event comes in each pass.
    fn share_with_preview(&mut self) -> Result<(), Error> {
        match self.previews.next().now_or_never() {
            Some(next) => self.take_preview(next),
            None => Ok(()),
        }
    }

    /// Goes on with sweeps through the flows that the kernel knows.
    fn sweep(&mut self, next: SweepStep) -> Result<(), Error> {
        match next {
            SweepStep::Batch(batch) => self.answer(batch),
            SweepStep::Start => self.start_sweeps(Vec::new()),
            SweepStep::Ended(which, result) => drop(self.swept(which, result?)),
        }
        Ok(())
    }

    /// Gives a sweep its verdicts.
    fn answer(&self, batch: FlowBatch) {
        if let Some(enforcer) = &self.enforcer {
            let forbidden = enforcer.forbidden(&batch.flows);
            batch.answer(forbidden);
        }
    }

    /// Starts the sweeps that are due. What waited for a pass may have to wait for one of them.
    fn start_sweeps(&mut self, waiters: Vec<Waiter>) {
        let Some(enforcer) = &mut self.enforcer else { return };
        let (established, flows) = enforcer.established_and_flows();
        self.sweeps.wait(waiters, established);
        self.sweeps.start(established, flows);
        if self.sweeps.is_idle(established) && self.sweeps.judged().is_some() {
            self.readiness.flows_judged();
        }
    }

    /// A sweep has ended.
    fn swept(&mut self, which: Which, result: sweeps::Work) -> Result<(), dataplane::Error> {
        let Some(enforcer) = &mut self.enforcer else { return Ok(()) };
        let (established, _) = enforcer.established_and_flows();
        let Some(ended) = self.sweeps.ended(which, result, established) else { return Ok(()) };
        match &ended.result {
            Ok(swept) => {
                self.report.cut(swept);
                if which == Which::Pending && ended.is_of_a_pass {
                    self.readiness.flows_judged();
                }
            }
            Err(error) => {
                let words = self.report.cut_failed(error, ended.retry);
                self.readiness.cut_failed(ended.begun, &words);
            }
        }
        self.start_sweeps(Vec::new());
        self.report_readiness();
        self.report.log_passes(self.sweeps.judged());
        ended.result.map(drop)
    }

    /// Runs the sweeps that are due to their end.
    async fn finish_sweeps(&mut self) -> Result<(), Error> {
        while self.enforcer.as_ref().is_some_and(|enforcer| !self.sweeps.is_idle(enforcer.established())) {
            match self.sweeps.next().await {
                SweepStep::Ended(which, result) => self.swept(which, result?)?,
                next => self.sweep(next)?,
            }
        }
        Ok(())
    }

    /// What makes rules that are in the kernel pointless.
    fn obstacle(&self, unfiltered: &BTreeSet<UnfilteredBridge>) -> Option<(Unready, String)> {
        if self.pending_input.has_ipvs() {
            return Some((Unready::Ipvs, IPVS.to_owned()));
        }
        let bridge = unfiltered.iter().find(|bridge| bridge.evades_policies())?;
        Some((Unready::Bridge, obstacle::bridge(bridge)))
    }

    /// Becomes unready for what was not put right in time.
    fn expire(&mut self) {
        self.readiness.expire();
        self.report_readiness();
    }

    /// Whether the kernel is known to hold what was written last.
    fn is_in_sync(&self) -> bool {
        self.enforcer.as_ref().is_some_and(Enforcer::is_in_sync)
    }

    /// Whether the kernel holds all that is to be in force, and no pass is due but for loading.
    fn is_settled(&self) -> bool {
        self.is_in_sync() && self.schedule.pass_due().is_none()
    }

    /// Whether a large change is being loaded, a portion with each pass.
    fn is_loading(&self) -> bool {
        self.enforcer.as_ref().is_some_and(Enforcer::is_loading)
    }

    /// Whether the next pass has something to do for it.
    fn is_load_due(&self) -> bool {
        self.enforcer.as_ref().is_some_and(Enforcer::is_load_due)
    }

    fn is_unhooked(&self) -> bool {
        self.enforcer.as_ref().is_some_and(Enforcer::is_unhooked)
    }

    /// Reports whether the agent is ready. While changes are not settled yet it says no generation,
    /// and otherwise the last one whose flows are judged too.
    fn report_readiness(&mut self) {
        let judged = self.sweeps.judged().filter(|_| self.is_settled() && !self.is_loading());
        let generation = judged.map(|passed| passed.generation);
        self.report.readiness_is(self.readiness.reason(), generation);
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
            // What hangs cannot report so itself.
            let hangs = begun + UNPROVEN;
            let next = self.readiness.expires().map_or(hangs, |expires| expires.min(hangs));
            tokio::select! {
                done = &mut working => break done?,
                () = time::sleep_until(next), if self.readiness.reason().is_none() => {
                    if next == hangs {
                        self.readiness.hangs(begun);
                        was_hanging = true;
                    }
                    self.expire();
                }
                // A pass may take long. One that takes longer than this hangs.
                () = until(self.watchdog.due()), if begun.elapsed() < BUSY => self.watchdog.feed(),
            }
        };
        self.report.written(&restores, &set_writes);
        self.enforcer = Some(enforcer);
        if was_hanging {
            // Only a pass proves that the agent is ready again.
            self.schedule.request_pass(Instant::now());
        }
        Ok(done)
    }
}

/// What an error means for the next pass.
fn failure(error: &dataplane::Error) -> PassFailure {
    if error.is_contention() {
        PassFailure::Locked
    } else if error.is_of_one_family() {
        PassFailure::OneFamily
    } else {
        PassFailure::Other
    }
}
