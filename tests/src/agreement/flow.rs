//! The flows between two ends, packet by packet: the rules and sets of a node's ruleset, and
//! the judge of established flows, against the oracle.

use std::cell::RefCell;
use std::collections::BTreeSet;
use std::fmt;
use std::net::IpAddr;

use npc_compiler::object::{Family, Objects, Protocol};
use npc_compiler::plan::conntrack::{AddressOwners, FlowJudgement, FlowKey};
use npc_compiler::ruleset::layout::SelfMatch;
use npc_compiler::ruleset::node::{InterfaceName, NodeRuleset};
use rustc_hash::FxHashMap;

use crate::interpreter::{self, ConntrackState, Outcome};
use crate::oracle::{Demand, End, Oracle, Packet, Payload, Verdict};

/// IP protocols that carry packets of others, and whether a kernel unpacks what any
/// sender sends, without a key: IPIP, 6in4 and GRE. ESP, AH, EtherIP, L2TP and MPLS
/// in IP take a key, a session, a program or an operator.
const CARRIERS: [(u8, bool); 8] =
    [(4, true), (41, true), (47, true), (50, false), (51, false), (97, false), (115, false), (137, false)];

/// What the oracle has answered. Each node that a packet crosses asks the same about it, and so do the
/// matrix and the pair sets, the rules and the judge of established flows; and the oracle is slow because it
/// is naive.
pub(super) struct Answers<'a> {
    oracle: &'a Oracle<'a>,
    verdicts: RefCell<FxHashMap<(End, End, Packet), Verdict>>,
    without_tunnels: RefCell<FxHashMap<(End, End, Packet), Verdict>>,
    mid_stream: RefCell<FxHashMap<Segment, [Demand; 2]>>,
}

/// A segment that opens no connection: its ends, its family and the port that it goes to.
type Segment = (End, End, Family, u16);

impl<'a> Answers<'a> {
    pub(super) fn new(oracle: &'a Oracle<'a>) -> Self {
        Self {
            oracle,
            verdicts: RefCell::default(),
            without_tunnels: RefCell::default(),
            mid_stream: RefCell::default(),
        }
    }

    /// See [`Oracle::allows`].
    pub(super) fn allows(&self, from: &End, to: &End, packet: Packet) -> Verdict {
        let ask = || self.oracle.allows(from, to, packet);
        *self.verdicts.borrow_mut().entry((from.clone(), to.clone(), packet)).or_insert_with(ask)
    }

    /// See [`Oracle::allows_without_tunnels`].
    fn allows_without_tunnels(&self, from: &End, to: &End, packet: Packet) -> Verdict {
        let ask = || self.oracle.allows_without_tunnels(from, to, packet);
        *self.without_tunnels.borrow_mut().entry((from.clone(), to.clone(), packet)).or_insert_with(ask)
    }

    /// See [`Oracle::mid_stream`].
    fn mid_stream(&self, from: &End, to: &End, family: Family, port: u16) -> [Demand; 2] {
        let ask = || self.oracle.mid_stream(from, to, family, port);
        *self.mid_stream.borrow_mut().entry((from.clone(), to.clone(), family, port)).or_insert_with(ask)
    }
}

/// The flows between two ends in one family, as forwarded by one node.
pub(super) struct ForwardedFlows<'a> {
    pub(super) oracle: &'a Oracle<'a>,
    pub(super) answers: &'a Answers<'a>,
    pub(super) objects: &'a Objects,
    pub(super) node: &'a str,
    pub(super) self_match: SelfMatch,
    pub(super) family: Family,
    pub(super) from: &'a End,
    pub(super) to: &'a End,
}

impl ForwardedFlows<'_> {
    pub(super) fn compare(&self, program: &NodeRuleset, ports: &[u16]) -> Result<(), Different> {
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
            let Verdict { egress, ingress } = self.answers.allows_without_tunnels(self.from, self.to, packet);
            (egress || !sends) && (ingress || !receives)
        };
        for protocol in Protocol::ALL {
            for &port in if sends || receives { ports } else { &ports[..1] } {
                let expected = judge(Payload::Port(protocol, port));
                expect(expected, interpreter::Payload::Port(protocol, port), ConntrackState::New)?;
            }
        }
        let echo = if self.family == Family::V4 { 8 } else { 128 };
        let portless = judge(Payload::Icmp);
        expect(portless, interpreter::Payload::Icmp(echo), ConntrackState::New)?;
        expect(portless, interpreter::Payload::Other, ConntrackState::New)?;
        // No tunnel leads past policies for egress, also if they admit all ports.
        let source_is = sends && self.oracle.isolated(self.from, self.family)[0];
        for (number, is_kept) in CARRIERS {
            let expected = itself || portless && !(source_is && is_kept);
            expect(expected, interpreter::Payload::Tunnel(number), ConntrackState::New)?;
        }
        for &port in if sends || receives { ports } else { &ports[..1] } {
            let payload = interpreter::Payload::Port(Protocol::Tcp, port);
            let seen = returned(payload, ConntrackState::Stray);
            if !itself && !self.mid_stream(port, sends, receives).is_met(seen) || itself && !seen {
                return Err(Different { payload, state: ConntrackState::Stray, expected: !seen, seen });
            }
        }
        expect(true, interpreter::Payload::Icmp(echo), ConntrackState::Established)?;
        expect(true, interpreter::Payload::Port(Protocol::Tcp, 1), ConntrackState::Established)?;
        // What a helper expects is a first packet where anything is isolated.
        let first = !self.is_isolating() || judge(Payload::Port(Protocol::Tcp, 1));
        expect(first, interpreter::Payload::Port(Protocol::Tcp, 1), ConntrackState::Related)?;
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
                let forged = packet(payload, ConntrackState::New);
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
                    let state = ConntrackState::Related;
                    let error = interpreter::Packet { state, interface, length, quoted_destination, ..first };
                    expect(passes || !self.is_isolating(), error)?;
                }
            }
        }
        Ok(())
    }

    /// Whether an endpoint of this node is isolated, in this or the other family.
    fn is_isolating(&self) -> bool {
        self.oracle
            .endpoints()
            .into_iter()
            .any(|index| self.objects.pods[index].node.as_deref() == Some(self.node) && self.oracle.is_isolated(index))
    }

    /// What a segment that opens no connection and belongs to none has to do.
    fn mid_stream(&self, port: u16, sends: bool, receives: bool) -> Demand {
        let [source, destination] = self.answers.mid_stream(self.from, self.to, self.family, port);
        let at = |is_here, demand| if is_here { demand } else { Demand::Pass };
        at(sends, source).and(at(receives, destination))
    }

    /// What of the flows that are established is forbidden, which is what the
    /// oracle would not let begin.
    pub(super) fn compare_established(
        &self,
        judge: &FlowJudgement<'_, Here<'_>>,
        ports: &[u16],
    ) -> Result<(), Different> {
        let address = |end| self.oracle.address(end, self.family);
        let (Some(source), Some(destination)) = (address(self.from), address(self.to)) else { return Ok(()) };
        // A node's own by definition, and never forwarded.
        if source.is_loopback() || destination.is_loopback() {
            return Ok(());
        }
        let (sends, receives) = (self.is_here(source), self.is_here(destination));
        let allowed = |payload| {
            let packet = Packet { family: self.family, payload };
            let verdict = self.answers.allows_without_tunnels(self.from, self.to, packet);
            (verdict.egress || !sends) && (verdict.ingress || !receives)
        };
        let expect = |expected: bool, payload, protocol, port| {
            let seen = !judge.forbids(&FlowKey { source, destination, protocol, port, mid_stream: false });
            if seen == expected {
                Ok(())
            } else {
                Err(Different { payload, state: ConntrackState::Established, expected, seen })
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
                return Err(Different { payload, state: ConntrackState::Stray, expected: !seen, seen });
            }
        }
        let expect = |expected: bool, payload, protocol, port| {
            let seen = !judge.forbids(&FlowKey { source, destination, protocol, port, mid_stream: false });
            if seen == expected {
                Ok(())
            } else {
                Err(Different { payload, state: ConntrackState::Established, expected, seen })
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
    packet: impl Fn(interpreter::Payload, ConntrackState) -> interpreter::Packet,
) -> Result<(), Different> {
    for (kind, lengths) in [(133, 48..=128), (135, 64..=128), (136, 64..=128), (134, 56..=1280), (137, 80..=1280)] {
        for interface in [None, InterfaceName::new("azv1")] {
            for hop_limit in [254, 255] {
                for length in [lengths.start() - 1, *lengths.start(), *lengths.end(), lengths.end() + 1] {
                    let may_send = interface.is_none() || !matches!(kind, 134 | 137);
                    let passes = hop_limit == 255 && lengths.contains(&length) && may_send;
                    let first = packet(interpreter::Payload::Icmp(kind), ConntrackState::New);
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
pub(super) struct Here<'a> {
    pub(super) objects: &'a Objects,
    pub(super) oracle: &'a Oracle<'a>,
    pub(super) node: &'a str,
    pub(super) own: BTreeSet<IpAddr>,
}

impl AddressOwners for Here<'_> {
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
pub(super) struct Different {
    payload: interpreter::Payload,
    state: ConntrackState,
    expected: bool,
    seen: bool,
}

impl fmt::Display for Different {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { payload, state, expected, seen } = self;
        write!(f, "{payload:?} {state:?}: allowed {expected} expected, {seen} seen")
    }
}
