//! While no agent answers: what the settings let start, and what always ends.

use std::fs;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use serde_json::{Value, json};

use super::node::{self, Mode, Node, OUTSIDE, wait};
use super::numbered::{Numbered, Received};
use super::traffic::{listen, passes, reaches};
use super::{addresses, first, is_isolated, objects};

/// For how long a DEL of our plugin may take.
const LONGEST_DEL: Duration = Duration::from_secs(1);

/// The notes for the agent that comes next.
fn notes(node: &Node) -> Vec<Value> {
    let Ok(notes) = fs::read_dir(node.socket().with_file_name("notes")) else { return Vec::new() };
    let files = notes.map(|note| note.unwrap().path());
    let notes = files.filter(|file| file.extension().is_some_and(|extension| extension == "json"));
    notes.map(|note| serde_json::from_slice(&fs::read(note).unwrap()).unwrap()).collect()
}

/// The agent that comes finds it in a note: the API lists none of its addresses. What the pod began before ends.
#[test]
fn a_pod_that_an_open_policy_let_start_is_isolated_by_the_next_agent() {
    for backend in ["nft", "legacy"] {
        let Some(mut node) = Node::new(Mode::Routed, backend) else { return };
        node.settings = json!({"timeoutSeconds": 1, "failurePolicy": "open"});
        node.write(&objects(&["web"]));
        listen(node.outside(), &[8080, 9090]);
        let received = Received::at(node.outside(), 9091);
        let mut web = node.sandbox("web", json!([]));
        node.add(&mut web).unwrap();
        let recorded = notes(&node);
        assert_eq!(recorded.len(), 1, "{recorded:?}");
        assert_eq!([&recorded[0]["command"], &recorded[0]["name"]], ["add", "web"]);
        for to in addresses(OUTSIDE) {
            assert!(reaches(&web.netns, to, 9090), "{backend}: nothing isolates it from {to}");
        }
        let to = addresses(OUTSIDE).map(|to| SocketAddr::new(to, 9091));
        let packets = Numbered::start(&web.netns, &to);
        packets.wait_arrives(&received);
        node.start_agent();
        node.wait_ready();
        wait("its addresses are isolated", || first().into_iter().all(|own| is_isolated(&node, own)));
        for to in addresses(OUTSIDE) {
            assert!(!passes(&web.netns, to, 9090) && reaches(&web.netns, to, 8080), "{backend}: {to}");
        }
        wait("what it began before ends", || {
            let last = packets.last();
            packets.wait_goes_on();
            packets.arrived_after(last, &received).is_empty()
        });
        wait("the note is removed", || notes(&node).is_empty());
        drop(packets);
        // The runtime keeps the pod, and the agent knows it as any other.
        node.check(&web).unwrap();
        node.delete(&web).unwrap();
        wait("its addresses leave the sets", || !first().into_iter().any(|own| is_isolated(&node, own)));
    }
}

/// A DEL of our plugin, which has to be over in time. A busy machine may stop a process for longer than that, so it is
/// enough if one of three calls is.
fn delete_in_time(node: &Node, pod: &node::Pod) {
    let took = [(); 3].map(|()| {
        let begun = Instant::now();
        node.delete_own(pod).unwrap();
        begun.elapsed()
    });
    assert!(took.iter().any(|took| *took < LONGEST_DEL), "{took:?}");
}

/// A DEL does not wait for an agent that hangs, or that is not there. What the agent missed, it finds in a note.
#[test]
fn a_del_is_over_within_a_second_whatever_the_agent_does() {
    let Some(node) = Node::ready(Mode::Routed, "nft", &["web", "db"]) else { return };
    let [web, db] = ["web", "db"].map(|name| {
        let mut pod = node.sandbox(name, json!([]));
        node.add(&mut pod).unwrap();
        pod
    });
    node.signal_agent(Signal::SIGSTOP);
    delete_in_time(&node, &web);
    let left = notes(&node);
    assert_eq!(left.len(), 1, "{left:?}");
    node.delete(&web).unwrap();
    assert!(is_isolated(&node, web.addresses()[0]), "the agent is stopped");
    node.signal_agent(Signal::SIGCONT);
    wait("its addresses leave the sets", || !web.addresses().into_iter().any(|own| is_isolated(&node, own)));
    wait("the note is removed", || notes(&node).is_empty());
    for own in db.addresses() {
        assert!(is_isolated(&node, own), "{own}");
    }

    node.kill_agent();
    delete_in_time(&node, &db);
    // Nor is there a socket.
    fs::remove_file(node.socket()).unwrap();
    delete_in_time(&node, &db);
    node.delete(&db).unwrap();
    node.start_agent();
    node.wait_ready();
    wait("its addresses leave the sets", || !db.addresses().into_iter().any(|own| is_isolated(&node, own)));
}
