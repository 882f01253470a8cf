//! The socket to the kernel's netfilter, and the exchange of one request for
//! its answers.
//!
//! The kernel carries a request out inside the call that sends it, and stops
//! at nothing that failed before. So one request is under way at a time: what
//! comes after a refused write must not reach the kernel. Many members go in
//! one message; the wait for its acknowledgement costs a system call and no
//! time.

use std::io;
use std::os::fd::OwnedFd;
use std::time::Duration;

use rtnetlink::packet_core::{DecodeError, DoneBuffer, ErrorBuffer, NLM_F_DUMP_INTR, NetlinkBuffer};
use rustix::io::{Errno, retry_on_intr};
use rustix::net::sockopt::{Timeout, set_socket_timeout};
use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, netlink, recv, send, socket_with};

use super::attribute::{Attributes, NETFILTER_HEADER, NETLINK_HEADER_LENGTH, SUBSYSTEM, SetCommand, message};
use super::error::{Error, Refusal};
use super::request::Request;

/// How long an answer may take. The kernel answers before it returns from
/// taking the request, so this is for what must not happen.
const PATIENCE: Duration = Duration::from_secs(10);

/// The kernel sends at most 32 KiB at once, and a refused request back.
const BUFFER: usize = 64 << 10;

const ERROR: u16 = 2;
const DONE: u16 = 3;

/// How an exchange ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Outcome {
    /// The request was carried out.
    Done,
    /// It was not, or of its members only those before this line.
    Refused(Refusal, Option<usize>),
    /// What came may not be all, or what was listed changed meanwhile: it has
    /// to be asked again.
    Interrupted,
}

/// A socket in the network namespace in which it was opened.
#[derive(Debug)]
pub(super) struct Socket {
    fd: OwnedFd,
    /// Of the last request. A late answer to an earlier one is passed over.
    number: u32,
    buffer: Vec<u8>,
    patience: Duration,
}

impl Socket {
    pub(super) fn open() -> Result<Self, Error> {
        Self::over(netfilter()?, PATIENCE)
    }

    /// Speaks over what is open already.
    pub(super) fn over(fd: OwnedFd, patience: Duration) -> Result<Self, Error> {
        set_socket_timeout(&fd, Timeout::Recv, Some(patience)).map_err(failed("set up"))?;
        Ok(Self { fd, number: 0, buffer: vec![0; BUFFER], patience })
    }

    /// Sends a request and hands out what comes for an answer.
    ///
    /// # Errors
    /// If the socket fails or no answer can be had; or the error of `each`.
    pub(super) fn exchange(
        &mut self,
        request: &mut Request,
        each: impl FnMut(Attributes<'_>) -> Result<(), Error>,
    ) -> Result<Outcome, Error> {
        let outcome = self.attempt(request, each);
        if outcome.is_err() {
            // What is left of the answer would be in the next one's way.
            self.renew()?;
        }
        outcome
    }

    fn renew(&mut self) -> Result<(), Error> {
        *self = Self { number: self.number, ..Self::over(netfilter()?, self.patience)? };
        Ok(())
    }

    fn attempt(
        &mut self,
        request: &mut Request,
        mut each: impl FnMut(Attributes<'_>) -> Result<(), Error>,
    ) -> Result<Outcome, Error> {
        self.number = self.number.wrapping_add(1);
        let bytes = request.numbered(self.number);
        match retry_on_intr(|| send(&self.fd, bytes, SendFlags::empty())) {
            Ok(_) => {}
            // There was no room for the request, and there may be in a moment.
            Err(Errno::NOBUFS) => return Ok(Outcome::Interrupted),
            Err(error) => return Err(failed("write to")(error)),
        }
        let mut interrupted = false;
        loop {
            let length = match retry_on_intr(|| recv(&self.fd, &mut self.buffer[..], RecvFlags::TRUNC)) {
                Ok((_, length)) => length,
                // The kernel had no room for an answer. More of a list may be
                // to come, and until then there is no other.
                Err(Errno::NOBUFS) => return self.renew().map(|()| Outcome::Interrupted),
                Err(Errno::AGAIN) => return Err(Error::Silent(self.patience)),
                Err(error) => return Err(failed("read from")(error)),
            };
            let mut rest = self.buffer.get(..length).ok_or_else(|| malformed("it is longer than all answers"))?;
            if rest.is_empty() {
                return Err(malformed("it is empty"));
            }
            while !rest.is_empty() {
                let message = NetlinkBuffer::new_checked(rest)?;
                // Padded to four bytes, but for the last.
                let next = (message.length() as usize).next_multiple_of(4).min(rest.len());
                rest = &rest[next..];
                if message.sequence_number() != self.number {
                    continue;
                }
                interrupted |= message.flags() & NLM_F_DUMP_INTR != 0;
                let end = match message.message_type() {
                    ERROR => outcome(message.payload())?,
                    DONE => match DoneBuffer::new_checked(message.payload())?.code() {
                        0 => Outcome::Done,
                        code => Outcome::Refused(Refusal(-code), None),
                    },
                    kind if kind.to_be_bytes()[0] == SUBSYSTEM => {
                        each(attributes(message.payload())?)?;
                        continue;
                    }
                    _ => continue,
                };
                return Ok(if interrupted { Outcome::Interrupted } else { end });
            }
        }
    }
}

fn netfilter() -> Result<OwnedFd, Error> {
    // Bound by the first send, to a port of the kernel's choice.
    socket_with(AddressFamily::NETLINK, SocketType::RAW, SocketFlags::CLOEXEC, Some(netlink::NETFILTER))
        .map_err(failed("open"))
}

fn failed(what: &'static str) -> impl FnOnce(Errno) -> Error {
    move |error| Error::Socket { what, source: io::Error::from(error) }
}

fn malformed(what: &str) -> Error {
    DecodeError::from(what).into()
}

fn attributes(payload: &[u8]) -> Result<Attributes<'_>, Error> {
    payload.get(NETFILTER_HEADER.len()..).map(Attributes).ok_or_else(|| malformed("it has no netfilter header"))
}

/// What an acknowledgement says, and for which member of the request that it
/// quotes.
fn outcome(payload: &[u8]) -> Result<Outcome, Error> {
    let answer = ErrorBuffer::new_checked(payload)?;
    let Some(code) = answer.code() else { return Ok(Outcome::Done) };
    let quoted = answer.payload();
    // Only requests with members have a line, and not every refusal quotes
    // all of one.
    let line = NetlinkBuffer::new_checked(quoted).ok().and_then(|request| {
        let of_members = [SetCommand::Add, SetCommand::Delete].map(|command| command as u8);
        let [_, command] = request.message_type().to_be_bytes();
        let attributes = quoted.get(NETLINK_HEADER_LENGTH + NETFILTER_HEADER.len()..)?;
        let line = Attributes(attributes).get(message::LINE).ok()??;
        of_members.contains(&command).then_some(u32::from_be_bytes(line.try_into().ok()?))
    });
    let line = line.filter(|line| *line > 0).and_then(|line| usize::try_from(line).ok());
    Ok(Outcome::Refused(Refusal(code.get().saturating_neg()), line))
}

/// Reads what may be an acknowledgement: for fuzzing.
pub(super) fn fuzz(payload: &[u8]) {
    let _ = outcome(payload);
}
