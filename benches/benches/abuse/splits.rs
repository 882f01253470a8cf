//! A policy that admits everyone to every second port, and each of many peers to another range of ports. What is left of
//! each range is as many ports again.

use serde_json::{Value, json};

use crate::Result;
use crate::scene::{Scene, policy};

pub(crate) fn abuse(scene: &Scene) -> Result<()> {
    scene.put_local(1);
    scene.rewrite(1, |_, version| {
        let ports: Vec<Value> = (0..20_000).map(|number| json!({"port": 1 + version % 2 + 2 * number})).collect();
        let range = |number: usize| {
            let peer = json!({"podSelector": {"matchLabels": {"app": format!("peer-{number}")}}});
            json!({"from": [peer], "ports": [{"port": 1, "endPort": 30_000 + 2 * number}]})
        };
        let rules: Vec<Value> = std::iter::once(json!({"ports": ports})).chain((0..5_000).map(range)).collect();
        policy(Scene::TENANT, "policy", &json!({"podSelector": {}, "policyTypes": ["Ingress"], "ingress": rules}))
    })
}
