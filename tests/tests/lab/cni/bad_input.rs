//! What is wrong on the socket, in the kernel or on the disk hurts no other pod.

use std::collections::VecDeque;
use std::fs;
use std::io::{Read as _, Write as _};
use std::os::unix::net::UnixStream;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use npc_compiler::object::{Labels, Objects};
use serde_json::{Value, json};

use super::node::{Mode, Node, OUTSIDE, ip};
use super::same_node::host_interface;
use super::traffic::{listen, passes, reaches};
use super::{addresses, is_isolated, objects, policy_of};

/// A node with an agent that knows these pods. No policy selects the one with the name `odd`, so what were taken for
/// its own would be open.
fn ready(pods: &[&str]) -> Option<Node> {
    let node = Node::new(Mode::Routed, "nft")?;
    let policies = vec![policy_of(&json!({"matchLabels": {"app": "web"}}))];
    let mut known = Objects { policies, ..objects(pods) };
    for odd in known.pods.iter_mut().filter(|pod| pod.name == "odd") {
        odd.labels = Labels::from([("app".to_owned(), "odd".to_owned())]);
    }
    node.write(&known);
    node.start_agent();
    node.wait_ready();
    listen(node.outside(), &[8080, 9090]);
    Some(node)
}

/// What the agent answers to these bytes.
fn say(node: &Node, text: &str) -> String {
    let mut stream = UnixStream::connect(node.socket()).unwrap();
    stream.write_all(text.as_bytes()).unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    answer
}

fn add_of(container: &str, pod: &str, addresses: &Value) -> String {
    add_that_waits(container, pod, addresses, 5_000)
}

/// An ADD that waits for so many milliseconds.
fn add_that_waits(container: &str, pod: &str, addresses: &Value, wait: u32) -> String {
    let add = json!({"version": 1, "command": "add", "containerId": container, "interface": "eth0", "namespace": "shop",
        "name": pod, "uid": format!("uid-{pod}"), "addresses": addresses, "wait": wait});
    format!("{add}\n")
}

/// A pod starts, and its policies hold.
fn starts_isolated(node: &Node, name: &str) -> super::node::Pod {
    let mut pod = node.sandbox(name, json!([]));
    node.add(&mut pod).unwrap();
    let [to, _] = addresses(OUTSIDE);
    assert!(!passes(&pod.netns, to, 9090) && reaches(&pod.netns, to, 8080), "{name}");
    pod
}

#[test]
fn a_hostile_request_holds_up_no_pod() {
    let Some(node) = ready(&["web", "odd"]) else { return };
    let outside = node.folder().join("outside@eth0.json");
    fs::write(&outside, "a file of another program").unwrap();
    let path = outside.with_file_name("outside");
    let delete =
        json!({"version": 1, "command": "delete", "containerId": path.display().to_string(), "interface": "eth0"});
    // Some that hang, each with a part of a request.
    let hanging: Vec<_> = (0..100)
        .map(|_| {
            let mut stream = UnixStream::connect(node.socket()).unwrap();
            stream.write_all(b"{\"version\":1,").unwrap();
            stream
        })
        .collect();
    for request in [
        "{\"version\":1,\"command\":\"dance\"}\n".to_owned(),
        format!("{delete}\n"),
        add_of("c1", "odd", &json!(["0.0.0.0"])),
        add_of("c2", "odd", &json!(["10.0.0.9", "::"])),
        add_of("../c3", "odd", &json!(["10.0.0.9"])),
    ] {
        assert!(say(&node, &request).contains("malformed"), "{request}");
    }
    assert!(outside.exists());
    starts_isolated(&node, "web");
    drop(hanging);
}

/// How many requests a flood has at most, to be sure that the agent lets no more of them wait.
const FLOOD: usize = 8_000;

/// How long the agent has to read so many: a test may have little of a processor.
const PATIENCE: Duration = Duration::from_secs(60);

/// A request that waits for a pod that never comes.
fn flood(node: &Node, number: usize) -> UnixStream {
    let mut stream = UnixStream::connect(node.socket()).unwrap();
    let add = add_that_waits(&format!("flood-{number}"), "none", &json!(["10.0.200.1"]), 100_000);
    stream.write_all(add.as_bytes()).unwrap();
    stream.set_nonblocking(true).unwrap();
    stream
}

/// So many requests wait that the agent takes no more: the oldest give way, and a pod that starts waits for none of
/// them.
#[test]
fn a_flood_of_requests_that_wait_holds_up_no_pod() {
    let Some(node) = ready(&["web"]) else { return };
    let (_, most) = getrlimit(Resource::RLIMIT_NOFILE).unwrap();
    setrlimit(Resource::RLIMIT_NOFILE, most, most).unwrap();
    let mut waiting = VecDeque::new();
    let until = Instant::now() + PATIENCE;
    let mut has_given_way = false;
    for number in 0.. {
        assert!(Instant::now() < until, "none of {} requests gave way", waiting.len());
        if waiting.len() < FLOOD {
            waiting.push_back(flood(&node, number));
        } else {
            thread::sleep(Duration::from_millis(10));
        }
        if number % 500 == 0 || waiting.len() == FLOOD {
            waiting.retain(|mut stream: &UnixStream| {
                let mut answer = [0; 512];
                // A connection that the agent did not read in time has no answer.
                let Ok(length) = stream.read(&mut answer) else { return true };
                let text = String::from_utf8_lossy(&answer[..length]);
                has_given_way |= text.contains("timeout") && text.contains("requests wait");
                false
            });
        }
        if has_given_way {
            break;
        }
    }
    let is_over = AtomicBool::new(false);
    thread::scope(|scope| {
        scope.spawn(|| {
            for number in 2 * FLOOD.. {
                if is_over.load(Ordering::Relaxed) {
                    return;
                }
                waiting.push_back(flood(&node, number));
                waiting.pop_front();
            }
        });
        // Else this scope would not end with a test that failed.
        let started = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            let web = starts_isolated(&node, "web");
            node.check(&web).unwrap();
            node.delete(&web).unwrap();
        }));
        is_over.store(true, Ordering::Relaxed);
        started.unwrap();
    });
}

#[test]
fn a_claim_of_another_pods_address_isolates_it_and_ends_with_the_claim() {
    let Some(node) = ready(&["web", "odd"]) else { return };
    let web = starts_isolated(&node, "web");
    let [to, _] = addresses(OUTSIDE);
    let claimed: Vec<String> = web.addresses().iter().map(ToString::to_string).collect();
    assert_eq!(say(&node, &add_of("c1", "odd", &json!(claimed))).trim(), r#"{"version":1}"#);
    // Both pods run, and the interface of the first is there. Nothing tells which of them has it.
    for own in web.addresses() {
        assert!(is_isolated(&node, own), "{own}");
    }
    assert!(!passes(&web.netns, to, 9090) && !passes(&web.netns, to, 8080));
    assert!(node.log().contains("have one address"), "the log says so");
    let delete = json!({"version": 1, "command": "delete", "containerId": "c1", "interface": "eth0"});
    say(&node, &format!("{delete}\n"));
    node.check(&web).unwrap();
    assert!(!passes(&web.netns, to, 9090) && reaches(&web.netns, to, 8080));
}

/// The runtime lost the first sandbox without a DEL. The agent does not wait for its own round to find that out.
#[test]
fn an_address_whose_interface_is_gone_is_the_next_owners_at_once() {
    let Some(node) = ready(&["web", "odd"]) else { return };
    let web = starts_isolated(&node, "web");
    let claimed: Vec<String> = web.addresses().iter().map(ToString::to_string).collect();
    let (interface, _) = host_interface(&node, &web).unwrap();
    ip(&format!("-n {} link del {interface}", node.netns().name()));
    assert_eq!(say(&node, &add_of("c1", "odd", &json!(claimed))).trim(), r#"{"version":1}"#);
    for own in web.addresses() {
        assert!(!is_isolated(&node, own), "{own}");
    }
}

#[test]
fn what_comes_twice_or_for_nothing_changes_nothing() {
    let Some(node) = ready(&["web", "odd"]) else { return };
    let mut web = starts_isolated(&node, "web");
    // The runtime never made it.
    let unknown = node.sandbox("odd", json!([]));
    node.delete_own(&unknown).unwrap();
    // Ours again, as of a runtime that lost its answer.
    node.add_own(&mut web).unwrap();
    node.check(&web).unwrap();
    let [to, _] = addresses(OUTSIDE);
    assert!(!passes(&web.netns, to, 9090) && reaches(&web.netns, to, 8080));
    for _ in 0..2 {
        node.delete(&web).unwrap();
    }
}

#[test]
fn a_check_after_a_flush_fails_says_why_and_succeeds_after_the_repair() {
    let Some(node) = ready(&["web"]) else { return };
    let web = starts_isolated(&node, "web");
    node.check(&web).unwrap();
    node.netns().exec(["ipset", "flush", "npc4-egress"], "").unwrap();
    let error = node.check(&web).unwrap_err();
    assert!(error.contains("\"code\":11") && error.contains("another program had changed npc's rules"), "{error}");
    node.check(&web).unwrap();
    let [to, _] = addresses(OUTSIDE);
    assert!(!passes(&web.netns, to, 9090));
}

/// Mounts a small tmpfs where the agent and the plugin have their files.
fn small_folder(node: &Node) -> Unmount {
    let folder = node.socket().parent().unwrap().to_owned();
    fs::create_dir_all(&folder).unwrap();
    mount(Some("tmpfs"), &folder, Some("tmpfs"), MsFlags::empty(), Some("size=64k,mode=700")).unwrap();
    Unmount(folder)
}

/// Has the small folder be full.
fn fill(Unmount(folder): &Unmount) {
    let mut filler = fs::File::create(folder.join("ready")).unwrap();
    while filler.write_all(&[0; 4096]).is_ok() {}
}

#[test]
fn a_pod_starts_though_nothing_can_be_saved() {
    let Some(node) = Node::new(Mode::Routed, "nft") else { return };
    let unmount = small_folder(&node);
    node.write(&objects(&["web"]));
    node.start_agent();
    node.wait_ready();
    listen(node.outside(), &[8080, 9090]);
    fill(&unmount);
    starts_isolated(&node, "web");
    assert!(node.log().contains("cannot save what CNI reported"));
    node.kill_agent();
    drop(unmount);
}

/// The settings let it start. The agent that comes knows it by the address that the API lists.
#[test]
fn an_open_pod_that_cannot_be_recorded_starts_and_is_isolated_once_its_address_is_listed() {
    let Some(mut node) = Node::new(Mode::Routed, "nft") else { return };
    node.settings = json!({"timeoutSeconds": 1, "failurePolicy": "open"});
    let unmount = small_folder(&node);
    fs::create_dir(unmount.0.join("notes")).unwrap();
    fill(&unmount);
    listen(node.outside(), &[8080, 9090]);
    let mut web = node.sandbox("web", json!([]));
    node.add(&mut web).unwrap();
    assert_eq!(fs::read_dir(unmount.0.join("notes")).unwrap().count(), 0, "there is no half note either");
    let to = addresses(OUTSIDE)[0];
    assert!(reaches(&web.netns, to, 9090));
    let mut listed = objects(&["web"]);
    let is_v4 = |address: &std::net::IpAddr| address.is_ipv4();
    listed.pods[0].ipv4 = web.addresses().into_iter().find(is_v4).map(|address| address.to_string().parse().unwrap());
    node.write(&listed);
    node.start_agent();
    node.wait_ready();
    assert!(!passes(&web.netns, to, 9090) && reaches(&web.netns, to, 8080));
    node.kill_agent();
    drop(unmount);
}

struct Unmount(std::path::PathBuf);

impl Drop for Unmount {
    fn drop(&mut self) {
        let _ = umount2(&self.0, MntFlags::MNT_DETACH);
    }
}
