//! Which files there are to read, and reading them within bounds.

use std::collections::BTreeSet;
use std::fs::{self, File, FileType, OpenOptions};
use std::io::{self, Read};
use std::os::unix::fs::{FileTypeExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use rustix::fs::OFlags;

/// The longest file that is read of a directory that an agent follows, in bytes. Objects
/// of a node with all its peers take a few.
pub(in crate::source) const FOLLOWED: u64 = 64 << 20;

/// The longest input of a command, in bytes: what `kubectl get -A -o yaml` prints of a
/// cluster of 100,000 pods.
pub(super) const GIVEN: u64 = 2 << 30;

/// The file endings that are read in a directory, as kubectl does.
const ENDINGS: [&str; 3] = ["json", "yaml", "yml"];

/// The manifests of a directory and the directories below it, sorted by path,
/// and all those directories. Names that begin with a dot stand apart:
/// editors keep their half-written copies there, and a mounted ConfigMap its
/// old versions. Symlinks are followed, each directory once. Only a failure of the directory
/// itself is an error; those below it are in [`DirectoryListing::unlisted`].
pub(in crate::source) fn walk(root: &Path) -> io::Result<DirectoryListing> {
    let mut listing = DirectoryListing::default();
    let mut seen = BTreeSet::new();
    let mut open = vec![root.to_owned()];
    while let Some(directory) = open.pop() {
        let entries = fs::canonicalize(&directory).and_then(|real| Ok((real, fs::read_dir(&directory)?)));
        let (real, entries) = match entries {
            Ok(found) => found,
            Err(error) if directory == root => return Err(error),
            // It went while the directory was listed.
            Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
            Err(error) => {
                listing.unlisted.push((directory, error));
                continue;
            }
        };
        // A symlink may lead back up.
        if !seen.insert(real) {
            continue;
        }
        for entry in entries {
            let entry = match entry {
                Ok(entry) => entry,
                Err(error) if directory == root => return Err(error),
                Err(error) => {
                    listing.unlisted.push((directory.clone(), error));
                    break;
                }
            };
            let path = entry.path();
            let name = entry.file_name();
            let name = name.as_encoded_bytes();
            let ending = path.extension().and_then(|e| e.to_str()).map(str::to_ascii_lowercase);
            let is_manifest = is_kustomization(name) || ending.is_some_and(|e| ENDINGS.contains(&e.as_str()));
            if name.starts_with(b".") {
                let is_of_an_editor = name.starts_with(b".#") || name.starts_with(b"._");
                if is_manifest && !is_of_an_editor && fs::metadata(&path).is_ok_and(|of| of.is_file()) {
                    listing.hidden.push(path);
                }
                continue;
            }
            match fs::metadata(&path) {
                Ok(metadata) if metadata.is_dir() => open.push(path),
                // A path without readable metadata is reported when it is read.
                _ if is_manifest => listing.files.push(path),
                _ => {}
            }
        }
        listing.directories.push(directory);
    }
    listing.files.sort_unstable();
    listing.hidden.sort_unstable();
    listing.directories.sort_unstable();
    listing.unlisted.sort_unstable_by(|(a, _), (b, _)| a.cmp(b));
    Ok(listing)
}

/// Whether a file of this name is one of those that kustomize reads by their name alone.
pub(super) fn is_kustomization(name: &[u8]) -> bool {
    matches!(name, b"kustomization.yaml" | b"kustomization.yml" | b"Kustomization")
}

/// What a directory holds.
#[derive(Debug, Default)]
pub(in crate::source) struct DirectoryListing {
    pub(in crate::source) files: Vec<PathBuf>,
    /// The manifests whose names begin with a dot, which kubectl reads and an agent does not;
    /// without what Emacs (`.#`) and macOS (`._`) write beside a file.
    pub(in crate::source) hidden: Vec<PathBuf>,
    pub(in crate::source) directories: Vec<PathBuf>,
    /// The directories below that cannot be listed, and why; what they hold is not known.
    pub(in crate::source) unlisted: Vec<(PathBuf, io::Error)>,
}

impl DirectoryListing {
    /// With the hidden manifests among the others, as kubectl reads a directory.
    pub(super) fn with_hidden(mut self) -> Self {
        self.files.append(&mut self.hidden);
        self.files.sort_unstable();
        self
    }
}

/// Reads a regular file of at most so many bytes.
///
/// # Errors
/// If it cannot be read, is longer, or is no regular file: a pipe would never end, and a
/// device holds no objects.
pub(in crate::source) fn read_regular(path: &Path, limit: u64) -> io::Result<Vec<u8>> {
    read_bounded(open_regular(path, limit)?, limit)
}

/// Opens a file as [`read_regular`] does.
pub(super) fn open_regular(path: &Path, limit: u64) -> io::Result<File> {
    // Opening may have effects of its own, so look first; and again at what was opened.
    check_regular(fs::metadata(path)?.file_type())?;
    let flags = OFlags::NONBLOCK | OFlags::NOCTTY;
    let flags = i32::try_from(flags.bits()).unwrap_or_default();
    let file = OpenOptions::new().read(true).custom_flags(flags).open(path)?;
    let metadata = file.metadata()?;
    check_regular(metadata.file_type())?;
    if metadata.len() > limit {
        return Err(too_long(limit));
    }
    Ok(file)
}

/// Texts of at least this many bytes are checked for long lists.
const LONG: u64 = 1 << 20;

/// Whether a path leads to a regular file that is long.
pub(super) fn is_long(path: &Path) -> bool {
    fs::metadata(path).is_ok_and(|of| of.is_file() && of.len() >= LONG)
}

/// Whether a text is long.
pub(super) fn is_long_text(bytes: usize) -> bool {
    u64::try_from(bytes).is_ok_and(|bytes| bytes >= LONG)
}

/// Reads to the end, if that comes within so many bytes.
pub(super) fn read_bounded(from: impl Read, limit: u64) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    from.take(limit + 1).read_to_end(&mut bytes)?;
    let is_within = u64::try_from(bytes.len()).is_ok_and(|length| length <= limit);
    if is_within { Ok(bytes) } else { Err(too_long(limit)) }
}

fn too_long(limit: u64) -> io::Error {
    let message = format!("it is longer than {} MiB, the most that is read of one file; split it", limit >> 20);
    io::Error::new(io::ErrorKind::FileTooLarge, message)
}

fn check_regular(kind: FileType) -> io::Result<()> {
    let what = match kind {
        _ if kind.is_file() => return Ok(()),
        _ if kind.is_fifo() => "a pipe (FIFO)",
        _ if kind.is_socket() => "a socket",
        _ if kind.is_char_device() || kind.is_block_device() => "a device",
        _ => "no file",
    };
    let message = format!("it is {what}, and only regular files are read; remove it, or give it another name");
    Err(io::Error::new(io::ErrorKind::InvalidInput, message))
}
