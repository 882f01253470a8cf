//! Which sandboxes have ended that a plugin still reports.

use std::collections::BTreeSet;

use npc_cni::protocol::{Add, Answer, Reason};
use tracing::{info, warn};

use super::pending::Pending;
use crate::dataplane::links;
use crate::words::causes::with_causes;

/// Those of these interfaces of sandboxes that are not there any more; none if the kernel cannot be
/// asked.
pub(super) fn gone_links(links: BTreeSet<u32>) -> BTreeSet<u32> {
    links::gone(links).unwrap_or_else(|error| {
        warn!(error = with_causes(&error), "cannot find out which interfaces of sandboxes are gone");
        BTreeSet::new()
    })
}

/// The interfaces of these ADDs on the node that are not there any more.
pub(super) fn gone_of<'a>(adds: impl Iterator<Item = &'a Add>) -> BTreeSet<u32> {
    gone_links(adds.filter_map(index).collect())
}

/// Whether the interface of an ADD is among these that are gone.
pub(super) fn has_lost_its_interface(add: &Add, gone: &BTreeSet<u32>) -> bool {
    index(add).is_some_and(|index| gone.contains(&index))
}

fn index(add: &Add) -> Option<u32> {
    add.host_interface.as_ref().map(|link| link.index)
}

/// Those of these ADDs whose interface is there. The others are refused: their sandbox has ended,
/// and the network may have given its address to another one.
pub(super) fn without_ended(mut ready: Vec<Pending>) -> Vec<Pending> {
    let gone = gone_of(ready.iter().map(|pending| &pending.add));
    for pending in ready.extract_if(.., |pending| has_lost_its_interface(&pending.add, &gone)) {
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
