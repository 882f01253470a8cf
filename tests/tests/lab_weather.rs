//! Bad weather over real agents under traffic. After each storm the kernel
//! holds exactly what the policies ask for, packets are judged accordingly, no
//! denied packet got through while it lasted, and the agents say what happened.
//!
//! The API server's absence has a test of its own, where one can be absent.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use k8s_openapi::api::core::v1::PodSpec;
use nix::sys::signal::Signal;
use npc_compiler::layout::Options;
use npc_compiler::object::{Labels, Namespace, NetworkPolicy, Objects, Pod};
use npc_lab::lab::weather::{LockHeld, SmallDisk, failing_programs};
use npc_lab::lab::{Backend, Builder, Enforcer, Lab, Mode, report};
use npc_lab::live::{ADMITTED, Editor, Live, Load};
use serde_json::{Value, json};

/// Agents that are held up get this long.
const PATIENCE: Duration = Duration::from_secs(180);

/// Two pods in each of three namespaces.
const PODS: usize = 2;

fn builder(objects: Objects, backend: Backend, mode: Mode) -> Option<Builder> {
    let builder = Lab::builder(objects).mode(mode).backend(backend).enforcer(Enforcer::for_test()?);
    Some(builder.patience(PATIENCE))
}

fn start(builder: Builder) -> Live {
    Live::start(builder, Load::default(), 1).unwrap().with_patience(PATIENCE)
}

/// One edit, waited for.
fn edit(live: &mut Live, editor: &mut Editor) {
    let edit = editor.edit(&live.objects());
    live.write(edit.objects, &edit.what).unwrap();
    live.settle().unwrap();
}

/// What is promised after every storm.
fn all_is_well(live: Live) -> Lab {
    let (mut lab, seen) = live.finish().unwrap();
    eprintln!("{seen}");
    assert_eq!(seen.violations, 0, "{seen}");
    assert!(seen.passed.settled + seen.passed.in_flight > 0 && seen.stopped.settled + seen.stopped.in_flight > 0);
    as_the_policies_say(&mut lab);
    lab
}

fn as_the_policies_say(lab: &mut Lab) {
    for node in nodes(lab) {
        assert_eq!(lab.differences(&node, &Options::default()).unwrap(), Vec::<String>::new(), "{node}");
    }
    let judgement = lab.judge().unwrap();
    let table = report::table(lab, &judgement);
    assert_eq!(judgement.mismatches().count(), 0, "{table}");
}

fn nodes(lab: &Lab) -> Vec<String> {
    lab.cluster().objects.nodes.iter().map(|node| node.name.clone()).collect()
}

#[test]
fn killed_at_random_points_through_200_updates() {
    const UPDATES: usize = 200;
    /// So many may be written before every agent has to have followed.
    const AHEAD: usize = 10;
    let mut editor = Editor::new(11);
    let Some(builder) = builder(editor.cluster(PODS), Backend::Nft, Mode::Routed) else { return };
    let mut live = start(builder);
    let nodes = live.nodes();
    let mut killed = 0;
    for update in 1..=UPDATES {
        let edit = editor.edit(&live.objects());
        live.write(edit.objects, &edit.what).unwrap();
        live.wait(Duration::from_millis(editor.below(60) as u64)).unwrap();
        if editor.chance(30) {
            live.stop_agent(&nodes[editor.below(nodes.len())], Signal::SIGKILL).unwrap();
            killed += 1;
        }
        if update % AHEAD == 0 || editor.chance(40) {
            for node in &nodes {
                live.start_agent(node).unwrap();
            }
        }
        if update % AHEAD == 0 {
            live.settle().unwrap();
        }
    }
    let lab = all_is_well(live);
    let starts = nodes.iter().map(|node| lab.log(node).unwrap().matches("npc agent starts").count()).sum::<usize>();
    assert!(killed > UPDATES / 5 && starts > killed / 2, "{killed} were killed, {starts} started");
}

fn iptables_is_flushed_by_another(backend: Backend) {
    let mut editor = Editor::new(12);
    let Some(builder) = builder(editor.cluster(PODS), backend, Mode::Routed) else { return };
    let mut live = start(builder);
    edit(&mut live, &mut editor);
    // Nothing can be promised of the moment until the agent has noticed.
    live.excuse();
    for family in ["iptables", "ip6tables"] {
        let program = format!("{family}-{}", backend.as_str());
        for flush in ["-F", "-X"] {
            live.lab().node("node-1").unwrap().exec([&*program, flush], "").unwrap();
        }
    }
    let begun = Instant::now();
    while !live.lab().differences("node-1", &Options::default()).unwrap().is_empty() {
        assert!(begun.elapsed() < PATIENCE, "nobody repairs what was flushed");
        live.wait(Duration::from_millis(50)).unwrap();
    }
    eprintln!("repaired within {:?}", begun.elapsed());
    // Its chains are there; what began in between is cut a moment later.
    edit(&mut live, &mut editor);
    live.excuse_no_more();
    edit(&mut live, &mut editor);
    let found = live.lab().metric("node-1", "npc_drift_found_total").unwrap();
    assert!(found > 0.0, "{found} found");
    let log = live.lab().log("node-1").unwrap();
    // The repair may have met the flush on its way, and then a pass ends it.
    assert!(log.contains(" WARN "), "{log}");
    all_is_well(live);
}

#[test]
fn iptables_is_flushed_by_another_nft() {
    iptables_is_flushed_by_another(Backend::Nft);
}

#[test]
fn iptables_is_flushed_by_another_legacy() {
    iptables_is_flushed_by_another(Backend::Legacy);
}

/// Only legacy has a lock.
#[test]
fn the_lock_is_held_for_30_s() {
    const HELD: Duration = Duration::from_secs(30);
    let mut editor = Editor::new(13);
    let folder = tempfile::tempdir().unwrap();
    let lock = folder.path().join("xtables.lock");
    let Some(builder) = builder(editor.cluster(PODS), Backend::Legacy, Mode::Bridge) else { return };
    let mut live = start(builder.agent_variable("XTABLES_LOCKFILE", &lock));
    edit(&mut live, &mut editor);
    let held = LockHeld::take(&lock).unwrap();
    let begun = Instant::now();
    while begun.elapsed() < HELD {
        let edit = editor.edit(&live.objects());
        live.write(edit.objects, &edit.what).unwrap();
        live.wait(HELD / 5).unwrap();
    }
    drop(held);
    live.settle().unwrap();
    edit(&mut live, &mut editor);
    // A node with nothing to write waits for no lock.
    let of = |node: &String| live.lab().metric(node, "npc_xtables_lock_wait_seconds_sum").unwrap();
    let waited: f64 = live.nodes().iter().map(of).sum();
    let log: String = live.nodes().iter().map(|node| live.lab().log(node).unwrap()).collect();
    assert!(waited > 1.0 && log.contains("for the xtables lock, which"), "waited {waited} s\n{log}");
    all_is_well(live);
}

/// Sets go by netlink, so no ipset can fail.
#[test]
fn iptables_fails_at_random() {
    const PERCENT: usize = 15;
    let mut editor = Editor::new(14);
    let folder = tempfile::tempdir().unwrap();
    let path = failing_programs(folder.path(), PERCENT).unwrap();
    let Some(builder) = builder(editor.cluster(PODS), Backend::Nft, Mode::Bridge) else { return };
    let mut live = start(builder.agent_variable("PATH", path));
    for _ in 0..12 {
        edit(&mut live, &mut editor);
    }
    let failures = live.nodes().iter().map(|node| live.lab().metric(node, "npc_pass_failures_total").unwrap()).sum();
    let log = live.nodes().iter().map(|node| live.lab().log(node).unwrap()).collect::<String>();
    assert!(1.0 < failures, "{failures} failures\n{log}");
    assert!(log.contains("the kernel is not up to date") && log.contains("bad weather"), "{log}");
    // A chain that could not go, because deleting it failed thrice, goes within
    // a few rounds.
    let begun = Instant::now();
    while live.nodes().iter().any(|node| !live.lab().differences(node, &Options::default()).unwrap().is_empty()) {
        assert!(begun.elapsed() < PATIENCE, "{:?}", live.nodes().iter().map(|node| live.lab().log(node)));
        live.wait(Duration::from_secs(1)).unwrap();
    }
    all_is_well(live);
}

#[test]
fn the_disk_is_full() {
    let mut editor = Editor::new(15);
    let folder = tempfile::tempdir().unwrap();
    let Some(builder) = builder(editor.cluster(PODS), Backend::Nft, Mode::Routed) else { return };
    let disk = SmallDisk::mount(folder.path().to_owned()).unwrap();
    // Logs and ready files are there.
    let mut lab = builder.agent_folder(disk.path()).start().unwrap();
    disk.fill().unwrap();
    for number in 0..3 {
        let objects = editor.edit(&lab.cluster().objects).objects;
        lab.write_manifests(objects).unwrap();
        if number == 1 {
            lab.take_agent("node-2").unwrap().unwrap().stop(Signal::SIGKILL).unwrap();
            lab.start_agent("node-2").unwrap();
        }
        // No file can tell when they have followed.
        let begun = Instant::now();
        for node in nodes(&lab) {
            while !lab.differences(&node, &Options::default()).unwrap().is_empty() {
                assert!(begun.elapsed() < PATIENCE, "the agent of {node} does not follow");
                std::thread::sleep(Duration::from_millis(50));
            }
        }
        as_the_policies_say(&mut lab);
    }
    disk.empty().unwrap();
    let objects = editor.edit(&lab.cluster().objects).objects;
    lab.apply(objects).unwrap();
    as_the_policies_say(&mut lab);
    for node in nodes(&lab) {
        assert!(lab.metric(&node, "npc_ready").unwrap() > 0.0);
    }
}

#[test]
fn ten_thousand_policies_arrive_at_once() {
    const MANY: usize = 10_000;
    let mut editor = Editor::new(16);
    let Some(builder) = builder(editor.cluster(PODS), Backend::Nft, Mode::Routed) else { return };
    let mut live = start(builder);
    let before = live.objects();
    let mut after = before.clone();
    for number in 0..MANY {
        let mut policy = editor.policy(&format!("many-{number}"));
        // One of eight is of a namespace that has pods here.
        if !number.is_multiple_of(8) {
            policy.object.metadata.namespace = Some(format!("far-{}", number % 100));
        }
        after.policies.push(policy);
    }
    live.write(after, "10,000 policies").unwrap();
    let begun = Instant::now();
    live.settle().unwrap();
    eprintln!("in the kernel after {:?}", begun.elapsed());
    for node in live.nodes() {
        assert!(live.lab().metric(&node, "npc_policies").unwrap() > 10_000.0);
    }
    live.write(before, "10,000 policies fewer").unwrap();
    live.settle().unwrap();
    all_is_well(live);
}

fn policy(namespace: &str, name: &str, spec: &Value) -> NetworkPolicy {
    let object = json!({"metadata": {"namespace": namespace, "name": name}, "spec": spec});
    serde_json::from_value::<k8s_openapi::api::networking::v1::NetworkPolicy>(object).unwrap().into()
}

#[test]
fn a_policy_with_5000_peers() {
    let mut editor = Editor::new(17);
    let Some(builder) = builder(editor.cluster(PODS), Backend::Legacy, Mode::Routed) else { return };
    let mut live = start(builder);
    for many in [5000, 4999, 2500] {
        let peer = |number: usize| match number % 4 {
            0 => json!({"podSelector": {"matchLabels": {"app": format!("app-{number}")}}}),
            1 => json!({"ipBlock": {"cidr": format!("10.{}.{}.0/24", 1 + number / 256, number % 256),
                "except": [format!("10.{}.{}.64/26", 1 + number / 256, number % 256)]}}),
            2 => json!({"ipBlock": {"cidr": format!("fd01:{number:x}::/64")}}),
            _ => json!({"ipBlock": {"cidr": format!("10.244.0.{}/32", number % 64)}}),
        };
        let peers: Vec<Value> = (0..many).map(peer).collect();
        let rule = |direction: &str| json!([{direction: peers, "ports": [{"port": 8080}, {"port": ADMITTED}]}]);
        let spec = json!({"podSelector": {}, "policyTypes": ["Ingress", "Egress"],
            "ingress": rule("from"), "egress": rule("to")});
        let mut objects = live.objects();
        objects.policies.retain(|policy| policy.name() != "np-of-many-peers");
        objects.policies.push(policy("red", "np-of-many-peers", &spec));
        live.write(objects, &format!("a policy with {many} peers")).unwrap();
        live.settle().unwrap();
    }
    all_is_well(live);
}

/// All names differ at their end only.
#[test]
fn names_and_labels_at_their_limits() {
    let long = |length: usize, end: usize| format!("{}{end}", "n".repeat(length - 1));
    let namespace = |end| long(63, end);
    let key = |end| format!("{}.io/{}", "k".repeat(250), long(63, end));
    let labels = |end: usize| Labels::from([(key(end % 2), long(63, end)), (key(2), long(63, end % 2))]);
    let mut objects = Objects::default();
    for n in 0..3 {
        objects.namespaces.push(Namespace::new(namespace(n), labels(n)));
        for p in 0..2 {
            // The lab names a network namespace after it, in at most 255 bytes.
            let mut pod = Pod::from_template(namespace(n), long(150, p), labels(n + p), PodSpec::default());
            pod.node = Some(long(200, (n + p) % 2));
            let port = if p == 0 { 8080 } else { 9090 };
            let protocol = npc_compiler::object::Protocol::Tcp;
            pod.ports = vec![npc_compiler::object::ContainerPort { name: long(15, n), protocol, port }];
            objects.pods.push(pod);
        }
    }
    let spec = |n: usize| {
        let peer = json!({"namespaceSelector": {"matchLabels": {key(n % 2): long(63, n)}},
            "podSelector": {"matchLabels": {key(2): long(63, 1)}}});
        let rule = |direction: &str| {
            json!([
            {direction: [peer], "ports": [{"port": long(15, n)}, {"port": long(15, (n + 1) % 3)}]},
            {"ports": [{"port": ADMITTED}, {"port": ADMITTED, "protocol": "UDP"}]}])
        };
        json!({"podSelector": {"matchLabels": {key(2): long(63, n % 2)}}, "policyTypes": ["Ingress", "Egress"],
            "ingress": rule("from"), "egress": rule("to")})
    };
    for n in 0..3 {
        objects.policies.push(policy(&namespace(n), &long(253, n), &spec(n)));
        objects.policies.push(policy(&namespace(n), &long(253, n + 3), &spec(n + 1)));
    }
    let Some(builder) = builder(objects, Backend::Legacy, Mode::Bridge) else { return };
    let mut live = start(builder);
    for round in 0..6 {
        let mut objects = live.objects();
        let pod = round % objects.pods.len();
        objects.pods[pod].labels = labels(round + 1);
        objects.namespaces[round % 3].labels = Namespace::new(namespace(round % 3), labels(round + 1)).labels;
        let specs: BTreeMap<usize, _> =
            (0..6).map(|n| ((n + 1) % 6, objects.policies[n].object.spec.clone())).collect();
        for (n, spec) in specs {
            objects.policies[n].object.spec = spec;
        }
        live.write(objects, &format!("round {round}")).unwrap();
        live.settle().unwrap();
    }
    all_is_well(live);
}
