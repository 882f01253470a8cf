//! Random sequences of all that happens to a node's CNI configuration, while pods start and
//! stop.

use std::fs;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use npc_agent::install_cni::report::AlertReason;
use serde_json::{Value, json};

use super::api::{Says, daemon_set, installed};
use super::host::{Faults, Host, Installer, OWN, SOURCE};
use super::{chain, has_alert, is_isolated, report};
use crate::cni::node::wait;
use crate::cni::traffic::{listen, passes};
use crate::number;

/// How many sequences one run has; `NPC_CNI_SEQUENCES` sets another number.
const SEQUENCES: u64 = 8;

/// How long a pod may take to start in the middle of everything.
const PATIENCE: Duration = Duration::from_secs(60);

/// How many pods come and go at the same time.
const PODS: usize = 3;

/// Starts pods and ends them, as the kubelet does, until it is told to stop.
fn run_pods(
    host: &Host,
    name: &str,
    is_over: &AtomicBool,
    installs: &AtomicUsize,
    started: &AtomicUsize,
    faults: &Faults,
) {
    let to = "192.0.2.2".parse().unwrap();
    while !is_over.load(Ordering::Relaxed) {
        let mut sandbox = host.sandbox(name);
        let begun = Instant::now();
        // Odd while the plugin is installed and no removal has begun.
        let count = || installs.load(Ordering::SeqCst);
        let was_installed = loop {
            let before = count();
            match host.add(&mut sandbox) {
                Ok(()) => break before % 2 == 1 && before == count(),
                Err(error) if begun.elapsed() > PATIENCE => {
                    faults.add(format!("{name} did not start: {error}"));
                    return;
                }
                Err(_) => thread::sleep(Duration::from_millis(50)),
            }
        };
        let is_isolated = is_isolated(host, &sandbox);
        let passes = passes(&sandbox.netns, to, 9090);
        if was_installed {
            if !sandbox.is_ours {
                faults.add(format!("{name} was started without the plugin while it was installed"));
            } else if !is_isolated || passes {
                faults.add(format!("{name} started open: in the sets {is_isolated}, a packet passed {passes}"));
            }
            started.fetch_add(1, Ordering::Relaxed);
        }
        if let Err(error) = host.delete(&sandbox) {
            faults.add(format!("{name} did not end: {error}"));
        }
        sandbox.remove();
    }
}

/// As istio-cni and linkerd-cni: an entry at the end of the first list, by a rename.
fn append(host: &Host, kind: &str) {
    let files = host.files();
    let Some((name, text)) = files.iter().find(|(name, _)| name.ends_with(".conflist")) else { return };
    let Ok(mut list) = serde_json::from_str::<Value>(text) else { return };
    let Some(plugins) = list["plugins"].as_array_mut() else { return };
    plugins.retain(|plugin| plugin["type"] != kind);
    plugins.push(json!({"type": kind}));
    let new = host.conf().join(format!("{name}.{kind}"));
    fs::write(&new, list.to_string()).unwrap();
    fs::rename(new, host.conf().join(name)).unwrap();
}

/// As Multus: a file that sorts first and has a copy of the next one.
fn delegate(host: &Host) {
    let files = host.files();
    let Some((_, text)) = files.iter().find(|(name, _)| name.ends_with(".conflist")) else { return };
    let Ok(next) = serde_json::from_str::<Value>(text) else { return };
    let multus = json!({"cniVersion": "1.0.0", "name": "m", "type": "multus", "delegates": [next]});
    fs::write(host.conf().join("00-multus.new"), multus.to_string()).unwrap();
    fs::rename(host.conf().join("00-multus.new"), host.conf().join("00-multus.conf")).unwrap();
}

fn install(host: &Host, installs: &AtomicUsize) -> Installer {
    host.api.says(installed());
    let installer = host.install(&[]);
    host.wait_installed();
    wait("the plugin is installed", || report(host).installed);
    installs.fetch_add(1, Ordering::SeqCst);
    installer
}

#[allow(clippy::too_many_lines, reason = "one match of all that happens")]
fn sequence(host: &Host, random: &mut fastrand::Rng, installs: &AtomicUsize) -> Vec<String> {
    let mut steps = Vec::new();
    host.write_source(0);
    let before = host.files();
    let mut installer = install(host, installs);
    for _ in 0..random.usize(3..9) {
        let step = random.usize(0..17);
        let variant = random.usize(0..6);
        steps.push(format!("{step} {variant}"));
        match step {
            0 => host.write_source(variant),
            // In place, half of it first.
            1 => {
                let text = host.source(variant);
                fs::write(host.conf().join(SOURCE), &text[..text.len() / 2]).unwrap();
                thread::sleep(Duration::from_millis(random.u64(0..80)));
                fs::write(host.conf().join(SOURCE), text).unwrap();
            }
            // Deleted and made again.
            2 => {
                fs::remove_file(host.conf().join(SOURCE)).unwrap();
                thread::sleep(Duration::from_millis(random.u64(0..400)));
                host.write_source(variant);
            }
            3 => {
                installer.terminate();
                installer = host.install(&[]);
            }
            4 => {
                installer.kill();
                installer = host.install(&[]);
            }
            // An upgrade or a rollback: two at once, with other settings.
            5 => {
                let next = host.install(&["--timeout", "25"]);
                thread::sleep(Duration::from_millis(random.u64(0..100)));
                installer.terminate();
                installer = next;
            }
            6 => append(host, "istio-cni"),
            7 => append(host, "linkerd-cni"),
            8 => delegate(host),
            9 => drop(fs::remove_file(host.conf().join("00-multus.conf"))),
            10 => {
                host.node.kill_agent();
                host.node.start_agent();
            }
            // An upgrade to another release: the plugin is replaced under running ADDs.
            11 => {
                let plugin = host.other_plugin(variant);
                let next = host.install(&["--plugin", plugin.to_str().unwrap()]);
                installer.terminate();
                installer = next;
                let plugin = fs::read(plugin).unwrap();
                wait("the plugin is replaced", || fs::read(host.bin().join("npc-cni")).is_ok_and(|now| now == plugin));
            }
            // An operator's rm: pods may start without the plugin until it is back.
            12 => {
                installs.fetch_add(1, Ordering::SeqCst);
                fs::remove_file(host.conf().join(OWN)).unwrap();
                host.wait_installed();
                wait("the plugin is installed", || report(host).installed);
                installs.fetch_add(1, Ordering::SeqCst);
            }
            // Broken for longer than one pass, and an installer that finds it so.
            13 => {
                let text = host.source(variant);
                fs::write(host.conf().join(SOURCE), &text[..text.len() / 2]).unwrap();
                wait("the broken source is reported", || has_alert(host, AlertReason::SourceBroken));
                installer.kill();
                installer = host.install(&[]);
                thread::sleep(Duration::from_millis(random.u64(0..200)));
                host.write_source(variant);
            }
            // Another program's file comes first for a while.
            14 => {
                installs.fetch_add(1, Ordering::SeqCst);
                let other = host.conf().join("00-a.conflist");
                fs::write(host.conf().join("00-a.new"), host.source(variant)).unwrap();
                fs::rename(host.conf().join("00-a.new"), &other).unwrap();
                wait("it is reported", || has_alert(host, AlertReason::Preempted));
                fs::remove_file(other).unwrap();
                wait("the plugin is installed", || report(host).installed);
                installs.fetch_add(1, Ordering::SeqCst);
            }
            // Another name for our file, and back.
            15 => {
                for name in [["04-npc.conflist", "06-npc.conflist"][variant % 2], OWN] {
                    installer.terminate();
                    installer = host.install(&["--cni-conf-name", name]);
                    let names = ["04-npc.conflist", OWN, "06-npc.conflist"];
                    let is_there = |other: &&&str| host.conf().join(other).exists();
                    wait("our file has the new name", || names.iter().filter(is_there).eq([&name]));
                }
            }
            // Gone and back.
            _ => {
                installs.fetch_add(1, Ordering::SeqCst);
                drop(fs::remove_file(host.conf().join("00-multus.conf")));
                let linux = json!({"kubernetes.io/os": "linux"});
                let mut going = daemon_set(&["install-cni", "npc"], &linux);
                going["metadata"]["deletionTimestamp"] = json!("2026-11-28T00:00:00Z");
                let says = match variant {
                    0 => Says::Refuses(404, "NotFound"),
                    1 => Says::Found(daemon_set(&["npc"], &linux)),
                    2 => Says::Refuses(401, "Unauthorized"),
                    3 => Says::Refuses(403, "Forbidden"),
                    4 => Says::Found(going),
                    _ => Says::Found(daemon_set(&["install-cni", "npc"], &json!({"pool": "other"}))),
                };
                host.end(installer, says);
                assert!(!host.conf().join(OWN).exists());
                installer = install(host, installs);
            }
        }
        thread::sleep(Duration::from_millis(random.u64(0..200)));
    }
    // Settled: the copy that Multus keeps follows its next file.
    if host.conf().join("00-multus.conf").exists() {
        delegate(host);
    }
    host.write_source(0);
    wait("it follows to the end", || {
        chain(host, OWN).first_chunk().is_some_and(|first: &[String; 3]| *first == ["ptp", "portmap", "npc-cni"])
    });
    let mut once = chain(host, OWN);
    once.sort();
    let all = once.len();
    once.dedup();
    assert_eq!(once.len(), all, "{:?}", chain(host, OWN));
    installs.fetch_add(1, Ordering::SeqCst);
    host.end(installer, Says::Refuses(404, "NotFound"));
    drop(fs::remove_file(host.conf().join("00-multus.conf")));
    assert_eq!(host.files(), before, "{steps:?}");
    steps
}

#[test]
fn no_pod_starts_open_and_none_is_kept_from_starting_through_random_sequences() {
    let Some(host) = Host::new(PODS + 1) else { return };
    let count = usize::try_from(number("NPC_CNI_SEQUENCES", SEQUENCES)).unwrap();
    let mut random = fastrand::Rng::with_seed(number("PROPTEST_RNG_SEED", 1));
    listen(host.node.outside(), &[9090]);
    let (is_over, installs, started, faults) =
        (AtomicBool::new(false), AtomicUsize::new(0), AtomicUsize::new(0), Faults::default());
    host.write_source(0);
    thread::scope(|scope| {
        struct Stop<'a>(&'a AtomicBool);
        impl Drop for Stop<'_> {
            fn drop(&mut self) {
                self.0.store(true, Ordering::Relaxed);
            }
        }
        let _stop = Stop(&is_over);
        for pod in 0..PODS {
            let (host, is_over, installs, started, faults) = (&host, &is_over, &installs, &started, &faults);
            scope.spawn(move || run_pods(host, &format!("web-{pod}"), is_over, installs, started, faults));
        }
        for number in 0..count {
            let steps = sequence(&host, &mut random, &installs);
            eprintln!("{number}: {}", steps.join(", "));
            faults.assert_none();
            // The node starts pods as before npc.
            let mut last = host.sandbox(&format!("web-{PODS}"));
            host.add(&mut last).unwrap();
            assert!(!last.is_ours);
            host.delete(&last).unwrap();
            last.remove();
        }
    });
    faults.assert_none();
    eprintln!("{} pods started isolated", started.load(Ordering::Relaxed));
    assert!(started.load(Ordering::Relaxed) > count, "pods came and went meanwhile");
}
