//! What begins before an ADD, what comes after its sandbox, and what an ADD costs.

use std::net::SocketAddr;
use std::thread;
use std::time::Duration;

use npc_compiler::object::{Labels, Objects};
use serde_json::json;

use super::node::{self, Mode, Node, OUTSIDE, OWN, ip, wait};
use super::traffic::{Arrivals, Flood, listen, passes, reaches, reaches_by_its_first_packet};
use super::{addresses, first, is_isolated, mappings, objects, pod, policy_of};

/// The agent is away. A plugin waits for it about a pod that no policy selects, and the runtime is
/// started again: it removes the sandbox, and gives the address to a pod that policies isolate.
#[test]
fn an_add_of_a_sandbox_that_has_ended_opens_no_other() {
    let Some(mut node) = Node::new(Mode::Routed, "nft") else { return };
    node.range = ["10.0.0.2", "10.0.0.2"].map(str::to_owned);
    node.settings = json!({"timeoutSeconds": 100});
    let mut free = pod("free");
    free.labels = Labels::from([("app".to_owned(), "free".to_owned())]);
    let policies = vec![policy_of(&json!({"matchLabels": {"app": "web"}}))];
    node.write(&Objects { pods: vec![free, pod("web")], policies, ..objects(&[]) });
    let mut free = node.sandbox("free", json!([]));
    node.add_others(&mut free).unwrap();
    let mut late = free.twin();
    thread::scope(|scope| {
        let orphan = scope.spawn(|| node.add_own(&mut late));
        thread::sleep(Duration::from_millis(500));
        assert!(!orphan.is_finished());
        node.delete(&free).unwrap();
        ip(&format!("netns del {}", free.netns.name()));
        let error = orphan.join().unwrap().unwrap_err();
        assert!(error.contains("has ended") && error.contains("CNI_NETNS"), "{error}");
    });
    node.start_agent();
    node.wait_ready();
    let mut web = node.sandbox("web", json!([]));
    node.add(&mut web).unwrap();
    let to = first()[0];
    assert_eq!(web.addresses()[0], to);
    assert!(is_isolated(&node, to));
    // A plugin of before asks on.
    let text = node.request(&json!({
        "version": 1, "command": "add", "containerId": "late", "interface": "eth0", "network": "net",
        "netns": "/run/netns/gone", "namespace": "shop", "name": "free", "uid": "uid-free",
        "addresses": [to], "hostInterface": {"name": "veth-gone", "index": 0x7fff_fff0_u32}, "wait": 5_000,
    }));
    assert_eq!(text["error"]["kind"], "gone", "{text}");
    assert!(is_isolated(&node, to));
}

/// portmap has the hostPort live before the agent knows of the pod.
#[test]
fn datagrams_to_a_host_port_that_began_before_add_end_with_it() {
    for mode in [Mode::Routed, Mode::Bridged] {
        let Some(node) = Node::ready(mode, "nft", &["web"]) else { return };
        let mut web = node.sandbox("web", mappings());
        node.add_others(&mut web).unwrap();
        let netns = web.netns.try_clone().unwrap();
        let arrivals = Arrivals::count(&netns, 7001);
        let _flood = Flood::of_datagrams(node.outside(), vec![SocketAddr::new(addresses(OWN)[0], 7778)]);
        wait("datagrams arrive", || arrivals.packets() > 100);
        node.add_own(&mut web).unwrap();
        let before = arrivals.packets();
        thread::sleep(Duration::from_millis(500));
        assert_eq!(arrivals.packets(), before, "{mode:?}: datagrams arrive after ADD");
    }
}

#[test]
fn the_first_connections_that_policies_allow_pass_by_their_first_packet() {
    let Some(node) = Node::ready(Mode::Routed, "nft", &["web"]) else { return };
    listen(node.outside(), &[8080]);
    let mut web = node.sandbox("web", json!([]));
    listen(&web.netns, &[7000]);
    node.add(&mut web).unwrap();
    assert!(reaches_by_its_first_packet(&web.netns, addresses(OUTSIDE)[0], 8080));
    assert!(reaches_by_its_first_packet(node.outside(), first()[0], 7000));
}

/// The pod's group is there since the pod was bound to the node.
#[test]
fn an_add_writes_entries_of_sets_and_no_rule() {
    for backend in ["nft", "legacy"] {
        let Some(node) = Node::ready(Mode::Routed, backend, &["web"]) else { return };
        let rules = || {
            ["iptables", "ip6tables"].map(|program| {
                let listed = node.netns().exec([&*format!("{program}-{backend}-save")], "").unwrap();
                let rules = listed.lines().filter(|line| line.starts_with("-A") || line.starts_with(":NPC"));
                rules.map(str::to_owned).collect::<Vec<_>>()
            })
        };
        let mut web = node.sandbox("web", json!([]));
        node.add_others(&mut web).unwrap();
        let (before, sets) = (rules(), node::sets(node.netns()));
        assert!(before.iter().all(|rules| rules.iter().any(|rule| rule.contains("NPC"))), "{before:?}");
        node.add_own(&mut web).unwrap();
        assert_eq!(rules(), before, "{backend}");
        let mut after = node::sets(node.netns());
        assert!(after != sets);
        for members in after.values_mut() {
            members.retain(|member| !web.addresses().iter().any(|address| *member == address.to_string()));
        }
        after.retain(|_, members| !members.is_empty());
        assert_eq!(after, sets, "{backend}: only entries of this pod's addresses are new");
    }
}

/// Whether a pod of an open namespace is open after its ADD, and what its object changes.
#[test]
fn a_static_pod_of_an_open_namespace_is_open_until_its_mirror_is_read() {
    let Some(mut node) = Node::new(Mode::Routed, "nft") else { return };
    node.settings = json!({"timeoutSeconds": 30, "openNamespaces": ["shop"]});
    node.write(&objects(&[]));
    node.start_agent();
    node.wait_ready();
    listen(node.outside(), &[8080, 9090]);
    let mut etcd = node.sandbox("etcd", json!([]));
    super::static_pods::HASH.clone_into(&mut etcd.uid);
    node.add(&mut etcd).unwrap();
    let to = addresses(OUTSIDE)[0];
    wait("the note is read", || node.log().contains("started without an agent"));
    // Two rounds of the agent.
    thread::sleep(Duration::from_secs(2));
    assert!(reaches(&etcd.netns, to, 9090), "nothing isolates it");
    assert!(!is_isolated(&node, first()[0]));
    node.write(&super::static_pods::with_mirror());
    wait("the policies of the mirror hold", || is_isolated(&node, first()[0]) && !passes(&etcd.netns, to, 9090));
    assert!(reaches(&etcd.netns, to, 8080));
    // kubectl delete pod: the static pod goes on, and so do its policies.
    node.write(&objects(&[]));
    thread::sleep(Duration::from_secs(2));
    assert!(is_isolated(&node, first()[0]) && reaches(&etcd.netns, to, 8080));
}
