//! Under a real container runtime, in whose order of events a pod comes to be: from the
//! first instruction of a container, no packet passes that policies deny.

use std::fs;
use std::net::{IpAddr, SocketAddr};
use std::thread;
use std::time::Duration;

use serde_json::json;

use super::node::{Mode, Node, OUTSIDE, OWN, sets, wait};
use super::runtime::{Release, Runtime, Sandbox};
use super::traffic::{Arrivals, Flood, datagrams, listen, reaches};
use super::{addresses, first, objects};
use crate::number;

/// How often the kubelet asks for the runtime's status in ten minutes.
const ASKED: u32 = 60;

/// What a container does from its first instruction: it sends to the allowed port, hammers
/// the denied one, and listens on an allowed port and on a denied one.
fn arguments() -> Vec<String> {
    let to = |what: &str, port| {
        let each = addresses(OUTSIDE).map(|to| format!("{what}={}", SocketAddr::new(to, port)));
        each.to_vec()
    };
    let listening = ["listen=7000".to_owned(), "listen=7001".to_owned()];
    [to("allowed", 8080), to("denied", 9090), listening.to_vec()].concat()
}

/// The container has tried all that it was to try.
fn wait_until_tried(sandbox: &Sandbox) {
    for to in addresses(OUTSIDE) {
        let (allowed, denied) = (SocketAddr::new(to, 8080), SocketAddr::new(to, 9090));
        wait("the allowed connection succeeds", || sandbox.has_printed(&format!("connected {allowed}")));
        wait("the denied connection is tried", || sandbox.has_printed(&format!("tried {denied}")));
    }
}

/// What reached the container on a port.
fn reached(sandbox: &Sandbox, port: u16) -> usize {
    let printed = sandbox.printed();
    let about = |line: &str| ["accepted", "received"].iter().any(|word| line.starts_with(&format!("{word} {port} ")));
    printed.iter().filter(|(line, _)| about(line)).map(|(_, count)| count).sum()
}

fn the_policies_hold_from_the_first_instruction(release: Release) {
    let Some(node) = Node::new(Mode::Routed, "nft") else { return };
    let Some(runtime) = Runtime::start(&node, release) else { return };
    node.write(&objects(&["web"]));
    node.start_agent();
    node.wait_ready();
    listen(node.outside(), &[8080, 9090]);
    let arrivals = Arrivals::count(node.outside(), 9090);
    let allowed = datagrams(node.outside(), 8080);
    // From outside, before there is a pod, to its denied port and to the host port of that.
    let denied = first().map(|address| SocketAddr::new(address, 7001));
    let host_port = SocketAddr::new(addresses(OWN)[0], 7778);
    let flood = Flood::start(node.outside(), denied.into_iter().chain([host_port]));

    let web = runtime.run_sandbox("web", &[(7777, 7000), (7778, 7001)]).unwrap();
    runtime.start_container(&web, &arguments()).unwrap();
    wait_until_tried(&web);
    for (to, port) in first().map(|to| (to, 7000)).into_iter().chain([(addresses(OWN)[0], 7777)]) {
        assert!(reaches(node.outside(), to, port), "{to}:{port} is allowed");
    }
    drop(flood);
    // What the container prints has come, since this has.
    wait("connections to the allowed port are printed", || reached(&web, 7000) >= 3);
    assert_eq!(arrivals.packets(), 0, "packets that the container sent to a denied port arrived");
    assert_eq!(reached(&web, 7001), 0, "packets from outside reached a denied port of the container");
    // The first datagram that the container sent arrived. Of IPv6 the container's own kernel
    // may lose some: it may still be making sure that nothing else has the address.
    let allowed = allowed.lock().unwrap().clone();
    assert_eq!(allowed.get(&first()[0]).and_then(|numbers| numbers.first()), Some(&0), "{:?}", web.printed());
    runtime.remove(&web).unwrap();
    wait("the addresses leave all sets", || !is_anywhere(&node, &first()));
}

/// Whether an address is in a set of ours.
fn is_anywhere(node: &Node, addresses: &[IpAddr]) -> bool {
    let sets = sets(node.netns());
    let is_one = |member: &String| addresses.iter().any(|address| *member == address.to_string());
    sets.values().flatten().any(is_one)
}

#[test]
fn the_policies_hold_from_the_first_instruction_under_containerd_1() {
    the_policies_hold_from_the_first_instruction(Release::Bookworm);
}

#[test]
fn the_policies_hold_from_the_first_instruction_under_containerd_2() {
    the_policies_hold_from_the_first_instruction(Release::Next);
}

/// What the tests above would see of a plugin that does not wait.
#[test]
fn a_container_that_does_not_wait_is_open_from_its_first_instruction() {
    let Some(mut node) = Node::new(Mode::Routed, "nft") else { return };
    node.settings = json!({"timeoutSeconds": 1, "failurePolicy": "open"});
    let Some(runtime) = Runtime::start(&node, Release::Bookworm) else { return };
    listen(node.outside(), &[8080, 9090]);
    let arrivals = Arrivals::count(node.outside(), 9090);
    let flood = Flood::start(node.outside(), first().map(|address| SocketAddr::new(address, 7001)));
    let web = runtime.run_sandbox("web", &[]).unwrap();
    runtime.start_container(&web, &arguments()).unwrap();
    wait_until_tried(&web);
    wait("packets from outside reach the container", || reached(&web, 7001) > 0);
    drop(flood);
    assert!(arrivals.packets() > 0);
    assert!(addresses(OUTSIDE).iter().all(|to| web.has_printed(&format!("passed {}", SocketAddr::new(*to, 9090)))));
}

#[test]
fn the_runtime_tries_again_and_says_why_a_pod_does_not_start() {
    let Some(mut node) = Node::new(Mode::Routed, "nft") else { return };
    node.settings = json!({"timeoutSeconds": 1});
    let Some(runtime) = Runtime::start(&node, Release::Bookworm) else { return };
    node.write(&objects(&["web"]));
    let error = runtime.run_sandbox("web", &[]).map(drop).unwrap_err();
    assert!(error.contains("the network policies of pod shop/web are not in the kernel after "), "{error}");
    node.start_agent();
    node.wait_ready();
    let web = runtime.run_sandbox("web", &[]).unwrap();
    runtime.remove(&web).unwrap();
}

/// Agents come and go while pods start and end: each starts, and none is open.
#[test]
fn pods_start_isolated_while_agents_are_replaced() {
    const PODS: usize = 6;
    let Some(mut node) = Node::new(Mode::Routed, "nft") else { return };
    // The longest: a pod waits for the next agent, however slow the machine is.
    node.settings = json!({"timeoutSeconds": 100});
    let Some(runtime) = Runtime::start(&node, Release::Bookworm) else { return };
    let names: Vec<String> = (0..PODS).map(|n| format!("web-{n}")).collect();
    node.write(&objects(&names.iter().map(String::as_str).collect::<Vec<_>>()));
    listen(node.outside(), &[8080, 9090]);
    let arrivals = Arrivals::count(node.outside(), 9090);
    thread::scope(|scope| {
        let starting: Vec<_> = names
            .iter()
            .map(|name| {
                let runtime = &runtime;
                scope.spawn(move || {
                    let sandbox = runtime.run_sandbox(name, &[]).unwrap();
                    runtime.start_container(&sandbox, &arguments()).unwrap();
                    wait_until_tried(&sandbox);
                    sandbox
                })
            })
            .collect();
        for _ in 0..3 {
            node.start_agent();
            node.wait_ready();
            node.kill_agent();
        }
        node.start_agent();
        for starting in starting {
            starting.join().unwrap();
        }
    });
    assert_eq!(arrivals.packets(), 0);
}

/// containerd 2 asks STATUS of the plugins for each status that the kubelet asks of it, and
/// makes the node NotReady by the answer.
#[test]
fn a_node_stays_ready_while_its_agent_is_away() {
    let Some(node) = Node::new(Mode::Routed, "nft") else { return };
    let Some(runtime) = Runtime::start(&node, Release::Next) else { return };
    let asked = node.folder().join("asked");
    let plugin = super::node::binary("npc-cni");
    let script = format!("#!/bin/sh\necho \"$CNI_COMMAND\" >>{}\nexec {}\n", asked.display(), plugin.display());
    runtime.replace_plugin(&script);
    let times = || fs::read_to_string(&asked).unwrap_or_default().lines().filter(|line| *line == "STATUS").count();
    node.write(&objects(&[]));
    node.start_agent();
    node.wait_ready();
    wait("the node is ready with an agent", || runtime.status().is_ok());
    node.kill_agent();
    fs::remove_file(node.socket()).unwrap();
    // As often as the kubelet asks in ten minutes: every 10 s. `NPC_CNI_AWAY_SECONDS` is for how long
    // the agent is away in all, which is short unless it is asked for.
    let pause = Duration::from_secs(number("NPC_CNI_AWAY_SECONDS", 0)) / ASKED;
    for _ in 0..ASKED {
        let before = times();
        runtime.status().unwrap();
        assert!(times() > before, "containerd asks the plugin each time");
        thread::sleep(pause);
    }
    // It is the answer that counts: of wrong settings the node is not ready.
    let mut chain = node.chain();
    chain.last_mut().unwrap()["timeoutSeconds"] = json!(0);
    runtime.write_conflist(Release::Next, &chain);
    wait("the node is not ready", || runtime.status().is_err_and(|error| error.contains("timeoutSeconds")));
}
