//! The file by which an agent knows what CNI reported to the one before it. It is on the
//! node's tmpfs, so it is gone after a reboot, as the sandboxes are.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use npc_cni::file;
use npc_cni::note::SANDBOXES;
use serde::{Deserialize, Serialize};

use super::sandboxes::Saved;

/// The version of its content.
const VERSION: u32 = 1;

/// More than a node's sandboxes take.
const LONGEST: u64 = 64 << 20;

/// Why the file cannot be used.
#[derive(Debug, thiserror::Error)]
pub(super) enum Error {
    /// It cannot be read or written.
    #[error("cannot read or write {}", .0.display())]
    File(PathBuf, #[source] io::Error),
    /// It is not what an agent wrote.
    #[error("{} is not what an agent wrote: {what}", path.display())]
    Content {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        what: String,
    },
}

#[derive(Debug, Deserialize, Serialize)]
struct Content {
    version: u32,
    #[serde(flatten)]
    saved: Saved,
}

/// The file of an agent's sandboxes.
#[derive(Debug)]
pub(super) struct StateFile {
    path: PathBuf,
    written: Option<Saved>,
}

impl StateFile {
    /// That beside this socket.
    pub(super) fn beside(socket: &Path) -> Self {
        Self { path: socket.with_file_name(SANDBOXES), written: None }
    }

    /// Reads it. Where there is none, nothing is known.
    pub(super) fn read(&self) -> Result<Saved, Error> {
        let failed = |error| Error::File(self.path.clone(), error);
        let length = match fs::metadata(&self.path) {
            Ok(metadata) => metadata.len(),
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Saved::default()),
            Err(error) => return Err(failed(error)),
        };
        let wrong = |what: String| Error::Content { path: self.path.clone(), what };
        if length > LONGEST {
            return Err(wrong(format!("it has {length} bytes")));
        }
        let text = fs::read(&self.path).map_err(failed)?;
        let content: Content = serde_json::from_slice(&text).map_err(|error| wrong(error.to_string()))?;
        if content.version == VERSION {
            Ok(content.saved)
        } else {
            Err(wrong(format!("its version is {}, and {VERSION} is expected", content.version)))
        }
    }

    /// Writes it, if it holds something else. It is there whole, or as it was.
    pub(super) fn write(&mut self, saved: Saved) -> Result<(), Error> {
        if self.written.as_ref() == Some(&saved) {
            return Ok(());
        }
        let content = Content { version: VERSION, saved };
        let half = self.path.with_extension("half");
        let text = serde_json::to_vec(&content).map_err(io::Error::from);
        if let Err(error) = text.and_then(|text| file::replace(&self.path, &half, 0o600, &text)) {
            self.written = None;
            return Err(Error::File(self.path.clone(), error));
        }
        self.written = Some(content.saved);
        Ok(())
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test that finds nothing has failed")]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read_and_what_is_damaged_is_an_error() {
        let folder = tempfile::tempdir().unwrap();
        let mut file = StateFile::beside(&folder.path().join("cni.sock"));
        assert_eq!(file.read().unwrap(), Saved::default());
        let address = "10.0.0.1".parse().unwrap();
        let saved = Saved { reported_addresses: [("u1".to_owned(), [address].into())].into(), ..Saved::default() };
        file.write(saved.clone()).unwrap();
        assert_eq!(file.read().unwrap(), saved);
        let path = folder.path().join(SANDBOXES);
        for damage in ["", "{", "[]", r#"{"version":2}"#, r#"{"version":1,"sandboxes":[{}]}"#] {
            fs::write(&path, damage).unwrap();
            assert!(matches!(file.read(), Err(Error::Content { .. })), "{damage}");
        }
        file.write(Saved::default()).unwrap();
        assert_eq!(file.read().unwrap(), Saved::default());
    }

    #[test]
    fn what_cannot_be_written_leaves_what_was_there() {
        let folder = tempfile::tempdir().unwrap();
        let mut file = StateFile::beside(&folder.path().join("cni.sock"));
        file.write(Saved::default()).unwrap();
        fs::create_dir(folder.path().join("sandboxes.half")).unwrap();
        let address = "10.0.0.1".parse().unwrap();
        let saved = Saved { reported_addresses: [("u1".to_owned(), [address].into())].into(), ..Saved::default() };
        assert!(file.write(saved).is_err());
        assert_eq!(file.read().unwrap(), Saved::default());
    }
}
