//! Cutting all flows of an address, by the kernel itself.
//!
//! When a sandbox is new, no process of its pod has run: every flow that the kernel knows of its
//! address is another pod's, or began before the pod's rules. So no flow has to be judged, and none
//! has to be listed. Since Linux 6.8 the kernel deletes by the filter that lists have (CTA_FILTER).
//! Such a walk passes over the empty places of the table without a lock, so in a table of few
//! entries it takes a twentieth of the time of a list.
//!
//! An older kernel finds a tuple that lacks its protocol, and refuses it.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr};

use netlink_packet_netfilter::conntrack::ConntrackMessage;
use npc_compiler::object::Family;
use rustix::io::Errno;
use tracing::debug;

use super::connection::{ConntrackSocket, TRIES, refused};
use super::{Error, filter};

/// Cuts all flows that these addresses send or get, also flows that policies allow. Answers whether
/// the kernel did: one that cannot filter changes nothing.
///
/// Only for IPv4: of IPv6 addresses the kernel deletes the flows that they do *not* have; see
/// the lists of the kernel's own.
///
/// # Errors
/// If the kernel cannot be asked, or refuses for another reason.
pub fn cut_all_of(addresses: &BTreeSet<Ipv4Addr>) -> Result<bool, Error> {
    let mut connection = ConntrackSocket::open()?;
    for list in addresses.iter().flat_map(|address| filter::ends(IpAddr::V4(*address))) {
        if let Some(error) = cut(&mut connection, &list)? {
            debug!(%error, "this kernel does not delete connections by address");
            return Ok(false);
        }
    }
    Ok(true)
}

/// Cuts the flows of a list. Answers why the kernel refused it, if it did.
fn cut(connection: &mut ConntrackSocket, list: &filter::ListRequest) -> Result<Option<Error>, Error> {
    for _ in 0..TRIES {
        let (tuple, filter) = list.attributes();
        // Without a tuple the kernel would delete all.
        debug_assert!(!tuple.is_empty() && filter.is_some());
        match connection.request(Family::V4, ConntrackMessage::Delete(tuple), filter) {
            Ok(0) => return Ok(None),
            Ok(code) => {
                let error = refused("delete", code);
                let is_unknown =
                    matches!(Errno::from_raw_os_error(code.saturating_abs()), Errno::INVAL | Errno::OPNOTSUPP);
                return if is_unknown { Ok(Some(error)) } else { Err(error) };
            }
            // A late answer would be taken for the next one's.
            Err(error) if error.is_lost() => *connection = ConntrackSocket::open()?,
            Err(error) => return Err(error),
        }
    }
    Err(Error::Lost(TRIES))
}
