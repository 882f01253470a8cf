//! Kinds of ends, and what every group makes of every kind.

use std::sync::Arc;

use indexmap::IndexSet;
use rustc_hash::{FxBuildHasher, FxHashMap};
use smallvec::SmallVec;

use crate::algebra::cidr::{self, AddressSet};
use crate::algebra::traffic::Traffic;
use crate::cluster::group::{Admitted, Atom, GroupId, Groups, OtherEnd};
use crate::cluster::{ClassId, Cluster};
use crate::object::{ContainerPort, Family};
use crate::policy::Direction;
use crate::verdict::flow::End;
use crate::verdict::zone::Zones;

/// A kind of ends, by its place among them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct KindId(u32);

impl KindId {
    pub(crate) const fn index(self) -> usize {
        self.0 as usize
    }
}

/// Everything about an end that decides.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct Kind {
    /// The groups that decide about it together, in the order of
    /// [`Direction::ALL`].
    groups: [SmallVec<[GroupId; 1]>; 2],
    /// Its node, if that sees some address otherwise than other nodes do.
    node: Option<Viewer>,
    /// As rules of most nodes see it, and as those of these nodes do.
    face: FaceId,
    faces: SmallVec<[(Viewer, FaceId); 0]>,
}

/// Everything about an end that a rule at the other one can see.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct Face {
    /// The classes of those that hold its address.
    classes: SmallVec<[ClassId; 1]>,
    zone: Option<Zone>,
    /// Container ports, where some egress rule names ports.
    ports: Vec<ContainerPort>,
}

/// A face, by its place among them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
struct FaceId(u32);

/// A node with a view of its own, by its place among them.
type Viewer = u32;

/// One of the [`Zones`], by its place in those of its family.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
struct Zone {
    family: Family,
    place: usize,
}

/// The kinds of the ends that were asked about.
pub(crate) struct Kinds<'a> {
    pub(crate) cluster: &'a Cluster,
    groups: &'a Groups,
    zones: Zones,
    ports_matter: bool,
    viewers: Vec<&'a str>,
    faces: IndexSet<Face, FxBuildHasher>,
    seen: IndexSet<Kind, FxBuildHasher>,
}

impl<'a> Kinds<'a> {
    pub(crate) fn new(cluster: &'a Cluster, groups: &'a Groups) -> Self {
        let zones = Zones::of(groups);
        let ports_matter = groups.iter().any(|(_, group)| group.has_named());
        let viewers = cluster.node_views().into_iter().collect();
        Self { cluster, groups, zones, ports_matter, viewers, faces: IndexSet::default(), seen: IndexSet::default() }
    }

    /// Cuts the zones at the edges of these addresses too. Only before the first kind.
    pub(crate) fn cut(&mut self, family: Family, addresses: &AddressSet) {
        self.zones.cut(family, addresses);
    }

    /// Makes the kinds distinguish container ports too. Only before the first kind.
    pub(crate) fn distinguish_ports(&mut self) {
        self.ports_matter = true;
    }

    /// The zones, cut wherever [`Self::cut`] was asked to.
    pub(crate) fn zones(&self) -> &Zones {
        &self.zones
    }

    /// The kinds that were asked about, and what a rule of most nodes sees of
    /// each: its groups, the first of those that decide together, and the end
    /// itself with the first address of its zone.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (KindId, [Option<GroupId>; 2], OtherEnd<'_>)> {
        self.seen.iter().enumerate().map(|(i, kind)| {
            let id = KindId(place(i));
            (id, kind.groups.each_ref().map(|groups| groups.first().copied()), self.seen(id))
        })
    }

    /// What a rule of most nodes sees of a kind.
    pub(crate) fn seen(&self, kind: KindId) -> OtherEnd<'_> {
        let face = &self.faces[self.seen[kind.index()].face.0 as usize];
        let first = |zone: Zone| cidr::address(zone.family, self.zones.starts(zone.family)[zone.place]);
        OtherEnd { classes: &face.classes, address: face.zone.map(first), ports: &face.ports }
    }

    /// The kind of an end with its address of a family, or without one.
    pub(crate) fn kind(&mut self, end: End, family: Option<Family>) -> KindId {
        let cluster = self.cluster;
        let address = family.and_then(|family| end.address(cluster, family));
        let contest = address.and_then(|address| cluster.contest(address));
        let nodes: Vec<&str> = contest.iter().flat_map(|of| of.holders_by_node()).map(|(node, _)| node).collect();
        let face = self.face(end.seen(cluster, None, family));
        let faces = nodes.into_iter().filter_map(|node| {
            let viewer = self.viewer(node)?;
            Some((viewer, self.face(end.seen(cluster, Some(node), family))))
        });
        let kind = Kind {
            faces: faces.collect(),
            face,
            groups: Direction::ALL.map(|direction| end.groups(cluster, self.groups, direction, family)),
            node: end.node(cluster).and_then(|node| self.viewer(node)),
        };
        KindId(place(self.seen.insert_full(kind).0))
    }

    /// The place of a node among those with views of their own.
    fn viewer(&self, node: &str) -> Option<Viewer> {
        self.viewers.binary_search(&node).ok().map(place)
    }

    fn face(&mut self, seen: OtherEnd<'_>) -> FaceId {
        let zone = seen.address.map(|address| Zone { family: Family::of(&address), place: self.zones.place(address) });
        let classes = seen.classes.iter().copied().collect();
        let ports = if self.ports_matter { seen.ports.to_vec() } else { Vec::new() };
        FaceId(place(self.faces.insert_full(Face { classes, zone, ports }).0))
    }

    /// What every group makes of every kind.
    pub(crate) fn judge(&self, known: &mut TrafficTable) -> PairVerdicts {
        let mut by_class = FxHashMap::<ClassId, Vec<usize>>::default();
        for (i, face) in self.faces.iter().enumerate() {
            face.classes.iter().for_each(|class| by_class.entry(*class).or_default().push(i));
        }
        let mut held_by = FxHashMap::<&Atom, Vec<usize>>::default();
        let mut admits = Vec::new();
        for (_, group) in self.groups.iter() {
            let mut row = vec![TrafficId::NONE; self.faces.len()];
            for (atom, admitted) in &group.admitted {
                let held = held_by.entry(atom).or_insert_with(|| self.held(atom, &by_class));
                let plain = known.id(&admitted.traffic);
                for face in held {
                    let more = match self.named(*face, admitted) {
                        Some(traffic) => known.id(&traffic),
                        None => plain,
                    };
                    row[*face] = known.union(row[*face], more);
                }
            }
            admits.push(row);
        }
        PairVerdicts { kinds: self.seen.iter().cloned().collect(), admits }
    }

    /// The faces of ends that an atom means.
    fn held(&self, atom: &Atom, by_class: &FxHashMap<ClassId, Vec<usize>>) -> Vec<usize> {
        match atom {
            Atom::Everyone => (0..self.faces.len()).collect(),
            Atom::Pods(peer) => {
                let classes = self.cluster.selected(peer);
                let some = classes.iter().filter_map(|class| by_class.get(class)).flatten().copied();
                // One of several classes is not enough, and finds its face more
                // than once.
                let selects = |class: &ClassId| classes.binary_search(class).is_ok();
                let mut held: Vec<usize> = some.filter(|face| self.faces[*face].classes.iter().all(selects)).collect();
                held.sort_unstable();
                held.dedup();
                held
            }
            Atom::Block(block) => {
                let inside: Vec<bool> =
                    self.zones.starts(block.family).iter().map(|start| block.addresses.contains(*start)).collect();
                let holds = |zone: Zone| zone.family == block.family && inside[zone.place];
                let faces = self.faces.iter().enumerate();
                faces.filter(|(_, face)| face.zone.is_some_and(holds)).map(|(i, _)| i).collect()
            }
        }
    }

    /// What is admitted to a face whose ends resolve a name of a port.
    fn named(&self, face: usize, admitted: &Admitted) -> Option<Traffic> {
        let ports = &self.faces[face].ports;
        (!admitted.named.is_empty() && !ports.is_empty()).then(|| admitted.traffic_to(ports))
    }
}

/// Judges pairs of kinds.
#[derive(Debug)]
pub(crate) struct PairVerdicts {
    kinds: Vec<Kind>,
    /// By group, then by the face of the other end.
    admits: Vec<Vec<TrafficId>>,
}

impl PairVerdicts {
    /// What a group exchanges with ends of a kind, on most nodes.
    pub(crate) fn admitted(&self, group: GroupId, other: KindId) -> TrafficId {
        self.admits[group.0 as usize][self.kinds[other.index()].face.0 as usize]
    }

    /// What passes between ends of two kinds, unless they are exempt.
    pub(crate) fn verdict(&self, known: &mut TrafficTable, from: KindId, to: KindId) -> TrafficId {
        let mut directed = |direction: Direction, subject: KindId, other: KindId| {
            let (subject, other) = (&self.kinds[subject.index()], &self.kinds[other.index()]);
            let own = other.faces.iter().find(|(viewer, _)| subject.node == Some(*viewer));
            let face = own.map_or(other.face, |(_, face)| *face);
            (subject.groups[direction as usize].iter()).fold(TrafficId::ALL, |all, group| {
                known.intersection(all, self.admits[group.0 as usize][face.0 as usize])
            })
        };
        let (egress, ingress) = (directed(Direction::Egress, from, to), directed(Direction::Ingress, to, from));
        known.intersection(egress, ingress)
    }
}

/// Traffic that is known, by its place in [`TrafficTable`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct TrafficId(u32);

impl TrafficId {
    pub(crate) const NONE: Self = Self(0);
    pub(crate) const ALL: Self = Self(1);
}

/// All traffic that came up, each once, and what was worked out about it.
#[derive(Debug)]
pub(crate) struct TrafficTable {
    traffic: IndexSet<Arc<Traffic>, FxBuildHasher>,
    unions: FxHashMap<(TrafficId, TrafficId), TrafficId>,
    intersections: FxHashMap<(TrafficId, TrafficId), TrafficId>,
}

impl TrafficTable {
    pub(crate) fn new() -> Self {
        let traffic = [Traffic::none(), Traffic::all()].into_iter().map(Arc::new).collect();
        Self { traffic, unions: FxHashMap::default(), intersections: FxHashMap::default() }
    }

    pub(crate) fn traffic(&self, id: TrafficId) -> Arc<Traffic> {
        Arc::clone(&self.traffic[id.0 as usize])
    }

    pub(crate) fn id(&mut self, traffic: &Traffic) -> TrafficId {
        let found = self.traffic.get_index_of(traffic);
        TrafficId(place(found.unwrap_or_else(|| self.traffic.insert_full(Arc::new(traffic.clone())).0)))
    }

    pub(crate) fn union(&mut self, a: TrafficId, b: TrafficId) -> TrafficId {
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

    pub(crate) fn intersection(&mut self, a: TrafficId, b: TrafficId) -> TrafficId {
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
