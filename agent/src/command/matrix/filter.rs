//! What of a matrix is asked for: a namespace, labels, sources, destinations, a port.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use npc_agent::source::manifests::ObjectRef;
use npc_compiler::algebra::traffic::Traffic;
use npc_compiler::cluster::PodId;
use npc_compiler::cluster::backend::BackendEnd;
use npc_compiler::cluster::group::Groups;
use npc_compiler::cluster::without_backend::{NoBackend, NoPod};
use npc_compiler::object::{Protocol, Service};
use npc_compiler::verdict::explain::{Port, QuestionEnd};
use npc_compiler::verdict::flow::End;
use npc_compiler::verdict::matrix::{By, Matrix, MatrixFilter, MatrixOptions, TooLarge};

use super::Args;
use crate::command::endpoint::{EndpointText, check_namespace, is_of_hosts};
use crate::command::explain::no_backend::without_backend;
use crate::command::explain::warnings::where_it_leads;
use crate::command::input::Input;
use crate::command::{Exit, Stop};

/// Whether addresses outside are shown as a source and as a destination.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct OutsideShown {
    pub(super) from: bool,
    pub(super) to: bool,
}

/// Services that are asked for and lead nowhere: from them and to them nothing passes.
#[derive(Debug, Default)]
pub(super) struct Nowhere {
    /// Their names, where they are asked for as sources.
    pub(super) from: Vec<String>,
    /// The same as destinations.
    pub(super) to: Vec<String>,
    /// What is said of each: that it leads nowhere, and why.
    pub(super) why: BTreeMap<ObjectRef, String>,
}

/// What the flags ask for.
pub(super) struct Selected<'a> {
    pub(super) matrix: Matrix<'a>,
    /// The addresses that it has as endpoints.
    pub(super) addresses: Vec<IpAddr>,
    pub(super) outside: OutsideShown,
    pub(super) nowhere: Nowhere,
}

/// The ends that a flag names.
#[derive(Debug, Default)]
struct ShownEnds {
    /// Services that lead nowhere, their names, and why.
    nowhere: Vec<(ObjectRef, String, String)>,
    pods: BTreeSet<PodId>,
    addresses: BTreeSet<IpAddr>,
    outside: bool,
    any: bool,
}

impl Args {
    /// The part of the matrix that the flags ask for. Nothing else is judged.
    pub(super) fn select<'a>(&self, input: &'a Input, groups: &Groups, by: By) -> anyhow::Result<Selected<'a>> {
        let from = named(&self.from, input)?;
        let to = named(&self.to, input)?;
        let mut addresses = self.address.clone();
        for address in from.addresses.iter().chain(&to.addresses) {
            if !addresses.contains(address) && input.cluster.holders(*address, None).is_empty() {
                addresses.push(*address);
            }
        }
        let options = MatrixOptions { by, addresses: addresses.clone() };
        let namespace = self.input.only_namespace();
        let traffic = self.port.as_ref().map_or_else(|| Ok(Traffic::all()), traffic)?;
        let is_asked_for = |end: &End, named: &ShownEnds| match end {
            End::Pod(id) => {
                let pod = input.cluster.pod(*id);
                // An end that is named is shown, in any namespace.
                (named.pods.contains(id) || (named.any && namespace.is_none_or(|namespace| pod.namespace == namespace)))
                    && self.selector.as_ref().is_none_or(|labels| labels.select(&pod.labels))
            }
            End::Address(address) | End::Unread(address) => named.any || named.addresses.contains(address),
        };
        let asked = |ends: &[End], named: &ShownEnds| ends.iter().any(|end| is_asked_for(end, named));
        let shown = |ends: &[End]| (asked(ends, &from), asked(ends, &to));
        if let Some(namespace) = namespace {
            check_namespace(input, namespace)?;
        }
        if let Some(namespace) = namespace
            && !(from.any && to.any)
        {
            let hidden = input.cluster.endpoints().filter(|(_, pod)| pod.namespace != namespace).count();
            match hidden {
                0 => {}
                1 => say!("npc: -n {namespace} hides 1 pod of another namespace; {HOW_TO_SHOW}"),
                _ => say!("npc: -n {namespace} hides {hidden} pods of other namespaces; {HOW_TO_SHOW}"),
            }
        }
        let matrix = Matrix::select(&input.cluster, groups, &options, &MatrixFilter { shown: &shown, traffic })
            .map_err(|TooLarge { sources, destinations }| {
                Stop::new(
                    Exit::Input,
                    format!(
                        "rules distinguish {sources} kinds of sources and {destinations} kinds of destinations, too \
                         many for one matrix; {SHOW_LESS}"
                    ),
                )
            })?;
        let outside = OutsideShown { from: from.any || from.outside, to: to.any || to.outside };
        let mut nowhere = Nowhere::default();
        for (ends, names) in [(from.nowhere, &mut nowhere.from), (to.nowhere, &mut nowhere.to)] {
            for (service, name, why) in ends {
                let text = format!("{name} leads to no pod of the input, so nothing passes: {why}");
                nowhere.why.insert(service, text);
                names.push(name);
            }
        }
        Ok(Selected { matrix, addresses, outside, nowhere })
    }
}

/// How to see what `-n` hides: it names the namespace of endpoints, and shows that one only.
const HOW_TO_SHOW: &str = "for these say -A, and endpoints as NAMESPACE/NAME";

/// What helps where a matrix is too large.
pub(super) const SHOW_LESS: &str = "show a part of it: -n NAMESPACE, --from ENDPOINT, --to ENDPOINT or -l LABELS";

/// What the endpoints of a flag stand for.
fn named(written: &[EndpointText], input: &Input) -> anyhow::Result<ShownEnds> {
    let mut named = ShownEnds { any: written.is_empty(), ..ShownEnds::default() };
    for written in written {
        if written.port.is_some() {
            return Err(Stop::new(Exit::Input, "--from and --to take no port; say --port").into());
        }
        let resolved = written.resolve(input, &input.namespace)?;
        if is_of_hosts(&input.cluster, &resolved.target) {
            let message = format!(
                "the matrix has no endpoint {name}, because its pods are hostNetwork pods and no \
                 policy applies to them; ask npc explain {name} DST, or npc explain SRC {name}",
                name = resolved.name
            );
            return Err(Stop::new(Exit::Input, message).into());
        }
        match resolved.target {
            QuestionEnd::Pod(pod) => drop(named.pods.insert(pod)),
            QuestionEnd::Pods(pods) | QuestionEnd::Namespace { pods, .. } => named.pods.extend(pods),
            QuestionEnd::Address(address) => {
                named.addresses.insert(address);
                named.pods.extend(input.cluster.holders(address, None));
            }
            // By its address, a Service has a row where --address names it.
            QuestionEnd::ServiceAddress(_, address) => drop(named.addresses.insert(address)),
            QuestionEnd::Service(service) => named.add_service(input, service, resolved.name)?,
            QuestionEnd::Any => named.any = true,
            QuestionEnd::Outside => named.outside = true,
            _ => {
                let message = format!(
                    "the matrix has no endpoint {}; name a pod, a workload, svc/NAME with pods, ns/NAME, an --address or outside",
                    resolved.name
                );
                return Err(Stop::new(Exit::Input, message).into());
            }
        }
    }
    Ok(named)
}

impl ShownEnds {
    /// Adds where a Service leads: policies match its backends, by their own ports.
    fn add_service(&mut self, input: &Input, service: &Service, name: String) -> Result<(), Stop> {
        let cluster = &input.cluster;
        let Some(behind) = cluster.behind(service) else {
            let why = cluster.why_unknown(service);
            let labels = service.selector.iter().flatten().map(|(key, value)| format!("{key}={value}"));
            let selector = labels.collect::<Vec<_>>().join(",");
            let message = format!(
                "it is not known {}, so the matrix has no column of it; ask npc explain SRC {name}",
                where_it_leads(&name, &selector, &why)
            );
            return Err(Stop::new(Exit::Input, message));
        };
        if behind.is_empty() {
            let by_port = service.ports.first().map(|port| cluster.why_none(service, port));
            let why = match by_port.unwrap_or_else(|| NoBackend::NoPod(cluster.why_no_pod(service))) {
                // No port was asked about.
                NoBackend::NoPod(NoPod::NoEndpoint) => "its EndpointSlices list no endpoint".to_owned(),
                why => without_backend(input, service, &why),
            };
            let object = ObjectRef::new("Service", &service.namespace, &service.name);
            self.nowhere.push((object, name, why));
            return Ok(());
        }
        let (mut shown, mut what, mut hidden) = (0_usize, "pods", BTreeSet::new());
        for end in behind {
            match end {
                BackendEnd::Pod(id) => {
                    let pod = cluster.pod(id);
                    if pod.only_in_slice {
                        hidden.insert("pods that only EndpointSlices name, so their labels are not known");
                    } else if pod.host_network {
                        hidden.insert("hostNetwork pods, to which no policy applies");
                    } else {
                        shown += 1;
                        self.pods.insert(id);
                    }
                }
                BackendEnd::Address(address) => {
                    (shown, what) = (shown + 1, "backends");
                    self.addresses.insert(address);
                }
            }
        }
        let hidden = Vec::from_iter(hidden).join(", and ");
        let ask = format!("ask npc explain SRC {name}");
        match (shown, hidden.as_str()) {
            (0, _) => Err(Stop::new(
                Exit::Input,
                format!("the matrix has no endpoint {name}, because it leads to {hidden}; {ask}"),
            )),
            (_, "") => {
                say!(
                    "npc: {name} stands for its {what} here, with their own ports; ask npc explain about ports of the Service"
                );
                Ok(())
            }
            _ => {
                say!(
                    "npc: {name} stands for its {what} here, with their own ports, but for {hidden}; {ask} about these"
                );
                Ok(())
            }
        }
    }
}

/// The traffic to a port; without a protocol, of all protocols.
fn traffic(port: &Port) -> Result<Traffic, Stop> {
    match port {
        Port::Numbers(Some(protocol), first, last) => Ok(Traffic::ports(*protocol, *first, *last)),
        Port::Numbers(None, first, last) => {
            Ok(Traffic::of_ranges(Protocol::ALL.map(|protocol| (protocol, *first, *last))))
        }
        Port::Icmp => Ok(Traffic::icmp()),
        Port::Name(name) => {
            let message = format!("--port {name}: a name means other numbers at other pods; give a number");
            Err(Stop::new(Exit::Input, message))
        }
    }
}
