//! Rules as lists of nf_tables' expressions, and their netlink form.

use super::{Attributes, LIST_ELEMENT, WriteAttributes, data, expression, object, rule, verdict};

/// One step of a rule. Registers are counted in fours of bytes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in super::super) enum Step {
    /// Loads a fact about the packet.
    Meta(Meta, u32),
    /// Loads bytes of a header.
    Payload(PacketHeader, u32, u32, u32),
    /// Loads the first byte of an IPv6 extension header; not so where there is none of
    /// this number.
    Extension(u8, u32),
    /// Keeps these bits.
    Mask(u32, Vec<u8>),
    /// From the order of this machine to that of the network, four bytes.
    NetworkOrder(u32),
    /// Goes on if it is so.
    Is(Comparison, u32, Vec<u8>),
    /// Loads the states of the packet's flow in conntrack, one bit each ([`STATE_ESTABLISHED`]).
    FlowState(u32),
    /// Goes on if a set has what begins in a register.
    In(&'static str, u32),
    /// Goes on if it has not.
    NotIn(&'static str, u32),
    /// Puts what begins in a register into a set, unless it is there. Goes on if it is there then:
    /// not if the set is full, or the kernel has no memory.
    Add(&'static str, u32),
    /// Counts the packet in a counter that has a name.
    Count(&'static str),
    Drop,
    /// To the next hook.
    Accept,
    /// Back to the chain before.
    Return,
    /// To a chain, and back after it.
    Jump(&'static str),
    /// To a chain, and from there back to where this one was jumped from.
    Goto(&'static str),
}

/// A state of a flow, as the packet has it; see linux/netfilter/nf_conntrack_common.h.
pub(in super::super) const STATE_ESTABLISHED: u32 = 1 << 1;
pub(in super::super) const STATE_UNTRACKED: u32 = 1 << 6;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in super::super) enum Meta {
    Length = 0,
    InputIndex = 4,
    OutputIndex = 5,
    Family = 15,
    Protocol = 16,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in super::super) enum PacketHeader {
    Ethernet = 0,
    Network = 1,
    Transport = 2,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in super::super) enum Comparison {
    Equal = 0,
    NotEqual = 1,
    Greater = 4,
}

/// The numbers of expressions' attributes.
mod attribute {
    pub(super) const META_REGISTER: u16 = 1;
    pub(super) const META_KEY: u16 = 2;
    pub(super) const PAYLOAD_REGISTER: u16 = 1;
    pub(super) const PAYLOAD_BASE: u16 = 2;
    pub(super) const PAYLOAD_OFFSET: u16 = 3;
    pub(super) const PAYLOAD_LENGTH: u16 = 4;
    pub(super) const EXTENSION_REGISTER: u16 = 1;
    pub(super) const EXTENSION_NUMBER: u16 = 2;
    pub(super) const EXTENSION_OFFSET: u16 = 3;
    pub(super) const EXTENSION_LENGTH: u16 = 4;
    pub(super) const COMPARE_REGISTER: u16 = 1;
    pub(super) const COMPARE_HOW: u16 = 2;
    pub(super) const COMPARE_WITH: u16 = 3;
    pub(super) const LOOKUP_SET: u16 = 1;
    pub(super) const LOOKUP_REGISTER: u16 = 2;
    pub(super) const LOOKUP_FLAGS: u16 = 5;
    pub(super) const BITWISE_FROM: u16 = 1;
    pub(super) const BITWISE_TO: u16 = 2;
    pub(super) const BITWISE_LENGTH: u16 = 3;
    pub(super) const BITWISE_MASK: u16 = 4;
    pub(super) const BITWISE_XOR: u16 = 5;
    pub(super) const ORDER_FROM: u16 = 1;
    pub(super) const ORDER_TO: u16 = 2;
    pub(super) const ORDER_HOW: u16 = 3;
    pub(super) const ORDER_LENGTH: u16 = 4;
    pub(super) const ORDER_SIZE: u16 = 5;
    pub(super) const FLOW_REGISTER: u16 = 1;
    pub(super) const FLOW_KEY: u16 = 2;
    pub(super) const DYNAMIC_SET: u16 = 1;
    pub(super) const DYNAMIC_HOW: u16 = 3;
    pub(super) const DYNAMIC_KEY: u16 = 4;
    pub(super) const OBJECT_KIND: u16 = 1;
    pub(super) const OBJECT_NAME: u16 = 2;
    pub(super) const IMMEDIATE_REGISTER: u16 = 1;
    pub(super) const IMMEDIATE_DATA: u16 = 2;
}

/// What a rule asks, and what becomes of the packet then.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in super::super) struct Rule(pub(in super::super) Vec<Step>);

impl Rule {
    /// Its list of expressions, as an attribute of the rule.
    pub(in super::super) fn put(&self, bytes: &mut Vec<u8>) {
        bytes.put_nested(rule::EXPRESSIONS, |list| {
            for step in &self.0 {
                list.put_nested(LIST_ELEMENT, |one| step.put(one));
            }
        });
    }

    /// Whether a rule's list of expressions, as the kernel has it, is this one.
    /// The kernel adds attributes with defaults; what we wrote is in it unchanged.
    pub(in super::super) fn is(&self, listed: Attributes<'_>) -> bool {
        let mut bytes = Vec::new();
        self.put(&mut bytes);
        let values = |list: Attributes<'_>| -> Option<Vec<(String, Vec<u8>)>> {
            let each = list.each().map(|one| {
                let one = Attributes(one.ok()?.1);
                Some((one.text(expression::NAME).ok()??.to_owned(), one.get(expression::DATA).ok()??.to_vec()))
            });
            each.collect()
        };
        let ours = Attributes(&bytes).nested(rule::EXPRESSIONS).ok().and_then(values);
        let (Some(ours), Some(theirs)) = (ours, values(listed)) else { return false };
        ours.len() == theirs.len()
            && ours.iter().zip(&theirs).all(|((our_name, ours), (their_name, theirs))| {
                our_name == their_name && contains(Attributes(theirs), Attributes(ours))
            })
    }
}

/// Whether all of these attributes are among those.
fn contains(all: Attributes<'_>, some: Attributes<'_>) -> bool {
    some.each().all(|one| one.is_ok_and(|(kind, value)| all.get(kind).is_ok_and(|found| found == Some(value))))
}

impl Step {
    fn put(&self, bytes: &mut Vec<u8>) {
        let mut named = |name: &str, inside: &dyn Fn(&mut Vec<u8>)| {
            bytes.put_text(expression::NAME, name);
            bytes.put_nested(expression::DATA, |data| inside(data));
        };
        match self {
            Self::Meta(key, to) => named("meta", &|data| {
                data.put_u32(attribute::META_REGISTER, register(*to));
                data.put_u32(attribute::META_KEY, *key as u32);
            }),
            Self::Payload(header, offset, length, to) => named("payload", &|data| {
                data.put_u32(attribute::PAYLOAD_REGISTER, register(*to));
                data.put_u32(attribute::PAYLOAD_BASE, *header as u32);
                data.put_u32(attribute::PAYLOAD_OFFSET, *offset);
                data.put_u32(attribute::PAYLOAD_LENGTH, *length);
            }),
            Self::Extension(number, to) => named("exthdr", &|data| {
                data.put_u32(attribute::EXTENSION_REGISTER, register(*to));
                data.put(attribute::EXTENSION_NUMBER, &[*number]);
                data.put_u32(attribute::EXTENSION_OFFSET, 0);
                data.put_u32(attribute::EXTENSION_LENGTH, 1);
            }),
            Self::Mask(at, mask) => named("bitwise", &|data| {
                data.put_u32(attribute::BITWISE_FROM, register(*at));
                data.put_u32(attribute::BITWISE_TO, register(*at));
                data.put_u32(attribute::BITWISE_LENGTH, u32::try_from(mask.len()).unwrap_or(u32::MAX));
                put_value(data, attribute::BITWISE_MASK, mask);
                put_value(data, attribute::BITWISE_XOR, &vec![0; mask.len()]);
            }),
            Self::NetworkOrder(at) => named("byteorder", &|data| {
                data.put_u32(attribute::ORDER_FROM, register(*at));
                data.put_u32(attribute::ORDER_TO, register(*at));
                data.put_u32(attribute::ORDER_HOW, 1);
                data.put_u32(attribute::ORDER_LENGTH, 4);
                data.put_u32(attribute::ORDER_SIZE, 4);
            }),
            Self::Is(how, at, value) => named("cmp", &|data| {
                data.put_u32(attribute::COMPARE_REGISTER, register(*at));
                data.put_u32(attribute::COMPARE_HOW, *how as u32);
                put_value(data, attribute::COMPARE_WITH, value);
            }),
            Self::In(set, at) | Self::NotIn(set, at) => named("lookup", &|data| {
                data.put_text(attribute::LOOKUP_SET, set);
                data.put_u32(attribute::LOOKUP_REGISTER, register(*at));
                data.put_u32(attribute::LOOKUP_FLAGS, u32::from(matches!(self, Self::NotIn(..))));
            }),
            Self::FlowState(to) => named("ct", &|data| {
                data.put_u32(attribute::FLOW_REGISTER, register(*to));
                data.put_u32(attribute::FLOW_KEY, 0);
            }),
            Self::Add(set, from) => named("dynset", &|data| {
                data.put_text(attribute::DYNAMIC_SET, set);
                data.put_u32(attribute::DYNAMIC_HOW, 0);
                data.put_u32(attribute::DYNAMIC_KEY, register(*from));
            }),
            Self::Count(counter) => named("objref", &|data| {
                data.put_u32(attribute::OBJECT_KIND, object::COUNTER);
                data.put_text(attribute::OBJECT_NAME, counter);
            }),
            Self::Drop | Self::Accept | Self::Return | Self::Jump(_) | Self::Goto(_) => named("immediate", &|data| {
                data.put_u32(attribute::IMMEDIATE_REGISTER, 0);
                let (code, chain) = match self {
                    Self::Jump(chain) => (verdict::JUMP, Some(chain)),
                    Self::Goto(chain) => (verdict::GOTO, Some(chain)),
                    Self::Accept => (verdict::ACCEPT, None),
                    Self::Return => (verdict::RETURN, None),
                    _ => (verdict::DROP, None),
                };
                let mut inside = Vec::new();
                inside.put(verdict::CODE, &code.to_be_bytes());
                if let Some(chain) = chain {
                    inside.put_text(verdict::CHAIN, chain);
                }
                // Without the flag of attributes that hold others, as the kernel
                // lists it.
                data.put_nested(attribute::IMMEDIATE_DATA, |value| value.put(data::VERDICT, &inside));
            }),
        }
    }
}

fn put_value(bytes: &mut Vec<u8>, kind: u16, value: &[u8]) {
    bytes.put_nested(kind, |inside| inside.put(data::VALUE, value));
}

/// The number of a register, by which the kernel lists it, too: those of sixteen
/// bytes have numbers of their own.
const fn register(of_four: u32) -> u32 {
    if of_four.is_multiple_of(4) { of_four / 4 + 1 } else { of_four + 8 }
}
