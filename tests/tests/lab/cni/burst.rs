//! Many pods at once: under agents that are replaced, without an API server, with addresses
//! that are used again at once, and with a full conntrack table.
//!
//! `NPC_CNI_PODS` is how many pods start, `NPC_CNI_FLOWS` how many flows there are, and
//! `NPC_CNI_MILLISECONDS` for how long each pod sends what policies deny (`make test-full` asks
//! for many).

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant, SystemTime};

use npc_compiler::object::Objects;
use npc_tests::apiserver::Server;
use npc_tests::lab::{Netns, manifests};
use serde_json::json;

use super::node::{Mode, Node, OUTSIDE, wait};
use super::traffic::{Arrivals, Datagrams, Flood, listen, open_flows, passes, reaches};
use super::{addresses, objects};
use crate::number;

/// How many pods start, and how many flows there are, unless the environment says otherwise.
const PODS: u64 = 24;
const FLOWS: u64 = 2_000;

/// For how many milliseconds each pod sends, unless the environment says otherwise.
const MILLISECONDS: u64 = 100;

/// How many start at once.
const AT_ONCE: usize = 50;

/// Without an index of addresses with flows, and with one.
const BOTH: [bool; 2] = [false, true];

fn names(count: u64) -> Vec<String> {
    (0..count).map(|n| format!("web-{n}")).collect()
}

fn pods(names: &[String]) -> Objects {
    objects(&names.iter().map(String::as_str).collect::<Vec<_>>())
}

/// Starts pods, so many at once. Each sends denied packets from the instant at which its chain
/// of plugins returns, and a host outside sends them to it from before. Of these it receives
/// none, and its first allowed connection of each family, which begins at that instant too, succeeds. Answers how long the chain took for each.
fn start_all(node: &Node, names: &[String]) -> Vec<Duration> {
    start_all_and_count(node, names, &AtomicUsize::new(0))
}

/// The same, and counts how many have started.
fn start_all_and_count(node: &Node, names: &[String], started: &AtomicUsize) -> Vec<Duration> {
    // The plugin host-local gives addresses in order.
    let places = (2..).take(names.len()).map(|place: u32| {
        let v6 = Ipv6Addr::from((0xfd00_u128 << 112) + u128::from(place));
        [IpAddr::from(Ipv4Addr::from(0x0a00_0000 + place)), IpAddr::from(v6)]
    });
    let flooded: Vec<_> = places.flatten().map(|address| SocketAddr::new(address, 7001)).collect();
    let _flood = Flood::of_datagrams(node.outside(), flooded.clone());
    let one = |name: &String| {
        let mut web = node.sandbox(name, json!([]));
        let denied = Datagrams::receive(&web.netns, 7001);
        let begun = Instant::now();
        node.add(&mut web).unwrap();
        // What came while the plugins were at work does not count: the container was not there.
        let (took, returned) = (begun.elapsed(), SystemTime::now());
        let mut received = denied.since(returned);
        started.fetch_add(1, Ordering::Relaxed);
        let netns = &web.netns;
        // Both from the instant at which the chain returned.
        thread::scope(|scope| {
            scope.spawn(|| send_denied(netns));
            for to in addresses(OUTSIDE) {
                scope.spawn(move || assert!(reaches(netns, to, 8080), "{name} does not reach {to}"));
            }
        });
        for to in addresses(OUTSIDE) {
            assert!(!passes(netns, to, 9090), "{name} reaches {to}");
        }
        let is_flooded = |address: &IpAddr| flooded.contains(&SocketAddr::new(*address, 7001));
        assert!(web.addresses().iter().all(is_flooded), "{name} is not flooded");
        received += denied.since(returned);
        assert_eq!(received, 0, "denied packets from outside reached {name}");
        took
    };
    in_parallel(names, AT_ONCE, |_, name| one(name))
}

/// Sends to a denied port of both addresses outside without a pause, for as long as is asked for.
fn send_denied(netns: &Netns) {
    let end = Instant::now() + Duration::from_millis(number("NPC_CNI_MILLISECONDS", MILLISECONDS));
    let sent = netns.within(|| {
        let sockets = ["0.0.0.0:0", "[::]:0"].map(|own| UdpSocket::bind(own).unwrap());
        let mut sent = 0;
        while sent == 0 || Instant::now() < end {
            for (socket, to) in sockets.iter().zip(addresses(OUTSIDE)) {
                // The kernel reports that a packet was dropped on its way out of this namespace.
                sent += usize::from(socket.send_to(b"denied", SocketAddr::new(to, 9090)).is_ok());
            }
            thread::sleep(Duration::from_millis(1));
        }
        sent
    });
    assert!(sent.unwrap() > 0);
}

/// Does something for each of these names, for so many at once.
fn in_parallel<T: Send>(names: &[String], at_once: usize, one: impl Fn(usize, &String) -> T + Sync) -> Vec<T> {
    let next = AtomicUsize::new(0);
    let worker = || {
        let mut done = Vec::new();
        loop {
            let place = next.fetch_add(1, Ordering::Relaxed);
            let Some(name) = names.get(place) else { return done };
            done.push(one(place, name));
        }
    };
    thread::scope(|scope| {
        let workers: Vec<_> = (0..at_once.min(names.len())).map(|_| scope.spawn(worker)).collect();
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

/// A node whose agent is ready and knows the pods, and their names. The plugin waits for the
/// agent for so many seconds.
fn ready(backend: &'static str, timeout: u32, flow_index: Option<bool>) -> Option<(Node, Vec<String>)> {
    let mut node = Node::new(Mode::Routed, backend)?;
    node.flow_index = flow_index;
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
    for flow_index in BOTH {
        let Some((node, names)) = ready("nft", 30, Some(flow_index)) else { return };
        let arrivals = Arrivals::count(node.outside(), 9090);
        report(&format!("alone, flow index {flow_index}"), start_all(&node, &names));
        assert_eq!(arrivals.packets(), 0, "packets that policies deny arrived, flow index {flow_index}");
    }
}

#[test]
fn a_burst_of_pods_starts_by_legacy_and_none_is_open() {
    let Some((node, names)) = ready("legacy", 30, None) else { return };
    let arrivals = Arrivals::count(node.outside(), 9090);
    report("alone, iptables-legacy", start_all(&node, &names));
    assert_eq!(arrivals.packets(), 0, "packets that policies deny arrived");
}

#[test]
fn a_burst_of_pods_starts_among_many_flows() {
    for flow_index in BOTH {
        let Some((node, names)) = ready("nft", 30, Some(flow_index)) else { return };
        let arrivals = Arrivals::count(node.outside(), 9090);
        open_flows(&node, number("NPC_CNI_FLOWS", FLOWS));
        report(&format!("among flows, flow index {flow_index}"), start_all(&node, &names));
        assert_eq!(arrivals.packets(), 0, "packets that policies deny arrived, flow index {flow_index}");
    }
}

#[test]
fn a_burst_of_pods_starts_while_agents_are_replaced() {
    let Some((node, names)) = ready("nft", 100, None) else { return };
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

/// An address is its next pod's at once, even if the API still lists it for the pod before.
#[test]
fn an_address_that_is_used_again_at_once_has_its_new_pods_rules() {
    let Some(mut node) = Node::new(Mode::Routed, "nft") else { return };
    // Two addresses of each family, so that each is used again by the pod after the next.
    node.range = ["10.0.0.2", "10.0.0.3"].map(str::to_owned);
    node.range_v6 = ["fd00::2", "fd00::3"].map(str::to_owned);
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
    let mut owners: BTreeMap<IpAddr, usize> = BTreeMap::new();
    let mut last: Option<super::node::Pod> = None;
    for (n, name) in names.iter().enumerate() {
        let mut web = node.sandbox(name, json!([]));
        node.add(&mut web).unwrap();
        for to in addresses(OUTSIDE) {
            if n % 2 == 0 {
                assert!(!passes(&web.netns, to, 9090), "{name} at {:?} is isolated", web.addresses());
            } else {
                assert!(reaches(&web.netns, to, 9090), "{name} at {:?} is free", web.addresses());
            }
        }
        // The API reports them now, and goes on with that after the pod has gone.
        for address in web.addresses() {
            *owners.entry(address).or_default() += 1;
            match address {
                IpAddr::V4(address) => objects.pods[n].ipv4 = Some(address),
                IpAddr::V6(address) => objects.pods[n].ipv6 = Some(address),
            }
        }
        node.write(&objects);
        if let Some(before) = last.replace(web) {
            node.delete(&before).unwrap();
        }
    }
    assert_eq!(owners.len(), 4, "{owners:?}");
    // What is written last is read, and changes nothing of that.
    let web = last.unwrap();
    for to in addresses(OUTSIDE) {
        wait("the last pod is free still", || reaches(&web.netns, to, 9090));
    }
}

/// The same for pods that start and end together: each address has one owner after another, of
/// whom every second is isolated.
#[test]
fn addresses_that_pods_use_again_at_once_have_their_new_pods_rules() {
    const LIVE: u8 = 8;
    let Some(mut node) = Node::new(Mode::Routed, "nft") else { return };
    // A plugin takes an address before another has given one back.
    node.range = ["10.0.0.2".to_owned(), format!("10.0.0.{}", 2 + LIVE)];
    node.range_v6 = ["fd00::2".to_owned(), format!("fd00::{:x}", 2 + LIVE)];
    node.settings = json!({"timeoutSeconds": 100});
    let names = names(number("NPC_CNI_PODS", PODS));
    let mut objects = pods(&names);
    objects.policies[0] = super::policy_of(&json!({"matchLabels": {"app": "web"}}));
    for pod in objects.pods.iter_mut().skip(1).step_by(2) {
        pod.labels = [("app".to_owned(), "free".to_owned())].into();
    }
    node.write(&objects);
    node.start_agent();
    node.wait_ready();
    listen(node.outside(), &[8080, 9090, 9091]);
    let arrivals = Arrivals::count(node.outside(), 9090);
    let owned = in_parallel(&names, LIVE.into(), |place, name| {
        let mut web = node.sandbox(name, json!([]));
        node.add(&mut web).unwrap();
        if place % 2 == 0 {
            send_denied(&web.netns);
        }
        for to in addresses(OUTSIDE) {
            if place % 2 == 0 {
                assert!(!passes(&web.netns, to, 9090), "{name} at {:?}", web.addresses());
            } else {
                assert!(reaches(&web.netns, to, 9091), "{name} at {:?}", web.addresses());
            }
        }
        node.delete(&web).unwrap();
        web.addresses()
    });
    assert_eq!(arrivals.packets(), 0, "packets that policies deny arrived");
    for family in 0..2 {
        let of_family = owned.iter().map(|addresses| addresses[family]);
        let different: BTreeSet<IpAddr> = of_family.collect();
        assert!(different.len() < owned.len(), "each had an address of its own: {different:?}");
    }
}
