//! The messages between plugin and agent as the first version of the protocol has them, and as a
//! later one may have them. A node may run a plugin of one release and an agent of another.
//!
//! The files are recorded and not written by this code: a change that makes a test here fail
//! breaks nodes in the middle of an upgrade.

#![allow(clippy::unwrap_used, reason = "a test that finds nothing has failed")]

use std::io::{BufRead as _, BufReader, Write as _};
use std::os::unix::net::UnixListener;
use std::thread;
use std::time::{Duration, Instant};

use npc_cni::check::check;
use npc_cni::client;
use npc_cni::protocol::{Answer, Command, Reason, Request};
use serde_json::Value;

const REQUESTS: &str = include_str!("wire/v1-requests.jsonl");
const ANSWERS: &str = include_str!("wire/v1-answers.jsonl");
const FUTURE_REQUESTS: &str = include_str!("wire/future-requests.jsonl");
const FUTURE_ANSWERS: &str = include_str!("wire/future-answers.jsonl");

/// What an agent makes of a request.
fn read(line: &str) -> Command {
    let request: Request = serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line}"));
    check(&request.command).unwrap();
    request.command
}

const fn name(command: &Command) -> &'static str {
    match command {
        Command::Add(_) => "add",
        Command::Delete { .. } => "delete",
        Command::Check(_) => "check",
        Command::Gc { .. } => "gc",
    }
}

/// An agent of this release reads what the first plugin sends, and a plugin of this release sends
/// what the first agent reads.
#[test]
fn requests_of_the_first_version_are_read_and_written() {
    let mut seen = Vec::new();
    for line in REQUESTS.lines() {
        let command = read(line);
        seen.push(name(&command));
        // What is added later may come beside it.
        let (first, now) = (value(line), value(&serde_json::to_string(&Request::new(command)).unwrap()));
        for (key, value) in first.as_object().unwrap() {
            assert_eq!(now.get(key), Some(value), "{key} of {line}");
        }
    }
    assert_eq!(seen, ["add", "add", "delete", "check", "gc"]);
}

#[test]
fn requests_of_a_later_version_are_read() {
    let seen: Vec<_> = FUTURE_REQUESTS.lines().map(|line| name(&read(line))).collect();
    assert_eq!(seen, ["add", "delete", "check", "gc"]);
}

fn value(line: &str) -> Value {
    serde_json::from_str(line).unwrap()
}

/// What a plugin makes of what an agent answers.
fn answered(line: &'static str) -> Answer {
    let folder = tempfile::tempdir().unwrap();
    let socket = folder.path().join("cni.sock");
    let listener = UnixListener::bind(&socket).unwrap();
    let agent = thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        let mut request = String::new();
        BufReader::new(&stream).read_line(&mut request).unwrap();
        writeln!(stream, "{line}").unwrap();
    });
    let request: Request = serde_json::from_str(REQUESTS.lines().next().unwrap()).unwrap();
    let answer = client::ask_once(&socket, Instant::now() + Duration::from_secs(100), &request).unwrap();
    agent.join().unwrap();
    answer
}

#[test]
fn answers_of_the_first_version_are_read_and_written() {
    let kinds =
        [None, Some(Reason::Timeout), Some(Reason::Unknown), Some(Reason::NotEnforced), Some(Reason::Malformed)];
    for (line, kind) in ANSWERS.lines().zip(kinds) {
        let answer = answered(line);
        assert_eq!(answer.error.as_ref().map(|error| error.kind), kind);
        let written = match answer.error {
            None => Answer::done(),
            Some(error) => Answer::refused(error.kind, error.message),
        };
        assert_eq!(value(&serde_json::to_string(&written).unwrap()), value(line));
    }
    assert_eq!(ANSWERS.lines().count(), kinds.len());
}

/// A reason that this plugin does not know is a refusal still.
#[test]
fn answers_of_a_later_version_are_read() {
    let done: Vec<_> = FUTURE_ANSWERS.lines().map(|line| answered(line).error.is_none()).collect();
    assert_eq!(done, [true, false, false]);
}
