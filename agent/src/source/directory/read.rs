//! One reading of a directory: the bytes of its files, and whether a program was writing
//! to them just then.
//!
//! A file that is written in place is empty or half for a moment. An agent that reads it
//! then misses objects that exist, and a policy that vanishes opens what it closed. So a
//! file that changed a moment ago, or that has a writer, is not read now but later.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use crate::source::manifests::{FOLLOWED, read_regular, walk};

/// How long a file must be empty before that is what its writer wants. A program that writes
/// in place empties the file first, and the file system may hold it up then for as long as
/// the disk is busy, before the kernel reports anything.
pub(super) const EMPTY: Duration = Duration::from_secs(1);

/// What was read.
#[derive(Debug)]
pub(super) struct DirectoryContents {
    /// The files, or why the directory cannot be listed.
    pub(super) files: io::Result<BTreeMap<PathBuf, ReadFile>>,
    /// The directories below that cannot be listed, and why.
    pub(super) unlisted: BTreeMap<PathBuf, io::Error>,
    /// Files or directories changed just now, so there may be more to come.
    pub(super) is_changing: bool,
}

/// What was read of a file.
#[derive(Debug)]
pub(super) enum ReadFile {
    Bytes(Vec<u8>),
    Unreadable(io::Error),
    /// It is no regular file, so it holds no objects.
    Special(io::Error),
    /// A program is writing to it.
    Busy,
}

impl DirectoryContents {
    /// Reads a directory. Files with a path (symlinks resolved) in `open` are busy, and so
    /// are those that changed less than `quiet` ago.
    pub(super) fn of(root: &Path, open: &BTreeSet<&Path>, quiet: Duration) -> Self {
        let listing = match walk(root) {
            Ok(listing) => listing,
            Err(error) => return Self { files: Err(error), unlisted: BTreeMap::new(), is_changing: false },
        };
        let mut is_changing = listing.directories.iter().any(|directory| is_fresh(directory, quiet));
        let mut files = BTreeMap::new();
        for path in listing.files {
            let content = match fs::canonicalize(&path) {
                Ok(real) if open.contains(real.as_path()) => ReadFile::Busy,
                _ => match read_regular(&path, FOLLOWED) {
                    // After reading, so that a write meanwhile shows.
                    Ok(bytes) if is_fresh(&path, if bytes.is_empty() { quiet.max(EMPTY) } else { quiet }) => {
                        ReadFile::Busy
                    }
                    Ok(bytes) => ReadFile::Bytes(bytes),
                    // It was removed since the directory was listed, and a
                    // link that leads nowhere was not.
                    Err(error) if error.kind() == io::ErrorKind::NotFound && !path.is_symlink() => continue,
                    Err(error) if error.kind() == io::ErrorKind::InvalidInput => ReadFile::Special(error),
                    Err(error) => ReadFile::Unreadable(error),
                },
            };
            is_changing |= matches!(content, ReadFile::Busy);
            files.insert(path, content);
        }
        Self { files: Ok(files), unlisted: listing.unlisted.into_iter().collect(), is_changing }
    }

    /// Files with a path (symlinks resolved) in `busy` are busy after all.
    pub(super) fn hold_back(&mut self, busy: &BTreeSet<&Path>) {
        let Ok(files) = &mut self.files else { return };
        for (path, content) in files.iter_mut().filter(|_| !busy.is_empty()) {
            if fs::canonicalize(path).is_ok_and(|real| busy.contains(real.as_path())) {
                *content = ReadFile::Busy;
                self.is_changing = true;
            }
        }
    }

    /// Whether the directory, or one below it, cannot be listed.
    pub(super) fn has_unlisted(&self) -> bool {
        self.files.is_err() || !self.unlisted.is_empty()
    }
}

/// Whether a file or directory changed less than a moment ago. A time in the
/// future says nothing: clocks differ.
fn is_fresh(path: &Path, moment: Duration) -> bool {
    let changed = fs::metadata(path).and_then(|metadata| metadata.modified());
    changed.is_ok_and(|changed| SystemTime::now().duration_since(changed).is_ok_and(|age| age < moment))
}
