//! An agent that is told a name that no node has.

use std::fs;
use std::process::Command;

use nix::sys::signal::Signal;
use npc_agent::dataplane::backend::Backend;

use super::agent::{Agent, Folder, PASSES, wait_ready};
use super::dump;
use super::namespace::Namespace;

/// An agent of a node of this name, with these arguments too.
fn start(folder: &Folder, node: &str, more: &[&str]) -> Agent {
    let mut command = Command::new(env!("CARGO_BIN_EXE_npc"));
    command.args(["agent", "--node", node, "--log-format", "json", "--backend", "nft", "--manifests"]);
    // Also the passes that wrote nothing.
    command.env("NPC_LOG", PASSES);
    command.arg(folder.manifests()).arg("--ready-file").arg(folder.path("ready")).args(more);
    Agent::run(&mut command)
}

/// Files need not have Nodes; pods say which node they are on.
#[test]
fn a_node_that_no_file_names_opens_nothing_and_is_logged() {
    let _namespace = Namespace::enter();
    let folder = Folder::new();
    let mut agent = start(&folder, "node-1", &[]);
    agent.wait(1);
    let enforced = dump(Backend::Nft);
    agent.end(Signal::SIGTERM);
    let mut agent = start(&folder, "node_1", &[]);
    let entry = agent.wait_for("no pod names it in spec.nodeName");
    assert_eq!(entry["level"].as_str(), Some("ERROR"));
    let words = entry["message"].as_str().unwrap();
    assert!(words.contains("named node_1") && words.contains("name node-1. Did you mean node-1?"), "{words}");
    let asked = Command::new(env!("CARGO_BIN_EXE_npc")).arg("status").output().unwrap();
    let said = String::from_utf8_lossy(&asked.stdout).into_owned();
    assert!(said.contains("NOT READY") && said.contains("Did you mean node-1?"), "{said}");
    assert_eq!((dump(Backend::Nft), folder.path("ready").exists()), (enforced.clone(), false));
    agent.end(Signal::SIGTERM);
    let mut once = start(&folder, "node_1", &["--once"]);
    let (code, said) = once.ended();
    assert_eq!(code, Some(3), "{said}");
    assert!(said.contains("Did you mean node-1?"), "{said}");
    assert_eq!(dump(Backend::Nft), enforced);
}

#[test]
fn a_node_without_pods_is_declared_or_waits_for_its_first() {
    let _namespace = Namespace::enter();
    let folder = Folder::new();
    let mut agent = start(&folder, "node-2", &[]);
    agent.wait_for("Did you mean node-1?");
    let pod = fs::read_to_string(folder.manifests().join("web-1.yaml")).unwrap();
    folder.write(
        "web-2.yaml",
        &pod.replace("web-1", "web-2").replace("node-1", "node-2").replace(".2}", ".3}").replace("::2", "::3"),
    );
    agent.wait(1);
    wait_ready(&folder.path("ready"));
    // It had pods: that the last one goes is no misspelling.
    fs::remove_file(folder.manifests().join("web-2.yaml")).unwrap();
    agent.wait(1);
    wait_ready(&folder.path("ready"));
    agent.end(Signal::SIGTERM);
    folder.write("node.yaml", "apiVersion: v1\nkind: Node\nmetadata: {name: node-2}\n");
    for node in ["node-2", "node-1"] {
        let mut agent = start(&folder, node, &[]);
        agent.wait(1);
        wait_ready(&folder.path("ready"));
        agent.end(Signal::SIGTERM);
    }
}

#[test]
fn pods_that_are_on_no_node_are_warned_of() {
    let _namespace = Namespace::enter();
    let folder = Folder::new();
    for name in ["db-1", "web-1"] {
        let file = folder.manifests().join(format!("{name}.yaml"));
        let pod = fs::read_to_string(&file).unwrap();
        fs::write(file, pod.replace("nodeName: node-1, ", "")).unwrap();
    }
    let mut agent = start(&folder, "node-1", &[]);
    let entry = agent.wait_for("says which node it is on");
    assert_eq!(entry["level"].as_str(), Some("WARN"));
    agent.wait(1);
}
