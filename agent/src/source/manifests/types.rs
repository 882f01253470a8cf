//! The types that are read, under each group and version that ever had them, and what
//! was meant by one that never existed.
//!
//! An object of a kind that says nothing about connectivity is passed over. So is a
//! policy whose kind or version is misspelt, if nothing tells the two apart, and then
//! the pods that it was to isolate stay open. The agent and the commands read by this
//! one list.

use npc_compiler::policy::spelling::slips;

/// A kind that is read, and the groups and versions that ever served it; the first is
/// the one to write.
struct Type {
    kind: &'static str,
    served: &'static [(&'static str, &'static [&'static str])],
}

const TYPES: [Type; 12] = [
    Type { kind: "Namespace", served: &[("", &["v1"])] },
    Type { kind: "Pod", served: &[("", &["v1"])] },
    Type { kind: "Node", served: &[("", &["v1"])] },
    Type { kind: "Service", served: &[("", &["v1"])] },
    Type { kind: "ReplicationController", served: &[("", &["v1"])] },
    Type { kind: "NetworkPolicy", served: &[("networking.k8s.io", &["v1"]), ("extensions", &["v1beta1"])] },
    Type { kind: "Deployment", served: &[("apps", &["v1", "v1beta1", "v1beta2"]), ("extensions", &["v1beta1"])] },
    Type { kind: "DaemonSet", served: &[("apps", &["v1", "v1beta2"]), ("extensions", &["v1beta1"])] },
    Type { kind: "ReplicaSet", served: &[("apps", &["v1", "v1beta2"]), ("extensions", &["v1beta1"])] },
    Type { kind: "StatefulSet", served: &[("apps", &["v1", "v1beta1", "v1beta2"])] },
    Type { kind: "Job", served: &[("batch", &["v1"]), ("extensions", &["v1beta1"])] },
    Type { kind: "CronJob", served: &[("batch", &["v1", "v1beta1", "v2alpha1"])] },
];

/// Kinds of Kubernetes that are not read, as far as they are so short that they look
/// like one that is.
const OTHERS: [&str; 12] = [
    "APIService",
    "Binding",
    "CSINode",
    "Endpoints",
    "Event",
    "Ingress",
    "Lease",
    "List",
    "PodTemplate",
    "Role",
    "Scale",
    "Secret",
];

/// The kind of this name, if it is one that is read.
pub(super) fn kind_that_is_read(kind: &str) -> Option<&'static str> {
    TYPES.iter().map(|read| read.kind).find(|read| *read == kind)
}

/// How many letters may be added, removed, changed or swapped with their neighbour in a
/// name that is taken for another.
const SLIPS: usize = 2;

/// What is wrong with a type that never existed.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Misspelt {
    /// `apiVersion` or `kind`.
    pub(super) path: &'static str,
    pub(super) message: String,
    pub(super) help: String,
}

/// What is wrong with a type, if it never existed and looks like one that is read.
pub(super) fn misspelt(api_version: &str, kind: &str) -> Option<Misspelt> {
    let (group, version) = api_version.split_once('/').unwrap_or(("", api_version));
    if let Some(read) = TYPES.iter().find(|read| read.kind == kind) {
        let existed = read.served.iter().any(|(of, versions)| *of == group && versions.contains(&version));
        if existed || !is_of_kubernetes(group, read) {
            return None;
        }
        let message = format!("apiVersion {api_version} never had a {kind}");
        let help = format!("write apiVersion: {}", read.api_version());
        return Some(Misspelt { path: "apiVersion", message, help });
    }
    if OTHERS.contains(&kind) {
        return None;
    }
    let near = TYPES.iter().map(|read| (slips(kind, read.kind), read)).filter(|(slips, _)| *slips <= SLIPS);
    let (_, read) = near.filter(|(_, read)| is_of_kubernetes(group, read)).min_by_key(|(slips, _)| *slips)?;
    let help = format!("did you mean kind: {}, apiVersion: {}?", read.kind, read.api_version());
    Some(Misspelt { path: "kind", message: format!("Kubernetes has no kind {kind:?}"), help })
}

impl Type {
    /// The version to write.
    fn api_version(&self) -> String {
        match self.served {
            [("", [version, ..]), ..] => (*version).to_owned(),
            [(group, [version, ..]), ..] => format!("{group}/{version}"),
            _ => String::new(),
        }
    }
}

/// Whether a group can only be Kubernetes' own, or looks like one that served a type. A
/// group of another project has a dot (CustomResourceDefinitions need one), and not
/// Kubernetes' domain.
fn is_of_kubernetes(group: &str, read: &Type) -> bool {
    !group.contains('.')
        || group.ends_with(".k8s.io")
        || read.served.iter().any(|(of, _)| !of.is_empty() && slips(group, of) <= SLIPS)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_never_existed_is_an_error_with_the_right_spelling() {
        for (api_version, kind, path, meant) in [
            ("networking.k8s.io/v1", "NetworkPolicyy", "kind", "kind: NetworkPolicy, apiVersion: networking.k8s.io/v1"),
            ("networking.k8s.io/v1", "Networkpolicy", "kind", "kind: NetworkPolicy"),
            ("networking.k8s.io/v1", "NetworkPolciy", "kind", "kind: NetworkPolicy"),
            ("networking.k8s.io/v1", "NetworkPolicies", "kind", ""),
            ("v1", "pod", "kind", "kind: Pod, apiVersion: v1"),
            ("apps/v1", "Deploymnet", "kind", "kind: Deployment, apiVersion: apps/v1"),
            ("app/v1", "Deploymet", "kind", "kind: Deployment, apiVersion: apps/v1"),
            ("networking/v1", "NetworkPolicy", "apiVersion", "networking.k8s.io/v1"),
            ("v1", "NetworkPolicy", "apiVersion", "networking.k8s.io/v1"),
            ("networking.k8s.io/v1beta1", "NetworkPolicy", "apiVersion", "networking.k8s.io/v1"),
            ("networking.k8s.oi/v1", "NetworkPolicy", "apiVersion", "networking.k8s.io/v1"),
            ("extensions/v1", "NetworkPolicy", "apiVersion", "networking.k8s.io/v1"),
            ("v1", "Deployment", "apiVersion", "apps/v1"),
            ("apps/v2", "Deployment", "apiVersion", "apps/v1"),
            ("core/v1", "Pod", "apiVersion", "v1"),
            ("v1beta1", "Pod", "apiVersion", "v1"),
            ("apps/v1", "CronJob", "apiVersion", "batch/v1"),
        ] {
            let wrong = misspelt(api_version, kind);
            if meant.is_empty() {
                assert_eq!(wrong, None, "three slips are too many");
                continue;
            }
            let wrong = wrong.unwrap_or_else(|| panic!("{api_version} {kind} is passed over"));
            assert_eq!(wrong.path, path, "{api_version} {kind}");
            assert!(wrong.help.contains(meant), "{api_version} {kind}: {}", wrong.help);
        }
    }

    #[test]
    fn what_is_legitimate_is_passed_over_or_read_in_silence() {
        for (api_version, kind) in [
            ("networking.k8s.io/v1", "NetworkPolicy"),
            ("extensions/v1beta1", "NetworkPolicy"),
            ("extensions/v1beta1", "Deployment"),
            ("apps/v1beta2", "DaemonSet"),
            ("batch/v1beta1", "CronJob"),
            ("networking.k8s.io/v1", "Ingress"),
            ("extensions/v1beta1", "Ingress"),
            ("apps/v1", "ControllerRevision"),
            ("rbac.authorization.k8s.io/v1", "Role"),
            ("v1", "ConfigMap"),
            ("v1", "ServiceAccount"),
            ("v1", "PodTemplate"),
            ("policy/v1", "PodDisruptionBudget"),
            ("policy.networking.k8s.io/v1alpha2", "ClusterNetworkPolicy"),
            ("policy.networking.k8s.io/v1alpha1", "AdminNetworkPolicy"),
            ("storage.k8s.io/v1", "CSINode"),
            ("metrics.k8s.io/v1beta1", "PodMetrics"),
            ("crd.projectcalico.org/v1", "NetworkPolicy"),
            ("projectcalico.org/v3", "NetworkPolicy"),
            ("serving.knative.dev/v1", "Service"),
            ("cilium.io/v2", "CiliumNetworkPolicy"),
            ("example.com/v1", "Pods"),
            ("kustomize.config.k8s.io/v1beta1", "Kustomization"),
        ] {
            assert_eq!(misspelt(api_version, kind), None, "{api_version} {kind}");
        }
    }
}
