//! The smallest change that admits a denied flow: as help below the denial, and as JSON.

mod anchor;
mod apply;
mod json;
mod service;
mod why_not;
mod yaml;

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::io::{self, Write};

use json_patch::jsonptr::Token;
use json_patch::{Patch, PatchOperation};
use npc_agent::source::manifests::{ObjectRef, Positions};
use npc_compiler::cluster::Cluster;
use npc_compiler::cluster::group::Groups;
use npc_compiler::object::Workload;
use npc_compiler::policy::Direction;
use npc_compiler::verdict::explain::{EndName, Flow, FlowExplanation};
use npc_compiler::verdict::fix::{
    Change, Closing, Edit, Fix, FlowFix, Lacking, NoFix, ObjectName, Opened, OpenedEnd, Rollout, Wider, Written, fixes,
};
use serde_json::Value;

use super::traffic::traffic;
use super::words::shown;
use crate::command::endpoint::short_kind;
use crate::command::input::{Input, Source};
use crate::command::words::shorten;

pub(super) use json::{FixJson, UnfixedJson};
use why_not::why_not;

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
    input: &'a Input,
    explanation: &'a FlowExplanation,
    found: Vec<FlowFix>,
}

impl<'a> Fixes<'a> {
    /// Looks for them.
    pub(super) fn of(input: &'a Input, groups: &Groups, explanation: &'a FlowExplanation) -> Self {
        let most = if input.loaded.objects.pods.len() > MANY_PODS { 1 } else { FIXED };
        let written = InInput(input);
        let bounded = |cluster| input.bounded(cluster);
        let found = fixes(&input.loaded.objects, &input.cluster, groups, explanation, &written, &bounded, most);
        Self { input, explanation, found }
    }

    /// Whether what is said of the fixes of two flows is the same, but that one is shown first.
    pub(super) fn are_alike(&self, one: usize, other: usize) -> bool {
        let place = |flow: usize| self.found.iter().position(|fix| fix.flows.contains(&flow));
        match (place(one), place(other)) {
            (None, None) => true,
            (Some(one), Some(other)) => {
                let reason = |place: usize| self.found[place].fix.as_ref().err();
                one == other || (reason(one).is_some() && reason(one) == reason(other))
            }
            _ => false,
        }
    }

    /// The fix of the flow at this place of the explanation, if one was looked for.
    pub(super) fn of_flow(&self, place: usize) -> Option<Found<'_>> {
        let index = self.found.iter().position(|fix| fix.flows.contains(&place))?;
        let (before, found) = (&self.found[..index], &self.found[index]);
        Some(Found {
            fix: &found.fix,
            is_first: found.flows.first() == Some(&place),
            explanation: self.explanation,
            flows: &found.flows,
            is_after_others: before.iter().any(|of| of.fix.is_ok()),
        })
    }

    /// The commands that apply the changes, below the answer.
    pub(super) fn write_commands(&self, out: &mut impl Write) -> io::Result<()> {
        apply::write(self.found.iter().filter_map(|of| of.fix.as_ref().ok()), out)
    }
}

/// The fix of a flow.
#[derive(Clone, Copy)]
pub(super) struct Found<'a> {
    fix: &'a Result<Fix, NoFix>,
    /// Whether it is shown at this flow. A fix of several flows is shown at the first.
    is_first: bool,
    /// Whether it was found in what fixes of other flows make of the objects.
    is_after_others: bool,
    explanation: &'a FlowExplanation,
    /// The places of the flows that it is of.
    flows: &'a [usize],
}

impl Found<'_> {
    /// The flows that it is of beside the first, by what they have that the first has not; those that are shown
    /// with another family are one.
    fn more_flows(&self) -> Vec<String> {
        let Some((first, rest)) = self.flows.split_first() else { return Vec::new() };
        let first = &self.explanation.flows[*first];
        let mut kept: Vec<&Flow> = vec![first];
        for flow in rest.iter().map(|place| &self.explanation.flows[*place]) {
            if !kept.iter().any(|of| of.is_same_in_another_family(flow)) {
                kept.push(flow);
            }
        }
        let words = |flow: &&Flow| {
            let end = |way: &str, own: &EndName, of: &EndName| (own != of).then(|| format!("{way} {}", shown(own)));
            let of_ends = [end("from", &flow.from, &first.from), end("to", &flow.to, &first.to)];
            let of_traffic = (flow.traffic != first.traffic).then(|| traffic(&flow.traffic));
            let words: Vec<String> = of_ends.into_iter().flatten().chain(of_traffic).collect();
            let family = || flow.family.filter(|_| flow.family != first.family).map(|family| family.to_string());
            if words.is_empty() { family().unwrap_or_default() } else { words.join(" ") }
        };
        kept.iter().skip(1).map(words).collect()
    }
}

/// What the files say of objects, and a cluster of the labels that workloads have themselves.
struct InInput<'a>(&'a Input);

impl InInput<'_> {
    const fn positions(&self) -> &Positions {
        &self.0.loaded.positions
    }
}

impl Written for InInput<'_> {
    fn has(&self, object: &ObjectName) -> bool {
        self.positions().locate_object(&reference(object), "").is_some()
    }

    fn has_field(&self, object: &ObjectName, path: &[&str]) -> bool {
        self.positions().locate_object(&reference(object), &field_path(path)).is_some_and(|place| place.exact)
    }

    fn text(&self, object: &ObjectName, path: &[&str]) -> Option<String> {
        match path {
            ["metadata", "labels", key] if !self.has(object) => {
                let namespace = object.namespace.as_deref().unwrap_or_default();
                let workload = Workload { kind: object.kind.clone(), name: object.name.clone() };
                self.0.cluster.workload_label(namespace, &workload, key).map(str::to_owned)
            }
            _ => self.positions().text(&reference(object), path),
        }
    }

    fn metadata(&self, object: &ObjectName) -> Option<Value> {
        self.positions().metadata(&reference(object))
    }
}

fn reference(object: &ObjectName) -> ObjectRef {
    ObjectRef::new(&object.kind, object.namespace.as_deref().unwrap_or_default(), &object.name)
}

/// Writes the changes of some directions below a denial. The last denial of a flow says what all
/// its changes together do.
pub(super) fn help(
    input: &Input,
    found: Option<Found<'_>>,
    directions: &[Direction],
    is_last: bool,
    out: &mut impl Write,
) -> io::Result<()> {
    let cluster = &input.cluster;
    let Some(found) = found else { return Ok(()) };
    match found.fix {
        Ok(_) if !found.is_first => {
            if is_last {
                writeln!(out, "   = help: the changes above admit this flow too")
            } else {
                Ok(())
            }
        }
        // It is the same for all of them.
        Err(NoFix::NotTried) if !found.is_first => Ok(()),
        Err(reason) if is_last => {
            service::draw(input, reason, out)?;
            writeln!(out, "   = help: {}", why_not(reason))?;
            let command = service::json(input, reason).and_then(|service| service.command);
            command.iter().try_for_each(|line| writeln!(out, "{INDENT}to correct it: {line}"))
        }
        Err(_) => Ok(()),
        Ok(fix) => {
            let more_flows = found.more_flows();
            let is_here = |change: &Change| directions.contains(&change.direction);
            if is_last && !fix.changes.iter().any(is_here) {
                writeln!(out, "   = help: the change above is for this direction too")?;
            }
            for change in fix.changes.iter().filter(|change| is_here(change)) {
                let only = fix.opens.is_empty().then_some(more_flows.len());
                write_change(input, change, only, out)?;
                if let Some(place) = anchor::shared_text(input, change) {
                    writeln!(out, "{INDENT}{}", anchor::words(&place))?;
                }
                match change.adds.nodes(cluster) {
                    0 => {}
                    1 => writeln!(
                        out,
                        "{INDENT}(that is the address of a node: it admits all that runs in its network)"
                    )?,
                    _ => writeln!(
                        out,
                        "{INDENT}(these are addresses of nodes: they admit every hostNetwork pod and every process of these nodes; add those \
                         of nodes that join later)"
                    )?,
                }
            }
            if is_last {
                writeln!(out, "{INDENT}{}", checked(cluster, fix, found.is_after_others, &more_flows))?;
                if fix.changes.iter().any(|change| change.adds.has_every_port) {
                    writeln!(
                        out,
                        "{INDENT}(every port, because no port was asked about; ask about one, and the change names it)"
                    )?;
                }
            }
            if let Some(of) = fix.undeclared_target.as_ref().filter(|_| is_last) {
                writeln!(out, "   = note: {}", service::undeclared(of))?;
            }
            for Closing { change, closes } in fix.closing.iter().filter(|of| is_here(&of.change)) {
                writeln!(out, "   = note: {}", not_proposed(cluster, change, "close", closes))?;
            }
            for Wider { change, opens } in fix.wider.iter().filter(|of| is_here(&of.change)) {
                writeln!(out, "   = note: {}", not_proposed(cluster, change, "open", opens))?;
            }
            Ok(())
        }
    }
}

/// Why a change is not proposed that mends what the denial names: what else it would close or open.
fn not_proposed(cluster: &Cluster, change: &Change, verb: &str, what_else: &[Opened]) -> String {
    let what = match &change.edit {
        Edit::MovedPolicy(_, old) => {
            let namespace = change.object.namespace.as_deref().unwrap_or_default();
            format!("{} in namespace {namespace}", object_name(old))
        }
        Edit::Policy(Patch(operations)) => {
            let is_whole = |of: &PatchOperation| !is_end(of.path().last().as_ref());
            let path = operations.first().map(|first| path_of(first, is_whole(first))).unwrap_or_default();
            format!("a change of {path} of {}", object_name(&change.object))
        }
        Edit::NewPolicy(_) | Edit::Labels(..) => format!("a change of {}", object_name(&change.object)),
    };
    let others = others(cluster, what_else.iter());
    let count = if others.len() == 1 { "1 other".to_owned() } else { format!("{} others", others.len()) };
    format!("{what} would admit it too, and {verb} {count}: {}", shorten(&others, NAMED, "; "))
}

/// What the changes do, as it was found out.
fn checked(cluster: &Cluster, fix: &Fix, is_after_others: bool, more_flows: &[String]) -> String {
    let verb = |one: &str, more: &str| if fix.changes.len() > 1 { more.to_owned() } else { one.to_owned() };
    // As `verified` in JSON: what closes something is no fix to apply unseen.
    let word = if fix.closes.is_empty() { "checked" } else { "tried, and not called safe" };
    let word = if is_after_others { format!("{word} after the changes above") } else { word.to_owned() };
    let subject = format!("{word}: {}", verb("turns", "the changes of both directions together turn"));
    let flows = match more_flows.len() {
        0 => "this flow".to_owned(),
        count => {
            // The ways of a flow by nodes are told apart where it is shown.
            let named: BTreeSet<&String> = more_flows.iter().filter(|of| !of.is_empty()).collect();
            let named: Vec<String> = named.into_iter().cloned().collect();
            let named = if named.is_empty() { String::new() } else { format!(" ({})", shorten(&named, NAMED, ", ")) };
            format!("this flow and {count} more of this answer{named}")
        }
    };
    let opens = verb("opens", "open");
    // What is certain, and what depends on a fact that the input lacks.
    let parts = |of: &[Opened], certainly: &str, perhaps: &str| {
        let part = |certain: bool, verb: &str| {
            let others = others(cluster, of.iter().filter(|of| of.certain == certain));
            match others.len() {
                0 => None,
                1 => Some(format!("{verb} 1 other: {}", others[0])),
                count => Some(format!("{verb} {count} others: {}", shorten(&others, NAMED, "; "))),
            }
        };
        [part(true, certainly), part(false, perhaps)].into_iter().flatten().collect::<Vec<String>>()
    };
    let mut said = parts(&fix.opens, &opens, "may open");
    if said.is_empty() {
        said.push(format!("{opens} no other"));
    }
    let closed = parts(&fix.closes, &verb("closes", "close"), "may close");
    let mut reason = String::new();
    if !closed.is_empty() {
        let _ = write!(
            reason,
            "\n{INDENT}(policies that select by this label then apply to these pods for the first time; npc prints no \
             command for a change that closes something)"
        );
    }
    if !fix.backend_of.is_empty() {
        let services = shorten(&services(fix), NAMED, ", ");
        let _ = write!(reason, "\n{INDENT}(with this label the pods become backends of {services})");
    }
    said.extend(closed);
    let last = said.pop().unwrap_or_default();
    if said.is_empty() {
        return format!("{subject} {flows} to ALLOWED and {last}{reason}");
    }
    format!("{subject} {flows} to ALLOWED, {}\n{INDENT}and {last}{reason}", said.join(&format!(",\n{INDENT}")))
}

/// The Services that get backends by a label of the changes.
fn services(fix: &Fix) -> Vec<String> {
    fix.backend_of.iter().map(|(namespace, name)| format!("{namespace}/svc/{name}")).collect()
}

/// What is opened, by workload.
fn others<'a>(cluster: &Cluster, opens: impl Iterator<Item = &'a Opened>) -> Vec<String> {
    let end = |end: &OpenedEnd| match end.pod.map(|pod| cluster.pod(pod)) {
        None => end.id.to_string(),
        Some(pod) => {
            let (kind, name) = pod.identity();
            format!("{}/{}/{name}", pod.namespace, short_kind(kind))
        }
    };
    let text = |of: &Opened| format!("{} -> {} {}", end(&of.from), end(&of.to), traffic(&of.traffic));
    opens.map(text).collect::<BTreeSet<_>>().into_iter().collect()
}

/// Writes a change; of one that opens nothing else, how many flows it is for beside the first.
fn write_change(input: &Input, change: &Change, only: Option<usize>, out: &mut impl Write) -> io::Result<()> {
    let name = object_name(&change.object);
    match &change.edit {
        Edit::NewPolicy(document) => {
            let alone = match only {
                None => String::new(),
                Some(0) => ", which admits this flow alone".to_owned(),
                Some(more) => format!(", which admits these {} flows alone", more + 1),
            };
            writeln!(out, "   = help: add this policy{alone}:")?;
            write_lines(&yaml::block(document), out)
        }
        Edit::MovedPolicy(document, old) => {
            writeln!(
                out,
                "   = help: {} selects no pod of its namespace; put it into that of the pods it means:",
                object_name(old)
            )?;
            write_lines(&[yaml::pair("metadata", &document["metadata"])], out)?;
            write_lines(&then(change).into_iter().collect::<Vec<_>>(), out)
        }
        Edit::Labels(labels, Patch(operations), lacking) => {
            let tokens = operations.last().map(|operation| tokens(operation, is_map(operation))).unwrap_or_default();
            let label = if labels.len() == 1 { "the label" } else { "the labels" };
            let end = if change.direction == Direction::Egress { "destination" } else { "source" };
            let (name, by) = match lacking {
                Lacking::Peer if change.object.kind == "Namespace" => {
                    (format!("{name}, that of the {end},"), "the rule asks")
                }
                Lacking::Peer => (format!("the {end}, {name},"), "the rule asks"),
                Lacking::Subject => (name, "the podSelector of a policy asks"),
            };
            writeln!(out, "   = help: {name} lacks {label} that {by} for; add this to its {}:", field_path(&tokens))?;
            // A template without metadata gets it, and the labels in it.
            let has_parent = tokens.last().is_some_and(|last| last == "metadata");
            let lines: Vec<String> = if has_parent {
                vec![yaml::pair("labels", &serde_json::json!(labels))]
            } else {
                labels.iter().map(|(key, value)| yaml::pair(key, &Value::from(value.as_str()))).collect()
            };
            write_lines(&lines, out)?;
            write_lines(&then(change).into_iter().collect::<Vec<_>>(), out)
        }
        Edit::Policy(Patch(operations)) => {
            // Several items for one list are written together.
            let is_item =
                |of: &PatchOperation| matches!(of, PatchOperation::Add(_)) && is_end(of.path().last().as_ref());
            let together = operations.chunk_by(|one, next| is_item(one) && is_item(next) && one.path() == next.path());
            together.into_iter().try_for_each(|operations| write_operations(input, operations, &name, out))
        }
    }
}

/// Whether the last token of a path means the end of a list.
fn is_end(token: Option<&Token<'_>>) -> bool {
    token.is_some_and(|token| token.decoded() == "-")
}

/// What else must be done: what the pods of a changed template need, and where an object was.
fn then(change: &Change) -> Option<String> {
    if let Edit::MovedPolicy(_, old) = &change.edit {
        let (name, namespace) = (&old.name, old.namespace.as_deref().unwrap_or_default());
        return Some(format!(
            "then delete the one in namespace {namespace} (kubectl -n {namespace} delete networkpolicy {name}); kubectl \
             moves no object"
        ));
    }
    let kind = &change.object.kind;
    let pods_keep = format!("the pods that run keep their labels; then delete them, because the {kind}");
    Some(match change.rollout? {
        Rollout::Resume => {
            let ObjectName { namespace, name, .. } = &change.object;
            format!(
                "the {kind} is paused; then resume it, so that it replaces its pods (kubectl -n {} rollout resume \
                 deploy/{name})",
                namespace.as_deref().unwrap_or_default()
            )
        }
        Rollout::DeletePods if matches!(kind.as_str(), "StatefulSet" | "DaemonSet") => {
            format!("{pods_keep} does not replace them (updateStrategy OnDelete)")
        }
        Rollout::DeletePods => format!("{pods_keep} does not replace them"),
        Rollout::NextJob => "the pods of its next Job have it; those of a Job that runs do not".to_owned(),
        Rollout::UnlessPaused => format!("the {kind} then replaces its pods, unless it is paused"),
        Rollout::UnlessOnDelete => format!(
            "the {kind} then replaces its pods, unless its updateStrategy is OnDelete (delete the pods then) or has \
             a partition"
        ),
    })
}

/// One operation on a policy, or several that add items to one list.
fn write_operations(
    input: &Input,
    operations: &[PatchOperation],
    policy: &str,
    out: &mut impl Write,
) -> io::Result<()> {
    let Some((operation, more)) = operations.split_first() else { return Ok(()) };
    let last = operation.path().last().map(|token| token.decoded().into_owned()).unwrap_or_default();
    match operation {
        PatchOperation::Add(add) if last == "-" || add.value.is_array() => {
            let items = match &add.value {
                Value::Array(items) => items.clone(),
                item => vec![item.clone()],
            };
            writeln!(out, "   = help: add this to {} of {policy}:", path_of(operation, last != "-"))?;
            let more =
                more.iter().filter_map(|of| if let PatchOperation::Add(add) = of { Some(&add.value) } else { None });
            items.iter().chain(more).try_for_each(|item| write_lines(&yaml::item(item), out))
        }
        PatchOperation::Add(add) => {
            if last == "protocol" {
                writeln!(out, "   = help: put this in {} of {policy}:", path_of(operation, false))?;
            } else {
                writeln!(out, "   = help: put this in the same list item (a new \"-\" would mean OR):")?;
            }
            write_lines(&[yaml::pair(&last, &add.value)], out)
        }
        PatchOperation::Replace(replace) => {
            let path = path_of(operation, true);
            // An item of a list has no name.
            let is_item = last.parse::<usize>().is_ok();
            // Files may not have all that a cluster has.
            let of_input = if input.source == Source::Files { " of the input" } else { "" };
            let what = match last.as_str() {
                "port" if replace.value.is_string() => "is no port of the destination".to_owned(),
                "port" => "means a name".to_owned(),
                "protocol" => "is no protocol".to_owned(),
                "operator" => "is no operator".to_owned(),
                "cidr" => "is no prefix".to_owned(),
                _ if is_item => "matches nothing as it is written".to_owned(),
                "namespaceSelector" => format!("selects no namespace{of_input}"),
                _ => format!("selects no pod{of_input}"),
            };
            writeln!(out, "   = help: {path} of {policy} {what}; write in its place:")?;
            let lines = if is_item { yaml::item(&replace.value) } else { vec![yaml::pair(&last, &replace.value)] };
            write_lines(&lines, out)
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
    field_path(&tokens(operation, is_whole))
}

/// The keys and indexes of the path of an operation; without the last, those of the list or map that it is in.
fn tokens(operation: &PatchOperation, is_whole: bool) -> Vec<String> {
    let mut tokens: Vec<String> = operation.path().tokens().map(|token| token.decoded().into_owned()).collect();
    tokens.truncate(if is_whole { tokens.len() } else { tokens.len().saturating_sub(1) });
    tokens
}

/// Keys and indexes as the API writes a path: `spec.ingress[0]`.
fn field_path<T: AsRef<str>>(tokens: &[T]) -> String {
    tokens.iter().map(AsRef::as_ref).fold(String::new(), |path, token| {
        let is_index = !token.is_empty() && token.chars().all(|c| c.is_ascii_digit());
        match (path.is_empty(), is_index) {
            (true, _) => token.to_owned(),
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
