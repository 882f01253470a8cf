//! Workloads of a cluster that a question names and that have no pod in the input.
//!
//! A cluster's pods say which workloads there are. One without pods (all evicted, a quota, a new one) is asked
//! for by its name, and its template stands for the pods that it would make, as in files. One with
//! `replicas: 0` is said to have none.

use std::collections::{BTreeMap, BTreeSet};

use futures::future::join_all;
use npc_agent::endpoint::{NameMeaning, readings, short_kind};
use npc_agent::source::kube::{self, WorkloadAnswer};
use npc_agent::source::manifests::{self, Loaded, ObjectRef, Problem};
use npc_compiler::cluster::unread::Unread;
use npc_compiler::object::{Labels, Objects, Pod, Workload};

use crate::command::warning::{Warning, WarningCode};

/// An object as a question names it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::command) struct NamedObject<'a> {
    /// As far as it was said.
    pub(in crate::command) namespace: Option<&'a str>,
    pub(in crate::command) kind: Option<&'a str>,
    pub(in crate::command) name: &'a str,
}

/// What a question names.
#[derive(Debug, Default)]
pub(in crate::command) struct NamedEnds<'a> {
    /// The objects that are its ends.
    pub(in crate::command) objects: Vec<NamedObject<'a>>,
    /// The names of hosts that are its ends.
    pub(in crate::command) hosts: Vec<&'a str>,
    /// Whether the answer depends on labels that workloads have themselves and their pods do not get.
    pub(in crate::command) wants_own_labels: bool,
}

impl NamedEnds<'_> {
    /// The namespaces that the names may mean.
    pub(super) fn namespaces(&self, here: &str) -> BTreeSet<String> {
        let of_object = |of: &NamedObject<'_>| match of.kind {
            Some("Node") => Vec::new(),
            Some("Namespace") => vec![of.name.to_owned()],
            _ => {
                let read = readings(of.namespace, of.kind, of.name, here);
                let mut names: Vec<String> = read.into_iter().map(|(namespace, ..)| namespace.to_owned()).collect();
                names.extend(of_host(of.name).filter(|_| of.namespace.is_none()));
                names
            }
        };
        let of_hosts = self.hosts.iter().flat_map(|name| {
            let short = name.split_once('.').map(|(_, namespace)| namespace.to_owned());
            short.into_iter().chain(of_host(name))
        });
        let all = self.objects.iter().flat_map(of_object).chain(of_hosts);
        all.filter(|namespace| is_name(namespace)).collect()
    }
}

/// The namespace in a name that DNS gives: `NAME.NAMESPACE.svc`, `POD.SERVICE.NAMESPACE`.
fn of_host(name: &str) -> Option<String> {
    let labels: Vec<&str> = name.trim_end_matches('.').split('.').collect();
    match *labels.as_slice() {
        [_, _, namespace, "svc", ..] | [_, namespace, "svc", ..] | [_, _, namespace] => Some(namespace.to_owned()),
        _ => None,
    }
}

/// What the API server says of the workloads that were named.
#[derive(Debug, Default)]
pub(super) struct NamedWorkloads {
    /// Those that have no pods and were found.
    pub(super) found: Vec<ObjectRef>,
    /// Those that may be there.
    pub(super) unknown: UnknownWorkloads,
    /// The labels that those that were found have themselves.
    pub(super) own_labels: BTreeMap<ObjectRef, Labels>,
}

/// Asks for the workloads that these endpoints may mean, and adds their templates to the objects.
pub(super) async fn read(
    client: &kube::Client,
    ends: &[NamedObject<'_>],
    settings: &kube::ListSettings,
    loaded: &mut Loaded,
) -> NamedWorkloads {
    let wanted: BTreeSet<ObjectRef> =
        ends.iter().flat_map(|end| meant(*end, &settings.namespace, &loaded.objects)).collect();
    let mut named = NamedWorkloads::default();
    let asks = wanted.into_iter().map(async |of| {
        let workload = Workload { kind: of.kind.clone(), name: of.name.clone() };
        let answer = kube::workload(client, &of.namespace, &workload, settings.request_timeout).await;
        (of, answer)
    });
    for (of, answer) in join_all(asks).await {
        match answer {
            WorkloadAnswer::Absent => {}
            WorkloadAnswer::Refused(resource) => named.unknown.refused.push((of, resource)),
            WorkloadAnswer::Unknown(why) => named.unknown.failed.push((of, why)),
            WorkloadAnswer::Found(text) => {
                named.own_labels.extend(labels(&text).map(|labels| (of.clone(), labels)));
                match parsed(&of, &text) {
                    Ok(read) if has_running_pods(loaded, &of, &text) => loaded.owned.extend(read.owned),
                    Ok(read) => {
                        if !read.objects.pods.is_empty() {
                            named.found.push(of);
                        }
                        loaded.objects.pods.extend(read.objects.pods);
                        loaded.idle.extend(read.idle);
                        loaded.owned.extend(read.owned);
                    }
                    Err(why) => named.unknown.failed.push((of, why)),
                }
            }
        }
    }
    named
}

/// The workloads that an endpoint may mean, if no pod that was read belongs to them.
fn meant(end: NamedObject<'_>, here: &str, objects: &Objects) -> Vec<ObjectRef> {
    let mut wanted = Vec::new();
    for (i, reading) in readings(end.namespace, end.kind, end.name, here).into_iter().enumerate() {
        let (namespace, kind, name) = reading;
        // Behind the first reading stands what DNS makes of the name: a Service, where there is one.
        let is_service = || objects.services.iter().any(|of| of.namespace == namespace && of.name == name);
        if objects.pods.iter().any(|pod| is_of(pod, reading)) || (i > 0 && kind.is_none() && is_service()) {
            break;
        }
        if is_name(namespace) && is_name(name.replace('.', "-").as_str()) {
            let is_meant = |of: &&str| kind.is_none_or(|kind| kind == "Workload" || kind == *of);
            wanted.extend(kube::workload_kinds().filter(is_meant).map(|kind| ObjectRef::new(kind, namespace, name)));
        }
    }
    wanted
}

/// Whether a part of a path is as names of the API are.
fn is_name(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-')
}

/// Whether a pod says that there is what a name means.
pub(super) fn is_of(pod: &Pod, (namespace, kind, name): NameMeaning<'_>) -> bool {
    let kind = kind.filter(|kind| *kind != "Workload");
    let is_it = pod.workload.as_ref().is_some_and(|of| of.name == name && kind.is_none_or(|kind| kind == of.kind))
        || (kind.is_none_or(|kind| kind == "Pod") && pod.name == name)
        || (kind.is_none_or(|kind| kind == "ReplicaSet") && pod.replica_set().as_deref() == Some(name));
    // A Job whose pods have finished is over. Another workload makes new ones.
    let is_over = || pod.workload.as_ref().is_some_and(|of| of.kind == "Job");
    pod.namespace == namespace && is_it && (!pod.finished || is_over())
}

/// The labels that an object has itself, in `metadata.labels`.
pub(super) fn labels(text: &str) -> Option<Labels> {
    labels_at(text, &["/metadata/labels"])
}

/// The labels of the template of a workload.
pub(super) fn template_labels(text: &str) -> Option<Labels> {
    labels_at(text, &["/spec/template/metadata/labels", "/spec/jobTemplate/spec/template/metadata/labels"])
}

fn labels_at(text: &str, places: &[&str]) -> Option<Labels> {
    let object: serde_json::Value = serde_json::from_str(text).ok()?;
    let labels = places.iter().find_map(|place| object.pointer(place))?.as_object()?;
    Some(labels.iter().filter_map(|(key, value)| Some((key.clone(), value.as_str()?.to_owned()))).collect())
}

/// The object as it would be read from a file.
fn parsed(of: &ObjectRef, text: &str) -> Result<Loaded, String> {
    let options = manifests::ReadOptions { declare_namespaces: false, ..manifests::ReadOptions::default() };
    manifests::parse_text(&of.to_string(), text, &options).map_err(|errors| {
        format!("npc cannot read it: {}", errors.problems.first().map(Problem::without_severity).unwrap_or_default())
    })
}

/// Whether pods of a CronJob's runs are there; then these are meant, and not the next run. Notes which runs
/// are its.
fn has_running_pods(loaded: &mut Loaded, of: &ObjectRef, text: &str) -> bool {
    if of.kind != "CronJob" {
        return false;
    }
    let object: serde_json::Value = serde_json::from_str(text).unwrap_or_default();
    let active = object["status"]["active"].as_array().into_iter().flatten();
    let runs: Vec<&str> = active.filter_map(|run| run["name"].as_str()).collect();
    let is_of_run = |pod: &Pod| {
        let workload = pod.workload.as_ref().filter(|workload| workload.kind == "Job");
        !pod.finished && pod.namespace == of.namespace && workload.is_some_and(|job| runs.contains(&job.name.as_str()))
    };
    let has_pods = loaded.objects.pods.iter().any(is_of_run);
    loaded.owned.extend(runs.iter().map(|run| (ObjectRef::new("Job", &of.namespace, *run), of.clone())));
    has_pods
}

/// Workloads that were named and may be there.
#[derive(Debug, Default)]
pub(super) struct UnknownWorkloads {
    /// With the resource that the reader has no right to get.
    refused: Vec<(ObjectRef, &'static str)>,
    /// With why it is not known.
    failed: Vec<(ObjectRef, String)>,
}

impl UnknownWorkloads {
    /// Why it is not known whether those are there that this name may mean; without a kind, any.
    pub(super) fn why(&self, namespace: &str, kind: Option<&str>, name: &str) -> Vec<String> {
        let is_meant = |of: &ObjectRef| {
            of.namespace == namespace
                && of.name == name
                && kind.is_none_or(|kind| kind == "Workload" || kind == of.kind)
        };
        let refused: Vec<&str> =
            self.refused.iter().filter(|(of, _)| is_meant(of)).map(|(_, resource)| *resource).collect();
        let refused = (!refused.is_empty()).then(|| format!("no right to get {}", refused.join(", ")));
        let failed = self.failed.iter().filter(|(of, _)| is_meant(of)).map(|(_, why)| why.clone());
        refused.into_iter().chain(failed).collect()
    }
}

impl NamedWorkloads {
    /// That the templates of workloads were judged, and why, as warnings.
    pub(super) fn warnings(&self, unread: &[Unread]) -> Vec<Warning> {
        let is_unread = |of: &&ObjectRef| unread.iter().any(|unread| unread.may_hold("Pod", &of.namespace));
        let (unread, without): (Vec<_>, Vec<_>) = self.found.iter().partition(is_unread);
        let code = WarningCode::WorkloadWithoutPods;
        let warning = |of: Vec<&ObjectRef>, text: fn(&[String]) -> String| {
            let shown = |of: &ObjectRef| format!("{}/{}/{}", of.namespace, short_kind(&of.kind), of.name);
            let finding = |of: &&ObjectRef| code.of_object(text(&[shown(of)]), ObjectRef::clone(of), None);
            let findings = of.iter().map(finding).collect();
            let names: Vec<String> = of.iter().map(|of| shown(of)).collect();
            (!names.is_empty()).then(|| Warning::of_each(code, text(&names), findings))
        };
        let without = warning(without, |names| {
            let (has, its) =
                if names.len() == 1 { ("has", "its template stands") } else { ("have", "their templates stand") };
            format!("{} {has} no pods now; {its} for the pods to come", names.join(", "))
        });
        let unread = warning(unread, |names| {
            let its = if names.len() == 1 { "its template stands" } else { "their templates stand" };
            format!("the pods of {} were not read; {its} for them", names.join(", "))
        });
        without.into_iter().chain(unread).collect()
    }
}
