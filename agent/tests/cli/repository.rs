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

/// A base is not what is applied: the folder to build is one that no other is made of.
#[test]
fn of_several_kustomizations_one_that_no_other_uses_is_named() {
    let files = repository(&[
        ("base/kustomization.yaml", "resources: [np.yaml]\n"),
        ("base/np.yaml", "apiVersion: v1\nkind: Namespace\nmetadata: {name: more}\n"),
        ("overlays/prod/kustomization.yaml", "resources: [../../base]\nnamePrefix: a-\n"),
    ]);
    let answer = files.run(&["matrix", "-f", "r"]);
    assert!(answer.err.contains("r/base, r/overlays/prod have kustomizations"), "{}", answer.err);
    assert!(answer.err.contains("npc … -k r/overlays/prod, or kubectl kustomize r/overlays/prod |"), "{}", answer.err);
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
fn a_path_that_does_not_exist_is_an_error_with_any_flags() {
    let files = repository(&[]);
    let answer = files.run(&["matrix", "-f", "r", "-f", "nowhere.yaml", "--allow-errors"]);
    assert_eq!(answer.code, 2);
    assert!(answer.err.contains("nowhere.yaml"), "{}", answer.err);
}

/// What another program has yet to finish may be a policy of the very pods that are asked about.
#[test]
fn what_another_program_has_yet_to_make_leaves_the_verdict_open() {
    let policy = |metadata: &str, spec: &str| {
        format!("apiVersion: networking.k8s.io/v1\nkind: NetworkPolicy\nmetadata: {metadata}\nspec: {spec}\n")
    };
    let encrypted = "ENC[AES256_GCM,data:a,iv:b,tag:c,type:str]";
    let sops = format!("sops: {{age: [], lastmodified: x, mac: '{encrypted}', version: 3.8.1}}\n");
    let name = "{name: p, namespace: shop}";
    for (name, text, words) in [
        (
            "all.enc.yaml",
            format!("apiVersion: {encrypted}\nkind: {encrypted}\nmetadata: {{name: {encrypted}}}\n{sops}"),
            "1 file is encrypted by SOPS, so what is encrypted was not judged (r/all.enc.yaml); sops -d r/all.enc.yaml",
        ),
        (
            "label.enc.yaml",
            format!("{}{sops}", policy(name, &format!("{{podSelector: {{matchLabels: {{app: '{encrypted}'}}}}}}"))),
            "1 file is encrypted by SOPS",
        ),
        ("flux.yaml", policy("{name: p, namespace: '${NS}'}", "{podSelector: {}}"), "envsubst < r/flux.yaml"),
        (
            "hand.yaml",
            policy("{name: p, namespace: <NAMESPACE>}", "{podSelector: {}}"),
            "replace <NAME> by hand, ${NAME} by: NAME=… envsubst < r/hand.yaml",
        ),
        ("label.yaml", policy(name, "{podSelector: {matchLabels: {app: '${APP}'}}}"), "1 file with parameters"),
        // `helm -n shop` sets the namespace of what names none.
        ("any.yaml", policy("{name: p}", "{podSelector: {matchLabels: {app: '${APP}'}}}"), "1 file with parameters"),
        (
            "chart.yaml",
            policy(name, "{podSelector: {matchLabels: {app: '{{ .Values.app }}'}}}"),
            "1 file with templates",
        ),
        ("chart.json", policy(name, "{podSelector: {}}").replace("p,", "{{ .Values.name }},"), "1 file with templates"),
        (
            "openshift.yaml",
            "apiVersion: template.openshift.io/v1\nkind: Template\nmetadata: {name: t}\nparameters: [{name: NAME}]\n\
             objects:\n- apiVersion: networking.k8s.io/v1\n  kind: NetworkPolicy\n  metadata: {name: '${NAME}'}\n  \
             spec: {podSelector: {}}\n"
                .to_owned(),
            "oc process -f r/openshift.yaml --local",
        ),
    ] {
        let files = repository(&[(name, &text)]);
        let answer = files.run(&["explain", "-f", "r", "shop/web", "shop/api:80"]);
        assert_eq!(answer.code, 4, "{text}{}{}", answer.out, answer.err);
        assert!(answer.err.contains(words), "{words}: {}", answer.err);
        assert!(answer.out.contains(&format!("r/{name} ")), "{}", answer.out);
        let json = files.run(&["explain", "-f", "r", "shop/web", "shop/api:80", "-o", "json"]).json();
        assert_eq!(json["verdict"], "Unknown");
        assert_ne!(json["warnings"], serde_json::json!([]));
    }
    // Its names say that it is of another namespace.
    let other = policy("{name: p, namespace: other}", "{podSelector: {matchLabels: {app: '${APP}'}}}");
    let files = repository(&[("other.yaml", &other)]);
    let asked = ["shop/web", "shop/api:8080"];
    let code = |folder: &str| files.run(&[&["explain", "-f", folder], &asked[..]].concat()).code;
    assert_eq!(code("r"), code("r/k8s"));
}

#[test]
fn a_workload_of_another_project_that_is_not_finished_is_said_to_be_unread() {
    let rollout = |name: &str, label: &str| {
        format!(
            "apiVersion: argoproj.io/v1alpha1\nkind: Rollout\nmetadata: {{name: {name}, namespace: shop}}\n\
             spec: {{template: {{metadata: {{labels: {{app: {label}}}}}, spec: {{containers: [{{name: c}}]}}}}}}\n"
        )
    };
    let files =
        repository(&[("k8s/blue.yaml", &rollout("blue", "blue")), ("rollout.yaml", &rollout("canary", "'${APP}'"))]);
    for name in ["shop/canary", "shop/rollout/canary"] {
        let answer = files.run(&["explain", "-f", "r", name, "shop/api:80"]);
        assert_eq!(answer.code, 4, "{name}: {}{}", answer.out, answer.err);
        assert!(answer.out.contains("r/rollout.yaml has parameters"), "{name}: {}{}", answer.out, answer.err);
    }
    // It is no policy: what is asked of others stays known.
    let asked = ["shop/web", "shop/api:80"];
    let [with, without] = ["r", "r/k8s"].map(|folder| files.run(&[&["explain", "-f", folder], &asked[..]].concat()));
    assert_eq!((with.code, with.out), (without.code, without.out));
}

/// SOPS may encrypt less than all of a file, and of what it leaves readable all is known.
#[test]
fn what_sops_left_readable_is_read() {
    let policy = "apiVersion: networking.k8s.io/v1\nkind: NetworkPolicy\nmetadata: {name: p, namespace: shop}\n\
                  spec: {podSelector: {}}\nsops: {mac: 'ENC[AES256_GCM,data:x]', encrypted_regex: ^data$}\n";
    let files = repository(&[("policy.yaml", policy)]);
    let lint = files.run(&["lint", "-f", "r"]);
    assert!(!lint.out.contains("sops") && !lint.err.contains("SOPS"), "{}{}", lint.out, lint.err);
    assert!(files.run(&["explain", "-f", "r", "netpol/p", "-n", "shop"]).out.contains("shop/p"));
}

#[test]
fn objects_in_a_list_of_no_kind_are_an_error() {
    let policy = "{apiVersion: networking.k8s.io/v1, kind: NetworkPolicy, metadata: {name: p, namespace: shop}, spec: \
                  {podSelector: {}}}";
    let json = "[\n  {\"apiVersion\": \"apps/v1\", \"kind\": \"Deploymnt\", \"metadata\": {\"name\": \"a\"}}\n]\n";
    for (name, text, place) in [
        ("list.yaml", format!("- a\n- {policy}\n"), "r/list.yaml:2:3: error"),
        ("list.json", json.to_owned(), "r/list.json:2:3: error"),
    ] {
        let files = repository(&[(name, &text)]);
        for words in [&["matrix"][..], &["explain", "shop/web", "shop/api:80"]] {
            let answer = files.run(&[words, &["-f", "r"]].concat());
            assert_eq!(answer.code, 2, "{}{}", answer.out, answer.err);
            assert!(answer.err.contains(place) && answer.err.contains("kind: List"), "{}", answer.err);
        }
    }
    let other = "- {kind: ServiceAccount, name: a}\n- {hosts: all, kind: Pod}\n- {apiVersion: v1, kind: ConfigMap}\n";
    assert_eq!(repository(&[("other.yaml", other)]).run(&["matrix", "-f", "r"]).code, 0);
}

#[test]
fn a_strategic_merge_patch_is_no_object() {
    let delete = "$patch: delete\napiVersion: networking.k8s.io/v1\nkind: NetworkPolicy\n\
                  metadata: {name: api, namespace: shop}\n";
    let part = "apiVersion: apps/v1\nkind: Deployment\nmetadata: {name: web, namespace: shop}\n\
                spec: {template: {spec: {containers: [{$patch: delete, name: c}]}}}\n";
    let files = repository(&[("patches/delete.yaml", delete), ("patches/part.yaml", part)]);
    let matrix = files.run(&["matrix", "-f", "r"]);
    assert_eq!(matrix.out, files.run(&["matrix", "-f", "r/k8s"]).out);
    assert!(matrix.err.contains("passed over 2 patches"), "{}", matrix.err);
    assert!(!matrix.err.contains("counts instead"), "{}", matrix.err);
    let json = files.run(&["matrix", "-f", "r", "-o", "json"]).json();
    assert!(json["warnings"].to_string().contains("patches/delete.yaml"), "{}", json["warnings"]);
}

#[test]
fn what_makes_pods_by_a_template_anywhere_is_said() {
    let object = |api_version: &str, kind: &str, spec: &str| {
        format!("apiVersion: {api_version}\nkind: {kind}\nmetadata: {{name: x, namespace: shop}}\nspec: {spec}\n")
    };
    let pod = "{spec: {containers: [{name: c, image: x}]}}";
    for (text, said) in [
        (
            object(
                "machinelearning.seldon.io/v1",
                "SeldonDeployment",
                &format!("{{predictors: [{{componentSpecs: [{pod}]}}]}}"),
            ),
            "SeldonDeployment.machinelearning.seldon.io",
        ),
        (
            object(
                "elasticsearch.k8s.elastic.co/v1",
                "Elasticsearch",
                &format!("{{nodeSets: [{{podTemplate: {pod}}}]}}"),
            ),
            "Elasticsearch.elasticsearch.k8s.elastic.co",
        ),
        (object("kubevirt.io/v1", "VirtualMachine", "{running: true}"), "VirtualMachine.kubevirt.io"),
        (object("helm.toolkit.fluxcd.io/v2", "HelmRelease", "{chart: {}}"), "HelmRelease.helm.toolkit.fluxcd.io"),
        (object("argoproj.io/v1alpha1", "Application", "{project: x}"), "Application.argoproj.io"),
    ] {
        let files = repository(&[("maker.yaml", &text)]);
        let json = files.run(&["explain", "-f", "r", "shop/web", "shop/api:80", "-o", "json"]).json();
        assert!(json["warnings"].to_string().contains(&format!("1 {said}")), "{text}: {}", json["warnings"]);
    }
    for text in [
        object("kyverno.io/v1", "ClusterPolicy", &format!("{{rules: [{{validate: {{pattern: {pod}}}}}]}}")),
        object("example.com/v1", "Thing", "{server: {containers: [{name: c}]}}"),
        object("projectcalico.org/v3", "StagedNetworkPolicy", "{}"),
        format!("apiVersion: v1\nkind: PodTemplate\nmetadata: {{name: x}}\ntemplate: {pod}\n"),
    ] {
        let files = repository(&[("other.yaml", &text)]);
        let json = files.run(&["explain", "-f", "r", "shop/web", "shop/api:80", "-o", "json"]).json();
        let plain = files.run(&["explain", "-f", "r/k8s", "shop/web", "shop/api:80", "-o", "json"]).json();
        assert_eq!(json["warnings"], plain["warnings"], "{text}");
    }
}

/// A policy that selects the api, which the shop has too.
const API: &str = "apiVersion: networking.k8s.io/v1\nkind: NetworkPolicy\nmetadata: {name: api, namespace: monitoring}\n\
                   spec: {podSelector: {}, ingress: [{}]}\n";

/// The policies were asked for, and something else was kept in their place.
#[test]
fn a_named_file_without_objects_is_an_error_and_in_a_folder_it_is_told_apart() {
    let status = "{\"kind\":\"Status\",\"apiVersion\":\"v1\",\"status\":\"Failure\",\"message\":\"networkpolicies is \
                  forbidden\",\"reason\":\"Forbidden\",\"code\":403}";
    let asked = ["explain", "192.0.2.1", "monitoring/prometheus:9090"];
    for (name, text, is_printed) in [
        ("table.yaml", "NAME  POD-SELECTOR  AGE\napi  app=api  3d\n", true),
        ("described.yaml", "Name:         api\nNamespace:    shop\nSpec:\n  PodSelector:     app=api\n", true),
        (
            "error.yaml",
            "Error from server (Forbidden): networkpolicies.networking.k8s.io is forbidden: User \"x\"\n",
            true,
        ),
        ("status.json", status, true),
        ("empty.yaml", "", false),
        ("comment.yaml", "# nothing\n---\n", false),
        ("package.json", "{\"name\": \"web\"}", false),
        ("patch.yaml", "- {op: replace, path: /spec/replicas, value: 3}\n", false),
        ("kustomization.yaml", "resources: [a.yaml]\n", false),
    ] {
        let files = repository(&[(name, text)]);
        let file = format!("r/{name}");
        let named = |more: &[&str]| files.run(&[&asked[..], &["-f", "r/k8s", "-f", &file], more].concat());
        let answer = named(&[]);
        assert_eq!(answer.code, 2, "{name}: {}{}", answer.out, answer.err);
        assert!(answer.err.contains(&format!("{file}:")) || answer.err.contains(&format!("{file} ")), "{}", answer.err);
        assert!(answer.err.contains("no Kubernetes object is in this input"), "{name}: {}", answer.err);
        let answer = named(&["--allow-errors"]);
        assert_eq!(answer.code, 4, "{name}: {}{}", answer.out, answer.err);
        assert_eq!(files.run(&["lint", "-f", &file]).code, 1, "{name}");
        let folder = files.run(&[&asked[..], &["-f", "r"]].concat());
        assert_eq!(folder.code, if is_printed { 4 } else { 0 }, "{name}: {}{}", folder.out, folder.err);
        assert_eq!(folder.err.contains("what kubectl printed for people"), is_printed, "{name}: {}", folder.err);
    }
    // A list without items is what kubectl prints where there are none.
    let files = repository(&[("none.yaml", "apiVersion: v1\nitems: []\nkind: List\n")]);
    let answer = files.run(&[&asked[..], &["-f", "r/k8s", "-f", "r/none.yaml"]].concat());
    assert_eq!(answer.code, 0, "{}", answer.err);
    // Not even the kind has a colon, so it is no other thing in a folder either.
    let broken = "api_version: networking.k8s.io/v1\nkind NetworkPolicy\nmetadata: {name: p, namespace: shop}\n";
    let files = repository(&[("np.yaml", broken)]);
    for input in ["r", "r/np.yaml"] {
        let answer = files.run(&[&asked[..], &["-f", "r/k8s", "-f", input]].concat());
        assert_eq!(answer.code, 2, "{}{}", answer.out, answer.err);
    }
}

/// What a kustomization changes of a policy, it may turn into its contrary.
#[test]
fn a_policy_that_a_kustomization_patches_is_certain_of_nothing() {
    let asked = ["explain", "192.0.2.1", "monitoring/prometheus:9090"];
    let merge = "apiVersion: networking.k8s.io/v1\nkind: NetworkPolicy\nmetadata: {name: api}\nspec: {ingress: []}\n";
    let json = "- {op: remove, path: /spec/ingress/0}\n";
    let other = merge.replace("name: api", "name: other");
    let deployment = "apiVersion: apps/v1\nkind: Deployment\nmetadata: {name: web}\nspec: {replicas: 3}\n";
    for (kustomization, patch, code) in [
        ("patches: [{path: p.yaml}]\n", merge, 4),
        ("patchesStrategicMerge: [p.yaml]\n", merge, 4),
        ("patches: [{path: p.yaml, target: {kind: NetworkPolicy, name: api}}]\n", json, 4),
        (
            "patchesJson6902: [{path: p.yaml, target: {group: networking.k8s.io, kind: NetworkPolicy, name: api}}]\n",
            json,
            4,
        ),
        ("patches: [{path: p.yaml, target: {labelSelector: a=b}}]\n", json, 4),
        ("patches: [{path: p.yaml, target: {kind: Deployment}}]\n", json, 0),
        ("patches: [{path: p.yaml}]\n", deployment, 0),
        // The patch is for another policy. This one is not changed, and it admits everything, also if other policies do
        // not.
        ("patches: [{path: p.yaml}]\n", other.as_str(), 0),
    ] {
        let files = repository(&[
            ("k8s/api.yaml", API),
            ("prod/kustomization.yaml", &format!("resources: [../k8s]\n{kustomization}")),
            ("prod/p.yaml", patch),
        ]);
        let answer = files.run(&[&asked[..], &["-f", "r"]].concat());
        assert_eq!(answer.code, code, "{kustomization}{patch}{}{}", answer.out, answer.err);
        if code == 4 {
            assert!(answer.out.contains("r/prod/p.yaml has a patch of networkpolicy api"), "{}", answer.out);
            let json = files.run(&[&asked[..], &["-f", "r", "-o", "json"]].concat()).json();
            assert!(json["warnings"].to_string().contains("prod/p.yaml"), "{}", json["warnings"]);
        }
    }
    let inline = "patches:\n- patch: |-\n    apiVersion: networking.k8s.io/v1\n    kind: NetworkPolicy\n    \
                  metadata: {name: api}\n    spec: {ingress: []}\n";
    let files = repository(&[("k8s/api.yaml", API), ("prod/kustomization.yaml", inline)]);
    assert_eq!(files.run(&[&asked[..], &["-f", "r"]].concat()).code, 4);
}

#[test]
fn templates_of_other_programs_are_told_apart_and_get_no_help_of_helm() {
    let jinja = "apiVersion: networking.k8s.io/v1\nkind: NetworkPolicy\nmetadata: {name: x, namespace: shop}\nspec:\n\
                 {% if foo %}\n  podSelector: {}\n{% endif %}\n";
    let erb = "apiVersion: v1\nkind: Pod\nmetadata: {name: <%= name %>}\n";
    let helmfile = "repositories: []\nreleases: [{name: x, values: [{a: {{ env \"X\" }} }]}]\n";
    for (name, text, help) in [
        ("jinja.yaml", jinja, "by the program that they are for"),
        ("erb.yaml", erb, "by the program that they are for"),
        ("helmfile.yaml", helmfile, "helmfile -f r/helmfile.yaml template"),
    ] {
        let answer = repository(&[(name, text)]).run(&["matrix", "-f", "r"]);
        assert_eq!(answer.code, 0, "{name}: {}", answer.err);
        assert!(answer.err.contains("1 file with templates") && answer.err.contains(help), "{name}: {}", answer.err);
        assert!(!answer.err.contains("helm template"), "{name}: {}", answer.err);
    }
    let asked = ["explain", "-f", "r", "shop/web", "shop/api:80"];
    let answer = repository(&[("jinja.yaml", jinja)]).run(&asked);
    assert_eq!(answer.code, 4, "{}{}", answer.out, answer.err);
}

#[test]
fn a_pod_template_by_another_name_is_taken_as_one() {
    let widget = "apiVersion: foo.example.com/v1\nkind: Widget\nmetadata: {name: x, namespace: shop}\nspec: {podTemplate: \
                  {metadata: {labels: {app: web}}, spec: {containers: [{name: c, image: x}]}}}\n";
    let files = repository(&[("widget.yaml", widget)]);
    let web = files.run(&["explain", "-f", "r", "shop/web", "shop/api:8080"]);
    let answer = files.run(&["explain", "-f", "r", "shop/x", "shop/api:8080"]);
    assert_eq!(answer.code, web.code, "{}{}", answer.out, answer.err);
    assert!(!answer.err.contains("are not in the input"), "{}", answer.err);
}
