//! Labels that stand on a workload and not in its template, so that its pods lack them.

use std::collections::BTreeMap;

use npc_agent::source::manifests::{Location, ObjectRef, Positions};
use npc_compiler::algebra::selector::{Operator, Requirement};
use npc_compiler::object::{Pod, Workload};
use npc_compiler::policy::{Direction, Policy};
use npc_compiler::verdict::explain::{Beside, Code, FailedRequirement, FlowExplanation, Party, Question, Reason};
use npc_compiler::verdict::flow::End;

use super::words::workload;
use crate::command::input::Input;

/// So many policies of a namespace are looked through.
const LOOKED_THROUGH: usize = 1000;

/// A label that a workload has itself.
pub(super) struct OwnLabel {
    pub(super) value: String,
    /// Where it stands, if the workload was read from a file.
    pub(super) place: Option<Location>,
}

impl OwnLabel {
    /// The label of this key, if the workload has it.
    pub(super) fn of(input: &Input, of: &Workload, namespace: &str, key: &str) -> Option<Self> {
        let positions = &input.loaded.positions;
        let object = ObjectRef::new(&of.kind, namespace, &of.name);
        // A file in place of what the cluster has says all of the object.
        if positions.locate_object(&object, "").is_none() {
            let value = input.own_labels.get(&object)?.get(key)?.clone();
            return Some(Self { value, place: None });
        }
        let path = format!("metadata.labels.{key}");
        let place = positions.locate_object(&object, &path).filter(|place| place.exact)?;
        Some(Self { value: value(positions, &place, key)?, place: Some(place) })
    }
}

/// Adds to a direction the policy that would decide it if the labels of the workload stood in its
/// template: of a direction that no policy isolates one that would isolate it, of one that denies one
/// that would admit the flow, which is then why.
pub(super) fn add(input: &Input, explanation: &mut FlowExplanation) {
    let cluster = &input.cluster;
    for flow in &mut explanation.flows {
        let Some((from, to)) = flow.parties else { continue };
        let question = Question::between(from, to, flow.family, flow.traffic.clone());
        for (decision, party) in flow.decisions.iter_mut().flatten().zip([from, to]) {
            let Party::End(End::Pod(pod)) = party else { continue };
            let (direction, pod) = (decision.direction, cluster.pod(pod));
            let would_admit = |of: &Policy| question.would_admit(cluster, of, direction, &question.traffic);
            let found = match decision.reason {
                Reason::DefaultAllow => policy(input, pod, direction, |_| true),
                Reason::Denied(_) => policy(input, pod, direction, would_admit),
                _ => None,
            };
            let Some(found) = found else { continue };
            // What the workload itself has says more than that its pods lack it.
            decision.beside.retain(|beside| beside.code != found.code);
            if decision.reason == Reason::DefaultAllow {
                decision.beside.push(found);
            } else {
                decision.reason = Reason::Denied(found.code);
                decision.beside.insert(0, found);
            }
        }
    }
}

/// The first policy that counts and selects by labels that only the workload of a pod has.
pub(super) fn policy(
    input: &Input,
    pod: &Pod,
    direction: Direction,
    counts: impl Fn(&Policy) -> bool,
) -> Option<Beside> {
    let of = pod.workload.as_ref()?;
    let mut policies = input.cluster.policies_in(&pod.namespace).take(LOOKED_THROUGH);
    policies.find_map(|(id, policy)| {
        let failing: Vec<&Requirement> =
            policy.subject.requirements().filter(|requirement| !requirement.matches(&pod.labels)).collect();
        let own = |requirement: &Requirement| Some(OwnLabel::of(input, of, &pod.namespace, &requirement.key)?.value);
        let is_misplaced = |requirement: &&Requirement| match &requirement.operator {
            _ if pod.labels.contains_key(&requirement.key) => false,
            Operator::In(values) => own(requirement).is_some_and(|value| values.contains(&value)),
            Operator::Exists => own(requirement).is_some(),
            Operator::NotIn(_) | Operator::DoesNotExist => false,
        };
        let first = failing
            .first()
            .filter(|_| policy.isolates(direction) && counts(policy) && failing.iter().all(is_misplaced))?;
        let value = own(first)?;
        let requirement = FailedRequirement { requirement: (*first).clone(), value: None };
        let want = requirement.want();
        Some(Beside {
            policy: id,
            code: Code::SubjectNearMiss,
            path: "spec.podSelector".to_owned(),
            got: format!(
                "{}={value} in metadata.labels of {}, not in its template",
                first.key,
                workload(&pod.namespace, of)
            ),
            want,
            requirement: Some(requirement),
            admitted: None,
            may_be_why: true,
        })
    })
}

/// The value of a label in a file.
fn value(positions: &Positions, place: &Location, key: &str) -> Option<String> {
    let (start, end) = (place.span.start, place.span.end);
    let column = |column: u32| usize::try_from(column).ok()?.checked_sub(1);
    let (first, last) = (column(start.column)?, column(end.column)?);
    let line = positions.line(&place.file, start.line).filter(|_| start.line == end.line)?;
    let text: String = line.chars().take(last).skip(first).collect();
    let mut labels: BTreeMap<String, String> = serde_saphyr::from_str(&format!("{{{text}}}")).ok()?;
    labels.remove(key)
}
