//! The socket on which the plugin asks. Each connection is a task of its own with a
//! bound on its bytes and its time, so none delays another: neither one that sends nothing nor
//! an ADD that waits for its pod.

use std::collections::VecDeque;
use std::ffi::OsString;
use std::fs::{self, DirBuilder, Permissions};
use std::io;
use std::os::unix::fs::{DirBuilderExt as _, PermissionsExt as _};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use npc_cni::check::check;
use npc_cni::moment::Moment;
use npc_cni::protocol::{Answer, Command, LONGEST_REQUEST, Reason, Request};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::{Semaphore, mpsc, oneshot};
use tokio::task::AbortHandle;
use tokio::time;
use tracing::{debug, warn};

use crate::instance;

/// How long a request may take to arrive, and an answer to be taken.
const PATIENCE: Duration = Duration::from_secs(2);

/// How many connections may be open whose request is not complete. A plugin sends its request at
/// once, and tries again if the connection ends without an answer.
const READING: usize = 256;

/// How many requests may wait for their answer. A node has fewer pods. With those that send a
/// request, they are fewer than the files that an agent may have open.
const WAITING: usize = 4096;

/// How long to wait after a connection could not be accepted.
const ACCEPT_RETRY: Duration = Duration::from_millis(100);

/// A request, and where its answer goes.
#[derive(Debug)]
pub(super) struct PendingRequest {
    pub(super) command: Command,
    pub(super) answer: oneshot::Sender<Answer>,
    /// When its connection came. It waits for its turn if the agent has too much to do.
    pub(super) received: Moment,
}

/// What may be in the folder of the socket: what an agent and the plugin write there, and
/// the usual `--ready-file`. What an agent needs to be the only one is beside these.
const OWN_FILES: [&str; 5] = ["sandboxes.json", "sandboxes.half", "notes", "ready", "ready.new"];

/// Makes the socket, in a folder that is root's alone. One that an earlier agent left
/// is replaced: this is the only agent in its network namespace.
///
/// # Errors
/// If it cannot be made, or if its folder has other files too: the agent would take them
/// away from all users but root.
pub(super) fn bind(socket: &Path) -> io::Result<UnixListener> {
    let folder = socket.parent().unwrap_or_else(|| Path::new("/"));
    DirBuilder::new().recursive(true).mode(0o700).create(folder)?;
    if let Some(other) = other_file(folder, socket)? {
        return Err(io::Error::other(format!(
            "{} has other files, as {}, and --cni-socket needs a folder of its own, because the agent takes the \
             folder away from all users but root; give it one, as /run/npc/cni.sock",
            folder.display(),
            other.display()
        )));
    }
    fs::set_permissions(folder, Permissions::from_mode(0o700))?;
    match fs::remove_file(socket) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let listener = UnixListener::bind(socket)?;
    fs::set_permissions(socket, Permissions::from_mode(0o600))?;
    Ok(listener)
}

/// The name of a file in the folder that is not the agent's.
fn other_file(folder: &Path, socket: &Path) -> io::Result<Option<OsString>> {
    for entry in fs::read_dir(folder)? {
        let name = entry?.file_name();
        let is_own = instance::is_own_file(&name) || OWN_FILES.iter().any(|own| name == *own);
        if Some(&*name) != socket.file_name() && !is_own {
            return Ok(Some(name));
        }
    }
    Ok(None)
}

/// Accepts connections for as long as `requests` are taken. If too many send no request, a new
/// one takes the place of the oldest of these.
pub(super) async fn serve(listener: UnixListener, requests: mpsc::Sender<PendingRequest>) {
    let waiting = Arc::new(Semaphore::new(WAITING));
    let mut reading: VecDeque<AbortHandle> = VecDeque::new();
    while !requests.is_closed() {
        match listener.accept().await {
            Ok((stream, _)) => {
                reading.retain(|connection| !connection.is_finished());
                if reading.len() >= READING
                    && let Some(oldest) = reading.pop_front()
                {
                    oldest.abort();
                    debug!("a connection of the CNI plugin gave way to a new one, because it sent no request");
                }
                let (requests, waiting) = (requests.clone(), Arc::clone(&waiting));
                let connection = tokio::spawn(async move {
                    if let Err(error) = receive(stream, requests, &waiting).await {
                        ended_early(&error);
                    }
                });
                reading.push_back(connection.abort_handle());
            }
            Err(error) => {
                warn!(%error, "cannot accept a connection of the CNI plugin; trying again");
                time::sleep(ACCEPT_RETRY).await;
            }
        }
    }
}

fn ended_early(error: &io::Error) {
    debug!(%error, "a connection of the CNI plugin ended early");
}

/// Receives one request. It waits for its answer in a task of its own.
async fn receive(
    mut stream: UnixStream,
    requests: mpsc::Sender<PendingRequest>,
    waiting: &Arc<Semaphore>,
) -> io::Result<()> {
    let received = Moment::now();
    // As this user namespace sees it.
    let uid = stream.peer_cred()?.uid();
    if uid != 0 {
        warn!(uid, "refused a request on the CNI socket from a user other than root");
        return Ok(());
    }
    let read = time::timeout(PATIENCE, read_line(&mut stream)).await;
    let line = match read.map_err(|_| io::Error::from(io::ErrorKind::TimedOut))? {
        Ok(line) => line,
        Err(error) if error.kind() == io::ErrorKind::InvalidData => {
            return answer(&mut stream, &Answer::refused(Reason::Malformed, error.to_string())).await;
        }
        Err(error) => return Err(error),
    };
    let request = serde_json::from_slice::<Request>(&line).map_err(|error| error.to_string());
    let command = match request.and_then(|Request { command, .. }| check(&command).map(|()| command)) {
        Ok(command) => command,
        Err(error) => {
            let words = format!("this agent does not understand the request: {error}");
            return answer(&mut stream, &Answer::refused(Reason::Malformed, words)).await;
        }
    };
    let Ok(permit) = Arc::clone(waiting).try_acquire_owned() else {
        let words = format!("{WAITING} requests wait for their answer; this one is to be tried again");
        return answer(&mut stream, &Answer::refused(Reason::Timeout, words)).await;
    };
    tokio::spawn(async move {
        if let Err(error) = reply(stream, command, received, requests).await {
            ended_early(&error);
        }
        drop(permit);
    });
    Ok(())
}

/// Passes a request on, and answers it.
async fn reply(
    mut stream: UnixStream,
    command: Command,
    received: Moment,
    requests: mpsc::Sender<PendingRequest>,
) -> io::Result<()> {
    let (reply, answered) = oneshot::channel();
    let gone = || io::Error::from(io::ErrorKind::BrokenPipe);
    requests.send(PendingRequest { command, answer: reply, received }).await.map_err(|_| gone())?;
    let mut more = [0];
    let reply = tokio::select! {
        reply = answered => reply.map_err(|_| gone())?,
        // A plugin that was killed waits for nothing. It sends nothing more before.
        _ = stream.read(&mut more) => return Err(gone()),
    };
    answer(&mut stream, &reply).await
}

async fn read_line(stream: &mut UnixStream) -> io::Result<Vec<u8>> {
    let mut line = Vec::new();
    let mut part = [0; 4096];
    loop {
        let length = stream.read(&mut part).await?;
        if length == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        line.extend_from_slice(part.get(..length).unwrap_or_default());
        if line.len() > LONGEST_REQUEST {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "the request is too long"));
        }
        if line.ends_with(b"\n") {
            return Ok(line);
        }
    }
}

async fn answer(stream: &mut UnixStream, answer: &Answer) -> io::Result<()> {
    let mut line = serde_json::to_vec(answer)?;
    line.push(b'\n');
    time::timeout(PATIENCE, stream.write_all(&line)).await.map_err(|_| io::Error::from(io::ErrorKind::TimedOut))?
}

#[cfg(test)]
#[path = "server_tests.rs"]
mod tests;
