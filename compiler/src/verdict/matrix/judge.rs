//! Kinds of ends, and what every group makes of every kind.

use indexmap::IndexSet;
use rustc_hash::{FxBuildHasher, FxHashMap, FxHashSet};
use smallvec::SmallVec;

use crate::algebra::cidr::{self, AddressSet};
use crate::algebra::traffic::Traffic;
use crate::cluster::group::{Admitted, Atom, Group, GroupId, Groups, OtherEnd};
use crate::cluster::new_address::NewAddress;
use crate::cluster::selection::UnknownLabels;
use crate::cluster::{ClassId, Cluster};
use crate::object::{ContainerPort, Family};
use crate::policy::Direction;
use crate::verdict::flow::End;
use crate::verdict::matrix::admitted::{AdmittedRow, HeldFaces, RowDraft};
pub(crate) use crate::verdict::matrix::end_kind::KindId;
use crate::verdict::matrix::end_kind::{EndKind, FaceId, Viewer};
use crate::verdict::matrix::known_traffic::place;
pub(crate) use crate::verdict::matrix::known_traffic::{TrafficId, TrafficTable};
use crate::verdict::matrix::pair_verdicts::{ASSUMED_NONE, MayAdmit};
pub(crate) use crate::verdict::matrix::pair_verdicts::{BoundIds, PairVerdicts};
use crate::verdict::zone::Zones;

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
    /// As [`OtherEnd::is_unread`].
    is_unread: bool,
}

/// The faces of ends about which the input does not say all. Each group asks for them.
struct OpenFaces {
    /// As [`Face::is_unread`].
    unread: Vec<usize>,
    /// Those without an address.
    bare: Vec<usize>,
}

impl OpenFaces {
    fn of<'f>(faces: impl Iterator<Item = &'f Face>) -> Self {
        let mut open = Self { unread: Vec::new(), bare: Vec::new() };
        for (place, face) in faces.enumerate() {
            if face.is_unread {
                open.unread.push(place);
            }
            if face.zone.is_none() {
                open.bare.push(place);
            }
        }
        open
    }
}

/// One of the [`Zones`], by its place in those of its family.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
struct Zone {
    family: Family,
    place: usize,
}

/// As what an end is asked about.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Roles {
    pub(crate) source: bool,
    pub(crate) destination: bool,
}

impl Roles {
    const BOTH: Self = Self { source: true, destination: true };

    fn add(&mut self, other: Self) {
        self.source |= other.source;
        self.destination |= other.destination;
    }

    /// Whether groups of a direction judge such an end as their subject.
    const fn is_subject(self, direction: Direction) -> bool {
        match direction {
            Direction::Egress => self.source,
            Direction::Ingress => self.destination,
        }
    }

    /// Whether groups of a direction see such an end at the other end.
    const fn is_other(self, direction: Direction) -> bool {
        match direction {
            Direction::Egress => self.destination,
            Direction::Ingress => self.source,
        }
    }
}

/// The kinds of the ends that were asked about.
pub(crate) struct Kinds<'a> {
    pub(crate) cluster: &'a Cluster,
    groups: &'a Groups,
    zones: Zones,
    ports_matter: bool,
    viewers: Vec<&'a str>,
    faces: IndexSet<Face, FxBuildHasher>,
    /// By face.
    face_roles: Vec<Roles>,
    seen: IndexSet<EndKind, FxBuildHasher>,
    /// As what the ends that come next are asked about.
    roles: Roles,
    /// The groups that judge some end, where not all ends are asked about in both roles.
    judging: Option<FxHashSet<GroupId>>,
}

impl<'a> Kinds<'a> {
    pub(crate) fn new(cluster: &'a Cluster, groups: &'a Groups) -> Self {
        let zones = Zones::of(groups);
        let ports_matter = groups.iter().any(|(_, group)| group.has_named());
        let viewers = cluster.node_views().into_iter().collect();
        Self {
            cluster,
            groups,
            zones,
            ports_matter,
            viewers,
            faces: IndexSet::default(),
            face_roles: Vec::new(),
            seen: IndexSet::default(),
            roles: Roles::BOTH,
            judging: None,
        }
    }

    /// From now on, kinds are asked about in these roles only, and only groups that judge such
    /// a kind are asked. Of 100,000 pods, a question is mostly about few.
    pub(crate) fn ask_as(&mut self, roles: Roles) {
        self.roles = roles;
        self.judging.get_or_insert_default();
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
        self.seen_face(self.seen[kind.index()].face.0 as usize)
    }

    /// What a rule sees of an end with a face: the first address of its zone stands for all.
    fn seen_face(&self, face: usize) -> OtherEnd<'_> {
        let face = &self.faces[face];
        let first = |zone: Zone| cidr::address(zone.family, self.zones.starts(zone.family)[zone.place]);
        OtherEnd {
            classes: &face.classes,
            address: face.zone.map(first),
            ports: &face.ports,
            new_family: face.assumed,
            is_unread: face.is_unread,
        }
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
        if let Some(judging) = &mut self.judging {
            for direction in Direction::ALL.into_iter().filter(|direction| self.roles.is_subject(*direction)) {
                judging.extend(&kind.groups[direction as usize]);
                let open = kind.open[direction as usize].as_deref();
                judging.extend(open.iter().flat_map(|open| open.least.iter().chain(&open.most)));
            }
        }
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
        let (face, is_new) = self.faces.insert_full(Face { classes, zone, assumed, ports, is_unread: seen.is_unread });
        if is_new {
            self.face_roles.push(Roles::default());
        }
        self.face_roles[face].add(self.roles);
        FaceId(place(face))
    }

    /// What every group makes of every kind.
    pub(crate) fn judge(&self, known: &mut TrafficTable) -> PairVerdicts {
        let mut by_class = FxHashMap::<ClassId, Vec<usize>>::default();
        for (i, face) in self.faces.iter().enumerate() {
            face.classes.iter().for_each(|class| by_class.entry(*class).or_default().push(i));
        }
        let open = OpenFaces::of(self.faces.iter());
        let (mut held, mut maybe_held) = (HeldFaces::default(), HeldFaces::default());
        let (mut admits, mut may_admit) = (Vec::new(), Vec::new());
        let mut draft = RowDraft::new(self.faces.len());
        for (id, group) in self.groups.all() {
            if self.judging.as_ref().is_some_and(|judging| !judging.contains(&id)) {
                admits.push(AdmittedRow::default());
                may_admit.push(MayAdmit::default());
                continue;
            }
            for (atom, admitted) in &group.admitted {
                let plain = known.id(&admitted.traffic);
                if *atom == Atom::Everyone {
                    draft.add_to_all(known, plain);
                    if admitted.named.is_empty() {
                        continue;
                    }
                }
                let faces = held.of(atom, || self.held(atom, &by_class));
                for face in faces.iter().copied().filter(|face| self.is_other(*face, group)) {
                    let more = match self.named(face, admitted) {
                        Some(traffic) => known.id(&traffic),
                        None => plain,
                    };
                    draft.add(known, face, more);
                }
            }
            let row = draft.finish(known);
            may_admit.push(self.may_admit(group, &row, (&by_class, &open), &mut maybe_held, known));
            admits.push(row);
        }
        let slot = |face: &Face| face.assumed.map_or(ASSUMED_NONE, |family| family as usize);
        let assumed = self.faces.iter().map(|face| face.zone.is_none().then(|| slot(face))).collect();
        PairVerdicts { kinds: self.seen.iter().cloned().collect(), admits, may_admit, assumed }
    }

    /// Whether a group's rules are asked about ends with a face.
    fn is_other(&self, face: usize, group: &Group) -> bool {
        self.face_roles[face].is_other(group.key.direction)
    }

    /// What a group may admit to faces beyond what it does.
    fn may_admit<'g>(
        &self,
        group: &'g Group,
        admits: &AdmittedRow,
        (by_class, open): (&FxHashMap<ClassId, Vec<usize>>, &OpenFaces),
        maybe_held: &mut HeldFaces<'g>,
        known: &mut TrafficTable,
    ) -> MayAdmit {
        let mut may = MayAdmit::default();
        for (atom, admitted) in &group.admitted {
            let is_by_face = match atom {
                Atom::Everyone if admitted.named.is_empty() => continue,
                // Every end that has no address yet may be in the block.
                Atom::Block(block) if admitted.named.is_empty() => {
                    let traffic = known.id(&admitted.traffic);
                    if self.cluster.may_hold_a_new_address(block, NewAddress::OfPod) {
                        for slot in [ASSUMED_NONE, block.family as usize] {
                            may.to_bare[slot] = known.union(may.to_bare[slot], traffic);
                        }
                    }
                    false
                }
                Atom::Everyone | Atom::Pods(_) | Atom::Block(_) => true,
            };
            if !is_by_face {
                continue;
            }
            let faces = maybe_held.of(atom, || self.maybe_held(atom, by_class, open));
            for face in faces.iter().copied().filter(|face| self.is_other(*face, group)) {
                let ports = &self.faces[face].ports;
                let mut traffic = admitted.traffic_to(ports);
                let is_nameless = |class: &ClassId| self.cluster.class(*class).unknown == UnknownLabels::All;
                if self.faces[face].is_unread || self.faces[face].classes.iter().any(is_nameless) {
                    // A pod that only a slice names, or none, may call any of its ports by the name.
                    let (first, last) = Traffic::PORTS;
                    let named = admitted.named.iter().map(|(protocol, _)| (*protocol, first, last));
                    traffic = traffic.union(&Traffic::of_ranges(named));
                }
                let (traffic, entry) = (known.id(&traffic), may.to_face.entry(face).or_insert(admits.at(face)));
                *entry = known.union(*entry, traffic);
            }
        }
        if group.key.direction == Direction::Egress && self.cluster.has_unread_services() {
            // A node sends on what goes to a Service's address.
            let unread = open.unread.iter().copied().filter(|face| self.is_other(*face, group));
            may.to_face.extend(unread.map(|face| (face, TrafficId::ALL)));
        }
        may
    }

    /// The faces of ends that an atom may mean.
    fn maybe_held(&self, atom: &Atom, by_class: &FxHashMap<ClassId, Vec<usize>>, open: &OpenFaces) -> Vec<usize> {
        let candidates: Vec<usize> = match atom {
            // By a name, what was not read may have any port.
            Atom::Everyone => open.unread.clone(),
            Atom::Pods(peer) => {
                let classes = self.cluster.possibly_selected(peer);
                let by_class = classes.iter().filter_map(|class| by_class.get(class)).flatten();
                by_class.chain(&open.unread).copied().collect()
            }
            Atom::Block(_) => open.unread.iter().chain(&open.bare).copied().collect(),
        };
        let may_hold = |face: &usize| {
            let seen = self.seen_face(*face);
            atom.may_hold(self.cluster, seen, seen.new_family)
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
                let holds_new = self.cluster.holds_each_new_address(block, NewAddress::OfPod);
                let is_held = |face: &Face| match face.zone {
                    Some(zone) => holds(zone),
                    None => holds_new && face.assumed == Some(block.family) && !face.classes.is_empty(),
                };
                self.faces.iter().enumerate().filter(|(_, face)| is_held(face)).map(|(i, _)| i).collect()
            }
        }
    }

    /// What is admitted to a face whose ends resolve a name of a port.
    fn named(&self, face: usize, admitted: &Admitted) -> Option<Traffic> {
        let ports = &self.faces[face].ports;
        (!admitted.named.is_empty() && !ports.is_empty()).then(|| admitted.traffic_to(ports))
    }
}
