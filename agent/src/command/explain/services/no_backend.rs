//! Why a flow by a Service cannot be: it leads nowhere, has no such port, or takes no such client.

use std::borrow::Cow;
use std::io::{self, Write};

use npc_compiler::cluster::without_backend::{NoBackend, NoPod};
use npc_compiler::object::{Service, ServicePort, TargetPort};
use npc_compiler::verdict::explain::{Flow, ReasonCode};

use super::text;
use crate::command::explain::traffic::traffic;
use crate::command::explain::words::workload;
use crate::command::input::Input;
use crate::command::words::{count_field, shorten};

/// At most this many nodes, workloads or ranges are named.
const NAMED: usize = 3;

/// The Service of a flow that cannot be: the one that it goes through, or its source.
fn service<'i>(input: &'i Input, flow: &Flow) -> Option<&'i Service> {
    let (namespace, name) = match &flow.via {
        Some(via) => (&via.namespace, &via.name),
        None => (flow.from.namespace.as_ref()?, &flow.from.name),
    };
    input.cluster.service(namespace, name)
}

/// Where the Service says what makes the flow impossible, with a mark on it.
pub(in crate::command::explain) fn draw(input: &Input, flow: &Flow, out: &mut impl Write) -> io::Result<()> {
    let (Some(service), Some(code)) = (service(input, flow), flow.broken) else { return Ok(()) };
    let (path, text) = cause(service, flow, code);
    text::draw(input, service, &path, text.as_deref().map(|text| (path.as_str(), text)), out)
}

/// Why the Service of a flow leads nowhere.
fn why(flow: &Flow) -> Option<Cow<'_, NoBackend>> {
    match &flow.without_pod {
        Some(why) => Some(Cow::Owned(NoBackend::NoPod(why.clone()))),
        None => flow.via.as_ref()?.without_backend.as_ref().map(Cow::Borrowed),
    }
}

/// The field of the Service that makes the flow impossible, and what is said of it; nothing if another
/// object decides.
fn cause(service: &Service, flow: &Flow, code: ReasonCode) -> (String, Option<String>) {
    let field = |path: &str, text: Option<String>| (path.to_owned(), text);
    match (code, why(flow).as_deref()) {
        (ReasonCode::ServicePortUnknown, _) => {
            field("spec.ports", Some(format!("wants one of these, there is {}", traffic(&flow.traffic))))
        }
        (ReasonCode::ServiceSourceRanges, _) => {
            field("spec.loadBalancerSourceRanges", Some("the client is in none of these".to_owned()))
        }
        (_, Some(NoBackend::NoPort { protocol, name, other_protocol })) => {
            // Ports of two protocols may have one number.
            let target = TargetPort::Name(name.clone());
            let asked = flow.via.as_ref().and_then(|via| via.port);
            let is_it = |port: &ServicePort| {
                asked.is_none_or(|asked| asked == port.port) && port.protocol == *protocol && port.target == target
            };
            let place = service.ports.iter().position(is_it).unwrap_or_default();
            let which = other_protocol.map(|_| format!("{protocol} ")).unwrap_or_default();
            let text = format!("no pod has a {which}port named {name}");
            field(&format!("spec.ports[{place}].targetPort"), Some(text))
        }
        (_, Some(NoBackend::OtherNode { is_internal, .. } | NoBackend::NoNodeName { is_internal })) => {
            let path = if *is_internal { "spec.internalTrafficPolicy" } else { "spec.externalTrafficPolicy" };
            field(path, Some("a node leads to its own pods only".to_owned()))
        }
        (_, Some(NoBackend::NoPod(why))) if service.selector.is_some() => {
            let selects_none = *why != NoPod::NoEndpoint;
            field("spec.selector", selects_none.then(|| "selects no pod that could be a backend".to_owned()))
        }
        _ if service.selector.is_some() => field("spec.selector", None),
        _ => field("spec", None),
    }
}

/// What there is to say of it.
pub(in crate::command::explain) fn notes(input: &Input, flow: &Flow) -> Vec<String> {
    let Some(service) = service(input, flow) else { return Vec::new() };
    match flow.broken {
        Some(ReasonCode::ServicePortUnknown) => asked_target_port(input, service, flow).into_iter().collect(),
        Some(ReasonCode::ServiceSourceRanges) => vec![format!(
            "kube-proxy drops what comes to the load balancer's address from elsewhere than {}, from pods too; no policy \
             is asked",
            shorten(&service.routing.source_ranges, NAMED, ", ")
        )],
        Some(ReasonCode::ServiceNoBackends) => {
            why(flow).map(|why| without_backend(input, service, &why)).into_iter().collect()
        }
        _ => Vec::new(),
    }
}

/// That the port that was asked for is the nodePort of one, or the targetPort.
fn asked_target_port(input: &Input, service: &Service, flow: &Flow) -> Option<String> {
    let (protocol, asked, last) = flow.traffic.single()?;
    if asked == last && service.routing.node_ports.contains_key(&(protocol, asked)) {
        return Some(format!("{asked} is its nodePort: ask about node/NAME:{asked}"));
    }
    let is_named = |name: &str| {
        let pods = input.cluster.pods().map(|(_, pod)| pod);
        let mut pods = pods.filter(|pod| pod.namespace == service.namespace && service.asks_for(&pod.labels));
        pods.any(|pod| pod.ports.iter().any(|of| of.port == asked && of.is_named(protocol, name)))
    };
    let is_target = |target: &TargetPort| match target {
        TargetPort::Number(number) => asked == last && *number == asked,
        TargetPort::Name(name) => asked == last && is_named(name),
    };
    let port = service.ports.iter().find(|port| port.protocol == protocol && is_target(&port.target))?;
    let Service { namespace, name, .. } = service;
    Some(format!(
        "{asked} is the targetPort of its port {0}: clients ask for {0}, and policies see {asked}; ask about \
         {namespace}/svc/{name}:{0}",
        port.port
    ))
}

/// Why a service leads to no backend.
pub(in crate::command) fn without_backend(input: &Input, service: &Service, why: &NoBackend) -> String {
    match why {
        NoBackend::NoPod(why) => no_pod(input, service, why),
        NoBackend::NoPort { protocol, name, other_protocol: Some(other) } => format!(
            "no pod that its selector selects has a {protocol} port named {name}, which its targetPort asks for; their port \
             {name} is {other}"
        ),
        NoBackend::NoPort { name, other_protocol: None, .. } => {
            let quoted = name.bytes().all(|byte| byte.is_ascii_digit());
            let help = if quoted { "; in quotes it is a name: write it without quotes" } else { "" };
            format!("no pod that its selector selects has a port named {name}, which its targetPort asks for{help}")
        }
        NoBackend::NotReady(1) => "the one endpoint that it has is not ready".to_owned(),
        NoBackend::NotReady(count) => format!("none of its {count} endpoints is ready"),
        NoBackend::OtherFamily(family) => format!(
            "none of its backends has an {family} address, and kube-proxy leads an {family} address to those that have one"
        ),
        NoBackend::NoNodeName { is_internal } => {
            let field = if *is_internal { "internalTrafficPolicy" } else { "externalTrafficPolicy" };
            format!(
                "its {field} is Local, and its EndpointSlices have no nodeName: kube-proxy of each node takes such an \
                 endpoint for another node's"
            )
        }
        NoBackend::OtherNode { is_internal, nodes } => {
            let field = if *is_internal { "internalTrafficPolicy" } else { "externalTrafficPolicy" };
            let which = if *is_internal { "the client's node" } else { "this node" };
            let nodes = match nodes.as_slice() {
                [] => "elsewhere".to_owned(),
                nodes => format!("on {}", shorten(nodes, NAMED, ", ")),
            };
            format!("its {field} is Local, so {which} leads to its own pods only, and the backends are {nodes}")
        }
    }
}

/// Why a service has no endpoint at all.
fn no_pod(input: &Input, service: &Service, why: &NoPod) -> String {
    let labels = service.selector.iter().flatten().map(|(key, value)| format!("{key}={value}"));
    let labels = labels.collect::<Vec<_>>().join(",");
    let none = format!("its selector selects no pod: no pod has the labels {labels}");
    match why {
        NoPod::NoEndpoint => "its EndpointSlices list no endpoint for this port".to_owned(),
        NoPod::NoSelector => "it has no selector, and no EndpointSlice".to_owned(),
        NoPod::WorkloadWithoutPods((namespace, of)) => {
            let (name, number) = (workload(namespace, of), count_field(&of.kind));
            format!("its selector selects no pod: {name} has these labels, and its {number} is 0")
        }
        NoPod::Finished => "all pods that its selector selects have finished".to_owned(),
        NoPod::Near { pod, key, value } => {
            let pod = input.cluster.pod(*pod);
            let has = match value {
                Some(value) => format!("has {key}={value}"),
                None => format!("has no label {key}"),
            };
            let near = match &pod.workload {
                Some(of) => format!("{} {has} in its template", workload(&pod.namespace, of)),
                None => format!("{}/pod/{} {has}", pod.namespace, pod.name),
            };
            format!("its selector selects no pod: it selects {labels}; {near}")
        }
        NoPod::OtherNamespaces(elsewhere) => format!(
            "{none} in namespace {}; pods of namespace {} have them, and a Service selects in its own only",
            service.namespace,
            shorten(elsewhere, NAMED, ", ")
        ),
        NoPod::NoPod => none,
    }
}
