//! Documents of the tests that ask for fixes.

/// A workload of a kind, and what its spec has beside the template.
pub(crate) fn workload(kind: &str, name: &str, spec: &str) -> String {
    let version = if kind == "ReplicationController" { "v1" } else { "apps/v1" };
    format!(
        "apiVersion: {version}\nkind: {kind}\nmetadata: {{name: {name}}}\nspec:\n  {spec}\n  \
         template:\n    metadata: {{labels: {{app: {name}}}}}\n    \
         spec: {{containers: [{{name: c, ports: [{{containerPort: 8080}}]}}]}}\n---\n"
    )
}

/// A policy for the pods that these labels select, and what its spec has beside them.
pub(crate) fn policy_for(labels: &str, metadata: &str, rest: &str) -> String {
    format!(
        "apiVersion: networking.k8s.io/v1\nkind: NetworkPolicy\nmetadata: {{{metadata}}}\nspec:\n  \
         podSelector: {{matchLabels: {labels}}}\n  {rest}\n---\n"
    )
}

/// A policy for the pods of `api`.
pub(crate) fn policy(metadata: &str, rest: &str) -> String {
    policy_for("{app: api}", metadata, rest)
}

/// A policy that allows nothing to, or from, any pod.
pub(crate) fn deny(direction: &str) -> String {
    policy_for("{}", "name: deny", &format!("policyTypes: [{direction}]"))
}

/// A node.
pub(crate) fn node(name: &str, address: &str) -> String {
    format!(
        "apiVersion: v1\nkind: Node\nmetadata: {{name: {name}}}\nstatus: {{addresses: [{{type: InternalIP, address: \
         {address}}}]}}\n---\n"
    )
}

/// A Service of the pods with these labels.
pub(crate) fn service(name: &str, labels: &str, port: &str) -> String {
    format!(
        "apiVersion: v1\nkind: Service\nmetadata: {{name: {name}}}\nspec: {{selector: {labels}, ports: [{{{port}}}]}}\n---\n"
    )
}

/// A pod that runs, of a workload.
pub(crate) fn running(name: &str, owner: &str, labels: &str, address: &str) -> String {
    let owners = if owner.is_empty() {
        String::new()
    } else {
        format!(", ownerReferences: [{{apiVersion: apps/v1, kind: {owner}, name: cart, uid: u, controller: true}}]")
    };
    format!(
        "apiVersion: v1\nkind: Pod\nmetadata: {{name: {name}, labels: {labels}{owners}}}\n\
         spec: {{nodeName: n1, containers: [{{name: c}}]}}\nstatus: {{phase: Running, podIP: {address}}}\n---\n"
    )
}

pub(crate) const WANTS_TIER: &str =
    "ingress: [{from: [{podSelector: {matchLabels: {tier: back}}}], ports: [{port: 8080}]}]";

/// Workloads that bear a label themselves and not in their templates, and a policy that selects by it.
pub(crate) const CLIENTS: &str = "\
apiVersion: apps/v1
kind: Deployment
metadata: {name: nightly, labels: {role: client}}
spec: {template: {metadata: {labels: {job: nightly}}, spec: {containers: [{name: c}]}}}
---
apiVersion: batch/v1
kind: Job
metadata: {name: once, labels: {role: client}}
spec: {template: {metadata: {labels: {job: once}}, spec: {containers: [{name: c}]}}}
---
apiVersion: batch/v1
kind: CronJob
metadata: {name: cron, labels: {role: client}}
spec: {jobTemplate: {spec: {template: {metadata: {labels: {job: cron}}, spec: {containers: [{name: c}]}}}}}
---
apiVersion: apps/v1
kind: Deployment
metadata: {name: api}
spec: {template: {metadata: {labels: {app: api}}, spec: {containers: [{name: c}]}}}
---
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: api}
spec:
  podSelector: {matchLabels: {app: api}}
  ingress: [{from: [{podSelector: {matchLabels: {role: client}}}], ports: [{port: 8080}]}]
---
";

/// A policy that denies nearly all egress of the pods with the label.
pub(crate) const CLIENTS_EGRESS: &str = "\
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: clients}
spec: {podSelector: {matchLabels: {role: client}}, policyTypes: [Egress], egress: [{to: [{podSelector: {matchLabels: {app: db}}}]}]}
---
";
