//! What a change opens and closes: the difference of two matrices by pod.
//!
//! Endpoints that no rule distinguishes, neither before nor after, are compared once, and only
//! those pairs that the change can affect. An address of each zone stands for the addresses
//! outside.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::rc::Rc;
use std::sync::Arc;

use rustc_hash::FxHashMap;

use super::affected::{Affected, Views};
use super::changed::View;
use crate::algebra::cidr::{self, AddressSet, Cidr};
use crate::algebra::traffic::Traffic;
use crate::cluster::group::Atom;
use crate::cluster::{Cluster, PodId};
use crate::object::Family;
use crate::policy::{Block, Direction};
use crate::verdict::explain::{OnNodes, Pair, Party, Question};
use crate::verdict::flow::{End, exemption, may_be_local, may_be_own_node};
use crate::verdict::matrix::Matrix;
use crate::verdict::matrix::judge::{BoundIds, TrafficTable};
use crate::verdict::matrix::lazy::LazyMatrix;
use crate::verdict::zone::{Zones, free_address};

/// A change that opens more is not worth a look.
pub(super) const MOST: usize = 10_000;

/// In a cluster with more addresses of nodes, the zones that these lie in stand for those that no
/// block holds which was asked about or which the change adds or takes away.
const NODES: usize = 64;

/// Traffic from one end to another that a change opens, or closes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Opened {
    /// The source.
    pub from: OpenedEnd,
    /// The destination.
    pub to: OpenedEnd,
    /// The family; none where an end has no address yet.
    pub family: Option<Family>,
    /// What is or may be allowed after the change and was not before. For flows that the change
    /// closes, it is the reverse.
    pub traffic: Traffic,
    /// Whether it is certain that it is denied before and allowed after the change. For flows that
    /// the change closes, it is the reverse. Otherwise the input lacks a fact.
    pub certain: bool,
}

/// An end of a flow that a change opens.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OpenedEnd {
    /// The id, as in [`Endpoint::id`] of a matrix by pod; for addresses outside, the prefixes of their zone.
    ///
    /// [`Endpoint::id`]: crate::verdict::matrix::Endpoint::id
    pub id: Arc<str>,
    /// The pod that it is.
    pub pod: Option<PodId>,
}

/// What is different after a change.
pub(super) struct Difference {
    /// What it opens beside the flow that was asked about.
    pub(super) opens: Vec<Opened>,
    /// What it closes.
    pub(super) closes: Vec<Opened>,
    /// Whether it opens something to or from most addresses of a family.
    pub(super) is_wide: bool,
}

impl Difference {
    /// How much it opens: whether to most addresses, between how many pairs of ends, and how many ports.
    pub(super) fn breadth(&self) -> (bool, usize, u64) {
        (self.is_wide, self.opens.len(), self.opens.iter().map(|of| u64::from(of.traffic.breadth())).sum())
    }
}

/// Compares; none where it opens or closes too much to say.
pub(super) fn difference(before: View<'_>, after: View<'_>, asked: &[Pair], blocks: &[Cidr]) -> Option<Difference> {
    let outside = OutsideZones::of(before, after, asked, blocks);
    let addresses: Vec<IpAddr> = outside.names.keys().copied().collect();
    let old = LazyMatrix::new(before.cluster, before.groups, addresses.clone());
    let new = LazyMatrix::new(after.cluster, after.groups, addresses);
    let asked = AskedRows::of(before, &old, &outside.within(blocks), asked);
    let mut compared = Compared { old: &old, new: &new, known: TrafficTable::new(), seen: FxHashMap::default() };
    let mut whole = Difference { opens: Vec::new(), closes: Vec::new(), is_wide: false };
    let mut opened_zones = BTreeSet::new();
    let kinds = kinds(before, after, &old, &new);
    let all: Vec<&Kind> = kinds.iter().collect();
    // There may be tens of thousands of kinds, and a change affects a few of them.
    let affected: Vec<&Kind> = kinds.iter().filter(|kind| kind.affected.is_any()).collect();
    for from in &kinds {
        for to in if from.affected.is_any() { &all } else { &affected } {
            if (from.is_address && to.is_address) || !compared.can_differ(from, to) {
                continue;
            }
            let pairs = KindPair { cluster: before.cluster, matrix: &old, from, to };
            for (exempt, sample) in pairs.samples() {
                let difference = compared.of_pair(sample);
                if difference.opened.is_empty() && difference.closed.is_empty() {
                    continue;
                }
                for pair in pairs.all().filter(|pair| pairs.exempt(*pair) == exempt) {
                    for (family, certain, traffic) in &difference.closed {
                        let (from, to) = (outside.end(&old, pair.0), outside.end(&old, pair.1));
                        let (traffic, certain) = (traffic.clone(), *certain);
                        whole.closes.push(Opened { from, to, family: *family, traffic, certain });
                    }
                    for (family, certain, traffic) in &difference.opened {
                        let traffic = traffic.difference(&asked.of_pair(pair, *family));
                        if !traffic.is_none() {
                            let (from, to) = (outside.end(&old, pair.0), outside.end(&old, pair.1));
                            whole.opens.push(Opened { from, to, family: *family, traffic, certain: *certain });
                            opened_zones.extend([pair.0, pair.1].iter().filter_map(|row| outside.zone(&old, *row)));
                        }
                    }
                    if whole.opens.len().max(whole.closes.len()) > MOST {
                        return None;
                    }
                }
            }
        }
    }
    whole.is_wide = outside.are_most(&opened_zones);
    for list in [&mut whole.opens, &mut whole.closes] {
        let key = |of: &Opened| (Arc::clone(&of.from.id), Arc::clone(&of.to.id), of.family, !of.certain);
        list.sort_by_cached_key(key);
    }
    Some(whole)
}

/// Rows that no rule distinguishes, neither before nor after.
struct Kind {
    rows: Vec<usize>,
    is_address: bool,
    affected: Affected,
}

fn kinds(before: View<'_>, after: View<'_>, old: &LazyMatrix<'_>, new: &LazyMatrix<'_>) -> Vec<Kind> {
    let mut alike = BTreeMap::<(usize, usize), Vec<usize>>::new();
    for (row, kind) in old.judged_alike().into_iter().zip(new.judged_alike()).enumerate() {
        alike.entry(kind).or_default().push(row);
    }
    let mut views = Views::new(before, after);
    let kind = |rows: Vec<usize>| {
        let first = old.ends(rows[0]).next()?;
        let is_address = matches!(first, End::Address(_) | End::Unread(_));
        let affected = views.affected(first, rows.iter().flat_map(|row| old.ends(*row)));
        Some(Kind { rows, is_address, affected })
    };
    alike.into_values().filter_map(kind).collect()
}

/// Why a pair of two kinds may be judged unlike another: policies do not apply to it, or may not.
type Exempt = (bool, bool);

/// Two kinds of rows, the sources and the destinations of pairs.
#[derive(Clone, Copy)]
struct KindPair<'a> {
    cluster: &'a Cluster,
    matrix: &'a LazyMatrix<'a>,
    from: &'a Kind,
    to: &'a Kind,
}

impl KindPair<'_> {
    fn all(self) -> impl Iterator<Item = (usize, usize)> {
        self.from.rows.iter().flat_map(move |from| self.to.rows.iter().map(move |to| (*from, *to)))
    }

    /// Whether policies do not apply to a pair, and whether they may not. That depends on the
    /// pair if one end is an address; a pair of pods is exempt only if both are the same pod.
    fn exempt(self, (from, to): (usize, usize)) -> Exempt {
        let has_address = self.from.is_address || self.to.is_address;
        match (self.matrix.ends(from).next(), self.matrix.ends(to).next()) {
            (Some(from), Some(to)) if has_address => {
                let may_be = may_be_own_node(self.cluster, from, to) || may_be_local(self.cluster, from, to);
                (exemption(self.cluster, from, to).is_some(), may_be)
            }
            _ => (from == to, false),
        }
    }

    /// One pair for all those that are judged alike.
    fn samples(self) -> BTreeMap<Exempt, (usize, usize)> {
        // Two kinds of pods have thousands of pairs, all alike.
        let many = match (self.from.is_address || self.to.is_address, std::ptr::eq(self.from, self.to)) {
            (true, _) => usize::MAX,
            (false, true) => 2,
            (false, false) => 1,
        };
        let mut samples = BTreeMap::new();
        for pair in self.all().take(many) {
            samples.entry(self.exempt(pair)).or_insert(pair);
        }
        samples
    }
}

/// What is different between two ends.
struct PairDifference {
    /// What is or may be allowed now and was not before, and whether that is certain.
    opened: Vec<(Option<Family>, bool, Traffic)>,
    /// What was or might have been allowed before and is not now, and whether that is certain.
    closed: Vec<(Option<Family>, bool, Traffic)>,
}

/// What is certain and what is possible of a difference: what one side denied for certain and the
/// other allows for certain, and the rest.
fn parts(
    family: Option<Family>,
    (least, most): (&Traffic, &Traffic),
    (new_least, new_most): (&Traffic, &Traffic),
) -> impl Iterator<Item = (Option<Family>, bool, Traffic)> {
    let certain = new_least.difference(most);
    let all = new_least.difference(least).union(&new_most.difference(most));
    let possible = all.difference(&certain);
    [(true, certain), (false, possible)]
        .into_iter()
        .filter(|(_, of)| !of.is_none())
        .map(move |(certain, of)| (family, certain, of))
}

/// What passes between two ends in one of two matrices.
type ByFamily = [BoundIds; 3];

/// Two matrices, and what was worked out about their cells.
struct Compared<'a> {
    old: &'a LazyMatrix<'a>,
    new: &'a LazyMatrix<'a>,
    /// The traffic of both.
    known: TrafficTable,
    seen: FxHashMap<(ByFamily, ByFamily), Rc<PairDifference>>,
}

impl Compared<'_> {
    /// Whether what ends of the first kind send to those of the second can differ. Only a direction that the change
    /// affects is judged for that: the other one would ask the groups of every end of the cluster.
    fn can_differ(&mut self, from: &Kind, to: &Kind) -> bool {
        Direction::ALL.into_iter().any(|direction| {
            let (subject, other) = match direction {
                Direction::Egress => (from, to),
                Direction::Ingress => (to, from),
            };
            let rows = (subject.rows[0], other.rows[0]);
            Affected::can_differ(direction, subject.affected, other.affected)
                && self.old.directed(&mut self.known, direction, rows.0, rows.1)
                    != self.new.directed(&mut self.known, direction, rows.0, rows.1)
        })
    }

    fn of_pair(&mut self, (from, to): (usize, usize)) -> Rc<PairDifference> {
        let known = &mut self.known;
        let key = (self.old.bounds(known, from, to), self.new.bounds(known, from, to));
        let found = self.seen.entry(key).or_insert_with_key(|(was, is)| {
            let mut difference = PairDifference { opened: Vec::new(), closed: Vec::new() };
            for ((family, was), is) in Matrix::FAMILIES.into_iter().zip(was).zip(is) {
                let [least, most, new_least, new_most] =
                    [was.least, was.most, is.least, is.most].map(|id| known.traffic(id));
                difference.closed.extend(parts(family, (&new_least, &new_most), (&least, &most)));
                difference.opened.extend(parts(family, (&least, &most), (&new_least, &new_most)));
            }
            Rc::new(difference)
        });
        Rc::clone(found)
    }
}

/// The addresses that stand for those that no pod has.
struct OutsideZones {
    /// What each means.
    names: BTreeMap<IpAddr, String>,
    /// Those that stand for a zone, and the distance of its last address from its first.
    zones: BTreeMap<IpAddr, u128>,
}

impl OutsideZones {
    fn of(before: View<'_>, after: View<'_>, asked: &[Pair], blocks: &[Cidr]) -> Self {
        let cluster = before.cluster;
        let mut zones = Zones::of(before.groups);
        for (_, group) in after.groups.iter() {
            for atom in group.admitted.keys() {
                if let Atom::Block(block) = atom {
                    zones.cut(block.family, &block.addresses);
                }
            }
        }
        // What was asked about of a zone is not opened besides.
        for block in blocks {
            zones.cut(block.family, &block.addresses());
        }
        let parties = asked.iter().flat_map(|pair| {
            let questions = [Some(&pair.question), pair.egress.as_ref()].into_iter().flatten();
            questions.flat_map(|question| [(question.from, question.family), (question.to, question.family)])
        });
        // One address stands for those of a prefix, and so does that of its zone.
        let is_of_block = |address: IpAddr| blocks.iter().any(|block| block.holds(address));
        let of_party = |(party, family): (Party, Option<Family>)| match (party, family) {
            (Party::End(End::Pod(_)), _) => None,
            (Party::End(End::Address(address) | End::Unread(address)), _) if is_of_block(address) => None,
            (Party::End(End::Address(address) | End::Unread(address)), _) => Some(address),
            (party, Some(family)) => party.address(cluster, family),
            (_, None) => None,
        };
        let mut names: BTreeMap<IpAddr, String> =
            parties.filter_map(of_party).map(|address| (address, address.to_string())).collect();
        let nodes = cluster.nodes().values().flatten().copied();
        let nodes: Vec<IpAddr> = nodes.filter(|address| cluster.holders(*address, None).is_empty()).collect();
        let (few, added) = (nodes.len() <= NODES, changed_blocks(before, after));
        let is_meant = |address: &&IpAddr| {
            let is_added = || added[Family::of(address) as usize].contains(cidr::number(**address));
            few || is_added() || is_of_block(**address)
        };
        names.extend(nodes.iter().filter(is_meant).map(|address| (*address, address.to_string())));
        let pods = cluster.endpoints().flat_map(|(id, _)| Family::ALL.map(|family| cluster.address(id, family)));
        let taken = pods.flatten().chain(nodes.iter().copied()).chain(names.keys().copied());
        let taken: Vec<IpAddr> = taken.collect();
        let mut of_zones = BTreeMap::new();
        for family in Family::ALL {
            let numbers = taken.iter().filter(|address| Family::of(address) == family);
            let numbers = AddressSet::from_ranges(numbers.map(|of| (cidr::number(*of), cidr::number(*of))));
            for zone in zones.ranges(family) {
                let node = || {
                    let is_in = |address: &&IpAddr| {
                        Family::of(address) == family && (zone.0..=zone.1).contains(&cidr::number(**address))
                    };
                    nodes.iter().filter(|address| !names.contains_key(*address)).find(is_in).copied()
                };
                let Some(address) = free_address(family, zone, &numbers).or_else(node) else { continue };
                let prefixes = cidr::prefixes(family, &AddressSet::range(zone.0, zone.1));
                let text = match prefixes.as_slice() {
                    [one] => one.to_string(),
                    _ => format!("{}-{}", cidr::address(family, zone.0), cidr::address(family, zone.1)),
                };
                names.insert(address, text);
                of_zones.insert(address, zone.1 - zone.0);
            }
        }
        Self { names, zones: of_zones }
    }

    /// The addresses of zones that lie in these blocks.
    fn within(&self, blocks: &[Cidr]) -> Vec<IpAddr> {
        let is_in = |address: &IpAddr| blocks.iter().any(|block| block.holds(*address));
        self.zones.keys().copied().filter(is_in).collect()
    }

    /// The address of a row, if it stands for a zone.
    fn zone(&self, matrix: &LazyMatrix<'_>, row: usize) -> Option<IpAddr> {
        match matrix.ends(row).next()? {
            End::Address(address) | End::Unread(address) => Some(address).filter(|of| self.zones.contains_key(of)),
            End::Pod(_) => None,
        }
    }

    /// Whether zones have more than half of the addresses of a family.
    fn are_most(&self, zones: &BTreeSet<IpAddr>) -> bool {
        Family::ALL.into_iter().any(|family| {
            let of_family = zones.iter().filter(|zone| Family::of(zone) == family).filter_map(|of| self.zones.get(of));
            let all = of_family.fold(0_u128, |all, size| all.saturating_add(*size));
            all > cidr::last_number(family) / 2
        })
    }

    fn end(&self, matrix: &LazyMatrix<'_>, row: usize) -> OpenedEnd {
        let id: Arc<str> = matrix.endpoints()[row].id.to_string().into();
        match matrix.ends(row).next() {
            Some(End::Address(address) | End::Unread(address)) => {
                let name = self.names.get(&address).map_or(id, |name| name.as_str().into());
                OpenedEnd { id: name, pod: None }
            }
            Some(End::Pod(pod)) => OpenedEnd { id, pod: Some(pod) },
            None => OpenedEnd { id, pod: None },
        }
    }
}

/// What was asked about, by the rows of a matrix.
struct AskedRows(BTreeMap<(usize, usize), Vec<OfFamily>>);

/// Traffic of a family; of any, where none is said.
type OfFamily = (Option<Family>, Traffic);

impl AskedRows {
    /// The addresses of zones that lie in asked blocks are asked about as their blocks are.
    fn of(view: View<'_>, matrix: &LazyMatrix<'_>, zones: &[IpAddr], asked: &[Pair]) -> Self {
        let mut rows = BTreeMap::<End, usize>::new();
        for row in 0..matrix.endpoints().len() {
            rows.extend(matrix.ends(row).map(|end| (end, row)));
        }
        let of_end = |end: End| rows.get(&end).copied();
        let of_party = |question: &Question, party: Party| -> Vec<usize> {
            let family = question.family;
            // A pod of a DaemonSet in its node's network is on every node.
            if matches!(party, Party::OtherNode(_)) && question.nodes == OnNodes::Different {
                let nodes = view.cluster.nodes().values().flatten().copied();
                let of_family = nodes.filter(|address| family.is_none_or(|family| Family::of(address) == family));
                return of_family.filter_map(|address| of_end(End::of_address(view.cluster, address))).collect();
            }
            let end = match party {
                Party::End(end) => Some(end),
                Party::Host(_) | Party::OtherNode(_) => family
                    .and_then(|family| party.address(view.cluster, family))
                    .map(|address| End::of_address(view.cluster, address)),
            };
            // An address of a node in a block is asked about by itself.
            let of_block = match party {
                Party::End(End::Address(address) | End::Unread(address)) if !view.cluster.is_node(address) => {
                    Some(address)
                }
                _ => None,
            };
            let alike =
                zones.iter().filter(|of| of_block.is_some_and(|address| Family::of(&address) == Family::of(of)));
            let alike = alike.map(|address| End::of_asked_address(view.cluster, *address));
            end.into_iter().chain(alike).filter_map(of_end).collect()
        };
        let mut all = BTreeMap::<(usize, usize), Vec<_>>::new();
        for pair in asked {
            for question in [Some(&pair.question), pair.egress.as_ref()].into_iter().flatten() {
                let (from, to) = (of_party(question, question.from), of_party(question, question.to));
                for pair in from.iter().flat_map(|from| to.iter().map(move |to| (*from, *to))) {
                    all.entry(pair).or_default().push((question.family, question.traffic.clone()));
                }
            }
        }
        Self(all)
    }

    /// What was asked of a pair, in a family; an end without an address has none.
    fn of_pair(&self, pair: (usize, usize), family: Option<Family>) -> Traffic {
        let is_meant = |of: &Option<Family>| of.is_none() || family.is_none() || *of == family;
        let asked = self.0.get(&pair).into_iter().flatten().filter(|(of, _)| is_meant(of));
        asked.fold(Traffic::none(), |all, (_, traffic)| all.union(traffic))
    }
}

/// The addresses of blocks that rules name before a change or after it, and not both, by family.
fn changed_blocks(before: View<'_>, after: View<'_>) -> [AddressSet; 2] {
    let blocks = |view: View<'_>| -> BTreeSet<Block> {
        let groups = view.groups.iter();
        let atoms = groups.flat_map(|(_, group)| group.admitted.keys());
        atoms.filter_map(|atom| if let Atom::Block(block) = atom { Some(block.clone()) } else { None }).collect()
    };
    let (old, new) = (blocks(before), blocks(after));
    Family::ALL.map(|family| {
        let of_family = old.symmetric_difference(&new).filter(|block| block.family == family);
        AddressSet::from_ranges(of_family.flat_map(|block| block.addresses.ranges().to_vec()))
    })
}
