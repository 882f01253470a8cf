//! Questions about many ends: answered by classes of ends, not pair by pair.
//!
//! ```text
//! units ─▶ classes: ends that no rule distinguishes (labels, namespace, policies, ports)
//!             └─▶ rows: pairs of classes with the same verdict in each direction
//!                    └─▶ one answer for the first pair of each row
//! ```
//!
//! A row is a product of sources and destinations. Some of its pairs may be exempt from all
//! policies: an end and itself, a pod and its own node. These are rows of their own, and every
//! other row leaves them out ([`Pairs`]).

use std::collections::BTreeSet;
use std::net::IpAddr;

use indexmap::IndexMap;
use rustc_hash::{FxBuildHasher, FxHashMap};
use smallvec::SmallVec;

use super::ends::Unit;
use super::families::Families;
use super::{Destination, Route, Walk, leaves_out};
use crate::algebra::traffic::Traffic;
use crate::object::{Family, Protocol};
use crate::policy::Direction;
use crate::verdict::explain::answer::{Alike, Flow, Pairs, Ranges, Unanswerable};
use crate::verdict::explain::question::Question;
use crate::verdict::explain::question::judged_pairs::JudgedPairs;
use crate::verdict::explain::question::name::EndName;
use crate::verdict::explain::question::party::Party;
use crate::verdict::flow::{End, Exemption};
use crate::verdict::matrix::judge::{
    BoundIds, JudgeKinds as _, KindId, Kinds, PairVerdicts, Roles, TrafficId, TrafficTable,
};

/// Questions about more than this are refused, because their time grows with the number of
/// pairs of classes, and their memory with the number of rows.
pub(in crate::verdict::explain) const MOST: Most = Most { pairs: 50_000_000, rows: 100_000 };

/// How much one question may compare.
#[derive(Debug, Clone, Copy)]
pub(in crate::verdict::explain) struct Most {
    /// Pairs of classes.
    pub(in crate::verdict::explain) pairs: usize,
    /// Rows, each with reasons of its own.
    pub(in crate::verdict::explain) rows: usize,
}

/// What distinguishes ends, where anything does.
#[derive(Debug, PartialEq, Eq, Hash)]
struct Key<'u> {
    /// By family: IPv4, IPv6, and none, of ends without an address.
    kinds: [Option<KindId>; 3],
    only: Option<Family>,
    /// What an end is that is no pod: an address, a node, a part of a prefix.
    kind: Option<&'u str>,
    is_template: bool,
    /// It is an address of a node.
    is_node: bool,
    /// The input says on which node the pod runs.
    has_node: bool,
    /// The place of an end that has no like.
    alone: Option<usize>,
    /// What is asked about this destination.
    asked: Option<Asked<'u>>,
}

/// Ends that no rule distinguishes.
#[derive(Debug)]
#[allow(clippy::struct_excessive_bools, reason = "each is a fact of its own about the ends")]
pub(in crate::verdict::explain) struct EndClass {
    /// Their places among the units.
    pub(in crate::verdict::explain) members: Vec<usize>,
    is_pod: bool,
    /// It is a node, or a pod in its network: with some pods it is exempt.
    is_node: bool,
    has_node: bool,
    is_alone: bool,
    /// Whether policies may isolate it, by direction and the families of [`Key::kinds`].
    is_isolated: [[bool; 3]; 2],
    kinds: [Option<KindId>; 3],
    families: Families,
}

/// What all pairs of a row have in common.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct PairKey {
    case: Case,
    families: SmallVec<[(Option<Family>, [SideBounds; 2]); 2]>,
    /// The family is not known, because an end has no address.
    is_bare: bool,
}

/// What is asked about a destination.
type Asked<'u> = (&'u Traffic, Option<(Protocol, u16)>);

/// What one direction lets pass.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
struct SideBounds {
    least: TrafficId,
    most: TrafficId,
    is_isolated: bool,
}

/// What sets pairs of two classes apart: why policies have no say, and whether both ends are
/// one pod or address.
pub(in crate::verdict::explain) type Case = (Option<Exemption>, bool);

/// Pairs with the same verdict in each direction.
#[derive(Debug)]
pub(in crate::verdict::explain) struct PairRow {
    /// The places of the first source and destination.
    pub(in crate::verdict::explain) first: (usize, usize),
    /// The classes of the sources.
    pub(in crate::verdict::explain) from: Ranges,
    /// The classes of the destinations.
    pub(in crate::verdict::explain) to: Ranges,
    /// What sets its pairs apart from others of these classes.
    pub(in crate::verdict::explain) case: Case,
}

/// A question about many pairs.
pub(in crate::verdict::explain) struct Wide<'w, 'a> {
    walk: &'w Walk<'a>,
    route: Route<'w>,
    sources: &'w [Unit],
    destinations: &'w [Destination],
    kinds: Kinds<'w>,
    pub(in crate::verdict::explain) from: Vec<EndClass>,
    pub(in crate::verdict::explain) to: Vec<EndClass>,
}

impl Walk<'_> {
    /// Asks about classes of ends, and answers once for all that are judged alike.
    pub(in crate::verdict::explain) fn by_class(
        &mut self,
        sources: &[Unit],
        destinations: &[Destination],
        route: Route<'_>,
    ) {
        let wide = Wide::new(self, sources, destinations, route);
        let Some(rows) = wide.rows(MOST) else {
            let (sources, destinations) = (wide.from.len(), wide.to.len());
            self.refused = Some(Unanswerable::TooManyKinds { sources, destinations });
            return;
        };
        let (had, mut ends) = (self.explanation.ends.len(), Vec::<EndName>::new());
        let mut list = |classes: &[EndClass], units: &[&Unit]| {
            let mut firsts = Vec::with_capacity(classes.len() + 1);
            for class in classes {
                firsts.push(had + ends.len());
                let names: BTreeSet<&EndName> = class.members.iter().map(|member| &units[*member].name).collect();
                ends.extend(names.into_iter().cloned());
            }
            firsts.push(had + ends.len());
            firsts
        };
        let from = list(&wide.from, &sources.iter().collect::<Vec<_>>());
        let to = list(&wide.to, &destinations.iter().map(|destination| &destination.unit).collect::<Vec<_>>());
        let mut flows = Vec::new();
        for row in &rows {
            let (source, destination) = (&sources[row.first.0], &destinations[row.first.1]);
            let pairs = match row.case {
                (Some(Exemption::OwnNode), _) => Pairs::OwnNode,
                (Some(Exemption::Itself), _) | (None, true) => Pairs::Itself,
                (None, false) => Pairs::Others,
            };
            let alike = Alike { from: row.from.of_ends(&from), to: row.to.of_ends(&to), pairs };
            let said = self.pair(source, destination, route);
            flows.extend(said.into_iter().flat_map(|(_, flows)| flows).map(|flow| Flow {
                from: source.name.clone(),
                to: destination.unit.name.clone(),
                via: route.via.cloned(),
                way: route.way.cloned().or(flow.way),
                parties: Some((source.party, destination.unit.party)),
                alike: Some(alike.clone()),
                asked: JudgedPairs::of_many(),
                ..flow
            }));
        }
        self.explanation.ends.extend(ends);
        self.explanation.flows.extend(flows);
    }
}

impl<'w, 'a> Wide<'w, 'a> {
    pub(in crate::verdict::explain) fn new(
        walk: &'w Walk<'a>,
        sources: &'w [Unit],
        destinations: &'w [Destination],
        route: Route<'w>,
    ) -> Self {
        let mut kinds = Kinds::new(walk.ends.cluster, walk.ends.groups);
        kinds.distinguish_ports();
        kinds.ask_as(Roles { source: true, destination: false });
        let from = walk.classes(&mut kinds, sources.iter().map(|unit| (unit, None)));
        let asked = |of: &'w Destination| (&of.unit, Some((&of.traffic, of.service_port)));
        kinds.ask_as(Roles { source: false, destination: true });
        let to = walk.classes(&mut kinds, destinations.iter().map(asked));
        Self { walk, route, sources, destinations, kinds, from, to }
    }

    /// All rows, in the order of their first sources and destinations; none if they are too many.
    pub(in crate::verdict::explain) fn rows(&self, most: Most) -> Option<Vec<PairRow>> {
        if self.from.len().saturating_mul(self.to.len()) > most.pairs {
            return None;
        }
        let mut known = TrafficTable::new();
        let verdicts = self.kinds.judge(&mut known);
        let mut class_of = FxHashMap::<Party, Vec<usize>>::default();
        for (place, class) in self.from.iter().enumerate() {
            for member in &class.members {
                let places = class_of.entry(self.sources[*member].party).or_default();
                if places.last() != Some(&place) {
                    places.push(place);
                }
            }
        }
        let mut rows = IndexMap::<(PairKey, Asked<'_>, Ranges), PairRow, FxBuildHasher>::default();
        for (place, to) in self.to.iter().enumerate() {
            let members = to.members.iter().filter_map(|member| class_of.get(&self.destinations[*member].unit.party));
            let shared: BTreeSet<usize> = members.flatten().copied().collect();
            let mut here = IndexMap::<PairKey, (Ranges, (usize, usize)), FxBuildHasher>::default();
            // Sources that come one after the other mostly have the same key.
            let mut last = None;
            for (source, from) in self.from.iter().enumerate() {
                for (case, first) in self.cases(from, to, shared.contains(&source)) {
                    let Some(key) = self.pair_key(&verdicts, &mut known, (from, to), case, first) else { continue };
                    let at = match &last {
                        Some((before, at)) if *before == key => *at,
                        _ => {
                            let entry = here.entry(key.clone());
                            let at = entry.index();
                            entry.or_insert_with(|| (Ranges::default(), first));
                            last = Some((key, at));
                            at
                        }
                    };
                    here[at].0.add(source, source);
                }
            }
            let destination = &self.destinations[to.members[0]];
            let asked = (&destination.traffic, destination.service_port);
            for (key, (from, first)) in here {
                let case = key.case;
                let row = PairRow { first, from: from.clone(), to: Ranges::default(), case };
                rows.entry((key, asked, from)).or_insert(row).to.add(place, place);
            }
            if rows.len() > most.rows {
                return None;
            }
        }
        let mut rows: Vec<PairRow> = rows.into_values().collect();
        rows.sort_by_key(|row| row.first);
        Some(rows)
    }

    /// The cases in which pairs of two classes are, with the first pair of each.
    fn cases(&self, from: &EndClass, to: &EndClass, is_shared: bool) -> SmallVec<[(Case, (usize, usize)); 1]> {
        let is_exempt = (from.is_node && to.is_pod && to.has_node) || (to.is_node && from.is_pod && from.has_node);
        let is_alone = from.is_alone || to.is_alone;
        if !is_exempt && !is_shared && !is_alone {
            return SmallVec::from_elem(((None, false), (from.members[0], to.members[0])), 1);
        }
        let asks_itself = is_shared && !leaves_out(self.sources, &self.sources[from.members[0]], self.route);
        let most = if is_alone { usize::MAX } else { 1 + usize::from(is_exempt) + usize::from(asks_itself) };
        let mut cases = SmallVec::new();
        for from in &from.members {
            for to in &to.members {
                let Some(case) = self.case(*from, *to) else { continue };
                if cases.iter().all(|(had, _)| *had != case) {
                    cases.push((case, (*from, *to)));
                    if cases.len() == most {
                        return cases;
                    }
                }
            }
        }
        cases
    }

    /// The case of a pair; none where nothing is asked about it.
    pub(in crate::verdict::explain) fn case(&self, from: usize, to: usize) -> Option<Case> {
        let (from, to) = (&self.sources[from], &self.destinations[to].unit);
        let is_itself = from.party == to.party;
        if is_itself && leaves_out(self.sources, from, self.route) {
            return None;
        }
        let question = Self::question(from, to, None);
        let exemption = Family::ALL
            .into_iter()
            .find_map(|family| Question { family: Some(family), ..question.clone() }.exemption(self.walk.ends.cluster));
        Some((exemption, is_itself))
    }

    fn question(from: &Unit, to: &Unit, family: Option<Family>) -> Question {
        let replicas = from.is_template && to.is_template;
        Question { replicas, ..Question::between(from.party, to.party, family, Traffic::none()) }
    }

    /// What pairs like this one have in common; none where its ends have no family in common.
    fn pair_key(
        &self,
        verdicts: &PairVerdicts,
        known: &mut TrafficTable,
        (from, to): (&EndClass, &EndClass),
        case: Case,
        (source, destination): (usize, usize),
    ) -> Option<PairKey> {
        let walk = self.walk;
        // Pods that no object sets apart are judged by their kinds. There are millions of pairs.
        let is_by_kind = case.0.is_none() && [from, to].iter().all(|class| class.is_pod && !class.is_alone);
        let mut families = SmallVec::new();
        let mut judged: SmallVec<[Option<Family>; 3]> = from.families.judged(to.families);
        let mut next = 0;
        while let Some(family) = judged.get(next).copied() {
            next += 1;
            let slot = family.map_or(2, |family| family as usize);
            let sides = Direction::ALL.map(|direction| {
                let (subject, other) = if direction == Direction::Egress { (from, to) } else { (to, from) };
                let is_isolated = subject.is_isolated[direction as usize][slot];
                // Below, the bounds take into account that the pair may be exempt in this family.
                if !is_isolated {
                    return SideBounds { least: TrafficId::ALL, most: TrafficId::ALL, is_isolated };
                }
                if let (true, Some(subject), Some(other)) = (is_by_kind, subject.kinds[slot], other.kinds[slot]) {
                    let BoundIds { least, most } = verdicts.directed(known, direction, subject, other);
                    return SideBounds { least, most, is_isolated };
                }
                let (source, destination) = (&self.sources[source], &self.destinations[destination]);
                let question = Self::question(source, &destination.unit, family);
                let bounds = question.bounds(walk.ends.cluster, walk.ends.groups, direction);
                SideBounds { least: known.id(&bounds.least), most: known.id(&bounds.most), is_isolated }
            });
            // Where the family of new addresses may decide, it sets pairs apart.
            if family.is_none() && sides.iter().any(|side| side.least != side.most) {
                judged.extend(Family::ALL.map(Some));
            }
            families.push((family, sides));
        }
        let is_bare = from.families.is_bare || to.families.is_bare;
        (!families.is_empty()).then_some(PairKey { case, families, is_bare })
    }
}

impl Walk<'_> {
    /// The classes of ends, in the order of their first members.
    fn classes<'u>(
        &self,
        kinds: &mut Kinds<'_>,
        units: impl Iterator<Item = (&'u Unit, Option<Asked<'u>>)>,
    ) -> Vec<EndClass> {
        let (cluster, groups) = (self.ends.cluster, self.ends.groups);
        let mut classes = IndexMap::<Key<'u>, EndClass, FxBuildHasher>::default();
        for (place, (unit, asked)) in units.enumerate() {
            let party = unit.party;
            let is_bare = !party.has_address(cluster);
            let is_contested = |family| party.address(cluster, family).is_some_and(|of| cluster.contest(of).is_some());
            let (is_alone, pod, address) = match party {
                Party::End(End::Pod(pod)) => (false, Some(pod), None),
                Party::End(End::Address(address) | End::Unread(address)) => (false, None, Some(address)),
                Party::Host(_) | Party::OtherNode(_) => (true, None, None),
            };
            let may_be_local = |of: IpAddr| cluster.may_be_local(of) || !cluster.listeners_at(of).is_empty();
            let is_alone = is_alone || Family::ALL.into_iter().any(is_contested) || address.is_some_and(may_be_local);
            let kind = |family: Option<Family>| match party {
                Party::End(end) if family.map_or(is_bare, |of| is_bare || party.address(cluster, of).is_some()) => {
                    Some((end, family))
                }
                _ => None,
            };
            let families = [Some(Family::V4), Some(Family::V6), None];
            let key = Key {
                kinds: families.map(|family| kind(family).map(|(end, family)| kinds.kind(end, family))),
                only: unit.only,
                kind: if pod.is_some() { None } else { Some(&unit.name.kind) },
                is_template: unit.is_template,
                is_node: address.is_some_and(|address| cluster.is_node(address)),
                has_node: party.node(cluster).is_some(),
                alone: is_alone.then_some(place),
                asked,
            };
            let new = |key: &Key<'_>| EndClass {
                members: Vec::new(),
                is_pod: pod.is_some(),
                is_node: key.is_node,
                has_node: key.has_node,
                is_alone,
                kinds: key.kinds,
                families: Families::of(cluster, unit),
                is_isolated: Direction::ALL.map(|direction| {
                    families.map(|family| !party.deciding(cluster, groups, direction, family).is_nothing())
                }),
            };
            classes.entry(key).or_insert_with_key(new).members.push(place);
        }
        classes.into_values().collect()
    }
}

#[cfg(test)]
mod tests;
