//! What may come from the interfaces of pods, as the lab has wired them: the
//! answer that an agent has to find by itself.

use std::collections::BTreeSet;

use npc_compiler::object::Family;
use npc_compiler::plan::KernelState;
use npc_compiler::ruleset::constants::POD_GROUP;
use npc_compiler::ruleset::node::{InterfaceName, Member, SetName};

use super::error::{Error, Result};
use super::{Mode, Place};

/// The interface on its node behind which a pod is.
fn interface(mode: Mode, number: usize) -> String {
    match mode {
        Mode::Routed => format!("azv{number}"),
        Mode::Bridge => "cbr0".to_owned(),
    }
}

fn pods_of(places: &[Place], node: usize) -> impl Iterator<Item = (usize, &Place)> {
    places.iter().enumerate().filter(move |(_, place)| place.node() == Some(node))
}

/// Fills the sets of what may come from interfaces, where a state has them.
pub(super) fn fill(state: &mut KernelState, (places, mode): (&[Place], Mode), node: usize) {
    for (family, held) in [(Family::V4, &mut state.v4), (Family::V6, &mut state.v6)] {
        let Some((_, members)) = held.sets.get_mut(&SetName::own(family)) else { continue };
        for (number, pod) in pods_of(places, node) {
            let addresses = pod.addresses.iter().filter(|address| Family::of(address) == family);
            let name = InterfaceName::new(&interface(mode, number));
            members.extend(addresses.filter_map(|address| Some(Member::of_interface((*address).into(), name?))));
        }
    }
}

/// The interfaces of the pods of a node.
pub(super) fn interfaces((places, mode): (&[Place], Mode), node: usize) -> BTreeSet<String> {
    pods_of(places, node).filter(|(_, pod)| !pod.addresses.is_empty()).map(|(n, _)| interface(mode, n)).collect()
}

/// The interfaces of a node that are in the device group of pods, as ip(8) says.
pub(super) fn in_group(node: &Place) -> Result<BTreeSet<String>> {
    let group = POD_GROUP.to_string();
    let listed = node.netns.exec(["ip", "-oneline", "link", "show", "group", &group], "")?;
    let name = |line: &str| {
        let name = line.split(": ").nth(1)?;
        Some(name.split('@').next().unwrap_or(name).to_owned())
    };
    let names: Option<_> = listed.lines().map(name).collect();
    names.ok_or_else(|| Error::Cluster(format!("ip prints links in a way that is not known: {listed}")))
}
