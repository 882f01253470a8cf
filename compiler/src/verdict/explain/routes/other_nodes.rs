//! What holds for other nodes than the one that was asked about. A hostNetwork pod
//! is its node to policies, and a pod and its own node are always allowed, so the answer for
//! one node is not the answer for the next.

use std::cell::OnceCell;
use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use crate::algebra::traffic::Traffic;
use crate::object::Family;
use crate::verdict::bounds::Verdict;
use crate::verdict::explain::answer::{Flow, WarningFact};
use crate::verdict::explain::question::Question;
use crate::verdict::explain::question::party::Party;
use crate::verdict::explain::walk::Walk;
use crate::verdict::flow::{End, Exemption};
use crate::verdict::zone::Zones;

impl Walk<'_> {
    /// Warns where the answer for a hostNetwork pod does not hold for other nodes.
    pub(in crate::verdict::explain) fn warn_of_other_nodes(&mut self) {
        let zones = OnceCell::new();
        let flows = self.explanation.flows.iter().enumerate();
        let warnings: Vec<WarningFact> =
            flows.filter_map(|(place, flow)| self.other_nodes(place, flow, &zones)).collect();
        self.warn(warnings);
    }

    /// The warning of one flow. The first flow that needs the zones computes them for all.
    fn other_nodes(&self, place: usize, flow: &Flow, zones: &OnceCell<Zones>) -> Option<WarningFact> {
        let first = flow.parties.filter(|_| flow.way.is_none())?;
        let is_host = |party: Party| matches!(party, Party::Host(_));
        let is_source = match (is_host(first.0), is_host(first.1)) {
            (true, false) => true,
            (false, true) => false,
            _ => return None,
        };
        // The other ends differ by their own nodes, where all else is the same.
        let pairs = self.host_pairs.get(&place).map_or(std::slice::from_ref(&first), Vec::as_slice);
        let mut nodes = BTreeMap::<Option<String>, Verdict>::new();
        for pair in pairs {
            for (node, verdict) in self.of_each_node(flow, *pair, is_source, zones)? {
                let known = nodes.entry(node).or_insert(verdict);
                if *known != verdict {
                    *known = Verdict::Partial;
                }
            }
        }
        let mut by_verdict = BTreeMap::<Verdict, Vec<String>>::new();
        for (node, verdict) in nodes {
            by_verdict.entry(verdict).or_default().extend(node);
        }
        // What is unknown depends on the node: then it is of use that all others are denied.
        let said = if flow.verdict == Verdict::Unknown { Verdict::Allowed } else { flow.verdict };
        let differs = by_verdict.keys().any(|verdict| *verdict != said);
        let is_own_node = |(from, to): &(Party, Party)| {
            let question = Question::between(*from, *to, Some(self.family_of(flow, *from, *to)), Traffic::none());
            question.exemption(self.ends.cluster) == Some(Exemption::OwnNode)
        };
        differs.then(|| WarningFact::OtherNodes {
            from: flow.from.without_addresses(),
            to: flow.to.without_addresses(),
            is_source,
            is_own_node: pairs.iter().any(is_own_node),
            nodes: by_verdict.into_iter().collect(),
        })
    }

    /// The family of a flow, else a family in which an end has an address.
    fn family_of(&self, flow: &Flow, from: Party, to: Party) -> Family {
        let has = |family: &Family| [from, to].iter().any(|end| end.address(self.ends.cluster, *family).is_some());
        flow.family.or_else(|| Family::ALL.into_iter().find(has)).unwrap_or(Family::V4)
    }

    /// What holds for each other node and one pair of ends; without a name, for any node. Nothing
    /// where the other end is no pod to which policies apply.
    fn of_each_node(
        &self,
        flow: &Flow,
        (from, to): (Party, Party),
        is_source: bool,
        zones: &OnceCell<Zones>,
    ) -> Option<BTreeMap<Option<String>, Verdict>> {
        let (cluster, groups) = (self.ends.cluster, self.ends.groups);
        let (host, pod) = if is_source { (from, to) } else { (to, from) };
        pod.pod().filter(|pod| cluster.class_of(*pod).is_some())?;
        let family = self.family_of(flow, from, to);
        let verdict = |node: Party| {
            let (from, to) = if is_source { (node, to) } else { (from, node) };
            let question = Question::between(from, to, Some(family), flow.traffic.clone());
            question.passes(cluster, groups).verdict(&flow.traffic)
        };
        let zones = zones.get_or_init(|| Zones::of(groups));
        let (here, own) = (host.node(cluster), pod.node(cluster));
        let mut nodes = BTreeMap::<Option<String>, Verdict>::new();
        let mut of_zone = BTreeMap::<usize, Verdict>::new();
        for (name, addresses) in cluster.nodes().iter().filter(|(name, _)| Some(name.as_str()) != here) {
            if Some(name.as_str()) == own {
                nodes.insert(Some(name.clone()), Verdict::Allowed);
                continue;
            }
            let found: Option<&IpAddr> = addresses.iter().find(|address| Family::of(address) == family);
            let Some(address) = found else { continue };
            let place = zones.place(*address);
            let verdict = *of_zone.entry(place).or_insert_with(|| verdict(Party::OtherNode(Some(*address))));
            nodes.insert(Some(name.clone()), verdict);
        }
        if nodes.is_empty() {
            nodes.insert(None, verdict(Party::OtherNode(None)));
        }
        Some(nodes)
    }

    /// Warns where an address that is denied may be that of the pod's own node: no object says the
    /// addresses of that node.
    pub(in crate::verdict::explain) fn warn_of_own_nodes(&mut self) {
        let cluster = self.ends.cluster;
        let is_denied = |flow: &&Flow| flow.verdict == Verdict::Denied;
        let warning = |flow: &Flow| {
            let (pod, address, name) = match flow.parties? {
                (Party::End(End::Pod(pod)), Party::End(End::Address(address))) if flow.to.kind == "Address" => {
                    (pod, address, &flow.from)
                }
                (Party::End(End::Address(address)), Party::End(End::Pod(pod))) if flow.from.kind == "Address" => {
                    (pod, address, &flow.to)
                }
                _ => return None,
            };
            let is_known = cluster.is_node(address)
                || cluster.is_service(address)
                || !cluster.holders(address, None).is_empty()
                || !cluster.may_be_of_cluster(address);
            let node = cluster.pod(pod).node.clone();
            let may_be = match &node {
                Some(node) => cluster.nodes().get(node).is_none_or(BTreeSet::is_empty),
                None => cluster.nodes().values().any(BTreeSet::is_empty),
            };
            let pod = name.without_addresses();
            (may_be && !is_known).then_some(WarningFact::MayBeOwnNode { address, pod, node })
        };
        let warnings: Vec<WarningFact> = self.explanation.flows.iter().filter(is_denied).filter_map(warning).collect();
        self.warn(warnings);
    }
}
