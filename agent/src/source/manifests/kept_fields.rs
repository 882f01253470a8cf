//! Which fields of each kind are kept. A live pod is mostly status and managed fields, and a cluster has a
//! hundred thousand pods.

use npc_compiler::object::CONFIG_HASH;

use super::foreign::DIRECTIVE;
use super::tree::{Value, YamlNode};

/// The part of a kind's fields that is kept.
#[derive(Debug)]
pub(super) enum Keep {
    /// All of it.
    All,
    /// These fields.
    Fields(&'static [(&'static str, Keep)]),
}

use Keep::{All, Fields};

const METADATA: Keep = Fields(&[
    ("name", All),
    ("generateName", All),
    ("namespace", All),
    ("uid", All),
    ("labels", All),
    // By it CNI names a static pod, whose mirror this is.
    ("annotations", Fields(&[(CONFIG_HASH, All)])),
    ("ownerReferences", All),
    ("deletionTimestamp", All),
]);
/// What the API server fills in below the metadata of an object, and what says nothing to npc. A policy
/// keeps all else: a field that the API does not have is a finding.
pub(super) const FILLED_IN: [&str; 8] = [
    "clusterName",
    "creationTimestamp",
    "deletionGracePeriodSeconds",
    "generation",
    "initializers",
    "managedFields",
    "resourceVersion",
    "selfLink",
];
const CONTAINERS: Keep = Fields(&[
    ("name", All),
    ("restartPolicy", All),
    // They name the addresses of a node's DNS cache.
    ("command", All),
    ("args", All),
    ("ports", Fields(&[("name", All), ("containerPort", All), ("protocol", All), ("hostPort", All), ("hostIP", All)])),
]);
const POD_SPEC: Keep = Fields(&[
    ("nodeName", All),
    ("hostNetwork", All),
    ("hostname", All),
    ("subdomain", All),
    ("nodeSelector", All),
    ("affinity", Fields(&[("nodeAffinity", All)])),
    ("containers", CONTAINERS),
    ("initContainers", CONTAINERS),
]);
const CONDITIONS: Keep = Fields(&[("type", All), ("status", All)]);
pub(super) const POD: Keep = Fields(&[
    ("apiVersion", All),
    ("kind", All),
    ("metadata", METADATA),
    ("spec", POD_SPEC),
    (
        "status",
        Fields(&[
            ("phase", All),
            ("podIP", All),
            ("podIPs", All),
            ("hostIP", All),
            ("hostIPs", All),
            ("startTime", All),
            ("conditions", CONDITIONS),
        ]),
    ),
]);
pub(super) const NAMESPACE: Keep = Fields(&[("apiVersion", All), ("kind", All), ("metadata", METADATA)]);
pub(super) const NODE: Keep = Fields(&[
    ("apiVersion", All),
    ("kind", All),
    ("metadata", METADATA),
    ("spec", Fields(&[("podCIDR", All), ("podCIDRs", All)])),
    ("status", Fields(&[("addresses", All)])),
]);
pub(super) const SERVICE: Keep = Fields(&[
    ("apiVersion", All),
    ("kind", All),
    ("metadata", METADATA),
    (
        "spec",
        Fields(&[
            ("type", All),
            ("selector", All),
            ("clusterIP", All),
            ("clusterIPs", All),
            ("externalIPs", All),
            ("externalName", All),
            ("externalTrafficPolicy", All),
            ("internalTrafficPolicy", All),
            ("publishNotReadyAddresses", All),
            ("ipFamilies", All),
            ("ipFamilyPolicy", All),
            ("loadBalancerIP", All),
            ("loadBalancerSourceRanges", All),
            ("allocateLoadBalancerNodePorts", All),
            ("ports", All),
        ]),
    ),
    ("status", Fields(&[("loadBalancer", All)])),
]);
pub(super) const ENDPOINT_SLICE: Keep = Fields(&[
    ("apiVersion", All),
    ("kind", All),
    ("metadata", METADATA),
    ("addressType", All),
    ("ports", All),
    ("endpoints", All),
]);
pub(super) const ENDPOINTS: Keep =
    Fields(&[("apiVersion", All), ("kind", All), ("metadata", METADATA), ("subsets", All)]);
const TEMPLATE: Keep = Fields(&[("metadata", METADATA), ("spec", POD_SPEC)]);
pub(super) const WORKLOAD: Keep = Fields(&[
    ("apiVersion", All),
    ("kind", All),
    ("metadata", METADATA),
    (
        "spec",
        Fields(&[
            ("replicas", All),
            ("ordinals", All),
            ("serviceName", All),
            ("parallelism", All),
            ("completions", All),
            ("completionMode", All),
            ("paused", All),
            ("selector", Fields(&[("matchLabels", All)])),
            ("updateStrategy", All),
            ("template", TEMPLATE),
        ]),
    ),
    // Of a Job: whether it has ended.
    ("status", Fields(&[("conditions", CONDITIONS)])),
]);
pub(super) const CRON_JOB: Keep = Fields(&[
    ("apiVersion", All),
    ("kind", All),
    ("metadata", METADATA),
    (
        "spec",
        Fields(&[
            ("concurrencyPolicy", All),
            (
                "jobTemplate",
                Fields(&[(
                    "spec",
                    Fields(&[
                        ("parallelism", All),
                        ("completions", All),
                        ("completionMode", All),
                        ("template", TEMPLATE),
                    ]),
                )]),
            ),
        ]),
    ),
]);
pub(super) const POLICY: Keep = Fields(&[("apiVersion", All), ("kind", All), ("metadata", All), ("spec", All)]);
/// Of an object in a Template of OpenShift: its kind, and whether it has a pod template.
const TEMPLATE_OBJECT: Keep = Fields(&[
    ("kind", All),
    ("spec", Fields(&[("template", Fields(&[("spec", Fields(&[("containers", Fields(&[]))]))]))])),
]);
/// Of a kind that is not read: what makes a workload of it, if it has a template, what it scales, the
/// patches of a kustomization, and what a Template of OpenShift makes.
pub(super) const OTHER: Keep = Fields(&[
    ("apiVersion", All),
    ("kind", All),
    ("metadata", METADATA),
    (
        "spec",
        Fields(&[
            ("replicas", All),
            ("template", TEMPLATE),
            // Of an autoscaler.
            ("scaleTargetRef", All),
            ("maxReplicas", All),
            ("maxReplicaCount", All),
        ]),
    ),
    ("patches", All),
    ("patchesJson6902", All),
    ("patchesStrategicMerge", All),
    ("objects", TEMPLATE_OBJECT),
]);

/// Drops the fields of a node that are not kept.
pub(super) fn retain(node: &mut YamlNode, keep: &Keep) {
    let Fields(fields) = keep else { return };
    unshare(node);
    match &mut node.value {
        Value::Map(entries) => entries.retain_mut(|entry| match fields.iter().find(|(key, _)| **key == *entry.key) {
            Some((_, keep)) => {
                retain(&mut entry.node, keep);
                true
            }
            // By such a field a patch is distinguished from an object.
            None => entry.key.starts_with(DIRECTIVE),
        }),
        Value::List(items) => items.iter_mut().for_each(|item| retain(item, keep)),
        Value::Scalar { .. } | Value::Shared(_) => {}
    }
}

/// Makes a node that has an anchor, or is an alias, one of its own.
pub(super) fn unshare(node: &mut YamlNode) {
    if let Value::Shared(_) = node.value {
        node.value = node.resolved().value.clone();
    }
}
