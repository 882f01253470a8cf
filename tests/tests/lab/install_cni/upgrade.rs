//! For how long a node starts no pods while its pod of npc is replaced.

use std::thread;
use std::time::Instant;

use nix::sys::signal::Signal;

use super::api::installed;
use super::host::{Host, OWN};
use super::{chain, is_isolated};
use crate::cni::node::wait;

/// The kubelet ends both containers of the old pod at once, and starts those of the next one when both have ended. A
/// pod that starts at the moment of the first signal waits until then. What the kubelet takes itself is not in
/// the times that this prints.
#[test]
fn a_pod_that_starts_during_an_upgrade_waits_for_the_next_agent() {
    let Some(host) = Host::new(1) else { return };
    host.write_source(0);
    let installer = host.install(&[]);
    host.wait_installed();
    let mut web = host.sandbox("web-0");
    let begun = Instant::now();
    thread::scope(|scope| {
        let starting = scope.spawn(|| {
            host.add(&mut web).unwrap();
            begun.elapsed()
        });
        let agent = scope.spawn(|| {
            host.node.end_agent(Signal::SIGTERM);
            begun.elapsed()
        });
        host.end(installer, installed());
        let installer_ended = begun.elapsed();
        let agent_ended = agent.join().unwrap();
        assert_eq!(chain(&host, OWN).last().map(String::as_str), Some("npc-cni"), "no pod starts without the plugin");
        host.node.start_agent();
        let started = starting.join().unwrap();
        eprintln!(
            "an upgrade: the old agent ended after {agent_ended:?}, the old installer after {installer_ended:?}, a pod that \
             started at the first signal after {started:?}"
        );
    });
    assert!(web.is_ours && is_isolated(&host, &web));
    let next = host.install(&[]);
    wait("the next installer has the folder", || host.log().matches("npc install-cni starts").count() == 2);
    assert_eq!(chain(&host, OWN).last().map(String::as_str), Some("npc-cni"));
    host.end(next, installed());
}
