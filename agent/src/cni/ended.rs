//! Which sandboxes have ended that a plugin still reports.

use std::collections::BTreeSet;
use std::path::Path;
use std::time::SystemTime;

use npc_cni::protocol::{Add, Answer, Reason};
use tracing::{info, warn};

use super::moment::Moment;
use super::pending::Pending;
use crate::causes::with_causes;
use crate::dataplane::links;

/// Whether the interface of an ADD was there and is not any more.
pub(super) fn has_lost_its_interface(add: &Add) -> bool {
    let Some(link) = &add.host_interface else { return false };
    links::gone([link.index].into()).is_ok_and(|gone| !gone.is_empty())
}

/// Those of these ADDs whose interface is there. The others are refused: their sandbox has ended,
/// and the network may have given its address to another one.
pub(super) fn without_ended(mut ready: Vec<Pending>) -> Vec<Pending> {
    let index = |add: &Add| add.host_interface.as_ref().map(|link| link.index);
    let gone = links::gone(ready.iter().filter_map(|pending| index(&pending.add)).collect()).unwrap_or_else(|error| {
        warn!(error = with_causes(&error), "cannot find out whether the interfaces of new sandboxes are there");
        BTreeSet::new()
    });
    if gone.is_empty() {
        return ready;
    }
    let is_gone = |add: &Add| index(add).is_some_and(|index| gone.contains(&index));
    for pending in ready.extract_if(.., |pending| is_gone(&pending.add)) {
        let Add { namespace, name, attachment, host_interface, .. } = pending.add;
        let link = host_interface.map(|link| link.name).unwrap_or_default();
        info!(
            namespace,
            pod = name,
            container = attachment.container_id,
            link,
            "refused an ADD: its sandbox has ended"
        );
        let words = format!("the sandbox's interface on the node, {link}, is not there any more");
        let _ = pending.answer.send(Answer::refused(Reason::Gone, words));
    }
    ready
}

/// When a note was left, by its file.
pub(super) fn left_at(path: &Path) -> Moment {
    let age = std::fs::metadata(path).and_then(|metadata| metadata.modified()).ok();
    let age = age.and_then(|modified| SystemTime::now().duration_since(modified).ok());
    Moment::now().before(age.unwrap_or_default())
}
