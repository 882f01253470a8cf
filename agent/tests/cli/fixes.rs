//! The fixes that `npc explain` proposes: kubectl takes the patches, and what it makes of the
//! objects is allowed.

use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;

use crate::{Files, SHOP};

/// kubectl of the machine, or the one that `deploy/helm.sh` fetched.
fn kubectl() -> Option<PathBuf> {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("../deploy/helm.sh");
    let fetched = Command::new(script).arg("--cached").output().ok()?;
    let fetched = Path::new(String::from_utf8_lossy(&fetched.stdout).trim()).join("kubectl");
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::iter::once(fetched)
        .chain(std::env::split_paths(&path).map(|folder| folder.join("kubectl")))
        .find(|program| program.is_absolute() && program.is_file())
}

/// The document of a file that has a kind and a name.
fn document(files: &Files, kind: &str, name: &str) -> String {
    let text = std::fs::read_to_string(files.path().join("in.yaml")).unwrap();
    let is_meant = |document: &&str| {
        document.contains(&format!("kind: {kind}\n")) && document.contains(&format!("metadata: {{name: {name},"))
    };
    text.split("---\n").find(is_meant).unwrap_or_else(|| panic!("no {kind} {name}")).to_owned()
}

/// Asks, applies each patch by kubectl to the file's own document, and asks again.
fn patched_by_kubectl(yaml: &str, from: &str, to: &str) {
    let Some(kubectl) = kubectl() else {
        eprintln!("SKIPPED: there is no kubectl; run make tools");
        let may_skip = std::env::var("NPC_MAY_SKIP").unwrap_or_default();
        let is_allowed = may_skip.split_whitespace().any(|lack| lack == "kubectl");
        assert!(is_allowed || std::env::var_os("NPC_STRICT").is_none(), "no kubectl");
        return;
    };
    let files = Files::of(yaml);
    let answer = files.npc("explain", &[from, to, "-o", "json"]);
    assert_eq!(answer.code, 1, "{}{}", answer.out, answer.err);
    let changes = answer.json()["fixes"].as_array().unwrap().clone();
    assert!(!changes.is_empty(), "{}", answer.out);
    for (i, fix) in changes.iter().enumerate() {
        let object = |key: &str| fix["object"][key].as_str().unwrap_or_default();
        let overlay = format!("fixed-{i}.yaml");
        if let Some(created) = fix.get("create").filter(|created| !created.is_null()) {
            files.add(&overlay, &created.to_string());
            continue;
        }
        files.add("one.yaml", &document(&files, object("kind"), object("name")));
        let output = Command::new(&kubectl)
            .args(["patch", "--local", "--dry-run=client", "-f", "one.yaml", "--type=json", "-o", "yaml", "-p"])
            .arg(fix["patch"].to_string())
            .env("KUBECONFIG", "/dev/null")
            .current_dir(files.path())
            .output()
            .unwrap();
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(output.status.success(), "{said}{fix}");
        files.add(&overlay, &String::from_utf8(output.stdout).unwrap());
    }
    let overlays: Vec<String> = (0..changes.len()).map(|i| format!("--overlay=fixed-{i}.yaml")).collect();
    let words: Vec<&str> = [from, to].into_iter().chain(overlays.iter().map(String::as_str)).collect();
    let again = files.npc("explain", &words);
    assert_eq!(again.code, 0, "{}{}", again.out, again.err);
}

#[test]
fn kubectl_takes_the_patches() {
    patched_by_kubectl(SHOP, "monitoring/prometheus", "shop/deploy/api:metrics");
    patched_by_kubectl(SHOP, "shop/web", "shop/svc/api:80");
    // Both directions deny.
    patched_by_kubectl(SHOP, "shop/web", "shop/db:5432");
    // Outside, and from a policy without any egress.
    patched_by_kubectl(SHOP, "shop/db", "203.0.113.9:443");
    // A label of the other end, whose key JSON pointers escape.
    let asks = "podSelector: {matchLabels: {example.com/reads-metrics: \"true\"}}, namespaceSelector: {}";
    let labelled = SHOP.replace("    - podSelector: {matchLabels: {app: prometheus}}", &format!("    - {{{asks}}}"));
    assert_ne!(labelled, SHOP);
    let reader = "---\napiVersion: v1\nkind: Pod\nmetadata: {name: reader, namespace: monitoring, labels: \
                  {example.com/reads-metrics: \"true\"}}\nspec: {containers: []}\n";
    patched_by_kubectl(&format!("{labelled}{reader}"), "monitoring/prometheus", "shop/deploy/api:metrics");
}

#[test]
fn no_fix_admits_every_address_or_every_port() {
    let files = Files::of(SHOP);
    for (from, to, words) in [
        ("0.0.0.0/0", "shop/deploy/db:5432", "only a rule for every address admits this"),
        ("monitoring/prometheus", "shop/deploy/db:1-65535", "it proposes none for all ports"),
    ] {
        let answer = files.npc("explain", &[from, to]);
        assert!(answer.out.contains(words), "{}{}", answer.out, answer.err);
        let json = files.npc("explain", &[from, to, "-o", "json"]).json();
        assert_eq!(json["fixes"].as_array().map(Vec::len), Some(0), "{json}");
    }
}

#[test]
fn a_fix_is_said_with_the_place_to_write_it() {
    let files = Files::of(SHOP);
    let service = files.npc("explain", &["shop/web", "shop/svc/api:80"]);
    let expected = "   = help: add this to spec.egress[0].ports of networkpolicy shop/web:\n           \
                    - port: 8080\n           checked: turns this flow to ALLOWED and opens no other\n";
    assert!(service.out.contains(expected), "{}", service.out);
    let both = files.npc("explain", &["shop/web", "shop/db:5432"]);
    let together = "checked: the changes of both directions together turn this flow to ALLOWED and open no other\n";
    assert_eq!(both.out.matches("= help: ").count(), 2, "{}", both.out);
    assert!(both.out.contains(together), "{}", both.out);
    let all_ports = files.npc("explain", &["monitoring/prometheus", "shop/db"]);
    assert!(all_ports.out.contains("= help: ask about one port"), "{}", all_ports.out);
    let reasons = all_ports.out.matches("= help: ").count();
    assert_eq!(reasons, 1, "{}", all_ports.out);
}

#[test]
fn a_label_on_the_workload_alone_goes_to_its_template() {
    let deployment = |name: &str, own: &str| {
        format!(
            "apiVersion: apps/v1\nkind: Deployment\nmetadata: {{name: {name}, labels: {own}}}\nspec:\n  \
             template:\n    metadata: {{labels: {{app: {name}}}}}\n    spec: {{containers: [{{name: c}}]}}\n---\n"
        )
    };
    let policy = "apiVersion: networking.k8s.io/v1\nkind: NetworkPolicy\nmetadata: {name: api}\nspec:\n  \
                  podSelector: {matchLabels: {app: api}}\n  ingress: [{from: [{podSelector: {matchLabels: {tier: back}}}]}]\n";
    let yaml = [deployment("cart", "{app: cart, tier: back}"), deployment("api", "{}"), policy.to_owned()].concat();
    let answer = Files::of(&yaml).npc("explain", &["cart", "api:8080"]);
    let expected = "add this to spec.template.metadata.labels of default/deploy/cart:\n           tier: back\n";
    assert!(answer.out.contains(expected), "{}", answer.out);
    // Also where the workload does not have it: the rule means what it says.
    let without = Files::of(&yaml.replace(", tier: back}", "}")).npc("explain", &["cart", "api:8080"]);
    assert!(without.out.contains(expected) && !without.out.contains("write in its place"), "{}", without.out);
    patched_by_kubectl(&yaml, "cart", "api:8080");
}

#[test]
fn a_service_alone_answers_for_its_backends() {
    let files = Files::of(SHOP);
    let of = |name: &str| {
        let answer = files.npc("explain", &[name]);
        assert_eq!(answer.code, 0, "{}", answer.err);
        answer.out.lines().skip(1).map(str::to_owned).collect::<Vec<_>>()
    };
    assert_eq!(of("shop/svc/api"), of("shop/deploy/api"));
    assert_ne!(of("shop/svc/api"), of("shop/deploy/db"));
    let json: Value = files.npc("explain", &["shop/svc/api", "-o", "json"]).json();
    assert!(json.is_object());
}

#[test]
fn of_a_host_network_pod_it_is_said_what_holds_for_other_nodes() {
    let node = |name: &str, address: &str| {
        format!(
            "apiVersion: v1\nkind: Node\nmetadata: {{name: {name}}}\nstatus: {{addresses: [{{type: InternalIP, address: {address}}}]}}\n---\n"
        )
    };
    let pod = |name: &str, spec: &str, address: &str| {
        format!(
            "apiVersion: v1\nkind: Pod\nmetadata: {{name: {name}, labels: {{app: {name}}}}}\n\
             spec: {{nodeName: n1, {spec}containers: [{{name: c}}]}}\nstatus: {{phase: Running, podIP: {address}}}\n---\n"
        )
    };
    let policy = "apiVersion: networking.k8s.io/v1\nkind: NetworkPolicy\nmetadata: {name: a}\nspec:\n  \
                  podSelector: {matchLabels: {app: a}}\n  ingress: [{from: [{ipBlock: {cidr: 192.168.0.3/32}}]}]\n";
    let nodes = [node("n1", "192.168.0.1"), node("n2", "192.168.0.2"), node("n3", "192.168.0.3")].concat();
    let pods = [pod("a", "", "10.0.0.1"), pod("host", "hostNetwork: true, ", "192.168.0.1")].concat();
    let files = Files::of(&[nodes, pods, policy.to_owned()].concat());
    let answer = files.npc("explain", &["host", "a:80"]);
    assert_eq!(answer.code, 0, "{}", answer.err);
    assert!(answer.out.contains("from every other node: ALLOWED (n3), DENIED (n2)"), "{}", answer.out);
    let back = files.npc("explain", &["a", "host:80"]);
    assert!(!back.out.contains("every other node"), "nothing isolates it for egress: {}", back.out);
}

/// Pods with an address of each family, and a policy that denies between them.
const DUAL: &str = "\
apiVersion: v1
kind: Pod
metadata: {name: web, labels: {app: web}}
spec: {nodeName: n1, containers: [{name: c}]}
status: {phase: Running, podIPs: [{ip: 10.0.0.1}, {ip: 'fd00::1'}]}
---
apiVersion: v1
kind: Pod
metadata: {name: api, labels: {app: api}}
spec: {nodeName: n1, containers: [{name: c}]}
status: {phase: Running, podIPs: [{ip: 10.0.0.2}, {ip: 'fd00::2'}]}
---
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: api}
spec:
  podSelector: {matchLabels: {app: api}}
  ingress: [{from: [{podSelector: {matchLabels: {app: web}}}], ports: [{port: 8080}]}]
";

#[test]
fn a_denial_in_both_families_has_the_help_of_one_in_one() {
    let help = |yaml: &str| {
        let answer = Files::of(yaml).npc("explain", &["web", "api:80"]);
        assert_eq!(answer.code, 1, "{}", answer.err);
        assert_eq!(answer.out.matches("DENIED").count(), 1, "{}", answer.out);
        answer.out.split_once("   = help: ").map(|(_, help)| help.to_owned())
    };
    let in_one = help(&DUAL.replace(", {ip: 'fd00::1'}", "").replace(", {ip: 'fd00::2'}", ""));
    assert!(in_one.as_ref().is_some_and(|help| help.contains("- port: 80\n")), "{in_one:?}");
    assert_eq!(help(DUAL), in_one);
}
