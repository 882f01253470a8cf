//! A policy that admits as many disjoint blocks as fit one object, and other blocks with each
//! version.

use std::net::Ipv4Addr;

use serde_json::{Value, json};

use crate::Result;
use crate::scene::{Scene, policy};

pub(crate) fn abuse(scene: &Scene) -> Result<()> {
    scene.put_local(1);
    scene.rewrite(1, |_, version| {
        let base = 0xac10_0000 + u32::try_from(version % 2).unwrap_or_default();
        // Every second address, so that none joins another.
        let block = |number: u32| json!({"ipBlock": {"cidr": format!("{}/32", Ipv4Addr::from(base + 2 * number))}});
        let from: Vec<Value> = (0..25_000).map(block).collect();
        policy(
            Scene::TENANT,
            "policy",
            &json!({"podSelector": {}, "policyTypes": ["Ingress"], "ingress": [{"from": from}]}),
        )
    })
}
