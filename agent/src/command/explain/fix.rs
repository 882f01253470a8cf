//! The smallest change that admits a denied flow: as help below the denial, and as JSON.

mod json;
mod yaml;

use std::collections::BTreeSet;
use std::io::{self, Write};

use json_patch::{Patch, PatchOperation};
use npc_compiler::cluster::Cluster;
use npc_compiler::cluster::group::Groups;
use npc_compiler::object::Workload;
use npc_compiler::policy::Direction;
use npc_compiler::verdict::explain::{Code, FlowExplanation};
use npc_compiler::verdict::fix::{Change, Edit, Fix, FlowFix, NoFix, ObjectName, Opened, OpenedEnd, fixes};
use serde_json::Value;

use super::own_label;
use super::text::traffic;
use crate::command::endpoint::short_kind;
use crate::command::input::Input;
use crate::command::words::shorten;

pub(super) use json::{FixJson, UnfixedJson};

/// So many flows get a fix: each takes as long as several explanations.
const FIXED: usize = 4;

/// In an input with more pods, one flow gets a fix.
const MANY_PODS: usize = 5000;

/// So many of the flows that a fix opens are named.
const NAMED: usize = 3;

/// The indent of what a help line is about.
const INDENT: &str = "           ";

/// The fixes of an explanation.
pub(super) struct Fixes<'a> {
    explanation: &'a FlowExplanation,
    fixes: Vec<FlowFix>,
}

impl<'a> Fixes<'a> {
    /// Looks for them.
    pub(super) fn of(input: &Input, groups: &Groups, explanation: &'a FlowExplanation) -> Self {
        let most = if input.loaded.objects.pods.len() > MANY_PODS { 1 } else { FIXED };
        let has_own_label = |workload: &Workload, namespace: &str, key: &str| {
            own_label::place(&input.loaded.positions, workload, namespace, key).is_some()
        };
        let fixes = fixes(&input.loaded.objects, &input.cluster, groups, explanation, &has_own_label, most);
        Self { explanation, fixes }
    }

    /// The fix of the flow at this place of the explanation, if one was looked for.
    pub(super) fn of_flow(&self, place: usize) -> Option<&FlowFix> {
        self.fixes.iter().find(|fix| fix.flows.contains(&place))
    }
}

/// Writes what to change below the denial of a direction. The last denial of a flow says
/// what all its changes together do.
pub(super) fn help(
    cluster: &Cluster,
    fix: Option<&FlowFix>,
    direction: Option<Direction>,
    is_last: bool,
    out: &mut impl Write,
) -> io::Result<()> {
    match fix.map(|found| &found.fix) {
        Some(Err(reason)) if is_last => writeln!(out, "   = help: {}", why_not(reason)),
        None | Some(Err(_)) => Ok(()),
        Some(Ok(fix)) => {
            for change in fix.changes.iter().filter(|change| Some(change.direction) == direction) {
                write_change(change, out)?;
            }
            if is_last { writeln!(out, "{INDENT}{}", checked(cluster, fix)) } else { Ok(()) }
        }
    }
}

/// What the changes do, as it was found out.
fn checked(cluster: &Cluster, fix: &Fix) -> String {
    let verb = |one: &str, more: &str| if fix.changes.len() > 1 { more.to_owned() } else { one.to_owned() };
    let subject = verb("checked: turns", "checked: the changes of both directions together turn");
    let opens = verb("opens", "open");
    let others = |of: &[Opened]| {
        let others = others(cluster, of);
        match others.len() {
            0 => "no other".to_owned(),
            1 => format!("1 other: {}", others[0]),
            count => format!("{count} others: {}", shorten(&others, NAMED, "; ")),
        }
    };
    let opened = others(&fix.opens);
    if fix.closes.is_empty() {
        return format!("{subject} this flow to ALLOWED and {opens} {opened}");
    }
    let denied = others(&fix.closes);
    let closes = verb("closes", "close");
    format!(
        "{subject} this flow to ALLOWED, {opens} {opened}\n{INDENT}and {closes} {denied}\n{INDENT}(policies that \
         select by this label apply to these pods only now)"
    )
}

/// What is opened, by workload.
fn others(cluster: &Cluster, opens: &[Opened]) -> Vec<String> {
    let end = |end: &OpenedEnd| match end.pod.map(|pod| cluster.pod(pod)) {
        None => end.id.to_string(),
        Some(pod) => {
            let (kind, name) = pod.workload.as_ref().map_or(("Pod", &pod.name), |of| (of.kind.as_str(), &of.name));
            format!("{}/{}/{name}", pod.namespace, short_kind(kind))
        }
    };
    let text = |of: &Opened| format!("{} -> {} {}", end(&of.from), end(&of.to), traffic(&of.traffic));
    opens.iter().map(text).collect::<BTreeSet<_>>().into_iter().collect()
}

fn write_change(change: &Change, out: &mut impl Write) -> io::Result<()> {
    let name = object_name(&change.object);
    match &change.edit {
        Edit::NewPolicy(document) => {
            writeln!(out, "   = help: add this policy, which admits this flow alone:")?;
            write_lines(&yaml::block(document), out)
        }
        Edit::Labels(labels, Patch(operations)) => {
            let path = operations.first().map(|operation| path_of(operation, is_map(operation))).unwrap_or_default();
            writeln!(out, "   = help: the other end lacks what the rule asks for; add this to {path} of {name}:")?;
            let lines: Vec<String> =
                labels.iter().map(|(key, value)| yaml::pair(key, &Value::from(value.as_str()))).collect();
            write_lines(&lines, out)
        }
        Edit::Policy(Patch(operations)) => {
            operations.iter().try_for_each(|operation| write_operation(operation, &name, out))
        }
    }
}

/// One operation on a policy.
fn write_operation(operation: &PatchOperation, policy: &str, out: &mut impl Write) -> io::Result<()> {
    let last = operation.path().last().map(|token| token.decoded().into_owned()).unwrap_or_default();
    match operation {
        PatchOperation::Add(add) if last == "-" || add.value.is_array() => {
            let items = match &add.value {
                Value::Array(items) => items.clone(),
                item => vec![item.clone()],
            };
            writeln!(out, "   = help: add this to {} of {policy}:", path_of(operation, last != "-"))?;
            items.iter().try_for_each(|item| write_lines(&yaml::item(item), out))
        }
        PatchOperation::Add(add) => {
            writeln!(out, "   = help: put this in the same list item (a new \"-\" would mean OR):")?;
            write_lines(&[yaml::pair(&last, &add.value)], out)
        }
        PatchOperation::Replace(replace) => {
            let path = path_of(operation, true);
            let what = if last == "port" { "means a name" } else { "selects no pod of the input" };
            writeln!(out, "   = help: {path} of {policy} {what}; write in its place:")?;
            write_lines(&[yaml::pair(&last, &replace.value)], out)
        }
        PatchOperation::Remove(_) => {
            writeln!(out, "   = help: remove {} of {policy}", path_of(operation, true))
        }
        _ => Ok(()),
    }
}

fn write_lines(lines: &[String], out: &mut impl Write) -> io::Result<()> {
    lines.iter().try_for_each(|line| writeln!(out, "{INDENT}{line}"))
}

fn is_map(operation: &PatchOperation) -> bool {
    matches!(operation, PatchOperation::Add(add) if add.value.is_object())
}

/// The path of an operation as the API writes it; without its last part, the path of the
/// list or map that it is in.
fn path_of(operation: &PatchOperation, is_whole: bool) -> String {
    let tokens: Vec<String> = operation.path().tokens().map(|token| token.decoded().into_owned()).collect();
    let kept = if is_whole { tokens.len() } else { tokens.len().saturating_sub(1) };
    tokens[..kept].iter().fold(String::new(), |path, token| {
        let is_index = !token.is_empty() && token.chars().all(|c| c.is_ascii_digit());
        match (path.is_empty(), is_index) {
            (true, _) => token.clone(),
            (_, true) => format!("{path}[{token}]"),
            (_, false) => format!("{path}.{token}"),
        }
    })
}

/// `networkpolicy shop/api`, `shop/deploy/cart`, `namespace monitoring`.
fn object_name(object: &ObjectName) -> String {
    let ObjectName { kind, namespace, name } = object;
    match (kind.as_str(), namespace) {
        ("NetworkPolicy", Some(namespace)) => format!("networkpolicy {namespace}/{name}"),
        (kind, Some(namespace)) => format!("{namespace}/{}/{name}", short_kind(kind)),
        (kind, None) => format!("{} {name}", kind.to_lowercase()),
    }
}

/// Why there is no fix, and what to do.
fn why_not(reason: &NoFix) -> String {
    match reason {
        NoFix::TooManyPairs => "npc looks for no fix of so many pairs; ask about two of these ends".to_owned(),
        NoFix::TooManyPorts => "ask about one port, and npc looks for the smallest fix; it proposes none for all ports".to_owned(),
        NoFix::Icmp => {
            "no fix: only a rule without ports admits ICMP, and it admits every protocol and port".to_owned()
        }
        NoFix::NoAddress => {
            "no fix: only an ipBlock can admit the other end, and the input does not say its address".to_owned()
        }
        NoFix::NoLabel(namespace, name) => {
            format!("no fix: the pods of {namespace}/{name} have no label that a selector can ask for; give them one")
        }
        NoFix::NodeAddress(service) => {
            let name = |(namespace, name): &(String, String)| format!("{namespace}/svc/{name}");
            let service = service.as_ref().map_or_else(|| "the Service".to_owned(), name);
            format!(
                "no fix in a policy: an ipBlock with the node's address would admit every client that comes by that \
                 node; with externalTrafficPolicy: Local in {service} the pod sees the client's address, and only the \
                 nodes of its pods lead to it"
            )
        }
        NoFix::ManyEnds => "no fix: no rule can name all these ends; ask about one of them".to_owned(),
        NoFix::EveryAddress => {
            "no fix: only a rule for every address admits this; ask about one address or a smaller prefix".to_owned()
        }
        NoFix::Service(Code::ServicePortUnknown) => {
            "no policy is the cause; ask for a port that the Service has, or add this one to it".to_owned()
        }
        NoFix::Service(_) => {
            "no policy is the cause; compare the Service's selector and targetPort with the labels and ports of the pods"
                .to_owned()
        }
        NoFix::FactMissing => "no fix: the input lacks a fact that decides".to_owned(),
        NoFix::NothingFits => {
            "no fix: no small change admits this flow without closing another or opening very many".to_owned()
        }
    }
}
