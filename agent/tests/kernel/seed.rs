//! A node's secret decides where groups stand in the dispatch tree. It is made once, and the
//! kernel keeps it.

use std::process::Command;

use nix::sys::signal::Signal;
use npc_agent::dataplane::backend::Backend;

use super::agent::{Agent, Folder, wait_ready};
use super::namespace::{Namespace, feed, output, run};
use super::{dump, on_both_backends};

on_both_backends!(a_secret_is_made_once_and_kept, a_tree_without_a_secret_gets_one);

/// No secret is given: the kernel's counts, or a new one.
const NONE: [(&str, &str); 1] = [("NPC_SEED", "")];

/// A folder with several groups, so that there is a tree.
fn folder() -> Folder {
    let folder = Folder::new();
    for n in 10..40 {
        folder.write_pod(&format!("app-{n}"), &format!("a{n}"), n);
        folder.write(
            &format!("policy-{n}.yaml"),
            &format!(
                "apiVersion: networking.k8s.io/v1\nkind: NetworkPolicy\nmetadata: {{name: a{n}, namespace: shop}}\n\
                 spec: {{podSelector: {{matchLabels: {{app: a{n}}}}}, policyTypes: [Ingress]}}\n"
            ),
        );
    }
    folder
}

/// The secret that this kernel keeps.
fn kept() -> String {
    let names = output("ipset", &["list", "-n"]);
    let mut seeds = names.lines().filter_map(|name| name.strip_prefix("npc4-seed-"));
    let seed = seeds.next().expect("the kernel keeps one").to_owned();
    assert_eq!(seeds.next(), None);
    seed
}

fn a_secret_is_made_once_and_kept(backend: Backend) {
    let folder = folder();
    let mut first = None;
    for _ in 0..2 {
        let _namespace = Namespace::enter();
        let mut agent = Agent::start_with(&folder, backend, &[], &NONE);
        agent.wait(1);
        let (seed, enforced) = (kept(), dump(backend));
        assert!(enforced.iter().any(|line| line.starts_with(":NPC-IT-")), "there is a tree");
        assert!(!enforced.iter().any(|line| line.starts_with(":NPC-IT-0") || line.starts_with(":NPC-IT-1")));
        agent.end(Signal::SIGKILL);
        let mut next = Agent::start_with(&folder, backend, &[], &NONE);
        assert_eq!(next.wait(1), "nothing");
        assert_eq!(dump(backend), enforced);
        // What another program removes is put back under the same name.
        run("ipset", &["destroy", &format!("npc4-seed-{seed}")]);
        next.repaired();
        assert_eq!((kept(), dump(backend)), (seed.clone(), enforced));
        // `compile` shows what this node has, once it knows the secret.
        let chains = |line: &&str| line.starts_with(":NPC-IT-") || line.starts_with(":NPC-IL-");
        let compiled = Command::new(env!("CARGO_BIN_EXE_npc"))
            .args(["compile", "-o", "iptables", "--node", "node-1", "--seed", &seed, "-f"])
            .arg(folder.manifests())
            .output()
            .unwrap();
        let compiled = String::from_utf8(compiled.stdout).unwrap();
        let names = |lines: Vec<&str>| {
            let names = lines.into_iter().map(|line| line.split(' ').next().unwrap().to_owned());
            names.collect::<std::collections::BTreeSet<_>>()
        };
        let actual = dump(backend);
        let actual: Vec<&str> = actual.iter().map(String::as_str).filter(chains).collect();
        assert_eq!(names(compiled.lines().filter(chains).collect()), names(actual));
        // Another node has another one.
        assert_ne!(first.replace(seed.clone()), Some(seed));
        next.end(Signal::SIGTERM);
        run(env!("CARGO_BIN_EXE_npc"), &["cleanup"]);
        assert_eq!(output("ipset", &["list", "-n"]), "");
    }
}

fn a_tree_without_a_secret_gets_one(backend: Backend) {
    let _namespace = Namespace::enter();
    let folder = folder();
    // As an agent of an earlier version leaves it: what `compile` makes without a secret.
    for program in ["ipset", "iptables", "ip6tables"] {
        let compiled = Command::new(env!("CARGO_BIN_EXE_npc"))
            .args(["compile", "-o", "iptables", "--node", "node-1", "--only", program, "-f"])
            .arg(folder.manifests())
            .output()
            .unwrap();
        let text = String::from_utf8(compiled.stdout).unwrap();
        assert!(!text.is_empty(), "{}", String::from_utf8_lossy(&compiled.stderr));
        match program {
            "ipset" => feed("ipset", &["restore"], &text),
            _ => feed(&format!("{program}-{backend}-restore"), &["--noflush"], &text),
        };
    }
    assert!(dump(backend).iter().any(|line| line.starts_with(":NPC-IT-0") || line.starts_with(":NPC-IT-1")));
    let mut agent = Agent::start_with(&folder, backend, &[], &NONE);
    assert!(agent.wait(1).contains("chains written"));
    wait_ready(&folder.ready());
    kept();
    let actual = dump(backend);
    assert!(actual.iter().any(|line| line.starts_with(":NPC-IT-")));
    assert!(
        !actual.iter().any(|line| line.starts_with(":NPC-IT-0") || line.starts_with(":NPC-IT-1")),
        "the old tree went"
    );
    agent.end(Signal::SIGTERM);
}
