//! Connections over HTTP, bounded in number, time and memory: every pod of a node
//! reaches its node's address, and may open as many as it likes and finish no request.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use axum::Router;
use hyper::server::conn::http1;
use hyper::service::{Service as _, service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Notify;
use tokio::task::{self, AbortHandle};
use tokio::time;
use tracing::warn;

/// How many connections there may be.
#[derive(Debug, Clone, Copy)]
pub(super) struct ConnectionLimits {
    /// In all.
    pub(super) connections: usize,
    /// From one address.
    pub(super) of_one_address: usize,
}

/// How long a client may take to send the head of a request, and how long a connection
/// may be idle before the next.
const HEAD: Duration = Duration::from_secs(5);

/// How long a connection lasts at most, so that a slow reader keeps none for long.
const WHOLE: Duration = Duration::from_secs(30);

/// How long it is at least from the beginning of one answer to the next of the same connection.
/// A scraper asks a few times a minute; a client that sends one request behind the other would
/// otherwise take as much of a processor as it likes.
const PACE: Duration = Duration::from_millis(100);

/// How many bytes of a request are kept at most. Those of scrapers have a few hundred.
const BUFFER: usize = 16 * 1024;

/// How long to wait after a connection could not be accepted for want of descriptors or
/// memory.
const REFUSED: Duration = Duration::from_secs(1);

/// How often the other tasks have their turn before the next connection is accepted: first the new one asks
/// the kernel for its request, then it answers. So newer connections, which take its place if
/// they are many, cannot take it before that.
const TURNS: usize = 3;

/// Answers the requests that come to a listener, until the process ends.
pub(super) async fn accept(listener: TcpListener, router: Router, limits: ConnectionLimits) {
    let connections = Connections { limits, open: Arc::default(), next: Arc::default(), room: Arc::default() };
    let mut is_refused = false;
    loop {
        match listener.accept().await {
            Ok((stream, peer)) => {
                is_refused = false;
                // All connections that could make room are being answered.
                while !connections.has_room(peer.ip()) {
                    connections.room.notified().await;
                }
                connections.admit(stream, peer.ip(), &router);
                for _ in 0..TURNS {
                    task::yield_now().await;
                }
            }
            Err(error) => {
                if !std::mem::replace(&mut is_refused, true) {
                    warn!(%error, "cannot accept connections to /metrics, /healthz and /readyz for now; trying again");
                }
                time::sleep(REFUSED).await;
            }
        }
    }
}

/// The connections that there are.
#[derive(Debug, Clone)]
struct Connections {
    limits: ConnectionLimits,
    /// From the oldest to the newest.
    open: Arc<Mutex<Vec<Connection>>>,
    next: Arc<AtomicUsize>,
    /// Notified when an answer or a connection ends.
    room: Arc<Notify>,
}

#[derive(Debug)]
struct Connection {
    number: usize,
    from: IpAddr,
    /// Whether a request is whole and being answered.
    is_answering: Arc<AtomicBool>,
    task: AbortHandle,
}

impl Connections {
    /// Whether there is room for a connection from this address. Where there are too many, the oldest
    /// that has no request to be answered is ended, of the address that has most of these. So a
    /// client with one connection outlasts all that have more.
    fn has_room(&self, from: IpAddr) -> bool {
        let mut open = self.open();
        let of_address = |connection: &Connection| connection.from == from;
        (open.iter().filter(|connection| of_address(connection)).count() < self.limits.of_one_address
            || end_oldest(&mut open, of_address))
            && (open.len() < self.limits.connections || end_of_busiest(&mut open))
    }

    /// Serves a new connection.
    fn admit(&self, stream: TcpStream, from: IpAddr, router: &Router) {
        let mut open = self.open();
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        let is_answering = Arc::new(AtomicBool::new(false));
        let served = serve(stream, router.clone(), Arc::clone(&is_answering), Arc::clone(&self.room));
        let left = Leave { connections: self.clone(), number };
        let task = tokio::spawn(async move {
            let _left = left;
            // A client that does wrong harms no other client.
            let _ = time::timeout(WHOLE, served).await;
        });
        open.push(Connection { number, from, is_answering, task: task.abort_handle() });
    }

    fn open(&self) -> MutexGuard<'_, Vec<Connection>> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Ends the oldest of some connections that answers nothing. Returns whether there was one.
fn end_oldest(open: &mut Vec<Connection>, which: impl Fn(&Connection) -> bool) -> bool {
    let is_idle = |connection: &Connection| which(connection) && !connection.is_answering.load(Ordering::Relaxed);
    let Some(place) = open.iter().position(is_idle) else { return false };
    open.remove(place).task.abort();
    true
}

/// Ends the oldest idle connection of the address that has most. Returns whether there was one.
fn end_of_busiest(open: &mut Vec<Connection>) -> bool {
    let mut counts = BTreeMap::<IpAddr, usize>::new();
    for connection in open.iter().filter(|connection| !connection.is_answering.load(Ordering::Relaxed)) {
        *counts.entry(connection.from).or_default() += 1;
    }
    let most = counts.values().max().copied();
    end_oldest(open, |connection| counts.get(&connection.from).copied() == most)
}

/// Takes a connection off the list, however it ends.
struct Leave {
    connections: Connections,
    number: usize,
}

impl Drop for Leave {
    fn drop(&mut self) {
        self.connections.open().retain(|connection| connection.number != self.number);
        self.connections.room.notify_one();
    }
}

async fn serve(
    stream: TcpStream,
    router: Router,
    is_answering: Arc<AtomicBool>,
    room: Arc<Notify>,
) -> hyper::Result<()> {
    let router = TowerToHyperService::new(router);
    let next = Arc::new(Mutex::new(time::Instant::now()));
    let answer = service_fn(move |request| {
        let (answer, is_answering, room) = (router.call(request), Arc::clone(&is_answering), Arc::clone(&room));
        let now = time::Instant::now();
        let begins = {
            let mut next = next.lock().unwrap_or_else(PoisonError::into_inner);
            let begins = now.max(*next);
            *next = begins + PACE;
            begins
        };
        async move {
            // Meanwhile another connection may take the place of this one. A timer takes up to a millisecond, even
            // for now.
            if begins > now {
                time::sleep_until(begins).await;
            }
            is_answering.store(true, Ordering::Relaxed);
            let answer = answer.await;
            is_answering.store(false, Ordering::Relaxed);
            room.notify_one();
            answer
        }
    });
    http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD)
        .max_buf_size(BUFFER)
        .serve_connection(TokioIo::new(stream), answer)
        .await
}
