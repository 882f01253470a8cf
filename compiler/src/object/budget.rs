//! How much of one namespace's policies is kept.
//!
//! Every agent keeps the policies of the whole cluster, so without a bound the owner of
//! one namespace could use up the memory of every node. The bound counts what an agent
//! keeps of a policy, not its text. Which policies are over it depends on their content
//! alone, so all nodes and commands agree: the largest are, and of equal ones those with
//! the last names. A policy that is over isolates what it selects and allows nothing.

use std::collections::{BTreeMap, BTreeSet};

use k8s_openapi::api::networking::v1 as api;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{LabelSelector, LabelSelectorRequirement, ObjectMeta};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;

use super::{NetworkPolicy, Objects};

/// How many bytes the policies of one namespace may take: 10,000 ordinary policies take
/// less than two thirds of it.
pub const NAMESPACE_POLICY_BYTES: usize = 32 << 20;

/// How many bytes of the podSelector are kept of a policy that is over the bound. Beyond
/// that, a requirement that lists values asks only for its key.
const SELECTOR_BYTES: usize = 4 << 10;

/// The policyTypes.
const TYPES: [&str; 2] = ["Ingress", "Egress"];

// What the parts of a policy take in an engine, strings aside. These are estimates.
const OF_POLICY: usize = 512;
const OF_RULE: usize = 160;
const OF_PEER: usize = 128;
const OF_BLOCK: usize = 96;
const OF_PORT: usize = 48;
const OF_REQUIREMENT: usize = 96;
const OF_STRING: usize = 64;

/// The policies of one namespace: those that are kept whole, and those that are over the
/// bound.
#[derive(Debug)]
pub struct PolicyBudget {
    limit: usize,
    /// What those take that are kept whole.
    bytes: usize,
    sizes: BTreeMap<String, usize>,
    whole: BTreeSet<(usize, String)>,
    over: BTreeSet<(usize, String)>,
}

/// The policies that a change moved over the bound, and those that are within it again.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Moved {
    /// Names of those that are over the bound now, and were not.
    pub over: Vec<String>,
    /// Names of those that are within the bound now, and were not.
    pub within: Vec<String>,
}

impl PolicyBudget {
    /// A budget without policies yet, with this many bytes for them.
    #[must_use]
    pub fn new(limit: usize) -> Self {
        Self { limit, bytes: 0, sizes: BTreeMap::new(), whole: BTreeSet::new(), over: BTreeSet::new() }
    }

    /// A policy of this size is there, or its size is different. The answer is about other
    /// policies; [`PolicyBudget::is_over`] says it of this one.
    pub fn put(&mut self, name: &str, bytes: usize) -> Moved {
        let mut moved = self.remove(name);
        self.sizes.insert(name.to_owned(), bytes);
        let entry = (bytes, name.to_owned());
        if self.over.first().is_some_and(|first| *first < entry) {
            self.over.insert(entry);
            return moved;
        }
        self.bytes = self.bytes.saturating_add(bytes);
        self.whole.insert(entry);
        while self.bytes > self.limit {
            let Some(last) = self.whole.pop_last() else { break };
            self.bytes = self.bytes.saturating_sub(last.0);
            if last.1 != name && !take(&mut moved.within, &last.1) {
                moved.over.push(last.1.clone());
            }
            self.over.insert(last);
        }
        moved
    }

    /// Removes a policy that is gone.
    pub fn remove(&mut self, name: &str) -> Moved {
        let mut moved = Moved::default();
        let Some(bytes) = self.sizes.remove(name) else { return moved };
        let entry = (bytes, name.to_owned());
        if self.whole.remove(&entry) {
            self.bytes = self.bytes.saturating_sub(bytes);
        } else {
            self.over.remove(&entry);
        }
        while let Some(first) = self.over.first() {
            if self.bytes.saturating_add(first.0) > self.limit {
                break;
            }
            self.bytes += first.0;
            moved.within.push(first.1.clone());
            let first = self.over.pop_first();
            self.whole.extend(first);
        }
        moved
    }

    /// Whether a policy is over the bound.
    #[must_use]
    pub fn is_over(&self, name: &str) -> bool {
        self.sizes.get(name).is_some_and(|bytes| self.over.contains(&(*bytes, name.to_owned())))
    }

    /// Whether there are no policies.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.sizes.is_empty()
    }
}

/// Removes a name. Returns whether it was there.
fn take(names: &mut Vec<String>, name: &str) -> bool {
    let before = names.len();
    names.retain(|known| known != name);
    names.len() < before
}

impl Objects {
    /// Restricts the policies that are over their namespace's bound, as every agent does.
    pub fn bound_policies(&mut self) {
        self.bound_policies_to(NAMESPACE_POLICY_BYTES);
    }

    fn bound_policies_to(&mut self, limit: usize) {
        let mut budgets: BTreeMap<String, PolicyBudget> = BTreeMap::new();
        for policy in &self.policies {
            let budget = budgets.entry(policy.namespace().to_owned()).or_insert_with(|| PolicyBudget::new(limit));
            budget.put(policy.name(), policy.retained_bytes());
        }
        for policy in &mut self.policies {
            if budgets.get(policy.namespace()).is_some_and(|budget| budget.is_over(policy.name())) {
                *policy = policy.over_budget(limit);
            }
        }
    }
}

impl NetworkPolicy {
    /// About how many bytes an agent keeps of it: the same for equal policies on every
    /// node.
    #[must_use]
    pub fn retained_bytes(&self) -> usize {
        let Some(spec) = &self.object.spec else { return OF_POLICY };
        let text = |text: &str| OF_STRING + text.len();
        let ports = |ports: Option<&Vec<api::NetworkPolicyPort>>| -> usize {
            let strings = |port: &api::NetworkPolicyPort| match &port.port {
                Some(IntOrString::String(name)) => text(name),
                _ => 0,
            };
            ports.into_iter().flatten().map(|port| OF_PORT + strings(port)).sum()
        };
        let peers =
            |peers: Option<&Vec<api::NetworkPolicyPeer>>| -> usize { peers.into_iter().flatten().map(of_peer).sum() };
        let ingress: usize = spec
            .ingress
            .iter()
            .flatten()
            .map(|rule| OF_RULE + peers(rule.from.as_ref()) + ports(rule.ports.as_ref()))
            .sum();
        let egress: usize = spec
            .egress
            .iter()
            .flatten()
            .map(|rule| OF_RULE + peers(rule.to.as_ref()) + ports(rule.ports.as_ref()))
            .sum();
        let types: usize = spec.policy_types.iter().flatten().map(|kind| text(kind)).sum();
        let unknown: usize = self.unknown_fields.iter().map(|field| text(field)).sum();
        OF_POLICY + spec.pod_selector.as_ref().map_or(0, of_selector) + ingress + egress + types + unknown
    }

    /// This policy without its rules: it isolates what its podSelector selects, and allows
    /// nothing. `why` is said to its owner.
    #[must_use]
    pub fn restricted(&self, why: String) -> Self {
        let metadata = &self.object.metadata;
        let empty = api::NetworkPolicySpec::default();
        let spec = self.object.spec.as_ref().unwrap_or(&empty);
        let policy_types = match spec.policy_types.as_deref().unwrap_or_default() {
            [] => {
                let has_egress = spec.egress.as_ref().is_some_and(|rules| !rules.is_empty());
                TYPES[..if has_egress { 2 } else { 1 }].iter().map(|kind| (*kind).to_owned()).collect()
            }
            types if types.len() <= 2 && types.iter().all(|kind| kind.len() <= 16) => types.to_vec(),
            // What is not understood among them isolates in both directions.
            _ => TYPES.map(str::to_owned).to_vec(),
        };
        let spec = api::NetworkPolicySpec {
            pod_selector: spec.pod_selector.as_ref().map(wider),
            policy_types: Some(policy_types),
            ..empty
        };
        let metadata = ObjectMeta {
            namespace: metadata.namespace.clone(),
            name: metadata.name.clone(),
            uid: metadata.uid.clone(),
            resource_version: metadata.resource_version.clone(),
            generation: metadata.generation,
            ..Default::default()
        };
        let object = api::NetworkPolicy { metadata, spec: Some(spec) };
        Self { object, unknown_fields: Vec::new(), restriction: Some(why) }
    }

    /// This policy as it counts while it is over its namespace's bound.
    #[must_use]
    pub fn over_budget(&self, limit: usize) -> Self {
        self.restricted(over_budget(self.retained_bytes(), limit))
    }

    /// The label keys that its selectors name, each with the values that it names of it.
    pub fn label_names(&self) -> impl Iterator<Item = (&str, impl Iterator<Item = &str>)> {
        let spec = self.object.spec.iter();
        let peers = self.peers().flat_map(|peer| [peer.pod_selector.as_ref(), peer.namespace_selector.as_ref()]);
        let selectors = spec.map(|spec| spec.pod_selector.as_ref()).chain(peers).flatten();
        selectors.flat_map(|selector| {
            let labels = selector.match_labels.iter().flatten();
            let labels = labels.map(|(key, value)| (key, std::slice::from_ref(value)));
            let expressions = selector.match_expressions.iter().flatten();
            let expressions = expressions.map(|of| (&of.key, of.values.as_deref().unwrap_or_default()));
            labels.chain(expressions).map(|(key, values)| (key.as_str(), values.iter().map(String::as_str)))
        })
    }

    /// The ports that its rules name.
    pub fn port_names(&self) -> impl Iterator<Item = &str> {
        let spec = || self.object.spec.iter();
        let ingress = spec().flat_map(|spec| spec.ingress.iter().flatten()).map(|rule| rule.ports.as_ref());
        let egress = spec().flat_map(|spec| spec.egress.iter().flatten()).map(|rule| rule.ports.as_ref());
        ingress.chain(egress).flatten().flatten().filter_map(|port| match &port.port {
            Some(IntOrString::String(name)) => Some(name.as_str()),
            _ => None,
        })
    }

    fn peers(&self) -> impl Iterator<Item = &api::NetworkPolicyPeer> {
        let spec = || self.object.spec.iter();
        let from = spec().flat_map(|spec| spec.ingress.iter().flatten()).flat_map(|rule| rule.from.iter().flatten());
        from.chain(spec().flat_map(|spec| spec.egress.iter().flatten()).flat_map(|rule| rule.to.iter().flatten()))
    }
}

/// Why the rules of a policy of this size are left out, for its owner.
#[must_use]
pub fn over_budget(bytes: usize, limit: usize) -> String {
    format!(
        "the policies of this namespace take more than {} MiB of memory on every node, and the largest are left out \
         first; this one takes {} KiB: make it smaller, or remove others",
        limit >> 20,
        bytes.div_ceil(1 << 10)
    )
}

fn of_peer(peer: &api::NetworkPolicyPeer) -> usize {
    let block = peer.ip_block.as_ref().map_or(0, |block| {
        let except = block.except.as_ref().map_or(0, Vec::len);
        OF_BLOCK * (1 + except)
    });
    let selectors = [&peer.pod_selector, &peer.namespace_selector];
    OF_PEER + block + selectors.into_iter().flatten().map(of_selector).sum::<usize>()
}

fn of_selector(selector: &LabelSelector) -> usize {
    let text = |text: &String| OF_STRING + text.len();
    let labels = selector.match_labels.iter().flatten();
    let labels: usize = labels.map(|(key, value)| OF_REQUIREMENT + text(key) + text(value)).sum();
    let expressions = selector.match_expressions.iter().flatten();
    labels
        + expressions
            .map(|e| OF_REQUIREMENT + text(&e.key) + e.values.iter().flatten().map(text).sum::<usize>())
            .sum::<usize>()
}

/// A selector that selects all that this one does, and takes few bytes. It copies nothing that
/// it leaves out, because an agent makes one for each policy that it reads.
fn wider(selector: &LabelSelector) -> LabelSelector {
    if of_selector(selector) <= SELECTOR_BYTES {
        return selector.clone();
    }
    let mut left = SELECTOR_BYTES;
    let mut keeps = |bytes: usize| {
        let fits = bytes <= left;
        left = if fits { left - bytes } else { left };
        fits
    };
    let match_labels = selector.match_labels.as_ref().map(|labels| {
        let kept = labels.iter();
        let kept = kept.filter(|(key, value)| keeps(OF_REQUIREMENT + 2 * OF_STRING + key.len() + value.len()));
        kept.map(|(key, value)| (key.clone(), value.clone())).collect()
    });
    let short = |expression: &LabelSelectorRequirement| {
        // A long list of values goes first: with its key the pod still has to have it.
        let is_long = expression.values.as_ref().is_some_and(|values| values.len() > 8);
        let exists = expression.operator == "In" && is_long;
        let values = expression.values.as_ref().filter(|_| !exists);
        let bytes: usize = values.into_iter().flatten().map(|value| OF_STRING + value.len()).sum();
        keeps(OF_REQUIREMENT + OF_STRING + expression.key.len() + bytes).then(|| LabelSelectorRequirement {
            key: expression.key.clone(),
            operator: if exists { "Exists".to_owned() } else { expression.operator.clone() },
            values: values.cloned(),
        })
    };
    let match_expressions = selector.match_expressions.as_ref().map(|all| all.iter().filter_map(short).collect());
    LabelSelector { match_labels, match_expressions }
}

#[cfg(test)]
mod tests;
