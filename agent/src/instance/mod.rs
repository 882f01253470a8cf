//! One agent in a network namespace, because two would undo what each other writes.
//!
//! The lock is a file in a folder that is root's alone. The kernel releases the lock when the
//! process ends, however it ends. Agents of several network namespaces may share the folder,
//! as those of a lab do, so the file's name has the number of the namespace.

mod older;

use std::ffi::OsStr;
use std::fs::{File, TryLockError};
use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};
use std::{fs, thread};

use rustix::fs::{AtFlags, Dir, FileType, Mode, OFlags, Stat};

pub use older::{SocketHolder, judge_holder};

use crate::dataplane::iptables::process_with_lock;

/// The folder of the lock, and of what else an agent keeps on a node until it boots. It is
/// root's alone.
pub const FOLDER: &str = "/run/npc";

/// What the names of an agent's own files there begin with; the number of its network
/// namespace follows.
const PREFIX: &str = "agent-";

/// How the name of a lock ends.
const LOCK: &str = ".lock";

/// How the name of the socket ends on which an agent sends its status.
const SOCKET: &str = ".sock";

/// The abstract socket on which an agent sends root its status, beside [`status_socket`]. The
/// network namespace has the name, not the file system.
pub const ABSTRACT_SOCKET: &str = "npc-agent";

/// How long to wait between two tries.
const RETRY: Duration = Duration::from_millis(50);

/// Why the lock was not taken.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Another process has it: an agent, or `npc cleanup`.
    #[error("another process has the lock")]
    Held {
        /// That process, if this one can see it.
        process: Option<u32>,
    },
    /// There can be no lock here.
    #[error("cannot make the lock {}", path.display())]
    Unusable {
        /// Its file or folder.
        path: PathBuf,
        /// What is wrong.
        #[source]
        source: io::Error,
    },
}

/// The lock of the one agent of this network namespace, until it is dropped or the process
/// ends.
#[derive(Debug)]
pub struct InstanceLock {
    path: PathBuf,
    _file: File,
}

impl InstanceLock {
    /// Takes the lock of the calling thread's network namespace. A process that has it may be
    /// about to end, so this tries again for `patience`.
    ///
    /// # Errors
    /// If another process has it, or the folder or the file cannot be made or is not root's
    /// alone.
    pub fn take(patience: Duration) -> Result<Self, Error> {
        let name = namespace().map(|number| format!("{PREFIX}{number}{LOCK}"));
        let name = name.map_err(|source| Error::Unusable { path: FOLDER.into(), source })?;
        Self::take_in(Path::new(FOLDER), &name, patience)
    }

    fn take_in(folder: &Path, name: &str, patience: Duration) -> Result<Self, Error> {
        let path = folder.join(name);
        let unusable = |path: &Path| {
            let path = path.to_owned();
            move |error: io::Error| Error::Unusable { path, source: error }
        };
        let opened = open_folder(folder).map_err(unusable(folder))?;
        let deadline = Instant::now() + patience;
        loop {
            let (file, held) = open_lock(&opened, name, true).map_err(unusable(&path))?;
            match file.try_lock() {
                // Another process may have removed the file before it was locked here.
                Ok(()) if is_at(&opened, name, &held) => {
                    remove_stale(&opened, name);
                    return Ok(Self { path, _file: file });
                }
                Ok(()) => {}
                Err(TryLockError::WouldBlock) if Instant::now() < deadline => thread::sleep(RETRY),
                Err(TryLockError::WouldBlock) => {
                    return Err(Error::Held { process: process_with_lock(held.st_dev, held.st_ino) });
                }
                Err(TryLockError::Error(error)) => return Err(unusable(&path)(error)),
            }
        }
    }

    /// The socket on which the agent that has this lock sends its status.
    #[must_use]
    pub fn status_socket(&self) -> PathBuf {
        self.path.with_extension(SOCKET.trim_start_matches('.'))
    }
}

impl Drop for InstanceLock {
    fn drop(&mut self) {
        // An agent of before this lock refuses to serve the CNI plugin from a folder with files
        // that it does not know. While the lock is held no other process uses these.
        let _ = fs::remove_file(self.status_socket());
        let _ = fs::remove_file(&self.path);
    }
}

/// The socket on which the agent of the calling thread's network namespace sends its status,
/// if it could take the lock.
///
/// # Errors
/// If the namespace has no number here, as without /proc.
pub fn status_socket() -> io::Result<PathBuf> {
    Ok(Path::new(FOLDER).join(format!("{PREFIX}{}{SOCKET}", namespace()?)))
}

/// Whether an agent of some network namespace makes a file of this name.
#[must_use]
pub fn is_own_file(name: &OsStr) -> bool {
    let name = name.as_encoded_bytes();
    name.starts_with(PREFIX.as_bytes()) && (name.ends_with(LOCK.as_bytes()) || name.ends_with(SOCKET.as_bytes()))
}

/// The number of the calling thread's network namespace. No two have one at the same time.
fn namespace() -> io::Result<u64> {
    use std::os::unix::fs::MetadataExt as _;
    Ok(fs::metadata("/proc/thread-self/ns/net")?.ino())
}

/// The folder, which is root's alone from here on.
fn open_folder(path: &Path) -> io::Result<OwnedFd> {
    match rustix::fs::mkdir(path, Mode::RWXU) {
        Ok(()) | Err(rustix::io::Errno::EXIST) => {}
        Err(error) => return Err(error.into()),
    }
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let folder = rustix::fs::open(path, flags, Mode::empty())?;
    let found = rustix::fs::fstat(&folder)?;
    if found.st_uid != 0 {
        return Err(io::Error::other(format!("it belongs to user {}, and root is wanted", found.st_uid)));
    }
    if Mode::from_raw_mode(found.st_mode) != Mode::RWXU {
        // Kubelet makes the folder of a hostPath for all to read.
        rustix::fs::fchmod(&folder, Mode::RWXU)?;
    }
    Ok(folder)
}

/// The file of a lock, and what it is. Only a file that no one but root could have made or
/// opened is taken for one.
fn open_lock(folder: &OwnedFd, name: &str, create: bool) -> io::Result<(File, Stat)> {
    // NONBLOCK: should it be a FIFO, this waits for no writer.
    let mut flags = OFlags::RDWR | OFlags::NOFOLLOW | OFlags::CLOEXEC | OFlags::NONBLOCK;
    if create {
        flags |= OFlags::CREATE;
    }
    let file = File::from(rustix::fs::openat(folder, name, flags, Mode::RUSR | Mode::WUSR)?);
    let found = rustix::fs::fstat(&file)?;
    if FileType::from_raw_mode(found.st_mode) != FileType::RegularFile {
        return Err(io::Error::other("it is not a file"));
    }
    let mode = Mode::from_raw_mode(found.st_mode);
    if found.st_uid != 0 || mode.intersects(Mode::RWXG | Mode::RWXO) {
        return Err(io::Error::other(format!(
            "user {} owns it, and its mode is {:o}; root and 600 are wanted; remove it",
            found.st_uid,
            mode.bits()
        )));
    }
    Ok((file, found))
}

/// Whether the name still leads to this file.
fn is_at(folder: &OwnedFd, name: &str, file: &Stat) -> bool {
    let now = rustix::fs::statat(folder, name, AtFlags::SYMLINK_NOFOLLOW);
    now.is_ok_and(|now| (now.st_dev, now.st_ino) == (file.st_dev, file.st_ino))
}

/// Removes the locks of agents that were killed, in network namespaces that may be gone, and
/// the status sockets beside them. What cannot be removed is in no one's way.
fn remove_stale(folder: &OwnedFd, own: &str) {
    let Ok(entries) = Dir::read_from(folder) else { return };
    for entry in entries.flatten() {
        let Ok(name) = entry.file_name().to_str() else { continue };
        let Some(stem) = name.strip_suffix(LOCK).filter(|stem| stem.starts_with(PREFIX) && name != own) else {
            continue;
        };
        let Ok((file, found)) = open_lock(folder, name, false) else { continue };
        // Removed only under the lock, or another process could have just taken it.
        if file.try_lock().is_ok() && is_at(folder, name, &found) {
            let _ = rustix::fs::unlinkat(folder, format!("{stem}{SOCKET}"), AtFlags::empty());
            let _ = rustix::fs::unlinkat(folder, name, AtFlags::empty());
        }
    }
}

#[cfg(test)]
mod tests;
