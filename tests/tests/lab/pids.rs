//! A node without free process ids: the agent goes on, or ends in words.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

use std::fs;
use std::io::{BufRead as _, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStderr, Command, Stdio};
use std::sync::mpsc::{self, Receiver};
use std::thread;
use std::time::Duration;

use npc_tests::lab::Enforcer;
use npc_tests::skip::{Lack, skipped};

/// How long an agent may be silent while something is expected of it. Longer than the agent
/// waits for a program that hangs.
const PATIENCE: Duration = Duration::from_secs(90);

/// A group of so many processes at most, threads included.
struct Cgroup(PathBuf);

impl Cgroup {
    fn new(name: &str) -> Option<Self> {
        let make = |root: &str| {
            let folder = Path::new(root).join(format!("npc-test-{}-{name}", std::process::id()));
            fs::create_dir(&folder).ok()?;
            let group = Self(folder);
            group.0.join("pids.max").exists().then_some(group)
        };
        let group = make("/sys/fs/cgroup/pids").or_else(|| make("/sys/fs/cgroup"));
        if group.is_none() {
            skipped(Lack::Pids, &"no cgroup can be made here that has pids.max");
        }
        group
    }

    fn limit(&self, most: &str) {
        fs::write(self.0.join("pids.max"), most).unwrap();
    }
}

impl Drop for Cgroup {
    fn drop(&mut self) {
        // A process that was killed may be in it for a moment.
        while fs::remove_dir(&self.0).is_err_and(|error| error.kind() == std::io::ErrorKind::ResourceBusy) {
            thread::yield_now();
        }
    }
}

/// An agent in such a group.
struct Agent {
    child: Child,
    log: Receiver<String>,
}

impl Agent {
    fn start(npc: &Path, group: &Cgroup, folder: &Path) -> Self {
        let into = format!("echo $$ >{}/cgroup.procs && exec \"$0\" \"$@\"", group.0.display());
        let mut command = Command::new("sh");
        command.arg("-c").arg(into).arg(npc).args(["agent", "--node", "node-1", "--backend", "nft", "--manifests"]);
        command.arg(folder).args(["--metrics-address", "off"]);
        let mut child = command.stderr(Stdio::piped()).spawn().unwrap();
        let log = lines(child.stderr.take().unwrap());
        Self { child, log }
    }

    /// Whether one of the threads is there that wait for packets on their way.
    fn has_passing_threads(&self) -> bool {
        let threads = fs::read_dir(format!("/proc/{}/task", self.child.id())).unwrap();
        let names = threads.filter_map(|thread| fs::read_to_string(thread.ok()?.path().join("comm")).ok());
        names.into_iter().any(|name| ["npc-visit", "npc-barrier"].contains(&name.trim()))
    }

    /// Waits for a line with one of these words; nothing if the agent ends before. All that it
    /// has said since is appended.
    fn wait_for(&self, words: &[&str], said: &mut String) -> Option<()> {
        loop {
            match self.log.recv_timeout(PATIENCE) {
                Ok(line) => {
                    said.push_str(&line);
                    said.push('\n');
                    if words.iter().any(|words| line.contains(words)) {
                        return Some(());
                    }
                }
                Err(mpsc::RecvTimeoutError::Disconnected) => return None,
                Err(mpsc::RecvTimeoutError::Timeout) => panic!("it hangs, and has said:\n{said}"),
            }
        }
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The lines of a log, from a thread of this process.
fn lines(log: ChildStderr) -> Receiver<String> {
    let (sender, lines) = mpsc::channel();
    thread::spawn(move || BufReader::new(log).lines().map_while(Result::ok).try_for_each(|line| sender.send(line)));
    lines
}

const POLICY: &str = "apiVersion: networking.k8s.io/v1\nkind: NetworkPolicy\nmetadata: {name: NAME, namespace: shop}\n\
                      spec: {podSelector: {}}\n---\napiVersion: v1\nkind: Pod\nmetadata: {name: db, namespace: shop}\n\
                      spec: {nodeName: node-1, containers: [{name: c, image: i}]}\n\
                      status: {podIPs: [{ip: 10.244.1.1}]}\n";

fn folder() -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("db.yaml"), POLICY.replace("NAME", "db")).unwrap();
    nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWNET).unwrap();
    folder
}

#[test]
fn an_agent_goes_on_when_no_process_id_is_left_and_follows_when_there_is_again() {
    let Some(Enforcer::Agent(npc)) = Enforcer::for_test() else { return };
    let Some(group) = Cgroup::new("life") else { return };
    let folder = folder();
    let agent = Agent::start(&npc, &group, folder.path());
    let mut said = String::new();
    agent.wait_for(&["programmed ruleset"], &mut said).expect("it runs on");
    // None; one, for a program and no thread beside it; two.
    for (round, left) in [0, 1, 2].into_iter().enumerate() {
        // Threads that end by themselves are no part of what runs on.
        while agent.has_passing_threads() {
            thread::yield_now();
        }
        let running: u32 = fs::read_to_string(group.0.join("pids.current")).unwrap().trim().parse().unwrap();
        group.limit(&(running + left).to_string());
        fs::write(folder.path().join("db.yaml"), POLICY.replace("NAME", &format!("p{round}"))).unwrap();
        agent.wait_for(&["programmed ruleset", "ruleset not programmed"], &mut said).expect("it goes on");
        if left == 0 {
            for _ in 0..2 {
                agent.wait_for(&["ruleset not programmed"], &mut said).expect("it goes on");
            }
            assert!(said.contains("Resource temporarily unavailable"), "{said}");
        }
        group.limit("max");
        fs::write(folder.path().join("db.yaml"), POLICY.replace("NAME", &format!("q{round}"))).unwrap();
        agent.wait_for(&["programmed ruleset"], &mut said).expect("it goes on");
    }
    assert!(!said.contains("panicked"), "{said}");
}

#[test]
fn an_agent_that_gets_no_process_id_at_its_start_ends_in_words() {
    let Some(Enforcer::Agent(npc)) = Enforcer::for_test() else { return };
    let Some(group) = Cgroup::new("start") else { return };
    let folder = folder();
    let (mut ended, mut went_on) = (0, 0);
    for most in 1..12 {
        group.limit(&most.to_string());
        let mut agent = Agent::start(&npc, &group, folder.path());
        let mut said = String::new();
        match agent.wait_for(&["programmed ruleset", " ready ", "ruleset not programmed"], &mut said) {
            Some(()) => went_on += 1,
            None => {
                let code = agent.child.wait().unwrap().code();
                assert_eq!(code, Some(1), "{most}: {said}");
                assert!(said.contains("process id") || said.contains("Resource temporarily"), "{most}: {said}");
                ended += 1;
            }
        }
    }
    assert!(ended > 0 && went_on > 0, "{ended} {went_on}");
}
