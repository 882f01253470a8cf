//! Established flows under real agents: what policies deny by now stops, what
//! they still allow goes on without a loss.
//!
//! Nothing here waits by the clock. That something does not arrive shows by
//! what was sent beside it, on a flow that goes on: both cross the same nodes,
//! one right after the other, again and again.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

#[macro_use]
mod backends;
mod bridges;
mod owners;
mod zones;

use std::io::{ErrorKind, Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use k8s_openapi::api::core::v1::PodSpec;
use k8s_openapi::api::networking::v1 as networking;
use npc_compiler::object::{
    Exposure, Family, Labels, Namespace, NetworkPolicy, Objects, Pod, Protocol, Routing, Service, ServicePort,
    TargetPort,
};
use npc_tests::lab::{Backend, Enforcer, Lab, Mode};
use serde_json::{Value, json};
use socket2::{Domain, Socket, Type};

/// How long a flow that is allowed may take for one exchange: a TCP segment
/// that is lost comes again sooner, a datagram never.
const PATIENCE: Duration = Duration::from_secs(5);

/// How often everything is sent side by side.
const ROUNDS: usize = 100;

/// At most this many flows may begin while a plan is carried out.
const FLOWS: usize = 4000;

const ADMITTED: u16 = 5432;
const CONTROL: u16 = 8080;

fn pod(namespace: &str, name: &str, node: &str) -> Pod {
    let labels = Labels::from([("app".to_owned(), name.trim_end_matches(char::is_numeric).to_owned())]);
    Pod {
        node: Some(node.to_owned()),
        ..Pod::from_template(namespace.to_owned(), name.to_owned(), labels, PodSpec::default())
    }
}

fn policy(name: &str, spec: &Value) -> NetworkPolicy {
    let policy = json!({"metadata": {"namespace": "shop", "name": name}, "spec": spec});
    let policy: networking::NetworkPolicy = serde_json::from_value(policy).unwrap();
    policy.into()
}

/// The peer that may send to db, and the ports.
fn db(from: &Value, ports: &[u16]) -> NetworkPolicy {
    let port = |port: &u16| [json!({"port": port}), json!({"port": port, "protocol": "UDP"})];
    let ports: Vec<Value> = ports.iter().flat_map(port).collect();
    let control = json!({"from": [{"namespaceSelector": {}}], "ports": [{"port": CONTROL, "protocol": "UDP"}]});
    policy(
        "db",
        &json!({
            "podSelector": {"matchLabels": {"app": "db"}},
            "policyTypes": ["Ingress"],
            "ingress": [{"from": [from], "ports": ports}, control],
        }),
    )
}

/// A database with a client on its own node and clients on another, one of
/// them of another namespace.
fn shop(policies: Vec<NetworkPolicy>) -> Objects {
    let service = Service {
        namespace: "shop".to_owned(),
        name: "db".to_owned(),
        selector: Some(Labels::from([("app".to_owned(), "db".to_owned())])),
        addresses: Vec::new(),
        ports: [Protocol::Tcp, Protocol::Udp]
            .map(|protocol| ServicePort { name: None, protocol, port: 80, target: TargetPort::Number(ADMITTED) })
            .to_vec(),
        exposure: Exposure::Inside,
        routing: Routing::default(),
    };
    Objects {
        namespaces: vec![
            Namespace::new("shop", Labels::new()),
            Namespace::new("team", Labels::from([("may".to_owned(), "read".to_owned())])),
        ],
        pods: vec![
            pod("shop", "db", "node-1"),
            pod("shop", "web1", "node-1"),
            pod("shop", "web2", "node-2"),
            pod("team", "web3", "node-2"),
        ],
        services: vec![service],
        policies,
        ..Objects::default()
    }
}

fn web() -> Value {
    json!({"podSelector": {"matchLabels": {"app": "web"}}, "namespaceSelector": {}})
}

/// Where the database listens, in either family. For as long as the test runs:
/// a process that another test starts has a copy of every file for a moment,
/// and a port cannot be listened at twice.
struct Listeners([TcpListener; 2]);

impl Listeners {
    fn open(lab: &Lab) -> Self {
        let db = &lab.places()[lab.find("shop/db").unwrap()];
        let bind = |family| TcpListener::bind((db.address(family).unwrap(), ADMITTED)).unwrap();
        Self(db.netns.within(|| Family::ALL.map(bind)).unwrap())
    }

    fn of(&self, family: Family) -> &TcpListener {
        let [v4, v6] = &self.0;
        if family == Family::V4 { v4 } else { v6 }
    }
}

fn start(policies: Vec<NetworkPolicy>, backend: Backend, mode: Mode, arguments: &[&str]) -> Option<(Lab, Listeners)> {
    let agent = Enforcer::for_test()?;
    let builder = Lab::builder(shop(policies)).mode(mode).backend(backend).enforcer(agent);
    let builder = arguments.iter().fold(builder, |builder, argument| builder.agent_argument(*argument));
    let lab = builder.start().unwrap();
    let listeners = Listeners::open(&lab);
    Some((lab, listeners))
}

/// Both ends of a flow; each sends.
enum Flow {
    Tcp(TcpStream, TcpStream),
    Udp(UdpSocket, UdpSocket),
}

const MESSAGE: &[u8] = b"8 bytes.";

impl Flow {
    /// A connection from a pod to the database, by its own address or the
    /// Service's.
    fn tcp(lab: &Lab, listeners: &Listeners, from: &str, family: Family, service: bool) -> std::io::Result<Self> {
        let client = &lab.places()[lab.find(from).unwrap()];
        let listener = listeners.of(family);
        let dialled = if service { of_service(lab, family) } else { listener.local_addr()? };
        let connect = || TcpStream::connect_timeout(&dialled, PATIENCE / 5);
        let client = client.netns.within(connect).unwrap()?;
        let (server, _) = listener.accept()?;
        for stream in [&client, &server] {
            stream.set_nodelay(true)?;
            stream.set_read_timeout(Some(PATIENCE))?;
        }
        Ok(Self::Tcp(client, server))
    }

    /// Datagrams from a pod to a port of the database, or of the Service.
    fn udp(lab: &Lab, from: &str, family: Family, port: u16, service: bool) -> std::io::Result<Self> {
        let [client, server] = [from, "shop/db"].map(|name| &lab.places()[lab.find(name).unwrap()]);
        let at = SocketAddr::new(server.address(family).unwrap(), port);
        let own = SocketAddr::new(client.address(family).unwrap(), 0);
        let server = server.netns.within(|| shared(at)).unwrap()?;
        let client = client.netns.within(|| UdpSocket::bind(own)).unwrap()?;
        client.connect(if service { of_service(lab, family) } else { at })?;
        server.connect(client.local_addr()?)?;
        for socket in [&client, &server] {
            socket.set_read_timeout(Some(PATIENCE))?;
        }
        Ok(Self::Udp(client, server))
    }

    /// Sends one message each way and waits for each.
    fn exchange(&mut self) -> std::io::Result<()> {
        let mut buffer = [0; MESSAGE.len()];
        match self {
            Self::Tcp(client, server) => {
                client.write_all(MESSAGE)?;
                server.read_exact(&mut buffer)?;
                server.write_all(MESSAGE)?;
                client.read_exact(&mut buffer)
            }
            Self::Udp(client, server) => {
                client.send(MESSAGE)?;
                server.recv(&mut buffer)?;
                server.send(MESSAGE)?;
                client.recv(&mut buffer).map(drop)
            }
        }
    }

    /// Sends a message, by TCP each way, and waits for nothing. A datagram of
    /// the database's would begin a flow the other way, which no policy denies.
    fn push(&mut self) {
        // What cannot be sent does not get through.
        match self {
            Self::Tcp(client, server) => {
                let _ = server.write(MESSAGE);
                let _ = client.write(MESSAGE);
            }
            Self::Udp(client, _) => {
                let _ = client.send(MESSAGE);
            }
        }
    }

    /// How much has arrived at either end and is not read yet.
    fn received(&mut self) -> usize {
        let mut buffer = vec![0; 65536];
        let mut drain = |receive: &mut dyn FnMut(&mut [u8]) -> std::io::Result<usize>| {
            let mut total = 0;
            loop {
                match receive(&mut buffer) {
                    Ok(0) => return total,
                    Ok(length) => total += length,
                    Err(error) if error.kind() == ErrorKind::WouldBlock => return total,
                    Err(error) => panic!("{error}"),
                }
            }
        };
        match self {
            Self::Tcp(client, server) => [client, server].map(|end| {
                end.set_nonblocking(true).unwrap();
                let total = drain(&mut |buffer| end.read(buffer));
                end.set_nonblocking(false).unwrap();
                total
            }),
            Self::Udp(client, server) => [client, server].map(|end| {
                end.set_nonblocking(true).unwrap();
                let total = drain(&mut |buffer| end.recv(buffer));
                end.set_nonblocking(false).unwrap();
                total
            }),
        }
        .into_iter()
        .sum()
    }
}

fn of_service(lab: &Lab, family: Family) -> SocketAddr {
    let service = &lab.cluster().objects.services[0];
    let address = service.addresses.iter().find(|address| Family::of(address) == family).unwrap();
    SocketAddr::new(*address, service.ports[0].port)
}

/// A socket that shares its port with others, which each have a peer.
fn shared(at: SocketAddr) -> std::io::Result<UdpSocket> {
    let socket = Socket::new(Domain::for_address(at), Type::DGRAM, None)?;
    socket.set_reuse_address(true)?;
    socket.bind(&at.into())?;
    Ok(socket.into())
}

/// A flow that every state allows, from the clients' node to the database's.
fn control(lab: &Lab) -> Flow {
    Flow::udp(lab, "shop/web2", Family::V4, CONTROL, false).unwrap()
}

/// Every kind of flow from these clients to the database.
fn flows(lab: &Lab, listeners: &Listeners, clients: &[&str]) -> Vec<(String, Flow)> {
    let mut flows = Vec::new();
    for client in clients {
        for (family, protocol, service) in [
            (Family::V4, Protocol::Tcp, false),
            (Family::V6, Protocol::Tcp, false),
            (Family::V4, Protocol::Tcp, true),
            (Family::V4, Protocol::Udp, false),
            (Family::V6, Protocol::Udp, true),
        ] {
            let name = format!("{client} {family} {protocol} {}", if service { "by the service" } else { "" });
            let flow = match protocol {
                Protocol::Tcp => Flow::tcp(lab, listeners, client, family, service),
                _ => Flow::udp(lab, client, family, ADMITTED, service),
            };
            let mut flow = flow.unwrap_or_else(|error| panic!("{name}: {error}"));
            flow.exchange().unwrap_or_else(|error| panic!("{name}: {error}"));
            flows.push((name, flow));
        }
    }
    flows
}

/// Changes the objects while a flow that goes on is in use, which must not
/// lose a packet.
fn apply(lab: &mut Lab, objects: Objects, through: &mut Flow) {
    meanwhile(lab, objects, || {
        through.exchange().unwrap_or_else(|error| panic!("a flow that goes on lost a packet: {error}"));
    });
}

/// Does something again and again until every agent has said that the new
/// objects are in the kernel.
fn meanwhile(lab: &mut Lab, objects: Objects, mut again: impl FnMut() + Send) {
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let traffic = scope.spawn(|| {
            while !done.load(Ordering::Relaxed) {
                again();
            }
        });
        let applied = lab.apply(objects);
        done.store(true, Ordering::Relaxed);
        traffic.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
        applied.unwrap();
    });
}

fn all_are_cut(flows: &mut [(String, Flow)], control: &mut Flow) {
    for _ in 0..ROUNDS {
        for (_, flow) in &mut *flows {
            flow.push();
        }
        control.exchange().unwrap();
    }
    let received: Vec<(&String, usize)> = flows.iter_mut().map(|(name, flow)| (&*name, flow.received())).collect();
    assert!(received.iter().all(|(_, received)| *received == 0), "{received:#?}");
}

fn all_go_on(flows: &mut [(String, Flow)]) {
    for _ in 0..ROUNDS / 10 {
        for (name, flow) in &mut *flows {
            flow.exchange().unwrap_or_else(|error| panic!("{name}: {error}"));
        }
    }
}

fn a_narrowed_policy_cuts_what_it_denies(backend: Backend, mode: Mode) {
    let Some((mut lab, listeners)) = start(vec![db(&web(), &[ADMITTED])], backend, mode, &[]) else { return };
    let mut control = control(&lab);
    let mut denied = flows(&lab, &listeners, &["shop/web1", "shop/web2"]);
    let narrowed = shop_of(&lab, vec![db(&web(), &[1])]);
    apply(&mut lab, narrowed, &mut control);
    let before = strays(&lab);
    all_are_cut(&mut denied, &mut control);
    // Their segments end at the node of the database, in either family, and are
    // no one's elsewhere: no policy isolates the clients.
    let [here, there] = strays(&lab);
    assert!(here.iter().zip(before[0]).all(|(now, before)| *now > before), "{before:?}, then {here:?}");
    assert_eq!(there, [0, 0]);
    // The agent reads its counters between two readings of ours: segments are sent again meanwhile.
    // It is asked for the first time, as what it has read is good enough for it for five seconds.
    let told = lab.metric("node-1", "npc_stray_packets_total").unwrap();
    let [least, most] = [here, strays(&lab)[0]].map(|counts| counts.into_iter().map(f64::from).sum::<f64>());
    assert!(told >= least && told <= most, "{told}, not {least} to {most}");
    let cut = lab.metric("node-1", "npc_conntrack_entries_cut_total").unwrap();
    let count = u32::try_from(denied.len()).unwrap();
    assert!(cut >= f64::from(count), "{cut} entries of {count} flows were cut");
}

/// How many segments of no known connection each node has dropped, by family.
fn strays(lab: &Lab) -> [[u32; 2]; 2] {
    ["node-1", "node-2"].map(|node| {
        ["iptables", "ip6tables"].map(|tool| {
            let tool = format!("{tool}-{}", lab.backend().as_str());
            let listed = lab.node(node).unwrap().exec([&tool, "-nvxL", "NPC-DENY-STRAY"], "").unwrap();
            let rule = listed.lines().find(|line| line.contains("DROP")).unwrap();
            rule.split_ascii_whitespace().next().unwrap().parse().unwrap()
        })
    })
}

/// The same cluster under other policies.
fn shop_of(lab: &Lab, policies: Vec<NetworkPolicy>) -> Objects {
    Objects { policies, ..lab.cluster().objects.clone() }
}

fn a_relabelled_pod_loses_its_flows_and_others_keep_theirs(backend: Backend, mode: Mode) {
    let Some((mut lab, listeners)) = start(vec![db(&web(), &[ADMITTED])], backend, mode, &[]) else { return };
    let mut control = control(&lab);
    let mut denied = flows(&lab, &listeners, &["shop/web2"]);
    let mut kept = flows(&lab, &listeners, &["shop/web1", "team/web3"]);
    let mut relabelled = lab.cluster().objects.clone();
    let web2 = relabelled.pods.iter_mut().find(|pod| pod.name == "web2").unwrap();
    web2.labels.insert("app".to_owned(), "other".to_owned());
    apply(&mut lab, relabelled, &mut control);
    all_are_cut(&mut denied, &mut control);
    all_go_on(&mut kept);
}

fn a_relabelled_namespace_loses_its_flows_and_others_keep_theirs(backend: Backend, mode: Mode) {
    let readers = json!({"namespaceSelector": {"matchExpressions": [
        {"key": "may", "operator": "NotIn", "values": ["nothing"]}]}});
    let Some((mut lab, listeners)) = start(vec![db(&readers, &[ADMITTED])], backend, mode, &[]) else { return };
    let mut control = control(&lab);
    let mut denied = flows(&lab, &listeners, &["team/web3"]);
    let mut kept = flows(&lab, &listeners, &["shop/web1", "shop/web2"]);
    let mut relabelled = lab.cluster().objects.clone();
    let team = relabelled.namespaces.iter_mut().find(|namespace| namespace.name == "team").unwrap();
    team.labels.insert("may".to_owned(), "nothing".to_owned());
    apply(&mut lab, relabelled, &mut control);
    all_are_cut(&mut denied, &mut control);
    all_go_on(&mut kept);
}

/// The clients' side, and pods that no policy isolated when their flows began.
fn a_first_policy_for_egress_cuts_what_it_denies(backend: Backend, mode: Mode) {
    let Some((mut lab, listeners)) = start(Vec::new(), backend, mode, &[]) else { return };
    let mut control = control(&lab);
    let mut denied = flows(&lab, &listeners, &["shop/web1", "shop/web2"]);
    let mut kept = flows(&lab, &listeners, &["team/web3"]);
    let egress = json!({
        "podSelector": {"matchLabels": {"app": "web"}},
        "policyTypes": ["Egress"],
        "egress": [{"ports": [{"port": CONTROL, "protocol": "UDP"}]}],
    });
    let isolated = shop_of(&lab, vec![policy("web", &egress)]);
    apply(&mut lab, isolated, &mut control);
    all_are_cut(&mut denied, &mut control);
    all_go_on(&mut kept);
}

fn an_agent_that_starts_judges_what_is_there(backend: Backend, mode: Mode) {
    let Some((mut lab, listeners)) = start(vec![db(&web(), &[ADMITTED])], backend, mode, &[]) else { return };
    let mut control = control(&lab);
    let mut denied = flows(&lab, &listeners, &["shop/web1", "shop/web2"]);
    // While no agent is there, policies change.
    for node in ["node-1", "node-2"] {
        lab.take_agent(node).unwrap().unwrap().stop(nix::sys::signal::Signal::SIGKILL).unwrap();
    }
    let narrowed = shop_of(&lab, vec![db(&web(), &[1])]);
    lab.write_manifests(narrowed).unwrap();
    all_go_on(&mut denied);
    lab.start_agents().unwrap();
    all_are_cut(&mut denied, &mut control);
}

fn established_flows_are_let_be_if_that_is_asked_for(backend: Backend, mode: Mode) {
    let policies = vec![db(&web(), &[ADMITTED])];
    let Some((mut lab, listeners)) = start(policies, backend, mode, &["--keep-established"]) else { return };
    let mut control = control(&lab);
    let mut kept = flows(&lab, &listeners, &["shop/web1", "shop/web2"]);
    let narrowed = shop_of(&lab, vec![db(&web(), &[1])]);
    apply(&mut lab, narrowed, &mut control);
    all_go_on(&mut kept);
    // No new flow begins.
    let new = Flow::tcp(&lab, &listeners, "shop/web2", Family::V4, false);
    assert!(new.is_err());
}

/// Flows that begin while the plan is carried out are cut as well.
fn flows_that_begin_meanwhile_are_cut_as_well(backend: Backend, mode: Mode) {
    let Some((mut lab, _)) = start(vec![db(&web(), &[ADMITTED])], backend, mode, &[]) else { return };
    let mut control = control(&lab);
    let [client, server] = ["shop/web2", "shop/db"].map(|name| &lab.places()[lab.find(name).unwrap()]);
    let [own, at] =
        [(client, 0), (server, ADMITTED)].map(|(pod, port)| SocketAddr::new(pod.address(Family::V4).unwrap(), port));
    let server = server.netns.within(|| UdpSocket::bind(at)).unwrap().unwrap();
    server.set_nonblocking(true).unwrap();
    let open = || (0..FLOWS).map(|_| UdpSocket::bind(own).unwrap()).collect();
    let clients: Vec<UdpSocket> = client.netns.within(open).unwrap();
    for client in &clients {
        client.connect(at).unwrap();
    }
    // A flow is established once it was answered.
    let received = || {
        let mut buffer = [0; MESSAGE.len()];
        let mut count = 0;
        while let Ok((_, client)) = server.recv_from(&mut buffer) {
            server.send_to(MESSAGE, client).unwrap();
            count += 1;
        }
        count
    };

    let (mut begun, mut arrived) = (0, 0);
    let narrowed = shop_of(&lab, vec![db(&web(), &[1])]);
    meanwhile(&mut lab, narrowed, || {
        if let Some(client) = clients.get(begun) {
            client.send(MESSAGE).unwrap();
            begun += 1;
        }
        control.exchange().unwrap();
        arrived += received();
    });
    assert!(arrived > 0, "none of {begun} flows began in time");
    for client in &clients[..begun] {
        client.send(MESSAGE).unwrap();
        control.exchange().unwrap();
    }
    assert_eq!(received(), 0, "of {begun} flows; {arrived} began in time");
}

on_both_backends!(
    a_narrowed_policy_cuts_what_it_denies: Routed,
    a_relabelled_pod_loses_its_flows_and_others_keep_theirs: Bridge,
    a_relabelled_namespace_loses_its_flows_and_others_keep_theirs: Routed,
    a_first_policy_for_egress_cuts_what_it_denies: Bridge,
    an_agent_that_starts_judges_what_is_there: Routed,
    flows_that_begin_meanwhile_are_cut_as_well: Routed,
    established_flows_are_let_be_if_that_is_asked_for: Routed,
);
