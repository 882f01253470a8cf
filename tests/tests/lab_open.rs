//! The lab itself, without any agent: what nobody forbids arrives, and what a
//! rule forbids does not.

use npc_compiler::object::{ContainerPort, Labels, Objects, Pod, Protocol, Service, ServicePort, TargetPort};
use npc_lab::lab::{Lab, Mode, Seen, judge, plan};

/// Whether this machine can hold a lab. Where it cannot, the tests say so and
/// pass; `make test` counts them.
fn can_run() -> bool {
    let root = nix::unistd::geteuid().is_root();
    if !root {
        eprintln!("SKIPPED: the lab needs root");
    }
    root
}

fn pod(name: &str, app: &str) -> Pod {
    let labels = Labels::from([("app".to_owned(), app.to_owned())]);
    let mut pod = Pod::from_template("shop".to_owned(), name.to_owned(), labels, Default::default());
    pod.ports = [(Protocol::Tcp, 8080), (Protocol::Udp, 53), (Protocol::Sctp, 9999)]
        .map(|(protocol, port)| ContainerPort { name: protocol.lower().to_owned(), protocol, port })
        .to_vec();
    pod
}

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
    };
    let pods = (0..pods).map(|n| pod(&format!("pod-{n}"), if n < 4 { "web" } else { "api" }));
    Objects { pods: pods.collect(), services: vec![service], ..Objects::default() }
}

fn open_cluster_is_open(mode: Mode, pods: usize) {
    if !can_run() {
        return;
    }
    let began = std::time::Instant::now();
    let mut lab = Lab::builder(cluster(pods)).mode(mode).start().unwrap();
    let built = began.elapsed();
    let probes = plan::all(&lab);
    let judgement = judge::judge(&mut lab, &probes).unwrap();
    eprintln!(
        "{}: {} probes, {} sent again, built in {built:?}, done in {:?}",
        mode.as_str(),
        probes.len(),
        judgement.retried,
        began.elapsed()
    );
    for judged in judgement.judged.iter().filter(|judged| !judged.agrees()).take(20) {
        let (from, to) = (&lab.places()[judged.probe.from].name, &lab.places()[judged.probe.to].name);
        eprintln!("{from} -> {to}: {judged:?}");
    }
    assert!(judgement.judged.iter().all(|judged| judged.seen == Seen::Arrived));
}

#[test]
fn everything_arrives_between_routed_pods() {
    open_cluster_is_open(Mode::Routed, 6);
}

#[test]
fn everything_arrives_between_bridged_pods() {
    open_cluster_is_open(Mode::Bridge, 6);
}
