//! One agent in a network namespace, because two would undo what the other wrote.

use std::io;
use std::time::Duration;

use npc_agent::status::SharedStatus;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{UnixListener, UnixStream};
use tokio::time;
use tracing::warn;

use crate::command::{Exit, Stop};

/// [`status::SOCKET`] with the byte that marks abstract names. It is gone with the
/// process that holds it, however that ends.
///
/// [`status::SOCKET`]: npc_agent::status::SOCKET
const NAME: &str = "\0npc-agent";

/// How often to try if the process that holds the name does not answer. Then the agent goes
/// on without it.
const TRIES: usize = 3;

/// How long to wait for the process that holds the name, and after an error.
const PATIENCE: Duration = Duration::from_secs(1);

/// Makes this process the agent of its network namespace, for as long as it
/// runs.
///
/// Any user may take the name, and only root is believed to be an agent: a user of the node
/// must not keep policies from being enforced.
///
/// # Errors
/// If there is an agent, or no socket.
pub(super) async fn claim_socket(status: SharedStatus) -> anyhow::Result<()> {
    for left in (0..TRIES).rev() {
        match UnixListener::bind(NAME) {
            Ok(listener) => {
                tokio::spawn(hold(listener, status));
                return Ok(());
            }
            Err(error) if error.kind() != io::ErrorKind::AddrInUse => return Err(error.into()),
            Err(_) => {}
        }
        match holder().await {
            Ok(Holder { uid: 0, pid, answers }) if answers || left == 0 => {
                let message = format!(
                    "an agent runs in this network namespace already{}, and two would undo what each other wrote; end \
                     that one first",
                    which(pid)
                );
                return Err(Stop::new(Exit::Input, message).into());
            }
            Ok(Holder { uid: 0, pid, .. }) => {
                warn!(pid, "the process that holds the socket @npc-agent does not answer; trying again");
            }
            Ok(Holder { uid, pid, .. }) => {
                warn!(uid, pid, "a user other than root holds the socket @npc-agent; going on without it");
                return Ok(());
            }
            // It may have ended just now.
            Err(error) => warn!(%error, "cannot read which process holds the socket @npc-agent"),
        }
    }
    Ok(())
}

/// Refuses if an agent runs in this network namespace, because it would undo
/// at once what is about to be done.
///
/// # Errors
/// If there is one.
pub(crate) async fn refuse_beside_agent() -> anyhow::Result<()> {
    for left in (0..TRIES).rev() {
        match holder().await {
            Ok(Holder { uid: 0, pid, answers }) if answers || left == 0 => {
                let message = format!(
                    "an agent runs in this network namespace{}, and would put back at once whatever is removed; \
                     nothing was removed. End it first: in a cluster, delete its DaemonSet and wait for its pods to be \
                     gone; elsewhere, end its service or process. Then run this again",
                    which(pid)
                );
                return Err(Stop::new(Exit::Input, message).into());
            }
            // It may have ended just now, with a child that has its sockets.
            Ok(Holder { uid: 0, .. }) => {}
            // Its user cannot write to the kernel.
            Ok(_) => return Ok(()),
            Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => return Ok(()),
            Err(error) => warn!(%error, "cannot read which process holds the socket @npc-agent"),
        }
    }
    Ok(())
}

/// A process by its number. One of another PID namespace has none here.
fn which(pid: Option<i32>) -> String {
    pid.filter(|pid| *pid > 0).map(|pid| format!(" (process {pid})")).unwrap_or_default()
}

/// Accepts connections, which shows the user of this process, and sends root the status.
async fn hold(listener: UnixListener, status: SharedStatus) {
    loop {
        match listener.accept().await {
            Ok((stream, _)) => {
                tokio::spawn(answer(stream, status.clone()));
            }
            Err(_) => time::sleep(PATIENCE).await,
        }
    }
}

async fn answer(mut stream: UnixStream, status: SharedStatus) {
    let is_root = stream.peer_cred().is_ok_and(|peer| peer.uid() == 0);
    let Ok(text) = serde_json::to_vec(&status.now()) else { return };
    if is_root {
        // A peer that does not read on has gone.
        let _ = time::timeout(PATIENCE, stream.write_all(&text)).await;
    }
}

/// The process that holds the name.
struct Holder {
    uid: u32,
    pid: Option<i32>,
    /// It answers, as an agent does. An agent that was killed while it
    /// started a process does not: for a moment that one has its sockets.
    answers: bool,
}

async fn holder() -> io::Result<Holder> {
    let mut stream = time::timeout(PATIENCE, UnixStream::connect(NAME)).await??;
    let held = stream.peer_cred()?;
    let answer = time::timeout(PATIENCE, stream.read(&mut [0])).await;
    Ok(Holder { uid: held.uid(), pid: held.pid(), answers: matches!(answer, Ok(Ok(1..))) })
}
