//! Parts of policies that were not understood and may be why something is denied.

use super::beside::Beside;
use super::code::Code;
use super::question::Question;
use crate::algebra::traffic::Traffic;
use crate::cluster::group::{Admitted, Group, atoms};
use crate::cluster::{Cluster, PolicyId};
use crate::policy::finding::{Effect, Finding, is_below};
use crate::policy::{Direction, Peer, Peers, PolicyRule, PortMatch, Ports, spelling};

/// A decision names at most this many parts of a group's policies.
const NAMED: usize = 3;

impl Question {
    /// The parts of a group's policies that were not understood, and of which no other part
    /// keeps the denied traffic out: a rule whose peers are not understood and whose ports
    /// match, or the other way round, and a policy that allows nothing because its podSelector
    /// or its policyTypes are not understood.
    pub(super) fn not_understood(&self, cluster: &Cluster, group: &Group, denied: &Traffic) -> Vec<Beside> {
        let direction = group.key.direction;
        let policies = group.key.policies.iter();
        let findings = policies.flat_map(|id| cluster.findings_of(*id).map(move |finding| (*id, finding)));
        let is_reason = |id: PolicyId, finding: &Finding| match finding.effect {
            Effect::MatchesNothing => {
                let rules = cluster.policy(id).rules(direction);
                let is_in = |rule: &&PolicyRule| is_below(&finding.path, &rule.path);
                rules.iter().find(is_in).is_some_and(|rule| self.may_be_meant(cluster, group, rule, denied))
            }
            Effect::AllowsNothing => true,
            Effect::IsolatesBoth => cluster.policy(id).rules(direction).is_empty(),
            // A field of the spec, unless it is the misspelt section of the other direction.
            Effect::FieldDropped => {
                cluster.policy(id).rules(direction).is_empty()
                    && spelling::meant(&finding.path) != Some(direction.opposite().section())
            }
            Effect::Works | Effect::Ignored => false,
        };
        let found = findings.filter(|(id, finding)| is_reason(*id, finding));
        let beside = found.map(|(policy, finding)| Beside {
            policy,
            code: Code::RuleNotUnderstood,
            path: finding.path.clone(),
            requirement: None,
            want: "a field that npc understands".to_owned(),
            got: format!("{}; {}", finding.problem, finding.effect),
        });
        beside.take(NAMED).collect()
    }

    /// Whether a rule admits the denied traffic as far as it was understood, and a part of it
    /// was not.
    fn may_be_meant(&self, cluster: &Cluster, group: &Group, rule: &PolicyRule, denied: &Traffic) -> bool {
        let direction: Direction = group.key.direction;
        let (subject, other) = self.ends(direction);
        let seen = other.seen(cluster, subject, self.family);
        // If a rule's list of peers is empty, npc did not understand the rule's own fields.
        let (open_peers, understood_peers) = match &rule.peers {
            Peers::Everyone => (false, true),
            Peers::AnyOf(peers) => {
                let is_open = peers.is_empty() || peers.contains(&Peer::Nothing);
                (is_open, atoms(&rule.peers).iter().any(|atom| atom.holds(cluster, seen)))
            }
        };
        let open_ports = matches!(&rule.ports, Ports::AnyOf(ports) if ports.contains(&PortMatch::Nothing));
        let admitted = Admitted::of_ports(&rule.ports, direction, &group.key.resolution);
        let understood_ports = denied.difference(&admitted.traffic_to(seen.ports)).is_none();
        (open_peers || (open_ports && understood_peers)) && (open_ports || understood_ports)
    }
}
