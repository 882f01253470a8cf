//! The table as messages, and read back.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use rtnetlink::packet_core::DecodeError;

use super::super::nftables::{
    Attributes, Error, LIST_ELEMENT, Request, Socket, WriteAttributes, chain, data, elements, family, hook, message,
    rule, set, table, verdict,
};
use super::chains::{self, CHAINS, PRIORITY, Set};
use super::rules;
use super::{BridgeTable, EthernetAddress, TABLE};

/// What one message may carry of members, in bytes: an attribute ends at 64 KiB.
const LIMIT: usize = 16 << 10;

/// What the kernel has under the table's name.
#[derive(Debug)]
pub(super) enum Found {
    /// No table.
    Absent,
    /// A table of ours, and what it says.
    Sound(BridgeTable),
    /// Chains, rules or sets other than ours, in these words.
    Changed(&'static str),
}

/// A member of a set as the kernel has it.
type Key = Vec<u8>;

/// Whether there is a table of our name.
pub(super) fn exists(socket: &mut Socket) -> Result<bool, Error> {
    flags(socket).map(|flags| flags.is_some())
}

/// The flags of the table, if it is there.
fn flags(socket: &mut Socket) -> Result<Option<u32>, Error> {
    let ask = Request::get(message::GET_TABLE, family::BRIDGE, "look for the table bridge npc", |bytes| {
        bytes.put_text(table::NAME, TABLE);
    });
    match socket.ask(&ask, |answer| answer.attributes.u32(table::FLAGS)) {
        Ok(found) => Ok(Some(found.first().copied().unwrap_or_default())),
        Err(error) if error.is_absent() => Ok(None),
        Err(error) => Err(error),
    }
}

/// Reads it. A change while it is read shows in the next generation.
pub(super) fn read(socket: &mut Socket) -> Result<Found, Error> {
    match flags(socket)? {
        None => return Ok(Found::Absent),
        Some(0) => {}
        Some(_) => return Ok(Found::Changed("it is dormant, or has another flag")),
    }
    let listed = read_parts(socket);
    match listed {
        // It went meanwhile.
        Err(error) if error.is_absent() => Ok(Found::Absent),
        listed => listed,
    }
}

fn read_parts(socket: &mut Socket) -> Result<Found, Error> {
    let in_table = |name: u16| move |bytes: &mut Vec<u8>| bytes.put_text(name, TABLE);
    // The kernel lists chains and sets of all tables of the family.
    let ask = Request::list(message::GET_CHAIN, family::BRIDGE, "list the chains of bridges", in_table(chain::TABLE));
    let mut chains = socket.ask(&ask, |answer| of_table(answer.attributes, chain::TABLE, as_chain))?;
    let as_ours = |chain: &chains::Chain| {
        let hook = chain.hook.map(|hook| (hook, PRIORITY));
        (chain.name.to_owned(), hook, u32::from(hook.is_some()))
    };
    let mut wanted: Vec<ChainFound> = CHAINS.iter().map(as_ours).collect();
    wanted.sort();
    chains.sort();
    if chains != wanted {
        return Ok(Found::Changed("its chains are others"));
    }
    let ask = Request::list(message::GET_SET, family::BRIDGE, "list the sets of bridges", in_table(set::TABLE));
    let mut sets = socket.ask(&ask, |answer| of_table(answer.attributes, set::TABLE, as_set))?;
    let mut wanted: Vec<_> = Set::ALL.iter().map(|set| (set.name().to_owned(), key_length(*set), 0)).collect();
    wanted.sort();
    sets.sort();
    if sets != wanted {
        return Ok(Found::Changed("its sets are others"));
    }
    let rules = rules::rules();
    for one in CHAINS {
        let ask =
            Request::list(message::GET_RULE, family::BRIDGE, format!("list the rules of {}", one.name), |bytes| {
                bytes.put_text(rule::TABLE, TABLE);
                bytes.put_text(rule::CHAIN, one.name);
            });
        let mut wanted = rules.iter().filter(|(chain, _)| *chain == one).map(|(_, rule)| rule);
        let same = socket.ask(&ask, |answer| {
            // Kernels before 5.x pass over what is asked for.
            let attributes = answer.attributes;
            if attributes.text(rule::TABLE)? != Some(TABLE) || attributes.text(rule::CHAIN)? != Some(one.name) {
                return Ok(None);
            }
            let listed = attributes.nested(rule::EXPRESSIONS)?;
            Ok(Some(wanted.next().is_some_and(|rule| rule.is(listed))))
        })?;
        if same.contains(&false) || wanted.next().is_some() {
            return Ok(Found::Changed("its rules are others"));
        }
    }
    let mut held = BridgeTable::default();
    for one in Set::ALL {
        let ask =
            Request::list(message::GET_ELEMENTS, family::BRIDGE, format!("list the set {}", one.name()), |bytes| {
                bytes.put_text(elements::TABLE, TABLE);
                bytes.put_text(elements::SET, one.name());
            });
        let keys = socket.ask(&ask, |answer| keys(answer.attributes).map(Some))?;
        for key in keys.into_iter().flatten() {
            if !take(&mut held, one, &key) {
                return Ok(Found::Changed("a member of a set is none that we write"));
            }
        }
    }
    Ok(Found::Sound(held))
}

/// What is in our table, of what is listed.
fn of_table<T>(
    attributes: Attributes<'_>,
    table: u16,
    read: impl FnOnce(Attributes<'_>) -> Result<T, DecodeError>,
) -> Result<Option<T>, DecodeError> {
    if attributes.text(table)? == Some(TABLE) { read(attributes).map(Some) } else { Ok(None) }
}

/// Its name, its hook with its priority, and the verdict at its end, which is 0 where
/// it has no hook.
type ChainFound = (String, Option<(u32, i32)>, u32);

fn as_chain(attributes: Attributes<'_>) -> Result<ChainFound, DecodeError> {
    let name = attributes.text(chain::NAME)?.unwrap_or_default().to_owned();
    let place = attributes.nested(chain::HOOK)?;
    let hook = place.u32(hook::NUMBER)?.zip(place.i32(hook::PRIORITY)?);
    Ok((name, hook, attributes.u32(chain::POLICY)?.unwrap_or_default()))
}

/// Its name, the length of a member, and its flags.
fn as_set(attributes: Attributes<'_>) -> Result<(String, u32, u32), DecodeError> {
    let name = attributes.text(set::NAME)?.unwrap_or_default().to_owned();
    let flags = attributes.u32(set::FLAGS)?.unwrap_or_default();
    Ok((name, attributes.u32(set::KEY_LENGTH)?.unwrap_or_default(), flags))
}

fn keys(attributes: Attributes<'_>) -> Result<Vec<Key>, DecodeError> {
    let mut keys = Vec::new();
    for element in attributes.nested(elements::ELEMENTS)?.each() {
        let key = Attributes(element?.1).nested(elements::KEY)?;
        keys.push(key.get(data::VALUE)?.unwrap_or_default().to_vec());
    }
    Ok(keys)
}

/// Takes a member in; whether it is one that we could have written.
fn take(held: &mut BridgeTable, set: Set, key: &[u8]) -> bool {
    let Some((port, rest)) = key.split_at_checked(4) else { return false };
    let Ok(port) = port.try_into().map(u32::from_ne_bytes) else { return false };
    match (set, rest.len()) {
        (Set::Ports, 0) => held.ports.insert(port),
        (Set::Held, 0) => held.held.insert(port),
        (Set::Guarded, 0) => held.guarded.insert(port),
        (Set::Confined, 0) => held.confined.insert(port),
        (Set::Known, 0) => held.known.insert(port),
        (Set::Senders, 8) => {
            let mut address = EthernetAddress::default();
            address.copy_from_slice(&rest[..6]);
            held.senders.insert((port, address))
        }
        (Set::Addresses4, 4) => <[u8; 4]>::try_from(rest)
            .is_ok_and(|address| held.addresses.insert((port, IpAddr::V4(Ipv4Addr::from(address))))),
        (Set::Addresses6, 16) => <[u8; 16]>::try_from(rest)
            .is_ok_and(|address| held.addresses.insert((port, IpAddr::V6(Ipv6Addr::from(address))))),
        _ => false,
    }
}

fn key_length(set: Set) -> u32 {
    u32::try_from(set.key_length()).unwrap_or(u32::MAX)
}

/// The members of a set.
fn members(table: &BridgeTable, set: Set) -> BTreeSet<Key> {
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
        Set::Ports => of_ports(&table.ports),
        Set::Held => of_ports(&table.held),
        Set::Guarded => of_ports(&table.guarded),
        Set::Confined => of_ports(&table.confined),
        Set::Known => of_ports(&table.known),
        Set::Senders => table.senders.iter().map(|(port, address)| of(*port, address)).collect(),
        Set::Addresses4 => addresses
            .filter_map(|(port, address)| match address {
                IpAddr::V4(address) => Some(of(*port, &address.octets())),
                IpAddr::V6(_) => None,
            })
            .collect(),
        Set::Addresses6 => addresses
            .filter_map(|(port, address)| match address {
                IpAddr::V6(address) => Some(of(*port, &address.octets())),
                IpAddr::V4(_) => None,
            })
            .collect(),
    }
}

/// The writes, to be committed at once, from what is there to what is wanted;
/// `None` is there where it is not known, or not ours.
pub(super) fn batch(held: Option<&BridgeTable>, wanted: &BridgeTable) -> Vec<Request> {
    let nothing = BridgeTable::default();
    let held = match held {
        Some(held) if !held.is_empty() && !wanted.is_empty() => held,
        Some(held) if held == wanted => return Vec::new(),
        there => {
            // That it is there is not known for certain, and to delete what is not
            // is an error: so it is made first.
            let mut batch = Vec::new();
            if there.is_none_or(|there| !there.is_empty()) {
                batch.extend([make_table(), delete_table()]);
            }
            if wanted.is_empty() {
                return batch;
            }
            batch.extend(make_all());
            batch.extend(changes(&nothing, wanted));
            return batch;
        }
    };
    changes(held, wanted)
}

/// The changes of members.
fn changes(held: &BridgeTable, wanted: &BridgeTable) -> Vec<Request> {
    let mut batch = Vec::new();
    for set in Set::ALL {
        let (held, wanted) = (members(held, set), members(wanted, set));
        let added: Vec<&Key> = wanted.difference(&held).collect();
        let removed: Vec<&Key> = held.difference(&wanted).collect();
        let in_one = LIMIT / (set.key_length() + 16);
        batch.extend(added.chunks(in_one).map(|keys| put_members(set, keys, true)));
        batch.extend(removed.chunks(in_one).map(|keys| put_members(set, keys, false)));
    }
    batch
}

fn put_members(set: Set, keys: &[&Key], add: bool) -> Request {
    let attributes = |bytes: &mut Vec<u8>| {
        bytes.put_text(elements::TABLE, TABLE);
        bytes.put_text(elements::SET, set.name());
        bytes.put_nested(elements::ELEMENTS, |list| {
            for key in keys {
                list.put_nested(LIST_ELEMENT, |element| {
                    element.put_nested(elements::KEY, |value| value.put(data::VALUE, key));
                });
            }
        });
    };
    let name = set.name();
    if add {
        let what = format!("add members to the set {name} of the table bridge npc");
        Request::create(message::NEW_ELEMENTS, family::BRIDGE, what, attributes)
    } else {
        let what = format!("remove members from the set {name} of the table bridge npc");
        Request::delete(message::DELETE_ELEMENTS, family::BRIDGE, what, attributes)
    }
}

fn make_table() -> Request {
    Request::create(message::NEW_TABLE, family::BRIDGE, "make the table bridge npc", |bytes| {
        bytes.put_text(table::NAME, TABLE);
        bytes.put_u32(table::FLAGS, 0);
    })
}

fn delete_table() -> Request {
    Request::delete(message::DELETE_TABLE, family::BRIDGE, "remove the table bridge npc", |bytes| {
        bytes.put_text(table::NAME, TABLE);
    })
}

/// The table with its sets, chains and rules.
fn make_all() -> Vec<Request> {
    let mut batch = vec![make_table()];
    for (number, set) in (1..).zip(Set::ALL) {
        let what = format!("make the set {} of the table bridge npc", set.name());
        batch.push(Request::create(message::NEW_SET, family::BRIDGE, what, |bytes| {
            bytes.put_text(set::TABLE, TABLE);
            bytes.put_text(set::NAME, set.name());
            bytes.put_u32(set::FLAGS, 0);
            bytes.put_u32(set::KEY_TYPE, set.key_type());
            bytes.put_u32(set::KEY_LENGTH, key_length(set));
            bytes.put_u32(set::ID, number);
            if set.key_length() == 4 {
                // For nft, which would take indexes for numbers in the order of the
                // network: the key's byte order (0), four bytes, is the machine's (1).
                bytes.put(set::USERDATA, &[&[0, 4][..], &1_u32.to_ne_bytes()].concat());
            }
        }));
    }
    for one in CHAINS {
        let what = format!("make the chain {} of the table bridge npc", one.name);
        batch.push(Request::create(message::NEW_CHAIN, family::BRIDGE, what, |bytes| {
            bytes.put_text(chain::TABLE, TABLE);
            bytes.put_text(chain::NAME, one.name);
            let Some(number) = one.hook else { return };
            bytes.put_nested(chain::HOOK, |place| {
                place.put_u32(hook::NUMBER, number);
                place.put(hook::PRIORITY, &PRIORITY.to_be_bytes());
            });
            bytes.put(chain::POLICY, &verdict::ACCEPT.to_be_bytes());
            bytes.put_text(chain::TYPE, "filter");
        }));
    }
    for (chain, one) in rules::rules() {
        let what = format!("make a rule of {} in the table bridge npc", chain.name);
        batch.push(Request::create(message::NEW_RULE, family::BRIDGE, what, |bytes| {
            bytes.put_text(rule::TABLE, TABLE);
            bytes.put_text(rule::CHAIN, chain.name);
            one.put(bytes);
        }));
    }
    batch
}

/// Reads what may be answers of the kernel about the table: for fuzzing.
pub(in super::super) fn fuzz(data: &[u8]) {
    let rules = rules::rules();
    for attributes in super::super::fuzz_input::attributes(data) {
        let attributes = Attributes(attributes);
        let _ = of_table(attributes, chain::TABLE, as_chain);
        let _ = of_table(attributes, set::TABLE, as_set);
        if let Ok(listed) = attributes.nested(rule::EXPRESSIONS) {
            let _ = rules.iter().any(|(_, rule)| rule.is(listed));
        }
        let mut held = BridgeTable::default();
        for key in keys(attributes).into_iter().flatten() {
            let _ = Set::ALL.map(|set| take(&mut held, set, &key));
        }
    }
}
