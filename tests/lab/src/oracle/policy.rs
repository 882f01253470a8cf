//! Which pods a policy isolates, and which peers its rules name.

use std::net::IpAddr;

use k8s_openapi::api::networking::v1::{IPBlock, NetworkPolicyPeer, NetworkPolicyPort};
use npc_compiler::object::{NetworkPolicy, Objects, Pod};

use super::cidr::Block;
use super::{selector, unknown};

/// The two directions, as seen by the pod that is isolated.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Direction {
    Ingress,
    Egress,
}

/// An ingress or an egress rule.
#[derive(Debug)]
pub(super) struct Rule<'a> {
    pub(super) policy: &'a NetworkPolicy,
    /// The policy's namespace.
    pub(super) namespace: &'a str,
    /// `spec.ingress[0]`
    path: String,
    /// `from` or `to`
    peers_field: &'static str,
    pub(super) peers: &'a [NetworkPolicyPeer],
    pub(super) ports: &'a [NetworkPolicyPort],
}

impl Rule<'_> {
    pub(super) fn peer_is_misspelt(&self, index: usize) -> bool {
        unknown::at_or_below(self.policy, || format!("{}.{}[{index}]", self.path, self.peers_field))
    }

    pub(super) fn port_is_misspelt(&self, index: usize) -> bool {
        unknown::at_or_below(self.policy, || format!("{}.ports[{index}]", self.path))
    }
}

/// Whether a policy selects a pod and has this type.
pub(super) fn isolates(policy: &NetworkPolicy, direction: Direction, pod: &Pod) -> bool {
    if pod.host_network || pod.finished || policy.namespace() != pod.namespace {
        return false;
    }
    let spec = policy.object.spec.as_ref();
    let selected = match spec.and_then(|spec| spec.pod_selector.as_ref()) {
        None => true,
        Some(pods) => selector::selects(pods, &pod.labels),
    };
    selected && has_type(policy, direction)
}

fn has_type(policy: &NetworkPolicy, direction: Direction) -> bool {
    let Some(spec) = &policy.object.spec else { return direction == Direction::Ingress };
    let types = spec.policy_types.as_deref().unwrap_or_default();
    if types.is_empty() {
        let has_egress_rules = spec.egress.as_ref().is_some_and(|rules| !rules.is_empty());
        return direction == Direction::Ingress || has_egress_rules;
    }
    let name = match direction {
        Direction::Ingress => "Ingress",
        Direction::Egress => "Egress",
    };
    // A type that is not known could have meant either.
    types.iter().any(|text| text == name || (text != "Ingress" && text != "Egress"))
}

/// The rules of a policy that can allow anything.
pub(super) fn rules(policy: &NetworkPolicy, direction: Direction) -> Vec<Rule<'_>> {
    let Some(spec) = &policy.object.spec else { return Vec::new() };
    let subject_understood = spec.pod_selector.as_ref().is_none_or(selector::is_valid)
        && !unknown::at_or_below(policy, || "spec.podSelector".to_owned());
    if !subject_understood {
        return Vec::new();
    }
    let rule = |section: &str, index: usize, peers_field, peers, ports| Rule {
        policy,
        namespace: policy.namespace(),
        path: format!("spec.{section}[{index}]"),
        peers_field,
        peers,
        ports,
    };
    let mut rules = Vec::new();
    match direction {
        Direction::Ingress => {
            for (index, written) in spec.ingress.iter().flatten().enumerate() {
                let peers = written.from.as_deref().unwrap_or_default();
                rules.push(rule("ingress", index, "from", peers, written.ports.as_deref().unwrap_or_default()));
            }
        }
        Direction::Egress => {
            for (index, written) in spec.egress.iter().flatten().enumerate() {
                let peers = written.to.as_deref().unwrap_or_default();
                rules.push(rule("egress", index, "to", peers, written.ports.as_deref().unwrap_or_default()));
            }
        }
    }
    rules.retain(|rule| {
        let lists = [(rule.peers_field, rule.peers.len()), ("ports", rule.ports.len())];
        !unknown::in_rule(policy, &rule.path, lists)
    });
    rules
}

/// Whether a peer of a policy in `namespace` matches an address, which may be
/// that of an endpoint.
pub(super) fn peer_admits(
    objects: &Objects,
    namespace: &str,
    peer: &NetworkPolicyPeer,
    address: IpAddr,
    pod: Option<&Pod>,
) -> bool {
    match (&peer.ip_block, &peer.namespace_selector, &peer.pod_selector) {
        (Some(block), None, None) => block_admits(block, address),
        (None, Some(namespaces), pods) => pod.is_some_and(|pod| {
            let of_pod = objects.namespaces.iter().find(|namespace| namespace.name == pod.namespace);
            of_pod.is_some_and(|namespace| selector::matches(namespaces, &namespace.labels))
                && pods.as_ref().is_none_or(|pods| selector::matches(pods, &pod.labels))
        }),
        (None, None, Some(pods)) => {
            pod.is_some_and(|pod| pod.namespace == namespace && selector::matches(pods, &pod.labels))
        }
        // Nothing at all, or an ipBlock together with a selector.
        _ => false,
    }
}

fn block_admits(block: &IPBlock, address: IpAddr) -> bool {
    let Some(cidr) = Block::parse(&block.cidr) else { return false };
    let mut admits = cidr.contains(address);
    for text in block.except.iter().flatten() {
        // An exception that cannot be read must not become a hole.
        let Some(except) = Block::parse(text) else { return false };
        admits = admits && !except.contains(address);
    }
    admits
}
