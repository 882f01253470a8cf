//! Azure NPM's rules, as version 1.4.43 wrote them, in a real kernel: real
//! packets pass as the model says, and npc takes over under traffic. The
//! capture is used where it lies next to the project.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, Read as _, Write as _};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use k8s_openapi::api::core::v1::PodSpec;
use nix::sched::{CloneFlags, setns};
use nix::sys::signal::Signal;
use npc_agent::source::manifests;
use npc_compiler::algebra::traffic::Traffic;
use npc_compiler::azure::{Model, Placement};
use npc_compiler::cluster::Cluster;
use npc_compiler::cluster::group::Groups;
use npc_compiler::object::{Family, Labels, Objects, Pod, Protocol};
use npc_compiler::policy::Direction;
use npc_compiler::verdict::flow::{End, directed};
use npc_tests::apiserver::Server;
use npc_tests::corpora::beside;
use npc_tests::lab::{self, Backend, Enforcer, Lab, Mode, Netns, Payload, Probe, Seen, can_run, report};

const NODE: &str = "bnode";

/// An address outside that no policy names.
const OUTSIDE: Ipv4Addr = Ipv4Addr::new(8, 8, 8, 8);

fn corpus() -> Option<PathBuf> {
    beside("corpora/azure-npm").filter(|_| can_run())
}

fn objects(folder: &Path) -> Objects {
    manifests::load(&[folder.join("cluster.yaml")], &manifests::ReadOptions::default()).unwrap().objects
}

/// Loads what Azure NPM had in the kernel of its node.
fn load(folder: &Path, node: &Netns) {
    let read = |name: &str| fs::read_to_string(folder.join(name)).unwrap();
    node.exec(["ipset", "restore"], &read("ipset-save.txt")).unwrap();
    // The chains of the kernel's own are there, with what others have in them.
    let rules = read("iptables-nft-save.txt");
    let rules: Vec<&str> = rules.lines().filter(|line| !line.starts_with(":INPUT")).collect();
    let rules: Vec<&str> = rules.into_iter().filter(|line| !line.starts_with(":FORWARD")).collect();
    let rules: String = rules.into_iter().filter(|line| !line.starts_with(":OUTPUT")).flat_map(|l| [l, "\n"]).collect();
    node.exec(["iptables-nft-restore", "--noflush"], &rules).unwrap();
}

#[test]
fn real_packets_fare_as_the_model_says() {
    let Some(folder) = corpus() else { return };
    let outside = ["203.0.113.1", "203.0.113.129", "8.8.8.8"].map(|text| text.parse::<IpAddr>().unwrap());
    let mut lab = Lab::builder(objects(&folder)).mode(Mode::Routed).outside(outside).start().unwrap();
    load(&folder, lab.node(NODE).unwrap());
    let cluster = Cluster::new(&lab.cluster().objects);
    let model = Model::new(&cluster, &lab.cluster().objects.policies, Placement::First);

    let ports =
        |protocol, ports: &[u16]| -> Vec<Payload> { ports.iter().map(|port| Payload::Port(protocol, *port)).collect() };
    let mut payloads = ports(Protocol::Tcp, &[443, 3000, 5432, 8080, 8999, 9000, 9090, 9100, 9101]);
    payloads.extend(ports(Protocol::Udp, &[53, 3000, 9090]));
    payloads.extend(ports(Protocol::Sctp, &[5432]));
    payloads.push(Payload::Icmp);
    let places: Vec<(usize, Vec<IpAddr>)> = (lab.places().iter().enumerate())
        .filter(|(_, place)| place.node().is_some() || place.name == "outside")
        .map(|(index, place)| {
            let known = |address: &&IpAddr| place.node().is_some() || outside.contains(address);
            (index, place.addresses.iter().filter(|a| a.is_ipv4()).filter(known).copied().collect())
        })
        .collect();
    let mut probes = Vec::new();
    let mut expected = Vec::new();
    for ((from, sources), (to, targets)) in places.iter().flat_map(|a| places.iter().map(move |b| (a, b))) {
        if from == to {
            continue;
        }
        for (source, target) in sources.iter().flat_map(|a| targets.iter().map(move |b| (*a, *b))) {
            let [a, b] = [source, target].map(|address| End::of_address(&cluster, address));
            let traffic = model.verdict(a, b, Some(Family::V4));
            for payload in &payloads {
                probes.push(Probe { source: Some(source), ..Probe::new(*from, *to, target, *payload) });
                expected.push(match payload {
                    Payload::Port(protocol, port) => traffic.of(*protocol).contains(*port),
                    Payload::Icmp => traffic.other,
                });
            }
        }
    }
    let seen = lab.probe(&probes).unwrap();
    let mut arrived = 0;
    for ((probe, expected), seen) in probes.iter().zip(expected).zip(seen) {
        let place = |place: usize| &lab.places()[place].name;
        let was = seen == Seen::Arrived;
        assert_eq!(was, expected, "{} -> {} {}: {seen:?}", place(probe.from), place(probe.to), probe.payload);
        arrived += usize::from(was);
    }
    assert!(arrived > 50, "only {arrived} of {} arrived", probes.len());
}

/// A numbered stream of datagrams from one end to another.
struct Stream {
    name: String,
    source: Ipv4Addr,
    target: SocketAddr,
    /// Azure NPM lets it pass, and npc does.
    passes: [bool; 2],
    sent: AtomicU64,
}

/// The numbers of the datagrams that arrived, by source and target.
type Arrived = BTreeMap<(Ipv4Addr, SocketAddr), Vec<u64>>;

/// Datagrams under way, and those that arrived.
struct Streams {
    all: Vec<Arc<Stream>>,
    senders: Vec<JoinHandle<()>>,
    receivers: Vec<JoinHandle<Arrived>>,
    over: Arc<AtomicBool>,
    drained: Arc<AtomicBool>,
}

/// Moves the calling thread into a namespace, for good.
fn enter(name: &str) {
    setns(File::open(Path::new("/run/netns").join(name)).unwrap(), CloneFlags::CLONE_NEWNET).unwrap();
}

/// Between two datagrams of a stream; a receiver that does not get to run for
/// a second still loses none.
const PACE: Duration = Duration::from_millis(40);

impl Streams {
    fn start(lab: &Lab, streams: Vec<Stream>) -> Self {
        let over = Arc::new(AtomicBool::new(false));
        let drained = Arc::new(AtomicBool::new(false));
        let namespace = |address: Ipv4Addr| {
            let holds = |place: &&npc_tests::lab::Place| place.addresses.contains(&IpAddr::V4(address));
            lab.places().iter().find(holds).unwrap().netns.name().to_owned()
        };
        let streams: Vec<Arc<Stream>> = streams.into_iter().map(Arc::new).collect();
        let mut receivers = Vec::new();
        let mut targets: Vec<SocketAddr> = streams.iter().map(|stream| stream.target).collect();
        targets.sort_unstable();
        targets.dedup();
        for target in targets {
            let IpAddr::V4(address) = target.ip() else { unreachable!() };
            let (name, drained) = (namespace(address), Arc::clone(&drained));
            let socket = thread::spawn(move || {
                enter(&name);
                UdpSocket::bind(target).unwrap()
            });
            let socket = socket.join().unwrap();
            socket.set_read_timeout(Some(Duration::from_millis(200))).unwrap();
            receivers.push(thread::spawn(move || {
                let mut got = Arrived::new();
                let mut bytes = [0; 8];
                loop {
                    match socket.recv_from(&mut bytes) {
                        Ok((8, SocketAddr::V4(from))) => {
                            got.entry((*from.ip(), target)).or_default().push(u64::from_be_bytes(bytes));
                        }
                        Ok(_) => panic!("a datagram of another"),
                        // Nothing has come for a while.
                        Err(_) if drained.load(Ordering::SeqCst) => return got,
                        Err(_) => {}
                    }
                }
            }));
        }
        let mut by_source = BTreeMap::<Ipv4Addr, Vec<Arc<Stream>>>::new();
        for stream in &streams {
            by_source.entry(stream.source).or_default().push(Arc::clone(stream));
        }
        let senders = by_source.into_iter().map(|(source, streams)| {
            let (name, over) = (namespace(source), Arc::clone(&over));
            thread::spawn(move || {
                enter(&name);
                let sockets: Vec<UdpSocket> = streams.iter().map(|_| UdpSocket::bind((source, 0)).unwrap()).collect();
                while !over.load(Ordering::SeqCst) {
                    for (stream, socket) in streams.iter().zip(&sockets) {
                        let number = stream.sent.fetch_add(1, Ordering::SeqCst);
                        socket.send_to(&number.to_be_bytes(), stream.target).unwrap();
                    }
                    thread::sleep(PACE);
                }
            })
        });
        Self { senders: senders.collect(), all: streams, receivers, over, drained }
    }

    /// How many datagrams of each stream are under way by now.
    fn sent(&self) -> Vec<u64> {
        self.all.iter().map(|stream| stream.sent.load(Ordering::SeqCst)).collect()
    }

    /// Waits until every stream has sent so many more.
    fn wait(&self, more: u64) {
        let before = self.sent();
        while self.sent().iter().zip(&before).any(|(now, before)| now - before < more) {
            assert!(self.senders.iter().all(|sender| !sender.is_finished()), "a sender broke off");
            thread::sleep(PACE);
        }
    }

    /// Ends it; what arrived, stream by stream.
    fn end(self) -> Vec<(Arc<Stream>, Vec<u64>)> {
        self.over.store(true, Ordering::SeqCst);
        self.senders.into_iter().for_each(|sender| sender.join().unwrap());
        self.drained.store(true, Ordering::SeqCst);
        let mut got = BTreeMap::new();
        self.receivers.into_iter().for_each(|receiver| got.extend(receiver.join().unwrap()));
        let of = |stream: Arc<Stream>| {
            let numbers = got.remove(&(stream.source, stream.target)).unwrap_or_default();
            (stream, numbers)
        };
        self.all.into_iter().map(of).collect()
    }
}

/// Datagrams from every pod and from outside to two ports of every pod.
fn streams(objects: &Objects) -> Vec<Stream> {
    let cluster = Cluster::new(objects);
    let model = Model::new(&cluster, &objects.policies, Placement::First);
    let groups = Groups::new(&cluster, cluster.endpoints().map(|(id, _)| id));
    let pods: Vec<(&str, Ipv4Addr)> = objects.pods.iter().map(|pod| (pod.name.as_str(), pod.ipv4.unwrap())).collect();
    let mut streams = Vec::new();
    for (from, source) in pods.iter().copied().chain([("outside", OUTSIDE)]) {
        for (to, target) in pods.iter().copied().filter(|(to, _)| *to != from) {
            let [a, b] = [source, target].map(|address| End::of_address(&cluster, address.into()));
            let ours = Direction::ALL.into_iter().fold(Traffic::all(), |traffic, direction| {
                traffic.intersection(&directed(&cluster, &groups, direction, a, b, Some(Family::V4)))
            });
            let theirs = model.verdict(a, b, Some(Family::V4));
            for port in [53, 7000] {
                streams.push(Stream {
                    name: format!("{from} -> {to} {port}/udp"),
                    source,
                    target: SocketAddr::new(target.into(), port),
                    passes: [&theirs, &ours].map(|traffic| traffic.of(Protocol::Udp).contains(port)),
                    sent: AtomicU64::new(0),
                });
            }
        }
    }
    streams
}

/// Connects again and again, and keeps one connection: both have to work all
/// the time. Answers how often it connected.
fn connections(lab: &Lab, from: &str, to: &str, port: u16, over: &Arc<AtomicBool>) -> JoinHandle<usize> {
    let place = |name: &str| &lab.places()[lab.find(name).unwrap()];
    let target = SocketAddr::new(place(to).address(Family::V4).unwrap(), port);
    let (home, client) = (place(to).netns.name().to_owned(), place(from).netns.name().to_owned());
    let listener = thread::spawn(move || {
        enter(&home);
        TcpListener::bind(target).unwrap()
    });
    let listener = listener.join().unwrap();
    let is_over = Arc::clone(over);
    let server = thread::spawn(move || {
        // Each connection sends back what it gets, until its end.
        while !is_over.load(Ordering::SeqCst) {
            let (mut stream, _) = listener.accept().unwrap();
            thread::spawn(move || io::copy(&mut stream.try_clone().unwrap(), &mut stream));
        }
    });
    let over = Arc::clone(over);
    thread::spawn(move || {
        enter(&client);
        // Ports that linger after a connection must not be those that the lab
        // listens on at the end.
        fs::write("/proc/sys/net/ipv4/ip_local_port_range", "40000 60000").unwrap();
        let echo = |stream: &mut TcpStream| {
            let mut byte = [7];
            stream.write_all(&byte).unwrap();
            stream.read_exact(&mut byte).unwrap();
        };
        let connect = || {
            let stream = TcpStream::connect_timeout(&target, Duration::from_secs(20)).unwrap();
            stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
            stream
        };
        let mut kept = connect();
        let mut count = 0;
        while !over.load(Ordering::SeqCst) {
            echo(&mut kept);
            echo(&mut connect());
            count += 1;
            thread::sleep(PACE);
        }
        // The server waits for one more, if it has not seen that it is over.
        while !server.is_finished() {
            let _ = TcpStream::connect_timeout(&target, Duration::from_secs(1));
        }
        server.join().unwrap();
        count
    })
}

/// Rules and sets of others, as they would be listed without npc and Azure NPM.
fn of_others(node: &Netns) -> Vec<String> {
    let mut text = node.exec(["iptables-nft-save", "-t", "filter"], "").unwrap();
    text.push_str(&node.exec(["iptables-legacy-save", "-t", "filter"], "").unwrap());
    text.push_str(&node.exec(["ipset", "save"], "").unwrap());
    let ours = |line: &&str| line.contains("NPC-") || line.contains(" npc4-") || line.contains(" npc6-");
    let lines = text.lines().filter(|line| !line.starts_with('#')).filter(|line| !ours(line));
    // Counters of the kernel's own chains, and hash seeds.
    lines
        .map(|line| line.split([':', '[']).next().filter(|_| line.starts_with(':')).unwrap_or(line))
        .map(|line| line.split(" initval ").next().unwrap_or_default().to_owned())
        .collect()
}

fn taken_over_under_traffic(backend: Backend) {
    let Some(folder) = corpus() else { return };
    let agent = match Enforcer::sibling() {
        Ok(agent) => agent,
        Err(error) => return lab::skipped(&error),
    };
    let Enforcer::Agent(npc) = agent.clone() else { unreachable!() };
    let npc = npc.to_str().unwrap().to_owned();
    let lab = Lab::builder(objects(&folder)).mode(Mode::Routed).backend(backend).enforcer(agent);
    let lab = lab.outside([OUTSIDE.into()]).agent_argument("--azure-npm").agent_argument("remove");
    let mut lab = lab.start().unwrap();
    // The node as it was before npc.
    lab.take_agent(NODE).unwrap().unwrap().stop(Signal::SIGTERM).unwrap();
    let exec = |lab: &Lab, words: &[&str], input: &str| lab.node(NODE).unwrap().exec(words, input).unwrap();
    exec(&lab, &[&npc, "cleanup"], "");
    let others = "*filter\n:KUBE-FORWARD - [0:0]\n:MINE - [0:0]\n-A FORWARD -j KUBE-FORWARD\n\
                  -A FORWARD -d 168.63.129.16/32 -p tcp -m multiport --dports 80,32526 -j DROP\n\
                  -A KUBE-FORWARD -m mark --mark 0x4000/0x4000 -j ACCEPT\n-A MINE -j RETURN\nCOMMIT\n";
    exec(&lab, &["iptables-nft-restore", "--noflush"], others);
    exec(&lab, &["ipset", "create", "mine", "hash:ip"], "");
    let before = of_others(lab.node(NODE).unwrap());
    load(&folder, lab.node(NODE).unwrap());

    let over = Arc::new(AtomicBool::new(false));
    let connections = [("shop/web-1", "shop/api-1", 8080), ("shop/api-1", "shop/db-1", 5432)]
        .map(|(from, to, port)| connections(&lab, from, to, port, &over));
    let traffic = Streams::start(&lab, streams(&lab.cluster().objects));
    traffic.wait(25);

    // Both enforce.
    lab.start_agents().unwrap();
    let both = traffic.sent();
    let manifests = lab.manifests().to_str().unwrap().to_owned();
    let told = exec(&lab, &[&npc, "migrate", "-f", &manifests, "--node", NODE, "--exit-zero"], "");
    for line in ["npc's rules hold in this kernel", "Azure NPM: 13 chains", "Azure NPM: 33 sets"] {
        assert!(told.contains(line), "no {line:?} in\n{told}");
    }
    // It goes.
    let deadline = Instant::now() + Duration::from_secs(120);
    let mut last = traffic.sent();
    while !lab.agent(NODE).unwrap().unwrap().log().unwrap().contains("removed what Azure NPM left") {
        assert!(Instant::now() < deadline, "not removed:\n{}", lab.agent(NODE).unwrap().unwrap().log().unwrap());
        last = traffic.sent();
        traffic.wait(1);
    }
    traffic.wait(25);
    over.store(true, Ordering::SeqCst);
    let ended = traffic.end();
    for connection in connections {
        assert!(connection.join().unwrap() > 50);
    }

    let mut kinds = BTreeMap::<[bool; 2], usize>::new();
    for (place, (stream, got)) in ended.iter().enumerate() {
        *kinds.entry(stream.passes).or_default() += 1;
        let (name, sent) = (&stream.name, stream.sent.load(Ordering::SeqCst));
        match stream.passes {
            [true, true] => assert_eq!(*got, (0..sent).collect::<Vec<u64>>(), "{name}: lost, or out of order"),
            [false, false] => assert!(got.is_empty(), "{name}: {} got through", got.len()),
            // Until npc was there, and no longer.
            [true, false] => {
                assert!(got.len() as u64 > 20, "{name}: {} of {sent} got through", got.len());
                let late: Vec<&u64> = got.iter().filter(|number| **number >= both[place]).collect();
                assert!(late.is_empty(), "{name}: {late:?} got through after {}", both[place]);
            }
            // Not before Azure NPM is gone.
            [false, true] => assert!(got.iter().all(|number| *number >= last[place]), "{name}"),
        }
    }
    // None of the cases that this cluster has is missing.
    assert!([[true, true], [false, false], [true, false]].iter().all(|kind| kinds[kind] >= 2), "{kinds:?}");

    let node = lab.node(NODE).unwrap();
    assert_eq!(of_others(node), before, "others' rules and sets");
    let told = exec(&lab, &[&npc, "migrate", "-f", &manifests, "--node", NODE, "--exit-zero"], "");
    assert!(told.contains("there is nothing of Azure NPM in this kernel"), "{told}");
    let judgement = lab.judge().unwrap();
    let table = report::table(&lab, &judgement);
    assert_eq!(judgement.mismatches().count(), 0, "{table}");
}

#[test]
fn azure_npm_is_taken_over_from_under_traffic() {
    taken_over_under_traffic(Backend::Nft);
}

#[test]
fn azure_npm_is_taken_over_from_by_the_other_backend() {
    taken_over_under_traffic(Backend::Legacy);
}

/// The pod of Azure NPM's DaemonSet on the node.
fn npm_pod() -> Pod {
    let labels = Labels::from([("k8s-app".to_owned(), "azure-npm".to_owned())]);
    let pod = Pod::from_template("kube-system".to_owned(), "azure-npm-x".to_owned(), labels, PodSpec::default());
    Pod { node: Some(NODE.to_owned()), host_network: true, ..pod }
}

/// As in the DaemonSet: no flag says that Azure NPM is off, the agent sees its pod go.
#[test]
fn azure_npm_is_taken_over_from_when_its_pod_has_gone() {
    let Some(folder) = corpus() else { return };
    let agent = match Enforcer::sibling() {
        Ok(agent) => agent,
        Err(error) => return lab::skipped(&error),
    };
    let without = objects(&folder);
    let with = Objects { pods: [without.pods.clone(), vec![npm_pod()]].concat(), ..without };
    // It has to be quiet for a minute.
    let lab = Lab::builder(with).enforcer(agent).patience(Duration::from_secs(180));
    let mut lab = lab.api_server(Server::in_process()).start().unwrap();
    let log = |lab: &mut Lab| lab.agent(NODE).unwrap().unwrap().log().unwrap();
    let wait = |lab: &mut Lab, words: &str| lab.agent(NODE).unwrap().unwrap().wait_log(words).unwrap();
    // Nothing is there: nothing is said of it.
    assert!(!log(&mut lab).contains("Azure NPM"), "{}", log(&mut lab));
    lab.take_agent(NODE).unwrap().unwrap().stop(Signal::SIGTERM).unwrap();
    let before = of_others(lab.node(NODE).unwrap());
    load(&folder, lab.node(NODE).unwrap());
    let both = of_others(lab.node(NODE).unwrap());

    // It runs: nothing of it is touched.
    lab.start_agents().unwrap();
    wait(&mut lab, "another network policy engine");
    wait(&mut lab, "Azure NPM is running");
    lab.settle().unwrap();
    assert_eq!(of_others(lab.node(NODE).unwrap()), both);

    // It is gone: what it left goes, and nothing else.
    let mut without = lab.cluster().objects.clone();
    without.pods.retain(|pod| pod.name != "azure-npm-x");
    lab.write_manifests(without).unwrap();
    wait(&mut lab, "Azure NPM not running");
    assert_eq!(of_others(lab.node(NODE).unwrap()), both, "not at once");
    wait(&mut lab, "removed what Azure NPM left");
    assert_eq!(of_others(lab.node(NODE).unwrap()), before);
    lab.settle().unwrap();
}
