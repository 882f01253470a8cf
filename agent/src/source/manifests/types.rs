//! The types that are read, under each group and version that ever had them, and what
//! was meant by one that never existed.
//!
//! An object of a kind that says nothing about connectivity is passed over. So is a
//! policy whose kind or version is misspelt, if nothing distinguishes the two, and then
//! the pods that it was to isolate stay open. The agent and the commands read by this
//! one list.

use npc_compiler::policy::spelling::slips;

/// A kind that is read, and the groups and versions that ever served it; the first is
/// the one to write.
struct Type {
    kind: &'static str,
    served: &'static [(&'static str, &'static [&'static str])],
}

const TYPES: [Type; 14] = [
    Type { kind: "Namespace", served: &[("", &["v1"])] },
    Type { kind: "Pod", served: &[("", &["v1"])] },
    Type { kind: "Node", served: &[("", &["v1"])] },
    Type { kind: "Service", served: &[("", &["v1"])] },
    Type { kind: "EndpointSlice", served: &[("discovery.k8s.io", &["v1", "v1beta1", "v1alpha1"])] },
    Type { kind: "Endpoints", served: &[("", &["v1"])] },
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
const OTHERS: [&str; 11] =
    ["APIService", "Binding", "CSINode", "Event", "Ingress", "Lease", "List", "PodTemplate", "Role", "Scale", "Secret"];

/// The resources of these kinds by their short names, which `kubectl api-resources` lists and
/// which no manifest may have as its kind.
const SHORT_NAMES: [(&str, &str); 12] = [
    ("cj", "CronJob"),
    ("deploy", "Deployment"),
    ("ds", "DaemonSet"),
    ("ep", "Endpoints"),
    ("netpol", "NetworkPolicy"),
    ("np", "NetworkPolicy"),
    ("ns", "Namespace"),
    ("po", "Pod"),
    ("rc", "ReplicationController"),
    ("rs", "ReplicaSet"),
    ("sts", "StatefulSet"),
    ("svc", "Service"),
];

/// What a kind of the policies' own group has in its name, if it was meant as one.
const POLICY: &str = "polic";

/// The kind of this name, if it is one that is read.
pub(super) fn kind_that_is_read(kind: &str) -> Option<&'static str> {
    TYPES.iter().map(|read| read.kind).find(|read| *read == kind)
}

/// How many letters may be added, removed, changed or swapped with their neighbour in a
/// name that is taken for another.
const SLIPS: usize = 2;

/// The same of a name of so few letters: two others would be another word.
const fn slips_of_short(letters: usize) -> usize {
    match letters {
        0..=2 => 0,
        3..=5 => 1,
        _ => SLIPS,
    }
}

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
    let read = meant(group, kind)?;
    let help = format!("did you mean kind: {}, apiVersion: {}?", read.kind, read.api_version());
    Some(Misspelt { path: "kind", message: format!("Kubernetes has no kind {kind:?}"), help })
}

/// What is read and was meant by a kind that Kubernetes does not have.
fn meant(group: &str, kind: &str) -> Option<&'static Type> {
    let names = kind.to_ascii_lowercase();
    let distance = |read: &Type| {
        let is_other_name = SHORT_NAMES.contains(&(names.as_str(), read.kind)) || names == plural(read.kind);
        let is_policy = read.kind == "NetworkPolicy" && group == "networking.k8s.io" && names.contains(POLICY);
        if is_other_name || is_policy { 0 } else { slips(kind, read.kind) }
    };
    let near = TYPES.iter().map(|read| (distance(read), read));
    let near = near.filter(|(distance, read)| *distance <= slips_of_short(kind.len().min(read.kind.len())));
    near.filter(|(_, read)| is_of_kubernetes(group, read)).min_by_key(|(distance, _)| *distance).map(|(_, read)| read)
}

/// The resource of a kind, which `kubectl get` and roles name.
fn plural(kind: &str) -> String {
    let kind = kind.to_ascii_lowercase();
    match kind.strip_suffix('y') {
        Some(stem) => format!("{stem}ies"),
        None if kind.ends_with('s') => kind,
        None => format!("{kind}s"),
    }
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
            ("networking.k8s.io/v1", "NetworkPolicies", "kind", "kind: NetworkPolicy"),
            ("networking.k8s.io/v1", "NetPol", "kind", "kind: NetworkPolicy"),
            ("networking.k8s.io/v1", "NP", "kind", "kind: NetworkPolicy"),
            ("networking.k8s.io/v1", "Policy", "kind", "kind: NetworkPolicy"),
            ("networking.k8s.io/v1", "NetworkPolicySpec", "kind", "kind: NetworkPolicy"),
            ("v1", "networkpolicies", "kind", "kind: NetworkPolicy"),
            ("v1", "svc", "kind", "kind: Service"),
            ("apps/v1", "deploy", "kind", "kind: Deployment"),
            ("discovery.k8s.io/v1", "EndpointSlices", "kind", "kind: EndpointSlice"),
            ("v1", "EndpointSlice", "apiVersion", "discovery.k8s.io/v1"),
            ("v1", "Endpoint", "kind", "kind: Endpoints"),
            ("discovery.k8s.io/v1", "Endpoints", "apiVersion", "v1"),
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
            let wrong = misspelt(api_version, kind).unwrap_or_else(|| panic!("{api_version} {kind} is passed over"));
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
            ("networking.k8s.io/v1", "IngressClass"),
            ("networking.k8s.io/v1", "ServiceCIDR"),
            ("networking.k8s.io/v1alpha1", "ClusterTrustBundle"),
            ("networking.k8s.io/v1", "Gatekeeper"),
            ("discovery.k8s.io/v1beta1", "EndpointSlice"),
            ("gateway.networking.k8s.io/v1", "BackendTLSPolicy"),
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
            ("v1", "Foo"),
            ("v1", "Pig"),
            ("kustomize.config.k8s.io/v1beta1", "Kustomization"),
        ] {
            assert_eq!(misspelt(api_version, kind), None, "{api_version} {kind}");
        }
    }
}
