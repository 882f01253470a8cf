//! What is absent, empty or unknown, and how policies add up.

use super::*;

fn ingress(section: &Value) -> Cluster {
    shop().policy("shop", json!({"podSelector": {}, "policyTypes": ["Ingress"], "ingress": section}))
}

#[test]
fn without_a_policy_everything_is_allowed() {
    let shop = shop();
    assert!(shop.allows("shop/web", "shop/db", tcp(1)));
    assert!(shop.allows("203.0.113.9", "shop/db", Payload::Icmp));
}

#[test]
fn no_ingress_rules_deny_all_and_one_empty_rule_allows_all() {
    for denying in [json!(null), json!([])] {
        let shop = ingress(&denying);
        assert!(!shop.allows("shop/web", "shop/db", tcp(1)));
        assert!(!shop.allows("203.0.113.9", "shop/db", Payload::Icmp));
    }
    let open = ingress(&json!([{}]));
    assert!(open.allows("other/web", "shop/db", tcp(1)));
    assert!(open.allows("203.0.113.9", "shop/db", Payload::Icmp));
}

#[test]
fn an_empty_list_of_peers_or_ports_is_as_an_absent_one() {
    let shop = ingress(&json!([{"from": [], "ports": []}]));
    assert!(shop.allows("203.0.113.9", "shop/db", tcp(65535)));
    assert!(shop.allows("other/web", "shop/db", Payload::Icmp));
}

#[test]
fn an_empty_pod_selector_as_a_peer_is_the_policys_own_namespace() {
    let shop = ingress(&json!([{"from": [{"podSelector": {}}]}]));
    assert!(shop.allows("shop/web", "shop/db", tcp(1)));
    assert!(!shop.allows("other/web", "shop/db", tcp(1)));
    assert!(!shop.allows("203.0.113.9", "shop/db", tcp(1)));
}

#[test]
fn an_empty_namespace_selector_is_every_namespace_but_no_address_outside() {
    let shop = ingress(&json!([{"from": [{"namespaceSelector": {}}]}]));
    assert!(shop.allows("other/web", "shop/db", tcp(1)));
    assert!(!shop.allows("203.0.113.9", "shop/db", tcp(1)));
}

#[test]
fn both_selectors_in_one_peer_and_while_separate_peers_or() {
    let team = json!({"matchLabels": {"team": "shop"}});
    let web = json!({"matchLabels": {"app": "web"}});
    let both = ingress(&json!([{"from": [{"namespaceSelector": team, "podSelector": web}]}]));
    assert!(both.allows("shop/web", "shop/db", tcp(1)));
    assert!(!both.allows("other/web", "shop/db", tcp(1)));
    assert!(!both.allows("shop/db", "shop/web", tcp(1)));
    let either = ingress(&json!([{"from": [{"namespaceSelector": team}, {"podSelector": web}]}]));
    assert!(either.allows("shop/db", "shop/web", tcp(1)));
    assert!(!either.allows("other/web", "shop/db", tcp(1)));
}

#[test]
fn absent_or_empty_policy_types_mean_ingress_and_egress_only_with_egress_rules() {
    for types in [json!(null), json!([])] {
        let spec = json!({"podSelector": {}, "policyTypes": types});
        let ingress_only = shop().policy("shop", spec);
        assert!(!ingress_only.allows("other/web", "shop/db", tcp(1)));
        assert!(ingress_only.allows("shop/db", "other/web", tcp(1)));
        let spec = json!({"podSelector": {}, "policyTypes": types, "egress": []});
        assert!(shop().policy("shop", spec).allows("shop/db", "other/web", tcp(1)));
        let spec = json!({"podSelector": {}, "policyTypes": types, "egress": [{"ports": [{"port": 53}]}]});
        let both = shop().policy("shop", spec);
        assert!(!both.allows("shop/db", "other/web", tcp(1)));
        assert!(both.allows("shop/db", "other/web", tcp(53)));
        assert!(!both.allows("other/web", "shop/db", tcp(53)));
    }
}

#[test]
fn an_egress_section_without_its_type_is_ignored() {
    let spec = json!({"podSelector": {}, "policyTypes": ["Ingress"], "egress": [{"ports": [{"port": 53}]}]});
    let shop = shop().policy("shop", spec);
    assert!(shop.allows("shop/db", "other/web", tcp(1)));
}

#[test]
fn an_ingress_section_without_its_type_is_ignored() {
    let spec = json!({"podSelector": {}, "policyTypes": ["Egress"], "ingress": [{"ports": [{"port": 53}]}]});
    let shop = shop().policy("shop", spec);
    assert!(shop.allows("other/web", "shop/db", tcp(1)));
    assert!(!shop.allows("shop/db", "other/web", tcp(1)));
}

#[test]
fn an_unknown_policy_type_isolates_both_directions_and_the_rules_still_count() {
    let spec = json!({"podSelector": {}, "policyTypes": ["ingress"],
        "ingress": [{"ports": [{"port": 80}]}], "egress": [{"ports": [{"port": 53}]}]});
    let shop = shop().policy("shop", spec);
    assert!(shop.allows("other/web", "shop/db", tcp(80)));
    assert!(!shop.allows("other/web", "shop/db", tcp(81)));
    assert!(shop.allows("shop/db", "other/web", tcp(53)));
    assert!(!shop.allows("shop/db", "other/web", tcp(54)));
}

#[test]
fn policies_add_up_and_each_direction_is_isolated_on_its_own() {
    let shop = shop()
        .policy("shop", json!({"podSelector": {}}))
        .policy("shop", json!({"podSelector": {}, "ingress": [{"ports": [{"port": 80}]}]}))
        .policy("other", json!({"podSelector": {}, "policyTypes": ["Egress"], "egress": [{"ports": [{"port": 443}]}]}));
    assert!(shop.allows("shop/web", "shop/db", tcp(80)));
    assert!(!shop.allows("shop/web", "shop/db", tcp(443)));
    // A flow needs its source's egress and its destination's ingress.
    assert!(!shop.allows("other/web", "shop/db", tcp(80)));
    assert!(!shop.allows("other/web", "shop/db", tcp(443)));
    assert!(shop.allows("shop/db", "other/web", tcp(5)));
}

#[test]
fn a_missing_pod_selector_selects_all_pods_of_the_namespace() {
    let shop = shop().policy("shop", json!({"ingress": []}));
    assert!(!shop.allows("other/web", "shop/db", tcp(1)));
    assert!(!shop.allows("other/web", "shop/web", tcp(1)));
    assert!(shop.allows("shop/web", "other/web", tcp(1)));
}

#[test]
fn a_null_spec_denies_all_ingress_of_the_namespace() {
    let shop = shop().policy("shop", json!(null));
    assert!(!shop.allows("other/web", "shop/db", tcp(1)));
    assert!(shop.allows("shop/db", "other/web", tcp(1)));
}

#[test]
fn a_peer_with_no_known_field_matches_nothing() {
    let shop = ingress(&json!([{"from": [{}]}]));
    assert!(!shop.allows("shop/web", "shop/db", tcp(1)));
    assert!(!shop.allows("203.0.113.9", "shop/db", tcp(1)));
}

#[test]
fn a_misspelt_field_makes_its_peer_match_nothing_and_the_others_still_hold() {
    let spec = json!({"podSelector": {}, "ingress": [{"from": [
        {"podSelector": {"matchLabels": {"app": "db"}}},
        {"podSelector": {}, "namespaceSelector": {}}]}]});
    let shop = shop().misspelt_policy("shop", spec, &["spec.ingress[0].from[1].namespaceSelector.matchLabel"]);
    assert!(shop.allows("shop/db", "shop/web", tcp(1)));
    assert!(!shop.allows("other/web", "shop/web", tcp(1)));
}

#[test]
fn a_misspelt_field_of_a_port_leaves_the_list_non_empty() {
    let spec = json!({"podSelector": {}, "ingress": [{"ports": [{"protocol": "TCP"}]}]});
    let shop = shop().misspelt_policy("shop", spec, &["spec.ingress[0].ports[0].prot"]);
    assert!(!shop.allows("shop/db", "shop/web", tcp(1)));
    assert!(!shop.allows("shop/db", "shop/web", Payload::Icmp));
}

#[test]
fn a_misspelt_field_of_a_rule_makes_that_rule_match_nothing() {
    // Keys may hold dots and brackets.
    for field in ["form", "from.podSelector", "from[0]", "from[0].podSelector", "ports[0]"] {
        let spec = json!({"podSelector": {}, "ingress": [{}, {"ports": [{"port": 80}]}]});
        let shop = shop().misspelt_policy("shop", spec, &[&format!("spec.ingress[0].{field}")]);
        assert!(!shop.allows("shop/db", "shop/web", tcp(1)), "{field}");
        assert!(shop.allows("shop/db", "shop/web", tcp(80)), "{field}");
    }
}

#[test]
fn a_misspelt_field_of_the_subject_isolates_what_remains_and_allows_nothing() {
    let spec = json!({"podSelector": {"matchLabels": {"app": "db"}}, "ingress": [{}]});
    let shop = shop().misspelt_policy("shop", spec, &["spec.podSelector.matchExpression"]);
    assert!(!shop.allows("shop/web", "shop/db", tcp(1)));
    assert!(shop.allows("shop/db", "shop/web", tcp(1)));
}

#[test]
fn a_misspelt_field_elsewhere_has_no_effect() {
    let spec = json!({"podSelector": {}, "ingress": [{}]});
    let shop = shop().misspelt_policy("shop", spec, &["spec.podSelectors", "spec.ingressRules[0].from[0]", "status"]);
    assert!(shop.allows("shop/web", "shop/db", tcp(1)));
}

#[test]
fn many_peers_in_many_policies_with_the_same_pods_all_count() {
    let blocks: Vec<Value> = (0..500)
        .map(|index| json!({"ipBlock": {"cidr": format!("198.{}.{}.0/25", 18 + index / 256, index % 256)}}))
        .collect();
    let mut shop = shop();
    for _ in 0..3 {
        shop = shop.policy("shop", json!({"podSelector": {}, "ingress": [{"from": blocks}]}));
    }
    assert!(shop.allows("198.19.243.127", "shop/db", tcp(1)));
    assert!(!shop.allows("198.19.243.128", "shop/db", tcp(1)));
}
