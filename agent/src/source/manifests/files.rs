//! Which files there are to read.

use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

/// The file endings that are read in a directory, as kubectl does.
const ENDINGS: [&str; 3] = ["json", "yaml", "yml"];

/// The manifests of a directory and the directories below it, sorted by path,
/// and all those directories. Names that begin with a dot are passed over:
/// editors keep their half-written copies there, and a mounted ConfigMap its
/// old versions. Symlinks are followed, each directory once.
pub(in crate::source) fn walk(root: &Path) -> io::Result<Listing> {
    let mut listing = Listing::default();
    let mut seen = BTreeSet::new();
    let mut open = vec![root.to_owned()];
    while let Some(directory) = open.pop() {
        let entries = fs::canonicalize(&directory).and_then(|real| Ok((real, fs::read_dir(&directory)?)));
        let (real, entries) = match entries {
            Ok(found) => found,
            // It went while we looked.
            Err(error) if error.kind() == io::ErrorKind::NotFound && directory != root => continue,
            Err(error) => return Err(error),
        };
        // A symlink may lead back up.
        if !seen.insert(real) {
            continue;
        }
        for entry in entries {
            let entry = entry?;
            if entry.file_name().as_encoded_bytes().starts_with(b".") {
                continue;
            }
            let path = entry.path();
            let ending = path.extension().and_then(|e| e.to_str()).map(str::to_ascii_lowercase);
            let is_manifest = ending.is_some_and(|e| ENDINGS.contains(&e.as_str()));
            match fs::metadata(&path) {
                Ok(metadata) if metadata.is_dir() => open.push(path),
                // What cannot be looked at is reported when it is read.
                _ if is_manifest => listing.files.push(path),
                _ => {}
            }
        }
        listing.directories.push(directory);
    }
    listing.files.sort_unstable();
    listing.directories.sort_unstable();
    Ok(listing)
}

/// What a directory holds.
#[derive(Debug, Default, PartialEq, Eq)]
pub(in crate::source) struct Listing {
    pub(in crate::source) files: Vec<PathBuf>,
    pub(in crate::source) directories: Vec<PathBuf>,
}
