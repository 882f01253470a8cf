//! Which network namespaces are gone, where the agent can see their files.

use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

/// The files of network namespaces that were there when the agent, or one before it, looked.
///
/// Their folder (`/run/netns`) may be none that the agent's mounts show. So a file that was never there says nothing,
/// and one in a folder that is not there neither. Nor does one in `/proc`: the agent finds the processes of its own PID
/// namespace there, so the number in `/proc/1234/ns/net` is another process's.
#[derive(Debug, Default)]
pub(super) struct SeenNetns(BTreeSet<String>);

impl SeenNetns {
    /// The files that an agent has found.
    pub(super) const fn of(files: BTreeSet<String>) -> Self {
        Self(files)
    }

    /// Those that the next agent has to know.
    pub(super) const fn files(&self) -> &BTreeSet<String> {
        &self.0
    }

    /// Looks for these files; those that were there before and are not any more.
    pub(super) fn gone(&mut self, files: BTreeSet<String>) -> BTreeSet<String> {
        self.0.retain(|file| files.contains(file));
        let mut gone = BTreeSet::new();
        for file in files {
            let path = &on_this_node(&file);
            match fs::symlink_metadata(path) {
                Ok(_) if is_telling(path) => {
                    self.0.insert(file);
                }
                Err(error)
                    if error.kind() == io::ErrorKind::NotFound
                        && self.0.contains(&file)
                        && path.parent().is_some_and(Path::is_dir) =>
                {
                    gone.insert(file);
                }
                _ => {}
            }
        }
        gone
    }
}

/// Whether the file of a network namespace is there.
pub(super) fn is_there(file: &str) -> bool {
    let path = on_this_node(file);
    is_telling(&path) && fs::symlink_metadata(path).is_ok()
}

/// Whether a file of this name is the same for the runtime and the agent.
fn is_telling(path: &Path) -> bool {
    path.is_absolute() && !path.starts_with("/proc")
}

/// Where the agent finds the file that a runtime calls so: `/var/run` is `/run` on most nodes, and the agent's image has
/// no `/var`.
fn on_this_node(file: &str) -> PathBuf {
    file.strip_prefix("/var/run/").map_or_else(|| PathBuf::from(file), |rest| Path::new("/run").join(rest))
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test that finds nothing has failed")]
mod tests {
    use super::*;

    #[test]
    fn a_file_that_was_there_is_gone_and_one_that_never_was_is_not() {
        let folder = tempfile::tempdir().unwrap();
        let [seen, never] = ["seen", "never"].map(|name| folder.path().join(name).display().to_string());
        let files = BTreeSet::from([seen.clone(), never, String::new(), "relative".to_owned()]);
        fs::write(&seen, "").unwrap();
        let mut netns = SeenNetns::default();
        assert_eq!(netns.gone(files.clone()), BTreeSet::new());
        fs::remove_file(&seen).unwrap();
        assert_eq!(netns.gone(files.clone()), BTreeSet::from([seen.clone()]));
        let of_process = BTreeSet::from([format!("/proc/{}/ns/net", std::process::id())]);
        netns.gone(of_process.clone());
        assert!(netns.0.is_disjoint(&of_process));
        netns.gone(files.clone());
        fs::write(&seen, "").unwrap();
        netns.gone(files.clone());
        fs::remove_file(&seen).unwrap();
        assert_eq!(netns.gone(files.clone()), BTreeSet::from([seen.clone()]));
        // The next agent knows that it was there. Its mounts may show less.
        let mut next = SeenNetns::of(netns.files().clone());
        assert_eq!(next.gone(files.clone()), BTreeSet::from([seen]));
        let elsewhere = format!("{}/none/seen", folder.path().display());
        let mut hidden = SeenNetns::of(BTreeSet::from([elsewhere.clone()]));
        assert_eq!(hidden.gone(BTreeSet::from([elsewhere])), BTreeSet::new());
        // Once its sandbox is forgotten, so is the file.
        assert_eq!(netns.gone(BTreeSet::new()), BTreeSet::new());
        assert_eq!(netns.gone(files), BTreeSet::new());
    }

    /// containerd's name for it.
    #[test]
    fn a_file_of_var_run_is_looked_for_in_run() {
        assert_eq!(on_this_node("/var/run/netns/cni-1"), Path::new("/run/netns/cni-1"));
        assert_eq!(on_this_node("/run/netns/cni-1"), Path::new("/run/netns/cni-1"));
        assert_eq!(on_this_node("relative"), Path::new("relative"));
    }
}
