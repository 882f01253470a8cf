//! Why a name means no object of the input, and which one may be meant.

use std::collections::BTreeSet;

use npc_agent::endpoint::{NameMeaning, is_type};
use npc_agent::source::manifests::ObjectRef;
use npc_agent::words::near;
use npc_compiler::cluster::unread::Unread;
use npc_compiler::verdict::explain::QuestionEnd;

use super::named_target::NamedTarget;
use super::operated::operated;
use super::short_kind;
use crate::command::input::{Input, Source, unread_words};
use crate::command::words::{count_field, policies_and_pods, shorten};
use crate::command::{Exit, Stop};

/// At most this many of the things that were not read are named.
const UNREAD: usize = 3;

/// At most this many names are suggested.
const SUGGESTED: usize = 8;

/// Why there is no such object, and which one may be meant; unknown is one that may be there and was not
/// read. Of its workloads, it is said why it is not known whether they are there.
pub(super) fn missing(
    input: &Input,
    all: &[NamedTarget<'_>],
    unknown: &[String],
    (namespace, kind, name): NameMeaning<'_>,
) -> Stop {
    let not_found = |message: String| Stop::new(Exit::NotFound, message);
    let fits_idle = |of: &str| kind.is_none_or(|kind| kind == "Workload" || kind == of);
    let mut idle = input.loaded.idle.keys();
    if let Some(idle) = idle.find(|o| o.namespace == namespace && o.name == name && fits_idle(&o.kind)) {
        let number = count_field(&idle.kind);
        let shown = format!("{namespace}/{}/{name}", short_kind(&idle.kind));
        return not_found(format!("{shown} has no pods to ask about: its {number} is 0"));
    }
    if let Some(message) = finished(input, namespace, kind, name) {
        return not_found(message);
    }
    let mut owned = input.loaded.owned.iter();
    if let Some((of, owner)) = owned.find(|(o, _)| o.namespace == namespace && o.name == name && fits_idle(&o.kind)) {
        let (own, owners) = (short_kind(&of.kind), short_kind(&owner.kind));
        return not_found(format!(
            "{namespace}/{own}/{name} has no pods of its own to ask about; ask about {namespace}/{owners}/{}",
            owner.name
        ));
    }
    if (kind, namespace, name) == (Some("Service"), "default", "kubernetes") && input.source == Source::Files {
        let message = "service default/kubernetes is in every cluster, and not in the input, so where it leads is not \
                       known; kubectl get -n default services,endpointslices -o yaml prints it, or ask about the \
                       addresses of the API server";
        return Stop::new(Exit::Unknown, message);
    }
    let is_scoped = !matches!(kind, Some("Node" | "Namespace"));
    if kind == Some("Namespace") && input.cluster.namespace(name).is_some() {
        return not_found(format!("namespace {name} has no pods to ask about"));
    }
    let what = kind.map_or("workload or pod".to_owned(), str::to_lowercase);
    let same = all.iter().filter(|other| other.name == name);
    let close =
        all.iter().filter(|other| other.is_in(namespace) && other.is_a(kind) && near::is_alike(&other.name, name));
    // A name that the controller of a template would give to one of its pods.
    let of_template = all.iter().filter(|other| match &other.target {
        QuestionEnd::Pods(pods) if other.is_in(namespace) => {
            pods.iter().any(|id| input.cluster.pod(*id).stands_for(name))
        }
        _ => false,
    });
    // What is made after a template of an object with several.
    let is_part = |of: &NamedTarget<'_>| {
        let made_by = input.loaded.owned.get(&ObjectRef::new(&of.kind, &of.namespace, &of.name));
        made_by.is_some_and(|object| object.namespace == namespace && object.name == name)
    };
    let parts = all.iter().filter(|other| is_part(other));
    let candidates: BTreeSet<String> =
        same.chain(close).chain(of_template).chain(parts).map(NamedTarget::shown).collect();
    let mut unread = match kind {
        // If no object declares a pod's namespace, the namespace's name is known.
        Some("Namespace") => input.unread_namespaces(name),
        _ => unread(input, kind, if is_scoped { namespace } else { "" }),
    };
    if is_scoped && candidates.is_empty() {
        unread.extend(operated(input, namespace, kind, name));
    }
    let is_unknown = unread.is_empty() && !unknown.is_empty();
    let nowhere = (is_scoped && unread.is_empty() && !is_unknown).then(|| no_namespace(input, namespace)).flatten();
    let is_nowhere = nowhere.is_some();
    let mut message = nowhere.unwrap_or_else(|| {
        let scope = if is_scoped { format!(" in namespace {namespace}") } else { String::new() };
        match unread.as_slice() {
            [] if is_unknown => {
                let what = kind.map_or("workload".to_owned(), str::to_lowercase);
                let unknown = shorten(unknown, UNREAD, "; ");
                format!("no pod of a {what} {name:?} was read{scope}, but it may be there without pods: {unknown}")
            }
            [] => format!("there is no {what} {name:?}{scope}"),
            unread => {
                let unread = shorten(unread, UNREAD, "; ");
                format!("no {what} {name:?} was read{scope}, but it may be there: {unread}")
            }
        }
    });
    let more = if is_nowhere && message.ends_with('?') {
        // One question is enough: with the right namespace the next answer names what is there.
        String::new()
    } else if !candidates.is_empty() {
        let names: Vec<String> = candidates.into_iter().take(SUGGESTED).collect();
        format!("; did you mean: {}", names.join(", "))
    } else if !unread.is_empty() || is_unknown {
        String::new()
    } else if is_scoped && input.cluster.endpoints().next().is_none() {
        format!("; the input has {}", policies_and_pods(&input.cluster))
    } else if !is_nowhere {
        let here = all.iter().filter(|of| of.is_a(kind) && (!is_scoped || of.is_in(namespace)));
        let here: BTreeSet<String> = here.map(NamedTarget::shown).collect();
        let names: Vec<String> = here.into_iter().collect();
        if names.is_empty() { String::new() } else { format!("; the input has {}", shorten(&names, SUGGESTED, ", ")) }
    } else {
        String::new()
    };
    message.push_str(&more);
    if kind.is_none() && name.contains('.') && !is_unknown {
        message.push_str("; npc resolves no DNS names of outside: give an address");
    }
    let may_be_there = !unread.is_empty() || is_unknown;
    Stop::new(if may_be_there { Exit::Unknown } else { Exit::NotFound }, message)
}

/// What was not read and may hold such an object, in words. The namespace of what lives outside
/// namespaces is empty.
fn unread(input: &Input, kind: Option<&str>, namespace: &str) -> Vec<String> {
    let is_meant = |of: &str| match kind {
        Some(kind @ ("Node" | "Service" | "Pod")) => of == kind,
        // A workload is known by its own object, or by its pods; one of another project counts as a Deployment.
        Some(kind) if kind != "Workload" => of == kind || of == "Pod" || (of == "Deployment" && !is_type(kind)),
        _ => !matches!(of, "Node" | "Namespace" | "Service" | "EndpointSlice" | "NetworkPolicy"),
    };
    let may_hold = |of: &&Unread| of.kind.as_deref().is_none_or(is_meant) && of.namespace.covers(namespace);
    unread_words(input.cluster.unread().iter().filter(may_hold))
}

/// That there is no such namespace, where the input has others, and which one may be meant.
pub(in crate::command) fn no_namespace(input: &Input, namespace: &str) -> Option<String> {
    let known: BTreeSet<&str> = input.loaded.objects.namespaces.iter().map(|of| of.name.as_str()).collect();
    // Every cluster has the namespace default, whether or not files say so.
    let is_known = input.cluster.namespace(namespace).is_some() || namespace == "default";
    if known.is_empty() || is_known || input.may_have_namespace(namespace) {
        return None;
    }
    let meant = near::nearest(namespace, known.iter().copied());
    let meant = meant.map(|name| format!("; did you mean {name}?")).unwrap_or_default();
    Some(format!("there is no namespace {namespace:?}; the input has {}{meant}", near::listed(known)))
}

/// Writes to standard error that the asked namespace has no endpoints. Returns an error if there is no such namespace.
pub(in crate::command) fn check_namespace(input: &Input, namespace: &str) -> Result<(), Stop> {
    if input.cluster.endpoints().any(|(_, pod)| pod.namespace == namespace) {
        return Ok(());
    }
    if let Some(message) = no_namespace(input, namespace).filter(|_| !input.may_hold_pods(namespace)) {
        return Err(Stop::new(Exit::NotFound, message));
    }
    say!("npc: namespace {namespace} has no endpoints; -A shows those of all namespaces");
    Ok(())
}

/// What to say of a pod that has finished, or of a workload all of whose pods have.
fn finished(input: &Input, namespace: &str, kind: Option<&str>, name: &str) -> Option<String> {
    let mut pods = input.cluster.pods().filter(|(_, pod)| pod.finished && pod.namespace == namespace);
    let is_meant = |of: &str| kind.is_none_or(|kind| kind == of || (kind == "Workload" && of != "Pod"));
    pods.find_map(|(_, pod)| {
        if pod.name == name && is_meant("Pod") {
            return Some(format!("{namespace}/pod/{name} has finished: it has no address any more"));
        }
        let workload = pod.workload.as_ref().filter(|workload| workload.name == name && is_meant(&workload.kind))?;
        Some(format!(
            "{namespace}/{}/{name} has no pods to ask about: all its pods have finished",
            short_kind(&workload.kind)
        ))
    })
}
