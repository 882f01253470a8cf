//! What-ifs: objects changed in memory, before anyone applies them.

use std::fmt;
use std::str::FromStr;

use npc_compiler::object::{Labels, Objects, Pod, is_controller_label};

use super::manifests::{Loaded, ObjectRef};

/// Applies the objects of an overlay: each one comes in place of the object
/// of the same kind, namespace and name, or in addition.
///
/// A workload also changes the pods it already has: they keep their names,
/// addresses and nodes, and take over the labels, ports and network of its
/// template, as after a rollout. One that is to have none loses those it has.
pub fn apply_overlay(base: &mut Loaded, overlay: Loaded) {
    let Loaded {
        objects,
        idle,
        workload_labels,
        represented,
        owned,
        positions,
        problems,
        skipped,
        skipped_objects,
        pod_makers,
        pod_making,
        ordinals,
        passed_over,
        unread,
        replaced,
        unread_subjects: _,
    } = overlay;
    for workload in objects.pods.iter().filter_map(of_workload) {
        base.idle.remove(&workload);
        // Its pods take over what its new template has.
        base.represented.remove(&workload);
    }
    base.objects.pods.retain(|pod| of_workload(pod).is_none_or(|workload| !idle.contains_key(&workload)));
    base.idle.extend(idle);
    base.workload_labels.extend(workload_labels);
    base.represented.extend(represented);
    base.owned.extend(owned);
    let into = &mut base.objects;
    for namespace in objects.namespaces {
        // One that the overlay only implies changes nothing about one that is
        // there.
        let implied = positions.locate("Namespace", "", &namespace.name, "").is_none();
        match into.namespaces.iter_mut().find(|n| n.name == namespace.name) {
            Some(_) if implied => {}
            Some(old) => {
                into.implied_namespaces.remove(&namespace.name);
                *old = namespace;
            }
            None => {
                if implied {
                    into.implied_namespaces.insert(namespace.name.clone());
                }
                into.namespaces.push(namespace);
            }
        }
    }
    for pod in objects.pods {
        overlay_pod(&mut into.pods, pod);
    }
    for policy in objects.policies {
        let same =
            |p: &npc_compiler::object::NetworkPolicy| p.name() == policy.name() && p.namespace() == policy.namespace();
        match into.policies.iter_mut().find(|p| same(p)) {
            Some(old) => *old = policy,
            None => into.policies.push(policy),
        }
    }
    for node in objects.nodes {
        match into.nodes.iter_mut().find(|n| n.name == node.name) {
            Some(old) => *old = node,
            None => into.nodes.push(node),
        }
    }
    for service in objects.services {
        match into.services.iter_mut().find(|s| s.name == service.name && s.namespace == service.namespace) {
            Some(old) => *old = service,
            None => into.services.push(service),
        }
    }
    for slice in objects.endpoint_slices {
        match into.endpoint_slices.iter_mut().find(|s| s.name == slice.name && s.namespace == slice.namespace) {
            Some(old) => *old = slice,
            None => into.endpoint_slices.push(slice),
        }
    }
    base.positions.merge(positions);
    base.replaced.extend(replaced);
    base.problems.extend(problems);
    base.passed_over.merge(passed_over);
    base.unread.extend(unread);
    base.pod_makers.extend(pod_makers);
    base.pod_making.extend(pod_making);
    base.ordinals.extend(ordinals);
    for (kind, count) in skipped {
        *base.skipped.entry(kind).or_default() += count;
    }
    for (kind, objects) in skipped_objects {
        base.skipped_objects.entry(kind).or_default().extend(objects);
    }
}

fn overlay_pod(pods: &mut Vec<Pod>, new: Pod) {
    if new.is_template() {
        let mut found = false;
        for old in pods.iter_mut().filter(|old| old.namespace == new.namespace && old.workload == new.workload) {
            found = true;
            roll_out(old, &new);
        }
        if !found {
            pods.push(new);
        }
        return;
    }
    pods.retain(|old| old.namespace != new.namespace || old.name != new.name || old.is_template());
    pods.push(new);
}

fn of_workload(pod: &Pod) -> Option<ObjectRef> {
    pod.workload.as_ref().map(|workload| ObjectRef::new(&workload.kind, &pod.namespace, &workload.name))
}

fn roll_out(old: &mut Pod, new: &Pod) {
    if old.is_template() {
        *old = new.clone();
        return;
    }
    let own = std::mem::take(&mut old.labels).into_iter();
    let mut labels: Labels = own.filter(|(key, _)| is_controller_label(key)).collect();
    labels.extend(new.labels.iter().map(|(key, value)| (key.clone(), value.clone())));
    old.labels = labels;
    old.ports.clone_from(&new.ports);
    old.host_network = new.host_network;
}

/// Why there is nothing to remove.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RemoveError {
    /// The text does not name an object.
    #[error("{0:?} names no object; write KIND/NAMESPACE/NAME, as in netpol/shop/api, or ns/NAME, node/NAME")]
    Syntax(String),
    /// There is no such kind here.
    #[error("{0:?} is no kind that decides about connectivity")]
    Kind(String),
    /// The input has no such object.
    #[error("there is no {0} in the input")]
    Absent(ObjectRef),
}

/// Takes an object away, as `kubectl delete` would: a namespace with all that
/// is in it, a workload with its pods. The kind may be short or plural, in
/// any case (`netpol`, `deployments`).
///
/// # Errors
///
/// If there is no such kind, or no such object.
pub fn remove(objects: &mut Objects, kind: &str, namespace: &str, name: &str) -> Result<(), RemoveError> {
    let kind = Removable::parse(kind)?;
    let before = count(objects);
    match kind {
        Removable::Namespace => {
            objects.namespaces.retain(|n| n.name != name);
            objects.pods.retain(|p| p.namespace != name);
            objects.policies.retain(|p| p.namespace() != name);
            objects.services.retain(|s| s.namespace != name);
            objects.endpoint_slices.retain(|s| s.namespace != name);
        }
        Removable::Node => objects.nodes.retain(|n| n.name != name),
        Removable::Pod => objects.pods.retain(|p| p.namespace != namespace || p.name != name || p.is_template()),
        Removable::Service => {
            objects.services.retain(|s| s.namespace != namespace || s.name != name);
            objects.endpoint_slices.retain(|s| s.namespace != namespace || s.service != name);
        }
        Removable::EndpointSlice => objects.endpoint_slices.retain(|s| s.namespace != namespace || s.name != name),
        Removable::Policy => objects.policies.retain(|p| p.namespace() != namespace || p.name() != name),
        Removable::Workload(kind) => objects.pods.retain(|p| {
            let of_it = p.workload.as_ref().is_some_and(|w| w.kind == kind && w.name == name);
            p.namespace != namespace || !of_it
        }),
    }
    if count(objects) == before {
        let namespace = if matches!(kind, Removable::Namespace | Removable::Node) { "" } else { namespace };
        return Err(RemoveError::Absent(ObjectRef::new(kind.name(), namespace, name)));
    }
    Ok(())
}

fn count(objects: &Objects) -> usize {
    objects.namespaces.len()
        + objects.pods.len()
        + objects.policies.len()
        + objects.nodes.len()
        + objects.services.len()
        + objects.endpoint_slices.len()
}

/// The kinds that can be taken away.
#[derive(Debug, Clone, Copy)]
enum Removable {
    Namespace,
    Node,
    Pod,
    Service,
    EndpointSlice,
    Policy,
    Workload(&'static str),
}

impl Removable {
    fn parse(kind: &str) -> Result<Self, RemoveError> {
        Ok(match kind.to_ascii_lowercase().as_str() {
            "ns" | "namespace" | "namespaces" => Self::Namespace,
            "no" | "node" | "nodes" => Self::Node,
            "po" | "pod" | "pods" => Self::Pod,
            "svc" | "service" | "services" => Self::Service,
            "endpointslice" | "endpointslices" => Self::EndpointSlice,
            "netpol" | "networkpolicy" | "networkpolicies" => Self::Policy,
            "deploy" | "deployment" | "deployments" => Self::Workload("Deployment"),
            "sts" | "statefulset" | "statefulsets" => Self::Workload("StatefulSet"),
            "ds" | "daemonset" | "daemonsets" => Self::Workload("DaemonSet"),
            "rs" | "replicaset" | "replicasets" => Self::Workload("ReplicaSet"),
            "rc" | "replicationcontroller" | "replicationcontrollers" => Self::Workload("ReplicationController"),
            "job" | "jobs" => Self::Workload("Job"),
            "cj" | "cronjob" | "cronjobs" => Self::Workload("CronJob"),
            _ => return Err(RemoveError::Kind(kind.to_owned())),
        })
    }

    const fn name(self) -> &'static str {
        match self {
            Self::Namespace => "Namespace",
            Self::Node => "Node",
            Self::Pod => "Pod",
            Self::Service => "Service",
            Self::EndpointSlice => "EndpointSlice",
            Self::Policy => "NetworkPolicy",
            Self::Workload(kind) => kind,
        }
    }
}

/// What `--remove KIND/NS/NAME` names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Removal {
    /// The kind as it was written.
    pub kind: String,
    /// Empty for a Namespace and a Node.
    pub namespace: String,
    /// The name.
    pub name: String,
}

impl Removal {
    /// Takes the object away; see [`remove`].
    ///
    /// # Errors
    ///
    /// If there is no such object.
    pub fn apply(&self, objects: &mut Objects) -> Result<(), RemoveError> {
        remove(objects, &self.kind, &self.namespace, &self.name)
    }
}

impl FromStr for Removal {
    type Err = RemoveError;

    fn from_str(text: &str) -> Result<Self, RemoveError> {
        let syntax = || RemoveError::Syntax(text.to_owned());
        let parts: Vec<&str> = text.split('/').collect();
        if parts.iter().any(|part| part.is_empty()) {
            return Err(syntax());
        }
        let (kind, namespace, name) = match *parts.as_slice() {
            [kind, namespace, name] => (kind, namespace, name),
            [kind, name] => (kind, "", name),
            _ => return Err(syntax()),
        };
        let scoped = !matches!(Removable::parse(kind)?, Removable::Namespace | Removable::Node);
        if scoped != (parts.len() == 3) {
            return Err(syntax());
        }
        Ok(Self { kind: kind.to_owned(), namespace: namespace.to_owned(), name: name.to_owned() })
    }
}

impl fmt::Display for Removal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.namespace.is_empty() {
            write!(f, "{}/{}", self.kind, self.name)
        } else {
            write!(f, "{}/{}/{}", self.kind, self.namespace, self.name)
        }
    }
}

#[cfg(test)]
mod tests;
