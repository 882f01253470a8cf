//! `npc explain`: the samples of the documentation, and each kind of answer.

use serde_json::{Value, json};

use crate::{Files, SHOP};

/// Pods with addresses: a workload whose replicas differ, a pod in its node's
/// network, services.
pub(crate) const LIVE: &str = "
apiVersion: v1
kind: Node
metadata: {name: n1}
status: {addresses: [{type: InternalIP, address: 192.168.0.1}]}
---
apiVersion: v1
kind: Pod
metadata: {name: a, labels: {app: a}}
spec: {nodeName: n1, containers: [{name: c, ports: [{name: http, containerPort: 80}]}]}
status: {phase: Running, podIPs: [{ip: 10.0.0.1}, {ip: 'fd00::1'}]}
---
apiVersion: v1
kind: Pod
metadata: {name: b-0, uid: b0, labels: {app: b}, ownerReferences: [{apiVersion: apps/v1, kind: StatefulSet, name: b, uid: x, controller: true}]}
spec: {nodeName: n2, containers: [{name: c}]}
status: {phase: Running, podIPs: [{ip: 10.0.0.2}, {ip: 'fd00::2'}]}
---
apiVersion: v1
kind: Pod
metadata: {name: b-1, uid: b1, labels: {app: b, extra: x}, ownerReferences: [{apiVersion: apps/v1, kind: StatefulSet, name: b, uid: x, controller: true}]}
spec: {nodeName: n2, containers: [{name: c}]}
status: {phase: Running, podIPs: [{ip: 10.0.0.3}, {ip: 'fd00::3'}]}
---
apiVersion: v1
kind: Pod
metadata: {name: host, labels: {app: b}}
spec: {nodeName: n2, hostNetwork: true, containers: [{name: c}]}
status: {phase: Running, podIP: 192.168.0.2}
---
apiVersion: apps/v1
kind: Deployment
metadata: {name: later}
spec: {template: {metadata: {labels: {app: later}}, spec: {containers: [{name: c}]}}}
---
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: a}
spec:
  podSelector: {matchLabels: {app: a}}
  ingress:
  - from: [{podSelector: {matchLabels: {app: b, extra: x}}}]
    ports: [{port: http}]
  - from: [{ipBlock: {cidr: 10.0.0.0/30}}]
    ports: [{port: 443}]
---
apiVersion: v1
kind: Service
metadata: {name: none}
spec: {selector: {app: nobody}, clusterIP: 10.96.0.1, ports: [{port: 80}]}
---
apiVersion: v1
kind: Service
metadata: {name: a}
spec: {selector: {app: a}, clusterIP: 10.96.0.2, ipFamilyPolicy: PreferDualStack, ports: [{name: web, port: 8000, targetPort: http}, {name: tls, port: 443}]}
";

#[test]
fn an_allowed_flow_is_explained_as_documented() {
    let answer = Files::of(SHOP).npc("explain", &["shop/api", "shop/db:5432"]);
    assert_eq!(answer.code, 0);
    answer.says(
        "ALLOWED  shop/deploy/api -> shop/deploy/db  TCP 5432 (pg)

  egress   shop/deploy/api  ALLOW  networkpolicy/api spec.egress[0]
  ingress  shop/deploy/db   ALLOW  networkpolicy/db spec.ingress[0]

allowed[rule]: these rules admit it
  --> in.yaml:88:7  networkpolicy shop/api  spec.egress[0].to[0]
  --> in.yaml:106:7  networkpolicy shop/db  spec.ingress[0].from[0]
",
    );
    let json = Files::of(SHOP).npc("explain", &["shop/api", "shop/db:5432", "-o", "json"]).json();
    let items = &json["flows"][0]["egress"]["rules"][0]["items"];
    assert_eq!(*items, json!([{"path": "to[0]", "location": {"file": "in.yaml", "line": 88, "column": 7}}]));
}

#[test]
fn a_denied_flow_is_explained_as_documented() {
    let answer = Files::of(SHOP).npc("explain", &["monitoring/prometheus", "shop/deploy/api:metrics"]);
    assert_eq!(answer.code, 1);
    answer.says(
        "DENIED  monitoring/deploy/prometheus -> shop/deploy/api  TCP 9090 (metrics)

  egress   monitoring/deploy/prometheus  ALLOW  no policy selects it for egress
  ingress  shop/deploy/api               DENY   isolated by networkpolicy/api, networkpolicy/default-deny; 0 of 2 rules match

denied[peer-other-namespace]: the rule's labels match, its namespace does not
  --> in.yaml:83:7  networkpolicy shop/api  spec.ingress[1].from[0]
   |
83 |     - podSelector: {matchLabels: {app: prometheus}}
   |       ^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^ no namespaceSelector: pods of namespace shop only
85 |     - port: metrics
   |       ------------- matches (TCP 9090)
   = note: the source is in namespace monitoring (kubernetes.io/metadata.name=monitoring, team=sre)
   = help: put this in the same list item (a new \"-\" would mean OR):
           namespaceSelector: {matchLabels: {kubernetes.io/metadata.name: monitoring}}
           checked: turns this flow to ALLOWED and opens no other

to apply the change: kubectl -n shop patch networkpolicy api --type=json -p '[{\"op\":\"add\",\"path\":\"/spec/ingress/1/from/0/namespaceSelector\",\"value\":{\"matchLabels\":{\"kubernetes.io/metadata.name\":\"monitoring\"}}}]'
",
    );
}

#[test]
fn a_flow_through_a_service_is_explained_as_documented() {
    let answer = Files::of(SHOP).npc("explain", &["shop/web", "shop/svc/api:80"]);
    assert_eq!(answer.code, 1);
    let expected = "DENIED  shop/deploy/web -> shop/svc/api:80 -> shop/deploy/api  TCP 8080 (http)

  service  shop/svc/api     80 -> targetPort http = 8080, 1 backend (policy sees the pod and 8080, not the Service's address and 80)
  egress   shop/deploy/web  DENY   isolated by networkpolicy/web, networkpolicy/default-deny; 0 of 1 rules match
  ingress  shop/deploy/api  ALLOW  networkpolicy/api spec.ingress[0]

denied[port-is-service-port]: the rule names the Service's port
  --> in.yaml:69:7  networkpolicy shop/web  spec.egress[0].ports[0]
";
    assert!(answer.out.starts_with(expected), "{}", answer.out);
}

#[test]
fn places_and_marks_are_as_documented() {
    let policies = SHOP.find("apiVersion: networking.k8s.io").unwrap();
    let files = Files::of("");
    files.add("shop.yaml", &SHOP[..policies]);
    files.add("policies.yaml", &SHOP[policies..]);
    let ask = |from, to| files.run(&["explain", "-f", "shop.yaml", "-f", "policies.yaml", from, to]).out;
    let answer = ask("monitoring/prometheus", "shop/deploy/api:metrics");
    let expected = "
denied[peer-other-namespace]: the rule's labels match, its namespace does not
  --> policies.yaml:32:7  networkpolicy shop/api  spec.ingress[1].from[0]
   |
32 |     - podSelector: {matchLabels: {app: prometheus}}
   |       ^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^ no namespaceSelector: pods of namespace shop only
34 |     - port: metrics
   |       ------------- matches (TCP 9090)
   = note: the source is in namespace monitoring (kubernetes.io/metadata.name=monitoring, team=sre)
";
    assert!(answer.contains(expected), "{answer}");
    let answer = ask("shop/web", "shop/svc/api:80");
    assert!(
        answer.contains("\n  --> policies.yaml:18:7  networkpolicy shop/web  spec.egress[0].ports[0]\n"),
        "{answer}"
    );
}

#[test]
fn json_is_as_documented() {
    let answer = Files::of(SHOP).npc("explain", &["monitoring/prometheus", "shop/api:metrics", "-o", "json"]);
    let policy = |name| json!({"kind": "NetworkPolicy", "namespace": "shop", "name": name});
    let end = |namespace, name| json!({"kind": "Deployment", "namespace": namespace, "name": name, "addresses": [], "hostNetwork": false, "except": []});
    let conjunct = json!({
        "of": "peer", "path": "from[0]", "part": "namespace", "code": "peer-other-namespace", "result": "no",
        "want": "shop", "got": "monitoring",
        "marks": [{
            "path": "spec.ingress[1].from[0]", "want": "shop", "got": "monitoring",
            "range": {"file": "in.yaml", "line": 83, "column": 7, "endLine": 83, "endColumn": 52},
        }],
    });
    let ingress = json!({
        "verdict": "Denied", "reason": "peer-other-namespace",
        "isolatedBy": [policy("api"), policy("default-deny")], "rules": [], "ruleCount": null,
        "candidates": [{
            "policy": policy("api"), "path": "spec.ingress[1]", "distance": 1,
            "location": {"file": "in.yaml", "line": 83, "column": 7}, "conjuncts": [conjunct],
        }],
        "candidateCount": null, "near": [],
    });
    let flow = json!({
        "from": end("monitoring", "prometheus"), "to": end("shop", "api"), "via": null, "way": null, "nodes": null,
        "family": null, "protocol": "TCP", "ports": [[9090, 9090]], "portName": "metrics", "verdict": "Denied",
        "egress": {"verdict": "Allowed", "reason": "default-allow", "isolatedBy": [], "rules": [], "ruleCount": null,
            "candidates": [], "candidateCount": null, "near": []},
        "ingress": ingress, "breaks": null, "alike": null,
    });
    let fix = json!({
        "flows": [0], "after": 0, "direction": "Ingress", "policy": "shop/api", "object": policy("api"),
        "command": "kubectl -n shop patch networkpolicy api --type=json -p '[{\"op\":\"add\",\"path\":\"/spec/ingress/1/from/0/namespaceSelector\",\
                    \"value\":{\"matchLabels\":{\"kubernetes.io/metadata.name\":\"monitoring\"}}}]'",
        "patch": [{"op": "add", "path": "/spec/ingress/1/from/0/namespaceSelector",
            "value": {"matchLabels": {"kubernetes.io/metadata.name": "monitoring"}}}],
        "create": null, "then": null, "note": null, "sharedText": null, "verified": true, "opens": [], "closes": [], "backendOf": [], "wouldClose": [],
        "wouldOpen": [],
    });
    assert_eq!(
        answer.json(),
        json!({
            "apiVersion": "npc.dev/v1alpha1", "kind": "FlowExplanation",
            "query": {"from": "monitoring/deploy/prometheus", "to": "shop/deploy/api:metrics", "source": "files"},
            "verdict": "Denied", "flows": [flow], "fixes": [fix], "unfixed": [],
            "warnings": [], "unknowns": [], "findings": [], "ends": [],
        })
    );
}

/// The exit code, and of each flow its verdict and both reasons.
pub(crate) fn asked(files: &Files, from: &str, to: &str) -> (i32, Vec<String>) {
    let answer = files.npc("explain", &[from, to, "-o", "json"]);
    let word = |value: &Value| value.as_str().unwrap_or("-").to_owned();
    let flow = |flow: &Value| {
        let family = word(&flow["family"]);
        [&flow["verdict"], &flow["egress"]["reason"], &flow["ingress"]["reason"]]
            .into_iter()
            .fold(family, |text, value| format!("{text} {}", word(value)))
    };
    (answer.code, answer.json()["flows"].as_array().unwrap().iter().map(flow).collect())
}

#[test]
fn every_kind_of_end_gets_its_answer() {
    let files = Files::of(LIVE);
    for (from, to, code, flows) in [
        ("a", "a:1", 0, &["IPv4 Allowed self self", "IPv6 Allowed self self"][..]),
        ("node/n1", "a:1", 0, &["IPv4 Allowed own-node own-node"]),
        ("192.168.0.1", "a:1", 0, &["IPv4 Allowed own-node own-node"]),
        ("host", "a:80", 1, &["IPv4 Denied hostnetwork-exempt peer-hostnetwork"]),
        ("a", "host:80", 0, &["IPv4 Allowed default-allow hostnetwork-exempt"]),
        ("b-1", "a:http", 0, &["IPv4 Allowed default-allow rule", "IPv6 Allowed default-allow rule"]),
        (
            "b",
            "a:443",
            1,
            &[
                "IPv4 Allowed default-allow rule",
                "IPv6 Denied default-allow ipblock-family",
                "IPv4 Allowed default-allow rule",
                "IPv6 Denied default-allow port-number",
            ],
        ),
        ("10.0.0.2", "a:443", 0, &["IPv4 Allowed default-allow rule"]),
        ("10.0.0.7", "a:443", 1, &["IPv4 Denied default-allow ipblock-outside"]),
        ("10.0.0.4/30", "a:443", 1, &["IPv4 Denied default-allow ipblock-outside"]),
        // The address that it will have may be in the block.
        ("later", "a:443", 4, &["IPv4 Unknown default-allow -", "IPv6 Denied default-allow ipblock-family"]),
        ("later", "a:80", 1, &["- Denied default-allow peer-label-value"]),
        ("b-1", "svc/a:8000", 0, &["IPv4 Allowed default-allow rule", "IPv6 Allowed default-allow rule"]),
        ("b-1", "svc/a:web", 0, &["IPv4 Allowed default-allow rule", "IPv6 Allowed default-allow rule"]),
        // An address leads to backends of its own family.
        ("b-0", "10.96.0.2:443", 0, &["IPv4 Allowed default-allow rule"]),
        ("b", "svc/none:80", 1, &["- Denied - service-no-backends"]),
        ("b", "svc/a:81", 1, &["- Denied - service-port-unknown"]),
    ] {
        assert_eq!(asked(&files, from, to), (code, flows.iter().map(ToString::to_string).collect()), "{from} {to}");
    }
}

#[test]
fn a_prefix_is_cut_where_answers_differ() {
    let answer = Files::of(SHOP).npc("explain", &["-n", "shop", "api", "203.0.113.0/24:443", "-o", "json"]);
    assert_eq!(answer.code, 1);
    let json = answer.json();
    assert_eq!(json["verdict"], "Partial");
    let parts: Vec<_> = json["flows"]
        .as_array()
        .unwrap()
        .iter()
        .map(|flow| (flow["to"]["name"].clone(), flow["verdict"].clone()))
        .collect();
    assert_eq!(parts, [(json!("203.0.113.0/25"), json!("Allowed")), (json!("203.0.113.128/25"), json!("Denied"))]);
    assert_eq!(json["flows"][1]["egress"]["reason"], "ipblock-except");
}

#[test]
fn without_a_port_the_allowed_part_is_apart_from_the_rest() {
    let answer = Files::of(SHOP).npc("explain", &["shop/api", "shop/db"]);
    assert_eq!(answer.code, 1);
    assert!(answer.out.starts_with("PARTIAL  shop/deploy/api -> shop/deploy/db\n"), "{}", answer.out);
    assert!(answer.out.contains("\nALLOWED  shop/deploy/api -> shop/deploy/db  TCP 5432 (pg)\n"), "{}", answer.out);
    assert_eq!(Files::of(SHOP).npc("explain", &["shop/api", "shop/db", "--exit-zero"]).code, 0);
}

#[test]
fn an_unknown_answer_names_the_fact() {
    let answer = Files::of(LIVE).npc("explain", &["later", "a:443"]);
    assert_eq!(answer.code, 4);
    assert!(answer.out.starts_with("UNKNOWN  default/deploy/later -> default/pod/a:443\n"), "{}", answer.out);
    assert!(answer.out.contains("unknown: the address of default/deploy/later"), "{}", answer.out);
}

#[test]
fn a_missing_or_ambiguous_endpoint_is_an_error_with_candidates() {
    let files = Files::of(SHOP);
    let stops = |arguments: &[&str], words: &str| {
        let answer = files.npc("explain", arguments);
        assert_eq!(answer.code, 3, "{arguments:?}");
        assert!(answer.err.contains(words), "{arguments:?}: {}", answer.err);
    };
    stops(&["shop/apj", "shop/db"], "did you mean: shop/deploy/api");
    stops(&["api", "shop/db"], "did you mean: shop/deploy/api, shop/svc/api");
    stops(&["shop/api", "shop/db:pgg"], "its ports are pg");
    let both = Files::of(&format!(
        "{SHOP}\n---\n{}",
        "apiVersion: v1\nkind: Pod\nmetadata: {name: api, namespace: shop}\nspec: {containers: []}\n"
    ));
    let answer = both.npc("explain", &["shop/api", "shop/db"]);
    assert_eq!(answer.code, 3);
    assert!(answer.err.contains("ambiguous; say which: shop/deploy/api, shop/pod/api"), "{}", answer.err);
    let pod = |uid: &str, more: &str| {
        format!("---\napiVersion: v1\nkind: Pod\nmetadata: {{name: one, uid: {uid}{more}}}\nspec: {{containers: []}}\n")
    };
    let old = pod("b", ", labels: {old: 'yes'}, deletionTimestamp: '2026-01-01T00:00:00Z'");
    let answer = Files::of(&(old + &pod("a", ""))).npc("explain", &["one", "192.0.2.1"]);
    assert_eq!(answer.code, 0, "a pod and its successor are not two to choose from: {}", answer.err);
    assert_eq!(files.npc("explain", &["shop/api:80", "shop/db"]).code, 2, "a port of the source");
}

#[test]
fn one_endpoint_alone_lists_what_it_exchanges_with_others() {
    Files::of(SHOP).npc("explain", &["shop/api"]).says(
        "shop/deploy/api

  ingress  isolated by shop/api, shop/default-deny
    metrics  from app=prometheus in namespace shop (none in the input)

  egress  isolated by shop/api, shop/default-deny
    5432  to shop/deploy/db
    443   to outside 203.0.113.0/25
",
    );
}

#[test]
fn ends_that_are_not_in_the_input_are_in_the_json_of_one_endpoint() {
    let json = Files::of(SHOP).npc("explain", &["shop/api", "-o", "json"]).json();
    let elsewhere = json!([{"ports": "metrics", "peer": "app=prometheus in namespace shop", "found": "none", "policy": "shop/api",
        "path": "spec.ingress[1].from[0]"}]);
    assert_eq!((&json["ingress"]["elsewhere"], &json["egress"]["elsewhere"]), (&elsewhere, &json!([])));
}

#[test]
fn a_very_long_line_is_cut_around_the_mark() {
    let long = " ".repeat(100_000);
    let policy = format!(
        "{{\"apiVersion\": \"networking.k8s.io/v1\", \"kind\": \"NetworkPolicy\", {long} \"metadata\": {{\"name\": \"a\"}}, \
         \"spec\": {{\"podSelector\": {{}}, \"ingress\": [{{\"ports\": [{{\"port\": 81}}]}}]}}}}"
    );
    let files = Files::of(&policy);
    files.add(
        "pod.yaml",
        "apiVersion: v1\nkind: Pod\nmetadata: {name: a}\nspec: {containers: []}\nstatus: {podIP: 10.0.0.1}\n",
    );
    let answer = files.npc("explain", &["-f", "pod.yaml", "10.0.0.2", "a:80"]);
    assert_eq!(answer.code, 1);
    assert!(answer.out.contains("--> in.yaml:1:100"), "{}", answer.out);
    assert!(answer.out.len() < 1000, "{}", answer.out.len());
    let lines: Vec<&str> = answer.out.lines().collect();
    let (mark, text) = lines.iter().enumerate().find(|(_, line)| line.contains('^')).expect("a mark");
    let start = text.chars().position(|char| char == '^').expect("it is there");
    let marked: String = lines[mark - 1].chars().skip(start).take(text.matches('^').count()).collect();
    assert_eq!(marked, "\"port\": 81", "{}", answer.out);
    assert!(text.ends_with("wants 81, there is 80"), "{text}");
}

#[test]
fn a_tunnels_port_that_no_rule_names_is_allowed_with_a_warning() {
    let policy = |ports: &str| {
        let rule = format!("[{{to: [{{podSelector: {{}}}}], ports: {ports}}}]");
        let spec = format!("{{podSelector: {{matchLabels: {{app: b}}}}, policyTypes: [Egress], egress: {rule}}}");
        let policy = "{apiVersion: networking.k8s.io/v1, kind: NetworkPolicy, metadata: {name: b}";
        Files::of(&format!("{LIVE}---\n{policy}, spec: {spec}}}\n"))
    };
    for (ports, port, is_warned) in [
        ("[{protocol: UDP}]", "4789/udp", true),
        ("[{protocol: UDP, port: 1, endPort: 65535}]", "4700-4800/udp", true),
        ("[{protocol: UDP}]", "53/udp", false),
        ("[{protocol: UDP, port: 4000, endPort: 5000}]", "4789/udp", false),
        ("[{protocol: UDP}, {protocol: UDP, port: 4789}]", "4789/udp", false),
    ] {
        let files = policy(ports);
        let answer = files.npc("explain", &["b-0", &format!("b-1:{port}"), "-o", "json"]).json();
        assert_eq!(answer["verdict"], json!("Allowed"), "{ports} {port}: {answer}");
        let warnings = answer["warnings"].as_array().expect("a list");
        let is_told =
            |warning: &Value| warning.as_str().is_some_and(|text| text.contains("4789/udp is what tunnels use"));
        assert_eq!(warnings.iter().any(is_told), is_warned, "{ports} {port}: {warnings:?}");
    }
    for (port, is_warned) in [("6080/udp", true), ("4754/udp", true), ("1701/udp", false), ("51820/udp", false)] {
        let answer = policy("[{protocol: UDP}]").npc("explain", &["b-0", &format!("b-1:{port}"), "-o", "json"]).json();
        let warnings = answer["warnings"].as_array().expect("a list");
        assert_eq!(!warnings.is_empty(), is_warned, "{port}: {warnings:?}");
    }
    let answer = policy("[]").npc("explain", &["b-0", "b-1", "-o", "json"]).json();
    assert_eq!(answer["warnings"], json!([]), "all ports are not asked about for the sake of tunnels");
}

/// An isolated pod, and what a lost node left with its address, which admits
/// all.
const CONTESTED: &str = "
apiVersion: v1
kind: Pod
metadata: {name: real, uid: a, labels: {app: real}}
spec: {nodeName: n1, containers: [{name: c}]}
status: {phase: Running, podIPs: [{ip: 10.0.0.1}], startTime: '2026-11-01T00:00:00Z'}
---
apiVersion: v1
kind: Pod
metadata: {name: stale, uid: z, labels: {app: stale}}
spec: {nodeName: lost, containers: [{name: c}]}
status: {phase: Running, podIPs: [{ip: 10.0.0.1}], startTime: '2026-11-02T00:00:00Z'}
---
apiVersion: v1
kind: Pod
metadata: {name: other, uid: o, labels: {app: other}}
spec: {nodeName: n2, containers: [{name: c}]}
status: {phase: Running, podIPs: [{ip: 10.0.0.2}]}
---
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: real}
spec: {podSelector: {matchLabels: {app: real}}, policyTypes: [Ingress]}
---
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: other}
spec: {podSelector: {matchLabels: {app: other}}, policyTypes: [Ingress], ingress: [{from: [{podSelector: {matchLabels: {app: stale}}}]}]}
";

#[test]
fn other_pods_that_list_an_address_are_named_and_decide_nothing() {
    let files = Files::of(CONTESTED);
    let answer = files.npc("explain", &["other", "real:80"]);
    assert_eq!(answer.code, 1);
    answer.says(
        "DENIED  default/pod/other -> default/pod/real  TCP 80

  egress   default/pod/other  ALLOW  no policy selects it for egress
  ingress  default/pod/real   DENY   isolated by networkpolicy/real, which has no rule for ingress

denied[default-deny-only]: the policies that isolate it allow nothing in this direction
  --> in.yaml:23:63  networkpolicy default/real  spec.policyTypes[0]
   |
23 | spec: {podSelector: {matchLabels: {app: real}}, policyTypes: [Ingress]}
   |                                                               ^^^^^^^
   |                                                               isolates its pods for ingress, and no rule admits anything
   = help: add this to spec.ingress of networkpolicy default/real:
           - from:
             - podSelector: {matchLabels: {app: other}}
             ports: [{port: 80}]
           checked: turns this flow to ALLOWED and opens no other

to apply the change: kubectl -n default patch networkpolicy real --type=json -p '[{\"op\":\"add\",\"path\":\"/spec/ingress\",\
\"value\":[{\"from\":[{\"podSelector\":{\"matchLabels\":{\"app\":\"other\"}}}],\"ports\":[{\"port\":80}]}]}]'

warning[address-contested]: pod default/real on n1 and pod default/stale on lost list 10.0.0.1: node lost judges it as pod \
         default/stale on lost; node n1 judges it as pod default/real on n1; rules of other nodes admit it only where \
         they admit pod default/real on n1 and pod default/stale on lost
",
    );
    // As a peer it is what both are.
    let answer = files.npc("explain", &["real", "other:80", "-o", "json"]);
    assert_eq!(answer.code, 1);
    let json = answer.json();
    assert_eq!(json["verdict"], "Denied");
    let warnings = json["warnings"].as_array().unwrap();
    assert!(warnings.len() == 1 && warnings[0].as_str().unwrap().contains("default/stale"), "{json}");
    // The address by itself: nothing is known of it for certain but what is
    // true of both.
    assert_eq!(files.npc("explain", &["10.0.0.1", "other:80"]).code, 1);
    assert_eq!(files.npc("explain", &["other", "10.0.0.1:80"]).code, 1);
    let about = files.npc("explain", &["real", "-o", "json"]).json();
    assert_eq!(about["warnings"].as_array().map(Vec::len), Some(1), "{about}");
}

#[test]
fn a_policys_named_port_is_shown_with_its_number() {
    let answer = Files::of(SHOP).npc("explain", &["-n", "shop", "netpol/db"]);
    assert!(answer.out.contains("on  TCP pg (5432)\n"), "{}{}", answer.out, answer.err);
}

#[test]
fn an_answer_for_each_address_of_a_node_is_written_once() {
    let pod = |name: &str, node: &str, address: &str| {
        format!(
            "{{apiVersion: v1, kind: Pod, metadata: {{name: {name}, namespace: shop, uid: {name}, labels: {{app: db}}, \
             ownerReferences: [{{apiVersion: apps/v1, kind: StatefulSet, name: db, uid: s, controller: true}}]}}, \
             spec: {{nodeName: {node}, containers: [{{name: c}}]}}, status: {{podIP: {address}}}}}\n---\n"
        )
    };
    let policy = "{apiVersion: networking.k8s.io/v1, kind: NetworkPolicy, metadata: {name: db, namespace: shop}, \
                  spec: {podSelector: {}, policyTypes: [Egress]}}\n---\n";
    let node = "{apiVersion: v1, kind: Node, metadata: {name: n1}, status: {addresses: [{type: InternalIP, address: \
                192.0.2.11}, {type: ExternalIP, address: 198.51.100.11}]}}\n";
    let files = Files::of(&(pod("db-0", "n1", "10.0.1.1") + &pod("db-1", "n2", "10.0.2.1") + policy + node));
    let answer = files.npc("explain", &["shop/sts/db", "node/n1:80"]);
    assert_eq!(answer.code, 1, "{}", answer.err);
    for once in ["ALLOWED  shop/pod/db-0 -> node/n1  TCP 80", "DENIED  shop/pod/db-1 -> node/n1  TCP 80"] {
        assert_eq!(answer.out.matches(once).count(), 1, "{}", answer.out);
    }
    let json = files.npc("explain", &["shop/sts/db", "node/n1:80", "-o", "json"]).json();
    assert_eq!(json["flows"][0]["to"]["addresses"], json!(["192.0.2.11", "198.51.100.11"]));
}
