//! One agent in a network namespace: two would undo what each other wrote.

use std::io;
use std::time::Duration;

use tokio::net::{UnixListener, UnixStream};
use tokio::time;
use tracing::warn;

use crate::command::{Exit, Stop};

/// A name that the network namespace has, not the file system: it is gone with
/// the process that holds it, however that ends.
const NAME: &str = "\0npc-agent";

/// How often to try, where who holds the name does not answer; afterwards the
/// agent goes on without it.
const TRIES: usize = 3;

/// How long to wait for who holds the name, and after an error.
const PATIENCE: Duration = Duration::from_secs(1);

/// Makes this process the agent of its network namespace, for as long as it
/// runs.
///
/// Anybody may take the name, and only root is believed to be an agent: a user
/// of the node must not keep policies from it.
///
/// # Errors
/// If there is an agent, or no socket.
pub(super) async fn be_the_only_one() -> anyhow::Result<()> {
    for _ in 0..TRIES {
        match UnixListener::bind(NAME) {
            Ok(listener) => {
                tokio::spawn(hold(listener));
                return Ok(());
            }
            Err(error) if error.kind() != io::ErrorKind::AddrInUse => return Err(error.into()),
            Err(_) => {}
        }
        match holder().await {
            Ok((0, pid)) => {
                // A process of another PID namespace has no number here.
                let which = pid.filter(|pid| *pid > 0).map(|pid| format!(" (process {pid})")).unwrap_or_default();
                let message = format!(
                    "an agent runs in this network namespace already{which}, and two would undo what each other \
                     wrote; end that one first"
                );
                return Err(Stop::new(Exit::Input, message).into());
            }
            Ok((uid, pid)) => {
                warn!(uid, pid, "somebody who is not root holds the socket @npc-agent; going on without it");
                return Ok(());
            }
            // It may have ended just now.
            Err(error) => warn!(%error, "cannot tell who holds the socket @npc-agent"),
        }
    }
    Ok(())
}

/// Lets whoever asks see who holds the name.
async fn hold(listener: UnixListener) {
    loop {
        if listener.accept().await.is_err() {
            time::sleep(PATIENCE).await;
        }
    }
}

/// User and process that hold the name.
async fn holder() -> io::Result<(u32, Option<i32>)> {
    let held = time::timeout(PATIENCE, UnixStream::connect(NAME)).await??.peer_cred()?;
    Ok((held.uid(), held.pid()))
}
