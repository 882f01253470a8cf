//! Objects written down as the manifests that the agents read.

use std::path::Path;

use k8s_openapi::jiff::Timestamp;
use k8s_openapi::serde_json::to_value;
use npc_compiler::object::{CONFIG_HASH, Labels, NetworkPolicy, Node, Objects, Pod, Service, TargetPort};
use serde_json::{Value, json};

use super::error::{Doing, Result};

/// Writes the objects to `cluster.json` in a folder, at once: an agent that watches
/// the folder sees the old cluster or the new one.
///
/// # Errors
/// When the file cannot be written.
pub fn write(folder: &Path, objects: &Objects) -> Result<()> {
    let fresh = folder.join(".cluster.json.new");
    let file = folder.join("cluster.json");
    let text = format!("{:#}\n", list(objects));
    std::fs::write(&fresh, text).doing(|| format!("write {}", fresh.display()))?;
    std::fs::rename(&fresh, &file).doing(|| format!("put {} in place", file.display()))
}

/// The objects as one `List`.
#[must_use]
pub fn list(objects: &Objects) -> Value {
    let mut items: Vec<Value> = Vec::new();
    items.extend(objects.namespaces.iter().map(|n| object("v1", "Namespace", None, &n.name, &n.labels)));
    items.extend(objects.nodes.iter().map(node));
    items.extend(objects.pods.iter().map(pod));
    items.extend(objects.services.iter().map(service));
    items.extend(objects.policies.iter().map(policy));
    json!({"apiVersion": "v1", "kind": "List", "items": items})
}

fn object(version: &str, kind: &str, namespace: Option<&str>, name: &str, labels: &Labels) -> Value {
    let mut metadata = json!({"name": name, "labels": labels});
    if let Some(namespace) = namespace {
        metadata["namespace"] = namespace.into();
    }
    json!({"apiVersion": version, "kind": kind, "metadata": metadata})
}

fn node(node: &Node) -> Value {
    let mut value = object("v1", "Node", None, &node.name, &Labels::new());
    let addresses: Vec<Value> =
        node.addresses.iter().map(|a| json!({"type": "InternalIP", "address": a.to_string()})).collect();
    value["status"] = json!({"addresses": addresses});
    if !node.pod_cidrs.is_empty() {
        let pod_cidrs: Vec<String> = node.pod_cidrs.iter().map(ToString::to_string).collect();
        value["spec"] = json!({"podCIDRs": pod_cidrs});
    }
    value
}

fn pod(pod: &Pod) -> Value {
    let mut value = object("v1", "Pod", Some(&pod.namespace), &pod.name, &pod.labels);
    value["metadata"]["uid"] = pod.uid.as_str().into();
    if let Some(hash) = &pod.config_hash {
        value["metadata"]["annotations"] = json!({CONFIG_HASH: hash});
    }
    if pod.terminating {
        value["metadata"]["deletionTimestamp"] = "2026-11-23T12:00:00Z".into();
    }
    let ports: Vec<Value> = (pod.ports.iter())
        .map(|p| json!({"name": p.name, "protocol": p.protocol.as_str(), "containerPort": p.port}))
        .collect();
    value["spec"] = json!({
        "hostNetwork": pod.host_network,
        "containers": [{"name": "main", "image": "lab", "ports": ports}],
    });
    if let Some(node) = &pod.node {
        value["spec"]["nodeName"] = node.as_str().into();
    }
    let ips = [pod.ipv4.map(|a| a.to_string()), pod.ipv6.map(|a| a.to_string())];
    let ips: Vec<Value> = ips.into_iter().flatten().map(|ip| json!({"ip": ip})).collect();
    let hosts: Vec<Value> = pod.host_addresses.iter().map(|ip| json!({"ip": ip.to_string()})).collect();
    let phase = if pod.finished { "Succeeded" } else { "Running" };
    value["status"] = json!({"phase": phase, "podIPs": ips, "hostIPs": hosts});
    if let Some(started) = pod.started.and_then(|seconds| Timestamp::from_second(seconds).ok()) {
        value["status"]["startTime"] = started.to_string().into();
    }
    value
}

fn service(service: &Service) -> Value {
    let mut value = object("v1", "Service", Some(&service.namespace), &service.name, &Labels::new());
    let ports: Vec<Value> = (service.ports.iter())
        .map(|p| {
            let target = match &p.target {
                TargetPort::Number(number) => json!(number),
                TargetPort::Name(name) => json!(name),
            };
            json!({"name": p.name, "protocol": p.protocol.as_str(), "port": p.port, "targetPort": target})
        })
        .collect();
    let addresses: Vec<String> = service.addresses.iter().map(ToString::to_string).collect();
    value["spec"] = json!({"ports": ports, "selector": service.selector, "clusterIPs": addresses});
    value
}

fn policy(policy: &NetworkPolicy) -> Value {
    let mut value = to_value(&policy.object).unwrap_or_default();
    for path in &policy.unknown_fields {
        // Any value will do: it is the name that is not understood.
        insert(&mut value, path, json!({}));
    }
    value
}

/// Puts a value at a path like `spec.ingress[0].from[1].ipBlok`. Where an
/// object lacks the way there, the rest of the path becomes the name: who reads
/// it and joins names by dots arrives at the same path.
fn insert(root: &mut Value, path: &str, value: Value) {
    for (dot, _) in path.rmatch_indices('.') {
        let (parents, name) = (&path[..dot], &path[dot + 1..]);
        let pointer = parents.replace(['.', '['], "/").replace(']', "");
        if let Some(Value::Object(parent)) = root.pointer_mut(&format!("/{pointer}")) {
            parent.insert(name.to_owned(), value);
            return;
        }
    }
    root[path] = value;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_unknown_field_comes_back_in_its_place() {
        let mut value = json!({"spec": {"ingress": [{"from": [{}, {}]}]}});
        insert(&mut value, "spec.ingress[0].from[1].ipBlok", json!({}));
        assert_eq!(value, json!({"spec": {"ingress": [{"from": [{}, {"ipBlok": {}}]}]}}));
    }
    #[test]
    fn a_field_below_a_list_keeps_its_path() {
        let mut value = json!({"spec": {"egress": [{"to": [{}]}]}});
        insert(&mut value, "spec.egress[0].to.podSelector", json!({}));
        assert_eq!(value, json!({"spec": {"egress": [{"to": [{}], "to.podSelector": {}}]}}));
    }
}
