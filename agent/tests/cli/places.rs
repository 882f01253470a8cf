//! Warnings in JSON have the objects that they are about, and their places.

use serde_json::{Value, json};

use crate::Files;

/// The object, line and code of each finding.
fn found(answer: &Value) -> Vec<Value> {
    let findings = answer["findings"].as_array().unwrap().iter();
    let shown = |of: &Value| json!([of["code"], of["object"]["kind"], of["object"]["name"], of["location"]["line"]]);
    findings.map(shown).collect()
}

const STATEFUL_SET: &str = "apiVersion: apps/v1
kind: StatefulSet
metadata: {name: db, namespace: shop}
spec:
  replicas: 3
  serviceName: db
  selector: {matchLabels: {app: db}}
  template:
    metadata: {labels: {app: db}}
    spec: {containers: [{name: c, ports: [{containerPort: 5432}]}]}
";

fn running(name: &str, address: &str) -> String {
    format!(
        "apiVersion: v1\nkind: Pod\nmetadata: {{name: {name}, namespace: shop, labels: {{app: {name}}}}}\n\
         spec: {{containers: [{{name: c}}]}}\nstatus: {{phase: Running, podIP: {address}}}\n"
    )
}

fn service(name: &str, spec: &str) -> String {
    format!("apiVersion: v1\nkind: Service\nmetadata: {{name: {name}, namespace: shop}}\nspec: {{{spec}}}\n")
}

fn slice(service: &str, endpoints: &str) -> String {
    format!(
        "apiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\n\
         metadata: {{name: {service}-1, namespace: shop, labels: {{kubernetes.io/service-name: {service}}}}}\n\
         addressType: IPv4\nports: [{{name: '', port: 8080, protocol: TCP}}]\nendpoints: [{endpoints}]\n"
    )
}

#[test]
fn a_pod_that_is_not_there_yet_leads_to_its_stateful_set() {
    let files = Files::of(&[running("web", "10.0.0.1"), STATEFUL_SET.to_owned()].join("---\n"));
    let text = std::fs::read_to_string(files.path().join("in.yaml")).unwrap();
    let line = text.lines().position(|line| line == "kind: StatefulSet").unwrap();
    let answer = files.npc("explain", &["shop/web", "shop/db-1:5432", "-o", "json"]).json();
    assert_eq!(found(&answer), [json!(["workload-without-pods", "StatefulSet", "db", line])], "{answer}");
}

/// What makes pods or decides, each object with its place; those of the whole cluster have no namespace.
#[test]
fn each_object_that_is_not_judged_has_a_finding() {
    let kafka = |name: &str| {
        format!(
            "apiVersion: kafka.strimzi.io/v1\nkind: Kafka\nmetadata: {{name: {name}, namespace: shop}}\nspec: {{}}\n"
        )
    };
    let admin = "apiVersion: policy.networking.k8s.io/v1alpha1\nkind: AdminNetworkPolicy\nmetadata: {name: top}\n";
    let files = Files::of(&[kafka("a"), kafka("b"), admin.to_owned(), running("web", "10.0.0.1")].join("---\n"));
    let answer = files.npc("matrix", &["-o", "json"]).json();
    let expected = [
        json!(["pods-not-in-input", "Kafka", "a", 1]),
        json!(["pods-not-in-input", "Kafka", "b", 6]),
        json!(["policies-not-judged", "AdminNetworkPolicy", "top", 11]),
    ];
    assert_eq!(found(&answer), expected, "{answer}");
    let findings = answer["findings"].as_array().unwrap();
    assert_eq!(
        (&findings[1]["object"]["namespace"], &findings[2]["object"]["namespace"]),
        (&json!("shop"), &json!(""))
    );
}

#[test]
fn a_service_that_leads_nowhere_is_an_endpoint_without_connections_and_a_finding() {
    let parts = [
        running("web", "10.0.0.1"),
        service("none", "selector: {app: nothing}, ports: [{port: 80}]"),
        service("empty", "ports: [{port: 80}]"),
        slice("empty", ""),
    ];
    let files = Files::of(&parts.join("---\n"));
    for name in ["none", "empty"] {
        let to = format!("shop/svc/{name}");
        let answer = files.npc("matrix", &["--to", &to, "-o", "json"]);
        assert_eq!(answer.code, 0, "{}", answer.err);
        let json = answer.json();
        let ids: Vec<&Value> = json["endpoints"].as_array().unwrap().iter().map(|of| &of["id"]).collect();
        assert_eq!(ids, ["shop/Pod/web", &format!("shop/Service/{name}")], "{json}");
        assert_eq!(json["connections"], json!([]));
        let [finding] = found(&json).try_into().unwrap_or_else(|_| panic!("one finding: {json}"));
        assert_eq!(
            (&finding[0], &finding[1], &finding[2]),
            (&json!("service-no-backends"), &json!("Service"), &json!(name))
        );
        assert!(finding[3].is_u64(), "{json}");
        assert!(files.npc("matrix", &["--to", &to]).out.contains(&to));
        assert!(files.npc("matrix", &["--to", &to, "-o", "dot"]).out.contains(&format!("\"{to}\";")));
    }
    let answer = files.npc("explain", &["shop/svc/none", "shop/web", "-o", "json"]).json();
    assert!(found(&answer).iter().any(|of| of[0] == "service-no-backends" && of[2] == "none"), "{answer}");
}

/// EndpointSlices say where a Service leads, to addresses too.
#[test]
fn a_matrix_has_the_addresses_to_which_a_service_leads() {
    let parts = [
        running("web", "10.0.0.1"),
        running("api", "10.0.0.2"),
        service("ext", "ports: [{port: 80}]"),
        slice("ext", "{addresses: [203.0.113.7]}, {addresses: [10.0.0.2]}"),
        service("named", "ports: [{port: 80}]"),
        slice("named", "{addresses: [10.0.0.9], targetRef: {kind: Pod, name: x, namespace: shop}}"),
    ];
    let files = Files::of(&parts.join("---\n"));
    let answer = files.npc("matrix", &["--to", "shop/svc/ext", "--from", "shop/web"]);
    assert_eq!(answer.code, 0, "{}", answer.err);
    let heading: Vec<&str> = answer.out.lines().next().unwrap().split_whitespace().collect();
    assert_eq!(heading, ["203.0.113.7", "shop/api"], "{}", answer.out);
    // Of such a pod nothing is known, and a matrix without it would say that nothing leads there.
    let named = files.npc("matrix", &["--to", "shop/svc/named"]);
    assert_eq!(named.code, 2, "{}", named.out);
    assert!(named.err.contains("pods that only EndpointSlices name"), "{}", named.err);
}
