//! `npc matrix`.

use serde_json::json;

use crate::{Files, SHOP};

/// Two pods on two nodes, dual-stack, and a policy.
const PODS: &str = "
apiVersion: v1
kind: Pod
metadata: {name: a, namespace: ns, labels: {app: a}}
spec: {nodeName: n1, containers: [{name: c}]}
status: {phase: Running, hostIP: 192.168.0.1, podIP: 10.0.0.1, podIPs: [{ip: 10.0.0.1}, {ip: 'fd00::1'}]}
---
apiVersion: v1
kind: Pod
metadata: {name: b, namespace: ns, labels: {app: b}}
spec: {nodeName: n2, containers: [{name: c}]}
status: {phase: Running, hostIP: 192.168.0.2, podIP: 10.0.0.2, podIPs: [{ip: 10.0.0.2}, {ip: 'fd00::2'}]}
---
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: a, namespace: ns}
spec:
  podSelector: {matchLabels: {app: a}}
  ingress:
  - from: [{ipBlock: {cidr: 10.0.0.0/24}}]
    ports: [{port: 80}, {port: 8000, endPort: 8100}, {port: 53, protocol: UDP}]
";

#[test]
fn the_table_is_as_documented() {
    let answer = Files::of(SHOP).npc("matrix", &[]);
    assert_eq!(answer.code, 0);
    answer.says(
        "                        monitoring/prometheus  shop/api  shop/db  shop/web  outside
monitoring/prometheus   -                      .         .        .         *
shop/api                .                      -         5432     .         203.0.113.0/25:443
shop/db                 .                      .         -        .         .
shop/web                .                      .         .        -         .
outside                 *                      .         .        .         -

allowed with ends that are not in the input:
  shop/api  metrics from app=prometheus in namespace shop
",
    );
    let json = Files::of(SHOP).npc("matrix", &["-o", "json"]).json();
    assert_eq!(
        json["elsewhere"],
        serde_json::json!([{"endpoint": "shop/Deployment/api", "direction": "Ingress", "ports": "metrics",
            "found": "none", "peer": "app=prometheus in namespace shop", "policy": "shop/api", "path": "spec.ingress[1].from[0]"}])
    );
    // What is not shown, as an endpoint or as a port, is not said.
    for arguments in [&["--to", "shop/web"][..], &["--from", "shop/api"], &["--port", "53/udp"], &["-n", "monitoring"]]
    {
        let answer = Files::of(SHOP).npc("matrix", arguments);
        assert!(!answer.out.contains("not in the input"), "{arguments:?}: {}", answer.out);
    }
}

#[test]
fn json_has_a_row_for_each_family_and_protocol_that_anything_is_allowed_of() {
    let json = Files::of(PODS).npc("matrix", &["--by", "pod", "-o", "json"]).json();
    assert_eq!(json["apiVersion"], "npc.dev/v1alpha1");
    let ids: Vec<&str> = json["endpoints"].as_array().unwrap().iter().filter_map(|e| e["id"].as_str()).collect();
    assert_eq!(ids, ["ns/a", "ns/b"]);
    let row = |family, protocol, ports| json!({"from": "ns/b", "to": "ns/a", "family": family, "protocol": protocol, "ports": ports});
    let from_b: Vec<_> =
        json["connections"].as_array().unwrap().iter().filter(|r| r["from"] == "ns/b" && r["to"] == "ns/a").collect();
    assert_eq!(
        from_b,
        [&row("IPv4", "TCP", json!([[80, 80], [8000, 8100]])), &row("IPv4", "UDP", json!([[53, 53]]))],
        "nothing in IPv6, and no ICMP"
    );
    let of_self = json["connections"].as_array().unwrap().iter().filter(|r| r["from"] == "ns/a" && r["to"] == "ns/a");
    assert_eq!(of_self.count(), 8, "a pod to itself: two families, four protocols");
}

#[test]
fn an_address_is_judged_as_whose_it_is() {
    let arguments = ["--by", "pod", "-o", "csv", "--address", "192.168.0.1", "--address", "192.168.0.2"];
    let csv =
        Files::of(PODS).npc("matrix", &[&arguments[..], &["--address", "10.0.0.7", "--address", "10.0.0.2"]].concat());
    let to_a = |from: &str| csv.out.lines().filter(|line| line.starts_with(&format!("{from},ns/a,"))).count();
    assert_eq!(to_a("192.168.0.1"), 4, "its own node: everything\n{}", csv.out);
    assert_eq!(to_a("192.168.0.2"), 0, "another node is in no block");
    assert_eq!(to_a("10.0.0.7"), 2, "an address in the block");
    assert_eq!(to_a("10.0.0.2"), 2, "a pod by its address");
    assert!(!csv.out.lines().any(|line| line.starts_with("192.168.0.1,192.168.0.2")), "no row between addresses");
}

#[test]
fn many_endpoints_become_lines_and_equal_ones_share_them() {
    let pod = |i| {
        let app = if i < 18 { "web" } else { "db" };
        format!(
            "apiVersion: v1
kind: Pod
metadata: {{name: p{i:02}, namespace: ns, labels: {{app: {app}}}}}
spec: {{containers: []}}
status: {{podIP: 10.0.0.{i}}}
---
"
        )
    };
    let policy = "apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: all, namespace: ns}
spec:
  podSelector: {}
  policyTypes: [Ingress, Egress]
  egress: [{to: [{podSelector: {matchLabels: {app: db}}}], ports: [{port: 5432}]}]
  ingress: [{from: [{podSelector: {matchLabels: {app: web}}}]}]
";
    let yaml: String = (0..20).map(pod).chain([policy.to_owned()]).collect();
    let files = Files::of(&yaml);
    let answer = files.npc("matrix", &["--by", "pod"]);
    answer.says("ns/p00, ns/p01, ns/p02, ns/p03, +14 more  -> ns/p18, ns/p19  5432\n");
    assert!(answer.err.contains("-o wide or -o csv has them all"), "{}", answer.err);
    assert_eq!(files.npc("matrix", &["--by", "pod", "-o", "wide"]).out.lines().count(), 22);
}

#[test]
fn other_formats_say_the_same() {
    let files = Files::of(SHOP);
    let dot = files.npc("matrix", &["-o", "dot"]).out;
    assert!(dot.contains("\"shop/api\" -> \"shop/db\" [label=\"5432\"];"), "{dot}");
    let md = files.npc("matrix", &["-o", "md"]).out;
    assert!(md.contains("| shop/api | . | - | 5432 | . | 203.0.113.0/25:443 |"), "{md}");
}

/// The matrix is the policies'; where nodes are stricter, it says so once, and not
/// among the rows.
#[test]
fn tunnels_that_agents_keep_are_warned_of_once() {
    let policy = |egress: &str| {
        let spec = format!("{{podSelector: {{}}, policyTypes: [Egress], egress: {egress}}}");
        let policy = "{apiVersion: networking.k8s.io/v1, kind: NetworkPolicy, metadata: {name: out, namespace: ns}";
        Files::of(&format!("{PODS}---\n{policy}, spec: {spec}}}\n"))
    };
    let ports = "[4754, 4789, 6080, 6081, 8472]";
    let named = |number| format!("{{protocol: UDP, port: {number}}}");
    let all_named: Vec<String> = serde_json::from_str::<Vec<u16>>(ports).unwrap().into_iter().map(named).collect();
    for (egress, is_warned) in [
        ("[{}]".to_owned(), true),
        ("[{ports: [{protocol: UDP}]}]".to_owned(), true),
        ("[{ports: [{protocol: UDP, port: 1, endPort: 65535}]}]".to_owned(), true),
        (format!("[{{ports: [{{protocol: UDP}}, {}]}}]", all_named.join(", ")), false),
        ("[{ports: [{protocol: UDP, port: 53}]}]".to_owned(), false),
        ("[]".to_owned(), false),
    ] {
        let answer = policy(&egress).npc("matrix", &["-o", "json"]);
        assert_eq!(answer.json()["kind"], "ConnectivityMatrix");
        let warnings = answer.err.lines().filter(|line| line.contains("--allow-tunnels")).count();
        assert_eq!(warnings, usize::from(is_warned), "{egress}: {}", answer.err);
    }
}

/// A pod that may send 443 to an ipBlock, and a template without an address.
const WITHOUT_ADDRESS: &str = "apiVersion: v1
kind: Pod
metadata: {name: web, labels: {app: web}}
spec: {containers: []}
status: {podIP: 10.0.0.1}
---
apiVersion: apps/v1
kind: Deployment
metadata: {name: api}
spec: {template: {metadata: {labels: {app: api}}, spec: {containers: []}}}
---
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: web}
spec:
  podSelector: {matchLabels: {app: web}}
  policyTypes: [Egress]
  egress: [{to: [{ipBlock: {cidr: 10.0.0.0/8}}], ports: [{port: 443}]}]
";

#[test]
fn a_port_that_is_asked_for_hides_unknown_traffic_to_other_ports() {
    let files = Files::of(WITHOUT_ADDRESS);
    let unknowns = |words: &[&str]| files.npc("matrix", &[words, &["-o", "json"]].concat()).json()["unknowns"].clone();
    assert_eq!(unknowns(&[])[0]["ports"], serde_json::json!([[443, 443]]));
    assert_eq!(unknowns(&["--port", "443"]), unknowns(&[]));
    assert_eq!(unknowns(&["--port", "80"]), serde_json::json!([]));
}

#[test]
fn what_is_too_large_to_write_is_refused_in_words() {
    let pod = |i: usize| {
        format!(
            r#"{{"apiVersion": "v1", "kind": "Pod", "metadata": {{"name": "p{i}", "namespace": "ns{}"}},
               "status": {{"podIP": "10.{}.{}.1"}}}}"#,
            i % 2,
            i / 250,
            i % 250
        )
    };
    let pods: Vec<String> = (0..3_200).map(pod).collect();
    let files = Files::of(&pods.join("\n"));
    let show_less = "show a part of it: -n NAMESPACE, --from ENDPOINT, --to ENDPOINT or -l LABELS";
    for (format, expected) in [
        ("wide", "a table of 3200 sources and 3200 destinations is too large"),
        ("md", "a table of 3200 sources and 3200 destinations is too large"),
        ("json", "more than 10000000 pairs of endpoints are too many for one list"),
        ("csv", "more than 10000000 pairs of endpoints are too many for one list"),
        ("dot", "more than 10000000 pairs of endpoints are too many for one list"),
    ] {
        let answer = files.npc("matrix", &["-o", format]);
        assert_eq!((answer.code, answer.out.as_str()), (2, ""), "{format}: {}", answer.err);
        assert!(answer.err.contains(&format!("{expected}; {show_less}")), "{format}: {}", answer.err);
    }
    let table = files.npc("matrix", &[]);
    assert_eq!(table.code, 0, "{}", table.err);
    assert!(table.out.contains("+3196 more"), "endpoints that no rule distinguishes share a line: {}", table.out);
    let part = files.npc("matrix", &["-o", "csv", "-n", "ns1", "--from", "p1", "--port", "80/udp"]);
    assert_eq!((part.code, part.out.lines().count()), (0, 1 + 1_600 + 1), "{}", part.err);
}

#[test]
fn what_a_namespace_hides_of_an_endpoints_flows_is_said() {
    let files = Files::of(SHOP);
    for words in [["-n", "shop", "--from", "api"], ["-n", "shop", "--to", "api"]] {
        let err = files.npc("matrix", &words).err;
        assert!(err.contains("npc: -n shop hides 1 pod of another namespace"), "{words:?}: {err}");
    }
    for words in [&["-n", "shop"], &["--from", "shop/api"]] {
        let answer = files.npc("matrix", words);
        assert_eq!(answer.code, 0, "{words:?}: {}", answer.err);
        assert!(!answer.err.contains("hides"), "{words:?}: {}", answer.err);
    }
}

#[test]
fn yaml_is_the_same_document_as_json() {
    let files = Files::of(SHOP);
    let yaml = files.npc("matrix", &["-o", "yaml"]);
    assert_eq!(yaml.code, 0, "{}", yaml.err);
    let read: serde_json::Value = serde_saphyr::from_str(&yaml.out).unwrap();
    assert_eq!(read, files.npc("matrix", &["-o", "json"]).json());
    assert!(yaml.out.contains("kind: ConnectivityMatrix\n"), "{}", yaml.out);
}
