//! As many flows in the conntrack table as the tenant's pods can open, while pods come and go
//! whose flows the agent has to cut: 60 pods elsewhere that a policy admits, replaced at once
//! each second.

use std::fs;
use std::net::UdpSocket;
use std::thread;
use std::time::Duration;

use serde_json::json;

use npc_lab::apiserver::Resource;

use crate::Result;
use crate::scene::{Scene, address, local_address, policy, remote};
use crate::wire::{self, SENDERS};

const FLOWS: usize = 200_000;
const REPLACED: usize = 60;

/// The number of the address to which the flows go: of no pod.
const NOWHERE: usize = 40_000;

pub(crate) fn abuse(scene: &Scene) -> Result<()> {
    let pods = wire::connect(&scene.node)?;
    scene.put_local(SENDERS);
    scene.node.within(|| fs::write("/proc/sys/net/netfilter/nf_conntrack_udp_timeout", "3600"))??;
    pods.within(|| -> Result<()> {
        for flow in 0..FLOWS / 10_000 {
            let socket = UdpSocket::bind((local_address(flow % SENDERS), 0))?;
            for port in 1..=10_000_u16 {
                socket.send_to(b"", (address(NOWHERE), port))?;
            }
        }
        Ok(())
    })??;
    let tracked = scene.node.within(|| fs::read_to_string("/proc/sys/net/netfilter/nf_conntrack_count"))??;
    let from = json!([{"podSelector": {"matchLabels": {"app": "peer"}}}]);
    let spec = json!({"podSelector": {}, "policyTypes": ["Ingress"], "ingress": [{"from": from}]});
    scene.server.put(&policy(Scene::TENANT, "policy", &spec));
    let cpu = scene.agent.cpu_seconds()?;
    let mut rounds = 0;
    while !scene.is_over() {
        for number in 0..REPLACED {
            let name = format!("peer-{number}");
            scene.server.delete(Resource::Pods, Scene::TENANT, &name);
            let mut pod = remote(&name, number + rounds % 2 * REPLACED);
            pod["metadata"]["labels"] = json!({"app": "peer"});
            scene.server.put(&pod);
        }
        rounds += 1;
        scene.round();
        thread::sleep(Duration::from_secs(1));
    }
    let each = (scene.agent.cpu_seconds()? - cpu) / f64::from(u32::try_from(rounds)?);
    scene.note(format!(
        "{} flows; the agent took {each:.2} s of a processor from one replacement of {REPLACED} pods to the next",
        tracked.trim()
    ));
    Ok(())
}
