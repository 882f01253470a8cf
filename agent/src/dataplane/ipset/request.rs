//! What we ask of the kernel's ipset, as messages.

use std::net::IpAddr;

use npc_compiler::object::Family;
use npc_compiler::ruleset::constants::MAXELEM;
use npc_compiler::ruleset::node::{Member, SetKind, SetName};
use rtnetlink::packet_core::{NLM_F_ACK, NLM_F_DUMP, NLM_F_REQUEST, NetlinkBuffer};

use super::attribute::{
    self, LIST_HEADS, LIST_NAMES, NETFILTER_HEADER, NETLINK_HEADER_LENGTH, SUBSYSTEM, SetCommand, WriteAttributes as _,
    message, option,
};

/// How long a message with many members may get. An attribute, and so the list
/// of members, ends at 65,535 bytes; the kernel sends a refused list back, in
/// memory that has to be in one piece. Longer ones are no faster (measured).
const LIMIT: usize = 16 << 10;

/// The longest that a member gets: an IPv6 address with length, interface and
/// line.
const LONGEST_MEMBER: usize = 64;

/// One message, all but its number.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Request(Vec<u8>);

impl Request {
    /// Which version the kernel speaks.
    pub(super) fn protocol(newest: u8) -> Self {
        Self::new(SetCommand::Protocol, newest, |_| ())
    }

    /// Which revisions of a set type it has.
    pub(super) fn revisions(version: u8, family: Family, kind: SetKind) -> Self {
        Self::new(SetCommand::Type, version, |bytes| {
            bytes.put_text(message::TYPE, kind.as_str());
            bytes.put(message::FAMILY, &[number(family)]);
        })
    }

    /// Makes an empty set, unless the same is there already.
    pub(super) fn create(version: u8, name: &SetName, family: Family, kind: SetKind, revision: u8) -> Self {
        Self::new(SetCommand::Create, version, |bytes| {
            bytes.put_text(message::SET, name.as_str());
            bytes.put_text(message::TYPE, kind.as_str());
            bytes.put(message::REVISION, &[revision]);
            bytes.put(message::FAMILY, &[number(family)]);
            bytes.put_nested(message::DATA, |data| data.put_network_order(option::MAXELEM, &MAXELEM.to_be_bytes()));
        })
    }

    /// Removes a set.
    pub(super) fn destroy(version: u8, name: &str) -> Self {
        Self::new(SetCommand::Destroy, version, |bytes| bytes.put_text(message::SET, name))
    }

    /// Empties a set.
    pub(super) fn flush(version: u8, name: &SetName) -> Self {
        Self::new(SetCommand::Flush, version, |bytes| bytes.put_text(message::SET, name.as_str()))
    }

    /// Adds (or deletes) as many of these members as fit into one message,
    /// one at least, and answers how many. Their lines count from 1. What is
    /// there already (or is not) counts as done.
    pub(super) fn members<'a>(
        version: u8,
        command: SetCommand,
        name: &SetName,
        members: impl IntoIterator<Item = &'a Member>,
    ) -> (Self, usize) {
        let mut count = 0_u32;
        let request = Self::new(command, version, |bytes| {
            bytes.put_text(message::SET, name.as_str());
            // The kernel writes the refused member's line here. Where it
            // refuses the set, it is the first that cannot be.
            bytes.put_network_order(message::LINE, &1_u32.to_be_bytes());
            bytes.put_nested(message::MEMBERS, |bytes| {
                for member in members {
                    if bytes.len() + LONGEST_MEMBER > LIMIT {
                        break;
                    }
                    count += 1;
                    put_member(bytes, member, count);
                }
            });
        });
        (request, count as usize)
    }

    /// The names of all sets.
    pub(super) fn names(version: u8) -> Self {
        Self::list(version, |bytes| bytes.put_network_order(message::FLAGS, &LIST_NAMES.to_be_bytes()))
    }

    /// All sets without their members.
    pub(super) fn heads(version: u8) -> Self {
        Self::list(version, |bytes| bytes.put_network_order(message::FLAGS, &LIST_HEADS.to_be_bytes()))
    }

    /// One set with its members.
    pub(super) fn one(version: u8, name: &SetName) -> Self {
        Self::list(version, |bytes| bytes.put_text(message::SET, name.as_str()))
    }

    /// All sets with their members.
    pub(super) fn dump(version: u8) -> Self {
        Self::list(version, |_| ())
    }

    fn list(version: u8, attributes: impl FnOnce(&mut Vec<u8>)) -> Self {
        Self::build(SetCommand::List, NLM_F_DUMP, version, attributes)
    }

    fn new(command: SetCommand, version: u8, attributes: impl FnOnce(&mut Vec<u8>)) -> Self {
        // Without NLM_F_EXCL, what is as it is to be already is no error.
        Self::build(command, 0, version, attributes)
    }

    fn build(command: SetCommand, flags: u16, version: u8, attributes: impl FnOnce(&mut Vec<u8>)) -> Self {
        let mut bytes = vec![0; NETLINK_HEADER_LENGTH];
        bytes.extend_from_slice(&NETFILTER_HEADER);
        bytes.put(message::PROTOCOL, &[version]);
        attributes(&mut bytes);
        let length = u32::try_from(bytes.len()).unwrap_or(u32::MAX);
        let mut header = NetlinkBuffer::new(&mut bytes);
        header.set_length(length);
        header.set_message_type(u16::from_be_bytes([SUBSYSTEM, command as u8]));
        header.set_flags(NLM_F_REQUEST | NLM_F_ACK | flags);
        Self(bytes)
    }

    /// The bytes, with a number by which the answer will be known.
    pub(super) fn numbered(&mut self, number: u32) -> &[u8] {
        NetlinkBuffer::new(&mut self.0).set_sequence_number(number);
        &self.0
    }
}

/// The kernel's number of a family.
pub(super) fn number(family: Family) -> u8 {
    match family {
        Family::V4 => 2,
        Family::V6 => 10,
    }
}

fn put_member(bytes: &mut Vec<u8>, member: &Member, line: u32) {
    bytes.put_nested(message::DATA, |bytes| {
        put_parts(bytes, member);
        bytes.put_network_order(attribute::member::LINE, &line.to_be_bytes());
    });
}

/// What a member is made of.
pub(super) fn put_parts(bytes: &mut Vec<u8>, member: &Member) {
    match member {
        Member::Address(address) => put_address(bytes, *address),
        Member::Prefix(prefix) => {
            put_address(bytes, prefix.network());
            bytes.put(attribute::member::PREFIX_LENGTH, &[prefix.prefix()]);
        }
        Member::AddressPort(address, protocol, port) => {
            put_address(bytes, *address);
            bytes.put_network_order(attribute::member::PORT, &port.to_be_bytes());
            bytes.put(attribute::member::PROTOCOL, &[protocol.number()]);
        }
        Member::PrefixInterface(both) => {
            let (prefix, interface) = &**both;
            put_address(bytes, prefix.network());
            bytes.put(attribute::member::PREFIX_LENGTH, &[prefix.prefix()]);
            bytes.put_text(attribute::member::INTERFACE, interface.as_str());
        }
    }
}

fn put_address(bytes: &mut Vec<u8>, address: IpAddr) {
    bytes.put_nested(attribute::member::ADDRESS, |bytes| match address {
        IpAddr::V4(address) => bytes.put_network_order(attribute::address::V4, &address.octets()),
        IpAddr::V6(address) => bytes.put_network_order(attribute::address::V6, &address.octets()),
    });
}
