//! What concerns the endpoints of this node: which policies isolate which of
//! their classes.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::store::{ClassId, PodId, Store};
use crate::cluster::group::{Resolution, names_to_resolve, resolve};
use crate::object::{ContainerPort, Labels, Protocol};
use crate::policy::finding::Finding;
use crate::policy::{Direction, Peers, Policy, Ports};
use crate::ruleset::name::Hash;

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
            let peers = match &rule.peers {
                Peers::Everyone => 1,
                Peers::AnyOf(peers) => peers.len(),
            };
            let ports = match &rule.ports {
                Ports::Everything => 1,
                Ports::AnyOf(ports) => ports.len().div_ceil(PORTS_OF_RULE),
            };
            weight.rules = weight.rules.saturating_add(2 * peers.saturating_mul(ports) + 2);
            let pods = rule.pod_peers().count() + usize::from(rule.named_ports().next().is_some());
            weight.peers = weight.peers.saturating_add(u64::try_from(pods).unwrap_or(u64::MAX));
        }
        weight
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
    pub(super) classes: BTreeSet<ClassId>,
    pub(super) groups: [BTreeSet<Hash>; 2],
    /// Policies that are over the bound on set members, and what is said of each to its owner.
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
    pub(super) pods: BTreeSet<PodId>,
    /// The policies that isolate it, by direction.
    pub(super) policies: [BTreeSet<Arc<str>>; 2],
    /// The port names in their ingress rules, once they were needed.
    names: Option<BTreeSet<(Protocol, String)>>,
}

impl LocalClass {
    pub(super) fn new(store: &Store, id: ClassId) -> Self {
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

    /// The same class without its pods, for trying out what other policies make of it.
    pub(super) fn without_pods(&self) -> Self {
        Self {
            namespace: Arc::clone(&self.namespace),
            labels: self.labels.clone(),
            pods: BTreeSet::new(),
            policies: self.policies.clone(),
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

    /// Takes a policy in, whatever it said before; whether that concerns the
    /// class in some direction.
    pub(super) fn judge(&mut self, name: &Arc<str>, policy: Option<&Policy>) -> bool {
        let value = |key: &str| {
            let place = self.labels.binary_search_by(|(known, _)| (**known).cmp(key)).ok()?;
            Some(&*self.labels[place].1)
        };
        let selects = policy.is_some_and(|policy| policy.subject.matches_by(value));
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
