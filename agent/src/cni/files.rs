//! What lies beside the agent's socket: the sandboxes that it saves for the next one, and the notes
//! that the plugin leaves while no agent answers.

use std::io;
use std::path::PathBuf;

use npc_cni::moment::Moment;
use npc_cni::note::{self, Note, NoteFile};
use npc_cni::protocol::Attachment;
use serde::Serialize;
use tracing::{error, info, warn};

use super::sandbox::Saved;
use super::saved::{Error, StateFile};
use crate::metrics::Cni;
use crate::status::SharedStatus;
use crate::words::causes::with_causes;

/// The files beside an agent's socket.
#[derive(Debug)]
pub(super) struct Files {
    sandboxes: StateFile,
    socket: PathBuf,
    metrics: Cni,
    status: SharedStatus,
    /// Whether the last write succeeded; nothing before the first one.
    is_saved: Option<bool>,
}

impl Files {
    /// Those beside this socket. Whether they can be written is said there.
    pub(super) fn beside(socket: PathBuf, metrics: Cni, status: SharedStatus) -> Self {
        Self { sandboxes: StateFile::beside(&socket), socket, metrics, status, is_saved: None }
    }

    /// What an earlier agent saved.
    pub(super) fn saved(&self) -> Result<Saved, Error> {
        self.sandboxes.read()
    }

    /// Saves what the next agent has to know. If it cannot be written, pods start all the same: on a node whose
    /// `/run` is full, none would start otherwise.
    pub(super) fn save(&mut self, saved: impl Serialize) {
        let written = self.sandboxes.write(saved);
        let is_saved = Some(written.is_ok());
        let before = std::mem::replace(&mut self.is_saved, is_saved);
        if before == is_saved {
            return;
        }
        self.metrics.saves(written.is_ok());
        self.status.update(|status| status.cni_saved = is_saved);
        match written {
            Ok(()) if before.is_some() => info!("what CNI reported is saved again"),
            Ok(()) => {}
            Err(error) => error!(
                error = with_causes(&error),
                "cannot save what CNI reported; an agent that starts now goes by the addresses that the API reports, so a \
                 pod whose address is not listed yet is open then; trying again each second"
            ),
        }
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
