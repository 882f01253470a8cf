//! Each mistake beside what is like it and right.

#![allow(clippy::unwrap_used, reason = "a test that finds nothing has failed")]

use std::slice::from_ref;

use super::*;
use crate::object::{Exposure, Labels, Objects, Protocol, Routing, Service, ServicePort, TargetPort};
use crate::sample::{pod, policy};

/// The mistakes in the policies of these objects: `CODE PATH`.
fn found(pods: &[&str], policies: &[&str], services: Vec<Service>) -> Vec<String> {
    let mut objects = Objects {
        pods: pods.iter().map(|text| pod(text)).collect(),
        policies: policies.iter().map(|text| policy(text)).collect(),
        services,
        ..Objects::default()
    };
    objects.declare_namespaces();
    found_in(&objects, true)
}

/// The same for objects; `knows_namespaces` says whether they include all namespaces.
fn found_in(objects: &Objects, knows_namespaces: bool) -> Vec<String> {
    let cluster = Cluster::new(objects);
    let mistakes = mistakes(&cluster, &Groups::of_cluster(&cluster), knows_namespaces);
    mistakes.iter().map(|mistake| format!("{} {}", mistake.code.as_str(), mistake.path)).collect()
}

/// The mistakes of one policy, `ns/p`, of this spec.
fn of(pods: &[&str], spec: &str) -> Vec<String> {
    found(pods, &[&format!("ns/p {spec}")], Vec::new())
}

const NONE: [&str; 0] = [];

#[test]
fn rules_of_a_direction_that_policy_types_leave_out_have_no_effect() {
    let rules = r#""egress": [{"ports": [{"port": 443}]}]"#;
    assert_eq!(
        of(&[], &format!(r#"{{"policyTypes": ["Ingress"], {rules}}}"#)),
        ["policytypes-unused-rules spec.egress"]
    );
    assert_eq!(of(&[], &format!("{{{rules}}}")), NONE);
    assert_eq!(of(&[], r#"{"egress": []}"#), ["policytypes-egress-lost spec.egress"]);
    assert_eq!(of(&[], r#"{"policyTypes": ["Egress"], "egress": []}"#), NONE);
    assert_eq!(of(&[], r#"{"ingress": []}"#), NONE, "a policy without types isolates for ingress");
}

#[test]
fn a_selector_is_empty_only_where_its_namespace_has_pods() {
    let spec = r#"{"podSelector": {"matchLabels": {"app": "wbe"}}}"#;
    assert_eq!(of(&["ns/a app=web 10.0.0.1"], spec), ["subject-empty spec.podSelector"]);
    assert_eq!(of(&["other/a app=web 10.0.0.1"], spec), NONE);
    assert_eq!(of(&["ns/a app=wbe 10.0.0.1"], spec), NONE);
    assert_eq!(of(&["ns/a app=wbe hostNetwork", "ns/b 10.0.0.2"], spec), ["subject-empty spec.podSelector"]);
}

#[test]
fn a_name_of_a_port_has_to_be_one_of_a_pod_that_is_meant() {
    let ingress = r#"{"podSelector": {"matchLabels": {"app": "web"}}, "ingress": [{"ports": [{"port": "http"}]}]}"#;
    let path = "port-named-unresolved spec.ingress[0].ports[0].port";
    assert_eq!(of(&["ns/a app=web :web=80 10.0.0.1"], ingress), [path]);
    assert_eq!(of(&["ns/a app=web :http=80/UDP 10.0.0.1"], ingress), [path]);
    assert_eq!(of(&["ns/a app=web :http=80 10.0.0.1", "ns/b app=web 10.0.0.2"], ingress), NONE);
    let no_name = ingress.replace("http", "8080");
    assert_eq!(of(&["ns/a app=web :web=80 10.0.0.1"], &no_name), NONE, "that no port has such a name is a finding");
    let egress = r#"{"policyTypes": ["Egress"], "egress": [
        {"to": [{"podSelector": {"matchLabels": {"app": "web"}}}], "ports": [{"port": "http"}]},
        {"ports": [{"port": 53, "protocol": "UDP"}]}]}"#;
    let path = "port-named-unresolved spec.egress[0].ports[0].port";
    assert_eq!(of(&["ns/a app=web :web=80 10.0.0.1"], egress), [path]);
    assert_eq!(of(&["ns/a app=web :http=80 10.0.0.1"], egress), NONE);
    assert_eq!(of(&["ns/a app=x 10.0.0.1"], egress), NONE, "no pod is meant");
}

fn service(port: u16, target: u16, address: &str) -> Service {
    Service {
        namespace: "ns".to_owned(),
        name: "web".to_owned(),
        selector: Some(Labels::from([("app".to_owned(), "web".to_owned())])),
        addresses: vec![address.parse().unwrap()],
        ports: vec![ServicePort { name: None, protocol: Protocol::Tcp, port, target: TargetPort::Number(target) }],
        exposure: Exposure::Inside,
        routing: Routing::default(),
    }
}

#[test]
fn policies_see_neither_the_port_nor_the_address_of_a_service() {
    let pods = ["ns/a app=web :http=8080 10.0.0.1"];
    let of_port = |spec: &str| found(&pods, &[&format!("ns/p {spec}")], vec![service(80, 8080, "10.96.0.1")]);
    let ingress = |port: u16| {
        format!(
            r#"{{"podSelector": {{"matchLabels": {{"app": "web"}}}}, "ingress": [{{"ports": [{{"port": {port}}}]}}]}}"#
        )
    };
    assert_eq!(of_port(&ingress(80)), ["service-port spec.ingress[0].ports[0].port"]);
    assert_eq!(of_port(&ingress(8080)), NONE);
    assert_eq!(of_port(&ingress(81)), NONE);
    let to = |cidr: &str| {
        format!(r#"{{"policyTypes": ["Egress"], "egress": [{{"to": [{{"ipBlock": {{"cidr": "{cidr}"}}}}]}}]}}"#)
    };
    assert_eq!(of_port(&to("10.96.0.1/32")), ["ipblock-service-address spec.egress[0].to[0].ipBlock.cidr"]);
    assert_eq!(of_port(&to("10.96.0.0/12")), NONE);
}

#[test]
fn dns_takes_udp_and_a_rule() {
    let pods = ["ns/a app=web 10.0.0.1", "ns/b app=db 10.0.0.2"];
    let to_pods = r#"{"to": [{"podSelector": {"matchLabels": {"app": "db"}}}], "ports": [{"port": 5432}]}"#;
    let egress = |more: &str| {
        format!(
            r#"{{"podSelector": {{"matchLabels": {{"app": "web"}}}}, "policyTypes": ["Egress"], "egress": [{to_pods}{more}]}}"#
        )
    };
    assert_eq!(of(&pods, &egress("")), ["dns-blocked spec.egress[0]"]);
    assert_eq!(of(&[], &egress("")), ["dns-blocked spec.egress[0]"], "policies alone");
    assert_eq!(of(&pods, &egress(r#", {"ports": [{"port": 53}]}"#)), ["protocol-missing-dns spec.egress[1].ports[0]"]);
    assert_eq!(of(&pods, &egress(r#", {"ports": [{"port": 53}, {"port": 53, "protocol": "UDP"}]}"#)), NONE);
    let dns = r#"ns/dns {"podSelector": {}, "policyTypes": ["Egress"], "egress": [{"ports": [{"port": 53, "protocol": "UDP"}]}]}"#;
    assert_eq!(found(&pods, &[&format!("ns/p {}", egress("")), dns], Vec::new()), NONE);
    let outside = r#"{"policyTypes": ["Egress"], "egress": [{"to": [{"ipBlock": {"cidr": "203.0.113.0/24"}}]}]}"#;
    assert_eq!(of(&pods, outside), NONE, "a client of addresses needs no DNS");
    let not_in_force = dns.replace(r#"["Egress"]"#, r#"["Ingress"]"#);
    let found = found(&[], &[&format!("ns/p {}", egress("")), &not_in_force], Vec::new());
    assert_eq!(found, ["policytypes-unused-rules spec.egress", "dns-blocked spec.egress[0]"]);
}

#[test]
fn a_rule_is_half_open_where_the_other_end_admits_nothing_of_it() {
    let pods = ["ns/a app=web 10.0.0.1", "ns/b app=db 10.0.0.2"];
    let web = r#"ns/web {"podSelector": {"matchLabels": {"app": "web"}}, "policyTypes": ["Egress"], "egress": [
        {"to": [{"podSelector": {"matchLabels": {"app": "db"}}}], "ports": [{"port": 5432}]},
        {"ports": [{"port": 53, "protocol": "UDP"}]}]}"#;
    let db = |port: u16| {
        format!(
            r#"ns/db {{"podSelector": {{"matchLabels": {{"app": "db"}}}}, "ingress": [
                {{"from": [{{"podSelector": {{"matchLabels": {{"app": "web"}}}}}}], "ports": [{{"port": {port}}}]}}]}}"#
        )
    };
    assert_eq!(found(&pods, &[web, &db(5432)], Vec::new()), NONE);
    assert_eq!(found(&pods, &[web], Vec::new()), NONE, "no policy isolates the other end");
    let both = ["half-open spec.ingress[0]", "half-open spec.egress[0]"];
    assert_eq!(found(&pods, &[web, &db(5433)], Vec::new()), both);
}

#[test]
fn what_another_rule_or_policy_covers_is_redundant() {
    let rules = |rules: &str| of(&[], &format!(r#"{{"ingress": [{rules}]}}"#));
    let app = |name: &str| format!(r#"{{"podSelector": {{"matchLabels": {{"app": "{name}"}}}}}}"#);
    let rule = |peers: &[String], ports: &str| format!(r#"{{"from": [{}], "ports": [{ports}]}}"#, peers.join(","));
    let (web, all) = (app("web"), r#"{"podSelector": {}}"#.to_owned());
    let http = r#"{"port": 80}"#;
    let wide = r#"{"port": 1, "endPort": 100}"#;
    let two = |one: &str, other: &str| rules(&format!("{one}, {other}"));
    assert_eq!(two(&rule(from_ref(&web), http), &rule(from_ref(&web), http)), ["rule-redundant spec.ingress[1]"]);
    assert_eq!(two(&rule(from_ref(&web), http), &rule(from_ref(&all), wide)), ["rule-redundant spec.ingress[0]"]);
    assert_eq!(two(&rule(&[all], http), &rule(from_ref(&web), wide)), NONE);
    assert_eq!(two(&rule(from_ref(&web), http), &rule(&[app("db")], http)), NONE);
    assert_eq!(two(&rule(from_ref(&web), http), "{}"), ["allow-all-rule spec.ingress[1]"]);
    assert_eq!(rules("{}"), NONE, "it alone is what its author means");
    let block = |cidr: &str| format!(r#"{{"ipBlock": {{"cidr": "{cidr}"}}}}"#);
    let blocks = two(&rule(&[block("10.0.0.0/8")], http), &rule(&[block("10.1.0.0/16")], http));
    assert_eq!(blocks, ["rule-redundant spec.ingress[1]"]);
    // Of policies.
    let of_web = |name: &str, port: &str| {
        format!(
            r#"ns/{name} {{"podSelector": {{"matchLabels": {{"app": "x"}}}}, "ingress": [{}]}}"#,
            rule(from_ref(&web), port)
        )
    };
    let every = |name: &str, spec: &str| format!(r#"ns/{name} {{"podSelector": {{}}{spec}}}"#);
    let policies = |one: String, other: String| found(&[], &[&one, &other], Vec::new());
    assert_eq!(policies(of_web("a", http), of_web("b", http)), ["policy-redundant spec"]);
    assert_eq!(policies(of_web("a", wide), of_web("b", http)), ["policy-redundant spec"]);
    assert_eq!(policies(of_web("a", http), every("deny", "")), NONE, "one that denies is a base for others");
    assert_eq!(policies(every("deny", ""), every("deny-too", "")), ["policy-redundant spec"]);
    assert_eq!(
        policies(every("deny", ""), every("both", r#", "policyTypes": ["Ingress", "Egress"]"#)),
        ["policy-redundant spec"]
    );
}

#[test]
fn two_items_are_split_where_one_of_both_is_meant() {
    let mut objects = Objects {
        pods: ["ns/a app=db 10.0.0.1", "ops/b app=web 10.0.0.2"].iter().map(|text| pod(text)).collect(),
        ..Objects::default()
    };
    let spec = |pods: &str| {
        format!(
            r#"ns/p {{"podSelector": {{"matchLabels": {{"app": "db"}}}}, "ingress": [{{"from": [
                {{"namespaceSelector": {{"matchLabels": {{"kubernetes.io/metadata.name": "ops"}}}}}},
                {{"podSelector": {{"matchLabels": {{"app": "{pods}"}}}}}}]}}]}}"#
        )
    };
    objects.declare_namespaces();
    for (app, expected) in [("web", vec!["peer-split-or spec.ingress[0].from[1]"]), ("db", vec![]), ("none", vec![])] {
        objects.policies = vec![policy(&spec(app))];
        assert_eq!(found_in(&objects, true), expected, "{app}");
    }
}

#[test]
fn a_namespace_selector_selects_none_where_the_namespace_lacks_the_label() {
    let of_name = |selector: &str, knows_namespaces| {
        let mut objects = Objects { pods: vec![pod("ns/a app=db 10.0.0.1")], ..Objects::default() };
        objects.namespaces = ["ns", "ops"].map(|name| crate::object::Namespace::new(name, Labels::new())).to_vec();
        let peer = format!(r#"{{"namespaceSelector": {{"matchLabels": {{{selector}}}}}}}"#);
        objects.policies = vec![policy(&format!(r#"ns/p {{"podSelector": {{}}, "ingress": [{{"from": [{peer}]}}]}}"#))];
        found_in(&objects, knows_namespaces)
    };
    let path = ["peer-namespace-empty spec.ingress[0].from[0].namespaceSelector"];
    assert_eq!(of_name(r#""name": "ops""#, false), path);
    assert_eq!(of_name(r#""team": "far""#, true), path);
    assert_eq!(of_name(r#""team": "far""#, false), NONE, "files may leave namespaces out");
    assert_eq!(of_name(r#""kubernetes.io/metadata.name": "ops""#, true), NONE);
}
