//! Every allowed connection of a cluster.
//!
//! Ends that no rule distinguishes are one *kind*. What each group of
//! policies makes of each kind is worked out once; what remains for a pair of
//! endpoints is two look-ups, so the cost is that of writing the pairs down.

mod admitted;
mod end_kind;
mod endpoint_id;
mod group_row;
pub(crate) mod judge;
mod known_traffic;
pub(crate) mod lazy;
mod pair_verdicts;
mod reached;
mod row;
mod select;

use std::cell::RefCell;
use std::net::IpAddr;
use std::rc::Rc;
use std::sync::Arc;

use rustc_hash::FxHashMap;
use serde::Serialize;
use serde::ser::{SerializeSeq as _, SerializeStruct as _, Serializer};

use crate::API_VERSION;
use crate::algebra::traffic::Traffic;
use crate::cluster::Cluster;
use crate::cluster::group::Groups;
use crate::object::{Family, Protocol};
use crate::verdict::flow::End;
pub use endpoint_id::{EndpointId, EndpointName};
use judge::{Kinds, PairVerdicts, TrafficId, TrafficTable};
use reached::Reached;
use row::{Row, Unjudged};
use select::ShownRows;
pub use select::{MOST_CELLS, MOST_PAIRS, MatrixFilter, TooLarge};

/// What is one endpoint of the matrix.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[cfg_attr(not(feature = "internals"), non_exhaustive)]
pub enum By {
    /// All pods of a workload together.
    #[default]
    Workload,
    /// Each pod.
    Pod,
}

/// What the matrix shows.
#[derive(Debug, Clone, Default)]
pub struct MatrixOptions {
    /// What is one endpoint.
    pub by: By,
    /// Addresses to show as endpoints too.
    pub addresses: Vec<IpAddr>,
}

/// A row and column of the matrix.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Endpoint {
    /// `NS/NAME` of a pod, `NS/KIND/NAME` of a workload, or the address; no
    /// two have the same. By pod, a workload without pods has `NS/NAME` too,
    /// unless another endpoint has that name.
    pub id: EndpointId,
    /// `Pod`, the workload's kind, or `Address`; `Service` for one that leads nowhere.
    pub kind: String,
    /// Its addresses, IPv4 first, without those that another pod has now.
    pub addresses: Vec<IpAddr>,
    /// The node of a pod that is bound to one.
    pub node: Option<String>,
    /// Always false: hostNetwork pods are no endpoints.
    pub host_network: bool,
}

impl Endpoint {
    /// A Service that leads nowhere: it has no connections, and no row of a [`Matrix`].
    #[must_use]
    pub fn without_backends(namespace: &str, service: &str) -> Self {
        Self {
            id: EndpointId::of_workload(namespace, "Service", service),
            kind: "Service".to_owned(),
            addresses: Vec::new(),
            node: None,
            host_network: false,
        }
    }
}

/// What is allowed from one endpoint to another, of one family and protocol.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct Connection {
    /// The id of the source.
    pub from: EndpointId,
    /// The id of the destination.
    pub to: EndpointId,
    /// None where an end has no address yet.
    pub family: Option<Family>,
    /// `ICMP`, `SCTP`, `TCP` or `UDP`.
    pub protocol: &'static str,
    /// Destination ports as sorted, disjoint, inclusive ranges in 1 to 65535;
    /// none for ICMP.
    pub ports: Option<Vec<[u16; 2]>>,
}

/// All that one endpoint may send to another in one family; something is allowed, or may be.
#[derive(Debug, Clone)]
pub struct Cell {
    /// The source, by its place in [`Matrix::endpoints`].
    pub from: usize,
    /// The destination.
    pub to: usize,
    /// None where an end has no address yet.
    pub family: Option<Family>,
    /// What is allowed for certain, from some end of the source to some of the destination.
    pub traffic: Arc<Traffic>,
    /// What may be allowed besides, or with other ends or in another family: the input lacks a fact.
    pub unknown: Traffic,
    /// What of [`Self::traffic`] not every end of the source may send to every end of the
    /// destination: replicas differ.
    pub differs: Traffic,
}

/// The matrix, not yet written down: in a large cluster that is open, its
/// cells are too many to hold. Serialises as the documented JSON.
#[derive(Debug)]
pub struct Matrix<'a> {
    cluster: &'a Cluster,
    by: By,
    endpoints: Vec<Endpoint>,
    rows: Vec<Row>,
    judge: PairVerdicts,
    known: RefCell<TrafficTable>,
    only: Option<ShownRows>,
}

/// The matrix written down.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConnectivityMatrix {
    /// The endpoints, sorted by id.
    pub endpoints: Vec<Endpoint>,
    /// Sorted by from, to, family and protocol; no row, nothing allowed for certain.
    pub connections: Vec<Connection>,
    /// What may be allowed besides, in the same form: the input lacks a fact.
    pub unknowns: Vec<Connection>,
    /// What of the connections holds for some replicas only, or in one family of pods without an address, in the
    /// same form.
    pub differs: Vec<Connection>,
}

/// All allowed connections among the endpoints of the cluster, and between
/// them and the given addresses.
#[must_use]
pub fn connectivity(cluster: &Cluster, options: &MatrixOptions) -> ConnectivityMatrix {
    let matrix = Matrix::new(cluster, options);
    let (connections, unknowns) = (matrix.connections().collect(), matrix.unknowns().collect());
    let differs = matrix.differs().collect();
    ConnectivityMatrix { endpoints: matrix.endpoints, connections, unknowns, differs }
}

impl<'a> Matrix<'a> {
    /// The families of cells; none where an end has no address yet.
    pub(crate) const FAMILIES: [Option<Family>; 3] = [None, Some(Family::V4), Some(Family::V6)];

    /// The matrix of a cluster.
    #[must_use]
    pub fn new(cluster: &'a Cluster, options: &MatrixOptions) -> Self {
        let groups = Groups::of_cluster(cluster);
        Self::of_groups(cluster, &groups, options)
    }

    /// The matrix of a cluster with the groups of all its endpoints.
    #[must_use]
    pub fn of_groups(cluster: &'a Cluster, groups: &Groups, options: &MatrixOptions) -> Self {
        let mut kinds = Kinds::new(cluster, groups);
        let rows = unjudged(cluster, options).into_iter().map(|row| row.row(&mut kinds, None));
        let (endpoints, rows) = rows.unzip();
        Self::judged(cluster, &kinds, options.by, endpoints, rows, None)
    }

    fn judged(
        cluster: &'a Cluster,
        kinds: &Kinds<'_>,
        by: By,
        endpoints: Vec<Endpoint>,
        rows: Vec<Row>,
        only: Option<ShownRows>,
    ) -> Self {
        let mut known = TrafficTable::new();
        let judge = kinds.judge(&mut known);
        Self { cluster, by, endpoints, rows, judge, known: RefCell::new(known), only }
    }

    /// The endpoints, sorted by id.
    #[must_use]
    pub fn endpoints(&self) -> &[Endpoint] {
        &self.endpoints
    }

    /// The pods and addresses that an endpoint stands for.
    pub fn ends(&self, endpoint: usize) -> impl Iterator<Item = End> {
        self.rows[endpoint].ends.iter().map(|of| of.end)
    }

    /// Whether an endpoint stands for several pods, so that what passes from it to itself passes between
    /// two of them.
    #[must_use]
    pub fn has_replicas(&self, endpoint: usize) -> bool {
        let row = &self.rows[endpoint];
        !row.is_address && (row.ends.len() > 1 || row.is_template)
    }

    /// What is allowed or may be, by source, destination and family. Destinations are looked
    /// for once for all sources that no rule distinguishes.
    pub fn cells(&self) -> impl Iterator<Item = Cell> {
        self.reached().flat_map(move |(from, to)| (0..to.len()).flat_map(move |at| self.between(from, to[at])))
    }

    /// Each endpoint and the destinations that it reaches or may reach, sorted, itself among them.
    pub fn reached(&self) -> impl Iterator<Item = (usize, Rc<[usize]>)> {
        let mut reached = Reached::new(self);
        (0..self.rows.len()).map(move |from| (from, reached.by(from)))
    }

    /// What is allowed for certain, by protocol. By pod, an end without an address has no
    /// connections.
    pub fn connections(&self) -> impl Iterator<Item = Connection> {
        let cells = self.cells().filter(|cell| self.by == By::Workload || cell.family.is_some());
        cells.flat_map(|cell| self.by_protocol(&cell, &cell.traffic).collect::<Vec<_>>())
    }

    /// In a matrix by pod: what is allowed for certain where an end has no address yet, by
    /// protocol. In a matrix by workload this is among the connections.
    pub fn pending(&self) -> impl Iterator<Item = Connection> {
        let is_bare = |endpoint: &Endpoint| endpoint.addresses.is_empty();
        let are_any = self.by == By::Pod && self.endpoints.iter().any(is_bare);
        let cells = Some(()).filter(|()| are_any).into_iter().flat_map(|()| self.cells());
        let cells = cells.filter(|cell| cell.family.is_none());
        cells.flat_map(|cell| self.by_protocol(&cell, &cell.traffic).collect::<Vec<_>>())
    }

    /// What may be allowed besides, by protocol.
    pub fn unknowns(&self) -> impl Iterator<Item = Connection> {
        let is_certain = self.judge.is_certain() && !self.rows.iter().any(|row| row.is_address);
        let cells = Some(()).filter(|()| !is_certain).into_iter().flat_map(|()| self.cells());
        cells.flat_map(|cell| self.by_protocol(&cell, &cell.unknown).collect::<Vec<_>>())
    }

    /// What is allowed to or from some replicas only, or in one family, by protocol.
    pub fn differs(&self) -> impl Iterator<Item = Connection> {
        // One pod of a DaemonSet is on the node whose address is asked about. Pods without an
        // address may get one of either family.
        let has_replicas = self.rows.iter().any(|row| row.ends.len() > 1 || row.is_address || row.lacks_address());
        let cells = Some(()).filter(|()| has_replicas).into_iter().flat_map(|()| self.cells());
        cells.flat_map(|cell| self.by_protocol(&cell, &cell.differs).collect::<Vec<_>>())
    }

    fn by_protocol<'t>(&self, cell: &Cell, traffic: &'t Traffic) -> impl Iterator<Item = Connection> + use<'t, 'a> {
        let [from, to] = [cell.from, cell.to].map(|place| self.endpoints[place].id.clone());
        let family = cell.family;
        protocols(traffic).map(move |(protocol, ports)| Connection {
            from: from.clone(),
            to: to.clone(),
            family,
            protocol,
            ports,
        })
    }

    /// The endpoints that no rule distinguishes, by their places, each in
    /// exactly one list: two of a list exchange the same with every other
    /// endpoint, and with each other the same either way.
    #[must_use]
    pub fn alike(&self) -> Vec<Vec<usize>> {
        row::alike(self.cluster, &self.rows, |place| self.is_shown(place))
    }

    /// Whether anything of the traffic that is shown is allowed from one endpoint to another or
    /// may be.
    fn is_open(&self, from: usize, to: usize) -> bool {
        let mut known = self.known.borrow_mut();
        let sums = row::between(self.cluster, &self.judge, &mut known, &self.rows[from], &self.rows[to], from == to);
        sums.iter().any(|sum| match &self.only {
            _ if sum.most == TrafficId::NONE => false,
            Some(only) => only.shows_some_of(&known.traffic(sum.most)),
            None => true,
        })
    }

    /// What is allowed from one endpoint to another or may be, by family.
    pub fn between(&self, from: usize, to: usize) -> impl Iterator<Item = Cell> + use<> {
        let mut known = self.known.borrow_mut();
        let sums = row::between(self.cluster, &self.judge, &mut known, &self.rows[from], &self.rows[to], from == to);
        let difference = |known: &TrafficTable, all: TrafficId, part: TrafficId| {
            if all == part { Traffic::none() } else { known.traffic(all).difference(&known.traffic(part)) }
        };
        let cells = std::array::from_fn::<_, 3, _>(|i| {
            (sums[i].most != TrafficId::NONE).then(|| Cell {
                from,
                to,
                family: Self::FAMILIES[i],
                traffic: known.traffic(sums[i].least),
                unknown: (*known.traffic(sums[i].open)).clone(),
                differs: difference(&known, sums[i].least, sums[i].common()),
            })
        });
        let cells = cells.map(|cell| cell.and_then(|cell| self.shown_of(cell)));
        cells.into_iter().flatten()
    }
}

/// For each row, the first that the same groups judge and that rules match alike.
fn judged_alike(rows: &[Row]) -> Vec<usize> {
    let mut alike = FxHashMap::default();
    let rows = rows.iter().enumerate();
    rows.map(|(place, row)| *alike.entry(row.judged_key(place)).or_insert(place)).collect()
}

/// The rows of a matrix, sorted by id.
fn unjudged(cluster: &Cluster, options: &MatrixOptions) -> Vec<Unjudged> {
    let mut rows = match options.by {
        By::Pod => row::pods(cluster),
        By::Workload => row::workloads(cluster),
    };
    let mut addresses: Vec<IpAddr> = options.addresses.iter().map(IpAddr::to_canonical).collect();
    addresses.sort_unstable();
    addresses.dedup();
    rows.extend(addresses.into_iter().map(|address| row::address(cluster, address)));
    rows.sort_by(|a, b| a.endpoint.id.cmp(&b.endpoint.id));
    rows
}

/// What traffic amounts to, in the order of the names of the protocols, with
/// ports as sorted, disjoint, inclusive ranges in 1 to 65535; none for ICMP.
pub fn protocols(traffic: &Traffic) -> impl Iterator<Item = (&'static str, Option<Vec<[u16; 2]>>)> + use<> {
    let icmp = traffic.other.then_some(("ICMP", None));
    let with_ports = [Protocol::Sctp, Protocol::Tcp, Protocol::Udp].map(|protocol| {
        let ports: Vec<[u16; 2]> = traffic.port_ranges(protocol).map(|(first, last)| [first, last]).collect();
        (!ports.is_empty()).then_some((protocol.as_str(), Some(ports)))
    });
    icmp.into_iter().chain(with_ports.into_iter().flatten())
}

impl Serialize for Matrix<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        Printed { matrix: self, without_backends: &[], warnings: &[] }.serialize(serializer)
    }
}

/// The JSON of a matrix, with what its reader should know besides.
#[derive(Debug)]
pub struct Printed<'a> {
    /// The matrix.
    pub matrix: &'a Matrix<'a>,
    /// Services that are asked for and lead nowhere ([`Endpoint::without_backends`]).
    pub without_backends: &'a [Endpoint],
    /// Warnings for people.
    pub warnings: &'a [String],
}

impl Serialize for Printed<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        struct List<F>(F);
        impl<I: Iterator<Item = Connection>, F: Fn() -> I> Serialize for List<F> {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                let mut list = serializer.serialize_seq(None)?;
                for connection in self.0() {
                    list.serialize_element(&connection)?;
                }
                list.end()
            }
        }
        let matrix = self.matrix;
        let mut object = serializer.serialize_struct("ConnectivityMatrix", 8)?;
        object.serialize_field("apiVersion", API_VERSION)?;
        object.serialize_field("kind", "ConnectivityMatrix")?;
        let mut endpoints: Vec<&Endpoint> = matrix.endpoints.iter().chain(self.without_backends).collect();
        endpoints.sort_by(|one, other| one.id.cmp(&other.id));
        object.serialize_field("endpoints", &endpoints)?;
        object.serialize_field("connections", &List(|| matrix.connections()))?;
        object.serialize_field("pending", &List(|| matrix.pending()))?;
        object.serialize_field("unknowns", &List(|| matrix.unknowns()))?;
        object.serialize_field("differs", &List(|| matrix.differs()))?;
        object.serialize_field("warnings", self.warnings)?;
        object.end()
    }
}

#[cfg(test)]
mod tests;
