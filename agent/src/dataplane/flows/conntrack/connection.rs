//! A socket to the kernel's connection tracking, and what goes over it.

use std::io;
use std::time::Duration;

use netlink_packet_netfilter::conntrack::{ConntrackAttribute, ConntrackMessage};
use netlink_packet_netfilter::{NetfilterHeader, NetfilterMessage, NetfilterMessageInner, NetfilterProtoFamily};
use npc_compiler::object::Family;
use rtnetlink::packet_core::{
    DefaultNla, Emitable as _, NLM_F_ACK, NLM_F_REQUEST, NetlinkHeader, NetlinkMessage, NetlinkPayload,
};
use rtnetlink::sys::{Socket, SocketAddr, protocols::NETLINK_NETFILTER};
use rustix::io::Errno;
use rustix::net::sockopt::{Timeout, set_socket_timeout};

use super::{Error, PART, SUBSYSTEM};
use crate::dataplane::netlink::datagram::messages_where;

/// How often a request is made: the kernel may have no room for it, or for its answer.
pub(super) const TRIES: u32 = 5;

/// How long the kernel may take for one part of its answer.
const PATIENCE: Duration = Duration::from_secs(10);

/// What became of one entry.
pub(super) enum Deleted {
    Gone,
    /// It ended by itself before.
    Ended,
    /// It is not the kernel's software path that forwards it.
    Busy,
}

/// A socket to the kernel's netfilter.
pub(super) struct ConntrackSocket {
    socket: Socket,
    buffer: Vec<u8>,
}

impl ConntrackSocket {
    pub(super) fn open() -> Result<Self, Error> {
        let open = || {
            let socket = Socket::new(NETLINK_NETFILTER)?;
            socket.connect(&SocketAddr::new(0, 0))?;
            // A sweep that never ended would let denied flows go on, and ADDs wait.
            set_socket_timeout(&socket, Timeout::Recv, Some(PATIENCE))?;
            Ok(socket)
        };
        let socket = open().map_err(|error: io::Error| match Errno::from_io_error(&error) {
            Some(Errno::PROTONOSUPPORT) => Error::Unsupported(error),
            _ => Error::Socket(error),
        })?;
        Ok(Self { socket, buffer: vec![0; PART] })
    }

    /// Sends a message about a family, or about all, with one more attribute, which may be a nested
    /// one. It is not among the message's own attributes, because there the crate drops the flag of
    /// a nested attribute that it does not know.
    pub(super) fn send(
        &self,
        family: Option<Family>,
        flags: u16,
        message: ConntrackMessage,
        more: Option<DefaultNla>,
    ) -> Result<(), Error> {
        let family = match family {
            Some(Family::V4) => NetfilterProtoFamily::IPv4,
            Some(Family::V6) => NetfilterProtoFamily::IPv6,
            None => NetfilterProtoFamily::Unspec,
        };
        let mut header = NetlinkHeader::default();
        header.flags = NLM_F_REQUEST | flags;
        let message = NetfilterMessage::new(NetfilterHeader::new(family, 0, 0), message);
        let mut message = NetlinkMessage::new(header, NetlinkPayload::from(message));
        message.finalize();
        let mut bytes = vec![0; message.buffer_len()];
        message.serialize(&mut bytes);
        if let Some(more) = more {
            let end = bytes.len();
            bytes.resize(end + more.buffer_len(), 0);
            more.emit(&mut bytes[end..]);
            let length = u32::try_from(bytes.len()).map_err(|error| Error::Malformed(error.to_string()))?;
            bytes[..4].copy_from_slice(&length.to_ne_bytes());
        }
        uninterrupted(|| self.socket.send(&bytes, 0)).map(drop).map_err(Error::Socket)
    }

    /// Receives once. Returns whether one of the messages was the last. A message that is not
    /// wanted, by its payload, is not read.
    pub(super) fn receive(
        &self,
        buffer: &mut [u8],
        is_wanted: impl Fn(&[u8]) -> bool,
        mut take: impl FnMut(NetlinkPayload<NetfilterMessage>) -> Result<bool, Error>,
    ) -> Result<bool, Error> {
        let length = uninterrupted(|| self.socket.recv(&mut &mut *buffer, 0)).map_err(Error::Socket)?;
        let part = buffer.get(..length).ok_or_else(|| Error::Malformed("a part is too long".to_owned()))?;
        for message in messages_where::<NetfilterMessage>(part, SUBSYSTEM, is_wanted) {
            if take(message.map_err(|error| Error::Malformed(error.to_string()))?.payload)? {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// Receives one part of a list, entry by entry, as [`ConntrackSocket::receive`] does. Returns whether it was the
    /// last.
    pub(super) fn receive_entries(
        &self,
        buffer: &mut [u8],
        is_wanted: impl Fn(&[u8]) -> bool,
        mut take: impl FnMut(Vec<ConntrackAttribute>) -> Result<(), Error>,
    ) -> Result<bool, Error> {
        self.receive(buffer, is_wanted, |payload| match payload {
            NetlinkPayload::InnerMessage(message) => match message.inner {
                NetfilterMessageInner::Conntrack(ConntrackMessage::New(entry)) => take(entry).map(|()| false),
                _ => Ok(false),
            },
            NetlinkPayload::Done(done) if done.code == 0 => Ok(true),
            NetlinkPayload::Done(done) => Err(refused("list", done.code)),
            NetlinkPayload::Error(error) => Err(refused("list", error.raw_code())),
            _ => Ok(false),
        })
    }

    /// Deletes an entry. If the answer is lost, the entry is deleted once more: either it is
    /// gone then, or it goes.
    pub(super) fn delete(&mut self, family: Family, entry: &[ConntrackAttribute]) -> Result<Deleted, Error> {
        for tries in 0..TRIES {
            match self.try_delete(family, entry.to_vec()) {
                // A late answer would be taken for the next one's.
                Err(error) if error.is_lost() => *self = Self::open()?,
                Ok(Deleted::Ended) if tries > 0 => return Ok(Deleted::Gone),
                done => return done,
            }
        }
        Err(Error::Lost(TRIES))
    }

    fn try_delete(&mut self, family: Family, entry: Vec<ConntrackAttribute>) -> Result<Deleted, Error> {
        match self.request(family, ConntrackMessage::Delete(entry), None)? {
            0 => Ok(Deleted::Gone),
            code if code == -Errno::NOENT.raw_os_error() => Ok(Deleted::Ended),
            code if code == -Errno::BUSY.raw_os_error() => Ok(Deleted::Busy),
            code => Err(refused("delete", code)),
        }
    }

    /// Sends a message that the kernel acknowledges. Answers the kernel's code: 0 if it did what
    /// was asked for.
    pub(super) fn request(
        &mut self,
        family: Family,
        message: ConntrackMessage,
        more: Option<DefaultNla>,
    ) -> Result<i32, Error> {
        self.send(Some(family), NLM_F_ACK, message, more)?;
        let mut buffer = std::mem::take(&mut self.buffer);
        let mut answer = None;
        while answer.is_none() {
            let take = |payload: NetlinkPayload<NetfilterMessage>| {
                if let NetlinkPayload::Error(error) = payload {
                    answer = Some(error.raw_code());
                }
                Ok(answer.is_some())
            };
            self.receive(&mut buffer, |_| true, take)?;
        }
        self.buffer = buffer;
        Ok(answer.unwrap_or_default())
    }
}

/// Does it again where a signal came first.
fn uninterrupted(mut call: impl FnMut() -> io::Result<usize>) -> io::Result<usize> {
    loop {
        match call() {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            done => return done,
        }
    }
}

pub(super) fn refused(doing: &'static str, code: i32) -> Error {
    let source = io::Error::from_raw_os_error(code.saturating_abs());
    match Errno::from_io_error(&source) {
        // What nfnetlink says of a subsystem that is not there.
        Some(Errno::INVAL | Errno::OPNOTSUPP) if doing == "list" => Error::Unsupported(source),
        _ => Error::Refused { doing, source },
    }
}
