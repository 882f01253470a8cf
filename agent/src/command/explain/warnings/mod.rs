//! The warnings of an explanation in words.

mod ineffective;
mod unresolved_names;

use std::collections::BTreeSet;
use std::net::IpAddr;

use npc_agent::source::manifests::ObjectRef;
use npc_compiler::algebra::unforwarded::Unforwarded;
use npc_compiler::cluster::unread::Unread;
use npc_compiler::cluster::without_backend::WhyUnknown;
use npc_compiler::cluster::{Cluster, PodId};
use npc_compiler::object::{Pod, Protocol, is_topology_label};
use npc_compiler::verdict::explain::{
    EndName, Flow, FlowExplanation, Missing, MissingFact, Party, Verdict, WarningFact,
};

use crate::command::explain::words::{shown, verdict_word};
use crate::command::input::{Input, Source, unread_words};
use crate::command::warning::{Warning, WarningCode};
use crate::command::words::shorten;

/// At most this many unread documents, ports or labels are named.
const NAMED: usize = 3;

/// The warnings of an answer in words.
pub(in crate::command::explain) fn of_answer(input: &Input, explanation: &FlowExplanation) -> Vec<Warning> {
    let hosts = hosts(&input.cluster, explanation);
    let said = explanation.warnings.iter().filter(|fact| !is_said_by_flows(&hosts, fact));
    let mut all = with_input(input, said);
    all.extend(ineffective::without_subjects(input, explanation));
    all.extend(ineffective::replaced(input, explanation));
    all
}

/// Warnings in words, those about the input last.
pub(in crate::command::explain) fn with_input<'w>(
    input: &Input,
    facts: impl IntoIterator<Item = &'w WarningFact>,
) -> Vec<Warning> {
    let of_fact = |fact: &WarningFact| {
        let (code, text) = (code(fact), text(&input.cluster, fact));
        Warning::about_each(code, text, &objects(&input.cluster, fact), &input.loaded.positions)
    };
    facts.into_iter().map(of_fact).chain(input.warnings.iter().cloned()).collect()
}

/// What kind of warning it is.
const fn code(fact: &WarningFact) -> WarningCode {
    match fact {
        WarningFact::Contested(_) => WarningCode::AddressContested,
        WarningFact::NoSuchPort(_) => WarningCode::PortNameMissing,
        WarningFact::NoSuchServicePort { .. } => WarningCode::ServicePortUnknown,
        WarningFact::SourceWithoutPods { .. } => WarningCode::ServiceNoBackends,
        WarningFact::NotListed(..) => WarningCode::FlowsNotListed,
        WarningFact::Headless { .. } => WarningCode::ServiceHeadless,
        WarningFact::ServicePort { .. } => WarningCode::AskedServicePort,
        WarningFact::NotExposed { .. } => WarningCode::ServiceNotExposed,
        WarningFact::Loopback(_) => WarningCode::AddressLoopback,
        WarningFact::HostPort { .. } => WarningCode::HostPort,
        WarningFact::HostPortElsewhere { .. } => WarningCode::HostPortElsewhere,
        WarningFact::NamesUnresolved { .. } => WarningCode::DnsBlocked,
        WarningFact::NoCommonFamily => WarningCode::NoCommonFamily,
        WarningFact::MayBeOwnNode { .. } => WarningCode::OwnNodeUnknown,
        WarningFact::ServiceAddressAsSource { .. } => WarningCode::SourceIsServiceAddress,
        WarningFact::OtherNodes { .. } => WarningCode::OtherNodesDiffer,
        WarningFact::TunnelDropped { .. } => WarningCode::TunnelDropped,
        WarningFact::NotForwarded { .. } => WarningCode::AddressNotForwarded,
    }
}

/// The objects that it is about, as far as they are of the cluster.
fn objects(cluster: &Cluster, fact: &WarningFact) -> Vec<ObjectRef> {
    let of_end = |end: &EndName| {
        let namespace = end.namespace.as_ref()?;
        Some(ObjectRef::new(&end.kind, namespace, &end.name))
    };
    // A template that stands for pods has its workload's name.
    let of_pod = |pod: &Pod| match &pod.workload {
        Some(of) if pod.is_template() => ObjectRef::new(&of.kind, &pod.namespace, &of.name),
        _ => ObjectRef::new("Pod", &pod.namespace, &pod.name),
    };
    let named = |name: &str| {
        let (namespace, name) = name.split_once('/')?;
        cluster.pods().map(|(_, pod)| pod).find(|pod| pod.namespace == namespace && pod.name == name).map(of_pod)
    };
    match fact {
        WarningFact::NoSuchServicePort { namespace, name, .. }
        | WarningFact::SourceWithoutPods { namespace, name }
        | WarningFact::Headless { namespace, name }
        | WarningFact::ServicePort { namespace, name, .. }
        | WarningFact::NotExposed { namespace, name }
        | WarningFact::ServiceAddressAsSource { namespace, name, .. } => {
            vec![ObjectRef::new("Service", namespace, name)]
        }
        WarningFact::NoSuchPort(end)
        | WarningFact::NamesUnresolved { service: end, .. }
        | WarningFact::MayBeOwnNode { pod: end, .. }
        | WarningFact::TunnelDropped { from: end, .. } => of_end(end).into_iter().collect(),
        WarningFact::OtherNodes { from, to, is_source, .. } => {
            of_end(if *is_source { from } else { to }).into_iter().collect()
        }
        WarningFact::Contested(address) => {
            let claimants = cluster.contest(*address).map(|contest| contest.claimants.as_slice()).unwrap_or_default();
            claimants.iter().map(|id| of_pod(cluster.pod(*id))).collect()
        }
        WarningFact::HostPort { pods, .. } => pods.iter().filter_map(|pod| named(pod)).collect(),
        WarningFact::HostPortElsewhere { pods, .. } => pods.iter().filter_map(|(pod, _)| named(pod)).collect(),
        WarningFact::NotListed(..)
        | WarningFact::Loopback(_)
        | WarningFact::NotForwarded { .. }
        | WarningFact::NoCommonFamily => Vec::new(),
    }
}

/// An end of a flow that is a hostNetwork pod: whether it is the source, its node, and the other end: kind,
/// namespace, name, and whether that one is a hostNetwork pod.
type Host<'a> = (bool, &'a str, (&'a str, Option<&'a str>, &'a str, bool));

fn host<'a>(is_source: bool, node: &'a str, other: &'a EndName) -> Host<'a> {
    (is_source, node, (&other.kind, other.namespace.as_deref(), &other.name, other.host_network))
}

/// The ends of the answer's flows that are hostNetwork pods.
fn hosts<'a>(cluster: &'a Cluster, explanation: &'a FlowExplanation) -> BTreeSet<Host<'a>> {
    let of_flow = |flow: &'a Flow| {
        let parties = flow.parties.map(|(from, to)| [(true, from, &flow.to), (false, to, &flow.from)]);
        parties.into_iter().flatten().filter_map(|(is_source, party, other)| {
            let Party::Host(pod) = party else { return None };
            Some(host(is_source, cluster.pod(pod).node.as_deref()?, other))
        })
    };
    explanation.flows.iter().flat_map(of_flow).collect()
}

/// Whether flows of the answer say what holds for the other nodes, because it is about pods on all of them.
fn is_said_by_flows(hosts: &BTreeSet<Host<'_>>, fact: &WarningFact) -> bool {
    let WarningFact::OtherNodes { from, to, is_source, nodes, .. } = fact else { return false };
    let other = if *is_source { to } else { from };
    let is_shown = |node: &String| hosts.contains(&host(*is_source, node, other));
    nodes.iter().all(|(_, names)| !names.is_empty() && names.iter().all(is_shown))
}

fn text(cluster: &Cluster, fact: &WarningFact) -> String {
    match fact {
        WarningFact::Contested(address) => contested(cluster, *address),
        WarningFact::NoSuchPort(name) => format!("{} has no such port", shown(name)),
        WarningFact::NoSuchServicePort { namespace, name, ports } => no_such_port(namespace, name, ports),
        WarningFact::SourceWithoutPods { .. } => "the source is a Service that leads to no pod of the input".to_owned(),
        WarningFact::NotListed(Verdict::Denied, services) => {
            format!("services {} have no such port either, and are not listed above", shorten(services, NAMED, ", "))
        }
        WarningFact::NotListed(_, names) => {
            format!("what goes to {} is allowed too, and is not listed above", shorten(names, NAMED, ", "))
        }
        WarningFact::Headless { namespace, name } => format!(
            "service {namespace}/{name} is headless: its name leads to its pods' addresses, so a client asks for a port \
             of the pods, not of the Service"
        ),
        WarningFact::ServicePort { namespace, name, port, of_pods } => format!(
            "{port} is the port of {namespace}/svc/{name}; its pods listen on {of_pods}: ask about the Service, or about that \
             port"
        ),
        WarningFact::NotExposed { namespace, name } => format!(
            "service {namespace}/{name} has no node port, no load balancer and no external address, so nothing leads to it \
             from outside the cluster; this is what policies say of such a client"
        ),
        WarningFact::Loopback(address) => loopback(*address),
        WarningFact::HostPort { port, pods } => format!(
            "hostPort {port} of {}: the node translates it before policies judge, and this is what policies say of the \
             client's own address; rules of the node itself are not judged, and if the network replaces the client's address \
             by a node's, policies judge that node (a pod and its own node are always allowed)",
            shorten(pods, NAMED, ", ")
        ),
        WarningFact::HostPortElsewhere { port, pods, is_bound } => {
            let name = |(pod, node): &(String, Option<String>)| match node {
                Some(node) => format!("{pod} on {node}"),
                None => pod.clone(),
            };
            let names: Vec<String> = pods.iter().map(name).collect();
            let why =
                if *is_bound { "its hostIP is another address" } else { "it leads to a pod on its own node only" };
            format!(
                "this is about the node itself: hostPort {port} of {} does not lead to the pod here, {why}",
                shorten(&names, NAMED, ", ")
            )
        }
        WarningFact::NamesUnresolved { from, service, direction, policies, server } => {
            unresolved_names::text(cluster, (from, service), (*direction, policies), server.as_ref())
        }
        WarningFact::NoCommonFamily => "the ends have no address family in common, so nothing can pass".to_owned(),
        WarningFact::MayBeOwnNode { address, pod, node } => {
            let node = node.as_ref().map_or_else(|| "the node".to_owned(), |node| format!("node {node},"));
            format!(
                "{address} may be the address of {node} on which {} runs: no object says the addresses of that node, and a \
                 pod and its own node are always allowed",
                shown(pod)
            )
        }
        WarningFact::ServiceAddressAsSource { address, namespace, name } => format!(
            "{address} is an address of service {namespace}/{name}, and no packet has it as its source: this is what \
             policies would say of one; ask about {namespace}/svc/{name} for the pods behind it"
        ),
        WarningFact::OtherNodes { from, to, is_source, is_own_node, nodes } => {
            let of = |(verdict, names): &(Verdict, Vec<String>)| {
                let verdict = verdict_word(*verdict).to_owned();
                if names.is_empty() { verdict } else { format!("{verdict} ({})", shorten(names, NAMED, ", ")) }
            };
            let answers = nodes.iter().map(of).collect::<Vec<_>>().join(", ");
            let why = if *is_own_node { ", and a pod and its own node are always allowed" } else { "" };
            let (way, host) = if *is_source { ("from", from) } else { ("to", to) };
            format!(
                "{} -> {}: {} has hostNetwork{why}; {way} every other node: {answers}",
                shown(from),
                shown(to),
                shown(host)
            )
        }
        WarningFact::TunnelDropped { from, traffic } => format!(
            "{traffic} is what tunnels use: policies allow it, but agents drop it where it leaves {}, because no rule \
             names the port and they run without --allow-tunnels",
            shown(from)
        ),
        WarningFact::NotForwarded { end, is_source, address } => not_forwarded(end, *is_source, *address),
    }
}

/// That an address is each pod itself.
pub(in crate::command) fn loopback(address: IpAddr) -> String {
    format!("{address} is the pod itself: what it sends there never leaves it")
}

/// That hosts, or nodes with isolated pods, forward nothing from or to an end, and why.
pub(in crate::command) fn not_forwarded(end: &EndName, is_source: bool, address: Unforwarded) -> String {
    let what = match address {
        Unforwarded::Unspecified => "no host's address",
        Unforwarded::LinkLocal => "link-local",
        Unforwarded::Multicast => "multicast",
        Unforwarded::Broadcast => "a broadcast address",
        Unforwarded::Loopback => "loopback",
        Unforwarded::ThisNetwork => "no address of another host",
    };
    let (way, end) = (if is_source { "from" } else { "to" }, shown(end));
    if address.is_dropped_by_hosts(is_source) {
        return format!("{end} is {what}: every host drops what another one sends {way} it, whatever policies allow");
    }
    format!("{end} is {what}: a node with isolated pods forwards nothing {way} it, whatever policies allow")
}

/// That a Service lacks the port that was asked for, and its ports.
fn no_such_port(namespace: &str, name: &str, ports: &[(Protocol, u16)]) -> String {
    if ports.is_empty() {
        return format!("service {namespace}/{name} has no port from 1 to 65535");
    }
    let port = |(protocol, number): &(Protocol, u16)| match protocol {
        Protocol::Tcp => number.to_string(),
        other => format!("{number}/{}", other.lower()),
    };
    let ports: Vec<String> = ports.iter().map(port).collect();
    format!("service {namespace}/{name} has no such port; its ports are {}", ports.join(", "))
}

/// Which pods list an address, and which of them has it as seen from where.
fn contested(cluster: &Cluster, address: IpAddr) -> String {
    let Some(contest) = cluster.contest(address) else { return format!("several pods list {address}") };
    let name = |id: &PodId| {
        let pod = cluster.pod(*id);
        let node = pod.node.as_ref().map(|node| format!(" on {node}")).unwrap_or_default();
        format!("pod {}/{}{node}", pod.namespace, pod.name)
    };
    let names = |pods: &[PodId]| pods.iter().map(name).collect::<Vec<_>>().join(" and ");
    let mut views: Vec<String> = contest
        .holders_by_node()
        .map(|(node, holders)| match holders {
            [pod] => format!("node {node} judges it as {}", name(pod)),
            pods => format!(
                "nothing tells node {node} whose it is, so it is isolated there if any is, and admitted only what the \
                 policies of {} admit",
                names(pods)
            ),
        })
        .collect();
    views.push(match contest.holders_elsewhere() {
        [pod] => format!("rules of other nodes take it for {}", name(pod)),
        pods => format!("rules of other nodes admit it only where they admit {}", names(pods)),
    });
    format!("{} list {address}: {}", names(&contest.claimants), views.join("; "))
}

/// Where to find facts that files lack.
pub(in crate::command::explain) fn what_is_missing(input: &Input, missing: &[Missing]) -> Option<&'static str> {
    let is_of_cluster = |of: &Missing| {
        !matches!(
            of.fact,
            MissingFact::Unread(_)
                | MissingFact::Holder(..)
                | MissingFact::UnreadPods(_)
                | MissingFact::SourceRanges(_)
                | MissingFact::Balancer { .. }
                | MissingFact::BesideServices(..)
                | MissingFact::LocalAddress(..)
                | MissingFact::NotJudged(_)
                | MissingFact::Backends { external_name: Some(_), .. }
        )
    };
    (input.source == Source::Files && missing.iter().any(is_of_cluster)).then_some(
        "the running cluster has these facts: ask without -f, or with -f of what kubectl get \
         pods,services,endpointslices,namespaces,nodes -A -o yaml prints",
    )
}

/// Why it is not known where a Service leads.
pub(in crate::command) fn where_it_leads(service: &str, selector: &str, why: &WhyUnknown) -> String {
    let described = |unread: &[Unread]| unread.iter().map(ToString::to_string).collect::<Vec<String>>();
    let why = match why {
        WhyUnknown::NoSelector => {
            "no EndpointSlice of it is in the input with addresses, and it has no selector".to_owned()
        }
        WhyUnknown::SlicesUnread(unread) => {
            format!("EndpointSlices were not read: {}", shorten(&described(unread), NAMED, "; "))
        }
        WhyUnknown::PodMakers(makers) => format!(
            "its selector {selector} selects no pod of the input, and the pods that these make are not in it: {}",
            shorten(makers, NAMED, ", ")
        ),
        WhyUnknown::PodsUnread(unread) => {
            let unread = shorten(&described(unread), NAMED, "; ");
            format!("pods that its selector {selector} may select were not read: {unread}")
        }
        WhyUnknown::LabelsOfControllers(workloads) => format!(
            "its selector {selector} asks for labels that the controller of {} adds to its pods",
            shorten(workloads, NAMED, ", ")
        ),
        WhyUnknown::NoPod => format!("its selector {selector} selects no pod of the input"),
    };
    format!("where {service} leads: {why}")
}

/// One of some ports, in words.
fn one_port(first: u16, last: u16) -> String {
    if first == last { format!("port {first}") } else { format!("a port from {first} to {last}") }
}

/// The facts that the input lacks, in words, each once.
#[allow(clippy::too_many_lines, reason = "one arm for each fact")]
pub(in crate::command::explain) fn unknowns(missing: &[Missing]) -> Vec<String> {
    let mut words = Vec::new();
    for Missing { fact, subject, other } in missing {
        let is_part = other.is_part();
        let (subject, other) = (shown(subject), shown(other));
        let labels = |of: &str, keys: &[String]| match keys {
            [] => format!("the labels of {of}: no object in the input says them"),
            keys if keys.iter().all(|key| is_topology_label(key)) => format!(
                "the labels {} of {of}: it gets them from its node when it is bound to one",
                shorten(keys, NAMED, ", ")
            ),
            keys => format!("the labels {} of {of}: its controller adds them to its pods", shorten(keys, NAMED, ", ")),
        };
        let word = match fact {
            MissingFact::Address => format!("the address of {other}: an ipBlock that applies to {subject} may hold it"),
            MissingFact::Backends { external_name: Some(name), .. } => {
                format!("where {other} leads: to the DNS name {name}, and no object says its addresses")
            }
            MissingFact::Backends { selector, why, .. } => {
                where_it_leads(&other, selector.as_deref().unwrap_or_default(), why)
            }
            MissingFact::Node => {
                format!("the node that {subject} runs on: traffic with its own node is always allowed")
            }
            MissingFact::HostPort(port) => {
                format!("the node that {other} runs on: hostPort {port} leads to it on that node only")
            }
            MissingFact::BackendNode(node) => format!(
                "whether {other} runs on the node {node}: the Service's externalTrafficPolicy is Local, so a node leads to \
                 its own pods only"
            ),
            MissingFact::EntryNode(node) => format!(
                "whether {subject} runs on the node {node}: its own node translates the port before policies judge, another \
                 one behind them"
            ),
            MissingFact::SourceRanges(ranges) => format!(
                "by which way {subject} comes: loadBalancerSourceRanges of the Service ({}) do not hold it, so the load \
                 balancer's addresses do not take it",
                shorten(ranges, NAMED, ", ")
            ),
            MissingFact::AddressInSourceRanges(ranges) => format!(
                "whether the address of {subject} is in loadBalancerSourceRanges of the Service ({}): the load balancer's \
                 address takes no other client, no pod either",
                shorten(ranges, NAMED, ", ")
            ),
            MissingFact::Balancer { address, namespace, name } => format!(
                "where the load balancer {address} of service {namespace}/{name} sends it, and from which address: nodes do \
                 not take what goes to it (ipMode Proxy); ask about {namespace}/svc/{name}"
            ),
            MissingFact::LocalAddress(address, listeners) if listeners.is_empty() => {
                let address = if is_part { format!("an address of {other}") } else { address.to_string() };
                format!(
                    "whether {address} is one of the node that {subject} runs on, as that of a DNS cache on each node is \
                     (NodeLocal DNSCache): a pod and its own node are always allowed"
                )
            }
            MissingFact::LocalAddress(address, listeners) => format!(
                "whether {} listens at {address} on the node that {subject} runs on, as its arguments say: a pod and its own \
                 node are always allowed",
                shorten(listeners, NAMED, ", ")
            ),
            MissingFact::BesideServices(address, services) => format!(
                "which host takes what goes to {address}: kube-proxy leads it to no Service (the address is one of {}), and \
                 what listens behind it the input does not say",
                shorten(services, NAMED, ", ")
            ),
            MissingFact::NodePort(first, last) => {
                format!("whether {} of {other} leads to a Service: Services were not read", one_port(*first, *last))
            }
            MissingFact::UnchosenNodePort(first, last, services) => format!(
                "whether {} of {other} leads to service {}: the API server chooses its nodePort, and no object says \
                 which",
                one_port(*first, *last),
                shorten(services, NAMED, ", ")
            ),
            MissingFact::NotJudged(names) => format!(
                "what becomes of what goes to {}: these are too many to judge for one question; ask about svc/NAME or \
                 NODE:PORT",
                shorten(names, NAMED, ", ")
            ),
            MissingFact::NodeAddress(name) => format!("the addresses of node/{name}: no object of the input says them"),
            MissingFact::IsNode(_, port) if is_part => format!(
                "whether an address of {other} is a node's: no Node of the input says it, and port {port} of a node leads to a \
                 Service or a pod"
            ),
            MissingFact::IsNode(address, port) => format!(
                "whether {address} is a node's address: no Node of the input says it, and port {port} of a node leads to a \
                 Service or a pod"
            ),
            MissingFact::SameNode => format!(
                "whether {subject} and {other} are on one node: the Service's traffic policy is Local, so a node leads to \
                 its own pods only"
            ),
            MissingFact::SubjectLabels(keys) => format!("{}, and policies select by them", labels(&subject, keys)),
            MissingFact::PeerLabels(keys) => {
                format!("{}, and rules that apply to {subject} select by them", labels(&other, keys))
            }
            MissingFact::NamespaceLabels(name) => {
                format!("the labels of namespace {name}, by which rules that apply to {subject} select")
            }
            MissingFact::Holder(address, unread) => format!(
                "whether {address} is a pod's or a Service's address: {}",
                shorten(&unread_words(unread.iter()), NAMED, "; ")
            ),
            MissingFact::UnreadPods(unread) => format!(
                "which pods there are besides, with which labels and policies: {}",
                shorten(&unread_words(unread.iter()), NAMED, "; ")
            ),
            MissingFact::Unread(policies) => {
                let policies: Vec<String> = policies.iter().map(ToString::to_string).collect();
                format!("policies that may select {subject} and were not read: {}", shorten(&policies, NAMED, "; "))
            }
        };
        if !words.contains(&word) {
            words.push(word);
        }
    }
    words
}
