//! Which sandboxes have ended that a plugin still reports.

use npc_cni::protocol::{Add, Answer, Reason};
use tracing::info;

use super::links::SeenLinks;
use super::pending::Pending;

/// What the kernel says of the interfaces of these ADDs on the node.
pub(super) fn links_of<'a>(adds: impl Iterator<Item = &'a Add>) -> SeenLinks {
    SeenLinks::look(adds.filter_map(|add| add.host_interface.as_ref()).map(|link| link.index).collect())
}

/// Whether the interface of an ADD on the node is gone. One with another name may be the same: to take it
/// for another would leave a pod open that runs.
pub(super) fn has_lost_its_interface(add: &Add, seen: &SeenLinks) -> bool {
    add.host_interface.as_ref().is_some_and(|link| seen.is_gone(link))
}

/// Those of these ADDs whose interface is there. The others are refused: their sandbox has ended,
/// and the network may have given its address to another one.
pub(super) fn without_ended(mut ready: Vec<Pending>) -> Vec<Pending> {
    let seen = links_of(ready.iter().map(|pending| &pending.add));
    for pending in ready.extract_if(.., |pending| has_lost_its_interface(&pending.add, &seen)) {
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
