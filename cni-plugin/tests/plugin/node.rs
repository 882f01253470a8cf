//! A node as the plugin sees it: a runtime that calls it, and an agent that the test plays.

use std::fs;
use std::io::{BufRead as _, BufReader, Write as _};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::PathBuf;
use std::process::{Child, Command, Output, Stdio};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use npc_cni::note;
use npc_cni::protocol::{Answer, Request};
use serde_json::{Value, json};

/// What the plugin before answered.
pub(super) const PREVIOUS: &str = r#"{"cniVersion":"1.0.0","interfaces":[{"name":"eth0","mac":"0a:00:00:00:00:01","sandbox":"/run/netns/pod"}],"ips":[{"address":"10.0.0.5/24","gateway":"10.0.0.1","interface":0},{"address":"fd00::5/64","interface":0}],"routes":[{"dst":"0.0.0.0/0"}],"dns":{},"unknown":{"x":1.0e1}}"#;

/// A folder with a socket, and what the plugin is given.
pub(super) struct Node {
    _folder: tempfile::TempDir,
    pub(super) socket: PathBuf,
}

impl Node {
    pub(super) fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let socket = folder.path().join("npc/cni.sock");
        fs::create_dir(folder.path().join("npc")).unwrap();
        Self { _folder: folder, socket }
    }

    /// A network configuration with these settings; `prevResult` as the plugin before
    /// wrote it.
    pub(super) fn configuration(&self, version: &str, settings: &Value, previous: Option<&str>) -> String {
        let mut text = json!({"cniVersion": version, "name": "net", "type": "npc-cni", "socket": self.socket});
        for (key, value) in settings.as_object().unwrap() {
            text[key] = value.clone();
        }
        let text = text.to_string();
        match previous {
            Some(previous) => format!("{},\"prevResult\":{previous}}}", text.strip_suffix('}').unwrap()),
            None => text,
        }
    }

    /// An agent that answers one request after another, and hands each on.
    pub(super) fn agent(&self, answers: Vec<Answer>) -> JoinHandle<Vec<Request>> {
        let listener = UnixListener::bind(&self.socket).unwrap();
        thread::spawn(move || answers.iter().map(|answer| serve(&listener.accept().unwrap().0, answer)).collect())
    }

    /// The file of an agent that knew this container, and is away.
    pub(super) fn sandboxes(&self, id: &str) {
        let sandboxes = json!([{"containerId": id, "interface": "eth0"}]);
        let text = json!({"version": 1, "sandboxes": sandboxes, "released": []}).to_string();
        fs::write(self.socket.with_file_name("sandboxes.json"), text).unwrap();
    }

    pub(super) fn notes(&self) -> Vec<Request> {
        let notes = note::read_all(&self.socket).unwrap();
        notes.into_iter().map(|(_, note)| note.unwrap().request).collect()
    }
}

pub(super) fn serve(mut stream: &UnixStream, answer: &Answer) -> Request {
    let mut line = String::new();
    BufReader::new(stream).read_line(&mut line).unwrap();
    writeln!(stream, "{}", serde_json::to_string(answer).unwrap()).unwrap();
    serde_json::from_str(&line).unwrap()
}

pub(super) const ENVIRONMENT: [(&str, &str); 5] = [
    ("CNI_CONTAINERID", "c1"),
    ("CNI_NETNS", "/var/run/netns/pod"),
    ("CNI_IFNAME", "eth0"),
    ("CNI_ARGS", "IgnoreUnknown=1;K8S_POD_NAMESPACE=shop;K8S_POD_NAME=web-0;K8S_POD_UID=u1;MORE=x"),
    ("CNI_PATH", "/opt/cni/bin"),
];

pub(super) fn start(command: &str, environment: &[(&str, &str)], input: &[u8]) -> Child {
    let mut plugin = Command::new(env!("CARGO_BIN_EXE_npc-cni"))
        .env_clear()
        .envs(environment.iter().copied())
        .env("CNI_COMMAND", command)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    // One that has read enough closes the pipe.
    let _ = plugin.stdin.take().unwrap().write_all(input);
    plugin
}

pub(super) fn call_with(command: &str, environment: &[(&str, &str)], input: &[u8]) -> Output {
    start(command, environment, input).wait_with_output().unwrap()
}

pub(super) fn call(command: &str, input: &str) -> Output {
    call_with(command, &ENVIRONMENT, input.as_bytes())
}

/// The number and the text of an error.
pub(super) fn error(output: &Output) -> (u64, String) {
    assert!(!output.status.success());
    let error: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert!(error["cniVersion"].is_string());
    (error["code"].as_u64().unwrap(), error["msg"].as_str().unwrap().to_owned())
}

/// Calls a plugin, which has to end before this much time has passed. A busy machine may stop a
/// process for longer than that, so it is enough if it ends in time at one of three calls.
pub(super) fn call_within(limit: Duration, command: &str, environment: &[(&str, &str)], input: &[u8]) -> Output {
    for _ in 0..3 {
        let mut plugin = start(command, environment, input);
        let end = Instant::now() + limit;
        while Instant::now() < end {
            if plugin.try_wait().unwrap().is_some() {
                return plugin.wait_with_output().unwrap();
            }
            thread::sleep(Duration::from_millis(1));
        }
        plugin.kill().unwrap();
        plugin.wait().unwrap();
    }
    panic!("{command} did not end within {limit:?}");
}
