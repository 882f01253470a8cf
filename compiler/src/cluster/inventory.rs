//! What a cluster has beside its policies, in the shape that questions are asked of.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use rustc_hash::FxHashMap;

use super::classes::{ClassesOfNamespace, classify};
use super::contest::{Contest, owners};
use super::label_index::LabelIndex;
use super::services::ServicesBy;
use super::{Class, ClassId, PodId, index, local_address, new_address};
use crate::algebra::cidr::{self, AddressSet};
use crate::object::{EndpointSlice, Family, Labels, Objects, Pod, Service};

/// What a cluster has beside its policies.
#[derive(Debug)]
pub(super) struct Inventory {
    pub(super) namespaces: BTreeMap<String, Labels>,
    pub(super) pods: Vec<Pod>,
    /// The class of each pod; none for a pod that is no endpoint.
    pub(super) class_of: Vec<Option<ClassId>>,
    pub(super) classes: Vec<Class>,
    /// Classes are told apart by the labels that pods get from their nodes.
    pub(super) has_node_labels: bool,
    pub(super) classes_in: BTreeMap<String, ClassesOfNamespace>,
    /// The namespaces of endpoints.
    pub(super) namespaces_by_label: LabelIndex<String>,
    /// The endpoint that lists each address that one alone lists.
    pub(super) owners: FxHashMap<IpAddr, PodId>,
    pub(super) contests: BTreeMap<IpAddr, Contest>,
    /// The addresses of each node.
    pub(super) nodes: BTreeMap<String, BTreeSet<IpAddr>>,
    pub(super) node_addresses: BTreeSet<IpAddr>,
    /// The hostNetwork pods that listen at addresses that no Node lists.
    pub(super) listeners: BTreeMap<IpAddr, Vec<PodId>>,
    /// By namespace and name of their service.
    pub(super) endpoint_slices: BTreeMap<(String, String), Vec<EndpointSlice>>,
    /// The services of each namespace, by name.
    pub(super) services: BTreeMap<String, BTreeMap<String, Service>>,
    /// The addresses of services, by family.
    pub(super) service_addresses: [AddressSet; 2],
    /// Services by addresses and ports.
    pub(super) services_by: ServicesBy,
    /// The families in which pods without an address may get one.
    pub(super) assigned_families: [bool; 2],
    /// Namespaces that no object of the input declares.
    pub(super) implied_namespaces: BTreeSet<String>,
}

impl Inventory {
    /// `has_node_labels` if some policy asks for labels that pods get from their nodes.
    pub(super) fn new(objects: &Objects, has_node_labels: bool) -> Self {
        let namespaces = objects.namespaces.iter().map(|n| (n.name.clone(), n.labels.clone())).collect();
        let mut pods = objects.pods.clone();
        pods.sort_by(|a, b| (&a.namespace, &a.name, &a.uid).cmp(&(&b.namespace, &b.name, &b.uid)));
        let (classes, class_of) = classify(&pods, has_node_labels);
        let mut classes_in = BTreeMap::<String, ClassesOfNamespace>::new();
        for (i, class) in classes.iter().enumerate() {
            classes_in.entry(class.namespace.clone()).or_default().all.push(ClassId(index(i)));
        }
        let nodes = node_addresses(objects);
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
        Self {
            services_by: ServicesBy::of(services.values().flat_map(BTreeMap::values)),
            services,
            service_addresses: Family::ALL.map(|family| {
                let addresses = objects.services.iter().flat_map(|service| &service.addresses);
                let numbers = addresses.filter(|of| Family::of(of) == family).map(|of| cidr::number(*of));
                AddressSet::from_ranges(numbers.map(|number| (number, number)))
            }),
            assigned_families: new_address::assigned_families(objects),
            implied_namespaces: objects.implied_namespaces.clone(),
            namespaces,
            listeners: local_address::listeners(&pods),
            owners,
            contests,
            pods,
            class_of,
            classes,
            has_node_labels,
            classes_in,
            namespaces_by_label: LabelIndex::default(),
            node_addresses: nodes.values().flatten().copied().collect(),
            nodes,
            endpoint_slices,
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
