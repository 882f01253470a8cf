//! The ports of a group's rules: those that are to be named, and in which portions.

use std::sync::Arc;

use crate::algebra::traffic::PortSet;
use crate::cluster::group::{Admitted, Atom};

/// How many ports one multiport match takes; a range counts two.
const MULTIPORT_SLOTS: usize = 15;

/// The ports of tunnels that these would admit without naming them, except those that everyone's
/// rules name.
pub(super) fn unnamed_tunnels<'a>(
    of_anyone: &[(&Atom, &Arc<Admitted>)],
    all: impl Iterator<Item = &'a Admitted>,
) -> PortSet {
    let named = PortSet::union_of(of_anyone.iter().map(|(_, admitted)| &admitted.tunnels));
    let unnamed: Vec<PortSet> = all.map(Admitted::unnamed_tunnel_ports).collect();
    PortSet::union_of(&unnamed).difference(&named)
}

/// The ports for a rule that no packet to what everyone is admitted to meets: without these, unless that takes
/// more rules. Otherwise a tenant could have thousands of ranges divided by thousands of ports.
pub(super) fn beyond(ports: &PortSet, to_anyone: &PortSet) -> PortSet {
    let others = ports.difference(to_anyone);
    if count_of_chunks(&others) <= count_of_chunks(ports) { others } else { ports.clone() }
}

/// The ports for a rule that no packet to some of them meets, those in either set: with
/// or without these, as is shorter to say.
pub(super) fn without(ports: &PortSet, asked: &PortSet, also_asked: &PortSet) -> PortSet {
    let others = ports.difference(asked).difference(also_asked);
    if others.is_empty() || others.ranges().len() < ports.ranges().len() { others } else { ports.clone() }
}

/// How many portions [`chunks`] makes.
pub(super) fn count_of_chunks(ports: &PortSet) -> u64 {
    let (mut count, mut free) = (0, 0);
    for (first, last) in ports.ranges() {
        let slots = if first == last { 1 } else { 2 };
        if slots > free {
            count += 1;
            free = MULTIPORT_SLOTS;
        }
        free -= slots;
    }
    count
}

/// Ports in portions that fit one match.
pub(super) fn chunks(ports: &PortSet) -> Vec<Vec<(u16, u16)>> {
    let mut chunks: Vec<Vec<(u16, u16)>> = Vec::new();
    let mut free = 0;
    for &(first, last) in ports.ranges() {
        let slots = if first == last { 1 } else { 2 };
        if slots > free {
            chunks.push(Vec::new());
            free = MULTIPORT_SLOTS;
        }
        free -= slots;
        if let Some(chunk) = chunks.last_mut() {
            chunk.push((first, last));
        }
    }
    chunks
}
