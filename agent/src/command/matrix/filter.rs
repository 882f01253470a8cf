//! What of a matrix is asked for: a namespace, labels, sources, destinations, a port.

use std::collections::BTreeSet;
use std::net::IpAddr;

use npc_compiler::algebra::traffic::Traffic;
use npc_compiler::cluster::PodId;
use npc_compiler::cluster::backend::BackendEnd;
use npc_compiler::cluster::group::Groups;
use npc_compiler::cluster::without_backend::{NoBackend, WhyUnknown};
use npc_compiler::object::{Protocol, Service};
use npc_compiler::verdict::explain::{Port, QuestionEnd};
use npc_compiler::verdict::flow::End;
use npc_compiler::verdict::matrix::{Matrix, MatrixFilter, MatrixOptions, TooLarge};

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

/// Services that are asked for and lead to no pod: from them and to them nothing passes.
#[derive(Debug, Default)]
pub(super) struct Nowhere {
    /// Their names, where they are asked for as sources.
    pub(super) from: Vec<String>,
    /// The same as destinations.
    pub(super) to: Vec<String>,
    /// Why they lead nowhere.
    pub(super) why: BTreeSet<String>,
}

/// What the flags ask for.
pub(super) struct Selected<'a> {
    pub(super) matrix: Matrix<'a>,
    pub(super) outside: OutsideShown,
    pub(super) nowhere: Nowhere,
}

/// The ends that a flag names.
#[derive(Debug, Default)]
struct ShownEnds {
    /// Services that lead to no pod, and why.
    nowhere: Vec<(String, String)>,
    pods: BTreeSet<PodId>,
    addresses: BTreeSet<IpAddr>,
    outside: bool,
    any: bool,
}

impl Args {
    /// The part of the matrix that the flags ask for. Nothing else is judged.
    pub(super) fn select<'a>(
        &self,
        input: &'a Input,
        groups: &Groups,
        options: &MatrixOptions,
    ) -> anyhow::Result<Selected<'a>> {
        let from = named(&self.from, input)?;
        let to = named(&self.to, input)?;
        let namespace = self.input.only_namespace();
        let traffic = self.port.as_ref().map_or_else(|| Ok(Traffic::all()), traffic)?;
        let is_asked_for = |end: &End, named: &ShownEnds| match end {
            End::Pod(id) => {
                let pod = input.cluster.pod(*id);
                // An end that is named is shown, in whichever namespace it is.
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
        let matrix = Matrix::select(&input.cluster, groups, options, &MatrixFilter { shown: &shown, traffic })
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
            for (name, why) in ends {
                nowhere.why.insert(format!("{name} leads to no pod of the input, so nothing passes: {why}"));
                names.push(name);
            }
        }
        Ok(Selected { matrix, outside, nowhere })
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
            QuestionEnd::Pods(pods) => named.pods.extend(pods),
            QuestionEnd::Address(address) => {
                named.addresses.insert(address);
                named.pods.extend(input.cluster.holders(address, None));
            }
            // By its address, a Service has a row where --address names it.
            QuestionEnd::ServiceAddress(_, address) => drop(named.addresses.insert(address)),
            // Its pods are, by their own ports.
            QuestionEnd::Service(service) if pods_behind(input, service).is_some() => {
                let pods = pods_behind(input, service).unwrap_or_default();
                named.pods.extend(pods);
                say!(
                    "npc: {} stands for its pods here, with their own ports; ask npc explain about ports of the Service",
                    resolved.name
                );
            }
            QuestionEnd::Any => named.any = true,
            QuestionEnd::Outside => named.outside = true,
            QuestionEnd::Service(service)
                if service.selector.is_some()
                    && input.cluster.selected_pods(service).is_empty()
                    && !is_unknown(input, service) =>
            {
                let why = NoBackend::NoPod(input.cluster.why_no_pod(service));
                named.nowhere.push((resolved.name, without_backend(input, service, &why)));
            }
            QuestionEnd::Service(service) if is_unknown(input, service) => {
                let (name, why) = (&resolved.name, input.cluster.why_unknown(service));
                let labels = service.selector.iter().flatten().map(|(key, value)| format!("{key}={value}"));
                let selector = labels.collect::<Vec<_>>().join(",");
                let message = format!(
                    "it is not known {}, so the matrix has no column of it; ask npc explain SRC {name}",
                    where_it_leads(name, &selector, &why)
                );
                return Err(Stop::new(Exit::Input, message).into());
            }
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

/// The pods where a Service leads, if the input says that it leads to pods that are endpoints.
fn pods_behind(input: &Input, service: &Service) -> Option<Vec<PodId>> {
    let pods = input.cluster.behind(service)?.into_iter().filter_map(|end| match end {
        BackendEnd::Pod(pod) => Some(pod).filter(|pod| input.cluster.pod(*pod).is_endpoint()),
        BackendEnd::Address(_) => None,
    });
    Some(pods.collect::<Vec<_>>()).filter(|pods| !pods.is_empty())
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

/// Whether the input does not say where a Service leads.
fn is_unknown(input: &Input, service: &Service) -> bool {
    input.cluster.why_unknown(service) != WhyUnknown::NoPod
}
