//! The ready file: how others on the node see that the kernel is up to date.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

/// A file that is there while the agent is ready, and holds how many states of
/// the objects have gone into the kernel.
#[derive(Debug)]
pub(super) struct ReadyFile {
    path: Option<PathBuf>,
}

impl ReadyFile {
    /// The file at this path, if there is to be one. What an earlier agent left
    /// there says nothing and goes.
    pub(super) fn new(path: Option<PathBuf>) -> io::Result<Self> {
        let file = Self { path };
        file.remove()?;
        Ok(file)
    }

    /// Writes the count; a reader sees the old one or the new one.
    pub(super) fn write(&self, generation: u64) -> io::Result<()> {
        let Some(path) = &self.path else { return Ok(()) };
        let beside = beside(path);
        fs::write(&beside, format!("{generation}\n"))?;
        fs::rename(&beside, path)
    }

    /// Removes it: the agent is not ready.
    pub(super) fn remove(&self) -> io::Result<()> {
        let Some(path) = &self.path else { return Ok(()) };
        match fs::remove_file(path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            _ => Ok(()),
        }
    }
}

fn beside(path: &Path) -> PathBuf {
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(".new");
    path.with_file_name(name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_leftover_goes_and_each_count_replaces_the_last() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("ready");
        fs::write(&path, "7\n").expect("a leftover");
        let file = ReadyFile::new(Some(path.clone())).expect("it opens");
        assert!(!path.exists());
        for generation in [1, 2] {
            file.write(generation).expect("it writes");
            assert_eq!(fs::read_to_string(&path).expect("it is there"), format!("{generation}\n"));
        }
        file.remove().expect("it goes");
        file.remove().expect("gone is gone");
        assert_eq!(fs::read_dir(folder.path()).expect("a folder").count(), 0);
    }
}
