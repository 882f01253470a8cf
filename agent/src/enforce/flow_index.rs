//! When the kernel's index of addresses that have flows counts, and when it is renewed.
//!
//! ```text
//! ADD ─▶ urgent sweep ─┬▶ not in the index: done
//!                      └▶ in it, or it does not count: as without an index
//!                          └─▶ renewal, with the next sweep of what is pending
//! ```
//!
//! A sweep of all flows renews all of the index, because it lists all flows anyway. A sweep of
//! some flows forgets the addresses among them that have had no owner for long. An ADD that found
//! its address in the index shows that it has addresses that no pod had. Then all of it is renewed,
//! but not soon again: while addresses get flows faster than they are forgotten, each ADD finds its own.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::time::Duration;

use ipnetwork::IpNetwork;
use npc_compiler::plan::conntrack::FlowScope;
use tokio::time::Instant;
use tracing::warn;

use crate::dataplane::CutRequest;
use crate::dataplane::flow_index::{Forget, IndexLookup, RenewalRequest};

/// Renewals that only ADDs ask for begin so long after each other at least. The kernel remembers
/// most flows for longer when they have ended.
const PAUSE: Duration = Duration::from_secs(30);

/// A node has one or two networks of pods. The rules that note their addresses cost each first
/// packet some time, so no Node has more of them.
const MOST_NETWORKS: usize = 8;

/// The networks of this node's pods, as its Node has them.
#[derive(Debug, PartialEq, Eq)]
enum Networks {
    /// The Node is among the objects, or there is none yet.
    OfNodes(Vec<IpNetwork>),
    /// The source says so apart from the objects.
    OfSource(Vec<IpNetwork>),
}

impl Default for Networks {
    fn default() -> Self {
        Self::OfNodes(Vec::new())
    }
}

/// What the agent knows of the kernel's index.
#[derive(Debug, Default)]
pub(super) struct FlowIndex {
    /// The operator's agent keeps one.
    is_on: bool,
    /// The networks of this node's pods.
    networks: Networks,
    /// Those of them whose addresses are noted.
    domain: Vec<IpNetwork>,
    /// Grows whenever flows may have begun that the index does not have.
    epoch: u64,
    /// Packets pass by FORWARD, so the index does not count.
    is_bypassed: bool,
    /// All of it is to be renewed, though no sweep of all flows is due.
    is_due: bool,
    /// When that may begin.
    not_before: Option<Instant>,
}

impl FlowIndex {
    /// An index is kept from now on.
    pub(super) fn turn_on(&mut self) {
        self.is_on = true;
    }

    /// Pods of this node get their addresses from these networks, as the source says apart from the
    /// objects.
    pub(super) fn use_networks_of_source(&mut self, networks: &[IpNetwork]) {
        self.set_domain(Networks::OfSource(networks.to_vec()));
    }

    /// Pods of this node get their addresses from these networks, as its Node among the objects says. What
    /// the source says apart from the objects goes before that.
    pub(super) fn use_networks_of_node(&mut self, networks: &[IpNetwork]) {
        if matches!(self.networks, Networks::OfNodes(_)) {
            self.set_domain(Networks::OfNodes(networks.to_vec()));
        }
    }

    /// Pods of this node get their addresses from these networks.
    fn set_domain(&mut self, networks: Networks) {
        // Each pass says so.
        if !self.is_on || networks == self.networks {
            return;
        }
        self.networks = networks;
        let (Networks::OfNodes(networks) | Networks::OfSource(networks)) = &self.networks;
        // The unspecified address is no host's, and has a meaning of its own in the sets.
        let unspecified = [IpAddr::from([0; 4]), IpAddr::from([0; 16])];
        let is_useful = |network: &&IpNetwork| !unspecified.iter().any(|address| network.contains(*address));
        let domain: Vec<IpNetwork> = networks.iter().filter(is_useful).take(MOST_NETWORKS).copied().collect();
        if domain.len() < networks.len() {
            let listed = |networks: &[IpNetwork]| {
                let texts: Vec<String> = networks.iter().map(ToString::to_string).collect();
                texts.join(", ")
            };
            warn!(
                pod_cidrs = listed(networks),
                used = listed(&domain),
                "the index of addresses with flows leaves out some pod CIDRs"
            );
        }
        if domain != self.domain {
            self.domain = domain;
            self.epoch += 1;
            (self.is_due, self.not_before) = (true, None);
        }
    }

    /// Whether packets between pods pass by FORWARD.
    pub(super) fn is_bypassed(&mut self, is_bypassed: bool) {
        if is_bypassed {
            self.epoch += 1;
        }
        self.is_bypassed = is_bypassed;
    }

    /// Flows may have begun without a packet in FORWARD.
    pub(super) fn was_bypassed(&mut self) {
        self.epoch += 1;
    }

    /// What a sweep of these addresses asks the index by; nothing if it is not to be asked.
    pub(super) fn asked_by(&self, addresses: &BTreeSet<IpAddr>) -> Option<u64> {
        let is_covered = |address: &IpAddr| self.domain.iter().any(|network| network.contains(*address));
        (!self.is_bypassed && addresses.iter().any(is_covered)).then_some(self.epoch)
    }

    /// A sweep went well. If an address that it asked about was in the index, or the index does not
    /// count, or was not renewed, it is renewed later.
    pub(super) fn swept(&mut self, cut: &CutRequest, answer: &IndexLookup) {
        if answer.is_unsupported {
            // The kernel is asked once.
            (self.is_on, self.is_due) = (false, false);
            self.domain.clear();
            return;
        }
        self.is_due |= answer.others > 0;
        if !answer.is_renewed {
            self.failed(cut);
        }
    }

    /// A sweep did not renew what it was to renew.
    pub(super) fn failed(&mut self, cut: &CutRequest) {
        self.is_due |= cut.renewal.as_ref().is_some_and(|renewal| matches!(renewal.forget, Forget::AllBut(_)));
    }

    /// Whether a table is kept, or may be.
    pub(super) fn is_kept(&self) -> bool {
        self.is_on && !self.domain.is_empty()
    }

    /// When a renewal begins that no sweep comes with; nothing if none is due.
    pub(super) fn due(&self, now: Instant) -> Option<Instant> {
        let can_begin = !self.domain.is_empty() && !self.is_bypassed;
        (self.is_due && can_begin).then(|| self.not_before.unwrap_or(now))
    }

    /// What a sweep through a scope renews that begins now. `departed` have had no owner for long,
    /// and the `owned` addresses are those of pods.
    pub(super) fn renewal(
        &mut self,
        scope: &FlowScope,
        departed: &BTreeSet<IpAddr>,
        owned: impl Iterator<Item = IpAddr>,
    ) -> Option<RenewalRequest> {
        if self.domain.is_empty() || self.is_bypassed {
            return None;
        }
        let now = Instant::now();
        let is_whole = *scope == FlowScope::All || self.due(now).is_some_and(|due| due <= now);
        let forget = if is_whole {
            (self.is_due, self.not_before) = (false, Some(now + PAUSE));
            Forget::AllBut(owned.collect())
        } else {
            let listed: BTreeSet<IpAddr> = departed.iter().copied().filter(|address| scope.covers(*address)).collect();
            if listed.is_empty() {
                return None;
            }
            Forget::Only(listed)
        };
        Some(RenewalRequest { domain: self.domain.clone(), epoch: self.epoch, forget })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn networks(texts: &[&str]) -> Vec<IpNetwork> {
        texts.iter().map(|text| text.parse().expect("a network")).collect()
    }

    #[test]
    fn an_epoch_ends_where_packets_may_have_passed_by_the_index() {
        let address: BTreeSet<IpAddr> = ["10.0.0.2".parse().expect("an address")].into();
        let now = Instant::now();
        let mut index = FlowIndex::default();
        index.use_networks_of_node(&networks(&["10.0.0.0/24"]));
        assert_eq!(index.renewal(&FlowScope::All, &BTreeSet::new(), std::iter::empty()), None, "it is off");
        index.turn_on();
        index.use_networks_of_node(&networks(&["10.0.0.0/24"]));
        let mut epochs = vec![index.epoch];
        index.use_networks_of_node(&networks(&["10.0.0.0/24", "fd00::/64"]));
        epochs.push(index.epoch);
        index.was_bypassed();
        epochs.push(index.epoch);
        index.is_bypassed(true);
        epochs.push(index.epoch);
        assert!(epochs.is_sorted_by(|a, b| a < b), "{epochs:?}");
        // While they do, the index is not asked, and not renewed.
        assert_eq!((index.asked_by(&address), index.due(now)), (None, None));
        assert_eq!(index.renewal(&FlowScope::All, &BTreeSet::new(), std::iter::empty()), None);
        index.is_bypassed(false);
        assert_eq!(index.due(now), Some(now), "at once");
        assert_eq!(index.asked_by(&address), epochs.last().copied());
        assert_eq!(index.asked_by(&["192.0.2.1".parse().expect("an address")].into()), None);
    }
}
