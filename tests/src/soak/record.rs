//! What was seen of the traffic, and what of it must not have been.

use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use super::flow::{Flow, Flows};
use super::timeline::{Sure, Timeline};

/// How many violations are printed; the others are counted.
const TOLD: usize = 20;

/// A pause of the thread that sends and receives which is too long to say of a
/// packet that it was late on its way.
const STALL: Duration = Duration::from_millis(200);

/// How often something was seen.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Count {
    /// While every node had one state.
    pub settled: u64,
    /// While one that judges it may have been between states.
    pub in_flight: u64,
}

impl Count {
    fn add(&mut self, in_flight: bool) {
        *if in_flight { &mut self.in_flight } else { &mut self.settled } += 1;
    }
}

impl fmt::Display for Count {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({} in flight)", self.settled + self.in_flight, self.in_flight)
    }
}

/// What became of the traffic.
#[derive(Debug, Clone, Default)]
pub struct TrafficReport {
    /// Packets that all states allowed, and that came.
    pub passed: Count,
    /// Packets that all states denied, and that did not come.
    pub stopped: Count,
    /// Packets about which nothing can be said.
    pub undecided: u64,
    /// Datagrams of streams that were cut, and that the other end turned
    /// around by a datagram of its own.
    pub turned_around: u64,
    /// Packets that could not be sent.
    pub unsent: u64,
    /// Why not, the last time.
    pub why_unsent: Option<String>,
    /// Messages on TCP streams that all states allowed.
    pub streamed: Count,
    /// Streams that ended because some state denied them.
    pub streams_ended: u64,
    /// TCP streams that lived from beginning to end.
    pub streams_lived: u64,
    /// The longest pause of the thread that sends and receives.
    pub longest_pause: Duration,
    /// How many packets broke the promise.
    pub violations: u64,
    /// The first of these, in words.
    pub told: Vec<String>,
}

impl fmt::Display for TrafficReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "passed    {}", self.passed)?;
        writeln!(f, "stopped   {}", self.stopped)?;
        writeln!(f, "streamed  {}, on streams; {} of these lived throughout", self.streamed, self.streams_lived)?;
        writeln!(f, "          and {} ended because they were denied", self.streams_ended)?;
        let why = self.why_unsent.as_deref().unwrap_or("");
        writeln!(f, "undecided {}, not sent {} {why}", self.undecided, self.unsent)?;
        writeln!(f, "datagrams on flows turned around {}", self.turned_around)?;
        writeln!(f, "longest pause of the prober {:?}", self.longest_pause)?;
        write!(f, "violations {}", self.violations)?;
        self.told.iter().try_for_each(|told| write!(f, "\n  {told}"))
    }
}

/// Writes down what the traffic sees.
pub(super) struct Record {
    pub(super) flows: Arc<Flows>,
    timeline: Arc<Mutex<Timeline>>,
    pub(super) begun: Instant,
    looked: Instant,
    stalled: Instant,
    pub(super) report: TrafficReport,
}

impl Record {
    pub(super) fn new(flows: Arc<Flows>, timeline: Arc<Mutex<Timeline>>) -> Self {
        let now = Instant::now();
        Self { flows, timeline, begun: now, looked: now, stalled: now, report: TrafficReport::default() }
    }

    pub(super) fn flow(&self, flow: usize) -> &Flow {
        &self.flows.all[flow]
    }

    fn timeline(&self) -> MutexGuard<'_, Timeline> {
        self.timeline.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What a message says of when it was sent.
    pub(super) fn since_begun(&self) -> u64 {
        u64::try_from(self.begun.elapsed().as_nanos()).unwrap_or(u64::MAX)
    }

    /// When a message was sent.
    pub(super) fn instant(&self, sent: u64) -> Instant {
        self.begun + Duration::from_nanos(sent)
    }

    /// The thread reads its sockets.
    pub(super) fn sockets_read(&mut self) {
        let pause = self.looked.elapsed();
        self.looked = Instant::now();
        self.report.longest_pause = self.report.longest_pause.max(pause);
        if pause > STALL {
            self.stalled = self.looked;
        }
    }

    /// Whether the thread has read its sockets in time ever since.
    pub(super) fn has_read_in_time_since(&self, then: Instant) -> bool {
        self.stalled < then
    }

    pub(super) fn judge(&self, flow: usize, begin: Instant, end: Instant) -> (Sure, bool) {
        self.timeline().judge(&self.flows.all, flow, begin, end)
    }

    /// Whether the last state allows a flow.
    pub(super) fn is_allowed_now(&self, flow: usize) -> bool {
        self.timeline().verdicts().allow(flow)
    }

    /// The first packet of a flow, sent then, has come.
    pub(super) fn came(&mut self, flow: usize, sent: Instant, what: &str) {
        match self.judge(flow, sent, Instant::now()) {
            (Sure::Allowed, in_flight) => self.report.passed.add(in_flight),
            (Sure::Denied, _) => self.violated(flow, sent, &format!("LEAKED: {what} came through")),
            (Sure::Neither, _) => self.report.undecided += 1,
        }
    }

    /// A packet of a UDP stream has come. When such a flow is cut at a node, a
    /// datagram of the other end may be the next to come there. Where policies
    /// let it begin a flow of its own, all that follow are answers to it; so
    /// this one counts only where they do not.
    pub(super) fn came_on_datagrams(&mut self, flow: usize, sent: Instant) {
        let now = Instant::now();
        let is_denied = self.judge(flow, sent, now).0 == Sure::Denied;
        if is_denied && !self.timeline().denied_in_both_directions(&self.flows.all, flow, sent, now) {
            self.report.turned_around += 1;
        } else {
            self.came(flow, sent, "a datagram of a stream");
        }
    }

    /// Whether the answer to a datagram of a UDP stream, which has come, has to
    /// come as well. If the flow was ever cut, the other end may have turned it
    /// around, and what policies say of the way back decides on it then: where
    /// they come to deny that, it is cut once more, under an answer perhaps.
    pub(super) fn answer_is_due(&self, flow: usize, sent: Instant) -> bool {
        let now = Instant::now();
        let is_allowed = |flow: usize, since: Instant| self.judge(flow, since, now).0 == Sure::Allowed;
        let back = self.flow(flow).back;
        is_allowed(flow, self.begun) || is_allowed(flow, sent) && back.is_some_and(|back| is_allowed(back, sent))
    }

    /// A message has come on a TCP stream that began then.
    pub(super) fn streamed(&mut self, flow: usize, born: Instant, sent: Instant) {
        match self.judge(flow, sent, Instant::now()) {
            (Sure::Allowed, in_flight) => self.report.streamed.add(in_flight),
            (Sure::Denied, _) if self.timeline().may_be_known(&self.flows.all, flow, born, sent) => {
                self.report.undecided += 1;
            }
            (Sure::Denied, _) => self.violated(flow, sent, "LEAKED: a message on a TCP stream came through"),
            (Sure::Neither, _) => self.report.undecided += 1,
        }
    }

    /// A first packet has not come until now. Answers whether it should have,
    /// so that more patience is due.
    pub(super) fn did_not_arrive(&mut self, flow: usize, sent: Instant) -> bool {
        match self.judge(flow, sent, Instant::now()) {
            (Sure::Allowed, _) => return true,
            (Sure::Denied, in_flight) => self.report.stopped.add(in_flight),
            (Sure::Neither, _) => self.report.undecided += 1,
        }
        false
    }

    /// The promise was broken.
    pub(super) fn violated(&mut self, flow: usize, sent: Instant, what: &str) {
        self.report.violations += 1;
        if self.report.told.len() >= TOLD {
            return;
        }
        let now = Instant::now();
        let story = self.timeline().story(&self.flows.all, flow, sent, now);
        let Flow { name, .. } = self.flow(flow);
        let (at, after) = (sent.saturating_duration_since(self.begun), now.saturating_duration_since(sent));
        self.report.told.push(format!("{what}: {name}, sent at {at:.3?}, told {after:.3?} later\n      {story}"));
    }
}
