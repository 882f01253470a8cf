//! The lab itself, without any agent: what no rule forbids arrives, what a rule
//! forbids does not, and nothing stays behind.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

use std::fs::File;
use std::net::IpAddr;
use std::process::Command;

use k8s_openapi::api::core::v1::PodSpec;
use npc_compiler::object::{
    ContainerPort, Exposure, Labels, Objects, Pod, Protocol, Routing, Service, ServicePort, TargetPort,
};
use npc_tests::lab::{Backend, Lab, Mode, Payload, Probe, Seen, can_run, plan, sibling};
use serde_json::json;

fn pod(name: &str, app: &str) -> Pod {
    let labels = Labels::from([("app".to_owned(), app.to_owned())]);
    let mut pod = Pod::from_template("shop".to_owned(), name.to_owned(), labels, PodSpec::default());
    pod.ports = [(Protocol::Tcp, 8080), (Protocol::Udp, 53), (Protocol::Sctp, 9999)]
        .map(|(protocol, port)| ContainerPort { name: protocol.lower().to_owned(), protocol, port })
        .to_vec();
    pod
}

/// So many pods on three nodes, and a Service before four of them.
fn cluster(pods: usize) -> Objects {
    let ports = Protocol::ALL.map(|protocol| ServicePort {
        name: None,
        protocol,
        port: 80,
        target: TargetPort::Name(protocol.lower().to_owned()),
    });
    let service = Service {
        namespace: "shop".to_owned(),
        name: "web".to_owned(),
        selector: Some(Labels::from([("app".to_owned(), "web".to_owned())])),
        addresses: Vec::new(),
        ports: ports.to_vec(),
        exposure: Exposure::Inside,
        routing: Routing::default(),
    };
    let pods = (0..pods).map(|n| pod(&format!("pod-{n}"), if n < 4 { "web" } else { "api" }));
    Objects { pods: pods.collect(), services: vec![service], ..Objects::default() }
}

fn open_cluster_is_open(mode: Mode) {
    if !can_run() {
        return;
    }
    let mut lab = Lab::builder(cluster(6)).mode(mode).start().unwrap();
    let judgement = lab.judge().unwrap();
    let closed: Vec<_> = judgement.judged.iter().filter(|judged| judged.seen != Seen::Arrived).take(10).collect();
    assert!(closed.is_empty(), "{closed:#?}");
    assert!(judgement.judged.len() > 5000, "only {} probes", judgement.judged.len());
}

#[test]
fn everything_arrives_between_routed_pods() {
    open_cluster_is_open(Mode::Routed);
}

#[test]
fn everything_arrives_between_bridged_pods() {
    open_cluster_is_open(Mode::Bridge);
}

/// Every kind of packet from `pod-0` to `pod-3`, which share a node, and back.
fn there_and_back(lab: &Lab) -> (Vec<Probe>, Vec<Probe>) {
    let (here, there) = (lab.find("shop/pod-0").unwrap(), lab.find("shop/pod-3").unwrap());
    assert_eq!(lab.places()[here].node(), lab.places()[there].node());
    let payloads = plan::payloads(&lab.cluster().objects);
    let probes = |from: usize, to: usize| -> Vec<Probe> {
        let addresses = lab.places()[to].addresses.iter().copied();
        let probe = |address: IpAddr| payloads.iter().map(move |payload| Probe::new(from, to, address, *payload));
        addresses.flat_map(probe).collect()
    };
    (probes(here, there), probes(there, here))
}

/// A rule in FORWARD, written by hand, stops what it names and nothing else:
/// packets between pods of one node do cross that chain, in both modes.
fn a_dropped_pod_is_seen_as_such(mode: Mode, backend: Backend) {
    if !can_run() {
        return;
    }
    let mut lab = Lab::builder(cluster(6)).mode(mode).backend(backend).start().unwrap();
    let (there, back) = there_and_back(&lab);
    let target = lab.find("shop/pod-3").unwrap();
    for address in lab.places()[target].addresses.clone() {
        let family = npc_compiler::object::Family::of(&address);
        let iptables = backend.program(family, "").unwrap();
        let rule = ["-I", "FORWARD", "-d", &address.to_string(), "-m", "conntrack", "--ctstate", "NEW", "-j", "DROP"]
            .map(str::to_owned);
        let words = std::iter::once(iptables.into_os_string()).chain(rule.into_iter().map(Into::into));
        lab.node("node-1").unwrap().exec(words, "").unwrap();
    }
    let seen = lab.probe(&there).unwrap();
    assert!(seen.iter().all(|seen| *seen == Seen::Nothing), "{seen:#?}");
    let seen = lab.probe(&back).unwrap();
    assert!(seen.iter().all(|seen| *seen == Seen::Arrived), "{seen:#?}");
}

#[test]
fn a_dropped_routed_pod_is_seen_as_such_by_nft() {
    a_dropped_pod_is_seen_as_such(Mode::Routed, Backend::Nft);
}

#[test]
fn a_dropped_bridged_pod_is_seen_as_such_by_nft() {
    a_dropped_pod_is_seen_as_such(Mode::Bridge, Backend::Nft);
}

#[test]
fn a_dropped_bridged_pod_is_seen_as_such_by_legacy() {
    a_dropped_pod_is_seen_as_such(Mode::Bridge, Backend::Legacy);
}

#[test]
fn forged_packets_reach_a_pod_without_rules_for_sources() {
    if !can_run() {
        return;
    }
    for mode in [Mode::Routed, Mode::Bridge] {
        let mut lab = Lab::builder(cluster(6)).mode(mode).start().unwrap();
        let probes: Vec<Probe> = plan::all(&lab).into_iter().filter(|probe| probe.forged).collect();
        let seen = lab.probe(&probes).unwrap();
        let lost: Vec<_> = probes.iter().zip(seen).filter(|(_, seen)| *seen != Seen::Arrived).collect();
        assert!(lost.is_empty() && probes.len() > 100, "{mode:?}: {} of {}: {lost:#?}", lost.len(), probes.len());
    }
}

#[test]
fn a_port_that_refuses_is_not_taken_for_a_silent_one() {
    if !can_run() {
        return;
    }
    let mut lab = Lab::builder(cluster(2)).start().unwrap();
    let (from, to) = (lab.find("shop/pod-0").unwrap(), lab.find("shop/pod-1").unwrap());
    let address = lab.places()[to].addresses[0];
    // No pod has this address, and the outside says so.
    let unused = Probe::new(from, to, "198.18.0.1".parse().unwrap(), Payload::Port(Protocol::Udp, 53));
    let right = Probe::new(from, to, address, Payload::Port(Protocol::Udp, 53));
    assert_eq!(lab.probe(&[unused, right]).unwrap(), [Seen::Nothing, Seen::Arrived]);
}

#[test]
fn a_dropped_lab_leaves_nothing() {
    if !can_run() {
        return;
    }
    let lab = Lab::builder(cluster(2)).start().unwrap();
    let names: Vec<String> = lab.places().iter().map(|place| place.netns.name().to_owned()).collect();
    let folder = lab.manifests().to_owned();
    let there = |name: &String| std::path::Path::new("/run/netns").join(name).exists();
    assert!(names.iter().all(there));
    drop(lab);
    assert!(!names.iter().any(there));
    assert!(!folder.exists());
}

/// A lab that was killed has left a namespace, a process in it and a folder, and
/// its number is another's by now.
#[test]
fn what_a_killed_lab_left_disturbs_no_other() {
    if !can_run() {
        return;
    }
    let objects = tempfile::tempdir().unwrap();
    let pod = json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "web", "namespace": "shop"},
        "spec": {"nodeName": "node-1", "containers": [{"name": "web", "image": "web"}]}});
    std::fs::write(objects.path().join("pod.json"), pod.to_string()).unwrap();
    // The shell's number is that of the program that takes its place.
    let script = "name=npc-lab-$$-0; \
        echo $$ >$TMPDIR/number && mkfifo $TMPDIR/there && mkdir $TMPDIR/$name-left || exit; \
        ip netns add $name-node.node-1 || exit; \
        ip netns exec $name-node.node-1 sh -c 'echo >$TMPDIR/there; exec sleep 1000' & \
        echo $! >$TMPDIR/sleeper; read there <$TMPDIR/there; \
        exec \"$0\" run --no-agent --mode routed --backend nft -f \"$1\"";
    let lab = sibling("npc-lab", "cargo build --workspace --bins").unwrap();
    let folder = tempfile::tempdir().unwrap();
    let output = Command::new("sh")
        .args(["-c", script])
        .args([lab.as_path(), objects.path()])
        .env("TMPDIR", folder.path())
        // The one that sleeps would keep a pipe open if it stayed.
        .stdout(File::create(folder.path().join("out")).unwrap())
        .stderr(File::create(folder.path().join("errors")).unwrap())
        .status()
        .unwrap();
    let read = |file: &str| std::fs::read_to_string(folder.path().join(file)).unwrap();
    assert!(output.success(), "{}{}", read("out"), read("errors"));
    let name = format!("npc-lab-{}-0", read("number").trim());
    assert!(!folder.path().join(format!("{name}-left")).exists());
    assert!(!std::path::Path::new("/run/netns").join(format!("{name}-node.node-1")).exists());
    // Its parent may not have reaped it yet, but it has ended.
    let sleeps = std::fs::read_to_string(format!("/proc/{}/cmdline", read("sleeper").trim()));
    assert!(!sleeps.is_ok_and(|command| command.contains("sleep")), "it went with its namespace");
}
