//! What a ruleset depends on besides the cluster.

use crate::ruleset::names::seed::Seed;
use crate::ruleset::node::Match;
use crate::ruleset::state::KernelState;

/// How rules recognise a pod's traffic to itself, and an ICMP error about what was sent
/// to its sender.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[cfg_attr(not(feature = "internals"), non_exhaustive)]
pub enum SelfMatch {
    /// One `-m bpf` rule for every pod, and one for errors.
    #[default]
    Bpf,
    /// One rule for each isolated endpoint, for kernels without `xt_bpf`. Errors
    /// from pods' interfaces are dropped, since nothing shows what they quote.
    PerEndpoint,
}

/// What a ruleset depends on besides the cluster.
#[derive(Debug, Clone, Default)]
#[allow(clippy::struct_excessive_bools, reason = "each is a choice that stands by itself")]
pub struct RulesetOptions {
    /// How rules recognise a pod's traffic to itself.
    pub self_match: SelfMatch,
    /// What rules have to do without.
    pub lacks: MissingMatches,
    /// Whether flows that were established go on under policies that deny
    /// them. Otherwise their conntrack entries are deleted, and a TCP segment
    /// of an isolated endpoint that opens no connection and belongs to none is
    /// dropped unless a rule shows that it goes to a server: the kernel would
    /// take it for a connection and, where the server talks, turn the denied one
    /// around.
    pub keep_established: bool,
    /// Whether endpoints that are isolated for egress may send [`TUNNELS`]
    /// where a rule admits every protocol, and to [`TUNNEL_PORTS`] where one
    /// admits all of UDP.
    ///
    /// [`TUNNELS`]: crate::algebra::traffic::TUNNELS
    /// [`TUNNEL_PORTS`]: crate::algebra::traffic::TUNNEL_PORTS
    pub allow_tunnels: bool,
    /// Whether the chains of groups report the packets that they drop, by
    /// NFLOG.
    pub log_denied: bool,
    /// Whether what comes from a pod's interface with a source that is not the
    /// pod's is dropped. Which interfaces these are, and what may come from
    /// each, no object says: a ruleset has the set for it, empty.
    pub anti_spoof: bool,
    /// How many members the sets of a namespace's peers may have on a node.
    pub set_members: SetMembers,
    /// The secret by which groups stand in the dispatch tree; without one they stand by their
    /// names, as agents of earlier versions placed them.
    pub seed: Option<Seed>,
}

/// How many members the sets of a namespace's peers may have on a node, both families together.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SetMembers(pub u64);

impl Default for SetMembers {
    fn default() -> Self {
        Self(1_000_000)
    }
}

/// Matches that a kernel lacks and that rules do without. What holds then is
/// said with each.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct MissingMatches {
    /// `hl`: rules recognise neighbour discovery by its type and length alone, so
    /// routed packets of these types pass too.
    pub hop_limit: bool,
    /// `length`: neighbour discovery and ICMP errors may be of any length.
    pub length: bool,
    /// `devgroup`: an ICMP error from a pod's interface is one from anywhere, and
    /// so is a router's advertisement.
    pub device_group: bool,
}

impl MissingMatches {
    /// What the rules of a kernel that an agent wrote do without. Those for
    /// neighbour discovery, which are always there, use all of it.
    #[must_use]
    pub fn of_actual(actual: &KernelState) -> Self {
        let rules = || [&actual.v4, &actual.v6].into_iter().flat_map(|actual| actual.chains.values().flatten());
        let lacks = |is_one: fn(&Match) -> bool| !rules().flat_map(|rule| &rule.matches).any(is_one);
        Self {
            hop_limit: lacks(|one| matches!(one, Match::HopLimit255)),
            length: lacks(|one| matches!(one, Match::Length(..) | Match::NotLength(..))),
            device_group: lacks(|one| matches!(one, Match::FromPods | Match::NotFromPods)),
        }
    }
}
