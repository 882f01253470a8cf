//! The node's own network, read and followed.

use std::future::Future;

use npc_agent::dataplane::network::{self, Follower, Network};
use npc_compiler::object::Family;

use super::namespace::{Namespace, run};

fn ip(command: &str) {
    run("ip", &command.split(' ').collect::<Vec<_>>());
}

/// In this thread, because a namespace is of one thread.
fn block_on(test: impl Future<Output = ()>) {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(test);
}

fn addresses(network: &Network) -> Vec<String> {
    network.addresses.iter().map(ToString::to_string).collect()
}

/// Waits for a change that brings this about; what comes before it is skipped.
async fn until(follower: &mut Follower, wanted: impl Fn(&Network) -> bool) {
    while !wanted(follower.network()) {
        follower.changed().await.unwrap();
    }
}

#[test]
fn the_nodes_addresses_are_read_and_followed() {
    let _namespace = Namespace::enter();
    ip("link add eth0 type veth peer name peer0");
    ip("address add 192.0.2.7/24 dev eth0");
    block_on(async {
        let mut follower = Follower::start().await.unwrap();
        assert_eq!(addresses(follower.network()), ["192.0.2.7/24"], "loopback's do not count");
        ip("link set eth0 up");
        ip("link set peer0 up");
        ip("-6 address add 2001:db8::7/64 dev eth0 nodad");
        until(&mut follower, |network| addresses(network) == ["192.0.2.7/24", "2001:db8::7/64"]).await;
        ip("address del 192.0.2.7/24 dev eth0");
        until(&mut follower, |network| addresses(network) == ["2001:db8::7/64"]).await;
        ip("link del eth0");
        until(&mut follower, |network| network.addresses.is_empty()).await;
    });
}

#[test]
fn an_address_on_a_link_to_a_peer_is_ours_and_not_the_peers() {
    let _namespace = Namespace::enter();
    ip("link add eth0 type veth peer name peer0");
    ip("address add 192.0.2.1 peer 192.0.2.2/32 dev eth0");
    block_on(async {
        let follower = Follower::start().await.unwrap();
        assert_eq!(addresses(follower.network()), ["192.0.2.1/32"]);
    });
}

#[test]
fn what_lies_behind_a_bridge_is_known_and_a_port_that_leaves_it_is_no_link_that_goes() {
    let _namespace = Namespace::enter();
    ip("link add cbr0 type bridge");
    ip("link add pod0 type veth peer name peer0");
    ip("link set pod0 master cbr0");
    ip("address add 10.244.1.1/24 dev cbr0");
    ip("address add 192.0.2.1/24 dev pod0");
    ip("link set pod0 up");
    block_on(async {
        let mut follower = Follower::start().await.unwrap();
        let behind = |network: &Network, address: &str| network.bridge_of(address.parse().unwrap()).map(str::to_owned);
        assert_eq!(behind(follower.network(), "10.244.1.9"), None, "it is down");
        ip("link set cbr0 up");
        until(&mut follower, |network| behind(network, "10.244.1.9").as_deref() == Some("cbr0")).await;
        assert_eq!(behind(follower.network(), "192.0.2.9"), None, "pod0 is no bridge");
        // The bridge says DELLINK for a port that leaves it.
        ip("link set pod0 nomaster");
        ip("route add 10.245.0.0/16 dev cbr0");
        until(&mut follower, |network| behind(network, "10.245.0.1").is_some()).await;
        assert_eq!(addresses(follower.network()), ["10.244.1.1/24", "192.0.2.1/24"]);
        // Its routes go without a word each.
        ip("link set cbr0 down");
        until(&mut follower, |network| network.bridged.is_empty()).await;
    });
}

#[test]
fn ipvs_is_seen_by_its_device() {
    let _namespace = Namespace::enter();
    block_on(async {
        let mut follower = Follower::start().await.unwrap();
        assert!(!follower.network().ipvs);
        // A dummy on a real node; what kind it is does not matter.
        ip("link add kube-ipvs0 type veth peer name peer0");
        until(&mut follower, |network| network.ipvs).await;
        ip("link del kube-ipvs0");
        until(&mut follower, |network| !network.ipvs).await;
    });
}

#[test]
fn whether_bridges_are_filtered_is_the_namespaces_own_setting() {
    let _namespace = Namespace::enter();
    let set = |value: &str| std::fs::write("/proc/sys/net/bridge/bridge-nf-call-iptables", value).unwrap();
    set("1");
    assert!(network::bridges_are_filtered(Family::V4));
    set("0");
    assert!(!network::bridges_are_filtered(Family::V4));
}
