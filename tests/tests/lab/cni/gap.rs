//! How many denied connections of a pod pass at its start, without the plugin and with it, under a real
//! container runtime: the figures of docs/limits.md.
//!
//! Without the plugin the agent learns of an address from the API server. There is no kubelet here: the test
//! reports the address as soon as the runtime has started the container. So it is the least that a kubelet
//! takes.
//!
//! `NPC_CNI_MEASURED` is how many pods start one by one in each row; where it is set, the node tracks as many flows as in the
//! documents. `NPC_CNI_SERVER_AWAY_SECONDS` is for how long the API server is away.

use std::fs;
use std::net::{IpAddr, SocketAddr};
use std::path::Path;
use std::thread;
use std::time::Duration;

use k8s_openapi::api::networking::v1::NetworkPolicy;
use npc_compiler::object::{Labels, Objects, Pod};
use npc_tests::apiserver::Server;
use serde_json::json;

use super::api::put;
use super::node::{Mode, Node, OUTSIDE, wait};
use super::runtime::{Release, Runtime};
use super::traffic::{listen, open_flows};
use super::{addresses, objects, pod};
use crate::number;

/// How many pods start one by one, unless the environment says otherwise, and how many at once.
const PODS: u64 = 2;
const AT_ONCE: usize = 8;

/// How many flows the node tracks in the rows that have many, and in a sample of them.
const FLOWS: [u64; 2] = [50_000, 150_000];
const SOME_FLOWS: [u64; 1] = [2_000];

/// A node whose agent follows an API server, and a container runtime.
struct World {
    runtime: Runtime,
    server: Server,
    node: Node,
}

/// What came of a pod: how many of its connections passed, and after how long the last one.
#[derive(Debug, Clone, Copy)]
struct Gap {
    passed: u64,
    open: Duration,
}

impl World {
    fn start(has_plugin: bool) -> Option<Self> {
        let node = Node::new(Mode::Routed, "nft")?;
        let mut chain = node.chain();
        if !has_plugin {
            chain.pop();
        }
        let runtime = Runtime::start_with(&node, Release::Bookworm, &chain, true)?;
        let server = Server::in_process();
        let netns = node.netns().try_clone().unwrap();
        server.listen(move |port| netns.within(|| std::net::TcpListener::bind(("127.0.0.1", port))).unwrap()).unwrap();
        let kubeconfig = server.write_kubeconfig(node.folder()).unwrap();
        put(&server, &Objects { policies: Vec::new(), ..objects(&[]) });
        node.start_agent_with(&["--kubeconfig", kubeconfig.to_str().unwrap()]);
        node.wait_ready();
        listen(node.outside(), &[9090]);
        Some(Self { runtime, server, node })
    }

    /// A policy that isolates the pods of this application.
    fn isolate(&self, app: &str) {
        let policy: NetworkPolicy = serde_json::from_value(json!({
            "metadata": {"namespace": "shop", "name": app},
            "spec": {"podSelector": {"matchLabels": {"app": app}}, "policyTypes": ["Ingress", "Egress"]},
        }))
        .unwrap();
        put(&self.server, &Objects { policies: vec![policy.into()], ..Objects::default() });
    }

    /// Starts a pod whose first instruction is a denied connection, and goes on with that for a while.
    fn run(&self, name: &str, app: &str) -> Gap {
        let labels = Labels::from([("app".to_owned(), app.to_owned())]);
        let mut object = Pod { labels, ..pod(name) };
        let report = |object: &Pod| put(&self.server, &Objects { pods: vec![object.clone()], ..Objects::default() });
        report(&object);
        let sandbox = self.runtime.run_sandbox(name, &[]).unwrap();
        let to = SocketAddr::new(addresses(OUTSIDE)[0], 9090);
        self.runtime.start_container(&sandbox, &[format!("measured={to}")]).unwrap();
        for address in given(&self.node.folder().join("ipam/net"), sandbox.id()) {
            match address {
                IpAddr::V4(address) => object.ipv4 = Some(address),
                IpAddr::V6(address) => object.ipv6 = Some(address),
            }
        }
        assert!(object.ipv4.is_some(), "{name} has an address");
        report(&object);
        let measured = || {
            let lines = sandbox.printed();
            let found = lines.keys().find_map(|line| line.strip_prefix("measured "))?;
            let (passed, open) = found.split_once(' ')?;
            Some(Gap { passed: passed.parse().unwrap(), open: Duration::from_micros(open.parse().unwrap()) })
        };
        wait("the container has tried for long enough", || measured().is_some());
        let gap = measured().unwrap();
        self.runtime.remove(&sandbox).unwrap();
        gap
    }

    /// Starts some pods at once.
    fn run_at_once(&self, name: &str, app: &str) -> Vec<Gap> {
        thread::scope(|scope| {
            let run = |n: usize| scope.spawn(move || self.run(&format!("{name}-{n}"), app));
            let running: Vec<_> = (0..AT_ONCE).map(run).collect();
            running.into_iter().map(|running| running.join().unwrap()).collect()
        })
    }

    /// The API server is away for a while, and comes back.
    fn lose_server(&self) {
        self.server.stop();
        thread::sleep(Duration::from_secs(number("NPC_CNI_SERVER_AWAY_SECONDS", 0)));
        self.server.restart().unwrap();
    }
}

/// The addresses that the plugin host-local gave a container.
fn given(folder: &Path, id: &str) -> Vec<IpAddr> {
    let files = fs::read_dir(folder).unwrap().flatten();
    let is_its = |path: &Path| fs::read_to_string(path).is_ok_and(|text| text.starts_with(id));
    let own = files.filter(|file| is_its(&file.path()));
    own.filter_map(|file| file.file_name().to_str()?.parse().ok()).collect()
}

/// A row of the table.
fn row(what: &str, has_plugin: bool, gaps: &[Gap]) {
    let mut open: Vec<Duration> = gaps.iter().map(|gap| gap.open).collect();
    let mut passed: Vec<u64> = gaps.iter().map(|gap| gap.passed).collect();
    open.sort_unstable();
    passed.sort_unstable();
    let pods = passed.iter().filter(|count| **count > 0).count();
    let (middle, last) = (gaps.len() / 2, gaps.len() - 1);
    eprintln!(
        "{what}, {} the plugin: {pods} of {} pods got through, {} connections (median, at most {}), open {:?} (median, at \
         most {:?})",
        if has_plugin { "with" } else { "without" },
        gaps.len(),
        passed[middle],
        passed[last],
        open[middle],
        open[last],
    );
    if has_plugin {
        assert_eq!(pods, 0, "{what}: denied connections passed: {gaps:?}");
    }
}

#[test]
fn no_denied_connection_of_a_container_passes_and_without_the_plugin_some_do() {
    let mut without = 0;
    for has_plugin in [false, true] {
        let Some(world) = World::start(has_plugin) else { return };
        let count = number("NPC_CNI_MEASURED", PODS);
        world.isolate("old");
        let old: Vec<Gap> = (0..count).map(|n| world.run(&format!("old-{n}"), "old")).collect();
        row("the policy was there long before", has_plugin, &old);
        let young = (0..count).map(|n| {
            let name = format!("young-{n}");
            world.isolate(&name);
            thread::sleep(Duration::from_millis(300));
            world.run(&name, &name)
        });
        let young: Vec<Gap> = young.collect();
        row("the policy was created 0.3 s before", has_plugin, &young);
        let many = world.run_at_once("many", "old");
        row("8 pods at once", has_plugin, &many);
        let flows: &[u64] = if std::env::var_os("NPC_CNI_MEASURED").is_some() { &FLOWS } else { &SOME_FLOWS };
        for count in flows {
            open_flows(&world.node, *count);
            let tracked = world.run_at_once(&format!("flows-{count}"), "old");
            row(&format!("8 pods at once, {count} flows"), has_plugin, &tracked);
        }
        world.lose_server();
        row("the API server is just back", has_plugin, &[world.run("back", "old")]);
        // No policy isolates this one: a node without a network would let nothing through, too.
        assert!(world.run("open", "open").passed > 0, "what no policy denies passes");
        if !has_plugin {
            without = [old, young, many].concat().iter().map(|gap| gap.passed).sum();
        }
    }
    assert!(without > 0, "the test sees what passes");
}
