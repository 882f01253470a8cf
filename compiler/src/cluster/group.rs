//! Groups: endpoints to which exactly the same policies apply in one
//! direction, and what those policies together admit.
//!
//! The policies of a group are merged into one map from an [`Atom`] (the ends
//! that a peer means) to what these may send or get. Verdicts and rules both
//! come from this map. It is made of definitions only: that a selector selects
//! no pod today changes nothing in it.

use std::collections::BTreeMap;
use std::sync::Arc;

use indexmap::IndexSet;
use rustc_hash::FxHashMap;

pub use super::admitted::{Admitted, Atom, OtherEnd, Resolution};
pub(crate) use super::admitted::{atom, atoms, names_to_resolve, resolve};
use super::group_key::named_ports;
pub use super::group_key::{GroupId, GroupKey};
use super::merge::{Admission, merge};
use super::open_groups::OpenGroups;
use super::over_bound::OverBound;
use super::selection::UnknownLabels;
use super::{Cluster, PodId, PolicyId};
use crate::algebra::traffic::Traffic;
use crate::object::Family;
use crate::policy::{Direction, Policy, PolicyRule};

/// A group without endpoints, that an [engine](crate::engine::Engine) keeps for
/// the next ones.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RetainedGroup {
    /// Its direction.
    pub direction: Direction,
    /// The namespace of its policies.
    pub namespace: String,
    /// Their names, sorted.
    pub policies: Vec<String>,
    /// How its endpoints resolved the named ports of their ingress rules.
    pub resolution: Resolution,
}

/// A group.
#[derive(Debug)]
pub struct Group {
    /// What makes it.
    pub key: GroupKey,
    /// What its policies admit. The atoms of the same rules share one value.
    pub admitted: BTreeMap<Atom, Arc<Admitted>>,
}

/// The groups of some endpoints.
#[derive(Debug)]
pub struct Groups {
    list: Vec<Arc<Group>>,
    /// How many of them, from the first, are groups of endpoints or were asked for. The
    /// others exist for [`OpenGroups`] alone.
    certain: usize,
    of: [FxHashMap<PodId, GroupId>; 2],
    open: [FxHashMap<PodId, OpenGroups>; 2],
}

impl Groups {
    /// The groups of all endpoints of a cluster.
    #[must_use]
    pub fn of_cluster(cluster: &Cluster) -> Self {
        Self::new(cluster, cluster.endpoints().map(|(id, _)| id))
    }

    /// The groups of these endpoints.
    #[must_use]
    pub fn new(cluster: &Cluster, endpoints: impl IntoIterator<Item = PodId>) -> Self {
        Self::with(cluster, endpoints, &[], cluster.over_bound())
    }

    /// The groups of some endpoints, and others without any, except those whose
    /// policies are gone. Policies that are over the bound admit nothing; the others are of its
    /// one node.
    #[must_use]
    pub(crate) fn with(
        cluster: &Cluster,
        endpoints: impl IntoIterator<Item = PodId>,
        others: &[RetainedGroup],
        over: &OverBound,
    ) -> Self {
        let others = keys_of(cluster, others)
            .into_iter()
            .map(|key| GroupKey { policies: over.on(cluster, over.only_node(), key.policies), ..key });
        let mut keys: IndexSet<GroupKey> = others.collect();
        let mut policies = FxHashMap::default();
        let mut of = [FxHashMap::default(), FxHashMap::default()];
        let mut open_pods = Vec::new();
        for pod in endpoints {
            let Some(class) = cluster.class_of(pod) else { continue };
            if cluster.is_open(class) {
                open_pods.push((pod, class));
            }
            for direction in Direction::ALL {
                let (policies, names) = policies.entry((class, direction)).or_insert_with(|| {
                    let policies = cluster.policies_of(class, direction);
                    let names = named_ports(cluster, &policies, direction);
                    (policies, names)
                });
                if policies.is_empty() {
                    continue;
                }
                // Which group a pod is in does not depend on the bound: only its rules do.
                let resolution = resolve(names, &cluster.pod(pod).ports);
                let policies = over.on(cluster, cluster.pod(pod).node.as_deref(), policies.clone());
                let key = GroupKey { direction, policies, resolution };
                let (place, _) = keys.insert_full(key);
                of[direction as usize].insert(pod, group_id(place));
            }
        }
        let certain = keys.len();
        let mut open = [FxHashMap::default(), FxHashMap::default()];
        for (pod, class) in open_pods {
            for direction in Direction::ALL {
                let of_certain = of[direction as usize].get(&pod).copied();
                if let Some(found) = OpenGroups::of(cluster, &mut keys, (pod, class), (direction, over), of_certain) {
                    open[direction as usize].insert(pod, found);
                }
            }
        }
        let list = keys.into_iter().map(|key| Arc::new(Group::new(cluster, key))).collect();
        Self { list, certain, of, open }
    }

    /// The groups of all endpoints of a cluster that differs from another one by its policies, made anew only in the
    /// namespaces of these. The same policies are over the bound in all other namespaces.
    #[must_use]
    pub(crate) fn of_changed(cluster: &Cluster, before: &Cluster, groups: &Self) -> Self {
        let is_open = groups.open.iter().any(|open| !open.is_empty());
        let Some(changed) = cluster.changed_policies(before).filter(|_| !is_open) else {
            return Self::of_cluster(cluster);
        };
        let is_kept = |group: &Group| {
            let first = group.key.policies.first().map(|id| cluster.policy(*id));
            first.is_none_or(|policy| !changed.contains(policy.namespace.as_str()))
        };
        let mut list = Vec::with_capacity(groups.list.len());
        let mut new_ids = Vec::with_capacity(groups.list.len());
        for group in &groups.list {
            new_ids.push(is_kept(group).then(|| {
                list.push(Arc::clone(group));
                group_id(list.len() - 1)
            }));
        }
        let pods = changed.iter().flat_map(|namespace| cluster.endpoints_in(namespace));
        let anew = Self::new(cluster, pods);
        let mut of = groups.of.each_ref().map(|of| {
            let kept = of.iter().filter_map(|(pod, id)| Some((*pod, new_ids[id.0 as usize]?)));
            kept.collect::<FxHashMap<PodId, GroupId>>()
        });
        for (of, anew) in of.iter_mut().zip(&anew.of) {
            of.extend(anew.iter().map(|(pod, id)| (*pod, group_id(list.len() + id.0 as usize))));
        }
        list.extend(anew.list);
        Self { certain: list.len(), list, of, open: [FxHashMap::default(), FxHashMap::default()] }
    }

    /// The groups that decide about an endpoint in a direction, where the input leaves it
    /// open which policies apply; [`Self::of`] is then what is certain.
    #[must_use]
    pub fn open(&self, pod: PodId, direction: Direction) -> Option<&OpenGroups> {
        self.open[direction as usize].get(&pod)
    }

    /// The group of an endpoint in a direction; `None` if no policy isolates it.
    #[must_use]
    pub fn of(&self, pod: PodId, direction: Direction) -> Option<GroupId> {
        self.of[direction as usize].get(&pod).copied()
    }

    /// A group.
    #[must_use]
    pub fn get(&self, id: GroupId) -> &Group {
        &self.list[id.0 as usize]
    }

    /// All groups but those of policies that only may apply.
    pub fn iter(&self) -> impl Iterator<Item = (GroupId, &Group)> {
        self.all().take(self.certain)
    }

    /// All groups.
    pub(crate) fn all(&self) -> impl Iterator<Item = (GroupId, &Group)> {
        self.list.iter().enumerate().map(|(place, group)| (group_id(place), &**group))
    }
}

fn group_id(place: usize) -> GroupId {
    GroupId(u32::try_from(place).unwrap_or(u32::MAX))
}

impl Group {
    fn new(cluster: &Cluster, key: GroupKey) -> Self {
        let admitted = merge(rules(cluster, &key), key.direction, &key.resolution).admitted;
        Self { key, admitted }
    }

    /// What its policies admit, with the rules that admit it.
    pub(crate) fn admission<'a>(&self, cluster: &'a Cluster) -> Admission<'a> {
        Admission::new(rules(cluster, &self.key), self.key.direction, &self.key.resolution)
    }

    /// What this group's endpoints may exchange with another end, in the
    /// group's direction.
    #[must_use]
    pub fn traffic(&self, cluster: &Cluster, other: OtherEnd<'_>) -> Traffic {
        let holding = self.admitted.iter().filter(|(atom, _)| atom.holds(cluster, other));
        let parts: Vec<Traffic> = holding.map(|(_, admitted)| admitted.traffic_to(other.ports)).collect();
        Traffic::union_of(&parts)
    }

    /// What they may exchange with another end at most, where the input does not say all of
    /// that end: the labels of its pods, or the address of a family that an end without one
    /// will have.
    #[must_use]
    pub fn possible_traffic(&self, cluster: &Cluster, other: OtherEnd<'_>, family: Option<Family>) -> Traffic {
        if other.is_unread && self.key.direction == Direction::Egress && cluster.has_unread_services() {
            // A node translates the address of a Service before policies are asked, so they match where it leads.
            return Traffic::all();
        }
        let mut all = Traffic::none();
        for (_, admitted) in self.admitted.iter().filter(|(atom, _)| atom.may_hold(cluster, other, family)) {
            // A pod that only a slice names, or none, may call any of its ports by the name.
            let is_nameless = other.is_unread
                || other.classes.iter().any(|class| cluster.class(*class).unknown == UnknownLabels::All);
            let names = admitted.named.iter().filter(|_| is_nameless);
            let (first, last) = Traffic::PORTS;
            let by_name = Traffic::of_ranges(names.map(|(protocol, _)| (*protocol, first, last)));
            all = all.union(&admitted.traffic_to(other.ports)).union(&by_name);
        }
        all
    }

    /// What of [`Group::traffic`] is kept from this group's endpoints because
    /// it is a tunnel's and no rule names its port: UDP to [`TUNNEL_PORTS`](crate::algebra::traffic::TUNNEL_PORTS),
    /// for egress. That is no verdict of a NetworkPolicy but an enforcer's
    /// caution, which `--allow-tunnels` takes away.
    #[must_use]
    pub fn dropped_tunnels(&self, cluster: &Cluster, other: OtherEnd<'_>) -> Traffic {
        if self.key.direction == Direction::Ingress {
            return Traffic::none();
        }
        let holding = self.admitted.iter().filter(|(atom, _)| atom.holds(cluster, other));
        let parts = holding.map(|(_, admitted)| {
            (admitted.traffic_to(other.ports), admitted.without_tunnels().traffic_to(other.ports))
        });
        let (all, rest): (Vec<Traffic>, Vec<Traffic>) = parts.unzip();
        Traffic::union_of(&all).difference(&Traffic::union_of(&rest))
    }

    /// Whether its policies admit tunnels that are kept from its endpoints, as in
    /// [`Group::dropped_tunnels`], or by an IP protocol of
    /// [`TUNNELS`](crate::algebra::traffic::TUNNELS).
    #[must_use]
    pub fn drops_tunnels(&self) -> bool {
        let named = self.admitted.get(&Atom::Everyone).map(|admitted| admitted.tunnels.clone()).unwrap_or_default();
        let is_kept = |admitted: &Admitted| {
            admitted.traffic.other || !admitted.unnamed_tunnel_ports().difference(&named).is_empty()
        };
        self.key.direction == Direction::Egress && self.admitted.values().any(|admitted| is_kept(admitted))
    }

    /// Whether names that the destination resolves play a part.
    #[must_use]
    pub fn has_named(&self) -> bool {
        self.admitted.values().any(|admitted| !admitted.named.is_empty())
    }
}

/// The rules of a group's policies, each with its policy.
fn rules<'a>(cluster: &'a Cluster, key: &GroupKey) -> impl Iterator<Item = (&'a Policy, &'a PolicyRule)> {
    key.policies.iter().flat_map(|policy| {
        let policy = cluster.policy(*policy);
        policy.rules(key.direction).iter().map(move |rule| (policy, rule))
    })
}

/// What groups are by name, in a cluster that may not have all their policies
/// any more.
fn keys_of(cluster: &Cluster, groups: &[RetainedGroup]) -> Vec<GroupKey> {
    if groups.is_empty() {
        return Vec::new();
    }
    let places: FxHashMap<_, _> =
        cluster.policies().map(|(id, policy)| ((policy.namespace.as_str(), policy.name.as_str()), id)).collect();
    let key = |group: &RetainedGroup| {
        let place = |name: &String| places.get(&(group.namespace.as_str(), name.as_str())).copied();
        let mut policies = group.policies.iter().map(place).collect::<Option<Vec<PolicyId>>>()?;
        policies.sort_unstable();
        Some(GroupKey { direction: group.direction, policies, resolution: group.resolution.clone() })
    };
    groups.iter().filter_map(key).collect()
}
