//! Policies of one pod with rules for ports and peers of their own that no pod is. Each rule asks
//! an empty set in each family, and a kernel has 65,535 sets.

use serde_json::{Value, json};

use crate::Result;
use crate::scene::{Scene, policy};

pub(crate) fn abuse(scene: &Scene) -> Result<()> {
    scene.put_local(1);
    scene.rewrite(10, |number, version| {
        let rule = |rule: usize| {
            let peer = json!({"podSelector": {"matchLabels": {"app": format!("peer-{number}-{rule}")}}});
            json!({"from": [peer], "ports": [{"port": 1 + number + 10 * ((rule + version) % 6_000)}]})
        };
        let rules: Vec<Value> = (0..4_000).map(rule).collect();
        let spec = json!({"podSelector": {}, "policyTypes": ["Ingress"], "ingress": rules});
        policy(Scene::TENANT, &format!("policy-{number}"), &spec)
    })
}
