//! One agent in a network namespace: the real `npc agent` and `npc cleanup` beside each other,
//! beside an agent of before the lock, and beside a process that pretends to be one.

use std::fs;
use std::io::{BufRead as _, BufReader};
use std::os::linux::net::SocketAddrExt as _;
use std::os::unix::net::{SocketAddr, UnixListener};
use std::process::{Child, Command, Output, Stdio};
use std::thread;

use nix::mount::{MsFlags, mount};
use nix::sys::signal::Signal;
use npc_agent::dataplane::backend::Backend;
use npc_agent::dataplane::notifications::Notifications;
use npc_agent::instance;
use rustix::thread::{Uid, set_thread_uid};

use super::agent::{Agent, Folder, is_hooked, ready};
use super::dump;
use super::namespace::{Namespace, leave_file_system, run};

/// Answers each connection to the socket @npc-agent as an agent of before the lock does. Perl
/// is on every Debian machine.
const PRETEND: &str = r#"
use Socket;
socket(my $listener, AF_UNIX, SOCK_STREAM, 0) or die "socket: $!";
bind($listener, pack_sockaddr_un("\0npc-agent")) or die "bind: $!";
listen($listener, 8) or die "listen: $!";
$| = 1;
print "listens\n";
while (accept(my $asked, $listener)) {
    syswrite $asked, '{"apiVersion":"npc.dev/v1alpha1","kind":"AgentStatus","version":"0.1.0"}';
    close $asked;
}
"#;

/// A process that has the socket and answers as an agent does.
struct Pretender(Child);

impl Pretender {
    /// A process of root's, started through this program.
    fn start(through: &[&str]) -> Self {
        let words = [through, &["perl", "-e", PRETEND][..]].concat();
        let mut child = Command::new(words[0]).args(&words[1..]).stdout(Stdio::piped()).spawn().unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
        assert_eq!(line, "listens\n");
        Self(child)
    }
}

impl Drop for Pretender {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Leaves root without the privilege to change the network.
const UNPRIVILEGED: [&str; 3] = ["setpriv", "--bounding-set=-net_admin", "--inh-caps=-net_admin"];

/// Leaves root with the privileges of an agent, and no other.
const PRIVILEGED: [&str; 3] = ["setpriv", "--bounding-set=-all,+net_admin,+net_raw", "--inh-caps=-all"];

/// Puts what follows into a namespace of processes of its own.
const CONTAINER: [&str; 4] = ["unshare", "--pid", "--fork", "--kill-child"];

fn cleanup() -> Output {
    Command::new(env!("CARGO_BIN_EXE_npc")).arg("cleanup").output().unwrap()
}

/// An agent that sees no process but its own.
fn contained(folder: &Folder) -> Agent {
    let mut command = Command::new(CONTAINER[0]);
    command.args(&CONTAINER[1..]).arg("--mount-proc").arg(env!("CARGO_BIN_EXE_npc"));
    Agent::run(Agent::arguments(&mut command, folder, Backend::Nft))
}

#[test]
fn a_second_agent_is_refused_in_words_and_the_next_one_is_not() {
    let _namespace = Namespace::enter();
    let folder = Folder::new();
    let mut agent = Agent::start(&folder, Backend::Nft, &[]);
    agent.wait(1);
    for more in [&["--once"][..], &[]] {
        let mut second = Agent::start(&folder, Backend::Legacy, more);
        let (code, said) = second.ended();
        assert_eq!(code, Some(2));
        assert!(said.contains(&format!("already (process {})", agent.id())), "{said}");
    }
    assert_eq!(ready(&folder).as_deref(), Some("1\n"), "the first one's stays");
    {
        let _elsewhere = Namespace::enter();
        let mut once = Agent::start(&folder, Backend::Nft, &["--once"]);
        assert_eq!(once.child.wait().unwrap().code(), Some(0));
    }
    agent.end(Signal::SIGKILL);
    // While it ran, it would have put everything back.
    run(env!("CARGO_BIN_EXE_npc"), &["cleanup"]);
    assert!(!is_hooked(Backend::Nft));
    Agent::start(&folder, Backend::Nft, &[]).wait(1);
    assert!(is_hooked(Backend::Nft));
}

#[test]
fn cleanup_beside_an_agent_is_refused_and_removes_nothing() {
    let _namespace = Namespace::enter();
    let folder = Folder::new();
    let mut agent = Agent::start(&folder, Backend::Nft, &[]);
    agent.wait(1);
    let before = dump(Backend::Nft);
    let cleanup = || Command::new(env!("CARGO_BIN_EXE_npc")).arg("cleanup").output().unwrap();
    let refused = cleanup();
    let said = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert_eq!(refused.status.code(), Some(2), "{said}");
    assert!(said.contains(&format!("(process {})", agent.id())), "{said}");
    assert!(said.contains("End it first"), "{said}");
    assert_eq!(dump(Backend::Nft), before);
    agent.end(Signal::SIGTERM);
    assert_eq!(cleanup().status.code(), Some(0));
    assert!(!is_hooked(Backend::Nft));
}

#[test]
fn a_socket_that_another_user_holds_hinders_no_agent() {
    let _namespace = Namespace::enter();
    let folder = Folder::new();
    let name = SocketAddr::from_abstract_name("npc-agent").unwrap();
    let held = thread::spawn(move || {
        // Of this thread only, by the system call itself.
        set_thread_uid(Uid::from_raw(65534)).unwrap();
        UnixListener::bind_addr(&name).unwrap()
    });
    let _held = held.join().unwrap();
    let mut agent = Agent::start(&folder, Backend::Nft, &[]);
    agent.wait_for("a user other than root");
    agent.wait(1);
    assert!(is_hooked(Backend::Nft));
}

/// An agent that was killed while it started a process leaves its sockets with that
/// one for a moment.
#[test]
fn a_socket_that_an_ended_agent_leaves_for_a_moment_hinders_none() {
    let _namespace = Namespace::enter();
    let folder = Folder::new();
    let name = SocketAddr::from_abstract_name("npc-agent").unwrap();
    let held = UnixListener::bind_addr(&name).unwrap();
    let mut agent = Agent::start(&folder, Backend::Nft, &[]);
    let asking = held.accept().unwrap();
    drop(held);
    drop(asking);
    agent.wait(1);
    assert!(is_hooked(Backend::Nft));
}

#[test]
fn a_process_that_only_pretends_to_be_an_agent_hinders_none_and_cleanup_neither() {
    let _namespace = Namespace::enter();
    let folder = Folder::new();
    let _pretender = Pretender::start(&UNPRIVILEGED);
    let mut agent = Agent::start(&folder, Backend::Nft, &[]);
    agent.wait_for("an unidentified process holds the socket");
    agent.wait(1);
    assert!(is_hooked(Backend::Nft));
    // It is known by its lock, and answers on a socket of its own.
    let refused = cleanup();
    assert_eq!(refused.status.code(), Some(2));
    let said = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert!(said.contains(&format!("(process {})", agent.id())), "{said}");
    assert!(is_hooked(Backend::Nft));
    run(env!("CARGO_BIN_EXE_npc"), &["status"]);
    agent.end(Signal::SIGTERM);
    assert_eq!(cleanup().status.code(), Some(0));
    assert!(!is_hooked(Backend::Nft));
}

#[test]
fn another_user_who_takes_the_socket_first_lets_no_cleanup_pass_beside_an_agent() {
    let _namespace = Namespace::enter();
    let folder = Folder::new();
    let _pretender = Pretender::start(&["setpriv", "--reuid=65534", "--clear-groups"]);
    let mut agent = Agent::start(&folder, Backend::Nft, &[]);
    agent.wait_for("a user other than root");
    agent.wait(1);
    assert_eq!(cleanup().status.code(), Some(2));
    assert!(is_hooked(Backend::Nft));
    let (code, _) = Agent::start(&folder, Backend::Nft, &[]).ended();
    assert_eq!(code, Some(2));
}

#[test]
fn an_agent_of_before_the_lock_and_todays_exclude_each_other() {
    let _namespace = Namespace::enter();
    let folder = Folder::new();
    let older = Pretender::start(&PRIVILEGED);
    let (code, said) = Agent::start(&folder, Backend::Nft, &[]).ended();
    assert_eq!(code, Some(2));
    assert!(said.contains(&format!("already (process {})", older.0.id())), "{said}");
    assert_eq!(cleanup().status.code(), Some(2));
    drop(older);
    let mut agent = Agent::start(&folder, Backend::Nft, &[]);
    agent.wait(1);
    let name = SocketAddr::from_abstract_name("npc-agent").unwrap();
    assert!(UnixListener::bind_addr(&name).is_err(), "an older agent finds the socket taken");
}

#[test]
fn what_an_agent_cannot_see_is_an_older_one_only_if_an_agent_follows_nf_tables() {
    let _namespace = Namespace::enter();
    let folder = Folder::new();
    let _pretender = Pretender::start(&[&CONTAINER[..], &UNPRIVILEGED].concat());
    {
        let mut agent = contained(&folder);
        agent.wait_for("an unidentified process holds the socket");
        agent.wait(1);
    }
    let _older = Notifications::open(Backend::Nft).unwrap();
    let (code, said) = contained(&folder).ended();
    assert_eq!(code, Some(2), "{said}");
    assert!(said.contains("an agent runs in this network namespace already"), "{said}");
}

#[test]
fn without_a_lock_the_socket_still_keeps_a_second_agent_and_cleanup_away() {
    // In a thread of its own, because it leaves the file system of the others.
    let test = || {
        let _namespace = Namespace::enter();
        leave_file_system();
        mount(Some("tmpfs"), "/run", Some("tmpfs"), MsFlags::MS_RDONLY, None::<&str>).unwrap();
        let folder = Folder::new();
        let mut agent = Agent::start(&folder, Backend::Nft, &[]);
        let entry = agent.wait_for("nothing keeps a second agent");
        assert!(entry["error"].as_str().unwrap().contains("/run/npc"), "{entry}");
        agent.wait(1);
        let (code, _) = Agent::start(&folder, Backend::Nft, &[]).ended();
        assert_eq!(code, Some(2));
        let refused = cleanup();
        assert_eq!(refused.status.code(), Some(2));
        assert!(String::from_utf8_lossy(&refused.stderr).contains("cannot make the lock"), "{refused:?}");
        assert!(is_hooked(Backend::Nft));
    };
    thread::spawn(test).join().unwrap();
}

#[test]
fn an_agent_that_ends_leaves_no_file_beside_the_cni_plugins() {
    let _namespace = Namespace::enter();
    let folder = Folder::new();
    let socket = instance::status_socket().unwrap();
    let lock = socket.with_extension("lock");
    let mut agent = Agent::start(&folder, Backend::Nft, &[]);
    agent.wait(1);
    assert!(socket.exists() && lock.exists());
    assert_eq!(agent.end(Signal::SIGTERM).code(), Some(0));
    assert!(!socket.exists() && !lock.exists());
    // The next one after one that was killed.
    Agent::start(&folder, Backend::Nft, &[]).wait(1);
    Agent::start(&folder, Backend::Nft, &["--once"]).ended();
    assert!(!socket.exists() && !lock.exists());
}

#[test]
fn the_ready_file_of_an_agent_that_was_killed_goes_also_if_the_next_one_cannot_start() {
    let _namespace = Namespace::enter();
    let folder = Folder::new();
    let leave = || fs::write(folder.ready(), "7\n").unwrap();
    leave();
    // No iptables is there.
    let (code, _) = Agent::start_with(&folder, Backend::Nft, &[], &[("PATH", "/nowhere")]).ended();
    assert_eq!((code, ready(&folder)), (Some(1), None));
    leave();
    let mut agent = Agent::start(&folder, Backend::Nft, &[]);
    agent.wait(1);
    assert_eq!(ready(&folder).as_deref(), Some("1\n"));
    agent.end(Signal::SIGTERM);
    assert_eq!(ready(&folder), None, "an agent that has ended is not ready");
    Agent::start(&folder, Backend::Nft, &["--once"]).ended();
    assert_eq!(ready(&folder).as_deref(), Some("1\n"), "what was programmed once is");
}

#[test]
fn the_ready_file_is_written_through_no_link() {
    let _namespace = Namespace::enter();
    let folder = Folder::new();
    let target = folder.path("target");
    fs::write(&target, "root\n").unwrap();
    std::os::unix::fs::symlink(&target, folder.path("ready.new")).unwrap();
    let mut agent = Agent::start(&folder, Backend::Nft, &[]);
    agent.wait(1);
    assert_eq!(fs::read_to_string(&target).unwrap(), "root\n");
    assert_eq!(ready(&folder).as_deref(), Some("1\n"));
    assert!(fs::symlink_metadata(folder.ready()).unwrap().is_file());
}
