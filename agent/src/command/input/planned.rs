//! Pods that a question names and that a StatefulSet of files would make: `db-0`. Their names, and the labels
//! that follow from these, are known before there is any pod.

use std::collections::BTreeMap;

use npc_agent::endpoint::readings;
use npc_agent::source::manifests::{Loaded, ObjectRef};
use npc_compiler::object::Pod;

use super::NamedEnds;
use crate::command::warning::{Warning, WarningCode};

/// Adds the pods that are named and would be made, and says of each whose template stands for it. What else the
/// StatefulSet makes, its template goes on to stand for.
pub(super) fn add(loaded: &mut Loaded, ends: &NamedEnds<'_>, here: &str) -> Vec<Warning> {
    let mut made: BTreeMap<ObjectRef, Vec<Pod>> = BTreeMap::new();
    for PlannedName { namespace, name, service } in names(ends, here) {
        let Some((set, ordinal)) = name.rsplit_once('-').and_then(|(set, text)| Some((set, ordinal(text)?))) else {
            continue;
        };
        let pods = || loaded.objects.pods.iter().filter(|pod| pod.namespace == namespace);
        // An exact name wins.
        let is_it = |pod: &Pod| pod.name == name || pod.workload.as_ref().is_some_and(|of| of.name == name);
        let object = ObjectRef::new("StatefulSet", namespace, set);
        let is_template = |pod: &&Pod| {
            pod.is_template() && pod.name == set && pod.workload.as_ref().is_some_and(|of| of.kind == "StatefulSet")
        };
        let ordinals = loaded.ordinals.get(&object);
        let of_set = ordinals.and_then(|ordinals| ordinals.service.as_deref());
        let is_in_dns = service.is_none_or(|service| of_set.is_none_or(|of_set| of_set == service));
        let is_there = is_in_dns
            && i32::try_from(ordinal).is_ok_and(|ordinal| ordinals.is_none_or(|ordinals| ordinals.may_have(ordinal)));
        if let Some(template) = pods().find(is_template).filter(|_| is_there && !pods().any(is_it)) {
            let dns_name = of_set.map(|service| format!("{name}.{service}").into());
            let pods = made.entry(object).or_default();
            if pods.iter().all(|pod| pod.name != name) {
                pods.push(Pod { dns_name, ..Pod::of_stateful_set(template, ordinal) });
            }
        }
    }
    let mut said = Vec::new();
    for (object, pods) in made {
        let count = loaded.ordinals.get(&object).and_then(|ordinals| ordinals.count);
        let others = count.map(|count| usize::try_from(count).unwrap_or_default().saturating_sub(pods.len()));
        let is_template = |pod: &Pod| {
            pod.is_template()
                && pod.namespace == object.namespace
                && pod.workload.as_ref().is_some_and(|of| (&of.kind, &of.name) == (&object.kind, &object.name))
        };
        for template in loaded.objects.pods.iter_mut().filter(|pod| is_template(pod)) {
            template.is_single = others == Some(1);
        }
        loaded.objects.pods.retain(|pod| others != Some(0) || !is_template(pod));
        said.extend(pods.iter().map(|pod| {
            let (namespace, set) = (&object.namespace, &object.name);
            let text = format!(
                "{namespace}/pod/{} is not in the input; the template of {namespace}/sts/{set} stands for it",
                pod.name
            );
            Warning::about(WarningCode::WorkloadWithoutPods, text, &object, &loaded.positions)
        }));
        loaded.objects.pods.extend(pods);
    }
    said
}

/// A name that a pod may have.
struct PlannedName<'n> {
    namespace: &'n str,
    name: &'n str,
    /// The Service by which DNS would name it, where it is named so.
    service: Option<&'n str>,
}

/// The pods that the ends may mean: by their own names, or by those that DNS gives them.
fn names<'n>(ends: &'n NamedEnds<'n>, here: &'n str) -> Vec<PlannedName<'n>> {
    let mut all = Vec::new();
    for end in ends.objects.iter().filter(|end| end.kind.is_none_or(|kind| kind == "Pod")) {
        let read = readings(end.namespace, end.kind, end.name, here);
        let pods = read.into_iter().filter(|(_, kind, _)| kind.is_none_or(|kind| kind == "Pod"));
        all.extend(pods.map(|(namespace, _, name)| PlannedName { namespace, name, service: None }));
        if end.namespace.is_none() {
            all.extend(by_dns(end.name, here));
        }
    }
    all.extend(ends.hosts.iter().filter_map(|host| by_dns(host, here)));
    all
}

/// `POD.SERVICE[.NAMESPACE[.svc…]]`
fn by_dns<'n>(name: &'n str, here: &'n str) -> Option<PlannedName<'n>> {
    let labels: Vec<&str> = name.trim_end_matches('.').split('.').collect();
    let (name, service, namespace) = match *labels.as_slice() {
        [pod, service] => (pod, service, here),
        [pod, service, namespace] | [pod, service, namespace, "svc", ..] => (pod, service, namespace),
        _ => return None,
    };
    Some(PlannedName { namespace, name, service: Some(service) })
}

/// A number as controllers write it.
fn ordinal(text: &str) -> Option<u32> {
    let is_written_so = text == "0" || !text.starts_with('0');
    text.parse().ok().filter(|_| is_written_so && text.bytes().all(|byte| byte.is_ascii_digit()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_pods_are_read_as_controllers_and_dns_write_them() {
        assert_eq!(
            (ordinal("0"), ordinal("10"), ordinal("01"), ordinal("+1"), ordinal("")),
            (Some(0), Some(10), None, None, None)
        );
        let found = |text| {
            let PlannedName { namespace, name, service } = by_dns(text, "here")?;
            Some(format!("{namespace}/{name} by {}", service?))
        };
        assert_eq!(found("db-0.dbs").as_deref(), Some("here/db-0 by dbs"));
        assert_eq!(found("db-0.dbs.shop.svc.cluster.local").as_deref(), Some("shop/db-0 by dbs"));
        assert_eq!(found("db-0"), None);
    }
}
