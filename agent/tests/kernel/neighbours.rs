//! Packets that wait in the kernel for the link-layer address of a new pod.

use std::collections::BTreeSet;
use std::fs;
use std::net::{IpAddr, SocketAddr, UdpSocket};

use npc_agent::dataplane::backend::Backend;
use npc_agent::dataplane::{CutRequest, Kernel, Linux};
use npc_compiler::plan::conntrack::FlowScope;

use super::namespace::{Beyond, Namespace, feed, ip, output};

/// A pod's addresses, and those of the node and of another host on their links.
const POD: [&str; 2] = ["10.1.0.2", "fd01::2"];
const NODE: [(&str, &str); 4] =
    [("pod", "10.1.0.1/24"), ("pod", "fd01::1/64"), ("out", "192.0.2.1/24"), ("out", "fd02::1/64")];
const OTHER: [&str; 2] = ["192.0.2.2/24", "fd02::2/64"];

/// How many datagrams the other host sends to each address.
const SENT: usize = 40;

/// What the node sends last.
const LAST: &[u8] = b"last";

/// A node with a pod that does not answer for its addresses yet, and another host.
struct Node {
    pod: Beyond,
    other: Beyond,
    _namespace: Namespace,
}

impl Node {
    fn new() -> Self {
        let namespace = Namespace::enter();
        let (pod, other) = (Beyond::new(), Beyond::new());
        for sysctl in ["ipv4/ip_forward", "ipv6/conf/all/forwarding"] {
            fs::write(format!("/proc/sys/net/{sysctl}"), "1").unwrap();
        }
        pod.veth("pod");
        other.veth("out");
        // The kernel does not give up within this test.
        for family in ["ipv4", "ipv6"] {
            fs::write(format!("/proc/sys/net/{family}/neigh/pod/mcast_solicit"), "1000000").unwrap();
        }
        for (link, address) in NODE {
            ip(&format!("address add {address} dev {link}{}", if address.contains(':') { " nodad" } else { "" }));
        }
        for (address, (_, gateway)) in OTHER.into_iter().zip(&NODE[2..]) {
            other.ip(&format!("address add {address} dev out-p{}", if address.contains(':') { " nodad" } else { "" }));
            other.ip(&format!("route add default via {}", gateway.split('/').next().unwrap()));
        }
        Self { pod, other, _namespace: namespace }
    }

    /// The other host sends to the pod, and a rule denies it then.
    fn send_and_deny(&self) {
        self.other.within(|| {
            for address in POD {
                let any = if address.contains(':') { "[::]:0" } else { "0.0.0.0:0" };
                let socket = UdpSocket::bind(any).unwrap();
                for _ in 0..SENT {
                    socket.send_to(b"early", to(address)).unwrap();
                }
            }
        });
        // At least one has come when the node asks for the pod.
        for address in POD {
            while !neighbours().contains(&format!("{address} dev pod INCOMPLETE")) {
                std::thread::yield_now();
            }
        }
        feed("nft", &["-f", "-"], "table inet t { chain f { type filter hook forward priority 0; policy drop; }; }");
    }

    /// The pod answers for its addresses. How many of the datagrams from the other host come to each,
    /// before one that the node sent after them.
    fn come(&self) -> [usize; 2] {
        let sockets = self.pod.within(|| ["0.0.0.0:7001", "[::]:7001"].map(bind));
        for address in POD {
            let (length, nodad) = if address.contains(':') { (64, " nodad") } else { (24, "") };
            self.pod.ip(&format!("address add {address}/{length} dev pod-p{nodad}"));
        }
        POD.map(|address| {
            // It waits behind those that were there before, if any were.
            UdpSocket::bind((if address.contains(':') { "::" } else { "0.0.0.0" }, 0))
                .unwrap()
                .send_to(LAST, to(address))
                .unwrap();
            let socket = &sockets[usize::from(address.contains(':'))];
            let mut buffer = [0; 64];
            let received = std::iter::from_fn(|| {
                let length = socket.recv(&mut buffer).unwrap();
                (&buffer[..length] != LAST).then_some(())
            });
            received.count()
        })
    }
}

/// The sweep that an ADD of these addresses waits for.
fn cut(addresses: &[&str]) {
    let addresses: BTreeSet<IpAddr> = addresses.iter().map(|text| text.parse().unwrap()).collect();
    let cut = CutRequest { scope: FlowScope::Of(addresses.clone()), new: addresses, index_epoch: None, renewal: None };
    let kernel = Linux::open(Some(Backend::Nft)).unwrap();
    kernel.flows().cut(&cut, &mut |flows| Some(vec![true; flows.len()])).unwrap();
}

fn bind(address: &str) -> UdpSocket {
    let address: SocketAddr = address.parse().unwrap();
    let domain = socket2::Domain::for_address(address);
    let socket = socket2::Socket::new(domain, socket2::Type::DGRAM, None).unwrap();
    if address.is_ipv6() {
        socket.set_only_v6(true).unwrap();
    }
    socket.bind(&address.into()).unwrap();
    socket.into()
}

fn to(address: &str) -> SocketAddr {
    SocketAddr::new(address.parse().unwrap(), 7001)
}

/// The node's neighbours, a line each.
fn neighbours() -> String {
    ["-4", "-6"].map(|family| output("ip", &[family, "neigh", "show", "nud", "all"])).concat()
}

#[test]
fn what_waited_for_a_new_pods_neighbour_entry_does_not_come_to_it() {
    let node = Node::new();
    node.send_and_deny();
    cut(&POD);
    assert!(!neighbours().contains("INCOMPLETE"), "{}", neighbours());
    assert_eq!(node.come(), [0, 0]);
}

/// If this fails, the test above shows nothing.
#[test]
fn without_a_sweep_what_waited_for_a_neighbour_entry_comes() {
    let node = Node::new();
    node.send_and_deny();
    cut(&["10.1.0.99"]);
    // Those that came to the node after the rule did not go on.
    let come = node.come();
    assert!(come.iter().all(|datagrams| *datagrams > 0), "{come:?}");
}

/// A plugin wrote these, or they are other pods'.
#[test]
fn other_neighbour_entries_stay() {
    let node = Node::new();
    node.send_and_deny();
    let written = [("10.1.0.3", "permanent"), ("10.1.0.4", "noarp"), ("fd01::3", "permanent"), ("10.1.0.5", "stale")];
    for (address, state) in written {
        ip(&format!("neigh add {address} lladdr 02:00:00:00:00:09 dev pod nud {state}"));
    }
    ip("neigh add proxy 10.1.0.6 dev pod");
    let before = neighbours();
    let is_of_others = |line: &&str| !POD.iter().any(|address| line.starts_with(&format!("{address} ")));
    cut(&["10.1.0.3", "10.1.0.4", "fd01::3", "10.1.0.5", "10.1.0.6", "10.1.0.99"]);
    assert!(before.contains("10.1.0.2 dev pod INCOMPLETE"), "{before}");
    let kept = |text: &str| -> BTreeSet<String> { text.lines().filter(is_of_others).map(str::to_owned).collect() };
    assert_eq!(kept(&neighbours()), kept(&before));
    assert!(neighbours().contains("10.1.0.2 dev pod INCOMPLETE"), "another pod's");
    assert!(output("ip", &["neigh", "show", "proxy"]).contains("10.1.0.6"));
}
