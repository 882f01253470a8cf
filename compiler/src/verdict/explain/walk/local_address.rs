//! Services that a DNS cache on each node may answer itself: it listens at their addresses.

use std::net::IpAddr;

use super::Walk;
use crate::verdict::bounds::Verdict;
use crate::verdict::explain::answer::Flow;
use crate::verdict::explain::question::MissingFact;
use crate::verdict::explain::question::judged_pairs::JudgedPairs;
use crate::verdict::explain::question::party::Party;
use crate::verdict::flow::End;

impl Walk<'_> {
    /// What policies deny by such a Service passes if the pod's own node answers it, so it is not known.
    pub(super) fn leave_local_addresses_open(&mut self) {
        let mut open = Vec::new();
        for (place, flow) in self.explanation.flows.iter().enumerate() {
            if let Some(fact) = self.may_stay_on_the_node(flow) {
                open.push((place, fact));
            }
        }
        for (place, fact) in open {
            let flow = &mut self.explanation.flows[place];
            flow.verdict = Verdict::Unknown;
            flow.missing.push(fact);
            flow.asked = JudgedPairs::default();
        }
    }

    /// The fact that decides whether a denied flow of a pod stays on its node.
    fn may_stay_on_the_node(&self, flow: &Flow) -> Option<MissingFact> {
        let cluster = self.ends.cluster;
        let denied = (flow.verdict == Verdict::Denied && flow.alike.is_none()).then_some(flow)?;
        let (Party::End(End::Pod(_)), _) = denied.parties? else { return None };
        let via = denied.via.as_ref()?;
        let service = cluster.service(&via.namespace, &via.name)?;
        let is_listened_at = |address: &&IpAddr| !cluster.listeners_at(**address).is_empty();
        let address = *service.addresses.iter().find(is_listened_at)?;
        Some(MissingFact::LocalAddress(address, cluster.names_of_listeners(address)))
    }
}
