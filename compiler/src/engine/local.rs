//! What concerns the endpoints of this node: which policies isolate which of
//! their classes.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;

use super::store::{ClassSlot, PodSlot, Store};
use crate::cluster::group::{Resolution, names_to_resolve, resolve};
use crate::object::{ContainerPort, Labels, NetworkPolicy, Protocol};
use crate::policy::finding::Finding;
use crate::policy::{Direction, Policy, PolicyRule};
use crate::ruleset::names::hash::Hash;

/// How many ports one rule takes at least, if none of them joins another.
const PORTS_OF_RULE: usize = 7;

/// How much policies make for one group in one family, or more.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Weight {
    /// Rules and sets. Where policies name the same peers, each of these may have rules of its own, with
    /// all the ports of the policies; so peers count for each port match, and the sum for policies holds
    /// for what they make together.
    pub(super) rules: usize,
    /// How often all pods could be members of sets.
    pub(super) peers: u64,
}

impl Weight {
    pub(super) fn of(policy: &Policy) -> Self {
        let mut weight = Self { rules: 1, peers: 0 };
        for rule in Direction::ALL.into_iter().flat_map(|direction| policy.rules(direction)) {
            let [peers, ports] = rule.listed();
            weight.add(peers, ports, rule.pod_peers().count() + usize::from(rule.named_ports().next().is_some()));
        }
        weight
    }

    /// How many rules a rule of a policy makes in one family, or more.
    pub(super) fn matches_of(rule: &PolicyRule) -> usize {
        let [peers, ports] = rule.listed();
        peers.saturating_mul(ports.div_ceil(PORTS_OF_RULE))
    }

    /// The same of a policy that is not read yet, or more.
    pub(super) fn of_unread(policy: &NetworkPolicy) -> Self {
        let mut weight = Self { rules: 1, peers: 0 };
        let Some(spec) = &policy.object.spec else { return weight };
        let ingress = spec.ingress.iter().flatten().map(|rule| (rule.from.as_deref(), rule.ports.as_deref()));
        let egress = spec.egress.iter().flatten().map(|rule| (rule.to.as_deref(), rule.ports.as_deref()));
        for (peers, ports) in ingress.chain(egress) {
            let (peers, ports) = (peers.unwrap_or_default(), ports.unwrap_or_default());
            let is_named = ports.iter().any(|port| matches!(port.port, Some(IntOrString::String(_))));
            let pods = peers.iter().filter(|peer| peer.ip_block.is_none()).count();
            weight.add(peers.len().max(1), ports.len().max(1), pods + usize::from(is_named));
        }
        weight
    }

    /// A rule with so many peers and ports more, and so many peers that may be all pods.
    fn add(&mut self, peers: usize, ports: usize, pods: usize) {
        let matches = peers.saturating_mul(ports.div_ceil(PORTS_OF_RULE));
        self.rules = self.rules.saturating_add(matches.saturating_mul(2).saturating_add(2));
        self.peers = self.peers.saturating_add(u64::try_from(pods).unwrap_or(u64::MAX));
    }

    pub(super) fn plus(self, other: Self) -> Self {
        Self { rules: self.rules.saturating_add(other.rules), peers: self.peers.saturating_add(other.peers) }
    }

    fn minus(self, other: Self) -> Self {
        Self { rules: self.rules.saturating_sub(other.rules), peers: self.peers.saturating_sub(other.peers) }
    }
}

/// A namespace: its policies, and what of it is on this node.
#[derive(Debug, Default)]
pub(super) struct LocalNamespace {
    pub(super) policies: BTreeMap<Arc<str>, Arc<Policy>>,
    /// The sum of what its policies make ([`Weight`]); `None` until [`Self::weighed`] is called.
    /// [`Self::reweigh`] keeps it up to date from then on.
    pub(super) weight: Option<Weight>,
    pub(super) classes: BTreeSet<ClassSlot>,
    pub(super) groups: [BTreeSet<Hash>; 2],
    /// Policies that are over the bounds, and what is said of each to its owner.
    pub(super) over_bound: BTreeMap<Arc<str>, Finding>,
}

impl LocalNamespace {
    /// What its policies make together.
    pub(super) fn weighed(&mut self) -> Weight {
        let all = || self.policies.values().map(|policy| Weight::of(policy)).fold(Weight::default(), Weight::plus);
        *self.weight.get_or_insert_with(all)
    }

    /// A policy came in the place of another, or one of them.
    pub(super) fn reweigh(&mut self, before: Option<&Policy>, now: Option<&Policy>) {
        if let Some(total) = &mut self.weight {
            let of = |policy: Option<&Policy>| policy.map(Weight::of).unwrap_or_default();
            *total = total.plus(of(now)).minus(of(before));
        }
    }

    /// Whether nothing is known of it any more.
    pub(super) fn is_empty(&self) -> bool {
        self.policies.is_empty() && self.classes.is_empty() && self.groups.iter().all(BTreeSet::is_empty)
    }
}

/// A class with endpoints on this node.
#[derive(Debug)]
pub(super) struct LocalClass {
    pub(super) namespace: Arc<str>,
    /// Its labels, sorted by their keys.
    labels: Box<[(Box<str>, Box<str>)]>,
    pub(super) pods: BTreeSet<PodSlot>,
    /// The policies that isolate it, by direction.
    pub(super) policies: [BTreeSet<Arc<str>>; 2],
    /// The port names in their ingress rules, once they were needed.
    names: Option<BTreeSet<(Protocol, String)>>,
}

impl LocalClass {
    pub(super) fn new(store: &Store, id: ClassSlot) -> Self {
        let class = store.class(id);
        let text = |text| store.strings.text(text);
        let mut labels: Box<[_]> =
            class.labels.iter().map(|(key, value)| (text(*key).into(), text(*value).into())).collect();
        labels.sort_unstable();
        Self {
            namespace: text(class.namespace).into(),
            labels,
            pods: BTreeSet::new(),
            policies: Default::default(),
            names: None,
        }
    }

    /// The class of pods with these labels.
    pub(super) fn of_labels(namespace: Arc<str>, labels: &Labels) -> Self {
        let labels = labels.iter().map(|(key, value)| (key.as_str().into(), value.as_str().into()));
        let mut labels: Box<[_]> = labels.collect();
        labels.sort_unstable();
        Self { namespace, labels, pods: BTreeSet::new(), policies: Default::default(), names: None }
    }

    /// The same class without its pods, and before any policy is tried on it.
    pub(super) fn unjudged(&self) -> Self {
        Self {
            namespace: Arc::clone(&self.namespace),
            labels: self.labels.clone(),
            pods: BTreeSet::new(),
            policies: Default::default(),
            names: None,
        }
    }

    /// In how many ways its pods may resolve the names of ports, and so how many groups they may be in
    /// in a direction.
    pub(super) fn resolutions(&self, store: &Store) -> usize {
        self.pods.iter().map(|pod| store.pod(*pod).ports).collect::<BTreeSet<_>>().len()
    }

    /// The policies that isolate it in a direction.
    pub(super) fn isolating(&self, direction: Direction) -> &BTreeSet<Arc<str>> {
        &self.policies[direction as usize]
    }

    /// Whether the podSelector of a policy selects its pods.
    pub(super) fn is_selected_by(&self, policy: &Policy) -> bool {
        policy.subject.matches_by(|key| {
            let place = self.labels.binary_search_by(|(known, _)| (**known).cmp(key)).ok()?;
            Some(&*self.labels[place].1)
        })
    }

    /// Takes a policy in, in place of its earlier version. Returns whether that concerns the class
    /// in some direction.
    pub(super) fn judge(&mut self, name: &Arc<str>, policy: Option<&Policy>) -> bool {
        let selects = policy.is_some_and(|policy| self.is_selected_by(policy));
        let mut concerned = false;
        for direction in Direction::ALL {
            let policies = &mut self.policies[direction as usize];
            if selects && policy.is_some_and(|policy| policy.isolates(direction)) {
                policies.insert(Arc::clone(name));
                concerned = true;
            } else {
                concerned |= policies.remove(name);
            }
        }
        if concerned {
            self.names = None;
        }
        concerned
    }

    /// How a pod with these ports resolves the names in the rules of a
    /// direction.
    pub(super) fn resolve(
        &mut self,
        direction: Direction,
        policies: &BTreeMap<Arc<str>, Arc<Policy>>,
        ports: &[ContainerPort],
    ) -> Resolution {
        if direction == Direction::Egress {
            return Resolution::new();
        }
        let here = &self.policies[direction as usize];
        let rules = || here.iter().flat_map(|name| policies[name].rules(direction));
        resolve(self.names.get_or_insert_with(|| names_to_resolve(rules(), direction)), ports)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::sample;

    #[test]
    fn a_policy_that_is_not_read_yet_weighs_no_less_and_isolates_the_same() {
        let ports = |count: u16| -> Vec<serde_json::Value> { (1..=count).map(|port| json!({"port": port})).collect() };
        let (peer, block) = (json!({"podSelector": {}}), json!({"ipBlock": {"cidr": "10.0.0.0/8"}}));
        let (wrong, named) = (json!({"ipBlock": {"cidr": "10"}}), json!([{"port": "http"}, {"port": 0}]));
        for spec in [
            json!({}),
            json!({"podSelector": {"matchLabels": {"app": "web"}}}),
            json!({"podSelector": {"matchLabels": {"app": "a b"}}, "policyTypes": ["Egress"]}),
            json!({"ingress": [{}, {"from": []}, {"ports": []}]}),
            json!({"ingress": [{"from": [peer, block, wrong], "ports": ports(20)}], "policyTypes": ["Ingress", "Egres"]}),
            json!({"egress": [{"to": [wrong], "ports": named}, {"to": [peer, peer], "ports": named}]}),
            json!({"egress": [], "ingress": [{"from": [{}], "ports": ports(8)}]}),
        ] {
            let policy = sample::policy(&format!("shop/np {spec}"));
            let (read, _) = Policy::read(&policy);
            let (unread, known) = (Weight::of_unread(&policy), Weight::of(&read));
            assert!(unread.rules >= known.rules && unread.peers >= known.peers, "{spec}: {unread:?} {known:?}");
            let isolates = Policy::read_without_rules(&policy);
            assert_eq!((&isolates.namespace, &isolates.name), (&read.namespace, &read.name));
            assert_eq!(isolates.subject, read.subject, "{spec}");
            assert!(Direction::ALL.iter().all(|direction| {
                isolates.isolates(*direction) == read.isolates(*direction) && isolates.rules(*direction).is_empty()
            }));
        }
    }
}
