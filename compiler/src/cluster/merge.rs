//! What the rules of several policies admit together, and which of them admit it.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use rustc_hash::FxHashMap;

use super::admitted::{Admitted, Atom, Resolution, atoms, tunnel_ports};
use crate::algebra::traffic::{NAMED_RANGE, PortSet, Traffic};
use crate::object::{ContainerPort, Protocol};
use crate::policy::{Direction, Policy, PolicyRule, PortMatch, Ports};

/// What rules admit together.
pub(super) struct Merged<'a> {
    /// By atom; the atoms of the same rules share one value.
    pub(super) admitted: BTreeMap<Atom, Arc<Admitted>>,
    rules: Vec<(&'a Policy, &'a PolicyRule, Collected)>,
    places: FxHashMap<*const Admitted, Vec<usize>>,
}

/// What the policies of a group admit, with the rules that admit it.
#[derive(Debug)]
pub(crate) struct Admission<'a> {
    /// By atom; the atoms of the same rules share one value.
    pub(crate) admitted: BTreeMap<Atom, Arc<Admitted>>,
    rules: Vec<AdmittingRule<'a>>,
    /// For each value of [`Self::admitted`], by its address: the places in
    /// [`Self::rules`] of the rules that it is made of, in ascending order.
    places: FxHashMap<*const Admitted, Vec<usize>>,
}

/// A rule of a policy that admits something.
#[derive(Debug)]
pub(crate) struct AdmittingRule<'a> {
    /// The policy.
    pub(crate) policy: &'a Policy,
    /// Its rule.
    pub(crate) rule: &'a PolicyRule,
    /// What this rule admits alone, to each peer that it names.
    pub(crate) admitted: Admitted,
}

impl<'a> Admission<'a> {
    /// What these rules admit, in a group that resolves names like this.
    pub(crate) fn new(
        rules: impl IntoIterator<Item = (&'a Policy, &'a PolicyRule)>,
        direction: Direction,
        resolution: &Resolution,
    ) -> Self {
        let Merged { admitted, rules, places } = merge(rules, direction, resolution);
        let source =
            |(policy, rule, ports): (_, _, Collected)| AdmittingRule { policy, rule, admitted: ports.finish() };
        Self { admitted, rules: rules.into_iter().map(source).collect(), places }
    }

    /// The rules from which some values of [`Self::admitted`] are made, in the order of the
    /// policies and of the rules in them.
    pub(crate) fn sources<'s>(&'s self, of: impl IntoIterator<Item = &'s Admitted>) -> Vec<&'s AdmittingRule<'a>> {
        // Thousands of peers may share one value.
        let mut of: Vec<*const Admitted> = of.into_iter().map(std::ptr::from_ref).collect();
        of.sort_unstable();
        of.dedup();
        let mut places: Vec<usize> = of.iter().filter_map(|of| self.places.get(of)).flatten().copied().collect();
        places.sort_unstable();
        places.dedup();
        places.into_iter().map(|place| &self.rules[place]).collect()
    }
}

/// What rules admit together, in a group that resolves names like this.
pub(super) fn merge<'a>(
    rules: impl IntoIterator<Item = (&'a Policy, &'a PolicyRule)>,
    direction: Direction,
    resolution: &Resolution,
) -> Merged<'a> {
    let mut of_rules = Vec::new();
    let mut of_atoms = BTreeMap::<Atom, Vec<usize>>::new();
    for (policy, rule) in rules {
        let mut ports = Collected::default();
        ports.add_ports(&rule.ports, direction, resolution);
        if ports.is_nothing() {
            continue;
        }
        for atom in atoms(&rule.peers) {
            let places = of_atoms.entry(atom).or_default();
            // A rule may name a peer twice.
            if places.last() != Some(&of_rules.len()) {
                places.push(of_rules.len());
            }
        }
        of_rules.push((policy, rule, ports));
    }
    // Peers times ports may be a thousand times what the rules say in text.
    let mut made = FxHashMap::<Vec<usize>, Arc<Admitted>>::default();
    let admitted = of_atoms.into_iter().map(|(atom, places)| {
        let admitted = made.entry(places).or_insert_with_key(|places| {
            let mut together = Collected::default();
            for place in places {
                together.add(&of_rules[*place].2);
            }
            Arc::new(together.finish())
        });
        (atom, Arc::clone(admitted))
    });
    let admitted = admitted.collect();
    let places = made.into_iter().map(|(places, admitted)| (Arc::as_ptr(&admitted), places)).collect();
    Merged { admitted, rules: of_rules, places }
}

/// What will be an [`Admitted`]: ranges in the order in which they come, which are sorted
/// once. A union for each would cost their number squared.
#[derive(Debug, Clone, Default)]
pub(super) struct Collected {
    is_everything: bool,
    ranges: Vec<(Protocol, u16, u16)>,
    named: BTreeSet<(Protocol, String)>,
}

impl Collected {
    fn add_ports(&mut self, ports: &Ports, direction: Direction, resolution: &Resolution) {
        let ports = match ports {
            Ports::Everything => {
                self.is_everything = true;
                return;
            }
            Ports::AnyOf(ports) => ports,
        };
        for port in ports {
            match (port, direction) {
                (PortMatch::Nothing, _) => {}
                (PortMatch::Range(protocol, first, last), _) => self.ranges.push((*protocol, *first, *last)),
                (PortMatch::Named(protocol, name), Direction::Ingress) => {
                    let numbers = resolution.get(&(*protocol, name.clone())).into_iter().flatten();
                    self.ranges.extend(numbers.map(|number| (*protocol, *number, *number)));
                }
                (PortMatch::Named(protocol, name), Direction::Egress) => {
                    self.named.insert((*protocol, name.clone()));
                }
            }
        }
    }

    fn add(&mut self, other: &Self) {
        self.is_everything |= other.is_everything;
        self.ranges.extend(&other.ranges);
        self.named.extend(other.named.iter().cloned());
    }

    fn is_nothing(&self) -> bool {
        !self.is_everything && self.ranges.is_empty() && self.named.is_empty()
    }

    pub(super) fn finish(&self) -> Admitted {
        let ranges = self.ranges.iter().filter(|(_, first, last)| first <= last);
        let of = |wanted| ranges.clone().filter(move |(protocol, ..)| *protocol == wanted);
        let range = |(_, first, last): &(Protocol, u16, u16)| (*first, *last);
        // A range of all ports names none of them.
        let naming_udp = of(Protocol::Udp).map(range).filter(|range| *range != Traffic::PORTS);
        let naming_tcp = of(Protocol::Tcp).map(range).filter(|(first, last)| last - first < NAMED_RANGE);
        Admitted {
            tunnels: PortSet::from_ranges(naming_udp).intersection(&tunnel_ports()),
            named_tcp: PortSet::from_ranges(naming_tcp),
            traffic: if self.is_everything { Traffic::all() } else { Traffic::of_ranges(self.ranges.iter().copied()) },
            named: self.named.clone(),
        }
    }
}

impl PolicyRule {
    /// What its ports admit to a destination with these container ports. The destination resolves
    /// named ports in both directions.
    #[must_use]
    pub fn traffic_to(&self, ports: &[ContainerPort]) -> Traffic {
        Admitted::of_ports(&self.ports, Direction::Egress, &Resolution::default()).traffic_to(ports)
    }
}

impl Admitted {
    /// What a rule's ports admit, in a group that resolves names like this.
    pub(crate) fn of_ports(ports: &Ports, direction: Direction, resolution: &Resolution) -> Self {
        let mut admitted = Collected::default();
        admitted.add_ports(ports, direction, resolution);
        admitted.finish()
    }
}
