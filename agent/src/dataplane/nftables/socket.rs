//! The socket to nf_tables: one question with its answers, or one batch of
//! writes, which the kernel carries out wholly or not at all.
//!
//! The kernel works inside the call that sends, so when that returns, all
//! answers are there to be read.

use std::io;
use std::os::fd::OwnedFd;
use std::time::Duration;

use rtnetlink::packet_core::{
    DecodeError, DoneBuffer, ErrorBuffer, NLM_F_ACK, NLM_F_CREATE, NLM_F_DUMP, NLM_F_DUMP_INTR, NLM_F_REQUEST,
    NetlinkBuffer,
};
use rustix::io::{Errno, retry_on_intr};
use rustix::net::sockopt::{
    Timeout, set_socket_recv_buffer_size_force, set_socket_send_buffer_size_force, set_socket_timeout,
};
use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, netlink, recv, send, socket_with};

use super::{Attributes, message};
use crate::words::rounded::rounded;

/// The kernel's number for nf_tables among the parts of netfilter.
const SUBSYSTEM: u8 = 10;

/// The length of the netlink header in front of every message.
const NETLINK_HEADER: usize = 16;

/// Of every netfilter message, behind the netlink header: family, version and a
/// resource of 16 bits.
const NETFILTER_HEADER: usize = 4;

/// Where a batch begins and where it ends.
const BATCH_BEGIN: u16 = 16;
const BATCH_END: u16 = 17;

const ERROR: u16 = 2;
const DONE: u16 = 3;

/// How long an answer may take. The kernel answers before it returns from taking
/// the request, so this is for what must not happen.
const PATIENCE: Duration = Duration::from_secs(10);

/// The kernel sends at most 32 KiB at once, and a refused message back, which is
/// no longer than an attribute may get.
const BUFFER: usize = 128 << 10;

/// How often a list is asked for again that another program changed meanwhile.
const TRIES: u32 = 20;

/// Why nf_tables could not be read or written.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A question, or a write of a batch, was refused. Nothing of the batch is in
    /// the kernel.
    #[error("the kernel refused to {what}: {}", words(*.errno))]
    Refused {
        /// What it was asked for.
        what: String,
        /// Its error number.
        errno: i32,
    },
    /// The socket failed.
    #[error("cannot {what} the netlink socket of nf_tables")]
    Socket {
        /// What was tried.
        what: &'static str,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// No answer came. Whether a batch is in the kernel is not known.
    #[error("the kernel's nf_tables has not answered for {} to the request to {}", rounded(*.0), .1)]
    Silent(Duration, String),
    /// Answers were lost, or a list changed while it was read, again and again.
    #[error(
        "the kernel had no room for its answer to the request to {0}, or what it lists changed meanwhile, again and again"
    )]
    Interrupted(String),
    /// An answer that cannot be read.
    #[error("the kernel's answer to the request to {what} makes no sense")]
    Malformed {
        /// What it was asked for.
        what: String,
        /// What is wrong with it.
        #[source]
        source: DecodeError,
    },
}

impl Error {
    /// Whether what was asked about is not there.
    #[must_use]
    pub fn is_absent(&self) -> bool {
        matches!(self, Self::Refused { errno, .. } if Errno::from_raw_os_error(*errno) == Errno::NOENT)
    }

    /// Whether this kernel has no nf_tables, or not the family or the expression
    /// that was asked for.
    #[must_use]
    pub fn is_unsupported(&self) -> bool {
        let unsupported = [Errno::OPNOTSUPP, Errno::AFNOSUPPORT, Errno::PROTONOSUPPORT];
        matches!(self, Self::Refused { errno, .. } if unsupported.contains(&Errno::from_raw_os_error(*errno)))
    }
}

fn words(errno: i32) -> String {
    let words = io::Error::from_raw_os_error(errno);
    match Errno::from_raw_os_error(errno) {
        Errno::PERM => format!("{words} (it takes CAP_NET_ADMIN)"),
        Errno::OPNOTSUPP | Errno::AFNOSUPPORT | Errno::PROTONOSUPPORT => {
            format!("{words} (this kernel lacks nf_tables, or this part of it)")
        }
        _ => words.to_string(),
    }
}

/// One message to nf_tables, all but its number.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Request {
    bytes: Vec<u8>,
    /// For errors: what it asks for, as in "the kernel refused to …".
    what: String,
}

impl Request {
    /// Asks about one thing.
    #[must_use]
    pub fn get(message: u8, family: u8, what: impl Into<String>, attributes: impl FnOnce(&mut Vec<u8>)) -> Self {
        Self::new(message, family, NLM_F_ACK, what.into(), attributes)
    }

    /// Asks for all that there is of a kind.
    #[must_use]
    pub fn list(message: u8, family: u8, what: impl Into<String>, attributes: impl FnOnce(&mut Vec<u8>)) -> Self {
        Self::new(message, family, NLM_F_DUMP, what.into(), attributes)
    }

    /// Makes something that may be there already: a table, a chain or a set with
    /// the same properties, members of a set; or appends a rule.
    ///
    /// A rule is put at the end, because without `NLM_F_APPEND` it would become
    /// the first.
    #[must_use]
    pub fn create(message: u8, family: u8, what: impl Into<String>, attributes: impl FnOnce(&mut Vec<u8>)) -> Self {
        const NLM_F_APPEND: u16 = 0x800;
        Self::new(message, family, NLM_F_CREATE | NLM_F_APPEND, what.into(), attributes)
    }

    /// Removes something.
    #[must_use]
    pub fn delete(message: u8, family: u8, what: impl Into<String>, attributes: impl FnOnce(&mut Vec<u8>)) -> Self {
        Self::new(message, family, 0, what.into(), attributes)
    }

    fn new(message: u8, family: u8, flags: u16, what: String, attributes: impl FnOnce(&mut Vec<u8>)) -> Self {
        let mut bytes = vec![0; NETLINK_HEADER];
        bytes.extend_from_slice(&[family, 0, 0, 0]);
        attributes(&mut bytes);
        finish(&mut bytes, u16::from_be_bytes([SUBSYSTEM, message]), NLM_F_REQUEST | flags);
        Self { bytes, what }
    }
}

fn finish(bytes: &mut [u8], kind: u16, flags: u16) {
    let length = u32::try_from(bytes.len()).unwrap_or(u32::MAX);
    let mut header = NetlinkBuffer::new(bytes);
    header.set_length(length);
    header.set_message_type(kind);
    header.set_flags(flags);
}

fn batch_edge(kind: u16) -> Vec<u8> {
    let mut bytes = vec![0; NETLINK_HEADER];
    // The resource says for which part of netfilter the batch is.
    bytes.extend_from_slice(&[0, 0, 0, SUBSYSTEM]);
    finish(&mut bytes, kind, NLM_F_REQUEST);
    bytes
}

/// A socket in the network namespace in which it was opened.
#[derive(Debug)]
pub struct Socket {
    fd: OwnedFd,
    /// Of the last message. A late answer to an earlier one is passed over.
    number: u32,
    buffer: Vec<u8>,
}

/// What was read of an answer until it ended.
enum ReplyPart {
    /// The message of this number was carried out, or refused.
    Of(u32, Result<(), Errno>),
    /// What came may not be all, or what was listed changed meanwhile.
    Interrupted,
}

impl Socket {
    /// Opens a socket in the network namespace of the calling thread.
    ///
    /// # Errors
    /// If the system has none for us.
    pub fn open() -> Result<Self, Error> {
        Ok(Self { fd: open()?, number: 0, buffer: vec![0; BUFFER] })
    }

    /// Asks one question and answers with what `each` makes of the attributes of each
    /// message that comes.
    ///
    /// # Errors
    /// If the kernel refuses, or its answer cannot be had or understood. An answer
    /// of `each` that is an error is [`Error::Malformed`].
    pub fn ask<T>(
        &mut self,
        request: &Request,
        mut each: impl FnMut(Attributes<'_>) -> Result<Option<T>, DecodeError>,
    ) -> Result<Vec<T>, Error> {
        for _ in 0..TRIES {
            let number = self.number.wrapping_add(1);
            self.number = number;
            let mut bytes = request.bytes.clone();
            NetlinkBuffer::new(&mut bytes).set_sequence_number(number);
            if !self.send(&bytes)? {
                continue;
            }
            let mut found = Vec::new();
            let end = self.receive(request, number..=number, |attributes| {
                found.extend(each(attributes)?);
                Ok(())
            });
            match end {
                Ok(ReplyPart::Of(_, Ok(()))) => return Ok(found),
                Ok(ReplyPart::Of(_, Err(errno))) => return Err(refused(request, errno)),
                Ok(ReplyPart::Interrupted) => self.renew()?,
                Err(error) => {
                    // What is left of the answer would be in the next one's way.
                    self.renew()?;
                    return Err(error);
                }
            }
        }
        Err(Error::Interrupted(request.what.clone()))
    }

    /// The number of nf_tables' last commit, in all families.
    ///
    /// # Errors
    /// As [`Socket::ask`].
    pub fn generation(&mut self) -> Result<u32, Error> {
        /// The attribute of the number.
        const GENERATION: u16 = 1;
        let ask = Request::get(message::GET_GENERATION, 0, "say which its last commit to nf_tables is", |_| ());
        match self.ask(&ask, |attributes| attributes.u32(GENERATION)) {
            Ok(found) => Ok(found.first().copied().unwrap_or_default()),
            // So a kernel without nf_tables answers to what is no batch.
            Err(Error::Refused { what, errno }) if errno == Errno::INVAL.raw_os_error() => {
                Err(Error::Refused { what, errno: Errno::OPNOTSUPP.raw_os_error() })
            }
            Err(error) => Err(error),
        }
    }

    /// Carries out all of these writes, or none.
    ///
    /// # Errors
    /// If the kernel refuses one: the first refused is named, and nothing was
    /// written. With any other error it is not known whether they were.
    pub fn commit(&mut self, requests: &[Request]) -> Result<(), Error> {
        let Some(last) = requests.last() else { return Ok(()) };
        // The kernel answers to each refused message. For the messages that it carried out, one
        // acknowledgement is enough, the last message's; the others would need room.
        let first = self.number.wrapping_add(1);
        let mut bytes = batch_edge(BATCH_BEGIN);
        NetlinkBuffer::new(&mut bytes).set_sequence_number(first);
        let mut number = first;
        for request in requests {
            number = number.wrapping_add(1);
            let begin = bytes.len();
            bytes.extend_from_slice(&request.bytes);
            let mut header = NetlinkBuffer::new(&mut bytes[begin..]);
            header.set_sequence_number(number);
            let flags = header.flags() & !NLM_F_ACK;
            header.set_flags(flags);
        }
        let acknowledged = number;
        if let Some(begin) = bytes.len().checked_sub(last.bytes.len()) {
            let mut header = NetlinkBuffer::new(&mut bytes[begin..]);
            let flags = header.flags() | NLM_F_ACK;
            header.set_flags(flags);
        }
        let mut end = batch_edge(BATCH_END);
        number = number.wrapping_add(1);
        NetlinkBuffer::new(&mut end).set_sequence_number(number);
        bytes.extend_from_slice(&end);
        self.number = number;
        // A batch is one datagram. Without the right to more room a long one is
        // refused, with an error that says so.
        let _ = set_socket_send_buffer_size_force(&self.fd, bytes.len().saturating_mul(2).max(BUFFER));
        if !self.send(&bytes)? {
            return Err(Error::Interrupted(last.what.clone()));
        }
        let which = |number: u32| {
            // What the first number refuses is the whole batch.
            let place = number.wrapping_sub(first).saturating_sub(1);
            usize::try_from(place).ok().and_then(|place| requests.get(place)).unwrap_or(last)
        };
        let mut failed = None;
        loop {
            match self.receive(last, first..=number, |_| Ok(())) {
                Ok(ReplyPart::Of(number, outcome)) => {
                    if let Err(errno) = outcome {
                        failed.get_or_insert_with(|| refused(which(number), errno));
                    }
                    // The refusal of the whole, and the last message's answer, end it.
                    if number == first || number == acknowledged {
                        break;
                    }
                }
                Ok(ReplyPart::Interrupted) => {
                    self.renew()?;
                    // A refusal that came is certain, even if later answers were lost.
                    return Err(failed.unwrap_or_else(|| Error::Interrupted(last.what.clone())));
                }
                Err(error) => {
                    self.renew()?;
                    return Err(error);
                }
            }
        }
        failed.map_or(Ok(()), Err)
    }

    /// Sends a datagram; false if there was no room for it.
    fn send(&self, bytes: &[u8]) -> Result<bool, Error> {
        match retry_on_intr(|| send(&self.fd, bytes, SendFlags::empty())) {
            Ok(_) => Ok(true),
            Err(Errno::NOBUFS) => Ok(false),
            Err(error) => Err(failed("write to")(error)),
        }
    }

    /// Reads until a message ends the answer to one of these numbers.
    fn receive(
        &mut self,
        request: &Request,
        numbers: std::ops::RangeInclusive<u32>,
        mut each: impl FnMut(Attributes<'_>) -> Result<(), DecodeError>,
    ) -> Result<ReplyPart, Error> {
        let malformed = |source| Error::Malformed { what: request.what.clone(), source };
        let mut interrupted = false;
        loop {
            let length = match retry_on_intr(|| recv(&self.fd, &mut self.buffer[..], RecvFlags::TRUNC)) {
                Ok((_, length)) => length,
                Err(Errno::NOBUFS) => return Ok(ReplyPart::Interrupted),
                Err(Errno::AGAIN) => return Err(Error::Silent(PATIENCE, request.what.clone())),
                Err(error) => return Err(failed("read from")(error)),
            };
            let mut rest = self
                .buffer
                .get(..length)
                .ok_or_else(|| malformed(DecodeError::from("it is longer than all answers")))?;
            if rest.is_empty() {
                return Err(malformed(DecodeError::from("it is empty")));
            }
            while !rest.is_empty() {
                let message = NetlinkBuffer::new_checked(rest).map_err(malformed)?;
                // Padded to four bytes, but for the last.
                let next = (message.length() as usize).next_multiple_of(4).min(rest.len());
                rest = &rest[next..];
                let number = message.sequence_number();
                if !numbers.contains(&number) {
                    continue;
                }
                interrupted |= message.flags() & NLM_F_DUMP_INTR != 0;
                let outcome = match message.message_type() {
                    ERROR => match ErrorBuffer::new_checked(message.payload()).map_err(malformed)?.code() {
                        None => Ok(()),
                        Some(code) => Err(Errno::from_raw_os_error(code.get().saturating_abs())),
                    },
                    DONE => match DoneBuffer::new_checked(message.payload()).map_err(malformed)?.code() {
                        0 => Ok(()),
                        code => Err(Errno::from_raw_os_error(code.saturating_abs())),
                    },
                    kind => {
                        let [subsystem, _] = kind.to_be_bytes();
                        if let (SUBSYSTEM, Some((_, attributes))) =
                            (subsystem, message.payload().split_at_checked(NETFILTER_HEADER))
                        {
                            each(Attributes(attributes)).map_err(malformed)?;
                        }
                        continue;
                    }
                };
                return Ok(if interrupted { ReplyPart::Interrupted } else { ReplyPart::Of(number, outcome) });
            }
        }
    }

    fn renew(&mut self) -> Result<(), Error> {
        self.fd = open()?;
        Ok(())
    }
}

fn open() -> Result<OwnedFd, Error> {
    // Bound by the first send, to a port of the kernel's choice.
    let fd = socket_with(AddressFamily::NETLINK, SocketType::RAW, SocketFlags::CLOEXEC, Some(netlink::NETFILTER))
        .map_err(failed("open"))?;
    set_socket_timeout(&fd, Timeout::Recv, Some(PATIENCE)).map_err(failed("set up"))?;
    // Without the right to it there is less room for refusals.
    let _ = set_socket_recv_buffer_size_force(&fd, 1 << 20);
    Ok(fd)
}

fn failed(what: &'static str) -> impl FnOnce(Errno) -> Error {
    move |error| Error::Socket { what, source: io::Error::from(error) }
}

fn refused(request: &Request, errno: Errno) -> Error {
    Error::Refused { what: request.what.clone(), errno: errno.raw_os_error() }
}
