//! A policy that admits as many separate ports as there are, and others with each version.

use serde_json::{Value, json};

use crate::Result;
use crate::scene::{Scene, policy};

pub(crate) fn abuse(scene: &Scene) -> Result<()> {
    scene.put_local(1);
    scene.rewrite(1, |_, version| {
        // Every second one, so that none joins another.
        let ports: Vec<Value> = (0..32_000).map(|number| json!({"port": 1 + version % 2 + 2 * number})).collect();
        let rule = json!({"from": [{"podSelector": {}}], "ports": ports});
        policy(Scene::TENANT, "policy", &json!({"podSelector": {}, "policyTypes": ["Ingress"], "ingress": [rule]}))
    })
}
