//! Groups where the input does not say everything: which policies may apply to an endpoint.

use indexmap::IndexSet;

use super::admitted::resolve;
use super::group_key::{GroupId, GroupKey, named_ports};
use super::over_bound::OverBound;
use super::{ClassId, Cluster, PodId, PolicyId};
use crate::policy::Direction;

/// The groups that decide about an endpoint where the input does not say which policies
/// apply to it.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct OpenGroups {
    /// What all of these admit passes for certain; without any, everything does.
    pub least: Vec<GroupId>,
    /// Nothing passes for certain; `least` does not count.
    pub is_nothing_certain: bool,
    /// What these do not admit together is denied for certain; without any, nothing is.
    pub most: Vec<GroupId>,
}

/// The most policies that are weighed one by one if it is not certain that they apply to an
/// endpoint. With more, nothing passes for certain.
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
        let is_unread = cluster.has_unread_policies_of(cluster.class(class));
        if possible.is_empty() && !is_unread && !cluster.pod(pod).only_in_slice {
            return None;
        }
        let mut certain = cluster.policies_of(class, direction);
        // What only a slice names may be a hostNetwork pod, and names ports of its own.
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
        let all = certain.len();
        certain.retain(|policy| !cluster.is_patched(cluster.policy(*policy)));
        if certain.len() < all {
            // Nothing is certain about a policy that a patch changes.
            open.least = if certain.is_empty() { Vec::new() } else { vec![group(certain.clone())] };
        }
        if certain.is_empty() {
            open.is_nothing_certain = is_unread || possible.len() > WEIGHED;
            if !open.is_nothing_certain {
                // If each of several policies may be the only one, what all of them admit is certain.
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
