//! An agent that is told a name that no node has, and files with a kind that no API server has.

use std::fs;
use std::process::Command;

use nix::sys::signal::Signal;
use npc_agent::dataplane::backend::Backend;

use super::agent::{Agent, Folder, PASSES, wait_ready};
use super::dump;
use super::metrics::Scrape;
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

/// It may be a policy that isolates a pod.
#[test]
fn a_misspelt_kind_is_counted_and_shown_until_it_is_corrected() {
    let _namespace = Namespace::enter();
    let folder = Folder::new();
    let mut agent = Agent::start(&folder, Backend::Nft, &[]);
    agent.wait(1);
    let count = || Scrape::now().count("npc_manifest_errors");
    let status = |more: &[&str]| {
        let output = Command::new(env!("CARGO_BIN_EXE_npc")).arg("status").args(more).output().unwrap();
        String::from_utf8(output.stdout).unwrap()
    };
    let errors = || {
        let status: serde_json::Value = serde_json::from_str(&status(&["-o", "json"])).unwrap();
        status["manifestErrors"].as_array().unwrap().clone()
    };
    assert_eq!((count(), errors().len()), (0, 0));
    let policy = "apiVersion: networking.k8s.io/v1\nkind: NetworkPolicy\nmetadata: {name: late, namespace: shop}\nspec: \
                  {podSelector: {matchLabels: {app: web}}}\n";
    folder.write("late.yaml", &policy.replace("kind: NetworkPolicy", "kind: NetworkPolicyy"));
    let entry = agent.wait_for("NetworkPolicyy");
    assert_eq!(entry["level"].as_str(), Some("ERROR"));
    assert_eq!(count(), 1);
    let [error] = &errors()[..] else { panic!("one error") };
    assert!(error["location"].as_str().unwrap().ends_with("late.yaml:2:1"), "{error}");
    assert!(error["problem"].as_str().unwrap().contains("NetworkPolicyy"), "{error}");
    assert_eq!(error["code"], "document-unreadable", "{error}");
    assert!(entry["message"].as_str().unwrap().contains(error["problem"].as_str().unwrap()), "{entry} {error}");
    let text = status(&[]);
    assert!(text.contains("not read of the files:") && text.contains("late.yaml:2:1: "), "{text}");
    // The other files go on meanwhile.
    folder.write_pod("web-9", "web", 9);
    agent.wait(1);
    assert_eq!((count(), errors().len()), (1, 1));
    folder.write("late.yaml", policy);
    agent.wait(1);
    assert_eq!((count(), errors().len()), (0, 0));
    assert!(!status(&[]).contains("not read of the files:"));
    agent.end(Signal::SIGTERM);
}
