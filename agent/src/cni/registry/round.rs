//! What the registry finds out by itself, each round: sandboxes that ended without a DEL, and what the
//! plugin did while no agent answered.

use std::io;
use std::time::Duration;

use npc_cni::moment::Moment;
use npc_cni::note::{Note, Removal, is_damaged};
use npc_cni::protocol::{Add, Command, Request};
use tracing::{info, warn};

use super::{LONGEST, LoopEnded, Registry};
use crate::cni::ended::{has_lost_its_interface, links_of};
use crate::cni::links::SeenLinks;

/// How many notes are read in a round: so many hold up no ADD for long.
const NOTES: usize = 1_000;

impl Registry {
    /// Finds interfaces that are gone, notes that the plugin left, and policies that the
    /// watch should have delivered.
    pub(super) async fn inspect(&mut self) -> Result<(), LoopEnded> {
        for namespace in self.policies.overdue() {
            let now = self.policies.now();
            self.lists.want(&namespace, now, &mut self.policies);
        }
        self.deleted.forget_before(Moment::now().before(LONGEST));
        self.sandboxes.age();
        // Before the notes: the network may have given an address of a sandbox that has ended to one of these. It
        // would be isolated for a moment, and its connections cut, as if both had it.
        let links = SeenLinks::look(self.sandboxes.links());
        let netns = self.netns.gone(self.sandboxes.netns_without_link(&links));
        let ended = self.sandboxes.links_gone(&links) + self.sandboxes.netns_gone(&netns, &links);
        if ended > 0 {
            info!(ended, "sandboxes are gone, and there was no DEL");
        }
        self.read_notes().await?;
        self.publish().await
    }

    /// The plugin left a note about a pod that it let start.
    fn started_without_an_agent(&mut self, add: Add, left: Moment) {
        let began = left.before(Duration::from_millis(add.waited));
        if self.deleted.is_after(&add.attachment, began) {
            return;
        }
        let (namespace, pod) = (&add.namespace, &add.name);
        if add.open {
            warn!(
                namespace,
                pod, "this pod was started without an agent; its policies are enforced once its object is known"
            );
        } else {
            warn!(namespace, pod, "this pod was started without an agent; its policies are enforced from now on");
        }
        self.sandboxes.admit(add, began, true);
    }

    async fn read_notes(&mut self) -> Result<(), LoopEnded> {
        let notes = match self.files.notes(NOTES) {
            Ok(notes) => notes,
            Err(error) => {
                warn!(%error, "cannot read the notes of the CNI plugin");
                return Ok(());
            }
        };
        if notes.is_empty() {
            return Ok(());
        }
        let seen = links_of(notes.iter().filter_map(|(_, note)| match note {
            Ok(Note { request: Request { command: Command::Add(add), .. }, .. }) => Some(add),
            _ => None,
        }));
        let mut read = Vec::new();
        for (file, note) in notes {
            let mut added = None;
            match note.map(|Note { request, left }| (request.command, left)) {
                Ok((Command::Add(add), _)) if has_lost_its_interface(&add, &seen) => {}
                Ok((Command::Add(add), left)) => {
                    added = Some(add.attachment.clone());
                    self.started_without_an_agent(add, left);
                }
                Ok((Command::Delete { attachment }, left)) => self.removed(&attachment, left),
                Ok((Command::Check(_) | Command::Gc { .. }, _)) => {}
                Err(error) if is_damaged(&error) => {
                    warn!(%error, file = %file.path.display(), "a note of the CNI plugin cannot be read; it is removed");
                }
                // A DEL removed it meanwhile.
                Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
                Err(error) => {
                    warn!(%error, file = %file.path.display(), "cannot read a note of the CNI plugin; trying again");
                    continue;
                }
            }
            read.push((file, added));
        }
        self.publish().await?;
        // After their content is saved.
        for (file, added) in read {
            match file.remove() {
                Ok(Removal::Removed | Removal::Replaced) => {}
                // A DEL came that leaves no note, because the plugin found none that an agent had saved.
                Ok(Removal::Missing) => {
                    if let Some(attachment) = added {
                        self.removed(&attachment, Moment::now());
                    }
                }
                Err(error) => {
                    warn!(%error, file = %file.path.display(), "cannot remove a note of the CNI plugin");
                }
            }
        }
        Ok(())
    }
}
