//! Ports of a Service or of another container than the one that was meant.

use npc_compiler::object::TargetPort;
use npc_compiler::verdict::explain::{Candidate, Code, Flow, Party, Want};
use npc_compiler::verdict::flow::End;

use crate::command::explain::Context;

/// That the name in the rule is that of a Service's port, where the containers give another one.
pub(in crate::command::explain) fn of_service(
    context: &Context<'_>,
    flow: &Flow,
    candidate: &Candidate,
) -> Option<String> {
    let name = candidate.conjuncts.iter().find_map(|of| match &of.want {
        Want::PortName(name) => Some(name),
        _ => None,
    })?;
    let (_, Party::End(End::Pod(id))) = flow.parties? else { return None };
    let cluster = &context.input.cluster;
    let pod = cluster.pod(id);
    let services = cluster.services_in(&pod.namespace).filter(|service| service.selects(pod));
    let mut ports = services.flat_map(|service| service.ports.iter().map(move |port| (service, port)));
    let (service, port) = ports.find(|(_, port)| port.name.as_ref() == Some(name))?;
    let of_pods = match &port.target {
        TargetPort::Name(name) => format!("the containers call theirs {name}"),
        TargetPort::Number(number) => format!("it leads to {number} of the containers"),
    };
    Some(format!(
        "{name} is the name of port {} of {}/svc/{}; a rule's names are those of container ports, and {of_pods}",
        port.port, service.namespace, service.name
    ))
}

/// Whose port was asked for, where another container of the pod has the port that the rule names.
pub(in crate::command::explain) fn of_container(
    context: &Context<'_>,
    flow: &Flow,
    candidate: &Candidate,
) -> Option<String> {
    let numbered = candidate.conjuncts.iter().find(|of| of.code == Code::PortNumber)?;
    let (_, Party::End(End::Pod(id))) = flow.parties? else { return None };
    let (protocol, asked, _) = flow.traffic.single()?;
    let pod = context.input.cluster.pod(id);
    let container = |port: u16| pod.container_of(protocol, port);
    let of_rule = numbered.number?;
    match (container(asked), container(of_rule)) {
        (Some(of_asked), Some(other)) if of_asked != other => Some(format!(
            "{asked} is a port of container {of_asked}; the rule names {of_rule}, a port of container {other}"
        )),
        (None, Some(other)) => {
            Some(format!("{of_rule} is a port of container {other}, and no container declares {asked}"))
        }
        _ => None,
    }
}
