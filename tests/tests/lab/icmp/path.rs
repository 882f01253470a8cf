//! Path MTU discovery: a pod sends more than a link far away takes, and learns it
//! from an ICMP error of the router there.

use std::io::{Read as _, Write as _};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream};
use std::time::Duration;

use npc_compiler::object::Family;
use npc_tests::lab::{Lab, Mode};

use super::{STREAM, TO_STREAM, WAYS, address, lab, netns, service_address};

const SMALL: u32 = 1_300;
const BYTES: usize = 200_000;

/// The smaller link, from its node on: that to `far`.
fn make_smaller(lab: &Lab) {
    let link = match lab.mode() {
        Mode::Routed => format!("azv{}", lab.find("n/far").unwrap()),
        Mode::Bridge => "cbr0".to_owned(),
    };
    lab.node("node-2").unwrap().exec(["ip", "link", "set", &link, "mtu", &SMALL.to_string()], "").unwrap();
}

/// Where `far` listens, in either family. For as long as the test runs: a process
/// that another test starts has a copy of every file for a moment, and a port
/// cannot be listened at twice.
fn listen(lab: &Lab) -> [TcpListener; 2] {
    let at = Family::ALL.map(|family| SocketAddr::new(address(lab, "n/far", family), STREAM));
    netns(lab, "n/far").within(|| at.map(|at| TcpListener::bind(at).unwrap())).unwrap()
}

/// Sends from `a` to `far`, by this address; what the pod knows of the path then.
fn send(lab: &Lab, listener: &TcpListener, to: SocketAddr) -> String {
    let a = netns(lab, "n/a");
    let sender = a.within(|| TcpStream::connect(to).unwrap()).unwrap();
    let (mut receiver, _) = listener.accept().unwrap();
    receiver.set_read_timeout(Some(Duration::from_secs(30))).unwrap();
    sender.set_write_timeout(Some(Duration::from_secs(30))).unwrap();
    std::thread::scope(|scope| {
        scope.spawn(|| (&sender).write_all(&vec![7; BYTES]).and_then(|()| sender.shutdown(std::net::Shutdown::Write)));
        let mut bytes = Vec::new();
        receiver.read_to_end(&mut bytes).unwrap_or_else(|error| panic!("after {} bytes: {error}", bytes.len()));
        assert_eq!(bytes.len(), BYTES);
    });
    a.exec(["ip", "route", "get", &to.ip().to_string()], "").unwrap()
}

fn forget(lab: &Lab) {
    for family in ["-4", "-6"] {
        netns(lab, "n/a").exec(["ip", family, "route", "flush", "cache"], "").unwrap();
    }
}

fn check(lab: &Lab, listeners: &[TcpListener; 2]) {
    for (family, listener) in Family::ALL.into_iter().zip(listeners) {
        let own: IpAddr = address(lab, "n/far", family);
        let service = service_address(lab, "n/far", family);
        for to in [SocketAddr::new(own, STREAM), SocketAddr::new(service, TO_STREAM)] {
            forget(lab);
            let path = send(lab, listener, to);
            assert!(path.contains(&format!("mtu {SMALL}")), "{to}: {path}");
        }
    }
}

#[test]
fn an_isolated_pod_gets_the_mtu_of_its_path() {
    for (mode, backend) in WAYS {
        let Some(mut lab) = lab(mode, backend) else { return };
        make_smaller(&lab);
        let listeners = listen(&lab);
        check(&lab, &listeners);
        // An interface in a group of others is none that the agent knows.
        let interface = match mode {
            Mode::Routed => format!("azv{}", lab.find("n/a").unwrap()),
            Mode::Bridge => "cbr0".to_owned(),
        };
        lab.node("node-1").unwrap().exec(["ip", "link", "set", &interface, "group", "77"], "").unwrap();
        lab.agent("node-1")
            .unwrap()
            .unwrap()
            .wait_log("the interface is in the device group 77 of another program")
            .unwrap();
        check(&lab, &listeners);
    }
}
