//! Addresses of a prefix that get another answer than the rest: those of pods and nodes.

use std::collections::BTreeSet;
use std::net::IpAddr;

use crate::verdict::explain::answer::{Flow, FlowExplanation};
use crate::verdict::explain::question::name::EndName;

/// Prefixes that are shorter are about the internet, or what others leave of it.
const NARROWEST_WIDE: u8 = 8;

impl FlowExplanation {
    /// The addresses in the prefixes of a flow's source, and of its destination, about which other flows say
    /// something else: pods and nodes have them. Nothing of the internet, which holds all of the cluster's.
    #[must_use]
    pub fn apart(&self, flow: &Flow) -> [Vec<IpAddr>; 2] {
        [self.apart_at(flow, source, destination), self.apart_at(flow, destination, source)]
    }

    fn apart_at(&self, flow: &Flow, end: fn(&Flow) -> &EndName, other: fn(&Flow) -> &EndName) -> Vec<IpAddr> {
        let (prefixes, others) = (&end(flow).prefixes, other(flow));
        if prefixes.is_empty()
            || flow.alike.is_some()
            || prefixes.iter().any(|prefix| prefix.network().prefix() < NARROWEST_WIDE)
        {
            return Vec::new();
        }
        let says_otherwise = |of: &&Flow| {
            let is_of_same_traffic = !of.traffic.intersection(&flow.traffic).is_none();
            is_of_same_traffic && of.verdict != flow.verdict && of.alike.is_none() && of.via == flow.via
        };
        let differing = self.flows.iter().filter(says_otherwise);
        let of_same = differing.filter(|of| !end(of).is_part() && is_within(other(of), others));
        let addresses: BTreeSet<IpAddr> = of_same.flat_map(|of| end(of).addresses.iter().copied()).collect();
        addresses.into_iter().filter(|address| prefixes.iter().any(|prefix| prefix.holds(*address))).collect()
    }
}

const fn source(flow: &Flow) -> &EndName {
    &flow.from
}

const fn destination(flow: &Flow) -> &EndName {
    &flow.to
}

/// Whether an end is this one, or a pod of this workload.
fn is_within(end: &EndName, whole: &EndName) -> bool {
    let is_pod_of = || !end.addresses.is_empty() && end.addresses.iter().all(|of| whole.addresses.contains(of));
    end.is_same_end(whole) || is_pod_of()
}
