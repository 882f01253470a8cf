//! Notes for an agent that is away: a file for each attachment, which holds the last
//! request about it. The agent reads and removes them.

use std::fs::{self, DirBuilder};
use std::io;
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};

use crate::file;
use crate::protocol::{Attachment, LONGEST_REQUEST, Request};

/// The folder beside the socket.
const FOLDER: &str = "notes";

/// The file beside the socket in which the agent saves the sandboxes that it knows.
pub const SANDBOXES: &str = "sandboxes.json";

/// How the name of a note ends. Other files are half written.
const SUFFIX: &str = ".json";

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
    let half = path.with_extension(format!("{}.half", std::process::id()));
    file::replace(&path, &half, 0o600, &serde_json::to_vec(request)?)
}

/// Leaves a note about a sandbox that is gone, if an agent may know it. What no agent has
/// read of it is removed. So the folder grows no further than what the agent knew, however
/// long it is away.
///
/// # Errors
/// If it cannot be written.
pub fn leave_gone(socket: &Path, attachment: &Attachment, request: &Request) -> io::Result<()> {
    let is_known = match fs::read(socket.with_file_name(SANDBOXES)) {
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
pub fn read_all(socket: &Path) -> io::Result<Vec<(PathBuf, io::Result<Request>)>> {
    read(socket, usize::MAX)
}

/// At most so many of the notes, in no order among all: of an attachment there is one.
///
/// # Errors
/// As [`read_all`].
pub fn read(socket: &Path, most: usize) -> io::Result<Vec<(PathBuf, io::Result<Request>)>> {
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
        let path = entry?.path();
        if path.as_os_str().as_encoded_bytes().ends_with(SUFFIX.as_bytes()) {
            notes.push((path.clone(), read_one(&path)));
        }
    }
    notes.sort_by(|(one, _), (other, _)| one.cmp(other));
    Ok(notes)
}

fn read_one(path: &Path) -> io::Result<Request> {
    if fs::metadata(path)?.len() > LONGEST_REQUEST as u64 {
        return Err(io::Error::new(io::ErrorKind::InvalidData, "it is too long"));
    }
    Ok(serde_json::from_slice(&fs::read(path)?)?)
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
        let read: Vec<_> = notes.iter().map(|(_, note)| note.as_ref().ok()).collect();
        assert_eq!(read, [Some(&delete), None]);
    }
}
