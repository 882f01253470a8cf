//! ICMP that is no error and no neighbour discovery, though it says so, reaches
//! no isolated pod and leaves none; what is, does. And a pod's packets to itself,
//! forged and honest.
//!
//! Each pod is isolated both ways and may use three ports. By one of them a mark
//! is sent behind what is on trial, so that nothing waits by the clock.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod discovery;
mod errors;
mod itself;
mod packet;
mod path;

use std::io::Read as _;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::time::Duration;

use k8s_openapi::api::core::v1::PodSpec;
use npc_compiler::object::{
    Exposure, Family, Labels, NetworkPolicy, Objects, Pod, Protocol, Routing, Service, ServicePort, TargetPort,
};
use npc_tests::lab::{Backend, Enforcer, Lab, Mode, Netns};
use serde_json::json;
use socket2::{Domain, Socket, Type};

const OUTSIDE: [&str; 2] = ["203.0.113.9", "2001:db8:ffff::9"];

/// What policies let through: UDP for marks, UDP where no socket listens, TCP.
const MARKS: u16 = 9998;
const CLOSED: u16 = 9997;
const STREAM: u16 = 9996;

/// A port that no policy names.
const DENIED: u16 = 5000;

/// The ports of the Service of each pod.
const TO_CLOSED: u16 = 80;
const TO_DENIED: u16 = 81;
const TO_STREAM: u16 = 82;

fn pod(name: &str, node: u8) -> Pod {
    let labels = Labels::from([("app".to_owned(), name.to_owned())]);
    let pod = Pod::from_template("n".to_owned(), name.to_owned(), labels, PodSpec::default());
    Pod { node: Some(format!("node-{node}")), ..pod }
}

fn service(name: &str) -> Service {
    let port = |protocol, port, target| ServicePort { name: None, protocol, port, target: TargetPort::Number(target) };
    Service {
        namespace: "n".to_owned(),
        name: name.to_owned(),
        selector: Some(Labels::from([("app".to_owned(), name.to_owned())])),
        addresses: Vec::new(),
        ports: vec![
            port(Protocol::Udp, TO_CLOSED, CLOSED),
            port(Protocol::Udp, TO_DENIED, DENIED),
            port(Protocol::Tcp, TO_STREAM, STREAM),
        ],
        exposure: Exposure::Inside,
        routing: Routing::default(),
    }
}

/// `a` and `b` are isolated both ways but for three ports, `open` beside them and
/// `far` on another node are not.
fn cluster() -> Objects {
    let ports = json!([{"ports": [
        {"protocol": "UDP", "port": MARKS}, {"protocol": "UDP", "port": CLOSED}, {"protocol": "TCP", "port": STREAM}]}]);
    let policy = json!({"metadata": {"namespace": "n", "name": "shut"}, "spec": {
        "podSelector": {"matchExpressions": [{"key": "app", "operator": "In", "values": ["a", "b"]}]},
        "policyTypes": ["Ingress", "Egress"], "ingress": ports, "egress": ports}});
    let policy: k8s_openapi::api::networking::v1::NetworkPolicy = serde_json::from_value(policy).unwrap();
    Objects {
        pods: vec![pod("a", 1), pod("b", 1), pod("open", 1), pod("far", 2)],
        services: vec![service("b"), service("far")],
        policies: vec![NetworkPolicy::from(policy)],
        ..Objects::default()
    }
}

const WAYS: [(Mode, Backend); 4] = [
    (Mode::Routed, Backend::Nft),
    (Mode::Routed, Backend::Legacy),
    (Mode::Bridge, Backend::Nft),
    (Mode::Bridge, Backend::Legacy),
];

fn lab(mode: Mode, backend: Backend) -> Option<Lab> {
    lab_of(cluster(), mode, backend)
}

fn lab_of(objects: Objects, mode: Mode, backend: Backend) -> Option<Lab> {
    let agent = Enforcer::for_test()?;
    let outside = OUTSIDE.map(|address| address.parse().unwrap());
    let mut lab = Lab::builder(objects).mode(mode).backend(backend).outside(outside).enforcer(agent).start().unwrap();
    lab.settle().unwrap();
    Some(lab)
}

fn netns<'a>(lab: &'a Lab, place: &str) -> &'a Netns {
    &lab.places()[lab.find(place).unwrap()].netns
}

fn address(lab: &Lab, place: &str, family: Family) -> IpAddr {
    lab.places()[lab.find(place).unwrap()].addresses.iter().copied().find(|of| Family::of(of) == family).unwrap()
}

/// The address of a pod's Service.
fn service_address(lab: &Lab, pod: &str, family: Family) -> IpAddr {
    let name = pod.trim_start_matches("n/");
    let service = lab.cluster().objects.services.iter().find(|service| service.name == name).unwrap();
    service.addresses.iter().copied().find(|of| Family::of(of) == family).unwrap()
}

fn any(family: Family) -> IpAddr {
    match family {
        Family::V4 => Ipv4Addr::UNSPECIFIED.into(),
        Family::V6 => Ipv6Addr::UNSPECIFIED.into(),
    }
}

fn raw(family: Family, protocol: i32) -> Socket {
    let domain = if family == Family::V4 { Domain::IPV4 } else { Domain::IPV6 };
    Socket::new(domain, Type::RAW, Some(protocol.into())).unwrap()
}

/// A socket at this address, even if it is taken: a process that another test starts has a copy of
/// every file for a moment.
fn bind(at: SocketAddr) -> UdpSocket {
    let socket = Socket::new(Domain::for_address(at), Type::DGRAM, None).unwrap();
    socket.set_reuse_address(true).unwrap();
    socket.bind(&at.into()).unwrap();
    socket.into()
}

/// A packet with its IP header, and what it is, in words.
struct Shot {
    what: String,
    to: IpAddr,
    packet: Vec<u8>,
}

/// Which of these packets, sent by `from`, `to` gets; `before` each round
/// something makes flows known. What has not arrived is sent thrice, because a
/// packet can get lost on a busy machine.
fn arrived(lab: &Lab, (from, to): (&str, &str), shots: &[Shot], before: impl Fn()) -> Vec<String> {
    let (from, receiver) = (netns(lab, from), netns(lab, to));
    let mark_at = SocketAddr::new(address(lab, to, Family::V6), MARKS);
    let own = Family::ALL.map(|family| SocketAddr::new(address(lab, to, family), DENIED));
    let sockets = || {
        let icmp = [raw(Family::V4, 1), raw(Family::V6, 58)];
        let udp = own.map(|own| Socket::from(bind(own)));
        let sockets: Vec<Socket> = icmp.into_iter().chain(udp).collect();
        for socket in &sockets {
            socket.set_nonblocking(true).unwrap();
        }
        let marks = bind(mark_at);
        marks.set_read_timeout(Some(Duration::from_secs(2))).unwrap();
        (sockets, marks)
    };
    let (mut sockets, marks) = receiver.within(sockets).unwrap();
    let mut arrived = vec![false; shots.len()];
    for round in 0..3_u8 {
        before();
        let send = || {
            let [v4, v6] = Family::ALL.map(|family| raw(family, 255));
            for (shot, _) in shots.iter().zip(&arrived).filter(|(_, arrived)| !**arrived) {
                let socket = if shot.to.is_ipv4() { &v4 } else { &v6 };
                let to = SocketAddr::new(shot.to, 0).into();
                socket.send_to(&shot.packet, &to).unwrap_or_else(|error| panic!("{}: {error}", shot.what));
            }
            bind(SocketAddr::new(any(Family::V6), 0)).send_to(&[round], mark_at).unwrap();
        };
        let mut mark = [0; 8];
        let mut tries = 0;
        from.within(send).unwrap();
        while !matches!(marks.recv(&mut mark), Ok(1) if mark[0] == round) {
            tries += 1;
            assert!(tries < 10, "no mark arrives");
            from.within(send).unwrap();
        }
        let mut buffer = [0; 2048];
        for socket in &mut sockets {
            while let Ok(length) = socket.read(&mut buffer) {
                if let Some(number) = packet::number(&buffer[..length]) {
                    arrived[usize::from(number)] = true;
                }
            }
        }
    }
    shots.iter().zip(arrived).filter(|(_, arrived)| *arrived).map(|(shot, _)| shot.what.clone()).collect()
}
