//! Label selectors.

use super::*;

/// A shop whose pods admit what this peer names.
fn admitting(peer: &Value) -> Cluster {
    shop()
        .namespace("team-x", "team=x")
        .pod("team-x/bare", "")
        .pod("nowhere/web", "app=web")
        .policy("shop", json!({"podSelector": {}, "ingress": [{"from": [peer]}]}))
}

fn requirement(key: &str, operator: &str, values: &Value) -> Value {
    json!({"matchExpressions": [{"key": key, "operator": operator, "values": values}]})
}

#[test]
fn not_in_matches_an_absent_key_of_a_namespace() {
    let shop = admitting(&json!({"namespaceSelector": requirement("team", "NotIn", &json!(["x", "y"]))}));
    assert!(shop.allows("other/web", "shop/db", tcp(1)), "no label team at all");
    assert!(shop.allows("shop/web", "shop/db", tcp(1)), "another team");
    assert!(!shop.allows("team-x/bare", "shop/db", tcp(1)));
}

#[test]
fn not_in_matches_an_absent_key_of_a_pod() {
    let peer = json!({"namespaceSelector": {}, "podSelector": requirement("app", "NotIn", &json!(["web"]))});
    let shop = admitting(&peer);
    assert!(shop.allows("team-x/bare", "shop/db", tcp(1)));
    assert!(!shop.allows("other/web", "shop/db", tcp(1)));
}

#[test]
fn does_not_exist_matches_an_absent_key_only() {
    let peer = json!({"namespaceSelector": requirement("team", "DoesNotExist", &json!(null))});
    let shop = admitting(&peer);
    assert!(shop.allows("other/web", "shop/db", tcp(1)));
    assert!(!shop.allows("shop/web", "shop/db", tcp(1)));
}

#[test]
fn a_negative_selector_matches_no_address_outside_the_cluster() {
    for operator in ["NotIn", "DoesNotExist"] {
        let values = if operator == "NotIn" { json!(["x"]) } else { json!([]) };
        for selector in ["namespaceSelector", "podSelector"] {
            let shop = admitting(&json!({selector: requirement("absent", operator, &values)}));
            assert!(!shop.allows("203.0.113.9", "shop/db", tcp(1)));
            assert!(shop.allows("shop/web", "shop/db", tcp(1)));
        }
    }
}

#[test]
fn exists_and_in_need_the_key() {
    for requirement in [requirement("app", "Exists", &json!([])), requirement("app", "In", &json!(["web", "x"]))] {
        let shop = admitting(&json!({"namespaceSelector": {}, "podSelector": requirement}));
        assert!(shop.allows("other/web", "shop/db", tcp(1)));
        assert!(!shop.allows("team-x/bare", "shop/db", tcp(1)));
    }
}

#[test]
fn an_empty_value_is_not_an_absent_label() {
    let cluster = |selector: Value| {
        shop().pod("shop/empty", "app=").pod("shop/bare", "").policy(
            "shop",
            json!({"podSelector": {"matchLabels": {"app": "db"}}, "ingress": [{"from": [{"podSelector": selector}]}]}),
        )
    };
    let equal = cluster(json!({"matchLabels": {"app": ""}}));
    assert!(equal.allows("shop/empty", "shop/db", tcp(1)));
    assert!(!equal.allows("shop/bare", "shop/db", tcp(1)));
    let not_in = cluster(requirement("app", "NotIn", &json!([""])));
    assert!(!not_in.allows("shop/empty", "shop/db", tcp(1)));
    assert!(not_in.allows("shop/bare", "shop/db", tcp(1)));
}

#[test]
fn all_requirements_of_a_selector_must_hold() {
    let selector = json!({"matchLabels": {"app": "web"},
        "matchExpressions": [{"key": "app", "operator": "NotIn", "values": ["web"]}]});
    let shop = admitting(&json!({"podSelector": selector}));
    assert!(!shop.allows("shop/web", "shop/db", tcp(1)));
}

#[test]
fn the_label_with_a_namespaces_name_can_be_selected() {
    let shop = admitting(&json!({"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "other"}}}));
    assert!(shop.allows("other/web", "shop/db", tcp(1)));
    assert!(!shop.allows("team-x/bare", "shop/db", tcp(1)));
}

#[test]
fn no_namespace_selector_matches_pods_of_a_namespace_that_is_not_known() {
    for selector in [json!({}), requirement("team", "NotIn", &json!(["x"]))] {
        let shop = admitting(&json!({"namespaceSelector": selector}));
        assert!(!shop.allows("nowhere/web", "shop/db", tcp(1)));
    }
    let own = admitting(&json!({})).pod("nowhere/db", "").policy(
        "nowhere",
        json!({"podSelector": {}, "ingress": [{"from": [{"podSelector": {"matchLabels": {"app": "web"}}}]}]}),
    );
    assert!(own.allows("nowhere/web", "nowhere/db", tcp(1)));
    assert!(!own.allows("nowhere/db", "nowhere/web", tcp(1)));
}

#[test]
fn an_invalid_requirement_makes_a_peer_match_nothing() {
    let invalid = [
        requirement("app", "Equals", &json!(["web"])),
        requirement("app", "in", &json!(["web"])),
        requirement("app", "NotIn", &json!([])),
        requirement("app", "In", &json!(null)),
        requirement("app", "Exists", &json!(["web"])),
        requirement("absent", "DoesNotExist", &json!(["web"])),
    ];
    for selector in invalid {
        let shop = admitting(&json!({"podSelector": selector}));
        assert!(!shop.allows("shop/web", "shop/db", tcp(1)), "{selector}");
        let shop = admitting(&json!({"namespaceSelector": {}, "podSelector": selector}));
        assert!(!shop.allows("shop/web", "shop/db", tcp(1)), "{selector}");
    }
}

#[test]
fn an_invalid_requirement_of_the_subject_is_passed_over_and_the_policy_allows_nothing() {
    let selector = json!({"matchLabels": {"app": "db"},
        "matchExpressions": [{"key": "app", "operator": "Is", "values": ["x"]}]});
    let shop = shop().policy("shop", json!({"podSelector": selector, "ingress": [{}]}));
    assert!(!shop.allows("shop/web", "shop/db", tcp(1)), "selected, and its rules do not count");
    assert!(shop.allows("shop/db", "shop/web", tcp(1)), "what is right in the selector still counts");
}
