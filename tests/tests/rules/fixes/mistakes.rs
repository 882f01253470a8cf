//! Random clusters in which everything is denied unless a rule admits it, and one policy has a
//! mistake that people make.

use std::collections::BTreeMap;

use npc_agent::source::manifests::{Options, parse_text};
use npc_compiler::object::{Labels, NetworkPolicy, Objects, Workload};
use npc_compiler::verdict::fix::{ObjectName, Written};
use serde_json::{Value, json};

/// Kinds of changes that mend the mistakes.
pub(super) const MENDED_BY: [&str; 8] = [
    "policyTypes",
    "a rule's direction",
    "a policy's namespace",
    "a policy's podSelector",
    "an item's podSelector",
    "an item's namespaceSelector",
    "a port in quotes",
    "a template's label",
];

/// Labels that workloads have themselves.
pub(super) struct Workloads(BTreeMap<String, Labels>);

impl Written for Workloads {
    fn has(&self, object: &ObjectName) -> bool {
        self.0.contains_key(&object.name)
    }

    fn text(&self, object: &ObjectName, path: &[&str]) -> Option<String> {
        match path {
            ["metadata", "name"] => Some(object.name.clone()),
            ["metadata", "labels", key] => self.0.get(&object.name)?.get(*key).cloned(),
            _ => None,
        }
    }
}

/// Longer words for the short ones of random clusters, in which a slip of the pen shows.
const WORDS: [(&str, &str); 3] = [("a", "alpha"), ("b", "bravo"), ("c", "charlie")];

fn word(text: &mut String) {
    if let Some((_, long)) = WORDS.iter().find(|(short, _)| short == text) {
        *text = (*long).to_owned();
    }
}

/// Calls a function with each text of a document, and the keys that lead to it.
fn each_text(value: &mut Value, path: &mut Vec<String>, change: &mut dyn FnMut(&[String], &mut Value)) {
    match value {
        Value::Object(fields) => {
            for (key, value) in fields {
                path.push(key.clone());
                each_text(value, path, change);
                path.pop();
            }
        }
        Value::Array(items) => items.iter_mut().for_each(|item| each_text(item, path, change)),
        value => change(path, value),
    }
}

fn changed(policy: &NetworkPolicy, change: impl FnOnce(&mut Value)) -> NetworkPolicy {
    let mut document = serde_json::to_value(&policy.object).unwrap();
    change(&mut document);
    NetworkPolicy::from(serde_json::from_value::<k8s_openapi::api::networking::v1::NetworkPolicy>(document).unwrap())
}

/// A cluster with a mistake, which follows from the number.
pub(super) fn made(mut objects: Objects, number: usize) -> (Objects, Workloads) {
    for pod in &mut objects.pods {
        word(&mut pod.namespace);
        pod.labels.values_mut().for_each(word);
    }
    for namespace in &mut objects.namespaces {
        word(&mut namespace.name);
        namespace.labels.values_mut().for_each(word);
    }
    for policy in &mut objects.policies {
        *policy = changed(policy, |document| {
            each_text(document, &mut Vec::new(), &mut |_, value| {
                if let Value::String(text) = value {
                    word(text);
                }
            });
        });
    }
    let mut workloads = Workloads(BTreeMap::new());
    let mistake = number % MENDED_BY.len();
    let policies = objects.policies.len();
    if let Some(policy) = objects.policies.get_mut((number / MENDED_BY.len()) % policies.max(1)) {
        *policy = changed(policy, |document| make(MENDED_BY[mistake], document));
    }
    if MENDED_BY[mistake] == "a template's label" {
        for pod in &mut objects.pods {
            pod.workload = Some(Workload { kind: "Deployment".to_owned(), name: pod.name.clone() });
            // A template without labels gets none.
            if let Some(value) = pod.labels.remove("role") {
                workloads.0.insert(pod.name.clone(), Labels::from([("role".to_owned(), value)]));
                pod.labels.insert("pod".to_owned(), pod.name.clone());
            }
        }
    }
    let direction = if number % 3 == 0 { "Egress" } else { "Ingress" };
    for (_, namespace) in WORDS {
        let deny = json!({"apiVersion": "networking.k8s.io/v1", "kind": "NetworkPolicy",
            "metadata": {"name": "deny", "namespace": namespace},
            "spec": {"podSelector": {}, "policyTypes": [direction]}});
        let read = parse_text("deny.json", &deny.to_string(), &Options::default()).unwrap();
        objects.policies.extend(read.objects.policies);
    }
    (objects, workloads)
}

/// Makes the mistake that a change of this kind mends.
fn make(mended_by: &str, document: &mut Value) {
    let slip = |below: &'static [&'static str], document: &mut Value| {
        each_text(document, &mut Vec::new(), &mut |path, value| {
            let is_below = below.iter().all(|key| path.iter().any(|of| of == key));
            let is_value = path.iter().any(|of| of == "matchLabels" || of == "values");
            if let (true, true, Some(text)) = (is_below, is_value, value.as_str()) {
                *value = json!(text.replacen('a', "e", 1).replacen('r', "l", 1));
            }
        });
    };
    match mended_by {
        "policyTypes" => {
            let types = document["spec"]["policyTypes"].as_array().cloned().unwrap_or_default();
            let kept = if types.iter().any(|of| of == "Egress") { "Egress" } else { "Ingress" };
            document["spec"]["policyTypes"] = json!([if types.len() == 2 { "Egress" } else { kept }]);
            if document["spec"]["ingress"].is_null() {
                document["spec"]["ingress"] = document["spec"]["egress"].clone();
                rename(&mut document["spec"]["ingress"], "to", "from");
            }
        }
        "a rule's direction" => {
            let (ingress, egress) = (document["spec"]["ingress"].take(), document["spec"]["egress"].take());
            (document["spec"]["ingress"], document["spec"]["egress"]) = (egress, ingress);
            rename(&mut document["spec"]["ingress"], "to", "from");
            rename(&mut document["spec"]["egress"], "from", "to");
            let has = |section: &str| document["spec"][section].as_array().is_some_and(|rules| !rules.is_empty());
            if has("ingress") && has("egress") {
                document["spec"]["egress"] = Value::Null;
            }
            document["spec"]["policyTypes"] = json!(["Ingress", "Egress"]);
        }
        "a policy's namespace" => document["metadata"]["namespace"] = json!("default"),
        "a policy's podSelector" => slip(&[], &mut document["spec"]["podSelector"]),
        "an item's podSelector" => {
            for section in ["ingress", "egress"] {
                slip(&["podSelector"], &mut document["spec"][section]);
            }
        }
        "an item's namespaceSelector" => {
            for section in ["ingress", "egress"] {
                slip(&["namespaceSelector"], &mut document["spec"][section]);
            }
        }
        "a port in quotes" => each_text(document, &mut Vec::new(), &mut |path, value| {
            if path.last().is_some_and(|key| key == "port") && value.is_number() {
                *value = json!(value.to_string());
            }
        }),
        _ => {}
    }
}

fn rename(rules: &mut Value, from: &str, to: &str) {
    for rule in rules.as_array_mut().into_iter().flatten() {
        if let Some(fields) = rule.as_object_mut()
            && let Some(peers) = fields.remove(from)
        {
            fields.insert(to.to_owned(), peers);
        }
    }
}
