//! nf_tables over netlink: messages made of attributes, and the exchange of
//! them with the kernel.
//!
//! There is no `nft` program in the image, and none is needed: a table is a few
//! messages. The module knows no table, chain or rule of ours. Those who use it
//! name theirs (`own_table`), or write attributes ([`WriteAttributes`]) and read them ([`Attributes`]); what
//! it adds is the headers, the transaction, and errors that say what was asked
//! for. The numbers are those of the kernel's linux/netfilter/nf_tables.h.
//!
//! netlink-packet-netfilter has types for these messages, too. They are not used
//! here because one attribute that such a type cannot parse, in a rule of another
//! program, fails the whole answer; and what we read of others we mostly do not
//! need to understand.

mod loaded;
pub(super) mod own_table;
mod socket;
pub(super) mod steps;

pub use super::netlink::attribute::{Attributes, WriteAttributes};
pub(super) use loaded::nf_tables_is_loaded;
pub use socket::{Error, Request, Socket};

/// The families of tables.
pub mod family {
    /// IPv4 and IPv6 together.
    pub const INET: u8 = 1;
    /// IPv4.
    pub const IPV4: u8 = 2;
    /// Frames that cross a bridge.
    pub const BRIDGE: u8 = 7;
    /// IPv6.
    pub const IPV6: u8 = 10;

    /// The number of an address family.
    #[must_use]
    pub const fn of(family: npc_compiler::object::Family) -> u8 {
        match family {
            npc_compiler::object::Family::V4 => IPV4,
            npc_compiler::object::Family::V6 => IPV6,
        }
    }
}

/// What a message asks for, or reports.
pub mod message {
    /// Makes a table, or reports one.
    pub const NEW_TABLE: u8 = 0;
    /// Asks for tables.
    pub const GET_TABLE: u8 = 1;
    /// Removes a table with all that is in it.
    pub const DELETE_TABLE: u8 = 2;
    /// Makes a chain, or reports one.
    pub const NEW_CHAIN: u8 = 3;
    /// Asks for chains.
    pub const GET_CHAIN: u8 = 4;
    /// Makes a rule, or reports one.
    pub const NEW_RULE: u8 = 6;
    /// Asks for rules.
    pub const GET_RULE: u8 = 7;
    /// Removes a rule, or all of a chain.
    pub const DELETE_RULE: u8 = 8;
    /// Makes a set, or reports one.
    pub const NEW_SET: u8 = 9;
    /// Asks for sets.
    pub const GET_SET: u8 = 10;
    /// Adds members to a set, or reports some.
    pub const NEW_ELEMENTS: u8 = 12;
    /// Asks for a set's members.
    pub const GET_ELEMENTS: u8 = 13;
    /// Removes members from a set.
    pub const DELETE_ELEMENTS: u8 = 14;
    /// Asks for the number of the last commit, or reports one.
    pub const GET_GENERATION: u8 = 16;
    /// Makes an object that rules can name, as a counter, or reports one.
    pub const NEW_OBJECT: u8 = 18;
}

/// Attributes of tables (`NFTA_TABLE_…`).
pub mod table {
    /// Its name.
    pub const NAME: u16 = 1;
    /// A number of flags: 1 is dormant.
    pub const FLAGS: u16 = 2;
    /// Its number, which no later table has.
    pub const HANDLE: u16 = 4;
}

/// Attributes of chains (`NFTA_CHAIN_…`).
pub mod chain {
    /// The table that it is in.
    pub const TABLE: u16 = 1;
    /// Its name.
    pub const NAME: u16 = 3;
    /// Where packets enter it, if it is a base chain: [`hook`](super::hook).
    pub const HOOK: u16 = 4;
    /// The verdict at its end.
    pub const POLICY: u16 = 5;
    /// `filter`, `nat` or `route`.
    pub const TYPE: u16 = 7;
}

/// Attributes of a base chain's hook (`NFTA_HOOK_…`).
pub mod hook {
    /// The number of the hook: 0 prerouting, 1 input, 2 forward, 3 output, 4 postrouting.
    pub const NUMBER: u16 = 1;
    /// The priority, a signed number.
    pub const PRIORITY: u16 = 2;
}

/// Attributes of rules (`NFTA_RULE_…`).
pub mod rule {
    /// The table that it is in.
    pub const TABLE: u16 = 1;
    /// The chain that it is in.
    pub const CHAIN: u16 = 2;
    /// Its number.
    pub const HANDLE: u16 = 3;
    /// Its [`expression`](super::expression)s, a list.
    pub const EXPRESSIONS: u16 = 4;
}

/// One member of a list (`NFTA_LIST_ELEM`).
pub const LIST_ELEMENT: u16 = 1;

/// Attributes of an expression (`NFTA_EXPR_…`).
pub mod expression {
    /// What it is: `meta`, `payload`, `immediate`, `match`, …
    pub const NAME: u16 = 1;
    /// Its own attributes.
    pub const DATA: u16 = 2;
}

/// Attributes of data (`NFTA_DATA_…`).
pub mod data {
    /// The value as bytes.
    pub const VALUE: u16 = 1;
    /// A verdict: [`verdict`](super::verdict).
    pub const VERDICT: u16 = 2;
}

/// Attributes of a verdict (`NFTA_VERDICT_…`), and its codes.
pub mod verdict {
    /// What happens, a signed number.
    pub const CODE: u16 = 1;
    /// The chain to go to.
    pub const CHAIN: u16 = 2;

    /// The packet is dropped.
    pub const DROP: i32 = 0;
    /// The packet goes on to the next hook.
    pub const ACCEPT: i32 = 1;
    /// On to a chain, and back.
    pub const JUMP: i32 = -3;
    /// On to a chain for good.
    pub const GOTO: i32 = -4;
    /// Back to the chain before.
    pub const RETURN: i32 = -5;
}

/// Attributes of sets (`NFTA_SET_…`).
pub mod set {
    /// The table that it is in.
    pub const TABLE: u16 = 1;
    /// Its name.
    pub const NAME: u16 = 2;
    /// A number of flags: 1 anonymous, 2 constant, 4 interval, 8 map, 32 written to by packets, 128
    /// concatenation.
    pub const FLAGS: u16 = 3;
    /// What `nft` prints its members as. The kernel only keeps it.
    pub const KEY_TYPE: u16 = 4;
    /// How many bytes its members have.
    pub const KEY_LENGTH: u16 = 5;
    /// How it is described: [`description`](super::description).
    pub const DESCRIPTION: u16 = 9;
    /// Its number within one batch.
    pub const ID: u16 = 10;
    /// What its maker noted.
    pub const USERDATA: u16 = 13;
    /// Its number, which no later set of its table has.
    pub const HANDLE: u16 = 16;
}

/// Attributes of objects that rules can name (`NFTA_OBJ_…`).
pub mod object {
    /// The table that it is in.
    pub const TABLE: u16 = 1;
    /// Its name.
    pub const NAME: u16 = 2;
    /// What it is: [`COUNTER`].
    pub const KIND: u16 = 3;
    /// Its own attributes, those of a counter: [`counter`](super::counter).
    pub const DATA: u16 = 4;

    /// The kind that counts packets.
    pub const COUNTER: u32 = 1;
}

/// Attributes of a counter (`NFTA_COUNTER_…`).
pub mod counter {
    /// How many bytes.
    pub const BYTES: u16 = 1;
    /// How many packets.
    pub const PACKETS: u16 = 2;
}

/// Attributes of a set's description (`NFTA_SET_DESC_…`).
pub mod description {
    /// How many members it may have.
    pub const SIZE: u16 = 1;
}

/// Attributes of a list of members (`NFTA_SET_ELEM_LIST_…`), and of a member
/// (`NFTA_SET_ELEM_…`).
pub mod elements {
    /// The table that the set is in.
    pub const TABLE: u16 = 1;
    /// The set.
    pub const SET: u16 = 2;
    /// The members, a list.
    pub const ELEMENTS: u16 = 3;
    /// The [`data`](super::data) of a member.
    pub const KEY: u16 = 1;
}
