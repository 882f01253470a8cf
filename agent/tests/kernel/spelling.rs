//! Versions of iptables that print a rule otherwise than it was written.

use nix::sys::signal::Signal;
use npc_agent::dataplane::backend::Backend;
use serde_json::Value;

use super::agent::{Agent, Folder};
use super::namespace::{Namespace, output, run, write_program};
use super::{dump, on_both_backends};

on_both_backends!(two_blanks_before_a_prefix_are_no_drift, what_a_version_prints_otherwise_is_named_once_and_no_drift,);

/// In front of the real commands, some that print otherwise: what they print goes
/// through this program of sed.
fn printing(folder: &Folder, backend: Backend, sed: &str) -> String {
    for family in ["iptables", "ip6tables"] {
        for part in ["", "-save", "-restore"] {
            let name = format!("{family}-{backend}{part}");
            let real = output("which", &[&name]);
            let wrapper = folder.path(&name);
            // The process stays the one that writes, by which the kernel knows it.
            let script = format!("#!/bin/bash\nexec {} \"$@\" > >(exec sed -u '{sed}')\n", real.trim());
            write_program(&wrapper, &script);
        }
    }
    let folder = folder.path("").display().to_string();
    format!("{folder}:{}", std::env::var("PATH").unwrap())
}

/// The names of what was found, once that is as it was.
fn repaired(agent: &mut Agent) -> Vec<String> {
    agent.repaired().iter().map(|entry| entry["name"].as_str().unwrap().to_owned()).collect()
}

fn flush(backend: Backend) {
    run(&format!("iptables-{backend}"), &["-F", "NPC-DENY-INGRESS"]);
}

/// As iptables 1.8.7 does.
fn two_blanks_before_a_prefix_are_no_drift(backend: Backend) {
    let _namespace = Namespace::enter();
    let folder = Folder::new();
    let path = printing(&folder, backend, "s/--nflog-prefix /--nflog-prefix  /");
    let start = || Agent::start_with(&folder, backend, &["--log-denied"], &[("PATH", &path)]);
    let mut agent = start();
    agent.wait(1);
    let enforced = dump(backend);
    assert!(enforced.iter().any(|line| line.contains("--nflog-prefix")));
    flush(backend);
    assert_eq!(repaired(&mut agent), ["NPC-DENY-INGRESS"]);
    agent.end(Signal::SIGTERM);
    let mut agent = start();
    assert_eq!(agent.wait(1), "nothing");
    assert_eq!(dump(backend), enforced);
}

const OTHERWISE: &str = "s/--ctstate ESTABLISHED -j/--ctstate established -j/";

fn what_a_version_prints_otherwise_is_named_once_and_no_drift(backend: Backend) {
    let _namespace = Namespace::enter();
    let folder = Folder::new();
    let path = printing(&folder, backend, OTHERWISE);
    let start = || Agent::start_with(&folder, backend, &[], &[("PATH", &path)]);
    let mut agent = start();
    let mut logged = Vec::new();
    let mut warnings_until = |agent: &mut Agent, is_end: &dyn Fn(&Value) -> bool| {
        loop {
            let entry = agent.entry(|entry| is_end(entry) || entry["level"] == "WARN");
            if is_end(&entry) {
                return;
            }
            logged.push(entry);
        }
    };
    // With legacy it is found out when what was written is read back, with nft in the
    // first audit; once in each family.
    warnings_until(&mut agent, &|entry| entry["generation"].as_u64() == Some(1));
    let enforced = dump(backend);
    flush(backend);
    warnings_until(&mut agent, &|entry| entry.to_string().contains("drift repaired"));
    let otherwise = logged.iter().filter(|entry| entry.to_string().contains("prints some rules differently"));
    let printed: Vec<&str> = otherwise.map(|entry| entry["printed"].as_str().unwrap()).collect();
    assert_eq!(printed, ["-m conntrack --ctstate established -j RETURN"; 2]);
    let drifted = logged.iter().filter(|entry| entry.to_string().contains("drift found"));
    assert_eq!(drifted.map(|entry| entry["name"].as_str().unwrap()).collect::<Vec<_>>(), ["NPC-DENY-INGRESS"]);
    // A real change of the same chain is found, and that of no other.
    run(&format!("iptables-{backend}"), &["-R", "NPC-FORWARD", "1", "-s", "192.0.2.7", "-j", "ACCEPT"]);
    assert_eq!(repaired(&mut agent), ["NPC-FORWARD"]);
    assert_eq!(dump(backend), enforced);
    agent.end(Signal::SIGTERM);
    let mut agent = start();
    assert_eq!(agent.wait(1), "nothing");
    assert_eq!(dump(backend), enforced);
}

/// Where it cannot be found out how rules are printed: the chain in which that is
/// tried is printed as it is written, the others are not.
#[test]
fn a_repair_that_does_not_help_three_times_is_given_up_for_a_while() {
    let _namespace = Namespace::enter();
    let folder = Folder::new();
    let path = printing(&folder, Backend::Nft, &format!("/NPC-PROBE/!{OTHERWISE}"));
    let mut agent = Agent::start_with(&folder, Backend::Nft, &[], &[("PATH", &path)]);
    agent.wait(1);
    let enforced = dump(Backend::Nft);
    let mut found = Vec::new();
    for _ in 0..6 {
        flush(Backend::Nft);
        found.push(repaired(&mut agent));
    }
    let times = |names: &[String]| names.iter().filter(|name| *name == "NPC-FORWARD").count();
    let of_forward: Vec<usize> = found.iter().map(|names| times(names)).collect();
    assert_eq!(of_forward, [2, 2, 2, 0, 0, 0], "{found:?}");
    // Meanwhile a real change is found.
    run("iptables-nft", &["-I", "NPC-FORWARD", "-s", "192.0.2.7", "-j", "ACCEPT"]);
    assert!(repaired(&mut agent).contains(&"NPC-FORWARD".to_owned()));
    assert_eq!(dump(Backend::Nft), enforced);
}
