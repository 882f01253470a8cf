//! Kinds of ends, and what every group makes of every kind.

use std::sync::Arc;

use indexmap::IndexSet;
use rustc_hash::{FxBuildHasher, FxHashMap};

use crate::cidr;
use crate::cluster::{ClassId, Cluster};
use crate::flow::End;
use crate::group::{Admitted, Atom, GroupId, Groups};
use crate::object::{ContainerPort, Family};
use crate::policy::Direction;
use crate::traffic::Traffic;

/// A kind of ends, by its place among them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct KindId(u32);

/// Everything about an end that a rule can see.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct Kind {
    /// Its groups, in the order of [`Direction::ALL`].
    groups: [Option<GroupId>; 2],
    class: Option<ClassId>,
    zone: Option<Zone>,
    /// Container ports, where some egress rule names ports.
    ports: Vec<ContainerPort>,
}

/// One of the intervals into which the edges of all blocks cut a family's
/// addresses: no rule can tell two addresses of a zone apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
struct Zone {
    family: Family,
    place: usize,
}

/// The kinds of the ends that were asked about.
pub(super) struct Kinds<'a> {
    pub(super) cluster: &'a Cluster,
    groups: &'a Groups,
    /// Where the zones begin, by family; 0 is the first.
    zones: [Vec<u128>; 2],
    ports_matter: bool,
    seen: IndexSet<Kind, FxBuildHasher>,
}

impl<'a> Kinds<'a> {
    pub(super) fn new(cluster: &'a Cluster, groups: &'a Groups) -> Self {
        let mut zones = [vec![0], vec![0]];
        for atom in groups.iter().flat_map(|(_, group)| group.admitted.keys()) {
            if let Atom::Block(block) = atom {
                for (first, last) in block.addresses.ranges() {
                    let starts = &mut zones[block.family as usize];
                    starts.push(*first);
                    starts.extend(last.checked_add(1));
                }
            }
        }
        for starts in &mut zones {
            starts.sort_unstable();
            starts.dedup();
        }
        let ports_matter = groups.iter().any(|(_, group)| group.has_named());
        Self { cluster, groups, zones, ports_matter, seen: IndexSet::default() }
    }

    /// The kind of an end with its address of a family, or without one.
    pub(super) fn kind(&mut self, end: End, family: Option<Family>) -> KindId {
        let seen = end.seen(self.cluster, family);
        let zone = seen.address.map(|address| {
            let family = Family::of(&address);
            let starts = &self.zones[family as usize];
            Zone { family, place: starts.partition_point(|start| *start <= cidr::number(address)) - 1 }
        });
        let kind = Kind {
            groups: Direction::ALL.map(|direction| end.group(self.groups, direction)),
            class: seen.class,
            zone,
            ports: if self.ports_matter { seen.ports.to_vec() } else { Vec::new() },
        };
        KindId(place(self.seen.insert_full(kind).0))
    }

    /// What every group makes of every kind.
    pub(super) fn judge(&self, known: &mut Known) -> Judge {
        let mut by_class = FxHashMap::<ClassId, Vec<usize>>::default();
        for (i, kind) in self.seen.iter().enumerate() {
            kind.class.into_iter().for_each(|class| by_class.entry(class).or_default().push(i));
        }
        let mut held_by = FxHashMap::<&Atom, Vec<usize>>::default();
        let mut admits = Vec::new();
        for (_, group) in self.groups.iter() {
            let mut row = vec![TrafficId::NONE; self.seen.len()];
            for (atom, admitted) in &group.admitted {
                let held = held_by.entry(atom).or_insert_with(|| self.held(atom, &by_class));
                let plain = known.id(&admitted.traffic);
                for kind in held {
                    let more = match self.named(*kind, admitted) {
                        Some(traffic) => known.id(&traffic),
                        None => plain,
                    };
                    row[*kind] = known.union(row[*kind], more);
                }
            }
            admits.push(row);
        }
        Judge { groups: self.seen.iter().map(|kind| kind.groups).collect(), admits }
    }

    /// The kinds whose ends an atom means.
    fn held(&self, atom: &Atom, by_class: &FxHashMap<ClassId, Vec<usize>>) -> Vec<usize> {
        match atom {
            Atom::Everyone => (0..self.seen.len()).collect(),
            Atom::Pods(peer) => {
                let classes = self.cluster.selected(peer);
                classes.iter().filter_map(|class| by_class.get(class)).flatten().copied().collect()
            }
            Atom::Block(block) => {
                let inside: Vec<bool> =
                    self.zones[block.family as usize].iter().map(|start| block.addresses.contains(*start)).collect();
                let holds = |zone: Zone| zone.family == block.family && inside[zone.place];
                let kinds = self.seen.iter().enumerate();
                kinds.filter(|(_, kind)| kind.zone.is_some_and(holds)).map(|(i, _)| i).collect()
            }
        }
    }

    /// What is admitted to a kind whose ends resolve a name of a port.
    fn named(&self, kind: usize, admitted: &Admitted) -> Option<Traffic> {
        let ports = &self.seen[kind].ports;
        (!admitted.named.is_empty() && !ports.is_empty()).then(|| admitted.traffic_to(ports))
    }
}

/// Judges pairs of kinds.
#[derive(Debug)]
pub(super) struct Judge {
    /// The groups of each kind.
    groups: Vec<[Option<GroupId>; 2]>,
    /// By group, then by the kind at the other end.
    admits: Vec<Vec<TrafficId>>,
}

impl Judge {
    /// What passes between ends of two kinds, unless they are exempt.
    pub(super) fn verdict(&self, known: &mut Known, from: KindId, to: KindId) -> TrafficId {
        let directed = |direction: Direction, subject: KindId, other: KindId| {
            let group = self.groups[subject.0 as usize][direction as usize];
            group.map_or(TrafficId::ALL, |group| self.admits[group.0 as usize][other.0 as usize])
        };
        known.intersection(directed(Direction::Egress, from, to), directed(Direction::Ingress, to, from))
    }
}

/// Traffic that is known, by its place in [`Known`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct TrafficId(u32);

impl TrafficId {
    pub(super) const NONE: Self = Self(0);
    pub(super) const ALL: Self = Self(1);
}

/// All traffic that came up, each once, and what was worked out about it.
#[derive(Debug)]
pub(super) struct Known {
    traffic: IndexSet<Arc<Traffic>, FxBuildHasher>,
    unions: FxHashMap<(TrafficId, TrafficId), TrafficId>,
    intersections: FxHashMap<(TrafficId, TrafficId), TrafficId>,
}

impl Known {
    pub(super) fn new() -> Self {
        let traffic = [Traffic::none(), Traffic::all()].into_iter().map(Arc::new).collect();
        Self { traffic, unions: FxHashMap::default(), intersections: FxHashMap::default() }
    }

    pub(super) fn traffic(&self, id: TrafficId) -> Arc<Traffic> {
        Arc::clone(&self.traffic[id.0 as usize])
    }

    fn id(&mut self, traffic: &Traffic) -> TrafficId {
        let found = self.traffic.get_index_of(traffic);
        TrafficId(place(found.unwrap_or_else(|| self.traffic.insert_full(Arc::new(traffic.clone())).0)))
    }

    pub(super) fn union(&mut self, a: TrafficId, b: TrafficId) -> TrafficId {
        match (a, b) {
            _ if a == b => return a,
            (TrafficId::NONE, other) | (other, TrafficId::NONE) => return other,
            (TrafficId::ALL, _) | (_, TrafficId::ALL) => return TrafficId::ALL,
            _ => {}
        }
        if let Some(known) = self.unions.get(&(a, b)) {
            return *known;
        }
        let made = self.traffic[a.0 as usize].union(&self.traffic[b.0 as usize]);
        let id = self.id(&made);
        self.unions.insert((a, b), id);
        id
    }

    fn intersection(&mut self, a: TrafficId, b: TrafficId) -> TrafficId {
        match (a, b) {
            _ if a == b => return a,
            (TrafficId::NONE, _) | (_, TrafficId::NONE) => return TrafficId::NONE,
            (TrafficId::ALL, other) | (other, TrafficId::ALL) => return other,
            _ => {}
        }
        if let Some(known) = self.intersections.get(&(a, b)) {
            return *known;
        }
        let made = self.traffic[a.0 as usize].intersection(&self.traffic[b.0 as usize]);
        let id = self.id(&made);
        self.intersections.insert((a, b), id);
        id
    }
}

/// A place among things that are never 2^32.
#[allow(clippy::cast_possible_truncation, reason = "no cluster holds 2^32 objects of a kind")]
fn place(place: usize) -> u32 {
    place as u32
}
