//! `npc explain`: why a flow is or is not allowed.

mod answer;
mod fix;
mod places;
mod reasons;
mod services;
mod traffic;
pub(super) mod warnings;
mod words;

use clap_complete::engine::ArgValueCompleter;
use npc_compiler::cluster::group::Groups;
use npc_compiler::cluster::without_backend::NoBackend;
use npc_compiler::cluster::{Cluster, PodId};
use npc_compiler::verdict::explain::{
    FlowExplanation, QuestionEnd, Unanswerable, Verdict, explain, explain_endpoint, explain_parts,
};

use super::endpoint::{EndpointText, Resolved, is_of_hosts};
use super::input::{self, Input, NamedEnds};
use super::words::policies_and_pods;
use super::{Exit, Stop, completion, output};
use crate::command::output::Format;
use answer::unread_end::UnreadEnd;
use answer::{endpoint, json, policy, text};
use places::place;
pub(super) use services::no_backend;

/// Explain why a flow is or is not allowed; for one endpoint alone, what isolates it,
/// and what it may send and receive; for netpol/NAME, what that policy does.
///
/// An endpoint is [NS/][TYPE/]NAME[:PORT], an address or prefix
/// (203.0.113.7:443, [2001:db8::1]:443, 10.0.0.0/8), svc/NAME, node/NAME,
/// ns/NAME, outside (all addresses that no pod and no node has) or any;
/// also NAME.NS, NAME.NS.svc.cluster.local and URLs (`https://api.shop:8443/`). A port is a number, a
/// name, 53/udp, tcp/8080, 8000-8100 or icmp; without a port, all ports are meant.
///
/// Below a denial stand the rule that comes nearest, with marks on what it fails by, and the
/// smallest change that allows the flow. `npc reason CODE` explains a code, such as the one in
/// denied[port-number].
#[allow(rustdoc::broken_intra_doc_links, reason = "clap prints the brackets as they stand")]
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub(super) struct Args {
    #[command(flatten)]
    input: input::Args,

    /// The source. Without a destination: the endpoint or policy to explain.
    #[arg(value_name = "SRC", add = ArgValueCompleter::new(completion::endpoints_and_policies))]
    from: EndpointText,

    /// The destination.
    #[arg(value_name = "DST[:PORT]", add = ArgValueCompleter::new(completion::endpoints))]
    to: Option<EndpointText>,

    /// Labels, which name no endpoint.
    #[arg(short = 'l', long, value_name = "LABELS", hide = true)]
    selector: Option<String>,

    /// The format of the output.
    #[arg(short, long, value_enum, default_value_t)]
    output: Format,

    /// Exit with 0 instead of 1.
    #[arg(long)]
    exit_zero: bool,
}

/// What help ends with.
const EXAMPLES: &str = "\
Examples:
  npc explain -n shop web api:8080             of the cluster that kubectl would use
  npc explain -f policies/ -f cluster.yaml shop/deploy/web shop/svc/api
  npc explain shop/web 203.0.113.7:443         an address outside
  npc explain shop/web                         all that it may send and receive
  npc explain shop/netpol/api                  what one policy selects and admits

Exit codes: 0 allowed, 1 denied or partial, 2 bad flags or input, 3 an endpoint is not found or
ambiguous, 4 the input lacks a fact that decides, 5 the API server did not answer.";

/// What names and places of policies are looked up in.
struct Context<'a> {
    input: &'a Input,
    places: place::Places<'a>,
}

/// A question and its answer.
struct AnsweredQuestion<'a> {
    context: &'a Context<'a>,
    from: &'a Resolved<'a>,
    to: &'a Resolved<'a>,
    explanation: &'a FlowExplanation,
    fixes: &'a fix::Fixes<'a>,
}

/// Explains.
pub(super) fn run(args: &Args) -> anyhow::Result<Exit> {
    if args.selector.is_some() {
        let message = "explain takes no labels: name an end (deploy/NAME, ns/NAME, any); npc matrix -l LABELS shows \
                       what the pods with these labels may send and receive";
        return Err(Stop::new(Exit::Input, message).into());
    }
    let ends = EndpointText::names([Some(&args.from), args.to.as_ref()].into_iter().flatten());
    let input = args.input.read_for(&NamedEnds { wants_own_labels: true, ..ends })?;
    let cluster = &input.cluster;
    let groups = Groups::of_cluster(cluster);
    let context = Context { input: &input, places: place::Places::new(&input) };
    if let (Some((namespace, name)), None) = (args.from.policy(), &args.to) {
        if args.from.port.is_some() {
            let message = "a policy has no port to ask about: npc explain netpol/NAME shows all that it admits, and npc \
                           explain SRC DST:PORT one flow";
            return Err(Stop::new(Exit::Input, message).into());
        }
        let policy = match policy::find_as_written(&input, namespace, name) {
            Ok(policy) => policy,
            Err(stop) => {
                if stop.exit == Exit::Unknown && matches!(args.output, Format::Json) {
                    let namespace = namespace.unwrap_or(&input.namespace);
                    output::json(&policy::About::unread(&input, format!("{namespace}/{name}"), &stop.message))?;
                }
                return Err(stop.into());
            }
        };
        let about = policy::About::new(&context, &groups, policy);
        match args.output {
            Format::Json => output::json(&about)?,
            Format::Text => about.text(&context, &mut output::stdout())?,
        }
        return Ok(Exit::Fine);
    }
    let from = args.from.resolve(&input, &input.namespace);
    let Some(to) = &args.to else {
        let from = from?;
        if from.port.is_some() {
            let message = "a port needs a source too: npc explain SRC DST:PORT, where SRC may be any or outside";
            return Err(Stop::new(Exit::Input, message).into());
        }
        let explanation = match explain_endpoint(cluster, &groups, &from.target) {
            Ok(explanation) => explanation,
            Err(error) => {
                let stop = without_policies(&input, &error, &from);
                return endpoint::without_policies(&input, &from, stop, args.output);
            }
        };
        let parts = explain_parts(cluster, &groups, &from.target);
        let (name, explanation, parts) = (&from.name, &explanation, &parts);
        let is_of_hosts = is_of_hosts(cluster, &from.target);
        let about = endpoint::About { context: &context, name, explanation, parts, is_of_hosts };
        match args.output {
            Format::Json => output::json(&about.json())?,
            Format::Text => about.text(&mut output::stdout())?,
        }
        return Ok(Exit::Fine);
    };
    if args.from.port.is_some() {
        return Err(Stop::new(Exit::Input, "a port belongs to the destination; the source's does not matter").into());
    }
    let to_text = to;
    let (from, to) = match (from, to.resolve(&input, &input.namespace)) {
        (Ok(from), Ok(to)) => (from, to),
        (from, end) => {
            let unknowns = unread([from.err(), end.err()].into_iter().flatten())?;
            let ends = [args.from.text(), to.text()];
            UnreadEnd { input: &input, ends, unknowns: &unknowns }.write(args.output)?;
            return Ok(Exit::Unknown);
        }
    };
    for (text, resolved) in [(&args.from, &from), (to_text, &to)] {
        if let Some(said) = text.beside_service(cluster, resolved) {
            say!("npc: {said}");
        }
    }
    let asks_any = [&from, &to].iter().any(|end| matches!(end.target, QuestionEnd::Any));
    if asks_any && cluster.endpoints().next().is_none() {
        let message = format!("there are no endpoints to ask about; the input has {}", policies_and_pods(cluster));
        return Err(Stop::new(Exit::NotFound, message).into());
    }
    let explanation = explain(cluster, &groups, &from.target, &to.target, to.port.as_ref())
        .map_err(|error| stop(&error, &to.name, &from.name))?;
    let fixes = fix::Fixes::of(&input, &groups, &explanation);
    let said = AnsweredQuestion { context: &context, from: &from, to: &to, explanation: &explanation, fixes: &fixes };
    match args.output {
        Format::Json => output::json(&json::Answer::of(&said))?,
        Format::Text => text::write(&said, &mut output::stdout())?,
    }
    Ok(match explanation.verdict() {
        Verdict::Allowed => Exit::Fine,
        Verdict::Unknown => Exit::Unknown,
        Verdict::Denied | Verdict::Partial if args.exit_zero => Exit::Fine,
        Verdict::Denied | Verdict::Partial => Exit::Not,
    })
}

/// Why ends may be there that were not read. One that is certainly not there is an error.
fn unread(errors: impl Iterator<Item = anyhow::Error>) -> anyhow::Result<Vec<String>> {
    let why = |error: anyhow::Error| -> anyhow::Result<String> {
        match error.downcast::<Stop>()? {
            Stop { exit: Exit::Unknown, message } => Ok(message),
            stop => Err(stop.into()),
        }
    };
    errors.map(why).collect()
}

/// Why there is nothing to say of an endpoint alone.
fn without_policies(input: &Input, error: &Unanswerable, from: &Resolved<'_>) -> Stop {
    let cluster = &input.cluster;
    match (error, &from.target) {
        (Unanswerable::NoEndpoint, QuestionEnd::Service(service)) if service.routing.external_name.is_some() => {
            Stop::new(
                Exit::Unknown,
                format!(
                    "{} leads to the DNS name {} (type ExternalName) and to no pod, so no policy is about it; ask about flows \
                 to the addresses of that name: npc explain SRC ADDRESS",
                    from.name,
                    service.routing.external_name.as_deref().unwrap_or_default()
                ),
            )
        }
        (Unanswerable::NoEndpoint, QuestionEnd::Service(service)) if service.selector.is_none() => {
            // That it leads to no pod is an answer.
            let exit = if cluster.behind(service).is_some() { Exit::Fine } else { Exit::Unknown };
            let message = format!(
                "{} has no selector, so only EndpointSlices say where it leads. Those of the input name no pod that \
                 policies apply to. Ask about flows to it: npc explain SRC {0}",
                from.name
            );
            Stop::new(exit, message)
        }
        (Unanswerable::NoEndpoint, QuestionEnd::Service(service)) => {
            let why = if cluster.selected_pods(service).is_empty() {
                no_backend::without_backend(input, service, &NoBackend::NoPod(cluster.why_no_pod(service)))
            } else {
                "its selector selects only hostNetwork pods, or pods that are not ready".to_owned()
            };
            let message = format!(
                "{} leads to no pod of the input that policies apply to: {why}; ask npc explain SRC {0} about the flows \
                 to it",
                from.name
            );
            Stop::new(Exit::Fine, message)
        }
        (Unanswerable::NoEndpoint, QuestionEnd::Pod(_) | QuestionEnd::Pods(_) | QuestionEnd::Namespace { .. })
            if is_of_hosts(cluster, &from.target) =>
        {
            let why = "no policy applies to its pods, because they are hostNetwork pods: policies of \
                       the other ends see the addresses of these nodes";
            let ask = format!("ask npc explain {0} DST, or npc explain SRC {0}", from.name);
            if has_addresses(cluster, &from.target) {
                let message = format!("{}: {why}, and these are too many for one answer; {ask}", from.name);
                return Stop::new(Exit::Input, message);
            }
            let message = format!(
                "what {} may send and receive is not known: {why}, and the input says none of them; {ask}",
                from.name
            );
            Stop::new(Exit::Unknown, message)
        }
        (Unanswerable::NoEndpoint, QuestionEnd::Node { addresses, .. }) if addresses.is_empty() => {
            Stop::new(Exit::Unknown, format!("the input says no address of {}", from.name))
        }
        _ => stop(error, &from.name, &from.name),
    }
}

/// Whether the input says an address of a node on which hostNetwork pods run.
fn has_addresses(cluster: &Cluster, target: &QuestionEnd<'_>) -> bool {
    let has_address = |id: &PodId| {
        let pod = cluster.pod(*id);
        let of_node = |node: &String| cluster.nodes().get(node).is_some_and(|addresses| !addresses.is_empty());
        let is_anywhere = pod.is_on_every_node() && cluster.nodes().values().any(|addresses| !addresses.is_empty());
        pod.addresses().next().is_some() || pod.node.as_ref().is_some_and(of_node) || is_anywhere
    };
    match target {
        QuestionEnd::Pod(pod) => has_address(pod),
        QuestionEnd::Pods(pods) | QuestionEnd::Namespace { pods, .. } => pods.iter().any(has_address),
        _ => false,
    }
}

/// Why a question has no answer, as the command says it.
fn stop(error: &Unanswerable, to: &str, about: &str) -> Stop {
    match error {
        Unanswerable::NoPortNamed { name, known } => {
            let known = match known.as_slice() {
                [] => "it names no ports".to_owned(),
                known => format!("its ports are {}", known.join(", ")),
            };
            Stop::new(Exit::NotFound, format!("{to} has no port named {name:?}; {known}"))
        }
        Unanswerable::TooManyKinds { sources, destinations } => Stop::new(
            Exit::Input,
            format!(
                "rules distinguish {sources} kinds of sources and {destinations} kinds of destinations, too many for \
                 one answer; ask about one pod, Service or namespace (ns/NAME) on one side"
            ),
        ),
        Unanswerable::NoEndpoint => {
            Stop::new(Exit::Input, format!("no policy applies to {about}; ask about it together with a pod"))
        }
    }
}
