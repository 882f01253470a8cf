//! The input: what the compiler keeps of Pods, Namespaces, Nodes, Services and
//! NetworkPolicies. Nothing else of an object survives, so a cluster of a
//! hundred thousand pods stays small.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use ipnetwork::IpNetwork;
use k8s_openapi::api::core::v1 as core;
use k8s_openapi::api::networking::v1 as networking;

mod budget;
mod controller_label;
mod endpoint_slice;
mod network;
mod other_kind;
mod pod;
mod service;
mod slice_pod;
mod workload;

pub use budget::{Moved, NAMESPACE_POLICY_BYTES, PolicyBudget, over_budget};
pub(crate) use controller_label::{COMPLETION_INDEX_LABEL, ROLLOUT_HASH_LABEL};
pub use controller_label::{ControllerLabel, controller_labels, is_controller_label, is_topology_label};
pub use endpoint_slice::{EndpointSlice, SliceEndpoint, SlicePort};
pub use network::{DNS_PORT, Family, Protocol, parse_address};
pub use other_kind::{Consequence, consequence, deciding_kinds, is_cluster_scoped};
pub use pod::{CONFIG_HASH, ContainerOfPort, ContainerPort, HostPort, Pod};
pub use service::{Exposure, Routing, Service, ServicePort, TargetPort};
pub use workload::Workload;

/// Labels of a pod or namespace.
pub type Labels = BTreeMap<String, String>;

/// The label that the API server puts on every namespace, with its name, and
/// that the API server lets no client change.
///
/// <https://kubernetes.io/docs/reference/labels-annotations-taints/#kubernetes-io-metadata-name>
pub const NAMESPACE_NAME_LABEL: &str = "kubernetes.io/metadata.name";

/// How the names of namespaces begin that are of no cluster: the caller makes them for endpoints and
/// policies of its own. No namespace of a cluster has a slash in its name.
pub const OWN_NAMESPACES: &str = "npc.dev/";

/// Everything that decides about connectivity, as read from files or from the
/// API server. The order of objects never matters.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Objects {
    /// The namespaces.
    pub namespaces: Vec<Namespace>,
    /// The pods, live or finished.
    pub pods: Vec<Pod>,
    /// The network policies.
    pub policies: Vec<NetworkPolicy>,
    /// The nodes.
    pub nodes: Vec<Node>,
    /// The services; only explanations and migration reports use them.
    pub services: Vec<Service>,
    /// Where services lead, as far as the input says it.
    pub endpoint_slices: Vec<EndpointSlice>,
    /// The namespaces that no object declares and that others live in
    /// ([`Self::declare_namespaces`]).
    pub implied_namespaces: BTreeSet<String>,
}

impl Objects {
    /// Adds a [`Namespace`] for every namespace that some object lives in and
    /// none of the namespaces declares, as `kubectl create namespace` would
    /// make it. For input from files, which often leave them out; a cluster
    /// knows its namespaces.
    pub fn declare_namespaces(&mut self) {
        let used = (self.pods.iter().map(|p| p.namespace.as_str()))
            .chain(self.policies.iter().map(NetworkPolicy::namespace))
            .chain(self.services.iter().map(|s| s.namespace.as_str()));
        let mut missing: BTreeSet<&str> = used.collect();
        for namespace in &self.namespaces {
            missing.remove(namespace.name.as_str());
        }
        let made: Vec<Namespace> = missing.into_iter().map(|name| Namespace::new(name, Labels::new())).collect();
        self.implied_namespaces.extend(made.iter().map(|namespace| namespace.name.clone()));
        self.namespaces.extend(made);
    }

    /// Drops what Endpoints say of the services that have a selector, where the pods or EndpointSlices say it too:
    /// their controller makes slices of the pods, and Endpoints lack those of the second family.
    pub fn forget_endpoints_of_selectors(&mut self) {
        let Self { services, endpoint_slices, pods, .. } = self;
        let addresses: BTreeSet<IpAddr> =
            pods.iter().flat_map(|pod| pod.addresses().chain(pod.host_addresses.iter().copied())).collect();
        let sliced: BTreeSet<(String, String)> = (endpoint_slices.iter().filter(|slice| !slice.of_endpoints))
            .map(|slice| (slice.namespace.clone(), slice.service.clone()))
            .collect();
        endpoint_slices.retain(|slice| {
            let is_of = |service: &&Service| slice.namespace == service.namespace && slice.service == service.name;
            let Some(service) = services.iter().find(is_of).filter(|of| of.selector.is_some() && slice.of_endpoints)
            else {
                return true;
            };
            let is_sliced = || sliced.contains(&(slice.namespace.clone(), slice.service.clone()));
            let is_known = || {
                slice.endpoints.iter().all(|of| addresses.contains(&of.address))
                    && pods.iter().any(|pod| !pod.finished && service.selects(pod))
            };
            !is_sliced() && !is_known()
        });
    }

    /// Drops the EndpointSlices of the services that have a selector. Their controller
    /// writes them anew when pods change, so after a change that is only imagined they are
    /// not what they would be.
    pub fn forget_computed_slices(&mut self) {
        let Self { services, endpoint_slices, .. } = self;
        let is_of = |slice: &EndpointSlice, service: &Service| {
            slice.namespace == service.namespace && slice.service == service.name
        };
        endpoint_slices
            .retain(|slice| !services.iter().any(|service| service.selector.is_some() && is_of(slice, service)));
    }
}

/// A namespace and its labels.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Namespace {
    /// `metadata.name`
    pub name: String,
    /// `metadata.labels`, with [`NAMESPACE_NAME_LABEL`].
    pub labels: Labels,
}

impl Namespace {
    /// A namespace with these labels and the one that every namespace has.
    #[must_use]
    pub fn new(name: impl Into<String>, mut labels: Labels) -> Self {
        let name = name.into();
        labels.insert(NAMESPACE_NAME_LABEL.to_owned(), name.clone());
        Self { name, labels }
    }
}

impl From<core::Namespace> for Namespace {
    fn from(namespace: core::Namespace) -> Self {
        let metadata = namespace.metadata;
        Self::new(metadata.name.unwrap_or_default(), metadata.labels.unwrap_or_default())
    }
}

/// A node and its addresses.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Node {
    /// `metadata.name`
    pub name: String,
    /// The IP addresses in `status.addresses`, of every type.
    pub addresses: Vec<IpAddr>,
    /// `spec.podCIDRs`, else `spec.podCIDR`: the prefixes from which its pods
    /// have their addresses. None where the network assigns them otherwise.
    pub pod_cidrs: Vec<IpNetwork>,
}

impl From<core::Node> for Node {
    fn from(node: core::Node) -> Self {
        let spec = node.spec.unwrap_or_default();
        let prefixes = spec.pod_cidrs.unwrap_or_default().into_iter().chain(spec.pod_cidr);
        let mut pod_cidrs: Vec<IpNetwork> = prefixes.filter_map(|text| text.parse().ok()).collect();
        pod_cidrs.sort_unstable();
        pod_cidrs.dedup();
        let listed = node.status.and_then(|s| s.addresses).unwrap_or_default();
        let mut addresses: Vec<IpAddr> = listed.iter().filter_map(|a| parse_address(&a.address)).collect();
        addresses.sort_unstable();
        addresses.dedup();
        Self { name: node.metadata.name.unwrap_or_default(), addresses, pod_cidrs }
    }
}

/// A network policy as the API has it, and what of its text the API does not
/// know.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct NetworkPolicy {
    /// The object. Its metadata is trusted to hold name and namespace.
    pub object: networking::NetworkPolicy,
    /// Paths of fields that the API does not have (`spec.ingress[0].from[1].ipBlok`).
    /// An API server drops them; in a file they are most likely misspelt, so
    /// what holds them is not understood and matches nothing.
    pub unknown_fields: Vec<String>,
    /// Why its rules are left out, if they are ([`NetworkPolicy::restricted`]).
    pub restriction: Option<String>,
}

impl NetworkPolicy {
    /// Its namespace; `default` where none is given.
    #[must_use]
    pub fn namespace(&self) -> &str {
        self.object.metadata.namespace.as_deref().unwrap_or("default")
    }

    /// Its name.
    #[must_use]
    pub fn name(&self) -> &str {
        self.object.metadata.name.as_deref().unwrap_or_default()
    }
}

impl From<networking::NetworkPolicy> for NetworkPolicy {
    fn from(mut object: networking::NetworkPolicy) -> Self {
        object.metadata.namespace.get_or_insert_with(|| "default".to_owned());
        Self { object, unknown_fields: Vec::new(), restriction: None }
    }
}
