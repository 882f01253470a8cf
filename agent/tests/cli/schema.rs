//! The JSON Schemas that ship with the product, against what it prints.

use jsonschema::Validator;
use serde_json::{Value, json};

use crate::{Files, SHOP};

pub(crate) const EXPLANATION: &str = include_str!("../../schemas/flow-explanation.json");
const MIGRATION: &str = include_str!("../../schemas/migration-report.json");
const MATRIX: &str = include_str!("../../schemas/connectivity-matrix.json");
const FINDINGS: &str = include_str!("../../schemas/finding-report.json");
const ENDPOINT: &str = include_str!("../../schemas/endpoint-explanation.json");
const POLICY: &str = include_str!("../../schemas/policy-explanation.json");
pub(crate) const KERNEL: &str = include_str!("../../schemas/kernel-explanation.json");

/// A schema that allows no fields but those that it names, and of these demands all: a field may be
/// added, but then also to the schema, and what is absent is null.
fn strict(schema: &str) -> Validator {
    fn close(schema: &mut Value) {
        match schema {
            Value::Object(words) => {
                if let Some(Value::Object(fields)) = words.get("properties") {
                    let all: Vec<Value> = fields.keys().map(|key| json!(key)).collect();
                    words.insert("required".to_owned(), json!(all));
                    words.insert("additionalProperties".to_owned(), json!(false));
                }
                words.values_mut().for_each(close);
            }
            Value::Array(items) => items.iter_mut().for_each(close),
            _ => {}
        }
    }
    let mut schema = serde_json::from_str(schema).unwrap();
    close(&mut schema);
    jsonschema::validator_for(&schema).unwrap()
}

pub(crate) fn conforms(schema: &str, value: &Value) {
    let faults: Vec<String> =
        strict(schema).iter_errors(value).map(|fault| format!("{}: {fault}", fault.instance_path())).collect();
    assert!(faults.is_empty(), "{faults:#?}");
}

#[test]
fn explanations_conform_to_their_schema() {
    let files = Files::of(SHOP);
    for arguments in [
        &["shop/api", "shop/db:5432"][..],
        &["shop/api", "shop/db"],
        &["monitoring/prometheus", "shop/api:metrics"],
        &["shop/web", "shop/svc/api"],
        &["shop/web", "shop/svc/api:81"],
        &["shop/api", "203.0.113.0/24:443"],
        &["any", "shop/api:http"],
        &["shop/api", "shop/web:443"],
    ] {
        let answer = files.npc("explain", &[arguments, &["-o", "json"]].concat());
        conforms(EXPLANATION, &answer.json());
    }
    let wrong = Files::of(crate::lint::WRONG);
    let json = wrong.npc("explain", &["shop/web", "203.0.113.1", "--allow-errors", "-o", "json"]).json();
    assert_eq!(json["findings"].as_array().map(Vec::len), Some(4), "{json}");
    conforms(EXPLANATION, &json);
    let files = Files::of(include_str!("../../../tests/cases/node-port.yaml"));
    for arguments in [["203.0.113.9", "shop/svc/web:80"], ["203.0.113.9", "192.0.2.22:8443"]] {
        let json = files.npc("explain", &[&arguments[..], &["-o", "json"]].concat()).json();
        assert!(
            json["flows"].as_array().is_some_and(|flows| flows.iter().any(|flow| flow["way"].is_string())),
            "{json}"
        );
        conforms(EXPLANATION, &json);
    }
}

#[test]
fn explanations_of_one_end_conform_to_their_schema() {
    let files = Files::of(SHOP);
    for endpoint in ["shop/api", "shop/svc/api", "shop/deploy/api", "monitoring/prometheus"] {
        conforms(ENDPOINT, &files.npc("explain", &[endpoint, "-o", "json"]).json());
    }
    let backends = Files::of(include_str!("../../../tests/cases/backends-that-differ.yaml"));
    for (endpoint, parts) in [("shop/svc/api", 2), ("shop/client", 0)] {
        let json = backends.npc("explain", &[endpoint, "-o", "json"]).json();
        assert_eq!(json["parts"].as_array().map(Vec::len), Some(parts), "{json}");
        conforms(ENDPOINT, &json);
    }
    let unread = Files::of(include_str!("../../../tests/cases/policy-not-read.yaml"));
    let json = unread.npc("explain", &["a/pod/one", "--allow-errors", "-o", "json"]).json();
    assert_eq!(json["unknowns"].as_array().map(Vec::len), Some(1), "{json}");
    assert_eq!(json["findings"].as_array().map(Vec::len), Some(1), "{json}");
    conforms(ENDPOINT, &json);
}

#[test]
fn of_many_near_rules_a_few_are_listed_and_all_are_counted() {
    let pod = |name: &str, n: u8| {
        format!(
            "apiVersion: v1\nkind: Pod\nmetadata: {{name: {name}, namespace: shop, labels: {{app: {name}}}}}\nstatus: {{podIP: 10.0.0.{n}}}\n---\n"
        )
    };
    let policy = |n: usize| {
        format!(
            "apiVersion: networking.k8s.io/v1\nkind: NetworkPolicy\nmetadata: {{name: p{n:02}, namespace: shop}}\nspec: {{podSelector: {{}}, ingress: [{{from: [{{podSelector: {{matchLabels: {{app: x}}}}}}]}}]}}\n---\n"
        )
    };
    for (policies, listed) in [(20, 8), (8, 8)] {
        let files = Files::of(&(pod("a", 1) + &pod("b", 2) + &(0..policies).map(policy).collect::<String>()));
        let json = files.npc("explain", &["shop/a", "shop/b:80", "-o", "json"]).json();
        conforms(EXPLANATION, &json);
        let ingress = &json["flows"][0]["ingress"];
        assert_eq!(ingress["candidates"].as_array().map(Vec::len), Some(listed), "{ingress}");
        let count = (policies > listed).then_some(policies as u64);
        assert_eq!(ingress["candidateCount"].as_u64(), count, "{ingress}");
        let text = files.npc("explain", &["shop/a", "shop/b:80"]).out;
        assert!(text.contains(&format!("{policies} rules are equally near; this is the first")), "{text}");
    }
}

#[test]
fn of_many_admitting_rules_a_hundred_are_listed_and_all_are_counted() {
    let pod = |name: &str, n: u8| {
        format!(
            "apiVersion: v1\nkind: Pod\nmetadata: {{name: {name}, namespace: shop, labels: {{app: {name}}}}}\nstatus: {{podIP: 10.0.0.{n}}}\n---\n"
        )
    };
    let policy = |n: usize| {
        format!(
            "apiVersion: networking.k8s.io/v1\nkind: NetworkPolicy\nmetadata: {{name: p{n:03}, namespace: shop}}\nspec: {{podSelector: {{}}, ingress: [{{from: [{{podSelector: {{}}}}]}}]}}\n---\n"
        )
    };
    for (policies, listed) in [(120, 100), (100, 100)] {
        let files = Files::of(&(pod("a", 1) + &pod("b", 2) + &(0..policies).map(policy).collect::<String>()));
        let json = files.npc("explain", &["shop/a", "shop/b:80", "-o", "json"]).json();
        conforms(EXPLANATION, &json);
        let ingress = &json["flows"][0]["ingress"];
        assert_eq!(ingress["rules"].as_array().map(Vec::len), Some(listed));
        assert_eq!(ingress["rules"][99]["policy"]["name"], "p099");
        assert_eq!(ingress["rules"][99]["items"][0]["path"], "from[0]");
        assert_eq!(ingress["ruleCount"].as_u64(), (policies > listed).then_some(policies as u64));
        let text = files.npc("explain", &["shop/a", "shop/b:80"]).out;
        for part in
            [format!("p005 spec.ingress[0], +{} more\n", policies - 6), format!("note: and {} more", policies - 8)]
        {
            assert!(text.contains(&part), "{part} is not in {text}");
        }
    }
}

#[test]
fn answers_about_many_ends_conform_to_their_schema() {
    let pod = |n: usize| {
        format!(
            "apiVersion: v1\nkind: Pod\nmetadata: {{name: p{n}, namespace: shop, labels: {{app: a{}}}}}\nstatus: {{podIP: 10.0.0.{n}}}\n---\n",
            n % 2
        )
    };
    let files = Files::of(&(1..80).map(pod).collect::<String>());
    let json = files.npc("explain", &["any", "any", "-o", "json"]).json();
    conforms(EXPLANATION, &json);
    let ends = json["ends"].as_array().map_or(0, Vec::len) as u64;
    let flows = json["flows"].as_array().unwrap();
    assert!(ends > 79 && flows.len() < 20, "{ends} {}", flows.len());
    for flow in flows {
        for range in ["from", "to"].iter().flat_map(|side| flow["alike"][side].as_array().unwrap()) {
            assert!(range[0].as_u64() <= range[1].as_u64() && range[1].as_u64() < Some(ends), "{flow}");
        }
    }
    let text = files.npc("explain", &["any", "any"]);
    assert!(text.out.contains(" and 78 more"), "{}", text.out);
}

#[test]
fn what_is_said_of_a_policy_conforms_to_its_schema() {
    let files = Files::of(SHOP);
    for policy in ["shop/netpol/api", "shop/netpol/default-deny", "shop/netpol/web"] {
        conforms(POLICY, &files.npc("explain", &[policy, "-o", "json"]).json());
    }
}

#[test]
fn findings_conform_to_their_schema() {
    for text in [SHOP, crate::lint::WRONG, "kind: [\n"] {
        conforms(FINDINGS, &Files::of(text).npc("lint", &["-o", "json"]).json());
    }
}

/// A policy with a finding.
const FINDING: &str = "apiVersion: networking.k8s.io/v1\nkind: NetworkPolicy\nmetadata: {name: p}\n\
                       spec: {podSelector: {}, ingress: [{from: [{ipBlock: {cidr: 10.0.0.0/33}}]}]}\n";

#[test]
fn the_matrix_conforms_to_its_schema() {
    let files = Files::of(SHOP);
    conforms(MATRIX, &files.npc("matrix", &["-o", "json", "--address", "203.0.113.1"]).json());
    for (text, list) in [
        (include_str!("../../../tests/cases/matrix-unknown-address.yaml"), "unknowns"),
        (include_str!("../../../tests/cases/matrix-replicas.yaml"), "differs"),
        (include_str!("../../../tests/cases/other-policies.yaml"), "warnings"),
        (FINDING, "findings"),
    ] {
        let json = Files::of(text).npc("matrix", &["-o", "json"]).json();
        assert!(json[list].as_array().is_some_and(|rows| !rows.is_empty()), "{list}: {json}");
        conforms(MATRIX, &json);
    }
}

#[test]
fn migration_reports_conform_to_their_schema() {
    for text in [SHOP, crate::migrate::TEAMS, FINDING] {
        conforms(MIGRATION, &Files::of(text).npc("migrate", &["-o", "json"]).json());
    }
}

#[test]
fn explanations_of_a_kernel_conform_to_their_schema() {
    let files = Files::of(include_str!("../../../tests/tests/rules/hitless/takeover/cluster.yaml"));
    for thing in ["NPC-FORWARD", "NPC-INGRESS", "npc4-ingress", "10.0.0.1", "203.0.113.9", "KUBE-FORWARD", "NPC-I-x"] {
        let json = files.npc("why", &[thing, "--node", "n1", "-o", "json"]).json();
        conforms(KERNEL, &json);
    }
    let program = files.npc("compile", &["-o", "json", "--node", "n1"]).json();
    let chains = program["families"]["IPv4"]["chains"].as_object().unwrap();
    let of_groups: Vec<&String> = chains.keys().filter(|name| name.starts_with("NPC-E-")).collect();
    assert!(of_groups.len() > 1, "{of_groups:?}");
    for chain in of_groups {
        let json = files.npc("why", &[chain, "--node", "n1", "-o", "json"]).json();
        let places = json["rules"].as_array().unwrap().iter().flat_map(|rule| rule["origins"].as_array().unwrap());
        assert!(places.into_iter().all(|origin| origin["location"]["line"].is_u64()), "{json}");
        conforms(KERNEL, &json);
    }
}

#[test]
fn schemas_are_printed_by_the_kind_of_the_document() {
    let files = Files::of("");
    for (kind, schema) in [
        ("FlowExplanation", EXPLANATION),
        ("ConnectivityMatrix", MATRIX),
        ("MigrationReport", MIGRATION),
        ("KernelExplanation", KERNEL),
        ("FindingReport", FINDINGS),
        ("EndpointExplanation", ENDPOINT),
        ("PolicyExplanation", POLICY),
        ("matrix", MATRIX),
    ] {
        files.run(&["schema", kind]).says(schema);
    }
    assert_eq!(files.run(&["schema", "Pod"]).code, 2);
}

/// The objects of a schema that name fields which a document may lack.
fn optional(schema: &Value, path: &str, found: &mut Vec<String>) {
    let inner: Vec<(String, &Value)> = match schema {
        Value::Object(words) => words.iter().map(|(word, inner)| (word.clone(), inner)).collect(),
        Value::Array(items) => items.iter().enumerate().map(|(n, inner)| (n.to_string(), inner)).collect(),
        _ => return,
    };
    if let Some(fields) = schema["properties"].as_object() {
        let required: Vec<&str> =
            schema["required"].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
        let lacking = fields.keys().filter(|key| !required.contains(&key.as_str()));
        found.extend(lacking.map(|key| format!("{path}: {key}")));
    }
    for (word, inner) in inner {
        optional(inner, &format!("{path}/{word}"), found);
    }
}

#[test]
fn schemas_require_every_field_that_they_name() {
    for schema in [EXPLANATION, MIGRATION, MATRIX, FINDINGS, ENDPOINT, POLICY, KERNEL] {
        let mut found = Vec::new();
        let schema: Value = serde_json::from_str(schema).unwrap();
        optional(&schema, schema["title"].as_str().unwrap(), &mut found);
        assert!(found.is_empty(), "{found:#?}");
    }
}

#[test]
fn a_schema_refuses_what_is_wrong() {
    let wrong = json!({"apiVersion": "v1", "kind": "ConnectivityMatrix", "endpoints": [{}],
        "connections": [{"from": "a", "to": "b", "family": "IPX", "protocol": "TCP", "ports": [[0, 1]], "via": null}]});
    let validator = strict(MATRIX);
    let faults: Vec<String> = validator.iter_errors(&wrong).map(|fault| fault.instance_path().to_string()).collect();
    for part in ["/apiVersion", "/endpoints/0", "/connections/0", "/connections/0/family", "/connections/0/ports/0/0"] {
        assert!(faults.iter().any(|fault| fault == part), "{part}: {faults:#?}");
    }
}

/// What a denied reason has, a policy that only looks as if it decided has too.
#[test]
fn near_policies_have_the_stretch_of_the_file_that_they_are_about() {
    let yaml = "apiVersion: v1\nkind: Pod\nmetadata: {name: a, labels: {app: a}}\n---\napiVersion: networking.k8s.io/v1\n\
                kind: NetworkPolicy\nmetadata: {name: a}\nspec:\n  podSelector: {matchLabels: {app: a}}\n  policyTypes: \
                [Ingress]\n  egress: [{to: [{podSelector: {matchLabels: {app: db}}}]}]\n";
    let json = Files::of(yaml).npc("explain", &["a", "192.0.2.1:80", "-o", "json"]).json();
    let near = &json["flows"][0]["egress"]["near"][0];
    let mark = serde_json::json!({
        "path": "spec.policyTypes", "want": near["want"], "got": near["got"],
        "range": {"file": "in.yaml", "line": 10, "column": 3, "endLine": 10, "endColumn": 25},
    });
    assert_eq!(near["marks"], serde_json::json!([mark]), "{json}");
}
