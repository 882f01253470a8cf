//! What the API server fills in where an object leaves it out, as far as an
//! agent can see it.

use k8s_openapi::jiff::Timestamp;
use serde_json::{Value, json};

use super::failure::Failure;
use super::resource::Resource;

/// The metadata of a new object.
pub(crate) fn stamp(resource: Resource, object: &mut Value, revision: u64) {
    let metadata = &mut object["metadata"];
    metadata["uid"] = format!("{revision:08x}-0000-4000-8000-000000000000").into();
    metadata["creationTimestamp"] = now().into();
    if resource == Resource::NetworkPolicies {
        metadata["generation"] = 1.into();
    }
}

/// The time as the API writes it.
pub(crate) fn now() -> String {
    Timestamp::now().strftime("%Y-%m-%dT%H:%M:%SZ").to_string()
}

/// Sets the status of a new object, in place of the one that its creator sent. Nodes register with
/// a status of their own.
pub(crate) fn reset_status(resource: Resource, object: &mut Value) {
    match resource {
        Resource::Pods => object["status"] = json!({"phase": "Pending", "qosClass": "BestEffort"}),
        Resource::Namespaces => object["status"] = json!({"phase": "Active"}),
        Resource::Services => object["status"] = json!({"loadBalancer": {}}),
        Resource::Nodes | Resource::NetworkPolicies | Resource::Events => {}
    }
}

/// Defaults of the specification, applied at every write.
pub(crate) fn complete(resource: Resource, object: &mut Value) {
    match resource {
        Resource::Namespaces => {
            let name = object["metadata"]["name"].clone();
            object["metadata"]["labels"]["kubernetes.io/metadata.name"] = name;
        }
        Resource::NetworkPolicies => policy(&mut object["spec"]),
        _ => {}
    }
}

fn policy(spec: &mut Value) {
    let Some(spec) = spec.as_object_mut() else { return };
    if spec.get("policyTypes").and_then(Value::as_array).is_none_or(Vec::is_empty) {
        let egress = spec.get("egress").and_then(Value::as_array).is_some_and(|rules| !rules.is_empty());
        spec.insert("policyTypes".to_owned(), if egress { json!(["Ingress", "Egress"]) } else { json!(["Ingress"]) });
    }
    for direction in ["ingress", "egress"] {
        let rules = spec.get_mut(direction).and_then(Value::as_array_mut).into_iter().flatten();
        let ports = rules.filter_map(|rule| rule.get_mut("ports")?.as_array_mut()).flatten();
        for port in ports.filter_map(Value::as_object_mut) {
            port.entry("protocol").or_insert_with(|| "TCP".into());
        }
    }
}

/// Whether this can be a name: a DNS subdomain, of namespaces a label.
pub(crate) fn check_name(resource: Resource, name: &str) -> Result<(), Failure> {
    let label = |part: &str| {
        let inner = |letter: char| letter.is_ascii_lowercase() || letter.is_ascii_digit() || letter == '-';
        !part.is_empty() && part.chars().all(inner) && !part.starts_with('-') && !part.ends_with('-')
    };
    let (sound, what) = match resource {
        Resource::Namespaces => (name.len() <= 63 && label(name), "label"),
        _ => (name.len() <= 253 && name.split('.').all(label), "subdomain"),
    };
    if sound {
        return Ok(());
    }
    let message = format!(
        "Invalid value: \"{name}\": a lowercase RFC 1123 {what} must consist of lower case alphanumeric characters, \
         '-' or '.', and must start and end with an alphanumeric character"
    );
    let cause = ("FieldValueInvalid", message, "metadata.name");
    Err(Failure::invalid(resource.group().name(), resource.kind(), name, &[cause]))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_policy_gets_its_types_and_protocols() {
        let mut policy =
            json!({"spec": {"podSelector": {}, "egress": [{"ports": [{"port": 53, "protocol": "UDP"}, {}]}]}});
        complete(Resource::NetworkPolicies, &mut policy);
        let ports = json!([{"port": 53, "protocol": "UDP"}, {"protocol": "TCP"}]);
        let expected = json!({"podSelector": {}, "egress": [{"ports": ports}], "policyTypes": ["Ingress", "Egress"]});
        assert_eq!(policy["spec"], expected);
        let mut policy = json!({"spec": null});
        complete(Resource::NetworkPolicies, &mut policy);
        assert_eq!(policy, json!({"spec": null}));
    }

    #[test]
    fn names_are_those_of_dns() {
        for (name, sound) in [("a", true), ("a.b-1", true), ("A", false), ("-a", false), ("a..b", false), ("", false)] {
            assert_eq!(check_name(Resource::Pods, name).is_ok(), sound, "{name}");
        }
        assert!(check_name(Resource::Namespaces, "a.b").is_err());
    }
}
