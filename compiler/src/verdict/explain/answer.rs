//! What an explanation says: flows with a verdict each, and what the asker should know
//! besides.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use crate::algebra::traffic::Traffic;
use crate::algebra::unforwarded::Unforwarded;
use crate::cluster::PolicyId;
use crate::cluster::selection::WhyNone;
use crate::cluster::without_backend::{NoBackend, NoPod};
use crate::object::{Family, Protocol, TargetPort};
use crate::policy::Direction;
use crate::verdict::bounds::Verdict;
use crate::verdict::explain::code::ReasonCode;
use crate::verdict::explain::decision::{Decision, Reason};
use crate::verdict::explain::question::MissingFact;
use crate::verdict::explain::question::judged_pairs::JudgedPairs;
use crate::verdict::explain::question::name::EndName;
use crate::verdict::explain::question::party::Party;

/// All flows between two targets.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct FlowExplanation {
    /// The flows, in the order of sources and destinations.
    pub flows: Vec<Flow>,
    /// What decides nothing and the asker should know.
    pub warnings: Vec<WarningFact>,
    /// The ends that flows stand for, where they stand for many ([`Flow::alike`]).
    pub ends: Vec<EndName>,
    /// Policies that select no pod and why, in the namespaces and directions in which no policy isolates an end.
    pub without_subjects: BTreeMap<PolicyId, WhyNone>,
    /// Policies that would admit what is denied and do not count, because a later one has the same name.
    pub replaced: BTreeSet<ReplacedPolicy>,
}

/// A policy that would admit a denied flow, and that a later one of the same name replaces.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct ReplacedPolicy {
    /// Its place in [`Hints::replaced_policies`](crate::cluster::hints::Hints::replaced_policies).
    pub place: usize,
    /// The direction in which it would admit the flow.
    pub direction: Direction,
}

/// A flow and what is said of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Flow {
    /// The source.
    pub from: EndName,
    /// The destination; the Service, where it leads nowhere.
    pub to: EndName,
    /// The Service that the flow goes through.
    pub via: Option<Via>,
    /// The path on which it comes, where that makes a difference.
    pub way: Option<Way>,
    /// The family; none where an end has no address and both families get one answer.
    pub family: Option<Family>,
    /// What is sent.
    pub traffic: Traffic,
    /// The address and traffic that the policies of the source match in place of the destination
    /// and the traffic, where a node that is not the source's own replaces them after these
    /// policies.
    pub seen_by_source: Option<(IpAddr, Traffic)>,
    /// The name of the destination's port, where one port is meant.
    pub port_name: Option<String>,
    /// What becomes of it.
    pub verdict: Verdict,
    /// Why the flow cannot exist at all; none where the input does not say.
    pub broken: Option<ReasonCode>,
    /// Why the Service leads to no pod, where none of its ports is meant: it is the source, or it has none.
    pub without_pod: Option<NoPod>,
    /// Facts that the input lacks besides those of the decisions.
    pub missing: Vec<MissingFact>,
    /// Egress and ingress; none where the flow cannot exist, or the input does not say
    /// where its Service leads.
    pub decisions: Option<[Decision; 2]>,
    /// The source and destination of one of the flows that this one stands for.
    pub parties: Option<(Party, Party)>,
    /// For a denied flow: all pairs of ends that it stands for, as they were judged.
    pub asked: JudgedPairs,
    /// The ends that it is said of, where many pairs get the same verdict in each direction;
    /// the decisions are then those of one pair, `from` and `to`.
    pub alike: Option<Alike>,
}

/// Ends between which flows get the same verdict in each direction.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Alike {
    /// The places of the sources in [`FlowExplanation::ends`].
    pub from: Ranges,
    /// The places of the destinations.
    pub to: Ranges,
    /// Which pairs of them are meant.
    pub pairs: Pairs,
}

/// Which pairs of some sources and destinations are meant.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[cfg_attr(not(feature = "internals"), non_exhaustive)]
pub enum Pairs {
    /// Each source with each destination, but for those of the other two.
    Others,
    /// An end and itself.
    Itself,
    /// A pod and its own node.
    OwnNode,
}

/// Places in a list, as sorted, disjoint, inclusive ranges.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash)]
pub struct Ranges(pub Vec<(usize, usize)>);

impl Ranges {
    /// Adds places behind all others.
    pub(super) fn add(&mut self, first: usize, last: usize) {
        match self.0.last_mut() {
            Some((_, end)) if *end + 1 >= first => *end = last.max(*end),
            _ => self.0.push((first, last)),
        }
    }

    /// The places of ends from those of their classes, which `firsts` says for each class.
    pub(super) fn of_ends(&self, firsts: &[usize]) -> Self {
        let mut places = Self::default();
        for (first, last) in &self.0 {
            places.add(firsts[*first], firsts[last + 1] - 1);
        }
        places
    }

    /// How many places there are.
    #[must_use]
    pub fn count(&self) -> usize {
        self.0.iter().map(|(first, last)| last - first + 1).sum()
    }
}

/// The path on which a flow comes to its destination, where that makes a difference.
#[derive(Debug, Clone, PartialEq, Eq)]
#[cfg_attr(not(feature = "internals"), non_exhaustive)]
pub enum Way {
    /// By the destination's own node, where policies match the client's address.
    OwnNode,
    /// By another node, which sends it on in its own name (`externalTrafficPolicy:
    /// Cluster`). The names of those that get this answer; none where all do.
    OtherNode(Vec<String>),
    /// By this port of its node, which is one of its containers' `hostPort`.
    HostPort(u16),
    /// Between a pod and a hostNetwork pod of the same node.
    SameNode,
    /// Between a pod and a hostNetwork pod of another node. The names of the nodes that get this
    /// answer; none where all others do.
    DifferentNodes(Vec<String>),
    /// To another pod of the same workload.
    OtherReplica,
    /// To the pod that it came from, where others of its workload get another answer.
    Itself,
}

/// The Service that a flow goes through.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Via {
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// Its port; none where it has no port that was asked for.
    pub port: Option<u16>,
    /// Where the port leads.
    pub target: Option<TargetPort>,
    /// The number of places that it leads to; 0 also if the input does not say.
    pub backends: usize,
    /// Why it leads nowhere, where it does.
    pub without_backend: Option<NoBackend>,
}

/// What decides nothing and the asker should know.
#[derive(Debug, Clone, PartialEq, Eq)]
#[cfg_attr(not(feature = "internals"), non_exhaustive)]
pub enum WarningFact {
    /// Several endpoints list this address ([`Cluster::contest`]).
    ///
    /// [`Cluster::contest`]: crate::cluster::Cluster::contest
    Contested(IpAddr),
    /// Other ends of the destination have a port of the name that was asked for; this one
    /// has not.
    NoSuchPort(EndName),
    /// The Service has no port that was asked for.
    NoSuchServicePort {
        /// The Service's namespace.
        namespace: String,
        /// The Service's name.
        name: String,
        /// The ports that it has.
        ports: Vec<(Protocol, u16)>,
    },
    /// The source is a Service, and nothing in the input says where it leads.
    SourceWithoutPods {
        /// The Service's namespace.
        namespace: String,
        /// The Service's name.
        name: String,
    },
    /// The Service is headless, so a client asks for a port of the pods and not of the Service.
    Headless {
        /// The Service's namespace.
        namespace: String,
        /// The Service's name.
        name: String,
    },
    /// The port that was asked for is that of a Service, which leads to another port of the pods.
    ServicePort {
        /// The Service's namespace.
        namespace: String,
        /// The Service's name.
        name: String,
        /// Its port.
        port: u16,
        /// The port of the pods.
        of_pods: u16,
    },
    /// No address or port of the Service leads to it from outside the cluster.
    NotExposed {
        /// The Service's namespace.
        namespace: String,
        /// The Service's name.
        name: String,
    },
    /// What is asked about leads to these Services and pods too, named with the ports that lead there. All of it
    /// is allowed, or denied because the Services lack the port, and they are too many for flows of their own.
    NotListed(Verdict, Vec<String>),
    /// The source is an address of a Service, which no packet has as its source.
    ServiceAddressAsSource {
        /// The address.
        address: IpAddr,
        /// The Service's namespace.
        namespace: String,
        /// The Service's name.
        name: String,
    },
    /// A node with isolated pods, or any host, forwards nothing from or to this end. Policies cannot change that.
    NotForwarded {
        /// The end.
        end: EndName,
        /// Whether it is the source, else the destination.
        is_source: bool,
        /// What its address is.
        address: Unforwarded,
    },
    /// The loopback address, or no address, is the pod itself.
    Loopback(IpAddr),
    /// This host port leads to these pods. The node's own rules decide too, and a network may replace
    /// the client's address by a node's.
    HostPort {
        /// The port.
        port: u16,
        /// The pods, as `NAMESPACE/NAME`.
        pods: Vec<String>,
    },
    /// Pods have this host port, and it does not lead to them at the address that was asked
    /// about, so the answer is about the node itself.
    HostPortElsewhere {
        /// The port.
        port: u16,
        /// The pods that have it, as `NAMESPACE/NAME`, and the node of each that is known.
        pods: Vec<(String, Option<String>)>,
        /// `hostIP` binds it to another address; else the pods are on other nodes.
        is_bound: bool,
    },
    /// The Service was asked for by its name, and policies keep these sources from the cluster's DNS,
    /// so they cannot resolve it.
    NamesUnresolved {
        /// The sources.
        from: Vec<EndName>,
        /// The Service.
        service: EndName,
        /// The direction that denies: the sources' egress, or the servers' ingress.
        direction: Direction,
        /// The policies that isolate them in it.
        policies: Vec<PolicyId>,
        /// The DNS server; none where the input has none.
        server: Option<DnsServer>,
    },
    /// The ends have no address family in common, so no packet can pass.
    NoCommonFamily,
    /// No object says the addresses of the pod's node, so this address may be one of them; a pod and
    /// its own node are always allowed.
    MayBeOwnNode {
        /// The address that was asked about.
        address: IpAddr,
        /// The pod.
        pod: EndName,
        /// Its node, where it is known.
        node: Option<String>,
    },
    /// The answer holds for the node of a hostNetwork pod; for other nodes another one does.
    OtherNodes {
        /// The source.
        from: EndName,
        /// The destination.
        to: EndName,
        /// Whether the source is that pod, else the destination.
        is_source: bool,
        /// Whether the other end runs on its node.
        is_own_node: bool,
        /// What holds for the other nodes, by their names; no name, where the input says no
        /// address of another node.
        nodes: Vec<(Verdict, Vec<String>)>,
    },
    /// Policies allow it, and agents drop it where it leaves the source, because it is
    /// what tunnels use ([`Group::dropped_tunnels`]).
    ///
    /// [`Group::dropped_tunnels`]: crate::cluster::group::Group::dropped_tunnels
    TunnelDropped {
        /// The source.
        from: EndName,
        /// What agents drop.
        traffic: Traffic,
    },
}

/// The DNS server of a cluster, as one asks about it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DnsServer {
    /// Its Service, or its workload.
    pub name: EndName,
    /// Its port, of UDP.
    pub port: u16,
}

/// A fact that the input lacks, and which ends it is about.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Missing {
    /// The fact.
    pub fact: MissingFact,
    /// The end whose policies would decide by it.
    pub subject: EndName,
    /// The other end.
    pub other: EndName,
}

/// Why a question has no answer.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[cfg_attr(not(feature = "internals"), non_exhaustive)]
pub enum Unanswerable {
    /// No end of the destination has a port of the name that was asked for.
    #[error("no port is named {name:?}")]
    NoPortNamed {
        /// The name.
        name: String,
        /// The names of the ports that the destination has, sorted.
        known: Vec<String>,
    },
    /// An endpoint was asked about that no policy can apply to, and that has no address or more pairs with
    /// pods than can be judged.
    #[error("no policy can apply to it")]
    NoEndpoint,
    /// The ends differ in too many ways for one answer.
    #[error("{sources} kinds of sources and {destinations} kinds of destinations are too many for one answer")]
    TooManyKinds {
        /// Classes of sources that rules distinguish.
        sources: usize,
        /// Classes of destinations that rules distinguish.
        destinations: usize,
    },
}

impl Flow {
    /// A flow that no policy decides.
    pub(super) fn undecided(from: EndName, to: EndName, traffic: Traffic, verdict: Verdict) -> Self {
        Self {
            from,
            to,
            via: None,
            way: None,
            family: None,
            traffic,
            seen_by_source: None,
            port_name: None,
            verdict,
            broken: None,
            without_pod: None,
            missing: Vec::new(),
            decisions: None,
            parties: None,
            asked: JudgedPairs::default(),
            alike: None,
        }
    }

    /// Whether this says of one family what another flow says of the other.
    #[must_use]
    pub fn is_same_in_another_family(&self, other: &Self) -> bool {
        self.family != other.family
            && self.from.is_same_end(&other.from)
            && self.to.is_same_end(&other.to)
            && (&self.via, &self.way) == (&other.via, &other.way)
            && (&self.traffic, &self.port_name, self.verdict) == (&other.traffic, &other.port_name, other.verdict)
            && self.seen_by_source == other.seen_by_source
            && (self.broken, &self.missing) == (other.broken, &other.missing)
            && self.has_like_decisions(other)
            && self.alike == other.alike
    }

    /// Whether the same is said of other ends, but for the items of rules.
    pub(super) fn is_alike(&self, other: &Self) -> bool {
        let without_decisions = |of: &Self| Self { decisions: None, ..of.clone() };
        self.has_like_decisions(other) && without_decisions(self) == without_decisions(other)
    }

    /// Whether all of it passes.
    pub(super) fn is_allowed(&self) -> bool {
        self.verdict == Verdict::Allowed
    }

    fn has_like_decisions(&self, other: &Self) -> bool {
        match (&self.decisions, &other.decisions) {
            (Some(one), Some(other)) => one.iter().zip(other).all(|(one, other)| one.is_alike(other)),
            (one, other) => one.is_none() && other.is_none(),
        }
    }

    /// Takes over the items of rules and the pairs from a flow with the same answer.
    pub fn join(&mut self, other: &Self) {
        for (one, other) in self.decisions.iter_mut().flatten().zip(other.decisions.iter().flatten()) {
            one.join(other);
        }
        for (one, other) in [(&mut self.from, &other.from), (&mut self.to, &other.to)] {
            one.addresses.extend(&other.addresses);
            one.addresses.sort_unstable();
            one.addresses.dedup();
        }
        self.asked.extend(&other.asked);
    }
}

impl FlowExplanation {
    /// What is said of all flows together.
    #[must_use]
    pub fn verdict(&self) -> Verdict {
        let has = |verdict| self.flows.iter().any(|flow| flow.verdict == verdict);
        let (allowed, denied) = (has(Verdict::Allowed), has(Verdict::Denied));
        // If one node lets the flow pass, that is known. What another node does with it does not change that.
        let by_node = |way: fn(&Way) -> bool, verdict| {
            let ways = self.flows.iter().filter(|flow| flow.way.as_ref().is_some_and(way));
            ways.into_iter().any(|flow| flow.verdict == verdict)
        };
        let differs_by_node = by_node(|way| matches!(way, Way::OwnNode | Way::SameNode), Verdict::Allowed)
            && by_node(|way| matches!(way, Way::OtherNode(_) | Way::DifferentNodes(_)), Verdict::Unknown);
        if has(Verdict::Partial) || (allowed && denied) || differs_by_node {
            Verdict::Partial
        } else if has(Verdict::Unknown) {
            Verdict::Unknown
        } else if allowed {
            Verdict::Allowed
        } else {
            Verdict::Denied
        }
    }

    /// The facts that flows of verdict Unknown lack, in the order of flows.
    #[must_use]
    pub fn missing(&self) -> Vec<Missing> {
        let mut missing = Vec::new();
        for flow in &self.flows {
            for fact in &flow.missing {
                // If the source is a Service, the fact is about the source.
                let is_source = matches!(fact, MissingFact::Backends { .. }) && flow.via.is_none();
                let (subject, other) = if is_source { (&flow.to, &flow.from) } else { (&flow.from, &flow.to) };
                missing.push(Missing { fact: fact.clone(), subject: subject.clone(), other: other.clone() });
            }
            let ends = [(&flow.from, &flow.to), (&flow.to, &flow.from)];
            for (decision, (subject, other)) in flow.decisions.iter().flatten().zip(ends) {
                if flow.verdict == Verdict::Unknown && decision.reason == Reason::Unknown {
                    missing.extend(decision.missing.iter().map(|fact| Missing {
                        fact: fact.clone(),
                        subject: subject.clone(),
                        other: other.clone(),
                    }));
                }
            }
        }
        missing
    }

    /// Adds a warning, once.
    pub(super) fn warn(&mut self, warning: WarningFact) {
        if !self.warnings.contains(&warning) {
            self.warnings.push(warning);
        }
    }
}
