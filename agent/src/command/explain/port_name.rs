//! Names of ports that are a Service's and not a container's.

use npc_compiler::object::TargetPort;
use npc_compiler::verdict::explain::{Candidate, Code, Flow, Party};
use npc_compiler::verdict::flow::End;

use super::Context;

/// That the name in the rule is that of a Service's port, where the containers give another one.
pub(super) fn of_service(context: &Context<'_>, flow: &Flow, candidate: &Candidate) -> Option<String> {
    let named = candidate.conjuncts.iter().find(|of| of.code == Code::PortNamedUnresolved)?;
    let (_, Party::End(End::Pod(id))) = flow.parties? else { return None };
    let cluster = &context.input.cluster;
    let pod = cluster.pod(id);
    let services = cluster.services_in(&pod.namespace).filter(|service| service.selects(pod));
    let mut ports = services.flat_map(|service| service.ports.iter().map(move |port| (service, port)));
    let (service, port) = ports.find(|(_, port)| port.name.as_deref() == Some(named.want.as_str()))?;
    let of_pods = match &port.target {
        TargetPort::Name(name) => format!("the containers call theirs {name}"),
        TargetPort::Number(number) => format!("it leads to {number} of the containers"),
    };
    Some(format!(
        "{} is the name of port {} of {}/svc/{}; a rule's names are those of container ports, and {of_pods}",
        named.want, port.port, service.namespace, service.name
    ))
}
