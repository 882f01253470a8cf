//! Which addresses have no flow, without a walk through conntrack's table.
//!
//! An ADD of the CNI plugin is answered when no flow of the pod's addresses is left that its rules
//! deny. The kernel cannot say which flows an address has: it walks through its whole table. So
//! packets keep an index: a table of our own in nf_tables, `inet npc`, beside either flavour of
//! iptables. It notes each address of a *domain*, the networks from which pods of this node get
//! addresses, that a packet has at either end. It does so before the filter table, and only for
//! packets whose flow is not ESTABLISHED: one in most flows.
//!
//! ```text
//! FORWARD, INPUT, OUTPUT, -1:
//!               ctstate ESTABLISHED, UNTRACKED           ACCEPT
//!               destination ∈ domain   -j to-ip[6]       add to flows4|6
//!               source ∈ domain        -j from-ip[6]     the same
//! to-ip, …:     if that fails                            add the family to incomplete
//! ```
//!
//! An address that is not noted has no flow, if a *renewal* was made since the table was: a list of
//! all flows, whose addresses were added. A renewal also forgets the addresses that no pod has and
//! that have no flow any more: it removes them first, waits for packets on their way, and then
//! lists. What it removed counts as noted until it has ended.
//!
//! The index is trusted only as long as it is known to be whole:
//!
//! - The table, its sets and its rules are those of the renewal, by the numbers that the kernel
//!   gives once. They are read again whenever anything of nf_tables was committed since.
//! - No packet found a set full, or no memory: its family would be in the set `incomplete`.
//! - The sets still have the unspecified address, which a program that empties them removes.
//! - Nothing let packets pass by these hooks: the *epoch* is that of the renewal.
//! - While another program takes packets out of the kernel (NFQUEUE), nothing is renewed: such a
//!   packet was noted, and its flow is not in a list yet.

use std::collections::BTreeSet;
use std::fs;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::{Mutex, MutexGuard, PoisonError};

use ipnetwork::IpNetwork;
use npc_compiler::object::Family;
use tracing::debug;

mod renewal;
mod rules;
mod table;

pub(in super::super) use renewal::Renewal;
pub(in super::super) use table::fuzz;

use crate::dataplane::nftables::{Error, Socket};

/// What is to be renewed of the index.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RenewalRequest {
    /// The networks whose addresses are noted.
    pub domain: Vec<IpNetwork>,
    /// Since when no packet passed by FORWARD, as a number that grows.
    pub epoch: u64,
    /// What it forgets.
    pub forget: Forget,
}

/// Which addresses a renewal forgets, if they have no flow.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Forget {
    /// These. The other addresses are left as they are, so all flows of these, and only of these,
    /// have to be listed.
    Only(BTreeSet<IpAddr>),
    /// All but these, which pods have. All flows have to be listed, and the index is whole
    /// afterwards, even if it was not before.
    AllBut(BTreeSet<IpAddr>),
}

/// What came of an index, for one sweep.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct IndexLookup {
    /// Addresses of the sweep that have no flow, by the index. Their flows were not looked for.
    pub without_flows: BTreeSet<IpAddr>,
    /// How many of the other addresses are of the domain. They are in the index, or the index does not count.
    pub others: u64,
    /// Whether it was renewed as requested.
    pub is_renewed: bool,
    /// The kernel has no such index.
    pub is_unsupported: bool,
}

/// The index of one network namespace.
#[derive(Debug, Default)]
pub(in super::super) struct Index(Mutex<IndexState>);

#[derive(Debug, Default)]
struct IndexState {
    /// For questions; renewals have their own.
    socket: Option<Socket>,
    /// The networks of the last renewal of everything, even if it failed.
    domain: Vec<IpNetwork>,
    /// The last renewal of everything, if the index is whole since.
    whole: Option<Whole>,
    /// These count as noted while a renewal is at work.
    forgetting: BTreeSet<IpAddr>,
    /// The kernel has no such table.
    is_unsupported: bool,
}

/// A table that is whole, and how it shows that it still is.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Whole {
    domain: Vec<IpNetwork>,
    epoch: u64,
    identity: table::TableHandles,
    /// The number of nf_tables' last commit when the table was last read.
    generation: u32,
}

impl Index {
    /// Finds which of these addresses have no flow, and counts the other addresses of the domain.
    pub(in super::super) fn ask(&self, addresses: &BTreeSet<IpAddr>, epoch: u64) -> IndexLookup {
        let mut state = self.state();
        if state.is_unsupported {
            return IndexLookup { is_unsupported: true, ..IndexLookup::default() };
        }
        let without_flows = state.without_flows(addresses, epoch).unwrap_or_else(|error| {
            debug!(%error, "cannot ask the flow index; looking for flows in conntrack's table");
            // What is left of an answer would be in the next one's way.
            state.socket = None;
            BTreeSet::new()
        });
        // Of other networks it never says anything.
        let is_other = |address: &&IpAddr| covers(&state.domain, **address) && !without_flows.contains(*address);
        let others = addresses.iter().filter(is_other).count() as u64;
        IndexLookup { without_flows, others, ..IndexLookup::default() }
    }

    /// Whether the kernel has no such table, as far as that is known.
    pub(in super::super) fn is_unsupported(&self) -> bool {
        self.state().is_unsupported
    }

    fn state(&self) -> MutexGuard<'_, IndexState> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl IndexState {
    fn without_flows(&mut self, addresses: &BTreeSet<IpAddr>, epoch: u64) -> Result<BTreeSet<IpAddr>, Error> {
        let Some(whole) = self.whole.as_mut().filter(|whole| whole.epoch == epoch) else {
            return Ok(BTreeSet::new());
        };
        let socket = match &mut self.socket {
            Some(socket) => socket,
            none => none.insert(Socket::open()?),
        };
        let mut found = BTreeSet::new();
        for address in addresses {
            let is_known = covers(&whole.domain, *address) && !self.forgetting.contains(address);
            if is_known && !table::has(socket, *address)? {
                found.insert(*address);
            }
        }
        // Only now: what broke the index before the questions shows.
        if !found.is_empty() && !whole.holds(socket)? {
            debug!("the flow index is not whole any more");
            self.whole = None;
            return Ok(BTreeSet::new());
        }
        for family in Family::ALL {
            let is_of = |address: &IpAddr| Family::of(address) == family;
            if found.iter().any(is_of) && !is_complete(socket, family)? {
                found.retain(|address| !is_of(address));
            }
        }
        Ok(found)
    }
}

impl Whole {
    /// Whether the table is still the one that was renewed.
    fn holds(&mut self, socket: &mut Socket) -> Result<bool, Error> {
        let generation = socket.generation()?;
        if generation != self.generation {
            if table::read(socket, &self.domain)? != table::ActualIndexTable::Sound(self.identity.clone()) {
                return Ok(false);
            }
            self.generation = generation;
        }
        Ok(true)
    }
}

/// Whether no address of a family was missed, and no program emptied the family's set.
fn is_complete(socket: &mut Socket, family: Family) -> Result<bool, Error> {
    Ok(table::has(socket, mark(family))? && !table::is_short(socket, family)?)
}

/// The member of a family's set that is no address of a host. A set without it was emptied.
const fn mark(family: Family) -> IpAddr {
    match family {
        Family::V4 => IpAddr::V4(Ipv4Addr::UNSPECIFIED),
        Family::V6 => IpAddr::V6(Ipv6Addr::UNSPECIFIED),
    }
}

/// Whether a program takes packets out of the kernel's hands for a while. They are noted, and not
/// in a list of flows yet.
fn has_queues() -> bool {
    // Of the thread, not of the process: tests enter a namespace per thread. Without the file the
    // kernel has no such queues.
    let queues = fs::read_to_string("/proc/thread-self/net/netfilter/nfnetlink_queue");
    queues.is_ok_and(|queues| !queues.trim().is_empty())
}

fn covers(domain: &[IpNetwork], address: IpAddr) -> bool {
    domain.iter().any(|network| network.contains(address))
}

/// Removes the table. Returns whether it was there.
///
/// # Errors
/// If the kernel does not list it or does not let it go.
pub fn remove() -> Result<bool, Error> {
    table::OWN.remove()
}
