//! The sockets of the traffic, in all places, received by one thread.

use std::collections::BTreeMap;
use std::io;
use std::net::{SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::os::fd::AsFd;
use std::time::Duration;

use nix::errno::Errno;
use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};
use npc_compiler::object::Protocol;
use socket2::{Domain, Socket, Type};

use super::flow::{Flow, Flows};
use crate::lab::{Netns, Place, Result};

use crate::lab::Doing;

/// The receive buffer of the answering sockets: no packet may be lost here.
const BUFFER: usize = 4 << 20;

/// The ports to send from: no policy names them, and no socket listens there.
const PORTS: std::ops::Range<u16> = 32_000..60_000;

/// What a ready socket belongs to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Token {
    /// One that answers datagrams, by number.
    Datagrams(usize),
    /// One that accepts connections, by number.
    Listener(usize),
    /// A connection that was accepted.
    Accepted(u64),
    /// The sender of a shot.
    Shot(u64),
    /// The sending end of a UDP stream.
    Stream(usize),
    /// The sending end of a TCP stream.
    Connection(u64),
}

impl Token {
    fn to_number(self) -> u64 {
        let (kind, number) = match self {
            Self::Datagrams(n) => (0, n as u64),
            Self::Listener(n) => (1, n as u64),
            Self::Accepted(n) => (2, n),
            Self::Shot(n) => (3, n),
            Self::Stream(n) => (4, n as u64),
            Self::Connection(n) => (5, n),
        };
        kind << 56 | number
    }

    fn of(number: u64) -> Self {
        let (kind, number) = (number >> 56, number & ((1 << 56) - 1));
        let index = usize::try_from(number).unwrap_or(usize::MAX);
        match kind {
            0 => Self::Datagrams(index),
            1 => Self::Listener(index),
            2 => Self::Accepted(number),
            3 => Self::Shot(number),
            4 => Self::Stream(index),
            _ => Self::Connection(number),
        }
    }
}

/// The answering sockets, and the means to make more.
pub(super) struct Sockets {
    epoll: Epoll,
    pub(super) netns: Vec<Netns>,
    pub(super) datagrams: Vec<UdpSocket>,
    pub(super) listeners: Vec<TcpListener>,
    next_port: BTreeMap<usize, u16>,
}

impl Sockets {
    /// Has every destination of a flow answer.
    pub(super) fn open(places: &[Place], flows: &Flows) -> Result<Self> {
        let epoll = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC).doing(|| "make an epoll instance".to_owned())?;
        let netns = places.iter().map(|place| place.netns.try_clone()).collect::<Result<Vec<_>>>()?;
        let mut sockets =
            Self { epoll, netns, datagrams: Vec::new(), listeners: Vec::new(), next_port: BTreeMap::new() };
        let mut wanted: Vec<(usize, Protocol, SocketAddr)> =
            flows.all.iter().map(|flow| (flow.to, flow.protocol, flow.destination)).collect();
        wanted.sort_unstable();
        wanted.dedup();
        for (place, protocol, at) in wanted {
            let opened = places[place].netns.within(|| -> io::Result<(Option<UdpSocket>, Option<TcpListener>)> {
                Ok(match protocol {
                    Protocol::Tcp => {
                        let socket = socket(Type::STREAM, at)?;
                        socket.listen(4096)?;
                        (None, Some(socket.into()))
                    }
                    _ => {
                        let socket = socket(Type::DGRAM, at)?;
                        socket.set_recv_buffer_size(BUFFER)?;
                        (Some(socket.into()), None)
                    }
                })
            })?;
            let (datagrams, listener) =
                opened.doing(|| format!("listen on {protocol} {at} in {}", places[place].name))?;
            if let Some(socket) = datagrams {
                sockets.watch(&socket, Token::Datagrams(sockets.datagrams.len()))?;
                sockets.datagrams.push(socket);
            }
            if let Some(socket) = listener {
                sockets.watch(&socket, Token::Listener(sockets.listeners.len()))?;
                sockets.listeners.push(socket);
            }
        }
        Ok(sockets)
    }

    /// Moves the calling thread to where a flow begins.
    pub(super) fn enter(&self, place: usize) -> Result<()> {
        self.netns[place].enter()
    }

    /// A socket that sends datagrams of a flow, of a port of its own. The
    /// calling thread must be where it begins.
    pub(super) fn sender(&mut self, flow: &Flow) -> io::Result<UdpSocket> {
        let socket: UdpSocket = self.bound(Type::DGRAM, flow)?.into();
        socket.connect(flow.destination)?;
        Ok(socket)
    }

    /// A connection that begins, from a port of its own. The calling thread
    /// must be where it begins.
    pub(super) fn connection(&mut self, flow: &Flow) -> io::Result<TcpStream> {
        let socket = self.bound(Type::STREAM, flow)?;
        // Closing resets: nothing stays behind in TIME_WAIT.
        socket.set_linger(Some(Duration::ZERO))?;
        socket.set_tcp_nodelay(true)?;
        match socket.connect(&flow.destination.into()) {
            Err(error) if error.raw_os_error() != Some(Errno::EINPROGRESS as i32) => Err(error),
            _ => Ok(socket.into()),
        }
    }

    /// Every flow has a port of its own for as long as any kernel may remember
    /// it.
    fn bound(&mut self, kind: Type, flow: &Flow) -> io::Result<Socket> {
        let next = self.next_port.entry(flow.from).or_insert(PORTS.start);
        let mut refused = io::Error::from(io::ErrorKind::AddrInUse);
        for _ in 0..100 {
            let at = SocketAddr::new(flow.source, *next);
            *next = if *next + 1 < PORTS.end { *next + 1 } else { PORTS.start };
            match socket(kind, at) {
                Err(error) if error.kind() == io::ErrorKind::AddrInUse => refused = error,
                opened => return opened,
            }
        }
        Err(refused)
    }

    /// Asks for an event when a socket can be read.
    pub(super) fn watch(&self, socket: &impl AsFd, token: Token) -> Result<()> {
        self.add(socket, EpollFlags::EPOLLIN, token)
    }

    /// Asks for one event when a connection is there or has failed.
    pub(super) fn watch_beginning(&self, socket: &impl AsFd, token: Token) -> Result<()> {
        self.add(socket, EpollFlags::EPOLLOUT | EpollFlags::EPOLLONESHOT, token)
    }

    fn add(&self, socket: &impl AsFd, flags: EpollFlags, token: Token) -> Result<()> {
        let event = EpollEvent::new(flags, token.to_number());
        self.epoll.add(socket, event).doing(|| "watch a socket".to_owned())
    }

    /// Asks for events when a connection that is there can be read, by another
    /// token if that is wanted.
    pub(super) fn watch_from_now(&self, socket: &impl AsFd, token: Token) -> Result<()> {
        let mut event = EpollEvent::new(EpollFlags::EPOLLIN, token.to_number());
        self.epoll.modify(socket, &mut event).doing(|| "watch a connection".to_owned())
    }

    /// Waits until some socket is ready, at most this long.
    pub(super) fn wait(&self, wait: Duration) -> Result<Vec<Token>> {
        let mut events = [EpollEvent::empty(); 256];
        let timeout = EpollTimeout::try_from(wait).unwrap_or(EpollTimeout::ZERO);
        match self.epoll.wait(&mut events, timeout) {
            Err(Errno::EINTR) => Ok(Vec::new()),
            waited => {
                let count = waited.doing(|| "wait for packets".to_owned())?;
                Ok(events[..count].iter().map(|event| Token::of(event.data())).collect())
            }
        }
    }
}

fn socket(kind: Type, at: SocketAddr) -> io::Result<Socket> {
    let socket = Socket::new(Domain::for_address(at), kind.nonblocking(), None)?;
    if kind == Type::STREAM {
        socket.set_reuse_address(true)?;
    }
    if at.is_ipv6() {
        socket.set_only_v6(true)?;
    }
    socket.bind(&at.into())?;
    Ok(socket)
}
