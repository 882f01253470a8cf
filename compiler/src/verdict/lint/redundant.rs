//! Rules and policies that others cover.

use std::collections::BTreeMap;

use super::covered::{covers, is_understood};
use super::{Mistake, MistakeCode};
use crate::algebra::selector::Selector;
use crate::cluster::{Cluster, PolicyId};
use crate::policy::finding::is_below;
use crate::policy::{Policy, PolicyRule};

/// At most so many rules of a policy, and policies of the same pods, are compared with each other; of two
/// policies, at most so many squared pairs of rules.
const COMPARED: usize = 200;

/// The rules of a policy that another one of its rules covers.
pub(super) fn rules(cluster: &Cluster, id: PolicyId, found: &mut Vec<Mistake>) {
    let policy = cluster.policy(id);
    for direction in policy.isolating() {
        let rules = policy.rules(direction);
        if rules.len() > COMPARED {
            continue;
        }
        if let Some(open) = rules.iter().find(|rule| rule.admits_everything()).filter(|_| rules.len() > 1) {
            let field = direction.peers_field();
            let problem = format!("the rule has neither \"{field}\" nor ports, so it admits everything");
            found.push(Mistake {
                policy: id,
                path: open.path.clone(),
                code: MistakeCode::AllowAllRule,
                problem,
                is_doubt: false,
            });
            continue;
        }
        // What the API server refuses is not there, so nothing follows from it.
        let is_taken = |rule: &PolicyRule| {
            let mut findings = cluster.findings_of(id);
            is_understood(rule)
                && !findings.any(|finding| finding.code.is_refused() && is_below(&finding.path, &rule.path))
        };
        for (place, rule) in rules.iter().enumerate().filter(|(_, rule)| is_taken(rule)) {
            // If two rules say the same, the later one is redundant.
            let is_covered_by = |(other, by): &(usize, &PolicyRule)| {
                *other != place && is_taken(by) && covers(by, rule) && (*other < place || !covers(rule, by))
            };
            if let Some((_, by)) = rules.iter().enumerate().find(is_covered_by) {
                let problem = format!("{} admits all that this rule does", by.path);
                found.push(Mistake {
                    policy: id,
                    path: rule.path.clone(),
                    code: MistakeCode::RuleRedundant,
                    problem,
                    is_doubt: false,
                });
            }
        }
    }
}

/// The policies that another one covers: of the same pods, or of all pods of the namespace.
pub(super) fn policies(cluster: &Cluster, found: &mut Vec<Mistake>) {
    let mut by_subject = BTreeMap::<(&str, &Selector), Vec<PolicyId>>::new();
    let everyone = Selector::default();
    // One that the API server refuses isolates nothing, and covers none.
    let is_taken = |id: PolicyId| !cluster.findings_of(id).any(|finding| finding.code.is_refused());
    for (id, policy) in cluster.policies().filter(|(id, _)| is_taken(*id)) {
        by_subject.entry((&policy.namespace, &policy.subject)).or_default().push(id);
    }
    for (id, policy) in cluster.policies().filter(|(id, _)| is_taken(*id)) {
        let mut subjects = vec![&policy.subject];
        if !policy.subject.is_empty() {
            subjects.push(&everyone);
        }
        let candidates =
            subjects.into_iter().filter_map(|subject| by_subject.get(&(policy.namespace.as_str(), subject)));
        let mut candidates = candidates.flatten().take(COMPARED).copied().filter(|other| *other != id);
        let covering = candidates.find(|other| {
            let by = cluster.policy(*other);
            let is_same = by.subject == policy.subject && is_covered(by, policy);
            is_covered(policy, by) && (*other < id || !is_same)
        });
        if let Some(other) = covering {
            let by = cluster.policy(other);
            let problem =
                format!("networkpolicy {}/{} isolates and admits all that this one does", by.namespace, by.name);
            found.push(Mistake {
                policy: id,
                path: "spec".to_owned(),
                code: MistakeCode::PolicyRedundant,
                problem,
                is_doubt: false,
            });
        }
    }
}

/// Whether a policy of the same pods, or more, isolates them and admits all that this one does. One
/// that denies all is a base that other policies add to, so only another such policy covers it.
fn is_covered(policy: &Policy, by: &Policy) -> bool {
    let mut isolated = policy.isolating().peekable();
    isolated.peek().is_some()
        && isolated.all(|direction| {
            let (rules, others) = (policy.rules(direction), by.rules(direction));
            by.isolates(direction)
                && rules.len().saturating_mul(others.len()) <= COMPARED * COMPARED
                && rules.is_empty() == others.is_empty()
                && rules.iter().all(|rule| is_understood(rule) && others.iter().any(|other| covers(other, rule)))
        })
}
