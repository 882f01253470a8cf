//! Groups where the input does not say everything: which policies may apply to an endpoint,
//! and what a group may exchange with an end of which not all is known.

use indexmap::IndexSet;

use super::group::{Atom, Group, GroupId, GroupKey, OtherEnd, named_ports, resolve};
use super::over_bound::OverBound;
use super::selection::{Selection, UnknownLabels};
use super::{ClassId, Cluster, PodId, PolicyId};
use crate::algebra::traffic::Traffic;
use crate::object::Family;
use crate::policy::Direction;

/// The groups that decide about an endpoint where the input does not say which policies
/// apply to it.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct OpenGroups {
    /// What all of these admit passes for certain; without any, everything does.
    pub least: Vec<GroupId>,
    /// Nothing passes for certain, whatever `least` says.
    pub is_nothing_certain: bool,
    /// What these do not admit together is denied for certain; without any, nothing is.
    pub most: Vec<GroupId>,
}

/// So many policies of which each may apply to an endpoint are weighed one by one; of more,
/// nothing passes for certain.
const WEIGHED: usize = 32;

impl OpenGroups {
    pub(super) fn of(
        cluster: &Cluster,
        keys: &mut IndexSet<GroupKey>,
        (pod, class): (PodId, ClassId),
        (direction, over): (Direction, &OverBound),
        of_certain: Option<GroupId>,
    ) -> Option<Self> {
        let possible = cluster.possible_policies_of(class, direction);
        let is_unread = cluster.has_unread_policies(&cluster.class(class).namespace);
        if possible.is_empty() && !is_unread && !cluster.pod(pod).only_in_slice {
            return None;
        }
        let mut certain = cluster.policies_of(class, direction);
        // What only a slice names may be in its node's network, and names ports of its own.
        let has_open_end =
            is_unread || (cluster.pod(pod).only_in_slice && !(certain.is_empty() && possible.is_empty()));
        let mut group = |policies: Vec<PolicyId>| {
            let names = named_ports(cluster, &policies, direction);
            let resolution = resolve(&names, &cluster.pod(pod).ports);
            let policies = over.on(cluster, cluster.pod(pod).node.as_deref(), policies);
            let (place, _) = keys.insert_full(GroupKey { direction, policies, resolution });
            GroupId(u32::try_from(place).unwrap_or(u32::MAX))
        };
        let mut open = Self { least: Vec::from_iter(of_certain), is_nothing_certain: false, most: Vec::new() };
        if certain.is_empty() {
            open.is_nothing_certain = is_unread || possible.len() > WEIGHED;
            if !open.is_nothing_certain {
                // Of policies that each may be the only one, what all admit is certain.
                open.least = possible.iter().map(|policy| group(vec![*policy])).collect();
            }
        } else if !has_open_end {
            certain.extend(possible);
            certain.sort_unstable();
            open.most = vec![group(certain)];
        }
        Some(open)
    }
}

impl Group {
    /// What they may exchange with another end at most, where the input does not say all of
    /// that end: the labels of its pods, or the address of a family that an end without one
    /// will have.
    #[must_use]
    pub fn possible_traffic(&self, cluster: &Cluster, other: OtherEnd<'_>, family: Option<Family>) -> Traffic {
        let mut all = Traffic::none();
        for (_, admitted) in self.admitted.iter().filter(|(atom, _)| atom.may_hold(cluster, other, family)) {
            // A pod that only a slice names may call any of its ports by the name.
            let is_nameless = other.classes.iter().any(|class| cluster.class(*class).unknown == UnknownLabels::All);
            let names = admitted.named.iter().filter(|_| is_nameless);
            let (first, last) = Traffic::PORTS;
            let by_name = Traffic::of_ranges(names.map(|(protocol, _)| (*protocol, first, last)));
            all = all.union(&admitted.traffic_to(other.ports)).union(&by_name);
        }
        all
    }
}

impl Atom {
    /// Whether another end may be meant. An end without an address will have one of this
    /// family, or of either.
    #[must_use]
    pub fn may_hold(&self, cluster: &Cluster, other: OtherEnd<'_>, family: Option<Family>) -> bool {
        match (self, other.address) {
            (Self::Pods(peer), _) => {
                let may_select = |class: &ClassId| cluster.selection(peer, *class) > Selection::No;
                !other.classes.is_empty() && other.classes.iter().all(may_select)
            }
            (Self::Block(block), None) => {
                family.is_none_or(|family| family == block.family) && cluster.may_hold_a_new_address(block)
            }
            (Self::Everyone | Self::Block(_), _) => self.holds(cluster, other),
        }
    }
}
