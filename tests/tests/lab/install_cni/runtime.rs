//! The installer beside a real container runtime. It works in the runtime's own folders.

use super::api::Says;
use super::host::Host;
use crate::cni::node::{sets, wait};
use crate::cni::runtime::{Release, Runtime};

/// Whether the agent isolates a pod of this node.
fn is_any_isolated(host: &Host) -> bool {
    let sets = sets(host.node.netns());
    ["npc4-ingress", "npc4-egress", "npc6-ingress", "npc6-egress"]
        .iter()
        .all(|set| sets.get(*set).is_some_and(|members| !members.is_empty()))
}

fn a_runtime_calls_the_plugin_from_its_installation_to_its_removal(release: Release) {
    // Runtimes keep the configuration of each sandbox here, also if their own folder is another one.
    let places = |node: &std::path::Path| [Runtime::conf(node), Runtime::bin(node), "/var/lib/cni".into()];
    let Some(host) = Host::at(2, places) else { return };
    let mut source = host.node.chain();
    source.pop();
    let Some(runtime) = Runtime::start_with(&host.node, release, &source, false) else { return };
    let open = runtime.run_sandbox("web-0", &[]).unwrap();
    assert!(!is_any_isolated(&host));
    runtime.remove(&open).unwrap();
    let before = host.files();
    let installer = host.install(&[]);
    host.wait_installed();
    let mut web = None;
    wait("the runtime has read the conflist", || {
        let sandbox = runtime.run_sandbox("web-0", &[]).unwrap();
        let is_isolated = is_any_isolated(&host);
        if is_isolated {
            web = Some(sandbox);
        } else {
            runtime.remove(&sandbox).unwrap();
        }
        is_isolated
    });
    runtime.status().unwrap();
    host.end(installer, Says::Refuses(404, "NotFound"));
    assert_eq!(host.files(), before);
    assert!(host.bin().join("npc-cni").exists(), "what the runtime kept of the pod names it");
    // The runtime may have read the old or the new configuration. The next pod starts without an agent, and both pods
    // end.
    host.node.kill_agent();
    let next = runtime.run_sandbox("web-1", &[]).unwrap();
    runtime.status().unwrap();
    for sandbox in web.iter().chain([&next]) {
        runtime.remove(sandbox).unwrap();
    }
}

#[test]
fn containerd_1_calls_the_plugin_from_its_installation_to_its_removal() {
    a_runtime_calls_the_plugin_from_its_installation_to_its_removal(Release::Bookworm);
}

#[test]
fn containerd_2_calls_the_plugin_from_its_installation_to_its_removal() {
    a_runtime_calls_the_plugin_from_its_installation_to_its_removal(Release::Next);
}
