//! Which endpoints list an address, and which of them hold it.

use std::collections::BTreeMap;
use std::net::IpAddr;

use super::{PodSlot, Store, hash};
use crate::cluster::claim::{self, Claim, Standing};
use crate::object::Family;

/// An address that several endpoints list.
#[derive(Debug)]
pub(in crate::engine) struct StoredContest {
    /// All that list it.
    pub(in crate::engine) claimants: Vec<PodSlot>,
    /// Those that hold it, as this node sees it.
    pub(in crate::engine) holders: Vec<PodSlot>,
}

impl Store {
    /// One of the endpoints that list an address.
    fn lister(&self, address: IpAddr) -> Option<&PodSlot> {
        let family = Family::of(&address);
        let owners = &self.owners[family as usize];
        owners.find(hash(address), |owner| self.listed(*owner, family) == Some(address))
    }

    /// The endpoints that hold an address: none if no endpoint lists it, several
    /// where nothing shows which of them has it.
    pub(in crate::engine) fn holders(&self, address: IpAddr) -> &[PodSlot] {
        match self.contests.get(&address) {
            Some(contest) => &contest.holders,
            None => self.lister(address).map(std::slice::from_ref).unwrap_or_default(),
        }
    }

    /// The addresses that several endpoints list.
    pub(in crate::engine) fn contests(&self) -> &BTreeMap<IpAddr, StoredContest> {
        &self.contests
    }

    /// The address of a family that a pod lists and holds.
    pub(in crate::engine) fn address(&self, pod: PodSlot, family: Family) -> Option<IpAddr> {
        self.listed(pod, family).filter(|address| self.holders(*address).contains(&pod))
    }

    fn disown(&mut self, address: IpAddr, pod: PodSlot) {
        let owners = &mut self.owners[Family::of(&address) as usize];
        if let Ok(found) = owners.find_entry(hash(address), |owner| *owner == pod) {
            found.remove();
        }
    }

    fn own(&mut self, address: IpAddr, pod: PodSlot) {
        let family = Family::of(&address);
        let mut owners = std::mem::take(&mut self.owners[family as usize]);
        owners.insert_unique(hash(address), pod, |owner| self.listed(*owner, family).map_or(0, hash));
        self.owners[family as usize] = owners;
    }

    pub(super) fn claim(&mut self, address: IpAddr, pod: PodSlot) {
        match self.lister(address).copied() {
            None => self.own(address, pod),
            Some(lister) => {
                let new = || StoredContest { claimants: vec![lister], holders: Vec::new() };
                self.contests.entry(address).or_insert_with(new).claimants.push(pod);
                self.decide(address);
            }
        }
    }

    pub(super) fn give_up(&mut self, address: IpAddr, pod: PodSlot) {
        let is_lister = self.lister(address) == Some(&pod);
        if is_lister {
            self.disown(address, pod);
        }
        let Some(contest) = self.contests.get_mut(&address) else { return };
        contest.claimants.retain(|claimant| *claimant != pod);
        let (other, count) = (contest.claimants.first().copied(), contest.claimants.len());
        if let Some(other) = other.filter(|_| is_lister) {
            self.own(address, other);
        }
        if count < 2 {
            self.contests.remove(&address);
        } else {
            self.decide(address);
        }
    }

    /// Decides anew which pods hold a contested address.
    pub(in crate::engine) fn decide(&mut self, address: IpAddr) {
        let Some(contest) = self.contests.get(&address) else { return };
        let claim = |pod: &PodSlot| {
            let node = self.pod(*pod).node;
            let of_node = |node| Standing::of(self.nodes.get(&node).map(|cidrs| &**cidrs), address);
            let standing = node.map_or(Standing::Silent, of_node);
            let terminating = self.terminating.contains(pod);
            (*pod, Claim { terminating, started: self.started.get(pod).copied(), standing })
        };
        let own: Vec<_> = contest.claimants.iter().filter(|pod| self.is_here(**pod)).map(claim).collect();
        let mut holders = if own.is_empty() {
            claim::elsewhere(&contest.claimants.iter().map(claim).collect::<Vec<_>>())
        } else {
            claim::here(&own)
        };
        holders.sort_by_cached_key(|pod| self.identity(*pod));
        if let Some(contest) = self.contests.get_mut(&address) {
            contest.holders = holders;
        }
    }
}
