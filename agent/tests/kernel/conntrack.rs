//! The kernel's table of flows: what is forbidden goes, and nothing else.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::time::Instant;

use netlink_packet_netfilter::conntrack::{
    ConntrackAttribute, ConntrackMessage, IPTuple, ProtoTuple, Protocol, Status, Tuple as Part,
};
use netlink_packet_netfilter::{NetfilterHeader, NetfilterMessage, NetfilterProtoFamily};
use npc_agent::dataplane::conntrack::{Swept, sweep};
use npc_compiler::established::Tuple;
use npc_compiler::object::Family;
use rtnetlink::packet_core::{
    DefaultNla, NLM_F_ACK, NLM_F_CREATE, NLM_F_EXCL, NLM_F_REQUEST, NetlinkHeader, NetlinkMessage, NetlinkPayload,
};
use rtnetlink::sys::{Socket, SocketAddr, protocols::NETLINK_NETFILTER};

use super::namespace::Namespace;

const UDP: u8 = 17;
const TCP: u8 = 6;

/// A table that can be written to.
struct Table(Socket);

impl Table {
    fn open() -> Self {
        let socket = Socket::new(NETLINK_NETFILTER).unwrap();
        socket.connect(&SocketAddr::new(0, 0)).unwrap();
        Self(socket)
    }

    /// A flow that was sent to one socket and goes to another.
    fn insert(
        &self,
        protocol: u8,
        from: (IpAddr, u16),
        sent_to: (IpAddr, u16),
        goes_to: (IpAddr, u16),
        more: Option<DefaultNla>,
    ) {
        let half = |(source, source_port): (IpAddr, u16), (destination, destination_port): (IpAddr, u16)| {
            vec![
                Part::Ip(vec![IPTuple::SourceAddress(source), IPTuple::DestinationAddress(destination)]),
                Part::Proto(vec![
                    ProtoTuple::Protocol(Protocol::from(protocol)),
                    ProtoTuple::SourcePort(source_port),
                    ProtoTuple::DestinationPort(destination_port),
                ]),
            ]
        };
        let mut entry = vec![
            ConntrackAttribute::CtaTupleOrig(half(from, sent_to)),
            ConntrackAttribute::CtaTupleReply(half(goes_to, from)),
            ConntrackAttribute::CtaStatus(Status::Confirmed | Status::SeenReply),
            ConntrackAttribute::CtaTimeout(600),
        ];
        entry.extend(more.map(ConntrackAttribute::Other));
        let family = if from.0.is_ipv4() { NetfilterProtoFamily::IPv4 } else { NetfilterProtoFamily::IPv6 };
        let mut header = NetlinkHeader::default();
        header.flags = NLM_F_REQUEST | NLM_F_ACK | NLM_F_CREATE | NLM_F_EXCL;
        let message = NetfilterMessage::new(NetfilterHeader::new(family, 0, 0), ConntrackMessage::New(entry));
        let mut message = NetlinkMessage::new(header, NetlinkPayload::from(message));
        message.finalize();
        let mut bytes = vec![0; message.buffer_len()];
        message.serialize(&mut bytes);
        self.0.send(&bytes, 0).unwrap();
        let mut answer = vec![0; 4096];
        let length = self.0.recv(&mut &mut answer[..], 0).unwrap();
        let answer = NetlinkMessage::<NetfilterMessage>::deserialize(&answer[..length]).unwrap();
        let NetlinkPayload::Error(answer) = answer.payload else { panic!("{answer:?}") };
        assert_eq!(answer.raw_code(), 0, "{}", answer.to_io());
    }
}

fn address(text: &str) -> IpAddr {
    text.parse().unwrap()
}

/// What a family's table holds, as FORWARD saw it.
fn list(family: Family) -> BTreeSet<Tuple> {
    let mut seen = BTreeSet::new();
    sweep(family, &mut |tuple| {
        seen.insert(*tuple);
        false
    })
    .unwrap();
    seen
}

fn tuple(source: &str, destination: &str, protocol: u8, port: u16) -> Tuple {
    Tuple { source: address(source), destination: address(destination), protocol, port }
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
    assert_eq!(swept, Swept { judged: 3, cut: 2, stuck: 0 });
    assert_eq!(list(Family::V4), BTreeSet::from([dns]));
    assert_eq!(list(Family::V6).len(), 1);
}

#[test]
fn flows_of_other_zones_are_none_of_ours() {
    let _namespace = Namespace::enter();
    let table = Table::open();
    let (client, pod) = ((address("10.0.0.1"), 4000), (address("10.0.0.2"), 8080));
    // CTA_ZONE
    table.insert(UDP, client, pod, pod, Some(DefaultNla::new(18, 7_u16.to_be_bytes().to_vec())));
    assert_eq!(sweep(Family::V4, &mut |_| true).unwrap(), Swept::default());
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
    let is_odd = |tuple: &Tuple| matches!(tuple.source, IpAddr::V4(source) if source.octets()[3] & 1 == 1);
    for (forbidden, cut) in [(0, 0), (1, u64::from(flows / 2)), (1, 0)] {
        let begun = Instant::now();
        let swept = sweep(Family::V4, &mut |tuple| forbidden == 1 && is_odd(tuple)).unwrap();
        eprintln!("{swept:?} in {:?}", begun.elapsed());
        assert_eq!(swept.cut, cut);
    }
    assert_eq!(list(Family::V4).len(), usize::try_from(flows - flows / 2).unwrap());
}
