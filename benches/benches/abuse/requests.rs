//! Requests to the metrics port that no client finishes. Every pod reaches its node.

use std::io::{ErrorKind, Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use socket2::{Domain, Socket, Type};

use crate::Result;
use crate::agent::METRICS_PORT;
use crate::scene::{Scene, local_address};
use crate::wire::{self, GATEWAY, SENDERS};

/// A request without its end.
const BEGIN: &[u8] = b"GET /metrics HTTP/1.1\r\nHost: node\r\n";

/// How much of a head comes at a time.
const PIECE: usize = 1_000;

/// Requests that wait for ever.
pub(crate) fn unfinished(scene: &Scene) -> Result<()> {
    keep(scene, 1_100, false)
}

/// Requests whose heads grow for ever.
pub(crate) fn slow(scene: &Scene) -> Result<()> {
    keep(scene, 1_400, true)
}

/// Keeps so many requests open, with a new one for each that the agent ends.
fn keep(scene: &Scene, count: usize, grows: bool) -> Result<()> {
    let pods = wire::connect(&scene.node)?;
    scene.put_local(SENDERS);
    let opened = pods.within(|| {
        let piece = format!("X-Slow: {}\r\n", "x".repeat(PIECE));
        let mut requests: Vec<Option<TcpStream>> = (0..count).map(|_| None).collect();
        let mut opened = 0_usize;
        while !scene.is_over() {
            for (number, request) in requests.iter_mut().enumerate() {
                if request.as_mut().is_some_and(|stream| goes_on(stream, if grows { piece.as_bytes() } else { b"" })) {
                    continue;
                }
                // The agent's backlog may be full.
                *request = open(number % SENDERS).ok();
                opened += usize::from(request.is_some());
                if scene.is_over() {
                    break;
                }
            }
            scene.round();
        }
        opened
    })?;
    scene.note(format!("{opened} requests were begun"));
    Ok(())
}

fn open(sender: usize) -> std::io::Result<TcpStream> {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None)?;
    socket.bind(&SocketAddr::from((local_address(sender), 0)).into())?;
    socket.connect_timeout(&SocketAddr::from((GATEWAY, METRICS_PORT)).into(), Duration::from_secs(1))?;
    // So that no port is kept for a minute.
    socket.set_linger(Some(Duration::ZERO))?;
    let mut stream = TcpStream::from(socket);
    stream.write_all(BEGIN)?;
    stream.set_nonblocking(true)?;
    Ok(stream)
}

/// Sends some more of a request; whether the agent has not ended it.
fn goes_on(stream: &mut TcpStream, more: &[u8]) -> bool {
    let waits = |result: std::io::Result<usize>| match result {
        Ok(count) => count > 0,
        Err(error) => error.kind() == ErrorKind::WouldBlock,
    };
    (more.is_empty() || waits(stream.write(more))) && waits(stream.read(&mut [0; 1_024]))
}
