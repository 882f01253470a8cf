//! The kernel of the node that a command runs on, and the options by which its rules were made.

pub(super) mod options;

use npc_agent::dataplane::backend::{self, Backend};
use npc_agent::dataplane::{self, Kernel as _, Linux};
use npc_compiler::object::Family;
use npc_compiler::plan::{Delta, KernelState};

/// The packet filter that holds chains of ours; where none does, the one that
/// an agent would take.
pub(super) fn open() -> Result<(Linux, KernelState), dataplane::Error> {
    let mut kernel = Linux::open(None)?;
    let mut actual = kernel.read()?;
    let is_empty = |actual: &KernelState| Family::ALL.iter().all(|family| actual.family(*family).chains.is_empty());
    let others = Backend::ALL.into_iter().filter(|other| *other != kernel.backend());
    for other in others.filter(|other| backend::is_live(*other, Family::V4)).collect::<Vec<_>>() {
        if is_empty(&actual) {
            let mut tried = Linux::open(Some(other))?;
            let found = tried.read()?;
            if !is_empty(&found) {
                (kernel, actual) = (tried, found);
            }
        }
    }
    Ok((kernel, actual))
}

/// How many rules, and members and kinds of sets, are in one state and not in the other.
pub(super) fn distance(one: &KernelState, other: &KernelState) -> usize {
    let of_family = |family| {
        let (one, other) = (one.family(family), other.family(family));
        Delta::between(one, other).size(one)
    };
    Family::ALL.into_iter().map(of_family).sum()
}
