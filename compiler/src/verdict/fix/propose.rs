//! What might admit a denied flow in one direction: a change of the rule that misses by
//! least, a rule more in a policy that isolates, or a policy more. Where the rule asks for a
//! label that the other end lacks, the change is the other end's.

use std::collections::BTreeSet;

use json_patch::PatchOperation;
use serde_json::{Value, json};

use super::change::{Change, Edit, ObjectName, add, append, field_path, match_labels, remove, replace};
use super::peer::{self, Other};
pub(super) use super::proposal::{Cause, Proposal, Size};
use super::{NoFix, View, label, written};
use crate::algebra::traffic::Traffic;
use crate::cluster::{PodId, PolicyId};
use crate::object::{NetworkPolicy, Pod, Protocol};
use crate::policy::finding::{self, Finding, is_below};
use crate::policy::{Direction, Peer, Peers, PodPeer, PolicyRule};
use crate::verdict::bounds::Verdict;
use crate::verdict::explain::{Candidate, Code, Decision, Flow, Of, Pair, Reason, is_slip};

/// npc tries at most this many rules and policies, because each try compiles the cluster.
const TRIED: usize = 4;

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

/// Whether an explanation shows a rule as the cause.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Shown {
    /// As the only one that is so near.
    Alone,
    /// As the first of several that are equally near.
    First,
    No,
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
            let types = |document: &Value| {
                let name = (!self.has_rule_for_everything(document)).then(|| json!(self.direction.as_str()));
                name.map_or_else(Vec::new, |name| append(document, &["spec", "policyTypes"], vec![name]))
            };
            all.extend(self.of_policy(beside.policy, Size::Value, types));
        }
        let denied_by = decision.beside.first().filter(|beside| decision.reason == Reason::Denied(beside.code));
        if let Some(part) = denied_by.filter(|beside| beside.code == Code::RuleNotUnderstood) {
            return Err(self.fault(part.policy, &part.path));
        }
        for (place, candidate) in decision.candidates.iter().take(TRIED).enumerate() {
            // The reader is shown the first rule, if a rule is the cause.
            let shown = match (denied_by, place, decision.tie_count) {
                (None, 0, 1) => Shown::Alone,
                (None, 0, _) => Shown::First,
                _ => Shown::No,
            };
            self.of_rule(candidate, shown, &mut all);
            let mut findings = self.view.cluster.findings_of(candidate.policy);
            let finding = findings.find(|of| is_below(&of.path, &candidate.path));
            if let (0, true, true, Some(finding)) = (place, all.is_empty(), candidate.is_about(), finding) {
                return Err(self.fault(candidate.policy, &finding.path));
            }
        }
        let items = peer::items(self.view, &self.other, &self.namespace);
        if let Ok(items) = &items {
            let rule = self.rule(items);
            let mut policies: Vec<(bool, PolicyId)> =
                decision.isolated_by.iter().map(|id| (self.selects_others(*id), *id)).collect();
            policies.sort_unstable();
            for (is_wide, id) in policies.into_iter().take(TRIED) {
                let section = ["spec", self.section];
                let size = if is_wide { Size::Wide } else { Size::Rule };
                all.extend(self.of_policy(id, size, |document| append(document, &section, vec![rule.clone()])));
            }
            all.extend(self.new_policy(&rule, flow));
        }
        match items {
            Err(reason) if all.is_empty() => Err(reason),
            _ => Ok(all),
        }
    }

    /// Whether a policy has a rule of this direction that admits every peer on every port.
    fn has_rule_for_everything(&self, document: &Value) -> bool {
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
            written.any(|operation| field_path(operation) == finding.path)
        };
        let is_in_changed_rule = |finding: &Finding| {
            let rules = self.view.cluster.policy(id).rules(self.direction).iter();
            let mut changed = rules.filter(|rule| paths.iter().any(|path| is_below(path, &rule.path)));
            changed.any(|rule| is_below(&finding.path, &rule.path))
        };
        let mut findings = self.view.cluster.findings_of(id).filter(|finding| !is_mended(finding));
        findings.any(|finding| is_refused_by_the_api_server(finding) || is_in_changed_rule(finding))
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
        let object = ObjectName::new("NetworkPolicy", &policy.namespace, &policy.name);
        if operations.is_empty() || !written::has_name(self.view, &object) || self.is_refused(id, &operations) {
            return None;
        }
        let edit = Edit::Policy(json_patch::Patch(operations));
        let change = Change { direction: self.direction, object, edit, rollout: None };
        Some(Proposal { change, cause: Cause::Policy, size })
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
        let object = ObjectName::new("NetworkPolicy", &self.namespace, &name_of);
        let change = Change { direction: self.direction, object, edit: Edit::NewPolicy(document), rollout: None };
        Some(Proposal { change, cause: Cause::Policy, size: Size::Policy })
    }

    /// What a rule that misses by little needs.
    fn of_rule(&self, candidate: &Candidate, shown: Shown, all: &mut Vec<Proposal>) {
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
                self.at_the_peer(candidate, shown, rule, &base, all);
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
        shown: Shown,
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
                    // An item that selects pods of its own namespace would lose them.
                    [Code::PeerOtherNamespace] if selects_none => {
                        let path = [&path[..], &["namespaceSelector"]].concat();
                        let change = |_: &Value| vec![add(&path, peer::namespace_selector(own))];
                        all.extend(self.of_policy(candidate.policy, Size::Value, change));
                    }
                    [Code::PeerLabelMissing] if shown != Shown::No && label::is_on_workload(self.view, peer, pods) => {
                        let proposal = label::of_pods(self.view, self.direction, peer, pods);
                        all.extend(proposal.map(|proposal| Proposal { cause: Cause::Misplaced, ..proposal }));
                    }
                    // A selector of no pod of the input is right where the input lacks its pods. Only a
                    // slip of the pen is replaced, and of rules that are equally near none is that.
                    [Code::PeerLabelValue]
                        if selects_none && shown == Shown::Alone && misspelt(peer, cluster.pod(pods[0])) =>
                    {
                        let Ok(labels) = peer::narrowest(self.view, pods) else { return };
                        let path = [&path[..], &["podSelector"]].concat();
                        let change = |_: &Value| vec![replace(&path, match_labels(&labels))];
                        let proposal = self.of_policy(candidate.policy, Size::Value, change);
                        all.extend(proposal.map(|proposal| Proposal { cause: Cause::Mistake, ..proposal }));
                    }
                    // Any of several rules that are equally near may be the one that means the other end.
                    [Code::PeerNamespaceLabel] if shown == Shown::Alone => {
                        all.extend(label::of_namespace(self.view, self.direction, peer, own));
                    }
                    [Code::PeerLabelMissing] if shown == Shown::Alone => {
                        all.extend(label::of_pods(self.view, self.direction, peer, pods));
                    }
                    _ => {}
                }
            }
            _ => {}
        }
    }
}

/// Whether the API server refuses every change of a policy with this mistake. It drops fields that
/// it does not know, and keeps what it took in earlier releases.
const fn is_refused_by_the_api_server(finding: &Finding) -> bool {
    use finding::Code::{CidrLegacy, FieldUnknown, PolicyTooLarge};
    !matches!(finding.code, CidrLegacy | FieldUnknown | PolicyTooLarge)
}

/// The index at the end of a path: 1 of `spec.ingress[1]`.
fn index(path: &str) -> Option<&str> {
    path.strip_suffix(']')?.rsplit_once('[').map(|(_, index)| index)
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
