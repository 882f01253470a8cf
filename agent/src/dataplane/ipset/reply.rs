//! What the kernel's ipset answers: messages, and the sets and members in them.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnetwork::IpNetwork;
use npc_compiler::object::{Family, Protocol};
use npc_compiler::ruleset::constants::MAXELEM;
use npc_compiler::ruleset::node::{InterfaceName, Member, SetKind};
use rtnetlink::packet_core::DecodeError;

use super::attribute::{self, Attributes, array, member, message, option};
use super::request;

impl Attributes<'_> {
    /// The head of a set's list: in the first of its messages only.
    pub(super) fn header(self) -> Result<Option<SetHeader>, DecodeError> {
        let Some(type_name) = self.text(message::TYPE)? else { return Ok(None) };
        let mut header = SetHeader {
            type_name: type_name.to_owned(),
            family: self.u8(message::FAMILY)?.unwrap_or_default(),
            maxelem: None,
            elements: None,
            options: Vec::new(),
        };
        for attribute in Attributes(self.get(message::DATA)?.unwrap_or_default()).each() {
            let (kind, value) = attribute?;
            match kind {
                option::MAXELEM => header.maxelem = Some(u32::from_be_bytes(array(value)?)),
                option::ELEMENTS => header.elements = Some(u32::from_be_bytes(array(value)?)),
                // How the kernel lays the set out, which it changes by itself,
                // and what it counts.
                option::HASH_SIZE | option::BUCKET_SIZE | option::SEED | option::REFERENCES | option::MEMORY => {}
                other => header.options.push(other),
            }
        }
        Ok(Some(header))
    }

    /// The members in a message of a set's list.
    pub(super) fn members(self) -> Result<impl Iterator<Item = Result<Entry, DecodeError>>, DecodeError> {
        let members = Attributes(self.get(message::MEMBERS)?.unwrap_or_default());
        Ok(members.each().map(|member| Entry::parse(Attributes(member?.1))))
    }
}

/// How a set was made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct SetHeader {
    type_name: String,
    family: u8,
    maxelem: Option<u32>,
    /// How many members there are; kernels before 4.10 do not say.
    pub(super) elements: Option<u32>,
    /// Options that no set of ours has: a time-out would lose members,
    /// counters would cost.
    options: Vec<u16>,
}

impl SetHeader {
    /// The kind of the set, if it is as we make those of a family.
    pub(super) fn kind(&self, family: Family) -> Option<SetKind> {
        let kind = SetKind::ALL.into_iter().find(|kind| kind.as_str() == self.type_name)?;
        let same = self.family == request::number(family) && self.maxelem == Some(MAXELEM) && self.options.is_empty();
        same.then_some(kind)
    }
}

impl fmt::Display for SetHeader {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.type_name)?;
        match self.family {
            0 => {}
            2 => f.write_str(" family inet")?,
            10 => f.write_str(" family inet6")?,
            other => write!(f, " family {other}")?,
        }
        if let Some(maxelem) = self.maxelem {
            write!(f, " maxelem {maxelem}")?;
        }
        for option in &self.options {
            match *option {
                option::TIMEOUT => f.write_str(" with a timeout")?,
                option::FLAGS => f.write_str(" with counters, comments, skbinfo or forceadd")?,
                option::MARK_MASK => f.write_str(" with a markmask")?,
                option::BIT_MASK => f.write_str(" with a bitmask")?,
                option::NET_MASK => f.write_str(" with a netmask")?,
                option::SIZE => f.write_str(" with a size")?,
                other => write!(f, " with the option {other}")?,
            }
        }
        Ok(())
    }
}

/// A member as the kernel lists it.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(super) struct Entry {
    address: Option<IpAddr>,
    prefix: Option<u8>,
    protocol: Option<u8>,
    port: Option<u16>,
    interface: Option<InterfaceName>,
    /// Whether it has more than that: `nomatch`, a time-out, a comment.
    more: bool,
}

impl Entry {
    fn parse(attributes: Attributes<'_>) -> Result<Self, DecodeError> {
        let mut entry = Self::default();
        for attribute in attributes.each() {
            let (kind, value) = attribute?;
            match kind {
                member::ADDRESS => entry.address = Attributes(value).address()?,
                member::PREFIX_LENGTH => entry.prefix = Some(u8::from_be_bytes(array(value)?)),
                member::PORT => entry.port = Some(u16::from_be_bytes(array(value)?)),
                member::PROTOCOL => entry.protocol = Some(u8::from_be_bytes(array(value)?)),
                member::INTERFACE => {
                    let name = value.split(|byte| *byte == 0).next().unwrap_or_default();
                    entry.interface = std::str::from_utf8(name).ok().and_then(InterfaceName::new);
                    // A name that is no text is none of ours.
                    entry.more |= entry.interface.is_none();
                }
                _ => entry.more = true,
            }
        }
        Ok(entry)
    }

    /// The member of a set of this kind, if it is one that we could have
    /// written.
    pub(super) fn member(&self, kind: SetKind) -> Option<Member> {
        let address = self.address?;
        match (kind, self) {
            (_, Self { more: true, .. }) => None,
            (SetKind::HashIp, Self { prefix: None, protocol: None, port: None, interface: None, .. }) => {
                Some(Member::Address(address))
            }
            (SetKind::HashNetIface, Self { prefix, protocol: None, port: None, interface: Some(interface), .. }) => {
                let whole = if address.is_ipv4() { 32 } else { 128 };
                Some(Member::of_interface(network(address, prefix.unwrap_or(whole))?, *interface))
            }
            (SetKind::HashNet, Self { prefix, protocol: None, port: None, interface: None, .. }) => match prefix {
                // ipset(8) does not print a host's length either.
                Some(32) if address.is_ipv4() => Some(Member::Address(address)),
                Some(128) | None => Some(Member::Address(address)),
                Some(length) => network(address, *length).map(Member::Prefix),
            },
            (
                SetKind::HashIpPort,
                Self { prefix: None, protocol: Some(protocol), port: Some(port), interface: None, .. },
            ) => {
                let protocol = Protocol::ALL.into_iter().find(|known| known.number() == *protocol)?;
                Some(Member::AddressPort(address, protocol, *port))
            }
            _ => None,
        }
    }
}

/// A prefix whose host bits are zero, as we write it and as the kernel lists it.
fn network(address: IpAddr, length: u8) -> Option<IpNetwork> {
    IpNetwork::new(address, length).ok().filter(|prefix| prefix.network() == address)
}

impl fmt::Display for Entry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.address {
            Some(address) => write!(f, "{address}")?,
            None => f.write_str("something without an address")?,
        }
        if let Some(length) = self.prefix {
            write!(f, "/{length}")?;
        }
        if let Some(protocol) = self.protocol {
            write!(f, ",{protocol}")?;
        }
        if let Some(port) = self.port {
            write!(f, ":{port}")?;
        }
        if let Some(interface) = self.interface {
            write!(f, ",{interface}")?;
        }
        f.write_str(if self.more { " with an option (nomatch, timeout, …)" } else { "" })
    }
}

impl Attributes<'_> {
    fn address(self) -> Result<Option<IpAddr>, DecodeError> {
        if let Some(value) = self.get(attribute::address::V4)? {
            return Ok(Some(Ipv4Addr::from(array(value)?).into()));
        }
        let v6 = self.get(attribute::address::V6)?;
        v6.map(|value| Ok(Ipv6Addr::from(array::<16>(value)?).into())).transpose()
    }
}

/// Reads what may be the attributes of a set's list: for fuzzing.
///
/// # Panics
/// If a member that is taken for one of ours is not listed as it is written.
pub(super) fn fuzz(attributes: Attributes<'_>) {
    if let Ok(Some(header)) = attributes.header() {
        let _ = (header.to_string(), Family::ALL.map(|family| header.kind(family)));
    }
    for number in [message::SET, message::TYPE] {
        let _ = attributes.text(number);
    }
    let Ok(members) = attributes.members() else { return };
    for entry in members.map_while(Result::ok) {
        let _ = entry.to_string();
        for kind in SetKind::ALL {
            let Some(member) = entry.member(kind) else { continue };
            let mut written = Vec::new();
            request::put_parts(&mut written, &member);
            let again = Entry::parse(Attributes(&written)).ok().and_then(|entry| entry.member(kind));
            assert_eq!(again.as_ref(), Some(&member), "{entry}");
        }
    }
}
