//! Several pod objects, one address: real agents, real packets.
//!
//! `NPC_ROLLS` says how often a pod is replaced by one with its address under
//! traffic, `NPC_SOAK_SEED` by which seed, `NPC_SOAK_AGENT` is another `npc` to
//! put on trial.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

use std::path::PathBuf;

use npc_agent::source::manifests;
use npc_compiler::object::{self, Family, Labels, Objects, Pod};
use npc_tests::lab::{Backend, Enforcer, Lab, Mode, Payload, Probe, can_run};
use npc_tests::soak::{Editor, Load, SoakLab};

use crate::number;

const UDP: Payload = Payload::Port(object::Protocol::Udp, 53);

fn agents() -> Option<Enforcer> {
    if let Some(path) = std::env::var_os("NPC_SOAK_AGENT") {
        return Some(Enforcer::Agent(PathBuf::from(path)));
    }
    Enforcer::for_test()
}

/// A database that admits its clients, on one node, and on another a client and
/// a stranger. The database may send nowhere.
fn cluster() -> Objects {
    let pod = |name: &str, node: u8| {
        format!(
            "---\n{{apiVersion: v1, kind: Pod, metadata: {{name: {name}, namespace: n, labels: {{app: {name}}}}}, \
             spec: {{nodeName: node-{node}, containers: []}}, status: {{startTime: '2026-11-01T00:00:00Z'}}}}\n"
        )
    };
    let mut text = String::from(
        r"
{apiVersion: v1, kind: Node, metadata: {name: node-1}, spec: {podCIDRs: [10.244.0.0/24, 'fd00:244::/64']}}
---
{apiVersion: v1, kind: Node, metadata: {name: node-2}}
---
{apiVersion: networking.k8s.io/v1, kind: NetworkPolicy, metadata: {name: db, namespace: n}, spec: {
  podSelector: {matchLabels: {app: db}}, policyTypes: [Ingress, Egress],
  ingress: [{from: [{podSelector: {matchLabels: {app: client}}}]}]}}
---
{apiVersion: networking.k8s.io/v1, kind: NetworkPolicy, metadata: {name: open, namespace: n}, spec: {
  podSelector: {matchLabels: {app: open}}, policyTypes: [Ingress, Egress], ingress: [{}], egress: [{}]}}
---
{apiVersion: networking.k8s.io/v1, kind: NetworkPolicy, metadata: {name: narrow, namespace: n}, spec: {
  podSelector: {matchLabels: {app: narrow}}, policyTypes: [Ingress],
  ingress: [{from: [{podSelector: {matchLabels: {app: stranger}}}]}]}}
",
    );
    for (name, node) in [("db", 1), ("near", 1), ("client", 2), ("stranger", 2)] {
        text.push_str(&pod(name, node));
    }
    manifests::parse_text("test", &text, &manifests::ReadOptions::default()).unwrap().objects
}

/// Which pod reaches which, in both families alike, as `client>db`; and these do.
fn reached(lab: &mut Lab, expected: &[&str]) -> Vec<String> {
    let pairs = ["client>db", "stranger>db", "near>db", "db>client", "db>near"];
    let mut probes = Vec::new();
    for pair in pairs {
        let (from, to) = pair.split_once('>').unwrap();
        let [from, to] = [from, to].map(|name| lab.find(&format!("n/{name}")).unwrap());
        let addresses = Family::ALL.map(|family| lab.places()[to].address(family).unwrap());
        probes.extend(addresses.map(|address| Probe::new(from, to, address, UDP)));
    }
    let expected: Vec<bool> = pairs.iter().flat_map(|pair| [expected.contains(pair); 2]).collect();
    let arrived = lab.arrived_as(&probes, &expected).unwrap();
    let both = |pair: usize| arrived[2 * pair..2 * pair + 2].to_vec();
    let reached = pairs.iter().enumerate().filter(|(pair, _)| {
        assert_eq!(both(*pair)[0], both(*pair)[1], "both families alike: {}", pairs[*pair]);
        both(*pair)[0]
    });
    reached.map(|(_, pair)| (*pair).to_owned()).collect()
}

/// Another object with the addresses of a pod.
fn twin(objects: &Objects, of: &str, app: &str, node: &str, uid: &str) -> Pod {
    let pod = objects.pods.iter().find(|pod| pod.name == of).unwrap();
    let labels = Labels::from([("app".to_owned(), app.to_owned())]);
    let (name, uid) = (format!("{of}-twin"), uid.to_owned());
    Pod { uid, name, labels, node: Some(node.to_owned()), started: pod.started, ..pod.clone() }
}

/// This passes with another object beside those of the cluster, whose UID sorts
/// before those of the others, or after them.
#[track_caller]
fn beside(lab: &mut Lab, (of, app, node): (&str, &str, &str), change: impl Fn(&mut Pod), expected: &[&str]) {
    let objects = lab.cluster().objects.clone();
    for uid in ["00000000-0000-4000-8000-000000000000", "zz"] {
        let mut edited = objects.clone();
        let mut pod = twin(&objects, of, app, node, uid);
        change(&mut pod);
        edited.pods.push(pod);
        lab.apply(edited).unwrap();
        assert_eq!(reached(lab, expected), expected, "with UID {uid}");
    }
    lab.apply(objects).unwrap();
}

const UNDISTURBED: [&str; 1] = ["client>db"];
const NOTHING: [&str; 0] = [];

fn claims(backend: Backend, mode: Mode) {
    if !can_run() {
        return;
    }
    let Some(agents) = agents() else { return };
    let mut lab = Lab::builder(cluster()).mode(mode).backend(backend).enforcer(agents).start().unwrap();
    assert_eq!(reached(&mut lab, &UNDISTURBED), UNDISTURBED);

    // The database stays isolated, and its peers are its peers. Objects of other nodes cannot
    // change that: a lost node's, a compromised kubelet's.
    for node in ["lost", "node-2"] {
        beside(&mut lab, ("db", "open", node), |_| (), &UNDISTURBED);
        beside(&mut lab, ("db", "nobody", node), |_| (), &UNDISTURBED);
    }
    // On its own node one that nothing isolates, and one that admits all, open
    // nothing while nothing shows which of them it is.
    beside(&mut lab, ("db", "nobody", "node-1"), |_| (), &UNDISTURBED);
    beside(&mut lab, ("db", "open", "node-1"), |_| (), &UNDISTURBED);
    // What passes is what each of them admits, never the union.
    beside(&mut lab, ("db", "narrow", "node-1"), |_| (), &NOTHING);
    // It is the one that stays, and then the one that started later.
    beside(&mut lab, ("db", "narrow", "node-1"), |pod| pod.terminating = true, &UNDISTURBED);
    beside(&mut lab, ("db", "narrow", "node-1"), |pod| pod.finished = true, &UNDISTURBED);
    beside(&mut lab, ("db", "narrow", "node-1"), |pod| pod.started = Some(1), &UNDISTURBED);
    let later = ["stranger>db", "db>client", "db>near"];
    beside(&mut lab, ("db", "narrow", "node-1"), |pod| pod.started = Some(2_000_000_000), &later);

    // As a peer: no claim of a lost node makes a stranger a client.
    beside(&mut lab, ("stranger", "client", "lost"), |_| (), &UNDISTURBED);
    // Where doubt remains, the client is none either, unless the other goes.
    beside(&mut lab, ("client", "nobody", "lost"), |_| (), &NOTHING);
    beside(&mut lab, ("client", "client", "lost"), |_| (), &UNDISTURBED);
    beside(&mut lab, ("client", "nobody", "lost"), |pod| pod.terminating = true, &UNDISTURBED);
    // Nor where its Node has the address, and that of the other has not: it is
    // gone, or has other prefixes.
    let mut objects = lab.cluster().objects.clone();
    let node = objects.nodes.iter_mut().find(|node| node.name == "node-2").unwrap();
    node.pod_cidrs = ["10.244.1.0/24", "fd00:244:0:1::/64"].map(|cidr| cidr.parse().unwrap()).to_vec();
    lab.apply(objects).unwrap();
    beside(&mut lab, ("client", "nobody", "lost"), |_| (), &UNDISTURBED);
    beside(&mut lab, ("stranger", "client", "lost"), |_| (), &UNDISTURBED);
    assert_eq!(reached(&mut lab, &UNDISTURBED), UNDISTURBED);
}

#[test]
fn no_claim_opens_what_another_keeps_shut_nft() {
    claims(Backend::Nft, Mode::Routed);
}

#[test]
fn no_claim_opens_what_another_keeps_shut_legacy() {
    claims(Backend::Legacy, Mode::Bridge);
}

/// Pods of a StatefulSet are replaced, and the successors have the addresses at
/// once, while the objects of those before them are still there: terminating, or
/// not even that yet.
fn rolled(backend: Backend, mode: Mode, seed: u64) {
    if !can_run() {
        return;
    }
    let Some(agents) = agents() else { return };
    let (rolls, seed) = (number("NPC_ROLLS", 12), number("NPC_SOAK_SEED", 1) + seed);
    let mut editor = Editor::new(seed);
    let mut objects = editor.cluster(4);
    for pod in &mut objects.pods {
        pod.started = Some(1_000_000_000);
    }
    let builder = Lab::builder(objects).mode(mode).backend(backend).enforcer(agents);
    // A stream is its pod's, and ends with it.
    let load = Load { streams: [0, 0], ..Load::default() };
    let mut soak = SoakLab::start(builder, load, seed).unwrap();
    for roll in 0..rolls {
        let objects = soak.objects();
        let place = editor.below(objects.pods.len());
        let old = objects.pods[place].clone();
        let is_marked = editor.chance(70);
        let mut new = Pod { uid: format!("roll-{roll}"), ..old.clone() };
        new.started = old.started.map(|started| started + 60);
        // Most have the labels of another pod, as where the address goes to
        // another workload of the node.
        if editor.chance(60) {
            new.labels = objects.pods[editor.below(objects.pods.len())].labels.clone();
        }
        let mut edited = objects.clone();
        edited.pods[place].terminating = is_marked;
        soak.write(edited.clone(), &format!("roll {roll}: {} ends", old.name)).unwrap();
        edited.pods[place] = new;
        edited.pods.push(Pod { terminating: is_marked, name: format!("{}-old", old.name), ..old });
        soak.write(edited.clone(), &format!("roll {roll}: its address is another's")).unwrap();
        if editor.chance(50) {
            soak.settle().unwrap();
        }
        edited.pods.pop();
        soak.write(edited, &format!("roll {roll}: it is gone")).unwrap();
        soak.settle().unwrap();
    }
    let (_, report) = soak.finish().unwrap();
    let told = format!("{backend:?} {mode:?} seed {seed}: {rolls} rolls\n{report}");
    eprintln!("{told}");
    assert_eq!(report.violations, 0, "{told}");
    assert!(report.passed.in_flight > rolls && report.stopped.in_flight > rolls, "{told}");
}

#[test]
fn addresses_that_are_reused_at_once_lose_and_open_nothing_nft() {
    rolled(Backend::Nft, Mode::Routed, 500);
}

#[test]
fn addresses_that_are_reused_at_once_lose_and_open_nothing_legacy() {
    rolled(Backend::Legacy, Mode::Bridge, 600);
}
