//! Changes of a policy that would admit the flow, if it applied: a direction that its policyTypes
//! do not name, rules that stand in the other direction, a namespace or a podSelector that
//! misses the subject.

use json_patch::PatchOperation;
use serde_json::{Map, Value, json};

use super::added::Added;
use super::answer::NoFix;
use super::change::{Change, Edit, Lacking, ObjectName, append, match_labels, replace};
use super::proposal::{Cause, Proposal, Size};
use super::propose::{Proposer, TRIED};
use super::rollout::template_reach;
use super::{label, misspelt, peer};
use crate::algebra::selector::Selector;
use crate::cluster::{PodId, PolicyId};
use crate::policy::{Peers, Policy};
use crate::verdict::explain::{MisleadingPolicy, ReasonCode};

/// At most this many policies of a namespace are looked through for labels that stand in the wrong place.
const LOOKED_THROUGH: usize = 1000;

impl Proposer<'_> {
    /// What makes a policy apply. Unless it is the cause of the denial, it may well be meant as it is.
    pub(super) fn of_misleading(&self, misleading: &MisleadingPolicy, is_cause: bool, all: &mut Vec<Proposal>) {
        let cause = if is_cause { Cause::Mistake } else { Cause::Policy };
        let mut add = |proposal: Option<Proposal>| all.extend(proposal.map(|of| Proposal { cause, ..of }));
        match misleading.code() {
            ReasonCode::PolicyTypesMissing => {
                add(self.of_policy(misleading.policy, Size::Value, |document| {
                    if self.has_rule_for_everything(document) { Vec::new() } else { self.types(document) }
                }));
            }
            ReasonCode::DirectionOther if is_cause => {
                self.turned_rules(misleading.policy).into_iter().for_each(|of| add(Some(of)));
            }
            ReasonCode::PolicyOtherNamespace if is_cause => add(self.in_this_namespace(misleading.policy)),
            ReasonCode::SubjectNearMiss if is_cause => {
                let policy = self.view.cluster.policy(misleading.policy);
                let (view, direction, id) = (self.view, self.direction, misleading.policy);
                let misspelt =
                    || misspelt::of_pods(view, direction, &policy.subject, id, &self.subjects, Lacking::Subject);
                if !label::is_on_workload(view, &policy.subject, &self.subjects) {
                    match misspelt() {
                        Some(proposal) => all.push(proposal),
                        // Where other policies ask for the label too, it may close or open more than the podSelector.
                        None => {
                            let labels = self.label_of_subjects(&policy.subject);
                            let is_alone =
                                labels.as_ref().is_some_and(|of| !label::is_asked_for_elsewhere(view, id, &of.change));
                            add(labels);
                            if !is_alone {
                                add(self.right_subject(id, policy));
                            }
                        }
                    }
                }
            }
            _ => {}
        }
    }

    /// The labels that the workload of the subjects has itself, in its template, where a policy would
    /// then admit the flow.
    pub(super) fn of_misplaced_labels(&self, all: &mut Vec<Proposal>) -> Result<(), NoFix> {
        let (view, direction, pods) = (self.view, self.direction, &self.subjects);
        let would_admit = |policy: &Policy| {
            policy.isolates(direction)
                && self.denied.would_admit(view.cluster, policy, direction, &self.denied.traffic)
                && (label::of_newer_template(view, &policy.subject, pods).is_some()
                    || label::is_on_workload(view, &policy.subject, pods))
        };
        let policies = view.cluster.policies_in(&self.namespace).map(|(_, policy)| policy).take(LOOKED_THROUGH);
        for policy in policies.filter(|policy| would_admit(policy)).take(TRIED) {
            if let Some(reason) = self.newer_template(&policy.subject, pods) {
                return Err(reason);
            }
            let proposal = label::of_pods(view, direction, &policy.subject, pods, Lacking::Subject, 0);
            all.extend(proposal.map(|of| Proposal { cause: Cause::Misplaced, ..of }));
        }
        Ok(())
    }

    /// That pods lack labels which their template has by now, as the reason why there is nothing to change.
    pub(super) fn newer_template(&self, selector: &Selector, pods: &[PodId]) -> Option<NoFix> {
        let (object, labels) = label::of_newer_template(self.view, selector, pods)?;
        let reach = template_reach(self.view.written, &object);
        Some(NoFix::NewerTemplate { object, labels, reach })
    }

    /// The direction, in a policy whose policyTypes do not name it.
    fn types(&self, document: &Value) -> Vec<PatchOperation> {
        append(document, &["spec", "policyTypes"], vec![json!(self.direction.as_str())])
    }

    /// Rules of the other direction, written in this one too. What the author wrote stays: that the flow is admitted
    /// needs no more. One that has peers for every pod or address beside the one that is meant is not copied, and
    /// where a rule for this flow alone opens less than all of its peers and ports, that is the change.
    fn turned_rules(&self, id: PolicyId) -> Vec<Proposal> {
        let policy = self.view.cluster.policy(id);
        let opposite = self.direction.opposite();
        let rules = policy.rules(opposite).iter().enumerate().filter(|(_, rule)| rule.peers != Peers::Everyone);
        let turned = |document: &Value, place: &str| {
            let Some(rule) = document.pointer(&format!("/spec/{}/{place}", opposite.section())) else {
                return Vec::new();
            };
            let mut turned = Map::from_iter([(self.field.to_owned(), rule[opposite.peers_field()].clone())]);
            if rule["ports"].as_array().is_some_and(|ports| !ports.is_empty()) {
                turned.insert("ports".to_owned(), rule["ports"].clone());
            }
            let mut operations = append(document, &["spec", self.section], vec![Value::Object(turned)]);
            operations.extend(self.lacking_type(policy, document));
            operations
        };
        let mut all = Vec::new();
        for (place, rule) in rules.take(TRIED) {
            let place = &place.to_string();
            if rule.peers.is_narrow() {
                all.extend(self.of_policy(id, Size::Value, |document| turned(document, place)));
            }
        }
        if let Ok(items) = peer::items(self.view, &self.other, &self.namespace) {
            all.extend(self.of_policy(id, Size::Rule, |document| {
                let rule = vec![self.rule(&items)];
                let mut operations = append(document, &["spec", self.section], rule);
                operations.extend(self.lacking_type(policy, document));
                operations
            }));
        }
        all
    }

    /// The direction, in a policy whose policyTypes are written and do not name it.
    fn lacking_type(&self, policy: &Policy, document: &Value) -> Vec<PatchOperation> {
        let has_types = document["spec"]["policyTypes"].as_array().is_some_and(|types| !types.is_empty());
        if has_types && !policy.isolates(self.direction) { self.types(document) } else { Vec::new() }
    }

    /// The same policy in the subject's namespace, if it selects no pod in its own.
    fn in_this_namespace(&self, id: PolicyId) -> Option<Proposal> {
        let policy = self.view.cluster.policy(id);
        if !self.view.cluster.selects_none(&policy.subject_peer()) || self.view.cluster.findings_of(id).next().is_some()
        {
            return None;
        }
        let written = self.document(id).filter(|document| !self.has_rule_for_everything(document))?;
        let name = self.free_name(policy.name.clone()).filter(|name| !name.is_empty())?;
        let mut metadata =
            Map::from_iter([("name".to_owned(), json!(name)), ("namespace".to_owned(), json!(self.namespace))]);
        if let Some(labels) = written["metadata"].get("labels").filter(|labels| !labels.is_null()) {
            metadata.insert("labels".to_owned(), labels.clone());
        }
        let document = json!({
            "apiVersion": "networking.k8s.io/v1", "kind": "NetworkPolicy", "metadata": metadata,
            "spec": written["spec"],
        });
        let old = ObjectName::new("NetworkPolicy", &policy.namespace, &policy.name);
        let object = ObjectName::new("NetworkPolicy", &self.namespace, &name);
        let (edit, adds) = (Edit::MovedPolicy(document, old), Added::default());
        let change = Change { direction: self.direction, object, edit, rollout: None, adds };
        Some(Proposal { change, cause: Cause::Policy, size: Size::Value })
    }

    /// The labels that the subjects lack and a podSelector asks for, beside labels that they have: the policy may well
    /// mean these pods and be right.
    fn label_of_subjects(&self, selector: &Selector) -> Option<Proposal> {
        let (view, pods) = (self.view, &self.subjects);
        let has_one = |pod: &PodId| selector.requirements().any(|of| of.matches(&view.cluster.pod(*pod).labels));
        if !pods.iter().all(has_one) {
            return None;
        }
        let proposal = label::of_pods(view, self.direction, selector, pods, Lacking::Subject, 0)?;
        (!label::names_another(view, pods, &proposal.change)).then_some(proposal)
    }

    /// The subjects' labels in place of a podSelector that selects no pod.
    fn right_subject(&self, id: PolicyId, policy: &Policy) -> Option<Proposal> {
        let selects_none = || self.view.cluster.selects_none(&policy.subject_peer());
        let labels = selects_none().then(|| peer::as_asked_for(self.view, &policy.subject, &self.subjects))??;
        self.of_policy(id, Size::Value, |document| {
            let right = || vec![replace(&["spec", "podSelector"], match_labels(&labels))];
            if self.has_rule_for_everything(document) { Vec::new() } else { right() }
        })
    }
}
