//! What one group of policies makes of the faces of other ends.

use rustc_hash::FxHashMap;

use super::admitted::{AdmittedRow, HeldFaces, RowDraft};
use super::judge::{Face, Kinds, Zone};
use super::known_traffic::{TrafficId, TrafficTable};
use super::pair_verdicts::{ASSUMED_NONE, MayAdmit, PairVerdicts};
use crate::algebra::traffic::Traffic;
use crate::cluster::ClassId;
use crate::cluster::group::{Admitted, Atom, Group};
use crate::cluster::new_address::NewAddress;
use crate::cluster::selection::UnknownLabels;
use crate::policy::Direction;

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

/// What a group admits to each face, and what it may.
#[derive(Debug, Default)]
pub(super) struct GroupRow {
    pub(super) admits: AdmittedRow,
    pub(super) may_admit: MayAdmit,
}

/// Makes the rows of groups, with what several of them have in common.
pub(super) struct RowMaker<'a> {
    by_class: FxHashMap<ClassId, Vec<usize>>,
    open: OpenFaces,
    held: HeldFaces<'a>,
    maybe_held: HeldFaces<'a>,
    draft: RowDraft,
}

impl<'a> RowMaker<'a> {
    /// Only when all kinds are there.
    pub(super) fn new(kinds: &Kinds<'a>) -> Self {
        let mut by_class = FxHashMap::<ClassId, Vec<usize>>::default();
        for (i, face) in kinds.faces.iter().enumerate() {
            face.classes.iter().for_each(|class| by_class.entry(*class).or_default().push(i));
        }
        Self {
            by_class,
            open: OpenFaces::of(kinds.faces.iter()),
            held: HeldFaces::default(),
            maybe_held: HeldFaces::default(),
            draft: RowDraft::new(kinds.faces.len()),
        }
    }

    /// What a group makes of every face.
    pub(super) fn row(&mut self, kinds: &Kinds<'a>, group: &'a Group, known: &mut TrafficTable) -> GroupRow {
        let Self { by_class, open, held, maybe_held, draft } = self;
        for (atom, admitted) in &group.admitted {
            let plain = known.id(&admitted.traffic);
            if *atom == Atom::Everyone {
                draft.add_to_all(known, plain);
                if admitted.named.is_empty() {
                    continue;
                }
            }
            let faces = held.of(atom, || kinds.held(atom, by_class));
            for face in faces.iter().copied().filter(|face| kinds.is_other(*face, group)) {
                let more = match kinds.named(face, admitted) {
                    Some(traffic) => known.id(&traffic),
                    None => plain,
                };
                draft.add(known, face, more);
            }
        }
        let admits = draft.finish(known);
        let may_admit = kinds.may_admit(group, &admits, (by_class, open), maybe_held, known);
        GroupRow { admits, may_admit }
    }
}

impl Kinds<'_> {
    /// What every group makes of every kind.
    pub(crate) fn judge(&self, known: &mut TrafficTable) -> PairVerdicts {
        let mut making = RowMaker::new(self);
        let (mut admits, mut may_admit) = (Vec::new(), Vec::new());
        for (id, group) in self.groups.all() {
            let is_asked = self.judging.as_ref().is_none_or(|judging| judging.contains(&id));
            let row = if is_asked { making.row(self, group, known) } else { GroupRow::default() };
            admits.push(row.admits);
            may_admit.push(row.may_admit);
        }
        PairVerdicts { kinds: self.seen.iter().cloned().collect(), admits, may_admit, assumed: self.assumed() }
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
            let seen = self.other_end_of_face(*face);
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
