//! Nothing stays behind: not when a lab is dropped, not when it is
//! interrupted, and not for good when it is killed.

use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tempfile::TempDir;

use super::error::{Doing, Result};
use super::netns::{NETNS_DIR, names_with, run};

/// What the names of all labs' namespaces and folders begin with; the process
/// id and a number of the lab in the process follow.
const PREFIX: &str = "npc-lab-";

/// How many labs this process has begun.
static LABS: AtomicUsize = AtomicUsize::new(0);

/// The prefix of a new lab's namespaces, and a folder whose name begins so.
pub(super) fn register() -> Result<(String, TempDir)> {
    let prefix = format!("{PREFIX}{}-{}", std::process::id(), LABS.fetch_add(1, Ordering::Relaxed));
    // The process that left this was killed, and had our number before us.
    remove_folders(|name| name.starts_with(&format!("{prefix}-")));
    remove(&prefix)?;
    let folder = TempDir::with_prefix(format!("{prefix}-")).doing(|| "make a temporary folder".to_owned())?;
    Ok((prefix, folder))
}

/// Removes the namespaces of one lab, with the processes in them.
pub(super) fn remove(prefix: &str) -> Result<()> {
    delete(&names_with(&format!("{prefix}-")))
}

/// Removes all labs of this process. For the handler of a signal, which then
/// ends the process: destructors do not run.
///
/// # Errors
/// When a namespace cannot be deleted.
pub fn remove_own() -> Result<()> {
    let own = format!("{PREFIX}{}-", std::process::id());
    remove_folders(|name| name.starts_with(&own));
    delete(&names_with(&own))
}

/// Removes what labs left behind whose processes are dead, and answers the
/// names of the namespaces.
///
/// # Errors
/// When a namespace cannot be deleted.
pub fn remove_dead() -> Result<Vec<String>> {
    let dead = |name: &str| {
        let id = name.strip_prefix(PREFIX).and_then(|rest| rest.split('-').next()?.parse::<i32>().ok());
        id.is_some_and(|id| !runs(id))
    };
    remove_folders(dead);
    let mut names = names_with(PREFIX);
    names.retain(|name| dead(name));
    delete(&names)?;
    Ok(names)
}

fn remove_folders(which: impl Fn(&str) -> bool) {
    for entry in std::fs::read_dir(std::env::temp_dir()).into_iter().flatten().flatten() {
        if entry.file_name().to_str().is_some_and(&which) {
            // A folder that stays is the smaller evil.
            let _ = std::fs::remove_dir_all(entry.path());
        }
    }
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
