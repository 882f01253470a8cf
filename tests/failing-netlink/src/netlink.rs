//! As much of netlink as it takes to distinguish requests, to cut one short and
//! to refuse one. Numbers are the kernel's: linux/netlink.h,
//! linux/netfilter/ipset/ip_set.h, linux/netfilter/nfnetlink_conntrack.h.

use std::net::IpAddr;

/// The parts of netfilter that meet faults.
const CONNTRACK: u8 = 1;
const IPSET: u8 = 6;

/// netlink's header, and netfilter's behind it.
const HEADER: usize = 16;
const BOTH_HEADERS: usize = HEADER + 4;

const ERROR: u16 = 2;
const DUMP: u16 = 0x300;
/// A list that something changed while it was made.
const INCONSISTENT: u16 = 0x10;

/// ipset's commands that write, and the attributes of members.
const CREATE: u8 = 2;
const ADD: u8 = 9;
const DELETE: u8 = 10;
const MEMBERS: u16 = 8;
const LINE: u16 = 9;

/// An attribute's kind without its flags.
const KIND: u16 = 0x3fff;

/// A request to ipset or conntrack, one message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Request(Vec<u8>);

impl Request {
    /// What is sent, if it is one.
    pub(crate) fn read(bytes: Vec<u8>) -> Option<Self> {
        let is_whole = bytes.len() >= BOTH_HEADERS && u32_at(&bytes, 0) as usize == bytes.len();
        (is_whole && matches!(bytes[5], CONNTRACK | IPSET)).then_some(Self(bytes))
    }

    pub(crate) fn is_ipset(&self) -> bool {
        self.0[5] == IPSET
    }

    /// Whether it asks for a list.
    pub(crate) fn is_list(&self) -> bool {
        u16_at(&self.0, 6) & DUMP == DUMP
    }

    pub(crate) fn number(&self) -> u32 {
        u32_at(&self.0, 8)
    }

    pub(crate) fn bytes(&self) -> &[u8] {
        &self.0
    }

    /// What it asks for, for people.
    pub(crate) fn what(&self) -> String {
        let command = self.0[4];
        let name = match (self.0[5], command) {
            (IPSET, 1) => "protocol",
            (IPSET, 2) => "create",
            (IPSET, 3) => "destroy",
            (IPSET, 4) => "flush",
            (IPSET, 7) => "list",
            (IPSET, ADD) => "add",
            (IPSET, DELETE) => "delete",
            (IPSET, 13) => "revisions",
            (CONNTRACK, 1) => "flows: list",
            (CONNTRACK, 2) => "flows: delete",
            _ => return format!("command {command} of part {}", self.0[5]),
        };
        name.to_owned()
    }

    /// Whether it makes a set of this type, or adds or deletes this address.
    pub(crate) fn writes(&self, what: &str) -> bool {
        if !self.is_ipset() || !matches!(self.0[4], CREATE | ADD | DELETE) {
            return false;
        }
        let bytes = match what.parse() {
            Ok(IpAddr::V4(address)) => address.octets().to_vec(),
            Ok(IpAddr::V6(address)) => address.octets().to_vec(),
            // A text of netlink ends with a zero.
            Err(_) => [what.as_bytes(), &[0]].concat(),
        };
        self.0[BOTH_HEADERS..].windows(bytes.len()).any(|window| window == bytes)
    }

    /// How many members it adds or deletes.
    pub(crate) fn members(&self) -> usize {
        self.list_of_members().map_or(0, |list| attributes(&self.0[list.inside()]).count())
    }

    fn list_of_members(&self) -> Option<Attribute> {
        let has_members = self.is_ipset() && matches!(self.0[4], ADD | DELETE);
        self.attribute(MEMBERS).filter(|_| has_members)
    }

    fn attribute(&self, kind: u16) -> Option<Attribute> {
        let mut found = attributes(&self.0[BOTH_HEADERS..]).find(|attribute| attribute.kind == kind)?;
        found.at += BOTH_HEADERS;
        Some(found)
    }

    /// The same with the first members only. The list is the last attribute.
    pub(crate) fn with_first(&self, count: usize) -> Option<Self> {
        let list = self.list_of_members()?;
        let next = attributes(&self.0[list.inside()]).nth(count)?;
        let end = list.inside().start + next.at;
        let mut bytes = self.0[..end].to_vec();
        let (whole, inner) = (u32::try_from(end).ok()?, u16::try_from(end - list.at).ok()?);
        bytes[..4].copy_from_slice(&whole.to_ne_bytes());
        bytes[list.at..list.at + 2].copy_from_slice(&inner.to_ne_bytes());
        Some(Self(bytes))
    }

    /// The answer that refuses it with an error number; of a request with
    /// members, at this line.
    pub(crate) fn refused(&self, error: i32, line: Option<u32>) -> Vec<u8> {
        let mut quoted = self.0.clone();
        if let (Some(line), Some(at)) = (line, self.attribute(LINE)) {
            quoted[at.inside()].copy_from_slice(&line.to_be_bytes());
        }
        let mut answer = vec![0; HEADER];
        answer.extend((-error).to_ne_bytes());
        answer.extend(quoted);
        let length = u32::try_from(answer.len()).unwrap_or(u32::MAX);
        answer[..4].copy_from_slice(&length.to_ne_bytes());
        answer[4..6].copy_from_slice(&ERROR.to_ne_bytes());
        answer[8..12].copy_from_slice(&self.number().to_ne_bytes());
        answer
    }
}

/// Whether an answer says that the request of this number was carried out;
/// nothing if it is about another.
pub(crate) fn is_done(answer: &[u8], number: u32) -> Option<bool> {
    let is_answer = answer.len() >= HEADER + 4 && u16_at(answer, 4) == ERROR && u32_at(answer, 8) == number;
    is_answer.then(|| u32_at(answer, HEADER) == 0)
}

/// Marks every message of a list as one that changed meanwhile.
pub(crate) fn make_inconsistent(answer: &mut [u8]) {
    let mut at = 0;
    while at + HEADER <= answer.len() {
        let flags = u16_at(answer, at + 6) | INCONSISTENT;
        answer[at + 6..at + 8].copy_from_slice(&flags.to_ne_bytes());
        at += (u32_at(answer, at) as usize).max(HEADER).next_multiple_of(4);
    }
}

/// Where an attribute is.
#[derive(Debug, Clone, Copy)]
struct Attribute {
    at: usize,
    length: usize,
    kind: u16,
}

impl Attribute {
    fn inside(self) -> std::ops::Range<usize> {
        self.at + 4..self.at + self.length
    }
}

fn attributes(bytes: &[u8]) -> impl Iterator<Item = Attribute> {
    let mut at = 0;
    std::iter::from_fn(move || {
        if at + 4 > bytes.len() {
            return None;
        }
        let (length, kind) = (usize::from(u16_at(bytes, at)), u16_at(bytes, at + 2) & KIND);
        let attribute = Attribute { at, length, kind };
        let is_whole = length >= 4 && at + length <= bytes.len();
        at += length.max(4).next_multiple_of(4);
        is_whole.then_some(attribute)
    })
}

fn u16_at(bytes: &[u8], at: usize) -> u16 {
    u16::from_ne_bytes([bytes[at], bytes[at + 1]])
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_ne_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]])
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `add npc4-n 10.0.0.0/8` and `add npc4-n 192.0.2.1`, as ipset(8) asks.
    const ADDS: &str = "\
6c 00 00 00 09 06 05 00  1b 02 04 6b 00 00 00 00  02 00 00 00 05 00 01 00  07 00 00 00 0b 00 02 00
6e 70 63 34 2d 6e 00 00  08 00 09 40 00 00 00 01  3c 00 08 80 20 00 07 80  0c 00 01 80 08 00 01 40
0a 00 00 00 05 00 03 00  08 00 00 00 08 00 09 40  00 00 00 01 18 00 07 80  0c 00 01 80 08 00 01 40
c0 00 02 01 08 00 09 40  00 00 00 02";

    fn adds() -> Request {
        let bytes = ADDS.split_whitespace().map(|byte| u8::from_str_radix(byte, 16).expect("two digits"));
        Request::read(bytes.collect()).expect("it is one")
    }

    #[test]
    fn a_request_is_recognised_by_its_header_and_cut_behind_a_member() {
        let adds = adds();
        assert_eq!((adds.what(), adds.members(), adds.is_list()), ("add".to_owned(), 2, false));
        let first = adds.with_first(1).expect("there are two");
        assert_eq!((first.members(), first.bytes().len()), (1, adds.bytes().len() - 24));
        assert_eq!(Request::read(first.bytes().to_vec()), Some(first));
        assert_eq!(adds.with_first(2), None);
        assert_eq!(Request::read(b"GET /metrics HTTP/1.0\r\n\r\n".to_vec()), None);
    }

    #[test]
    fn a_refusal_quotes_the_request_with_the_line() {
        let adds = adds();
        let answer = adds.refused(12, Some(2));
        assert_eq!(is_done(&answer, adds.number()), Some(false));
        assert_eq!(is_done(&answer, 7), None);
        assert_eq!((u32_at(&answer, 0) as usize, answer.len()), (20 + 108, 20 + 108));
        assert_eq!(answer[20 + 44..20 + 48], [0, 0, 0, 2]);
    }

    #[test]
    fn all_messages_of_a_list_are_marked() {
        let mut two = [adds().0, adds().0].concat();
        make_inconsistent(&mut two);
        assert_eq!([u16_at(&two, 6), u16_at(&two, 108 + 6)], [0x15, 0x15]);
    }
}
