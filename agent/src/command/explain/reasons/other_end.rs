//! Facts about the other end of a denied flow, and about a rule that misses by little, in words.

use npc_agent::source::manifests::ObjectRef;
use npc_compiler::object::{Labels, TargetPort, Workload};
use npc_compiler::policy::Direction;
use npc_compiler::verdict::explain::{Candidate, EndFact, Flow, RuleFact, miss_facts};

use crate::command::explain::Context;
use crate::command::explain::words::workload;
use crate::command::words::shorten;

/// At most this many nodes are named.
const NODES: usize = 4;

/// What there is to know about a rule that misses by little.
pub(in crate::command::explain) fn notes(
    context: &Context<'_>,
    flow: &Flow,
    direction: Direction,
    candidate: &Candidate,
) -> Vec<String> {
    let role = match direction {
        Direction::Ingress => "source",
        Direction::Egress => "destination",
    };
    let facts = miss_facts(&context.input.cluster, flow, direction, candidate);
    let of_end: Vec<String> = facts.end.iter().map(|fact| of_end(context, role, fact)).collect();
    let of_end = (!of_end.is_empty()).then(|| of_end.join("; "));
    of_end.into_iter().chain(facts.rule.iter().map(of_rule)).collect()
}

fn of_end(context: &Context<'_>, role: &str, fact: &EndFact<'_>) -> String {
    match fact {
        EndFact::HostNetwork { address, node } => {
            let node = node.map_or_else(|| "its node".to_owned(), |node| format!("node {node}"));
            let address = address.map_or_else(String::new, |address| format!(" {address}"));
            format!("the {role} is a hostNetwork pod: policies see the address{address} of {node}, and no labels")
        }
        EndFact::HostNetworkOfNodes { addresses, judged } => {
            let addresses: Vec<String> = addresses.iter().map(ToString::to_string).collect();
            let address = match (addresses.as_slice(), judged) {
                ([], Some(judged)) => format!("the address {judged} of its node"),
                ([], None) => "the address of its node".to_owned(),
                (addresses, _) => format!("the address of its node ({})", shorten(addresses, NODES, ", ")),
            };
            format!("the {role} is a hostNetwork pod: policies see {address}, and no labels")
        }
        EndFact::Namespace { name, labels } => {
            let labels = labels.map(|labels| pairs(labels).join(", ")).unwrap_or_default();
            format!("the {role} is in namespace {name} ({labels})")
        }
        EndFact::PodHasLabelsOfNamespace => format!(
            "the {role} itself has what the namespaceSelector asks for, and a namespaceSelector reads the labels of \
             Namespaces only"
        ),
        EndFact::PodLabels { own, added } => format!("the {role} has {}", labels(own, added)),
        EndFact::LabelOnWorkload { namespace, workload, key } => label_on_workload(context, namespace, workload, key),
        EndFact::LabelInTemplate { namespace, workload: of, key, value } => {
            format!("the template of {} has {key}={value}, and this pod was made before that", workload(namespace, of))
        }
        EndFact::NamespaceHasLabelsOfPod { name } => format!(
            "namespace {name} has what the podSelector asks for, and a podSelector reads the labels of pods only"
        ),
    }
}

fn pairs(labels: &Labels) -> Vec<String> {
    labels.iter().map(|(key, value)| format!("{key}={value}")).collect()
}

/// The labels of a pod. The input does not say those that a controller adds to the pods of a template, but for
/// what they look like.
fn labels(own: &Labels, added: &[(&str, String)]) -> String {
    let added: Vec<String> = added.iter().map(|(key, value)| format!("{key}={value}")).collect();
    match (pairs(own).as_slice(), added.as_slice()) {
        ([], []) => "no labels".to_owned(),
        ([], added) => format!("no labels but those of its controller, such as {}", added.join(", ")),
        (own, _) => format!("the labels {}", own.join(", ")),
    }
}

fn label_on_workload(context: &Context<'_>, namespace: &str, workload: &Workload, key: &str) -> String {
    let object = ObjectRef::new(&workload.kind, namespace, &workload.name);
    let place = context.input.loaded.positions.locate_object(&object, &format!("metadata.labels.{key}"));
    let place = place.filter(|place| place.exact);
    let place = place.map_or_else(|| "metadata.labels".to_owned(), |place| place.to_string());
    let kind = workload.kind.to_lowercase();
    format!("the {kind} itself has a label {key} ({place}), which its pods do not get")
}

fn of_rule(fact: &RuleFact<'_>) -> String {
    match fact {
        RuleFact::NamespaceMatches => {
            "the item asks for both (AND), and the namespace matches; a new \"-\" before podSelector would mean OR, and \
             admit every pod of such namespaces"
                .to_owned()
        }
        RuleFact::ServicePort { service, port, of_pods } => format!(
            "{port} is the port of {}/svc/{}; its pods listen on {of_pods}, and policies see that",
            service.namespace, service.name
        ),
        RuleFact::NodePort { service, number, of_pods } => format!(
            "{number} is the nodePort of {}/svc/{}, which is translated before policies judge: they see port {of_pods} of \
             the pods",
            service.namespace, service.name
        ),
        RuleFact::HostPort { number, of_pod } => format!(
            "{number} is a hostPort of the pod, which is translated before policies judge: they see port {of_pod}"
        ),
        RuleFact::ServicePortName { name, service, port, target } => {
            let of_pods = match target {
                TargetPort::Name(name) => format!("the containers call theirs {name}"),
                TargetPort::Number(number) => format!("it leads to {number} of the containers"),
            };
            format!(
                "{name} is the name of port {port} of {}/svc/{}; a rule's names are those of container ports, and \
                 {of_pods}",
                service.namespace, service.name
            )
        }
        RuleFact::ContainerPort { number, container, asked, other: Some(other) } => format!(
            "{asked} is a port of container {other}; the rule names {number}, a port of container {container}"
        ),
        RuleFact::ContainerPort { number, container, asked, other: None } => {
            format!("{number} is a port of container {container}, and no container declares {asked}")
        }
    }
}
