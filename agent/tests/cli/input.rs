//! What the commands read, and how they end.

use crate::{Files, SHOP};

#[test]
fn without_files_a_cluster_would_be_asked() {
    let answer = Files::of("").run(&["matrix", "--kubeconfig", "/nowhere"]);
    assert_eq!(answer.code, 5);
    assert!(answer.err.contains("kubeconfig") && answer.err.contains("/nowhere"), "{}", answer.err);
}

#[test]
fn what_cannot_be_read_is_an_error_with_its_place() {
    let files = Files::of("apiVersion: v1\nkind: Pod\nmetadata: {name: a}\nspec: {hostNetwork: perhaps}\n");
    let answer = files.npc("matrix", &[]);
    assert_eq!(answer.code, 2);
    assert!(answer.err.contains("in.yaml:4:"), "{}", answer.err);
    assert_eq!(files.npc("matrix", &["--allow-errors"]).code, 0);
    assert_eq!(files.npc("matrix", &["--by", "moon"]).code, 2, "a bad flag");
}

#[test]
fn what_is_not_understood_of_a_policy_is_said_with_its_place() {
    let policy = "apiVersion: networking.k8s.io/v1\nkind: NetworkPolicy\nmetadata: {name: p}\nspec:\n  podSelector: {}\n  ingress:\n  - from:\n    - ipBlock: {cidr: 10.0.0.0/33}\n";
    let files = Files::of(policy);
    for (command, words) in
        [("matrix", &[][..]), ("compile", &["-o", "pairs"]), ("migrate", &[]), ("explain", &["any", "192.0.2.1"])]
    {
        let answer = files.npc(command, words);
        let line = "in.yaml:8:17: error[cidr-invalid]: networkpolicy default/p";
        assert!(answer.err.contains(line), "{command}: {}{}", answer.out, answer.err);
    }
    for (command, format) in [("matrix", "json"), ("compile", "pairs-json"), ("migrate", "json")] {
        let json = files.npc(command, &["-o", format]).json();
        assert_eq!(json["findings"][0]["code"], "cidr-invalid", "{command}: {json}");
        assert_eq!(json["findings"][0]["location"]["line"], 8, "{command}: {json}");
    }
    let wrong = "---\napiVersion: v1\nkind: Pod\nmetadata: {name: a, labels: {a/b/c: x}}\nspec: {containers: []}\n";
    let answer = Files::of(&[policy, wrong].concat()).npc("matrix", &[]);
    assert!(answer.err.contains("warning[label-invalid]: pod default/a: "), "{}", answer.err);
}

#[test]
fn a_field_that_the_api_does_not_have_is_one_error() {
    let check = |spec: &str, wanted: &str| {
        let policy = format!(
            "apiVersion: networking.k8s.io/v1\nkind: NetworkPolicy\nmetadata: {{name: p}}\nspec: {{podSelector: {{}}, {spec}}}\n"
        );
        let answer = Files::of(&policy).npc("matrix", &[]);
        let lines: Vec<&str> = answer.err.lines().filter_map(|line| line.split_once("in.yaml:")).map(|l| l.1).collect();
        assert_eq!(lines, [wanted], "{}", answer.err);
    };
    check(
        "Ingress: [{}]",
        "4:25: error[field-unknown]: networkpolicy default/p spec.Ingress: the API has no such field (did you mean ingress?); npc enforces the policy without it",
    );
    check(
        "ingress: [{from: [{ipBlok: {}}]}]",
        "4:44: error[field-unknown]: networkpolicy default/p spec.ingress[0].from[0].ipBlok: \
         the API has no such field (did you mean ipBlock?); this part matches nothing",
    );
    check(
        "ingress: [{zzz: 1}]",
        "4:36: error[field-unknown]: networkpolicy default/p spec.ingress[0].zzz: the API has no such field; this part matches nothing",
    );
}

#[test]
fn a_workload_of_no_replicas_is_named_as_such() {
    let workload = |kind: &str, number: &str| {
        format!("apiVersion: apps/v1\nkind: {kind}\nmetadata: {{name: web}}\nspec: {{{number}, template: {{}}}}\n")
    };
    let files = Files::of(&workload("Deployment", "replicas: 2"));
    files.add("none.yaml", &workload("Deployment", "replicas: 0"));
    files.add("some.yaml", &workload("Deployment", "replicas: 3"));
    let asks = |more: &[&str]| files.npc("explain", &[&["web"], more].concat());
    assert_eq!(asks(&[]).code, 0);
    let answer = asks(&["--overlay", "none.yaml"]);
    assert_eq!(answer.code, 3);
    assert!(answer.err.contains("default/deploy/web has no pods to ask about: its replicas is 0"), "{}", answer.err);
    assert_eq!(asks(&["--overlay", "none.yaml", "--overlay", "some.yaml"]).code, 0, "the later one counts");
}

#[test]
fn overlays_and_removals_are_what_ifs() {
    let files = Files::of(SHOP);
    files.add(
        "open.yaml",
        "apiVersion: networking.k8s.io/v1\nkind: NetworkPolicy\nmetadata: {name: db, namespace: shop}\nspec: {podSelector: {matchLabels: {app: db}}, ingress: [{}]}\n",
    );
    let asks = |more: &[&str]| files.npc("explain", &[&["monitoring/prometheus", "shop/db:5432"], more].concat()).code;
    assert_eq!(asks(&[]), 1);
    assert_eq!(asks(&["--overlay", "open.yaml"]), 0);
    assert_eq!(asks(&["--remove", "netpol/shop/db", "--remove", "netpol/shop/default-deny"]), 0);
    assert_eq!(asks(&["--remove", "netpol/shop/nope"]), 2);
}
