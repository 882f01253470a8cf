//! What Azure NPM lets pass between two ends.

use std::collections::BTreeMap;

use super::Placement;
use super::translate::{Refusal, SetMatch, Term, TermPeer, Translation};
use crate::algebra::cidr;
use crate::algebra::traffic::Traffic;
use crate::cluster::group::{Admitted, OtherEnd, Resolution, resolve};
use crate::cluster::{ClassId, Cluster, PolicyId};
use crate::object::{ContainerPort, Family, NetworkPolicy, Protocol};
use crate::policy::{Direction, PortMatch, Ports};
use crate::verdict::flow::{End, Exemption, exemption};

/// Azure NPM with the policies of a cluster.
#[derive(Debug)]
pub struct Model<'a> {
    pub(super) cluster: &'a Cluster,
    /// Where its jump stands.
    pub placement: Placement,
    /// What it makes of each policy, by the policy's place in the cluster.
    translations: Vec<Result<Translation, Refusal>>,
}

impl<'a> Model<'a> {
    /// Azure NPM with these policies, which have to be those that the cluster
    /// was made of.
    #[must_use]
    pub fn new(cluster: &'a Cluster, policies: &[NetworkPolicy], placement: Placement) -> Self {
        // If several have one name, the last counts, as it does for the cluster.
        let last: BTreeMap<(&str, &str), &NetworkPolicy> =
            policies.iter().map(|policy| ((policy.namespace(), policy.name()), policy)).collect();
        let read = last.into_values().map(Translation::read).collect::<Vec<_>>();
        debug_assert_eq!(read.len(), cluster.policies().count(), "policies of another cluster");
        Self { cluster, placement, translations: read }
    }

    /// What it makes of a policy.
    ///
    /// # Errors
    /// Why it does not program the policy.
    pub fn translation(&self, policy: PolicyId) -> Result<&Translation, &Refusal> {
        self.translations[self.cluster.as_written(policy).0 as usize].as_ref()
    }

    /// Those of the policies that it programs and that isolate in a direction.
    pub(super) fn isolating(&self, policies: &[PolicyId], direction: Direction) -> Vec<(PolicyId, &Translation)> {
        let programmed = policies.iter().filter_map(|id| Some((*id, self.translation(*id).ok()?)));
        programmed.filter(|(_, translation)| translation.isolates[direction as usize]).collect()
    }

    /// What its policies of one direction let pass from one end to another.
    #[must_use]
    pub fn directed(&self, direction: Direction, from: End, to: End, family: Option<Family>) -> Traffic {
        // It has no rules for IPv6 at all.
        if family == Some(Family::V6) {
            return Traffic::all();
        }
        let (subject, other) = match direction {
            Direction::Egress => (from, to),
            Direction::Ingress => (to, from),
        };
        let End::Pod(subject) = subject else { return Traffic::all() };
        let Some(class) = self.cluster.class_of(subject) else { return Traffic::all() };
        let isolating = self.isolating(&self.cluster.policies_of(class, direction), direction);
        if isolating.is_empty() {
            return Traffic::all();
        }
        let other = other.seen(self.cluster, self.cluster.pod(subject).node.as_deref(), family);
        let resolution = resolution(&isolating, direction, &self.cluster.pod(subject).ports);
        let terms = isolating.iter().flat_map(|(_, translation)| &translation.terms[direction as usize]);
        terms.filter(|term| self.holds(&term.peer, other)).fold(Traffic::none(), |traffic, term| {
            traffic.union(&Admitted::of_ports(&term.ports, direction, &resolution).traffic_to(other.ports))
        })
    }

    /// What it lets pass from one end to another, sent straight to the other's
    /// address or by way of a Service's.
    #[must_use]
    pub fn verdict(&self, from: End, to: End, family: Option<Family>) -> Traffic {
        match exemption(self.cluster, from, to) {
            Some(Exemption::OwnNode) => return Traffic::all(),
            // Only by way of a Service does it leave the pod, and kube-proxy
            // marks it to be masqueraded.
            Some(Exemption::Itself) if self.placement == Placement::BehindKubeProxy => return Traffic::all(),
            _ => {}
        }
        let egress = self.directed(Direction::Egress, from, to, family);
        egress.intersection(&self.directed(Direction::Ingress, from, to, family))
    }

    /// Whether a peer means another end.
    pub(super) fn holds(&self, peer: &TermPeer, other: OtherEnd<'_>) -> bool {
        match peer {
            TermPeer::Everyone => true,
            TermPeer::Sets(matches) => matches.iter().all(|set| set.included == self.is_member(set, other.classes)),
            TermPeer::Block(addresses) => other
                .address
                .is_some_and(|address| Family::of(&address) == Family::V4 && addresses.contains(cidr::number(address))),
        }
    }

    /// Whether the set holds the endpoints of a class; no set holds an
    /// address outside.
    fn is_member(&self, set: &SetMatch, classes: &[ClassId]) -> bool {
        classes.first().is_some_and(|class| {
            let class = self.cluster.class(*class);
            set.member.holds(&class.namespace, self.cluster.namespace(&class.namespace), &class.labels)
        })
    }
}

/// What the names in ingress rules are on their subject.
fn resolution(isolating: &[(PolicyId, &Translation)], direction: Direction, ports: &[ContainerPort]) -> Resolution {
    if direction == Direction::Egress {
        return Resolution::new();
    }
    let terms = isolating.iter().flat_map(|(_, translation)| &translation.terms[direction as usize]);
    let names = terms.flat_map(named).collect();
    resolve(&names, ports)
}

/// The names of a term's ports.
pub(super) fn named(term: &Term) -> impl Iterator<Item = (Protocol, String)> + '_ {
    let ports = match &term.ports {
        Ports::Everything => &[][..],
        Ports::AnyOf(ports) => ports,
    };
    ports.iter().filter_map(|port| match port {
        PortMatch::Named(protocol, name) => Some((*protocol, name.clone())),
        PortMatch::Range(..) | PortMatch::Nothing => None,
    })
}

impl TermPeer {
    /// Whether it only excludes, so that it means addresses
    /// outside the cluster too.
    #[must_use]
    pub fn is_negative(&self) -> bool {
        matches!(self, Self::Sets(matches) if matches.iter().all(|set| !set.included))
    }
}
