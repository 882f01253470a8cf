//! EndpointSlices: where a Service leads, as its controller or an operator wrote it down.
//!
//! <https://kubernetes.io/docs/concepts/services-networking/endpoint-slices/>

use std::net::IpAddr;

use k8s_openapi::api::core::v1 as core;
use k8s_openapi::api::discovery::v1 as discovery;

use super::{Protocol, ServicePort, parse_address};

/// The label of an EndpointSlice with the name of its Service.
const SERVICE_NAME_LABEL: &str = "kubernetes.io/service-name";

/// A part of the places to which a Service leads.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EndpointSlice {
    /// `metadata.namespace`
    pub namespace: String,
    /// `metadata.name`
    pub name: String,
    /// The name of its Service, from the label `kubernetes.io/service-name`; empty where it
    /// has none or is of `addressType: FQDN`, and then no Service leads here.
    pub service: String,
    /// `ports`
    pub ports: Vec<SlicePort>,
    /// `endpoints`, those with an IP address.
    pub endpoints: Vec<SliceEndpoint>,
    /// It stands for a part of an Endpoints object. A controller makes slices from Endpoints only if the Service has no
    /// selector. Endpoints have one family only.
    pub of_endpoints: bool,
}

/// A port of an EndpointSlice.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SlicePort {
    /// `name`: that of the Service's port.
    pub name: Option<String>,
    /// `protocol`
    pub protocol: Protocol,
    /// `port`: where the endpoints listen.
    pub port: u16,
}

impl SlicePort {
    /// Whether it says where a port of its Service leads.
    pub(crate) fn is_of(&self, port: &ServicePort) -> bool {
        self.name == port.name && self.protocol == port.protocol
    }
}

/// An endpoint of an EndpointSlice.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SliceEndpoint {
    /// The first of `addresses`; kube-proxy does not read the others.
    pub address: IpAddr,
    /// `conditions.ready`: it gets new connections.
    pub is_ready: bool,
    /// It is terminating and `conditions.serving` is set: it gets new connections where no
    /// endpoint of the Service is ready.
    pub serves_until_gone: bool,
    /// The namespace and name of the pod that `targetRef` names.
    pub pod: Option<(String, String)>,
    /// `nodeName`
    pub node: Option<String>,
}

fn pod_of(reference: Option<core::ObjectReference>, namespace: &str) -> Option<(String, String)> {
    let reference = reference.filter(|reference| reference.kind.as_deref() == Some("Pod"))?;
    Some((reference.namespace.unwrap_or_else(|| namespace.to_owned()), reference.name?))
}

fn port(name: Option<String>, protocol: Option<&str>, number: i32) -> Option<SlicePort> {
    Some(SlicePort {
        name: name.filter(|name| !name.is_empty()),
        protocol: Protocol::parse(protocol.unwrap_or("TCP"))?,
        port: u16::try_from(number).ok().filter(|port| *port > 0)?,
    })
}

impl From<discovery::EndpointSlice> for EndpointSlice {
    fn from(slice: discovery::EndpointSlice) -> Self {
        let metadata = slice.metadata;
        let namespace = metadata.namespace.unwrap_or_else(|| "default".to_owned());
        let endpoint = |endpoint: discovery::Endpoint| {
            let conditions = endpoint.conditions.unwrap_or_default();
            // What is absent means ready, serving as ready, and not terminating.
            let is_ready = conditions.ready.unwrap_or(true);
            let serves_until_gone = conditions.terminating.unwrap_or(false) && conditions.serving.unwrap_or(is_ready);
            let address = endpoint.addresses.first().and_then(|text| parse_address(text))?;
            let pod = pod_of(endpoint.target_ref, &namespace);
            Some(SliceEndpoint { address, is_ready, serves_until_gone, pod, node: endpoint.node_name })
        };
        let endpoints = slice.endpoints.into_iter().flatten().filter_map(endpoint).collect();
        let ports = slice.ports.into_iter().flatten();
        // kube-proxy reads no slice of DNS names, so it says nothing about where a Service leads.
        let service = metadata.labels.filter(|_| slice.address_type != "FQDN");
        Self {
            service: service.and_then(|mut labels| labels.remove(SERVICE_NAME_LABEL)).unwrap_or_default(),
            name: metadata.name.unwrap_or_default(),
            ports: ports.filter_map(|of| port(of.name, of.protocol.as_deref(), of.port?)).collect(),
            endpoints,
            namespace,
            of_endpoints: false,
        }
    }
}

impl EndpointSlice {
    /// The slices that a controller of Kubernetes makes of an Endpoints object, which bears
    /// its Service's name: one for each of its subsets.
    #[must_use]
    pub fn of_endpoints(endpoints: core::Endpoints) -> Vec<Self> {
        let namespace = endpoints.metadata.namespace.unwrap_or_else(|| "default".to_owned());
        let name = endpoints.metadata.name.unwrap_or_default();
        let slice = |(number, subset): (usize, core::EndpointSubset)| {
            let made = |addresses: Option<Vec<core::EndpointAddress>>, is_ready| {
                let made = |of: core::EndpointAddress| {
                    let (address, pod) = (parse_address(&of.ip)?, pod_of(of.target_ref, &namespace));
                    Some(SliceEndpoint { address, is_ready, serves_until_gone: false, pod, node: of.node_name })
                };
                addresses.into_iter().flatten().filter_map(made).collect::<Vec<_>>()
            };
            let ports = subset.ports.into_iter().flatten();
            Self {
                namespace: namespace.clone(),
                name: format!("{name}-{number}"),
                service: name.clone(),
                ports: ports.filter_map(|of| port(of.name, of.protocol.as_deref(), of.port)).collect(),
                endpoints: [made(subset.addresses, true), made(subset.not_ready_addresses, false)].concat(),
                of_endpoints: true,
            }
        };
        endpoints.subsets.into_iter().flatten().enumerate().map(slice).collect()
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn slice(endpoints: &serde_json::Value) -> EndpointSlice {
        let object = json!({
            "metadata": {"namespace": "shop", "name": "api-x", "labels": {"kubernetes.io/service-name": "api"}},
            "addressType": "IPv4",
            "ports": [{"name": "", "port": 6443}, {"name": "dns", "protocol": "UDP", "port": 53}, {"name": "all"}],
            "endpoints": endpoints,
        });
        serde_json::from_value::<discovery::EndpointSlice>(object).expect("an EndpointSlice").into()
    }

    #[test]
    fn absent_conditions_mean_ready_and_a_terminating_endpoint_serves_if_it_says_so() {
        let conditions = [
            (json!({}), (true, false)),
            (json!({"ready": false}), (false, false)),
            (json!({"ready": false, "terminating": true}), (false, false)),
            (json!({"ready": false, "serving": true, "terminating": true}), (false, true)),
        ];
        for (conditions, expected) in conditions {
            let slice = slice(&json!([{"addresses": ["192.0.2.1", "192.0.2.2"], "conditions": conditions}]));
            let [endpoint] = slice.endpoints.as_slice() else { panic!("{slice:?}") };
            assert_eq!((endpoint.is_ready, endpoint.serves_until_gone), expected, "{conditions}");
            assert_eq!(endpoint.address.to_string(), "192.0.2.1");
        }
    }

    #[test]
    fn a_slice_names_its_service_its_ports_and_its_pods() {
        let target = json!({"kind": "Pod", "name": "api-1"});
        let slice = slice(&json!([{"addresses": ["192.0.2.1"], "targetRef": target}, {"addresses": ["a.example"]}]));
        assert_eq!((slice.namespace.as_str(), slice.service.as_str()), ("shop", "api"));
        let ports: Vec<_> = slice.ports.iter().map(|port| (port.name.as_deref(), port.protocol, port.port)).collect();
        assert_eq!(ports, [(None, Protocol::Tcp, 6443), (Some("dns"), Protocol::Udp, 53)]);
        let pods: Vec<_> = slice.endpoints.iter().map(|endpoint| endpoint.pod.clone()).collect();
        assert_eq!(pods, [Some(("shop".to_owned(), "api-1".to_owned()))]);
    }

    #[test]
    fn an_endpoints_object_is_a_slice_for_each_subset() {
        let object = json!({
            "metadata": {"namespace": "shop", "name": "legacy"},
            "subsets": [{"addresses": [{"ip": "192.0.2.1"}], "notReadyAddresses": [{"ip": "192.0.2.2"}], "ports": [{"port": 80}]}],
        });
        let slices = EndpointSlice::of_endpoints(serde_json::from_value(object).expect("Endpoints"));
        let [slice] = slices.as_slice() else { panic!("{slices:?}") };
        assert_eq!((slice.service.as_str(), slice.ports[0].port), ("legacy", 80));
        assert_eq!(slice.endpoints.iter().map(|endpoint| endpoint.is_ready).collect::<Vec<_>>(), [true, false]);
    }
}
