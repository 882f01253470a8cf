//! What the kernel says of the interfaces that sandboxes have or had on the node.

use std::collections::{BTreeMap, BTreeSet};

use npc_cni::protocol::{Add, HostInterface};
use tracing::warn;

use crate::dataplane::links;
use crate::words::causes::with_causes;

/// The names of interfaces by their indexes, as they are now; none of an interface that is gone.
///
/// The kernel gives an index to a new interface once, but one that comes from another network namespace keeps
/// its own if that is free. So an index may be another interface's than the one that CNI reported.
#[derive(Debug, Default)]
pub struct SeenLinks(BTreeMap<u32, Option<String>>);

impl SeenLinks {
    /// Looks for the interfaces with these indexes. If the kernel cannot be asked, nothing is known of them.
    pub(super) fn look(indexes: BTreeSet<u32>) -> Self {
        Self(links::names(indexes).unwrap_or_else(|error| {
            warn!(error = with_causes(&error), "cannot find out which interfaces of sandboxes are gone");
            BTreeMap::new()
        }))
    }

    /// Whether no interface has this index any more.
    pub(super) fn is_gone(&self, link: &HostInterface) -> bool {
        self.0.get(&link.index) == Some(&None)
    }

    /// Whether the interface with this index has this name.
    pub(super) fn shows(&self, link: &HostInterface) -> bool {
        self.0.get(&link.index).is_some_and(|name| name.as_ref() == Some(&link.name))
    }

    /// Whether an interface with another name has this index: another one, or the same that a program gave
    /// another name.
    pub(super) fn has_other_name(&self, link: &HostInterface) -> bool {
        self.0.get(&link.index).is_some_and(|name| name.as_ref().is_some_and(|name| *name != link.name))
    }

    /// Whether no interface of the node shows if the sandbox of this ADD is there.
    pub(super) fn says_nothing_of(&self, add: &Add) -> bool {
        add.host_interface.as_ref().is_none_or(|link| self.has_other_name(link))
    }
}

#[cfg(test)]
impl<const N: usize> From<[(u32, Option<&str>); N]> for SeenLinks {
    fn from(names: [(u32, Option<&str>); N]) -> Self {
        Self(names.into_iter().map(|(index, name)| (index, name.map(str::to_owned))).collect())
    }
}
