//! All that can be an endpoint in the input, by its name.

use std::collections::{BTreeMap, BTreeSet};

use npc_agent::source::manifests::ObjectRef;
use npc_compiler::cluster::PodId;
use npc_compiler::object::Workload;
use npc_compiler::verdict::explain::QuestionEnd;

use super::short_kind;
use crate::command::input::Input;

/// Something of the input that has the name that was written.
pub(super) struct NamedTarget<'a> {
    pub(super) kind: String,
    pub(super) namespace: String,
    pub(super) name: String,
    pub(super) target: QuestionEnd<'a>,
}

impl NamedTarget<'_> {
    pub(super) fn shown(&self) -> String {
        match self.namespace.as_str() {
            "" => format!("{}/{}", short_kind(&self.kind), self.name),
            namespace => format!("{namespace}/{}/{}", short_kind(&self.kind), self.name),
        }
    }

    /// Whether it is what a type means; without a type, what runs: a service, node or
    /// namespace is asked for by its type.
    pub(super) fn is_a(&self, kind: Option<&str>) -> bool {
        match kind {
            None => !matches!(self.kind.as_str(), "Service" | "Node" | "Namespace"),
            Some("Workload") => !matches!(self.kind.as_str(), "Service" | "Node" | "Namespace" | "Pod"),
            Some(kind) => self.kind == kind || is_name_of(kind, &self.kind),
        }
    }

    /// Whether it is in this namespace, or in none.
    pub(super) fn is_in(&self, namespace: &str) -> bool {
        self.namespace.is_empty() || self.namespace == namespace
    }
}

/// The names of all that can be an endpoint, as the answers show them, sorted.
pub(in crate::command) fn names(input: &Input) -> Vec<String> {
    let names: BTreeSet<String> = everything(input).iter().map(NamedTarget::shown).collect();
    names.into_iter().collect()
}

/// The CronJob that has made a Job, where the input says it.
fn cron_job_of<'i>(input: &'i Input, namespace: &str, workload: &Workload) -> Option<&'i ObjectRef> {
    if workload.kind != "Job" || input.loaded.owned.is_empty() {
        return None;
    }
    let job = ObjectRef::new(&workload.kind, namespace, &workload.name);
    input.loaded.owned.get(&job).filter(|owner| owner.kind == "CronJob")
}

/// All that can be an endpoint.
pub(super) fn everything(input: &Input) -> Vec<NamedTarget<'_>> {
    let cluster = &input.cluster;
    let mut all: Vec<NamedTarget<'_>> = Vec::new();
    let mut workloads = BTreeMap::<(String, String, String), Vec<PodId>>::new();
    let mut namespaces = BTreeMap::<String, Vec<PodId>>::new();
    for (id, pod) in cluster.named() {
        namespaces.entry(pod.namespace.clone()).or_default().push(id);
        if let Some(workload) = &pod.workload {
            let key = (pod.namespace.clone(), workload.kind.clone(), workload.name.clone());
            workloads.entry(key).or_default().push(id);
            if let Some(cron_job) = cron_job_of(input, &pod.namespace, workload) {
                let key = (pod.namespace.clone(), cron_job.kind.clone(), cron_job.name.clone());
                workloads.entry(key).or_default().push(id);
            }
        }
        if !pod.is_template() {
            let (namespace, name) = (pod.namespace.clone(), pod.name.clone());
            all.push(NamedTarget { kind: "Pod".to_owned(), namespace, name, target: QuestionEnd::Pod(id) });
        }
    }
    all.extend(workloads.into_iter().map(|((namespace, kind, name), pods)| NamedTarget {
        kind,
        namespace,
        name,
        target: QuestionEnd::Pods(pods),
    }));
    all.extend(cluster.services().map(|service| NamedTarget {
        kind: "Service".to_owned(),
        namespace: service.namespace.clone(),
        name: service.name.clone(),
        target: QuestionEnd::Service(service),
    }));
    all.extend(namespaces.into_iter().map(|(name, pods)| NamedTarget {
        kind: "Namespace".to_owned(),
        namespace: String::new(),
        name: name.clone(),
        target: QuestionEnd::Namespace { name, pods },
    }));
    all.extend(cluster.nodes().iter().map(|(name, addresses)| NamedTarget {
        kind: "Node".to_owned(),
        namespace: String::new(),
        name: name.clone(),
        target: QuestionEnd::Node { name: name.clone(), addresses: addresses.iter().copied().collect() },
    }));
    all
}

/// The short names of kinds of other projects that make pods, as their definitions have them.
const SHORT_NAMES: [(&str, &str); 3] =
    [("dc", "DeploymentConfig"), ("ksvc", "Service.serving.knative.dev"), ("ro", "Rollout")];

/// Whether a type of an endpoint is a kind that npc knows from the input only: `rollout`, `rollouts`, `ro`.
pub(super) fn is_name_of(text: &str, kind: &str) -> bool {
    let (text, own) = (text.to_lowercase(), kind.to_lowercase());
    own == text || text.strip_suffix('s') == Some(own.as_str()) || SHORT_NAMES.contains(&(text.as_str(), kind))
}
