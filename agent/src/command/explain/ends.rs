//! The ends that an endpoint stands for, and what they are called.

use std::collections::BTreeSet;
use std::net::IpAddr;

use npc_compiler::algebra::traffic::Traffic;
use npc_compiler::cluster::PodId;
use npc_compiler::object::{Family, Protocol, Service};
use npc_compiler::verdict::explain::Party;
use npc_compiler::verdict::flow::End;

use super::{Context, zones};
use crate::command::endpoint::{Port, Resolved, Target, short_kind};
use crate::command::{Exit, Stop};

/// What an end is called.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Default)]
pub(super) struct Label {
    pub(super) kind: String,
    pub(super) namespace: Option<String>,
    pub(super) name: String,
    pub(super) addresses: Vec<IpAddr>,
    pub(super) host_network: bool,
}

/// One end: a pod, or an address.
#[derive(Debug, Clone)]
pub(super) struct Unit {
    pub(super) party: Party,
    /// Of an address that was given, only its family is meant.
    pub(super) only: Option<Family>,
    pub(super) label: Label,
    /// What it is a part of; the addresses are added later.
    pub(super) whole: Label,
    /// It stands for any number of replicas.
    pub(super) is_template: bool,
}

impl Label {
    /// As it is shown: `shop/deploy/api`.
    pub(super) fn shown(&self) -> String {
        match (&self.namespace, self.kind.as_str()) {
            (Some(namespace), kind) => format!("{namespace}/{}/{}", short_kind(kind), self.name),
            (None, "Node") => format!("node/{}", self.name),
            (None, _) => self.name.clone(),
        }
    }
}

/// The ends that an endpoint stands for.
pub(super) fn units(context: &Context<'_>, of: &Resolved) -> Result<Vec<Unit>, Stop> {
    let cluster = &context.input.cluster;
    Ok(match &of.target {
        Target::Pod(pod) => vec![unit_of_pod(context, *pod)],
        Target::Pods(pods) => units_of_pods(context, pods),
        Target::Node(addresses) if addresses.is_empty() => {
            return Err(Stop::new(Exit::Unknown, format!("the input says no address of {}", of.name)));
        }
        Target::Node(addresses) => {
            let name = of.name.strip_prefix("no/").unwrap_or(&of.name).to_owned();
            let unit = |address: &IpAddr| unit_of_address(context, *address, "Node", &name);
            addresses.iter().map(unit).collect()
        }
        Target::Address(address) => match End::of_address(cluster, *address) {
            End::Pod(pod) => {
                let mut unit = unit_of_pod(context, pod);
                unit.only = Some(Family::of(address));
                unit.label.addresses = vec![*address];
                vec![unit]
            }
            End::Address(_) => vec![unit_of_address(context, *address, "Address", &address.to_string())],
        },
        Target::Blocks(blocks) => {
            let mut units = Vec::new();
            let pods = cluster.endpoints().map(|(id, _)| id);
            let pods = pods.flat_map(|id| Family::ALL.map(|family| cluster.address(id, family))).flatten();
            let taken: BTreeSet<IpAddr> = pods.chain(cluster.nodes().values().flatten().copied()).collect();
            for block in blocks {
                for zone in zones::zones(context.groups, block, &taken) {
                    let mut unit = unit_of_address(context, zone.address, "Block", &zone.text);
                    unit.whole.name = block.network().to_string();
                    units.push(unit);
                }
                let inside = |address: &&IpAddr| {
                    let number = npc_compiler::algebra::cidr::number(**address);
                    Family::of(address) == block.family && block.addresses().contains(number)
                };
                for address in taken.iter().filter(inside) {
                    let one = Resolved { name: String::new(), target: Target::Address(*address), port: None };
                    self::units(context, &one)?.into_iter().for_each(|unit| units.push(unit));
                }
            }
            if of.name == "any" {
                let bare = cluster.endpoints().map(|(id, _)| id);
                let bare: Vec<_> = bare.filter(|id| !Party::End(End::Pod(*id)).has_address(cluster)).collect();
                units.extend(units_of_pods(context, &bare));
            }
            units
        }
        Target::Service(_) => Vec::new(),
    })
}

fn unit_of_address(context: &Context<'_>, address: IpAddr, kind: &str, name: &str) -> Unit {
    let end = End::of_address(&context.input.cluster, address);
    let label = Label {
        kind: kind.to_owned(),
        namespace: None,
        name: name.to_owned(),
        addresses: vec![address],
        host_network: false,
    };
    Unit { party: Party::End(end), only: Some(Family::of(&address)), whole: label.clone(), label, is_template: false }
}

/// A pod that is meant by itself.
fn unit_of_pod(context: &Context<'_>, id: PodId) -> Unit {
    let cluster = &context.input.cluster;
    let pod = cluster.pod(id);
    let party = if pod.host_network { Party::Host(id) } else { Party::End(End::Pod(id)) };
    let label = Label {
        kind: "Pod".to_owned(),
        namespace: Some(pod.namespace.clone()),
        name: pod.name.clone(),
        addresses: Family::ALL.into_iter().filter_map(|family| party.address(cluster, family)).collect(),
        host_network: pod.host_network,
    };
    Unit { party, only: None, whole: label.clone(), label, is_template: false }
}

/// Pods that are meant as parts of their workloads.
pub(super) fn units_of_pods(context: &Context<'_>, pods: &[PodId]) -> Vec<Unit> {
    let unit = |id: &PodId| {
        let mut unit = unit_of_pod(context, *id);
        let pod = context.input.cluster.pod(*id);
        if let Some(workload) = &pod.workload {
            unit.whole.kind.clone_from(&workload.kind);
            unit.whole.name.clone_from(&workload.name);
        }
        if pod.is_template() {
            unit.label = unit.whole.clone();
            unit.is_template = true;
        }
        unit
    };
    pods.iter().map(unit).collect()
}

/// The traffic that a port means at a destination; none where it has none of
/// this name.
pub(super) fn traffic(context: &Context<'_>, to: &Unit, port: Option<&Port>) -> Option<Traffic> {
    match port {
        None => Some(Traffic::all()),
        Some(Port::Numbers(protocol, first, last)) => {
            Some(Traffic::ports(protocol.unwrap_or(Protocol::Tcp), *first, *last))
        }
        Some(Port::Name(name)) => {
            let (Party::End(End::Pod(pod)) | Party::Host(pod)) = to.party else { return None };
            let ports = context.input.cluster.pod(pod).ports.iter().filter(|port| port.name == *name);
            ports.map(|port| Traffic::ports(port.protocol, port.port, port.port)).reduce(|a, b| a.union(&b))
        }
    }
}

pub(super) fn no_such_port(context: &Context<'_>, to: &Resolved, units: &[Unit]) -> Stop {
    let names: BTreeSet<&str> = units
        .iter()
        .filter_map(|unit| match unit.party {
            Party::End(End::Pod(pod)) | Party::Host(pod) => Some(&context.input.cluster.pod(pod).ports),
            Party::End(End::Address(_)) => None,
        })
        .flatten()
        .map(|port| port.name.as_str())
        .collect();
    let name = match &to.port {
        Some(Port::Name(name)) => name,
        _ => "",
    };
    let known = if names.is_empty() {
        "it names no ports".to_owned()
    } else {
        format!("its ports are {}", names.into_iter().collect::<Vec<_>>().join(", "))
    };
    Stop::new(Exit::NotFound, format!("{} has no port named {name:?}; {known}", to.name))
}

/// The pods that a service leads to.
pub(super) fn backends(context: &Context<'_>, service: &Service) -> Vec<PodId> {
    let Some(selector) = &service.selector else { return Vec::new() };
    let selects = |pod: &npc_compiler::object::Pod| {
        !pod.finished
            && !pod.terminating
            && pod.namespace == service.namespace
            && selector.iter().all(|(key, value)| pod.labels.get(key) == Some(value))
    };
    context.input.cluster.pods().filter(|(_, pod)| selects(pod)).map(|(id, _)| id).collect()
}

/// The name of the one port that is asked about.
pub(super) fn port_name(context: &Context<'_>, to: &Unit, traffic: &Traffic, port: Option<&Port>) -> Option<String> {
    let (protocol, first, last) = traffic.single()?;
    if let Some(Port::Name(name)) = port {
        return Some(name.clone());
    }
    let (Party::End(End::Pod(pod)) | Party::Host(pod)) = to.party else { return None };
    let ports = &context.input.cluster.pod(pod).ports;
    let named = ports.iter().find(|port| port.protocol == protocol && port.port == first && first == last);
    named.map(|port| port.name.clone())
}
