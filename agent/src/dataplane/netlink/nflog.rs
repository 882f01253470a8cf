//! First packets that were dropped, as the kernel reports them: a group's chain has an NFLOG
//! rule before each DROP, whose prefix is the chain's name.
//!
//! What is read here is for the log. If more packets come than are read, the kernel reports
//! that it lost some. That does no other harm: they were dropped.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::time::Duration;

use netlink_packet_netfilter::nflog::{ConfigCmd, ConfigMode, PacketNla, Timeout, ULogMessage, config_request};
use netlink_packet_netfilter::{NetfilterMessage, NetfilterMessageInner, NetfilterProtoFamily};
use npc_compiler::object::Protocol;
use npc_compiler::plan::conntrack::FlowKey;
use npc_compiler::policy::Direction;
use npc_compiler::ruleset::constants::NFLOG_GROUP;
use npc_compiler::ruleset::node::ChainName;
use rtnetlink::packet_core::{NetlinkMessage, NetlinkPayload};
use rtnetlink::sys::{Socket, protocols::NETLINK_NETFILTER};
use rustix::io::Errno;

use super::datagram::messages;

/// The number of the log among the parts of netfilter.
const SUBSYSTEM: u8 = 4;

/// How much of a packet is asked for, in bytes: both headers, and extension headers of IPv6 before
/// the second.
const HEADERS: u32 = 256;

/// How long the kernel may keep a packet to send several at once.
const DELAY: Duration = Duration::from_millis(100);

/// More than the kernel puts into one message.
const PART: usize = 64 * 1024;

/// Why dropped packets cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The kernel cannot log packets to a program.
    #[error("this kernel does not log packets (load nfnetlink_log)")]
    Unsupported(#[source] io::Error),
    /// Another program reads the same group.
    #[error("another program reads NFLOG group {NFLOG_GROUP}, to which npc's rules log dropped packets")]
    Taken,
    /// The socket failed.
    #[error("cannot ask the kernel for dropped packets")]
    Socket(#[from] io::Error),
    /// The kernel's message makes no sense.
    #[error("cannot read a logged packet from the kernel: {0}")]
    Malformed(String),
}

/// The first packet of a flow that policies deny.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Denied {
    /// In which direction: at the source (egress) or at the destination.
    pub direction: Direction,
    /// The packet; port 0 where its protocol has none.
    pub tuple: FlowKey,
}

/// What a reader received.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Received {
    /// These packets were dropped, in this order.
    Packets(Vec<Denied>),
    /// More were dropped than could be read; the kernel does not count them.
    Lost,
}

/// Reads of the packets that the rules of its network namespace drop.
#[derive(Debug)]
pub struct PacketReader {
    socket: Socket,
    buffer: Vec<u8>,
}

impl PacketReader {
    /// Has the kernel report packets of the calling thread's network namespace.
    ///
    /// # Errors
    /// If the kernel cannot log packets, or another program reads them.
    pub fn open() -> Result<Self, Error> {
        let mut socket = Socket::new(NETLINK_NETFILTER).map_err(|error| match Errno::from_io_error(&error) {
            Some(Errno::PROTONOSUPPORT) => Error::Unsupported(error),
            _ => Error::Socket(error),
        })?;
        socket.bind_auto()?;
        let mut reader = Self { socket, buffer: vec![0; PART] };
        let config = vec![ConfigCmd::Bind.into(), ConfigMode::new_packet(HEADERS).into(), Timeout::from(DELAY).into()];
        let mut request = config_request(NetfilterProtoFamily::Unspec, NFLOG_GROUP, config);
        request.finalize();
        let mut bytes = vec![0; request.buffer_len()];
        request.serialize(&mut bytes);
        reader.socket.send(&bytes, 0)?;
        let mut answer = None;
        while answer.is_none() {
            reader.messages(|payload| {
                if let NetlinkPayload::Error(error) = payload {
                    answer = Some(error.raw_code());
                }
            })?;
        }
        match answer.unwrap_or_default() {
            0 => Ok(reader),
            code => {
                let error = io::Error::from_raw_os_error(code.saturating_abs());
                Err(match Errno::from_io_error(&error) {
                    // The first is its answer for a group with a reader. It gives the same to a
                    // program without the right to ask, but without that no set could be
                    // written either.
                    Some(Errno::PERM | Errno::BUSY) => Error::Taken,
                    // The answer of nfnetlink for a subsystem that is not there.
                    Some(Errno::INVAL | Errno::OPNOTSUPP) => Error::Unsupported(error),
                    _ => Error::Socket(error),
                })
            }
        }
    }

    /// Waits for packets.
    ///
    /// # Errors
    /// If the socket fails. That packets were lost is no error.
    pub fn receive(&mut self) -> Result<Received, Error> {
        let mut packets = Vec::new();
        while packets.is_empty() {
            let received = self.messages(|payload| {
                if let NetlinkPayload::InnerMessage(message) = payload
                    && let NetfilterMessageInner::ULog(ULogMessage::Packet(attributes)) = message.inner
                {
                    packets.extend(denied(&attributes));
                }
            });
            match received {
                Err(Error::Socket(error)) if Errno::from_io_error(&error) == Some(Errno::NOBUFS) => {
                    return Ok(Received::Lost);
                }
                received => received?,
            }
        }
        Ok(Received::Packets(packets))
    }

    /// Receives once.
    fn messages(&mut self, mut take: impl FnMut(NetlinkPayload<NetfilterMessage>)) -> Result<(), Error> {
        let length = loop {
            match self.socket.recv(&mut &mut self.buffer[..], 0) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                received => break received?,
            }
        };
        let part = self.buffer.get(..length).ok_or_else(|| Error::Malformed("it is too long".to_owned()))?;
        for message in messages::<NetfilterMessage>(part, SUBSYSTEM) {
            take(message.map_err(|error| Error::Malformed(error.to_string()))?.payload);
        }
        Ok(())
    }
}

/// A packet that a rule of ours reported.
fn denied(attributes: &[PacketNla]) -> Option<Denied> {
    let prefix = attributes.iter().find_map(|attribute| match attribute {
        PacketNla::Prefix(prefix) => prefix.to_str().ok(),
        _ => None,
    })?;
    let direction = ChainName::ours(prefix)?.direction_of_group()?;
    let tuple = attributes.iter().find_map(|attribute| match attribute {
        PacketNla::Payload(packet) => tuple(packet),
        _ => None,
    })?;
    Some(Denied { direction, tuple })
}

/// The ends of an IP packet, whose headers are there at least.
fn tuple(packet: &[u8]) -> Option<FlowKey> {
    let (source, destination, protocol, rest) = match packet.first()? >> 4 {
        4 => {
            let header = packet.get(..20)?;
            let address =
                |at: usize| Some(IpAddr::from(Ipv4Addr::from(<[u8; 4]>::try_from(header.get(at..at + 4)?).ok()?)));
            let length = usize::from(header[0] & 0x0f) * 4;
            // In every fragment but the first, what follows is no header.
            let is_later_fragment = u16::from_be_bytes([header[6], header[7]]) & 0x1fff != 0;
            let rest = if is_later_fragment { &[] } else { packet.get(length..).unwrap_or_default() };
            (address(12)?, address(16)?, header[9], rest)
        }
        6 => {
            let header = packet.get(..40)?;
            let address =
                |at: usize| Some(IpAddr::from(Ipv6Addr::from(<[u8; 16]>::try_from(header.get(at..at + 16)?).ok()?)));
            let (protocol, rest) = past_extensions(header[6], packet.get(40..).unwrap_or_default());
            (address(8)?, address(24)?, protocol, rest)
        }
        _ => return None,
    };
    let has_ports = Protocol::ALL.into_iter().any(|known| known.number() == protocol);
    let port = match rest {
        [_, _, high, low, ..] if has_ports => u16::from_be_bytes([*high, *low]),
        _ => 0,
    };
    Some(FlowKey { source, destination, protocol, port, mid_stream: false })
}

/// The upper-layer protocol of an IPv6 packet and what follows from there on
/// (RFC 8200, section 4): each extension header names the next and, but for
/// the fragment header, its own length.
fn past_extensions(mut protocol: u8, mut rest: &[u8]) -> (u8, &[u8]) {
    const HOP_BY_HOP: u8 = 0;
    const ROUTING: u8 = 43;
    const FRAGMENT: u8 = 44;
    const AUTHENTICATION: u8 = 51;
    const DESTINATION: u8 = 60;
    while let (HOP_BY_HOP | ROUTING | FRAGMENT | AUTHENTICATION | DESTINATION, [next, length, third, fourth, ..]) =
        (protocol, rest)
    {
        let bytes = match protocol {
            FRAGMENT if u16::from_be_bytes([*third, *fourth]) & 0xfff8 != 0 => return (*next, &[]),
            FRAGMENT => 8,
            AUTHENTICATION => (usize::from(*length) + 2) * 4,
            _ => (usize::from(*length) + 1) * 8,
        };
        protocol = *next;
        rest = rest.get(bytes..).unwrap_or_default();
    }
    (protocol, rest)
}

/// Reads what may be a datagram of the log, the attributes of a packet in it, or a packet: for
/// fuzzing.
pub(in super::super) fn fuzz(data: &[u8]) {
    /// A packet, as linux/netfilter/nfnetlink_log.h numbers it.
    const PACKET: u16 = 4 << 8;
    let take = |message: Result<NetlinkMessage<NetfilterMessage>, _>| {
        if let Ok(NetlinkMessage { payload: NetlinkPayload::InnerMessage(message), .. }) = message
            && let NetfilterMessageInner::ULog(ULogMessage::Packet(attributes)) = message.inner
        {
            let _ = denied(&attributes);
        }
    };
    messages(data, SUBSYSTEM).for_each(take);
    messages(&super::fuzz_input::message(PACKET, &[2, 0, 0, 0], data), SUBSYSTEM).for_each(take);
    let _ = tuple(data);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(packet: &[u8]) -> Option<(String, String, u8, u16)> {
        let tuple = tuple(packet)?;
        Some((tuple.source.to_string(), tuple.destination.to_string(), tuple.protocol, tuple.port))
    }

    /// From 10.0.0.1 to 10.0.0.2, with this fragment offset and protocol.
    fn v4(offset: u8, protocol: u8, rest: &[u8]) -> Vec<u8> {
        let header = [0x45, 0, 0, 0, 0, 0, 0, offset, 64, protocol, 0, 0, 10, 0, 0, 1, 10, 0, 0, 2];
        [&header, rest].concat()
    }

    fn v6(protocol: u8, rest: &[u8]) -> Vec<u8> {
        let address = |last| [&[0xfd][..], &[0; 14], &[last]].concat();
        [&[0x60, 0, 0, 0, 0, 0, protocol, 64], &*address(1), &*address(2), rest].concat()
    }

    #[test]
    fn packets_are_read_as_far_as_they_are_there() {
        let ends = |protocol, port| Some(("10.0.0.1".to_owned(), "10.0.0.2".to_owned(), protocol, port));
        let ports = [0x30, 0x39, 0x15, 0x38];
        assert_eq!(read(&v4(0, 6, &ports)), ends(6, 5432));
        assert_eq!(read(&v4(0, 6, &ports[..3])), ends(6, 0), "cut off");
        assert_eq!(read(&v4(7, 17, &ports)), ends(17, 0), "a later fragment");
        assert_eq!(read(&v4(0, 1, &[8, 0, 1, 2])), ends(1, 0), "ICMP has no ports");
        assert_eq!(read(&v4(0, 47, &ports)), ends(47, 0));
        let mut options = v4(0, 6, &[&[1, 1, 1, 1][..], &ports].concat());
        options[0] = 0x46;
        assert_eq!(read(&options), ends(6, 5432), "IP options");
        assert_eq!(read(&v4(0, 6, &[])[..19]), None);
        assert_eq!(read(&[]), None);
        assert_eq!(read(&[0x50; 64]), None);
    }

    #[test]
    fn extension_headers_of_ipv6_are_passed() {
        let ends = |protocol, port| Some(("fd00::1".to_owned(), "fd00::2".to_owned(), protocol, port));
        let ports = [0, 1, 0, 53];
        assert_eq!(read(&v6(17, &ports)), ends(17, 53));
        let options = |next| [next, 0, 0, 0, 0, 0, 0, 0];
        assert_eq!(read(&v6(0, &[&options(60)[..], &options(17), &ports].concat())), ends(17, 53));
        let fragment = |next, offset| [next, 0, 0, offset, 0, 0, 0, 1];
        assert_eq!(read(&v6(44, &[&fragment(6, 1)[..], &ports].concat())), ends(6, 53), "the first of several");
        assert_eq!(read(&v6(44, &[&fragment(6, 9)[..], &ports].concat())), ends(6, 0), "a later one");
        assert_eq!(read(&v6(60, &[17, 200, 0, 0])), ends(17, 0), "cut off");
        assert_eq!(read(&v6(58, &[128, 0, 0, 0])), ends(58, 0));
    }
}
