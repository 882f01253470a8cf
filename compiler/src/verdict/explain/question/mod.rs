//! One question: may this traffic pass from one end to another?
//!
//! What the input does not say is not guessed: traffic has a *least*, which is
//! allowed for certain, and a *most*, beyond which it is denied for certain;
//! what lies between is unknown.

pub(super) mod judged_pairs;
pub(super) mod name;
pub(super) mod party;
pub(super) mod would_admit;

use std::collections::BTreeSet;
use std::net::IpAddr;

use crate::algebra::traffic::Traffic;
use crate::cluster::group::{Atom, Group, GroupId, Groups};
use crate::cluster::selection::Selection;
use crate::cluster::unread::{Unread, WhyUnread};
use crate::cluster::without_backend::WhyUnknown;
use crate::cluster::{ClassId, Cluster};
use crate::object::{Family, Protocol};
use crate::policy::Direction;
use crate::verdict::bounds::Bounds;
use crate::verdict::flow::{End, Exemption, exemption, may_be_local, may_be_own_node};
use party::Party;

/// A question: may this pass from one end to another?
#[derive(Debug, Clone)]
pub struct Question {
    /// The source.
    pub from: Party,
    /// The destination.
    pub to: Party,
    /// The family; none where neither end has an address.
    pub family: Option<Family>,
    /// What is asked about.
    pub traffic: Traffic,
    /// The port of the Service that the client asks for. Policies match the backend's port in its
    /// place.
    pub service_port: Option<(Protocol, u16)>,
    /// The addresses of the Service by which the client asks. No policy matches them.
    pub service_addresses: Vec<IpAddr>,
    /// The ends are two replicas of one pod template, which stands for both.
    pub replicas: bool,
    /// Whether the ends are on one node.
    pub nodes: OnNodes,
}

/// Whether the ends of a question are on one node. Between a pod and its own node no policy applies.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[cfg_attr(not(feature = "internals"), non_exhaustive)]
pub enum OnNodes {
    /// As the objects of the input say, and where they do not say it, that is not known.
    #[default]
    AsObjectsSay,
    /// One end is a node or a hostNetwork pod, and the other a pod on that node.
    One,
    /// One end is a node or a hostNetwork pod, and the other a pod on another node.
    Different,
}

/// A fact that the input lacks and that decides.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[cfg_attr(not(feature = "internals"), non_exhaustive)]
pub enum MissingFact {
    /// The other end's address, which an ipBlock may hold.
    Address,
    /// The node that the pod runs on, whose traffic is always allowed.
    Node,
    /// Where a Service leads that has no selector, or whose EndpointSlices are missing.
    Backends {
        /// The DNS name to which a Service of type ExternalName leads.
        external_name: Option<String>,
        /// The labels that its selector asks for.
        selector: Option<String>,
        /// Why the input does not say it.
        why: WhyUnknown,
    },
    /// Whether both ends are on one node: the Service leads to backends on the client's
    /// node only.
    SameNode,
    /// The node of the pod with this host port: it leads to the pod on that node only.
    HostPort(u16),
    /// Whether the node that the client asks has one of the backends: its
    /// `externalTrafficPolicy` is Local.
    BackendNode(IpAddr),
    /// Whether the client runs on the node that it asks by a port: its own node translates the
    /// port before policies judge, another one behind them.
    EntryNode(IpAddr),
    /// Whether the client comes by the Service's load balancer, whose `loadBalancerSourceRanges`
    /// do not hold it.
    SourceRanges(Vec<String>),
    /// Whether the client's address is in the `loadBalancerSourceRanges` of the Service, by whose
    /// load balancer's address it comes.
    AddressInSourceRanges(Vec<String>),
    /// Where a load balancer sends what comes to its address, which nodes do not take: the Service has
    /// it with `ipMode: Proxy`.
    Balancer {
        /// The address.
        address: IpAddr,
        /// The Service's namespace.
        namespace: String,
        /// The Service's name.
        name: String,
    },
    /// Which host has this address, by which these Services are reached: kube-proxy leads the port that was
    /// asked for to none of them.
    BesideServices(IpAddr, Vec<String>),
    /// Whether this address is one of the pod's own node, and the hostNetwork pods that say so of their nodes.
    LocalAddress(IpAddr, Vec<String>),
    /// Whether a port of a node, from the first to the last of these, leads to a Service, because Services
    /// were not read.
    NodePort(u16, u16),
    /// Whether a port of a node, from the first to the last of these, leads to one of these Services: the API
    /// server chooses a node port where the object does not say it.
    UnchosenNodePort(u16, u16, Vec<String>),
    /// Where these lead, which are too many to judge for one question: Services by addresses, and ports of
    /// nodes.
    NotJudged(Vec<String>),
    /// The addresses of this node.
    NodeAddress(String),
    /// Whether an address is a node's, so that this port leads to a Service or a pod.
    IsNode(IpAddr, u16),
    /// Labels of the subject, by which policies select it.
    SubjectLabels(Vec<String>),
    /// Labels of the other end, by which rules select it.
    PeerLabels(Vec<String>),
    /// The labels of a namespace, by which rules select the other end.
    NamespaceLabels(String),
    /// Policies that may select the subject and were not read, by why each was not.
    Unread(Vec<WhyUnread>),
    /// Whether an address is that of a pod or a Service: these were not read and may have it.
    Holder(IpAddr, Vec<Unread>),
    /// The labels of pods that one end means too, and the policies that isolate them: they were not read.
    UnreadPods(Vec<Unread>),
}

impl Question {
    /// A question about two ends that no Service leads to and that are no replicas of each other.
    #[must_use]
    pub const fn between(from: Party, to: Party, family: Option<Family>, traffic: Traffic) -> Self {
        let (replicas, nodes) = (false, OnNodes::AsObjectsSay);
        Self { from, to, family, traffic, service_port: None, service_addresses: Vec::new(), replicas, nodes }
    }

    /// The end whose policies decide in a direction, and the other one.
    #[must_use]
    pub fn ends(&self, direction: Direction) -> (Party, Party) {
        match direction {
            Direction::Egress => (self.from, self.to),
            Direction::Ingress => (self.to, self.from),
        }
    }

    /// Whether policies have no say between the ends.
    #[must_use]
    pub fn exemption(&self, cluster: &Cluster) -> Option<Exemption> {
        match (self.from, self.to) {
            (from, to) if self.replicas && from == to => None,
            _ if self.nodes == OnNodes::One => Some(Exemption::OwnNode),
            _ if self.nodes == OnNodes::Different => None,
            (Party::End(from), Party::End(to)) => exemption(cluster, from, to),
            (Party::OtherNode(_), _) | (_, Party::OtherNode(_)) => None,
            (from, to) if from == to => Some(Exemption::Itself),
            (Party::Host(host), Party::End(End::Pod(pod))) | (Party::End(End::Pod(pod)), Party::Host(host)) => {
                let (host, own) = (Party::Host(host), cluster.pod(pod).node.as_deref());
                let by_name = own.is_some() && own == host.node(cluster);
                let by_address = self.family.and_then(|family| host.address(cluster, family));
                let own_address = by_address.is_some_and(|address| cluster.is_own_node(pod, address));
                (by_name || own_address).then_some(Exemption::OwnNode)
            }
            _ => None,
        }
    }

    /// What a direction allows of everything, not only of what is asked about.
    #[must_use]
    pub fn bounds(&self, cluster: &Cluster, groups: &Groups, direction: Direction) -> Bounds {
        let (subject, other) = self.ends(direction);
        if self.exemption(cluster).is_some() {
            return Bounds::everything();
        }
        let deciding = subject.deciding(cluster, groups, direction, self.family);
        let seen = other.seen(cluster, subject, self.family);
        let fold = |ids: &[GroupId], of: &dyn Fn(&Group) -> Traffic| {
            ids.iter().fold(Traffic::all(), |all, id| all.intersection(&of(groups.get(*id))))
        };
        let mut bounds = Bounds {
            least: fold(&deciding.least, &|group| group.traffic(cluster, seen)),
            most: fold(&deciding.most, &|group| group.possible_traffic(cluster, seen, self.family)),
        };
        if deciding.is_nothing_certain {
            bounds.least = Traffic::none();
        }
        if self.may_be_own_node(cluster, direction) || self.local_address(cluster).is_some() {
            bounds.most = Traffic::all();
        }
        bounds
    }

    /// Whether the other end may be the subject's own node.
    fn may_be_own_node(&self, cluster: &Cluster, direction: Direction) -> bool {
        match self.ends(direction) {
            _ if self.nodes == OnNodes::Different => false,
            (Party::End(subject), Party::End(other @ (End::Address(_) | End::Unread(_)))) => {
                may_be_own_node(cluster, subject, other)
            }
            (subject, other @ Party::Host(_)) => subject.node(cluster).is_none() || other.node(cluster).is_none(),
            _ => false,
        }
    }

    /// The address at one end that the pod's own node may give to itself.
    fn local_address(&self, cluster: &Cluster) -> Option<IpAddr> {
        let (Party::End(from), Party::End(to)) = (self.from, self.to) else { return None };
        let address = [from, to].into_iter().find_map(|end| match end {
            End::Address(address) | End::Unread(address) => Some(address),
            End::Pod(_) => None,
        });
        address.filter(|_| may_be_local(cluster, from, to))
    }

    /// The facts that decide in a direction and that the input lacks. They are looked for
    /// only where they leave something open.
    #[must_use]
    pub fn missing(&self, cluster: &Cluster, groups: &Groups, direction: Direction) -> Vec<MissingFact> {
        let (subject, other) = self.ends(direction);
        let deciding = subject.deciding(cluster, groups, direction, self.family);
        if deciding.is_nothing() || self.exemption(cluster).is_some() {
            return Vec::new();
        }
        let mut missing = Vec::new();
        if self.may_be_own_node(cluster, direction) {
            missing.push(MissingFact::Node);
        }
        if let Some(address) = self.local_address(cluster) {
            missing.push(MissingFact::LocalAddress(address, cluster.names_of_listeners(address)));
        }
        if let Some(class) = subject.pod().and_then(|pod| cluster.class_of(pod)).filter(|class| cluster.is_open(*class))
        {
            let unread: Vec<WhyUnread> = cluster.unread_policies_of(cluster.class(class)).cloned().collect();
            if !unread.is_empty() {
                missing.push(MissingFact::Unread(unread));
            }
            let possible = cluster.possible_policies_of(class, direction);
            if !possible.is_empty() {
                let subjects = possible.iter().map(|policy| &cluster.policy(*policy).subject);
                missing.push(MissingFact::SubjectLabels(owned(cluster.unknown_keys(class, subjects))));
            }
        }
        if let (Party::End(End::Unread(address)), true) = (subject, deciding.is_nothing_certain) {
            missing.push(MissingFact::Holder(address, cluster.unread_holders()));
        }
        let seen = other.seen(cluster, subject, self.family);
        let ids: BTreeSet<GroupId> = deciding.least.iter().chain(&deciding.most).copied().collect();
        let atoms: Vec<&Atom> = ids.iter().flat_map(|id| groups.get(*id).admitted.keys()).collect();
        let is_open = |atom: &&&Atom| atom.may_hold(cluster, seen, self.family) && !atom.holds(cluster, seen);
        let open: Vec<&&Atom> = atoms.iter().filter(is_open).collect();
        let mut keys = BTreeSet::new();
        let mut has_open_labels = false;
        for class in seen.classes {
            for peer in open.iter().filter_map(|atom| if let Atom::Pods(peer) = atom { Some(peer) } else { None }) {
                if cluster.is_open_by_namespace(peer, *class) {
                    missing.push(MissingFact::NamespaceLabels(cluster.class(*class).namespace.clone()));
                }
                if is_open_by_labels(cluster, *class, peer) {
                    has_open_labels = true;
                    keys.extend(owned(cluster.unknown_keys(*class, [&peer.pods])));
                }
            }
        }
        if has_open_labels {
            missing.push(MissingFact::PeerLabels(keys.into_iter().collect()));
        }
        if let (Party::End(End::Unread(address)), Some(_)) = (other, open.first()) {
            missing.push(MissingFact::Holder(address, cluster.unread_holders()));
        }
        if open.iter().any(|atom| matches!(atom, Atom::Block(_))) {
            missing.push(MissingFact::Address);
        }
        missing.dedup();
        missing
    }

    /// What both directions together allow.
    #[must_use]
    pub fn passes(&self, cluster: &Cluster, groups: &Groups) -> Bounds {
        let [a, b] = Direction::ALL.map(|direction| self.bounds(cluster, groups, direction));
        a.and(&b)
    }

    /// What of the traffic an agent keeps from the source although policies
    /// allow it: see [`Group::dropped_tunnels`].
    #[must_use]
    pub fn dropped_tunnels(&self, cluster: &Cluster, groups: &Groups) -> Traffic {
        if self.exemption(cluster).is_some() {
            return Traffic::none();
        }
        let seen = self.to.seen(cluster, self.from, self.family);
        let groups = self.from.groups(cluster, groups, Direction::Egress, self.family).into_iter();
        let kept = groups.fold(Traffic::none(), |all, group| all.union(&group.dropped_tunnels(cluster, seen)));
        kept.intersection(&self.traffic)
    }
}

fn is_open_by_labels(cluster: &Cluster, class: ClassId, peer: &crate::policy::PodPeer) -> bool {
    cluster.class(class).selection(&peer.pods) == Selection::Possible
}

fn owned(keys: Vec<&str>) -> Vec<String> {
    keys.into_iter().map(str::to_owned).collect()
}
