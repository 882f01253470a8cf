//! Ports.

use super::*;

/// A shop whose pods admit these ports. `shop/db` calls its TCP port 5432
/// `pg`, `shop/web` calls its UDP port 53 and its TCP port 80 so.
fn admitting(ports: &Value) -> Cluster {
    named().policy("shop", json!({"podSelector": {}, "ingress": [{"ports": ports}]}))
}

fn named() -> Cluster {
    let mut shop = shop();
    shop.0.pods[0].ports = vec![container_port("pg", Protocol::Tcp, 5432)];
    shop.0.pods[1].ports = vec![container_port("pg", Protocol::Tcp, 80), container_port("pg", Protocol::Udp, 53)];
    shop
}

#[test]
fn an_absent_protocol_is_tcp_and_an_absent_port_all_of_its_protocol() {
    let shop = admitting(&json!([{"port": 80}, {"protocol": "UDP"}]));
    assert!(shop.allows("other/web", "shop/db", tcp(80)));
    assert!(!shop.allows("other/web", "shop/db", tcp(81)));
    assert!(!shop.allows("other/web", "shop/db", Payload::Port(Protocol::Sctp, 80)));
    assert!(shop.allows("other/web", "shop/db", Payload::Port(Protocol::Udp, 1)));
    assert!(shop.allows("other/web", "shop/db", Payload::Port(Protocol::Udp, 65535)));
    let shop = admitting(&json!([{}]));
    assert!(shop.allows("other/web", "shop/db", tcp(65535)));
    assert!(!shop.allows("other/web", "shop/db", Payload::Port(Protocol::Udp, 1)));
}

#[test]
fn icmp_follows_rules_without_ports() {
    assert!(admitting(&json!([])).allows("other/web", "shop/db", Payload::Icmp));
    let ports = admitting(&json!([{"protocol": "TCP"}, {"protocol": "UDP"}, {"protocol": "SCTP"}]));
    assert!(!ports.allows("other/web", "shop/db", Payload::Icmp));
}

#[test]
fn sctp_ports_are_matched() {
    let shop = admitting(&json!([{"protocol": "SCTP", "port": 80}]));
    assert!(shop.allows("other/web", "shop/db", Payload::Port(Protocol::Sctp, 80)));
    assert!(!shop.allows("other/web", "shop/db", tcp(80)));
}

#[test]
fn an_unknown_protocol_makes_its_entry_match_nothing() {
    for protocol in ["tcp", "ICMP", "", "6"] {
        let shop = admitting(&json!([{"protocol": protocol, "port": 80}, {"protocol": protocol}, {"port": 443}]));
        assert!(!shop.allows("other/web", "shop/db", tcp(80)), "{protocol}");
        assert!(!shop.allows("other/web", "shop/db", Payload::Icmp), "{protocol}");
        assert!(shop.allows("other/web", "shop/db", tcp(443)), "{protocol}");
    }
}

#[test]
fn a_range_includes_both_ends() {
    let shop = admitting(&json!([{"port": 8000, "endPort": 8002}, {"port": 9000, "endPort": 9000}]));
    for (port, allowed) in [(7999, false), (8000, true), (8002, true), (8003, false), (9000, true), (9001, false)] {
        assert_eq!(shop.allows("other/web", "shop/db", tcp(port)), allowed, "{port}");
    }
    assert!(admitting(&json!([{"port": 1, "endPort": 65535}])).allows("other/web", "shop/db", tcp(65535)));
}

#[test]
fn an_invalid_port_makes_its_entry_match_nothing() {
    let invalid = [
        json!({"port": 0}),
        json!({"port": -80}),
        json!({"port": 65536}),
        json!({"port": 80, "endPort": 79}),
        json!({"port": 80, "endPort": 65536}),
        json!({"port": 0, "endPort": 80}),
        json!({"port": "pg", "endPort": 6000}),
        json!({"endPort": 80}),
    ];
    for entry in invalid {
        let shop = admitting(&json!([entry]));
        for port in [1, 79, 80, 81, 5432, 65535] {
            assert!(!shop.allows("other/web", "shop/db", tcp(port)), "{entry} {port}");
        }
    }
}

#[test]
fn a_named_port_is_the_destinations_own() {
    let shop = admitting(&json!([{"port": "pg"}]));
    assert!(shop.allows("other/web", "shop/db", tcp(5432)));
    assert!(!shop.allows("other/web", "shop/db", tcp(80)));
    assert!(shop.allows("other/web", "shop/web", tcp(80)));
    assert!(!shop.allows("other/web", "shop/web", tcp(5432)));
    assert!(!shop.allows("other/web", "shop/web", Payload::Port(Protocol::Udp, 53)), "absent protocol is TCP");
    let udp = admitting(&json!([{"port": "pg", "protocol": "UDP"}]));
    assert!(udp.allows("other/web", "shop/web", Payload::Port(Protocol::Udp, 53)));
    assert!(!udp.allows("other/web", "shop/db", Payload::Port(Protocol::Udp, 5432)));
}

#[test]
fn a_named_port_may_differ_between_pods_with_the_same_labels() {
    let shop = named()
        .pod_with("shop/db-1", "app=db", |pod| pod.ports = vec![container_port("pg", Protocol::Tcp, 5433)])
        .policy("shop", json!({"podSelector": {}, "ingress": [{"ports": [{"port": "pg"}]}]}))
        .policy("other", json!({"podSelector": {}, "egress": [{"ports": [{"port": "pg"}]}]}));
    assert!(shop.allows("other/web", "shop/db", tcp(5432)));
    assert!(!shop.allows("other/web", "shop/db", tcp(5433)));
    assert!(shop.allows("other/web", "shop/db-1", tcp(5433)));
    assert!(!shop.allows("other/web", "shop/db-1", tcp(5432)));
}

#[test]
fn a_name_of_several_ports_is_all_of_them_and_may_be_digits() {
    let mut shop = admitting(&json!([{"port": "80"}]));
    shop.0.pods[0].ports = vec![container_port("80", Protocol::Tcp, 8080), container_port("80", Protocol::Tcp, 8081)];
    assert!(shop.allows("other/web", "shop/db", tcp(8080)));
    assert!(shop.allows("other/web", "shop/db", tcp(8081)));
    assert!(!shop.allows("other/web", "shop/db", tcp(80)));
}

#[test]
fn a_named_port_that_does_not_resolve_matches_nothing() {
    let shop = admitting(&json!([{"port": "PG"}]));
    assert!(!shop.allows("other/web", "shop/db", tcp(5432)));
}

#[test]
fn a_named_port_of_an_egress_rule_never_leaves_the_cluster() {
    let everyone = json!([]);
    let block = json!([{"ipBlock": {"cidr": "0.0.0.0/0"}}]);
    for to in [everyone, block] {
        let shop =
            named().policy("other", json!({"podSelector": {}, "egress": [{"to": to, "ports": [{"port": "pg"}]}]}));
        assert!(shop.allows("other/web", "shop/db", tcp(5432)));
        assert!(shop.allows("other/web", "shop/web", tcp(80)));
        assert!(!shop.allows("other/web", "shop/web", tcp(5432)));
        assert!(!shop.allows("other/web", "203.0.113.9", tcp(5432)));
        assert!(!shop.allows("other/web", "203.0.113.9", tcp(80)));
    }
}

#[test]
fn a_named_port_and_a_block_match_only_destinations_inside() {
    let to = json!([{"ipBlock": {"cidr": "10.0.0.0/31"}}]);
    let shop = named().policy("other", json!({"podSelector": {}, "egress": [{"to": to, "ports": [{"port": "pg"}]}]}));
    assert!(shop.allows("other/web", "shop/db", tcp(5432)));
    assert!(!shop.allows("other/web", "shop/web", tcp(80)));
    assert!(!shop.allows_v6("other/web", "shop/db", tcp(5432)));
}

#[test]
fn a_named_port_never_matches_a_node_or_a_pod_on_its_network() {
    let shop = named()
        .node("node-2", &["192.168.0.2"])
        .pod_with("shop/proxy", "", |pod| {
            pod.node = Some("node-2".to_owned());
            pod.ipv4 = Some("192.168.0.2".parse().unwrap());
            pod.host_network = true;
            pod.ports = vec![container_port("pg", Protocol::Tcp, 5432)];
        })
        .policy("other", json!({"podSelector": {}, "egress": [{"ports": [{"port": "pg"}]}]}));
    assert!(!shop.allows("other/web", "192.168.0.2", tcp(5432)));
    assert!(!shop.allows("other/web", "shop/proxy", tcp(5432)));
}

#[test]
fn more_ports_than_one_match_holds_all_count() {
    let ports: Vec<Value> = (0..40).map(|index| json!({"port": 1000 + 10 * index})).collect();
    let shop = admitting(&json!(ports));
    assert!(shop.allows("other/web", "shop/db", tcp(1000)));
    assert!(shop.allows("other/web", "shop/db", tcp(1390)));
    assert!(!shop.allows("other/web", "shop/db", tcp(1391)));
    let ranges: Vec<Value> =
        (0..20).map(|index| json!({"port": 1000 + 10 * index, "endPort": 1001 + 10 * index})).collect();
    let shop = admitting(&json!(ranges));
    assert!(shop.allows("other/web", "shop/db", tcp(1191)));
    assert!(!shop.allows("other/web", "shop/db", tcp(1192)));
}

/// The verdict is the API's; the node's rules are stricter about tunnels, as
/// `differences` checks.
#[test]
fn all_of_udp_is_all_of_udp_also_at_ports_of_tunnels() {
    let vxlan = Payload::Port(Protocol::Udp, 4789);
    for ports in [json!([]), json!([{"protocol": "UDP"}]), json!([{"protocol": "UDP", "port": 4789}])] {
        let rule = json!([{"to": [{"podSelector": {}}], "ports": ports}, {"ports": [{"protocol": "UDP", "port": 1}]}]);
        let spec = json!({"podSelector": {}, "policyTypes": ["Egress"], "egress": rule});
        let shop = named().policy("shop", spec);
        assert!(shop.allows("shop/db", "shop/web", vxlan), "{ports}");
        assert!(!shop.allows("shop/db", "other/web", vxlan), "{ports}");
    }
}

/// If the destination gives a tunnel's port this name, the name says as much as the number. Other
/// admitted traffic does not change that.
#[test]
fn a_named_port_may_be_that_of_a_tunnel() {
    let overlay = json!({"protocol": "UDP", "port": "overlay"});
    for to in [json!([]), json!([{"podSelector": {}}]), json!([{"ipBlock": {"cidr": "10.0.0.0/8"}}])] {
        let egress = json!([{"to": to}, {"to": [{"podSelector": {}}], "ports": [overlay, {"port": 80}]}]);
        let mut shop = named();
        shop.0.pods[1].ports.push(container_port("overlay", Protocol::Udp, 4789));
        let shop = shop.policy("shop", json!({"podSelector": {}, "policyTypes": ["Egress"], "egress": egress}));
        assert!(shop.allows("shop/db", "shop/web", Payload::Port(Protocol::Udp, 4789)), "{to}");
    }
}

#[test]
fn a_tunnels_port_that_is_named_to_everyone_is_named_to_all_peers() {
    let vxlan = json!({"protocol": "UDP", "port": 4700, "endPort": 4800});
    let egress = json!([{"to": [{"podSelector": {}}]}, {"ports": [vxlan]}]);
    let shop = named().policy("shop", json!({"podSelector": {}, "policyTypes": ["Egress"], "egress": egress}));
    assert!(shop.allows("shop/db", "shop/web", Payload::Port(Protocol::Udp, 4789)));
    assert!(shop.allows("shop/db", "other/web", Payload::Port(Protocol::Udp, 4789)));
}
