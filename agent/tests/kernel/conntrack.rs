//! The kernel's table of flows: what is forbidden goes, and nothing else.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr};
use std::time::Instant;

use netlink_packet_netfilter::conntrack::{
    ConntrackAttribute, ConntrackMessage, IPTuple, ProtoTuple, Protocol, Status, Tuple as Part,
};
use netlink_packet_netfilter::{NetfilterHeader, NetfilterMessage, NetfilterProtoFamily};
use npc_agent::dataplane::conntrack::{Error, Swept, cut_all_of, sweep, sweep_in, sweep_whole};
use npc_compiler::object::Family;
use npc_compiler::plan::conntrack::{FlowKey, FlowScope};
use npc_skip::{Lack, skipped};
use rtnetlink::packet_core::{
    DefaultNla, Emitable as _, NLA_F_NESTED, NLM_F_ACK, NLM_F_CREATE, NLM_F_EXCL, NLM_F_REQUEST, NetlinkHeader,
    NetlinkMessage, NetlinkPayload,
};
use rtnetlink::sys::{Socket, SocketAddr, protocols::NETLINK_NETFILTER};

use super::namespace::Namespace;

const UDP: u8 = 17;
const TCP: u8 = 6;

/// A table that can be written to.
pub(crate) struct Table(Socket);

impl Table {
    pub(crate) fn open() -> Self {
        let socket = Socket::new(NETLINK_NETFILTER).unwrap();
        socket.connect(&SocketAddr::new(0, 0)).unwrap();
        Self(socket)
    }

    /// A flow that was sent to one socket and goes to another.
    pub(crate) fn insert(
        &self,
        protocol: u8,
        from: (IpAddr, u16),
        sent_to: (IpAddr, u16),
        goes_to: (IpAddr, u16),
        more: Option<DefaultNla>,
    ) {
        self.insert_in(Zone::None, [half(protocol, from, sent_to), half(protocol, goes_to, from)], more);
    }

    /// A flow by its tuples, in a zone.
    fn insert_in(&self, zone: Zone, [mut original, mut reply]: [Vec<Part>; 2], more: Option<DefaultNla>) {
        let is_ipv4 = original.iter().any(|part| {
            let is_source = |end: &IPTuple| matches!(end, IPTuple::SourceAddress(address) if address.is_ipv4());
            matches!(part, Part::Ip(ends) if ends.iter().any(is_source))
        });
        let mut more: Vec<ConntrackAttribute> = more.into_iter().map(ConntrackAttribute::Other).collect();
        match zone {
            Zone::None => {}
            Zone::Original(id) => original.push(Part::Other(of_zone(CTA_TUPLE_ZONE, id))),
            Zone::Reply(id) => reply.push(Part::Other(of_zone(CTA_TUPLE_ZONE, id))),
            Zone::Both(id) => more.push(ConntrackAttribute::Other(of_zone(CTA_ZONE, id))),
        }
        let mut entry = vec![
            ConntrackAttribute::CtaTupleOrig(original),
            ConntrackAttribute::CtaTupleReply(reply),
            ConntrackAttribute::CtaStatus(Status::Confirmed | Status::SeenReply),
            ConntrackAttribute::CtaTimeout(600),
        ];
        entry.extend(more);
        let family = if is_ipv4 { NetfilterProtoFamily::IPv4 } else { NetfilterProtoFamily::IPv6 };
        let code = self.request(family, NLM_F_CREATE | NLM_F_EXCL, ConntrackMessage::New(entry));
        assert_eq!(code, 0, "{}", std::io::Error::from_raw_os_error(-code));
    }

    /// What the kernel answers to a request: 0, or the number of an error, negative.
    fn request(&self, family: NetfilterProtoFamily, flags: u16, message: ConntrackMessage) -> i32 {
        let mut header = NetlinkHeader::default();
        header.flags = NLM_F_REQUEST | NLM_F_ACK | flags;
        let message = NetfilterMessage::new(NetfilterHeader::new(family, 0, 0), message);
        let mut message = NetlinkMessage::new(header, NetlinkPayload::from(message));
        message.finalize();
        let mut bytes = vec![0; message.buffer_len()];
        message.serialize(&mut bytes);
        self.0.send(&bytes, 0).unwrap();
        let mut answer = vec![0; 4096];
        let length = self.0.recv(&mut &mut answer[..], 0).unwrap();
        let answer = NetlinkMessage::<NetfilterMessage>::deserialize(&answer[..length]).unwrap();
        let NetlinkPayload::Error(answer) = answer.payload else { panic!("{answer:?}") };
        answer.raw_code()
    }
}

/// Attributes that the crate leaves as they are; see
/// linux/netfilter/nfnetlink_conntrack.h.
const CTA_TUPLE_ZONE: u16 = 3;
const CTA_TUPLE_MASTER: u16 = 14;
const CTA_ZONE: u16 = 18;
const CTA_FILTER: u16 = 25;
const CTA_FILTER_ORIG_FLAGS: u16 = 1;
const CTA_FILTER_REPLY_FLAGS: u16 = 2;
const CTA_FILTER_F_CTA_IP_SRC: u32 = 1;

/// A flow's zone, and for which of its directions.
#[derive(Clone, Copy)]
enum Zone {
    None,
    Original(u16),
    Reply(u16),
    Both(u16),
}

fn of_zone(kind: u16, id: u16) -> DefaultNla {
    DefaultNla::new(kind, id.to_be_bytes().to_vec())
}

fn half(protocol: u8, (source, source_port): (IpAddr, u16), (destination, port): (IpAddr, u16)) -> Vec<Part> {
    let ports = [ProtoTuple::SourcePort(source_port), ProtoTuple::DestinationPort(port)];
    bare(protocol, source, destination, ports.to_vec())
}

/// One direction of a protocol with facts of its own.
fn bare(protocol: u8, source: IpAddr, destination: IpAddr, facts: Vec<ProtoTuple>) -> Vec<Part> {
    let ends = vec![IPTuple::SourceAddress(source), IPTuple::DestinationAddress(destination)];
    let mut all = vec![ProtoTuple::Protocol(Protocol::from(protocol))];
    all.extend(facts);
    vec![Part::Ip(ends), Part::Proto(all)]
}

fn address(text: &str) -> IpAddr {
    text.parse().unwrap()
}

/// What a family's table holds, as FORWARD saw it.
fn list(family: Family) -> BTreeSet<FlowKey> {
    let mut seen = BTreeSet::new();
    sweep(family, &mut |tuple| {
        seen.insert(*tuple);
        false
    })
    .unwrap();
    seen
}

fn tuple(source: &str, destination: &str, protocol: u8, port: u16) -> FlowKey {
    FlowKey { source: address(source), destination: address(destination), protocol, port, mid_stream: false }
}

#[test]
fn flows_are_seen_as_they_were_forwarded_and_the_forbidden_ones_go() {
    let _namespace = Namespace::enter();
    let table = Table::open();
    let (client, pod) = ((address("10.0.0.1"), 4000), (address("10.0.0.2"), 8080));
    let service = (address("10.96.0.1"), 80);
    table.insert(TCP, client, service, pod, None);
    table.insert(TCP, (client.0, 4001), pod, pod, None);
    table.insert(UDP, client, (pod.0, 53), (pod.0, 53), None);
    let six = (address("fd00::2"), 8080);
    table.insert(TCP, (address("fd00::1"), 4000), six, six, None);
    let by_service = tuple("10.0.0.1", "10.0.0.2", TCP, 8080);
    let dns = tuple("10.0.0.1", "10.0.0.2", UDP, 53);
    assert_eq!(list(Family::V4), BTreeSet::from([by_service, dns]));
    assert_eq!(list(Family::V6), BTreeSet::from([tuple("fd00::1", "fd00::2", TCP, 8080)]));
    let swept = sweep(Family::V4, &mut |tuple| *tuple == by_service).unwrap();
    assert_eq!(swept, Swept { judged: 3, cut: 2, ..Swept::default() });
    assert_eq!(list(Family::V4), BTreeSet::from([dns]));
    assert_eq!(list(Family::V6).len(), 1);
}

/// FORWARD goes by the state of a packet in its own zone, so an entry of a zone
/// lets packets pass as any other does.
#[test]
fn flows_of_zones_are_judged_and_go() {
    let _namespace = Namespace::enter();
    let table = Table::open();
    let (pod, service) = ((address("10.0.0.2"), 8080), (address("10.96.0.1"), 80));
    let (pod6, service6) = ((address("fd00::2"), 8080), (address("fd00:96::1"), 80));
    let zones = [Zone::None, Zone::Original(7), Zone::Reply(7), Zone::Both(7), Zone::Both(65_535)];
    for (n, zone) in (1..).zip(zones) {
        for (client, pod, service) in
            [(IpAddr::from([10, 0, 1, n]), pod, service), (address(&format!("fd00:1::{n}")), pod6, service6)]
        {
            let from = |port| (client, port);
            table.insert_in(zone, [half(TCP, from(4000), pod), half(TCP, pod, from(4000))], None);
            // Translated, and both again: what is in no zone is another flow.
            table.insert_in(zone, [half(TCP, from(4001), service), half(TCP, pod, from(4001))], None);
            table.insert_in(zone, [half(UDP, from(4000), pod), half(UDP, pod, from(4000))], None);
        }
    }
    // The same ends, in a zone of its own.
    let twin = (IpAddr::from([10, 0, 1, 1]), 4000);
    table.insert_in(Zone::Both(9), [half(UDP, twin, pod), half(UDP, pod, twin)], None);
    let all = |protocol| -> BTreeSet<FlowKey> {
        let port = 8080;
        (1..=5).map(|n| tuple(&format!("10.0.1.{n}"), "10.0.0.2", protocol, port)).collect()
    };
    assert_eq!(list(Family::V4), all(TCP).union(&all(UDP)).copied().collect());
    let swept = sweep(Family::V4, &mut |tuple| tuple.protocol == TCP).unwrap();
    assert_eq!(swept, Swept { judged: 16, cut: 10, ..Swept::default() });
    assert_eq!(list(Family::V4), all(UDP));
    let swept = sweep(Family::V6, &mut |_| true).unwrap();
    assert_eq!(swept, Swept { judged: 15, cut: 15, ..Swept::default() });
    let swept = sweep(Family::V4, &mut |_| true).unwrap();
    assert_eq!(swept, Swept { judged: 6, cut: 6, ..Swept::default() });
    assert_eq!(sweep(Family::V4, &mut |_| true).unwrap(), Swept::default());
}

/// What a helper expected, as FTP's data connections are, is judged like any
/// other flow, and goes without the one that it belongs to.
#[test]
fn expected_flows_are_judged_and_go() {
    let _namespace = Namespace::enter();
    let table = Table::open();
    let (client, server) = (address("10.0.0.1"), address("10.0.0.2"));
    let control = half(TCP, (client, 4000), (server, 21));
    table.insert_in(Zone::None, [control.clone(), half(TCP, (server, 21), (client, 4000))], None);
    let mut of_control = vec![0; control.as_slice().buffer_len()];
    control.as_slice().emit(&mut of_control);
    let master = DefaultNla::new(CTA_TUPLE_MASTER | NLA_F_NESTED, of_control);
    let (from, to) = ((server, 20), (client, 5000));
    table.insert_in(Zone::None, [half(TCP, from, to), half(TCP, to, from)], Some(master));
    let data = tuple("10.0.0.2", "10.0.0.1", TCP, 5000);
    let control = tuple("10.0.0.1", "10.0.0.2", TCP, 21);
    assert_eq!(list(Family::V4), BTreeSet::from([data, control]));
    let swept = sweep(Family::V4, &mut |tuple| *tuple == data).unwrap();
    assert_eq!(swept, Swept { judged: 2, cut: 1, ..Swept::default() });
    assert_eq!(list(Family::V4), BTreeSet::from([control]));
}

/// Protocols that name their flows otherwise than by ports, or not at all.
#[test]
fn flows_of_every_protocol_are_judged_and_go() {
    /// CTA_PROTO_ICMP_ID, -TYPE and -CODE, and the same of ICMPv6.
    fn echo(kinds: [u16; 3], type_: u8) -> Vec<ProtoTuple> {
        let fact = |kind, value: &[u8]| ProtoTuple::Other(DefaultNla::new(kind, value.to_vec()));
        vec![fact(kinds[0], &[0, 7]), fact(kinds[1], &[type_]), fact(kinds[2], &[0])]
    }
    let _namespace = Namespace::enter();
    let table = Table::open();
    let (a, b, six_a, six_b) = (address("10.0.0.1"), address("10.0.0.2"), address("fd00::1"), address("fd00::2"));
    // Confirmed first: a key of GRE is two ports.
    for (zone, protocol) in [(Zone::None, 47), (Zone::Both(7), 47), (Zone::None, 132), (Zone::None, 136)] {
        table.insert_in(zone, [half(protocol, (a, 1), (b, 2)), half(protocol, (b, 2), (a, 1))], None);
    }
    for protocol in [4, 50, 99] {
        table.insert_in(Zone::None, [bare(protocol, a, b, Vec::new()), bare(protocol, b, a, Vec::new())], None);
    }
    let icmp = [bare(1, a, b, echo([4, 5, 6], 8)), bare(1, b, a, echo([4, 5, 6], 0))];
    table.insert_in(Zone::Original(7), icmp, None);
    let icmpv6 = [bare(58, six_a, six_b, echo([7, 8, 9], 128)), bare(58, six_b, six_a, echo([7, 8, 9], 129))];
    table.insert_in(Zone::Reply(7), icmpv6, None);
    let numbers: Vec<u8> = list(Family::V4).into_iter().map(|tuple| tuple.protocol).collect();
    assert_eq!(numbers, [1, 4, 47, 50, 99, 132, 136]);
    assert_eq!(sweep(Family::V4, &mut |_| true).unwrap(), Swept { judged: 8, cut: 8, ..Swept::default() });
    assert_eq!(sweep(Family::V6, &mut |_| true).unwrap(), Swept { judged: 1, cut: 1, ..Swept::default() });
    assert_eq!((list(Family::V4), list(Family::V6)), Default::default());
}

#[test]
fn a_table_of_many_parts_is_judged_to_its_end() {
    let _namespace = Namespace::enter();
    let table = Table::open();
    let flows: u32 = std::env::var("NPC_FLOWS").ok().map_or(10_000, |count| count.parse().unwrap());
    let server = (address("10.9.9.9"), 53);
    for n in 0..flows {
        let client = IpAddr::from((0x0a00_0000 + n).to_be_bytes());
        table.insert(UDP, (client, 4000), server, server, None);
    }
    let is_odd = |tuple: &FlowKey| matches!(tuple.source, IpAddr::V4(source) if source.octets()[3] & 1 == 1);
    for (forbidden, cut) in [(0, 0), (1, u64::from(flows / 2)), (1, 0)] {
        let begun = Instant::now();
        let swept = sweep(Family::V4, &mut |tuple| forbidden == 1 && is_odd(tuple)).unwrap();
        eprintln!("{swept:?} in {:?}", begun.elapsed());
        assert_eq!(swept.cut, cut);
    }
    assert_eq!(list(Family::V4).len(), usize::try_from(flows - flows / 2).unwrap());
    let begun = Instant::now();
    let (judged, swept) = of(Family::V4, &["10.0.0.2"], true);
    eprintln!("{swept:?} of one address in {:?}", begun.elapsed());
    assert_eq!((judged.len(), swept), (1, Swept { judged: 1, ..Swept::default() }));
}

/// Sweeps the flows of some addresses; what was judged of them, and what the kernel said.
fn of(family: Family, addresses: &[&str], filters: bool) -> (BTreeSet<FlowKey>, Swept) {
    let scope = FlowScope::Of(addresses.iter().map(|text| address(text)).collect());
    let mut judged = BTreeSet::new();
    let swept = sweep_in(family, &scope, filters, &mut |flows| {
        judged.extend(flows.iter().copied());
        Some(vec![false; flows.len()])
    });
    (judged, swept.unwrap())
}

/// The kernel lists the flows that an address sends and those that it answers, and no others;
/// where the kernel does not filter, the same flows are judged.
#[test]
fn the_flows_of_an_address_are_judged_whichever_end_it_is() {
    let _namespace = Namespace::enter();
    let table = Table::open();
    let (client, pod, other) = ((address("10.0.0.1"), 4000), (address("10.0.0.2"), 8080), (address("10.0.0.3"), 53));
    let service = (address("10.96.0.1"), 80);
    table.insert(TCP, client, service, pod, None);
    table.insert(UDP, (pod.0, 4000), other, other, None);
    table.insert(UDP, (client.0, 4002), other, other, None);
    for (port, zone) in (4003..).zip([Zone::Original(7), Zone::Reply(7), Zone::Both(7)]) {
        let (from, to) = ((client.0, port), pod);
        table.insert_in(zone, [half(UDP, from, to), half(UDP, to, from)], None);
    }
    let six = (address("fd00::2"), 8080);
    table.insert(TCP, (address("fd00::1"), 4000), six, six, None);
    table.insert(TCP, (address("fd00::1"), 4000), (address("fd00::3"), 1), (address("fd00::3"), 1), None);
    let wanted = BTreeSet::from([
        tuple("10.0.0.1", "10.0.0.2", TCP, 8080),
        tuple("10.0.0.2", "10.0.0.3", UDP, 53),
        tuple("10.0.0.1", "10.0.0.2", UDP, 8080),
    ]);
    for filters in [true, false] {
        let (judged, swept) = of(Family::V4, &["10.0.0.2", "fd00::2"], filters);
        assert_eq!(judged, wanted);
        assert_eq!(swept, Swept { judged: 5, ..Swept::default() }, "this kernel filters");
        let (judged, swept) = of(Family::V6, &["10.0.0.2", "fd00::2"], filters);
        assert_eq!(judged, BTreeSet::from([tuple("fd00::1", "fd00::2", TCP, 8080)]));
        assert_eq!(swept, Swept { judged: 1, ..Swept::default() });
        assert_eq!(of(Family::V6, &["fd00::1"], filters).0.len(), 2, "all flows of the table");
        // No flow is sent to the address of a Service: FORWARD sees where it goes.
        assert_eq!(of(Family::V4, &["10.96.0.1"], filters).0, BTreeSet::new());
    }
    // Many at once.
    let many: Vec<String> = (2..20).map(|n| format!("10.0.0.{n}")).collect();
    let (judged, _) = of(Family::V4, &many.iter().map(String::as_str).collect::<Vec<_>>(), true);
    assert_eq!(judged.len(), 4);
    // They go as others do. A sweep that gets no verdicts ends, and does not count as done.
    let scope = FlowScope::Of([pod.0].into());
    let unanswered = sweep_in(Family::V4, &scope, true, &mut |_| None);
    assert!(matches!(unanswered, Err(Error::Unanswered)), "{unanswered:?}");
    assert_eq!(list(Family::V4).len(), 4);
    let swept = sweep_in(Family::V4, &scope, true, &mut |flows| Some(vec![true; flows.len()])).unwrap();
    assert_eq!(swept, Swept { judged: 5, cut: 5, ..Swept::default() });
    assert_eq!(list(Family::V4), BTreeSet::from([tuple("10.0.0.1", "10.0.0.3", UDP, 53)]));
}

/// One walk of the kernel through its table has the flows of both families.
#[test]
fn one_list_has_the_flows_of_both_families_and_those_that_are_denied_go() {
    let _namespace = Namespace::enter();
    let table = Table::open();
    let flow = |from: &str, port: u16, to: &str, zone: Zone| {
        let (from, to) = ((address(from), port), (address(to), 53));
        table.insert_in(zone, [half(UDP, from, to), half(UDP, to, from)], None);
    };
    for (port, zone) in (4000..).zip([Zone::None, Zone::Original(7), Zone::Both(7)]) {
        flow("10.0.0.1", port, "10.0.0.2", zone);
        flow("fd00::1", port, "fd00::2", zone);
    }
    flow("10.0.0.1", 4000, "10.0.0.3", Zone::None);
    flow("fd00::1", 4000, "fd00::3", Zone::None);
    let scope = FlowScope::Of([address("10.0.0.2"), address("fd00::2")].into());
    let mut judged = BTreeSet::new();
    let swept = sweep_whole(&scope, &mut |flows| {
        judged.extend(flows.iter().copied());
        Some(vec![true; flows.len()])
    });
    assert_eq!(swept.unwrap(), Swept { judged: 6, cut: 6, ..Swept::default() });
    assert_eq!(judged, [tuple("10.0.0.1", "10.0.0.2", UDP, 53), tuple("fd00::1", "fd00::2", UDP, 53)].into());
    assert_eq!(list(Family::V4), [tuple("10.0.0.1", "10.0.0.3", UDP, 53)].into());
    assert_eq!(list(Family::V6), [tuple("fd00::1", "fd00::3", UDP, 53)].into());
    assert_eq!(sweep_whole(&FlowScope::All, &mut |flows| Some(vec![true; flows.len()])).unwrap().cut, 2);
}

/// The kernel does it by itself since Linux 6.8; an older one changes nothing.
#[test]
fn all_flows_of_a_new_address_go_whichever_end_it_is_and_no_others() {
    let _namespace = Namespace::enter();
    let table = Table::open();
    let (client, pod, other) = ((address("10.0.0.1"), 4000), (address("10.0.0.2"), 8080), (address("10.0.0.3"), 53));
    table.insert(TCP, client, (address("10.96.0.1"), 80), pod, None);
    table.insert(UDP, (pod.0, 4000), other, other, None);
    table.insert(UDP, (client.0, 4002), other, other, None);
    // The address of a Service, and the other bytes of a prefix.
    table.insert(UDP, client, (address("10.0.0.2"), 9), other, None);
    table.insert(UDP, (address("10.0.0.20"), 1), (address("10.0.1.2"), 1), (address("10.0.1.2"), 1), None);
    for (port, zone) in (4003..).zip([Zone::Original(7), Zone::Reply(7), Zone::Both(7)]) {
        let (from, to) = ((client.0, port), pod);
        table.insert_in(zone, [half(UDP, from, to), half(UDP, to, from)], None);
    }
    let six = (address("fd00::2"), 8080);
    table.insert(TCP, (address("fd00::1"), 4000), six, six, None);
    let before = list(Family::V4);
    let of: BTreeSet<Ipv4Addr> = [[10, 0, 0, 2].into(), [10, 0, 0, 4].into()].into();
    if !cut_all_of(&of).unwrap() {
        assert_eq!(list(Family::V4), before);
        skipped(Lack::KernelFeature, &"this kernel does not delete flows by address");
        return;
    }
    assert_eq!(
        list(Family::V4),
        BTreeSet::from([tuple("10.0.0.1", "10.0.0.3", UDP, 53), tuple("10.0.0.20", "10.0.1.2", UDP, 1)])
    );
    assert_eq!(list(Family::V6).len(), 1);
    assert!(cut_all_of(&BTreeSet::new()).unwrap());
    assert_eq!(list(Family::V4).len(), 2, "without an address nothing goes");
}

/// Why npc asks the kernel for no flows of an IPv6 address: the kernel's filter takes all others for them.
/// If this test says that a kernel has been mended, npc can ask that kernel.
#[test]
fn the_kernels_filter_of_an_ipv6_address_means_all_others() {
    let _namespace = Namespace::enter();
    let table = Table::open();
    for (from, to) in [("fd00::1", "fd00::2"), ("fd00::3", "fd00::4")] {
        let to = (address(to), 53);
        table.insert(UDP, (address(from), 4000), to, to, None);
    }
    let source = vec![Part::Ip(vec![IPTuple::SourceAddress(address("fd00::1"))])];
    let mut flags = Vec::new();
    for (kind, flag) in [(CTA_FILTER_ORIG_FLAGS, CTA_FILTER_F_CTA_IP_SRC), (CTA_FILTER_REPLY_FLAGS, 0)] {
        let attribute = DefaultNla::new(kind, flag.to_ne_bytes().to_vec());
        let begin = flags.len();
        flags.resize(begin + attribute.buffer_len(), 0);
        attribute.emit(&mut flags[begin..]);
    }
    let filter = ConntrackAttribute::Other(DefaultNla::new(CTA_FILTER | NLA_F_NESTED, flags));
    let delete = ConntrackMessage::Delete(vec![ConntrackAttribute::CtaTupleOrig(source), filter]);
    let code = table.request(NetfilterProtoFamily::IPv6, 0, delete);
    let [own, other]: [BTreeSet<FlowKey>; 2] =
        [("fd00::1", "fd00::2"), ("fd00::3", "fd00::4")].map(|(from, to)| [tuple(from, to, UDP, 53)].into());
    let left = list(Family::V6);
    // One that refuses deletes nothing, so npc need not ask it either.
    if code != 0 {
        assert_eq!(left.len(), 2);
    } else if left == other {
        eprintln!("this kernel filters IPv6 addresses as it should");
    } else {
        assert_eq!(left, own);
    }
}
