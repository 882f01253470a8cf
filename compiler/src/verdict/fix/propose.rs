//! What might admit a denied flow in one direction: a change of the policy that does not apply
//! by mistake, of the rule that misses by least, a rule more in a policy that isolates, or a
//! policy more. Where the rule asks for a label that the other end lacks, the change is the
//! other end's.

use std::collections::BTreeSet;

use json_patch::{Patch, PatchOperation};
use serde_json::{Value, json};

use super::added::Added;
use super::answer::NoFix;
use super::change::{Change, Edit, ObjectName, append, field_path, match_labels};
use super::changed::View;
use super::peer::{self, Other};
use super::proposal::{Cause, Proposal, Size};
use crate::algebra::traffic::Traffic;
use crate::cluster::{PodId, PolicyId};
use crate::object::{DNS_PORT, Protocol};
use crate::policy::Direction;
use crate::policy::finding::{Finding, is_below};
use crate::verdict::bounds::Verdict;
use crate::verdict::explain::{Decision, Flow, Pair, Question, Reason, ReasonCode, may_serve_names};

/// npc tries at most this many rules and policies, because each try compiles the cluster.
pub(super) const TRIED: usize = 4;

/// What might admit the pairs of a flow in a direction that denies.
pub(super) fn proposals(
    view: View<'_>,
    flow: &Flow,
    pairs: &[Pair],
    direction: Direction,
    ports_by: PortsBy,
) -> Result<Vec<Proposal>, NoFix> {
    let subjects = peer::subjects(pairs, direction);
    let first = subjects.first().ok_or(NoFix::FactMissing)?;
    let mut traffic = Traffic::none();
    for pair in pairs {
        traffic = traffic.union(&pair.question(direction).traffic);
    }
    let other = peer::other(view, flow, pairs, direction)?;
    let namespace = view.cluster.pod(*first).namespace.clone();
    let (section, field) = (direction.section(), direction.peers_field());
    let is_dns = [Protocol::Udp, Protocol::Tcp].map(|of| Some((of, DNS_PORT, DNS_PORT))).contains(&traffic.single());
    // A DNS client asks again by TCP where an answer is long.
    let may_serve = |pod: &PodId| may_serve_names(view.cluster, *pod);
    let is_of_servers = matches!(&other, Other::Pods(pods) if pods.iter().all(may_serve));
    let is_dns_egress = is_dns && direction == Direction::Egress && is_of_servers;
    let ports = match ports_by {
        PortsBy::Name => vec![peer::named_port(view, pairs, direction).ok_or(NoFix::NothingFits)?],
        PortsBy::Number if is_dns_egress => {
            ["UDP", "TCP"].map(|protocol| json!({"port": DNS_PORT, "protocol": protocol})).to_vec()
        }
        PortsBy::Number => peer::ports(&traffic)?,
    };
    let is_why = |pair: &&Pair| pair.verdict(view.cluster, view.groups, direction) != Verdict::Allowed;
    let denied = pairs.iter().find(is_why).ok_or(NoFix::FactMissing)?.question(direction);
    let decision = denied.decide(view.cluster, view.groups, direction);
    let is_dns = is_dns_egress;
    let proposer =
        Proposer { view, direction, section, field, other, namespace, subjects, ports, is_dns, denied, pairs };
    proposer.all(&decision, flow)
}

/// How the ports of a rule are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum PortsBy {
    /// By the name that the destinations give them.
    Name,
    Number,
}

/// Whether an explanation shows a rule as the cause.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Shown {
    /// As the only one that is so near.
    Alone,
    /// As the first of several that are equally near.
    First,
    No,
}

pub(super) struct Proposer<'a> {
    pub(super) view: View<'a>,
    pub(super) direction: Direction,
    /// `ingress` or `egress`
    pub(super) section: &'static str,
    /// `from` or `to`
    pub(super) field: &'static str,
    pub(super) other: Other,
    /// The namespace of the policies.
    pub(super) namespace: String,
    pub(super) subjects: Vec<PodId>,
    /// The items of `ports`; none where everything was asked about.
    pub(super) ports: Vec<Value>,
    /// Whether pods ask a DNS server for names.
    pub(super) is_dns: bool,
    /// A question that is denied, which stands for all.
    pub(super) denied: &'a Question,
    pub(super) pairs: &'a [Pair],
}

impl Proposer<'_> {
    fn all(&self, decision: &Decision, flow: &Flow) -> Result<Vec<Proposal>, NoFix> {
        let mut all = Vec::new();
        let denied_by = decision.misleading.first().filter(|policy| decision.reason == Reason::Denied(policy.code()));
        match denied_by.map(|of| (of, of.code())) {
            Some((part, ReasonCode::RuleNotUnderstood)) => self.of_finding(part, &mut all),
            Some((of, ReasonCode::PolicyTooLarge)) => {
                let policy = self.view.cluster.policy(of.policy);
                return Err(NoFix::PolicyTooLarge(policy.namespace.clone(), policy.name.clone()));
            }
            _ => {}
        }
        self.of_misplaced_labels(&mut all)?;
        for policy in &decision.misleading {
            self.of_misleading(policy, denied_by == Some(policy), &mut all);
        }
        for (place, candidate) in decision.candidates.iter().take(TRIED).enumerate() {
            // The reader is shown the first rule, if a rule is the cause.
            let shown = match (denied_by, place, decision.tie_count) {
                (None, 0, 1) => Shown::Alone,
                (None, 0, _) => Shown::First,
                _ => Shown::No,
            };
            self.of_rule(candidate, shown, &mut all)?;
        }
        let items = peer::items(self.view, &self.other, &self.namespace);
        if let Ok(items) = &items {
            let rule = self.rule(items);
            let nearest = decision.candidates.first().map(|candidate| candidate.policy);
            let mut policies: Vec<(Size, bool, PolicyId)> =
                decision.isolated_by.iter().map(|id| (self.size_of_rule(*id), nearest != Some(*id), *id)).collect();
            policies.sort_unstable();
            for (size, _, id) in policies.into_iter().take(TRIED) {
                let section = ["spec", self.section];
                all.extend(self.of_policy(id, size, |document| append(document, &section, vec![rule.clone()])));
            }
            all.extend(self.new_policy(&rule, flow));
        }
        match (items, denied_by) {
            (_, Some(part)) if all.is_empty() && part.code() == ReasonCode::RuleNotUnderstood => {
                Err(self.fault(part.policy, &part.path))
            }
            (Err(reason), _) if all.is_empty() => Err(reason),
            _ => Ok(all),
        }
    }

    /// How much a rule more changes a policy.
    fn size_of_rule(&self, id: PolicyId) -> Size {
        let policy = self.view.cluster.policy(id);
        let is_default_deny = policy.subject.is_empty() && policy.rules(self.direction).is_empty();
        match (self.selects_others(id), is_default_deny) {
            (true, _) => Size::Wide,
            (false, true) => Size::DefaultDeny,
            (false, false) => Size::Rule,
        }
    }

    /// Whether a policy has a rule of this direction that admits every peer on every port.
    pub(super) fn has_rule_for_everything(&self, document: &Value) -> bool {
        let is_empty = |list: &Value| list.as_array().is_none_or(Vec::is_empty);
        let mut rules = document["spec"][self.section].as_array().into_iter().flatten();
        rules.any(|rule| is_empty(&rule[self.field]) && is_empty(&rule["ports"]))
    }

    /// A part of a policy that was not understood, as the reason why there is no fix.
    fn fault(&self, id: PolicyId, path: &str) -> NoFix {
        let policy = self.view.cluster.policy(id);
        NoFix::Finding { policy: (policy.namespace.clone(), policy.name.clone()), path: path.to_owned() }
    }

    /// Whether a policy has something that the API server would refuse with the patch, or a rule
    /// that changes has a part that was not understood. A patch may mend that very part.
    fn is_refused(&self, id: PolicyId, operations: &[PatchOperation]) -> bool {
        let paths: Vec<String> = operations.iter().map(field_path).collect();
        let is_mended = |finding: &Finding| {
            let mut written = operations.iter().filter(|of| matches!(of, PatchOperation::Replace(_)));
            written.any(|operation| is_below(&finding.path, &field_path(operation)))
        };
        let is_in_changed_rule = |finding: &Finding| {
            let rules = self.view.cluster.policy(id).rules(self.direction).iter();
            let mut changed = rules.filter(|rule| paths.iter().any(|path| is_below(path, &rule.path)));
            finding.effect.is_harmful() && changed.any(|rule| is_below(&finding.path, &rule.path))
        };
        let mut findings = self.view.cluster.findings_of(id).filter(|finding| !is_mended(finding));
        findings.any(|finding| finding.code.is_refused() || is_in_changed_rule(finding))
    }

    /// Whether a policy selects pods of other workloads than the subjects'.
    fn selects_others(&self, id: PolicyId) -> bool {
        let cluster = self.view.cluster;
        let policy = cluster.policy(id);
        let meant: BTreeSet<(&str, &str)> = self.subjects.iter().map(|pod| cluster.pod(*pod).identity()).collect();
        let mut endpoints = cluster.endpoints().filter(|(_, pod)| pod.namespace == policy.namespace);
        endpoints.any(|(_, pod)| policy.subject.matches(&pod.labels) && !meant.contains(&pod.identity()))
    }

    pub(super) fn rule(&self, items: &[Value]) -> Value {
        match self.ports.as_slice() {
            [] => json!({ self.field: items }),
            ports => json!({ self.field: items, "ports": ports }),
        }
    }

    /// A change of a policy by the operations that its document needs.
    pub(super) fn of_policy(
        &self,
        id: PolicyId,
        size: Size,
        operations: impl FnOnce(&Value) -> Vec<PatchOperation>,
    ) -> Option<Proposal> {
        let policy = self.view.cluster.policy(id);
        let document = self.document(id)?;
        let operations = operations(&document);
        let object = ObjectName::new("NetworkPolicy", &policy.namespace, &policy.name);
        if operations.is_empty() || !self.view.has_name(&object) || self.is_refused(id, &operations) {
            return None;
        }
        let (mut changed, patch) = (document.clone(), Patch(operations));
        let adds = match json_patch::patch(&mut changed, &patch) {
            Ok(()) => Added::of(Some(&document), &changed),
            // A change that does not fit is not tried.
            Err(_) => Added::default(),
        };
        let change = Change { direction: self.direction, object, edit: Edit::Policy(patch), rollout: None, adds };
        Some(Proposal { change, cause: Cause::Policy, size })
    }

    /// A policy as it is written; none without a spec.
    pub(super) fn document(&self, id: PolicyId) -> Option<Value> {
        let policy = self.view.cluster.policy(id);
        let object = self.view.policy(&policy.namespace, &policy.name)?;
        object.object.spec.as_ref()?;
        serde_json::to_value(&object.object).ok()
    }

    /// A name that no policy of the subjects' namespace has: this one, or with a number.
    pub(super) fn free_name(&self, wanted: String) -> Option<String> {
        let taken: BTreeSet<&str> = self.view.policy_names(&self.namespace).collect();
        if !taken.contains(wanted.as_str()) {
            return Some(wanted);
        }
        // Of so many numbers one is free.
        (2..=taken.len() + 2).map(|number| format!("{wanted}-{number}")).find(|name| !taken.contains(name.as_str()))
    }

    /// A policy that admits this flow and nothing else to the same pods.
    fn new_policy(&self, rule: &Value, flow: &Flow) -> Option<Proposal> {
        let subject = peer::narrowest(self.view, &self.subjects).ok()?;
        let (here, there) = match self.direction {
            Direction::Egress => (&flow.from, &flow.to),
            Direction::Ingress => (&flow.to, &flow.from),
        };
        // The selectors mean all replicas.
        let others = self.pairs.iter().map(|pair| pair.question(self.direction).ends(self.direction).1.pod());
        let others: Option<Vec<PodId>> = others.collect();
        let here = self.common_name(&self.subjects).unwrap_or(&here.name);
        let there = others.and_then(|others| self.common_name(&others)).unwrap_or(&there.name);
        let way = if self.direction == Direction::Egress { "to" } else { "from" };
        let name_of = self.free_name(policy_name(&format!("{here}-{way}-{there}")))?;
        let document = json!({
            "apiVersion": "networking.k8s.io/v1", "kind": "NetworkPolicy",
            "metadata": {"name": name_of, "namespace": self.namespace},
            "spec": {
                "podSelector": match_labels(&subject), "policyTypes": [self.direction.as_str()],
                self.section: [rule],
            },
        });
        let object = ObjectName::new("NetworkPolicy", &self.namespace, &name_of);
        let (adds, edit) = (Added::of(None, &document), Edit::NewPolicy(document));
        let change = Change { direction: self.direction, object, edit, rollout: None, adds };
        Some(Proposal { change, cause: Cause::Policy, size: Size::Policy })
    }
}

impl<'a> Proposer<'a> {
    /// The name of the workload that all these pods are of, or of the one pod.
    fn common_name(&self, pods: &[PodId]) -> Option<&'a str> {
        let mut names = pods.iter().map(|pod| self.view.cluster.pod(*pod).identity());
        let first = names.next()?;
        names.all(|name| name == first).then_some(first.1)
    }
}

/// A name that the API server takes.
fn policy_name(text: &str) -> String {
    let letter = |c: char| if c.is_ascii_alphanumeric() { c.to_ascii_lowercase() } else { '-' };
    let name: String = text.chars().map(letter).take(200).collect();
    let name = name.trim_matches('-');
    format!("allow-{name}")
}
