//! Policies that look as if they applied to a flow, and do not: of another namespace, of
//! the other direction, without the direction in policyTypes, or with a podSelector that
//! misses by little.

use super::denying_name::says_that_it_denies;
use super::similar_pods::selects_similar_pods;
use super::{Discrepancy, MisleadingPolicy, ValueElsewhere};
use crate::algebra::selector::{Operator, Requirement};
use crate::algebra::typo::{is_close, is_same_word, is_slip, may_be_slip};
use crate::cluster::group::{Groups, atoms};
use crate::cluster::selection::Selection;
use crate::cluster::{Class, Cluster, PodId, PolicyId};
use crate::policy::{Direction, Namespaces, Peer, Peers, PodPeer, Policy, PolicyRule};
use crate::verdict::bounds::Verdict;
use crate::verdict::explain::decision::mark::FailedRequirement;
use crate::verdict::explain::question::Question;
use crate::verdict::explain::question::would_admit::declared;

/// An answer looks through at most this many policies of a namespace, and of all other
/// namespaces together. With more, each answer would take milliseconds.
const LOOKED_THROUGH: usize = 1000;

/// Of at most this many policies of other namespaces it is found out whether they select nothing.
const TRIED: usize = 16;

/// What a direction says if no such policy applies.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::verdict::explain) enum Without {
    /// It allows all, because no policy isolates the subject. A policy that did would matter, also
    /// if its rules do not mean the other end.
    Allowed,
    /// It denies. Only a policy whose rules mean the other end would change that.
    Denied,
}

/// What policies are judged by.
pub(in crate::verdict::explain) struct Search<'a> {
    pub(in crate::verdict::explain) cluster: &'a Cluster,
    pub(in crate::verdict::explain) groups: &'a Groups,
    pub(in crate::verdict::explain) question: &'a Question,
    pub(in crate::verdict::explain) direction: Direction,
    pub(in crate::verdict::explain) without: Without,
    subject: PodId,
    class: &'a Class,
}

impl Question {
    /// The policies that look as if they decided in a direction about the subject, at most
    /// one for each reason, those that may be why first, and of these the plainest.
    pub(in crate::verdict::explain) fn not_applying(
        &self,
        cluster: &Cluster,
        groups: &Groups,
        direction: Direction,
        without: Without,
    ) -> Vec<MisleadingPolicy> {
        let (subject, _) = self.ends(direction);
        let Some((subject, class)) = subject.pod().and_then(|pod| Some((pod, cluster.class_of(pod)?))) else {
            return Vec::new();
        };
        let class = cluster.class(class);
        let search = Search { cluster, groups, question: self, direction, without, subject, class };
        let mut found: Vec<MisleadingPolicy> = Vec::new();
        let mut add = |policy: Option<MisleadingPolicy>| {
            let Some(policy) = policy else { return };
            match found.iter_mut().find(|had| had.code() == policy.code()) {
                Some(had) if policy.may_be_why && !had.may_be_why => *had = policy,
                Some(_) => {}
                None => found.push(policy),
            }
        };
        // What the other direction denies is closed, as such a policy says by its name.
        let is_open = || {
            let there = || self.bounds(cluster, groups, direction.opposite()).verdict(&self.traffic);
            without == Without::Allowed && there() != Verdict::Denied
        };
        for (id, policy) in cluster.policies_in(&class.namespace).take(LOOKED_THROUGH) {
            match class.selection(&policy.subject) {
                Selection::Certain => {
                    add(search.types_missing(id, policy));
                    add(denies_other_direction(id, policy, direction).filter(|_| is_open()));
                    add(empty_list(id, policy, direction).filter(|_| without == Without::Allowed));
                    add(search.other_direction(id, policy));
                }
                Selection::Possible => {}
                Selection::No => add(search.near_miss(id, policy)),
            }
        }
        add(search.other_namespace());
        found.sort_by_key(|policy| !policy.may_be_why);
        found
    }
}

impl Search<'_> {
    /// Whether a rule means the other end: by a peer that selects it, or by none at all.
    fn is_about(&self, rule: &PolicyRule) -> bool {
        matches!(rule.peers, Peers::Everyone) || self.selects(&rule.peers)
    }

    /// Whether a peer selects the other end.
    pub(in crate::verdict::explain) fn selects(&self, peers: &Peers) -> bool {
        let (subject, other) = self.question.ends(self.direction);
        let seen = other.seen(self.cluster, subject, self.question.family);
        atoms(peers).iter().any(|atom| atom.holds(self.cluster, seen))
    }

    /// A policy of the subject's namespace whose podSelector misses the subject by one label.
    fn near_miss(&self, id: PolicyId, policy: &Policy) -> Option<MisleadingPolicy> {
        if !policy.isolates(self.direction) {
            return None;
        }
        let all: Vec<&Requirement> = policy.subject.requirements().collect();
        let failing: Vec<&&Requirement> = all.iter().filter(|of| !of.matches(&self.class.labels)).collect();
        let [failing] = failing.as_slice() else { return None };
        let is_meant = || policy.rules(self.direction).iter().any(|rule| self.is_about(rule));
        let admits = || policy.rules(self.direction).iter().any(|rule| self.is_about(rule) && self.has_ports(rule));
        let elsewhere = self.elsewhere(failing);
        let is_near = || all.len() > 1 || is_slip(failing, &self.class.labels) || elsewhere.is_some();
        let selects_none = || self.cluster.selects_none(&policy.subject_peer());
        let (is_it, may_be_why) = match self.without {
            Without::Denied if (is_near() && admits()) || self.is_excluded(policy, failing) => (true, true),
            // Mended, it would deny this too.
            Without::Denied if is_near() && is_meant() => (true, false),
            // One that selects no pod at all and names the other end may be meant for pods that are yet to come.
            Without::Denied => (self.would_admit_by_name(policy, failing) && selects_none(), false),
            // A policy that selects other pods is most likely meant for these.
            Without::Allowed => {
                let is_it = self.is_misspelt(failing)
                    || (self.is_meant_by_name(policy, failing) && selects_none())
                    || ((is_near() || may_be_slip(failing, &self.class.labels)) && selects_none())
                    || (all.len() > 1 && self.selects_similar_pods(policy, failing));
                (is_it, true)
            }
        };
        if !is_it {
            return None;
        }
        let failed = FailedRequirement::of(failing, &self.class.labels);
        let discrepancy = Discrepancy::SubjectLabel { failed, elsewhere };
        Some(MisleadingPolicy { policy: id, path: "spec.podSelector".to_owned(), discrepancy, may_be_why })
    }

    /// Whether a policy lacks nothing but a label of the subject to admit what was asked, or, of all ports,
    /// some on which the destination may listen, by a rule that names the other end.
    fn would_admit_by_name(&self, policy: &Policy, failing: &Requirement) -> bool {
        let is_missing = matches!(failing.operator, Operator::In(_) | Operator::Exists);
        let names = |rule: &PolicyRule| matches!(rule.peers, Peers::AnyOf(_)) && self.selects(&rule.peers);
        is_missing && policy.rules(self.direction).iter().any(|rule| names(rule) && self.has_ports(rule))
    }

    /// Whether the ports of a rule admit some of what was asked, or, of all ports, some on which the destination
    /// may listen.
    fn has_ports(&self, rule: &PolicyRule) -> bool {
        let Question { to, traffic, .. } = self.question;
        let declared = match (to.pod(), traffic.single()) {
            (Some(pod), None) => Some(declared(self.cluster.pod(pod))).filter(|all| !all.is_none()),
            _ => None,
        };
        let admitted = rule.traffic_to(to.ports(self.cluster));
        !admitted.intersection(&declared.unwrap_or_else(|| traffic.clone())).is_none()
    }

    /// A policy with rules for a direction that its `policyTypes` leave out. It may be why there is no access
    /// if one of them admits it.
    fn types_missing(&self, id: PolicyId, policy: &Policy) -> Option<MisleadingPolicy> {
        let direction = self.direction;
        let rules = policy.rules(direction);
        let admits = |rule: &PolicyRule| self.is_about(rule) && self.has_ports(rule);
        let may_be_why = self.without == Without::Allowed || rules.iter().any(admits);
        (!rules.is_empty() && !policy.isolates(direction)).then(|| MisleadingPolicy {
            policy: id,
            path: "spec.policyTypes".to_owned(),
            discrepancy: Discrepancy::RulesWithoutType { direction, rules: rules.len() },
            may_be_why,
        })
    }

    /// Whether a policy leaves the subject out by an exception, and would admit just what was asked.
    fn is_excluded(&self, policy: &Policy, failing: &Requirement) -> bool {
        let (question, direction) = (self.question, self.direction);
        let names_peers = || policy.rules(direction).iter().any(|rule| matches!(&rule.peers, Peers::AnyOf(_)));
        matches!(failing.operator, Operator::NotIn(_) | Operator::DoesNotExist)
            && names_peers()
            && question.would_admit(self.cluster, policy, direction, &question.traffic)
    }

    /// Whether a policy that asks for another value of a label is called as the subject is, and its rules of a
    /// direction name ports that the subject declares.
    fn is_meant_by_name(&self, policy: &Policy, failing: &Requirement) -> bool {
        let Operator::In(_) = &failing.operator else { return false };
        let Some(value) = self.class.labels.get(&failing.key) else { return false };
        let pod = self.cluster.pod(self.subject);
        let name = pod.workload.as_ref().map_or(&pod.name, |workload| &workload.name);
        let ports = || {
            let mut rules = policy.rules(Direction::Ingress).iter();
            let declared = declared(pod);
            rules.any(|rule| {
                let admitted = rule.traffic_to(&pod.ports);
                !admitted.is_none() && admitted.difference(&declared).is_none()
            })
        };
        (policy.name == *name || policy.name == *value) && self.direction == Direction::Ingress && ports()
    }

    /// Whether a label has the value that is asked for but for case and signs.
    fn is_misspelt(&self, failing: &Requirement) -> bool {
        let Operator::In(values) = &failing.operator else { return false };
        let has = self.class.labels.get(&failing.key);
        has.is_some_and(|has| values.iter().any(|value| is_same_word(value, has)))
    }

    /// Where the subject has a value that a label lacks: under another key, or as its name.
    fn elsewhere(&self, failing: &Requirement) -> Option<ValueElsewhere> {
        let Operator::In(values) = &failing.operator else { return None };
        if self.class.labels.contains_key(&failing.key) {
            return None;
        }
        if let Some((key, value)) = self.class.labels.iter().find(|(_, value)| values.contains(value)) {
            return Some(ValueElsewhere::Label(key.clone(), value.clone()));
        }
        let pod = self.cluster.pod(self.subject);
        let name = pod.workload.as_ref().map_or(&pod.name, |workload| &workload.name);
        values.contains(name).then(|| ValueElsewhere::Name(name.clone()))
    }

    fn selects_similar_pods(&self, policy: &Policy, failing: &Requirement) -> bool {
        selects_similar_pods(self.cluster, &policy.subject_peer(), self.subject, failing)
    }

    /// A policy of another namespace that selects nothing there, and would select the subject.
    fn other_namespace(&self) -> Option<MisleadingPolicy> {
        let own = &self.class.namespace;
        let (subject, other) = self.question.ends(self.direction);
        let seen = other.seen(self.cluster, subject, self.question.family);
        let of_other = seen.classes.first().map_or("", |other| &self.cluster.class(*other).namespace);
        // A policy without a namespace lands in `default`, and a policy of every pod says by its
        // namespace alone whom it means.
        let may_be_meant = |policy: &Policy| {
            !policy.subject.is_empty() || policy.namespace == "default" || is_close(&policy.namespace, own)
        };
        // The namespaces in which such a policy lands most often come first.
        let likely = ["default", of_other].into_iter().filter(|namespace| namespace != own);
        let likely = likely.flat_map(|namespace| self.cluster.policies_in(namespace));
        let rest = self.cluster.policies().filter(|(_, policy)| policy.namespace != *own);
        let selects = |policy: &Policy| {
            policy.isolates(self.direction)
                && may_be_meant(policy)
                && self.class.selection(&policy.subject) == Selection::Certain
        };
        let candidates = likely.chain(rest).take(LOOKED_THROUGH).filter(|(_, policy)| selects(policy)).take(TRIED);
        let is_meant = |policy: &Policy| {
            self.without == Without::Allowed || policy.rules(self.direction).iter().any(|rule| self.would_mean(rule))
        };
        let admits = |policy: &Policy| {
            let admits = |rule: &PolicyRule| self.would_mean(rule) && self.has_ports(rule);
            self.without == Without::Allowed || policy.rules(self.direction).iter().any(admits)
        };
        let mut meant: Vec<(PolicyId, bool)> =
            candidates.filter(|(_, policy)| is_meant(policy)).map(|(id, policy)| (id, admits(policy))).collect();
        // One that would still deny this is no cause.
        meant.sort_by_key(|(_, admits)| !admits);
        let selects_none = |id: PolicyId| self.cluster.selects_none(&self.cluster.policy(id).subject_peer());
        let (id, may_be_why) = meant.into_iter().find(|(id, _)| selects_none(*id))?;
        let discrepancy = Discrepancy::OtherNamespace(own.clone());
        Some(MisleadingPolicy { policy: id, path: "metadata.namespace".to_owned(), discrepancy, may_be_why })
    }

    /// Whether a rule of a policy of another namespace would mean the other end, if the policy
    /// were in the subject's namespace, or means it as it stands: the policy is in the client's namespace.
    fn would_mean(&self, rule: &PolicyRule) -> bool {
        let (subject, other) = self.question.ends(self.direction);
        let seen = other.seen(self.cluster, subject, self.question.family);
        let Peers::AnyOf(peers) = &rule.peers else { return true };
        let is_own = |peer: &Peer| match peer {
            Peer::Pods(PodPeer { namespaces: Namespaces::Own(_), pods }) => {
                let here = Namespaces::Own(self.class.namespace.clone());
                let moved = PodPeer { namespaces: here, pods: pods.clone() };
                seen.classes.iter().any(|class| self.cluster.selects(&moved, *class))
            }
            _ => false,
        };
        peers.iter().any(is_own) || self.selects(&rule.peers)
    }
}

/// A policy whose list of rules for a direction is empty, and that does not isolate in it.
fn empty_list(id: PolicyId, policy: &Policy, direction: Direction) -> Option<MisleadingPolicy> {
    (policy.has_empty_list(direction) && !policy.isolates(direction)).then(|| MisleadingPolicy {
        policy: id,
        path: format!("spec.{}", direction.section()),
        discrepancy: Discrepancy::EmptyListWithoutType(direction),
        may_be_why: false,
    })
}

/// A policy that says by its name that it denies, closes the other direction only, and does not say by
/// its name that it is about that one.
fn denies_other_direction(id: PolicyId, policy: &Policy, direction: Direction) -> Option<MisleadingPolicy> {
    let other = direction.opposite();
    let name = policy.name.to_ascii_lowercase();
    let is_it = policy.isolates(other)
        && !policy.isolates(direction)
        && policy.rules(other).is_empty()
        && !policy.has_empty_list(direction)
        && says_that_it_denies(&policy.name)
        && !name.contains(other.section());
    is_it.then(|| MisleadingPolicy {
        policy: id,
        path: "spec.policyTypes".to_owned(),
        discrepancy: Discrepancy::DeniesOtherDirection(direction),
        may_be_why: false,
    })
}
