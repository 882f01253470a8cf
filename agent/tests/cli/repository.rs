//! Ordinary repositories: charts, kustomizations, dashboards, encrypted files.

use std::fs;

use crate::{Files, SHOP};

fn repository(more: &[(&str, &str)]) -> Files {
    let files = Files::of("");
    fs::create_dir(files.path().join("r")).unwrap();
    for (name, text) in [("k8s/shop.yaml", SHOP)].iter().chain(more) {
        let path = files.path().join("r").join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }
    files
}

const CHART: [(&str, &str); 4] = [
    ("chart/Chart.yaml", "apiVersion: v2\nname: web\nversion: 1.0.0\n"),
    ("chart/values.yaml", "replicas: 2\nimage: {tag: a}\nnetworkPolicy: {enabled: true}\n"),
    (
        "chart/templates/deploy.yaml",
        "apiVersion: apps/v1\nkind: Deployment\nmetadata:\n  name: {{ .Release.Name }}\n  labels:\n    {{- include \"x\" . | nindent 4 }}\n",
    ),
    (
        "chart/templates/config.yaml",
        "{{- if .Values.networkPolicy.enabled }}\napiVersion: v1\nkind: ConfigMap\nmetadata: {name: a}\n{{- end }}\n",
    ),
];

/// A policy in which lint finds nothing.
const DENY: &str = "\
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: deny, namespace: shop}
spec: {podSelector: {}, policyTypes: [Ingress, Egress]}
";

/// A program reads no standard error, and lint's exit code says nothing about templates.
#[test]
fn what_was_passed_over_and_may_decide_is_a_warning_in_json_and_of_lint() {
    let mut more = CHART.to_vec();
    more.push(("k8s/kustomization.yaml", "namePrefix: a-\nresources: [shop.yaml]\n"));
    let files = repository(&more);
    let has = |warnings: &serde_json::Value, words: &str| {
        let all = warnings.as_array().unwrap_or_else(|| panic!("no list: {warnings}"));
        assert!(all.iter().any(|text| text.as_str().is_some_and(|text| text.contains(words))), "{words}: {warnings}");
    };
    let of = |words: &[&str]| files.run(&[words, &["-f", "r", "-o", "json"]].concat()).json()["warnings"].clone();
    for words in [&["explain", "shop/web", "shop/api:80"][..], &["explain", "shop/web"], &["matrix"], &["lint"]] {
        has(&of(words), "has a kustomization");
        has(&of(words), "are not rendered");
    }
    // What is not rendered is no finding: a policy without any stays one.
    files.add("r/k8s/shop.yaml", DENY);
    let lint = files.run(&["lint", "-f", "r"]);
    assert_eq!(lint.code, 0, "{}{}", lint.out, lint.err);
    assert!(lint.err.contains("has a kustomization") && lint.err.contains("are not rendered"), "{}", lint.err);
    assert!(!lint.err.contains("files of Helm charts"), "that decides nothing: {}", lint.err);
}

#[test]
fn what_is_no_object_is_passed_over_in_one_line_for_each_kind_of_thing() {
    let mut more = CHART.to_vec();
    more.extend([
        ("package.json", "{\"name\": \"web\", \"version\": \"1.0.0\", \"dependencies\": {\"a\": \"^1\"}}"),
        ("tsconfig.json", "{\n  // why\n  \"compilerOptions\": {},\n}\n"),
        ("grafana/dashboard.json", "{\"title\": \"d\", \"panels\": [], \"schemaVersion\": 39, \"kind\": \"x\"}"),
        ("grafana/source.yaml", "apiVersion: 1\ndatasources: []\n"),
        ("ci.yaml", "on: [push]\njobs: {a: {steps: [{run: 'echo ${{ github.ref }}'}]}}\n"),
        ("list.yaml", "- a\n- b\n"),
        (
            "secret.enc.yaml",
            "apiVersion: v1\nkind: Secret\nmetadata: {name: s}\ndata: {a: 'ENC[AES256_GCM,data:x]'}\nsops: {mac: m}\n",
        ),
        ("values.enc.yaml", "password: 'ENC[AES256_GCM,data:x]'\nsops: {mac: m}\n"),
    ]);
    let files = repository(&more);
    let answer = files.run(&["matrix", "-f", "r"]);
    assert_eq!(answer.code, 0, "{}", answer.err);
    // Templates may make the pods that no object is.
    assert_eq!(answer.out.replace(" (not read)", ""), files.run(&["matrix", "-f", "r/k8s"]).out);
    let lines: Vec<&str> = answer.err.lines().filter(|line| !line.contains("tunnels")).collect();
    assert_eq!(lines.len(), 4, "{}", answer.err);
    for words in [
        "2 files with templates ({{ … }}) are not rendered",
        "helm template r/chart | npc … -f -",
        "passed over 2 files of Helm charts (r/chart/Chart.yaml, r/chart/values.yaml)",
        "1 file is encrypted by SOPS",
        "sops -d r/values.enc.yaml",
        "passed over 6 files without Kubernetes objects",
    ] {
        assert!(answer.err.contains(words), "{words}: {}", answer.err);
    }
}

#[test]
fn a_broken_object_stays_an_error_in_a_repository() {
    for broken in [
        "apiVersion: networking.k8s.io/v1\nkind: NetworkPolicy\nmetadata: {name: a}\nspec: {podSelector: [}\n",
        "apiVersion: v1\nkind: Pod\nmetadata: {name: a}\nspec: {hostNetwork: perhaps}\n",
        "apiVersion: networking.k8s.io/v1\nmetadata: {name: a}\nspec: {podSelector: {}}\n",
        "kind: NetworkPolicy\nspec: {podSelector: {}}\n",
        "kind: NetworkPolicy\nmetadata:\n\tname: a\n",
        "metadata: {name: a}\nspec: {podSelector: {}}\n",
    ] {
        let mut more = CHART.to_vec();
        more.push(("broken.yaml", broken));
        let answer = repository(&more).run(&["matrix", "-f", "r"]);
        assert_eq!(answer.code, 2, "{broken}{}", answer.err);
        assert!(answer.err.contains("r/broken.yaml:"), "{}", answer.err);
    }
}

#[test]
fn a_document_beside_a_template_is_judged_by_its_own_text() {
    let rules = "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: r}\ndata: {a: '{{ $labels.instance }}'}\n---\n";
    let broken = "apiVersion: networking.k8s.io/v1\nkind: NetworkPolicy\nmetadata: {name: a}\nspec: {podSelector: [}\n";
    let files = repository(&[("rules.yaml", &format!("{rules}{broken}"))]);
    let answer = files.run(&["matrix", "-f", "r"]);
    assert_eq!(answer.code, 2, "{}", answer.err);
    assert!(answer.err.contains("r/rules.yaml:9:"), "{}", answer.err);
}

#[test]
fn a_kustomization_is_said_and_its_patches_do_not_replace_objects() {
    let patch = "apiVersion: apps/v1\nkind: Deployment\nmetadata: {name: web, namespace: shop}\n\
                 spec: {template: {metadata: {labels: {app: other}}}}\n";
    let files = repository(&[
        ("prod/kustomization.yaml", "resources: [../k8s]\npatches: [{path: ./web.yaml}, {path: ops.yaml}]\n"),
        ("prod/web.yaml", patch),
        ("prod/ops.yaml", "- {op: replace, path: /spec/replicas, value: 3}\n"),
        (
            "dev/kustomization.yaml",
            "apiVersion: kustomize.config.k8s.io/v1beta1\nkind: Kustomization\npatchesStrategicMerge: [web.yaml]\n",
        ),
        ("dev/web.yaml", patch),
    ]);
    let answer = files.run(&["matrix", "-f", "r"]);
    assert_eq!(answer.code, 0, "{}", answer.err);
    assert_eq!(answer.out, files.run(&["matrix", "-f", "r/k8s"]).out);
    assert!(answer.err.contains("passed over 3 patches of kustomizations"), "{}", answer.err);
    assert!(answer.err.contains("r/dev, r/prod have kustomizations"), "{}", answer.err);
    assert!(answer.err.contains("kubectl kustomize r/dev | npc … -f -"), "{}", answer.err);
}

#[test]
fn a_quoted_template_is_no_object_either() {
    let quoted = "apiVersion: v1\nkind: Pod\nmetadata: {name: new, labels: {app: '{{ .Chart.Name }}'}}\n";
    let files = repository(&[("pod.yaml", quoted)]);
    let answer = files.run(&["matrix", "-f", "r"]);
    assert_eq!(answer.out.replace(" (not read)", ""), files.run(&["matrix", "-f", "r/k8s"]).out);
    assert!(answer.err.contains("1 file with templates"), "{}", answer.err);
}

#[test]
fn an_input_without_any_object_is_an_error() {
    let files = Files::of("");
    files.add("package.json", "{\"name\": \"web\"}");
    let answer = files.run(&["matrix", "-f", "package.json"]);
    assert_eq!(answer.code, 2);
    assert!(answer.err.contains("no Kubernetes object is in this input"), "{}", answer.err);
}

#[test]
fn a_path_that_does_not_exist_is_an_error_whatever_the_flags() {
    let files = repository(&[]);
    let answer = files.run(&["matrix", "-f", "r", "-f", "nowhere.yaml", "--allow-errors"]);
    assert_eq!(answer.code, 2);
    assert!(answer.err.contains("nowhere.yaml"), "{}", answer.err);
}

const HIDDEN: &str = "apiVersion: networking.k8s.io/v1\nkind: NetworkPolicy\nmetadata: {name: hidden, namespace: shop}\nspec: {podSelector: {}}\n";

/// What an answer says beside a file that may hold a policy: UNKNOWN, and how to read it.
fn unknown_beside(name: &str, text: &str, words: &str) {
    let files = repository(&[(name, text)]);
    let answer = files.run(&["explain", "shop/web", "shop/db:5432", "-f", "r", "-o", "json"]);
    let before = files.run(&["explain", "shop/web", "shop/db:5432", "-f", "r/k8s", "-o", "json"]).json();
    assert_ne!(answer.json()["warnings"], before["warnings"], "{name}");
    let ends = ["explain", "monitoring/prometheus", "203.0.113.5:80", "-f", "r"];
    let answer = files.run(&ends);
    assert!(answer.out.contains("UNKNOWN"), "{name}: {}{}", answer.out, answer.err);
    let said = [answer.out, answer.err].concat();
    assert!(said.contains(words), "{name}: {said}");
    let without = files.run(&["explain", "monitoring/prometheus", "203.0.113.5:80", "-f", "r/k8s"]);
    assert!(!without.out.contains("UNKNOWN"), "{}", without.out);
}

#[test]
fn a_file_that_hides_a_policy_makes_answers_unknown() {
    let encrypted = "ENC[AES256_GCM,data:x,iv:y,tag:z,type:str]";
    let whole = format!(
        "apiVersion: {encrypted}\nkind: {encrypted}\nmetadata: {{name: {encrypted}}}\nsops: {{mac: {encrypted}}}\n"
    );
    let whole = whole.replace("ENC[", "'ENC[").replace("str]", "str]'");
    unknown_beside("whole.enc.yaml", &whole, "sops -d");
    let label = HIDDEN.replace("podSelector: {}", "podSelector: {matchLabels: {app: 'ENC[AES256_GCM,data:x]'}}");
    unknown_beside("label.enc.yaml", &format!("{label}sops: {{mac: 'ENC[AES256_GCM,data:y]'}}\n"), "sops -d");
    let of_openshift = format!(
        "apiVersion: template.openshift.io/v1\nkind: Template\nmetadata: {{name: t}}\nobjects:\n- {}",
        HIDDEN.trim_end().replace('\n', "\n  ")
    );
    unknown_beside("openshift.yaml", &format!("{of_openshift}\n"), "oc process -f");
    unknown_beside("envsubst.yaml", &HIDDEN.replace("namespace: shop", "namespace: '${NS}'"), "not rendered");
}

#[test]
fn a_list_of_objects_without_kind_list_is_an_error() {
    let list = format!("- {}\n", HIDDEN.trim_end().replace('\n', "\n  "));
    let json = r#"[{"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "x"}}]"#;
    for (name, text) in [("list.yaml", list.as_str()), ("list.json", json)] {
        let answer = repository(&[(name, text)]).run(&["matrix", "-f", "r"]);
        assert_ne!(answer.code, 0, "{name}: {}", answer.out);
        assert!(answer.err.contains("a list of objects is no object"), "{name}: {}", answer.err);
    }
}

#[test]
fn a_strategic_merge_patch_is_no_policy() {
    let patch = format!("$patch: delete\n{HIDDEN}").replace("name: hidden", "name: web");
    let files = repository(&[("overlays/delete.yaml", &patch)]);
    let of = |input: &str| files.run(&["matrix", "-f", input]);
    let (with, without) = (of("r"), of("r/k8s"));
    assert_eq!((with.code, &with.out), (0, &without.out), "{}", with.err);
    assert!(with.err.contains("1 patch of a kustomization"), "{}", with.err);
}

#[test]
fn an_address_without_a_row_is_said() {
    let files = Files::of(SHOP);
    let answer = files.npc("matrix", &["--from", "203.0.113.5"]);
    assert_eq!(answer.code, 3, "{}", answer.out);
    assert!(answer.err.contains("add --address 203.0.113.5"), "{}", answer.err);
    let answer = files.npc("matrix", &["--from", "203.0.113.5", "--address", "203.0.113.5"]);
    assert!(answer.code == 0 && answer.out.contains("203.0.113.5"), "{}{}", answer.out, answer.err);
}
