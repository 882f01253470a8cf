//! The socket on which the plugin asks. Each connection is a task of its own with a
//! bound on its bytes and its time, so none delays another: neither one that sends nothing nor
//! an ADD that waits for its pod, nor many of these.

use std::collections::VecDeque;
use std::ffi::OsString;
use std::fs::{self, DirBuilder, Permissions};
use std::io;
use std::os::unix::fs::{DirBuilderExt as _, PermissionsExt as _};
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use npc_cni::check::check;
use npc_cni::moment::Moment;
use npc_cni::protocol::{Answer, Command, LONGEST_REQUEST, Reason, Request};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::{AcquireError, OwnedSemaphorePermit, Semaphore, mpsc, oneshot};
use tokio::task::AbortHandle;
use tokio::time::{self, Instant};
use tracing::{debug, warn};

use crate::instance;

/// How long a request may take to arrive, and an answer to be taken.
const PATIENCE: Duration = Duration::from_secs(2);

/// How many connections may be open whose request is not complete. A plugin sends its request at
/// once, and tries again if the connection ends without an answer.
const READING: usize = 256;

/// How long each of them has at least. Where many come at once, the agent takes a moment to read their requests.
const KEPT: Duration = Duration::from_millis(50);

/// How many requests may wait for their answer. A node has fewer pods. With those that send a
/// request, they are fewer than the files that an agent may have open. A plugin whose request gives way asks again.
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

/// The requests that wait for their answer.
#[derive(Debug)]
struct WaitingRequests {
    most: usize,
    /// Where each is told to give way, oldest first.
    requests: Mutex<VecDeque<oneshot::Sender<()>>>,
}

impl WaitingRequests {
    fn new(most: usize) -> Self {
        Self { most, requests: Mutex::default() }
    }

    /// One more waits, and gives way when the other end is told to. If there are too many, the oldest does now: the
    /// others of a flood wait for pods that do not come, and to refuse new ones would keep out those of pods that do.
    fn enter(&self) -> oneshot::Receiver<()> {
        let (sender, told) = oneshot::channel();
        let mut requests = self.requests.lock().unwrap_or_else(PoisonError::into_inner);
        if requests.len() >= self.most {
            // Those that are answered have closed their end.
            requests.retain(|request| !request.is_closed());
        }
        if requests.len() >= self.most
            && let Some(oldest) = requests.pop_front()
        {
            // It may be answered meanwhile.
            let _ = oldest.send(());
        }
        requests.push_back(sender);
        told
    }
}

/// Accepts connections for as long as `requests` are taken. If too many send no request, or too many wait for their
/// answer, a new one takes the place of the oldest of these.
pub(super) async fn serve(listener: UnixListener, requests: mpsc::Sender<PendingRequest>) {
    serve_at_most(WAITING, listener, requests).await;
}

/// The same where so many may wait for their answer.
async fn serve_at_most(waiting: usize, listener: UnixListener, requests: mpsc::Sender<PendingRequest>) {
    let waiting = Arc::new(WaitingRequests::new(waiting));
    let places = Arc::new(Semaphore::new(READING));
    let mut reading: VecDeque<(Instant, AbortHandle)> = VecDeque::new();
    while !requests.is_closed() {
        match listener.accept().await {
            Ok((stream, _)) => {
                let place = place(&places, &mut reading).await;
                let (requests, waiting) = (requests.clone(), Arc::clone(&waiting));
                let connection = tokio::spawn(async move {
                    let _place = place;
                    if let Err(error) = receive(stream, requests, &waiting).await {
                        ended_early(&error);
                    }
                });
                reading.push_back((Instant::now(), connection.abort_handle()));
            }
            Err(error) => {
                warn!(%error, "cannot accept a connection of the CNI plugin; trying again");
                time::sleep(ACCEPT_RETRY).await;
            }
        }
    }
}

/// Waits for a place to read one more connection. If the oldest sends no request, it gives way.
async fn place(
    places: &Arc<Semaphore>,
    reading: &mut VecDeque<(Instant, AbortHandle)>,
) -> Result<OwnedSemaphorePermit, AcquireError> {
    reading.retain(|(_, connection)| !connection.is_finished());
    let free = Arc::clone(places).acquire_owned();
    tokio::pin!(free);
    if let Some((since, oldest)) = reading.front() {
        tokio::select! {
            biased;
            place = &mut free => return place,
            () = time::sleep_until(*since + KEPT) => {
                oldest.abort();
                debug!("a connection of the CNI plugin gave way to a new one, because it sent no request");
            }
        }
    }
    free.await
}

fn ended_early(error: &io::Error) {
    debug!(%error, "a connection of the CNI plugin ended early");
}

/// Receives one request. It waits for its answer in a task of its own.
async fn receive(
    mut stream: UnixStream,
    requests: mpsc::Sender<PendingRequest>,
    waiting: &WaitingRequests,
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
    let gives_way = waiting.enter();
    tokio::spawn(async move {
        if let Err(error) = reply(stream, command, (received, gives_way), requests).await {
            ended_early(&error);
        }
    });
    Ok(())
}

/// Passes a request on, and answers it.
async fn reply(
    mut stream: UnixStream,
    command: Command,
    (received, gives_way): (Moment, oneshot::Receiver<()>),
    requests: mpsc::Sender<PendingRequest>,
) -> io::Result<()> {
    let (reply, answered) = oneshot::channel();
    let gone = || io::Error::from(io::ErrorKind::BrokenPipe);
    // A request that ended need not give way.
    let gives_way = async {
        if gives_way.await.is_err() {
            std::future::pending::<()>().await;
        }
    };
    tokio::pin!(gives_way);
    let words = "too many requests wait for their answer, and this is the oldest of them; it is to be tried again";
    let too_many = Answer::refused(Reason::Timeout, words);
    let place = tokio::select! {
        biased;
        place = requests.reserve() => place.map_err(|_| gone())?,
        () = &mut gives_way => return answer(&mut stream, &too_many).await,
    };
    place.send(PendingRequest { command, answer: reply, received });
    let mut more = [0];
    let reply = tokio::select! {
        biased;
        reply = answered => reply.map_err(|_| gone())?,
        // A plugin that was killed waits for nothing. It sends nothing more before.
        _ = stream.read(&mut more) => return Err(gone()),
        () = &mut gives_way => too_many,
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
