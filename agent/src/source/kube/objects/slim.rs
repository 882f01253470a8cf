//! The kinds that the agent watches, with the fields that npc needs and no others:
//! decoded whole, a pod as the API server sends it takes some 29 kB.

use k8s_openapi::api::core::v1 as core;
use k8s_openapi::api::networking::v1::{NetworkPolicy, NetworkPolicyPeer, NetworkPolicySpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{LabelSelector, ObjectMeta, OwnerReference, Time};
use kube::Resource;
use npc_compiler::object;
use serde::{Deserialize, Deserializer};
use std::collections::BTreeMap;

use super::decode::Identity;

/// A Pod.
#[derive(Debug, Clone, Resource, Deserialize)]
#[resource(inherit = core::Pod)]
pub(in super::super) struct Pod {
    #[serde(deserialize_with = "slim")]
    metadata: ObjectMeta,
    #[serde(default)]
    spec: PodSpec,
    #[serde(default)]
    status: PodStatus,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct PodSpec {
    node_name: Option<String>,
    host_network: Option<bool>,
    hostname: Option<String>,
    subdomain: Option<String>,
    containers: Vec<Container>,
    init_containers: Vec<Container>,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Container {
    name: String,
    restart_policy: Option<String>,
    ports: Option<Vec<core::ContainerPort>>,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct PodStatus {
    phase: Option<String>,
    #[serde(rename = "podIP")]
    pod_ip: Option<String>,
    #[serde(rename = "podIPs")]
    pod_ips: Option<Vec<core::PodIP>>,
    #[serde(rename = "hostIP")]
    host_ip: Option<String>,
    #[serde(rename = "hostIPs")]
    host_ips: Option<Vec<core::HostIP>>,
    start_time: Option<Time>,
    conditions: Option<Vec<Condition>>,
}

/// A condition of a pod. Its times and texts decide nothing.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
struct Condition {
    #[serde(rename = "type")]
    type_: String,
    status: String,
}

impl From<Condition> for core::PodCondition {
    fn from(Condition { type_, status }: Condition) -> Self {
        Self { type_, status, ..Self::default() }
    }
}

/// A Namespace.
#[derive(Debug, Clone, Resource, Deserialize)]
#[resource(inherit = core::Namespace)]
pub(in super::super) struct Namespace {
    #[serde(deserialize_with = "slim")]
    metadata: ObjectMeta,
}

/// A NetworkPolicy: all of it, but its metadata.
#[derive(Debug, Clone, Resource, Deserialize)]
#[resource(inherit = NetworkPolicy)]
pub(in super::super) struct Policy {
    #[serde(deserialize_with = "slim")]
    metadata: ObjectMeta,
    #[serde(default)]
    spec: Option<NetworkPolicySpec>,
}

/// A Node.
#[derive(Debug, Clone, Resource, Deserialize)]
#[resource(inherit = core::Node)]
pub(in super::super) struct Node {
    #[serde(deserialize_with = "slim")]
    metadata: ObjectMeta,
    #[serde(default)]
    spec: NodeSpec,
    #[serde(default)]
    status: NodeStatus,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
struct NodeSpec {
    #[serde(rename = "podCIDR")]
    pod_cidr: Option<String>,
    #[serde(rename = "podCIDRs")]
    pod_cidrs: Option<Vec<String>>,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
struct NodeStatus {
    addresses: Option<Vec<core::NodeAddress>>,
}

/// The part of an object's metadata that npc keeps.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Metadata {
    name: Option<String>,
    namespace: Option<String>,
    uid: Option<String>,
    labels: Option<BTreeMap<String, String>>,
    annotations: Option<BTreeMap<String, String>>,
    owner_references: Option<Vec<OwnerReference>>,
    deletion_timestamp: Option<Time>,
    resource_version: Option<String>,
    generation: Option<i64>,
}

/// How long a name is that npc keeps. The API server bounds those of objects, but not those
/// that an owner reference or an annotation has.
const LONGEST_NAME: usize = 253;

/// The owner that says to which workload a pod belongs.
fn owners(mut owners: Vec<OwnerReference>) -> Vec<OwnerReference> {
    let which = owners.iter().position(|owner| owner.controller == Some(true)).unwrap_or_default();
    owners.truncate(which + 1);
    owners.drain(..which.min(owners.len()));
    owners.retain(|owner| owner.kind.len() <= LONGEST_NAME && owner.name.len() <= LONGEST_NAME);
    owners.shrink_to_fit();
    owners
}

fn slim<'de, D: Deserializer<'de>>(deserializer: D) -> Result<ObjectMeta, D::Error> {
    let mut kept = Metadata::deserialize(deserializer)?;
    let hash = kept.annotations.as_mut().and_then(|annotations| annotations.remove_entry(object::CONFIG_HASH));
    let hash = hash.filter(|(_, hash)| hash.len() <= LONGEST_NAME);
    let owners = kept.owner_references.map(owners);
    Ok(ObjectMeta {
        name: kept.name,
        namespace: kept.namespace,
        uid: kept.uid,
        labels: kept.labels,
        annotations: hash.map(|hash| [hash].into()),
        owner_references: owners,
        deletion_timestamp: kept.deletion_timestamp,
        resource_version: kept.resource_version,
        generation: kept.generation,
        ..ObjectMeta::default()
    })
}

/// What can be made of a policy that cannot be read: one that isolates what its podSelector
/// selects, if that can be read. `bytes` are an object, or an event with one.
pub(in super::super) fn selector_of(bytes: &[u8], identity: &Identity, error: &str) -> Option<object::NetworkPolicy> {
    #[derive(Deserialize)]
    struct Event {
        object: Object,
    }
    #[derive(Deserialize)]
    struct Object {
        spec: Spec,
    }
    #[derive(Deserialize)]
    #[serde(rename_all = "camelCase")]
    struct Spec {
        #[serde(default)]
        pod_selector: LabelSelector,
        policy_types: Option<serde_json::Value>,
    }
    let object = serde_json::from_slice(bytes).map(|event: Event| event.object);
    let Object { spec } = object.or_else(|_| serde_json::from_slice(bytes)).ok()?;
    let types = spec.policy_types.map(serde_json::from_value).transpose().ok().flatten();
    // Egress may be among what cannot be read.
    let policy_types = types.or_else(|| Some(vec!["Ingress".to_owned(), "Egress".to_owned()]));
    let spec =
        NetworkPolicySpec { pod_selector: Some(spec.pod_selector), policy_types, ..NetworkPolicySpec::default() };
    let metadata = ObjectMeta {
        namespace: Some(identity.namespace.clone()),
        name: Some(identity.name.clone()),
        uid: Some(identity.uid.clone()),
        resource_version: Some(identity.version.clone()),
        ..ObjectMeta::default()
    };
    let policy = object::NetworkPolicy::from(NetworkPolicy { metadata, spec: Some(spec) });
    Some(policy.restricted(format!("the policy cannot be read as the API server sent it: {error}")))
}

impl From<Container> for core::Container {
    fn from(container: Container) -> Self {
        let Container { name, restart_policy, ports } = container;
        Self { name, restart_policy, ports, ..Self::default() }
    }
}

impl From<Pod> for object::Pod {
    fn from(pod: Pod) -> Self {
        let Pod { metadata, spec, status } = pod;
        let containers = |of: Vec<Container>| of.into_iter().map(core::Container::from).collect();
        Self::from(core::Pod {
            metadata,
            spec: Some(core::PodSpec {
                node_name: spec.node_name,
                host_network: spec.host_network,
                hostname: spec.hostname,
                subdomain: spec.subdomain,
                containers: containers(spec.containers),
                init_containers: Some(containers(spec.init_containers)),
                ..core::PodSpec::default()
            }),
            status: Some(core::PodStatus {
                phase: status.phase,
                pod_ip: status.pod_ip,
                pod_ips: status.pod_ips,
                host_ip: status.host_ip,
                host_ips: status.host_ips,
                start_time: status.start_time,
                conditions: status.conditions.map(|all| all.into_iter().map(core::PodCondition::from).collect()),
                ..core::PodStatus::default()
            }),
        })
    }
}

impl From<Namespace> for object::Namespace {
    fn from(namespace: Namespace) -> Self {
        Self::from(core::Namespace { metadata: namespace.metadata, ..core::Namespace::default() })
    }
}

impl From<Node> for object::Node {
    fn from(node: Node) -> Self {
        let Node { metadata, spec: NodeSpec { pod_cidr, pod_cidrs }, status } = node;
        let spec = core::NodeSpec { pod_cidr, pod_cidrs, ..core::NodeSpec::default() };
        let status = core::NodeStatus { addresses: status.addresses, ..core::NodeStatus::default() };
        Self::from(core::Node { metadata, spec: Some(spec), status: Some(status) })
    }
}

impl From<Policy> for object::NetworkPolicy {
    fn from(mut policy: Policy) -> Self {
        policy.spec.iter_mut().for_each(shrink);
        Self::from(NetworkPolicy { metadata: policy.metadata, spec: policy.spec })
    }
}

/// Gives back what lists took beyond their items while they were read. A list of one item has room for four, and
/// a policy of a megabyte may have eight thousand rules with two such lists each.
fn shrink(spec: &mut NetworkPolicySpec) {
    let peers_of = |peers: &mut Option<Vec<NetworkPolicyPeer>>| {
        let Some(peers) = peers else { return };
        peers.shrink_to_fit();
        let selectors = peers.iter_mut().flat_map(|peer| [&mut peer.pod_selector, &mut peer.namespace_selector]);
        selectors.flatten().for_each(shrink_selector);
    };
    for rule in spec.ingress.iter_mut().flatten() {
        peers_of(&mut rule.from);
        rule.ports.iter_mut().for_each(Vec::shrink_to_fit);
    }
    for rule in spec.egress.iter_mut().flatten() {
        peers_of(&mut rule.to);
        rule.ports.iter_mut().for_each(Vec::shrink_to_fit);
    }
    spec.ingress.iter_mut().for_each(Vec::shrink_to_fit);
    spec.egress.iter_mut().for_each(Vec::shrink_to_fit);
    spec.pod_selector.iter_mut().for_each(shrink_selector);
}

fn shrink_selector(selector: &mut LabelSelector) {
    if let Some(requirements) = &mut selector.match_expressions {
        requirements.shrink_to_fit();
        requirements.iter_mut().filter_map(|one| one.values.as_mut()).for_each(Vec::shrink_to_fit);
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_slim_pod_gives_the_same_object_as_a_whole_one() {
        let pod = json!({
            "apiVersion": "v1", "kind": "Pod",
            "metadata": {
                "name": "web-6b8d", "namespace": "shop", "uid": "4be4a5f4-3d8a-4f4c-8cbb-1c9f7b4f8f10",
                "resourceVersion": "7", "labels": {"app": "web", "pod-template-hash": "6b8d"},
                "annotations": {"a": "b", "kubernetes.io/config.hash": "c0ffee"}, "deletionTimestamp": "2026-11-01T00:00:00Z",
                "managedFields": [{"manager": "kubelet", "operation": "Update"}],
                "ownerReferences": [{"apiVersion": "apps/v1", "kind": "ReplicaSet", "name": "web-6b8d", "uid": "u", "controller": true}],
            },
            "spec": {
                "nodeName": "n1", "hostNetwork": false, "volumes": [{"name": "v", "emptyDir": {}}],
                "containers": [{"name": "c", "image": "i", "ports": [{"name": "http", "containerPort": 8080}]}],
                "initContainers": [
                    {"name": "s", "image": "i", "restartPolicy": "Always", "ports": [{"name": "side", "containerPort": 53, "protocol": "UDP"}]},
                    {"name": "i", "image": "i", "ports": [{"name": "never", "containerPort": 1}]},
                ],
            },
            "status": {
                "phase": "Running", "podIP": "10.0.0.1", "podIPs": [{"ip": "10.0.0.1"}, {"ip": "fd00::1"}],
                "hostIP": "192.0.2.1", "hostIPs": [{"ip": "192.0.2.1"}], "startTime": "2026-11-01T00:00:00Z",
                "conditions": [{"type": "Ready", "status": "False", "lastProbeTime": null}],
            },
        });
        let whole: core::Pod = serde_json::from_value(pod.clone()).expect("a pod");
        let slim: Pod = serde_json::from_value(pod).expect("a pod");
        let slim = object::Pod::from(slim);
        assert_eq!(slim, object::Pod::from(whole));
        assert_eq!(slim.ports.len(), 2);
        assert!(
            slim.config_hash.is_some()
                && slim.terminating
                && slim.not_ready
                && slim.ipv6.is_some()
                && slim.workload.is_some()
                && slim.started.is_some()
        );
    }

    #[test]
    fn a_slim_node_gives_the_same_object_as_a_whole_one() {
        let node = json!({
            "apiVersion": "v1", "kind": "Node", "metadata": {"name": "n1", "labels": {"a": "b"}},
            "spec": {"podCIDR": "10.1.0.0/24", "podCIDRs": ["10.1.0.0/24", "fd00:1::/64"], "providerID": "x"},
            "status": {"addresses": [{"type": "InternalIP", "address": "192.0.2.1"}], "images": []},
        });
        let whole: core::Node = serde_json::from_value(node.clone()).expect("a node");
        let slim: Node = serde_json::from_value(node).expect("a node");
        let slim = object::Node::from(slim);
        assert_eq!(slim, object::Node::from(whole));
        assert_eq!((slim.pod_cidrs.len(), slim.addresses.len()), (2, 1));
    }

    #[test]
    fn absent_and_null_fields_are_empty() {
        let bare: Pod = serde_json::from_value(json!({"metadata": {"name": "p"}})).expect("a pod");
        assert_eq!(object::Pod::from(bare).ipv4, None);
        let null = json!({"metadata": {"name": "p", "labels": null}, "spec": {"containers": [], "hostNetwork": null}});
        assert!(serde_json::from_value::<Pod>(null).is_ok());
        let policy: Policy =
            serde_json::from_value(json!({"metadata": {"name": "n"}, "spec": null})).expect("a policy");
        assert_eq!(object::NetworkPolicy::from(policy).object.spec, None);
    }
}
