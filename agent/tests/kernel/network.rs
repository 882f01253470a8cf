//! The node's own network, read and followed.

use std::future::Future;

use npc_agent::dataplane::links;
use npc_agent::dataplane::network::{Bridge, Interface, Network, NetworkFollower, NotPodInterface};
use npc_compiler::object::Family;
use npc_compiler::ruleset::constants::POD_GROUP;
use npc_compiler::ruleset::node::InterfaceName;

use super::namespace::{Beyond, Namespace, ip};

/// In this thread, because a namespace is of one thread.
fn block_on(test: impl Future<Output = ()>) {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(test);
}

fn addresses(network: &Network) -> Vec<String> {
    network.addresses.iter().map(ToString::to_string).collect()
}

/// Waits for a change that brings this about; what comes before it is skipped.
async fn until(follower: &mut NetworkFollower, wanted: impl Fn(&Network) -> bool) {
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
        let mut follower = NetworkFollower::start().await.unwrap();
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
        let follower = NetworkFollower::start().await.unwrap();
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
        let mut follower = NetworkFollower::start().await.unwrap();
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

fn routes(network: &Network) -> Vec<String> {
    let each = |(name, interface): (InterfaceName, &Interface)| {
        let routes: Vec<String> = interface.routes.iter().map(ToString::to_string).collect();
        format!("{name} {}", routes.join(" "))
    };
    network.pod_interfaces(["10.244.1.9".parse().unwrap()]).map(each).collect()
}

#[test]
fn an_interface_of_pods_is_one_to_which_no_other_way_leads_and_which_leads_nowhere_else() {
    let _namespace = Namespace::enter();
    let beyond = Beyond::new();
    for veth in ["azv1", "azv2", "eth0", "port", "plain"] {
        beyond.veth(veth);
    }
    // The node's own way out, with host routes to its neighbours.
    ip("address add 192.0.2.1/32 dev eth0");
    ip("route add 192.0.2.254/32 dev eth0");
    ip("route add default via 192.0.2.254 dev eth0");
    // IPv6 routes an address to the interface that has it.
    ip("-6 address add 2001:db8::1/128 dev plain nodad");
    ip("route add 10.250.0.0/16 dev plain");
    ip("link add cbr0 type bridge");
    ip("link set cbr0 up");
    ip("link set port master cbr0");
    ip("address add 10.244.1.1/24 dev cbr0");
    ip("link add docker0 type bridge");
    ip("link set docker0 up");
    ip("address add 172.17.0.1/16 dev docker0");
    block_on(async {
        let mut follower = NetworkFollower::start().await.unwrap().of_interfaces(true);
        assert_eq!(routes(follower.network()), ["cbr0 10.244.1.0/24"]);
        ip("route add 10.0.0.1/32 dev azv1");
        ip("-6 route add fd00::1/128 dev azv1");
        until(&mut follower, |network| routes(network) == ["azv1 10.0.0.1/32 fd00::1/128", "cbr0 10.244.1.0/24"]).await;
        // The next pod's address comes, the last one's goes.
        ip("route add 10.0.0.2/32 dev azv1");
        ip("route del 10.0.0.1/32 dev azv1");
        until(&mut follower, |network| routes(network)[0] == "azv1 10.0.0.2/32 fd00::1/128").await;
        // An address moves without a word of where it was.
        ip("route replace 10.0.0.2/32 dev azv2");
        until(&mut follower, |network| routes(network)[1..] == ["azv2 10.0.0.2/32", "cbr0 10.244.1.0/24"]).await;
        assert_eq!(routes(follower.network())[0], "azv1 fd00::1/128");
        ip("route add 10.99.0.0/16 via 10.0.0.2 dev azv2 onlink");
        until(&mut follower, |network| routes(network)[1] == "azv2 10.0.0.2/32 10.99.0.0/16").await;
        // Behind a port that is no pod's may be anybody.
        ip("link add vx5 type vxlan id 5 dstport 4789 local 127.0.0.1");
        ip("link set vx5 master cbr0");
        until(&mut follower, |network| routes(network).len() == 2).await;
        ip("link del vx5");
        until(&mut follower, |network| routes(network).len() == 3).await;
        // And neither may who is behind a pair that joins it to another link.
        ip("link add up1 type veth peer name up2");
        ip("link set up1 master cbr0");
        until(&mut follower, |network| routes(network).len() == 2).await;
        let why = follower.network().elsewhere[&InterfaceName::new("cbr0").unwrap()].why;
        assert_eq!(why, NotPodInterface::OpenBridge);
        ip("link del up1");
        until(&mut follower, |network| routes(network).len() == 3).await;
        // The link goes, and another comes by its name.
        let before = follower.network().interfaces[&InterfaceName::new("azv1").unwrap()].index;
        ip("link del azv1");
        until(&mut follower, |network| routes(network).len() == 2).await;
        beyond.veth("azv1");
        ip("route add 10.0.0.3/32 dev azv1");
        until(&mut follower, |network| routes(network)[0] == "azv1 10.0.0.3/32").await;
        assert_ne!(follower.network().interfaces[&InterfaceName::new("azv1").unwrap()].index, before);
    });
}

#[test]
fn a_pair_is_of_pods_when_one_end_is_in_another_namespace() {
    let _namespace = Namespace::enter();
    let beyond = Beyond::new();
    ip("link add azv1 type veth peer name azv1-p");
    ip("link set azv1 up");
    ip("route add 10.0.0.1/32 dev azv1");
    block_on(async {
        let mut follower = NetworkFollower::start().await.unwrap().of_interfaces(true);
        assert_eq!(routes(follower.network()), [""; 0]);
        // As a CNI plugin does that makes the pair on the node first. Nothing is
        // said of the end that stays, until there is a link at the other.
        beyond.take("azv1-p");
        beyond.up("azv1-p");
        until(&mut follower, |network| routes(network) == ["azv1 10.0.0.1/32"]).await;
    });
}

#[test]
fn links_join_the_group_of_pods_and_leave_it() {
    let _namespace = Namespace::enter();
    let beyond = Beyond::new();
    beyond.veth("azv1");
    ip("route add 10.0.0.1/32 dev azv1");
    block_on(async {
        let mut follower = NetworkFollower::start().await.unwrap().of_interfaces(true);
        let azv1 = InterfaceName::new("azv1").unwrap();
        let index = follower.network().interfaces[&azv1].index;
        // One that is not there is no failure.
        links::set_group(&[index + 1000, index], POD_GROUP).unwrap();
        assert_eq!(links::in_pod_group().unwrap(), [(index, "azv1".to_owned())]);
        until(&mut follower, |network| network.in_pod_group == [index].into()).await;
        // Set by another program.
        ip("link set azv1 group 7");
        until(&mut follower, |network| network.in_pod_group.is_empty()).await;
        assert_eq!(follower.network().interfaces[&azv1].group, 7);
        links::set_group(&[index], links::NO_GROUP).unwrap();
        until(&mut follower, |network| network.interfaces[&azv1].group == links::NO_GROUP).await;
    });
}

#[test]
fn ipvs_is_seen_by_its_device() {
    let _namespace = Namespace::enter();
    block_on(async {
        let mut follower = NetworkFollower::start().await.unwrap();
        assert!(!follower.network().ipvs);
        // A dummy on a real node; what kind it is does not matter.
        ip("link add kube-ipvs0 type veth peer name peer0");
        until(&mut follower, |network| network.ipvs).await;
        ip("link del kube-ipvs0");
        until(&mut follower, |network| !network.ipvs).await;
    });
}

#[test]
fn a_bridge_is_filtered_by_the_namespaces_setting_or_its_own() {
    let _namespace = Namespace::enter();
    let beyond = Beyond::new();
    let set = |value: &str| std::fs::write("/proc/sys/net/bridge/bridge-nf-call-iptables", value).unwrap();
    ip("link add cbr0 type bridge");
    ip("link set cbr0 up");
    block_on(async {
        let mut follower = NetworkFollower::start().await.unwrap();
        let bridge = |follower: &NetworkFollower| follower.network().bridges["cbr0"];
        assert_eq!(bridge(&follower), Bridge::default());
        for (value, is_filtered) in [("1", true), ("0", false)] {
            set(value);
            assert_eq!(bridge(&follower).is_filtered(Family::V4), is_filtered);
        }
        // The kernel tells of what a bridge says for itself.
        ip("link set cbr0 type bridge nf_call_iptables 1");
        until(&mut follower, |network| network.bridges["cbr0"].calls_iptables).await;
        assert!(bridge(&follower).is_filtered(Family::V4) && !bridge(&follower).calls_ip6tables);
        std::fs::write("/proc/sys/net/bridge/bridge-nf-call-ip6tables", "0").unwrap();
        assert!(!bridge(&follower).is_filtered(Family::V6));
        ip("link set cbr0 type bridge nf_call_ip6tables 1 nf_call_iptables 0");
        until(&mut follower, |network| !network.bridges["cbr0"].calls_iptables).await;
        assert!(bridge(&follower).is_filtered(Family::V6) && !bridge(&follower).is_filtered(Family::V4));
        for (n, name) in [(1, "pod1"), (2, "pod2"), (2, "pod3")] {
            beyond.veth(name);
            ip(&format!("link set {name} master cbr0"));
            until(&mut follower, |network| network.bridges["cbr0"].ports == n).await;
        }
        ip("link del pod1");
        ip("link set pod2 nomaster");
        until(&mut follower, |network| network.bridges["cbr0"].ports == 1).await;
    });
}
