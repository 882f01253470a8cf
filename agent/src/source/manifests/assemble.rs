//! The objects of all files together: names that come twice, and workloads
//! whose pods are there already.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use npc_compiler::object::Workload;

use super::kinds::ManifestObject;
use super::parsed::{Parsed, ParsedObject};
use super::position::{Location, ReadFrom};
use super::problem::{ObjectRef, OtherPlace, Problem, ProblemCode};
use super::replicas::Ordinals;
use super::{Loaded, ReadOptions, ReplacedPolicy, undeclared};

/// Puts files together. If two objects have one name, the later one counts, as if they had been
/// applied in this order.
pub(in crate::source) fn assemble(files: Vec<Parsed>, options: &ReadOptions) -> Loaded {
    let mut loaded = Loaded::default();
    let mut slots: Vec<ParsedObject> = Vec::new();
    let mut scaled = BTreeSet::new();
    let mut index: HashMap<(ObjectRef, String), usize> = HashMap::new();
    for file in files {
        for (kind, objects) in file.skipped_objects {
            let place = |span| Location { file: Arc::clone(&file.file), span, exact: true };
            let placed = objects.into_iter().map(|(object, span)| (object, place(span)));
            loaded.skipped_objects.entry(kind).or_default().extend(placed);
        }
        loaded.positions.add_source(file.file, file.text, file.parts);
        loaded.problems.extend(file.problems);
        scaled.extend(file.scaled);
        loaded.pod_makers.extend(file.pod_makers);
        loaded.pod_making.extend(file.pod_making);
        for (object, subject) in file.unread_subjects {
            // Two of one name select what either selects.
            let is_same = loaded.unread_subjects.get(&object).is_none_or(|known| *known == subject);
            loaded.unread_subjects.insert(object, subject.filter(|_| is_same));
        }
        for (kind, count) in file.skipped {
            *loaded.skipped.entry(kind).or_default() += count;
        }
        for item in file.items {
            // Pods with different UIDs are different pods, one after the other.
            let uid = match &item.body {
                ManifestObject::Pod(pod) => pod.uid.clone(),
                _ => String::new(),
            };
            match index.entry((item.object.clone(), uid)) {
                std::collections::hash_map::Entry::Vacant(vacant) => {
                    vacant.insert(slots.len());
                    slots.push(item);
                }
                std::collections::hash_map::Entry::Occupied(occupied) => {
                    let earlier = std::mem::replace(&mut slots[*occupied.get()], item);
                    let later = &slots[*occupied.get()];
                    // A file that was named twice, as itself and by its folder.
                    let is_same = earlier.file == later.file && earlier.node.span == later.node.span;
                    if !is_same {
                        loaded.problems.push(duplicate(&earlier, later));
                        loaded.replaced.extend(replaced(earlier));
                    }
                }
            }
        }
    }
    let represented = Represented::of(&slots);
    let is_scaled = |object: &ObjectRef| scaled.contains(object);
    for item in slots {
        if let (ManifestObject::Template(_) | ManifestObject::Idle(_), Some(owner)) = (&item.body, &item.owner) {
            let owner = ObjectRef::new(&owner.kind, &item.object.namespace, &owner.name);
            loaded.owned.insert(item.object.clone(), owner);
        }
        if let Some(labels) = item.workload_labels {
            loaded.workload_labels.insert(item.object.clone(), labels);
        }
        if let Some(ordinals) = item.ordinals {
            let count = ordinals.count.filter(|_| !is_scaled(&item.object));
            loaded.ordinals.insert(item.object.clone(), Ordinals { count, ..ordinals });
        }
        let origin = ReadFrom { file: item.file, node: item.node, is_in_parts: item.is_in_parts };
        match item.body {
            ManifestObject::Namespace(namespace) => loaded.objects.namespaces.push(namespace),
            ManifestObject::Pod(pod) => loaded.objects.pods.push(*pod),
            ManifestObject::Template(mut pod) => {
                pod.is_single &= !is_scaled(&item.object);
                if represented.contains(&item.object, item.owner.as_ref()) {
                    loaded.represented.insert(item.object.clone(), pod.labels);
                } else {
                    loaded.objects.pods.push(*pod);
                }
            }
            ManifestObject::Idle(labels) => {
                loaded.idle.insert(item.object.clone(), labels);
            }
            ManifestObject::Node(node) => loaded.objects.nodes.push(node),
            ManifestObject::Service(service) => loaded.objects.services.push(*service),
            ManifestObject::EndpointSlices(slices) => loaded.objects.endpoint_slices.extend(slices),
            ManifestObject::Policy(policy) => loaded.objects.policies.push(*policy),
        }
        loaded.positions.add_object(item.object, origin);
    }
    if options.declare_namespaces {
        loaded.objects.declare_namespaces();
        let undeclared = undeclared::problems(&loaded);
        loaded.problems.extend(undeclared);
    }
    loaded.objects.bound_policies();
    loaded
}

fn duplicate(earlier: &ParsedObject, later: &ParsedObject) -> Problem {
    Problem {
        file: Arc::clone(&later.file),
        span: Some(later.node.span),
        code: ProblemCode::DuplicateName,
        object: Some(later.object.clone()),
        path: String::new(),
        message: "counts instead of the one".to_owned(),
        other: Some(OtherPlace { file: Arc::clone(&earlier.file), span: earlier.node.span }),
        help: "remove one of them, or give it another name".to_owned(),
    }
}

/// A policy that does not count, because a later one has the same name, with its place.
fn replaced(earlier: ParsedObject) -> Option<ReplacedPolicy> {
    let ManifestObject::Policy(policy) = earlier.body else { return None };
    let place = Location { file: earlier.file, span: earlier.node.span, exact: true };
    Some(ReplacedPolicy { policy: *policy, place })
}

/// The workloads that stand in the input in another form already: as live
/// pods, or as the workload that owns them.
struct Represented {
    /// With live pods, theirs or of a workload that they own.
    live: BTreeSet<ObjectRef>,
    /// In the input themselves.
    declared: BTreeSet<ObjectRef>,
}

impl Represented {
    fn of(items: &[ParsedObject]) -> Self {
        let reference =
            |namespace: &str, workload: &Workload| ObjectRef::new(&workload.kind, namespace, &workload.name);
        let mut owners: BTreeMap<&ObjectRef, ObjectRef> = BTreeMap::new();
        let mut declared = BTreeSet::new();
        for item in
            items.iter().filter(|item| matches!(item.body, ManifestObject::Template(_) | ManifestObject::Idle(_)))
        {
            declared.insert(item.object.clone());
            if let Some(owner) = &item.owner {
                owners.insert(&item.object, reference(&item.object.namespace, owner));
            }
        }
        let mut live = BTreeSet::new();
        let pods = items.iter().filter_map(|item| match &item.body {
            ManifestObject::Pod(pod) => Some((item, pod)),
            _ => None,
        });
        let (finished, running): (Vec<_>, Vec<_>) = pods.partition(|(_, pod)| pod.finished);
        for (item, pod) in running.into_iter().chain(finished) {
            // A ReplicaSet's pod names the ReplicaSet as its owner, and by its
            // hash label the Deployment; both have live pods.
            for owner in [item.owner.as_ref(), pod.workload.as_ref()].into_iter().flatten() {
                let mut owner = reference(&pod.namespace, owner);
                while live.insert(owner.clone()) {
                    match owners.get(&owner) {
                        // The pod of a run that is over says nothing about the next one.
                        Some(above) if !(pod.finished && above.kind == "CronJob") => owner = above.clone(),
                        _ => break,
                    }
                }
            }
        }
        Self { live, declared }
    }

    /// Whether a workload needs no pod made after its template.
    fn contains(&self, workload: &ObjectRef, owner: Option<&Workload>) -> bool {
        let above = owner.map(|owner| ObjectRef::new(&owner.kind, &workload.namespace, &owner.name));
        self.live.contains(workload) || above.is_some_and(|o| self.live.contains(&o) || self.declared.contains(&o))
    }
}
