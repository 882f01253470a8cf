//! `npc compile`.

use std::collections::BTreeSet;

use crate::{Files, SHOP};

const NODE: &str = "
apiVersion: v1
kind: Pod
metadata: {name: a, namespace: ns, labels: {app: a}}
spec: {nodeName: n1, containers: [{name: c}]}
status: {phase: Running, hostIP: 192.168.0.1, podIP: 10.0.0.1}
---
apiVersion: v1
kind: Pod
metadata: {name: b, namespace: ns, labels: {app: b}}
spec: {nodeName: n2, containers: [{name: c}]}
status: {phase: Running, podIP: 10.0.0.2}
---
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: a, namespace: ns}
spec:
  podSelector: {matchLabels: {app: a}}
  ingress:
  - from: [{podSelector: {matchLabels: {app: b}}}]
    ports: [{port: 80}]
";

#[test]
fn pair_sets_are_allowed_and_denied_by_group() {
    let text = Files::of(SHOP).npc("compile", &[]).out;
    let expected = "ingress  shop/db  isolated by shop/db, shop/default-deny
  allow  IPv4 IPv6  5432          from shop/api                                               shop/db spec.ingress[0]
  deny   IPv4 IPv6  *             from monitoring/prometheus, shop/db, shop/web, all outside
  deny   IPv4 IPv6  all but 5432  from shop/api
";
    assert!(text.contains(expected), "{text}");
}

#[test]
fn a_namespace_and_labels_choose_the_pair_sets_that_are_shown() {
    let files = Files::of(SHOP);
    let subjects = |words: &[&str]| {
        let json = files.npc("compile", &[&["-o", "pairs-json"], words].concat()).json();
        let of = |list: &str| {
            json[list].as_array().unwrap().iter().flat_map(|set| set["subjects"].as_array().unwrap().clone())
        };
        of("pairSets")
            .chain(of("elsewhere"))
            .map(|name| name.as_str().unwrap().to_owned())
            .collect::<BTreeSet<String>>()
    };
    let names = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect::<BTreeSet<String>>();
    let (all, shop) =
        (["monitoring/prometheus", "shop/api", "shop/db", "shop/web"], ["shop/api", "shop/db", "shop/web"]);
    assert_eq!(subjects(&[]), names(&all));
    assert_eq!(subjects(&["-n", "shop"]), names(&shop));
    assert_eq!(subjects(&["-n", "shop", "-A"]), names(&all));
    assert_eq!(subjects(&["-n", "shop", "-l", "app in (web,db)"]), names(&["shop/db", "shop/web"]));
    let text = files.npc("compile", &["-n", "shop", "-l", "app=web"]).out;
    assert!(text.contains("ingress  shop/web  ") && !text.contains("ingress  shop/db"), "{text}");
    let node = Files::of(NODE);
    let expanded = node.npc("compile", &["--expand", "-l", "app=b"]).out;
    assert!(!expanded.contains("its own node") && expanded.contains("\t10.0.0.2\t"), "{expanded}");
    let wrong = files.npc("compile", &["-n", "shpo"]);
    assert_eq!((wrong.code, wrong.out.as_str()), (3, ""), "{}", wrong.err);
    assert!(wrong.err.contains("did you mean shop?"), "{}", wrong.err);
    assert_eq!(files.npc("compile", &["-l", "a b"]).code, 2);
    // An end has a name.
    let explain = files.npc("explain", &["-l", "app=web", "shop/api:8080"]);
    assert_eq!(explain.code, 2);
    assert!(explain.err.contains("explain takes no labels") && explain.err.contains("matrix -l"), "{}", explain.err);
}

#[test]
fn what_rules_admit_from_ends_that_are_not_in_the_input_is_shown() {
    let files = Files::of(SHOP);
    let text = files.npc("compile", &[]).out;
    let line = text.lines().find(|line| line.contains("prometheus in namespace")).unwrap_or_default();
    let words: Vec<&str> = line.split("  ").map(str::trim).filter(|word| !word.is_empty()).collect();
    let peer = "from app=prometheus in namespace shop (none in the input)";
    assert_eq!(words, ["allow", "metrics", peer, "shop/api spec.ingress[1].from[0]"], "{text}");
    let json = files.npc("compile", &["-o", "pairs-json"]).json();
    assert_eq!(
        json["elsewhere"],
        serde_json::json!([{"direction": "Ingress", "subjects": ["shop/api"], "ports": "metrics", "found": "none",
            "peer": "app=prometheus in namespace shop", "policy": "shop/api", "path": "spec.ingress[1].from[0]"}])
    );
}

#[test]
fn expanded_pair_sets_are_address_pairs_with_the_exemptions_first() {
    let text = Files::of(NODE).npc("compile", &["--expand"]).out;
    let lines: Vec<&str> = text.lines().filter(|line| line.contains("\t10.0.0.1\t")).collect();
    let has = |line: &str| assert!(lines.contains(&line), "{line}\n{text}");
    has("ingress\tallow\t10.0.0.1/32\t10.0.0.1\t*\titself");
    has("ingress\tallow\t192.168.0.1/32\t10.0.0.1\t*\tits own node");
    has("ingress\tallow\t10.0.0.2/32\t10.0.0.1\t80\tns/a spec.ingress[0]");
    has("ingress\tdeny\t10.0.0.2/32\t10.0.0.1\t1-79,81-65535,*/udp,*/sctp,icmp\tns/a");
    has("ingress\tdeny\t10.0.0.0/32\t10.0.0.1\t*\tns/a");
    assert!(!lines.iter().any(|line| line.contains("deny") && line.contains("192.168.0.1/32")), "{text}");
    // What is denied outright covers everything else: the sizes add up.
    let denied = lines.iter().filter(|line| line.contains("\tdeny\t") && line.contains("\t*\t"));
    let sizes = denied.map(|line| 1_u64 << (32 - line.split(['/', '\t']).nth(3).unwrap().parse::<u32>().unwrap()));
    assert_eq!(sizes.sum::<u64>(), (1 << 32) - 3);
}

#[test]
fn a_nodes_program_is_text_that_machines_load() {
    let files = Files::of(NODE);
    let whole = files.npc("compile", &["-o", "iptables", "--node", "n1"]);
    assert_eq!(whole.code, 0, "{}", whole.err);
    for line in [
        "# npc4-ingress: this node's endpoints that are isolated for ingress (1 member)",
        "# NPC-I-*: group chain; what may be sent to the group RETURNs to NPC-FORWARD, the rest is denied",
        "add npc4-ingress 10.0.0.1",
        "-A NPC-FORWARD -m set --match-set npc4-ingress dst -j NPC-INGRESS",
        "COMMIT",
    ] {
        assert!(whole.out.lines().any(|seen| seen == line), "{line}\n{}", whole.out);
    }
    let part = |only| files.npc("compile", &["-o", "iptables", "--node", "n1", "--only", only]).out;
    let rules: Vec<String> = part("ipset").lines().filter(|line| !line.starts_with('#')).map(str::to_owned).collect();
    assert!(rules.iter().all(|line| line.starts_with("create ") || line.starts_with("add ")), "{rules:?}");
    assert!(part("iptables").contains("*filter\n") && !part("iptables").contains("npc6-"));
    assert!(part("ip6tables").contains("npc6-"));
    let json = files.npc("compile", &["-o", "json", "--node", "n1"]).json();
    assert_eq!(json["families"]["IPv4"]["sets"]["npc4-ingress"]["members"], serde_json::json!(["10.0.0.1"]));
    assert!(json["families"]["IPv6"]["chains"]["NPC-FORWARD"].is_array());
}

/// A program that reads the JSON of a node sees nothing of standard error.
#[test]
fn the_json_of_a_node_has_what_is_wrong_and_what_is_missing() {
    let files = Files::of(NODE);
    files.add(
        "more.yaml",
        concat!(
            "apiVersion: networking.k8s.io/v1\nkind: NetworkPolicy\nmetadata: {name: odd, namespace: shop}\n",
            "spec: {podSelector: {}, ingress: [{from: [{podSelctor: {}}]}]}\n---\n",
            "apiVersion: kafka.strimzi.io/v1\nkind: Kafka\nmetadata: {name: k, namespace: shop}\n",
        ),
    );
    let json = files.npc("compile", &["-f", "more.yaml", "-o", "json", "--node", "n1"]).json();
    assert_eq!(json["findings"][0]["code"], "field-unknown", "{}", json["findings"]);
    let warnings = json["warnings"].as_array().unwrap();
    assert!(warnings.iter().any(|of| of.as_str().unwrap().contains("Kafka.kafka.strimzi.io")), "{warnings:?}");
}

#[test]
fn a_node_must_be_given_and_known() {
    let files = Files::of(NODE);
    assert_eq!(files.npc("compile", &["-o", "json"]).code, 2);
    let answer = files.npc("compile", &["-o", "json", "--node", "n9"]);
    assert_eq!(answer.code, 3);
    assert!(answer.err.contains("n1, n2"), "{}", answer.err);
}

#[test]
fn a_node_that_the_input_does_not_name_is_an_error_with_the_nearest() {
    let pod = |name: &str, node: &str| {
        format!(
            "apiVersion: v1\nkind: Pod\nmetadata: {{name: {name}}}\nspec: {{nodeName: {node}, containers: []}}\n---\n"
        )
    };
    let files = Files::of(&format!("{}{}", pod("a", "worker-1"), pod("b", "gateway")));
    for command in ["compile", "migrate"] {
        let output: &[&str] = if command == "compile" { &["-o", "iptables"] } else { &[] };
        let answer = files.npc(command, &[&["--node", "worker1"], output].concat());
        assert_eq!((answer.code, answer.out.as_str()), (3, ""), "{}", answer.err);
        let words = "the input has no node \"worker1\"; it knows gateway, worker-1; did you mean worker-1?";
        assert!(answer.err.contains(words), "{}", answer.err);
    }
}

#[test]
fn a_pair_set_of_which_one_part_is_in_doubt_is_one_set_for_each_part() {
    // A controller may give one-0 the label by which a policy closes it; two has no controller.
    let text = "
apiVersion: apps/v1
kind: StatefulSet
metadata: {name: one, namespace: ns}
spec: {serviceName: one, selector: {matchLabels: {app: a}}, template: {metadata: {labels: {app: a}}, spec: {containers: [{name: c}]}}}
---
apiVersion: v1
kind: Pod
metadata: {name: two, namespace: ns, labels: {app: a}}
spec: {nodeName: n1, containers: [{name: c}]}
status: {podIP: 10.0.0.2}
---
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: open, namespace: ns}
spec: {podSelector: {matchLabels: {app: a}}, ingress: [{from: [{ipBlock: {cidr: 10.0.0.0/8}}]}]}
---
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: first, namespace: ns}
spec: {podSelector: {matchLabels: {statefulset.kubernetes.io/pod-name: one-0}}, ingress: [{ports: [{port: 80}]}]}
";
    let json = Files::of(text).npc("compile", &["-o", "pairs-json"]).json();
    let sets = json["pairSets"].as_array().unwrap();
    let ingress = sets.iter().filter(|set| set["direction"] == "Ingress" && set["family"] == "IPv4");
    let rows: Vec<(String, bool, String, bool)> = ingress
        .map(|set| {
            let has_outside = set["peers"]["prefixes"].as_array().is_some_and(|all| !all.is_empty());
            let subjects = set["subjects"].to_string();
            (set["verdict"].to_string(), set["certain"].as_bool().unwrap(), subjects, has_outside)
        })
        .collect();
    let has = |verdict: &str, is_certain: bool, subject: &str, has_outside: bool| {
        let row = (format!("{verdict:?}"), is_certain, format!("[{subject:?}]"), has_outside);
        assert!(rows.contains(&row), "{row:?} in {rows:?}");
    };
    has("Allowed", true, "ns/two", true);
    has("Denied", true, "ns/two", true);
    // Only the address of one-0 is in doubt.
    has("Denied", false, "ns/two", false);
    // What the other policy admits besides is in doubt for one-0 alone.
    has("Denied", false, "ns/one", true);
    assert!(rows.iter().all(|(_, is_certain, subjects, _)| *is_certain || !subjects.contains(',')), "{rows:?}");
}
