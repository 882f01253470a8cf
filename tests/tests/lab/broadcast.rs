//! What a bridge carries to many at once reaches no isolated pod either.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::time::Duration;

use npc_agent::source::manifests;
use npc_compiler::object::{Family, Objects};
use npc_tests::lab::{Backend, Enforcer, Lab, Mode, can_run, skipped};

const PORT: u16 = 9_999;

fn cluster(isolated: bool) -> Objects {
    let policy = r"
---
{apiVersion: networking.k8s.io/v1, kind: NetworkPolicy, metadata: {name: only-marks, namespace: n},
 spec: {podSelector: {matchLabels: {app: b}}, ingress: [{ports: [{protocol: UDP, port: 9998}]}]}}
";
    let pods = r"
{apiVersion: v1, kind: Node, metadata: {name: node-1}}
---
{apiVersion: v1, kind: Pod, metadata: {name: a, namespace: n, labels: {app: a}}, spec: {nodeName: node-1, containers: []}}
---
{apiVersion: v1, kind: Pod, metadata: {name: b, namespace: n, labels: {app: b}}, spec: {nodeName: node-1, containers: []}}
";
    let text = if isolated { format!("{pods}{policy}") } else { pods.to_owned() };
    manifests::parse_text("test", &text, &manifests::ReadOptions::default()).unwrap().objects
}

/// Sends from pod a to many, then a mark to pod b, which is always let in; how
/// many of the former pod b has got by the time that it has the mark.
fn received(lab: &Lab) -> usize {
    let place = |name| &lab.places()[lab.find(name).unwrap()];
    let (a, b) = (place("n/a"), place("n/b"));
    let to = b.address(Family::V6).unwrap();
    let listen = |address: IpAddr, port| b.netns.within(|| UdpSocket::bind((address, port)).unwrap()).unwrap();
    let (any_v4, any_v6) = (IpAddr::V4(Ipv4Addr::UNSPECIFIED), IpAddr::V6(Ipv6Addr::UNSPECIFIED));
    let listeners = [listen(any_v4, PORT), listen(any_v6, PORT + 1)];
    let marks = listen(any_v6, PORT - 1);
    let source = a.address(Family::V6).unwrap();
    a.netns
        .within(|| {
            let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0)).unwrap();
            socket.set_broadcast(true).unwrap();
            for to in [Ipv4Addr::BROADCAST, Ipv4Addr::new(224, 0, 0, 1)] {
                socket.send_to(b"many", (to, PORT)).unwrap_or_else(|error| panic!("{to}: {error}"));
            }
            let socket = UdpSocket::bind((source, 0)).unwrap();
            let interface = nix::net::if_::if_nametoindex("eth0").unwrap();
            let all_nodes = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1);
            let all_nodes = std::net::SocketAddrV6::new(all_nodes, PORT + 1, 0, interface);
            socket.send_to(b"many", SocketAddr::V6(all_nodes)).unwrap();
            socket.send_to(b"mark", (to, PORT - 1)).unwrap();
        })
        .unwrap();
    let mut buffer = [0; 16];
    marks.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
    marks.recv(&mut buffer).unwrap();
    listeners
        .iter()
        .map(|listener| {
            listener.set_nonblocking(true).unwrap();
            std::iter::from_fn(|| listener.recv(&mut buffer).ok()).count()
        })
        .sum()
}

#[test]
fn broadcast_and_multicast_reach_no_isolated_pod_on_a_bridge() {
    if !can_run() {
        return;
    }
    for backend in [Backend::Nft, Backend::Legacy] {
        let agent = match Enforcer::sibling() {
            Ok(agent) => agent,
            Err(error) => return skipped(&error),
        };
        let mut lab = Lab::builder(cluster(false)).mode(Mode::Bridge).backend(backend).enforcer(agent).start().unwrap();
        assert_eq!(received(&lab), 3, "without policies all of it arrives");
        let mut objects = lab.cluster().objects.clone();
        objects.policies = cluster(true).policies;
        lab.apply(objects).unwrap();
        assert_eq!(received(&lab), 0);
    }
}
