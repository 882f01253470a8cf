//! From a Service to the places that kube-proxy sends its traffic to. Every command that
//! follows a Service asks here.
//!
//! The Service's EndpointSlices decide where the input has any. Where it has none and the
//! Service has a selector, this works out what the controller of EndpointSlices would
//! write: all pods that the selector selects, hostNetwork pods too,
//! without those that are finished, and with a named `targetPort` resolved in each. A pod is
//! ready unless its status says that it is not, or it is being deleted; a file may have no
//! status. Where the Service has no selector either, the input does not say where it leads.
//!
//! kube-proxy takes, for each address family, the endpoints of a port that are ready; if
//! there is none, those that are terminating and still serve
//! (<https://kubernetes.io/docs/concepts/services-networking/service/#terminating-endpoints>).
//! A headless Service is not kube-proxy's: DNS answers with the endpoints that are ready, and no other.
//!
//! Where a traffic policy is `Local`, kube-proxy goes by the endpoint's `nodeName`, not by the pod that has its
//! address. An endpoint without a `nodeName` is local to no node.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use super::without_backend::WhyUnknown;
use super::{Cluster, PodId};
use crate::object::{
    ContainerPort, EndpointSlice, Family, HostPort, Pod, Protocol, Service, ServicePort, SliceEndpoint, TargetPort,
};

/// Where a Service's port leads.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Backend {
    /// The place.
    pub end: BackendEnd,
    /// The number of the port that traffic goes to.
    pub port: u16,
    /// The only family in which traffic goes there, where EndpointSlices say so.
    pub family: Option<Family>,
}

/// A place where a Service leads.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum BackendEnd {
    /// A pod; in its own network or in its node's.
    Pod(PodId),
    /// An address that no pod of the input has: a node's, or one outside.
    Address(IpAddr),
}

/// Whether a host port leads to its pod at an address of a node.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum HostPortAt {
    /// It does.
    Here,
    /// The input does not say on which node the pod is.
    Perhaps,
    /// The pod is on another node.
    OtherNode,
    /// `hostIP` binds it to another address.
    OtherAddress,
}

/// Whether kube-proxy sends new connections to an endpoint.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Ready,
    /// Only where no other is ready.
    ServesUntilGone,
    Not,
}

/// An endpoint of a service's port.
#[derive(Debug, Clone, Copy)]
struct Listed<'a> {
    backend: Backend,
    state: State,
    /// The node that it is on, as far as the input says it.
    node: Option<&'a str>,
}

/// Those of a family.
fn of_family<'l, 'a>(listed: &'l [Listed<'a>], family: Family) -> impl Iterator<Item = &'l Listed<'a>> {
    listed.iter().filter(move |of| of.backend.family == Some(family))
}

impl Cluster {
    /// Where any of a service's ports leads; `None` where the input does not say.
    #[must_use]
    pub fn behind(&self, service: &Service) -> Option<Vec<BackendEnd>> {
        self.knows_slices(service)?;
        let slices = self.slices(service);
        if slices.is_empty() {
            self.knows_pods_of(service)?;
            let listed: Vec<(PodId, &Pod)> = self.selected_by(service).collect();
            let mut behind = Vec::new();
            for family in families(service) {
                let of_family = listed.iter().filter(|(_, pod)| may_have(pod, family));
                behind.extend(in_use(
                    service,
                    of_family.map(|(id, pod)| (BackendEnd::Pod(*id), State::of(pod, service))),
                ));
            }
            behind.sort_unstable();
            behind.dedup();
            return Some(behind);
        }
        let mut behind = Vec::new();
        for family in families(service) {
            let endpoints = slices.iter().flat_map(|slice| &slice.endpoints);
            let endpoints = endpoints.filter(|of| Family::of(&of.address) == family);
            behind.extend(in_use(service, endpoints.map(|of| (self.end_of(of), State::of_slice(of)))));
        }
        behind.sort_unstable();
        behind.dedup();
        Some(behind)
    }

    /// Where one port of a service leads; `None` where the input does not say. A pod that
    /// has no port of the name that `targetPort` asks for is no backend.
    #[must_use]
    pub fn backends(&self, service: &Service, port: &ServicePort) -> Option<Vec<Backend>> {
        let listed = self.listed(service, port)?;
        let of_family = |family| in_use(service, of_family(&listed, family).map(|of| (of.backend, of.state)));
        Some(of_both_families(families(service).flat_map(of_family).collect()))
    }

    /// Where one port of a service leads on each node whose traffic policy is `Local`: kube-proxy
    /// looks at the endpoints of its own node only, so one that is terminating serves there, though
    /// another node has one that is ready. Endpoints of slices that name no node are on none.
    #[must_use]
    pub fn local_backends(&self, service: &Service, port: &ServicePort) -> Option<Vec<Backend>> {
        let listed = self.listed(service, port)?;
        let has_slices = !self.slices(service).is_empty();
        let mut backends = Vec::new();
        for family in families(service) {
            let mut by_node = BTreeMap::<&str, Vec<(Backend, State)>>::new();
            for of in of_family(&listed, family) {
                match of.node {
                    Some(node) => by_node.entry(node).or_default().push((of.backend, of.state)),
                    None if has_slices => {}
                    // It may be alone on its node.
                    None => backends.extend(in_use(service, std::iter::once((of.backend, of.state)))),
                }
            }
            backends.extend(by_node.into_values().flat_map(|listed| in_use(service, listed.into_iter())));
        }
        Some(of_both_families(backends))
    }

    /// All endpoints of one port of a service, once for each family.
    fn listed<'a>(&'a self, service: &'a Service, port: &ServicePort) -> Option<Vec<Listed<'a>>> {
        self.knows_slices(service)?;
        let slices = self.slices(service);
        if slices.is_empty() {
            self.knows_pods_of(service)?;
            let listed = self.selected_by(service).filter_map(|(id, pod)| {
                let (end, port) = (BackendEnd::Pod(id), target(port, &pod.ports)?);
                let (state, node) = (State::of(pod, service), pod.node.as_deref());
                let families = Family::ALL.into_iter().filter(|family| may_have(pod, *family));
                Some(families.map(move |family| {
                    let backend = Backend { end, port, family: Some(family) };
                    Listed { backend, state, node }
                }))
            });
            return Some(listed.flatten().collect());
        }
        let listed = |slice: &'a EndpointSlice| {
            let number = slice.ports.iter().find(|of| of.is_of(port))?.port;
            let listed = move |of: &'a SliceEndpoint| {
                let family = Some(Family::of(&of.address));
                let backend = Backend { end: self.end_of(of), port: number, family };
                Listed { backend, state: State::of_slice(of), node: of.node.as_deref() }
            };
            Some(slice.endpoints.iter().map(listed))
        };
        Some(slices.iter().filter_map(listed).flatten().collect())
    }

    /// The pods that a service's selector selects and that are not finished, whether they are ready or
    /// not.
    #[must_use]
    pub fn selected_pods(&self, service: &Service) -> Vec<PodId> {
        self.selected_by(service).map(|(id, _)| id).collect()
    }

    /// Whether kube-proxy of a node takes a place where a service leads for one of its own; `None` where
    /// the input does not say it, and where the node is not known.
    #[must_use]
    pub fn is_local(&self, service: &Service, end: BackendEnd, node: Option<&str>) -> Option<bool> {
        let slices = self.slices(service);
        if slices.is_empty() {
            let BackendEnd::Pod(pod) = end else { return Some(false) };
            let pod = self.pod(pod);
            // One of its pods is on each node.
            return if pod.is_template() && pod.is_on_every_node() {
                Some(true)
            } else {
                Some(pod.node.as_deref()? == node?)
            };
        }
        let of_end = slices.iter().flat_map(|slice| &slice.endpoints).filter(|of| self.end_of(of) == end);
        let mut named = of_end.filter_map(|of| of.node.as_deref()).peekable();
        if named.peek().is_none() {
            return Some(false);
        }
        Some(named.any(|name| Some(name) == node)).filter(|is| *is || node.is_some())
    }

    /// The nodes to which a place where a service leads is local, as far as the input says it.
    #[must_use]
    pub fn local_nodes(&self, service: &Service, end: BackendEnd) -> BTreeSet<&str> {
        let slices = self.slices(service);
        if slices.is_empty() {
            return self.node_of_backend(service, end).into_iter().collect();
        }
        let of_end = slices.iter().flat_map(|slice| &slice.endpoints).filter(|of| self.end_of(of) == end);
        of_end.filter_map(|of| of.node.as_deref()).collect()
    }

    /// The node of a place where a service leads, as far as the input says it.
    #[must_use]
    pub fn node_of_backend(&self, service: &Service, end: BackendEnd) -> Option<&str> {
        match end {
            BackendEnd::Pod(pod) => self.pod(pod).node.as_deref(),
            BackendEnd::Address(address) => {
                let endpoints = self.slices(service).iter().flat_map(|slice| &slice.endpoints);
                let listed = endpoints.filter(|of| of.address == address).find_map(|of| of.node.as_deref());
                listed.or_else(|| {
                    self.inventory
                        .nodes
                        .iter()
                        .find(|(_, addresses)| addresses.contains(&address))
                        .map(|(name, _)| name.as_str())
                })
            }
        }
    }

    /// The services of a pod's namespace that have a port with another number than the pod's to which
    /// it should lead: the service, its port, and the pod's. Headless services are among them, though
    /// they translate no port.
    pub fn services_by_another_port(&self, id: PodId) -> impl Iterator<Item = (&Service, &ServicePort, u16)> {
        let of_namespace = self.services_in(&self.pod(id).namespace);
        let ports = of_namespace.flat_map(|service| service.ports.iter().map(move |port| (service, port)));
        ports.filter_map(move |(service, port)| {
            let of_pod = self.port_of_backend(service, port, id).filter(|number| *number != port.port)?;
            Some((service, port, of_pod))
        })
    }

    /// Whether a service of its namespace leads to a port of a pod.
    #[must_use]
    pub fn is_behind_service(&self, id: PodId, protocol: Protocol, number: u16) -> bool {
        let may_lead = |service: &Service, port: &ServicePort| {
            // The slices of a selector have the ports that the service says.
            let is_other = |target: u16| target != number && service.selector.is_some();
            port.protocol == protocol && !matches!(port.target, TargetPort::Number(target) if is_other(target))
        };
        self.ports_that_may_lead_to(id)
            .any(|(service, port)| may_lead(service, port) && self.port_of_backend(service, port, id) == Some(number))
    }

    /// Whether a service of its namespace leads to some port of a pod.
    #[must_use]
    pub fn is_behind_some_service(&self, id: PodId) -> bool {
        self.ports_that_may_lead_to(id).any(|(service, port)| self.port_of_backend(service, port, id).is_some())
    }

    /// The ports of the services of a pod's namespace but for those that select others.
    fn ports_that_may_lead_to(&self, id: PodId) -> impl Iterator<Item = (&Service, &ServicePort)> {
        let pod = self.pod(id);
        let may_lead = |service: &&Service| service.selector.is_none() || service.asks_for(&pod.labels);
        let services = self.services_in(&pod.namespace).filter(may_lead);
        services.flat_map(|service| service.ports.iter().map(move |port| (service, port)))
    }

    /// The service that leads from this port of every node to a pod, and the pod's port.
    #[must_use]
    pub fn service_with_node_port(&self, id: PodId, protocol: Protocol, number: u16) -> Option<(&Service, u16)> {
        let (service, port) = self.behind_node_port(protocol, number)?;
        Some((service, self.port_of_backend(service, port, id)?))
    }

    /// The service, its port and the pod's, where this port is a service's and leads to another one of
    /// the pod, which does not declare this one.
    #[must_use]
    pub fn service_with_port(
        &self,
        id: PodId,
        protocol: Protocol,
        number: u16,
    ) -> Option<(&Service, &ServicePort, u16)> {
        let is_declared = self.pod(id).declared_ports(protocol).any(|declared| declared == number);
        if is_declared {
            return None;
        }
        self.services_by_another_port(id).find(|(_, port, _)| (port.protocol, port.port) == (protocol, number))
    }

    /// The port of a pod to which a port of a service leads, if it leads to the pod.
    fn port_of_backend(&self, service: &Service, port: &ServicePort, id: PodId) -> Option<u16> {
        let slices = self.slices(service);
        if slices.is_empty() {
            return service.selects(self.pod(id)).then(|| target(port, &self.pod(id).ports))?;
        }
        let pod = self.pod(id);
        // Most endpoints are quickly seen to be others.
        let may_be_it = |of: &SliceEndpoint| {
            let is_named = |(namespace, name): &(String, String)| {
                *namespace == pod.namespace && (*name == pod.name || pod.stands_for(name))
            };
            pod.addresses().any(|address| address == of.address) || of.pod.as_ref().is_some_and(is_named)
        };
        let is_it = |of: &SliceEndpoint| may_be_it(of) && self.end_of(of) == BackendEnd::Pod(id);
        let leading = slices.iter().filter(|slice| slice.endpoints.iter().any(is_it));
        let mut ports = leading.flat_map(|slice| &slice.ports);
        ports.find(|of| of.is_of(port)).map(|of| of.port)
    }

    /// The pods that have a host port, and whether it leads to them at an address of a node.
    pub fn host_ports_at(&self, address: IpAddr) -> impl Iterator<Item = (PodId, &HostPort, HostPortAt)> {
        let at = move |id: PodId, pod: &Pod, port: &HostPort| match &pod.node {
            _ if port.address.is_some_and(|only| only != address) => HostPortAt::OtherAddress,
            _ if pod.is_on_every_node() => HostPortAt::Here,
            None => HostPortAt::Perhaps,
            Some(_) if self.is_own_node(id, address) => HostPortAt::Here,
            Some(_) => HostPortAt::OtherNode,
        };
        self.endpoints().flat_map(move |(id, pod)| pod.host_ports.iter().map(move |port| (id, port, at(id, pod, port))))
    }

    /// Whether all of a service's EndpointSlices were read. Where the API server refuses to list
    /// them, those of a selector are worked out.
    fn knows_slices(&self, service: &Service) -> Option<()> {
        (self.unread_slices(service).next().is_none()).then_some(())
    }

    pub(super) fn slices(&self, service: &Service) -> &[EndpointSlice] {
        let found = self.inventory.endpoint_slices.get(&(service.namespace.clone(), service.name.clone()));
        found.map_or(&[], Vec::as_slice)
    }

    /// Whether it is known which pods a service's selector selects; none where it has no
    /// selector.
    fn knows_pods_of(&self, service: &Service) -> Option<()> {
        service.selector.as_ref()?;
        matches!(self.why_unknown(service), WhyUnknown::NoPod).then_some(())
    }

    /// The pods that a service's selector selects and that are not finished.
    pub(super) fn selected_by<'a>(&'a self, service: &'a Service) -> impl Iterator<Item = (PodId, &'a Pod)> {
        self.pods().filter(move |(_, pod)| !pod.finished && service.selects(pod))
    }

    /// The pod that has an endpoint's address, or the address. hostNetwork pods
    /// share its address, so of these the one that the slice names is meant. Where the input
    /// has a workload in place of its pods, the pod that stands for it is meant.
    fn end_of(&self, endpoint: &SliceEndpoint) -> BackendEnd {
        if let [pod] = self.holders(endpoint.address, self.node_of_contested(endpoint.address)) {
            return BackendEnd::Pod(*pod);
        }
        let Some((namespace, name)) = &endpoint.pod else { return BackendEnd::Address(endpoint.address) };
        let is_named = |(_, pod): &(PodId, &Pod)| {
            let has_no_address = pod.host_network || pod.addresses().next().is_none();
            (&pod.namespace, &pod.name) == (namespace, name) && has_no_address && !pod.finished
        };
        let stands_for = |(_, pod): &(PodId, &Pod)| pod.namespace == *namespace && pod.stands_for(name);
        let found = self.pods().find(is_named).or_else(|| self.pods().find(stands_for));
        found.map_or(BackendEnd::Address(endpoint.address), |(id, _)| BackendEnd::Pod(id))
    }
}

impl State {
    /// As the controller of EndpointSlices would write it.
    fn of(pod: &Pod, service: &Service) -> Self {
        match (pod.not_ready, pod.terminating) {
            // What has no address is in no slice.
            (true, _) if !pod.host_network && pod.addresses().next().is_none() => Self::Not,
            _ if service.routing.publishes_not_ready => Self::Ready,
            (true, _) => Self::Not,
            (false, true) => Self::ServesUntilGone,
            (false, false) => Self::Ready,
        }
    }

    fn of_slice(endpoint: &SliceEndpoint) -> Self {
        match (endpoint.is_ready, endpoint.serves_until_gone) {
            (true, _) => Self::Ready,
            (false, true) => Self::ServesUntilGone,
            (false, false) => Self::Not,
        }
    }
}

/// The families of a service's addresses: kube-proxy reads the slices of no other.
fn families(service: &Service) -> impl Iterator<Item = Family> {
    let only = service.routing.only_family;
    Family::ALL.into_iter().filter(move |family| only.is_none_or(|only| only == *family))
}

/// Whether a pod is in the slices of a family: it has an address of it, or none yet.
fn may_have(pod: &Pod, family: Family) -> bool {
    pod.address(family).is_some() || pod.addresses().next().is_none()
}

/// The backends of each family together; one of both has no only family.
fn of_both_families(mut backends: Vec<Backend>) -> Vec<Backend> {
    backends.sort_unstable();
    backends.dedup_by(|next, of| {
        let is_same = (next.end, next.port) == (of.end, of.port);
        if is_same && next.family != of.family {
            of.family = None;
        }
        is_same
    });
    backends
}

/// The listed endpoints that kube-proxy uses; for a headless service, those that DNS answers with.
fn in_use<T>(service: &Service, listed: impl Iterator<Item = (T, State)>) -> Vec<T> {
    let (mut ready, mut until_gone) = (Vec::new(), Vec::new());
    for (end, state) in listed {
        match state {
            State::Ready => ready.push(end),
            State::ServesUntilGone if !service.routing.is_headless => until_gone.push(end),
            State::ServesUntilGone | State::Not => {}
        }
    }
    if ready.is_empty() { until_gone } else { ready }
}

/// The number that `targetPort` means in a pod with these ports: of several of one name
/// and protocol, that of the container that is listed first.
fn target(port: &ServicePort, ports: &[ContainerPort]) -> Option<u16> {
    match &port.target {
        TargetPort::Number(number) => Some(*number),
        TargetPort::Name(name) => ports.iter().find(|of| of.is_named(port.protocol, name)).map(|of| of.port),
    }
}

#[cfg(test)]
mod tests;
