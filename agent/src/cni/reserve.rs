//! Room that is kept for what the next agent has to know, so that it can be saved also while the file
//! system is full.

use std::fs::{self, DirBuilder, File, OpenOptions, Permissions};
use std::io::{self, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _, OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use rustix::fs::{CWD, FallocateFlags, OFlags, RenameFlags, fallocate, renameat_with};

/// The least that is kept: what CNI reported of several hundred sandboxes.
const LEAST: u64 = 256 << 10;

/// Two files that have their room already. What is saved is written into one of them, which then changes
/// places with the one that was saved before. That one becomes the reserve, so its room goes to no other
/// program. Two, because the one that was saved before may be shorter.
#[derive(Debug)]
pub(super) struct Reserve([PathBuf; 2]);

impl Reserve {
    /// Files in this folder, on the file system of the file that is saved. None is made yet.
    pub(super) fn within(folder: &Path) -> Self {
        Self(["reserve-1", "reserve-2"].map(|name| folder.join(name)))
    }

    /// Makes the files for contents that grow to twice this length, if they are not there. If there is no room for
    /// them now, there may be later.
    pub(super) fn keep(&self, length: usize) {
        let wanted = (2 * length as u64).next_power_of_two().max(LEAST);
        for file in &self.0 {
            if room_of(file).is_none_or(|room| room < wanted) {
                // One that is shorter stays, because there may be no room for another.
                let _ = make(file, wanted);
            }
        }
    }

    /// Puts this content in place of the file at `path`, which readers find whole, with spaces after it.
    ///
    /// # Errors
    /// If there is no file that has room for it, or it cannot take that place.
    pub(super) fn replace(&self, path: &Path, content: &[u8]) -> io::Result<()> {
        let has_room = |file: &&PathBuf| room_of(file).is_some_and(|room| room >= content.len() as u64);
        let mut tried = Err(io::ErrorKind::StorageFull.into());
        for reserve in self.0.iter().filter(has_room) {
            tried = Self::replace_by(reserve, path, content);
            if tried.is_ok() {
                break;
            }
        }
        tried
    }

    fn replace_by(reserve: &Path, path: &Path, content: &[u8]) -> io::Result<()> {
        let room = usize::try_from(room_of(reserve).unwrap_or_default()).unwrap_or_default();
        let mut file = OpenOptions::new().write(true).custom_flags(no_follow()).open(reserve)?;
        // A file that was marked may have become the reserve. The next agent takes the mode for a mark.
        file.set_permissions(Permissions::from_mode(0o600))?;
        file.write_all(content)?;
        file.write_all(&vec![b' '; room.saturating_sub(content.len())])?;
        match renameat_with(CWD, reserve, CWD, path, RenameFlags::EXCHANGE) {
            Ok(()) => {}
            Err(rustix::io::Errno::NOENT) => return fs::rename(reserve, path),
            Err(error) => return Err(error.into()),
        }
        // The next agent takes the mode for a mark.
        let _ = fs::set_permissions(reserve, Permissions::from_mode(0o600));
        Ok(())
    }
}

/// How many bytes a file can take without more room; nothing if it is no file, or has gaps.
fn room_of(file: &Path) -> Option<u64> {
    let metadata = fs::symlink_metadata(file).ok()?;
    let is_writable = metadata.mode() & 0o200 != 0;
    let has_room = metadata.is_file() && is_writable && metadata.blocks() * 512 >= metadata.len();
    has_room.then_some(metadata.len())
}

fn no_follow() -> i32 {
    OFlags::NOFOLLOW.bits().cast_signed()
}

fn make(path: &Path, size: u64) -> io::Result<()> {
    if let Some(folder) = path.parent() {
        DirBuilder::new().recursive(true).mode(0o700).create(folder)?;
    }
    let new = path.with_extension("new");
    match fs::remove_file(&new) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let file = File::options().write(true).create_new(true).custom_flags(no_follow()).mode(0o600).open(&new)?;
    let allocated = fallocate(&file, FallocateFlags::empty(), 0, size).map_err(io::Error::from);
    let made = allocated.and_then(|()| fs::rename(&new, path));
    if made.is_err() {
        // It is of no use.
        let _ = fs::remove_file(&new);
    }
    made
}
