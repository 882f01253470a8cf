//! Notes for an agent that is away: a file for each attachment, which holds the last
//! request about it. The agent reads and removes them.

use std::fs::{self, DirBuilder, DirEntry};
use std::io;
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

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

/// The notes that were left, each with its file. What cannot be read as one comes as
/// an error with its file, which is to be removed too.
///
/// # Errors
/// If the folder cannot be read. One that is not there has no notes.
pub fn read_all(socket: &Path) -> io::Result<Vec<(PathBuf, io::Result<Note>)>> {
    read(socket, usize::MAX)
}

/// At most so many of the notes, in no order among all: of an attachment there is one.
///
/// Removes half notes of plugins that were killed while they wrote: no later plugin replaces
/// them, because their names have the number of a process.
///
/// # Errors
/// As [`read_all`].
pub fn read(socket: &Path, most: usize) -> io::Result<Vec<(PathBuf, io::Result<Note>)>> {
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
            notes.push((path.clone(), read_one(&path)));
        } else if path.extension().is_some_and(|extension| extension == HALF) && is_abandoned(&entry) {
            // If it cannot be removed now, the next round tries again.
            let _ = fs::remove_file(&path);
        }
    }
    notes.sort_by(|(one, _), (other, _)| one.cmp(other));
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
        let read: Vec<_> = notes.iter().map(|(path, note)| (path.file_name().unwrap(), note.is_ok())).collect();
        assert_eq!(
            read,
            [("b@eth0.json".as_ref(), false), ("c@eth0.json".as_ref(), false), ("z@eth0.json".as_ref(), true)]
        );
        // The folder, which the agent does not remove, takes no note's place.
        fs::remove_file(at("b@eth0.json")).unwrap();
        fs::remove_file(at("c@eth0.json")).unwrap();
        assert_eq!(count_of_one(&socket), 1);
    }

    fn count_of_one(socket: &Path) -> usize {
        read(socket, 1).unwrap().iter().filter(|(_, note)| note.is_ok()).count()
    }
}
