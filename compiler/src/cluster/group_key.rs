//! What makes a group, and its number.

use std::collections::BTreeSet;

use super::admitted::{Resolution, names_to_resolve};
use super::{Cluster, PolicyId};
use crate::object::Protocol;
use crate::policy::Direction;

/// What makes a group: equal keys, equal treatment.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct GroupKey {
    /// The direction.
    pub direction: Direction,
    /// The policies that apply, in the order of their names; at least one. Where one is
    /// over the bound on set members, the id of the one without rules.
    pub policies: Vec<PolicyId>,
    /// The named ports of their ingress rules, as these endpoints resolve them.
    pub resolution: Resolution,
}

/// A group, by its place in [`Groups`](super::group::Groups).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct GroupId(pub(crate) u32);

/// The names in the ingress rules of policies; for egress none, because there
/// the other end resolves them.
pub(super) fn named_ports(
    cluster: &Cluster,
    policies: &[PolicyId],
    direction: Direction,
) -> BTreeSet<(Protocol, String)> {
    let rules = policies.iter().flat_map(|policy| cluster.policy(*policy).rules(direction));
    names_to_resolve(rules, direction)
}
