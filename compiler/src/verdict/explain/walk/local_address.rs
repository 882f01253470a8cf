//! Destinations that may be addresses of the source's own node, which no Node lists: a DNS cache on each node
//! listens at one.

use std::net::IpAddr;

use super::Walk;
use crate::cluster::PodId;
use crate::verdict::bounds::Verdict;
use crate::verdict::explain::answer::Flow;
use crate::verdict::explain::question::MissingFact;
use crate::verdict::explain::question::judged_pairs::JudgedPairs;
use crate::verdict::explain::question::party::Party;
use crate::verdict::flow::End;

impl Walk<'_> {
    /// What policies deny to such an address passes if it is the node's, so it is not known.
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
        let (Party::End(End::Pod(_)), to) = denied.parties? else { return None };
        let names = |pods: &[PodId]| {
            let name = |id: &PodId| {
                let pod = cluster.pod(*id);
                format!("{}/{}", pod.namespace, pod.identity().1)
            };
            let mut names: Vec<String> = pods.iter().map(name).collect();
            names.sort_unstable();
            names.dedup();
            names
        };
        if let Some(via) = &denied.via {
            let service = cluster.service(&via.namespace, &via.name)?;
            let is_listened_at = |address: &&IpAddr| !cluster.listeners_at(**address).is_empty();
            let address = service.addresses.iter().find(is_listened_at)?;
            return Some(MissingFact::LocalAddress(*address, names(cluster.listeners_at(*address))));
        }
        let Party::End(End::Address(address)) = to else { return None };
        let listeners = names(cluster.listeners_at(address));
        let may_be = flow.to.kind == "Address" && (cluster.may_be_local(address) || !listeners.is_empty());
        may_be.then_some(MissingFact::LocalAddress(address, listeners))
    }
}
