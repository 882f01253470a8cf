//! Which pods count, whose an address is, and what is exempt.

use super::*;

fn isolated() -> Cluster {
    shop().policy("shop", json!({"podSelector": {}, "policyTypes": ["Ingress", "Egress"]}))
}

fn admitting_shop(cluster: Cluster) -> Cluster {
    cluster.policy("other", json!({"podSelector": {}, "ingress": [{"from": [{"namespaceSelector": {}}]}]}))
}

#[test]
fn a_pod_always_reaches_itself() {
    let shop = isolated();
    assert!(shop.allows("shop/db", "shop/db", tcp(1)));
    assert!(shop.allows("shop/db", "10.0.0.1", Payload::Icmp));
    assert!(shop.allows_v6("shop/db", "shop/db", Payload::Port(Protocol::Sctp, 1)));
}

#[test]
fn a_pod_and_its_own_node_always_reach_each_other_and_other_nodes_are_addresses() {
    let shop = isolated().node("node-1", &["192.168.0.1", "fd01::1"]).node("node-2", &["192.168.0.2"]);
    assert!(shop.allows("192.168.0.1", "shop/db", tcp(1)));
    assert!(shop.allows("shop/db", "192.168.0.1", tcp(1)));
    assert!(shop.allows_v6("fd01::1", "shop/db", tcp(1)));
    assert!(!shop.allows("192.168.0.2", "shop/db", tcp(1)));
    assert!(!shop.allows("shop/db", "192.168.0.2", tcp(1)));
    let block = json!([{"ipBlock": {"cidr": "192.168.0.2/32"}}]);
    let shop = shop.policy("shop", json!({"podSelector": {}, "ingress": [{"from": block}]}));
    assert!(shop.allows("192.168.0.2", "shop/db", tcp(1)));
}

#[test]
fn a_nodes_addresses_are_known_from_its_pods_too() {
    let mut shop = isolated().pod_with("other/proxy", "", |pod| {
        pod.host_network = true;
        pod.ipv4 = Some("192.168.0.1".parse().unwrap());
    });
    shop.0.pods[2].host_addresses = vec!["192.168.7.7".parse().unwrap()];
    assert!(shop.allows("192.168.0.1", "shop/db", tcp(1)));
    assert!(shop.allows("192.168.7.7", "shop/db", tcp(1)));
    assert!(!shop.allows("192.168.7.8", "shop/db", tcp(1)));
}

#[test]
fn a_pod_on_the_hosts_network_is_never_a_subject() {
    let shop = isolated().pod_with("shop/proxy", "", |pod| {
        pod.host_network = true;
        pod.node = Some("node-2".to_owned());
        pod.ipv4 = Some("192.168.0.2".parse().unwrap());
    });
    assert!(shop.allows("other/web", "shop/proxy", tcp(1)));
    assert!(shop.allows("shop/proxy", "other/web", tcp(1)));
}

#[test]
fn a_pod_on_the_hosts_network_is_never_a_peer_of_a_selector_but_of_a_block() {
    let proxy = |shop: Cluster| {
        shop.pod_with("shop/proxy", "", |pod| {
            pod.host_network = true;
            pod.node = Some("node-2".to_owned());
            pod.ipv4 = Some("192.168.0.2".parse().unwrap());
        })
    };
    let shop = proxy(admitting_shop(shop()));
    assert!(shop.allows("shop/web", "other/web", tcp(1)));
    assert!(!shop.allows("shop/proxy", "other/web", tcp(1)));
    let block = json!([{"ipBlock": {"cidr": "192.168.0.0/24"}}]);
    let shop = shop.policy("other", json!({"podSelector": {}, "ingress": [{"from": block}]}));
    assert!(shop.allows("shop/proxy", "other/web", tcp(1)));
}

#[test]
fn a_finished_pod_has_no_address_and_its_successor_owns_it() {
    let mut shop = admitting_shop(shop());
    shop.0.pods[1].finished = true;
    assert!(!shop.allows("10.0.0.2", "other/web", tcp(1)), "no pod any more");
    let shop = shop.pod_with("shop/next", "", |pod| pod.ipv4 = Some("10.0.0.2".parse().unwrap()));
    assert!(shop.allows("10.0.0.2", "other/web", tcp(1)));
    assert!(shop.allows("shop/next", "other/web", tcp(1)));
}

#[test]
fn a_finished_pod_is_not_isolated() {
    let mut shop = isolated();
    shop.0.pods[1].finished = true;
    assert!(shop.allows("other/web", "10.0.0.2", tcp(1)));
}

#[test]
fn a_terminating_pod_keeps_its_network_until_it_is_gone() {
    let mut shop = admitting_shop(isolated());
    shop.0.pods[1].terminating = true;
    assert!(!shop.allows("other/web", "shop/web", tcp(1)), "still isolated");
    let mut shop = admitting_shop(super::shop());
    shop.0.pods[1].terminating = true;
    assert!(shop.allows("shop/web", "other/web", tcp(1)), "still a peer");
}

#[test]
fn of_two_pods_with_one_address_the_one_that_stays_owns_it() {
    let mut shop = shop().policy("shop", json!({"podSelector": {"matchLabels": {"app": "db"}}}));
    shop.0.pods[1].ipv4 = shop.0.pods[0].ipv4;
    shop.0.pods[0].uid = "z".to_owned();
    assert!(!shop.allows("other/web", "10.0.0.1", tcp(1)), "nothing tells, and one of them is isolated");
    assert!(!shop.allows("other/web", "shop/web", tcp(1)));
    shop.0.pods[0].started = Some(1);
    assert!(!shop.allows("other/web", "10.0.0.1", tcp(1)), "the one that started later is isolated");
    assert!(!shop.allows("other/web", "shop/web", tcp(1)), "it has no address of this family");
    assert!(shop.allows_v6("other/web", "shop/web", tcp(1)));
    shop.0.pods[0].terminating = true;
    assert!(shop.allows("other/web", "10.0.0.1", tcp(1)));
    assert!(shop.allows("other/web", "shop/web", tcp(1)));
}

#[test]
fn a_pod_without_an_address_gets_and_sends_nothing() {
    let mut shop = shop();
    shop.0.pods[1].ipv4 = None;
    assert!(!shop.allows("other/web", "shop/web", tcp(1)));
    assert!(shop.allows_v6("other/web", "shop/web", tcp(1)));
}

#[test]
fn names_with_and_without_a_separator_do_not_collide() {
    let cluster = |subject: &str| {
        Cluster::new()
            .namespace("team", "")
            .namespace("teama", "")
            .pod("team/ab", "")
            .pod("teama/b", "")
            .policy(subject, json!({"podSelector": {}, "policyTypes": ["Ingress", "Egress"]}))
    };
    let shop = cluster("team").pod("teama/c", "");
    assert!(!shop.allows("teama/c", "team/ab", tcp(1)));
    assert!(shop.allows("teama/c", "teama/b", tcp(1)));
}

fn on(cluster: Cluster, name: &str, app: &str, node: &str, ip: &str) -> Cluster {
    cluster.pod_with(name, app, |pod| {
        pod.node = Some(node.to_owned());
        pod.ipv4 = Some(ip.parse().unwrap());
    })
}

#[test]
fn for_an_address_of_several_pods_of_a_node_others_are_as_for_that_node() {
    let shop = on(on(shop(), "shop/one", "", "node-1", "10.0.0.50"), "shop/other", "", "node-1", "10.0.0.50");
    let shop = on(on(shop, "shop/here", "", "node-1", "10.0.0.60"), "other/there", "", "node-2", "10.0.0.60");
    let to = json!([{"to": [{"podSelector": {}}]}]);
    let shop = shop.policy("shop", json!({"podSelector": {}, "policyTypes": ["Egress"], "egress": to}));
    assert!(shop.allows("10.0.0.50", "shop/here", tcp(1)));
}

#[test]
fn an_address_of_several_pods_gets_what_each_of_them_admits() {
    let shop = on(shop(), "shop/one", "app=one", "node-1", "10.0.0.50");
    let shop = on(shop, "shop/other", "app=other", "node-1", "10.0.0.50");
    let admits = |shop: Cluster, app: &str, ports: [u16; 2]| {
        let ports = ports.map(|port| json!({"port": port}));
        let subject = json!({"matchLabels": {"app": app}});
        shop.policy("shop", json!({"podSelector": subject, "ingress": [{"ports": ports}]}))
    };
    let shop = admits(admits(shop, "one", [80, 81]), "other", [81, 82]);
    let allowed = [80, 81, 82].map(|port| shop.allows("other/web", "10.0.0.50", tcp(port)));
    assert_eq!(allowed, [false, true, false]);
}
