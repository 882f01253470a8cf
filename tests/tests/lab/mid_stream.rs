//! Connections whose entries are gone from the nodes' tables: real agents, real connections. What
//! policies allow goes on, and what they deny does not. This holds for either end that speaks
//! first.
//!
//! Nothing here waits by the clock. That something does not arrive shows by what
//! was sent beside it, on a flow that goes on.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

use std::collections::{BTreeMap, BTreeSet};
use std::io::{ErrorKind, Read as _, Write as _};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::process::Command;
use std::time::Duration;

use k8s_openapi::api::core::v1::PodSpec;
use k8s_openapi::api::networking::v1 as networking;
use nix::sys::signal::Signal;
use npc_agent::dataplane::conntrack::sweep;
use npc_compiler::cluster::Cluster;
use npc_compiler::object::{Family, Labels, NetworkPolicy, Objects, Pod};
use npc_compiler::plan::conntrack::FlowKey;
use npc_compiler::policy::Direction;
use npc_compiler::ruleset::layout::{self, RulesetOptions};
use npc_compiler::ruleset::node::{ChainName, Rule, Target};
use npc_tests::lab::{Backend, Enforcer, Lab, Mode, can_run};
use serde_json::{Value, json};
use socket2::{Domain, Socket, Type};

/// How long an exchange may take on a connection that goes on: TCP sends again.
const PATIENCE: Duration = Duration::from_secs(20);

/// How often everything is sent side by side.
const ROUNDS: usize = 60;

const NODES: [&str; 2] = ["node-1", "node-2"];
const MESSAGE: &[u8] = b"8 bytes.";
const CONTROL: u16 = 8080;

/// A server's port and a client's, as usual and as unusual as can be: one where
/// clients' ports are, and one where they are not.
const PORTS: [(u16, u16); 2] = [(5432, 0), (50051, 20000)];

fn pod(name: &str, node: &str) -> Pod {
    let labels = Labels::from([("app".to_owned(), name.to_owned())]);
    let pod = Pod::from_template("shop".to_owned(), name.to_owned(), labels, PodSpec::default());
    Pod { node: Some(node.to_owned()), ..pod }
}

fn policy(name: &str, spec: &Value) -> NetworkPolicy {
    let policy = json!({"metadata": {"namespace": "shop", "name": name}, "spec": spec});
    let policy: networking::NetworkPolicy = serde_json::from_value(policy).unwrap();
    policy.into()
}

/// A database with a client on its own node and one on another.
fn shop(policies: Vec<NetworkPolicy>) -> Objects {
    let pods = vec![pod("db", NODES[0]), pod("near", NODES[0]), pod("far", NODES[1])];
    Objects { pods, policies, ..Objects::default() }
}

fn to_ports(ports: &[u16]) -> Value {
    ports.iter().map(|port| json!({"port": port})).collect()
}

fn control() -> Value {
    json!({"ports": [{"port": CONTROL, "protocol": "UDP"}]})
}

/// The database admits these ports, and is isolated for nothing else.
fn ingress(ports: &[u16]) -> Vec<NetworkPolicy> {
    let rules = json!([{"from": [{"podSelector": {}}], "ports": to_ports(ports)}, control()]);
    vec![policy(
        "db",
        &json!({"podSelector": {"matchLabels": {"app": "db"}}, "policyTypes": ["Ingress"], "ingress": rules}),
    )]
}

/// Every pod is isolated both ways; the clients may send to all that the database
/// admits, by its number.
fn both_ways(ports: &[u16]) -> Vec<NetworkPolicy> {
    let mut policies = ingress(ports);
    let admitted: Vec<u16> = PORTS.iter().map(|(server, _)| *server).collect();
    let egress =
        json!([{"to": [{"podSelector": {"matchLabels": {"app": "db"}}}], "ports": to_ports(&admitted)}, control()]);
    policies.push(policy("all", &json!({"podSelector": {}, "policyTypes": ["Ingress", "Egress"]})));
    policies.push(policy("out", &json!({"podSelector": {}, "policyTypes": ["Egress"], "egress": egress})));
    policies
}

/// Both ends of a connection.
struct Connection {
    name: String,
    client: TcpStream,
    server: TcpStream,
}

impl Connection {
    fn open(lab: &Lab, from: &str, family: Family, (port, own): (u16, u16)) -> Self {
        let [client, server] = [from, "db"].map(|name| &lab.places()[lab.find(&format!("shop/{name}")).unwrap()]);
        let at = SocketAddr::new(server.address(family).unwrap(), port);
        let own = SocketAddr::new(client.address(family).unwrap(), own);
        let listener = server.netns.within(|| bound(at, true)).unwrap();
        listener.listen(8).unwrap();
        let listener = TcpListener::from(listener);
        let socket = client.netns.within(|| bound(own, true)).unwrap();
        socket.connect_timeout(&at.into(), PATIENCE).unwrap();
        let (server, _) = listener.accept().unwrap();
        let client = TcpStream::from(socket);
        for stream in [&client, &server] {
            stream.set_nodelay(true).unwrap();
            stream.set_read_timeout(Some(PATIENCE)).unwrap();
        }
        Self { name: format!("{from} {family} to {port}"), client, server }
    }

    fn all(lab: &Lab) -> Vec<Self> {
        let mut all = Vec::new();
        for (from, family) in [("near", Family::V4), ("near", Family::V6), ("far", Family::V4), ("far", Family::V6)] {
            all.extend(PORTS.map(|ports| Self::open(lab, from, family, ports)));
        }
        all.iter_mut().for_each(Self::go_on);
        for node in NODES {
            assert!(known(lab, node).iter().all(|tuple| !tuple.mid_stream), "{node} saw them begin");
        }
        all
    }

    /// One message each way, the client's first.
    fn go_on(&mut self) {
        let mut buffer = [0; MESSAGE.len()];
        let mut exchange = || -> std::io::Result<()> {
            self.client.write_all(MESSAGE)?;
            self.server.read_exact(&mut buffer)?;
            self.server.write_all(MESSAGE)?;
            self.client.read_exact(&mut buffer)
        };
        exchange().unwrap_or_else(|error| panic!("{} does not go on: {error}", self.name));
    }

    /// The server speaks, and is not waited for; what it says arrives once the
    /// client has spoken.
    fn server_speaks_first(&mut self) {
        let mut buffer = [0; MESSAGE.len()];
        self.server.write_all(MESSAGE).unwrap();
        self.client.write_all(MESSAGE).unwrap();
        for stream in [&mut self.server, &mut self.client] {
            stream.read_exact(&mut buffer).unwrap_or_else(|error| panic!("{} does not go on: {error}", self.name));
        }
    }

    /// Both ends send, and wait for nothing.
    fn push(&mut self) {
        let _ = self.server.write(MESSAGE);
        let _ = self.client.write(MESSAGE);
    }

    /// How much has arrived at either end.
    fn arrived(&mut self) -> usize {
        let mut buffer = vec![0; 65536];
        let mut total = 0;
        for stream in [&mut self.client, &mut self.server] {
            stream.set_nonblocking(true).unwrap();
            loop {
                match stream.read(&mut buffer) {
                    Ok(0) => break,
                    Ok(length) => total += length,
                    Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                    Err(error) => panic!("{error}"),
                }
            }
            stream.set_nonblocking(false).unwrap();
        }
        total
    }
}

fn bound(at: SocketAddr, is_stream: bool) -> Socket {
    let kind = if is_stream { Type::STREAM } else { Type::DGRAM };
    let socket = Socket::new(Domain::for_address(at), kind, None).unwrap();
    socket.set_reuse_address(true).unwrap();
    socket.bind(&at.into()).unwrap();
    socket
}

/// A flow that every state allows, from the clients' node to the database's.
struct Control(UdpSocket, UdpSocket);

impl Control {
    fn open(lab: &Lab) -> Self {
        let open = |name: &str, port| {
            let place = &lab.places()[lab.find(name).unwrap()];
            let at = SocketAddr::new(place.address(Family::V4).unwrap(), port);
            UdpSocket::from(place.netns.within(|| bound(at, false)).unwrap())
        };
        let (client, server) = (open("shop/far", 0), open("shop/db", CONTROL));
        client.connect(server.local_addr().unwrap()).unwrap();
        server.set_read_timeout(Some(PATIENCE)).unwrap();
        Self(client, server)
    }

    fn passes(&self) {
        self.0.send(MESSAGE).unwrap();
        self.1.recv(&mut [0; MESSAGE.len()]).unwrap();
    }
}

/// Has every node forget what it knows, as `conntrack -F` does.
fn forget(lab: &Lab) {
    for (node, family) in NODES.into_iter().flat_map(|node| Family::ALL.map(|family| (node, family))) {
        lab.node(node).unwrap().within(|| sweep(family, &mut |_| true).unwrap()).unwrap();
    }
}

/// What TCP connections a node knows.
fn known(lab: &Lab, node: &str) -> BTreeSet<FlowKey> {
    let mut known = BTreeSet::new();
    let mut list = |family| {
        let mut see = |tuple: &FlowKey| {
            known.extend((tuple.protocol == 6).then_some(*tuple));
            false
        };
        sweep(family, &mut see).unwrap();
    };
    lab.node(node).unwrap().within(|| Family::ALL.map(&mut list)).unwrap();
    known
}

fn lab(policies: Vec<NetworkPolicy>, backend: Backend, mode: Mode) -> Option<Lab> {
    let builder = Lab::builder(shop(policies)).mode(mode).backend(backend).enforcer(Enforcer::for_test()?);
    Some(builder.start().unwrap())
}

fn apply(lab: &mut Lab, policies: Vec<NetworkPolicy>) {
    let objects = Objects { policies, ..lab.cluster().objects.clone() };
    lab.apply(objects).unwrap();
}

/// Nothing of these arrives, though both ends send, beside a flow that goes on.
fn nothing_arrives(connections: &mut [Connection], control: &Control) {
    for _ in 0..ROUNDS {
        connections.iter_mut().for_each(Connection::push);
        control.passes();
    }
    for connection in connections {
        assert_eq!(connection.arrived(), 0, "{}", connection.name);
    }
}

/// How many segments of no known connection a node has dropped.
fn strays(lab: &Lab, node: &str) -> u64 {
    let listed = ["iptables", "ip6tables"].map(|tool| {
        let tool = format!("{tool}-{}", lab.backend().as_str());
        let listed = lab.node(node).unwrap().exec([&tool, "-nvxL", "NPC-DENY-STRAY"], "").unwrap();
        let rule = listed.lines().find(|line| line.contains("DROP")).unwrap();
        rule.split_ascii_whitespace().next().unwrap().parse::<u64>().unwrap()
    });
    listed.into_iter().sum()
}

/// Whether any entry is the wrong way round, from the database.
fn is_reversed(lab: &Lab, node: &str) -> bool {
    let db = &lab.places()[lab.find("shop/db").unwrap()];
    let own = Family::ALL.map(|family| db.address(family).unwrap());
    known(lab, node).iter().any(|tuple| own.contains(&tuple.source))
}

fn go_on_when_nodes_forget_them(policies: fn(&[u16]) -> Vec<NetworkPolicy>, backend: Backend, mode: Mode) {
    let admitted: Vec<u16> = PORTS.iter().map(|(server, _)| *server).collect();
    let Some(mut lab) = lab(policies(&admitted), backend, mode) else { return };
    let mut connections = Connection::all(&lab);
    let control = Control::open(&lab);
    for _ in 0..3 {
        forget(&lab);
        connections.iter_mut().for_each(Connection::go_on);
        forget(&lab);
        connections.iter_mut().for_each(Connection::server_speaks_first);
        assert!(!is_reversed(&lab, NODES[0]), "{:?}", known(&lab, NODES[0]));
    }
    // A change that denies none of them cuts none.
    let entries = known(&lab, NODES[0]);
    assert!(entries.iter().all(|tuple| tuple.mid_stream), "{entries:?}");
    apply(&mut lab, policies(&[&admitted[..], &[1]].concat()));
    let narrower = policies(&admitted);
    apply(&mut lab, narrower);
    assert_eq!(known(&lab, NODES[0]), entries);
    connections.iter_mut().for_each(Connection::go_on);

    // What is denied stops, and no flush brings it back.
    apply(&mut lab, policies(&[1]));
    let before = strays(&lab, NODES[0]);
    nothing_arrives(&mut connections, &control);
    assert!(strays(&lab, NODES[0]) > before);
    forget(&lab);
    nothing_arrives(&mut connections, &control);
    // And what is allowed again goes on, as far as anything shows.
    apply(&mut lab, policies(&admitted));
    for connection in &mut connections {
        connection.client.set_read_timeout(Some(PATIENCE * 3)).unwrap();
        connection.server.set_read_timeout(Some(PATIENCE * 3)).unwrap();
        connection.go_on();
    }
}

fn of_an_isolated_server(backend: Backend, mode: Mode) {
    go_on_when_nodes_forget_them(ingress, backend, mode);
}

fn of_pods_that_are_isolated_both_ways(backend: Backend, mode: Mode) {
    go_on_when_nodes_forget_them(both_ways, backend, mode);
}

/// Nothing on the nodes tracks connections until the agents' rules do.
fn that_began_before_the_nodes_tracked_them(backend: Backend, mode: Mode) {
    let admitted: Vec<u16> = PORTS.iter().map(|(server, _)| *server).collect();
    let Some(mut lab) = lab(both_ways(&admitted), backend, mode) else { return };
    for node in NODES {
        lab.take_agent(node).unwrap().unwrap().stop(Signal::SIGKILL).unwrap();
        for tool in ["iptables", "ip6tables"] {
            for option in ["-F", "-X"] {
                let tool = format!("{tool}-{}", lab.backend().as_str());
                lab.node(node).unwrap().exec([&*tool, option], "").unwrap();
            }
        }
    }
    forget(&lab);
    let mut connections = Connection::all(&lab);
    for node in NODES {
        assert_eq!(known(&lab, node), BTreeSet::new(), "{node} tracks connections");
    }
    lab.start_agents().unwrap();
    connections.iter_mut().for_each(Connection::server_speaks_first);
    connections.iter_mut().for_each(Connection::go_on);
    assert!(!is_reversed(&lab, NODES[0]));
}

/// Where nothing isolated the ends, the kernel may have taken a connection up the
/// wrong way round.
fn taken_up_from_the_server_are_cut_with_the_others(backend: Backend, mode: Mode) {
    let Some(mut lab) = lab(Vec::new(), backend, mode) else { return };
    let mut connections = Connection::all(&lab);
    let control = Control::open(&lab);
    forget(&lab);
    connections.iter_mut().for_each(Connection::server_speaks_first);
    assert!(is_reversed(&lab, NODES[0]) && is_reversed(&lab, NODES[1]));
    apply(&mut lab, ingress(&[1]));
    nothing_arrives(&mut connections, &control);
}

/// How many chains nest below one, at most.
fn depth(chains: &BTreeMap<ChainName, Vec<Rule>>, chain: &ChainName) -> usize {
    let next = chains[chain].iter().filter_map(|rule| match &rule.target {
        Target::Jump(next) | Target::Goto(next) => Some(depth(chains, next) + 1),
        _ => None,
    });
    next.max().unwrap_or_default()
}

/// nft refuses a hook from which chains nest too deep, for any rules in them.
#[test]
fn the_deepest_tree_is_loaded_with_the_chains_about_such_segments() {
    if !can_run() {
        return;
    }
    let of = |n: usize| {
        let mut pod = pod(&format!("p{n}"), NODES[0]);
        // Two pods list each address, so a chain for both stands before their groups'.
        pod.ipv4 = Some(Ipv4Addr::from(0x0a00_0000 + u32::try_from(n / 2).unwrap() + 1));
        let select = json!({"podSelector": {"matchLabels": {"app": format!("p{n}")}}, "policyTypes": ["Ingress"],
            "ingress": [{"ports": [{"port": 80}]}, {"from": [{"podSelector": {}}]}]});
        (pod, policy(&format!("p{n}"), &select))
    };
    let (pods, policies): (Vec<Pod>, Vec<NetworkPolicy>) = (0..1500).map(of).unzip();
    let mut objects = Objects { pods, policies, ..Objects::default() };
    objects.declare_namespaces();
    let program = layout::ruleset(&Cluster::new(&objects), NODES[0], &RulesetOptions::default()).v4;
    assert_eq!(depth(&program.chains, &ChainName::entry(Direction::Ingress)), 13, "it is not the deepest");
    let folder = tempfile::tempdir().unwrap();
    for (name, text) in [("sets", program.ipset_text()), ("rules", program.restore_text())] {
        std::fs::write(folder.path().join(name), text).unwrap();
    }
    for backend in [Backend::Nft, Backend::Legacy] {
        let tool = format!("iptables-{}", backend.as_str());
        let script = format!(
            "ipset restore < sets && {tool}-restore --noflush < rules && {tool} -I FORWARD -j NPC-FORWARD && {tool} -S \
             NPC-STRAY-INGRESS"
        );
        let shell = ["--net", "sh", "-c", &script];
        let done = Command::new("unshare").args(shell).current_dir(folder.path()).output().unwrap();
        assert!(done.status.success(), "{tool}: {}", String::from_utf8_lossy(&done.stderr));
    }
}

macro_rules! on_both_backends {
    ($($test:ident: $nft:ident $legacy:ident),+ $(,)?) => {
        mod connections {
            use super::*;
            mod nft {
                use super::*;
                $(#[test] fn $test() { super::$test(Backend::Nft, Mode::$nft); })+
            }
            mod legacy {
                use super::*;
                $(#[test] fn $test() { super::$test(Backend::Legacy, Mode::$legacy); })+
            }
        }
    };
}

on_both_backends!(
    of_an_isolated_server: Routed Bridge,
    of_pods_that_are_isolated_both_ways: Bridge Routed,
    that_began_before_the_nodes_tracked_them: Routed Routed,
    taken_up_from_the_server_are_cut_with_the_others: Routed Bridge,
);
