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
    /// What the policies of one namespace may need on a node.
    pub bounds: Bounds,
    /// The secret by which groups stand in the dispatch tree; without one they stand by their
    /// names, as agents of earlier versions placed them.
    pub seed: Option<Seed>,
}

/// What the policies of one namespace may need on a node, both families together.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Bounds {
    /// How many members the sets of its peers may have.
    pub set_members: u64,
    /// How many rules that admit something its groups may have.
    pub rules: u64,
}

impl Default for Bounds {
    fn default() -> Self {
        Self { set_members: 1_000_000, rules: 30_000 }
    }
}

impl Bounds {
    /// So many members of sets, and otherwise the default.
    #[must_use]
    pub fn of_members(set_members: u64) -> Self {
        Self { set_members, ..Self::default() }
    }

    /// So many rules, and otherwise the default.
    #[must_use]
    pub fn of_rules(rules: u64) -> Self {
        Self { rules, ..Self::default() }
    }

    /// Whether this need is within both bounds.
    pub(crate) fn admit(&self, need: Need) -> bool {
        need.members <= self.set_members && need.rules <= self.rules
    }

    /// The larger of the shares that this need has of the two bounds. So needs of rules and of members
    /// can be compared. It is over [`WHOLE_SHARE`] if the need is over a bound, and 0 if nothing is needed.
    pub(crate) fn share(&self, need: Need) -> u64 {
        let of = |need: u64, bound: u64| {
            if bound == 0 && need > 0 {
                return u64::MAX;
            }
            let share = (u128::from(need) * u128::from(WHOLE_SHARE)).div_ceil(u128::from(bound.max(1)));
            u64::try_from(share).unwrap_or(u64::MAX)
        };
        of(need.members, self.set_members).max(of(need.rules, self.rules))
    }
}

/// The share of a need that is just within a bound.
pub(crate) const WHOLE_SHARE: u64 = 1 << 32;

/// What policies need on a node.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Need {
    /// The members of sets, and what sets count for themselves.
    pub(crate) members: u64,
    /// The rules of group chains that admit something.
    pub(crate) rules: u64,
}

impl Need {
    /// Both together.
    pub(crate) fn plus(self, other: Self) -> Self {
        Self { members: self.members.saturating_add(other.members), rules: self.rules.saturating_add(other.rules) }
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
