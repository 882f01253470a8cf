//! `--log-denied`: a flow that policies deny is one line, with its ends and the
//! policies by name; what it sends after its first packet is a number.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

use k8s_openapi::api::core::v1::PodSpec;
use k8s_openapi::api::networking::v1::NetworkPolicy as Policy;
use nix::sys::signal::Signal;
use npc_compiler::object::{Labels, NetworkPolicy, Objects, Pod, Protocol};
use npc_tests::lab::{Backend, Builder, Enforcer, Lab, Mode, Payload, Probe, Seen};
use serde_json::{Value, json};

const NODE: &str = "node-1";

/// `db` gets TCP only, by two policies; `job` sends nothing.
fn cluster() -> Objects {
    let pod = |name: &str| {
        let labels = Labels::from([("app".to_owned(), name.to_owned())]);
        let pod = Pod::from_template("shop".to_owned(), name.to_owned(), labels, PodSpec::default());
        Pod { node: Some(NODE.to_owned()), ..pod }
    };
    let policy = |name: &str, spec: Value| {
        let object = json!({"metadata": {"namespace": "shop", "name": name}, "spec": spec});
        NetworkPolicy::from(serde_json::from_value::<Policy>(object).unwrap())
    };
    Objects {
        pods: ["db", "web", "job"].map(pod).to_vec(),
        policies: vec![
            policy("none", json!({"podSelector": {"matchLabels": {"app": "db"}}})),
            policy("tcp", json!({"podSelector": {"matchLabels": {"app": "db"}}, "ingress": [{"ports": [{}]}]})),
            policy("still", json!({"podSelector": {"matchLabels": {"app": "job"}}, "policyTypes": ["Egress"]})),
        ],
        ..Objects::default()
    }
}

/// The lines about denied flows in the log of the node's agent.
fn lines(log: &str) -> Vec<Value> {
    let lines = log.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
    lines.filter(|line| line["message"].as_str().is_some_and(|message| message.starts_with("denied"))).collect()
}

fn denied_flows_are_logged(mode: Mode, backend: Backend) {
    let Some(agent) = Enforcer::for_test() else { return };
    let builder = Lab::builder(cluster()).mode(mode).backend(backend).enforcer(agent);
    let builder = ["--log-denied", "--log-format", "json"].into_iter().fold(builder, Builder::agent_argument);
    let mut lab = builder.start().unwrap();
    let [db, web, job] = ["db", "web", "job"].map(|name| lab.find(&format!("shop/{name}")).unwrap());
    let addresses = |lab: &Lab, place: usize| lab.places()[place].addresses.clone();
    let probe = |lab: &Lab, from, to, family: usize, payload| Probe::new(from, to, addresses(lab, to)[family], payload);
    let udp = |port| Payload::Port(Protocol::Udp, port);

    // One flow, thirty packets; one that is allowed; one more in IPv6; and one
    // that its source's policies deny.
    let flood = vec![probe(&lab, web, db, 0, udp(53)); 30];
    let allowed = probe(&lab, web, db, 0, Payload::Port(Protocol::Tcp, 80));
    let six = probe(&lab, web, db, 1, udp(54));
    let from_job = probe(&lab, job, web, 0, Payload::Icmp);
    assert!(lab.probe(&flood).unwrap().iter().all(|seen| *seen == Seen::Nothing));
    assert_eq!(lab.probe(&[allowed]).unwrap(), [Seen::Arrived]);
    assert_eq!(lab.probe(&[six]).unwrap(), [Seen::Nothing]);
    assert_eq!(lab.probe(&[from_job]).unwrap(), [Seen::Nothing]);
    // The kernel tells in this order, so when the last is there all are.
    let log = |lab: &mut Lab| lab.agent(NODE).unwrap().unwrap().log().unwrap();
    let mut tries = 0;
    while lines(&log(&mut lab)).len() < 3 {
        tries += 1;
        assert!(tries < 100, "{}", log(&mut lab));
        lab.probe(&[allowed]).unwrap();
    }
    let told = lines(&log(&mut lab));
    let told: Vec<_> = told
        .iter()
        .map(|line| {
            let text = |name: &str| line[name].as_str().unwrap_or_default().to_owned();
            let ends = [text("source"), text("source_pod"), text("destination"), text("destination_pod")];
            (text("direction"), ends, text("protocol"), line["port"].as_u64(), text("policies"))
        })
        .collect();
    let expect = |direction: &str, from: usize, to: usize, family: usize, protocol: &str, port, policies: &str| {
        let name = |place: usize| lab.places()[place].name.clone();
        let address = |place: usize| addresses(&lab, place)[family].to_string();
        let ends = [address(from), name(from), address(to), name(to)];
        (direction.to_owned(), ends, protocol.to_owned(), port, policies.to_owned())
    };
    let expected = [
        expect("Ingress", web, db, 0, "UDP", Some(53), "shop/none shop/tcp"),
        expect("Ingress", web, db, 1, "UDP", Some(54), "shop/none shop/tcp"),
        expect("Egress", job, web, 0, "ICMP", None, "shop/still"),
    ];
    assert_eq!(told, expected);

    let agent = lab.take_agent(NODE).unwrap().unwrap();
    agent.stop(Signal::SIGTERM).unwrap();
    let log = std::fs::read_to_string(lab.folder().join(format!("{NODE}.log"))).unwrap();
    let again: Vec<Value> = lines(&log).into_iter().filter(|line| !line["more"].is_null()).collect();
    assert_eq!(again.len(), 1, "{again:?}");
    assert_eq!((&again[0]["port"], &again[0]["more"]), (&json!(53), &json!(29)));
}

/// Without `--log-denied`: every packet counts, logged or not.
fn denied_packets_are_counted(mode: Mode, backend: Backend) {
    let Some(agent) = Enforcer::for_test() else { return };
    let mut lab = Lab::builder(cluster()).mode(mode).backend(backend).enforcer(agent).start().unwrap();
    let [db, web, job] = ["db", "web", "job"].map(|name| lab.find(&format!("shop/{name}")).unwrap());
    let probe = |lab: &Lab, from, to: usize, family: usize, payload| {
        Probe::new(from, to, lab.places()[to].addresses[family], payload)
    };
    let udp = Payload::Port(Protocol::Udp, 53);
    let denied = [
        vec![probe(&lab, web, db, 0, udp); 30],
        vec![probe(&lab, web, db, 1, udp); 2],
        vec![probe(&lab, job, web, 0, Payload::Icmp)],
    ];
    assert!(lab.probe(&denied.concat()).unwrap().iter().all(|seen| *seen == Seen::Nothing));
    let allowed = probe(&lab, web, db, 0, Payload::Port(Protocol::Tcp, 80));
    assert_eq!(lab.probe(&[allowed]).unwrap(), [Seen::Arrived]);
    let expect = |text: &str| {
        for line in [
            "npc_denied_packets_total{direction=\"ingress\",family=\"IPv4\"} 30",
            "npc_denied_packets_total{direction=\"ingress\",family=\"IPv6\"} 2",
            "npc_denied_packets_total{direction=\"egress\",family=\"IPv4\"} 1",
            "npc_denied_packets_total{direction=\"egress\",family=\"IPv6\"} 0",
            "npc_stray_packets_total{family=\"IPv4\"} 0",
        ] {
            assert!(text.lines().any(|found| found.trim() == line), "{line}\n{text}");
        }
    };
    // This is the first request, so no older reading is answered.
    expect(&lab.metrics(NODE).unwrap());
    // The kernel counted on while there was no agent, and its successor knows.
    lab.take_agent(NODE).unwrap().unwrap().stop(Signal::SIGKILL).unwrap();
    lab.start_agents().unwrap();
    expect(&lab.metrics(NODE).unwrap());
}

#[test]
fn denied_packets_are_counted_routed_by_legacy() {
    denied_packets_are_counted(Mode::Routed, Backend::Legacy);
}

#[test]
fn denied_packets_are_counted_bridged_by_nft() {
    denied_packets_are_counted(Mode::Bridge, Backend::Nft);
}

#[test]
fn denied_flows_are_logged_routed_by_nft() {
    denied_flows_are_logged(Mode::Routed, Backend::Nft);
}

#[test]
fn denied_flows_are_logged_bridged_by_legacy() {
    denied_flows_are_logged(Mode::Bridge, Backend::Legacy);
}
