//! From the names that people write to what they stand for in the input.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use npc_agent::endpoint::{NameMeaning, as_dns, is_type, readings};
use npc_agent::source::manifests::ObjectRef;
use npc_agent::words::near;
use npc_compiler::algebra::cidr::{self, Cidr};
use npc_compiler::cluster::PodId;
use npc_compiler::cluster::backend::BackendEnd;
use npc_compiler::cluster::unread::Unread;
use npc_compiler::object::{Pod, Protocol, Workload, parse_address};
use npc_compiler::verdict::explain::{Port, Target};

use super::{EndpointText, Resolved, What, short_kind};
use crate::command::input::{Input, unread_words};
use crate::command::words::{count_field, policies_and_pods, shorten};
use crate::command::{Exit, Stop};

/// So much of what was not read is named.
const UNREAD: usize = 3;

/// So many names are suggested.
const SUGGESTED: usize = 8;

/// Something of the input that has the name that was written.
struct NamedTarget<'a> {
    kind: String,
    namespace: String,
    name: String,
    target: Target<'a>,
}

impl NamedTarget<'_> {
    fn shown(&self) -> String {
        match self.namespace.as_str() {
            "" => format!("{}/{}", short_kind(&self.kind), self.name),
            namespace => format!("{namespace}/{}/{}", short_kind(&self.kind), self.name),
        }
    }

    /// Whether it is what a type means; without a type, what runs: a service, node or
    /// namespace is asked for by its type.
    fn is_a(&self, kind: Option<&str>) -> bool {
        match kind {
            None => !matches!(self.kind.as_str(), "Service" | "Node" | "Namespace"),
            Some("Workload") => !matches!(self.kind.as_str(), "Service" | "Node" | "Namespace" | "Pod"),
            Some(kind) => self.kind == kind || is_name_of(kind, &self.kind),
        }
    }

    /// Whether it is in this namespace, or in none.
    fn is_in(&self, namespace: &str) -> bool {
        self.namespace.is_empty() || self.namespace == namespace
    }
}

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
            return Ok(Resolved { name: address.to_string(), target: Target::Address(address), port });
        }
        let (name, target) = match &self.what {
            What::Any => ("any".to_owned(), Target::Any),
            What::Outside => ("outside".to_owned(), Target::Outside),
            What::Address(address) => at_address(input, *address),
            // One address leads where it leads, however it is written.
            What::Block(cidr) if is_one_address_of_cluster(input, *cidr) => {
                at_address(input, cidr::address(cidr.family, cidr.first))
            }
            What::Block(cidr) => (cidr.network().to_string(), Target::Blocks(vec![*cidr])),
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
                // `rollout/web` with -n: a type that npc knows from the input only.
                if let (Some(own), None) = (namespace.as_deref(), kind)
                    && input.cluster.namespace(own).is_none()
                    && makes_pods(input, own)
                {
                    readings.push((default_namespace, Some(own), name.as_str()));
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
    ) -> Result<(String, Target<'a>), Stop> {
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
        if let Some(found) = readings.iter().find_map(|reading| replica_set(input, reading)) {
            return Ok(found);
        }
        // What DNS would say of a name is the last reading, and the plainest where it is a Service's.
        let of_service = readings.last().filter(|(_, kind, _)| *kind == Some("Service") && self.text.contains(".svc"));
        let of_member = member.filter(|of| of.is_certain).map(|of| (of.namespace, Some("Pod"), of.host));
        let (here, kind, name) = of_service.copied().or(of_member).or(readings.first().copied()).unwrap_or_default();
        if let Some(kind) = kind.filter(|kind| !is_type(kind) && !all.iter().any(|found| found.is_a(Some(kind)))) {
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

/// Whether a pod of the input is of a workload of this kind, as it is written in an endpoint.
fn makes_pods(input: &Input, kind: &str) -> bool {
    let is_it = |of: &Workload| is_name_of(kind, &of.kind);
    input.cluster.pods().any(|(_, pod)| pod.workload.as_ref().is_some_and(is_it))
}

/// The short names of kinds of other projects that make pods, as their definitions have them.
const SHORT_NAMES: [(&str, &str); 3] =
    [("dc", "DeploymentConfig"), ("ksvc", "Service.serving.knative.dev"), ("ro", "Rollout")];

/// Whether a type of an endpoint is a kind that npc knows from the input only: `rollout`, `rollouts`, `ro`.
fn is_name_of(text: &str, kind: &str) -> bool {
    let (text, own) = (text.to_lowercase(), kind.to_lowercase());
    own == text || text.strip_suffix('s') == Some(own.as_str()) || SHORT_NAMES.contains(&(text.as_str(), kind))
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
    (!pods.is_empty()).then_some(NamedTarget { kind, namespace, name, target: Target::Pods(pods) })
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
    /// The place of the pod, or of the StatefulSet that would make it.
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
        let dns_name = format!("{}.{}", self.host, self.service);
        all.iter().position(|found| {
            let is_meant = |id: &PodId| {
                let pod = cluster.pod(*id);
                let is_it = match found.kind.as_str() {
                    "Pod" => pod.name == self.host || pod.dns_name.as_deref() == Some(&dns_name),
                    "StatefulSet" => pod.stands_for(self.host),
                    _ => false,
                };
                is_it && is_behind(*id)
            };
            found.namespace == self.namespace
                && match &found.target {
                    Target::Pod(pod) => is_meant(pod),
                    Target::Pods(pods) => pods.iter().any(is_meant),
                    _ => false,
                }
        })
    }
}

/// The address in the name that DNS gives every pod: `10-0-0-1.NAMESPACE.pod.cluster.local`.
fn address_of_pod_name(name: &str) -> Option<IpAddr> {
    let labels: Vec<&str> = name.trim_end_matches('.').split('.').collect();
    let [address, _, "pod", ..] = labels.as_slice() else { return None };
    parse_address(&address.replace('-', ".")).or_else(|| parse_address(&address.replace('-', ":")))
}

/// So many Services of type ExternalName are followed, one after the other.
const FOLLOWED: usize = 4;

/// The Service of the input to which one of type ExternalName leads by its DNS name.
fn follow_external_name<'a>(input: &'a Input, mut target: Target<'a>) -> Target<'a> {
    for _ in 0..FOLLOWED {
        let Target::Service(service) = target else { break };
        let Some(external) = &service.routing.external_name else { break };
        let named = as_dns(external, Some("Service")).into_iter().find_map(|(namespace, _, name)| {
            input.cluster.service(namespace, name).filter(|_| external.contains(".svc"))
        });
        let Some(next) = named else { break };
        target = Target::Service(next);
    }
    target
}

/// Why there is no such object, and which one may be meant; unknown is one that may be there and was not
/// read. Of its workloads, it is said why it is not known whether they are there.
fn missing(
    input: &Input,
    all: &[NamedTarget<'_>],
    unknown: &[String],
    (namespace, kind, name): NameMeaning<'_>,
) -> Stop {
    let not_found = |message: String| Stop::new(Exit::NotFound, message);
    let fits_idle = |of: &str| kind.is_none_or(|kind| kind == "Workload" || kind == of);
    let mut idle = input.loaded.idle.keys();
    if let Some(idle) = idle.find(|o| o.namespace == namespace && o.name == name && fits_idle(&o.kind)) {
        let number = count_field(&idle.kind);
        let shown = format!("{namespace}/{}/{name}", short_kind(&idle.kind));
        return not_found(format!("{shown} has no pods to ask about: its {number} is 0"));
    }
    if let Some(message) = finished(input, namespace, kind, name) {
        return not_found(message);
    }
    let mut owned = input.loaded.owned.iter();
    if let Some((of, owner)) = owned.find(|(o, _)| o.namespace == namespace && o.name == name && fits_idle(&o.kind)) {
        let (own, owners) = (short_kind(&of.kind), short_kind(&owner.kind));
        return not_found(format!(
            "{namespace}/{own}/{name} has no pods of its own to ask about; ask about {namespace}/{owners}/{}",
            owner.name
        ));
    }
    let is_scoped = !matches!(kind, Some("Node" | "Namespace"));
    if kind == Some("Namespace") && input.cluster.namespace(name).is_some() {
        return not_found(format!("namespace {name} has no pods to ask about"));
    }
    let what = kind.map_or("workload or pod".to_owned(), str::to_lowercase);
    let same = all.iter().filter(|other| other.name == name);
    let close =
        all.iter().filter(|other| other.is_in(namespace) && other.is_a(kind) && near::is_alike(&other.name, name));
    // A name that the controller of a template would give to one of its pods.
    let of_template = all.iter().filter(|other| match &other.target {
        Target::Pods(pods) if other.kind != "Namespace" && other.is_in(namespace) => {
            pods.iter().any(|id| input.cluster.pod(*id).stands_for(name))
        }
        _ => false,
    });
    let candidates: BTreeSet<String> = same.chain(close).chain(of_template).map(NamedTarget::shown).collect();
    let unread = match kind {
        // Of the namespaces of pods that no object declares, the names are known.
        Some("Namespace") => input.unread_namespaces(name),
        _ => unread(input, kind, if is_scoped { namespace } else { "" }),
    };
    let is_unknown = unread.is_empty() && !unknown.is_empty();
    let nowhere = (is_scoped && unread.is_empty() && !is_unknown).then(|| no_namespace(input, namespace)).flatten();
    let is_nowhere = nowhere.is_some();
    let mut message = nowhere.unwrap_or_else(|| {
        let scope = if is_scoped { format!(" in namespace {namespace}") } else { String::new() };
        match unread.as_slice() {
            [] if is_unknown => {
                let what = kind.map_or("workload".to_owned(), str::to_lowercase);
                let unknown = shorten(unknown, UNREAD, "; ");
                format!("no pod of a {what} {name:?} was read{scope}, but it may be there without pods: {unknown}")
            }
            [] => format!("there is no {what} {name:?}{scope}"),
            unread => {
                let unread = shorten(unread, UNREAD, "; ");
                format!("no {what} {name:?} was read{scope}, but it may be there: {unread}")
            }
        }
    });
    let more = if is_nowhere && message.ends_with('?') {
        // One question is enough: with the right namespace the next answer names what is there.
        String::new()
    } else if !candidates.is_empty() {
        let names: Vec<String> = candidates.into_iter().take(SUGGESTED).collect();
        format!("; did you mean: {}", names.join(", "))
    } else if !unread.is_empty() || is_unknown {
        String::new()
    } else if input.cluster.endpoints().next().is_none() {
        format!("; the input has {}", policies_and_pods(&input.cluster))
    } else {
        String::new()
    };
    message.push_str(&more);
    if kind.is_none() && name.contains('.') && !is_unknown {
        message.push_str("; npc resolves no DNS names of outside: give an address");
    }
    let may_be_there = !unread.is_empty() || is_unknown;
    Stop::new(if may_be_there { Exit::Unknown } else { Exit::NotFound }, message)
}

/// What was not read and may hold such an object, in words. The namespace of what lives outside
/// namespaces is empty.
fn unread(input: &Input, kind: Option<&str>, namespace: &str) -> Vec<String> {
    let is_meant = |of: &str| match kind {
        Some(kind @ ("Node" | "Service" | "Pod")) => of == kind,
        // A workload is known by its own object, or by its pods; one of another project counts as a Deployment.
        Some(kind) if kind != "Workload" => of == kind || of == "Pod" || (of == "Deployment" && !is_type(kind)),
        _ => !matches!(of, "Node" | "Namespace" | "Service" | "EndpointSlice" | "NetworkPolicy"),
    };
    let may_hold = |of: &&Unread| of.kind.as_deref().is_none_or(is_meant) && of.namespace.covers(namespace);
    unread_words(input.cluster.unread().iter().filter(may_hold))
}

/// That there is no such namespace, where the input has others, and which one may be meant.
pub(in crate::command) fn no_namespace(input: &Input, namespace: &str) -> Option<String> {
    let known: BTreeSet<&str> = input.loaded.objects.namespaces.iter().map(|of| of.name.as_str()).collect();
    // Every cluster has the namespace default, whether or not files say so.
    let is_known = input.cluster.namespace(namespace).is_some() || namespace == "default";
    if known.is_empty() || is_known || input.may_have_namespace(namespace) {
        return None;
    }
    let meant = near::nearest(namespace, known.iter().copied());
    let meant = meant.map(|name| format!("; did you mean {name}?")).unwrap_or_default();
    Some(format!("there is no namespace {namespace:?}; the input has {}{meant}", near::listed(known)))
}

/// Says on standard error that a namespace of which endpoints are shown has none; an error where there is no
/// such namespace.
pub(in crate::command) fn check_namespace(input: &Input, namespace: &str) -> Result<(), Stop> {
    if input.cluster.endpoints().any(|(_, pod)| pod.namespace == namespace) {
        return Ok(());
    }
    if let Some(message) = no_namespace(input, namespace).filter(|_| !input.may_hold_pods(namespace)) {
        return Err(Stop::new(Exit::NotFound, message));
    }
    say!("npc: namespace {namespace} has no endpoints; -A shows those of all namespaces");
    Ok(())
}

/// What to say of a pod that has finished, or of a workload all of whose pods have.
fn finished(input: &Input, namespace: &str, kind: Option<&str>, name: &str) -> Option<String> {
    let mut pods = input.cluster.pods().filter(|(_, pod)| pod.finished && pod.namespace == namespace);
    let is_meant = |of: &str| kind.is_none_or(|kind| kind == of || (kind == "Workload" && of != "Pod"));
    pods.find_map(|(_, pod)| {
        if pod.name == name && is_meant("Pod") {
            return Some(format!("{namespace}/pod/{name} has finished: it has no address any more"));
        }
        let workload = pod.workload.as_ref().filter(|workload| workload.name == name && is_meant(&workload.kind))?;
        Some(format!(
            "{namespace}/{}/{name} has no pods to ask about: all its pods have finished",
            short_kind(&workload.kind)
        ))
    })
}

/// What an address is called, and what it stands for.
fn at_address(input: &Input, address: IpAddr) -> (String, Target<'_>) {
    match input.cluster.service_alone_at(address) {
        Some(service) => {
            (format!("{}/svc/{}", service.namespace, service.name), Target::ServiceAddress(service, address))
        }
        None => (address.to_string(), Target::Address(address)),
    }
}

/// Whether a prefix is one address, of a Service or of a node.
fn is_one_address_of_cluster(input: &Input, cidr: Cidr) -> bool {
    let address = cidr::address(cidr.family, cidr.first);
    cidr.first == cidr.last && (input.cluster.is_service(address) || input.cluster.is_node(address))
}

/// The names of all that can be an endpoint, as the answers show them, sorted.
pub(in crate::command) fn names(input: &Input) -> Vec<String> {
    let names: BTreeSet<String> = everything(input).iter().map(NamedTarget::shown).collect();
    names.into_iter().collect()
}

/// The CronJob that has made a Job, where the input says it.
fn cron_job_of<'i>(input: &'i Input, namespace: &str, workload: &Workload) -> Option<&'i ObjectRef> {
    if workload.kind != "Job" || input.loaded.owned.is_empty() {
        return None;
    }
    let job = ObjectRef::new(&workload.kind, namespace, &workload.name);
    input.loaded.owned.get(&job).filter(|owner| owner.kind == "CronJob")
}

/// All that can be an endpoint.
fn everything(input: &Input) -> Vec<NamedTarget<'_>> {
    let cluster = &input.cluster;
    let mut all: Vec<NamedTarget<'_>> = Vec::new();
    let mut workloads = BTreeMap::<(String, String, String), Vec<PodId>>::new();
    let mut namespaces = BTreeMap::<String, Vec<PodId>>::new();
    for (id, pod) in cluster.named() {
        namespaces.entry(pod.namespace.clone()).or_default().push(id);
        if let Some(workload) = &pod.workload {
            let key = (pod.namespace.clone(), workload.kind.clone(), workload.name.clone());
            workloads.entry(key).or_default().push(id);
            if let Some(cron_job) = cron_job_of(input, &pod.namespace, workload) {
                let key = (pod.namespace.clone(), cron_job.kind.clone(), cron_job.name.clone());
                workloads.entry(key).or_default().push(id);
            }
        }
        if !pod.is_template() {
            let (namespace, name) = (pod.namespace.clone(), pod.name.clone());
            all.push(NamedTarget { kind: "Pod".to_owned(), namespace, name, target: Target::Pod(id) });
        }
    }
    all.extend(workloads.into_iter().map(|((namespace, kind, name), pods)| NamedTarget {
        kind,
        namespace,
        name,
        target: Target::Pods(pods),
    }));
    all.extend(cluster.services().map(|service| NamedTarget {
        kind: "Service".to_owned(),
        namespace: service.namespace.clone(),
        name: service.name.clone(),
        target: Target::Service(service),
    }));
    all.extend(namespaces.into_iter().map(|(name, pods)| NamedTarget {
        kind: "Namespace".to_owned(),
        namespace: String::new(),
        name,
        target: Target::Pods(pods),
    }));
    all.extend(cluster.nodes().iter().map(|(name, addresses)| NamedTarget {
        kind: "Node".to_owned(),
        namespace: String::new(),
        name: name.clone(),
        target: Target::Node { name: name.clone(), addresses: addresses.iter().copied().collect() },
    }));
    all
}
