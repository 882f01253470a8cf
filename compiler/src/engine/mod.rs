//! The engine: events in, the smallest difference between two rulesets out.
//!
//! What an event costs follows what it touches. A pod is a few dozen bytes and
//! its class; an index leads from a class to the selectors in use that select
//! it, and from these to their sets. Only pods of this node have groups, and
//! only their policies' peers have sets.
//!
//! ```text
//! event ─▶ store (pods, classes, namespaces) ─▶ which addresses are touched
//!      └─▶ policies ─▶ groups of this node's pods ─▶ chains, sets in use
//! commit: touched addresses × sets before and now ─▶ delta
//! ```
//!
//! | when | then |
//! |---|---|
//! | a pod comes, goes, or changes its labels or addresses | its class changes, and by it the sets and the group of its addresses |
//! | a namespace is relabelled | its classes are matched with the selectors again (`Engine::namespace`), and the addresses of their pods move between sets; no group changes, because a policy's podSelector reads no labels of namespaces |
//! | a policy changes | its groups get other chains, and their peers other sets |
//!
//! After any sequence of events the state equals [`crate::ruleset::layout::ruleset`] of the final objects, byte for
//! byte. There are three exceptions. [`Engine::own`] sets the set of what may come from the interfaces of pods.
//! Policies that are over the bound on set members stay so until [`Engine::reconsider_bound`]. Events that were offered
//! may wait until what they make is loaded ([`Engine::offer`]).

mod commit;
mod dispatch_trees;
mod findings;
mod groups;
mod intern;
mod key;
mod large;
mod local;
mod names;
mod packed;
mod peer_sets;
mod peers;
mod placeholder;
mod ports;
mod prepared;
mod preview;
mod selector;
mod store;

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

use ipnetwork::IpNetwork;

use crate::cluster::group::RetainedGroup;
use crate::object::{Family, Namespace, NetworkPolicy, Node, Pod};
use crate::plan::KernelState;
use crate::policy::finding::Finding;
use crate::policy::{Direction, Policy};
use crate::ruleset::layout::RulesetOptions;
use crate::ruleset::names::hash::Hash;
#[cfg(doc)]
use crate::ruleset::node::SetName;
use crate::ruleset::node::{InterfaceName, Member};

use findings::Findings;
use groups::LocalGroups;
pub use key::PodKey;
use large::Large;
pub use large::{Portion, Wait};
pub use packed::PackedPolicy;
use peer_sets::{PeerSets, SetId};
use peers::PeerIndex;
pub use preview::{CountQuestion, Counts, Preview, Previewed};
use store::{PodSlot, Store};

/// Something changed in the cluster. Events may come repeated and in any
/// order; of two about one object the later counts.
#[derive(Debug, Clone, PartialEq)]
#[cfg_attr(not(feature = "internals"), non_exhaustive)]
pub enum Event {
    /// A pod is there, or is different.
    Pod(Box<Pod>),
    /// A pod is gone.
    PodGone(PodKey),
    /// A namespace is there, or is different.
    Namespace(Namespace),
    /// A namespace is gone.
    NamespaceGone(String),
    /// A policy is there, or is different.
    Policy(Box<NetworkPolicy>),
    /// The same of a large one ([`Event::policy`]).
    PackedPolicy(Box<PackedPolicy>),
    /// The policy of this namespace and name is gone.
    PolicyGone(String, String),
    /// A Node is there, or is different. Only those matter whose pods list an
    /// address that others list too ([`Engine::contests`]).
    Node(Node),
    /// The Node of this name is not there, or is not known any more.
    NodeGone(String),
}

/// An address that several pods list.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Contested {
    /// The address.
    pub address: IpAddr,
    /// All that list it: namespaces and names, sorted.
    pub claimants: Vec<[String; 2]>,
    /// Those that hold it as this node sees it: one, or several where nothing
    /// tells which of them has it.
    pub holders: Vec<[String; 2]>,
    /// The nodes of the claimants, sorted.
    pub nodes: Vec<String>,
    /// Whether this node has a claimant.
    pub is_here: bool,
    /// Whether rules of this node ask about some claimant as a peer.
    pub is_asked: bool,
}

/// How an address stood at the last commit.
#[derive(Debug, Default)]
struct CommittedAddress {
    memberships: Vec<(SetId, Member)>,
    groups: [Option<Hash>; 2],
}

/// Follows a cluster for one node.
#[derive(Debug)]
pub struct Engine {
    store: Store,
    peers: PeerIndex,
    sets: PeerSets,
    groups: LocalGroups,
    findings: Findings,
    /// The addresses that events touched since the last commit.
    touched: BTreeMap<IpAddr, CommittedAddress>,
    /// What may come from which interface of pods; `None` if no rule asks.
    own: Option<[BTreeSet<Member>; 2]>,
    /// Events that wait until what they make is loaded.
    large: Large,
    state: KernelState,
    is_first: bool,
}

impl Engine {
    /// An engine for a node that knows nothing of the cluster yet.
    #[must_use]
    pub fn new(node: &str, options: RulesetOptions) -> Self {
        let store = Store::new(node);
        let own = options.anti_spoof.then(Default::default);
        let groups = LocalGroups::new(options);
        Self {
            store,
            peers: PeerIndex::default(),
            sets: PeerSets::default(),
            groups,
            findings: Findings::default(),
            touched: BTreeMap::new(),
            own,
            large: Large::default(),
            state: KernelState::default(),
            is_first: true,
        }
    }

    /// Changes the options, on which the state depends besides the cluster. Call it only before the
    /// first [`Engine::commit`]: what was made with other options stays as it is.
    pub fn set_options(&mut self, options: RulesetOptions) {
        self.own = options.anti_spoof.then(Default::default);
        self.groups.set_options(options);
    }

    /// Lets groups of this node outlive their last endpoint until
    /// [`Engine::retire`] has found them empty twice. So a pod that is replaced
    /// by one of the same kind writes set members only, even if it was the only
    /// one. A group goes at once if one of its policies changes, or if 16 others of its
    /// namespace lost their last endpoint in that direction after it.
    ///
    /// The state is that of [`crate::ruleset::layout::ruleset_with`] and
    /// [`Engine::retained`] then.
    #[must_use]
    pub fn with_retained_groups(mut self) -> Self {
        self.groups.retain_groups();
        self
    }

    /// Lets go, at the next commit, of the groups that had no endpoint when
    /// this was called before and have none now. Called at intervals, it keeps
    /// an empty group for one to two of them.
    pub fn retire(&mut self) {
        self.groups.retire();
    }

    /// The groups without endpoints, as of the last commit.
    pub fn retained(&self) -> impl Iterator<Item = RetainedGroup> {
        self.groups.retained()
    }

    /// The state as of the last commit or [`Engine::load`].
    #[must_use]
    pub fn state(&self) -> &KernelState {
        &self.state
    }

    /// What is not understood of the policies, by policy. For a namespace with very many findings:
    /// only the first of each policy, and how many more it has.
    pub fn findings(&self) -> impl Iterator<Item = &Finding> {
        self.findings.iter().chain(self.groups.over_bound())
    }

    /// Another number than before if [`Engine::findings`] are others.
    #[must_use]
    pub fn findings_version(&self) -> u64 {
        self.findings.version() + self.groups.over_bound_version()
    }

    /// Whether policies are over the bound on set members ([`crate::ruleset::members`]), as of
    /// the last commit.
    #[must_use]
    pub fn has_policies_over_bound(&self) -> bool {
        self.groups.over_bound().next().is_some()
    }

    /// At the next commit, chooses anew which policies are over the bound on set members, in
    /// namespaces where some are. A namespace that comes to be over the bound is noticed at
    /// once; that one of its policies is no longer over it is noticed here, and when such a
    /// policy changes. So a pod that comes and goes does not give a policy its rules and
    /// take them away each time.
    pub fn reconsider_bound(&mut self) {
        let over = self.groups.to_reconsider();
        self.reconsider_bound_of(over);
    }

    /// The addresses of this node's endpoints, each once, with namespaces,
    /// names and UIDs of those that they belong to: of several that hold one,
    /// the first.
    pub fn local_owners(&self) -> impl Iterator<Item = (IpAddr, [String; 3])> {
        self.held_here().map(move |(address, pod)| (address, self.store.identity(pod)))
    }

    /// The networks from which this node's pods get their addresses, as its Node says; none if that
    /// says nothing or is not known.
    #[must_use]
    pub fn pod_cidrs(&self) -> &[IpNetwork] {
        self.store.pod_cidrs()
    }

    /// The addresses of this node's endpoints, each once.
    pub fn local_addresses(&self) -> impl Iterator<Item = IpAddr> {
        self.held_here().map(|(address, _)| address)
    }

    fn held_here(&self) -> impl Iterator<Item = (IpAddr, PodSlot)> {
        self.groups.here().flat_map(move |pod| {
            let listed = Family::ALL.into_iter().filter_map(move |family| self.store.listed(pod, family));
            let held = listed.filter(move |address| self.store.holders(*address).first() == Some(&pod));
            held.map(move |address| (address, pod))
        })
    }

    /// The addresses that several pods list.
    #[must_use]
    pub fn contests(&self) -> impl ExactSizeIterator<Item = Contested> {
        self.store.contests().iter().map(|(address, contest)| {
            let sorted = |pods: &[PodSlot]| {
                let name = |pod: &PodSlot| {
                    let [namespace, name, _] = self.store.identity(*pod);
                    [namespace, name]
                };
                let mut names: Vec<[String; 2]> = pods.iter().map(name).collect();
                names.sort_unstable();
                names
            };
            let nodes = contest.claimants.iter().filter_map(|pod| self.store.pod(*pod).node);
            let mut nodes: Vec<String> = nodes.map(|node| self.store.strings.text(node).to_owned()).collect();
            nodes.sort_unstable();
            nodes.dedup();
            Contested {
                address: *address,
                claimants: sorted(&contest.claimants),
                holders: sorted(&contest.holders),
                nodes,
                is_here: contest.claimants.iter().any(|pod| self.store.is_here(*pod)),
                is_asked: {
                    let of_class = |pod: &PodSlot| self.peers.of_class(self.store.pod(*pod).class);
                    contest.claimants.iter().any(|pod| !of_class(pod).is_empty())
                },
            }
        })
    }

    /// From now on this, and nothing else, may come from the interfaces of pods:
    /// members of the set [`SetName::own`]. It is of no account where
    /// [`RulesetOptions::anti_spoof`] is off. As events, it shows at the next commit.
    pub fn own(&mut self, sources: impl IntoIterator<Item = (IpNetwork, InterfaceName)>) {
        let Some(own) = &mut self.own else { return };
        own.iter_mut().for_each(BTreeSet::clear);
        for (prefix, interface) in sources {
            own[Family::of(&prefix.ip()) as usize].insert(Member::of_interface(prefix, interface));
        }
    }

    /// Namespace, name and UID of the endpoint that an address belongs to, on any node. If several
    /// hold it, those of the first.
    #[must_use]
    pub fn owner(&self, address: IpAddr) -> Option<[String; 3]> {
        self.store.holders(address).first().map(|pod| self.store.identity(*pod))
    }

    /// Namespaces and names of the policies that isolate the endpoint of this
    /// node that has an address, or some of those that hold it, as of the last
    /// commit.
    pub fn policies_of(&self, address: IpAddr, direction: Direction) -> impl Iterator<Item = (&str, &str)> {
        let pods = self.store.holders(address).iter();
        let groups: BTreeSet<Hash> = pods.filter_map(|pod| self.groups.of(*pod)[direction as usize]).collect();
        groups.into_iter().flat_map(move |group| self.groups.policies_of(group, direction))
    }

    /// How many endpoints are on this node.
    #[must_use]
    pub fn local_endpoints(&self) -> usize {
        self.groups.here().count() - self.placeholders_of_known()
    }

    /// How many policies there are in the cluster.
    #[must_use]
    pub fn policies(&self) -> usize {
        self.groups.policies() - self.count_of_placeholder_policies()
    }

    /// Takes an event in. Nothing comes of it before [`Engine::commit`].
    pub fn apply(&mut self, event: Event) {
        match event {
            Event::Pod(pod) => self.pod(&pod),
            Event::PodGone(key) => {
                if let Some(pod) = self.store.find(&key) {
                    self.remove_pod(pod);
                }
            }
            Event::Namespace(namespace) => self.namespace(&namespace.name, Some(&namespace)),
            Event::NamespaceGone(name) => self.namespace(&name, None),
            Event::Policy(policy) => {
                let (policy, findings) = Policy::read(&policy);
                self.policy(&Arc::new(policy), findings);
            }
            Event::PackedPolicy(policy) => self.apply(Event::Policy(policy.unpack().into())),
            Event::PolicyGone(namespace, name) => {
                self.groups.remove_policy(&namespace, &name);
                self.findings.remove(&namespace, &name);
            }
            Event::Node(node) => self.node(&node.name, Some(&node.pod_cidrs)),
            Event::NodeGone(name) => self.node(&name, None),
        }
    }

    fn policy(&mut self, policy: &Arc<Policy>, findings: Vec<Finding>) {
        self.findings.put(&policy.namespace, &policy.name, findings);
        self.groups.set_policy(policy);
    }

    fn node(&mut self, name: &str, pod_cidrs: Option<&[IpNetwork]>) {
        let concerned = self.store.concerned_by(name);
        for address in &concerned {
            self.touch(*address);
        }
        self.store.set_node(name, pod_cidrs);
        for address in concerned {
            self.store.decide(address);
        }
    }

    fn pod(&mut self, pod: &Pod) {
        let known = self.store.find(&PodKey::of(pod));
        if !pod.is_endpoint() {
            if let Some(known) = known {
                self.remove_pod(known);
            }
            return;
        }
        // What the new object lists is touched while its owner is still known.
        for address in pod.addresses() {
            self.touch(address);
        }
        if let Some(known) = known {
            self.remove_pod(known);
        }
        let (id, new_class) = self.store.insert(pod);
        match new_class {
            Some(class) => self.peers.update(&self.store, class),
            None => self.peers.pod_comes(self.store.pod(id).class, self.store.size_of(id)),
        }
        self.groups.pod_came(&self.store, id);
    }

    fn remove_pod(&mut self, pod: PodSlot) {
        for family in Family::ALL {
            if let Some(address) = self.store.listed(pod, family) {
                self.touch(address);
            }
        }
        self.groups.pod_goes(&self.store, pod);
        self.peers.pod_goes(self.store.pod(pod).class, self.store.size_of(pod));
        if let Some(class) = self.store.remove(pod) {
            self.peers.remove_class(class);
            self.store.remove_class(class);
        }
    }

    fn namespace(&mut self, name: &str, namespace: Option<&Namespace>) {
        let old = self.store.strings.find(name).and_then(|name| self.store.spaces.get(&name));
        let classes = old.map(|space| space.classes.clone()).unwrap_or_default();
        // Touched while the old labels are still known.
        let mut addresses = Vec::new();
        for class in &classes {
            for pod in self.store.members(*class) {
                addresses.extend(Family::ALL.into_iter().filter_map(|family| self.store.listed(pod, family)));
            }
        }
        let labels = namespace.map(|namespace| &namespace.labels);
        if self.store.namespace_has(name, labels) {
            return;
        }
        for address in addresses {
            self.touch(address);
        }
        self.store.set_namespace(name, labels);
        for class in classes {
            self.peers.update(&self.store, class);
        }
    }

    /// Notes how an address stands, before something about it changes.
    fn touch(&mut self, address: IpAddr) {
        // Sets that are all new are filled when they are made.
        if self.is_first || self.touched.contains_key(&address) {
            return;
        }
        let before = CommittedAddress {
            memberships: self.sets.memberships(&self.store, &self.peers, address),
            groups: self.groups.groups_of_address(&self.store, address),
        };
        self.touched.insert(address, before);
    }
}
