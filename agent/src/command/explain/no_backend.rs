//! Why a flow by a Service cannot be: it leads nowhere, has no such port, or takes no such client.

use std::io::{self, Write};

use npc_compiler::algebra::selector::{Requirement, Selector};
use npc_compiler::cluster::without_backend::NoBackend;
use npc_compiler::object::{Labels, Pod, Protocol, Service, ServicePort, TargetPort};
use npc_compiler::verdict::explain::{Code, Flow, is_slip};

use super::service_text;
use super::traffic::traffic;
use super::words::workload;
use crate::command::endpoint::short_kind;
use crate::command::input::Input;
use crate::command::words::{count_field, shorten};

/// So many nodes, workloads or ranges are named.
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
pub(super) fn draw(input: &Input, flow: &Flow, out: &mut impl Write) -> io::Result<()> {
    let (Some(service), Some(code)) = (service(input, flow), flow.broken) else { return Ok(()) };
    let (path, text) = cause(input, service, flow, code);
    service_text::draw(input, service, &path, text.as_deref().map(|text| (path.as_str(), text)), out)
}

/// The field of the Service that makes the flow impossible, and what is said of it; nothing if another
/// object decides.
fn cause(input: &Input, service: &Service, flow: &Flow, code: Code) -> (String, Option<String>) {
    let field = |path: &str, text: Option<String>| (path.to_owned(), text);
    match (code, flow.via.as_ref().and_then(|via| via.without_backend.as_ref())) {
        (Code::ServicePortUnknown, _) => {
            field("spec.ports", Some(format!("wants one of these, there is {}", traffic(&flow.traffic))))
        }
        (Code::ServiceSourceRanges, _) => {
            field("spec.loadBalancerSourceRanges", Some("the client is in none of these".to_owned()))
        }
        (_, Some(NoBackend::NoPort(protocol, name))) => {
            // Ports of two protocols may have one number.
            let target = TargetPort::Name(name.clone());
            let asked = flow.via.as_ref().and_then(|via| via.port);
            let is_it = |port: &ServicePort| {
                asked.is_none_or(|asked| asked == port.port) && port.protocol == *protocol && port.target == target
            };
            let place = service.ports.iter().position(is_it).unwrap_or_default();
            let which = of_other_protocol(input, service, name).map(|_| format!("{protocol} ")).unwrap_or_default();
            let text = format!("no pod has a {which}port named {name}");
            field(&format!("spec.ports[{place}].targetPort"), Some(text))
        }
        (_, Some(NoBackend::OtherNode { is_internal, .. } | NoBackend::NoNodeName { is_internal })) => {
            let path = if *is_internal { "spec.internalTrafficPolicy" } else { "spec.externalTrafficPolicy" };
            field(path, Some("a node leads to its own pods only".to_owned()))
        }
        (_, None | Some(NoBackend::NoPod)) if service.selector.is_some() => {
            let mut pods = input.cluster.pods().filter(|(_, pod)| !pod.finished);
            let selects_one = pods.any(|(_, pod)| service.selects(pod));
            field("spec.selector", (!selects_one).then(|| "selects no pod that could be a backend".to_owned()))
        }
        _ if service.selector.is_some() => field("spec.selector", None),
        _ => field("spec", None),
    }
}

/// What there is to say of it.
pub(super) fn notes(input: &Input, flow: &Flow) -> Vec<String> {
    let Some(service) = service(input, flow) else { return Vec::new() };
    match flow.broken {
        Some(Code::ServicePortUnknown) => asked_target_port(service, flow).into_iter().collect(),
        Some(Code::ServiceSourceRanges) => vec![format!(
            "kube-proxy drops what comes to the load balancer's address from elsewhere than {}, from pods too; no policy \
             is asked",
            shorten(&service.routing.source_ranges, NAMED, ", ")
        )],
        Some(Code::ServiceNoBackends) => {
            let why = flow.via.as_ref().and_then(|via| via.without_backend.as_ref());
            vec![without_backend(input, service, why.unwrap_or(&NoBackend::NoPod))]
        }
        _ => Vec::new(),
    }
}

/// That the port that was asked for is the nodePort of one, or the targetPort.
fn asked_target_port(service: &Service, flow: &Flow) -> Option<String> {
    let (protocol, asked, last) = flow.traffic.single()?;
    if asked == last && service.routing.node_ports.contains_key(&(protocol, asked)) {
        return Some(format!("{asked} is its nodePort: ask about node/NAME:{asked}"));
    }
    let is_target = |target: &TargetPort| asked == last && *target == TargetPort::Number(asked);
    let port = service.ports.iter().find(|port| port.protocol == protocol && is_target(&port.target))?;
    Some(format!("{asked} is the targetPort of its port {}: clients ask for {0}, and policies see {asked}", port.port))
}

/// Why a service leads to no backend.
pub(super) fn without_backend(input: &Input, service: &Service, why: &NoBackend) -> String {
    match why {
        NoBackend::NoPod => no_pod(input, service),
        NoBackend::NoPort(protocol, name) => {
            let quoted = name.bytes().all(|byte| byte.is_ascii_digit());
            let help = if quoted { "; in quotes it is a name: write it without quotes" } else { "" };
            match of_other_protocol(input, service, name) {
                Some(other) => format!(
                    "no pod that its selector selects has a {protocol} port named {name}, which its targetPort asks for; \
                     their port {name} is {other}"
                ),
                None => {
                    format!(
                        "no pod that its selector selects has a port named {name}, which its targetPort asks for{help}"
                    )
                }
            }
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

/// The protocol of the port of this name that pods of a service have. None has it with the protocol that
/// the service asks for.
fn of_other_protocol(input: &Input, service: &Service, name: &str) -> Option<Protocol> {
    let pods = input.cluster.pods().map(|(_, pod)| pod);
    let mut pods = pods.filter(|pod| !pod.finished && service.selects(pod));
    pods.find_map(|pod| pod.ports.iter().find(|of| of.name == name).map(|of| of.protocol))
}

/// Why a service has no endpoint at all.
fn no_pod(input: &Input, service: &Service) -> String {
    let is_own =
        |of: &npc_compiler::object::EndpointSlice| of.namespace == service.namespace && of.service == service.name;
    let has_slices = input.loaded.objects.endpoint_slices.iter().any(is_own);
    let is_selected = |pod: &Pod| !pod.finished && service.selects(pod);
    // A cluster has an EndpointSlice of every selector, also of one that selects nothing.
    let is_by_selector = service.selector.is_some() && !input.cluster.pods().any(|(_, pod)| is_selected(pod));
    if has_slices && !is_by_selector {
        return "its EndpointSlices list no endpoint for this port".to_owned();
    }
    let Some(labels) = &service.selector else { return "it has no selector, and no EndpointSlice".to_owned() };
    let text = text_of(labels);
    let none = format!("its selector selects no pod: no pod has the labels {text}");
    let mut idle = input.loaded.idle.iter();
    if let Some((of, _)) = idle.find(|(of, has)| of.namespace == service.namespace && service.asks_for(has)) {
        let number = count_field(&of.kind);
        let name = format!("{}/{}/{}", of.namespace, short_kind(&of.kind), of.name);
        return format!("its selector selects no pod: {name} has these labels, and its {number} is 0");
    }
    let pods = || input.cluster.pods().map(|(_, pod)| pod);
    if pods().any(|pod| service.selects(pod)) {
        return "all pods that its selector selects have finished".to_owned();
    }
    let mut near = pods().filter(|pod| pod.namespace == service.namespace && !pod.finished);
    if let Some(near) = near.find_map(|pod| missed_by_one(labels, pod)) {
        return format!("its selector selects no pod: it selects {text}; {near}");
    }
    let elsewhere =
        pods().filter(|pod| !pod.finished && service.asks_for(&pod.labels)).map(|pod| pod.namespace.as_str());
    let mut elsewhere: Vec<String> = elsewhere.map(str::to_owned).collect();
    elsewhere.sort_unstable();
    elsewhere.dedup();
    if elsewhere.is_empty() {
        return none;
    }
    let elsewhere = shorten(&elsewhere, NAMED, ", ");
    format!(
        "{none} in namespace {}; pods of namespace {elsewhere} have them, and a Service selects in its own only",
        service.namespace
    )
}

fn text_of(labels: &Labels) -> String {
    labels.iter().map(|(key, value)| format!("{key}={value}")).collect::<Vec<_>>().join(",")
}

/// What a pod has in place of the one label by which a selector misses it.
fn missed_by_one(selector: &Labels, pod: &Pod) -> Option<String> {
    let parsed = Selector::of_labels(selector);
    let failing: Vec<&Requirement> = parsed.requirements().filter(|of| !of.matches(&pod.labels)).collect();
    let [failing] = failing.as_slice() else { return None };
    if selector.len() == 1 && !is_slip(failing, &pod.labels) {
        return None;
    }
    let has = match pod.labels.get(&failing.key) {
        Some(value) => format!("has {}={value}", failing.key),
        None => format!("has no label {}", failing.key),
    };
    Some(match &pod.workload {
        Some(of) => format!("{} {has} in its template", workload(&pod.namespace, of)),
        None => format!("{}/pod/{} {has}", pod.namespace, pod.name),
    })
}
