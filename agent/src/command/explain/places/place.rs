//! Where policies say things: in files, or in objects that came from a cluster.

use std::cell::{OnceCell, RefCell};
use std::collections::BTreeMap;
use std::rc::Rc;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;
use npc_agent::source::manifests::{self, Location, Positions};
use npc_compiler::cluster::PolicyId;
use npc_compiler::object::NetworkPolicy;
use npc_compiler::verdict::explain::{Candidate, FailedRequirement, ItemPath, Mark};
use serde::Serialize;
use serde_json::Value;

use crate::command::input::Input;

/// The policies of the input as they are written.
pub(in crate::command::explain) struct Places<'a> {
    input: &'a Input,
    /// By namespace and name.
    policies: OnceCell<BTreeMap<(&'a str, &'a str), &'a NetworkPolicy>>,
    values: RefCell<BTreeMap<PolicyId, Rc<Value>>>,
    printed: RefCell<BTreeMap<PolicyId, Rc<Positions>>>,
    /// The paths of requirements, by the selector's.
    found: RefCell<BTreeMap<(PolicyId, String, FailedRequirement), String>>,
}

/// The text that an object is shown by.
pub(in crate::command::explain) enum ObjectText<'a> {
    /// Its file.
    File(&'a Positions),
    /// What `kubectl get -o yaml` would print of it.
    Object(Rc<Positions>),
}

impl ObjectText<'_> {
    /// Whether it is a file, whose lines have numbers.
    pub(in crate::command::explain) const fn is_file(&self) -> bool {
        matches!(self, Self::File(_))
    }

    pub(in crate::command::explain) fn positions(&self) -> &Positions {
        match self {
            Self::File(positions) => positions,
            Self::Object(positions) => positions,
        }
    }
}

impl<'a> Places<'a> {
    pub(in crate::command::explain) fn new(input: &'a Input) -> Self {
        Self {
            input,
            policies: OnceCell::new(),
            values: RefCell::default(),
            printed: RefCell::default(),
            found: RefCell::default(),
        }
    }

    /// Where a field of a policy stands in its file; none for a policy of a cluster.
    pub(in crate::command::explain) fn locate(&self, id: PolicyId, path: &str) -> Option<Location> {
        let policy = self.input.cluster.policy(id);
        self.input.loaded.positions.locate("NetworkPolicy", &policy.namespace, &policy.name, path)
    }

    /// The text of a policy, and where a field of it stands there.
    pub(in crate::command::explain) fn find(&self, id: PolicyId, path: &str) -> Option<(ObjectText<'_>, Location)> {
        if let Some(location) = self.locate(id, path) {
            return Some((ObjectText::File(&self.input.loaded.positions), location));
        }
        let printed = self.printed(id)?;
        let policy = self.input.cluster.policy(id);
        let location = printed.locate("NetworkPolicy", &policy.namespace, &policy.name, path)?;
        Some((ObjectText::Object(printed), location))
    }

    /// The path of the very thing in the policy as it is written: a field, or a requirement of the selector at
    /// the path. A field that is left out has the place of what would hold it.
    pub(in crate::command::explain) fn path(
        &self,
        id: PolicyId,
        path: String,
        failed: Option<&FailedRequirement>,
    ) -> String {
        let Some(value) = self.value(id) else { return path };
        let Some(failed) = failed else {
            let (_, read) = walk(&value, &path);
            return path[..read].to_owned();
        };
        // Thousands of flows may fail by one requirement.
        let key = (id, path, failed.clone());
        if let Some(found) = self.found.borrow().get(&key) {
            return found.clone();
        }
        let (selector, _) = walk(&value, &key.1);
        let selector = serde_json::from_value::<LabelSelector>(selector.clone());
        let found = match selector.ok().and_then(|selector| failed.path_in(&selector)) {
            Some(of_selector) => format!("{}.{of_selector}", key.1),
            None => key.1.clone(),
        };
        self.found.borrow_mut().insert(key, found.clone());
        found
    }

    /// The path of a mark of a rule.
    pub(in crate::command::explain) fn of_mark(&self, of: &Candidate, mark: &Mark) -> String {
        self.path(of.policy, format!("{}.{}", of.path, mark.path), mark.requirement.as_ref())
    }

    /// Whether a field of a rule is written.
    pub(in crate::command::explain) fn has_field(&self, of: &Candidate, path: ItemPath) -> bool {
        let path = format!("{}.{path}", of.path);
        self.value(of.policy).is_none_or(|value| walk(&value, &path).1 == path.len())
    }

    /// The place of a text in a list of texts of a policy.
    pub(in crate::command::explain) fn position(&self, id: PolicyId, list: &str, text: &str) -> Option<usize> {
        let value = self.value(id)?;
        let (found, read) = walk(&value, list);
        let items = found.as_array().filter(|_| read == list.len())?;
        items.iter().position(|item| item.as_str() == Some(text))
    }

    fn policy(&self, id: PolicyId) -> Option<&'a NetworkPolicy> {
        let index = || {
            // If several have one name, the last counts.
            let policies: &'a [NetworkPolicy] = &self.input.loaded.objects.policies;
            policies.iter().map(|policy| ((policy.namespace(), policy.name()), policy)).collect()
        };
        let policy = self.input.cluster.policy(id);
        self.policies.get_or_init(index).get(&(policy.namespace.as_str(), policy.name.as_str())).copied()
    }

    /// A policy as the API has it.
    fn value(&self, id: PolicyId) -> Option<Rc<Value>> {
        if let Some(value) = self.values.borrow().get(&id) {
            return Some(Rc::clone(value));
        }
        let value = Rc::new(serde_json::to_value(&self.policy(id)?.object).ok()?);
        self.values.borrow_mut().insert(id, Rc::clone(&value));
        Some(value)
    }

    /// A policy as YAML, and where its fields stand there.
    fn printed(&self, id: PolicyId) -> Option<Rc<Positions>> {
        if let Some(printed) = self.printed.borrow().get(&id) {
            return Some(Rc::clone(printed));
        }
        let mut object = self.policy(id)?.object.clone();
        object.metadata.managed_fields = None;
        let printed = print(&object)?;
        self.printed.borrow_mut().insert(id, Rc::clone(&printed));
        Some(printed)
    }
}

/// An object as YAML, and where its fields stand there.
pub(in crate::command::explain) fn print(object: &impl Serialize) -> Option<Rc<Positions>> {
    let text = serde_saphyr::to_string(object).ok()?;
    let options = manifests::ReadOptions { allow_errors: true, ..manifests::ReadOptions::default() };
    Some(Rc::new(manifests::parse_text("object", &text, &options).ok()?.positions))
}

/// Follows a path as far as it leads: what it led to, and how much of the path that was.
fn walk<'v>(root: &'v Value, path: &str) -> (&'v Value, usize) {
    let (mut value, mut rest) = (root, path);
    loop {
        let at = path.len() - rest.len();
        let step = rest.strip_prefix('.').unwrap_or(rest);
        let next = match value {
            Value::Object(fields) => (fields.iter())
                .filter_map(|(key, value)| {
                    let left = step.strip_prefix(key.as_str())?;
                    (left.is_empty() || left.starts_with(['.', '['])).then_some((key.len(), value, left))
                })
                // Keys may hold dots: the longest that fits.
                .max_by_key(|(length, ..)| *length)
                .map(|(_, value, left)| (value, left)),
            Value::Array(items) => step.strip_prefix('[').and_then(|step| {
                let (digits, left) = step.split_once(']')?;
                Some((items.get(digits.parse::<usize>().ok()?)?, left))
            }),
            _ => None,
        };
        match next {
            Some((next, left)) => (value, rest) = (next, left),
            None => return (value, at),
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_path_is_followed_as_far_as_it_leads() {
        let value =
            json!({"spec": {"ingress": [{"from": [{"podSelector": {"matchLabels": {"a": "1", "a.b/c": "2"}}}]}]}});
        let labels = "spec.ingress[0].from[0].podSelector.matchLabels";
        for (path, led, found) in [
            (format!("{labels}.a.b/c"), labels.len() + 6, json!("2")),
            (format!("{labels}.a"), labels.len() + 2, json!("1")),
            (format!("{labels}.b"), labels.len(), json!({"a": "1", "a.b/c": "2"})),
            ("spec.ingress[1].from".to_owned(), "spec.ingress".len(), value["spec"]["ingress"].clone()),
            (String::new(), 0, value.clone()),
        ] {
            assert_eq!(walk(&value, &path), (&found, led), "{path}");
        }
    }
}
