//! The runtime's folder and that of its plugins: reading, and writing so that no program
//! ever finds half a file.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File, Metadata, Permissions};
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use rustix::fs::{FlockOperation, OFlags, flock};

use npc_cni::configuration::{LONGEST_FILE, MOST_FILES, names_itself};

use super::conflist::{TYPE, is_read};
use super::decision::FileContent;

/// What an operator adds to the name of our file to have no plugin on a node.
const OFF: &str = ".off";

/// Something that is no regular file is where a file of ours belongs.
#[derive(Debug, thiserror::Error)]
#[error("{} is {what}, and was left alone; remove it", .path.display())]
pub struct NotAFile {
    path: PathBuf,
    what: &'static str,
}

/// A folder of network configurations.
#[derive(Debug)]
pub struct Folder {
    path: PathBuf,
    own: String,
}

/// Held while one installer works on a folder.
#[derive(Debug)]
pub struct Lock {
    _folder: File,
}

/// Whether a folder was removed. Another one may be at its path on the node, which this mount
/// does not show.
#[must_use]
pub fn is_removed(path: &Path) -> bool {
    fs::metadata(path).is_ok_and(|metadata| metadata.nlink() == 0)
}

impl Folder {
    /// The folder at a path, in which one file is ours.
    #[must_use]
    pub fn new(path: &Path, own: &str) -> Self {
        Self { path: path.to_owned(), own: own.to_owned() }
    }

    /// Claims it. `None` while another installer has it. The kernel releases it when the
    /// process ends, however that ends.
    ///
    /// # Errors
    /// If the folder is not there.
    pub fn claim(&self) -> io::Result<Option<Lock>> {
        let folder = File::open(&self.path)?;
        match flock(&folder, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => Ok(Some(Lock { _folder: folder })),
            Err(error) if error == rustix::io::Errno::WOULDBLOCK => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    /// The files that a runtime reads, by name.
    ///
    /// # Errors
    /// If the folder cannot be read, or has too many files.
    pub fn read(&self) -> io::Result<BTreeMap<String, FileContent>> {
        let mut files = BTreeMap::new();
        for entry in fs::read_dir(&self.path)? {
            let Ok(name) = entry?.file_name().into_string() else { continue };
            if !is_read(&name) {
                continue;
            }
            if files.len() == MOST_FILES {
                return Err(io::Error::other(format!("{} has more than {MOST_FILES} files", self.path.display())));
            }
            if let Some(content) = self.content(&name) {
                files.insert(name, content);
            }
        }
        Ok(files)
    }

    /// `None` for what a runtime passes over, and for a file that went meanwhile.
    fn content(&self, name: &str) -> Option<FileContent> {
        let path = self.path.join(name);
        let is_own = name == self.own;
        let metadata = match fs::symlink_metadata(&path) {
            Ok(metadata) => metadata,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return None,
            Err(error) => return Some(FileContent::Unreadable(error.to_string())),
        };
        if is_own && !metadata.is_file() {
            return Some(FileContent::Special(what(&metadata)));
        }
        match read(&path) {
            Ok(bytes) => Some(FileContent::Bytes(bytes)),
            Err(Failed::Special("a folder")) => None,
            Err(Failed::Special(what)) => Some(FileContent::Special(what)),
            Err(Failed::Io(error)) if error.kind() == io::ErrorKind::NotFound && metadata.is_symlink() => Some(
                FileContent::Unreadable("it is a link to a file that is not there, or not in this folder".to_owned()),
            ),
            Err(Failed::Io(error)) if error.kind() == io::ErrorKind::NotFound => None,
            Err(Failed::Io(error)) => Some(FileContent::Unreadable(error.to_string())),
        }
    }

    /// The file that an operator moved aside: ours, or one that an installer of ours wrote under
    /// another name.
    #[must_use]
    pub fn off(&self) -> Option<String> {
        let own = format!("{}{OFF}", self.own);
        if fs::symlink_metadata(self.path.join(&own)).is_ok() {
            return Some(own);
        }
        // While ours is there, one of another name says nothing: that name may have been given up long ago.
        let has_own = fs::symlink_metadata(self.path.join(&self.own)).is_ok();
        if has_own { None } else { self.formers_off().into_iter().next() }
    }

    /// Files that an installer of ours wrote under another name and an operator moved aside.
    fn formers_off(&self) -> BTreeSet<String> {
        let is_former = |name: &String| {
            let Some(of) = name.strip_suffix(OFF).filter(|of| is_read(of)) else { return false };
            read(&self.path.join(name)).is_ok_and(|bytes| names_itself(&self.path.join(of), &bytes))
        };
        let entries = fs::read_dir(&self.path).into_iter().flatten().flatten().take(MOST_FILES);
        entries.filter_map(|entry| entry.file_name().into_string().ok()).filter(is_former).collect()
    }

    /// Writes our file. It is there whole, or as it was. It keeps its mode, and a new one has
    /// that of another file.
    ///
    /// # Errors
    /// If it cannot be written, or is a link or a folder.
    pub fn write(&self, text: &str, like: &str) -> io::Result<()> {
        let mode = |name: &str| fs::metadata(self.path.join(name)).map(|metadata| metadata.mode() & 0o777).ok();
        let mode = mode(&self.own).or_else(|| mode(like)).unwrap_or(0o600) | 0o400;
        replace(&self.path, &self.own, mode, text.as_bytes())
    }

    /// Removes our file. Answers whether it was there.
    ///
    /// # Errors
    /// If it cannot be removed, or is a link or a folder.
    pub fn remove(&self) -> io::Result<bool> {
        remove(&self.path, &self.own)
    }

    /// Removes a file that an installer of ours wrote under another name, with one of that name
    /// that was not completed. Answers whether it was there.
    ///
    /// # Errors
    /// If it cannot be removed, or is a link or a folder.
    pub fn remove_former(&self, name: &str) -> io::Result<bool> {
        remove(&self.path, &half(name))?;
        remove(&self.path, name)
    }

    /// Removes what is ours beside our file: one that was moved aside, or was not completed.
    ///
    /// # Errors
    /// If it cannot be removed.
    pub fn remove_leftovers(&self) -> io::Result<()> {
        for name in self.formers_off().into_iter().chain([format!("{}{OFF}", self.own), half(&self.own)]) {
            remove(&self.path, &name)?;
        }
        Ok(())
    }
}

/// Puts the plugin into the folder of plugins, if another one or none is there. A process
/// that runs the old one keeps it. Answers whether it was written.
///
/// # Errors
/// If it cannot be read or written, or a link or a folder is in its place.
pub fn install_plugin(from: &Path, folder: &Path) -> io::Result<bool> {
    let new = fs::read(from).map_err(|error| io::Error::new(error.kind(), format!("{}: {error}", from.display())))?;
    let target = folder.join(TYPE);
    match fs::symlink_metadata(&target) {
        Ok(metadata) if !metadata.is_file() => return Err(not_a_file(&target, &metadata)),
        Ok(metadata) => {
            let is_same = metadata.len() == new.len() as u64 && fs::read(&target)? == new;
            if is_same && metadata.mode() & 0o777 == 0o755 {
                return Ok(false);
            }
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => return Err(error),
    }
    replace(folder, TYPE, 0o755, &new)?;
    Ok(true)
}

/// The names of the plugins in some folders. A link counts: what it leads to may be elsewhere on
/// the node, where this container has no access to it. `None` if one of the folders cannot be read,
/// or has too many files.
#[must_use]
pub fn plugins(folders: &[&Path]) -> Option<BTreeSet<String>> {
    let mut names = BTreeSet::new();
    for folder in folders {
        for (number, entry) in fs::read_dir(folder).ok()?.enumerate() {
            if number == MOST_FILES {
                return None;
            }
            let entry = entry.ok()?;
            if entry.file_type().is_ok_and(|kind| kind.is_file() || kind.is_symlink()) {
                names.extend(entry.file_name().into_string());
            }
        }
    }
    Some(names)
}

/// Removes the plugin. Answers whether it was there.
///
/// # Errors
/// If it cannot be removed, or a link or a folder is in its place.
pub fn remove_plugin(folder: &Path) -> io::Result<bool> {
    remove(folder, &half(TYPE))?;
    remove(folder, TYPE)
}

/// The name of a file that is being written. A runtime reads none that ends so.
fn half(name: &str) -> String {
    format!(".{name}.new")
}

fn replace(folder: &Path, name: &str, mode: u32, bytes: &[u8]) -> io::Result<()> {
    let (new, target) = (folder.join(half(name)), folder.join(name));
    if let Ok(metadata) = fs::symlink_metadata(&target)
        && !metadata.is_file()
    {
        return Err(not_a_file(&target, &metadata));
    }
    // What an installer left that was killed.
    let _ = fs::remove_file(&new);
    let write = || {
        let mut file = File::options().write(true).create_new(true).mode(0o600).open(&new)?;
        file.write_all(bytes)?;
        // The umask must not change the mode.
        file.set_permissions(Permissions::from_mode(mode))?;
        file.sync_all()?;
        // The kernel runs no program that a process has open for writing (ETXTBSY), and a runtime
        // may run this one as soon as it has its name.
        drop(file);
        fs::rename(&new, &target)?;
        File::open(folder)?.sync_all()
    };
    write().inspect_err(|_| {
        // It is of no use, and takes room.
        let _ = fs::remove_file(&new);
    })
}

fn remove(folder: &Path, name: &str) -> io::Result<bool> {
    let path = folder.join(name);
    match fs::symlink_metadata(&path) {
        Ok(metadata) if !metadata.is_file() => return Err(not_a_file(&path, &metadata)),
        Ok(_) => {}
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(false),
        Err(error) => return Err(error),
    }
    match fs::remove_file(path) {
        Ok(()) => {}
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(false),
        Err(error) => return Err(error),
    }
    File::open(folder)?.sync_all()?;
    Ok(true)
}

fn not_a_file(path: &Path, metadata: &Metadata) -> io::Error {
    io::Error::other(NotAFile { path: path.to_owned(), what: what(metadata) })
}

fn what(metadata: &Metadata) -> &'static str {
    if metadata.is_symlink() {
        "a link"
    } else if metadata.is_dir() {
        "a folder"
    } else {
        "no regular file"
    }
}

enum Failed {
    Special(&'static str),
    Io(io::Error),
}

/// A regular file, with one byte more than a configuration may have if it is too long.
fn read(path: &Path) -> Result<Vec<u8>, Failed> {
    // A pipe must not hold us.
    let nonblock = OFlags::NONBLOCK.bits().cast_signed();
    let file = File::options().read(true).custom_flags(nonblock).open(path).map_err(Failed::Io)?;
    let metadata = file.metadata().map_err(Failed::Io)?;
    if !metadata.is_file() {
        return Err(Failed::Special(what(&metadata)));
    }
    let mut bytes = Vec::new();
    file.take(LONGEST_FILE + 1).read_to_end(&mut bytes).map_err(Failed::Io)?;
    Ok(bytes)
}

#[cfg(test)]
#[path = "folder_tests.rs"]
mod tests;
