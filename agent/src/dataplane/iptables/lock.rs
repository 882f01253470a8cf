//! The xtables lock, by which legacy iptables commands take turns.
//!
//! Looked at before a command is started: a command that waits for it does so
//! for whole seconds, and meanwhile nothing else could be written.

use std::fmt;
use std::fs::{self, File, TryLockError};
use std::os::unix::fs::MetadataExt as _;
use std::path::PathBuf;
use std::time::{Duration, Instant};
use std::{env, thread};

/// The time between two looks whether it is free.
const LOOK: Duration = Duration::from_millis(5);

/// The process that holds the lock.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Holder {
    /// Its process.
    pub process: u32,
    /// The name of its program, if it still runs.
    pub program: Option<String>,
}

impl fmt::Display for Holder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.program {
            Some(program) => write!(f, "{program} (process {})", self.process),
            None => write!(f, "process {}", self.process),
        }
    }
}

/// Where iptables has it.
pub(in super::super) fn path() -> PathBuf {
    env::var_os("XTABLES_LOCKFILE").map_or_else(|| PathBuf::from("/run/xtables.lock"), PathBuf::from)
}

/// Waits until no program holds the lock; the holder, as far as it is known, if
/// it is not free in time. What cannot be read is left to the commands.
pub(super) fn wait(patience: Duration) -> Result<(), Option<Holder>> {
    let deadline = Instant::now() + patience;
    // Without a file no process holds the lock.
    let Ok(file) = File::open(path()) else { return Ok(()) };
    loop {
        match file.try_lock() {
            // Free again as soon as the file is closed, at once.
            Ok(()) | Err(TryLockError::Error(_)) => return Ok(()),
            Err(TryLockError::WouldBlock) if Instant::now() < deadline => thread::sleep(LOOK),
            Err(TryLockError::WouldBlock) => return Err(holder()),
        }
    }
}

/// The process that holds the lock. The kernel reports processes that this one can see.
pub(super) fn holder() -> Option<Holder> {
    let file = fs::metadata(path()).ok()?;
    let process = process_with_lock(file.dev(), file.ino())?;
    let program = fs::read_to_string(format!("/proc/{process}/comm")).ok().map(|name| name.trim().to_owned());
    Some(Holder { process, program })
}

/// The process that has a lock (flock) on the file of this device and inode, if this one can
/// see it.
pub(crate) fn process_with_lock(device: u64, inode: u64) -> Option<u32> {
    holder_of(&fs::read_to_string("/proc/locks").ok()?, device, inode)
}

/// Reads /proc/locks: `1: FLOCK  ADVISORY  WRITE 1234 00:1a:567 0 EOF`, behind
/// which those who wait follow as `1: -> FLOCK …`.
fn holder_of(locks: &str, device: u64, inode: u64) -> Option<u32> {
    let file = format!("{:02x}:{:02x}:{inode}", rustix::fs::major(device), rustix::fs::minor(device));
    locks.lines().find_map(|line| {
        let mut words = line.split_ascii_whitespace().skip(1);
        let is_held = words.next() == Some("FLOCK");
        let (process, locked) = (words.nth(2)?, words.next()?);
        (is_held && locked == file).then(|| process.parse().ok())?
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_holder_is_read_and_not_a_waiting_process() {
        let locks = "1: POSIX  ADVISORY  WRITE 1 00:1a:567 0 EOF\n\
                     2: FLOCK  ADVISORY  WRITE 7 00:1a:568 0 EOF\n\
                     2: -> FLOCK  ADVISORY  WRITE 8 00:1a:567 0 EOF\n\
                     3: FLOCK  ADVISORY  WRITE 9 00:1a:567 0 EOF\n";
        let device = rustix::fs::makedev(0, 0x1a);
        assert_eq!(holder_of(locks, device, 567), Some(9));
        assert_eq!(holder_of(locks, device, 1), None);
    }
}
