//! Kinds of ends, and what every group makes of every kind.

use indexmap::IndexSet;
use rustc_hash::{FxBuildHasher, FxHashSet};
use smallvec::SmallVec;

use crate::algebra::cidr::{self, AddressSet};
use crate::cluster::group::{GroupId, Groups, OtherEnd};
use crate::cluster::{ClassId, Cluster};
use crate::object::{ContainerPort, Family};
use crate::policy::Direction;
use crate::verdict::flow::End;
pub(crate) use crate::verdict::matrix::end_kind::KindId;
use crate::verdict::matrix::end_kind::{EndKind, FaceId, Viewer};
use crate::verdict::matrix::known_traffic::place;
pub(crate) use crate::verdict::matrix::known_traffic::{TrafficId, TrafficTable};
use crate::verdict::matrix::pair_verdicts::ASSUMED_NONE;
pub(crate) use crate::verdict::matrix::pair_verdicts::{BoundIds, JudgeKinds, PairVerdicts};
use crate::verdict::zone::Zones;

/// Everything about an end that a rule at the other end can match.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) struct Face {
    /// The classes of those that hold its address.
    pub(super) classes: SmallVec<[ClassId; 1]>,
    pub(super) zone: Option<Zone>,
    /// For an end without an address: the family of the address that it will have.
    pub(super) assumed: Option<Family>,
    /// Container ports, where some egress rule names ports.
    pub(super) ports: Vec<ContainerPort>,
    /// As [`OtherEnd::is_unread`].
    pub(super) is_unread: bool,
}

/// One of the [`Zones`], by its place in those of its family.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct Zone {
    pub(super) family: Family,
    pub(super) place: usize,
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

    /// Whether groups of a direction match such an end as the other end.
    pub(super) const fn is_other(self, direction: Direction) -> bool {
        match direction {
            Direction::Egress => self.destination,
            Direction::Ingress => self.source,
        }
    }
}

/// The kinds of the ends that were asked about.
pub(crate) struct Kinds<'a> {
    pub(crate) cluster: &'a Cluster,
    pub(super) groups: &'a Groups,
    pub(super) zones: Zones,
    ports_matter: bool,
    viewers: Vec<&'a str>,
    pub(super) faces: IndexSet<Face, FxBuildHasher>,
    /// By face.
    pub(super) face_roles: Vec<Roles>,
    pub(super) seen: IndexSet<EndKind, FxBuildHasher>,
    /// As what the ends that come next are asked about.
    roles: Roles,
    /// The groups that judge some end, where not all ends are asked about in both roles.
    pub(super) judging: Option<FxHashSet<GroupId>>,
}

impl<'a> Kinds<'a> {
    pub(crate) fn new(cluster: &'a Cluster, groups: &'a Groups) -> Self {
        let zones = Zones::of(groups);
        let ports_matter = groups.all().any(|(_, group)| group.has_named());
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

    /// The kinds that were asked about, and what a rule of most nodes matches of each: its groups,
    /// the first of those that decide together, and the end itself with the first address of its
    /// zone.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (KindId, [Option<GroupId>; 2], OtherEnd<'_>)> {
        self.seen.iter().enumerate().map(|(i, kind)| {
            let id = KindId(place(i));
            (id, kind.groups.each_ref().map(|groups| groups.first().copied()), self.other_end(id))
        })
    }

    /// The end of a kind as rules of most nodes match it.
    pub(crate) fn other_end(&self, kind: KindId) -> OtherEnd<'_> {
        self.other_end_of_face(self.seen[kind.index()].face.0 as usize)
    }

    /// The end with a face as a rule matches it: the first address of its zone stands for all.
    pub(super) fn other_end_of_face(&self, face: usize) -> OtherEnd<'_> {
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

    /// By face: of an end without an address, the place in `MayAdmit::to_bare` of the family that it is assumed
    /// to have.
    pub(super) fn assumed(&self) -> Vec<Option<usize>> {
        let slot = |face: &Face| face.assumed.map_or(ASSUMED_NONE, |family| family as usize);
        self.faces.iter().map(|face| face.zone.is_none().then(|| slot(face))).collect()
    }
}
