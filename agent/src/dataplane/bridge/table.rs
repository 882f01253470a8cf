//! The table as messages, and read back.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::super::nftables::own_table::{self, OwnTable};
use super::super::nftables::{Attributes, Error, Request, Socket, family};
use super::chains::{BridgeChain, BridgeSet, CHAINS, PRIORITY};
use super::rules;
use super::{BridgeTable, EthernetAddress};

/// The table.
pub(super) const OWN: OwnTable = OwnTable { family: family::BRIDGE, name: "npc" };

/// What one message may carry of members, in bytes: an attribute ends at 64 KiB.
const LIMIT: usize = 16 << 10;

/// What the kernel has under the table's name.
#[derive(Debug)]
pub(super) enum ActualBridgeTable {
    /// No table.
    Absent,
    /// A table of ours, and what it says.
    Sound(BridgeTable),
    /// Chains, rules or sets other than ours, in these words.
    Changed(&'static str),
}

/// A member of a set as the kernel has it.
type ElementKey = Vec<u8>;

/// Reads it. A change while it is read shows in the next generation.
pub(super) fn read(socket: &mut Socket) -> Result<ActualBridgeTable, Error> {
    match OWN.head(socket)? {
        None => return Ok(ActualBridgeTable::Absent),
        Some(head) if head.flags == 0 => {}
        Some(_) => return Ok(ActualBridgeTable::Changed("it is dormant, or has another flag")),
    }
    let listed = read_parts(socket);
    match listed {
        // It went meanwhile.
        Err(error) if error.is_absent() => Ok(ActualBridgeTable::Absent),
        listed => listed,
    }
}

fn read_parts(socket: &mut Socket) -> Result<ActualBridgeTable, Error> {
    if !OWN.has_chains(socket, CHAINS.iter().map(made))? {
        return Ok(ActualBridgeTable::Changed("its chains are others"));
    }
    if OWN.sets(socket, &BridgeSet::ALL.map(as_own))?.is_none() {
        return Ok(ActualBridgeTable::Changed("its sets are others"));
    }
    let rules = rules::rules();
    for one in CHAINS {
        let desired = rules.iter().filter(|(chain, _)| *chain == one).map(|(_, rule)| rule);
        if OWN.rules(socket, one.name, desired)?.is_none() {
            return Ok(ActualBridgeTable::Changed("its rules are others"));
        }
    }
    let mut actual = BridgeTable::default();
    for one in BridgeSet::ALL {
        for key in OWN.members(socket, one.name())? {
            if !take(&mut actual, one, &key) {
                return Ok(ActualBridgeTable::Changed("a set has a member that npc did not write"));
            }
        }
    }
    Ok(ActualBridgeTable::Sound(actual))
}

/// A chain as it is made.
fn made(chain: &BridgeChain) -> own_table::BaseChain<'static> {
    (chain.name, chain.hook.map(|hook| (hook, PRIORITY)))
}

/// A set as it is made.
fn as_own(set: BridgeSet) -> own_table::TableSet {
    // For nft, which would take indexes for numbers in the order of the network: the key's byte order
    // (0), four bytes, is the machine's (1).
    const NATIVE_ORDER: [u8; 6] = {
        let [a, b, c, d] = 1_u32.to_ne_bytes();
        [0, 4, a, b, c, d]
    };
    own_table::TableSet {
        name: set.name(),
        key_type: set.key_type(),
        key_length: u32::try_from(set.key_length()).unwrap_or(u32::MAX),
        flags: 0,
        size: None,
        userdata: (set.key_length() == 4).then_some(&NATIVE_ORDER),
    }
}

/// Takes a member in. Returns whether it is one that we could have written.
fn take(actual: &mut BridgeTable, set: BridgeSet, key: &[u8]) -> bool {
    let Some((port, rest)) = key.split_at_checked(4) else { return false };
    let Ok(port) = port.try_into().map(u32::from_ne_bytes) else { return false };
    match (set, rest.len()) {
        (BridgeSet::Ports, 0) => actual.ports.insert(port),
        (BridgeSet::Pinned, 0) => actual.pinned.insert(port),
        (BridgeSet::Guarded, 0) => actual.guarded.insert(port),
        (BridgeSet::Confined, 0) => actual.confined.insert(port),
        (BridgeSet::Known, 0) => actual.known.insert(port),
        (BridgeSet::Senders, 8) => {
            let mut address = EthernetAddress::default();
            address.copy_from_slice(&rest[..6]);
            actual.senders.insert((port, address))
        }
        (BridgeSet::Addresses4, 4) => <[u8; 4]>::try_from(rest)
            .is_ok_and(|address| actual.addresses.insert((port, IpAddr::V4(Ipv4Addr::from(address))))),
        (BridgeSet::Addresses6, 16) => <[u8; 16]>::try_from(rest)
            .is_ok_and(|address| actual.addresses.insert((port, IpAddr::V6(Ipv6Addr::from(address))))),
        _ => false,
    }
}

/// The members of a set.
fn members(table: &BridgeTable, set: BridgeSet) -> BTreeSet<ElementKey> {
    // The kernel compares indexes in this machine's order.
    let of_ports = |ports: &BTreeSet<u32>| ports.iter().map(|port| port.to_ne_bytes().to_vec()).collect();
    let of = |port: u32, address: &[u8]| {
        let mut key = port.to_ne_bytes().to_vec();
        key.extend_from_slice(address);
        key.resize(set.key_length(), 0);
        key
    };
    let addresses = table.addresses.iter();
    match set {
        BridgeSet::Ports => of_ports(&table.ports),
        BridgeSet::Pinned => of_ports(&table.pinned),
        BridgeSet::Guarded => of_ports(&table.guarded),
        BridgeSet::Confined => of_ports(&table.confined),
        BridgeSet::Known => of_ports(&table.known),
        BridgeSet::Senders => table.senders.iter().map(|(port, address)| of(*port, address)).collect(),
        BridgeSet::Addresses4 => addresses
            .filter_map(|(port, address)| match address {
                IpAddr::V4(address) => Some(of(*port, &address.octets())),
                IpAddr::V6(_) => None,
            })
            .collect(),
        BridgeSet::Addresses6 => addresses
            .filter_map(|(port, address)| match address {
                IpAddr::V6(address) => Some(of(*port, &address.octets())),
                IpAddr::V4(_) => None,
            })
            .collect(),
    }
}

/// The writes, to be committed at once, from what is there to what is desired;
/// `None` is there where it is not known, or not ours.
pub(super) fn batch(actual: Option<&BridgeTable>, desired: &BridgeTable) -> Vec<Request> {
    let nothing = BridgeTable::default();
    let actual = match actual {
        Some(actual) if !actual.is_empty() && !desired.is_empty() => actual,
        Some(actual) if actual == desired => return Vec::new(),
        there => {
            let mut batch = Vec::new();
            if there.is_none_or(|there| !there.is_empty()) {
                batch.extend(OWN.removal());
            }
            if desired.is_empty() {
                return batch;
            }
            batch.extend(make_all());
            batch.extend(changes(&nothing, desired));
            return batch;
        }
    };
    changes(actual, desired)
}

/// The changes of members.
fn changes(actual: &BridgeTable, desired: &BridgeTable) -> Vec<Request> {
    let mut batch = Vec::new();
    for set in BridgeSet::ALL {
        let (actual, desired) = (members(actual, set), members(desired, set));
        let added: Vec<&ElementKey> = desired.difference(&actual).collect();
        let removed: Vec<&ElementKey> = actual.difference(&desired).collect();
        let in_one = LIMIT / (set.key_length() + 16);
        batch.extend(added.chunks(in_one).map(|keys| OWN.add(set.name(), keys)));
        batch.extend(removed.chunks(in_one).map(|keys| OWN.remove_members(set.name(), keys)));
    }
    batch
}

/// The table with its sets, chains and rules.
fn make_all() -> Vec<Request> {
    let mut batch = vec![OWN.make()];
    batch.extend((1..).zip(BridgeSet::ALL).map(|(number, set)| OWN.make_set(number, &as_own(set))));
    batch.extend(CHAINS.iter().map(|chain| OWN.make_chain(made(chain))));
    batch.extend(rules::rules().iter().map(|(chain, one)| OWN.make_rule(chain.name, one)));
    batch
}

/// Reads what may be answers of the kernel about the table: for fuzzing.
pub(in super::super) fn fuzz(data: &[u8]) {
    let rules = rules::rules();
    let rules: Vec<_> = rules.iter().map(|(_, rule)| rule).collect();
    for attributes in crate::dataplane::netlink::fuzz_input::attributes(data) {
        let mut actual = BridgeTable::default();
        for key in OWN.fuzz(Attributes(attributes), &rules) {
            let _ = BridgeSet::ALL.map(|set| take(&mut actual, set, &key));
        }
    }
}
