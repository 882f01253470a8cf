//! What holds of pods that the agent could not save for the next one: the node's `/run` is full.

use std::fs::{self, File};
use std::io::Write as _;
use std::path::PathBuf;

use nix::mount::{MntFlags, MsFlags, mount, umount2};
use serde_json::json;

use super::node::{Mode, Node, OUTSIDE, binary, wait};
use super::traffic::{listen, passes, reaches};
use super::{addresses, is_isolated, objects};

/// A small file system where the agent and the plugin have their files.
struct SmallFolder(PathBuf);

impl SmallFolder {
    /// One that is too small for the room that an agent keeps for what it saves.
    fn of(node: &Node) -> Self {
        Self::with_size(node, "64k")
    }

    fn with_size(node: &Node, size: &str) -> Self {
        let folder = node.socket().parent().unwrap().to_owned();
        fs::create_dir_all(&folder).unwrap();
        mount(Some("tmpfs"), &folder, Some("tmpfs"), MsFlags::empty(), Some(&*format!("size={size},mode=700")))
            .unwrap();
        Self(folder)
    }

    fn fill(&self) {
        let mut filler = File::create(self.0.join("ready")).unwrap();
        while filler.write_all(&[0; 4096]).is_ok() {}
    }

    fn make_room(&self) {
        fs::remove_file(self.0.join("ready")).unwrap();
    }
}

impl Drop for SmallFolder {
    fn drop(&mut self) {
        let _ = umount2(&self.0, MntFlags::MNT_DETACH);
    }
}

fn status(node: &Node) -> String {
    node.netns().exec([binary("npc").to_str().unwrap(), "status"], "").unwrap()
}

/// It starts with its policies. The next agent knows it by the address that the API lists, and not before.
#[test]
fn a_pod_that_cannot_be_saved_is_open_after_a_restart_until_its_address_is_listed() {
    let Some(node) = Node::new(Mode::Routed, "nft") else { return };
    let small = SmallFolder::of(&node);
    node.write(&objects(&["web"]));
    node.start_agent();
    node.wait_ready();
    assert!(!status(&node).contains("cannot be saved"));
    listen(node.outside(), &[8080, 9090]);
    small.fill();
    let to = addresses(OUTSIDE)[0];
    let mut web = node.sandbox("web", json!([]));
    node.add(&mut web).unwrap();
    assert!(!passes(&web.netns, to, 9090) && reaches(&web.netns, to, 8080));
    // In each round the agent reads notes, and tries to save again.
    let notes = small.0.join("notes");
    fs::create_dir_all(&notes).unwrap();
    for round in 0..3 {
        let empty = notes.join(format!("{round}@eth0.json"));
        File::create(&empty).unwrap();
        wait("the agent removes what is no note", || !empty.exists());
    }
    let words = "cannot save what CNI reported";
    assert_eq!(node.log().matches(words).count(), 1, "it says so once");
    assert!(status(&node).contains("what the plugin reported cannot be saved"));
    // A restart in that time forgets the pod.
    node.kill_agent();
    node.start_agent();
    node.wait_ready();
    assert!(reaches(&web.netns, to, 9090), "it is open, as docs/limits.md says");
    let mut listed = objects(&["web"]);
    for address in web.addresses() {
        match address {
            std::net::IpAddr::V4(address) => listed.pods[0].ipv4 = Some(address),
            std::net::IpAddr::V6(address) => listed.pods[0].ipv6 = Some(address),
        }
    }
    node.write(&listed);
    wait("it is isolated by the address that the API lists", || !passes(&web.netns, to, 9090));
    assert!(reaches(&web.netns, to, 8080));
    node.kill_agent();
}

/// A DEL of such a pod ends it as any other's, and what is written when there is room again is right.
#[test]
fn a_pod_that_cannot_be_saved_has_its_del() {
    let Some(node) = Node::new(Mode::Routed, "nft") else { return };
    let small = SmallFolder::of(&node);
    node.write(&objects(&["web", "db"]));
    node.start_agent();
    node.wait_ready();
    small.fill();
    let [mut web, mut db] = ["web", "db"].map(|name| node.sandbox(name, json!([])));
    node.add(&mut web).unwrap();
    node.add(&mut db).unwrap();
    let is_held = |pod: &super::node::Pod| pod.addresses().into_iter().any(|address| is_isolated(&node, address));
    assert!(is_held(&web) && is_held(&db));
    node.delete(&web).unwrap();
    wait("the address of the removed pod leaves the sets", || !is_held(&web));
    assert!(is_held(&db));
    small.make_room();
    wait("it is saved again", || node.log().contains("what CNI reported is saved again"));
    // Without an agent, the plugin leaves a note of the one that is saved, and none of the other.
    node.kill_agent();
    node.delete_own(&web).unwrap();
    let notes = || fs::read_dir(small.0.join("notes")).map_or(0, Iterator::count);
    assert_eq!(notes(), 0);
    node.delete_own(&db).unwrap();
    assert_eq!(notes(), 1);
    node.start_agent();
    node.wait_ready();
    node.delete(&db).unwrap();
    wait("the address of the other leaves the sets", || !is_held(&db));
    node.kill_agent();
}

/// The agent has kept room for what it saves, so the next one knows as much.
#[test]
fn what_happens_while_the_file_system_is_full_survives_the_agent() {
    let Some(node) = Node::new(Mode::Routed, "nft") else { return };
    let small = SmallFolder::with_size(&node, "2m");
    node.write(&objects(&["web", "db", "old"]));
    node.start_agent();
    node.wait_ready();
    listen(node.outside(), &[8080, 9090]);
    let to = addresses(OUTSIDE)[0];
    let mut old = node.sandbox("old", json!([]));
    node.add(&mut old).unwrap();
    small.fill();
    let is_held = |pod: &super::node::Pod| pod.addresses().into_iter().any(|address| is_isolated(&node, address));
    // Another agent starts on the full file system, too.
    for name in ["web", "db"] {
        let mut pod = node.sandbox(name, json!([]));
        node.add(&mut pod).unwrap();
        if is_held(&old) {
            node.delete(&old).unwrap();
        }
        assert!(!status(&node).contains("cannot be saved"));
        node.kill_agent();
        node.start_agent();
        node.wait_ready();
        assert!(!passes(&pod.netns, to, 9090) && reaches(&pod.netns, to, 8080), "{name}");
        wait("the address of the removed pod leaves the sets", || !is_held(&old));
    }
    node.kill_agent();
}
