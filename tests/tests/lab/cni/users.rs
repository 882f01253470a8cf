//! Which users may ask at the agent's socket.

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt as _;
use std::process::{Command, Output, Stdio};

use std::io::Write as _;

use npc_tests::skip::{Lack, skipped};
use serde_json::{Value, json};

use super::node::{Mode, Node, binary};

/// A command of another user who is root in a user namespace of its own.
const OTHER_ROOT: [&str; 7] =
    ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", "unshare", "--user", "--map-root-user"];

/// A CHECK by these words before the plugin's program; the number and the text of its error.
fn check(node: &Node, words: &[&str]) -> (u64, String) {
    let plugin = node.folder().join("npc-cni").display().to_string();
    let words: Vec<&str> = words.iter().copied().chain([&*plugin]).collect();
    let mut child = Command::new(words[0])
        .args(&words[1..])
        .envs([
            ("CNI_COMMAND", "CHECK"),
            ("CNI_CONTAINERID", "c1"),
            ("CNI_IFNAME", "eth0"),
            ("CNI_NETNS", "/run/netns/x"),
        ])
        .env("CNI_ARGS", "K8S_POD_NAMESPACE=shop;K8S_POD_NAME=web;K8S_POD_UID=uid-web")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let input = json!({"cniVersion": "1.0.0", "name": "net", "type": "npc-cni", "socket": node.socket(),
        "timeoutSeconds": 1, "prevResult": {"ips": [{"address": "10.0.0.9/24"}]}});
    child.stdin.take().unwrap().write_all(input.to_string().as_bytes()).unwrap();
    let Output { stdout, stderr, .. } = child.wait_with_output().unwrap();
    let error: Value = serde_json::from_slice(&stdout).unwrap_or_else(|error| {
        panic!("{error}: {} {}", String::from_utf8_lossy(&stdout), String::from_utf8_lossy(&stderr))
    });
    (error["code"].as_u64().unwrap(), error["msg"].as_str().unwrap().to_owned())
}

/// The mode of the folder keeps other users out. If it did not, the agent would refuse them, also one that is root in its
/// own user namespace.
#[test]
fn root_of_another_user_namespace_is_not_answered() {
    let Some(node) = Node::ready(Mode::Routed, "nft", &["web"]) else { return };
    let id = Command::new(OTHER_ROOT[0]).args(&OTHER_ROOT[1..]).args(["id", "-u"]).output().unwrap();
    if id.stdout != b"0\n" {
        skipped(Lack::Program("unshare"), &"no user may make a user namespace here");
        return;
    }
    fs::copy(binary("npc-cni"), node.folder().join("npc-cni")).unwrap();
    for path in [node.folder(), &node.folder().join("run"), node.socket().parent().unwrap(), &node.socket()] {
        fs::set_permissions(path, Permissions::from_mode(0o777)).unwrap();
    }
    let (code, message) = check(&node, &["env"]);
    assert!(code == 3 && message.contains("knows no such container"), "root is answered: {code} {message}");
    let (code, message) = check(&node, &OTHER_ROOT);
    assert!(code == 11 && message.contains("cannot be asked"), "{code} {message}");
    let log = node.log();
    assert!(log.contains("from a user other than root") && log.contains("65534"), "{log}");
}
