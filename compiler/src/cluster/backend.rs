//! From a Service to the pods that kube-proxy sends its traffic to. Every command that
//! follows a Service asks here.
//!
//! Two programs of Kubernetes decide, and this is what they do together. The
//! EndpointSlice controller lists the pods that the selector selects, in their node's
//! network or in their own, without those that are finished. It resolves a named
//! `targetPort` in each pod. kube-proxy takes the endpoints of a port that are ready; if
//! there is none, those that are terminating and still serve
//! (<https://kubernetes.io/docs/concepts/services-networking/service/#terminating-endpoints>).
//!
//! The input does not say which pods are ready, so a pod counts as ready unless it is
//! being deleted.

use super::{Cluster, PodId};
use crate::object::{ContainerPort, Pod, Service, ServicePort, TargetPort};

/// A pod to which a Service's port leads, and the port there.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Backend {
    /// The pod; in its own network or in its node's.
    pub pod: PodId,
    /// The number of the port that traffic goes to.
    pub port: u16,
}

impl Cluster {
    /// The pods to which a service leads by whichever port, in their order.
    #[must_use]
    pub fn pods_behind(&self, service: &Service) -> Vec<PodId> {
        self.in_use(self.listed(service))
    }

    /// The pods to which one port of a service leads, in their order. A pod that has no
    /// port of the name that `targetPort` asks for is none of them.
    #[must_use]
    pub fn backends(&self, service: &Service, port: &ServicePort) -> Vec<Backend> {
        let with_port = self.listed(service).filter(|(_, pod)| target(port, &pod.ports).is_some());
        let pods = self.in_use(with_port).into_iter();
        pods.filter_map(|pod| Some(Backend { pod, port: target(port, &self.pod(pod).ports)? })).collect()
    }

    /// The pods that the EndpointSlices of a service list.
    fn listed<'a>(&'a self, service: &'a Service) -> impl Iterator<Item = (PodId, &'a Pod)> {
        let selects = |pod: &Pod| {
            service.selector.as_ref().is_some_and(|selector| {
                pod.namespace == service.namespace
                    && selector.iter().all(|(key, value)| pod.labels.get(key) == Some(value))
            })
        };
        self.pods().filter(move |(_, pod)| !pod.finished && selects(pod))
    }

    /// Those that kube-proxy takes of what is listed.
    fn in_use<'a>(&self, listed: impl Iterator<Item = (PodId, &'a Pod)>) -> Vec<PodId> {
        let (terminating, ready): (Vec<_>, Vec<_>) = listed.partition(|(_, pod)| pod.terminating);
        let used = if ready.is_empty() { terminating } else { ready };
        used.into_iter().map(|(id, _)| id).collect()
    }
}

/// The number that `targetPort` means in a pod with these ports: of several of one name
/// and protocol, that of the container that is listed first.
fn target(port: &ServicePort, ports: &[ContainerPort]) -> Option<u16> {
    match &port.target {
        TargetPort::Number(number) => Some(*number),
        TargetPort::Name(name) => {
            ports.iter().find(|of| of.name == *name && of.protocol == port.protocol).map(|of| of.port)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::object::{Exposure, Labels, Protocol};
    use crate::sample::cluster;

    fn service(port: &ServicePort) -> Service {
        Service {
            namespace: "ns".to_owned(),
            name: "s".to_owned(),
            selector: Some(Labels::from([("app".to_owned(), "a".to_owned())])),
            addresses: Vec::new(),
            ports: vec![port.clone()],
            exposure: Exposure::Inside,
        }
    }

    fn port(target: TargetPort) -> ServicePort {
        ServicePort { name: None, protocol: Protocol::Tcp, port: 80, target }
    }

    /// The pods and ports that a service leads to, as text.
    fn backends(pods: &[&str], target: TargetPort) -> Vec<String> {
        let cluster = cluster(pods, &[]);
        let port = port(target);
        let found = cluster.backends(&service(&port), &port);
        found.iter().map(|backend| format!("{}:{}", cluster.pod(backend.pod).name, backend.port)).collect()
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
}
