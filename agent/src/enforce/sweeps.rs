//! Sweeps through the flows that the kernel knows, beside the loop.
//!
//! ```text
//! pass ─▶ pending scope ─┬▶ sweep of all that is pending, at most so often ─┐ batches   loop:
//!                        └▶ urgent sweep: addresses that an ADD waits for  ─┴────────▶ verdicts
//! ```
//!
//! A sweep lists and deletes flows on a thread of its own. It holds no ruleset: the loop gives the
//! verdicts, between passes, by the ruleset and the owners of addresses of that moment. So no
//! verdict is older than the pass before it, even if policies change while a long list is read. And
//! no pass waits for a list.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::time::Duration;

use npc_compiler::plan::conntrack::FlowKey;
use tokio::sync::{mpsc, oneshot};
use tokio::task::{self, JoinError, JoinHandle};
use tokio::time::Instant;

use super::flows::{Due, Established};
use super::schedule::until;
use super::waiters::Waiter;
use crate::dataplane::{CutResult, Error, Flows};

/// The next sweep of the pending scope waits this many times as long as the last one took. So these
/// sweeps take at most a fifth of one processor, and a denied flow goes on no longer than six
/// sweeps take. A sweep that an ADD waits for begins at once.
const PAUSE: u32 = 4;

/// How long after a failure it is tried again, at first and at most.
const RETRY: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(30));

/// Flows of a sweep that wait for their verdicts: which of them are forbidden?
#[derive(Debug)]
pub(super) struct FlowBatch {
    pub(super) flows: Vec<FlowKey>,
    reply: oneshot::Sender<Vec<bool>>,
}

impl FlowBatch {
    /// Answers it.
    pub(super) fn answer(self, forbidden: Vec<bool>) {
        // A sweep that broke off does not wait for it.
        let _ = self.reply.send(forbidden);
    }
}

/// A pass that has written everything.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub(super) struct Passed {
    /// How many such passes there were, with this one.
    pub(super) number: u64,
    /// The generation of the cluster that it wrote.
    pub(super) generation: u64,
}

/// How a sweep ended, and for how long it was at work itself: not for how long it waited for
/// verdicts.
pub(super) type Work = (Result<CutResult, Error>, Duration);

/// One sweep at work.
#[derive(Debug)]
struct RunningSweep {
    due: Due,
    /// The pass that it judges by, or a later one.
    passed: Passed,
    /// What waits for it.
    waiters: Vec<Waiter>,
    begun: Instant,
    work: JoinHandle<Work>,
}

/// A sweep that ended.
#[derive(Debug)]
pub(super) struct EndedSweep {
    pub(super) begun: Instant,
    /// A pass had brought the kernel up to date before.
    pub(super) is_of_a_pass: bool,
    pub(super) result: Result<CutResult, Error>,
    /// Until the next try, after a failure.
    pub(super) retry: Duration,
}

/// What [`Sweeps::next`] has.
#[derive(Debug)]
pub(super) enum SweepStep {
    /// A sweep needs verdicts.
    Batch(FlowBatch),
    /// A sweep has ended, perhaps because it broke off.
    Ended(Which, Result<Work, JoinError>),
    /// A sweep that waited may begin.
    Start,
}

/// One of the two sweeps that may be at work.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Which {
    /// Of all that was pending.
    Pending,
    /// Of addresses that something waits for.
    Urgent,
}

/// The sweeps of an agent.
#[derive(Debug)]
pub(super) struct Sweeps {
    batches: mpsc::Receiver<FlowBatch>,
    sender: mpsc::Sender<FlowBatch>,
    pending: Option<RunningSweep>,
    urgent: Option<RunningSweep>,
    /// What waits for the next urgent sweep.
    waiters: Vec<Waiter>,
    /// When the next sweep of what is pending may begin.
    not_before: Instant,
    /// A sweep waits for that.
    is_waiting: bool,
    /// When the index of addresses with flows is renewed, if nothing else is pending until then.
    renewal: Option<Instant>,
    /// When an urgent sweep that failed is tried again.
    urgent_not_before: Instant,
    /// The wait after the next failure.
    retry: Duration,
    /// The last pass.
    passed: Passed,
    /// One whose flows are judged but for those of the urgent sweep at work.
    nearly_judged: Option<Passed>,
    /// The latest pass whose flows are judged.
    judged: Option<Passed>,
}

impl Sweeps {
    /// None yet.
    pub(super) fn new(now: Instant) -> Self {
        let (sender, batches) = mpsc::channel(2);
        Self {
            batches,
            sender,
            pending: None,
            urgent: None,
            waiters: Vec::new(),
            not_before: now,
            is_waiting: false,
            renewal: None,
            urgent_not_before: now,
            retry: RETRY.0,
            passed: Passed::default(),
            nearly_judged: None,
            judged: None,
        }
    }

    /// What comes next. Nothing is lost where this is not waited for to its end.
    pub(super) async fn next(&mut self) -> SweepStep {
        let has_urgent = !self.waiters.is_empty() && self.urgent.is_none();
        let pending = self.is_waiting.then_some(self.not_before);
        let urgent = has_urgent.then_some(self.urgent_not_before);
        let start = [pending, urgent, self.renewal].into_iter().flatten().min();
        tokio::select! {
            biased;
            // Ends before batches: those of a long sweep would hold up the end of an urgent one.
            ended = ended(self.urgent.as_mut()) => SweepStep::Ended(Which::Urgent, ended),
            ended = ended(self.pending.as_mut()) => SweepStep::Ended(Which::Pending, ended),
            Some(batch) = self.batches.recv() => SweepStep::Batch(batch),
            () = until(start) => SweepStep::Start,
        }
    }

    /// Whether a sweep is at work.
    pub(super) fn is_running(&self) -> bool {
        self.pending.is_some() || self.urgent.is_some()
    }

    /// A pass has written this generation of the cluster.
    pub(super) fn passed(&mut self, generation: u64) {
        self.passed = Passed { number: self.passed.number + 1, generation };
    }

    /// A pass has ended, and these waited for what it wrote. Those whose addresses have no
    /// flows to be judged are answered.
    pub(super) fn wait(&mut self, waiters: Vec<Waiter>, established: &Established) {
        let running = [&self.pending, &self.urgent];
        let is_due = |address: &IpAddr| {
            established.pending().covers(*address)
                || running.iter().any(|sweep| sweep.as_ref().is_some_and(|it| it.due.cut.scope.covers(*address)))
        };
        // Where established flows are kept, no scope has those that began before a new sandbox did.
        let (waiting, done): (Vec<Waiter>, _) = waiters
            .into_iter()
            .partition(|waiter| waiter.is_new && established.keeps_all() || waiter.addresses.iter().any(is_due));
        answer(done);
        self.waiters.extend(waiting);
    }

    /// Starts the sweeps that are due and may begin. A later change takes effect on them as soon as
    /// it matters, because the loop gives their verdicts.
    pub(super) fn start(&mut self, established: &mut Established, flows: impl Fn() -> Box<dyn Flows>) {
        let now = Instant::now();
        if self.urgent.is_none() && !self.waiters.is_empty() && self.urgent_not_before <= now {
            let waiters = std::mem::take(&mut self.waiters);
            let addresses: BTreeSet<IpAddr> = waiters.iter().flat_map(|waiter| &waiter.addresses).copied().collect();
            let due = established.take_pending_of(&addresses, new(&waiters));
            self.urgent = Some(self.run(due, waiters, flows()));
        }
        let is_due = self.pending.is_none() && !established.pending().is_empty();
        self.is_waiting = is_due && self.not_before > now;
        let renewal = established.index.due(now).filter(|_| self.pending.is_none() && self.passed.number > 0);
        self.renewal = renewal.map(|due| due.max(self.not_before));
        if is_due && !self.is_waiting || self.renewal.is_some_and(|due| due <= now) {
            self.pending = Some(self.run(established.take_pending(), Vec::new(), flows()));
            (self.is_waiting, self.renewal) = (false, None);
        }
        if self.passed.number > 0 && self.is_idle(established) {
            self.judged = Some(self.passed);
        }
    }

    fn run(&self, due: Due, waiters: Vec<Waiter>, mut flows: Box<dyn Flows>) -> RunningSweep {
        let (cut, sender) = (due.cut.clone(), self.sender.clone());
        let work = task::spawn_blocking(move || {
            let (begun, mut waited) = (std::time::Instant::now(), Duration::ZERO);
            let swept = flows.cut(&cut, &mut |flows| {
                let asked = std::time::Instant::now();
                let (reply, verdicts) = oneshot::channel();
                sender.blocking_send(FlowBatch { flows, reply }).ok()?;
                let forbidden = verdicts.blocking_recv().ok();
                waited += asked.elapsed();
                forbidden
            });
            (swept, begun.elapsed().saturating_sub(waited))
        });
        RunningSweep { due, passed: self.passed, waiters, begun: Instant::now(), work }
    }

    /// Whether no flow is to be judged, and none is being judged.
    pub(super) fn is_idle(&self, established: &Established) -> bool {
        // Nothing waits for a sweep that only renews the index.
        let judges_none = self.pending.as_ref().is_none_or(|sweep| sweep.due.cut.scope.is_empty());
        judges_none && self.urgent.is_none() && established.pending().is_empty()
    }

    /// A sweep has ended. What waited for it is answered if it went well; otherwise it waits
    /// for the next try. `None` if there was none.
    pub(super) fn ended(
        &mut self,
        which: Which,
        (result, busy): Work,
        established: &mut Established,
    ) -> Option<EndedSweep> {
        let now = Instant::now();
        let sweep = match which {
            Which::Pending => self.pending.take(),
            Which::Urgent => self.urgent.take(),
        }?;
        let retry = self.retry;
        match &result {
            Ok(swept) => {
                established.judged(&sweep.due);
                established.index.swept(&sweep.due.cut, &swept.index);
                answer(sweep.waiters);
                // For both kinds of sweep: the kernel answers again.
                (self.retry, self.urgent_not_before) = (RETRY.0, now);
                if which == Which::Pending {
                    self.not_before = now + busy * PAUSE;
                    // What is pending now came after this pass.
                    self.nearly_judged = Some(sweep.passed).filter(|passed| passed.number > 0);
                }
                if self.urgent.is_none() {
                    self.judged = self.judged.max(self.nearly_judged.take());
                }
            }
            Err(_) => {
                self.nearly_judged = None;
                established.index.failed(&sweep.due.cut);
                established.put_back(sweep.due);
                self.waiters.extend(sweep.waiters);
                self.retry = (retry * 2).min(RETRY.1);
                match which {
                    Which::Pending => self.not_before = now + retry,
                    Which::Urgent => self.urgent_not_before = now + retry,
                }
            }
        }
        Some(EndedSweep { begun: sweep.begun, is_of_a_pass: sweep.passed.number > 0, result, retry })
    }

    /// The latest pass whose flows are judged; none before the first sweep.
    pub(super) fn judged(&self) -> Option<Passed> {
        self.judged
    }
}

/// The addresses that belong to new sandboxes alone. One that was not answered in time may have
/// started without an answer.
fn new(waiters: &[Waiter]) -> BTreeSet<IpAddr> {
    let is_new = |waiter: &&Waiter| waiter.is_new && !waiter.reply.is_closed();
    let (new, others): (Vec<_>, Vec<_>) = waiters.iter().partition(is_new);
    let mut addresses: BTreeSet<IpAddr> = new.into_iter().flat_map(|waiter| &waiter.addresses).copied().collect();
    for address in others.into_iter().flat_map(|waiter| &waiter.addresses) {
        addresses.remove(address);
    }
    addresses
}

async fn ended(sweep: Option<&mut RunningSweep>) -> Result<Work, JoinError> {
    match sweep {
        Some(sweep) => (&mut sweep.work).await,
        None => std::future::pending().await,
    }
}

fn answer(waiters: Vec<Waiter>) {
    for waiter in waiters {
        // One that does not wait any more has gone.
        let _ = waiter.reply.send(());
    }
}
