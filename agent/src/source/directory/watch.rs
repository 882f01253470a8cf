//! What the kernel is asked to report about a directory.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsString;
use std::fs;
use std::mem;
use std::os::unix::fs::MetadataExt as _;
use std::panic::{self, AssertUnwindSafe};
use std::path::{Component, Path, PathBuf};
use std::sync::mpsc::Sender;

use notify::event::{AccessKind, AccessMode, DataChange, ModifyKind};
use notify::{Event, EventKind, RecommendedWatcher, RecursiveMode, Watcher as _};

use crate::source::manifests::walk;

/// Something happened.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Change {
    /// A file was written to, and its writer may not have ended.
    Written(PathBuf),
    /// A file that was open for writing was closed.
    Closed(PathBuf),
    /// A directory that is watched was moved or removed.
    Moved,
    /// Anything else.
    Other,
    /// The updates were dropped.
    Stop,
}

/// How many symlinks may lead to a directory, as the kernel has it.
const MAX_LINKS: usize = 40;

/// The directories, symlinks resolved, in which something may happen that
/// changes what a directory of manifests holds.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Interest {
    directories: BTreeMap<PathBuf, Watched>,
}

#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct Watched {
    /// Device and inode: a directory made anew is another one.
    identity: (u64, u64),
    /// Everything inside matters.
    all: bool,
    /// Otherwise these names do: parts of the path, and symlinks on the way.
    names: BTreeSet<OsString>,
}

impl Interest {
    /// What matters for the directory at an absolute path, which need not
    /// exist.
    pub(super) fn of(root: &Path) -> Self {
        let mut interest = Self::default();
        interest.add_way(root);
        // What cannot be listed is reported when the directory is read.
        let listing = walk(root).unwrap_or_default();
        for directory in &listing.directories {
            if let Ok(real) = fs::canonicalize(directory) {
                interest.watched(real).all = true;
            }
        }
        for path in listing.files.iter().chain(&listing.directories) {
            if path.is_symlink() {
                interest.add_way(path);
            }
        }
        for (path, watched) in &mut interest.directories {
            watched.identity = fs::metadata(path).map(|m| (m.dev(), m.ino())).unwrap_or_default();
        }
        interest
    }

    fn watched(&mut self, directory: PathBuf) -> &mut Watched {
        self.directories.entry(directory).or_default()
    }

    /// Adds each step of the way that the kernel takes along an absolute path,
    /// symlinks included, up to the first step that does not exist.
    fn add_way(&mut self, path: &Path) {
        let mut at = PathBuf::from("/");
        let mut left: Vec<OsString> = steps(path);
        let mut links = 0;
        while let Some(step) = left.pop() {
            if step == ".." {
                at.pop();
                continue;
            }
            self.watched(at.clone()).names.insert(step.clone());
            let next = at.join(&step);
            match fs::symlink_metadata(&next) {
                Ok(metadata) if metadata.is_symlink() && links < MAX_LINKS => {
                    links += 1;
                    let Ok(target) = fs::read_link(&next) else { return };
                    if target.is_absolute() {
                        at = PathBuf::from("/");
                    }
                    left.extend(steps(&target));
                }
                Ok(metadata) if metadata.is_dir() => at = next,
                _ => return,
            }
        }
    }

    /// What an event means, if anything.
    fn change(&self, event: &Event) -> Option<Change> {
        if event.need_rescan() {
            return Some(Change::Other);
        }
        let path = event.paths.iter().find(|path| self.matters(path))?;
        match event.kind {
            EventKind::Access(AccessKind::Close(AccessMode::Write)) => Some(Change::Closed(path.clone())),
            // Reading the files makes events of its own.
            EventKind::Access(_) => None,
            EventKind::Modify(ModifyKind::Data(DataChange::Any)) => Some(Change::Written(path.clone())),
            EventKind::Remove(_) | EventKind::Modify(ModifyKind::Name(_))
                if event.paths.iter().any(|path| self.directories.contains_key(path)) =>
            {
                Some(Change::Moved)
            }
            _ => Some(Change::Other),
        }
    }

    fn matters(&self, path: &Path) -> bool {
        if self.directories.contains_key(path) {
            return true;
        }
        let (Some(parent), Some(name)) = (path.parent(), path.file_name()) else { return false };
        self.directories.get(parent).is_some_and(|watched| watched.all || watched.names.contains(name))
    }
}

/// The steps of a path, the last one first.
fn steps(path: &Path) -> Vec<OsString> {
    let steps = path.components().filter_map(|component| match component {
        Component::Normal(name) => Some(name.to_owned()),
        Component::ParentDir => Some(OsString::from("..")),
        Component::RootDir | Component::CurDir | Component::Prefix(_) => None,
    });
    let mut steps: Vec<OsString> = steps.collect();
    steps.reverse();
    steps
}

/// Watches that are in the kernel, until this is dropped.
#[derive(Debug)]
pub(super) struct Watch {
    interest: Interest,
    _watcher: RecommendedWatcher,
}

impl Watch {
    /// Asks the kernel to report what is of interest.
    pub(super) fn new(interest: Interest, changes: Sender<Change>) -> Result<Self, notify::Error> {
        let filter = interest.clone();
        let mut watcher = notify::recommended_watcher(move |event: notify::Result<Event>| {
            let change = match event {
                Ok(event) => filter.change(&event),
                // An event was lost, so everything is read.
                Err(_) => Some(Change::Other),
            };
            if let Some(change) = change {
                // If the receiver is gone, the watches are about to go.
                let _ = changes.send(change);
            }
        })?;
        for directory in interest.directories.keys() {
            // If it got no thread, it says nothing and panics here.
            let asked = panic::catch_unwind(AssertUnwindSafe(|| watcher.watch(directory, RecursiveMode::NonRecursive)));
            let Ok(asked) = asked else {
                // It would panic again when it is dropped. What it holds is a descriptor or two.
                mem::forget(watcher);
                return Err(notify::Error::generic("no thread can be started to watch the directory"));
            };
            match asked {
                Ok(()) => {}
                // It went in the meantime, and its parent reports that.
                Err(error) if is_gone(&error) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(Self { interest, _watcher: watcher })
    }

    /// Whether these are the watches for an interest.
    pub(super) fn covers(&self, interest: &Interest) -> bool {
        self.interest == *interest
    }
}

fn is_gone(error: &notify::Error) -> bool {
    match &error.kind {
        notify::ErrorKind::PathNotFound | notify::ErrorKind::WatchNotFound => true,
        notify::ErrorKind::Io(error) => {
            matches!(error.kind(), std::io::ErrorKind::NotFound | std::io::ErrorKind::NotADirectory)
        }
        _ => false,
    }
}
