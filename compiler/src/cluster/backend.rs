//! From a Service to the places that kube-proxy sends its traffic to. Every command that
//! follows a Service asks here.
//!
//! The Service's EndpointSlices decide where the input has any. Where it has none and the
//! Service has a selector, this works out what the controller of EndpointSlices would
//! write: all pods that the selector selects, in their node's network or in their own,
//! without those that are finished, and with a named `targetPort` resolved in each. A pod is
//! ready unless its status says that it is not, or it is being deleted; a file may have no
//! status. Where the Service has no selector either, the input does not say where it leads.
//!
//! kube-proxy takes, for each address family, the endpoints of a port that are ready; if
//! there is none, those that are terminating and still serve
//! (<https://kubernetes.io/docs/concepts/services-networking/service/#terminating-endpoints>).

use std::collections::BTreeMap;
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
    /// Where a service leads by whichever port; `None` where the input does not say.
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
                behind.extend(in_use(of_family.map(|(id, pod)| (BackendEnd::Pod(*id), State::of(pod, service)))));
            }
            behind.sort_unstable();
            behind.dedup();
            return Some(behind);
        }
        let mut behind = Vec::new();
        for family in families(service) {
            let endpoints = slices.iter().flat_map(|slice| &slice.endpoints);
            let endpoints = endpoints.filter(|of| Family::of(&of.address) == family);
            behind.extend(in_use(endpoints.map(|of| (self.end_of(of), State::of_slice(of)))));
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
        let of_family = |family| in_use(of_family(&listed, family).map(|of| (of.backend, of.state)));
        Some(of_both_families(families(service).flat_map(of_family).collect()))
    }

    /// Where one port of a service leads on each node whose traffic policy is `Local`: kube-proxy
    /// looks at the endpoints of its own node only, so one that is terminating serves there, though
    /// another node has one that is ready.
    #[must_use]
    pub fn local_backends(&self, service: &Service, port: &ServicePort) -> Option<Vec<Backend>> {
        let listed = self.listed(service, port)?;
        let mut backends = Vec::new();
        for family in families(service) {
            let mut by_node = BTreeMap::<Option<&str>, Vec<(Backend, State)>>::new();
            for of in of_family(&listed, family) {
                by_node.entry(of.node).or_default().push((of.backend, of.state));
            }
            backends.extend(by_node.into_values().flat_map(|listed| in_use(listed.into_iter())));
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
                let node = of.node.as_deref().or_else(|| self.node_of_backend(service, backend.end));
                Listed { backend, state: State::of_slice(of), node }
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

    /// The node of a place where a service leads, as far as the input says it.
    #[must_use]
    pub fn node_of_backend(&self, service: &Service, end: BackendEnd) -> Option<&str> {
        match end {
            BackendEnd::Pod(pod) => self.pod(pod).node.as_deref(),
            BackendEnd::Address(address) => {
                let endpoints = self.slices(service).iter().flat_map(|slice| &slice.endpoints);
                let listed = endpoints.filter(|of| of.address == address).find_map(|of| of.node.as_deref());
                listed.or_else(|| {
                    self.nodes.iter().find(|(_, addresses)| addresses.contains(&address)).map(|(name, _)| name.as_str())
                })
            }
        }
    }

    /// The service and its port to which a port of every node leads.
    #[must_use]
    pub fn behind_node_port(&self, protocol: Protocol, number: u16) -> Option<(&Service, &ServicePort)> {
        self.services().find_map(|service| {
            let port = service.routing.node_ports.get(&(protocol, number))?;
            Some((service, service.ports.iter().find(|of| of.port == *port && of.protocol == protocol)?))
        })
    }

    /// The ports of every node that lead to services.
    pub fn node_ports(&self) -> impl Iterator<Item = (Protocol, u16, &Service)> {
        self.services()
            .flat_map(|service| service.node_ports().map(move |(protocol, number)| (protocol, number, service)))
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
            _ if pod.is_on_each_node() => HostPortAt::Here,
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
        let found = self.endpoint_slices.get(&(service.namespace.clone(), service.name.clone()));
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

    /// The pod that has an endpoint's address, or the address. Pods in a node's network
    /// share its address, so of these the one that the slice names is meant. Where the input
    /// has a workload in place of its pods, the pod that stands for it is meant.
    fn end_of(&self, endpoint: &SliceEndpoint) -> BackendEnd {
        if let [pod] = self.holders(endpoint.address, self.home(endpoint.address)) {
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

/// Those that kube-proxy takes of what is listed.
fn in_use<T>(listed: impl Iterator<Item = (T, State)>) -> Vec<T> {
    let (mut ready, mut until_gone) = (Vec::new(), Vec::new());
    for (end, state) in listed {
        match state {
            State::Ready => ready.push(end),
            State::ServesUntilGone => until_gone.push(end),
            State::Not => {}
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
mod tests {
    use super::*;
    use crate::cluster::without_backend::WhyUnknown;
    use crate::object::{Exposure, Labels, Objects, Routing, SlicePort};
    use crate::sample::pod;

    fn service(port: &ServicePort) -> Service {
        Service {
            namespace: "ns".to_owned(),
            name: "s".to_owned(),
            selector: Some(Labels::from([("app".to_owned(), "a".to_owned())])),
            addresses: Vec::new(),
            ports: vec![port.clone()],
            exposure: Exposure::Inside,
            routing: Routing::default(),
        }
    }

    fn port(target: TargetPort) -> ServicePort {
        ServicePort { name: None, protocol: Protocol::Tcp, port: 80, target }
    }

    fn cluster(pods: &[&str], endpoint_slices: Vec<EndpointSlice>) -> Cluster {
        let mut objects =
            Objects { pods: pods.iter().map(|text| pod(text)).collect(), endpoint_slices, ..Objects::default() };
        objects.declare_namespaces();
        Cluster::new(&objects)
    }

    fn shown(cluster: &Cluster, backends: Option<Vec<Backend>>) -> Vec<String> {
        let end = |end| match end {
            BackendEnd::Pod(pod) => cluster.pod(pod).name.clone(),
            BackendEnd::Address(address) => address.to_string(),
        };
        let Some(backends) = backends else { return vec!["?".to_owned()] };
        backends.into_iter().map(|backend| format!("{}:{}", end(backend.end), backend.port)).collect()
    }

    /// The pods and ports that a service with a selector leads to, as text.
    fn backends(pods: &[&str], target: TargetPort) -> Vec<String> {
        let cluster = cluster(pods, Vec::new());
        let port = port(target);
        shown(&cluster, cluster.backends(&service(&port), &port))
    }

    #[test]
    fn a_terminating_pod_is_a_backend_only_where_no_other_is_left() {
        let number = || TargetPort::Number(8080);
        assert_eq!(backends(&["ns/a app=a 10.0.0.1 terminating", "ns/b app=a 10.0.0.2"], number()), ["b:8080"]);
        assert_eq!(
            backends(&["ns/a app=a 10.0.0.1 terminating", "ns/b app=a 10.0.0.2 finished"], number()),
            ["a:8080"]
        );
        assert_eq!(backends(&["other/a app=a 10.0.0.1", "ns/b app=b 10.0.0.2"], number()), [""; 0]);
    }

    #[test]
    fn a_pod_that_says_that_it_is_not_ready_is_no_backend_unless_the_service_publishes_it() {
        let pods = [
            "ns/a app=a 10.0.0.1 not-ready",
            "ns/b app=a 10.0.0.2",
            "ns/c app=a not-ready",
            "ns/d app=a 10.0.0.4 terminating",
        ];
        let of = |pods: &[&str], publishes_not_ready| {
            let cluster = cluster(pods, Vec::new());
            let port = port(TargetPort::Number(80));
            let routing = Routing { publishes_not_ready, ..Routing::default() };
            let service = Service { routing, ..service(&port) };
            let behind = cluster.behind(&service).map_or(0, |behind| behind.len());
            let backends = shown(&cluster, cluster.backends(&service, &port));
            assert_eq!(behind, backends.len());
            backends
        };
        assert_eq!(of(&pods, false), ["b:80"]);
        assert_eq!(of(&pods, true), ["a:80", "b:80", "d:80"], "what has no address is never one");
        assert_eq!(of(&["ns/a app=a 10.0.0.1 not-ready terminating"], false), [""; 0], "it does not serve");
        assert_eq!(of(&["ns/h app=a hostNetwork 192.0.2.1 not-ready"], false), [""; 0]);
    }

    #[test]
    fn a_label_that_a_controller_adds_leaves_open_which_pods_a_service_has() {
        let pods = ["ns/db StatefulSet/db app=a", "ns/web Deployment/web app=a"];
        let of = |pods: &[&str], value: &str| {
            let cluster = cluster(pods, Vec::new());
            let port = port(TargetPort::Number(80));
            let key = "statefulset.kubernetes.io/pod-name".to_owned();
            let service = Service { selector: Some(Labels::from([(key, value.to_owned())])), ..service(&port) };
            (shown(&cluster, cluster.backends(&service, &port)), cluster.why_unknown(&service))
        };
        let open = (vec!["?".to_owned()], WhyUnknown::LabelsOfControllers(vec!["db".to_owned()]));
        assert_eq!(of(&pods, "db-0"), open);
        assert_eq!(of(&pods, "other-0").0, [""; 0], "no pod of db has that name");
        let live = ["ns/db-0 StatefulSet/db statefulset.kubernetes.io/pod-name=db-0 10.0.0.1"];
        assert_eq!(of(&live, "db-0").0, ["db-0:80"]);
    }

    #[test]
    fn a_pod_in_its_nodes_network_is_a_backend() {
        assert_eq!(backends(&["ns/h app=a hostNetwork 192.0.2.1"], TargetPort::Number(443)), ["h:443"]);
    }

    #[test]
    fn a_named_port_is_that_of_the_first_container_that_has_it() {
        let named = || TargetPort::Name("http".to_owned());
        let pods = ["ns/a app=a :http=9000 :http=8000 :http=53/UDP 10.0.0.1", "ns/b app=a :other=1 10.0.0.2"];
        assert_eq!(backends(&pods, named()), ["a:9000"]);
        // The only pod that has the port is going away, and serves until then.
        let pods = ["ns/a app=a :http=9000 10.0.0.1 terminating", "ns/b app=a :other=1 10.0.0.2"];
        assert_eq!(backends(&pods, named()), ["a:9000"]);
    }

    /// A slice of the service `ns/s`: addresses, each with `+` ready, `~` serving until it is
    /// gone, `-` neither.
    fn slice(endpoints: &[&str], pod: Option<&str>) -> EndpointSlice {
        let endpoint = |text: &&str| SliceEndpoint {
            address: text[1..].parse().expect("an address"),
            is_ready: text.starts_with('+'),
            serves_until_gone: text.starts_with('~'),
            pod: pod.map(|name| ("ns".to_owned(), name.to_owned())),
            node: None,
        };
        EndpointSlice {
            namespace: "ns".to_owned(),
            name: "s-1".to_owned(),
            service: "s".to_owned(),
            ports: vec![SlicePort { name: None, protocol: Protocol::Tcp, port: 6443 }],
            endpoints: endpoints.iter().map(endpoint).collect(),
        }
    }

    #[test]
    fn endpoint_slices_decide_where_there_are_any() {
        let pods = ["ns/a app=a 10.0.0.1", "ns/b app=a 10.0.0.2", "ns/h hostNetwork 192.0.2.1"];
        let by_slices = |slices: Vec<EndpointSlice>| {
            let cluster = cluster(&pods, slices);
            let port = port(TargetPort::Number(8080));
            shown(&cluster, cluster.backends(&service(&port), &port))
        };
        assert_eq!(by_slices(vec![slice(&["+10.0.0.2", "-10.0.0.1", "~10.0.0.9"], None)]), ["b:6443"]);
        assert_eq!(by_slices(vec![slice(&["-10.0.0.2", "~10.0.0.1"], None)]), ["a:6443"]);
        assert_eq!(by_slices(vec![slice(&["+203.0.113.1"], None)]), ["203.0.113.1:6443"]);
        assert_eq!(by_slices(vec![slice(&["+192.0.2.1"], Some("h"))]), ["h:6443"], "a pod in its node's network");
        assert_eq!(by_slices(vec![slice(&["+192.0.2.1"], None)]), ["192.0.2.1:6443"], "only the node is known");
        assert_eq!(by_slices(vec![slice(&[], None)]), [""; 0], "there are slices, and nothing in them");
        let families = slice(&["+192.0.2.9", "~2001:db8::1", "-2001:db8::2"], None);
        assert_eq!(by_slices(vec![families]), ["192.0.2.9:6443", "2001:db8::1:6443"], "each family for itself");
        let other = EndpointSlice { service: "other".to_owned(), ..slice(&["+203.0.113.1"], None) };
        assert_eq!(by_slices(vec![other]), ["a:8080", "b:8080"], "a slice of another Service");
    }

    #[test]
    fn a_node_with_a_local_policy_looks_at_its_own_endpoints() {
        let pods =
            ["ns/a app=a 10.0.0.1 terminating @n1", "ns/b app=a 10.0.0.2 @n2", "ns/c app=a 10.0.0.3 terminating @n2"];
        let cluster = cluster(&pods, Vec::new());
        let port = port(TargetPort::Number(80));
        assert_eq!(shown(&cluster, cluster.backends(&service(&port), &port)), ["b:80"]);
        assert_eq!(shown(&cluster, cluster.local_backends(&service(&port), &port)), ["a:80", "b:80"]);
    }

    #[test]
    fn without_a_selector_and_without_slices_nothing_says_where_a_service_leads() {
        let cluster = cluster(&["ns/a app=a 10.0.0.1"], Vec::new());
        let port = port(TargetPort::Number(8080));
        let service = Service { selector: None, ..service(&port) };
        assert_eq!(cluster.backends(&service, &port), None);
        assert_eq!(cluster.behind(&service), None);
    }
}
