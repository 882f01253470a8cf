//! Policies that isolate pods for egress and keep them from DNS.

use super::{Mistake, MistakeCode};
use crate::algebra::traffic::Traffic;
use crate::cluster::{ClassId, Cluster, PolicyId};
use crate::object::{DNS_PORT, Protocol};
use crate::policy::{Direction, Policy, PolicyRule, PortMatch, Ports};
use crate::verdict::explain::admits_dns;

pub(super) fn find(cluster: &Cluster, id: PolicyId, found: &mut Vec<Mistake>) {
    let policy = cluster.policy(id);
    if !policy.isolates(Direction::Egress) || cluster.has_unread_policies(&policy.namespace) {
        return;
    }
    let by_tcp = policy.rules(Direction::Egress).iter().find_map(|rule| Some((rule, item_for_dns_by_tcp(rule)?)));
    if let Some((rule, place)) = by_tcp {
        // Another policy may admit UDP to some of its pods.
        let may_add = |other: &Policy| other.rules(Direction::Egress).iter().any(admits_dns);
        let mut others = cluster.policies_in(&policy.namespace).filter(|(_, other)| other.isolates(Direction::Egress));
        if !others.any(|(_, other)| may_add(other)) {
            let problem = "port 53 without protocol UDP: the default is TCP".to_owned();
            let path = format!("{}.ports[{place}]", rule.path);
            found.push(Mistake { policy: id, path, code: MistakeCode::ProtocolMissingDns, problem });
        }
        return;
    }
    // Clients of pods mostly use a Service's name. Clients of addresses need no DNS.
    let Some(rule) = policy.rules(Direction::Egress).iter().find(|rule| rule.pod_peers().next().is_some()) else {
        return;
    };
    let is_blocked = |class: &ClassId| {
        let policies = cluster.policies_of(*class, Direction::Egress);
        let mut rules = policies.iter().flat_map(|id| cluster.policy(*id).rules(Direction::Egress));
        !rules.any(admits_dns) && cluster.possible_policies_of(*class, Direction::Egress).is_empty()
    };
    let classes = cluster.selected(&policy.subject_peer());
    let is_blocked = match classes.as_slice() {
        // Without pods, those policies count that may select the same ones.
        [] => {
            let isolating = cluster.policies_in(&policy.namespace).filter(|(_, of)| of.isolates(Direction::Egress));
            !isolating.flat_map(|(_, of)| of.rules(Direction::Egress)).any(admits_dns)
        }
        classes => classes.iter().any(is_blocked),
    };
    if is_blocked {
        let problem = "egress to pods is admitted, and no rule for the same pods admits DNS (port 53)".to_owned();
        found.push(Mistake { policy: id, path: rule.path.clone(), code: MistakeCode::DnsBlocked, problem });
    }
}

/// The item of a rule's ports that is for DNS by TCP, where none is by UDP.
fn item_for_dns_by_tcp(rule: &PolicyRule) -> Option<usize> {
    let Ports::AnyOf(ports) = &rule.ports else { return None };
    let is_tcp = |port: &PortMatch| *port == PortMatch::Range(Protocol::Tcp, DNS_PORT, DNS_PORT);
    let has_udp = !rule.traffic_to(&[]).intersection(&Traffic::ports(Protocol::Udp, DNS_PORT, DNS_PORT)).is_none();
    ports.iter().position(is_tcp).filter(|_| !has_udp)
}
