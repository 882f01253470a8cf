//! Policies that wait to be read.

use std::mem;

use k8s_openapi::api::networking::v1 as api;

use super::Event;
use super::local::Weight;
use crate::object::NetworkPolicy;

/// If the engine would keep more bytes than this of a policy, the policy is packed, and read on the thread, if there is
/// one.
pub(super) const LARGE: usize = 64 << 10;

/// Why a policy that cannot be unpacked has no rules.
const DAMAGED: &str =
    "npc lost the rules of this policy while it waited, which is a fault of npc; write the policy again";

/// A large policy that the engine has not read yet, with its rules as JSON.
///
/// The rules of one with a megabyte of JSON take about ten as objects, and a tenant may write many such policies
/// faster than their chains are made.
#[derive(Debug, Clone, PartialEq)]
pub struct PackedPolicy {
    /// The policy without its rules. Where it has egress rules it has an empty one, because these decide what it
    /// isolates if it has no `policyTypes`.
    without_rules: NetworkPolicy,
    /// The lists of its ingress and egress rules.
    rules: Box<[u8]>,
    weight: Weight,
    retained_bytes: usize,
}

impl Event {
    /// The event that a policy is new or has changed. A large policy is packed.
    #[must_use]
    pub fn policy(policy: NetworkPolicy) -> Self {
        Self::Policy(Box::new(policy)).packed()
    }

    /// The same event, with its policy packed if that is large.
    pub(super) fn packed(self) -> Self {
        match self {
            Self::Policy(policy) if policy.retained_bytes() > LARGE => {
                Self::PackedPolicy(Box::new(PackedPolicy::new(*policy)))
            }
            event => event,
        }
    }

    /// The policy that is there or is different, if the event is about one; a packed one without its rules.
    #[must_use]
    pub fn changed_policy(&self) -> Option<&NetworkPolicy> {
        match self {
            Self::Policy(policy) => Some(policy),
            Self::PackedPolicy(policy) => Some(&policy.without_rules),
            _ => None,
        }
    }
}

impl PackedPolicy {
    /// Packs a policy.
    pub(super) fn new(mut policy: NetworkPolicy) -> Self {
        let (weight, retained_bytes) = (Weight::of_unread(&policy), policy.retained_bytes());
        let mut rules = (None, None);
        if let Some(spec) = &mut policy.object.spec {
            let has_egress = spec.egress.as_ref().is_some_and(|rules| !rules.is_empty());
            let stands_for_egress = has_egress.then(|| vec![api::NetworkPolicyEgressRule::default()]);
            rules = (spec.ingress.take(), mem::replace(&mut spec.egress, stands_for_egress));
        }
        // These objects can always be written. If not, the policy admits nothing.
        let rules = serde_json::to_vec(&rules).unwrap_or_default().into();
        Self { without_rules: policy, rules, weight, retained_bytes }
    }

    /// The policy. One that cannot be unpacked isolates what it selects and allows nothing.
    pub(super) fn unpack(&self) -> NetworkPolicy {
        let mut policy = self.without_rules.clone();
        match (&mut policy.object.spec, serde_json::from_slice(&self.rules)) {
            (Some(spec), Ok((ingress, egress))) => (spec.ingress, spec.egress) = (ingress, egress),
            (Some(_), Err(_)) => return self.without_rules.restricted(DAMAGED.to_owned()),
            (None, _) => {}
        }
        policy
    }

    /// The policy without its rules; it isolates what the whole policy isolates.
    pub(super) const fn without_rules(&self) -> &NetworkPolicy {
        &self.without_rules
    }

    /// What it makes, or more.
    pub(super) const fn weight(&self) -> Weight {
        self.weight
    }

    /// What the engine keeps of it once it is read ([`NetworkPolicy::retained_bytes`]).
    pub(super) const fn retained_bytes(&self) -> usize {
        self.retained_bytes
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::policy::{Direction, Policy};

    fn policy(spec: &Value) -> NetworkPolicy {
        let object = json!({"metadata": {"name": "p", "namespace": "shop", "resourceVersion": "7"}, "spec": spec});
        serde_json::from_value::<api::NetworkPolicy>(object).expect("a policy").into()
    }

    /// Policies in whose lists each form occurs that decides something.
    fn policies() -> Vec<NetworkPolicy> {
        let rule = json!({
            "from": [
                {"podSelector": {}}, {"namespaceSelector": {"matchLabels": {}}, "podSelector": null},
                {"podSelector": {"matchExpressions": [{"key": "a", "operator": "NotIn", "values": ["b", "c"]}]}},
                {"ipBlock": {"cidr": "10.0.0.0/8", "except": []}}, {"ipBlock": {"cidr": "fd00::/8", "except": ["fd00::/9"]}}, {},
            ],
            "ports": [{"port": "http"}, {"port": 80, "endPort": 90, "protocol": "SCTP"}, {"protocol": "UDP"}, {}],
        });
        let to = json!({"to": rule["from"], "ports": rule["ports"]});
        let specs = [
            json!({"podSelector": {}}),
            json!({"podSelector": {}, "ingress": [], "egress": []}),
            json!({"podSelector": {"matchLabels": {"a": "b"}}, "ingress": [{}, {"from": []}, {"ports": []}, rule]}),
            json!({"egress": [to.clone(), {}]}),
            json!({"podSelector": {}, "policyTypes": ["Egress"], "ingress": [rule], "egress": [to]}),
            json!({"podSelector": {}, "policyTypes": ["Neither"], "egress": [{}]}),
        ];
        let mut policies: Vec<NetworkPolicy> = specs.iter().map(policy).collect();
        let none = NetworkPolicy { object: api::NetworkPolicy::default(), ..policies[2].clone() };
        let misspelt = NetworkPolicy { unknown_fields: vec!["spec.ingress[1].fron".to_owned()], ..policies[2].clone() };
        let over = policies[4].over_budget(1);
        policies.extend([none, misspelt, over]);
        policies
    }

    #[test]
    fn a_packed_policy_is_unpacked_as_it_was() {
        for policy in policies() {
            assert_eq!(PackedPolicy::new(policy.clone()).unpack(), policy);
        }
    }

    #[test]
    fn a_packed_policy_isolates_and_weighs_what_the_whole_one_does() {
        for policy in policies() {
            let packed = PackedPolicy::new(policy.clone());
            assert_eq!(Policy::read_without_rules(packed.without_rules()), Policy::read_without_rules(&policy));
            assert_eq!(
                (packed.weight(), packed.retained_bytes()),
                (Weight::of_unread(&policy), policy.retained_bytes())
            );
        }
    }

    #[test]
    fn a_policy_that_cannot_be_unpacked_isolates_and_allows_nothing() {
        for policy in policies() {
            let mut packed = PackedPolicy::new(policy.clone());
            packed.rules = Box::default();
            let (read, findings) = Policy::read(&packed.unpack());
            let whole = Policy::read_without_rules(&policy);
            for direction in Direction::ALL {
                assert_eq!(read.isolates(direction), whole.isolates(direction));
                assert!(read.rules(direction).is_empty());
            }
            assert!(policy.object.spec.is_none() || !findings.is_empty(), "its owner is told");
        }
    }

    #[test]
    fn only_large_policies_are_packed() {
        let rules: Vec<Value> = (0..2_000).map(|port| json!({"ports": [{"port": port + 1}]})).collect();
        assert!(matches!(Event::policy(policy(&json!({"podSelector": {}, "ingress": rules}))), Event::PackedPolicy(_)));
        assert!(matches!(Event::policy(policy(&json!({"podSelector": {}}))), Event::Policy(_)));
    }
}
