//! Makes a process the one agent of its network namespace, and refuses one beside another.
//!
//! The lock of [`instance`] decides. Agents of before it have the abstract socket `@npc-agent`
//! alone, so for one release this takes that too, and sends the status there. Any process can
//! have taken it, and none of them keeps an agent from its start for longer than [`YIELD`].
//!
//! [`instance`]: npc_agent::instance

use std::fs;
use std::io;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use npc_agent::instance::{self, InstanceLock, SocketHolder, judge_holder};
use npc_agent::status::SharedStatus;
use npc_agent::tasks::Tasks;
use npc_agent::words::rounded::rounded;
use tokio::io::AsyncWriteExt as _;
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::Semaphore;
use tokio::time::{self, Instant};
use tracing::{info, warn};

use crate::command::{Exit, Stop};

/// How long to wait for the lock: a process that has it may be about to end.
const LOCK_WAIT: Duration = Duration::from_millis(500);

/// How long to wait for a process that has the abstract socket and may be an agent that
/// starts or ends.
const YIELD: Duration = Duration::from_secs(2);

/// The time between two tries, and after a connection that could not be accepted.
const RETRY: Duration = Duration::from_millis(200);

/// How many readers of the status are answered at the same time.
const READERS: usize = 8;

/// How long a reader of the status may take.
const PATIENCE: Duration = Duration::from_secs(1);

/// What makes this process the one agent of its network namespace, for as long as it is kept.
#[derive(Debug)]
pub(super) struct InstanceGuard {
    _lock: Option<InstanceLock>,
}

/// Makes this process the agent of its network namespace, and serves its status by tasks.
///
/// # Errors
/// If there is an agent, or `npc cleanup` runs.
pub(super) async fn claim(status: SharedStatus, tasks: &mut Tasks) -> anyhow::Result<InstanceGuard> {
    let lock = match InstanceLock::take(LOCK_WAIT) {
        Ok(lock) => Some(lock),
        Err(instance::Error::Held { process }) => {
            let message = format!(
                "an agent or npc cleanup runs in this network namespace already{}, and two would undo what each other \
                 wrote; end that one first",
                which(process)
            );
            return Err(Stop::new(Exit::Input, message).into());
        }
        Err(error) => {
            let error = format!("{:#}", anyhow::Error::new(error));
            warn!(
                error,
                "nothing keeps a second agent or npc cleanup from this network namespace but a socket that any process \
                 can take; policies are enforced. Let /run/npc be a folder of root's that the agent can write to: in a \
                 pod, mount the node's (hostPath, DirectoryOrCreate)"
            );
            None
        }
    };
    if let Some(lock) = &lock {
        let socket = lock.status_socket();
        match bind(&socket) {
            Ok(listener) => tasks.spawn("serves npc status", serve(listener, status.clone())),
            Err(error) => warn!(%error, socket = %socket.display(), "cannot serve the status here"),
        }
    }
    if let Some(listener) = take_name(lock.is_some()).await? {
        tasks.spawn("holds the single-agent socket", serve(listener, status));
    }
    Ok(InstanceGuard { _lock: lock })
}

/// Makes this process the only one of ours in its network namespace while it removes what an
/// agent writes. An agent would undo that at once.
///
/// # Errors
/// If there is an agent.
pub(crate) async fn refuse_beside_agent() -> anyhow::Result<Option<InstanceLock>> {
    let refused = |process: String| {
        let message = format!(
            "an agent runs in this network namespace{process}, and would put back at once what is removed; nothing \
             was removed. End it first: in a cluster, let its DaemonSet run npc cleanup in the agent's place \
             (docs/operate.md, Remove); elsewhere, end its service or process and run this again"
        );
        anyhow::Error::from(Stop::new(Exit::Input, message))
    };
    let lock = match InstanceLock::take(LOCK_WAIT) {
        Ok(lock) => Some(lock),
        Err(instance::Error::Held { process }) => return Err(refused(which(process))),
        Err(error) => {
            say!(
                "npc: warning: {:#}; whether an agent runs here is known only by a socket that any process can take",
                anyhow::Error::new(error)
            );
            None
        }
    };
    match older_agent(lock.is_some(), |_| false).await {
        Some(OlderAgent { process }) => Err(refused(which(process))),
        None => Ok(lock),
    }
}

/// Takes the abstract socket, so that agents of before the lock do not start beside this one.
/// Nothing if another process has it that is none of these.
async fn take_name(is_locked: bool) -> anyhow::Result<Option<UnixListener>> {
    // The byte marks abstract names. Such a name is gone with the process that holds it, however
    // that ends.
    let name = format!("\0{}", instance::ABSTRACT_SOCKET);
    let mut listener = None;
    let older = older_agent(is_locked, |is_last| match UnixListener::bind(&name) {
        Ok(bound) => {
            listener = Some(bound);
            true
        }
        Err(error) => {
            if is_last {
                warn!(%error, "another process has the socket @npc-agent; going on without it");
            }
            false
        }
    });
    if let Some(OlderAgent { process }) = older.await {
        let message = format!(
            "an agent runs in this network namespace already{}, and two would undo what each other wrote; end that one \
             first",
            which(process)
        );
        return Err(Stop::new(Exit::Input, message).into());
    }
    Ok(listener)
}

/// An agent of before the lock.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct OlderAgent {
    /// Its process, if the kernel says it.
    process: Option<i32>,
}

/// An agent of before the lock, if one runs here. Waits at most [`YIELD`] and one check longer.
/// `taken` is called before each check, with whether the check is the last. Once `taken` has got
/// the name, there is no older agent.
///
/// Without the lock nothing else keeps agents apart, so a process of root that answers as an agent
/// is taken for one.
async fn older_agent(is_locked: bool, mut taken: impl FnMut(bool) -> bool) -> Option<OlderAgent> {
    let deadline = Instant::now() + YIELD;
    let mut said = false;
    loop {
        let is_last = Instant::now() >= deadline;
        if taken(is_last) {
            return None;
        }
        match judge_holder().await {
            Ok(SocketHolder::Agent { process, answers }) if answers || is_last => {
                return Some(OlderAgent { process });
            }
            Ok(SocketHolder::Unproven { process, answers: true }) if is_last && !is_locked => {
                return Some(OlderAgent { process });
            }
            Ok(SocketHolder::OtherUser { uid, process }) => {
                warn!(uid, process, "a user other than root holds the socket @npc-agent; going on without it");
                return None;
            }
            Ok(SocketHolder::Unproven { process, answers }) if is_last => {
                warn!(process, answers, "an unidentified process holds the socket @npc-agent; starting anyway");
            }
            Ok(SocketHolder::Agent { process, .. } | SocketHolder::Unproven { process, .. }) if !said => {
                said = true;
                info!(process, wait = ?rounded(YIELD), "a process holds the socket @npc-agent; waiting to see what it is");
            }
            Err(error) if is_last => warn!(%error, "cannot read which process holds the socket @npc-agent"),
            _ => {}
        }
        if is_last {
            return None;
        }
        time::sleep(RETRY).await;
    }
}

/// A process by its number. One of another namespace of processes has none here.
fn which(process: Option<impl std::fmt::Display>) -> String {
    process.map(|process| format!(" (process {process})")).unwrap_or_default()
}

/// The socket of this path, in place of one that a killed agent left. Its folder is root's
/// alone, and this process has the lock.
fn bind(path: &Path) -> io::Result<UnixListener> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => UnixListener::bind(path),
    }
}

/// Accepts connections, which shows the user of this process, and sends root the status.
async fn serve(listener: UnixListener, status: SharedStatus) {
    let readers = Arc::new(Semaphore::new(READERS));
    loop {
        // Any process can connect, and those beyond these wait in the kernel.
        let Ok(permit) = Arc::clone(&readers).acquire_owned().await else { return };
        match listener.accept().await {
            Ok((stream, _)) => {
                let status = status.clone();
                tokio::spawn(async move {
                    answer(stream, status).await;
                    drop(permit);
                });
            }
            Err(_) => time::sleep(RETRY).await,
        }
    }
}

async fn answer(mut stream: UnixStream, status: SharedStatus) {
    if !stream.peer_cred().is_ok_and(|peer| peer.uid() == 0) {
        return;
    }
    let Ok(text) = serde_json::to_vec(&status.now()) else { return };
    // A peer that does not read on has gone.
    let _ = time::timeout(PATIENCE, stream.write_all(&text)).await;
}
