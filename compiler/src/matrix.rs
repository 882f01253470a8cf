//! Every allowed connection of a cluster.
//!
//! Ends that no rule can tell apart are one *kind*, and each pair of kinds is
//! judged once; what remains is writing down the pairs that are allowed.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

use indexmap::IndexSet;
use rustc_hash::FxHashMap;
use serde::Serialize;

use crate::cidr;
use crate::cluster::{ClassId, Cluster, PodId};
use crate::flow::{End, directed, exemption};
use crate::group::{Atom, GroupId, Groups};
use crate::object::{ContainerPort, Family, Protocol};
use crate::policy::Direction;
use crate::traffic::Traffic;

/// What is one endpoint of the matrix.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum By {
    /// All pods of a workload together.
    #[default]
    Workload,
    /// Each pod.
    Pod,
}

/// What the matrix shows.
#[derive(Debug, Clone, Default)]
pub struct Options {
    /// What is one endpoint.
    pub by: By,
    /// Addresses to show as endpoints too.
    pub addresses: Vec<IpAddr>,
}

/// Every allowed connection; serialises as the documented JSON.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct ConnectivityMatrix {
    /// `npc.dev/v1alpha1`
    pub api_version: &'static str,
    /// `ConnectivityMatrix`
    pub kind: &'static str,
    /// Sorted by id.
    pub endpoints: Vec<Endpoint>,
    /// Sorted by from, to, family and protocol; no row, nothing allowed.
    pub connections: Vec<Connection>,
}

/// A row and column of the matrix.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Endpoint {
    /// `NS/NAME` of a pod, `NS/KIND/NAME` of a workload, or the address.
    pub id: Arc<str>,
    /// `Pod`, the workload's kind, or `Address`.
    pub kind: String,
    /// Its addresses, IPv4 first.
    pub addresses: Vec<IpAddr>,
    /// The node of a pod that is bound to one.
    pub node: Option<String>,
    /// Always false: hostNetwork pods are no endpoints.
    pub host_network: bool,
}

/// What is allowed from one endpoint to another, of one family and protocol.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct Connection {
    /// The id of the source.
    pub from: Arc<str>,
    /// The id of the destination.
    pub to: Arc<str>,
    /// None where an end has no address yet.
    pub family: Option<Family>,
    /// `ICMP`, `SCTP`, `TCP` or `UDP`.
    pub protocol: &'static str,
    /// Destination ports as sorted, disjoint, inclusive ranges in 1 to 65535;
    /// none for ICMP.
    pub ports: Option<Vec<[u16; 2]>>,
}

/// All allowed connections among the endpoints of the cluster, and between
/// them and the given addresses.
#[must_use]
pub fn connectivity(cluster: &Cluster, options: &Options) -> ConnectivityMatrix {
    let groups = Groups::new(cluster, cluster.endpoints().map(|(id, _)| id));
    let mut rows: Vec<Row> = match options.by {
        By::Pod => cluster.endpoints().map(|(id, _)| Row::of_pod(cluster, id)).collect(),
        By::Workload => workloads(cluster),
    };
    let mut addresses: Vec<IpAddr> = options.addresses.iter().map(IpAddr::to_canonical).collect();
    addresses.sort_unstable();
    addresses.dedup();
    rows.extend(addresses.into_iter().map(|address| Row::of_address(cluster, address)));
    rows.sort_by(|a, b| a.endpoint.id.cmp(&b.endpoint.id));

    let mut judge = Judge::new(cluster, &groups);
    let mut connections = Vec::new();
    for from in &rows {
        for to in &rows {
            if from.is_address && to.is_address {
                continue;
            }
            for (family, traffic) in judge.between(from, to) {
                connect(&mut connections, &from.endpoint.id, &to.endpoint.id, family, &traffic);
            }
        }
    }
    ConnectivityMatrix {
        api_version: "npc.dev/v1alpha1",
        kind: "ConnectivityMatrix",
        endpoints: rows.into_iter().map(|row| row.endpoint).collect(),
        connections,
    }
}

/// Adds the connections that a pair's traffic amounts to, in the order of the
/// names of the protocols.
fn connect(all: &mut Vec<Connection>, from: &Arc<str>, to: &Arc<str>, family: Option<Family>, traffic: &Traffic) {
    let mut add = |protocol, ports| {
        all.push(Connection { from: Arc::clone(from), to: Arc::clone(to), family, protocol, ports });
    };
    if traffic.other {
        add("ICMP", None);
    }
    for protocol in [Protocol::Sctp, Protocol::Tcp, Protocol::Udp] {
        let ports: Vec<[u16; 2]> = (traffic.of(protocol).ranges().iter())
            .map(|(first, last)| [(*first).max(1), *last])
            .filter(|[first, last]| first <= last)
            .collect();
        if !ports.is_empty() {
            add(protocol.as_str(), Some(ports));
        }
    }
}

/// A row (and column): an endpoint and the ends that it stands for.
struct Row {
    endpoint: Endpoint,
    is_address: bool,
    /// It has one pod that stands for any number of replicas.
    is_template: bool,
    ends: Vec<End>,
}

impl Row {
    fn of_pod(cluster: &Cluster, id: PodId) -> Self {
        let pod = cluster.pod(id);
        Self {
            endpoint: Endpoint {
                id: format!("{}/{}", pod.namespace, pod.name).into(),
                kind: "Pod".to_owned(),
                addresses: pod.addresses().collect(),
                node: pod.node.clone(),
                host_network: false,
            },
            is_address: false,
            is_template: false,
            ends: vec![End::Pod(id)],
        }
    }

    fn of_address(cluster: &Cluster, address: IpAddr) -> Self {
        Self {
            endpoint: Endpoint {
                id: address.to_string().into(),
                kind: "Address".to_owned(),
                addresses: vec![address],
                node: None,
                host_network: false,
            },
            is_address: true,
            is_template: false,
            ends: vec![End::of_address(cluster, address)],
        }
    }
}

/// The endpoints by the workload that they belong to; a pod of no workload is
/// one of its own.
fn workloads(cluster: &Cluster) -> Vec<Row> {
    let mut rows = BTreeMap::<(String, String, String), Vec<PodId>>::new();
    for (id, pod) in cluster.endpoints() {
        let (kind, name) = match &pod.workload {
            Some(workload) => (workload.kind.clone(), workload.name.clone()),
            None => ("Pod".to_owned(), pod.name.clone()),
        };
        rows.entry((pod.namespace.clone(), kind, name)).or_default().push(id);
    }
    let row = |((namespace, kind, name), pods): ((String, String, String), Vec<PodId>)| {
        let mut addresses: Vec<IpAddr> = pods.iter().flat_map(|pod| cluster.pod(*pod).addresses()).collect();
        addresses.sort_unstable();
        let has_addresses = !addresses.is_empty();
        let node = match pods.as_slice() {
            [pod] => cluster.pod(*pod).node.clone(),
            _ => None,
        };
        Row {
            is_template: kind != "Pod" && pods.len() == 1 && !has_addresses,
            endpoint: Endpoint {
                id: format!("{namespace}/{kind}/{name}").into(),
                kind,
                addresses,
                node,
                host_network: false,
            },
            is_address: false,
            ends: pods.into_iter().map(End::Pod).collect(),
        }
    };
    rows.into_iter().map(row).collect()
}

/// Everything about an end that a rule can see. Zones are the intervals into
/// which the edges of all prefixes cut a family's addresses: no rule can tell
/// two addresses of a zone apart.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct Kind {
    family: Option<Family>,
    groups: [Option<GroupId>; 2],
    class: Option<ClassId>,
    zone: usize,
    /// Container ports, where some egress rule names ports.
    ports: Vec<ContainerPort>,
}

/// Judges pairs of rows; remembers what it knows about kinds.
struct Judge<'a> {
    cluster: &'a Cluster,
    groups: &'a Groups,
    /// Where the zones begin, by family.
    zones: [Vec<u128>; 2],
    ports_matter: bool,
    kinds: IndexSet<Kind>,
    kind_of: FxHashMap<(End, Option<Family>), usize>,
    verdicts: FxHashMap<(usize, usize), Arc<Traffic>>,
    all: Arc<Traffic>,
}

impl<'a> Judge<'a> {
    fn new(cluster: &'a Cluster, groups: &'a Groups) -> Self {
        let mut zones = [Vec::new(), Vec::new()];
        let atoms = groups.iter().flat_map(|(_, group)| group.admitted.keys());
        for atom in atoms {
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
        Self {
            cluster,
            groups,
            zones,
            ports_matter: groups.iter().any(|(_, group)| group.has_named()),
            kinds: IndexSet::new(),
            kind_of: FxHashMap::default(),
            verdicts: FxHashMap::default(),
            all: Arc::new(Traffic::all()),
        }
    }

    /// What passes between two rows, by family.
    fn between(&mut self, from: &Row, to: &Row) -> Vec<(Option<Family>, Arc<Traffic>)> {
        if let ([a], [b]) = (from.ends.as_slice(), to.ends.as_slice()) {
            let is_replica = from.is_template && from.endpoint.id == to.endpoint.id;
            return self
                .families(*a, *b, from.is_template || to.is_template)
                .into_iter()
                .map(|family| (family, self.pair(*a, *b, family, is_replica)))
                .collect();
        }
        let mut union = BTreeMap::<Option<Family>, Arc<Traffic>>::new();
        for a in &from.ends {
            for b in &to.ends {
                // A workload's traffic to itself is that of its replicas.
                if a == b {
                    continue;
                }
                for family in self.families(*a, *b, true) {
                    let traffic = self.pair(*a, *b, family, false);
                    let entry = union.entry(family).or_insert_with(|| Arc::clone(&traffic));
                    if *entry != traffic {
                        *entry = Arc::new(entry.union(&traffic));
                    }
                }
            }
        }
        union.into_iter().collect()
    }

    /// The families in which two ends can talk; `[None]` where one has no
    /// address yet and that counts.
    fn families(&self, from: End, to: End, without_address: bool) -> Vec<Option<Family>> {
        let has = |end: End, family| end.address(self.cluster, family).is_some();
        let none = |end| !Family::ALL.into_iter().any(|family| has(end, family));
        if without_address && (none(from) || none(to)) {
            return vec![None];
        }
        Family::ALL.into_iter().filter(|family| has(from, *family) && has(to, *family)).map(Some).collect()
    }

    fn pair(&mut self, from: End, to: End, family: Option<Family>, is_replica: bool) -> Arc<Traffic> {
        if !is_replica && exemption(self.cluster, from, to).is_some() {
            return Arc::clone(&self.all);
        }
        let kinds = (self.kind(from, family), self.kind(to, family));
        if let Some(verdict) = self.verdicts.get(&kinds) {
            return Arc::clone(verdict);
        }
        let directed = |direction| directed(self.cluster, self.groups, direction, from, to, family);
        let verdict = Arc::new(directed(Direction::Egress).intersection(&directed(Direction::Ingress)));
        self.verdicts.insert(kinds, Arc::clone(&verdict));
        verdict
    }

    fn kind(&mut self, end: End, family: Option<Family>) -> usize {
        if let Some(kind) = self.kind_of.get(&(end, family)) {
            return *kind;
        }
        let seen = end.seen(self.cluster, family);
        let kind = Kind {
            family,
            groups: Direction::ALL.map(|direction| end.group(self.groups, direction)),
            class: seen.class,
            zone: match (family, seen.address) {
                (Some(family), Some(address)) => {
                    let starts = &self.zones[family as usize];
                    // 0 is the zone of an end without an address.
                    1 + starts.partition_point(|start| *start <= cidr::number(address))
                }
                _ => 0,
            },
            ports: if self.ports_matter { seen.ports.to_vec() } else { Vec::new() },
        };
        let (place, _) = self.kinds.insert_full(kind);
        self.kind_of.insert((end, family), place);
        place
    }
}
