//! Ports and selectors that mean nothing in the pods that the input has.

use std::collections::BTreeSet;

use super::{Mistake, MistakeCode};
use crate::algebra::selector::Selector;
use crate::algebra::syntax::wrong_port_name;
use crate::algebra::typo::is_slip;
use crate::cluster::selection::WhyNone;
use crate::cluster::{Cluster, PodId, PolicyId};
use crate::object::{Labels, Protocol};
use crate::policy::{Direction, Namespaces, Peer, Peers, PodPeer, PolicyRule, PortMatch, Ports};
use crate::verdict::explain::numbers_named;

/// At most this many pods are looked at for each port.
const LOOKED_AT: usize = 1_000;

/// The paths of the rules that name the port of a Service are returned.
pub(super) fn find(cluster: &Cluster, id: PolicyId, found: &mut Vec<Mistake>) -> Vec<String> {
    let mut with_service_port = Vec::new();
    let policy = cluster.policy(id);
    let subject = policy.subject_peer();
    let has_pods = || cluster.endpoints().any(|(_, pod)| pod.namespace == policy.namespace);
    // A policy without a podSelector is meant to select any pod. Where the input has no pods of the
    // namespace, a policy that selects none is no mistake. What takes a look at all pods comes last.
    if !policy.subject.is_empty()
        && !cluster.has_pod_makers()
        && let Some(why) = cluster.why_selects_none(&subject)
        && has_pods()
    {
        // Its workload may be to have no pod at present.
        let fits = |labels: &Labels| policy.subject.matches(labels);
        if cluster.hints().workload_without_pods(&policy.namespace, fits).is_some() {
            return with_service_port;
        }
        let problem = match why {
            WhyNone::OnlyHostNetworkPods => {
                format!("podSelector {} selects only hostNetwork pods, to which no policy applies", policy.subject)
            }
            WhyNone::NoPod => {
                format!("podSelector {} selects no pod of namespace {}", policy.subject, policy.namespace)
            }
        };
        found.push(Mistake {
            policy: id,
            path: "spec.podSelector".to_owned(),
            code: MistakeCode::SubjectEmpty,
            problem,
            is_doubt: false,
        });
        return with_service_port;
    }
    for (direction, rule) in policy.rules_in_force() {
        let pods = match direction {
            Direction::Ingress => pods_of(cluster, [&subject]),
            Direction::Egress => rule.only_pod_peers().and_then(|peers| pods_of(cluster, peers)),
        };
        if let Some(pods) = pods.filter(|pods| !pods.is_empty() && pods.len() <= LOOKED_AT) {
            let has_service_port = ports(cluster, id, rule, &pods, found);
            with_service_port.extend(has_service_port.then(|| rule.path.clone()));
        }
        if direction == Direction::Egress {
            names_for_blocks(cluster, id, rule, found);
        }
        slips(cluster, id, direction, rule, found);
        split(cluster, id, direction, rule, found);
    }
    with_service_port
}

/// The pods that peers select; `None` where the input may lack some.
fn pods_of<'p>(cluster: &Cluster, peers: impl IntoIterator<Item = &'p PodPeer>) -> Option<Vec<PodId>> {
    let mut pods = BTreeSet::new();
    for peer in peers {
        if cluster.may_select_unread(peer) || cluster.has_pod_makers() || !cluster.possibly_selected(peer).is_empty() {
            return None;
        }
        pods.extend(
            cluster.selected(peer).into_iter().flat_map(|class| cluster.class(class).endpoints.iter().copied()),
        );
    }
    Some(pods.into_iter().collect())
}

/// Finds the ports of a rule that none of its pods has. Returns whether one is the port of a Service.
fn ports(cluster: &Cluster, id: PolicyId, rule: &PolicyRule, pods: &[PodId], found: &mut Vec<Mistake>) -> bool {
    let Ports::AnyOf(ports) = &rule.ports else { return false };
    let mut has_service_port = false;
    for (place, port) in ports.iter().enumerate() {
        let path = format!("{}.ports[{place}].port", rule.path);
        match port {
            // A name that no port can have is a finding already.
            PortMatch::Named(_, name) if wrong_port_name(name).is_some() => {}
            PortMatch::Named(protocol, name) => {
                if numbers_named(cluster, pods, *protocol, name).is_empty() {
                    let problem = format!("no pod that is meant has a {} port named {name}", protocol.as_str());
                    found.push(Mistake {
                        policy: id,
                        path,
                        code: MistakeCode::PortNamedUnresolved,
                        problem,
                        is_doubt: false,
                    });
                }
            }
            PortMatch::Range(protocol, first, last) if first == last => {
                if let Some(problem) = service_port(cluster, pods, *protocol, *first) {
                    found.push(Mistake { policy: id, path, code: MistakeCode::ServicePort, problem, is_doubt: false });
                    has_service_port = true;
                }
            }
            PortMatch::Range(..) | PortMatch::Nothing => {}
        }
    }
    has_service_port
}

/// Named ports in a rule whose peers are all blocks outside of the pods' prefixes. Only pods give ports names, so such
/// a name means no port.
fn names_for_blocks(cluster: &Cluster, id: PolicyId, rule: &PolicyRule, found: &mut Vec<Mistake>) {
    let (Ports::AnyOf(ports), Peers::AnyOf(peers)) = (&rule.ports, &rule.peers) else { return };
    let is_outside = |peer: &Peer| matches!(peer, Peer::Block(of) if !cluster.may_hold_pods(&of.cidr));
    if peers.is_empty() || !peers.iter().all(is_outside) {
        return;
    }
    for (place, port) in ports.iter().enumerate() {
        let PortMatch::Named(_, name) = port else { continue };
        if wrong_port_name(name).is_none() {
            let problem =
                format!("only pods give ports names, and the rule is for addresses; write the number of {name}");
            let path = format!("{}.ports[{place}].port", rule.path);
            found.push(Mistake { policy: id, path, code: MistakeCode::PortNamedUnresolved, problem, is_doubt: false });
        }
    }
}

/// Peers of the policy's own namespace that select no pod of it, where a pod has almost the values of labels that
/// they ask for. Other peers may be for pods that the input lacks.
fn slips(cluster: &Cluster, id: PolicyId, direction: Direction, rule: &PolicyRule, found: &mut Vec<Mistake>) {
    let Peers::AnyOf(peers) = &rule.peers else { return };
    for (place, peer) in peers.iter().enumerate() {
        let Peer::Pods(peer) = peer else { continue };
        let Namespaces::Own(namespace) = &peer.namespaces else { continue };
        let is_sure = || !cluster.may_select_unread(peer) && !cluster.has_pod_makers() && cluster.selects_none(peer);
        let is_meant = |labels: &Labels| {
            let mut failing = peer.pods.requirements().filter(|of| !of.matches(labels)).peekable();
            failing.peek().is_some() && failing.all(|of| is_slip(of, labels))
        };
        let mut pods = cluster.endpoints().filter(|(_, pod)| pod.namespace == *namespace);
        if peer.pods.is_empty() || !is_sure() {
            continue;
        }
        let Some((_, pod)) = pods.find(|(_, pod)| is_meant(&pod.labels)) else { continue };
        let near = peer.pods.requirements().filter(|of| !of.matches(&pod.labels));
        let near: Vec<String> =
            near.filter_map(|of| Some(format!("{}={}", of.key, pod.labels.get(&of.key)?))).collect();
        let problem = format!("no pod of namespace {namespace} has {} (did you mean {}?)", peer.pods, near.join(","));
        let path = format!("{}.{}[{place}].podSelector", rule.path, direction.peers_field());
        found.push(Mistake { policy: id, path, code: MistakeCode::PeerLabelValue, problem, is_doubt: false });
    }
}

/// That a number is the port of a Service, which leads to another one of each of these pods, that they
/// declare and not this one.
fn service_port(cluster: &Cluster, pods: &[PodId], protocol: Protocol, number: u16) -> Option<String> {
    let of_pod = |pod: &PodId| {
        let (service, _, target) = cluster.service_with_port(*pod, protocol, number)?;
        let declares = cluster.pod(*pod).declared_ports(protocol).any(|declared| declared == target);
        declares.then_some((service, target))
    };
    let (service, target) = of_pod(pods.first()?)?;
    pods.iter().all(|pod| of_pod(pod).is_some()).then(|| {
        format!("{number} is the port of service {}/{}; its pods listen on {target}", service.namespace, service.name)
    })
}

/// Two adjacent items, one with a namespaceSelector only and one with a podSelector only. They are a mistake if the
/// policy's own namespace has no such pods and the selected namespaces have.
fn split(cluster: &Cluster, id: PolicyId, direction: Direction, rule: &PolicyRule, found: &mut Vec<Mistake>) {
    let Peers::AnyOf(peers) = &rule.peers else { return };
    for (place, pair) in peers.windows(2).enumerate() {
        let [Peer::Pods(one), Peer::Pods(other)] = pair else { continue };
        let Some((namespaces, pods)) = parts_of_one(cluster, one, other).or_else(|| parts_of_one(cluster, other, one))
        else {
            continue;
        };
        let problem = format!(
            "two items: every pod of namespaces with {namespaces}, and pods with {pods} of namespace {}, which has none; \
             the namespaces have such pods, so one item with both is meant",
            cluster.policy(id).namespace
        );
        let path = format!("{}.{}[{}]", rule.path, direction.peers_field(), place + 1);
        found.push(Mistake { policy: id, path, code: MistakeCode::PeerSplitOr, problem, is_doubt: false });
    }
}

/// The selector of namespaces and that of pods of two peers that are parts of one.
fn parts_of_one<'p>(
    cluster: &Cluster,
    namespaces: &'p PodPeer,
    pods: &'p PodPeer,
) -> Option<(&'p Selector, &'p Selector)> {
    let (Namespaces::Selected(selected), Namespaces::Own(_)) = (&namespaces.namespaces, &pods.namespaces) else {
        return None;
    };
    let is_half = !selected.is_empty() && namespaces.pods.is_empty() && !pods.pods.is_empty();
    let together = || PodPeer { namespaces: namespaces.namespaces.clone(), pods: pods.pods.clone() };
    (is_half
        && cluster.selects_none(pods)
        && !cluster.may_select_unread(pods)
        && !cluster.selected(&together()).is_empty())
    .then_some((selected, &pods.pods))
}
