//! What a first packet pays: TCP connections from one pod to another through
//! the FORWARD chain of their node, with more and more policies: shape 7.
//! Beside ours, the same policies as one rule for each pair of pods, and as one
//! set match for each policy. Needs root. All variants take turns, in network
//! namespaces of their own, so that a busy machine is busy for all alike.
//! Before that, a victim's connections while another tenant aims policies at its
//! list in the dispatch tree; with the argument `aimed`, only these.
#![allow(clippy::print_stdout, reason = "a bench prints its figures")]

use std::fmt::Write as _;
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::process;
use std::sync::LazyLock;
use std::time::Duration;

use npc_agent::dataplane::backend::Backend;
use npc_agent::dataplane::{Kernel as _, Linux};
use npc_benches::netns::Netns;
use npc_benches::samples::Samples;
use npc_benches::{app, engine, from, ingress, labels, own_pods, tcp};
use npc_compiler::engine::{Engine, Event};
use npc_compiler::object::{Labels, Namespace, Pod};
use npc_compiler::policy::Direction;
use npc_compiler::ruleset::layout::RulesetOptions;
use npc_compiler::ruleset::names::SetRole;
use npc_compiler::ruleset::names::seed::Seed;
use npc_compiler::ruleset::set::Member;
use socket2::SockRef;

const CLIENT: Ipv4Addr = Ipv4Addr::new(10, 1, 0, 2);
const SERVER: Ipv4Addr = Ipv4Addr::new(10, 2, 0, 2);
const PORT: u16 = 8080;

/// Pods on the node, the server among them.
const LOCAL: usize = 100;

const ROUNDS: usize = 40;
const CONNECTIONS: usize = 50;

/// Groups that a tenant aims at one victim at most.
const MOST_AIMED: usize = 96;

/// The number of the address of the first pod that may be aimed.
const FIRST_AIMED: usize = 1_000_000;

/// After any failure here there is nothing to measure.
type Result<T> = std::result::Result<T, Box<dyn std::error::Error + Send + Sync>>;

#[derive(Clone, Copy)]
enum Rules {
    /// Nothing at all.
    Empty,
    /// Nothing but that flows are tracked, as on every node of a cluster.
    Tracked,
    Ours,
    RulePerPair,
    SetPerPolicy,
    /// Ours, with so many groups of another tenant that was after the list of the server's group.
    Aimed,
    /// The same, with the places of groups by a secret.
    AimedInVain,
}

impl Rules {
    fn as_str(self) -> &'static str {
        match self {
            Self::Empty => "empty FORWARD",
            Self::Tracked => "empty FORWARD, flows tracked",
            Self::Ours => "npc",
            Self::RulePerPair => "one rule per pair",
            Self::SetPerPolicy => "one set match per policy",
            Self::Aimed => "aimed, places by names",
            Self::AimedInVain => "aimed, places by a secret",
        }
    }
}

struct Case {
    rules: Rules,
    policies: usize,
    /// Client, node, server.
    namespaces: Vec<Netns>,
    listener: Option<TcpListener>,
    samples: Samples,
}

fn main() -> Result<()> {
    if Netns::create(&format!("npc-bench-{}", process::id())).is_err() {
        println!("shape 7 needs root and iproute2; it was left out");
        return Ok(());
    }
    let aimed_only = std::env::args().any(|argument| argument == "aimed");
    for backend in Backend::ALL {
        let mut cases = vec![Case::new(backend, Rules::Tracked, 0)?, Case::new(backend, Rules::Ours, 1)?];
        for policies in [24, MOST_AIMED] {
            for rules in [Rules::Aimed, Rules::AimedInVain] {
                cases.push(Case::new(backend, rules, policies)?);
            }
        }
        run(backend, "a victim whose list a tenant lengthens", &mut cases)?;
        // Its namespaces have names that the next cases use.
        drop(cases);
        if aimed_only {
            continue;
        }
        let mut cases = vec![Case::new(backend, Rules::Tracked, 0)?, Case::new(backend, Rules::Empty, 0)?];
        cases.push(Case::new(backend, Rules::Ours, 0)?);
        for policies in [10, 100, 1_000, 10_000] {
            for rules in [Rules::Ours, Rules::RulePerPair, Rules::SetPerPolicy] {
                cases.push(Case::new(backend, rules, policies)?);
            }
        }
        run(backend, "shape 7", &mut cases)?;
    }
    Ok(())
}

/// Measures cases that take turns, and prints them; the first is what the others are beside.
fn run(backend: Backend, what: &str, cases: &mut [Case]) -> Result<()> {
    for _ in 0..ROUNDS {
        for case in &mut *cases {
            case.connect()?;
        }
    }
    println!("{what}, iptables-{backend}: a TCP connection between two pods of a node");
    let micros = |case: &Case| case.samples.median().as_secs_f64() * 1e6;
    let base = cases.first().map(micros).unwrap_or_default();
    for case in cases {
        let median = micros(case);
        println!(
            "  {:6} policies, {:28} median {median:7.1} µs ({:+7.1}), {:7.0} connections/s",
            case.policies,
            case.rules.as_str(),
            median - base,
            1e6 / median,
        );
    }
    Ok(())
}

/// Numbers of policies whose groups stand before the server's group in its list if places are by
/// names: a tenant tries names until it has enough.
static AIMED: LazyLock<Vec<usize>> = LazyLock::new(|| {
    let is_before = |number: &usize| {
        let mut both = engine("local", Pairs::new(1).events().into_iter().chain(aimed(*number)));
        both.commit();
        // If two groups are in one list, the rules ask only for the one that stands before the other.
        let pod = Member::Address(npc_benches::address(FIRST_AIMED + number).into());
        let asked = SetRole::DispatchGroup(Direction::Ingress);
        both.state().v4.sets.iter().any(|(name, (_, members))| name.role() == asked && members.contains(&pod))
    };
    (0..1_000_000).filter(is_before).take(MOST_AIMED).collect()
});

/// A policy of another tenant, and its pod.
fn aimed(number: usize) -> [Event; 3] {
    let name = format!("aimed-{number}");
    let rule = from(vec![own_pods(app("none"))], vec![tcp(1_000)]);
    let policy = ingress("tenant", &name, app(name.clone()), vec![rule]);
    let pod = npc_benches::pod(FIRST_AIMED + number, "tenant", app(name), "local");
    let namespace = Namespace::new("tenant", Labels::new());
    [Event::Namespace(namespace), Event::Policy(Box::new(policy)), Event::Pod(Box::new(pod))]
}

impl Case {
    fn new(backend: Backend, rules: Rules, policies: usize) -> Result<Self> {
        let prefix = format!("npc-bench-{}-{backend}-{}-{policies}", process::id(), rules as u8);
        let namespaces: std::io::Result<Vec<Netns>> =
            ["client", "node", "server"].iter().map(|name| Netns::create(&format!("{prefix}-{name}"))).collect();
        let namespaces = namespaces?;
        let [client, node, server] = &namespaces[..] else { return Err("no namespaces".into()) };
        for (pod, side, device) in [(client, 1, "c"), (server, 2, "s")] {
            let lines = format!(
                "link add {device} type veth peer name eth0 netns {}\nlink set {device} up\naddr add 10.{side}.0.1/24 dev {device}",
                pod.name()
            );
            node.exec(&["ip", "-batch", "-"], &lines)?;
            let lines = format!(
                "link set lo up\nlink set eth0 up\naddr add 10.{side}.0.2/24 dev eth0\nroute add default via 10.{side}.0.1"
            );
            pod.exec(&["ip", "-batch", "-"], &lines)?;
        }
        node.exec(&["sysctl", "-qw", "net.ipv4.ip_forward=1"], "")?;
        load(node, backend, rules, policies)?;
        let listener = server.within(|| TcpListener::bind((SERVER, PORT)))??;
        listener.set_nonblocking(true)?;
        Ok(Self { rules, policies, namespaces, listener: Some(listener), samples: Samples::default() })
    }

    /// Some connections, one after the other; the server accepts them when
    /// their time has been taken.
    fn connect(&mut self) -> Result<()> {
        let Self { namespaces, listener, samples, .. } = self;
        let to = SocketAddr::from((SERVER, PORT));
        namespaces[0].within(|| {
            for n in 0..CONNECTIONS {
                let mut took = Samples::default();
                let stream = took.time(|| TcpStream::connect_timeout(&to, Duration::from_secs(5)))?;
                // The first ones find caches cold and neighbours unknown.
                if n >= 5 {
                    samples.push(took.median());
                }
                // So that no port is kept for a minute.
                SockRef::from(&stream).set_linger(Some(Duration::ZERO))?;
                drop(stream);
                if let Some(listener) = listener {
                    while listener.accept().is_ok() {}
                }
            }
            Ok(())
        })?
    }
}

/// The policies that there are: each lets one remote pod into one local pod.
/// That of the client and the server stands in the middle.
struct Pairs {
    pairs: Vec<(Ipv4Addr, Ipv4Addr, u16)>,
}

impl Pairs {
    fn new(policies: usize) -> Self {
        let middle = policies / 2;
        let pair = |n: usize| {
            let (peer, subject) =
                (Ipv4Addr::from(0x0a10_0000 + number(n)), Ipv4Addr::from(0x0a20_0000 + number(n % LOCAL)));
            let peer = if n == middle { CLIENT } else { peer };
            let subject = if n % LOCAL == middle % LOCAL { SERVER } else { subject };
            (peer, subject, if n == middle { PORT } else { 1_000 + u16::try_from(n % 50).unwrap_or_default() })
        };
        Self { pairs: (0..policies).map(pair).collect() }
    }

    fn events(&self) -> Vec<Event> {
        let pod = |number: usize, labels: Labels, address, node: &str| {
            Event::Pod(Box::new(Pod { ipv4: Some(address), ..npc_benches::pod(number, "ns", labels, node) }))
        };
        let mut events = vec![Event::Namespace(Namespace::new("ns", Labels::new()))];
        for (n, (peer, subject, port)) in self.pairs.iter().enumerate() {
            let of_peer = labels([("peer", format!("peer-{n}"))]);
            let of_subject = app(format!("app-{}", n % LOCAL));
            let rule = from(vec![own_pods(of_peer.clone())], vec![tcp(i32::from(*port))]);
            let policy = ingress("ns", &format!("policy-{n}"), of_subject.clone(), vec![rule]);
            events.push(Event::Policy(Box::new(policy)));
            events.push(pod(LOCAL + n, of_peer, *peer, "elsewhere"));
            if n < LOCAL {
                events.push(pod(n, of_subject, *subject, "local"));
            }
        }
        events
    }
}

fn number(n: usize) -> u32 {
    u32::try_from(n).unwrap_or_default()
}

fn load(node: &Netns, backend: Backend, rules: Rules, policies: usize) -> Result<()> {
    let pairs = Pairs::new(policies);
    let mut text = String::from("*filter\n");
    let mut sets = String::new();
    let established = "-A FORWARD -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT\n";
    match rules {
        Rules::Empty => {}
        // Tracking begins when some rule asks for it.
        Rules::Tracked => text.push_str("-A INPUT -m conntrack --ctstate NEW -j ACCEPT\n"),
        Rules::Ours | Rules::Aimed | Rules::AimedInVain => {
            let mut linux = node.within(|| Linux::open(Some(backend)))??;
            let seed = matches!(rules, Rules::AimedInVain).then(|| Seed::from_bytes([7; 32]));
            let mut ours = Engine::new("local", RulesetOptions { seed, ..RulesetOptions::default() });
            let is_aimed = matches!(rules, Rules::Aimed | Rules::AimedInVain);
            let events = if is_aimed { Pairs::new(1).events() } else { pairs.events() };
            let others = AIMED.iter().take(if is_aimed { policies } else { 0 }).flat_map(|number| aimed(*number));
            events.into_iter().chain(others).for_each(|event| ours.apply(event));
            let plan = ours.commit();
            node.within(|| {
                linux.probe()?;
                linux.apply(&plan)?;
                linux.insert_hook()
            })??;
            return Ok(());
        }
        Rules::RulePerPair => {
            text.push_str(established);
            for (peer, subject, port) in &pairs.pairs {
                let _ = writeln!(text, "-A FORWARD -s {peer} -d {subject} -p tcp -m tcp --dport {port} -j ACCEPT");
            }
            text.push_str("-A FORWARD -j DROP\n");
        }
        Rules::SetPerPolicy => {
            // The subjects of each policy are a set; its chain asks for peers.
            for n in 0..policies {
                let _ = writeln!(text, ":POLICY-{n} - [0:0]");
            }
            text.push_str(established);
            for (n, (peer, subject, port)) in pairs.pairs.iter().enumerate() {
                let _ = writeln!(sets, "create subjects-{n} hash:ip\nadd subjects-{n} {subject}");
                let _ = writeln!(sets, "create peers-{n} hash:ip\nadd peers-{n} {peer}");
                let _ = writeln!(text, "-A FORWARD -m set --match-set subjects-{n} dst -j POLICY-{n}");
                let _ = writeln!(
                    text,
                    "-A POLICY-{n} -p tcp -m tcp --dport {port} -m set --match-set peers-{n} src -j ACCEPT"
                );
            }
            text.push_str("-A FORWARD -j DROP\n");
        }
    }
    text.push_str("COMMIT\n");
    if !sets.is_empty() {
        node.exec(&["ipset", "restore"], &sets)?;
    }
    node.exec(&[&format!("iptables-{backend}-restore")], &text)?;
    Ok(())
}
