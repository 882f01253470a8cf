//! Rules for the other direction than the one in which their author may have meant them.
//!
//! A rule of a client's policy that names its server is right, and so is the server's rule that names
//! the client. Both deny the way back, which no author meant to open, and neither is turned round. So a
//! rule counts as that only with evidence: it names the port that was asked for, and only the destination
//! of the question has that port, or the rule admits nothing as it stands.

use super::not_applying::{Search, Without};
use super::{Discrepancy, MisleadingPolicy, OtherDirection};
use crate::algebra::traffic::Traffic;
use crate::cluster::{Cluster, PolicyId};
use crate::policy::{Direction, Peer, Peers, Policy, PolicyRule, Ports};
use crate::verdict::explain::question::Question;
use crate::verdict::explain::question::party::Party;
use crate::verdict::explain::question::would_admit::declared;
use crate::verdict::flow::End;

impl Question {
    /// Whether the question is about one port, which the destination declares and the source does
    /// not. A rule that names it between these ends is about this direction. An address declares
    /// nothing: if one is the source, the destination has to declare the port, and if one is the
    /// destination, the source has to declare other ports only.
    fn is_about_port_of_destination(&self, cluster: &Cluster) -> bool {
        let Some((protocol, port, last)) = self.traffic.single() else { return false };
        let has = |pod| cluster.pod(pod).declared_ports(protocol).any(|declared| declared == port);
        let declares_some = |pod| !declared(cluster.pod(pod)).is_none();
        port == last
            && match (self.from, self.to) {
                (Party::End(End::Pod(from)), Party::End(End::Pod(to))) => has(to) && !has(from),
                (Party::End(End::Pod(from)), Party::End(End::Address(_))) => declares_some(from) && !has(from),
                (Party::End(End::Address(_)), Party::End(End::Pod(to))) => has(to),
                _ => false,
            }
    }
}

impl Search<'_> {
    /// A policy that selects the subject, and has rules for the other direction which look as if they were about
    /// such flows: it has no rule for this direction, or none that means the flow, such as one for DNS alone.
    pub(in crate::verdict::explain) fn other_direction(
        &self,
        id: PolicyId,
        policy: &Policy,
    ) -> Option<MisleadingPolicy> {
        let (here, there) = (self.direction, self.direction.opposite());
        let rules = policy.rules(there);
        let has_none = policy.rules(here).is_empty();
        if !policy.isolates(there) || (!has_none && self.without == Without::Allowed) {
            return None;
        }
        let may_be_why = match self.without {
            Without::Denied if has_none => rules.iter().any(|rule| self.is_meant_for_this_direction(rule)),
            // Its author knows both directions, so only the port of the destination shows that a rule is in the wrong one.
            Without::Denied => {
                self.question.is_about_port_of_destination(self.cluster)
                    && rules.iter().any(|rule| self.has_port(rule) && self.names(rule))
            }
            Without::Allowed => !policy.isolates(here) && rules.iter().any(|rule| self.is_mistaken(rule)),
        };
        // That the policy closes this direction without a rule, and opens the other one for the other
        // end, may be all that its author meant.
        let is_to_know = || {
            let names_all = |rule: &PolicyRule| matches!(rule.ports, Ports::Everything) && self.names(rule);
            has_none && self.without == Without::Denied && policy.isolates(here) && rules.iter().any(names_all)
        };
        if !may_be_why && !is_to_know() {
            return None;
        }
        let effect = match self.without {
            Without::Denied if may_be_why => OtherDirection::MeanOtherEnd,
            Without::Denied => OtherDirection::Admit,
            Without::Allowed => OtherDirection::Limit,
        };
        let discrepancy = Discrepancy::RulesForOtherDirection { direction: here, effect };
        Some(MisleadingPolicy { policy: id, path: format!("spec.{}", there.section()), discrepancy, may_be_why })
    }

    /// Whether a rule of the other direction was most likely meant for this one: it names the other
    /// end and the port that was asked for, and only the destination has that port, or the rule admits
    /// nothing as it stands.
    fn is_meant_for_this_direction(&self, rule: &PolicyRule) -> bool {
        self.has_port(rule)
            && self.names(rule)
            && (self.question.is_about_port_of_destination(self.cluster) || self.admits_nothing(rule))
    }

    /// Whether a rule of the other direction looks as if its author had meant it to limit this one:
    /// it names a port that only the destination has, and the other end, or, of egress, pods.
    fn is_mistaken(&self, rule: &PolicyRule) -> bool {
        let Peers::AnyOf(peers) = &rule.peers else { return false };
        let has_pods = || peers.iter().any(|peer| matches!(peer, Peer::Pods(_)));
        self.has_port(rule)
            && self.question.is_about_port_of_destination(self.cluster)
            && (self.names(rule) || (self.direction == Direction::Ingress && has_pods()))
    }

    /// Whether a peer of a rule selects the other end, and not every other end too.
    fn names(&self, rule: &PolicyRule) -> bool {
        let Peers::AnyOf(peers) = &rule.peers else { return false };
        self.selects(&Peers::AnyOf(peers.iter().filter(|peer| peer.is_narrow()).cloned().collect()))
    }

    /// Whether a rule has ports, and they admit what was asked as those of a rule of this direction
    /// would.
    fn has_port(&self, rule: &PolicyRule) -> bool {
        matches!(rule.ports, Ports::AnyOf(_))
            && self.question.traffic.difference(&self.admitted(rule, self.question.to)).is_none()
    }

    /// What the ports of a rule admit to an end.
    fn admitted(&self, rule: &PolicyRule, to: Party) -> Traffic {
        rule.traffic_to(to.ports(self.cluster))
    }

    /// Whether nothing passes from one end to the other of what a rule of the other direction admits,
    /// as it stands.
    fn admits_nothing(&self, rule: &PolicyRule) -> bool {
        let Question { from, to, family, replicas, .. } = *self.question;
        let reversed = Question { replicas, ..Question::between(to, from, family, Traffic::none()) };
        let passes = reversed.passes(self.cluster, self.groups).most;
        passes.intersection(&self.admitted(rule, from)).is_none()
    }
}
