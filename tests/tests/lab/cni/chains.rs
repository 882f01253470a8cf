//! Other chains of plugins, older versions of the specification, and results that say less.

use std::path::Path;

use serde_json::{Value, json};

use super::node::{Mode, Node, OUTSIDE, ip, wait};
use super::traffic::{Pings, listen, passes, reaches};
use super::{addresses, first, is_isolated, objects, the_policies_hold_at_once_on};

/// AKS has a conflist of this version: there is no CHECK, and a DEL has no result.
#[test]
fn the_policies_hold_at_once_in_the_oldest_version() {
    let Some(mut node) = Node::new(Mode::Bridged, "nft") else { return };
    node.version = "0.3.0";
    the_policies_hold_at_once_on(&node);
}

/// The plugin `bandwidth` puts an interface of its own (ifb) into the result.
#[test]
fn the_policies_hold_at_once_behind_the_plugin_bandwidth() {
    for (mode, backend) in [(Mode::Routed, "nft"), (Mode::Bridged, "nft"), (Mode::Routed, "legacy")] {
        let Some(mut node) = Node::new(mode, backend) else { return };
        node.more_plugins = vec![json!({"type": "bandwidth", "capabilities": {"bandwidth": true}})];
        the_policies_hold_at_once_on(&node);
    }
}

/// Flows that began before a pod are not the pod's, so they go also where those of policies
/// that change are kept.
#[test]
fn flows_that_began_before_add_are_cut_where_established_ones_are_kept() {
    let Some(mut node) = Node::new(Mode::Routed, "nft") else { return };
    node.flags = vec!["--keep-established"];
    the_policies_hold_at_once_on(&node);
}

/// What the agent saved of the sandbox of the only pod.
fn saved(node: &Node) -> Value {
    let text = std::fs::read_to_string(node.socket().with_file_name("sandboxes.json")).unwrap();
    serde_json::from_str(&text).unwrap()
}

/// Behind a bridge no route leads to the pod's interface, and azure-vnet lists none of the node:
/// the kernel knows which interface is the other end of the pod's.
#[test]
fn an_address_stays_isolated_while_an_interface_is_there_that_no_plugin_lists() {
    let Some(node) = Node::ready(Mode::Bridged, "nft", &["web"]) else { return };
    let mut web = node.sandbox("web", json!([]));
    node.add_others(&mut web).unwrap();
    let listed = web.result["interfaces"].as_array().unwrap().clone();
    let own = listed.iter().find(|one| one["name"].as_str().is_some_and(|name| name.starts_with("veth"))).unwrap();
    web.result["interfaces"] = json!([{"name": "eth0"}]);
    for address in web.result["ips"].as_array_mut().unwrap() {
        address.as_object_mut().unwrap().remove("interface");
    }
    node.add_own(&mut web).unwrap();
    assert_eq!(saved(&node)["sandboxes"][0]["hostInterface"]["name"], own["name"]);
    node.delete_own(&web).unwrap();
    assert!(saved(&node)["released"].as_array().is_some_and(|released| released.len() == 2));
    for address in first() {
        assert!(is_isolated(&node, address), "{address}");
    }
    // As the runtime, which removes the network namespace at last. Its interface goes with it.
    let name = web.netns.name().to_owned();
    drop(web);
    ip(&format!("netns del {name}"));
    for address in first() {
        wait("the address leaves the sets", || !is_isolated(&node, address));
    }
}

/// The mounts of the agent's container that matter here. The runtime mounts the folder of the DaemonSet's volume `netns`
/// with what is mounted in it at that moment. Later mounts do not appear there. The container has no `/var`.
const IN_A_CONTAINER: &str = "#!/bin/sh
exec unshare --mount --propagation private sh -ec '
mount --rbind /run/netns /run/netns
mount -o remount,bind,ro /run/netns
mount -t tmpfs none /var
exec \"$0\" \"$@\"' \"$@\"
";

/// A macvlan has no end of its own on the node: the interface below it is many pods'.
#[test]
fn a_sandbox_without_an_end_on_the_node_goes_with_its_network_namespace() {
    ends_with_its_network_namespace("/run/netns");
}

/// What containerd calls the folder.
#[test]
fn a_sandbox_goes_with_its_network_namespace_by_the_name_that_containerd_gives_it() {
    ends_with_its_network_namespace("/var/run/netns");
}

fn ends_with_its_network_namespace(folder: &str) {
    let Some(mut node) = Node::new(Mode::Routed, "nft") else { return };
    let container = node.folder().join("container");
    npc_tests::lab::write_program(&container, IN_A_CONTAINER).unwrap();
    node.under = Some(container);
    node.write(&objects(&["web"]));
    node.start_agent();
    node.wait_ready();
    let mut web = node.sandbox("web", json!([]));
    web.netns_path = Some(Path::new(folder).join(web.netns.name()));
    let (host, pod) = (node.netns().name(), web.netns.name().to_owned());
    ip(&format!("-n {host} link add below type veth peer name beside"));
    ip(&format!("-n {host} link set below up"));
    ip(&format!("-n {host} link add mv0 link below type macvlan mode bridge"));
    ip(&format!("-n {host} link set mv0 netns {pod} name eth0"));
    ip(&format!("-n {host} route add 10.0.0.2/32 dev below"));
    web.result = json!({
        "cniVersion": "1.0.0", "interfaces": [{"name": "eth0", "sandbox": format!("{folder}/{pod}")}],
        "ips": [{"address": "10.0.0.2/16", "interface": 0}],
    });
    node.add_own(&mut web).unwrap();
    assert_eq!(saved(&node)["sandboxes"][0]["hostInterface"], Value::Null);
    // Its DEL takes it from the sets of peers, and leaves it isolated for a while.
    node.delete_own(&web).unwrap();
    assert!(is_isolated(&node, first()[0]));
    node.add_own(&mut web).unwrap();
    assert!(saved(&node)["held"].is_null());
    // The agent has seen the network namespace once two notes have gone: it looks for what is gone in each
    // round before it reads them.
    for _ in 0..2 {
        let left = node.socket().with_file_name("notes").join("none@eth0.json");
        std::fs::create_dir_all(left.parent().unwrap()).unwrap();
        std::fs::write(&left, "no note").unwrap();
        wait("the agent has read the note", || !left.exists());
    }
    drop(web);
    ip(&format!("netns del {pod}"));
    wait("the sandbox is forgotten without a DEL", || saved(&node)["sandboxes"].as_array().is_some_and(Vec::is_empty));
}

#[test]
fn the_policies_hold_at_once_of_a_pod_with_ipv6_only() {
    for (mode, backend) in [(Mode::Routed, "nft"), (Mode::Bridged, "nft"), (Mode::Routed, "legacy")] {
        let Some(mut node) = Node::new(mode, backend) else { return };
        node.v6_only = true;
        node.write(&objects(&["web"]));
        node.start_agent();
        node.wait_ready();
        listen(node.outside(), &[8080, 9090]);
        let [_, own] = first();
        let pings = Pings::start(node.outside(), own);
        let mut web = node.sandbox("web", json!([]));
        listen(&web.netns, &[7000, 7001]);
        node.add(&mut web).unwrap();
        let last = pings.sent();
        assert_eq!(web.addresses(), [own], "{mode:?}, {backend}");
        assert!(is_isolated(&node, own));
        let [_, to] = addresses(OUTSIDE);
        assert!(!passes(&web.netns, to, 9090) && reaches(&web.netns, to, 8080), "{mode:?}, {backend}");
        assert!(!passes(node.outside(), own, 7001) && reaches(node.outside(), own, 7000), "{mode:?}, {backend}");
        wait("pings go on", || pings.sent() > last + 100);
        assert_eq!(pings.answered_after(last), 0, "pings that began before the rules were answered after ADD");
        node.check(&web).unwrap();
        node.delete(&web).unwrap();
        wait("the address leaves all sets", || !is_isolated(&node, own));
    }
}

/// Where the plugin cannot enter the network namespace, a route shows the pod's interface; behind a bridge,
/// the result does.
#[test]
fn the_interface_of_a_pod_is_found_without_its_network_namespace() {
    for mode in [Mode::Routed, Mode::Bridged] {
        let Some(node) = Node::ready(mode, "nft", &["web"]) else { return };
        let mut web = node.sandbox("web", json!([]));
        node.add_others(&mut web).unwrap();
        let listed = web.result["interfaces"].as_array().unwrap().clone();
        let own = listed.iter().find(|one| one["name"].as_str().is_some_and(|name| name.starts_with("veth"))).unwrap();
        let own = own["name"].as_str().unwrap().to_owned();
        if mode == Mode::Routed {
            // The route alone shows it.
            web.result["interfaces"] = json!([{"name": "eth0"}]);
        } else {
            let of_node = listed.iter().filter(|one| one["sandbox"].as_str().unwrap_or_default().is_empty()).cloned();
            web.result["interfaces"] = of_node.collect();
        }
        for address in web.result["ips"].as_array_mut().unwrap() {
            address.as_object_mut().unwrap().remove("interface");
        }
        // A file that is no network namespace.
        let file = node.folder().join("netns");
        std::fs::write(&file, "").unwrap();
        web.netns_path = Some(file);
        node.add_own(&mut web).unwrap();
        assert_eq!(saved(&node)["sandboxes"][0]["hostInterface"]["name"], own, "{mode:?}");
        assert!(first().into_iter().all(|address| is_isolated(&node, address)), "{mode:?}");
    }
}
