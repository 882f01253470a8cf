//! A network namespace for one test's thread.

use std::fs::File;
use std::io::Write as _;
use std::marker::PhantomData;
use std::os::fd::AsRawFd as _;
use std::path::Path;
use std::process::{Command, Stdio};

use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, setns, unshare};

/// The calling thread is in a fresh network namespace until this is dropped;
/// what it starts is in there too. Of one thread, so it cannot be sent.
pub(crate) struct Namespace {
    before: File,
    of_one_thread: PhantomData<*const ()>,
}

impl Namespace {
    /// Enters a namespace with nothing in it but loopback, which is up.
    pub(crate) fn enter() -> Self {
        let before = File::open("/proc/thread-self/ns/net").unwrap();
        unshare(CloneFlags::CLONE_NEWNET).expect("these tests need root, to make network namespaces");
        let namespace = Self { before, of_one_thread: PhantomData };
        run("ip", &["link", "set", "lo", "up"]);
        namespace
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        setns(&self.before, CloneFlags::CLONE_NEWNET).expect("back to where we came from");
    }
}

/// Another network namespace, for the other ends of veths, as long as this lasts.
pub(crate) struct Beyond(File);

impl Beyond {
    pub(crate) fn new() -> Self {
        let make = || {
            unshare(CloneFlags::CLONE_NEWNET).expect("these tests need root, to make network namespaces");
            File::open("/proc/thread-self/ns/net").unwrap()
        };
        Self(std::thread::spawn(make).join().unwrap())
    }

    /// A veth of this name, up, of which the other end is over there, up too, by
    /// the name with `-p` behind it.
    pub(crate) fn veth(&self, name: &str) {
        let peer = format!("{name}-p");
        run("ip", &["link", "add", name, "type", "veth", "peer", "name", &peer, "netns", &self.path()]);
        run("ip", &["link", "set", name, "up"]);
        self.up(&peer);
    }

    /// Puts a link of the calling thread's namespace over there.
    pub(crate) fn take(&self, name: &str) {
        run("ip", &["link", "set", name, "netns", &self.path()]);
    }

    /// Lets a link that is there be up.
    pub(crate) fn up(&self, name: &str) {
        self.ip(&format!("link set {name} up"));
    }

    /// Runs `ip` over there.
    pub(crate) fn ip(&self, command: &str) {
        let net = format!("--net={}", self.path());
        run("nsenter", &[&[net.as_str(), "ip"], &command.split(' ').collect::<Vec<_>>()[..]].concat());
    }

    fn path(&self) -> String {
        format!("/proc/{}/fd/{}", std::process::id(), self.0.as_raw_fd())
    }
}

/// Gives the calling thread a view of the file system of its own, for good.
pub(crate) fn leave_file_system() {
    unshare(CloneFlags::CLONE_NEWNS).expect("root");
    mount(NONE, "/", NONE, MsFlags::MS_REC | MsFlags::MS_PRIVATE, NONE).unwrap();
}

/// Does something in a thread with a network namespace and an xtables lock of its own. All tests
/// share the lock of the machine, and each gives up if another holds it for long.
pub(crate) fn with_own_lock(test: impl FnOnce() + Send + 'static) {
    // In a thread of its own, because it leaves the file system of the others.
    let inside = move || {
        let _namespace = Namespace::enter();
        leave_file_system();
        mount(Some("tmpfs"), "/run", Some("tmpfs"), MsFlags::empty(), NONE).unwrap();
        test();
    };
    std::thread::spawn(inside).join().unwrap();
}

/// Gives the calling thread, for good, a file system in which this file is
/// empty, if it is there at all.
pub(crate) fn hide_file(path: &Path) {
    leave_file_system();
    if path.exists() {
        mount(Some("/dev/null"), path, NONE, MsFlags::MS_BIND, NONE).unwrap();
    }
}

const NONE: Option<&str> = None;

/// Runs a command that has to work.
pub(crate) fn run(program: &str, args: &[&str]) {
    output(program, args);
}

/// What a command that has to work prints.
pub(crate) fn output(program: &str, args: &[&str]) -> String {
    feed(program, args, "")
}

/// As [`output`], with a text on its standard input.
pub(crate) fn feed(program: &str, args: &[&str], input: &str) -> String {
    let mut child = Command::new(program)
        .args(args)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap_or_else(|error| panic!("{program}: {error}"));
    child.stdin.take().unwrap().write_all(input.as_bytes()).unwrap();
    let output = child.wait_with_output().unwrap();
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{program} {args:?}: {stderr}");
    String::from_utf8(output.stdout).unwrap()
}
