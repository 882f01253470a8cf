//! Packets with numbers: so what was sent before an instant and what after it are told apart exactly, however
//! long a busy machine takes to hand a packet on.

use std::collections::BTreeSet;
use std::io::{ErrorKind, Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use npc_tests::lab::Netns;

use super::node::wait;

/// How long a connection is tried. Where it comes to be at all, it does within milliseconds.
const CONNECT: Duration = Duration::from_millis(50);

/// The pause between two packets of one path.
const PAUSE: Duration = Duration::from_millis(1);

/// A way on which packets go to an address: datagrams, one connection that stays, or connections one
/// after another.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Kind {
    Datagrams,
    OneConnection,
    NewConnections,
}

impl Kind {
    /// How often a path is tried before a test says that its packets go on. A connection that does not come to
    /// be takes some time.
    const fn tries(self) -> u64 {
        match self {
            Self::Datagrams | Self::OneConnection => 300,
            Self::NewConnections => 20,
        }
    }
}

const KINDS: [Kind; 3] = [Kind::Datagrams, Kind::OneConnection, Kind::NewConnections];

/// Sends to addresses without a pause, on each path, until it is dropped.
pub(crate) struct Numbered {
    /// The number of the last packet. Each has its own, which is taken before it is sent.
    last: Arc<AtomicU64>,
    stop: Arc<AtomicBool>,
    paths: Vec<Path>,
    threads: Vec<JoinHandle<()>>,
}

/// How many paths there are in this process: each has its own number, because packets of several senders come to one port.
static PATHS: AtomicU64 = AtomicU64::new(0);

/// A path, and how often it was tried.
struct Path {
    number: u64,
    kind: Kind,
    to: SocketAddr,
    tried: Arc<AtomicU64>,
}

/// What a path's thread needs.
struct Sender {
    path: u64,
    last: Arc<AtomicU64>,
    stop: Arc<AtomicBool>,
    tried: Arc<AtomicU64>,
}

impl Numbered {
    pub(crate) fn start(netns: &Netns, to: &[SocketAddr]) -> Self {
        let mut numbered = Self { last: Arc::default(), stop: Arc::default(), paths: Vec::new(), threads: Vec::new() };
        for (kind, to) in KINDS.into_iter().flat_map(|kind| to.iter().map(move |to| (kind, *to))) {
            let tried: Arc<AtomicU64> = Arc::default();
            let path = PATHS.fetch_add(1, Ordering::Relaxed);
            let sender = Sender {
                path,
                last: Arc::clone(&numbered.last),
                stop: Arc::clone(&numbered.stop),
                tried: Arc::clone(&tried),
            };
            numbered.paths.push(Path { number: path, kind, to, tried });
            let netns = netns.try_clone().unwrap();
            numbered.threads.push(thread::spawn(move || {
                netns.enter().unwrap();
                match kind {
                    Kind::Datagrams => sender.datagrams(to),
                    Kind::OneConnection => sender.one_connection(to),
                    Kind::NewConnections => sender.new_connections(to),
                }
            }));
        }
        numbered
    }

    /// The number of the last packet that may have been sent by now. Each later one has a greater number.
    pub(crate) fn last(&self) -> u64 {
        self.last.load(Ordering::SeqCst)
    }

    /// Waits until each path has brought some packets.
    pub(crate) fn wait_arrives(&self, received: &Received) {
        wait("packets arrive on each path", || {
            let numbers = received.numbers.lock().unwrap();
            self.paths.iter().all(|path| numbers.iter().filter(|one| one.0 == path.number).count() > 20)
        });
    }

    /// Waits until each path has been tried for a while longer.
    pub(crate) fn wait_goes_on(&self) {
        let tried = || self.paths.iter().map(|path| path.tried.load(Ordering::SeqCst));
        let enough: Vec<u64> = tried().zip(&self.paths).map(|(tried, path)| tried + path.kind.tries()).collect();
        wait("packets are sent on each path", || tried().zip(&enough).all(|(now, enough)| now > *enough));
    }

    /// The paths on which something arrived that was sent after this number.
    pub(crate) fn arrived_after(&self, last: u64, received: &Received) -> BTreeSet<(Kind, SocketAddr)> {
        received.wait_for_all_datagrams();
        let numbers = received.numbers.lock().unwrap();
        let later: BTreeSet<u64> = numbers.iter().filter(|(_, number)| *number > last).map(|(path, _)| *path).collect();
        let paths = self.paths.iter().filter(|path| later.contains(&path.number));
        paths.map(|path| (path.kind, path.to)).collect()
    }

    /// All paths of these kinds.
    pub(crate) fn paths(&self, kinds: &[Kind]) -> BTreeSet<(Kind, SocketAddr)> {
        self.paths.iter().filter(|path| kinds.contains(&path.kind)).map(|path| (path.kind, path.to)).collect()
    }
}

impl Drop for Numbered {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::SeqCst);
        for thread in self.threads.drain(..) {
            thread.join().unwrap();
        }
    }
}

impl Sender {
    fn goes_on(&self) -> bool {
        !self.stop.load(Ordering::SeqCst)
    }

    /// The next packet.
    fn next(&self) -> [u8; 16] {
        let number = self.last.fetch_add(1, Ordering::SeqCst) + 1;
        message(self.path, number)
    }

    fn has_tried(&self) {
        self.tried.fetch_add(1, Ordering::SeqCst);
        thread::sleep(PAUSE);
    }

    fn datagrams(&self, to: SocketAddr) {
        let own = if to.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" };
        let socket = UdpSocket::bind(own).unwrap();
        while self.goes_on() {
            // The kernel may report what became of one before.
            let _ = socket.send_to(&self.next(), to);
            self.has_tried();
        }
    }

    fn one_connection(&self, to: SocketAddr) {
        let mut connection = None;
        while self.goes_on() {
            if connection.is_none() {
                connection = TcpStream::connect_timeout(&to, CONNECT).ok();
                if let Some(new) = &connection {
                    new.set_nonblocking(true).unwrap();
                    new.set_nodelay(true).unwrap();
                }
            }
            if let Some(mut open) = connection.as_ref() {
                // A part of a packet is none to the other end, which reads whole ones: so no more is sent.
                let is_whole = match open.write(&self.next()) {
                    Ok(length) => length == 16,
                    Err(error) => error.kind() == ErrorKind::WouldBlock,
                };
                if !is_whole {
                    connection = None;
                }
            }
            self.has_tried();
        }
    }

    /// The number of each is taken before it begins.
    fn new_connections(&self, to: SocketAddr) {
        while self.goes_on() {
            let next = self.next();
            if let Ok(mut connection) = TcpStream::connect_timeout(&to, CONNECT) {
                // What comes to be at all is to be seen.
                let _ = connection.write_all(&next);
            }
            self.has_tried();
        }
    }
}

fn message(path: u64, number: u64) -> [u8; 16] {
    let mut message = [0; 16];
    message[..8].copy_from_slice(&path.to_be_bytes());
    message[8..].copy_from_slice(&number.to_be_bytes());
    message
}

/// What has come to a port, of datagrams and of connections: the path and the number of each packet.
pub(crate) struct Received {
    numbers: Arc<Mutex<Vec<(u64, u64)>>>,
    netns: Netns,
    port: u16,
}

impl Received {
    pub(crate) fn at(netns: &Netns, port: u16) -> Self {
        let bind = || (UdpSocket::bind(("::", port)).unwrap(), TcpListener::bind(("::", port)).unwrap());
        let (datagrams, connections) = netns.within(bind).unwrap();
        let numbers: Arc<Mutex<Vec<(u64, u64)>>> = Arc::default();
        let all = Arc::clone(&numbers);
        thread::spawn(move || {
            let mut message = [0; 16];
            while datagrams.recv(&mut message).is_ok() {
                note(&all, message);
            }
        });
        let all = Arc::clone(&numbers);
        thread::spawn(move || {
            for connection in connections.incoming() {
                let (mut connection, all) = (connection.unwrap(), Arc::clone(&all));
                thread::spawn(move || {
                    let mut message = [0; 16];
                    while connection.read_exact(&mut message).is_ok() {
                        note(&all, message);
                    }
                });
            }
        });
        Self { numbers, netns: netns.try_clone().unwrap(), port }
    }

    /// Waits until all datagrams are read that have come by now: one more stands behind them.
    fn wait_for_all_datagrams(&self) {
        let is_last = |one: &(u64, u64)| one.0 == u64::MAX;
        let count = || self.numbers.lock().unwrap().iter().filter(|one| is_last(one)).count();
        let before = count();
        let to = SocketAddr::new("::1".parse().unwrap(), self.port);
        let send = || UdpSocket::bind("[::1]:0").unwrap().send_to(&message(u64::MAX, 0), to).unwrap();
        self.netns.within(send).unwrap();
        wait("all datagrams are read", || count() > before);
    }
}

fn note(all: &Mutex<Vec<(u64, u64)>>, message: [u8; 16]) {
    let [path, number] = [0, 8].map(|at| u64::from_be_bytes(message[at..at + 8].try_into().unwrap()));
    all.lock().unwrap().push((path, number));
}
