//! The table as messages, and read back.

use std::collections::BTreeSet;
use std::net::IpAddr;

use ipnetwork::IpNetwork;
use npc_compiler::object::Family;

use super::rules::{self, CHAINS, FlowIndexSet, MISSED, PRIORITY};
use crate::dataplane::netlink::attribute::ip_address;
use crate::dataplane::nftables::own_table::{self, OwnTable};
use crate::dataplane::nftables::{
    Attributes, Error, Request, Socket, WriteAttributes, counter, family, message, object,
};

/// The table, of both families.
pub(super) const OWN: OwnTable = OwnTable { family: family::INET, name: "npc" };

/// The flag of a set that packets write to (`NFT_SET_EVAL`).
const DYNAMIC: u32 = 32;

/// How many members one message has, and how many one commit.
const IN_MESSAGE: usize = 500;
const IN_COMMIT: usize = 8_000;

/// The numbers that the kernel gave to the table, its sets and its rules. A table that was made
/// again, or has a rule that was, has others.
pub(super) type TableHandles = Vec<u64>;

/// What the kernel has under the table's name.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum ActualIndexTable {
    /// No table.
    Absent,
    /// The table for a domain.
    Sound(TableHandles),
    /// Another one.
    Other,
}

/// Reads it. A change while it is read shows in the next generation.
pub(super) fn read(socket: &mut Socket, domain: &[IpNetwork]) -> Result<ActualIndexTable, Error> {
    match read_parts(socket, domain) {
        Err(error) if error.is_absent() => Ok(ActualIndexTable::Absent),
        read => read,
    }
}

fn read_parts(socket: &mut Socket, domain: &[IpNetwork]) -> Result<ActualIndexTable, Error> {
    let Some(head) = OWN.head(socket)? else { return Ok(ActualIndexTable::Absent) };
    let (0, Some(handle)) = (head.flags, head.handle) else { return Ok(ActualIndexTable::Other) };
    let mut identity = vec![handle];
    if !OWN.has_chains(socket, CHAINS.into_iter().map(made))? {
        return Ok(ActualIndexTable::Other);
    }
    let Some(sets) = OWN.sets(socket, &FlowIndexSet::ALL.map(as_own))? else { return Ok(ActualIndexTable::Other) };
    identity.extend(sets);
    let rules = rules::rules(domain);
    for (name, _) in CHAINS {
        let desired = rules.iter().filter(|(chain, _)| *chain == name).map(|(_, rule)| rule);
        let Some(handles) = OWN.rules(socket, name, desired)? else { return Ok(ActualIndexTable::Other) };
        identity.extend(handles);
    }
    Ok(ActualIndexTable::Sound(identity))
}

/// A chain as it is made.
fn made((name, hook): (&'static str, Option<u32>)) -> own_table::BaseChain<'static> {
    (name, hook.map(|hook| (hook, PRIORITY)))
}

/// A set as it is made.
fn as_own(set: FlowIndexSet) -> own_table::TableSet {
    own_table::TableSet {
        name: set.name(),
        key_type: set.key_type(),
        key_length: set.key_length(),
        flags: DYNAMIC,
        size: Some(set.size()),
        userdata: None,
    }
}

/// Whether an address is noted.
pub(super) fn has(socket: &mut Socket, address: IpAddr) -> Result<bool, Error> {
    OWN.has(socket, set_of(address).name(), &octets(address))
}

/// Whether an address of a family could not be noted.
pub(super) fn is_short(socket: &mut Socket, of: Family) -> Result<bool, Error> {
    OWN.has(socket, FlowIndexSet::Short.name(), &[family::of(of)])
}

/// From now on it shows anew whether an address of a family cannot be noted.
pub(super) fn clear_short(socket: &mut Socket, of: Family) -> Result<(), Error> {
    socket.commit(&[OWN.remove_members(FlowIndexSet::Short.name(), [[family::of(of)]])])
}

/// All that are noted.
pub(super) fn noted(socket: &mut Socket) -> Result<BTreeSet<IpAddr>, Error> {
    let mut all = BTreeSet::new();
    for set in [FlowIndexSet::V4, FlowIndexSet::V6] {
        all.extend(OWN.members(socket, set.name())?.iter().filter_map(|member| ip_address(member)));
    }
    Ok(all)
}

const fn set_of(address: IpAddr) -> FlowIndexSet {
    match address {
        IpAddr::V4(_) => FlowIndexSet::V4,
        IpAddr::V6(_) => FlowIndexSet::V6,
    }
}

fn octets(address: IpAddr) -> Vec<u8> {
    match address {
        IpAddr::V4(v4) => v4.octets().to_vec(),
        IpAddr::V6(v6) => v6.octets().to_vec(),
    }
}

/// Adds addresses, or removes them, which must be there then.
pub(super) fn change(socket: &mut Socket, addresses: &BTreeSet<IpAddr>, add: bool) -> Result<(), Error> {
    let mut batch = Vec::new();
    for one in [FlowIndexSet::V4, FlowIndexSet::V6] {
        let of_set: Vec<Vec<u8>> =
            addresses.iter().filter(|address| set_of(**address) == one).map(|address| octets(*address)).collect();
        batch.extend(of_set.chunks(IN_MESSAGE).map(|addresses| {
            if add { OWN.add(one.name(), addresses) } else { OWN.remove_members(one.name(), addresses) }
        }));
    }
    batch.chunks(IN_COMMIT / IN_MESSAGE).try_for_each(|batch| socket.commit(batch))
}

/// Makes the table for a domain, in place of the one that is there, in one commit. No address is
/// noted in it.
pub(super) fn replacement(domain: &[IpNetwork]) -> Vec<Request> {
    let mut batch = OWN.removal();
    batch.push(OWN.make());
    batch.push(Request::create(message::NEW_OBJECT, family::INET, "make the counter of the table inet npc", |bytes| {
        bytes.put_text(object::TABLE, OWN.name);
        bytes.put_text(object::NAME, MISSED);
        bytes.put_u32(object::KIND, object::COUNTER);
        bytes.put_nested(object::DATA, |data| {
            data.put_u64(counter::BYTES, 0);
            data.put_u64(counter::PACKETS, 0);
        });
    }));
    batch.extend((1..).zip(FlowIndexSet::ALL).map(|(number, set)| OWN.make_set(number, &as_own(set))));
    // Those that others lead to come first, and packets last.
    batch.extend(CHAINS.into_iter().rev().map(|chain| OWN.make_chain(made(chain))));
    batch.extend(rules::rules(domain).iter().map(|(chain, one)| OWN.make_rule(chain, one)));
    batch
}

/// Reads what may be answers of the kernel about the table: for fuzzing.
pub(in super::super::super) fn fuzz(data: &[u8]) {
    let domain = ["10.0.0.0/24", "fd00::/64"].map(|text| text.parse().ok());
    let rules = rules::rules(&domain.into_iter().flatten().collect::<Vec<_>>());
    let rules: Vec<_> = rules.iter().map(|(_, rule)| rule).collect();
    for attributes in crate::dataplane::netlink::fuzz_input::attributes(data) {
        for member in OWN.fuzz(Attributes(attributes), &rules) {
            let _ = ip_address(&member);
        }
    }
}
