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
//! on. A directory that cannot be listed keeps the objects of all files that it
//! held, and so does the followed directory if it is gone. Only a file that is
//! certainly removed takes its objects with it.

mod read;
mod state;
mod watch;

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::mpsc as blocking;
use std::thread;
use std::time::{Duration, Instant};

use tokio::sync::mpsc;

use super::manifests::{Loaded, Options, Problem, walk};
use read::Reading;
use state::State;
use watch::{Change, Watch};

/// How long nothing may happen before a burst of changes counts as over.
const QUIET: Duration = Duration::from_millis(50);

/// How long a burst may last before the files that are not part of it are
/// read, and how long a file may stay open after a write before it is.
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
    /// stays is reported once; one that went and came back is reported again.
    pub problems: Vec<Problem>,
    /// All problems that there are now, sorted.
    pub standing: Vec<Problem>,
    /// The files some of whose documents have never been read, and the directories that
    /// have never been listed: what they ask for is not known. Empty is the normal case.
    pub never_read: Vec<PathBuf>,
    /// The directory was listed, and no manifest is in it.
    pub is_empty: bool,
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
        // The thread may have ended.
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
    let (follower, updates) = Follower::new(root, options)?;
    thread::Builder::new().name("npc-manifests".to_owned()).spawn(move || follower.run())?;
    Ok(updates)
}

/// Whether no manifest is in a directory.
///
/// # Errors
/// If it cannot be listed.
pub fn is_empty(root: &Path) -> io::Result<bool> {
    let listing = walk(root)?;
    Ok(listing.files.is_empty() && listing.unlisted.is_empty())
}

struct Follower {
    root: PathBuf,
    /// The watches name absolute paths; people see the path they gave.
    absolute: PathBuf,
    state: State,
    watch: Option<Watch>,
    /// For the watches to report to.
    changes: blocking::Sender<Change>,
    incoming: blocking::Receiver<Change>,
    sender: mpsc::Sender<Update>,
    /// The files that were written to and not closed yet, and since when.
    open: BTreeMap<PathBuf, Instant>,
}

/// The updates were dropped.
struct Stopped;

impl Follower {
    fn new(root: PathBuf, options: Options) -> io::Result<(Self, Updates)> {
        let absolute = std::path::absolute(&root)?;
        let (changes, incoming) = blocking::channel();
        let (sender, receiver) = mpsc::channel(1);
        let updates = Updates { receiver, changes: changes.clone() };
        let state = State::new(root.clone(), options);
        let open = BTreeMap::new();
        Ok((Self { root, absolute, state, watch: None, changes, incoming, sender, open }, updates))
    }

    fn run(mut self) {
        // Since when the directory has not been quiet.
        let mut begun = Instant::now();
        loop {
            let refused = self.renew_watch().err();
            let open = self.open.keys().map(PathBuf::as_path).collect();
            let mut reading = Reading::of(&self.root, &open, QUIET);
            // A program that gets no processor while it writes in place leaves a file that is
            // half and not fresh. The kernel has reported that write since.
            let Ok(changed) = self.note_all() else { return };
            reading.restless |= changed;
            reading.hold_back(&self.open.keys().map(PathBuf::as_path).collect());
            let restless = reading.restless;
            let unlisted = reading.has_unlisted();
            if !restless || begun.elapsed() >= PATIENCE {
                // What is busy even now stays as it was, and the rest goes on.
                if let Some(update) = self.state.take(reading, refused.as_ref())
                    && self.sender.blocking_send(update).is_err()
                {
                    return;
                }
                // A file that keeps changing, watches that were refused, and a directory that
                // could not be listed are read again even if no event comes.
                let again = (restless.then_some(PATIENCE)).or((refused.is_some() || unlisted).then_some(RETRY));
                if self.wait(again).is_err() {
                    return;
                }
                begun = Instant::now();
            }
            if self.settle(begun).is_err() {
                return;
            }
        }
    }

    /// Watches what decides about the directory as it is now. A reading that begins
    /// afterwards misses nothing: what changes later is in the channel.
    fn renew_watch(&mut self) -> Result<(), notify::Error> {
        // A directory may come while the watches are made, so list again. A directory that
        // changes all the time reports itself.
        for _ in 0..8 {
            let wanted = watch::Interest::of(&self.absolute);
            if self.watch.as_ref().is_some_and(|watch| watch.covers(&wanted)) {
                return Ok(());
            }
            // The new watches first: between two sets, changes would be lost.
            self.watch = Some(Watch::new(wanted, self.changes.clone())?);
        }
        Ok(())
    }

    /// Waits for a change, or for some time if one is given.
    fn wait(&mut self, limit: Option<Duration>) -> Result<(), Stopped> {
        let change = match limit {
            Some(limit) => self.incoming.recv_timeout(limit).unwrap_or(Change::Other),
            // The other end lives in `self`, so the channel cannot be closed.
            None => self.incoming.recv().unwrap_or(Change::Stop),
        };
        self.note(change)
    }

    /// Waits until the burst of changes that began then is over: until nothing
    /// has come for a moment and no file has a writer, or patience ends.
    fn settle(&mut self, begun: Instant) -> Result<(), Stopped> {
        loop {
            let left = PATIENCE.saturating_sub(begun.elapsed());
            let pause = if self.open.is_empty() { QUIET.min(left) } else { left };
            match self.incoming.recv_timeout(pause) {
                Ok(change) => self.note(change)?,
                Err(_) => break,
            }
        }
        // Some keep a file open for good.
        self.open.retain(|_, since| since.elapsed() < PATIENCE);
        Ok(())
    }

    /// Takes in the changes that have been reported by now. Whether there were any.
    fn note_all(&mut self) -> Result<bool, Stopped> {
        let mut any = false;
        while let Ok(change) = self.incoming.try_recv() {
            self.note(change)?;
            any = true;
        }
        Ok(any)
    }

    fn note(&mut self, change: Change) -> Result<(), Stopped> {
        match change {
            Change::Stop => return Err(Stopped),
            Change::Written(path) => drop(self.open.entry(path).or_insert_with(Instant::now)),
            Change::Closed(path) => drop(self.open.remove(&path)),
            // A directory made anew may have the inode of the old one.
            Change::Moved => self.watch = None,
            Change::Other => {}
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests;
