//! Neighbour discovery, and what only looks like it.

use std::net::{IpAddr, Ipv6Addr, SocketAddr, SocketAddrV6};
use std::time::{Duration, Instant};

use npc_compiler::object::Family;
use npc_compiler::ruleset::constants::POD_GROUP;
use npc_tests::lab::{Backend, Lab, Mode};

use super::packet::{Between, Icmp};
use super::{Shot, WAYS, address, arrived, lab, netns, raw};

/// From one to another: all types, from this host and from beyond a router, short
/// and long.
fn shots(lab: &Lab, from: &str, to: &str) -> Vec<Shot> {
    let mut shots = Vec::new();
    for kind in 133..=137 {
        for (hop_limit, length) in [(64, 88), (255, 88), (64, 1_340), (255, 1_340)] {
            let number = u8::try_from(shots.len()).unwrap();
            let (source, destination) = (address(lab, from, Family::V6), address(lab, to, Family::V6));
            let between = Between::Nothing;
            let message = Icmp { source, destination, hop_limit, kind, body: &[0; 20], between, length };
            let what = format!("{kind} from {hop_limit} of {length}");
            shots.push(Shot { what, to: destination, packet: message.build(number) });
        }
    }
    shots
}

#[test]
fn what_resembles_neighbour_discovery_is_no_way_in_or_out() {
    for (mode, backend) in WAYS {
        let Some(lab) = lab(mode, backend) else { return };
        for pair in [("n/a", "n/b"), ("n/open", "n/b"), ("n/a", "n/open"), ("n/a", "n/far"), ("n/far", "n/a")] {
            let seen = arrived(&lab, pair, &shots(&lab, pair.0, pair.1), || {});
            // On one bridge hosts do find each other so.
            let is_on_link = mode == Mode::Bridge && pair.0 != "n/far" && pair.1 != "n/far";
            let discovery = ["133 from 255 of 88", "135 from 255 of 88", "136 from 255 of 88"];
            let expected = if is_on_link { &discovery[..] } else { &[] };
            assert_eq!(seen, expected, "{pair:?} {mode:?} {backend:?}");
        }
    }
}

/// A router behind an uplink of the bridge of pods, which no agent may take for a
/// pod's interface.
#[test]
fn a_routers_advertisement_reaches_pods_from_an_uplink() {
    for backend in [Backend::Nft, Backend::Legacy] {
        let Some(lab) = lab(Mode::Bridge, backend) else { return };
        let node = lab.node("node-1").unwrap();
        let ip = |command: &str| {
            let command: Vec<&str> = ["ip"].into_iter().chain(command.split(' ')).collect();
            node.exec(command, "").unwrap()
        };
        ip("link add up0 type veth peer name up1");
        ip("link set up0 master cbr0 up");
        ip("link set up1 up");
        ip("addr add fe80::77/64 dev up1 nodad");
        // The bridge leads elsewhere now, so it leaves the group.
        let deadline = Instant::now() + Duration::from_secs(30);
        while ip(&format!("-o link show group {POD_GROUP}")).contains("cbr0") {
            assert!(Instant::now() < deadline, "the bridge is still taken for pods' alone");
            std::thread::yield_now();
        }
        let source: IpAddr = "fe80::77".parse().unwrap();
        let all_nodes = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1);
        let message = |hop_limit, length| {
            let between = Between::Nothing;
            let (kind, destination) = (134, all_nodes.into());
            Icmp { source, destination, hop_limit, kind, body: &[0; 12], between, length }.build(7)
        };
        let b = netns(&lab, "n/b");
        let mut socket = b.within(|| raw(Family::V6, 58)).unwrap();
        socket.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
        let send = || {
            let socket = raw(Family::V6, 255);
            let scope = nix::net::if_::if_nametoindex("up1").unwrap();
            let to = SocketAddr::V6(SocketAddrV6::new(all_nodes, 0, 0, scope)).into();
            // What a router never sends goes first, so only the last may arrive.
            for packet in [message(64, 120), message(255, 1_400), message(255, 120)] {
                socket.send_to(&packet, &to).unwrap();
            }
        };
        node.within(send).unwrap();
        let mut buffer = [0; 2048];
        let length = loop {
            let length = std::io::Read::read(&mut socket, &mut buffer).unwrap();
            if super::packet::number(&buffer[..length]) == Some(7) {
                break length;
            }
        };
        assert_eq!(length, 120 - 40, "{backend:?}");
    }
}
