//! The cluster: objects brought into the shape that questions are asked of.
//!
//! Pods of one namespace with the same labels are one [`Class`]: no selector
//! distinguishes them, so it is evaluated once per class. An address that one
//! pod lists is that pod's; which pod *holds* one that several list depends on
//! the node that asks (see [`Contest`]). Nothing here depends on the order of the
//! objects.
//!
//! | module | holds |
//! |---|---|
//! | `inventory` | what does not depend on policies; clusters that differ by a policy share it |
//! | `claim` | which of several pods that list one address has it |
//! | [`group`] | endpoints to which the same policies apply, and what these policies admit together |
//! | [`end`] | one end of a flow: a pod or an address |
//! | [`backend`], [`without_backend`] | where a Service leads, and why it leads nowhere |
//! | [`selection`] | what selectors select for certain, and what they may select |
//! | [`new_address`] | the addresses that pods without one may get |
//! | [`unread`] | what the input leaves out |
//! | [`hints`] | what the input says that decides nothing and that explanations name, such as labels of a workload itself |

mod admitted;
pub mod backend;
pub(crate) mod claim;
mod classes;
mod contest;
pub mod end;
pub mod group;
mod group_key;
pub mod hints;
mod inventory;
mod label_index;
mod local_address;
pub(crate) mod merge;
pub mod new_address;
mod open_groups;
pub(crate) mod over_bound;
mod private;
pub mod selection;
mod services;
pub mod unread;
pub mod without_backend;

pub use contest::Contest;
pub use open_groups::OpenGroups;

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

use crate::algebra::cidr;
use crate::algebra::selector::Selector;
use crate::cluster::hints::Hints;
use crate::cluster::inventory::Inventory;
use crate::cluster::over_bound::OverBound;
use crate::cluster::selection::{Selection, UnknownLabels};
use crate::cluster::unread::Unread;
use crate::object::{ContainerPort, Family, Labels, NAMESPACE_NAME_LABEL, NetworkPolicy, Objects, Pod};
use crate::policy::finding::Finding;
use crate::policy::{Direction, Namespaces, PodPeer, Policy};

/// A pod, by its place in [`Cluster::pods`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PodId(pub(crate) u32);

/// A class, by its place in the order of namespace and labels.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ClassId(pub(crate) u32);

/// A policy, by its place in [`Cluster::policies`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PolicyId(pub(crate) u32);

/// The endpoints of one namespace with the same labels, known and unknown.
#[derive(Debug)]
pub struct Class {
    /// Their namespace.
    pub namespace: String,
    /// Their labels, as far as they are known.
    pub labels: Labels,
    /// Labels that they have or may have besides.
    pub unknown: UnknownLabels,
    /// The endpoints themselves, in order.
    pub endpoints: Vec<PodId>,
}

/// A cluster at one moment.
#[derive(Debug)]
pub struct Cluster {
    /// All that does not depend on policies; shared with clusters that differ from this one by a policy.
    inventory: Arc<Inventory>,
    policies: Vec<Arc<Policy>>,
    /// Each policy without its rules, in the same order: what it is where it is over the bound.
    without_rules: Vec<Arc<Policy>>,
    over_bound: OverBound,
    /// The policies of each namespace.
    policies_in: Arc<BTreeMap<String, Vec<PolicyId>>>,
    /// By policy.
    findings: Vec<Finding>,
    /// What was not read and may decide.
    unread: Arc<[Unread]>,
    /// What of the input makes pods that are not in it, in words.
    pod_makers: Arc<[String]>,
    /// What explains and decides nothing.
    hints: Arc<Hints>,
    /// The classes with unknown labels that selectors ask for, in order.
    open: Arc<[ClassId]>,
}

/// A place in a vector that a cluster never outgrows.
#[allow(clippy::cast_possible_truncation, reason = "no cluster holds 2^32 objects of a kind")]
fn index(place: usize) -> u32 {
    place as u32
}

impl Cluster {
    /// The cluster that the objects describe. Of several policies with one
    /// name and namespace the last counts.
    #[must_use]
    pub fn new(objects: &Objects) -> Self {
        let (policies, findings) = read_policies(objects);
        let inventory = Inventory::new(objects, policies.iter().any(selection::asks_for_node_labels));
        let without_rules = policies.iter().map(|policy| Arc::new(policy.without_rules())).collect();
        let policies: Vec<Arc<Policy>> = policies.into_iter().map(Arc::new).collect();
        let mut cluster = Self {
            inventory: Arc::new(inventory),
            without_rules,
            over_bound: OverBound::default(),
            policies_in: Arc::new(policies_in(&policies)),
            policies,
            findings,
            unread: Arc::default(),
            pod_makers: Arc::default(),
            hints: Arc::default(),
            open: Arc::default(),
        };
        cluster.find_open();
        cluster
    }

    /// The same cluster with this policy, in place of the one of its name if there is one. What is over the bound is
    /// to be found anew: in the namespace of the policy where it was there before, else in all. None if the
    /// cluster has to be made anew.
    pub(crate) fn with_policy(&self, policy: &NetworkPolicy) -> Option<Self> {
        let (policy, findings) = Policy::read_to_explain(policy);
        if !self.inventory.has_node_labels && selection::asks_for_node_labels(&policy) {
            return None;
        }
        let order = |namespace: &str, name: &str| (namespace, name).cmp(&(&policy.namespace, &policy.name));
        let place = self.policies.binary_search_by(|of| order(&of.namespace, &of.name));
        let mut with = Self {
            inventory: Arc::clone(&self.inventory),
            policies: self.policies.clone(),
            without_rules: self.without_rules.clone(),
            over_bound: self.over_bound.clone(),
            policies_in: Arc::clone(&self.policies_in),
            findings: self.findings.clone(),
            unread: Arc::clone(&self.unread),
            pod_makers: Arc::clone(&self.pod_makers),
            hints: Arc::clone(&self.hints),
            open: Arc::clone(&self.open),
        };
        with.findings.retain(|finding| order(&finding.namespace, &finding.name).is_ne());
        let at = with.findings.partition_point(|finding| order(&finding.namespace, &finding.name).is_lt());
        with.findings.splice(at..at, findings);
        let without_rules = Arc::new(policy.without_rules());
        match place {
            Ok(place) => {
                with.policies[place] = Arc::new(policy);
                with.without_rules[place] = without_rules;
            }
            Err(place) => {
                with.policies.insert(place, Arc::new(policy));
                with.without_rules.insert(place, without_rules);
                // The policies behind it have other ids now.
                with.policies_in = Arc::new(policies_in(&with.policies));
                with.forget_over_bound();
            }
        }
        Some(with)
    }

    /// The namespaces of policies that are others than those of a cluster which differs from this one by policies
    /// alone. None if it has other pods too, or other ids for its policies.
    pub(crate) fn changed_policies<'a>(&'a self, before: &Self) -> Option<BTreeSet<&'a str>> {
        if !Arc::ptr_eq(&self.policies_in, &before.policies_in) || !self.has_inventory_of(before) {
            return None;
        }
        let both = self.policies.iter().zip(&before.policies);
        let changed = both.filter(|(now, before)| !Arc::ptr_eq(now, before));
        Some(changed.map(|(policy, _)| policy.namespace.as_str()).collect())
    }

    /// Whether another cluster has the same pods, namespaces, nodes and Services.
    pub(crate) fn has_inventory_of(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.inventory, &other.inventory)
    }

    /// The same cluster, with what another one says beside objects.
    #[must_use]
    pub(crate) fn with_context_of(mut self, other: &Self) -> Self {
        self.unread = Arc::clone(&other.unread);
        self.pod_makers = Arc::clone(&other.pod_makers);
        self.hints = Arc::clone(&other.hints);
        self.find_open();
        self
    }

    /// What was not understood of the policies, by policy.
    #[must_use]
    pub fn findings(&self) -> &[Finding] {
        &self.findings
    }

    /// What was not understood of one policy.
    pub fn findings_of(&self, id: PolicyId) -> impl Iterator<Item = &Finding> {
        let policy = self.policy(id);
        let counts = move |finding: &&Finding| self.is_over(id) || !self.over_bound.has_made(finding);
        // They are sorted by their policies.
        let of = |finding: &Finding| {
            (finding.namespace.as_str(), finding.name.as_str()).cmp(&(policy.namespace.as_str(), policy.name.as_str()))
        };
        let first = self.findings.partition_point(|finding| of(finding).is_lt());
        self.findings[first..].iter().take_while(move |finding| of(finding).is_eq()).filter(counts)
    }

    /// All pods, by namespace, name and UID.
    pub fn pods(&self) -> impl Iterator<Item = (PodId, &Pod)> {
        self.inventory.pods.iter().enumerate().map(|(i, pod)| (PodId(index(i)), pod))
    }

    /// The pods that policies can apply to: live, with a network of their own.
    pub fn endpoints(&self) -> impl Iterator<Item = (PodId, &Pod)> {
        self.pods().filter(|(_, pod)| pod.is_endpoint())
    }

    /// Those of one namespace.
    pub(crate) fn endpoints_in(&self, namespace: &str) -> impl Iterator<Item = PodId> {
        let pods = &self.inventory.pods;
        let first = pods.partition_point(|pod| pod.namespace.as_str() < namespace);
        let here = pods[first..].iter().zip(first..).take_while(move |(pod, _)| pod.namespace == namespace);
        here.filter(|(pod, _)| pod.is_endpoint()).map(|(_, place)| PodId(index(place)))
    }

    /// The pods that are meant where pods are named, by namespace and name. The
    /// API has one pod of a name at a time; where the input has two that are
    /// not finished, an old one and its successor, the one that is not being
    /// deleted is meant, and of two such the later by UID. The other one keeps
    /// its addresses, by which it can still be asked for, until it is gone. A
    /// pod that stands for a workload has its own claim to the name.
    pub fn named(&self) -> impl Iterator<Item = (PodId, &Pod)> {
        let mut next = 0;
        let same_name = |a: &Pod, b: &Pod| (&a.namespace, &a.name) == (&b.namespace, &b.name);
        self.inventory.pods.chunk_by(same_name).flat_map(move |pods| {
            let first = next;
            next += pods.len();
            let (templates, real): (Vec<_>, Vec<_>) =
                pods.iter().enumerate().filter(|(_, pod)| !pod.finished).partition(|(_, pod)| pod.is_template());
            let meant = real.into_iter().max_by_key(|(_, pod)| (!pod.terminating, &pod.uid));
            templates.into_iter().chain(meant).map(move |(i, pod)| (PodId(index(first + i)), pod))
        })
    }

    /// A pod.
    #[must_use]
    pub fn pod(&self, id: PodId) -> &Pod {
        &self.inventory.pods[id.0 as usize]
    }

    /// The class of an endpoint; `None` for other pods.
    #[must_use]
    pub fn class_of(&self, id: PodId) -> Option<ClassId> {
        self.inventory.class_of[id.0 as usize]
    }

    /// The class of an endpoint as a list; empty for other pods.
    #[must_use]
    pub fn classes_of(&self, id: PodId) -> &[ClassId] {
        self.inventory.class_of[id.0 as usize].as_slice()
    }

    /// A class.
    #[must_use]
    pub fn class(&self, id: ClassId) -> &Class {
        &self.inventory.classes[id.0 as usize]
    }

    /// The endpoints that hold an address, as seen from a node: none if no
    /// endpoint lists it, several where no object says which of them has it.
    /// Without a node, as seen from one that has none of them.
    #[must_use]
    pub fn holders(&self, address: IpAddr, node: Option<&str>) -> &[PodId] {
        match self.inventory.owners.get(&address) {
            Some(owner) => std::slice::from_ref(owner),
            None => self.inventory.contests.get(&address).map_or(&[], |contest| &contest.seen_from(node).pods),
        }
    }

    /// What rules of a node take an address that endpoints hold for: the classes
    /// of these endpoints, and the container ports that all of them have.
    #[must_use]
    pub fn classes_and_ports(&self, address: IpAddr, node: Option<&str>) -> Option<(&[ClassId], &[ContainerPort])> {
        match self.inventory.owners.get(&address) {
            Some(owner) => Some((self.inventory.class_of[owner.0 as usize].as_slice(), &self.pod(*owner).ports)),
            None => {
                let holders = self.inventory.contests.get(&address)?.seen_from(node);
                Some((&holders.classes, &holders.ports))
            }
        }
    }

    /// The node that knows whose a contested address is: that of all claimants,
    /// if they are on one.
    #[must_use]
    pub fn node_of_contested(&self, address: IpAddr) -> Option<&str> {
        let mut nodes = self.contest(address)?.claimants.iter().map(|pod| self.pod(*pod).node.as_deref());
        let first = nodes.next()??;
        nodes.all(|node| node == Some(first)).then_some(first)
    }

    /// The addresses that several endpoints list.
    pub fn contests(&self) -> impl Iterator<Item = (IpAddr, &Contest)> {
        self.inventory.contests.iter().map(|(address, contest)| (*address, contest))
    }

    /// The contest about an address, if several endpoints list it.
    #[must_use]
    pub fn contest(&self, address: IpAddr) -> Option<&Contest> {
        self.inventory.contests.get(&address)
    }

    /// The nodes on which another pod may hold some address than on the other nodes, because one of
    /// its claimants is theirs.
    #[must_use]
    pub fn node_views(&self) -> BTreeSet<&str> {
        self.inventory.contests.values().flat_map(|contest| contest.here.keys()).map(String::as_str).collect()
    }

    /// An endpoint's address of a family, in the view of its own node; none where another pod holds
    /// the address that the endpoint's object lists.
    #[must_use]
    pub fn address(&self, id: PodId, family: Family) -> Option<IpAddr> {
        let pod = self.pod(id);
        pod.address(family).filter(|address| self.holders(*address, pod.node.as_deref()).contains(&id))
    }

    /// Whether an endpoint has no address, in the view of its own node.
    #[must_use]
    pub fn is_bare(&self, id: PodId) -> bool {
        Family::ALL.into_iter().all(|family| self.address(id, family).is_none())
    }

    /// Whether an address is one of the node that a pod runs on.
    #[must_use]
    pub fn is_own_node(&self, id: PodId, address: IpAddr) -> bool {
        let node = self.pod(id).node.as_ref().and_then(|name| self.inventory.nodes.get(name));
        node.is_some_and(|addresses| addresses.contains(&address)) || self.is_listened_at_by_own_node(id, address)
    }

    /// Whether an address is one of some node.
    #[must_use]
    pub fn is_node(&self, address: IpAddr) -> bool {
        self.inventory.node_addresses.contains(&address)
    }

    /// Whether an address is one of some node and of no endpoint.
    #[must_use]
    pub fn is_of_node_alone(&self, address: IpAddr) -> bool {
        self.is_node(address) && self.holders(address, None).is_empty()
    }

    /// Whether an address is that of a Service. No policy matches traffic by such an address.
    #[must_use]
    pub fn is_service(&self, address: IpAddr) -> bool {
        self.inventory.service_addresses[Family::of(&address) as usize].contains(cidr::number(address))
    }

    /// Whether the input says which addresses are those of nodes.
    #[must_use]
    pub fn knows_nodes(&self) -> bool {
        !self.inventory.node_addresses.is_empty() && !self.unread.iter().any(|unread| unread.may_hold("Node", ""))
    }

    /// The nodes that are known, with their addresses.
    #[must_use]
    pub fn nodes(&self) -> &BTreeMap<String, BTreeSet<IpAddr>> {
        &self.inventory.nodes
    }

    /// The labels of a namespace, if the namespace is known.
    #[must_use]
    pub fn namespace(&self, name: &str) -> Option<&Labels> {
        self.inventory.namespaces.get(name)
    }

    /// The names of the namespaces that are known, sorted.
    pub fn namespaces(&self) -> impl Iterator<Item = &String> {
        self.inventory.namespaces.keys()
    }

    /// Whether a selector matches the labels of a namespace that is known.
    #[must_use]
    pub fn has_namespace_with(&self, selector: &Selector) -> bool {
        self.inventory.namespaces.values().any(|labels| selector.matches(labels))
    }

    /// All policies, by namespace and name.
    pub fn policies(&self) -> impl Iterator<Item = (PolicyId, &Policy)> {
        self.policies.iter().enumerate().map(|(i, policy)| (PolicyId(index(i)), &**policy))
    }

    /// The policies of a namespace, by name.
    pub fn policies_in(&self, namespace: &str) -> impl Iterator<Item = (PolicyId, &Policy)> {
        let here = self.policies_in.get(namespace).map_or(&[][..], Vec::as_slice);
        here.iter().map(|id| (*id, self.policy(*id)))
    }

    /// A policy.
    #[must_use]
    pub fn policy(&self, id: PolicyId) -> &Policy {
        let place = id.0 as usize;
        self.policies.get(place).unwrap_or_else(|| &self.without_rules[place - self.policies.len()]).as_ref()
    }

    /// The policies that isolate the endpoints of a class in a direction.
    #[must_use]
    pub fn policies_of(&self, class: ClassId, direction: Direction) -> Vec<PolicyId> {
        let class = self.class(class);
        let here = self.policies_in.get(&class.namespace).map_or(&[][..], Vec::as_slice);
        let selects =
            |policy: &Policy| policy.isolates(direction) && class.selection(&policy.subject) == Selection::Certain;
        here.iter().copied().filter(|id| selects(self.policy(*id))).collect()
    }

    /// Whether a rule's pod peer selects the endpoints of a class for certain.
    #[must_use]
    pub fn selects(&self, peer: &PodPeer, class: ClassId) -> bool {
        self.selection(peer, class) == Selection::Certain
    }

    /// The classes that a rule's pod peer selects for certain, in order.
    #[must_use]
    pub fn selected(&self, peer: &PodPeer) -> Vec<ClassId> {
        let in_namespace = |name: &str| {
            let classes = self
                .inventory
                .classes_in
                .get(name)
                .map(|classes| classes.candidates(&peer.pods, &self.inventory.classes));
            let selects = |class: &ClassId| self.class(*class).selection(&peer.pods) == Selection::Certain;
            classes
                .unwrap_or_default()
                .iter()
                .copied()
                .filter(selects)
                .filter(|class| self.class(*class).unknown != UnknownLabels::All || self.selects(peer, *class))
        };
        match &peer.namespaces {
            Namespaces::Own(name) => in_namespace(name).collect(),
            Namespaces::Selected(selector) => {
                let is_certain = |name: &&String| self.namespace_selection(name, selector) == Selection::Certain;
                let some =
                    self.inventory.namespaces_by_label.candidates(selector, |add| self.add_namespace_labels(add));
                let mut classes: Vec<ClassId> = match some {
                    Some(names) => names.iter().filter(is_certain).flat_map(|name| in_namespace(name)).collect(),
                    None => self
                        .inventory
                        .classes_in
                        .keys()
                        .filter(is_certain)
                        .flat_map(|name| in_namespace(name))
                        .collect(),
                };
                classes.sort_unstable();
                classes
            }
        }
    }

    /// Adds the labels of each namespace with endpoints, and its name, which is known also where its labels are not.
    fn add_namespace_labels(&self, add: &mut dyn FnMut(&str, &str, &String)) {
        for name in self.inventory.classes_in.keys() {
            let labels = self.namespace(name);
            labels.into_iter().flatten().for_each(|(key, value)| add(key, value, name));
            if labels.and_then(|labels| labels.get(NAMESPACE_NAME_LABEL)) != Some(name) {
                add(NAMESPACE_NAME_LABEL, name, name);
            }
        }
    }
}

fn read_policies(objects: &Objects) -> (Vec<Policy>, Vec<Finding>) {
    let mut read = BTreeMap::new();
    for policy in &objects.policies {
        let (policy, findings) = Policy::read_to_explain(policy);
        read.insert((policy.namespace.clone(), policy.name.clone()), (policy, findings));
    }
    let (policies, findings): (Vec<_>, Vec<_>) = read.into_values().unzip();
    (policies, findings.into_iter().flatten().collect())
}

/// The policies of each namespace, in the order of all.
fn policies_in(policies: &[Arc<Policy>]) -> BTreeMap<String, Vec<PolicyId>> {
    let mut policies_in = BTreeMap::<String, Vec<PolicyId>>::new();
    for (i, policy) in policies.iter().enumerate() {
        match policies_in.get_mut(&policy.namespace) {
            Some(ids) => ids.push(PolicyId(index(i))),
            None => drop(policies_in.insert(policy.namespace.clone(), vec![PolicyId(index(i))])),
        }
    }
    policies_in
}
