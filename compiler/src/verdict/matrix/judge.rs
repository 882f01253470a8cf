//! Kinds of ends, and what every group makes of every kind.

use std::sync::Arc;

use indexmap::IndexSet;
use rustc_hash::{FxBuildHasher, FxHashMap};
use smallvec::SmallVec;

use crate::algebra::cidr::{self, AddressSet};
use crate::algebra::traffic::Traffic;
use crate::cluster::group::{Admitted, Atom, Group, GroupId, Groups, OtherEnd};
use crate::cluster::selection::UnknownLabels;
use crate::cluster::{ClassId, Cluster};
use crate::object::{ContainerPort, Family};
use crate::policy::Direction;
use crate::verdict::bounds::Deciding;
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
struct EndKind {
    /// The groups that decide about it together, in the order of
    /// [`Direction::ALL`].
    groups: [SmallVec<[GroupId; 1]>; 2],
    /// The same where the input does not say which policies apply.
    open: [Option<Box<Deciding>>; 2],
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
    /// Of an end without an address, the family of the one that it will have.
    assumed: Option<Family>,
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
    seen: IndexSet<EndKind, FxBuildHasher>,
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
        let assumed = family.filter(|_| address.is_none());
        let face = self.face(end.seen(cluster, None, family), assumed);
        let mut faces = SmallVec::new();
        for node in nodes {
            if let Some(viewer) = self.viewer(node) {
                faces.push((viewer, self.face(end.seen(cluster, Some(node), family), assumed)));
            }
        }
        let open = |direction| {
            let deciding = end.deciding(cluster, self.groups, direction, family);
            (!deciding.is_certain()).then(|| Box::new(deciding))
        };
        let kind = EndKind {
            open: Direction::ALL.map(open),
            faces,
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

    fn face(&mut self, seen: OtherEnd<'_>, assumed: Option<Family>) -> FaceId {
        let zone = seen.address.map(|address| Zone { family: Family::of(&address), place: self.zones.place(address) });
        let classes = seen.classes.iter().copied().collect();
        let ports = if self.ports_matter { seen.ports.to_vec() } else { Vec::new() };
        FaceId(place(self.faces.insert_full(Face { classes, zone, assumed, ports }).0))
    }

    /// What every group makes of every kind.
    pub(crate) fn judge(&self, known: &mut TrafficTable) -> PairVerdicts {
        let mut by_class = FxHashMap::<ClassId, Vec<usize>>::default();
        for (i, face) in self.faces.iter().enumerate() {
            face.classes.iter().for_each(|class| by_class.entry(*class).or_default().push(i));
        }
        let mut held_by = FxHashMap::<&Atom, Vec<usize>>::default();
        let mut maybe_held_by = FxHashMap::<&Atom, Vec<usize>>::default();
        let (mut admits, mut may_admit) = (Vec::new(), Vec::new());
        for (_, group) in self.groups.all() {
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
            may_admit.push(self.may_admit(group, &row, &by_class, &mut maybe_held_by, known));
            admits.push(row);
        }
        let slot = |face: &Face| face.assumed.map_or(ASSUMED_NONE, |family| family as usize);
        let assumed = self.faces.iter().map(|face| face.zone.is_none().then(|| slot(face))).collect();
        PairVerdicts { kinds: self.seen.iter().cloned().collect(), admits, may_admit, assumed }
    }

    /// What a group may admit to faces beyond what it does.
    fn may_admit<'g>(
        &self,
        group: &'g Group,
        admits: &[TrafficId],
        by_class: &FxHashMap<ClassId, Vec<usize>>,
        maybe_held_by: &mut FxHashMap<&'g Atom, Vec<usize>>,
        known: &mut TrafficTable,
    ) -> MayAdmit {
        let mut may = MayAdmit::default();
        for (atom, admitted) in &group.admitted {
            let is_by_face = match atom {
                Atom::Everyone => continue,
                // Every end that has no address yet may be in the block.
                Atom::Block(block) if admitted.named.is_empty() => {
                    let traffic = known.id(&admitted.traffic);
                    if self.cluster.may_hold_a_new_address(block) {
                        for slot in [ASSUMED_NONE, block.family as usize] {
                            may.to_bare[slot] = known.union(may.to_bare[slot], traffic);
                        }
                    }
                    false
                }
                Atom::Pods(_) | Atom::Block(_) => true,
            };
            if !is_by_face {
                continue;
            }
            let held = maybe_held_by.entry(atom).or_insert_with(|| self.maybe_held(atom, by_class));
            for face in held {
                let ports = &self.faces[*face].ports;
                let mut traffic = admitted.traffic_to(ports);
                if self.faces[*face]
                    .classes
                    .iter()
                    .any(|class| self.cluster.class(*class).unknown == UnknownLabels::All)
                {
                    // A pod that only a slice names may call any of its ports by the name.
                    let (first, last) = Traffic::PORTS;
                    let named = admitted.named.iter().map(|(protocol, _)| (*protocol, first, last));
                    traffic = traffic.union(&Traffic::of_ranges(named));
                }
                let (traffic, entry) = (known.id(&traffic), may.to_face.entry(*face).or_insert(admits[*face]));
                *entry = known.union(*entry, traffic);
            }
        }
        may
    }

    /// The faces of ends that an atom may mean.
    fn maybe_held(&self, atom: &Atom, by_class: &FxHashMap<ClassId, Vec<usize>>) -> Vec<usize> {
        let candidates: Vec<usize> = match atom {
            Atom::Everyone => Vec::new(),
            Atom::Pods(peer) => {
                let classes = self.cluster.possibly_selected(peer);
                classes.iter().filter_map(|class| by_class.get(class)).flatten().copied().collect()
            }
            Atom::Block(_) => (0..self.faces.len()).filter(|face| self.faces[*face].zone.is_none()).collect(),
        };
        let may_hold = |place: &usize| {
            let face = &self.faces[*place];
            let first = |zone: Zone| cidr::address(zone.family, self.zones.starts(zone.family)[zone.place]);
            let seen = OtherEnd { classes: &face.classes, address: face.zone.map(first), ports: &face.ports };
            atom.may_hold(self.cluster, seen, face.assumed)
        };
        let mut held: Vec<usize> = candidates.into_iter().filter(may_hold).collect();
        held.sort_unstable();
        held.dedup();
        held
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
    kinds: Vec<EndKind>,
    /// By group, then by the face of the other end.
    admits: Vec<Vec<TrafficId>>,
    /// By group.
    may_admit: Vec<MayAdmit>,
    /// By face: of an end without an address, the place in [`MayAdmit::to_bare`] of the
    /// family that it is assumed to have.
    assumed: Vec<Option<usize>>,
}

/// The place in [`MayAdmit::to_bare`] of ends of either family.
const ASSUMED_NONE: usize = 2;

/// What a group may admit beyond what it does for certain.
#[derive(Debug, Default)]
struct MayAdmit {
    /// To ends without an address, by the family that it will have: IPv4, IPv6, either.
    to_bare: [TrafficId; 3],
    /// To these faces, with what is certain.
    to_face: FxHashMap<usize, TrafficId>,
}

/// What passes between two ends, at least and at most.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct BoundIds {
    pub(crate) least: TrafficId,
    pub(crate) most: TrafficId,
}

impl PairVerdicts {
    /// What a group exchanges with ends of a kind, on most nodes.
    pub(crate) fn admitted(&self, group: GroupId, other: KindId) -> TrafficId {
        self.admits[group.0 as usize][self.kinds[other.index()].face.0 as usize]
    }

    /// Whether the input says all that decides between these kinds.
    pub(crate) fn is_certain(&self) -> bool {
        self.kinds.iter().all(|kind| kind.open.iter().all(Option::is_none))
            && self.assumed.iter().all(Option::is_none)
            && self.may_admit.iter().all(|may| may.to_face.is_empty())
    }

    /// What passes between ends of two kinds at least and at most, unless they are exempt.
    pub(crate) fn bounds(&self, known: &mut TrafficTable, from: KindId, to: KindId) -> BoundIds {
        let egress = self.directed(known, Direction::Egress, from, to);
        let ingress = self.directed(known, Direction::Ingress, to, from);
        let least = known.intersection(egress.least, ingress.least);
        let most = known.intersection(egress.most, ingress.most);
        BoundIds { least, most }
    }

    fn directed(&self, known: &mut TrafficTable, direction: Direction, subject: KindId, other: KindId) -> BoundIds {
        let (subject, other) = (&self.kinds[subject.index()], &self.kinds[other.index()]);
        let own = other.faces.iter().find(|(viewer, _)| subject.node == Some(*viewer));
        let face = own.map_or(other.face, |(_, face)| *face).0 as usize;
        let open = subject.open[direction as usize].as_deref();
        let (least, most) = match open {
            Some(open) => (&open.least, &open.most),
            None => (&subject.groups[direction as usize], &subject.groups[direction as usize]),
        };
        let mut bounds = BoundIds { least: TrafficId::ALL, most: TrafficId::ALL };
        for group in least {
            bounds.least = known.intersection(bounds.least, self.admits[group.0 as usize][face]);
        }
        for group in most {
            let certain = self.admits[group.0 as usize][face];
            let may = &self.may_admit[group.0 as usize];
            let mut traffic = may.to_face.get(&face).copied().unwrap_or(certain);
            if let Some(slot) = self.assumed[face] {
                traffic = known.union(traffic, may.to_bare[slot]);
            }
            bounds.most = known.intersection(bounds.most, traffic);
        }
        if open.is_some_and(|open| open.is_nothing_certain) {
            bounds.least = TrafficId::NONE;
        }
        bounds
    }
}

/// Traffic that is known, by its place in [`TrafficTable`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
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
