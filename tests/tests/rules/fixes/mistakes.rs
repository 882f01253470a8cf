//! Random clusters with one namespace in which everything is denied unless a policy admits it, and
//! that policy has a mistake that people make.

use npc_agent::source::manifests::{ReadOptions, parse_text};
use npc_compiler::object::{Objects, Workload};
use npc_compiler::verdict::fix::{ObjectName, Written};

/// The kinds of changes that mend the mistakes.
pub(super) const MENDED_BY: [&str; 9] = [
    "policyTypes",
    "a rule's direction",
    "a policy's namespace",
    "a policy's podSelector",
    "an item's podSelector",
    // The item has a podSelector too, and only its namespaceSelector is wrong.
    "an item's namespaceSelector",
    "a template's label",
    // The rule has the port of the Service.
    "a Service's port",
    // Its right podSelector would close what the server sends.
    "a new policy",
];

/// The flow that the policy means: its ends and its port.
pub(super) const MEANT: (&str, &str, u16) = ("delta/client", "delta/server", 8080);

/// The workload of the client has the label `role` itself.
pub(super) struct Client;

impl Written for Client {
    fn has(&self, object: &ObjectName) -> bool {
        object.kind == "Deployment"
    }

    fn text(&self, object: &ObjectName, path: &[&str]) -> Option<String> {
        match path {
            ["metadata", "name"] => Some(object.name.clone()),
            ["metadata", "labels", "role"] if object.kind == "Deployment" => Some("client".to_owned()),
            _ => None,
        }
    }
}

/// Adds the namespace, with the mistake that a change of this kind mends.
pub(super) fn add(objects: &mut Objects, mended_by: &str) {
    let labels = if mended_by == "a template's label" { "{app: client}" } else { "{app: client, role: client}" };
    let peer = match mended_by {
        "an item's podSelector" => "podSelector: {matchLabels: {role: clients}}",
        "an item's namespaceSelector" => {
            "namespaceSelector: {matchLabels: {kubernetes.io/metadata.name: deltas}}, \
             podSelector: {matchLabels: {role: client}}"
        }
        // For one client a rule of its own would do.
        "a Service's port" => "podSelector: {matchExpressions: [{key: app, operator: Exists}]}",
        _ => "podSelector: {matchLabels: {role: client}}",
    };
    let port = if mended_by == "a Service's port" { 80 } else { MEANT.2 };
    let (types, section, field) = match mended_by {
        "policyTypes" => ("Egress", "ingress", "from"),
        "a rule's direction" => ("Ingress, Egress", "egress", "to"),
        "a new policy" => ("Ingress, Egress", "ingress", "from"),
        _ => ("Ingress", "ingress", "from"),
    };
    let namespace = if mended_by == "a policy's namespace" { "default" } else { "delta" };
    let is_misspelt = matches!(mended_by, "a policy's podSelector" | "a new policy");
    let server = if is_misspelt { "servers" } else { "server" };
    let yaml = format!(
        "apiVersion: v1\nkind: Namespace\nmetadata: {{name: delta}}\n---\n\
         apiVersion: v1\nkind: Pod\nmetadata: {{name: client, namespace: delta, labels: {labels}}}\n\
         spec: {{containers: [{{name: c}}]}}\nstatus: {{phase: Running, podIP: 10.9.9.1}}\n---\n\
         apiVersion: v1\nkind: Pod\nmetadata: {{name: server, namespace: delta, labels: {{app: server}}}}\n\
         spec: {{containers: [{{name: c, ports: [{{containerPort: 8080}}]}}]}}\nstatus: {{phase: Running, podIP: 10.9.9.2}}\n---\n\
         apiVersion: networking.k8s.io/v1\nkind: NetworkPolicy\nmetadata: {{name: deny, namespace: delta}}\n\
         spec: {{podSelector: {{}}, policyTypes: [Ingress]}}\n---\n\
         apiVersion: networking.k8s.io/v1\nkind: NetworkPolicy\nmetadata: {{name: server, namespace: {namespace}}}\n\
         spec: {{podSelector: {{matchLabels: {{app: {server}}}}}, policyTypes: [{types}], \
         {section}: [{{{field}: [{{{peer}}}], ports: [{{port: {port}}}]}}]}}\n---\n\
         apiVersion: v1\nkind: Service\nmetadata: {{name: server, namespace: delta}}\n\
         spec: {{selector: {{app: server}}, ports: [{{port: 80, targetPort: 8080}}]}}\n"
    );
    let options = ReadOptions { declare_namespaces: false, ..ReadOptions::default() };
    let mut read = parse_text("delta.yaml", &yaml, &options).unwrap().objects;
    if mended_by == "a template's label" {
        let client = read.pods.iter_mut().filter(|pod| pod.name == "client");
        client.for_each(|pod| pod.workload = Some(Workload { kind: "Deployment".to_owned(), name: pod.name.clone() }));
    }
    objects.namespaces.extend(read.namespaces);
    objects.pods.extend(read.pods);
    objects.policies.extend(read.policies);
    objects.services.extend(read.services);
}
