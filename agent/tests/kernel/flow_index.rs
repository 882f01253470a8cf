//! The kernel's index of addresses that have flows, by packets that a node forwards, with `nft` as
//! the other program.

mod renewals;

use std::collections::BTreeSet;
use std::fs;
use std::io::{BufRead as _, BufReader, Write as _};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::time::Duration;

use npc_agent::dataplane::backend::Backend;
use npc_agent::dataplane::cleanup::cleanup;
use npc_agent::dataplane::flow_index::{Forget, RenewalRequest};
use npc_agent::dataplane::nftables::Socket;
use npc_agent::dataplane::{CutRequest, CutResult, Kernel, Linux};
use npc_compiler::plan::conntrack::FlowScope;
use socket2::{Domain, Protocol, Type};

use super::namespace::{Beyond, Namespace, feed, ip, output, run};

fn address(text: &str) -> IpAddr {
    text.parse().unwrap()
}

fn set(addresses: &[&str]) -> BTreeSet<IpAddr> {
    addresses.iter().map(|text| address(text)).collect()
}

/// A node that forwards between its pods and others, and the index of its kernel.
struct Node {
    pods: Beyond,
    others: Beyond,
    kernel: Linux,
    _namespace: Namespace,
}

/// The networks of the node's pods, and the address of another host.
const DOMAIN: [&str; 2] = ["10.1.0.0/24", "fd01::/64"];
const OTHER: &str = "192.0.2.2";

impl Node {
    fn new() -> Self {
        let namespace = Namespace::enter();
        let (pods, others) = (Beyond::new(), Beyond::new());
        for sysctl in ["ipv4/ip_forward", "ipv6/conf/all/forwarding"] {
            fs::write(format!("/proc/sys/net/{sysctl}"), "1").unwrap();
        }
        for sysctl in ["all", "default"] {
            fs::write(format!("/proc/sys/net/ipv4/conf/{sysctl}/rp_filter"), "0").unwrap();
        }
        pods.veth("pods");
        others.veth("out");
        // Neighbours need not be found: a flow begins before that.
        for (link, own, over_there) in [("pods", "10.1.0.1/24", "10.1.0.2/24"), ("out", "192.0.2.1/24", "192.0.2.2/24")]
        {
            ip(&format!("address add {own} dev {link}"));
            let there = if link == "pods" { &pods } else { &others };
            there.ip(&format!("address add {over_there} dev {link}-p"));
            let gateway = own.split('/').next().unwrap();
            there.ip(&format!("route add default via {gateway}"));
        }
        for (link, own, over_there) in [("pods", "fd01::1/64", "fd01::2/64"), ("out", "fd02::1/64", "fd02::2/64")] {
            ip(&format!("address add {own} dev {link} nodad"));
            let there = if link == "pods" { &pods } else { &others };
            there.ip(&format!("address add {over_there} dev {link}-p nodad"));
            let gateway = own.split('/').next().unwrap();
            there.ip(&format!("route add default via {gateway}"));
        }
        let kernel = Linux::open(Some(Backend::Nft)).unwrap();
        Self { pods, others, kernel, _namespace: namespace }
    }

    fn request(epoch: u64, forget: Forget) -> RenewalRequest {
        RenewalRequest { domain: DOMAIN.map(|text| text.parse().unwrap()).to_vec(), epoch, forget }
    }

    /// Renews all of the index but for addresses that pods have.
    fn renew(&self, owned: &[&str]) {
        self.sweep(FlowScope::default(), Self::request(1, Forget::AllBut(set(owned))));
    }

    /// A sweep that finds no flow forbidden.
    fn sweep(&self, scope: FlowScope, renewal: RenewalRequest) {
        let cut = CutRequest { scope, new: BTreeSet::new(), index_epoch: None, renewal: Some(renewal) };
        self.kernel.flows().cut(&cut, &mut |flows| Some(vec![false; flows.len()])).unwrap();
    }

    /// Which of these addresses have no flow, by the index.
    fn free<'a>(&self, addresses: &[&'a str]) -> Vec<&'a str> {
        let free = self.ask(addresses, 1).index.without_flows;
        addresses.iter().copied().filter(|text| free.contains(&address(text))).collect()
    }

    /// A sweep of addresses that asks the index first, and finds no flow forbidden.
    fn ask(&self, addresses: &[&str], epoch: u64) -> CutResult {
        let scope = FlowScope::Of(set(addresses));
        let cut = CutRequest { scope, new: BTreeSet::new(), index_epoch: Some(epoch), renewal: None };
        let result = self.kernel.flows().cut(&cut, &mut |flows| Some(vec![false; flows.len()])).unwrap();
        assert!(!result.index.is_unsupported, "the kernel has an index");
        result
    }

    /// Sends from another host.
    fn send_to(&self, to: &str) {
        self.others.within(|| send(to));
    }
}

/// Sends a datagram; that its receiver does not answer is no failure.
fn send(to: &str) {
    let any = if to.contains("::") { "[::]:0" } else { "0.0.0.0:0" };
    UdpSocket::bind(any).unwrap().send_to(b"hello", (address(to), 99)).unwrap();
}

/// A segment from the middle of a connection.
fn send_mid_stream(to: &str) {
    let (IpAddr::V4(source), IpAddr::V4(destination)) = (address(OTHER), address(to)) else { panic!("IPv4") };
    // Ports, sequence, acknowledgement, five words, ACK, window, checksum, urgent.
    let mut segment = [&[0x30, 0x39, 0, 80][..], &[0, 0, 0, 9, 0, 0, 0, 7, 0x50, 0x10, 4, 0, 0, 0, 0, 0]].concat();
    let pseudo = [&source.octets()[..], &destination.octets(), &[0, 6, 0, 20], &segment].concat();
    let sum = pseudo.chunks(2).map(|pair| u32::from(u16::from_be_bytes([pair[0], pair[1]]))).sum::<u32>();
    let folded = (sum & 0xffff) + (sum >> 16);
    let checksum = !u16::try_from((folded & 0xffff) + (folded >> 16)).unwrap();
    segment[16..18].copy_from_slice(&checksum.to_be_bytes());
    let socket = socket2::Socket::new(Domain::IPV4, Type::RAW, Some(Protocol::TCP)).unwrap();
    socket.send_to(&segment, &SocketAddr::from((destination, 0)).into()).unwrap();
}

#[test]
fn an_address_is_noted_for_every_way_in_which_its_flow_begins() {
    let node = Node::new();
    let all = ["10.1.0.2", "10.1.0.3", "10.1.0.4", "10.1.0.5", "10.1.0.6", "fd01::2", "fd01::3", "10.1.0.9", "fd01::9"];
    assert_eq!(node.free(&all), [""; 0], "before it was renewed nothing is known");
    node.renew(&[]);
    assert_eq!(node.free(&all), all);
    assert_eq!(node.free(&["192.0.2.9", "10.2.0.1"]), [""; 0], "they are of other networks");
    // What the node itself sends, because its address may move and the flow be forwarded then.
    send("10.1.0.8");
    assert_eq!(node.free(&["10.1.0.8"]), [""; 0]);
    // And what it gets, without an answer.
    let _listens = UdpSocket::bind("10.1.0.1:99").unwrap();
    node.pods.ip("address add 10.1.0.7/32 dev pods-p");
    let from_pod = || UdpSocket::bind("10.1.0.7:0").unwrap().send_to(b"hello", "10.1.0.1:99").unwrap();
    node.pods.within(from_pod);
    assert_eq!(node.free(&["10.1.0.7"]), [""; 0]);
    // From outside, one way only; by a port of the node; a connection; and one from its middle.
    node.send_to("10.1.0.3");
    let host_port = "table ip ports { chain to { type nat hook prerouting priority -100; udp dport 99 ip daddr 192.0.2.1 dnat to 10.1.0.4; }; }";
    feed("nft", &["-f", "-"], host_port);
    node.send_to("192.0.2.1");
    node.others.within(|| {
        let _ = TcpStream::connect_timeout(&(address("10.1.0.5"), 80).into(), Duration::from_millis(1));
        send_mid_stream("10.1.0.6");
    });
    node.send_to("fd01::3");
    // From a pod, to no one who could answer it.
    node.pods.within(|| ["192.0.2.9", "fd02::9"].map(send));
    assert_eq!(node.free(&all), ["10.1.0.9", "fd01::9"]);
}

/// How many flows a sweep of an address judges that asks the index first, and whether it was in there.
fn judged(node: &Node, address: &str) -> (u64, u64) {
    let result = node.ask(&[address], 1);
    (result.flows.judged, result.index.others)
}

#[test]
fn a_sweep_looks_for_flows_only_of_addresses_in_the_index() {
    let node = Node::new();
    node.renew(&[]);
    node.send_to("10.1.0.3");
    assert_eq!((judged(&node, "10.1.0.3"), judged(&node, "10.1.0.4")), ((1, 1), (0, 0)));
    // A flow that is not in it is not found: nothing was listed.
    run("nft", &["delete", "element", "inet", "npc", "flows4", "{", "10.1.0.3", "}"]);
    assert_eq!(judged(&node, "10.1.0.3"), (0, 0));
    // Of an address of another network nothing is known, and no renewal would change that.
    assert_eq!(node.ask(&["10.2.0.3", "10.1.0.4"], 1).index.others, 0);
    node.renew(&[]);
    assert_eq!(judged(&node, "10.1.0.3"), (1, 1));
}

#[test]
fn flows_that_began_before_the_index_are_in_it_after_a_sweep() {
    let node = Node::new();
    // Something has to track flows.
    feed(
        "nft",
        &["-f", "-"],
        "table inet t { chain f { type filter hook forward priority 0; ct state new accept; }; }",
    );
    node.send_to("10.1.0.3");
    node.send_to("fd01::3");
    let all = ["10.1.0.3", "10.1.0.4", "fd01::3", "fd01::4"];
    node.renew(&[]);
    assert_eq!(node.free(&all), ["10.1.0.4", "fd01::4"]);
    // The same by a sweep that judges all flows, and one that judges some.
    for scope in [FlowScope::All, FlowScope::Of(set(&["10.1.0.4"]))] {
        run("nft", &["delete", "table", "inet", "npc"]);
        assert_eq!(node.free(&all), [""; 0]);
        node.sweep(scope, Node::request(1, Forget::AllBut(BTreeSet::new())));
        assert_eq!(node.free(&all), ["10.1.0.4", "fd01::4"]);
    }
}

#[test]
fn an_index_that_another_program_changed_does_not_count_until_it_is_renewed() {
    let node = Node::new();
    let free = ["10.1.0.3"];
    node.renew(&[]);
    let first_rule = || {
        let listed = output("nft", &["-a", "list", "chain", "inet", "npc", "to-ip"]);
        let line = listed.lines().find(|line| line.contains("add @flows4")).unwrap().to_owned();
        line.rsplit(' ').next().unwrap().to_owned()
    };
    let before = output("nft", &["list", "table", "inet", "npc"]);
    for damage in [
        "delete table inet npc",
        "flush ruleset",
        "flush set inet npc flows4",
        "flush chain inet npc to-ip",
        "delete rule inet npc to-ip handle FIRST",
        // The same rule, made again: packets passed meanwhile.
        "replace rule inet npc to-ip handle FIRST add @flows4 { ip daddr } return",
        "insert rule inet npc FORWARD accept",
        "insert rule inet npc INPUT accept",
        "add table inet npc { flags dormant; }",
        "add set inet npc other { type ipv4_addr; }",
        "add chain inet npc other",
    ] {
        assert_eq!(node.free(&free), free, "{damage}");
        let damage = damage.replace("FIRST", &first_rule());
        run("nft", &damage.split(' ').collect::<Vec<_>>());
        assert_eq!(node.free(&free), [""; 0], "{damage}");
        node.renew(&[]);
        assert_eq!(node.free(&free), free, "{damage}");
        assert_eq!(output("nft", &["list", "table", "inet", "npc"]), before, "{damage}");
    }
    // What others do elsewhere changes nothing.
    run("nft", &["add", "table", "inet", "others"]);
    assert_eq!(node.free(&free), free);
    // Packets that passed by FORWARD are of another epoch.
    assert_eq!(node.ask(&free, 2).index.without_flows, BTreeSet::new());
    node.sweep(FlowScope::default(), Node::request(2, Forget::AllBut(BTreeSet::new())));
    assert_eq!(node.ask(&free, 2).index.without_flows, set(&free));
    assert_eq!(node.free(&free), [""; 0]);
}

#[test]
fn an_index_that_is_full_does_not_count_until_there_is_room() {
    let node = Node::new();
    node.renew(&[]);
    // A scan of all addresses, as far as the set goes.
    let mut members = tempfile::NamedTempFile::new().unwrap();
    let all: Vec<String> = (1..65_536_u32).map(|n| format!("fd01::1:{n:x}")).collect();
    writeln!(members, "add element inet npc flows6 {{ {} }}", all.join(",")).unwrap();
    run("nft", &["-f", members.path().to_str().unwrap()]);
    let free = ["10.1.0.3", "fd01::3"];
    assert_eq!(node.free(&free), free);
    node.send_to("fd01::1:7");
    assert_eq!(node.free(&free), free, "it is noted");
    node.send_to("fd01::5");
    assert_eq!(node.free(&free), ["10.1.0.3"], "it may be any of that family");
    // The index works also after people reset the counter that they read.
    run("nft", &["reset", "counters"]);
    assert_eq!(node.free(&free), ["10.1.0.3"]);
    node.renew(&[]);
    assert_eq!(
        node.free(&["10.1.0.3", "fd01::3", "fd01::5", "fd01::1:7", "fd01::1:8"]),
        ["10.1.0.3", "fd01::3", "fd01::1:8"]
    );
}

#[test]
fn the_next_agent_takes_the_table_over_and_writes_nothing() {
    let mut node = Node::new();
    node.renew(&[]);
    node.send_to("10.1.0.3");
    node.renew(&[]);
    let generation = Socket::open().unwrap().generation().unwrap();
    node.kernel = Linux::open(Some(Backend::Legacy)).unwrap();
    let free = ["10.1.0.3", "10.1.0.4"];
    assert_eq!(node.free(&free), [""; 0], "it has not listed the flows");
    node.renew(&["10.1.0.3"]);
    assert_eq!(node.free(&free), ["10.1.0.4"]);
    assert_eq!(Socket::open().unwrap().generation().unwrap(), generation);
    // Another network is another table.
    let domain = vec!["10.2.0.0/24".parse().unwrap()];
    node.sweep(FlowScope::All, RenewalRequest { domain, ..Node::request(1, Forget::AllBut(BTreeSet::new())) });
    assert_eq!(node.free(&["10.1.0.4", "10.2.0.4"]), ["10.2.0.4"]);
    let removed = cleanup();
    assert!(removed.flow_index && removed.errors.is_empty(), "{removed:?}");
    assert_eq!(output("nft", &["list", "tables", "inet"]), "");
    assert_eq!(node.free(&["10.2.0.4"]), [""; 0]);
    assert!(!cleanup().flow_index);
}

/// NAT comes after the table, so FORWARD has the pod's address: in what the node sends in its own name for
/// a pod, and in what comes for it.
#[test]
fn the_address_behind_a_masqueraded_flow_is_noted() {
    let node = Node::new();
    feed("nft", &["-f", "-"], "table inet nat { chain out { type nat hook postrouting priority 100; masquerade; }; }");
    node.renew(&[]);
    node.pods.ip("address add 10.1.0.7/32 dev pods-p");
    let from = |from: &str, to: &str| UdpSocket::bind((from, 0)).unwrap().send_to(b"hello", (to, 99)).unwrap();
    node.pods.within(|| [from("10.1.0.7", "192.0.2.2"), from("fd01::2", "fd02::2")]);
    assert_eq!(node.free(&["10.1.0.7", "10.1.0.8", "fd01::2", "fd01::8"]), ["10.1.0.8", "fd01::8"]);
    // A renewal finds the same by the flows.
    run("nft", &["delete", "table", "inet", "npc"]);
    node.renew(&[]);
    assert_eq!(node.free(&["10.1.0.7", "10.1.0.8", "fd01::2", "fd01::8"]), ["10.1.0.8", "fd01::8"]);
}

/// A connection that a helper expects is RELATED from its first packet, and no NEW one.
#[test]
fn the_addresses_of_a_related_flow_are_noted() {
    let node = Node::new();
    let rules = "table ip ftp {
        ct helper ftp { type \"ftp\" protocol tcp; };
        chain helped { type filter hook prerouting priority 0; tcp dport 21 ct helper set \"ftp\"; };
        chain only { type filter hook forward priority 0; tcp dport 51200 ct state new drop; };
    }";
    feed("nft", &["-f", "-"], rules);
    node.renew(&[]);
    let server = node.pods.within(|| TcpListener::bind("10.1.0.2:21").unwrap());
    let expecting = node.others.within(|| TcpListener::bind("192.0.2.2:51200").unwrap());
    let mut client = node.others.within(|| TcpStream::connect("10.1.0.2:21").unwrap());
    let mut lines = BufReader::new(server.accept().unwrap().0);
    // The helper reads what stands behind the end of a line.
    for line in ["USER pod\r\n", "PORT 192,0,2,2,200,0\r\n"] {
        client.write_all(line.as_bytes()).unwrap();
        lines.read_line(&mut String::new()).unwrap();
    }
    assert_eq!(node.free(&["10.1.0.2"]), [""; 0], "the first connection was noted");
    run("nft", &["delete", "element", "inet", "npc", "flows4", "{", "10.1.0.2", "}"]);
    assert_eq!(node.free(&["10.1.0.2"]), ["10.1.0.2"]);
    let _data = node.pods.within(|| TcpStream::connect("192.0.2.2:51200").unwrap());
    expecting.accept().unwrap();
    assert_eq!(node.free(&["10.1.0.2"]), [""; 0]);
}
