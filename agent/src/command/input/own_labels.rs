//! The labels that workloads of a cluster have themselves, in `metadata.labels`. Their pods do not get
//! these, and a list of pods does not say them, so they are asked for by the names of the ends. So are the labels of
//! their templates, which pods lack that were made after an older template.

use std::collections::{BTreeMap, BTreeSet};

use futures::future::join_all;
use npc_agent::endpoint::readings;
use npc_agent::source::kube::{self, WorkloadAnswer};
use npc_agent::source::manifests::ObjectRef;
use npc_compiler::object::{Labels, Objects, Pod, Workload};

use super::named::{NamedObject, is_of, labels, template_labels};

/// At most this many workloads of each end are asked for. A Service may have pods of many.
const ASKED: usize = 8;

/// Adds the labels of the workloads whose pods these ends mean, and asks for those that are not known. What
/// cannot be read says nothing more than the pods.
pub(super) async fn read(
    client: &kube::Client,
    ends: &[NamedObject<'_>],
    settings: &kube::ListSettings,
    objects: &Objects,
    known: &mut BTreeMap<ObjectRef, Labels>,
    of_templates: &mut BTreeMap<ObjectRef, Labels>,
) {
    let of_end = |end: &NamedObject<'_>| meant(*end, &settings.namespace, objects).into_iter().take(ASKED);
    let wanted: BTreeSet<ObjectRef> = ends.iter().flat_map(of_end).filter(|of| !known.contains_key(of)).collect();
    let asks = wanted.into_iter().map(async |of| {
        let workload = Workload { kind: of.kind.clone(), name: of.name.clone() };
        match kube::workload(client, &of.namespace, &workload, settings.request_timeout).await {
            WorkloadAnswer::Found(text) => Some((of, labels(&text), template_labels(&text))),
            WorkloadAnswer::Absent | WorkloadAnswer::Refused(_) | WorkloadAnswer::Unknown(_) => None,
        }
    });
    for (of, own, of_template) in join_all(asks).await.into_iter().flatten() {
        of_templates.extend(of_template.map(|labels| (of.clone(), labels)));
        known.extend(own.map(|labels| (of, labels)));
    }
}

/// The workloads whose pods an end means.
fn meant(end: NamedObject<'_>, here: &str, objects: &Objects) -> BTreeSet<ObjectRef> {
    let workload = |pod: &Pod| {
        let of = pod.workload.as_ref()?;
        Some(ObjectRef::new(&of.kind, &pod.namespace, &of.name))
    };
    for reading in readings(end.namespace, end.kind, end.name, here) {
        let (namespace, kind, name) = reading;
        let is_it = |pod: &&Pod| is_of(pod, reading);
        let own: BTreeSet<ObjectRef> = objects.pods.iter().filter(is_it).filter_map(workload).collect();
        if !own.is_empty() {
            return own;
        }
        let mut services = objects.services.iter();
        let service = services.find(|of| of.namespace == namespace && of.name == name);
        if let Some(service) = service.filter(|_| kind.is_none_or(|kind| kind == "Service")) {
            return objects.pods.iter().filter(|pod| service.selects(pod)).filter_map(workload).collect();
        }
    }
    BTreeSet::new()
}
