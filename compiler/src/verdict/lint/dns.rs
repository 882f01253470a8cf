//! Policies that isolate pods for egress and keep them from DNS.

use super::{Mistake, MistakeCode};
use crate::algebra::traffic::Traffic;
use crate::cluster::{ClassId, Cluster, PolicyId};
use crate::object::{DNS_PORT, Protocol};
use crate::policy::{Direction, Namespaces, Peer, Peers, PodPeer, Policy, PolicyRule, PortMatch, Ports};
use crate::verdict::explain::admits_dns;

/// Where the servers of a cluster run.
const DNS_NAMESPACE: &str = "kube-system";

pub(super) fn find(cluster: &Cluster, id: PolicyId, found: &mut Vec<Mistake>) {
    let policy = cluster.policy(id);
    if !policy.isolates(Direction::Egress) || cluster.has_unread_policies(&policy.namespace) {
        return;
    }
    let by_tcp = policy.rules(Direction::Egress).iter().find_map(|rule| Some((rule, item_for_dns_by_tcp(rule)?)));
    if let Some((rule, place)) = by_tcp {
        // Another policy may admit UDP to some of its pods.
        let may_add = |other: &Policy| other.rules(Direction::Egress).iter().any(|rule| may_admit_dns(other, rule));
        let mut others = cluster.policies_in(&policy.namespace).filter(|(_, other)| other.isolates(Direction::Egress));
        if !others.any(|(_, other)| may_add(other)) {
            let problem = "port 53 without protocol UDP: the default is TCP".to_owned();
            let path = format!("{}.ports[{place}]", rule.path);
            found.push(Mistake { policy: id, path, code: MistakeCode::ProtocolMissingDns, problem, is_doubt: false });
        }
        return;
    }
    // Clients of pods mostly use a Service's name. Clients of addresses need no DNS.
    let Some(rule) = policy.rules(Direction::Egress).iter().find(|rule| rule.pod_peers().next().is_some()) else {
        return;
    };
    let is_blocked = |class: &ClassId| {
        let policies = cluster.policies_of(*class, Direction::Egress);
        let admits = |of: &Policy| of.rules(Direction::Egress).iter().any(|rule| may_admit_dns(of, rule));
        !policies.iter().any(|id| admits(cluster.policy(*id)))
            && cluster.possible_policies_of(*class, Direction::Egress).is_empty()
    };
    let classes = cluster.selected(&policy.subject_peer());
    let is_blocked = match classes.as_slice() {
        // Without pods, those policies count that may select the same ones.
        [] => {
            let isolating = cluster.policies_in(&policy.namespace).filter(|(_, of)| of.isolates(Direction::Egress));
            let admits = |of: &Policy| of.rules(Direction::Egress).iter().any(|rule| may_admit_dns(of, rule));
            !isolating.into_iter().any(|(_, of)| admits(of))
        }
        classes => classes.iter().any(is_blocked),
    };
    if is_blocked {
        let problem = "egress to pods is admitted, and no rule for the same pods admits DNS (port 53)".to_owned();
        found.push(Mistake {
            policy: id,
            path: rule.path.clone(),
            code: MistakeCode::DnsBlocked,
            problem,
            is_doubt: false,
        });
    }
}

/// Whether a rule may be meant to admit DNS: it names the port, or its peers may be DNS servers. Some pods of the
/// policy's own namespace are none, but where these servers run.
fn may_admit_dns(policy: &Policy, rule: &PolicyRule) -> bool {
    let may_serve = |peer: &Peer| match peer {
        Peer::Pods(PodPeer { namespaces: Namespaces::Own(_), pods }) => {
            pods.is_empty() || policy.namespace == DNS_NAMESPACE || pods.to_string().contains("dns")
        }
        Peer::Pods(_) | Peer::Block(_) | Peer::Nothing => true,
    };
    let is_for_servers = || match &rule.peers {
        Peers::Everyone => true,
        Peers::AnyOf(peers) => peers.iter().any(may_serve),
    };
    admits_dns(rule) && (rule.ports != Ports::Everything || is_for_servers())
}

/// The item of a rule's ports that is for DNS by TCP, where none is by UDP.
fn item_for_dns_by_tcp(rule: &PolicyRule) -> Option<usize> {
    let Ports::AnyOf(ports) = &rule.ports else { return None };
    let is_tcp = |port: &PortMatch| *port == PortMatch::Range(Protocol::Tcp, DNS_PORT, DNS_PORT);
    let has_udp = !rule.traffic_to(&[]).intersection(&Traffic::ports(Protocol::Udp, DNS_PORT, DNS_PORT)).is_none();
    ports.iter().position(is_tcp).filter(|_| !has_udp)
}
