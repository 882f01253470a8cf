//! Policies that are over the bound on set members of their namespace, by node.
//!
//! Such a policy isolates the pods of the node that it selects, and allows them nothing. It has an
//! id of its own there, whose policy has no rules. So code that asks for the policies of an
//! endpoint judges by the rules that the endpoint's node has.

use std::collections::{BTreeMap, BTreeSet};

use super::{Cluster, PolicyId, index};
use crate::policy::finding::Finding;

/// Which policies are over the bound on which nodes.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct OverBound {
    nodes: BTreeMap<String, BTreeSet<PolicyId>>,
    /// What is said of them to their owners.
    findings: BTreeSet<Finding>,
}

impl OverBound {
    /// These policies are over the bound on a node.
    pub(crate) fn add(&mut self, node: &str, policies: BTreeSet<PolicyId>) {
        if !policies.is_empty() {
            self.nodes.entry(node.to_owned()).or_default().extend(policies);
        }
    }

    /// The same without these policies.
    pub(crate) fn without(&self, is_left_out: impl Fn(PolicyId) -> bool) -> Self {
        let mut rest = Self::default();
        for (node, policies) in &self.nodes {
            rest.add(node, policies.iter().copied().filter(|id| !is_left_out(*id)).collect());
        }
        rest
    }

    /// Its node, if it is about one only.
    pub(super) fn only_node(&self) -> Option<&str> {
        let mut nodes = self.nodes.keys();
        nodes.next().filter(|_| nodes.next().is_none()).map(String::as_str)
    }

    /// Whether no policy is over the bound anywhere.
    pub(crate) fn is_empty(&self) -> bool {
        self.nodes.is_empty()
    }

    /// The nodes on which a policy is over the bound.
    pub(crate) fn nodes_of(&self, policy: PolicyId) -> impl Iterator<Item = &str> {
        self.nodes.iter().filter(move |(_, over)| over.contains(&policy)).map(|(node, _)| node.as_str())
    }

    /// The policies that are over the bound on some node.
    pub(crate) fn policies(&self) -> BTreeSet<PolicyId> {
        self.nodes.values().flatten().copied().collect()
    }

    /// Whether a finding is about the bound.
    pub(super) fn has_made(&self, finding: &Finding) -> bool {
        !self.findings.is_empty() && self.findings.contains(finding)
    }

    /// What these policies are for the pods of a node.
    pub(super) fn on(&self, cluster: &Cluster, node: Option<&str>, policies: Vec<PolicyId>) -> Vec<PolicyId> {
        let Some(over) = node.and_then(|node| self.nodes.get(node)) else { return policies };
        policies.into_iter().map(|id| if over.contains(&id) { cluster.without_rules(id) } else { id }).collect()
    }
}

impl Cluster {
    /// Takes the rules of these policies away on these nodes, and says so in findings.
    #[must_use]
    pub(crate) fn with_over_bound(
        mut self,
        mut over: OverBound,
        finding: impl Fn(&Self, &OverBound, PolicyId) -> Finding,
    ) -> Self {
        over.findings = over.policies().into_iter().map(|id| finding(&self, &over, id)).collect();
        self.forget_over_bound();
        self.findings.extend(over.findings.iter().cloned());
        // By policy; of one policy they stay in their order.
        self.findings.sort_by(|a, b| (&a.namespace, &a.name).cmp(&(&b.namespace, &b.name)));
        self.over_bound = over;
        self
    }

    /// No policy is over the bound.
    pub(super) fn forget_over_bound(&mut self) {
        let over = std::mem::take(&mut self.over_bound);
        self.findings.retain(|finding| !over.has_made(finding));
    }

    /// The nodes on which a policy is over the bound.
    pub fn nodes_without_rules_of(&self, id: PolicyId) -> impl Iterator<Item = &str> {
        self.over_bound.nodes_of(self.as_written(id))
    }

    /// Which policies are over the bound.
    pub(crate) const fn over_bound(&self) -> &OverBound {
        &self.over_bound
    }

    /// The id of a policy where it is over the bound.
    fn without_rules(&self, id: PolicyId) -> PolicyId {
        if self.is_over(id) { id } else { PolicyId(id.0 + index(self.policies.len())) }
    }

    /// The id of a policy as it is written, whether it is over the bound or not.
    pub(crate) fn as_written(&self, id: PolicyId) -> PolicyId {
        if self.is_over(id) { PolicyId(id.0 - index(self.policies.len())) } else { id }
    }

    /// Whether this is the id of a policy where it is over the bound.
    pub(crate) fn is_over(&self, id: PolicyId) -> bool {
        id.0 as usize >= self.policies.len()
    }
}
