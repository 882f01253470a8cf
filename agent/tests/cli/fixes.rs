//! The fixes that `npc explain` proposes: kubectl takes the patches, and what it makes of the
//! objects is allowed.

use std::path::{Path, PathBuf};
use std::process::Command;

use npc_skip::{Lack, skipped};
use serde_json::Value;

use crate::manifests::{CLIENTS, WANTS_TIER, deny, node, policy, policy_for, running, service, workload};
use crate::{Files, SHOP};

/// kubectl of the machine, or the one that `deploy/helm.sh` fetched.
pub(crate) fn kubectl() -> Option<PathBuf> {
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
        let is_named = |end: char| document.contains(&format!("name: {name}{end}"));
        document.contains(&format!("kind: {kind}\n"))
            && document.contains("metadata: {")
            && (is_named(',') || is_named('}'))
    };
    text.split("---\n").find(is_meant).unwrap_or_else(|| panic!("no {kind} {name}")).to_owned()
}

/// Asks, applies each patch by kubectl to the file's own document, and asks again.
pub(crate) fn patched_by_kubectl(yaml: &str, from: &str, to: &str) {
    let Some(kubectl) = kubectl() else {
        return skipped(Lack::Program("kubectl"), &"there is no kubectl; run make tools");
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
    // All ports.
    patched_by_kubectl(SHOP, "monitoring/prometheus", "shop/deploy/db");
    patched_by_kubectl(SHOP, "shop/web", "shop/deploy/db");
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

/// Each patch is made for the object as the patches before it leave it, and no two policies get one name.
#[test]
fn all_changes_of_an_answer_can_be_applied_in_turn() {
    let backends = ["one", "other"].map(|name| {
        format!(
            "apiVersion: apps/v1\nkind: Deployment\nmetadata: {{name: {name}}}\nspec:\n  selector: {{matchLabels: {{app: \
             {name}}}}}\n  template: {{metadata: {{labels: {{app: {name}, part: both}}}}, spec: {{containers: [{{name: c, \
             ports: [{{containerPort: 9000}}, {{containerPort: 9100}}]}}]}}}}\n---\n"
        )
    });
    let ends = [
        workload("Deployment", "cart", "replicas: 1"),
        backends.concat(),
        service("both", "{part: both}", "name: a, port: 443, targetPort: 9000}, {name: b, port: 81, targetPort: 9100"),
        service("one", "{app: one}", "name: a, port: 443, targetPort: 9000}, {name: b, port: 81, targetPort: 9100"),
    ]
    .concat();
    for policies in [
        deny("Ingress, Egress"),
        policy_for("{app: cart}", "name: cart", "policyTypes: [Egress]"),
        policy_for("{app: one}", "name: one", "policyTypes: [Ingress]"),
        policy_for("{part: both}", "name: both", "ingress: []"),
    ] {
        for to in ["svc/one", "svc/both"] {
            let yaml = [ends.as_str(), &policies].concat();
            let answer = Files::of(&yaml).npc("explain", &["cart", to, "-o", "json"]).json();
            let fixes = answer["fixes"].as_array().unwrap();
            // Those of one flow stand together, behind those of the flows before it.
            let mut flows = &Value::Null;
            let mut first = 0;
            for (place, fix) in fixes.iter().enumerate() {
                if &fix["flows"] != flows {
                    (flows, first) = (&fix["flows"], place);
                }
                assert_eq!(fix["after"], first, "{answer}");
                let command = fix["command"].as_str().unwrap_or_default();
                assert_eq!(command.ends_with("| kubectl apply -f -"), !fix["create"].is_null(), "{answer}");
                assert!(command.contains("kubectl "), "{answer}");
            }
            applied_in_turn(&yaml, "cart", to);
        }
    }
}

/// Asks, applies all changes to the objects of the file, one after the other, and asks again.
fn applied_in_turn(yaml: &str, from: &str, to: &str) {
    let files = Files::of(yaml);
    let answer = files.npc("explain", &[from, to, "-o", "json"]);
    if answer.code == 0 {
        return;
    }
    let mut objects: Vec<Value> = yaml.split("---\n").filter(|text| !text.trim().is_empty()).map(yaml_value).collect();
    for fix in answer.json()["fixes"].as_array().unwrap() {
        let same = |object: &Value| {
            object["kind"] == fix["object"]["kind"] && object["metadata"]["name"] == fix["object"]["name"]
        };
        if !fix["create"].is_null() {
            assert!(!objects.iter().any(same), "a second policy of one name: {fix}");
            objects.push(fix["create"].clone());
            continue;
        }
        let object =
            objects.iter_mut().find(|object| same(object)).unwrap_or_else(|| panic!("nothing to patch: {fix}"));
        let patch: json_patch::Patch = serde_json::from_value(fix["patch"].clone()).unwrap();
        json_patch::patch(object, &patch).unwrap_or_else(|error| panic!("{error}: {fix}"));
    }
    let all: Vec<String> = objects.iter().map(Value::to_string).collect();
    let again = Files::of(&all.join("\n---\n")).npc("explain", &[from, to]);
    assert_eq!(again.code, 0, "{}{}\n{}", again.out, again.err, answer.out);
}

fn yaml_value(text: &str) -> Value {
    serde_saphyr::from_str(text).unwrap_or_else(|error| panic!("{error}: {text}"))
}

#[test]
fn no_fix_admits_every_address_or_every_port_of_a_protocol() {
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
    let expected = "   = help: spec.egress[0].ports[0].port of networkpolicy shop/web is the Service's, and nothing that \
                    the rule means listens on it; write in its place:\n           port: 8080\n           checked: turns \
                    this flow to ALLOWED and opens no other\n";
    assert!(service.out.contains(expected), "{}", service.out);
    // Nothing is left of the mistake then.
    let json = files.npc("explain", &["shop/web", "shop/svc/api:80", "-o", "json"]).json();
    assert_eq!(json["fixes"][0]["verified"], true, "{json}");
    let mended = SHOP.replace("    - port: 80\n", "    - port: 8080\n");
    assert!(files.npc("lint", &[]).out.contains("service-port"));
    assert!(!Files::of(&mended).npc("lint", &[]).out.contains("service-port"));
    let both = files.npc("explain", &["shop/web", "shop/db:5432"]);
    let together = "checked: the changes of both directions together turn this flow to ALLOWED and open no other\n";
    assert_eq!(both.out.matches("= help: ").count(), 2, "{}", both.out);
    assert!(both.out.contains(together), "{}", both.out);
    let all_ports = files.npc("explain", &["monitoring/prometheus", "shop/db:1-65535"]);
    assert!(all_ports.out.contains("= help: ask about one port"), "{}", all_ports.out);
    let reasons = all_ports.out.matches("= help: ").count();
    assert_eq!(reasons, 1, "{}", all_ports.out);
    // A fix for all ports between two ends names both ends and admits no other.
    let json = files.npc("explain", &["monitoring/prometheus", "shop/db", "-o", "json"]).json();
    let proposed = json["fixes"].as_array().unwrap();
    assert!(!proposed.is_empty(), "{json}");
    assert!(proposed.iter().all(|fix| fix["verified"] == true && fix["opens"] == serde_json::json!([])), "{json}");
}

#[test]
fn a_policy_of_another_namespace_is_put_into_that_of_its_pods() {
    let yaml = [CLIENTS, &deny("Ingress")].concat().replace("metadata: {name: ", "metadata: {namespace: shop, name: ");
    let stray = yaml.replace("namespace: shop, name: api}\nspec:\n  podSelector", "name: api}\nspec:\n  podSelector");
    let stray = stray.replace("role: client}}}], ports", "job: once}}}], ports");
    assert_ne!(stray, yaml);
    let answer = Files::of(&stray).npc("explain", &["shop/job/once", "shop/api:8080"]);
    let expected = [
        "= help: networkpolicy default/api selects no pod of its namespace; put it into that of the pods it means:",
        "metadata: {name: api, namespace: shop}",
        "then delete the one in namespace default (kubectl -n default delete networkpolicy api); kubectl moves no object",
        "checked: turns this flow to ALLOWED and opens no other",
    ];
    assert_eq!(helps(&answer), expected, "{}", answer.out);
    patched_by_kubectl(&stray, "shop/job/once", "shop/api:8080");
}

#[test]
fn a_rule_of_the_wrong_direction_is_written_in_the_right_one_by_one_patch() {
    let wrong = policy_for(
        "{job: once}",
        "name: job",
        "policyTypes: [Ingress, Egress]\n  \
         ingress: [{from: [{podSelector: {matchLabels: {app: api}}}], ports: [{port: 8080}]}]",
    );
    // Only the server has the port.
    let clients = CLIENTS.replace("role: client}}}], ports", "job: once}}}], ports");
    let server = "{app: api}}, spec: {containers: [{name: c";
    let clients = clients.replace(server, &format!("{server}, ports: [{{containerPort: 8080}}]"));
    let yaml = [clients.as_str(), &wrong, &deny("Egress")].concat();
    let answer = Files::of(&yaml).npc("explain", &["job/once", "api:8080"]);
    let lines = helps(&answer);
    assert!(lines[0].starts_with("= help: add this to spec.egress of networkpolicy default/job"), "{}", answer.out);
    // What the author wrote stays: that the flow is admitted needs no more.
    assert!(!answer.out.contains("= help: remove"), "{}", answer.out);
    patched_by_kubectl(&yaml, "job/once", "api:8080");
}

/// The lines of the help, without their indent.
pub(crate) fn helps(answer: &crate::Answer) -> Vec<String> {
    let lines = answer.out.lines().skip_while(|line| !line.starts_with("   = help: "));
    let is_help = |line: &&str| line.starts_with("   = help: ") || line.starts_with("           ");
    lines.filter(is_help).map(|line| line.trim_start().to_owned()).collect()
}

#[test]
fn every_change_is_printed_also_of_a_direction_without_a_denial() {
    // The input does not say which pod of the StatefulSet is the first, so egress is unknown.
    let egress = policy_for(
        "{app: cart}",
        "name: cart",
        "policyTypes: [Egress]\n  \
         egress: [{to: [{podSelector: {matchLabels: {statefulset.kubernetes.io/pod-name: api-0}}}]}]",
    );
    let pods = [workload("Deployment", "cart", "replicas: 1"), workload("StatefulSet", "api", "replicas: 2")].concat();
    let yaml = [pods, egress, policy("name: api", "ingress: []")].concat();
    for (yaml, from, to) in [(yaml.as_str(), "cart", "api:8080"), (SHOP, "shop/web", "shop/db:5432")] {
        let files = Files::of(yaml);
        let json = files.npc("explain", &[from, to, "-o", "json"]).json();
        assert_eq!(json["fixes"].as_array().map(Vec::len), Some(2), "{json}");
        let answer = files.npc("explain", &[from, to]);
        let lines = helps(&answer);
        assert_eq!(lines.iter().filter(|line| line.starts_with("= help: ")).count(), 2, "{}", answer.out);
        assert!(lines.last().is_some_and(|last| last.starts_with("checked: the changes of both")), "{}", answer.out);
        assert_eq!(lines.iter().filter(|line| line.starts_with("checked: ")).count(), 1, "{}", answer.out);
    }
}

#[test]
fn a_target_port_that_no_pod_declares_is_the_fault_where_policies_admit_a_declared_one() {
    let service = |target: &str| service("api", "{app: api}", &format!("port: 80{target}"));
    let ends = [workload("Deployment", "cart", "replicas: 1"), workload("Deployment", "api", "replicas: 1")].concat();
    let rule = |port: u16| format!("ingress: [{{from: [{{podSelector: {{}}}}], ports: [{{port: {port}}}]}}]");
    let fault = "targetPort of port 80 of default/svc/api is 80, its pods declare 8080, which policies admit";
    for (target, admitted, is_fault) in [
        ("", 8080, true),
        (", targetPort: 80", 8080, true),
        (", targetPort: 8080", 8080, false),
        // No policy admits what the pods declare.
        ("", 9090, false),
    ] {
        let yaml = [ends.as_str(), &service(target), &policy("name: api", &rule(admitted))].concat();
        let files = Files::of(&yaml);
        let answer = files.npc("explain", &["cart", "svc/api:80"]);
        assert_eq!(answer.out.contains(fault), is_fault, "{target} {admitted}: {}", answer.out);
        let json = files.npc("explain", &["cart", "svc/api:80", "-o", "json"]).json();
        let is_denied = json["verdict"] == "Denied";
        assert_eq!(json["fixes"].as_array().is_some_and(Vec::is_empty), is_fault || !is_denied, "{json}");
        if is_fault {
            assert_eq!(answer.out.matches("= help: ").count(), 1, "{}", answer.out);
            assert!(answer.out.contains("if the containers listen on 80 without declaring it"), "{}", answer.out);
        }
    }
    // A pod that declares no port says nothing.
    let silent = ends.replace(", ports: [{containerPort: 8080}]", "");
    let yaml = [silent.as_str(), &service(""), &policy("name: api", &rule(8080))].concat();
    let answer = Files::of(&yaml).npc("explain", &["cart", "svc/api:80"]);
    assert!(!answer.out.contains("targetPort of"), "{}", answer.out);
    assert!(answer.out.contains("checked: turns this flow to ALLOWED"), "{}", answer.out);
}

#[test]
fn a_policy_with_a_finding_gets_no_patch_and_one_of_its_own_is_offered() {
    let rules = "ingress: [{from: [{podSelector: {matchLabels: {app: web}}}, {ipBlock: {cidr: 192.0.2.0}}]}]";
    let ends = [workload("Deployment", "cart", "replicas: 1"), workload("Deployment", "api", "replicas: 1")].concat();
    let files = Files::of(&[ends, policy("name: api", rules)].concat());
    let answer = files.npc("explain", &["cart", "api:8080"]);
    // The API server would refuse a patch of the policy.
    let first = "= help: add this policy, which admits this flow alone:";
    assert!(helps(&answer).first().is_some_and(|help| help.starts_with(first)), "{}", answer.out);
}

#[test]
fn no_patch_names_an_object_that_has_no_name() {
    let pods = [workload("Deployment", "api", "replicas: 1"), workload("Deployment", "cart", "replicas: 1")].concat();
    let yaml = [pods.clone(), policy("generateName: api-", "ingress: []")].concat();
    let fixes = Files::of(&yaml).npc("explain", &["cart", "api:8080", "-o", "json"]).json()["fixes"].clone();
    assert_eq!(fixes[0]["object"]["name"], "allow-api-from-cart", "{fixes}");
    assert!(fixes[0]["create"].is_object() && fixes[0]["patch"] == serde_json::json!([]), "{fixes}");
    // Nor the object that the label would go to.
    let unnamed = pods.replace("{name: cart}", "{generateName: cart-}");
    let yaml = [unnamed, policy("name: api", WANTS_TIER)].concat();
    let input = Files::of(&yaml);
    let name = input.npc("matrix", &["-o", "json"]).json()["endpoints"].to_string();
    let name = name.split('"').find_map(|word| word.strip_prefix("default/Deployment/cart-")).unwrap().to_owned();
    let fixes = input.npc("explain", &[&format!("cart-{name}"), "api:8080", "-o", "json"]).json()["fixes"].clone();
    assert_eq!(fixes[0]["object"]["kind"], "NetworkPolicy", "{fixes}");
}

#[test]
fn what_is_opened_is_distinguished_from_what_may_be() {
    let host = running("host", "", "{app: host}", "192.168.0.1").replace("nodeName", "hostNetwork: true, nodeName");
    // One replica is on another node; the input does not say the node of the third.
    let api = |name: &str, node: &str, address: &str| {
        running(name, "", "{app: api}", address).replace("nodeName: n1, ", node)
    };
    let replicas = [
        api("api", "nodeName: n2, ", "10.0.0.1"),
        api("api-b", "nodeName: n2, ", "10.0.0.2"),
        api("api-c", "", "10.0.0.3"),
    ];
    let yaml = [node("n1", "192.168.0.1"), host, replicas.concat(), policy("name: api", WANTS_TIER)].concat();
    let input = Files::of(&yaml);
    let answer = input.npc("explain", &["host", "api:8080"]);
    let expected = [
        "checked: turns this flow to ALLOWED, opens 1 other: 192.168.0.1 -> default/pod/api-b TCP 8080",
        "and may open 1 other: 192.168.0.1 -> default/pod/api-c TCP 8080",
    ];
    assert!(helps(&answer).ends_with(&expected.map(str::to_owned)), "{}", answer.out);
    let fixes = input.npc("explain", &["host", "api:8080", "-o", "json"]).json()["fixes"].clone();
    let opens: Vec<(&str, bool)> = (fixes[0]["opens"].as_array().unwrap().iter())
        .map(|of| (of["to"].as_str().unwrap(), of["certain"].as_bool().unwrap()))
        .collect();
    assert_eq!(opens, [("default/api-b", true), ("default/api-c", false)], "{fixes}");
}

#[test]
fn a_new_policy_admits_the_flow_alone_only_if_it_opens_nothing_else() {
    let deny = deny("Ingress");
    let ends = [running("cart", "", "{app: cart}", "10.0.0.1"), running("api", "", "{app: api}", "10.0.0.2")].concat();
    let alone = Files::of(&[&*ends, &deny].concat()).npc("explain", &["cart", "api:8080"]);
    assert!(alone.out.contains("= help: add this policy, which admits this flow alone:\n"), "{}", alone.out);
    // Another pod has the same labels.
    let other = running("db", "", "{app: api}", "10.0.0.3");
    let both = Files::of(&[&*ends, &other, &deny].concat()).npc("explain", &["cart", "api:8080"]);
    assert!(both.out.contains("= help: add this policy:\n"), "{}", both.out);
    assert!(both.out.contains("opens 1 other: default/pod/cart -> default/pod/db TCP 8080"), "{}", both.out);
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
    let policy = policy_for("{app: a}", "name: a", "ingress: [{from: [{ipBlock: {cidr: 192.168.0.3/32}}]}]");
    let nodes = [node("n1", "192.168.0.1"), node("n2", "192.168.0.2"), node("n3", "192.168.0.3")].concat();
    let host = running("host", "", "{app: host}", "192.168.0.1").replace("nodeName", "hostNetwork: true, nodeName");
    let files = Files::of(&[nodes, running("a", "", "{app: a}", "10.0.0.1"), host, policy].concat());
    let answer = files.npc("explain", &["host", "a:80"]);
    assert_eq!(answer.code, 0, "{}", answer.err);
    assert!(answer.out.contains("from every other node: ALLOWED (n3), DENIED (n2)"), "{}", answer.out);
    let back = files.npc("explain", &["a", "host:80"]);
    assert!(!back.out.contains("every other node"), "nothing isolates it for egress: {}", back.out);
}

#[test]
fn nodes_with_addresses_of_both_families_count_once() {
    let node = |number: u8| node(&format!("n{number}"), &format!("192.168.0.{number}"));
    let dual = |number: u8| {
        let second = format!("}}, {{type: InternalIP, address: 'fd01::{number}'}}]}}");
        node(number).replace("}]}", &second)
    };
    let host = running("host", "DaemonSet", "{app: host}", "192.168.0.1");
    let host = host.replace("nodeName", "hostNetwork: true, nodeName");
    let host = host.replace("podIP: 192.168.0.1", "podIPs: [{ip: 192.168.0.1}, {ip: 'fd01::1'}]");
    let files = Files::of(&[dual(1), dual(2), dual(3), host, DUAL.replace("nodeName: n1", "nodeName: n2")].concat());
    let answer = files.npc("explain", &["host", "api:8080"]);
    assert!(answer.out.contains("may run on any of 3 nodes"), "{}{}", answer.out, answer.err);
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
    let help = |with: fn(&str, &str, &str) -> String| {
        let policy =
            policy("name: api", "ingress: [{from: [{podSelector: {matchLabels: {app: web}}}], ports: [{port: 8080}]}]");
        let yaml = [with("web", "{app: web}", "1"), with("api", "{app: api}", "2"), policy].concat();
        let answer = Files::of(&yaml).npc("explain", &["web", "api:80"]);
        assert_eq!(answer.code, 1, "{}", answer.err);
        assert_eq!(answer.out.matches("DENIED").count(), 1, "{}", answer.out);
        answer.out.split_once("   = help: ").map(|(_, help)| help.to_owned())
    };
    let in_one = help(|name, labels, number| running(name, "", labels, &format!("10.0.0.{number}")));
    assert!(in_one.as_ref().is_some_and(|help| help.contains("- port: 80\n")), "{in_one:?}");
    let in_both = help(|name, labels, number| {
        let addresses = format!("10.0.0.{number}, podIPs: [{{ip: 10.0.0.{number}}}, {{ip: 'fd00::{number}'}}]");
        running(name, "", labels, &addresses)
    });
    assert_eq!(in_both, in_one);
}

/// A program that reads the JSON knows of what is not proposed what the text says.
#[test]
fn the_json_has_the_changes_that_would_close_something() {
    let api = running("api", "", "{app: api, tier: front}", "10.0.0.2");
    let ends = [running("web", "", "{app: web}", "10.0.0.1"), api].concat();
    // It would select `api` too, and so close its egress.
    let near = policy_for(
        "{app: api, tier: back}",
        "name: api",
        "policyTypes: [Ingress, Egress]\n  ingress: [{from: [{podSelector: {matchLabels: {app: web}}}], ports: [{port: 80}]}]",
    );
    let files = Files::of(&[&*ends, &near, &deny("Ingress")].concat());
    let answer = files.npc("explain", &["web", "api:80"]);
    let note = "   = note: a change of spec.podSelector of networkpolicy default/api would admit it too, and close";
    assert!(answer.out.contains(note), "{}{}", answer.out, answer.err);
    let json = files.npc("explain", &["web", "api:80", "-o", "json"]).json();
    let would_close = &json["fixes"][0]["wouldClose"];
    assert_eq!(would_close[0]["object"]["name"], "api", "{json}");
    assert_eq!(would_close[0]["patch"][0]["path"], "/spec/podSelector", "{json}");
    let closes = would_close[0]["closes"].as_array().unwrap();
    assert!(!closes.is_empty() && closes.iter().all(|of| of["from"] == "default/api"), "{json}");
    // Both say of the other fix that it was checked.
    assert!(json["fixes"][0]["verified"] == true && answer.out.contains("checked: turns"), "{}{json}", answer.out);
}

/// The reader learns which bound it was, and not that there is no such change.
#[test]
fn a_fix_that_is_not_looked_for_names_the_bound() {
    let mut text = deny("Ingress");
    for number in 0..101 {
        for (name, third) in [("a", 1), ("b", 2)] {
            let (address, labels) = (format!("10.0.{third}.{number}"), format!("{{app: {name}}}"));
            text.push_str(&running(&format!("{name}{number}"), "", &labels, &address));
        }
    }
    let files = Files::of(&text);
    let answer = files.npc("explain", &["a1", "b1:80"]);
    assert_eq!(answer.code, 1, "{}", answer.err);
    assert!(answer.out.contains("between more than 10000 pairs of pods or addresses"), "{}", answer.out);
    // All pods on both sides are more pairs than npc looks for a fix of.
    let answer = files.npc("explain", &["ns/default", "ns/default:80"]);
    assert!(answer.out.contains("at most 1000 pairs of ends"), "{}", answer.out);
}
