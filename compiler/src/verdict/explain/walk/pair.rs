//! What is said of one pair of ends, in each family in which they may exchange packets.

use super::ends::{Finder, Unit};
use super::families::judged;
use super::{Destination, FlowsByFamily, Route, Walk};
use crate::algebra::traffic::Traffic;
use crate::cluster::Cluster;
use crate::object::Family;
use crate::policy::Direction;
use crate::verdict::bounds::Verdict;
use crate::verdict::explain::answer::{Flow, Way};
use crate::verdict::explain::question::Question;
use crate::verdict::explain::question::judged_pairs::{JudgedPairs, Pair};
use crate::verdict::explain::question::name::EndName;

impl Walk<'_> {
    /// What is said of one pair of ends; the flows do not name them, so that
    /// equal answers are equal.
    pub(in crate::verdict::explain) fn pair(
        &self,
        from: &Unit,
        destination: &Destination,
        route: Route<'_>,
    ) -> FlowsByFamily {
        let cluster = self.ends.cluster;
        let is_bare = |unit: &Unit| !unit.party.has_address(cluster);
        let unknown_family = is_bare(from) || is_bare(&destination.unit);
        let judge = |family: Option<Family>| {
            let mut flows = self.in_family(from, destination, route, family);
            for flow in &mut flows {
                flow.family = family.filter(|_| !unknown_family);
            }
            (family, flows)
        };
        let mut said: FlowsByFamily = judged(cluster, from, &destination.unit).into_iter().map(judge).collect();
        if let [(None, flows)] = said.as_slice()
            && let Some(by_family) = by_new_family(cluster, from, &destination.unit, flows, judge)
        {
            said = by_family;
        }
        // An end without an address has no family yet; it matters only where the
        // other end's families get different answers.
        if unknown_family && said.len() == 2 {
            let [(_, one), (_, other)] = [&said[0], &said[1]];
            if one.len() == other.len() && one.iter().zip(other).all(|(one, other)| one.is_alike(other)) {
                let (_, other) = said.remove(1);
                said[0].1.iter_mut().zip(&other).for_each(|(one, other)| one.join(other));
            } else {
                for (family, flows) in &mut said {
                    for flow in flows {
                        flow.family = *family;
                    }
                }
            }
        }
        said
    }

    /// What is said of one pair of ends in one family; the flows do not name it.
    fn in_family(&self, from: &Unit, destination: &Destination, route: Route<'_>, family: Option<Family>) -> Vec<Flow> {
        let Destination { unit: to, traffic, service_port, before } = destination;
        let Finder { cluster, groups } = self.ends;
        let mut question = Question {
            from: from.seen_as.unwrap_or(from.party),
            to: to.party,
            family,
            traffic: traffic.clone(),
            service_port: *service_port,
            service_addresses: route.service.to_vec(),
            replicas: from.is_template && to.is_template,
            nodes: route.nodes,
        };
        let seen_by_source = before.as_ref().filter(|_| from.party.pod().is_some()).and_then(|(party, traffic)| {
            let address = Family::ALL.into_iter().find_map(|family| party.address(cluster, family))?;
            Some((address, traffic.clone()))
        });
        let egress = match before {
            Some((party, traffic)) if from.party.pod().is_some() => Some(Question {
                from: from.party,
                to: *party,
                traffic: traffic.clone(),
                service_port: None,
                service_addresses: Vec::new(),
                ..question.clone()
            }),
            _ => from.seen_as.map(|_| Question { from: from.party, ..question.clone() }),
        };
        let mut asked = Pair { question: question.clone(), egress };
        let mut bounds = asked.passes(cluster, groups);
        if !route.missing.is_empty() {
            bounds.least = Traffic::none();
            if route.may_pass {
                bounds.most = Traffic::all();
            }
        }
        let mut flows = Vec::new();
        let parts = [
            (Verdict::Allowed, traffic.intersection(&bounds.least)),
            (Verdict::Unknown, traffic.intersection(&bounds.most.difference(&bounds.least))),
            (Verdict::Denied, traffic.difference(&bounds.most)),
        ];
        for (verdict, part) in parts.into_iter().filter(|(_, part)| !part.is_none()) {
            question.traffic = part.clone();
            asked.question.traffic = part.clone();
            let decide = |direction| asked.question(direction).decide(cluster, groups, direction);
            flows.push(Flow {
                // What policies deny depends on these facts too, once they admit it.
                missing: if verdict == Verdict::Allowed { Vec::new() } else { route.missing.to_vec() },
                port_name: self.ends.port_name(to, &part, route.port),
                seen_by_source: seen_by_source.clone(),
                decisions: Some([decide(Direction::Egress), decide(Direction::Ingress)]),
                asked: match verdict {
                    Verdict::Denied if route.missing.is_empty() => JudgedPairs::of(asked.clone()),
                    _ => JudgedPairs::default(),
                },
                ..Flow::undecided(EndName::default(), EndName::default(), part, verdict)
            });
        }
        if route.with_itself && !flows.iter().all(Flow::is_allowed) {
            let itself = self.to_itself(question, traffic, flows.first());
            if itself.is_some() {
                for flow in &mut flows {
                    flow.way = Some(Way::OtherReplica);
                }
            }
            flows.extend(itself);
        }
        flows
    }

    /// What a replica sends to itself: straight, or by a Service that sends it back to the replica
    /// that it came from.
    fn to_itself(&self, question: Question, traffic: &Traffic, like: Option<&Flow>) -> Option<Flow> {
        let Finder { cluster, groups } = self.ends;
        let is_one = question.replicas && question.from == question.to;
        let question = Question { replicas: false, traffic: traffic.clone(), ..question };
        let decide = |direction| question.decide(cluster, groups, direction);
        like.filter(|_| is_one).cloned().map(|flow| Flow {
            traffic: traffic.clone(),
            way: Some(Way::Itself),
            verdict: Verdict::Allowed,
            missing: Vec::new(),
            decisions: Some([decide(Direction::Egress), decide(Direction::Ingress)]),
            asked: JudgedPairs::default(),
            ..flow
        })
    }
}

/// What is said of two ends without addresses by the family of those that they will have, where that
/// decides: where pods get addresses of one family only, or something is allowed in one of them or denied in both.
fn by_new_family(
    cluster: &Cluster,
    from: &Unit,
    to: &Unit,
    in_either: &[Flow],
    judge: impl Fn(Option<Family>) -> (Option<Family>, Vec<Flow>),
) -> Option<FlowsByFamily> {
    let allowed = |flows: &[Flow]| {
        // What a replica sends to itself says nothing of others.
        let is_allowed = |flow: &&Flow| flow.verdict == Verdict::Allowed && flow.way != Some(Way::Itself);
        let allowed = flows.iter().filter(is_allowed);
        allowed.fold(Traffic::none(), |all, flow| all.union(&flow.traffic))
    };
    if in_either.iter().all(|flow| flow.verdict != Verdict::Unknown) {
        return None;
    }
    let may_be = |family: &Family| {
        cluster.assigns_family(*family) && [from, to].iter().all(|unit| unit.only.is_none_or(|only| only == *family))
    };
    let said: FlowsByFamily = Family::ALL.into_iter().filter(may_be).map(|family| judge(Some(family))).collect();
    let before = allowed(in_either);
    let open = |flows: &[Flow]| {
        let is_open = |flow: &&Flow| flow.verdict != Verdict::Denied && flow.way != Some(Way::Itself);
        flows.iter().filter(is_open).fold(Traffic::none(), |all, flow| all.union(&flow.traffic))
    };
    // What each family denies is denied, though each end admits it in some family.
    let in_some = said.iter().fold(Traffic::none(), |all, (_, flows)| all.union(&open(flows)));
    let decides = said.len() == 1
        || said.iter().any(|(_, flows)| !allowed(flows).difference(&before).is_none())
        || !open(in_either).difference(&in_some).is_none();
    decides.then_some(said)
}
