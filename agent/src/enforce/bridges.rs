//! Bridges behind which endpoints of this node reach each other past iptables.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use npc_compiler::object::Family;
use npc_compiler::plan::KernelState;
use npc_compiler::policy::Direction;
use npc_compiler::ruleset::node::SetName;

use crate::dataplane::network::Network;

/// A bridge with endpoints of this node behind it, where iptables filters no frame that goes from
/// one port to another.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct UnfilteredBridge {
    /// Its name.
    pub bridge: String,
    /// The family whose frames iptables does not filter.
    pub family: Family,
    /// How many ports it has, at most two of them counted.
    pub ports: u8,
    /// How many of the endpoints behind it are isolated.
    pub isolated: usize,
}

impl UnfilteredBridge {
    /// Whether packets get past policies there: from one port to another, to or from an
    /// isolated endpoint. Otherwise no policy applies between the ports.
    #[must_use]
    pub fn evades_policies(&self) -> bool {
        self.ports > 1 && self.isolated > 0
    }

    /// What distinguishes it from others; it stays the same when other fields change.
    pub(super) fn key(&self) -> (&str, Family) {
        (&self.bridge, self.family)
    }
}

/// Those of the bridges with these endpoints behind them where frames pass without iptables now.
pub(super) fn unfiltered(
    network: &Network,
    endpoints: impl Iterator<Item = IpAddr>,
    state: &KernelState,
) -> BTreeSet<UnfilteredBridge> {
    if network.bridged.is_empty() {
        return BTreeSet::new();
    }
    let mut behind = BTreeMap::<(&str, Family), usize>::new();
    for address in endpoints {
        if let Some(bridge) = network.bridge_of(address) {
            *behind.entry((bridge, Family::of(&address))).or_default() += usize::from(is_isolated(state, address));
        }
    }
    let of = |((name, family), isolated): ((&str, Family), usize)| {
        let bridge = network.bridges.get(name).copied().unwrap_or_default();
        let ports = bridge.ports;
        (!bridge.is_filtered(family)).then(|| UnfilteredBridge { bridge: name.to_owned(), family, ports, isolated })
    };
    behind.into_iter().filter_map(of).collect()
}

fn is_isolated(state: &KernelState, address: IpAddr) -> bool {
    let family = Family::of(&address);
    let state = state.family(family);
    Direction::ALL.into_iter().any(|direction| state.has_address(&SetName::isolated(family, direction), address))
}
