//! Files that are there whole or not at all: how the agent and the plugin write each of
//! theirs.

use std::fs::{self, File};
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;

use rustix::fs::OFlags;

/// How often another program may put something in the temporary file's place. One time is
/// what an agent left that was killed.
const TRIES: usize = 3;

/// Puts a file with this content and mode, less the umask, in place of the one at `path`. A reader
/// gets the old one or the new one.
///
/// `temporary` is a name in the same folder. A file or link of that name is removed first, and is
/// never written to or followed. Another program may have put a link there, if others may write to
/// the folder. A link at `path` is replaced, not followed.
///
/// # Errors
/// If the file cannot be written. Then `path` is as it was, and `temporary` is gone.
pub fn replace(path: &Path, temporary: &Path, mode: u32, content: &[u8]) -> io::Result<()> {
    let mut file = create(temporary, mode)?;
    let written = file.write_all(content).and_then(|()| fs::rename(temporary, path));
    if written.is_err() {
        // It is of no use, and takes room.
        let _ = fs::remove_file(temporary);
    }
    written
}

/// Reads a file of at most so many bytes. A link, a pipe and a device are none, so no program that
/// put one in its place holds up the reader.
///
/// # Errors
/// If it cannot be read, is no regular file, or is longer.
pub fn read(path: &Path, longest: usize) -> io::Result<Vec<u8>> {
    let wrong = |what: &str| io::Error::new(io::ErrorKind::InvalidData, what);
    let file = File::options().read(true).custom_flags(flags(OFlags::NOFOLLOW | OFlags::NONBLOCK)).open(path)?;
    if !file.metadata()?.is_file() {
        return Err(wrong("it is no regular file"));
    }
    let most = longest as u64 + 1;
    let mut bytes = Vec::new();
    file.take(most).read_to_end(&mut bytes)?;
    if bytes.len() > longest { Err(wrong("it is too long")) } else { Ok(bytes) }
}

fn flags(flags: OFlags) -> i32 {
    flags.bits().cast_signed()
}

/// Makes a file that was not there.
fn create(path: &Path, mode: u32) -> io::Result<File> {
    let mut left = TRIES;
    loop {
        // O_EXCL: it opens nothing that is there, a link neither.
        match File::options().write(true).create_new(true).custom_flags(flags(OFlags::NOFOLLOW)).mode(mode).open(path) {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists && left > 0 => left -= 1,
            result => return result,
        }
        match fs::remove_file(path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test that finds nothing has failed")]
mod tests {
    use std::os::unix::fs::{PermissionsExt as _, symlink};

    use super::*;

    #[test]
    fn a_link_in_either_place_is_replaced_and_its_target_stays() {
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name);
        for (target, linked) in [("passwd", at("file")), ("shadow", at("file.new"))] {
            fs::write(at(target), "root\n").unwrap();
            symlink(at(target), linked).unwrap();
        }
        replace(&at("file"), &at("file.new"), 0o600, b"1\n").unwrap();
        for (name, content) in [("passwd", "root\n"), ("shadow", "root\n"), ("file", "1\n")] {
            assert_eq!(fs::read_to_string(at(name)).unwrap(), content, "{name}");
        }
        let metadata = fs::symlink_metadata(at("file")).unwrap();
        assert!(metadata.is_file());
        assert_eq!(metadata.permissions().mode() & 0o777, 0o600);
        assert!(!at("file.new").exists());
    }

    #[test]
    fn what_a_killed_writer_left_is_in_no_ones_way() {
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name);
        fs::write(at("file.new"), "much more than what comes now").unwrap();
        replace(&at("file"), &at("file.new"), 0o600, b"1\n").unwrap();
        assert_eq!(fs::read_to_string(at("file")).unwrap(), "1\n");
    }

    #[test]
    fn only_a_regular_file_that_is_short_enough_is_read() {
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name);
        fs::write(at("file"), "1234").unwrap();
        symlink(at("file"), at("link")).unwrap();
        rustix::fs::mknodat(rustix::fs::CWD, at("pipe"), rustix::fs::FileType::Fifo, 0o600.into(), 0).unwrap();
        assert_eq!(read(&at("file"), 4).unwrap(), b"1234");
        assert_eq!(read(&at("file"), 3).unwrap_err().kind(), io::ErrorKind::InvalidData);
        assert_eq!(read(&at("none"), 4).unwrap_err().kind(), io::ErrorKind::NotFound);
        for name in ["link", "pipe", "."] {
            assert!(read(&at(name), 4).is_err(), "{name}");
        }
    }

    #[test]
    fn what_cannot_be_written_leaves_the_file_as_it_was() {
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name);
        replace(&at("file"), &at("file.new"), 0o600, b"1\n").unwrap();
        fs::create_dir(at("file.new")).unwrap();
        assert!(replace(&at("file"), &at("file.new"), 0o600, b"2\n").is_err());
        assert_eq!(fs::read_to_string(at("file")).unwrap(), "1\n");
        fs::create_dir(at("folder")).unwrap();
        assert!(replace(&at("folder"), &at("folder.new"), 0o600, b"2\n").is_err());
        assert!(!at("folder.new").exists());
    }
}
