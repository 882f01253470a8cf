//! Follows a directory of manifests: its objects now, and again after every
//! change.
//!
//! A thread of its own waits for inotify (nothing is polled), lets a burst of
//! writes pass, reads what changed and sends an [`Update`]. It sees through
//! what editors and kubelets do: a file written in place, renamed over, a
//! ConfigMap's `..data` link turned, the directory itself replaced.
//!
//! **Invariant**: bad input hurts only itself. A file that does not parse, or
//! cannot be read, keeps its last good objects in force while the others go
//! on; a directory that is gone, or cannot be listed, keeps them all. Only a
//! file that is certainly removed takes its objects with it.

mod state;
mod watch;

use std::io;
use std::path::PathBuf;
use std::sync::mpsc as blocking;
use std::thread;
use std::time::{Duration, Instant};

use tokio::sync::mpsc;

use super::manifests::{Loaded, Options, Problem};
use state::State;
use watch::{Change, Watch};

/// How long nothing may happen before a burst of changes counts as over.
const QUIET: Duration = Duration::from_millis(50);

/// How long a burst may last, or a file stay open after a write, before what
/// is there is read anyway.
const PATIENCE: Duration = Duration::from_secs(1);

/// How long to wait before asking for watches again that the kernel refused.
const RETRY: Duration = Duration::from_secs(10);

/// What a change of the directory came to.
#[derive(Debug)]
pub struct Update {
    /// All objects that are now in force; `None` where they are the same as
    /// before, and only the problems changed.
    pub loaded: Option<Loaded>,
    /// The problems that were not there at the last update. A problem that
    /// stays is told once; one that went and came back is told again.
    pub problems: Vec<Problem>,
    /// The files some of whose documents have never been read: nobody knows
    /// what they meant to say. Empty is the normal case.
    pub never_read: Vec<PathBuf>,
}

/// The updates of a directory, until it is dropped.
#[derive(Debug)]
pub struct Updates {
    receiver: mpsc::Receiver<Update>,
    changes: blocking::Sender<Change>,
}

impl Updates {
    /// The next update. The first one comes as soon as the directory has been
    /// read. `None` only if the thread behind it is gone.
    ///
    /// Safe to cancel: an update that was not returned is still there.
    pub async fn next(&mut self) -> Option<Update> {
        self.receiver.recv().await
    }
}

impl Drop for Updates {
    fn drop(&mut self) {
        // If the thread has ended there is nobody to tell.
        let _ = self.changes.send(Change::Stop);
    }
}

/// Begins to follow a directory. It need not exist yet: until it does, there
/// are no objects, only the problem that it is missing.
///
/// # Errors
///
/// If the kernel gives no thread.
pub fn follow(root: PathBuf, options: Options) -> io::Result<Updates> {
    // The watches name absolute paths; what people see is the path they gave.
    let absolute = std::path::absolute(&root)?;
    let (changes, incoming) = blocking::channel();
    let (sender, receiver) = mpsc::channel(1);
    let follower = Follower {
        absolute,
        state: State::new(root, options),
        watch: None,
        changes: changes.clone(),
        incoming,
        sender,
    };
    thread::Builder::new().name("npc-manifests".to_owned()).spawn(move || follower.run())?;
    Ok(Updates { receiver, changes })
}

struct Follower {
    absolute: PathBuf,
    state: State,
    watch: Option<Watch>,
    /// For the watches to report to.
    changes: blocking::Sender<Change>,
    incoming: blocking::Receiver<Change>,
    sender: mpsc::Sender<Update>,
}

impl Follower {
    fn run(mut self) {
        loop {
            let refused = self.renew_watch().err();
            if let Some(update) = self.state.refresh(refused.as_ref())
                && self.sender.blocking_send(update).is_err()
            {
                return;
            }
            if self.wait(refused.is_some()).is_stop() {
                return;
            }
        }
    }

    /// Watches what decides about the directory as it is now. Whoever looks
    /// at the directory afterwards misses nothing: what changes later is in
    /// the channel.
    fn renew_watch(&mut self) -> Result<(), notify::Error> {
        // A directory may come while the watches are made, so look again; a
        // directory that changes all the time reports itself.
        for _ in 0..8 {
            let wanted = watch::Interest::of(&self.absolute);
            if self.watch.as_ref().is_some_and(|watch| watch.covers(&wanted)) {
                return Ok(());
            }
            // The new watches first: between two sets, nobody would look.
            self.watch = Some(Watch::new(wanted, self.changes.clone())?);
        }
        Ok(())
    }

    /// Waits for a change and for the end of the burst that it begins.
    fn wait(&mut self, refused: bool) -> Change {
        let first = if refused {
            match self.incoming.recv_timeout(RETRY) {
                Err(blocking::RecvTimeoutError::Timeout) => return Change::Other,
                received => received.ok(),
            }
        } else {
            self.incoming.recv().ok()
        };
        let begun = Instant::now();
        let mut open = std::collections::BTreeSet::new();
        let mut next = first;
        loop {
            match next {
                // The sender lives in `self`, so the channel cannot be closed.
                Some(Change::Stop) | None => return Change::Stop,
                Some(Change::Written(path)) => drop(open.insert(path)),
                Some(Change::Closed(path)) => drop(open.remove(&path)),
                // A directory made anew may have the inode of the old one.
                Some(Change::Moved) => self.watch = None,
                Some(Change::Other) => {}
            }
            let left = PATIENCE.saturating_sub(begun.elapsed());
            let pause = if open.is_empty() { QUIET.min(left) } else { left };
            match self.incoming.recv_timeout(pause) {
                Ok(change) if !left.is_zero() => next = Some(change),
                Ok(change) if change.is_stop() => return Change::Stop,
                _ => return Change::Other,
            }
        }
    }
}

#[cfg(test)]
mod tests;
