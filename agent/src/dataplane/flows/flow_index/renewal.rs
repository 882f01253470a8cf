//! Renewing the index: forgetting what has no flow any more, and adding what has.

use std::collections::BTreeSet;
use std::fs;
use std::net::IpAddr;

use ipnetwork::IpNetwork;
use npc_compiler::object::Family;
use rustix::io::Errno;

use tracing::{debug, info};

use super::{Forget, Index, RenewalRequest, Whole, covers, has_queues, is_complete, mark, table};
use crate::dataplane::nftables::{Error, Socket};

/// A renewal at work. Between its beginning and its end all flows are to be listed that may have
/// one of its addresses ([`Renewal::note`]), not before packets on their way have passed.
pub(in super::super::super) struct Renewal<'a> {
    index: &'a Index,
    request: &'a RenewalRequest,
    socket: Socket,
    /// What was noted when it began, if all of it is renewed.
    before: BTreeSet<IpAddr>,
    /// What was removed.
    removed: BTreeSet<IpAddr>,
    /// What has flows.
    found: BTreeSet<IpAddr>,
    /// Of the table when it began.
    identity: table::TableHandles,
    /// The networks of the families that the kernel has.
    domain: Vec<IpNetwork>,
    /// How many places the kernel's table of flows has. If that changes, a list of it may lack
    /// some.
    places: Option<String>,
    has_ended: bool,
}

impl Index {
    /// Begins to renew it; nothing if the kernel has no such table, or nothing is to be done.
    pub(in super::super::super) fn renew<'a>(
        &'a self,
        request: &'a RenewalRequest,
        families: &[Family],
    ) -> Option<Renewal<'a>> {
        let of_kernel = |network: &&IpNetwork| families.contains(&Family::of(&network.ip()));
        let domain: Vec<IpNetwork> = request.domain.iter().filter(of_kernel).copied().collect();
        {
            let mut state = self.state();
            if matches!(request.forget, Forget::AllBut(_)) {
                state.domain.clone_from(&domain);
            }
            // Addresses can only be taken out of an index that is whole.
            let is_idle = matches!(request.forget, Forget::Only(_)) && state.whole.is_none();
            if domain.is_empty() || state.is_unsupported || is_idle || has_queues() {
                return None;
            }
        }
        match self.begin(request, domain) {
            Ok(renewal) => renewal,
            Err(error) => {
                debug!(%error, "cannot renew the flow index");
                self.broke(error.is_unsupported());
                None
            }
        }
    }

    /// What the kernel's table holds is not known.
    fn broke(&self, is_unsupported: bool) {
        let mut state = self.state();
        state.whole = None;
        state.forgetting.clear();
        if is_unsupported && !state.is_unsupported {
            info!("this kernel keeps no index of flows, so new pods wait for a walk through its table of connections");
            state.is_unsupported = true;
        }
    }

    fn begin<'a>(&'a self, request: &'a RenewalRequest, domain: Vec<IpNetwork>) -> Result<Option<Renewal<'a>>, Error> {
        let mut socket = Socket::open()?;
        let (identity, before, forgotten) = match &request.forget {
            Forget::Only(addresses) => {
                let mut there = BTreeSet::new();
                for address in addresses.iter().filter(|address| covers(&domain, **address)) {
                    if table::has(&mut socket, *address)? {
                        there.insert(*address);
                    }
                }
                if there.is_empty() {
                    return Ok(None);
                }
                (table::TableHandles::new(), BTreeSet::new(), there)
            }
            Forget::AllBut(kept) => {
                let identity = self.make(&mut socket, &domain)?;
                let before = table::noted(&mut socket)?;
                let marks = Family::ALL.map(mark);
                let is_forgotten = |address: &&IpAddr| !kept.contains(*address) && !marks.contains(address);
                let forgotten = before.iter().filter(is_forgotten).copied().collect();
                let marks: BTreeSet<IpAddr> = marks.into_iter().filter(|mark| !before.contains(mark)).collect();
                let mut short = BTreeSet::new();
                for family in Family::ALL {
                    if table::is_short(&mut socket, family)? {
                        short.insert(family);
                    }
                }
                // What shows that a set lacks addresses goes before it has them again.
                if !marks.is_empty() || !short.is_empty() {
                    self.state().whole = None;
                }
                table::change(&mut socket, &marks, true)?;
                // Flows of packets that found the family there are in the list.
                short.into_iter().try_for_each(|family| table::clear_short(&mut socket, family))?;
                (identity, before, forgotten)
            }
        };
        // From before they are removed, until the list has shown whether they have flows.
        self.state().forgetting.clone_from(&forgotten);
        let places = places();
        table::change(&mut socket, &forgotten, false)?;
        let found = BTreeSet::new();
        let (removed, has_ended) = (forgotten, false);
        Ok(Some(Renewal { index: self, request, socket, before, removed, found, identity, domain, places, has_ended }))
    }

    /// Makes the table, unless it is there.
    fn make(&self, socket: &mut Socket, domain: &[IpNetwork]) -> Result<table::TableHandles, Error> {
        let found = table::read(socket, domain)?;
        let known = self.state().whole.as_ref().map(|whole| whole.identity.clone());
        if let table::ActualIndexTable::Sound(identity) = found {
            if known.is_some_and(|known| known != identity) {
                self.state().whole = None;
            }
            return Ok(identity);
        }
        self.state().whole = None;
        let unsupported = |what: &str| Error::Refused { what: what.to_owned(), errno: Errno::OPNOTSUPP.raw_os_error() };
        match socket.commit(&table::replacement(domain)) {
            // The kernel lacks an expression: everything else that is named is in the same commit.
            Err(error) if error.is_absent() => return Err(unsupported("make the table inet npc")),
            made => made?,
        }
        for _ in 0..2 {
            if let table::ActualIndexTable::Sound(identity) = table::read(socket, domain)? {
                debug!(?domain, was = ?found, "wrote the table inet npc");
                return Ok(identity);
            }
        }
        // An old kernel gives no numbers, or lists another table than it was given.
        socket.commit(&table::OWN.removal())?;
        Err(unsupported("list the table inet npc as it was written"))
    }
}

/// How many places the kernel's table of flows has.
fn places() -> Option<String> {
    fs::read_to_string("/proc/sys/net/netfilter/nf_conntrack_buckets").ok()
}

impl Drop for Renewal<'_> {
    fn drop(&mut self) {
        if !self.has_ended {
            self.index.broke(false);
        }
    }
}

impl Renewal<'_> {
    /// Whether all flows are to be listed, and not only those that other requests ask for.
    pub(in super::super::super) fn is_whole(&self) -> bool {
        matches!(self.request.forget, Forget::AllBut(_))
    }

    /// Whether it matters whether this address has flows.
    pub(in super::super::super) fn concerns(&self, address: IpAddr) -> bool {
        match self.request.forget {
            Forget::AllBut(_) => covers(&self.domain, address),
            Forget::Only(_) => self.removed.contains(&address),
        }
    }

    /// This address has a flow.
    pub(in super::super::super) fn note(&mut self, address: IpAddr) {
        if self.concerns(address) {
            self.found.insert(address);
        }
    }

    /// Ends it. If not all flows were listed, what was removed is put back. Answers whether it did
    /// what it was to do.
    pub(in super::super::super) fn end(mut self, all_listed: bool) -> bool {
        self.has_ended = true;
        let all_listed = all_listed && places() == self.places && !has_queues();
        match self.finish(all_listed) {
            Ok(is_done) => {
                self.index.state().forgetting.clear();
                is_done
            }
            Err(error) => {
                debug!(%error, "cannot renew the flow index");
                self.index.broke(error.is_unsupported());
                false
            }
        }
    }

    fn finish(&mut self, all_listed: bool) -> Result<bool, Error> {
        let mut added = std::mem::take(&mut self.found);
        if !all_listed {
            added.extend(&self.removed);
        }
        added.retain(|address| self.removed.contains(address) || !self.before.contains(address));
        table::change(&mut self.socket, &added, true)?;
        debug!(removed = self.removed.len(), added = added.len(), all_listed, "renewed the flow index");
        if !self.is_whole() || !all_listed {
            return Ok(all_listed);
        }
        let generation = self.socket.generation()?;
        let mut whole = Whole {
            domain: self.domain.clone(),
            epoch: self.request.epoch,
            identity: std::mem::take(&mut self.identity),
            generation: generation.wrapping_sub(1),
        };
        // Read once more: another program may have changed it since the beginning.
        let mut holds = whole.holds(&mut self.socket)?;
        // A set that was full has lost no more than it does now: its family does not count.
        let mut is_complete_in = |family| is_complete(&mut self.socket, family);
        holds &= is_complete_in(Family::V4)? || is_complete_in(Family::V6)?;
        self.index.state().whole = holds.then_some(whole);
        Ok(holds)
    }
}
