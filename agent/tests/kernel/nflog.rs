//! Dropped packets, as the kernel's own NFLOG reports them.

use std::net::{IpAddr, UdpSocket};

use npc_agent::dataplane::backend::Backend;
use npc_agent::dataplane::nflog::{Denied, Error, PacketReader, Received};
use npc_compiler::object::Family;
use npc_compiler::plan::conntrack::FlowKey;
use npc_compiler::policy::Direction;
use npc_compiler::ruleset::node::{ChainName, Match, Rule, Target};
use npc_compiler::ruleset::text::rule_line;

use super::namespace::{Namespace, feed};
use super::on_both_backends;

fn loopback(family: Family) -> IpAddr {
    match family {
        Family::V4 => "127.0.0.1".parse().unwrap(),
        Family::V6 => "::1".parse().unwrap(),
    }
}

/// Reports what is sent to this UDP port, as a chain of this name would.
fn report(backend: Backend, family: Family, chain: &str, port: u16, matches: Vec<Match>) {
    let name = ChainName::ours(&format!("NPC-{chain}")).unwrap();
    let line = rule_line(family, &name, &Rule { matches, target: Target::Log });
    let text = format!(
        "*filter\n:{name} - [0:0]\n{line}\n-A {name} -j DROP\n-A OUTPUT -p udp -m udp --dport {port} -j {name}\nCOMMIT\n"
    );
    let program = if family == Family::V4 { "iptables" } else { "ip6tables" };
    feed(&format!("{program}-{backend}-restore"), &["--noflush"], &text);
}

fn send(family: Family, port: u16) {
    let socket = UdpSocket::bind((loopback(family), 0)).unwrap();
    // That the packet is dropped is an error of the sender's.
    let _ = socket.send_to(b"hello", (loopback(family), port));
}

fn denied(family: Family, direction: Direction, port: u16) -> Denied {
    let (source, destination) = (loopback(family), loopback(family));
    Denied { direction, tuple: FlowKey { source, destination, protocol: 17, port, mid_stream: false } }
}

fn packets(reader: &mut PacketReader, wanted: usize) -> Vec<Denied> {
    let mut all = Vec::new();
    while all.len() < wanted {
        match reader.receive().unwrap() {
            Received::Packets(packets) => all.extend(packets),
            Received::Lost => panic!("lost some after {all:?}"),
        }
    }
    all
}

fn a_dropped_packet_is_reported_with_its_direction(backend: Backend) {
    let _namespace = Namespace::enter();
    let mut reader = PacketReader::open().unwrap();
    for family in Family::ALL {
        report(backend, family, "I-0123456789", 53, vec![Match::Limited]);
        report(backend, family, "E-0123456789", 54, vec![Match::Limited]);
        // Chains that are no group's report nothing.
        report(backend, family, "IT-0", 55, vec![]);
        for port in [55, 53, 54] {
            send(family, port);
        }
        let expected = [denied(family, Direction::Ingress, 53), denied(family, Direction::Egress, 54)];
        assert_eq!(packets(&mut reader, 2), expected);
    }
}

fn a_flood_is_limited_by_each_rule(backend: Backend) {
    let _namespace = Namespace::enter();
    let mut reader = PacketReader::open().unwrap();
    report(backend, Family::V4, "I-0123456789", 53, vec![Match::Limited]);
    report(backend, Family::V4, "E-0123456789", 54, vec![]);
    for _ in 0..2000 {
        send(Family::V4, 53);
    }
    send(Family::V4, 54);
    let mut received = packets(&mut reader, 1);
    while received.last().map(|last| last.direction) != Some(Direction::Egress) {
        received.extend(packets(&mut reader, 1));
    }
    // The burst, and what a slow machine's seconds add to it.
    assert!((50..1000).contains(&(received.len() - 1)), "{}", received.len());
}

on_both_backends!(a_dropped_packet_is_reported_with_its_direction, a_flood_is_limited_by_each_rule);

#[test]
fn what_was_not_read_in_time_is_reported_as_lost() {
    let _namespace = Namespace::enter();
    let mut reader = PacketReader::open().unwrap();
    report(Backend::Legacy, Family::V4, "I-0123456789", 53, vec![]);
    for _ in 0..20_000 {
        send(Family::V4, 53);
    }
    let mut lost = false;
    while !lost {
        lost = reader.receive().unwrap() == Received::Lost;
    }
    // And it goes on.
    report(Backend::Legacy, Family::V4, "E-0123456789", 54, vec![]);
    send(Family::V4, 54);
    let final_one = denied(Family::V4, Direction::Egress, 54);
    loop {
        match reader.receive().unwrap() {
            Received::Packets(packets) if packets.contains(&final_one) => break,
            Received::Packets(_) | Received::Lost => {}
        }
    }
}

#[test]
fn there_is_one_reader_in_a_network_namespace() {
    let _namespace = Namespace::enter();
    let first = PacketReader::open().unwrap();
    assert!(matches!(PacketReader::open(), Err(Error::Taken)));
    drop(first);
    PacketReader::open().unwrap();
}
