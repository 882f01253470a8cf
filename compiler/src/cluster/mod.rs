//! The cluster: objects brought into the shape that questions are asked of.
//!
//! Pods of one namespace with the same labels are one [`Class`]: no selector
//! distinguishes them, so it is evaluated once per class. An address that one
//! pod lists is that pod's; which pod *holds* one that several list depends on
//! the node that asks (see [`Contest`]). Nothing here depends on the order of the
//! objects.

mod admitted;
pub mod backend;
pub(crate) mod claim;
mod classes;
mod contest;
pub mod group;
mod group_key;
pub mod hints;
mod label_index;
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

use rustc_hash::FxHashMap;

use crate::algebra::cidr::{self, AddressSet};
use crate::algebra::selector::Selector;
use crate::cluster::classes::{ClassesOfNamespace, classify};
use crate::cluster::contest::owners;
use crate::cluster::hints::Hints;
use crate::cluster::label_index::LabelIndex;
use crate::cluster::over_bound::OverBound;
use crate::cluster::selection::{Selection, UnknownLabels};
use crate::cluster::services::ServicesBy;
use crate::cluster::unread::Unread;
use crate::object::{ContainerPort, EndpointSlice, Family, Labels, NAMESPACE_NAME_LABEL, Objects, Pod, Service};
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
    /// They themselves, in order.
    pub endpoints: Vec<PodId>,
}

/// A cluster at one moment.
#[derive(Debug)]
pub struct Cluster {
    namespaces: BTreeMap<String, Labels>,
    pods: Vec<Pod>,
    /// The class of each pod; none for a pod that is no endpoint.
    class_of: Vec<Option<ClassId>>,
    classes: Vec<Class>,
    classes_in: BTreeMap<String, ClassesOfNamespace>,
    /// The namespaces of endpoints.
    namespaces_by_label: LabelIndex<String>,
    /// The endpoint that lists each address that one alone lists.
    owners: FxHashMap<IpAddr, PodId>,
    contests: BTreeMap<IpAddr, Contest>,
    /// The addresses of each node.
    nodes: BTreeMap<String, BTreeSet<IpAddr>>,
    node_addresses: BTreeSet<IpAddr>,
    policies: Vec<Policy>,
    /// Each policy without its rules, in the same order: what it is where it is over the bound.
    without_rules: Vec<Policy>,
    over_bound: OverBound,
    /// The policies of each namespace.
    policies_in: BTreeMap<String, Vec<PolicyId>>,
    findings: Vec<Finding>,
    /// By namespace and name of their service.
    endpoint_slices: BTreeMap<(String, String), Vec<EndpointSlice>>,
    /// The services of each namespace, by name.
    services: BTreeMap<String, BTreeMap<String, Service>>,
    /// The addresses of services, by family.
    service_addresses: [AddressSet; 2],
    /// Services by addresses and ports.
    services_by: ServicesBy,
    /// The families in which pods without an address may get one.
    assigned_families: [bool; 2],
    /// Namespaces that no object of the input declares.
    implied_namespaces: BTreeSet<String>,
    /// What was not read and may decide.
    unread: Vec<Unread>,
    /// What of the input makes pods that are not in it, in words.
    pod_makers: Vec<String>,
    /// What explains and decides nothing.
    hints: Hints,
    /// The classes with unknown labels that selectors ask for, in order.
    open: Vec<ClassId>,
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
        let namespaces = objects.namespaces.iter().map(|n| (n.name.clone(), n.labels.clone())).collect();
        let mut pods = objects.pods.clone();
        pods.sort_by(|a, b| (&a.namespace, &a.name, &a.uid).cmp(&(&b.namespace, &b.name, &b.uid)));
        let (policies, findings) = read_policies(objects);
        let (classes, class_of) = classify(&pods, selection::ask_for_node_labels(&policies));
        let mut classes_in = BTreeMap::<String, ClassesOfNamespace>::new();
        for (i, class) in classes.iter().enumerate() {
            classes_in.entry(class.namespace.clone()).or_default().all.push(ClassId(index(i)));
        }
        let nodes = node_addresses(objects);
        let mut policies_in = BTreeMap::<String, Vec<PolicyId>>::new();
        for (i, policy) in policies.iter().enumerate() {
            policies_in.entry(policy.namespace.clone()).or_default().push(PolicyId(index(i)));
        }
        let (owners, contests) = owners(&pods, &class_of, objects);
        let mut endpoint_slices = BTreeMap::<_, Vec<EndpointSlice>>::new();
        for slice in &objects.endpoint_slices {
            let service = (slice.namespace.clone(), slice.service.clone());
            endpoint_slices.entry(service).or_default().push(slice.clone());
        }
        let mut services = BTreeMap::<String, BTreeMap<String, Service>>::new();
        let first_family = new_address::first_family(objects, &pods);
        for service in &objects.services {
            let mut service = service.clone();
            // EndpointSlices say which families it has.
            let has_slices = || endpoint_slices.contains_key(&(service.namespace.clone(), service.name.clone()));
            if service.routing.is_of_first_family && !has_slices() {
                service.routing.only_family = first_family;
            }
            services.entry(service.namespace.clone()).or_default().insert(service.name.clone(), service);
        }
        let mut cluster = Self {
            services_by: ServicesBy::of(services.values().flat_map(BTreeMap::values)),
            services,
            service_addresses: Family::ALL.map(|family| {
                let addresses = objects.services.iter().flat_map(|service| &service.addresses);
                let numbers = addresses.filter(|of| Family::of(of) == family).map(|of| cidr::number(*of));
                AddressSet::from_ranges(numbers.map(|number| (number, number)))
            }),
            assigned_families: new_address::assigned_families(objects),
            implied_namespaces: objects.implied_namespaces.clone(),
            unread: Vec::new(),
            pod_makers: Vec::new(),
            hints: Hints::default(),
            open: Vec::new(),
            namespaces,
            owners,
            contests,
            pods,
            class_of,
            classes,
            classes_in,
            namespaces_by_label: LabelIndex::default(),
            without_rules: policies.iter().map(Policy::without_rules).collect(),
            over_bound: OverBound::default(),
            node_addresses: nodes.values().flatten().copied().collect(),
            nodes,
            policies,
            policies_in,
            findings,
            endpoint_slices,
        };
        cluster.find_open();
        cluster
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
        self.pods.iter().enumerate().map(|(i, pod)| (PodId(index(i)), pod))
    }

    /// The pods that policies can apply to: live, with a network of their own.
    pub fn endpoints(&self) -> impl Iterator<Item = (PodId, &Pod)> {
        self.pods().filter(|(_, pod)| pod.is_endpoint())
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
        self.pods.chunk_by(same_name).flat_map(move |pods| {
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
        &self.pods[id.0 as usize]
    }

    /// The class of an endpoint; `None` for other pods.
    #[must_use]
    pub fn class_of(&self, id: PodId) -> Option<ClassId> {
        self.class_of[id.0 as usize]
    }

    /// The same as a list.
    #[must_use]
    pub fn classes_of(&self, id: PodId) -> &[ClassId] {
        self.class_of[id.0 as usize].as_slice()
    }

    /// A class.
    #[must_use]
    pub fn class(&self, id: ClassId) -> &Class {
        &self.classes[id.0 as usize]
    }

    /// The endpoints that hold an address, as seen from a node: none if no
    /// endpoint lists it, several where no object says which of them has it.
    /// Without a node, as seen from one that has none of them.
    #[must_use]
    pub fn holders(&self, address: IpAddr, node: Option<&str>) -> &[PodId] {
        match self.owners.get(&address) {
            Some(owner) => std::slice::from_ref(owner),
            None => self.contests.get(&address).map_or(&[], |contest| &contest.seen_from(node).pods),
        }
    }

    /// What rules of a node take an address that endpoints hold for: the classes
    /// of these endpoints, and the container ports that all of them have.
    #[must_use]
    pub fn classes_and_ports(&self, address: IpAddr, node: Option<&str>) -> Option<(&[ClassId], &[ContainerPort])> {
        match self.owners.get(&address) {
            Some(owner) => Some((self.class_of[owner.0 as usize].as_slice(), &self.pod(*owner).ports)),
            None => {
                let holders = self.contests.get(&address)?.seen_from(node);
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
        self.contests.iter().map(|(address, contest)| (*address, contest))
    }

    /// The contest about an address, if several endpoints list it.
    #[must_use]
    pub fn contest(&self, address: IpAddr) -> Option<&Contest> {
        self.contests.get(&address)
    }

    /// The nodes that see some address otherwise than the others do, because
    /// one of its claimants is theirs.
    #[must_use]
    pub fn node_views(&self) -> BTreeSet<&str> {
        self.contests.values().flat_map(|contest| contest.here.keys()).map(String::as_str).collect()
    }

    /// An endpoint's address of a family, as its own node sees it; none where
    /// another pod holds what its object lists.
    #[must_use]
    pub fn address(&self, id: PodId, family: Family) -> Option<IpAddr> {
        let pod = self.pod(id);
        pod.address(family).filter(|address| self.holders(*address, pod.node.as_deref()).contains(&id))
    }

    /// Whether an endpoint has no address, as its own node sees it.
    #[must_use]
    pub fn is_bare(&self, id: PodId) -> bool {
        Family::ALL.into_iter().all(|family| self.address(id, family).is_none())
    }

    /// Whether an address is one of the node that a pod runs on.
    #[must_use]
    pub fn is_own_node(&self, id: PodId, address: IpAddr) -> bool {
        let node = self.pod(id).node.as_ref().and_then(|name| self.nodes.get(name));
        node.is_some_and(|addresses| addresses.contains(&address))
    }

    /// Whether an address is one of some node.
    #[must_use]
    pub fn is_node(&self, address: IpAddr) -> bool {
        self.node_addresses.contains(&address)
    }

    /// Whether an address is one of some node and of no endpoint.
    #[must_use]
    pub fn is_of_node_alone(&self, address: IpAddr) -> bool {
        self.is_node(address) && self.holders(address, None).is_empty()
    }

    /// Whether an address is that of a Service, by which no policy sees traffic.
    #[must_use]
    pub fn is_service(&self, address: IpAddr) -> bool {
        self.service_addresses[Family::of(&address) as usize].contains(cidr::number(address))
    }

    /// Whether the input says which addresses are those of nodes.
    #[must_use]
    pub fn knows_nodes(&self) -> bool {
        !self.node_addresses.is_empty() && !self.unread.iter().any(|unread| unread.may_hold("Node", ""))
    }

    /// The nodes that are known, with their addresses.
    #[must_use]
    pub fn nodes(&self) -> &BTreeMap<String, BTreeSet<IpAddr>> {
        &self.nodes
    }

    /// The labels of a namespace, if the namespace is known.
    #[must_use]
    pub fn namespace(&self, name: &str) -> Option<&Labels> {
        self.namespaces.get(name)
    }

    /// The names of the namespaces that are known, sorted.
    pub fn namespaces(&self) -> impl Iterator<Item = &String> {
        self.namespaces.keys()
    }

    /// Whether a selector matches the labels of a namespace that is known.
    #[must_use]
    pub fn has_namespace_with(&self, selector: &Selector) -> bool {
        self.namespaces.values().any(|labels| selector.matches(labels))
    }

    /// All policies, by namespace and name.
    pub fn policies(&self) -> impl Iterator<Item = (PolicyId, &Policy)> {
        self.policies.iter().enumerate().map(|(i, policy)| (PolicyId(index(i)), policy))
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
        self.policies.get(place).unwrap_or_else(|| &self.without_rules[place - self.policies.len()])
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
            let classes = self.classes_in.get(name).map(|classes| classes.candidates(&peer.pods, &self.classes));
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
                let some = self.namespaces_by_label.candidates(selector, |add| self.add_namespace_labels(add));
                let mut classes: Vec<ClassId> = match some {
                    Some(names) => names.iter().filter(is_certain).flat_map(|name| in_namespace(name)).collect(),
                    None => self.classes_in.keys().filter(is_certain).flat_map(|name| in_namespace(name)).collect(),
                };
                classes.sort_unstable();
                classes
            }
        }
    }

    /// Adds the labels of each namespace with endpoints, and its name, which is known also where its labels are not.
    fn add_namespace_labels(&self, add: &mut dyn FnMut(&str, &str, &String)) {
        for name in self.classes_in.keys() {
            let labels = self.namespace(name);
            labels.into_iter().flatten().for_each(|(key, value)| add(key, value, name));
            if labels.and_then(|labels| labels.get(NAMESPACE_NAME_LABEL)) != Some(name) {
                add(NAMESPACE_NAME_LABEL, name, name);
            }
        }
    }
}

/// The addresses of each node: those of its object, those that its pods report
/// as their host's, and those of its hostNetwork pods.
fn node_addresses(objects: &Objects) -> BTreeMap<String, BTreeSet<IpAddr>> {
    let mut nodes = BTreeMap::<String, BTreeSet<IpAddr>>::new();
    for node in &objects.nodes {
        nodes.entry(node.name.clone()).or_default().extend(&node.addresses);
    }
    for pod in &objects.pods {
        if let Some(node) = &pod.node {
            let addresses = nodes.entry(node.clone()).or_default();
            addresses.extend(&pod.host_addresses);
            if pod.host_network {
                addresses.extend(pod.addresses());
            }
        }
    }
    nodes
}

fn read_policies(objects: &Objects) -> (Vec<Policy>, Vec<Finding>) {
    let mut read = BTreeMap::new();
    for policy in &objects.policies {
        let (policy, findings) = Policy::read(policy);
        read.insert((policy.namespace.clone(), policy.name.clone()), (policy, findings));
    }
    let (policies, findings): (Vec<_>, Vec<_>) = read.into_values().unzip();
    (policies, findings.into_iter().flatten().collect())
}
