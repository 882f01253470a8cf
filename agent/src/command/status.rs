//! `npc status`: what the agent of this node has programmed.

use std::io::{self, Write};
use std::time::Duration;

use npc_agent::status::{
    self, AgentStatus, BridgeStatus, CniPlugin, ContestedAddress, HeldRemovals, LoadingNamespace, ManifestError,
    Rejected, Spoofable, UnfilteredBridgeStatus, UnreadableObject,
};
use npc_agent::words::counted::counted;
use npc_agent::words::rounded::rounded;
use npc_compiler::policy::finding::FindingCode;

use super::{Exit, Stop, output};
use crate::command::output::Format;

/// Show what the agent on this node has programmed.
///
/// It shows since when, how long the last change took, and which parts of policies
/// the agent rejected. The command asks the agent that runs in this network
/// namespace; in a cluster, run it in the agent's pod with `kubectl exec`. It exits
/// with 1 if the agent is not ready, and with 5 if no agent answers.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// The format of the output.
    #[arg(long, short, value_enum, default_value_t)]
    output: Format,
}

/// Asks, and prints the answer.
pub(super) fn run(args: &Args) -> anyhow::Result<Exit> {
    let status = ask()?;
    match args.output {
        Format::Json => output::json(&status)?,
        Format::Text => print(&status)?,
    }
    Ok(if status.ready { Exit::Fine } else { Exit::Not })
}

fn ask() -> anyhow::Result<AgentStatus> {
    AgentStatus::ask().map_err(|error| {
        let message = match &error {
            status::Error::NoAgent(cause) if cause.kind() != io::ErrorKind::ConnectionRefused => {
                format!("{error} ({cause})")
            }
            // The sentence says it already; the cause is for programmers.
            _ => error.to_string(),
        };
        Stop::new(Exit::Cluster, message).into()
    })
}

fn print(status: &AgentStatus) -> std::io::Result<()> {
    let mut out = output::stdout();
    programmed(status, &mut out)?;
    problems(status, &mut out)?;
    out.flush()
}

/// What is in the kernel, and since when.
fn programmed(status: &AgentStatus, out: &mut impl Write) -> io::Result<()> {
    let (style, word) = if status.ready { (output::GOOD, "READY") } else { (output::BAD, "NOT READY") };
    write!(out, "{style}{word}{style:#}  node {}", status.node)?;
    match &status.reason {
        Some(reason) => writeln!(out, "  {reason}\n")?,
        None => writeln!(out, "\n")?,
    }
    let backend = status.backend.as_deref().unwrap_or("not known yet");
    writeln!(
        out,
        "  agent     npc {} since {:.0}, iptables {backend}, follows {}",
        status.version, status.started, status.source
    )?;
    let policies = counted(status.policies, "policy");
    writeln!(out, "  enforces  {policies}, {} here", counted(status.endpoints, "endpoint"))?;
    for held in &status.kernel {
        writeln!(
            out,
            "  kernel    {}: {}, {}, {}",
            held.family,
            counted(held.rules, "rule"),
            counted(held.sets, "set"),
            counted(held.entries, "entry")
        )?;
    }
    let BridgeStatus { ports, held, guarded, lack } = &status.bridge;
    match lack {
        Some(lack) => writeln!(out, "  bridges   foreign frames are not dropped: {lack}")?,
        None if *ports + *held == 0 => {}
        None => writeln!(
            out,
            "  bridges   {}: plain frames only; {guarded} receive only frames for their own addresses; {held} \
             send only from them",
            if *ports == 1 { "1 port of a pod".to_owned() } else { format!("{ports} ports of pods") }
        )?,
    }
    match &status.synced {
        Some(at) => {
            let changes = counted(usize::try_from(status.generation).unwrap_or(usize::MAX), "change");
            writeln!(out, "  in sync   {at:.0}, {changes} received")?;
        }
        None => writeln!(out, "  in sync   never")?,
    }
    for LoadingNamespace { namespace, since, objects, rules, rules_loaded } in &status.loading {
        let objects = objects.join(", ");
        let progress = match rules {
            0 => "rules not made yet".to_owned(),
            _ => format!("{rules_loaded} of {rules} rules"),
        };
        writeln!(out, "  loading   {namespace} since {since:.0}, {progress}: not in force yet are {objects}")?;
    }
    if let Some(last) = &status.last_change {
        let (compiled, applied) =
            (rounded(Duration::from_micros(last.compile_micros)), rounded(Duration::from_micros(last.apply_micros)));
        writeln!(
            out,
            "  changed   {:.0}: {} (compiled in {compiled}, in the kernel {applied} later)",
            last.at, last.writes
        )?;
    }
    if let Some(plugin) = &status.cni_plugin {
        writeln!(out, "  cni       {}", installation(plugin))?;
    }
    if status.cni_served == Some(false) {
        writeln!(
            out,
            "  cni       the agent cannot make its socket, so the plugin gets no answer; its log has the cause"
        )?;
    }
    if status.cni_saved == Some(false) {
        writeln!(
            out,
            "  cni       what the plugin reported cannot be saved, so the next agent does not know it; the log has the cause"
        )?;
    }
    writeln!(out, "  flows cut {}, drift repaired {}", status.flows_cut, status.drift_repaired)
}

/// What was not read, not understood, or cannot be held.
fn problems(status: &AgentStatus, out: &mut impl Write) -> io::Result<()> {
    for HeldRemovals { kind, objects, since } in &status.held_removals {
        writeln!(out, "  held back {objects} {kind} since {since:.0}: the list without them is doubtful")?;
    }
    for UnreadableObject { kind, namespace, name, error, effect } in &status.unreadable {
        let of = if namespace.is_empty() { name.clone() } else { format!("{namespace}/{name}") };
        writeln!(out, "  unreadable {kind} {of}: {error}; {effect}")?;
    }
    if !status.manifest_errors.is_empty() {
        writeln!(out, "\nnot read of the files:")?;
    }
    for ManifestError { location, field, code, problem, help } in &status.manifest_errors {
        let field = field.as_ref().map(|field| format!("{field}: ")).unwrap_or_default();
        let help = help.as_ref().map(|help| format!("; {help}")).unwrap_or_default();
        writeln!(out, "  {location}: {field}{problem}{help} [{code}]")?;
    }
    let is_of_bound = |part: &&Rejected| part.code == FindingCode::PolicyTooLarge.as_str();
    let (over, rejected): (Vec<&Rejected>, Vec<&Rejected>) = status.rejected.iter().partition(is_of_bound);
    for (heading, parts) in [
        ("not understood", rejected),
        ("left out, because it is over a bound", over),
        ("understood, but to be corrected", status.deprecated.iter().collect()),
    ] {
        if !parts.is_empty() {
            writeln!(out, "\n{heading}:")?;
        }
        for part in parts {
            let place = part.location.as_ref().map(|place| format!("{place}: ")).unwrap_or_default();
            let code = if part.code.is_empty() { String::new() } else { format!(" [{}]", part.code) };
            writeln!(
                out,
                "  {place}networkpolicy {}/{} {}: {}; {}{code}",
                part.namespace, part.name, part.path, part.problem, part.effect
            )?;
        }
    }
    let alerts = status.cni_plugin.iter().flat_map(|plugin| &plugin.alerts);
    for (index, alert) in alerts.enumerate() {
        if index == 0 {
            writeln!(out, "\nto be checked in the CNI configuration:")?;
        }
        writeln!(out, "  {}: {} ({})", alert.file, alert.words, alert.reason.name())?;
    }
    if !status.unfiltered_bridges.is_empty() {
        writeln!(out, "\niptables does not see what goes from port to port of:")?;
    }
    for UnfilteredBridgeStatus { bridge, family, isolated, .. } in &status.unfiltered_bridges {
        writeln!(out, "  bridge {bridge} {family}: {isolated} isolated pods behind it")?;
    }
    if !status.spoofable.is_empty() {
        writeln!(out, "\nforged sources are not dropped from:")?;
    }
    for Spoofable { namespace, pod, address, reason } in &status.spoofable {
        writeln!(out, "  pod {namespace}/{pod} {address}: {reason}")?;
    }
    if !status.contested.is_empty() {
        writeln!(out, "\nseveral pods list one address:")?;
    }
    for ContestedAddress { address, pods, held_by } in &status.contested {
        let held_by = match held_by.as_slice() {
            [pod] => format!("{pod} has it"),
            _ => "no object says which of them has it".to_owned(),
        };
        writeln!(out, "  {address}: {}; {held_by}", pods.join(", "))?;
    }
    Ok(())
}

/// How the CNI plugin is installed, in words.
fn installation(plugin: &CniPlugin) -> String {
    let CniPlugin { reported, silent, installed, source, insertions, .. } = plugin;
    let mut words = match (reported, installed) {
        (None, _) => "the installer of the plugin has not reported yet".to_owned(),
        (Some(_), true) => "the plugin is installed".to_owned(),
        (Some(_), false) => {
            "the plugin is NOT installed, so pods start before their rules are in the kernel".to_owned()
        }
    };
    if let Some(source) = source {
        words = format!("{words}, derived from {source}");
    }
    if !insertions.is_empty() {
        words = format!("{words}, with {} of other programs", insertions.join(", "));
    }
    match (silent, reported) {
        (true, Some(at)) => format!("{words}; this is of {at:.0}, the container install-cni has not reported since"),
        (true, None) => format!("{words}; see the log of the container install-cni"),
        (false, _) => words,
    }
}
