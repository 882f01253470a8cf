//! What might admit a denied flow in one direction: a change of the rule that misses by
//! least, a rule more in a policy that isolates, or a policy more. Where the rule asks for a
//! label that the other end lacks, the change is the other end's.

use std::collections::BTreeSet;

use json_patch::PatchOperation;
use serde_json::{Value, json};

use super::change::{Change, Edit, ObjectName, add, append, match_labels, remove, replace};
use super::peer::{self, Other};
use super::{NoFix, View};
use crate::algebra::selector::{Operator, Selector};
use crate::algebra::traffic::Traffic;
use crate::cluster::{PodId, PolicyId};
use crate::object::{Labels, NetworkPolicy, Pod, Protocol, is_controller_label};
use crate::policy::{Direction, Namespaces, Peer, Peers, PodPeer, PolicyRule};
use crate::verdict::bounds::Verdict;
use crate::verdict::explain::{Candidate, Code, Decision, Flow, Of, Pair, is_slip};

/// What a change mends.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Cause {
    /// A label that stands on a workload and not in its template: where its author meant it to
    /// be is known, so it goes there whatever follows.
    Misplaced,
    /// A mistake: the other end lacks a label that a rule rightly asks for, or a rule asks for
    /// what no endpoint has.
    Mistake,
    /// A policy that does not mean the flow.
    Policy,
}

/// A change that might admit the flow.
#[derive(Debug)]
pub(super) struct Proposal {
    pub(super) change: Change,
    pub(super) cause: Cause,
    /// How much of the object changes; smaller ones are tried first.
    pub(super) size: Size,
}

/// How much of an object changes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Size {
    Value,
    Item,
    Rule,
    Policy,
    /// A rule in a policy that selects other pods too: it would admit more as soon as their
    /// other direction does.
    WideRule,
}

/// npc tries at most this many rules and policies, because each try compiles the cluster.
const TRIED: usize = 4;

/// The workloads whose pod templates can be changed, and the path of the template.
const TEMPLATES: [(&str, &[&str]); 6] = [
    ("CronJob", &["spec", "jobTemplate", "spec", "template"]),
    ("DaemonSet", &["spec", "template"]),
    ("Deployment", &["spec", "template"]),
    ("ReplicaSet", &["spec", "template"]),
    ("ReplicationController", &["spec", "template"]),
    ("StatefulSet", &["spec", "template"]),
];

/// What might admit the pairs of a flow in a direction that denies.
pub(super) fn proposals(
    view: View<'_>,
    flow: &Flow,
    pairs: &[Pair],
    direction: Direction,
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
    let is_dns = matches!(traffic.single(), Some((Protocol::Udp | Protocol::Tcp, 53, 53)));
    // A DNS client asks again by TCP where an answer is long.
    let is_dns_egress = is_dns && direction == Direction::Egress && matches!(other, Other::Pods(_));
    let ports = if is_dns_egress {
        ["UDP", "TCP"].map(|protocol| json!({"port": 53, "protocol": protocol})).to_vec()
    } else {
        peer::ports(&traffic)?
    };
    let proposer = Proposer { view, direction, section, field, other, namespace, subjects, ports };
    let is_why = |pair: &&Pair| pair.verdict(view.cluster, view.groups, direction) != Verdict::Allowed;
    let denied = pairs.iter().find(is_why).ok_or(NoFix::FactMissing)?;
    let decision = denied.question(direction).decide(view.cluster, view.groups, direction);
    proposer.all(&decision, flow)
}

struct Proposer<'a> {
    view: View<'a>,
    direction: Direction,
    /// `ingress` or `egress`
    section: &'static str,
    /// `from` or `to`
    field: &'static str,
    other: Other,
    /// The namespace of the policies.
    namespace: String,
    subjects: Vec<PodId>,
    /// The items of `ports`.
    ports: Vec<Value>,
}

impl Proposer<'_> {
    fn all(&self, decision: &Decision, flow: &Flow) -> Result<Vec<Proposal>, NoFix> {
        let mut all = Vec::new();
        for beside in decision.beside.iter().filter(|beside| beside.code == Code::PolicyTypesMissing) {
            let types =
                |document: &Value| append(document, &["spec", "policyTypes"], vec![json!(self.direction.as_str())]);
            all.extend(self.of_policy(beside.policy, Size::Value, types));
        }
        let nearest = decision.candidates.first().map(|nearest| nearest.labels);
        let is_alone = decision.candidates.iter().filter(|of| Some(of.labels) == nearest).count() == 1;
        for candidate in decision.candidates.iter().take(TRIED) {
            self.of_rule(candidate, is_alone, &mut all);
        }
        let items = peer::items(self.view, &self.other, &self.namespace);
        if let Ok(items) = &items {
            let rule = self.rule(items);
            let mut policies: Vec<(bool, PolicyId)> =
                decision.isolated_by.iter().map(|id| (self.selects_others(*id), *id)).collect();
            policies.sort_unstable();
            for (is_wide, id) in policies.into_iter().take(TRIED) {
                let section = ["spec", self.section];
                let size = if is_wide { Size::WideRule } else { Size::Rule };
                all.extend(self.of_policy(id, size, |document| append(document, &section, vec![rule.clone()])));
            }
            all.extend(self.new_policy(&rule, flow));
        }
        match items {
            Err(reason) if all.is_empty() => Err(reason),
            _ => Ok(all),
        }
    }

    /// Whether a policy selects pods of other workloads than the subjects'.
    fn selects_others(&self, id: PolicyId) -> bool {
        let cluster = self.view.cluster;
        let policy = cluster.policy(id);
        let meant: BTreeSet<(&str, &str)> = self.subjects.iter().map(|pod| peer::identity(cluster.pod(*pod))).collect();
        let mut endpoints = cluster.endpoints().filter(|(_, pod)| pod.namespace == policy.namespace);
        endpoints.any(|(_, pod)| policy.subject.matches(&pod.labels) && !meant.contains(&peer::identity(pod)))
    }

    fn rule(&self, items: &[Value]) -> Value {
        json!({ self.field: items, "ports": self.ports })
    }

    /// A change of a policy by the operations that its document needs.
    fn of_policy(
        &self,
        id: PolicyId,
        size: Size,
        operations: impl FnOnce(&Value) -> Vec<PatchOperation>,
    ) -> Option<Proposal> {
        let policy = self.view.cluster.policy(id);
        let is_meant = |of: &&NetworkPolicy| of.namespace() == policy.namespace && of.name() == policy.name;
        let object = self.view.objects.policies.iter().rfind(is_meant)?;
        object.object.spec.as_ref()?;
        let document = serde_json::to_value(&object.object).ok()?;
        let operations = operations(&document);
        let object = name("NetworkPolicy", &policy.namespace, &policy.name);
        (!operations.is_empty()).then_some(Proposal {
            change: Change { direction: self.direction, object, edit: Edit::Policy(json_patch::Patch(operations)) },
            cause: Cause::Policy,
            size,
        })
    }

    /// A policy that admits this flow and nothing else to the same pods.
    fn new_policy(&self, rule: &Value, flow: &Flow) -> Option<Proposal> {
        let subject = peer::narrowest(self.view, &self.subjects).ok()?;
        let (here, there) = match self.direction {
            Direction::Egress => (&flow.from, &flow.to),
            Direction::Ingress => (&flow.to, &flow.from),
        };
        let way = if self.direction == Direction::Egress { "to" } else { "from" };
        let wanted = policy_name(&format!("{}-{way}-{}", here.name, there.name));
        let here_too = self.view.objects.policies.iter().filter(|policy| policy.namespace() == self.namespace);
        let taken: BTreeSet<&str> = here_too.map(NetworkPolicy::name).collect();
        let mut names = (2..).map(|number| format!("{wanted}-{number}"));
        let name_of =
            if taken.contains(wanted.as_str()) { names.find(|name| !taken.contains(name.as_str()))? } else { wanted };
        let document = json!({
            "apiVersion": "networking.k8s.io/v1", "kind": "NetworkPolicy",
            "metadata": {"name": name_of, "namespace": self.namespace},
            "spec": {
                "podSelector": match_labels(&subject), "policyTypes": [self.direction.as_str()],
                self.section: [rule],
            },
        });
        let object = name("NetworkPolicy", &self.namespace, &name_of);
        let change = Change { direction: self.direction, object, edit: Edit::NewPolicy(document) };
        Some(Proposal { change, cause: Cause::Policy, size: Size::Policy })
    }

    /// What a rule that misses by little needs.
    fn of_rule(&self, candidate: &Candidate, is_alone: bool, all: &mut Vec<Proposal>) {
        let cluster = self.view.cluster;
        let policy = cluster.policy(candidate.policy);
        let Some(rule) = policy.rules(self.direction).iter().find(|rule| rule.path == candidate.path) else { return };
        let Some(place) = index(&candidate.path) else { return };
        let base = ["spec", self.section, place];
        let misses_peer = candidate.conjuncts.iter().any(|of| of.of == Of::Peer);
        let misses_port = candidate.conjuncts.iter().any(|of| of.of == Of::Port);
        match (misses_peer, misses_port) {
            (false, true) => {
                self.number_in_quotes(candidate, &base, all);
                let list = [&base[..], &["ports"]].concat();
                let items = self.ports.clone();
                all.extend(self.of_policy(candidate.policy, Size::Item, |document| append(document, &list, items)));
            }
            (true, false) => {
                self.at_the_peer(candidate, is_alone, rule, &base, all);
                let Ok(items) = peer::items(self.view, &self.other, &policy.namespace) else { return };
                let list = [&base[..], &[self.field]].concat();
                all.extend(self.of_policy(candidate.policy, Size::Item, |document| append(document, &list, items)));
            }
            _ => {}
        }
    }

    /// A port's number that was written as text, and so means a name.
    fn number_in_quotes(&self, candidate: &Candidate, base: &[&str; 3], all: &mut Vec<Proposal>) {
        let [port] = self.ports.as_slice() else { return };
        let Some(number) = port.get("port") else { return };
        for conjunct in candidate.conjuncts.iter().filter(|of| of.code == Code::PortNamedUnresolved) {
            let Some(item) = conjunct.path.split('.').next().and_then(index) else { continue };
            let path = [&base[..], &["ports", item, "port"]].concat();
            let change = |document: &Value| {
                let written = document.pointer(&format!("/{}", path.join("/"))).and_then(Value::as_str);
                let written = written.and_then(|text| text.trim().parse::<u64>().ok());
                let is_meant = written.is_some() && written == number.as_u64();
                if is_meant { vec![replace(&path, number.clone())] } else { Vec::new() }
            };
            let proposal = self.of_policy(candidate.policy, Size::Value, change);
            all.extend(proposal.map(|proposal| Proposal { cause: Cause::Mistake, ..proposal }));
        }
    }

    /// Changes of the very item that misses, or of what the other end lacks.
    fn at_the_peer(
        &self,
        candidate: &Candidate,
        is_alone: bool,
        rule: &PolicyRule,
        base: &[&str; 3],
        all: &mut Vec<Proposal>,
    ) {
        let (Some(conjunct), Peers::AnyOf(peers)) = (candidate.conjuncts.first(), &rule.peers) else { return };
        let Some(item) = conjunct.path.split('.').next().and_then(index) else { return };
        let Some(peer) = item.parse().ok().and_then(|place: usize| peers.get(place)) else { return };
        let path = [&base[..], &[self.field, item]].concat();
        match (peer, &self.other) {
            (Peer::Block(written), Other::Blocks(blocks)) if conjunct.code == Code::IpBlockExcept => {
                let Some(except) = conjunct.path.rsplit('.').next().and_then(index) else { return };
                let cut = except.parse().ok().and_then(|place: usize| written.except.get(place));
                if blocks.len() == 1 && cut == blocks.first() {
                    let path = [&path[..], &["ipBlock", "except", except]].concat();
                    all.extend(self.of_policy(candidate.policy, Size::Value, |_| vec![remove(&path)]));
                }
            }
            (Peer::Pods(peer), Other::Pods(pods)) => {
                let cluster = self.view.cluster;
                let own = &cluster.pod(pods[0]).namespace;
                let selects_none = cluster.selected(peer).is_empty() && cluster.possibly_selected(peer).is_empty();
                let codes: Vec<Code> = candidate.conjuncts.iter().map(|conjunct| conjunct.code).collect();
                match codes.as_slice() {
                    [Code::PeerOtherNamespace] => {
                        let path = [&path[..], &["namespaceSelector"]].concat();
                        let change = |_: &Value| vec![add(&path, peer::namespace_selector(own))];
                        all.extend(self.of_policy(candidate.policy, Size::Value, change));
                    }
                    [Code::PeerLabelMissing] if self.has_own_label(peer, pods) => {
                        let proposal = self.label_pods(peer, pods);
                        all.extend(proposal.map(|proposal| Proposal { cause: Cause::Misplaced, ..proposal }));
                    }
                    // A selector of no pod of the input is right where the input lacks its pods. Only a
                    // slip of the pen is replaced, and of rules that are equally near none is that.
                    [Code::PeerLabelValue] if selects_none && is_alone && misspelt(peer, cluster.pod(pods[0])) => {
                        let Ok(labels) = peer::narrowest(self.view, pods) else { return };
                        let path = [&path[..], &["podSelector"]].concat();
                        let change = |_: &Value| vec![replace(&path, match_labels(&labels))];
                        let proposal = self.of_policy(candidate.policy, Size::Value, change);
                        all.extend(proposal.map(|proposal| Proposal { cause: Cause::Mistake, ..proposal }));
                    }
                    [Code::PeerNamespaceLabel] => all.extend(self.label_namespace(peer, own)),
                    [Code::PeerLabelMissing] => all.extend(self.label_pods(peer, pods)),
                    _ => {}
                }
            }
            _ => {}
        }
    }

    /// The labels that a namespace lacks.
    fn label_namespace(&self, peer: &PodPeer, namespace: &str) -> Option<Proposal> {
        let Namespaces::Selected(selector) = &peer.namespaces else { return None };
        let object = self.view.objects.namespaces.iter().find(|of| of.name == namespace)?;
        let is_implied = self.view.objects.implied_namespaces.contains(namespace);
        let labels = lacking(selector, &object.labels).filter(|_| !is_implied)?;
        // In a file the namespace may have no labels, not even that of its name.
        let operations = if object.labels.len() > 1 {
            label_operations(&["metadata", "labels"], &labels)
        } else {
            let mut whole = object.labels.clone();
            whole.extend(labels.clone());
            vec![add(&["metadata", "labels"], json!(whole))]
        };
        let object = ObjectName { kind: "Namespace".to_owned(), namespace: None, name: namespace.to_owned() };
        Some(self.at_the_other_end(object, labels, operations))
    }

    /// Whether the workload of the pods has a label itself that its template lacks.
    fn has_own_label(&self, peer: &PodPeer, pods: &[PodId]) -> bool {
        let pod = self.view.cluster.pod(pods[0]);
        let lacking = lacking(&peer.pods, &pod.labels).unwrap_or_default();
        pod.workload
            .as_ref()
            .is_some_and(|workload| lacking.keys().any(|key| (self.view.has_own_label)(workload, &pod.namespace, key)))
    }

    /// The labels that the pods of one workload lack, or one pod.
    fn label_pods(&self, peer: &PodPeer, pods: &[PodId]) -> Option<Proposal> {
        let of = |pod: &PodId| self.view.cluster.pod(*pod);
        let first = of(&pods[0]);
        let is_alike = |pod: &Pod| match (&first.workload, &pod.workload) {
            (Some(one), Some(other)) => one == other,
            _ => pod.name == first.name,
        };
        if first.only_in_slice || !pods.iter().all(|pod| is_alike(of(pod))) {
            return None;
        }
        let labels = lacking(&peer.pods, &first.labels)?;
        if labels.keys().any(|key| is_controller_label(key)) {
            return None;
        }
        let (object, path) = match &first.workload {
            None => (name("Pod", &first.namespace, &first.name), vec!["metadata", "labels"]),
            Some(workload) => {
                let (_, template) = TEMPLATES.iter().find(|(kind, _)| *kind == workload.kind)?;
                // A template without labels may lack metadata too.
                first.labels.keys().find(|key| !is_controller_label(key))?;
                let path = [template, &["metadata", "labels"][..]].concat();
                (name(&workload.kind, &first.namespace, &workload.name), path)
            }
        };
        let operations =
            if first.labels.is_empty() { vec![add(&path, json!(labels))] } else { label_operations(&path, &labels) };
        Some(self.at_the_other_end(object, labels, operations))
    }

    fn at_the_other_end(&self, object: ObjectName, labels: Labels, operations: Vec<PatchOperation>) -> Proposal {
        let edit = Edit::Labels(labels, json_patch::Patch(operations));
        let change = Change { direction: self.direction, object, edit };
        Proposal { change, cause: Cause::Mistake, size: Size::Value }
    }
}

fn name(kind: &str, namespace: &str, name: &str) -> ObjectName {
    ObjectName { kind: kind.to_owned(), namespace: Some(namespace.to_owned()), name: name.to_owned() }
}

fn label_operations(path: &[&str], labels: &Labels) -> Vec<PatchOperation> {
    labels.iter().map(|(key, value)| add(&[path, &[key.as_str()]].concat(), json!(value))).collect()
}

/// The index at the end of a path: 1 of `spec.ingress[1]`.
fn index(path: &str) -> Option<&str> {
    path.strip_suffix(']')?.rsplit_once('[').map(|(_, index)| index)
}

/// The labels with which a selector would match; none where labels that are there would have
/// to change.
fn lacking(selector: &Selector, has: &Labels) -> Option<Labels> {
    let mut labels = Labels::new();
    for requirement in selector.requirements().filter(|requirement| !requirement.matches(has)) {
        let value = match &requirement.operator {
            Operator::In(values) if !has.contains_key(&requirement.key) => values.first()?.clone(),
            Operator::Exists => "true".to_owned(),
            _ => return None,
        };
        labels.insert(requirement.key.clone(), value);
    }
    (!labels.is_empty()).then_some(labels)
}

/// Whether each label that a selector asks for in vain is there with almost the same value.
fn misspelt(peer: &PodPeer, pod: &Pod) -> bool {
    let mut failing = peer.pods.requirements().filter(|requirement| !requirement.matches(&pod.labels));
    failing.all(|requirement| is_slip(requirement, &pod.labels))
}

/// A name that the API server takes.
fn policy_name(text: &str) -> String {
    let letter = |c: char| if c.is_ascii_alphanumeric() { c.to_ascii_lowercase() } else { '-' };
    let name: String = text.chars().map(letter).take(200).collect();
    let name = name.trim_matches('-');
    format!("allow-{name}")
}
