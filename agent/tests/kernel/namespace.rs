//! A network namespace and a `/run` for one test's thread.

use std::cell::Cell;
use std::fs::File;
use std::io::Write as _;
use std::marker::PhantomData;
use std::os::fd::AsRawFd as _;
use std::path::Path;
use std::process::{Command, Stdio};

use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, setns, unshare};
use nix::unistd::fchdir;

/// The calling thread is in a fresh network namespace until this is dropped, as if it were on
/// another machine; what it starts is in there too. Of one thread, so it cannot be sent.
pub(crate) struct Namespace {
    before: File,
    /// The file system as it was before, of the outermost one: those inside it are of the same
    /// machine.
    file_system: Option<FileSystem>,
    of_one_thread: PhantomData<*const ()>,
}

/// A view of the file system, and the working directory in it.
struct FileSystem {
    mounts: File,
    working: File,
}

thread_local! {
    /// Whether the thread has a `/run` of its own.
    static HAS_RUN: Cell<bool> = const { Cell::new(false) };
}

impl Namespace {
    /// Enters a namespace with nothing in it but loopback, which is up. The `/run` is empty: tests
    /// that run beside each other would else wait for one xtables lock, and some hold it for long.
    pub(crate) fn enter() -> Self {
        let before = File::open("/proc/thread-self/ns/net").unwrap();
        let file_system = (!HAS_RUN.replace(true)).then(FileSystem::leave);
        unshare(CloneFlags::CLONE_NEWNET).expect("these tests need root, to make network namespaces");
        let namespace = Self { before, file_system, of_one_thread: PhantomData };
        run("ip", &["link", "set", "lo", "up"]);
        namespace
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        setns(&self.before, CloneFlags::CLONE_NEWNET).expect("back to where we came from");
        if let Some(before) = self.file_system.take() {
            before.enter();
            HAS_RUN.set(false);
        }
    }
}

impl FileSystem {
    /// Leaves it for one that differs in its `/run`.
    fn leave() -> Self {
        let before =
            Self { mounts: File::open("/proc/thread-self/ns/mnt").unwrap(), working: File::open(".").unwrap() };
        leave_file_system();
        mount(Some("tmpfs"), "/run", Some("tmpfs"), MsFlags::empty(), NONE).unwrap();
        before
    }

    /// Enters it again.
    fn enter(self) {
        // A thread that was started in the other one may still share its working directory.
        unshare(CloneFlags::CLONE_FS).unwrap();
        setns(self.mounts, CloneFlags::CLONE_NEWNS).expect("back to where we came from");
        fchdir(self.working).unwrap();
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

    /// A veth of this name, up, whose other end is over there, up too, by
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

    /// Does something on a thread that is over there.
    pub(crate) fn within<T: Send>(&self, work: impl FnOnce() -> T + Send) -> T {
        std::thread::scope(|scope| {
            let enter = || {
                setns(&self.0, CloneFlags::CLONE_NEWNET).unwrap();
                work()
            };
            scope.spawn(enter).join().unwrap()
        })
    }

    fn path(&self) -> String {
        format!("/proc/{}/fd/{}", std::process::id(), self.0.as_raw_fd())
    }
}

/// Gives the calling thread a view of the file system of its own, until its outermost namespace
/// is dropped.
pub(crate) fn leave_file_system() {
    unshare(CloneFlags::CLONE_NEWNS).expect("root");
    mount(NONE, "/", NONE, MsFlags::MS_REC | MsFlags::MS_PRIVATE, NONE).unwrap();
}

/// Gives the calling thread a file system in which this file is empty, if it is there at all,
/// until its outermost namespace is dropped.
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

/// One command of ip(8), in words that a space separates.
pub(crate) fn ip(command: &str) {
    run("ip", &command.split(' ').collect::<Vec<_>>());
}

/// Makes a file that can be run. Another process writes it: a test's own descriptor would live on in what
/// other tests of this process start at this moment, and the kernel runs nothing that is open for writing.
pub(crate) fn write_program(path: &Path, text: &str) {
    feed("install", &["-m", "755", "/dev/stdin", path.to_str().unwrap()], text);
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
