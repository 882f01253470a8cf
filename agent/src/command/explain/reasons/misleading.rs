//! Policies that look as if they decided, and do not, in words.

use std::io::{self, Write};

use npc_compiler::cluster::{Cluster, PolicyId};
use npc_compiler::policy::Direction;
use npc_compiler::policy::finding;
use npc_compiler::verdict::explain::{
    AddedFlows, Discrepancy, MisleadingPolicy, OtherDirection, OtherPart, ReasonCode, SeparateItems, ValueElsewhere,
};

use super::denied::{arrow, draw};
use super::headline::{NamedEnd, headline};
use crate::command::explain::Context;
use crate::command::explain::words::workload;
use crate::command::output::BAD;
use crate::command::words::policy_name;

/// A policy that looks as if it decided: in one line, where, and for which directions, if that is asked for.
pub(in crate::command::explain) fn near(
    context: &Context<'_>,
    policy: &MisleadingPolicy,
    directions: &[Direction],
    out: &mut impl Write,
) -> io::Result<()> {
    writeln!(out, "near[{}]: {}", policy.code().as_str(), sentence(context, policy))?;
    writeln!(out, "{}", arrow(context, policy.policy, &path(context, policy)))?;
    if let Discrepancy::SeparateItems { .. } = &policy.discrepancy {
        writeln!(
            out,
            "   = help: if both are meant, put both selectors in one item (no \"-\" before the second): one item means AND"
        )?;
    }
    if directions.is_empty() {
        return Ok(());
    }
    let directions: Vec<&str> = directions.iter().map(|direction| direction.section()).collect();
    writeln!(out, "   = note: for {}, this policy may not do what its author meant", directions.join(" and "))
}

/// A denial by a policy that does not apply as it looks.
pub(in crate::command::explain) fn denied(
    context: &Context<'_>,
    policy: &MisleadingPolicy,
    other: &NamedEnd,
    out: &mut impl Write,
) -> io::Result<()> {
    let code = policy.code();
    writeln!(out, "{BAD}denied[{}]{BAD:#}: {}", code.as_str(), headline(code, other))?;
    let place = match code {
        ReasonCode::RuleNotUnderstood | ReasonCode::PolicyTooLarge => policy.path.clone(),
        _ => path(context, policy),
    };
    writeln!(out, "{}", arrow(context, policy.policy, &place))?;
    let [want, got] = want_and_got(&context.input.cluster, policy);
    let text = match code {
        ReasonCode::RuleNotUnderstood | ReasonCode::PolicyTooLarge => got,
        ReasonCode::DirectionOther => format!("wants {want}, there are {got}"),
        _ => format!("wants {want}, there is {got}"),
    };
    draw(context, policy.policy, vec![(place.clone(), place, text, true)], out)
}

/// The path of the very thing of the policy.
fn path(context: &Context<'_>, policy: &MisleadingPolicy) -> String {
    context.places.path(policy.policy, policy.path.clone(), policy.failed())
}

fn sentence(context: &Context<'_>, policy: &MisleadingPolicy) -> String {
    let cluster = &context.input.cluster;
    let (name, path) = (object(cluster, policy.policy), &policy.path);
    let [want, got] = want_and_got(cluster, policy);
    match policy.code() {
        ReasonCode::PolicyTypesMissing | ReasonCode::DirectionOther => format!("{name} has {got}"),
        ReasonCode::PeerOrNotAnd => format!("{name} {path}: separate items mean OR: {want}; {got}"),
        ReasonCode::PolicyOtherNamespace => format!("{name} means {want}; this is {got}"),
        ReasonCode::RuleOrNotAnd => format!("{name}: separate rules mean OR: {want}; {got}"),
        ReasonCode::RuleAdmitsEveryone => format!("{name} {path}: {want}; {got}"),
        ReasonCode::SubjectHostNetwork => format!("{name} selects {want}; this is {got}"),
        ReasonCode::ExceptUndone => format!("{name} wants {want}, and there is {got}"),
        ReasonCode::PoliciesAddUp => format!("{name} isolates it too, {want}; there is {got}"),
        ReasonCode::RuleNotUnderstood | ReasonCode::PolicyTooLarge => format!("{name} {path}: {got}"),
        _ => format!("{name} wants {want}, there is {got}"),
    }
}

fn object(cluster: &Cluster, id: PolicyId) -> String {
    format!("networkpolicy {}", policy_name(cluster, id))
}

/// What a policy asks for that is misleading, and what there is in place of it.
pub(in crate::command::explain) fn want_and_got(cluster: &Cluster, of: &MisleadingPolicy) -> [String; 2] {
    let policy = cluster.policy(of.policy);
    let in_types = |direction: &Direction| format!("{} in policyTypes", direction.as_str());
    match &of.discrepancy {
        Discrepancy::RulesWithoutType { direction, rules } => {
            let noun = if *rules == 1 { "rule" } else { "rules" };
            let (section, other) = (direction.section(), direction.opposite().as_str());
            [in_types(direction), format!("{rules} {section} {noun}, but policyTypes names only {other}")]
        }
        Discrepancy::EmptyListWithoutType(direction) => {
            let (section, word) = (direction.section(), direction.as_str());
            let got = format!("an empty {section} list, which closes nothing: its policyTypes do not name {word}");
            [in_types(direction), got]
        }
        Discrepancy::DeniesOtherDirection(direction) => {
            let (section, other) = (direction.section(), direction.opposite().as_str());
            [in_types(direction), format!("only {other} in its policyTypes: it closes nothing for {section}")]
        }
        Discrepancy::RulesForOtherDirection { direction, effect } => {
            [format!("a rule for {}", direction.section()), rules_for_other_direction(*direction, *effect)]
        }
        Discrepancy::SubjectLabel { failed, elsewhere } => {
            let got = match elsewhere {
                None => failed.got(),
                Some(ValueElsewhere::Label(key, value)) => format!("{}, but {key}={value}", failed.got()),
                Some(ValueElsewhere::Name(name)) => format!("{}, but the name {name}", failed.got()),
            };
            [failed.want(), got]
        }
        Discrepancy::LabelOnWorkload { failed, value, is_in_template, namespace, workload: of } => {
            let (key, of) = (&failed.requirement.key, workload(namespace, of));
            let got = if *is_in_template {
                format!("{key}={value} in the template of {of}, and this pod was made before that")
            } else {
                format!("{key}={value} in metadata.labels of {of}, not in its template")
            };
            [failed.want(), got]
        }
        Discrepancy::OtherNamespace(own) => {
            [format!("pods of namespace {}", policy.namespace), format!("a pod of namespace {own}")]
        }
        Discrepancy::HostNetwork => {
            let got = "a hostNetwork pod, to which no policy applies".to_owned();
            [format!("pods with {}", policy.subject), got]
        }
        Discrepancy::SeparateRules { direction, with_ports, with_peers } => {
            let field = direction.peers_field();
            let want = format!(
                "{with_ports} has ports and no {field}, so it admits everyone on them; {with_peers} has {field} and no \
                 ports, so it admits these on every port"
            );
            let got =
                "one rule with both (no \"-\" before the second) would admit these on these ports only".to_owned();
            [want, got]
        }
        Discrepancy::AdmitsEveryone(direction) => {
            let want = format!("a rule without {} and ports admits everyone on every port", direction.peers_field());
            [want, format!("to deny all, leave {} an empty list ([]), or out", direction.section())]
        }
        Discrepancy::ExceptUndone { except, policy, path } => {
            let of_policy =
                if *policy == of.policy { String::new() } else { format!(" of {}", object(cluster, *policy)) };
            let got = format!(
                "{path}{of_policy}, which admits them: an except cuts its own ipBlock only, and items, rules and policies \
                 add up"
            );
            [format!("the addresses of {} left out", except.network()), got]
        }
        Discrepancy::PoliciesAddUp { direction, rules, policy, path, extent } => {
            let want = match rules {
                1 => "by one rule, which does not admit this".to_owned(),
                rules => format!("by {rules} rules, of which none admits this"),
            };
            let (wide, whom) = (object(cluster, *policy), whom(*direction, *extent));
            let got = format!(
                "{wide} {path}, which admits this {whom}: policies add up, and none takes away what another admits"
            );
            [want, got]
        }
        Discrepancy::SeparateItems { direction, items } => separate_items(*direction, items),
        Discrepancy::NotUnderstood { code, problem, effect, besides } => {
            let want = match code {
                finding::FindingCode::PolicyTooLarge => "a policy that there is room for",
                _ => "a field that npc understands",
            };
            let besides = match besides {
                None => "",
                Some(OtherPart::Ports) => "; and its ports do not admit this traffic",
                Some(OtherPart::Peers) => "; and its peers do not mean the other end",
            };
            [want.to_owned(), format!("{problem}; {effect}{besides}")]
        }
    }
}

fn rules_for_other_direction(direction: Direction, effect: OtherDirection) -> String {
    let there = direction.opposite().section();
    let rest = match (effect, direction) {
        (OtherDirection::MeanOtherEnd, _) => return format!("rules for {there} that mean the other end"),
        (OtherDirection::Admit, Direction::Ingress) => {
            "they let its pods send to the other end, and not receive from it"
        }
        (OtherDirection::Admit, Direction::Egress) => {
            "they let its pods receive from the other end, and not send to it"
        }
        (OtherDirection::Limit, Direction::Ingress) => "they limit what its pods may send, not what may reach them",
        (OtherDirection::Limit, Direction::Egress) => "they limit what may reach its pods, not what these may send",
    };
    format!("rules for {there} only: {rest}")
}

/// For whom a policy admits a flow that another one does not admit.
const fn whom(direction: Direction, extent: AddedFlows) -> &'static str {
    match (extent, direction) {
        (AddedFlows::PodsOfNamespace, Direction::Ingress) => "from every pod of the namespace",
        (AddedFlows::PodsOfNamespace, Direction::Egress) | (AddedFlows::AllSubjects, _) => {
            "to every pod of the namespace"
        }
        (AddedFlows::Everyone, Direction::Ingress) => "from everyone",
        (AddedFlows::Everyone, Direction::Egress) => "to everyone",
    }
}

/// What two items admit each alone, and what one item with both would.
fn separate_items(direction: Direction, items: &SeparateItems) -> [String; 2] {
    let field = direction.peers_field();
    let endpoints = |count: usize| if count == 1 { "1 endpoint".to_owned() } else { format!("{count} endpoints") };
    let ((of_namespaces, by_namespace), (of_pods, by_pod)) = (items.namespace_selector, items.pod_selector);
    let want = format!(
        "the namespaceSelector of {field}[{of_namespaces}] alone admits {}, the podSelector of {field}[{of_pods}] alone {}",
        endpoints(by_namespace),
        endpoints(by_pod)
    );
    [want, format!("both in one item (AND) admit {}", endpoints(items.both))]
}
