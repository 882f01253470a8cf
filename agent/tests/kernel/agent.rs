//! The real `npc agent`, followed by its log.

use std::fs::{self, File};
use std::io::{self, BufRead as _, BufReader, Read as _};
use std::os::fd::AsFd as _;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStderr, Command, ExitStatus, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use npc_agent::dataplane::backend::Backend;
use serde_json::Value;
use tempfile::TempDir;

use super::namespace::{Namespace, output, run, write_program};
use super::{dump, on_both_backends};

on_both_backends!(
    ending_it_leaves_the_rules_and_the_next_one_writes_nothing,
    a_pod_in_a_known_group_writes_members_and_no_rule,
    a_file_that_breaks_keeps_what_it_held,
    nothing_is_written_before_every_file_was_good_once,
    a_kernel_that_refuses_is_asked_again,
    it_keeps_the_privileges_to_change_the_network_and_no_others,
);

/// Makes the db pods of a namespace admit only what comes from web pods.
const POLICY: &str = "apiVersion: networking.k8s.io/v1\nkind: NetworkPolicy\nmetadata: {name: db, namespace: shop}\n\
                      spec:\n  podSelector: {matchLabels: {app: db}}\n  \
                      ingress: [{from: [{podSelector: {matchLabels: {app: web}}}]}]\n";

/// What an agent logs that also logs the passes that wrote nothing.
pub(crate) const PASSES: &str = "info,npc_agent::enforce::report=debug";

/// How long an agent may be silent while something is expected of it.
const PATIENCE: Duration = Duration::from_secs(180);

/// A directory of manifests, and where the ready file is to be.
pub(crate) struct Folder(TempDir);

impl Folder {
    /// A namespace whose pods admit only what comes from web pods.
    pub(crate) fn new() -> Self {
        let folder = Self(tempfile::tempdir().unwrap());
        fs::create_dir(folder.manifests()).unwrap();
        folder.write("policy.yaml", POLICY);
        folder.write_pod("db-1", "db", 1);
        folder.write_pod("web-1", "web", 2);
        folder
    }

    pub(crate) fn manifests(&self) -> PathBuf {
        self.0.path().join("manifests")
    }

    /// Beside the manifests.
    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    pub(crate) fn ready(&self) -> PathBuf {
        self.0.path().join("ready")
    }

    /// All at once, as careful tools do.
    pub(crate) fn write(&self, name: &str, text: &str) {
        let beside = self.0.path().join("beside");
        fs::write(&beside, text).unwrap();
        fs::rename(&beside, self.manifests().join(name)).unwrap();
    }

    pub(crate) fn write_pod(&self, name: &str, app: &str, n: u8) {
        self.write(
            &format!("{name}.yaml"),
            &format!(
                "apiVersion: v1\nkind: Pod\nmetadata: {{name: {name}, namespace: shop, labels: {{app: {app}}}}}\n\
                 spec: {{nodeName: node-1, containers: [{{name: c, image: i}}]}}\n\
                 status: {{podIPs: [{{ip: 10.244.1.{n}}}, {{ip: 'fd00::{n}'}}]}}\n"
            ),
        );
    }
}

/// An agent that runs in the namespace of the thread that started it.
pub(crate) struct Agent {
    pub(crate) child: Child,
    log: BufReader<ChildStderr>,
}

impl Drop for Agent {
    fn drop(&mut self) {
        // It may have ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Agent {
    pub(crate) fn start(folder: &Folder, backend: Backend, more: &[&str]) -> Self {
        Self::start_with(folder, backend, more, &[])
    }

    pub(crate) fn start_with(folder: &Folder, backend: Backend, more: &[&str], environment: &[(&str, &str)]) -> Self {
        let mut command = Command::new(env!("CARGO_BIN_EXE_npc"));
        Self::run(Self::arguments(&mut command, folder, backend).args(more).envs(environment.iter().copied()))
    }

    /// Gives a command what an agent needs that logs in JSON.
    pub(crate) fn arguments<'a>(command: &'a mut Command, folder: &Folder, backend: Backend) -> &'a mut Command {
        command
            .args(["agent", "--node", "node-1", "--log-format", "json", "--backend", backend.as_str()])
            .args([Path::new("--manifests"), &folder.manifests(), Path::new("--ready-file"), &folder.ready()])
            .env("NPC_LOG", PASSES)
            .env("NPC_SEED", "thesameforalltst")
    }

    /// Starts a command that logs in JSON.
    pub(crate) fn run(command: &mut Command) -> Self {
        let mut child = command.stderr(Stdio::piped()).spawn().unwrap();
        let log = BufReader::new(child.stderr.take().unwrap());
        Self { child, log }
    }

    /// Its process.
    pub(crate) fn id(&self) -> u32 {
        self.child.id()
    }

    /// Lets it say what it likes from now on.
    pub(crate) fn ignore_log(&mut self) {
        let mut log = File::from(self.log.get_ref().as_fd().try_clone_to_owned().unwrap());
        thread::spawn(move || io::copy(&mut log, &mut io::sink()));
    }

    /// The next log entry for which this holds.
    pub(crate) fn entry(&mut self, wanted: impl Fn(&Value) -> bool) -> Value {
        let mut read = String::new();
        loop {
            let begin = read.len();
            if self.log.buffer().is_empty() {
                let mut files = [PollFd::new(self.log.get_ref().as_fd(), PollFlags::POLLIN)];
                let says = poll(&mut files, PollTimeout::try_from(PATIENCE).unwrap()).unwrap() > 0;
                assert!(says, "the agent has not said so for {PATIENCE:?}:\n{read}");
            }
            let ended = self.log.read_line(&mut read).unwrap() == 0;
            assert!(!ended, "the agent ended before it said so:\n{read}");
            let entry = serde_json::from_str(&read[begin..]).unwrap();
            if wanted(&entry) {
                return entry;
            }
        }
    }

    /// Waits until a state of the objects is in the kernel; what was written.
    pub(crate) fn wait(&mut self, generation: u64) -> String {
        let is_pass = |entry: &Value| entry["writes"].is_string() && entry["generation"].as_u64() >= Some(generation);
        self.entry(is_pass)["writes"].as_str().unwrap().to_owned()
    }

    /// Waits until it says something with these words.
    pub(crate) fn wait_for(&mut self, words: &str) -> Value {
        self.entry(|entry| entry.to_string().contains(words))
    }

    /// Waits until drift is repaired; what was found.
    pub(crate) fn repaired(&mut self) -> Vec<Value> {
        let mut found = Vec::new();
        loop {
            let entry = self.entry(|entry| {
                let text = entry.to_string();
                text.contains("drift found") || text.contains("drift repaired")
            });
            if entry.to_string().contains("drift repaired") {
                return found;
            }
            found.push(entry);
        }
    }

    /// Waits for its end; its exit code, and what it has said since.
    pub(crate) fn ended(&mut self) -> (Option<i32>, String) {
        let mut said = String::new();
        self.log.read_to_string(&mut said).unwrap();
        (self.child.wait().unwrap().code(), said)
    }

    pub(crate) fn end(&mut self, signal: Signal) -> ExitStatus {
        kill(Pid::from_raw(self.child.id().try_into().unwrap()), signal).unwrap();
        self.child.wait().unwrap()
    }
}

/// In front of the real restore command, one that refuses while a file is
/// there.
pub(crate) struct Refusing {
    path: String,
    refuses: PathBuf,
}

impl Refusing {
    pub(crate) fn new(folder: &Folder, backend: Backend) -> Self {
        let restore = format!("iptables-{backend}-restore");
        let (wrapper, refuses) = (folder.path(&restore), folder.path("refuses"));
        let real = output("which", &[&restore]);
        let script =
            format!("#!/bin/sh\n[ -e {} ] && {{ echo not today >&2; exit 1; }}\nexec {real}", refuses.display());
        write_program(&wrapper, &(script.trim_end().to_owned() + " \"$@\"\n"));
        fs::write(&refuses, "").unwrap();
        let path = format!("{}:{}", folder.0.path().display(), std::env::var("PATH").unwrap());
        Self { path, refuses }
    }

    /// Starts an agent that is refused.
    pub(crate) fn start(&self, folder: &Folder, backend: Backend) -> Agent {
        Agent::start_with(folder, backend, &[], &[("PATH", &self.path)])
    }

    /// Refuses no more.
    pub(crate) fn lift(&self) {
        fs::remove_file(&self.refuses).unwrap();
    }
}

/// The jump is there.
pub(crate) fn is_hooked(backend: Backend) -> bool {
    dump(backend).contains(&"-A FORWARD -j NPC-FORWARD".to_owned())
}

pub(crate) fn ready(folder: &Folder) -> Option<String> {
    fs::read_to_string(folder.ready()).ok()
}

fn ending_it_leaves_the_rules_and_the_next_one_writes_nothing(backend: Backend) {
    let _namespace = Namespace::enter();
    let folder = Folder::new();
    let mut agent = Agent::start(&folder, backend, &[]);
    assert!(agent.wait(1).contains("chains written"));
    wait_count(&folder, 1);
    let enforced = dump(backend);
    assert!(is_hooked(backend));
    for signal in [Signal::SIGTERM, Signal::SIGINT] {
        assert_eq!(agent.end(signal).code(), Some(0));
        assert_eq!(dump(backend), enforced);
        agent = Agent::start(&folder, backend, &[]);
        assert_eq!(agent.wait(1), "nothing");
        assert_eq!(dump(backend), enforced);
    }
    agent.end(Signal::SIGKILL);
    assert_eq!(dump(backend), enforced);
}

fn a_pod_in_a_known_group_writes_members_and_no_rule(backend: Backend) {
    let _namespace = Namespace::enter();
    let folder = Folder::new();
    let mut agent = Agent::start(&folder, backend, &[]);
    agent.wait(1);
    folder.write_pod("web-2", "web", 3);
    assert_eq!(agent.wait(2), "2 members added");
    wait_count(&folder, 2);
    fs::remove_file(folder.manifests().join("web-1.yaml")).unwrap();
    assert_eq!(agent.wait(3), "2 members removed");
    let sets = output("ipset", &["save"]);
    assert!(sets.contains(" 10.244.1.3\n") && !sets.contains(" 10.244.1.2\n"), "{sets}");
    // The kernel's own news are handled, and nothing depends on them here.
    run("ip", &["address", "add", "192.0.2.1/32", "dev", "lo"]);
    assert_eq!(agent.wait(3), "nothing");
    wait_count(&folder, 3);
}

fn a_file_that_breaks_keeps_what_it_held(backend: Backend) {
    let _namespace = Namespace::enter();
    let folder = Folder::new();
    let mut agent = Agent::start(&folder, backend, &[]);
    agent.wait(1);
    let enforced = dump(backend);
    folder.write("policy.yaml", "apiVersion: networking.k8s.io/v1\nkind: [NetworkPolicy\n");
    agent.wait_for("policy.yaml:2:");
    // The others go on.
    folder.write_pod("db-2", "db", 4);
    agent.wait(2);
    let grown = dump(backend);
    assert!(grown.contains(&"add npc4-ingress 10.244.1.4".to_owned()), "{grown:#?}");
    fs::remove_file(folder.manifests().join("db-2.yaml")).unwrap();
    agent.wait(3);
    assert_eq!(dump(backend), enforced);
}

fn nothing_is_written_before_every_file_was_good_once(backend: Backend) {
    let _namespace = Namespace::enter();
    let folder = Folder::new();
    let good = fs::read_to_string(folder.manifests().join("policy.yaml")).unwrap();
    folder.write("policy.yaml", "kind: {");
    let mut agent = Agent::start(&folder, backend, &[]);
    agent.wait_for("nothing is written to the kernel before");
    assert!(!dump(backend).iter().any(|line| line.starts_with("-A ")));
    assert_eq!(ready(&folder), None);
    folder.write("policy.yaml", &good);
    agent.wait(1);
    assert!(is_hooked(backend));
}

fn a_kernel_that_refuses_is_asked_again(backend: Backend) {
    let _namespace = Namespace::enter();
    let folder = Folder::new();
    let refusing = Refusing::new(&folder, backend);
    let mut agent = refusing.start(&folder, backend);
    let entry = agent.wait_for("ruleset not programmed");
    let error = entry["error"].as_str().unwrap();
    assert!(error.contains("not today"), "{error}");
    // The other family's command refuses nothing.
    let forward = || output(&format!("iptables-{backend}"), &["-S", "FORWARD"]);
    assert!(!forward().contains("NPC-FORWARD"));
    assert_eq!(ready(&folder), None);
    refusing.lift();
    agent.wait(1);
    assert!(forward().contains("NPC-FORWARD"));
    wait_count(&folder, 1);
}

#[test]
fn a_directory_without_files_says_nothing_before_there_was_one() {
    let _namespace = Namespace::enter();
    let folder = Folder::new();
    Agent::start(&folder, Backend::Nft, &[]).wait(1);
    let enforced = dump(Backend::Nft);
    let files: Vec<PathBuf> = fs::read_dir(folder.manifests()).unwrap().map(|entry| entry.unwrap().path()).collect();
    let remove = || files.iter().for_each(|file| fs::remove_file(file).unwrap());
    remove();
    let mut agent = Agent::start(&folder, Backend::Nft, &[]);
    let entry = agent.wait_for("nothing is written to the kernel before");
    assert_eq!(entry["level"].as_str(), Some("WARN"));
    assert_eq!((dump(Backend::Nft), ready(&folder)), (enforced, None));
    folder.write_pod("web-1", "web", 2);
    agent.wait(1);
    folder.write("policy.yaml", POLICY);
    folder.write_pod("db-1", "db", 1);
    let isolated = |line: &String| line == "add npc4-ingress 10.244.1.1";
    let mut generation = 2;
    while !dump(Backend::Nft).iter().any(isolated) {
        agent.wait(generation);
        generation += 1;
    }
    // Another directory in its place, without objects, changes nothing.
    let away = folder.manifests().with_extension("away");
    fs::rename(folder.manifests(), &away).unwrap();
    fs::create_dir(folder.manifests()).unwrap();
    let entry = agent.wait_for("the last objects stay in force");
    assert_eq!(entry["level"].as_str(), Some("ERROR"));
    assert!(dump(Backend::Nft).iter().any(isolated));
    wait_ready(&folder.ready());
    // The files are back, and are followed.
    fs::remove_dir(folder.manifests()).unwrap();
    fs::rename(&away, folder.manifests()).unwrap();
    agent.wait_for("the directory of manifests holds objects again");
    // An operator may mean it.
    drop(agent);
    remove();
    let mut agent = Agent::start(&folder, Backend::Nft, &["--allow-empty"]);
    agent.wait(1);
    assert!(!dump(Backend::Nft).iter().any(isolated));
}

#[test]
fn it_is_not_ready_while_ipvs_delivers_services() {
    let _namespace = Namespace::enter();
    // A dummy on a real node; what kind it is does not matter.
    let add = || run("ip", &["link", "add", "kube-ipvs0", "type", "veth", "peer", "name", "peer0"]);
    add();
    let folder = Folder::new();
    let mut agent = Agent::start(&folder, Backend::Nft, &[]);
    agent.wait_for("kube-ipvs0 exists");
    agent.wait(1);
    assert_eq!(ready(&folder), None);
    assert!(is_hooked(Backend::Nft), "the rules are there all the same");
    run("ip", &["link", "del", "kube-ipvs0"]);
    agent.wait(1);
    wait_count(&folder, 1);
    add();
    agent.wait(1);
    assert_eq!(ready(&folder), None);
    agent.end(Signal::SIGTERM);
    let mut once = Agent::start(&folder, Backend::Nft, &["--once"]);
    assert_eq!(once.child.wait().unwrap().code(), Some(1));
}

#[test]
fn once_writes_and_ends_and_the_exit_code_says_that_input_is_bad() {
    let _namespace = Namespace::enter();
    let folder = Folder::new();
    let mut agent = Agent::start(&folder, Backend::Nft, &["--once"]);
    assert_eq!(agent.child.wait().unwrap().code(), Some(0));
    let enforced = dump(Backend::Nft);
    assert!(is_hooked(Backend::Nft));
    folder.write("broken.yaml", "kind: {");
    let mut agent = Agent::start(&folder, Backend::Nft, &["--once"]);
    agent.wait_for("npc agent starts");
    assert_eq!(agent.child.wait().unwrap().code(), Some(2));
    assert_eq!(dump(Backend::Nft), enforced);
    let mut agent = Agent::start(&folder, Backend::Nft, &["--nonsense"]);
    assert_eq!(agent.child.wait().unwrap().code(), Some(2));
}

#[test]
fn what_is_not_understood_of_a_policy_is_logged_with_its_place() {
    let _namespace = Namespace::enter();
    let folder = Folder::new();
    folder.write(
        "odd.yaml",
        "apiVersion: networking.k8s.io/v1\nkind: NetworkPolicy\nmetadata: {name: odd, namespace: shop}\nspec:\n  \
         podSelector: {}\n  ingress:\n  - from:\n    - ipBlock: {cidr: 10.0.0.300/8}\n",
    );
    let mut agent = Agent::start(&folder, Backend::Nft, &["--once"]);
    let entry = agent.wait_for("spec.ingress[0].from[0].ipBlock.cidr");
    let message = entry["message"].as_str().unwrap();
    assert!(message.contains("odd.yaml:8:17: networkpolicy shop/odd"), "{message}");
    assert_eq!(agent.child.wait().unwrap().code(), Some(0));
}

fn it_keeps_the_privileges_to_change_the_network_and_no_others(backend: Backend) {
    let _namespace = Namespace::enter();
    let folder = Folder::new();
    let mut agent = Agent::start(&folder, backend, &[]);
    agent.wait(1);
    let process = format!("/proc/{}/task", agent.child.id());
    let mut threads = 0;
    for thread in fs::read_dir(process).unwrap() {
        // A thread of the pool for blocking calls may end between the listing and the reading,
        // which is then ENOENT, or ESRCH of a file that was open already (man 5 proc).
        let Ok(status) = fs::read_to_string(thread.unwrap().path().join("status")) else { continue };
        threads += 1;
        let field = |name: &str| {
            let line = status.lines().find(|line| line.starts_with(name)).unwrap();
            line.rsplit('\t').next().unwrap().trim().to_owned()
        };
        // CAP_NET_ADMIN is bit 12, CAP_NET_RAW 13 (linux/capability.h).
        for set in ["CapInh:", "CapPrm:", "CapEff:", "CapBnd:"] {
            assert_eq!(field(set), "0000000000003000", "{set}");
        }
        assert_eq!(field("NoNewPrivs:"), "1");
    }
    // The main thread lives as long as the agent.
    assert!(threads > 0);
    assert!(is_hooked(backend));
}

/// Waits until a ready file is there. That may be a moment after the first pass: the agent
/// judges the flows that it found before it is ready.
pub(crate) fn wait_ready(file: &Path) {
    wait_file(file, |_| true);
}

/// Waits until the ready file has counted so many changes: flows that the last one denies are
/// cut a moment after its pass.
fn wait_count(folder: &Folder, changes: u64) {
    wait_file(&folder.ready(), |text| text == format!("{changes}\n"));
}

fn wait_file(file: &Path, is_wanted: impl Fn(&str) -> bool) {
    let begun = Instant::now();
    loop {
        let found = fs::read_to_string(file).ok();
        if found.as_deref().is_some_and(&is_wanted) {
            return;
        }
        assert!(begun.elapsed() < PATIENCE, "{} has {found:?} after {PATIENCE:?}", file.display());
        thread::sleep(Duration::from_millis(5));
    }
}
