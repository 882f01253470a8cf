//! One question: may this traffic pass from one end to another, and which rules say so?
//!
//! What the input does not say is not guessed: traffic has a *least*, which is
//! allowed for certain, and a *most*, beyond which it is denied for certain;
//! what lies between is unknown.

use std::net::IpAddr;

use crate::algebra::traffic::Traffic;
use crate::cluster::group::{Admitted, Atom, Group, Groups, OtherEnd, atoms};
use crate::cluster::{Cluster, PodId, PolicyId};
use crate::object::{Family, Protocol};
use crate::policy::Direction;
use crate::verdict::flow::{End, Exemption, exemption};

use super::near::{self, Candidate, Code};

/// An end of a flow that is asked about.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Party {
    /// An endpoint or an address.
    End(End),
    /// A pod in its node's network, with its node's address where it is known.
    Host(PodId),
}

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
    /// The port of the Service that the client asks for, in place of the
    /// backend's that policies see.
    pub service_port: Option<(Protocol, u16)>,
    /// The ends are two replicas of one pod template, which stands for both.
    pub replicas: bool,
}

/// What is said of some traffic.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize)]
pub enum Verdict {
    /// All of it passes.
    Allowed,
    /// None of it does.
    Denied,
    /// Some of it.
    Partial,
    /// The input lacks a fact.
    Unknown,
}

/// What is allowed at least, and at most.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Bounds {
    /// For certain.
    pub least: Traffic,
    /// What is not in here is denied for certain.
    pub most: Traffic,
}

/// Why a direction allows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[cfg_attr(not(feature = "internals"), non_exhaustive)]
pub enum Reason {
    /// No policy isolates the subject.
    DefaultAllow,
    /// Rules admit it.
    Rule,
    /// Traffic between a pod and its own node.
    OwnNode,
    /// A pod's traffic to itself.
    Itself,
    /// No policy applies to a hostNetwork pod.
    HostNetworkExempt,
    /// It is denied; the code of the nearest miss.
    Denied(Code),
    /// The input does not decide it.
    Unknown(Lack),
}

/// The fact that the input lacks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[cfg_attr(not(feature = "internals"), non_exhaustive)]
pub enum Lack {
    /// The other end's address, which an ipBlock may hold.
    Address,
    /// The node that the pod runs on, whose traffic is always allowed.
    Node,
    /// Where a Service leads that has no selector, or whose EndpointSlices are missing.
    Backends,
}

/// What one direction says of the traffic that was asked about.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Decision {
    /// The direction.
    pub direction: Direction,
    /// Of the traffic that was asked about.
    pub verdict: Verdict,
    /// Why.
    pub reason: Reason,
    /// The policies that isolate the subject, sorted.
    pub isolated_by: Vec<PolicyId>,
    /// The rules that admit some of it: policy and path.
    pub rules: Vec<(PolicyId, String)>,
    /// How many rules the policies have in this direction.
    pub rule_count: usize,
    /// Where it denies: the rules that miss by least.
    pub candidates: Vec<Candidate>,
}

impl Party {
    /// Its address of a family.
    #[must_use]
    pub fn address(self, cluster: &Cluster, family: Family) -> Option<IpAddr> {
        match self {
            Self::End(end) => end.address(cluster, family),
            Self::Host(pod) => cluster.pod(pod).address(family),
        }
    }

    /// Whether it has an address of any family.
    #[must_use]
    pub fn has_address(self, cluster: &Cluster) -> bool {
        Family::ALL.into_iter().any(|family| self.address(cluster, family).is_some())
    }

    pub(super) fn seen(self, cluster: &Cluster, from: Self, family: Option<Family>) -> OtherEnd<'_> {
        match self {
            Self::End(end) => end.seen(cluster, from.node(cluster), family),
            Self::Host(_) => {
                let address = family.and_then(|family| self.address(cluster, family));
                OtherEnd { classes: &[], address, ports: &[] }
            }
        }
    }

    /// The groups that decide about it together; none where nothing isolates
    /// it.
    pub(super) fn groups<'g>(
        self,
        cluster: &Cluster,
        groups: &'g Groups,
        direction: Direction,
        family: Option<Family>,
    ) -> Vec<&'g Group> {
        match self {
            Self::End(end) => {
                let found = end.groups(cluster, groups, direction, family);
                found.into_iter().map(|group| groups.get(group)).collect()
            }
            Self::Host(_) => Vec::new(),
        }
    }

    /// The node that it is on or is, as far as its pod says.
    fn node(self, cluster: &Cluster) -> Option<&str> {
        match self {
            Self::End(End::Pod(pod)) | Self::Host(pod) => cluster.pod(pod).node.as_deref(),
            Self::End(End::Address(_)) => None,
        }
    }
}

impl Question {
    pub(super) fn ends(&self, direction: Direction) -> (Party, Party) {
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
            (Party::End(from), Party::End(to)) => exemption(cluster, from, to),
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
        let everything = || Bounds { least: Traffic::all(), most: Traffic::all() };
        if self.exemption(cluster).is_some() {
            return everything();
        }
        let seen = other.seen(cluster, subject, self.family);
        let lack = self.lack(cluster, groups, direction);
        let of_group = |group: &Group| {
            let least = group.traffic(cluster, seen);
            let most = match lack {
                // A question has ends; only a flow through a Service may lack them.
                None | Some(Lack::Backends) => least.clone(),
                Some(Lack::Node) => Traffic::all(),
                Some(Lack::Address) => self.by_blocks(group, seen).union(&least),
            };
            Bounds { least, most }
        };
        let groups = subject.groups(cluster, groups, direction, self.family).into_iter();
        groups.map(of_group).reduce(|one, other| one.and(&other)).unwrap_or_else(everything)
    }

    /// What blocks would admit if one of them held the other end's address.
    fn by_blocks(&self, group: &Group, other: OtherEnd<'_>) -> Traffic {
        let possible = |atom: &Atom| match atom {
            Atom::Block(block) => self.family.is_none_or(|f| f == block.family) && !block.addresses.is_empty(),
            Atom::Everyone | Atom::Pods(_) => false,
        };
        (group.admitted.iter().filter(|(atom, _)| possible(atom)))
            .fold(Traffic::none(), |all, (_, admitted)| all.union(&admitted.traffic_to(other.ports)))
    }

    /// The fact that decides in a direction and that the input lacks.
    fn lack(&self, cluster: &Cluster, groups: &Groups, direction: Direction) -> Option<Lack> {
        let (subject, other) = self.ends(direction);
        let groups = subject.groups(cluster, groups, direction, self.family);
        if groups.is_empty() {
            return None;
        }
        let could_be_own_node = match other {
            Party::End(End::Pod(_)) => false,
            Party::End(End::Address(address)) => cluster.is_node(address) && subject.node(cluster).is_none(),
            Party::Host(_) => subject.node(cluster).is_none() || other.node(cluster).is_none(),
        };
        if could_be_own_node {
            return Some(Lack::Node);
        }
        let seen = other.seen(cluster, subject, self.family);
        let by_blocks = || groups.iter().any(|group| !self.by_blocks(group, seen).is_none());
        let unknown = !other.has_address(cluster) && by_blocks();
        unknown.then_some(Lack::Address)
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

    /// What a direction says of the traffic, and why.
    #[must_use]
    pub fn decide(&self, cluster: &Cluster, groups: &Groups, direction: Direction) -> Decision {
        let (subject, other) = self.ends(direction);
        let bounds = self.bounds(cluster, groups, direction);
        let verdict = bounds.verdict(&self.traffic);
        let mut decision = Decision {
            direction,
            verdict,
            reason: Reason::DefaultAllow,
            isolated_by: Vec::new(),
            rules: Vec::new(),
            rule_count: 0,
            candidates: Vec::new(),
        };
        let deciding = subject.groups(cluster, groups, direction, self.family);
        for group in &deciding {
            decision.isolated_by.extend(&group.key.policies);
            decision.add_rules(self, cluster, group, other);
        }
        if deciding.len() > 1 {
            decision.isolated_by.sort_unstable();
            decision.isolated_by.dedup();
            decision.rules.sort();
            decision.rules.dedup();
        }
        let rules = |policy: &PolicyId| cluster.policy(*policy).rules(direction).len();
        decision.rule_count = decision.isolated_by.iter().map(rules).sum();
        decision.reason = match (self.exemption(cluster), subject, deciding.first()) {
            (Some(Exemption::Itself), _, _) => Reason::Itself,
            (Some(Exemption::OwnNode), _, _) => Reason::OwnNode,
            (None, Party::Host(_), _) => Reason::HostNetworkExempt,
            (None, _, None) => Reason::DefaultAllow,
            _ if verdict == Verdict::Allowed => Reason::Rule,
            _ if verdict == Verdict::Unknown => {
                Reason::Unknown(self.lack(cluster, groups, direction).unwrap_or(Lack::Address))
            }
            (None, _, Some(first)) => {
                let denied = self.traffic.difference(&bounds.most);
                // Of several that decide together, one that denies some of it.
                let seen = other.seen(cluster, subject, self.family);
                let is_why = |group: &&&Group| !denied.difference(&group.traffic(cluster, seen)).is_none();
                let group = deciding.iter().find(is_why).unwrap_or(first);
                let denied = denied.difference(&group.traffic(cluster, seen));
                decision.candidates = near::nearest(cluster, group, self, other, &denied);
                let code = decision.candidates.first().and_then(Candidate::code);
                Reason::Denied(code.unwrap_or(Code::DefaultDenyOnly))
            }
        };
        decision
    }
}

impl Decision {
    fn add_rules(&mut self, question: &Question, cluster: &Cluster, group: &Group, other: Party) {
        let seen = other.seen(cluster, question.ends(self.direction).0, question.family);
        for policy in &group.key.policies {
            for rule in cluster.policy(*policy).rules(self.direction) {
                let admitted = Admitted::of_ports(&rule.ports, self.direction, &group.key.resolution);
                let meets = !admitted.traffic_to(seen.ports).intersection(&question.traffic).is_none();
                if meets && atoms(&rule.peers).iter().any(|atom| atom.holds(cluster, seen)) {
                    self.rules.push((*policy, rule.path.clone()));
                }
            }
        }
    }
}

impl Bounds {
    /// What both allow.
    fn and(&self, other: &Self) -> Self {
        Self { least: self.least.intersection(&other.least), most: self.most.intersection(&other.most) }
    }

    /// What is said of some traffic. Where some is allowed and some denied for
    /// certain, that some is unknown changes nothing.
    #[must_use]
    pub fn verdict(&self, traffic: &Traffic) -> Verdict {
        let allowed = !traffic.intersection(&self.least).is_none();
        let denied = !traffic.difference(&self.most).is_none();
        let unknown = !traffic.intersection(&self.most.difference(&self.least)).is_none();
        match (allowed, denied, unknown) {
            (true, true, _) => Verdict::Partial,
            (_, _, true) => Verdict::Unknown,
            (true, false, false) => Verdict::Allowed,
            // Nothing was asked about.
            (false, _, false) => Verdict::Denied,
        }
    }
}

impl Reason {
    /// Its stable code; none where the input does not decide.
    #[must_use]
    pub const fn as_str(self) -> Option<&'static str> {
        Some(match self {
            Self::DefaultAllow => "default-allow",
            Self::Rule => "rule",
            Self::OwnNode => "own-node",
            Self::Itself => "self",
            Self::HostNetworkExempt => "hostnetwork-exempt",
            Self::Denied(code) => code.as_str(),
            Self::Unknown(_) => return None,
        })
    }
}
