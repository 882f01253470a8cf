//! A table of our own that filters what iptables does not get from a bridge: `bridge npc` in
//! nf_tables, beside either flavour of iptables.
//!
//! br_netfilter hands iptables only frames whose type is IPv4, IPv6 or ARP, and
//! iptables knows the port of a bridge by no set. So where anything is isolated
//! this table drops, of frames from *pods' ports* and no others, what is none of
//! these three (tags, MPLS, PPPoE, LLC), odd ARP, and what only routers send; and
//! of frames *to* isolated pods those which are for none of their addresses. With
//! `--anti-spoof` it holds each port to its pod's addresses.
//!
//! ```text
//! PREROUTING, -300:  from ports    type other than IPv4, IPv6, ARP         DROP
//!                                  ARP not Ethernet/IPv4, or over 46 bytes DROP
//!                                  ICMPv6 134, 137                         DROP
//!                                  a frame for many with a packet for one  DROP
//!                                  a source that is many                   DROP
//!                    from held     Ethernet source ∉ senders               DROP
//!                                  ARP sender, source, ND target ∉ addresses  DROP
//!                                  no source, and not of the link          DROP
//! FORWARD, -300:     to guarded    unicast destination ∉ addresses         DROP
//!          from confined to known  the same                                DROP
//! ```
//!
//! Ports are members by their *indexes*. The kernel gives an index once, while a
//! name may be the next pod's again: so what is left here, by an agent that ended
//! or by one whose successor is older and does not know the table, holds no pod
//! that comes later.
//!
//! Which addresses are a port's, the kernel says ([`peer`]).

use std::collections::BTreeSet;
use std::net::IpAddr;

use tracing::{debug, info};

mod chains;
pub mod peer;
mod rules;
mod table;

pub(super) use table::fuzz;

use super::nftables::{Error, Socket};

/// An Ethernet address.
pub type EthernetAddress = [u8; 6];

/// What the table is to say of the ports of this node's bridges. All of them are
/// indexes of network interfaces.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct BridgeTable {
    /// The ports of pods' bridges, if anything is isolated.
    pub ports: BTreeSet<u32>,
    /// With `--anti-spoof`, also if nothing is isolated: the ports from which frames pass only with the pod's own
    /// source addresses.
    pub pinned: BTreeSet<u32>,
    /// The ports to which frames pass only for the pod's own addresses.
    pub guarded: BTreeSet<u32>,
    /// The ports from which frames to a known port pass only for that port's own addresses.
    pub confined: BTreeSet<u32>,
    /// The ports whose addresses are known.
    pub known: BTreeSet<u32>,
    /// The Ethernet addresses of ports that are pinned.
    pub senders: BTreeSet<(u32, EthernetAddress)>,
    /// The known addresses of ports.
    pub addresses: BTreeSet<(u32, IpAddr)>,
}

impl BridgeTable {
    /// Whether no table is needed.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.ports.is_empty() && self.pinned.is_empty()
    }
}

/// What became of the table.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct TableWrite {
    /// Something was written.
    pub wrote: bool,
    /// Another program had changed it, or removed it.
    pub drifted: bool,
}

/// The table of one network namespace.
#[derive(Debug, Default)]
pub(super) struct BridgeFilter {
    socket: Option<Socket>,
    /// What the kernel holds, as far as that is known.
    known: Option<BridgeTable>,
    /// The number of nf_tables' last commit when that was read. The next commit,
    /// of any program, has another.
    generation: Option<u32>,
    /// It was written by us, and so can drift.
    is_ours: bool,
}

impl BridgeFilter {
    /// Makes the kernel's table equal to what is desired; reads it where it is not
    /// known, or where anything of nf_tables was changed since it was read.
    ///
    /// Each change is one commit, so a frame meets the table before or after it.
    pub(super) fn set(&mut self, desired: &BridgeTable) -> Result<TableWrite, Error> {
        if desired.is_empty() && self.socket.is_none() && !super::nftables::nf_tables_is_loaded() {
            // To ask would load the module.
            return Ok(TableWrite::default());
        }
        let mut socket = match self.socket.take() {
            Some(socket) => socket,
            None => Socket::open()?,
        };
        let written = self.set_over(&mut socket, desired);
        if written.is_err() {
            // What the kernel holds now is not known.
            (self.known, self.generation) = (None, None);
        }
        self.socket = Some(socket);
        written
    }

    fn set_over(&mut self, socket: &mut Socket, desired: &BridgeTable) -> Result<TableWrite, Error> {
        let mut drifted = false;
        let generation = match socket.generation() {
            Ok(generation) => generation,
            // Without nf_tables there is no table of ours.
            Err(error) if error.is_unsupported() && desired.is_empty() => return Ok(TableWrite::default()),
            Err(error) => return Err(error),
        };
        if self.known.is_none() || self.generation != Some(generation) {
            let found = table::read(socket)?;
            let as_known = match (&self.known, &found) {
                (Some(known), table::ActualBridgeTable::Sound(found)) => known == found,
                (Some(known), table::ActualBridgeTable::Absent) => known.is_empty(),
                (Some(_), table::ActualBridgeTable::Changed(_)) => false,
                (None, _) => true,
            };
            drifted = self.is_ours && !as_known;
            if let (table::ActualBridgeTable::Changed(what), false) = (&found, drifted) {
                info!(what, "replacing the table bridge npc of another version");
            }
            let actual = match found {
                table::ActualBridgeTable::Sound(actual) => Some(actual),
                table::ActualBridgeTable::Absent => Some(BridgeTable::default()),
                table::ActualBridgeTable::Changed(_) => None,
            };
            // From here on it is what is written that counts.
            self.generation = actual.is_some().then_some(generation);
            if actual.as_ref() != Some(desired) {
                self.write(socket, actual.as_ref(), desired)?;
                return Ok(TableWrite { wrote: true, drifted });
            }
            self.known = actual;
            self.is_ours = true;
            return Ok(TableWrite { wrote: false, drifted });
        }
        let known = self.known.take();
        if known.as_ref() == Some(desired) {
            self.known = known;
            return Ok(TableWrite::default());
        }
        self.write(socket, known.as_ref(), desired)?;
        Ok(TableWrite { wrote: true, drifted })
    }

    fn write(&mut self, socket: &mut Socket, actual: Option<&BridgeTable>, desired: &BridgeTable) -> Result<(), Error> {
        let batch = table::batch(actual, desired);
        socket.commit(&batch)?;
        debug!(
            writes = batch.len(),
            ports = desired.ports.len(),
            held = desired.pinned.len(),
            "wrote the table bridge npc"
        );
        // The commit has a number that is not known, and another program may have
        // committed after it: the next time it is read.
        self.generation = None;
        self.known = Some(desired.clone());
        self.is_ours = true;
        Ok(())
    }
}

/// Removes the table. Returns whether it was there.
///
/// # Errors
/// If the kernel does not list it or does not let it go.
pub fn remove() -> Result<bool, Error> {
    table::OWN.remove()
}
