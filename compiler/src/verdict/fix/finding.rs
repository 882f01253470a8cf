//! What mends a part of a policy that was not understood.

use json_patch::PatchOperation;
use serde_json::{Value, json};

use super::change::{ObjectName, add, append, match_labels, pointer, replace, value_at};
use super::peer::{self, Other};
use super::proposal::{Cause, Proposal, Size};
use super::propose::Proposer;
use crate::algebra::cidr::Cidr;
use crate::cluster::{PodId, PolicyId};
use crate::object::{Labels, Protocol};
use crate::policy::finding::{Finding, FindingCode};
use crate::policy::{PortMatch, spelling};
use crate::verdict::explain::MisleadingPolicy;

impl Proposer<'_> {
    /// What can stand in place of a part that was not understood, so that its rule admits the flow: a
    /// protocol in capital letters, an operator in its own, an address with its length, an item that names the other end or the
    /// port, an item without a field that the API does not have.
    pub(super) fn of_finding(&self, part: &MisleadingPolicy, all: &mut Vec<Proposal>) {
        let mut findings = self.view.cluster.findings_of(part.policy);
        let Some(finding) = findings.find(|finding| finding.path == part.path) else { return };
        let path = pointer(&finding.path);
        let path: Vec<&str> = path.iter().map(String::as_str).collect();
        let proposal = self.of_policy(part.policy, Size::Value, |document| match finding.code {
            FindingCode::FieldUnknown => {
                let item = self.right_item(part.policy, &path, document);
                item.or_else(|| self.right_name_of_field(part.policy, finding, &path, document)).unwrap_or_default()
            }
            FindingCode::PortInvalid if path.last() != Some(&"protocol") => {
                self.right_port(part.policy, finding, &path, document).unwrap_or_default()
            }
            _ => self.right_part(finding, &path, document).into_iter().collect(),
        });
        all.extend(proposal.map(|of| Proposal { cause: Cause::Mistake, ..of }));
    }

    /// What a misspelt field holds, under the name that the API has: a field of the spec beside the others, another one
    /// with the object around it.
    fn right_name_of_field(
        &self,
        id: PolicyId,
        finding: &Finding,
        path: &[&str],
        document: &Value,
    ) -> Option<Vec<PatchOperation>> {
        let right = spelling::meant(&finding.path)?;
        let (wrong, around) = path.split_last()?;
        let written = |path: &[&str]| self.view.written.value(&self.name_of(id), path);
        if around == ["spec"] {
            let right = ["spec", right];
            let is_empty = |of: &Value| of.is_null() || of.as_array().is_some_and(Vec::is_empty);
            let is_free = value_at(document, &right).is_none_or(is_empty);
            return written(path).filter(|_| is_free).map(|held| vec![add(&right, held)]);
        }
        let Value::Object(mut whole) = written(around)? else { return None };
        let held = whole.remove(*wrong).filter(|_| !whole.contains_key(right))?;
        whole.insert(right.to_owned(), held);
        Some(vec![replace(around, Value::Object(whole))])
    }

    /// An item of `from` or `to` as its author meant it, where a field has another name or stands in the
    /// wrong place: with the labels that are written there, if the other end has them, and the ports of
    /// its rule.
    fn right_item(&self, id: PolicyId, path: &[&str], document: &Value) -> Option<Vec<PatchOperation>> {
        if let ["spec", section, rule, field] = path
            && (*section, *field) == (self.section, self.direction.opposite().peers_field())
        {
            return self.right_rule(id, &["spec", section, rule], field, document);
        }
        let [spec @ "spec", section, rule, field, place, key, ..] = path else { return None };
        let Other::Pods(pods) = &self.other else { return None };
        if *section != self.section || *field != self.field {
            return None;
        }
        let (rule, item) = ([*spec, *section, *rule], [*spec, *section, *rule, *field, *place]);
        let labels = self.written_labels(id, &item, key, pods)?;
        let in_memory = value_at(document, &item)?;
        let own = &self.view.cluster.pod(*pods.first()?).namespace;
        let mut right = json!({ "podSelector": match_labels(&labels) });
        if let Some(selector) = in_memory.get("namespaceSelector").filter(|selector| !selector.is_null()) {
            right["namespaceSelector"] = selector.clone();
        } else if *own != self.namespace {
            right["namespaceSelector"] = peer::namespace_selector(own);
        }
        let mut operations = vec![replace(&item, right)];
        if *key == "ports" {
            let ports = [&rule[..], &["ports"]].concat();
            let has_ports = value_at(document, &ports).is_some_and(|ports| !ports.is_null());
            let [port] = self.ports.as_slice() else { return None };
            let written = self.written(id, &[&item[..], &["ports", "0", "port"]].concat())?;
            let asked = port.get("port").map(|port| port.as_str().map_or_else(|| port.to_string(), str::to_owned));
            if has_ports || asked != Some(written) {
                return None;
            }
            operations.push(add(&ports, json!([port])));
        }
        Some(operations)
    }

    /// A rule whose one item stands in the list of the other direction: `to` of ingress.
    fn right_rule(&self, id: PolicyId, rule: &[&str; 3], field: &str, document: &Value) -> Option<Vec<PatchOperation>> {
        let Other::Pods(pods) = &self.other else { return None };
        let labels = self.written_labels(id, &[&rule[..], &[field, "0"]].concat(), "podSelector", pods)?;
        let own = &self.view.cluster.pod(*pods.first()?).namespace;
        let in_memory = value_at(document, rule)?;
        let has_peers = in_memory.get(self.field).is_some_and(|peers| !peers.is_null());
        let second = [&rule[..], &[field, "1"]].concat();
        if *own != self.namespace || has_peers || self.view.written.has_field(&self.name_of(id), &second) {
            return None;
        }
        let mut right = json!({ self.field: [{ "podSelector": match_labels(&labels) }] });
        if let Some(ports) = in_memory.get("ports").filter(|ports| !ports.is_null()) {
            right["ports"] = ports.clone();
        }
        Some(vec![replace(rule, right)])
    }

    /// The labels of pods that an item asks for as it is written, below podSelector or a field of another
    /// name, with matchLabels or without. None if it asks for none of theirs, or for one with another value.
    fn written_labels(&self, id: PolicyId, item: &[&str], key: &str, pods: &[PodId]) -> Option<Labels> {
        let has = &self.view.cluster.pod(*pods.first()?).labels;
        let mut labels = Labels::new();
        for (name, value) in has {
            let places = ["podSelector", key]
                .into_iter()
                .flat_map(|field| [vec![field, "matchLabels", name.as_str()], vec![field, name.as_str()]]);
            let mut written = places.filter_map(|place| self.written(id, &[item, &place[..]].concat()));
            match written.next() {
                Some(written) if written == *value => labels.extend([(name.clone(), value.clone())]),
                Some(_) => return None,
                None => {}
            }
        }
        (!labels.is_empty()).then_some(labels)
    }

    /// The text of a field of a policy as it is written.
    fn written(&self, id: PolicyId, path: &[&str]) -> Option<String> {
        self.view.written.text(&self.name_of(id), path)
    }

    fn name_of(&self, id: PolicyId) -> ObjectName {
        let policy = self.view.cluster.policy(id);
        ObjectName::new("NetworkPolicy", &policy.namespace, &policy.name)
    }

    /// An item of `ports` as its author most likely means it, and the port that was asked for beside it if that is
    /// another one; in place of an item that means nothing, that port.
    fn right_port(
        &self,
        id: PolicyId,
        finding: &Finding,
        path: &[&str],
        document: &Value,
    ) -> Option<Vec<PatchOperation>> {
        let ([item @ .., _], [port]) = (path, self.ports.as_slice()) else { return None };
        let (_, ports) = item.split_last()?;
        let meant = self.view.cluster.policy(id).half_read_port(finding.path.rsplit_once('.')?.0);
        let holds = |first: u16, last: u16, of: Protocol| {
            let asked = self.denied.traffic.single();
            asked.is_some_and(|(protocol, low, high)| protocol == of && first <= low && high <= last)
        };
        match meant {
            Some(PortMatch::Range(protocol, first, last)) if first < last => {
                let mut right = value_at(document, item)?.as_object()?.clone();
                right.extend([("port".to_owned(), json!(first)), ("endPort".to_owned(), json!(last))]);
                if right.get("protocol").is_some_and(Value::is_string) {
                    right.insert("protocol".to_owned(), json!(protocol.as_str()));
                }
                let mut operations = vec![replace(item, Value::Object(right))];
                if !holds(*first, *last, *protocol) {
                    operations.extend(append(document, ports, vec![port.clone()]));
                }
                Some(operations)
            }
            Some(PortMatch::Range(protocol, number, _)) if !holds(*number, *number, *protocol) => None,
            Some(PortMatch::Named(..)) => None,
            _ => Some(vec![replace(item, port.clone())]),
        }
    }

    fn right_part(&self, finding: &Finding, path: &[&str], document: &Value) -> Option<PatchOperation> {
        let written = value_at(document, path)?;
        match finding.code {
            // `in` for `In`.
            FindingCode::SelectorInvalid if path.last() == Some(&"operator") => {
                let written = written.as_str()?.trim();
                let mut operators = ["In", "NotIn", "Exists", "DoesNotExist"].into_iter();
                let operator = operators.find(|operator| operator.eq_ignore_ascii_case(written))?;
                Some(replace(path, json!(operator)))
            }
            FindingCode::PortInvalid if path.last() == Some(&"protocol") => {
                let protocol = Protocol::parse(&written.as_str()?.trim().to_ascii_uppercase())?;
                Some(replace(path, json!(protocol.as_str())))
            }
            FindingCode::CidrInvalid => {
                let Other::Blocks(blocks) = &self.other else { return None };
                let meant = Cidr::of_address(finding.address?);
                let is_it = path.last() == Some(&"cidr") && blocks.as_slice() == [meant];
                is_it.then(|| replace(path, json!(meant.network().to_string())))
            }
            FindingCode::PeerEmpty => {
                let items = peer::items(self.view, &self.other, &self.namespace).ok()?;
                let [item] = items.as_slice() else { return None };
                Some(replace(path, item.clone()))
            }
            _ => None,
        }
    }
}
