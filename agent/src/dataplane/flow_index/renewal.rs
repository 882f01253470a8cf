//! Renewing the index: forgetting what has no flow any more, and adding what has.

use std::collections::BTreeSet;
use std::net::IpAddr;

use tracing::{debug, info};

use super::super::nftables::{Error, Socket};
use super::{Forget, Index, MARKS, RenewalRequest, Whole, covers, table};

/// A renewal at work. Between its beginning and its end all flows are to be listed that may have
/// one of its addresses ([`Renewal::note`]), not before packets on their way have passed.
pub(in super::super) struct Renewal<'a> {
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
    identity: table::Identity,
    missed: u64,
}

impl Index {
    /// Begins to renew it; nothing if the kernel has no such table, or nothing is to be done.
    pub(in super::super) fn renew<'a>(&'a self, request: &'a RenewalRequest) -> Option<Renewal<'a>> {
        {
            let state = self.state();
            // Addresses can only be taken out of an index that is whole.
            let is_idle = matches!(request.forget, Forget::Only(_)) && state.whole.is_none();
            if request.domain.is_empty() || state.is_unsupported || is_idle {
                return None;
            }
        }
        match self.begin(request) {
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

    fn begin<'a>(&'a self, request: &'a RenewalRequest) -> Result<Option<Renewal<'a>>, Error> {
        let mut socket = Socket::open()?;
        let (identity, before, forgotten) = match &request.forget {
            Forget::Only(addresses) => {
                let mut there = BTreeSet::new();
                for address in addresses.iter().filter(|address| covers(&request.domain, **address)) {
                    if table::has(&mut socket, *address)? {
                        there.insert(*address);
                    }
                }
                if there.is_empty() {
                    return Ok(None);
                }
                (table::Identity::new(), BTreeSet::new(), there)
            }
            Forget::AllBut(kept) => {
                let identity = self.make(&mut socket, request)?;
                let before = table::noted(&mut socket)?;
                let is_forgotten = |address: &&IpAddr| !kept.contains(*address) && !MARKS.contains(address);
                let forgotten = before.iter().filter(is_forgotten).copied().collect();
                let marks: BTreeSet<IpAddr> = MARKS.into_iter().filter(|mark| !before.contains(mark)).collect();
                table::change(&mut socket, &marks, true)?;
                (identity, before, forgotten)
            }
        };
        // From before they are removed, until the list has shown whether they have flows.
        self.state().forgetting.clone_from(&forgotten);
        let missed = if identity.is_empty() { 0 } else { table::missed(&mut socket)? };
        table::change(&mut socket, &forgotten, false)?;
        let found = BTreeSet::new();
        Ok(Some(Renewal { index: self, request, socket, before, removed: forgotten, found, identity, missed }))
    }

    /// Makes the table, unless it is there.
    fn make(&self, socket: &mut Socket, request: &RenewalRequest) -> Result<table::Identity, Error> {
        let found = table::read(socket, &request.domain)?;
        let known = self.state().whole.as_ref().map(|whole| whole.identity.clone());
        if let table::Found::Sound(identity) = found {
            if known.is_some_and(|known| known != identity) {
                self.state().whole = None;
            }
            return Ok(identity);
        }
        self.state().whole = None;
        socket.commit(&table::replacement(&request.domain))?;
        match table::read(socket, &request.domain)? {
            table::Found::Sound(identity) => {
                debug!(domain = ?request.domain, was = ?found, "wrote the table inet npc");
                Ok(identity)
            }
            // Another program removed it at once, or a kernel keeps it in another way.
            _ => Err(Error::Interrupted("make the table inet npc".to_owned())),
        }
    }
}

impl Renewal<'_> {
    /// Whether all flows are to be listed, whatever else asks for which.
    pub(in super::super) fn is_whole(&self) -> bool {
        matches!(self.request.forget, Forget::AllBut(_))
    }

    /// Whether it matters whether this address has flows.
    pub(in super::super) fn concerns(&self, address: IpAddr) -> bool {
        match self.request.forget {
            Forget::AllBut(_) => covers(&self.request.domain, address),
            Forget::Only(_) => self.removed.contains(&address),
        }
    }

    /// This address has a flow.
    pub(in super::super) fn note(&mut self, address: IpAddr) {
        if self.concerns(address) {
            self.found.insert(address);
        }
    }

    /// Ends it. If not all flows were listed, what was removed is put back.
    pub(in super::super) fn end(mut self, all_listed: bool) {
        match self.finish(all_listed) {
            Ok(()) => self.index.state().forgetting.clear(),
            Err(error) => {
                debug!(%error, "cannot renew the flow index");
                self.index.broke(error.is_unsupported());
            }
        }
    }

    fn finish(&mut self, all_listed: bool) -> Result<(), Error> {
        let mut added = std::mem::take(&mut self.found);
        if !all_listed {
            added.extend(&self.removed);
        }
        added.retain(|address| self.removed.contains(address) || !self.before.contains(address));
        table::change(&mut self.socket, &added, true)?;
        debug!(removed = self.removed.len(), added = added.len(), all_listed, "renewed the flow index");
        if !self.is_whole() || !all_listed {
            return Ok(());
        }
        let generation = self.socket.generation()?;
        let mut whole = Whole {
            domain: self.request.domain.clone(),
            epoch: self.request.epoch,
            identity: std::mem::take(&mut self.identity),
            missed: self.missed,
            generation: generation.wrapping_sub(1),
        };
        // Read once more: another program may have changed it since the beginning.
        let holds = whole.holds(&mut self.socket)?;
        self.index.state().whole = holds.then_some(whole);
        Ok(())
    }
}
