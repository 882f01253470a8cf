//! What keeps an agent from enforcing although the kernel takes its rules: no object names its node, IPVS
//! delivers Services past them, or frames of bridges pass by them.

use super::bridges::UnfilteredBridge;

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

/// Why policies do nothing between pods behind this bridge.
pub(super) fn bridge(UnfilteredBridge { bridge, family, .. }: &UnfilteredBridge) -> String {
    format!(
        "pods that policies isolate reach each other over the bridge {bridge} past iptables ({family}): load \
         br_netfilter and set net.bridge.bridge-nf-call-iptables and -ip6tables to 1"
    )
}
