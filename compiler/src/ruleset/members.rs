//! The bounds on the members of the peer sets, and on the rules, of one namespace on one node.
//!
//! The kernel keeps each member of a set and each rule, so without a bound the owner of one namespace could
//! use up the memory of a node by policies that few bytes describe: a thousand, each with
//! ports of its own, that admit all pods. Or one with thousands of ports, that many groups have in chains
//! of their own. So the policies of a namespace may need only so many members of sets, and so many rules,
//! on a node ([`Bounds`](super::options::Bounds)).
//! Beyond that, policies are *over the bound* there: the largest first, and
//! of those that are equally large the ones with the last names. A policy is as large as the larger of
//! its shares of the two bounds. They isolate what they select, and allow nothing.
//!
//! Of rules, those count that admit something: by group and family, as many as its chain has. Each group
//! has a few others besides, which no policy can multiply.
//!
//! What is counted is an upper bound of what sets hold, so that it can be counted before a
//! set is made, and kept up to date without looking at one: each selector of a set counts the
//! addresses of the pods that it selects, in each family that the set is for; each prefix
//! counts one; a set of named ports counts all ports of the pods that it may mean. A set that
//! several groups share counts once. Each set counts for itself too, beyond the first
//! [`FREE_SETS`]: also an empty one takes memory, and a kernel has 65,535 of them. Nothing here
//! depends on the order of objects, or on other namespaces.

mod choice;
mod in_cluster;

pub(crate) use self::choice::{Demand, MadeChains, choose_over_bound};
pub(crate) use self::in_cluster::over_bound;
pub use self::in_cluster::{bounded, bounded_in};
use crate::cluster::group::Atom;
use crate::object::Family;
use crate::policy::finding::{Effect, Finding, FindingCode};
use crate::policy::{Direction, Peer, Peers, PodPeer, Policy, Ports};
use crate::ruleset::node::SetName;
use crate::ruleset::options::{Need, RulesetOptions};
use crate::ruleset::set_definition::{Definition, prefixes};

/// At most this many sets of a namespace on a node, of both families, count by their members only.
const FREE_SETS: u64 = 1_000;

/// How many members each other set counts besides. So with the default bound one namespace has
/// half of the sets that a kernel may have, at most.
const MEMBERS_OF_SET: u64 = 32;

/// How many ports one rule takes, if none of them joins another.
const PORTS_OF_RULE: usize = 15;

/// What so many sets count for themselves.
pub(crate) fn count_of_sets(sets: u64) -> u64 {
    sets.saturating_sub(FREE_SETS).saturating_mul(MEMBERS_OF_SET)
}

/// How many members some pods make, by family.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct MemberCount {
    /// By their addresses.
    pub(crate) addresses: [u64; 2],
    /// By their ports, if all are meant.
    pub(crate) ports: [u64; 2],
}

impl MemberCount {
    /// The size of one pod, from the families in which it has an address, and how many ports.
    pub(crate) fn of_pod(has_address: [bool; 2], ports: usize) -> Self {
        let ports = u64::try_from(ports).unwrap_or(u64::MAX);
        Self { addresses: has_address.map(u64::from), ports: has_address.map(|has| if has { ports } else { 0 }) }
    }

    fn with(self, other: Self, op: impl Fn(u64, u64) -> u64) -> Self {
        let both = |a: [u64; 2], b: [u64; 2]| [op(a[0], b[0]), op(a[1], b[1])];
        Self { addresses: both(self.addresses, other.addresses), ports: both(self.ports, other.ports) }
    }

    /// The size of both together.
    pub(crate) fn plus(self, other: Self) -> Self {
        self.with(other, u64::saturating_add)
    }

    /// The size without the other's.
    pub(crate) fn minus(self, other: Self) -> Self {
        self.with(other, u64::saturating_sub)
    }

    /// All members of both families.
    pub(crate) fn all(self) -> u64 {
        self.addresses.into_iter().chain(self.ports).fold(0, u64::saturating_add)
    }
}

/// What tells how many members peers make.
pub(crate) trait Sizes {
    /// The size of the pods that a peer selects.
    fn of_peer(&mut self, peer: &PodPeer) -> MemberCount;
    /// The size of all pods.
    fn of_all(&mut self) -> MemberCount;
    /// What a set counts that is in use, if that is known.
    fn of_set(&self, _set: &SetName) -> Option<u64> {
        None
    }
}

/// What a set counts in a family.
pub(crate) fn count(definition: &Definition, family: Family, sizes: &mut dyn Sizes) -> u64 {
    match definition {
        Definition::Peers { pods, addresses } => {
            let of_pods = pods.iter().map(|peer| sizes.of_peer(peer).addresses[family as usize]);
            of_pods.fold(count_of_prefixes(family, addresses), u64::saturating_add)
        }
        Definition::NamedPorts(entries) => {
            let mut total = 0_u64;
            let mut is_any = false;
            for atom in entries.keys() {
                match atom {
                    Atom::Pods(peer) => total = total.saturating_add(sizes.of_peer(peer).ports[family as usize]),
                    Atom::Everyone | Atom::Block(_) => is_any = true,
                }
            }
            if is_any { total.saturating_add(sizes.of_all().ports[family as usize]) } else { total }
        }
    }
}

/// What the prefixes of a set count.
pub(crate) fn count_of_prefixes(family: Family, addresses: &crate::algebra::cidr::AddressSet) -> u64 {
    if addresses.is_empty() { 0 } else { prefixes(family, addresses).len() as u64 }
}

/// What a policy's rules need in a direction, each rule for itself: the members that its peers make, with
/// one more for each rule that asks sets, and rules for its ports.
fn size_of(policy: &Policy, direction: Direction, sizes: &mut dyn Sizes) -> Need {
    let mut total = Need::default();
    for rule in policy.rules(direction) {
        let has_names = direction == Direction::Egress && rule.named_ports().next().is_some();
        let named = |size: MemberCount| if has_names { size.all() } else { size.addresses.iter().sum() };
        let of_rule = match &rule.peers {
            Peers::Everyone if has_names => sizes.of_all().ports.iter().sum(),
            Peers::Everyone => 0,
            Peers::AnyOf(peers) => {
                let of_peer = |peer: &Peer| match peer {
                    Peer::Pods(peer) => named(sizes.of_peer(peer)),
                    Peer::Block(block) => {
                        let of_all: u64 = if has_names { sizes.of_all().ports.iter().sum() } else { 0 };
                        of_all.saturating_add(count_of_prefixes(block.block.family, &block.block.addresses))
                    }
                    Peer::Nothing => 0,
                };
                peers.iter().map(of_peer).fold(0, u64::saturating_add)
            }
        };
        // A set is something, also if it is empty.
        let of_set = u64::from(has_names || !matches!(&rule.peers, Peers::Everyone));
        let matches = match &rule.ports {
            Ports::Everything => 1,
            Ports::AnyOf(ports) => ports.len().div_ceil(PORTS_OF_RULE),
        };
        let rules = u64::try_from(matches * Family::ALL.len()).unwrap_or(u64::MAX);
        total = total.plus(Need { members: of_rule.saturating_add(of_set), rules });
    }
    total
}

/// What is said of a policy over the bound to its owner. An agent says it of "a node", and no
/// number that pods change, so that the agents of all nodes make one Event of it.
pub(crate) fn finding(policy: &Policy, options: &RulesetOptions, place: &str) -> Finding {
    Finding {
        namespace: policy.namespace.clone(),
        name: policy.name.clone(),
        path: "spec".to_owned(),
        code: FindingCode::PolicyTooLarge,
        problem: format!(
            "the policies of this namespace need more than {} members of sets or {} rules on {place}, and the largest \
             are left out first; name fewer pods, blocks or ports in it, or in others",
            options.bounds.set_members, options.bounds.rules
        ),
        effect: Effect::RulesLeftOut,
        address: None,
    }
}
