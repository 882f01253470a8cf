//! Requests to the metrics port that no client finishes. Every pod reaches its node.

use std::io::{ErrorKind, Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

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

/// Whole requests, as many as the agent answers.
pub(crate) fn pipelined(scene: &Scene) -> Result<()> {
    let pods = wire::connect(&scene.node)?;
    scene.put_local(SENDERS);
    let cpu = scene.agent.cpu_seconds()?;
    let begun = Instant::now();
    let answered = pods.within(|| {
        let requests = "GET /metrics HTTP/1.1\r\nHost: node\r\n\r\n".repeat(100);
        let mut clients: Vec<Option<TcpStream>> = (0..4 * SENDERS).map(|_| None).collect();
        let mut answered = 0_usize;
        let mut buffer = vec![0; 1 << 20];
        while !scene.is_over() {
            for (number, client) in clients.iter_mut().enumerate() {
                if client.is_none() {
                    // It finishes the request that is begun.
                    let opened = open(number % SENDERS).and_then(|mut stream| {
                        stream.write_all(b"\r\n")?;
                        Ok(stream)
                    });
                    *client = opened.ok();
                }
                let Some(stream) = client else { continue };
                // What does not fit is sent later, from the beginning of a request. The agent ends a
                // connection with half of one, and a new one takes its place.
                let written = stream.write(requests.as_bytes());
                let is_lost = matches!(written, Err(error) if error.kind() != ErrorKind::WouldBlock);
                let read = stream.read(&mut buffer);
                if let Ok(count) = read {
                    answered += buffer[..count].windows(12).filter(|bytes| *bytes == b"HTTP/1.1 200").count();
                }
                if is_lost || matches!(read, Ok(0)) {
                    *client = None;
                }
            }
            scene.round();
        }
        answered
    })?;
    let taken = (scene.agent.cpu_seconds()? - cpu) / begun.elapsed().as_secs_f64();
    scene.note(format!("{answered} answers; the agent took {taken:.2} of a processor"));
    Ok(())
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
