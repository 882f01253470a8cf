//! TCP streams: connections on which both ends talk all the time.

use std::collections::BTreeMap;
use std::io::{self, ErrorKind, Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use super::message::{Kind, LENGTH, Message};
use super::record::Record;
use super::sockets::{Sockets, Token};
use super::timeline::Sure;
use crate::lab::{Error, Netns, Result};

/// How long a stream may receive nothing from the other end, which sends all the
/// time.
const PATIENCE: Duration = Duration::from_secs(10);

/// How long a stream that is not allowed any more is kept, to see that nothing
/// comes through.
const KEPT: Duration = Duration::from_secs(3);

/// One end of a connection.
pub(super) struct End {
    pub(super) socket: TcpStream,
    inbox: Vec<u8>,
    outbox: Vec<u8>,
}

impl End {
    pub(super) fn new(socket: TcpStream) -> Self {
        Self { socket, inbox: Vec::new(), outbox: Vec::new() }
    }

    /// All whole messages that are there. The error is for when there will be
    /// no more.
    pub(super) fn read(&mut self) -> (Vec<Message>, io::Result<()>) {
        let mut buffer = [0; 64 * LENGTH];
        let ended = loop {
            match self.socket.read(&mut buffer) {
                Ok(0) => break Err(ErrorKind::UnexpectedEof.into()),
                Ok(length) => self.inbox.extend_from_slice(&buffer[..length]),
                Err(error) if error.kind() == ErrorKind::WouldBlock => break Ok(()),
                Err(error) => break Err(error),
            }
        };
        let whole = self.inbox.len() / LENGTH * LENGTH;
        let messages = self.inbox.drain(..whole).collect::<Vec<u8>>();
        (messages.chunks(LENGTH).filter_map(Message::parse).collect(), ended)
    }

    /// Sends a message, unless earlier ones still wait to be sent.
    pub(super) fn write(&mut self, message: Message) -> io::Result<()> {
        if self.outbox.is_empty() {
            self.outbox.extend(message.to_bytes());
        }
        match self.socket.write(&self.outbox) {
            Ok(length) => drop(self.outbox.drain(..length)),
            Err(error) if error.kind() == ErrorKind::WouldBlock => {}
            Err(error) => return Err(error),
        }
        Ok(())
    }
}

struct Stream {
    flow: usize,
    born: Instant,
    client: End,
    server: Option<End>,
    /// When each end received from the other last, client first.
    received: [Instant; 2],
    /// Until when it is known to have been allowed without a break.
    checked: Instant,
    /// Since when it is not known any more.
    broken: Option<Instant>,
}

/// All TCP streams.
pub(super) struct Streams {
    live: BTreeMap<u64, Stream>,
    /// Which stream an accepted connection belongs to.
    accepted: BTreeMap<u64, u64>,
    next: u64,
}

impl Streams {
    pub(super) fn new() -> Self {
        Self { live: BTreeMap::new(), accepted: BTreeMap::new(), next: 0 }
    }

    /// The flows that have a stream.
    pub(super) fn flows(&self) -> impl Iterator<Item = usize> {
        self.live.values().map(|stream| stream.flow)
    }

    /// Begins a stream, from where the thread is.
    pub(super) fn begin(&mut self, flow: usize, sockets: &mut Sockets, record: &mut Record) -> Result<()> {
        let now = Instant::now();
        let parameters = record.flow(flow).clone();
        match sockets.connection(&parameters) {
            Ok(socket) => {
                sockets.watch_beginning(&socket, Token::Connection(self.next))?;
                let (client, received) = (End::new(socket), [now, now]);
                let stream = Stream { flow, born: now, client, server: None, received, checked: now, broken: None };
                self.live.insert(self.next, stream);
                self.next += 1;
            }
            Err(error) => {
                record.report.unsent += 1;
                record.report.why_unsent = Some(error.to_string());
            }
        }
        Ok(())
    }

    /// An accepted connection is the other end of a stream.
    pub(super) fn attach(&mut self, id: u64, key: u64, end: End) {
        if let Some(stream) = self.live.get_mut(&id) {
            stream.server = Some(end);
            self.accepted.insert(key, id);
        }
    }

    /// The first end of a stream is ready.
    pub(super) fn client_received(&mut self, id: u64, sockets: &Sockets, record: &mut Record) -> Result<()> {
        let Some(stream) = self.live.get_mut(&id) else { return Ok(()) };
        if stream.server.is_none() {
            if let Ok(None) = stream.client.socket.take_error()
                && stream.client.write(message(id, stream.flow, record)).is_ok()
            {
                sockets.watch_from_now(&stream.client.socket, Token::Connection(id))?;
                return Ok(());
            }
            self.ended(id, "could not begin", record);
            return Ok(());
        }
        let (messages, ended) = stream.client.read();
        self.take(id, 0, &messages, ended, record);
        Ok(())
    }

    /// An accepted connection is ready; whether it is of a stream.
    pub(super) fn server_received(&mut self, key: u64, record: &mut Record) -> bool {
        let Some(id) = self.accepted.get(&key).copied() else { return false };
        let Some(server) = self.live.get_mut(&id).and_then(|stream| stream.server.as_mut()) else { return true };
        let (messages, ended) = server.read();
        self.take(id, 1, &messages, ended, record);
        true
    }

    /// What one end has received.
    pub(super) fn take(
        &mut self,
        id: u64,
        side: usize,
        messages: &[Message],
        ended: io::Result<()>,
        record: &mut Record,
    ) {
        let Some(stream) = self.live.get_mut(&id) else { return };
        for message in messages {
            stream.received[side] = Instant::now();
            record.streamed(stream.flow, stream.born, record.instant(message.sent));
        }
        if let Err(error) = ended {
            self.ended(id, &error.to_string(), record);
        }
    }

    /// Sends one message each way on every stream.
    pub(super) fn talk(&mut self, record: &mut Record) {
        let mut failed = Vec::new();
        for (id, stream) in &mut self.live {
            let Some(server) = &mut stream.server else { continue };
            let message = message(*id, stream.flow, record);
            for end in [&mut stream.client, server] {
                if let Err(error) = end.write(message) {
                    failed.push((*id, error.to_string()));
                }
            }
        }
        for (id, how) in failed {
            self.ended(id, &how, record);
        }
    }

    /// Checks which streams are still allowed, and whether those live.
    pub(super) fn check(&mut self, record: &mut Record) {
        let (mut over, mut silent) = (Vec::new(), Vec::new());
        for (id, stream) in &mut self.live {
            let now = stream.is_broken(record);
            if now.is_some_and(|since| since.elapsed() > KEPT) {
                over.push(*id);
            } else if now.is_none() {
                let received = stream.received[0].min(stream.received[1]);
                if received.elapsed() > PATIENCE && record.has_read_in_time_since(received) {
                    silent.push(*id);
                }
            }
        }
        for id in silent {
            if let Some(stream) = self.remove(id) {
                let sent = stream.received[0].min(stream.received[1]);
                record.violated(stream.flow, sent, "LOST: nothing more came on a TCP stream");
            }
        }
        for id in over {
            self.remove(id);
            record.report.streams_ended += 1;
        }
    }

    fn ended(&mut self, id: u64, how: &str, record: &mut Record) {
        let Some(mut stream) = self.remove(id) else { return };
        if stream.is_broken(record).is_none() {
            record.violated(stream.flow, stream.checked, &format!("RESET: a TCP stream ended ({how})"));
        } else {
            record.report.streams_ended += 1;
        }
    }

    fn remove(&mut self, id: u64) -> Option<Stream> {
        self.accepted.retain(|_, of| *of != id);
        self.live.remove(&id)
    }

    /// What the kernels say of the streams that were allowed from their
    /// beginning until now: what one end sent and the other never got was lost.
    /// Sent again is not lost: a machine that stalls for longer than the
    /// retransmission timeout sends again what comes late.
    pub(super) fn finish(&mut self, netns: &[Netns], record: &mut Record) -> Result<()> {
        self.check(record);
        let all: Vec<u64> = self.live.keys().copied().collect();
        for id in all {
            let Some(mut stream) = self.remove(id) else { continue };
            if stream.server.is_none() || stream.is_broken(record).is_some() {
                continue;
            }
            record.report.streams_lived += 1;
            let flow = record.flow(stream.flow).clone();
            let Ok(own) = stream.client.socket.local_addr() else { continue };
            let seen = [
                Segments::of(&netns[flow.from], own, flow.destination)?,
                Segments::of(&netns[flow.to], flow.destination, own)?,
            ];
            for (here, sent, got) in [(own, seen[0].sent, seen[1].got), (flow.destination, seen[1].sent, seen[0].got)] {
                let lost = sent.saturating_sub(got);
                if lost > 0 {
                    let what = format!("LOST: {lost} segments of a TCP stream, from {here}");
                    record.violated(stream.flow, stream.born, &what);
                }
            }
        }
        Ok(())
    }
}

impl Stream {
    /// Since when it is not allowed for sure any more.
    fn is_broken(&mut self, record: &Record) -> Option<Instant> {
        let now = Instant::now();
        if self.broken.is_none() && record.judge(self.flow, self.checked, now).0 != Sure::Allowed {
            self.broken = Some(now);
        }
        self.checked = now;
        self.broken
    }
}

fn message(id: u64, flow: usize, record: &Record) -> Message {
    let flow = u32::try_from(flow).unwrap_or(u32::MAX);
    Message { kind: Kind::Stream, is_answer: false, flow, sent: record.since_begun(), id }
}

/// How many segments with data one end of a connection has sent and got.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Segments {
    sent: u64,
    got: u64,
}

impl Segments {
    fn of(netns: &Netns, here: SocketAddr, there: SocketAddr) -> Result<Self> {
        // By both ends: other connections have the same two ports.
        let (here, there) = (here.to_string(), there.to_string());
        let said = netns.exec(["ss", "-tinHO", "src", &here, "dst", &there], "")?;
        if said.trim().is_empty() {
            return Err(Error::Unknown(format!("connection from {here} to {there}")));
        }
        Ok(Self::parse(&said))
    }

    /// What a line of `ss` says.
    fn parse(line: &str) -> Self {
        Self { sent: count(line, "data_segs_out:"), got: count(line, "data_segs_in:") }
    }
}

/// The number behind a word of `ss`; it leaves those out that are 0.
fn count(line: &str, word: &str) -> u64 {
    let number = line.split_whitespace().find_map(|part| part.strip_prefix(word));
    number.and_then(|number| number.parse().ok()).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_ss_says_of_a_connection_is_understood() {
        let line = "ESTAB 0 0 10.0.0.1:5 10.0.0.2:6 cubic segs_out:17 segs_in:19 data_segs_out:12 data_segs_in:3";
        assert_eq!(Segments::parse(line), Segments { sent: 12, got: 3 });
        assert_eq!(Segments::parse("ESTAB 0 0 10.0.0.1:5 10.0.0.2:6 cubic rto:204"), Segments { sent: 0, got: 0 });
    }
}
