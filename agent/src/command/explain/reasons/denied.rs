//! Why a direction denies: the nearest miss, with the very things that it fails by.

use std::io::{self, Write};

use npc_agent::source::manifests::Location;
use npc_compiler::algebra::selector::{Operator, Requirement};
use npc_compiler::algebra::traffic::Traffic;
use npc_compiler::cluster::PolicyId;
use npc_compiler::object::Family;
use npc_compiler::policy::Direction;
use npc_compiler::verdict::explain::{
    Candidate, Conjunct, Decision, EndName, Flow, ItemField, ItemList, ItemPath, Part, ReasonCode, RuleHalf, Want,
};

use super::headline::{NamedEnd, headline, headline_of};
use super::other_end;
use crate::command::explain::Context;
use crate::command::explain::places::excerpt::{Excerpt, Mark};
use crate::command::explain::traffic::traffic;
use crate::command::explain::words::shown;
use crate::command::output::BAD;
use crate::command::rule_text;
use crate::command::words::{policy_name, shorten};

/// At most this many policies or rules are written out.
const LISTED: usize = 6;

/// The nearest miss: code, place, the lines themselves, and what there is instead.
pub(in crate::command::explain) fn write(
    context: &Context<'_>,
    flow: &Flow,
    decision: &Decision,
    code: ReasonCode,
    out: &mut impl Write,
) -> io::Result<()> {
    let is_dns = decision.is_without_dns;
    let nearest = decision.candidates.first();
    let is_about = nearest.is_some_and(Candidate::is_about);
    let other = NamedEnd::of(flow, decision.direction);
    let mut rest = None;
    let headline = match nearest {
        Some(_) if is_dns => "no rule is about DNS (port 53)".into(),
        Some(nearest) if is_about => {
            let (first, more) = headline_of(nearest, &other);
            rest = more;
            first.into()
        }
        _ => headline(code, &other),
    };
    writeln!(out, "{BAD}denied[{}]{BAD:#}: {headline}", code.as_str())?;
    match nearest {
        None => isolating(context, decision, out)?,
        Some(nearest) if is_about && !is_dns => miss(context, flow, decision, nearest, out)?,
        Some(nearest) => far(context, flow, decision, nearest, is_dns, out)?,
    }
    if let Some(rest) = rest {
        writeln!(out, "   = note: and {rest}")?;
    }
    Ok(())
}

/// Where a thing of a policy stands: `  --> policies.yaml:32:7  networkpolicy shop/api  PATH`.
pub(in crate::command::explain) fn arrow(context: &Context<'_>, id: PolicyId, path: &str) -> String {
    let place = context.places.locate(id, path).map(|place| format!("{place}  ")).unwrap_or_default();
    let line = format!("  --> {place}networkpolicy {}  {path}", policy_name(&context.input.cluster, id));
    line.trim_end().to_owned()
}

/// The fields by which a policy isolates, where no rule could be meant.
enum IsolatingField {
    Rules,
    Types,
    PodSelector,
}

/// The policies that isolate the end, where none has a rule that could be meant, each with what of it
/// isolates: an empty list of rules, else the direction in policyTypes, else the podSelector.
fn isolating(context: &Context<'_>, decision: &Decision, out: &mut impl Write) -> io::Result<()> {
    let section = decision.direction.section();
    for id in decision.isolated_by.iter().take(LISTED) {
        let types = "spec.policyTypes";
        let of_direction = context.places.position(*id, types, decision.direction.as_str());
        let types = of_direction.map_or_else(|| types.to_owned(), |place| format!("{types}[{place}]"));
        let fields = [
            (IsolatingField::Rules, format!("spec.{section}")),
            (IsolatingField::Types, types),
            (IsolatingField::PodSelector, "spec.podSelector".to_owned()),
        ];
        let is_written = |(_, path): &(_, String)| context.places.find(*id, path).is_some_and(|(_, place)| place.exact);
        let Some((field, path)) = fields.into_iter().find(is_written) else {
            writeln!(out, "{}", arrow(context, *id, ""))?;
            if context.places.find(*id, "spec").is_some_and(|(_, place)| !place.exact) {
                writeln!(
                    out,
                    "   = note: it has no spec: it isolates every pod of its namespace for ingress, and allows nothing"
                )?;
            }
            continue;
        };
        writeln!(out, "{}", arrow(context, *id, &path))?;
        let has_rules_of = |direction| !context.input.cluster.policy(*id).rules(direction).is_empty();
        let has_rules = || has_rules_of(decision.direction);
        let is_for_egress = matches!(field, IsolatingField::PodSelector)
            && decision.direction == Direction::Ingress
            && has_rules_of(Direction::Egress);
        let text = match field {
            IsolatingField::Types => format!("isolates its pods for {section}, and no rule admits anything"),
            IsolatingField::PodSelector => format!("isolates these pods for {section}, and no rule admits anything"),
            IsolatingField::Rules if has_rules() => "no rule here admits anything".to_owned(),
            IsolatingField::Rules => "allows nothing".to_owned(),
        };
        draw(context, *id, vec![(path.clone(), path, text, true)], out)?;
        if is_for_egress {
            writeln!(
                out,
                "   = note: without policyTypes, a policy isolates for ingress too, whatever rules it has; if it is meant for \
                 egress alone, write policyTypes: [Egress]"
            )?;
        }
    }
    match decision.isolated_by.len() {
        0..=LISTED => Ok(()),
        more => writeln!(out, "   = note: and {} more policies", more - LISTED),
    }
}

/// A rule that has little to do with the question: what the rules are about instead.
fn far(
    context: &Context<'_>,
    flow: &Flow,
    decision: &Decision,
    nearest: &Candidate,
    is_dns: bool,
    out: &mut impl Write,
) -> io::Result<()> {
    let cluster = &context.input.cluster;
    writeln!(out, "{}", arrow(context, nearest.policy, &nearest.path))?;
    let mut rules: Vec<String> = Vec::new();
    for id in &decision.isolated_by {
        for rule in cluster.policy(*id).rules(decision.direction) {
            let text = rule_text::rule(rule, decision.direction);
            if !rules.contains(&text) {
                rules.push(text);
            }
        }
    }
    let (other, asked) = &seen(flow, decision.direction);
    // A rule for DNS is missing. What another rule lacks is no help.
    if decision.tie_count == 1 && !is_dns {
        let marks = nearest.conjuncts.iter().flat_map(|conjunct| marked(context, nearest, conjunct, other)).collect();
        draw(context, nearest.policy, marks, out)?;
    }
    let way = if decision.direction == Direction::Egress { "to" } else { "from" };
    let asked = format!("{} {way} {}", traffic(asked), shown(other));
    writeln!(out, "   = note: the rules are about {}", shorten(&rules, LISTED, "; "))?;
    writeln!(out, "   = note: there is {asked}")?;
    if decision.tie_count == 1 || is_dns {
        return Ok(());
    }
    let wants = nearest.conjuncts.iter().map(|conjunct| match conjunct.part {
        Part::Namespace if conjunct.code == ReasonCode::PeerOtherNamespace => {
            format!("wants namespace {}, there is {}", conjunct.want, conjunct.got)
        }
        _ => label(conjunct, other),
    });
    let equal = decision.tie_count;
    writeln!(out, "   = note: {equal} rules are equally near; the first {}", wants.collect::<Vec<_>>().join("; "))
}

/// The end that rules of a direction are asked about, and the traffic.
fn seen(flow: &Flow, direction: Direction) -> (EndName, Traffic) {
    match (direction, &flow.seen_by_source) {
        (Direction::Egress, Some((address, traffic))) => (EndName::of_address(*address), traffic.clone()),
        (Direction::Egress, None) => (flow.to.clone(), flow.traffic.clone()),
        (Direction::Ingress, _) => (flow.from.clone(), flow.traffic.clone()),
    }
}

/// A rule that is about the question, with marks where it fails and where it matches.
fn miss(
    context: &Context<'_>,
    flow: &Flow,
    decision: &Decision,
    nearest: &Candidate,
    out: &mut impl Write,
) -> io::Result<()> {
    let first = nearest.conjuncts.first().map(|first| format!(".{}", first.path)).unwrap_or_default();
    writeln!(out, "{}", arrow(context, nearest.policy, &format!("{}{first}", nearest.path)))?;
    let (other, asked) = &seen(flow, decision.direction);
    let mut marks = Vec::new();
    for conjunct in &nearest.conjuncts {
        marks.extend(marked(context, nearest, conjunct, other));
    }
    if let Some(path) = &nearest.matching_port {
        let path = format!("{}.{path}", nearest.path);
        marks.push((path.clone(), path, format!("matches ({})", traffic(asked)), false));
    }
    draw(context, nearest.policy, marks, out)?;
    let equal = decision.tie_count;
    if equal > 1 {
        writeln!(out, "   = note: {equal} rules are equally near; this is the first of them")?;
    }
    match decision.candidate_count.saturating_sub(equal) {
        0 => {}
        1 => writeln!(
            out,
            "   = note: 1 other rule fails by as few parts, but needs more labels changed or looks less like a slip"
        )?,
        more => writeln!(
            out,
            "   = note: {more} other rules fail by as few parts, but need more labels changed or look less like a slip"
        )?,
    }
    let fields = [decision.direction.peers_field(), "ports"];
    for (half, (equal, field)) in
        [RuleHalf::Peer, RuleHalf::Port].into_iter().zip(nearest.equal_items.into_iter().zip(fields))
    {
        if equal > 1 && nearest.conjuncts.iter().any(|conjunct| conjunct.of() == half) {
            writeln!(out, "   = note: {equal} items of {field} are equally near; the first of them is marked")?;
        }
    }
    if nearest.conjuncts.iter().any(|of| of.code == ReasonCode::PeerAndNotOr) {
        writeln!(
            out,
            "   = note: a new \"-\" before podSelector would mean OR, and admit every pod of such namespaces too"
        )?;
    }
    for note in other_end::notes(context, flow, decision.direction, nearest) {
        writeln!(out, "   = note: {note}")?;
    }
    // A number in quotes is a name: what is wrong with it says more than that it fails.
    let paths: Vec<String> = (nearest.conjuncts.iter().flat_map(|conjunct| &conjunct.marks))
        .map(|mark| context.places.of_mark(nearest, mark))
        .collect();
    let findings = context.input.cluster.findings_of(nearest.policy);
    for finding in findings.filter(|of| paths.contains(&of.path)) {
        writeln!(out, "   = note: {}", finding.problem)?;
    }
    Ok(())
}

/// What to mark of a part that fails: the path of the item, that of the very thing, the
/// text, and whether it is a miss.
fn marked(
    context: &Context<'_>,
    of: &Candidate,
    conjunct: &Conjunct,
    other: &EndName,
) -> Vec<(String, String, String, bool)> {
    let in_policy = |path: ItemPath| format!("{}.{path}", of.path);
    let item = in_policy(conjunct.path.item());
    let marks: Vec<(String, String)> = match conjunct.marks.as_slice() {
        [] => vec![(in_policy(conjunct.path), label(conjunct, other))],
        marks => {
            let mut texts: Vec<(String, String)> = (marks.iter())
                .map(|mark| {
                    let (want, got) = conjunct.said_of(mark);
                    let failed = mark.requirement.as_ref().map(|failed| &failed.requirement);
                    let want = match failed {
                        Some(Requirement { key, operator: Operator::DoesNotExist }) => format!("no label {key}"),
                        _ => want,
                    };
                    (context.places.of_mark(of, mark), format!("wants {want}, there is {got}"))
                })
                .collect();
            // The labels that fail say it all; the other parts have words of their own.
            let are_labels = matches!(
                conjunct.code,
                ReasonCode::PeerLabelMissing | ReasonCode::PeerLabelValue | ReasonCode::PeerNamespaceLabel
            );
            if (marks.len() == 1 && !are_labels) || conjunct.code == ReasonCode::PeerAndNotOr {
                texts[0].1 = label(conjunct, other);
            }
            let has_protocol = || context.places.has_field(of, conjunct.path.field(ItemField::Protocol));
            if matches!(conjunct.code, ReasonCode::PortProtocol | ReasonCode::PortNamedOtherProtocol) && !has_protocol()
            {
                texts[0].1.push_str("; without a protocol it is TCP");
            }
            texts
        }
    };
    marks.into_iter().map(|(path, text)| (item.clone(), path, text, true)).collect()
}

/// Draws marks of a policy, each with the item around it: of a file the marked lines, of an
/// object the items. What has no place is said.
pub(in crate::command::explain) fn draw(
    context: &Context<'_>,
    id: PolicyId,
    marks: Vec<(String, String, String, bool)>,
    out: &mut impl Write,
) -> io::Result<()> {
    let mut undrawn = Vec::new();
    let (mut around, mut drawn): (Vec<Location>, Vec<Mark>) = (Vec::new(), Vec::new());
    let mut source = None;
    for (item, path, text, is_miss) in marks {
        match context.places.find(id, &path) {
            Some((of, place)) => {
                if !of.is_file() {
                    around.extend(context.places.find(id, &item).map(|(_, place)| place));
                }
                source = Some(of);
                drawn.push(Mark { place, text, is_miss });
            }
            None => undrawn.push(format!("{path}: {text}")),
        }
    }
    if let Some(source) = source {
        let is_file = source.is_file();
        Excerpt { positions: source.positions(), is_file, marks: drawn, around }.draw(out)?;
    }
    undrawn.iter().try_for_each(|text| writeln!(out, "   = note: {text}"))
}

/// What there is in place of what a part asks for. One address of prefixes is judged for all of them.
pub(in crate::command::explain) fn got(conjunct: &Conjunct, other: &EndName) -> String {
    match conjunct.code {
        ReasonCode::IpBlockOutside | ReasonCode::IpBlockFamily | ReasonCode::IpBlockExcept if other.is_part() => {
            shown(other)
        }
        _ => conjunct.got.to_string(),
    }
}

/// What a part that fails asks for and gets.
fn label(conjunct: &Conjunct, other: &EndName) -> String {
    let Conjunct { want, code, .. } = conjunct;
    let got = got(conjunct, other);
    match (code, want) {
        (ReasonCode::IpBlockFamily, Want::Block(cidr)) => {
            let asked = match cidr.family {
                Family::V4 => Family::V6,
                Family::V6 => Family::V4,
            };
            format!("wants {want}, which holds no {asked} address, there is {got}")
        }
        (ReasonCode::PeerOtherNamespace, _) => format!("no namespaceSelector: pods of namespace {want} only"),
        (ReasonCode::IpBlockIsServiceAddress, _) if conjunct.path.list == ItemList::From => {
            format!("{want} holds {got}, from which no packet comes")
        }
        (ReasonCode::IpBlockIsServiceAddress, _) => format!("{want} holds {got}, which no policy sees"),
        (ReasonCode::PortNamedUnresolved, _) => format!("wants a port named {want}, there is {got}"),
        (_, Want::OutsideOf(excepts)) => {
            let texts: Vec<String> = excepts.iter().map(|except| except.network().to_string()).collect();
            let all = texts.join(" and ");
            match excepts.as_slice() {
                [except] if other.is_all_of(except) => format!("leaves out {all}"),
                [_] => format!("leaves out {all}, which holds {got}"),
                excepts => format!("{} excepts hold {got}: {all}", excepts.len()),
            }
        }
        (ReasonCode::PortIsServicePort, _) => {
            // A range has no one number.
            let verb = if conjunct.number.is_some() { "is" } else { "holds" };
            format!("{want} {verb} the Service's port; its backends listen on {got}")
        }
        _ => format!("wants {want}, there is {got}"),
    }
}
