//! Nothing stays behind: not when a lab is dropped, not when it is
//! interrupted, and not for good when it is killed.

use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Mutex;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::error::Result;
use super::netns::{NETNS_DIR, names_with, run};

/// What the names of all labs' namespaces begin with; the process id and a
/// number of the lab in the process follow.
const PREFIX: &str = "npc-lab-";

/// The labs of this process, for the day it is interrupted.
static LABS: Mutex<Labs> = Mutex::new(Labs { next: 0, folders: Vec::new() });

struct Labs {
    next: usize,
    folders: Vec<(String, PathBuf)>,
}

/// The prefix of a new lab's namespaces. Its folder goes with it.
pub(super) fn register(folder: PathBuf) -> String {
    let mut labs = LABS.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    let prefix = format!("{PREFIX}{}-{}", std::process::id(), labs.next);
    labs.next += 1;
    labs.folders.push((prefix.clone(), folder));
    prefix
}

/// Removes the namespaces of one lab, with the processes in them.
pub(super) fn remove(prefix: &str) -> Result<()> {
    LABS.lock().unwrap_or_else(std::sync::PoisonError::into_inner).folders.retain(|(name, _)| name != prefix);
    delete(&names_with(&format!("{prefix}-")))
}

/// Removes all labs of this process. For the handler of a signal, which then
/// ends the process: destructors do not run.
///
/// # Errors
/// When a namespace cannot be deleted.
pub fn remove_own() -> Result<()> {
    let mut labs = LABS.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    for (_, folder) in labs.folders.drain(..) {
        // A folder in /tmp is the smaller evil.
        let _ = std::fs::remove_dir_all(folder);
    }
    delete(&names_with(&format!("{PREFIX}{}-", std::process::id())))
}

/// Removes what labs left behind whose processes are dead, and answers the
/// names of the namespaces.
///
/// # Errors
/// When a namespace cannot be deleted.
pub fn remove_dead() -> Result<Vec<String>> {
    let mut names = names_with(PREFIX);
    names.retain(|name| {
        let id = name[PREFIX.len()..].split('-').next().and_then(|id| id.parse::<i32>().ok());
        id.is_some_and(|id| !runs(id))
    });
    delete(&names)?;
    Ok(names)
}

/// Whether a process runs.
fn runs(id: i32) -> bool {
    kill(Pid::from_raw(id), None) != Err(nix::errno::Errno::ESRCH)
}

fn delete(names: &[String]) -> Result<()> {
    let inode = |path: PathBuf| std::fs::metadata(path).map(|file| file.ino()).ok();
    let ours: Vec<u64> = names.iter().filter_map(|name| inode(Path::new(NETNS_DIR).join(name))).collect();
    for process in std::fs::read_dir("/proc").into_iter().flatten().flatten() {
        let id = process.file_name().to_str().and_then(|name| name.parse::<u32>().ok());
        // A lab's own threads enter namespaces: never ourselves.
        let Some(id) = id.filter(|id| *id != std::process::id()) else { continue };
        if inode(process.path().join("ns/net")).is_some_and(|inode| ours.contains(&inode)) {
            // It may end by itself meanwhile.
            let _ = kill(Pid::from_raw(i32::try_from(id).unwrap_or(i32::MAX)), Signal::SIGKILL);
        }
    }
    if names.is_empty() {
        return Ok(());
    }
    let lines: Vec<String> = names.iter().map(|name| format!("netns del {name}")).collect();
    run("ip", ["-force", "-batch", "-"], &lines.join("\n")).map(drop)
}
