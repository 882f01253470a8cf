//! Text of a file that a fix changes and that other places share by a YAML anchor. The JSON patch is one
//! of the object, so it changes one place alone; an edit of the text changes all of them.

use json_patch::PatchOperation;
use npc_agent::source::manifests::Location;
use npc_compiler::verdict::fix::Change;

use super::path::path_of;
use super::written::reference;
use crate::command::input::Input;

/// Where the text stands that a change is made in, if other places may share it.
pub(super) fn shared_text(input: &Input, change: &Change) -> Option<Location> {
    let object = reference(&change.object);
    let mut operations = change.patch()?.0.iter().filter(|of| !matches!(of, PatchOperation::Test(_)));
    operations.find_map(|operation| input.loaded.positions.shared_text(&object, &path_of(operation, false)))
}

/// What to heed about it, in words.
pub(super) fn words(place: &Location) -> String {
    format!(
        "(that is the text of a YAML anchor, {place}, which other places may use: write it out here first; the JSON patch \
         changes this place alone)"
    )
}
