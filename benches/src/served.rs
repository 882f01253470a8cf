//! Objects as an API server has them, with all that a kubelet and a controller
//! write: what an agent reads of them is a small part.

use serde_json::{Value, json};

use crate::address;

/// How many pods a namespace has.
pub const PODS_PER_NAMESPACE: usize = 100;

/// How many pods run on each node.
pub const PODS_PER_NODE: usize = 50;

/// How many pods of a namespace have the same labels.
pub const REPLICAS: usize = 10;

/// How many policies a namespace has.
pub const POLICIES_PER_NAMESPACE: usize = 3;

/// The name of a node.
#[must_use]
pub fn node_name(number: usize) -> String {
    format!("node-{number}")
}

/// A cluster of so many pods: its first node, namespaces, policies and pods.
pub fn cluster(pods: usize) -> impl Iterator<Item = Value> {
    let node = json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": node_name(0)}});
    // With room for some more pods.
    let namespaces = pods / PODS_PER_NAMESPACE + 1;
    let of_namespace = |number: usize| {
        let name = namespace(number);
        let object = json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}});
        let policies = (0..POLICIES_PER_NAMESPACE).map(move |app| policy(&namespace(number), app));
        std::iter::once(object).chain(policies)
    };
    let pods = (0..pods).map(|number| pod(number, number / PODS_PER_NODE));
    std::iter::once(node).chain((0..namespaces).flat_map(of_namespace)).chain(pods)
}

fn namespace(number: usize) -> String {
    format!("team-{number}")
}

/// A pod on a node, of a Deployment, some 3 kB of JSON.
#[must_use]
pub fn pod(number: usize, node: usize) -> Value {
    let (namespace, app) = (namespace(number / PODS_PER_NAMESPACE), number % PODS_PER_NAMESPACE / REPLICAS);
    let app = format!("app-{app}");
    let of_template = format!("{app}-6b8d7c9f5");
    let address = address(number + 1).to_string();
    let since = "2026-11-01T12:00:00Z";
    let conditions = ["PodScheduled", "Initialized", "ContainersReady", "Ready", "PodReadyToStartContainers"]
        .map(|kind| json!({"type": kind, "status": "True", "lastProbeTime": null, "lastTransitionTime": since}));
    let managed = ["kube-controller-manager", "kubelet"].map(|manager| {
        let fields = json!({
            "f:metadata": {"f:labels": {".": {}, "f:app": {}}, "f:ownerReferences": {}},
            "f:spec": {"f:containers": {}},
        });
        json!({
            "manager": manager, "operation": "Update", "apiVersion": "v1", "time": since,
            "fieldsType": "FieldsV1", "fieldsV1": fields,
        })
    });
    let token = json!({
        "name": "kube-api-access", "mountPath": "/var/run/secrets/kubernetes.io/serviceaccount", "readOnly": true,
    });
    let container = json!({
        "name": "main", "image": "registry.example/app:1.2.3", "volumeMounts": [token],
        "ports": [{"name": "http", "containerPort": 8080, "protocol": "TCP"}],
        "env": [{"name": "A", "value": "b"}, {"name": "C", "value": "d"}],
        "resources": {"requests": {"cpu": "100m", "memory": "128Mi"}, "limits": {"memory": "256Mi"}},
    });
    let container_status = json!({
        "name": "main", "ready": true, "restartCount": 0, "image": "registry.example/app:1.2.3",
        "imageID": format!("registry.example/app@sha256:{}", "a".repeat(64)),
        "containerID": format!("containerd://{}", "b".repeat(64)), "started": true,
        "state": {"running": {"startedAt": since}},
    });
    json!({
        "apiVersion": "v1", "kind": "Pod",
        "metadata": {
            "namespace": namespace, "name": format!("{of_template}-{number:06}"),
            "generateName": format!("{of_template}-"),
            "labels": {
                "app": app, "pod-template-hash": "6b8d7c9f5", "tier": "backend",
                "app.kubernetes.io/name": app, "app.kubernetes.io/instance": namespace,
            },
            "annotations": {"checksum/config": "f".repeat(64), "prometheus.io/scrape": "true"},
            "ownerReferences": [{
                "apiVersion": "apps/v1", "kind": "ReplicaSet", "name": of_template, "controller": true,
                "uid": "5f3c1a52-8f2e-4c43-9a52-0a4c3b1d2e3f", "blockOwnerDeletion": true,
            }],
            "managedFields": managed,
        },
        "spec": {
            "nodeName": node_name(node), "serviceAccountName": "default", "containers": [container],
            "tolerations": [{
                "key": "node.kubernetes.io/not-ready", "operator": "Exists", "effect": "NoExecute",
                "tolerationSeconds": 300,
            }],
            "volumes": [{"name": "kube-api-access", "projected": {"defaultMode": 420, "sources": []}}],
        },
        "status": {
            "phase": "Running", "conditions": conditions, "hostIP": "192.0.2.1", "hostIPs": [{"ip": "192.0.2.1"}],
            "podIP": address, "podIPs": [{"ip": address}], "startTime": since, "qosClass": "Burstable",
            "containerStatuses": [container_status],
        },
    })
}

/// An application admits another one of its namespace.
fn policy(namespace: &str, app: usize) -> Value {
    let selector = |app: usize| json!({"matchLabels": {"app": format!("app-{app}")}});
    json!({
        "apiVersion": "networking.k8s.io/v1", "kind": "NetworkPolicy",
        "metadata": {"namespace": namespace, "name": format!("app-{app}")},
        "spec": {
            "podSelector": selector(app), "policyTypes": ["Ingress"],
            "ingress": [{"from": [{"podSelector": selector(app + 1)}], "ports": [{"port": "http", "protocol": "TCP"}]}],
        },
    })
}
