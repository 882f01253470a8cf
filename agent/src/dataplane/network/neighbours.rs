//! The kernel's neighbour tables: which link-layer address a host on a link has.
//!
//! While the kernel asks for a neighbour's link-layer address (ARP, neighbour discovery), it keeps the packets for that
//! neighbour, and delivers them when the answer comes. These packets have crossed FORWARD. So rules that are written
//! meanwhile do not judge them, and no wait for packets among the rules covers them: the kernel asks for some seconds.
//!
//! Only an entry in the state INCOMPLETE has such packets. The kernel drops them when the entry is
//! deleted.

use std::collections::BTreeSet;
use std::net::IpAddr;

use netlink_packet_route::neighbour::{NeighbourAddress, NeighbourAttribute, NeighbourMessage, NeighbourState};
use netlink_packet_route::{AddressFamily, RouteNetlinkMessage};
use npc_compiler::object::Family;
use rtnetlink::packet_core::{NLM_F_ACK, NLM_F_DUMP};
use rtnetlink::sys::Socket;
use rustix::io::Errno;

use super::links::{self, Error};
use crate::dataplane::netlink::attribute::{Attributes, ip_address};

/// Where the attributes begin in a message about a neighbour (struct ndmsg).
const HEADER: usize = 12;

/// How many listings are compared at most.
const LISTINGS: usize = 10;

/// The attribute with the neighbour's address.
const NDA_DST: u16 = 1;

/// Drops the packets that wait for the link-layer addresses of these neighbours, on any link of
/// this network namespace. Answers whether the kernel may be delivering some at this moment, because
/// such an answer came just before: those are on their way.
///
/// An entry that another program wrote has a link-layer address, so it is never one of those that are
/// deleted.
///
/// # Errors
/// If the kernel does not list its neighbours, or does not delete one.
pub(in super::super) fn drop_waiting(addresses: &BTreeSet<IpAddr>) -> Result<bool, Error> {
    let mut are_on_their_way = false;
    let socket = links::open()?;
    for family in Family::ALL {
        if !addresses.iter().any(|address| Family::of(address) == family) {
            continue;
        }
        let entries = until_two_agree(|| list(&socket, family, addresses))?;
        let mut unresolved = Vec::new();
        for entry in entries {
            match entry.header.state {
                NeighbourState::Incomplete => unresolved.push(entry),
                // No packet ever waits for these, and none waits for these any more.
                NeighbourState::Permanent | NeighbourState::Noarp | NeighbourState::None | NeighbourState::Failed => {}
                _ => are_on_their_way = true,
            }
        }
        // One may have been resolved since.
        are_on_their_way |= !unresolved.is_empty();
        for entry in unresolved {
            let request = RouteNetlinkMessage::DelNeighbour(name(&entry, family));
            match links::exchange(&socket, request, NLM_F_ACK, |_| true, |_| ())? {
                // It, or its link, went by itself, and the packets with it.
                Ok(()) | Err(Errno::NOENT | Errno::NODEV | Errno::NXIO) => {}
                Err(errno) => {
                    let link = entry.header.ifindex;
                    let doing = format!("delete an unresolved neighbour of the network interface of number {link}");
                    return Err(refused(doing, errno));
                }
            }
        }
    }
    Ok(are_on_their_way)
}

/// The entries about these addresses, by one listing. The kernel does not select entries by their
/// address.
fn list(socket: &Socket, family: Family, addresses: &BTreeSet<IpAddr>) -> Result<Vec<NeighbourMessage>, Error> {
    let mut entries = Vec::new();
    let take = |message| {
        if let RouteNetlinkMessage::NewNeighbour(entry) = message {
            entries.push(entry);
        }
    };
    let is_wanted = |payload: &[u8]| destination(payload).is_some_and(|address| addresses.contains(&address));
    let all = RouteNetlinkMessage::GetNeighbour(of_family(family));
    let listed = links::exchange(socket, all, NLM_F_DUMP, is_wanted, take)?;
    listed.map_err(|errno| refused("list the neighbours".to_owned(), errno))?;
    Ok(entries)
}

/// What listings say once two in a row have the same entries. Between two parts of a listing the kernel
/// may put its entries into a table twice as large, where their order is another: that listing then lacks
/// some and has others twice. The kernel does not report it.
fn until_two_agree(
    mut list: impl FnMut() -> Result<Vec<NeighbourMessage>, Error>,
) -> Result<Vec<NeighbourMessage>, Error> {
    let places = |entries: &[NeighbourMessage]| -> BTreeSet<(u32, Option<IpAddr>)> {
        entries.iter().map(|entry| (entry.header.ifindex, address_of(entry))).collect()
    };
    let mut latest = list()?;
    // Pods come and go meanwhile, but not so many that listings never agree.
    for _ in 1..LISTINGS {
        let next = list()?;
        let agree = places(&latest) == places(&next);
        latest = next;
        if agree {
            break;
        }
    }
    Ok(latest)
}

fn address_of(entry: &NeighbourMessage) -> Option<IpAddr> {
    entry.attributes.iter().find_map(|attribute| match attribute {
        NeighbourAttribute::Destination(NeighbourAddress::Inet(address)) => Some(IpAddr::V4(*address)),
        NeighbourAttribute::Destination(NeighbourAddress::Inet6(address)) => Some(IpAddr::V6(*address)),
        _ => None,
    })
}

fn of_family(family: Family) -> NeighbourMessage {
    let mut message = NeighbourMessage::default();
    message.header.family = match family {
        Family::V4 => AddressFamily::Inet,
        Family::V6 => AddressFamily::Inet6,
    };
    message
}

/// What names an entry.
fn name(entry: &NeighbourMessage, family: Family) -> NeighbourMessage {
    let mut message = of_family(family);
    message.header.ifindex = entry.header.ifindex;
    let is_destination = |attribute: &&NeighbourAttribute| matches!(attribute, NeighbourAttribute::Destination(_));
    message.attributes.extend(entry.attributes.iter().find(is_destination).cloned());
    message
}

/// The address that a message about a neighbour is about.
fn destination(payload: &[u8]) -> Option<IpAddr> {
    ip_address(Attributes(payload.get(HEADER..)?).get(NDA_DST).ok()??)
}

fn refused(doing: String, errno: Errno) -> Error {
    Error::Refused { doing, source: errno.into() }
}

/// Reads what may be an answer about neighbours: for fuzzing.
pub(in super::super) fn fuzz(data: &[u8]) {
    let _ = destination(data);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(last: u8) -> NeighbourMessage {
        let mut entry = of_family(Family::V4);
        entry.header.state = NeighbourState::Incomplete;
        entry.attributes.push(NeighbourAttribute::Destination(NeighbourAddress::Inet([10, 0, 0, last].into())));
        entry
    }

    /// What is found of listings with these entries, and how many it takes.
    fn found(listings: &[&[u8]]) -> (Vec<Option<IpAddr>>, usize) {
        let mut count = 0;
        let all = until_two_agree(|| {
            let listing = listings[count.min(listings.len() - 1)];
            count += 1;
            Ok(listing.iter().map(|last| entry(*last)).collect())
        });
        (all.expect("no listing fails").iter().map(address_of).collect(), count)
    }

    #[test]
    fn an_entry_that_one_listing_lacks_is_found() {
        let two = vec![Some([10, 0, 0, 1].into()), Some([10, 0, 0, 2].into())];
        assert_eq!(found(&[&[1, 2]]), (two.clone(), 2));
        // Its table grew while it was read, at the first or at the second time.
        assert_eq!(found(&[&[1, 1], &[1, 2]]), (two.clone(), 3));
        assert_eq!(found(&[&[1, 2], &[2, 2], &[1, 2]]), (two, 4));
    }

    #[test]
    fn listings_that_never_agree_come_to_an_end() {
        let listings: Vec<Vec<u8>> = (0..50).map(|last| vec![last]).collect();
        let listings: Vec<&[u8]> = listings.iter().map(Vec::as_slice).collect();
        assert_eq!(found(&listings).1, LISTINGS);
    }
}
