//! The field and the policy that a difference comes from.

use std::collections::BTreeMap;

use rustc_hash::FxHashMap;

use super::{FlowCause, FlowChange};
use crate::algebra::traffic::Traffic;
use crate::azure::translate::{Term, TermPeer};
use crate::azure::{AzureReason, Model};
use crate::cluster::PolicyId;
use crate::cluster::group::{Admitted, Atom, Group, GroupId, OtherEnd, atoms};
use crate::object::Family;
use crate::policy::{Direction, Peers, PolicyRule};
use crate::verdict::matrix::judge::{KindId, TrafficId};

/// Causes, with what of the flows is due to each.
pub(super) type Causes = BTreeMap<FlowCause, Traffic>;

/// What was worked out, by group, other end, traffic and change.
pub(super) type Found = FxHashMap<(GroupId, KindId, TrafficId, FlowChange), Causes>;

/// Why a group's traffic with an end changes.
pub(super) fn of(model: &Model<'_>, group: &Group, other: OtherEnd<'_>, flows: &Traffic, change: FlowChange) -> Causes {
    let mut causes = Causes::new();
    let finder = CauseFinder { model, group, other };
    let mut add = |reason, policy, path: &str, traffic: Traffic| {
        if !traffic.is_none() {
            let cause = FlowCause {
                reason,
                change,
                policies: vec![policy],
                path: Some(path.to_owned()),
                service: None,
                direction: Some(group.key.direction),
                family: Family::V4,
            };
            let all = causes.entry(cause).or_default();
            *all = all.union(&traffic);
        }
    };
    for policy in &group.key.policies {
        match (model.translation(*policy), change) {
            // What npc lets pass by a policy that Azure NPM does not have.
            (Err(refusal), FlowChange::NewlyAllowed) => {
                let admitted = finder.ours(*policy, |_| true);
                add(AzureReason::PolicyRefused, *policy, &refusal.path, admitted.intersection(flows));
            }
            // What it isolates, and Azure NPM did not.
            (Err(refusal), FlowChange::NewlyDenied) => {
                if model.isolating(&group.key.policies, group.key.direction).is_empty() {
                    add(AzureReason::PolicyRefused, *policy, &refusal.path, flows.clone());
                }
            }
            (Ok(translation), _) => {
                let terms = &translation.terms[group.key.direction as usize];
                for term in terms {
                    let theirs = finder.theirs(term);
                    let ours = finder.ours(*policy, |path| path == term.path);
                    let differs = match change {
                        FlowChange::NewlyAllowed => ours.difference(&theirs),
                        FlowChange::NewlyDenied => theirs.difference(&ours),
                    };
                    add(finder.reason(term, change), *policy, &term.path, differs.intersection(flows));
                }
            }
        }
    }
    causes
}

struct CauseFinder<'a> {
    model: &'a Model<'a>,
    group: &'a Group,
    other: OtherEnd<'a>,
}

impl CauseFinder<'_> {
    fn admitted(&self, ports: &crate::policy::Ports) -> Traffic {
        let Group { key, .. } = self.group;
        Admitted::of_ports(ports, key.direction, &key.resolution).traffic_to(self.other.ports)
    }

    fn theirs(&self, term: &Term) -> Traffic {
        if self.model.holds(&term.peer, self.other) { self.admitted(&term.ports) } else { Traffic::none() }
    }

    /// What npc lets pass by the peers of a policy at some paths.
    fn ours(&self, policy: PolicyId, at: impl Fn(&str) -> bool) -> Traffic {
        let direction = self.group.key.direction;
        let mut traffic = Traffic::none();
        for rule in self.model.cluster.policy(policy).rules(direction) {
            for (path, atom) in paths(rule, direction) {
                // A rule without peers, or whose peers say nothing, is one.
                if (at(&path) || at(&rule.path)) && atom.holds(self.model.cluster, self.other) {
                    traffic = traffic.union(&self.admitted(&rule.ports));
                }
            }
        }
        traffic
    }

    fn reason(&self, term: &Term, change: FlowChange) -> AzureReason {
        let is_sets = matches!(term.peer, TermPeer::Sets(_));
        match (change, self.other.classes) {
            (FlowChange::NewlyDenied, []) if term.peer.is_negative() => AzureReason::NegativeSelectorOutside,
            (FlowChange::NewlyDenied, [_, ..]) if is_sets && term.flattened => AzureReason::NamespaceNotIn,
            _ => AzureReason::OddText,
        }
    }
}

/// The atoms of a rule and where each stands.
fn paths(rule: &PolicyRule, direction: Direction) -> Vec<(String, Atom)> {
    let field = match direction {
        Direction::Ingress => "from",
        Direction::Egress => "to",
    };
    match &rule.peers {
        Peers::Everyone => vec![(rule.path.clone(), Atom::Everyone)],
        Peers::AnyOf(peers) => (peers.iter().enumerate())
            .flat_map(|(i, peer)| {
                let alone = Peers::AnyOf(vec![peer.clone()]);
                atoms(&alone).into_iter().map(move |atom| (format!("{}.{field}[{i}]", rule.path), atom))
            })
            .collect(),
    }
}
