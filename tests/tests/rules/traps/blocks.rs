//! `ipBlock`.

use super::*;

/// A shop whose pods admit these peers.
fn admitting(peers: &Value) -> Cluster {
    shop().policy("shop", json!({"podSelector": {}, "ingress": [{"from": peers}]}))
}

fn block(cidr: &str) -> Cluster {
    admitting(&json!([{"ipBlock": {"cidr": cidr}}]))
}

#[test]
fn except_is_not_by_this_peer_and_never_a_drop() {
    let shop = admitting(&json!([
        {"ipBlock": {"cidr": "11.0.0.0/8", "except": ["11.1.0.0/16"]}}, {"ipBlock": {"cidr": "11.1.2.0/24"}}]));
    assert!(shop.allows("11.1.2.9", "shop/db", tcp(1)));
    assert!(!shop.allows("11.1.3.9", "shop/db", tcp(1)));
    let shop = admitting(&json!([
        {"ipBlock": {"cidr": "11.0.0.0/8", "except": ["11.1.0.0/16"]}}, {"ipBlock": {"cidr": "11.0.0.0/9"}}]));
    assert!(shop.allows("11.1.3.9", "shop/db", tcp(1)), "a broader block of another peer");
}

#[test]
fn leading_zeros_are_decimal_and_host_bits_are_masked() {
    let shop = block("011.0.0.0/8");
    assert!(shop.allows("11.9.9.9", "shop/db", tcp(1)));
    assert!(!shop.allows("9.9.9.9", "shop/db", tcp(1)), "octal");
    let shop = block("192.168.1.5/024");
    assert!(shop.allows("192.168.1.200", "shop/db", tcp(1)));
    assert!(!shop.allows("192.168.2.1", "shop/db", tcp(1)));
}

#[test]
fn a_mapped_block_means_ipv4() {
    let shop = block("::ffff:1.2.3.0/120");
    assert!(shop.allows("1.2.3.4", "shop/db", tcp(1)));
    assert!(!shop.allows("1.2.4.4", "shop/db", tcp(1)));
    assert!(block("::ffff:0:0/96").allows("1.2.4.4", "shop/db", tcp(1)));
    assert!(!block("::ffff:0:0/95").allows("1.2.4.4", "shop/db", tcp(1)));
}

#[test]
fn text_that_is_no_block_matches_nothing_and_the_rest_still_holds() {
    let wrong = [
        "1.2.3.4",
        "1.2.3.4/33",
        "1.2.3.4/+8",
        "1.2.3.4/",
        "1.2.3/24",
        "1.2.3.4 /32",
        "1.2.3.4/32\n",
        "1.2.3.256/24",
        "1.2.3.4%eth0/32",
        "0x1.2.3.4/8",
        "",
        "/",
        "1.2.3.4/-1",
        "٣.2.3.4/8",
    ];
    for text in wrong {
        let shop = admitting(&json!([{"ipBlock": {"cidr": text}}, {"ipBlock": {"cidr": "5.0.0.0/8"}}]));
        assert!(!shop.allows("1.2.3.4", "shop/db", tcp(1)), "{text}");
        assert!(shop.allows("5.2.3.4", "shop/db", tcp(1)), "{text}");
    }
    for text in ["fd01::/129", "fd01:::/8", "1::2::3/8", "fd01::%eth0/8", "[fd01::]/8", "fd01:0:0:0:0:0:0:0:0/8"] {
        assert!(!block(text).allows_v6("fd01::1", "shop/db", tcp(1)), "{text}");
    }
    for text in ["fd01::/8", "FD01::1/16", "00fd01::/16", "fd01:0:0:0:0:0:0:0/16", "fd01::1.2.3.4/16"] {
        assert!(block(text).allows_v6("fd01::1", "shop/db", tcp(1)), "{text}");
    }
}

#[test]
fn an_exception_that_cannot_be_read_closes_its_peer() {
    let shop = admitting(&json!([
        {"ipBlock": {"cidr": "11.0.0.0/8", "except": ["11.1.0.0"]}}, {"ipBlock": {"cidr": "11.2.0.0/16"}}]));
    assert!(!shop.allows("11.9.9.9", "shop/db", tcp(1)));
    assert!(shop.allows("11.2.9.9", "shop/db", tcp(1)));
}

#[test]
fn an_exception_outside_or_of_the_other_family_or_twice_changes_nothing() {
    let shop = admitting(&json!([{"ipBlock": {"cidr": "11.0.0.0/8",
        "except": ["12.0.0.0/8", "fd00::/8", "::/0", "11.1.0.0/16", "11.1.0.0/16"]}}]));
    assert!(shop.allows("11.9.9.9", "shop/db", tcp(1)));
    assert!(!shop.allows("11.1.9.9", "shop/db", tcp(1)));
}

#[test]
fn an_exception_as_large_as_its_block_leaves_nothing() {
    for except in ["11.0.0.0/8", "0.0.0.0/0", "011.0.0.1/8", "::ffff:11.0.0.0/104"] {
        let shop = admitting(&json!([{"ipBlock": {"cidr": "11.0.0.0/8", "except": [except]}}]));
        assert!(!shop.allows("11.0.0.1", "shop/db", tcp(1)), "{except}");
    }
}

#[test]
fn all_of_ipv4_is_no_ipv6_and_the_reverse() {
    let v4 = block("0.0.0.0/0");
    assert!(v4.allows("203.0.113.9", "shop/db", tcp(1)));
    assert!(v4.allows("0.0.0.1", "shop/db", tcp(1)));
    assert!(v4.allows("255.255.255.255", "shop/db", tcp(1)));
    assert!(!v4.allows_v6("2001:db8::9", "shop/db", tcp(1)));
    let v6 = block("::/0");
    assert!(v6.allows_v6("2001:db8::9", "shop/db", tcp(1)));
    assert!(v6.allows_v6("64:ff9b::1.2.3.4", "shop/db", tcp(1)), "NAT64");
    assert!(v6.allows_v6("fd00:1::9", "shop/db", tcp(1)));
    assert!(!v6.allows("203.0.113.9", "shop/db", tcp(1)));
}

#[test]
fn a_block_matches_addresses_of_pods_and_an_exception_leaves_them_out() {
    let shop = admitting(&json!([{"ipBlock": {"cidr": "10.0.0.0/24", "except": ["10.0.0.3/32"]}}]));
    assert!(shop.allows("shop/web", "shop/db", tcp(1)));
    assert!(!shop.allows("other/web", "shop/db", tcp(1)));
    assert!(!shop.allows_v6("shop/web", "shop/db", tcp(1)), "the pod's other address is not in the block");
}

#[test]
fn a_block_together_with_a_selector_matches_nothing() {
    for selector in ["podSelector", "namespaceSelector"] {
        let shop = admitting(&json!([{"ipBlock": {"cidr": "0.0.0.0/0"}, selector: {}}]));
        assert!(!shop.allows("shop/web", "shop/db", tcp(1)));
        assert!(!shop.allows("203.0.113.9", "shop/db", tcp(1)));
    }
}
