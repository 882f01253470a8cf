//! Policies that look as if they kept out what is allowed, and do not: rules and policies add up, a
//! rule without peers or ports admits more than its author may have meant, and no policy applies to
//! a hostNetwork pod.

use std::collections::BTreeSet;

use super::denying_name::says_that_it_denies;
use super::{AddedFlows, Discrepancy, MisleadingPolicy};
use crate::algebra::cidr;
use crate::cluster::group::{OtherEnd, atom};
use crate::cluster::{Cluster, PolicyId};
use crate::policy::{Direction, IpBlock, Namespaces, Peer, Peers, PodPeer, PolicyRule, Ports};
use crate::verdict::explain::decision::Decision;
use crate::verdict::explain::question::Question;

/// At most this many policies, and rules of each, are looked at.
const LOOKED_AT: usize = 100;

/// What is said of a policy.
fn misleading(policy: PolicyId, path: String, discrepancy: Discrepancy) -> MisleadingPolicy {
    MisleadingPolicy { policy, path, discrepancy, may_be_why: false }
}

/// What rules are judged by.
struct Look<'a> {
    cluster: &'a Cluster,
    question: &'a Question,
    direction: Direction,
    seen: OtherEnd<'a>,
    decision: &'a Decision,
}

impl Question {
    /// The policies that look as if they kept out what rules admit, at most one for each reason.
    pub(in crate::verdict::explain) fn admitting_more(
        &self,
        cluster: &Cluster,
        decision: &Decision,
    ) -> Vec<MisleadingPolicy> {
        let direction = decision.direction;
        let (subject, other) = self.ends(direction);
        // Of very many rules not all are listed, and one that is not may be meant.
        if decision.admitting_count > decision.rules.len().min(LOOKED_AT) {
            return Vec::new();
        }
        let seen = other.seen(cluster, subject, self.family);
        let look = Look { cluster, question: self, direction, seen, decision };
        let found = [look.rules_apart(), look.empty_rule(), look.except_undone(), look.wider_policy()];
        found.into_iter().flatten().collect()
    }

    /// A policy that has a selector for the subject, which is a hostNetwork pod.
    pub(in crate::verdict::explain) fn of_host(
        &self,
        cluster: &Cluster,
        direction: Direction,
    ) -> Option<MisleadingPolicy> {
        let (subject, _) = self.ends(direction);
        let pod = cluster.pod(subject.pod()?);
        let mut policies = cluster.policies_in(&pod.namespace).take(LOOKED_AT);
        let (id, _) = policies.find(|(_, policy)| {
            policy.isolates(direction) && !policy.subject.is_empty() && policy.subject.matches(&pod.labels)
        })?;
        Some(misleading(id, "spec.podSelector".to_owned(), Discrepancy::HostNetwork))
    }
}

impl Look<'_> {
    /// The rules that admit the flow.
    fn admitting(&self) -> impl Iterator<Item = (PolicyId, &PolicyRule)> {
        self.decision.rules.iter().filter_map(move |(id, path)| {
            let rule = self.cluster.policy(*id).rules(self.direction).iter().find(|rule| rule.path == *path)?;
            Some((*id, rule))
        })
    }

    /// Whether the ports of a rule admit some of the traffic.
    fn is_about_port(&self, rule: &PolicyRule) -> bool {
        let admitted = match self.direction {
            // What names mean is the subjects' to say; one that may mean the port counts.
            Direction::Ingress => match self.question.to.pod() {
                Some(pod) => rule.traffic_to(&self.cluster.pod(pod).ports),
                None => return false,
            },
            Direction::Egress => rule.traffic_to(self.seen.ports),
        };
        !admitted.intersection(&self.question.traffic).is_none()
    }

    /// A rule with ports alone beside one with peers alone: a `-` too much makes two of one.
    fn rules_apart(&self) -> Option<MisleadingPolicy> {
        let has_ports_alone = |rule: &PolicyRule| rule.peers == Peers::Everyone && rule.ports != Ports::Everything;
        let has_peers_alone = |rule: &PolicyRule| rule.peers != Peers::Everyone && rule.ports == Ports::Everything;
        self.admitting().find_map(|(id, rule)| {
            let rules = self.cluster.policy(id).rules(self.direction);
            let place = rules.iter().position(|of| of.path == rule.path)?;
            let neighbours = [place.checked_sub(1), Some(place + 1)].into_iter().flatten();
            neighbours.filter_map(|place| rules.get(place)).find_map(|other| {
                let (ports, peers) = match (has_ports_alone(rule), has_peers_alone(rule)) {
                    (true, _) if has_peers_alone(other) => (rule, other),
                    (_, true) if has_ports_alone(other) => (other, rule),
                    _ => return None,
                };
                let discrepancy = Discrepancy::SeparateRules {
                    direction: self.direction,
                    with_ports: ports.path.clone(),
                    with_peers: peers.path.clone(),
                };
                Some(misleading(id, ports.path.clone(), discrepancy))
            })
        })
    }

    /// A rule that admits everyone on every port, of a policy that says by its name that it is to
    /// keep something out.
    fn empty_rule(&self) -> Option<MisleadingPolicy> {
        let is_to_deny = |id: PolicyId| says_that_it_denies(&self.cluster.policy(id).name);
        let (id, rule) = self.admitting().find(|(id, rule)| rule.admits_everything() && is_to_deny(*id))?;
        Some(misleading(id, rule.path.clone(), Discrepancy::AdmitsEveryone(self.direction)))
    }

    /// An except that holds the other end, which another rule or item admits all the same.
    fn except_undone(&self) -> Option<MisleadingPolicy> {
        let address = self.seen.address?;
        let field = self.direction.peers_field();
        let cuts = |block: &IpBlock| {
            block.cidr.holds(address).then(|| block.except.iter().position(|except| except.holds(address))).flatten()
        };
        let undoing = |is_internet: bool| self.undoing(is_internet);
        self.decision.isolated_by.iter().take(LOOKED_AT).find_map(|id| {
            let rules = self.cluster.policy(*id).rules(self.direction).iter().take(LOOKED_AT);
            rules.filter(|rule| self.is_about_port(rule)).find_map(|rule| {
                let Peers::AnyOf(peers) = &rule.peers else { return None };
                peers.iter().enumerate().find_map(|(place, peer)| {
                    let Peer::Block(block) = peer else { return None };
                    let except = cuts(block)?;
                    // Beside "the internet without our networks" stand rules for ends of these networks.
                    let is_internet = cidr::is_everything(block.cidr.family, &block.cidr.addresses());
                    let (policy, admitting) = undoing(is_internet)?;
                    let path = format!("{}.{field}[{place}].ipBlock.except[{except}]", rule.path);
                    let except = *block.except.get(except)?;
                    Some(misleading(*id, path, Discrepancy::ExceptUndone { except, policy, path: admitting }))
                })
            })
        })
    }

    /// A rule or item that admits the other end and is no narrow exception: one without peers, a
    /// block, and beside a block of some addresses also a selector.
    fn undoing(&self, is_internet: bool) -> Option<(PolicyId, String)> {
        self.admitting().find_map(|(id, rule)| {
            let Peers::AnyOf(peers) = &rule.peers else { return Some((id, rule.path.clone())) };
            let place = peers.iter().position(|peer| {
                let holds = || atom(peer).is_some_and(|atom| atom.holds(self.cluster, self.seen));
                match peer {
                    Peer::Block(_) => holds(),
                    Peer::Pods(_) => !is_internet && holds(),
                    Peer::Nothing => false,
                }
            })?;
            Some((id, format!("{}.{}[{place}]", rule.path, self.direction.peers_field())))
        })
    }

    /// A policy for these pods that is about the port and does not admit the other end, where another
    /// admits everyone, or every pod of their namespace.
    fn wider_policy(&self) -> Option<MisleadingPolicy> {
        self.policy_for_all().or_else(|| self.policy_for_the_same_pods())
    }

    /// The same where the other is of the same pods, or of all and admits every pod of the namespace.
    fn policy_for_the_same_pods(&self) -> Option<MisleadingPolicy> {
        let subject = |id: PolicyId| &self.cluster.policy(id).subject;
        let is_whole_namespace = |peer: &Peer| matches!(peer, Peer::Pods(PodPeer { namespaces: Namespaces::Own(_), pods }) if pods.is_empty());
        let (wide, rule) = self.admitting().next()?;
        let is_everyone = rule.peers == Peers::Everyone && rule.ports != Ports::Everything;
        let is_namespace = matches!(&rule.peers, Peers::AnyOf(peers) if subject(wide).is_empty() && peers.iter().any(is_whole_namespace));
        if self.admitting().any(|(id, _)| id != wide) || !(is_everyone || is_namespace) {
            return None;
        }
        // A policy for others than pods of this namespace has nothing to do with what these get.
        let is_narrow = |peer: &Peer| match peer {
            Peer::Pods(PodPeer { namespaces: Namespaces::Own(_), pods }) => !pods.is_empty(),
            Peer::Pods(_) | Peer::Block(_) | Peer::Nothing => false,
        };
        let is_limiting = |rule: &PolicyRule| {
            let has_narrow = matches!(&rule.peers, Peers::AnyOf(peers) if peers.iter().any(is_narrow));
            has_narrow && self.is_about_port(rule)
        };
        let limits = |id: &PolicyId| {
            let is_same = subject(*id) == subject(wide);
            *id != wide
                && !subject(*id).is_empty()
                && (is_same || is_namespace)
                && self.cluster.policy(*id).rules(self.direction).iter().any(is_limiting)
        };
        let id = self.decision.isolated_by.iter().take(LOOKED_AT).copied().find(limits)?;
        let extent = if is_namespace { AddedFlows::PodsOfNamespace } else { AddedFlows::Everyone };
        Some(self.adds_up(id, wide, &rule.path, extent))
    }

    /// That a policy isolates, and another admits what it does not.
    fn adds_up(&self, id: PolicyId, wide: PolicyId, path: &str, extent: AddedFlows) -> MisleadingPolicy {
        let direction = self.direction;
        let rules = self.cluster.policy(id).rules(direction).len();
        let discrepancy = Discrepancy::PoliciesAddUp { direction, rules, policy: wide, path: path.to_owned(), extent };
        misleading(id, format!("spec.{}", direction.section()), discrepancy)
    }

    /// A policy for these pods, where one for every pod of the namespace admits everyone.
    fn policy_for_all(&self) -> Option<MisleadingPolicy> {
        let is_wide = |peer: &Peer| match peer {
            Peer::Pods(PodPeer { namespaces, pods }) => {
                pods.is_empty() && matches!(namespaces, Namespaces::Selected(of) if of.is_empty())
            }
            Peer::Block(block) => cidr::is_everything(block.block.family, &block.block.addresses),
            Peer::Nothing => false,
        };
        let is_for_all = |(id, rule): &(PolicyId, &PolicyRule)| {
            let is_wide = match &rule.peers {
                Peers::Everyone => true,
                Peers::AnyOf(peers) => peers.iter().any(is_wide),
            };
            is_wide && rule.ports == Ports::Everything && self.cluster.policy(*id).subject.is_empty()
        };
        let (wide, rule) = self.admitting().next()?;
        if !self.admitting().all(|of| is_for_all(&of)) {
            return None;
        }
        let admitting: BTreeSet<PolicyId> = self.admitting().map(|(id, _)| id).collect();
        let is_narrow = |id: &PolicyId| {
            let policy = self.cluster.policy(*id);
            let rules = policy.rules(self.direction);
            !policy.subject.is_empty() && !admitting.contains(id) && rules.iter().any(|rule| self.is_about_port(rule))
        };
        let id = self.decision.isolated_by.iter().take(LOOKED_AT).copied().find(is_narrow)?;
        Some(self.adds_up(id, wide, &rule.path, AddedFlows::AllSubjects))
    }
}
