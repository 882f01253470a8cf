//! Policies of a few kilobytes with as many mistakes as are reported of one: blocks with bits
//! behind their length, which the API server admits.

use serde_json::{Value, json};

use crate::Result;
use crate::scene::{Scene, policy};

pub(crate) fn abuse(scene: &Scene) -> Result<()> {
    scene.put_local(1);
    scene.rewrite(1_000, |number, version| {
        let block = |block: usize| {
            let cidr = format!("{}.{}.{block}.{}/24", 1 + number / 250, number % 250, 1 + version % 250);
            json!({"ipBlock": {"cidr": cidr}})
        };
        let from: Vec<Value> = (0..100).map(block).collect();
        let selector = json!({"matchLabels": {"app": "nothing"}});
        let spec = json!({"podSelector": selector, "policyTypes": ["Ingress"], "ingress": [{"from": from}]});
        policy(Scene::TENANT, &format!("policy-{number}"), &spec)
    })
}
