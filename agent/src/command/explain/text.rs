//! The answer for people: the verdict alone on the first line, both
//! directions, and for each that denies why and where.

use std::collections::BTreeMap;
use std::io::{self, Write};

use npc_compiler::algebra::traffic::Traffic;
use npc_compiler::cluster::PolicyId;
use npc_compiler::object::{NAMESPACE_NAME_LABEL, Pod, Protocol, TargetPort};
use npc_compiler::policy::Direction;
use npc_compiler::verdict::explain::{
    Beside, Candidate, Code, Conjunct, Decision, Flow, FlowExplanation, Of, Pairs, Part, Party, Reason, Verdict, Via,
    Way,
};
use npc_compiler::verdict::flow::End;

use super::answer::{bracketed, port_text};
use super::excerpt::{Mark, draw};
use super::warning::shown;
use super::{Context, Said, warning};
use crate::command::output::{BAD, Columns, DOUBT, GOOD};
use crate::command::words::{policy_name, shorten};

/// So many flows are shown one by one.
const SHOWN: usize = 24;

/// So many nodes are named.
const NODES: usize = 3;

/// Writes the whole answer.
pub(super) fn write(said: &Said<'_>, out: &mut impl Write) -> io::Result<()> {
    let Said { context, from, to, explanation } = *said;
    let shown = merged(explanation);
    if let [(flow, families)] = shown.as_slice() {
        heading(out, flow, families)?;
        writeln!(out)?;
        body(context, flow, out)?;
    } else {
        let port = to.port.as_ref().map(|port| format!(":{}", port_text(port))).unwrap_or_default();
        let to = format!("{}{port}", bracketed(&to.name, !port.is_empty()));
        writeln!(out, "{}  {} -> {to}", word(explanation.verdict()), from.name)?;
        if !explanation.ends.is_empty() {
            writeln!(out, "\nends that are judged alike are one flow; its reasons are those of the first pair")?;
        }
        for (flow, families) in shown.iter().take(SHOWN) {
            writeln!(out)?;
            heading(out, flow, families)?;
            body(context, flow, out)?;
        }
        if shown.len() > SHOWN {
            writeln!(out, "\nand {} more; -o json has them all", shown.len() - SHOWN)?;
        }
    }
    for text in warning::unknowns(&explanation.missing()) {
        writeln!(out, "\nunknown: {text}")?;
    }
    for text in warning::texts(context.input, &explanation.warnings) {
        writeln!(out, "\nwarning: {text}")?;
    }
    out.flush()
}

/// The flows, those of both families in one where the same is said of them.
fn merged(explanation: &FlowExplanation) -> Vec<(&Flow, String)> {
    let mut shown: Vec<(&Flow, String)> = Vec::new();
    let mut by_name = BTreeMap::<(&str, &str), Vec<usize>>::new();
    for flow in &explanation.flows {
        let family = flow.family.map(|family| family.to_string()).unwrap_or_default();
        // Only flows of one name can be the same, and they are few.
        let names = by_name.entry((&flow.from.name, &flow.to.name)).or_default();
        match names.iter().find(|place| shown[**place].0.is_same_in_another_family(flow)) {
            Some(place) => {
                let families = &mut shown[*place].1;
                families.push(' ');
                families.push_str(&family);
            }
            None => {
                names.push(shown.len());
                shown.push((flow, family));
            }
        }
    }
    // Where nothing differs by family, families say nothing.
    let first = shown.first().map(|(_, families)| families.clone());
    if shown.iter().all(|(_, families)| Some(families) == first.as_ref()) {
        for (_, families) in &mut shown {
            families.clear();
        }
    }
    shown
}

fn word(verdict: Verdict) -> String {
    let (style, word) = match verdict {
        Verdict::Allowed => (GOOD, "ALLOWED"),
        Verdict::Denied => (BAD, "DENIED"),
        Verdict::Partial => (DOUBT, "PARTIAL"),
        Verdict::Unknown => (DOUBT, "UNKNOWN"),
    };
    format!("{style}{word}{style:#}")
}

/// The verdict, the ends and the traffic.
fn heading(out: &mut impl Write, flow: &Flow, families: &str) -> io::Result<()> {
    let [more_from, more_to] = more(flow);
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
        Some(Way::OwnNode) => write!(out, "  by the node of the pod, which sees the client's address")?,
        Some(Way::OtherNode(nodes)) => {
            let nodes = if nodes.is_empty() { String::new() } else { format!(" ({})", shorten(nodes, NODES, ", ")) };
            write!(out, "  by another node{nodes}, whose address the pod sees in place of the client's")?;
        }
        Some(Way::HostPort(port)) => write!(out, "  by hostPort {port} of its node")?,
    }
    writeln!(out)
}

/// How many other sources and destinations a flow stands for.
fn more(flow: &Flow) -> [String; 2] {
    let Some(alike) = &flow.alike else { return [const { String::new() }; 2] };
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

/// `TCP 5432`, or a list.
fn traffic(traffic: &Traffic) -> String {
    if traffic.is_none() {
        return String::new();
    }
    if traffic.is_all() {
        return "all protocols and ports".to_owned();
    }
    match traffic.single() {
        Some((protocol, 0 | 1, u16::MAX)) => format!("{protocol} all ports"),
        Some((protocol, first, last)) if first == last => format!("{protocol} {first}"),
        Some((protocol, first, last)) => format!("{protocol} {first}-{last}"),
        None => {
            let rest = Traffic::all().difference(traffic).to_string();
            let text = traffic.to_string();
            if rest.len() < text.len() { format!("all but {rest}") } else { text }
        }
    }
}

/// Both directions, and why a direction denies.
fn body(context: &Context<'_>, flow: &Flow, out: &mut impl Write) -> io::Result<()> {
    let mut columns = Columns::default();
    let line = |words: [String; 3]| words;
    if let Some(via) = &flow.via {
        columns.push(line(["service".to_owned(), service_name(via), service(flow, via)]));
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
    columns.write(out, "  ", 0)?;
    if let Some(code) = flow.broken {
        writeln!(out, "\n{BAD}denied[{}]{BAD:#}: {}", code.as_str(), headline(code))?;
    }
    for decision in flow.decisions.iter().flatten() {
        let Reason::Denied(code) = decision.reason else { continue };
        writeln!(out)?;
        match decision.beside.first().filter(|beside| beside.code == code) {
            Some(cause) => denied_beside(context, cause, out)?,
            None => denied(context, flow, decision, code, out)?,
        }
    }
    for decision in flow.decisions.iter().flatten() {
        let cause = if let Reason::Denied(code) = decision.reason { Some(code) } else { None };
        for beside in decision.beside.iter().filter(|beside| Some(beside.code) != cause) {
            writeln!(out, "\nnear[{}]: {}", beside.code.as_str(), near(context, beside))?;
        }
    }
    Ok(())
}

/// A policy that looks as if it decided, in one line.
fn near(context: &Context<'_>, beside: &Beside) -> String {
    let policy = context.input.cluster.policy(beside.policy);
    let Beside { want, got, code, .. } = beside;
    let name = format!("networkpolicy {}/{}", policy.namespace, policy.name);
    match code {
        Code::PolicyTypesMissing => format!("{name} has {got}"),
        Code::PeerOrNotAnd => format!(
            "{name} {}: separate items mean OR: {want}; {got}; write both selectors in one item for AND",
            beside.path
        ),
        Code::PolicyOtherNamespace => format!("{name} means {want}; this is {got}"),
        _ => format!("{name} wants {want}, there is {got}"),
    }
}

/// A denial by a policy that does not apply as it looks.
fn denied_beside(context: &Context<'_>, beside: &Beside, out: &mut impl Write) -> io::Result<()> {
    writeln!(out, "{BAD}denied[{}]{BAD:#}: {}", beside.code.as_str(), headline(beside.code))?;
    let policy = context.input.cluster.policy(beside.policy);
    let positions = &context.input.loaded.positions;
    let place = positions.locate("NetworkPolicy", &policy.namespace, &policy.name, &beside.path);
    let at = place.as_ref().map(|place| format!("{place}  ")).unwrap_or_default();
    writeln!(out, "  --> {at}networkpolicy {}/{}  {}", policy.namespace, policy.name, beside.path)?;
    let text = format!("wants {}, there is {}", beside.want, beside.got);
    let marks: Vec<Mark> =
        place.filter(|place| place.exact).map(|place| Mark { place, text, is_miss: true }).into_iter().collect();
    draw(positions, &marks, out)?;
    writeln!(out, "   = note: {}", near(context, beside))
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
    let note = if number == port {
        "policy sees the pod, not the Service's address".to_owned()
    } else {
        format!("policy sees the pod and {number}, not the Service's address and {port}")
    };
    format!("{target}, {backends} ({note})")
}

/// Why a direction says what it says, in one line.
fn why(context: &Context<'_>, decision: &Decision, is_pod: bool) -> String {
    let name = |id| format!("networkpolicy/{}", context.input.cluster.policy(id).name);
    let isolated = || {
        // Those that have rules first: they are what one would change.
        let has_rules = |id: PolicyId| !context.input.cluster.policy(id).rules(decision.direction).is_empty();
        let (with, without): (Vec<PolicyId>, Vec<_>) = decision.isolated_by.iter().partition(|id| has_rules(**id));
        with.into_iter().chain(without).map(name).collect::<Vec<_>>().join(", ")
    };
    let rules = || {
        let rules = decision.rules.iter().map(|(id, path)| format!("{} {path}", name(*id)));
        rules.collect::<Vec<_>>().join(", ")
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
            let (matching, all) = (decision.rules.len(), decision.rule_count);
            let part = if decision.verdict == Verdict::Partial { format!(": {}", rules()) } else { String::new() };
            format!("isolated by {}; {matching} of {all} rules match{part}", isolated())
        }
        Reason::Unknown if decision.isolated_by.is_empty() => "it depends on a fact that is missing".to_owned(),
        Reason::Unknown => format!("isolated by {}; a fact is missing", isolated()),
    }
}

/// The nearest miss: code, place, the lines themselves, and what there is
/// instead.
fn denied(context: &Context<'_>, flow: &Flow, decision: &Decision, code: Code, out: &mut impl Write) -> io::Result<()> {
    let dns = dns(context, flow, decision);
    let headline = if dns.is_some() { "no rule is about DNS (port 53)" } else { headline_of(decision, code) };
    writeln!(out, "{BAD}denied[{}]{BAD:#}: {headline}", code.as_str())?;
    let positions = &context.input.loaded.positions;
    let cluster = &context.input.cluster;
    let Some(candidate) = decision.candidates.first() else {
        for id in &decision.isolated_by {
            let policy = cluster.policy(*id);
            if let Some(place) = positions.locate("NetworkPolicy", &policy.namespace, &policy.name, "spec") {
                writeln!(out, "  --> {place}  networkpolicy {}/{}", policy.namespace, policy.name)?;
            }
        }
        return dns.iter().try_for_each(|text| write!(out, "{text}"));
    };
    let policy = cluster.policy(candidate.policy);
    let locate = |path: &str| {
        let path = format!("{}.{path}", candidate.path);
        positions.locate("NetworkPolicy", &policy.namespace, &policy.name, &path)
    };
    let first = candidate.conjuncts.first().map(|first| first.path.as_str()).unwrap_or_default();
    let place = locate(first).map(|place| format!("{place}  ")).unwrap_or_default();
    writeln!(out, "  --> {place}networkpolicy {}/{}  {}.{first}", policy.namespace, policy.name, candidate.path)?;
    let mut marks = Vec::new();
    for conjunct in &candidate.conjuncts {
        let exact = |path: &str| locate(path).filter(|place| place.exact);
        let place = conjunct.mark.as_deref().and_then(exact).or_else(|| exact(&conjunct.path));
        marks.extend(place.map(|place| Mark { place, text: label(conjunct), is_miss: true }));
    }
    if let Some(path) = &candidate.matching_port {
        let text = format!("matches ({})", traffic(&flow.traffic));
        marks.extend(locate(path).filter(|place| place.exact).map(|place| Mark { place, text, is_miss: false }));
    }
    if let Some(text) = dns {
        // What the nearest rule lacks is all of it.
        return write!(out, "{text}");
    }
    draw(positions, &marks, out)?;
    let alike = decision.candidates.iter().filter(|other| other.labels == candidate.labels).count();
    if alike > 1 {
        writeln!(out, "   = note: {alike} rules are equally near; this is the first of them")?;
    }
    if let Some(note) = note(context, flow, decision.direction, candidate) {
        writeln!(out, "   = note: {note}")?;
    }
    Ok(())
}

/// What to say of an end that may ask no DNS server: no rule of its policies is about
/// port 53.
fn dns(context: &Context<'_>, flow: &Flow, decision: &Decision) -> Option<String> {
    let is_dns = matches!(flow.traffic.single(), Some((Protocol::Udp | Protocol::Tcp, 53, 53)));
    let is_about_port = |candidate: &Candidate| candidate.conjuncts.iter().all(|conjunct| conjunct.of != Of::Port);
    if !is_dns || decision.direction != Direction::Egress || decision.candidates.iter().any(is_about_port) {
        return None;
    }
    let (_, Party::End(End::Pod(server))) = flow.parties? else { return None };
    let cluster = &context.input.cluster;
    let server = cluster.pod(server);
    let labels = server.labels.iter().map(|(key, value)| format!("{key}: {value}")).collect::<Vec<_>>().join(", ");
    let policy = decision.candidates.first().map(|of| of.policy).or_else(|| decision.isolated_by.first().copied())?;
    Some(format!(
        "   = note: without DNS, {} can resolve no name\n   = help: add this to spec.egress of networkpolicy {}:\n           \
         - to:\n             - namespaceSelector: {{matchLabels: {{{NAMESPACE_NAME_LABEL}: {}}}}}\n               \
         podSelector: {{matchLabels: {{{labels}}}}}\n             \
         ports: [{{port: 53, protocol: UDP}}, {{port: 53, protocol: TCP}}]\n",
        shown(&flow.from),
        policy_name(cluster, policy),
        server.namespace,
    ))
}

/// What a part that fails asks for and gets.
fn label(conjunct: &Conjunct) -> String {
    let Conjunct { want, got, code, .. } = conjunct;
    match code {
        Code::PeerOtherNamespace => format!("no namespaceSelector: pods of namespace {want} only"),
        Code::PeerAndNotOr => format!("wants {want}, there is {got}; a new \"-\" before podSelector would mean OR"),
        Code::IpBlockIsServiceAddress => format!("{want} holds {got}, which no policy sees"),
        Code::PortIsServicePort => format!("{want} is the Service's port; its pods listen on {got}"),
        _ => format!("wants {want}, there is {got}"),
    }
}

/// Facts about the other end that its part of the rule is about.
fn note(context: &Context<'_>, flow: &Flow, direction: Direction, candidate: &Candidate) -> Option<String> {
    let (from, to) = flow.parties?;
    let (party, role) = match direction {
        Direction::Ingress => (from, "source"),
        Direction::Egress => (to, "destination"),
    };
    let Party::End(End::Pod(pod)) = party else { return None };
    let pod = context.input.cluster.pod(pod);
    let words = |labels: &npc_compiler::object::Labels| {
        labels.iter().map(|(key, value)| format!("{key}={value}")).collect::<Vec<_>>().join(", ")
    };
    let of_peer = |part| candidate.conjuncts.iter().any(|c| c.of == Of::Peer && c.part == part);
    let mut notes = Vec::new();
    if of_peer(Part::Namespace) {
        let labels = context.input.cluster.namespace(&pod.namespace).map(words).unwrap_or_default();
        notes.push(format!("the {role} is in namespace {} ({labels})", pod.namespace));
    }
    if of_peer(Part::Pod) {
        let labels = words(&pod.labels);
        let labels = if labels.is_empty() { "no labels".to_owned() } else { format!("the labels {labels}") };
        notes.push(format!("the {role} has {labels}"));
        notes.extend(own_label(context, pod, candidate));
    }
    (!notes.is_empty()).then(|| notes.join("; "))
}

/// Where the label that a pod lacks stands on its workload, in place of its template.
fn own_label(context: &Context<'_>, pod: &Pod, candidate: &Candidate) -> Option<String> {
    let workload = pod.workload.as_ref()?;
    let missing = candidate.conjuncts.iter().filter(|conjunct| conjunct.code == Code::PeerLabelMissing);
    let mut keys =
        missing.filter_map(|conjunct| conjunct.mark.as_ref()?.split_once(".matchLabels.").map(|(_, key)| key));
    keys.find_map(|key| {
        let (kind, path) = (&workload.kind, format!("metadata.labels.{key}"));
        let place = context.input.loaded.positions.locate(kind, &pod.namespace, &workload.name, &path)?;
        place.exact.then(|| {
            format!(
                "the {} itself has a label {key} ({place}), which its pods do not get: write it in \
                 spec.template.metadata.labels",
                kind.to_lowercase()
            )
        })
    })
}

/// What a code says in a few words, and more exactly where the namespace is
/// all that fails.
fn headline_of(decision: &Decision, code: Code) -> &'static str {
    let only = decision.candidates.first().is_some_and(|candidate| candidate.conjuncts.len() == 1);
    match code {
        Code::PeerOtherNamespace if only => "the rule's labels match, its namespace does not",
        _ => headline(code),
    }
}

fn headline(code: Code) -> &'static str {
    match code {
        Code::DefaultDenyOnly => "the policies that isolate it allow nothing in this direction",
        Code::PeerLabelMissing => "the other end lacks a label that the nearest rule asks for",
        Code::PeerLabelValue => "the other end has a label with another value than the nearest rule asks for",
        Code::PeerOtherNamespace => "the nearest rule means pods of its own namespace",
        Code::PeerNamespaceLabel => "the other end's namespace is not one that the nearest rule selects",
        Code::PeerAndNotOr => "one item with both selectors means AND: the pod's labels match, its namespace's do not",
        Code::PeerOrNotAnd => "separate items mean OR",
        Code::IpBlockIsServiceAddress => {
            "the nearest rule's ipBlock holds the Service's address; policies see the address of the pod behind it"
        }
        Code::DirectionOther => "the rules about the other end are for the other direction",
        Code::PolicyOtherNamespace => "a policy with a podSelector that fits is in another namespace",
        Code::SubjectNearMiss => "a policy that would allow it selects other pods, and misses by one label",
        Code::PolicyTypesMissing => "a policy has rules for this direction, and its policyTypes does not name it",
        Code::PeerHostNetwork => {
            "no selector selects a pod in its node's network; only an ipBlock with its node's address does"
        }
        Code::IpBlockOutside => "no ipBlock of the nearest rule holds the address",
        Code::IpBlockExcept => "an except of the nearest rule's ipBlock holds the address",
        Code::IpBlockFamily => "the nearest rule's ipBlock is of the other address family",
        Code::PortNumber => "the nearest rule allows another port",
        Code::PortProtocol => "the nearest rule allows another protocol",
        Code::PortIsServicePort => "the rule names the Service's port",
        Code::PortNamedUnresolved => "the destination has no port of the name that the nearest rule allows",
        Code::PortNamedOtherProtocol => "the destination's port of this name is of another protocol",
        Code::PortRange => "the port is not in the range that the nearest rule allows",
        Code::ServiceNoBackends => "the service leads to no pod that has the port",
        Code::ServicePortUnknown => "the service has no such port",
    }
}
