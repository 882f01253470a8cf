//! Policies that select by as many values as an object may have.

use serde_json::json;

use crate::Result;
use crate::scene::{Scene, policy};

pub(crate) fn abuse(scene: &Scene) -> Result<()> {
    scene.rewrite(300, |number, version| {
        let values: Vec<String> = (0..45_000).map(|value| format!("{number:03}-{version:03}-{value:012}")).collect();
        let selector = json!({"matchExpressions": [{"key": "app", "operator": "In", "values": values}]});
        let spec = json!({"podSelector": selector, "policyTypes": ["Ingress"]});
        policy(Scene::TENANT, &format!("policy-{number}"), &spec)
    })
}
