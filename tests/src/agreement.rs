//! Two opinions about one cluster: the compiler's matrix, pair sets and node
//! programs, and the [`oracle`](crate::oracle), flow by flow.

mod flow;

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use npc_compiler::algebra::cidr;
use npc_compiler::algebra::traffic::Traffic;
use npc_compiler::cluster::group::Groups;
use npc_compiler::cluster::{Cluster, PodId};
use npc_compiler::object::{Family, Objects, Protocol};
use npc_compiler::plan::KernelState;
use npc_compiler::plan::conntrack::FlowJudgement;
use npc_compiler::policy::Direction;
use npc_compiler::ruleset::layout::{self, SelfMatch};
use npc_compiler::verdict::matrix::{self, By, ConnectivityMatrix};
use npc_compiler::verdict::pairs::{self, PairSet, Region};

use crate::interpreter;
use crate::oracle::{End, Oracle, Packet, Payload};
use crate::random;
use flow::{Answers, ForwardedFlows, Here};

/// After so many differences the rest says nothing new.
const ENOUGH: usize = 10;

/// At most this many addresses outside are asked about; a cluster may name more.
const ADDRESSES: usize = 24;

const SELF_MATCHES: [SelfMatch; 2] = [SelfMatch::Bpf, SelfMatch::PerEndpoint];

/// The rows that should be there: from, to, family and protocol to ports.
type Rows = BTreeMap<(String, String, Family, String), Option<Vec<[u16; 2]>>>;

/// Where the compiler differs from the oracle, in words; nothing where they
/// agree. Asked is about every ordered pair of endpoints, edges of blocks,
/// nodes' addresses and the addresses given, in both families, every protocol
/// and at every port where something can change.
#[must_use]
pub fn differences(objects: &Objects, addresses: &[IpAddr]) -> Vec<String> {
    let question = ComparedCluster::new(objects, addresses);
    let cluster = Cluster::new(objects);
    let mut found = Vec::new();
    let answers = Answers::new(&question.oracle);
    question.compare_matrix(&cluster, &answers, &mut found);
    question.compare_programs(&cluster, &answers, &mut found);
    question.compare_pairs(&cluster, &answers, &mut found);
    question.compare_order(&cluster, &mut found);
    found.truncate(ENOUGH);
    found
}

/// What is asked about a cluster.
struct ComparedCluster<'a> {
    objects: &'a Objects,
    oracle: Oracle<'a>,
    /// The ends by the name that the matrix gives them.
    ends: Vec<(String, End)>,
    ports: Vec<u16>,
}

impl<'a> ComparedCluster<'a> {
    fn new(objects: &'a Objects, addresses: &[IpAddr]) -> Self {
        let oracle = Oracle::new(objects);
        let edges: Vec<IpAddr> = random::addresses(objects).into_iter().filter(|ip| !is_past_all_sets(*ip)).collect();
        let step = edges.len().div_ceil(ADDRESSES).max(1);
        let mut asked: BTreeSet<IpAddr> = edges.into_iter().step_by(step).chain(addresses.iter().copied()).collect();
        asked.retain(|ip| !is_past_all_sets(*ip));
        asked.extend(oracle.nodes().into_iter().map(|(_, address)| address));
        // One address of a pod, and what a pod without address lists.
        asked.extend(objects.pods.iter().filter_map(|pod| pod.ipv4.map(IpAddr::V4)).take(2));
        asked.extend(objects.pods.iter().filter(|pod| pod.finished).filter_map(|pod| pod.ipv6.map(IpAddr::V6)));
        let pod = |index: usize| {
            let pod = &objects.pods[index];
            (format!("{}/{}", pod.namespace, pod.name), End::Pod(index))
        };
        let pods = oracle.endpoints().into_iter().map(pod);
        let ends = pods.chain(asked.into_iter().map(|ip| (ip.to_string(), End::Address(ip)))).collect();
        Self { objects, oracle, ends, ports: random::ports(objects).into_iter().collect() }
    }

    fn pairs(&self) -> impl Iterator<Item = (&(String, End), &(String, End))> {
        self.ends.iter().flat_map(|from| self.ends.iter().map(move |to| (from, to)))
    }

    fn compare_matrix(&self, cluster: &Cluster, answers: &Answers<'_>, found: &mut Vec<String>) {
        let addresses = self.ends.iter().filter_map(|(_, end)| match end {
            End::Address(address) => Some(*address),
            _ => None,
        });
        let options = matrix::MatrixOptions { by: By::Pod, addresses: addresses.collect() };
        let seen = matrix::connectivity(cluster, &options);
        let names: BTreeSet<String> = self.ends.iter().map(|(name, _)| name.clone()).collect();
        let listed: Vec<String> = seen.endpoints.iter().map(|endpoint| endpoint.id.to_string()).collect();
        if !listed.iter().eq(&names) {
            found.push(format!("the matrix has endpoints {listed:?}"));
        }
        let mut seen = rows_of(&seen, found);
        let mut expected = self.expected_rows(answers);
        for rows in [&mut seen, &mut expected] {
            rows.retain(|(from, to, family, _), _| !self.is_among_claimants(from, to, *family));
        }
        for (row, ports) in &expected {
            if seen.get(row) != Some(ports) {
                found.push(format!("matrix: {}: {ports:?} expected, {:?} seen", row_text(row), seen.get(row)));
            }
        }
        for (row, ports) in seen.iter().filter(|(row, _)| !expected.contains_key(row)) {
            found.push(format!("matrix: {}: no row expected, {ports:?} seen", row_text(row)));
        }
    }

    /// Whether two ends have one address that several pods list: no packet
    /// between them can be distinguished from one of an end to itself.
    fn is_among_claimants(&self, from: &str, to: &str, family: Family) -> bool {
        let address = |name: &str| {
            let end = self.ends.iter().find(|(of, _)| of == name)?;
            self.oracle.address(&end.1, family)
        };
        let shared = address(from).filter(|shared| Some(*shared) == address(to));
        from != to && shared.is_some_and(|shared| self.oracle.claimants(shared).len() > 1)
    }

    fn expected_rows(&self, answers: &Answers<'_>) -> Rows {
        let mut rows = Rows::new();
        for ((from_name, from), (to_name, to)) in self.pairs() {
            if matches!((from, to), (End::Address(_), End::Address(_))) {
                continue;
            }
            for family in Family::ALL {
                let key = |protocol: &str| (from_name.clone(), to_name.clone(), family, protocol.to_owned());
                let allows = |payload| answers.allows(from, to, Packet { family, payload }).allowed();
                if allows(Payload::Icmp) {
                    rows.insert(key("ICMP"), None);
                }
                for protocol in Protocol::ALL {
                    let ranges = ranges(&self.ports, |port| allows(Payload::Port(protocol, port)));
                    if !ranges.is_empty() {
                        rows.insert(key(protocol.as_str()), Some(ranges));
                    }
                }
            }
        }
        rows
    }

    fn compare_programs(&self, cluster: &Cluster, answers: &Answers<'_>, found: &mut Vec<String>) {
        let nodes: BTreeSet<&str> = self.objects.pods.iter().filter_map(|pod| pod.node.as_deref()).collect();
        for (node, self_match) in nodes.iter().flat_map(|node| SELF_MATCHES.map(|self_match| (*node, self_match))) {
            // Rules that log what they drop change no verdict.
            let log_denied = nodes.first() != Some(&node);
            let options = layout::RulesetOptions { self_match, log_denied, ..layout::RulesetOptions::default() };
            let ruleset = layout::ruleset(cluster, node, &options);
            let faults = interpreter::faults(&ruleset);
            if !faults.is_empty() {
                found.extend(faults.into_iter().map(|fault| format!("ruleset of {node}: {fault}")));
                continue;
            }
            let state = KernelState::from(&ruleset);
            let own = self.oracle.nodes().into_iter().filter(|(name, _)| name == node).map(|(_, address)| address);
            let here = Here { objects: self.objects, oracle: &self.oracle, node, own: own.collect() };
            let judge = FlowJudgement::new(&state, &here);
            for ((from_name, from), (to_name, to)) in self.pairs() {
                // The two programs differ in traffic of an end to itself only.
                if self_match != SelfMatch::default() && from_name != to_name {
                    continue;
                }
                for family in Family::ALL {
                    let here = |end| self.on(node, end, family);
                    let (Some(from), Some(to)) = (here(from), here(to)) else { continue };
                    let (from, to) = (&from, &to);
                    let (oracle, objects) = (&self.oracle, self.objects);
                    let flow = ForwardedFlows { oracle, answers, objects, node, self_match, family, from, to };
                    if let Err(difference) = flow.compare(&ruleset, &self.ports) {
                        found.push(format!("ruleset of {node}: {from_name} -> {to_name} {difference}"));
                    }
                    if let Err(difference) = flow.compare_established(&judge, &self.ports) {
                        found.push(format!("flows of {node}: {from_name} -> {to_name} {difference}"));
                    }
                }
            }
        }
    }

    /// An end as packets on a node show it: by its address, which is that of a
    /// pod of the node if one lists it, even if others do. `None` for a pod of
    /// another node that looks the same from here.
    fn on(&self, node: &str, end: &End, family: Family) -> Option<End> {
        let Some(address) = self.oracle.address(end, family) else { return Some(end.clone()) };
        let own = |index: &&usize| self.objects.pods[**index].node.as_deref() == Some(node);
        let claimants = self.oracle.claimants(address);
        if claimants.len() < 2 || !claimants.iter().any(|index| own(&index)) {
            return Some(end.clone());
        }
        match end {
            End::Pod(index) => own(&index).then_some(End::Pod(*index)),
            _ => self.oracle.holders(address, Some(node)).first().map(|index| End::Pod(*index)),
        }
    }

    /// Each packet at each endpoint is in exactly one pair set per direction,
    /// unless no policy judges it.
    fn compare_pairs(&self, cluster: &Cluster, answers: &Answers<'_>, found: &mut Vec<String>) {
        let groups = Groups::new(cluster, cluster.endpoints().map(|(id, _)| id));
        let sets = pairs::pair_sets(cluster, &groups);
        let ids: BTreeMap<String, PodId> =
            cluster.endpoints().map(|(id, pod)| (format!("{}/{}", pod.namespace, pod.name), id)).collect();
        let pods = self.ends.iter().filter_map(|end| Some((end, *ids.get(&end.0)?)));
        for (((name, pod), id), (other_name, other)) in
            pods.flat_map(|pod| self.ends.iter().map(move |other| (pod, other)))
        {
            for family in Family::ALL {
                let address = |end| self.oracle.address(end, family);
                let (Some(own), Some(address)) = (address(pod), address(other)) else { continue };
                if own == address || self.oracle.own_node(pod, other, family) {
                    continue;
                }
                let index = match other {
                    End::Pod(index) => Some(*index),
                    // Of those that list one address, any that holds it at home.
                    _ => {
                        let mut pods = self.oracle.claimants(address).iter().copied();
                        pods.find(|pod| self.oracle.address(&End::Pod(*pod), family) == Some(address))
                    }
                };
                let other_id = index.map(|index| ids[&self.ends[self.place(index)].0]);
                let is_peer = |region: &Region| match other_id {
                    Some(id) => region.pods.contains(&id),
                    None => region.outside.contains(cidr::number(address)),
                };
                for direction in Direction::ALL {
                    let about: Vec<&PairSet> = (sets.iter())
                        .filter(|set| set.direction == direction && set.family == family)
                        .filter(|set| set.subjects.contains(&id) && is_peer(&set.peers))
                        .collect();
                    for payload in self.payloads() {
                        let verdict = |from, to| answers.allows(from, to, Packet { family, payload });
                        let expected = match direction {
                            Direction::Ingress => verdict(other, pod).ingress,
                            Direction::Egress => verdict(pod, other).egress,
                        };
                        let seen = about.iter().filter(|set| is_in(&set.traffic, payload)).map(|set| set.verdict);
                        let seen: Vec<pairs::PairSetVerdict> = seen.collect();
                        let expected =
                            if expected { pairs::PairSetVerdict::Allowed } else { pairs::PairSetVerdict::Denied };
                        if seen != [expected] {
                            let flow = format!("{direction:?} {name} with {other_name} {family} {payload:?}");
                            found.push(format!("pair sets: {flow}: {expected:?} expected, {seen:?} seen"));
                            return;
                        }
                    }
                }
            }
        }
    }

    /// Where a pod stands among the ends.
    fn place(&self, index: usize) -> usize {
        self.ends.iter().position(|(_, end)| *end == End::Pod(index)).unwrap_or_else(|| panic!("pod {index} is no end"))
    }

    fn payloads(&self) -> impl Iterator<Item = Payload> {
        let of = |protocol| self.ports.iter().map(move |port| Payload::Port(protocol, *port));
        Protocol::ALL.into_iter().flat_map(of).chain([Payload::Icmp])
    }

    /// The order of objects never matters.
    fn compare_order(&self, cluster: &Cluster, found: &mut Vec<String>) {
        let mut turned = self.objects.clone();
        turned.namespaces.reverse();
        turned.pods.reverse();
        turned.policies.reverse();
        turned.nodes.reverse();
        let turned = Cluster::new(&turned);
        let nodes: BTreeSet<&str> = self.objects.pods.iter().filter_map(|pod| pod.node.as_deref()).collect();
        for node in nodes {
            let ruleset = |cluster| layout::ruleset(cluster, node, &layout::RulesetOptions::default());
            if ruleset(cluster) != ruleset(&turned) {
                found.push(format!("ruleset of {node}: another one where the objects come the other way round"));
            }
        }
        let options = matrix::MatrixOptions { by: By::Pod, addresses: Vec::new() };
        if matrix::connectivity(cluster, &options) != matrix::connectivity(&turned, &options) {
            found.push("matrix: another one where the objects come the other way round".to_owned());
        }
    }
}

fn is_in(traffic: &Traffic, payload: Payload) -> bool {
    match payload {
        Payload::Port(protocol, port) => traffic.of(protocol).contains(port),
        Payload::Icmp => traffic.other,
    }
}

/// The matrix' rows, and a word about those that are out of order.
fn rows_of(matrix: &ConnectivityMatrix, found: &mut Vec<String>) -> Rows {
    let key = |row: &matrix::Connection| {
        let family = row.family.unwrap_or_else(|| panic!("no family in {row:?}"));
        (row.from.to_string(), row.to.to_string(), family, row.protocol.to_owned())
    };
    if !matrix.connections.is_sorted_by(|one, next| key(one) < key(next)) {
        found.push("matrix: the rows are not sorted, or some are there twice".to_owned());
    }
    matrix.connections.iter().map(|row| (key(row), row.ports.clone())).collect()
}

fn row_text((from, to, family, protocol): &(String, String, Family, String)) -> String {
    format!("{from} -> {to} {family} {protocol}")
}

/// The ranges of ports that are allowed, where the answer can change at
/// `starts` only.
fn ranges(starts: &[u16], allowed: impl Fn(u16) -> bool) -> Vec<[u16; 2]> {
    let mut ranges: Vec<[u16; 2]> = Vec::new();
    for (index, &start) in starts.iter().enumerate() {
        let end = starts.get(index + 1).map_or(u16::MAX, |next| next - 1);
        if !allowed(start) {
            continue;
        }
        match ranges.last_mut() {
            Some(last) if last[1].checked_add(1) == Some(start) => last[1] = end,
            _ => ranges.push([start, end]),
        }
    }
    ranges
}

/// Link-local, multicast and broadcast addresses, and none at all, reach bridged pods
/// past all sets; they meet rules of their own, and are no end of a flow.
fn is_past_all_sets(address: IpAddr) -> bool {
    address.is_unspecified()
        || match address {
            IpAddr::V4(address) => address.is_multicast() || address.is_broadcast(),
            IpAddr::V6(address) => address.is_multicast() || address.is_unicast_link_local(),
        }
}
