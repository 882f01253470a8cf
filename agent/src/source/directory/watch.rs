//! What the kernel is asked to report about a directory.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::{OsStr, OsString};
use std::fs;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Component, Path, PathBuf};

use rustix::fs::inotify::{self, ReadFlags, WatchFlags};
use rustix::io::Errno;

use crate::source::manifests::walk;

/// Something happened.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum DirectoryEvent {
    /// A file was written to, and its writer may not have ended.
    Written(PathBuf),
    /// A file that was open for writing was closed.
    Closed(PathBuf),
    /// A directory that is watched was moved or removed.
    Moved,
    /// Anything else.
    Other,
}

/// What the kernel reports of a directory. Reading changes nothing, so it is not reported.
const REPORTED: WatchFlags = WatchFlags::MODIFY
    .union(WatchFlags::CLOSE_WRITE)
    .union(WatchFlags::ATTRIB)
    .union(WatchFlags::CREATE)
    .union(WatchFlags::DELETE)
    .union(WatchFlags::DELETE_SELF)
    .union(WatchFlags::MOVED_FROM)
    .union(WatchFlags::MOVED_TO)
    .union(WatchFlags::MOVE_SELF)
    .union(WatchFlags::ONLYDIR);

/// How many symlinks may lead to a directory, as the kernel has it.
const MAX_LINKS: usize = 40;

/// The directories, symlinks resolved, in which something may happen that
/// changes what a directory of manifests holds.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Interest {
    directories: BTreeMap<PathBuf, WatchedNames>,
}

#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct WatchedNames {
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
        interest.add_path_steps(root);
        // What cannot be listed is reported when the directory is read.
        let listing = walk(root).unwrap_or_default();
        for directory in &listing.directories {
            if let Ok(real) = fs::canonicalize(directory) {
                interest.watched(real).all = true;
            }
        }
        for path in listing.files.iter().chain(&listing.directories) {
            if path.is_symlink() {
                interest.add_path_steps(path);
            }
        }
        for (path, watched) in &mut interest.directories {
            watched.identity = fs::metadata(path).map(|m| (m.dev(), m.ino())).unwrap_or_default();
        }
        interest
    }

    fn watched(&mut self, directory: PathBuf) -> &mut WatchedNames {
        self.directories.entry(directory).or_default()
    }

    /// Adds each directory through which the kernel resolves an absolute path,
    /// symlinks included, up to the first step that does not exist.
    fn add_path_steps(&mut self, path: &Path) {
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

    /// What an event in a directory means, if anything.
    fn change(&self, directory: &Path, event: &inotify::Event<'_>) -> Option<DirectoryEvent> {
        let happened = event.events();
        if happened.intersects(ReadFlags::MOVE_SELF | ReadFlags::DELETE_SELF | ReadFlags::IGNORED | ReadFlags::UNMOUNT)
        {
            return Some(DirectoryEvent::Moved);
        }
        let path = match event.file_name() {
            Some(name) => directory.join(OsStr::from_bytes(name.to_bytes())),
            None => directory.to_owned(),
        };
        if !self.matters(&path) {
            return None;
        }
        let left = ReadFlags::DELETE | ReadFlags::MOVED_FROM | ReadFlags::MOVED_TO;
        Some(if happened.contains(ReadFlags::CLOSE_WRITE) {
            DirectoryEvent::Closed(path)
        } else if happened.contains(ReadFlags::MODIFY) {
            DirectoryEvent::Written(path)
        } else if happened.intersects(left) && self.directories.contains_key(&path) {
            DirectoryEvent::Moved
        } else {
            DirectoryEvent::Other
        })
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
///
/// The kernel puts an event into the queue before the call that caused it returns. So what
/// [`changes`](Self::changes) gives after a file was read has every write before, also
/// where its writer gets no processor: no thread stands between.
#[derive(Debug)]
pub(super) struct Watch {
    interest: Interest,
    queue: OwnedFd,
    /// By the kernel's numbers. A directory may have several paths, by bind mounts.
    directories: BTreeMap<i32, Vec<PathBuf>>,
}

impl Watch {
    /// Asks the kernel to report what is of interest.
    ///
    /// # Errors
    /// If the kernel refuses a watch of a directory that is there.
    pub(super) fn new(interest: Interest) -> io::Result<Self> {
        let queue = inotify::init(inotify::CreateFlags::CLOEXEC | inotify::CreateFlags::NONBLOCK)?;
        let mut directories = BTreeMap::<i32, Vec<PathBuf>>::new();
        for directory in interest.directories.keys() {
            match inotify::add_watch(&queue, directory, REPORTED) {
                Ok(number) => directories.entry(number).or_default().push(directory.clone()),
                // It went in the meantime, and its parent reports that.
                Err(Errno::NOENT | Errno::NOTDIR) => {}
                Err(error) => return Err(error.into()),
            }
        }
        Ok(Self { interest, queue, directories })
    }

    /// Whether these are the watches for an interest.
    pub(super) fn covers(&self, interest: &Interest) -> bool {
        self.interest == *interest
    }

    /// What has been reported since this was last asked; does not wait.
    pub(super) fn changes(&self) -> Vec<DirectoryEvent> {
        let mut buffer = Vec::with_capacity(1 << 14);
        let mut reader = inotify::Reader::new(&self.queue, buffer.spare_capacity_mut());
        let mut changes = Vec::new();
        loop {
            match reader.next() {
                // Events were lost, and a directory may have been made anew with the inode of the
                // old one. So there are new watches, and everything is read.
                Ok(event) if event.events().contains(ReadFlags::QUEUE_OVERFLOW) => changes.push(DirectoryEvent::Moved),
                Ok(event) => {
                    let directories = self.directories.get(&event.wd()).into_iter().flatten();
                    changes.extend(directories.filter_map(|directory| self.interest.change(directory, &event)));
                }
                Err(Errno::INTR) => {}
                Err(Errno::AGAIN) => return changes,
                // It cannot be read any more, so other watches are made.
                Err(_) => {
                    changes.push(DirectoryEvent::Moved);
                    return changes;
                }
            }
        }
    }
}

impl AsFd for Watch {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.queue.as_fd()
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use super::*;

    #[test]
    fn a_write_is_reported_when_it_is_done_and_no_later() -> io::Result<()> {
        let folder = tempfile::tempdir()?;
        let path = fs::canonicalize(folder.path())?.join("a.yaml");
        fs::write(&path, "a: 1")?;
        let watch = Watch::new(Interest::of(folder.path()))?;
        assert_eq!(watch.changes(), []);
        // As a program that loses the processor after it has emptied the file.
        let mut file = fs::File::create(&path)?;
        assert_eq!(watch.changes(), [DirectoryEvent::Written(path.clone())]);
        file.write_all(b"a: 2")?;
        drop(file);
        assert_eq!(watch.changes(), [DirectoryEvent::Written(path.clone()), DirectoryEvent::Closed(path)]);
        assert_eq!(watch.changes(), []);
        Ok(())
    }

    #[test]
    fn after_lost_events_the_watches_are_made_anew() -> io::Result<()> {
        let limit = fs::read_to_string("/proc/sys/fs/inotify/max_queued_events")?;
        let limit: usize = limit.trim().parse().map_err(io::Error::other)?;
        let folder = tempfile::tempdir()?;
        let path = folder.path().join("a");
        let watch = Watch::new(Interest::of(folder.path()))?;
        // Two events each.
        for _ in 0..=limit / 2 {
            fs::create_dir(&path)?;
            fs::remove_dir(&path)?;
        }
        assert!(watch.changes().contains(&DirectoryEvent::Moved));
        Ok(())
    }
}
