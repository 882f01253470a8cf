//! `npc migrate`.

use crate::{Files, SHOP};

/// Two teams, and a policy of each sort that Azure NPM reads otherwise.
pub(crate) const TEAMS: &str = "
apiVersion: v1
kind: Namespace
metadata: {name: shop, labels: {team: shop}}
---
apiVersion: v1
kind: Namespace
metadata: {name: ops, labels: {team: sre}}
---
apiVersion: v1
kind: Pod
metadata: {name: db, namespace: shop, labels: {app: db}}
spec: {nodeName: n1, containers: [{name: c}]}
status: {phase: Running, podIP: 10.0.0.1, podIPs: [{ip: 10.0.0.1}, {ip: 'fd00::1'}]}
---
apiVersion: v1
kind: Pod
metadata: {name: prometheus, namespace: ops}
spec: {nodeName: n2, containers: [{name: c}]}
status: {phase: Running, podIP: 10.0.0.2}
---
apiVersion: v1
kind: Service
metadata: {name: db, namespace: shop}
spec:
  type: LoadBalancer
  selector: {app: db}
  ports: [{port: 5432}]
---
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: db, namespace: shop}
spec:
  podSelector: {}
  policyTypes: [Ingress]
  ingress:
  - from:
    - namespaceSelector:
        matchExpressions: [{key: team, operator: NotIn, values: [shop, sre]}]
    ports: [{port: 5432}]
";

#[test]
fn differences_are_listed_by_reason_and_place() {
    let answer = Files::of(TEAMS).npc("migrate", &["--azure-chain", "first"]);
    assert_eq!(answer.code, 1);
    let lines: Vec<&str> = answer.out.lines().map(str::trim).collect();
    for expected in [
        "networkpolicy shop/db  spec.ingress[0].from[0]  (ingress)  in.yaml:38:7",
        "- ops/prometheus  -> shop/db  5432",
        "- outside  -> shop/db  5432",
        "- outside  -> shop/db  *",
        "npc will deny what Azure NPM allows at 3 places, and allow what it denies at 0",
    ] {
        assert!(lines.contains(&expected), "no line {expected:?} in\n{}", answer.out);
    }
    for code in ["namespace-not-in: ", "negative-selector-outside: ", "ipv6: ", "terminal-accept: "] {
        assert_eq!(lines.iter().filter(|line| line.starts_with(code)).count(), 1, "{code}\n{}", answer.out);
    }
    assert!(!answer.out.contains("node-port"), "first, nothing comes past it\n{}", answer.out);
}

#[test]
fn behind_kube_proxy_traffic_by_node_ports_is_listed_with_its_service() {
    let answer = Files::of(TEAMS).npc("migrate", &["--exit-zero"]);
    assert_eq!(answer.code, 0);
    assert!(
        answer.out.contains("  service shop/db  networkpolicy shop/db  (ingress)  in.yaml:22:1\n"),
        "{}",
        answer.out
    );
}

#[test]
fn where_both_say_the_same_nothing_is_listed() {
    let answer = Files::of(SHOP).npc("migrate", &[]);
    assert!(answer.out.starts_with("no flow's verdict differs from Azure NPM's\n"), "{}{}", answer.out, answer.err);
    assert_eq!(answer.code, 0);
}

#[test]
fn json_says_the_same() {
    let json = Files::of(TEAMS).npc("migrate", &["--azure-chain", "first", "-o", "json"]).json();
    assert_eq!((&json["kind"], &json["placement"]), (&"MigrationReport".into(), &"first".into()));
    let first = &json["differences"][0];
    assert_eq!(first["code"], "namespace-not-in");
    assert_eq!(first["flows"][0]["from"]["workloads"][0]["id"], "ops/Pod/prometheus");
    assert_eq!(first["flows"][0]["traffic"], serde_json::json!([{"protocol": "TCP", "ports": [[5432, 5432]]}]));
    assert_eq!(first["location"], serde_json::json!({"file": "in.yaml", "line": 38, "column": 7}));
}

#[test]
fn without_files_the_cluster_would_be_asked() {
    let answer = Files::of(TEAMS).run(&["migrate"]);
    assert_eq!(answer.code, 5, "{}", answer.err);
}
