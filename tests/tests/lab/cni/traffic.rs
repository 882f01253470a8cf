//! Packets of a test: connections, listeners, and pings without a pause.

use std::collections::BTreeMap;
use std::io::IoSliceMut;
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::os::fd::AsRawFd as _;
use std::sync::atomic::{AtomicBool, AtomicU16, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::{self, JoinHandle};
use std::time::{Duration, SystemTime};

use nix::sys::socket::{ControlMessageOwned, MsgFlags, recvmsg, setsockopt, sockopt};
use nix::sys::time::TimeSpec;
use npc_tests::lab::Netns;
use socket2::{Domain, Protocol, SockAddr, Socket, Type};

use super::addresses;
use super::node::{Node, OWN};

/// How long a connection is tried that policies deny. A second SYN follows after a
/// second, so this is one.
const DENIED: Duration = Duration::from_millis(300);

/// How long one is tried that they allow: two SYNs, the second after a second. A node that asks for
/// a new pod's link-layer address (IPv6) asks again after a second, too.
const ALLOWED: Duration = Duration::from_millis(2_500);

/// Accepts connections on these ports, of both families, for as long as the test runs.
pub(crate) fn listen(netns: &Netns, ports: &[u16]) {
    let listeners: Vec<TcpListener> = netns
        .within(|| {
            let bind = |port: &u16| TcpListener::bind(("::", *port)).unwrap();
            ports.iter().map(bind).collect()
        })
        .unwrap();
    for listener in listeners {
        thread::spawn(move || listener.incoming().for_each(drop));
    }
}

/// Has a node track at least so many flows. They are of UDP from outside to the node itself, and stay.
pub(crate) fn open_flows(node: &Node, count: u64) {
    node.set("net/netfilter/nf_conntrack_udp_timeout", "3600");
    let to = addresses(OWN)[0];
    loop {
        let missing = usize::try_from(count.saturating_sub(flows(node))).unwrap();
        if missing == 0 {
            return;
        }
        let sent = node.outside().within(|| {
            let socket = UdpSocket::bind("0.0.0.0:0").unwrap();
            let ports = (1..=50_000).take(missing);
            // An ICMP error that came for an earlier one is no failure of this one.
            ports.filter(|port| socket.send_to(b"", SocketAddr::new(to, *port)).is_ok()).count()
        });
        assert!(sent.unwrap() > 0);
    }
}

/// How many flows a node tracks.
fn flows(node: &Node) -> u64 {
    let count = node.netns().within(|| std::fs::read_to_string("/proc/sys/net/netfilter/nf_conntrack_count"));
    count.unwrap().unwrap().trim().parse().unwrap()
}

/// Whether a connection that is to be refused comes to be all the same.
pub(crate) fn passes(netns: &Netns, to: IpAddr, port: u16) -> bool {
    connects(netns, to, port, DENIED)
}

/// Whether a connection comes to be by its first SYN or the second.
pub(crate) fn reaches(netns: &Netns, to: IpAddr, port: u16) -> bool {
    connects(netns, to, port, ALLOWED)
}

/// Whether a connection comes to be by its first SYN. The kernel says whether it sent another.
pub(crate) fn reaches_by_its_first_packet(netns: &Netns, to: IpAddr, port: u16) -> bool {
    let Some(connection) = connect(netns, to, port, ALLOWED) else { return false };
    let from = format!(":{}", connection.local_addr().unwrap().port());
    let sockets = netns.exec(["ss", "-tinH", "sport", "=", &from], "").unwrap();
    assert!(sockets.contains("segs_out:"), "{sockets}");
    !sockets.contains("retrans:")
}

fn connects(netns: &Netns, to: IpAddr, port: u16, within: Duration) -> bool {
    connect(netns, to, port, within).is_some()
}

fn connect(netns: &Netns, to: IpAddr, port: u16, within: Duration) -> Option<TcpStream> {
    netns.within(|| TcpStream::connect_timeout(&SocketAddr::new(to, port), within).ok()).unwrap()
}

/// Receives datagrams to a port of a pod, each with the time at which it came to the pod's interface.
/// On a busy machine the kernel hands a packet on to the socket long after that.
pub(crate) struct Datagrams(UdpSocket);

impl Datagrams {
    pub(crate) fn receive(netns: &Netns, port: u16) -> Self {
        let socket = netns.within(|| UdpSocket::bind(("::", port)).unwrap()).unwrap();
        setsockopt(&socket, sockopt::ReceiveTimestampns, &true).unwrap();
        Self(socket)
    }

    /// How many have been received that came to the interface after this time.
    pub(crate) fn since(&self, time: SystemTime) -> usize {
        let (mut buffer, mut control) = ([0; 16], nix::cmsg_space!(TimeSpec));
        let mut came = 0;
        loop {
            let mut parts = [IoSliceMut::new(&mut buffer)];
            let flags = MsgFlags::MSG_DONTWAIT;
            let Ok(message) = recvmsg::<()>(self.0.as_raw_fd(), &mut parts, Some(&mut control), flags) else {
                return came;
            };
            let at = message.cmsgs().unwrap().find_map(|control| match control {
                ControlMessageOwned::ScmTimestampns(at) => Some(SystemTime::UNIX_EPOCH + Duration::from(at)),
                _ => None,
            });
            came += usize::from(at.expect("the kernel says when it came") > time);
        }
    }
}

/// Sends packets to addresses without a pause, until it is dropped.
pub(crate) struct Flood {
    stop: Arc<AtomicBool>,
    threads: Vec<JoinHandle<()>>,
}

impl Flood {
    /// Sends datagrams to all of these, and connects to each from a thread of its own.
    pub(crate) fn start(netns: &Netns, to: impl IntoIterator<Item = SocketAddr>) -> Self {
        let to: Vec<SocketAddr> = to.into_iter().collect();
        let mut flood = Self::of_datagrams(netns, to.clone());
        for to in to {
            let (is_over, netns) = (Arc::clone(&flood.stop), netns.try_clone().unwrap());
            flood.threads.push(thread::spawn(move || {
                netns.enter().unwrap();
                while !is_over.load(Ordering::Relaxed) {
                    let _ = TcpStream::connect_timeout(&to, Duration::from_millis(20));
                    thread::sleep(Duration::from_millis(1));
                }
            }));
        }
        flood
    }

    /// Sends datagrams to all of these in turn, from one thread.
    pub(crate) fn of_datagrams(netns: &Netns, to: Vec<SocketAddr>) -> Self {
        // The sockets stay in the namespace in which they were made.
        let bind = |own: &str| netns.within(|| UdpSocket::bind(own).unwrap()).unwrap();
        let (v4, v6) = (bind("0.0.0.0:0"), bind("[::]:0"));
        let stop = Arc::new(AtomicBool::new(false));
        let is_over = Arc::clone(&stop);
        let sending = thread::spawn(move || {
            while !is_over.load(Ordering::Relaxed) {
                for to in &to {
                    // Before the pod has its address there is no way to it.
                    let _ = if to.is_ipv4() { &v4 } else { &v6 }.send_to(b"denied", to);
                }
                thread::sleep(Duration::from_millis(1));
            }
        });
        Self { stop, threads: vec![sending] }
    }
}

impl Drop for Flood {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        for thread in self.threads.drain(..) {
            thread.join().unwrap();
        }
    }
}

/// Counts the packets that arrive at a port, also those that are dropped later.
pub(crate) struct Arrivals<'a> {
    netns: &'a Netns,
    port: u16,
}

impl<'a> Arrivals<'a> {
    pub(crate) fn count(netns: &'a Netns, port: u16) -> Self {
        let text = port.to_string();
        for program in ["iptables-nft", "ip6tables-nft"] {
            for protocol in ["tcp", "udp"] {
                netns.exec([program, "-A", "INPUT", "-p", protocol, "--dport", &text], "").unwrap();
            }
        }
        Self { netns, port }
    }

    /// How many packets have arrived.
    pub(crate) fn packets(&self) -> u64 {
        let port = format!("dpt:{}", self.port);
        let mut packets = 0;
        for program in ["iptables-nft", "ip6tables-nft"] {
            let listed = self.netns.exec([program, "-L", "INPUT", "-n", "-v", "-x"], "").unwrap();
            let counted = listed.lines().filter(|line| line.split_whitespace().any(|word| word == port));
            packets += counted.filter_map(|line| line.split_whitespace().next()?.parse::<u64>().ok()).sum::<u64>();
        }
        packets
    }
}

/// The numbers in the datagrams that a port receives, by the address that sent them, in the
/// order of their coming.
pub(crate) fn datagrams(netns: &Netns, port: u16) -> Arc<Mutex<BTreeMap<IpAddr, Vec<u8>>>> {
    let socket = netns.within(|| UdpSocket::bind(("::", port)).unwrap()).unwrap();
    let received: Arc<Mutex<BTreeMap<IpAddr, Vec<u8>>>> = Arc::default();
    let all = Arc::clone(&received);
    thread::spawn(move || {
        let mut buffer = [0; 16];
        while let Ok((_, from)) = socket.recv_from(&mut buffer) {
            all.lock().unwrap().entry(from.ip().to_canonical()).or_default().push(buffer[0]);
        }
    });
    received
}

/// Pings an address without a pause, all in one flow, as conntrack sees it.
pub(crate) struct Pings {
    stop: Arc<AtomicBool>,
    sent: Arc<AtomicU16>,
    answered: Arc<Mutex<Vec<u16>>>,
    threads: Vec<JoinHandle<()>>,
}

impl Pings {
    pub(crate) fn start(netns: &Netns, to: IpAddr) -> Self {
        let (domain, protocol, request, reply) = match to {
            IpAddr::V4(_) => (Domain::IPV4, Protocol::ICMPV4, 8, 0),
            IpAddr::V6(_) => (Domain::IPV6, Protocol::ICMPV6, 128, 129),
        };
        let socket = netns.within(|| Socket::new(domain, Type::RAW, Some(protocol)).unwrap()).unwrap();
        socket.set_read_timeout(Some(Duration::from_millis(50))).unwrap();
        let (stop, sent) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU16::new(0)));
        let answered = Arc::new(Mutex::new(Vec::new()));
        let is_over = Arc::clone(&stop);
        let receiver = socket.try_clone().unwrap();
        let replies = Arc::clone(&answered);
        let receiving = thread::spawn(move || {
            let mut buffer = [0; 256];
            while !is_over.load(Ordering::Relaxed) {
                let Ok(length) = std::io::Read::read(&mut &receiver, &mut buffer) else { continue };
                // IPv4 comes with its header.
                let begin = if reply == 0 { usize::from(buffer[0] & 15) * 4 } else { 0 };
                let Some(message) = buffer[..length].get(begin..begin + 8) else { continue };
                if message[0] == reply && message[4..6] == ID {
                    replies.lock().unwrap().push(u16::from_be_bytes([message[6], message[7]]));
                }
            }
        });
        let (is_over, number) = (Arc::clone(&stop), Arc::clone(&sent));
        let sending = thread::spawn(move || {
            let address = SockAddr::from(SocketAddr::new(to, 0));
            while !is_over.load(Ordering::Relaxed) {
                let next = number.load(Ordering::Relaxed).wrapping_add(1);
                let [high, low] = next.to_be_bytes();
                let mut message = [request, 0, 0, 0, ID[0], ID[1], high, low];
                if request == 8 {
                    let sum =
                        message.chunks(2).map(|pair| u32::from(u16::from_be_bytes([pair[0], pair[1]]))).sum::<u32>();
                    let folded = (sum & 0xffff) + (sum >> 16);
                    message[2..4].copy_from_slice(&(!u16::try_from(folded).unwrap()).to_be_bytes());
                }
                // Before the pod has its address there is no way to it.
                let _ = socket.send_to(&message, &address);
                number.store(next, Ordering::Relaxed);
                thread::sleep(Duration::from_millis(1));
            }
        });
        Self { stop, sent, answered, threads: vec![receiving, sending] }
    }

    /// How many were answered.
    pub(crate) fn answered(&self) -> usize {
        self.answered.lock().unwrap().len()
    }

    /// The number of the last that was sent.
    pub(crate) fn sent(&self) -> u16 {
        self.sent.load(Ordering::Relaxed)
    }

    /// Ends; how many were answered that were sent after this one.
    pub(crate) fn answered_after(mut self, last: u16) -> usize {
        self.end();
        self.answered.lock().unwrap().iter().filter(|number| **number > last + 1).count()
    }

    fn end(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        for thread in self.threads.drain(..) {
            thread.join().unwrap();
        }
    }
}

impl Drop for Pings {
    fn drop(&mut self) {
        self.end();
    }
}

/// The identifier of the echo requests.
const ID: [u8; 2] = [0x4e, 0x50];
