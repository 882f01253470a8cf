//! Groups: endpoints to which exactly the same policies apply in one
//! direction, and what those policies together admit.
//!
//! The policies of a group are melted into one map from an [`Atom`] (the ends
//! that a peer means) to what these may send or get. Verdicts and rules both
//! come from this map. It is made of definitions only: that a selector selects
//! no pod today changes nothing in it.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

use indexmap::IndexSet;
use rustc_hash::FxHashMap;

use crate::algebra::cidr;
use crate::algebra::traffic::{PortSet, TUNNEL_PORTS, Traffic};
use crate::cluster::melt::{Admission, Collected, melt};
use crate::cluster::open_groups::OpenGroups;
use crate::cluster::over_bound::OverBound;
use crate::cluster::{ClassId, Cluster, PodId, PolicyId};
use crate::object::{ContainerPort, Family, Protocol};
use crate::policy::{Block, Direction, Peer, Peers, PodPeer, Policy, PolicyRule, Ports};

/// One peer of a rule: the ends that it means.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Atom {
    /// Everyone, inside and outside the cluster.
    Everyone,
    /// Pods by labels.
    Pods(PodPeer),
    /// Addresses.
    Block(Block),
}

/// What an atom may send or get.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Admitted {
    /// By protocol and number.
    pub traffic: Traffic,
    /// By names that the destination resolves; for egress only, because for
    /// ingress the destination is the group.
    pub named: BTreeSet<(Protocol, String)>,
    /// The [`TUNNEL_PORTS`] that a rule names by number: by a port, or by a
    /// range of ports that is not all of them.
    pub tunnels: PortSet,
    /// The TCP ports that a rule names by number: by a range of at most
    /// [`NAMED_RANGE`] ports. What such a rule admits goes to a server there,
    /// also in the middle of a connection.
    ///
    /// [`NAMED_RANGE`]: crate::algebra::traffic::NAMED_RANGE
    pub named_tcp: PortSet,
}

/// A named port and the numbers it has on a pod.
pub type Resolution = BTreeMap<(Protocol, String), BTreeSet<u16>>;

/// What makes a group: equal keys, equal treatment.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct GroupKey {
    /// The direction.
    pub direction: Direction,
    /// The policies that apply, sorted; at least one.
    pub policies: Vec<PolicyId>,
    /// The named ports of their ingress rules, as these endpoints resolve them.
    pub resolution: Resolution,
}

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

/// A group, by its place in [`Groups`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct GroupId(pub(crate) u32);

/// The other end of a flow, as the rules of a group see it.
#[derive(Debug, Clone, Copy)]
pub struct OtherEnd<'a> {
    /// The classes of the endpoints that hold its address: one; none if it is
    /// no endpoint; several where no object says which of them has it, and then
    /// a peer means it only if it means all of them.
    pub classes: &'a [ClassId],
    /// Its address in the family in question, if it has one yet.
    pub address: Option<IpAddr>,
    /// The container ports of these endpoints, that all of them have.
    pub ports: &'a [ContainerPort],
}

/// The groups of some endpoints.
#[derive(Debug)]
pub struct Groups {
    list: Vec<Group>,
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
                let id = GroupId(u32::try_from(place).unwrap_or(u32::MAX));
                of[direction as usize].insert(pod, id);
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
        let list = keys.into_iter().map(|key| Group::new(cluster, key)).collect();
        Self { list, certain, of, open }
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
        self.list.iter().enumerate().map(|(i, group)| (GroupId(u32::try_from(i).unwrap_or(u32::MAX)), group))
    }
}

impl Group {
    fn new(cluster: &Cluster, key: GroupKey) -> Self {
        let admitted = melt(rules(cluster, &key), key.direction, &key.resolution).admitted;
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

    /// What of [`Group::traffic`] is kept from this group's endpoints because
    /// it is a tunnel's and no rule names its port: UDP to [`TUNNEL_PORTS`],
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

impl Admitted {
    /// What a rule's ports admit, in a group that resolves names like this.
    pub(crate) fn of_ports(ports: &Ports, direction: Direction, resolution: &Resolution) -> Self {
        let mut admitted = Collected::default();
        admitted.add_ports(ports, direction, resolution);
        admitted.finish()
    }

    /// What is admitted to a destination with these container ports.
    #[must_use]
    pub fn traffic_to(&self, ports: &[ContainerPort]) -> Traffic {
        let named = ports.iter().filter(|port| self.named.contains(&(port.protocol, port.name.clone())));
        let named = Traffic::of_ranges(named.map(|port| (port.protocol, port.port, port.port)));
        self.traffic.union(&named)
    }

    /// The [`TUNNEL_PORTS`] that it admits and no rule names.
    #[must_use]
    pub fn unnamed_tunnel_ports(&self) -> PortSet {
        self.traffic.of(Protocol::Udp).intersection(&tunnel_ports()).difference(&self.tunnels)
    }

    /// The same without tunnels that no rule names.
    fn without_tunnels(&self) -> Self {
        let unnamed = self.unnamed_tunnel_ports();
        let unnamed = Traffic::of_ranges(unnamed.ranges().iter().map(|(first, last)| (Protocol::Udp, *first, *last)));
        Self { traffic: self.traffic.difference(&unnamed), ..self.clone() }
    }
}

/// [`TUNNEL_PORTS`] as a set.
pub(crate) fn tunnel_ports() -> PortSet {
    PortSet::from_ranges(TUNNEL_PORTS.map(|port| (port, port)))
}

impl Atom {
    /// Whether another end is meant for certain.
    #[must_use]
    pub fn holds(&self, cluster: &Cluster, other: OtherEnd<'_>) -> bool {
        match self {
            Self::Everyone => true,
            Self::Pods(peer) => {
                !other.classes.is_empty() && other.classes.iter().all(|class| cluster.selects(peer, *class))
            }
            Self::Block(block) => other.address.is_some_and(|address| {
                block.family == Family::of(&address) && block.addresses.contains(cidr::number(address))
            }),
        }
    }
}

/// The rules of a group's policies, each with its policy.
fn rules<'a>(cluster: &'a Cluster, key: &GroupKey) -> impl Iterator<Item = (&'a Policy, &'a PolicyRule)> {
    key.policies.iter().flat_map(|policy| {
        let policy = cluster.policy(*policy);
        policy.rules(key.direction).iter().map(move |rule| (policy, rule))
    })
}

/// The atoms of a rule's peers.
pub(crate) fn atoms(peers: &Peers) -> Vec<Atom> {
    match peers {
        Peers::Everyone => vec![Atom::Everyone],
        Peers::AnyOf(peers) => peers.iter().filter_map(atom).collect(),
    }
}

/// The ends that a peer means; none where it is not understood.
pub(crate) fn atom(peer: &Peer) -> Option<Atom> {
    match peer {
        Peer::Pods(peer) => Some(Atom::Pods(peer.clone())),
        Peer::Block(written) => Some(Atom::Block(written.block.clone())),
        Peer::Nothing => None,
    }
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

/// The names in rules that their subjects resolve.
pub(crate) fn names_to_resolve<'a>(
    rules: impl IntoIterator<Item = &'a PolicyRule>,
    direction: Direction,
) -> BTreeSet<(Protocol, String)> {
    if direction == Direction::Egress {
        return BTreeSet::new();
    }
    let names = rules.into_iter().flat_map(PolicyRule::named_ports);
    names.map(|(protocol, name)| (protocol, name.to_owned())).collect()
}

/// What names are on a pod with these ports.
pub(crate) fn resolve(names: &BTreeSet<(Protocol, String)>, ports: &[ContainerPort]) -> Resolution {
    let mut resolution = Resolution::new();
    for port in ports {
        let key = (port.protocol, port.name.clone());
        if names.contains(&key) {
            resolution.entry(key).or_default().insert(port.port);
        }
    }
    resolution
}
