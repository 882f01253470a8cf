//! Policies with ports and selectors of their own that each admit very many pods. The rules of a
//! policy come to one set for each selector, and the pods of a cluster to so many members of each.

use npc_agent::dataplane::ipset::Ipset;
use serde_json::{Value, json};

use crate::Result;
use crate::scene::{Scene, policy, remote};

/// How many policies there are.
const POLICIES: usize = 1_000;

/// How many pods each admits.
const PODS: usize = 20_000;

/// Puts the pods, then the policies, and then one policy after the other with another port.
pub(crate) fn abuse(scene: &Scene) -> Result<()> {
    scene.put_local(1);
    for number in 0..PODS {
        scene.server.put(&remote(&format!("member-{number}"), number));
    }
    let each = |number: usize, version: usize| -> Value {
        let pods = json!({"matchExpressions": [{"key": format!("no-{number}"), "operator": "DoesNotExist"}]});
        let ports = json!([{"port": 1 + number + POLICIES * (version % 8)}]);
        policy(
            Scene::TENANT,
            &format!("policy-{number}"),
            &json!({"podSelector": {}, "policyTypes": ["Ingress"], "ingress": [{"from": [{"podSelector": pods}], "ports": ports}]}),
        )
    };
    scene.rewrite(POLICIES, each)?;
    let mut kernel = scene.node.within(Ipset::open)??;
    let held = kernel.read()?;
    let members = held.v4.iter().chain(&held.v6).filter(|(name, _)| name.as_str().contains("-p-"));
    let members: usize = members.map(|(_, (_, members))| members.len()).sum();
    scene.note(format!("{members} members of peer sets, of {} that the policies name", POLICIES * (PODS + 1)));
    Ok(())
}
