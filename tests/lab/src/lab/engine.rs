//! Sends probes, thousands at once, and says what became of each.
//!
//! One thread does all of it: it enters a sender's namespace, sends, looks
//! from all receivers now and then so that no buffer fills, and goes on to the next
//! sender. A probe has not arrived when everything has been quiet for a while
//! after the last arrival.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV6};
use std::num::NonZero;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use nix::sys::socket::{setsockopt, sockopt};
use npc_compiler::object::{Family, Protocol};
use socket2::{Domain, Socket, Type};

use super::error::{Doing, Result};
use super::probe::{Payload, Probe, Seen};
use super::receivers::{Received, Receivers, raw_socket};
use super::topology::Place;
use super::wire;

/// How long nothing may arrive until what has not is taken for lost. Packets
/// cross the namespaces in microseconds; a busy machine may take longer.
const QUIET: Duration = Duration::from_millis(250);
/// Files that are left to receivers, and as many to all else, when connections take the rest.
const SPARE_FILES: usize = 1024;
/// Probes sent between two reads of the receivers.
const BURST: usize = 32;

/// Sends probes and receives them.
#[derive(Debug)]
pub(super) struct Engine {
    receivers: Receivers,
    next_id: u32,
    reserved: BTreeSet<u16>,
    /// How many connections may be open at once.
    connections: usize,
}

impl Engine {
    pub(super) fn new(places: &[Place]) -> Result<Self> {
        Ok(Self { receivers: Receivers::new(places)?, next_id: 1, reserved: BTreeSet::new(), connections: SPARE_FILES })
    }

    /// Sends all probes and waits until it is clear what became of them. The
    /// answers are in the order of the probes.
    pub(super) fn run(&mut self, places: &[Place], probes: &[Probe]) -> Result<Vec<Seen>> {
        let wanted: BTreeSet<_> = (probes.iter())
            .filter_map(|probe| match probe.payload {
                Payload::Port(protocol, port) => Some((probe.to, protocol, port)),
                Payload::Icmp => None,
            })
            .collect();
        self.reserved.extend(wanted.iter().map(|(.., port)| *port));
        self.receivers.listen(places, &wanted)?;
        // Only those that do not arrive stay open for long. Labs beside this one have as many, and the lab that finds
        // no file left would fail.
        self.connections = (allow_many_files()? / labs_at_once()).saturating_sub(2 * SPARE_FILES).max(SPARE_FILES);
        // A thread that has entered a namespace is of no other use.
        let sent = std::thread::scope(|scope| scope.spawn(|| Round::new(self, probes).run(places)).join());
        sent.unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    }

    /// A port to send from that no probe is sent to. Else the answer to one
    /// probe could have the addresses and ports of another, and pass with it.
    fn source_port(&self, id: u32, dscp: u8) -> u16 {
        let (mut port, step) = first_source_port(id, dscp);
        while self.reserved.contains(&port) {
            port = port.checked_add(step).unwrap_or(1024 + u16::from(dscp));
        }
        port
    }
}

/// The port that a probe is sent from if it is free, and how far the next one is. conntrack
/// keeps the backend of a Service for a flow that looks the same, for longer than a round.
/// So probes of different backends (DSCP is below 64) never have a source port in common.
fn first_source_port(id: u32, dscp: u8) -> (u16, u16) {
    let within = |ports: u32| u16::try_from(id % ports).unwrap_or_default();
    match dscp {
        0 => (10_000 + within(50_000), 1),
        _ => (157 * 64 + 64 * within(780) + u16::from(dscp), 64),
    }
}

/// One call of [`Engine::run`].
struct Round<'a> {
    engine: &'a mut Engine,
    probes: &'a [Probe],
    first_id: u32,
    seen: Vec<Option<Seen>>,
    missing: usize,
    connections: BTreeMap<usize, Socket>,
    last_arrival: Instant,
}

/// What probes from one address share.
type SharedSockets = BTreeMap<(Option<IpAddr>, Family, &'static str, u8), Socket>;

impl<'a> Round<'a> {
    fn new(engine: &'a mut Engine, probes: &'a [Probe]) -> Self {
        let first_id = engine.next_id;
        engine.next_id = first_id.wrapping_add(u32::try_from(probes.len()).unwrap_or(u32::MAX));
        Self {
            engine,
            probes,
            first_id,
            seen: vec![None; probes.len()],
            missing: probes.len(),
            connections: BTreeMap::new(),
            last_arrival: Instant::now(),
        }
    }

    fn run(mut self, places: &[Place]) -> Result<Vec<Seen>> {
        let mut order: Vec<usize> = (0..self.probes.len()).collect();
        order.sort_by_key(|index| self.probes[*index].from);
        for group in order.chunk_by(|one, other| self.probes[*one].from == self.probes[*other].from) {
            places[self.probes[group[0]].from].netns.enter()?;
            let mut shared = SharedSockets::new();
            for (count, index) in group.iter().enumerate() {
                if self.connections.len() >= self.engine.connections {
                    self.settle()?;
                }
                let mut sent = self.send(*index, &mut shared);
                if sent.as_ref().is_err_and(is_exhaustion) {
                    // Another lab of this process may have the files; ours go.
                    self.settle()?;
                    shared.clear();
                    sent = self.send(*index, &mut shared);
                }
                if let Err(error) = sent {
                    self.note(*index, Seen::Unsent(error.to_string()));
                }
                if count % BURST == 0 {
                    self.receive(Duration::ZERO)?;
                }
            }
        }
        self.settle()?;
        Ok(self.seen.into_iter().map(|seen| seen.unwrap_or(Seen::Nothing)).collect())
    }

    fn id(&self, index: usize) -> u32 {
        self.first_id.wrapping_add(u32::try_from(index).unwrap_or(u32::MAX))
    }

    fn send(&mut self, index: usize, shared: &mut SharedSockets) -> io::Result<()> {
        let probe = &self.probes[index];
        let id = self.id(index);
        let (address, dscp) = probe.via.map_or((probe.address, 0), |via| (via.address, via.backend));
        let port = match (probe.via, probe.payload) {
            (Some(via), _) => via.port,
            (None, Payload::Port(_, port)) => port,
            (None, Payload::Icmp) => 0,
        };
        let to = scoped(address, port)?;
        let family = Family::of(&address);
        if probe.forged {
            let from = SocketAddr::new(probe.source.unwrap_or(address), self.engine.source_port(id, dscp));
            let packet = wire::forged_datagram(from, to, dscp, id).ok_or(Errno::EAFNOSUPPORT)?;
            let socket = socket(shared, (None, family, "forged", 0), || raw_socket(family, wire::RAW))?;
            return send_to(socket, &packet, SocketAddr::new(address, 0));
        }
        let key = |kind| (probe.source, family, kind, dscp);
        let prepare = |socket: Socket| prepare(socket, probe.source, family, dscp, 0);
        match probe.payload {
            Payload::Port(Protocol::Tcp, _) => self.connect(index, to, dscp),
            Payload::Port(Protocol::Udp, _) => {
                let open = || self.datagram_socket(probe, to, dscp, id);
                send_to(socket(shared, key("udp"), open)?, &wire::mark(id), to)
            }
            Payload::Port(Protocol::Sctp, _) => {
                let packet = wire::sctp_init(self.engine.source_port(id, dscp), port, id);
                let open = || prepare(raw_socket(family, wire::SCTP)?);
                send_to(socket(shared, key("sctp"), open)?, &packet, SocketAddr::new(address, 0))
            }
            Payload::Icmp => {
                let protocol = if family == Family::V4 { wire::ICMP } else { wire::ICMPV6 };
                let open = || prepare(raw_socket(family, protocol)?);
                send_to(socket(shared, key("icmp"), open)?, &wire::echo_request(family, id), scoped(address, 0)?)
            }
        }
    }

    /// A socket for datagrams; the kernel chooses its port unless that chooses a backend.
    fn datagram_socket(&self, probe: &Probe, to: SocketAddr, dscp: u8, id: u32) -> io::Result<Socket> {
        let open = |port| {
            let socket = Socket::new(Domain::for_address(to), Type::DGRAM.nonblocking(), None)?;
            prepare(socket, probe.source, Family::of(&to.ip()), dscp, port)
        };
        if dscp == 0 {
            return open(0);
        }
        let mut tries = (id..id.saturating_add(16)).map(|id| open(self.engine.source_port(id, dscp)));
        let is_taken =
            |opened: &io::Result<Socket>| opened.as_ref().is_err_and(|error| error.kind() == io::ErrorKind::AddrInUse);
        tries.find(|opened| !is_taken(opened)).unwrap_or_else(|| Err(io::ErrorKind::AddrInUse.into()))
    }

    fn connect(&mut self, index: usize, to: SocketAddr, dscp: u8) -> io::Result<()> {
        let socket = Socket::new(Domain::for_address(to), Type::STREAM.nonblocking(), None)?;
        // Closing resets: nothing stays behind in TIME_WAIT.
        socket.set_linger(Some(Duration::ZERO))?;
        let socket = prepare(socket, self.probes[index].source, Family::of(&to.ip()), dscp, 0)?;
        match socket.connect(&to.into()) {
            Err(error) if error.raw_os_error() != Some(Errno::EINPROGRESS as i32) => return Err(error),
            _ => {}
        }
        self.engine.receivers.watch_connection(&socket, index).map_err(io::Error::other)?;
        self.connections.insert(index, socket);
        Ok(())
    }

    fn note(&mut self, index: usize, seen: Seen) {
        if self.seen[index].is_none() {
            self.seen[index] = Some(seen);
            self.missing -= 1;
        }
    }

    /// Expects what there is, waiting at most so long for the first of it.
    fn receive(&mut self, wait: Duration) -> Result<()> {
        let mut received = Vec::new();
        self.engine.receivers.receive(wait, |event| received.push(event))?;
        for event in received {
            match event {
                Received::Connected(index) => self.connected(index),
                Received::Mark { id, place } => {
                    let index = usize::try_from(id.wrapping_sub(self.first_id)).unwrap_or(usize::MAX);
                    // A straggler of an earlier round is not ours to count.
                    if let Some(probe) = self.probes.get(index) {
                        let seen = if probe.to == place { Seen::Arrived } else { Seen::Astray(place) };
                        self.last_arrival = Instant::now();
                        self.note(index, seen);
                        self.connections.remove(&index);
                    }
                }
            }
        }
        Ok(())
    }

    fn connected(&mut self, index: usize) {
        let Some(socket) = self.connections.get(&index) else { return };
        self.last_arrival = Instant::now();
        let sent = match socket.take_error() {
            Ok(None) => socket.send(&wire::mark(self.id(index))).map(drop),
            Ok(Some(error)) | Err(error) => Err(error),
        };
        if let Err(error) = sent {
            self.note(index, Seen::Refused(error.to_string()));
        }
    }

    /// Waits until all has arrived, or nothing more does, and closes all
    /// connections.
    fn settle(&mut self) -> Result<()> {
        self.last_arrival = Instant::now();
        while self.missing > 0 {
            self.receive(QUIET.saturating_sub(self.last_arrival.elapsed()))?;
            if self.last_arrival.elapsed() >= QUIET {
                break;
            }
        }
        self.connections.clear();
        Ok(())
    }
}

/// An address to send to; a link-local one needs the interface to send by.
fn scoped(address: IpAddr, port: u16) -> io::Result<SocketAddr> {
    Ok(match address {
        IpAddr::V6(v6) if v6.is_unicast_link_local() => {
            SocketAddrV6::new(v6, port, 0, nix::net::if_::if_nametoindex("eth0")?).into()
        }
        _ => SocketAddr::new(address, port),
    })
}

/// The socket that probes of this kind share, opened where there is none.
fn socket<'s>(
    shared: &'s mut SharedSockets,
    key: (Option<IpAddr>, Family, &'static str, u8),
    open: impl FnOnce() -> io::Result<Socket>,
) -> io::Result<&'s Socket> {
    match shared.entry(key) {
        std::collections::btree_map::Entry::Occupied(there) => Ok(there.into_mut()),
        std::collections::btree_map::Entry::Vacant(free) => Ok(free.insert(open()?)),
    }
}

/// `port` is where datagrams are sent from; of 0 the kernel chooses one.
fn prepare(socket: Socket, source: Option<IpAddr>, family: Family, dscp: u8, port: u16) -> io::Result<Socket> {
    let tos = i32::from(dscp) << 2;
    match family {
        Family::V4 => setsockopt(&socket, sockopt::Ipv4Tos, &tos)?,
        Family::V6 => setsockopt(&socket, sockopt::Ipv6TClass, &tos)?,
    }
    if let Some(source) = source {
        if socket.r#type()? == Type::STREAM {
            // Two connections may share a port as long as they go elsewhere.
            setsockopt(&socket, sockopt::IpBindAddressNoPort, &true)?;
        }
        socket.bind(&SocketAddr::new(source, port).into())?;
    } else if socket.r#type()? == Type::DGRAM {
        let any = if family == Family::V4 { Ipv4Addr::UNSPECIFIED.into() } else { Ipv6Addr::UNSPECIFIED.into() };
        socket.bind(&SocketAddr::new(any, port).into())?;
    }
    Ok(socket)
}

fn send_to(socket: &Socket, packet: &[u8], to: SocketAddr) -> io::Result<()> {
    socket.send_to(packet, &to.into()).map(drop)
}

/// Whether it was our own lack of something that made sending fail.
fn is_exhaustion(error: &io::Error) -> bool {
    let codes = [Errno::EMFILE, Errno::ENFILE, Errno::ENOBUFS, Errno::ENOMEM, Errno::EAGAIN, Errno::EADDRNOTAVAIL];
    codes.iter().any(|code| error.raw_os_error() == Some(*code as i32))
}

/// Every receiver and every connection is a file. Answers how many there may be.
pub(super) fn allow_many_files() -> Result<usize> {
    const ENOUGH: u64 = 1 << 17;
    let (soft, hard) = getrlimit(Resource::RLIMIT_NOFILE).doing(|| "read the limit of open files".to_owned())?;
    let mut limit = soft;
    if soft < ENOUGH {
        // Not even every root may raise the hard limit; then that has to do.
        limit = hard.max(ENOUGH);
        if setrlimit(Resource::RLIMIT_NOFILE, limit, limit).is_err() {
            limit = hard;
            setrlimit(Resource::RLIMIT_NOFILE, hard, hard).doing(|| "raise the limit of open files".to_owned())?;
        }
    }
    Ok(usize::try_from(limit).unwrap_or(usize::MAX))
}

/// How many tests, each with a lab, this process may run at once, as libtest decides it.
fn labs_at_once() -> usize {
    let asked = std::env::var("RUST_TEST_THREADS").ok().and_then(|text| text.parse().ok()).filter(|count| *count > 0);
    asked.unwrap_or_else(|| std::thread::available_parallelism().map_or(1, NonZero::get))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn probes_of_different_backends_have_no_source_port_in_common() {
        for dscp in 1..=62 {
            for id in (0..2000).chain([u32::MAX - 1, u32::MAX]) {
                let (port, step) = first_source_port(id, dscp);
                assert!((1024..60_100).contains(&port) && step == 64, "{port} of {id}");
                assert_eq!(port % 64, u16::from(dscp), "port {port} of {id}");
            }
        }
    }
}
