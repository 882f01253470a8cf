//! What holds for other nodes than the one that was asked about. A pod in its node's network
//! is its node to policies, and a pod and its own node are always allowed, so the answer for
//! one node is not the answer for the next.

use std::cell::OnceCell;
use std::collections::BTreeMap;
use std::net::IpAddr;

use super::answer::{Flow, Warning};
use super::party::Party;
use super::question::Question;
use super::walk::Walk;
use crate::object::Family;
use crate::verdict::bounds::Verdict;
use crate::verdict::flow::Exemption;
use crate::verdict::zone::Zones;

impl Walk<'_> {
    /// Warns where the answer for a hostNetwork pod does not hold for other nodes.
    pub(super) fn warn_of_other_nodes(&mut self) {
        let zones = OnceCell::new();
        let of_flow = |flow| self.other_nodes(flow, &zones);
        let warnings: Vec<Warning> = self.explanation.flows.iter().filter_map(of_flow).collect();
        self.warn(warnings);
    }

    /// The warning of one flow. The first flow that needs the zones computes them for all.
    fn other_nodes(&self, flow: &Flow, zones: &OnceCell<Zones>) -> Option<Warning> {
        let (from, to) = flow.parties.filter(|_| flow.way.is_none())?;
        let cluster = self.ends.cluster;
        let is_host = |party: Party| matches!(party, Party::Host(_));
        let (host, pod) = match (is_host(from), is_host(to)) {
            (true, false) => (from, to),
            (false, true) => (to, from),
            _ => return None,
        };
        pod.pod().filter(|pod| cluster.class_of(*pod).is_some())?;
        let family = flow.family.or_else(|| {
            let mut families = Family::ALL.into_iter();
            families.find(|family| [host, pod].iter().any(|end| end.address(cluster, *family).is_some()))
        });
        let family = family.unwrap_or(Family::V4);
        let between = |from, to| Question::between(from, to, Some(family), flow.traffic.clone());
        let asked = |node| if is_host(from) { between(node, to) } else { between(from, node) };
        let is_own_node = between(from, to).exemption(cluster) == Some(Exemption::OwnNode);
        let groups = self.ends.groups;
        let verdict = |node: Party| asked(node).passes(cluster, groups).verdict(&flow.traffic);
        let zones = zones.get_or_init(|| Zones::of(groups));
        let (here, own) = (host.node(cluster), pod.node(cluster));
        let mut nodes = BTreeMap::<Verdict, Vec<String>>::new();
        let mut of_zone = BTreeMap::<usize, Verdict>::new();
        for (name, addresses) in cluster.nodes().iter().filter(|(name, _)| Some(name.as_str()) != here) {
            if Some(name.as_str()) == own {
                nodes.entry(Verdict::Allowed).or_default().push(name.clone());
                continue;
            }
            let found: Option<&IpAddr> = addresses.iter().find(|address| Family::of(address) == family);
            let Some(address) = found else { continue };
            let place = zones.place(*address);
            let verdict = *of_zone.entry(place).or_insert_with(|| verdict(Party::OtherNode(Some(*address))));
            nodes.entry(verdict).or_default().push(name.clone());
        }
        if nodes.is_empty() {
            nodes.insert(verdict(Party::OtherNode(None)), Vec::new());
        }
        // What is unknown depends on the node: then it is of use that all others are denied.
        let said = if flow.verdict == Verdict::Unknown { Verdict::Allowed } else { flow.verdict };
        let differs = nodes.keys().any(|verdict| *verdict != said);
        differs.then(|| Warning::OtherNodes {
            host: if is_host(from) { flow.from.without_addresses() } else { flow.to.without_addresses() },
            is_source: is_host(from),
            is_own_node,
            nodes: nodes.into_iter().collect(),
        })
    }
}
