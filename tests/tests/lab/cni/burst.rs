//! Many pods at once: under agents that are replaced, without an API server, with addresses
//! that are used again at once, and with a full conntrack table.
//!
//! `NPC_CNI_PODS` is how many pods start, `NPC_CNI_FLOWS` how many flows there are
//! (`make test-full` asks for many).

use std::collections::BTreeMap;
use std::env;
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use npc_compiler::object::Objects;
use npc_tests::apiserver::Server;
use npc_tests::lab::manifests;
use serde_json::json;

use super::node::{Mode, Node, OUTSIDE, OWN, wait};
use super::traffic::{Arrivals, listen, passes, reaches};
use super::{addresses, objects};

/// How many pods start, and how many flows there are, unless the environment says otherwise.
const PODS: usize = 24;
const FLOWS: usize = 2_000;

/// How many start at once.
const AT_ONCE: usize = 50;

fn number(name: &str, default: usize) -> usize {
    env::var(name).ok().and_then(|value| value.parse().ok()).unwrap_or(default)
}

fn names(count: usize) -> Vec<String> {
    (0..count).map(|n| format!("web-{n}")).collect()
}

fn pods(names: &[String]) -> Objects {
    objects(&names.iter().map(String::as_str).collect::<Vec<_>>())
}

/// Starts pods, so many at once. Of each, denied packets are sent from the instant at which
/// its chain of plugins returns, and its first allowed connection succeeds. Answers how long
/// the chain took for each.
fn start_all(node: &Node, names: &[String]) -> Vec<Duration> {
    start_all_and_count(node, names, &AtomicUsize::new(0))
}

/// The same, and counts how many have started.
fn start_all_and_count(node: &Node, names: &[String], started: &AtomicUsize) -> Vec<Duration> {
    let next = AtomicUsize::new(0);
    let [to, _] = addresses(OUTSIDE);
    let one = |name: &String| {
        let mut web = node.sandbox(name, json!([]));
        let begun = Instant::now();
        node.add(&mut web).unwrap();
        let took = begun.elapsed();
        started.fetch_add(1, Ordering::Relaxed);
        let datagrams = web.netns.within(|| {
            let socket = UdpSocket::bind("0.0.0.0:0").unwrap();
            // The kernel reports that a packet was dropped on its way out of this namespace.
            (0..10).filter(|_| socket.send_to(b"denied", SocketAddr::new(to, 9090)).is_ok()).count()
        });
        assert!(datagrams.unwrap() > 0);
        assert!(!passes(&web.netns, to, 9090), "{name}");
        assert!(reaches(&web.netns, to, 8080), "{name}");
        took
    };
    let worker = || {
        let mut took = Vec::new();
        while let Some(name) = names.get(next.fetch_add(1, Ordering::Relaxed)) {
            took.push(one(name));
        }
        took
    };
    thread::scope(|scope| {
        let workers: Vec<_> = (0..AT_ONCE.min(names.len())).map(|_| scope.spawn(worker)).collect();
        workers.into_iter().flat_map(|worker| worker.join().unwrap()).collect()
    })
}

/// The median and the 99th percentile, for those that read the log of a large run.
fn report(what: &str, mut took: Vec<Duration>) {
    took.sort_unstable();
    let at = |part: usize| took.get((took.len() * part / 100).min(took.len() - 1)).copied().unwrap_or_default();
    eprintln!(
        "{what}: {} pods, the whole chain took {:?} (median), {:?} (99th percentile)",
        took.len(),
        at(50),
        at(99)
    );
}

/// Opens this many flows through the node's conntrack table: of UDP, which stay.
fn open_flows(node: &Node, count: usize) {
    node.set("net/netfilter/nf_conntrack_udp_timeout", "3600");
    let to = addresses(OWN)[0];
    let before = flows(node);
    while flows(node) < before + count {
        let missing = before + count - flows(node);
        let sent = node.outside().within(|| {
            let socket = UdpSocket::bind("0.0.0.0:0").unwrap();
            let ports = (1..=50_000).take(missing);
            // An ICMP error that came for an earlier one is no failure of this one.
            ports.filter(|port| socket.send_to(b"", SocketAddr::new(to, *port)).is_ok()).count()
        });
        assert!(sent.unwrap() > 0);
    }
}

fn flows(node: &Node) -> usize {
    let count = node.netns().within(|| std::fs::read_to_string("/proc/sys/net/netfilter/nf_conntrack_count"));
    count.unwrap().unwrap().trim().parse().unwrap()
}

/// A node whose agent is ready and knows the pods, and their names. The plugin waits for the
/// agent for so many seconds.
fn ready(timeout: u32) -> Option<(Node, Vec<String>)> {
    let mut node = Node::new(Mode::Routed, "nft")?;
    node.settings = json!({"timeoutSeconds": timeout});
    let names = names(number("NPC_CNI_PODS", PODS));
    node.write(&pods(&names));
    node.start_agent();
    node.wait_ready();
    listen(node.outside(), &[8080, 9090]);
    Some((node, names))
}

#[test]
fn a_burst_of_pods_starts_and_none_is_open() {
    let Some((node, names)) = ready(30) else { return };
    let arrivals = Arrivals::count(node.outside(), 9090);
    report("alone", start_all(&node, &names));
    assert_eq!(arrivals.packets(), 0, "packets that policies deny arrived");
}

#[test]
fn a_burst_of_pods_starts_among_many_flows() {
    let Some((node, names)) = ready(30) else { return };
    let arrivals = Arrivals::count(node.outside(), 9090);
    open_flows(&node, number("NPC_CNI_FLOWS", FLOWS));
    report("among flows", start_all(&node, &names));
    assert_eq!(arrivals.packets(), 0, "packets that policies deny arrived");
}

#[test]
fn a_burst_of_pods_starts_while_agents_are_replaced() {
    let Some((node, names)) = ready(100) else { return };
    let arrivals = Arrivals::count(node.outside(), 9090);
    let (node, started) = (&node, AtomicUsize::new(0));
    thread::scope(|scope| {
        let starting = scope.spawn(|| start_all_and_count(node, &names, &started));
        // While the others wait.
        for part in [0, 1, 2] {
            let is_so_far = || started.load(Ordering::Relaxed) >= names.len() * part / 4;
            wait("more pods start", || is_so_far() || starting.is_finished());
            node.kill_agent();
            node.start_agent();
        }
        report("while agents are replaced", starting.join().unwrap());
    });
    assert_eq!(arrivals.packets(), 0, "packets that policies deny arrived");
}

/// The pods are known, and then the API server goes: they start with the policies that the
/// agent knows.
#[test]
fn a_burst_of_pods_starts_while_the_api_server_is_away() {
    let Some(node) = Node::new(Mode::Routed, "nft") else { return };
    let names = names(number("NPC_CNI_PODS", PODS));
    let server = Server::in_process();
    let netns = node.netns().try_clone().unwrap();
    server.listen(move |port| netns.within(|| std::net::TcpListener::bind(("127.0.0.1", port))).unwrap()).unwrap();
    let kubeconfig = server.write_kubeconfig(node.folder()).unwrap();
    let mut objects = pods(&names);
    objects.nodes.push(npc_compiler::object::Node { name: "n1".to_owned(), addresses: vec![], pod_cidrs: vec![] });
    for object in manifests::list(&objects)["items"].as_array().unwrap() {
        server.put(object);
    }
    node.start_agent_with(&["--kubeconfig", kubeconfig.to_str().unwrap()]);
    node.wait_ready();
    listen(node.outside(), &[8080, 9090]);
    let arrivals = Arrivals::count(node.outside(), 9090);
    server.stop();
    report("while the API server is away", start_all(&node, &names));
    assert_eq!(arrivals.packets(), 0, "packets that policies deny arrived");
}

/// An address is its next pod's at once, whatever the API still lists of the pod before.
#[test]
fn an_address_that_is_used_again_at_once_has_its_new_pods_rules() {
    let Some(mut node) = Node::new(Mode::Routed, "nft") else { return };
    // Two addresses, so that each is used again by the pod after the next.
    node.range = ["10.0.0.2", "10.0.0.3"].map(str::to_owned);
    let names = names(12);
    let mut objects = pods(&names);
    // Every second pod is selected by no policy.
    objects.policies[0] = super::policy_of(&json!({"matchLabels": {"app": "web"}}));
    for pod in objects.pods.iter_mut().skip(1).step_by(2) {
        pod.labels = [("app".to_owned(), "free".to_owned())].into();
    }
    node.write(&objects);
    node.start_agent();
    node.wait_ready();
    listen(node.outside(), &[9090]);
    let [to, _] = addresses(OUTSIDE);
    let mut owners: BTreeMap<IpAddr, usize> = BTreeMap::new();
    let mut last: Option<super::node::Pod> = None;
    for (n, name) in names.iter().enumerate() {
        let mut web = node.sandbox(name, json!([]));
        node.add(&mut web).unwrap();
        let is_isolated = n % 2 == 0;
        assert_eq!(reaches(&web.netns, to, 9090), !is_isolated, "{name} at {:?}", web.addresses());
        let address = web.addresses()[0];
        *owners.entry(address).or_default() += 1;
        // The API reports it now, and goes on with that after the pod has gone.
        if let IpAddr::V4(address) = address {
            objects.pods[n].ipv4 = Some(address);
            node.write(&objects);
        }
        if let Some(before) = last.replace(web) {
            node.delete(&before).unwrap();
        }
    }
    assert_eq!(owners.len(), 2, "{owners:?}");
    // What is written last is read, and changes nothing of that.
    let web = last.unwrap();
    wait("the last pod is free still", || reaches(&web.netns, to, 9090));
}
