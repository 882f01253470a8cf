//! So many denied flows of one tenant that they fill the table by which the agent logs each
//! flow once. A scan of another namespace's pod comes then, and should be in the log.

use std::net::{Ipv4Addr, UdpSocket};
use std::thread;
use std::time::{Duration, Instant};

use serde_json::json;

use crate::Result;
use crate::scene::{Scene, address, local_address, policy, victim};
use crate::wire::{self, SENDERS};

/// Each of the tenant's groups has its own limit of packets that the kernel reports.
const GROUPS: usize = 12;

/// How long the tenant fills the table before the scan. A flow stays there for a minute, and
/// twelve groups report 120 packets a second after the first.
const FILLS: Duration = Duration::from_secs(40);

/// How many ports are scanned, one in each pause.
const SCANNED: u16 = 50;
const PAUSE: Duration = Duration::from_millis(200);

/// How long the log may take.
const LOGS: Duration = Duration::from_secs(5);

pub(crate) fn abuse(scene: &Scene) -> Result<()> {
    let pods = wire::connect(&scene.node)?;
    let denying = SENDERS..SENDERS + GROUPS;
    scene.put_local(denying.end);
    for number in denying.clone() {
        let selector = json!({"matchLabels": {"app": format!("local-{number}")}});
        let spec = json!({"podSelector": selector, "policyTypes": ["Ingress"]});
        scene.server.put(&policy(Scene::TENANT, &format!("policy-{number}"), &spec));
    }
    // It was isolated before the abuse.
    let scanned = address(0);
    let (mut flows, mut scans) = (0_usize, 0_u16);
    pods.within(|| -> Result<()> {
        let sockets: Vec<UdpSocket> =
            (0..SENDERS).map(|number| UdpSocket::bind((local_address(number), 0))).collect::<std::io::Result<_>>()?;
        let send = |sender: usize, to: Ipv4Addr, port: u16| sockets[sender % SENDERS].send_to(b"", (to, port));
        let begun = Instant::now();
        let mut ended = None;
        while !scene.is_over() && ended.is_none_or(|ended: Instant| ended.elapsed() < LOGS) {
            for number in denying.clone() {
                // Each is a flow of its own.
                send(flows, local_address(number), 1 + u16::try_from(flows % 60_000)?)?;
                flows += 1;
            }
            if scans < SCANNED && begun.elapsed() > FILLS + PAUSE * scans.into() {
                scans += 1;
                send(0, scanned, scans)?;
            } else if scans == SCANNED {
                ended.get_or_insert_with(Instant::now);
            }
            thread::sleep(Duration::from_millis(1));
        }
        Ok(())
    })??;
    let name = format!("{}/", victim(0));
    let shown = scene.agent.denied_of_victims().iter().filter(|line| line.contains(&name)).count();
    scene.note(format!("the tenant sent {flows} denied packets; {shown} of {scans} scanned ports are in the log"));
    scene.round();
    Ok(())
}
