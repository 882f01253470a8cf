//! Labels that stand on a workload and not in its template, so that its pods lack them, and labels that the
//! template has got since the pods were made.

use super::{Discrepancy, MisleadingPolicy};
use crate::algebra::selector::{Operator, Requirement};
use crate::cluster::Cluster;
use crate::policy::{Direction, Policy};
use crate::verdict::explain::decision::Reason;
use crate::verdict::explain::decision::mark::FailedRequirement;
use crate::verdict::explain::question::Question;
use crate::verdict::explain::question::party::Party;
use crate::verdict::flow::End;

/// At most this many policies of a namespace are looked through.
const LOOKED_THROUGH: usize = 1000;

impl Question {
    /// The policy that would decide a direction if the labels of the subject's workload stood in its
    /// template: where no policy isolates the subject one that would isolate it, where the direction denies
    /// one that would admit the traffic, which is then why.
    pub(in crate::verdict::explain) fn label_on_workload(
        &self,
        cluster: &Cluster,
        direction: Direction,
        reason: Reason,
    ) -> Option<MisleadingPolicy> {
        let (Party::End(End::Pod(pod)), _) = self.ends(direction) else { return None };
        let pod = cluster.pod(pod);
        let hints = cluster.hints();
        let has_labels = !hints.workload_labels.is_empty() || !hints.template_labels.is_empty();
        let workload = pod.workload.as_ref().filter(|_| has_labels)?;
        let counts = |policy: &Policy| match reason {
            Reason::DefaultAllow => true,
            Reason::Denied(_) => self.would_admit(cluster, policy, direction, &self.traffic),
            _ => false,
        };
        let mut policies = cluster.policies_in(&pod.namespace).take(LOOKED_THROUGH);
        policies.find_map(|(id, policy)| {
            let failing: Vec<&Requirement> =
                policy.subject.requirements().filter(|requirement| !requirement.matches(&pod.labels)).collect();
            let in_template = |of: &Requirement| cluster.template_label(&pod.namespace, workload, &of.key);
            let own = |of: &Requirement| {
                in_template(of).or_else(|| {
                    let own = cluster.workload_label(&pod.namespace, workload, &of.key);
                    own.filter(|_| !pod.labels.contains_key(&of.key))
                })
            };
            let is_misplaced = |requirement: &&Requirement| match &requirement.operator {
                Operator::In(values) => own(requirement).is_some_and(|own| values.iter().any(|value| value == own)),
                Operator::Exists => own(requirement).is_some(),
                Operator::NotIn(_) | Operator::DoesNotExist => false,
            };
            let is_it = || policy.isolates(direction) && failing.iter().all(is_misplaced) && counts(policy);
            let first = *failing.first().filter(|_| is_it())?;
            let discrepancy = Discrepancy::LabelOnWorkload {
                failed: FailedRequirement::of(first, &pod.labels),
                value: own(first)?.to_owned(),
                is_in_template: in_template(first).is_some(),
                namespace: pod.namespace.clone(),
                workload: workload.clone(),
            };
            let path = "spec.podSelector".to_owned();
            Some(MisleadingPolicy { policy: id, path, discrepancy, may_be_why: true })
        })
    }
}
