//! The sockets that receive probes in all places, read by one thread.

use std::collections::{BTreeMap, BTreeSet};
use std::io::Read;
use std::net::{Ipv6Addr, SocketAddr};
use std::time::Duration;

use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};
use nix::sys::socket::{setsockopt, sockopt};
use npc_compiler::object::{Family, Protocol};
use socket2::{Domain, Socket, Type};

use super::error::{Doing, Result};
use super::topology::Place;
use super::wire;

/// The receive buffer of every socket: thousands of probes may come at once.
const BUFFER: usize = 4 << 20;
/// Set in the tokens of accepted connections.
const ACCEPTED: u64 = 1 << 62;
/// Set in the tokens of outgoing connections.
const OUTGOING: u64 = 1 << 63;

/// The listening sockets of all places.
#[derive(Debug)]
pub(super) struct Receivers {
    epoll: Epoll,
    listeners: Vec<Receiver>,
    open: BTreeSet<(usize, Protocol, u16)>,
    accepted: BTreeMap<u64, (Socket, usize)>,
    next_accepted: u64,
}

#[derive(Debug)]
struct Receiver {
    socket: Socket,
    place: usize,
    expects: Expects,
}

#[derive(Debug, Clone, Copy)]
enum Expects {
    Connections,
    Datagrams,
    Sctp(Family),
    Echo(Family),
}

/// What happened.
#[derive(Debug, Clone, Copy)]
pub(super) enum Received {
    /// A probe's mark came to a place.
    Mark {
        /// The probe.
        id: u32,
        /// Where it came to.
        place: usize,
    },
    /// An outgoing connection is there, or has failed.
    Connected(usize),
}

impl Receivers {
    /// Sockets for what needs no port: SCTP as a whole, and echo requests.
    pub(super) fn new(places: &[Place]) -> Result<Self> {
        let epoll = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC).doing(|| "make an epoll instance".to_owned())?;
        let mut receivers = Self {
            epoll,
            listeners: Vec::new(),
            open: BTreeSet::new(),
            accepted: BTreeMap::new(),
            next_accepted: ACCEPTED,
        };
        for (place, at) in places.iter().enumerate() {
            let sockets = at.netns.within(|| {
                let raw = |family, protocol: u8| raw_socket(family, protocol).doing(|| raw_purpose(protocol, at));
                Ok([
                    (raw(Family::V4, wire::SCTP)?, Expects::Sctp(Family::V4)),
                    (raw(Family::V6, wire::SCTP)?, Expects::Sctp(Family::V6)),
                    (raw(Family::V4, wire::ICMP)?, Expects::Echo(Family::V4)),
                    (raw(Family::V6, wire::ICMPV6)?, Expects::Echo(Family::V6)),
                ])
            })??;
            for (socket, expects) in sockets {
                receivers.add(Receiver { socket, place, expects })?;
            }
        }
        Ok(receivers)
    }

    /// Listens on more ports (SCTP needs no port), and keeps them from being
    /// ports to send from: then no probe's answer can be another's tuple.
    pub(super) fn listen(&mut self, places: &[Place], wanted: &BTreeSet<(usize, Protocol, u16)>) -> Result<()> {
        let fresh: Vec<_> =
            wanted.difference(&self.open).filter(|(_, protocol, _)| *protocol != Protocol::Sctp).copied().collect();
        if fresh.is_empty() {
            return Ok(());
        }
        let ports: BTreeSet<u16> = wanted.iter().chain(&self.open).map(|(.., port)| *port).collect();
        let reserved = ports.iter().map(ToString::to_string).collect::<Vec<_>>().join(",");
        for place in places {
            place.netns.sysctl(&[("net/ipv4/ip_local_reserved_ports", &reserved)])?;
        }
        for group in fresh.chunk_by(|one, other| one.0 == other.0) {
            let (place, at) = (group[0].0, &places[group[0].0]);
            let sockets = at.netns.within(|| {
                let listen = |(_, protocol, port): &(usize, Protocol, u16)| {
                    listener(*protocol, *port).doing(|| format!("listen on {protocol} {port} in {}", at.name))
                };
                group.iter().map(listen).collect::<Result<Vec<_>>>()
            })??;
            for ((socket, expects), key) in sockets.into_iter().zip(group) {
                self.add(Receiver { socket, place, expects })?;
                self.open.insert(*key);
            }
        }
        Ok(())
    }

    fn add(&mut self, receiver: Receiver) -> Result<()> {
        self.watch(&receiver.socket, EpollFlags::EPOLLIN, self.listeners.len() as u64)?;
        self.listeners.push(receiver);
        Ok(())
    }

    /// Asks for a [`Received::Connected`] when an outgoing connection is there.
    pub(super) fn watch_connection(&self, socket: &Socket, index: usize) -> Result<()> {
        self.watch(socket, EpollFlags::EPOLLOUT | EpollFlags::EPOLLONESHOT, OUTGOING | index as u64)
    }

    fn watch(&self, socket: &Socket, flags: EpollFlags, token: u64) -> Result<()> {
        self.epoll.add(socket, EpollEvent::new(flags, token)).doing(|| "watch a socket".to_owned())
    }

    /// Waits until something arrives, at most this long, and passes it on.
    pub(super) fn receive(&mut self, wait: Duration, mut tell: impl FnMut(Received)) -> Result<()> {
        let mut events = [EpollEvent::empty(); 256];
        let mut timeout = EpollTimeout::try_from(wait).unwrap_or(EpollTimeout::ZERO);
        loop {
            let count = match self.epoll.wait(&mut events, timeout) {
                Err(nix::errno::Errno::EINTR) => return Ok(()),
                waited => waited.doing(|| "wait for packets".to_owned())?,
            };
            for event in &events[..count] {
                self.receive_one(event.data(), &mut tell)?;
            }
            if count < events.len() {
                return Ok(());
            }
            timeout = EpollTimeout::ZERO;
        }
    }

    fn receive_one(&mut self, token: u64, tell: &mut impl FnMut(Received)) -> Result<()> {
        if token & OUTGOING != 0 {
            tell(Received::Connected(usize::try_from(token ^ OUTGOING).unwrap_or(usize::MAX)));
            return Ok(());
        }
        if token & ACCEPTED != 0 {
            // A mark fits one segment: after one read the connection is done.
            if let Some((mut socket, place)) = self.accepted.remove(&token) {
                let mut buffer = [0; 64];
                let length = socket.read(&mut buffer).unwrap_or(0);
                if let Some(id) = wire::find_mark(&buffer[..length]) {
                    tell(Received::Mark { id, place });
                }
            }
            return Ok(());
        }
        let Some(receiver) = usize::try_from(token).ok().and_then(|index| self.listeners.get(index)) else {
            return Ok(());
        };
        let place = receiver.place;
        if matches!(receiver.expects, Expects::Connections) {
            let mut fresh = Vec::new();
            while let Ok((socket, _)) = receiver.socket.accept() {
                fresh.push(socket);
            }
            for socket in fresh {
                let token = self.next_accepted;
                self.next_accepted += 1;
                if socket.set_nonblocking(true).is_ok() {
                    self.watch(&socket, EpollFlags::EPOLLIN, token)?;
                    self.accepted.insert(token, (socket, place));
                }
            }
            return Ok(());
        }
        let mut buffer = [0; 2048];
        while let Ok(length) = (&receiver.socket).read(&mut buffer) {
            if let Some(id) = receiver.expects.mark(&buffer[..length]) {
                tell(Received::Mark { id, place });
            }
        }
        Ok(())
    }
}

impl Expects {
    /// The mark in a packet, if the packet is what this receiver listens for.
    fn mark(self, packet: &[u8]) -> Option<u32> {
        let sound = match self {
            Self::Connections => false,
            Self::Datagrams => true,
            Self::Sctp(family) => wire::sctp_is_sound(wire::past_header(family, packet)),
            Self::Echo(family) => wire::is_echo_request(family, wire::past_header(family, packet)),
        };
        sound.then(|| wire::find_mark(packet)).flatten()
    }
}

fn listener(protocol: Protocol, port: u16) -> std::io::Result<(Socket, Expects)> {
    let kind = if protocol == Protocol::Tcp { Type::STREAM } else { Type::DGRAM };
    let socket = Socket::new(Domain::IPV6, kind.nonblocking(), None)?;
    socket.set_only_v6(false)?;
    socket.set_reuse_address(protocol == Protocol::Tcp)?;
    socket.bind(&SocketAddr::from((Ipv6Addr::UNSPECIFIED, port)).into())?;
    if protocol == Protocol::Tcp {
        socket.listen(4096)?;
        return Ok((socket, Expects::Connections));
    }
    setsockopt(&socket, sockopt::RcvBufForce, &BUFFER)?;
    Ok((socket, Expects::Datagrams))
}

/// A raw socket of the namespace that the thread is in.
pub(super) fn raw_socket(family: Family, protocol: u8) -> std::io::Result<Socket> {
    let domain = if family == Family::V4 { Domain::IPV4 } else { Domain::IPV6 };
    let socket = Socket::new(domain, Type::RAW.nonblocking(), Some(i32::from(protocol).into()))?;
    setsockopt(&socket, sockopt::RcvBufForce, &BUFFER)?;
    Ok(socket)
}

/// A raw socket that sends whole packets, of the namespace that the thread is
/// in.
///
/// # Errors
/// Without root, or when this process may open no more files.
pub fn raw_ip_socket(family: Family) -> Result<Socket> {
    raw_socket(family, wire::RAW).doing(|| "open a raw socket".to_owned())
}

fn raw_purpose(protocol: u8, at: &Place) -> String {
    format!("open a raw socket for IP protocol {protocol} in {}", at.name)
}
