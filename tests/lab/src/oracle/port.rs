//! The ports of a rule.

use k8s_openapi::api::networking::v1::NetworkPolicyPort;
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use npc_compiler::object::{Objects, Pod, Protocol};

use super::Payload;
use super::policy::Rule;

/// Whether a rule's ports admit a payload to a destination, which may be an
/// endpoint.
pub(super) fn admits(rule: &Rule<'_>, payload: Payload, destination: Option<&Pod>) -> bool {
    if rule.ports.is_empty() {
        return true;
    }
    let Payload::Port(protocol, port) = payload else { return false };
    rule.ports
        .iter()
        .enumerate()
        .any(|(index, entry)| !rule.port_is_misspelt(index) && entry_admits(entry, protocol, port, destination))
}

/// Whether a rule admits a payload and says so by a number or a name, not by
/// admitting all ports.
pub(super) fn names(rule: &Rule<'_>, payload: Payload, destination: Option<&Pod>) -> bool {
    let Payload::Port(protocol, port) = payload else { return false };
    rule.ports.iter().enumerate().any(|(index, entry)| {
        let is_all = match (&entry.port, entry.end_port) {
            (None, _) | (Some(IntOrString::Int(1)), Some(65535)) => true,
            (Some(_), _) => false,
        };
        !is_all && !rule.port_is_misspelt(index) && entry_admits(entry, protocol, port, destination)
    })
}

/// Whether a rule admits every port of TCP.
pub(super) fn admits_all_tcp(rule: &Rule<'_>) -> bool {
    let is_all = |entry: &NetworkPolicyPort| {
        let all = matches!((&entry.port, entry.end_port), (None, None) | (Some(IntOrString::Int(1)), Some(65535)));
        all && entry.protocol.as_deref().unwrap_or("TCP") == "TCP"
    };
    let mut entries = rule.ports.iter().enumerate();
    rule.ports.is_empty() || entries.any(|(index, entry)| !rule.port_is_misspelt(index) && is_all(entry))
}

/// Whether a rule admits a TCP port and says that a server listens there: by a
/// name, or by so few numbers that a client's own port is hardly one of them.
pub(super) fn names_a_server(rule: &Rule<'_>, port: u16, destination: Option<&Pod>) -> bool {
    rule.ports.iter().enumerate().any(|(index, entry)| {
        let names = match (&entry.port, entry.end_port) {
            (None, _) => false,
            (Some(IntOrString::String(_)), _) | (Some(IntOrString::Int(_)), None) => true,
            (Some(IntOrString::Int(first)), Some(last)) => last - first < 1024,
        };
        names && !rule.port_is_misspelt(index) && entry_admits(entry, Protocol::Tcp, port, destination)
    })
}

fn entry_admits(entry: &NetworkPolicyPort, protocol: Protocol, port: u16, destination: Option<&Pod>) -> bool {
    if entry.protocol.as_deref().unwrap_or("TCP") != protocol.as_str() {
        return false;
    }
    match (&entry.port, entry.end_port) {
        (None, None) => true,
        (Some(IntOrString::Int(number)), None) => (1..=65535).contains(number) && i32::from(port) == *number,
        (Some(IntOrString::Int(first)), Some(last)) => {
            *first >= 1 && last <= 65535 && (*first..=last).contains(&i32::from(port))
        }
        (Some(IntOrString::String(name)), None) => destination.is_some_and(|pod| {
            pod.ports.iter().any(|of_pod| of_pod.name == *name && of_pod.protocol == protocol && of_pod.port == port)
        }),
        // endPort needs a number to begin at.
        (None | Some(IntOrString::String(_)), Some(_)) => false,
    }
}

/// Every range of ports that some object mentions, valid or not.
pub(super) fn mentioned(objects: &Objects) -> Vec<(u16, u16)> {
    let mut ranges: Vec<(u16, u16)> =
        objects.pods.iter().flat_map(|pod| &pod.ports).map(|port| (port.port, port.port)).collect();
    for policy in &objects.policies {
        let Some(spec) = &policy.object.spec else { continue };
        let ingress = spec.ingress.iter().flatten().flat_map(|rule| rule.ports.iter().flatten());
        let egress = spec.egress.iter().flatten().flat_map(|rule| rule.ports.iter().flatten());
        for entry in ingress.chain(egress) {
            let Some(IntOrString::Int(first)) = entry.port else { continue };
            let in_range = |number: i32| u16::try_from(number.clamp(0, 65535)).unwrap_or(u16::MAX);
            ranges.push((in_range(first), in_range(entry.end_port.unwrap_or(first))));
        }
    }
    ranges
}
