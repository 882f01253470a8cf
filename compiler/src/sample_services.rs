//! Random clusters with Services before their pods, and with what else decides where a flow leads:
//! EndpointSlices, node ports, hostNetwork and host ports, pods that are not ready, have finished or are
//! on no node yet, two nodes, both families.

#![allow(clippy::unwrap_used, reason = "a test that cannot read its own input has failed")]

use std::net::IpAddr;

use proptest::prelude::*;
use proptest::sample::{select, subsequence};

use crate::object::{
    EndpointSlice, Exposure, Family, HostPort, Labels, Node, Objects, Protocol, Routing, Service, ServicePort,
    SliceEndpoint, SlicePort, TargetPort,
};
use crate::sample::objects;

/// The addresses of the nodes, IPv4 first.
const NODES: [[&str; 2]; 2] = [["192.0.2.1", "2001:db8:a::1"], ["192.0.2.2", "2001:db8:a::2"]];

fn address(text: &str) -> IpAddr {
    text.parse().unwrap()
}

fn ports() -> impl Strategy<Value = Vec<ServicePort>> {
    let port = |name: &str, protocol, port, target| ServicePort { name: Some(name.to_owned()), protocol, port, target };
    let named = |name: &str| TargetPort::Name(name.to_owned());
    let all = vec![
        port("web", Protocol::Tcp, 80, TargetPort::Number(8080)),
        port("http", Protocol::Tcp, 81, named("http")),
        port("dns", Protocol::Udp, 53, named("dns")),
        port("low", Protocol::Tcp, 443, TargetPort::Number(80)),
    ];
    subsequence(all, 1..=3)
}

fn routing() -> impl Strategy<Value = Routing> {
    let family = proptest::option::weighted(0.2, select(Family::ALL.to_vec()));
    (prop::bool::weighted(0.2), prop::bool::weighted(0.2), prop::bool::weighted(0.15), family).prop_map(
        |(is_node_local, publishes_not_ready, is_headless, only_family)| Routing {
            is_node_local,
            publishes_not_ready,
            is_headless,
            only_family,
            ..Routing::default()
        },
    )
}

fn service() -> impl Strategy<Value = Service> {
    let labels = subsequence(vec![("app", "a"), ("tier", "x"), ("role", "b")], 1..=2);
    let selector = proptest::option::weighted(0.85, labels);
    let exposure = select(vec![Exposure::Inside, Exposure::AnyNode, Exposure::OwnNode]);
    (select(vec!["ns", "b"]), selector, ports(), exposure, routing()).prop_map(
        |(namespace, selector, ports, exposure, routing)| Service {
            namespace: namespace.to_owned(),
            name: String::new(),
            selector: selector
                .map(|labels| labels.into_iter().map(|(k, v)| (k.to_owned(), v.to_owned())).collect::<Labels>()),
            addresses: Vec::new(),
            ports,
            exposure,
            routing,
        },
    )
}

/// The endpoints of a slice, which may be those of pods, a node or an address outside.
fn endpoints() -> impl Strategy<Value = Vec<SliceEndpoint>> {
    let addresses =
        vec!["10.0.0.1", "10.0.0.2", "10.0.0.200", "203.0.113.7", "192.0.2.1", "2001:db8::1", "2001:db8::2"];
    let endpoint = (select(addresses), prop::bool::ANY, prop::bool::ANY).prop_map(|(text, is_ready, serves)| {
        let serves_until_gone = serves && !is_ready;
        SliceEndpoint { address: address(text), is_ready, serves_until_gone, pod: None, node: None }
    });
    proptest::collection::vec(endpoint, 0..4)
}

fn slice(number: usize, service: &Service, endpoints: Vec<SliceEndpoint>) -> EndpointSlice {
    let port = |port: &ServicePort| SlicePort {
        name: port.name.clone(),
        protocol: port.protocol,
        port: match port.target {
            TargetPort::Number(number) => number,
            TargetPort::Name(_) => 8080,
        },
    };
    EndpointSlice {
        namespace: service.namespace.clone(),
        name: format!("{}-{number}", service.name),
        service: service.name.clone(),
        ports: service.ports.iter().map(port).collect(),
        endpoints,
        of_endpoints: false,
    }
}

/// What a pod is besides: not ready, finished, with a host port, on no node yet where it is a template.
type Traits = (bool, bool, bool, bool);

/// Random clusters with Services.
pub(crate) fn objects_with_services() -> impl Strategy<Value = Objects> {
    let services = proptest::collection::vec((service(), proptest::option::weighted(0.25, endpoints())), 1..4);
    let traits = (prop::bool::weighted(0.15), prop::bool::weighted(0.1), prop::bool::weighted(0.2), prop::bool::ANY);
    let traits = proptest::collection::vec(traits, 7);
    (objects(), services, traits, prop::bool::ANY).prop_map(|(mut objects, services, traits, is_dual)| {
        objects.nodes = nodes(&objects, is_dual);
        for (pod, traits) in objects.pods.iter_mut().zip(traits) {
            let (not_ready, finished, has_host_port, is_unbound): Traits = traits;
            (pod.not_ready, pod.finished) = (not_ready, finished);
            pod.node.take_if(|_| is_unbound && pod.uid.is_empty() && pod.workload.is_some());
            if has_host_port {
                pod.host_ports =
                    Box::new([HostPort { protocol: Protocol::Tcp, host_port: 9080, port: 80, address: None }]);
            }
            if pod.host_network && (pod.ipv4.is_some() || pod.ipv6.is_some()) {
                let place = usize::from(pod.node.as_deref() == Some("n1"));
                pod.ipv4 = NODES[place][0].parse().ok();
                pod.ipv6 = NODES[place][1].parse().ok().filter(|_| is_dual);
            }
        }
        for (place, (mut service, endpoints)) in services.into_iter().enumerate() {
            service.name = format!("s{place}");
            if service.routing.is_headless {
                service.exposure = Exposure::Inside;
            } else {
                service.addresses = vec![address(&format!("10.96.0.{}", place + 1))];
            }
            if service.exposure != Exposure::Inside {
                let ports = (30_000 + 10 * u16::try_from(place).unwrap()..).zip(&service.ports);
                service.routing.node_ports = ports.map(|(number, of)| ((of.protocol, number), of.port)).collect();
            }
            if let Some(endpoints) = endpoints {
                objects.endpoint_slices.push(slice(place, &service, endpoints));
            }
            objects.services.push(service);
        }
        objects
    })
}

fn nodes(objects: &Objects, is_dual: bool) -> Vec<Node> {
    let pod_cidrs = objects.nodes.first().map(|node| node.pod_cidrs.clone()).unwrap_or_default();
    let of = |place: usize| Node {
        name: format!("n{place}"),
        addresses: NODES[place].iter().take(1 + usize::from(is_dual)).map(|text| address(text)).collect(),
        pod_cidrs: if place == 0 { pod_cidrs.clone() } else { Vec::new() },
    };
    vec![of(0), of(1)]
}
