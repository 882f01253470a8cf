//! Follows a directory of manifests: its objects now, and again after every
//! change.
//!
//! A thread of its own waits for inotify (nothing is polled), lets a burst of writes pass, reads
//! what changed and sends an [`Update`]. It follows what editors and kubelets do: they write a file
//! in place or rename one over it, turn a ConfigMap's `..data` link, or replace the directory
//! itself.
//!
//! **Invariant**: bad input hurts only itself. A file that does not parse, or
//! cannot be read, keeps its last good objects in force while the others go
//! on. A directory that cannot be listed keeps the objects of all files that it
//! held, and so does the followed directory if it is gone. Only a file that is
//! certainly removed takes its objects with it.

mod read;
mod state;
mod watch;

use std::collections::{BTreeMap, BTreeSet};
use std::io::{self, PipeReader, PipeWriter};
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use tokio::sync::mpsc;

use super::manifests::{Loaded, Problem, ReadOptions, walk};
use read::DirectoryContents;
use state::DirectoryState;
use watch::{DirectoryEvent, Watch};

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
    /// The thread ends when this is closed.
    _alive: PipeWriter,
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

/// Begins to follow a directory. It need not exist yet: until it does, there
/// are no objects, only the problem that it is missing.
///
/// # Errors
///
/// If the kernel gives no thread.
pub fn follow(root: PathBuf, options: ReadOptions) -> io::Result<Updates> {
    let (follower, updates) = DirectoryFollower::new(root, options)?;
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

struct DirectoryFollower {
    root: PathBuf,
    /// The watches name absolute paths; people see the path they gave.
    absolute: PathBuf,
    state: DirectoryState,
    watch: Option<Watch>,
    /// It is at its end when the updates were dropped.
    alive: PipeReader,
    sender: mpsc::Sender<Update>,
    /// The files that were written to and not closed yet, and since when.
    open: BTreeMap<PathBuf, Instant>,
    /// The files that were written to or closed since the last reading began.
    written: BTreeSet<PathBuf>,
}

/// The updates were dropped.
struct Stopped;

impl DirectoryFollower {
    fn new(root: PathBuf, options: ReadOptions) -> io::Result<(Self, Updates)> {
        let absolute = std::path::absolute(&root)?;
        let (alive, kept) = io::pipe()?;
        let (sender, receiver) = mpsc::channel(1);
        let updates = Updates { receiver, _alive: kept };
        let state = DirectoryState::new(root.clone(), options);
        let (open, written) = (BTreeMap::new(), BTreeSet::new());
        Ok((Self { root, absolute, state, watch: None, alive, sender, open, written }, updates))
    }

    fn run(mut self) {
        // Since when the directory has not been quiet.
        let mut begun = Instant::now();
        loop {
            let refused = self.renew_watch().err();
            let open = self.open.keys().map(PathBuf::as_path).collect();
            self.written.clear();
            let mut reading = DirectoryContents::of(&self.root, &open, QUIET);
            // A program that gets no processor while it writes in place leaves a file that is
            // half and not fresh. The kernel has reported that write.
            let Ok(changed) = self.wait(Some(Duration::ZERO)) else { return };
            reading.is_changing |= changed;
            reading.hold_back(&self.open.keys().chain(&self.written).map(PathBuf::as_path).collect());
            let is_changing = reading.is_changing;
            let unlisted = reading.has_unlisted();
            if !is_changing || begun.elapsed() >= PATIENCE {
                // What is busy even now stays as it was, and the rest goes on.
                if let Some(update) = self.state.take(reading, refused.as_ref())
                    && self.sender.blocking_send(update).is_err()
                {
                    return;
                }
                // A file that keeps changing, watches that were refused, and a directory that
                // could not be listed are read again even if no event comes.
                let again = (is_changing.then_some(PATIENCE)).or((refused.is_some() || unlisted).then_some(RETRY));
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
    /// afterwards misses nothing: what changes later is in the queue.
    fn renew_watch(&mut self) -> io::Result<()> {
        // A directory may come while the watches are made, so list again. A directory that
        // changes all the time reports itself.
        for _ in 0..8 {
            let wanted = watch::Interest::of(&self.absolute);
            if self.watch.as_ref().is_some_and(|watch| watch.covers(&wanted)) {
                return Ok(());
            }
            // The new watches first: between two sets, changes would be lost.
            let old = self.watch.replace(Watch::new(wanted)?);
            let changes = old.iter().flat_map(Watch::changes);
            changes.filter(|change| *change != DirectoryEvent::Moved).for_each(|change| self.note(change));
        }
        Ok(())
    }

    /// Waits for a change, or for some time if one is given. Whether there was one.
    fn wait(&mut self, limit: Option<Duration>) -> Result<bool, Stopped> {
        let deadline = limit.map(|limit| Instant::now() + limit);
        loop {
            let left = deadline.map(|deadline| deadline.saturating_duration_since(Instant::now()));
            let timeout = left.and_then(|left| Timespec::try_from(left).ok());
            let mut files = vec![PollFd::new(&self.alive, PollFlags::empty())];
            files.extend(self.watch.as_ref().map(|watch| PollFd::new(watch, PollFlags::IN)));
            if let Err(error) = poll(&mut files, timeout.as_ref())
                && error != Errno::INTR
            {
                thread::sleep(QUIET);
            }
            if files[0].revents().intersects(PollFlags::HUP | PollFlags::ERR) {
                return Err(Stopped);
            }
            let changes = self.watch.as_ref().map(Watch::changes).unwrap_or_default();
            if !changes.is_empty() {
                for change in changes {
                    self.note(change);
                }
                return Ok(true);
            }
            if left.is_some_and(|left| left.is_zero()) {
                return Ok(false);
            }
        }
    }

    /// Waits until the burst of changes that began then is over: until nothing
    /// has come for a moment and no file has a writer, or patience ends.
    fn settle(&mut self, begun: Instant) -> Result<(), Stopped> {
        loop {
            let left = PATIENCE.saturating_sub(begun.elapsed());
            let pause = if self.open.is_empty() { QUIET.min(left) } else { left };
            if !self.wait(Some(pause))? || left.is_zero() {
                break;
            }
        }
        // Some keep a file open for good.
        self.open.retain(|_, since| since.elapsed() < PATIENCE);
        Ok(())
    }

    fn note(&mut self, change: DirectoryEvent) {
        match change {
            DirectoryEvent::Written(path) => {
                self.written.insert(path.clone());
                self.open.entry(path).or_insert_with(Instant::now);
            }
            DirectoryEvent::Closed(path) => {
                self.open.remove(&path);
                self.written.insert(path);
            }
            // A directory made anew may have the inode of the old one.
            DirectoryEvent::Moved => self.watch = None,
            DirectoryEvent::Other => {}
        }
    }
}

#[cfg(test)]
mod tests;
