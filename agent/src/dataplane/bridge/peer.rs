//! What is at the other end of a port that is a veth: its Ethernet address and
//! the addresses that it has there.
//!
//! Nothing in the packets of a pod can be trusted for that, nor what a bridge
//! learns from them. But the kernel knows: a veth says in which network namespace
//! its other end is (`IFLA_LINK_NETNSID`), and for that namespace rtnetlink
//! answers as for ours (`IFLA_TARGET_NETNSID`, `IFA_TARGET_NETNSID`), if we have
//! `CAP_NET_ADMIN` over the user namespace that it belongs to. The agent has, in
//! that of the node and so in all below it.
//!
//! A pod with `CAP_NET_ADMIN` of its own can give itself any address. So these are
//! claims, and hold only as far as the API says the same (`enforce::bridge_table`).

use std::collections::BTreeSet;
use std::io;
use std::net::IpAddr;
use std::time::Duration;

use rtnetlink::packet_core::{DoneBuffer, ErrorBuffer, NLM_F_ACK, NLM_F_DUMP, NLM_F_REQUEST, NetlinkBuffer};
use rtnetlink::sys::{Socket, SocketAddr, protocols::NETLINK_ROUTE};
use rustix::net::sockopt::{Timeout, set_socket_timeout};
use tracing::debug;

use super::EthernetAddress;
use crate::dataplane::netlink::attribute::{Attributes, WriteAttributes, ip_address};

/// Messages and attributes; see linux/rtnetlink.h, if_link.h and if_addr.h.
const GET_LINK: u16 = 18;
const GET_ADDRESS: u16 = 22;
mod link {
    pub(super) const ADDRESS: u16 = 1;
    pub(super) const PEER: u16 = 5;
    pub(super) const NAMESPACE_OF_PEER: u16 = 37;
    pub(super) const TARGET_NAMESPACE: u16 = 46;
}
mod address {
    pub(super) const ADDRESS: u16 = 1;
    pub(super) const LOCAL: u16 = 2;
    pub(super) const TARGET_NAMESPACE: u16 = 10;
}

const NETLINK_HEADER: usize = 16;
const LINK_HEADER: usize = 16;
const ADDRESS_HEADER: usize = 8;

const ERROR: u16 = 2;
const DONE: u16 = 3;

/// How many bytes the kernel puts into one part of a dump at most.
const PART: usize = 64 << 10;

/// How many parts of an answer are read: far more addresses than any pod has. One that
/// gives itself more is left out, because a pod must not keep the agent busy.
const MOST: usize = 4096;

/// How long an answer may take.
const PATIENCE: Duration = Duration::from_secs(2);

/// The other end of a port.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Peer {
    /// Its Ethernet address.
    pub ethernet: EthernetAddress,
    /// Its addresses: all but IPv6 link-local ones.
    pub addresses: BTreeSet<IpAddr>,
}

/// Asks about the other ends of these ports. The answer leaves out a port without one, as a tap, a
/// port that is gone, and one whose other end the kernel does not report.
///
/// # Errors
/// If there is no socket to ask by.
pub fn of(ports: &[u32]) -> io::Result<Vec<(u32, Peer)>> {
    if ports.is_empty() {
        return Ok(Vec::new());
    }
    let mut asker = Asker { socket: open()?, number: 0, buffer: vec![0; PART] };
    let mut found = Vec::new();
    for port in ports {
        match asker.peer(*port) {
            Ok(Some(peer)) => found.push((*port, peer)),
            Ok(None) => {}
            Err(error) => {
                debug!(port, %error, "cannot ask the kernel which addresses are behind a bridge port");
                // What is left of the answer goes with the socket.
                asker.socket = open()?;
            }
        }
    }
    Ok(found)
}

fn open() -> io::Result<Socket> {
    let socket = Socket::new(NETLINK_ROUTE)?;
    socket.connect(&SocketAddr::new(0, 0))?;
    // Without this option the kernel ignores which namespace we ask for, and lists the addresses of
    // our own.
    socket.set_netlink_get_strict_chk(true)?;
    set_socket_timeout(&socket, Timeout::Recv, Some(PATIENCE))?;
    Ok(socket)
}

struct Asker {
    socket: Socket,
    number: u32,
    buffer: Vec<u8>,
}

impl Asker {
    fn peer(&mut self, port: u32) -> io::Result<Option<Peer>> {
        let mut away = None;
        self.ask(GET_LINK, NLM_F_ACK, &link_header(port), |body| {
            let attributes = Attributes(body.get(LINK_HEADER..).unwrap_or_default());
            away = native(attributes, link::PEER).zip(native(attributes, link::NAMESPACE_OF_PEER));
        })?;
        // -1 is a namespace without a number, which is one that cannot be asked for.
        let Some((index, namespace)) = away.filter(|(_, namespace)| namespace.cast_signed() >= 0) else {
            return Ok(None);
        };
        let mut peer = Peer::default();
        let mut request = link_header(index);
        request.put(link::TARGET_NAMESPACE, &namespace.to_ne_bytes());
        self.ask(GET_LINK, NLM_F_ACK, &request, |body| {
            let attributes = Attributes(body.get(LINK_HEADER..).unwrap_or_default());
            if let Ok(Some(Ok(ethernet))) = attributes.get(link::ADDRESS).map(|value| value.map(TryInto::try_into)) {
                peer.ethernet = ethernet;
            }
        })?;
        let mut request = vec![0; 4];
        request.extend_from_slice(&index.to_ne_bytes());
        request.put(address::TARGET_NAMESPACE, &namespace.to_ne_bytes());
        self.ask(GET_ADDRESS, NLM_F_DUMP, &request, |body| {
            let of = body.get(4..ADDRESS_HEADER).and_then(|bytes| bytes.try_into().ok()).map(u32::from_ne_bytes);
            let attributes = Attributes(body.get(ADDRESS_HEADER..).unwrap_or_default());
            // On a link with a peer, the address is the peer's.
            let own =
                [address::LOCAL, address::ADDRESS].into_iter().find_map(|kind| ip_address(attributes.get(kind).ok()??));
            peer.addresses.extend(own.filter(|own| of == Some(index) && !is_link_local(own)));
        })?;
        Ok(Some(peer))
    }

    fn ask(&mut self, kind: u16, flags: u16, body: &[u8], mut each: impl FnMut(&[u8])) -> io::Result<()> {
        self.number = self.number.wrapping_add(1);
        let mut bytes = vec![0; NETLINK_HEADER];
        bytes.extend_from_slice(body);
        let length = u32::try_from(bytes.len()).unwrap_or(u32::MAX);
        let mut header = NetlinkBuffer::new(&mut bytes);
        header.set_length(length);
        header.set_message_type(kind);
        header.set_flags(NLM_F_REQUEST | flags);
        header.set_sequence_number(self.number);
        self.socket.send(&bytes, 0)?;
        let mut parts = 0;
        loop {
            let length = match self.socket.recv(&mut &mut self.buffer[..], 0) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                received => received?,
            };
            let mut rest = self.buffer.get(..length).ok_or_else(|| malformed("a part is too long"))?;
            while !rest.is_empty() {
                let message = NetlinkBuffer::new_checked(rest).map_err(malformed)?;
                let next = usize::try_from(message.length()).unwrap_or(usize::MAX).next_multiple_of(4);
                rest = rest.get(next..).unwrap_or_default();
                if message.sequence_number() != self.number {
                    continue;
                }
                let code = match message.message_type() {
                    ERROR => {
                        ErrorBuffer::new_checked(message.payload()).map_err(malformed)?.code().map_or(0, i32::from)
                    }
                    DONE => DoneBuffer::new_checked(message.payload()).map_err(malformed)?.code(),
                    _ => {
                        parts += 1;
                        if parts > MOST {
                            return Err(malformed("the answer has no end"));
                        }
                        each(message.payload());
                        continue;
                    }
                };
                return match code {
                    0 => Ok(()),
                    code => Err(io::Error::from_raw_os_error(code.saturating_abs())),
                };
            }
        }
    }
}

fn link_header(index: u32) -> Vec<u8> {
    let mut bytes = vec![0; LINK_HEADER];
    bytes[4..8].copy_from_slice(&index.to_ne_bytes());
    bytes
}

/// rtnetlink's numbers are in this machine's order.
fn native(attributes: Attributes<'_>, kind: u16) -> Option<u32> {
    attributes.get(kind).ok()??.try_into().ok().map(u32::from_ne_bytes)
}

fn is_link_local(address: &IpAddr) -> bool {
    matches!(address, IpAddr::V6(address) if address.is_unicast_link_local())
}

fn malformed(what: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, what)
}
