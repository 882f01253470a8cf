//! Facts about the other end of a denied flow.

use std::net::IpAddr;

use npc_agent::source::manifests::ObjectRef;
use npc_compiler::cluster::PodId;
use npc_compiler::object::{Family, HostPort, Pod, Service, ServicePort, Workload, controller_labels};
use npc_compiler::policy::{Direction, Namespaces, Peer, Peers, PodPeer};
use npc_compiler::verdict::explain::{Candidate, Code, Conjunct, Flow, Of, Part, Party, Way};
use npc_compiler::verdict::flow::End;

use super::port_name;
use crate::command::explain::Context;
use crate::command::words::shorten;

/// So many nodes are named.
const NODES: usize = 4;

/// What there is to know about a rule that misses by little.
pub(in crate::command::explain) fn notes(
    context: &Context<'_>,
    flow: &Flow,
    direction: Direction,
    candidate: &Candidate,
) -> Vec<String> {
    if direction == Direction::Egress && flow.seen_by_source.is_some() {
        // The policies see a node in place of the pod, which is said above.
        return Vec::new();
    }
    let of_end = of_other_end(context, flow, direction, candidate);
    let both = half_of_both(context, direction, candidate);
    let port = service_port(context, flow, candidate).or_else(|| port_of_node(context, flow, candidate));
    let name = port_name::of_service(context, flow, candidate);
    let container = port_name::of_container(context, flow, candidate);
    [of_end, both, port, name, container].into_iter().flatten().collect()
}

/// Facts about the other end that its part of the rule is about.
fn of_other_end(context: &Context<'_>, flow: &Flow, direction: Direction, candidate: &Candidate) -> Option<String> {
    let (from, to) = flow.parties?;
    let (party, role) = match direction {
        Direction::Ingress => (from, "source"),
        Direction::Egress => (to, "destination"),
    };
    match (party, direction) {
        (Party::Host(pod), _) => return Some(of_host(context, flow, role, pod)),
        (Party::OtherNode(address), Direction::Ingress) if flow.from.host_network => {
            return Some(of_nodes(context, flow, role, address));
        }
        (Party::OtherNode(address), Direction::Egress) if flow.to.host_network => {
            return Some(of_nodes(context, flow, role, address));
        }
        _ => {}
    }
    let Party::End(End::Pod(pod)) = party else { return None };
    let pod = context.input.cluster.pod(pod);
    let words = |labels: &npc_compiler::object::Labels| {
        labels.iter().map(|(key, value)| format!("{key}={value}")).collect::<Vec<_>>().join(", ")
    };
    let of_peer = |part| candidate.conjuncts.iter().any(|c| c.of() == Of::Peer && c.part == part);
    let mut notes = Vec::new();
    if of_peer(Part::Namespace) {
        let labels = context.input.cluster.namespace(&pod.namespace).map(words).unwrap_or_default();
        notes.push(format!("the {role} is in namespace {} ({labels})", pod.namespace));
        if asks_for_labels_of(candidate, Part::Namespace, &pod.labels) {
            notes.push(format!(
                "the {role} itself has what the namespaceSelector asks for, and a namespaceSelector reads the labels of \
                 Namespaces only"
            ));
        }
    }
    if of_peer(Part::Pod) {
        notes.push(format!("the {role} has {}", labels_of(pod)));
        notes.extend(own_label(context, pod, candidate));
        let of_namespace = context.input.cluster.namespace(&pod.namespace);
        if of_namespace.is_some_and(|labels| asks_for_labels_of(candidate, Part::Pod, labels)) {
            notes.push(format!(
                "namespace {} has what the podSelector asks for, and a podSelector reads the labels of pods only",
                pod.namespace
            ));
        }
    }
    (!notes.is_empty()).then(|| notes.join("; "))
}

/// The labels of a pod in words. The input does not say those that a controller adds to the pods of a
/// template, but for what they look like.
fn labels_of(pod: &Pod) -> String {
    let own: Vec<String> = pod.labels.iter().map(|(key, value)| format!("{key}={value}")).collect();
    if !own.is_empty() {
        return format!("the labels {}", own.join(", "));
    }
    let workload = pod.workload.as_ref().filter(|_| pod.is_template());
    let pattern = |workload: &Workload| {
        controller_labels(&workload.kind)
            .filter_map(|label| Some(format!("{}={}", label.key, label.pattern(workload)?)))
            .collect::<Vec<String>>()
    };
    match workload.map(pattern).unwrap_or_default().as_slice() {
        [] => "no labels".to_owned(),
        added => format!("no labels but those of its controller, such as {}", added.join(", ")),
    }
}

/// Whether all labels of one kind that the rule asks for, and that are not there, are there on the other
/// kind: the pod's in place of its namespace's, or the other way round.
fn asks_for_labels_of(candidate: &Candidate, part: Part, has: &npc_compiler::object::Labels) -> bool {
    let conjuncts = candidate.conjuncts.iter().filter(|of| of.of() == Of::Peer && of.part == part);
    let mut failed = conjuncts.flat_map(|of| &of.marks).filter_map(|mark| mark.requirement.as_ref()).peekable();
    failed.peek().is_some() && failed.all(|of| has.contains_key(&of.requirement.key) && of.requirement.matches(has))
}

/// That an item asks for a namespace and for pods in it, where the namespace is right and the pod
/// is not.
fn half_of_both(context: &Context<'_>, direction: Direction, candidate: &Candidate) -> Option<String> {
    let fails = |part| candidate.conjuncts.iter().find(|of| of.of() == Of::Peer && of.part == part);
    // An end that is no endpoint has no labels that could be right.
    let by_label = |of: &&Conjunct| matches!(of.code, Code::PeerLabelMissing | Code::PeerLabelValue);
    let conjunct = fails(Part::Pod).filter(by_label).filter(|_| fails(Part::Namespace).is_none())?;
    let rule = context.input.cluster.policy(candidate.policy).rules(direction).get(candidate.place)?;
    let Peers::AnyOf(peers) = &rule.peers else { return None };
    let Peer::Pods(PodPeer { namespaces: Namespaces::Selected(selector), pods }) = peers.get(conjunct.path.place)?
    else {
        return None;
    };
    (!selector.is_empty() && !pods.is_empty()).then(|| {
        "the item asks for both (AND), and the namespace matches; a new \"-\" before podSelector would mean OR, and \
         admit every pod of such namespaces"
            .to_owned()
    })
}

/// The Service whose port the rule names, where its pods were asked and not the Service.
fn service_port(context: &Context<'_>, flow: &Flow, candidate: &Candidate) -> Option<String> {
    let named = candidate.conjuncts.iter().find(|of| of.code == Code::PortIsServicePort)?;
    let (protocol, asked, _) = flow.traffic.single()?;
    let (_, Party::End(End::Pod(id))) = flow.parties.filter(|_| flow.via.is_none())? else { return None };
    let mut services = context.input.cluster.services_by_another_port(id);
    let is_named = |port: &ServicePort| port.protocol == protocol && Some(port.port) == named.number;
    let (service, port, of_pods) = services.find(|(_, port, of)| is_named(port) && *of == asked)?;
    Some(format!(
        "{} is the port of {}/svc/{}; its pods listen on {of_pods}, and policies see that",
        port.port, service.namespace, service.name
    ))
}

/// That the rule names a port of nodes that leads to the pods: of a Service, or of the pods themselves.
fn port_of_node(context: &Context<'_>, flow: &Flow, candidate: &Candidate) -> Option<String> {
    let (_, Party::End(End::Pod(id))) = flow.parties? else { return None };
    let (protocol, asked, _) = flow.traffic.single()?;
    let named = candidate.conjuncts.iter().find(|of| of.code == Code::PortNumber)?;
    let number = named.number?;
    let cluster = &context.input.cluster;
    if let Some((service, of_pods)) = cluster.service_with_node_port(id, protocol, number) {
        let Service { namespace, name, .. } = service;
        return Some(format!(
            "{number} is the nodePort of {namespace}/svc/{name}, which is translated before policies judge: they see port \
             {of_pods} of the pods"
        ));
    }
    let mut host_ports = cluster.pod(id).host_ports.iter();
    let is_meant = |of: &&HostPort| (of.protocol, of.host_port, of.port) == (protocol, number, asked);
    host_ports.find(is_meant).map(|_| {
        format!("{number} is a hostPort of the pod, which is translated before policies judge: they see port {asked}")
    })
}

/// What policies see of a hostNetwork pod.
fn of_host(context: &Context<'_>, flow: &Flow, role: &str, pod: PodId) -> String {
    let pod = context.input.cluster.pod(pod);
    let address = flow.family.and_then(|family| pod.address(family)).or_else(|| pod.addresses().next());
    let node = pod.node.as_ref().map_or_else(|| "its node".to_owned(), |node| format!("node {node}"));
    let address = address.map_or_else(String::new, |address| format!(" {address}"));
    format!("the {role} is a hostNetwork pod: policies see the address{address} of {node}, and no labels")
}

/// The same of one that is on each of several nodes: those that the flow stands for.
fn of_nodes(context: &Context<'_>, flow: &Flow, role: &str, first: Option<IpAddr>) -> String {
    let names = match &flow.way {
        Some(Way::DifferentNodes(names)) => Some(names),
        _ => None,
    };
    let of_family = |address: &&IpAddr| first.is_none_or(|first| Family::of(&first) == Family::of(address));
    let all = context.input.cluster.nodes().iter();
    let meant = all.filter(|(name, _)| names.is_some_and(|names| names.is_empty() || names.contains(*name)));
    let addresses = meant.filter_map(|(_, addresses)| addresses.iter().find(of_family).map(ToString::to_string));
    let addresses: Vec<String> = addresses.collect();
    let address = match (addresses.as_slice(), first) {
        ([], Some(first)) => format!("the address {first} of its node"),
        ([], None) => "the address of its node".to_owned(),
        (addresses, _) => format!("the address of its node ({})", shorten(addresses, NODES, ", ")),
    };
    format!("the {role} is a hostNetwork pod: policies see {address}, and no labels")
}

/// Where the label that a pod lacks stands on its workload, in place of its template.
fn own_label(context: &Context<'_>, pod: &Pod, candidate: &Candidate) -> Option<String> {
    let workload = pod.workload.as_ref()?;
    let conjuncts = candidate.conjuncts.iter().filter(|conjunct| conjunct.part == Part::Pod);
    let failed = conjuncts.flat_map(|conjunct| &conjunct.marks).filter_map(|mark| mark.requirement.as_ref());
    let mut keys = failed.filter(|failed| failed.value.is_none()).map(|failed| &failed.requirement.key);
    keys.find_map(|key| {
        context.input.cluster.workload_label(&pod.namespace, workload, key)?;
        let object = ObjectRef::new(&workload.kind, &pod.namespace, &workload.name);
        let place = context.input.loaded.positions.locate_object(&object, &format!("metadata.labels.{key}"));
        let place = place.filter(|place| place.exact);
        let place = place.map_or_else(|| "metadata.labels".to_owned(), |place| place.to_string());
        let kind = workload.kind.to_lowercase();
        Some(format!("the {kind} itself has a label {key} ({place}), which its pods do not get"))
    })
}
