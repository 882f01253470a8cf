//! The table as messages, and read back.

use std::collections::BTreeSet;
use std::net::IpAddr;

use ipnetwork::IpNetwork;
use npc_compiler::object::Family;
use rtnetlink::packet_core::DecodeError;

use super::super::nftables::{
    Attributes, Error, LIST_ELEMENT, Request, Socket, WriteAttributes, chain, counter, data, description, elements,
    family, hook, message, object, rule, set, table, verdict,
};
use super::TABLE;
use super::rules::{self, CHAINS, MISSED, PRIORITY, Set};

/// The flag of a set that packets write to (`NFT_SET_EVAL`).
const DYNAMIC: u32 = 32;

/// How many members one message has, and how many one commit.
const IN_MESSAGE: usize = 500;
const IN_COMMIT: usize = 8_000;

/// The numbers that the kernel gave to the table, its sets and its rules. A table that was made
/// again, or has a rule that was, has others.
pub(super) type Identity = Vec<u64>;

/// What the kernel has under the table's name.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Found {
    /// No table.
    Absent,
    /// The table for a domain.
    Sound(Identity),
    /// Another one.
    Other,
}

/// Reads it. A change while it is read shows in the next generation.
pub(super) fn read(socket: &mut Socket, domain: &[IpNetwork]) -> Result<Found, Error> {
    match read_parts(socket, domain) {
        Err(error) if error.is_absent() => Ok(Found::Absent),
        read => read,
    }
}

fn read_parts(socket: &mut Socket, domain: &[IpNetwork]) -> Result<Found, Error> {
    let in_table = |name: u16| move |bytes: &mut Vec<u8>| bytes.put_text(name, TABLE);
    let ask = Request::get(message::GET_TABLE, family::INET, "look for the table inet npc", in_table(table::NAME));
    let heads = socket.ask(&ask, |answer| {
        let attributes = answer.attributes;
        Ok(Some((attributes.u32(table::FLAGS)?.unwrap_or_default(), attributes.u64(table::HANDLE)?)))
    })?;
    // Kernels before Linux 4.16 give tables no numbers.
    let [(0, Some(handle))] = heads[..] else { return Ok(Found::Other) };
    let mut identity = vec![handle];
    let ask = Request::list(message::GET_CHAIN, family::INET, "list the chains of inet", in_table(chain::TABLE));
    let mut chains = socket.ask(&ask, |answer| of_table(answer.attributes, chain::TABLE, as_chain))?;
    let as_ours = |(name, hook): (&str, Option<u32>)| {
        (name.to_owned(), hook.map(|hook| (hook, PRIORITY)), u32::from(hook.is_some()))
    };
    let mut wanted: Vec<ChainFound> = CHAINS.into_iter().map(as_ours).collect();
    wanted.sort();
    chains.sort();
    if chains != wanted {
        return Ok(Found::Other);
    }
    let ask = Request::list(message::GET_SET, family::INET, "list the sets of inet", in_table(set::TABLE));
    let mut sets = socket.ask(&ask, |answer| of_table(answer.attributes, set::TABLE, as_set))?;
    sets.sort();
    let heads: Vec<_> = sets.iter().map(|(name, length, flags, _)| (name.as_str(), *length, *flags)).collect();
    if heads != Set::ALL.map(|set| (set.name(), set.key_length(), DYNAMIC)) {
        return Ok(Found::Other);
    }
    identity.extend(sets.iter().map(|(.., handle)| *handle));
    let wanted = rules::rules(domain);
    for (name, _) in CHAINS {
        let ask = Request::list(message::GET_RULE, family::INET, format!("list the rules of {name}"), |bytes| {
            bytes.put_text(rule::TABLE, TABLE);
            bytes.put_text(rule::CHAIN, name);
        });
        let mut wanted = wanted.iter().filter(|(chain, _)| *chain == name).map(|(_, rule)| rule);
        let found = socket.ask(&ask, |answer| {
            let attributes = answer.attributes;
            if attributes.text(rule::TABLE)? != Some(TABLE) || attributes.text(rule::CHAIN)? != Some(name) {
                return Ok(None);
            }
            let listed = attributes.nested(rule::EXPRESSIONS)?;
            let is_ours = wanted.next().is_some_and(|rule| rule.is(listed));
            Ok(Some((is_ours, attributes.u64(rule::HANDLE)?.unwrap_or_default())))
        })?;
        if found.iter().any(|(is_ours, _)| !is_ours) || wanted.next().is_some() {
            return Ok(Found::Other);
        }
        identity.extend(found.into_iter().map(|(_, handle)| handle));
    }
    Ok(Found::Sound(identity))
}

/// What is in our table, of what is listed.
fn of_table<T>(
    attributes: Attributes<'_>,
    table: u16,
    read: impl FnOnce(Attributes<'_>) -> Result<T, DecodeError>,
) -> Result<Option<T>, DecodeError> {
    if attributes.text(table)? == Some(TABLE) { read(attributes).map(Some) } else { Ok(None) }
}

/// Its name, its hook with its priority, and the verdict at its end, which is 0 where it has no
/// hook.
type ChainFound = (String, Option<(u32, i32)>, u32);

fn as_chain(attributes: Attributes<'_>) -> Result<ChainFound, DecodeError> {
    let name = attributes.text(chain::NAME)?.unwrap_or_default().to_owned();
    let place = attributes.nested(chain::HOOK)?;
    let hook = place.u32(hook::NUMBER)?.zip(place.i32(hook::PRIORITY)?);
    Ok((name, hook, attributes.u32(chain::POLICY)?.unwrap_or_default()))
}

/// Its name, the length of a member, its flags and its number.
fn as_set(attributes: Attributes<'_>) -> Result<(String, u32, u32, u64), DecodeError> {
    let name = attributes.text(set::NAME)?.unwrap_or_default().to_owned();
    let flags = attributes.u32(set::FLAGS)?.unwrap_or_default();
    let length = attributes.u32(set::KEY_LENGTH)?.unwrap_or_default();
    Ok((name, length, flags, attributes.u64(set::HANDLE)?.unwrap_or_default()))
}

/// Whether an address is noted.
pub(super) fn has(socket: &mut Socket, address: IpAddr) -> Result<bool, Error> {
    has_member(socket, set_of(address), &octets(address))
}

/// Whether an address of a family could not be noted.
pub(super) fn is_short(socket: &mut Socket, of: Family) -> Result<bool, Error> {
    has_member(socket, Set::Short, &[number(of)])
}

fn has_member(socket: &mut Socket, set: Set, member: &[u8]) -> Result<bool, Error> {
    let ask = Request::get(message::GET_ELEMENTS, family::INET, "look a member up in the table inet npc", |bytes| {
        put_members(bytes, set, &[member.to_vec()]);
    });
    match socket.ask(&ask, |_| Ok(Some(()))) {
        Ok(_) => Ok(true),
        Err(error) if error.is_absent() => Ok(false),
        Err(error) => Err(error),
    }
}

/// From now on it shows anew whether an address of a family cannot be noted.
pub(super) fn clear_short(socket: &mut Socket, of: Family) -> Result<(), Error> {
    let what = "remove a family from the set incomplete of the table inet npc";
    socket.commit(&[Request::delete(message::DELETE_ELEMENTS, family::INET, what, |bytes| {
        put_members(bytes, Set::Short, &[vec![number(of)]]);
    })])
}

const fn number(of: Family) -> u8 {
    match of {
        Family::V4 => family::IPV4,
        Family::V6 => family::IPV6,
    }
}

/// All that are noted.
pub(super) fn noted(socket: &mut Socket) -> Result<BTreeSet<IpAddr>, Error> {
    let mut all = BTreeSet::new();
    for set in [Set::V4, Set::V6] {
        let ask = Request::list(message::GET_ELEMENTS, family::INET, format!("list the set {}", set.name()), |bytes| {
            bytes.put_text(elements::TABLE, TABLE);
            bytes.put_text(elements::SET, set.name());
        });
        all.extend(socket.ask(&ask, |answer| addresses(answer.attributes).map(Some))?.into_iter().flatten());
    }
    Ok(all)
}

fn addresses(attributes: Attributes<'_>) -> Result<Vec<IpAddr>, DecodeError> {
    let mut all = Vec::new();
    for element in attributes.nested(elements::ELEMENTS)?.each() {
        let key = Attributes(element?.1).nested(elements::KEY)?.get(data::VALUE)?.unwrap_or_default();
        let v4 = <[u8; 4]>::try_from(key).map(IpAddr::from);
        all.extend(v4.or_else(|_| <[u8; 16]>::try_from(key).map(IpAddr::from)));
    }
    Ok(all)
}

const fn set_of(address: IpAddr) -> Set {
    match address {
        IpAddr::V4(_) => Set::V4,
        IpAddr::V6(_) => Set::V6,
    }
}

fn octets(address: IpAddr) -> Vec<u8> {
    match address {
        IpAddr::V4(v4) => v4.octets().to_vec(),
        IpAddr::V6(v6) => v6.octets().to_vec(),
    }
}

fn put_members(bytes: &mut Vec<u8>, set: Set, members: &[Vec<u8>]) {
    bytes.put_text(elements::TABLE, TABLE);
    bytes.put_text(elements::SET, set.name());
    bytes.put_nested(elements::ELEMENTS, |list| {
        for member in members {
            list.put_nested(LIST_ELEMENT, |element| {
                element.put_nested(elements::KEY, |value| value.put(data::VALUE, member));
            });
        }
    });
}

/// Adds addresses, or removes them, which must be there then.
pub(super) fn change(socket: &mut Socket, addresses: &BTreeSet<IpAddr>, add: bool) -> Result<(), Error> {
    let mut batch = Vec::new();
    for one in [Set::V4, Set::V6] {
        let of_set: Vec<Vec<u8>> =
            addresses.iter().filter(|address| set_of(**address) == one).map(|address| octets(*address)).collect();
        for addresses in of_set.chunks(IN_MESSAGE) {
            let members = |bytes: &mut Vec<u8>| put_members(bytes, one, addresses);
            batch.push(if add {
                let what = "note addresses in the table inet npc";
                Request::create(message::NEW_ELEMENTS, family::INET, what, members)
            } else {
                let what = "remove addresses from the table inet npc";
                Request::delete(message::DELETE_ELEMENTS, family::INET, what, members)
            });
        }
    }
    batch.chunks(IN_COMMIT / IN_MESSAGE).try_for_each(|batch| socket.commit(batch))
}

/// Whether there is a table of our name.
pub(super) fn exists(socket: &mut Socket) -> Result<bool, Error> {
    let ask = Request::get(message::GET_TABLE, family::INET, "look for the table inet npc", |bytes| {
        bytes.put_text(table::NAME, TABLE);
    });
    match socket.ask(&ask, |_| Ok(Some(()))) {
        Ok(_) => Ok(true),
        Err(error) if error.is_absent() => Ok(false),
        Err(error) => Err(error),
    }
}

/// Removes the table, be it there or not.
pub(super) fn removal() -> Vec<Request> {
    let name = |bytes: &mut Vec<u8>| bytes.put_text(table::NAME, TABLE);
    vec![
        Request::create(message::NEW_TABLE, family::INET, "make the table inet npc", name),
        Request::delete(message::DELETE_TABLE, family::INET, "remove the table inet npc", name),
    ]
}

/// Makes the table for a domain, in place of the one that is there, in one commit. No address is
/// noted in it.
pub(super) fn replacement(domain: &[IpNetwork]) -> Vec<Request> {
    let mut batch = removal();
    batch.push(Request::create(message::NEW_TABLE, family::INET, "make the table inet npc", |bytes| {
        bytes.put_text(table::NAME, TABLE);
        bytes.put_u32(table::FLAGS, 0);
    }));
    batch.push(Request::create(message::NEW_OBJECT, family::INET, "make the counter of the table inet npc", |bytes| {
        bytes.put_text(object::TABLE, TABLE);
        bytes.put_text(object::NAME, MISSED);
        bytes.put_u32(object::KIND, object::COUNTER);
        bytes.put_nested(object::DATA, |data| {
            data.put_u64(counter::BYTES, 0);
            data.put_u64(counter::PACKETS, 0);
        });
    }));
    for (number, one) in (1..).zip(Set::ALL) {
        let what = format!("make the set {} of the table inet npc", one.name());
        batch.push(Request::create(message::NEW_SET, family::INET, what, |bytes| {
            bytes.put_text(set::TABLE, TABLE);
            bytes.put_text(set::NAME, one.name());
            bytes.put_u32(set::FLAGS, DYNAMIC);
            bytes.put_u32(set::KEY_TYPE, one.key_type());
            bytes.put_u32(set::KEY_LENGTH, one.key_length());
            bytes.put_u32(set::ID, number);
            bytes.put_nested(set::DESCRIPTION, |inside| inside.put_u32(description::SIZE, one.size()));
        }));
    }
    // Those that others lead to come first, and packets last.
    for (name, place) in CHAINS.into_iter().rev() {
        let what = format!("make the chain {name} of the table inet npc");
        batch.push(Request::create(message::NEW_CHAIN, family::INET, what, |bytes| {
            bytes.put_text(chain::TABLE, TABLE);
            bytes.put_text(chain::NAME, name);
            let Some(number) = place else { return };
            bytes.put_nested(chain::HOOK, |place| {
                place.put_u32(hook::NUMBER, number);
                place.put(hook::PRIORITY, &PRIORITY.to_be_bytes());
            });
            bytes.put(chain::POLICY, &verdict::ACCEPT.to_be_bytes());
            bytes.put_text(chain::TYPE, "filter");
        }));
    }
    for (chain, one) in rules::rules(domain) {
        let what = format!("make a rule of {chain} in the table inet npc");
        batch.push(Request::create(message::NEW_RULE, family::INET, what, |bytes| {
            bytes.put_text(rule::TABLE, TABLE);
            bytes.put_text(rule::CHAIN, chain);
            one.put(bytes);
        }));
    }
    batch
}

/// Reads what may be answers of the kernel about the table: for fuzzing.
pub(in super::super) fn fuzz(data: &[u8]) {
    let domain = ["10.0.0.0/24", "fd00::/64"].map(|text| text.parse().ok());
    let rules = rules::rules(&domain.into_iter().flatten().collect::<Vec<_>>());
    for attributes in super::super::fuzz_input::attributes(data) {
        let attributes = Attributes(attributes);
        let _ = of_table(attributes, chain::TABLE, as_chain);
        let _ = of_table(attributes, set::TABLE, as_set);
        if let Ok(listed) = attributes.nested(rule::EXPRESSIONS) {
            let _ = rules.iter().any(|(_, rule)| rule.is(listed));
        }
        let _ = addresses(attributes);
    }
}
