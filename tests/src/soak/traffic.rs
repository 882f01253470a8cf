//! The thread that sends and receives everything.

use std::collections::BTreeMap;
use std::net::UdpSocket;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use npc_compiler::object::Protocol;
use proptest::prelude::RngExt as _;
use proptest::test_runner::{RngAlgorithm, TestRng};

use super::burst::Burst;
use super::flow::Flows;
use super::message::{Kind, LENGTH, Message};
use super::record::{Record, TrafficReport};
use super::shots::Shots;
use super::sockets::{Sockets, Token};
use super::streams::{End, Streams};
use super::timeline::Timeline;
use crate::lab::{Place, Result};

/// How much is sent.
#[derive(Debug, Clone)]
pub struct Load {
    /// Something is sent once in this time.
    pub pace: Duration,
    /// How many flows begin each time by UDP, and by TCP.
    pub shots: [usize; 2],
    /// The port that is always admitted: half of the streams go there.
    pub admitted: u16,
    /// How many streams there are, by UDP and by TCP.
    pub streams: [usize; 2],
    /// How many more packets are sent as fast as they can be made after every
    /// change.
    pub burst: usize,
}

impl Default for Load {
    fn default() -> Self {
        Self { pace: Duration::from_millis(15), shots: [14, 5], admitted: 7000, streams: [32, 24], burst: 3000 }
    }
}

/// What the thread shares with the one that started it.
#[derive(Debug)]
struct Shared {
    ends: AtomicBool,
    /// Flows that are worth more packets than others.
    focus: Mutex<Vec<usize>>,
    /// Flows that are to be burst on from now on.
    burst: Mutex<Option<Vec<usize>>>,
}

/// Traffic that runs. Dropping it ends it without a report.
#[derive(Debug)]
pub struct Traffic {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<Result<TrafficReport>>>,
}

impl Traffic {
    /// Begins to send.
    ///
    /// # Errors
    /// When the answering sockets cannot be made.
    pub fn start(
        places: &[Place],
        flows: &Arc<Flows>,
        timeline: &Arc<Mutex<Timeline>>,
        load: Load,
        seed: u64,
    ) -> Result<Self> {
        let sockets = Sockets::open(places, flows)?;
        let shared =
            Arc::new(Shared { ends: AtomicBool::new(false), focus: Mutex::new(Vec::new()), burst: Mutex::new(None) });
        let record = Record::new(Arc::clone(flows), Arc::clone(timeline));
        let mut bytes = [0; 32];
        bytes[..8].copy_from_slice(&seed.to_le_bytes());
        let thread = Thread {
            shared: Arc::clone(&shared),
            sockets,
            record,
            load,
            random: TestRng::from_seed(RngAlgorithm::ChaCha, &bytes),
            shots: Shots::new(),
            burst: Burst::default(),
            datagrams: Vec::new(),
            streams: Streams::new(),
            accepted: BTreeMap::new(),
            next_accepted: 0,
        };
        let thread = std::thread::spawn(move || thread.run());
        Ok(Self { shared, thread: Some(thread) })
    }

    /// From now on most packets are of these flows, and for a while as many as
    /// possible are of those.
    pub fn focus(&self, flows: Vec<usize>, burst: Vec<usize>) {
        *self.shared.focus.lock().unwrap_or_else(PoisonError::into_inner) = flows;
        *self.shared.burst.lock().unwrap_or_else(PoisonError::into_inner) = Some(burst);
    }

    /// Stops sending, waits for what is still on its way, and reports.
    ///
    /// # Errors
    /// When the thread could not go on.
    pub fn finish(mut self) -> Result<TrafficReport> {
        self.shared.ends.store(true, Ordering::Relaxed);
        match self.thread.take().map(JoinHandle::join) {
            Some(Ok(report)) => report,
            Some(Err(panic)) => std::panic::resume_unwind(panic),
            None => Ok(TrafficReport::default()),
        }
    }
}

impl Drop for Traffic {
    fn drop(&mut self) {
        self.shared.ends.store(true, Ordering::Relaxed);
    }
}

struct Thread {
    shared: Arc<Shared>,
    sockets: Sockets,
    record: Record,
    load: Load,
    random: TestRng,
    shots: Shots,
    burst: Burst,
    /// The UDP streams: flow and sending end.
    datagrams: Vec<(usize, UdpSocket)>,
    streams: Streams,
    /// Connections whose purpose is not known yet, or that are
    /// for one message.
    accepted: BTreeMap<u64, End>,
    next_accepted: u64,
}

impl Thread {
    fn run(mut self) -> Result<TrafficReport> {
        self.begin_datagrams()?;
        while !self.shared.ends.load(Ordering::Relaxed) {
            let round = Instant::now();
            self.begin_streams()?;
            self.fire()?;
            self.streams.talk(&mut self.record);
            for (flow, socket) in &self.datagrams {
                self.shots.send_on(socket, *flow, &mut self.record);
            }
            self.receive_until(round + self.load.pace)?;
            self.streams.check(&mut self.record);
            self.shots.expire(&mut self.record);
        }
        self.streams.talk(&mut self.record);
        while !self.shots.is_done() {
            self.receive_until(Instant::now() + self.load.pace)?;
            self.shots.expire(&mut self.record);
        }
        self.streams.finish(&self.sockets.netns, &mut self.record)?;
        Ok(self.record.report)
    }

    /// Half of the streams go to the admitted port, the others anywhere.
    fn choose(&mut self, protocol: Protocol, count: usize, only_allowed: bool) -> Vec<usize> {
        let admitted: Vec<usize> = self.record.flows.to_port(protocol, self.load.admitted).collect();
        let of_protocol = |flow: &usize| self.record.flow(*flow).protocol == protocol;
        let may = |flow: &usize| of_protocol(flow) && (!only_allowed || self.record.is_allowed_now(*flow));
        let any: Vec<usize> = (0..self.record.flows.all.len()).filter(may).collect();
        let pick = |number: usize| if number.is_multiple_of(2) { &admitted } else { &any };
        let random = &mut self.random;
        let chosen = (0..count).map(pick).filter(|from| !from.is_empty());
        chosen.map(|from| from[random.random_range(0..from.len())]).collect()
    }

    fn begin_datagrams(&mut self) -> Result<()> {
        for flow in self.choose(Protocol::Udp, self.load.streams[0], false) {
            let parameters = self.record.flow(flow).clone();
            self.sockets.enter(parameters.from)?;
            match self.sockets.sender(&parameters) {
                Ok(socket) => {
                    self.sockets.watch(&socket, Token::Stream(self.datagrams.len()))?;
                    self.datagrams.push((flow, socket));
                }
                Err(error) => self.record.report.why_unsent = Some(error.to_string()),
            }
        }
        Ok(())
    }

    /// Replaces the TCP streams that have ended; a few at a time.
    fn begin_streams(&mut self) -> Result<()> {
        let there = self.streams.flows().count();
        if there >= self.load.streams[1] {
            return Ok(());
        }
        let admitted = self.streams.flows().filter(|flow| self.goes_to_admitted(*flow)).count();
        // Those that have ended were not the ones to the admitted port.
        let skip = usize::from(admitted * 2 >= self.load.streams[1]);
        for flow in self.choose(Protocol::Tcp, 2, true).into_iter().skip(skip) {
            if self.record.is_allowed_now(flow) {
                self.sockets.enter(self.record.flow(flow).from)?;
                self.streams.begin(flow, &mut self.sockets, &mut self.record)?;
            }
        }
        Ok(())
    }

    fn goes_to_admitted(&self, flow: usize) -> bool {
        self.record.flow(flow).destination.port() == self.load.admitted
    }

    /// Begins new flows: most of those that matter now, and some others.
    fn fire(&mut self) -> Result<()> {
        let focus = self.shared.focus.lock().unwrap_or_else(PoisonError::into_inner).clone();
        if let Some(flows) = self.shared.burst.lock().unwrap_or_else(PoisonError::into_inner).take() {
            self.burst.begin(flows, self.load.burst);
        }
        let mut left = self.load.shots;
        let mut chosen = Vec::new();
        let all = self.record.flows.all.len();
        for _ in 0..(left[0] + left[1]) * 8 {
            let focused = !focus.is_empty() && self.random.random_bool(0.7);
            let flow = if focused {
                focus[self.random.random_range(0..focus.len())]
            } else {
                self.random.random_range(0..all)
            };
            let of = &mut left[usize::from(self.record.flow(flow).protocol == Protocol::Tcp)];
            if *of > 0 {
                *of -= 1;
                chosen.push(flow);
            }
        }
        chosen.sort_by_key(|flow| self.record.flow(*flow).from);
        for flow in chosen {
            self.sockets.enter(self.record.flow(flow).from)?;
            self.shots.fire(flow, &mut self.sockets, &mut self.record)?;
        }
        Ok(())
    }

    fn receive_until(&mut self, end: Instant) -> Result<()> {
        loop {
            self.record.sockets_read();
            let left = end.saturating_duration_since(Instant::now());
            let wait = if left.is_zero() || self.burst.is_over() {
                left
            } else {
                self.burst.fall(&self.sockets, &mut self.shots, &mut self.record)?;
                Duration::ZERO
            };
            for token in self.sockets.wait(wait)? {
                self.receive(token)?;
            }
            if left.is_zero() {
                return Ok(());
            }
        }
    }

    fn receive(&mut self, token: Token) -> Result<()> {
        match token {
            Token::Datagrams(server) => self.answer(server),
            Token::Listener(listener) => self.accept(listener)?,
            Token::Accepted(key) => self.receive_accepted(key),
            Token::Shot(id) => self.shots.received(id, &self.sockets, &mut self.record)?,
            Token::Connection(id) => self.streams.client_received(id, &self.sockets, &mut self.record)?,
            Token::Stream(number) => {
                let mut buffer = [0; LENGTH];
                while let Some((_, socket)) = self.datagrams.get(number)
                    && let Ok(length) = socket.recv(&mut buffer)
                {
                    if let Some(answer) = Message::parse(&buffer[..length]) {
                        self.shots.answered(answer.id);
                    }
                }
            }
        }
        Ok(())
    }

    fn answer(&mut self, server: usize) {
        let socket = &self.sockets.datagrams[server];
        let mut buffer = [0; LENGTH];
        while let Ok((length, from)) = socket.recv_from(&mut buffer) {
            let Some(message) = Message::parse(&buffer[..length]) else { continue };
            self.shots.arrived(message, &mut self.record);
            if message.kind == Kind::Burst {
                continue;
            }
            // If an answer cannot be sent, its receiver counts it as lost.
            let _ = socket.send_to(&Message { is_answer: true, ..message }.to_bytes(), from);
        }
    }

    fn accept(&mut self, listener: usize) -> Result<()> {
        while let Ok((socket, _)) = self.sockets.listeners[listener].accept() {
            if socket.set_nonblocking(true).is_err() || socket.set_nodelay(true).is_err() {
                continue;
            }
            self.sockets.watch(&socket, Token::Accepted(self.next_accepted))?;
            self.accepted.insert(self.next_accepted, End::new(socket));
            self.next_accepted += 1;
        }
        Ok(())
    }

    fn receive_accepted(&mut self, key: u64) {
        if self.streams.server_received(key, &mut self.record) {
            return;
        }
        let Some(mut end) = self.accepted.remove(&key) else { return };
        let (messages, ended) = end.read();
        match messages.first() {
            Some(first) if first.kind == Kind::Stream => {
                let id = first.id;
                self.streams.attach(id, key, end);
                self.streams.take(id, 1, &messages, ended, &mut self.record);
                return;
            }
            Some(first) => {
                self.shots.arrived(*first, &mut self.record);
                // If it cannot be sent, the receiver counts it as lost.
                let _ = end.write(Message { is_answer: true, ..*first });
            }
            None => {}
        }
        if ended.is_ok() {
            self.accepted.insert(key, end);
        }
    }
}
