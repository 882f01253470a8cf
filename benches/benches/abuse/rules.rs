//! Policies of one pod with as many rules as an object may have. Each rule is for a port and
//! peers of its own, so none joins another.

use serde_json::{Value, json};

use crate::Result;
use crate::scene::{Scene, policy};

pub(crate) fn abuse(scene: &Scene) -> Result<()> {
    scene.put_local(1);
    scene.rewrite(4, |number, version| {
        let rule = |rule: usize| {
            let peer = format!("peer-{number}-{rule}");
            let port = 1 + number + 4 * ((rule + version) % 16_000);
            json!({"from": [{"podSelector": {"matchLabels": {"app": peer}}}], "ports": [{"port": port}]})
        };
        let rules: Vec<Value> = (0..8_000).map(rule).collect();
        let spec = json!({"podSelector": {}, "policyTypes": ["Ingress"], "ingress": rules});
        policy(Scene::TENANT, &format!("policy-{number}"), &spec)
    })
}
