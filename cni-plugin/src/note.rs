//! Notes for an agent that is away: a file for each attachment, which holds the last
//! request about it. The agent reads and removes them.

use std::fs::{self, DirBuilder, DirEntry};
use std::io;
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use rustix::io::Errno;
use serde::{Deserialize, Serialize};

use crate::check::check;
use crate::file;
use crate::moment::Moment;
use crate::protocol::{Attachment, LONGEST_REQUEST, Request};

/// The folder beside the socket.
const FOLDER: &str = "notes";

/// The file beside the socket in which the agent saves the sandboxes that it knows.
pub const SANDBOXES: &str = "sandboxes.json";

/// How many bytes that file may have: more than a node's sandboxes take.
pub const LONGEST_SANDBOXES: usize = 64 << 20;

/// How the name of a note ends.
const SUFFIX: &str = ".json";

/// How the name of a note ends that is being written.
const HALF: &str = "half";

/// A half note is that of a plugin that was killed, if it is this old. Writing one takes
/// milliseconds.
const ABANDONED: Duration = Duration::from_secs(60);

/// A request that the plugin could not make.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Note {
    /// What it would have asked.
    pub request: Request,
    /// When it left the note.
    pub left: Moment,
}

/// The file of a note, as it was when the note was read.
#[derive(Debug)]
pub struct NoteFile {
    /// Where it is.
    pub path: PathBuf,
    identity: Option<Identity>,
}

/// Device, number, size and time of a file: a plugin that leaves another note makes another file.
type Identity = (u64, u64, u64, Option<SystemTime>);

/// What became of the file of a note.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Removal {
    /// It is removed.
    Removed,
    /// The plugin left another note in its place, which is there to be read.
    Replaced,
    /// The plugin removed it: the sandbox had its DEL, and no agent had saved it.
    Missing,
}

impl NoteFile {
    fn at(path: PathBuf) -> Self {
        let identity = identity(&path);
        Self { path, identity }
    }

    /// Removes the file that was read, and no other that the plugin put in its place.
    ///
    /// # Errors
    /// If it cannot be removed.
    pub fn remove(&self) -> io::Result<Removal> {
        // Nothing replaces what has this name: plugins have the number of their process there.
        let aside = self.path.with_extension(format!("read.{HALF}"));
        match fs::rename(&self.path, &aside) {
            Ok(()) => {}
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Removal::Missing),
            Err(error) => return Err(error),
        }
        let is_same = self.identity.is_some() && identity(&aside) == self.identity;
        let removal = if is_same {
            Removal::Removed
        } else {
            match fs::hard_link(&aside, &self.path) {
                Ok(()) => Removal::Replaced,
                // There is a still newer one.
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Removal::Replaced,
                // Where the file system knows no links.
                Err(_) => return fs::rename(&aside, &self.path).map(|()| Removal::Replaced),
            }
        };
        fs::remove_file(&aside).map(|()| removal)
    }
}

fn identity(path: &Path) -> Option<Identity> {
    let metadata = fs::symlink_metadata(path).ok()?;
    Some((metadata.dev(), metadata.ino(), metadata.len(), metadata.modified().ok()))
}

/// Whether this is an error of the file itself: it has what is no note, or is no regular file. Any other may
/// pass, as that the process has too many files open.
#[must_use]
pub fn is_damaged(error: &io::Error) -> bool {
    // What opening a link and a socket gives.
    let of_kind = [Errno::LOOP, Errno::NXIO].map(Errno::raw_os_error);
    matches!(error.kind(), io::ErrorKind::InvalidData | io::ErrorKind::UnexpectedEof)
        || error.raw_os_error().is_some_and(|errno| of_kind.contains(&errno))
}

/// The content of a note.
#[derive(Serialize, Deserialize)]
struct Content<R> {
    #[serde(flatten)]
    request: R,
    /// When it was left; older plugins do not say it.
    #[serde(default)]
    left: Option<Moment>,
}

/// The folder of the notes for the agent that has this socket.
#[must_use]
pub fn folder(socket: &Path) -> PathBuf {
    socket.parent().unwrap_or_else(|| Path::new("/")).join(FOLDER)
}

/// The file of the note about an attachment. Neither part has a slash, and only the
/// interface may have an `@`, so no two attachments have one file.
#[must_use]
pub fn path(folder: &Path, attachment: &Attachment) -> PathBuf {
    folder.join(format!("{}@{}{SUFFIX}", attachment.container_id, attachment.interface))
}

/// Leaves a note, in place of an earlier one about the same attachment. It is there
/// whole or not at all.
///
/// # Errors
/// If it cannot be written.
pub fn leave(socket: &Path, attachment: &Attachment, request: &Request) -> io::Result<()> {
    let folder = folder(socket);
    DirBuilder::new().recursive(true).mode(0o700).create(&folder)?;
    let path = path(&folder, attachment);
    let half = path.with_extension(format!("{}.{HALF}", std::process::id()));
    let content = Content { request, left: Some(Moment::now()) };
    file::replace(&path, &half, 0o600, &serde_json::to_vec(&content)?)
}

/// Leaves a note about a sandbox that is gone, if an agent may know it. What no agent has
/// read of it is removed. So the folder grows no further than what the agent knew, however
/// long it is away.
///
/// # Errors
/// If it cannot be written.
pub fn leave_gone(socket: &Path, attachment: &Attachment, request: &Request) -> io::Result<()> {
    let is_known = match file::read(&socket.with_file_name(SANDBOXES), LONGEST_SANDBOXES) {
        // As JSON has it. No character of an id is escaped there.
        Ok(text) => String::from_utf8_lossy(&text).contains(&format!("\"{}\"", attachment.container_id)),
        Err(error) => error.kind() != io::ErrorKind::NotFound,
    };
    if !is_known {
        match fs::remove_file(path(&folder(socket), attachment)) {
            Ok(()) => return Ok(()),
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            Err(_) => {}
        }
    }
    leave(socket, attachment, request)
}

/// The note about an attachment, with its file, if there is one.
#[must_use]
pub fn about(socket: &Path, attachment: &Attachment) -> Option<(NoteFile, io::Result<Note>)> {
    let file = NoteFile::at(path(&folder(socket), attachment));
    file.identity?;
    let note = read_one(&file.path);
    Some((file, note))
}

/// The notes that were left, each with its file. What cannot be read as one comes as
/// an error with its file, which is to be removed too if it [`is_damaged`].
///
/// # Errors
/// If the folder cannot be read. One that is not there has no notes.
pub fn read_all(socket: &Path) -> io::Result<Vec<(NoteFile, io::Result<Note>)>> {
    read(socket, usize::MAX)
}

/// At most so many of the notes, in no order among all: of an attachment there is one.
///
/// Removes half notes of plugins that were killed while they wrote: no later plugin replaces
/// them, because their names have the number of a process.
///
/// # Errors
/// As [`read_all`].
pub fn read(socket: &Path, most: usize) -> io::Result<Vec<(NoteFile, io::Result<Note>)>> {
    let entries = match fs::read_dir(folder(socket)) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(error),
    };
    let mut notes = Vec::new();
    for entry in entries {
        if notes.len() >= most {
            break;
        }
        let entry = entry?;
        let path = entry.path();
        // It would take the place of a note for ever, because nothing removes it.
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            continue;
        }
        if path.as_os_str().as_encoded_bytes().ends_with(SUFFIX.as_bytes()) {
            // Before it is read: if another one takes its place meanwhile, that one stays to be read again.
            let file = NoteFile::at(path);
            let note = read_one(&file.path);
            notes.push((file, note));
        } else if path.extension().is_some_and(|extension| extension == HALF) && is_abandoned(&entry) {
            // If it cannot be removed now, the next round tries again.
            let _ = fs::remove_file(&path);
        }
    }
    notes.sort_by(|(one, _), (other, _)| one.path.cmp(&other.path));
    Ok(notes)
}

/// Whether nothing has written to a file for long. A clock that was set back makes it young.
fn is_abandoned(entry: &DirEntry) -> bool {
    let age = entry.metadata().and_then(|metadata| metadata.modified()).map(|modified| modified.elapsed());
    matches!(age, Ok(Ok(age)) if age >= ABANDONED)
}

fn read_one(path: &Path) -> io::Result<Note> {
    let (request, left) = parse(&file::read(path, LONGEST_REQUEST)?)?;
    let now = Moment::now();
    // One that is to come is of an earlier start of the node, where the folder outlived that.
    let left = left.filter(|left| *left <= now).unwrap_or_else(|| now.before(age(path)));
    Ok(Note { request, left })
}

/// What a note says: the request, and when it was left if it has that.
pub(crate) fn parse(text: &[u8]) -> io::Result<(Request, Option<Moment>)> {
    let Content { request, left }: Content<Request> = serde_json::from_slice(text)?;
    check(&request.command).map_err(|what| io::Error::new(io::ErrorKind::InvalidData, what))?;
    Ok((request, left))
}

/// How old a file is by the clock that an operator can set.
fn age(path: &Path) -> Duration {
    let modified = fs::metadata(path).and_then(|metadata| metadata.modified()).ok();
    modified.and_then(|modified| SystemTime::now().duration_since(modified).ok()).unwrap_or_default()
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test that finds nothing has failed")]
mod tests {
    use super::*;
    use crate::protocol::Command;

    fn request(id: &str) -> (Attachment, Request) {
        let attachment = Attachment { container_id: id.to_owned(), interface: "eth0".to_owned() };
        (attachment.clone(), Request::new(Command::Delete { attachment }))
    }

    #[test]
    fn a_note_replaces_the_one_before_and_half_ones_do_not_count() {
        let folder_of_socket = tempfile::tempdir().unwrap();
        let socket = folder_of_socket.path().join("run/cni.sock");
        assert_eq!(read_all(&socket).unwrap().len(), 0);
        let (attachment, delete) = request("a");
        for _ in 0..2 {
            leave(&socket, &attachment, &delete).unwrap();
        }
        fs::write(folder(&socket).join("b@eth0.17.half"), "{").unwrap();
        fs::write(folder(&socket).join("c@eth0.json"), "{").unwrap();
        let notes = read_all(&socket).unwrap();
        let read: Vec<_> = notes.iter().map(|(_, note)| note.as_ref().ok().map(|note| &note.request)).collect();
        assert_eq!(read, [Some(&delete), None]);
    }

    /// An operator may set the clock by which files have their times.
    #[test]
    fn a_note_says_when_it_was_left_and_of_an_older_plugins_its_file_does() {
        let folder_of_socket = tempfile::tempdir().unwrap();
        let socket = folder_of_socket.path().join("run/cni.sock");
        let (attachment, delete) = request("a");
        let path = path(&folder(&socket), &attachment);
        let hour = Duration::from_secs(3600);
        let (now, begun) = (SystemTime::now(), Moment::now());
        leave(&socket, &attachment, &delete).unwrap();
        let left = |modified: SystemTime| {
            fs::File::options().write(true).open(&path).unwrap().set_modified(modified).unwrap();
            let [(_, note)] = <[_; 1]>::try_from(read_all(&socket).unwrap()).unwrap();
            let note = note.unwrap();
            assert_eq!(note.request, delete);
            note.left
        };
        let first = left(now);
        assert!((begun..=Moment::now()).contains(&first));
        assert_eq!([left(now - hour), left(now + hour)], [first; 2]);
        let older = serde_json::to_string(&delete).unwrap();
        // What is to come says nothing.
        for content in [older.clone(), older.replace('}', &format!(",\"left\":{}}}", u64::MAX))] {
            fs::write(&path, content).unwrap();
            assert!(left(now - hour) <= Moment::now().before(hour));
            assert!(left(SystemTime::now() + hour) >= begun);
        }
    }

    #[test]
    fn a_half_note_of_a_plugin_that_was_killed_is_removed_and_a_young_one_is_not() {
        let folder_of_socket = tempfile::tempdir().unwrap();
        let socket = folder_of_socket.path().join("run/cni.sock");
        let (attachment, delete) = request("a");
        leave(&socket, &attachment, &delete).unwrap();
        let [old, young, other] =
            ["b@eth0.17.half", "c@eth0.18.half", "unknown"].map(|name| folder(&socket).join(name));
        for (file, age) in [(&old, ABANDONED), (&young, Duration::ZERO), (&other, ABANDONED)] {
            let written = fs::File::create(file).unwrap();
            written.set_modified(std::time::SystemTime::now() - age).unwrap();
        }
        assert_eq!(read_all(&socket).unwrap().len(), 1);
        assert_eq!([old, young, other].map(|file| file.exists()), [false, true, true]);
    }

    #[test]
    fn what_is_no_file_in_the_folder_of_notes_holds_up_no_reader_and_no_note() {
        let folder_of_socket = tempfile::tempdir().unwrap();
        let socket = folder_of_socket.path().join("run/cni.sock");
        let (attachment, delete) = request("z");
        leave(&socket, &attachment, &delete).unwrap();
        let at = |name: &str| folder(&socket).join(name);
        fs::create_dir(at("a@eth0.json")).unwrap();
        std::os::unix::fs::symlink(at("z@eth0.json"), at("b@eth0.json")).unwrap();
        let pipe = rustix::fs::FileType::Fifo;
        rustix::fs::mknodat(rustix::fs::CWD, at("c@eth0.json"), pipe, 0o600.into(), 0).unwrap();
        let notes = read_all(&socket).unwrap();
        let read: Vec<_> = notes.iter().map(|(file, note)| (file.path.file_name().unwrap(), note.is_ok())).collect();
        assert_eq!(
            read,
            [("b@eth0.json".as_ref(), false), ("c@eth0.json".as_ref(), false), ("z@eth0.json".as_ref(), true)]
        );
        // The folder, which the agent does not remove, takes no note's place.
        fs::remove_file(at("b@eth0.json")).unwrap();
        fs::remove_file(at("c@eth0.json")).unwrap();
        assert_eq!(count_of_one(&socket), 1);
    }

    #[test]
    fn only_the_note_that_was_read_is_removed() {
        let folder_of_socket = tempfile::tempdir().unwrap();
        let socket = folder_of_socket.path().join("run/cni.sock");
        let (attachment, delete) = request("a");
        let read = || <[_; 1]>::try_from(read_all(&socket).unwrap()).unwrap();
        leave(&socket, &attachment, &delete).unwrap();
        let [(old, _)] = read();
        // The same content, as a later DEL of it leaves.
        leave(&socket, &attachment, &delete).unwrap();
        assert_eq!(old.remove().unwrap(), Removal::Replaced);
        let [(new, note)] = read();
        assert_eq!(note.unwrap().request, delete);
        assert_eq!(new.remove().unwrap(), Removal::Removed);
        assert_eq!(new.remove().unwrap(), Removal::Missing);
        assert_eq!(fs::read_dir(folder(&socket)).unwrap().count(), 0, "nothing is left aside");
    }

    #[test]
    fn an_error_that_may_pass_is_none_of_the_note() {
        let folder_of_socket = tempfile::tempdir().unwrap();
        let socket = folder_of_socket.path().join("run/cni.sock");
        let (attachment, delete) = request("a");
        leave(&socket, &attachment, &delete).unwrap();
        let at = |name: &str| folder(&socket).join(name);
        fs::remove_file(at("a@eth0.json")).unwrap();
        fs::write(at("a@eth0.json"), "{").unwrap();
        fs::write(at("b@eth0.json"), "7").unwrap();
        fs::write(at("c@eth0.json"), "x".repeat(LONGEST_REQUEST + 1)).unwrap();
        std::os::unix::fs::symlink(at("a@eth0.json"), at("d@eth0.json")).unwrap();
        let _socket = std::os::unix::net::UnixListener::bind(at("e@eth0.json")).unwrap();
        let notes = read_all(&socket).unwrap();
        assert_eq!(notes.len(), 5);
        for (file, note) in notes {
            assert!(is_damaged(&note.unwrap_err()), "{file:?}");
        }
        for errno in [Errno::MFILE, Errno::NFILE, Errno::NOMEM, Errno::IO, Errno::ACCESS, Errno::NOENT] {
            assert!(!is_damaged(&errno.into()), "{errno}");
        }
    }

    fn count_of_one(socket: &Path) -> usize {
        read(socket, 1).unwrap().iter().filter(|(_, note)| note.is_ok()).count()
    }
}
