//! Ready is proved: an agent whose writes are refused, hang or are not done says so. After any
//! failure between two writes, the kernel holds the policies in the end.

use std::fs;
use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::path::PathBuf;
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

use npc_agent::dataplane::backend::Backend;

use super::agent::{Agent, Folder};
use super::namespace::{Beyond, Namespace, output, run, write_program};
use super::{dump, on_both_backends};

on_both_backends!(
    a_restore_that_does_nothing_and_exits_0_is_not_believed,
    a_restore_that_hangs_makes_unready_and_is_killed_with_its_children,
    a_kernel_that_loses_our_rules_and_refuses_them_is_not_ready,
    a_family_that_refuses_keeps_no_rule_from_the_other,
    isolated_pods_on_a_bridge_that_iptables_does_not_see_make_unready,
    chains_that_go_between_their_commit_and_the_jump_come_back,
    a_table_flushed_again_and_again_from_the_start_is_whole_once_that_ends,
);

/// Far longer than anything here takes.
const PATIENCE: Duration = Duration::from_secs(180);

/// In front of the real restore commands, one for each family, that do what a file
/// says: `refuse`, `lie` (do nothing and exit 0), `hang` (with a child), or `flush`,
/// once, right before the jump to our chains goes in.
struct Restore {
    path: String,
    /// Of this agent and who writes beside it, and of no other test.
    lock: String,
    mode: PathBuf,
    hanging: PathBuf,
}

impl Restore {
    fn new(folder: &Folder, backend: Backend, tools: &[&str]) -> Self {
        let (mode, hanging) = (folder.path("mode"), folder.path("hanging"));
        for tool in tools {
            let restore = format!("{tool}-{backend}-restore");
            let real = output("which", &[&restore]);
            let (real, mode, hanging) = (real.trim_end(), mode.display(), hanging.display());
            let script = format!(
                "#!/bin/sh\ncase $(cat {mode} 2>/dev/null) in\n\
                 refuse) echo not today >&2; exit 1;;\n\
                 lie) cat >/dev/null; exit 0;;\n\
                 hang) echo $$ >{hanging}.new; mv {hanging}.new {hanging}; sleep 1000; exit 0;;\n\
                 flush) text=$(cat)\n\
                 case $text in *'-I FORWARD 1 -j NPC-FORWARD'*) rm {mode}; {tool}-{backend} -F; {tool}-{backend} -X;; esac\n\
                 echo \"$text\" | {real} \"$@\"; exit;;\n\
                 esac\nexec {real} \"$@\"\n"
            );
            write_program(&folder.path(&restore), &script);
        }
        let path = format!("{}:{}", folder.path("").display(), std::env::var("PATH").unwrap());
        Self { path, lock: folder.path("xtables.lock").display().to_string(), mode, hanging }
    }

    fn does(&self, what: &str) {
        let beside = self.mode.with_extension("new");
        fs::write(&beside, what).unwrap();
        fs::rename(&beside, &self.mode).unwrap();
    }

    fn start(&self, folder: &Folder, backend: Backend) -> Agent {
        self.start_with(folder, backend, &[])
    }

    fn start_with(&self, folder: &Folder, backend: Backend, environment: &[(&str, &str)]) -> Agent {
        let ours = [("PATH", self.path.as_str()), ("XTABLES_LOCKFILE", &self.lock)];
        Agent::start_with(folder, backend, &[], &[&ours[..], environment].concat())
    }
}

/// Tries again and again, in bounds that mean that it never will be.
fn wait_until(what: &str, mut is: impl FnMut() -> bool) {
    let begun = Instant::now();
    while !is() {
        assert!(begun.elapsed() < PATIENCE, "not within {PATIENCE:?}: {what}");
        thread::sleep(Duration::from_millis(20));
    }
}

/// What `/readyz` answers, its status first.
fn readyz() -> String {
    let mut stream = TcpStream::connect("127.0.0.1:10901").unwrap();
    stream.write_all(b"GET /readyz HTTP/1.0\r\n\r\n").unwrap();
    let mut text = String::new();
    stream.read_to_string(&mut text).unwrap();
    text.split_once(' ').unwrap().1.to_owned()
}

fn is_ready(folder: &Folder) -> bool {
    folder.path("ready").exists() && readyz().starts_with("200")
}

fn is_unready(folder: &Folder) -> bool {
    !folder.path("ready").exists() && readyz().starts_with("503")
}

fn is_hooked_in(tool: &str, backend: Backend) -> bool {
    let listed = output(&format!("{tool}-{backend}"), &["-S", "FORWARD"]);
    listed.lines().find(|line| line.starts_with("-A ")) == Some("-A FORWARD -j NPC-FORWARD")
}

/// What is ours in the kernel, sorted.
fn ours(backend: Backend) -> Vec<String> {
    let mut lines = dump(backend);
    lines.retain(|line| ["NPC-", "npc4-", "npc6-"].iter().any(|name| line.contains(name)));
    lines.sort();
    lines
}

/// What an agent writes for these objects where nothing goes wrong.
fn undisturbed(folder: &Folder, backend: Backend) -> Vec<String> {
    let _namespace = Namespace::enter();
    Agent::start(folder, backend, &[]).wait(1);
    ours(backend)
}

fn a_restore_that_does_nothing_and_exits_0_is_not_believed(backend: Backend) {
    let _namespace = Namespace::enter();
    let folder = Folder::new();
    let restore = Restore::new(&folder, backend, &["iptables", "ip6tables"]);
    restore.does("lie");
    let mut agent = restore.start(&folder, backend);
    let first =
        agent.entry(|entry| entry["generation"].is_u64() || entry.to_string().contains("ruleset not programmed"));
    assert!(first["error"].is_string(), "it takes for written what is not: {first}");
    assert!(is_unready(&folder), "{}", readyz());
    restore.does("work");
    agent.wait(1);
    wait_until("it is ready", || is_ready(&folder));
    // And in life: an edit that is not done is not ready for long.
    restore.does("lie");
    folder.write("more.yaml", MORE);
    agent.wait_for("ruleset not programmed");
    wait_until("it is not ready", || is_unready(&folder));
    restore.does("work");
    agent.wait(2);
    wait_until("it is ready", || is_ready(&folder));
}

/// Isolates web pods for egress.
const MORE: &str = "apiVersion: networking.k8s.io/v1\nkind: NetworkPolicy\nmetadata: {name: web, namespace: shop}\n\
                    spec:\n  podSelector: {matchLabels: {app: web}}\n  policyTypes: [Egress]\n";

fn a_restore_that_hangs_makes_unready_and_is_killed_with_its_children(backend: Backend) {
    let _namespace = Namespace::enter();
    let folder = Folder::new();
    let restore = Restore::new(&folder, backend, &["iptables", "ip6tables"]);
    // Longer than until an agent is unready whose update is not done.
    let mut agent = restore.start_with(&folder, backend, &[("NPC_PROGRAM_LIMIT", "15")]);
    agent.wait(1);
    wait_until("it is ready", || is_ready(&folder));
    restore.does("hang");
    folder.write("more.yaml", MORE);
    wait_until("it is not ready", || is_unready(&folder));
    let group: i32 = fs::read_to_string(&restore.hanging).unwrap().trim().parse().unwrap();
    restore.does("work");
    let killed = agent.wait_for("because it had not ended");
    assert!(killed.to_string().contains("after 15 s"), "{killed}");
    wait_until("its children are gone too", || running(group).is_empty());
    agent.wait(2);
    wait_until("it is ready", || is_ready(&folder));
}

/// The processes of a group that have not ended.
fn running(group: i32) -> Vec<String> {
    let all =
        fs::read_dir("/proc").unwrap().filter_map(|entry| fs::read_to_string(entry.ok()?.path().join("stat")).ok());
    // 1234 (sleep) S 1 GROUP …
    let is_running = |stat: &String| {
        let mut words = stat.rsplit_once(") ").map_or("", |(_, rest)| rest).split(' ');
        words.next() != Some("Z") && words.nth(1) == Some(&group.to_string())
    };
    all.filter(is_running).collect()
}

fn a_kernel_that_loses_our_rules_and_refuses_them_is_not_ready(backend: Backend) {
    let _namespace = Namespace::enter();
    let folder = Folder::new();
    let restore = Restore::new(&folder, backend, &["iptables", "ip6tables"]);
    let mut agent = restore.start(&folder, backend);
    agent.wait(1);
    let enforced = ours(backend);
    restore.does("refuse");
    run(&format!("iptables-{backend}"), &["-F"]);
    wait_until("it is not ready", || is_unready(&folder));
    restore.does("work");
    agent.wait(1);
    wait_until("it is ready", || is_ready(&folder));
    assert_eq!(ours(backend), enforced);
}

fn a_family_that_refuses_keeps_no_rule_from_the_other(backend: Backend) {
    for (broken, whole, family) in [("iptables", "ip6tables", "IPv4"), ("ip6tables", "iptables", "IPv6")] {
        let _namespace = Namespace::enter();
        let folder = Folder::new();
        let restore = Restore::new(&folder, backend, &[broken]);
        restore.does("refuse");
        let mut agent = restore.start(&folder, backend);
        let entry = agent.wait_for("ruleset not programmed");
        assert!(entry["error"].as_str().unwrap().contains(&format!("{family}: ")), "{entry}");
        wait_until("the other family is enforced", || is_hooked_in(whole, backend));
        assert!(!is_hooked_in(broken, backend));
        assert!(is_unready(&folder), "{}", readyz());
        // And its pods come and go, sooner than the next try of the broken one.
        let address = if whole == "iptables" { "npc4-ingress 10.244.1.7" } else { "npc6-ingress fd00::7" };
        folder.write_pod("db-2", "db", 7);
        wait_until("a new pod is isolated", || dump(backend).contains(&format!("add {address}")));
        restore.does("work");
        agent.wait(2);
        assert!(is_hooked_in(broken, backend));
        wait_until("it is ready", || is_ready(&folder));
    }
}

fn chains_that_go_between_their_commit_and_the_jump_come_back(backend: Backend) {
    let folder = Folder::new();
    let enforced = undisturbed(&folder, backend);
    let _namespace = Namespace::enter();
    let restore = Restore::new(&folder, backend, &["iptables", "ip6tables"]);
    restore.does("flush");
    let mut agent = restore.start(&folder, backend);
    agent.ignore_log();
    wait_until("all is in the kernel", || ours(backend) == enforced);
    wait_until("it is ready", || is_ready(&folder));
    // In life: the jump goes, and while it is put back, the chains.
    restore.does("flush");
    run(&format!("iptables-{backend}"), &["-D", "FORWARD", "-j", "NPC-FORWARD"]);
    wait_until("the jump is written", || !restore.mode.exists());
    wait_until("all is in the kernel again", || ours(backend) == enforced);
    wait_until("it is ready again", || is_ready(&folder));
}

fn isolated_pods_on_a_bridge_that_iptables_does_not_see_make_unready(backend: Backend) {
    let _namespace = Namespace::enter();
    let beyond = Beyond::new();
    run("ip", &["link", "add", "cbr0", "up", "type", "bridge"]);
    run("ip", &["address", "add", "10.244.1.254/24", "dev", "cbr0"]);
    for port in ["veth1", "veth2"] {
        beyond.veth(port);
        run("ip", &["link", "set", port, "master", "cbr0"]);
    }
    let switch = |value: &str| {
        for switch in ["bridge-nf-call-iptables", "bridge-nf-call-ip6tables"] {
            fs::write(format!("/proc/sys/net/bridge/{switch}"), value).unwrap();
        }
    };
    switch("0");
    let folder = Folder::new();
    let mut agent = Agent::start(&folder, backend, &[]);
    let said = agent.wait_for("not ready: ");
    assert!(said["message"].as_str().unwrap().contains("over the bridge cbr0"), "{said}");
    agent.wait(1);
    assert!(is_hooked_in("iptables", backend) && is_unready(&folder), "{}", readyz());
    // Nothing reports it, and the agent notices it.
    switch("1");
    wait_until("it is ready", || is_ready(&folder));
    switch("0");
    wait_until("it is not ready", || is_unready(&folder));
}

/// With this many groups, loading them takes a while.
const GROUPS: u8 = 200;

/// How often another program flushes the table, and for how long it rests.
const FLUSHES: usize = 20;
const REST: Duration = Duration::from_secs(1);

fn a_table_flushed_again_and_again_from_the_start_is_whole_once_that_ends(backend: Backend) {
    let folder = Folder::new();
    for n in 10..10 + GROUPS {
        folder.write_pod(&format!("app-{n}"), &format!("a{n}"), n);
        folder.write(
            &format!("policy-{n}.yaml"),
            &format!(
                "apiVersion: networking.k8s.io/v1\nkind: NetworkPolicy\nmetadata: {{name: a{n}, namespace: shop}}\n\
                 spec: {{podSelector: {{matchLabels: {{app: a{n}}}}}, policyTypes: [Ingress, Egress]}}\n"
            ),
        );
    }
    let enforced = undisturbed(&folder, backend);
    let _namespace = Namespace::enter();
    let restore = Restore::new(&folder, backend, &[]);
    let mut agent = restore.start(&folder, backend);
    // It says much of what it finds, and waits for who reads that.
    agent.ignore_log();
    for _ in 0..FLUSHES {
        thread::sleep(REST);
        for tool in ["iptables", "ip6tables"] {
            for arguments in ["-F", "-X"] {
                let mut flush = Command::new(format!("{tool}-{backend}"));
                // What a rule leads to meanwhile cannot go.
                let _ = flush.args(["-w", arguments]).env("XTABLES_LOCKFILE", &restore.lock).output().unwrap();
            }
        }
    }
    wait_until("all is in the kernel", || ours(backend) == enforced);
    wait_until("it is ready", || is_ready(&folder));
    drop(agent);
}
