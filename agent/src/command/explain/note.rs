//! Facts about the other end of a denied flow.

use npc_compiler::cluster::PodId;
use npc_compiler::cluster::backend::BackendEnd;
use npc_compiler::object::Pod;
use npc_compiler::policy::{Direction, Namespaces, Peer, Peers, PodPeer};
use npc_compiler::verdict::explain::{Candidate, Code, Conjunct, Flow, Of, Part, Party};
use npc_compiler::verdict::flow::End;

use super::{Context, own_label, port_name};

/// What there is to know about a rule that misses by little.
pub(super) fn notes(context: &Context<'_>, flow: &Flow, direction: Direction, candidate: &Candidate) -> Vec<String> {
    let of_end = of_other_end(context, flow, direction, candidate);
    let both = half_of_both(context, direction, candidate);
    let port = service_port(context, flow, candidate);
    let name = port_name::of_service(context, flow, candidate);
    [of_end, both, port, name].into_iter().flatten().collect()
}

/// Facts about the other end that its part of the rule is about.
fn of_other_end(context: &Context<'_>, flow: &Flow, direction: Direction, candidate: &Candidate) -> Option<String> {
    let (from, to) = flow.parties?;
    let (party, role) = match direction {
        Direction::Ingress => (from, "source"),
        Direction::Egress => (to, "destination"),
    };
    if let Party::Host(pod) = party {
        return Some(of_host(context, flow, role, pod));
    }
    let Party::End(End::Pod(pod)) = party else { return None };
    let pod = context.input.cluster.pod(pod);
    let words = |labels: &npc_compiler::object::Labels| {
        labels.iter().map(|(key, value)| format!("{key}={value}")).collect::<Vec<_>>().join(", ")
    };
    let of_peer = |part| candidate.conjuncts.iter().any(|c| c.of == Of::Peer && c.part == part);
    let mut notes = Vec::new();
    if of_peer(Part::Namespace) {
        let labels = context.input.cluster.namespace(&pod.namespace).map(words).unwrap_or_default();
        notes.push(format!("the {role} is in namespace {} ({labels})", pod.namespace));
    }
    if of_peer(Part::Pod) {
        let labels = words(&pod.labels);
        let labels = if labels.is_empty() { "no labels".to_owned() } else { format!("the labels {labels}") };
        notes.push(format!("the {role} has {labels}"));
        notes.extend(own_label(context, pod, candidate));
    }
    (!notes.is_empty()).then(|| notes.join("; "))
}

/// That an item asks for a namespace and for pods in it, where the namespace is right and the pod
/// is not.
fn half_of_both(context: &Context<'_>, direction: Direction, candidate: &Candidate) -> Option<String> {
    let fails = |part| candidate.conjuncts.iter().find(|conjunct| conjunct.of == Of::Peer && conjunct.part == part);
    // An end that is no endpoint has no labels that could be right.
    let by_label = |of: &&Conjunct| matches!(of.code, Code::PeerLabelMissing | Code::PeerLabelValue);
    let conjunct = fails(Part::Pod).filter(by_label).filter(|_| fails(Part::Namespace).is_none())?;
    let mut rules = context.input.cluster.policy(candidate.policy).rules(direction).iter();
    let Peers::AnyOf(peers) = &rules.find(|rule| rule.path == candidate.path)?.peers else { return None };
    let place = conjunct.path.split(['[', ']']).nth(1)?.parse::<usize>().ok()?;
    let Peer::Pods(PodPeer { namespaces: Namespaces::Selected(selector), pods }) = peers.get(place)? else {
        return None;
    };
    (!selector.is_empty() && !pods.is_empty()).then(|| {
        "the item asks for both (AND), and the namespace matches; a new \"-\" before podSelector would mean OR, and \
         admit every pod of such namespaces"
            .to_owned()
    })
}

/// That the port that was asked for is a Service's, and the pods behind it have another one.
fn service_port(context: &Context<'_>, flow: &Flow, candidate: &Candidate) -> Option<String> {
    let misses_port = candidate.conjuncts.iter().any(|of| of.code == Code::PortNumber);
    let (protocol, first, last) = flow.traffic.single().filter(|_| misses_port && flow.via.is_none())?;
    let (_, Party::End(End::Pod(id))) = flow.parties? else { return None };
    let cluster = &context.input.cluster;
    let pod = cluster.pod(id);
    if first != last || pod.declared_ports(protocol).any(|declared| declared == first) {
        return None;
    }
    let services = context.input.loaded.objects.services.iter().filter(|service| service.namespace == pod.namespace);
    services.flat_map(|service| service.ports.iter().map(move |port| (service, port))).find_map(|(service, port)| {
        let is_asked = port.protocol == protocol && port.port == first;
        let backends = cluster.backends(service, port).filter(|_| is_asked)?;
        let backend = backends.iter().find(|backend| backend.end == BackendEnd::Pod(id))?;
        (backend.port != first).then(|| {
            format!(
                "{first} is the port of {}/svc/{}; its pods listen on {}: ask about the Service, or about that port",
                service.namespace, service.name, backend.port
            )
        })
    })
}

/// What policies see of a pod in its node's network.
fn of_host(context: &Context<'_>, flow: &Flow, role: &str, pod: PodId) -> String {
    let pod = context.input.cluster.pod(pod);
    let address = flow.family.and_then(|family| pod.address(family)).or_else(|| pod.addresses().next());
    let node = pod.node.as_ref().map_or_else(|| "its node".to_owned(), |node| format!("node {node}"));
    let address = address.map_or_else(String::new, |address| format!(" {address}"));
    format!("the {role} is a hostNetwork pod: policies see the address{address} of {node}, and no labels")
}

/// Where the label that a pod lacks stands on its workload, in place of its template.
fn own_label(context: &Context<'_>, pod: &Pod, candidate: &Candidate) -> Option<String> {
    let workload = pod.workload.as_ref()?;
    let conjuncts = candidate.conjuncts.iter().filter(|conjunct| conjunct.part == Part::Pod);
    let failed = conjuncts.flat_map(|conjunct| &conjunct.marks).filter_map(|mark| mark.requirement.as_ref());
    let mut keys = failed.filter(|failed| failed.value.is_none()).map(|failed| &failed.requirement.key);
    keys.find_map(|key| {
        let place = own_label::place(&context.input.loaded.positions, workload, &pod.namespace, key)?;
        let kind = workload.kind.to_lowercase();
        Some(format!("the {kind} itself has a label {key} ({place}), which its pods do not get"))
    })
}
