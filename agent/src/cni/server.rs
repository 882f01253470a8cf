//! The socket on which the plugin asks. Each connection is a task of its own with a
//! bound on its bytes and its time, so none delays another.

use std::ffi::OsString;
use std::fs::{self, DirBuilder, Permissions};
use std::io;
use std::os::unix::fs::{DirBuilderExt as _, PermissionsExt as _};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use npc_cni::protocol::{Answer, Command, LONGEST_REQUEST, Reason, Request};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::{Semaphore, mpsc, oneshot};
use tokio::time;
use tracing::{debug, warn};

use crate::instance;

/// How long a request may take to arrive, and an answer to be taken.
const PATIENCE: Duration = Duration::from_secs(2);

/// How many connections may be open. The kubelet starts fewer pods at once, and the
/// plugin tries again.
const CONNECTIONS: usize = 512;

/// How long to wait after a connection could not be accepted.
const ACCEPT_RETRY: Duration = Duration::from_millis(100);

/// A request, and where its answer goes.
#[derive(Debug)]
pub(super) struct Asked {
    pub(super) command: Command,
    pub(super) answer: oneshot::Sender<Answer>,
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

/// Accepts connections for as long as `requests` are taken.
pub(super) async fn serve(listener: UnixListener, requests: mpsc::Sender<Asked>) {
    let open = Arc::new(Semaphore::new(CONNECTIONS));
    loop {
        let Ok(permit) = Arc::clone(&open).acquire_owned().await else { return };
        match listener.accept().await {
            Ok((stream, _)) => {
                let requests = requests.clone();
                tokio::spawn(async move {
                    if let Err(error) = converse(stream, requests).await {
                        debug!(%error, "a connection of the CNI plugin ended early");
                    }
                    drop(permit);
                });
            }
            Err(error) => {
                warn!(%error, "cannot accept a connection of the CNI plugin; trying again");
                time::sleep(ACCEPT_RETRY).await;
            }
        }
    }
}

/// One request and its answer.
async fn converse(mut stream: UnixStream, requests: mpsc::Sender<Asked>) -> io::Result<()> {
    // As this user namespace sees it.
    let uid = stream.peer_cred()?.uid();
    if uid != 0 {
        warn!(uid, "a user who is not root asked at the CNI plugin's socket; it gets no answer");
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
    let command = match serde_json::from_slice::<Request>(&line) {
        Ok(request) => request.command,
        Err(error) => {
            let words = format!("this agent does not understand the request: {error}");
            return answer(&mut stream, &Answer::refused(Reason::Malformed, words)).await;
        }
    };
    let (reply, answered) = oneshot::channel();
    let gone = || io::Error::from(io::ErrorKind::BrokenPipe);
    requests.send(Asked { command, answer: reply }).await.map_err(|_| gone())?;
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
