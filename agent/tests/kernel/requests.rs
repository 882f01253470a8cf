//! Clients that open connections and finish no request: every pod reaches the address on
//! which its node's agent serves metrics.

use std::fs;
use std::io::{Read as _, Write as _};
use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4, TcpStream};

use npc_agent::dataplane::backend::Backend;
use socket2::{Domain, Socket, Type};

use super::agent::{Agent, Folder};
use super::namespace::{Namespace, run};
use super::on_both_backends;

on_both_backends!(clients_that_finish_no_request_hold_up_no_policy, metrics_take_what_the_agent_leaves);

/// More than an agent may have files open here.
const CLIENTS: u16 = 600;

/// A connection from an address of its own.
fn connect(last: u8, to: SocketAddr) -> Option<TcpStream> {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
    socket.bind(&SocketAddrV4::new(Ipv4Addr::new(127, 0, 0, last), 0).into()).unwrap();
    socket.connect(&to.into()).ok()?;
    Some(socket.into())
}

fn status(port: u16, path: &str) -> String {
    let mut stream = TcpStream::connect(("127.0.0.1", port)).unwrap();
    write!(stream, "GET {path} HTTP/1.0\r\n\r\n").unwrap();
    let mut text = String::new();
    stream.read_to_string(&mut text).unwrap();
    text.split(' ').nth(1).unwrap_or_default().to_owned()
}

fn clients_that_finish_no_request_hold_up_no_policy(backend: Backend) {
    let _namespace = Namespace::enter();
    let folder = Folder::new();
    let mut agent = Agent::start(&folder, backend, &["--health-address", "127.0.0.1:10902"]);
    agent.wait(1);
    run("prlimit", &["--pid", &agent.id().to_string(), "--nofile=160:160"]);
    let open: Vec<Option<TcpStream>> = (0..CLIENTS)
        .map(|n| {
            let mut stream = connect(u8::try_from(n % 250 + 2).unwrap(), SocketAddr::from(([127, 0, 0, 1], 10901)))?;
            stream.write_all(b"GET /metrics HTTP/1.1\r\nX-").ok()?;
            Some(stream)
        })
        .collect();
    // New rules take children and their pipes.
    folder.write_pod("db-2", "db", 3);
    agent.wait(2);
    folder.write(
        "another.yaml",
        "apiVersion: networking.k8s.io/v1\nkind: NetworkPolicy\nmetadata: {name: web, namespace: shop}\nspec:\n  \
         podSelector: {matchLabels: {app: web}}\n",
    );
    agent.wait(3);
    assert_eq!(status(10901, "/metrics"), "200");
    assert_eq!(status(10902, "/healthz"), "200");
    assert_eq!(status(10902, "/readyz"), "200");
    assert_eq!(status(10902, "/metrics"), "404");
    drop(open);
}

/// The part of the agent that serves metrics.
const THREAD: &str = "npc-metrics";

/// The agent's threads: the name of each, its nice value, and the nanoseconds that it was on a processor.
fn threads(agent: u32) -> Vec<(String, i32, u64)> {
    let folders = fs::read_dir(format!("/proc/{agent}/task")).unwrap().map(|thread| thread.unwrap().path());
    let read = |folder: std::path::PathBuf| {
        // A thread that has just ended is none.
        let file = |name: &str| fs::read_to_string(folder.join(name)).ok();
        let (stat, name, times) = (file("stat")?, file("comm")?, file("schedstat")?);
        // Behind the name, which may hold anything, the 17th.
        let nice = stat.rsplit(") ").next()?.split(' ').nth(16)?.parse().unwrap();
        Some((name.trim().to_owned(), nice, times.split(' ').next()?.parse().unwrap()))
    };
    folders.filter_map(read).collect()
}

fn metrics_take_what_the_agent_leaves(backend: Backend) {
    let _namespace = Namespace::enter();
    let folder = Folder::new();
    let mut agent = Agent::start(&folder, backend, &["--health-address", "127.0.0.1:10902"]);
    agent.wait(1);
    let all = threads(agent.id());
    let (serving, others): (Vec<_>, Vec<_>) = all.iter().partition(|(name, ..)| name == THREAD);
    assert!(matches!(serving[..], [(_, 19, _)]), "{all:?}");
    // A test may run with less than usual itself.
    let (_, usual, _) = threads(std::process::id())[0];
    assert!(others.len() > 3 && others.iter().all(|(_, nice, _)| *nice == usual), "{all:?}");
    let taken = |port, path| {
        let time = || threads(agent.id()).into_iter().find_map(|(name, _, time)| (name == THREAD).then_some(time));
        let before = time().unwrap();
        (0..50).for_each(|_| assert_eq!(status(port, path), "200"));
        time().unwrap() - before
    };
    let (probes, metrics) = (taken(10902, "/readyz"), taken(10901, "/metrics"));
    assert!(probes < metrics / 2, "kubelet's probes do not wait for that thread: {probes} {metrics}");
}
