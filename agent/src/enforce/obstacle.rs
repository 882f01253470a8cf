//! What keeps an agent from enforcing although the kernel takes its rules, in words: no
//! object names its node, or IPVS delivers Services past them.

use std::collections::BTreeSet;

use super::bridges::UnfilteredBridge;
use crate::words::near;

/// Why IPVS keeps policies from being enforced.
pub(super) const IPVS: &str = "kube-ipvs0 exists: IPVS delivers Services past the FORWARD chain, where policies are \
                               enforced, so traffic through Services is not filtered; run kube-proxy in its iptables \
                               or nftables mode";

/// Whether the objects know the node of this agent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) enum NodeName {
    /// They do, or the source does not know of nodes, or it has not sent everything yet.
    #[default]
    Known,
    /// They name other nodes only, and nothing was written yet. Nothing will be.
    Missing,
    /// They named it when something was written, and do not any more.
    Gone,
}

/// Why nothing is written under a name that no object has, where the objects name these
/// nodes.
pub(super) fn missing(node: &str, others: &BTreeSet<String>) -> String {
    let effect = "so no pod would be found to be here and nothing would be isolated; nothing is written to the kernel \
                  before there is one. Is --node right?";
    if others.is_empty() {
        return format!("no Node is named {node}, {effect}");
    }
    let known = near::listed(others.iter().map(String::as_str));
    let nearest = near::nearest(node, others.iter().map(String::as_str));
    let meant = nearest.map(|name| format!(" Did you mean {name}?")).unwrap_or_default();
    format!(
        "no Node is named {node} and no pod names it in spec.nodeName, {effect} The files name {known}.{meant} A node \
         without pods needs a Node object in the files"
    )
}

/// Why policies do nothing between pods behind this bridge.
pub(super) fn bridge(UnfilteredBridge { bridge, family, .. }: &UnfilteredBridge) -> String {
    format!(
        "pods that policies isolate reach each other over the bridge {bridge} past iptables ({family}): load \
         br_netfilter and set net.bridge.bridge-nf-call-iptables and -ip6tables to 1"
    )
}
