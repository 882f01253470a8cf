//! From the names that people write to what they stand for in the input.

use std::collections::BTreeSet;
use std::net::IpAddr;

use npc_agent::endpoint::{NameMeaning, as_dns, is_type, readings};
use npc_agent::source::manifests::ObjectRef;
use npc_compiler::algebra::cidr::{self, Cidr};
use npc_compiler::cluster::PodId;
use npc_compiler::cluster::backend::BackendEnd;
use npc_compiler::object::{Pod, Protocol, Workload, parse_address};
use npc_compiler::verdict::explain::{Port, QuestionEnd};

use super::missing::missing;
use super::named_target::{NamedTarget, everything, is_name_of};
use super::operated::has_maker_of_kind;
use super::{EndpointText, Resolved, What};
use crate::command::input::Input;
use crate::command::{Exit, Stop};

impl EndpointText {
    /// What it stands for in the input.
    pub(in crate::command) fn resolve<'a>(
        &self,
        input: &'a Input,
        default_namespace: &str,
    ) -> anyhow::Result<Resolved<'a>> {
        let port = self.port.clone();
        let by_pod_name = match &self.what {
            What::Object(None, None, name) | What::Host(name) => address_of_pod_name(name),
            _ => None,
        };
        if let Some(address) = by_pod_name {
            return Ok(Resolved { name: address.to_string(), target: QuestionEnd::Address(address), port });
        }
        let (name, target) = match &self.what {
            What::Any => ("any".to_owned(), QuestionEnd::Any),
            What::Outside => ("outside".to_owned(), QuestionEnd::Outside),
            What::Address(address) => at_address(input, *address),
            // One address leads where it leads, however it is written.
            What::Block(cidr) if is_one_address_of_cluster(input, *cidr) => {
                at_address(input, cidr::address(cidr.family, cidr.first))
            }
            What::Block(cidr) => (cidr.network().to_string(), QuestionEnd::Blocks(vec![*cidr])),
            What::Object(_, Some(kind), name) if kind == "NetworkPolicy" => {
                let message = format!("a policy is no end of a flow; ask about it alone: npc explain netpol/{name}");
                return Err(Stop::new(Exit::Input, message).into());
            }
            What::Object(namespace, kind, name) => {
                let here = namespace.as_deref().unwrap_or(default_namespace);
                let mut readings = readings(namespace.as_deref(), kind.as_deref(), name, default_namespace);
                if namespace.is_none()
                    && let Some(service) = self.service_with_port(input, name, kind.as_deref())
                {
                    readings.insert(1, service);
                }
                // `rollout/web`, `kafka/events`: a type that npc knows from the input only.
                if let (Some(own), None) = (namespace.as_deref(), kind)
                    && input.cluster.namespace(own).is_none()
                    && makes_pods(input, own)
                {
                    let of_type = (default_namespace, Some(own), name.as_str());
                    if input.may_have_namespace(own) {
                        readings.push(of_type);
                    } else {
                        readings = vec![of_type];
                    }
                }
                // `ds/web` in a cluster with a namespace called ds.
                if let (None, Some(_), Some((own, _))) = (namespace.as_deref(), kind, self.text.split_once('/'))
                    && input.cluster.namespace(own).is_some()
                {
                    readings.push((own, None, name.as_str()));
                }
                let is_dns = namespace.is_none() && matches!(kind.as_deref(), None | Some("Pod"));
                let member = Some(name).filter(|_| is_dns).and_then(|name| member(name, here));
                self.found(input, &readings, member.as_ref())?
            }
            What::Host(name) => {
                let readings = match name.split('.').collect::<Vec<_>>().as_slice() {
                    [name] => vec![(default_namespace, Some("Service"), *name), (default_namespace, None, *name)],
                    [name, namespace] => vec![(*namespace, Some("Service"), *name), (*namespace, None, *name)],
                    _ => as_dns(name, None),
                };
                // A name of outside: what stands behind its first dot is no namespace of the input.
                let is_known = |(namespace, ..): &NameMeaning<'_>| {
                    *namespace == default_namespace || input.cluster.namespace(namespace).is_some()
                };
                let is_inside = readings.iter().any(is_known) || name.split('.').any(|label| label == "svc");
                let readings = if is_inside && !readings.is_empty() {
                    readings
                } else {
                    vec![(default_namespace, None, name.as_str())]
                };
                self.found(input, &readings, member(name, default_namespace).as_ref())?
            }
        };
        Ok(Resolved { name, target, port })
    }

    /// The Service that a client means by `NAME.NS:PORT`, its name in DNS, where it has this port: its pods
    /// may be of a workload with the same name.
    fn service_with_port<'n>(&self, input: &Input, name: &'n str, kind: Option<&str>) -> Option<NameMeaning<'n>> {
        let (name, namespace) = name.split_once('.').filter(|_| kind.is_none())?;
        let service = input.cluster.service(namespace, name)?;
        let has_port = match self.port.as_ref()? {
            Port::Numbers(protocol, first, last) => service.ports.iter().any(|port| {
                port.protocol == protocol.unwrap_or(Protocol::Tcp) && (*first..=*last).contains(&port.port)
            }),
            Port::Name(name) => service.ports.iter().any(|port| port.name.as_ref() == Some(name)),
            Port::Icmp => false,
        };
        has_port.then_some((namespace, Some("Service"), name))
    }

    /// The name and target of the one object that is meant.
    fn found<'a>(
        &self,
        input: &'a Input,
        readings: &[NameMeaning<'_>],
        member: Option<&Member<'_>>,
    ) -> Result<(String, QuestionEnd<'a>), Stop> {
        let found = self.find(input, readings, member)?;
        let (shown, target) = (found.shown(), found.target);
        Ok((shown, follow_external_name(input, target)))
    }

    /// The one object that is meant by the first reading that means any, or why there is none.
    fn find<'a>(
        &self,
        input: &'a Input,
        readings: &[NameMeaning<'_>],
        member: Option<&Member<'_>>,
    ) -> Result<NamedTarget<'a>, Stop> {
        let mut all = everything(input);
        for (namespace, kind, name) in readings {
            let fits = |found: &NamedTarget<'_>| found.name == *name && found.is_in(namespace) && found.is_a(*kind);
            let places: Vec<usize> = (0..all.len()).filter(|place| fits(&all[*place])).collect();
            match places.as_slice() {
                [] => {}
                [place] => return Ok(all.swap_remove(*place)),
                several => {
                    let names: BTreeSet<String> = several.iter().map(|place| all[*place].shown()).collect();
                    let names = Vec::from_iter(names).join(", ");
                    return Err(Stop::new(Exit::NotFound, format!("{:?} is ambiguous; say which: {names}", self.text)));
                }
            }
        }
        if let Some(place) = member.and_then(|member| member.place(input, &all)) {
            return Ok(all.swap_remove(place));
        }
        if let Some(message) = member.and_then(|member| member.why_none(input)) {
            return Err(Stop::new(Exit::NotFound, message));
        }
        if let Some(found) = readings.iter().find_map(|reading| replica_set(input, reading)) {
            return Ok(found);
        }
        // What DNS would say of a name is the last reading, and the plainest where it is a Service's.
        let of_service = readings.last().filter(|(_, kind, _)| *kind == Some("Service") && self.text.contains(".svc"));
        let of_member = member.filter(|of| of.is_certain).map(|of| (of.namespace, Some("Pod"), of.host));
        let (here, kind, name) = of_service.copied().or(of_member).or(readings.first().copied()).unwrap_or_default();
        let is_known = |kind: &str| is_type(kind) || all.iter().any(|found| found.is_a(Some(kind)));
        if let Some(kind) = kind.filter(|kind| !is_known(kind) && !has_maker_of_kind(input, kind)) {
            let message = format!("{kind:?} is no type of endpoint; say deploy, sts, ds, job, pod, svc, node or ns");
            return Err(Stop::new(Exit::Input, message));
        }
        let unknown =
            readings.iter().flat_map(|(namespace, kind, name)| input.unknown_workloads(namespace, *kind, name));
        let unknown: BTreeSet<String> = unknown.collect();
        let unknown = Vec::from_iter(unknown);
        let stop = missing(input, &all, &unknown, (here, kind, name));
        if stop.exit == Exit::NotFound {
            // By another reading it may be in a namespace that was not read.
            let mut others = readings.iter().map(|reading| missing(input, &all, &unknown, *reading));
            if let Some(other) = others.find(|other| other.exit == Exit::Unknown) {
                return Err(other);
            }
        }
        Err(stop)
    }
}

/// Whether a pod of the input is of a workload of this kind, as it is written in an endpoint, or an object of this kind
/// makes pods that are not in the input.
fn makes_pods(input: &Input, kind: &str) -> bool {
    let is_it = |of: &Workload| is_name_of(kind, &of.kind);
    input.cluster.pods().any(|(_, pod)| pod.workload.as_ref().is_some_and(is_it)) || has_maker_of_kind(input, kind)
}

/// The pods of a ReplicaSet that a Deployment has made: they belong to the Deployment, which is asked about
/// in most cases, so ReplicaSets stand in no list.
fn replica_set<'a>(input: &'a Input, (namespace, kind, name): &NameMeaning<'_>) -> Option<NamedTarget<'a>> {
    if kind.is_some_and(|kind| kind != "ReplicaSet" && kind != "Workload") {
        return None;
    }
    let of_it = |(_, pod): &(PodId, &Pod)| {
        !pod.finished && pod.namespace == *namespace && pod.replica_set().as_deref() == Some(*name)
    };
    let pods: Vec<PodId> = input.cluster.named().filter(of_it).map(|(id, _)| id).collect();
    let (kind, namespace, name) = ("ReplicaSet".to_owned(), (*namespace).to_owned(), (*name).to_owned());
    (!pods.is_empty()).then_some(NamedTarget { kind, namespace, name, target: QuestionEnd::Pods(pods) })
}

/// A pod as DNS names it by its headless Service: `POD.SERVICE.NAMESPACE.svc`.
struct Member<'n> {
    host: &'n str,
    service: &'n str,
    namespace: &'n str,
    /// The name says that the middle is a Service, whether or not the input has it.
    is_certain: bool,
}

/// The pod that a name means by its headless Service, if it may mean one.
fn member<'n>(name: &'n str, here: &'n str) -> Option<Member<'n>> {
    let labels: Vec<&str> = name.trim_end_matches('.').split('.').collect();
    let (host, service, namespace, is_certain) = match *labels.as_slice() {
        [host, service, namespace, "svc", ..] => (host, service, namespace, true),
        [_, _, "svc"] => return None,
        [host, service, namespace] => (host, service, namespace, false),
        [host, service] => (host, service, here, false),
        _ => return None,
    };
    Some(Member { host, service, namespace, is_certain })
}

impl Member<'_> {
    /// The place of the pod.
    fn place(&self, input: &Input, all: &[NamedTarget<'_>]) -> Option<usize> {
        let cluster = &input.cluster;
        let service = cluster.service(self.namespace, self.service);
        if service.is_none() && !self.is_certain {
            return None;
        }
        let is_behind = |pod: PodId| {
            let Some(service) = service else { return true };
            let listed = || cluster.behind(service).is_none_or(|behind| behind.contains(&BackendEnd::Pod(pod)));
            cluster.selected_pods(service).contains(&pod) || listed()
        };
        let dns_name = self.dns_name();
        all.iter().position(|found| match &found.target {
            QuestionEnd::Pod(id) if found.namespace == self.namespace => {
                let pod = cluster.pod(*id);
                // If a pod's spec does not say it, any Service may be the one that names the pod.
                let is_it = pod.dns_name.as_deref().map_or(pod.name == self.host, |of| of == dns_name);
                is_it && is_behind(*id)
            }
            _ => false,
        })
    }

    /// Why DNS has no such name, although there is a pod of this name: another Service names it.
    fn why_none(&self, input: &Input) -> Option<String> {
        if !self.is_certain && input.cluster.service(self.namespace, self.service).is_none() {
            return None;
        }
        let (dns_name, namespace) = (self.dns_name(), self.namespace);
        let pods = || input.cluster.named().map(|(_, pod)| pod).filter(|pod| pod.namespace == namespace);
        let of_pod = pods().find(|pod| pod.name == self.host).and_then(|pod| pod.dns_name.as_deref());
        if let Some(own) = of_pod.filter(|own| *own != dns_name) {
            let (_, service) = own.split_once('.')?;
            return Some(format!(
                "DNS has no name {dns_name} in namespace {namespace}: the subdomain of {namespace}/pod/{} is {service}; ask about \
                 {own}.{namespace}",
                self.host
            ));
        }
        let set = pods().find(|pod| pod.stands_for(self.host))?.workload.as_ref()?;
        let object = ObjectRef::new(&set.kind, namespace, &set.name);
        let service = input.loaded.ordinals.get(&object)?.service.as_deref()?;
        (service != self.service).then(|| {
            format!(
                "DNS has no name {dns_name} in namespace {namespace}: the serviceName of {namespace}/sts/{} is {service}; ask \
                 about {}.{service}.{namespace}",
                set.name, self.host
            )
        })
    }

    fn dns_name(&self) -> String {
        format!("{}.{}", self.host, self.service)
    }
}

/// The address in the name that DNS gives every pod: `10-0-0-1.NAMESPACE.pod.cluster.local`.
fn address_of_pod_name(name: &str) -> Option<IpAddr> {
    let labels: Vec<&str> = name.trim_end_matches('.').split('.').collect();
    let [address, _, "pod", ..] = labels.as_slice() else { return None };
    parse_address(&address.replace('-', ".")).or_else(|| parse_address(&address.replace('-', ":")))
}

/// At most this many Services of type ExternalName are followed, one after the other.
const FOLLOWED: usize = 4;

/// The Service of the input to which one of type ExternalName leads by its DNS name.
fn follow_external_name<'a>(input: &'a Input, mut target: QuestionEnd<'a>) -> QuestionEnd<'a> {
    for _ in 0..FOLLOWED {
        let QuestionEnd::Service(service) = target else { break };
        let Some(external) = &service.routing.external_name else { break };
        let named = as_dns(external, Some("Service")).into_iter().find_map(|(namespace, _, name)| {
            input.cluster.service(namespace, name).filter(|_| external.contains(".svc"))
        });
        let Some(next) = named else { break };
        target = QuestionEnd::Service(next);
    }
    target
}

/// What an address is called, and what it stands for.
fn at_address(input: &Input, address: IpAddr) -> (String, QuestionEnd<'_>) {
    match input.cluster.service_alone_at(address) {
        Some(service) => {
            (format!("{}/svc/{}", service.namespace, service.name), QuestionEnd::ServiceAddress(service, address))
        }
        None => (address.to_string(), QuestionEnd::Address(address)),
    }
}

/// Whether a prefix is one address, of a Service or of a node.
fn is_one_address_of_cluster(input: &Input, cidr: Cidr) -> bool {
    let address = cidr::address(cidr.family, cidr.first);
    cidr.first == cidr.last && (input.cluster.is_service(address) || input.cluster.is_node(address))
}
