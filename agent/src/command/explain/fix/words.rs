//! What changes do, and what else must be done, in words.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;

use json_patch::{Patch, PatchOperation};
use npc_compiler::cluster::Cluster;
use npc_compiler::object::Family;
use npc_compiler::verdict::fix::{Change, Edit, Fix, ObjectName, Opened, OpenedEnd, Rollout, TemplateReach};

use super::INDENT;
use super::path::{is_end, path_of};
use crate::command::endpoint::short_kind;
use crate::command::explain::traffic::traffic;
use crate::command::words::shorten;

/// At most this many of the flows that a fix opens are named.
const NAMED: usize = 3;

/// At most this many of the flows that it closes are named: a client may need each of them.
const CLOSED: usize = 20;

/// Why a change is not proposed that mends what the denial names: what else it would close or open.
pub(super) fn not_proposed(cluster: &Cluster, change: &Change, verb: &str, what_else: &[Opened]) -> String {
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
        Edit::Labels(labels, ..) => {
            let labels: Vec<String> = labels.iter().map(|(key, value)| format!("{key}={value}")).collect();
            let word = if labels.len() == 1 { "the label" } else { "the labels" };
            format!("{word} {} on {}", shorten(&labels, NAMED, ", "), object_name(&change.object))
        }
        Edit::NewPolicy(_) => format!("a change of {}", object_name(&change.object)),
    };
    let others = others(cluster, what_else.iter());
    let count = if others.len() == 1 { "1 other".to_owned() } else { format!("{} others", others.len()) };
    format!("{what} would admit it too, and {verb} {count}: {}", shorten(&others, NAMED, "; "))
}

/// What the changes do, as it was found out.
pub(super) fn checked(cluster: &Cluster, fix: &Fix, is_after_others: bool, more_flows: &[String]) -> String {
    let verb = |one: &str, more: &str| if fix.changes.len() > 1 { more.to_owned() } else { one.to_owned() };
    // As `verified` in JSON: what closes something is no fix to apply unseen.
    let word = if fix.is_safe() { "checked" } else { "tried, and not called safe" };
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
    let parts = |of: &[Opened], named: usize, certainly: &str, perhaps: &str| {
        let part = |certain: bool, verb: &str| {
            let others = others(cluster, of.iter().filter(|of| of.certain == certain));
            match others.len() {
                0 => None,
                1 => Some(format!("{verb} 1 other: {}", others[0])),
                count => Some(format!("{verb} {count} others: {}", shorten(&others, named, "; "))),
            }
        };
        [part(true, certainly), part(false, perhaps)].into_iter().flatten().collect::<Vec<String>>()
    };
    let mut said = parts(&fix.opens, NAMED, &opens, "may open");
    if said.is_empty() {
        said.push(format!("{opens} no other"));
    }
    let closed =
        if fix.is_safe() { Vec::new() } else { parts(&fix.closes, CLOSED, &verb("closes", "close"), "may close") };
    let mut reason = String::new();
    if fix.is_safe() && !fix.gives_up().is_none() {
        let _ = write!(reason, "\n{INDENT}({})", given_up(fix));
    }
    if !closed.is_empty() {
        let _ = write!(
            reason,
            "\n{INDENT}(policies that select by this label then apply to these pods for the first time; npc prints no \
             command for a change that closes something; -o json has its patch)"
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

/// What goes from a rule because nothing seems to listen there.
pub(super) fn given_up(fix: &Fix) -> String {
    format!(
        "{} goes from the rule: nothing that it means listens on it, as far as pods declare their ports; if a probe or a \
         container that declares none uses it, keep it too",
        traffic(&fix.gives_up())
    )
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
            let (kind, name) = pod.shown_as();
            format!("{}/{}/{name}", pod.namespace, short_kind(kind))
        }
    };
    // If two pods have addresses of both families, one family alone may be opened.
    let has_both = |end: &OpenedEnd| {
        end.pod.is_some_and(|pod| Family::ALL.into_iter().all(|family| cluster.pod(pod).address(family).is_some()))
    };
    let mut families = BTreeMap::<String, BTreeSet<Family>>::new();
    for of in opens {
        let text = format!("{} -> {} {}", end(&of.from), end(&of.to), traffic(&of.traffic));
        let family = of.family.filter(|_| has_both(&of.from) && has_both(&of.to));
        families.entry(text).or_default().extend(family);
    }
    let with_family = |(text, families): (String, BTreeSet<Family>)| match Vec::from_iter(families).as_slice() {
        [family] => format!("{text} ({family})"),
        _ => text,
    };
    families.into_iter().map(with_family).collect()
}

/// What else must be done: what the pods of a changed template need, and where an object was.
pub(super) fn then(change: &Change) -> Option<String> {
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
        Rollout::Replaces => format!("the {kind} then replaces its pods"),
        Rollout::Resume => {
            let resume = resume(&change.object);
            format!("the {kind} is paused; then resume it, so that it replaces its pods ({resume})")
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

/// The command that resumes a Deployment.
fn resume(ObjectName { namespace, name, .. }: &ObjectName) -> String {
    format!("kubectl -n {} rollout resume deploy/{name}", namespace.as_deref().unwrap_or_default())
}

/// What brings a template, as it is by now, to pods that were made after an older one.
pub(super) fn until(object: &ObjectName, reach: TemplateReach) -> String {
    let kind = &object.kind;
    match reach {
        TemplateReach::NotAll => {
            format!("the updateStrategy of the {kind} has a partition, and pods below it keep the older template")
        }
        TemplateReach::By(Rollout::Resume) => format!("the {kind} is paused: resume it ({})", resume(object)),
        TemplateReach::By(Rollout::DeletePods) => format!("the {kind} does not replace them: delete them"),
        TemplateReach::By(Rollout::NextJob) => "the pods of its next Job have it".to_owned(),
        _ if kind == "Deployment" => {
            let namespace = object.namespace.as_deref().unwrap_or_default();
            let status = format!("kubectl -n {namespace} rollout status deploy/{}", object.name);
            format!("the {kind} replaces them; {status} says how far it is")
        }
        TemplateReach::By(Rollout::UnlessOnDelete) => format!(
            "the {kind} replaces them one after the other, unless its updateStrategy is OnDelete (delete them then) or \
             has a partition"
        ),
        TemplateReach::Replaced | TemplateReach::By(_) => format!("the {kind} replaces them one after the other"),
    }
}

/// `networkpolicy shop/api`, `shop/deploy/cart`, `namespace monitoring`.
pub(super) fn object_name(object: &ObjectName) -> String {
    let ObjectName { kind, namespace, name } = object;
    match (kind.as_str(), namespace) {
        ("NetworkPolicy", Some(namespace)) => format!("networkpolicy {namespace}/{name}"),
        (kind, Some(namespace)) => format!("{namespace}/{}/{name}", short_kind(kind)),
        (kind, None) => format!("{} {name}", kind.to_lowercase()),
    }
}
