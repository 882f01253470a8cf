//! Writes `kubernetes.json`: the schemas of the kinds that our manifests use,
//! as k8s-openapi has them from the API server's own OpenAPI document, and made
//! strict: a field that the type does not have is an error.

use k8s_openapi::api::admissionregistration::v1::{ValidatingAdmissionPolicy, ValidatingAdmissionPolicyBinding};
use k8s_openapi::api::apps::v1::{DaemonSet, Deployment, ReplicaSet, StatefulSet};
use k8s_openapi::api::batch::v1::{CronJob, Job};
use k8s_openapi::api::core::v1::{ConfigMap, Namespace, Node, Pod, Service, ServiceAccount};
use k8s_openapi::api::networking::v1::NetworkPolicy;
use k8s_openapi::api::rbac::v1::{ClusterRole, ClusterRoleBinding, Role, RoleBinding};
use k8s_openapi::{Metadata, Resource};
use schemars::{JsonSchema, SchemaGenerator};
use serde_json::{Map, Value, json};

fn main() {
    let mut generator = SchemaGenerator::default();
    let mut kinds = Map::new();
    kind::<ClusterRole>(&mut generator, &mut kinds);
    kind::<ClusterRoleBinding>(&mut generator, &mut kinds);
    kind::<ConfigMap>(&mut generator, &mut kinds);
    kind::<CronJob>(&mut generator, &mut kinds);
    kind::<DaemonSet>(&mut generator, &mut kinds);
    kind::<Deployment>(&mut generator, &mut kinds);
    kind::<Job>(&mut generator, &mut kinds);
    kind::<Namespace>(&mut generator, &mut kinds);
    kind::<NetworkPolicy>(&mut generator, &mut kinds);
    kind::<Node>(&mut generator, &mut kinds);
    kind::<Pod>(&mut generator, &mut kinds);
    kind::<ReplicaSet>(&mut generator, &mut kinds);
    kind::<Role>(&mut generator, &mut kinds);
    kind::<RoleBinding>(&mut generator, &mut kinds);
    kind::<Service>(&mut generator, &mut kinds);
    kind::<ServiceAccount>(&mut generator, &mut kinds);
    kind::<StatefulSet>(&mut generator, &mut kinds);
    kind::<ValidatingAdmissionPolicy>(&mut generator, &mut kinds);
    kind::<ValidatingAdmissionPolicyBinding>(&mut generator, &mut kinds);
    let mut definitions = Value::Object(generator.take_definitions(true));
    strict(&mut definitions);
    // A number or a text, and what the API server takes of the latter.
    let quantity = json!({
        "type": ["number", "string"],
        "pattern": "^[+-]?([0-9]+|[0-9]+\\.[0-9]*|\\.[0-9]+)([KMGTPE]i|[numkMGTPE]|[eE][+-]?[0-9]+)?$",
    });
    definitions["io.k8s.apimachinery.pkg.api.resource.Quantity"] = quantity;
    definitions["io.k8s.apimachinery.pkg.util.intstr.IntOrString"] = json!({"type": ["integer", "string"]});

    // One definition to a line: a bump of the version is a readable difference.
    println!("{{\n\"kubernetes\": \"1.36\",\n\"kinds\": {{");
    print_lines(&kinds);
    println!("}},\n\"$defs\": {{");
    print_lines(definitions.as_object().expect("definitions are an object"));
    println!("}}\n}}");
}

fn kind<K: Resource + Metadata + JsonSchema>(generator: &mut SchemaGenerator, kinds: &mut Map<String, Value>) {
    let reference = generator.subschema_for::<K>();
    let required = json!({
        "properties": {"apiVersion": {"const": K::API_VERSION}, "kind": {"const": K::KIND}},
        "required": ["apiVersion", "kind", "metadata"],
    });
    kinds.insert(format!("{} {}", K::API_VERSION, K::KIND), json!({"allOf": [reference, required]}));
}

fn print_lines(entries: &Map<String, Value>) {
    let mut names: Vec<_> = entries.keys().collect();
    names.sort();
    for (index, name) in names.iter().enumerate() {
        let comma = if index + 1 < names.len() { "," } else { "" };
        println!("{}: {}{comma}", json!(name), entries[*name]);
    }
}

/// Without the prose, and without a way to say what the type does not know.
fn strict(schema: &mut Value) {
    match schema {
        Value::Object(object) => {
            // `description` is a property of its own in some types.
            if object.get("description").is_some_and(Value::is_string) {
                object.remove("description");
            }
            if object.contains_key("properties") && !object.contains_key("additionalProperties") {
                object.insert("additionalProperties".into(), false.into());
            }
            object.values_mut().for_each(strict);
        }
        Value::Array(items) => items.iter_mut().for_each(strict),
        _ => {}
    }
}
