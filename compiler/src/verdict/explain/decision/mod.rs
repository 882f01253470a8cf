//! What a direction says of a question, and which rules say so.

pub(super) mod dns;
pub(super) mod dns_servers;
pub(super) mod item_path;
pub(super) mod mark;
pub(super) mod misleading;
pub(super) mod near_miss;

use std::collections::BTreeMap;

use crate::cluster::group::{Admitted, Group, Groups, atom};
use crate::cluster::{Cluster, PolicyId};
use crate::policy::{Direction, Peers};
use crate::verdict::bounds::Verdict;
use crate::verdict::explain::code::ReasonCode;
use crate::verdict::explain::question::party::Party;
use crate::verdict::explain::question::{MissingFact, OnNodes, Question};
use crate::verdict::flow::Exemption;
use misleading::MisleadingPolicy;
use misleading::not_applying::Without;
use near_miss::Candidate;

/// Why a direction allows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[cfg_attr(not(feature = "internals"), non_exhaustive)]
pub enum Reason {
    /// No policy isolates the subject.
    DefaultAllow,
    /// Rules admit it.
    Rule,
    /// Traffic between a pod and its own node.
    OwnNode,
    /// A pod's traffic to itself.
    Itself,
    /// No policy applies to a hostNetwork pod.
    HostNetworkExempt,
    /// It is denied; the code of the nearest miss.
    Denied(ReasonCode),
    /// The input does not decide it.
    Unknown,
}

/// What one direction says of the traffic that was asked about.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Decision {
    /// The direction.
    pub direction: Direction,
    /// The verdict on the traffic that was asked about.
    pub verdict: Verdict,
    /// Why the direction allows or denies it.
    pub reason: Reason,
    /// The policies that isolate the subject for certain, sorted.
    pub isolated_by: Vec<PolicyId>,
    /// The rules that admit some of it: policy and path; the first [`LISTED`].
    pub rules: Vec<(PolicyId, String)>,
    /// How many rules admit some of it, also those that `rules` leaves out.
    pub admitting_count: usize,
    /// For each of these rules, the items that admit the other end, such as `from[0]`. A rule
    /// that admits every peer has none. A flow that stands for several has the items of each.
    pub items: BTreeMap<(PolicyId, String), Vec<String>>,
    /// How many rules the policies have in this direction.
    pub rule_count: usize,
    /// Where it denies: the rules that miss by least, at most [`NEAREST`](near_miss::NEAREST).
    pub candidates: Vec<Candidate>,
    /// How many rules miss by as few parts, also those that `candidates` leaves out.
    pub candidate_count: usize,
    /// How many of these are as near as the first candidate.
    pub tie_count: usize,
    /// Where it denies a pod names of a DNS server: whether no rule is about that port at all.
    pub is_without_dns: bool,
    /// Where it denies a pod names: whether the pod can ask no other DNS server that the input shows.
    pub leaves_no_dns: bool,
    /// Where it is unknown: the facts that decide.
    pub missing: Vec<MissingFact>,
    /// Policies that look as if they decided and do not; for a denial the first is why, where
    /// the reason has its code.
    pub misleading: Vec<MisleadingPolicy>,
}

/// At most this many admitting rules are listed. One is enough to admit a flow; where thousands do, to
/// write them all down takes longer than to judge them.
pub const LISTED: usize = 100;

impl Question {
    /// What a direction says of the traffic, and why.
    #[must_use]
    pub fn decide(&self, cluster: &Cluster, groups: &Groups, direction: Direction) -> Decision {
        let (subject, other) = self.ends(direction);
        let bounds = self.bounds(cluster, groups, direction);
        let verdict = bounds.verdict(&self.traffic);
        let mut decision = Decision {
            direction,
            verdict,
            reason: Reason::DefaultAllow,
            isolated_by: Vec::new(),
            rules: Vec::new(),
            admitting_count: 0,
            items: BTreeMap::new(),
            rule_count: 0,
            candidates: Vec::new(),
            candidate_count: 0,
            tie_count: 0,
            is_without_dns: false,
            leaves_no_dns: false,
            missing: Vec::new(),
            misleading: Vec::new(),
        };
        if verdict == Verdict::Unknown {
            decision.missing = self.missing(cluster, groups, direction);
        }
        let deciding = subject.groups(cluster, groups, direction, self.family);
        for group in &deciding {
            decision.isolated_by.extend(&group.key.policies);
            // Groups that decide together have policies in common, whose rules are counted once.
            let most = if deciding.len() == 1 { LISTED } else { usize::MAX };
            decision.add_rules(self, cluster, group, other, most);
        }
        if deciding.len() > 1 {
            decision.isolated_by.sort_unstable();
            decision.isolated_by.dedup();
            decision.rules.sort();
            decision.rules.dedup();
            decision.admitting_count = decision.rules.len();
            for rule in decision.rules.drain(decision.rules.len().min(LISTED)..) {
                decision.items.remove(&rule);
            }
        }
        let rules = |policy: &PolicyId| cluster.policy(*policy).rules(direction).len();
        decision.rule_count = decision.isolated_by.iter().map(rules).sum();
        decision.reason = match (self.exemption(cluster), subject, deciding.first()) {
            (Some(Exemption::Itself), _, _) => Reason::Itself,
            (Some(Exemption::OwnNode), _, _) => Reason::OwnNode,
            (None, Party::Host(_), _) => Reason::HostNetworkExempt,
            // It stands for a hostNetwork pod of another node.
            (None, Party::OtherNode(_), _) if self.nodes == OnNodes::Different => Reason::HostNetworkExempt,
            _ if verdict == Verdict::Unknown => Reason::Unknown,
            (None, _, None) => Reason::DefaultAllow,
            _ if verdict == Verdict::Allowed => Reason::Rule,
            (None, _, Some(first)) => {
                let denied = self.traffic.difference(&bounds.most);
                // If several groups decide together, take one that denies some of the traffic.
                let seen = other.seen(cluster, subject, self.family);
                let is_why = |group: &&&Group| !denied.difference(&group.traffic(cluster, seen)).is_none();
                let group = deciding.iter().find(is_why).unwrap_or(first);
                let denied = denied.difference(&group.traffic(cluster, seen));
                let nearest = near_miss::nearest(cluster, group, self, other, &denied);
                (decision.candidate_count, decision.tie_count) = (nearest.count, nearest.ties);
                decision.is_without_dns = self.is_without_dns(cluster, &decision);
                decision.leaves_no_dns = self.leaves_no_dns(cluster, groups);
                decision.candidates = nearest.candidates;
                decision.misleading = self.not_understood(cluster, group, &denied, &decision.candidates);
                decision.misleading.extend(self.not_applying(cluster, groups, direction, Without::Denied));
                let nearest = decision.candidates.first();
                // A rule that one change would make fit is the plainest cause, but for one that
                // says something else than its author meant.
                let is_cause = |policy: &&MisleadingPolicy| {
                    matches!(policy.code(), ReasonCode::RuleNotUnderstood | ReasonCode::PolicyTooLarge)
                        || nearest.is_none_or(|of| of.mistakes() > 1)
                };
                let misleading = decision.misleading.first().filter(|policy| policy.may_be_why).filter(is_cause);
                let of_rule = match nearest {
                    Some(nearest) if nearest.is_about() && !decision.is_without_dns => nearest.code(),
                    Some(_) => Some(ReasonCode::RuleMissing),
                    None => None,
                };
                let code = misleading.map(MisleadingPolicy::code).or(of_rule);
                Reason::Denied(code.unwrap_or(ReasonCode::DefaultDenyOnly))
            }
        };
        match decision.reason {
            Reason::DefaultAllow if self.exemption(cluster).is_none() => {
                decision.misleading = self.not_applying(cluster, groups, direction, Without::Allowed);
            }
            Reason::Rule => {
                decision.misleading.extend(self.or_not_and(cluster, direction, &decision.rules));
                let admitting = self.admitting_more(cluster, &decision);
                decision.misleading.extend(admitting);
            }
            Reason::HostNetworkExempt => decision.misleading.extend(self.of_host(cluster, direction)),
            _ => {}
        }
        if let Some(found) = self.label_on_workload(cluster, direction, decision.reason) {
            // What the workload itself has says more than that its pods lack it.
            decision.misleading.retain(|of| of.code() != found.code());
            if decision.reason == Reason::DefaultAllow {
                decision.misleading.push(found);
            } else {
                decision.reason = Reason::Denied(found.code());
                decision.misleading.insert(0, found);
            }
        }
        decision
    }
}

impl Decision {
    /// Whether another decision says the same, but for the items of rules.
    #[must_use]
    pub fn is_alike(&self, other: &Self) -> bool {
        let Self { direction, verdict, reason, isolated_by, rules, rule_count, missing, misleading, .. } = self;
        let Self { candidates, candidate_count, tie_count, admitting_count, .. } = self;
        (direction, verdict, reason) == (&other.direction, &other.verdict, &other.reason)
            && (isolated_by, rules, rule_count) == (&other.isolated_by, &other.rules, &other.rule_count)
            && (candidates, missing, misleading) == (&other.candidates, &other.missing, &other.misleading)
            && (candidate_count, tie_count) == (&other.candidate_count, &other.tie_count)
            && *admitting_count == other.admitting_count
    }

    /// Takes over the items of a decision that says the same of other ends.
    pub fn join(&mut self, other: &Self) {
        for (rule, items) in &other.items {
            self.add_items(rule.clone(), items);
        }
    }

    fn add_items(&mut self, rule: (PolicyId, String), items: &[String]) {
        let known = self.items.entry(rule).or_default();
        let new: Vec<&String> = items.iter().filter(|item| !known.contains(item)).collect();
        known.extend(new.into_iter().cloned());
    }

    fn add_rules(&mut self, question: &Question, cluster: &Cluster, group: &Group, other: Party, most: usize) {
        let seen = other.seen(cluster, question.ends(self.direction).0, question.family);
        // Rules often have the peers or ports of the one before: the same policy for many apps.
        let (mut peers, mut ports) = (None, None);
        for policy in &group.key.policies {
            for rule in cluster.policy(*policy).rules(self.direction) {
                let meets = same_as_before(&mut ports, &rule.ports, |of| {
                    let admitted = Admitted::of_ports(of, self.direction, &group.key.resolution);
                    !admitted.traffic_to(seen.ports).intersection(&question.traffic).is_none()
                });
                if !*meets {
                    continue;
                }
                let items = same_as_before(&mut peers, &rule.peers, |of| match of {
                    Peers::Everyone => Some(Vec::new()),
                    Peers::AnyOf(peers) => {
                        let holds = |peer| atom(peer).is_some_and(|atom| atom.holds(cluster, seen));
                        let items = peers.iter().enumerate().filter(|(_, peer)| holds(peer));
                        let items: Vec<_> =
                            items.map(|(i, _)| format!("{}[{i}]", self.direction.peers_field())).collect();
                        (!items.is_empty()).then_some(items)
                    }
                });
                let Some(items) = items else { continue };
                self.admitting_count += 1;
                if self.rules.len() < most {
                    self.rules.push((*policy, rule.path.clone()));
                    self.add_items((*policy, rule.path.clone()), items);
                }
            }
        }
    }
}

/// What is said of a value; of one that equals the last, what was said of that.
fn same_as_before<'s, 'v, T: PartialEq, S>(
    last: &'s mut Option<(&'v T, S)>,
    value: &'v T,
    say: impl Fn(&T) -> S,
) -> &'s S {
    if last.as_ref().is_none_or(|(before, _)| *before != value) {
        *last = None;
    }
    &last.get_or_insert_with(|| (value, say(value))).1
}

impl Reason {
    /// Its stable code; none where the input does not decide.
    #[must_use]
    pub const fn as_str(self) -> Option<&'static str> {
        Some(match self {
            Self::DefaultAllow => "default-allow",
            Self::Rule => "rule",
            Self::OwnNode => "own-node",
            Self::Itself => "self",
            Self::HostNetworkExempt => "hostnetwork-exempt",
            Self::Denied(code) => code.as_str(),
            Self::Unknown => return None,
        })
    }
}
