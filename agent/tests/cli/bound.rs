//! Policies over the bound on set members.

use crate::Files;

/// Two pods on nodes of their own, one elsewhere, and two policies; one applies on n2 only.
const PODS: &str = "
apiVersion: v1
kind: Pod
metadata: {name: a, namespace: team, labels: {app: a}}
spec: {nodeName: n1, containers: [{name: c}]}
status: {phase: Running, hostIP: 192.168.0.1, podIP: 10.0.0.1, podIPs: [{ip: 10.0.0.1}]}
---
apiVersion: v1
kind: Pod
metadata: {name: b, namespace: team, labels: {app: b}}
spec: {nodeName: n2, containers: [{name: c}]}
status: {phase: Running, hostIP: 192.168.0.2, podIP: 10.0.0.2, podIPs: [{ip: 10.0.0.2}]}
---
apiVersion: v1
kind: Pod
metadata: {name: client, namespace: team, labels: {app: client}}
spec: {nodeName: n3, containers: [{name: c}]}
status: {phase: Running, hostIP: 192.168.0.3, podIP: 10.0.0.3, podIPs: [{ip: 10.0.0.3}]}
---
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: first, namespace: team}
spec:
  podSelector: {matchExpressions: [{key: app, operator: In, values: [a, b]}]}
  ingress: [{from: [{podSelector: {}}], ports: [{port: 80}]}]
---
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: second, namespace: team}
spec:
  podSelector: {matchLabels: {app: b}}
  ingress: [{from: [{podSelector: {matchExpressions: [{key: none, operator: DoesNotExist}]}}], ports: [{port: 81}]}]
";

/// A namespace on n2 needs two sets of three members.
const OVER: &[&str] = &["--max-set-members", "5"];

#[test]
fn explain_and_matrix_judge_as_the_agent_of_each_node_does() {
    let files = Files::of(PODS);
    for (to, port, code) in [("a", "80", 0), ("b", "80", 0), ("b", "81", 1)] {
        let asked = |more: &[&str]| {
            let to = format!("team/{to}:{port}");
            files.npc("explain", &[&["team/client", to.as_str()], more].concat())
        };
        assert_eq!(asked(&[]).code, 0, "{}", asked(&[]).out);
        assert_eq!(asked(OVER).code, code, "{}", asked(OVER).out);
        let answer = asked(OVER);
        if code == 1 {
            assert!(answer.out.contains("more than 5 members of sets or 30000 rules on node n2"), "{}", answer.out);
        }
        let findings = files.npc("matrix", &[&["-o", "json"], OVER].concat()).json()["findings"].clone();
        let findings = findings.as_array().unwrap();
        assert_eq!(findings.len(), 1, "{findings:#?}");
        assert!(findings[0].to_string().contains("policy-too-large") && findings[0].to_string().contains("second"));
    }
    let cell = |more: &[&str]| files.npc("matrix", &[&["--to", "team/b"], more].concat()).out;
    assert!(cell(&[]).contains("80,81") || cell(&[]).contains("80-81"), "{}", cell(&[]));
    assert!(!cell(OVER).contains("81"), "{}", cell(OVER));
    assert_eq!(files.npc("lint", OVER).code, 1);
    assert_eq!(files.npc("lint", &[]).code, 0);
}

#[test]
fn compile_makes_what_the_agent_of_that_node_writes() {
    let files = Files::of(PODS);
    let of =
        |node: &str, more: &[&str]| files.npc("compile", &[&["--node", node, "-o", "iptables"], more].concat()).out;
    assert!(of("n2", &[]).contains("--dport 81 ") && !of("n2", OVER).contains("--dport 81 "));
    assert!(of("n2", OVER).contains("--dport 80 "));
    assert_eq!(of("n1", OVER), of("n1", &[]));
}

#[test]
fn other_commands_understand_a_policy_over_the_bound() {
    let files = Files::of(PODS);
    let migrated = files.npc("migrate", OVER);
    assert!(migrated.out.contains("second"), "{}{}", migrated.out, migrated.err);
    let about = files.npc("explain", &[&["team/b"], OVER].concat());
    assert_eq!(about.code, 0, "{}", about.err);
    assert!(about.out.contains("second"), "{}", about.out);
}

#[test]
fn why_knows_the_rules_of_the_bound_that_it_is_given() {
    let files = Files::of(PODS);
    let compiled = files.npc("compile", &["--node", "n2", "-o", "iptables"]).out;
    let rule = compiled.lines().find(|line| line.contains("--dport 81 ")).unwrap();
    let why = |more: &[&str]| files.npc("why", &[&[rule, "--node", "n2"], more].concat());
    let alone = why(&[]);
    assert!(alone.code == 0 && alone.out.contains("second"), "{}{}", alone.out, alone.err);
    let over = why(OVER);
    assert_eq!(over.code, 3, "{}{}", over.out, over.err);
    assert!(over.out.contains("the policies of the input do not ask for it"), "{}{}", over.out, over.err);
}

#[test]
fn the_bound_is_a_number_of_at_least_one() {
    for value in ["many", "0"] {
        let answer = Files::of(PODS).npc("matrix", &["--max-set-members", value]);
        assert_eq!(answer.code, 2, "{}", answer.err);
    }
}
