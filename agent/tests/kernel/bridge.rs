//! The table of the bridge family in the real kernel, with `nft` as a second
//! opinion; and what is behind the ports of a bridge.

use std::net::IpAddr;

use npc_agent::dataplane::backend::Backend;
use npc_agent::dataplane::bridge::{self, BridgeTable, TableWrite, peer};
use npc_agent::dataplane::network::NetworkFollower;
use npc_agent::dataplane::nftables::{Request, Socket, WriteAttributes, family, message, table};
use npc_agent::dataplane::{Kernel, Linux};

use super::namespace::{Beyond, Namespace, ip, output, run};

fn address(text: &str) -> IpAddr {
    text.parse().unwrap()
}

fn index(name: &str) -> u32 {
    nix::net::if_::if_nametoindex(name).unwrap()
}

fn listed() -> String {
    output("nft", &["list", "table", "bridge", "npc"])
}

const WROTE: TableWrite = TableWrite { wrote: true, drifted: false };
const DRIFTED: TableWrite = TableWrite { wrote: true, drifted: true };
const NOTHING: TableWrite = TableWrite { wrote: false, drifted: false };

#[test]
fn what_was_written_is_read_by_nft_and_by_the_next_agent() {
    let _namespace = Namespace::enter();
    let beyond = Beyond::new();
    beyond.veth("azv1");
    beyond.veth("azv2");
    let (one, two) = (index("azv1"), index("azv2"));
    // It works beside either backend: nothing of iptables is asked.
    let mut kernel = Linux::open(Some(Backend::Legacy)).unwrap();
    assert_eq!(kernel.set_bridge(&BridgeTable::default()).unwrap(), NOTHING);
    let mut desired = BridgeTable { ports: [one, two].into(), ..BridgeTable::default() };
    assert_eq!(kernel.set_bridge(&desired).unwrap(), WROTE);
    assert_eq!(kernel.set_bridge(&desired).unwrap(), NOTHING);
    desired.pinned = [one].into();
    desired.guarded = [two].into();
    desired.confined = [one].into();
    desired.known = [one, two].into();
    desired.senders = [(one, [2, 0, 0, 0, 0, 1])].into();
    desired.addresses = [(one, address("10.0.0.1")), (one, address("fd00::1")), (two, address("10.0.0.2"))].into();
    assert_eq!(kernel.set_bridge(&desired).unwrap(), WROTE);
    let text = listed();
    for part in [
        "elements = { \"azv1\" . 10.0.0.1",
        "\"azv2\" . 10.0.0.2",
        "\"azv1\" . fd00::1",
        "\"azv1\" . 02:00:00:00:00:01",
        "type filter hook prerouting priority",
        "type filter hook forward priority",
        "iif @ports jump from-pods",
        "iif @confined oif @known jump guarded",
        "ether type arp goto from-pods-arp",
    ] {
        assert!(text.contains(part), "{part} is not in {text}");
    }
    assert_eq!(Linux::open(Some(Backend::Legacy)).unwrap().set_bridge(&desired).unwrap(), NOTHING, "it is known again");
    // Members go one by one.
    desired.addresses.remove(&(one, address("fd00::1")));
    assert_eq!(kernel.set_bridge(&desired).unwrap(), WROTE);
    assert!(!listed().contains("fd00::1"));
    assert_eq!(kernel.set_bridge(&BridgeTable::default()).unwrap(), WROTE);
    assert_eq!(output("nft", &["list", "tables"]), "");
    assert!(!bridge::remove().unwrap());
}

#[test]
fn any_damage_by_another_program_is_found_and_repaired() {
    let _namespace = Namespace::enter();
    ip("link add azv1 type veth peer name azv1-p");
    let one = index("azv1");
    let mut kernel = Linux::open(Some(Backend::Nft)).unwrap();
    let addresses = [(one, address("10.0.0.1"))].into();
    let desired = BridgeTable { ports: [one].into(), pinned: [one].into(), addresses, ..BridgeTable::default() };
    kernel.set_bridge(&desired).unwrap();
    let before = listed();
    for damage in [
        "delete table bridge npc",
        "flush ruleset",
        "flush chain bridge npc FORWARD",
        "insert rule bridge npc PREROUTING accept",
        "add rule bridge npc PREROUTING counter",
        "add chain bridge npc foreign",
        "add set bridge npc foreign { type ipv4_addr; }",
        "add element bridge npc ports { lo }",
        "delete element bridge npc ports { azv1 }",
        "flush set bridge npc addresses4",
        "add table bridge npc { flags dormant; }",
        "chain bridge npc PREROUTING { policy drop; }",
    ] {
        run("nft", &damage.split(' ').collect::<Vec<_>>());
        assert_eq!(kernel.set_bridge(&desired).unwrap(), DRIFTED, "{damage}");
        assert_eq!(listed(), before, "{damage}");
        assert_eq!(kernel.set_bridge(&desired).unwrap(), NOTHING, "{damage}");
    }
    // What others do elsewhere is no drift.
    run("nft", &["add", "table", "bridge", "others"]);
    run("nft", &["add", "chain", "bridge", "others", "PREROUTING"]);
    run("nft", &["add", "rule", "bridge", "others", "PREROUTING", "accept"]);
    run("nft", &["add", "set", "bridge", "others", "ports", "{", "type", "ipv4_addr;", "}"]);
    assert_eq!(kernel.set_bridge(&desired).unwrap(), NOTHING);
    assert!(bridge::remove().unwrap());
    assert_eq!(output("nft", &["list", "tables"]), "table bridge others\n");
}

#[test]
fn many_members_are_one_commit() {
    let _namespace = Namespace::enter();
    let mut kernel = Linux::open(Some(Backend::Nft)).unwrap();
    let ports: std::collections::BTreeSet<u32> = (1_000..6_000).collect();
    let addresses = ports.iter().map(|port| (*port, IpAddr::from(u128::from(*port).to_be_bytes()))).collect();
    let desired = BridgeTable { ports, addresses, ..BridgeTable::default() };
    assert_eq!(kernel.set_bridge(&desired).unwrap(), WROTE);
    assert_eq!(Linux::open(Some(Backend::Nft)).unwrap().set_bridge(&desired).unwrap(), NOTHING);
}

#[test]
fn a_batch_is_carried_out_as_a_whole_or_names_what_was_refused() {
    let _namespace = Namespace::enter();
    let mut socket = Socket::open().unwrap();
    let name = |name: &'static str| move |bytes: &mut Vec<u8>| bytes.put_text(table::NAME, name);
    let make = |of| Request::create(message::NEW_TABLE, family::BRIDGE, format!("make {of}"), name(of));
    let remove = Request::delete(message::DELETE_TABLE, family::BRIDGE, "remove what is not there", name("absent"));
    let refused = socket.commit(&[make("a"), remove, make("b")]).unwrap_err();
    assert!(refused.is_absent(), "{refused}");
    assert_eq!(
        refused.to_string(),
        "the kernel refused to remove what is not there: No such file or directory (os error 2)"
    );
    assert_eq!(output("nft", &["list", "tables"]), "");
    socket.commit(&[make("a"), make("b")]).unwrap();
    let all = Request::list(message::GET_TABLE, family::BRIDGE, "list tables", |_| ());
    let tables = |socket: &mut Socket| {
        socket.ask(&all, |attributes| Ok(attributes.text(table::NAME)?.map(str::to_owned))).unwrap()
    };
    assert_eq!(tables(&mut socket), ["a", "b"]);
    let other = Request::create(message::NEW_TABLE, 77, "make a table of another family", name("a"));
    let refused = socket.commit(&[other]).unwrap_err();
    assert!(refused.is_unsupported(), "{refused}");
    assert_eq!(tables(&mut socket), ["a", "b"], "the socket goes on");
}

#[test]
fn the_kernel_reports_what_is_behind_a_port() {
    let _namespace = Namespace::enter();
    let beyond = Beyond::new();
    beyond.veth("azv1");
    ip("link add pair0 type veth peer name pair1");
    ip("address add 10.0.0.9/24 dev pair1");
    beyond.ip("address add 10.0.0.1/24 dev azv1-p");
    beyond.ip("address add 10.0.0.7 peer 10.0.0.8/32 dev azv1-p");
    beyond.ip("address add fd00::1/64 dev azv1-p nodad");
    beyond.ip("address add 10.9.9.9/24 dev lo");
    beyond.ip("link set azv1-p address 02:00:00:00:00:01");
    let found = peer::of(&[index("azv1"), index("pair0"), index("lo"), 4_711]).unwrap();
    let [(port, peer)] = &found[..] else { panic!("{found:?}") };
    assert_eq!((*port, peer.ethernet), (index("azv1"), [2, 0, 0, 0, 0, 1]));
    let addresses: Vec<String> = peer.addresses.iter().map(ToString::to_string).collect();
    assert_eq!(addresses, ["10.0.0.1", "10.0.0.7", "fd00::1"]);
}

#[test]
fn ports_that_lead_to_pods_are_veths_to_another_namespace_and_taps() {
    let _namespace = Namespace::enter();
    let beyond = Beyond::new();
    for veth in ["azv1", "azv2", "free"] {
        beyond.veth(veth);
    }
    ip("link add up0 type veth peer name up1");
    ip("link add vx0 type vxlan id 5 dstport 4789 local 127.0.0.1");
    ip("tuntap add dev tap0 mode tap");
    ip("link add cbr0 type bridge");
    for port in ["azv1", "azv2", "up0", "vx0", "tap0"] {
        ip(&format!("link set {port} master cbr0"));
    }
    let ports = || [index("azv1"), index("azv2"), index("tap0")].into();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let mut follower = NetworkFollower::start().await.unwrap();
        assert_eq!(follower.network().bridge_ports, [("cbr0".to_owned(), ports())].into());
        // One that comes is known by its link alone.
        beyond.veth("azv3");
        ip("link set azv3 master cbr0");
        while !follower.network().bridge_ports["cbr0"].contains(&index("azv3")) {
            follower.changed().await.unwrap();
        }
        ip("link set azv3 nomaster");
        while follower.network().bridge_ports["cbr0"] != ports() {
            follower.changed().await.unwrap();
        }
    });
}
