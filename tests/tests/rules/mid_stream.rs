//! TCP connections whose entry in the kernel's table is gone, on one or both of their nodes. What
//! policies deny never goes on. What they allow does, after a segment of either end.
//!
//! All of it is tried: every way of isolating both ends, on one node and on two,
//! with the kernel's table as a model that takes connections up in their middle.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr};

use k8s_openapi::api::core::v1::PodSpec;
use k8s_openapi::api::networking::v1 as networking;
use npc_compiler::cluster::Cluster;
use npc_compiler::object::{Labels, NetworkPolicy, Objects, Pod, Protocol};
use npc_compiler::plan::KernelState;
use npc_compiler::plan::conntrack::{AddressOwners, FlowJudgement, FlowKey};
use npc_compiler::ruleset::layout::{self, RulesetOptions};
use npc_compiler::ruleset::node::NodeRuleset;
use npc_tests::interpreter::{self, ConntrackState, Outcome, Packet, Payload};
use serde_json::{Value, json};

const CLIENT: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 1);
const SERVER: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 2);

/// What the policies of one end say of one direction.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Rules {
    /// Nothing isolates it.
    Open,
    Nothing,
    Everything,
    /// All ports of the other end.
    Peer,
    /// One port of the connection, by its number.
    Port,
    /// That port in a range of almost all.
    Range,
    /// That port, and all others of the other end.
    PortAndPeer,
    /// A port that plays no part.
    Other,
}

impl Rules {
    const ALL: [Self; 8] = [
        Self::Open,
        Self::Nothing,
        Self::Everything,
        Self::Peer,
        Self::Port,
        Self::Range,
        Self::PortAndPeer,
        Self::Other,
    ];

    fn admits(self) -> bool {
        !matches!(self, Self::Nothing | Self::Other)
    }

    fn names(self) -> bool {
        matches!(self, Self::Port | Self::PortAndPeer)
    }

    /// The rules of a policy about a peer and a port.
    fn written(self, peers: &str, peer: &str, port: u16) -> Option<Value> {
        let peer = json!([{"podSelector": {"matchLabels": {"app": peer}}}]);
        let to = |port: u16| json!({peers: peer, "ports": [{"port": port}]});
        Some(match self {
            Self::Open => return None,
            Self::Nothing => json!([]),
            Self::Everything => json!([{}]),
            Self::Peer => json!([{peers: peer}]),
            Self::Port => json!([to(port)]),
            Self::Range => json!([{peers: peer, "ports": [{"port": 1000, "endPort": 65000}]}]),
            Self::PortAndPeer => json!([to(port), {peers: peer}]),
            Self::Other => json!([to(7)]),
        })
    }
}

/// A connection and what policies say of its ends.
#[derive(Debug, Clone, Copy)]
struct Case {
    server_port: u16,
    client_port: u16,
    nodes: [&'static str; 2],
    /// Egress of the client to the server's port, and ingress from the server to
    /// the client's.
    client: [Rules; 2],
    /// Ingress of the server from the client to its port, and egress to the
    /// client's.
    server: [Rules; 2],
}

/// Which way a segment goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Way {
    ToServer,
    ToClient,
}

impl Way {
    const BOTH: [Self; 2] = [Self::ToServer, Self::ToClient];
}

/// What a node's table has of the connection: which way it began, and whether it
/// was answered.
type Entry = Option<(Way, bool)>;

impl Case {
    fn objects(&self) -> Objects {
        let pod = |name: &str, node: &str, address| Pod {
            uid: name.to_owned(),
            node: Some(node.to_owned()),
            ipv4: Some(address),
            ..Pod::from_template(
                "a".to_owned(),
                name.to_owned(),
                Labels::from([("app".to_owned(), name.to_owned())]),
                PodSpec::default(),
            )
        };
        let policy = |of: &str, egress: Option<Value>, ingress: Option<Value>| {
            let types: Vec<&str> = [("Egress", &egress), ("Ingress", &ingress)]
                .into_iter()
                .filter_map(|(name, rules)| rules.as_ref().map(|_| name))
                .collect();
            let mut spec = json!({"podSelector": {"matchLabels": {"app": of}}, "policyTypes": types});
            for (section, rules) in [("egress", egress), ("ingress", ingress)] {
                if let Some(rules) = rules {
                    spec[section] = rules;
                }
            }
            let object = json!({"metadata": {"namespace": "a", "name": of}, "spec": spec});
            let object: networking::NetworkPolicy = serde_json::from_value(object).unwrap();
            (!types.is_empty()).then(|| NetworkPolicy::from(object))
        };
        let ([egress, ingress], [server_ingress, server_egress]) = (self.client, self.server);
        let of_client = policy(
            "client",
            egress.written("to", "server", self.server_port),
            ingress.written("from", "server", self.client_port),
        );
        let of_server = policy(
            "server",
            server_egress.written("to", "client", self.client_port),
            server_ingress.written("from", "client", self.server_port),
        );
        let mut objects = Objects {
            pods: vec![pod("client", self.nodes[0], CLIENT), pod("server", self.nodes[1], SERVER)],
            policies: of_client.into_iter().chain(of_server).collect(),
            ..Objects::default()
        };
        objects.declare_namespaces();
        objects
    }

    fn ends(&self, way: Way) -> (IpAddr, IpAddr, u16) {
        match way {
            Way::ToServer => (CLIENT.into(), SERVER.into(), self.server_port),
            Way::ToClient => (SERVER.into(), CLIENT.into(), self.client_port),
        }
    }

    /// The ends that deny the connection and are on this node, and whether the
    /// same end's rules for the other direction name the client's port.
    fn denying(&self, node: &str) -> Vec<bool> {
        let ends = [(self.nodes[0], self.client), (self.nodes[1], self.server)];
        let here = ends.into_iter().filter(|(of, [own, _])| *of == node && !own.admits());
        here.map(|(_, [_, other])| other.names()).collect()
    }

    /// Whether each end lets the client's next segment pass: it is isolated in
    /// that direction only, or a rule names the port.
    fn passes(&self) -> bool {
        [self.client, self.server].into_iter().all(|[own, other]| own.admits() && (other == Rules::Open || own.names()))
    }

    /// Whether a connection the other way, to the client's port, is allowed too
    /// by the ends on this node.
    fn allows_reverse(&self, node: &str) -> bool {
        let ends = [(self.nodes[0], self.client), (self.nodes[1], self.server)];
        ends.into_iter().filter(|(of, _)| *of == node).all(|(_, [_, other])| other.admits())
    }
}

/// The nodes on a segment's way, and which of the segments that belong to no
/// known connection each lets pass.
struct Network {
    nodes: Vec<(&'static str, [bool; 2])>,
}

/// All addresses that are asked about are of pods.
struct Pods<'a>(&'a Case, &'a str);

impl AddressOwners for Pods<'_> {
    fn is_local(&self, address: IpAddr) -> bool {
        let place = usize::from(address == IpAddr::from(SERVER));
        self.0.nodes[place] == self.1
    }

    fn is_own(&self, _: IpAddr) -> bool {
        false
    }

    fn is_departed(&self, _: IpAddr) -> bool {
        false
    }
}

impl Network {
    fn new(case: &Case) -> Self {
        let cluster = Cluster::new(&case.objects());
        let names: BTreeSet<&'static str> = case.nodes.into();
        let node = |name: &'static str| {
            let program = layout::ruleset(&cluster, name, &RulesetOptions::default());
            let passes = Way::BOTH.map(|way| passes(case, &program, way));
            // What is taken up in its middle goes on while it would be again.
            let state = KernelState::from(&program);
            let pods = Pods(case, name);
            let judge = FlowJudgement::new(&state, &pods);
            let stays = Way::BOTH.map(|way| {
                let (source, destination, port) = case.ends(way);
                !judge.forbids(&FlowKey { source, destination, protocol: 6, port, mid_stream: true })
            });
            assert_eq!(stays, passes, "{name} of {case:?}");
            (name, passes)
        };
        Self { nodes: names.into_iter().map(node).collect() }
    }

    /// Sends a segment; whether it arrives, and the tables behind it.
    fn send(&self, way: Way, tables: &mut [Entry]) -> bool {
        let mut places: Vec<usize> = (0..self.nodes.len()).collect();
        if way == Way::ToClient {
            places.reverse();
        }
        for place in places {
            match &mut tables[place] {
                Some((began, answered)) if *began != way => *answered = true,
                Some((_, true)) => {}
                entry => {
                    if !self.nodes[place].1[way as usize] {
                        return false;
                    }
                    *entry = entry.or(Some((way, false)));
                }
            }
        }
        true
    }

    /// Every state of the tables that segments can lead to, and whether any
    /// arrives on the way.
    fn explore(&self, start: Vec<Entry>) -> (BTreeSet<Vec<Entry>>, bool) {
        let (mut seen, mut open, mut arrives) = (BTreeSet::new(), vec![start], false);
        while let Some(tables) = open.pop() {
            if !seen.insert(tables.clone()) {
                continue;
            }
            for way in Way::BOTH {
                let mut next = tables.clone();
                arrives |= self.send(way, &mut next);
                open.push(next);
            }
        }
        (seen, arrives)
    }

    /// The tables in which each node has the connection as it began, or nothing,
    /// which is what a node has that denies it.
    fn beginnings(&self, case: &Case) -> Vec<Vec<Entry>> {
        let mut all = vec![Vec::new()];
        for (name, _) in &self.nodes {
            let is_cut = !case.denying(name).is_empty();
            let known = Some((Way::ToServer, true));
            let entries: &[Entry] = if is_cut { &[None] } else { &[None, known] };
            all = all
                .into_iter()
                .flat_map(|tables: Vec<Entry>| entries.iter().map(move |entry| [&tables[..], &[*entry]].concat()))
                .collect();
        }
        all
    }
}

fn passes(case: &Case, program: &NodeRuleset, way: Way) -> bool {
    let (source, destination, port) = case.ends(way);
    let payload = Payload::Port(Protocol::Tcp, port);
    let packet = Packet { state: ConntrackState::Stray, ..Packet::first(source, destination, payload) };
    interpreter::run(program, &packet).outcome == Outcome::Returned
}

fn cases() -> impl Iterator<Item = Case> {
    let pairs = || Rules::ALL.into_iter().flat_map(|own| Rules::ALL.map(move |other| [own, other]));
    let places = [["n1", "n1"], ["n1", "n2"]];
    // Also with a server where clients' ports are, and a client where they are not.
    let ports = [(5432, 40000), (50051, 20000)];
    pairs().flat_map(move |client| {
        pairs().flat_map(move |server| {
            places.into_iter().flat_map(move |nodes| {
                ports.map(|(server_port, client_port)| Case { server_port, client_port, nodes, client, server })
            })
        })
    })
}

#[test]
fn a_denied_connection_never_goes_on_and_an_allowed_one_does() {
    let (mut denied, mut by_name, mut lived, mut died) = (0, 0, 0, 0);
    for case in cases() {
        let network = Network::new(&case);
        let denying: Vec<bool> = network.nodes.iter().flat_map(|(name, _)| case.denying(name)).collect();
        for start in network.beginnings(&case) {
            let (states, arrives) = network.explore(start.clone());
            if !denying.is_empty() {
                // Where the client's port is one that the policies of the very end
                // that denies it name for the server, a connection from there is
                // what they admit.
                let is_admitted_by_name = denying.iter().all(|names| *names);
                assert!(!arrives || is_admitted_by_name, "{case:?} from {start:?}");
                denied += usize::from(!arrives);
                by_name += usize::from(arrives);
                continue;
            }
            // Only where both directions are allowed may it be the wrong way round.
            for (place, (name, _)) in network.nodes.iter().enumerate() {
                let reversed = states.iter().any(|tables| matches!(tables[place], Some((Way::ToClient, _))));
                assert!(!reversed || case.allows_reverse(name), "{case:?} on {name}");
            }
            // The client's next segment revives it, after any segments before.
            let revives = states
                .into_iter()
                .all(|mut tables| network.send(Way::ToServer, &mut tables) && network.send(Way::ToClient, &mut tables));
            let is_known = start.iter().all(Option::is_some);
            assert!(revives || !(case.passes() || is_known), "{case:?} from {start:?}");
            lived += usize::from(revives && !is_known);
            died += usize::from(!revives);
        }
    }
    eprintln!("denied {denied}, admitted by name {by_name}, lived {lived}, died {died}");
    assert!(denied > 5000 && lived > 1000, "{denied} denied, {lived} lived");
}
