//! The kinds of objects that decide about connectivity, and how a document becomes one.

use k8s_openapi::api::batch::v1 as batch;
use k8s_openapi::api::core::v1 as core;
use k8s_openapi::api::discovery::v1 as discovery;
use k8s_openapi::api::networking::v1 as networking;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{LabelSelector, ObjectMeta};
use npc_compiler::algebra::selector::Selector;
use npc_compiler::object::{
    EndpointSlice, Labels, Namespace, NetworkPolicy, Node as ClusterNode, Pod, Service, Workload,
};

use super::decode::{Notes, TypeMismatch, field};
use super::foreign::SOPS;
use super::kept_fields::{self, FILLED_IN, Keep, retain, unshare};
use super::pod_template::{makes_pods, template};
use super::replicas::{Ordinals, of_cron_job, of_stateful_set, of_workload};
use super::span::Span;
use super::tree::{MappingEntry, Value, YamlNode};

/// What a document is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum DocumentKind {
    Namespace,
    Pod,
    Node,
    Service,
    EndpointSlice,
    /// The older form of EndpointSlices, which operators still write by hand.
    Endpoints,
    Policy,
    /// Makes pods after the template at `spec.template`.
    Workload,
    /// Makes pods after the template of its job template.
    CronJob,
    /// Says nothing about connectivity, or no Kubernetes serves it.
    Other,
}

impl DocumentKind {
    /// What a document with this apiVersion and kind is. The group decides,
    /// not the kind alone: other projects have Services and NetworkPolicies.
    pub(super) fn of(api_version: &str, kind: &str) -> Self {
        let group = api_version.split_once('/').map_or("", |(group, _)| group);
        match (group, kind) {
            ("", "Namespace") => Self::Namespace,
            ("", "Pod") => Self::Pod,
            ("", "Node") => Self::Node,
            ("", "Service") => Self::Service,
            ("", "Endpoints") => Self::Endpoints,
            ("discovery.k8s.io", "EndpointSlice") => Self::EndpointSlice,
            ("networking.k8s.io", "NetworkPolicy") => Self::Policy,
            ("", "ReplicationController")
            | ("apps" | "extensions", "Deployment" | "DaemonSet" | "ReplicaSet" | "StatefulSet")
            | ("batch", "Job") => Self::Workload,
            ("batch", "CronJob") => Self::CronJob,
            _ => Self::Other,
        }
    }

    /// Whether its objects live outside namespaces.
    pub(super) const fn is_cluster_scoped(self) -> bool {
        matches!(self, Self::Namespace | Self::Node)
    }

    /// Which of its fields are kept.
    pub(super) const fn keep(self) -> &'static Keep {
        match self {
            Self::Namespace => &kept_fields::NAMESPACE,
            Self::Pod => &kept_fields::POD,
            Self::Node => &kept_fields::NODE,
            Self::Service => &kept_fields::SERVICE,
            Self::EndpointSlice => &kept_fields::ENDPOINT_SLICE,
            Self::Endpoints => &kept_fields::ENDPOINTS,
            Self::Policy => &kept_fields::POLICY,
            Self::Workload => &kept_fields::WORKLOAD,
            Self::CronJob => &kept_fields::CRON_JOB,
            Self::Other => &kept_fields::OTHER,
        }
    }

    /// Drops the fields that npc does not ask for: most of a live pod is status
    /// and managed fields, and a cluster has a hundred thousand pods. A field
    /// that is not asked for can also not be wrong. Of a policy only what the
    /// API server fills in goes: an unknown field there is a finding.
    pub(super) fn trim(self, node: &mut YamlNode) {
        if self == Self::Policy {
            unshare(node);
            if let Value::Map(entries) = &mut node.value {
                // SOPS takes its own field away when it decrypts.
                let is_of_sops = |entry: &MappingEntry| &*entry.key == SOPS && entry.node.get("mac").is_some();
                entries.retain(|entry| &*entry.key != "status" && !is_of_sops(entry));
                for metadata in entries.iter_mut().filter(|entry| &*entry.key == "metadata") {
                    unshare(&mut metadata.node);
                    if let Value::Map(entries) = &mut metadata.node.value {
                        entries.retain(|entry| !FILLED_IN.contains(&&*entry.key));
                    }
                }
            }
        } else {
            retain(node, self.keep());
        }
    }
}

/// The kind of a workload that is not Kubernetes' own, distinct from the kinds that are.
pub(super) fn foreign_workload(api_version: &str, kind: &str) -> String {
    let is_ours =
        ["v1", "apps/v1", "batch/v1"].iter().any(|version| DocumentKind::of(version, kind) != DocumentKind::Other);
    if is_ours { qualified(api_version, kind) } else { kind.to_owned() }
}

/// The name under which a skipped document is counted: `Ingress.networking.k8s.io`.
pub(super) fn qualified(api_version: &str, kind: &str) -> String {
    match api_version.split_once('/') {
        Some((group, _)) => format!("{kind}.{group}"),
        None => kind.to_owned(),
    }
}

/// Trims a document or list item as soon as it has been built, if it says
/// itself what it is.
pub(super) fn trim_early(node: &mut YamlNode) {
    let text = |key| node.get(key).and_then(YamlNode::text).unwrap_or_default();
    let (api_version, name) = (text("apiVersion"), text("kind"));
    if name.is_empty() || name.ends_with("List") {
        return;
    }
    let kind = DocumentKind::of(api_version, name);
    // Whether it makes pods is asked again when it is read, and then the whole of it has to be there.
    if kind != DocumentKind::Other || !makes_pods(api_version, name, node) {
        kind.trim(node);
    }
}

/// An object as far as it decides about connectivity.
#[derive(Debug, Clone)]
pub(super) enum ManifestObject {
    Namespace(Namespace),
    Pod(Box<Pod>),
    /// The pod that a workload would make.
    Template(Box<Pod>),
    /// A workload that is to have no pods, and the labels of its template.
    Idle(Labels),
    Node(ClusterNode),
    Service(Box<Service>),
    EndpointSlices(Vec<EndpointSlice>),
    Policy(Box<NetworkPolicy>),
}

/// An object with what distinguishes it from others.
#[derive(Debug, Clone)]
pub(super) struct Decoded {
    pub(super) namespace: String,
    pub(super) name: String,
    /// The workload that owns it.
    pub(super) owner: Option<Workload>,
    /// The labels that a workload has itself; none of another object.
    pub(super) workload_labels: Option<Labels>,
    /// How a StatefulSet names its pods; none of another object.
    pub(super) ordinals: Option<Ordinals>,
    pub(super) body: ManifestObject,
}

/// Decodes an object of a kind that is not [`DocumentKind::Other`]. `kind_name` is how
/// the file calls it.
pub(super) fn read(
    kind: DocumentKind,
    kind_name: &str,
    node: &YamlNode,
    file: &str,
    default_namespace: &str,
    notes: &mut Notes,
) -> Result<Decoded, TypeMismatch> {
    let mut metadata: ObjectMeta = field(node, &["metadata"], notes)?;
    let name = match named(node, "name", metadata.name.as_deref())? {
        Some(name) => name,
        None => match named(node, "generateName", metadata.generate_name.as_deref())? {
            Some(prefix) => generated(&prefix, file, node.span),
            None => {
                let span = node.get("metadata").map_or(node.span, |metadata| metadata.span);
                return Err(wrong(
                    span,
                    "metadata.name",
                    "the object has no name".to_owned(),
                    "give it a metadata.name",
                ));
            }
        },
    };
    let namespace = match named(node, "namespace", metadata.namespace.as_deref())? {
        _ if kind.is_cluster_scoped() => String::new(),
        Some(namespace) => namespace,
        None => default_namespace.to_owned(),
    };
    metadata.name = Some(name.clone());
    metadata.namespace = (!kind.is_cluster_scoped()).then(|| namespace.clone());
    let owner = (metadata.owner_references.iter().flatten().find(|owner| owner.controller == Some(true)))
        .map(|owner| Workload { kind: owner.kind.clone(), name: owner.name.clone() });
    let is_workload = matches!(kind, DocumentKind::Workload | DocumentKind::CronJob);
    let is_stateful = kind == DocumentKind::Workload && kind_name == "StatefulSet";
    let ordinals = if is_stateful { Some(of_stateful_set(node, notes)?) } else { None };
    let workload_labels = is_workload.then(|| metadata.labels.take().unwrap_or_default());
    let body = match kind {
        DocumentKind::Namespace => ManifestObject::Namespace(core::Namespace { metadata, ..Default::default() }.into()),
        DocumentKind::Pod => {
            let (spec, status) = (field(node, &["spec"], notes)?, field(node, &["status"], notes)?);
            ManifestObject::Pod(Box::new(core::Pod { metadata, spec: Some(spec), status: Some(status) }.into()))
        }
        DocumentKind::Node => {
            let (spec, status) = (field(node, &["spec"], notes)?, field(node, &["status"], notes)?);
            ManifestObject::Node(core::Node { metadata, spec: Some(spec), status: Some(status) }.into())
        }
        DocumentKind::Service => {
            let (spec, status) = (field(node, &["spec"], notes)?, field(node, &["status"], notes)?);
            ManifestObject::Service(Box::new(core::Service { metadata, spec: Some(spec), status: Some(status) }.into()))
        }
        DocumentKind::EndpointSlice => {
            let (endpoints, ports) = (field(node, &["endpoints"], notes)?, field(node, &["ports"], notes)?);
            let address_type = field::<Option<String>>(node, &["addressType"], notes)?.unwrap_or_default();
            let slice = discovery::EndpointSlice { address_type, endpoints, metadata, ports };
            ManifestObject::EndpointSlices(vec![slice.into()])
        }
        DocumentKind::Endpoints => {
            let subsets = field(node, &["subsets"], notes)?;
            ManifestObject::EndpointSlices(EndpointSlice::of_endpoints(core::Endpoints { metadata, subsets }))
        }
        DocumentKind::Policy => {
            let mut policy =
                NetworkPolicy::from(networking::NetworkPolicy { metadata, spec: field(node, &["spec"], notes)? });
            notes.doubt_without_spec(node);
            unknown_beside_spec(node, notes);
            policy.unknown_fields.clone_from(&notes.unknown);
            ManifestObject::Policy(Box::new(policy))
        }
        DocumentKind::Workload => {
            let mut pod = template(kind_name, &name, &namespace, node, &["spec", "template"], notes)?;
            pod.finished = kind_name == "Job" && has_ended(node, notes)?;
            body_of(pod, of_workload(kind_name, node, notes)?)
        }
        DocumentKind::CronJob => {
            let path = ["spec", "jobTemplate", "spec", "template"];
            let pod = template(kind_name, &name, &namespace, node, &path, notes)?;
            body_of(pod, of_cron_job(node, notes)?)
        }
        DocumentKind::Other => return Err(wrong(node.span, "kind", "of no kind that decides".to_owned(), "")),
    };
    Ok(Decoded { namespace, name, owner, workload_labels, ordinals, body })
}

/// A policy's pod selector, if it can be read, even if the rest cannot.
pub(super) fn subject(node: &YamlNode) -> Option<Selector> {
    let mut notes = Notes::default();
    let selector: Option<LabelSelector> = field(node, &["spec", "podSelector"], &mut notes).ok()?;
    let (subject, wrong) = Selector::read(&selector?);
    (wrong.is_empty() && notes.unknown.is_empty()).then_some(subject)
}

/// Notes the fields of a policy that stand beside its spec, where most likely
/// a part of it was meant.
fn unknown_beside_spec(node: &YamlNode, notes: &mut Notes) {
    let Value::Map(entries) = &node.resolved().value else { return };
    let unknown = entries.iter().filter(|entry| !matches!(&*entry.key, "apiVersion" | "kind" | "metadata" | "spec"));
    notes.unknown.extend(unknown.map(|entry| entry.key.to_string()));
}

/// Whether a Job makes no pods any more: its condition `Complete` or `Failed` is true
/// (<https://kubernetes.io/docs/concepts/workloads/controllers/job/#terminal-job-conditions>).
fn has_ended(job: &YamlNode, notes: &mut Notes) -> Result<bool, TypeMismatch> {
    let conditions: Option<Vec<batch::JobCondition>> = field(job, &["status", "conditions"], notes)?;
    let is_terminal = |of: &batch::JobCondition| matches!(&*of.type_, "Complete" | "Failed") && of.status == "True";
    Ok(conditions.iter().flatten().any(is_terminal))
}

/// What a workload is that makes so many pods like this one; without a number, any number of them.
fn body_of(mut pod: Pod, number: Option<i32>) -> ManifestObject {
    if number == Some(0) {
        return ManifestObject::Idle(pod.labels);
    }
    pod.is_single = number == Some(1);
    ManifestObject::Template(Box::new(pod))
}

/// The name of an object that leaves its end to the API server: five letters or digits, as
/// that makes them, which are the same each time that the file is read.
fn generated(prefix: &str, file: &str, span: Span) -> String {
    /// Those of the API server.
    const LETTERS: &[u8; 27] = b"bcdfghjklmnpqrstvwxz2456789";
    let place = format!("{file}:{}:{}", span.start.line, span.start.column);
    // FNV-1a, which stays what it is.
    let mut hash = place
        .bytes()
        .fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3));
    let end = (0..5).map(|_| {
        let letter = LETTERS[usize::try_from(hash % 27).unwrap_or_default()];
        hash /= 27;
        char::from(letter)
    });
    prefix.chars().chain(end).collect()
}

/// A name or namespace, if it is there. The API allows little more than
/// letters, digits, `-` and `.`; what would break a path or a line of output
/// is refused here, all else does no harm.
fn named(node: &YamlNode, key: &str, text: Option<&str>) -> Result<Option<String>, TypeMismatch> {
    let Some(text) = text.filter(|text| !text.is_empty()) else { return Ok(None) };
    if text.contains(|c: char| c == '/' || c.is_whitespace() || c.is_control()) {
        let span = node.get("metadata").and_then(|metadata| metadata.get(key)).map_or(node.span, |name| name.span);
        let help = "use lower-case letters, digits and \"-\"";
        return Err(wrong(span, &format!("metadata.{key}"), format!("{text:?} is no name"), help));
    }
    Ok(Some(text.to_owned()))
}

fn wrong(span: Span, path: &str, message: String, help: &'static str) -> TypeMismatch {
    TypeMismatch { span: Some(span), path: path.to_owned(), message, help }
}
