//! The answer for people: the verdict alone on the first line, both
//! directions, and for each that denies why and where.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::io::{self, Write};
use std::net::IpAddr;

use npc_compiler::cluster::PolicyId;
use npc_compiler::object::TargetPort;
use npc_compiler::policy::Direction;
use npc_compiler::verdict::explain::{
    Decision, Flow, FlowExplanation, MisleadingPolicy, Pairs, Reason, ReasonCode, Verdict, Via, Way,
};

use crate::command::explain::reasons::headline::{NamedEnd, headline};
use crate::command::explain::reasons::{allowed, denied, dns, misleading};
use crate::command::explain::services::no_backend;
use crate::command::explain::traffic::traffic;
use crate::command::explain::words::{bracketed, port_text, shown, verdict_word};
use crate::command::explain::{AnsweredQuestion, Context, fix, warnings};
use crate::command::output::{BAD, Columns, DOUBT, GOOD, width};
use crate::command::words::shorten;

/// At most this many flows are shown one by one.
const SHOWN: usize = 24;

/// At most this many admitting rules are named in one line.
const RULES: usize = 6;

/// At most this many policies are named in one line.
const POLICIES: usize = 6;

/// At most this many addresses are named that another flow is about.
const APART: usize = 3;

/// At most this many nodes are named.
const NODES: usize = 3;

/// Writes the whole answer.
pub(in crate::command::explain) fn write(said: &AnsweredQuestion<'_>, out: &mut impl Write) -> io::Result<()> {
    let AnsweredQuestion { context, from, to, explanation, fixes } = *said;
    let shown = merged(explanation);
    if let [(place, flow, families)] = shown.as_slice() {
        heading(said, out, flow, families)?;
        writeln!(out)?;
        body(context, flow, fixes.of_flow(*place), out)?;
    } else {
        let port = to.port.as_ref().map(|port| format!(":{}", port_text(port))).unwrap_or_default();
        let to = format!("{}{port}", bracketed(&to.name, !port.is_empty()));
        writeln!(out, "{}  {} -> {to}", word(explanation.verdict()), from.name)?;
        if !explanation.ends.is_empty() {
            writeln!(out, "\nends that are judged alike are one flow; its reasons are those of the first pair")?;
        }
        let (blocks, left_out) = blocks(said, &shown)?;
        for ShownFlow { place, heading, count, flow, text: _ } in blocks {
            let alike = if count > 1 { format!("  ({count} flows are alike)") } else { String::new() };
            writeln!(out, "\n{}{alike}", heading.trim_end())?;
            body(context, flow, fixes.of_flow(place), out)?;
        }
        if left_out > 0 {
            writeln!(out, "\nand {left_out} more; -o json has them all")?;
        }
    }
    fixes.write_commands(out)?;
    for text in warnings::unknowns(&explanation.missing()) {
        writeln!(out, "\nunknown: {text}")?;
    }
    if let Some(help) = warnings::what_is_missing(context.input, &explanation.missing()) {
        writeln!(out, "   = help: {help}")?;
    }
    for warning in warnings::of_answer(context.input, explanation) {
        writeln!(out, "\n{warning}")?;
    }
    out.flush()
}

/// A flow that is shown, and how many say the same.
struct ShownFlow<'s> {
    place: usize,
    flow: &'s Flow,
    heading: String,
    count: usize,
    /// What is said of it, where another flow was compared with it.
    text: Option<Vec<u8>>,
}

/// The flows that are shown one by one, and how many are left out. Replicas on different nodes are flows
/// of their own, and often the same is said of them.
fn blocks<'s>(
    said: &AnsweredQuestion<'_>,
    shown: &'s [(usize, Cow<'s, Flow>, String)],
) -> io::Result<(Vec<ShownFlow<'s>>, usize)> {
    let AnsweredQuestion { context, fixes, .. } = *said;
    let text_of = |flow: &Flow| -> io::Result<Vec<u8>> {
        let mut text = Vec::new();
        body(context, flow, None, &mut text)?;
        Ok(text)
    };
    let (mut blocks, mut left_out): (Vec<ShownFlow<'s>>, usize) = (Vec::new(), 0);
    for (place, flow, families) in shown {
        let mut line = Vec::new();
        heading(said, &mut line, flow, families)?;
        let heading = String::from_utf8_lossy(&line).into_owned();
        let (mut alike, mut text) = (None, None);
        for (i, block) in blocks.iter_mut().enumerate().filter(|(_, block)| block.heading == heading) {
            if !fixes.are_alike(block.place, *place) {
                continue;
            }
            if text.is_none() {
                text = Some(text_of(flow)?);
            }
            if block.text.is_none() {
                block.text = Some(text_of(block.flow)?);
            }
            if block.text == text {
                alike = Some(i);
                break;
            }
        }
        match alike {
            Some(i) => blocks[i].count += 1,
            None if blocks.len() < SHOWN => blocks.push(ShownFlow { place: *place, flow, heading, count: 1, text }),
            None => left_out += 1,
        }
    }
    Ok((blocks, left_out))
}

/// The flows, those of both families in one where the same is said of them: the place of the
/// first of them in the explanation, the flow, and its families.
fn merged(explanation: &FlowExplanation) -> Vec<(usize, Cow<'_, Flow>, String)> {
    let mut shown: Vec<(usize, Cow<'_, Flow>, String)> = Vec::new();
    let mut by_name = BTreeMap::<(&str, &str), Vec<usize>>::new();
    for (place, flow) in explanation.flows.iter().enumerate() {
        let family = flow.family.map(|family| family.to_string()).unwrap_or_default();
        // Only flows of one name can be the same, and they are few.
        let names = by_name.entry((&flow.from.name, &flow.to.name)).or_default();
        match names.iter().find(|earlier| shown[**earlier].1.is_same_in_another_family(flow)) {
            Some(earlier) => {
                let (_, first, families) = &mut shown[*earlier];
                first.to_mut().join(flow);
                families.push(' ');
                families.push_str(&family);
            }
            None => {
                names.push(shown.len());
                shown.push((place, Cow::Borrowed(flow), family));
            }
        }
    }
    // Where nothing differs by family, families say nothing.
    let first = shown.first().map(|(.., families)| families.clone());
    if shown.iter().all(|(.., families)| Some(families) == first.as_ref()) {
        for (.., families) in &mut shown {
            families.clear();
        }
    }
    shown
}

fn word(verdict: Verdict) -> String {
    let style = match verdict {
        Verdict::Allowed => GOOD,
        Verdict::Denied => BAD,
        Verdict::Partial | Verdict::Unknown => DOUBT,
    };
    format!("{style}{}{style:#}", verdict_word(verdict))
}

/// The verdict, the ends and the traffic.
fn heading(said: &AnsweredQuestion<'_>, out: &mut impl Write, flow: &Flow, families: &str) -> io::Result<()> {
    let AnsweredQuestion { context, explanation, .. } = *said;
    let [more_from, more_to] = more(explanation, flow);
    write!(out, "{}  {}{more_from} -> ", word(flow.verdict), shown(&flow.from))?;
    if let Some(via) = &flow.via {
        write!(out, "{}", service_name(via))?;
        if let Some(port) = via.port {
            write!(out, ":{port}")?;
        }
        if flow.decisions.is_some() {
            write!(out, " -> ")?;
        }
    }
    if flow.decisions.is_some() || flow.via.is_none() {
        write!(out, "{}{more_to}", shown(&flow.to))?;
    }
    let name = flow.port_name.as_ref().map(|name| format!(" ({name})")).unwrap_or_default();
    let traffic = traffic(&flow.traffic);
    let words = [families.to_owned(), format!("{traffic}{name}")];
    for word in words.iter().filter(|word| !word.is_empty()) {
        write!(out, "  {word}")?;
    }
    match &flow.way {
        None => {}
        Some(Way::OwnNode) => write!(out, "  by the pod's own node: the pod sees the client's address")?,
        Some(Way::OtherNode(nodes)) if is_of_client(context, flow, nodes) => write!(
            out,
            "  by the client's own node ({}), whose address the pod sees in place of the client's",
            nodes.join(", ")
        )?,
        Some(Way::OtherNode(nodes)) => {
            let nodes = if nodes.is_empty() { String::new() } else { format!(" ({})", shorten(nodes, NODES, ", ")) };
            write!(out, "  by another node{nodes}, whose address the pod sees in place of the client's")?;
        }
        Some(Way::HostPort(port)) => write!(out, "  by hostPort {port} of its node")?,
        Some(Way::SameNode) => write!(out, "  on one node")?,
        Some(Way::DifferentNodes(nodes)) => {
            let nodes = if nodes.is_empty() { String::new() } else { format!(" ({})", shorten(nodes, NODES, ", ")) };
            write!(out, "  between different nodes{nodes}")?;
        }
        Some(Way::OtherReplica) => write!(out, "  to another replica")?,
        Some(Way::Itself) => write!(out, "  to itself")?,
    }
    writeln!(out)
}

/// Whether a flow comes by the node that its client runs on.
fn is_of_client(context: &Context<'_>, flow: &Flow, nodes: &[String]) -> bool {
    let client = flow.parties.and_then(|(from, _)| from.pod());
    let own = client.and_then(|pod| context.input.cluster.pod(pod).node.as_ref());
    own.is_some_and(|own| nodes == std::slice::from_ref(own))
}

/// How many other sources and destinations a flow stands for, or which addresses of prefixes it leaves out.
fn more(explanation: &FlowExplanation, flow: &Flow) -> [String; 2] {
    let Some(alike) = &flow.alike else {
        let [from, to] = explanation.apart(flow);
        return [(from, &flow.from), (to, &flow.to)].map(|(addresses, end)| match addresses.as_slice() {
            [] => String::new(),
            _ => {
                // The prefixes may have exceptions of their own.
                let word = if shown(end).contains(" except ") { "and" } else { "except" };
                let addresses: Vec<String> = addresses.iter().map(IpAddr::to_string).collect();
                format!(" {word} {}", shorten(&addresses, APART, ", "))
            }
        });
    };
    let [from, to] = [&alike.from, &alike.to].map(|of| match of.count() {
        0 | 1 => String::new(),
        count => format!(" and {} more", count - 1),
    });
    match alike.pairs {
        Pairs::Others => [from, to],
        Pairs::Itself => [from, ", each to itself".to_owned()],
        Pairs::OwnNode => [from, format!("{to}, each with its own node")],
    }
}

fn service_name(via: &Via) -> String {
    format!("{}/svc/{}", via.namespace, via.name)
}

/// Both directions, and why a direction denies.
fn body(context: &Context<'_>, flow: &Flow, fix: Option<fix::Found<'_>>, out: &mut impl Write) -> io::Result<()> {
    let mut columns = Columns::default();
    let line = |words: [String; 3]| words;
    if let Some(via) = &flow.via {
        columns.push(line(["service".to_owned(), service_name(via), service(flow, via)]));
    } else if let (Some(seen), Some((address, _))) = (before_translation(flow), &flow.seen_by_source) {
        columns.push(line(["node".to_owned(), address.to_string(), seen]));
    }
    for (decision, subject) in flow.decisions.iter().flatten().zip([&flow.from, &flow.to]) {
        let verdict = match decision.verdict {
            Verdict::Allowed => "ALLOW",
            Verdict::Denied => "DENY ",
            Verdict::Partial => "PART ",
            Verdict::Unknown => "?    ",
        };
        let direction = decision.direction.as_str().to_lowercase();
        let why = why(context, decision, subject.namespace.is_some());
        columns.push(line([direction, shown(subject), format!("{verdict}  {why}")]));
    }
    columns.write_within(out, "  ", width())?;
    if let Some(code) = flow.broken {
        let headline = match code {
            ReasonCode::ServiceNoBackends if flow.via.is_none() => {
                "the source is a service that leads to no pod".into()
            }
            code => headline(code, &NamedEnd::of(flow, Direction::Ingress)),
        };
        writeln!(out, "\n{BAD}denied[{}]{BAD:#}: {headline}", code.as_str())?;
        no_backend::draw(context.input, flow, out)?;
        for note in no_backend::notes(context.input, flow) {
            writeln!(out, "   = note: {note}")?;
        }
        fix::help(context.input, fix, &[], true, out)?;
    }
    let denying = |decision: &&Decision| matches!(decision.reason, Reason::Denied(_));
    let denied: Vec<Direction> =
        flow.decisions.iter().flatten().filter(denying).map(|decision| decision.direction).collect();
    for decision in flow.decisions.iter().flatten() {
        let Reason::Denied(code) = decision.reason else { continue };
        writeln!(out)?;
        match decision.misleading.first().filter(|of| of.code() == code) {
            Some(cause) => misleading::denied(context, cause, &NamedEnd::of(flow, decision.direction), out)?,
            None => denied::write(context, flow, decision, code, out)?,
        }
        let direction = decision.direction;
        // What is broken is said once, though both directions deny.
        if let Some(broken) = dns::broken(flow).filter(|_| denied.first() == Some(&direction)) {
            writeln!(out, "   = note: {broken}")?;
        }
        let is_last = denied.last() == Some(&direction);
        // A direction that is unknown may need a change too, and has no denial of its own.
        let is_here = |of: &Direction| *of == direction || (is_last && !denied.contains(of));
        let here: Vec<Direction> = Direction::ALL.into_iter().filter(is_here).collect();
        fix::help(context.input, fix, &here, is_last, out)?;
    }
    allowed::write(context, flow, out)?;
    // What both directions have alike is said once.
    let mut near: Vec<(&MisleadingPolicy, Vec<Direction>)> = Vec::new();
    for decision in flow.decisions.iter().flatten() {
        let cause = if let Reason::Denied(code) = decision.reason { Some(code) } else { None };
        for policy in decision.misleading.iter().filter(|of| Some(of.code()) != cause) {
            match near.iter_mut().find(|(said, _)| *said == policy) {
                Some((_, directions)) => directions.push(decision.direction),
                None => near.push((policy, vec![decision.direction])),
            }
        }
    }
    for (policy, directions) in near {
        writeln!(out)?;
        misleading::near(context, policy, &directions, out)?;
    }
    Ok(())
}

fn service(flow: &Flow, via: &Via) -> String {
    let (Some(port), Some(target)) = (via.port, &via.target) else {
        let is_unknown = flow.verdict == Verdict::Unknown;
        return if is_unknown { "leads to a DNS name" } else { "has no such port" }.to_owned();
    };
    let target = match (target, flow.traffic.single()) {
        (TargetPort::Name(name), Some((_, number, _))) if flow.decisions.is_some() => {
            format!("{port} -> targetPort {name} = {number}")
        }
        (TargetPort::Name(name), _) => format!("{port} -> targetPort {name}"),
        (TargetPort::Number(number), _) => format!("{port} -> targetPort {number}"),
    };
    let backends = match via.backends {
        0 if flow.verdict == Verdict::Unknown => return format!("{target}, nothing in the input says where that is"),
        0 => return format!("{target}, no backends"),
        1 => "1 backend".to_owned(),
        count => format!("{count} backends"),
    };
    let number = flow.traffic.single().map_or(port, |(_, number, _)| number);
    let end = match flow.to.kind.as_str() {
        "Address" | "Node" => flow.to.name.as_str(),
        _ if flow.to.host_network => "the node of the pod",
        _ => "the pod",
    };
    let note = match before_translation(flow) {
        Some(seen) => seen,
        None if number == port => format!("policy sees {end}, not the Service's address"),
        None => format!("policy sees {end} and {number}, not the Service's address and {port}"),
    };
    format!("{target}, {backends} ({note})")
}

/// What the policies of each end match, where a node that is not the client's own translates the
/// destination.
fn before_translation(flow: &Flow) -> Option<String> {
    let (address, seen) = flow.seen_by_source.as_ref()?;
    let number = flow.traffic.single().map(|(_, number, _)| number.to_string()).unwrap_or_default();
    Some(format!("the client's policies see {address} and {}; those of the pod see {number}", traffic(seen)))
}

/// Why a direction says what it says, in one line.
fn why(context: &Context<'_>, decision: &Decision, is_pod: bool) -> String {
    let name = |id| format!("networkpolicy/{}", context.input.cluster.policy(id).name);
    let isolated = || {
        // Those that have rules first: they are what one would change.
        let has_rules = |id: PolicyId| !context.input.cluster.policy(id).rules(decision.direction).is_empty();
        let (with, without): (Vec<PolicyId>, Vec<_>) = decision.isolated_by.iter().partition(|id| has_rules(**id));
        shorten(&with.into_iter().chain(without).map(name).collect::<Vec<_>>(), POLICIES, ", ")
    };
    let rules = || {
        let rules = decision.rules.iter().map(|(id, path)| format!("{} {path}", name(*id)));
        let mut rules: Vec<String> = rules.take(RULES).collect();
        if decision.admitting_count > rules.len() {
            rules.push(format!("+{} more", decision.admitting_count - rules.len()));
        }
        rules.join(", ")
    };
    let direction = decision.direction.as_str().to_lowercase();
    match decision.reason {
        Reason::DefaultAllow if is_pod => format!("no policy selects it for {direction}"),
        Reason::DefaultAllow => "no pod: no policy applies to it".to_owned(),
        Reason::Rule => rules(),
        Reason::OwnNode => "a pod and its own node: always allowed".to_owned(),
        Reason::Itself => "a pod and itself, inside the pod or by a Service on its node: always allowed".to_owned(),
        Reason::HostNetworkExempt => "a hostNetwork pod: no policy applies to it".to_owned(),
        Reason::Denied(_) => {
            let (matching, all) = (decision.admitting_count, decision.rule_count);
            let part = if decision.verdict == Verdict::Partial { format!(": {}", rules()) } else { String::new() };
            match (all, decision.isolated_by.as_slice()) {
                (0, [_]) => format!("isolated by {}, which has no rule for {direction}", isolated()),
                (0, _) => format!("isolated by {}, which have no rule for {direction}", isolated()),
                _ => format!("isolated by {}; {matching} of {all} rules match{part}", isolated()),
            }
        }
        Reason::Unknown if decision.isolated_by.is_empty() => {
            "it depends on a fact that is missing (see below)".to_owned()
        }
        Reason::Unknown => format!("isolated by {}; a fact is missing (see below)", isolated()),
    }
}
