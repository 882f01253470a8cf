//! Shots: packets that are judged one by one. Most begin a flow of their
//! own; the others are the datagrams of a stream.

use std::collections::{BTreeMap, VecDeque};
use std::io::{Read as _, Write as _};
use std::net::{TcpStream, UdpSocket};
use std::time::{Duration, Instant};

use npc_compiler::object::Protocol;

use super::message::{Kind, LENGTH, Message};
use super::record::Record;
use super::sockets::{Sockets, Token};
use super::timeline::Sure;
use crate::lab::Result;

/// How long after it was sent a packet is counted as missing that has not come: it
/// takes microseconds, and on a busy machine longer. Its verdict has fallen by
/// then, so what comes about later has no part in it.
const LATE: Duration = Duration::from_millis(1300);

/// How long one that should have come is waited for before it counts as lost.
const PATIENCE: Duration = Duration::from_secs(10);

/// A connection that took so long has lost a packet: the kernel sends the first
/// one again after a second.
const SENT_AGAIN: Duration = Duration::from_millis(900);

/// What sends a shot, and receives the answer.
enum Sender {
    Datagram(UdpSocket),
    Connection(TcpStream),
    /// A socket that others use as well.
    Shared,
}

struct Shot {
    flow: usize,
    sent: Instant,
    arrived: bool,
    sender: Sender,
}

/// All shots that have not been answered.
pub(super) struct Shots {
    pending: BTreeMap<u64, Shot>,
    /// When each counts as missing, in order.
    due: VecDeque<(Instant, u64)>,
    /// Those that should have come, and until when they are waited for.
    missing: VecDeque<(Instant, u64)>,
    next: u64,
}

impl Shots {
    pub(super) fn new() -> Self {
        Self { pending: BTreeMap::new(), due: VecDeque::new(), missing: VecDeque::new(), next: 0 }
    }

    /// Sends the first packet of a new flow, from where the thread is.
    pub(super) fn fire(&mut self, flow: usize, sockets: &mut Sockets, record: &mut Record) -> Result<()> {
        let (id, sent) = (self.next, Instant::now());
        let (flow_, token) = (record.flow(flow).clone(), Token::Shot(id));
        let sender = match flow_.protocol {
            Protocol::Tcp => sockets.connection(&flow_).map(Sender::Connection),
            _ => sockets.sender(&flow_).and_then(|socket| {
                socket.send(&message(Kind::Shot, flow, id, record).to_bytes())?;
                Ok(Sender::Datagram(socket))
            }),
        };
        match sender {
            Ok(sender) => {
                match &sender {
                    Sender::Connection(stream) => sockets.watch_beginning(stream, token)?,
                    Sender::Datagram(socket) => sockets.watch(socket, token)?,
                    Sender::Shared => {}
                }
                self.wait_for(Shot { flow, sent, arrived: false, sender });
            }
            Err(error) => unsent(record, &error),
        }
        Ok(())
    }

    /// Sends one more datagram of a stream.
    pub(super) fn send_on(&mut self, socket: &UdpSocket, flow: usize, record: &mut Record) {
        let sent = Instant::now();
        match socket.send(&message(Kind::Stream, flow, self.next, record).to_bytes()) {
            Ok(_) => self.wait_for(Shot { flow, sent, arrived: false, sender: Sender::Shared }),
            Err(error) => unsent(record, &error),
        }
    }

    /// Sends a packet that begins a flow and is not answered, by what can.
    pub(super) fn burst(&mut self, flow: usize, record: &mut Record, by: impl FnOnce(&[u8]) -> std::io::Result<()>) {
        let sent = Instant::now();
        match by(&message(Kind::Burst, flow, self.next, record).to_bytes()) {
            Ok(()) => self.wait_for(Shot { flow, sent, arrived: false, sender: Sender::Shared }),
            Err(error) => unsent(record, &error),
        }
    }

    fn wait_for(&mut self, shot: Shot) {
        self.due.push_back((shot.sent + LATE, self.next));
        self.pending.insert(self.next, shot);
        self.next += 1;
    }

    /// A message of a shot has come to its destination.
    pub(super) fn arrived(&mut self, message: Message, record: &mut Record) {
        let (flow, sent) = (message.flow as usize, record.instant(message.sent));
        match message.kind {
            Kind::Shot | Kind::Burst => record.came(flow, sent, "the first packet of a flow"),
            Kind::Stream => record.came_on_datagrams(flow, sent),
        }
        if message.kind == Kind::Burst {
            self.pending.remove(&message.id);
        } else if let Some(shot) = self.pending.get_mut(&message.id) {
            shot.arrived = true;
        }
    }

    /// The sender's socket of a shot is ready.
    pub(super) fn received(&mut self, id: u64, sockets: &Sockets, record: &mut Record) -> Result<()> {
        let Some(shot) = self.pending.get(&id) else { return Ok(()) };
        let mut buffer = [0; LENGTH];
        match &shot.sender {
            Sender::Shared => {}
            Sender::Datagram(socket) => {
                if socket.recv(&mut buffer).is_ok() {
                    self.pending.remove(&id);
                }
            }
            Sender::Connection(stream) => {
                let mut stream = stream;
                let failed = match stream.take_error() {
                    Ok(None) => stream.read(&mut buffer),
                    Ok(Some(error)) | Err(error) => Err(error),
                };
                let (flow, sent) = (shot.flow, shot.sent);
                match failed {
                    Ok(LENGTH) => drop(self.pending.remove(&id)),
                    // Nothing was sent to it yet: it is there.
                    Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {
                        let said = stream.write(&message(Kind::Shot, flow, id, record).to_bytes());
                        sockets.watch_from_now(stream, Token::Shot(id))?;
                        if let Err(error) = said {
                            unsent(record, &error);
                        }
                        connected(flow, sent, record);
                    }
                    ended => {
                        let how = ended.map_or_else(|error| error.to_string(), |_| "closed".to_owned());
                        if record.judge(flow, sent, Instant::now()).0 == Sure::Allowed {
                            record.violated(flow, sent, &format!("RESET: a connection failed ({how})"));
                        }
                        self.pending.remove(&id);
                    }
                }
            }
        }
        Ok(())
    }

    /// The answer to a datagram of a stream has come.
    pub(super) fn answered(&mut self, id: u64) {
        self.pending.remove(&id);
    }

    /// Records what has not come in time.
    pub(super) fn expire(&mut self, record: &mut Record) {
        let now = Instant::now();
        while let Some(id) = pop_due(&mut self.due, now) {
            let Some(shot) = self.pending.get(&id) else { continue };
            let should = if shot.arrived {
                match shot.sender {
                    // Its answer is missing, which passes as long as the flow does.
                    Sender::Datagram(_) | Sender::Connection(_) => {
                        record.judge(shot.flow, shot.sent, now).0 == Sure::Allowed
                    }
                    Sender::Shared => record.answer_is_due(shot.flow, shot.sent),
                }
            } else {
                record.did_not_arrive(shot.flow, shot.sent)
            };
            if should {
                self.missing.push_back((shot.sent + PATIENCE, id));
            } else {
                self.pending.remove(&id);
            }
        }
        while let Some(id) = pop_due(&mut self.missing, now) {
            let Some(shot) = self.pending.remove(&id) else { continue };
            let what = if shot.arrived { "LOST: no answer came back" } else { "LOST: a packet never came" };
            record.violated(shot.flow, shot.sent, what);
        }
    }

    /// Whether nothing is waited for any more.
    pub(super) fn is_done(&self) -> bool {
        self.due.is_empty() && self.missing.iter().all(|(_, id)| !self.pending.contains_key(id))
    }
}

fn pop_due(queue: &mut VecDeque<(Instant, u64)>, now: Instant) -> Option<u64> {
    queue.front().filter(|(at, _)| *at <= now)?;
    queue.pop_front().map(|(_, id)| id)
}

fn message(kind: Kind, flow: usize, id: u64, record: &Record) -> Message {
    let flow = u32::try_from(flow).unwrap_or(u32::MAX);
    Message { kind, is_answer: false, flow, sent: record.since_begun(), id }
}

/// A connection is there.
fn connected(flow: usize, sent: Instant, record: &mut Record) {
    let again = sent.elapsed() >= SENT_AGAIN && record.has_read_in_time_since(sent);
    if again && record.judge(flow, sent, Instant::now()).0 == Sure::Allowed {
        record.violated(flow, sent, "LOST: a connection had to be asked for twice");
    }
    if record.judge(flow, sent, Instant::now()).0 == Sure::Denied {
        record.violated(flow, sent, "LEAKED: a connection was made");
    }
}

fn unsent(record: &mut Record, error: &std::io::Error) {
    record.report.unsent += 1;
    record.report.why_unsent = Some(error.to_string());
}
