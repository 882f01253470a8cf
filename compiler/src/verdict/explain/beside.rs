//! Policies that look as if they applied to a flow, and do not: of another namespace, of
//! the other direction, without the direction in policyTypes, or with a podSelector that
//! misses by little. Rules that are written so that they admit more than was most likely
//! meant.

use super::code::Code;
use super::mark::{FailedRequirement, Mark};
use super::question::Question;
use crate::algebra::selector::{Operator, Requirement};
use crate::cluster::group::atoms;
use crate::cluster::selection::Selection;
use crate::cluster::{Class, Cluster, PolicyId};
use crate::object::Labels;
use crate::policy::{Direction, Namespaces, Peer, Peers, PodPeer, Policy, PolicyRule};

/// A policy that looks as if it decided, and does not.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Beside {
    /// The policy.
    pub policy: PolicyId,
    /// Why it does not.
    pub code: Code,
    /// The field to look at: `spec.policyTypes`; the selector, where a requirement fails.
    pub path: String,
    /// The requirement of the selector at the path that fails, where it is one.
    pub requirement: Option<FailedRequirement>,
    /// What it asks for.
    pub want: String,
    /// What there is.
    pub got: String,
}

/// An answer looks through at most this many policies of a namespace, or rules. With more, each
/// answer would take milliseconds.
const LOOKED_THROUGH: usize = 1000;

/// If two values differ in at most this many letters, one counts as a misspelling of the other.
const SLIPS: usize = 2;

impl Beside {
    /// The very thing of the policy.
    #[must_use]
    pub fn mark(&self) -> Mark {
        Mark { path: self.path.clone(), requirement: self.requirement.clone() }
    }
}

impl Question {
    /// The policies that look as if they decided in a direction about the subject, at most
    /// one for each reason, the plainest first.
    pub(super) fn beside(&self, cluster: &Cluster, direction: Direction) -> Vec<Beside> {
        let (subject, other) = self.ends(direction);
        let Some(class) = subject.pod().and_then(|pod| cluster.class_of(pod)) else { return Vec::new() };
        let class = cluster.class(class);
        let seen = other.seen(cluster, subject, self.family);
        let is_about = |rule: &PolicyRule| {
            matches!(rule.peers, Peers::Everyone) || atoms(&rule.peers).iter().any(|atom| atom.holds(cluster, seen))
        };
        let mut found: Vec<Beside> = Vec::new();
        let mut add = |beside: Option<Beside>| {
            found.extend(beside.filter(|beside| found.iter().all(|had| had.code != beside.code)));
        };
        for (id, policy) in cluster.policies_in(&class.namespace).take(LOOKED_THROUGH) {
            let is_selected = class.selection(&policy.subject) == Selection::Certain;
            if is_selected {
                add(types_missing(id, policy, direction));
                let opposite = policy.rules(direction.opposite());
                let has_none = policy.isolates(direction) && policy.rules(direction).is_empty();
                if has_none && policy.isolates(direction.opposite()) && opposite.iter().any(is_about) {
                    let other_way = direction.opposite().section();
                    add(Some(Beside {
                        policy: id,
                        code: Code::DirectionOther,
                        path: format!("spec.{other_way}"),
                        requirement: None,
                        want: format!("a rule for {}", direction.section()),
                        got: format!("rules for {other_way} that mean the other end"),
                    }));
                }
            } else if policy.isolates(direction) && policy.rules(direction).iter().any(is_about) {
                add(near_miss(id, policy, class));
            }
        }
        let elsewhere = ["default", seen.classes.first().map_or("", |other| &cluster.class(*other).namespace)];
        for namespace in elsewhere.into_iter().filter(|namespace| *namespace != class.namespace) {
            for (id, policy) in cluster.policies_in(namespace).take(LOOKED_THROUGH) {
                let selects = !policy.subject.is_empty() && class.selection(&policy.subject) == Selection::Certain;
                if selects && policy.isolates(direction) {
                    add(Some(Beside {
                        policy: id,
                        code: Code::PolicyOtherNamespace,
                        path: "metadata.namespace".to_owned(),
                        requirement: None,
                        want: format!("pods of namespace {namespace}"),
                        got: format!("a pod of namespace {}", class.namespace),
                    }));
                }
            }
        }
        found
    }

    /// The items of a rule of which one alone admits the other end, where their AND may have
    /// been meant.
    pub(super) fn or_not_and(
        &self,
        cluster: &Cluster,
        direction: Direction,
        rules: &[(PolicyId, String)],
    ) -> Option<Beside> {
        let (subject, other) = self.ends(direction);
        let seen = other.seen(cluster, subject, self.family);
        rules.iter().take(LOOKED_THROUGH).find_map(|(id, path)| {
            let rule = cluster.policy(*id).rules(direction).iter().find(|rule| rule.path == *path)?;
            let Peers::AnyOf(peers) = &rule.peers else { return None };
            let pods = |peer: &Peer| if let Peer::Pods(peer) = peer { Some(peer.clone()) } else { None };
            let is_namespace = |peer: &PodPeer| {
                peer.pods.is_empty() && matches!(&peer.namespaces, Namespaces::Selected(of) if !of.is_empty())
            };
            let is_pod = |peer: &PodPeer| matches!(peer.namespaces, Namespaces::Own(_)) && !peer.pods.is_empty();
            let of_namespace = peers.iter().filter_map(pods).find(is_namespace)?;
            let of_pod = peers.iter().filter_map(pods).find(is_pod)?;
            let both = PodPeer { namespaces: of_namespace.namespaces.clone(), pods: of_pod.pods.clone() };
            let selects = |peer: &PodPeer| seen.classes.iter().any(|class| cluster.selects(peer, *class));
            let is_why = selects(&of_namespace) || selects(&of_pod);
            let count = |peer: &PodPeer| {
                let number = cluster.selected(peer).iter().map(|class| cluster.class(*class).endpoints.len()).sum();
                match number {
                    1_usize => "1 endpoint".to_owned(),
                    more => format!("{more} endpoints"),
                }
            };
            is_why.then(|| Beside {
                policy: *id,
                code: Code::PeerOrNotAnd,
                path: path.clone(),
                requirement: None,
                want: format!(
                    "the namespaceSelector alone admits {}, the podSelector alone {}",
                    count(&of_namespace),
                    count(&of_pod)
                ),
                got: format!("both in one item (AND) admit {}", count(&both)),
            })
        })
    }
}

fn types_missing(id: PolicyId, policy: &Policy, direction: Direction) -> Option<Beside> {
    let rules = policy.rules(direction).len();
    (rules > 0 && !policy.isolates(direction)).then(|| Beside {
        policy: id,
        code: Code::PolicyTypesMissing,
        path: "spec.policyTypes".to_owned(),
        requirement: None,
        want: format!("{} in policyTypes", direction.as_str()),
        got: format!(
            "{rules} {} {}, but policyTypes names only {}",
            direction.section(),
            if rules == 1 { "rule" } else { "rules" },
            direction.opposite().as_str()
        ),
    })
}

/// A podSelector of which one label fails, and others hold or the value is a slip.
fn near_miss(id: PolicyId, policy: &Policy, class: &Class) -> Option<Beside> {
    let all: Vec<&Requirement> = policy.subject.requirements().collect();
    let failing: Vec<&&Requirement> = all.iter().filter(|of| !of.matches(&class.labels)).collect();
    let [failing] = failing.as_slice() else { return None };
    if all.len() < 2 && !is_slip(failing, &class.labels) {
        return None;
    }
    let Mark { path, requirement } = Mark::requirement("spec.podSelector", failing, &class.labels);
    let (want, got) = requirement.as_ref().map(|failed| (failed.want(), failed.got()))?;
    Some(Beside { policy: id, code: Code::SubjectNearMiss, path, requirement, want, got })
}

/// Whether a label has a value that differs by little.
pub(in crate::verdict) fn is_slip(requirement: &Requirement, labels: &Labels) -> bool {
    let Operator::In(values) = &requirement.operator else { return false };
    let has = |key: &str| labels.get(key).is_some_and(|has| values.iter().any(|value| is_close(value, has)));
    has(&requirement.key)
}

fn is_close(one: &str, other: &str) -> bool {
    let (one, other): (Vec<char>, Vec<char>) = (one.chars().collect(), other.chars().collect());
    if one.len() < 4 || one.len().abs_diff(other.len()) > SLIPS || other.len() > 63 {
        return false;
    }
    let mut row: Vec<usize> = (0..=other.len()).collect();
    for (i, x) in one.iter().enumerate() {
        let mut diagonal = std::mem::replace(&mut row[0], i + 1);
        for (j, y) in other.iter().enumerate() {
            let changed = diagonal + usize::from(x != y);
            diagonal = row[j + 1];
            row[j + 1] = changed.min(diagonal + 1).min(row[j] + 1);
        }
    }
    row[other.len()] <= SLIPS
}
