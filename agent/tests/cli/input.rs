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

/// A policy whose kind or version no API server takes isolates nothing, so an answer of exit code 0
/// would call open what its author closed.
#[test]
fn a_policy_of_a_kind_or_version_that_no_api_server_takes_stops_every_command() {
    let policy = |version: &str, kind: &str| {
        let policy = format!("apiVersion: {version}\nkind: {kind}\nmetadata: {{name: p, namespace: shop}}\n");
        Files::of(&format!("{SHOP}---\n{policy}spec: {{podSelector: {{}}, policyTypes: [Ingress]}}\n"))
    };
    for (version, kind) in [
        ("extensions/v1beta1", "NetworkPolicy"),
        ("networking.k8s.io/v1", "NetworkPolicies"),
        ("networking.k8s.io/v1", "NetPol"),
        ("networking.k8s.io/v1", "NetworkPolicySpec"),
        ("v1", "networkpolicies"),
    ] {
        let files = policy(version, kind);
        for (command, words) in
            [("matrix", &[][..]), ("compile", &[]), ("lint", &[]), ("explain", &["shop/web", "shop/api:80"])]
        {
            let answer = files.npc(command, words);
            let wanted = if command == "lint" { 1 } else { 2 };
            assert_eq!(answer.code, wanted, "{command} {version} {kind}: {}{}", answer.out, answer.err);
            let said = format!("{}{}", answer.out, answer.err);
            assert!(said.contains("networking.k8s.io/v1"), "{command} {version} {kind}: {said}");
        }
        let answer = files.npc("explain", &["shop/web", "shop/api:80", "--allow-errors"]);
        assert_eq!(answer.code, 4, "{version} {kind}: {}{}", answer.out, answer.err);
    }
}

/// As what was written for another version of the same name.
#[test]
fn objects_of_services_with_another_version_or_in_the_plural_are_errors_too() {
    for (version, kind, meant) in [
        ("v1", "EndpointSlice", "discovery.k8s.io/v1"),
        ("discovery.k8s.io/v1", "EndpointSlices", "kind: EndpointSlice"),
        ("v1", "Endpoint", "kind: Endpoints"),
        ("v1", "Services", "kind: Service"),
    ] {
        let object = format!("apiVersion: {version}\nkind: {kind}\nmetadata: {{name: a, namespace: shop}}\n");
        let answer = Files::of(&format!("{SHOP}---\n{object}")).npc("matrix", &[]);
        assert_eq!(answer.code, 2, "{version} {kind}: {}", answer.err);
        assert!(answer.err.contains(meant), "{version} {kind}: {}", answer.err);
    }
}

/// A note in an annotation, or in a field that npc does not read, makes no template of an object.
#[test]
fn a_broken_policy_is_an_error_with_any_annotations() {
    let policy = |annotations: &str, name: &str| {
        format!(
            "{SHOP}---\napiVersion: networking.k8s.io/v1\nkind: NetworkPolicy\nmetadata: {{name: {name}, namespace: \
             shop{annotations}}}\nspec: {{podSelector: {{}}, ingress: {{}}}}\n"
        )
    };
    let answer = Files::of(&policy(", annotations: {note: 'see {{ runbook }}'}", "p")).npc("matrix", &[]);
    assert_eq!(answer.code, 2, "{}", answer.err);
    assert!(answer.err.contains("spec.ingress"), "{}", answer.err);
    let answer = Files::of(&policy("", "'{{ .Release.Name }}'")).npc("matrix", &[]);
    assert_eq!(answer.code, 0, "a template: {}", answer.err);
    assert!(answer.err.contains("is not rendered"), "{}", answer.err);
}

/// kubectl reads them.
#[test]
fn a_directory_is_read_with_its_hidden_manifests() {
    let files = Files::of(SHOP);
    std::fs::create_dir(files.path().join("d")).unwrap();
    let policy = "apiVersion: networking.k8s.io/v1\nkind: NetworkPolicy\nmetadata: {name: p, namespace: \
                  monitoring}\nspec: {podSelector: {}, policyTypes: [Ingress]}\n";
    files.add("d/.np.yaml", policy);
    files.add("d/.#np.yaml", "what an editor: [has open");
    files.add("d/.ci.yml", "stages: [build]\n");
    let words = ["192.0.2.1", "monitoring/deploy/prometheus:80"];
    assert_eq!(files.npc("explain", &words).code, 0, "without the hidden policy");
    let answer = files.npc("explain", &[&words[..], &["-f", "d"]].concat());
    assert_eq!(answer.code, 1, "{}{}", answer.out, answer.err);
    assert!(answer.err.contains("passed over 1 file without Kubernetes objects (d/.ci.yml)"), "{}", answer.err);
}

#[test]
fn any_end_of_no_endpoints_is_not_found() {
    let files = Files::of("apiVersion: v1\nkind: ConfigMap\nmetadata: {name: a}\n");
    for ends in [["any", "any"], ["any", "192.0.2.1"], ["outside", "any"]] {
        let answer = files.npc("explain", &ends);
        assert_eq!(answer.code, 3, "{ends:?}: {}{}", answer.out, answer.err);
        assert!(answer.err.contains("no policies, no pods: add Pods or workloads"), "{}", answer.err);
    }
}

#[test]
fn a_document_that_is_no_object_beside_some_is_said_as_one() {
    let files = Files::of(&format!("{SHOP}---\ntitle: a dashboard\npanels: []\n"));
    let answer = files.npc("matrix", &[]);
    assert_eq!(answer.code, 0, "{}", answer.err);
    assert!(answer.err.contains("passed over documents that are no Kubernetes objects, in in.yaml"), "{}", answer.err);
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

#[test]
fn a_prefix_that_is_none_is_no_namespace() {
    let answer = crate::Files::of(crate::SHOP).npc("explain", &["10.0.0.0/33", "shop/web"]);
    assert!(answer.code != 0 && answer.err.contains("is no prefix"), "{}", answer.err);
}

#[test]
fn where_errors_end_a_command_they_come_first_and_warnings_are_folded() {
    let pod = |number: usize| {
        format!(
            "{{apiVersion: v1, kind: Pod, metadata: {{name: p{number}}}, spec: {{containers: [{{name: c}}]}}}}\n---\n"
        )
    };
    let pods: String = (0..9).map(pod).collect();
    let files = Files::of(&format!("{pods}{pods}{}", "{apiVersion: v1, kind: Pod, metadata: 7}\n---\n".repeat(9)));
    let answer = files.npc("matrix", &[]);
    assert_eq!(answer.code, 2);
    let lines: Vec<&str> = answer.err.lines().collect();
    assert_eq!(lines.len(), 9, "{}", answer.err);
    let has = |line: usize, text: &str| assert!(lines[line].contains(text), "{text}: {}", answer.err);
    has(0, ": error[document-unreadable]: ");
    has(3, "npc: 6 more of: ");
    has(4, ": warning[duplicate-name]: ");
    has(7, "npc: 6 more of: counts instead of the one");
    has(8, "9 documents not read");
}
