//! Two opinions about one cluster: the compiler's matrix, pair sets and node
//! programs, and the [`oracle`](crate::oracle), flow by flow.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::net::IpAddr;

use npc_compiler::algebra::cidr;
use npc_compiler::algebra::traffic::Traffic;
use npc_compiler::cluster::group::Groups;
use npc_compiler::cluster::{Cluster, PodId};
use npc_compiler::object::{Family, Objects, Protocol};
use npc_compiler::plan::KernelState;
use npc_compiler::plan::conntrack::{Ends, FlowKey, Judge};
use npc_compiler::policy::Direction;
use npc_compiler::ruleset::layout::{self, SelfMatch};
use npc_compiler::ruleset::node::{InterfaceName, NodeRuleset};
use npc_compiler::verdict::matrix::{self, By, ConnectivityMatrix};
use npc_compiler::verdict::pairs::{self, PairSet, Region};

use crate::interpreter::{self, Outcome, State};
use crate::oracle::{Demand, End, Oracle, Packet, Payload, Verdict};
use crate::random;

/// After so many differences the rest says nothing new.
const ENOUGH: usize = 10;

/// So many addresses outside are asked about; a cluster may name more.
const ADDRESSES: usize = 24;

const SELF_MATCHES: [SelfMatch; 2] = [SelfMatch::Bpf, SelfMatch::PerEndpoint];

/// IP protocols that carry packets of others, and whether a kernel unpacks what any
/// sender sends, without a key: IPIP, 6in4 and GRE. ESP, AH, EtherIP, L2TP and MPLS
/// in IP take a key, a session, a program or an operator.
const CARRIERS: [(u8, bool); 8] =
    [(4, true), (41, true), (47, true), (50, false), (51, false), (97, false), (115, false), (137, false)];

/// The rows that should be there: from, to, family and protocol to ports.
type Rows = BTreeMap<(String, String, Family, String), Option<Vec<[u16; 2]>>>;

/// Where the compiler differs from the oracle, in words; nothing where they
/// agree. Asked is about every ordered pair of endpoints, edges of blocks,
/// nodes' addresses and the addresses given, in both families, every protocol
/// and at every port where something can change.
#[must_use]
pub fn differences(objects: &Objects, addresses: &[IpAddr]) -> Vec<String> {
    let question = Question::new(objects, addresses);
    let cluster = Cluster::new(objects);
    let mut found = Vec::new();
    question.compare_matrix(&cluster, &mut found);
    question.compare_programs(&cluster, &mut found);
    question.compare_pairs(&cluster, &mut found);
    question.compare_order(&cluster, &mut found);
    found.truncate(ENOUGH);
    found
}

/// What is asked about a cluster.
struct Question<'a> {
    objects: &'a Objects,
    oracle: Oracle<'a>,
    /// The ends by the name that the matrix gives them.
    ends: Vec<(String, End)>,
    ports: Vec<u16>,
}

impl<'a> Question<'a> {
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

    fn compare_matrix(&self, cluster: &Cluster, found: &mut Vec<String>) {
        let addresses = self.ends.iter().filter_map(|(_, end)| match end {
            End::Address(address) => Some(*address),
            _ => None,
        });
        let options = matrix::Options { by: By::Pod, addresses: addresses.collect() };
        let seen = matrix::connectivity(cluster, &options);
        let names: BTreeSet<&str> = self.ends.iter().map(|(name, _)| name.as_str()).collect();
        let listed: Vec<&str> = seen.endpoints.iter().map(|endpoint| &*endpoint.id).collect();
        if !listed.iter().copied().eq(names) {
            found.push(format!("the matrix has endpoints {listed:?}"));
        }
        let mut seen = rows_of(&seen, found);
        let mut expected = self.expected_rows();
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

    fn expected_rows(&self) -> Rows {
        let mut rows = Rows::new();
        for ((from_name, from), (to_name, to)) in self.pairs() {
            if matches!((from, to), (End::Address(_), End::Address(_))) {
                continue;
            }
            for family in Family::ALL {
                let key = |protocol: &str| (from_name.clone(), to_name.clone(), family, protocol.to_owned());
                let allows = |payload| self.oracle.allows(from, to, Packet { family, payload }).allowed();
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

    fn compare_programs(&self, cluster: &Cluster, found: &mut Vec<String>) {
        let nodes: BTreeSet<&str> = self.objects.pods.iter().filter_map(|pod| pod.node.as_deref()).collect();
        for (node, self_match) in nodes.iter().flat_map(|node| SELF_MATCHES.map(|self_match| (*node, self_match))) {
            // Rules that log what they drop change no verdict.
            let log_denied = nodes.first() != Some(&node);
            let options = layout::Options { self_match, log_denied, ..layout::Options::default() };
            let program = layout::ruleset(cluster, node, &options);
            let faults = interpreter::faults(&program);
            if !faults.is_empty() {
                found.extend(faults.into_iter().map(|fault| format!("program of {node}: {fault}")));
                continue;
            }
            let state = KernelState::from(&program);
            let own = self.oracle.nodes().into_iter().filter(|(name, _)| name == node).map(|(_, address)| address);
            let here = Here { objects: self.objects, oracle: &self.oracle, node, own: own.collect() };
            let judge = Judge::new(&state, &here);
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
                    let flow = Flow { oracle, objects, node, self_match, family, from, to };
                    if let Err(difference) = flow.compare(&program, &self.ports) {
                        found.push(format!("program of {node}: {from_name} -> {to_name} {difference}"));
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
    fn compare_pairs(&self, cluster: &Cluster, found: &mut Vec<String>) {
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
                        let verdict = |from, to| self.oracle.allows(from, to, Packet { family, payload });
                        let expected = match direction {
                            Direction::Ingress => verdict(other, pod).ingress,
                            Direction::Egress => verdict(pod, other).egress,
                        };
                        let seen = about.iter().filter(|set| is_in(&set.traffic, payload)).map(|set| set.verdict);
                        let seen: Vec<pairs::Verdict> = seen.collect();
                        let expected = if expected { pairs::Verdict::Allowed } else { pairs::Verdict::Denied };
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
            let program = |cluster| layout::ruleset(cluster, node, &layout::Options::default());
            if program(cluster) != program(&turned) {
                found.push(format!("program of {node}: another one where the objects come the other way round"));
            }
        }
        let options = matrix::Options { by: By::Pod, addresses: Vec::new() };
        if matrix::connectivity(cluster, &options) != matrix::connectivity(&turned, &options) {
            found.push("matrix: another one where the objects come the other way round".to_owned());
        }
    }
}

/// The flows between two ends in one family, as forwarded by one node.
struct Flow<'a> {
    oracle: &'a Oracle<'a>,
    objects: &'a Objects,
    node: &'a str,
    self_match: SelfMatch,
    family: Family,
    from: &'a End,
    to: &'a End,
}

impl Flow<'_> {
    fn compare(&self, program: &NodeRuleset, ports: &[u16]) -> Result<(), Different> {
        let address = |end| self.oracle.address(end, self.family);
        let (Some(source), Some(destination)) = (address(self.from), address(self.to)) else { return Ok(()) };
        // Between a pod and its own node nothing is forwarded.
        if self.oracle.own_node(self.from, self.to, self.family) {
            return Ok(());
        }
        let (sends, receives) = (self.is_here(source), self.is_here(destination));
        // A pod reaches itself by a Service, whose address the node has translated.
        let itself = source == destination;
        let packet = |payload, state| interpreter::Packet {
            state,
            translated: itself,
            ..interpreter::Packet::first(source, destination, payload)
        };
        let passes = |packet: &interpreter::Packet| interpreter::run(program, packet).outcome == Outcome::Returned;
        let returned = |payload, state| passes(&packet(payload, state));
        let expect = |expected: bool, payload, state| {
            let seen = returned(payload, state);
            if seen == expected { Ok(()) } else { Err(Different { payload, state, expected, seen }) }
        };
        let expect_of = |expected: bool, packet: interpreter::Packet| {
            let seen = passes(&packet);
            let interpreter::Packet { payload, state, .. } = packet;
            if seen == expected { Ok(()) } else { Err(Different { payload, state, expected, seen }) }
        };
        let judge = |payload| {
            // What belongs to no pod of this node only passes through.
            let packet = Packet { family: self.family, payload };
            let Verdict { egress, ingress } = self.oracle.allows_without_tunnels(self.from, self.to, packet);
            (egress || !sends) && (ingress || !receives)
        };
        for protocol in Protocol::ALL {
            for &port in if sends || receives { ports } else { &ports[..1] } {
                let expected = judge(Payload::Port(protocol, port));
                expect(expected, interpreter::Payload::Port(protocol, port), State::New)?;
            }
        }
        let echo = if self.family == Family::V4 { 8 } else { 128 };
        let portless = judge(Payload::Icmp);
        expect(portless, interpreter::Payload::Icmp(echo), State::New)?;
        expect(portless, interpreter::Payload::Other, State::New)?;
        // No tunnel leads past policies for egress, whatever they admit.
        let source_is = sends && self.oracle.isolated(self.from, self.family)[0];
        for (number, is_kept) in CARRIERS {
            let expected = itself || portless && !(source_is && is_kept);
            expect(expected, interpreter::Payload::Tunnel(number), State::New)?;
        }
        for &port in if sends || receives { ports } else { &ports[..1] } {
            let payload = interpreter::Payload::Port(Protocol::Tcp, port);
            let seen = returned(payload, State::Stray);
            if !itself && !self.mid_stream(port, sends, receives).is_met(seen) || itself && !seen {
                return Err(Different { payload, state: State::Stray, expected: !seen, seen });
            }
        }
        expect(true, interpreter::Payload::Icmp(echo), State::Established)?;
        expect(true, interpreter::Payload::Port(Protocol::Tcp, 1), State::Established)?;
        // What a helper expects is a first packet where anything is isolated.
        let first = !self.is_isolating() || judge(Payload::Port(Protocol::Tcp, 1));
        expect(first, interpreter::Payload::Port(Protocol::Tcp, 1), State::Related)?;
        self.compare_errors(|expected, error| {
            expect_of(expected, interpreter::Packet { translated: itself, ..error })
        })?;
        if self.family == Family::V6 && (sends || receives) {
            compare_discovery(portless, expect_of, packet)?;
        }
        if itself && (sends || receives) {
            // Forged, as it comes by no Service.
            for payload in
                [Payload::Port(Protocol::Tcp, ports[0]), Payload::Port(Protocol::Sctp, ports[0]), Payload::Icmp]
            {
                let forwarded = Packet { family: self.family, payload };
                let expected = self.oracle.allows_forwarded(self.from, self.to, forwarded).allowed();
                let payload = match payload {
                    Payload::Port(protocol, port) => interpreter::Payload::Port(protocol, port),
                    Payload::Icmp => interpreter::Payload::Icmp(echo),
                };
                let forged = packet(payload, State::New);
                expect_of(expected, interpreter::Packet { translated: false, ..forged })?;
            }
        }
        Ok(())
    }

    /// ICMP errors about known flows: none is longer than a router's, and from a
    /// pod's interface comes none but about what went to its sender.
    fn compare_errors(
        &self,
        expect: impl Fn(bool, interpreter::Packet) -> Result<(), Different>,
    ) -> Result<(), Different> {
        let address = |end| self.oracle.address(end, self.family);
        let (Some(source), Some(destination)) = (address(self.from), address(self.to)) else { return Ok(()) };
        let (kind, longest) = if self.family == Family::V4 { (3, 576) } else { (2, 1280) };
        for interface in [None, InterfaceName::new("azv1")] {
            for quoted_destination in [Some(source), Some(destination), None] {
                for length in [100, longest, longest + 1] {
                    // Without bpf no rule can match what a pod's error quotes.
                    let is_about_own = self.self_match == SelfMatch::Bpf && quoted_destination == Some(source);
                    let passes = length <= longest && (interface.is_none() || is_about_own);
                    let first = interpreter::Packet::first(source, destination, interpreter::Payload::Icmp(kind));
                    let state = State::Related;
                    let error = interpreter::Packet { state, interface, length, quoted_destination, ..first };
                    expect(passes || !self.is_isolating(), error)?;
                }
            }
        }
        Ok(())
    }

    /// Whether an endpoint of this node is isolated, be it in the other family.
    fn is_isolating(&self) -> bool {
        self.oracle
            .endpoints()
            .into_iter()
            .any(|index| self.objects.pods[index].node.as_deref() == Some(self.node) && self.oracle.is_isolated(index))
    }

    /// What a segment that opens no connection and belongs to none has to do.
    fn mid_stream(&self, port: u16, sends: bool, receives: bool) -> Demand {
        let [source, destination] = self.oracle.mid_stream(self.from, self.to, self.family, port);
        let at = |is_here, demand| if is_here { demand } else { Demand::Pass };
        at(sends, source).and(at(receives, destination))
    }

    /// What of the flows that are established is forbidden, which is what the
    /// oracle would not let begin.
    fn compare_established(&self, judge: &Judge<'_, Here<'_>>, ports: &[u16]) -> Result<(), Different> {
        let address = |end| self.oracle.address(end, self.family);
        let (Some(source), Some(destination)) = (address(self.from), address(self.to)) else { return Ok(()) };
        // A node's own by definition, and never forwarded.
        if source.is_loopback() || destination.is_loopback() {
            return Ok(());
        }
        let (sends, receives) = (self.is_here(source), self.is_here(destination));
        let allowed = |payload| {
            let packet = Packet { family: self.family, payload };
            let verdict = self.oracle.allows_without_tunnels(self.from, self.to, packet);
            (verdict.egress || !sends) && (verdict.ingress || !receives)
        };
        let expect = |expected: bool, payload, protocol, port| {
            let seen = !judge.forbids(&FlowKey { source, destination, protocol, port, mid_stream: false });
            if seen == expected {
                Ok(())
            } else {
                Err(Different { payload, state: State::Established, expected, seen })
            }
        };
        for protocol in Protocol::ALL {
            for &port in if sends || receives { ports } else { &ports[..1] } {
                let expected = allowed(Payload::Port(protocol, port));
                expect(expected, interpreter::Payload::Port(protocol, port), protocol.number(), port)?;
            }
        }
        // What the kernel took up in its middle goes on where what it took up
        // would pass again, and is cut where that must not.
        let exempt = source == destination || self.oracle.own_node(self.from, self.to, self.family);
        for &port in if sends || receives { ports } else { &ports[..1] } {
            let protocol = Protocol::Tcp.number();
            let tuple = FlowKey { source, destination, protocol, port, mid_stream: true };
            let demand = if exempt { Demand::Pass } else { self.mid_stream(port, sends, receives) };
            let seen = !judge.forbids(&tuple);
            if !demand.is_met(seen) {
                let payload = interpreter::Payload::Port(Protocol::Tcp, port);
                return Err(Different { payload, state: State::Stray, expected: !seen, seen });
            }
        }
        let expect = |expected: bool, payload, protocol, port| {
            let seen = !judge.forbids(&FlowKey { source, destination, protocol, port, mid_stream: false });
            if seen == expected {
                Ok(())
            } else {
                Err(Different { payload, state: State::Established, expected, seen })
            }
        };
        let portless = allowed(Payload::Icmp);
        let icmp = if self.family == Family::V4 { 1 } else { 58 };
        expect(portless, interpreter::Payload::Icmp(0), icmp, 0)?;
        let isolated = sends && self.oracle.isolated(self.from, self.family)[0];
        for (number, is_kept) in CARRIERS {
            let expected = exempt || portless && !(isolated && is_kept);
            expect(expected, interpreter::Payload::Tunnel(number), number, 0)?;
        }
        Ok(())
    }

    /// Whether an address is that of an endpoint on this node.
    fn is_here(&self, address: IpAddr) -> bool {
        is_at(self.objects, self.oracle, self.node, address)
    }
}

/// Neighbour discovery that no router has forwarded passes, and a router's if
/// it comes from no pod. Otherwise it is judged as anything without ports.
fn compare_discovery(
    portless: bool,
    expect: impl Fn(bool, interpreter::Packet) -> Result<(), Different>,
    packet: impl Fn(interpreter::Payload, State) -> interpreter::Packet,
) -> Result<(), Different> {
    for (kind, lengths) in [(133, 48..=128), (135, 64..=128), (136, 64..=128), (134, 56..=1280), (137, 80..=1280)] {
        for interface in [None, InterfaceName::new("azv1")] {
            for hop_limit in [254, 255] {
                for length in [lengths.start() - 1, *lengths.start(), *lengths.end(), lengths.end() + 1] {
                    let may_send = interface.is_none() || !matches!(kind, 134 | 137);
                    let passes = hop_limit == 255 && lengths.contains(&length) && may_send;
                    let first = packet(interpreter::Payload::Icmp(kind), State::New);
                    let sent = interpreter::Packet { interface, hop_limit, length, ..first };
                    expect(passes || portless, sent)?;
                }
            }
        }
    }
    Ok(())
}

/// Whether an address is that of an endpoint on a node.
fn is_at(objects: &Objects, oracle: &Oracle<'_>, node: &str, address: IpAddr) -> bool {
    oracle.claimants(address).iter().any(|pod| objects.pods[*pod].node.as_deref() == Some(node))
}

/// One node's addresses, as the oracle knows them.
struct Here<'a> {
    objects: &'a Objects,
    oracle: &'a Oracle<'a>,
    node: &'a str,
    own: BTreeSet<IpAddr>,
}

impl Ends for Here<'_> {
    fn is_local(&self, address: IpAddr) -> bool {
        is_at(self.objects, self.oracle, self.node, address)
    }

    fn is_own(&self, address: IpAddr) -> bool {
        self.own.contains(&address) && self.oracle.claimants(address).is_empty()
    }

    fn is_departed(&self, _: IpAddr) -> bool {
        false
    }
}

/// A packet about which a node's program differs.
struct Different {
    payload: interpreter::Payload,
    state: State,
    expected: bool,
    seen: bool,
}

impl fmt::Display for Different {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { payload, state, expected, seen } = self;
        write!(f, "{payload:?} {state:?}: allowed {expected} expected, {seen} seen")
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
