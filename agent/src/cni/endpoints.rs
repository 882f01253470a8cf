//! The pods that the engine is given: objects with the addresses that CNI reports, and
//! endpoints without a known object.

use std::net::IpAddr;

use k8s_openapi::api::networking::v1 as networking;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use npc_compiler::engine::PodKey;
use npc_compiler::object::{Labels, NetworkPolicy, Pod};

use super::sandbox::mark;

/// The namespace of endpoints without an object, which is none of the cluster's
/// ([`OWN_NAMESPACES`](npc_compiler::object::OWN_NAMESPACES)).
pub(super) const UNIDENTIFIED: &str = "npc.dev/unidentified";

/// The policy of that namespace.
const DENY_ALL: &str = "deny-all";

/// The keys of some pods.
pub(super) fn keys(pods: &[Pod]) -> Vec<PodKey> {
    pods.iter().map(PodKey::of).collect()
}

/// Whether these pods, which [`with_addresses`] made, are those that it makes of these addresses.
pub(super) fn has_addresses(pods: &[Pod], addresses: &[IpAddr]) -> bool {
    let mut v4 = addresses.iter().filter(|address| address.is_ipv4()).copied();
    let mut v6 = addresses.iter().filter(|address| address.is_ipv6()).copied();
    let has = |pod: &Pod| pod.ipv4.map(IpAddr::V4) == v4.next() && pod.ipv6.map(IpAddr::V6) == v6.next();
    pods.iter().all(has) && v4.next().is_none() && v6.next().is_none()
}

/// A pod with these addresses and no others: an endpoint has one of each family, so
/// more of them are more endpoints, which differ in nothing else.
pub(super) fn with_addresses(pod: &Pod, addresses: &[IpAddr]) -> Vec<Pod> {
    let (mut v4, mut v6) = (Vec::new(), Vec::new());
    for address in addresses {
        match address {
            IpAddr::V4(address) => v4.push(*address),
            IpAddr::V6(address) => v6.push(*address),
        }
    }
    let count = v4.len().max(v6.len()).max(1);
    let one = |place: usize| {
        // What stands behind a zero byte is no part of a UID for any message.
        let uid = if place == 0 { pod.uid.clone() } else { format!("{}\0cni{place}", mark(pod)) };
        Pod { uid, ipv4: v4.get(place).copied(), ipv6: v6.get(place).copied(), ..pod.clone() }
    };
    (0..count).map(one).collect()
}

/// The UID of an endpoint without a known object.
fn unidentified_uid(address: IpAddr) -> String {
    format!("{UNIDENTIFIED}/{address}")
}

pub(super) fn key_of_unidentified(address: IpAddr) -> PodKey {
    PodKey::from_parts(&unidentified_uid(address), UNIDENTIFIED, &address.to_string())
}

/// An endpoint without a known object.
pub(super) fn unidentified_pod(node: &str, address: IpAddr) -> Pod {
    let name = address.to_string();
    let spec = k8s_openapi::api::core::v1::PodSpec::default();
    let mut pod = Pod::from_template(UNIDENTIFIED.to_owned(), name, Labels::new(), spec);
    pod.uid = unidentified_uid(address);
    pod.node = Some(node.to_owned());
    match address {
        IpAddr::V4(address) => pod.ipv4 = Some(address),
        IpAddr::V6(address) => pod.ipv6 = Some(address),
    }
    pod
}

/// Isolates all pods of its namespace in both directions, and admits nothing.
pub(super) fn deny_all() -> NetworkPolicy {
    NetworkPolicy::from(networking::NetworkPolicy {
        metadata: ObjectMeta {
            name: Some(DENY_ALL.to_owned()),
            namespace: Some(UNIDENTIFIED.to_owned()),
            ..ObjectMeta::default()
        },
        spec: Some(networking::NetworkPolicySpec {
            policy_types: Some(vec!["Ingress".to_owned(), "Egress".to_owned()]),
            ..networking::NetworkPolicySpec::default()
        }),
    })
}
