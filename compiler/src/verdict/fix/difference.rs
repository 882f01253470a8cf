//! What a change opens and closes: the difference of two matrices by pod.
//!
//! Endpoints that no rule distinguishes, neither before nor after, are compared once. An
//! address of each zone stands for the addresses outside.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

use super::View;
use crate::algebra::cidr::{self, AddressSet, Cidr};
use crate::algebra::traffic::Traffic;
use crate::cluster::PodId;
use crate::cluster::group::Atom;
use crate::object::Family;
use crate::verdict::explain::{Pair, Party};
use crate::verdict::flow::End;
use crate::verdict::matrix::{By, Matrix, Options};
use crate::verdict::zone::{Zones, free_address};

/// A change that opens more is not worth a look.
const MOST: usize = 10_000;

/// In a cluster with more addresses of nodes, the zones that these lie in stand for them.
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
    /// What is or may be allowed after the change and was not before; of what is closed the
    /// other way round.
    pub traffic: Traffic,
}

/// An end of what a change opens.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OpenedEnd {
    /// As in [`Endpoint::id`] by pod; the prefixes of a zone of addresses outside.
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
}

/// The least and the most of each family.
type Cells = BTreeMap<Option<Family>, (Traffic, Traffic)>;

/// Compares; none where it opens too much to say.
pub(super) fn difference(before: View<'_>, after: View<'_>, asked: &[Pair], blocks: &[Cidr]) -> Option<Difference> {
    let outside = Outside::of(before, after, asked);
    let options = Options { by: By::Pod, addresses: outside.names.keys().copied().collect() };
    let old = Matrix::of_groups(before.cluster, before.groups, &options);
    let new = Matrix::of_groups(after.cluster, after.groups, &options);
    let asked = AskedRows::of(before, &old, &outside.within(blocks), asked);
    let mut difference = Difference { opens: Vec::new(), closes: Vec::new() };
    let kinds = alike(&old, &new);
    let is_address = |kind: &[usize]| matches!(old.ends(kind[0]).next(), Some(End::Address(_)));
    for from in &kinds {
        for to in kinds.iter().filter(|to| !is_address(from) || !is_address(to)) {
            let is_one = std::ptr::eq(from, to);
            for is_itself in [false, true] {
                // An end to itself differs from one to another like it.
                let pairs = || -> Box<dyn Iterator<Item = (usize, usize)> + '_> {
                    match (is_itself, is_one) {
                        (true, true) => Box::new(from.iter().map(|end| (*end, *end))),
                        (true, false) => Box::new(std::iter::empty()),
                        (false, _) => {
                            let all = from.iter().flat_map(|from| to.iter().map(move |to| (*from, *to)));
                            Box::new(all.filter(|(from, to)| from != to))
                        }
                    }
                };
                let Some(sample) = pairs().next() else { continue };
                let (was, is) = (cells(&old, sample), cells(&new, sample));
                let (opened, closed) = (opened(&was, &is), opened(&is, &was));
                for pair in pairs().filter(|_| !closed.is_empty()) {
                    let (from, to) = (outside.end(&old, pair.0), outside.end(&old, pair.1));
                    difference.closes.extend(closed.iter().map(|(family, traffic)| Opened {
                        from: from.clone(),
                        to: to.clone(),
                        family: *family,
                        traffic: traffic.clone(),
                    }));
                    if difference.closes.len() > MOST {
                        return None;
                    }
                }
                for pair in pairs().filter(|_| !opened.is_empty()) {
                    for (family, traffic) in &opened {
                        let traffic = traffic.difference(&asked.of_pair(pair, *family));
                        if !traffic.is_none() {
                            let (from, to) = (outside.end(&old, pair.0), outside.end(&old, pair.1));
                            difference.opens.push(Opened { from, to, family: *family, traffic });
                        }
                    }
                    if difference.opens.len() > MOST {
                        return None;
                    }
                }
            }
        }
    }
    for list in [&mut difference.opens, &mut difference.closes] {
        list.sort_by(|a, b| (&a.from.id, &a.to.id, a.family).cmp(&(&b.from.id, &b.to.id, b.family)));
    }
    Some(difference)
}

/// Rows that no rule distinguishes in either matrix.
fn alike(old: &Matrix<'_>, new: &Matrix<'_>) -> Vec<Vec<usize>> {
    let place = |matrix: &Matrix<'_>| {
        let kinds = matrix.alike();
        let mut places = vec![0; matrix.endpoints().len()];
        for (kind, rows) in kinds.iter().enumerate() {
            for row in rows {
                places[*row] = kind;
            }
        }
        places
    };
    let (old, new) = (place(old), place(new));
    let mut kinds = BTreeMap::<(usize, usize), Vec<usize>>::new();
    for (row, kind) in old.into_iter().zip(new).enumerate() {
        kinds.entry(kind).or_default().push(row);
    }
    kinds.into_values().collect()
}

fn cells(matrix: &Matrix<'_>, (from, to): (usize, usize)) -> Cells {
    let cells = matrix.between(from, to);
    cells.map(|cell| (cell.family, ((*cell.traffic).clone(), cell.traffic.union(&cell.unknown)))).collect()
}

/// What is or may be allowed in the second and not in the first.
fn opened(was: &Cells, is: &Cells) -> Vec<(Option<Family>, Traffic)> {
    let none = (Traffic::none(), Traffic::none());
    let opened = is.iter().map(|(family, (least, most))| {
        let (old_least, old_most) = was.get(family).unwrap_or(&none);
        (*family, least.difference(old_least).union(&most.difference(old_most)))
    });
    opened.filter(|(_, traffic)| !traffic.is_none()).collect()
}

/// The addresses that stand for those that no pod has.
struct Outside {
    /// What each means.
    names: BTreeMap<IpAddr, String>,
    /// Those that stand for a zone.
    zones: Vec<IpAddr>,
}

impl Outside {
    fn of(before: View<'_>, after: View<'_>, asked: &[Pair]) -> Self {
        let cluster = before.cluster;
        let mut zones = Zones::of(before.groups);
        for (_, group) in after.groups.iter() {
            for atom in group.admitted.keys() {
                if let Atom::Block(block) = atom {
                    zones.cut(block.family, &block.addresses);
                }
            }
        }
        let parties = asked.iter().flat_map(|pair| {
            let questions = [Some(&pair.question), pair.egress.as_ref()].into_iter().flatten();
            questions.flat_map(|question| [(question.from, question.family), (question.to, question.family)])
        });
        let of_party = |(party, family): (Party, Option<Family>)| match (party, family) {
            (Party::End(End::Pod(_)), _) => None,
            (Party::End(End::Address(address)), _) => Some(address),
            (party, Some(family)) => party.address(cluster, family),
            (_, None) => None,
        };
        let mut names: BTreeMap<IpAddr, String> =
            parties.filter_map(of_party).map(|address| (address, address.to_string())).collect();
        let nodes = cluster.nodes().values().flatten().copied();
        let nodes: Vec<IpAddr> = nodes.filter(|address| cluster.holders(*address, None).is_empty()).collect();
        if nodes.len() <= NODES {
            names.extend(nodes.iter().map(|address| (*address, address.to_string())));
        }
        let pods = cluster.endpoints().flat_map(|(id, _)| Family::ALL.map(|family| cluster.address(id, family)));
        let taken = pods.flatten().chain(nodes.iter().copied()).chain(names.keys().copied());
        let taken: Vec<IpAddr> = taken.collect();
        let mut of_zones = Vec::new();
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
                of_zones.push(address);
            }
        }
        Self { names, zones: of_zones }
    }

    /// The addresses of zones that lie in these blocks.
    fn within(&self, blocks: &[Cidr]) -> Vec<IpAddr> {
        let is_in = |address: &&IpAddr| {
            let holds = |block: &Cidr| {
                block.family == Family::of(address) && block.addresses().contains(cidr::number(**address))
            };
            blocks.iter().any(holds)
        };
        self.zones.iter().filter(is_in).copied().collect()
    }

    fn end(&self, matrix: &Matrix<'_>, row: usize) -> OpenedEnd {
        let id = &matrix.endpoints()[row].id;
        match matrix.ends(row).next() {
            Some(End::Address(address)) => {
                let name = self.names.get(&address).map_or_else(|| Arc::clone(id), |name| name.as_str().into());
                OpenedEnd { id: name, pod: None }
            }
            Some(End::Pod(pod)) => OpenedEnd { id: Arc::clone(id), pod: Some(pod) },
            None => OpenedEnd { id: Arc::clone(id), pod: None },
        }
    }
}

/// What was asked about, by the rows of a matrix.
struct AskedRows(BTreeMap<(usize, usize), Vec<OfFamily>>);

/// Traffic of a family; of any, where none is said.
type OfFamily = (Option<Family>, Traffic);

impl AskedRows {
    /// The addresses of zones that lie in asked blocks are asked about as their blocks are.
    fn of(view: View<'_>, matrix: &Matrix<'_>, zones: &[IpAddr], asked: &[Pair]) -> Self {
        let mut rows = BTreeMap::<End, usize>::new();
        for row in 0..matrix.endpoints().len() {
            rows.extend(matrix.ends(row).map(|end| (end, row)));
        }
        let of_end = |end: End| rows.get(&end).copied();
        let of_party = |party: Party, family: Option<Family>| -> Vec<usize> {
            let end = match party {
                Party::End(end) => Some(end),
                Party::Host(_) | Party::OtherNode(_) => family
                    .and_then(|family| party.address(view.cluster, family))
                    .map(|address| End::of_address(view.cluster, address)),
            };
            let alike = zones.iter().filter(
                |of| matches!(party, Party::End(End::Address(address)) if Family::of(&address) == Family::of(of)),
            );
            end.into_iter().chain(alike.map(|address| End::Address(*address))).filter_map(of_end).collect()
        };
        let mut all = BTreeMap::<(usize, usize), Vec<_>>::new();
        for pair in asked {
            for question in [Some(&pair.question), pair.egress.as_ref()].into_iter().flatten() {
                let (from, to) = (of_party(question.from, question.family), of_party(question.to, question.family));
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
