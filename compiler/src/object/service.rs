//! Services: how a client's address and port become a pod's.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use k8s_openapi::api::core::v1 as core;
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;

use super::{Family, Labels, Pod, Protocol, parse_address};

/// A service: how a client's name and port become a pod's address and port. Policies match only the
/// latter.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Service {
    /// `metadata.namespace`
    pub namespace: String,
    /// `metadata.name`
    pub name: String,
    /// `spec.selector`; without one EndpointSlices alone say where the service leads.
    pub selector: Option<Labels>,
    /// `spec.clusterIPs`, external and load-balancer addresses.
    pub addresses: Vec<IpAddr>,
    /// `spec.ports`
    pub ports: Vec<ServicePort>,
    /// How it is reached from outside the cluster.
    pub exposure: Exposure,
    /// How clients reach it besides by its addresses, and which of its backends they get then.
    pub routing: Routing,
}

/// How clients reach a service besides by its addresses, and which of its backends they get.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
#[allow(clippy::struct_excessive_bools, reason = "each is a fact of the API that is independent of the others")]
pub struct Routing {
    /// `externalName` of a service of `type: ExternalName`, which leads to a DNS name and
    /// has neither addresses nor backends.
    pub external_name: Option<String>,
    /// The ports of every node that lead to the service, and the service's port that each
    /// stands for.
    pub node_ports: BTreeMap<(Protocol, u16), u16>,
    /// The protocols of its ports that get a port of every node which the object does not say: the API
    /// server chooses one when the Service is made.
    pub unchosen_node_ports: BTreeSet<Protocol>,
    /// `internalTrafficPolicy: Local`: a pod gets only backends on its own node.
    pub is_node_local: bool,
    /// `publishNotReadyAddresses`: pods that are not ready are backends too.
    pub publishes_not_ready: bool,
    /// `clusterIP: None`: its name leads to its pods' addresses, and kube-proxy does nothing.
    pub is_headless: bool,
    /// The only family of its addresses, from `ipFamilies`, else from `clusterIPs` or `clusterIP`.
    pub only_family: Option<Family>,
    /// It has addresses of one family, and the object does not say which family: it is the
    /// cluster's first one.
    pub is_of_first_family: bool,
    /// Its addresses that are no `clusterIPs`: external ones and a load balancer's.
    pub external_addresses: Vec<IpAddr>,
    /// Those of the external addresses that are the load balancer's. [`Self::source_ranges`] apply to these only.
    pub balancer_addresses: Vec<IpAddr>,
    /// Addresses of load balancers that nodes do not take (`ipMode: Proxy`): traffic goes to the load
    /// balancer, which sends it on.
    pub proxied_addresses: Vec<IpAddr>,
    /// `loadBalancerSourceRanges`: the clients that the load balancer's addresses take; all where
    /// it is empty.
    pub source_ranges: Vec<String>,
}

/// How a service is reached from outside the cluster.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[cfg_attr(not(feature = "internals"), non_exhaustive)]
pub enum Exposure {
    /// Not at all.
    #[default]
    Inside,
    /// By any node (`externalTrafficPolicy: Cluster`): that node sends the
    /// traffic on in its own name.
    AnyNode,
    /// By the nodes of its backends, with the client's address
    /// (`externalTrafficPolicy: Local`).
    OwnNode,
}

/// A port of a service.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServicePort {
    /// `name`
    pub name: Option<String>,
    /// `protocol`
    pub protocol: Protocol,
    /// `port`
    pub port: u16,
    /// `targetPort`: where backends listen; the port itself where absent.
    pub target: TargetPort,
}

/// A service port's `targetPort`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum TargetPort {
    /// A number.
    Number(u16),
    /// The name of a container port, looked up in each backend.
    Name(String),
}

impl Service {
    /// Whether its selector selects a pod: one of its namespace that has all of its labels. Without
    /// a selector it selects none.
    #[must_use]
    pub fn selects(&self, pod: &Pod) -> bool {
        self.namespace == pod.namespace && self.asks_for(&pod.labels)
    }

    /// Whether it has a selector, and labels have what that asks for.
    #[must_use]
    pub fn asks_for(&self, labels: &Labels) -> bool {
        let has = |(key, value): (&String, &String)| labels.get(key) == Some(value);
        self.selector.as_ref().is_some_and(|selector| selector.iter().all(has))
    }

    /// Its namespace and name, as `NAMESPACE/NAME`.
    #[must_use]
    pub fn full_name(&self) -> String {
        format!("{}/{}", self.namespace, self.name)
    }

    /// Whether it may have addresses of a family: kube-proxy of another passes over it.
    #[must_use]
    pub fn has_family(&self, family: Family) -> bool {
        self.routing.only_family.is_none_or(|only| only == family)
    }

    /// The ports of every node that lead to it.
    pub fn node_ports(&self) -> impl Iterator<Item = (Protocol, u16)> {
        self.routing.node_ports.keys().copied()
    }
}

impl From<core::Service> for Service {
    fn from(service: core::Service) -> Self {
        let spec = service.spec.unwrap_or_default();
        let port = |number: i32| u16::try_from(number).ok().filter(|p| *p > 0);
        let is_outside = matches!(spec.type_.as_deref(), Some("NodePort" | "LoadBalancer"))
            || spec.external_ips.as_ref().is_some_and(|ips| !ips.is_empty());
        let gets_node_ports = match spec.type_.as_deref() {
            Some("NodePort") => true,
            Some("LoadBalancer") => spec.allocate_load_balancer_node_ports != Some(false),
            _ => false,
        };
        let exposure = match spec.external_traffic_policy.as_deref() {
            _ if !is_outside => Exposure::Inside,
            Some("Local") => Exposure::OwnNode,
            _ => Exposure::AnyNode,
        };
        let ingress = service.status.and_then(|s| s.load_balancer).and_then(|l| l.ingress).unwrap_or_default();
        let listed = spec.cluster_ips.unwrap_or_default();
        let is_assigned = !listed.is_empty();
        let inside: Vec<String> = listed.into_iter().chain(spec.cluster_ip).collect();
        let is_headless = inside.iter().any(|text| text == "None");
        let has_status = !ingress.is_empty();
        // Nodes know nothing of an address with ipMode Proxy: traffic goes to the load balancer.
        let (proxied, taken): (Vec<_>, Vec<_>) =
            ingress.into_iter().partition(|of| of.ip_mode.as_deref() == Some("Proxy"));
        let proxied_addresses = proxied.into_iter().filter_map(|of| parse_address(&of.ip?)).collect();
        let mut balancer: BTreeSet<IpAddr> = taken.into_iter().filter_map(|of| parse_address(&of.ip?)).collect();
        if !has_status && spec.type_.as_deref() == Some("LoadBalancer") {
            // A file has no status, and names the address that the load balancer is to have.
            balancer.extend(spec.load_balancer_ip.as_deref().and_then(parse_address));
        }
        let external = spec.external_ips.unwrap_or_default();
        let outside = external.iter().filter_map(|text| parse_address(text)).chain(balancer.iter().copied());
        let inside: BTreeSet<IpAddr> = inside.iter().filter_map(|text| parse_address(text)).collect();
        // kube-proxy passes over a Service that has no clusterIP.
        let is_external_name = spec.type_.as_deref() == Some("ExternalName");
        let outside: BTreeSet<IpAddr> = outside.filter(|_| !is_headless && !is_external_name).collect();
        let addresses = inside.union(&outside).copied().collect();
        let said = spec.ip_families.unwrap_or_default();
        let said = said.iter().filter_map(|text| Family::ALL.into_iter().find(|family| family.to_string() == *text));
        let mut families: BTreeSet<Family> = said.collect();
        if families.is_empty() {
            families = inside.iter().map(Family::of).collect();
        }
        // The API's defaults: https://kubernetes.io/docs/concepts/services-networking/dual-stack/
        let is_single_stack = match spec.ip_family_policy.as_deref() {
            Some("PreferDualStack" | "RequireDualStack") => false,
            Some(_) => true,
            None => !is_headless || spec.selector.as_ref().is_some_and(|selector| !selector.is_empty()),
        };
        // Before the API server gives it its addresses, a Service of two families may name one.
        let is_settled = is_single_stack || is_assigned;
        let mut routing = Routing {
            external_name: spec.external_name.filter(|_| is_external_name),
            is_node_local: spec.internal_traffic_policy.as_deref() == Some("Local"),
            publishes_not_ready: spec.publish_not_ready_addresses == Some(true),
            is_headless,
            only_family: families.first().copied().filter(|_| families.len() == 1 && is_settled),
            is_of_first_family: families.is_empty() && is_single_stack && !is_external_name,
            proxied_addresses,
            external_addresses: outside.difference(&inside).copied().collect(),
            balancer_addresses: balancer.difference(&inside).copied().collect(),
            source_ranges: (spec.load_balancer_source_ranges.into_iter().flatten())
                .filter(|_| spec.type_.as_deref() == Some("LoadBalancer"))
                .map(|text| text.trim().to_owned())
                .collect(),
            ..Routing::default()
        };
        let ports = spec.ports.unwrap_or_default().into_iter().filter_map(|p| {
            let number = port(p.port)?;
            let protocol = Protocol::parse(p.protocol.as_deref().unwrap_or("TCP"))?;
            match p.node_port.and_then(port) {
                Some(node_port) if is_outside => drop(routing.node_ports.insert((protocol, node_port), number)),
                None if gets_node_ports => drop(routing.unchosen_node_ports.insert(protocol)),
                _ => {}
            }
            Some(ServicePort {
                // An empty name is none, as in EndpointSlices.
                name: p.name.filter(|name| !name.is_empty()),
                protocol,
                port: number,
                target: match p.target_port {
                    None | Some(IntOrString::Int(0)) => TargetPort::Number(number),
                    Some(IntOrString::Int(target)) => TargetPort::Number(port(target)?),
                    Some(IntOrString::String(name)) => TargetPort::Name(name),
                },
            })
        });
        let ports = ports.collect();
        Self {
            ports,
            exposure,
            routing,
            namespace: service.metadata.namespace.unwrap_or_else(|| "default".to_owned()),
            name: service.metadata.name.unwrap_or_default(),
            selector: spec.selector.filter(|s| !s.is_empty()),
            addresses,
        }
    }
}
