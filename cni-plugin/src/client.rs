//! The plugin's end of the socket.

use std::io::{self, Read as _, Write as _};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use rustix::net::sockopt::{Timeout, set_socket_timeout};
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType};

use crate::protocol::{Answer, LONGEST_ANSWER, Reason, Refusal, Request};

/// How long to wait before an agent that could not be asked is asked again: first, and
/// at most. Each wait is twice as long as the one before.
const FIRST_RETRY: Duration = Duration::from_millis(10);
const LAST_RETRY: Duration = Duration::from_millis(250);

/// How long before the end an agent may answer that there was no time: it knows when the plugin gives up.
const LAST_WORD: Duration = Duration::from_millis(500);

/// How often to look whether the answer is still wanted, while none comes.
const LOOK: Duration = Duration::from_secs(1);

/// Asks the agent until it answers, or until this moment. An agent that is not there,
/// refuses the connection or ends without an answer may be one that is being replaced. One that says
/// before its time that there was not enough of it has too much to do.
///
/// `request` gets the time that is left. Once `is_over`, there is nothing to ask about any more, and
/// no answer.
///
/// # Errors
/// Why the last try failed.
pub fn ask(
    socket: &Path,
    until: Instant,
    is_over: impl Fn() -> bool,
    request: impl Fn(Duration) -> Request,
) -> io::Result<Option<Answer>> {
    let mut wait = FIRST_RETRY;
    loop {
        if is_over() {
            return Ok(None);
        }
        let left = until.saturating_duration_since(Instant::now());
        let answer = ask_while(socket, until, &is_over, &request(left));
        let is_final =
            !matches!(&answer, Err(_) | Ok(Some(Answer { error: Some(Refusal { kind: Reason::Timeout, .. }), .. })));
        let left = until.saturating_duration_since(Instant::now());
        // An answer this late is final: the agent gives it because the time is over.
        let is_last_word = answer.is_ok() && left <= LAST_WORD;
        if is_final || is_last_word || left <= wait {
            return answer;
        }
        thread::sleep(wait);
        wait = (wait * 2).min(LAST_RETRY);
    }
}

/// Asks the agent once.
///
/// # Errors
/// If it cannot be asked, or does not answer before this moment.
pub fn ask_once(socket: &Path, until: Instant, request: &Request) -> io::Result<Answer> {
    ask_while(socket, until, || false, request)?.ok_or_else(late)
}

fn ask_while(
    socket: &Path,
    until: Instant,
    is_over: impl Fn() -> bool,
    request: &Request,
) -> io::Result<Option<Answer>> {
    let mut stream = connect(socket, left(until)?)?;
    let mut text = serde_json::to_vec(request)?;
    text.push(b'\n');
    stream.set_write_timeout(Some(left(until)?))?;
    stream.write_all(&text)?;
    let mut answer = Vec::new();
    let mut part = [0; 4096];
    while !answer.ends_with(b"\n") {
        stream.set_read_timeout(Some(left(until)?.min(LOOK)))?;
        match stream.read(&mut part) {
            Ok(0) => return Err(io::Error::new(io::ErrorKind::UnexpectedEof, "the agent ended before it answered")),
            Ok(length) => answer.extend_from_slice(part.get(..length).unwrap_or_default()),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            // The agent's read reports that the connection has ended, and the agent drops the request.
            Err(error) if error.kind() == io::ErrorKind::WouldBlock && is_over() => return Ok(None),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            Err(error) => return Err(error),
        }
        if answer.len() > LONGEST_ANSWER {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "the agent's answer is too long"));
        }
    }
    Ok(Some(serde_json::from_slice(&answer)?))
}

/// Connects within a time: the agent's queue may be full.
fn connect(socket: &Path, left: Duration) -> io::Result<UnixStream> {
    let stream = rustix::net::socket_with(AddressFamily::UNIX, SocketType::STREAM, SocketFlags::CLOEXEC, None)?;
    set_socket_timeout(&stream, Timeout::Send, Some(left))?;
    rustix::net::connect(&stream, &SocketAddrUnix::new(socket)?)?;
    Ok(stream.into())
}

/// The time that is left, which is not zero: a socket takes that for no limit.
fn left(until: Instant) -> io::Result<Duration> {
    let left = until.saturating_duration_since(Instant::now());
    if left < Duration::from_millis(1) { Err(late()) } else { Ok(left) }
}

fn late() -> io::Error {
    io::Error::new(io::ErrorKind::TimedOut, "the agent did not answer in time")
}
