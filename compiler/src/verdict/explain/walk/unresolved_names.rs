//! Whether a client that asks for a Service by its name can resolve the name at all: a policy that
//! admits the flow and forgets DNS is the usual reason why a request times out.

use std::collections::BTreeSet;

use indexmap::IndexMap;

use super::Walk;
use super::ends::{Finder, Unit};
use super::families::Families;
use crate::algebra::traffic::Traffic;
use crate::cluster::{Cluster, PodId, PolicyId};
use crate::object::{DNS_PORT, Family, Protocol, Service};
use crate::policy::Direction;
use crate::verdict::bounds::Verdict;
use crate::verdict::explain::answer::{DnsServer, WarningFact};
use crate::verdict::explain::decision::dns_servers::{
    NODE_CACHE, Servers, admits_dns, is_dns, is_labelled, means_another_server,
};
use crate::verdict::explain::question::Question;
use crate::verdict::explain::question::name::EndName;
use crate::verdict::explain::question::party::Party;
use crate::verdict::flow::End;

/// A question with more sources than this is not about one client, and gets no such warning.
const SOURCES: usize = 64;

impl Walk<'_> {
    /// Warns where sources cannot resolve the name of the Service that was asked for.
    pub(in crate::verdict::explain) fn warn_of_unresolved_names(&mut self, sources: &[Unit], to: &Service) {
        let cluster = self.ends.cluster;
        let mut wholes = IndexMap::<EndName, &Unit>::new();
        for source in sources.iter().take(SOURCES + 1) {
            wholes.entry(source.whole.without_addresses()).or_insert(source);
        }
        let has_cache = || cluster.pods().any(|(_, pod)| is_labelled(pod, NODE_CACHE));
        if sources.len() > SOURCES || is_dns(to) || has_cache() {
            return;
        }
        let servers = Servers::of(cluster);
        if servers.has_others {
            return;
        }
        let mut denied = IndexMap::<_, Vec<EndName>>::new();
        for (whole, source) in wholes {
            if let Some(by) = self.denied_dns(source, &servers) {
                denied.entry(by).or_default().push(whole);
            }
        }
        let server = name_of(&servers, cluster);
        let warning = |((direction, policies), from)| WarningFact::NamesUnresolved {
            from,
            service: EndName::of_service(to).without_addresses(),
            direction,
            policies,
            server: server.clone(),
        };
        self.warn(denied.into_iter().map(warning).collect());
    }

    /// The policies that keep a source from every DNS server, those of the source or of the servers; none
    /// where nothing does for certain.
    fn denied_dns(&self, source: &Unit, servers: &Servers<'_>) -> Option<(Direction, Vec<PolicyId>)> {
        let by_source = || Some((Direction::Egress, self.denied_by_source(source, servers)?));
        by_source().or_else(|| Some((Direction::Ingress, self.denied_by_servers(source, servers)?)))
    }

    /// The policies of the servers that keep a source from each of them.
    fn denied_by_servers(&self, source: &Unit, servers: &Servers<'_>) -> Option<Vec<PolicyId>> {
        let cluster = self.ends.cluster;
        let is_denied = |(pod, port): &(PodId, u16)| self.is_denied(Direction::Ingress, source, *pod, *port);
        // A hostNetwork pod, or a client outside, may ask another server.
        if !matches!(source.party, Party::End(End::Pod(_))) {
            return None;
        }
        if servers.pods.is_empty() || !servers.pods.iter().all(is_denied) {
            return None;
        }
        // A cache on the node, or a server outside, would be asked in their place.
        let asks_another = |id: &PolicyId| {
            cluster.policy(*id).rules(Direction::Egress).iter().any(|of| means_another_server(cluster, of))
        };
        if self.isolating(source, Direction::Egress).iter().any(asks_another) {
            return None;
        }
        let servers = self.ends.pods(&servers.pods.iter().map(|(pod, _)| *pod).collect::<Vec<_>>());
        let policies: BTreeSet<PolicyId> =
            servers.iter().flat_map(|server| self.isolating(server, Direction::Ingress)).collect();
        Some(policies.into_iter().collect())
    }

    /// The policies that isolate an end for certain, sorted.
    fn isolating(&self, end: &Unit, direction: Direction) -> Vec<PolicyId> {
        let groups = end.party.groups(self.ends.cluster, self.ends.groups, direction, None);
        let policies: BTreeSet<PolicyId> =
            groups.into_iter().flat_map(|group| group.key.policies.iter().copied()).collect();
        policies.into_iter().collect()
    }

    /// The policies of a source that keep it from every DNS server.
    fn denied_by_source(&self, source: &Unit, servers: &Servers<'_>) -> Option<Vec<PolicyId>> {
        let cluster = self.ends.cluster;
        let policies = self.isolating(source, Direction::Egress);
        let rules = || policies.iter().flat_map(|id| cluster.policy(*id).rules(Direction::Egress));
        if policies.is_empty() {
            return None;
        }
        let is_denied = if servers.pods.is_empty() {
            // Any end may be the server, so no rule may be about the port.
            !rules().any(admits_dns) && source.party.pod().is_some_and(|pod| self.is_certain(pod))
        } else {
            !rules().any(|rule| means_another_server(cluster, rule))
                && servers.pods.iter().all(|(pod, port)| self.is_denied(Direction::Egress, source, *pod, *port))
        };
        is_denied.then_some(policies)
    }

    /// Whether all policies that may select a pod are known.
    fn is_certain(&self, pod: PodId) -> bool {
        End::Pod(pod).deciding(self.ends.cluster, self.ends.groups, Direction::Egress, None).is_certain()
    }

    /// Whether a direction denies what goes to a DNS server, in every family.
    fn is_denied(&self, direction: Direction, source: &Unit, pod: PodId, port: u16) -> bool {
        let Finder { cluster, groups } = self.ends;
        let server = self.ends.pods(&[pod]).remove(0);
        let traffic = Traffic::ports(Protocol::Udp, port, port);
        let denies = |family: &Option<Family>| {
            let question = Question::between(source.party, server.party, *family, traffic.clone());
            question.bounds(cluster, groups, direction).verdict(&traffic) == Verdict::Denied
        };
        let families = Families::of(cluster, source).judged(Families::of(cluster, &server));
        !families.is_empty() && families.iter().all(denies)
    }
}

/// What to ask about.
fn name_of(servers: &Servers<'_>, cluster: &Cluster) -> Option<DnsServer> {
    if let Some(service) = servers.service {
        return Some(DnsServer { name: EndName::of_service(service).without_addresses(), port: DNS_PORT });
    }
    let (id, port) = *servers.pods.first()?;
    let pod = cluster.pod(id);
    let (kind, name) = pod.identity();
    let (kind, namespace, name) = (kind.to_owned(), Some(pod.namespace.clone()), name.to_owned());
    Some(DnsServer { name: EndName { kind, namespace, name, ..EndName::default() }, port })
}
