//! The numbers of ipset's netlink messages, from the kernel's
//! `linux/netfilter/ipset/ip_set.h`.

pub(super) use crate::dataplane::netlink::attribute::{Attributes, WriteAttributes, array};

/// The kernel's number for ipset among the parts of netfilter.
pub(super) const SUBSYSTEM: u8 = 6;

/// The length of the netlink header in front of every message.
pub(super) const NETLINK_HEADER_LENGTH: usize = 16;

/// Of every netfilter message, behind the netlink header: family, version and a resource of 16
/// bits. ipset ignores all three.
pub(super) const NETFILTER_HEADER: [u8; 4] = [2, 0, 0, 0];

/// What a message asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub(super) enum SetCommand {
    Protocol = 1,
    Create = 2,
    Destroy = 3,
    Flush = 4,
    List = 7,
    Add = 9,
    Delete = 10,
    Type = 13,
}

/// Attributes of a whole message.
pub(super) mod message {
    pub(in super::super) const PROTOCOL: u16 = 1;
    pub(in super::super) const SET: u16 = 2;
    pub(in super::super) const TYPE: u16 = 3;
    pub(in super::super) const REVISION: u16 = 4;
    pub(in super::super) const FAMILY: u16 = 5;
    pub(in super::super) const FLAGS: u16 = 6;
    /// Options of a set, or one member.
    pub(in super::super) const DATA: u16 = 7;
    /// Several members, each in a [`DATA`].
    pub(in super::super) const MEMBERS: u16 = 8;
    /// Where the kernel says which member it refused: a number that we gave
    /// each of them.
    pub(in super::super) const LINE: u16 = 9;
    /// The oldest version or revision that the kernel has.
    pub(in super::super) const MINIMUM: u16 = 10;
}

/// Attributes of a set's options, under [`message::DATA`].
pub(super) mod option {
    pub(in super::super) const TIMEOUT: u16 = 6;
    pub(in super::super) const FLAGS: u16 = 8;
    pub(in super::super) const MARK_MASK: u16 = 11;
    pub(in super::super) const BIT_MASK: u16 = 12;
    pub(in super::super) const SEED: u16 = 17;
    pub(in super::super) const HASH_SIZE: u16 = 18;
    pub(in super::super) const MAXELEM: u16 = 19;
    pub(in super::super) const NET_MASK: u16 = 20;
    pub(in super::super) const BUCKET_SIZE: u16 = 21;
    pub(in super::super) const SIZE: u16 = 23;
    pub(in super::super) const ELEMENTS: u16 = 24;
    pub(in super::super) const REFERENCES: u16 = 25;
    pub(in super::super) const MEMORY: u16 = 26;
}

/// Attributes of a member, under [`message::DATA`].
pub(super) mod member {
    pub(in super::super) const ADDRESS: u16 = 1;
    pub(in super::super) const PREFIX_LENGTH: u16 = 3;
    pub(in super::super) const PORT: u16 = 4;
    pub(in super::super) const PROTOCOL: u16 = 7;
    pub(in super::super) const LINE: u16 = 9;
    pub(in super::super) const INTERFACE: u16 = 23;
}

/// Attributes of an address, under [`member::ADDRESS`].
pub(super) mod address {
    pub(in super::super) const V4: u16 = 1;
    pub(in super::super) const V6: u16 = 2;
}

/// For a list: names only.
pub(super) const LIST_NAMES: u32 = 1 << 1;

/// For a list: no members.
pub(super) const LIST_HEADS: u32 = 1 << 2;
