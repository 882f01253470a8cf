//! Policies that select by as many values as an object may have.

use serde_json::json;

use crate::scene::Scene;

pub(crate) fn abuse(scene: &Scene) {
    for number in 0..300 {
        let values: Vec<String> = (0..45_000).map(|value| format!("{number:03}-{value:016}")).collect();
        let selector = json!({"matchExpressions": [{"key": "app", "operator": "In", "values": values}]});
        scene.server.put(&json!({
            "apiVersion": "networking.k8s.io/v1", "kind": "NetworkPolicy",
            "metadata": {"namespace": Scene::TENANT, "name": format!("policy-{number}")},
            "spec": {"podSelector": selector, "policyTypes": ["Ingress"]},
        }));
    }
}
