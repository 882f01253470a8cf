//! A policy with many ports for pods that each have another policy besides. So each pod has a chain of its own with
//! rules for all of the ports.

use serde_json::{Value, json};

use crate::Result;
use crate::scene::{Scene, local, policy};

/// As many pods as a node usually has.
const PODS: usize = 100;

pub(crate) fn abuse(scene: &Scene) -> Result<()> {
    for number in 0..PODS {
        let mut pod = local(number);
        pod["metadata"]["labels"]["own"] = json!(format!("pod-{number}"));
        scene.server.put(&pod);
        let spec =
            json!({"podSelector": {"matchLabels": {"own": format!("pod-{number}")}}, "policyTypes": ["Ingress"]});
        scene.server.put(&policy(Scene::TENANT, &format!("own-{number}"), &spec));
    }
    scene.rewrite(1, |_, version| {
        let ports: Vec<Value> = (0..32_000).map(|number| json!({"port": 1 + version % 2 + 2 * number})).collect();
        let rule = json!({"from": [{"podSelector": {}}], "ports": ports});
        policy(Scene::TENANT, "policy", &json!({"podSelector": {}, "policyTypes": ["Ingress"], "ingress": [rule]}))
    })
}
