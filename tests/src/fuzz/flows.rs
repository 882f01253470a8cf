//! Flows that live while frames are sent: of isolated pods with their own
//! nodes, and with the peers that policies admit. An attacker knows them all,
//! addresses and ports.

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::time::Duration;

use npc_compiler::object::Family;
use socket2::{Domain, Socket, Type};

use super::shape::{Quote, TCP, UDP};
use super::world::World;
use crate::lab::{Doing, Error, Lab, Result};

/// A flow by UDP: which pod begins it with which, and their ports; TCP has the
/// next port at both ends.
const FLOWS: [(&str, &str, u16, u16); 8] = [
    ("v", "node-1", 6_100, 6_000),
    ("node-1", "v", 6_300, 6_200),
    ("w", "p", 6_400, 5_000),
    ("p", "w", 6_500, 5_000),
    ("a", "node-1", 6_600, 6_010),
    ("y", "node-2", 6_700, 6_000),
    ("i", "o", 6_800, 6_900),
    ("i", "outside", 6_810, 6_910),
];

/// How long an answer may take. TCP that lost a packet or two on a busy machine tries again after ever
/// longer times.
const PATIENCE: Duration = Duration::from_secs(60);

/// The sockets of all flows.
#[derive(Debug)]
pub(crate) struct FlowSockets {
    datagrams: Vec<(UdpSocket, UdpSocket)>,
    connections: Vec<(TcpStream, TcpStream)>,
    /// First packets of the flows, as an ICMP error would quote them.
    pub known: Vec<Quote>,
}

impl FlowSockets {
    /// Begins them, with an answer to each.
    ///
    /// # Errors
    /// When one cannot be begun, though policies admit it.
    pub(crate) fn begin(lab: &Lab, world: &World) -> Result<Self> {
        let mut flows = Self { datagrams: Vec::new(), connections: Vec::new(), known: Vec::new() };
        for (from, to, source, destination) in FLOWS {
            for family in Family::ALL {
                flows.one(lab, world, (from, to), (source, destination), family)?;
            }
        }
        Ok(flows)
    }

    fn one(
        &mut self,
        lab: &Lab,
        world: &World,
        (from, to): (&str, &str),
        ports: (u16, u16),
        family: Family,
    ) -> Result<()> {
        let (one, other) = (world.find(from)?, world.find(to)?);
        let address = |place: usize| {
            let found = world.stations[place].address(family);
            found.ok_or_else(|| Error::Unknown(format!("{family} address of {}", world.stations[place].name)))
        };
        let (local, remote) = (address(one)?, address(other)?);
        let failed = |protocol: &str| format!("begin the {family} {protocol} flow of {from} with {to}");
        let (at, back) = (&lab.places()[one].netns, &lab.places()[other].netns);

        let (local_udp, remote_udp) = (SocketAddr::new(local, ports.0), SocketAddr::new(remote, ports.1));
        let here = at.within(|| UdpSocket::bind(local_udp))?.doing(|| failed("UDP"))?;
        let there = back.within(|| UdpSocket::bind(remote_udp))?.doing(|| failed("UDP"))?;
        exchange(&here, &there, local_udp, remote_udp).doing(|| failed("UDP"))?;
        self.datagrams.push((here, there));
        self.known.push(Quote { protocol: UDP, source: local_udp, destination: remote_udp });

        let (local, remote) = (SocketAddr::new(local, ports.0 + 1), SocketAddr::new(remote, ports.1 + 1));
        let listener = back.within(|| listen(remote))?.doing(|| failed("TCP"))?;
        let mut here = at.within(|| connect(local, remote))?.doing(|| failed("TCP"))?;
        let (mut there, _) = listener.accept().doing(|| failed("TCP"))?;
        for end in [&here, &there] {
            end.set_read_timeout(Some(PATIENCE)).doing(|| failed("TCP"))?;
        }
        send_byte(&mut here, &mut there).and_then(|()| send_byte(&mut there, &mut here)).doing(|| failed("TCP"))?;
        self.connections.push((here, there));
        self.known.push(Quote { protocol: TCP, source: local, destination: remote });
        Ok(())
    }

    /// Has every flow carry something once more, both ways: what quotes them has
    /// quoted what lived.
    ///
    /// # Errors
    /// When one does not any more.
    pub(crate) fn check(&mut self) -> Result<()> {
        self.refresh();
        for (index, (here, there)) in self.connections.iter_mut().enumerate() {
            let what = || format!("go on with the TCP flow {:?}", self.known[2 * index + 1]);
            send_byte(here, there).and_then(|()| send_byte(there, here)).doing(what)?;
        }
        for (index, (here, there)) in self.datagrams.iter().enumerate() {
            let what = || format!("go on with the UDP flow {:?}", self.known[2 * index]);
            let (local, remote) = (here.local_addr().doing(what)?, there.local_addr().doing(what)?);
            here.set_nonblocking(false).and_then(|()| there.set_nonblocking(false)).doing(what)?;
            exchange(here, there, local, remote).doing(what)?;
        }
        Ok(())
    }

    /// Keeps the UDP flows from being forgotten by the kernel.
    pub(crate) fn refresh(&self) {
        let mut buffer = [0; 2_048];
        for (here, there) in &self.datagrams {
            // A forged ICMP error can make a socket fail once: the next time it sends.
            let _ = there.local_addr().and_then(|to| here.send_to(b"again", to));
            let _ = here.local_addr().and_then(|to| there.send_to(b"again", to));
            while here.recv_from(&mut buffer).is_ok() {}
            while there.recv_from(&mut buffer).is_ok() {}
        }
    }
}

/// A byte from one end to the other.
fn send_byte(from: &mut TcpStream, to: &mut TcpStream) -> std::io::Result<()> {
    from.write_all(b"!")?;
    to.read_exact(&mut [0])
}

/// A question and an answer, so that the kernel knows the flow as established.
fn exchange(here: &UdpSocket, there: &UdpSocket, local: SocketAddr, remote: SocketAddr) -> std::io::Result<()> {
    let mut buffer = [0; 16];
    for end in [here, there] {
        end.set_read_timeout(Some(PATIENCE))?;
    }
    here.send_to(b"question", remote)?;
    there.recv_from(&mut buffer)?;
    there.send_to(b"answer", local)?;
    here.recv_from(&mut buffer)?;
    here.set_nonblocking(true)?;
    there.set_nonblocking(true)
}

/// A bound socket.
fn bound(kind: Type, at: SocketAddr) -> std::io::Result<Socket> {
    let socket = Socket::new(Domain::for_address(at), kind, None)?;
    socket.bind(&at.into())?;
    Ok(socket)
}

fn listen(at: SocketAddr) -> std::io::Result<TcpListener> {
    let socket = bound(Type::STREAM, at)?;
    socket.listen(16)?;
    Ok(socket.into())
}

fn connect(from: SocketAddr, to: SocketAddr) -> std::io::Result<TcpStream> {
    let socket = bound(Type::STREAM, from)?;
    socket.connect_timeout(&to.into(), PATIENCE)?;
    Ok(socket.into())
}
