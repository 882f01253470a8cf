//! What stands for a pod while its event waits: an endpoint that the policies of its namespace isolate and
//! admit nothing to or from, and that no peer of a rule means.
//!
//! It is of a namespace of its own, with one policy for each direction, whose podSelector selects it by a
//! label of that direction; so to all else it is a pod as others are. No other selector selects it: a
//! policy's podSelector and a peer without namespaceSelector mean pods of their own namespace, and a
//! namespaceSelector, even an empty one, selects no namespace that no Namespace object declares.

use std::net::IpAddr;

use k8s_openapi::api::networking::v1 as networking;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{LabelSelector, LabelSelectorRequirement, ObjectMeta};

use crate::object::{Labels, NetworkPolicy, Pod};
use crate::policy::Direction;

/// The namespace of placeholders for pods of a namespace begins so; it is none of the cluster's
/// ([`OWN_NAMESPACES`](crate::object::OWN_NAMESPACES)).
const NAMESPACE: &str = "npc.dev/waiting/";

/// What stands behind a zero byte is no part of a UID.
const MARK: &str = "\0waiting";

/// The namespace of what stands for pods of a namespace.
pub(super) fn namespace_for(namespace: &str) -> String {
    format!("{NAMESPACE}{namespace}")
}

/// The namespace and UID of the pod that this is or stands for.
pub(super) fn without_mark(namespace: &str, mut uid: String) -> (&str, String) {
    if let Some(namespace) = namespace.strip_prefix(NAMESPACE) {
        if let Some(length) = uid.strip_suffix(MARK).map(str::len) {
            uid.truncate(length);
        }
        return (namespace, uid);
    }
    (namespace, uid)
}

/// What stands for a pod under these addresses, isolated in these directions.
pub(super) fn placeholder(pod: &Pod, addresses: &[IpAddr], isolated: [bool; 2]) -> Pod {
    let isolated = Direction::ALL.into_iter().filter(|direction| isolated[*direction as usize]);
    let labels: Labels = isolated.map(|direction| (direction.as_str().to_owned(), String::new())).collect();
    let spec = k8s_openapi::api::core::v1::PodSpec::default();
    let mut placeholder = Pod::from_template(namespace_for(&pod.namespace), pod.name.clone(), labels, spec);
    if !pod.uid.is_empty() {
        placeholder.uid = format!("{}{MARK}", pod.uid);
    }
    for address in addresses {
        match address {
            IpAddr::V4(address) => placeholder.ipv4 = Some(*address),
            IpAddr::V6(address) => placeholder.ipv6 = Some(*address),
        }
    }
    // By these it is decided which of several pods has an address.
    placeholder.node.clone_from(&pod.node);
    (placeholder.started, placeholder.terminating) = (pod.started, pod.terminating);
    placeholder
}

/// The policies of [`namespace_for`], by which placeholders are isolated.
pub(super) fn policies(namespace: &str) -> [NetworkPolicy; 2] {
    [(Direction::Ingress, "Ingress"), (Direction::Egress, "Egress")].map(|(direction, of_type)| {
        let key = direction.as_str().to_owned();
        let requirement = LabelSelectorRequirement { key, operator: "Exists".to_owned(), values: None };
        let selector = LabelSelector { match_expressions: Some(vec![requirement]), match_labels: None };
        NetworkPolicy::from(networking::NetworkPolicy {
            metadata: ObjectMeta {
                name: Some(direction.section().to_owned()),
                namespace: Some(namespace_for(namespace)),
                ..ObjectMeta::default()
            },
            spec: Some(networking::NetworkPolicySpec {
                pod_selector: Some(selector),
                policy_types: Some(vec![of_type.to_owned()]),
                ..networking::NetworkPolicySpec::default()
            }),
        })
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::key::PodKey;
    use crate::policy::Policy;

    #[test]
    fn a_placeholder_is_known_by_its_pods_names_and_isolated_as_it_says() {
        let spec = k8s_openapi::api::core::v1::PodSpec::default;
        for uid in ["", "a-uid", "00000000-0000-4000-8000-000000000001"] {
            let pod = Pod::from_template("shop".to_owned(), "web".to_owned(), Labels::new(), spec());
            let pod = Pod { uid: uid.to_owned(), ..pod };
            let address = IpAddr::from([10, 0, 0, 1]);
            let placeholder = placeholder(&pod, &[address], [true, false]);
            assert_ne!(PodKey::of(&placeholder), PodKey::of(&pod));
            let key = PodKey::of(&placeholder).uid();
            assert_eq!(without_mark(&placeholder.namespace, key), ("shop", uid.to_owned()));
            let policies = policies("shop").map(|policy| Policy::read(&policy));
            for (direction, (policy, findings)) in Direction::ALL.into_iter().zip(policies) {
                assert_eq!((findings.len(), policy.namespace.as_str()), (0, placeholder.namespace.as_str()));
                let isolates = policy.subject.matches(&placeholder.labels);
                assert_eq!(isolates, direction == Direction::Ingress);
                assert_eq!(
                    Direction::ALL.map(|other| policy.isolates(other)),
                    Direction::ALL.map(|it| it == direction)
                );
            }
        }
        assert_eq!(without_mark("shop", "uid".to_owned()), ("shop", "uid".to_owned()));
    }
}
