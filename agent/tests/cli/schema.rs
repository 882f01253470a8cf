//! The JSON Schemas that ship with the product, against what it prints. Only
//! the words of JSON Schema that they use are known here.

use serde_json::Value;

use crate::{Files, SHOP};

const EXPLANATION: &str = include_str!("../../schemas/flow-explanation.json");
const MIGRATION: &str = include_str!("../../schemas/migration-report.json");
const MATRIX: &str = include_str!("../../schemas/connectivity-matrix.json");

/// What of a value a schema does not allow.
fn faults(root: &Value, schema: &Value, value: &Value, path: &str, found: &mut Vec<String>) {
    for (word, says) in schema.as_object().unwrap() {
        let mut fault = |ok: bool| {
            if !ok {
                found.push(format!("{path}: {value} is not {word} {says}"));
            }
        };
        match word.as_str() {
            "$schema" | "title" | "description" | "$defs" => {}
            "$ref" => {
                let name = says.as_str().and_then(|text| text.strip_prefix("#/$defs/")).unwrap();
                faults(root, &root["$defs"][name], value, path, found);
            }
            "const" => fault(value == says),
            "enum" => fault(says.as_array().unwrap().contains(value)),
            "type" => {
                let types: Vec<&str> = match says {
                    Value::Array(types) => types.iter().filter_map(Value::as_str).collect(),
                    one => one.as_str().into_iter().collect(),
                };
                fault(types.iter().any(|name| match *name {
                    "object" => value.is_object(),
                    "array" => value.is_array(),
                    "string" => value.is_string(),
                    "integer" => value.is_u64() || value.is_i64(),
                    "boolean" => value.is_boolean(),
                    "null" => value.is_null(),
                    other => panic!("type {other}"),
                }));
            }
            "required" => {
                let missing = says.as_array().unwrap().iter().filter_map(Value::as_str);
                fault(value.as_object().is_none_or(|object| missing.into_iter().all(|key| object.contains_key(key))));
            }
            "properties" => {
                for (key, inner) in says.as_object().unwrap() {
                    if let Some(field) = value.get(key) {
                        faults(root, inner, field, &format!("{path}.{key}"), found);
                    }
                }
                // A field may be added, but then also to the schema.
                for key in value.as_object().into_iter().flat_map(|object| object.keys()) {
                    if says.get(key).is_none() {
                        found.push(format!("{path}.{key} is not in the schema"));
                    }
                }
            }
            "items" => {
                for (i, item) in value.as_array().into_iter().flatten().enumerate() {
                    faults(root, says, item, &format!("{path}[{i}]"), found);
                }
            }
            "oneOf" => {
                let fits = |schema: &&Value| {
                    let mut inner = Vec::new();
                    faults(root, schema, value, path, &mut inner);
                    inner.is_empty()
                };
                fault(says.as_array().unwrap().iter().filter(fits).count() == 1);
            }
            "minimum" => fault(value.as_i64().is_none_or(|number| number >= says.as_i64().unwrap())),
            "maximum" => fault(value.as_i64().is_none_or(|number| number <= says.as_i64().unwrap())),
            "minItems" => fault(value.as_array().is_none_or(|list| list.len() as u64 >= says.as_u64().unwrap())),
            "maxItems" => fault(value.as_array().is_none_or(|list| list.len() as u64 <= says.as_u64().unwrap())),
            other => panic!("the schema says {other}, which this test does not know"),
        }
    }
}

fn conforms(schema: &str, value: &Value) {
    let schema: Value = serde_json::from_str(schema).unwrap();
    let mut found = Vec::new();
    faults(&schema, &schema, value, "", &mut found);
    assert!(found.is_empty(), "{found:#?}");
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
}

#[test]
fn the_matrix_conforms_to_its_schema() {
    let files = Files::of(SHOP);
    conforms(MATRIX, &files.npc("matrix", &["-o", "json", "--address", "203.0.113.1"]).json());
}

#[test]
fn migration_reports_conform_to_their_schema() {
    for text in [SHOP, crate::migrate::TEAMS] {
        conforms(MIGRATION, &Files::of(text).npc("migrate", &["-o", "json"]).json());
    }
}

#[test]
fn a_schema_refuses_what_is_wrong() {
    let schema: Value = serde_json::from_str(MATRIX).unwrap();
    let wrong = serde_json::json!({"apiVersion": "v1", "kind": "ConnectivityMatrix", "endpoints": [{}],
        "connections": [{"from": "a", "to": "b", "family": "IPX", "protocol": "TCP", "ports": [[0, 1]]}]});
    let mut found = Vec::new();
    faults(&schema, &schema, &wrong, "", &mut found);
    assert_eq!(found.len(), 4, "{found:#?}");
}
