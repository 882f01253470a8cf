//! What lies beside the agent's socket: the sandboxes that it saves for the next one, and the notes
//! that the plugin leaves while no agent answers.

use std::io;
use std::path::PathBuf;

use npc_cni::moment::Moment;
use npc_cni::note::{self, Note, NoteFile};
use npc_cni::protocol::Attachment;
use serde::Serialize;
use tracing::warn;

use super::sandbox::Saved;
use super::saved::{Error, StateFile};

/// The files beside an agent's socket.
#[derive(Debug)]
pub(super) struct Files {
    sandboxes: StateFile,
    socket: PathBuf,
}

impl Files {
    /// Those beside this socket.
    pub(super) fn beside(socket: PathBuf) -> Self {
        Self { sandboxes: StateFile::beside(&socket), socket }
    }

    /// What an earlier agent saved.
    pub(super) fn saved(&self) -> Result<Saved, Error> {
        self.sandboxes.read()
    }

    /// Saves what the next agent has to know.
    pub(super) fn save(&mut self, saved: impl Serialize) -> Result<(), Error> {
        self.sandboxes.write(saved)
    }

    /// At most so many notes, each with its file.
    pub(super) fn notes(&self, most: usize) -> io::Result<Vec<(NoteFile, io::Result<Note>)>> {
        note::read(&self.socket, most)
    }

    /// Removes the note about an attachment, if there is one. One that was left after this moment stays: it is
    /// about what came then.
    pub(super) fn remove_note_of(&self, attachment: &Attachment, moment: Moment) {
        let Some((file, note)) = note::about(&self.socket, attachment) else { return };
        if note.is_ok_and(|note| note.left > moment) {
            return;
        }
        if let Err(error) = file.remove() {
            warn!(%error, file = %file.path.display(), "cannot remove a note of the CNI plugin");
        }
    }
}
